package replication

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"time"

	"github.com/latchkey/latchkey/pkg/fault"
)

var (
	errNewerEpoch = errors.New("the writers have begun a new epoch")
	errBehind     = errors.New("snapshot and changes end before what is served")
	errStandstill = errors.New("as_of stands still: the writer may be cut off from its cluster")
)

// How the data that is held came here, as /status says it.
const (
	FromDisk     = "disk"
	FromNATS     = "nats"
	FromPull     = "pull"
	FromSnapshot = "snapshot"
)

const (
	// reorderWait is how long a hole in what the source brings may be due to reordering before it is pulled.
	reorderWait = 300 * time.Millisecond
	// sourceSilence is after how long without a head the source is taken for dead and everything is pulled.
	sourceSilence = 2 * time.Second
	// standstill is after how long without a newer as_of another writer is tried: one that is cut off from its cluster still answers.
	standstill = 3 * time.Second
	// firstPatience is how long a request of the pull lane may stay open once something shows that its answer is overdue: a head that there are
	// changes, or a writer that does not answer for its head. The peer may be gone without a word, and a request would hang for the whole of a
	// long poll, or of a snapshot's time to be built. It doubles each time, so that a slow download ends at last.
	firstPatience = 1500 * time.Millisecond
	// heldBatches bounds what waits for a hole to be filled; beyond it the pull brings everything anyway.
	heldBatches = 64
	// snapshotRest is the least time between two snapshots of which the first did not help.
	snapshotRest = 2 * time.Second
)

// LadderConfig is what a Ladder needs.
type LadderConfig struct {
	Replica  Replica
	Verifier *Verifier
	Writers  int            // how many there are to ask; requests name them by their index
	Source   bool           // something faster than the pull brings batches and heads
	Random   func() float64 // of [0, 1), for the pauses after failures
	Logger   *slog.Logger   // nil logs nothing
}

// Ladder decides how a replica stays at the writers' newest position. It is a state machine: what came and the time go in, what to ask for
// next comes out. It has no clock, goroutine or network of its own, so that a simulator can drive exactly what Follower does. Everything
// that arrives, by pull or from the source, goes through the same verification; nothing unsigned is applied. One goroutine at a time may use it.
//
// There are two lanes, each with one request at a time: NextHead is asked every second and answered by TookHead; NextPull is asked
// when the request before it was answered (by TookChanges or Finish), when its pause is over, and when Signals says so.
type Ladder struct {
	cfg LadderConfig

	writer   int       // the one in use
	ways     []way     // to each of them
	held     []Batch   // from the source, after a hole
	gapSince time.Time // when the hole or the head beyond what is held was first seen
	ahead    Head      // the newest verified head that the replica does not cover yet
	snapshot error     // why only a snapshot helps; nil if it is not so
	epoch    uint64    // the newest above our own that a writer has signed: a snapshot of less would be a way back
	fromHead time.Time // last newer head from the source
	movedAt  time.Time // last newer as_of
	source   string
	trouble  map[string]string // open problems by their kind, for Reasons

	delay      time.Duration // before the next try after a failure, at most twice that
	retryAt    time.Time     // the pull lane rests until then, unless something happens
	awayUntil  time.Time     // a writer told us to stay away until about then, whatever happens
	snapshotAt time.Time     // no snapshot before then, whatever happens

	asked    RequestKind   // what the pull lane's open request is for; AskNothing: there is none
	askedAt  time.Time     // since when it is open
	patience time.Duration // with it

	wake, interrupt bool
}

// What a Request asks for.
const (
	AskNothing  RequestKind = iota // wait for Request.Wait, or until Signals says to look again
	AskHead                        // the writer's newest head
	AskChanges                     // changes after Request.After, waiting up to Request.Wait for the first one
	AskSnapshot                    // a Climb
)

// RequestKind says what a Request asks for.
type RequestKind uint8

