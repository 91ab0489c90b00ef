package store

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"github.com/latchkey/latchkey/pkg/entitlement"
	"github.com/latchkey/latchkey/pkg/fault"
)

// fsm is the state machine: it folds commands in log order into one bbolt file and the journal. Nothing in it reads a
// clock, and no result depends on anything but the log. The file is derived: it is never synced, and made anew from the newest
// snapshot and the log wherever it is not certain to be what was written (keep.go).
type fsm struct {
	dir           string
	mmapBytes     int
	log           *slog.Logger
	metrics       *metrics
	fatal         func(error)
	fetchSegments func() // looks for missing segments, in the background
	journal       *journal
	prepared      *prepared
	decodedRows   keptRows
	rules         uint32                       // the newest version of the rules that this node knows
	later         func(b *batch, entry []byte) // Config.later

	// more reports whether the log goes on after an index, so that it pays to wait with the commit. nil is no.
	more     atomic.Pointer[func(index uint64) bool]
	waiting  atomic.Int64  // those who wait for applied entries to be committed
	watched  atomic.Bool   // somebody has asked to be told of the next change
	unwanted time.Duration // maxOpenUnwanted, but in tests
	work     sync.Mutex    // guards open: Raft's goroutine, the timer and those who wait
	open     *openBatch    // applied, not committed yet; nil for none

	broken         atomic.Bool
	kept           bool        // the state file is that of an earlier process
	proving        atomic.Bool // it is not proven yet
	bootID         string      // of this run of the machine; empty for unknown: no state file is kept
	running        atomic.Bool // NewRaft returned: restores from now on come from a leader
	restoresInARow int
	closing        sync.WaitGroup // state files that were replaced and wait for their last reader
	restored       atomic.Int64   // snapshots
	missing        lacking
	marks          marks // what other nodes' states are compared with

	mu      sync.RWMutex // guards what follows: the goroutine of Raft writes, everyone reads
	db      *bolt.DB
	state   state
	applied chan struct{} // closed when state.Applied has grown
	updated chan struct{} // closed when state's revision has changed
	stopped bool
}

// errRestoreLoop: a follower with divergent entries past a snapshot keeps them after installing it and is sent the snapshot
// again for ever (hashicorp/raft#697). A restart heals it, because the log was emptied.
var errRestoreLoop = errors.New("the same snapshot was restored twice with nothing applied between")

// errUnknownCommand: only a newer version writes what this one does not know. Skipping it would make this node differ.
var errUnknownCommand = errors.New("the log holds a command that this version does not know")

const stateFile = "state.db"

func openState(path string, mmapBytes int) (*bolt.DB, error) {
	db, err := bolt.Open(path, 0o600, &bolt.Options{
		Timeout:         time.Second,
		NoSync:          true, // derived: the log and the snapshots are what is synced
		NoGrowSync:      true,
		NoFreelistSync:  true,
		FreelistType:    bolt.FreelistMapType,
		NoStatistics:    true,
		InitialMmapSize: mmapBytes,
	})
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	return db, nil
}

// openFSM goes on with the state on the disk where that is certain to be whole, and else begins with an empty one, like newFSM.
func openFSM(dir string, mmapBytes int, bootID string, j *journal, log *slog.Logger, m *metrics, fatal func(error)) (*fsm, error) {
	f := makeFSM(dir, mmapBytes, j, log, m, fatal)
	f.bootID = bootID
	if err := f.keep(); err != nil || f.kept {
		return f, err
	}
	return f, f.startEmpty()
}

// newFSM starts with an empty state in a new file; Raft brings the newest snapshot and the log.
func newFSM(dir string, mmapBytes int, j *journal, log *slog.Logger, m *metrics, fatal func(error)) (*fsm, error) {
	f := makeFSM(dir, mmapBytes, j, log, m, fatal)
	return f, f.startEmpty()
}

func makeFSM(dir string, mmapBytes int, j *journal, log *slog.Logger, m *metrics, fatal func(error)) *fsm {
	return &fsm{dir: dir, mmapBytes: mmapBytes, log: log, metrics: m, fatal: fatal, journal: j, prepared: newPrepared(), rules: RulesVersion, unwanted: maxOpenUnwanted,
		applied: make(chan struct{}), updated: make(chan struct{}), fetchSegments: func() {}}
}

