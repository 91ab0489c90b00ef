package provider

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/latchkey/latchkey/pkg/entitlement"
	"github.com/latchkey/latchkey/writer/internal/provider/appletest"
)

// These tests show what is taken for the App Store's word, and what is not.

const (
	appleBundle = "com.example.latchkey"
	appleApp    = 6400000001
	// appleSigned is when the sheet's renewal was signed, Unix milliseconds.
	appleSigned = 1_795_305_612_345
)

func newApple(t testing.TB, roots ...[]byte) *Apple {
	t.Helper()
	a, err := NewApple(AppleConfig{BundleID: appleBundle, AppID: appleApp, Roots: roots})
	if err != nil {
		t.Fatal(err)
	}
	return a
}

type jsonObject = appletest.Object

// with returns a copy of o with other members; nil takes one away.
func edited(o jsonObject, change jsonObject) jsonObject {
	out := jsonObject{}
	for name, value := range o {
		out[name] = value
	}
	for name, value := range change {
		if out[name] = value; value == nil {
			delete(out, name)
		}
	}
	return out
}

// The sample payloads: a renewal of 2026-11-22 with a term of a month.
var (
	appleSampleTransaction = jsonObject{
		"transactionId": "700001900000102", "originalTransactionId": "700001900000101", "webOrderLineItemId": "700000500000202", "bundleId": appleBundle,
		"productId": "pro.monthly", "subscriptionGroupIdentifier": "21500001", "purchaseDate": 1795305600000, "originalPurchaseDate": 1792713600000,
		"expiresDate": 1797897600000, "quantity": 1, "type": "Auto-Renewable Subscription", "appAccountToken": "7E3FB20B-4cdb-47cc-936d-99d65f608138",
		"inAppOwnershipType": "PURCHASED", "signedDate": 1795305612300, "environment": "Production", "transactionReason": "RENEWAL", "storefront": "NLD",
		"storefrontId": "143452", "price": 9990, "currency": "EUR", "appTransactionId": "704000000000000001",
	}
	appleSampleRenewal = jsonObject{
		"originalTransactionId": "700001900000101", "productId": "pro.monthly", "autoRenewProductId": "pro.monthly", "autoRenewStatus": 1,
		"isInBillingRetryPeriod": false, "renewalDate": 1797897600000, "renewalPrice": 9990, "currency": "EUR", "recentSubscriptionStartDate": 1792713600000,
		"signedDate": 1795305612300, "environment": "Production", "appAccountToken": "7e3fb20b-4cdb-47cc-936d-99d65f608138", "appTransactionId": "704000000000000001",
	}
	appleSampleData = jsonObject{
		"appAppleId": appleApp, "bundleId": appleBundle, "bundleVersion": "42", "environment": "Production", "status": 1,
		"signedTransactionInfo": appleSampleTransaction, "signedRenewalInfo": appleSampleRenewal,
	}
	appleSample = jsonObject{
		"notificationType": "DID_RENEW", "notificationUUID": "3f0c7a52-1f57-4d0e-9a0e-6c1f4c0f1a01", "version": "2.0", "signedDate": appleSigned, "data": appleSampleData,
	}
	appleTest = jsonObject{
		"notificationType": "TEST", "notificationUUID": "3f0c7a52-1f57-4d0e-9a0e-6c1f4c0f1a03", "version": "2.0", "signedDate": appleSigned,
		"data": jsonObject{"bundleId": appleBundle, "environment": "Sandbox"},
	}
)

func sampleWith(data jsonObject) jsonObject {
	return edited(appleSample, jsonObject{"data": edited(appleSampleData, data)})
}

// forgedBody makes a body of a JWS.
func forgedBody(jws string) []byte { return []byte(`{"signedPayload":"` + jws + `"}`) }

