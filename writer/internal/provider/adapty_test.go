package provider

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/latchkey/latchkey/pkg/entitlement"
)

const adaptyAuthorization = "Bearer canary-authorization"

func newAdapty(t testing.TB) *Adapty {
	t.Helper()
	a, err := NewAdapty(AdaptyConfig{Authorizations: []string{"an older one", adaptyAuthorization}, EventNames: map[string]string{"Began!": "subscription_started"}})
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// The story of the tests: a month of pro, bought on the first of November.
var (
	adaptyBought = time.Date(2026, time.November, 1, 8, 20, 11, 0, time.UTC)
	adaptyEnds   = adaptyBought.AddDate(0, 1, 0)
)

const (
	adaptyBuyer     = "3c1f6a52-2b0e-4a38-9a51-0c2d8a3f7e10"
	adaptyInheritor = "b7a0c1de-11aa-4c7c-8a2b-9d0e1f2a3b4c"
	adaptyAccountA  = "acc_01JD0000000000000000000001"
	adaptyAccountB  = "acc_01JD0000000000000000000002"
)

// adaptyStamp writes a time as webhooks do: the offset has no colon.
func adaptyStamp(t time.Time) string { return t.Format("2006-01-02T15:04:05.000000-0700") }

type props = map[string]any

// adaptyMessage is an event of the buyer about the month of pro, with what more says.
func adaptyMessage(kind string, at time.Time, more ...props) string {
	properties := props{"profile_id": adaptyBuyer, "environment": "Production", "store": "app_store", "vendor_product_id": "com.example.pro_monthly",
		"transaction_id": "2000000912345678", "original_transaction_id": "2000000912345678", "purchase_date": adaptyStamp(adaptyBought),
		"original_purchase_date": adaptyStamp(adaptyBought), "subscription_expires_at": adaptyStamp(adaptyEnds), "price_local": 9.99, "currency": "USD"}
	message := props{"profile_id": adaptyBuyer, "customer_user_id": adaptyAccountA, "event_type": kind, "event_datetime": adaptyStamp(at), "event_api_version": 1,
		"email": nil, "profiles_sharing_access_level": nil, "event_properties": properties}
	if kind == "access_level_updated" {
		maps.Copy(properties, props{"access_level_id": "premium", "is_active": true, "is_lifetime": false, "is_in_grace_period": false, "is_refund": false,
			"will_renew": true, "starts_at": nil, "activated_at": adaptyStamp(adaptyBought), "expires_at": adaptyStamp(adaptyEnds)})
	}
	for _, m := range more {
		for name, value := range m {
			if _, top := message[name]; top && name != "profile_id" {
				message[name] = value
			} else if name == "profile_id" {
				message[name], properties[name] = value, value
			} else {
				properties[name] = value
			}
		}
	}
	if _, given := properties["profile_event_id"]; !given {
		body := marshal(message)
		properties["profile_event_id"] = fmt.Sprintf("0d5b8a4e-7b8b-4f0d-9f0e-%012x", rand.NewPCG(uint64(len(body)), uint64(at.UnixNano()^int64(len(kind)))).Uint64()>>16)
	}
	return marshal(message)
}

func (a *Adapty) read(t testing.TB, body string) entitlement.Event {
	t.Helper()
	ev, err := a.Parse([]byte(body), entitlement.Production)
	if err != nil {
		t.Fatalf("Parse: %v", err)
	}
	return ev
}

// tell returns what messages prove about the sale: the hint about the profile belongs to the profile.
func tell(t testing.TB, p interface {
	Parse([]byte, entitlement.Environment) (entitlement.Event, error)
}, messages ...string) entitlement.Evidence {
	t.Helper()
	var e entitlement.Evidence
	for _, body := range messages {
		ev, err := p.Parse([]byte(body), entitlement.Production)
		if err != nil || ev.Kind == entitlement.Unreadable {
			t.Fatalf("Parse of %s: %s, %v", body, ev.Raw, err)
		}
		for _, o := range ev.Objects {
			if !strings.Contains(string(o.Links[0]), ":customer:") {
				e = e.Add(o)
			}
		}
	}
	return e
}

// pro is the account's access to pro at a time, by a catalog that knows the product's own name and by one that knows the access level alone.
func pro(t testing.TB, e entitlement.Evidence, at time.Time, by entitlement.Provider) entitlement.Entitlement {
	t.Helper()
	p := entitlement.Fold(e, entitlement.Policy{})
	x := entitlement.NewCatalogIndex(&entitlement.Catalog{
		Products: []entitlement.Product{
			{Provider: entitlement.Apple, ID: "com.example.pro_monthly", Kind: entitlement.KindRecurring, Entitlements: []string{"pro"}, Plan: "monthly"},
			{Provider: entitlement.Apple, ID: "com.example.pro_yearly", Kind: entitlement.KindRecurring, Entitlements: []string{"pro"}, Plan: "yearly"},
			{Provider: entitlement.Apple, ID: "com.example.lifetime", Kind: entitlement.KindNonConsumable, Entitlements: []string{"pro"}, Plan: "lifetime"},
			{Provider: entitlement.Google, ID: "pro:monthly", Kind: entitlement.KindRecurring, Entitlements: []string{"pro"}, Plan: "monthly"},
		},
		Aggregator: []entitlement.AggregatorEntitlement{{Provider: by, ID: "premium", Entitlement: "pro"}},
	})
	account := entitlement.Account{Purchases: []entitlement.Purchase{p}}
	for _, ent := range account.View(x, at.Unix(), nil).Entitlements {
		if ent.ID == "pro" {
			return ent
		}
	}
	return entitlement.Entitlement{}
}

func TestAdaptyVerify(t *testing.T) {
	a := newAdapty(t)
	for name, tt := range map[string]struct {
		values []string
		want   error
	}{
		"the text":               {[]string{adaptyAuthorization}, nil},
		"the older text":         {[]string{"an older one"}, nil},
		"none":                   {nil, ErrSignature},
		"an empty one":           {[]string{""}, ErrSignature},
		"two":                    {[]string{adaptyAuthorization, adaptyAuthorization}, ErrSignature},
		"without its scheme":     {[]string{"canary-authorization"}, ErrSignature},
		"with a blank behind":    {[]string{adaptyAuthorization + " "}, ErrSignature},
		"in another case":        {[]string{strings.ToLower(adaptyAuthorization)}, ErrSignature},
		"a beginning of it":      {[]string{adaptyAuthorization[:10]}, ErrSignature},
		"a very long one":        {[]string{strings.Repeat("x", 1<<20)}, ErrSignature},
		"the text and some more": {[]string{adaptyAuthorization + "x"}, ErrSignature},
	} {
		header := http.Header{}
		for _, v := range tt.values {
			header.Add("Authorization", v)
		}
		if err := a.Verify(Request{Header: header, Body: []byte("{}")}, time.Now()); !errors.Is(err, tt.want) || (tt.want == nil) != (err == nil) {
			t.Errorf("%s: Verify() = %v, want %v", name, err, tt.want)
		}
	}
	if got := a.Delivery().RefusedStatus; got != http.StatusServiceUnavailable {
		t.Errorf("a refused message is answered %d; Adapty repeats no 4xx", got)
	}
	for _, c := range []AdaptyConfig{{}, {Authorizations: []string{""}}, {Authorizations: []string{" x"}}, {Authorizations: []string{"x"}, EventNames: map[string]string{"a": "b"}}} {
		if _, err := NewAdapty(c); err == nil || strings.Contains(err.Error(), "x ") {
			t.Errorf("NewAdapty(%+v) = %v, want an error", c, err)
		}
	}
}

func TestAdaptyHandshake(t *testing.T) {
	for _, tt := range []struct {
		body, answer string
		ok           bool
	}{
		{`{}`, `{}`, true},
		{" {\n} ", `{}`, true},
		{`{"adapty_check":"k3J9"}`, `{"adapty_check_response":"k3J9"}`, true},
		{`{"adapty_check":"a\"}<b"}`, `{"adapty_check_response":"a\"}\u003cb"}`, true},
		{`{"adapty_check":5}`, ``, false},
		{`{"adapty_check":"x","event_type":"trial_started"}`, ``, false},
		{`{"event_type":"trial_started"}`, ``, false},
		{`[]`, ``, false},
		{``, ``, false},
		{`{`, ``, false},
		{`{"adapty_check":"` + strings.Repeat("x", 600) + `"}`, ``, false},
	} {
		answer, ok := newAdapty(t).Delivery().Handshake(Request{Body: []byte(tt.body)})
		if string(answer) != tt.answer || ok != tt.ok {
			t.Errorf("Handshake(%.60s) = %s, %t, want %s, %t", tt.body, answer, ok, tt.answer, tt.ok)
		}
	}
}

// What each event type comes to, told alone behind the purchase, without profile reads: with the state event switched off, and with it.
func TestWhatAdaptyEventsGive(t *testing.T) {
	const day = 24 * time.Hour
	var (
		started  = adaptyMessage("subscription_started", adaptyBought)
		trial    = adaptyMessage("trial_started", adaptyBought, props{"subscription_expires_at": adaptyStamp(adaptyBought.Add(7 * day))})
		state    = adaptyMessage("access_level_updated", adaptyBought.Add(time.Second))
		tenth    = adaptyBought.Add(9 * day)
		grace    = adaptyEnds.Add(16 * day)
		renewed  = props{"transaction_id": "2000000934567890", "purchase_date": adaptyStamp(adaptyEnds), "renewed_at": adaptyStamp(adaptyEnds), "subscription_expires_at": adaptyStamp(adaptyEnds.AddDate(0, 1, 0)), "expires_at": adaptyStamp(adaptyEnds.AddDate(0, 1, 0))}
		yearly   = props{"transaction_id": "2000000999999999", "vendor_product_id": "com.example.pro_yearly", "purchase_date": adaptyStamp(tenth), "renewed_at": adaptyStamp(tenth), "subscription_expires_at": adaptyStamp(tenth.AddDate(1, 0, 0)), "expires_at": adaptyStamp(tenth.AddDate(1, 0, 0))}
		inGrace  = adaptyMessage("entered_grace_period", adaptyEnds.Add(time.Minute), props{"subscription_expires_at": adaptyStamp(grace)})
		lifetime = props{"vendor_product_id": "com.example.lifetime", "subscription_expires_at": nil, "expires_at": nil, "is_lifetime": true, "will_renew": false}
	)
	tests := []struct {
		name     string
		messages []string
		at       time.Time
		status   entitlement.Status
		reason   entitlement.Reason
		until    time.Time // end of access; zero: never
		renews   bool
	}{
		{"a purchase", []string{started}, tenth, entitlement.StatusActive, entitlement.ReasonPaid, adaptyEnds.Add(day), true},
		{"a purchase by its other name", []string{adaptyMessage("subscription_initial_purchase", adaptyBought)}, tenth, entitlement.StatusActive, entitlement.ReasonPaid, adaptyEnds.Add(day), true},
		{"a purchase by the merchant's name", []string{adaptyMessage("Began!", adaptyBought)}, tenth, entitlement.StatusActive, entitlement.ReasonPaid, adaptyEnds.Add(day), true},
		{"a state", []string{state}, tenth, entitlement.StatusActive, entitlement.ReasonPaid, adaptyEnds.Add(day), true},
		{"purchase and state", []string{started, state}, tenth, entitlement.StatusActive, entitlement.ReasonPaid, adaptyEnds.Add(day), true},
		{"a trial", []string{trial}, adaptyBought.Add(day), entitlement.StatusTrialing, entitlement.ReasonTrial, adaptyBought.Add(7*day + 7*day/10), true},
		{"a trial that will not convert", []string{trial, adaptyMessage("trial_renewal_cancelled", adaptyBought.Add(day))}, adaptyBought.Add(2 * day), entitlement.StatusTrialing, entitlement.ReasonCancelledUntilEnd, adaptyBought.Add(7 * day), false},
		{"the same by its other name", []string{trial, adaptyMessage("trial_cancelled", adaptyBought.Add(day))}, adaptyBought.Add(2 * day), entitlement.StatusTrialing, entitlement.ReasonCancelledUntilEnd, adaptyBought.Add(7 * day), false},
		{"a trial that will convert after all", []string{trial, adaptyMessage("trial_renewal_cancelled", adaptyBought.Add(day)), adaptyMessage("trial_renewal_reactivated", adaptyBought.Add(2*day))}, adaptyBought.Add(3 * day), entitlement.StatusTrialing, entitlement.ReasonTrial, adaptyBought.Add(7*day + 7*day/10), true},
		{"a trial that ended", []string{trial, adaptyMessage("trial_expired", adaptyBought.Add(7*day), props{"subscription_expires_at": adaptyStamp(adaptyBought.Add(7 * day))})}, adaptyBought.Add(8 * day), entitlement.StatusExpired, entitlement.ReasonExpired, adaptyBought.Add(7 * day), false},
		{"a trial that was converted", []string{trial, adaptyMessage("trial_converted", adaptyBought.Add(7*day), props{"transaction_id": "2000000934567890", "purchase_date": adaptyStamp(adaptyBought.Add(7 * day))})}, tenth, entitlement.StatusActive, entitlement.ReasonPaid, adaptyEnds.Add(day), true},
		{"a renewal", []string{started, adaptyMessage("subscription_renewed", adaptyEnds, renewed)}, adaptyEnds.Add(2 * day), entitlement.StatusActive, entitlement.ReasonPaid, adaptyEnds.AddDate(0, 1, 0).Add(day), true},
		{"a cancel", []string{started, adaptyMessage("subscription_renewal_cancelled", tenth)}, tenth, entitlement.StatusActive, entitlement.ReasonCancelledUntilEnd, adaptyEnds, false},
		{"a cancel by its other name", []string{started, adaptyMessage("subscription_cancelled", tenth)}, tenth, entitlement.StatusActive, entitlement.ReasonCancelledUntilEnd, adaptyEnds, false},
		{"a cancel by state", []string{started, state, adaptyMessage("subscription_renewal_cancelled", tenth), adaptyMessage("access_level_updated", tenth, props{"will_renew": false})}, tenth, entitlement.StatusActive, entitlement.ReasonCancelledUntilEnd, adaptyEnds, false},
		{"a cancel that was undone", []string{started, adaptyMessage("subscription_renewal_cancelled", tenth), adaptyMessage("subscription_renewal_reactivated", tenth.Add(day))}, tenth.Add(day), entitlement.StatusActive, entitlement.ReasonPaid, adaptyEnds.Add(day), true},
		{"an end", []string{started, adaptyMessage("subscription_renewal_cancelled", tenth), adaptyMessage("subscription_expired", adaptyEnds)}, adaptyEnds, entitlement.StatusExpired, entitlement.ReasonExpired, adaptyEnds, false},
		{"Stripe's cancel at once, told in one moment, the cancel with the later time", []string{started, adaptyMessage("subscription_renewal_cancelled", tenth.Add(2*time.Second)), adaptyMessage("subscription_expired", tenth)}, tenth.Add(time.Minute), entitlement.StatusExpired, entitlement.ReasonExpired, tenth, false},
		{"the same by state", []string{started, state, adaptyMessage("subscription_renewal_cancelled", tenth.Add(2*time.Second)), adaptyMessage("subscription_expired", tenth), adaptyMessage("access_level_updated", tenth.Add(time.Second), props{"is_active": false, "will_renew": false, "expires_at": adaptyStamp(tenth), "cancellation_reason": "voluntarily_cancelled"})}, tenth.Add(time.Minute), entitlement.StatusExpired, entitlement.ReasonExpired, tenth, false},
		{"bought again after the end", []string{started, adaptyMessage("subscription_expired", adaptyEnds), adaptyMessage("subscription_renewed", adaptyEnds.Add(3*day), renewed, props{"purchase_date": adaptyStamp(adaptyEnds.Add(3 * day))})}, adaptyEnds.Add(4 * day), entitlement.StatusActive, entitlement.ReasonPaid, adaptyEnds.AddDate(0, 1, 0).Add(day), true},
		{"a pause that is to come", []string{started, adaptyMessage("subscription_paused", tenth)}, tenth, entitlement.StatusActive, entitlement.ReasonPaid, adaptyEnds, true},
		{"a pause has begun", []string{started, state, adaptyMessage("subscription_paused", tenth), adaptyMessage("access_level_updated", adaptyEnds, props{"is_active": false, "will_renew": true})}, adaptyEnds, entitlement.StatusExpired, entitlement.ReasonExpired, adaptyEnds, false},
		{"a term that Play made longer", []string{started, adaptyMessage("subscription_deferred", tenth, props{"subscription_expires_at": adaptyStamp(adaptyEnds.Add(5 * day))})}, tenth, entitlement.StatusActive, entitlement.ReasonPaid, adaptyEnds.Add(6 * day), true},
		{"a refund", []string{started, adaptyMessage("subscription_refunded", tenth, props{"cancellation_reason": "refund", "subscription_expires_at": adaptyStamp(tenth)})}, tenth, entitlement.StatusRefunded, entitlement.ReasonRefunded, tenth, true},
		{"a refund by state", []string{started, state, adaptyMessage("access_level_updated", tenth, props{"is_active": false, "is_refund": true, "will_renew": false, "expires_at": adaptyStamp(tenth), "cancellation_reason": "refund"})}, tenth, entitlement.StatusRefunded, entitlement.ReasonRefunded, tenth, false},
		{"the refund of the month before leaves this one", []string{started, adaptyMessage("subscription_renewed", adaptyEnds, renewed), adaptyMessage("subscription_refunded", adaptyEnds.Add(day))}, adaptyEnds.Add(2 * day), entitlement.StatusActive, entitlement.ReasonPaid, adaptyEnds.AddDate(0, 1, 0).Add(day), true},
		{"a refund of a renewal that Apple told a day early", []string{started, state,
			adaptyMessage("access_level_updated", adaptyEnds, renewed),
			adaptyMessage("access_level_updated", adaptyEnds.Add(-10*time.Hour), renewed, props{"is_active": false, "is_refund": true, "will_renew": false, "expires_at": adaptyStamp(adaptyEnds.Add(-10 * time.Hour))})}, adaptyEnds, entitlement.StatusExpired, entitlement.ReasonExpired, adaptyEnds, false},
		{"a change of product at once: the old one's end is told last", []string{started, state,
			adaptyMessage("access_level_updated", tenth, yearly), adaptyMessage("subscription_started", tenth, yearly),
			adaptyMessage("subscription_refunded", tenth.Add(time.Second), props{"cancellation_reason": "upgraded"}),
			adaptyMessage("access_level_updated", tenth.Add(2*time.Second), props{"is_active": false, "is_refund": true, "cancellation_reason": "upgraded", "will_renew": false, "expires_at": adaptyStamp(tenth)})}, tenth.Add(time.Minute), entitlement.StatusActive, entitlement.ReasonPaid, tenth.AddDate(1, 0, 0).Add(day), true},
		{"the refund of a change of product takes nothing by itself", []string{started, state, adaptyMessage("subscription_refunded", tenth, props{"cancellation_reason": "upgraded"})}, tenth, entitlement.StatusActive, entitlement.ReasonPaid, adaptyEnds.Add(day), true},
		{"a failed charge", []string{started, adaptyMessage("billing_issue_detected", adaptyEnds)}, adaptyEnds, entitlement.StatusBillingRetry, entitlement.ReasonBillingRetry, adaptyEnds, true},
		{"a failed charge with grace", []string{started, adaptyMessage("billing_issue_detected", adaptyEnds), adaptyMessage("entered_grace_period", adaptyEnds, props{"subscription_expires_at": adaptyStamp(grace)})}, adaptyEnds.Add(day), entitlement.StatusBillingGrace, entitlement.ReasonBillingGrace, grace, true},
		{"cancelled in a grace: it goes on", []string{started, inGrace, adaptyMessage("subscription_renewal_cancelled", adaptyEnds.Add(day))}, adaptyEnds.Add(3 * day), entitlement.StatusBillingGrace, entitlement.ReasonBillingGrace, grace, true},
		{"reactivated in a grace: it goes on", []string{started, inGrace, adaptyMessage("subscription_renewal_reactivated", adaptyEnds.Add(day))}, adaptyEnds.Add(3 * day), entitlement.StatusBillingGrace, entitlement.ReasonBillingGrace, grace, true},
		{"a pause in a grace: it goes on", []string{started, inGrace, adaptyMessage("subscription_paused", adaptyEnds.Add(day))}, adaptyEnds.Add(3 * day), entitlement.StatusBillingGrace, entitlement.ReasonBillingGrace, grace, true},
		{"cancelled before a grace that comes all the same", []string{started, adaptyMessage("subscription_renewal_cancelled", tenth), inGrace}, adaptyEnds.Add(3 * day), entitlement.StatusBillingGrace, entitlement.ReasonBillingGrace, grace, true},
		{"reactivated while the charge is retried: no access by that", []string{started, adaptyMessage("billing_issue_detected", adaptyEnds), adaptyMessage("subscription_renewal_reactivated", adaptyEnds.Add(time.Hour))}, adaptyEnds.Add(2 * time.Hour), entitlement.StatusBillingRetry, entitlement.ReasonBillingRetry, adaptyEnds, true},
		{"a pause that is told when it begins", []string{started, adaptyMessage("subscription_paused", adaptyEnds.Add(time.Minute))}, adaptyEnds.Add(time.Hour), entitlement.StatusExpired, entitlement.ReasonExpired, adaptyEnds, true},
		{"a renewal after such a pause", []string{started, adaptyMessage("subscription_paused", adaptyEnds.Add(time.Minute)), adaptyMessage("subscription_renewed", adaptyEnds, renewed)}, adaptyEnds.Add(2 * day), entitlement.StatusActive, entitlement.ReasonPaid, adaptyEnds.AddDate(0, 1, 0).Add(day), true},
		{"grace by state", []string{started, state, adaptyMessage("access_level_updated", adaptyEnds.Add(4*time.Second), props{"is_in_grace_period": true, "expires_at": adaptyStamp(grace), "billing_issue_detected_at": adaptyStamp(adaptyEnds)})}, adaptyEnds.Add(day), entitlement.StatusBillingGrace, entitlement.ReasonBillingGrace, grace, true},
		{"grace by state alone", []string{adaptyMessage("access_level_updated", adaptyEnds.Add(4*time.Second), props{"is_in_grace_period": true, "expires_at": adaptyStamp(grace), "billing_issue_detected_at": adaptyStamp(adaptyEnds)})}, adaptyEnds.Add(day), entitlement.StatusBillingGrace, entitlement.ReasonBillingGrace, grace, true},
		{"the charge is retried and access has stopped, by state", []string{started, state, adaptyMessage("access_level_updated", adaptyEnds.Add(4*time.Second), props{"is_active": false, "billing_issue_detected_at": adaptyStamp(adaptyEnds)})}, adaptyEnds.Add(day), entitlement.StatusBillingRetry, entitlement.ReasonBillingRetry, adaptyEnds, true},
		{"the money never came", []string{started, state, adaptyMessage("access_level_updated", adaptyEnds.Add(60*day), props{"is_active": false, "billing_issue_detected_at": adaptyStamp(adaptyEnds), "cancellation_reason": "billing_error", "will_renew": false})}, adaptyEnds.Add(61 * day), entitlement.StatusExpired, entitlement.ReasonExpired, adaptyEnds, false},
		{"a lifetime purchase", []string{adaptyMessage("non_subscription_purchase", adaptyBought, lifetime)}, adaptyEnds.AddDate(10, 0, 0), entitlement.StatusActive, entitlement.ReasonPaid, time.Time{}, false},
		{"a lifetime purchase by state", []string{adaptyMessage("access_level_updated", adaptyBought, lifetime)}, adaptyEnds.AddDate(10, 0, 0), entitlement.StatusActive, entitlement.ReasonPaid, time.Time{}, false},
		{"its refund", []string{adaptyMessage("non_subscription_purchase", adaptyBought, lifetime), adaptyMessage("access_level_updated", adaptyBought, lifetime), adaptyMessage("non_subscription_purchase_refunded", tenth, lifetime)}, tenth, entitlement.StatusRefunded, entitlement.ReasonRefunded, tenth, false},
		{"given in the dashboard", []string{adaptyMessage("access_level_updated", adaptyBought, props{"vendor_product_id": "adapty_dashboard_product", "store": "adapty", "will_renew": false})}, tenth, entitlement.StatusActive, entitlement.ReasonPromo, adaptyEnds, false},
		{"given by the server for ever", []string{adaptyMessage("access_level_updated", adaptyBought, props{"vendor_product_id": "adapty_server_side_product", "store": "adapty", "will_renew": false, "expires_at": nil, "transaction_id": nil, "original_transaction_id": nil})}, tenth, entitlement.StatusActive, entitlement.ReasonPromo, time.Time{}, false},
		{"given and taken", []string{adaptyMessage("access_level_updated", adaptyBought, props{"vendor_product_id": "adapty_promotion", "store": "adapty"}), adaptyMessage("access_level_updated", tenth, props{"vendor_product_id": "adapty_promotion", "store": "adapty", "is_active": false, "cancellation_reason": "adapty_revoked", "expires_at": adaptyStamp(tenth)})}, tenth, entitlement.StatusExpired, entitlement.ReasonExpired, tenth, false},
		{"given from next month on", []string{adaptyMessage("access_level_updated", adaptyBought, props{"vendor_product_id": "adapty_dashboard_product", "store": "adapty", "is_active": false, "starts_at": adaptyStamp(adaptyEnds), "expires_at": nil})}, tenth, entitlement.StatusPending, "", time.Time{}, false},
		{"it moved to another user, who is told of first", []string{started, state,
			adaptyMessage("access_level_updated", tenth, props{"profile_id": adaptyInheritor, "customer_user_id": adaptyAccountB}),
			adaptyMessage("access_level_updated", tenth.Add(time.Second), props{"is_active": false, "profile_has_access_level": false})}, tenth, entitlement.StatusActive, entitlement.ReasonPaid, adaptyEnds.Add(day), true},
		{"a product of Play with its base plan", []string{adaptyMessage("subscription_started", adaptyBought, props{"store": "play_store", "vendor_product_id": "pro", "base_plan_id": "monthly", "transaction_id": "GPA.3301-2210-9981-10293", "original_transaction_id": "GPA.3301-2210-9981-10293"})}, tenth, entitlement.StatusActive, entitlement.ReasonPaid, adaptyEnds.Add(day), true},
		{"a product that only the access level names", []string{adaptyMessage("access_level_updated", adaptyBought, props{"vendor_product_id": "who.knows", "store": "paddle"})}, tenth, entitlement.StatusActive, entitlement.ReasonPaid, adaptyEnds.Add(day), true},
	}
	a := newAdapty(t)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			e := tell(t, a, tt.messages...)
			got := pro(t, e, tt.at, entitlement.Adapty)
			if tt.status == entitlement.StatusPending {
				got.Reason, got.AccessUntil = "", 0
			}
			if until := unixOf(tt.until); got.Status != tt.status || got.Reason != tt.reason || got.AccessUntil != until || got.WillRenew != tt.renews {
				t.Errorf("got %s %s until %s, renews %t\nwant %s %s until %s, renews %t\n%+v", got.Status, got.Reason, time.Unix(got.AccessUntil, 0).UTC(), got.WillRenew,
					tt.status, tt.reason, time.Unix(until, 0).UTC(), tt.renews, e.Objects)
			}
			for _, d := range e.Doubts() {
				if !d.Echo {
					t.Errorf("in doubt: %+v", d)
				}
			}
			random := rand.New(rand.NewPCG(1, 30))
			for range 30 {
				again := slices.Concat(tt.messages, tt.messages[:1])
				random.Shuffle(len(again), func(i, j int) { again[i], again[j] = again[j], again[i] })
				if other := tell(t, a, again...); !reflect.DeepEqual(other, e) {
					t.Fatalf("the order counts: %+v, then %+v", e, other)
				}
			}
		})
	}
}

