package replication_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/latchkey/latchkey/pkg/entitlement"
	"github.com/latchkey/latchkey/pkg/token"
	"github.com/latchkey/latchkey/replication"
	"github.com/latchkey/latchkey/replication/replicationtest"
)

// The ladder, rung by rung: what each may be given, and what it makes of it. After each row the replica is at the writers' position by the cheapest way that
// mends it, it was never anywhere else than at one of the writers' positions (I6), never went back (I7), and nothing is wrong at present.

// stairs is a ladder with a source and two writers, driven by hand: the answers come from w, the time from now.
type stairs struct {
	t   *testing.T
	w   *replicationtest.Writer
	m   *memory
	l   *replication.Ladder
	now time.Time

	alive bool                   // the source brings a head each second
	been  []replication.Position // every position that the writers were at
	asked []replication.RequestKind
	spoil func(replication.Request, *replication.Batch, *string) error // what the next writers do to their answers; nil is nothing

	client *replication.Client // downloads snapshots; nil: they are there
}

func newStairs(t *testing.T) *stairs {
	t.Helper()
	s := &stairs{t: t, w: newWriter(t), m: newMemory(), now: time.Now().Truncate(time.Second)}
	s.w.Now = func() time.Time { return s.now }
	s.l = replication.NewLadder(replication.LadderConfig{Replica: s.m, Verifier: replication.NewVerifier(s.w.Roots(), s.w.Cluster), Writers: 2, Source: true,
		Random: func() float64 { return 0.5 }})
	s.l.Start(s.now)
	s.put("a", "0")
	s.settle()
	s.asked = nil
	s.pass(time.Second)
	s.head(s.w.SignedHead()) // from here on the source is alive
	return s
}

// put makes one change and returns it as a frame that the source may bring.
func (s *stairs) put(key, value string) []byte {
	s.t.Helper()
	after := s.w.Position().N
	s.w.Put(record(key, value))
	s.been = append(s.been, s.w.Position())
	b, err := s.w.Batch(after, 1000)
	if err != nil {
		s.t.Fatal(err)
	}
	return b.AppendBinary(nil)
}

func (s *stairs) batch(frame []byte) { s.l.BatchFromSource(s.now, frame); s.check() }

func (s *stairs) head(signed string) { s.l.HeadFromSource(s.now, []byte(signed)); s.check() }

func (s *stairs) pass(d time.Duration) { s.now = s.now.Add(d) }

// check is I6 and I7, after each step.
func (s *stairs) check() {
	s.t.Helper()
	if p := s.m.Head().Position; p.Epoch != 0 && !slices.Contains(s.been, p) {
		s.t.Fatalf("the replica is at %+v, where the writers never were", p)
	}
}

// step lets both lanes ask once, and answers.
func (s *stairs) step() {
	s.t.Helper()
	if r := s.l.NextHead(s.now); r.Kind == replication.AskHead {
		signed, err := s.w.SignedHead(), error(nil)
		if s.spoil != nil {
			err = s.spoil(r, nil, &signed)
		}
		s.l.TookHead(s.now, r, signed, err)
		s.check()
	}
	r := s.l.NextPull(s.now)
	switch r.Kind {
	case replication.AskChanges:
		s.asked = append(s.asked, r.Kind)
		b, err := s.changes(r)
		s.l.TookChanges(s.now, r, b, err)
	case replication.AskSnapshot:
		s.asked = append(s.asked, r.Kind)
		c := s.l.Climb()
		s.l.Finish(s.now, r, c, s.climb(c))
	}
	s.check()
}

func (s *stairs) changes(r replication.Request) (replication.Batch, error) {
	if r.After.Epoch != s.w.Position().Epoch {
		return replication.Batch{}, replication.ErrOtherHistory
	}
	b, err := s.w.Batch(r.After.N, 1000)
	if err == nil && s.spoil != nil {
		err = s.spoil(r, &b, nil)
	}
	return b, err
}

