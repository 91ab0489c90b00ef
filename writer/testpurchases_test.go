package writer

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/latchkey/latchkey/pkg/config"
	"github.com/latchkey/latchkey/pkg/entitlement"
)

// These tests show test purchases that reach production: of App Review, TestFlight and licence testers. They count as the policy says (I15), and each question about
// them is asked once, although the answer is about a purchase of another name, or leaves test purchases out.

// productionWriter starts a writer whose production has what change sets.
func productionWriter(t *testing.T, change func(*EnvironmentConfig)) *testWriter {
	t.Helper()
	c := testConfigs(t, 1)[0]
	e := c.Environments[entitlement.Production]
	change(&e)
	c.Environments[entitlement.Production] = e
	w := startWriter(t, c)
	w.awaitReady()
	return w
}

func (w *testWriter) production(method, path, body string) reply {
	return w.api(method, path, body, auth(productionKey))
}

// productionSettled reports whether nothing is open in production.
func (w *testWriter) productionSettled() bool {
	return strings.Contains(w.get("/metrics").text, `latchkey_writer_doubtful_purchases{environment="production"} 0`)
}

func TestALicenceTestersTokenIsAskedAboutOnce(t *testing.T) {
	t.Parallel() // it mostly waits
	for policy, counts := range map[string]bool{"testers": true, "anyone": true, "none": false} {
		t.Run(policy, func(t *testing.T) {
			f := startPlay(t)
			w := productionWriter(t, func(e *EnvironmentConfig) { e.Google = f.asking(t) })
			for path, body := range map[string]string{"/v1/policy": fmt.Sprintf(`{"sandbox_access": %q}`, policy),
				"/v1/catalog": `{"products": [{"provider": "google", "product_id": "pro:monthly", "kind": "subscription", "entitlements": ["pro"], "plan": "pro_monthly", "group": "pro"}]}`} {
				if r := w.production("PUT", path, body); r.status != http.StatusOK {
					t.Fatalf("PUT %s = %d %s", path, r.status, r.text)
				}
			}
			account := w.production("POST", "/v1/accounts", `{"aliases": [{"kind": "google_obfuscated_account", "value": "`+playAccount+`"}]}`).str("account_id")
			if r := w.production("PATCH", "/v1/accounts/"+account, `{"tester": true}`); r.status != http.StatusOK {
				t.Fatalf("PATCH = %d %s", r.status, r.text)
			}
			token := unique("token-")
			month := playSubscription(playAccount)
			f.put(token, month)
			f.mu.Lock()
			month["acknowledgementState"] = "ACKNOWLEDGEMENT_STATE_ACKNOWLEDGED" // else it is asked about until it is
			f.mu.Unlock()
			for questions := 1; questions <= 2; questions++ { // a later message asks again
				if r := w.pushTo(entitlement.Production, unique("m"), "subscriptionNotification", object{"notificationType": 4, "purchaseToken": token}); r.status != http.StatusOK {
					t.Fatalf("webhook = %d %s", r.status, r.text)
				}
				await(t, "an answer", func() bool { return f.asked(token) >= questions && w.productionSettled() })
				if n := f.asked(token); n != questions {
					t.Errorf("asked %d times after %d messages", n, questions)
				}
			}
			if e := w.production("GET", "/v1/accounts/"+account+"/entitlements", "").text; strings.Contains(e, `"active":true`) != counts {
				t.Errorf("policy %s: %s", policy, e)
			}
		})
	}
}

