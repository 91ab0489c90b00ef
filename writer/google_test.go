package writer

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/latchkey/latchkey/pkg/config"
	"github.com/latchkey/latchkey/pkg/entitlement"
	"github.com/latchkey/latchkey/writer/internal/provider"
	"github.com/latchkey/latchkey/writer/internal/store"
)

// These tests show Google Play end to end: a message makes the leader ask, the answer gives access, and only then Google is told that the sale is delivered.

const (
	pushAudience = "https://hooks.example.test/v1/webhooks/sandbox/google"
	pushEmail    = "push@example.iam.gserviceaccount.com"
	playAccount  = "7e3fb20b-4cdb-47cc-936d-99d65f608138"
)

var googleKey = sync.OnceValue(func() *rsa.PrivateKey {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err) // no randomness
	}
	return key
})

// fakePlay is Google's API over purchases that a test puts there. All of them are licence testers'.
type fakePlay struct {
	*httptest.Server
	mu        sync.Mutex
	purchases map[string]object // by token
	told      []string          // acknowledgements and consumptions
	voided    []object          // the list of what was taken back
	onTold    func()
	questions map[string]int    // about subscriptions, by token
	forgotten map[string]bool   // tokens about which it says 410
	tooNew    map[string]object // purchases that it knows from the second question on
	down      bool
}

func startPlay(t *testing.T) *fakePlay {
	f := &fakePlay{purchases: map[string]object{}, questions: map[string]int{}}
	f.Server = httptest.NewServer(http.HandlerFunc(f.serve))
	t.Cleanup(f.Close)
	return f
}

func (f *fakePlay) serve(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/token" {
		_, _ = io.WriteString(w, `{"access_token": "access", "expires_in": 3599}`)
		return
	}
	path := strings.TrimPrefix(r.URL.Path, "/androidpublisher/v3/applications/com.example.app/purchases/")
	if path == "voidedpurchases" {
		f.mu.Lock()
		defer f.mu.Unlock()
		_ = json.NewEncoder(w).Encode(object{"voidedPurchases": f.voided})
		return
	}
	_, token, _ := strings.Cut(path, "/tokens/")
	token, action, _ := strings.Cut(token, ":")
	f.mu.Lock()
	defer f.mu.Unlock()
	purchase, known := f.purchases[token]
	if strings.HasPrefix(path, "subscriptionsv2/") {
		f.questions[token]++
		if late, ok := f.tooNew[token]; ok && !known && f.questions[token] == 1 {
			defer func() { f.purchases[token] = late }()
		}
	}
	switch {
	case f.forgotten[token]:
		w.WriteHeader(http.StatusGone)
		_, _ = io.WriteString(w, `{"error":{"code":410,"errors":[{"reason":"subscriptionNoLongerAvailable"}]}}`)
	case f.down:
		w.WriteHeader(http.StatusServiceUnavailable)
	case !known || strings.HasPrefix(path, "subscriptionsv2/") != (purchase["lineItems"] != nil) && r.Method == http.MethodGet:
		w.WriteHeader(http.StatusNotFound)
	case r.Method == http.MethodPost:
		f.told = append(f.told, path)
		if f.onTold != nil {
			f.onTold()
		}
		if action != "" {
			purchase["acknowledgementState"] = "ACKNOWLEDGEMENT_STATE_ACKNOWLEDGED"
			delete(purchase, "outOfAppPurchaseContext") // as Google does
		}
	default:
		b, err := json.Marshal(purchase)
		if err != nil {
			panic(err) // plain values
		}
		_, _ = w.Write(b)
	}
}

func (f *fakePlay) put(token string, purchase object) {
	f.mu.Lock()
	defer f.mu.Unlock()
	purchase["acknowledgementState"] = "ACKNOWLEDGEMENT_STATE_PENDING"
	f.purchases[token] = purchase
}

func (f *fakePlay) tellings() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.told)
}

// asked counts the questions about a token.
func (f *fakePlay) asked(token string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.questions[token]
}

func (f *fakePlay) setDown(down bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.down = down
}

