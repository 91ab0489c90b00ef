package replica_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/latchkey/latchkey/edge/internal/replica"
	"github.com/latchkey/latchkey/pkg/entitlement"
	"github.com/latchkey/latchkey/replication"
	"github.com/latchkey/latchkey/replication/replicationtest"
)

// used makes a replica with a past: pages that were replaced, an inner page, deleted records.
func used(t *testing.T) (dir string, w *replicationtest.Writer) {
	t.Helper()
	w = newWriter(t, 400)
	dir = t.TempDir()
	r := open(t, dir)
	bootstrap(t, r, w)
	for round := range 12 {
		for i := range 20 {
			w.Put(account((round*37+i*11)%430, round+1))
		}
		follow(t, r, w)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	return dir, w
}

// image is a folder's content.
type image map[string][]byte

func takeImage(t *testing.T, dir string) image {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	files := image{}
	for _, e := range entries {
		if files[e.Name()], err = os.ReadFile(filepath.Join(dir, e.Name())); err != nil {
			t.Fatal(err)
		}
	}
	return files
}

// restore writes the image to a new folder. bbolt lets its file grow by 16 MiB at a time: what is not used is a hole here as there.
func (m image) restore(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range m {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, content[:usedBytes(content)], 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(path, int64(len(content))); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func usedBytes(content []byte) int {
	n := len(content)
	for n >= 4096 && bytes.Equal(content[n-4096:n], zeros[:]) {
		n -= 4096
	}
	return n
}

var zeros [4096]byte

func dataFile(t *testing.T, dir string) string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.db"))
	if err != nil || len(files) != 1 {
		t.Fatalf("data files in %s: %v, %v", dir, files, err)
	}
	return files[0]
}

// flip changes one bit of the file, as a failing disk does: behind the back of who has it mapped.
func flip(t *testing.T, path string, bit int64) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var b [1]byte
	if _, err := f.ReadAt(b[:], bit/8); err != nil {
		t.Fatal(err)
	}
	b[0] ^= 1 << (bit % 8)
	if _, err := f.WriteAt(b[:], bit/8); err != nil {
		t.Fatal(err)
	}
}

// honest fails if any lookup gives anything but the writer's value or an error, and reports whether there was an error.
func honest(t *testing.T, r *replica.Replica, want []replication.Record, what string) (damaged bool) {
	t.Helper()
	for _, rec := range want {
		got, _, found, err := r.Lookup(rec.Env, rec.Kind, rec.Key)
		switch {
		case errors.Is(err, replication.ErrCorrupt), errors.Is(err, replication.ErrNoData), errors.Is(err, replica.ErrUnproven):
			damaged = true
		case err != nil || !found || !bytes.Equal(got, rec.Value):
			t.Fatalf("%s: Lookup(%s) = %.40q, %t, %v, want %.40q or damage", what, rec.DBKey(), got, found, err, rec.Value)
		}
	}
	return damaged
}

// TestAFlippedBitNeverAnswers is I13: wherever a bit flips, in a leaf, an inner page, a meta page or the freelist, before the file is opened or while it is
// in use, a lookup is right or says that it cannot; never wrong, never a denial, never a crash. The replica heals by a snapshot.
func TestAFlippedBitNeverAnswers(t *testing.T) {
	const flips = 150
	dir, w := used(t)
	original := takeImage(t, dir)
	bits := int64(usedBytes(original[filepath.Base(dataFile(t, dir))])) * 8
	records := w.Records()
	bodies, last := records, w.Position()
	next := account(7, 1000)
	w.Put(next)
	after, batch := w.Position(), mustBatch(t, w, last.N)
	afterRecords := w.Records()
	random := rand.New(rand.NewPCG(13, 13))
	found := 0
	for i := range flips {
		bit := random.Int64N(bits)
		if i%10 == 0 {
			bit = random.Int64N(2 * 4096 * 8) // the meta pages are a small part of the file
		}
		what := fmt.Sprintf("flip %d of bit %d", i, bit)
		copied := original.restore(t)
		if i%2 == 0 {
			flip(t, dataFile(t, copied), bit)
		}
		r := open(t, copied)
		if i%2 == 1 {
			waitProven(t, r)
			flip(t, dataFile(t, copied), bit)
		}
		damaged := honest(t, r, bodies, what)
		if err := r.Apply(after, batch.Changes); err == nil {
			damaged = honest(t, r, afterRecords, what+", after a batch") || damaged
		} else {
			damaged = true
		}
		if damaged {
			found++
			if r.Head().Epoch == 0 { // given up: heals
				bootstrap(t, r, w)
				same(t, r, w)
			}
		}
		if err := r.Close(); err != nil && !damaged {
			t.Errorf("%s: Close: %v", what, err)
		}
		if bad, _ := filepath.Glob(filepath.Join(copied, "*.bad")); len(bad) > 1 {
			t.Errorf("%s: more than one damaged file kept: %v", what, bad)
		}
	}
	if found == 0 {
		t.Error("no flip was noticed: the test looks at nothing")
	}
	t.Logf("%d of %d flips were noticed; the others hit free space", found, flips)
}

func mustBatch(t *testing.T, w *replicationtest.Writer, after uint64) replication.Batch {
	t.Helper()
	b, err := w.Batch(after, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestAnOlderLeafIsNotBelieved: an inner page that is led to point at an older copy of a leaf gives records with right checksums. Only the seals
// find that (I13). The page number is changed by hand here, because chance hits one too seldom.
func TestAnOlderLeafIsNotBelieved(t *testing.T) {
	dir, w := used(t)
	original := takeImage(t, dir)
	records := w.Records()
	noticed := 0
	for i, at := range replica.ChildPointers(original[filepath.Base(dataFile(t, dir))]) {
		bit := int64(i % 8) // page numbers of this small file
		copied := original.restore(t)
		r := open(t, copied)
		waitProven(t, r)
		flip(t, dataFile(t, copied), int64(at)*8+bit)
		if honest(t, r, records, fmt.Sprintf("child pointer at %d, bit %d", at, bit)) {
			noticed++
		}
		_ = r.Close() // it may have been given up
	}
	if noticed == 0 {
		t.Error("no changed pointer was noticed")
	}
}

// TestATruncatedFileIsDamage: reading beyond the end of a mapped file is a signal, not an error.
func TestATruncatedFileIsDamage(t *testing.T) {
	dir, w := used(t)
	r := open(t, dir)
	defer r.Close()
	waitProven(t, r)
	if err := os.Truncate(dataFile(t, dir), 0); err != nil {
		t.Fatal(err)
	}
	if !honest(t, r, w.Records(), "truncated") {
		t.Error("no lookup noticed that the file is gone")
	}
	<-r.Lost()
	bootstrap(t, r, w)
	same(t, r, w)
}

// TestNothingUnprovenIsApplied: a batch that does not lead exactly to the signed position changes nothing (I6, I7).
func TestNothingUnprovenIsApplied(t *testing.T) {
	w := newWriter(t, 20)
	r := open(t, t.TempDir())
	defer r.Close()
	bootstrap(t, r, w)
	forked := w.Fork() // as a second restore of the same backup, in the same second
	w.Put(account(4, 1))
	follow(t, r, w)
	before := w.Position()
	forked.Put(account(4, 2), account(1, 2))
	w.Put(account(1, 1), account(2, 1), account(3, 1))
	to := w.Position()
	good := mustBatch(t, w, before.N).Changes
	forged := replication.Change{N: before.N + 1, Record: account(1, 666)}.AppendBinary(nil)
	other := func(change func(*replication.Position)) replication.Position {
		p := to
		change(&p)
		return p
	}
	tests := []struct {
		name    string
		to      replication.Position
		changes [][]byte
		want    error
	}{
		{"another record", to, [][]byte{forged, good[1], good[2]}, replication.ErrDiverged},
		{"one change missing at the end", to, good[:2], replication.ErrDiverged},
		{"one change missing in the middle", to, [][]byte{good[0], good[2]}, replication.ErrFrame},
		{"two changes swapped", to, [][]byte{good[1], good[0], good[2]}, replication.ErrFrame},
		{"cut short", to, [][]byte{good[0], good[1], good[2][:len(good[2])-1]}, replication.ErrFrame},
		{"another state hash", other(func(p *replication.Position) { p.StateHash[31]++ }), good, replication.ErrDiverged},
		{"another chain", other(func(p *replication.Position) { p.Chain[0]++ }), good, replication.ErrDiverged},
		{"what another history of the same epoch goes on with", forked.Position(), mustBatch(t, forked, before.N).Changes, replication.ErrDiverged},
		{"another epoch", other(func(p *replication.Position) { p.Epoch++ }), good, replication.ErrDiverged},
		{"rules of a newer program", other(func(p *replication.Position) { p.Rules = rules + 1 }), good, replication.ErrRules},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if err := r.Apply(tt.to, tt.changes); !errors.Is(err, tt.want) {
				t.Errorf("Apply = %v, want %v", err, tt.want)
			}
			if got := r.Head().Position; got != before {
				t.Errorf("Head() = %+v, want %+v as before", got, before)
			}
		})
	}
	if err := r.Apply(to, good); err != nil {
		t.Fatal(err)
	}
	same(t, r, w)
	if err := r.Apply(to, good); err == nil {
		t.Error("the same batch was applied twice")
	}
}

// TestACopyNeverGoesBack is I7: a snapshot that is older than what was served is not adopted, also when what was served was given up, also by the next
// process.
func TestACopyNeverGoesBack(t *testing.T) {
	w := newWriter(t, 20)
	dir := t.TempDir()
	r := open(t, dir)
	bootstrap(t, r, w)
	body, m, _, err := w.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	w.Put(account(1, 1))
	follow(t, r, w)
	adopt := func() error {
		c, err := r.Build(t.Context(), m, bytes.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		err = r.Adopt(c)
		if err != nil {
			c.Discard()
		}
		return err
	}
	if err := adopt(); !errors.Is(err, replica.ErrBehind) {
		t.Errorf("Adopt of an older copy = %v, want ErrBehind", err)
	}
	if err := os.Truncate(dataFile(t, dir), 0); err != nil {
		t.Fatal(err)
	}
	honest(t, r, w.Records(), "truncated")
	if err := adopt(); !errors.Is(err, replica.ErrBehind) {
		t.Errorf("Adopt of an older copy after damage = %v, want ErrBehind", err)
	}
	_ = r.Close()
	r = open(t, dir)
	defer r.Close()
	if err := adopt(); !errors.Is(err, replica.ErrBehind) {
		t.Errorf("Adopt of an older copy after damage and restart = %v, want ErrBehind", err)
	}
	w.RaiseEpoch()
	bootstrap(t, r, w)
	same(t, r, w)
}

// TestBuildRefuses: a snapshot must be what its manifest says.
func TestBuildRefuses(t *testing.T) {
	w := newWriter(t, 50)
	r := open(t, t.TempDir())
	defer r.Close()
	body, m, _, err := w.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	short := m
	short.StateHash[0]++
	newer := m
	newer.Rules = rules + 1
	for _, tt := range []struct {
		name string
		m    replication.Manifest
		body []byte
		want error
	}{
		{"another state hash", short, body, replication.ErrDiverged},
		{"rules of a newer program", newer, body, replication.ErrRules},
		{"cut short", m, body[:len(body)-9], replication.ErrFrame},
		{"no zstd", m, []byte("hello, this is not it"), replication.ErrFrame},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := r.Build(t.Context(), tt.m, bytes.NewReader(tt.body)); !errors.Is(err, tt.want) {
				t.Errorf("Build = %v, want %v", err, tt.want)
			}
		})
	}
}

