package storesim

import (
	"encoding/base64"
	"encoding/json"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/latchkey/latchkey/pkg/entitlement"
)

// Apple's words for where a subscription stands.
const (
	appleActive       = 1
	appleExpired      = 2
	appleBillingRetry = 3
	appleBillingGrace = 4
	appleRevoked      = 5
)

func millis(t time.Time) any {
	if t.IsZero() {
		return nil
	}
	return t.UnixMilli()
}

// appleTransaction is the transactionId of a term, and of the first one the originalTransactionId.
func (s *Sim) appleTransaction(p *Purchase, term int) string {
	return strconv.FormatInt(2_000_000_000_000_000+s.number("apple", p.N)*100+int64(term), 10)
}

// appleToken is what the app gave StoreKit as appAccountToken: the UUID that Latchkey made of the account id.
func appleToken(p *Purchase) string { return entitlement.AccountID(p.Owner).AppleAppAccountToken() }

var appleTypes = map[Kind]string{Recurring: "Auto-Renewable Subscription", NonConsumable: "Non-Consumable", Consumable: "Consumable"}

var appleEnvironments = map[Environment]string{Production: "Production", Sandbox: "Sandbox"}

// drop removes what is nil: Apple leaves absent fields out.
func drop(o object) object {
	for name, v := range o {
		if v == nil {
			delete(o, name)
		}
	}
	return o
}

// appleWhole is all of a price, in thousandths of a percent.
const appleWhole = 100_000

func (s *Sim) applePayload(p *Purchase, term int, signed time.Time) object {
	t := &p.Terms[term]
	o := object{"transactionId": s.appleTransaction(p, term), "originalTransactionId": s.appleTransaction(p, 0), "bundleId": s.config.Credentials[p.Env].Apple.BundleID, "productId": t.Product.ID,
		"purchaseDate": t.StartsAt.UnixMilli(), "originalPurchaseDate": p.Terms[0].StartsAt.UnixMilli(), "expiresDate": millis(t.EndsAt), "quantity": p.Quantity, "type": appleTypes[t.Product.Kind],
		"inAppOwnershipType": "PURCHASED", "signedDate": signed.UnixMilli(), "environment": appleEnvironments[p.Env], "transactionReason": "PURCHASE", "storefront": "NLD", "storefrontId": "143452",
		"price": t.Cents * 10, "currency": "EUR", "appTransactionId": "704" + strconv.FormatInt(s.number("appTransaction", p.Env, p.Owner), 10)}
	if t.Product.Kind == Recurring {
		o["subscriptionGroupIdentifier"], o["webOrderLineItemId"] = "21500001", strconv.FormatInt(s.number("line", p.N, term), 10)
		if term > 0 && !p.Terms[term-1].Upgraded && t.StartsAt.Equal(p.Terms[term-1].EndsAt) {
			o["transactionReason"] = "RENEWAL"
		}
	}
	if t.Trial {
		o["offerType"], o["offerDiscountType"], o["offerPeriod"], o["price"] = 1, "FREE_TRIAL", "P"+strconv.Itoa(int(t.EndsAt.Sub(t.StartsAt)/day))+"D", 0
	}
	if t.Offer {
		o["offerType"], o["offerDiscountType"], o["offerPeriod"] = 1, "PAY_AS_YOU_GO", "P"+strconv.Itoa(t.Product.Months)+"M"
	}
	if t.Upgraded {
		o["isUpgraded"] = true
	}
	o["appAccountToken"] = appleToken(p) // of the family's member it is what the member's own app gave
	if p.SharedOf != "" {
		o["inAppOwnershipType"] = "FAMILY_SHARED"
	}
	if !t.RevokedAt.IsZero() {
		o["revocationDate"], o["revocationReason"], o["revocationType"], o["revocationPercentage"] = t.RevokedAt.UnixMilli(), 0, "REFUND_FULL", appleWhole
		if t.Refunded > 0 && t.Refunded < t.Cents {
			o["revocationType"], o["revocationPercentage"] = "REFUND_PRORATED", appleWhole*t.Refunded/t.Cents
		}
		if p.SharedOf != "" {
			o["revocationType"] = "FAMILY_REVOKE"
			delete(o, "revocationPercentage")
		}
	}
	return drop(o)
}

