package entitlement

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// This file shows that merging is a join (I20): the order, the repeats and the portions in which messages arrive leave no trace.

// drawObject makes objects out of so few values that equal versions, ties and repeats are common.
func drawObject(t *rapid.T) Object {
	o := Object{
		ID:      rapid.SampledFrom([]string{"a", "b"}).Draw(t, "id"),
		Final:   rapid.Bool().Draw(t, "final"),
		At:      rapid.Int64Range(0, 2).Draw(t, "at") * 1e9,
		Rank:    uint8(rapid.IntRange(0, 2).Draw(t, "rank")),
		Partial: rapid.Bool().Draw(t, "partial"),
		Account: AccountID(rapid.SampledFrom([]string{"", "acc_1", "acc_2"}).Draw(t, "account")),
		Links:   rapid.SliceOfN(rapid.SampledFrom([]Link{"stripe:sub_1", "stripe:in_1", "stripe:pi_1", "apple:1"}), 0, 3).Draw(t, "links"),
	}
	switch rapid.IntRange(0, 2).Draw(t, "kind") {
	case 0:
		o.Kind = KindSubscription
		o.Subscription = &Subscription{Status: rapid.SampledFrom([]SubscriptionStatus{Active, PastDue}).Draw(t, "status")}
	case 1:
		o.Kind = KindInvoice
		o.Invoice = &Invoice{Status: rapid.SampledFrom([]InvoiceStatus{InvoiceOpen, InvoicePaid}).Draw(t, "invoice")}
	default:
		o.Kind = KindRefund
		o.Refund = &Refund{Status: RefundPending, Amount: rapid.Int64Range(1, 2).Draw(t, "amount")}
	}
	return o
}

func drawEvidence(t *rapid.T, name string) Evidence {
	return Evidence{}.Add(rapid.SliceOfN(rapid.Custom(drawObject), 0, 6).Draw(t, name)...)
}

func mustEqual(t interface{ Fatalf(string, ...any) }, law string, got, want Evidence) {
	if !bytes.Equal(Encode(got), Encode(want)) {
		t.Fatalf("%s does not hold:\n got %+v\nwant %+v", law, got, want)
	}
}

func TestMergeIsAJoin(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b, c := drawEvidence(t, "a"), drawEvidence(t, "b"), drawEvidence(t, "c")
		before := Encode(a)
		mustEqual(t, "a+b = b+a", Merge(a, b), Merge(b, a))
		mustEqual(t, "(a+b)+c = a+(b+c)", Merge(Merge(a, b), c), Merge(a, Merge(b, c)))
		mustEqual(t, "a+a = a", Merge(a, a), a)
		mustEqual(t, "a+nothing = a", Merge(a, Evidence{}), a)
		mustEqual(t, "(a+b)+b = a+b", Merge(Merge(a, b), b), Merge(a, b))
		if !bytes.Equal(Encode(a), before) {
			t.Fatalf("merging changed its argument: %+v", a)
		}
	})
}

// The outcome must also not depend on how many objects were added at a time.
func TestAddInAnyPortionsIsTheSame(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		objects := rapid.SliceOfN(rapid.Custom(drawObject), 0, 8).Draw(t, "objects")
		want := Evidence{}.Add(objects...)
		shuffled := slices.Clone(objects)
		random := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 1))
		random.Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
		cut := 0
		if len(shuffled) > 0 {
			cut = random.IntN(len(shuffled))
		}
		left, right := Evidence{}.Add(shuffled[:cut]...), Evidence{}.Add(shuffled[cut:]...)
		mustEqual(t, "split and shuffled", Merge(left, right), want)
		mustEqual(t, "repeated", Merge(left, right).Add(objects...), want)
		mustEqual(t, "stored and read again", reread(t, want), want)
		if got, want := Encode(Fold(Merge(right, left), DefaultPolicy)), Encode(Fold(want, DefaultPolicy)); !bytes.Equal(got, want) {
			t.Fatalf("the fold of equal evidence differs: %x and %x", got, want)
		}
	})
}

func reread(t interface{ Fatalf(string, ...any) }, e Evidence) Evidence {
	var out Evidence
	if err := Decode(Encode(e), &out); err != nil {
		t.Fatalf("decode: %v", err)
	}
	return out
}

