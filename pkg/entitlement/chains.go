package entitlement

import (
	"cmp"
	"math"
	"slices"
	"strings"
)

const (
	// A Renewal older than its chain's newest term by more than this is about the term before. Both come with one message, signed at
	// moments that differ by less.
	renewalOutdatedSeconds = 60

	// provisionalSeconds is how long a proof counts that only the store's signature speaks for.
	provisionalSeconds = 24 * 3600

	// sandboxSeconds is how long a term of a test purchase counts in production (I15). A tester's subscription renews daily.
	sandboxSeconds = 24 * 3600
)

// chain is what one provider says about what renews, or about one sale.
type chain struct {
	id      string
	terms   []chainTerm // sorted by start, end, id
	renewal *Object     // nil: not told
}

// chainTerm is a transaction after what was taken back of it.
type chainTerm struct {
	*Object
	start, end int64  // end is maxTime+1 for never
	revokedAt  int64  // 0: it stands
	reason     Reason // why it was revoked
	quantity   int64
}

// gatherChains returns one provider's chains by their ids, with their terms sorted, and where its chains stand.
func gatherChains(objects []Object, by Provider) (chains map[string]*chain, renewals map[string]*Object) {
	chains, renewals = map[string]*chain{}, map[string]*Object{}
	revocations := map[string][]*Object{}
	for i := range objects {
		switch o := &objects[i]; {
		case o.Revocation != nil:
			revocations[o.Revocation.Transaction] = append(revocations[o.Revocation.Transaction], o)
		case o.Renewal != nil && o.By == by:
			renewals[o.ID] = o
		}
	}
	for i := range objects {
		o := &objects[i]
		if o.Transaction == nil || o.By != by {
			continue
		}
		id := cmp.Or(o.Transaction.Chain, o.ID)
		c := chains[id]
		if c == nil {
			c = &chain{id: id, renewal: renewals[id]}
			chains[id] = c
		}
		c.terms = append(c.terms, termOf(o, revocationsOf(o.ID, revocations)))
	}
	for _, c := range chains {
		slices.SortFunc(c.terms, func(a, b chainTerm) int {
			return cmp.Or(cmp.Compare(a.start, b.start), cmp.Compare(a.end, b.end), cmp.Compare(a.ID, b.ID))
		})
	}
	return chains, renewals
}

// foldChains decides what one provider's transactions give. Revocations count whoever tells of them.
func foldChains(objects []Object, by Provider, overtakes bool, billingGrace func(store string) int64) []Item {
	chains, renewals := gatherChains(objects, by)
	items := make([]Item, 0, len(chains))
	for _, c := range chains {
		item := c.fold(overtakes, billingGrace)
		if at := replacedAt(c.id, renewals, chains); at != 0 {
			item.replace(at)
		}
		items = append(items, item)
	}
	return items
}

// revocationsOf lists those of a transaction, by its id and by what is before a colon in it: an order that sold several products is "<order>:<product>"
// for each of them, and taken back as a whole.
func revocationsOf(id string, revocations map[string][]*Object) []*Object {
	own := revocations[id]
	if order, _, several := strings.Cut(id, ":"); several && len(revocations[order]) > 0 {
		return slices.Concat(own, revocations[order])
	}
	return own
}

func termOf(o *Object, revocations []*Object) chainTerm {
	t := chainTerm{Object: o, start: clampTime(o.Transaction.StartsAt), end: clampTime(o.Transaction.EndsAt), quantity: max(o.Transaction.Quantity, 1)}
	switch {
	case o.Transaction.EndsAt == 0 && !o.Transaction.Recurring:
		t.end = maxTime + 1
	case t.end == 0:
		t.end = max(t.start, 1) // not known, and never without an end
	}
	if at := clampTime(o.Transaction.RevokedAt); o.Transaction.RevokedAt != 0 {
		t.revokedAt, t.reason = max(at, 1), ReasonRefunded
		if o.Transaction.Ownership == Family {
			t.reason = ReasonRevoked
		}
	}
	taken := int64(0)
	for _, r := range revocations {
		if r.Revocation.Undone {
			continue
		}
		at := max(cmp.Or(clampTime(r.Revocation.RevokedAt), seconds(r.At)), 1)
		if taken += amount(r.Revocation.Quantity); r.Revocation.Quantity != 0 && taken < t.quantity {
			continue
		}
		if t.revokedAt == 0 || at < t.revokedAt {
			t.revokedAt, t.reason = at, cmp.Or(r.Revocation.Reason, ReasonRefunded)
		}
	}
	t.quantity = max(t.quantity-taken, 1)
	return t
}

