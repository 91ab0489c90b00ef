package provider

import (
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/latchkey/latchkey/pkg/entitlement"
)

// These tests show whose messages are believed, and what each kind of message proves.

const (
	playPackage  = "com.example.app"
	pushAudience = "https://hooks.example.test/v1/webhooks/sandbox/google"
	pushEmail    = "rtdn-push@latchkey-demo.iam.gserviceaccount.com"
	testToken    = "lk-token-aaaaaaaaaaaaaaaaaaaaaaaa.AO-J1Oz0001"
	newToken     = "lk-token-bbbbbbbbbbbbbbbbbbbbbbbb.AO-J1Oz0002"
	testMillis   = int64(1795305604000)
)

// pushTime is when the tests' tokens are made.
var pushTime = time.Unix(1795305600, 0)

// rsaKeys are made once: each takes a while.
var rsaKeys = sync.OnceValue(func() (keys [2]*rsa.PrivateKey) {
	for i := range keys {
		key, err := rsa.GenerateKey(rand.Reader, minRSABits)
		if err != nil {
			panic(err) // no randomness
		}
		keys[i] = key
	}
	return keys
})

func jwk(kid string, key *rsa.PublicKey) map[string]any {
	return map[string]any{"kty": "RSA", "use": "sig", "alg": "RS256", "kid": kid, "n": base64.RawURLEncoding.EncodeToString(key.N.Bytes()),
		"e": base64.RawURLEncoding.EncodeToString(big.NewInt(int64(key.E)).Bytes())}
}

func keySet(keys ...map[string]any) []byte { return []byte(marshal(map[string]any{"keys": keys})) }

