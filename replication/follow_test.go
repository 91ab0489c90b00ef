package replication_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/latchkey/latchkey/pkg/entitlement"
	"github.com/latchkey/latchkey/pkg/token"
	"github.com/latchkey/latchkey/replication"
	"github.com/latchkey/latchkey/replication/replicationtest"
)

// memory is a replica without a disk. It checks what edges check.
type memory struct {
	mu      sync.Mutex
	head    replication.Head
	records map[string]replication.Record
	lost    chan struct{}
	changed chan struct{}
	builds  int
	poison  bool // the next Apply says that it diverged
}

func newMemory() *memory {
	return &memory{records: map[string]replication.Record{}, lost: make(chan struct{}, 1), changed: make(chan struct{})}
}

func (m *memory) Head() replication.Head { m.mu.Lock(); defer m.mu.Unlock(); return m.head }

func (m *memory) announce() { close(m.changed); m.changed = make(chan struct{}) }

func (m *memory) Apply(to replication.Position, changes [][]byte) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.poison {
		m.poison = false
		return replication.ErrDiverged
	}
	if to.Rules > 1 {
		return replication.ErrRules
	}
	p, records := m.head.Position, maps.Clone(m.records)
	for _, encoded := range changes {
		c, _, err := replication.ParseChange(encoded)
		if err != nil || c.N != p.N+1 {
			return fmt.Errorf("change %d after %d: %w", c.N, p.N, replication.ErrFrame)
		}
		key := string(c.DBKey())
		if old, ok := records[key]; ok {
			p.StateHash = p.StateHash.Sub(old.Hash())
		}
		delete(records, key)
		if c.Value != nil {
			records[key] = c.Record
			p.StateHash = p.StateHash.Add(c.Record.Hash())
		}
		p.N, p.Chain = c.N, replication.NextChain(p.Chain, encoded)
	}
	if p.Rules = to.Rules; p != to {
		return replication.ErrDiverged
	}
	m.head.Position, m.records = p, records
	m.announce()
	return nil
}

func (m *memory) Advance(h replication.Head) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.head.Epoch == 0 {
		return replication.ErrNoData
	}
	m.head.AsOf = max(m.head.AsOf, h.AsOf)
	m.announce()
	return nil
}

func (m *memory) Discard() {}

func (m *memory) Build(_ context.Context, manifest replication.Manifest, r io.Reader) (replication.Copy, error) {
	c := newMemory()
	c.head.Position = manifest.Position
	var sum replication.Hash
	err := replication.ReadSnapshot(r, func(rec replication.Record) error {
		rec.Value = bytes.Clone(rec.Value)
		c.records[string(rec.DBKey())] = rec
		sum = sum.Add(rec.Hash())
		return nil
	})
	if err == nil && sum != manifest.StateHash {
		err = replication.ErrDiverged
	}
	return c, err
}

func (m *memory) Adopt(c replication.Copy) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	fresh := c.(*memory)
	m.head, m.records = fresh.head, fresh.records
	m.builds++
	m.announce()
	return nil
}

func (m *memory) Lost() <-chan struct{} { return m.lost }

func (m *memory) built() int { m.mu.Lock(); defer m.mu.Unlock(); return m.builds }

// wait waits until the replica is as asked, by its own announcements.
func (m *memory) wait(t *testing.T, what string, holds func(replication.Head) bool) {
	t.Helper()
	deadline := time.After(30 * time.Second)
	for {
		m.mu.Lock()
		head, changed := m.head, m.changed
		m.mu.Unlock()
		if holds(head) {
			return
		}
		select {
		case <-changed:
		case <-deadline:
			t.Fatalf("%s: not within 30 s, at %+v", what, head)
		}
	}
}

func (m *memory) at(t *testing.T, w *replicationtest.Writer) {
	t.Helper()
	want := w.Position()
	m.wait(t, "replica at "+want.Revision().String(), func(h replication.Head) bool { return h.Position == want })
}

