package provider

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/tidwall/gjson"

	"github.com/latchkey/latchkey/pkg/entitlement"
)

// The shapes below are the allow-list: they name every field that is read or stored, of API 2023-10-16 and of basil (2025-03-31) and later
// alike. What moved between the two is there under both names.
var (
	stripeHeadOf = fields(map[string]keep{"id": ident, "object": word, "type": word, "created": number, "livemode": flag, "api_version": ident, "account": ident})

	stripeMetadata = fields(map[string]keep{"account_id": ident})

	stripePrice = map[string]keep{
		"id": ident, "product": ref, "lookup_key": ident, "currency": word, "unit_amount": number, "type": word,
		"recurring": fields(map[string]keep{"interval": word, "interval_count": number}),
	}

	stripeSubscription = map[string]keep{
		"id": ident, "object": word, "customer": ref, "status": word, "livemode": flag, "metadata": stripeMetadata,
		"current_period_start": number, "current_period_end": number, // before basil
		"cancel_at_period_end": flag, "cancel_at": number, "canceled_at": number, "ended_at": number,
		"trial_start": number, "trial_end": number, "start_date": number, "created": number,
		"collection_method": word, "latest_invoice": ref, "test_clock": ref,
		"pause_collection":     fields(map[string]keep{"behavior": word, "resumes_at": number}),
		"cancellation_details": fields(map[string]keep{"reason": word}),
		"billing_mode":         fields(map[string]keep{"type": word}),
		"items": page(map[string]keep{
			"id": ident, "quantity": number, "price": named(stripePrice),
			"current_period_start": number, "current_period_end": number, // basil and later
		}),
	}

	stripeInvoicePayment = map[string]keep{
		"id": ident, "object": word, "invoice": ref, "amount_paid": number, "amount_requested": number, "currency": word, "status": word,
		"created": number, "livemode": flag,
		"payment": fields(map[string]keep{"type": word, "payment_intent": ref, "charge": ref}),
	}

	stripeInvoice = map[string]keep{
		"id": ident, "object": word, "customer": ref, "status": word, "livemode": flag, "billing_reason": word, "currency": word,
		"amount_due": number, "amount_paid": number, "amount_remaining": number, "attempt_count": number, "next_payment_attempt": number, "created": number,
		"status_transitions": fields(map[string]keep{"paid_at": number}),
		"paid":               flag, "subscription": ref, "charge": ref, "payment_intent": ref, // before basil
		"subscription_details": fields(map[string]keep{"metadata": stripeMetadata}), // before basil
		"parent": fields(map[string]keep{"type": word, "subscription_details": fields(map[string]keep{ // basil and later
			"subscription": ref, "metadata": stripeMetadata,
		})}),
		"payments": page(stripeInvoicePayment), // basil and later, where expanded
		"lines": page(map[string]keep{
			"id": ident, "amount": number, "quantity": number, "period": fields(map[string]keep{"start": number, "end": number}),
			"subscription": ref, "subscription_item": ref, "proration": flag, "price": named(stripePrice), // before basil
			"parent": fields(map[string]keep{"type": word, // basil and later
				"subscription_item_details": fields(map[string]keep{"subscription": ref, "subscription_item": ref, "proration": flag}),
				"invoice_item_details":      fields(map[string]keep{"subscription": ref, "proration": flag}),
			}),
			"pricing": fields(map[string]keep{"price_details": fields(map[string]keep{"price": ref, "product": ref})}), // basil and later
		}),
	}

	stripeCharge = map[string]keep{
		"id": ident, "object": word, "customer": ref, "payment_intent": ref, "livemode": flag, "status": word, "currency": word, "created": number,
		"amount": number, "amount_captured": number, "amount_refunded": number, "refunded": flag, "disputed": flag,
		"invoice": ref, // before basil
	}

	stripeRefund = map[string]keep{
		"id": ident, "object": word, "charge": ref, "payment_intent": ref, "status": word, "amount": number, "currency": word, "created": number,
		"reason": word, "failure_reason": word,
	}

	stripeDispute = map[string]keep{
		"id": ident, "object": word, "charge": ref, "payment_intent": ref, "status": word, "amount": number, "currency": word, "created": number,
		"reason": word, "livemode": flag,
	}

	stripeCheckout = map[string]keep{
		"id": ident, "object": word, "customer": ref, "mode": word, "status": word, "payment_status": word, "livemode": flag, "metadata": stripeMetadata,
		"client_reference_id": accountID, "subscription": ref, "payment_intent": ref, "invoice": ref,
		"amount_total": number, "currency": word, "created": number, "expires_at": number,
		"line_items": page(map[string]keep{"id": ident, "quantity": number, "amount_total": number, "price": named(stripePrice)}),
	}

	stripeSchedule = map[string]keep{
		"id": ident, "object": word, "status": word, "livemode": flag, "customer": ref, "subscription": ref, "released_subscription": ref,
	}

	// stripeCarrier is what is kept of an object that tells with which card a customer pays: see Stripe.Card. Of the card itself nothing is.
	stripeCarrier = map[string]keep{"id": ident, "object": word, "livemode": flag, "customer": ref, "type": word, "status": word}

	// stripeUnhandled is what is kept of the object of a type that we do not act on.
	stripeUnhandled = map[string]keep{"id": ident, "object": word, "livemode": flag}
)

