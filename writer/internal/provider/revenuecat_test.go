package provider

import (
	"encoding/json"
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

const (
	rcAuthorization = "Bearer rc-static-value"
	rcSecret        = "whsec_revenuecat_test"
	rcStart         = int64(1_790_812_799) // of the term that is bought
	rcDay           = int64(24 * 3600)
	rcEnd           = rcStart + 30*rcDay
	rcAccount       = "acc_01JD0000000000000000000000"
)

func newRevenueCat(t testing.TB, c RevenueCatConfig) *RevenueCat {
	t.Helper()
	r, err := NewRevenueCat(c)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestRevenueCatVerify(t *testing.T) {
	var (
		static = RevenueCatConfig{Authorizations: []string{rcAuthorization}}
		signed = RevenueCatConfig{SigningSecrets: []string{"whsec_old", rcSecret}}
		both   = RevenueCatConfig{Authorizations: []string{"old", rcAuthorization}, SigningSecrets: []string{rcSecret}}
		named  = RevenueCatConfig{SigningSecrets: []string{rcSecret}, SignatureHeader: "x-webhook-signature"}
		wrong  = "v1=" + strings.Repeat("0", 64)
		right  = "v1=" + sign(vectorTime, vectorBody, rcSecret)
		at     = func(t int64) string { return fmt.Sprintf("t=%d,v1=%s", t, sign(t, vectorBody, rcSecret)) }
		header = func(authorization, signature string) http.Header {
			h := http.Header{}
			if authorization != "" {
				h.Set("Authorization", authorization)
			}
			if signature != "" {
				h.Set(RevenueCatSignatureHeader, signature)
			}
			return h
		}
	)
	tests := []struct {
		name   string
		config RevenueCatConfig
		header http.Header
		want   error
	}{
		{"the value of the header", static, header(rcAuthorization, ""), nil},
		{"another value", static, header(rcAuthorization+"x", ""), ErrSignature},
		{"a part of it", static, header(rcAuthorization[:10], ""), ErrSignature},
		{"without the word before it", static, header(strings.TrimPrefix(rcAuthorization, "Bearer "), ""), ErrSignature},
		{"no header", static, header("", ""), ErrSignature},
		{"the header twice", static, http.Header{"Authorization": {rcAuthorization, rcAuthorization}}, ErrSignature},
		{"a signature where the header is asked for", static, header("", at(vectorTime)), ErrSignature},
		{"a signature", signed, header("", at(vectorTime)), nil},
		{"two signatures, the second right", signed, header("", fmt.Sprintf("t=%d,%s,%s", vectorTime, wrong, right)), nil},
		{"blanks behind the commas", signed, header("", fmt.Sprintf("t=%d, %s", vectorTime, right)), nil},
		{"300 s old", signed, header("", at(vectorTime-300)), nil},
		{"301 s old is stale", signed, header("", at(vectorTime-301)), ErrStale},
		{"301 s ahead is stale", signed, header("", at(vectorTime+301)), ErrStale},
		{"the largest time is stale", signed, header("", at(1<<63-1)), ErrStale},
		{"stale and wrong is wrong", signed, header("", fmt.Sprintf("t=%d,%s", vectorTime-301, wrong)), ErrSignature},
		{"another time", signed, header("", fmt.Sprintf("t=%d,%s", vectorTime+1, right)), ErrSignature},
		{"signed with an empty key", signed, header("", fmt.Sprintf("t=%d,v1=%s", vectorTime, sign(vectorTime, vectorBody, ""))), ErrSignature},
		{"no hex, with an empty signature", signed, header("", fmt.Sprintf("t=%d,v1=zz,v1=", vectorTime)), ErrSignature},
		{"no time", signed, header("", right), ErrSignature},
		{"two times", signed, header("", fmt.Sprintf("t=1,t=%d,%s", vectorTime, right)), ErrSignature},
		{"a time before 1970", signed, header("", at(-1)), ErrSignature},
		{"17 signatures", signed, header("", fmt.Sprintf("t=%d%s", vectorTime, strings.Repeat(","+right, 17))), ErrSignature},
		{"5 KiB", signed, header("", at(vectorTime)+",v0="+strings.Repeat("0", 5<<10)), ErrSignature},
		{"no signature", signed, header(rcAuthorization, ""), ErrSignature},
		{"both", both, header(rcAuthorization, at(vectorTime)), nil},
		{"both, the header before it was replaced", both, header("old", at(vectorTime)), nil},
		{"the signature alone where both are asked for", both, header("", at(vectorTime)), ErrSignature},
		{"the header alone where both are asked for", both, header(rcAuthorization, ""), ErrSignature},
		{"a header of another name", named, http.Header{"X-Webhook-Signature": {at(vectorTime)}}, nil},
		{"the usual name where another is configured", named, header("", at(vectorTime)), ErrSignature},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err := newRevenueCat(t, tt.config).Verify(Request{Header: tt.header, Body: []byte(vectorBody)}, time.Unix(vectorTime, 0))
			if !errors.Is(err, tt.want) || (err == nil) != (tt.want == nil) {
				t.Errorf("Verify = %v, want %v", err, tt.want)
			}
			if err != nil && (strings.Contains(err.Error(), "whsec") || strings.Contains(err.Error(), "static")) {
				t.Errorf("the error holds a secret: %v", err)
			}
		})
	}
	body := Request{Header: header("", at(vectorTime)), Body: []byte(vectorBody + " ")}
	if err := newRevenueCat(t, signed).Verify(body, time.Unix(vectorTime, 0)); !errors.Is(err, ErrSignature) {
		t.Errorf("another body: %v, want %v", err, ErrSignature)
	}
}

func TestNewRevenueCatRefusesWhatEverybodyCouldSend(t *testing.T) {
	for _, tt := range []struct {
		config RevenueCatConfig
		want   error
	}{
		{RevenueCatConfig{}, ErrRevenueCatAuthorization},
		{RevenueCatConfig{Authorizations: []string{""}}, ErrRevenueCatAuthorization},
		{RevenueCatConfig{Authorizations: []string{rcAuthorization + " "}}, ErrRevenueCatAuthorization},
		{RevenueCatConfig{SigningSecrets: []string{rcSecret, ""}}, ErrRevenueCatSigningSecret},
		{RevenueCatConfig{SigningSecrets: []string{" " + rcSecret}}, ErrRevenueCatSigningSecret},
		{RevenueCatConfig{SigningSecrets: []string{rcSecret}, SignatureHeader: "X: Y"}, ErrRevenueCatSignatureHeader},
	} {
		if r, err := NewRevenueCat(tt.config); !errors.Is(err, tt.want) {
			t.Errorf("NewRevenueCat(%+v) = %v, %v, want %v", tt.config, r, err, tt.want)
		} else if strings.Contains(err.Error(), "whsec") || strings.Contains(err.Error(), "static") {
			t.Errorf("the error holds a secret: %v", err)
		}
	}
}

