package replica_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/latchkey/latchkey/edge/internal/replica"
	"github.com/latchkey/latchkey/pkg/entitlement"
	"github.com/latchkey/latchkey/replication"
	"github.com/latchkey/latchkey/replication/replicationtest"
)

const rules = 1

func account(i, version int) replication.Record {
	key := fmt.Sprintf("acc_%05d", i)
	value := fmt.Appendf(nil, "%s version %d ", key, version)
	return replication.Record{Env: entitlement.Sandbox, Kind: replication.KindAccount, Key: key, Value: append(value, bytes.Repeat([]byte{'x'}, 500)...)}
}

func newWriter(t testing.TB, accounts int) *replicationtest.Writer {
	t.Helper()
	w, err := replicationtest.New("test-cluster")
	if err != nil {
		t.Fatal(err)
	}
	for i := range accounts {
		w.Put(account(i, 0))
	}
	return w
}

func open(t testing.TB, dir string) *replica.Replica {
	t.Helper()
	r, err := replica.Open(replica.Config{Dir: dir, Rules: rules})
	if err != nil {
		t.Fatalf("Open(%s): %v", dir, err)
	}
	return r
}

// bootstrap gives r the writer's present records.
func bootstrap(t testing.TB, r *replica.Replica, w *replicationtest.Writer) {
	t.Helper()
	body, m, _, err := w.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	c, err := r.Build(context.Background(), m, bytes.NewReader(body))
	if err != nil {
		t.Fatalf("Build: %v", err)
	}
	if err := r.Adopt(c); err != nil {
		t.Fatalf("Adopt: %v", err)
	}
}

// follow applies what the writer has beyond r.
func follow(t testing.TB, r *replica.Replica, w *replicationtest.Writer) {
	t.Helper()
	b, err := w.Batch(r.Head().N, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Apply(w.Position(), b.Changes); err != nil {
		t.Fatalf("Apply to %s: %v", w.Position().Revision(), err)
	}
}

// same fails unless r has exactly the writer's records (I6).
func same(t testing.TB, r *replica.Replica, w *replicationtest.Writer) {
	t.Helper()
	if got, want := r.Head().Position, w.Position(); got != want {
		t.Fatalf("Head() = %+v, want %+v", got, want)
	}
	for _, want := range w.Records() {
		got, _, found, err := r.Lookup(want.Env, want.Kind, want.Key)
		if err != nil || !found || !bytes.Equal(got, want.Value) {
			t.Fatalf("Lookup(%s) = %q, %t, %v, want %q", want.DBKey(), got, found, err, want.Value)
		}
	}
}

func waitProven(t testing.TB, r *replica.Replica) {
	t.Helper()
	deadline := time.After(30 * time.Second)
	for {
		updated := r.Updated()
		if r.Proven() {
			return
		}
		select {
		case <-updated:
		case <-deadline:
			t.Fatal("replica not proven within 30 s")
		}
	}
}

// TestTheReplicaIsTheWritersState is I6 through snapshot, batches, deletion and reopening.
func TestTheReplicaIsTheWritersState(t *testing.T) {
	w := newWriter(t, 300)
	dir := t.TempDir()
	r := open(t, dir)
	if got := r.Head(); got.Epoch != 0 {
		t.Fatalf("Head of an empty replica = %+v", got)
	}
	if _, _, _, err := r.Lookup(entitlement.Sandbox, replication.KindAccount, "acc_00001"); !errors.Is(err, replication.ErrNoData) {
		t.Fatalf("Lookup in an empty replica: %v, want ErrNoData", err)
	}
	bootstrap(t, r, w)
	same(t, r, w)
	for round := range 20 {
		for i := range 15 {
			w.Put(account((round*31+i*7)%400, round+1))
		}
		w.Put(account(5, round+100), account(5, round+200)) // twice in one batch
		if round%5 == 4 {
			gone := account(round, 0)
			gone.Value = nil
			w.Put(gone)
		}
		follow(t, r, w)
		same(t, r, w)
	}
	if err := r.Advance(replication.Head{Position: w.Position(), AsOf: 1_700_000_000}); err != nil {
		t.Fatal(err)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	r = open(t, dir)
	defer r.Close()
	same(t, r, w)
	if got := r.Head().AsOf; got != 1_700_000_000 {
		t.Errorf("as_of after reopening = %d", got)
	}
	waitProven(t, r)
	if _, _, found, err := r.Lookup(entitlement.Sandbox, replication.KindAccount, "acc_nobody"); found || err != nil {
		t.Errorf("Lookup of nobody once proven = %t, %v, want not found", found, err)
	}
	if files, _ := filepath.Glob(filepath.Join(dir, "*.db")); len(files) != 1 {
		t.Errorf("files left: %v", files)
	}
}

// TestAKilledEdgeKnowsOfTheLastSeconds: as_of leaps where heads came late and are followed by one that did not. What is on the disk then is still three seconds behind
// at most, as after any other.
func TestAKilledEdgeKnowsOfTheLastSeconds(t *testing.T) {
	w, dir := newWriter(t, 10), t.TempDir()
	r := open(t, dir)
	defer r.Close()
	bootstrap(t, r, w)
	const last = 1_700_000_010
	for _, asOf := range []int64{last - 10, last - 8, last} {
		if err := r.Advance(replication.Head{Position: w.Position(), AsOf: asOf}); err != nil {
			t.Fatal(err)
		}
	}
	killed := filepath.Join(t.TempDir(), "as a power cut leaves it")
	if err := os.CopyFS(killed, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	again := open(t, killed)
	defer again.Close()
	if got := again.Head().AsOf; got > last || got < last-3 {
		t.Errorf("as_of after a kill = %d, before it was %d, want it 3 s behind at most", got, last)
	}
}