func (s *stairs) climb(c *replication.Climb) error {
	file, err := os.CreateTemp(s.t.TempDir(), "snapshot")
	if err != nil {
		s.t.Fatal(err)
	}
	defer file.Close()
	var records io.Reader = file
	var m replication.Manifest
	if s.client == nil {
		body, _, signed, err := s.w.Snapshot()
		if err != nil {
			s.t.Fatal(err)
		}
		records = bytes.NewReader(body)
		if m, err = c.Judge(signed); err != nil {
			return err
		}
	} else if m, err = s.client.Snapshot(s.t.Context(), file, c.Judge); err != nil {
		return err
	}
	if err := c.Build(s.t.Context(), m, records); err != nil {
		return err
	}
	for {
		switch r := c.Next(); r.Kind {
		case replication.AskNothing:
			return nil
		case replication.AskChanges:
			if err := c.TookChanges(s.changes(r)); err != nil {
				return err
			}
		case replication.AskHead:
			if err := c.TookHead(s.w.SignedHead(), nil); err != nil {
				return err
			}
		}
	}
}

// settle goes on until the replica is where the writers are and nothing is wrong at present, or fails.
func (s *stairs) settle() {
	s.t.Helper()
	for range 200 {
		if h := s.m.Head(); h.Position == s.w.Position() && h.AsOf == s.now.Unix() && len(s.l.Reasons()) == 0 {
			return
		}
		before := s.now.Unix()
		s.pass(100 * time.Millisecond)
		if s.alive && s.now.Unix() > before {
			s.head(s.w.SignedHead())
		}
		s.step()
	}
	s.t.Fatalf("after 20 s the replica is at %+v, the writers at %+v; reasons: %q", s.m.Head(), s.w.Position(), s.l.Reasons())
}

// Words for what a row makes the ladder ask for until it has settled.
const (
	bySource   = "source"
	byChanges  = "changes"
	bySnapshot = "snapshot"
)

func (s *stairs) way() string {
	switch {
	case slices.Contains(s.asked, replication.AskSnapshot):
		return bySnapshot
	case slices.Contains(s.asked, replication.AskChanges):
		return byChanges
	}
	return bySource
}

// alter changes one bit in the middle of the part of a frame that of names.
func alter(frame []byte, at int) []byte {
	frame = bytes.Clone(frame)
	frame[at] ^= 1
	return frame
}

// signed takes a frame's signed position, changes what a forger changes, and puts it back.
func resigned(t *testing.T, frame []byte, forge func(signed string) string) []byte {
	t.Helper()
	b, err := replication.ParseBatch(frame)
	if err != nil {
		t.Fatal(err)
	}
	b.Signed = forge(b.Signed)
	return b.AppendBinary(nil)
}

// wrongKey keeps a statement's header, with its valid chain of certificates, and its claims, and signs them with another key.
func wrongKey(t *testing.T, genuine, foreign string) string {
	t.Helper()
	g, f := strings.Split(genuine, "."), strings.Split(foreign, ".")
	if len(g) != 3 || len(f) != 3 {
		t.Fatalf("not signed: %q, %q", genuine, foreign)
	}
	return g[0] + "." + g[1] + "." + f[2]
}