// rcEvent is a message about one subscription at the App Store, with edits. A nil in edits removes a field, rcNull sets null.
func rcEvent(kind string, after int64, edits map[string]any) string {
	e := map[string]any{
		"type": kind, "id": fmt.Sprintf("%s-%d", kind, after), "app_id": "app9f3c21ab7d", "event_timestamp_ms": (rcStart+after)*1000 + 123,
		"app_user_id": rcAccount, "original_app_user_id": "$RCAnonymousID:5b1e0c7d9f2a4e6b8c3d1a7f0e9b2c4d",
		"aliases":    []any{rcAccount, "$RCAnonymousID:5b1e0c7d9f2a4e6b8c3d1a7f0e9b2c4d"},
		"product_id": "com.example.pro_monthly", "entitlement_id": nil, "entitlement_ids": []any{"pro"}, "period_type": "NORMAL",
		"purchased_at_ms": rcStart * 1000, "expiration_at_ms": rcEnd * 1000, "store": "APP_STORE", "environment": "PRODUCTION",
		"transaction_id": "2000000912345678", "original_transaction_id": "2000000912345678", "price_in_purchased_currency": 9.99, "currency": "EUR",
	}
	for name, v := range edits {
		switch v {
		case nil:
			delete(e, name)
		case rcNull:
			e[name] = nil
		default:
			e[name] = v
		}
	}
	return marshal(map[string]any{"api_version": "1.0", "event": e})
}

var rcNull any = new(int)

func parseRC(t testing.TB, body string) entitlement.Event {
	t.Helper()
	ev, err := (&RevenueCat{}).Parse([]byte(body), entitlement.Production)
	if err != nil {
		t.Fatalf("Parse: %v", err)
	}
	return ev
}

func rcObjects(t testing.TB, bodies ...string) (all [][]entitlement.Object) {
	t.Helper()
	for _, body := range bodies {
		ev := parseRC(t, body)
		if ev.Kind == entitlement.Unreadable {
			t.Fatalf("unreadable: %s\n%s", ev.Raw, body)
		}
		all = append(all, ev.Objects)
	}
	return all
}

// purchaseOf is the evidence about purchases alone: a customer is another one.
func purchaseOf(events [][]entitlement.Object) (e entitlement.Evidence, customers []string) {
	for _, objects := range events {
		for _, o := range objects {
			if strings.HasPrefix(string(o.Links[0]), "revenuecat:customer:") {
				if o.Hint != nil {
					customers = append(customers, o.ID)
				}
				continue
			}
			e = e.Add(o)
		}
	}
	slices.Sort(customers)
	return e, slices.Compact(customers)
}

type rcEdits = map[string]any