// Request is what a ladder wants to know next.
type Request struct {
	Kind   RequestKind
	Writer int // index of the writer to ask
	After  Revision
	Wait   time.Duration
	Why    error // of a snapshot
}

// NewLadder returns a ladder at the lowest rung, with what its replica holds.
func NewLadder(cfg LadderConfig) *Ladder {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	return &Ladder{cfg: cfg, ways: make([]way, cfg.Writers), source: FromDisk, trouble: map[string]string{}, delay: firstBackoff, patience: firstPatience}
}

// Start begins: the writer in use has from now on to show that it is alive.
func (l *Ladder) Start(now time.Time) { l.movedAt = now }

// Signals says what is to be done at once, and forgets it: wake the pull lane if it waits; interrupt its open request. The answer of an interrupted
// request for changes is not told; a climb is finished with what its interruption came to, ErrUnavailable.
func (l *Ladder) Signals() (wake, interrupt bool) {
	wake, interrupt = l.wake, l.interrupt
	l.wake, l.interrupt = false, false
	return wake, interrupt
}

// Source says how the newest data came: FromDisk, FromNATS, FromPull or FromSnapshot.
func (l *Ladder) Source() string { return l.source }

// Writer is the index of the writer in use.
func (l *Ladder) Writer() int { return l.writer }

// Reasons says what is wrong at present, in words for operators.
func (l *Ladder) Reasons() []string {
	var reasons []string
	for _, reason := range l.trouble {
		reasons = append(reasons, reason)
	}
	slices.Sort(reasons)
	return reasons
}

// Lost notes that the replica has given its data up.
func (l *Ladder) Lost() { l.wantSnapshot(fmt.Errorf("the replica was damaged: %w", ErrNoData)) }

// NextHead asks for a head unless the source brings them. During a climb it asks all the same, to see whether the writer is there.
func (l *Ladder) NextHead(now time.Time) Request {
	if l.sourceAlive(now) && l.asked != AskSnapshot {
		return Request{Wait: headEvery}
	}
	return Request{Kind: AskHead, Writer: l.writer}
}

// TookHead takes the answer to a NextHead.
func (l *Ladder) TookHead(now time.Time, r Request, signed string, err error) {
	if err == nil {
		err = l.takeHead(now, signed)
	}
	if err == nil && now.Sub(l.movedAt) > standstill {
		err = errStandstill
		l.movedAt = now // give the next one as long
	}
	l.report("head", err)
	if err == nil && l.asked == AskChanges && l.gapSince.IsZero() && now.Sub(l.askedAt) > headEvery {
		// The request for changes is held, as it should be while there are none: what the one before it met with is over.
		delete(l.trouble, "changes")
	}
	if err != nil {
		if l.asked == AskSnapshot && l.writer == r.Writer && errors.Is(err, ErrUnavailable) {
			l.overdue(now)
		}
		l.tryNext(r.Writer)
	}
}

// NextPull keeps one request for changes open, so that a change travels as soon as it is made; while the source is alive it only fills
// holes. Where changes cannot help it asks for a snapshot.
func (l *Ladder) NextPull(now time.Time) Request {
	r := l.nextPull(now)
	l.asked, l.askedAt = r.Kind, now
	return r
}

func (l *Ladder) nextPull(now time.Time) Request {
	if rest := max(l.retryAt.Sub(now), l.awayUntil.Sub(now)); rest > 0 {
		return Request{Wait: rest}
	}
	if wait := l.leaveToSource(now); wait > 0 {
		return Request{Wait: wait}
	}
	held := l.cfg.Replica.Head()
	why := l.snapshot
	if why == nil && held.Epoch == 0 {
		why = ErrNoData
	}
	if why != nil {
		if rest := l.snapshotAt.Sub(now); rest > 0 {
			return Request{Wait: rest}
		}
		return Request{Kind: AskSnapshot, Writer: l.writer, Why: why}
	}
	wait := MaxWait
	if l.sourceAlive(now) {
		wait = 0 // to fill a hole
	}
	return Request{Kind: AskChanges, Writer: l.writer, After: held.Revision(), Wait: wait}
}