// TestAppleVerify defends R6, R13.
func TestAppleVerify(t *testing.T) {
	authority := appletest.New(t)
	sandbox := jsonObject{"environment": "Sandbox", "appAppleId": nil}
	inSandbox := func(o jsonObject) jsonObject { return edited(o, jsonObject{"environment": "Sandbox"}) }
	header := func(change jsonObject) func(jsonObject) {
		return func(h jsonObject) {
			for name, value := range change {
				h[name] = value
			}
		}
	}
	x5c := func(ders ...[]byte) func(jsonObject) {
		var list []string
		for _, der := range ders {
			list = append(list, base64.StdEncoding.EncodeToString(der))
		}
		return header(jsonObject{"x5c": list})
	}
	marked := func(i int, with bool) func([3]*x509.Certificate) {
		return func(c [3]*x509.Certificate) {
			if !with {
				c[i].ExtraExtensions = nil
			}
		}
	}
	valid := func(i int, from, to time.Time) func([3]*x509.Certificate) {
		return func(c [3]*x509.Certificate) { c[i].NotBefore, c[i].NotAfter = from, to }
	}
	signedAt := time.UnixMilli(appleSigned)
	// under returns an authority with a mistake, and an adapter that pins its root.
	under := func(edit func([3]*x509.Certificate)) func() (*Apple, []byte) {
		return func() (*Apple, []byte) {
			other := appletest.New(t, edit)
			return newApple(t, other.Root), other.Notification(t, appleSample)
		}
	}
	body := func(payload jsonObject) func() (*Apple, []byte) {
		return func() (*Apple, []byte) { return newApple(t, authority.Root), authority.Notification(t, payload) }
	}
	jws := func(make func() string) func() (*Apple, []byte) {
		return func() (*Apple, []byte) { return newApple(t, authority.Root), forgedBody(make()) }
	}
	stranger := appletest.New(t)
	tests := []struct {
		name string
		make func() (*Apple, []byte)
		want error
	}{
		{"a notification of the App Store", body(appleSample), nil},
		{"one without anything signed in it", body(appleTest), nil},
		{"one of sandbox, which names no app id", body(sampleWith(edited(sandbox, jsonObject{"signedTransactionInfo": inSandbox(appleSampleTransaction), "signedRenewalInfo": inSandbox(appleSampleRenewal)}))), nil},
		{"one of a type and a content that we do not know", body(jsonObject{"notificationType": "NEW", "notificationUUID": "u", "signedDate": appleSigned, "future": jsonObject{}}), nil},
		{"one of 7 days ago", body(edited(appleSample, jsonObject{"signedDate": appleSigned - 7*24*3600*1000})), nil},
		{"one of more than 7 days ago", body(edited(appleSample, jsonObject{"signedDate": appleSigned - 7*24*3600*1000 - 1000})), ErrStale},
		{"one of 5 minutes from now", body(edited(appleSample, jsonObject{"signedDate": appleSigned + 300_000})), nil},
		{"one of more than 5 minutes from now", body(edited(appleSample, jsonObject{"signedDate": appleSigned + 301_000})), ErrStale},
		{"one without a time", body(edited(appleSample, jsonObject{"signedDate": nil})), ErrSignature},
		{"one of a time that is none", body(edited(appleSample, jsonObject{"signedDate": -1})), ErrSignature},
		{"one of a time beyond nanoseconds", body(edited(appleSample, jsonObject{"signedDate": 1 << 62})), ErrSignature},
		{"another app's", body(sampleWith(jsonObject{"bundleId": "com.example.other"})), ErrSignature},
		{"an app's that has no name", body(sampleWith(jsonObject{"bundleId": nil})), ErrSignature},
		{"another app's by id", body(sampleWith(jsonObject{"appAppleId": appleApp + 1})), ErrSignature},
		{"an app's without id in production", body(sampleWith(jsonObject{"appAppleId": nil})), ErrSignature},
		{"one of Xcode", body(sampleWith(jsonObject{"environment": "Xcode"})), ErrSignature},
		{"one of local tests", body(sampleWith(jsonObject{"environment": "LocalTesting"})), ErrSignature},
		{"one of no environment", body(sampleWith(jsonObject{"environment": nil})), ErrSignature},
		{"a transaction of local tests in it", body(sampleWith(jsonObject{"signedTransactionInfo": edited(appleSampleTransaction, jsonObject{"environment": "LocalTesting"})})), ErrSignature},
		{"a transaction of another app in it", body(sampleWith(jsonObject{"signedTransactionInfo": edited(appleSampleTransaction, jsonObject{"bundleId": "com.example.other"})})), ErrSignature},
		{"a transaction of Xcode in it", body(sampleWith(jsonObject{"signedTransactionInfo": edited(appleSampleTransaction, jsonObject{"environment": "Xcode"})})), ErrSignature},
		{"a transaction of sandbox in one of production", body(sampleWith(jsonObject{"signedTransactionInfo": inSandbox(appleSampleTransaction)})), ErrSignature},
		{"a forged transaction in it", body(sampleWith(jsonObject{"signedTransactionInfo": stranger.Sign(t, appleSampleTransaction)})), ErrSignature},
		{"a forged renewal in it", body(sampleWith(jsonObject{"signedRenewalInfo": stranger.Sign(t, appleSampleRenewal)})), ErrSignature},
		{"a forged app transaction in it", body(edited(appleSample, jsonObject{"data": nil, "appData": jsonObject{"bundleId": appleBundle, "environment": "Production", "appAppleId": appleApp,
			"signedAppTransactionInfo": stranger.Sign(t, jsonObject{"receiptCreationDate": appleSigned, "bundleId": appleBundle})}})), ErrSignature},
		{"a transaction in it that is no JWS", body(sampleWith(jsonObject{"signedTransactionInfo": "x"})), ErrSignature},
		{"a stranger's own root", jws(func() string { return stranger.Sign(t, appleSample) }), ErrSignature},
		{"a stranger's leaf over ours", jws(func() string { return stranger.Sign(t, appleSample, x5c(authority.Chain...)) }), ErrSignature},
		{"a stranger's leaf under our intermediate", jws(func() string {
			return stranger.Sign(t, appleSample, x5c(stranger.Chain[0], authority.Chain[1], authority.Chain[2]))
		}), ErrSignature},
		{"leaf and intermediate swapped", jws(func() string {
			return authority.Sign(t, appleSample, x5c(authority.Chain[1], authority.Chain[0], authority.Chain[2]))
		}), ErrSignature},
		{"another root in the chain counts as little as ours", jws(func() string {
			return authority.Sign(t, edited(appleTest, nil), x5c(authority.Chain[0], authority.Chain[1], stranger.Chain[2]))
		}), nil},
		{"no chain", jws(func() string { return authority.Sign(t, appleSample, header(jsonObject{"x5c": nil})) }), ErrSignature},
		{"an empty chain", jws(func() string { return authority.Sign(t, appleSample, x5c()) }), ErrSignature},
		{"a leaf alone", jws(func() string { return authority.Sign(t, appleSample, x5c(authority.Chain[0])) }), ErrSignature},
		{"a chain of two", jws(func() string { return authority.Sign(t, appleSample, x5c(authority.Chain[:2]...)) }), ErrSignature},
		{"a chain of four", jws(func() string { return authority.Sign(t, appleSample, x5c(append(authority.Chain, authority.Root)...)) }), ErrSignature},
		{"a chain of numbers", jws(func() string { return authority.Sign(t, appleSample, header(jsonObject{"x5c": []int{1, 2, 3}})) }), ErrSignature},
		{"a chain that is a text", jws(func() string { return authority.Sign(t, appleSample, header(jsonObject{"x5c": "abc"})) }), ErrSignature},
		{"certificates that are none", jws(func() string { return authority.Sign(t, appleSample, x5c([]byte("a"), []byte("b"), []byte("c"))) }), ErrSignature},
		{"a leaf without the mark", under(marked(0, false)), ErrSignature},
		{"an intermediate without the mark", under(marked(1, false)), ErrSignature},
		{"the same with both", under(marked(0, true)), nil},
		{"a leaf that had ended", under(valid(0, appletest.ValidFrom, signedAt.Add(-time.Hour))), ErrSignature},
		{"a leaf that ended after the signing", under(valid(0, appletest.ValidFrom, signedAt.Add(time.Second))), nil},
		{"a leaf that began later", under(valid(0, signedAt.Add(time.Hour), appletest.ValidTo)), ErrSignature},
		{"an intermediate that had ended", under(valid(1, appletest.ValidFrom, signedAt.Add(-time.Hour))), ErrSignature},
		{"an intermediate that may not sign certificates", under(func(c [3]*x509.Certificate) { c[1].IsCA, c[1].KeyUsage = false, x509.KeyUsageDigitalSignature }), ErrSignature},
		{"no algorithm", jws(func() string { return authority.Sign(t, appleSample, header(jsonObject{"alg": nil})) }), ErrSignature},
		{"alg none without a signature", jws(func() string {
			signed := authority.Sign(t, appleSample, header(jsonObject{"alg": "none"}))
			return signed[:strings.LastIndex(signed, ".")+1]
		}), ErrSignature},
		{"HS256 with the public key", jws(func() string {
			signed := authority.Sign(t, appleSample, header(jsonObject{"alg": "HS256"}))
			input := signed[:strings.LastIndex(signed, ".")]
			public, err := x509.MarshalPKIXPublicKey(authority.Key.Public())
			if err != nil {
				t.Fatal(err)
			}
			mac := hmac.New(sha256.New, public)
			mac.Write([]byte(input))
			return input + "." + base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
		}), ErrSignature},
		{"a header that asks for more", jws(func() string { return authority.Sign(t, appleSample, header(jsonObject{"crit": []string{"exp"}})) }), ErrSignature},
		{"no signature", jws(func() string { s := authority.Sign(t, appleTest); return s[:strings.LastIndex(s, ".")+1] }), ErrSignature},
		{"a signature that is cut", jws(func() string { s := authority.Sign(t, appleTest); return s[:len(s)-4] }), ErrSignature},
		{"a signature in DER", jws(func() string {
			s := authority.Sign(t, appleTest)
			return s[:strings.LastIndex(s, ".")+1] + base64.RawURLEncoding.EncodeToString(append([]byte{0x30, 0x44, 2, 0x20}, make([]byte, 66)...))
		}), ErrSignature},
		{"two parts", jws(func() string { s := authority.Sign(t, appleTest); return s[:strings.LastIndex(s, ".")] }), ErrSignature},
		{"four parts", jws(func() string { return authority.Sign(t, appleTest) + ".x" }), ErrSignature},
		{"padding", jws(func() string { return authority.Sign(t, appleTest) + "==" }), ErrSignature},
		{"a changed payload", jws(func() string {
			s := strings.Split(authority.Sign(t, appleTest), ".")
			s[1] = base64.RawURLEncoding.EncodeToString([]byte(`{"notificationType":"TEST","signedDate":1795305612345}`))
			return strings.Join(s, ".")
		}), ErrSignature},
		{"a payload that is no object, and signed", jws(func() string { return authority.Sign(t, `[1]`) }), nil},
		{"a payload that is no object, and forged", jws(func() string { return stranger.Sign(t, `[1]`) }), ErrSignature},
		{"a giant", jws(func() string { return strings.Repeat("a", maxAppleJWSBytes) }), ErrSignature},
		{"deeply nested", func() (*Apple, []byte) {
			return newApple(t, authority.Root), []byte(`{"signedPayload":` + strings.Repeat("[", 100_000) + strings.Repeat("]", 100_000) + `}`)
		}, ErrSignature},
		{"a number for a payload", func() (*Apple, []byte) { return newApple(t, authority.Root), []byte(`{"signedPayload":1}`) }, ErrSignature},
		{"no JSON", func() (*Apple, []byte) { return newApple(t, authority.Root), []byte(`signedPayload=x`) }, ErrSignature},
		{"nothing", func() (*Apple, []byte) { return newApple(t, authority.Root), nil }, ErrSignature},
		{"ours under Apple's own root", func() (*Apple, []byte) { return newApple(t), authority.Notification(t, appleSample) }, ErrSignature},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			a, body := tt.make()
			for range 2 { // the second finds the chain remembered
				if err := a.Verify(Request{Body: body}, signedAt); !errors.Is(err, tt.want) || tt.want == nil && err != nil {
					t.Fatalf("Verify = %v, want %v", err, tt.want)
				}
			}
		})
	}
}

