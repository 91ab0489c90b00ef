package chaos

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/latchkey/latchkey/replication"
)

// Fold computes for itself what a change log leads to: the chain and the state hash at each revision, from nothing but the changes.
type Fold struct {
	Epoch  uint64
	Chains []replication.Hash // by revision; [0] is before the first change
	States []replication.Hash

	records map[string]replication.Hash // of those that are there
	Broken  []string                    // where the log is not dense or does not link
}

// NewFold returns the fold of an empty log.
func NewFold(epoch uint64) *Fold {
	return &Fold{Epoch: epoch, Chains: make([]replication.Hash, 1), States: make([]replication.Hash, 1), records: map[string]replication.Hash{}}
}

// Newest is the last revision that was folded.
func (f *Fold) Newest() uint64 { return uint64(len(f.Chains) - 1) }

var errNotDense = errors.New("revisions are not dense")

// Add folds the next change.
func (f *Fold) Add(encoded []byte) error {
	change, rest, err := replication.ParseChange(encoded)
	if err != nil || len(rest) > 0 {
		return fmt.Errorf("after %d: %d bytes too many, %w", f.Newest(), len(rest), err)
	}
	if change.N != f.Newest()+1 {
		return fmt.Errorf("%w: %d after %d", errNotDense, change.N, f.Newest())
	}
	key := string(change.DBKey())
	state := f.States[f.Newest()]
	if old, there := f.records[key]; there {
		state = state.Sub(old)
		delete(f.records, key)
	}
	if change.Value != nil {
		h := change.Hash()
		state = state.Add(h)
		f.records[key] = h
	}
	f.Chains = append(f.Chains, replication.NextChain(f.Chains[f.Newest()], encoded))
	f.States = append(f.States, state)
	return nil
}

// Agrees compares a position that a writer signed with the fold.
func (f *Fold) Agrees(p replication.Position) error {
	n := p.N
	switch {
	case p.Epoch != f.Epoch || n > f.Newest():
		return nil // not folded
	case !bytes.Equal(p.Chain[:], f.Chains[n][:]):
		return fmt.Errorf("at %d the chain is signed as %s, its changes give %s", n, p.Chain, f.Chains[n])
	case !bytes.Equal(p.StateHash[:], f.States[n][:]):
		return fmt.Errorf("at %d the state hash is signed as %s, its changes give %s", n, p.StateHash, f.States[n])
	}
	return nil
}
