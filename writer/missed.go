package writer

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/latchkey/latchkey/pkg/entitlement"
	"github.com/latchkey/latchkey/pkg/problem"
	"github.com/latchkey/latchkey/writer/internal/provider"
	"github.com/latchkey/latchkey/writer/internal/store"
)

// A message that a provider gave up sending never comes: an outage was longer than its patience, a proxy took it and said 200, a backup was restored that is
// older than it. Where the provider keeps what it has sent the leader reads that, and records what is not known by the id that the message has: it is
// the message, whichever way it came, and its webhook is a duplicate should it still come.

const (
	// historyDefault is how often that is read, and so about how long a lost message goes unseen.
	historyDefault = 15 * time.Minute
	// historyOverlap is how far a look reaches behind the one before it: a list may get rows late.
	historyOverlap = time.Hour
	// historySettle is the age from which on a message that did not come is looked for: until then it may be on its way.
	historySettle = time.Minute
	// historyChunk is what one look covers. After a long outage each chunk that was read stays so, whatever comes of the next.
	historyChunk = 24 * time.Hour
	// historyFirst is how far a leader looks back at least. For a week (six and a half days) Apple itself repeats what was not taken, so that single
	// messages of that time may be missing before the newest one that came.
	historyFirst = 7 * 24 * time.Hour
	// historyRetry is the pause after a look that failed.
	historyRetry = time.Minute
	// historyRows is how many events, the newest first, are searched for the last message of the provider, in pages of historyPage.
	historyRows, historyPage = 20_480, 64
)

// historyKeepers are the providers that keep what they have sent.
var historyKeepers = []entitlement.Provider{entitlement.Apple, entitlement.Stripe}

// What came of a look, and of a message in it, in the words of the metrics.
const (
	historyRead   = "read"
	historyFailed = "failed" // not to its end; it is read again

	historyKnown  = "known"  // it came
	historyMissed = "missed" // it never came, and is recorded now
	historyForged = "forged" // it is not authentic by what is configured here
)

// recoverMissed reads what providers have sent, while ctx, the leader's, lives.
func (w *Writer) recoverMissed(ctx context.Context) {
	var running sync.WaitGroup
	for env, apis := range w.pullers {
		for _, api := range apis {
			if keeper, ok := api.(provider.HistoryKeeper); ok {
				running.Go(func() { w.readHistory(ctx, env, keeper) })
			}
		}
	}
	running.Wait()
}

// historyInterval returns how often a provider's history is read.
func (e *EnvironmentConfig) historyInterval(of entitlement.Provider) time.Duration {
	switch {
	case of == entitlement.Apple && e.Apple != nil && e.Apple.HistoryInterval > 0:
		return e.Apple.HistoryInterval
	case of == entitlement.Stripe && e.Stripe != nil && e.Stripe.HistoryInterval > 0:
		return e.Stripe.HistoryInterval
	}
	return historyDefault
}

func (w *Writer) readHistory(ctx context.Context, env entitlement.Environment, keeper provider.HistoryKeeper) {
	cfg := w.cfg.Environments[env]
	var done time.Time // all messages up to here are known
	for {
		pause := cfg.historyInterval(keeper.Provider())
		var err error
		if done.IsZero() {
			done, err = w.lastTold(env, keeper)
		}
		if err == nil {
			done, err = w.readSince(ctx, env, keeper, done)
		}
		if err != nil && ctx.Err() == nil {
			w.log.WarnContext(ctx, "what a provider has sent not read", "provider", keeper.Provider(), "environment", env, "from", done, "error", err, "provider_request_id", requestIDOf(err))
			if !errors.Is(err, provider.ErrCredential) { // an operator must act
				pause = historyRetry
			}
			if failed := (*provider.PullError)(nil); errors.As(err, &failed) {
				pause = max(pause, failed.RetryAfter)
			}
		}
		if !wait(ctx, pause, nil, nil) {
			return
		}
	}
}

