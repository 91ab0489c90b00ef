package replication

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"slices"
	"sync"
	"time"
)

// Errors of a Moving. Follow acts on each of them; anything else that it returns is tried again later.
var (
	// ErrDiverged means that changes or a head do not lead to the signed position: the copy is not the writers' history. Take a snapshot.
	ErrDiverged = errors.New("copy diverged from the signed position")
	// ErrRules means that the position's rules version is not known here: go on serving what is held, and update the program.
	ErrRules = errors.New("rules version unknown to this program")
	// ErrNoData means that the copy holds nothing that may be used: take a snapshot.
	ErrNoData = errors.New("no usable data")
	// ErrOlderEpoch means that a statement belongs to a history that was left behind: the writer that made it must not be followed.
	ErrOlderEpoch = errors.New("statement of an older epoch")

	errNewerEpoch = errors.New("the writers have begun a new epoch")
	errBehind     = errors.New("snapshot and changes end before what is served")
)

// Moving is all records at one position, which only moves forward. All methods may be called at any time from any goroutine;
// Follow itself never calls Apply or Advance concurrently.
type Moving interface {
	// Head is what the copy holds. Epoch 0 means nothing.
	Head() Head
	// Apply applies consecutive changes, of which the first follows the copy's position, if they lead exactly to the position
	// to, which a writer has signed; else it changes nothing. Errors: ErrDiverged, ErrRules, ErrNoData, ErrCorrupt.
	Apply(to Position, changes [][]byte) error
	// Advance notes a newer as_of. Follow has made sure that the copy covers h. Error: ErrNoData.
	Advance(h Head) error
}

// Copy is a copy that is not served yet.
type Copy interface {
	Moving
	// Discard gives the copy up and frees what it holds.
	Discard()
}

// Replica is where Follow puts what it has verified.
type Replica interface {
	Moving
	// Build makes a new copy beside the one that is served, from the records that ReadSnapshot reads, and checks that they have the
	// manifest's state hash. Errors: ErrDiverged, ErrRules, ErrFrame.
	Build(ctx context.Context, m Manifest, records io.Reader) (Copy, error)
	// Adopt makes a copy that Build returned the served one. Readers see the old or the new one, nothing between.
	Adopt(Copy) error
	// Lost receives a value each time the replica has given up its data because it was found damaged.
	Lost() <-chan struct{}
}

// Source is a faster transport than pull that may lose, repeat, reorder and forge; *NATS is one.
type Source interface {
	// Subscribe calls batch and head with each message that arrives, until the source is closed.
	Subscribe(batch, head func([]byte)) error
}

// FollowConfig is what a Follower needs.
type FollowConfig struct {
	Node      string   // name of this node, for the writers' status pages; may be empty
	Writers   []string // base addresses of the internal API, the preferred one first
	Verifier  *Verifier
	Replica   Replica
	SpoolDir  string            // for snapshots while they are being downloaded
	Source    Source            // nil: pull alone
	Transport http.RoundTripper // nil: plain connections
	Logger    *slog.Logger
}

// How the data that is held came here, as /status says it.
const (
	FromDisk     = "disk"
	FromNATS     = "nats"
	FromPull     = "pull"
	FromSnapshot = "snapshot"
)

const (
	headEvery = time.Second
	// reorderWait is how long a hole in what the source brings may be due to reordering before it is pulled.
	reorderWait = 300 * time.Millisecond
	// sourceSilence is after how long without a head the source is taken for dead and everything is pulled.
	sourceSilence = 2 * time.Second
	// standstill is after how long without a newer as_of another writer is tried: one that is cut off from its cluster still answers.
	standstill = 3 * time.Second
	// heldBatches bounds what waits for a hole to be filled; beyond it the pull brings everything anyway.
	heldBatches = 64
	// snapshotRest is the least time between two snapshots of which the first did not help.
	snapshotRest = 2 * time.Second
)

// Follower keeps a replica at the writers' newest position. Everything that arrives, by pull or from the source, goes through the
// same verification under one lock; nothing unsigned is applied.
type Follower struct {
	cfg     FollowConfig
	clients []*Client
	wake    chan struct{} // the pull loop should look again

	mu        sync.Mutex
	writer    int       // index into clients
	held      []Batch   // from the source, after a hole
	gapSince  time.Time // when the hole or the head beyond what is held was first seen
	ahead     Head      // the newest verified head that the replica does not cover yet
	snapshot  error     // why only a snapshot helps; nil if it is not so
	interrupt context.CancelFunc
	fromHead  time.Time // last head from the source
	movedAt   time.Time // last newer as_of
	source    string
	trouble   map[string]string // open problems by their kind, for Status
}

