package storesim

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"math/big"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// googleTypes are those of subscriptionNotification.
var googleTypes = map[FactKind]int{
	Recovered: 1, Resumed: 1, Renewed: 2, RenewalOff: 3, Bought: 4, PaymentPending: 4, GraceExpired: 5, RenewalOn: 7, Extended: 9, PauseBegan: 10, PauseSet: 11, Expired: 13,
	ChangeScheduled: 17, PaymentFailed: 20, Replaced: 13, Resubscribed: 4,
}

// googleTokenLife is how long an access token is said to hold.
const googleTokenLife = time.Hour

// PurchaseToken is Play's name of a purchase, which the app hands in. Error: ErrRefused.
func (s *Sim) PurchaseToken(id string) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.purchases[id]
	if p == nil || p.Provider != Google {
		return "", refuse("no Play purchase %q", id)
	}
	return s.playToken(p), nil
}

func (s *Sim) playToken(p *Purchase) string {
	return "sim-token-" + s.id(24, "token", p.N) + ".AO-J1O" + s.id(40, "token tail", p.N)
}

// playOrder is the order id of a term: ..0 is the first renewal.
func (s *Sim) playOrder(p *Purchase, term int) string {
	n := s.number("order", p.N)
	id := fmt.Sprintf("GPA.%04d-%04d-%04d-%05d", 3300+n%100, n/100%10000, n/1_000_000%10000, n/100_000_000%100000)
	if term > 0 {
		id += ".." + strconv.Itoa(term-1)
	}
	return id
}

func rfc3339(t time.Time) any {
	if t.IsZero() {
		return nil
	}
	return t.UTC().Format("2006-01-02T15:04:05.000Z")
}

func googleMoney(cents int64) object {
	return object{"currencyCode": "EUR", "units": strconv.FormatInt(cents/100, 10), "nanos": cents % 100 * 10_000_000}
}

// playExpiry is the end as Play tells it: it contains the grace.
func playExpiry(p *Purchase) time.Time {
	switch {
	case p.Phase == Pending || p.Phase == Ended && p.EndReason == "unpaid":
		return time.Time{}
	case p.Phase == Grace:
		return p.GraceEnds
	case p.Phase == Ended && p.EndedAt.Before(p.last().EndsAt):
		return p.EndedAt
	}
	return p.last().EndsAt
}