// accountID keeps an account id of ours, where merchants may also put an e-mail address or a number of their own.
func accountID(v gjson.Result) any {
	const prefix, ulid = "acc_", 26
	if strings.HasPrefix(v.Str, prefix) && len(v.Str) == len(prefix)+ulid {
		return ident(v)
	}
	return nil
}

// stripeReader turns the object of an event into what it proves.
type stripeReader func(m *stripeMessage, o object) error

// stripeType says how events of a type are read.
type stripeType struct {
	object string // that the event must carry
	shape  map[string]keep
	read   stripeReader
}

var (
	subscriptionEvent   = stripeType{"subscription", stripeSubscription, (*stripeMessage).subscription}
	invoiceEvent        = stripeType{"invoice", stripeInvoice, (*stripeMessage).invoice}
	invoicePaymentEvent = stripeType{"invoice_payment", stripeInvoicePayment, (*stripeMessage).invoicePayment}
	chargeEvent         = stripeType{"charge", stripeCharge, (*stripeMessage).charge}
	refundEvent         = stripeType{"refund", stripeRefund, (*stripeMessage).refund}
	disputeEvent        = stripeType{"dispute", stripeDispute, (*stripeMessage).dispute}
	checkoutEvent       = stripeType{"checkout.session", stripeCheckout, (*stripeMessage).checkout}
	paymentMethodEvent  = stripeType{"payment_method", stripeCarrier, (*stripeMessage).carrier}
	takenEvent          = stripeType{"charge", stripeCarrier, (*stripeMessage).carrier}
	scheduleEvent       = stripeType{"subscription_schedule", stripeSchedule, (*stripeMessage).schedule}
)

// stripeTypes are the types that prove something. Every customer.subscription and charge.dispute type does, known to us or not, and so does
// what we pulled.
var stripeTypes = map[string]stripeType{
	"invoice.paid":                             invoiceEvent,
	"invoice.payment_succeeded":                invoiceEvent,
	"invoice.payment_failed":                   invoiceEvent,
	"invoice.payment_action_required":          invoiceEvent,
	"invoice.voided":                           invoiceEvent,
	"invoice.marked_uncollectible":             invoiceEvent,
	"invoice.finalized":                        invoiceEvent,
	"invoice.updated":                          invoiceEvent,
	"invoice_payment.paid":                     invoicePaymentEvent,
	"charge.refunded":                          chargeEvent,
	"charge.refund.updated":                    refundEvent,
	"charge.succeeded":                         takenEvent,
	"payment_method.attached":                  paymentMethodEvent,
	"payment_method.automatically_updated":     paymentMethodEvent,
	"payment_method.updated":                   paymentMethodEvent,
	"refund.created":                           refundEvent,
	"refund.updated":                           refundEvent,
	"refund.failed":                            refundEvent,
	"subscription_schedule.aborted":            scheduleEvent,
	"subscription_schedule.canceled":           scheduleEvent,
	"subscription_schedule.completed":          scheduleEvent,
	"subscription_schedule.released":           scheduleEvent,
	"checkout.session.completed":               checkoutEvent,
	"checkout.session.async_payment_succeeded": checkoutEvent,
	"checkout.session.async_payment_failed":    checkoutEvent,
}

