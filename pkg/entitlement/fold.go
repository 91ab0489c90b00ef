package entitlement

import (
	"cmp"
	"slices"
	"strconv"
	"strings"
)

const (
	// maxTime is the last second of the year 9999, the latest that RFC 3339 can write. Later times of a provider are cut to it.
	maxTime = 253_402_300_799

	// Renewal leeway (A10.9): a provider's renewal message comes minutes to hours after the paid end. Until it comes, what will renew stays
	// active for a tenth of its term and at most a day.
	leewayShare      = 10
	maxLeewaySeconds = 24 * 3600
)

// Fold decides what evidence gives. It is a pure function: equal evidence and policy give an equal purchase. The billing grace of a
// provider that the policy does not name is that of DefaultPolicy.
//
// Where several providers tell of one purchase, the one counts whose word is the newest, with these exceptions: what its store took back no other
// provider gives back, unless a term began since, nor does a subscription of Stripe's what an aggregator knows to be refunded; and an open or lost dispute is one whoever else says what.
func Fold(e Evidence, p Policy) Purchase {
	f := read(e)
	f.policy = p
	id := e.ID()
	told := f.newestTelling(id.Provider())
	out := Purchase{ID: id, Provider: told.by, Store: told.store, Items: told.items, TrialUsed: told.trial, Doubt: f.doubt}
	if at, disputed := f.disputed(); disputed {
		for i := range out.Items {
			if out.Items[i].State != Pending {
				out.Items[i].revoke(at, ReasonDisputed)
			}
		}
	}
	out.Debt = p.Debt && slices.ContainsFunc(out.Items, func(i Item) bool { return !i.Recurring })
	if e.IsSandbox() {
		out.Sandbox, out.TrialUsed = true, false
		for i := range out.Items {
			out.Items[i].endBy(out.Items[i].Term.StartsAt + sandboxSeconds)
		}
	}
	slices.SortFunc(out.Items, func(a, b Item) int { return cmp.Or(cmp.Compare(a.ID, b.ID), cmp.Compare(a.Term.ID, b.Term.ID)) })
	return out
}

// telling is what one provider says about a purchase.
type telling struct {
	by    Provider
	store string
	at    int64 // version of its newest statement
	items []Item
	trial bool // one of its terms was ever a trial
}

// newestTelling returns what the provider says whose word counts. store is the provider that the purchase's id is of.
func (f *facts) newestTelling(store Provider) telling {
	best := telling{by: store, store: storeOf(store)}
	var own telling
	for _, by := range f.tellers {
		t := f.telling(by)
		if by == store {
			own = t
		}
		if len(best.items) == 0 || t.at > best.at || t.at == best.at && by == store {
			best = t
		}
	}
	if best.by != store && own.takenBack() >= max(best.began(), 1) {
		return own
	}
	if best.by == Stripe {
		// A subscription of Stripe's does not show that its money was given back: charges do, which may not have been heard of.
		for _, by := range f.tellers {
			if t := f.telling(by); by != Stripe && t.refunded() && t.takenBack() >= max(best.began(), 1) {
				return t
			}
		}
	}
	return best
}

// refunded reports whether all of it was given back, as opposed to taken back for another reason.
func (t *telling) refunded() bool {
	return len(t.items) > 0 && !slices.ContainsFunc(t.items, func(i Item) bool { return i.Reason != ReasonRefunded })
}

// takenBack returns when all of it was taken back, or 0.
func (t *telling) takenBack() int64 {
	at := int64(0)
	for i := range t.items {
		if t.items[i].State != Revoked {
			return 0
		}
		at = max(at, t.items[i].AccessUntil)
	}
	return at
}

// began returns when the last of its terms began.
func (t *telling) began() int64 {
	at := int64(0)
	for i := range t.items {
		at = max(at, t.items[i].Term.StartsAt)
	}
	return at
}

func (f *facts) telling(by Provider) telling {
	if by == Stripe {
		return f.stripeTelling()
	}
	t := telling{by: by, items: foldChains(f.objects, by, f.policy.overtakes(), f.billingGrace(by))}
	var newest *Object
	for i := range f.objects {
		o := &f.objects[i]
		if o.By != by || o.Transaction == nil && o.Renewal == nil {
			continue
		}
		t.at = max(t.at, o.At)
		if o.Transaction != nil {
			if newest == nil || o.At > newest.At || o.At == newest.At && o.ID > newest.ID {
				newest = o
			}
			t.trial = t.trial || o.Transaction.Trial && o.Transaction.Ownership == "" && o.Transaction.State == TransactionPaid
		}
	}
	t.store = cmp.Or(newest.Transaction.Store, storeOf(by))
	return t
}

