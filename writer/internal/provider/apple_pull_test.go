package provider

import (
	"context"
	"crypto/ecdsa"
	"crypto/sha256"
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
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/latchkey/latchkey/pkg/entitlement"
	"github.com/latchkey/latchkey/writer/internal/provider/appletest"
)

// These tests show what the App Store is asked, that its answers prove what notifications do, and what each failure is called.

// appleStore answers as the App Store Server API does, by path, and notes what it was asked.
type appleStore struct {
	*httptest.Server
	*appletest.Authority
	t   *testing.T
	key *ecdsa.PrivateKey // of the API's client

	mu      sync.Mutex
	answers map[string][]any // by method and path; one after the other, the last for ever
	asked   []string
	bodies  []string
}

func serveApple(t *testing.T) *appleStore {
	s := &appleStore{Authority: appletest.New(t), t: t, key: appletest.NewKey(t), answers: map[string][]any{}}
	s.Server = httptest.NewServer(s)
	t.Cleanup(s.Close)
	return s
}

// appleRefusal is an answer with another status than 200.
type appleRefusal struct {
	status, code int
	retryAfter   string
}

func (s *appleStore) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	b, _ := io.ReadAll(r.Body)
	s.bodies = append(s.bodies, string(b))
	s.asked = append(s.asked, r.Method+" "+r.URL.RequestURI())
	if why := s.refuses(r.Header.Get("Authorization")); why != "" {
		s.t.Errorf("%s: token: %s", r.URL, why)
	}
	at := r.Method + " " + r.URL.Path
	answers := s.answers[at]
	if len(answers) == 0 {
		w.WriteHeader(http.StatusNotFound)
		fmt.Fprint(w, `{"errorCode":4040010,"errorMessage":"Transaction id not found."}`)
		return
	}
	if len(answers) > 1 {
		s.answers[at] = answers[1:]
	}
	switch answer := answers[0].(type) {
	case appleRefusal:
		w.Header().Set("Retry-After", answer.retryAfter)
		w.WriteHeader(answer.status)
		if answer.code != 0 {
			fmt.Fprintf(w, `{"errorCode":%d,"errorMessage":"canary"}`, answer.code)
		}
	case string:
		fmt.Fprint(w, answer)
	default:
		_ = json.NewEncoder(w).Encode(answer)
	}
}

// refuses checks a token as Apple does.
func (s *appleStore) refuses(header string) string {
	parts := strings.Split(strings.TrimPrefix(header, "Bearer "), ".")
	if len(parts) != 3 {
		return "not a JWT"
	}
	var head, claims map[string]any
	for i, into := range []*map[string]any{&head, &claims} {
		b, err := base64.RawURLEncoding.DecodeString(parts[i])
		if err != nil || json.Unmarshal(b, into) != nil {
			return "not a JWT"
		}
	}
	rs, err := base64.RawURLEncoding.DecodeString(parts[2])
	sum := sha256.Sum256([]byte(parts[0] + "." + parts[1]))
	if err != nil || len(rs) != 64 || !ecdsa.Verify(&s.key.PublicKey, sum[:], new(big.Int).SetBytes(rs[:32]), new(big.Int).SetBytes(rs[32:])) {
		return "signature"
	}
	iat, exp := claims["iat"].(float64), claims["exp"].(float64)
	if head["alg"] != "ES256" || head["kid"] != "KEY1234567" || head["typ"] != "JWT" || claims["iss"] != "issuer-1" || claims["bid"] != appleBundle ||
		claims["aud"] != "appstoreconnect-v1" || exp <= iat || exp-iat > 3600 || int64(iat) != asked.Unix() {
		return fmt.Sprint(head, claims)
	}
	return ""
}

func (s *appleStore) questions() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.asked)
}

