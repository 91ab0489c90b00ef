package writer

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/latchkey/latchkey/pkg/entitlement"
	"github.com/latchkey/latchkey/pkg/problem"
	"github.com/latchkey/latchkey/writer/internal/provider"
	"github.com/latchkey/latchkey/writer/internal/store"
)

// The leader asks providers about what their messages left open: the products of a one-time payment, the object of a thin event, states that
// tie, two messages under one id. What they answer is proposed as an event of its own, so that nothing else need know that it was asked for.
// All of the memory here is about when to ask again: a new leader starts without it and asks once more.

const (
	// pullWorkers is how many purchases are asked about at a time of each provider of an environment. Requests keep to the Puller's own rate, and
	// those of one provider wait for no other's.
	pullWorkers = 4
	// pullBusyPause is how long a purchase waits whose provider has pullWorkers questions to answer.
	pullBusyPause = 250 * time.Millisecond
	// pullQueue is how many purchases one look at the state hands to the workers. It is short, so that a new purchase does not wait behind
	// an old backlog.
	pullQueue = 16
	// pullPage is how many rows one read transaction covers.
	pullPage = 512
	// A look at the state comes pullGather after the state changed, so that the messages of one moment are asked about together, and takes
	// at most a tenth of the time: with very many purchases in doubt it comes less often.
	pullGather    = 50 * time.Millisecond
	pullScanShare = 10

	// The pause before a purchase is asked about again, doubled each time, with jitter.
	pullPauseMin = time.Second
	pullPauseMax = 15 * time.Minute
	// pullGonePause is the pause where the provider has no such object.
	pullGonePause = 6 * time.Hour
	// pullRefusedPause is how long a whole environment waits when the provider refuses our key.
	pullRefusedPause = 30 * time.Second
	// pullOutrunPause is how long to wait for the second in which an answer is newer than the messages of the one before.
	pullOutrunPause = time.Second
	// pullSettleWait is the longest wait before the first question for an answer to be new enough, which is mostly a matter of one second.
	pullSettleWait = 2 * time.Second
	// pullEarlyPause is the longest pause before a question that no answer of now can settle, as it is about a time to come: Apple tells of a renewal up to a day
	// before it, and Adapty passes that on.
	pullEarlyPause = 24 * time.Hour

	// maxPullMemory bounds for how many purchases we remember when to ask again. What is beyond is asked about in turn: at ten requests a
	// second that is no sooner than pullPauseMax.
	maxPullMemory = 20_000
	// maxPullObjects bounds what is asked for at a time about one purchase: the newest ones.
	maxPullObjects = 200
)

// The outcomes of a pull of one object, in the words of the metrics.
const (
	pullRecorded    = "recorded"     // the answer is in the state
	pullUnchanged   = "unchanged"    // it says what was known and settles nothing
	pullGone        = "gone"         // the provider has no such object
	pullCredential  = "credential"   // our key is refused
	pullLimited     = "limited"      // we asked too often
	pullUnavailable = "unavailable"  // the provider does not answer
	pullAnswer      = "unreadable"   // its answer is not understood
	pullOther       = "wrong_mode"   // its answer is of the other environment
	pullNotRecorded = "not_recorded" // no majority took the answer
)

var pullOutcomes = []string{pullRecorded, pullUnchanged, pullGone, pullCredential, pullLimited, pullUnavailable, pullAnswer, pullOther, pullNotRecorded}

// pull asks about the purchases of every environment that has a provider to ask, while ctx, the leader's, lives.
func (w *Writer) pull(ctx context.Context) {
	var running sync.WaitGroup
	for env, apis := range w.pullers {
		p := newPulling(w, env, apis)
		running.Go(func() { p.run(ctx) })
	}
	running.Wait()
}