// TestTheFirstRung is the source (NATS): it may lose, repeat, reorder, alter and forge. Nothing it brings makes the ladder take a snapshot, but a statement that
// a writer has signed.
func TestTheFirstRung(t *testing.T) {
	stranger, err := replicationtest.New("cluster") // the same name, other roots
	if err != nil {
		t.Fatal(err)
	}
	elsewhere, err := replicationtest.New("elsewhere")
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name  string
		bring func(*stairs)
		way   string // by which the replica gets to the writers' position
	}{
		{"batches in order", func(s *stairs) { s.batch(s.put("a", "1")); s.batch(s.put("b", "1")) }, bySource},
		{"a batch repeated", func(s *stairs) { f := s.put("a", "1"); s.batch(f); s.batch(f) }, bySource},
		{"an old batch repeated", func(s *stairs) { f := s.put("a", "1"); s.batch(f); s.batch(s.put("a", "2")); s.batch(f) }, bySource},
		{"two batches in the wrong order", func(s *stairs) { f, g := s.put("a", "1"), s.put("b", "1"); s.batch(g); s.batch(f) }, bySource},
		{"twenty in reverse", func(s *stairs) {
			var frames [][]byte
			for i := range 20 {
				frames = append(frames, s.put("a", fmt.Sprint(i)))
			}
			slices.Reverse(frames)
			for _, f := range frames {
				s.batch(f)
			}
		}, bySource},
		{"a batch that overlaps with what is held", func(s *stairs) {
			from := s.w.Position().N
			s.batch(s.put("a", "1"))
			s.put("b", "1")
			both, err := s.w.Batch(from, 1000)
			if err != nil {
				s.t.Fatal(err)
			}
			s.batch(both.AppendBinary(nil))
		}, bySource},
		{"a batch lost, its successor tells", func(s *stairs) { s.put("a", "1"); s.batch(s.put("b", "1")) }, byChanges},
		{"a batch lost, only the head tells", func(s *stairs) { s.put("a", "1"); s.pass(time.Second); s.head(s.w.SignedHead()) }, byChanges},
		{"a bit of a change altered", func(s *stairs) { f := s.put("a", "1"); s.batch(alter(f, len(f)-1)) }, byChanges},
		{"a bit of a change's revision altered", func(s *stairs) {
			b, err := replication.ParseBatch(s.put("a", "1"))
			if err != nil {
				s.t.Fatal(err)
			}
			b.Changes[0] = alter(b.Changes[0], 7)
			s.batch(b.AppendBinary(nil))
		}, byChanges},
		{"another change under the right signature", func(s *stairs) {
			s.batch(resigned(s.t, s.put("a", "1"), func(genuine string) string { return genuine }))
			genuine, err := replication.ParseBatch(s.put("a", "2"))
			if err != nil {
				s.t.Fatal(err)
			}
			forged := replication.Change{N: s.w.Position().N, Record: record("a", "forged")}.AppendBinary(nil)
			s.batch(replication.Batch{Signed: genuine.Signed, Changes: [][]byte{forged}}.AppendBinary(nil))
		}, byChanges},
		{"a change too many under the right signature", func(s *stairs) {
			b, err := replication.ParseBatch(s.put("a", "1"))
			if err != nil {
				s.t.Fatal(err)
			}
			b.Changes = append(b.Changes, replication.Change{N: s.w.Position().N + 1, Record: record("b", "forged")}.AppendBinary(nil))
			s.batch(b.AppendBinary(nil))
		}, byChanges},
		{"a bit of the signature altered", func(s *stairs) {
			s.batch(resigned(s.t, s.put("a", "1"), func(g string) string { return string(alter([]byte(g), len(g)-10)) }))
		}, byChanges},
		{"a bit of the claims altered", func(s *stairs) {
			s.batch(resigned(s.t, s.put("a", "1"), func(g string) string { return string(alter([]byte(g), strings.LastIndexByte(g, '.')-20)) }))
		}, byChanges},
		{"a valid chain and the wrong key", func(s *stairs) {
			s.batch(resigned(s.t, s.put("a", "1"), func(g string) string {
				return wrongKey(s.t, g, stranger.Sign(s.w.Position().Claims(s.now.Unix())))
			}))
		}, byChanges},
		{"right claims by a stranger of our cluster's name", func(s *stairs) {
			s.batch(resigned(s.t, s.put("a", "1"), func(string) string { return stranger.Sign(s.w.Position().Claims(s.now.Unix())) }))
		}, byChanges},
		{"right claims with an edge's certificate", func(s *stairs) {
			s.batch(resigned(s.t, s.put("a", "1"), func(string) string { return signedByAnEdge(s.t, s.w, s.now) }))
		}, byChanges},
		{"another cluster's batch", func(s *stairs) {
			b, err := elsewhere.Batch(0, 1000)
			if err != nil {
				s.t.Fatal(err)
			}
			s.batch(b.AppendBinary(nil))
		}, bySource},
		{"an old epoch's batch", func(s *stairs) {
			s.batch(resigned(s.t, s.put("a", "1"), func(string) string {
				p := s.w.Position()
				p.Epoch--
				return s.w.Sign(p.Claims(s.now.Unix()))
			}))
		}, byChanges},
		{"an old epoch's head", func(s *stairs) {
			p := s.w.Position()
			p.Epoch, p.N = p.Epoch-1, p.N+1000
			s.head(s.w.Sign(replication.Head{Position: p, AsOf: s.now.Unix()}.Claims(s.now.Unix())))
		}, bySource},
		{"garbage of all kinds", func(s *stairs) {
			for _, frame := range [][]byte{nil, {0}, []byte("garbage"), bytes.Repeat([]byte{0xff}, 1000), replication.Batch{Signed: "a.b.c", Changes: [][]byte{{1}}}.AppendBinary(nil)} {
				s.batch(frame)
				s.head(string(frame))
			}
		}, bySource},
		{"a batch cut off", func(s *stairs) { f := s.put("a", "1"); s.batch(f[:len(f)/2]) }, byChanges},
		{"a head repeated", func(s *stairs) { h := s.w.SignedHead(); s.head(h); s.head(h) }, bySource},
		{"a head altered", func(s *stairs) { h := s.w.SignedHead(); s.head(string(alter([]byte(h), len(h)-10))) }, bySource},
		{"a head by the wrong key", func(s *stairs) { s.head(wrongKey(s.t, s.w.SignedHead(), stranger.SignedHead())) }, bySource},
		{"a head of tomorrow", func(s *stairs) {
			tomorrow := s.now.Add(24 * time.Hour).Unix()
			s.head(s.w.Sign(replication.Head{Position: s.w.Position(), AsOf: tomorrow}.Claims(s.now.Unix())))
			if got := s.m.Head().AsOf; got >= tomorrow {
				s.t.Errorf("as_of = %d, which is tomorrow", got)
			}
		}, bySource},
		{"heads withheld", func(s *stairs) { // the source brings batches and no more head: as_of must not stand still
			s.batch(s.put("a", "1"))
			s.pass(3 * time.Second)
		}, byChanges},
		{"everything withheld", func(s *stairs) { s.put("a", "1"); s.pass(3 * time.Second) }, byChanges},
		{"a new epoch's head", func(s *stairs) {
			s.w.RaiseEpoch()
			s.put("a", "1")
			s.head(s.w.SignedHead())
		}, bySnapshot},
		{"a new epoch's batch", func(s *stairs) {
			s.w.RaiseEpoch()
			s.batch(s.put("a", "1"))
		}, bySnapshot},
		{"a head of another history at our revision", func(s *stairs) { // a writer says that what we hold is not its own
			s.m.mu.Lock()
			s.m.head.Chain[0]++
			s.been = append(s.been, s.m.head.Position)
			s.m.mu.Unlock()
			s.pass(time.Second)
			s.head(s.w.SignedHead())
		}, bySnapshot},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newStairs(t)
			before := s.m.Head()
			tt.bring(s)
			if h := s.m.Head(); h.Revision().Compare(before.Revision()) < 0 || h.AsOf < before.AsOf {
				t.Errorf("went back from %+v to %+v", before, h)
			}
			s.alive = !strings.Contains(tt.name, "withheld")
			s.settle()
			if got := s.way(); got != tt.way {
				t.Errorf("mended by %s (asked for %v), want %s", got, s.asked, tt.way)
			}
		})
	}
}