func (s *Sim) appleRenewalPayload(p *Purchase, signed time.Time) object {
	o := object{"originalTransactionId": s.appleTransaction(p, 0), "productId": p.Product.ID, "autoRenewProductId": p.Next.ID, "autoRenewStatus": 0, "isInBillingRetryPeriod": p.Phase == Grace || p.Phase == Retry,
		"recentSubscriptionStartDate": p.Terms[0].StartsAt.UnixMilli(), "signedDate": signed.UnixMilli(), "environment": appleEnvironments[p.Env], "appAccountToken": appleToken(p), "gracePeriodExpiresDate": millis(p.GraceEnds)}
	if p.WillRenew && p.Phase != Ended {
		o["autoRenewStatus"], o["renewalDate"], o["renewalPrice"], o["currency"] = 1, p.last().EndsAt.UnixMilli(), p.Next.Cents*10, "EUR"
	}
	switch {
	case p.Phase == Grace || p.Phase == Retry || p.EndReason == "billing":
		o["expirationIntent"] = 2
	case p.Phase == Ended && p.EndReason == "cancelled":
		o["expirationIntent"] = 1
	}
	return drop(o)
}

func appleStatus(p *Purchase) int {
	switch {
	case !p.last().RevokedAt.IsZero():
		return appleRevoked
	case p.Phase == Grace:
		return appleBillingGrace
	case p.Phase == Retry:
		return appleBillingRetry
	case p.Phase == Ended:
		return appleExpired
	}
	return appleActive
}

func (s *Sim) appleSign(env Environment, payload object) string {
	c := s.config.Credentials[env].Apple
	chain := make([]string, len(c.chain))
	for i, der := range c.chain {
		chain[i] = base64.StdEncoding.EncodeToString(der)
	}
	return signES256(c.key, object{"x5c": chain}, payload)
}

// SignedTransaction returns what StoreKit gives the app of a term: the proof of a purchase. A negative term is the last one. Error: ErrRefused.
func (s *Sim) SignedTransaction(id string, term int) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.purchases[id]
	if p == nil || p.Provider != Apple || p.Phase == Pending || term >= len(p.Terms) {
		return "", refuse("no transaction of %q", id)
	}
	if term < 0 {
		term = p.present()
	}
	return s.appleSign(p.Env, s.applePayload(p, term, s.stamp())), nil
}

func (s *Sim) appleData(p *Purchase, term int, signed time.Time) object {
	c := s.config.Credentials[p.Env].Apple
	data := object{"bundleId": c.BundleID, "bundleVersion": "42", "environment": appleEnvironments[p.Env], "signedTransactionInfo": s.appleSign(p.Env, s.applePayload(p, term, signed))}
	if p.Env == Production {
		data["appAppleId"] = c.AppAppleID
	}
	if p.recurs() {
		data["status"] = appleStatus(p)
		data["signedRenewalInfo"] = s.appleSign(p.Env, s.appleRenewalPayload(p, signed))
	}
	return data
}

func (s *Sim) tellApple(p *Purchase, f Fact) {
	kind, subtype := "", ""
	switch f.Kind {
	case Bought:
		kind, subtype = "SUBSCRIBED", "INITIAL_BUY"
		if !p.recurs() {
			kind, subtype = "ONE_TIME_CHARGE", ""
		}
	case Resubscribed:
		kind, subtype = "SUBSCRIBED", "RESUBSCRIBE"
	case Renewed:
		kind = "DID_RENEW"
	case Recovered:
		kind, subtype = "DID_RENEW", "BILLING_RECOVERY"
	case RenewalFailed:
		kind = "DID_FAIL_TO_RENEW"
		if !f.Until.IsZero() {
			subtype = "GRACE_PERIOD"
		}
	case GraceExpired:
		kind = "GRACE_PERIOD_EXPIRED"
	case RenewalOff:
		kind, subtype = "DID_CHANGE_RENEWAL_STATUS", "AUTO_RENEW_DISABLED"
	case RenewalOn:
		kind, subtype = "DID_CHANGE_RENEWAL_STATUS", "AUTO_RENEW_ENABLED"
	case Expired:
		kind, subtype = "EXPIRED", map[string]string{"cancelled": "VOLUNTARY", "billing": "BILLING_RETRY"}[f.Reason]
	case Refunded:
		kind = "REFUND"
		if p.SharedOf != "" {
			kind = "REVOKE"
		}
	case RefundReversed:
		kind = "REFUND_REVERSED"
	case Upgraded:
		kind, subtype = "DID_CHANGE_RENEWAL_PREF", "UPGRADE"
		// The term that it took over from is told again as upgraded, with the next history that is asked for.
	case ChangeScheduled:
		kind = "DID_CHANGE_RENEWAL_PREF"
		if p.Next.ID != p.Product.ID {
			subtype = "DOWNGRADE"
		}
	case Extended:
		kind = "RENEWAL_EXTENDED"
	default:
		return // Apple tells nothing of it
	}
	signed := s.stamp()
	s.appleNotify(p.Env, p.ID, kind, subtype, signed, s.appleData(p, f.Term, signed))
}

