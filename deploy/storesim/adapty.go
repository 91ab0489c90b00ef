package storesim

import (
	"maps"
	"net/http"
	"time"
)

// adaptyTime is how Adapty's messages write a time: six decimals, and no colon in the offset.
func adaptyTime(t time.Time) any {
	if t.IsZero() {
		return nil
	}
	return t.UTC().Format("2006-01-02T15:04:05.000000-0700")
}

// adaptyAPITime is how its answers do.
func adaptyAPITime(t time.Time) any {
	if t.IsZero() {
		return nil
	}
	return t.UTC().Format("2006-01-02T15:04:05-07:00")
}

func (s *Sim) adaptyProfile(account string) string { return s.uuid("adapty profile", account) }

// adaptyEnd is the end of access as Adapty tells it: the grace is in it, and a refund moves it.
func adaptyEnd(p *Purchase, term int) time.Time {
	if p.Phase == Grace && term == p.present() {
		return p.GraceEnds
	}
	return endOfAccess(p, term)
}

func (s *Sim) tellAdapty(p *Purchase, f Fact) {
	trial := p.Terms[f.Term].Trial
	named := func(ofTrial, other string) string {
		if trial {
			return ofTrial
		}
		return other
	}
	kinds := []string{}
	switch f.Kind {
	case Bought:
		kinds = append(kinds, named("trial_started", "subscription_started"))
		if !p.recurs() {
			kinds = []string{"non_subscription_purchase"}
		}
	case Renewed, Recovered, Resumed, Resubscribed:
		kind := "subscription_renewed"
		if f.Term > 0 && p.Terms[f.Term-1].Trial {
			kind = "trial_converted"
		}
		kinds = append(kinds, kind)
	case RenewalFailed:
		kinds = append(kinds, "billing_issue_detected")
		if !f.Until.IsZero() {
			kinds = append(kinds, "entered_grace_period")
		}
	case Expired:
		kinds = append(kinds, named("trial_expired", "subscription_expired"))
	case RenewalOff:
		kinds = append(kinds, named("trial_renewal_cancelled", "subscription_renewal_cancelled"))
	case RenewalOn:
		kinds = append(kinds, named("trial_renewal_reactivated", "subscription_renewal_reactivated"))
	case Refunded:
		kinds = append(kinds, "subscription_refunded")
		if !p.recurs() {
			kinds = []string{"non_subscription_purchase_refunded"}
		}
	case PauseSet:
		if !f.Until.IsZero() {
			kinds = append(kinds, "subscription_paused")
		}
	case Upgraded:
		replaced := object{"cancellation_reason": "upgraded"}
		if level := aggregatorEntitlement(Adapty, p.Product); level != "" {
			for _, account := range append([]string{p.Owner}, p.Shares...) {
				s.adaptyEvent(p, f.Term-1, account, "access_level_updated", with(replaced, "access_level_id", level, "is_active", false, "expires_at", adaptyTime(s.clock), "is_lifetime", false,
					"is_in_grace_period", false, "is_refund", true, "will_renew", false, "activated_at", adaptyTime(p.StartedAt), "renewed_at", adaptyTime(p.Terms[f.Term-1].StartsAt)))
			}
		}
		s.adaptyEvent(p, f.Term-1, p.Owner, "subscription_refunded", replaced)
		kinds = append(kinds, "subscription_started")
	case Extended:
		kinds = append(kinds, "subscription_deferred")
	case GraceExpired, PauseBegan, ChangeScheduled, Shared:
	case Unshared:
		s.adaptyLevel(p, f.From, false)
	case Transferred:
		s.adaptyLevel(p, f.From, false)
	default:
		return // Adapty tells nothing of it
	}
	for _, kind := range kinds {
		s.adaptyEvent(p, f.Term, p.Owner, kind, nil)
	}
	if f.Kind == Refunded && f.Term != p.present() {
		return // an earlier term's: the access stays as it is
	}
	for _, account := range append([]string{p.Owner}, p.Shares...) {
		s.adaptyLevel(p, account, true)
	}
}

// adaptyLevel tells how the access level of a profile stands.
func (s *Sim) adaptyLevel(p *Purchase, account string, has bool) {
	level := aggregatorEntitlement(Adapty, p.Product)
	if level == "" || p.Phase == Pending || p.EndReason == "unpaid" {
		return
	}
	t := p.last()
	end := adaptyEnd(p, p.present())
	if !has {
		end = s.clock
	}
	offer := any(nil)
	switch {
	case t.Trial:
		offer = "free_trial"
	case t.Offer:
		offer = "pay_as_you_go"
	}
	s.adaptyEvent(p, p.present(), account, "access_level_updated", object{"access_level_id": level, "is_active": has && (end.IsZero() || end.After(s.clock)) && p.Phase != Retry && p.Phase != Paused,
		"starts_at": nil, "expires_at": adaptyTime(end), "is_lifetime": end.IsZero(), "is_in_grace_period": p.Phase == Grace, "is_refund": !t.RevokedAt.IsZero(), "will_renew": has && p.WillRenew && p.Phase != Ended,
		"activated_at": adaptyTime(p.StartedAt), "renewed_at": adaptyTime(t.StartsAt), "billing_issue_detected_at": adaptyTime(p.FailedAt), "active_introductory_offer_type": offer})
}

// adaptyReason is why a renewal is off or an access has ended.
func adaptyReason(p *Purchase) any {
	switch {
	case p.EndReason == "refund":
		return "refund"
	case p.EndReason == "billing":
		return "billing_error"
	case !p.TurnedOff.IsZero():
		return "voluntarily_cancelled"
	}
	return nil
}

