package provider

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"github.com/latchkey/latchkey/pkg/entitlement"
	"github.com/latchkey/latchkey/writer/internal/provider/appletest"
)

// However the answer of an API is broken, nothing panics, nothing that is not allowed is kept, and of the App Store nothing is believed that it has not signed.
func FuzzPulledAnswers(f *testing.F) {
	var answer atomic.Pointer[string]
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/token" {
			_, _ = io.WriteString(w, `{"access_token": "access", "expires_in": 3599}`)
			return
		}
		_, _ = io.WriteString(w, *answer.Load())
	}))
	f.Cleanup(s.Close)
	now := func() time.Time { return asked }
	google, apple, stripe := fuzzedStores(f, s.URL)
	adapty, err := NewAdaptyAPI(AdaptyAPIConfig{Key: "secret_1", BaseURL: s.URL, Environment: entitlement.Sandbox, Now: now})
	if err != nil {
		f.Fatal(err)
	}
	iaptic, err := NewIapticAPI(IapticAPIConfig{App: "app", Key: "secret", BaseURL: s.URL, Environment: entitlement.Sandbox, Now: now})
	if err != nil {
		f.Fatal(err)
	}
	web2wave, err := NewWeb2WaveAPI(Web2WaveAPIConfig{Key: "key", BaseURL: s.URL, Environment: entitlement.Sandbox, Now: now})
	if err != nil {
		f.Fatal(err)
	}
	second, err := NewRevenueCatAPI(RevenueCatAPIConfig{Key: "sk_1", Project: "proj", BaseURL: s.URL, Environment: entitlement.Sandbox, Now: now})
	if err != nil {
		f.Fatal(err)
	}
	first, err := NewRevenueCatAPI(RevenueCatAPIConfig{KeyV1: "sk_1", BaseURL: s.URL, Environment: entitlement.Sandbox, Now: now})
	if err != nil {
		f.Fatal(err)
	}
	questions := []struct {
		api  Puller
		kind entitlement.ObjectKind
		id   string
	}{
		{google, entitlement.KindRenewal, "token"}, {google, entitlement.KindTransaction, "token"}, {adapty, entitlement.KindCustomer, "profile"}, {iaptic, entitlement.KindCustomer, "user"},
		{web2wave, entitlement.KindCustomer, "user"}, {second, entitlement.KindCustomer, "user"}, {first, entitlement.KindCustomer, "user"},
		{apple, entitlement.KindRenewal, "1"}, {apple, entitlement.KindTransaction, "1"}, {apple, entitlement.KindRevocation, "1"},
		{stripe, entitlement.KindSubscription, "sub_1"}, {stripe, entitlement.KindPayment, "pi_0"}, {stripe, entitlement.KindPayment, "ch_0"}, {stripe, entitlement.KindDispute, "dp_1"},
	}
	for _, seed := range []string{
		marshal(playState("ACTIVE", []any{lineItem("pro", "GPA.1", ends)}, map[string]any{"testPurchase": map[string]any{}})), googleSample(f, "product"),
		`{"data":{"profile_id":"profile","customer_user_id":"user","access_levels":[{"access_level_id":"pro","store":"app_store","store_transaction_id":"1","environment":"sandbox","expires_at":"2026-12-01T00:00:00Z"}]}}`,
		`{"applicationUsername":"user","purchases":{"a":{"purchaseId":"apple:1","transactionId":"apple:1","productId":"apple:pro","platform":"apple","sandbox":true,"purchaseDate":"2026-11-01T00:00:00.000Z"}}}`,
		`{"subscription":[{"id":1,"user_id":"user","status":"active","real_payment":0,"updated_at":"2026-11-01 00:00:00","charges_count":1}],"data":[],"properties":[]}`,
		`{"subscriber":{"original_app_user_id":"user","subscriptions":{"pro":{"expires_date":"2026-12-01T00:00:00Z","is_sandbox":true,"store":"app_store"}},"entitlements":{},"non_subscriptions":{}}}`,
		`{"items":[{"id":"sub1","customer_id":"user","store":"app_store","environment":"sandbox","status":"active","gives_access":true,"starts_at":1,"current_period_ends_at":2}],"next_page":null}`,
		`{"data":[{"lastTransactions":[{"originalTransactionId":"1","status":1,"signedTransactionInfo":"a.b.c","signedRenewalInfo":"a.b.c"}]}],"signedTransactions":["a.b.c"],"signedTransactionInfo":"e30.e30.e30","hasMore":true,"revision":"r"}`,
		stripeListOf(testmode(invoicePayment(0))), marshal(testmode(dispute("lost"))), marshal(testmode(basil.subscription("active", 0))), marshal(testmode(classic.charge(0, 1))),
		`{}`, `[]`, ``, `null`,
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, body string) {
		answer.Store(&body)
		for _, q := range questions {
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second) // longer than any answer of ours takes
			ev, err := q.api.Pull(ctx, q.kind, q.id)
			cancel()
			failed := (*PullError)(nil)
			switch {
			case err != nil && !errors.As(err, &failed):
				t.Errorf("%s: %v is no *PullError", q.api.Provider(), err)
			case err == nil && q.api == Puller(apple) && len(ev.Objects) > 0:
				t.Errorf("the App Store is believed without a signature: %+v", ev.Objects)
			case err == nil && q.api == Puller(stripe):
				checkSafe(t, ev)
			case err == nil:
				checkWhole(t, ev)
			}
		}
	})
}

// checkWhole fails where an answer is not what a store can take.
func checkWhole(t testing.TB, ev entitlement.Event) {
	t.Helper()
	if ev.ID == "" || !ev.Environment.Valid() || !json.Valid(ev.Raw) || ev.Kind != entitlement.Proof && len(ev.Objects) > 0 {
		t.Fatalf("not a whole event: %s", show(ev))
	}
	for _, o := range ev.Objects {
		if o.ID == "" || o.Kind == "" || o.By == "" || o.At <= 0 || len(o.Links) == 0 {
			t.Fatalf("not a whole object: %s", show(o))
		}
	}
	entitlement.Fold(entitlement.Evidence{}.Add(ev.Objects...), entitlement.DefaultPolicy)
}

// fuzzedStores are the APIs of the stores themselves, all at one address.
func fuzzedStores(f *testing.F, url string) (*GoogleAPI, *AppleAPI, *StripeAPI) {
	f.Helper()
	now := func() time.Time { return asked }
	google, err := NewGoogleAPI(GoogleAPIConfig{Package: playPackage, ServiceAccount: serviceAccount(), BaseURL: url, TokenURL: url + "/token", Environment: entitlement.Sandbox, Now: now})
	if err != nil {
		f.Fatal(err)
	}
	apple, err := NewAppleAPI(AppleAPIConfig{Key: pemOf(f, appletest.NewKey(f)), KeyID: "K", IssuerID: "I", Apple: newApple(f, appletest.New(f).Root), Environment: entitlement.Sandbox, BaseURL: url, Now: now})
	if err != nil {
		f.Fatal(err)
	}
	stripe, err := NewStripeAPI(StripeAPIConfig{Key: testKey, BaseURL: url, Environment: entitlement.Sandbox, Now: now})
	if err != nil {
		f.Fatal(err)
	}
	return google, apple, stripe
}
