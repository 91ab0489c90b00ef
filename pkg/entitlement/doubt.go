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
// that have no state as new as the hint, one-time payments whose products are not known, and sales that the provider waits to hear about. The
// evidence need not be a purchase.
func (e Evidence) Doubts() []Doubt {
	var out []Doubt
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