func pemOf(t testing.TB, key *ecdsa.PrivateKey) string {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

func (s *appleStore) api(env entitlement.Environment, sandbox string) *AppleAPI {
	s.t.Helper()
	a, err := NewAppleAPI(AppleAPIConfig{Key: pemOf(s.t, s.key), KeyID: "KEY1234567", IssuerID: "issuer-1", Apple: newApple(s.t, s.Root), Environment: env,
		BaseURL: s.URL, SandboxURL: sandbox, Now: func() time.Time { return asked }})
	if err != nil {
		s.t.Fatal(err)
	}
	return a
}

func (s *appleStore) statuses(status int, chain string, t, r jsonObject) jsonObject {
	other := jsonObject{"originalTransactionId": "999", "status": 1, "signedTransactionInfo": "another purchase of the same customer", "signedRenewalInfo": "x"}
	return jsonObject{"environment": "Production", "bundleId": appleBundle, "appAppleId": appleApp, "data": []any{jsonObject{"subscriptionGroupIdentifier": "1",
		"lastTransactions": []any{other, jsonObject{"originalTransactionId": chain, "status": status, "signedTransactionInfo": s.Sign(s.t, t), "signedRenewalInfo": s.Sign(s.t, r)}}}}}
}

func (s *appleStore) page(revision string, more bool, transactions ...jsonObject) jsonObject {
	var signed []string
	for _, t := range transactions {
		signed = append(signed, s.Sign(s.t, t))
	}
	return jsonObject{"revision": revision, "hasMore": more, "bundleId": appleBundle, "environment": "Production", "signedTransactions": signed}
}

const (
	appleStatusPath  = "GET /inApps/v1/subscriptions/" + appleOriginal
	appleHistoryPath = "GET /inApps/v2/history/" + appleOriginal
	appleSinglePath  = "GET /inApps/v1/transactions/"
)

// An answer proves what notifications with the same states do, with the versions that Apple gave it.
func TestAppleAnswersProveWhatNotificationsDo(t *testing.T) {
	s := serveApple(t)
	upgraded := edited(appleSampleTransaction, termOf("1", appleBefore, jsonObject{"isUpgraded": true}))
	elsewhere := edited(appleSampleTransaction, jsonObject{"transactionId": "77", "originalTransactionId": "77", "type": "Consumable", "expiresDate": nil})
	s.answers[appleStatusPath] = []any{s.statuses(4, appleOriginal, appleSampleTransaction, edited(appleSampleRenewal, jsonObject{"gracePeriodExpiresDate": appleEnd * 1000}))}
	s.answers[appleHistoryPath] = []any{s.page("r1", true, appleSampleTransaction, elsewhere), s.page("r2", false, upgraded)}
	s.answers[appleSinglePath+"700001900000102"] = []any{jsonObject{"signedTransactionInfo": s.Sign(t, appleSampleTransaction)}}
	life := edited(appleSampleTransaction, jsonObject{"transactionId": "9", "originalTransactionId": "9", "type": "Non-Consumable", "expiresDate": nil, "productId": "pro.lifetime"})
	s.answers[appleSinglePath+"9"] = []any{jsonObject{"signedTransactionInfo": s.Sign(t, life)}}
	s.answers["GET /inApps/v1/subscriptions/9"] = []any{jsonObject{"environment": "Production", "bundleId": appleBundle, "data": []any{}}}

	whole := entitlement.Evidence{}
	for _, n := range []jsonObject{
		sampleWith(jsonObject{"status": 4, appleRenewalField: edited(appleSampleRenewal, jsonObject{"gracePeriodExpiresDate": appleEnd * 1000})}),
		sampleWith(jsonObject{"status": nil, appleTransactionField: upgraded, appleRenewalField: nil}),
	} {
		whole = whole.Add(appleEvent(t, unsigned(t, n)).Objects...)
	}
	single := entitlement.Evidence{}.Add(appleEvent(t, unsigned(t, sampleWith(jsonObject{"status": nil, appleTransactionField: life, appleRenewalField: nil}))).Objects...)
	settled := single.Add(entitlement.Object{Kind: entitlement.KindRenewal, ID: "9", By: entitlement.Apple, At: 1_795_305_612_300e6, Renewal: &entitlement.Renewal{}, Links: []entitlement.Link{"apple:9"}})
	tests := []struct {
		name string
		kind entitlement.ObjectKind
		id   string
		want entitlement.Evidence
	}{
		{"a subscription with its history", entitlement.KindRenewal, appleOriginal, whole},
		{"the subscription that a transaction is of", entitlement.KindTransaction, "700001900000102", whole},
		{"a sale of one time", entitlement.KindTransaction, "9", single},
		{"a sale of one time that somebody took for a subscription", entitlement.KindRenewal, "9", settled},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s.answers[appleHistoryPath] = []any{s.page("r1", true, appleSampleTransaction, elsewhere), s.page("r2", false, upgraded)}
			ev, err := s.api(entitlement.Production, "").Pull(t.Context(), tt.kind, tt.id)
			if err != nil {
				t.Fatal(err)
			}
			if got := (entitlement.Evidence{}).Add(ev.Objects...); !reflect.DeepEqual(got, tt.want) {
				t.Errorf("it proves\n%s\nwant\n%s", show(got), show(tt.want))
			}
			if ev.Kind != entitlement.Proof || ev.Environment != entitlement.Production || ev.Type != "pull."+string(tt.kind) || ev.CreatedAt != asked.Unix() ||
				ev.ID != fmt.Sprintf("pull:%s:%d", tt.id, asked.UnixNano()) || !json.Valid(ev.Raw) {
				t.Errorf("event %s, raw %s", show(ev), ev.Raw)
			}
		})
	}
	if all := strings.Join(s.questions(), "\n"); !strings.Contains(all, "revision=r1") || !strings.Contains(all, "sort=DESCENDING") {
		t.Errorf("asked\n%s\nwant the second page too", all)
	}
}