func stripeTypeOf(name string) (stripeType, bool) {
	switch {
	case strings.HasPrefix(name, "customer.subscription."):
		return subscriptionEvent, true
	case strings.HasPrefix(name, "charge.dispute."):
		return disputeEvent, true
	case name == pullPrefix+stripePaid:
		return stripePaidEvent, true
	case strings.HasPrefix(name, pullPrefix):
		t, ok := stripePulls[entitlement.ObjectKind(name[len(pullPrefix):])]
		return t.stripeType, ok
	}
	t, ok := stripeTypes[name]
	return t, ok
}

// stripeMessage collects what an event proves.
type stripeMessage struct {
	kind    string // the event's type
	at      int64  // its time, Unix nanoseconds: the version of every state in it
	objects []entitlement.Object
}

// What is wrong with a message of a type that we act on, so that it proves nothing.
var (
	errStripeEvent   = errors.New("no event: id, type or time is missing or wrong")
	errStripeObject  = errors.New("the object is missing, without an id, or of another type than the event")
	errStripeStatus  = errors.New("the object's status is missing or wrong")
	errStripeContent = errors.New("the object lacks what ties it to others")
)

func parseStripe(body []byte, env entitlement.Environment) (entitlement.Event, error) {
	m, err := decodeObject(body)
	if err != nil {
		return entitlement.Event{}, err
	}
	return readStripe(m, env)
}

// readStripe reads a decoded message.
func readStripe(m gjson.Result, env entitlement.Environment) (entitlement.Event, error) {
	head := stripeHeadOf(m).(object)
	ev := entitlement.Event{Provider: entitlement.Stripe, ID: head.text("id"), Type: head.text("type"), CreatedAt: head.int("created"), Environment: env}
	if ev.ID == "" || ev.Type == "" || ev.CreatedAt < 0 {
		return entitlement.Event{}, errStripeEvent
	}
	if live, ok := head["livemode"].(bool); ok {
		ev.Environment = entitlement.Sandbox
		if live {
			ev.Environment = entitlement.Production
		}
	}
	if head.text("object") == "v2.core.event" {
		return thinEvent(ev, head, m), nil
	}
	subject := member(member(m, "data"), "object")
	t, handled := stripeTypeOf(ev.Type)
	if !handled {
		if kept, ok := fields(stripeUnhandled)(subject).(object); ok {
			head["data"] = object{"object": kept}
		}
		ev.Kind, ev.Raw = entitlement.Unhandled, head.raw()
		return ev, nil
	}
	// Without a time no state can be told to be newer than another.
	if ev.CreatedAt == 0 || ev.CreatedAt > math.MaxInt64/int64(time.Second) {
		return entitlement.Event{}, errStripeEvent
	}
	o, ok := fields(t.shape)(subject).(object)
	if !ok || o.text("id") == "" || cmp.Or(o.text("object"), t.object) != t.object {
		return entitlement.Event{}, errStripeObject
	}
	message := stripeMessage{kind: ev.Type, at: ev.CreatedAt * int64(time.Second)}
	if err := t.read(&message, o); err != nil {
		return entitlement.Event{}, fmt.Errorf("%s: %w", t.object, err)
	}
	head["data"] = object{"object": o}
	ev.Objects, ev.Raw = message.objects, head.raw()
	return ev, nil
}

// stripeRelated are the objects that a thin event may name and that we can ask for, by Stripe's name of their type.
var stripeRelated = map[string]entitlement.ObjectKind{
	"subscription": entitlement.KindSubscription, "invoice": entitlement.KindInvoice, "invoice_payment": entitlement.KindPayment,
	"charge": entitlement.KindCharge, "refund": entitlement.KindRefund, "dispute": entitlement.KindDispute, "checkout.session": entitlement.KindCheckout,
}