// pulling is the work on one environment in one term of this leader.
type pulling struct {
	*Writer
	env   entitlement.Environment
	apis  map[entitlement.Provider]provider.Puller
	slots chan struct{}
	freed chan struct{} // a worker has ended

	mu          sync.Mutex
	asking      map[entitlement.Provider]int                      // how many of slots are at each provider
	turned      map[entitlement.Provider][]entitlement.PurchaseID // away, because it had no worker; the first few
	tried       map[entitlement.PurchaseID]*pullTry
	busy        map[entitlement.PurchaseID]bool
	pausedUntil map[entitlement.Provider]time.Time // the provider asked for patience
	round       int                                // of scans; tried entries that one did not meet are dropped
}

func newPulling(w *Writer, env entitlement.Environment, apis map[entitlement.Provider]provider.Puller) *pulling {
	return &pulling{Writer: w, env: env, apis: apis, slots: make(chan struct{}, pullWorkers*max(len(apis), 1)), asking: map[entitlement.Provider]int{}, turned: map[entitlement.Provider][]entitlement.PurchaseID{}, freed: make(chan struct{}, 1),
		tried: map[entitlement.PurchaseID]*pullTry{}, busy: map[entitlement.PurchaseID]bool{}, pausedUntil: map[entitlement.Provider]time.Time{}}
}

// pullTry remembers when a purchase is to be asked about again.
type pullTry struct {
	asks     string // what for; another doubt about the same purchase starts anew
	conflict int64
	asked    int // how often: no answer has settled it yet
	next     time.Time
	seen     int // round
}

func (t *pullTry) isFor(p store.Pull) bool { return t.asks == p.Asks && t.conflict == p.ConflictAt }

func (p *pulling) run(ctx context.Context) {
	var working sync.WaitGroup
	defer working.Wait()
	for ctx.Err() == nil {
		applied := p.store.Applied()
		began := time.Now()
		due, next, err := p.scan(began)
		took := time.Since(began) // without the wait for workers
		if err != nil {
			p.log.WarnContext(ctx, "purchases in doubt not read", "environment", p.env, "error", err)
			next = began.Add(pullPauseMin)
		}
		for _, pull := range due {
			select {
			case p.slots <- struct{}{}:
			case <-ctx.Done():
				return
			}
			p.setBusy(pull.ID, true)
			working.Go(func() {
				p.ask(ctx, pull)
				p.setBusy(pull.ID, false)
				<-p.slots
				select {
				case p.freed <- struct{}{}:
				default:
				}
			})
		}
		pause := pullScanShare * took
		if len(due) < pullQueue && !p.crowded() { // else there is more to ask
			pause = max(pause, pullGather)
		}
		if !wait(ctx, pause, nil, nil) {
			return
		}
		if len(due) == pullQueue {
			continue // there may be more
		}
		if !wait(ctx, time.Until(next), applied, p.freed) {
			return
		}
	}
}

// wait returns true after d, or when one of the channels has something, and false when ctx ends.
func wait(ctx context.Context, d time.Duration, a, b <-chan struct{}) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
	case <-a:
	case <-b:
	}
	return true
}

func (p *pulling) setBusy(id entitlement.PurchaseID, busy bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if busy {
		p.busy[id] = true
	} else {
		delete(p.busy, id)
	}
}

// scan returns which purchases are to be asked about now, new doubts first, at most pullQueue, and when to look again if nothing happens.
func (p *pulling) scan(now time.Time) (due []store.Pull, next time.Time, err error) {
	next = now.Add(pullPauseMax)
	p.mu.Lock()
	defer p.mu.Unlock()
	if until := p.allPausedUntil(); until.After(now) {
		return nil, until, nil
	}
	p.round++
	after := entitlement.PurchaseID("")
	for {
		var page []store.Pull
		err := p.store.View(func(r *store.Reader) (err error) {
			page, err = r.Pulls(p.env, after, pullPage)
			return err
		})
		if err != nil {
			return nil, next, err
		}
		for _, pull := range page {
			if !pull.IsOpen(p.canAsk) {
				continue // of an import there may be more of these than we remember
			}
			try := p.tried[pull.ID]
			if try != nil {
				try.seen = p.round
			}
			switch {
			case p.busy[pull.ID]:
			case try != nil && try.isFor(pull) && try.next.After(now):
				if try.next.Before(next) {
					next = try.next
				}
			default:
				due = p.pick(due, pull)
			}
		}
		if len(page) < pullPage {
			break
		}
		after = page[len(page)-1].ID
	}
	for id, try := range p.tried {
		if try.seen != p.round && !p.busy[id] {
			delete(p.tried, id) // settled, or part of another purchase by now
		}
	}
	return due, next, nil
}

