package store

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/hashicorp/raft"

	"github.com/latchkey/latchkey/replication"
)

// TestWhoIsWrong: the verdict on marks of several nodes, for each way in which they can agree and differ (I3).
func TestWhoIsWrong(t *testing.T) {
	mark := func(index uint64, state byte) Mark { return Mark{Index: index, Epoch: 1, Sum: replication.Hash{state}} }
	right, wrong := []Mark{mark(64, 1), mark(100, 2)}, []Mark{mark(64, 1), mark(100, 9)}
	three := map[string]bool{"w1": true, "w2": true, "w3": true}
	tests := []struct {
		name   string
		own    []Mark
		others map[string][]Mark
		voters map[string]bool
		same   uint64
		want   error
	}{
		{"all agree", right, map[string][]Mark{"w2": right, "w3": right}, three, 100, nil},
		{"alone", right, nil, map[string]bool{"w1": true}, 0, nil},
		{"nobody answers", right, nil, three, 0, nil},
		{"one is behind", right, map[string][]Mark{"w2": right[:1]}, three, 64, nil},
		{"nothing in common", right, map[string][]Mark{"w2": {mark(90, 7)}}, three, 0, nil},
		{"a majority is of another mind", wrong, map[string][]Mark{"w2": right, "w3": right}, three, 0, ErrDiverged},
		{"another one is wrong", right, map[string][]Mark{"w2": wrong, "w3": right}, three, 100, ErrDisagree},
		{"two differ and the third is silent", right, map[string][]Mark{"w2": wrong}, three, 64, ErrDisagree},
		{"the third was last seen before they parted", wrong, map[string][]Mark{"w2": right, "w3": right[:1]}, three, 64, ErrDisagree},
		{"three are of three minds", right, map[string][]Mark{"w2": wrong, "w3": {mark(100, 8)}}, three, 64, ErrDisagree},
		{"an older mark tells who is wrong", []Mark{mark(64, 9), mark(100, 9)}, map[string][]Mark{"w2": right, "w3": right[:1]}, three, 0, ErrDiverged},
		{"one without a vote counts for nothing", wrong, map[string][]Mark{"w2": right, "new": right}, three, 64, ErrDisagree},
		{"one without a vote stops too", wrong, map[string][]Mark{"w2": right, "w3": right}, map[string]bool{"w2": true, "w3": true}, 0, ErrDiverged},
		{"another epoch is another history", right, map[string][]Mark{"w2": {{Index: 100, Epoch: 2, Sum: replication.Hash{9}}}}, three, 0, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			same, err := compareMarks("w1", tt.own, tt.others, tt.voters)
			if same != tt.same || !errors.Is(err, tt.want) {
				t.Errorf("compareMarks = %d, %v, want %d, %v", same, err, tt.same, tt.want)
			}
		})
	}
}

// TestMarksDoNotDependOnBatches: nodes that apply one log in batches of different sizes, and one that begins in its middle, keep the
// same marks at the same indexes.
func TestMarksDoNotDependOnBatches(t *testing.T) {
	const entries = 400
	kept := func(sizes ...int) []Mark {
		m := newMachine(t, 1<<20)
		m.apply(create("acc_1"))
		var logs []*raft.Log
		for i := range entries {
			c := NewCommand(TypePutGrant, sandbox, fmt.Sprint(i), &PutGrant{Account: "acc_1", ID: fmt.Sprintf("g%d", i), Entitlement: "pro"})
			c.Stamp = m.now
			index := m.index + uint64(i) + 1
			if i > 150 {
				index += 90 // entries that never reach the state machine
			}
			logs = append(logs, &raft.Log{Index: index, Term: 1, Type: raft.LogCommand, Data: c.Encode()})
		}
		for n := 0; len(logs) > 0; n++ {
			size := min(sizes[n%len(sizes)], len(logs))
			m.ApplyBatch(logs[:size])
			logs = logs[size:]
		}
		m.check()
		return m.marks.kept
	}
	want := kept(1)
	if len(want) < entries/markEvery {
		t.Fatalf("%d marks are kept of %d entries, want one for each %d", len(want), entries, markEvery)
	}
	for _, sizes := range [][]int{{256}, {7, 100, 1}, {markEvery}} {
		if got := kept(sizes...); !slices.Equal(got, want) {
			t.Errorf("in batches of %v the marks are %v, want %v", sizes, got, want)
		}
	}
}

// TestMarksAreBounded: however long a node lives, it keeps the newest marks alone.
func TestMarksAreBounded(t *testing.T) {
	var m marks
	st := state{Applied: 1}
	for range 3 * marksKept {
		next := st.Applied + markEvery
		m.keep(m.before(next, &st))
		if due := m.before(st.Applied, &st); due != nil {
			t.Fatalf("a mark is due within %d entries", markEvery)
		}
		st.Applied = next
	}
	if len(m.kept) != marksKept || m.kept[marksKept-1].Index != st.Applied-markEvery {
		t.Errorf("%d marks up to %d are kept, want %d up to %d", len(m.kept), m.kept[len(m.kept)-1].Index, marksKept, st.Applied-markEvery)
	}
}