// thinEvent is an event that names an object without its state. It proves no more than that there is a state to ask for.
func thinEvent(ev entitlement.Event, head object, m gjson.Result) entitlement.Event {
	related, _ := fields(map[string]keep{"id": ident, "type": word})(member(m, "related_object")).(object)
	if related != nil {
		head["related_object"] = related
	}
	var at time.Time
	if created := member(m, "created"); created.Type == gjson.String {
		if t, err := time.Parse(time.RFC3339, created.Str); err == nil && 1970 < t.Year() && t.Year() < 2200 { // what nanoseconds can hold
			at = t.UTC()
			ev.CreatedAt = at.Unix()
			head["created"] = at.Format(time.RFC3339Nano)
		}
	}
	kind, known := stripeRelated[related.text("type")]
	if !known || related.text("id") == "" || at.IsZero() {
		ev.Kind, ev.Raw = entitlement.Unhandled, head.raw()
		return ev
	}
	message := stripeMessage{kind: ev.Type, at: at.UnixNano()}
	message.add(entitlement.Object{Kind: entitlement.KindHint, ID: related.text("id"), Hint: &entitlement.Hint{Of: kind}})
	ev.Objects, ev.Raw = message.objects, head.raw()
	return ev
}

// schedule reads the end of a schedule. What it did to its subscription comes in a message of the subscription's own, perhaps before, perhaps
// never: it proves no more than that there is a state to ask for.
func (m *stripeMessage) schedule(o object) error {
	if id := cmp.Or(o.text("subscription"), o.text("released_subscription")); id != "" {
		m.add(entitlement.Object{Kind: entitlement.KindHint, ID: id, Hint: &entitlement.Hint{Of: entitlement.KindSubscription}})
	}
	return nil
}

// carrier reads an object that proves nothing of a purchase, and tells with which card a customer pays.
func (m *stripeMessage) carrier(object) error { return nil }

// add notes one proved state. The ids are the object's links: it and all of them belong to one purchase.
func (m *stripeMessage) add(o entitlement.Object, ids ...string) {
	o.At = m.at
	for _, id := range append(ids, o.ID) {
		if id != "" {
			o.Links = append(o.Links, entitlement.Link(string(entitlement.Stripe)+":"+id))
		}
	}
	slices.Sort(o.Links)
	o.Links = slices.Compact(o.Links)
	m.objects = append(m.objects, o)
}

func aliases(customer string) []entitlement.Alias {
	if customer == "" {
		return nil
	}
	return []entitlement.Alias{{Kind: entitlement.StripeCustomer, Value: customer}}
}

// Progress ranks: of two states of one second, which one comes later in the life of the object. Stripe's times have whole seconds, so this
// decides often: customer.subscription.created and .updated of one checkout carry the same time.
var (
	subscriptionRanks = map[entitlement.SubscriptionStatus]uint8{
		entitlement.Incomplete: 1, entitlement.Trialing: 2, entitlement.Active: 3, entitlement.PastDue: 4,
		entitlement.Unpaid: 5, entitlement.Paused: 6, entitlement.IncompleteExpired: 7, entitlement.Canceled: 8,
	}
	invoiceRanks = map[entitlement.InvoiceStatus]uint8{
		entitlement.InvoiceDraft: 1, entitlement.InvoiceOpen: 2, entitlement.InvoiceUncollectible: 3, entitlement.InvoicePaid: 4, entitlement.InvoiceVoid: 5,
	}
	paymentRanks = map[string]uint8{"open": 1, "canceled": 2, "paid": 3}
	refundRanks  = map[entitlement.RefundStatus]uint8{
		entitlement.RefundPending: 1, entitlement.RefundRequiresAction: 2, entitlement.RefundSucceeded: 3, entitlement.RefundCanceled: 4, entitlement.RefundFailed: 5,
	}
	disputeRanks = map[string]uint8{
		"warning_needs_response": 1, "warning_under_review": 2, "warning_closed": 3, "needs_response": 4, "under_review": 5, "lost": 6,
		"appeal_needs_response": 7, "appeal_under_review": 8, "won": 9, "prevented": 10,
	}
	// disputeClosed are the states that only an appeal leaves, of which a message tells.
	disputeClosed = map[string]bool{"lost": true, "won": true, "prevented": true}
	checkoutRanks = map[string]uint8{
		entitlement.CheckoutUnpaid: 1, entitlement.CheckoutFailed: 2, entitlement.CheckoutFree: 3, entitlement.CheckoutPaid: 4,
	}
)