func TestATestPurchaseAsksAboutItsCustomerOnce(t *testing.T) {
	t.Parallel() // it mostly waits
	now := time.Now()
	stamp := func(at time.Time) string { return at.UTC().Format("2006-01-02T15:04:05.000000-0700") }
	for _, tt := range []struct {
		provider      string
		answer        object
		configure     func(e *EnvironmentConfig, base string)
		authorization string
		message       object
	}{
		{"adapty", object{"data": object{"profile_id": "3c1f6a52-2b0e-4a38-9a51-0c2d8a3f7e10"}},
			func(e *EnvironmentConfig, base string) {
				e.Adapty = &AdaptyConfig{Authorizations: []config.Secret{adaptyAuthorization}, APIKey: "secret", APIBase: base}
			}, adaptyAuthorization,
			object{"event_type": "access_level_updated", "event_datetime": stamp(now.Add(-time.Minute)), "profile_id": "3c1f6a52-2b0e-4a38-9a51-0c2d8a3f7e10",
				"event_properties": object{"profile_event_id": unique("e"), "environment": "Sandbox", "store": "paddle", "vendor_product_id": "pro", "transaction_id": "t1", "original_transaction_id": "t1",
					"purchase_date": stamp(now.Add(-time.Hour)), "access_level_id": "premium", "is_active": true, "is_refund": false, "will_renew": true, "expires_at": stamp(now.AddDate(0, 1, 0))}}},
		{"revenuecat", object{"subscriber": object{"entitlements": object{}, "subscriptions": object{}, "non_subscriptions": object{}}},
			func(e *EnvironmentConfig, base string) {
				e.RevenueCat = &RevenueCatConfig{Authorizations: []config.Secret{revenueCatAuthorization}, APIKeyV1: "secret", APIBase: base}
			}, revenueCatAuthorization,
			object{"event": object{"type": "TRANSFER", "id": unique("rc-"), "event_timestamp_ms": now.Add(-time.Minute).UnixMilli(), "environment": "SANDBOX",
				"transferred_from": []string{"a"}, "transferred_to": []string{"b"}}}},
	} {
		t.Run(tt.provider, func(t *testing.T) {
			var asked atomic.Int32
			api := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
				asked.Add(1)
				_ = json.NewEncoder(rw).Encode(tt.answer)
			}))
			defer api.Close()
			w := productionWriter(t, func(e *EnvironmentConfig) { tt.configure(e, api.URL) })
			r := w.do("POST", "/v1/webhooks/production/"+tt.provider, jsonOf(t, tt.message), header{"Authorization": tt.authorization, "Content-Type": "application/json"})
			if r.status != http.StatusOK || r.str("outcome") != "wrong_environment" {
				t.Fatalf("POST = %d %s", r.status, r.text)
			}
			customers := int32(1)
			if tt.provider == "revenuecat" {
				customers = 2
			}
			await(t, "the customers asked about", func() bool { return asked.Load() >= customers && w.productionSettled() })
			if n := asked.Load(); n != customers {
				t.Errorf("asked %d times, want %d", n, customers)
			}
		})
	}
}