// replacedAt returns when another chain took this one over, or 0.
func replacedAt(id string, renewals map[string]*Object, chains map[string]*chain) int64 {
	at := int64(0)
	for _, o := range renewals {
		r := o.Renewal
		if r.Replaces == "" || r.Phase == PhasePending || r.Phase == PhaseNever || id != r.Replaces && !strings.HasPrefix(id, r.Replaces+":") {
			continue
		}
		began := int64(math.MaxInt64)
		for _, c := range chains {
			if c.id == o.ID || strings.HasPrefix(c.id, o.ID+":") {
				began = min(began, c.terms[0].start)
			}
		}
		if began == math.MaxInt64 || began == 0 {
			began = seconds(o.At)
		}
		at = max(at, began, 1)
	}
	return at
}

// replace ends an item that another chain took over.
func (i *Item) replace(at int64) {
	if i.State == Revoked {
		return
	}
	i.State, i.WillRenew, i.Next, i.BillingGraceUntil = Ended, false, "", 0
	i.Term.SupersededAt = at
	if i.AccessUntil == 0 || at < i.AccessUntil {
		i.AccessUntil = at
	}
}

// newest returns the present term, and ok false where none was paid for: then it is the last that was tried.
func (c *chain) newest() (t *chainTerm, ok bool) {
	for i := range c.terms {
		term := &c.terms[i]
		switch {
		case term.Transaction.State != TransactionPaid:
		case t == nil, !term.Transaction.Upgraded, t.Transaction.Upgraded:
			t = term
		}
	}
	if t == nil {
		return &c.terms[len(c.terms)-1], false
	}
	if c.renewal == nil || c.renewal.Renewal.Transaction == "" {
		return t, true
	}
	for i := range c.terms {
		named := &c.terms[i]
		if named.ID == c.renewal.Renewal.Transaction && named.Transaction.State == TransactionPaid && (t.At <= c.renewal.At || named.start >= t.start) {
			return named, true
		}
	}
	return t, true
}

// overtake ends each term up to the present one where the next one of another product began: of a year that was changed for a month at once nothing is
// left, whatever the year's own end. A renewal takes nothing from the term before it, and what is not known to have begun, or not confirmed yet, from none.
func (c *chain) overtake(present *chainTerm) {
	met := false
	var next, other *chainTerm // the next term, and the next one of another product than that
	for i := len(c.terms) - 1; i >= 0; i-- {
		t := &c.terms[i]
		if met = met || t == present; !met || !t.Transaction.Recurring || t.start == 0 {
			continue
		}
		by := next
		if next != nil && next.Transaction.Product == t.Transaction.Product {
			by = other
		}
		if by != nil && by.start > t.start {
			t.end = min(t.end, by.start)
		}
		if t.Transaction.State != TransactionPaid || t.Transaction.Provisional {
			continue
		}
		if next != nil && next.Transaction.Product != t.Transaction.Product {
			other = next
		}
		next = t
	}
}

// lastLive returns the term that gives access the longest, or nil.
func (c *chain) lastLive() *chainTerm {
	var last *chainTerm
	for i := range c.terms {
		t := &c.terms[i]
		if t.Transaction.State == TransactionPaid && t.revokedAt == 0 && !t.Transaction.Upgraded && (last == nil || t.end >= last.end) {
			last = t
		}
	}
	return last
}

// isAnotherNameOf reports whether both are one term told of twice, and nothing of this one was taken back: Google's order has another id for each of its products, and
// its own once one is left.
func (t *chainTerm) isAnotherNameOf(other *chainTerm) bool {
	return t.revokedAt == 0 && !t.Transaction.Upgraded && t.start == other.start && t.end == other.end && t.Transaction.Product == other.Transaction.Product
}

// standing returns where the chain stands at its newest term. told is false where that is not known.
func (c *chain) standing(newest *chainTerm) (r Renewal, at int64, told bool) {
	if c.renewal == nil {
		return Renewal{WillRenew: true}, 0, false
	}
	at = seconds(c.renewal.At)
	if newest.start > at && seconds(newest.At) > at+renewalOutdatedSeconds {
		return Renewal{WillRenew: true}, 0, false
	}
	return *c.renewal.Renewal, at, true
}

