package entitlement

import (
	"bytes"
	"cmp"
	"slices"
)

// Doubt is one provider object that the provider should be asked about.
type Doubt struct {
	Kind ObjectKind `cbor:"1,keyasint"` // never KindSale nor KindHint: those come with the object that they belong to
	ID   string     `cbor:"2,keyasint"`
	// From is the version (Object.At, Unix nanoseconds) from which on an answer settles it. 0: any does.
	From int64 `cbor:"3,keyasint,omitempty"`
	// By is the provider to ask, where that is not Stripe; see Object.By.
	By Provider `cbor:"4,keyasint,omitempty"`
	// Echo: nothing is open where that provider cannot be asked; see Hint.Echo. A sale that is to be acknowledged leaves nothing open either.
	Echo bool `cbor:"5,keyasint,omitempty"`
}

// Provider returns whom to ask.
func (d *Doubt) Provider() Provider { return cmp.Or(d.By, Stripe) }

// Doubts lists what asking the provider could settle, sorted by kind and id: objects that are tied or partial, objects that a hint names and
// that have no state as new as the hint, one-time payments whose products are not known, sales that the provider waits to hear about,
// subscriptions of which an aggregator has said something since their store did, and money that came back from nobody knows what. The evidence need
// not be a purchase.
func (e Evidence) Doubts() []Doubt { return e.DoubtsUnder(Policy{}) }

// DoubtsUnder is Doubts by the rules of a policy: older ones left the aggregator the last word, and waited for what a payment had bought.
func (e Evidence) DoubtsUnder(p Policy) []Doubt {
	var out []Doubt
	if p.asksStores() {
		out = e.outspoken()
	}
	if p.asksPayments() {
		out = append(out, e.orphans()...)
	}
	add := func(kind ObjectKind, o *Object, from int64) {
		if kind == KindSale {
			kind = KindCheckout // it is what a checkout sold, and comes with it
		}
		out = append(out, Doubt{kind, o.ID, from, o.By, o.Hint != nil && o.Hint.Echo || !o.Tied && !o.Partial && o.unacknowledged()})
	}
	for i := range e.Objects {
		o := &e.Objects[i]
		switch {
		case o.Hint != nil:
			if at := e.find(o.Hint.Of, o.ID, o.By); at == nil || at.At < o.At {
				add(o.Hint.Of, o, o.At)
			}
			continue
		case o.Tied, o.Partial, o.unacknowledged():
			add(o.Kind, o, o.At+1)
		}
		if o.Checkout != nil && o.Checkout.Mode == CheckoutPayment {
			if sold := e.find(KindSale, o.ID, o.By); sold == nil || sold.Sale == nil || len(sold.Sale.Lines) == 0 {
				add(KindCheckout, o, 0)
			}
		}
	}
	if len(out) < 2 {
		return out
	}
	slices.SortFunc(out, func(a, b Doubt) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.ID, b.ID), cmp.Compare(a.By, b.By), cmp.Compare(b.From, a.From))
	})
	// Several about one object are one, settled when the last of them is.
	kept := out[:1]
	for _, d := range out[1:] {
		last := &kept[len(kept)-1]
		if last.Kind == d.Kind && last.ID == d.ID && last.By == d.By {
			last.Echo = last.Echo && d.Echo
			continue
		}
		kept = append(kept, d)
	}
	return kept
}

// outspoken lists the subscription that its store told of last, where an aggregator has said something about it since. A message of an aggregator leaves a
// hint that has the store asked; what it answers when it is asked itself leaves none, and must not count before a store that was asked a second
// earlier. What ended long ago by the word of both is none.
func (e Evidence) outspoken() (out []Doubt) {
	var seen []Provider
	for i := range e.Objects {
		by, t := e.Objects[i].By, e.Objects[i].Transaction
		if t == nil || t.Store == "" || providerOf(t.Store) == by || slices.Contains(seen, by) {
			continue
		}
		seen = append(seen, by)
		own, other := e.lastWord(providerOf(t.Store)), e.lastWord(by)
		if own.chain != nil && other.at > own.at && !(own.overBefore(other.at) && other.overBefore(other.at)) {
			out = append(out, Doubt{own.chain.Kind, own.chain.ID, other.at, own.chain.By, true})
		}
	}
	return out
}