func newWriter(t *testing.T) *replicationtest.Writer {
	t.Helper()
	w, err := replicationtest.New("cluster")
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func serve(t *testing.T, h http.Handler) string {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	t.Cleanup(s.CloseClientConnections) // long polls would hold up Close
	return s.URL
}

// follow runs a follower of the writers until the test's end.
func follow(t *testing.T, w *replicationtest.Writer, m *memory, source replication.Source, urls ...string) *replication.Follower {
	t.Helper()
	f := replication.NewFollower(replication.FollowConfig{Writers: urls, Verifier: replication.NewVerifier(w.Roots(), w.Cluster), Replica: m, SpoolDir: t.TempDir(), Source: source})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- f.Follow(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Follow: %v", err)
		}
	})
	return f
}

func record(key string, value string) replication.Record {
	return replication.Record{Env: entitlement.Sandbox, Kind: replication.KindAccount, Key: key, Value: []byte(value)}
}

// TestPullFollows: an empty replica takes one snapshot, and every change afterwards comes by the open request, at once.
func TestPullFollows(t *testing.T) {
	w, m := newWriter(t), newMemory()
	f := follow(t, w, m, nil, serve(t, w))
	m.at(t, w)
	var slow []time.Duration
	for i := range 20 {
		began := time.Now()
		w.Put(record("a", fmt.Sprint(i)), record(fmt.Sprint("k", i), "v"))
		m.at(t, w)
		if took := time.Since(began); took > 400*time.Millisecond {
			slow = append(slow, took)
		}
	}
	if len(slow) > 10 { // some may be slow on a busy machine; heads, which come once a second, make nearly all so
		t.Errorf("changes took %s: they waited for something else than the change", slow)
	}
	if m.built() != 1 {
		t.Errorf("%d snapshots, want 1", m.built())
	}
	if s := f.Status(); s.Source != replication.FromPull || len(s.Reasons) != 0 {
		t.Errorf("Status() = %+v", s)
	}
	now := time.Now().Unix()
	m.wait(t, "as_of of now", func(h replication.Head) bool { return h.AsOf >= now })
}

// TestTheLadder: a snapshot is taken where only that helps, and nowhere else.
func TestTheLadder(t *testing.T) {
	tests := []struct {
		name      string
		disturb   func(*testing.T, *replicationtest.Writer, *memory)
		snapshots int // beyond the first
	}{
		{"changes that were missed while the writer was away are pulled", func(t *testing.T, w *replicationtest.Writer, m *memory) {
			w.SetDown(true)
			w.Put(record("a", "1"), record("b", "1"))
			w.SetDown(false)
		}, 0},
		{"below the floor", func(t *testing.T, w *replicationtest.Writer, m *memory) {
			w.SetDown(true)
			w.Put(record("a", "1"))
			w.Trim()
			w.SetDown(false)
		}, 1},
		{"a new epoch", func(t *testing.T, w *replicationtest.Writer, m *memory) {
			w.RaiseEpoch()
			w.Put(record("a", "1"))
		}, 1},
		{"a copy that diverged", func(t *testing.T, w *replicationtest.Writer, m *memory) {
			m.mu.Lock()
			m.poison = true
			m.mu.Unlock()
			w.Put(record("a", "1"))
		}, 1},
		{"a head that tells of another history", func(t *testing.T, w *replicationtest.Writer, m *memory) {
			m.mu.Lock()
			m.head.Chain[0]++
			m.mu.Unlock()
		}, 1},
		{"data that was lost", func(t *testing.T, w *replicationtest.Writer, m *memory) {
			m.mu.Lock()
			m.head = replication.Head{}
			m.mu.Unlock()
			m.lost <- struct{}{}
		}, 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w, m := newWriter(t), newMemory()
			follow(t, w, m, nil, serve(t, w))
			m.at(t, w)
			tt.disturb(t, w, m)
			m.at(t, w)
			if got := m.built() - 1; got != tt.snapshots {
				t.Errorf("%d snapshots, want %d", got, tt.snapshots)
			}
		})
	}
}

