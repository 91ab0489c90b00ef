package writer

import (
	"context"

	"github.com/latchkey/latchkey/pkg/entitlement"
	"github.com/latchkey/latchkey/pkg/problem"
	"github.com/latchkey/latchkey/writer/internal/provider"
	"github.com/latchkey/latchkey/writer/internal/store"
)

// maxCounted is how far /metrics counts what waits for an operator: enough to alarm, and quick.
const maxCounted = 10_000

// alarmUnmapped counts and logs the products of an event that the catalog does not know. Somebody paid for them and gets nothing until they
// are mapped; then it counts from the beginning.
func (w *Writer) alarmUnmapped(ctx context.Context, env entitlement.Environment, ev *entitlement.Event) {
	// What a catalog once knew, every later one knows: nothing is ever unmapped.
	if last := w.catalogs.last(env); last != nil && len(unmappedIn(ev, last)) == 0 {
		return
	}
	var unknown []entitlement.ProductID
	err := w.store.View(func(r *store.Reader) error {
		index, err := w.catalogs.index(r, env)
		if err == nil {
			unknown = unmappedIn(ev, index)
		}
		return err
	})
	if err != nil {
		w.log.WarnContext(ctx, "products not compared with the catalog", "error", err)
		return
	}
	for _, product := range unknown {
		w.metrics.unmapped.WithLabelValues(string(ev.Provider)).Inc()
		w.log.WarnContext(ctx, "product not in the catalog", "provider", ev.Provider, "environment", env, "product_id", product, "event_id", ev.ID,
			"correlation_id", problem.RequestID(ctx))
	}
}

// alarmSoldTwice counts and logs an account that pays twice for the same thing as far as we can tell: two subscriptions of a group that will renew, or
// sales by two providers. The messages of two providers share no store id, so that it may be one sale seen twice or two that are both being paid for: both
// stay visible, and a person must look (GET /v1/doubles).
func (w *Writer) alarmSoldTwice(ctx context.Context, env entitlement.Environment, ev *entitlement.Event, account entitlement.AccountID) {
	if account == "" {
		return
	}
	now := w.now().Unix()
	var twice []string
	err := w.store.View(func(r *store.Reader) error {
		record, ok, err := r.Account(env, account)
		if err != nil || !ok || !soldByTwo(record) && !mayBeDouble(record) {
			return err
		}
		index, err := w.catalogs.index(r, env)
		if err != nil {
			return err
		}
		if twice = soldTwice(record.View(index, now, nil)); len(twice) == 0 {
			for _, d := range record.Doubles(index, now, nil, nil) {
				twice = append(twice, d.Group)
			}
		}
		return nil
	})
	if err != nil {
		w.log.WarnContext(ctx, "purchases not compared", "error", err)
	}
	for _, id := range twice {
		w.metrics.soldTwice.WithLabelValues(string(env)).Inc()
		w.log.WarnContext(ctx, "sold twice at once", "environment", env, "account_id", account, "sold", id, "event_id", ev.ID,
			"correlation_id", problem.RequestID(ctx))
	}
}

// soldByTwo is the quick look that spares most accounts the other one.
func soldByTwo(a *entitlement.Account) bool {
	for i := range a.Purchases {
		if a.Purchases[i].Provider != a.Purchases[0].Provider {
			return true
		}
	}
	return false
}

// soldTwice lists the entitlements that active purchases of two providers give. What is shared or a test was not sold to this account.
func soldTwice(v entitlement.View) []string {
	var twice []string
	for i := range v.Entitlements {
		e := &v.Entitlements[i]
		if !e.Status.Active() || e.Granted || e.Sandbox || e.Ownership != "" {
			continue
		}
		for _, other := range e.Others {
			if other.Status.Active() && other.Provider != e.Provider && other.Provider != entitlement.Latchkey {
				twice = append(twice, e.ID)
				break
			}
		}
	}
	return twice
}

// unmappedIn lists what an event says was sold and the catalog does not know.
func unmappedIn(ev *entitlement.Event, index *entitlement.CatalogIndex) []entitlement.ProductID {
	var unknown []entitlement.ProductID
	for i := range ev.Objects {
		for _, sold := range soldIn(&ev.Objects[i]) {
			if !known(index, ev.Provider, &ev.Objects[i], sold) && sold.Product != "" {
				unknown = append(unknown, sold.Product)
			}
		}
	}
	return unknown
}

// known reports whether the catalog knows a product, by whoever's name.
func known(index *entitlement.CatalogIndex, by entitlement.Provider, o *entitlement.Object, sold *entitlement.Sold) bool {
	p := entitlement.Purchase{Provider: by}
	item := entitlement.Item{Term: entitlement.Term{Sold: *sold}}
	if t := o.Transaction; t != nil {
		p.Store, item.Entitlements = t.Store, t.Entitlements
	}
	return index.Knows(&p, &item)
}

// soldIn lists what an object says was sold.
func soldIn(o *entitlement.Object) []*entitlement.Sold {
	var sold []*entitlement.Sold
	switch {
	case o.Transaction != nil:
		sold = append(sold, &o.Transaction.Sold)
	case o.Subscription != nil:
		for i := range o.Subscription.Items {
			sold = append(sold, &o.Subscription.Items[i].Sold)
		}
	case o.Sale != nil:
		for i := range o.Sale.Lines {
			sold = append(sold, &o.Sale.Lines[i].Sold)
		}
	}
	return sold
}

// maxLookedAt is how many purchases that a provider could be asked about /metrics looks at, to find those that are in doubt.
const maxLookedAt = 10 * maxCounted

// countPulls is how many purchases of an environment are in doubt until their provider is asked, up to maxCounted. Those are not of which an aggregator alone
// tells and whose store cannot be asked.
func (w *Writer) countPulls(env entitlement.Environment) float64 {
	return w.countOpen(env, w.pullers[env])
}

func (w *Writer) countOpen(env entitlement.Environment, apis map[entitlement.Provider]provider.Puller) float64 {
	n, after := 0, entitlement.PurchaseID("")
	can := func(from entitlement.Provider) bool { return apis[from] != nil }
	_ = w.store.View(func(r *store.Reader) error {
		for range maxLookedAt / pullPage {
			list, err := r.Pulls(env, after, pullPage)
			if err != nil {
				return err
			}
			for _, pull := range list {
				if after = pull.ID; pull.IsOpen(can) {
					n++
				}
			}
			if len(list) < pullPage || n >= maxCounted {
				break
			}
		}
		return nil
	})
	return float64(min(n, maxCounted))
}