func newGoogle(t testing.TB, keys *GoogleKeys) *Google {
	t.Helper()
	g, err := NewGoogle(GoogleConfig{Package: playPackage, Audience: pushAudience, Email: pushEmail, Keys: keys})
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func fixedGoogle(t testing.TB) *Google {
	t.Helper()
	keys, err := FixedKeys(keySet(jwk("key-1", &rsaKeys()[0].PublicKey)))
	if err != nil {
		t.Fatal(err)
	}
	return newGoogle(t, keys)
}

type claims = jwt.MapClaims

func pushToken(change claims) claims {
	c := claims{"aud": pushAudience, "azp": "1137", "email": pushEmail, "email_verified": true, "exp": pushTime.Unix() + 3600, "iat": pushTime.Unix(),
		"iss": "https://accounts.google.com", "sub": "1137"}
	maps.Copy(c, change)
	maps.DeleteFunc(c, func(_ string, v any) bool { return v == nil })
	return c
}

func bearer(t testing.TB, method jwt.SigningMethod, kid any, key any, c claims) string {
	t.Helper()
	token := jwt.NewWithClaims(method, c)
	if kid != nil {
		token.Header["kid"] = kid
	}
	signed, err := token.SignedString(key)
	if err != nil {
		t.Fatal(err)
	}
	return "Bearer " + signed
}

func pushed(authorization ...string) Request {
	return Request{Header: http.Header{"Authorization": authorization}, Body: []byte(`{}`)}
}

func TestVerifyGoogle(t *testing.T) {
	key, other := rsaKeys()[0], rsaKeys()[1]
	good := bearer(t, jwt.SigningMethodRS256, "key-1", key, pushToken(nil))
	with := func(change claims) []string {
		return []string{bearer(t, jwt.SigningMethodRS256, "key-1", key, pushToken(change))}
	}
	head, rest, _ := strings.Cut(strings.TrimPrefix(good, "Bearer "), ".")
	payload, signature, _ := strings.Cut(rest, ".")
	public := []byte(marshal(jwk("key-1", &key.PublicKey)))
	tests := []struct {
		name   string
		header []string
		now    time.Duration // after pushTime
		want   error
	}{
		{"Google's token", []string{good}, 0, nil},
		{"the other name of the issuer", with(claims{"iss": "accounts.google.com"}), 0, nil},
		{"59 s after its end", []string{good}, 3659 * time.Second, nil},
		{"60 s after its end", []string{good}, 3660 * time.Second, ErrStale},
		{"60 s before it was made", []string{good}, -60 * time.Second, nil},
		{"61 s before it was made", []string{good}, -61 * time.Second, ErrStale},
		{"no header", nil, 0, ErrSignature},
		{"two headers", []string{good, good}, 0, ErrSignature},
		{"no bearer token", []string{"Basic " + strings.TrimPrefix(good, "Bearer ")}, 0, ErrSignature},
		{"an empty token", []string{"Bearer "}, 0, ErrSignature},
		{"a giant token", []string{"Bearer " + strings.Repeat("a", maxGoogleTokenBytes)}, 0, ErrSignature},
		{"an unknown kid", []string{bearer(t, jwt.SigningMethodRS256, "key-2", key, pushToken(nil))}, 0, ErrSignature},
		{"no kid", []string{bearer(t, jwt.SigningMethodRS256, nil, key, pushToken(nil))}, 0, ErrSignature},
		{"a kid that is no text", []string{bearer(t, jwt.SigningMethodRS256, 7, key, pushToken(nil))}, 0, ErrSignature},
		{"another key under its kid", []string{bearer(t, jwt.SigningMethodRS256, "key-1", other, pushToken(nil))}, 0, ErrSignature},
		{"RS512", []string{bearer(t, jwt.SigningMethodRS512, "key-1", key, pushToken(nil))}, 0, ErrSignature},
		{"PS256", []string{bearer(t, jwt.SigningMethodPS256, "key-1", key, pushToken(nil))}, 0, ErrSignature},
		{"HS256 with the public key", []string{bearer(t, jwt.SigningMethodHS256, "key-1", public, pushToken(nil))}, 0, ErrSignature},
		{"alg none", []string{bearer(t, jwt.SigningMethodNone, "key-1", jwt.UnsafeAllowNoneSignatureType, pushToken(nil))}, 0, ErrSignature},
		{"no signature", []string{"Bearer " + head + "." + payload + "."}, 0, ErrSignature},
		{"another payload", []string{"Bearer " + head + "." + base64.RawURLEncoding.EncodeToString([]byte(`{"aud":"x"}`)) + "." + signature}, 0, ErrSignature},
		{"another issuer", with(claims{"iss": "https://accounts.google.com.example.test"}), 0, ErrSignature},
		{"another audience", with(claims{"aud": pushAudience + "/"}), 0, ErrSignature},
		{"no audience", with(claims{"aud": nil}), 0, ErrSignature},
		{"two audiences", with(claims{"aud": []string{pushAudience, "https://other.test"}}), 0, ErrSignature},
		{"somebody else's account", with(claims{"email": "attacker@evil.iam.gserviceaccount.com"}), 0, ErrSignature},
		{"no e-mail", with(claims{"email": nil}), 0, ErrSignature},
		{"an e-mail that is not verified", with(claims{"email_verified": false}), 0, ErrSignature},
		{"a verification that is a text", with(claims{"email_verified": "true"}), 0, ErrSignature},
		{"no end", with(claims{"exp": nil}), 0, ErrSignature},
		{"no begin", with(claims{"iat": nil}), 0, ErrSignature},
		{"an end that is a text", with(claims{"exp": "tomorrow"}), 0, ErrSignature},
	}
	g := fixedGoogle(t)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err := g.Verify(pushed(tt.header...), pushTime.Add(tt.now))
			if !errors.Is(err, tt.want) || tt.want == nil && err != nil {
				t.Errorf("Verify = %v, want %v", err, tt.want)
			}
			if err != nil && strings.Contains(err.Error(), "@") {
				t.Errorf("the error quotes the token: %v", err)
			}
		})
	}
}

