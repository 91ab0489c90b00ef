package chaos

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/latchkey/latchkey/pkg/entitlement"
	"github.com/latchkey/latchkey/replication"
)

// A checker that never failed proves nothing. Each is shown a history in which all is well, and then the same with one thing made wrong:
// it must find that, and no other checker anything.

var began = time.Date(2026, time.November, 22, 12, 0, 0, 0, time.UTC)

func at(seconds float64) time.Time { return began.Add(time.Duration(seconds * float64(time.Second))) }

func rev(n uint64) replication.Revision { return replication.Revision{Epoch: 1, N: n} }

// change is the n-th of a log in which one account changes all the time.
func change(n uint64) []byte {
	return replication.Change{N: n, Record: replication.Record{Env: "sandbox", Kind: replication.KindAccount, Key: "acc_1", Value: []byte{byte(n)}}}.AppendBinary(nil)
}

func foldOf(t *testing.T, changes int) *Fold {
	t.Helper()
	f := NewFold(1)
	for n := range changes {
		if err := f.Add(change(uint64(n + 1))); err != nil {
			t.Fatal(err)
		}
	}
	return f
}

// sound is a history without fault: an account is bought for and refunded, while one writer leads and then another.
func sound(t *testing.T) *History {
	logs := map[string]*Fold{"w1": foldOf(t, 6), "w2": foldOf(t, 6), "w3": foldOf(t, 5)}
	h := &History{
		Acks: []Ack{
			{ID: "evt_1", Account: "acc_1", Revision: rev(2), Sent: at(1), Answered: at(1.1), Writer: "w1"},
			{ID: "evt_1", Account: "acc_1", Revision: rev(2), Duplicate: true, Sent: at(2), Answered: at(2.1), Writer: "w2"},
			{ID: "idem_1", Grant: "grant_1", Account: "acc_1", Revision: rev(3), Sent: at(3), Answered: at(3.1), Writer: "w1"},
			{ID: "idem_1", Grant: "grant_1", Account: "acc_1", Revision: rev(3), Sent: at(3.5), Answered: at(3.6), Writer: "w3"},
			{ID: "evt_2", Account: "acc_1", Revision: rev(5), Sent: at(10), Answered: at(10.1), Writer: "w2"},
		},
		Listed: map[string][]string{"acc_1": {"evt_1", "evt_2"}},
		Writers: []WriterSample{
			{At: at(1), Node: "w1", Leader: true, Term: 2, Applied: 10, Position: rev(2), StateHash: "s10", FullHash: "f10"},
			{At: at(1.2), Node: "w2", Term: 2, Applied: 10, Position: rev(2), StateHash: "s10", FullHash: "f10"},
			{At: at(8), Node: "w2", Leader: true, Term: 3, Applied: 20, Position: rev(5), StateHash: "s20", FullHash: "f20"},
		},
		Steps: map[string][]Step{"acc_1": {
			{Sent: at(1), Answered: at(1.1), Revision: rev(2), Active: true},
			{Sent: at(10), Answered: at(10.1), Revision: rev(5), Active: false},
			{Sent: at(20), Active: true},
		}},
		Answers: []Answer{
			{Sent: at(5), At: at(5.01), Node: "e1", Account: "acc_1", Revision: rev(3), AsOf: at(4), Active: true, Allowed: true},
			{Sent: at(12), At: at(12.01), Node: "e1", Account: "acc_1", Revision: rev(5), AsOf: at(11), Active: false, Allowed: false},
			{Sent: at(12), At: at(12.01), Node: "e2", Account: "acc_1", Revision: rev(4), AsOf: at(4), Active: true, Allowed: true},  // cut off
			{Sent: at(21), At: at(21.01), Node: "e1", Account: "acc_1", Revision: rev(6), AsOf: at(20), Active: true, Allowed: true}, // the last step may show
		},
		Logs:     logs,
		Leads:    []Lead{{"w1", 2}, {"w2", 3}},
		Journals: map[string][]byte{"w1": []byte("abcdef"), "w2": []byte("abcdef"), "w3": []byte("abc")},
		Spreads:  []Spread{{"NATS stopped", 2100 * time.Millisecond}},
		Heals:    []Heal{{Round: 1, Faults: "kill the leader", Leader: 2 * time.Second, Fresh: time.Second, Restores: 1}},
	}
	for _, id := range []string{"evt_1", "evt_2", "idem_1"} {
		for _, node := range []string{"w1", "w2", "w3"} {
			h.Found = append(h.Found, Presence{Node: node, ID: id, Here: true})
		}
	}
	for i, n := range []uint64{2, 3, 5} {
		f := logs["w1"]
		h.Edges = append(h.Edges, EdgeSample{Sent: at(float64(5 * i)), At: at(float64(5*i) + 0.01), Node: "e1", Position: rev(n), StateHash: f.States[n].String(),
			Chain: f.Chains[n].String(), AsOf: at(float64(5*i) - 1)})
	}
	return h
}

