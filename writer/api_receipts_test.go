package writer

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/latchkey/latchkey/pkg/entitlement"
	"github.com/latchkey/latchkey/writer/internal/provider/appletest"
)

// These tests show what becomes of what an app shows: it counts without a webhook, for one account, once, and no longer than its store says.

// fakeAppStore signs transactions for apps, and answers about them when it is up.
type fakeAppStore struct {
	*httptest.Server
	*appletest.Authority
	t    testing.TB
	mu   sync.Mutex
	down bool
	sold map[string]object // transactions by id
}

func startAppStore(t *testing.T) *fakeAppStore {
	f := &fakeAppStore{Authority: appletest.New(t), t: t, sold: map[string]object{}}
	f.Server = httptest.NewServer(http.HandlerFunc(f.serve))
	t.Cleanup(f.Close)
	return f
}

func (f *fakeAppStore) setDown(down bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.down = down
}

func (f *fakeAppStore) serve(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.down {
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	id := r.URL.Path[strings.LastIndex(r.URL.Path, "/")+1:]
	sold, known := f.sold[id]
	if !known {
		w.WriteHeader(http.StatusNotFound)
		fmt.Fprint(w, `{"errorCode": 4040010}`)
		return
	}
	now := object{}
	for name, value := range sold {
		now[name] = value
	}
	now["signedDate"] = time.Now().UnixMilli()
	signed := f.Sign(f.t, now)
	renewal := f.Sign(f.t, object{"originalTransactionId": id, "productId": "pro.monthly", "autoRenewProductId": "pro.monthly", "autoRenewStatus": 1, "environment": sold["environment"], "signedDate": now["signedDate"]})
	answer := object{"signedTransactionInfo": signed, "bundleId": "com.example.app", "environment": sold["environment"], "hasMore": false, "signedTransactions": []string{signed},
		"data": []object{{"lastTransactions": []object{{"originalTransactionId": id, "status": 1, "signedTransactionInfo": signed, "signedRenewalInfo": renewal}}}}}
	_ = json.NewEncoder(w).Encode(answer)
}

// transaction returns what StoreKit gives the app after the sale of a month of pro. known: the App Store's servers know of it too.
func (f *fakeAppStore) transaction(id, env string, known bool) string {
	now := time.Now()
	o := object{"transactionId": id, "originalTransactionId": id, "bundleId": "com.example.app", "productId": "pro.monthly", "type": "Auto-Renewable Subscription",
		"purchaseDate": now.Add(-time.Minute).UnixMilli(), "expiresDate": now.AddDate(0, 1, 0).UnixMilli(), "inAppOwnershipType": "PURCHASED", "environment": env, "signedDate": now.UnixMilli()}
	if known {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.sold[id] = o
	}
	return f.Sign(f.t, o)
}

// receiptsWriter starts a writer that asks the fakes: the App Store in sandbox alone.
func receiptsWriter(t *testing.T, f *fakeAppStore, s *fakeStripe) *testWriter {
	t.Helper()
	root := filepath.Join(t.TempDir(), "root.der")
	if err := os.WriteFile(root, f.Root, 0o600); err != nil {
		t.Fatal(err)
	}
	c := s.asking(testConfigs(t, 1)[0])
	for _, env := range entitlement.Environments {
		e := c.Environments[env]
		e.Apple = &AppleConfig{BundleID: "com.example.app", RootCAFiles: []string{root}}
		if env == entitlement.Sandbox {
			e.Apple.APIKey, e.Apple.APIKeyID, e.Apple.APIIssuerID, e.Apple.APIBase = appleAPIKey(t), "K", "I", f.URL
		}
		c.Environments[env] = e
	}
	w := startWriter(t, c)
	w.awaitReady()
	catalog := strings.Replace(testCatalog, `"products": [`, `"products": [{"provider": "apple", "product_id": "pro.monthly", "kind": "subscription", "entitlements": ["pro"]},`, 1)
	for _, key := range []string{serverKey, productionKey} {
		if r := w.do("PUT", "/v1/catalog", catalog, auth(key)); r.status != http.StatusOK {
			t.Fatalf("PUT catalog = %d %s", r.status, r.text)
		}
	}
	return w
}

// shown is the body of a request with receipts.
func shown(account string, receipts ...object) string {
	body := object{"receipts": receipts}
	if account != "" {
		body["account_id"] = account
	}
	b, err := json.Marshal(body)
	if err != nil {
		panic(err) // plain values
	}
	return string(b)
}

func signedReceipt(jws string) object { return object{"provider": "apple", "signed_transaction": jws} }

// result returns the one result of an answer, and whether pro is active in it.
func (r reply) result(t testing.TB) (outcome string, finish, pro bool) {
	t.Helper()
	results, _ := r.json["results"].([]any)
	if r.status != http.StatusOK || len(results) != 1 {
		t.Fatalf("POST /v1/receipts = %d %s, want one result", r.status, r.text)
	}
	one := results[0].(object)
	outcome, _ = one["outcome"].(string)
	finish, _ = one["finish"].(bool)
	list, _ := r.json["entitlements"].([]any)
	for _, e := range list {
		pro = pro || e.(object)["id"] == "pro" && e.(object)["active"] == true
	}
	return outcome, finish, pro
}

func TestWhatBecomesOfAReceipt(t *testing.T) {
	f, s := startAppStore(t), startStripe(t)
	w := receiptsWriter(t, f, s)
	newAccount := func(key string) string { return w.do("POST", "/v1/accounts", `{}`, auth(key)).str("account_id") }
	owned := f.transaction("1000", "Sandbox", true)
	if outcome, _, _ := w.api("POST", "/v1/receipts", shown(newAccount(serverKey), signedReceipt(owned))).result(t); outcome != receiptRecorded {
		t.Fatalf("the first who shows a transaction gets %s", outcome)
	}
	sub := subscription("sub_shown", "", "price_pro")
	s.put("/v1/subscriptions/sub_shown", sub)
	s.put("/v1/checkout/sessions/cs_shown", object{"id": "cs_shown", "object": "checkout.session", "mode": "subscription", "status": "complete", "payment_status": "paid",
		"subscription": "sub_shown", "customer": "cus_sub_shown", "created": time.Now().Unix(), "livemode": false, "metadata": object{}})
	tests := []struct {
		name    string
		key     string
		receipt object
		want    string
		finish  bool
		pro     bool
	}{
		{"the App Store signed it and says so again", serverKey, signedReceipt(f.transaction("1001", "Sandbox", true)), receiptRecorded, true, true},
		{"the App Store does not know it", serverKey, signedReceipt(f.transaction("1002", "Sandbox", false)), receiptRejected, false, false},
		{"another's", serverKey, signedReceipt(owned), receiptOther, true, false},
		{"signed by somebody else", serverKey, signedReceipt((&fakeAppStore{Authority: appletest.New(t), t: t}).transaction("1003", "Sandbox", false)), receiptRejected, false, false},
		{"no signature at all", serverKey, signedReceipt("x"), receiptRejected, false, false},
		{"a real sale in sandbox", serverKey, signedReceipt(f.transaction("1004", "Production", true)), receiptEnvironment, false, false},
		{"a real sale where nobody can be asked", productionKey, signedReceipt(f.transaction("1005", "Production", false)), receiptRecorded, true, true},
		{"a test purchase in production", productionKey, signedReceipt(f.transaction("1006", "Sandbox", false)), receiptEnvironment, false, false},
		{"a paid session of Stripe", serverKey, object{"provider": "stripe", "checkout_session_id": "cs_shown"}, receiptRecorded, true, true},
		{"a session that Stripe does not know", serverKey, object{"provider": "stripe", "checkout_session_id": "cs_none"}, receiptRejected, false, false},
		{"a session where Stripe cannot be asked", productionKey, object{"provider": "stripe", "checkout_session_id": "cs_shown"}, receiptPending, false, false},
		{"a token of Play, which is not configured", serverKey, object{"provider": "google", "package": "com.example.app", "purchase_token": "token"}, receiptRejected, false, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			body := shown(newAccount(tt.key), tt.receipt)
			first := w.do("POST", "/v1/receipts", body, auth(tt.key))
			if outcome, finish, pro := first.result(t); outcome != tt.want || finish != tt.finish || pro != tt.pro {
				t.Errorf("POST /v1/receipts = %s, want %s, finish %t, pro %t", first.text, tt.want, tt.finish, tt.pro)
			}
			before := w.store.Position().Revision()
			again := w.do("POST", "/v1/receipts", body, auth(tt.key))
			if outcome, finish, pro := again.result(t); outcome != tt.want || finish != tt.finish || pro != tt.pro || w.store.Position().Revision() != before {
				t.Errorf("again = %s at %s, want the same and nothing written after %s", again.text, w.store.Position().Revision(), before)
			}
		})
	}
	for _, secret := range []string{owned, "cs_shown"} {
		if strings.Contains(w.logs.String(), secret) {
			t.Errorf("a receipt is in the log: %.20s", secret)
		}
	}
}