// Every type of event, and what access it gives.
func TestRevenueCatTypes(t *testing.T) {
	bought := rcEvent("INITIAL_PURCHASE", 6, nil)
	second := rcEdits{"transaction_id": "2000000923456789", "purchased_at_ms": rcEnd * 1000, "expiration_at_ms": (rcEnd + 30*rcDay) * 1000}
	with := func(a, b rcEdits) rcEdits { a = maps.Clone(a); maps.Copy(a, b); return a }
	cut := rcStart + 5*rcDay
	grace := rcEvent("BILLING_ISSUE", 30*rcDay, rcEdits{"grace_period_expiration_at_ms": (rcEnd + 16*rcDay) * 1000})
	grant := rcEdits{"store": "PROMOTIONAL", "period_type": "PROMOTIONAL", "product_id": "rc_promo_pro_custom", "transaction_id": "a42d", "original_transaction_id": "a42d", "app_id": nil, "price_in_purchased_currency": 0}
	marked := MarkedEnd(time.Unix(rcEnd, 0)).UnixMilli()
	tests := []struct {
		name   string
		bodies []string
		at     int64
		status entitlement.Status // empty: no purchase
		reason entitlement.Reason
		until  int64 // access
		renews bool
		asks   []string // customers
	}{
		{"INITIAL_PURCHASE", []string{bought}, rcStart + 60, "active", "paid", rcEnd + rcDay, true, nil},
		{"INITIAL_PURCHASE of a trial", []string{rcEvent("INITIAL_PURCHASE", 6, rcEdits{"period_type": "TRIAL", "price_in_purchased_currency": 0})}, rcStart + 60, "trialing", "trial", rcEnd + rcDay, true, nil},
		{"INITIAL_PURCHASE of a prepaid plan", []string{rcEvent("INITIAL_PURCHASE", 6, rcEdits{"period_type": "PREPAID"})}, rcStart + 60, "active", "cancelled_until_end", rcEnd, false, nil},
		{"INITIAL_PURCHASE in a family", []string{rcEvent("INITIAL_PURCHASE", 6, rcEdits{"is_family_share": true})}, rcStart + 60, "active", "family", rcEnd + rcDay, true, nil},
		{"INITIAL_PURCHASE without an end", []string{rcEvent("INITIAL_PURCHASE", 6, rcEdits{"expiration_at_ms": "soon"})}, rcStart + 60, "expired", "expired", rcStart, true, []string{rcAccount}},
		{"RENEWAL", []string{bought, rcEvent("RENEWAL", 30*rcDay, second)}, rcEnd + 60, "active", "paid", rcEnd + 31*rcDay, true, nil},
		{"RENEWAL alone", []string{rcEvent("RENEWAL", 30*rcDay, second)}, rcEnd + 60, "active", "paid", rcEnd + 31*rcDay, true, nil},
		{"RENEWAL clears a billing issue", []string{bought, rcEvent("BILLING_ISSUE", 30*rcDay, nil), rcEvent("RENEWAL", 30*rcDay+600, second)}, rcEnd + 700, "active", "paid", rcEnd + 31*rcDay, true, nil},
		{"RENEWAL of a lapsed user", []string{bought, rcEvent("EXPIRATION", 30*rcDay, rcEdits{"expiration_reason": "UNSUBSCRIBE"}), rcEvent("RENEWAL", 40*rcDay, with(second, rcEdits{"purchased_at_ms": (rcStart + 40*rcDay) * 1000, "expiration_at_ms": (rcStart + 70*rcDay) * 1000}))},
			rcStart + 41*rcDay, "active", "paid", rcStart + 71*rcDay, true, nil},
		{"CANCELLATION by the user ends nothing", []string{bought, rcEvent("CANCELLATION", rcDay, rcEdits{"cancel_reason": "UNSUBSCRIBE"})}, rcStart + 2*rcDay, "active", "cancelled_until_end", rcEnd, false, nil},
		{"CANCELLATION for a price", []string{bought, rcEvent("CANCELLATION", rcDay, rcEdits{"cancel_reason": "PRICE_INCREASE"})}, rcStart + 2*rcDay, "active", "cancelled_until_end", rcEnd, false, nil},
		{"CANCELLATION for a reason to come", []string{bought, rcEvent("CANCELLATION", rcDay, rcEdits{"cancel_reason": "MOON"})}, rcStart + 2*rcDay, "active", "cancelled_until_end", rcEnd, false, nil},
		{"CANCELLATION at its end", []string{bought, rcEvent("CANCELLATION", rcDay, rcEdits{"cancel_reason": "UNSUBSCRIBE"})}, rcEnd, "expired", "expired", rcEnd, false, nil},
		{"CANCELLATION by the developer", []string{bought, rcEvent("CANCELLATION", rcDay, rcEdits{"cancel_reason": "DEVELOPER_INITIATED"})}, rcStart + 2*rcDay, "active", "cancelled_until_end", rcEnd, false, nil},
		{"CANCELLATION with a refund", []string{bought, rcEvent("CANCELLATION", 5*rcDay+10, rcEdits{"cancel_reason": "CUSTOMER_SUPPORT", "expiration_at_ms": cut * 1000, "price_in_purchased_currency": -9.99})}, rcStart + 6*rcDay, "refunded", "refunded", cut, true, nil},
		{"CANCELLATION with a refund of another end", []string{bought, rcEvent("CANCELLATION", 5*rcDay, rcEdits{"cancel_reason": "CUSTOMER_SUPPORT"})}, rcStart + 6*rcDay, "active", "paid", rcEnd + rcDay, true, []string{rcAccount}},
		{"a refund and its EXPIRATION", []string{bought, rcEvent("CANCELLATION", 5*rcDay+10, rcEdits{"cancel_reason": "CUSTOMER_SUPPORT", "expiration_at_ms": cut * 1000}), rcEvent("EXPIRATION", 5*rcDay+10, rcEdits{"expiration_reason": "CUSTOMER_SUPPORT", "expiration_at_ms": cut * 1000})},
			rcStart + 6*rcDay, "refunded", "refunded", cut, false, nil},
		{"REFUND_REVERSED", []string{bought, rcEvent("CANCELLATION", 5*rcDay+10, rcEdits{"cancel_reason": "CUSTOMER_SUPPORT", "expiration_at_ms": cut * 1000}), rcEvent("EXPIRATION", 5*rcDay+10, rcEdits{"expiration_reason": "CUSTOMER_SUPPORT", "expiration_at_ms": cut * 1000}),
			rcEvent("REFUND_REVERSED", 8*rcDay, nil)}, rcStart + 9*rcDay, "active", "cancelled_until_end", rcEnd, false, nil},
		{"a purchase after a refund", []string{bought, rcEvent("CANCELLATION", 5*rcDay+10, rcEdits{"cancel_reason": "CUSTOMER_SUPPORT", "expiration_at_ms": cut * 1000}),
			rcEvent("RENEWAL", 7*rcDay, with(second, rcEdits{"purchased_at_ms": (rcStart + 7*rcDay) * 1000, "expiration_at_ms": (rcStart + 37*rcDay) * 1000}))}, rcStart + 9*rcDay, "active", "paid", rcStart + 38*rcDay, true, nil},
		{"UNCANCELLATION", []string{bought, rcEvent("CANCELLATION", rcDay, rcEdits{"cancel_reason": "UNSUBSCRIBE"}), rcEvent("UNCANCELLATION", 2*rcDay, nil)}, rcStart + 3*rcDay, "active", "paid", rcEnd + rcDay, true, nil},
		{"NON_RENEWING_PURCHASE without an end", []string{rcEvent("NON_RENEWING_PURCHASE", 6, rcEdits{"expiration_at_ms": rcNull})}, rcStart + 900*rcDay, "active", "paid", 0, false, nil},
		{"NON_RENEWING_PURCHASE with an end", []string{rcEvent("NON_RENEWING_PURCHASE", 6, nil)}, rcStart + rcDay, "active", "paid", rcEnd, false, nil},
		{"a refund of what does not renew", []string{rcEvent("NON_RENEWING_PURCHASE", 6, rcEdits{"expiration_at_ms": rcNull}), rcEvent("CANCELLATION", rcDay, rcEdits{"cancel_reason": "CUSTOMER_SUPPORT", "expiration_at_ms": rcNull})},
			rcStart + 2*rcDay, "refunded", "refunded", rcStart + rcDay, false, nil},
		{"SUBSCRIPTION_PAUSED ends nothing", []string{bought, rcEvent("SUBSCRIPTION_PAUSED", rcDay, rcEdits{"auto_resume_at_ms": (rcEnd + 90*rcDay) * 1000})}, rcEnd - 1, "active", "paid", rcEnd, true, nil},
		{"EXPIRATION by a pause", []string{bought, rcEvent("SUBSCRIPTION_PAUSED", rcDay, nil), rcEvent("EXPIRATION", 30*rcDay+1, rcEdits{"expiration_reason": "SUBSCRIPTION_PAUSED"})}, rcEnd + 60, "paused", "paused", rcEnd, true, nil},
		{"EXPIRATION", []string{bought, rcEvent("EXPIRATION", 30*rcDay+1, rcEdits{"expiration_reason": "BILLING_ERROR"})}, rcEnd + 60, "expired", "expired", rcEnd, false, nil},
		{"EXPIRATION whose end is ahead of it", []string{bought, rcEvent("EXPIRATION", 10*rcDay, rcEdits{"expiration_reason": "UNKNOWN"})}, rcStart + 11*rcDay, "expired", "expired", rcStart + 10*rcDay, false, nil},
		{"EXPIRATION of what never ended", []string{rcEvent("NON_RENEWING_PURCHASE", 6, rcEdits{"expiration_at_ms": rcNull}), rcEvent("EXPIRATION", rcDay, rcEdits{"expiration_at_ms": rcNull})}, rcStart + 2*rcDay, "expired", "expired", rcStart + rcDay, false, nil},
		{"BILLING_ISSUE with a grace", []string{bought, rcEvent("BILLING_ISSUE", 30*rcDay, rcEdits{"grace_period_expiration_at_ms": (rcEnd + 16*rcDay) * 1000}), rcEvent("CANCELLATION", 30*rcDay, rcEdits{"cancel_reason": "BILLING_ERROR"})},
			rcEnd + 3*rcDay, "billing_grace", "billing_grace", rcEnd + 16*rcDay, true, nil},
		{"CANCELLATION of a billing issue after it", []string{bought, rcEvent("BILLING_ISSUE", 30*rcDay, rcEdits{"grace_period_expiration_at_ms": (rcEnd + 16*rcDay) * 1000}), rcEvent("CANCELLATION", 30*rcDay+1, rcEdits{"cancel_reason": "BILLING_ERROR"})},
			rcEnd + 3*rcDay, "billing_grace", "billing_grace", rcEnd + 16*rcDay, true, nil},
		{"BILLING_ISSUE without a grace", []string{bought, rcEvent("BILLING_ISSUE", 30*rcDay, rcEdits{"grace_period_expiration_at_ms": rcNull})}, rcEnd + 60, "billing_retry", "billing_retry", rcEnd, true, nil},
		{"PRODUCT_CHANGE ends nothing", []string{bought, rcEvent("PRODUCT_CHANGE", rcDay, rcEdits{"new_product_id": "com.example.pro_yearly"})}, rcStart + 2*rcDay, "active", "paid", rcEnd + rcDay, true, nil},
		{"PRODUCT_CHANGE after the renewal that it announces", []string{bought, rcEvent("RENEWAL", 30*rcDay, with(second, rcEdits{"product_id": "com.example.pro_yearly"})), rcEvent("PRODUCT_CHANGE", 30*rcDay+1, rcEdits{"new_product_id": "com.example.pro_yearly"})},
			rcEnd + 60, "active", "paid", rcEnd + 31*rcDay, true, []string{rcAccount}},
		{"SUBSCRIPTION_EXTENDED", []string{bought, rcEvent("SUBSCRIPTION_EXTENDED", rcDay, rcEdits{"expiration_at_ms": (rcEnd + 5*rcDay) * 1000})}, rcEnd + rcDay, "active", "paid", rcEnd + 6*rcDay, true, []string{rcAccount}},
		{"SUBSCRIPTION_EXTENDED after a cancel", []string{bought, rcEvent("CANCELLATION", rcDay, rcEdits{"cancel_reason": "UNSUBSCRIBE"}), rcEvent("SUBSCRIPTION_EXTENDED", 2*rcDay, rcEdits{"expiration_at_ms": (rcEnd + 5*rcDay) * 1000})},
			rcEnd + rcDay, "active", "cancelled_until_end", rcEnd + 5*rcDay, false, []string{rcAccount}},
		{"PRODUCT_CHANGE in a grace", []string{bought, grace, rcEvent("PRODUCT_CHANGE", 30*rcDay+3600, rcEdits{"new_product_id": "com.example.pro_yearly"})}, rcEnd + 3*rcDay, "billing_grace", "billing_grace", rcEnd + 16*rcDay, true, []string{rcAccount}},
		{"UNCANCELLATION in a grace", []string{bought, grace, rcEvent("UNCANCELLATION", 30*rcDay+3600, nil)}, rcEnd + 3*rcDay, "billing_grace", "billing_grace", rcEnd + 16*rcDay, true, []string{rcAccount}},
		{"CANCELLATION in a grace", []string{bought, grace, rcEvent("CANCELLATION", 30*rcDay+3600, rcEdits{"cancel_reason": "UNSUBSCRIBE"})}, rcEnd + 3*rcDay, "billing_grace", "billing_grace", rcEnd + 16*rcDay, true, []string{rcAccount}},
		{"SUBSCRIPTION_PAUSED in a grace", []string{bought, grace, rcEvent("SUBSCRIPTION_PAUSED", 30*rcDay+3600, nil)}, rcEnd + 3*rcDay, "billing_grace", "billing_grace", rcEnd + 16*rcDay, true, []string{rcAccount}},
		{"SUBSCRIPTION_EXTENDED in a grace", []string{bought, grace, rcEvent("SUBSCRIPTION_EXTENDED", 30*rcDay+3600, rcEdits{"expiration_at_ms": (rcEnd + 5*rcDay) * 1000})}, rcEnd + 6*rcDay, "billing_grace", "billing_grace", rcEnd + 16*rcDay, true, []string{rcAccount}},
		{"TEMPORARY_ENTITLEMENT_GRANT", []string{rcEvent("TEMPORARY_ENTITLEMENT_GRANT", 6, rcEdits{"expiration_at_ms": (rcStart + rcDay) * 1000, "period_type": nil, "original_transaction_id": nil})}, rcStart + 60, "active", "provisional", rcStart + rcDay, true, nil},
		{"TEMPORARY_ENTITLEMENT_GRANT for longer than a day", []string{rcEvent("TEMPORARY_ENTITLEMENT_GRANT", 6, nil)}, rcStart + 60, "active", "provisional", rcStart + rcDay + 6, true, nil},
		{"TEMPORARY_ENTITLEMENT_GRANT withdrawn", []string{rcEvent("TEMPORARY_ENTITLEMENT_GRANT", 6, nil), rcEvent("EXPIRATION", 3600, rcEdits{"expiration_at_ms": (rcStart + 3600) * 1000})}, rcStart + 3601, "expired", "expired", rcStart + 3600, false, nil},
		{"TEMPORARY_ENTITLEMENT_GRANT confirmed", []string{rcEvent("TEMPORARY_ENTITLEMENT_GRANT", 6, nil), rcEvent("INITIAL_PURCHASE", 3600, nil)}, rcStart + 3601, "active", "paid", rcEnd + rcDay, true, nil},
		{"TEMPORARY_ENTITLEMENT_GRANT without a transaction", []string{rcEvent("TEMPORARY_ENTITLEMENT_GRANT", 6, rcEdits{"transaction_id": nil, "original_transaction_id": nil})}, rcStart + 60, "", "", 0, false, []string{rcAccount}},
		{"a grant made in RevenueCat", []string{rcEvent("NON_RENEWING_PURCHASE", 6, grant)}, rcStart + 60, "active", "promo", rcEnd, false, nil},
		{"a grant that was taken away", []string{rcEvent("NON_RENEWING_PURCHASE", 6, grant), rcEvent("CANCELLATION", rcDay, with(grant, rcEdits{"cancel_reason": "DEVELOPER_INITIATED"}))}, rcStart + 2*rcDay, "revoked", "revoked", rcStart + rcDay, false, nil},
		{"a grant that ran out", []string{rcEvent("NON_RENEWING_PURCHASE", 6, grant), rcEvent("EXPIRATION", 30*rcDay+5, with(grant, rcEdits{"expiration_reason": "UNKNOWN"}))}, rcEnd + 60, "expired", "expired", rcEnd, false, nil},
		{"a grant of our own", []string{rcEvent("NON_RENEWING_PURCHASE", 6, with(grant, rcEdits{"expiration_at_ms": marked}))}, rcStart + 60, "", "", 0, false, nil},
		{"a grant of our own that ran out", []string{rcEvent("EXPIRATION", 40*rcDay, with(grant, rcEdits{"expiration_at_ms": marked}))}, rcStart + 60, "", "", 0, false, nil},
		{"TRANSFER", []string{rcEvent("TRANSFER", 6, rcEdits{"app_user_id": nil, "aliases": nil, "product_id": nil, "transferred_from": []any{"$RCAnonymousID:5b1e", rcAccount}, "transferred_to": []any{"$RCAnonymousID:91aa", "user-b"}})}, rcStart + 60, "", "", 0, false, []string{rcAccount, "user-b"}},
		{"TRANSFER to somebody without a name", []string{rcEvent("TRANSFER", 6, rcEdits{"app_user_id": nil, "transferred_from": []any{rcAccount}, "transferred_to": []any{"$RCAnonymousID:91aa"}})}, rcStart + 60, "", "", 0, false, []string{"$RCAnonymousID:91aa", rcAccount}},
		{"SUBSCRIBER_ALIAS", []string{rcEvent("SUBSCRIBER_ALIAS", 6, nil)}, rcStart + 60, "", "", 0, false, []string{rcAccount}},
		{"PURCHASE_REDEEMED", []string{rcEvent("PURCHASE_REDEEMED", 6, nil)}, rcStart + 60, "", "", 0, false, []string{rcAccount}},
		{"Play", []string{rcEvent("INITIAL_PURCHASE", 6, rcEdits{"store": "PLAY_STORE", "product_id": "pro:monthly", "transaction_id": "GPA.3301-2210", "original_transaction_id": "GPA.3301-2210"}),
			rcEvent("RENEWAL", 30*rcDay, with(second, rcEdits{"store": "PLAY_STORE", "product_id": "pro:monthly", "transaction_id": "GPA.3301-2210..0", "original_transaction_id": "GPA.3301-2210"}))}, rcEnd + 60, "active", "paid", rcEnd + 31*rcDay, true, nil},
		{"Stripe, whose transactions repeat their id", []string{rcEvent("INITIAL_PURCHASE", 6, rcEdits{"store": "STRIPE", "transaction_id": "sub_1", "original_transaction_id": "sub_1"}),
			rcEvent("RENEWAL", 30*rcDay, with(second, rcEdits{"store": "STRIPE", "transaction_id": "sub_1", "original_transaction_id": "sub_1"}))}, rcEnd + 60, "active", "paid", rcEnd + 31*rcDay, true, nil},
		{"a store to come", []string{rcEvent("INITIAL_PURCHASE", 6, rcEdits{"store": "GALAXY_2"})}, rcStart + 60, "active", "paid", rcEnd + rcDay, true, nil},
	}
	for _, kind := range []string{"TEST", "INVOICE_ISSUANCE", "VIRTUAL_CURRENCY_TRANSACTION", "EXPERIMENT_ENROLLMENT", "PRICE_INCREASE_CONSENT_REQUIRED", "PRICE_INCREASE_CONSENT_APPROVED",
		"PAYWALL_IMPRESSION", "PAYWALL_CLOSE", "PAYWALL_CANCEL", "PAYWALL_EXIT_OFFER", "PAYWALL_COMPONENT_INTERACTED", "A_TYPE_TO_COME"} {
		if ev := parseRC(t, rcEvent(kind, 6, nil)); ev.Kind != entitlement.Unhandled || len(ev.Objects) != 0 || ev.ID != kind+"-6" {
			t.Errorf("%s: %+v, want it unhandled", kind, ev)
		}
	}
	catalog := entitlement.NewCatalogIndex(&entitlement.Catalog{Aggregator: []entitlement.AggregatorEntitlement{{Provider: entitlement.RevenueCat, ID: "pro", Entitlement: "pro"}}})
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			events := rcObjects(t, tt.bodies...)
			evidence, asks := purchaseOf(events)
			if !slices.Equal(asks, tt.asks) {
				t.Errorf("asks about %q, want %q", asks, tt.asks)
			}
			if !evidence.IsPurchase() {
				if tt.status != "" {
					t.Fatalf("no purchase: %+v", evidence)
				}
				return
			}
			for _, d := range evidence.Doubts() {
				if !d.Echo {
					t.Errorf("in doubt: %+v", d)
				}
			}
			purchase := entitlement.Fold(evidence, entitlement.DefaultPolicy)
			account := entitlement.Account{Purchases: []entitlement.Purchase{purchase}}
			view := account.View(catalog, tt.at, nil)
			if len(purchase.Items) != 1 || len(view.Entitlements) != 1 {
				t.Fatalf("purchase %+v\nview %+v", purchase, view)
			}
			got := view.Entitlements[0]
			if got.Status != tt.status || got.Reason != tt.reason || got.AccessUntil != tt.until || got.WillRenew != tt.renews {
				t.Errorf("%s, %s, until %d, renews %t; want %s, %s, %d, %t\n%+v", got.Status, got.Reason, got.AccessUntil, got.WillRenew, tt.status, tt.reason, tt.until, tt.renews, purchase)
			}
			if id := evidence.Identity(); id.Account != rcAccount || len(id.Aliases) != 2 {
				t.Errorf("identity %+v", id)
			}
			random := rand.New(rand.NewPCG(1, 20))
			for range 20 {
				shuffled := slices.Clone(events)
				shuffled = append(shuffled, events[random.IntN(len(events))])
				random.Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
				if again, _ := purchaseOf(shuffled); !reflect.DeepEqual(again, evidence) {
					t.Fatalf("the order counts:\n%+v\n%+v", evidence, again)
				}
			}
		})
	}
}

