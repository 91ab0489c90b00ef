package storesim

import (
	"net/http"
	"strings"
	"time"
)

// storeTransaction is a store's id of a term, as an aggregator reports it; of the whole purchase where term is negative.
func (s *Sim) storeTransaction(p *Purchase, term int) string {
	switch p.Store {
	case AppStore:
		return s.appleTransaction(p, max(term, 0))
	case PlayStore:
		return s.playOrder(p, max(term, 0))
	}
	if term < 0 && p.recurs() {
		return s.stripeID("sub", p, -1)
	}
	if !p.recurs() {
		return s.stripeID("pi", p, 0)
	}
	return s.stripeID("in", p, term)
}

// aggregatorEntitlement is the aggregator's own name of what a product gives, as latchkey-dev's catalog has it.
func aggregatorEntitlement(provider Provider, product Product) string {
	if provider == Adapty && product.Entitlement == "pro" {
		return "premium"
	}
	return product.Entitlement
}

// endOfAccess is the end of a term as aggregators tell it: a refund moves it.
func endOfAccess(p *Purchase, term int) time.Time {
	t := &p.Terms[term]
	switch {
	case !t.RevokedAt.IsZero():
		return t.RevokedAt
	case term == p.present() && p.Phase == Ended && (t.EndsAt.IsZero() || p.EndedAt.Before(t.EndsAt)):
		return p.EndedAt
	}
	return t.EndsAt
}

func (s *Sim) tellRevenueCat(p *Purchase, f Fact) {
	event := func(kind string, more object) { s.revenueCatEvent(p, f.Term, kind, more) }
	switch f.Kind {
	case Bought:
		if !p.recurs() {
			event("NON_RENEWING_PURCHASE", nil)
			return
		}
		event("INITIAL_PURCHASE", nil)
	case Renewed, Recovered, Resumed, Resubscribed:
		event("RENEWAL", object{"is_trial_conversion": f.Term > 0 && p.Terms[f.Term-1].Trial})
	case RenewalFailed:
		event("BILLING_ISSUE", object{"grace_period_expiration_at_ms": millis(f.Until)})
		event("CANCELLATION", object{"cancel_reason": "BILLING_ERROR"})
		if f.Until.IsZero() {
			event("EXPIRATION", object{"expiration_reason": "BILLING_ERROR"})
		}
	case GraceExpired:
		event("EXPIRATION", object{"expiration_reason": "BILLING_ERROR"})
	case Expired:
		if f.Reason == "cancelled" {
			event("EXPIRATION", object{"expiration_reason": "UNSUBSCRIBE"})
		}
	case RenewalOff:
		event("CANCELLATION", object{"cancel_reason": "UNSUBSCRIBE"})
	case RenewalOn:
		if p.Store != StripeStore {
			event("UNCANCELLATION", nil)
		}
	case Refunded:
		if f.Term != p.present() {
			return // RevenueCat tells nothing of an earlier period
		}
		price := -float64(f.Cents) / 100
		event("CANCELLATION", object{"cancel_reason": "CUSTOMER_SUPPORT", "price": price, "price_in_purchased_currency": price})
		if p.recurs() {
			event("EXPIRATION", object{"expiration_reason": "CUSTOMER_SUPPORT"})
		}
	case RefundReversed:
		if p.Store == AppStore {
			event("REFUND_REVERSED", nil)
		}
	case PauseSet:
		if !f.Until.IsZero() {
			event("SUBSCRIPTION_PAUSED", object{"auto_resume_at_ms": millis(f.Until)})
		}
	case PauseBegan:
		event("EXPIRATION", object{"expiration_reason": "SUBSCRIPTION_PAUSED"})
	case ChangeScheduled:
		event("PRODUCT_CHANGE", object{"new_product_id": p.Next.ID})
	case Upgraded:
		s.revenueCatEvent(p, f.Term-1, "PRODUCT_CHANGE", object{"new_product_id": p.Product.ID})
		event("RENEWAL", object{"is_trial_conversion": false})
	case Extended:
		event("SUBSCRIPTION_EXTENDED", nil)
	case Transferred:
		at := s.stamp()
		s.revenueCatSend(p, "TRANSFER", object{"event_timestamp_ms": at.UnixMilli(), "app_id": "app9f3c21ab7d", "store": strings.ToUpper(string(p.Store)), "environment": strings.ToUpper(string(p.Env)),
			"transferred_from": s.revenueCatAliases(f.From), "transferred_to": s.revenueCatAliases(f.To)})
	}
}

func (s *Sim) revenueCatAliases(account string) []string {
	return []string{account, "$RCAnonymousID:" + s.id(32, "anonymous", account)}
}