func TestNewGoogleRefusesWhatOthersWouldPass(t *testing.T) {
	keys := fixedGoogle(t).config.Keys
	for name, c := range map[string]GoogleConfig{
		"no package":        {Audience: "a", Email: "a@b", Keys: keys},
		"no audience":       {Package: "p", Email: "a@b", Keys: keys},
		"a blank audience":  {Package: "p", Audience: " ", Email: "a@b", Keys: keys},
		"no e-mail":         {Package: "p", Audience: "a", Keys: keys},
		"an account's name": {Package: "p", Audience: "a", Email: "push", Keys: keys},
		"no keys":           {Package: "p", Audience: "a", Email: "a@b"},
	} {
		if _, err := NewGoogle(c); err == nil {
			t.Errorf("%s: NewGoogle took it", name)
		}
	}
}

func TestGoogleKeySets(t *testing.T) {
	key := &rsaKeys()[0].PublicKey
	edit := func(change map[string]any) map[string]any {
		k := jwk("key-1", key)
		maps.Copy(k, change)
		return k
	}
	short := base64.RawURLEncoding.EncodeToString(big.NewInt(0).Rsh(key.N, 1024).Bytes())
	tests := []struct {
		name string
		set  []byte
		ok   bool
	}{
		{"one key", keySet(edit(nil)), true},
		{"a key of another kind beside it", keySet(map[string]any{"kty": "EC", "kid": "e"}, edit(nil)), true},
		{"no key", keySet(), false},
		{"no JSON", []byte("keys"), false},
		{"keys that are no array", []byte(`{"keys": 7}`), false},
		{"for encryption", keySet(edit(map[string]any{"use": "enc"})), false},
		{"for another algorithm", keySet(edit(map[string]any{"alg": "RS512"})), false},
		{"1024 bits", keySet(edit(map[string]any{"n": short})), false},
		{"an even exponent", keySet(edit(map[string]any{"e": "AQAA"})), false},
		{"an exponent of 1", keySet(edit(map[string]any{"e": "AQ"})), false},
		{"a modulus that is no base64", keySet(edit(map[string]any{"n": "!"})), false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := FixedKeys(tt.set); tt.ok && err != nil || !tt.ok && !errors.Is(err, ErrGoogleKeys) {
				t.Errorf("FixedKeys: %v", err)
			}
		})
	}
	t.Run("a key without a kid fits every token", func(t *testing.T) {
		set := edit(nil)
		delete(set, "kid")
		keys, err := FixedKeys(keySet(set))
		if err != nil {
			t.Fatal(err)
		}
		for _, kid := range []any{nil, "any"} {
			if err := newGoogle(t, keys).Verify(pushed(bearer(t, jwt.SigningMethodRS256, kid, rsaKeys()[0], pushToken(nil))), pushTime); err != nil {
				t.Errorf("kid %v: %v", kid, err)
			}
		}
	})
	for _, address := range []string{"http://keys.example.test/", "ftp://127.0.0.1/", "https://user@keys.example.test/", "certs"} {
		if _, err := FetchedKeys(address); !errors.Is(err, ErrGoogleKeys) {
			t.Errorf("FetchedKeys(%s): %v", address, err)
		}
	}
}