// The chain that Apple signs with in 2026 leads to the root that is part of the program, while its leaf is valid.
func TestAppleOwnChain(t *testing.T) {
	file, err := os.ReadFile(filepath.Join("testdata", "apple", "chain-2025.pem"))
	if err != nil {
		t.Fatal(err)
	}
	var x5c []string
	for block, rest := pem.Decode(file); block != nil; block, rest = pem.Decode(rest) {
		x5c = append(x5c, base64.StdEncoding.EncodeToString(block.Bytes))
	}
	day := func(y int, m time.Month) time.Time { return time.Date(y, m, 1, 0, 0, 0, 0, time.UTC) }
	tests := []struct {
		name string
		at   time.Time
		ok   bool
	}{
		{"before its leaf was made", day(2024, time.June), false},
		{"now", day(2026, time.November), true},
		{"after its leaf has ended", day(2028, time.January), false},
		{"again, from memory", day(2025, time.December), true},
		{"and before, from memory", day(2025, time.January), false},
	}
	chains := newApple(t).chains
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := chains.key(x5c, tt.at); (err == nil) != tt.ok {
				t.Errorf("key = %v, want accepted %t", err, tt.ok)
			}
			if len(chains.known) > 1 {
				t.Errorf("%d chains are remembered, want one", len(chains.known))
			}
		})
	}
}