// signedByAnEdge signs the writers' position with a key that has a valid certificate, of the role edge.
func signedByAnEdge(t *testing.T, w *replicationtest.Writer, now time.Time) string {
	t.Helper()
	key, err := token.GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	jwk, err := token.PublicJWK(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	certs, err := w.CertifyEdge("e1", entitlement.Sandbox, jwk)
	if err != nil {
		t.Fatal(err)
	}
	if s, err := token.NewPositionSigner(key, certs, w.Roots(), now); err == nil {
		signed, err := s.AppendSign(nil, w.Position().Claims(now.Unix()))
		if err != nil {
			t.Fatal(err)
		}
		return string(signed)
	}
	// No signer takes such a certificate; a forger puts the parts together by hand.
	genuine, err := token.NewGraceSigner(key, certs, w.Roots(), now)
	if err != nil {
		t.Fatal(err)
	}
	grace, err := genuine.AppendSign(nil, &token.GraceClaims{Subject: "acc", IssuedAt: now.Unix(), AsOf: now.Unix(), Revision: "1-1"})
	if err != nil {
		t.Fatal(err)
	}
	return string(grace)
}

// TestTheSecondRung is the pull: a writer, or whoever answers in its place, may answer wrongly. The next writer is asked; a snapshot is taken only where a writer
// has signed what changes cannot lead to.
func TestTheSecondRung(t *testing.T) {
	stranger, err := replicationtest.New("cluster")
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name string
		// spoil changes the answers of the first writer; the second is right.
		spoil func(s *stairs, b *replication.Batch, head *string) error
		way   string
	}{
		{"right answers", func(*stairs, *replication.Batch, *string) error { return nil }, byChanges},
		{"no answer", func(*stairs, *replication.Batch, *string) error { return replication.ErrUnavailable }, byChanges},
		{"a frame that is none", func(_ *stairs, b *replication.Batch, h *string) error {
			if b != nil {
				return replication.ErrFrame
			}
			*h = "garbage"
			return nil
		}, byChanges},
		{"a stranger's signature", func(s *stairs, b *replication.Batch, h *string) error {
			if b != nil {
				b.Signed = stranger.Sign(s.w.Position().Claims(s.now.Unix()))
			} else {
				*h = stranger.SignedHead()
			}
			return nil
		}, byChanges},
		{"a valid chain and the wrong key", func(s *stairs, b *replication.Batch, h *string) error {
			if b != nil {
				b.Signed = wrongKey(s.t, b.Signed, stranger.SignedHead())
			} else {
				*h = wrongKey(s.t, *h, stranger.SignedHead())
			}
			return nil
		}, byChanges},
		{"an old epoch", func(s *stairs, b *replication.Batch, h *string) error {
			p := s.w.Position()
			p.Epoch--
			if b != nil {
				b.Signed = s.w.Sign(p.Claims(s.now.Unix()))
			} else {
				*h = s.w.Sign(replication.Head{Position: p, AsOf: s.now.Unix()}.Claims(s.now.Unix()))
			}
			return nil
		}, byChanges},
		{"the last change missing", func(_ *stairs, b *replication.Batch, _ *string) error {
			if b != nil && len(b.Changes) > 0 {
				b.Changes = b.Changes[:len(b.Changes)-1]
			}
			return nil
		}, byChanges},
		{"the first change missing", func(_ *stairs, b *replication.Batch, _ *string) error {
			if b != nil && len(b.Changes) > 0 {
				b.Changes = b.Changes[1:]
			}
			return nil
		}, byChanges},
		{"two changes exchanged", func(_ *stairs, b *replication.Batch, _ *string) error {
			if b != nil && len(b.Changes) > 1 {
				b.Changes = [][]byte{b.Changes[1], b.Changes[0]}
			}
			return nil
		}, byChanges},
		{"as_of stands still", func(s *stairs, b *replication.Batch, h *string) error { // a writer that is cut off from its cluster
			if b != nil {
				b.Changes, b.Signed = nil, s.w.Sign(s.been[0].Claims(s.now.Unix()))
				return nil
			}
			*h = s.w.Sign(replication.Head{Position: s.been[0], AsOf: s.now.Unix() - 100}.Claims(s.now.Unix()))
			return nil
		}, byChanges},
		{"below the floor", func(_ *stairs, b *replication.Batch, _ *string) error {
			if b != nil {
				return replication.ErrBelowFloor
			}
			return nil
		}, bySnapshot},
		{"other changes under a signature of the writer", func(_ *stairs, b *replication.Batch, _ *string) error {
			if b != nil && len(b.Changes) == 2 {
				b.Changes = slices.Clone(b.Changes)
				b.Changes[1] = alter(b.Changes[1], len(b.Changes[1])-1)
			}
			return nil
		}, bySnapshot},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newStairs(t)
			s.put("a", "1")
			s.put("b", "1")
			first, climbing := s.l.Writer(), false
			s.spoil = func(r replication.Request, b *replication.Batch, h *string) error {
				if climbing = climbing || slices.Contains(s.asked, replication.AskSnapshot); climbing || s.l.Writer() != first {
					return nil
				}
				return tt.spoil(s, b, h)
			}
			s.pass(3 * time.Second) // the source has fallen silent
			s.settle()
			if got := s.way(); got != tt.way {
				t.Errorf("mended by %s (asked for %v), want %s", got, s.asked, tt.way)
			}
		})
	}
}