// chargeRank grows with the share that was given back, which never shrinks but when a refund fails.
func chargeRank(c *entitlement.Charge) uint8 {
	if c.Refunded {
		return math.MaxUint8
	}
	if c.Amount <= 0 || c.AmountRefunded <= 0 {
		return 0
	}
	return uint8(1 + min(float64(c.AmountRefunded)/float64(c.Amount), 1)*(math.MaxUint8-2))
}

func (m *stripeMessage) subscription(o object) error {
	status := entitlement.SubscriptionStatus(o.text("status"))
	if status == "" {
		return errStripeStatus
	}
	rank, known := subscriptionRanks[status]
	items := o.list("items")
	partial := !known || items.Cut || len(items.Data) == 0
	s := &entitlement.Subscription{
		Status:            status,
		TrialStart:        when(o, "trial_start"),
		TrialEnd:          when(o, "trial_end"),
		CancelAt:          when(o, "cancel_at"),
		CancelAtPeriodEnd: o.is("cancel_at_period_end"),
		EndedAt:           when(o, "ended_at"),
		StartedAt:         cmp.Or(when(o, "start_date"), when(o, "created")),
		LatestInvoice:     o.text("latest_invoice"),
		CollectionPaused:  o["pause_collection"] != nil,
	}
	for _, i := range items.Data {
		item := entitlement.SubscriptionItem{
			ID:       i.text("id"),
			Sold:     stripeSold(i),
			StartsAt: cmp.Or(when(i, "current_period_start"), when(o, "current_period_start")),
			EndsAt:   cmp.Or(when(i, "current_period_end"), when(o, "current_period_end")),
		}
		if item.ID == "" || item.EndsAt == 0 {
			partial = true
		}
		if item.ID != "" {
			s.Items = append(s.Items, item)
		}
	}
	slices.SortStableFunc(s.Items, func(a, b entitlement.SubscriptionItem) int { return cmp.Compare(a.ID, b.ID) })
	m.add(entitlement.Object{
		Kind: entitlement.KindSubscription, ID: o.text("id"), Rank: rank, Partial: partial,
		Final:        status == entitlement.Canceled || status == entitlement.IncompleteExpired,
		Account:      entitlement.AccountID(o.in("metadata").text("account_id")),
		Aliases:      aliases(o.text("customer")),
		Subscription: s,
	}, s.LatestInvoice)
	return nil
}

// stripeSold reads what a subscription item or a checkout's line sold.
func stripeSold(o object) entitlement.Sold {
	price := o.in("price")
	sold := entitlement.Sold{Product: entitlement.ProductID(price.text("id")), Quantity: max(o.int("quantity"), 0)}
	for _, id := range []string{price.text("lookup_key"), price.text("product")} {
		if id != "" {
			sold.Also = append(sold.Also, entitlement.ProductID(id))
		}
	}
	if _, ok := price["unit_amount"]; ok && price.text("currency") != "" {
		sold.Price = &entitlement.Price{
			Amount:   price.int("unit_amount"),
			Currency: strings.ToUpper(price.text("currency")),
			Period:   stripePeriod(price.in("recurring")),
		}
	}
	return sold
}

// stripePeriod writes an interval as an ISO 8601 duration: every 3 months is P3M.
func stripePeriod(recurring object) string {
	unit := map[string]string{"day": "D", "week": "W", "month": "M", "year": "Y"}[recurring.text("interval")]
	if unit == "" {
		return ""
	}
	return fmt.Sprintf("P%d%s", max(recurring.int("interval_count"), 1), unit)
}