// TestNothingUnsignedIsApplied: whatever the transport does to the bytes, the replica holds only what a writer has signed (I12).
func TestNothingUnsignedIsApplied(t *testing.T) {
	other, err := replicationtest.New("cluster") // the same name, another root
	if err != nil {
		t.Fatal(err)
	}
	other.Put(record("a", "forged"), record("b", "forged"))
	flip := func(b []byte, at int) []byte {
		b = bytes.Clone(b)
		b[at%len(b)] ^= 4
		return b
	}
	for name, spoil := range map[string]func(path string, body []byte) []byte{
		"a flipped bit in the signature":   func(p string, b []byte) []byte { return flip(b, 300) },
		"a flipped bit in the last change": func(p string, b []byte) []byte { return flip(b, len(b)-1) },
		"cut in the middle":                func(p string, b []byte) []byte { return b[:len(b)/2] },
		"nothing":                          func(string, []byte) []byte { return nil },
		"another cluster's statements": func(p string, b []byte) []byte {
			if p == replication.HeadPath {
				return []byte(other.SignedHead())
			}
			batch, _ := other.Batch(0, 100)
			return batch.AppendBinary(nil)
		},
		"other changes under the right signature": func(p string, b []byte) []byte {
			batch, err := replication.ParseBatch(b)
			if err != nil || len(batch.Changes) == 0 {
				return b
			}
			c, _, _ := replication.ParseChange(batch.Changes[0])
			c.Value = []byte("forged")
			return replication.Batch{Signed: batch.Signed, Changes: [][]byte{c.AppendBinary(nil)}}.AppendBinary(nil)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w, m := newWriter(t), newMemory()
			follow(t, w, m, nil, serve(t, w))
			m.at(t, w)
			before := w.Position()
			calls := func() int { return w.Calls(replication.ChangesPath) + w.Calls(replication.SnapshotPath) }
			asked := calls()
			w.Spoil(spoil)
			w.Put(record("a", "true"))
			deadline := time.Now().Add(10 * time.Second)
			for calls() < asked+3 && time.Now().Before(deadline) {
				if p := m.Head().Position; p != before && p != w.Position() {
					t.Fatalf("replica at %+v", p)
				}
				pause := time.NewTimer(time.Millisecond) // no event tells of a refusal
				<-pause.C
			}
			w.Spoil(nil)
			m.at(t, w)
			m.mu.Lock()
			defer m.mu.Unlock()
			if got := m.records[string(record("a", "").DBKey())]; string(got.Value) != "true" {
				t.Errorf("a = %q, want true", got.Value)
			}
		})
	}
}

// TestStatements is the table of what a verifier believes.
func TestStatements(t *testing.T) {
	w := newWriter(t)
	stranger, err := replicationtest.New("elsewhere")
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now().Unix()
	p := w.Position()
	v := replication.NewVerifier(w.Roots(), w.Cluster)
	head := func(asOf, iat int64) string { return w.Sign(replication.Head{Position: p, AsOf: asOf}.Claims(iat)) }
	tests := []struct {
		name   string
		signed string
		held   int64
		want   error
	}{
		{"a head", head(now, now), now, nil},
		{"a head that comes late stays true", head(now-600, now-600), now, nil},
		{"as_of after it was signed", head(now+10, now), now, replication.ErrUnsigned},
		{"a position is no head", w.Sign(p.Claims(now)), now, replication.ErrUnsigned},
		{"older than 72 h before what is held", head(now, now), now + 72*3600 + 1, replication.ErrStatementAge},
		{"72 h before what is held", head(now, now), now + 72*3600, nil},
		{"another cluster", stranger.SignedHead(), now, replication.ErrUnsigned},
		{"garbage", "a.b.c", now, replication.ErrUnsigned},
		{"a session token", w.Session(entitlement.Sandbox, "acc"), now, replication.ErrUnsigned},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := v.Head(tt.signed, tt.held)
			if !errors.Is(err, tt.want) || err == nil && got.Position != p {
				t.Errorf("Head = %+v, %v, want %v", got, err, tt.want)
			}
		})
	}
	if _, err := v.Manifest(w.Sign(p.Claims(now)), now); !errors.Is(err, replication.ErrUnsigned) {
		t.Errorf("a position as a manifest: %v", err)
	}
}