// TestTheThirdRung is the snapshot, over HTTP: whatever comes instead of the one that a writer has signed is not served; what was served is served on until a right
// one comes (I7, I13), and then the replica is there.
func TestTheThirdRung(t *testing.T) {
	stranger, err := replicationtest.New("cluster")
	if err != nil {
		t.Fatal(err)
	}
	stranger.Put(record("a", "forged"))
	forgedBody, _, forgedManifest, err := stranger.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	body := func(change func([]byte) []byte) func(http.Header, []byte) []byte {
		return func(_ http.Header, b []byte) []byte { return change(b) }
	}
	tests := []struct {
		name  string
		spoil func(h http.Header, b []byte) []byte
	}{
		{"a bit flipped at the start", body(func(b []byte) []byte { return alter(b, 3) })},
		{"a bit flipped in the middle", body(func(b []byte) []byte { return alter(b, len(b)/2) })},
		{"a bit flipped at the end", body(func(b []byte) []byte { return alter(b, len(b)-1) })},
		{"cut in the middle", body(func(b []byte) []byte { return b[:len(b)/2] })},
		{"one byte short", body(func(b []byte) []byte { return b[:len(b)-1] })},
		{"empty", body(func([]byte) []byte { return nil })},
		{"zeros of the right size", body(func(b []byte) []byte { return make([]byte, len(b)) })},
		{"a stranger's body", body(func([]byte) []byte { return forgedBody })},
		{"a stranger's snapshot with its manifest", func(h http.Header, _ []byte) []byte {
			h.Set(replication.ManifestHeader, forgedManifest)
			return forgedBody
		}},
		{"no manifest", func(h http.Header, b []byte) []byte { h.Del(replication.ManifestHeader); return b }},
		{"a bit of the manifest flipped", func(h http.Header, b []byte) []byte {
			m := h.Get(replication.ManifestHeader)
			h.Set(replication.ManifestHeader, string(alter([]byte(m), len(m)-10)))
			return b
		}},
		{"the manifest with its claims by the wrong key", func(h http.Header, b []byte) []byte {
			h.Set(replication.ManifestHeader, wrongKey(t, h.Get(replication.ManifestHeader), forgedManifest))
			return b
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := newStairs(t)
			s.batch(s.put("a", "true"))
			before := s.m.Head()
			gate := &spoiling{to: s.w}
			gate.set(tt.spoil)
			s.client = replication.NewClient(serve(t, gate), "e1", nil)
			s.alive = true
			s.w.RaiseEpoch() // only a snapshot helps
			s.put("a", "newer")
			s.head(s.w.SignedHead())
			for range 100 {
				if gate.count() > 1 {
					break
				}
				s.step()
				s.pass(100 * time.Millisecond)
				if h := s.m.Head(); h.Position != before.Position {
					t.Fatalf("the replica is at %+v", h)
				}
			}
			if got := s.m.records[string(record("a", "").DBKey())]; string(got.Value) != "true" || gate.count() < 2 {
				t.Errorf("a = %q after %d downloads, want true as before, after 2", got.Value, gate.count())
			}
			if len(s.l.Reasons()) == 0 {
				t.Error("no reason is told")
			}
			gate.set(nil)
			s.settle()
		})
	}
}

