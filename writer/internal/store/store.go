package store

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/raft"

	"github.com/latchkey/latchkey/pkg/entitlement"
	"github.com/latchkey/latchkey/replication"
)

// Store is one node's part of the truth: the Raft log, the state machine that it feeds, and the journal.
type Store struct {
	cfg     Config
	log     *slog.Logger
	metrics *metrics

	lock      *os.File
	fsm       *fsm
	disk      *disk
	logs      *raft.LogCache
	founding  *founding
	transport safeTransport
	raft      *raft.Raft
	ownAddr   raft.ServerAddress // as the others reach this node
	notify    chan bool
	lead      leadership
	transfers transfers

	slots     map[entitlement.Environment]chan struct{}
	started   int64 // Unix seconds, when Open began
	stampMu   sync.Mutex
	lastStamp int64

	ctx        context.Context // ends with Close; only our own goroutines run under it
	cancel     context.CancelFunc
	background sync.WaitGroup
	waiting    waiters
	segments   chan struct{} // asks for a look at missing segments
	closed     sync.Once
	closeErr   error
}

// Open starts this node. It returns when the newest snapshot is restored; the log since then is applied as soon as a leader
// says what of it is committed. Errors: all mistakes of cfg at once; a directory that another process uses; a damaged log.
func Open(cfg Config) (*Store, error) {
	if err := cfg.setDefaults(); err != nil {
		return nil, fmt.Errorf("store: %w", err)
	}
	s := &Store{cfg: cfg, log: cfg.Logger, notify: make(chan bool, 64), segments: make(chan struct{}, 1), slots: map[entitlement.Environment]chan struct{}{}}
	s.lead.changed, s.started = make(chan struct{}), s.clock().Unix()
	for _, env := range environments {
		s.slots[env] = make(chan struct{}, cfg.InFlight)
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	if err := s.open(); err != nil {
		s.cancel()
		return nil, fmt.Errorf("store: %w", err)
	}
	s.background.Go(s.followLeadership)
	s.background.Go(s.fetchMissing)
	if !s.founding.open.Load() {
		s.background.Go(func() { s.askToFound(s.ctx) })
	}
	if s.fsm.kept {
		s.fsm.missing.replaced()
		s.wantSegments()
		s.background.Go(func() { s.fsm.prove(s.ctx) })
	}
	return s, nil
}

func (s *Store) open() (err error) {
	if err := os.MkdirAll(s.cfg.Dir, 0o700); err != nil {
		return err
	}
	if err := refuseUnfinished(s.cfg.Dir); err != nil {
		return err
	}
	if s.lock, err = lockDir(s.cfg.Dir); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.lock.Close())
		}
	}()
	if s.metrics, err = newMetrics(s.cfg.Metrics); err != nil {
		return err
	}
	j, err := newJournal(filepath.Join(s.cfg.Dir, "journal"), s.cfg.SegmentBytes)
	if err != nil {
		return err
	}
	if s.fsm, err = openFSM(s.cfg.Dir, s.cfg.InitialMmapBytes, s.cfg.bootID, j, s.log, s.metrics, s.cfg.Fatal); err != nil {
		return err
	}
	s.fsm.fetchSegments, s.fsm.rules, s.fsm.later = s.wantSegments, s.cfg.Rules, s.cfg.later
	if st := s.fsm.state; s.fsm.kept && st.Rules > s.fsm.rules {
		return errors.Join(fmt.Errorf("a state of rules %d, this program knows %d: %w", st.Rules, s.fsm.rules, ErrRules), s.fsm.close())
	}
	if err := s.openRaft(); err != nil {
		return errors.Join(err, s.fsm.close())
	}
	return nil
}

// lockDir makes sure that no other process works in dir. The lock ends with the process.
func lockDir(dir string) (*os.File, error) {
	file, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("%s is in use by another process: %w", dir, err), file.Close())
	}
	return file, nil
}

// Close lets nobody in any more, hands the lead to another voter, if this node has it and there are others, waits for proposals in
// flight, and stops the node. ctx bounds the hand-over alone.
func (s *Store) Close(ctx context.Context) error {
	s.closed.Do(func() { s.closeErr = s.close(ctx) })
	return s.closeErr
}

func (s *Store) close(ctx context.Context) error {
	s.waiting.refuse()
	if len(s.servers()) > 1 {
		s.handOver(ctx)
	}
	s.cancel()
	// Everyone who waits for Raft must have their answer before it stops: it never answers what it had not taken up by then.
	s.background.Wait()
	s.waiting.wait()
	err := s.closeRaft()
	s.metrics.unregister()
	return errors.Join(err, s.fsm.close(), s.lock.Close())
}

func (s *Store) handOver(ctx context.Context) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range transferTries {
			if err := s.TransferLeadership(); err == nil || errors.Is(err, ErrNotLeader) || ctx.Err() != nil {
				return
			}
		}
	}()
	select {
	case <-done:
	case <-ctx.Done():
	}
}