// FollowStatus says how a follower fares.
type FollowStatus struct {
	Source  string   // FromDisk, FromNATS, FromPull or FromSnapshot: how the newest data came
	Writer  string   // the writer in use
	Reasons []string // what is wrong at present, in words for operators; none when all is well
}

// NewFollower returns a follower that does nothing until Follow.
func NewFollower(cfg FollowConfig) *Follower {
	f := &Follower{cfg: cfg, wake: make(chan struct{}, 1), source: FromDisk, trouble: map[string]string{}}
	if f.cfg.Logger == nil {
		f.cfg.Logger = slog.New(slog.DiscardHandler)
	}
	for _, base := range cfg.Writers {
		f.clients = append(f.clients, NewClient(base, cfg.Node, cfg.Transport))
	}
	return f
}

// Status says how the follower fares now.
func (f *Follower) Status() FollowStatus {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := FollowStatus{Source: f.source}
	if len(f.clients) > 0 {
		s.Writer = f.clients[f.writer].Base()
	}
	for _, reason := range f.trouble {
		s.Reasons = append(s.Reasons, reason)
	}
	slices.Sort(s.Reasons)
	return s
}

// Client returns the client of the writer in use, for the other requests of the internal API. Nil without writers.
func (f *Follower) Client() *Client {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.clients) == 0 {
		return nil
	}
	return f.clients[f.writer]
}

// Follow runs until ctx ends. It returns an error only for a source that cannot be subscribed to.
func (f *Follower) Follow(ctx context.Context) error {
	if f.cfg.Source != nil {
		if err := f.cfg.Source.Subscribe(f.batchFromSource, f.headFromSource); err != nil {
			return fmt.Errorf("follow: %w", err)
		}
	}
	if len(f.clients) == 0 {
		<-ctx.Done()
		return nil
	}
	f.mu.Lock()
	f.movedAt = time.Now()
	f.mu.Unlock()
	var loops sync.WaitGroup
	loops.Go(func() { f.pullHeads(ctx) })
	loops.Go(func() { f.pullChanges(ctx) })
	loops.Go(func() {
		for {
			select {
			case <-ctx.Done():
				return
			case <-f.cfg.Replica.Lost():
				f.mu.Lock()
				f.wantSnapshot(fmt.Errorf("the replica was damaged: %w", ErrNoData))
				f.mu.Unlock()
			}
		}
	})
	loops.Wait()
	return nil
}

