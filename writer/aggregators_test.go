package writer

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/latchkey/latchkey/pkg/config"
	"github.com/latchkey/latchkey/pkg/entitlement"
	"github.com/latchkey/latchkey/writer/internal/provider"
	"github.com/latchkey/latchkey/writer/internal/store"
)

const (
	adaptyAuthorization = "Bearer canary-of-adapty"
	iapticPassword      = "canary-of-iaptic"
)

// startAggregators starts a writer that has both, without an API to ask.
func startAggregators(t *testing.T) *testWriter {
	t.Helper()
	cfg := testConfigs(t, 1)[0]
	sandbox := cfg.Environments[entitlement.Sandbox]
	sandbox.Adapty = &AdaptyConfig{Authorizations: []config.Secret{adaptyAuthorization}}
	sandbox.Iaptic = &IapticConfig{Passwords: []config.Secret{iapticPassword}}
	cfg.Environments[entitlement.Sandbox] = sandbox
	w := startWriter(t, cfg)
	w.awaitReady()
	if r := w.api("PUT", "/v1/catalog", `{"products": [{"provider": "apple", "product_id": "com.example.pro_monthly", "kind": "subscription", "entitlements": ["pro"], "plan": "pro_monthly", "group": "pro"}],
		"aggregator_entitlements": [{"provider": "adapty", "id": "premium", "entitlement": "pro"}]}`); r.status != http.StatusOK {
		t.Fatalf("PUT /v1/catalog = %d %s", r.status, r.text)
	}
	return w
}