// TestAnOlderEpochIsLeft: a writer that was left behind in an old history is not followed, and another one is (I7).
func TestAnOlderEpochIsLeft(t *testing.T) {
	w, m := newWriter(t), newMemory()
	w.RaiseEpoch()
	url := serve(t, w)
	left := http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		p := w.Position()
		p.Epoch--
		p.N += 100
		now := time.Now().Unix()
		switch r.URL.Path {
		case replication.HeadPath:
			_, _ = io.WriteString(rw, w.Sign(replication.Head{Position: p, AsOf: now}.Claims(now)))
		case replication.ChangesPath:
			_, _ = rw.Write(replication.Batch{Signed: w.Sign(p.Claims(now))}.AppendBinary(nil))
		}
	})
	m.mu.Lock() // it already holds the new history
	m.head.Position = w.Position()
	for _, r := range w.Records() {
		m.records[string(r.DBKey())] = r
	}
	m.mu.Unlock()
	f := follow(t, w, m, nil, serve(t, left), url)
	w.Put(record("a", "1"))
	m.at(t, w)
	if m.built() != 0 || f.Status().Writer != url {
		t.Errorf("%d snapshots, following %s, want none, following %s", m.built(), f.Status().Writer, url)
	}
}

// TestFailover: a writer that is gone, or answers with heads that stand still, is left for the next.
func TestFailover(t *testing.T) {
	w, m := newWriter(t), newMemory()
	first, second := &relay{to: w}, &relay{to: w}
	f := follow(t, w, m, nil, serve(t, first), serve(t, second))
	m.at(t, w)
	before := f.Status().Writer
	first.set(true)
	w.Put(record("a", "1"))
	m.at(t, w)
	deadline := time.Now().Add(20 * time.Second)
	for f.Status().Writer == before && time.Now().Before(deadline) {
		pause := time.NewTimer(time.Millisecond)
		<-pause.C
	}
	if f.Status().Writer == before {
		t.Error("still following the writer that is gone")
	}
	first.set(false)
	second.set(true)
	w.Put(record("a", "2"))
	m.at(t, w)
	w.Freeze(time.Now().Unix() - 100)
	stuck := f.Status().Writer
	second.set(false)
	deadline = time.Now().Add(20 * time.Second)
	for f.Status().Writer == stuck && time.Now().Before(deadline) {
		pause := time.NewTimer(time.Millisecond)
		<-pause.C
	}
	if f.Status().Writer == stuck {
		t.Error("still following a writer whose as_of stands still")
	}
}

// relay is a way to a writer that can be cut.
type relay struct {
	to  http.Handler
	mu  sync.Mutex
	cut bool
}

func (r *relay) set(cut bool) { r.mu.Lock(); defer r.mu.Unlock(); r.cut = cut }

func (r *relay) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	r.mu.Lock()
	cut := r.cut
	r.mu.Unlock()
	if cut {
		w.WriteHeader(http.StatusBadGateway)
		return
	}
	r.to.ServeHTTP(w, req)
}

// lossy is a source that the test speaks through.
type lossy struct{ batch, head func([]byte) }

func (l *lossy) Subscribe(batch, head func([]byte)) error { l.batch, l.head = batch, head; return nil }