// pullHeads asks for a head each second, unless the source brings them.
func (f *Follower) pullHeads(ctx context.Context) {
	tick := time.NewTicker(headEvery)
	defer tick.Stop()
	for {
		if !f.sourceAlive() {
			f.pullHead(ctx)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (f *Follower) pullHead(ctx context.Context) {
	index, client := f.current()
	signed, err := client.Head(ctx)
	if err == nil {
		f.mu.Lock()
		err = f.takeHead(signed)
		if err == nil && time.Since(f.movedAt) > standstill {
			err = errors.New("as_of stands still: the writer may be cut off from its cluster")
			f.movedAt = time.Now() // give the next one as long
		}
		f.mu.Unlock()
	}
	if ctx.Err() != nil {
		return
	}
	f.report("head", err)
	if err != nil {
		f.tryNext(index)
	}
}

// sourceAlive reports whether the source has brought a head lately.
func (f *Follower) sourceAlive() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.cfg.Source != nil && time.Since(f.fromHead) < sourceSilence
}

// pullChanges keeps one request for changes open, so that a change travels as soon as it is made; while the source is alive it only
// fills holes.
func (f *Follower) pullChanges(ctx context.Context) {
	delays := NewBackoff()
	for ctx.Err() == nil {
		if wait := f.leaveToSource(); wait > 0 {
			f.sleep(ctx, wait)
			continue
		}
		index, client := f.current()
		err := f.pullOnce(ctx, client)
		if ctx.Err() != nil {
			return
		}
		if errors.Is(err, errInterrupted) {
			continue
		}
		f.report("changes", err)
		if err == nil {
			delays.Reset()
			continue
		}
		if !errors.Is(err, ErrRules) {
			f.tryNext(index)
		}
		delay := delayAfter(err, delays.NextBackOff())
		if RetryAfter(err) > 0 {
			// What wakes us, a new head say, wakes a thousand edges at the same moment: who was told to stay away does.
			_ = pause(ctx, delay)
			continue
		}
		f.sleep(ctx, delay)
	}
}

// leaveToSource says how long the source may go on alone. 0 means pull now.
func (f *Follower) leaveToSource() time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	silence := time.Since(f.fromHead)
	switch {
	case f.cfg.Source == nil || silence >= sourceSilence || f.snapshot != nil || f.cfg.Replica.Head().Epoch == 0:
		return 0
	case f.gapSince.IsZero():
		return sourceSilence - silence
	}
	return max(0, reorderWait-time.Since(f.gapSince))
}

var errInterrupted = errors.New("interrupted")

// pullOnce takes one step up the ladder: changes, or a snapshot where only that helps.
func (f *Follower) pullOnce(ctx context.Context, client *Client) error {
	held := f.cfg.Replica.Head()
	f.mu.Lock()
	why := f.snapshot
	if why == nil && held.Epoch == 0 {
		why = ErrNoData
	}
	wait := MaxWait
	if f.cfg.Source != nil && time.Since(f.fromHead) < sourceSilence {
		wait = 0 // to fill a hole
	}
	// Losing the writer or the data must not wait for the end of a long poll.
	call, cancel := context.WithCancel(ctx)
	f.interrupt = cancel
	f.mu.Unlock()
	defer cancel()
	if why != nil {
		return f.bootstrap(ctx, client, why)
	}
	batch, err := client.Changes(call, held.Revision(), MaxBatchChanges, wait)
	if call.Err() != nil && ctx.Err() == nil {
		return errInterrupted
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case errors.Is(err, ErrBelowFloor):
		f.wantSnapshot(err)
		return nil
	case err != nil:
		// Another history is a writer behind ours, or a new epoch: the next head says which.
		return err
	}
	err = f.takeBatch(batch, FromPull)
	if err == nil && len(batch.Changes) == 0 {
		f.gapSince = time.Time{} // the writer has nothing more; the next head begins anew
	}
	return err
}

// takeBatch verifies and applies a batch. Errors that only a snapshot mends have been noted.
func (f *Follower) takeBatch(b Batch, from string) error {
	held := f.cfg.Replica.Head()
	to, err := f.cfg.Verifier.Position(b.Signed, held.AsOf)
	if err != nil {
		return err
	}
	if err := f.judge(to, held); err != nil || to.N <= held.N || len(b.Changes) == 0 {
		return err
	}
	first, err := firstRevision(b)
	if err != nil || first+uint64(len(b.Changes))-1 != to.N {
		return fmt.Errorf("batch does not end at its position: %w", ErrFrame)
	}
	if first > held.N+1 {
		f.hold(b)
		return nil
	}
	if err := f.apply(to, b.Changes[held.N+1-first:], from); err != nil {
		return err
	}
	return f.takeHeld()
}

// judge compares a verified position with what is held: epochs, and the history where both are at the same revision.
func (f *Follower) judge(p Position, held Head) error {
	switch {
	case held.Epoch == 0:
		return ErrNoData
	case p.Epoch < held.Epoch:
		return fmt.Errorf("%w: %d, ours is %d", ErrOlderEpoch, p.Epoch, held.Epoch)
	case p.Epoch > held.Epoch:
		f.wantSnapshot(errNewerEpoch)
		return nil
	case p.N == held.N && (p.Chain != held.Chain || p.StateHash != held.StateHash):
		f.wantSnapshot(ErrDiverged)
		return fmt.Errorf("revision %s: %w", p.Revision(), ErrDiverged)
	}
	return nil
}

func (f *Follower) apply(to Position, changes [][]byte, from string) error {
	if to.Epoch != f.cfg.Replica.Head().Epoch {
		return nil // a new epoch: the snapshot is on its way
	}
	err := f.cfg.Replica.Apply(to, changes)
	switch {
	case err == nil:
		f.source = from
		delete(f.trouble, "apply")
		return f.coverAhead()
	case from == FromNATS && errors.Is(err, ErrDiverged):
		// The position was signed, the changes may be anybody's: a liar must not be able to make us download everything. The pull will tell.
		f.noteGap()
		return err
	case errors.Is(err, ErrDiverged), errors.Is(err, ErrNoData), errors.Is(err, ErrCorrupt):
		f.wantSnapshot(err)
	}
	f.trouble["apply"] = err.Error()
	return err
}

// coverAhead moves as_of on to a head that came before its changes.
func (f *Follower) coverAhead() error {
	held := f.cfg.Replica.Head()
	if f.ahead.Epoch != held.Epoch || f.ahead.N > held.N {
		return nil
	}
	h := f.ahead
	f.ahead, f.gapSince = Head{}, time.Time{}
	return f.advance(h, held)
}

func (f *Follower) advance(h, held Head) error {
	if h.AsOf <= held.AsOf {
		return nil
	}
	if err := f.cfg.Replica.Advance(h); err != nil {
		return err
	}
	f.movedAt = time.Now()
	return nil
}

// takeHead verifies a head and moves as_of to it, now or when its changes are there.
func (f *Follower) takeHead(signed string) error {
	held := f.cfg.Replica.Head()
	h, err := f.cfg.Verifier.Head(signed, held.AsOf)
	if err != nil {
		return err
	}
	if err := f.judge(h.Position, held); err != nil {
		if errors.Is(err, ErrNoData) {
			return nil // the pull loop is bringing a snapshot
		}
		return err
	}
	if h.Epoch != held.Epoch {
		return nil
	}
	if h.N <= held.N {
		return f.advance(h, held)
	}
	if h.AsOf >= f.ahead.AsOf || f.ahead.Epoch != h.Epoch {
		f.ahead = h
		f.movedAt = time.Now() // the writer is alive; what is missing are its changes
	}
	f.noteGap()
	return nil
}

// hold keeps a batch that came before its predecessor.
func (f *Follower) hold(b Batch) {
	if len(f.held) < heldBatches {
		f.held = append(f.held, b)
	}
	f.noteGap()
}

func (f *Follower) noteGap() {
	if f.gapSince.IsZero() {
		f.gapSince = time.Now()
		f.wakeUp()
	}
}

// takeHeld applies what waited for the batch that was just applied.
func (f *Follower) takeHeld() error {
	waiting := f.held
	f.held = nil
	for _, b := range waiting {
		if err := f.takeBatch(b, FromNATS); err != nil {
			return err
		}
	}
	if len(f.held) == 0 && f.ahead.Epoch == 0 {
		f.gapSince = time.Time{}
	}
	return nil
}

func (f *Follower) batchFromSource(frame []byte) {
	b, err := ParseBatch(frame)
	if err == nil {
		f.mu.Lock()
		err = f.takeBatch(b, FromNATS)
		f.mu.Unlock()
	}
	f.report("source", err)
}

func (f *Follower) headFromSource(signed []byte) {
	f.mu.Lock()
	before := f.newestAsOf()
	err := f.takeHead(string(signed))
	// Only what is newer shows that the source is alive: one that repeats old heads must not keep us from pulling.
	if err == nil && f.newestAsOf() > before {
		f.fromHead = time.Now()
		// The pull rests now: what it met with before is not wrong at present, and it would never get to clear it.
		delete(f.trouble, "head")
		if f.gapSince.IsZero() {
			delete(f.trouble, "changes")
		}
	}
	f.mu.Unlock()
	f.report("source", err)
}

// newestAsOf is that of the newest verified head, whether the replica covers it yet or not. The caller holds f.mu.
func (f *Follower) newestAsOf() int64 { return max(f.cfg.Replica.Head().AsOf, f.ahead.AsOf) }

// wantSnapshot notes that only a snapshot helps and wakes the pull loop. The caller holds f.mu.
func (f *Follower) wantSnapshot(why error) {
	if f.snapshot == nil {
		f.snapshot = why
		f.cfg.Logger.Warn("replica needs a snapshot", "reason", why.Error())
	}
	f.trouble["snapshot"] = "waiting for a snapshot: " + why.Error()
	if f.interrupt != nil {
		f.interrupt()
	}
	f.wakeUp()
}

// bootstrap brings a snapshot and the changes after it, and replaces what is served. What is served stays until then.
func (f *Follower) bootstrap(ctx context.Context, client *Client, why error) error {
	started := time.Now()
	err := f.tryBootstrap(ctx, client)
	f.report("snapshot", err)
	if err == nil {
		head := f.cfg.Replica.Head()
		f.cfg.Logger.Info("replica built from a snapshot", "reason", why.Error(), "revision", head.Revision().String(), "duration_seconds", time.Since(started).Seconds())
		return nil
	}
	if !errors.Is(err, ErrUnavailable) {
		// It came and was of no use: a loop of downloads would help nobody.
		f.sleep(ctx, snapshotRest)
	}
	return err
}

func (f *Follower) tryBootstrap(ctx context.Context, client *Client) error {
	file, err := os.CreateTemp(f.cfg.SpoolDir, "snapshot-*.tmp")
	if err != nil {
		return fmt.Errorf("spool snapshot: %w", err)
	}
	defer func() {
		_ = file.Close()
		_ = os.Remove(file.Name())
	}()
	before := f.cfg.Replica.Head()
	m, err := client.Snapshot(ctx, file, func(signed string) (Manifest, error) {
		m, err := f.cfg.Verifier.Manifest(signed, before.AsOf)
		if err == nil && m.Epoch < before.Epoch {
			err = ErrOlderEpoch
		}
		return m, err
	})
	if err != nil {
		return err
	}
	fresh, err := f.cfg.Replica.Build(ctx, m, file)
	if err != nil {
		return err
	}
	if err := f.catchUp(ctx, client, fresh); err != nil {
		fresh.Discard()
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	got, held := fresh.Head(), f.cfg.Replica.Head()
	if got.Revision().Compare(held.Revision()) < 0 {
		fresh.Discard()
		return fmt.Errorf("%s after %s: %w", got.Revision(), held.Revision(), errBehind)
	}
	if err := f.cfg.Replica.Adopt(fresh); err != nil {
		fresh.Discard()
		return err
	}
	f.snapshot, f.source, f.held, f.gapSince, f.movedAt = nil, FromSnapshot, nil, time.Time{}, time.Now()
	delete(f.trouble, "apply")
	return f.coverAhead()
}

// catchUp applies what the writer has after the snapshot and takes its head, so that what replaces the served copy is not older.
func (f *Follower) catchUp(ctx context.Context, client *Client, c Copy) error {
	for {
		held := c.Head()
		batch, err := client.Changes(ctx, held.Revision(), MaxBatchChanges, 0)
		if err != nil {
			return err
		}
		if len(batch.Changes) == 0 {
			break
		}
		to, err := f.cfg.Verifier.Position(batch.Signed, held.AsOf)
		if err != nil {
			return err
		}
		if first, err := firstRevision(batch); err != nil || to.Epoch != held.Epoch || first != held.N+1 {
			return fmt.Errorf("changes do not follow the snapshot: %w", ErrOtherHistory)
		}
		if err := c.Apply(to, batch.Changes); err != nil {
			return err
		}
	}
	signed, err := client.Head(ctx)
	if err != nil {
		return err
	}
	held := c.Head()
	h, err := f.cfg.Verifier.Head(signed, held.AsOf)
	switch {
	case err != nil:
		return err
	case h.Epoch != held.Epoch:
		return fmt.Errorf("head after the snapshot: %w", ErrOtherHistory)
	case h.N > held.N:
		return nil // the next head, in a second
	case h.N == held.N && (h.Chain != held.Chain || h.StateHash != held.StateHash):
		return ErrDiverged
	}
	return c.Advance(h)
}

// current returns the writer in use.
func (f *Follower) current() (int, *Client) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.writer, f.clients[f.writer]
}

// tryNext goes on to the writer after index, unless somebody already did.
func (f *Follower) tryNext(index int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.writer == index && len(f.clients) > 1 {
		f.writer = (index + 1) % len(f.clients)
		if f.interrupt != nil && f.snapshot == nil {
			f.interrupt()
		}
	}
}

// report notes or clears a problem for Status, and logs it when it is new.
func (f *Follower) report(kind string, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err == nil {
		delete(f.trouble, kind)
		return
	}
	reason := kind + ": " + err.Error()
	if _, known := f.trouble[kind]; !known {
		f.cfg.Logger.Warn("following the writers is disturbed", "part", kind, "error", err)
	}
	f.trouble[kind] = reason
}

func (f *Follower) wakeUp() {
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

// sleep waits for d, the end of ctx, or a reason to look again.
func (f *Follower) sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	case <-f.wake:
	}
}

// firstRevision reads the revision of a batch's first change.
func firstRevision(b Batch) (uint64, error) {
	if len(b.Changes) == 0 || len(b.Changes[0]) < 8 {
		return 0, ErrFrame
	}
	return binary.BigEndian.Uint64(b.Changes[0]), nil
}
