package storesim

import (
	"cmp"
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"time"
)

// stripeVersion is the shape of the messages: periods on the items, payments of their own. Answers have it too.
const stripeVersion = "2025-09-30.clover"

// stripeKeepsEvents is for how long Stripe lists what it sent.
const stripeKeepsEvents = 30 * day

func unix(t time.Time) any {
	if t.IsZero() {
		return nil
	}
	return t.Unix()
}

// ref is what a store's id stands for.
type ref struct {
	p    *Purchase
	term int
}

// stripeID returns Stripe's id of something about a term of a purchase, or about all of it where term is negative.
func (s *Sim) stripeID(prefix string, p *Purchase, term int) string {
	return prefix + "_" + s.id(20, prefix, p.N, term)
}

func (s *Sim) stripeCustomer(p *Purchase) string { return "cus_" + s.id(14, "cus", p.Env, p.Owner) }

// stripeFind returns what an id was given for, whoever else tells of it.
func (s *Sim) stripeFind(env Environment, id string) (ref, bool) {
	prefix, _, _ := strings.Cut(id, "_")
	if prefix == "cs" {
		prefix = strings.Join(strings.SplitN(id, "_", 3)[:2], "_")
	}
	return s.index.find("stripe "+string(env)+" "+prefix, id, func(x ref) string {
		if x.p.Store != StripeStore || x.p.Env != env {
			return ""
		}
		return s.stripeID(prefix, x.p, x.term)
	})
}

func stripeList(url string, items ...object) object {
	if items == nil {
		items = []object{}
	}
	return object{"object": "list", "data": items, "has_more": false, "url": url}
}

func (s *Sim) stripePrice(p *Purchase, product Product) object {
	price := object{"id": product.ID, "object": "price", "active": true, "billing_scheme": "per_unit", "created": s.config.Start.Unix(), "currency": "eur", "livemode": !p.sandbox(),
		"metadata": object{}, "product": "prod_" + s.id(14, "prod", product.Entitlement, product.Kind), "type": "one_time", "unit_amount": product.Cents, "lookup_key": nil, "recurring": nil}
	if product.Kind == Recurring {
		interval, count := "month", product.Months
		if product.Months == 12 {
			interval, count = "year", 1
		}
		price["type"] = "recurring"
		price["recurring"] = object{"interval": interval, "interval_count": count, "usage_type": "licensed"}
	}
	return price
}

func (s *Sim) stripeStatus(p *Purchase) string {
	switch {
	case p.Phase == Pending:
		return "incomplete"
	case p.Phase == Retry:
		return "past_due"
	case p.Phase == Ended && p.EndReason == "unpaid":
		return "incomplete_expired"
	case p.Phase == Ended:
		return "canceled"
	case p.last().Trial:
		return "trialing"
	}
	return "active"
}

func (s *Sim) stripeMetadata(p *Purchase) object { return object{"account_id": p.Owner} }

func (s *Sim) stripeItem(p *Purchase) object {
	t := p.last()
	return object{"id": s.stripeID("si", p, -1), "object": "subscription_item", "created": p.StartedAt.Unix(), "current_period_start": t.StartsAt.Unix(), "current_period_end": t.EndsAt.Unix(),
		"discounts": []any{}, "metadata": object{}, "price": s.stripePrice(p, t.Product), "quantity": p.Quantity, "subscription": s.stripeID("sub", p, -1), "tax_rates": []any{}, "billing_thresholds": nil}
}