// asking is the configuration of an environment that takes Play's messages and asks f.
func (f *fakePlay) asking(t *testing.T) *GoogleConfig {
	t.Helper()
	key := googleKey()
	set, err := json.Marshal(object{"keys": []object{{"kty": "RSA", "kid": "k", "n": base64.RawURLEncoding.EncodeToString(key.N.Bytes()), "e": base64.RawURLEncoding.EncodeToString(big.NewInt(int64(key.E)).Bytes())}}})
	if err != nil {
		t.Fatal(err)
	}
	jwks := filepath.Join(t.TempDir(), "jwks.json")
	if err := os.WriteFile(jwks, set, 0o600); err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	account, err := json.Marshal(object{"type": "service_account", "client_email": "a@example.iam.gserviceaccount.com", "private_key": string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))})
	if err != nil {
		t.Fatal(err)
	}
	return &GoogleConfig{Package: "com.example.app", Audience: pushAudience, Email: pushEmail, JWKSFile: jwks, ServiceAccount: config.Secret(account), APIBase: f.URL, TokenURL: f.URL + "/token"}
}

// playingWriter starts a writer that takes Play's messages and asks f.
func playingWriter(t *testing.T, f *fakePlay) *testWriter {
	t.Helper()
	c := testConfigs(t, 1)[0]
	e := c.Environments[entitlement.Sandbox]
	e.Google = f.asking(t)
	c.Environments[entitlement.Sandbox] = e
	w := startWriter(t, c)
	w.awaitReady()
	if r := w.api("PUT", "/v1/catalog", `{"products": [
		{"provider": "google", "product_id": "pro:monthly", "kind": "subscription", "entitlements": ["pro"], "plan": "pro_monthly", "group": "pro"},
		{"provider": "google", "product_id": "life", "kind": "non_consumable", "entitlements": ["pro"]},
		{"provider": "google", "product_id": "coins_100", "kind": "consumable", "credits": {"coins": 100}}]}`); r.status != http.StatusOK {
		t.Fatalf("PUT catalog = %d %s", r.status, r.text)
	}
	return w
}

// push sends a notification as Pub/Sub does.
func (w *testWriter) push(id, kind string, body object) reply {
	w.t.Helper()
	return w.pushTo(entitlement.Sandbox, id, kind, body)
}

func (w *testWriter) pushTo(env entitlement.Environment, id, kind string, body object) reply {
	w.t.Helper()
	now := time.Now()
	n, err := json.Marshal(object{"version": "1.0", "packageName": "com.example.app", "eventTimeMillis": fmt.Sprint(now.UnixMilli()), kind: body})
	if err != nil {
		w.t.Fatal(err)
	}
	message, err := json.Marshal(object{"message": object{"data": base64.StdEncoding.EncodeToString(n), "messageId": id}, "subscription": "projects/p/subscriptions/s"})
	if err != nil {
		w.t.Fatal(err)
	}
	token := jwt.NewWithClaims(jwt.SigningMethodRS256, jwt.MapClaims{"iss": "https://accounts.google.com", "aud": pushAudience, "email": pushEmail, "email_verified": true,
		"iat": now.Unix(), "exp": now.Unix() + 3600})
	token.Header["kid"] = "k"
	signed, err := token.SignedString(googleKey())
	if err != nil {
		w.t.Fatal(err)
	}
	return w.do("POST", "/v1/webhooks/"+string(env)+"/google", string(message), auth(signed))
}

// playSubscription is a paid month of pro.
func playSubscription(account string) object {
	now := time.Now()
	o := object{"subscriptionState": "SUBSCRIPTION_STATE_ACTIVE", "startTime": now.UTC().Format(time.RFC3339), "testPurchase": object{},
		"lineItems": []object{{"productId": "pro", "expiryTime": now.AddDate(0, 1, 0).UTC().Format(time.RFC3339), "latestSuccessfulOrderId": unique("GPA."),
			"autoRenewingPlan": object{"autoRenewEnabled": true}, "offerDetails": object{"basePlanId": "monthly"}}}}
	if account != "" {
		o["externalAccountIdentifiers"] = object{"obfuscatedExternalAccountId": account}
	}
	return o
}

