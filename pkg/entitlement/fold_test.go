package entitlement

import (
	"math"
	"testing"

	"pgregory.net/rapid"
)

// This file shows each rule of the fold on the smallest evidence that it needs. Times are seconds from `start`, the beginning of the
// present period; the term is `month` long.

const (
	day   = int64(24 * 3600)
	hour  = int64(3600)
	month = 30 * day
	start = int64(1_790_000_000)
	end   = start + month
	grace = 7 * day
	spare = day // the leeway of a month: a tenth of it would be more than the most
)

type option func(*Object)

func subscriptionIs(status SubscriptionStatus, options ...option) Object {
	o := Object{
		Kind: KindSubscription, ID: "sub_1", At: start * 1e9, Final: status == Canceled || status == IncompleteExpired,
		Links: []Link{"stripe:sub_1", "stripe:in_2"},
		Subscription: &Subscription{
			Status: status, LatestInvoice: "in_2",
			Items: []SubscriptionItem{{ID: "si_1", Sold: Sold{Product: "price_pro_monthly", Quantity: 1}, StartsAt: start, EndsAt: end}},
		},
	}
	for _, option := range options {
		option(&o)
	}
	return o
}

func at(t int64) option          { return func(o *Object) { o.At = t * 1e9 } }
func cancelAt(t int64) option    { return func(o *Object) { o.Subscription.CancelAt = t } }
func cancelAtEnd(o *Object)      { o.Subscription.CancelAtPeriodEnd = true }
func collectionPaused(o *Object) { o.Subscription.CollectionPaused = true }
func trialUntil(t int64) option {
	return func(o *Object) { o.Subscription.TrialStart, o.Subscription.TrialEnd = start, t }
}
func endedAt(t int64) option       { return func(o *Object) { o.Subscription.EndedAt = t } }
func sells(p ProductID) option     { return func(o *Object) { o.Subscription.Items[0].Product = p } }
func latest(invoice string) option { return func(o *Object) { o.Subscription.LatestInvoice = invoice } }
func period(from, to int64) option {
	return func(o *Object) { o.Subscription.Items[0].StartsAt, o.Subscription.Items[0].EndsAt = from, to }
}

func line(from, to, amount int64) InvoiceLine {
	return InvoiceLine{ID: "il_1", Item: "si_1", Sold: Sold{Product: "price_pro_monthly"}, Amount: amount, StartsAt: from, EndsAt: to}
}

func invoice(id string, status InvoiceStatus, lines ...InvoiceLine) Object {
	var paid int64
	for _, l := range lines {
		paid += l.Amount
	}
	return Object{Kind: KindInvoice, ID: id, At: start * 1e9, Links: []Link{"stripe:sub_1", Link("stripe:" + id)},
		Invoice: &Invoice{Status: status, Subscription: "sub_1", AmountPaid: max(paid, 0), Lines: lines}}
}

func paidBy(o Object, charge, intent string) Object {
	o.Invoice.Charge, o.Invoice.PaymentIntent = charge, intent
	return o
}

func paidAt(o Object, t int64) Object {
	inv := *o.Invoice
	inv.PaidAt = t
	o.Invoice = &inv
	return o
}

// payment is basil's tie from a payment intent to an invoice.
func invoicePayment(invoice, intent string, amount int64) Object {
	return Object{Kind: KindPayment, ID: "inpay_" + intent, Links: []Link{Link("stripe:" + invoice)}, Payment: &Payment{Invoice: invoice, PaymentIntent: intent, Status: "paid", AmountPaid: amount}}
}

func charge(id, intent, invoice string, refunded int64, options ...option) Object {
	o := Object{Kind: KindCharge, ID: id, At: (start + hour) * 1e9, Charge: &Charge{PaymentIntent: intent, Invoice: invoice, Amount: 999, AmountRefunded: refunded, Refunded: refunded == 999}}
	for _, option := range options {
		option(&o)
	}
	return o
}

func refund(id string, status RefundStatus, charge, intent string, amount, created int64, options ...option) Object {
	o := Object{Kind: KindRefund, ID: id, At: created * 1e9, Final: status == RefundFailed || status == RefundCanceled,
		Refund: &Refund{Status: status, Charge: charge, PaymentIntent: intent, Amount: amount, CreatedAt: created}}
	for _, option := range options {
		option(&o)
	}
	return o
}