func (p *pulling) canAsk(from entitlement.Provider) bool { return p.apis[from] != nil }

// pick keeps the first pullQueue of due: the newest doubts, whether they had to wait for their second or for a worker or were asked about before, so that
// a sale of now never waits behind the thousands that an import left open. One that fails makes room by its pauses. Of one second those come first that
// were asked about the least, then those that wait the longest.
func (p *pulling) pick(due []store.Pull, pull store.Pull) []store.Pull {
	at, _ := slices.BinarySearchFunc(due, pull, func(a, b store.Pull) int {
		askedA, nextA := p.standing(a)
		askedB, nextB := p.standing(b)
		return cmp.Or(cmp.Compare(max(b.Since, b.ConflictAt), max(a.Since, a.ConflictAt)), cmp.Compare(askedA, askedB), nextA.Compare(nextB), cmp.Compare(a.ID, b.ID))
	})
	if at == pullQueue {
		return due
	}
	due = slices.Insert(due, at, pull)
	return due[:min(len(due), pullQueue)]
}

// standing returns how often a purchase was asked about for what is in doubt now, and when its turn was to be.
func (p *pulling) standing(pull store.Pull) (asked int, next time.Time) {
	if try := p.tried[pull.ID]; try != nil && try.isFor(pull) {
		return try.asked, try.next
	}
	return 0, time.Time{}
}

// ask asks about one purchase: for what is in doubt, or for everything where two messages came under one id.
func (p *pulling) ask(ctx context.Context, pull store.Pull) {
	purchase, err := p.purchase(pull.ID)
	if err != nil {
		p.log.WarnContext(ctx, "purchase in doubt not read", "environment", p.env, "purchase_id", pull.ID, "error", err)
		p.later(pull, pullPauseMin)
		return
	}
	targets := p.targets(purchase.Evidence, pull)
	if len(targets) == 0 { // nobody can be asked about it
		p.later(pull, pullPauseMax)
		return
	}
	early := p.tooEarly(targets, pull)
	if early > 0 && p.firstWait(pull, min(early, pullSettleWait)) {
		return
	}
	ctx = problem.WithRequestID(ctx, newID())
	p.acknowledge(ctx, purchase, pull)
	answers, pause, busy, complete := p.askAll(ctx, purchase, targets)
	if ctx.Err() != nil {
		return // the next leader asks
	}
	if busy != "" && len(answers) == 0 {
		p.soon(pull, busy, max(pause, pullBusyPause))
		return
	}
	settled := p.record(ctx, purchase, pull, answers, complete)
	if p.outrun(answers) && wait(ctx, pullOutrunPause, nil, nil) {
		answers, _, _, _ := p.askAll(ctx, purchase, targets)
		if purchase, err = p.purchase(pull.ID); err == nil && ctx.Err() == nil {
			settled = p.record(ctx, purchase, pull, answers, complete)
		}
	}
	if !settled {
		pause = max(pause, pullPauseMin)
	}
	if !settled && complete { // what is told a day early is asked about again when it is so
		pause = max(pause, min(early, pullEarlyPause))
	}
	p.later(pull, pause)
}

// purchase returns what is recorded of a purchase by now.
func (p *pulling) purchase(id entitlement.PurchaseID) (purchase store.PurchaseDetail, err error) {
	err = p.store.View(func(r *store.Reader) (err error) {
		purchase, _, err = r.Purchase(p.env, id)
		return err
	})
	return purchase, err
}

