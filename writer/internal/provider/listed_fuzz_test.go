package provider

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/latchkey/latchkey/pkg/entitlement"
	"github.com/latchkey/latchkey/writer/internal/provider/appletest"
)

// However a list is broken that a provider answers with, nothing panics, what is read of it is whole, and of the App Store nothing is believed that it has not
// signed.
func FuzzLists(f *testing.F) {
	type page struct {
		body string
		left atomic.Int32
	}
	var answer atomic.Pointer[page]
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch p := answer.Load(); {
		case r.URL.Path == "/token":
			_, _ = io.WriteString(w, `{"access_token": "access", "expires_in": 3599}`)
		case p.left.Add(-1) < 0: // a list without an end is cut by its bound, which would take long here
			_, _ = io.WriteString(w, `{"data":[]}`)
		default:
			_, _ = io.WriteString(w, p.body)
		}
	}))
	f.Cleanup(s.Close)
	google, apple, stripe := fuzzedStores(f, s.URL)
	google.voided.SetLimit(1000)
	forged := appletest.New(f).Sign(f, appleSample)
	for _, seed := range []string{
		`{"voidedPurchases":[{"purchaseToken":"token","orderId":"GPA.1..0","voidedTimeMillis":"1795400000000","voidedSource":"1","voidedReason":"7","voidedQuantity":1}],"tokenPagination":{"nextPageToken":"2"}}`,
		`{"notificationHistory":[{"signedPayload":"` + forged + `","sendAttempts":[]},{"signedPayload":7}],"hasMore":true,"paginationToken":"p"}`,
		`{"signedTransactions":["` + appletest.New(f).Sign(f, appleSampleTransaction) + `"],"hasMore":true,"revision":"r"}`, `{"signedTransactions":["e30.e30.e30",""],"hasMore":true,"revision":"r"}`,
		`{"object":"list","has_more":true,"data":[` + samples(f)["renewal"] + `,{"id":"evt_2"},7]}`, `{"data":[{"id":"sub_1","status":"active"},{"id":"cs_1","mode":"payment"},{"id":{}}],"has_more":true}`,
		`{}`, `[]`, ``, `null`, `{"data":{}}`,
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, body string) {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second) // longer than any answer of ours takes
		defer cancel()
		lists := func() { // the next question gets the page, and once more as the second one
			p := &page{body: body}
			p.left.Store(2)
			answer.Store(p)
		}
		fails := func(err error) {
			if failed := (*PullError)(nil); err != nil && !errors.As(err, &failed) && !errors.Is(err, ErrSignature) {
				t.Errorf("%v is neither a *PullError nor ErrSignature", err)
			}
		}
		lists()
		voided, err := google.VoidedPurchases(ctx, asked.Add(-time.Hour), asked)
		fails(err)
		for _, ev := range voided {
			checkWhole(t, ev)
		}
		for _, keeper := range []HistoryKeeper{apple, stripe} {
			lists()
			for message, err := range keeper.Messages(ctx, asked.Add(-time.Hour), asked) {
				switch fails(err); {
				case err != nil:
				case keeper == HistoryKeeper(apple):
					t.Errorf("the App Store is believed without a signature: %s", show(message.Event))
				default:
					checkSafe(t, message.Event)
				}
			}
		}
		for lister, name := range map[CustomerLister]entitlement.Alias{apple: {Kind: entitlement.AppleOriginalTransaction, Value: "1"}, stripe: {Kind: entitlement.StripeCustomer, Value: "cus_1"}} {
			lists()
			bought, err := lister.BoughtBy(ctx, name)
			fails(err)
			for _, d := range bought {
				if d.ID == "" || d.Kind == "" || lister == CustomerLister(apple) {
					t.Errorf("%s is said to have sold %+v", lister.Provider(), d)
				}
			}
		}
	})
}

// Whatever an app shows as a signed transaction, it counts only as the App Store signed it (R22).
func FuzzParseTransaction(f *testing.F) {
	authority := appletest.New(f)
	a := newApple(f, authority.Root)
	signed := authority.Sign(f, appleSampleTransaction)
	want, err := a.ParseTransaction(signed)
	if err != nil {
		f.Fatal(err)
	}
	for _, seed := range []string{signed, appletest.New(f).Sign(f, appleSampleTransaction), authority.Sign(f, appleSample), signed[:len(signed)-1], "e30.e30.e30", "..", ""} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, jws string) {
		ev, err := a.ParseTransaction(jws)
		switch {
		case err == nil && ev.Digest() != want.Digest():
			t.Errorf("taken for the App Store's: %s", show(ev))
		case err != nil && !errors.Is(err, ErrSignature) && !errors.Is(err, ErrUntrusted):
			t.Errorf("refused by %v", err)
		}
	})
}

// Whatever a key set is, a token that none of its keys signed is not Google's.
func FuzzKeySets(f *testing.F) {
	set := keySet(jwk("key-1", &rsaKeys()[0].PublicKey))
	for _, seed := range [][]byte{set, []byte(`{"keys":[]}`), []byte(`{"keys":[{"kty":"RSA","n":"AQ","e":"AQAB"}]}`), []byte(`{"keys":[{"kty":"oct","k":"AAAA"},7]}`), []byte(`{`), nil} {
		f.Add(seed)
	}
	stranger := rsaKeys()[1]
	token, modulus := bearer(f, jwt.SigningMethodRS256, "key-1", stranger, pushToken(nil)), base64.RawURLEncoding.EncodeToString(stranger.N.Bytes())
	f.Fuzz(func(t *testing.T, set []byte) {
		keys, err := FixedKeys(set)
		if err != nil {
			if !errors.Is(err, ErrGoogleKeys) {
				t.Errorf("FixedKeys = %v", err)
			}
			return
		}
		if !bytes.Contains(set, []byte(modulus)) && newGoogle(t, keys).Verify(pushed(token), pushTime) == nil {
			t.Error("a stranger's token is taken for Google's")
		}
	})
}

// What nobody has signed gets no more of an answer than it brought: the handshake is asked before the sender is known.
func FuzzHandshake(f *testing.F) {
	for _, seed := range []string{`{}`, `{"adapty_check":"k3J9"}`, `{"adapty_check":7}`, `{"adapty_check":"a","adapty_check":"b"}`, `{"adapty_check":"<&>"}`, `[]`, `{`, ``} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		answer, ok := adaptyHandshake(Request{Body: body})
		if !ok {
			if answer != nil {
				t.Errorf("no handshake is answered with %s", answer)
			}
			return
		}
		var brought, said map[string]any
		if json.Unmarshal(body, &brought) != nil || json.Unmarshal(answer, &said) != nil || len(brought) > 1 || len(said) != len(brought) {
			t.Fatalf("%s is answered with %s", body, answer)
		}
		if len(said) == 1 && said["adapty_check_response"] != brought["adapty_check"] {
			t.Errorf("%s is answered with %s", body, answer)
		}
	})
}