// TestAReceiptCountsForADayWhileItsStoreIsDown, and for as long as the store says once it is up.
func TestAReceiptCountsForADayWhileItsStoreIsDown(t *testing.T) {
	f := startAppStore(t)
	w := receiptsWriter(t, f, startStripe(t))
	acc := w.account()
	f.setDown(true)
	jws := f.transaction("2000", "Sandbox", true)
	r := w.api("POST", "/v1/receipts", shown(acc, signedReceipt(jws)))
	if outcome, finish, pro := r.result(t); outcome != receiptProvisional || !finish || !pro {
		t.Fatalf("POST /v1/receipts = %s, want it provisional", r.text)
	}
	pro := w.pro(acc)
	until, err := time.Parse(time.RFC3339, fmt.Sprint(pro["access_until"]))
	if pro["reason"] != "provisional" || err != nil || until.After(time.Now().Add(25*time.Hour)) {
		t.Errorf("pro = %v, want it for a day", pro)
	}
	f.setDown(false)
	await(t, "the store's word", func() bool { return w.pro(acc)["reason"] == "paid" })
	if pro := w.pro(acc); pro["purchase_id"] != "apple:2000" {
		t.Errorf("pro = %v, want the same purchase", pro)
	}
	f.setDown(true)
	if outcome, _, _ := w.api("POST", "/v1/receipts", shown(acc, signedReceipt(f.transaction("2000", "Sandbox", true)))).result(t); outcome != receiptRecorded {
		t.Errorf("a transaction that the store confirmed is %s when the store is down again", outcome)
	}
}