func (s *Sim) stripeSubscription(p *Purchase) object {
	o := object{"id": s.stripeID("sub", p, -1), "object": "subscription", "automatic_tax": object{"enabled": false, "disabled_reason": nil, "liability": nil}, "billing_cycle_anchor": p.StartedAt.Unix(),
		"billing_mode": object{"type": "flexible"}, "billing_schedules": []any{}, "cancel_at_period_end": !p.WillRenew && p.Phase != Ended, "cancel_at": nil, "canceled_at": unix(cmp.Or(p.TurnedOff, p.EndedAt)),
		"ended_at": unix(p.EndedAt), "collection_method": "charge_automatically", "created": p.StartedAt.Unix(), "start_date": p.StartedAt.Unix(), "currency": "eur", "customer": s.stripeCustomer(p),
		"discounts": []any{}, "invoice_settings": object{"account_tax_ids": nil, "issuer": object{"type": "self"}}, "items": stripeList("/v1/subscription_items?subscription="+s.stripeID("sub", p, -1), s.stripeItem(p)),
		"latest_invoice": s.stripeID("in", p, p.present()), "livemode": !p.sandbox(), "metadata": s.stripeMetadata(p), "pause_collection": nil, "status": s.stripeStatus(p), "test_clock": nil,
		"trial_start": nil, "trial_end": nil}
	if first := p.Terms[0]; first.Trial {
		o["trial_start"], o["trial_end"] = first.StartsAt.Unix(), first.EndsAt.Unix()
	}
	if !p.WillRenew && p.Phase != Ended {
		o["cancel_at"] = p.last().EndsAt.Unix()
	}
	return o
}

func (s *Sim) stripeInvoice(p *Purchase, term int) object {
	t := &p.Terms[term]
	status, paid, remaining := "paid", t.Cents, int64(0)
	switch {
	case !t.PaidAt.IsZero():
	case p.Phase == Ended && p.EndReason == "unpaid":
		status, paid = "void", 0
	case p.Phase == Active:
		status, paid, remaining = "draft", 0, t.Cents
	default:
		status, paid, remaining = "open", 0, t.Cents
	}
	id, sub := s.stripeID("in", p, term), s.stripeID("sub", p, -1)
	reason := "subscription_cycle"
	if term == 0 {
		reason = "subscription_create"
	} else if p.Terms[term-1].Upgraded {
		reason = "subscription_update"
	}
	line := object{"id": s.stripeID("il", p, term), "object": "line_item", "amount": t.Cents, "currency": "eur", "discountable": true, "discounts": []any{}, "invoice": id, "livemode": !p.sandbox(), "metadata": s.stripeMetadata(p),
		"period": object{"start": t.StartsAt.Unix(), "end": t.EndsAt.Unix()}, "subtotal": t.Cents, "quantity": p.Quantity,
		"parent":  object{"type": "subscription_item_details", "invoice_item_details": nil, "subscription_item_details": object{"subscription": sub, "subscription_item": s.stripeID("si", p, -1), "proration": false, "invoice_item": nil, "proration_details": nil}},
		"pricing": object{"type": "price_details", "unit_amount_decimal": nil, "price_details": object{"price": t.Product.ID, "product": s.stripePrice(p, t.Product)["product"]}}}
	attempts, next := t.Attempts, any(nil)
	if !t.PaidAt.IsZero() && t.Cents > 0 {
		attempts++
	}
	if status == "open" && p.Phase == Retry {
		next = p.FailedAt.Add(3 * day).Unix()
	}
	return object{"id": id, "object": "invoice", "amount_due": t.Cents, "amount_overpaid": 0, "amount_paid": paid, "amount_paid_off_stripe": 0, "amount_remaining": remaining, "amount_shipping": 0, "attempt_count": attempts,
		"attempted": attempts > 0, "auto_advance": remaining > 0, "automatic_tax": object{"enabled": false, "disabled_reason": nil, "liability": nil, "provider": nil, "status": nil}, "billing_reason": reason,
		"collection_method": "charge_automatically", "created": t.StartsAt.Unix(), "currency": "eur", "customer": s.stripeCustomer(p), "default_tax_rates": []any{}, "discounts": []any{}, "issuer": object{"type": "self"},
		"lines": stripeList("/v1/invoices/"+id+"/lines", line), "livemode": !p.sandbox(), "metadata": object{}, "next_payment_attempt": next,
		"parent":           object{"type": "subscription_details", "quote_details": nil, "subscription_details": object{"subscription": sub, "metadata": s.stripeMetadata(p)}},
		"payment_settings": object{"default_mandate": nil, "payment_method_options": nil, "payment_method_types": nil}, "period_start": t.StartsAt.Unix(), "period_end": t.StartsAt.Unix(),
		"post_payment_credit_notes_amount": 0, "pre_payment_credit_notes_amount": 0, "starting_balance": 0, "status": status,
		"status_transitions": object{"finalized_at": unix(t.PaidAt), "marked_uncollectible_at": nil, "paid_at": unix(t.PaidAt), "voided_at": nil}, "subtotal": t.Cents, "total": t.Cents}
}