func (s *Sim) revenueCatEvent(p *Purchase, term int, kind string, more object) {
	t := &p.Terms[term]
	at := s.stamp()
	period := "NORMAL"
	if t.Trial {
		period = "TRIAL"
	} else if t.Offer {
		period = "INTRO"
	}
	price := float64(t.Cents) / 100
	o := object{"event_timestamp_ms": at.UnixMilli(), "app_id": "app9f3c21ab7d", "app_user_id": p.Owner, "original_app_user_id": "$RCAnonymousID:" + s.id(32, "anonymous", p.Owner), "aliases": s.revenueCatAliases(p.Owner),
		"product_id": t.Product.ID, "entitlement_id": nil, "entitlement_ids": nil, "period_type": period, "purchased_at_ms": t.StartsAt.UnixMilli(), "expiration_at_ms": millis(endOfAccess(p, term)),
		"store": strings.ToUpper(string(p.Store)), "environment": strings.ToUpper(string(p.Env)), "transaction_id": s.storeTransaction(p, term), "original_transaction_id": s.storeTransaction(p, -1), "is_family_share": false,
		"price": price, "price_in_purchased_currency": price, "currency": "EUR", "country_code": "NL", "tax_percentage": 0, "commission_percentage": 0.3, "renewal_number": term + 1, "offer_code": nil,
		"presented_offering_id": "default", "subscriber_attributes": object{}}
	if name := aggregatorEntitlement(RevenueCat, t.Product); name != "" {
		o["entitlement_ids"] = []string{name}
	}
	for name, v := range more {
		o[name] = v
	}
	s.revenueCatSend(p, kind, o)
}

func (s *Sim) revenueCatSend(p *Purchase, kind string, event object) {
	id := s.uuid("revenuecat", len(s.messages))
	event["id"], event["type"] = id, kind
	s.send(&Message{ID: id, Provider: RevenueCat, Env: p.Env, Type: kind, Purchase: p.ID, Body: encode(object{"api_version": "1.0", "event": event})})
}

// revenueCatCustomer returns whose name it is, and what they own.
func (s *Sim) revenueCatCustomer(env Environment, name string) (account string, owned []*Purchase, known bool) {
	account = s.index.names[name]
	if account == "" || name != account && name != s.revenueCatAliases(account)[1] {
		return name, nil, false
	}
	return account, s.ofOwner(RevenueCat, env, account), true
}

func isoSeconds(t time.Time) any {
	if t.IsZero() {
		return nil
	}
	return t.UTC().Format(time.RFC3339)
}

// revenueCatV1 is the customer as version 1 tells it: one row for each product, its latest period alone.
func (s *Sim) revenueCatV1(account string, owned []*Purchase) object {
	entitlements, subscriptions, others := object{}, object{}, object{}
	latest, shown := map[string]time.Time{}, map[string]time.Time{}
	for _, p := range owned {
		if p.Phase == Pending || p.EndReason == "unpaid" {
			continue
		}
		t := p.last()
		end := endOfAccess(p, p.present())
		if name := aggregatorEntitlement(RevenueCat, t.Product); name != "" && (p.recurs() || t.RevokedAt.IsZero()) {
			if was, there := latest[name]; !there || end.IsZero() || !was.IsZero() && !end.Before(was) {
				latest[name] = end
				entitlements[name] = object{"expires_date": isoSeconds(end), "grace_period_expires_date": isoSeconds(p.GraceEnds), "product_identifier": t.Product.ID, "purchase_date": isoSeconds(t.StartsAt)}
			}
		}
		row := object{"purchase_date": isoSeconds(t.StartsAt), "original_purchase_date": isoSeconds(p.StartedAt), "store": string(p.Store), "is_sandbox": p.sandbox(), "store_transaction_id": s.storeTransaction(p, p.present()),
			"price": object{"amount": float64(t.Cents) / 100, "currency": "EUR"}, "display_name": nil}
		if !p.recurs() {
			row["id"] = s.id(10, "row", p.N)
			if t.RevokedAt.IsZero() {
				list, _ := others[t.Product.ID].([]object)
				others[t.Product.ID] = append(list, row)
			}
			continue
		}
		if was, there := shown[t.Product.ID]; there && end.Before(was) {
			continue
		}
		shown[t.Product.ID] = end
		period := "normal"
		if t.Trial {
			period = "trial"
		} else if t.Offer {
			period = "intro"
		}
		unsubscribed := p.TurnedOff
		row["expires_date"], row["period_type"], row["unsubscribe_detected_at"], row["billing_issues_detected_at"] = isoSeconds(end), period, isoSeconds(unsubscribed), isoSeconds(p.FailedAt)
		row["grace_period_expires_date"], row["refunded_at"], row["auto_resume_date"], row["ownership_type"] = isoSeconds(p.GraceEnds), isoSeconds(t.RevokedAt), isoSeconds(p.ResumesAt), "PURCHASED"
		subscriptions[t.Product.ID] = row
	}
	return object{"request_date": isoSeconds(s.clock), "request_date_ms": s.clock.UnixMilli(), "subscriber": object{"original_app_user_id": s.revenueCatAliases(account)[1], "first_seen": isoSeconds(s.config.Start), "last_seen": isoSeconds(s.clock),
		"management_url": nil, "original_application_version": nil, "original_purchase_date": nil, "entitlements": entitlements, "subscriptions": subscriptions, "non_subscriptions": others, "other_purchases": object{}, "subscriber_attributes": object{}}}
}