// TestWhoseAnAdaptySaleIs defends R32.
func TestWhoseAnAdaptySaleIs(t *testing.T) {
	var (
		started = adaptyMessage("subscription_started", adaptyBought)
		state   = adaptyMessage("access_level_updated", adaptyBought.Add(time.Second))
		later   = adaptyBought.AddDate(0, 0, 9)
		b       = props{"profile_id": adaptyInheritor, "customer_user_id": adaptyAccountB}
		withB   = props{"profiles_sharing_access_level": []any{map[string]any{"profile_id": adaptyInheritor, "customer_user_id": adaptyAccountB}}}
		withA   = props{"profiles_sharing_access_level": []any{map[string]any{"profile_id": adaptyBuyer, "customer_user_id": adaptyAccountA}}}
		nobody  = props{"customer_user_id": nil}
		renewed = props{"transaction_id": "2000000934567890", "purchase_date": adaptyStamp(adaptyEnds), "expires_at": adaptyStamp(adaptyEnds.AddDate(0, 1, 0))}
	)
	tests := []struct {
		name     string
		messages []string
		owner    entitlement.AccountID
		shares   bool
	}{
		{"the buyer's", []string{started}, adaptyAccountA, false},
		{"whom the state names", []string{state}, adaptyAccountA, false},
		{"shared, both told of: the buyer's", []string{started, adaptyMessage("access_level_updated", later, withB), adaptyMessage("access_level_updated", later.Add(time.Second), b, withA)}, adaptyAccountA, true},
		{"shared since, by the other's event alone: the buyer's", []string{state, adaptyMessage("access_level_updated", later, b, withA)}, adaptyAccountA, true},
		{"shared no longer", []string{started, adaptyMessage("access_level_updated", later, withB), adaptyMessage("access_level_updated", adaptyEnds, renewed)}, adaptyAccountA, false},
		{"shared, and renewed", []string{started, adaptyMessage("access_level_updated", later, withB), adaptyMessage("subscription_renewed", adaptyEnds, renewed)}, adaptyAccountA, true},
		{"moved: the new user's", []string{started, state, adaptyMessage("access_level_updated", later, props{"is_active": false}), adaptyMessage("access_level_updated", later, b)}, adaptyAccountB, false},
		{"moved, and its renewal is told under the buyer: the new user's", []string{started, adaptyMessage("access_level_updated", later, b), adaptyMessage("subscription_renewed", adaptyEnds, renewed)}, adaptyAccountB, false},
		{"bought before the login", []string{adaptyMessage("subscription_started", adaptyBought, nobody), adaptyMessage("subscription_renewed", adaptyEnds, renewed)}, adaptyAccountA, false},
		{"bought by nobody who is known", []string{adaptyMessage("subscription_started", adaptyBought, nobody)}, "", false},
	}
	a := newAdapty(t)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			e := tell(t, a, tt.messages...)
			if got := e.Identity(); got.Account != tt.owner || len(got.Aliases) == 0 {
				t.Errorf("Identity() = %+v, want the account %q and a profile", got, tt.owner)
			}
			if shares := slices.Contains(e.Shares(), entitlement.Alias{Kind: entitlement.AdaptyCustomerUser, Value: adaptyAccountB}); shares != tt.shares {
				t.Errorf("B has a share: %t, want %t", shares, tt.shares)
			}
		})
	}
}