// What production does not know may be a tester's purchase.
func TestAppleSandboxIsAskedForTesters(t *testing.T) {
	production, sandbox := serveApple(t), serveApple(t)
	sandbox.Authority, sandbox.key = production.Authority, production.key
	in := jsonObject{"environment": "Sandbox"}
	answer := sandbox.statuses(1, appleOriginal, edited(appleSampleTransaction, in), edited(appleSampleRenewal, in))
	sandbox.answers[appleStatusPath] = []any{answer}
	sandbox.answers[appleHistoryPath] = []any{sandbox.page("", false)}
	ev, err := production.api(entitlement.Production, sandbox.URL).Pull(t.Context(), entitlement.KindRenewal, appleOriginal)
	if err != nil || ev.Environment != entitlement.Sandbox || len(ev.Objects) != 3 {
		t.Errorf("Pull = %s, %v", show(ev), err)
	}
	if _, err := production.api(entitlement.Production, "").Pull(t.Context(), entitlement.KindRenewal, appleOriginal); !errors.Is(err, ErrGone) {
		t.Errorf("without a sandbox to ask: %v, want ErrGone", err)
	}
	if _, err := sandbox.api(entitlement.Sandbox, "").Pull(t.Context(), entitlement.KindRenewal, "1"); !errors.Is(err, ErrGone) {
		t.Errorf("what sandbox does not know either: %v, want ErrGone", err)
	}
}

func TestAppleRefusals(t *testing.T) {
	s := serveApple(t)
	stranger := appletest.New(t)
	forged := s.statuses(1, appleOriginal, appleSampleTransaction, appleSampleRenewal)
	last := forged["data"].([]any)[0].(jsonObject)["lastTransactions"].([]any)[1].(jsonObject)
	last["signedTransactionInfo"] = stranger.Sign(t, appleSampleTransaction)
	otherApp := s.statuses(1, appleOriginal, appleSampleTransaction, appleSampleRenewal)
	otherApp["bundleId"] = "com.example.other"
	tests := []struct {
		name   string
		answer any
		want   error
		after  time.Duration
	}{
		{"no such transaction", appleRefusal{status: 404, code: 4040010}, ErrGone, 0},
		{"no such account", appleRefusal{status: 404, code: 4040001}, ErrGone, 0},
		{"an id that is none", appleRefusal{status: 400, code: 4000006}, ErrGone, 0},
		{"an account that may be there soon", appleRefusal{status: 404, code: 4040002}, ErrUnavailable, 0},
		{"a wrong key", appleRefusal{status: 401}, ErrCredential, 0},
		{"too often, until a time in milliseconds", appleRefusal{status: 429, code: 4290000, retryAfter: fmt.Sprint(asked.Add(30 * time.Second).UnixMilli())}, ErrLimited, 30 * time.Second},
		{"too often, until a time that has passed", appleRefusal{status: 429, code: 4290000, retryAfter: fmt.Sprint(asked.UnixMilli() - 5000)}, ErrLimited, 0},
		{"too often, for ever", appleRefusal{status: 429, retryAfter: "9000000000000"}, ErrLimited, maxRetryAfter},
		{"too often, without a time", appleRefusal{status: 429, retryAfter: "soon"}, ErrLimited, 0},
		{"a fault of Apple's", appleRefusal{status: 500, code: 5000000}, ErrUnavailable, 0},
		{"another answer", appleRefusal{status: 302}, ErrAnswer, 0},
		{"no JSON", "<html>", ErrAnswer, 0},
		{"no subscription, and no transaction", jsonObject{"data": []any{}}, ErrGone, 0},
		{"a forged state", forged, ErrAnswer, 0},
		{"another app's", otherApp, ErrAnswer, 0},
		{"of the other environment", s.statuses(1, appleOriginal, edited(appleSampleTransaction, jsonObject{"environment": "Sandbox"}), appleSampleRenewal), ErrAnswer, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s.answers[appleStatusPath] = []any{tt.answer}
			_, err := s.api(entitlement.Production, "").Pull(t.Context(), entitlement.KindRenewal, appleOriginal)
			var failed *PullError
			if !errors.Is(err, tt.want) || !errors.As(err, &failed) || failed.RetryAfter.Round(time.Second) != tt.after || strings.Contains(err.Error(), "canary") {
				t.Errorf("Pull = %v (%+v), want %v after %s", err, failed, tt.want, tt.after)
			}
		})
	}
	t.Run("nobody answers", func(t *testing.T) {
		api := s.api(entitlement.Production, "")
		s.Close()
		if _, err := api.Pull(t.Context(), entitlement.KindRenewal, appleOriginal); !errors.Is(err, ErrUnavailable) {
			t.Errorf("Pull = %v, want ErrUnavailable", err)
		}
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := api.Pull(ended, entitlement.KindRenewal, appleOriginal); !errors.Is(err, context.Canceled) {
			t.Errorf("Pull = %v, want context.Canceled", err)
		}
	})
}

