package writer

import (
	"crypto/x509"
	"encoding/pem"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/latchkey/latchkey/pkg/config"
	"github.com/latchkey/latchkey/pkg/entitlement"
	"github.com/latchkey/latchkey/writer/internal/provider"
	"github.com/latchkey/latchkey/writer/internal/provider/appletest"
)

func appleAPIKey(t testing.TB) config.Secret {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(appletest.NewKey(t))
	if err != nil {
		t.Fatal(err)
	}
	return config.Secret(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

// TestAppleReachesTheAccount: a notification that names the account's own token gives it the product, the refund takes it away, and a forged one is
// refused without a trace (R13, R15).
func TestAppleReachesTheAccount(t *testing.T) {
	authority := appletest.New(t)
	cfg := testConfigs(t, 1)[0]
	root := filepath.Join(t.TempDir(), "root.der")
	catalog := filepath.Join(t.TempDir(), "catalog.json")
	products := strings.Replace(testCatalog, `"products": [`, `"products": [{"provider": "apple", "product_id": "pro.monthly", "kind": "subscription", "entitlements": ["pro"]},`, 1)
	for path, content := range map[string][]byte{root: authority.Root, catalog: []byte(products)} {
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	e := cfg.Environments[entitlement.Sandbox]
	e.Apple, e.CatalogFile = &AppleConfig{BundleID: "com.example.app", RootCAFiles: []string{root}}, catalog
	cfg.Environments[entitlement.Sandbox] = e
	w := startWriter(t, cfg)
	w.awaitReady()
	acc := w.account()
	now := time.Now()
	start := now.Add(-time.Hour).UnixMilli()
	tell := func(uuid string, status int, at time.Time, change appletest.Object) appletest.Object {
		common := appletest.Object{"originalTransactionId": "1000", "productId": "pro.monthly", "environment": "Sandbox", "signedDate": at.UnixMilli()}
		transaction := appletest.Object{"transactionId": "1001", "bundleId": "com.example.app", "type": "Auto-Renewable Subscription", "purchaseDate": start,
			"expiresDate": start + 30*24*3600*1000, "appAccountToken": entitlement.AccountID(acc).AppleAppAccountToken(), "inAppOwnershipType": "PURCHASED"}
		renewal := appletest.Object{"autoRenewProductId": "pro.monthly", "autoRenewStatus": 1}
		for name, value := range common {
			transaction[name], renewal[name] = value, value
		}
		for name, value := range change {
			transaction[name] = value
		}
		return appletest.Object{"notificationType": "DID_RENEW", "notificationUUID": uuid, "version": "2.0", "signedDate": at.UnixMilli(), "data": appletest.Object{
			"bundleId": "com.example.app", "environment": "Sandbox", "status": status, "signedTransactionInfo": transaction, "signedRenewalInfo": renewal}}
	}
	post := func(body []byte) reply { return w.do("POST", "/v1/webhooks/sandbox/apple", string(body), nil) }
	forged := appletest.New(t).Notification(t, tell("forged", 1, now, nil))
	if r := post(forged); r.status != 401 || r.slug() != "invalid-signature" || w.api("GET", "/v1/events/forged", "").status != 404 {
		t.Errorf("a forged notification = %d %s", r.status, r.text)
	}
	bought := authority.Notification(t, tell("bought", 1, now, nil))
	if r := post(bought); r.status != 200 || r.str("event_id") != "bought" || r.str("outcome") != "recorded" {
		t.Fatalf("a purchase = %d %s", r.status, r.text)
	}
	if pro := w.pro(acc); pro["active"] != true || pro["purchase_id"] != "apple:1000" || pro["store"] != "app_store" || pro["will_renew"] != true {
		t.Errorf("pro = %v, want it active by apple:1000", pro)
	}
	if r := post(authority.Notification(t, tell("refunded", 5, now.Add(time.Second), appletest.Object{"revocationDate": now.UnixMilli()}))); r.status != 200 {
		t.Fatalf("a refund = %d %s", r.status, r.text)
	}
	if r := post(bought); r.status != 200 || r.json["duplicate"] != true {
		t.Errorf("the purchase again = %d %s", r.status, r.text)
	}
	if pro := w.pro(acc); pro["active"] != false || pro["status"] != "refunded" {
		t.Errorf("pro = %v, want it refunded", pro)
	}
	old := authority.Notification(t, tell("old", 1, now.Add(-8*24*time.Hour), nil))
	if r := post(old); r.status != 401 || r.slug() != "stale-signature" {
		t.Errorf("a notification of 8 days ago = %d %s", r.status, r.text)
	}
	if r := post([]byte(`{"signedPayload":"` + authority.Sign(t, "[1]") + `"}`)); r.status != 200 || r.str("outcome") != "unreadable" {
		t.Errorf("an authentic one that nobody understands = %d %s", r.status, r.text)
	}
}

// startTold starts a writer that Apple sends notifications and that cannot ask it.
func startTold(t *testing.T) (*appleSent, *testWriter, EnvironmentConfig) {
	t.Helper()
	s := startAppleHistory(t)
	cfg := testConfigs(t, 1)[0]
	s.configure(&cfg)
	e := cfg.Environments[entitlement.Sandbox]
	e.Apple.APIKey = ""
	w := startWriter(t, cfg)
	w.awaitReady()
	return s, w, e
}

// TestAPurchaseUnderAnotherNameFollowsThePolicy: somebody else buys the same subscription while it is live. Under keep it stays with whom it is of, and
// it goes with whoever buys it once it was over. Who had it sees that it was transferred. PUT of the policy counts at once, both ways (A10.7).
func TestAPurchaseUnderAnotherNameFollowsThePolicy(t *testing.T) {
	s, w, _ := startTold(t)
	one, two := w.account(), w.account()
	now := time.Now()
	const day = 24 * time.Hour
	bought := func(account, transaction, reason string, from, to time.Duration) {
		t.Helper()
		n := appleTold(account, "n-"+transaction, 1, now, appletest.Object{"transactionId": transaction, "transactionReason": reason,
			"purchaseDate": now.Add(from).UnixMilli(), "expiresDate": now.Add(to).UnixMilli()})
		if r := w.do("POST", "/v1/webhooks/sandbox/apple", string(s.Notification(t, n)), nil); r.status != http.StatusOK {
			t.Fatalf("webhook = %d %s", r.status, r.text)
		}
	}
	policy := func(transfer string) {
		t.Helper()
		if r := w.api("PUT", "/v1/policy", `{"transfer": "`+transfer+`"}`); r.status != http.StatusOK {
			t.Fatalf("policy = %d %s", r.status, r.text)
		}
	}
	has := func(when string, owner, other string, lost bool) {
		t.Helper()
		mine, theirs := w.pro(owner), w.pro(other)
		if mine["active"] != true || theirs["active"] == true {
			t.Errorf("%s: %v, the other has %v", when, mine, theirs)
		}
		if transferred := theirs["status"] == "revoked" && theirs["reason"] == "transferred"; transferred != lost {
			t.Errorf("%s: the other sees %v, want that they lost it: %t", when, theirs, lost)
		}
	}
	policy("keep")
	bought(one, "1000", "PURCHASE", -40*day, -10*day)
	bought(one, "1001", "RENEWAL", -10*day, 20*day)
	bought(two, "1002", "PURCHASE", -day, 29*day)
	has("bought by another while live, keep", one, two, false)
	policy("transfer")
	has("transfer", two, one, true)
	policy("transfer_if_inactive")
	has("transfer_if_inactive", one, two, false)
	n := appleTold(one, "refund", 1, now.Add(time.Second), appletest.Object{"transactionId": "1001", "transactionReason": "RENEWAL",
		"purchaseDate": now.Add(-10 * day).UnixMilli(), "expiresDate": now.Add(20 * day).UnixMilli(), "revocationDate": now.Add(-2 * day).UnixMilli()})
	if r := w.do("POST", "/v1/webhooks/sandbox/apple", string(s.Notification(t, n)), nil); r.status != http.StatusOK {
		t.Fatalf("webhook = %d %s", r.status, r.text)
	}
	has("it was refunded before the other bought", two, one, true)
}

// TestAppleIsToldToComeAgain: a wrong root makes every notification look forged. After the first few of a row a writer doubts itself and has them repeated, a forged
// one that Apple's own chain disproves does not count, and an authentic one ends it.
func TestAppleIsToldToComeAgain(t *testing.T) {
	s, w, e := startTold(t)
	now := time.Now()
	post := func(body []byte) int { return w.do("POST", "/v1/webhooks/sandbox/apple", string(body), nil).status }
	after := e.Apple.adapterOf(t).Delivery().DoubtAfter
	stranger, another := appletest.New(t), appleTold("acc_1", "another", 1, now, nil)
	another["data"].(appletest.Object)["bundleId"] = "com.example.other"
	authentic := string(s.Notification(t, appleTold("acc_1", "ours", 1, now, nil)))
	tampered := []byte(authentic[:len(authentic)-20] + "AAAA" + authentic[len(authentic)-16:])
	doubtful := [][]byte{stranger.Notification(t, appleTold("acc_1", "theirs", 1, now, nil)), s.Notification(t, another),
		s.Notification(t, appleTold("acc_1", "old", 1, now.Add(-8*24*time.Hour), nil))}
	for i := range 3 * after {
		if got := post(tampered); got != http.StatusUnauthorized {
			t.Fatalf("tampered with, %d before: %d, want 401", i, got)
		}
	}
	for i := range after + 5 {
		want := http.StatusUnauthorized
		if i >= after {
			want = http.StatusServiceUnavailable
		}
		if got := post(doubtful[i%len(doubtful)]); got != want {
			t.Errorf("refused, %d before: %d, want %d", i, got, want)
		}
	}
	if got := post(tampered); got != http.StatusUnauthorized {
		t.Errorf("tampered with, in doubt: %d, want 401", got)
	}
	if n := strings.Count(w.logs.String(), "no message of this provider is authentic any more"); n != 1 {
		t.Errorf("said %d times in the log, want once", n)
	}
	if got := post([]byte(authentic)); got != http.StatusOK {
		t.Errorf("an authentic one: %d", got)
	}
	if got := post(doubtful[0]); got != http.StatusUnauthorized {
		t.Errorf("after an authentic one: %d, want 401", got)
	}
}

func (a *AppleConfig) adapterOf(t testing.TB) provider.Adapter {
	t.Helper()
	adapter, err := a.adapter(entitlement.Sandbox)
	if err != nil {
		t.Fatal(err)
	}
	return adapter
}

func TestAppleConfiguration(t *testing.T) {
	broken := filepath.Join(t.TempDir(), "root.der")
	if err := os.WriteFile(broken, []byte("not a certificate"), 0o600); err != nil {
		t.Fatal(err)
	}
	key := appleAPIKey(t)
	tests := []struct {
		name  string
		apple AppleConfig
		want  []string
	}{
		{"a bundle is enough", AppleConfig{BundleID: "com.example.app"}, nil},
		{"no bundle", AppleConfig{}, []string{"environments.sandbox.apple.bundle_id"}},
		{"a bundle that is none", AppleConfig{BundleID: "an app"}, []string{"environments.sandbox.apple.bundle_id"}},
		{"a negative app id", AppleConfig{BundleID: "com.example.app", AppAppleID: -1}, []string{"environments.sandbox.apple.app_apple_id"}},
		{"a root that is not there", AppleConfig{BundleID: "com.example.app", RootCAFiles: []string{"/nowhere"}}, []string{"environments.sandbox.apple.root_ca_files"}},
		{"an API without key", AppleConfig{BundleID: "com.example.app", APIKeyID: "K"}, nil},
		{"an API with one", AppleConfig{BundleID: "com.example.app", APIKey: key, APIKeyID: "K", APIIssuerID: "I", APIBase: "http://127.0.0.1:1"}, nil},
		{"a key that is none", AppleConfig{BundleID: "com.example.app", APIKey: "canary", APIKeyID: "K", APIIssuerID: "I"}, []string{"environments.sandbox.apple.api_key"}},
		{"a key without its id", AppleConfig{BundleID: "com.example.app", APIKey: key, APIIssuerID: "I"}, []string{"environments.sandbox.apple.api_key_id"}},
		{"a key without its issuer", AppleConfig{BundleID: "com.example.app", APIKey: key, APIKeyID: "K"}, []string{"environments.sandbox.apple.api_issuer_id"}},
		{"addresses without TLS", AppleConfig{BundleID: "com.example.app", APIBase: "http://apple.example", SandboxAPIBase: "http://apple.example"},
			[]string{"environments.sandbox.apple.api_base", "environments.sandbox.apple.sandbox_api_base"}},
		{"a history that is read all the time", AppleConfig{BundleID: "com.example.app", HistoryInterval: time.Second}, []string{"environments.sandbox.apple.history_interval"}},
		{"a root that is none", AppleConfig{BundleID: "com.example.app", RootCAFiles: []string{broken}}, []string{"environments.sandbox.apple.root_ca_files"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			cfg := testConfigs(t, 1)[0]
			e := cfg.Environments[entitlement.Sandbox]
			e.Apple = &tt.apple
			cfg.Environments[entitlement.Sandbox] = e
			if err := mistaken(t, &cfg, tt.want); err != nil && strings.Contains(err.Error(), "canary") {
				t.Errorf("a mistake quotes the key: %v", err)
			}
		})
	}
}
