package entitlement

import (
	"cmp"
	"slices"
)

// MismatchKind says how money and access disagree. The words are part of the server API.
type MismatchKind string

// The kinds of mismatches.
const (
	// PaidButUnclaimed and PaidButUnmapped: it is paid for, and nobody has it; or the catalog does not say what it gives.
	PaidButUnclaimed MismatchKind = "paid_but_unclaimed"
	PaidButUnmapped  MismatchKind = "paid_but_unmapped"
	// PaidButLocked: what was paid for and not given back lasts on, and access has ended.
	PaidButLocked MismatchKind = "paid_but_locked"
	// OpenButUnpaid: there is access, and no payment behind it: the provider goes on without one, or has not said for long how a renewal went.
	OpenButUnpaid MismatchKind = "open_but_unpaid"
	// ChargedAfterCancel: a term was paid for that began after the subscription was cancelled or over, and nobody has said that it was taken up again.
	ChargedAfterCancel MismatchKind = "charged_after_cancel"
	// ProvidersDisagree: of two that tell of the purchase one has ended or taken back what the other one has as paid for.
	ProvidersDisagree MismatchKind = "providers_disagree"
)

const (
	// unpaidSeconds is how long a bill may be open while its term has begun already. Stripe makes one an hour before it takes the money.
	unpaidSeconds = 24 * 3600
	// overdueSeconds is how long after a paid end a renewal's message may be away without being a mismatch: that is usual.
	overdueSeconds = 3600
)

// Mismatch is where the money and the access of one purchase disagree.
type Mismatch struct {
	Kind  MismatchKind
	Item  string // of the purchase; empty: all of it
	Since int64  // Unix seconds
}

// Mismatches lists where money and access of a purchase disagree at now, Unix seconds, sorted by kind and item. claimed says whether somebody has it.
// It decides nothing, and what is a rule is no mismatch: trials, gifts, shares, billing grace, proofs that await their store, and what a dispute
// took. Test purchases have none: no money was moved.
func Mismatches(e Evidence, p Policy, x *CatalogIndex, claimed bool, now int64) []Mismatch {
	if e.IsSandbox() {
		return nil
	}
	folded := Fold(e, p)
	return MismatchesOf(&folded, e, p, x, claimed, now)
}

// MismatchesOf is Mismatches for who has the purchase already, as its owner's account has it: folded under the same policy.
func MismatchesOf(folded *Purchase, e Evidence, p Policy, x *CatalogIndex, claimed bool, now int64) []Mismatch {
	if e.IsSandbox() {
		return nil
	}
	f := read(e)
	f.policy = p
	var out []Mismatch
	for i := range folded.Items {
		item := &folded.Items[i]
		if item.Ownership != "" || item.Promo || item.Provisional {
			continue
		}
		add := func(kind MismatchKind, since int64) { out = append(out, Mismatch{kind, item.ID, since}) }
		product, mapped := x.productOf(folded, item)
		status, _ := item.standing(now, item.AccessUntil)
		switch open := status.Active(); {
		case open && !mapped:
			add(PaidButUnmapped, item.Term.StartsAt)
		case open && !claimed && (product.Kind != KindPackage || product.Deliver != DeliverCode):
			add(PaidButUnclaimed, item.Term.StartsAt)
		case open:
			if since := f.unpaidSince(item, folded.Provider, status, now); since != 0 {
				add(OpenButUnpaid, since)
			}
		case item.Reason != ReasonDisputed && item.Term.SupersededAt == 0 && item.State != Pending && f.paidAt(item, folded.Provider, now):
			add(PaidButLocked, item.AccessUntil)
		}
	}
	out = append(out, f.chargedAfterCancel()...)
	if since := f.disagreeSince(folded.Provider, now); since != 0 {
		out = append(out, Mismatch{Kind: ProvidersDisagree, Since: since})
	}
	slices.SortFunc(out, func(a, b Mismatch) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Item, b.Item), cmp.Compare(a.Since, b.Since))
	})
	return out
}

// unpaidSince returns since when an item that is open is so without a payment, or 0. What is not renewed is paid for once.
func (f *facts) unpaidSince(item *Item, by Provider, status Status, now int64) int64 {
	if !item.Recurring || status == StatusBillingGrace {
		return 0
	}
	if item.Term.EndsAt != 0 && now >= item.Term.EndsAt+overdueSeconds {
		return item.Term.EndsAt
	}
	if by != Stripe || item.Term.Trial || now < item.Term.StartsAt+unpaidSeconds {
		return 0
	}
	for _, o := range f.subscriptions {
		bill := f.invoices[o.Subscription.LatestInvoice]
		if bill == nil || !slices.ContainsFunc(o.Subscription.Items, func(i SubscriptionItem) bool { return i.ID == item.ID }) {
			continue
		}
		if bill.Invoice.Status != InvoicePaid { // sent to be paid by hand, or no longer collected
			return max(item.Term.StartsAt, 1)
		}
	}
	return 0
}

