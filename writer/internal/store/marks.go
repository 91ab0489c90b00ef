package store

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/hashicorp/raft"

	"github.com/latchkey/latchkey/pkg/entitlement"
	"github.com/latchkey/latchkey/replication"
)

// Mark names everything that a node held when it had applied the log up to an index. Two nodes with different marks at one index
// hold different states, and one of them is wrong (I3).
type Mark struct {
	Index uint64           `cbor:"1,keyasint"`
	Epoch uint64           `cbor:"2,keyasint"`
	Base  string           `cbor:"4,keyasint,omitempty"` // the restore from which the history began
	Sum   replication.Hash `cbor:"3,keyasint"`           // SHA-256 over all that the state says of itself, both hashes among it
}

const (
	// markEvery is how many log entries lie between two marks that are kept. All nodes keep those of the same indexes, however their
	// batches fall.
	markEvery = 64
	// marksKept bounds how far behind another node may be for the two to be compared: 16,384 entries.
	marksKept = 256
)

var (
	// ErrDiverged means that a majority of writers holds another state at the same index of the log. This node must not go on.
	ErrDiverged = errors.New("this node holds another state than a majority of writers at the same index of the log")
	// ErrDisagree means that writers hold different states at the same index of the log and this node is not known to be the wrong one.
	ErrDisagree = errors.New("writers hold different states at the same index of the log")
)

func markOf(st *state) Mark {
	said := *st
	// The journal's open segment is brought up to date at the end of a batch, and batches differ; sealed ones are in the full hash.
	said.Segment, said.SegmentOffset, said.SegmentHash = 0, 0, replication.Hash{}
	said.Held = false // what a node may do, not what it holds
	return Mark{Index: st.Applied, Epoch: st.Epoch, Base: st.Base, Sum: sha256.Sum256(entitlement.Encode(&said))}
}

// marks are those of the past that a node keeps.
type marks struct {
	mu   sync.Mutex
	kept []Mark // by index
}

// before is called before the entry at index is applied to st. It returns the mark to be kept once the batch is committed, if one
// is due: at the last entry before each multiple of markEvery.
func (m *marks) before(index uint64, st *state) []Mark {
	if st.Applied == 0 || index/markEvery == st.Applied/markEvery {
		return nil
	}
	return []Mark{markOf(st)}
}

func (m *marks) keep(due []Mark) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.kept = append(m.kept, due...)
	if over := len(m.kept) - marksKept; over > 0 {
		m.kept = slices.Delete(m.kept, 0, over)
	}
}

// Marks returns what this node's state can be compared by: some of the past, and the present one last.
func (s *Store) Marks() []Mark {
	s.fsm.marks.mu.Lock()
	kept := slices.Clone(s.fsm.marks.kept)
	s.fsm.marks.mu.Unlock()
	if st, _, _, _ := s.fsm.current(); st.Applied > 0 {
		kept = append(kept, markOf(&st))
	}
	return kept
}

// Compare compares this node's state with what other nodes, by their ids, gave by Marks, and returns the newest index at which it is the
// same as another's (0: nobody's was comparable). Where a majority of voters is of one mind and this node of another, it stops: Config.Fatal is called
// with ErrDiverged, which is also returned. ErrDisagree: others differ from a majority, or nobody can tell who is wrong.
func (s *Store) Compare(others map[string][]Mark) (same uint64, err error) {
	voters := map[string]bool{}
	for _, server := range s.raft.GetConfiguration().Configuration().Servers {
		if server.Suffrage == raft.Voter {
			voters[string(server.ID)] = true
		}
	}
	same, err = compareMarks(s.cfg.ID, s.Marks(), others, voters)
	if same > 0 {
		s.metrics.compared.Set(float64(same))
	}
	if err != nil {
		s.metrics.differences.Inc()
	}
	if errors.Is(err, ErrDiverged) {
		s.fsm.fail(err)
	}
	return same, err
}

func compareMarks(self string, own []Mark, others map[string][]Mark, voters map[string]bool) (same uint64, err error) {
	theirs := map[string]map[uint64]Mark{}
	for id, marks := range others {
		theirs[id] = map[uint64]Mark{}
		for _, m := range marks {
			theirs[id][m.Index] = m
		}
	}
	var undecided error
	for _, mine := range slices.Backward(own) {
		sides := map[replication.Hash][]string{mine.Sum: {self}}
		for _, id := range slices.Sorted(maps.Keys(theirs)) {
			// A node of another epoch or restore is of another history, which other rules end.
			if m, known := theirs[id][mine.Index]; known && m.Epoch == mine.Epoch && m.Base == mine.Base {
				sides[m.Sum] = append(sides[m.Sum], id)
			}
		}
		if len(sides[mine.Sum]) > 1 {
			same = max(same, mine.Index)
		}
		if len(sides) == 1 {
			continue
		}
		majority := majorityOf(sides, voters)
		switch {
		case majority == nil:
			undecided = fmt.Errorf("%w: index %d, %s", ErrDisagree, mine.Index, describeSides(sides))
		case !slices.Contains(majority, self):
			return same, fmt.Errorf("%w: index %d, %s agree and %s does not", ErrDiverged, mine.Index, strings.Join(majority, " and "), self)
		default:
			return same, fmt.Errorf("%w: index %d, %s; the first are the majority", ErrDisagree, mine.Index, describeSides(sides))
		}
	}
	return same, undecided
}

// majorityOf returns the side to which a majority of the voters belongs, or nil.
func majorityOf(sides map[replication.Hash][]string, voters map[string]bool) []string {
	for _, ids := range sides {
		votes := 0
		for _, id := range ids {
			if voters[id] {
				votes++
			}
		}
		if votes > len(voters)/2 {
			return ids
		}
	}
	return nil
}

// describeSides lists who agrees with whom, the larger side first.
func describeSides(sides map[replication.Hash][]string) string {
	groups := slices.SortedFunc(maps.Values(sides), func(a, b []string) int {
		if len(a) != len(b) {
			return len(b) - len(a)
		}
		return slices.Compare(a, b)
	})
	var texts []string
	for _, ids := range groups {
		texts = append(texts, strings.Join(ids, " and "))
	}
	return strings.Join(texts, " against ")
}