// outrun reports whether a message has a newer version than an answer and may be older: one of the second in which the question left. Answers have the
// version of that whole second, so the message counts. What happened in between has a message of its own; should that one be lost, an answer of the next
// second tells.
func (p *pulling) outrun(answers []entitlement.Event) (outrun bool) {
	err := p.store.View(func(r *store.Reader) error {
		for _, ev := range answers {
			for _, o := range ev.Objects {
				if o.At%int64(time.Second) != 0 || len(o.Links) == 0 { // what the provider has signed has its own time
					continue
				}
				purchase, _, err := r.Purchase(p.env, entitlement.PurchaseID(o.Links[0]))
				if err != nil {
					return err
				}
				newer := func(known entitlement.Object) bool {
					return known.Kind == o.Kind && known.ID == o.ID && known.By == o.By && o.At < known.At && known.At < o.At+int64(time.Second)
				}
				outrun = outrun || slices.ContainsFunc(purchase.Evidence.Objects, newer) && !purchase.Evidence.Knows(o)
			}
		}
		return nil
	})
	return outrun && err == nil
}

// enter takes one of a provider's workers, and reports false where all of them are asking.
func (p *pulling) enter(from entitlement.Provider) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.asking[from] >= pullWorkers {
		return false
	}
	p.asking[from]++
	return true
}

func (p *pulling) leave(from entitlement.Provider) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.asking[from]--
	if len(p.turned[from]) == 0 {
		return
	}
	if try := p.tried[p.turned[from][0]]; try != nil {
		try.next = time.Now() // its turn, before its pause is over
	}
	p.turned[from] = p.turned[from][1:]
}

// crowded reports whether purchases wait for a worker of their provider.
func (p *pulling) crowded() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, ids := range p.turned {
		if len(ids) > 0 {
			return true
		}
	}
	return false
}

// soon notes that a purchase was not asked about because a provider had no worker for it: that is no try.
func (p *pulling) soon(pull store.Pull, busy entitlement.Provider, pause time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	try := p.tried[pull.ID]
	if try == nil || !try.isFor(pull) {
		try = &pullTry{}
	}
	try.next = time.Now().Add(pause/2 + rand.N(pause))
	switch {
	case p.asking[busy] < pullWorkers: // by now it has one
		try.next = time.Now()
	case len(p.turned[busy]) < pullQueue:
		p.turned[busy] = append(p.turned[busy], pull.ID)
	}
	p.remember(pull, try)
}

// targets returns what to ask for, the newest first: of each provider that can be asked, what it makes of the doubts about its objects.
func (p *pulling) targets(e entitlement.Evidence, pull store.Pull) []entitlement.Doubt {
	doubts := e.Doubts()
	if pull.Conflict {
		for i := range e.Objects {
			o := &e.Objects[i]
			known := func(d entitlement.Doubt) bool { return d.Kind == o.Kind && d.ID == o.ID && d.By == o.By }
			if o.Hint == nil && !slices.ContainsFunc(doubts, known) {
				doubts = append(doubts, entitlement.Doubt{Kind: o.Kind, ID: o.ID, From: o.At, By: o.By})
			}
		}
	}
	var targets []entitlement.Doubt
	for name, api := range p.apis {
		own := slices.DeleteFunc(slices.Clone(doubts), func(d entitlement.Doubt) bool { return d.Provider() != name })
		for _, target := range api.Targets(e, own) {
			if target.By = name; name == entitlement.Stripe {
				target.By = ""
			}
			targets = append(targets, target)
		}
	}
	slices.SortStableFunc(targets, func(a, b entitlement.Doubt) int {
		return cmp.Or(cmp.Compare(b.From, a.From), cmp.Compare(a.By, b.By), cmp.Compare(a.ID, b.ID))
	})
	return targets[:min(len(targets), maxPullObjects)]
}

