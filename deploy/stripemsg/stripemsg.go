// Package stripemsg makes webhook messages as Stripe sends them, in both shapes that are in the field, and signs them: for the demo,
// the end-to-end tests and the benchmarks. Start at NewSubscription.
package stripemsg

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"time"
)

// Shape is the API version that an account's messages are written in.
type Shape string

// The shapes. They differ in where a period's end stands and in how a payment is tied to its invoice.
const (
	Classic Shape = "2023-10-16"        // current_period_end on the subscription, payment_intent on the invoice
	Basil   Shape = "2025-09-30.clover" // both moved: to the items, and to a message of its own
)

// Object is a JSON object.
type Object = map[string]any

// ID returns a random id with a prefix of Stripe's, such as "sub".
func ID(prefix string) string {
	var b [8]byte
	rand.Read(b[:])
	return prefix + "_" + hex.EncodeToString(b[:])
}

// Subscription is one subscription with its latest invoice. All its messages follow from it; change the fields for the next one.
type Subscription struct {
	Shape    Shape
	ID       string
	Customer string
	Account  string // metadata.account_id; empty: none
	Price    string
	Status   string // Stripe's word
	Live     bool   // livemode: production

	Start, End        time.Time // the present period
	TrialEnd          time.Time // zero: no trial
	CancelAtPeriodEnd bool
	EndedAt           time.Time // zero: goes on

	Invoice       string
	PaymentIntent string
	Charge        string
	Cents         int64
}

// NewSubscription returns an active monthly subscription to "pro" that starts at start.
func NewSubscription(shape Shape, account string, start time.Time) *Subscription {
	return &Subscription{
		Shape: shape, ID: ID("sub"), Customer: ID("cus"), Account: account, Price: "price_pro_monthly", Status: "active",
		Start: start, End: start.Add(30 * 24 * time.Hour),
		Invoice: ID("in"), PaymentIntent: ID("pi"), Charge: ID("ch"), Cents: 999,
	}
}

// Renewed returns the subscription in its next period, with an invoice and a payment of its own.
func (s *Subscription) Renewed() *Subscription {
	next := *s
	next.Start, next.End = s.End, s.End.Add(s.End.Sub(s.Start))
	next.Invoice, next.PaymentIntent, next.Charge = ID("in"), ID("pi"), ID("ch")
	return &next
}

// Event wraps about as the message of the given type, created at the given time, under a new event id.
func (s *Subscription) Event(kind string, at time.Time, about Object) Object {
	return Object{
		"id": ID("evt"), "object": "event", "api_version": string(s.Shape), "created": at.Unix(), "type": kind, "livemode": s.Live,
		"pending_webhooks": 1, "request": Object{"id": nil, "idempotency_key": nil}, "data": Object{"object": about},
	}
}

func list(items ...Object) Object { return Object{"object": "list", "data": items, "has_more": false} }

func (s *Subscription) item() string { return "si_" + s.ID[len("sub_"):] }

func (s *Subscription) metadata() Object {
	if s.Account == "" {
		return Object{}
	}
	return Object{"account_id": s.Account}
}

func (s *Subscription) price() Object {
	return Object{
		"id": s.Price, "object": "price", "product": "prod_pro", "type": "recurring", "unit_amount": s.Cents, "currency": "eur",
		"recurring": Object{"interval": "month", "interval_count": 1},
	}
}

func seconds(t time.Time) any {
	if t.IsZero() {
		return nil
	}
	return t.Unix()
}

// Updated is a message of the type customer.subscription.<what>: created, updated, deleted.
func (s *Subscription) Updated(what string, at time.Time) Object {
	item := Object{"id": s.item(), "object": "subscription_item", "price": s.price(), "quantity": 1, "subscription": s.ID}
	about := Object{
		"id": s.ID, "object": "subscription", "customer": s.Customer, "status": s.Status, "created": s.Start.Unix(), "start_date": s.Start.Unix(),
		"cancel_at_period_end": s.CancelAtPeriodEnd, "cancel_at": nil, "ended_at": seconds(s.EndedAt), "trial_start": nil, "trial_end": seconds(s.TrialEnd),
		"collection_method": "charge_automatically", "currency": "eur", "livemode": s.Live, "latest_invoice": s.Invoice, "pause_collection": nil,
		"metadata": s.metadata(), "items": list(item),
	}
	if !s.TrialEnd.IsZero() {
		about["trial_start"] = s.Start.Unix()
	}
	period := about
	if s.Shape == Basil {
		period = item
	}
	period["current_period_start"], period["current_period_end"] = s.Start.Unix(), s.End.Unix()
	return s.Event("customer.subscription."+what, at, about)
}