func TestAppleTargets(t *testing.T) {
	e := entitlement.Evidence{}.Add(appleEvent(t, unsigned(t, appleSample)).Objects...)
	doubt := func(kind entitlement.ObjectKind, id string, from int64) entitlement.Doubt {
		return entitlement.Doubt{Kind: kind, ID: id, From: from, By: entitlement.Apple}
	}
	got := (&AppleAPI{}).Targets(e, []entitlement.Doubt{doubt(entitlement.KindCustomer, appleOriginal, 1), doubt(entitlement.KindRenewal, appleOriginal, 3),
		doubt(entitlement.KindTransaction, "700001900000102", 2), doubt(entitlement.KindTransaction, "9", 5), doubt(entitlement.KindSale, "9", 5)})
	want := []entitlement.Doubt{doubt(entitlement.KindRenewal, appleOriginal, 3), doubt(entitlement.KindRevocation, "700001900000102", 2),
		doubt(entitlement.KindRevocation, "9", 5), doubt(entitlement.KindTransaction, "9", 5)}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("Targets = %v, want %v", got, want)
	}
}

// Of whoever made one transaction all that they bought is found, by what it is to be asked for: subscriptions once, sales of one time each (R92).
func TestAppleListsWhatACustomerBought(t *testing.T) {
	s := serveApple(t)
	api := s.api(entitlement.Production, "")
	sold := func(id, chain, kind string) jsonObject {
		return edited(appleSampleTransaction, jsonObject{"transactionId": id, "originalTransactionId": chain, "type": kind})
	}
	const subscription = "Auto-Renewable Subscription"
	by := entitlement.Alias{Kind: entitlement.AppleOriginalTransaction, Value: appleOriginal}
	s.answers[appleHistoryPath] = []any{s.page("r2", true, sold("9", appleOriginal, subscription), sold("8", "8", "Consumable"), sold("7", appleOriginal, subscription)),
		s.page("r3", false, sold("6", "6", "Non-Consumable"), sold("5", "4", subscription))}
	want := []entitlement.Doubt{{Kind: entitlement.KindRenewal, ID: appleOriginal, By: entitlement.Apple}, {Kind: entitlement.KindTransaction, ID: "8", By: entitlement.Apple},
		{Kind: entitlement.KindTransaction, ID: "6", By: entitlement.Apple}, {Kind: entitlement.KindRenewal, ID: "4", By: entitlement.Apple}}
	if got, err := api.BoughtBy(t.Context(), by); err != nil || !slices.Equal(got, want) {
		t.Errorf("BoughtBy = %v, %v, want %v", got, err, want)
	}
	if asked := s.questions(); len(asked) != 2 || !strings.HasSuffix(asked[0], "?sort=DESCENDING") || !strings.HasSuffix(asked[1], "?revision=r2&sort=DESCENDING") {
		t.Errorf("asked %v", asked)
	}
	var coins []jsonObject
	for n := range maxAppleBought + 5 {
		coins = append(coins, sold(strconv.Itoa(1000+n), strconv.Itoa(1000+n), "Consumable"))
	}
	s.answers[appleHistoryPath] = []any{s.page("r2", true, coins...)}
	if got, err := api.BoughtBy(t.Context(), by); err != nil || len(got) != maxAppleBought {
		t.Errorf("BoughtBy = %d, %v, want %d", len(got), err, maxAppleBought)
	}
	s.answers[appleHistoryPath] = []any{jsonObject{"signedTransactions": []string{appletest.New(t).Sign(t, appleSampleTransaction)}, "hasMore": false}}
	if got, err := api.BoughtBy(t.Context(), by); !errors.Is(err, ErrAnswer) || len(got) != 0 {
		t.Errorf("signed by another: %v, %v", got, err)
	}
	s.answers[appleHistoryPath] = []any{appleRefusal{status: 429}}
	if _, err := api.BoughtBy(t.Context(), by); !errors.Is(err, ErrLimited) {
		t.Errorf("BoughtBy = %v, want ErrLimited", err)
	}
	for _, nobody := range []entitlement.Alias{{Kind: entitlement.AppleOriginalTransaction, Value: "404"}, {Kind: entitlement.AppleOriginalTransaction, Value: "../x"}, {Kind: entitlement.StripeCustomer, Value: appleOriginal}} {
		if got, err := api.BoughtBy(t.Context(), nobody); err != nil || got != nil {
			t.Errorf("of %v: %v, %v", nobody, got, err)
		}
	}
}