func TestEveryCheckerFindsItsFaultAndNoOther(t *testing.T) {
	tests := []struct {
		name      string
		invariant string // that is broken; empty: none is
		says      string
		spoil     func(h *History)
	}{
		{"nothing is wrong", "", "", func(*History) {}},
		{"an acknowledged event is gone at one writer", "I1", "evt_1 is acknowledged and not at w2", func(h *History) { h.Found[1].Here = false }},
		{"a grant is gone", "I1", "idem_1 is acknowledged and not at w3", func(h *History) { h.Found[8].Here = false }},
		{"nobody looked for an event", "I1", "nobody looked", func(h *History) { h.Found = h.Found[3:] }},
		{"a message is new twice", "I2", "new twice", func(h *History) { h.Acks[1].Duplicate = false }},
		{"a repeat has another revision", "I2", "1-2 (w1) and 1-3 (w2)", func(h *History) { h.Acks[1].Revision = rev(3) }},
		{"one request makes two grants", "I2", "grant_1 and grant_2", func(h *History) { h.Acks[3].Grant = "grant_2" }},
		{"an event is in the history twice", "I2", "twice", func(h *History) { h.Listed["acc_1"] = append(h.Listed["acc_1"], "evt_1") }},
		{"two writers at one index differ beyond records", "I3", "at index 10", func(h *History) { h.Writers[1].FullHash = "other" }},
		{"two writers at one index differ in records", "I3", "at index 10", func(h *History) { h.Writers[1].StateHash = "other" }},
		{"two leaders of one term", "I4", "both lead in term 2", func(h *History) { h.Writers[1].Leader = true }},
		{"two leaders of one term, by their logs", "I4", "both lead in term 3", func(h *History) { h.Leads = append(h.Leads, Lead{"w3", 3}) }},
		{"journals that fork", "I4", "journals of w1 and w3 differ", func(h *History) { h.Journals["w3"] = []byte("abX") }},
		{"a log that is not dense", "I5", "not dense", func(h *History) { h.Logs["w2"].Broken = []string{errNotDense.Error()} }},
		{"logs that fork", "I5", "not one", func(h *History) { h.Logs["w3"].Chains[5][0]++ }},
		{"an edge's state is not the log's", "I6", "e1 at 1-3", func(h *History) { h.Edges[1].StateHash = h.Edges[0].StateHash }},
		{"an edge's chain is not the log's", "I6", "e1 at 1-3", func(h *History) { h.Edges[1].Chain = h.Edges[0].Chain }},
		{"an edge's status goes back", "I7", "the status of e1 goes back from 1-3 to 1-2", func(h *History) {
			last := &h.Edges[2]
			last.Position, last.StateHash, last.Chain, last.AsOf = h.Edges[0].Position, h.Edges[0].StateHash, h.Edges[0].Chain, h.Edges[0].AsOf
		}},
		{"an edge's answer goes back", "I7", "e1 to acc_1 goes back from 1-5 to 1-4", func(h *History) {
			back := h.Answers[2]
			back.Node, back.Sent, back.At = "e1", at(12.5), at(12.6)
			h.Answers = append(h.Answers, back)
		}},
		{"an edge claims to know what it does not", "I8", "e2 to acc_1 shows 1-4", func(h *History) { h.Answers[2].AsOf = at(12.9) }},
		{"as_of has not come yet", "I8", "as of", func(h *History) { h.Answers[1].AsOf = at(15) }},
		{"all clocks jumped: as_of is right", "", "", func(h *History) {
			h.Shifts = []Shift{{at(11.5), 10 * time.Minute}}
			h.Answers[1].AsOf = h.Answers[1].AsOf.Add(10 * time.Minute)
		}},
		{"a change is slow without NATS", "I12", "3.2s", func(h *History) { h.Spreads[0].Took = 3200 * time.Millisecond }},
		{"a paid account is denied", "I13", "want true", func(h *History) { h.Answers[0].Active, h.Answers[0].Allowed = false, false }},
		{"a refunded account is served", "I13", "want false", func(h *History) { h.Answers[1].Active, h.Answers[1].Allowed = true, true }},
		{"a token says other than its answer", "I13", "its token", func(h *History) { h.Answers[0].Allowed = false }},
		{"no leader after the faults", "I19", "never", func(h *History) { h.Heals[0].Leader = -1 }},
		{"edges are stale after the faults", "I19", "edges fresh after 6s", func(h *History) { h.Heals[0].Fresh = 6 * time.Second }},
		{"snapshots go round", "I19", "21 snapshots", func(h *History) { h.Heals[0].Restores = 21 }},
		{"an answer that no fault explains", "answer", "w1 answered 500", func(h *History) { h.Strange = []string{"w1 answered 500"} }},
	}
	covered := map[string]bool{}
	for _, tt := range tests {
		covered[tt.invariant] = true
		t.Run(tt.name, func(t *testing.T) {
			h := sound(t)
			tt.spoil(h)
			found := Check(h)
			if tt.invariant == "" {
				if len(found) > 0 {
					t.Errorf("Check = %v, want nothing", found)
				}
				return
			}
			if len(found) == 0 || !strings.Contains(found[0].What, tt.says) {
				t.Errorf("Check = %v, want %s: ...%s...", found, tt.invariant, tt.says)
			}
			if slices.ContainsFunc(found, func(v Violation) bool { return v.Invariant != tt.invariant }) {
				t.Errorf("Check = %v, want %s alone", found, tt.invariant)
			}
		})
	}
	for _, c := range checkers {
		if !covered[c.invariant] {
			t.Errorf("no history here breaks %s: its checker may be blind", c.invariant)
		}
	}
}