// TestAfterAPowerLossNothingIsSaidBeforeItIsProven: the file is written without fsync, so another boot id means that it may be torn.
func TestAfterAPowerLossNothingIsSaidBeforeItIsProven(t *testing.T) {
	w := newWriter(t, 200)
	dir := t.TempDir()
	first, err := replica.Open(replica.Config{Dir: dir, Rules: rules, BootID: "boot-1"})
	if err != nil {
		t.Fatal(err)
	}
	bootstrap(t, first, w)
	w.Put(account(3, 3))
	follow(t, first, w)
	torn := takeImage(t, dir).restore(t) // as it is on the disk, without an orderly end
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	second, err := replica.Open(replica.Config{Dir: torn, Rules: rules, BootID: "boot-2"})
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close()
	switch x, err := second.Read(); {
	case err == nil: // proven meanwhile
		x.Close()
		if !second.Proven() {
			t.Fatal("Read gave records that are not proven")
		}
	case !errors.Is(err, replica.ErrUnproven):
		t.Fatalf("Read = %v, want ErrUnproven", err)
	}
	waitProven(t, second)
	same(t, second, w)
}

// The history of the crash test is made by both processes, each for itself.
type history struct {
	records map[string]replication.Record
	pos     replication.Position
}

func newHistory() *history {
	return &history{records: map[string]replication.Record{}, pos: replication.Position{Cluster: "crash", Epoch: 1, Rules: rules}}
}