func TestNewestState(t *testing.T) {
	state := func(status SubscriptionStatus, at int64, rank uint8, final bool) Object {
		return Object{Kind: KindSubscription, ID: "sub_1", At: at, Rank: rank, Final: final, Subscription: &Subscription{Status: status}}
	}
	longer := func(o Object, end int64) Object {
		s := *o.Subscription
		s.Items = []SubscriptionItem{{ID: "si_1", EndsAt: end}}
		o.Subscription = &s
		return o
	}
	tests := []struct {
		name string
		a, b Object
		want SubscriptionStatus
		tied bool
	}{
		{"the later time counts", state(Active, 1, 3, false), state(Incomplete, 2, 1, false), Incomplete, false},
		{"a final state counts whenever it was", state(Canceled, 1, 8, true), state(Active, 2, 3, false), Canceled, false},
		{"of two final ones the later counts", state(Canceled, 1, 8, true), state(IncompleteExpired, 2, 7, true), IncompleteExpired, false},
		{"at one time progress counts, and it is a tie", state(Incomplete, 1, 1, false), state(Active, 1, 3, false), Active, true},
		{"a later period end never wins by itself", longer(state(Active, 1, 3, false), 999), state(PastDue, 2, 4, false), PastDue, false},
		{"the same state twice is no tie", state(Active, 1, 3, false), state(Active, 1, 3, false), Active, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := Evidence{}.Add(tt.a, tt.b).Objects[0]
			if got.Subscription.Status != tt.want || got.Tied != tt.tied {
				t.Errorf("newest = %s, tied %t, want %s, tied %t", got.Subscription.Status, got.Tied, tt.want, tt.tied)
			}
		})
	}
	t.Run("at one time and rank the hash decides, either way round", func(t *testing.T) {
		a, b := longer(state(Active, 1, 3, false), 10), longer(state(Active, 1, 3, false), 20)
		ab, ba := Evidence{}.Add(a, b), Evidence{}.Add(b, a)
		mustEqual(t, "a+b = b+a", ab, ba)
		if !ab.Objects[0].Tied {
			t.Error("a tie decided by the hash is not marked")
		}
	})
	t.Run("a newer state ends the tie", func(t *testing.T) {
		e := Evidence{}.Add(state(Incomplete, 1, 1, false), state(Active, 1, 3, false), state(Active, 2, 3, false))
		if e.Objects[0].Tied {
			t.Error("still tied after a newer state")
		}
	})
}

func TestPurchaseID(t *testing.T) {
	tests := []struct {
		name  string
		links []Link
		want  PurchaseID
	}{
		{"a subscription before its payment intent", []Link{"stripe:pi_1", "stripe:in_1", "stripe:sub_9"}, "stripe:sub_9"},
		{"a payment intent before a session", []Link{"stripe:cs_1", "stripe:ch_1", "stripe:pi_9"}, "stripe:pi_9"},
		{"the smallest of equals", []Link{"stripe:sub_2", "stripe:sub_1"}, "stripe:sub_1"},
		{"apple before google before stripe", []Link{"stripe:sub_1", "google:aa", "apple:99"}, "apple:99"},
		{"google before stripe", []Link{"stripe:sub_1", "google:aa", "revenuecat:1"}, "google:aa"},
		{"a store before an aggregator", []Link{"adapty:1", "stripe:ch_1"}, "stripe:ch_1"},
		{"nothing without links", nil, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			e := Evidence{}.Add(Object{Kind: KindCharge, ID: "x", Links: tt.links})
			if got := e.ID(); got != tt.want {
				t.Errorf("ID of %v = %q, want %q", tt.links, got, tt.want)
			}
		})
	}
}

func TestIdentity(t *testing.T) {
	sub := func(account AccountID, at int64) Object {
		return Object{Kind: KindSubscription, ID: "sub_1", At: at, Account: account, Aliases: []Alias{{StripeCustomer, "cus_1"}}, Subscription: &Subscription{Status: Active}}
	}
	checkout := func(account AccountID, at int64) Object {
		return Object{Kind: KindCheckout, ID: "cs_1", At: at, Account: account, Aliases: []Alias{{StripeCustomer, "cus_1"}}, Checkout: &Checkout{Mode: CheckoutSubscription}}
	}
	tests := []struct {
		name    string
		objects []Object
		want    AccountID
	}{
		{"the newest metadata of the subscription", []Object{sub("acc_old", 1), sub("acc_new", 2)}, "acc_new"},
		{"the subscription's before a newer checkout's", []Object{sub("acc_sub", 1), checkout("acc_cs", 2)}, "acc_sub"},
		{"the checkout's where the subscription has none", []Object{sub("", 2), checkout("acc_cs", 1)}, "acc_cs"},
		{"none", []Object{sub("", 1)}, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := Evidence{}.Add(tt.objects...).Identity()
			if got.Account != tt.want || fmt.Sprint(got.Aliases) != "[{stripe_customer cus_1}]" {
				t.Errorf("Identity = %+v, want account %q and one alias", got, tt.want)
			}
		})
	}
}

func TestIsPurchase(t *testing.T) {
	tests := []struct {
		name   string
		object Object
		want   bool
	}{
		{"a subscription is", Object{Kind: KindSubscription, Subscription: &Subscription{}}, true},
		{"a one-time checkout is", Object{Kind: KindCheckout, Checkout: &Checkout{Mode: CheckoutPayment}}, true},
		{"a subscription's checkout waits for it", Object{Kind: KindCheckout, Checkout: &Checkout{Mode: CheckoutSubscription}}, false},
		{"an invoice waits for its subscription", Object{Kind: KindInvoice, Invoice: &Invoice{Status: InvoicePaid}}, false},
		{"a refund waits for its payment", Object{Kind: KindRefund, Refund: &Refund{}}, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := (Evidence{}).Add(tt.object).IsPurchase(); got != tt.want {
				t.Errorf("IsPurchase = %t, want %t", got, tt.want)
			}
		})
	}
}

func TestDigestIgnoresWhatBelongsToDelivery(t *testing.T) {
	a := Event{Provider: Stripe, ID: "evt_1", Raw: []byte("{}")}
	b := Event{Provider: Stripe, ID: "evt_1", Raw: []byte(`{"other":1}`)}
	c := Event{Provider: Stripe, ID: "evt_1", Type: "ping"}
	if a.Digest() != b.Digest() {
		t.Error("Raw changes the digest")
	}
	if a.Digest() == c.Digest() {
		t.Error("the type does not change the digest")
	}
}