func (s *Sim) playSubscription(p *Purchase) object {
	state := map[Phase]string{Pending: "PENDING", Active: "ACTIVE", Grace: "IN_GRACE_PERIOD", Retry: "ON_HOLD", Paused: "PAUSED", Ended: "EXPIRED"}[p.Phase]
	switch {
	case p.Phase == Ended && p.EndReason == "unpaid":
		state = "PENDING_PURCHASE_CANCELED"
	case p.Phase == Active && !p.WillRenew:
		state = "CANCELED"
	}
	t := p.last()
	product, plan := t.Product.split()
	renewing := object{"recurringPrice": googleMoney(p.Next.Cents)}
	if p.WillRenew && p.Phase != Ended {
		renewing["autoRenewEnabled"] = true
	}
	item := object{"productId": product, "expiryTime": rfc3339(playExpiry(p)), "autoRenewingPlan": renewing, "offerDetails": object{"basePlanId": plan, "offerTags": []any{}}, "offerPhase": object{"basePrice": object{}}}
	if t.Trial {
		item["offerPhase"] = object{"freeTrial": object{}}
		item["offerDetails"].(object)["offerId"] = "trial"
	}
	if t.Offer {
		item["offerPhase"] = object{"introductoryPrice": object{}}
		item["offerDetails"].(object)["offerId"], renewing["recurringPrice"] = "intro", googleMoney(t.Cents)
	}
	if !t.PaidAt.IsZero() {
		item["latestSuccessfulOrderId"] = s.playOrder(p, p.present())
	}
	items := []object{drop(item)}
	if next, plan := p.Next.split(); p.Next.ID != p.Product.ID && p.WillRenew && p.Phase != Ended {
		items[0]["deferredItemReplacement"] = object{"productId": next}
		items = append(items, object{"productId": next, "autoRenewingPlan": object{"autoRenewEnabled": true}, "offerDetails": object{"basePlanId": plan, "offerTags": []any{}}})
	}
	if replaced, mode := s.playReplaced(p); mode != "" {
		product, plan := replaced.split()
		items[0]["itemReplacement"] = object{"productId": product, "basePlanId": plan, "replacementMode": mode}
	}
	o := object{"kind": "androidpublisher#subscriptionPurchaseV2", "regionCode": "NL", "subscriptionState": "SUBSCRIPTION_STATE_" + state, "acknowledgementState": "ACKNOWLEDGEMENT_STATE_PENDING",
		"externalAccountIdentifiers": object{"obfuscatedExternalAccountId": p.Owner}, "etag": `"` + s.id(12, "etag", p.N, len(s.facts)) + `"`, "lineItems": items}
	if p.Phase != Pending {
		o["startTime"] = rfc3339(p.StartedAt)
	}
	if p.Taken {
		o["acknowledgementState"] = "ACKNOWLEDGEMENT_STATE_ACKNOWLEDGED"
	}
	if p.sandbox() {
		o["testPurchase"] = object{}
	}
	if old := s.purchases[p.Replaces]; old != nil {
		o["linkedPurchaseToken"] = s.playToken(old)
	}
	switch {
	case p.Phase == Ended && p.EndReason == "replaced":
		o["canceledStateContext"] = object{"replacementCancellation": object{}}
	case !p.WillRenew && p.EndReason == "refund":
		o["canceledStateContext"] = object{"developerInitiatedCancellation": object{}}
	case !p.WillRenew:
		o["canceledStateContext"] = object{"userInitiatedCancellation": drop(object{"cancelTime": rfc3339(p.TurnedOff)})}
	case p.Phase == Ended && p.EndReason == "billing":
		o["canceledStateContext"] = object{"systemInitiatedCancellation": object{}}
	}
	switch p.Phase {
	case Grace:
		o["inGracePeriodStateContext"] = object{"renewalDeclined": object{"pendingOrderId": s.playOrder(p, len(p.Terms))}}
	case Retry:
		o["onHoldStateContext"] = object{"renewalDeclined": object{"pendingOrderId": s.playOrder(p, len(p.Terms))}}
	case Paused:
		o["pausedStateContext"] = object{"autoResumeTime": rfc3339(p.ResumesAt)}
	}
	return o
}

// playReplaced is the product in whose place the present one is, and how it came there: Play shows that for 60 days.
func (s *Sim) playReplaced(p *Purchase) (product Product, mode string) {
	for term := p.present(); term >= 0 && s.clock.Sub(p.Terms[term].StartsAt) < 60*day; term-- {
		switch old := s.purchases[p.Replaces]; {
		case term > 0 && p.Terms[term-1].Product.ID != p.Product.ID:
			return p.Terms[term-1].Product, "DEFERRED"
		case term == 0 && old != nil && old.Product.ID != p.Product.ID:
			return old.Product, "CHARGE_FULL_PRICE"
		}
	}
	return product, ""
}

