package provider

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/latchkey/latchkey/pkg/entitlement"
)

// This file shows I20 from Stripe's bytes on: any order, repeat and portion of a history, in either API shape, gives one purchase.

// shape is an API version's way of writing the same facts.
type shape bool

const (
	classic shape = false // 2023-10-16
	basil   shape = true  // 2025-03-31 and later
)

const (
	began  = int64(1_790_000_000)
	period = int64(30 * 24 * 3600)
)

func marshal(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return string(b)
}

func clone(m map[string]any) map[string]any { return maps.Clone(m) }

// message is an event that was created a number of seconds after the subscription began.
func message(kind string, after int64, o map[string]any) string {
	body := marshal(map[string]any{"object": "event", "created": began + after, "type": kind, "livemode": false, "pending_webhooks": 1,
		"request": map[string]any{"id": nil}, "data": map[string]any{"object": o}})
	return fmt.Sprintf(`{"id":"evt_%016x",%s`, rand.NewPCG(uint64(len(body)), uint64(after)).Uint64(), body[1:])
}

// subscription is its state in the n-th period.
func (s shape) subscription(status string, n int64) map[string]any {
	from, to := began+n*period, began+(n+1)*period
	item := map[string]any{"id": "si_1", "quantity": 1, "price": map[string]any{"id": "price_pro_monthly", "product": "prod_pro", "currency": "usd", "unit_amount": 999,
		"recurring": map[string]any{"interval": "month", "interval_count": 1}}}
	o := map[string]any{"id": "sub_1", "object": "subscription", "customer": "cus_1", "status": status, "metadata": map[string]any{"account_id": "acc_1"}, "start_date": began,
		"latest_invoice": fmt.Sprintf("in_%d", n), "items": map[string]any{"data": []any{item}, "has_more": false}}
	period := o
	if s == basil {
		period = item
	}
	period["current_period_start"], period["current_period_end"] = from, to
	if status == "canceled" {
		o["ended_at"] = from + 1000
	}
	return o
}

// invoice is that of the n-th period. Only the classic shape can name its charge and payment intent.
func (s shape) invoice(id, status string, n int64, charge, intent string) map[string]any {
	line := map[string]any{"id": "il_" + id, "amount": 999, "quantity": 1, "period": map[string]any{"start": began + n*period, "end": began + (n+1)*period}}
	o := map[string]any{"id": id, "object": "invoice", "customer": "cus_1", "status": status, "amount_paid": 999, "currency": "usd", "created": began + n*period,
		"status_transitions": map[string]any{"paid_at": began + n*period + 100}, "lines": map[string]any{"data": []any{line}, "has_more": false}}
	metadata := map[string]any{"account_id": "acc_1"}
	if s == basil {
		line["parent"] = map[string]any{"type": "subscription_item_details", "subscription_item_details": map[string]any{"subscription": "sub_1", "subscription_item": "si_1"}}
		line["pricing"] = map[string]any{"price_details": map[string]any{"price": "price_pro_monthly", "product": "prod_pro"}}
		o["parent"] = map[string]any{"type": "subscription_details", "subscription_details": map[string]any{"subscription": "sub_1", "metadata": metadata}}
		return o
	}
	line["subscription"], line["subscription_item"] = "sub_1", "si_1"
	line["price"] = map[string]any{"id": "price_pro_monthly", "product": "prod_pro", "lookup_key": "only here"}
	o["subscription"], o["subscription_details"] = "sub_1", map[string]any{"metadata": metadata}
	if charge != "" {
		o["charge"], o["payment_intent"] = charge, intent
	}
	return o
}

func (s shape) charge(n, refunded int64) map[string]any {
	o := map[string]any{"id": fmt.Sprintf("ch_%d", n), "object": "charge", "customer": "cus_1", "payment_intent": fmt.Sprintf("pi_%d", n), "amount": 999, "amount_refunded": refunded, "refunded": refunded == 999}
	if s == classic {
		o["invoice"] = fmt.Sprintf("in_%d", n)
	}
	return o
}

func invoicePayment(n int64) map[string]any {
	return map[string]any{"id": fmt.Sprintf("inpay_%d", n), "object": "invoice_payment", "invoice": fmt.Sprintf("in_%d", n), "status": "paid", "amount_paid": 999,
		"payment": map[string]any{"type": "payment_intent", "payment_intent": fmt.Sprintf("pi_%d", n)}}
}