// A transfer has arrays of names on both sides, and any of them may be the one that an account has (R42). Two lists of one moment leave nothing open.
func TestATransferTellsAllNamesOfEachSide(t *testing.T) {
	transfer := func(to ...any) string {
		return rcEvent("TRANSFER", 6, rcEdits{"app_user_id": nil, "aliases": nil, "transferred_from": []any{"$RCAnonymousID:5b1e", "legacy-a", rcAccount}, "transferred_to": to})
	}
	names := func(objects []entitlement.Object, user string) (e entitlement.Evidence) {
		for _, o := range objects {
			if o.Links[0] == customerLink(user) && o.Hint == nil {
				e = e.Add(o)
			}
		}
		return e
	}
	objects := rcObjects(t, transfer("legacy-b", "user-b", "$RCAnonymousID:b0"), transfer("legacy-b", "user-b", "user-c"))
	alias := func(values ...string) (aliases []entitlement.Alias) {
		for _, v := range values {
			aliases = append(aliases, entitlement.Alias{Kind: entitlement.RevenueCatAppUser, Value: v})
		}
		return aliases
	}
	for _, tt := range []struct {
		user string
		want entitlement.Identity
	}{
		{"legacy-a", entitlement.Identity{Account: rcAccount, At: objects[0][0].At, Aliases: alias("$RCAnonymousID:5b1e", rcAccount, "legacy-a")}},
		{"legacy-b", entitlement.Identity{Aliases: alias("$RCAnonymousID:b0", "legacy-b", "user-b")}},
	} {
		if got := names(objects[0], tt.user).Identity(); !reflect.DeepEqual(got, tt.want) {
			t.Errorf("%s is %+v, want %+v", tt.user, got, tt.want)
		}
	}
	both := names(slices.Concat(objects...), "legacy-b")
	if doubts := both.Doubts(); len(both.Objects) != 2 || len(doubts) != 0 {
		t.Errorf("two lists of names are %d objects and leave %+v open", len(both.Objects), doubts)
	}
	api := &RevenueCatAPI{}
	ofNames := []entitlement.Doubt{{Kind: entitlement.KindCustomer, ID: both.Objects[0].ID, By: entitlement.RevenueCat}}
	if targets := api.Targets(both, ofNames); len(targets) != 1 || targets[0].ID != "legacy-b" {
		t.Errorf("a conflict about names asks for %+v, want the customer", targets)
	}
}

