package writer

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/latchkey/latchkey/pkg/config"
	"github.com/latchkey/latchkey/pkg/entitlement"
	"github.com/latchkey/latchkey/writer/internal/provider"
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

// A transfer goes to the account that has any of the names on its side, also where a key of version 1 alone tells of the customer, which knows one name besides the
// one that was asked for (R42).
func TestATransferFindsTheAccountByAnyName(t *testing.T) {
	now := time.Now()
	iso := func(at time.Time) string { return at.UTC().Format(time.RFC3339) }
	api := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		name, month := strings.TrimPrefix(r.URL.Path, "/v1/subscribers/"), object{}
		if name == "legacy-b" {
			month = object{"com.example.pro_monthly": object{"store": "app_store", "is_sandbox": true, "store_transaction_id": "1000user-a", "purchase_date": iso(now.Add(-time.Hour)),
				"expires_date": iso(now.AddDate(0, 1, 0)), "period_type": "normal"}}
		}
		_ = json.NewEncoder(rw).Encode(object{"subscriber": object{"original_app_user_id": name, "entitlements": object{}, "subscriptions": month, "non_subscriptions": object{}}})
	}))
	defer api.Close()
	w := revenueCatWriter(t, func(c *RevenueCatConfig) { c.APIKeyV1, c.APIBase = "secret", api.URL })
	if r := w.api("PUT", "/v1/catalog", `{"products": [{"provider": "apple", "product_id": "com.example.pro_monthly", "kind": "subscription", "entitlements": ["pro"], "plan": "pro_monthly", "group": "pro"}]}`); r.status != http.StatusOK {
		t.Fatalf("PUT /v1/catalog = %d %s", r.status, r.text)
	}
	accounts := map[string]string{}
	for _, user := range []string{"user-a", "user-b"} {
		accounts[user] = w.account()
		if r := w.api("POST", "/v1/accounts/"+accounts[user]+"/aliases", `{"kind": "revenuecat_app_user", "value": "`+user+`"}`); r.status != http.StatusOK {
			t.Fatalf("alias: %d %s", r.status, r.text)
		}
	}
	for i, edits := range []object{
		{"transaction_id": "1000user-a", "original_transaction_id": "1000user-a"},
		{"type": "TRANSFER", "app_user_id": nil, "original_app_user_id": nil, "aliases": nil, "transferred_from": []string{"user-a"}, "transferred_to": []string{"legacy-b", "user-b", "$RCAnonymousID:b0"}},
	} {
		var message struct {
			Event object `json:"event"`
		}
		if err := json.Unmarshal(revenueCat("INITIAL_PURCHASE", "user-a", "com.example.pro_monthly", now.Unix()-3600, now.Unix()-int64(20-10*i)), &message); err != nil {
			t.Fatal(err)
		}
		maps.Copy(message.Event, edits)
		body, _ := json.Marshal(message)
		if r := w.revenueCat(body, revenueCatAuthorization); r.status != http.StatusOK || r.str("outcome") != "recorded" {
			t.Fatalf("POST = %d %s", r.status, r.text)
		}
	}
	await(t, "access of who has the second name", func() bool { return w.pro(accounts["user-b"])["active"] == true })
	if old := w.pro(accounts["user-a"]); old["active"] == true || old["reason"] != "transferred" {
		t.Errorf("after the transfer the old owner has %v", old)
	}
}

// A customer list names no transaction, so that its rows prove nothing and ask: what no message told is there once the customer was asked about. The same
// list again asks nothing (R106).
func TestACustomerListRepairsWhatNoMessageTold(t *testing.T) {
	now := time.Now()
	iso := func(at time.Time) string { return at.UTC().Format(time.RFC3339) }
	var asked atomic.Int32
	api := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		name, month := strings.TrimPrefix(r.URL.Path, "/v1/subscribers/"), object{}
		if strings.HasPrefix(name, "payer") {
			month = object{"com.example.pro_monthly": object{"store": "app_store", "is_sandbox": true, "store_transaction_id": "2000" + name[5:], "purchase_date": iso(now.Add(-time.Hour)), "expires_date": iso(now.AddDate(0, 1, 0)), "period_type": "normal"}}
		}
		_ = json.NewEncoder(rw).Encode(object{"subscriber": object{"original_app_user_id": name, "entitlements": object{}, "subscriptions": month, "non_subscriptions": object{}}})
	}))
	defer api.Close()
	w := revenueCatWriter(t, func(c *RevenueCatConfig) { c.APIKeyV1, c.APIBase = "secret", api.URL })
	if r := w.api("PUT", "/v1/catalog", `{"products": [{"provider": "apple", "product_id": "com.example.pro_monthly", "kind": "subscription", "entitlements": ["pro"], "plan": "pro_monthly", "group": "pro"}]}`); r.status != http.StatusOK {
		t.Fatalf("PUT /v1/catalog = %d %s", r.status, r.text)
	}
	batch := ImportBatch{Kind: provider.RevenueCatCustomers, Header: strings.Split("app_user_id;last_seen_at;latest_store;latest_product;email", ";")}
	accounts := map[string]string{}
	for _, user := range []string{"payer1", "payer2", "refunded3"} {
		accounts[user] = w.account()
		if r := w.api("POST", "/v1/accounts/"+accounts[user]+"/aliases", `{"kind": "revenuecat_app_user", "value": "`+user+`"}`); r.status != http.StatusOK {
			t.Fatalf("alias: %d %s", r.status, r.text)
		}
		batch.Rows = append(batch.Rows, []string{user, fmt.Sprint(now.Add(-time.Minute).UnixMilli()), "app_store", "com.example.pro_monthly", "canary@example.com"})
	}
	batch.Rows = append(batch.Rows, []string{"looks-only", fmt.Sprint(now.UnixMilli()), "", "", ""})
	for _, want := range []ImportResult{{Recorded: 3, Skipped: 1}, {Duplicates: 3, Skipped: 1}} {
		export, err := newExportReader(entitlement.RevenueCat, &batch)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := w.importRows(t.Context(), entitlement.Sandbox, export, batch.Rows); err != nil || !reflect.DeepEqual(got, want) {
			t.Fatalf("import = %+v, %v, want %+v", got, err, want)
		}
		await(t, "every customer asked about", w.settled)
		for user, account := range accounts {
			if pro := w.pro(account); (pro["active"] == true) != strings.HasPrefix(user, "payer") {
				t.Errorf("%s has %v", user, pro)
			}
		}
	}
	if n := asked.Load(); n != 3 {
		t.Errorf("asked %d times, want once for each of 3 customers", n)
	}
}