// TookChanges takes the answer to a NextPull that asked for changes.
func (l *Ladder) TookChanges(now time.Time, r Request, b Batch, err error) {
	switch {
	case errors.Is(err, ErrBelowFloor):
		l.wantSnapshot(err)
		err = nil
	case err != nil:
		// Another history is a writer behind ours, or a new epoch: the next head says which.
	default:
		if err = l.takeBatch(now, b, FromPull); err == nil && len(b.Changes) == 0 {
			l.gapSince = time.Time{} // the writer has nothing more; the next head begins anew
		}
	}
	l.pulled(now, r, err)
}

// pulled ends a request of the pull lane.
func (l *Ladder) pulled(now time.Time, r Request, err error) {
	l.report("changes", err)
	l.asked = AskNothing
	if err == nil {
		l.delay, l.retryAt, l.patience = firstBackoff, time.Time{}, firstPatience
		return
	}
	if !errors.Is(err, ErrRules) {
		l.tryNext(r.Writer)
	}
	// Exponential with full jitter, as NewBackoff: a thousand edges that lost one writer must not come back at the same moment.
	l.retryAt = now.Add(time.Duration(l.cfg.Random() * float64(2*l.delay)))
	l.delay = min(2*l.delay, backoffMax)
	if asked := RetryAfter(err); asked > 0 {
		// What wakes us, a new head say, wakes a thousand edges at the same moment: who was told to stay away does. The spread is for those who
		// were told so together.
		l.awayUntil = now.Add(asked + time.Duration(l.cfg.Random()*float64(asked)))
	}
}

// BatchFromSource takes a batch frame that the source brought.
func (l *Ladder) BatchFromSource(now time.Time, frame []byte) {
	b, err := ParseBatch(frame)
	if err == nil {
		err = l.takeBatch(now, b, FromNATS)
	}
	l.report("source", err)
}

// HeadFromSource takes a signed head that the source brought.
func (l *Ladder) HeadFromSource(now time.Time, signed []byte) {
	before := l.newestAsOf()
	err := l.takeHead(now, string(signed))
	// Only what is newer shows that the source is alive: one that repeats old heads must not keep us from pulling.
	if err == nil && l.newestAsOf() > before {
		l.fromHead = now
		// The pull rests now: what it met with before is not wrong at present, and it would never get to clear it.
		delete(l.trouble, "head")
		if l.gapSince.IsZero() {
			delete(l.trouble, "changes")
		}
	}
	l.report("source", err)
}

// sourceAlive reports whether the source has brought a head lately.
func (l *Ladder) sourceAlive(now time.Time) bool {
	return l.cfg.Source && l.silence(now) < sourceSilence
}

// silence is how long the source has brought no newer head.
func (l *Ladder) silence(now time.Time) time.Duration {
	if fault.Planted("silence-unnoticed") {
		return 0
	}
	return now.Sub(l.fromHead)
}

// leaveToSource says how long the source may go on alone. 0 means pull now.
func (l *Ladder) leaveToSource(now time.Time) time.Duration {
	switch {
	case !l.sourceAlive(now) || l.snapshot != nil || l.cfg.Replica.Head().Epoch == 0:
		return 0
	case l.gapSince.IsZero():
		return sourceSilence - l.silence(now)
	}
	return max(0, reorderWait-now.Sub(l.gapSince))
}

// takeBatch verifies and applies a batch. Errors that only a snapshot mends have been noted.
func (l *Ladder) takeBatch(now time.Time, b Batch, from string) error {
	held := l.cfg.Replica.Head()
	to, err := l.cfg.Verifier.Position(b.Signed, held.AsOf)
	if err != nil {
		return err
	}
	if err := l.judge(to, held); err != nil || to.N <= held.N || len(b.Changes) == 0 {
		return err
	}
	first, err := firstRevision(b)
	if err != nil || first+uint64(len(b.Changes))-1 != to.N {
		return fmt.Errorf("batch does not end at its position: %w", ErrFrame)
	}
	if first > held.N+1 {
		if from == FromPull {
			return fmt.Errorf("changes from %d on after %d: %w", first, held.N, ErrFrame) // it was asked for those after what is held
		}
		l.hold(now, b)
		return nil
	}
	if err := l.apply(now, to, b.Changes[held.N+1-first:], from); err != nil {
		return err
	}
	return l.takeHeld(now)
}