// The stores' own links, so that an aggregator's word and the store's are about one purchase.
func TestRevenueCatLinksAndEchoes(t *testing.T) {
	tests := []struct {
		name  string
		edits rcEdits
		links []entitlement.Link
		chain string
		store string
		echo  entitlement.Object
	}{
		{"App Store", rcEdits{"transaction_id": "2002"}, []entitlement.Link{"apple:2000000912345678", "apple:tx:2000000912345678", "apple:tx:2002"}, "app_store", "app_store",
			entitlement.Object{ID: "2000000912345678", By: entitlement.Apple, Hint: &entitlement.Hint{Of: entitlement.KindRenewal, Echo: true}}},
		{"Mac App Store", rcEdits{"store": "MAC_APP_STORE"}, []entitlement.Link{"apple:2000000912345678", "apple:tx:2000000912345678"}, "app_store", "app_store",
			entitlement.Object{ID: "2000000912345678", By: entitlement.Apple, Hint: &entitlement.Hint{Of: entitlement.KindRenewal, Echo: true}}},
		{"App Store without the original id", rcEdits{"original_transaction_id": rcNull}, []entitlement.Link{"apple:tx:2000000912345678"}, "app_store", "app_store",
			entitlement.Object{ID: "2000000912345678", By: entitlement.Apple, Hint: &entitlement.Hint{Of: entitlement.KindTransaction, Echo: true}}},
		{"an id that is a number", rcEdits{"transaction_id": 2002, "original_transaction_id": rcNull}, []entitlement.Link{"apple:tx:2002"}, "app_store", "app_store",
			entitlement.Object{ID: "2002", By: entitlement.Apple, Hint: &entitlement.Hint{Of: entitlement.KindTransaction, Echo: true}}},
		{"Play", rcEdits{"store": "PLAY_STORE", "transaction_id": "GPA.3301-2210..12", "original_transaction_id": "GPA.3301-2210"}, []entitlement.Link{"google:tx:GPA.3301-2210"}, "GPA.3301-2210", "play_store", entitlement.Object{}},
		{"Stripe", rcEdits{"store": "STRIPE", "transaction_id": "sub_1", "original_transaction_id": "sub_1"}, []entitlement.Link{"stripe:sub_1"}, "stripe", "stripe",
			entitlement.Object{ID: "sub_1", Hint: &entitlement.Hint{Of: entitlement.KindSubscription, Echo: true}}},
		{"Stripe by an item", rcEdits{"store": "STRIPE", "transaction_id": "si_1", "original_transaction_id": rcNull}, []entitlement.Link{"revenuecat:stripe:si_1"}, "stripe", "stripe", entitlement.Object{}},
		{"Roku", rcEdits{"store": "ROKU", "transaction_id": "r2", "original_transaction_id": "r1"}, []entitlement.Link{"revenuecat:roku:r1", "revenuecat:roku:r2"}, "roku", "roku", entitlement.Object{}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var echo entitlement.Object
			for _, o := range parseRC(t, rcEvent("INITIAL_PURCHASE", 6, tt.edits)).Objects {
				if !slices.Equal(o.Links, tt.links) {
					t.Errorf("%s links to %q, want %q", o.Kind, o.Links, tt.links)
				}
				switch {
				case o.Hint != nil:
					echo = entitlement.Object{ID: o.ID, By: o.By, Hint: o.Hint}
				case o.Transaction != nil && (o.Transaction.Chain != tt.chain || o.Transaction.Store != tt.store):
					t.Errorf("chain %q of store %q, want %q of %q", o.Transaction.Chain, o.Transaction.Store, tt.chain, tt.store)
				case o.Renewal != nil && o.ID != tt.chain:
					t.Errorf("renewal %q, want %q", o.ID, tt.chain)
				}
			}
			if !reflect.DeepEqual(echo, tt.echo) {
				t.Errorf("echo %+v, want %+v", echo, tt.echo)
			}
		})
	}
}