func (s *Sim) stripePayment(p *Purchase, term int) object {
	t := &p.Terms[term]
	status := "open"
	if !t.PaidAt.IsZero() {
		status = "paid"
	}
	o := object{"id": s.stripeID("inpay", p, term), "object": "invoice_payment", "amount_paid": nil, "amount_requested": t.Cents, "created": t.StartsAt.Unix(), "currency": "eur", "invoice": s.stripeID("in", p, term), "is_default": true,
		"livemode": !p.sandbox(), "payment": object{"type": "payment_intent", "payment_intent": s.stripeID("pi", p, term)}, "status": status, "status_transitions": object{"canceled_at": nil, "paid_at": unix(t.PaidAt)}}
	if status == "paid" {
		o["amount_paid"] = t.Cents
	}
	return o
}

func (s *Sim) stripeCharge(p *Purchase, term int) object {
	t := &p.Terms[term]
	return object{"id": s.stripeID("ch", p, term), "object": "charge", "amount": t.Cents, "amount_captured": t.Cents, "amount_refunded": t.Refunded,
		"billing_details": object{"address": nil, "email": nil, "name": nil, "phone": nil, "tax_id": nil}, "captured": true, "created": cmp.Or(t.PaidAt, t.StartsAt).Unix(), "currency": "eur", "customer": s.stripeCustomer(p),
		"disputed": p.Disputes > 0 && (p.DisputedTerm == term || p.DisputedTerm < 0 && term == p.present()), "livemode": !p.sandbox(), "metadata": object{}, "paid": true, "payment_intent": s.stripeID("pi", p, term),
		"refunded": t.Refunded == t.Cents, "status": "succeeded"}
}

// stripeRefund is the newest refund of a term; reversed: its money came back.
func (s *Sim) stripeRefund(p *Purchase, term int, cents int64, reversed bool) object {
	t := &p.Terms[term]
	o := object{"id": s.stripeID("re", p, term), "object": "refund", "amount": cents, "created": cmp.Or(t.RefundedAt, s.clock).Unix(), "currency": "eur", "charge": s.stripeID("ch", p, term),
		"payment_intent": s.stripeID("pi", p, term), "metadata": object{}, "reason": "requested_by_customer", "status": "succeeded"}
	if n := t.Refunds; n > 1 {
		o["id"] = s.stripeID("re", p, term) + string(rune('a'+n-2))
	}
	if reversed {
		o["status"], o["failure_reason"] = "failed", "lost_or_stolen_card"
	}
	return o
}

func (s *Sim) stripeDispute(p *Purchase, term int) object {
	evidence := object{}
	for _, name := range []string{"access_activity_log", "billing_address", "cancellation_policy", "cancellation_policy_disclosure", "cancellation_rebuttal", "customer_communication", "customer_email_address",
		"customer_name", "customer_purchase_ip", "customer_signature", "duplicate_charge_documentation", "duplicate_charge_explanation", "duplicate_charge_id", "product_description", "receipt", "refund_policy",
		"refund_policy_disclosure", "refund_refusal_explanation", "service_date", "service_documentation", "shipping_address", "shipping_carrier", "shipping_date", "shipping_documentation", "shipping_tracking_number",
		"uncategorized_file", "uncategorized_text"} {
		evidence[name] = nil
	}
	evidence["enhanced_evidence"] = object{}
	return object{"id": "dp_" + s.id(20, "dp", p.N, p.Disputes), "object": "dispute", "amount": p.Terms[term].Cents, "balance_transactions": []any{}, "charge": s.stripeID("ch", p, term), "created": p.DisputedAt.Unix(), "currency": "eur",
		"enhanced_eligibility_types": []any{}, "evidence": evidence, "evidence_details": object{"due_by": nil, "has_evidence": false, "past_due": false, "submission_count": 0, "enhanced_eligibility": object{}},
		"is_charge_refundable": false, "livemode": !p.sandbox(), "metadata": object{}, "payment_intent": s.stripeID("pi", p, term), "reason": "fraudulent", "status": p.DisputeState}
}