func TestAppleRemembersSoManyChains(t *testing.T) {
	root := appletest.New(t)
	chains := newApple(t, root.Root).chains
	for i := range 3 * maxAppleChains {
		chains.remember([32]byte{byte(i)}, appleChain{})
	}
	if len(chains.known) != maxAppleChains {
		t.Errorf("%d chains are remembered, want %d", len(chains.known), maxAppleChains)
	}
	stranger := appletest.New(t)
	before := len(chains.known)
	if err := chains.verifyJWS(stranger.Sign(t, appleTest), time.UnixMilli(appleSigned)); err == nil || len(chains.known) != before {
		t.Errorf("a stranger's chain: %v, %d remembered", err, len(chains.known))
	}
}

func TestNewAppleRefuses(t *testing.T) {
	root := appletest.New(t).Root
	tests := []struct {
		name string
		cfg  AppleConfig
		want error
	}{
		{"no bundle", AppleConfig{}, ErrAppleBundle},
		{"a bundle that is none", AppleConfig{BundleID: "my app"}, ErrAppleBundle},
		{"a negative app", AppleConfig{BundleID: appleBundle, AppID: -1}, ErrAppleApp},
		{"a root that is none", AppleConfig{BundleID: appleBundle, Roots: [][]byte{root, []byte("x")}}, ErrAppleRoot},
		{"an empty root", AppleConfig{BundleID: appleBundle, Roots: [][]byte{nil}}, ErrAppleRoot},
		{"a key for a root", AppleConfig{BundleID: appleBundle, Roots: [][]byte{pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: root})}}, ErrAppleRoot},
		{"a root in PEM", AppleConfig{BundleID: appleBundle, Roots: [][]byte{pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: root})}}, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := NewApple(tt.cfg); !errors.Is(err, tt.want) || tt.want == nil && err != nil {
				t.Errorf("NewApple = %v, want %v", err, tt.want)
			}
		})
	}
}

