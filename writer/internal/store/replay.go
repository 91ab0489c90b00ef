package store

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/hashicorp/raft"

	"github.com/latchkey/latchkey/replication"
)

// ReplayConfig says what is folded again, and where.
type ReplayConfig struct {
	Dir          string // a node's data folder
	Into         string // an empty folder for the new state and journal
	SegmentBytes int64  // the node's Config.SegmentBytes; 0 is the default
	Progress     Progress
}

// Replayed is what folding a journal came to. A node's own state must have the same hashes.
type Replayed struct {
	Entries  uint64
	Position replication.Position
	FullHash replication.Hash
	Segment  uint64 // the unsealed segment
	Offset   int64

	// Against is the node's own state that was compared: "state.db" or "snapshot ...", the newest whose hashes hold. Empty: there is none. The
	// journal may go on after it.
	Against string
	Want    Contents // that state
	Got     Contents // what the journal comes to at the same place; the zero value where it ends before
}

// Agrees reports whether the journal leads to the node's own state.
func (r *Replayed) Agrees() bool {
	// The epoch is that of the journal: between a restore and the raise of the epoch nothing is written.
	return r.Against != "" && r.Got.FullHash == r.Want.FullHash && r.Got.Position == r.Want.Position
}

// Replay folds the journal of a data folder through this program's code into a new state, and compares it with the node's own at the place where that
// ends. The node may run meanwhile: what it adds is not waited for, and its newest snapshot is compared. Errors: errors of files, ctx.
func Replay(ctx context.Context, cfg ReplayConfig) (done Replayed, err error) {
	dir := filepath.Join(cfg.Dir, "journal")
	segmentBytes := cfg.SegmentBytes
	orDefault(&segmentBytes, defaultSegmentBytes, segmentBytes == 0)
	total, err := sizeOf(dir)
	if err != nil {
		return done, err
	}
	if err := os.MkdirAll(cfg.Into, 0o700); err != nil {
		return done, err
	}
	own, against, err := newestState(cfg.Dir, cfg.Into)
	if err != nil {
		return done, err
	}
	done.Against, done.Want = against, own.contents(nil)
	j, err := newJournal(filepath.Join(cfg.Into, "journal"), segmentBytes)
	if err != nil {
		return done, err
	}
	m, err := newMetrics(nil)
	if err != nil {
		return done, err
	}
	var failure error
	f, err := newFSM(cfg.Into, defaultInitialMmapBytes, j, slog.Default(), m, func(err error) { failure = err })
	if err != nil {
		return done, err
	}
	defer func() { err = errors.Join(err, f.close()) }()
	var batch []*raft.Log
	apply := func() error {
		if len(batch) > 0 {
			f.ApplyBatch(batch)
			batch = batch[:0]
		}
		st, _, _, _ := f.current()
		if st.Segment == own.Segment && st.SegmentOffset == own.SegmentOffset {
			done.Got = st.contents(nil)
		}
		return failure
	}
	var read int64
	err = walkJournal(dir, func(at place, entry []byte) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		if at == (place{own.Segment, own.SegmentOffset}) || len(batch) == maxAppendEntries {
			if err := apply(); err != nil {
				return err
			}
		}
		if read += int64(entryHeader + len(entry)); cfg.Progress != nil {
			cfg.Progress(read, total)
		}
		done.Entries++
		batch = append(batch, &raft.Log{Index: done.Entries, Type: raft.LogCommand, Data: entry})
		return nil
	})
	if err == nil {
		err = apply()
	}
	if err != nil {
		return done, fmt.Errorf("replay %s: %w", cfg.Dir, err)
	}
	st, _, _, _ := f.current()
	done.Position, done.FullHash, done.Segment, done.Offset = st.position(), st.FullHash, st.Segment, st.SegmentOffset
	return done, nil
}

// newestState returns the newest state of a data folder whose every hash holds, and its name; "" for none. Snapshots are unpacked in work.
func newestState(dir, work string) (st state, name string, err error) {
	if st, _, err := examine(filepath.Join(dir, stateFile)); err == nil && st.Epoch > 0 {
		return st, "state.db", nil
	}
	list, err := listSnapshots(dir)
	if err != nil {
		return st, "", err
	}
	for _, snap := range list {
		if st, _, err := snap.examine(work); err == nil {
			return st, "snapshot " + snap.ID, nil
		}
	}
	return state{}, "", nil
}