// Google changes its keys every few days. They are fetched when a token needs them, never more often than once a minute, and kept when Google does not answer.
func TestGoogleKeysAreFetchedWhenNeeded(t *testing.T) {
	var fetched atomic.Int32
	var answer atomic.Value
	serve := func(status int, set []byte) {
		answer.Store(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Cache-Control", "public, max-age=20000, must-revalidate")
			w.WriteHeader(status)
			_, _ = w.Write(set)
		}))
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fetched.Add(1)
		answer.Load().(http.Handler).ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	keys, err := FetchedKeys(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	g := newGoogle(t, keys)
	first, second := rsaKeys()[0], rsaKeys()[1]
	verify := func(what, kid string, key *rsa.PrivateKey, after time.Duration, want error, fetches int32) {
		t.Helper()
		c := pushToken(claims{"iat": pushTime.Add(after).Unix(), "exp": pushTime.Add(after).Unix() + 3600})
		if err := g.Verify(pushed(bearer(t, jwt.SigningMethodRS256, kid, key, c)), pushTime.Add(after)); !errors.Is(err, want) || want == nil && err != nil {
			t.Errorf("%s: Verify = %v, want %v", what, err, want)
		}
		if got := fetched.Load(); got != fetches {
			t.Errorf("%s: %d fetches, want %d", what, got, fetches)
		}
	}
	serve(http.StatusInternalServerError, nil)
	verify("Google does not answer", "key-1", first, 0, ErrSignature, 1)
	serve(http.StatusOK, keySet(jwk("key-1", &first.PublicKey)))
	verify("asked again within a minute", "key-1", first, 59*time.Second, ErrSignature, 1)
	verify("asked again", "key-1", first, time.Minute, nil, 2)
	verify("known", "key-1", first, time.Hour, nil, 2)
	verify("a kid that nobody has", "key-9", second, 2*time.Hour, ErrSignature, 3)
	verify("and again at once", "key-9", second, 2*time.Hour+time.Second, ErrSignature, 3)
	serve(http.StatusOK, keySet(jwk("key-1", &first.PublicKey), jwk("key-2", &second.PublicKey)))
	verify("a new key", "key-2", second, 3*time.Hour, nil, 4)
	serve(http.StatusServiceUnavailable, nil)
	verify("too old, and Google does not answer", "key-1", first, 10*time.Hour, nil, 5)
	serve(http.StatusOK, []byte(`{"keys":[]}`))
	verify("an empty set is none", "key-1", first, 11*time.Hour, nil, 6)
	serve(http.StatusOK, keySet(jwk("key-2", &second.PublicKey)))
	verify("the old key is withdrawn", "key-1", first, 12*time.Hour, ErrSignature, 7)
}

func TestGoogleMaxAge(t *testing.T) {
	for header, want := range map[[2]string]time.Duration{
		{"public, max-age=20000, must-revalidate", ""}: 20000 * time.Second,
		{"max-age=20000", "5000"}:                      15000 * time.Second,
		{"max-age=20000", "50000"}:                     googleKeysPause,
		{"max-age=0", ""}:                              googleKeysPause,
		{"max-age=-1", "-1"}:                           googleKeysPause,
		{"max-age=999999999999", ""}:                   24 * time.Hour,
		{"no-store", ""}:                               googleKeysAge,
		{"", ""}:                                       googleKeysAge,
	} {
		if got := googleMaxAge(http.Header{"Cache-Control": {header[0]}, "Age": {header[1]}}); got != want {
			t.Errorf("googleMaxAge(%q) = %s, want %s", header, got, want)
		}
	}
}