// Web2Wave has one address for both environments, and the rows of its answers need not say whether a payment was real: a test stays one once a message said so.
func TestATestPaymentOfWeb2WaveGivesNothingInProduction(t *testing.T) {
	t.Parallel() // it mostly waits
	now, user := time.Now().UTC(), "8e6a0f5e-3d0b-4c61-9a0e-5f4f2f9d1c22"
	date := func(at time.Time) string { return at.Format(time.DateTime) }
	row := func(id int, changes object) object {
		short := object{"id": id, "user_id": user, "status": "active", "plan_name": "premium_monthly", "price_label": "19.99 USD / 1 month", "next_charge_date": date(now.AddDate(0, 1, 0)),
			"canceled_at": nil, "currency": "usd", "amount_real": "19.99", "payment_system_label": "stripe"}
		maps.Copy(short, changes)
		return short
	}
	rows := make(chan []any, 1)
	rows <- []any{row(1, nil)}
	api := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		answer := <-rows
		rows <- answer
		if strings.HasSuffix(r.URL.Path, "/user/properties") {
			_ = json.NewEncoder(rw).Encode(object{"user_id": user, "properties": []any{}})
			return
		}
		_ = json.NewEncoder(rw).Encode(object{"subscription": answer})
	}))
	defer api.Close()
	w := productionWriter(t, func(e *EnvironmentConfig) {
		e.Web2Wave = &Web2WaveConfig{WebhookTokens: []config.Secret{web2waveToken}, APIKey: "secret", APIBase: api.URL}
	})
	if r := w.production("PUT", "/v1/catalog", `{"products": [{"provider": "web2wave", "product_id": "premium_monthly", "kind": "subscription", "entitlements": ["pro"], "plan": "m", "group": "pro"}]}`); r.status != http.StatusOK {
		t.Fatalf("PUT = %d %s", r.status, r.text)
	}
	account := w.production("POST", "/v1/accounts", `{"aliases": [{"kind": "web2wave_user", "value": "`+user+`"}]}`).str("account_id")
	send := func(kind string, data object, outcome string) {
		t.Helper()
		r := w.do("POST", "/v1/webhooks/production/web2wave", string(web2waveMessage(kind, data)), header{"Webhooks-Token": web2waveToken})
		if r.status != http.StatusOK || r.str("outcome") != outcome {
			t.Fatalf("POST = %d %s, want %s", r.status, r.text, outcome)
		}
	}
	entitlements := func() string { return w.production("GET", "/v1/accounts/"+account+"/entitlements", "").text }
	send("subscription", row(1, object{"updated_at": date(now.Add(-time.Minute)), "real_payment": 0, "last_charge_date": date(now.Add(-time.Hour)), "charges_count": 1, "event_type": "customer.subscription.updated"}), "wrong_environment")
	named := object{"user_id": user, "property": "external_user_id", "value": account}
	send("user_property", named, "recorded")
	await(t, "the answer", func() bool { return strings.Contains(entitlements(), "web2wave:1") })
	if e := entitlements(); strings.Contains(e, `"active":true`) {
		t.Errorf("a test payment gives access in production: %s", e)
	}
	<-rows
	rows <- []any{row(1, nil), row(2, nil)} // no message came about the second
	named["value"] = "another-name"
	send("user_property", named, "recorded")
	await(t, "what only an answer tells of", func() bool { return strings.Contains(entitlements(), `"active":true`) })
	if e := entitlements(); !strings.Contains(e, `"purchase_id":"web2wave:2"`) {
		t.Errorf("access is by another purchase: %s", e)
	}
}

// Adapty's access levels need not say that they are of the sandbox: its subscriptions do. A profile that production asks about, because of a message about a
// test purchase or a real one, gives nobody what was bought in the sandbox.
func TestASandboxLevelOfAdaptyGivesNothingInProduction(t *testing.T) {
	t.Parallel() // it mostly waits
	now := time.Now()
	stamp := func(at time.Time) string { return at.UTC().Format("2006-01-02T15:04:05.000000-0700") }
	const month, coins = "com.example.pro_monthly", "com.example.coins_100"
	for policy, message := range map[string]object{
		"testers": {"event_type": "subscription_started", "environment": "Sandbox", "vendor_product_id": month, "transaction_id": "2000000912345678"},
		"none":    {"event_type": "non_subscription_purchase", "environment": "Production", "vendor_product_id": coins, "transaction_id": "77"},
	} {
		t.Run(policy, func(t *testing.T) {
			var account string
			var asked atomic.Int32
			api := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
				asked.Add(1)
				sale := func(name, value string) object {
					return object{name: value, "store": "app_store", "store_product_id": month, "store_transaction_id": "2000000912345678", "store_original_transaction_id": "2000000912345678",
						"purchased_at": now.Add(-time.Hour).UTC().Format(time.RFC3339), "expires_at": now.AddDate(0, 1, 0).UTC().Format(time.RFC3339), "is_in_grace_period": false}
				}
				_ = json.NewEncoder(rw).Encode(object{"data": object{"profile_id": "3c1f6a52-2b0e-4a38-9a51-0c2d8a3f7e10", "customer_user_id": account,
					"access_levels": []object{sale("access_level_id", "premium")}, "subscriptions": []object{sale("environment", "Sandbox")}, "non_subscriptions": []object{}}})
			}))
			defer api.Close()
			w := productionWriter(t, func(e *EnvironmentConfig) {
				e.Adapty = &AdaptyConfig{Authorizations: []config.Secret{adaptyAuthorization}, APIKey: "secret", APIBase: api.URL}
			})
			for path, body := range map[string]string{"/v1/policy": fmt.Sprintf(`{"sandbox_access": %q}`, policy),
				"/v1/catalog": `{"products": [], "aggregator_entitlements": [{"provider": "adapty", "id": "premium", "entitlement": "pro"}]}`} {
				if r := w.production("PUT", path, body); r.status != http.StatusOK {
					t.Fatalf("PUT %s = %d %s", path, r.status, r.text)
				}
			}
			account = w.production("POST", "/v1/accounts", `{}`).str("account_id")
			properties := object{"profile_event_id": unique("e"), "store": "app_store", "original_transaction_id": message["transaction_id"],
				"purchase_date": stamp(now.Add(-time.Hour)), "subscription_expires_at": stamp(now.AddDate(0, 1, 0))}
			maps.Copy(properties, message)
			r := w.do("POST", "/v1/webhooks/production/adapty", jsonOf(t, object{"event_type": message["event_type"], "event_datetime": stamp(now.Add(-time.Minute)),
				"profile_id": "3c1f6a52-2b0e-4a38-9a51-0c2d8a3f7e10", "customer_user_id": account, "event_properties": properties}), header{"Authorization": adaptyAuthorization, "Content-Type": "application/json"})
			if r.status != http.StatusOK {
				t.Fatalf("POST = %d %s", r.status, r.text)
			}
			await(t, "the profile asked about", func() bool { return asked.Load() > 0 && w.productionSettled() })
			if e := w.production("GET", "/v1/accounts/"+account+"/entitlements", "").text; strings.Contains(e, `"active":true`) {
				t.Errorf("a sandbox purchase gives access in production: %s", e)
			}
		})
	}
}