func (h *history) step() [][]byte {
	random := rand.New(rand.NewPCG(h.pos.N, 1))
	var changes [][]byte
	for range 1 + random.IntN(20) {
		h.pos.N++
		r := account(random.IntN(300), int(h.pos.N))
		key := string(r.DBKey())
		if old, ok := h.records[key]; ok {
			h.pos.StateHash = h.pos.StateHash.Sub(old.Hash())
		}
		h.records[key] = r
		h.pos.StateHash = h.pos.StateHash.Add(r.Hash())
		encoded := replication.Change{N: h.pos.N, Record: r}.AppendBinary(nil)
		h.pos.Chain = replication.NextChain(h.pos.Chain, encoded)
		changes = append(changes, encoded)
	}
	return changes
}

// each yields the records in key order.
func (h *history) each(yield func(replication.Record) error) error {
	for _, key := range slices.Sorted(maps.Keys(h.records)) {
		if err := yield(h.records[key]); err != nil {
			return err
		}
	}
	return nil
}

const crashDir = "LATCHKEY_TEST_CRASH_DIR"

// TestMain is also the process that is killed: it applies batches until then, or builds the replica anew.
func TestMain(m *testing.M) {
	if dir := os.Getenv(rebuildDir); dir != "" {
		if err := rebuild(dir); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	dir := os.Getenv(crashDir)
	if dir == "" {
		os.Exit(m.Run())
	}
	r, err := replica.Open(replica.Config{Dir: dir, Rules: rules})
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	h := newHistory()
	for h.pos.N < r.Head().N {
		h.step()
	}
	for {
		changes := h.step()
		if err := r.Apply(h.pos, changes); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Println(r.Head().N)
	}
}

// TestAKillLeavesAWholeRevision is I6 and I16 for the replica: whenever the process dies, the file holds exactly one of the writer's states, and none older
// than what it had said.
func TestAKillLeavesAWholeRevision(t *testing.T) {
	dir := t.TempDir()
	r := open(t, dir)
	h := newHistory()
	h.step()
	var body bytes.Buffer
	info, err := replication.WriteSnapshot(&body, h.each)
	if err != nil {
		t.Fatal(err)
	}
	c, err := r.Build(t.Context(), replication.Manifest{Position: h.pos, Size: info.Size, SHA256: info.SHA256}, &body)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Adopt(c); err != nil {
		t.Fatal(err)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	random := rand.New(rand.NewPCG(9, 9))
	for round := range 8 {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), crashDir+"="+dir)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		var said uint64
		for range 1 + random.IntN(60) {
			if !lines.Scan() {
				t.Fatal("the child ended by itself")
			}
			if _, err := fmt.Sscan(lines.Text(), &said); err != nil {
				t.Fatalf("child: %s", lines.Text())
			}
		}
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, out)
		_ = cmd.Wait() // killed
		r := open(t, dir)
		waitProven(t, r)
		want := newHistory()
		for want.pos.N < r.Head().N {
			want.step()
		}
		if got := r.Head().Position; got != want.pos || got.N < said {
			t.Fatalf("round %d: Head() = %+v, want %+v and not below %d", round, got, want.pos, said)
		}
		for _, rec := range want.records {
			if got, _, found, err := r.Lookup(rec.Env, rec.Kind, rec.Key); err != nil || !found || !bytes.Equal(got, rec.Value) {
				t.Fatalf("round %d: Lookup(%s) = %.40q, %t, %v", round, rec.Key, got, found, err)
			}
		}
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestReadersSeeOneRevision: under a stream of batches every look at the records is of one state (I6), and as_of never goes back (I7).
func TestReadersSeeOneRevision(t *testing.T) {
	w := newWriter(t, 50)
	r := open(t, t.TempDir())
	defer r.Close()
	bootstrap(t, r, w)
	stop := make(chan struct{})
	done := make(chan error, 4)
	for range cap(done) {
		go func() { done <- watch(r, stop) }()
	}
	deadline := time.Now().Add(500 * time.Millisecond)
	for version := 1; time.Now().Before(deadline); version++ {
		w.Put(account(1, version), account(2, version)) // always together
		follow(t, r, w)
		if err := r.Advance(replication.Head{Position: w.Position(), AsOf: int64(version)}); err != nil {
			t.Fatal(err)
		}
	}
	close(stop)
	for range cap(done) {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	same(t, r, w)
}

func watch(r *replica.Replica, stop <-chan struct{}) error {
	var last replication.Head
	for {
		select {
		case <-stop:
			return nil
		default:
		}
		x, err := r.Read()
		if err != nil {
			return err
		}
		a, _, err1 := x.Get(nil, entitlement.Sandbox, replication.KindAccount, "acc_00001")
		b, _, err2 := x.Get(nil, entitlement.Sandbox, replication.KindAccount, "acc_00002")
		x.Close()
		if err := errors.Join(err1, err2); err != nil {
			return err
		}
		if !bytes.Equal(a[len("acc_00001"):], b[len("acc_00002"):]) {
			return fmt.Errorf("two revisions in one look: %.30q and %.30q", a, b)
		}
		if x.Head.Revision().Compare(last.Revision()) < 0 || x.Head.AsOf < last.AsOf {
			return fmt.Errorf("went back from %+v to %+v", last, x.Head)
		}
		last = x.Head
	}
}