func TestFoldFindsWhatDoesNotLink(t *testing.T) {
	position := func(f *Fold) replication.Position {
		return replication.Position{Epoch: 1, N: f.Newest(), Chain: f.Chains[f.Newest()], StateHash: f.States[f.Newest()]}
	}
	f := foldOf(t, 3)
	if err := f.Agrees(position(f)); err != nil {
		t.Errorf("Agrees with its own position = %v", err)
	}
	forked := position(f)
	forked.Chain[0]++
	if err := f.Agrees(forked); err == nil || !strings.Contains(err.Error(), "chain") {
		t.Errorf("Agrees with another chain = %v, want an error", err)
	}
	other := position(f)
	other.StateHash[0]++
	if err := f.Agrees(other); err == nil || !strings.Contains(err.Error(), "state hash") {
		t.Errorf("Agrees with another state = %v, want an error", err)
	}
	for name, next := range map[string]uint64{"one left out": 5, "one repeated": 3} {
		if err := f.Add(change(next)); err == nil {
			t.Errorf("%s: Add = nil, want an error", name)
		}
	}
	if err := f.Add(change(4)[:20]); err == nil {
		t.Error("Add of half a change = nil, want an error")
	}
	// The state hash is that of the records: what is deleted no longer counts.
	gone := replication.Change{N: 4, Record: replication.Record{Env: entitlement.Sandbox, Kind: replication.KindAccount, Key: "acc_1"}}.AppendBinary(nil)
	if err := f.Add(gone); err != nil || f.States[4] != (replication.Hash{}) {
		t.Errorf("after the only record was deleted: state %s, %v, want that of no records", f.States[4], err)
	}
}
