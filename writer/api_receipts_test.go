package writer

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
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

// sale is what StoreKit says of a month of pro that was sold a minute ago.
func sale(id, env string) object {
	now := time.Now()
	return object{"transactionId": id, "originalTransactionId": id, "bundleId": "com.example.app", "productId": "pro.monthly", "type": "Auto-Renewable Subscription",
		"purchaseDate": now.Add(-time.Minute).UnixMilli(), "expiresDate": now.AddDate(0, 1, 0).UnixMilli(), "inAppOwnershipType": "PURCHASED", "environment": env, "signedDate": now.UnixMilli()}
}

// coins is what it says of a hundred coins.
func coins(id, env string) object {
	o := with(with(sale(id, env), "productId", "coins"), "type", "Consumable")
	delete(o, "expiresDate")
	return o
}

// sell makes the App Store's servers know of a sale.
func (f *fakeAppStore) sell(o object) object {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.sold[o["transactionId"].(string)] = o
	return o
}

// transaction returns what StoreKit gives the app after the sale of a month of pro. known: the App Store's servers know of it too.
func (f *fakeAppStore) transaction(id, env string, known bool) string {
	o := sale(id, env)
	if known {
		f.sell(o)
	}
	return f.Sign(f.t, o)
}

// receiptsWriter starts a writer that asks the fakes: the App Store and Stripe in sandbox alone. play is nil where Play is not configured.
func receiptsWriter(t *testing.T, f *fakeAppStore, s *fakeStripe, play *fakePlay, change ...func(*Config)) *testWriter {
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
		if play != nil {
			e.Google = play.asking(t)
		}
		c.Environments[env] = e
	}
	for _, do := range change {
		do(&c)
	}
	w := startWriter(t, c)
	w.awaitReady()
	catalog := strings.Replace(testCatalog, `"products": [`, `"products": [{"provider": "apple", "product_id": "pro.monthly", "kind": "subscription", "entitlements": ["pro"]},
		{"provider": "apple", "product_id": "coins", "kind": "consumable", "credits": {"coins": 100}},
		{"provider": "google", "product_id": "pro:monthly", "kind": "subscription", "entitlements": ["pro"]}, {"provider": "google", "product_id": "life", "kind": "non_consumable", "entitlements": ["pro"]},`, 1)
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

func playReceipt(token string) object {
	return object{"provider": "google", "package": "com.example.app", "purchase_token": token}
}

func sessionReceipt(id string) object {
	return object{"provider": "stripe", "checkout_session_id": id}
}

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