func playProduct(account, product string) object {
	return object{"purchaseStateContext": object{"purchaseState": "PURCHASED"}, "orderId": unique("GPA."), "purchaseCompletionTime": time.Now().UTC().Format(time.RFC3339),
		"obfuscatedExternalAccountId": account, "testPurchaseContext": object{"fopType": "TEST"}, "productLineItem": []object{{"productId": product, "productOfferDetails": object{"quantity": 1, "refundableQuantity": 1}}}}
}

func (w *testWriter) pushSubscription(token string) {
	w.t.Helper()
	if r := w.push(unique("m"), "subscriptionNotification", object{"notificationType": 4, "purchaseToken": token}); r.status != http.StatusOK {
		w.t.Fatalf("webhook = %d %s", r.status, r.text)
	}
}

func (w *testWriter) settled() bool {
	w.t.Helper()
	return strings.Contains(w.get("/metrics").text, `latchkey_writer_doubtful_purchases{environment="sandbox"} 0`)
}

// TestGooglePlay defends R24.
func TestGooglePlay(t *testing.T) {
	t.Parallel() // it mostly waits
	f := startPlay(t)
	w := playingWriter(t, f)
	account := w.api("POST", "/v1/accounts", `{"aliases": [{"kind": "google_obfuscated_account", "value": "`+playAccount+`"}]}`).str("account_id")
	if account == "" {
		t.Fatal("no account")
	}
	active := func() bool { return w.pro(account)["active"] == true }

	token := unique("token-")
	f.put(token, playSubscription(playAccount))
	f.onTold = func() {
		if !active() {
			t.Error("Google was told of a sale before it gave access")
		}
	}
	first := w.push("m1", "subscriptionNotification", object{"notificationType": 4, "purchaseToken": token})
	again := w.push("m1", "subscriptionNotification", object{"notificationType": 4, "purchaseToken": token})
	if first.status != http.StatusOK || again.status != http.StatusOK || first.str("event_id") != "m1" || again.json["duplicate"] == true && first.json["duplicate"] == true {
		t.Errorf("webhooks = %d %s, %d %s", first.status, first.text, again.status, again.text)
	}
	await(t, "access", active)
	await(t, "the acknowledgement", func() bool { return len(f.tellings()) == 1 && w.settled() })
	if got := f.tellings(); !slices.Equal(got, []string{"subscriptions/pro/tokens/" + token + ":acknowledge"}) {
		t.Errorf("told %v", got)
	}
	if pro := w.pro(account); pro["store"] != "play_store" || pro["will_renew"] != true || pro["plan"] != "pro_monthly" || strings.Contains(fmt.Sprint(pro), token) {
		t.Errorf("entitlement %v", pro)
	}

	// A refund takes it back at once, whatever Google says of the subscription.
	order := f.purchases[token]["lineItems"].([]object)[0]["latestSuccessfulOrderId"]
	if r := w.push("m2", "voidedPurchaseNotification", object{"purchaseToken": token, "orderId": order, "productType": 1, "refundType": 1}); r.status != http.StatusOK {
		t.Errorf("webhook = %d %s", r.status, r.text)
	}
	if pro := w.pro(account); pro["active"] != false || pro["reason"] != "refunded" {
		t.Errorf("after the refund: %v", pro)
	}
	await(t, "an answer about it", w.settled)
	if active() {
		t.Errorf("after the refund and an answer that it is active: %v", w.pro(account))
	}

	// Bought again in the Play app: who by is told until the acknowledgement alone.
	other := unique("token-")
	purchase := playSubscription("")
	purchase["outOfAppPurchaseContext"] = object{"expiredPurchaseToken": token, "expiredExternalAccountIdentifiers": object{"obfuscatedExternalAccountId": playAccount}}
	f.put(other, purchase)
	w.pushSubscription(other)
	await(t, "access again", active)
	await(t, "the acknowledgement", func() bool { return len(f.tellings()) == 2 && w.settled() })
	w.pushSubscription(other)
	await(t, "another answer", w.settled)
	if !active() {
		t.Errorf("who bought is forgotten after the acknowledgement: %v", w.pro(account))
	}

	// One-time products: a consumable is used up.
	f.onTold = nil
	coins, life := unique("token-"), unique("token-")
	f.put(coins, playProduct(playAccount, "coins_100"))
	f.put(life, playProduct(playAccount, "life"))
	for _, bought := range []string{coins, life} {
		w.push(unique("m"), "oneTimeProductNotification", object{"notificationType": 1, "purchaseToken": bought, "sku": "x"})
	}
	await(t, "both tellings", func() bool { return len(f.tellings()) == 4 && w.settled() })
	for _, want := range []string{"products/coins_100/tokens/" + coins + ":consume", "products/life/tokens/" + life + ":acknowledge"} {
		if !slices.Contains(f.tellings(), want) {
			t.Errorf("told %v, want %s", f.tellings(), want)
		}
	}

	for name, want := range map[string]int{"testNotification": 200, "newNotification": 200} {
		if r := w.push(unique("m"), name, object{"version": "1.0"}); r.status != want || r.str("outcome") != string(store.Unhandled) {
			t.Errorf("%s = %d %s", name, r.status, r.text)
		}
	}
	if r := w.do("POST", "/v1/webhooks/sandbox/google", `{}`, auth("x.y.z")); r.status != http.StatusUnauthorized || r.slug() != "invalid-signature" {
		t.Errorf("a forged message = %d %s", r.status, r.text)
	}
	if strings.Contains(w.logs.String(), token) {
		t.Error("a purchase token is in the log")
	}
}