// judge compares a verified position with what is held: epochs, and the history where both are at the same revision.
func (l *Ladder) judge(p Position, held Head) error {
	switch {
	case held.Epoch == 0:
		return ErrNoData
	case p.Epoch < held.Epoch:
		return fmt.Errorf("%w: %d, ours is %d", ErrOlderEpoch, p.Epoch, held.Epoch)
	case p.Epoch > held.Epoch:
		l.epoch = max(l.epoch, p.Epoch)
		l.wantSnapshot(errNewerEpoch)
		return nil
	case p.N == held.N && (p.Chain != held.Chain || p.StateHash != held.StateHash):
		l.wantSnapshot(ErrDiverged)
		return fmt.Errorf("revision %s: %w", p.Revision(), ErrDiverged)
	}
	return nil
}

func (l *Ladder) apply(now time.Time, to Position, changes [][]byte, from string) error {
	if to.Epoch != l.cfg.Replica.Head().Epoch {
		return nil // a new epoch: the snapshot is on its way
	}
	err := l.cfg.Replica.Apply(to, changes)
	switch {
	case err == nil:
		l.source = from
		delete(l.trouble, "apply")
		return l.coverAhead(now)
	case from == FromNATS && errors.Is(err, ErrDiverged):
		// The position was signed, the changes may be anybody's: a liar must not be able to make us download everything. The pull will tell.
		l.noteGap(now)
		return err
	case errors.Is(err, ErrDiverged), errors.Is(err, ErrNoData), errors.Is(err, ErrCorrupt):
		l.wantSnapshot(err)
	}
	l.trouble["apply"] = err.Error()
	return err
}

// coverAhead moves as_of on to a head that came before its changes.
func (l *Ladder) coverAhead(now time.Time) error {
	held := l.cfg.Replica.Head()
	if l.ahead.Epoch != held.Epoch || l.ahead.N > held.N {
		return nil
	}
	h := l.ahead
	l.ahead, l.gapSince = Head{}, time.Time{}
	return l.advance(now, h, held)
}

func (l *Ladder) advance(now time.Time, h, held Head) error {
	if h.AsOf <= held.AsOf {
		return nil
	}
	if err := l.cfg.Replica.Advance(h); err != nil {
		return err
	}
	l.movedAt = now
	return nil
}

// takeHead verifies a head and moves as_of to it, now or when its changes are there.
func (l *Ladder) takeHead(now time.Time, signed string) error {
	held := l.cfg.Replica.Head()
	h, err := l.cfg.Verifier.Head(signed, held.AsOf)
	if err != nil {
		return err
	}
	if err := l.judge(h.Position, held); err != nil {
		if errors.Is(err, ErrNoData) {
			return nil // the pull lane is bringing a snapshot
		}
		return err
	}
	if h.Epoch != held.Epoch {
		return nil
	}
	if h.N <= held.N {
		return l.advance(now, h, held)
	}
	if h.AsOf >= l.ahead.AsOf || l.ahead.Epoch != h.Epoch {
		l.ahead = h
		l.movedAt = now // the writer is alive; what is missing are its changes
	}
	l.noteGap(now)
	if l.asked == AskChanges && now.Sub(l.gapSince) > l.patience && l.overdue(now) {
		l.tryNext(l.writer)
	}
	return nil
}

// overdue interrupts the pull lane's open request if it is older than our patience, and reports whether it was.
func (l *Ladder) overdue(now time.Time) bool {
	if now.Sub(l.askedAt) <= l.patience {
		return false
	}
	l.interrupt, l.patience = true, 2*l.patience
	return true
}