func TestAdaptyEvents(t *testing.T) {
	a := newAdapty(t)
	own, other := MarkedEnd(adaptyEnds), adaptyEnds.Add(time.Second)
	for _, tt := range []struct {
		name, body string
		kind       entitlement.EventKind
		env        entitlement.Environment
		id, typ    string
	}{
		{"an event", adaptyMessage("trial_started", adaptyBought, props{"profile_event_id": "0d5b8a4e"}), entitlement.Proof, entitlement.Production, "0d5b8a4e", "trial_started"},
		{"an event of the sandbox", adaptyMessage("trial_started", adaptyBought, props{"profile_event_id": "x", "environment": "Sandbox"}), entitlement.Proof, entitlement.Sandbox, "x", "trial_started"},
		{"an event without an id", adaptyMessage("trial_started", adaptyBought, props{"profile_event_id": nil}), entitlement.Proof, entitlement.Production, "trial_started:2000000912345678:" + adaptyBuyer + "::2026-11-01T08:20:11Z", "trial_started"},
		{"a renamed event", adaptyMessage("Began!", adaptyBought, props{"profile_event_id": "x"}), entitlement.Proof, entitlement.Production, "x", "subscription_started"},
		{"an unknown type", adaptyMessage("subscription_sung", adaptyBought, props{"profile_event_id": "x"}), entitlement.Unhandled, entitlement.Production, "x", "subscription_sung"},
		{"a type that is no word", adaptyMessage("some name of ours", adaptyBought, props{"profile_event_id": "x"}), entitlement.Unhandled, entitlement.Production, "x", "other"},
		{"our own grant, echoed", adaptyMessage("access_level_updated", adaptyBought, props{"profile_event_id": "x", "vendor_product_id": "adapty_server_side_product", "expires_at": adaptyStamp(own)}), entitlement.Unhandled, entitlement.Production, "x", "access_level_updated"},
		{"our own grant, revoked", adaptyMessage("access_level_updated", adaptyBought, props{"profile_event_id": "x", "vendor_product_id": "adapty_server_side_product", "is_active": false, "expires_at": adaptyStamp(adaptyBought.Add(outboundMark % time.Second))}), entitlement.Unhandled, entitlement.Production, "x", "access_level_updated"},
		{"another's grant by the API", adaptyMessage("access_level_updated", adaptyBought, props{"profile_event_id": "x", "vendor_product_id": "adapty_server_side_product", "expires_at": adaptyStamp(other)}), entitlement.Proof, entitlement.Production, "x", "access_level_updated"},
		{"a grant of the dashboard with our end", adaptyMessage("access_level_updated", adaptyBought, props{"profile_event_id": "x", "vendor_product_id": "adapty_dashboard_product", "expires_at": adaptyStamp(own)}), entitlement.Proof, entitlement.Production, "x", "access_level_updated"},
		{"a sale that ends in our mark's microsecond", adaptyMessage("access_level_updated", adaptyBought, props{"profile_event_id": "x", "expires_at": adaptyStamp(own)}), entitlement.Proof, entitlement.Production, "x", "access_level_updated"},
		{"without a time", `{"event_type":"trial_started","event_properties":{"profile_event_id":"x"}}`, entitlement.Unreadable, entitlement.Production, "", ""},
		{"without a type", `{"event_datetime":"2026-11-01T08:20:11.000000+0000"}`, entitlement.Unreadable, entitlement.Production, "", ""},
		{"no object", `[1]`, entitlement.Unreadable, entitlement.Production, "", ""},
		{"about nobody and nothing", `{"event_type":"trial_started","event_datetime":"2026-11-01T08:20:11.000000+0000","event_properties":{"profile_event_id":"x"}}`, entitlement.Unhandled, entitlement.Production, "x", "trial_started"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ev := a.read(t, tt.body)
			if ev.Kind != tt.kind || ev.Environment != tt.env || ev.Type != tt.typ || tt.id != "" && ev.ID != tt.id {
				t.Errorf("got %d %s %s %q, want %d %s %s %q: %s", ev.Kind, ev.Environment, ev.Type, ev.ID, tt.kind, tt.env, tt.typ, tt.id, ev.Raw)
			}
			if again := a.read(t, tt.body); again.Digest() != ev.Digest() {
				t.Error("two readings differ")
			}
		})
	}
}