// TestTheSourceMayDoAnything: with a source that reorders, repeats, loses and forges, the replica is always at one of the writer's states and ends at the last
// one (I12).
func TestTheSourceMayDoAnything(t *testing.T) {
	w, m := newWriter(t), newMemory()
	source := &lossy{}
	follow(t, w, m, source, serve(t, w))
	m.at(t, w)
	frame := func(after uint64) []byte {
		t.Helper()
		b, err := w.Batch(after, 1000)
		if err != nil {
			t.Fatal(err)
		}
		return b.AppendBinary(nil)
	}
	next := func(value string) (uint64, []byte) {
		n := w.Position().N
		w.Put(record("a", value))
		return n, frame(n)
	}
	source.head([]byte(w.SignedHead()))
	_, one := next("1")
	source.batch(one)
	source.batch(one)
	m.at(t, w)
	_, two := next("2")
	_, three := next("3")
	source.batch(three) // before its predecessor
	source.batch(two)
	m.at(t, w)
	lost, _ := next("4")
	source.head([]byte(w.SignedHead())) // only the head tells of it
	m.at(t, w)
	source.batch([]byte("forged"))
	source.batch(nil)
	source.batch(replication.Batch{Signed: "a.b.c", Changes: [][]byte{{1}}}.AppendBinary(nil))
	source.head([]byte("forged"))
	source.batch(frame(lost)) // too late
	p := w.Position()
	w.Put(record("a", "5"))
	forged := replication.Change{N: p.N + 1, Record: record("a", "forged")}.AppendBinary(nil)
	source.batch(replication.Batch{Signed: w.Sign(w.Position().Claims(time.Now().Unix())), Changes: [][]byte{forged}}.AppendBinary(nil)) // a right signature on other changes
	source.batch(two)                                                                                                                    // long past
	m.at(t, w)
	if m.built() != 1 {
		t.Errorf("%d snapshots, want 1", m.built())
	}
}

// TestAReplayedHeadProvesNoLife: a source that repeats an old head, genuine as it is, does not keep the replica from pulling: as_of goes on (I12).
func TestAReplayedHeadProvesNoLife(t *testing.T) {
	w, m := newWriter(t), newMemory()
	source := &lossy{}
	follow(t, w, m, source, serve(t, w))
	m.at(t, w)
	old := w.SignedHead()
	ctx, cancel := context.WithCancel(context.Background())
	var replaying sync.WaitGroup
	replaying.Go(func() {
		every := time.NewTicker(50 * time.Millisecond)
		defer every.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-every.C:
				source.head([]byte(old))
			}
		}
	})
	defer replaying.Wait()
	defer cancel()
	later := time.Now().Unix() + 4
	m.wait(t, "as_of goes on under replayed heads", func(h replication.Head) bool { return h.AsOf >= later })
	w.Put(record("a", "1"))
	m.at(t, w)
}

// TestReasonsArePresent: what the pull met with is no reason any more once the source brings everything.
func TestReasonsArePresent(t *testing.T) {
	w, m := newWriter(t), newMemory()
	began := time.Now()
	var later atomic.Int64 // seconds
	w.Now = func() time.Time { return began.Add(time.Duration(later.Load()) * time.Second) }
	source, way := &lossy{}, &relay{to: w}
	f := follow(t, w, m, source, serve(t, way))
	m.at(t, w)
	way.set(true)
	w.Put(record("a", "1")) // ends the request that is open
	reasons := func(what string, holds func([]string) bool) {
		t.Helper()
		deadline := time.Now().Add(15 * time.Second)
		for !holds(f.Status().Reasons) {
			if time.Now().After(deadline) {
				t.Fatalf("%s: not within 15 s: Status() = %+v", what, f.Status())
			}
			<-time.After(5 * time.Millisecond)
		}
	}
	reasons("both failures of the pull are told", func(r []string) bool { return len(r) == 2 })
	reasons("the source makes up for both", func([]string) bool {
		batch, err := w.Batch(0, 1000)
		if err != nil {
			t.Fatal(err)
		}
		later.Add(1)
		source.batch(batch.AppendBinary(nil))
		source.head([]byte(w.SignedHead()))
		return len(f.Status().Reasons) == 0
	})
}