func dispute(status string, t int64) Object {
	return Object{Kind: KindDispute, ID: "dp_1", At: t * 1e9, Dispute: &Dispute{Status: status, Charge: "ch_1", CreatedAt: start + hour}}
}

func foldOf(objects ...Object) Purchase { return Fold(Evidence{}.Add(objects...), DefaultPolicy) }

func TestFoldSubscription(t *testing.T) {
	paidFirst := invoice("in_1", InvoicePaid, line(start-month, start, 999))
	paidNow := invoice("in_2", InvoicePaid, line(start, end, 999))
	type want struct {
		state ItemState
		until int64 // AccessUntil
		ends  int64 // Term.EndsAt
		renew bool
	}
	tests := []struct {
		name    string
		objects []Object
		want    want
	}{
		{"trialing gives access until trial_end and the leeway", []Object{subscriptionIs(Trialing, trialUntil(start+10*day), period(start, start+10*day))},
			want{Live, start + 11*day, start + 10*day, true}},
		{"a short trial has a tenth of itself as leeway", []Object{subscriptionIs(Trialing, trialUntil(start+300), period(start, start+300))},
			want{Live, start + 330, start + 300, true}},
		{"a trial's end counts before the item's", []Object{subscriptionIs(Trialing, trialUntil(start+10*day))}, want{Live, start + 11*day, start + 10*day, true}},
		{"a trial that is cancelled has no leeway", []Object{subscriptionIs(Trialing, trialUntil(end), cancelAtEnd)}, want{Live, end, end, false}},
		{"active gives access until the item's end and the leeway, with nothing else seen", []Object{subscriptionIs(Active)}, want{Live, end + spare, end, true}},
		{"active with its invoice open is active", []Object{subscriptionIs(Active), invoice("in_2", InvoiceOpen, line(start, end, 999))}, want{Live, end + spare, end, true}},
		{"a pause of collection alone changes nothing", []Object{subscriptionIs(Active, collectionPaused), invoice("in_2", InvoiceVoid, line(start, end, 999))},
			want{Live, end + spare, end, true}},
		{"cancel at period end: the item's end without leeway", []Object{subscriptionIs(Active, cancelAtEnd), paidNow}, want{Live, end, end, false}},
		{"cancel_at before the item's end", []Object{subscriptionIs(Active, cancelAt(start+day))}, want{Live, start + day, start + day, false}},
		{"cancel_at after the item's end", []Object{subscriptionIs(Active, cancelAt(end+day))}, want{Live, end, end, false}},
		{"latest invoice uncollectible: paid-through", []Object{subscriptionIs(Active), paidFirst, invoice("in_2", InvoiceUncollectible, line(start, end, 999))},
			want{Live, start, start, true}},
		{"latest invoice void: paid-through", []Object{subscriptionIs(Active), paidFirst, invoice("in_2", InvoiceVoid, line(start, end, 999))}, want{Live, start, start, true}},
		{"latest invoice void and none paid: the present period's start", []Object{subscriptionIs(Active), invoice("in_2", InvoiceVoid, line(start, end, 999))},
			want{Live, start, start, true}},
		{"an older void invoice is nothing", []Object{subscriptionIs(Active), invoice("in_1", InvoiceVoid, line(start-month, start, 999))}, want{Live, end + spare, end, true}},
		{"past_due: paid-through and the billing grace, not the period that Stripe already began", []Object{subscriptionIs(PastDue), paidFirst},
			want{Retrying, start + grace, start, true}},
		{"past_due and no paid invoice seen: the present period's start counts", []Object{subscriptionIs(PastDue)}, want{Retrying, start + grace, start, true}},
		{"past_due: a credit line pays for nothing", []Object{subscriptionIs(PastDue), invoice("in_1", InvoicePaid, line(start-month, start, 999), line(start, end, -500))},
			want{Retrying, start + grace, start, true}},
		{"past_due: an open invoice pays for nothing", []Object{subscriptionIs(PastDue), paidFirst, invoice("in_2", InvoiceOpen, line(start, end, 999))},
			want{Retrying, start + grace, start, true}},
		{"past_due after a trial: its invoice over nothing counts as paid", []Object{subscriptionIs(PastDue), invoice("in_1", InvoicePaid, line(start-10*day, start, 0))},
			want{Retrying, start + grace, start, true}},
		{"past_due with a paid present period", []Object{subscriptionIs(PastDue), paidNow}, want{Retrying, end + grace, end, true}},
		{"past_due: a cancel that is set ends the grace", []Object{subscriptionIs(PastDue, cancelAt(start+day)), paidFirst}, want{Retrying, start + day, start, false}},
		{"unpaid gives nothing, whatever was paid for", []Object{subscriptionIs(Unpaid), paidNow}, want{Retrying, end, end, false}},
		{"incomplete is pending", []Object{subscriptionIs(Incomplete)}, want{Pending, start, end, false}},
		{"paused", []Object{subscriptionIs(Paused), paidFirst}, want{OnHold, start, start, false}},
		{"canceled ends at ended_at, though the period goes on", []Object{subscriptionIs(Canceled, endedAt(start+day)), paidNow}, want{Ended, start + day, start + day, false}},
		{"canceled without ended_at ends when we were told", []Object{subscriptionIs(Canceled, at(start+hour))}, want{Ended, start + hour, start + hour, false}},
		{"incomplete_expired is over", []Object{subscriptionIs(IncompleteExpired, endedAt(start+day))}, want{Ended, start + day, start + day, false}},
		{"a period end that is not known is never for ever", []Object{subscriptionIs(Active, period(start, 0))}, want{Live, start, start, true}},
		{"no period at all is never for ever", []Object{subscriptionIs(Active, period(0, 0))}, want{Live, 1, 1, true}},
		{"a status that we do not know promises no more than was paid for", []Object{subscriptionIs("resting"), paidFirst}, want{Live, start, start, false}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := foldOf(tt.objects...)
			if len(p.Items) != 1 {
				t.Fatalf("Fold gave %d items, want 1", len(p.Items))
			}
			i := p.Items[0]
			if got := (want{i.State, i.AccessUntil, i.Term.EndsAt, i.WillRenew}); got != tt.want {
				t.Errorf("Fold = %+v, want %+v (start %d, end %d)", got, tt.want, start, end)
			}
			if p.ID != "stripe:sub_1" || p.Provider != Stripe || p.Store != "stripe" || !i.Recurring {
				t.Errorf("Fold = %+v, want stripe:sub_1 of stripe, recurring", p)
			}
		})
	}
}