func refund(id, status string, amount int64) map[string]any {
	return map[string]any{"id": id, "object": "refund", "charge": "ch_0", "payment_intent": "pi_0", "status": status, "amount": amount, "created": began + 500}
}

func dispute(status string) map[string]any {
	return map[string]any{"id": "dp_1", "object": "dispute", "charge": "ch_0", "payment_intent": "pi_0", "status": status, "amount": 999, "created": began + 600}
}

// paid is the pair of messages that proves a payment of the n-th period, in either shape.
func (s shape) paid(n int64) []string {
	out := []string{message("invoice.paid", n*period+100, s.invoice(fmt.Sprintf("in_%d", n), "paid", n, fmt.Sprintf("ch_%d", n), fmt.Sprintf("pi_%d", n)))}
	if s == basil {
		out = append(out, message("invoice_payment.paid", n*period+100, invoicePayment(n)))
	}
	return out
}

// life is a whole history with every kind of message in it.
func life(s shape) []string {
	sub := func(kind, status string, after, n int64) string {
		return message("customer.subscription."+kind, after, s.subscription(status, n))
	}
	out := []string{
		sub("created", "incomplete", 0, 0),
		sub("updated", "active", 0, 0),
		message("charge.refunded", 500, s.charge(0, 300)),
		message("charge.refunded", 900, s.charge(0, 999)),
		message("refund.created", 500, refund("re_1", "pending", 300)),
		message("refund.failed", 950, refund("re_1", "failed", 300)),
		message("charge.dispute.created", 600, dispute("needs_response")),
		message("charge.dispute.closed", 700, dispute("won")),
		sub("updated", "active", period, 1),
		message("invoice.payment_failed", 2*period, s.invoice("in_2", "open", 2, "", "")),
		sub("updated", "past_due", 2*period, 2),
		message("invoice.voided", 2*period+50, s.invoice("in_2", "void", 2, "", "")),
		sub("deleted", "canceled", 2*period+60, 2),
	}
	return slices.Concat(out, s.paid(0), s.paid(1))
}

func objectsOf(t testing.TB, bodies []string) [][]entitlement.Object {
	t.Helper()
	var out [][]entitlement.Object
	for _, body := range bodies {
		ev := parse(t, body)
		if ev.Kind != entitlement.Proof {
			t.Fatalf("%s proves nothing: %s", body, ev.Raw)
		}
		out = append(out, ev.Objects)
	}
	return out
}

func evidenceOf(events [][]entitlement.Object) entitlement.Evidence {
	var e entitlement.Evidence
	for _, objects := range events {
		e = e.Add(objects...)
	}
	return e
}

func canonical(e entitlement.Evidence) []byte {
	return append(entitlement.Encode(e), entitlement.Encode(entitlement.Fold(e, entitlement.DefaultPolicy))...)
}

// Every order of six messages, the hardest ones: all of one second or about one payment.
func TestEveryOrderOfSixMessagesIsOnePurchase(t *testing.T) {
	for _, s := range []shape{classic, basil} {
		t.Run(fmt.Sprintf("basil=%t", s), func(t *testing.T) {
			bodies := []string{
				message("customer.subscription.created", 0, s.subscription("incomplete", 0)),
				message("customer.subscription.updated", 0, s.subscription("active", 0)),
				message("customer.subscription.updated", 0, s.subscription("active", 1)), // the same second and rank: the hash decides
				message("refund.created", 500, refund("re_1", "succeeded", 999)),
				message("charge.dispute.closed", 700, dispute("won")),
				s.paid(0)[0],
			}
			events := objectsOf(t, bodies)
			want := canonical(evidenceOf(events))
			orders := 0
			permute(len(events), func(order []int) {
				orders++
				var e entitlement.Evidence
				for _, i := range order {
					e = e.Add(events[i]...)
				}
				if got := canonical(e); !bytes.Equal(got, want) {
					t.Fatalf("the order %v gives\n%s\nwant\n%s", order, show(e), show(evidenceOf(events)))
				}
			})
			if orders != 720 {
				t.Errorf("%d orders, want 720", orders)
			}
		})
	}
}

// permute visits every order of n things.
func permute(n int, visit func([]int)) {
	order := make([]int, n)
	for i := range order {
		order[i] = i
	}
	var choose func(k int)
	choose = func(k int) {
		if k == n {
			visit(order)
			return
		}
		for i := k; i < n; i++ {
			order[k], order[i] = order[i], order[k]
			choose(k + 1)
			order[k], order[i] = order[i], order[k]
		}
	}
	choose(0)
}