func (s *Sim) revenueCatSubscription(p *Purchase) string { return "sub" + s.id(14, "rc", p.N) }

// revenueCatPeriods are the periods of a subscription at a store that has a transaction for each.
func (s *Sim) revenueCatPeriods(p *Purchase) []object {
	periods := make([]object, len(p.Terms))
	for i := range p.Terms {
		t := &p.Terms[i]
		end := endOfAccess(p, i)
		effective := end
		if i == p.present() && p.Phase == Grace {
			effective = p.GraceEnds
		}
		periods[i] = object{"object": "subscription_transaction", "id": s.storeTransaction(p, i), "purchased_at": t.StartsAt.UnixMilli(), "expiration_date": millis(end), "effective_expiration_date": millis(effective),
			"product_store_identifier": t.Product.ID, "revenue_in_usd": object{"currency": "USD", "gross": float64(t.Cents) / 100}}
	}
	return periods
}

// revenueCatV2 is a subscription or a purchase as version 2 tells it.
func (s *Sim) revenueCatV2(account string, p *Purchase) object {
	t := p.last()
	o := object{"id": s.revenueCatSubscription(p), "customer_id": account, "original_customer_id": account, "product_id": "prod" + s.id(12, "rc product", t.Product.ID), "store": string(p.Store), "environment": string(p.Env),
		"ownership": "purchased", "store_subscription_identifier": s.storeTransaction(p, -1), "starts_at": p.StartedAt.UnixMilli()}
	entitlements := []object{}
	if name := aggregatorEntitlement(RevenueCat, t.Product); name != "" {
		entitlements = append(entitlements, object{"object": "entitlement", "id": "entl" + s.id(12, "entitlement", name), "lookup_key": name, "display_name": name})
	}
	o["entitlements"] = object{"object": "list", "items": entitlements, "next_page": nil}
	if !p.recurs() {
		status := "owned"
		if !t.RevokedAt.IsZero() {
			status = "refunded"
		}
		delete(o, "store_subscription_identifier")
		delete(o, "starts_at")
		o["object"], o["id"], o["status"], o["purchased_at"], o["quantity"], o["store_purchase_identifier"] = "purchase", "purc"+s.id(14, "rc", p.N), status, t.StartsAt.UnixMilli(), p.Quantity, s.storeTransaction(p, 0)
		return o
	}
	status := map[Phase]string{Active: "active", Grace: "in_grace_period", Retry: "in_billing_retry", Paused: "paused", Ended: "expired", Pending: "incomplete"}[p.Phase]
	if p.Phase == Active && t.Trial {
		status = "trialing"
	}
	renewal := "will_not_renew"
	switch {
	case !p.WillRenew || p.Phase == Ended:
	case p.PauseDue:
		renewal = "will_pause"
	case p.Next.ID != p.Product.ID:
		renewal = "will_change_product"
	default:
		renewal = "will_renew"
	}
	o["object"], o["status"], o["gives_access"], o["auto_renewal_status"] = "subscription", status, p.Phase == Active || p.Phase == Grace, renewal
	o["current_period_starts_at"], o["current_period_ends_at"], o["ends_at"] = t.StartsAt.UnixMilli(), millis(endOfAccess(p, p.present())), nil
	if p.Phase == Grace {
		o["current_period_ends_at"] = millis(p.GraceEnds)
	}
	if !p.WillRenew || p.Phase == Ended {
		o["ends_at"] = millis(endOfAccess(p, p.present()))
	}
	return o
}