func TestFoldRefunds(t *testing.T) {
	sub := subscriptionIs(Active)
	paidNow := paidBy(invoice("in_2", InvoicePaid, line(start, end, 999)), "ch_1", "pi_1")
	basil := invoice("in_2", InvoicePaid, line(start, end, 999))
	paidFirst := paidBy(invoice("in_1", InvoicePaid, line(start-month, start, 999)), "ch_0", "pi_0")
	proration := paidBy(invoice("in_3", InvoicePaid, line(start+5*day, end, 400), line(start+5*day, end, -200)), "ch_3", "pi_3")
	made := start + 2*hour
	tests := []struct {
		name    string
		objects []Object
		state   ItemState
		until   int64
	}{
		{"full, by charge.invoice", []Object{sub, basil, charge("ch_1", "pi_1", "in_2", 999)}, Revoked, start + hour},
		{"full, by invoice.charge", []Object{sub, paidNow, charge("ch_1", "", "", 999)}, Revoked, start + hour},
		{"full, by invoice.payment_intent", []Object{sub, paidNow, charge("ch_9", "pi_1", "", 999)}, Revoked, start + hour},
		{"full, by the invoice payment of basil", []Object{sub, basil, invoicePayment("in_2", "pi_1", 999), charge("ch_1", "pi_1", "", 999)}, Revoked, start + hour},
		{"full, by refund objects alone", []Object{sub, paidNow, refund("re_1", RefundSucceeded, "ch_1", "pi_1", 999, made)}, Revoked, made},
		{"full while it is pending", []Object{sub, paidNow, refund("re_1", RefundPending, "ch_1", "", 999, made)}, Revoked, made},
		{"full in the sum of two", []Object{sub, paidNow, refund("re_1", RefundSucceeded, "ch_1", "", 500, made), refund("re_2", RefundSucceeded, "ch_1", "", 499, made+60)}, Revoked, made + 60},
		{"the same money told by charge and refund counts once", []Object{sub, paidNow, charge("ch_1", "pi_1", "", 500), refund("re_1", RefundSucceeded, "ch_1", "pi_1", 500, made)}, Live, end + spare},
		{"the refund's own time decides before the charge's", []Object{sub, paidNow, charge("ch_1", "pi_1", "", 999), refund("re_1", RefundSucceeded, "ch_1", "pi_1", 999, made)}, Revoked, made},
		{"partial: nothing", []Object{sub, paidNow, charge("ch_1", "pi_1", "in_2", 300)}, Live, end + spare},
		{"a failed refund is undone", []Object{sub, paidNow, refund("re_1", RefundFailed, "ch_1", "", 999, made)}, Live, end + spare},
		{"a cancelled refund is undone", []Object{sub, paidNow, refund("re_1", RefundCanceled, "ch_1", "", 999, made)}, Live, end + spare},
		{"a failed refund corrects a charge that still counts it", []Object{sub, paidNow, charge("ch_1", "pi_1", "", 999), refund("re_1", RefundFailed, "ch_1", "pi_1", 999, start, at(start+day))}, Live, end + spare},
		{"a failed refund corrects a charge of the same second", []Object{sub, paidNow, charge("ch_1", "pi_1", "", 999), refund("re_1", RefundFailed, "ch_1", "pi_1", 999, start+hour)}, Live, end + spare},
		{"a failed refund leaves a newer charge alone", []Object{sub, paidNow, charge("ch_1", "pi_1", "", 999, at(start+2*day)), refund("re_1", RefundFailed, "ch_1", "pi_1", 999, start, at(start+day))}, Revoked, start + 2*day},
		{"one refund failed, the next one succeeded", []Object{sub, paidNow, charge("ch_1", "pi_1", "", 999), refund("re_1", RefundFailed, "ch_1", "pi_1", 999, start, at(start+day)), refund("re_2", RefundSucceeded, "ch_1", "pi_1", 999, start+2*day)}, Revoked, start + 2*day},
		{"of an unknown payment: waits", []Object{sub, basil, charge("ch_1", "pi_1", "", 999)}, Live, end + spare},
		{"of the latest invoice, which was not seen", []Object{sub, charge("ch_1", "pi_1", "in_2", 999)}, Revoked, start + hour},
		{"of the latest invoice, tied by basil's payment alone", []Object{sub, invoicePayment("in_2", "pi_1", 999), charge("ch_1", "pi_1", "", 999)}, Revoked, start + hour},
		{"of an earlier term: the present one stands", []Object{sub, paidFirst, paidNow, charge("ch_0", "pi_0", "", 999)}, Live, end + spare},
		{"of a proration: the period that it was part of stands", []Object{sub, paidNow, proration, charge("ch_3", "pi_3", "", 999)}, Live, end + spare},
		{"of a product that an upgrade replaced: the new one stands", []Object{subscriptionIs(Active, sells("price_pro_yearly")), paidNow, charge("ch_1", "pi_1", "", 999)}, Live, end + spare},
		{"of one part of an invoice paid in two", []Object{sub, invoice("in_2", InvoicePaid, line(start, end, 1998)), invoicePayment("in_2", "pi_1", 999), charge("ch_1", "pi_1", "", 999)}, Live, end + spare},
		{"of both parts of an invoice paid in two", []Object{sub, invoice("in_2", InvoicePaid, line(start, end, 1998)), invoicePayment("in_2", "pi_1", 999), invoicePayment("in_2", "pi_2", 999),
			charge("ch_1", "pi_1", "", 999), charge("ch_2", "pi_2", "", 999)}, Revoked, start + hour},
		{"a refunded term pays for nothing when the next one is past due", []Object{subscriptionIs(PastDue), paidFirst, charge("ch_0", "pi_0", "", 999)}, Retrying, start - month + grace},
		{"cancelled and refunded shows the refund", []Object{subscriptionIs(Canceled, endedAt(start+day)), paidNow, charge("ch_1", "pi_1", "", 999)}, Revoked, start + hour},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			i := foldOf(tt.objects...).Items[0]
			if i.State != tt.state || i.AccessUntil != tt.until {
				t.Errorf("Fold = state %d until %d, want %d until %d (start %d, end %d)", i.State, i.AccessUntil, tt.state, tt.until, start, end)
			}
			if i.State == Revoked && (i.Reason != ReasonRefunded || i.Term.RevokedAt != tt.until) {
				t.Errorf("Fold = reason %q, revoked at %d, want refunded at %d", i.Reason, i.Term.RevokedAt, tt.until)
			}
		})
	}
	t.Run("a refunded subscription goes on and may renew", func(t *testing.T) {
		refunded := []Object{sub, paidNow, charge("ch_1", "pi_1", "in_2", 999)}
		if i := foldOf(refunded...).Items[0]; !i.WillRenew {
			t.Error("a refund cancelled the subscription")
		}
		renewed := append(refunded, subscriptionIs(Active, at(end), period(end, end+month), latest("in_4")))
		if i := foldOf(renewed...).Items[0]; i.State != Live || i.AccessUntil != end+month+spare || i.Reason != "" {
			t.Errorf("after the renewal: %+v, want live until %d", i, end+month+spare)
		}
	})
}