// paidAt reports whether a paid term of an item, by its provider's word, has begun and not ended at now and was not given back.
func (f *facts) paidAt(item *Item, by Provider, now int64) bool {
	if !item.Recurring {
		return false // it ends by being given back alone
	}
	if by == Stripe {
		for _, inv := range f.paid {
			for _, l := range inv.lines {
				if inv.Invoice.AmountPaid > 0 && inv.refundedAt == 0 && f.itemOf(l) == item.ID && l.StartsAt <= now && now < l.EndsAt {
					return true
				}
			}
		}
		return false
	}
	chains, _ := gatherChains(f.objects, by)
	c := chains[item.ID]
	if c == nil {
		return false
	}
	if newest, paid := c.newest(); paid && f.policy.overtakes() {
		c.overtake(newest)
	}
	return slices.ContainsFunc(c.terms, func(t chainTerm) bool { return t.bought() && t.start <= now && now < t.end })
}

// bought reports whether a term of a subscription was paid for with money that was not given back, by its owner.
func (t *chainTerm) bought() bool {
	x := t.Transaction
	return x.Recurring && x.State == TransactionPaid && t.revokedAt == 0 && !x.Trial && !x.Upgraded && !x.Promo && !x.Provisional && x.Ownership == ""
}

// chargedAfterCancel lists the terms, one of each item, that were paid for and began after the provider's own word that there would be none.
func (f *facts) chargedAfterCancel() (out []Mismatch) {
	for _, o := range f.subscriptions {
		s := o.Subscription
		over := clampTime(s.CancelAt)
		for i := range s.Items {
			if s.CancelAtPeriodEnd && s.CancelAt <= 0 {
				over = max(over, clampTime(s.Items[i].EndsAt))
			}
		}
		if s.Status == Canceled {
			over = max(cmp.Or(clampTime(s.EndedAt), seconds(o.At)), 1)
		}
		if over == 0 {
			continue
		}
		for i := range s.Items {
			since := int64(0)
			for _, inv := range f.paid {
				for _, l := range inv.lines {
					if inv.Invoice.AmountPaid > 0 && inv.refundedAt == 0 && f.itemOf(l) == s.Items[i].ID && l.StartsAt >= over && l.EndsAt > l.StartsAt && (since == 0 || l.StartsAt < since) {
						since = l.StartsAt
					}
				}
			}
			if since != 0 {
				out = append(out, Mismatch{ChargedAfterCancel, s.Items[i].ID, since})
			}
		}
	}
	for _, by := range f.tellers {
		if by == Stripe {
			continue
		}
		chains, _ := gatherChains(f.objects, by)
		for id, c := range chains {
			r := c.renewal
			if r == nil || r.Renewal.WillRenew && r.Renewal.Phase != PhaseExpired && r.Renewal.Phase != PhaseRevoked {
				continue
			}
			switch r.Renewal.Phase {
			case PhaseActive, PhaseExpired, PhaseRevoked:
			default:
				continue // it says nothing of a cancel
			}
			since := int64(0)
			for i := range c.terms {
				if t := &c.terms[i]; t.bought() && t.start > seconds(r.At)+renewalOutdatedSeconds && (since == 0 || t.start < since) {
					since = t.start
				}
			}
			if since != 0 {
				out = append(out, Mismatch{ChargedAfterCancel, id, since})
			}
		}
	}
	return out
}

// disagreeSince returns since when two providers disagree about the purchase, or 0: one gives access, and another has said that it is over. That a
// renewal was told by one of them alone yet is none.
func (f *facts) disagreeSince(counts Provider, now int64) int64 {
	if len(f.tellers) < 2 {
		return 0
	}
	var open, over int64
	for _, by := range f.tellers {
		t := f.telling(by)
		at := int64(1)
		for i := range f.objects {
			if o := &f.objects[i]; cmp.Or(o.By, Stripe) == by && o.Hint == nil {
				at = max(at, seconds(o.At))
			}
		}
		ended := len(t.items) > 0
		for i := range t.items {
			item := &t.items[i]
			if status, _ := item.standing(now, item.AccessUntil); status.Active() {
				open = max(open, at)
			}
			ended = ended && (item.State == Ended || item.State == Revoked)
		}
		if ended {
			over = max(over, at)
		}
	}
	if open == 0 || over == 0 {
		return 0
	}
	return max(open, over)
}
