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

// TestEventsThatStripeCouldNotDeliverAreRead: a renewal's end that never came as a message is in what Stripe could not deliver. It is recorded once, under the id
// of the message, and the webhook that comes after all is a duplicate.
func TestEventsThatStripeCouldNotDeliverAreRead(t *testing.T) {
	var mu sync.Mutex
	var undelivered []json.RawMessage
	s := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		if r.URL.Path != "/v1/events" {
			rw.WriteHeader(http.StatusNotFound)
			fmt.Fprint(rw, `{"error":{"code":"resource_missing"}}`)
			return
		}
		_ = json.NewEncoder(rw).Encode(object{"object": "list", "data": undelivered, "has_more": false})
	}))
	t.Cleanup(s.Close)
	cfg := testConfigs(t, 1)[0]
	stripe := cfg.Environments[entitlement.Sandbox].Stripe
	stripe.APIKey, stripe.APIBase = config.Secret("rk_test_canary"), s.URL
	w := startWriter(t, cfg)
	w.awaitReady()
	account := w.account()
	keeper := w.pullers[entitlement.Sandbox][entitlement.Stripe].(provider.HistoryKeeper)
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
	mu.Lock() // the leader may look by itself from here on
	undelivered = []json.RawMessage{deleted, event("evt_other", "balance.available", object{"object": "balance"}), bought}
	mu.Unlock()
	for range 2 {
		if err := w.recordHistory(t.Context(), entitlement.Sandbox, keeper, now.Add(-time.Hour), now); err != nil {
			t.Fatal(err)
		}
	}
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