// tooEarly returns how long to wait until an answer can settle what is open: answers have the version of a whole second, which must be after
// that of what ties, or of the conflict.
func (p *pulling) tooEarly(targets []entitlement.Doubt, pull store.Pull) time.Duration {
	from := time.Unix(0, 0)
	if pull.Conflict {
		from = time.Unix(pull.ConflictAt+1, 0)
	}
	for _, d := range targets {
		if at := time.Unix(0, d.From); at.After(from) {
			from = at
		}
	}
	if whole := from.Truncate(time.Second); whole.Before(from) {
		from = whole.Add(time.Second)
	}
	return from.Sub(p.now())
}

// askAll asks for the targets one after the other. pause is the longest that one of them needs before it is asked for again, busy is a
// provider that had no worker left, complete that each was answered or does not exist.
func (p *pulling) askAll(ctx context.Context, purchase store.PurchaseDetail, targets []entitlement.Doubt) (answers []entitlement.Event, pause time.Duration, busy entitlement.Provider, complete bool) {
	complete = true
	for _, target := range targets {
		from := target.Provider()
		if left := p.paused(from); left > 0 {
			pause, complete = max(pause, left), false
			continue
		}
		if !p.enter(from) {
			busy, complete = from, false
			continue
		}
		ev, err := p.apis[from].Pull(ctx, target.Kind, target.ID)
		p.leave(from)
		if ctx.Err() != nil {
			return answers, pause, busy, false
		}
		if err == nil {
			answers = append(answers, ev)
			continue
		}
		if ev, ok := p.forgotten(purchase.Evidence, target, err); ok {
			answers = append(answers, ev)
			continue
		}
		outcome, atLeast := p.failed(from, err)
		pause, complete = max(pause, atLeast), complete && outcome == pullGone
		p.metrics.providerPull(from, outcome)
		p.log.WarnContext(ctx, "provider not asked with success", "provider", from, "environment", p.env, "purchase_id", purchase.ID, "object", target.Kind,
			"object_id", shownObject(target), "outcome", outcome, "error", err, "provider_request_id", requestIDOf(err), "correlation_id", problem.RequestID(ctx))
		if outcome == pullUnavailable {
			break // the rest would only take as long
		}
	}
	return answers, pause, busy, complete && len(answers) > 0
}

// forgotten returns what settles a question that its provider will never answer, because what it is about ended too long ago.
func (p *pulling) forgotten(e entitlement.Evidence, target entitlement.Doubt, err error) (entitlement.Event, bool) {
	failed := (*provider.PullError)(nil)
	api, ok := p.apis[target.Provider()].(provider.Forgetter)
	if !ok || !errors.As(err, &failed) || !failed.Forgotten {
		return entitlement.Event{}, false
	}
	return api.Forgotten(e, target, p.now())
}

// shownObject is a target's id as logs show it: a Play purchase token is a credential of its buyer, and a customer's id may be an address.
func shownObject(d entitlement.Doubt) string {
	if d.By == "" || d.By == entitlement.Apple {
		return d.ID
	}
	sum := sha256.Sum256([]byte(d.ID))
	return "sha256:" + hex.EncodeToString(sum[:8])
}

func requestIDOf(err error) string {
	if failed := (*provider.PullError)(nil); errors.As(err, &failed) {
		return failed.RequestID
	}
	return ""
}