// The histories come page after page, whole, and as Apple signed them.
func TestAppleHistories(t *testing.T) {
	s := serveApple(t)
	api := s.api(entitlement.Production, "")
	old := edited(appleTest, jsonObject{"signedDate": 1_700_000_000_000})
	const historyPath = "POST /inApps/v1/notifications/history"
	item := func(n jsonObject) jsonObject {
		return jsonObject{"signedPayload": s.Sign(t, n), "sendAttempts": []any{}}
	}
	s.answers[historyPath] = []any{
		jsonObject{"notificationHistory": []any{item(appleTest), item(old)}, "hasMore": true, "paginationToken": "p2"},
		jsonObject{"notificationHistory": []any{item(old)}, "hasMore": false, "paginationToken": "p3"},
	}
	for from, to := range map[*AppleAPI]time.Duration{api: 179 * 24 * time.Hour, s.api(entitlement.Sandbox, ""): 29 * 24 * time.Hour} {
		if from.HistoryReach() != to {
			t.Errorf("reaches %s back, want %s", from.HistoryReach(), to)
		}
	}
	n := 0
	for payload, err := range api.NotificationHistory(t.Context(), time.UnixMilli(1000), time.UnixMilli(2000)) {
		if err != nil {
			t.Fatal(err)
		}
		ev, err := api.apple.ParseNotification(payload, entitlement.Production)
		if err != nil || ev.Type != "TEST" || ev.Environment != entitlement.Sandbox {
			t.Errorf("ParseNotification = %s, %v", show(ev), err)
		}
		n++
	}
	if asked := s.questions(); n != 3 || len(asked) != 2 || !strings.HasSuffix(asked[1], "paginationToken=p2") || s.bodies[0] != s.bodies[1] || s.bodies[0] != `{"endDate":2000,"startDate":1000}` {
		t.Errorf("%d notifications by %v %v", n, asked, s.bodies)
	}
	s.answers[historyPath] = []any{appleRefusal{status: 429}}
	for _, err := range api.NotificationHistory(t.Context(), time.UnixMilli(1000), time.UnixMilli(2000)) {
		if !errors.Is(err, ErrLimited) {
			t.Errorf("NotificationHistory = %v, want ErrLimited", err)
		}
	}
	if _, err := api.apple.ParseNotification(appletest.New(t).Sign(t, appleTest), entitlement.Production); !errors.Is(err, ErrSignature) {
		t.Errorf("ParseNotification of a forged one = %v", err)
	}

	forged := jsonObject{"signedPayload": appletest.New(t).Sign(t, appleTest)}
	s.answers[historyPath] = []any{jsonObject{"notificationHistory": []any{item(appleTest), forged, item(appleTest)}, "hasMore": true, "paginationToken": "p2"}, appleRefusal{status: 503}}
	var said []string
	for ev, err := range api.Messages(t.Context(), time.UnixMilli(1000), time.UnixMilli(2000)) {
		switch {
		case err == nil && api.IsMessage(ev.ID):
			said = append(said, ev.Type)
		case errors.Is(err, ErrSignature):
			said = append(said, "forged")
		case errors.Is(err, ErrUnavailable):
			said = append(said, "unavailable")
		}
	}
	if !slices.Equal(said, []string{"TEST", "forged", "TEST", "unavailable"}) {
		t.Errorf("Messages = %v", said)
	}

	refunded := edited(appleSampleTransaction, jsonObject{"revocationDate": appleEnd * 1000})
	s.answers["GET /inApps/v2/refund/lookup/5"] = []any{s.page("r1", true, refunded), s.page("r2", false, edited(refunded, jsonObject{"transactionId": "6"}))}
	ev, err := api.Pull(t.Context(), entitlement.KindRevocation, "5")
	refunds := 0
	for _, o := range ev.Objects {
		if o.Transaction != nil && o.Transaction.RevokedAt == appleEnd {
			refunds++
		}
	}
	if err != nil || refunds != 2 || ev.Kind != entitlement.Proof || api.IsMessage(ev.ID) {
		t.Errorf("RefundHistory = %s, %v", show(ev), err)
	}
	s.answers["GET /inApps/v2/refund/lookup/7"] = []any{s.page("", false)}
	if ev, err := api.RefundHistory(t.Context(), "7"); err != nil || ev.Kind != entitlement.Unhandled {
		t.Errorf("RefundHistory without refunds = %s, %v", show(ev), err)
	}

	s.answers["POST /inApps/v1/notifications/test"] = []any{jsonObject{"testNotificationToken": "token-1"}}
	if token, err := api.RequestTestNotification(t.Context()); err != nil || token != "token-1" {
		t.Errorf("RequestTestNotification = %q, %v", token, err)
	}
}