func TestFoldDisputes(t *testing.T) {
	sub := subscriptionIs(Active)
	paidNow := paidBy(invoice("in_2", InvoicePaid, line(start, end, 999)), "ch_1", "pi_1")
	renewed := []Object{subscriptionIs(Active, at(end), period(end, end+month), latest("in_3")), paidNow,
		paidAt(invoice("in_3", InvoicePaid, line(end, end+month, 999)), end+hour)}
	tests := []struct {
		name    string
		objects []Object
		revoked bool
	}{
		{"needs_response takes all back", []Object{sub, paidNow, dispute("needs_response", start+day)}, true},
		{"under_review takes all back", []Object{sub, paidNow, dispute("under_review", start+day)}, true},
		{"lost takes all back", []Object{sub, paidNow, dispute("lost", start+day)}, true},
		{"an appeal changes nothing yet", []Object{sub, paidNow, dispute("appeal_under_review", start+day)}, true},
		{"won gives all back", []Object{sub, paidNow, dispute("won", start+day)}, false},
		{"prevented gives all back", []Object{sub, paidNow, dispute("prevented", start+day)}, false},
		{"an inquiry takes nothing", []Object{sub, paidNow, dispute("warning_needs_response", start+day)}, false},
		{"a closed inquiry takes nothing", []Object{sub, paidNow, dispute("warning_closed", start+day)}, false},
		{"a term paid after the loss gives all back", append(renewed, dispute("lost", end-day)), false},
		{"a term paid before the loss does not", append(renewed, dispute("lost", end+day)), true},
		{"a term paid in the second of the loss gives all back", append(renewed, dispute("lost", end+hour)), false},
		{"the disputed payment itself does not, though told in that second", []Object{sub, paidAt(paidNow, start+day), dispute("lost", start+day)}, true},
		{"a term paid while it is open does not", append(renewed, dispute("under_review", end-day)), true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			i := foldOf(tt.objects...).Items[0]
			if got := i.State == Revoked && i.Reason == ReasonDisputed; got != tt.revoked {
				t.Errorf("Fold = %+v, want revoked %t", i, tt.revoked)
			}
			if tt.revoked && i.Term.RevokedAt != start+hour {
				t.Errorf("revoked at %d, want the dispute's beginning %d", i.Term.RevokedAt, start+hour)
			}
		})
	}
}

