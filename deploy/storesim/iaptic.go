package storesim

import (
	"net/http"
	"slices"
	"strconv"
	"time"
)

// iapticPlatforms are iaptic's names of the stores.
var iapticPlatforms = map[Store]string{AppStore: "apple", PlayStore: "google", StripeStore: "stripe"}

func iapticTime(t time.Time) any {
	if t.IsZero() {
		return nil
	}
	return t.UTC().Format("2006-01-02T15:04:05.000Z")
}

var iapticReasons = map[FactKind]string{
	Bought: "PURCHASED", Resubscribed: "PURCHASED", Renewed: "RENEWED", Recovered: "RENEWED", Resumed: "RENEWED", Expired: "EXPIRED", Refunded: "REFUNDED", RenewalOff: "WILL_LAPSE", RenewalOn: "WILL_AUTO_RENEW",
	PauseBegan: "PAUSED", Extended: "EXTENDED", Upgraded: "PURCHASED", GraceExpired: "OTHER", ChangeScheduled: "OTHER", Transferred: "RECEIPT_VALIDATED", Shared: "RECEIPT_VALIDATED", Unshared: "REVOKED",
	PaymentPending: "PURCHASED", PaymentFailed: "OTHER",
}

func (s *Sim) tellIaptic(p *Purchase, f Fact) {
	reason := iapticReasons[f.Kind]
	if f.Kind == RenewalFailed {
		reason = "OTHER"
		if !f.Until.IsZero() {
			reason = "ENTERED_GRACE_PERIOD"
		}
	}
	if reason == "" {
		return
	}
	accounts := append([]string{p.Owner}, p.Shares...)
	if f.From != "" {
		accounts = append(accounts, f.From)
	}
	for _, account := range accounts {
		s.iapticSend(p, account, reason)
	}
}

// iapticPurchase is a purchase in the collection of one of those who may use it.
func (s *Sim) iapticPurchase(p *Purchase, account string) object {
	platform := iapticPlatforms[p.Store]
	t := p.last()
	o := object{"purchaseId": platform + ":" + s.storeTransaction(p, -1), "transactionId": platform + ":" + s.storeTransaction(p, p.present()), "productId": platform + ":" + t.Product.ID, "platform": platform, "sandbox": p.sandbox(),
		"purchaseDate": iapticTime(p.StartedAt), "currency": "EUR", "amountMicros": t.Cents * 10_000, "quantity": p.Quantity, "cancelationReason": "", "entitledUsers": append([]string{p.Owner}, p.Shares...)}
	if account != p.Owner {
		o["isSharedPurchase"] = true
	}
	if p.Phase == Pending || p.EndReason == "unpaid" {
		o["isPending"] = true
	}
	if !p.recurs() {
		if p.Product.Kind == Consumable {
			o["isConsumed"] = true
		}
		if !t.RevokedAt.IsZero() {
			o["expirationDate"], o["cancelationReason"] = iapticTime(p.StartedAt), "Customer"
		}
		return o
	}
	end := endOfAccess(p, p.present())
	o["lastRenewalDate"], o["expirationDate"], o["isTrialPeriod"], o["isBillingRetryPeriod"] = iapticTime(t.StartsAt), iapticTime(end), t.Trial, p.Phase == Grace || p.Phase == Retry
	o["isIntroPeriod"] = t.Offer
	o["renewalIntent"], o["isExpired"] = "Renew", !end.After(s.clock)
	if !p.WillRenew || p.Phase == Ended {
		o["renewalIntent"] = "Lapse"
		o["renewalIntentChangeDate"] = iapticTime(p.TurnedOff)
	}
	switch {
	case p.EndReason == "billing":
		o["cancelationReason"] = "System.BillingError"
	case !p.WillRenew:
		o["cancelationReason"] = "Customer"
	}
	return drop(o)
}

// iapticCollection is all that an account may use.
func (s *Sim) iapticCollection(env Environment, account string) object {
	collection := object{}
	for _, p := range s.ofOwner(Iaptic, env, account) {
		key := iapticPlatforms[p.Store] + ":" + p.Product.ID
		for n := 2; collection[key] != nil; n++ {
			key = iapticPlatforms[p.Store] + ":" + p.Product.ID + "#" + strconv.Itoa(n)
		}
		collection[key] = s.iapticPurchase(p, account)
	}
	return collection
}

func (s *Sim) iapticSend(p *Purchase, account, reason string) {
	platform := iapticPlatforms[p.Store]
	id := s.id(16, "iaptic", len(s.messages))
	s.send(&Message{ID: id, Provider: Iaptic, Env: p.Env, Type: reason, Purchase: p.ID, Body: encode(object{"type": "purchases.updated", "password": s.config.Credentials[p.Env].Iaptic.Password, "applicationUsername": account,
		"notification": object{"reason": reason, "id": id, "date": iapticTime(s.stamp()), "productId": platform + ":" + p.Product.ID, "purchaseId": platform + ":" + s.storeTransaction(p, -1),
			"transactionId": platform + ":" + s.storeTransaction(p, p.present())},
		"purchases": s.iapticCollection(p.Env, account)})})
}

// iapticAPI answers what iaptic's API answers about customers.
func (s *Sim) iapticAPI(mux *http.ServeMux, env Environment) {
	s.handle(mux, Iaptic, env, "GET /v3/customers/{user}/purchases", func(r *http.Request) (int, any) {
		user := r.PathValue("user")
		if s.customers[user] == nil {
			return http.StatusNotFound, object{"ok": false, "status": 404, "code": "NotFound", "message": "no such customer"}
		}
		return http.StatusOK, object{"ok": true, "applicationUsername": user, "purchases": s.iapticCollection(env, user)}
	})
	s.handle(mux, Iaptic, env, "GET /v3/customers", func(r *http.Request) (int, any) {
		var users []string
		for account := range s.customers {
			if len(s.ofOwner(Iaptic, env, account)) > 0 {
				users = append(users, account)
			}
		}
		slices.Sort(users)
		from := min(queryInt(r, "offset"), len(users))
		to := min(from+max(queryInt(r, "limit"), 1), len(users))
		rows := []object{}
		for _, user := range users[from:to] {
			rows = append(rows, object{"applicationUsername": user})
		}
		return http.StatusOK, object{"ok": true, "rows": rows}
	})
	s.handle(mux, Iaptic, env, "GET /v3", func(*http.Request) (int, any) { return http.StatusOK, object{"version": "3.12.0"} })
}