// stripeTelling is telling for Stripe, which tells in subscriptions, invoices and checkouts.
func (f *facts) stripeTelling() telling {
	t := telling{by: Stripe, store: storeOf(Stripe)}
	grace := clampTime(f.billingGrace(Stripe)(""))
	for _, o := range f.subscriptions {
		for i := range o.Subscription.Items {
			t.items = append(t.items, f.foldItem(o, &o.Subscription.Items[i], grace))
		}
		t.trial = t.trial || o.Subscription.trialUsed()
	}
	for _, o := range f.checkouts {
		t.items = append(t.items, f.foldCheckout(o)...)
	}
	if len(f.tellers) > 1 {
		for i := range f.objects {
			if o := &f.objects[i]; o.By == "" && o.Hint == nil {
				t.at = max(t.at, o.At)
			}
		}
	}
	return t
}

// billingGrace returns the policy's billing grace for what a provider tells about a store: the store's, where it is set.
func (f *facts) billingGrace(by Provider) func(store string) int64 {
	return func(store string) int64 {
		for _, p := range []Provider{providerOf(store), by} {
			if seconds, ok := f.policy.BillingGrace[p]; ok {
				return seconds
			}
			if seconds, ok := DefaultPolicy.BillingGrace[p]; ok {
				return seconds
			}
		}
		return 0
	}
}

// Terms lists every stretch that the evidence knows of, for people: the present one of each item and those that paid invoices name,
// sorted by start and id. A term that a later one of its item replaced has SupersededAt.
func Terms(e Evidence, p Policy) []Term {
	f := read(e)
	f.policy = p
	byID := map[TermID]Term{}
	items := map[TermID]string{}
	add := func(item string, t Term) {
		if t.ID != "" {
			byID[t.ID], items[t.ID] = t, item
		}
	}
	for _, inv := range f.paid {
		for _, l := range inv.lines {
			if item := f.itemOf(l); item != "" {
				add(item, Term{ID: termID(item, l.StartsAt), Sold: l.Sold, StartsAt: clampTime(l.StartsAt), EndsAt: clampTime(l.EndsAt), RevokedAt: inv.refundedAt})
			}
		}
	}
	told := f.newestTelling(e.ID().Provider()).by
	terms, chains := chainTerms(e.Objects, told)
	for i := range terms {
		add(chains[i], terms[i])
	}
	for _, item := range Fold(e, p).Items {
		add(item.ID, item.Term)
	}
	out := make([]Term, 0, len(byID))
	for _, t := range byID {
		out = append(out, t)
	}
	slices.SortFunc(out, func(a, b Term) int { return cmp.Or(cmp.Compare(a.StartsAt, b.StartsAt), cmp.Compare(a.ID, b.ID)) })
	for i := range out {
		for _, later := range out[i+1:] {
			if items[later.ID] == items[out[i].ID] && later.StartsAt > out[i].StartsAt {
				out[i].SupersededAt = later.StartsAt
				break
			}
		}
	}
	return out
}

// facts is the evidence sorted for reading.
type facts struct {
	subscriptions []*Object
	checkouts     []*Object // one-time payments alone
	disputes      []*Object
	invoices      map[string]*Object
	sales         map[string]*Sale
	paid          []paidInvoice
	money         *ledger
	doubt         bool

	objects []Object
	policy  Policy
	tellers []Provider // those that tell of a purchase, sorted
}

// paidInvoice is an invoice that was paid, with the lines that bought something: credits (negative amounts) are left out.
type paidInvoice struct {
	*Object
	lines      []InvoiceLine
	refundedAt int64 // 0: the money was not given back, or not all of it
}