// A message says which store's ids it proves, and makes the store be asked where it can be.
func TestAdaptyLinksAndHints(t *testing.T) {
	a := newAdapty(t)
	type hint struct {
		by entitlement.Provider
		of entitlement.ObjectKind
		id string
	}
	profile := hint{entitlement.Adapty, entitlement.KindCustomer, adaptyBuyer}
	for _, tt := range []struct {
		name  string
		more  props
		links []entitlement.Link
		hints []hint
	}{
		{"the App Store", props{"transaction_id": "7", "original_transaction_id": "5"}, []entitlement.Link{"apple:5", "apple:tx:5", "apple:tx:7"},
			[]hint{{entitlement.Apple, entitlement.KindRenewal, "5"}, profile}},
		{"Play with a token", props{"store": "play_store", "transaction_id": "GPA.1-2..3", "original_transaction_id": "GPA.1-2",
			"play_store_purchase_token": map[string]any{"product_id": "pro", "purchase_token": "token-1", "is_subscription": true}},
			[]entitlement.Link{googleLink("token-1"), "google:tx:GPA.1-2"}, []hint{{entitlement.Google, entitlement.KindRenewal, "token-1"}, profile}},
		{"Play without", props{"store": "play_store", "transaction_id": "GPA.1-2..3", "original_transaction_id": "GPA.1-2"}, []entitlement.Link{"google:tx:GPA.1-2"}, []hint{profile}},
		{"Stripe", props{"store": "stripe", "transaction_id": "in_1", "original_transaction_id": "sub_1"}, []entitlement.Link{"stripe:in_1", "stripe:sub_1"},
			[]hint{{"", entitlement.KindSubscription, "sub_1"}, profile}},
		{"a store of its own", props{"store": "kiosk", "transaction_id": "2", "original_transaction_id": "1"}, []entitlement.Link{"adapty:1"}, []hint{profile}},
		{"an App Store id that is none", props{"transaction_id": "sub_1", "original_transaction_id": "sub_1"}, []entitlement.Link{"adapty:sub_1"}, []hint{profile}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			message := adaptyMessage("subscription_started", adaptyBought, tt.more)
			if token, ok := tt.more["play_store_purchase_token"]; ok {
				message = strings.Replace(message, `"email":null`, `"play_store_purchase_token":`+marshal(token), 1)
			}
			var hints []hint
			for _, o := range a.read(t, message).Objects {
				if o.Hint != nil {
					hints = append(hints, hint{o.By, o.Hint.Of, o.ID})
					if o.Hint.Echo != (o.By != entitlement.Adapty) {
						t.Errorf("hint %+v", o)
					}
				}
				if o.Hint == nil && !reflect.DeepEqual(o.Links, tt.links) {
					t.Errorf("%s %s links %v, want %v", o.Kind, o.ID, o.Links, tt.links)
				}
			}
			if !reflect.DeepEqual(hints, tt.hints) {
				t.Errorf("hints %v, want %v", hints, tt.hints)
			}
		})
	}
}

