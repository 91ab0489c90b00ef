package writer

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/latchkey/latchkey/pkg/entitlement"
	"github.com/latchkey/latchkey/pkg/problem"
	"github.com/latchkey/latchkey/writer/internal/provider"
	"github.com/latchkey/latchkey/writer/internal/store"
)

// A message about a refund can be lost like any other, and a provider's answer about the purchase may go on to call it active: Play's does. So the leader
// reads the list that such a provider keeps of what it took back, and records what no message told.

const (
	// voidedEvery is the pause between two looks: how long a refund whose message is lost goes unseen at most.
	voidedEvery = 15 * time.Minute
	// voidedOverlap is how far a look reaches behind the one before it: a list may get rows late.
	voidedOverlap = time.Hour
	// voidedReach is how far the first look of a leader reaches, and one each voidedAgain: Play lists 30 days, and a purchase may become known after
	// its refund.
	voidedReach = 30*24*time.Hour - voidedOverlap
	voidedAgain = 24 * time.Hour
)

// pullVoided looks through the lists of what was taken back, while ctx, the leader's, lives.
func (w *Writer) pullVoided(ctx context.Context) {
	var running sync.WaitGroup
	for env, apis := range w.pullers {
		for _, api := range apis {
			if list, ok := api.(provider.VoidLister); ok {
				running.Go(func() { w.lookForVoided(ctx, env, list) })
			}
		}
	}
	running.Wait()
}

func (w *Writer) lookForVoided(ctx context.Context, env entitlement.Environment, list provider.VoidLister) {
	var all, last time.Time // when the looks began that ended well
	for {
		now := w.now()
		from := last.Add(-voidedOverlap)
		whole := now.Sub(all) >= voidedAgain
		if whole {
			from = now.Add(-voidedReach)
		}
		if err := w.recordVoided(ctx, env, list, from, now); err == nil {
			if last = now; whole {
				all = now
			}
		} else if ctx.Err() == nil {
			w.log.WarnContext(ctx, "list of what was taken back not read", "provider", list.Provider(), "environment", env, "error", err, "provider_request_id", requestIDOf(err))
		}
		if !wait(ctx, voidedEvery, nil, nil) {
			return
		}
	}
}

// recordVoided records what was taken back between two times and is not known here to be.
func (w *Writer) recordVoided(ctx context.Context, env entitlement.Environment, list provider.VoidLister, from, to time.Time) error {
	ctx = problem.WithRequestID(ctx, newID())
	events, err := list.VoidedPurchases(ctx, from, to)
	if err != nil {
		return err
	}
	for _, ev := range events {
		news, err := w.isNewVoid(env, &ev)
		if err != nil {
			return err
		}
		if !news {
			continue
		}
		result, err := w.propose(ctx, store.TypeRecordEvent, env, store.RecordEvent{Event: ev})
		if err != nil {
			return err
		}
		if result.Outcome == store.Recorded && !result.Duplicate {
			w.metrics.eventRecorded(ev.Provider, recordedByPull, ev.CreatedAt, w.now())
		}
		w.log.WarnContext(ctx, "refund recorded that no message told", "provider", ev.Provider, "environment", env, "event_id", result.EventID, "outcome", result.Outcome,
			"revision", result.Revision.String(), "correlation_id", problem.RequestID(ctx))
	}
	return nil
}

// isNewVoid reports whether a purchase that is known here was taken back in a way that is not. One that is not known yet gives no access; a later look
// meets it again. A licence tester's is on the list of production as well, and not known there.
func (w *Writer) isNewVoid(env entitlement.Environment, ev *entitlement.Event) (news bool, err error) {
	err = w.store.View(func(r *store.Reader) error {
		stored, err := r.Event(env, ev.Provider, ev.ID)
		if err != nil || len(stored) > 0 {
			return err
		}
		taken := &ev.Objects[len(ev.Objects)-1] // the order, or of a part of one its token alone
		told := func(o entitlement.Object) bool { return o.Kind == taken.Kind && o.ID == taken.ID && o.By == taken.By }
		for _, link := range taken.Links {
			purchase, known, err := r.Purchase(env, entitlement.PurchaseID(link))
			if err != nil {
				return err
			}
			news = news || known && (taken.Hint != nil || !slices.ContainsFunc(purchase.Evidence.Objects, told))
		}
		return nil
	})
	return news, err
}