func TestNewAppleAPIRefuses(t *testing.T) {
	key := pemOf(t, appletest.NewKey(t))
	good := AppleAPIConfig{Key: key, KeyID: "K", IssuerID: "I", Apple: newApple(t)}
	tests := []struct {
		name   string
		change func(*AppleAPIConfig)
		want   error
		places []string
	}{
		{"nothing", func(c *AppleAPIConfig) { c.Environment = entitlement.Production }, nil, []string{appleAPI, appleAPISandbox}},
		{"nothing of sandbox", func(*AppleAPIConfig) {}, nil, []string{appleAPISandbox}},
		{"no key", func(c *AppleAPIConfig) { c.Key = "canary" }, ErrAppleKey, nil},
		{"a key of another kind", func(c *AppleAPIConfig) {
			c.Key = string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte("canary")}))
		}, ErrAppleKey, nil},
		{"no key id", func(c *AppleAPIConfig) { c.KeyID = "" }, ErrAppleKeyID, nil},
		{"no issuer", func(c *AppleAPIConfig) { c.IssuerID = "" }, ErrAppleIssuer, nil},
		{"an address without TLS", func(c *AppleAPIConfig) { c.BaseURL = "http://apple.example" }, ErrAppleBase, nil},
		{"another one without TLS", func(c *AppleAPIConfig) { c.SandboxURL = "http://apple.example" }, ErrAppleBase, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := good
			tt.change(&c)
			a, err := NewAppleAPI(c)
			if !errors.Is(err, tt.want) || tt.want == nil && err != nil || err != nil && strings.Contains(err.Error(), "canary") {
				t.Fatalf("NewAppleAPI = %v, want %v", err, tt.want)
			}
			if err != nil {
				return
			}
			var places []string
			for _, p := range a.places {
				places = append(places, p.base)
			}
			if !slices.Equal(places, tt.places) {
				t.Errorf("asks %v, want %v", places, tt.places)
			}
		})
	}
}