func jsonOf(t testing.TB, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestAdaptyGivesAccess goes from the webhook to the answer: refusals that Adapty repeats, both handshakes, an access level of a product that
// the catalog lacks, a share, its end (R25).
func TestAdaptyGivesAccess(t *testing.T) {
	w := startAggregators(t)
	post := func(body, authorization string) reply {
		return w.do("POST", "/v1/webhooks/sandbox/adapty", body, header{"Authorization": authorization, "Content-Type": "application/json"})
	}
	for body, want := range map[string]string{`{}`: `{}`, `{"adapty_check":"k3J9"}`: `{"adapty_check_response":"k3J9"}`} {
		if r := post(body, "unknown"); r.status != http.StatusOK || strings.TrimSpace(r.text) != want {
			t.Errorf("handshake %s = %d %s, want %s", body, r.status, r.text, want)
		}
	}
	owner, friend := w.account(), w.account()
	now := time.Now()
	stamp := func(at time.Time) string { return at.UTC().Format("2006-01-02T15:04:05.000000-0700") }
	state := func(at time.Time, sharers []object, change object) string {
		properties := object{"profile_event_id": unique("e"), "environment": "Sandbox", "store": "paddle", "vendor_product_id": "not_in_the_catalog", "transaction_id": "t1", "original_transaction_id": "t1",
			"purchase_date": stamp(now.Add(-time.Hour)), "access_level_id": "premium", "is_active": true, "is_refund": false, "will_renew": true, "expires_at": stamp(now.AddDate(0, 1, 0))}
		for name, value := range change {
			properties[name] = value
		}
		return jsonOf(t, object{"event_type": "access_level_updated", "event_datetime": stamp(at), "profile_id": "3c1f6a52-2b0e-4a38-9a51-0c2d8a3f7e10", "customer_user_id": owner,
			"email": "canary@example.com", "profiles_sharing_access_level": sharers, "event_properties": properties})
	}
	first := state(now.Add(-time.Minute), nil, nil)
	if r := post(first, "unknown"); r.status != http.StatusServiceUnavailable || r.slug() != "invalid-signature" {
		t.Errorf("a wrong authorization: %d %s, want 503: Adapty repeats no 4xx", r.status, r.text)
	}
	if w.pro(owner)["active"] == true {
		t.Fatal("a message that was refused gives access")
	}
	for i, again := range []bool{false, true} {
		if r := post(first, adaptyAuthorization); r.status != http.StatusOK || r.str("outcome") != "recorded" || r.json["duplicate"] != again {
			t.Fatalf("POST %d = %d %s", i, r.status, r.text)
		}
	}
	if pro := w.pro(owner); pro["active"] != true || pro["provider"] != "adapty" || pro["store"] != "paddle" || pro["will_renew"] != true || pro["purchase_id"] != "adapty:t1" {
		t.Errorf("pro = %v", pro)
	}
	post(state(now.Add(-50*time.Second), []object{{"profile_id": "b7a0c1de-11aa-4c7c-8a2b-9d0e1f2a3b4c", "customer_user_id": friend}}, nil), adaptyAuthorization)
	if pro := w.pro(friend); pro["active"] != true || pro["ownership"] != "shared" {
		t.Errorf("with whom it is shared: %v", pro)
	}
	post(state(now.Add(-40*time.Second), nil, object{"is_active": false, "is_refund": true, "will_renew": false, "expires_at": stamp(now.Add(-40 * time.Second))}), adaptyAuthorization)
	if pro, other := w.pro(owner), w.pro(friend); pro["status"] != "refunded" || other["active"] == true {
		t.Errorf("after the refund: %v, and the friend %v", pro, other)
	}
	if log := w.logs.String(); strings.Contains(log, "canary") {
		t.Errorf("the log has a secret or an address: %s", log)
	}
}

// A sale of the App Store that iaptic tells of is in no doubt where the App Store cannot be asked: it is neither counted nor handed to those who ask.
func TestASaleWhoseStoreCannotBeAskedIsInNoDoubt(t *testing.T) {
	w := startAggregators(t)
	now, account := time.Now(), w.account()
	stamp := func(at time.Time) string { return at.UTC().Format("2006-01-02T15:04:05.000Z07:00") }
	r := w.do("POST", "/v1/webhooks/sandbox/iaptic", jsonOf(t, object{"type": "purchases.updated", "password": iapticPassword, "applicationUsername": account,
		"notification": object{"reason": "PURCHASED", "id": unique("n"), "date": stamp(now)}, "purchases": object{"a": object{"purchaseId": "apple:2000", "transactionId": "apple:2000",
			"productId": "apple:com.example.pro_monthly", "platform": "apple", "sandbox": true, "purchaseDate": stamp(now.Add(-time.Hour)), "expirationDate": stamp(now.AddDate(0, 1, 0)), "renewalIntent": "Renew"}}}),
		header{"Content-Type": "application/json"})
	if r.str("outcome") != "recorded" || w.pro(account)["active"] != true {
		t.Fatalf("POST = %d %s: %v", r.status, r.text, w.pro(account))
	}
	rows := func() (n int) {
		if err := w.store.View(func(r *store.Reader) error {
			list, err := r.Pulls(entitlement.Sandbox, "", 10)
			n = len(list)
			return err
		}); err != nil {
			t.Fatal(err)
		}
		return n
	}
	for _, apis := range []map[entitlement.Provider]provider.Puller{{}, {entitlement.Apple: &provider.AppleAPI{}}} {
		want := len(apis)
		due, _, err := newPulling(w.Writer, entitlement.Sandbox, apis).scan(time.Now())
		if got := w.countOpen(entitlement.Sandbox, apis); rows() != 1 || err != nil || len(due) != want || got != float64(want) {
			t.Errorf("with %d stores to ask: %d rows, %d due, %v counted, %v; want %d due and counted of one row", want, rows(), len(due), got, err, want)
		}
	}
}

// What Adapty tells a day before it is so, as of Apple's renewals, no answer of today settles: it is asked about now, and again when it is so.
func TestARenewalToldEarlyIsAskedAboutAgainWhenItIsDue(t *testing.T) {
	w := startAggregators(t)
	account, now := w.account(), time.Now()
	asked := 0
	api := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
		asked++
		if _, err := io.WriteString(rw, jsonOf(t, object{"data": object{"profile_id": "3c1f6a52-2b0e-4a38-9a51-0c2d8a3f7e10", "customer_user_id": account, "access_levels": []any{}}})); err != nil {
			t.Error(err)
		}
	}))
	defer api.Close()
	adapty, err := provider.NewAdaptyAPI(provider.AdaptyAPIConfig{Key: "secret_1", BaseURL: api.URL, Environment: entitlement.Sandbox})
	if err != nil {
		t.Fatal(err)
	}
	stamp := func(at time.Time) string { return at.UTC().Format("2006-01-02T15:04:05.000000-0700") }
	starts := now.Add(20 * time.Hour)
	message := object{"event_type": "subscription_renewed", "event_datetime": stamp(starts), "profile_id": "3c1f6a52-2b0e-4a38-9a51-0c2d8a3f7e10", "customer_user_id": account,
		"event_properties": object{"profile_event_id": unique("e"), "environment": "Sandbox", "store": "app_store", "vendor_product_id": "com.example.pro_monthly", "transaction_id": "2000000912345679",
			"original_transaction_id": "2000000912345678", "purchase_date": stamp(starts), "subscription_expires_at": stamp(now.AddDate(0, 1, 0))}}
	if r := w.do("POST", "/v1/webhooks/sandbox/adapty", jsonOf(t, message), header{"Authorization": adaptyAuthorization, "Content-Type": "application/json"}); r.str("outcome") != "recorded" {
		t.Fatalf("POST = %d %s", r.status, r.text)
	}
	p := newPulling(w.Writer, entitlement.Sandbox, map[entitlement.Provider]provider.Puller{entitlement.Adapty: adapty})
	due, _, err := p.scan(time.Now())
	if err != nil || len(due) != 1 {
		t.Fatalf("due: %v, %v, want one", due, err)
	}
	p.ask(t.Context(), due[0])
	if again := time.Until(p.tried[due[0].ID].next); asked != 0 || again > pullSettleWait {
		t.Errorf("asked %d times before the second was over, next in %s", asked, again)
	}
	p.ask(t.Context(), due[0])
	if again := time.Until(p.tried[due[0].ID].next); asked != 1 || again < 14*time.Hour || again > 26*time.Hour {
		t.Errorf("asked %d times, next in %s, want once and about 20 h", asked, again)
	}
}

