package entitlement

import (
	"cmp"
	"slices"
)

// Stands reports whether p, which is folded from e, took money that was not given back, or began a trial, which will take some. What was never paid for and
// what was taken back as a whole, by a refund or a dispute, does not stand; what was paid for and is over does. until is when its access stops, Unix
// seconds; 0 is never.
func (e Evidence) Stands(p *Purchase) (until int64, stands bool) {
	if len(p.Items) == 0 {
		return 0, e.tookUntold()
	}
	forEver := false
	for i := range p.Items {
		item := &p.Items[i]
		if item.State == Pending || item.State == Revoked || item.State == Ended && !e.took(p.Provider, item.ID) {
			continue
		}
		stands, forEver = true, forEver || item.AccessUntil == 0
		until = max(until, item.AccessUntil)
	}
	if forEver {
		until = 0
	}
	return until, stands
}

// took reports whether an item, by the word of who tells of the purchase, was ever paid for or tried.
func (e Evidence) took(by Provider, item string) bool {
	return slices.ContainsFunc(e.Objects, func(o Object) bool {
		switch {
		case o.Transaction != nil:
			return o.By == by && cmp.Or(o.Transaction.Chain, o.ID) == item && o.Transaction.State == TransactionPaid
		case o.Subscription != nil:
			return o.Subscription.begun() && slices.ContainsFunc(o.Subscription.Items, func(i SubscriptionItem) bool { return i.ID == item })
		}
		return false
	})
}

// tookUntold is took for a purchase of which nobody has told yet what was sold: money came all the same.
func (e Evidence) tookUntold() bool {
	f := read(e)
	if _, disputed := f.disputed(); disputed {
		return false
	}
	if slices.ContainsFunc(f.subscriptions, func(o *Object) bool { return o.Subscription.begun() }) {
		return true
	}
	return slices.ContainsFunc(f.checkouts, func(o *Object) bool {
		if o.Checkout.Payment != CheckoutPaid && o.Checkout.Payment != CheckoutFree {
			return false
		}
		_, refunded := f.checkoutRefunded(o.Checkout)
		return !refunded
	})
}

// begun reports whether the first payment of a subscription came, or its trial began. Stripe gives up on one that never did after a day.
func (s *Subscription) begun() bool { return s.Status != Incomplete && s.Status != IncompleteExpired }