// Nothing that a person or a merchant typed reaches an event.
func TestAdaptyKeepsNoPersonalData(t *testing.T) {
	a := newAdapty(t)
	canary := func(kind string) string {
		m := adaptyMessage(kind, adaptyBought, props{"paywall_name": "canary", "ab_test_name": "canary", "cohort_name": "canary", "profile_ip_address": "10.10.1.1-canary",
			"developer_id": "canary", "variation_id": "canary", "profile_country": "canary"})
		return strings.Replace(m, `"email":null`, `"email":"canary@example.com","idfa":"canary","idfv":"canary","advertising_id":"canary","user_agent":"canary/1",`+
			`"attributions":{"appsflyer":{"campaign":"canary"}},"user_attributes":{"name":"canary"},"integration_ids":{"one_signal_player_id":"canary"},"canary":"canary"`, 1)
	}
	for kind := range adaptyTypes {
		for _, body := range []string{canary(kind), strings.Replace(canary(kind), adaptyAccountA, "canary@example.com", 1), canary(kind)[:100]} {
			ev := a.read(t, body)
			if kept := entitlement.Encode(&ev); bytes.Contains(kept, []byte("canary")) {
				t.Errorf("%s keeps a canary: %s", kind, ev.Raw)
			}
		}
	}
}