// TestWhatBecomesOfAReceipt defends R22, R76, R104, R108: who has paid and is shown as free hands in what the store gave, and is healed.
func TestWhatBecomesOfAReceipt(t *testing.T) {
	t.Parallel() // it mostly waits
	f, s, play := startAppStore(t), startStripe(t), startPlay(t)
	w := receiptsWriter(t, f, s, play)
	newAccount := func(key string) string { return w.do("POST", "/v1/accounts", `{}`, auth(key)).str("account_id") }
	owned := f.transaction("1000", "Sandbox", true)
	if outcome, _, _ := w.api("POST", "/v1/receipts", shown(newAccount(serverKey), signedReceipt(owned))).result(t); outcome != receiptRecorded {
		t.Fatalf("the first who shows a transaction gets %s", outcome)
	}
	s.put("/v1/subscriptions/sub_shown", subscription("sub_shown", "", "price_pro"))
	s.put("/v1/checkout/sessions/cs_shown", with(with(checkout("cs_shown", ""), "mode", "subscription"), "subscription", "sub_shown"))
	s.put("/v1/checkout/sessions/cs_test_life", with(checkout("cs_test_life", ""), "line_items", lineItems(lineItem("li_1", "price_life", 1))))
	s.put("/v1/checkout/sessions/cs_other", with(checkout("cs_other", newAccount(serverKey)), "line_items", lineItems(lineItem("li_2", "price_life", 1))))
	s.put("/v1/checkout/sessions/cs_open", with(with(checkout("cs_open", ""), "status", "open"), "payment_status", "unpaid"))
	s.put("/v1/checkout/sessions/cs_expired", with(with(checkout("cs_expired", ""), "status", "expired"), "payment_status", "unpaid"))
	s.put("/v1/checkout/sessions/cs_setup", with(with(checkout("cs_setup", ""), "mode", "setup"), "payment_status", "no_payment_required"))
	s.put("/v1/checkout/sessions/cs_real", with(with(checkout("cs_real", ""), "livemode", true), "line_items", lineItems(lineItem("li_3", "price_life", 1))))
	play.put("month-of-a-tester-0001", playSubscription(""))
	play.put("life-of-a-tester-00001", playProduct("", "life"))
	play.put("month-of-another-00001", playSubscription(newAccount(serverKey)))
	play.put("month-that-is-paid-001", playSubscription(""))
	delete(play.purchases["month-that-is-paid-001"], "testPurchase")
	play.put("month-in-production-01", playSubscription(""))
	delete(play.purchases["month-in-production-01"], "testPurchase")
	play.put("month-under-way-000001", with(playSubscription(""), "subscriptionState", "SUBSCRIPTION_STATE_PENDING"))
	for _, purchase := range play.purchases {
		purchase["acknowledgementState"] = "ACKNOWLEDGEMENT_STATE_ACKNOWLEDGED"
	}
	type receiptTest struct {
		name    string
		key     string
		receipt object
		want    string
		finish  bool
		pro     bool
	}
	tests := []receiptTest{
		{"the App Store signed it and says so again", serverKey, signedReceipt(f.transaction("1001", "Sandbox", true)), receiptRecorded, true, true},
		{"the App Store does not know it", serverKey, signedReceipt(f.transaction("1002", "Sandbox", false)), receiptRejected, false, false},
		{"another's", serverKey, signedReceipt(owned), receiptOther, true, false},
		{"signed by somebody else", serverKey, signedReceipt((&fakeAppStore{Authority: appletest.New(t), t: t}).transaction("1003", "Sandbox", false)), receiptRejected, false, false},
		{"no signature at all", serverKey, signedReceipt("x"), receiptRejected, false, false},
		{"a real sale in sandbox", serverKey, signedReceipt(f.transaction("1004", "Production", true)), receiptEnvironment, false, false},
		{"a real sale that the sandbox, as is right, does not know", serverKey, signedReceipt(f.transaction("1007", "Production", false)), receiptEnvironment, false, false},
		{"a real sale where nobody can be asked", productionKey, signedReceipt(f.transaction("1005", "Production", false)), receiptRecorded, true, true},
		{"a test purchase in production", productionKey, signedReceipt(f.transaction("1006", "Sandbox", false)), receiptEnvironment, false, false},
		{"a paid subscription's session of Stripe", serverKey, sessionReceipt("cs_shown"), receiptRecorded, true, true},
		{"a paid session for something that lasts", serverKey, sessionReceipt("cs_test_life"), receiptRecorded, true, true},
		{"another's session", serverKey, sessionReceipt("cs_other"), receiptOther, true, false},
		{"a session that Stripe does not know", serverKey, sessionReceipt("cs_none"), receiptRejected, false, false},
		{"a session that is not over", serverKey, sessionReceipt("cs_open"), receiptPending, false, false},
		{"a session that ran out", serverKey, sessionReceipt("cs_expired"), receiptRejected, false, false},
		{"a session that sells nothing", serverKey, sessionReceipt("cs_setup"), receiptRejected, false, false},
		{"a real session in sandbox", serverKey, sessionReceipt("cs_real"), receiptEnvironment, false, false},
		{"a session whose name is of the other environment", serverKey, sessionReceipt("cs_live_x"), receiptEnvironment, false, false},
		{"a test session in production", productionKey, sessionReceipt("cs_test_life"), receiptEnvironment, false, false},
		{"a session where Stripe cannot be asked", productionKey, sessionReceipt("cs_shown"), receiptPending, false, false},
		{"a token of a subscription", serverKey, playReceipt("month-of-a-tester-0001"), receiptRecorded, true, true},
		{"a token of something that lasts", serverKey, playReceipt("life-of-a-tester-00001"), receiptRecorded, true, true},
		{"another's token", serverKey, playReceipt("month-of-another-00001"), receiptOther, true, false},
		{"a token whose payment is under way", serverKey, playReceipt("month-under-way-000001"), receiptRecorded, true, false},
		{"a paid token in sandbox", serverKey, playReceipt("month-that-is-paid-001"), receiptEnvironment, false, false},
		{"a paid token in production", productionKey, playReceipt("month-in-production-01"), receiptRecorded, true, true},
		{"a licence tester's token in production", productionKey, playReceipt("month-of-a-tester-0001"), receiptEnvironment, false, false},
		{"what is no token of Play", serverKey, playReceipt("?"), receiptRejected, false, false},
		{"another app's token", serverKey, with(playReceipt("month-of-a-tester-0001"), "package", "com.example.other"), receiptRejected, false, false},
	}
	bodies := make([]string, len(tests))
	show := func(i int) {
		t.Helper()
		tt := tests[i]
		r := w.do("POST", "/v1/receipts", bodies[i], auth(tt.key))
		if outcome, finish, pro := r.result(t); outcome != tt.want || finish != tt.finish || pro != tt.pro {
			t.Errorf("%s: POST /v1/receipts = %s, want %s, finish %t, pro %t", tt.name, r.text, tt.want, tt.finish, tt.pro)
		}
	}
	for i, tt := range tests {
		bodies[i] = shown(newAccount(tt.key), tt.receipt)
		show(i)
	}
	await(t, "what they left open", w.settled)
	w.writesNothing("receipts that are known", func() {
		for i := range tests {
			show(i)
		}
	})
	series := `latchkey_writer_receipts_total{outcome="recorded",provider="google"}`
	before := w.metric(series)
	w.do("POST", "/v1/receipts", bodies[slices.IndexFunc(tests, func(tt receiptTest) bool { return tt.name == "a token of a subscription" })], auth(serverKey))
	if after := w.metric(series); before == "none" || after == before {
		t.Errorf("%s = %s after one more, before it %s", series, after, before)
	}
	for _, secret := range []string{owned, "cs_shown", "month-of"} {
		if strings.Contains(w.logs.String(), secret) {
			t.Errorf("a receipt is in the log: %.20s", secret)
		}
	}
}