func (m *stripeMessage) invoice(o object) error {
	status := entitlement.InvoiceStatus(o.text("status"))
	if status == "" && o.is("paid") {
		status = entitlement.InvoicePaid
	}
	if status == "" {
		return errStripeStatus
	}
	rank, known := invoiceRanks[status]
	details := o.in("parent", "subscription_details")
	lines := o.list("lines")
	inv := &entitlement.Invoice{
		Status:        status,
		Subscription:  cmp.Or(details.text("subscription"), o.text("subscription")),
		PaymentIntent: o.text("payment_intent"),
		Charge:        o.text("charge"),
		AmountPaid:    max(o.int("amount_paid"), 0),
		Currency:      strings.ToUpper(o.text("currency")),
		CreatedAt:     when(o, "created"),
		PaidAt:        when(o.in("status_transitions"), "paid_at"),
	}
	for _, l := range lines.Data {
		line := stripeLine(l)
		inv.Lines = append(inv.Lines, line.InvoiceLine)
		inv.Subscription = cmp.Or(inv.Subscription, line.subscription)
	}
	slices.SortStableFunc(inv.Lines, func(a, b entitlement.InvoiceLine) int {
		return cmp.Or(cmp.Compare(a.ID, b.ID), cmp.Compare(a.Item, b.Item), cmp.Compare(a.StartsAt, b.StartsAt))
	})
	id := o.text("id")
	m.add(entitlement.Object{
		Kind: entitlement.KindInvoice, ID: id, Rank: rank, Partial: !known || lines.Cut,
		Final:   status == entitlement.InvoicePaid || status == entitlement.InvoiceVoid,
		Account: entitlement.AccountID(cmp.Or(details.in("metadata").text("account_id"), o.in("subscription_details", "metadata").text("account_id"))),
		Aliases: aliases(o.text("customer")),
		Invoice: inv,
	}, inv.Subscription, inv.PaymentIntent, inv.Charge)
	if _, expanded := o["payments"]; expanded {
		for _, p := range o.list("payments").Data {
			p["invoice"] = id
			if err := m.invoicePayment(p); err != nil {
				return err
			}
		}
	}
	return nil
}

type stripeInvoiceLine struct {
	entitlement.InvoiceLine
	subscription string
}

func stripeLine(l object) stripeInvoiceLine {
	item, invoiceItem := l.in("parent", "subscription_item_details"), l.in("parent", "invoice_item_details")
	details, price := l.in("pricing", "price_details"), l.in("price")
	line := entitlement.InvoiceLine{
		ID: l.text("id"),
		Sold: entitlement.Sold{
			Product:  entitlement.ProductID(cmp.Or(details.text("price"), price.text("id"))),
			Quantity: max(l.int("quantity"), 0),
		},
		Item:      cmp.Or(item.text("subscription_item"), l.text("subscription_item")),
		Amount:    l.int("amount"),
		StartsAt:  when(l.in("period"), "start"),
		EndsAt:    when(l.in("period"), "end"),
		Proration: item.is("proration") || invoiceItem.is("proration") || l.is("proration"),
	}
	// Not the lookup key: only one of the two shapes has it here.
	if product := cmp.Or(details.text("product"), price.text("product")); product != "" {
		line.Also = []entitlement.ProductID{entitlement.ProductID(product)}
	}
	return stripeInvoiceLine{line, cmp.Or(item.text("subscription"), invoiceItem.text("subscription"), l.text("subscription"))}
}

func (m *stripeMessage) invoicePayment(o object) error {
	p := &entitlement.Payment{
		Invoice:       o.text("invoice"),
		PaymentIntent: o.in("payment").text("payment_intent"),
		Charge:        o.in("payment").text("charge"),
		Status:        o.text("status"),
		AmountPaid:    max(o.int("amount_paid"), 0),
	}
	if o.text("id") == "" || p.Invoice == "" {
		return errStripeContent
	}
	m.add(entitlement.Object{Kind: entitlement.KindPayment, ID: o.text("id"), Rank: paymentRanks[p.Status], Payment: p},
		p.Invoice, p.PaymentIntent, p.Charge)
	return nil
}

func (m *stripeMessage) charge(o object) error {
	c := &entitlement.Charge{
		PaymentIntent:  o.text("payment_intent"),
		Invoice:        o.text("invoice"),
		Amount:         max(o.int("amount"), 0),
		AmountRefunded: max(o.int("amount_refunded"), 0),
		Refunded:       o.is("refunded"),
	}
	m.add(entitlement.Object{Kind: entitlement.KindCharge, ID: o.text("id"), Rank: chargeRank(c), Aliases: aliases(o.text("customer")), Charge: c},
		c.PaymentIntent, c.Invoice)
	return nil
}