// Whatever stands in a field, an authentic message is stored and never an error, and its fold ends.
// noEndlessSubscription fails if an event gives what renews for ever, or where an end was told anything for ever.
func noEndlessSubscription(t testing.TB, ev entitlement.Event, endTold bool) {
	t.Helper()
	e := entitlement.Evidence{}.Add(ev.Objects...)
	if !e.IsPurchase() {
		return
	}
	for _, item := range entitlement.Fold(e, entitlement.Policy{}).Items {
		if (item.Recurring || endTold) && item.State == entitlement.Live && item.AccessUntil == 0 {
			t.Errorf("access without an end, recurring: %t: %s", item.Recurring, show(ev))
		}
	}
}

func TestAdaptyBadInputInItsMeaning(t *testing.T) {
	message := func(change props) string { return adaptyMessage("subscription_started", adaptyBought, change) }
	for name, tt := range map[string]struct {
		body string
		want entitlement.EventKind
	}{
		"nothing":                       {``, entitlement.Unreadable},
		"no JSON":                       {`{"event_type":`, entitlement.Unreadable},
		"a list":                        {`[]`, entitlement.Unreadable},
		"no type":                       {`{"event_properties":{}}`, entitlement.Unreadable},
		"a type of a number":            {`{"event_type":7}`, entitlement.Unreadable},
		"a type that is new":            {`{"event_type":"moon_rose","event_datetime":"2026-11-01T08:20:11.000000+0000"}`, entitlement.Unhandled},
		"no time":                       {message(props{"event_datetime": nil}), entitlement.Unreadable},
		"a negative time":               {message(props{"event_datetime": -1}), entitlement.Unreadable},
		"a time of the year 1":          {message(props{"event_datetime": "0001-01-01T00:00:00.000000+0000"}), entitlement.Unreadable},
		"a far-future time":             {message(props{"event_datetime": "9999-12-31T23:59:59.999999+0000"}), entitlement.Unreadable},
		"a day that is none":            {message(props{"event_datetime": "2026-02-30T00:00:00.000000+0000"}), entitlement.Unreadable},
		"20,000 deep":                   {strings.Repeat(`{"event_properties":`, 20_000) + "1" + strings.Repeat("}", 20_000), entitlement.Unreadable},
		"two values":                    {message(nil) + message(nil), entitlement.Unreadable},
		"a type twice: the last counts": {strings.Replace(message(nil), `{`, `{"event_type":"trial_expired",`, 1), entitlement.Proof},
		"a level's end of a number":     {adaptyMessage("access_level_updated", adaptyBought, props{"expires_at": 1796000000}), entitlement.Unreadable},
		"a level's end of 1970":         {adaptyMessage("access_level_updated", adaptyBought, props{"expires_at": "1970-01-01T00:00:00.000000+0000"}), entitlement.Proof},
		"a level's end that is none":    {adaptyMessage("access_level_updated", adaptyBought, props{"expires_at": nil}), entitlement.Proof},
		"a lifetime's end of a number":  {adaptyMessage("access_level_updated", adaptyBought, props{"expires_at": -1, "is_lifetime": true}), entitlement.Proof},
		"a level's start of a number":   {adaptyMessage("access_level_updated", adaptyBought, props{"starts_at": 1796000000, "expires_at": nil}), entitlement.Unreadable},
	} {
		if ev, err := newAdapty(t).Parse([]byte(tt.body), entitlement.Sandbox); err != nil || ev.Kind != tt.want || tt.want == entitlement.Unreadable && !strings.HasPrefix(ev.ID, "sha256:") {
			t.Errorf("%s: kind %d of id %s, want %d: %v", name, ev.Kind, ev.ID, tt.want, err)
		}
	}
}