func (s *Sim) adaptyEvent(p *Purchase, term int, account, kind string, more object) {
	t := &p.Terms[term]
	at := s.stamp()
	id := s.uuid("adapty", len(s.messages))
	product, plan := t.Product.ID, any(nil)
	if p.Store == PlayStore && p.recurs() {
		product, plan = t.Product.split()
	}
	price := float64(t.Cents) / 100
	properties := object{"profile_event_id": id, "profile_id": s.adaptyProfile(account), "environment": appleEnvironments[p.Env], "store": string(p.Store), "vendor_product_id": product, "base_plan_id": plan,
		"transaction_id": s.storeTransaction(p, term), "original_transaction_id": s.storeTransaction(p, -1), "purchase_date": adaptyTime(t.StartsAt), "original_purchase_date": adaptyTime(p.StartedAt),
		"subscription_expires_at": adaptyTime(adaptyEnd(p, term)), "cancellation_reason": adaptyReason(p), "price_usd": price, "price_local": price, "currency": "EUR", "consecutive_payments": p.charges(),
		"profile_has_access_level": p.Phase == Active || p.Phase == Grace, "store_country": "NL"}
	if t.Offer {
		properties["store_offer_category"], properties["store_offer_discount_type"] = "introductory", "pay_as_you_go"
	}
	for name, v := range more {
		properties[name] = v
	}
	sharing := any(nil)
	if len(p.Shares) > 0 {
		var others []object
		for _, other := range append([]string{p.Owner}, p.Shares...) {
			if other != account {
				others = append(others, object{"profile_id": s.adaptyProfile(other), "customer_user_id": other})
			}
		}
		sharing = others
	}
	s.send(&Message{ID: id, Provider: Adapty, Env: p.Env, Type: kind, Purchase: p.ID, Body: encode(object{"profile_id": s.adaptyProfile(account), "customer_user_id": account, "email": nil, "event_type": kind,
		"event_datetime": adaptyTime(at), "event_api_version": 1, "profiles_sharing_access_level": sharing, "event_properties": properties})})
}

// adaptyAPI answers what the server-side API answers about a profile.
func (s *Sim) adaptyAPI(mux *http.ServeMux, env Environment) {
	s.handle(mux, Adapty, env, "GET /api/v2/server-side-api/profile/{$}", func(r *http.Request) (int, any) {
		if account := s.adaptyAsked(r); account != "" {
			return http.StatusOK, object{"data": s.adaptyData(env, account)}
		}
		return adaptyUnknown()
	})
	s.adaptyGrantAPI(mux, env)
}

func (s *Sim) adaptyData(env Environment, account string) object {
	levels, subscriptions, sales := append([]object{}, s.adaptyGiven(env, account)...), []object{}, []object{}
	for _, p := range s.ofOwner(Adapty, env, account) {
		if p.Phase == Pending || p.EndReason == "unpaid" {
			continue
		}
		t := p.last()
		product, plan := t.Product.ID, any(nil)
		if p.Store == PlayStore && p.recurs() {
			product, plan = t.Product.split()
		}
		row := object{"store": string(p.Store), "store_product_id": product, "store_base_plan_id": plan, "store_transaction_id": s.storeTransaction(p, p.present()), "store_original_transaction_id": s.storeTransaction(p, -1),
			"offer": nil, "starts_at": nil, "purchased_at": adaptyAPITime(t.StartsAt), "originally_purchased_at": adaptyAPITime(p.StartedAt), "expires_at": adaptyAPITime(adaptyEnd(p, p.present())),
			"renewal_cancelled_at": adaptyAPITime(p.TurnedOff), "billing_issue_detected_at": adaptyAPITime(p.FailedAt), "is_in_grace_period": p.Phase == Grace, "cancellation_reason": adaptyReason(p), "environment": appleEnvironments[p.Env]}
		if t.Trial {
			row["offer"] = object{"category": "introductory", "type": "free_trial", "id": nil}
		}
		if t.Offer {
			row["offer"] = object{"category": "introductory", "type": "pay_as_you_go", "id": nil}
		}
		if level := aggregatorEntitlement(Adapty, t.Product); level != "" && (p.recurs() || t.RevokedAt.IsZero()) {
			shown := with(row, "access_level_id", level)
			delete(shown, "environment") // Adapty may leave it out of a level
			levels = append(levels, shown)
		}
		if p.recurs() {
			subscriptions = append(subscriptions, row)
			continue
		}
		sales = append(sales, object{"purchase_id": s.uuid("adapty sale", p.N), "store": string(p.Store), "store_product_id": product, "store_transaction_id": s.storeTransaction(p, 0), "store_original_transaction_id": s.storeTransaction(p, -1),
			"purchased_at": adaptyAPITime(t.StartsAt), "environment": appleEnvironments[p.Env], "is_refund": !t.RevokedAt.IsZero(), "is_consumable": p.Product.Kind == Consumable})
	}
	return object{"app_id": s.uuid("adapty app"), "profile_id": s.adaptyProfile(account), "customer_user_id": account, "total_revenue_usd": 0.0, "segment_hash": s.id(16, "segment", account), "timestamp": s.stamp().UnixMilli(),
		"custom_attributes": []any{}, "access_levels": levels, "subscriptions": subscriptions, "non_subscriptions": sales}
}

// with returns a copy of o with more members, their names and values by turns.
func with(o object, more ...any) object {
	c := maps.Clone(o)
	for i := 0; i < len(more); i += 2 {
		c[more[i].(string)] = more[i+1]
	}
	return c
}