// TestWhatWasJudgedIsAwaitedNoMore: a proof that could not be judged makes the account pending; one that then is, for or against it, ends that at once, and nothing is
// said not to have been confirmed.
func TestWhatWasJudgedIsAwaitedNoMore(t *testing.T) {
	t.Parallel() // it mostly waits
	s := startStripe(t)
	w := receiptsWriter(t, startAppStore(t), s, nil)
	session := func(status, payment string) {
		s.put("/v1/checkout/sessions/cs_test_1", with(with(with(checkout("cs_test_1", ""), "status", status), "payment_status", payment), "line_items", lineItems(lineItem("li_1", "price_life", 1))))
	}
	for _, end := range []struct{ status, payment, outcome string }{{"expired", "unpaid", receiptRejected}, {"complete", "paid", receiptRecorded}} {
		id := w.account()
		session("open", "unpaid")
		r := w.api("POST", "/v1/receipts", shown(id, sessionReceipt("cs_test_1")))
		if outcome, _, _ := r.result(t); outcome != receiptPending || r.str("state") != "pending" {
			t.Fatalf("a session that is not over = %s", r.text)
		}
		if r := w.api("GET", "/v1/accounts/"+id+"/entitlements", ""); r.str("state") != "pending" {
			t.Errorf("meanwhile the check says %s", r.text)
		}
		session(end.status, end.payment)
		r = w.api("POST", "/v1/receipts", shown(id, sessionReceipt("cs_test_1")))
		if outcome, _, _ := r.result(t); outcome != end.outcome || r.str("state") != "settled" || r.json["unconfirmed"] != nil {
			t.Errorf("once it is %s = %s, want it %s and settled", end.status, r.text, end.outcome)
		}
	}
}

// TestAProofIsPendingForAMinute, in the answer to who shows it as in that of a check; then it is not confirmed, however often it is shown.
func TestAProofIsPendingForAMinute(t *testing.T) {
	t.Parallel()           // it mostly waits
	var ahead atomic.Int64 // of the machine's clock
	s := startStripe(t)
	w := receiptsWriter(t, startAppStore(t), s, nil, func(c *Config) { c.Now = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) } })
	s.put("/v1/checkout/sessions/cs_test_1", with(with(checkout("cs_test_1", ""), "status", "open"), "payment_status", "unpaid"))
	id := w.account()
	for _, tt := range []struct {
		ahead       time.Duration
		state       string
		unconfirmed bool
	}{{0, "pending", false}, {entitlement.AwaitSeconds * time.Second, "settled", true}, {0, "settled", true}} {
		ahead.Add(int64(tt.ahead))
		r := w.api("POST", "/v1/receipts", shown(id, sessionReceipt("cs_test_1")))
		if outcome, _, _ := r.result(t); outcome != receiptPending {
			t.Fatalf("a session that is not over = %s", r.text)
		}
		for _, r := range []reply{r, w.api("GET", "/v1/accounts/"+id+"/entitlements", "")} {
			if r.str("state") != tt.state || (r.json["unconfirmed"] != nil) != tt.unconfirmed {
				t.Errorf("after %s more %s, want it %s, and not confirmed %t", tt.ahead, r.text, tt.state, tt.unconfirmed)
			}
		}
	}
}

// TestAReceiptCountsForADayWhileItsStoreIsDown, and for as long as the store says once it is up.
func TestAReceiptCountsForADayWhileItsStoreIsDown(t *testing.T) {
	f := startAppStore(t)
	w := receiptsWriter(t, f, startStripe(t), nil)
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
	w := receiptsWriter(t, f, startStripe(t), nil)
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
		{"a backend for an account that is not there", serverKey, shown("acc_00000000000000000000000000", one), 404, "not-found"},
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
