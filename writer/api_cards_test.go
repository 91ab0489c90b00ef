package writer

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestATrialIsLockedByTheCardThatPays: of two accounts with one card the second gets no trial under trial_lock payment, and gets one under account_and_store. The
// card is known before anything is charged, and its fingerprint is in no file and no log (requirement A10.6).
func TestATrialIsLockedByTheCardThatPays(t *testing.T) {
	const fingerprint = "canaryFingerprint5"
	configs := testConfigs(t, 1)
	w := startWriter(t, configs[0])
	w.awaitReady()
	first, second, third := w.account(), w.account(), w.account()
	message := func(kind string, o object) {
		t.Helper()
		if r := w.stripe(event(unique("evt_"), kind, o)); r.status != 200 || r.str("outcome") != "recorded" {
			t.Fatalf("%s = %d %s", kind, r.status, r.text)
		}
	}
	attach := func(customer, fingerprint string) {
		t.Helper()
		message("payment_method.attached", object{"id": unique("pm_"), "object": "payment_method", "type": "card", "customer": customer, "livemode": false,
			"billing_details": object{"name": "canary name"}, "card": object{"brand": "visa", "last4": "4242", "fingerprint": fingerprint}})
	}
	buys := func(account, status string) (customer string) {
		t.Helper()
		sub := subscription(unique("sub_"), account, "price_pro")
		if sub["status"] = status; status == "trialing" {
			sub["trial_start"], sub["trial_end"] = sub["current_period_start"], sub["current_period_end"]
		}
		message("customer.subscription.created", sub)
		return sub["customer"].(string)
	}
	policy := func(lock string) {
		t.Helper()
		if r := w.api("PUT", "/v1/policy", fmt.Sprintf(`{"trial_lock": %q}`, lock)); r.status != 200 {
			t.Fatalf("PUT /v1/policy = %d %s", r.status, r.text)
		}
		// What is not given has its default: who changes the lock takes no billing grace away.
		if r := w.api("GET", "/v1/policy", ""); r.str("trial_lock") != lock || fmt.Sprint(r.json["billing_grace"]) != "map[stripe:604800]" {
			t.Errorf("the policy is shown as %s, want the lock %q and Stripe's 7 days", r.text, lock)
		}
	}
	// What a trial is asked for: another group, as the second account has paid for this one at the full price.
	if r := w.api("PUT", "/v1/catalog", `{"products": [{"provider": "stripe", "product_id": "price_pro", "kind": "subscription", "entitlements": ["pro"], "group": "pro", "trial_days": 7},
		{"provider": "stripe", "product_id": "price_news", "kind": "subscription", "entitlements": ["news"], "group": "news", "trial_days": 7}]}`); r.status != 200 {
		t.Fatalf("PUT /v1/catalog = %d %s", r.status, r.text)
	}
	trial := func(account, want string) {
		t.Helper()
		r := w.api("POST", "/v1/purchase-intents", fmt.Sprintf(`{"account_id": %q, "provider": "stripe", "product_id": "price_news", "trial": true}`, account))
		if r.slug() != want {
			t.Errorf("a trial for %s = %d %s, want %q", account, r.status, r.text, want)
		}
		if r.status == 200 {
			w.api("DELETE", "/v1/purchase-intents/"+r.str("intent_id"), "")
		}
	}
	attach(buys(first, "trialing"), fingerprint)
	customer := buys(second, "active")
	message("charge.succeeded", object{"id": unique("ch_"), "object": "charge", "customer": customer, "payment_intent": unique("pi_"), "amount": 999, "livemode": false,
		"payment_method_details": object{"type": "card", "card": object{"fingerprint": fingerprint}}})
	attach(buys(third, "active"), "another")
	trial(second, "")
	policy("payment")
	trial(second, "trial-used")
	trial(third, "")
	policy("account_and_store")
	trial(second, "")
	if r := w.api("PUT", "/v1/policy", `{"billing_grace": {}}`); r.status != 200 {
		t.Errorf("no billing grace at all = %d %s", r.status, r.text)
	}
	if r := w.api("GET", "/v1/policy", ""); fmt.Sprint(r.json["billing_grace"]) != "map[]" {
		t.Errorf("the policy is shown as %s, want no billing grace", r.text)
	}

	w.stop()
	err := filepath.WalkDir(configs[0].Node.DataDir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		b, err := os.ReadFile(path)
		if bytes.Contains(b, []byte(fingerprint)) {
			t.Errorf("%s has the fingerprint", path)
		}
		return err
	})
	if err != nil || strings.Contains(w.logs.String(), fingerprint) {
		t.Errorf("%v, or the log has the fingerprint", err)
	}
}

// TestNoCardsAreCountedWithoutAKey: the policy is refused with what to do about it, and what was there stays.
func TestNoCardsAreCountedWithoutAKey(t *testing.T) {
	configs := testConfigs(t, 1)
	configs[0].Contacts.Key = ""
	w := startWriter(t, configs[0])
	w.awaitReady()
	r := w.api("PUT", "/v1/policy", `{"trial_lock": "payment"}`)
	if r.status != 501 || r.slug() != "not-configured" || !strings.Contains(r.str("detail"), "contacts.key") {
		t.Errorf("PUT /v1/policy = %d %s, want not-configured that names contacts.key", r.status, r.text)
	}
	if got := w.api("GET", "/v1/policy", "").str("trial_lock"); got != trialByStore {
		t.Errorf("trial_lock = %q, want %s", got, trialByStore)
	}
	if r := w.api("PUT", "/v1/policy", `{"trial_lock": "ip_address"}`); r.status != 400 || r.slug() != "invalid-request" {
		t.Errorf("another lock = %d %s, want invalid-request", r.status, r.text)
	}
	if r := w.stripe(event(unique("evt_"), "payment_method.attached", object{"id": "pm_1", "object": "payment_method", "customer": "cus_1", "livemode": false,
		"card": object{"fingerprint": "f"}})); r.status != 200 || r.str("outcome") != "recorded" {
		t.Errorf("a card without a key = %d %s", r.status, r.text)
	}
}
