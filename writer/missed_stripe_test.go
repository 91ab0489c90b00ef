package writer

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/latchkey/latchkey/pkg/config"
	"github.com/latchkey/latchkey/pkg/entitlement"
	"github.com/latchkey/latchkey/writer/internal/provider"
)

// eventsWriter is a writer whose Stripe has events that it could not deliver, to be read with readEvents; the leader may look by itself as well.
func eventsWriter(t *testing.T) (w *testWriter, undelivered func(...[]byte)) {
	t.Helper()
	var mu sync.Mutex
	list := []json.RawMessage{}
	s := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		if r.URL.Path != "/v1/events" {
			rw.WriteHeader(http.StatusNotFound)
			fmt.Fprint(rw, `{"error":{"code":"resource_missing"}}`)
			return
		}
		_ = json.NewEncoder(rw).Encode(object{"object": "list", "data": list, "has_more": false})
	}))
	t.Cleanup(s.Close)
	cfg := testConfigs(t, 1)[0]
	stripe := cfg.Environments[entitlement.Sandbox].Stripe
	stripe.APIKey, stripe.APIBase = config.Secret("rk_test_canary"), s.URL
	w = startWriter(t, cfg)
	w.awaitReady()
	return w, func(events ...[]byte) {
		mu.Lock()
		defer mu.Unlock()
		for _, e := range events {
			list = append(list, e)
		}
	}
}

// readEvents reads what Stripe could not deliver within the last hour.
func (w *testWriter) readEvents() {
	w.t.Helper()
	now := time.Now()
	keeper := w.pullers[entitlement.Sandbox][entitlement.Stripe].(provider.HistoryKeeper)
	if err := w.recordHistory(w.t.Context(), entitlement.Sandbox, keeper, now.Add(-time.Hour), now); err != nil {
		w.t.Fatal(err)
	}
}

// TestEventsThatStripeCouldNotDeliverAreRead: a renewal's end that never came as a message is in what Stripe could not deliver. It is recorded once, under the id
// of the message, and the webhook that comes after all is a duplicate.
func TestEventsThatStripeCouldNotDeliverAreRead(t *testing.T) {
	w, undelivered := eventsWriter(t)
	account := w.account()
	metric := func(outcome string) string {
		return w.metric(`latchkey_writer_history_messages_total{outcome="` + outcome + `",provider="stripe"}`)
	}
	now := time.Now()
	bought := event("evt_bought", "customer.subscription.created", subscription("sub_1", account, "price_pro"))
	ended := subscription("sub_1", account, "price_pro")
	ended["status"], ended["ended_at"] = "canceled", now.Unix()
	deleted := event("evt_ended", "customer.subscription.deleted", ended, object{"created": now.Unix() + 1})
	if r := w.stripe(bought); r.status != http.StatusOK || w.pro(account)["active"] != true {
		t.Fatalf("webhook = %d %s", r.status, r.text)
	}
	undelivered(deleted, event("evt_other", "balance.available", object{"object": "balance"}), bought)
	w.readEvents()
	w.readEvents()
	if pro := w.pro(account); pro["active"] != false {
		t.Errorf("after the look: %v, want it ended", pro)
	}
	if missed, forged := metric(historyMissed), metric(historyForged); missed != "1" || forged != "0" {
		t.Errorf("%s missed, %s forged, want 1 and 0", missed, forged)
	}
	if r := w.api("GET", "/v1/events/evt_other", ""); r.status != http.StatusNotFound {
		t.Errorf("what proves nothing is stored: %s", r.text)
	}
	if r := w.stripe(deleted); r.status != http.StatusOK || r.json["duplicate"] != true {
		t.Errorf("the webhook that comes after all = %d %s, want a duplicate", r.status, r.text)
	}
}

// TestACardWhoseMessageCouldNotBeDeliveredIsKnown: it locks the trial of whoever pays with it, as the one of a webhook does.
func TestACardWhoseMessageCouldNotBeDeliveredIsKnown(t *testing.T) {
	const fingerprint = "canaryFingerprint6"
	w, undelivered := eventsWriter(t)
	if r := w.api("PUT", "/v1/catalog", `{"products": [{"provider": "stripe", "product_id": "price_pro", "kind": "subscription", "entitlements": ["pro"], "group": "pro", "trial_days": 7},
		{"provider": "stripe", "product_id": "price_news", "kind": "subscription", "entitlements": ["news"], "group": "news", "trial_days": 7}]}`); r.status != http.StatusOK {
		t.Fatalf("PUT /v1/catalog = %d %s", r.status, r.text)
	}
	var second string
	for _, status := range []string{"trialing", "active"} {
		second = w.account()
		sub := subscription(unique("sub_"), second, "price_pro")
		if sub["status"] = status; status == "trialing" {
			sub["trial_start"], sub["trial_end"] = sub["current_period_start"], sub["current_period_end"]
		}
		if r := w.stripe(event(unique("evt_"), "customer.subscription.created", sub)); r.status != http.StatusOK {
			t.Fatalf("webhook = %d %s", r.status, r.text)
		}
		undelivered(event(unique("evt_"), "payment_method.attached", object{"id": unique("pm_"), "object": "payment_method", "type": "card", "customer": sub["customer"], "livemode": false,
			"card": object{"fingerprint": fingerprint}}))
	}
	if r := w.api("PUT", "/v1/policy", `{"trial_lock": "payment"}`); r.status != http.StatusOK {
		t.Fatalf("PUT /v1/policy = %d %s", r.status, r.text)
	}
	w.readEvents()
	r := w.api("POST", "/v1/purchase-intents", fmt.Sprintf(`{"account_id": %q, "provider": "stripe", "product_id": "price_news", "trial": true}`, second))
	if r.slug() != "trial-used" {
		t.Errorf("a trial with a card that had one = %d %s, want trial-used", r.status, r.text)
	}
}