func (s *Sim) playSale(p *Purchase) object {
	t := &p.Terms[0]
	state := "PURCHASED"
	switch {
	case p.Phase == Pending:
		state = "PENDING"
	case t.PaidAt.IsZero() || !t.RevokedAt.IsZero():
		state = "CANCELLED"
	}
	refundable := p.Quantity - playGivenBack(t)
	if !t.RevokedAt.IsZero() {
		refundable = 0
	}
	offer := object{"purchaseOptionId": "buy", "quantity": p.Quantity, "refundableQuantity": refundable, "consumptionState": "CONSUMPTION_STATE_YET_TO_BE_CONSUMED"}
	o := object{"kind": "androidpublisher#productPurchaseV2", "purchaseStateContext": object{"purchaseState": state}, "acknowledgementState": "ACKNOWLEDGEMENT_STATE_PENDING", "orderId": s.playOrder(p, 0),
		"purchaseCompletionTime": rfc3339(t.PaidAt), "regionCode": "NL", "obfuscatedExternalAccountId": p.Owner, "productLineItem": []object{{"productId": p.Product.ID, "productOfferDetails": offer}}}
	if p.Taken {
		o["acknowledgementState"] = "ACKNOWLEDGEMENT_STATE_ACKNOWLEDGED"
		if p.Product.Kind == Consumable {
			offer["consumptionState"] = "CONSUMPTION_STATE_CONSUMED"
		}
	}
	if p.sandbox() {
		o["testPurchaseContext"] = object{"fopType": "TEST"}
	}
	return drop(o)
}

// playGivenBack is how many of what was sold at once were given back.
func playGivenBack(t *Term) int { return int(t.Refunded / max(t.Product.Cents, 1)) }

// The reasons of a Refunded, and Play's numbers of them; whatever else is remorse.
const (
	unacknowledged = "unacknowledged"
	chargeback     = "chargeback"
)

var playVoidedReasons = map[string]int{unacknowledged: 8, chargeback: 7, "": 1}

func (s *Sim) tellGoogle(p *Purchase, f Fact) {
	switch f.Kind {
	case DisputeOpened:
		s.googlePublish(p, "review", object{"pendingRefundReviewNotification": object{"version": "1.0", "pendingRefundToken": "sim-review-" + s.id(24, "review", p.N, p.Disputes), "orderId": s.playOrder(p, f.Term),
			"refundReason": playVoidedReasons[chargeback], "obfuscatedAccountId": p.Owner}})
		return
	case DisputeWon, DisputeLost:
		return // Play tells of the refund alone
	case Refunded:
		kind := 1
		if !p.recurs() {
			kind = 2
		}
		if p.recurs() && f.Term == p.present() {
			s.googleSubscription(p, 12)
		}
		refund := 1
		if !f.Full {
			refund = 2 // of some of several
		}
		s.googlePublish(p, "voided", object{"voidedPurchaseNotification": object{"purchaseToken": s.playToken(p), "orderId": s.playOrder(p, f.Term), "productType": kind, "refundType": refund}})
		return
	}
	if !p.recurs() {
		switch f.Kind {
		case Bought:
			s.googleOneTime(p, 1)
		case PaymentFailed:
			s.googleOneTime(p, 2)
		}
		return
	}
	kind := googleTypes[f.Kind]
	if f.Kind == RenewalFailed {
		kind = 6
		if f.Until.IsZero() {
			kind = 5
		}
	}
	if kind != 0 {
		s.googleSubscription(p, kind)
	}
	s.awaitAcknowledgement(p, f)
}

// awaitAcknowledgement takes a purchase back that nobody acknowledged in time.
func (s *Sim) awaitAcknowledgement(p *Purchase, f Fact) {
	within := s.config.Rules.AcknowledgeWithin
	if f.Kind != Bought || within == 0 {
		return
	}
	s.schedule(s.clock.Add(within), func() {
		if t := p.last(); !p.Taken && p.Phase != Ended && t.Cents > 0 {
			t.Refunded, t.Refunds, t.RefundedAt, t.RevokedAt = t.Cents, 1, s.clock, s.clock
			p.WillRenew, p.TurnedOff = false, s.clock
			s.finish(p, "refund")
			s.record(p, Fact{Kind: Refunded, Term: p.present(), Cents: t.Cents, Full: true, Reason: unacknowledged})
		}
	})
}

func (s *Sim) googleSubscription(p *Purchase, kind int) {
	s.googlePublish(p, "subscription/"+strconv.Itoa(kind), object{"subscriptionNotification": object{"version": "1.0", "notificationType": kind, "purchaseToken": s.playToken(p)}})
}