// stripeSession is the prefix of a checkout's id.
func stripeSession(p *Purchase) string {
	if p.sandbox() {
		return "cs_test"
	}
	return "cs_live"
}

func (s *Sim) stripeCheckout(p *Purchase) object {
	t := &p.Terms[0]
	o := object{"id": s.stripeID(stripeSession(p), p, -1), "object": "checkout.session", "amount_subtotal": t.Cents, "amount_total": t.Cents,
		"automatic_tax": object{"enabled": false, "liability": nil, "provider": nil, "status": nil}, "client_reference_id": p.Owner, "created": p.StartedAt.Unix(), "currency": "eur", "custom_fields": []any{},
		"custom_text": object{"after_submit": nil, "shipping_address": nil, "submit": nil, "terms_of_service_acceptance": nil}, "customer": s.stripeCustomer(p), "expires_at": p.StartedAt.Add(day).Unix(), "invoice": nil,
		"livemode": !p.sandbox(), "metadata": s.stripeMetadata(p), "mode": "payment", "payment_intent": nil, "payment_method_types": []any{"card"}, "payment_status": "paid", "shipping_options": []any{}, "status": "complete", "subscription": nil}
	if o["customer_details"] = nil; p.Email != "" {
		o["customer_details"] = object{"address": nil, "email": p.Email, "name": nil, "phone": nil, "tax_exempt": "none", "tax_ids": []any{}}
	}
	switch {
	case p.recurs():
		o["mode"], o["subscription"], o["invoice"] = "subscription", s.stripeID("sub", p, -1), s.stripeID("in", p, 0)
	default:
		o["payment_intent"] = s.stripeID("pi", p, 0)
	}
	switch {
	case t.Trial:
		o["payment_status"] = "no_payment_required"
	case t.PaidAt.IsZero():
		o["payment_status"] = "unpaid"
	}
	return o
}

func (s *Sim) stripeLine(p *Purchase) object {
	t := &p.Terms[0]
	return object{"id": s.stripeID("li", p, 0), "object": "item", "amount_discount": 0, "amount_subtotal": t.Cents, "amount_tax": 0, "amount_total": t.Cents, "currency": "eur", "description": t.Product.ID, "quantity": p.Quantity,
		"price": s.stripePrice(p, t.Product)}
}

func (s *Sim) stripeEvent(p *Purchase, kind string, about object) {
	id := "evt_" + s.id(24, "evt", p.N, len(s.messages))
	s.send(&Message{ID: id, Provider: Stripe, Env: p.Env, Type: kind, Purchase: p.ID, Body: encode(object{"id": id, "object": "event", "api_version": stripeVersion, "created": s.clock.Unix(), "type": kind,
		"livemode": !p.sandbox(), "pending_webhooks": 1, "request": object{"id": nil, "idempotency_key": nil}, "data": object{"object": about}})})
}

func (s *Sim) tellStripeDraft(p *Purchase) {
	s.stripeEvent(p, "customer.subscription.updated", s.stripeSubscription(p))
}

