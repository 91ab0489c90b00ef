package store

import (
	"bytes"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/latchkey/latchkey/pkg/entitlement"
)

// busyMachine is a state machine whose log goes on, so that what it applies is not committed before somebody needs it, or unwanted is over.
func busyMachine(t testing.TB, unwanted time.Duration) *machine {
	m := newMachine(t, 1<<20)
	m.fsm.unwanted = unwanted
	more := func(uint64) bool { return true }
	m.fsm.more.Store(&more)
	return m
}

// applyOpen applies a command and leaves it uncommitted.
func (m *machine) applyOpen(c Command) Result {
	c.Stamp = max(c.Stamp, m.now)
	m.index++
	return m.fsm.ApplyBatch([]*raft.Log{{Index: m.index, Term: 1, Type: raft.LogCommand, Data: c.Encode()}})[0].(Result)
}

// What was applied is in the state for whoever asks for it, whoever waits for news, snapshots, and the next start, although nobody commits
// each entry for itself.
func TestWhatIsAppliedIsCommittedForWhoeverNeedsIt(t *testing.T) {
	tests := []struct {
		name     string
		unwanted time.Duration
		need     func(t *testing.T, m *machine, index uint64)
	}{
		{"a reader who waits for the index", time.Hour, func(_ *testing.T, m *machine, index uint64) { m.fsm.commitFor(index) }},
		{"nobody", time.Millisecond, func(_ *testing.T, m *machine, _ uint64) {
			for st, applied, _, _ := m.fsm.current(); st.Applied < m.index; st, applied, _, _ = m.fsm.current() {
				<-applied
			}
		}},
		{"a snapshot", time.Hour, func(t *testing.T, m *machine, _ uint64) {
			s, err := m.fsm.Snapshot()
			if err != nil {
				t.Fatal(err)
			}
			s.Release()
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m := busyMachine(t, tt.unwanted)
			if result := m.applyOpen(create("acc_open")); result.Outcome != Recorded {
				t.Fatalf("create: %+v", result)
			}
			if st, _, _, _ := m.fsm.current(); st.Applied == m.index && tt.unwanted == time.Hour {
				t.Fatal("the entry was committed at once: this test shows nothing")
			}
			tt.need(t, m, m.index)
			if st, _, _, _ := m.fsm.current(); st.Applied != m.index {
				t.Errorf("applied = %d, want %d", st.Applied, m.index)
			}
			if m.account("acc_open") == nil {
				t.Error("the account is not in the state")
			}
			m.check()
		})
	}
}

// An index that was not applied yet is not waited for in the state's transaction.
func TestNothingIsCommittedForAnIndexThatWasNotApplied(t *testing.T) {
	m := busyMachine(t, time.Hour)
	m.applyOpen(create("acc_open"))
	m.fsm.commitFor(m.index + 1)
	if st, _, _, _ := m.fsm.current(); st.Applied == m.index {
		t.Error("commitFor of an index beyond the applied one committed")
	}
}

// However many batches a transaction takes, the state, every hash and the journal are those of one transaction for each.
func TestOneTransactionForManyBatchesIsTheSameState(t *testing.T) {
	single, busy := newMachine(t, 1<<20), busyMachine(t, time.Hour)
	for i := range 40 {
		id := entitlement.AccountID("acc_" + string(rune('a'+i)))
		for _, c := range []Command{create(id), record(event("evt_"+string(rune('a'+i)), subscription("sub_"+string(rune('a'+i)), startTime, entitlement.Active, id)))} {
			one, many := single.apply(c), busy.applyOpen(c)
			if one.Revision != many.Revision || one.Outcome != many.Outcome {
				t.Fatalf("command %d: %+v, in one transaction with others %+v", i, one, many)
			}
		}
	}
	busy.fsm.commitNow()
	a, _, _, _ := single.fsm.current()
	b, _, _, _ := busy.fsm.current()
	if !bytes.Equal(entitlement.Encode(&a), entitlement.Encode(&b)) {
		t.Errorf("states differ:\n%+v\n%+v", a, b)
	}
	busy.check()
}

// Restore puts another state into the place of one with an open transaction.
func TestRestoreEndsAnOpenTransaction(t *testing.T) {
	source := newMachine(t, 1<<20)
	source.apply(create("acc_source"))
	snapshots := raft.NewInmemSnapshotStore()
	sink, err := snapshots.Create(raft.SnapshotVersionMax, 2, 1, raft.Configuration{}, 1, nil)
	if err != nil {
		t.Fatal(err)
	}
	taken, err := source.fsm.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	if err := taken.Persist(sink); err != nil {
		t.Fatal(err)
	}
	taken.Release()
	_, snapshot, err := snapshots.Open(sink.ID())
	if err != nil {
		t.Fatal(err)
	}
	m := busyMachine(t, time.Hour)
	m.applyOpen(create("acc_open"))
	if err := m.fsm.Restore(snapshot); err != nil {
		t.Fatal(err)
	}
	if m.account("acc_source") == nil || m.account("acc_open") != nil {
		t.Error("the state is not the restored one")
	}
}