// orphans lists what ties money that was given back, or is disputed, to what it had bought, where no message has: those of its invoice can be lost for good, and
// then a refund or a chargeback waits for them for ever while access goes on. Step by step that is what the payment paid, the invoice, and its
// subscription. A payment is asked about once, whatever it paid: merchants sell much that is not for us. Nothing is open where Stripe cannot be asked.
func (e Evidence) orphans() (out []Doubt) {
	back := func(o *Object) bool { return o.Charge != nil || o.Refund != nil || o.Dispute != nil }
	if e.IsPurchase() || !slices.ContainsFunc(e.Objects, func(o Object) bool { return back(&o) }) {
		return nil
	}
	paid := func(id string) bool { // an answer said what, or a message
		return slices.ContainsFunc(e.Objects, func(o Object) bool {
			return o.Payment != nil && (o.ID == id || o.Payment.PaymentIntent == id || o.Payment.Charge == id)
		})
	}
	ask := func(kind ObjectKind, id string) {
		if id != "" && e.find(kind, id, "") == nil {
			out = append(out, Doubt{Kind: kind, ID: id, Echo: true})
		}
	}
	for i := range e.Objects {
		o, payment := &e.Objects[i], ""
		switch {
		case o.Charge != nil:
			payment = firstOf(o.Charge.PaymentIntent, o.ID)
			ask(KindInvoice, o.Charge.Invoice)
		case o.Refund != nil:
			payment = firstOf(o.Refund.PaymentIntent, o.Refund.Charge)
		case o.Dispute != nil:
			payment = firstOf(o.Dispute.PaymentIntent, o.Dispute.Charge)
		case o.Payment != nil:
			ask(KindInvoice, o.Payment.Invoice)
		case o.Invoice != nil:
			ask(KindSubscription, o.Invoice.Subscription)
		}
		if !paid(payment) {
			ask(KindPayment, payment)
		}
	}
	return out
}

// word is the newest of what one provider says about a purchase.
type word struct {
	at    int64
	chain *Object // says where a subscription stands; nil: nothing does
}

// longOver is how long after its end a subscription is still asked about: no store tries a card, or moves an end, for longer.
const longOver = 60 * 24 * 3600

// overBefore reports whether it ended long before a time.
func (w *word) overBefore(at int64) bool {
	if w.chain == nil {
		return false
	}
	over, ended := false, int64(0)
	if s := w.chain.Subscription; s != nil {
		over, ended = s.Status == Canceled || s.Status == IncompleteExpired, s.EndedAt
	} else {
		r := w.chain.Renewal
		over, ended = r.Phase == PhaseExpired || r.Phase == PhaseRevoked || r.Phase == PhaseNever, r.EndedAt
	}
	return over && seconds(at)-cmp.Or(clampTime(ended), seconds(w.chain.At)) > longOver
}

// lastWord leaves out what is told of a term before it begins, or as it does: that has the version of its beginning.
func (e Evidence) lastWord(by Provider) (w word) {
	if by == Stripe {
		by = ""
	}
	begins := func(at int64) bool {
		return at%1e9 != 0 && slices.ContainsFunc(e.Objects, func(o Object) bool {
			return o.By == by && o.Transaction != nil && o.Transaction.StartsAt == seconds(at)
		})
	}
	for i := range e.Objects {
		o := &e.Objects[i]
		if o.By != by || by == "" && o.Hint != nil || by != "" && (o.Transaction == nil && o.Renewal == nil || o.At > w.at && begins(o.At)) {
			continue
		}
		w.at = max(w.at, o.At)
		if (o.Subscription != nil || o.Renewal != nil && o.Renewal.Phase != "") && (w.chain == nil || o.At > w.chain.At) {
			w.chain = o
		}
	}
	return w
}

// unacknowledged reports whether the provider waits to hear that the sale was delivered.
func (o *Object) unacknowledged() bool { return o.Renewal != nil && o.Renewal.Unacknowledged }

// find returns the newest state of an object, or nil.
func (e Evidence) find(kind ObjectKind, id string, by Provider) *Object {
	at, ok := slices.BinarySearchFunc(e.Objects, Object{Kind: kind, ID: id, By: by}, func(a, b Object) int { return compareKeys(&a, &b) })
	if !ok {
		return nil
	}
	return &e.Objects[at]
}

// Knows reports whether the newest state of the object in the evidence is that of o, whatever their versions.
func (e Evidence) Knows(o Object) bool {
	known := e.find(o.Kind, o.ID, o.By)
	return known != nil && known.Final == o.Final && bytes.Equal(known.state(), o.state())
}