// A token whose sale Google does not know yet is asked about again soon.
func TestATokenThatIsTooNewIsAskedAboutAgain(t *testing.T) {
	f := startPlay(t)
	w := playingWriter(t, f)
	account := w.account()
	token := unique("token-")
	w.pushSubscription(token)
	await(t, "a question in vain", func() bool { return w.metric(outcomeSeriesOf(entitlement.Google, pullGone)) != "0" })
	f.put(token, playSubscription(account))
	await(t, "access", func() bool { return w.pro(account)["active"] == true })
}

// TestATokenThatPlayHasForgottenIsSettled: Play answers 410 about a subscription that ended long ago. What is known of it stays as it ended, and nobody asks any more; one
// whose end is ahead goes on, and is asked about again.
func TestATokenThatPlayHasForgottenIsSettled(t *testing.T) {
	f := startPlay(t)
	w := playingWriter(t, f)
	account := w.account()
	old, live := unique("token-"), unique("token-")
	for token, ends := range map[string]time.Time{old: time.Now().Add(-90 * 24 * time.Hour), live: time.Now().Add(10 * 24 * time.Hour)} {
		purchase := playSubscription(account)
		purchase["lineItems"].([]object)[0]["expiryTime"] = ends.UTC().Format(time.RFC3339)
		purchase["lineItems"].([]object)[0]["latestSuccessfulOrderId"] = unique("GPA.")
		f.put(token, purchase)
		w.pushSubscription(token)
	}
	await(t, "both known", func() bool {
		return w.settled() && w.pro(account)["active"] == true && w.pro(account)["other_purchases"] != nil
	})
	f.mu.Lock()
	f.forgotten = map[string]bool{old: true, live: true}
	f.mu.Unlock()
	gone := func() string { return w.metric(outcomeSeriesOf(entitlement.Google, pullGone)) }
	before := w.metric(outcomeSeriesOf(entitlement.Google, pullRecorded))
	w.pushSubscription(old)
	await(t, "the old one settled", func() bool {
		return w.settled() && w.metric(outcomeSeriesOf(entitlement.Google, pullRecorded)) != before
	})
	if gone() != "0" {
		t.Errorf("%s questions without an answer, want none", gone())
	}
	w.pushSubscription(live)
	await(t, "a question in vain", func() bool { return gone() != "0" })
	if pro := w.pro(account); pro["active"] != true || w.settled() {
		t.Errorf("the live one: %v, settled %t; want it active and asked about again", pro, w.settled())
	}
}

