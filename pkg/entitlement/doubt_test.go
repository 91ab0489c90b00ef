package entitlement

import (
	"bytes"
	"reflect"
	"slices"
	"testing"
)

// These tests show what is asked of a provider, and that an answer settles it whatever the order in which things came.

func hint(of ObjectKind, id string, at int64) Object {
	return Object{Kind: KindHint, ID: id, At: at, Links: []Link{Link("stripe:" + id)}, Hint: &Hint{Of: of}}
}

func TestDoubts(t *testing.T) {
	state := func(at int64, status SubscriptionStatus) Object {
		return Object{Kind: KindSubscription, ID: "sub_1", At: at, Links: []Link{"stripe:sub_1"}, Subscription: &Subscription{Status: status}}
	}
	partial := state(10, Active)
	partial.Partial = true
	checkout := Object{Kind: KindCheckout, ID: "cs_1", At: 10, Links: []Link{"stripe:cs_1"}, Checkout: &Checkout{Mode: CheckoutPayment, Payment: CheckoutPaid}}
	sale := Object{Kind: KindSale, ID: "cs_1", At: 5, Links: []Link{"stripe:cs_1"}, Sale: &Sale{Lines: []SaleLine{{ID: "li_1"}}}}
	cut, empty := sale, sale
	cut.Partial, empty.Sale = true, &Sale{}
	subscribed := checkout
	subscribed.Checkout = &Checkout{Mode: CheckoutSubscription, Payment: CheckoutPaid}
	sub, cs := KindSubscription, KindCheckout
	// What Adapty says of a term at Stripe that began at second 5; At in seconds.
	sold := func(at int64) Object {
		return Object{Kind: KindTransaction, ID: "in_1", By: Adapty, At: at * 1e9, Links: []Link{"stripe:sub_1"}, Transaction: &Transaction{Chain: "c", Recurring: true, StartsAt: 5, EndsAt: 50, Store: "stripe"}}
	}
	over := Object{Kind: KindRenewal, ID: "c", By: Adapty, At: 30e9, Links: []Link{"stripe:sub_1"}, Renewal: &Renewal{Phase: PhaseExpired}}
	early := sold(5)
	early.At += 7
	// Money that came back, of a payment that no purchase is known to have been paid by.
	links := func(ids ...string) (out []Link) {
		for _, id := range ids {
			out = append(out, Link("stripe:"+id))
		}
		return out
	}
	disputed := Object{Kind: KindDispute, ID: "dp_1", At: 10, Links: links("ch_1", "dp_1", "pi_1"), Dispute: &Dispute{Status: "needs_response", Charge: "ch_1", PaymentIntent: "pi_1"}}
	refunded := Object{Kind: KindRefund, ID: "re_1", At: 10, Links: links("ch_1", "re_1"), Refund: &Refund{Status: RefundSucceeded, Charge: "ch_1"}}
	charged := Object{Kind: KindCharge, ID: "ch_1", At: 10, Links: links("ch_1", "in_1", "pi_1"), Charge: &Charge{PaymentIntent: "pi_1", Invoice: "in_1", Amount: 1, Refunded: true}}
	asked := Object{Kind: KindPayment, ID: "pi_1", At: 1, Links: links("pi_1"), Payment: &Payment{PaymentIntent: "pi_1"}}
	askedOfCharge := Object{Kind: KindPayment, ID: "ch_1", At: 1, Links: links("ch_1"), Payment: &Payment{Charge: "ch_1"}}
	pays := Object{Kind: KindPayment, ID: "inpay_1", At: 1, Links: links("in_1", "inpay_1", "pi_1"), Payment: &Payment{Invoice: "in_1", PaymentIntent: "pi_1", Status: "paid"}}
	invoice := Object{Kind: KindInvoice, ID: "in_1", At: 1, Links: links("in_1", "sub_1"), Invoice: &Invoice{Status: InvoicePaid, Subscription: "sub_1"}}
	other := invoice
	other.Invoice = &Invoice{Status: InvoicePaid}
	owned := state(1, Active)
	owned.Links = links("sub_1", "in_1")
	tests := []struct {
		name    string
		objects []Object
		want    []Doubt
	}{
		{"a dispute of a payment that nobody told of", []Object{disputed}, []Doubt{{Kind: KindPayment, ID: "pi_1", Echo: true}}},
		{"a refund that names its charge alone", []Object{refunded}, []Doubt{{Kind: KindPayment, ID: "ch_1", Echo: true}}},
		{"a charge that names its invoice", []Object{charged}, []Doubt{{Kind: KindInvoice, ID: "in_1", Echo: true}, {Kind: KindPayment, ID: "pi_1", Echo: true}}},
		{"a payment that paid for nothing of ours is asked about once", []Object{disputed, asked}, nil},
		{"a charge too", []Object{refunded, askedOfCharge}, nil},
		{"its invoice comes next", []Object{disputed, asked, pays}, []Doubt{{Kind: KindInvoice, ID: "in_1", Echo: true}}},
		{"and need not be asked for by the payment where a message tied them", []Object{disputed, pays}, []Doubt{{Kind: KindInvoice, ID: "in_1", Echo: true}}},
		{"its subscription comes last", []Object{disputed, pays, invoice}, []Doubt{{Kind: sub, ID: "sub_1", Echo: true}}},
		{"and settles it", []Object{disputed, pays, invoice, owned}, nil},
		{"an invoice of no subscription settles it too", []Object{disputed, pays, other}, nil},
		{"a payment that was not given back is not asked about", []Object{pays, invoice}, nil},
		{"one state is no doubt", []Object{state(10, Active)}, nil},
		{"two states of one version", []Object{state(10, Active), state(10, PastDue)}, []Doubt{{Kind: sub, ID: "sub_1", From: 11}}},
		{"the same state twice is none", []Object{state(10, Active), state(10, Active)}, nil},
		{"an answer of the same version settles no tie", []Object{state(10, Active), state(10, PastDue), state(10, Canceled)}, []Doubt{{Kind: sub, ID: "sub_1", From: 11}}},
		{"a newer state settles a tie", []Object{state(10, Active), state(10, PastDue), state(11, PastDue)}, nil},
		{"a part of an object", []Object{partial}, []Doubt{{Kind: sub, ID: "sub_1", From: 11}}},
		{"a newer whole one settles it", []Object{partial, state(11, Active)}, nil},
		{"a hint alone", []Object{hint(sub, "sub_1", 10)}, []Doubt{{Kind: sub, ID: "sub_1", From: 10}}},
		{"a state before the hint does not settle it", []Object{hint(sub, "sub_1", 10), state(9, Active)}, []Doubt{{Kind: sub, ID: "sub_1", From: 10}}},
		{"a state of the hint's version settles it", []Object{hint(sub, "sub_1", 10), state(10, Active)}, nil},
		{"the newest hint counts", []Object{hint(sub, "sub_1", 10), hint(sub, "sub_1", 20), state(10, Active)}, []Doubt{{Kind: sub, ID: "sub_1", From: 20}}},
		{"an older hint says nothing new", []Object{hint(sub, "sub_1", 9), state(10, Active)}, nil},
		{"a hint and a tie are one doubt, settled by the later", []Object{hint(sub, "sub_1", 30), state(10, Active), state(10, PastDue)}, []Doubt{{Kind: sub, ID: "sub_1", From: 30}}},
		{"a one-time payment without its products", []Object{checkout}, []Doubt{{Kind: cs, ID: "cs_1", From: 0}}},
		{"with them", []Object{checkout, sale}, nil},
		{"with none", []Object{checkout, empty}, []Doubt{{Kind: cs, ID: "cs_1", From: 0}}},
		{"with a part of them", []Object{checkout, cut}, []Doubt{{Kind: cs, ID: "cs_1", From: 6}}},
		{"a checkout of a subscription needs none", []Object{subscribed}, nil},
		{"an aggregator that answered after its store makes the store be asked", []Object{state(10e9, Active), sold(20)}, []Doubt{{Kind: sub, ID: "sub_1", From: 20e9, Echo: true}}},
		{"the store has the last word", []Object{state(20e9, Active), sold(20)}, nil},
		{"a store that never told of it is not asked", []Object{sold(20)}, nil},
		{"what has ended by both", []Object{state(10e9, Canceled), sold(20), over}, []Doubt{{Kind: sub, ID: "sub_1", From: 30e9, Echo: true}}},
		{"what ended by both long ago", []Object{state(10e9, Canceled), sold(longOver + 100), over}, nil},
		{"what has ended by the aggregator alone", []Object{state(10e9, Active), sold(20), over}, []Doubt{{Kind: sub, ID: "sub_1", From: 30e9, Echo: true}}},
		{"what is told before it begins", []Object{state(1e9, Active), early}, nil},
		{"two objects", []Object{checkout, hint(sub, "sub_1", 10)}, []Doubt{{Kind: cs, ID: "cs_1", From: 0}, {Kind: sub, ID: "sub_1", From: 10}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var first []byte
			permutations(len(tt.objects), func(order []int) {
				var e Evidence
				for _, i := range order {
					e = e.Add(tt.objects[i])
				}
				if got := e.Doubts(); !reflect.DeepEqual(got, tt.want) {
					t.Errorf("Doubts in the order %v = %+v, want %+v", order, got, tt.want)
				}
				if got := Fold(e, DefaultPolicy).Doubt; got != slices.ContainsFunc(tt.want, func(d Doubt) bool { return !d.Echo }) {
					t.Errorf("Fold().Doubt = %t", got)
				}
				if encoded := Encode(e); first == nil {
					first = encoded
				} else if !bytes.Equal(encoded, first) {
					t.Errorf("the order %v gives other evidence", order)
				}
			})
		})
	}
}