func checkout(payment string) Object {
	return Object{Kind: KindCheckout, ID: "cs_1", At: start * 1e9, Links: []Link{"stripe:cs_1", "stripe:pi_1"},
		Checkout: &Checkout{Mode: CheckoutPayment, Payment: payment, PaymentIntent: "pi_1", AmountTotal: 999, CreatedAt: start}}
}

func sale(products ...ProductID) Object {
	s := &Sale{}
	for _, p := range products {
		s.Lines = append(s.Lines, SaleLine{ID: "li_" + string(p), Sold: Sold{Product: p, Quantity: 2}})
	}
	return Object{Kind: KindSale, ID: "cs_1", At: start * 1e9, Links: []Link{"stripe:cs_1"}, Sale: s}
}

func TestFoldOneTimePayment(t *testing.T) {
	tests := []struct {
		name    string
		objects []Object
		state   ItemState
		until   int64
	}{
		{"paid never ends", []Object{checkout(CheckoutPaid), sale("price_lifetime")}, Live, 0},
		{"nothing to pay never ends", []Object{checkout(CheckoutFree), sale("price_lifetime")}, Live, 0},
		{"unpaid is pending", []Object{checkout(CheckoutUnpaid), sale("price_lifetime")}, Pending, start},
		{"failed is over", []Object{checkout(CheckoutFailed), sale("price_lifetime")}, Ended, start},
		{"a full refund takes it back", []Object{checkout(CheckoutPaid), sale("price_lifetime"), charge("ch_1", "pi_1", "", 999)}, Revoked, start + hour},
		{"refunds in full sum take it back", []Object{checkout(CheckoutPaid), sale("price_lifetime"), refund("re_1", RefundSucceeded, "", "pi_1", 999, end)}, Revoked, end},
		{"a partial refund takes nothing", []Object{checkout(CheckoutPaid), sale("price_lifetime"), charge("ch_1", "pi_1", "", 100)}, Live, 0},
		{"a failed refund is undone", []Object{checkout(CheckoutPaid), sale("price_lifetime"), charge("ch_1", "pi_1", "", 999), refund("re_1", RefundFailed, "ch_1", "pi_1", 999, end)}, Live, 0},
		{"a dispute takes it back", []Object{checkout(CheckoutPaid), sale("price_lifetime"), dispute("needs_response", start+day)}, Revoked, start + hour},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := foldOf(tt.objects...)
			if len(p.Items) != 1 || p.Items[0].State != tt.state || p.Items[0].AccessUntil != tt.until || p.Items[0].Recurring || p.Doubt {
				t.Fatalf("Fold = %+v, want one item in state %d until %d", p, tt.state, tt.until)
			}
			if i := p.Items[0]; p.ID != "stripe:pi_1" || i.Term.ID != "pi_1" || i.Term.EndsAt != 0 || i.Term.Quantity != 2 {
				t.Errorf("Fold = %+v, want the payment intent's own endless term, twice", p)
			}
		})
	}
	t.Run("each product is an item", func(t *testing.T) {
		if p := foldOf(checkout(CheckoutPaid), sale("price_coins_100", "price_lifetime")); len(p.Items) != 2 {
			t.Errorf("Fold = %+v, want two items", p)
		}
	})
	t.Run("what was sold is not known yet: doubt, and no access", func(t *testing.T) {
		if p := foldOf(checkout(CheckoutPaid)); !p.Doubt || len(p.Items) != 0 {
			t.Errorf("Fold = %+v, want doubt and no items", p)
		}
	})
	t.Run("a later message without the products does not lose them", func(t *testing.T) {
		later := checkout(CheckoutPaid)
		later.At = end * 1e9
		if p := foldOf(checkout(CheckoutUnpaid), sale("price_lifetime"), later); len(p.Items) != 1 || p.Items[0].State != Live {
			t.Errorf("Fold = %+v, want one live item", p)
		}
	})
}

