package writer

import (
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/latchkey/latchkey/replication"
	"github.com/latchkey/latchkey/writer/internal/store"
)

// This file shows what a restore does to writers: a restored one says nothing before its epoch has begun, and one of the old history stops for
// good when it is shown that it has ended, by whoever comes with a signature.

// backupOf backs a running writer up.
func backupOf(t testing.TB, w *testWriter) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "backup")
	if _, err := NewOperator(w.cfg.Node.DataDir).Backup(t.Context(), path, false, nil, nil); err != nil {
		t.Fatal(err)
	}
	return path
}

// restoredFrom restores a backup into another data folder of each configuration, on addresses of its own.
func restoredFrom(t testing.TB, backup string, configs []Config) []Config {
	t.Helper()
	voters := make([]VoterConfig, len(configs))
	next := make([]Config, len(configs))
	for i, c := range configs {
		c.listeners = listeners{public: loopback(t), internal: loopback(t), raft: loopback(t)}
		c.Node.DataDir += "r"
		c.Node.Listen, c.Node.InternalListen, c.Node.RaftListen = c.listeners.public.Addr().String(), c.listeners.internal.Addr().String(), c.listeners.raft.Addr().String()
		voters[i] = VoterConfig{ID: c.Node.ID, Raft: c.Node.RaftListen, Internal: "http://" + c.Node.InternalListen}
		next[i] = c
	}
	for i := range next {
		next[i].Cluster.Voters = voters
		if _, err := store.Restore(t.Context(), next[i].RestoreConfig(false), backup); err != nil {
			t.Fatal(err)
		}
	}
	return next
}

// close makes the addresses those of a node that is gone: whoever connects is refused at once.
func (l listeners) close(t testing.TB) {
	t.Helper()
	if err := errors.Join(l.public.Close(), l.internal.Close(), l.raft.Close()); err != nil {
		t.Fatal(err)
	}
}

// again is cfg for another start on the same addresses.
func again(t testing.TB, cfg Config) Config {
	t.Helper()
	cfg.listeners = listeners{public: loopback(t), internal: loopback(t), raft: loopback(t)}
	return cfg
}

func TestARestoredWriterSaysNothingBeforeItsEpoch(t *testing.T) {
	old := testConfigs(t, 3)
	old[2].listeners.close(t)
	first := startWriter(t, old[0])
	second := startWriter(t, old[1])
	first.awaitReady()
	account := first.account()
	configs := restoredFrom(t, backupOf(t, first), old)
	first.stop()
	second.stop()

	configs[2].listeners.close(t)
	w1 := startWriter(t, configs[0])
	ready := w1.get("/readyz")
	if ready.status != http.StatusServiceUnavailable || !strings.Contains(ready.text, `"epoch"`) {
		t.Errorf("GET /readyz = %d %s, want 503 and the reason epoch", ready.status, ready.text)
	}
	for path, want := range map[string]int{"/healthz": 200, "/status": 200, "/metrics": 200, "/v1/accounts/" + account: 503, "/v1/catalog": 503} {
		if r := w1.do("GET", path, "", auth(serverKey)); r.status != want {
			t.Errorf("GET %s = %d %s, want %d", path, r.status, r.text, want)
		}
	}
	if r := w1.stripe(event(unique("evt_"), "customer.created", object{"id": "cus_1", "object": "customer"})); r.status != http.StatusServiceUnavailable {
		t.Errorf("a webhook = %d, want 503", r.status)
	}
	for _, path := range []string{replication.HeadPath, replication.SnapshotPath, replication.ChangesPath + "?epoch=1&after=0&wait=0"} {
		if r := w1.internal("GET", path, "", nil); r.status != http.StatusServiceUnavailable {
			t.Errorf("GET %s = %d, want 503", path, r.status)
		}
	}

	w2 := startWriter(t, configs[1])
	w1.awaitReady()
	w2.awaitReady()
	if r := w2.api("GET", "/v1/accounts/"+account, ""); r.status != http.StatusOK {
		t.Errorf("the account after the restore = %d %s", r.status, r.text)
	}
	if p := w1.store.Position(); p.Epoch < 1_700_000_000 {
		t.Errorf("the new epoch is %d, want the time of the command", p.Epoch)
	}
	// Changes of before are another history, and what an edge of before must do is take a snapshot.
	if r := w1.internal("GET", replication.ChangesPath+"?epoch=1&after=1&wait=0", "", nil); r.slug() != "other-history" {
		t.Errorf("changes of the old epoch = %d %s", r.status, r.text)
	}
}