// Who buys to test before signing in as a tester has what they bought after it, under both ids, and a restore says no more than what is so.
func TestATesterBuysBeforeTheSignIn(t *testing.T) {
	f := startPlay(t)
	w := productionWriter(t, func(e *EnvironmentConfig) { e.Google = f.asking(t) })
	w.production("PUT", "/v1/catalog", `{"products": [{"provider": "google", "product_id": "pro:monthly", "kind": "subscription", "entitlements": ["pro"], "plan": "pro_monthly", "group": "pro"}]}`)
	before := w.production("POST", "/v1/accounts", `{}`).str("account_id")
	known := w.production("POST", "/v1/accounts", fmt.Sprintf(`{"aliases": [{"kind": "custom", "value": %q}]}`, unique("ann-"))).str("account_id")
	if r := w.production("PATCH", "/v1/accounts/"+known, `{"tester": true}`); r.status != http.StatusOK {
		t.Fatalf("PATCH = %d %s", r.status, r.text)
	}
	token := unique("token-")
	f.put(token, playSubscription(before))
	restored := func(account, outcome string, counts bool) {
		t.Helper()
		r := w.production("POST", "/v1/restores", fmt.Sprintf(`{"account_id": %q, "receipts": [{"provider": "google", "package": "com.example.app", "purchase_token": %q}]}`, account, token))
		if got, finish, pro := r.result(t); got != outcome || finish != counts || pro != counts {
			t.Errorf("POST /v1/restores = %d %s, want %s, and %t that it counts", r.status, r.text, outcome, counts)
		}
	}
	restored(before, receiptEnvironment, false)
	if r := w.production("POST", "/v1/accounts/"+known+"/merges", fmt.Sprintf(`{"from": %q}`, before)); r.status != http.StatusCreated {
		t.Fatalf("POST merges = %d %s", r.status, r.text)
	}
	for _, id := range []string{known, before} {
		if r := w.production("GET", "/v1/accounts/"+id+"/entitlements", ""); !strings.Contains(r.text, `"active":true`) {
			t.Errorf("%s after the merge has %s", id, r.text)
		}
		restored(id, receiptRecorded, true)
	}
}
