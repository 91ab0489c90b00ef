package store

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/hashicorp/raft"

	"github.com/latchkey/latchkey/replication"
)

// Replayed is what folding a journal came to. A node's own state must have the same hashes.
type Replayed struct {
	Entries  uint64
	Position replication.Position
	FullHash replication.Hash
	Segment  uint64 // the unsealed segment
	Offset   int64
}

// Replay folds the journal of the data directory dir through this program's code into a new state in the empty directory into.
// segmentBytes is the node's Config.SegmentBytes; 0 is the default. The node may run meanwhile: what it adds is not waited for.
func Replay(dir, into string, segmentBytes int64) (Replayed, error) {
	var done Replayed
	if segmentBytes == 0 {
		segmentBytes = defaultSegmentBytes
	}
	if err := os.MkdirAll(into, 0o700); err != nil {
		return done, err
	}
	j, err := newJournal(filepath.Join(into, "journal"), segmentBytes)
	if err != nil {
		return done, err
	}
	m, err := newMetrics(nil)
	if err != nil {
		return done, err
	}
	var fault error
	f, err := newFSM(into, defaultInitialMmapBytes, j, slog.Default(), m, func(err error) { fault = err })
	if err != nil {
		return done, err
	}
	var batch []*raft.Log
	apply := func() error {
		if len(batch) > 0 {
			f.ApplyBatch(batch)
			batch = batch[:0]
		}
		return fault
	}
	err = walkJournal(filepath.Join(dir, "journal"), func(entry []byte) error {
		done.Entries++
		if batch = append(batch, &raft.Log{Index: done.Entries, Type: raft.LogCommand, Data: entry}); len(batch) < maxAppendEntries {
			return nil
		}
		return apply()
	})
	if err == nil {
		err = apply()
	}
	if err != nil {
		return done, errors.Join(fmt.Errorf("replay %s: %w", dir, err), f.close())
	}
	st, _, _, _ := f.current()
	done.Position, done.FullHash, done.Segment, done.Offset = st.position(), st.FullHash, st.Segment, st.SegmentOffset
	return done, f.close()
}