func TestFoldChainWide(t *testing.T) {
	tied := subscriptionIs(Active)
	tied.Tied = true
	partial := subscriptionIs(Active)
	partial.Partial = true
	tests := []struct {
		name         string
		objects      []Object
		doubt, trial bool
	}{
		{"nothing to doubt", []Object{subscriptionIs(Active)}, false, false},
		{"a tie is doubted", []Object{tied}, true, false},
		{"what is not whole is doubted", []Object{partial}, true, false},
		{"a trial uses the trial up", []Object{subscriptionIs(Trialing, trialUntil(end))}, false, true},
		{"a trial that became paid has used it up", []Object{subscriptionIs(Active, trialUntil(start-day))}, false, true},
		{"a trial that was cancelled has used it up", []Object{subscriptionIs(Canceled, trialUntil(end), endedAt(end))}, false, true},
		{"an incomplete payment has not", []Object{subscriptionIs(Incomplete, trialUntil(end))}, false, false},
		{"one that was never completed has not", []Object{subscriptionIs(IncompleteExpired, trialUntil(end))}, false, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if p := foldOf(tt.objects...); p.Doubt != tt.doubt || p.TrialUsed != tt.trial {
				t.Errorf("Fold = doubt %t, trial used %t, want %t, %t", p.Doubt, p.TrialUsed, tt.doubt, tt.trial)
			}
		})
	}
	t.Run("each item has its own end", func(t *testing.T) {
		o := subscriptionIs(Active)
		o.Subscription.Items = append(o.Subscription.Items, SubscriptionItem{ID: "si_2", Sold: Sold{Product: "price_yearly"}, StartsAt: start, EndsAt: start + 365*day})
		p := foldOf(o)
		if len(p.Items) != 2 || p.Items[0].AccessUntil != end+spare || p.Items[1].AccessUntil != start+366*day {
			t.Errorf("Fold = %+v, want ends %d and %d", p.Items, end+spare, start+366*day)
		}
	})
	t.Run("the policy's billing grace counts", func(t *testing.T) {
		e := Evidence{}.Add(subscriptionIs(PastDue))
		for _, seconds := range []int64{0, day, math.MaxInt64, -1} {
			want := min(start+max(seconds, 0), maxTime)
			if seconds == math.MaxInt64 {
				want = maxTime
			}
			if got := Fold(e, Policy{BillingGrace: map[Provider]int64{Stripe: seconds}}).Items[0].AccessUntil; got != want {
				t.Errorf("grace of %d s: until %d, want %d", seconds, got, want)
			}
		}
		if got := Fold(e, Policy{}).Items[0].AccessUntil; got != start+grace {
			t.Errorf("no policy: until %d, want the default's %d", got, start+grace)
		}
	})
}