func TestAWriterThatIsShownANewerHistoryStopsForGood(t *testing.T) {
	tests := []struct {
		name string
		show func(t *testing.T, old *testWriter, head string)
	}{
		{"by an edge, or anybody", func(t *testing.T, old *testWriter, head string) {
			if r := old.internal("POST", replication.HeadPath, head, nil); r.status != http.StatusOK {
				t.Errorf("POST head = %d %s", r.status, r.text)
			}
		}},
		{"by NATS", func(_ *testing.T, old *testWriter, head string) { old.headFromNATS([]byte(head)) }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			configs := testConfigs(t, 1)
			old := startWriter(t, configs[0])
			old.awaitReady()
			next := startWriter(t, restoredFrom(t, backupOf(t, old), configs)[0])
			next.awaitReady()
			await(t, "a head of each epoch", func() bool { return old.newestHead() != nil && next.newestHead() != nil })
			own, newer := old.newestHead().signed, next.newestHead().signed

			for what, head := range map[string]string{"nothing": "", "words": "superseded", "its own head": own, "a head with another signature": newer[:len(newer)-8] + "AAAAAAAA",
				"a head whose claims were changed": strings.Replace(newer, ".", ".A", 1)} {
				old.judged = time.Time{}
				tt.show(t, old, head)
				if r := old.get("/readyz"); r.status != http.StatusOK {
					t.Fatalf("after %s: /readyz = %d %s, want 200", what, r.status, r.text)
				}
			}
			if next.internal("POST", replication.HeadPath, own, nil); next.heldBack() != "" {
				t.Error("the newer one is held back by an older head")
			}

			old.judged = time.Time{}
			tt.show(t, old, newer)
			if r := old.get("/readyz"); r.status != http.StatusServiceUnavailable || !strings.Contains(r.text, `"superseded"`) {
				t.Errorf("/readyz = %d %s, want 503 and the reason superseded", r.status, r.text)
			}
			if r := old.get("/status"); !strings.Contains(r.text, `"reasons":["superseded"`) {
				t.Errorf("/status = %s, want the reason superseded", r.text)
			}
			for path, want := range map[string]int{"/healthz": 200, "/status": 200, "/v1/catalog": 503} {
				if r := old.do("GET", path, "", auth(serverKey)); r.status != want {
					t.Errorf("GET %s = %d %s, want %d", path, r.status, r.text, want)
				}
			}
			if r := old.internal("GET", replication.HeadPath, "", nil); r.status != http.StatusServiceUnavailable {
				t.Errorf("its head = %d, want 503", r.status)
			}
			old.stop()
			if w, err := Open(again(t, configs[0])); !errors.Is(err, store.ErrSuperseded) || !strings.Contains(err.Error(), "superseded") {
				t.Errorf("Open = %v, %v, want ErrSuperseded", w, err)
			}
			if r := next.get("/readyz"); r.status != http.StatusOK {
				t.Errorf("the newer one: %d %s", r.status, r.text)
			}
		})
	}
}

// TestWritersLookAtEachOther: an old majority comes back and finds a writer of the new history at an address that it knows.
func TestWritersLookAtEachOther(t *testing.T) {
	configs := testConfigs(t, 2)
	var old []*testWriter
	for _, c := range configs {
		old = append(old, startWriter(t, c))
	}
	old[0].awaitReady()
	backup := backupOf(t, old[0])
	for _, w := range old {
		w.stop()
	}
	var next []*testWriter
	restored := restoredFrom(t, backup, configs)
	for _, c := range restored {
		next = append(next, startWriter(t, c))
	}
	for _, w := range next {
		w.awaitReady()
	}
	// The old w1 believes that the new w2 is its peer; the new one has taken the old one's place.
	back := again(t, configs[0])
	back.Cluster.Voters = []VoterConfig{configs[0].Cluster.Voters[0], restored[1].Cluster.Voters[1]}
	w := startWriter(t, back)
	await(t, "the old writer is superseded", func() bool { return w.heldBack() == reasonSuperseded })
	await(t, "it is noted for ever", func() bool {
		_, err := os.Stat(filepath.Join(back.Node.DataDir, "superseded.json"))
		return err == nil
	})
	for _, w := range next {
		await(t, w.cfg.Node.ID+" of the new history is ready", func() bool { return w.get("/readyz").status == http.StatusOK })
	}
}
