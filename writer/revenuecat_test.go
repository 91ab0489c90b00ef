package writer

import (
	"encoding/json"
	"net/http"
	"testing"
	"time"

	"github.com/latchkey/latchkey/pkg/config"
	"github.com/latchkey/latchkey/pkg/entitlement"
)

const revenueCatAuthorization = "Bearer canary-of-revenuecat"

func revenueCatWriter(t *testing.T, change ...func(*RevenueCatConfig)) *testWriter {
	t.Helper()
	cfg := testConfigs(t, 1)[0]
	section := &RevenueCatConfig{Authorizations: []config.Secret{revenueCatAuthorization}}
	for _, f := range change {
		f(section)
	}
	sandbox := cfg.Environments[entitlement.Sandbox]
	sandbox.RevenueCat = section
	cfg.Environments[entitlement.Sandbox] = sandbox
	w := startWriter(t, cfg)
	w.awaitReady()
	return w
}

// revenueCat is a message about a month that began at start, Unix seconds.
func revenueCat(kind, user, product string, start, at int64) []byte {
	b, err := json.Marshal(object{"api_version": "1.0", "event": object{
		"type": kind, "id": unique("rc-"), "event_timestamp_ms": at * 1000, "app_user_id": user, "original_app_user_id": user, "aliases": []string{user},
		"product_id": product, "entitlement_ids": []string{"premium"}, "period_type": "NORMAL", "purchased_at_ms": start * 1000, "expiration_at_ms": (start + 30*24*3600) * 1000,
		"store": "APP_STORE", "environment": "SANDBOX", "transaction_id": unique("2"), "original_transaction_id": "1000" + user, "cancel_reason": "UNSUBSCRIBE",
		"transferred_from": []string{user}, "transferred_to": []string{"other"},
	}})
	if err != nil {
		panic(err)
	}
	return b
}

func (w *testWriter) revenueCat(body []byte, authorization string) reply {
	return w.do("POST", "/v1/webhooks/sandbox/revenuecat", string(body), header{"Authorization": authorization, "Content-Type": "application/json"})
}

// TestRevenueCatGivesAccess goes from the webhook to the answer: by the product, by RevenueCat's own entitlement, and by a name of the account.
func TestRevenueCatGivesAccess(t *testing.T) {
	w := revenueCatWriter(t)
	if r := w.api("PUT", "/v1/catalog", `{"products": [{"provider": "apple", "product_id": "com.example.pro_monthly", "kind": "subscription", "entitlements": ["pro"], "plan": "pro_monthly", "group": "pro"}],
		"aggregator_entitlements": [{"provider": "revenuecat", "id": "premium", "entitlement": "pro"}]}`); r.status != http.StatusOK {
		t.Fatalf("PUT /v1/catalog = %d %s", r.status, r.text)
	}
	now := time.Now().Unix()
	named := w.account()
	if r := w.api("POST", "/v1/accounts/"+named+"/aliases", `{"kind": "revenuecat_app_user", "value": "user-7"}`); r.status != http.StatusOK {
		t.Fatalf("alias: %d %s", r.status, r.text)
	}
	byID := w.account()
	for _, tt := range []struct{ account, user, product string }{{byID, byID, "com.example.pro_monthly"}, {named, "user-7", "not_in_the_catalog"}} {
		if r := w.revenueCat(revenueCat("INITIAL_PURCHASE", tt.user, tt.product, now-60, now), "Bearer wrong"); r.status != http.StatusUnauthorized || r.slug() != "invalid-signature" {
			t.Fatalf("with a wrong header: %d %s", r.status, r.text)
		}
		if pro := w.pro(tt.account); pro["active"] == true {
			t.Fatalf("a message that was refused gives %v", pro)
		}
		if r := w.revenueCat(revenueCat("INITIAL_PURCHASE", tt.user, tt.product, now-60, now), revenueCatAuthorization); r.status != http.StatusOK || r.str("outcome") != "recorded" {
			t.Fatalf("POST = %d %s", r.status, r.text)
		}
		pro := w.pro(tt.account)
		if pro["active"] != true || pro["provider"] != "revenuecat" || pro["store"] != "app_store" || pro["will_renew"] != true || pro["purchase_id"] != "apple:1000"+tt.user {
			t.Errorf("user %s: pro = %v", tt.user, pro)
		}
	}
	if r := w.revenueCat(revenueCat("PAYWALL_CLOSE", byID, "x", now, now), revenueCatAuthorization); r.status != http.StatusOK || r.str("outcome") != "unhandled" {
		t.Errorf("a type that proves nothing: %d %s", r.status, r.text)
	}
}