// From evidence to answer: what the states are made for.
func TestFoldShowsAs(t *testing.T) {
	paidFirst := invoice("in_1", InvoicePaid, line(start-month, start, 999))
	paidNow := paidBy(invoice("in_2", InvoicePaid, line(start, end, 999)), "ch_1", "pi_1")
	tests := []struct {
		name    string
		objects []Object
		now     int64
		status  Status
		reason  Reason
		expires int64
	}{
		{"paid", []Object{subscriptionIs(Active), paidNow}, end - 1, StatusActive, ReasonPaid, end},
		{"paid, in the leeway", []Object{subscriptionIs(Active), paidNow}, end + spare - 1, StatusActive, ReasonPaid, end},
		{"paid, and nothing came since", []Object{subscriptionIs(Active), paidNow}, end + spare, StatusExpired, ReasonExpired, end},
		{"on trial", []Object{subscriptionIs(Trialing, trialUntil(end))}, start, StatusTrialing, ReasonTrial, end},
		{"cancelled until its end", []Object{subscriptionIs(Active, cancelAtEnd), paidNow}, end - 1, StatusActive, ReasonCancelledUntilEnd, end},
		{"cancelled, at its end", []Object{subscriptionIs(Active, cancelAtEnd), paidNow}, end, StatusExpired, ReasonExpired, end},
		{"past due, in billing grace", []Object{subscriptionIs(PastDue), paidFirst}, start + grace - 1, StatusBillingGrace, ReasonBillingGrace, start},
		{"past due, after billing grace", []Object{subscriptionIs(PastDue), paidFirst}, start + grace, StatusBillingRetry, ReasonBillingRetry, start},
		{"unpaid", []Object{subscriptionIs(Unpaid), paidNow}, start, StatusBillingRetry, ReasonBillingRetry, end},
		{"incomplete", []Object{subscriptionIs(Incomplete)}, start, StatusPending, ReasonProvisional, end},
		{"paused", []Object{subscriptionIs(Paused), paidFirst}, start, StatusPaused, ReasonPaused, start},
		{"canceled", []Object{subscriptionIs(Canceled, endedAt(start+day)), paidNow}, start + day, StatusExpired, ReasonExpired, start + day},
		{"refunded", []Object{subscriptionIs(Active), paidNow, charge("ch_1", "pi_1", "", 999)}, start, StatusRefunded, ReasonRefunded, end},
		{"disputed", []Object{subscriptionIs(Active), paidNow, dispute("needs_response", start+day)}, start, StatusRevoked, ReasonDisputed, end},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			v := viewOf(tt.now, foldOf(tt.objects...))
			if len(v.Entitlements) != 1 {
				t.Fatalf("View = %+v, want one entitlement", v.Entitlements)
			}
			if e := v.Entitlements[0]; e.Status != tt.status || e.Reason != tt.reason || e.ExpiresAt != tt.expires {
				t.Errorf("View = %s because %s, paid until %d, want %s because %s, %d", e.Status, e.Reason, e.ExpiresAt, tt.status, tt.reason, tt.expires)
			}
		})
	}
}