func googleSample(t testing.TB, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", "google", name+".json"))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// envelope is a push message as Pub/Sub sends it.
func envelope(id, notification string) []byte {
	return []byte(marshal(map[string]any{"message": map[string]any{"attributes": map[string]any{}, "data": base64.StdEncoding.EncodeToString([]byte(notification)),
		"messageId": id, "message_id": id, "publishTime": "2026-11-22T00:00:05.123Z", "publish_time": "2026-11-22T00:00:05.123Z"},
		"subscription": "projects/latchkey-demo/subscriptions/play-rtdn-push"}))
}

func parseGoogle(t testing.TB, body []byte) entitlement.Event {
	t.Helper()
	ev, err := fixedGoogle(t).Parse(body, entitlement.Sandbox)
	if err != nil {
		t.Fatalf("Parse: %v", err)
	}
	return ev
}

// notification is a message about the test's package and token.
func notification(kind string, body map[string]any, change ...map[string]any) string {
	n := map[string]any{"version": "1.0", "packageName": playPackage, "eventTimeMillis": fmt.Sprint(testMillis), kind: body}
	for _, c := range change {
		maps.Copy(n, c)
	}
	return marshal(n)
}

func hint(id, token string) entitlement.Object {
	return entitlement.Object{Kind: entitlement.KindHint, ID: id, By: entitlement.Google, At: testMillis * 1e6, Links: []entitlement.Link{playTokenLink(token)},
		Hint: &entitlement.Hint{Of: entitlement.KindRenewal}}
}

func TestParseGoogle(t *testing.T) {
	order := "GPA.3300-0000-0000-00001..0"
	revocation := entitlement.Object{Kind: entitlement.KindRevocation, ID: order, By: entitlement.Google, At: testMillis * 1e6,
		Links: []entitlement.Link{playTokenLink(testToken), "google:tx:GPA.3300-0000-0000-00001"}, Revocation: &entitlement.Revocation{Transaction: order, RevokedAt: testMillis / 1000}}
	void := func(productType, refundType int) string {
		return notification("voidedPurchaseNotification", map[string]any{"purchaseToken": testToken, "orderId": order, "productType": productType, "refundType": refundType})
	}
	type test struct {
		name, notification, eventType string
		kind                          entitlement.EventKind
		want                          []entitlement.Object
	}
	tests := []test{
		{"a subscription", googleSample(t, "rtdn-subscription"), "SUBSCRIPTION_RENEWED", entitlement.Proof, []entitlement.Object{hint(testToken, testToken)}},
		{"a one-time product", googleSample(t, "rtdn-product"), "ONE_TIME_PRODUCT_PURCHASED", entitlement.Proof, []entitlement.Object{hint("product:"+testToken, testToken)}},
		{"a one-time product that was given up", notification("oneTimeProductNotification", map[string]any{"notificationType": 2, "purchaseToken": testToken}),
			"ONE_TIME_PRODUCT_CANCELED", entitlement.Proof, []entitlement.Object{hint("product:"+testToken, testToken)}},
		{"a voided order of a subscription", googleSample(t, "rtdn-voided"), "VOIDED_PURCHASE", entitlement.Proof, []entitlement.Object{hint(testToken, testToken), revocation}},
		{"a voided one-time product", void(2, 1), "VOIDED_PURCHASE", entitlement.Proof, []entitlement.Object{hint("product:"+testToken, testToken), revocation}},
		{"some of a quantity voided: its state says how many", void(2, 2), "VOIDED_PURCHASE", entitlement.Proof, []entitlement.Object{hint("product:"+testToken, testToken)}},
		{"a refund type that is new", void(1, 3), "VOIDED_PURCHASE", entitlement.Proof, []entitlement.Object{hint(testToken, testToken)}},
		{"a chargeback to review", googleSample(t, "rtdn-review"), "PENDING_REFUND_REVIEW", entitlement.Unhandled, nil},
		{"a test", googleSample(t, "rtdn-test"), "TEST", entitlement.Unhandled, nil},
		{"a kind that is new", notification("newNotification", map[string]any{}), "UNKNOWN", entitlement.Unhandled, nil},
		{"another app's", notification("subscriptionNotification", map[string]any{"notificationType": 2, "purchaseToken": testToken}, map[string]any{"packageName": "com.example.other"}),
			"SUBSCRIPTION_RENEWED", entitlement.Unhandled, nil},
		{"a time that is a number", notification("subscriptionNotification", map[string]any{"notificationType": 2, "purchaseToken": testToken}, map[string]any{"eventTimeMillis": testMillis}),
			"SUBSCRIPTION_RENEWED", entitlement.Proof, []entitlement.Object{hint(testToken, testToken)}},
	}
	for n := range 30 {
		name := fmt.Sprintf("SUBSCRIPTION_%d", n)
		if known := playSubscriptionTypes[int64(n)]; known != "" {
			name = "SUBSCRIPTION_" + known
		}
		tests = append(tests, test{name, notification("subscriptionNotification", map[string]any{"version": "1.0", "notificationType": n, "purchaseToken": testToken}), name,
			entitlement.Proof, []entitlement.Object{hint(testToken, testToken)}})
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			ev := parseGoogle(t, envelope("13000000000000001", tt.notification))
			if ev.ID != "13000000000000001" || ev.Provider != entitlement.Google || ev.Environment != entitlement.Sandbox || ev.CreatedAt != testMillis/1000 || ev.Type != tt.eventType || ev.Kind != tt.kind {
				t.Errorf("event %+v, want type %s and kind %d", ev, tt.eventType, tt.kind)
			}
			if !reflect.DeepEqual(ev.Objects, tt.want) {
				t.Errorf("objects\n%+v\nwant\n%+v", ev.Objects, tt.want)
			}
			if !json.Valid(ev.Raw) || strings.Contains(string(ev.Raw), testToken) {
				t.Errorf("stored: %s", ev.Raw)
			}
		})
	}
}