// waiters counts those who wait for an answer of Raft; Close lets nobody in any more and waits for them.
type waiters struct {
	mu     sync.RWMutex
	closed bool
	group  sync.WaitGroup
}

// enter reports whether the caller may ask Raft; it then calls leave when it has the answer.
func (w *waiters) enter() bool {
	w.mu.RLock()
	defer w.mu.RUnlock()
	if !w.closed {
		w.group.Add(1)
	}
	return !w.closed
}

func (w *waiters) leave() { w.group.Done() }

func (w *waiters) refuse() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closed = true
}

func (w *waiters) wait() { w.group.Wait() }

// clock is the time as we store and compare it.
func (s *Store) clock() time.Time { return s.cfg.Now().UTC().Truncate(time.Second) }

// Position is how far this node's state goes.
func (s *Store) Position() replication.Position {
	st, _, _, _ := s.fsm.current()
	return st.position()
}

// Updated returns a channel that is closed when the position changes. Take it first, then look at the state.
func (s *Store) Updated() <-chan struct{} {
	s.fsm.watched.Store(true)
	_, _, updated, _ := s.fsm.current()
	return updated
}

// Stats is what /status and /readyz tell of a node.
type Stats struct {
	ID, Leader      string
	State           string // Raft's: Leader, Follower, Candidate, Shutdown
	Leads           bool   // as IsLeader, at one moment with Term
	Term            uint64 // that it leads, else the newest that it knows
	CommitIndex     uint64 // as far as this node knows
	LastIndex       uint64 // of its log
	AppliedIndex    uint64 // of the last command in its state
	Position        replication.Position
	FullHash        replication.Hash
	Stamp           int64
	Floor           uint64
	ChangeLogBytes  int64
	StateBytes      int64 // of the state file: what a snapshot takes, and a restore
	JournalSegment  uint64
	JournalOffset   int64
	JournalHash     replication.Hash // of the unsealed segment
	MissingSegments int              // sealed segments that are not on this disk yet: not a full member before 0
	LastContact     time.Duration    // since a follower heard the leader; 0 on the leader
	Restores        int64            // snapshots restored since the start; more than one in ten minutes is to be alarmed about
	Broken          bool             // a fault stopped the state machine
	Kept            bool             // the state is that of an earlier process, and was not made anew at the start
	Proving         bool             // it is being verified
	Voters          []Voter          // as Raft has them
}

// Stats returns the present figures.
func (s *Store) Stats() Stats {
	st, _, _, _ := s.fsm.current()
	// A leader that is being replaced knows the next term a moment before it knows that it leads no more: it must not be said to lead that one.
	led, _, _ := s.lead.current()
	out := Stats{ID: s.cfg.ID, Leader: s.Leader(), State: s.raft.State().String(), Leads: led != 0, Term: cmp.Or(led, s.raft.CurrentTerm()), CommitIndex: s.raft.CommitIndex(),
		LastIndex: s.raft.LastIndex(), AppliedIndex: st.Applied, Position: st.position(), FullHash: st.FullHash, Stamp: st.Stamp, Floor: st.Floor,
		ChangeLogBytes: st.ChangeBytes, JournalSegment: st.Segment, JournalOffset: st.SegmentOffset, JournalHash: st.SegmentHash,
		MissingSegments: s.fsm.missing.segments(), Restores: s.fsm.restored.Load(), Broken: s.fsm.broken.Load(), Kept: s.fsm.kept, Proving: s.fsm.proving.Load()}
	if info, err := os.Stat(filepath.Join(s.cfg.Dir, stateFile)); err == nil {
		out.StateBytes = info.Size()
	}
	if out.State != raft.Leader.String() {
		if at := s.raft.LastContact(); !at.IsZero() {
			out.LastContact = time.Since(at)
		}
	}
	for _, server := range s.raft.GetConfiguration().Configuration().Servers {
		if server.Suffrage == raft.Voter {
			out.Voters = append(out.Voters, Voter{ID: string(server.ID), Addr: string(server.Address)})
		}
	}
	return out
}

// OpenSegment opens a sealed journal segment by its SHA-256. Error: ErrNoSegment.
func (s *Store) OpenSegment(sum replication.Hash) (io.ReadSeekCloser, error) {
	list, err := s.fsm.sealedSegments()
	if err != nil {
		return nil, err
	}
	for _, seg := range list {
		if seg.sum != sum {
			continue
		}
		path := s.fsm.journal.path(seg.number)
		if info, err := os.Stat(path); err != nil || info.Size() != seg.size {
			break // not fetched yet
		}
		return os.Open(path)
	}
	return nil, fmt.Errorf("%s: %w", sum, ErrNoSegment)
}