// failed says what a failure is called and how long its purchase waits at least. Some make everything that is asked of the provider wait.
func (p *pulling) failed(from entitlement.Provider, err error) (outcome string, pause time.Duration) {
	var failure provider.PullError
	if e := (*provider.PullError)(nil); errors.As(err, &e) {
		failure = *e
	}
	switch {
	case errors.Is(err, provider.ErrGone) && failure.RetryAfter > 0: // it may only be too new
		return pullGone, failure.RetryAfter
	case errors.Is(err, provider.ErrGone):
		return pullGone, pullGonePause
	case errors.Is(err, provider.ErrCredential):
		if failure.Status == http.StatusUnauthorized { // 403 is about one kind of object
			p.pauseAll(from, pullRefusedPause)
		}
		return pullCredential, pullPauseMax
	case errors.Is(err, provider.ErrLimited):
		p.pauseAll(from, max(failure.RetryAfter, pullPauseMin))
		return pullLimited, max(failure.RetryAfter, pullPauseMin)
	case errors.Is(err, provider.ErrOtherEnvironment):
		return pullOther, pullPauseMax
	case errors.Is(err, provider.ErrAnswer):
		return pullAnswer, pullPauseMin
	}
	if failure.RetryAfter > 0 {
		p.pauseAll(from, failure.RetryAfter)
	}
	return pullUnavailable, max(failure.RetryAfter, pullPauseMin)
}

// record proposes the answers that say something new, and reports whether the doubt is settled as far as this node knows.
func (p *pulling) record(ctx context.Context, purchase store.PurchaseDetail, pull store.Pull, answers []entitlement.Event, complete bool) bool {
	// The mark of a conflict is cleared by the answer whose request left first: what conflicts since then is asked about again.
	slices.SortStableFunc(answers, func(a, b entitlement.Event) int { return cmp.Compare(b.CreatedAt, a.CreatedAt) })
	known := purchase.Evidence
	answers = slices.DeleteFunc(answers, func(ev entitlement.Event) bool { return len(ev.Objects) == 0 }) // nothing was refunded
	for i, ev := range answers {
		last := pull.Conflict && complete && i == len(answers)-1
		merged := known.Add(ev.Objects...)
		if !last && !news(known, merged, ev) {
			p.metrics.providerPull(ev.Provider, pullUnchanged)
			p.log.InfoContext(ctx, "provider says nothing new", "provider", ev.Provider, "environment", p.env, "purchase_id", purchase.ID, "type", ev.Type,
				"event_id", ev.ID, "correlation_id", problem.RequestID(ctx))
			continue
		}
		result, err := p.propose(ctx, store.TypeRecordEvent, p.env, store.RecordEvent{Event: ev, Pulled: last})
		if ctx.Err() != nil {
			return false
		}
		if err != nil || result.Rejection != nil {
			p.metrics.providerPull(ev.Provider, pullNotRecorded)
			p.log.WarnContext(ctx, "pulled answer not recorded", "provider", ev.Provider, "environment", p.env, "purchase_id", purchase.ID, "event_id", ev.ID,
				"error", err, "correlation_id", problem.RequestID(ctx))
			return false
		}
		known = merged
		p.metrics.providerPull(ev.Provider, pullRecorded)
		p.log.InfoContext(ctx, "provider asked", "provider", ev.Provider, "environment", p.env, "purchase_id", purchase.ID, "type", ev.Type, "event_id", ev.ID,
			"outcome", result.Outcome, "revision", result.Revision.String(), "correlation_id", problem.RequestID(ctx))
		if result.Outcome == store.Recorded {
			if !result.Duplicate {
				p.metrics.eventRecorded(ev.Provider, recordedByPull, pull.Since, p.now())
			}
			p.alarmUnmapped(ctx, p.env, &ev)
			p.alarmSoldTwice(ctx, p.env, &ev, result.Account)
		}
	}
	if ev := p.elsewhere(&purchase, answers); ev != nil {
		result, err := p.propose(ctx, store.TypeRecordEvent, p.env, store.RecordEvent{Event: *ev, Pulled: pull.Conflict && complete})
		if err != nil || result.Rejection != nil {
			p.log.WarnContext(ctx, "question not settled", "provider", ev.Provider, "environment", p.env, "purchase_id", purchase.ID, "event_id", ev.ID, "error", err,
				"correlation_id", problem.RequestID(ctx))
			return false
		}
		known = known.Add(ev.Objects...)
	}
	return len(known.Doubts()) == 0 && (complete || !pull.Conflict)
}