// startEmpty puts an empty state into the place of the one on the disk.
func (f *fsm) startEmpty() error {
	path := filepath.Join(f.dir, stateFile)
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	db, err := openState(path, f.mmapBytes)
	if err != nil {
		return err
	}
	f.db, f.state = db, state{Segment: 1, SegmentHash: emptyHash}
	err = db.Update(func(tx *bolt.Tx) error {
		if err := makeBuckets(tx); err != nil {
			return err
		}
		return tx.Bucket(bucketMeta).Put(stateKey, entitlement.Encode(&f.state))
	})
	if err == nil {
		err = f.vouch()
	}
	if err != nil {
		return errors.Join(fmt.Errorf("make %s: %w", path, err), db.Close())
	}
	return nil
}

// makeBuckets makes those that are not there: a state of an earlier release lacks those that came later.
func makeBuckets(tx *bolt.Tx) error {
	for _, name := range buckets {
		if _, err := tx.CreateBucketIfNotExists(name); err != nil {
			return err
		}
	}
	return nil
}

// Apply is ApplyBatch for one entry.
func (f *fsm) Apply(l *raft.Log) any { return f.ApplyBatch([]*raft.Log{l})[0] }

// openBatch is a transaction that takes one batch of Raft's after the other.
type openBatch struct {
	*batch
	entries int
	due     []Mark // to be kept once it is committed
	since   time.Time
	timer   *time.Timer
}

// A transaction stays open while the log goes on, because bbolt's commit costs little more for many entries than for one: up to this
// many entries, or this long; longer where nobody is waiting for news. Who needs what was applied has it committed at once (commitFor).
const (
	maxOpenEntries  = 4096
	maxOpenFor      = 50 * time.Millisecond
	maxOpenUnwanted = 200 * time.Millisecond
)

// ApplyBatch applies log entries. The response to a command is its Result, which nothing can change any more: the log has it. What
// it did is in the state for others to read once it is committed, at the latest maxOpenFor later. A nil response means that
// the state machine is broken, and nothing more is applied.
func (f *fsm) ApplyBatch(logs []*raft.Log) []any {
	responses := make([]any, len(logs))
	f.work.Lock()
	defer f.work.Unlock()
	if f.broken.Load() {
		return responses
	}
	start := time.Now() // for the metric alone
	if err := f.apply(logs, responses); err != nil {
		f.abandon()
		f.fail(fmt.Errorf("apply log entries %d to %d: %w", logs[0].Index, logs[len(logs)-1].Index, err))
		return make([]any, len(logs))
	}
	f.restoresInARow = 0
	f.metrics.applySeconds.Observe(time.Since(start).Seconds())
	return responses
}

func (f *fsm) apply(logs []*raft.Log, responses []any) error {
	if logs[len(logs)-1].Index <= f.state.Applied {
		return nil // after a start, the log from the newest snapshot on comes again
	}
	b, err := f.openBatch()
	if err != nil {
		return err
	}
	if fault.Planted("diverged-writer") {
		drift(f.dir, &b.st)
	}
	for i, l := range logs {
		if l.Index <= b.st.Applied {
			continue
		}
		b.due = append(b.due, f.marks.before(l.Index, &b.st)...)
		if l.Type == raft.LogCommand {
			result := b.apply(l.Data, f.prepared.take(l.Data))
			if b.err != nil {
				return fmt.Errorf("index %d: %w", l.Index, b.err)
			}
			if f.later != nil && b.err == nil {
				f.later(b.batch, l.Data)
			}
			if b.st.Rules > f.rules {
				return fmt.Errorf("index %d raises the rules to %d, this program knows %d: %w", l.Index, b.st.Rules, f.rules, ErrRules)
			}
			responses[i] = result
			f.metrics.commands.WithLabelValues(string(result.Outcome)).Inc()
		}
		b.st.Applied, b.st.AppliedTerm = l.Index, l.Term
		b.entries++
	}
	most := f.unwanted
	if f.watched.Load() {
		most = maxOpenFor
	}
	if more := f.more.Load(); more != nil && (*more)(b.st.Applied) && f.waiting.Load() == 0 &&
		b.entries < maxOpenEntries && time.Since(b.since) < most {
		return nil
	}
	return f.commit()
}