// revenueCatAPI answers what versions 1 and 2 answer about customers.
func (s *Sim) revenueCatAPI(mux *http.ServeMux, env Environment) {
	s.handle(mux, RevenueCat, env, "GET /v1/subscribers/{id}", func(r *http.Request) (int, any) {
		account, owned, known := s.revenueCatCustomer(env, r.PathValue("id"))
		if !known { // version 1 makes whom it does not know
			s.customer(account)
			return http.StatusCreated, s.revenueCatV1(account, nil)
		}
		return http.StatusOK, s.revenueCatV1(account, owned)
	})
	customer := func(path string, answer func(r *http.Request, account string, owned []*Purchase) any) {
		s.handle(mux, RevenueCat, env, "GET /v2/projects/{project}/customers/{id}"+path, func(r *http.Request) (int, any) {
			account, owned, known := s.revenueCatCustomer(env, r.PathValue("id"))
			if !known || r.PathValue("project") != s.config.Credentials[env].RevenueCat.Project {
				return http.StatusNotFound, object{"object": "error", "type": "resource_missing", "message": "no such customer", "retryable": false}
			}
			return http.StatusOK, answer(r, account, owned)
		})
	}
	list := func(r *http.Request, items []object) object {
		return object{"object": "list", "items": append([]object{}, items...), "next_page": nil, "url": r.URL.Path}
	}
	active := func(r *http.Request, owned []*Purchase) object {
		var items []object
		for _, p := range owned {
			name := aggregatorEntitlement(RevenueCat, p.Product)
			end := endOfAccess(p, p.present())
			if p.Phase == Grace {
				end = p.GraceEnds
			}
			if name != "" && (end.IsZero() || end.After(s.clock)) && p.Phase != Pending && p.EndReason != "unpaid" {
				items = append(items, object{"object": "customer.active_entitlement", "entitlement_id": "entl" + s.id(12, "entitlement", name), "expires_at": millis(end)})
			}
		}
		return list(r, items)
	}
	customer("", func(r *http.Request, account string, owned []*Purchase) any {
		return object{"object": "customer", "id": account, "project_id": r.PathValue("project"), "first_seen_at": s.config.Start.UnixMilli(), "last_seen_at": s.clock.UnixMilli(), "active_entitlements": active(r, owned)}
	})
	customer("/active_entitlements", func(r *http.Request, _ string, owned []*Purchase) any { return active(r, owned) })
	customer("/aliases", func(r *http.Request, account string, _ []*Purchase) any {
		var items []object
		for _, name := range s.revenueCatAliases(account) {
			items = append(items, object{"object": "customer.alias", "id": name, "created_at": s.config.Start.UnixMilli()})
		}
		return list(r, items)
	})
	of := func(recurs bool) func(r *http.Request, account string, owned []*Purchase) any {
		return func(r *http.Request, account string, owned []*Purchase) any {
			var items []object
			for _, p := range owned {
				if p.recurs() == recurs && p.Phase != Pending && p.EndReason != "unpaid" {
					items = append(items, s.revenueCatV2(account, p))
				}
			}
			return list(r, items)
		}
	}
	customer("/subscriptions", of(true))
	customer("/purchases", of(false))
	s.handle(mux, RevenueCat, env, "GET /v2/projects/{project}/subscriptions/{id}/transactions", func(r *http.Request) (int, any) {
		x, ok := s.index.find("revenuecat subscription "+string(env), r.PathValue("id"), func(x ref) string {
			if x.p.Provider != RevenueCat || x.p.Env != env || x.term >= 0 || x.p.Store == StripeStore {
				return ""
			}
			return s.revenueCatSubscription(x.p)
		})
		if !ok {
			return http.StatusNotFound, object{"object": "error", "type": "resource_missing", "message": "no such subscription", "retryable": false}
		}
		return http.StatusOK, list(r, s.revenueCatPeriods(x.p))
	})
	s.handle(mux, RevenueCat, env, "GET /v2/projects/{project}/entitlements", func(r *http.Request) (int, any) {
		var items []object
		seen := map[string]bool{}
		for _, p := range s.config.Products {
			if name := aggregatorEntitlement(RevenueCat, p); name != "" && !seen[name] {
				seen[name] = true
				items = append(items, object{"object": "entitlement", "id": "entl" + s.id(12, "entitlement", name), "lookup_key": name, "display_name": name, "project_id": r.PathValue("project")})
			}
		}
		return http.StatusOK, list(r, items)
	})
	s.handle(mux, RevenueCat, env, "GET /v2/projects/{project}/products/{id}", func(r *http.Request) (int, any) {
		for _, p := range s.config.Products {
			if id := "prod" + s.id(12, "rc product", p.ID); id == r.PathValue("id") {
				return http.StatusOK, object{"object": "product", "id": id, "store_identifier": p.ID, "type": map[bool]string{true: "subscription", false: "one_time"}[p.Kind == Recurring], "app_id": "app9f3c21ab7d"}
			}
		}
		return http.StatusNotFound, object{"object": "error", "type": "resource_missing", "message": "no such product", "retryable": false}
	})
}