// TestASnapshotIsNoWayBack is I7: a genuine snapshot of an older epoch is refused by its manifest, before anything is downloaded.
func TestASnapshotIsNoWayBack(t *testing.T) {
	s := newStairs(t)
	_, _, old, err := s.w.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	s.w.RaiseEpoch()
	s.put("a", "1")
	s.head(s.w.SignedHead())
	s.settle()
	if _, err := s.l.Climb().Judge(old); !errors.Is(err, replication.ErrOlderEpoch) {
		t.Errorf("Judge of an old epoch's manifest = %v, want ErrOlderEpoch", err)
	}
}

// TestAClimbEndsWithAHead: writers that write all the time are always one change ahead. What is served after a climb knows how old it is all the same (I8): without
// a head nothing can be signed.
func TestAClimbEndsWithAHead(t *testing.T) {
	s := newStairs(t)
	c := s.l.Climb()
	body, _, signed, err := s.w.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	m, err := c.Judge(signed)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Build(t.Context(), m, bytes.NewReader(body)); err != nil {
		t.Fatal(err)
	}
	s.pass(10 * time.Second)
	var asked []replication.RequestKind
	for r := c.Next(); r.Kind != replication.AskNothing && len(asked) < 10; r = c.Next() {
		asked = append(asked, r.Kind)
		if r.Kind == replication.AskChanges {
			err = c.TookChanges(s.changes(r))
		} else {
			s.put("a", fmt.Sprint("busy ", len(asked)))
			err = c.TookHead(s.w.SignedHead(), nil)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := s.l.Finish(s.now, replication.Request{Kind: replication.AskSnapshot}, c, nil); err != nil {
		t.Fatal(err)
	}
	s.check()
	if h := s.m.Head(); h.AsOf != s.now.Unix() {
		t.Errorf("after %v the replica is as of %d, want %d", asked, h.AsOf, s.now.Unix())
	}
}

// TestTwoHistoriesOfOneEpochAreNeverJoined: two restores of one backup whose epochs began in the same second count the same revisions, under the same keys, and mean
// different changes. The chain tells them apart (I5): whatever comes of the other history, the replica is a whole state of one of them, with nothing of the other in
// it (I6), and no revision is followed by a lower one (I7).
func TestTwoHistoriesOfOneEpochAreNeverJoined(t *testing.T) {
	tests := []struct {
		name       string
		ours, more int                     // changes of the history that is followed, and of the other one
		silent     bool                    // the source brings no heads
		bring      func(*stairs, [][]byte) // what comes of the other one first; with its frames
	}{
		{name: "its head, at the same revision", ours: 2, more: 2, bring: func(s *stairs, _ [][]byte) { s.head(s.w.SignedHead()) }},
		{name: "its head, further on", ours: 2, more: 3, bring: func(s *stairs, _ [][]byte) { s.head(s.w.SignedHead()) }},
		{name: "its changes over NATS, from the fork on", ours: 2, more: 3, bring: func(s *stairs, frames [][]byte) {
			for _, f := range frames {
				s.batch(f)
			}
		}},
		{name: "its next change over NATS", ours: 2, more: 3, bring: func(s *stairs, frames [][]byte) { s.batch(frames[2]) }},
		{name: "its changes by pull", ours: 2, more: 3, silent: true, bring: func(s *stairs, _ [][]byte) { s.pass(3 * time.Second) }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newStairs(t)
			ours, other := s.w, s.w.Fork()
			for i := range tt.ours {
				s.put("a", fmt.Sprint("ours ", i))
			}
			s.settle()
			held := s.m.Head().Position
			s.w = other
			var frames [][]byte
			for i := range tt.more {
				frames = append(frames, s.put("b", fmt.Sprint("other ", i)))
			}
			s.asked, s.alive = nil, !tt.silent
			tt.bring(s, frames)
			if p := s.m.Head().Position; p != held {
				t.Fatalf("the replica is at %+v, want %+v as before: nothing of the other history follows it", p, held)
			}
			s.settle()
			if got := s.way(); got != bySnapshot {
				t.Errorf("it came to the other history by %s, want %s: whole or not at all", got, bySnapshot)
			}
			if _, mixed := s.m.records[string(record("b", "").DBKey())]; !mixed || string(s.m.records[string(record("a", "").DBKey())].Value) != "0" {
				t.Errorf("the records are %v, want those of the other history alone", s.m.records)
			}
			// The history that was left counts as another one now, and what it says below the revision that is served moves nothing back.
			s.w = ours
			served := s.m.Head().Position
			s.head(s.w.SignedHead())
			s.step()
			if p := s.m.Head().Position; p.Revision().Compare(served.Revision()) < 0 {
				t.Errorf("from %s the replica went back to %s", served.Revision(), p.Revision())
			}
		})
	}
}