// TestRevenueCatIdentity defends R19, R32, R42.
func TestRevenueCatIdentity(t *testing.T) {
	many := []any{}
	for i := range 500 {
		many = append(many, fmt.Sprintf("$RCAnonymousID:%032x", i))
	}
	other := "acc_01JDZZZZZZZZZZZZZZZZZZZZZZ"
	attribute := func(v any) rcEdits {
		return rcEdits{"app_user_id": "user-1", "original_app_user_id": other, "aliases": []any{"user-1"}, "subscriber_attributes": map[string]any{"account_id": map[string]any{"value": v}, "$email": map[string]any{"value": "a@example.com"}}}
	}
	tests := []struct {
		name    string
		edits   rcEdits
		account entitlement.AccountID
		aliases int
	}{
		{"the present name", rcEdits{"original_app_user_id": other}, rcAccount, 3},
		{"an alias", rcEdits{"app_user_id": "user-1", "original_app_user_id": "user-0"}, rcAccount, 4},
		{"the merchant's attribute before older names", attribute(rcAccount), rcAccount, 2},
		{"an attribute that is no account", attribute("person@example.com"), entitlement.AccountID(other), 2},
		{"an address is no name", rcEdits{"app_user_id": "person@example.com", "original_app_user_id": "Jo Doe", "aliases": []any{"person@example.com"}}, "", 0},
		{"500 names", rcEdits{"aliases": append(many, "user-9")}, rcAccount, maxRevenueCatUsers},
		{"names of wrong types", rcEdits{"app_user_id": 7, "original_app_user_id": nil, "aliases": "user-1"}, "", 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			evidence, _ := purchaseOf(rcObjects(t, rcEvent("INITIAL_PURCHASE", 6, tt.edits)))
			if id := evidence.Identity(); id.Account != tt.account || len(id.Aliases) != tt.aliases {
				t.Errorf("account %q, %d aliases %v; want %q, %d", id.Account, len(id.Aliases), id.Aliases, tt.account, tt.aliases)
			}
		})
	}
}