func (s *Sim) googleOneTime(p *Purchase, kind int) {
	s.googlePublish(p, "one_time/"+strconv.Itoa(kind), object{"oneTimeProductNotification": object{"version": "1.0", "notificationType": kind, "purchaseToken": s.playToken(p), "sku": p.Product.ID}})
}

func (s *Sim) googlePublish(p *Purchase, kind string, notification object) {
	at := s.stamp()
	notification["version"], notification["packageName"], notification["eventTimeMillis"] = "1.0", s.config.Credentials[p.Env].Google.Package, strconv.FormatInt(at.UnixMilli(), 10)
	id := strconv.FormatInt(13_000_000_000_000_000+s.number("pubsub", len(s.messages)), 10)
	s.send(&Message{ID: id, Provider: Google, Env: p.Env, Type: kind, Purchase: p.ID, Body: encode(object{"subscription": "projects/latchkey-sim/subscriptions/play-rtdn-push",
		"message": object{"attributes": object{}, "data": base64.StdEncoding.EncodeToString(encode(notification)), "messageId": id, "message_id": id, "publishTime": rfc3339(at), "publish_time": rfc3339(at)}})})
}

func googleError(code int, reason string) object {
	return object{"error": object{"code": code, "message": reason, "errors": []object{{"message": reason, "domain": "androidpublisher", "reason": reason}}}}
}

// googleToken is the access token of a service account. It holds for ever, and in every simulation with the account's key: a virtual clock may jump while a
// request is on its way.
func (s *Sim) googleToken(env Environment) string {
	c := s.config.Credentials[env].Google
	if c.service == nil {
		return "ya29." + s.id(40, "access", env)
	}
	sum := sha256.Sum256(c.service.N.Bytes())
	return "ya29." + hex.EncodeToString(sum[:20])
}

// JWKS is the key set of the simulated Google, as it is served under /oauth2/v3/certs.
func (s *Sim) JWKS(env Environment) any {
	key := s.config.Credentials[env].Google.key.PublicKey
	return object{"keys": []object{{"kty": "RSA", "alg": "RS256", "use": "sig", "kid": oidcKeyID, "n": base64url(key.N.Bytes()), "e": base64url(big.NewInt(int64(key.E)).Bytes())}}}
}

// googlePurchase finds a purchase by its token.
func (s *Sim) googlePurchase(env Environment, token string) *Purchase {
	x, _ := s.index.find("google "+string(env), token, func(x ref) string {
		if x.p.Store != PlayStore || x.p.Env != env || x.term >= 0 {
			return ""
		}
		return s.playToken(x.p)
	})
	return x.p
}