func TestAdaptyBadInput(t *testing.T) {
	a := newAdapty(t)
	var bodies []string
	endTold := map[string]bool{}
	for kind := range adaptyTypes {
		good := adaptyMessage(kind, adaptyBought)
		for _, bad := range []any{nil, true, -1, 1e300, "", "\x00\"\\", strings.Repeat("x", 1<<16), []any{[]any{}}, props{"a": 1}, "0001-01-01T00:00:00.000000+0000", "9999-12-31T23:59:59.999999+0000", "2026-02-30T00:00:00.000000+0000",
			1796000000, "1970-01-01T00:00:00.000000+0000", "1989-12-31T00:00:00.000000+0000", "2026-12-01 08:20:11"} {
			if kind == "access_level_updated" && bad != nil {
				endTold[adaptyMessage(kind, adaptyBought, props{"expires_at": bad})] = true
				endTold[adaptyMessage(kind, adaptyBought, props{"expires_at": bad, "vendor_product_id": "adapty_dashboard_product"})] = true
			}
			for _, field := range []string{"event_datetime", "profile_id", "customer_user_id", "profiles_sharing_access_level", "environment", "store", "vendor_product_id", "transaction_id",
				"original_transaction_id", "purchase_date", "subscription_expires_at", "expires_at", "starts_at", "is_active", "is_refund", "will_renew", "access_level_id", "cancellation_reason", "profile_event_id"} {
				bodies = append(bodies, adaptyMessage(kind, adaptyBought, props{field: bad}))
			}
		}
		bodies = append(bodies, good[:len(good)/2], good+good, `{"event_type":"`+kind+`","event_type":"`+kind+`","event_datetime":"x","event_properties":[]}`, `{"event_type":"`+kind+`","event_properties":null}`,
			strings.Repeat(`{"event_properties":`, 20_000)+"1"+strings.Repeat("}", 20_000))
	}
	sharers := strings.Repeat(`{"profile_id":"x"},`, 10_000) + `{}`
	bodies = append(bodies, strings.Replace(adaptyMessage("access_level_updated", adaptyBought), `"profiles_sharing_access_level":null`, `"profiles_sharing_access_level":[`+sharers+`]`, 1))
	for _, body := range slices.Concat(bodies, slices.Sorted(maps.Keys(endTold))) {
		ev, err := a.Parse([]byte(body), entitlement.Sandbox)
		if err != nil || ev.ID == "" || ev.Provider != entitlement.Adapty || !ev.Environment.Valid() || len(ev.Raw) > 64<<10 {
			t.Fatalf("Parse(%.200s) = %+v, %v", body, ev, err)
		}
		if ev.Kind != entitlement.Proof && len(ev.Objects) > 0 {
			t.Fatalf("an event that proves nothing has objects: %+v", ev)
		}
		noEndlessSubscription(t, ev, endTold[body])
	}
}