// permutations visits every order of n things.
func permutations(n int, visit func([]int)) {
	order := make([]int, 0, n)
	var next func(used int)
	next = func(used int) {
		if len(order) == n {
			visit(order)
			return
		}
		for i := range n {
			if used&(1<<i) == 0 {
				order = append(order, i)
				next(used | 1<<i)
				order = order[:len(order)-1]
			}
		}
	}
	next(0)
}

func TestAHintAloneIsNoPurchase(t *testing.T) {
	e := Evidence{}.Add(hint(KindSubscription, "sub_1", 10))
	if e.IsPurchase() || e.ID() != "stripe:sub_1" {
		t.Errorf("IsPurchase = %t, ID = %s", e.IsPurchase(), e.ID())
	}
	if p := Fold(e, DefaultPolicy); len(p.Items) != 0 || !p.Doubt {
		t.Errorf("Fold = %+v", p)
	}
}

func TestKnows(t *testing.T) {
	at := func(version int64, status SubscriptionStatus) Object {
		return Object{Kind: KindSubscription, ID: "sub_1", At: version, Links: []Link{"stripe:sub_1"}, Subscription: &Subscription{Status: status}}
	}
	e := Evidence{}.Add(at(10, Active))
	final := at(10, Active)
	final.Final = true
	other := at(10, Active)
	other.ID = "sub_2"
	for _, tt := range []struct {
		name   string
		object Object
		want   bool
	}{
		{"the same state", at(10, Active), true}, {"the same of another version", at(99, Active), true}, {"another state", at(10, PastDue), false},
		{"a final one", final, false}, {"another object", other, false},
	} {
		if got := e.Knows(tt.object); got != tt.want {
			t.Errorf("Knows(%s) = %t", tt.name, got)
		}
	}
}