// googleAPI answers what the Android Publisher API answers, and Google's token and key addresses.
func (s *Sim) googleAPI(mux *http.ServeMux, env Environment) {
	s.handle(mux, Google, env, "GET /oauth2/v3/certs", func(*http.Request) (int, any) { return http.StatusOK, s.JWKS(env) })
	s.handle(mux, Google, env, "POST /token", func(r *http.Request) (int, any) {
		c := s.config.Credentials[env].Google
		form, err := readForm(r)
		if err != nil || form.Get("grant_type") != "urn:ietf:params:oauth:grant-type:jwt-bearer" {
			return http.StatusBadRequest, object{"error": "invalid_request"}
		}
		if said, ok := claims(form.Get("assertion"), c.service); c.service != nil && (!ok || said["iss"] != c.ServiceEmail || said["scope"] != "https://www.googleapis.com/auth/androidpublisher") {
			return http.StatusUnauthorized, object{"error": "invalid_grant"}
		}
		return http.StatusOK, object{"access_token": s.googleToken(env), "token_type": "Bearer", "expires_in": int(googleTokenLife.Seconds())}
	})
	const base = "/androidpublisher/v3/applications/{package}/purchases/"
	call := func(method, path string, answer func(r *http.Request, p *Purchase, verb string) (int, any)) {
		s.handle(mux, Google, env, method+" "+base+path, func(r *http.Request) (int, any) {
			token, verb, _ := strings.Cut(r.PathValue("token"), ":")
			p := s.googlePurchase(env, token)
			if p == nil || r.PathValue("package") != s.config.Credentials[env].Google.Package {
				return http.StatusNotFound, googleError(http.StatusNotFound, "purchaseTokenNotFound")
			}
			return answer(r, p, verb)
		})
	}
	call("GET", "subscriptionsv2/tokens/{token}", func(_ *http.Request, p *Purchase, _ string) (int, any) {
		switch {
		case !p.recurs():
			return http.StatusBadRequest, googleError(http.StatusBadRequest, "invalid")
		case p.Phase == Ended && s.clock.Sub(p.EndedAt) > 60*day:
			return http.StatusGone, googleError(http.StatusGone, "subscriptionNoLongerAvailable")
		}
		return http.StatusOK, s.playSubscription(p)
	})
	call("GET", "productsv2/tokens/{token}", func(_ *http.Request, p *Purchase, _ string) (int, any) {
		if p.recurs() {
			return http.StatusBadRequest, googleError(http.StatusBadRequest, "invalid")
		}
		return http.StatusOK, s.playSale(p)
	})
	take := func(_ *http.Request, p *Purchase, verb string) (int, any) {
		if verb != "acknowledge" && verb != "consume" || p.Phase == Pending {
			return http.StatusBadRequest, googleError(http.StatusBadRequest, "invalid")
		}
		p.Taken = true
		return http.StatusOK, object{}
	}
	call("POST", "subscriptions/{product}/tokens/{token}", take)
	call("POST", "products/{product}/tokens/{token}", take)
	s.handle(mux, Google, env, "GET "+base+"voidedpurchases", func(r *http.Request) (int, any) { return s.playVoided(r, env) })
}

// playVoided lists what was given back, the oldest first.
func (s *Sim) playVoided(r *http.Request, env Environment) (int, any) {
	list := []object{}
	start, end := int64(queryInt(r, "startTime")), int64(queryInt(r, "endTime"))
	for _, f := range s.facts {
		p := s.purchases[f.Purchase]
		at := f.At.UnixMilli()
		if f.Kind != Refunded || p.Provider != Google || p.Env != env || p.recurs() && queryInt(r, "type") != 1 || at < start || end > 0 && at > end {
			continue
		}
		if !f.Full && r.URL.Query().Get("includeQuantityBasedPartialRefund") != "true" {
			continue
		}
		voided := object{"kind": "androidpublisher#voidedPurchase", "purchaseToken": s.playToken(p), "orderId": s.playOrder(p, f.Term), "purchaseTimeMillis": strconv.FormatInt(p.Terms[f.Term].StartsAt.UnixMilli(), 10),
			"voidedTimeMillis": strconv.FormatInt(at, 10), "voidedSource": 1, "voidedReason": playVoidedReasons[f.Reason]}
		if !f.Full {
			voided["voidedQuantity"] = f.Cents / p.Product.Cents
		}
		list = append(list, voided)
	}
	slices.SortStableFunc(list, func(a, b object) int {
		return strings.Compare(a["voidedTimeMillis"].(string), b["voidedTimeMillis"].(string))
	})
	limit := max(queryInt(r, "maxResults"), 1)
	from := min(queryInt(r, "token"), len(list))
	to := min(from+limit, len(list))
	o := object{"voidedPurchases": list[from:to]}
	if to < len(list) {
		o["tokenPagination"] = object{"nextPageToken": strconv.Itoa(to)}
	}
	return http.StatusOK, o
}

func readForm(r *http.Request) (url.Values, error) {
	r.Body = http.MaxBytesReader(nil, r.Body, maxAnswerBytes)
	err := r.ParseForm()
	return r.PostForm, err
}