// hold keeps a batch that came before its predecessor.
func (l *Ladder) hold(now time.Time, b Batch) {
	if len(l.held) < heldBatches {
		l.held = append(l.held, b)
	}
	l.noteGap(now)
}

func (l *Ladder) noteGap(now time.Time) {
	if l.gapSince.IsZero() {
		l.gapSince = now
		l.lookAgain()
	}
}

// takeHeld applies what waited for the batch that was just applied.
func (l *Ladder) takeHeld(now time.Time) error {
	waiting := l.held
	l.held = nil
	for _, b := range waiting {
		if err := l.takeBatch(now, b, FromNATS); err != nil {
			return err
		}
	}
	if len(l.held) == 0 && l.ahead.Epoch == 0 {
		l.gapSince = time.Time{}
	}
	return nil
}

// newestAsOf is that of the newest verified head, whether the replica covers it yet or not.
func (l *Ladder) newestAsOf() int64 { return max(l.cfg.Replica.Head().AsOf, l.ahead.AsOf) }

// wantSnapshot notes that only a snapshot helps and wakes the pull lane.
func (l *Ladder) wantSnapshot(why error) {
	if l.snapshot == nil {
		l.snapshot = why
		l.cfg.Logger.Warn("replica needs a snapshot", "reason", why.Error())
	}
	l.trouble["snapshot"] = "waiting for a snapshot: " + why.Error()
	l.interrupt = l.interrupt || l.asked == AskChanges
	l.lookAgain()
}

// lookAgain ends the pause after a failure.
func (l *Ladder) lookAgain() { l.wake, l.retryAt = true, time.Time{} }

// tryNext goes on to the writer after index, unless that was done already.
func (l *Ladder) tryNext(index int) {
	if l.writer == index && l.cfg.Writers > 1 {
		l.writer = (index + 1) % l.cfg.Writers
		l.interrupt = l.interrupt || l.asked == AskChanges
	}
}

// report notes or clears a problem for Reasons, and logs it when it is new.
func (l *Ladder) report(kind string, err error) {
	if err == nil {
		delete(l.trouble, kind)
		return
	}
	if _, known := l.trouble[kind]; !known {
		l.cfg.Logger.Warn("following the writers is disturbed", "part", kind, "error", err)
	}
	l.trouble[kind] = kind + ": " + err.Error()
}

// Climb is one snapshot on its way to being served: judged, built beside what is served, and brought up to the writer's newest change. Its
// steps touch nothing that is served, and may run while the ladder takes others; Ladder.Finish ends it.
type Climb struct {
	cfg    *LadderConfig
	before Head   // what was served when it began
	least  uint64 // epoch
	fresh  Copy   // nil until built
	ahead  Head   // that the copy does not cover yet; zero: none
	done   RequestKind
}

// Climb begins one.
func (l *Ladder) Climb() *Climb {
	before := l.cfg.Replica.Head()
	return &Climb{cfg: &l.cfg, before: before, least: max(before.Epoch, l.epoch), done: AskNothing}
}

// Judge says whether a snapshot is wanted, by its signed manifest. Errors: those of Verifier.Manifest, ErrOlderEpoch.
func (c *Climb) Judge(signed string) (Manifest, error) {
	m, err := c.cfg.Verifier.Manifest(signed, c.before.AsOf)
	if err == nil && m.Epoch < c.least {
		err = ErrOlderEpoch
	}
	return m, err
}

// Build makes the copy from records that have the manifest's size and SHA-256.
func (c *Climb) Build(ctx context.Context, m Manifest, records io.Reader) error {
	fresh, err := c.cfg.Replica.Build(ctx, m, records)
	if err == nil {
		c.fresh = fresh
	}
	return err
}