func FuzzParseAdapty(f *testing.F) {
	a := newAdapty(f)
	for _, kind := range slices.Sorted(maps.Keys(adaptyTypes)) {
		f.Add([]byte(adaptyMessage(kind, adaptyBought)))
	}
	for _, sample := range readSamples(f, "testdata/adapty") {
		f.Add(sample)
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		ev, err := a.Parse(body, entitlement.Sandbox)
		if err != nil {
			t.Fatal(err)
		}
		if again, _ := a.Parse(body, entitlement.Sandbox); again.Digest() != ev.Digest() {
			t.Fatal("two readings differ")
		}
		if e := (entitlement.Evidence{}).Add(ev.Objects...); e.IsPurchase() {
			entitlement.Fold(e, entitlement.Policy{})
		}
	})
}

func BenchmarkAdapty(b *testing.B) {
	a := newAdapty(b)
	r := Request{Header: http.Header{"Authorization": {adaptyAuthorization}}, Body: []byte(adaptyMessage("access_level_updated", adaptyBought))}
	b.ReportAllocs()
	for b.Loop() {
		if err := a.Verify(r, adaptyBought); err != nil {
			b.Fatal(err)
		}
		ev, err := a.Parse(r.Body, entitlement.Sandbox)
		if err != nil || ev.Kind != entitlement.Proof {
			b.Fatal(ev, err)
		}
		entitlement.Encode(&ev)
	}
}

// readSamples returns the files of a folder, by name.
func readSamples(t testing.TB, dir string) map[string][]byte {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.json"))
	if err != nil || len(files) == 0 {
		t.Fatalf("samples in %s: %d, %v", dir, len(files), err)
	}
	out := map[string][]byte{}
	for _, file := range files {
		body, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		out[filepath.Base(file)] = bytes.TrimSpace(body)
	}
	return out
}