// openBatch returns the transaction that takes entries. The caller has work.
func (f *fsm) openBatch() (*openBatch, error) {
	if f.open != nil {
		return f.open, nil
	}
	// Not before: at a start the journal's files stay until it is known from which snapshot the state begins.
	if f.journal.file == nil {
		if err := f.journal.open(&f.state, ""); err != nil {
			return nil, err
		}
	}
	tx, err := f.db.Begin(true)
	if err != nil {
		return nil, err
	}
	f.open = &openBatch{batch: newBatch(tx, f.state, f.journal), since: time.Now()}
	f.open.timer = time.AfterFunc(f.unwanted, f.commitNow)
	return f.open, nil
}

// commit ends the open transaction and makes it visible. The caller has work.
func (f *fsm) commit() error {
	b := f.open
	if b == nil {
		return nil
	}
	if b.finish(); b.err != nil {
		return b.err
	}
	fault.Point("state-before-commit")
	if err := b.tx.Commit(); err != nil {
		return err
	}
	fault.Point("state-after-commit")
	f.open = nil
	b.timer.Stop()
	f.metrics.applyBatch.Observe(float64(b.entries))
	f.marks.keep(b.due)
	f.publish(b.st)
	return nil
}

// abandon gives the open transaction up. The caller has work.
func (f *fsm) abandon() {
	if f.open == nil {
		return
	}
	f.open.timer.Stop()
	if err := f.open.tx.Rollback(); err != nil && !errors.Is(err, bolterrors.ErrTxClosed) {
		f.log.Error("roll back the state's transaction", "error", err)
	}
	f.open = nil
}

// commitNow commits what was applied so far.
func (f *fsm) commitNow() { f.commitFor(0) }

// commitFor commits what was applied so far if that reaches index, for someone who waits for it.
func (f *fsm) commitFor(index uint64) {
	f.work.Lock()
	defer f.work.Unlock()
	if f.open == nil || f.open.st.Applied < index || f.broken.Load() {
		return
	}
	if err := f.commit(); err != nil {
		f.abandon()
		f.fail(fmt.Errorf("commit the state: %w", err))
	}
}

// publish makes a committed state visible to those who wait for it.
func (f *fsm) publish(st state) {
	f.mu.Lock()
	defer f.mu.Unlock()
	changed := st.N != f.state.N || st.Epoch != f.state.Epoch || st.Rules != f.state.Rules
	f.state = st
	close(f.applied)
	f.applied = make(chan struct{})
	if changed {
		f.watched.Store(false)
		close(f.updated)
		f.updated = make(chan struct{})
	}
	f.metrics.observe(&st)
}

// fail ends the process through the hook; where the hook returns, nothing is applied or answered any more.
func (f *fsm) fail(err error) {
	if !f.broken.Swap(true) {
		f.fatal(err) // first: stop waits for whoever holds the state, and that may be what hangs
		f.stop()
	}
}

// stop wakes everyone who waits.
func (f *fsm) stop() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.stopped {
		f.stopped = true
		close(f.applied)
		close(f.updated)
	}
}

// current returns the committed state and the channels that tell of a newer one.
func (f *fsm) current() (st state, applied, updated <-chan struct{}, stopped bool) {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return f.state, f.applied, f.updated, f.stopped
}

// begin opens a read transaction on the present file.
func (f *fsm) begin() (*bolt.Tx, error) {
	f.mu.RLock()
	defer f.mu.RUnlock()
	if f.stopped {
		return nil, ErrClosed
	}
	return f.db.Begin(false)
}

// view runs fn in one read transaction.
func (f *fsm) view(fn func(*Reader) error) error {
	r, err := f.newReader()
	if err != nil {
		return err
	}
	defer r.close()
	return fn(r)
}

// newReader begins a read transaction. Whoever has it closes it.
func (f *fsm) newReader() (*Reader, error) {
	tx, err := f.begin()
	if err != nil {
		return nil, err
	}
	r := &Reader{tx: tx, kept: &f.decodedRows}
	if r.st, err = r.kept.state(r.get(bucketMeta, stateKey), tx); err != nil {
		r.close()
		return nil, err
	}
	return r, nil
}

// close releases the file. Everyone who reads has ended.
func (f *fsm) close() error {
	f.commitNow()
	f.stop()
	f.work.Lock()
	f.abandon() // where it could not be committed
	f.work.Unlock()
	f.mu.RLock()
	db := f.db
	f.mu.RUnlock()
	err := errors.Join(db.Close(), f.journal.close())
	f.closing.Wait()
	return err
}