// drawHistory is a random history: any statuses in any periods at any times, many of them of one second.
func drawHistory(t *rapid.T) (bodies func(shape) []string) {
	type step struct {
		kind, status string
		n, after     int64
	}
	steps := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) step {
		s := step{kind: rapid.SampledFrom([]string{"sub", "sub", "invoice", "paid", "charge", "refund", "dispute"}).Draw(t, "kind"), n: rapid.Int64Range(0, 2).Draw(t, "period")}
		s.after = s.n*period + rapid.SampledFrom([]int64{0, 0, 1, 1000}).Draw(t, "after")
		switch s.kind {
		case "sub":
			s.status = rapid.SampledFrom([]string{"incomplete", "trialing", "active", "past_due", "unpaid", "paused", "canceled", "incomplete_expired"}).Draw(t, "status")
		case "invoice":
			s.status = rapid.SampledFrom([]string{"open", "void", "uncollectible"}).Draw(t, "status")
		case "refund":
			s.status = rapid.SampledFrom([]string{"pending", "succeeded", "failed"}).Draw(t, "status")
		case "dispute":
			s.status = rapid.SampledFrom([]string{"needs_response", "lost", "won"}).Draw(t, "status")
		}
		return s
	}), 1, 12).Draw(t, "steps")
	return func(s shape) []string {
		out := []string{message("customer.subscription.created", 0, s.subscription("incomplete", 0))}
		for _, step := range steps {
			switch step.kind {
			case "sub":
				out = append(out, message("customer.subscription.updated", step.after, s.subscription(step.status, step.n)))
			case "invoice":
				out = append(out, message("invoice.updated", step.after, s.invoice(fmt.Sprintf("in_%d", step.n), step.status, step.n, "", "")))
			case "paid":
				out = append(out, s.paid(step.n)...)
			case "charge":
				out = append(out, message("charge.refunded", step.after, s.charge(step.n, 333*(1+step.n))))
			case "refund":
				out = append(out, message("refund.updated", step.after, refund("re_1", step.status, 999)))
			case "dispute":
				out = append(out, message("charge.dispute.updated", step.after, dispute(step.status)))
			}
		}
		return out
	}
}

func TestAnyOrderRepeatAndPortionIsOnePurchase(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		bodies := drawHistory(rt)
		for _, s := range []shape{classic, basil} {
			events := objectsOf(t, bodies(s))
			want := canonical(evidenceOf(events))
			random := rand.New(rand.NewPCG(rapid.Uint64().Draw(rt, "seed"), 7))
			mixed := slices.Concat(events, events[:random.IntN(len(events)+1)])
			random.Shuffle(len(mixed), func(i, j int) { mixed[i], mixed[j] = mixed[j], mixed[i] })
			cut := random.IntN(len(mixed) + 1)
			// Two parts that did not know of each other, until a link joined them.
			if got := canonical(entitlement.Merge(evidenceOf(mixed[cut:]), evidenceOf(mixed[:cut]))); !bytes.Equal(got, want) {
				rt.Fatalf("another order of %v gives\n%s\nwant\n%s", bodies(s), show(evidenceOf(mixed)), show(evidenceOf(events)))
			}
		}
	})
}

// The two shapes tie money to periods by different fields; what comes out must be the same purchase.
func TestBothShapesOfAHistoryAreOnePurchase(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		bodies := drawHistory(rt)
		// In basil only the invoice payment ties a charge to its invoice, in the classic shape the charge does so itself.
		ties := func(s shape) (out []string) {
			for n := range int64(3) {
				if s == basil {
					out = append(out, message("invoice_payment.paid", n*period+100, invoicePayment(n)))
				}
			}
			return append(out, bodies(s)...)
		}
		a := entitlement.Fold(evidenceOf(objectsOf(t, ties(classic))), entitlement.DefaultPolicy)
		b := entitlement.Fold(evidenceOf(objectsOf(t, ties(basil))), entitlement.DefaultPolicy)
		a.Doubt, b.Doubt = false, false // a tie is decided by the hash of the state, of which one shape shows more
		if !bytes.Equal(entitlement.Encode(a), entitlement.Encode(b)) {
			rt.Fatalf("2023-10-16 gives\n%s\nbasil gives\n%s\nof %v", show(a), show(b), bodies(classic))
		}
	})
}