// What StoreKit signed for the app is proof by itself, whenever it was signed, and gives the same event each time.
func TestAppleParseTransaction(t *testing.T) {
	authority, stranger := appletest.New(t), appletest.New(t)
	a := newApple(t, authority.Root)
	tests := []struct {
		name string
		jws  string
		want error
		env  entitlement.Environment
	}{
		{"ours", authority.Sign(t, appleSampleTransaction), nil, entitlement.Production},
		{"ours of years ago", authority.Sign(t, edited(appleSampleTransaction, jsonObject{"signedDate": 1_600_000_000_000})), nil, entitlement.Production},
		{"ours in sandbox", authority.Sign(t, edited(appleSampleTransaction, jsonObject{"environment": "Sandbox"})), nil, entitlement.Sandbox},
		{"a stranger's", stranger.Sign(t, appleSampleTransaction), ErrSignature, ""},
		{"another app's", authority.Sign(t, edited(appleSampleTransaction, jsonObject{"bundleId": "com.example.other"})), ErrSignature, ""},
		{"Xcode's", authority.Sign(t, edited(appleSampleTransaction, jsonObject{"environment": "Xcode"})), ErrSignature, ""},
		{"that of local tests", authority.Sign(t, edited(appleSampleTransaction, jsonObject{"environment": "LocalTesting"})), ErrSignature, ""},
		{"of no environment", authority.Sign(t, edited(appleSampleTransaction, jsonObject{"environment": nil})), ErrSignature, ""},
		{"without a time", authority.Sign(t, edited(appleSampleTransaction, jsonObject{"signedDate": nil})), ErrSignature, ""},
		{"without an id", authority.Sign(t, edited(appleSampleTransaction, jsonObject{"transactionId": nil})), ErrSignature, ""},
		{"a notification", authority.Sign(t, appleSample), ErrSignature, ""},
		{"no JWS", "x", ErrSignature, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			ev, err := a.ParseTransaction(tt.jws)
			if !errors.Is(err, tt.want) || tt.want == nil && err != nil {
				t.Fatalf("ParseTransaction = %v, want %v", err, tt.want)
			}
			if err != nil {
				return
			}
			if ev.Environment != tt.env || ev.Kind != entitlement.Proof || len(ev.Objects) != 2 || !strings.HasPrefix(ev.ID, "transaction:700001900000102:") {
				t.Errorf("event %s", show(ev))
			}
			again, err := a.ParseTransaction(tt.jws)
			if err != nil || again.Digest() != ev.Digest() || again.ID != ev.ID {
				t.Errorf("another event the second time: %s, %v", show(again), err)
			}
		})
	}
}