// elsewhere returns what settles questions whose answers are about another purchase, nil where there are none: a message that does not name its environment asks
// under the name of a real purchase, and the answer about a test purchase counts under one of its own; a test purchase's message asks about a customer, of whom
// production is told nothing but what is real.
func (p *pulling) elsewhere(purchase *store.PurchaseDetail, answers []entitlement.Event) *entitlement.Event {
	var settled *entitlement.Event
	has := func(l entitlement.Link) bool { return slices.Contains(purchase.Evidence.Links, l) }
	for _, d := range purchase.Evidence.Doubts() {
		empty := entitlement.Object{Kind: d.Kind, ID: d.ID, By: d.By, Links: []entitlement.Link{entitlement.Link(purchase.ID)}}
		switch d.Kind {
		case entitlement.KindRenewal:
			empty.Renewal = &entitlement.Renewal{}
		case entitlement.KindCustomer:
			empty.Customer = &entitlement.Customer{}
		default:
			continue
		}
		for _, ev := range answers {
			counts := ev
			if ev.Environment != p.env {
				counts = store.AsTest(ev)
			}
			for _, o := range counts.Objects {
				if o.Kind != d.Kind || o.ID != d.ID || o.By != d.By || o.At < d.From || slices.ContainsFunc(o.Links, has) {
					continue
				}
				if empty.At = o.At; settled == nil {
					settled = &entitlement.Event{Provider: ev.Provider, ID: ev.ID + ":elsewhere", Environment: p.env, Type: ev.Type, CreatedAt: ev.CreatedAt}
				}
			}
		}
		if empty.At != 0 {
			settled.Objects = append(settled.Objects, empty)
		}
	}
	return settled
}

// news reports whether an answer is worth an entry of the log: it settles a doubt, or shows another state that counts.
func news(known, merged entitlement.Evidence, ev entitlement.Event) bool {
	if len(merged.Doubts()) < len(known.Doubts()) {
		return true
	}
	for _, o := range ev.Objects {
		if !known.Knows(o) {
			return !bytes.Equal(entitlement.Encode(known), entitlement.Encode(merged))
		}
	}
	return false
}

// firstWait makes a new doubt wait d for its first question, once.
func (p *pulling) firstWait(pull store.Pull, d time.Duration) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if try := p.tried[pull.ID]; try != nil && try.isFor(pull) {
		return false
	}
	p.remember(pull, &pullTry{next: time.Now().Add(d)})
	return true
}

// later notes when to ask again, should the purchase then still be in doubt: not much before pause.
func (p *pulling) later(pull store.Pull, pause time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	try := p.tried[pull.ID]
	if try == nil || !try.isFor(pull) {
		try = &pullTry{}
	}
	pause = max(pause, min(pullPauseMin<<min(try.asked, 16), pullPauseMax))
	try.asked++
	try.next = time.Now().Add(pause*3/4 + rand.N(pause/2))
	p.remember(pull, try)
}

func (p *pulling) remember(pull store.Pull, try *pullTry) {
	try.asks, try.conflict, try.seen = pull.Asks, pull.ConflictAt, p.round
	if _, known := p.tried[pull.ID]; !known && len(p.tried) >= maxPullMemory {
		for id := range p.tried { // one by lot
			delete(p.tried, id)
			break
		}
	}
	p.tried[pull.ID] = try
}

func (p *pulling) pauseAll(from entitlement.Provider, d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if until := time.Now().Add(d + rand.N(d/4+1)); until.After(p.pausedUntil[from]) {
		p.pausedUntil[from] = until
	}
}

// paused returns how long a provider is still left alone.
func (p *pulling) paused(from entitlement.Provider) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	return time.Until(p.pausedUntil[from])
}

// allPausedUntil returns until when no provider can be asked. p.mu is held.
func (p *pulling) allPausedUntil() time.Time {
	var first time.Time
	for name := range p.apis {
		if until := p.pausedUntil[name]; first.IsZero() || until.Before(first) {
			first = until
		}
	}
	return first
}