// TestIapticGivesAccess goes from the webhook to the answer, and shows that the password is nowhere on the disk.
func TestIapticGivesAccess(t *testing.T) {
	w := startAggregators(t)
	account, now := w.account(), time.Now()
	stamp := func(at time.Time) string { return at.UTC().Format("2006-01-02T15:04:05.000Z07:00") }
	message := func(at time.Time, password string, change object) string {
		purchase := object{"purchaseId": "apple:2000000912345678", "transactionId": "apple:2000000912345678", "productId": "apple:com.example.pro_monthly", "platform": "apple", "sandbox": true,
			"purchaseDate": stamp(now.Add(-time.Hour)), "expirationDate": stamp(now.AddDate(0, 1, 0)), "renewalIntent": "Renew", "cancelationReason": ""}
		for name, value := range change {
			purchase[name] = value
		}
		return jsonOf(t, object{"type": "purchases.updated", "password": password, "applicationUsername": account, "notification": object{"reason": "PURCHASED", "id": unique("n"), "date": stamp(at)},
			"purchases": object{"apple:com.example.pro_monthly": purchase}})
	}
	post := func(body string) reply {
		return w.do("POST", "/v1/webhooks/sandbox/iaptic", body, header{"Content-Type": "application/json"})
	}
	if r := post(message(now, "wrong", nil)); r.status != http.StatusUnauthorized || r.slug() != "invalid-signature" {
		t.Errorf("a wrong password: %d %s", r.status, r.text)
	}
	if r := post(`{"type":"TEST","password":"` + iapticPassword + `"}`); r.status != http.StatusOK || r.str("outcome") != "unhandled" {
		t.Errorf("a test: %d %s", r.status, r.text)
	}
	if r := post(message(now.Add(-time.Minute), iapticPassword, nil)); r.status != http.StatusOK || r.str("outcome") != "recorded" {
		t.Fatalf("POST = %d %s", r.status, r.text)
	}
	if pro := w.pro(account); pro["active"] != true || pro["provider"] != "iaptic" || pro["store"] != "app_store" || pro["purchase_id"] != "apple:2000000912345678" {
		t.Errorf("pro = %v", pro)
	}
	if r := post(`{"type":"purchases.updated","password":"` + iapticPassword + `"}`); r.status != http.StatusOK || r.str("outcome") != "unreadable" {
		t.Errorf("a message without purchases: %d %s", r.status, r.text)
	}
	empty := jsonOf(t, object{"type": "purchases.updated", "password": iapticPassword, "applicationUsername": account,
		"notification": object{"reason": "RECEIPT_REFRESHED", "id": unique("n"), "date": stamp(now.Add(-50 * time.Second))}, "purchases": object{}})
	if r := post(empty); r.str("outcome") != "recorded" || w.pro(account)["active"] == true || w.pro(account)["status"] != "expired" {
		t.Errorf("a message that shows nothing any more = %d %s: %v", r.status, r.text, w.pro(account))
	}
	if post(message(now.Add(-40*time.Second), iapticPassword, nil)); w.pro(account)["active"] != true {
		t.Errorf("back in the collection: %v", w.pro(account))
	}
	post(message(now.Add(-30*time.Second), iapticPassword, object{"expirationDate": stamp(now.Add(-time.Minute)), "renewalIntent": "Lapse", "cancelationReason": "Customer", "isExpired": true}))
	if pro := w.pro(account); pro["status"] != "expired" {
		t.Errorf("after its end: %v", pro)
	}
	w.stop()
	files := 0
	err := filepath.WalkDir(w.cfg.Node.DataDir, func(path string, entry os.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		files++
		return scan(t, path, []string{iapticPassword})
	})
	if err != nil || files < 4 {
		t.Errorf("scanned %d files, %v", files, err)
	}
	if log := w.logs.String(); strings.Contains(log, iapticPassword) {
		t.Errorf("the log has the password: %s", log)
	}
}

