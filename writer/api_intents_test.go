package writer

import (
	"encoding/json"
	"sync"
	"testing"

	"github.com/latchkey/latchkey/pkg/entitlement"
)

// A backend asks for any account, an app for its own; what is refused says where the user manages what is in the way.
func TestPurchaseIntents(t *testing.T) {
	w := oneWriter(t)
	w.cfg.ManageURLs = map[entitlement.Provider]string{"stripe": "https://billing.example.com/me"}
	w.api("PUT", "/v1/catalog", testCatalog)
	mine, other := w.account(), w.account()
	session := w.api("POST", "/v1/accounts/"+mine+"/sessions", `{"device_id": "phone"}`).str("session_token")
	want := func(r reply, status int, slug string) reply {
		t.Helper()
		if r.status != status || r.slug() != slug {
			t.Fatalf("%d %s, want %d %q", r.status, r.text, status, slug)
		}
		return r
	}
	body := func(account, product, device string) string {
		b, _ := json.Marshal(map[string]any{"account_id": account, "provider": "stripe", "product_id": product, "device_id": device})
		return string(b)
	}
	const path = "/v1/purchase-intents"
	got := want(w.do("POST", path, `{"provider":"stripe","product_id":"price_pro","device_id":"phone","of_a_later_app":1}`, auth(session)), 200, "")
	meta, _ := got.json["metadata"].(map[string]any)
	if got.json["allowed"] != true || got.json["trial_eligible"] != true || meta["account_id"] != mine || meta["environment"] != "sandbox" ||
		got.str("apple_app_account_token") == "" || got.str("google_obfuscated_account_id") != mine || got.str("account_id") != mine {
		t.Errorf("%s", got.text)
	}
	id := got.str("intent_id")
	if again := want(w.api("POST", path, body(mine, "price_pro", "phone")), 200, ""); again.str("intent_id") != id {
		t.Errorf("the device that asks again has %s, want %s", again.str("intent_id"), id)
	}
	want(w.api("POST", path, body(mine, "price_pro", "tablet")), 409, "purchase-in-progress")
	want(w.do("POST", path, body(other, "price_pro", "phone"), auth(session)), 403, "forbidden")
	foreign := want(w.api("POST", path, body(other, "price_pro", "tv")), 200, "").str("intent_id")
	want(w.do("DELETE", path+"/"+foreign, "", auth(session)), 403, "other-account")
	want(w.do("POST", path+"/"+foreign+"/submitted", "", auth(session)), 403, "other-account")
	want(w.do("DELETE", path+"/"+id, "", auth(session)), 200, "")
	id = want(w.api("POST", path, body(mine, "price_pro", "tablet"), header{"Idempotency-Key": "k"}), 200, "").str("intent_id")
	if again := want(w.api("POST", path, body(mine, "price_pro", "tablet"), header{"Idempotency-Key": "k"}), 200, ""); again.str("intent_id") != id {
		t.Errorf("%s", again.text)
	}
	want(w.api("POST", path, body(mine, "price_life", "tablet"), header{"Idempotency-Key": "k"}), 422, "idempotency-mismatch")
	want(w.do("POST", path+"/"+id+"/submitted", "", auth(session)), 200, "")
	state := func() string { return w.api("GET", "/v1/accounts/"+mine+"/entitlements", "").str("state") }
	if state() != "pending" {
		t.Errorf("after the payment the state is %s", state())
	}
	want(w.api("POST", path, body(mine, "price_pro", "tablet")), 409, "purchase-pending")
	want(w.stripe(event("evt_1", "customer.subscription.created", subscription("sub_1", mine, "price_pro"))), 200, "")
	if state() != "settled" {
		t.Errorf("after the provider's message the state is %s", state())
	}
	blocked := want(w.api("POST", path, body(mine, "price_pro", "tablet")), 409, "active-subscription")
	if blocked.str("manage_url") != "https://billing.example.com/me" || blocked.str("store") != "stripe" {
		t.Errorf("%s", blocked.text)
	}
	if life := want(w.api("POST", path, body(mine, "price_life", "tablet")), 200, ""); life.json["warnings"].([]any)[0] != "cancel-subscription" {
		t.Errorf("%s", life.text)
	}
	for name, bad := range map[string]string{
		"no account": `{"provider":"stripe","product_id":"price_pro"}`, "no provider": `{"account_id":"` + mine + `","product_id":"price_pro"}`,
		"a provider that is none": `{"account_id":"` + mine + `","provider":"paypal","product_id":"x"}`, "no product": `{"account_id":"` + mine + `","provider":"stripe"}`,
		"an unknown field": `{"account_id":"` + mine + `","provider":"stripe","product_id":"price_pro","x":1}`, "a product that is not listed": body(mine, "price_x", ""),
		"a wrong device": body(mine, "price_pro", "a b"), "no JSON": "{",
	} {
		if r := w.api("POST", path, bad); r.status != 400 || r.slug() != "invalid-request" {
			t.Errorf("%s: %d %s", name, r.status, r.text)
		}
	}
	want(w.api("POST", path, body("acc_00000000000000000000000000", "price_pro", "")), 404, "not-found")
	want(w.api("DELETE", path+"/intent_00000000000000000000000000", ""), 404, "not-found")
	w.api("DELETE", "/v1/accounts/"+mine+"/sessions", "")
	want(w.do("POST", path, `{"provider":"stripe","product_id":"price_life"}`, auth(session)), 401, "session-ended")
}

// Many devices ask at once: one of each account's is told yes.
func TestManyDevicesAskAtOnce(t *testing.T) {
	w := oneWriter(t)
	w.api("PUT", "/v1/catalog", testCatalog)
	for range 20 {
		account := w.account()
		var asking sync.WaitGroup
		var mu sync.Mutex
		allowed := 0
		for _, device := range []string{"phone", "tablet", "laptop", "tv"} {
			asking.Go(func() {
				r := w.api("POST", "/v1/purchase-intents", `{"account_id":"`+account+`","provider":"stripe","product_id":"price_pro","trial":true,"device_id":"`+device+`"}`)
				mu.Lock()
				defer mu.Unlock()
				switch {
				case r.status == 200:
					allowed++
				case r.slug() != "purchase-in-progress":
					t.Errorf("%d %s", r.status, r.text)
				}
			})
		}
		asking.Wait()
		if allowed != 1 {
			t.Errorf("%d devices of one account may buy", allowed)
		}
	}
}