// InvoicePaid says that the present period is paid.
func (s *Subscription) InvoicePaid(at time.Time) Object {
	line := Object{
		"id": "il_" + s.Invoice[len("in_"):], "object": "line_item", "amount": s.Cents, "currency": "eur", "quantity": 1, "metadata": s.metadata(),
		"period": Object{"start": s.Start.Unix(), "end": s.End.Unix()},
	}
	about := Object{
		"id": s.Invoice, "object": "invoice", "customer": s.Customer, "status": "paid", "created": s.Start.Unix(), "livemode": s.Live, "metadata": Object{},
		"amount_due": s.Cents, "amount_paid": s.Cents, "total": s.Cents, "currency": "eur", "billing_reason": "subscription_cycle", "lines": list(line),
	}
	if s.Shape == Basil {
		line["parent"] = Object{"type": "subscription_item_details", "subscription_item_details": Object{"subscription": s.ID, "subscription_item": s.item(), "proration": false}}
		line["pricing"] = Object{"type": "price_details", "price_details": Object{"price": s.Price, "product": "prod_pro"}}
		about["parent"] = Object{"type": "subscription_details", "subscription_details": Object{"subscription": s.ID, "metadata": s.metadata()}}
	} else {
		line["type"], line["subscription"], line["subscription_item"], line["price"], line["proration"] = "subscription", s.ID, s.item(), s.price(), false
		about["paid"], about["subscription"], about["charge"], about["payment_intent"] = true, s.ID, s.Charge, s.PaymentIntent
		about["subscription_details"] = Object{"metadata": s.metadata()}
	}
	return s.Event("invoice.paid", at, about)
}

// InvoicePayment ties the payment to its invoice. Only the Basil shape has this message, and there nothing else does.
func (s *Subscription) InvoicePayment(at time.Time) Object {
	return s.Event("invoice_payment.paid", at, Object{
		"id": "inpay_" + s.Invoice[len("in_"):], "object": "invoice_payment", "invoice": s.Invoice, "amount_paid": s.Cents, "amount_requested": s.Cents,
		"currency": "eur", "status": "paid", "is_default": true, "created": s.Start.Unix(), "livemode": s.Live,
		"payment":            Object{"type": "payment_intent", "payment_intent": s.PaymentIntent},
		"status_transitions": Object{"paid_at": at.Unix(), "canceled_at": nil},
	})
}

// ChargeRefunded says that cents of the present period's payment went back; all of them is a full refund.
func (s *Subscription) ChargeRefunded(at time.Time, cents int64) Object {
	about := Object{
		"id": s.Charge, "object": "charge", "customer": s.Customer, "payment_intent": s.PaymentIntent, "amount": s.Cents, "amount_captured": s.Cents,
		"amount_refunded": cents, "refunded": cents == s.Cents, "currency": "eur", "paid": true, "status": "succeeded", "disputed": false,
		"created": s.Start.Unix(), "livemode": s.Live, "metadata": Object{},
	}
	if s.Shape == Classic {
		about["invoice"] = s.Invoice
	}
	return s.Event("charge.refunded", at, about)
}

// Bought is every message of one paid period.
func (s *Subscription) Bought(at time.Time) []Object {
	messages := []Object{s.Updated("created", at), s.InvoicePaid(at)}
	if s.Shape == Basil {
		messages = append(messages, s.InvoicePayment(at))
	}
	return messages
}

// Encode returns the message's bytes. What Object holds here always encodes.
func Encode(message Object) []byte {
	b, err := json.Marshal(message)
	if err != nil {
		panic(err)
	}
	return b
}

// Sign returns the header Stripe-Signature for body. Source: docs.stripe.com/webhooks#verify-manually.
func Sign(secret string, body []byte, at time.Time) string {
	mac := hmac.New(sha256.New, []byte(secret))
	fmt.Fprintf(mac, "%d.", at.Unix())
	mac.Write(body)
	return fmt.Sprintf("t=%d,v1=%s", at.Unix(), hex.EncodeToString(mac.Sum(nil)))
}