// Whom iaptic leaves out of those who may use a purchase loses it: to the others, or with them where the list is empty.
func TestWhomIapticCallsEntitledNoMoreHasNoAccess(t *testing.T) {
	w := startAggregators(t)
	now, a, b, c := time.Now(), w.account(), w.account(), w.account()
	stamp := func(at time.Time) string { return at.UTC().Format("2006-01-02T15:04:05.000Z07:00") }
	for i, tt := range []struct {
		users   []string // nil: not told
		a, b, c bool
	}{
		{nil, true, false, false}, {[]string{a, b}, true, true, false}, {[]string{b, c}, false, true, true}, {[]string{}, false, false, false}, {[]string{c}, false, false, true},
	} {
		purchase := object{"purchaseId": "apple:2000", "transactionId": "apple:2000", "productId": "apple:com.example.pro_monthly", "platform": "apple", "sandbox": true,
			"purchaseDate": stamp(now.Add(-time.Hour)), "expirationDate": stamp(now.AddDate(0, 1, 0)), "renewalIntent": "Renew"}
		if tt.users != nil {
			purchase["entitledUsers"] = tt.users
		}
		r := w.do("POST", "/v1/webhooks/sandbox/iaptic", jsonOf(t, object{"type": "purchases.updated", "password": iapticPassword, "applicationUsername": a,
			"notification": object{"reason": "RECEIPT_REFRESHED", "id": unique("n"), "date": stamp(now.Add(time.Duration(i-60) * time.Second))}, "purchases": object{"a": purchase}}), header{"Content-Type": "application/json"})
		if r.str("outcome") != "recorded" {
			t.Fatalf("POST = %d %s", r.status, r.text)
		}
		for account, want := range map[string]bool{a: tt.a, b: tt.b, c: tt.c} {
			if got := w.pro(account)["active"] == true; got != want {
				t.Errorf("step %d, entitled %q: pro of %s is %t, want %t", i, tt.users, account, got, want)
			}
		}
	}
}