func read(e Evidence) *facts {
	f := &facts{invoices: map[string]*Object{}, sales: map[string]*Sale{}, money: newLedger(e.Objects), objects: e.Objects}
	f.doubt = slices.ContainsFunc(e.Doubts(), func(d Doubt) bool { return !d.Echo })
	for i := range e.Objects {
		o := &e.Objects[i]
		if o.Transaction != nil || o.Subscription != nil || o.Checkout != nil && o.Checkout.Mode == CheckoutPayment {
			if by := cmp.Or(o.By, Stripe); !slices.Contains(f.tellers, by) {
				f.tellers = append(f.tellers, by)
			}
		}
		switch {
		case o.Subscription != nil:
			f.subscriptions = append(f.subscriptions, o)
		case o.Checkout != nil && o.Checkout.Mode == CheckoutPayment:
			f.checkouts = append(f.checkouts, o)
		case o.Sale != nil:
			f.sales[o.ID] = o.Sale
		case o.Dispute != nil:
			f.disputes = append(f.disputes, o)
		case o.Invoice != nil:
			f.invoices[o.ID] = o
			if o.Invoice.Status != InvoicePaid {
				continue
			}
			inv := paidInvoice{Object: o}
			inv.refundedAt, _ = f.money.invoiceRefunded(o.ID, o.Invoice.AmountPaid)
			for _, l := range o.Invoice.Lines {
				if l.Amount >= 0 {
					inv.lines = append(inv.lines, l)
				}
			}
			f.paid = append(f.paid, inv)
		}
	}
	slices.Sort(f.tellers)
	return f
}

// itemOf returns the subscription item that a line belongs to. A line that names none belongs to the item of the same product.
func (f *facts) itemOf(l InvoiceLine) string {
	if l.Item != "" || l.Product == "" {
		return l.Item
	}
	for _, o := range f.subscriptions {
		for i := range o.Subscription.Items {
			if item := &o.Subscription.Items[i]; item.Product == l.Product {
				return item.ID
			}
		}
	}
	return ""
}

// paidThrough returns the line that paid for item last: its end is when what was paid for ends. Money that was given back in full
// paid for nothing. ok is false when no paid invoice has been seen; when all were given back, the line is empty from where the last began.
func (f *facts) paidThrough(item string) (best InvoiceLine, ok bool) {
	for pass := range 2 {
		for _, inv := range f.paid {
			for _, l := range inv.lines {
				if f.itemOf(l) != item || (inv.refundedAt != 0) != (pass == 1) {
					continue
				}
				if pass == 1 {
					l.EndsAt = l.StartsAt
				}
				if l.EndsAt = clampTime(l.EndsAt); !ok || f.paysLater(&l, &best) {
					best, ok = l, true
				}
			}
		}
		if ok {
			break
		}
	}
	return best, ok
}

// paysLater reports whether of two lines for one item a is the one that was paid for last: the one that begins later, because a plan that is changed
// for a shorter one begins anew. A line of no length is about something else.
func (f *facts) paysLater(a, b *InvoiceLine) bool {
	if !f.policy.overtakes() {
		return a.EndsAt > b.EndsAt
	}
	if lasts := a.EndsAt > a.StartsAt; lasts != (b.EndsAt > b.StartsAt) {
		return lasts
	}
	return cmp.Or(cmp.Compare(a.StartsAt, b.StartsAt), cmp.Compare(a.EndsAt, b.EndsAt)) > 0
}

// termRefundedAt returns when the money for the term of item that starts at start was given back in full, or 0. An invoice touches the
// terms of its own lines and no others, so the refund of a proration leaves the period that it was part of alone, and the refund of a
// product that an upgrade has replaced leaves the new one alone.
func (f *facts) termRefundedAt(s *Subscription, item *SubscriptionItem, start int64) int64 {
	var at int64
	covered := false
	for _, inv := range f.paid {
		for _, l := range inv.lines {
			replaced := l.Product != "" && item.Product != "" && l.Product != item.Product
			if f.itemOf(l) == item.ID && clampTime(l.StartsAt) == start && !replaced {
				if inv.refundedAt == 0 && inv.Invoice.AmountPaid > 0 {
					covered = true // another payment for the same term stands
				}
				at = max(at, inv.refundedAt)
			}
		}
	}
	if covered {
		return 0
	}
	if _, seen := f.invoices[s.LatestInvoice]; !seen && s.LatestInvoice != "" && at == 0 {
		// The invoice of the present period has not come, but its payment and that payment's refund have.
		at, _ = f.money.invoiceRefunded(s.LatestInvoice, 0)
	}
	return at
}

// writtenOff reports whether the provider gave up on the latest invoice: it calls such a subscription active, without money.
func (f *facts) writtenOff(s *Subscription) bool {
	o := f.invoices[s.LatestInvoice]
	return o != nil && (o.Invoice.Status == InvoiceUncollectible || o.Invoice.Status == InvoiceVoid)
}