func outcomeSeriesOf(p entitlement.Provider, outcome string) string {
	return fmt.Sprintf(`latchkey_writer_provider_pulls_total{outcome=%q,provider=%q}`, outcome, p)
}

// deafProvider never hears that a sale is delivered.
type deafProvider struct{ provider.Puller }

func (deafProvider) Provider() entitlement.Provider               { return entitlement.Google }
func (deafProvider) Unacknowledged(entitlement.Evidence) []string { return []string{"sale"} }
func (deafProvider) Acknowledge(context.Context, entitlement.Evidence, string, func(entitlement.Sold) bool) error {
	return &provider.PullError{Reason: provider.ErrUnavailable}
}

func TestAnOperatorHearsOfASaleThatIsNotAcknowledgedForAnHour(t *testing.T) {
	w := oneWriter(t)
	p := newPulling(w.Writer, entitlement.Sandbox, map[entitlement.Provider]provider.Puller{entitlement.Google: deafProvider{}})
	unmapped := entitlement.Evidence{Objects: []entitlement.Object{{Kind: entitlement.KindTransaction, ID: "GPA.1", By: entitlement.Google,
		Transaction: &entitlement.Transaction{Sold: entitlement.Sold{Product: "nobody_knows"}}}}}
	tests := []struct {
		name string
		e    entitlement.Evidence
		age  time.Duration
		want map[string]int // what is counted so far
	}{
		{"within the hour", entitlement.Evidence{}, 59 * time.Minute, map[string]int{acknowledgeFailed: 1}},
		{"after it", entitlement.Evidence{}, 61 * time.Minute, map[string]int{acknowledgeFailed: 2, acknowledgeOverdue: 1}},
		{"a product that the catalog lacks waits for a day", unmapped, 23 * time.Hour, map[string]int{acknowledgeFailed: 2, acknowledgeWaits: 1, acknowledgeOverdue: 2}},
		{"and no longer", unmapped, 25 * time.Hour, map[string]int{acknowledgeFailed: 3, acknowledgeWaits: 1, acknowledgeOverdue: 3}},
	}
	for _, tt := range tests {
		p.acknowledge(context.Background(), store.PurchaseDetail{Evidence: tt.e}, store.Pull{Since: w.now().Add(-tt.age).Unix()})
		metrics := w.get("/metrics").text
		for _, outcome := range []string{acknowledgeTold, acknowledgeFailed, acknowledgeWaits, acknowledgeOverdue} {
			if want := fmt.Sprintf("latchkey_writer_acknowledgements_total{outcome=%q} %d\n", outcome, tt.want[outcome]); !strings.Contains(metrics, want) {
				t.Errorf("%s: /metrics lacks %s", tt.name, want)
			}
		}
	}
	if !strings.Contains(w.logs.String(), `"level":"ERROR","msg":"sale not acknowledged for too long`) {
		t.Error("no alarm in the log")
	}
}

func TestGoogleConfiguration(t *testing.T) {
	c := testConfigs(t, 1)[0]
	e := c.Environments[entitlement.Sandbox]
	e.Google = &GoogleConfig{JWKSURL: "https://keys.example.test", JWKSFile: "x", ServiceAccount: "{}", APIBase: "http://play.example.test", TokenURL: "http://play.example.test"}
	c.Environments[entitlement.Sandbox] = e
	second := *e.Google
	second.JWKSURL, second.JWKSFile, second.APIBase, second.TokenURL = "", "/nowhere/jwks.json", "", ""
	p := c.Environments[entitlement.Production]
	p.Google = &second
	c.Environments[entitlement.Production] = p
	err := c.Validate()
	var mistakes config.Mistakes
	if !errors.As(err, &mistakes) {
		t.Fatalf("Validate = %v", err)
	}
	for _, want := range []string{"environments.sandbox.google.jwks_url", "environments.sandbox.google.api_base", "environments.sandbox.google.token_url",
		"environments.production.google.jwks_file", "environments.production.google.service_account"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%s is not reported: %v", want, err)
		}
	}
}