func (s *Sim) tellStripe(p *Purchase, f Fact) {
	paid := func() {
		if !p.recurs() {
			return
		}
		s.stripeEvent(p, "invoice.paid", s.stripeInvoice(p, f.Term))
		if p.Terms[f.Term].Cents > 0 {
			s.stripeEvent(p, "invoice_payment.paid", s.stripePayment(p, f.Term))
		}
	}
	updated := func(what string) {
		if p.recurs() {
			s.stripeEvent(p, "customer.subscription."+what, s.stripeSubscription(p))
		}
	}
	switch f.Kind {
	case PaymentPending:
		updated("created")
		if !p.recurs() {
			s.stripeEvent(p, "checkout.session.completed", s.stripeCheckout(p))
		}
	case PaymentFailed:
		updated("updated")
		if !p.recurs() {
			s.stripeEvent(p, "checkout.session.async_payment_failed", s.stripeCheckout(p))
		}
	case Bought:
		if p.waited {
			updated("updated")
			paid()
			if !p.recurs() {
				s.stripeEvent(p, "checkout.session.async_payment_succeeded", s.stripeCheckout(p))
			}
			return
		}
		updated("created")
		paid()
		s.stripeEvent(p, "checkout.session.completed", s.stripeCheckout(p))
	case Renewed:
		if p.Provider != Stripe { // else the draft has told it
			updated("updated")
		}
		paid()
	case Recovered, Upgraded:
		updated("updated")
		paid()
	case RenewalFailed:
		s.stripeEvent(p, "invoice.payment_failed", s.stripeInvoice(p, f.Term))
		updated("updated")
	case RenewalOff, RenewalOn:
		updated("updated")
	case Expired:
		updated("deleted")
	case Refunded:
		s.stripeEvent(p, "charge.refunded", s.stripeCharge(p, f.Term))
		s.stripeEvent(p, "refund.created", s.stripeRefund(p, f.Term, f.Cents, false))
	case RefundReversed:
		s.stripeEvent(p, "refund.failed", s.stripeRefund(p, f.Term, p.Terms[f.Term].Cents, true))
	case DisputeOpened:
		s.stripeEvent(p, "charge.dispute.created", s.stripeDispute(p, f.Term))
	case DisputeWon, DisputeLost:
		s.stripeEvent(p, "charge.dispute.closed", s.stripeDispute(p, f.Term))
	}
}