// Next says what the copy lacks before it may be served: changes, then the head and the changes that this is ahead by, so that what replaces the served copy is not
// older. AskNothing: it is ready.
func (c *Climb) Next() Request {
	switch c.done {
	case AskNothing:
		return Request{Kind: AskChanges, After: c.fresh.Head().Revision()}
	case AskChanges:
		return Request{Kind: AskHead}
	}
	return Request{}
}

// TookChanges takes the answer to a Next that asked for changes. An error ends the climb.
func (c *Climb) TookChanges(batch Batch, err error) error {
	if err != nil {
		return err
	}
	if len(batch.Changes) == 0 {
		if c.done = AskChanges; c.ahead.Epoch != 0 {
			c.done = AskHead // this writer does not have them yet: the next head, in a second
		}
		return nil
	}
	held := c.fresh.Head()
	to, err := c.cfg.Verifier.Position(batch.Signed, held.AsOf)
	if err != nil {
		return err
	}
	if first, err := firstRevision(batch); err != nil || to.Epoch != held.Epoch || first != held.N+1 {
		return fmt.Errorf("changes do not follow the snapshot: %w", ErrOtherHistory)
	}
	if err := c.fresh.Apply(to, batch.Changes); err != nil || c.ahead.Epoch == 0 || c.ahead.N > to.N {
		return err
	}
	return c.cover(c.ahead)
}

// TookHead takes the answer to a Next that asked for a head. An error ends the climb.
func (c *Climb) TookHead(signed string, err error) error {
	if err != nil {
		return err
	}
	held := c.fresh.Head()
	h, err := c.cfg.Verifier.Head(signed, held.AsOf)
	switch {
	case err != nil:
		return err
	case h.Epoch != held.Epoch:
		return fmt.Errorf("head after the snapshot: %w", ErrOtherHistory)
	case h.N > held.N:
		// Without a head nothing could be signed: what it is ahead by is asked for.
		c.ahead, c.done = h, AskNothing
		return nil
	}
	return c.cover(h)
}

// cover makes a head's as_of the copy's, which ends the climb.
func (c *Climb) cover(h Head) error {
	c.done = AskHead
	if held := c.fresh.Head(); h.N == held.N && (h.Chain != held.Chain || h.StateHash != held.StateHash) {
		return ErrDiverged
	}
	return c.fresh.Advance(h)
}

// Discard gives the copy up, if there is one.
func (c *Climb) Discard() {
	if c.fresh != nil {
		c.fresh.Discard()
		c.fresh = nil
	}
}

// Finish ends the pull lane's request r for a snapshot: without err the copy is served from now on, unless it is older than what is served.
// It returns why the climb came to nothing, or nil.
func (l *Ladder) Finish(now time.Time, r Request, c *Climb, err error) error {
	if err == nil {
		err = l.adopt(now, c)
	}
	if err != nil {
		c.Discard()
	}
	l.report("snapshot", err)
	l.pulled(now, r, err)
	if err != nil && !errors.Is(err, ErrUnavailable) {
		// It came and was of no use: a loop of downloads would help nobody.
		l.snapshotAt = now.Add(snapshotRest)
	}
	return err
}

func (l *Ladder) adopt(now time.Time, c *Climb) error {
	got, held := c.fresh.Head(), l.cfg.Replica.Head()
	if got.Revision().Compare(held.Revision()) < 0 {
		return fmt.Errorf("%s after %s: %w", got.Revision(), held.Revision(), errBehind)
	}
	if err := l.cfg.Replica.Adopt(c.fresh); err != nil {
		return err
	}
	c.fresh = nil
	if !fault.Planted("snapshots-without-end") {
		l.snapshot = nil
	}
	l.source, l.held, l.gapSince, l.movedAt = FromSnapshot, nil, time.Time{}, now
	delete(l.trouble, "apply")
	return l.coverAhead(now)
}

// firstRevision reads the revision of a batch's first change.
func firstRevision(b Batch) (uint64, error) {
	if len(b.Changes) == 0 || len(b.Changes[0]) < 8 {
		return 0, ErrFrame
	}
	return binary.BigEndian.Uint64(b.Changes[0]), nil
}