// TestWhoMayShowReceipts: an app for the account of its session alone, a backend for any, a reader for none.
func TestWhoMayShowReceipts(t *testing.T) {
	f := startAppStore(t)
	w := receiptsWriter(t, f, startStripe(t))
	acc, other := w.account(), w.account()
	session := w.api("POST", "/v1/accounts/"+acc+"/sessions", `{}`).str("session_token")
	one := signedReceipt(f.transaction("3000", "Sandbox", true))
	many := make([]object, maxReceipts+1)
	for i := range many {
		many[i] = one
	}
	tests := []struct {
		name, credential, body string
		status                 int
		slug                   string
	}{
		{"nobody", "", shown("", one), 401, "invalid-credential"},
		{"a session that is none", session + "x", shown("", one), 401, "invalid-credential"},
		{"an app for another account", session, shown(other, one), 403, "forbidden"},
		{"a reader", readKey, shown(acc, one), 403, "forbidden"},
		{"a backend for nobody", serverKey, shown("", one), 400, "invalid-request"},
		{"a backend for an account that is not there", serverKey, shown("acc_none", one), 404, "not-found"},
		{"more than fit", session, shown("", many...), 400, "invalid-request"},
		{"none", session, shown(""), 400, "invalid-request"},
		{"two proofs in one", session, shown("", object{"provider": "apple", "signed_transaction": "x", "checkout_session_id": "cs_1"}), 400, "invalid-request"},
		{"a provider without receipts", session, shown("", object{"provider": "adapty"}), 400, "invalid-request"},
		{"a backend with an unknown field", serverKey, strings.Replace(shown(acc, one), "{", `{"more": 1, `, 1), 400, "invalid-request"},
		{"an app of a later release", session, strings.Replace(shown("", one), "{", `{"more": 1, `, 1), 200, ""},
		{"an app for itself", session, shown("", one), 200, ""},
		{"an app that names itself", session, shown(acc, one), 200, ""},
		{"fifty", session, shown("", many[1:]...), 200, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if r := w.do("POST", "/v1/receipts", tt.body, auth(tt.credential)); r.status != tt.status || r.slug() != tt.slug {
				t.Errorf("POST /v1/receipts = %d %s, want %d %s", r.status, r.text, tt.status, tt.slug)
			}
		})
	}
	if w.pro(acc)["active"] != true || w.pro(other)["active"] == true {
		t.Errorf("pro of the app %v, of the other %v", w.pro(acc), w.pro(other))
	}
	w.api("DELETE", "/v1/accounts/"+acc+"/sessions", "")
	if r := w.do("POST", "/v1/receipts", shown("", one), auth(session)); r.slug() != "session-ended" {
		t.Errorf("after its sessions were ended an app gets %d %s", r.status, r.text)
	}
}