func (c *chain) fold(overtakes bool, billingGrace func(store string) int64) Item {
	newest, paid := c.newest()
	if overtakes && paid {
		c.overtake(newest)
	}
	t := newest.Transaction
	item := Item{ID: c.id, Recurring: t.Recurring, Ownership: t.Ownership, Provisional: t.Provisional, Promo: t.Promo, Entitlements: t.Entitlements}
	item.show(newest)
	if !paid {
		item.State, item.AccessUntil = Pending, max(newest.start, seconds(newest.At), 1)
		if t.State == TransactionFailed {
			item.State = Ended
		}
		return item
	}
	live := c.lastLive()
	if newest.revokedAt != 0 && (live == nil || live.end <= newest.revokedAt) {
		item.State = Live
		if t.Recurring {
			r, _, _ := c.standing(newest)
			item.WillRenew = r.WillRenew && r.Phase == PhaseActive
		}
		item.revoke(newest.revokedAt, newest.reason)
		return item
	}
	if live == nil { // upgraded, and what it was upgraded to is not known
		item.State, item.AccessUntil = Ended, max(newest.start, 1)
		return item
	}
	if overtakes && newest.isAnotherNameOf(live) {
		live = newest
	}
	if live != newest {
		item.show(live)
	}
	item.State, item.AccessUntil = Live, until(live.end)
	if t.Recurring {
		c.stand(&item, newest, live, overtakes, billingGrace)
	}
	if t.Provisional {
		item.endBy(seconds(newest.At) + provisionalSeconds)
	}
	return item
}

// stand applies where the chain stands to an item whose access ends with live.
func (c *chain) stand(item *Item, newest, live *chainTerm, overtakes bool, billingGrace func(store string) int64) {
	r, at, told := c.standing(newest)
	item.WillRenew = r.WillRenew && newest.revokedAt == 0
	if r.Next != item.Term.Product {
		item.Next = r.Next
	}
	end := min(live.end, maxTime)
	if stopped := r.Phase == PhaseBillingRetry || r.Phase == PhasePaused; stopped && overtakes && r.EndedAt != 0 {
		end = min(end, max(clampTime(r.EndedAt), 1)) // an end that was told before may have been a later one
	}
	switch r.Phase {
	case PhaseBillingGrace:
		item.State = Retrying
		item.BillingGraceUntil = max(end, clampTime(r.GraceUntil))
		if r.GraceUntil == 0 {
			item.BillingGraceUntil = min(end+clampTime(billingGrace(live.Transaction.Store)), maxTime)
		}
		item.AccessUntil = item.BillingGraceUntil
	case PhaseBillingRetry:
		item.State, item.AccessUntil = Retrying, end
		if end > at { // the provider tries before the end of what was paid for
			item.BillingGraceUntil = end
		}
	case PhasePaused:
		if end <= at {
			item.State = OnHold
		}
		item.AccessUntil = end
	case PhaseExpired:
		item.State, item.WillRenew, item.Next = Ended, false, ""
		item.AccessUntil = max(min(end, cmp.Or(clampTime(r.EndedAt), at)), 1)
		item.Term.EndsAt = min(item.Term.EndsAt, item.AccessUntil)
	case PhaseRevoked:
		item.WillRenew, item.Next = false, ""
		item.revoke(max(cmp.Or(clampTime(r.EndedAt), at), 1), ReasonRevoked)
	case PhasePending, PhaseNever:
		// About another product of this chain: what was paid for stands.
		item.AccessUntil = end
	default:
		if item.AccessUntil = end; told && item.WillRenew && live == newest {
			item.AccessUntil = min(end+leeway(live.start, end), maxTime)
		}
	}
}

// show makes t the term of the item.
func (i *Item) show(t *chainTerm) {
	sold := safe(t.Transaction.Sold)
	if t.quantity != max(t.Transaction.Quantity, 1) {
		sold.Quantity = min(t.quantity, maxQuantity)
	}
	i.Term = Term{ID: TermID(t.ID), Sold: sold, StartsAt: t.start, EndsAt: until(t.end), Trial: t.Transaction.Trial}
}

// endBy ends access at a time at the latest.
func (i *Item) endBy(at int64) {
	if at = max(at, 1); i.AccessUntil == 0 || i.AccessUntil > at {
		i.AccessUntil = at
	}
	i.BillingGraceUntil = min(i.BillingGraceUntil, i.AccessUntil)
}

// until is an end of a term as it is stored: 0 is never.
func until(end int64) int64 {
	if end > maxTime {
		return 0
	}
	return end
}

// chainTerms lists the terms of every chain that the provider told of, for people.
func chainTerms(objects []Object, by Provider) (terms []Term, items []string) {
	revocations := map[string][]*Object{}
	for i := range objects {
		if r := objects[i].Revocation; r != nil {
			revocations[r.Transaction] = append(revocations[r.Transaction], &objects[i])
		}
	}
	for i := range objects {
		if o := &objects[i]; o.Transaction != nil && o.By == by && o.Transaction.State == TransactionPaid {
			t := termOf(o, revocationsOf(o.ID, revocations))
			var item Item
			item.show(&t)
			item.Term.RevokedAt = t.revokedAt
			terms, items = append(terms, item.Term), append(items, cmp.Or(o.Transaction.Chain, o.ID))
		}
	}
	return terms, items
}