// TestASnapshotGoesOnWhereItStopped: a broken connection costs what was under way, not all; a changed snapshot begins anew, and wrong bytes are refused.
func TestASnapshotGoesOnWhereItStopped(t *testing.T) {
	w := newWriter(t)
	random := make([]byte, 200_000) // does not compress
	if _, err := rand.NewChaCha8([32]byte{1}).Read(random); err != nil {
		t.Fatal(err)
	}
	for i := range 40 {
		w.Put(replication.Record{Env: entitlement.Sandbox, Kind: replication.KindAccount, Key: fmt.Sprint("k", i), Value: append([]byte(fmt.Sprint(i)), random[i*1000:(i+90)*1000]...)})
	}
	_, m, _, err := w.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	var ranges []string
	broken := http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		ranges = append(ranges, r.Header.Get("Range"))
		if len(ranges) <= 3 {
			w.ServeHTTP(&breaking{ResponseWriter: rw, left: int(m.Size) / 3}, r)
			return
		}
		w.ServeHTTP(rw, r)
	})
	v := replication.NewVerifier(w.Roots(), w.Cluster)
	file, err := os.Create(filepath.Join(t.TempDir(), "snapshot"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	client := replication.NewClient(serve(t, broken), "e1", nil)
	got, err := client.Snapshot(t.Context(), file, func(signed string) (replication.Manifest, error) { return v.Manifest(signed, 0) })
	if err != nil || got != m {
		t.Fatalf("Snapshot = %+v, %v, want %+v", got, err, m)
	}
	if len(ranges) < 2 || ranges[0] != "" || !strings.HasPrefix(ranges[1], "bytes=") {
		t.Errorf("ranges asked for: %q, want the rest after the first", ranges)
	}
	n := 0
	if err := replication.ReadSnapshot(file, func(replication.Record) error { n++; return nil }); err != nil || n != len(w.Records()) {
		t.Errorf("%d records, %v, want %d", n, err, len(w.Records()))
	}
	refuse := errors.New("not wanted")
	if _, err := client.Snapshot(t.Context(), file, func(string) (replication.Manifest, error) { return replication.Manifest{}, refuse }); !errors.Is(err, refuse) {
		t.Errorf("Snapshot that is not wanted = %v", err)
	}
}

// breaking ends the connection after so many bytes.
type breaking struct {
	http.ResponseWriter
	left int
}

func (b *breaking) Write(p []byte) (int, error) {
	if b.left -= len(p); b.left < 0 {
		_ = http.NewResponseController(b.ResponseWriter).Flush() // what came before arrives
		panic(http.ErrAbortHandler)
	}
	return b.ResponseWriter.Write(p)
}

// TestSessionKeys reads what writers put, and nothing that is no key.
func TestSessionKeys(t *testing.T) {
	w := newWriter(t)
	for _, r := range w.Records() {
		if keys, err := replication.DecodeSessionKeys(r.Value); err != nil || len(keys) != 1 || keys[0].KeyType != "EC" {
			t.Errorf("DecodeSessionKeys = %+v, %v", keys, err)
		}
	}
	for name, jwk := range map[string]string{"no JSON": "x", "no key": "{}", "an RSA key": `{"kty":"RSA"}`} {
		if _, err := replication.DecodeSessionKeys(entitlement.Encode(replication.SessionKeys{JWKs: [][]byte{[]byte(jwk)}})); err == nil {
			t.Errorf("%s was taken for a key", name)
		}
	}
	if _, err := replication.DecodeSessionKeys([]byte{0xff}); err == nil || errors.Is(err, token.ErrKey) {
		t.Errorf("garbage: %v", err)
	}
}