// lastTold returns since when messages may be missing: the time, by the provider, of the last one that came, a week at least. After a restore that is
// the last one in the backup, after an outage of all writers the last one before it.
func (w *Writer) lastTold(env entitlement.Environment, keeper provider.HistoryKeeper) (time.Time, error) {
	now := w.now()
	since := now.Add(-historyFirst)
	before := uint64(0)
	for range historyRows / historyPage {
		var page []store.StoredEvent
		err := w.store.View(func(r *store.Reader) (err error) {
			page, err = r.EventsBefore(env, before, historyPage)
			return err
		})
		if err != nil {
			return since, err
		}
		for _, ev := range page {
			if before = ev.Seq; ev.Provider == keeper.Provider() && keeper.IsMessage(ev.ID) && ev.CreatedAt > 0 {
				if at := time.Unix(ev.CreatedAt, 0); at.Before(since) {
					since = at
				}
				return since, nil
			}
		}
		if len(page) < historyPage {
			break
		}
	}
	return since, nil
}

// readSince reads what was sent from done on, and returns up to where everything is known now.
func (w *Writer) readSince(ctx context.Context, env entitlement.Environment, keeper provider.HistoryKeeper, done time.Time) (time.Time, error) {
	now := w.now()
	from, end := done.Add(-historyOverlap), now.Add(-historySettle)
	if kept := now.Add(-keeper.HistoryReach()); from.Before(kept) {
		from = kept
	}
	for from.Before(end) {
		to := from.Add(historyChunk)
		if to.After(end) {
			to = end
		}
		err := w.recordHistory(ctx, env, keeper, from, to)
		outcome := historyRead
		if err != nil {
			outcome = historyFailed
		}
		if ctx.Err() == nil {
			w.metrics.histories.WithLabelValues(string(keeper.Provider()), outcome).Inc()
		}
		if err != nil {
			return done, err
		}
		from, done = to, to
	}
	return done, nil
}

// recordHistory records what was sent between two times and is not known.
func (w *Writer) recordHistory(ctx context.Context, env entitlement.Environment, keeper provider.HistoryKeeper, from, to time.Time) error {
	if err := w.speaks(keeper.Provider()); err != nil {
		return err
	}
	ctx = problem.WithRequestID(ctx, newID())
	missed, forged := 0, 0
	count := func(outcome string) { w.metrics.missed.WithLabelValues(string(keeper.Provider()), outcome).Inc() }
	for message, err := range keeper.Messages(ctx, from, to) {
		if errors.Is(err, provider.ErrSignature) {
			forged++
			count(historyForged)
			continue
		}
		if err != nil {
			return err
		}
		ev := message.Event
		known, err := w.hasEvent(env, &ev)
		if err != nil {
			return err
		}
		if known {
			count(historyKnown)
			continue
		}
		result, err := w.propose(ctx, store.TypeRecordEvent, env, w.recordOf(ev, env, w.adapters[env][ev.Provider], message.Body))
		if err != nil {
			return err
		}
		if result.Duplicate { // it came meanwhile
			count(historyKnown)
			continue
		}
		missed++
		count(historyMissed)
		if result.Outcome == store.Recorded {
			w.metrics.eventRecorded(ev.Provider, recordedByPull, ev.CreatedAt, w.now())
			w.alarmUnmapped(ctx, env, &ev)
			w.alarmSoldTwice(ctx, env, &ev, result.Account)
		}
	}
	if missed > 0 || forged > 0 {
		w.log.WarnContext(ctx, "messages recorded that never came", "provider", keeper.Provider(), "environment", env, "from", from, "to", to, "missed", missed, "forged", forged,
			"correlation_id", problem.RequestID(ctx))
	}
	return nil
}

// hasEvent reports whether an event of this id is stored. A known one costs no entry of the log.
func (w *Writer) hasEvent(env entitlement.Environment, ev *entitlement.Event) (known bool, err error) {
	err = w.store.View(func(r *store.Reader) error {
		stored, err := r.Event(env, ev.Provider, ev.ID)
		known = len(stored) > 0
		return err
	})
	return known, err
}
