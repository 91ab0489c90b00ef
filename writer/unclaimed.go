package writer

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/latchkey/latchkey/pkg/entitlement"
	"github.com/latchkey/latchkey/writer/internal/store"
)

// A payment without an account gives its buyer nothing until somebody claims it. That is usual for the moments between a funnel and the first launch of the app;
// one that waits longer was not tagged, or its buyer never found the app. What was never paid for, or was given back, waits for nobody and is not listed.

const (
	// unclaimedAlarm is how long a payment may wait for its account before an operator hears of it.
	unclaimedAlarm = 10 * time.Minute
	// unclaimedLapsed is for how long after its end a payment that nobody claimed alarms: the buyer of a month has asked by then, or will not. It stays listed, for
	// one who asks after all.
	unclaimedLapsed = 30 * 24 * time.Hour
	// unclaimedEvery is the pause between two looks at those that wait.
	unclaimedEvery = 15 * time.Second
	// unclaimedLogged bounds the lines of one look: a tag that the shop forgot concerns every payment.
	unclaimedLogged = 20
)

// unclaimed lists the payments of an environment that wait for an account, up to maxCounted.
func (w *Writer) unclaimed(env entitlement.Environment) (list []store.UnclaimedPurchase) {
	_ = w.store.View(func(r *store.Reader) (err error) { // a store that is closed has none to show
		list, err = r.Unclaimed(env, "", maxCounted)
		return err
	})
	return list
}

// missedUnclaimed lists those of them, from the first one on, whose buyer misses something: what they paid for is good, or was until lately.
func (w *Writer) missedUnclaimed(env entitlement.Environment) (list []store.UnclaimedPurchase) {
	ended := w.now().Add(-unclaimedLapsed).Unix()
	_ = w.store.View(func(r *store.Reader) (err error) {
		list, err = r.UnclaimedSince(env, ended, maxCounted)
		return err
	})
	return list
}

// oldestUnclaimed is for how many seconds the oldest of those has waited, 0 where none does.
func (w *Writer) oldestUnclaimed(env entitlement.Environment) (age int64) {
	now := w.now().Unix()
	for _, u := range w.missedUnclaimed(env) {
		age = max(age, now-u.Since)
	}
	return age
}

// watchUnclaimed alarms about payments that wait for too long, while ctx, the leader's, lives.
func (w *Writer) watchUnclaimed(ctx context.Context) {
	alarmed := map[entitlement.Environment]map[entitlement.PurchaseID]bool{}
	for wait(ctx, unclaimedEvery, nil, nil) {
		for env := range w.cfg.Environments {
			alarmed[env] = w.alarmUnclaimed(ctx, env, alarmed[env])
		}
	}
}

// alarmUnclaimed counts and logs those that wait for too long and were not alarmed about before. It returns all that wait for too long.
func (w *Writer) alarmUnclaimed(ctx context.Context, env entitlement.Environment, alarmed map[entitlement.PurchaseID]bool) map[entitlement.PurchaseID]bool {
	now, late, logged, fresh := w.now().Unix(), map[entitlement.PurchaseID]bool{}, 0, 0
	for _, u := range w.missedUnclaimed(env) {
		age := now - u.Since
		if age < int64(unclaimedAlarm/time.Second) {
			continue
		}
		if late[u.ID] = true; alarmed[u.ID] {
			continue
		}
		fresh++
		w.metrics.unclaimedAlarms.WithLabelValues(string(env)).Inc()
		if logged < unclaimedLogged {
			logged++
			w.log.WarnContext(ctx, "payment without an account", "environment", env, "purchase_id", u.ID, "age_seconds", age)
		}
	}
	if fresh > logged {
		w.log.WarnContext(ctx, "more payments without an account", "environment", env, "count", fresh-logged)
	}
	return late
}

// alarms says in words what an operator should look at and what makes no node unready.
func (w *Writer) alarms() []string {
	alarms := []string{}
	for _, env := range slices.Sorted(maps.Keys(w.cfg.Environments)) {
		if age := time.Duration(w.oldestUnclaimed(env)) * time.Second; age >= unclaimedAlarm {
			alarms = append(alarms, fmt.Sprintf("a payment in %s has waited for its account for %s: GET /v1/unclaimed", env, age.Round(time.Minute)))
		}
	}
	return append(alarms, w.alarmsOfDoubles()...)
}