// foldItem decides one item of a subscription by the subscription's newest state.
func (f *facts) foldItem(o *Object, item *SubscriptionItem, grace int64) Item {
	s := o.Subscription
	start, end := clampTime(item.StartsAt), clampTime(item.EndsAt)
	out := Item{ID: item.ID, Recurring: true}
	out.Term = Term{ID: termID(item.ID, start), Sold: safe(item.Sold), StartsAt: start, EndsAt: end}
	cancel := clampTime(s.CancelAt)
	cancels := cancel > 0 || s.CancelAtPeriodEnd
	paid, seen := f.paidThrough(item.ID)
	if !seen {
		paid = InvoiceLine{Sold: item.Sold, StartsAt: start, EndsAt: start}
	}
	if end == 0 {
		out.Term.EndsAt = max(paid.EndsAt, start, 1) // not known, and never without an end
	}

	switch s.Status {
	case Trialing, Active:
		out.State, out.WillRenew = Live, !cancels
		if out.Term.Trial = s.Status == Trialing; out.Term.Trial && s.TrialEnd > 0 {
			out.Term.EndsAt = clampTime(s.TrialEnd)
		}
		switch {
		case s.Status == Active && !s.CollectionPaused && f.writtenOff(s):
			out.endAtPaid(item, paid)
			out.AccessUntil = out.Term.EndsAt
			if cancel > 0 {
				out.AccessUntil = min(out.AccessUntil, cancel)
			}
		case cancels:
			if cancel > 0 {
				out.Term.EndsAt = min(out.Term.EndsAt, cancel)
			}
			out.AccessUntil = out.Term.EndsAt
		default:
			out.AccessUntil = min(out.Term.EndsAt+leeway(start, out.Term.EndsAt), maxTime)
		}
	case PastDue:
		out.State, out.WillRenew = Retrying, !cancels
		out.endAtPaid(item, paid)
		out.AccessUntil = min(out.Term.EndsAt+grace, maxTime)
		if cancel > 0 {
			out.AccessUntil = min(out.AccessUntil, cancel)
		}
		out.BillingGraceUntil = out.AccessUntil
	case Unpaid:
		// No BillingGraceUntil: the provider has stopped trying, and whatever was paid for, it no longer gives access.
		out.State = Retrying
		out.endAtPaid(item, paid)
		out.AccessUntil = out.Term.EndsAt
	case Incomplete:
		out.State, out.AccessUntil = Pending, max(start, 1)
	case Paused:
		out.State = OnHold
		out.endAtPaid(item, paid)
		out.AccessUntil = out.Term.EndsAt
	case Canceled, IncompleteExpired:
		out.State = Ended
		out.AccessUntil = max(cmp.Or(clampTime(s.EndedAt), seconds(o.At)), 1)
		out.Term.EndsAt = min(out.Term.EndsAt, out.AccessUntil)
	default:
		// A status that Stripe has made up since: what was paid for stands, nothing more is promised.
		out.State = Live
		out.endAtPaid(item, paid)
		out.AccessUntil = out.Term.EndsAt
	}
	if at := f.termRefundedAt(s, item, start); at != 0 && out.State != Pending {
		out.revoke(at, ReasonRefunded)
	}
	return out
}

// endAtPaid makes the term the one that was paid for last: while a card is retried, the provider's period is already a month ahead.
func (i *Item) endAtPaid(item *SubscriptionItem, paid InvoiceLine) {
	paidStart := clampTime(paid.StartsAt)
	if paid.EndsAt <= i.Term.StartsAt && paidStart != i.Term.StartsAt {
		sold := safe(paid.Sold)
		if sold.Product == item.Product || sold.Product == "" {
			sold = safe(item.Sold)
		}
		i.Term = Term{ID: termID(i.ID, paidStart), Sold: sold, StartsAt: paidStart}
	}
	i.Term.EndsAt = max(paid.EndsAt, 1)
}

// foldCheckout decides a one-time payment: each product of it is an item that never ends.
func (f *facts) foldCheckout(o *Object) []Item {
	c, sale := o.Checkout, f.sales[o.ID]
	if sale == nil {
		return nil
	}
	created := cmp.Or(clampTime(c.CreatedAt), max(seconds(o.At), 1))
	refundedAt, refunded := f.checkoutRefunded(c)
	out := make([]Item, 0, len(sale.Lines))
	for i, l := range sale.Lines {
		item := Item{ID: cmp.Or(l.ID, o.ID+":"+strconv.Itoa(i))}
		item.Term = Term{ID: TermID(cmp.Or(c.PaymentIntent, o.ID)), Sold: safe(l.Sold), StartsAt: created}
		switch c.Payment {
		case CheckoutPaid, CheckoutFree:
			item.State = Live
		case CheckoutFailed:
			item.State, item.AccessUntil = Ended, created
		default:
			item.State, item.AccessUntil = Pending, created
		}
		if refunded && item.State == Live {
			item.revoke(refundedAt, ReasonRefunded)
		}
		out = append(out, item)
	}
	return out
}