func TestTerms(t *testing.T) {
	e := Evidence{}.Add(subscriptionIs(Active), paidBy(invoice("in_1", InvoicePaid, line(start-month, start, 999)), "ch_1", "pi_1"),
		invoice("in_2", InvoicePaid, line(start, end, 999)), charge("ch_1", "pi_1", "", 999))
	terms := Terms(e, DefaultPolicy)
	if len(terms) != 2 {
		t.Fatalf("Terms = %+v, want 2", terms)
	}
	if old := terms[0]; old.ID != termID("si_1", start-month) || old.SupersededAt != start || old.RevokedAt != start+hour {
		t.Errorf("the first term = %+v, want superseded at %d and revoked at %d", old, start, start+hour)
	}
	if now := terms[1]; now.ID != termID("si_1", start) || now.SupersededAt != 0 || now.RevokedAt != 0 || now.EndsAt != end {
		t.Errorf("the second term = %+v, want the present one", now)
	}
}

// What gives no access must never be able to look like access that never ends, whatever numbers a provider sends.
func TestFoldOfHostileNumbersIsSafe(t *testing.T) {
	numbers := rapid.OneOf(rapid.Int64(), rapid.SampledFrom([]int64{math.MinInt64, -1, 0, 1, start, end, maxTime, math.MaxInt64}))
	statuses := rapid.SampledFrom([]SubscriptionStatus{Incomplete, IncompleteExpired, Trialing, Active, PastDue, Unpaid, Paused, Canceled, "?"})
	rapid.Check(t, func(t *rapid.T) {
		n := func(label string) int64 { return numbers.Draw(t, label) }
		o := subscriptionIs(statuses.Draw(t, "status"), period(n("from"), n("to")), cancelAt(n("cancel")), endedAt(n("ended")))
		o.At = n("at")
		o.Subscription.TrialStart, o.Subscription.TrialEnd = n("trial start"), n("trial end")
		o.Subscription.Items[0].Quantity = n("quantity")
		i := paidBy(invoice("in_2", rapid.SampledFrom([]InvoiceStatus{InvoicePaid, InvoiceVoid}).Draw(t, "invoice"), line(n("line from"), n("line to"), n("amount")), line(n("line from"), n("line to"), n("amount"))), "ch_1", "pi_1")
		i.Invoice.AmountPaid, i.Invoice.PaidAt, i.At = n("paid"), n("paid at"), n("at")
		c := charge("ch_1", "pi_1", "in_2", n("refunded"))
		c.At, c.Charge.Amount = n("at"), n("amount")
		r := refund("re_1", rapid.SampledFrom([]RefundStatus{RefundSucceeded, RefundFailed}).Draw(t, "refund"), "ch_1", "pi_1", n("amount"), n("created"))
		d := dispute(rapid.SampledFrom([]string{"won", "lost", "needs_response"}).Draw(t, "dispute"), 0)
		d.At, d.Dispute.CreatedAt = n("at"), n("created")
		k := checkout(rapid.SampledFrom([]string{CheckoutPaid, CheckoutUnpaid, CheckoutFailed, "?"}).Draw(t, "checkout"))
		k.At, k.Checkout.CreatedAt, k.Checkout.AmountTotal = n("at"), n("created"), n("total")
		s := sale("price_coins_100")
		s.Sale.Lines[0].Quantity = n("quantity")

		p := Fold(Evidence{}.Add(o, i, c, r, d, k, s), Policy{BillingGrace: map[Provider]int64{Stripe: n("grace")}})
		for _, item := range p.Items {
			if item.AccessUntil < 0 || item.AccessUntil > maxTime || item.Term.EndsAt < 0 || item.Term.EndsAt > maxTime {
				t.Fatalf("a time that cannot be written: %+v", item)
			}
			if never := item.AccessUntil == 0; never && (item.State != Live || item.Recurring) {
				t.Fatalf("access without an end: %+v", item)
			}
			if item.Recurring && item.Term.EndsAt == 0 {
				t.Fatalf("a subscription's term without an end: %+v", item)
			}
		}
		account := Account{ID: "acc_1", Purchases: []Purchase{p}}
		_, index := oneSubscription()
		now := rapid.Int64Range(0, maxTime).Draw(t, "now")
		v := account.View(index, now, nil)
		v.AppendJSON(nil, Sandbox, min(now, maxTime-day)+day)
		for _, e := range v.Entitlements {
			if e.Status.Active() && e.AccessUntil != 0 && now >= e.AccessUntil {
				t.Fatalf("active after its end: %+v at %d", e, now)
			}
		}
		for _, b := range v.Balances {
			if b.Amount < 0 || b.Amount > maxBalance {
				t.Fatalf("a balance that cannot be: %+v", b)
			}
		}
	})
}
