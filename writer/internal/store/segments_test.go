package store

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/latchkey/latchkey/pkg/entitlement"
	"github.com/latchkey/latchkey/replication"
)

// TestAnAlteredSegmentIsNotTaken: whatever another writer sends in the place of a sealed segment, only the bytes with the hash in the state become one.
func TestAnAlteredSegmentIsNotTaken(t *testing.T) {
	var sent []byte
	nodes := startCluster(t, 1, func(c *Config) {
		c.SegmentBytes = 4 << 10
		c.FetchSegment = func(context.Context, replication.Hash) (io.ReadCloser, error) {
			return io.NopCloser(bytes.NewReader(sent)), nil
		}
	})
	fill(t, nodes, 0, 40)
	sealed, err := nodes[0].fsm.sealedSegments()
	if err != nil || len(sealed) < 2 {
		t.Fatalf("sealed segments: %v, %v, want two at least", sealed, err)
	}
	path := nodes[0].fsm.journal.path(sealed[0].number)
	right, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	another, err := os.ReadFile(nodes[0].fsm.journal.path(sealed[1].number))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	flipped := func(at int) []byte {
		b := bytes.Clone(right)
		b[at] ^= 1
		return b
	}
	for _, tt := range []struct {
		name string
		sent []byte
	}{
		{"a bit flipped at the start", flipped(0)},
		{"a bit flipped in the middle", flipped(len(right) / 2)},
		{"a bit flipped at the end", flipped(len(right) - 1)},
		{"cut off", right[:len(right)/2]},
		{"zeros", make([]byte, len(right))},
		{"another segment", another},
		{"nothing", nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			sent = tt.sent
			if err := nodes[0].fetch(sealed[0]); err == nil {
				t.Error("fetch: no error")
			}
			if _, err := os.Stat(path); !os.IsNotExist(err) {
				t.Errorf("the segment is there: %v", err)
			}
		})
	}
	sent = right
	if err := nodes[0].fetch(sealed[0]); err != nil {
		t.Fatalf("fetch of the right bytes: %v", err)
	}
	if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, right) {
		t.Errorf("%d bytes, %v, want the %d of the segment", len(got), err, len(right))
	}
	if left, err := filepath.Glob(filepath.Join(filepath.Dir(path), "*.tmp")); err != nil || len(left) != 0 {
		t.Errorf("left over: %v, %v", left, err)
	}
}

// A state from another node counts as lacking segments from the moment that it is seen, and nothing that was found of the state before it says otherwise: a newcomer
// would vote, and a backup be taken, without them.
func TestARestoredStateLacksSegmentsUntilSomebodyLooked(t *testing.T) {
	from, m := newMachine(t, 300), newMachine(t, 300)
	for i := range 40 {
		from.apply(create(entitlement.AccountID(fmt.Sprintf("acc_%d", i))))
	}
	before := m.missing.state()
	if missing, err := m.missingSegments(); err != nil || len(missing) != 0 || m.missing.segments() != 0 {
		t.Fatalf("a state of this node's own lacks %v, %v", missing, err)
	}
	seen := 0
	m.fetchSegments = func() { seen = m.missing.segments() }
	if err := m.Restore(nopCloser{bytes.NewReader(packedSnapshot(t, from))}); err != nil {
		t.Fatal(err)
	}
	m.missing.found(before, 0) // by somebody who looked before
	if after := m.missing.segments(); seen == 0 || after == 0 {
		t.Errorf("restored with %d lacking, then %d: want some", seen, after)
	}
	sealed, err := m.sealedSegments()
	if err != nil || len(sealed) < 2 {
		t.Fatalf("sealed segments: %v, %v, want two at least", sealed, err)
	}
	if missing, err := m.missingSegments(); err != nil || len(missing) != len(sealed) || m.missing.segments() != len(sealed) {
		t.Errorf("%d segments are missing, %v, and %d are said to be, want %d", len(missing), err, m.missing.segments(), len(sealed))
	}
	m.missing.found(m.missing.state(), 0)
	if n := m.missing.segments(); n != 0 {
		t.Errorf("everything was fetched, and %d are said to be missing", n)
	}
}