func TestParseGoogleBadInput(t *testing.T) {
	wrap := func(data any) []byte {
		return []byte(marshal(map[string]any{"message": map[string]any{"messageId": "1", "data": data}}))
	}
	at := func(v any) []byte {
		return envelope("1", notification("subscriptionNotification", map[string]any{"notificationType": 2, "purchaseToken": testToken}, map[string]any{"eventTimeMillis": v}))
	}
	about := func(token any) []byte {
		return envelope("1", notification("subscriptionNotification", map[string]any{"notificationType": 2, "purchaseToken": token}))
	}
	deep := strings.Repeat(`{"a":`, maxDepth+1) + "1" + strings.Repeat("}", maxDepth+1)
	tests := map[string][]byte{
		"nothing":                     nil,
		"no JSON":                     []byte("garbage"),
		"an array":                    []byte(`[]`),
		"no message":                  []byte(`{}`),
		"a message that is a text":    []byte(`{"message":"x"}`),
		"no data":                     wrap(nil),
		"data that is a number":       wrap(7),
		"data that is no base64":      wrap("!!!"),
		"data that is empty":          wrap(""),
		"data that is no JSON":        wrap(base64.StdEncoding.EncodeToString([]byte("x"))),
		"data that is deeply nested":  wrap(base64.StdEncoding.EncodeToString([]byte(deep))),
		"deeply nested":               []byte(deep),
		"two values":                  append(envelope("1", `{}`), '{', '}'),
		"no time":                     at(nil),
		"a time that is a flag":       at(true),
		"a negative time":             at("-1"),
		"time zero":                   at("0"),
		"a time beyond what is":       at("9223372036854775807"),
		"a time of more than 64 bits": at("99999999999999999999"),
		"a time that is a fraction":   at(1.5),
		"no token":                    about(nil),
		"a token that is a number":    about(7),
		"an empty token":              about(""),
		"a token that is a path":      about("../.."),
		"a token with blanks":         about("a b"),
		"a giant token":               about(strings.Repeat("a", maxPlayTokenBytes+1)),
		"a token that is an address":  about("person@example.com"),
	}
	for name, body := range tests {
		t.Run(name, func(t *testing.T) {
			ev := parseGoogle(t, body)
			if ev.Kind != entitlement.Unreadable || !strings.HasPrefix(ev.ID, "sha256:") || len(ev.Objects) != 0 || !json.Valid(ev.Raw) {
				t.Errorf("event %+v", ev)
			}
		})
	}
	t.Run("the last of several members of one name counts", func(t *testing.T) {
		ev := parseGoogle(t, envelope("1", `{"packageName":"com.example.other","packageName":"`+playPackage+`","eventTimeMillis":"1","eventTimeMillis":"`+fmt.Sprint(testMillis)+
			`","subscriptionNotification":{"purchaseToken":"x","purchaseToken":"`+testToken+`"}}`))
		if want := []entitlement.Object{hint(testToken, testToken)}; !reflect.DeepEqual(ev.Objects, want) {
			t.Errorf("objects %+v, want %+v", ev.Objects, want)
		}
	})
	t.Run("without an id it is known by its content", func(t *testing.T) {
		body := strings.ReplaceAll(string(envelope("1", googleSample(t, "rtdn-test"))), "essageId", "x")
		if ev := parseGoogle(t, []byte(strings.ReplaceAll(body, "message_id", "y"))); ev.Kind != entitlement.Unhandled || !strings.HasPrefix(ev.ID, "sha256:") {
			t.Errorf("event %+v", ev)
		}
	})
	everyNotificationField(t, func(body []byte) {
		if ev := parseGoogle(t, body); ev.ID == "" || !json.Valid(ev.Raw) {
			t.Errorf("%s: event %+v", body, ev)
		}
	})
}