func TestMarkedEnd(t *testing.T) {
	for _, at := range []time.Time{time.Unix(rcEnd, 0), time.Unix(0, 0), time.Date(2030, 1, 1, 0, 46, 17, 613e6, time.UTC), time.Date(2030, 1, 1, 0, 46, 17, 614e6, time.UTC)} {
		got := MarkedEnd(at)
		if got.Before(at) || got.Sub(at) >= time.Hour || !isOurs(got.UnixMilli(), false) || !isOurs(got.Unix()*1000, true) {
			t.Errorf("MarkedEnd(%s) = %s", at, got)
		}
	}
	if isOurs(MarkedEnd(time.Unix(rcEnd, 0)).UnixMilli()+1, false) {
		t.Error("a millisecond later is marked too")
	}
}

// rcSamples are messages in the documented shape.
func rcSamples(t testing.TB) map[string]string {
	t.Helper()
	files, err := filepath.Glob("testdata/revenuecat/*.json")
	if err != nil || len(files) == 0 {
		t.Fatalf("no samples: %v", err)
	}
	out := map[string]string{}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		out[filepath.Base(f)] = string(b)
	}
	return out
}

func TestRevenueCatSamples(t *testing.T) {
	want := map[string]string{
		"trial.json": "hint renewal transaction", "billing-issue.json": "hint renewal transaction", "refund.json": "hint revocation transaction",
		"transfer.json": "customer customer hint hint", "granted.json": "transaction", "paused.json": "renewal transaction",
	}
	for name, body := range rcSamples(t) {
		ev := parseRC(t, body)
		var kinds []string
		for _, o := range ev.Objects {
			kinds = append(kinds, string(o.Kind))
			if o.At%1e6 != 0 || o.At/1e9 != ev.CreatedAt {
				t.Errorf("%s: version %d of an event of %d", name, o.At, ev.CreatedAt)
			}
		}
		slices.Sort(kinds)
		if got := strings.Join(kinds, " "); ev.Kind != entitlement.Proof || ev.Environment != entitlement.Production || got != want[name] {
			t.Errorf("%s: kind %d, %s, objects %q, want %q", name, ev.Kind, ev.Environment, got, want[name])
		}
		if again := parseRC(t, body); again.Digest() != ev.Digest() {
			t.Errorf("%s: the same message is another event", name)
		}
	}
}

// What is authentic and makes no sense.
func TestRevenueCatBadInput(t *testing.T) {
	tests := []struct {
		name string
		body string
		want entitlement.EventKind
	}{
		{"nothing", ``, entitlement.Unreadable},
		{"no JSON", `{"event":`, entitlement.Unreadable},
		{"no object", `[1]`, entitlement.Unreadable},
		{"no event", `{"api_version":"1.0"}`, entitlement.Unreadable},
		{"an event that is a list", `{"event":[{"id":"1","type":"TEST"}]}`, entitlement.Unreadable},
		{"no id", rcEvent("INITIAL_PURCHASE", 6, rcEdits{"id": nil}), entitlement.Unreadable},
		{"no type", rcEvent("INITIAL_PURCHASE", 6, rcEdits{"type": nil}), entitlement.Unreadable},
		{"no time", rcEvent("INITIAL_PURCHASE", 6, rcEdits{"event_timestamp_ms": nil}), entitlement.Unreadable},
		{"a time before 1970", rcEvent("INITIAL_PURCHASE", 6, rcEdits{"event_timestamp_ms": -1}), entitlement.Unreadable},
		{"a time that nanoseconds cannot hold", rcEvent("INITIAL_PURCHASE", 6, rcEdits{"event_timestamp_ms": 1 << 53}), entitlement.Unreadable},
		{"the year 2200", rcEvent("INITIAL_PURCHASE", 6, rcEdits{"event_timestamp_ms": 7_258_118_400_000}), entitlement.Proof},
		{"a sale with an end of a wrong type", rcEvent("NON_RENEWING_PURCHASE", 6, rcEdits{"expiration_at_ms": "never"}), entitlement.Unreadable},
		{"a sale that does not tell its end", rcEvent("NON_RENEWING_PURCHASE", 6, rcEdits{"expiration_at_ms": nil}), entitlement.Unreadable},
		{"a transfer of nobody", rcEvent("TRANSFER", 6, rcEdits{"transferred_from": []any{"a b"}, "transferred_to": 7}), entitlement.Unreadable},
		{"neither a purchase nor a customer", rcEvent("INITIAL_PURCHASE", 6, rcEdits{"transaction_id": nil, "original_transaction_id": nil, "app_user_id": nil, "original_app_user_id": nil, "aliases": nil}), entitlement.Unreadable},
		{"nested 20,000 deep", `{"event":` + strings.Repeat("[", 20_000) + strings.Repeat("]", 20_000) + `}`, entitlement.Unreadable},
		{"a megabyte of names", rcEvent("INITIAL_PURCHASE", 6, rcEdits{"entitlement_ids": slices.Repeat([]any{"pro"}, 200_000)}), entitlement.Proof},
		{"names twice", `{"event":{"id":"a","id":"b","type":"TEST","type":"TEST"},"event":{"id":"c","type":"TEST","id":"d"}}`, entitlement.Unhandled},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			ev := parseRC(t, tt.body)
			if ev.Kind != tt.want {
				t.Errorf("kind %d, want %d: %s", ev.Kind, tt.want, ev.Raw)
			}
			checkRevenueCat(t, ev)
			if len(entitlement.Encode(&ev)) > 16<<10 {
				t.Errorf("%d bytes are kept", len(entitlement.Encode(&ev)))
			}
		})
	}
	t.Run("wrong types in every field", func(t *testing.T) {
		for _, body := range rcSamples(t) {
			var tree any
			if err := json.Unmarshal([]byte(body), &tree); err != nil {
				t.Fatal(err)
			}
			everyField(tree, func(name string, set func(any)) {
				for _, v := range []any{nil, true, "", "x", -1, 0, 1, 999, 1e300, 9.5, -(1 << 62), 1 << 62, []any{}, []any{nil, 7, "x"}, map[string]any{}, map[string]any{"id": 1}} {
					set(v)
					ev := parseRC(t, marshal(tree))
					checkRevenueCat(t, ev)
				}
			})
		}
	})
}

