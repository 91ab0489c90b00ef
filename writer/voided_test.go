package writer

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/latchkey/latchkey/pkg/entitlement"
	"github.com/latchkey/latchkey/writer/internal/provider"
)

// TestARefundWhoseMessageIsLost: Play gives money back, no message comes, and what it answers about the purchase goes on to call it active. The list of what
// was taken back ends it, once, and leaves alone what is not known here.
func TestARefundWhoseMessageIsLost(t *testing.T) {
	f := startPlay(t)
	w := playingWriter(t, f)
	account := w.api("POST", "/v1/accounts", `{"aliases": [{"kind": "google_obfuscated_account", "value": "`+playAccount+`"}]}`).str("account_id")
	purchase := playSubscription(playAccount)
	order := fmt.Sprint(purchase["lineItems"].([]object)[0]["latestSuccessfulOrderId"])
	f.put("token-1", purchase)
	w.pushSubscription("token-1")
	await(t, "pro", func() bool { return w.pro(account)["active"] == true && w.settled() })

	list := w.pullers[entitlement.Sandbox][entitlement.Google].(provider.VoidLister)
	look := func() {
		t.Helper()
		if err := w.recordVoided(t.Context(), entitlement.Sandbox, list, time.Now().Add(-time.Hour), time.Now()); err != nil {
			t.Fatal(err)
		}
	}
	head := func() string { return w.api("GET", "/v1/accounts/"+account+"/entitlements", "").str("revision") }
	look()
	void := func(token, order string) object {
		return object{"purchaseToken": token, "orderId": order, "voidedTimeMillis": fmt.Sprint(time.Now().UnixMilli()), "voidedReason": 7, "voidedSource": 2}
	}
	f.mu.Lock()
	f.voided = []object{void("token-1", order), void("nobody-knows-this-one", "GPA.9999")}
	f.mu.Unlock()
	look()
	if pro := w.pro(account); pro["active"] == true || pro["reason"] != "refunded" {
		t.Errorf("after the look: %v, want it refunded", pro)
	}
	await(t, "what Play says of it asked", w.settled)
	before := head()
	look()
	if after := head(); after != before || w.pro(account)["reason"] != "refunded" {
		t.Errorf("another look moves the revision from %s to %s", before, after)
	}
	if r := w.api("GET", "/v1/events?after=", ""); r.status == http.StatusOK && strings.Contains(r.text, "GPA.9999") {
		t.Errorf("a refund of what is not known here is stored: %s", r.text)
	}
	// One that a message told of is not told again.
	second := playSubscription(playAccount)
	f.put("token-2", second)
	w.pushSubscription("token-2")
	await(t, "pro by another purchase", func() bool { return w.pro(account)["active"] == true && w.settled() })
	order = fmt.Sprint(second["lineItems"].([]object)[0]["latestSuccessfulOrderId"])
	if r := w.push(unique("m"), "voidedPurchaseNotification", object{"purchaseToken": "token-2", "orderId": order, "productType": 1, "refundType": 1}); r.status != http.StatusOK {
		t.Fatalf("webhook = %d %s", r.status, r.text)
	}
	f.mu.Lock()
	f.voided = append(f.voided, void("token-2", order))
	f.mu.Unlock()
	await(t, "the message's question settled", w.settled)
	before = head()
	look()
	if after := head(); after != before {
		t.Errorf("a refund that a message told of is recorded again: %s, then %s", before, after)
	}
}