// stripeAPI answers what Stripe's API answers, as far as the state of purchases goes.
func (s *Sim) stripeAPI(mux *http.ServeMux, env Environment) {
	get := func(pattern string, answer func(r *http.Request, x ref) object) {
		s.handle(mux, Stripe, env, "GET "+pattern, func(r *http.Request) (int, any) {
			x, ok := s.stripeFind(env, r.PathValue("id"))
			if !ok {
				return http.StatusNotFound, stripeError("invalid_request_error", "resource_missing")
			}
			o := answer(r, x)
			if o == nil {
				return http.StatusNotFound, stripeError("invalid_request_error", "resource_missing")
			}
			return http.StatusOK, o
		})
	}
	get("/v1/subscriptions/{id}", func(r *http.Request, x ref) object {
		o := s.stripeSubscription(x.p)
		if expands(r, "latest_invoice") {
			o["latest_invoice"] = s.stripeWhole(r, x.p, x.p.present(), "latest_invoice.")
		}
		return o
	})
	get("/v1/invoices/{id}", func(r *http.Request, x ref) object { return s.stripeWhole(r, x.p, x.term, "") })
	s.handle(mux, Stripe, env, "GET /v1/invoices", func(r *http.Request) (int, any) {
		of := r.URL.Query()
		x, ok := s.stripeFind(env, of.Get("subscription"))
		if !ok {
			return http.StatusBadRequest, stripeError("invalid_request_error", "resource_missing") // nobody asks for those of all subscriptions
		}
		var list []object
		for term := x.p.present(); term >= 0; term-- { // the newest first
			if o := s.stripeWhole(r, x.p, term, "data."); !of.Has("status") || o["status"] == of.Get("status") {
				list = append(list, o)
			}
		}
		return http.StatusOK, stripePage(r, "/v1/invoices", list)
	})
	get("/v1/invoices/{id}/lines", func(_ *http.Request, x ref) object { return s.stripeInvoice(x.p, x.term)["lines"].(object) })
	get("/v1/invoice_payments/{id}", func(_ *http.Request, x ref) object { return s.stripePayment(x.p, x.term) })
	s.handle(mux, Stripe, env, "GET /v1/invoice_payments", func(r *http.Request) (int, any) {
		of := r.URL.Query()
		if kind := of.Get("payment[type]"); kind != "payment_intent" || of.Get("payment[payment_intent]") == "" {
			return http.StatusBadRequest, stripeError("invalid_request_error", "parameter_missing") // nobody asks for all of them
		}
		x, ok := s.stripeFind(env, of.Get("payment[payment_intent]"))
		if !ok {
			return http.StatusNotFound, stripeError("invalid_request_error", "resource_missing")
		}
		var list []object
		if x.p.recurs() && x.p.Terms[x.term].Cents > 0 {
			list = append(list, s.stripePayment(x.p, x.term))
		}
		return http.StatusOK, stripePage(r, "/v1/invoice_payments", list)
	})
	get("/v1/charges/{id}", func(_ *http.Request, x ref) object { return s.stripeCharge(x.p, x.term) })
	get("/v1/refunds/{id}", func(r *http.Request, x ref) object {
		t := &x.p.Terms[x.term]
		o := s.stripeRefund(x.p, x.term, cmp.Or(t.LastRefund, t.Cents), t.Refunded == 0)
		if o["id"] != r.PathValue("id") {
			return nil // an earlier one, whose amount the books do not keep
		}
		if expands(r, "charge") {
			o["charge"] = s.stripeCharge(x.p, x.term)
		}
		return o
	})
	get("/v1/checkout/sessions/{id}", func(r *http.Request, x ref) object {
		o := s.stripeCheckout(x.p)
		s.stripeExpand(r, x.p, o, "")
		return o
	})
	get("/v1/checkout/sessions/{id}/line_items", func(r *http.Request, x ref) object { return stripeList(r.URL.Path, s.stripeLine(x.p)) })
	s.handle(mux, Stripe, env, "GET /v1/disputes/{id}", func(r *http.Request) (int, any) {
		for _, p := range s.order {
			if p.Env == env && p.Disputes > 0 && "dp_"+s.id(20, "dp", p.N, p.Disputes) == r.PathValue("id") {
				return http.StatusOK, s.stripeDispute(p, p.DisputeTerm)
			}
		}
		return http.StatusNotFound, stripeError("invalid_request_error", "resource_missing")
	})
	s.handle(mux, Stripe, env, "POST /v1/customers/{id}", func(r *http.Request) (int, any) {
		id := r.PathValue("id")
		of, found := s.index.find("stripe "+string(env)+" customer", id, func(x ref) string {
			if x.p.Provider != Stripe || x.p.Env != env {
				return ""
			}
			return s.stripeCustomer(x.p)
		})
		if !found {
			return http.StatusNotFound, stripeError("invalid_request_error", "resource_missing")
		}
		if err := r.ParseForm(); err != nil {
			return http.StatusBadRequest, stripeError("invalid_request_error", "parameter_invalid")
		}
		for field, values := range r.PostForm {
			if name, ok := strings.CutPrefix(field, "metadata["); ok {
				s.tag(id, strings.TrimSuffix(name, "]"), values[0])
			}
		}
		return http.StatusOK, object{"id": id, "object": "customer", "created": of.p.StartedAt.Unix(), "livemode": !of.p.sandbox(), "metadata": s.tags[id], "default_source": nil,
			"description": nil, "email": nil, "shipping": nil}
	})
	s.handle(mux, Stripe, env, "GET /v1/events", func(r *http.Request) (int, any) {
		of := r.URL.Query()
		var list []object
		for _, m := range s.messages {
			made := int(m.At.Unix())
			if m.Provider != Stripe || m.Env != env || s.clock.Sub(m.At) > stripeKeepsEvents || len(of["types[]"]) > 0 && !slices.Contains(of["types[]"], m.Type) {
				continue
			}
			if made < queryInt(r, "created[gte]") || of.Has("created[lt]") && made >= queryInt(r, "created[lt]") || of.Get("delivery_success") == "false" && m.delivered() {
				continue
			}
			var o object
			if err := json.Unmarshal(m.Body, &o); err == nil {
				list = append(list, o)
			}
		}
		slices.Reverse(list) // the newest first
		return http.StatusOK, stripePage(r, "/v1/events", list)
	})
	s.handle(mux, Stripe, env, "GET /v1/subscriptions", func(r *http.Request) (int, any) {
		var list []object
		for _, p := range s.order {
			if p.Provider == Stripe && p.Env == env && p.recurs() && (r.URL.Query().Get("customer") == "" || r.URL.Query().Get("customer") == s.stripeCustomer(p)) {
				list = append(list, s.stripeSubscription(p))
			}
		}
		slices.Reverse(list) // the newest first
		return http.StatusOK, stripePage(r, "/v1/subscriptions", list)
	})
	s.handle(mux, Stripe, env, "GET /v1/checkout/sessions", func(r *http.Request) (int, any) {
		var list []object
		for _, p := range s.order {
			customer, intent := r.URL.Query().Get("customer"), r.URL.Query().Get("payment_intent")
			if p.Provider != Stripe || p.Env != env || customer != "" && customer != s.stripeCustomer(p) {
				continue
			}
			if o := s.stripeCheckout(p); intent == "" || intent == o["payment_intent"] {
				s.stripeExpand(r, p, o, "data.")
				list = append(list, o)
			}
		}
		slices.Reverse(list) // the newest first
		return http.StatusOK, stripePage(r, "/v1/checkout/sessions", list)
	})
	s.handle(mux, Stripe, env, "GET /v1/subscription_items", func(r *http.Request) (int, any) {
		x, ok := s.stripeFind(env, r.URL.Query().Get("subscription"))
		if !ok {
			return http.StatusNotFound, stripeError("invalid_request_error", "resource_missing")
		}
		return http.StatusOK, stripePage(r, "/v1/subscription_items", []object{s.stripeItem(x.p)})
	})
}

