package provider

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/stripe/stripe-go/v76"
	"github.com/stripe/stripe-go/v76/form"
	"github.com/tidwall/gjson"

	"github.com/latchkey/latchkey/pkg/entitlement"
)

// What a payment bought: a refund and a dispute name their payment alone, and the messages that tie it to its invoice may never have come. Stripe has no one
// answer to that, so that several are put together into an object of ours.

// stripePaid is what such an object is called, and the type of the event after pullPrefix.
const stripePaid = "payment_uses"

// stripePaidEvent is a payment with the invoices that it paid, or the checkout session that it was for.
var stripePaidEvent = stripeType{stripePaid, map[string]keep{
	"id": ident, "object": word, "payment_intent": ident, "invoice": ident,
	"payments": page(stripeInvoicePayment), "sessions": page(stripePulls[entitlement.KindCheckout].shape),
}, (*stripeMessage).paid}

// isPayment reports whether an id is that of a payment rather than of the payment of an invoice: of a payment intent, or of a charge that has none.
func isPayment(id string) bool {
	prefix, _, _ := strings.Cut(id, "_")
	return prefix == "pi" || prefix == "ch" || prefix == "py"
}

// paid reads what a payment paid. That it was asked about is a state of its own, which nothing changes: whoever finds nothing else asks no more.
func (m *stripeMessage) paid(o object) error {
	id := o.text("id")
	p := &entitlement.Payment{Invoice: o.text("invoice"), PaymentIntent: o.text("payment_intent")}
	if strings.HasPrefix(id, "pi_") {
		p.PaymentIntent = id
	} else {
		p.Charge = id
	}
	m.add(entitlement.Object{Kind: entitlement.KindPayment, ID: id, Payment: p}, p.Invoice, p.PaymentIntent)
	for _, payment := range o.list("payments").Data {
		if err := m.invoicePayment(payment); err != nil {
			return err
		}
	}
	for _, session := range o.list("sessions").Data {
		if err := m.pulledCheckout(session); err != nil {
			return err
		}
	}
	return nil
}

// pullPaid asks what a payment paid: invoices, else the one-time purchase of a checkout session. A payment that Stripe does not know paid nothing.
func (a *StripeAPI) pullPaid(ctx context.Context, id string) (entitlement.Event, error) {
	left := a.now()
	found := []string{fmt.Sprintf(`"id":%q,"object":%q`, id, stripePaid)}
	intent, invoice := id, ""
	var head *stripeHead
	if !strings.HasPrefix(id, "pi_") {
		charge, answered, err := a.part(ctx, stripe.FormatURLPath("/v1/charges/%s", id), nil, stripeVersionBefore)
		if head = answered; err != nil {
			return entitlement.Event{}, err
		}
		for name, into := range map[string]*string{"payment_intent": &intent, "invoice": &invoice} {
			if *into, _ = ref(member(charge, name)).(string); *into != "" {
				found = append(found, fmt.Sprintf(`%q:%q`, name, *into))
			}
		}
	}
	if intent != "" && invoice == "" {
		payments := query("payment[type]", "payment_intent", "payment[payment_intent]", intent, "limit", strconv.Itoa(stripePageSize))
		list, answered, err := a.part(ctx, "/v1/invoice_payments", payments, stripeVersion)
		if head = answered; err != nil {
			return entitlement.Event{}, err
		}
		name := "payments"
		if len(member(list, "data").Array()) == 0 {
			sessions := query("payment_intent", intent, "limit", "1", "expand[]", "data.line_items", "expand[]", "data.payment_intent")
			if list, head, err = a.part(ctx, "/v1/checkout/sessions", sessions, stripeVersion); err != nil {
				return entitlement.Event{}, err
			}
			name = "sessions"
		}
		if list.Exists() {
			found = append(found, fmt.Sprintf(`%q:%s`, name, list.Raw))
		}
	}
	ev, err := readStripe(pulledMessage(fmt.Sprintf("%s:%d", id, left.UnixNano()), stripePaid, version(left, head.header), a.env, "{"+strings.Join(found, ",")+"}"), a.env)
	if err != nil {
		return entitlement.Event{}, &PullError{Reason: ErrAnswer, Status: head.status, Detail: err.Error()}
	}
	return ev, nil
}

// query is a question's parameters: names and values by turns.
func query(pairs ...string) *form.Values {
	q := &form.Values{}
	for i := 0; i < len(pairs); i += 2 {
		q.Add(pairs[i], pairs[i+1])
	}
	return q
}

// part asks for a part of an answer. What Stripe does not know is empty, and what is of the other mode is refused.
func (a *StripeAPI) part(ctx context.Context, path string, query *form.Values, version string) (answer gjson.Result, head *stripeHead, err error) {
	if err := a.limit.Wait(ctx); err != nil {
		return answer, nil, contextError(ctx, err)
	}
	answer, head, err = a.call(ctx, "GET", path, query, version)
	if errors.Is(err, ErrGone) {
		return gjson.Result{}, head, nil
	}
	if err != nil {
		return answer, head, err
	}
	objects := []gjson.Result{answer}
	if member(answer, "object").String() == "list" {
		objects = member(answer, "data").Array()
	}
	for _, o := range objects {
		kept, _ := fields(map[string]keep{"livemode": flag})(o).(object)
		if err := a.checkMode("", kept); err != nil {
			return answer, head, err
		}
	}
	return answer, head, nil
}