func appleEvent(t testing.TB, body []byte) entitlement.Event {
	t.Helper()
	ev, err := (&Apple{}).Parse(body, entitlement.Sandbox)
	if err != nil {
		t.Fatalf("Parse: %v", err)
	}
	return ev
}

// unsigned makes the body of a notification for what does not look at signatures.
func unsigned(t testing.TB, payload jsonObject) []byte {
	t.Helper()
	jws := func(o any) string {
		b, err := json.Marshal(o)
		if err != nil {
			t.Fatal(err)
		}
		return "e30." + base64.RawURLEncoding.EncodeToString(b) + ".e30"
	}
	payload = edited(payload, nil)
	for _, name := range []string{"data", "appData"} {
		content, ok := payload[name].(jsonObject)
		if !ok {
			continue
		}
		content = edited(content, nil)
		for _, field := range []string{appleTransactionField, appleRenewalField, appleAppTransactionField} {
			if o, ok := content[field].(jsonObject); ok {
				content[field] = jws(o)
			}
		}
		payload[name] = content
	}
	return []byte(fmt.Sprintf(`{"signedPayload":"%s"}`, jws(payload)))
}

func BenchmarkAppleWebhook(b *testing.B) {
	authority := appletest.New(b)
	a := newApple(b, authority.Root)
	body := authority.Notification(b, appleSample)
	now := time.UnixMilli(appleSigned)
	b.ReportAllocs()
	for b.Loop() {
		if err := a.Verify(Request{Body: body}, now); err != nil {
			b.Fatal(err)
		}
		ev, err := a.Parse(body, entitlement.Production)
		if err != nil || len(ev.Objects) != 3 {
			b.Fatal(ev, err)
		}
		entitlement.Encode(&ev)
	}
}

func FuzzParseApple(f *testing.F) {
	grace := edited(sampleWith(jsonObject{"status": 4, "signedRenewalInfo": edited(appleSampleRenewal, jsonObject{"isInBillingRetryPeriod": true, "expirationIntent": 2,
		"gracePeriodExpiresDate": 1799280000000})}), jsonObject{"notificationType": "DID_FAIL_TO_RENEW", "subtype": "GRACE_PERIOD"})
	refund := edited(sampleWith(jsonObject{"status": 5, "signedTransactionInfo": edited(appleSampleTransaction, jsonObject{"revocationDate": appleSigned, "revocationReason": 1, "revocationType": "REFUND_FULL",
		"revocationPercentage": 100_000})}), jsonObject{"notificationType": "REFUND"})
	for _, payload := range []jsonObject{appleSample, appleTest, grace, refund} {
		f.Add(unsigned(f, payload))
	}
	authority := appletest.New(f)
	f.Add(authority.Notification(f, appleSample))
	other := newApple(f, authority.Root)
	f.Fuzz(func(t *testing.T, body []byte) {
		// Nothing that the fuzzer makes of it is signed, but for the seed as it stands.
		if err := other.Verify(Request{Body: body}, time.UnixMilli(appleSigned)); err == nil {
			ev, _ := other.Parse(body, entitlement.Production)
			if want := appleEvent(t, unsigned(t, appleSample)); ev.Digest() != want.Digest() {
				t.Errorf("taken for the App Store's: %s", show(ev))
			}
		}
		ev := appleEvent(t, body)
		if ev.ID == "" || !ev.Environment.Valid() || (ev.Kind == entitlement.Proof) != (len(ev.Objects) > 0) {
			t.Errorf("event %s", show(ev))
		}
		entitlement.Fold(entitlement.Evidence{}.Add(ev.Objects...), entitlement.Policy{})
	})
}