func (m *stripeMessage) refund(o object) error {
	status := entitlement.RefundStatus(o.text("status"))
	if m.kind == "refund.failed" {
		status = cmp.Or(status, entitlement.RefundFailed)
	}
	if status == "" {
		return errStripeStatus
	}
	rank, known := refundRanks[status]
	r := &entitlement.Refund{
		Status:        status,
		Charge:        o.text("charge"),
		PaymentIntent: o.text("payment_intent"),
		Amount:        max(o.int("amount"), 0),
		CreatedAt:     when(o, "created"),
	}
	if r.Charge == "" && r.PaymentIntent == "" {
		return errStripeContent
	}
	m.add(entitlement.Object{
		Kind: entitlement.KindRefund, ID: o.text("id"), Rank: rank, Partial: !known,
		Final:  status == entitlement.RefundFailed || status == entitlement.RefundCanceled,
		Refund: r,
	}, r.Charge, r.PaymentIntent)
	return nil
}

func (m *stripeMessage) dispute(o object) error {
	d := &entitlement.Dispute{
		Status:        o.text("status"),
		Charge:        o.text("charge"),
		PaymentIntent: o.text("payment_intent"),
		Amount:        max(o.int("amount"), 0),
		CreatedAt:     when(o, "created"),
	}
	if d.Status == "" {
		return errStripeStatus
	}
	if d.Charge == "" && d.PaymentIntent == "" {
		return errStripeContent
	}
	rank, known := disputeRanks[d.Status]
	m.add(entitlement.Object{Kind: entitlement.KindDispute, ID: o.text("id"), Rank: rank, Partial: !known, Dispute: d}, d.Charge, d.PaymentIntent)
	return nil
}

func (m *stripeMessage) checkout(o object) error {
	c := &entitlement.Checkout{
		Mode:          o.text("mode"),
		Payment:       o.text("payment_status"),
		Subscription:  o.text("subscription"),
		PaymentIntent: o.text("payment_intent"),
		Invoice:       o.text("invoice"),
		AmountTotal:   max(o.int("amount_total"), 0),
		CreatedAt:     when(o, "created"),
	}
	if c.Mode == "" || c.Payment == "" {
		return errStripeStatus
	}
	if m.kind == "checkout.session.async_payment_failed" {
		c.Payment = entitlement.CheckoutFailed // the session itself goes on saying unpaid
	}
	rank, known := checkoutRanks[c.Payment]
	id := o.text("id")
	m.add(entitlement.Object{
		Kind: entitlement.KindCheckout, ID: id, Rank: rank, Partial: !known,
		Account:  entitlement.AccountID(cmp.Or(o.in("metadata").text("account_id"), o.text("client_reference_id"))),
		Aliases:  aliases(o.text("customer")),
		Checkout: c,
	}, c.Subscription, c.PaymentIntent, c.Invoice)
	if at := min(c.CreatedAt, m.at/int64(time.Second)); c.Subscription != "" && at > 0 {
		// The subscription's own message may come an hour later, or never: it is asked for, unless any state of it is known. All are newer than the session.
		m.add(entitlement.Object{Kind: entitlement.KindHint, ID: c.Subscription, Hint: &entitlement.Hint{Of: entitlement.KindSubscription}}, id)
		m.objects[len(m.objects)-1].At = at * int64(time.Second)
	}
	if _, expanded := o["line_items"]; !expanded || c.Mode != entitlement.CheckoutPayment {
		return nil
	}
	lines := o.list("line_items")
	sale := &entitlement.Sale{}
	for _, l := range lines.Data {
		sale.Lines = append(sale.Lines, entitlement.SaleLine{ID: l.text("id"), Sold: stripeSold(l)})
	}
	slices.SortStableFunc(sale.Lines, func(a, b entitlement.SaleLine) int {
		return cmp.Or(cmp.Compare(a.ID, b.ID), cmp.Compare(a.Product, b.Product))
	})
	complete := uint8(1)
	if lines.Cut {
		complete = 0
	}
	m.add(entitlement.Object{Kind: entitlement.KindSale, ID: id, Rank: complete, Partial: lines.Cut, Sale: sale})
	return nil
}

// when reads a time, Unix seconds. One before 1970 is none.
func when(o object, name string) int64 { return max(o.int(name), 0) }