// everyNotificationField shows each sample with each of its fields in turn of each wrong type.
func everyNotificationField(t *testing.T, show func(body []byte)) {
	for _, name := range []string{"rtdn-subscription", "rtdn-product", "rtdn-voided", "rtdn-review", "rtdn-test"} {
		var tree any
		if err := json.Unmarshal([]byte(googleSample(t, name)), &tree); err != nil {
			t.Fatal(err)
		}
		everyField(tree, func(_ string, set func(any)) {
			for _, v := range []any{nil, true, -1, 1e300, "canary@example.com", []any{1}, map[string]any{"id": "canary@example.com"}, strings.Repeat("x", 10_000)} {
				set(v)
				show(envelope("1", marshal(tree)))
			}
		})
	}
}

func FuzzParseGoogle(f *testing.F) {
	for _, name := range []string{"rtdn-subscription", "rtdn-product", "rtdn-voided", "rtdn-review", "rtdn-test"} {
		f.Add(envelope("1", googleSample(f, name)), []byte(googleSample(f, name)))
	}
	for _, name := range []string{"active", "on-hold", "replacement", "product"} {
		f.Add([]byte(`{}`), []byte(googleSample(f, name)))
	}
	g := fixedGoogle(f)
	f.Fuzz(func(t *testing.T, body, inner []byte) {
		for _, b := range [][]byte{body, envelope("1", string(inner))} {
			ev, err := g.Parse(b, entitlement.Sandbox)
			if err != nil || ev.ID == "" || !json.Valid(ev.Raw) || ev.Kind != entitlement.Proof && len(ev.Objects) > 0 {
				t.Fatalf("event %s, %v", show(ev), err)
			}
			for _, o := range ev.Objects {
				if o.Hint == nil && o.Revocation == nil {
					t.Fatalf("a message proves more than that something changed: %s", show(o))
				}
			}
		}
		v, err := decodeObject(inner)
		if err != nil {
			return
		}
		for _, read := range []func(*playAnswer) error{
			func(a *playAnswer) error { o, _ := playSubscription(v).(object); return a.subscription(o) },
			func(a *playAnswer) error { o, _ := playProduct(v).(object); return a.product(o) },
		} {
			a := &playAnswer{token: testToken, asked: testToken, at: playNow * 1e9}
			if read(a) == nil {
				e := entitlement.Evidence{}.Add(a.finish()...)
				entitlement.Fold(e, entitlement.DefaultPolicy)
			}
		}
	})
}

// BenchmarkWebhookGoogle is the adapter's share of one message: verify, parse, encode for the log.
func BenchmarkWebhookGoogle(b *testing.B) {
	g := fixedGoogle(b)
	body := envelope("13000000000000001", googleSample(b, "rtdn-subscription"))
	r := pushed(bearer(b, jwt.SigningMethodRS256, "key-1", rsaKeys()[0], pushToken(nil)))
	b.ReportAllocs()
	for b.Loop() {
		if err := g.Verify(r, pushTime); err != nil {
			b.Fatal(err)
		}
		ev, err := g.Parse(body, entitlement.Sandbox)
		if err != nil || ev.Kind != entitlement.Proof {
			b.Fatal(ev, err)
		}
		entitlement.Encode(&ev)
	}
}