// checkRevenueCat fails if an event holds what no event may: above all access without an end by what is no sale without one.
func checkRevenueCat(t testing.TB, ev entitlement.Event) {
	t.Helper()
	if ev.ID == "" || !ev.Environment.Valid() || !json.Valid(ev.Raw) || ev.Kind != entitlement.Proof && len(ev.Objects) > 0 {
		t.Fatalf("not a whole event: %s", show(ev))
	}
	for _, o := range ev.Objects {
		if o.ID == "" || o.At <= 0 || len(o.Links) == 0 || !slices.IsSorted(o.Links) {
			t.Fatalf("not a whole object: %s", show(o))
		}
	}
	evidence, _ := purchaseOf([][]entitlement.Object{ev.Objects})
	if !evidence.IsPurchase() {
		return
	}
	for _, item := range entitlement.Fold(evidence, entitlement.DefaultPolicy).Items {
		if item.AccessUntil == 0 && (item.Recurring || !strings.Contains(string(ev.Raw), `"expiration_at_ms":false`)) {
			t.Errorf("access without an end: %+v\n%s", item, ev.Raw)
		}
	}
}

func TestRevenueCatKeepsNoPersonalData(t *testing.T) {
	const canary = "CANARY person@example.com"
	check := func(tree any) {
		t.Helper()
		body := marshal(tree)
		ev := parseRC(t, body)
		for _, stored := range [][]byte{entitlement.Encode(&ev), ev.Raw, []byte(show(ev))} {
			if lower := strings.ToLower(string(stored)); strings.Contains(lower, "canary") || strings.Contains(lower, "example.com") {
				t.Fatalf("personal data is kept of %s:\n%s", body, stored)
			}
		}
	}
	for name, body := range rcSamples(t) {
		var planted map[string]any
		if err := json.Unmarshal([]byte(body), &planted); err != nil {
			t.Fatal(name, err)
		}
		e := planted["event"].(map[string]any)
		for _, free := range []string{"note", "country_code", "presented_offering_id", "offer_code", "metadata", "product_display_name", "ip"} {
			e[free] = canary
		}
		e["subscriber_attributes"] = map[string]any{"$email": map[string]any{"value": canary}, "$displayName": map[string]any{"value": canary}, "account_id": map[string]any{"value": canary, "note": canary}}
		e["experiments"] = []any{map[string]any{"experiment_variant": canary}}
		e["aliases"] = []any{canary, "person@example.com"}
		check(planted)
		everyField(planted, func(_ string, set func(any)) {
			for _, v := range []any{"canary@example.com", canary, []any{canary}, map[string]any{"id": canary}} {
				set(v)
				check(planted)
			}
		})
	}
}

// A history of two purchases and a grant, in any order, portion and repetition.
func TestRevenueCatHistoriesAreFreeOfOrder(t *testing.T) {
	kinds := slices.Sorted(maps.Keys(revenueCatTypes))
	for seed := range uint64(200) {
		rng := rand.New(rand.NewPCG(seed, 1))
		var events [][]entitlement.Object
		for i := range int64(12) {
			start := rcStart + rng.Int64N(3)*30*rcDay
			edits := rcEdits{"id": fmt.Sprint("e", i), "transaction_id": fmt.Sprint(2000 + start/rcDay), "original_transaction_id": "2000", "purchased_at_ms": start * 1000,
				"expiration_at_ms": (start + 30*rcDay) * 1000, "event_timestamp_ms": (rcStart + rng.Int64N(100)*rcDay) * 1000, "transferred_from": []any{"a"}, "transferred_to": []any{"b"},
				"cancel_reason":     []any{"UNSUBSCRIBE", "CUSTOMER_SUPPORT", "BILLING_ERROR"}[rng.IntN(3)],
				"expiration_reason": []any{"UNSUBSCRIBE", "CUSTOMER_SUPPORT", "SUBSCRIPTION_PAUSED"}[rng.IntN(3)]}
			events = append(events, rcObjects(t, rcEvent(kinds[rng.IntN(len(kinds))], 6, edits))...)
		}
		want, _ := purchaseOf(events)
		for range 5 {
			shuffled := append(slices.Clone(events), events[rng.IntN(len(events))])
			rng.Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
			if got, _ := purchaseOf(shuffled); !slices.Equal(canonical(got), canonical(want)) {
				t.Fatalf("seed %d: the order counts:\n%+v\n%+v", seed, want, got)
			}
		}
	}
}

func FuzzParseRevenueCat(f *testing.F) {
	for _, body := range rcSamples(f) {
		f.Add([]byte(body))
	}
	for _, kind := range slices.Sorted(maps.Keys(revenueCatTypes)) {
		f.Add([]byte(rcEvent(kind, 6, nil)))
	}
	r := newRevenueCat(f, RevenueCatConfig{Authorizations: []string{rcAuthorization}})
	f.Fuzz(func(t *testing.T, body []byte) {
		if err := r.Verify(Request{Header: http.Header{"Authorization": {string(body)}}, Body: body}, time.Unix(rcStart, 0)); err == nil && string(body) != rcAuthorization {
			t.Fatal("a message that is not authentic passes")
		}
		ev, err := r.Parse(body, entitlement.Sandbox)
		if err != nil {
			t.Fatal(err)
		}
		checkRevenueCat(t, ev)
		if n := len(entitlement.Encode(&ev)); n > 128<<10 {
			t.Errorf("%d bytes are kept of %d", n, len(body))
		}
	})
}

func BenchmarkRevenueCatWebhook(b *testing.B) {
	body := []byte(rcEvent("RENEWAL", 6, nil))
	r := newRevenueCat(b, RevenueCatConfig{Authorizations: []string{rcAuthorization}, SigningSecrets: []string{rcSecret}})
	req := Request{Header: http.Header{"Authorization": {rcAuthorization}, http.CanonicalHeaderKey(RevenueCatSignatureHeader): {fmt.Sprintf("t=%d,v1=%s", vectorTime, sign(vectorTime, string(body), rcSecret))}}, Body: body}
	b.ReportAllocs()
	for b.Loop() {
		if err := r.Verify(req, time.Unix(vectorTime, 0)); err != nil {
			b.Fatal(err)
		}
		ev, err := r.Parse(body, entitlement.Sandbox)
		if err != nil || ev.Kind != entitlement.Proof {
			b.Fatal(ev, err)
		}
		entitlement.Encode(&ev)
	}
}
