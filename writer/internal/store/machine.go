package store

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/hashicorp/raft"

	"github.com/latchkey/latchkey/replication"
)

// Machine is the state machine of one writer without Raft, for whoever brings the log by other means: a simulator, which decides what is
// committed and when a node dies. What it does with an entry is exactly what a Store does. One goroutine at a time may use it.
type Machine struct {
	fsm   *fsm
	fault error
}

// Entry is a committed command of the log; Data is what Command.Encode made, stamped.
type Entry struct {
	Index, Term uint64
	Data        []byte
}

// OpenMachine starts one in dir as a Store does after a death of its process: the state begins empty, whatever file is there, and is
// brought back by Restore and Apply. The journal's files stay. segmentBytes is Config.SegmentBytes.
func OpenMachine(dir string, segmentBytes int64) (*Machine, error) {
	j, err := newJournal(filepath.Join(dir, "journal"), segmentBytes)
	if err != nil {
		return nil, err
	}
	m := &Machine{}
	m.fsm, err = newFSM(dir, machineMmapBytes, j, slog.New(slog.DiscardHandler), machineMetrics, func(err error) { m.fault = err })
	return m, err
}

// machineMmapBytes is the address space of a Machine's state file: far more than a simulated history needs.
const machineMmapBytes = 1 << 28

// machineMetrics count for nobody.
var machineMetrics = func() *metrics {
	m, err := newMetrics(nil)
	if err != nil {
		panic(err) // nothing is registered
	}
	return m
}()

// Apply applies committed entries in one transaction. Those at or below Applied are skipped and have an empty Result. After an error the machine is of no
// use any more, as a Store's process that ends.
func (m *Machine) Apply(entries []Entry) ([]Result, error) {
	logs := make([]*raft.Log, len(entries))
	for i, e := range entries {
		logs[i] = &raft.Log{Index: e.Index, Term: e.Term, Type: raft.LogCommand, Data: e.Data}
	}
	results := make([]Result, len(entries))
	for i, response := range m.fsm.ApplyBatch(logs) {
		results[i], _ = response.(Result)
	}
	return results, m.fault
}

// Snapshot returns a Raft snapshot of the state.
func (m *Machine) Snapshot() ([]byte, error) {
	s, err := m.fsm.Snapshot()
	if err != nil {
		return nil, err
	}
	defer s.Release()
	var b bytes.Buffer
	err = s.(*snapshot).write(&b)
	return b.Bytes(), err
}

// Restore puts a snapshot into the present state's place. Error: it does not verify, and nothing has changed.
func (m *Machine) Restore(snapshot []byte) error {
	err := m.fsm.Restore(io.NopCloser(bytes.NewReader(snapshot)))
	m.fsm.closing.Wait()
	return err
}

// MissingSegments lists the SHA-256s of sealed journal segments that are not on this disk.
func (m *Machine) MissingSegments() ([]replication.Hash, error) {
	missing, err := m.fsm.missingSegments()
	hashes := make([]replication.Hash, len(missing))
	for i, seg := range missing {
		hashes[i] = seg.sum
	}
	return hashes, err
}

// Journal says where the journal ends: the unsealed segment, its length and its SHA-256.
func (m *Machine) Journal() (segment uint64, offset int64, sum replication.Hash) {
	return m.fsm.state.Segment, m.fsm.state.SegmentOffset, m.fsm.state.SegmentHash
}

// Position is how far the state goes.
func (m *Machine) Position() replication.Position { return m.fsm.state.position() }

// Applied is the index of the last entry in the state.
func (m *Machine) Applied() uint64 { return m.fsm.state.Applied }

// Stamp is that of the last command.
func (m *Machine) Stamp() int64 { return m.fsm.state.Stamp }

// FullHash covers everything that writers keep beyond records.
func (m *Machine) FullHash() replication.Hash { return m.fsm.state.FullHash }

// Floor is the revision number up to which changes are gone from the change log.
func (m *Machine) Floor() uint64 { return m.fsm.state.Floor }

// View runs fn in one read transaction.
func (m *Machine) View(fn func(*Reader) error) error { return m.fsm.view(fn) }

// Changes is Store.Changes.
func (m *Machine) Changes(after uint64, limit, maxBytes int) (changes [][]byte, at replication.Position, err error) {
	err = m.fsm.view(func(r *Reader) error {
		changes, at, err = r.Changes(after, limit, maxBytes)
		return err
	})
	return changes, at, err
}

// Check recomputes every hash of the state from its rows and walks the change log, whose revisions must be dense and whose chain must lead to
// the state's (I5).
func (m *Machine) Check() error {
	st, err := verifyState(m.fsm.db)
	if err != nil {
		return err
	}
	return m.fsm.view(func(r *Reader) error {
		changes, at, err := r.Changes(st.Floor, int(st.N-st.Floor)+1, 1<<40)
		switch {
		case err != nil:
			return err
		case uint64(len(changes)) != st.N-st.Floor:
			return fmt.Errorf("%d changes between %d and %d: revisions are not dense", len(changes), st.Floor, st.N)
		case at != st.position():
			return fmt.Errorf("the change log leads to %+v, the state is at %+v", at, st.position())
		}
		return nil
	})
}

// Close ends it as the death of its process would: nothing is written that was not.
func (m *Machine) Close() error {
	err := m.fsm.close()
	if m.fault != nil && errors.Is(err, ErrClosed) {
		return nil
	}
	return err
}

// FoundMachine founds in cfg.Dir what Restore founds from a backup, from the folder of a Machine that is closed. Its files move there.
// Errors: as Restore.
func FoundMachine(cfg RestoreConfig, from string) (Contents, error) {
	return restore(cfg, func() (c Contents, err error) {
		st, sealed, err := examine(filepath.Join(from, stateFile))
		if err != nil {
			return c, err
		}
		for _, name := range []string{stateFile, "journal"} {
			if err := os.Rename(filepath.Join(from, name), filepath.Join(cfg.Dir, name)); err != nil {
				return c, err
			}
		}
		return st.contents(sealed), nil
	})
}