func (s *Sim) appleNotify(env Environment, purchase, kind, subtype string, signed time.Time, data object) {
	id := s.uuid("notification", len(s.messages))
	payload := object{"notificationType": kind, "notificationUUID": id, "version": "2.0", "signedDate": signed.UnixMilli(), "data": data}
	if subtype != "" {
		payload["subtype"] = subtype
		kind += "/" + subtype
	}
	s.send(&Message{ID: id, Provider: Apple, Env: env, Type: kind, Purchase: purchase, Body: encode(object{"signedPayload": s.appleSign(env, payload)})})
}

func appleError(code int) object {
	return object{"errorCode": code, "errorMessage": "simulated"}
}

// applePurchase finds a purchase by any of its transactions, whoever else tells of it.
func (s *Sim) applePurchase(env Environment, transaction string) (ref, bool) {
	x, ok := s.index.find("apple "+string(env), transaction, func(x ref) string {
		if x.p.Store != AppStore || x.p.Env != env || x.term < 0 {
			return ""
		}
		return s.appleTransaction(x.p, x.term)
	})
	return x, ok && x.p.Phase != Pending && x.p.EndReason != "unpaid"
}

// The App Store Server API's pages.
const applePage = 20

// appleFilters are what a question about a history calls the kinds of products.
var appleFilters = map[Kind]string{Recurring: "AUTO_RENEWABLE", NonConsumable: "NON_CONSUMABLE", Consumable: "CONSUMABLE"}