// tag writes to a customer's metadata; other metadata stays.
func (s *Sim) tag(customer, name, value string) {
	if s.tags[customer] == nil {
		s.tags[customer] = object{}
	}
	s.tags[customer][name] = value
}

// stripeWhole is an invoice with its payments where they are asked for.
func (s *Sim) stripeWhole(r *http.Request, p *Purchase, term int, prefix string) object {
	o := s.stripeInvoice(p, term)
	if expands(r, prefix+"payments") {
		o["payments"] = stripeList("/v1/invoice_payments", s.stripePayment(p, term))
	}
	return o
}

// stripeExpand puts into a session what is asked for in full.
func (s *Sim) stripeExpand(r *http.Request, p *Purchase, o object, prefix string) {
	if expands(r, prefix+"line_items") {
		o["line_items"] = stripeList("/v1/checkout/sessions/"+o["id"].(string)+"/line_items", s.stripeLine(p))
	}
	if intent, ok := o["payment_intent"].(string); ok && expands(r, prefix+"payment_intent") {
		status := "succeeded"
		if p.Phase == Pending {
			status = "processing"
		} else if p.Terms[0].PaidAt.IsZero() {
			status = "requires_payment_method"
		}
		o["payment_intent"] = object{"id": intent, "object": "payment_intent", "status": status, "livemode": !p.sandbox()}
	}
}

// stripePage is the part of a list after starting_after, up to limit.
func stripePage(r *http.Request, url string, list []object) object {
	if after := r.URL.Query().Get("starting_after"); after != "" {
		i := slices.IndexFunc(list, func(o object) bool { return o["id"] == after })
		list = list[i+1:]
	}
	limit := min(cmp.Or(queryInt(r, "limit"), 10), 100)
	page := stripeList(url, list[:min(limit, len(list))]...)
	page["has_more"] = len(list) > limit
	return page
}

func expands(r *http.Request, name string) bool {
	return slices.ContainsFunc(r.URL.Query()["expand[]"], func(e string) bool { return e == name || strings.HasPrefix(e, name+".") })
}

func stripeError(kind, code string) object {
	return object{"error": object{"type": kind, "code": code, "message": code}}
}
