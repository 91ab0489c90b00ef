package store

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/latchkey/latchkey/pkg/entitlement"
)

// This file shows what crashes and faults leave: of the journal's tail, and of the log's disk.

func TestTheJournalIsCutToTheState(t *testing.T) {
	m := newMachine(t, 1<<20)
	for i := range 5 {
		m.apply(create(entitlement.AccountID(fmt.Sprintf("acc_%d", i))))
	}
	st := m.state
	path := m.journal.path(st.Segment)
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name    string
		content []byte
		ok      bool
	}{
		{"as it was", whole, true},
		{"with half an entry that a crash left", append(bytes.Clone(whole), 0, 0, 0, 9, 1), true},
		{"with a whole entry that the state does not have", append(bytes.Clone(whole), whole...), true},
		{"shorter than the state", whole[:len(whole)-1], false},
		{"with another byte", append(append(bytes.Clone(whole[:20]), whole[20]^1), whole[21:]...), false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			j, err := newJournal(t.TempDir(), 1<<20)
			if err != nil {
				t.Fatal(err)
			}
			for _, n := range []uint64{st.Segment, st.Segment + 1} {
				if err := os.WriteFile(j.path(n), tt.content, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			err = j.open(&st, "")
			if tt.ok != (err == nil) || err != nil && !errors.Is(err, errJournal) {
				t.Fatalf("open: %v", err)
			}
			if tt.ok {
				got, err := os.ReadFile(j.path(st.Segment))
				if err != nil || !bytes.Equal(got, whole) {
					t.Errorf("%d bytes, %v; want %d", len(got), err, len(whole))
				}
				if _, err := os.Stat(j.path(st.Segment + 1)); !errors.Is(err, os.ErrNotExist) {
					t.Errorf("a later segment is still there: %v", err)
				}
			}
			if err := j.close(); err != nil {
				t.Fatal(err)
			}
		})
	}
}

func TestASegmentIsSealedByTheEntryThatPassesTheLimit(t *testing.T) {
	m := newMachine(t, 300)
	for i := range 30 {
		m.apply(create(entitlement.AccountID(fmt.Sprintf("acc_%d", i))))
	}
	list, err := m.sealedSegments()
	if err != nil || len(list) < 2 {
		t.Fatalf("%d sealed segments, %v", len(list), err)
	}
	for i, seg := range list {
		if seg.number != uint64(i+1) || seg.size < 300 {
			t.Errorf("segment %+v: sealed before it passed 300 bytes", seg)
		}
		content, err := os.ReadFile(m.journal.path(seg.number))
		if err != nil || int64(len(content)) != seg.size {
			t.Errorf("segment %d: %d bytes, %v; want %d", seg.number, len(content), err, seg.size)
		}
		first, err := readEntry(bytes.NewReader(content))
		if err != nil {
			t.Fatal(err)
		}
		if rest := seg.size - int64(entryHeader+len(first)); rest >= 300+int64(len(first)) {
			t.Errorf("segment %d has %d bytes after its first entry", seg.number, rest)
		}
	}
	m.check()
}

// The journal belongs to the snapshot: what lies after it is cut and written again by the log.
func TestARestoreBringsTheJournalBackToTheSnapshot(t *testing.T) {
	m := newMachine(t, 300)
	for i := range 4 {
		m.apply(create(entitlement.AccountID(fmt.Sprintf("acc_%d", i))))
	}
	packed := packedSnapshot(t, m)
	at := m.state
	var later []Command
	for i := range 6 {
		later = append(later, create(entitlement.AccountID(fmt.Sprintf("acc_later_%d", i))))
	}
	for _, c := range later {
		m.apply(c)
	}
	want := m.state
	if err := m.Restore(nopCloser{bytes.NewReader(packed)}); err != nil {
		t.Fatal(err)
	}
	if m.state != at {
		t.Fatalf("restored to %+v, want %+v", m.state, at)
	}
	m.index = at.Applied
	for _, c := range later {
		m.apply(c)
	}
	if m.state != want {
		t.Errorf("after the same commands again %+v, want %+v", m.state, want)
	}
	m.check()
}

type nopCloser struct{ *bytes.Reader }

func (nopCloser) Close() error { return nil }

func TestAFaultOfTheLogEndsTheProcess(t *testing.T) {
	fatal := make(chan error, 8)
	d := &disk{fatal: func(err error) { fatal <- err }, timeout: time.Minute, sync: func(float64) {}}
	t.Run("an error of a write", func(t *testing.T) {
		broken := errors.New("no space left on device")
		if err := d.guard("store", func() error { return broken }); !errors.Is(err, broken) {
			t.Errorf("guard: %v", err)
		}
		if err := <-fatal; !errors.Is(err, broken) {
			t.Errorf("fatal: %v", err)
		}
	})
	t.Run("a write that hangs", func(t *testing.T) {
		d := &disk{fatal: d.fatal, timeout: 20 * time.Millisecond, sync: d.sync}
		hang := make(chan struct{})
		done := make(chan error)
		go func() { done <- d.guard("store", func() error { <-hang; return nil }) }()
		select {
		case <-fatal:
		case <-testContext(t).Done():
			t.Error("nobody noticed")
		}
		close(hang)
		if err := <-done; err != nil {
			t.Errorf("guard: %v", err)
		}
	})
	t.Run("a write in time is no fault", func(t *testing.T) {
		if err := d.guard("store", func() error { return nil }); err != nil || len(fatal) > 0 {
			t.Errorf("guard: %v", err)
		}
	})
}

func TestTheLogHidesWhatWasCut(t *testing.T) {
	nodes := startCluster(t, 1, nil)
	for i := range 5 {
		propose(t, nodes, create(entitlement.AccountID(fmt.Sprintf("acc_%d", i))))
	}
	d := nodes[0].disk
	var entry raft.Log
	if err := d.GetLog(2, &entry); err != nil {
		t.Fatal(err)
	}
	if err := d.DeleteRange(1, 3); err != nil {
		t.Fatal(err)
	}
	if err := d.GetLog(2, &entry); !errors.Is(err, raft.ErrLogNotFound) {
		t.Errorf("a cut entry: %v, want ErrLogNotFound", err)
	}
	if !d.IsMonotonic() || !nodes[0].logs.IsMonotonic() {
		t.Error("the log store is not monotonic: a snapshot would leave divergent entries behind (hashicorp/raft#697)")
	}
}
