package replication_test

import (
	"testing"
	"time"

	"github.com/latchkey/latchkey/replication"
	"github.com/latchkey/latchkey/replication/replicationtest"
)

// TestAStrangerCannotContinueTheHistory: a batch whose change, chain and state hash all fit, signed by somebody with a root of their own, is not
// applied; nor is their head, which would make a cut-off edge look fresh (I12).
func TestAStrangerCannotContinueTheHistory(t *testing.T) {
	w, m := newWriter(t), newMemory()
	stranger, err := replicationtest.New(w.Cluster)
	if err != nil {
		t.Fatal(err)
	}
	follow(t, w, m, nil, serve(t, w))
	w.Put(record("a", "true"))
	m.at(t, w)
	next := w.Position()
	forged := replication.Change{N: next.N + 1, Record: record("b", "forged")}
	next.N, next.Chain = forged.N, replication.NextChain(next.Chain, forged.AppendBinary(nil))
	next.StateHash = next.StateHash.Add(forged.Record.Hash())
	now := time.Now().Unix()
	batch := replication.Batch{Signed: stranger.Sign(next.Claims(now)), Changes: [][]byte{forged.AppendBinary(nil)}}.AppendBinary(nil)
	head := []byte(stranger.Sign(replication.Head{Position: next, AsOf: now}.Claims(now)))
	calls := func() int { return w.Calls(replication.ChangesPath) + w.Calls(replication.SnapshotPath) }
	asked := calls()
	w.Spoil(func(path string, _ []byte) []byte {
		if path == replication.HeadPath {
			return head
		}
		return batch
	})
	w.Put(record("a", "truer")) // answers the request that waits
	for deadline := time.Now().Add(10 * time.Second); calls() < asked+3 && time.Now().Before(deadline); {
		if m.Head().Position == next {
			t.Fatalf("the replica is at %s, which a stranger signed", next.Revision())
		}
		pause := time.NewTimer(time.Millisecond) // no event tells of a refusal
		<-pause.C
	}
	w.Spoil(nil)
	m.at(t, w)
}