// appleAPI answers what the App Store Server API answers.
func (s *Sim) appleAPI(mux *http.ServeMux, env Environment) {
	get := func(pattern string, answer func(r *http.Request, x ref) (int, any)) {
		s.handle(mux, Apple, env, "GET "+pattern, func(r *http.Request) (int, any) {
			x, ok := s.applePurchase(env, r.PathValue("id"))
			if !ok {
				return http.StatusNotFound, appleError(4040010)
			}
			return answer(r, x)
		})
	}
	head := func(o object) object {
		c := s.config.Credentials[env].Apple
		o["bundleId"], o["environment"] = c.BundleID, appleEnvironments[env]
		if env == Production {
			o["appAppleId"] = c.AppAppleID
		}
		return o
	}
	get("/inApps/v1/subscriptions/{id}", func(r *http.Request, x ref) (int, any) {
		data := []object{}
		if want := r.URL.Query()["status"]; x.p.recurs() && (len(want) == 0 || slices.Contains(want, strconv.Itoa(appleStatus(x.p)))) {
			signed := s.stamp()
			data = append(data, object{"subscriptionGroupIdentifier": "21500001", "lastTransactions": []object{{"originalTransactionId": s.appleTransaction(x.p, 0), "status": appleStatus(x.p),
				"signedTransactionInfo": s.appleSign(env, s.applePayload(x.p, x.p.present(), signed)), "signedRenewalInfo": s.appleSign(env, s.appleRenewalPayload(x.p, signed))}}})
		}
		return http.StatusOK, head(object{"data": data})
	})
	history := func(only func(*Term) bool, whose func(*Purchase) []*Purchase) func(r *http.Request, x ref) (int, any) {
		return func(r *http.Request, x ref) (int, any) {
			var all []string
			kinds := r.URL.Query()["productType"]
			for _, p := range whose(x.p) {
				for term := range p.Terms {
					if only(&p.Terms[term]) && (len(kinds) == 0 || slices.Contains(kinds, appleFilters[p.Product.Kind])) {
						all = append(all, s.appleSign(env, s.applePayload(p, term, s.stamp())))
					}
				}
			}
			if r.URL.Query().Get("sort") == "DESCENDING" {
				slices.Reverse(all)
			}
			from := min(queryInt(r, "revision"), len(all)) // opaque to whoever asks
			to := min(from+applePage, len(all))
			return http.StatusOK, head(object{"signedTransactions": append([]string{}, all[from:to]...), "hasMore": to < len(all), "revision": strconv.Itoa(to)})
		}
	}
	get("/inApps/v2/history/{id}", history(func(*Term) bool { return true }, func(p *Purchase) []*Purchase {
		if p.Provider != Apple { // an aggregator's may have moved to another customer
			return []*Purchase{p}
		}
		return s.ofOwner(Apple, env, p.Owner)
	}))
	get("/inApps/v2/refund/lookup/{id}", history(func(t *Term) bool { return !t.RevokedAt.IsZero() }, func(p *Purchase) []*Purchase { return []*Purchase{p} }))
	get("/inApps/v1/transactions/{id}", func(_ *http.Request, x ref) (int, any) {
		return http.StatusOK, object{"signedTransactionInfo": s.appleSign(env, s.applePayload(x.p, x.term, s.stamp()))}
	})
	s.handle(mux, Apple, env, "POST /inApps/v1/notifications/history", func(r *http.Request) (int, any) { return s.appleNotifications(r, env) })
	s.handle(mux, Apple, env, "POST /inApps/v1/notifications/test", func(*http.Request) (int, any) {
		c := s.config.Credentials[env].Apple
		s.appleNotify(env, "", "TEST", "", s.stamp(), object{"bundleId": c.BundleID, "environment": appleEnvironments[env]})
		return http.StatusOK, object{"testNotificationToken": s.messages[len(s.messages)-1].ID}
	})
	s.handle(mux, Apple, env, "GET /inApps/v1/notifications/test/{token}", func(r *http.Request) (int, any) {
		for _, m := range s.messages {
			if m.ID == r.PathValue("token") {
				return http.StatusOK, appleSent(m)
			}
		}
		return http.StatusNotFound, appleError(4040008)
	})
	s.handle(mux, Apple, env, "PUT /inApps/v2/transactions/consumption/{id}", func(r *http.Request) (int, any) {
		if _, ok := s.applePurchase(env, r.PathValue("id")); !ok {
			return http.StatusNotFound, appleError(4040010)
		}
		return http.StatusAccepted, nil
	})
}

// appleSent is a notification with how its sending went.
func appleSent(m *Message) object {
	var body struct{ SignedPayload string }
	_ = json.Unmarshal(m.Body, &body) // it was made here
	attempts := []object{}
	for _, a := range m.Attempts {
		result := "SUCCESS"
		if a.Status == 0 {
			result = "NO_RESPONSE"
		} else if !deliveries[Apple].success(a.Status) {
			result = "UNSUCCESSFUL_HTTP_RESPONSE_CODE"
		}
		attempts = append(attempts, object{"attemptDate": a.At.UnixMilli(), "sendAttemptResult": result})
	}
	return object{"signedPayload": body.SignedPayload, "sendAttempts": attempts}
}

func (s *Sim) appleNotifications(r *http.Request, env Environment) (int, any) {
	var ask struct {
		StartDate, EndDate int64
		TransactionID      string `json:"transactionId"`
		NotificationType   string
		OnlyFailures       bool
	}
	if err := json.NewDecoder(http.MaxBytesReader(nil, r.Body, maxAnswerBytes)).Decode(&ask); err != nil || ask.StartDate == 0 || ask.EndDate == 0 {
		return http.StatusBadRequest, appleError(4000013)
	}
	var found []object
	for _, m := range s.messages {
		at := m.At.UnixMilli()
		if m.Provider != Apple || m.Env != env || at < ask.StartDate || at > ask.EndDate || ask.OnlyFailures && m.Done && !m.Lost {
			continue
		}
		if ask.TransactionID != "" {
			if x, ok := s.applePurchase(env, ask.TransactionID); !ok || x.p.ID != m.Purchase {
				continue
			}
		}
		found = append(found, appleSent(m))
	}
	from := min(queryInt(r, "paginationToken"), len(found))
	to := min(from+applePage, len(found))
	o := object{"notificationHistory": append([]object{}, found[from:to]...), "hasMore": to < len(found)}
	if to < len(found) {
		o["paginationToken"] = strconv.Itoa(to)
	}
	return http.StatusOK, o
}