// checkoutRefunded reports whether what a checkout took has been given back in full, and since when.
func (f *facts) checkoutRefunded(c *Checkout) (at int64, refunded bool) {
	ids := slices.Clone(f.money.invoices[c.Invoice])
	if c.PaymentIntent != "" {
		ids = append(ids, c.PaymentIntent)
	}
	return f.money.refunded(ids, c.AmountTotal, false)
}

// disputed reports whether a dispute takes the whole purchase back, and since when: while it is open and after it is lost, until it is won
// or until a term is paid after the loss. Inquiries ("warning_...") take nothing.
func (f *facts) disputed() (since int64, yes bool) {
	for _, o := range f.disputes {
		switch status := o.Dispute.Status; {
		case status == "needs_response", status == "under_review", strings.HasPrefix(status, "appeal_"):
		case status == "lost" && !f.paidAfter(o):
		default:
			continue
		}
		if at := max(cmp.Or(clampTime(o.Dispute.CreatedAt), seconds(o.At)), 1); !yes || at < since {
			since, yes = at, true
		}
	}
	return since, yes
}

// paidAfter reports whether a term was paid since the dispute o was lost. The disputed payment itself is none, whenever we were told of it.
func (f *facts) paidAfter(o *Object) bool {
	disputed := f.money.name(firstOf(o.Dispute.PaymentIntent, o.Dispute.Charge))
	for _, inv := range f.paid {
		paysIt := func(id string) bool { return f.money.name(id) == disputed }
		if inv.Invoice.AmountPaid <= 0 || inv.refundedAt != 0 || len(inv.lines) == 0 || slices.ContainsFunc(f.money.invoices[inv.ID], paysIt) {
			continue
		}
		if cmp.Or(inv.Invoice.PaidAt, seconds(inv.At)) >= seconds(o.At) {
			return true
		}
	}
	return false
}

// revoke takes the item back at a time. Whether it will renew stays as it is: a refund does not cancel a subscription.
func (i *Item) revoke(at int64, why Reason) {
	i.State, i.Reason = Revoked, why
	i.AccessUntil, i.BillingGraceUntil = at, 0
	i.Term.RevokedAt = at
}

func (s *Subscription) trialUsed() bool {
	return (s.TrialStart > 0 || s.TrialEnd > 0 || s.Status == Trialing) && s.begun()
}

// leeway returns how long what will renew stays active after end, in seconds. A term whose start is not known gets none.
func leeway(start, end int64) int64 {
	if start <= 0 || end <= start {
		return 0
	}
	return min((end-start)/leewayShare, maxLeewaySeconds)
}

func termID(item string, start int64) TermID {
	return TermID(item + ":" + strconv.FormatInt(clampTime(start), 10))
}

// The stores that are not called like their provider.
const (
	AppStore  = "app_store"
	PlayStore = "play_store"
)

func storeOf(p Provider) string {
	switch p {
	case Apple:
		return AppStore
	case Google:
		return PlayStore
	}
	return string(p)
}

// providerOf returns whose adapter a store has, should it have one.
func providerOf(store string) Provider { return StoreProvider(store) }

// StoreProvider returns the provider that is the store itself: Apple of the App Store.
func StoreProvider(store string) Provider {
	switch store {
	case AppStore:
		return Apple
	case PlayStore:
		return Google
	}
	return Provider(store)
}

// maxQuantity bounds what a provider may say was bought at once, so that credits times quantity cannot overflow.
const maxQuantity = 1_000_000

func safe(s Sold) Sold {
	s.Quantity = min(max(s.Quantity, 0), maxQuantity)
	return s
}

// clampTime makes a provider's time safe to compute with: 0 (absent) where negative, and never later than RFC 3339 can write.
func clampTime(t int64) int64 { return min(max(t, 0), maxTime) }

// seconds turns a provider's version in nanoseconds into Unix seconds.
func seconds(at int64) int64 { return clampTime(at / 1e9) }
