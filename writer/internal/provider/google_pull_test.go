package provider

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/latchkey/latchkey/pkg/entitlement"
)

// These tests show what Google is asked, what its answers come to, and what is told to it.

const googleAccount = "latchkey@demo.iam.gserviceaccount.com"

// playServer is a Google that answers by path.
type playServer struct {
	*httptest.Server
	mu      sync.Mutex
	answers map[string]playReply // by method, blank and the path behind the package, without the query
	asked   []string
	tokens  int // access tokens given
	token   playReply
}

type playReply struct {
	status     int
	body       string
	retryAfter string
}

func servePlay(t testing.TB) *playServer {
	s := &playServer{answers: map[string]playReply{}}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		defer s.mu.Unlock()
		if r.URL.Path == "/token" {
			s.giveToken(t, w, r)
			return
		}
		path, ours := strings.CutPrefix(r.URL.EscapedPath(), "/androidpublisher/v3/applications/"+playPackage)
		if !ours || r.Header.Get("Authorization") != fmt.Sprintf("Bearer access-%d", s.tokens) {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		s.asked = append(s.asked, r.Method+" "+path)
		if r.URL.RawQuery != "" {
			s.asked[len(s.asked)-1] += "?" + r.URL.RawQuery
		}
		reply, ok := s.answers[r.Method+" "+path]
		if !ok {
			reply = playReply{status: http.StatusNotFound, body: `{"error":{"code":404,"message":"canary@example.com","errors":[{"reason":"purchaseTokenNotFound"}]}}`}
		}
		reply.write(w)
	}))
	t.Cleanup(s.Close)
	return s
}

func (r playReply) write(w http.ResponseWriter) {
	w.Header().Set("Content-Type", "application/json")
	if r.retryAfter != "" {
		w.Header().Set("Retry-After", r.retryAfter)
	}
	if r.status != 0 {
		w.WriteHeader(r.status)
	}
	_, _ = io.WriteString(w, r.body)
}

// giveToken checks the assertion of the service account. s.mu is held.
func (s *playServer) giveToken(t testing.TB, w http.ResponseWriter, r *http.Request) {
	if s.token != (playReply{}) {
		s.token.write(w)
		return
	}
	var c jwt.MapClaims
	_, err := jwt.NewParser(jwt.WithValidMethods([]string{"RS256"}), jwt.WithAudience(s.URL+"/token"), jwt.WithIssuer(googleAccount), jwt.WithExpirationRequired(),
		jwt.WithTimeFunc(func() time.Time { return asked })).ParseWithClaims(r.FormValue("assertion"), &c, func(*jwt.Token) (any, error) { return &rsaKeys()[1].PublicKey, nil })
	if err != nil || r.FormValue("grant_type") != "urn:ietf:params:oauth:grant-type:jwt-bearer" || c["scope"] != googleScope {
		t.Errorf("assertion %v: %v", c, err)
	}
	s.tokens++
	fmt.Fprintf(w, `{"access_token":"access-%d","expires_in":3599,"token_type":"Bearer"}`, s.tokens)
}

func (s *playServer) set(call string, reply playReply) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answers[call] = reply
}

func (s *playServer) calls() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.asked)
}

// serviceAccount is a key file as Google gives it.
func serviceAccount() []byte {
	der, err := x509.MarshalPKCS8PrivateKey(rsaKeys()[1])
	if err != nil {
		panic(err) // our own key
	}
	return []byte(marshal(map[string]any{"type": "service_account", "client_email": googleAccount, "private_key_id": "k1",
		"private_key": string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))}))
}

func googleAPI(t testing.TB, s *playServer, env entitlement.Environment) *GoogleAPI {
	t.Helper()
	a, err := NewGoogleAPI(GoogleAPIConfig{Package: playPackage, ServiceAccount: serviceAccount(), BaseURL: s.URL, TokenURL: s.URL + "/token", Environment: env,
		Now: func() time.Time { return asked }})
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func TestPullGoogle(t *testing.T) {
	ctx := context.Background()
	test := map[string]any{"testPurchase": map[string]any{}}
	active := marshal(playState("ACTIVE", []any{lineItem("pro", "GPA.1", ends)}, test))
	product := googleSample(t, "product")
	t.Run("a subscription", func(t *testing.T) {
		s := servePlay(t)
		s.set(subscriptionCall+testToken, playReply{body: active})
		a := googleAPI(t, s, entitlement.Sandbox)
		ev, err := a.Pull(ctx, entitlement.KindRenewal, testToken)
		if err != nil {
			t.Fatal(err)
		}
		if ev.Environment != entitlement.Sandbox || ev.Type != "pull.subscription" || ev.CreatedAt != asked.Unix() || ev.Kind != entitlement.Proof || strings.Contains(string(ev.Raw), testToken) {
			t.Errorf("event %+v", ev)
		}
		hinted := entitlement.Evidence{}.Add(playHint(testToken, testToken, asked.Unix()*1000))
		if d := hinted.Doubts(); len(d) != 1 || !reflect.DeepEqual(a.Targets(hinted, d), d) {
			t.Errorf("a hint's doubts %+v become %+v", d, a.Targets(hinted, d))
		}
		if d := hinted.Add(ev.Objects...).Doubts(); len(d) != 0 {
			t.Errorf("the answer leaves %+v", d)
		}
		if _, err := a.Pull(ctx, entitlement.KindRenewal, testToken); err != nil || s.tokens != 1 {
			t.Errorf("asked again: %v, with %d access tokens", err, s.tokens)
		}
	})
	t.Run("a licence tester's in production is of sandbox", func(t *testing.T) {
		s := servePlay(t)
		s.set(subscriptionCall+testToken, playReply{body: active})
		if ev, err := googleAPI(t, s, entitlement.Production).Pull(ctx, entitlement.KindRenewal, testToken); err != nil || ev.Environment != entitlement.Sandbox {
			t.Errorf("Pull = %s, %v", ev.Environment, err)
		}
	})
	t.Run("a paid one is not for sandbox", func(t *testing.T) {
		s := servePlay(t)
		s.set(productCall+testToken, playReply{body: product})
		if _, err := googleAPI(t, s, entitlement.Sandbox).Pull(ctx, entitlement.KindTransaction, testToken); !errors.Is(err, ErrOtherEnvironment) {
			t.Errorf("Pull: %v", err)
		}
	})
	t.Run("a one-time product", func(t *testing.T) {
		s := servePlay(t)
		s.set(productCall+testToken, playReply{body: product})
		a := googleAPI(t, s, entitlement.Production)
		for kind, id := range map[entitlement.ObjectKind]string{entitlement.KindTransaction: testToken, entitlement.KindRenewal: playProductMark + testToken} {
			ev, err := a.Pull(ctx, kind, id)
			if err != nil || ev.Type != "pull.product" || ev.Environment != entitlement.Production {
				t.Fatalf("Pull(%s) = %+v, %v", kind, ev, err)
			}
			e := entitlement.Evidence{}.Add(playHint(playProductMark+testToken, testToken, asked.Unix()*1000)).Add(ev.Objects...)
			if d := e.Doubts(); len(d) != 1 || !d[0].Echo || d[0].From != asked.Unix()*1e9+1 {
				t.Errorf("the answer leaves %+v, want that it is not acknowledged", d)
			}
		}
		if got := s.calls(); !slices.Equal(got, []string{productCall + testToken, productCall + testToken}) {
			t.Errorf("asked %v", got)
		}
	})
	t.Run("a token of which nothing more is known", func(t *testing.T) {
		for _, status := range []int{http.StatusNotFound, http.StatusBadRequest} {
			s := servePlay(t)
			s.set(subscriptionCall+testToken, playReply{status: status})
			s.set(productCall+testToken, playReply{body: product})
			ev, err := googleAPI(t, s, entitlement.Production).Pull(ctx, entitlement.KindRenewal, testToken)
			if err != nil || ev.Type != "pull.product" {
				t.Errorf("Pull after %d = %+v, %v", status, ev, err)
			}
			if d := (entitlement.Evidence{}).Add(playHint(testToken, testToken, asked.Unix()*1000)).Add(ev.Objects...).Doubts(); len(d) != 1 || !d[0].Echo {
				t.Errorf("the answer leaves %+v", d)
			}
		}
	})
	t.Run("what Google cannot be asked about", func(t *testing.T) {
		s := servePlay(t)
		a := googleAPI(t, s, entitlement.Production)
		for kind, id := range map[entitlement.ObjectKind]string{entitlement.KindRenewal: playHash(testToken) + ":pro", entitlement.KindCustomer: testToken, entitlement.KindTransaction: "../.."} {
			if _, err := a.Pull(ctx, kind, id); !errors.Is(err, ErrGone) {
				t.Errorf("Pull(%s, %s): %v", kind, id, err)
			}
		}
		if got := s.calls(); len(got) != 0 {
			t.Errorf("asked %v", got)
		}
	})
}

// What is in doubt about a purchase leads to the tokens that it has.
func TestGoogleTargets(t *testing.T) {
	a := googleAPI(t, servePlay(t), entitlement.Sandbox)
	e := entitlement.Evidence{}.Add(answered(t, testToken, playNow, playState("ACTIVE", []any{lineItem("pro", "GPA.1", ends)}))...)
	e = e.Add(answered(t, newToken, playNow, playState("ACTIVE", []any{lineItem("team", "GPA.2", ends)}, map[string]any{"linkedPurchaseToken": testToken}))...)
	tests := []struct {
		name  string
		doubt entitlement.Doubt
		want  []string
	}{
		{"a term", entitlement.Doubt{Kind: entitlement.KindTransaction, ID: "GPA.2", By: entitlement.Google}, []string{newToken}},
		{"where a chain stands", entitlement.Doubt{Kind: entitlement.KindRenewal, ID: playHash(testToken) + ":pro", By: entitlement.Google}, []string{testToken}},
		{"who bought", entitlement.Doubt{Kind: entitlement.KindCustomer, ID: playHash(newToken), By: entitlement.Google}, []string{newToken}},
		{"a revocation", entitlement.Doubt{Kind: entitlement.KindRevocation, ID: "GPA.7", By: entitlement.Google}, []string{testToken, newToken}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var got []string
			for _, d := range a.Targets(e, []entitlement.Doubt{tt.doubt, tt.doubt}) {
				got = append(got, d.ID)
			}
			if !slices.Equal(got, tt.want) {
				t.Errorf("targets %v, want %v", got, tt.want)
			}
		})
	}
}

// What Google has forgotten ends as it was known to, and only if that was long enough ago for Google to be right.
func TestWhatGoogleHasForgotten(t *testing.T) {
	now := asked.AddDate(0, 0, 100) // the states are of asked, the hints after it
	told := func(state, expiry string, item map[string]any) entitlement.Evidence {
		s := servePlay(t)
		line := map[string]any{"productId": "pro", "latestSuccessfulOrderId": "GPA.1", "autoRenewingPlan": map[string]any{"autoRenewEnabled": true}}
		if expiry != "" {
			line["expiryTime"] = expiry
		}
		maps.Copy(line, item)
		s.set(subscriptionCall+testToken, playReply{body: marshal(playState(state, []any{line}))})
		ev, err := googleAPI(t, s, entitlement.Production).Pull(t.Context(), entitlement.KindRenewal, testToken)
		if err != nil {
			t.Fatal(err)
		}
		return entitlement.Evidence{}.Add(ev.Objects...)
	}
	product := func() entitlement.Evidence {
		s := servePlay(t)
		s.set(productCall+testToken, playReply{body: googleSample(t, "product")})
		ev, err := googleAPI(t, s, entitlement.Production).Pull(t.Context(), entitlement.KindTransaction, testToken)
		if err != nil {
			t.Fatal(err)
		}
		return entitlement.Evidence{}.Add(ev.Objects...)
	}()
	hint := func(ago time.Duration, id string) entitlement.Object {
		return playHint(id, testToken, now.Add(-ago).UnixMilli())
	}
	past, ahead := asked.AddDate(0, 0, 20).Format(time.RFC3339), now.AddDate(0, 0, 9).Format(time.RFC3339)
	for _, tt := range []struct {
		name    string
		e       entitlement.Evidence
		id      string
		hinted  time.Duration // ago
		settled bool
		active  bool
	}{
		{"active, and its end is long over", told("ACTIVE", past, nil), testToken, time.Minute, true, false},
		{"on hold", told("ON_HOLD", past, nil), testToken, time.Minute, true, false},
		{"expired", told("EXPIRED", past, nil), testToken, time.Minute, true, false},
		{"active, and its end is ahead", told("ACTIVE", ahead, nil), testToken, 30 * 24 * time.Hour, false, true},
		{"pending, told just now", told("PENDING", "", nil), testToken, time.Minute, false, false},
		{"pending, told long ago", told("PENDING", "", nil), testToken, 8 * 24 * time.Hour, true, false},
		{"nothing known, told just now", entitlement.Evidence{}, testToken, time.Hour, false, false},
		{"nothing known, told long ago", entitlement.Evidence{}, testToken, 8 * 24 * time.Hour, true, false},
		{"a product without an end, told just now", product, playProductMark + testToken, time.Hour, false, true},
		{"a product without an end, told long ago", product, playProductMark + testToken, 8 * 24 * time.Hour, true, true},
	} {
		e := tt.e.Add(hint(tt.hinted, tt.id))
		api := &GoogleAPI{env: entitlement.Production}
		targets := api.Targets(e, e.Doubts())
		if len(targets) != 1 {
			t.Errorf("%s: asks for %v", tt.name, targets)
			continue
		}
		ev, settled := api.Forgotten(e, targets[0], now)
		if settled != tt.settled {
			t.Errorf("%s: settled %t, want %t", tt.name, settled, tt.settled)
			continue
		}
		if !settled {
			continue
		}
		if strings.Contains(string(ev.Raw), testToken) {
			t.Errorf("%s: the token is kept", tt.name)
		}
		after := e.Add(ev.Objects...)
		if left := after.Doubts(); len(left) != 0 {
			t.Errorf("%s: %+v left open", tt.name, left)
		}
		if !after.IsPurchase() {
			continue
		}
		item := entitlement.Fold(after, entitlement.Policy{}).Items[0]
		if active := item.State == entitlement.Live && (item.AccessUntil == 0 || item.AccessUntil > now.Unix()); active != tt.active {
			t.Errorf("%s: %+v, want active %t", tt.name, item, tt.active)
		}
		if again := entitlement.Merge(e.Add(ev.Objects...), e); !reflect.DeepEqual(again, after) {
			t.Errorf("%s: the order counts", tt.name)
		}
	}
}

func TestPullGoogleFailures(t *testing.T) {
	tests := []struct {
		name  string
		reply playReply
		want  error
		after time.Duration
	}{
		{"unknown: asked again soon", playReply{status: 404, body: `{"error":{"errors":[{"reason":"purchaseTokenNotFound"}]}}`}, ErrGone, time.Second},
		{"long expired", playReply{status: 410, body: `{"error":{"errors":[{"reason":"subscriptionNoLongerAvailable"}]}}`}, ErrGone, 0},
		{"our mistake", playReply{status: 400, body: `{"error":{"errors":[{"reason":"invalid"}]}}`}, ErrAnswer, 0},
		{"an access token that is refused", playReply{status: 401}, ErrCredential, 0},
		{"too few rights", playReply{status: 403, body: `{"error":{"errors":[{"reason":"permissionDenied"}]}}`}, ErrCredential, 0},
		{"a quota, as 403", playReply{status: 403, body: `{"error":{"errors":[{"reason":"rateLimitExceeded"}]}}`}, ErrLimited, 0},
		{"a quota", playReply{status: 429, retryAfter: "7"}, ErrLimited, 7 * time.Second},
		{"a giant pause", playReply{status: 429, retryAfter: "99999999"}, ErrLimited, maxRetryAfter},
		{"at once", playReply{status: 409, body: `{"error":{"errors":[{"reason":"concurrentUpdate"}]}}`}, ErrUnavailable, 0},
		{"at fault", playReply{status: 503, retryAfter: "-1"}, ErrUnavailable, 0},
		{"a redirect", playReply{status: 302}, ErrAnswer, 0},
		{"no JSON", playReply{body: "canary@example.com"}, ErrAnswer, 0},
		{"an array", playReply{body: "[]"}, ErrAnswer, 0},
		{"nothing in it", playReply{body: "{}"}, ErrAnswer, 0},
		{"a state that is new", playReply{body: marshal(playState("FROZEN", []any{}))}, ErrAnswer, 0},
		{"no items", playReply{body: marshal(playState("ACTIVE", nil))}, ErrAnswer, 0},
		{"an item that is none", playReply{body: marshal(playState("ACTIVE", []any{7}))}, ErrAnswer, 0},
		{"an item without a product", playReply{body: marshal(playState("ACTIVE", []any{map[string]any{}}))}, ErrAnswer, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := servePlay(t)
			s.set(subscriptionCall+testToken, tt.reply)
			_, err := googleAPI(t, s, entitlement.Production).Pull(context.Background(), entitlement.KindRenewal, testToken)
			var failed *PullError
			if !errors.Is(err, tt.want) || !errors.As(err, &failed) || failed.RetryAfter != tt.after {
				t.Errorf("Pull: %v after %s, want %v after %s", err, failed.RetryAfter, tt.want, tt.after)
			}
			if strings.Contains(fmt.Sprint(err), "canary") || strings.Contains(fmt.Sprint(err), testToken) {
				t.Errorf("the error holds a part of the answer or the token: %v", err)
			}
		})
	}
	t.Run("an access token that ended early is replaced", func(t *testing.T) {
		s := servePlay(t)
		s.set(productCall+testToken, playReply{body: googleSample(t, "product")})
		a := googleAPI(t, s, entitlement.Production)
		a.tokens.token, a.tokens.until = "revoked", asked.Add(time.Hour)
		_, first := a.Pull(context.Background(), entitlement.KindTransaction, testToken)
		_, second := a.Pull(context.Background(), entitlement.KindTransaction, testToken)
		if !errors.Is(first, ErrCredential) || second != nil {
			t.Errorf("Pull: %v, then %v", first, second)
		}
	})
	for name, tt := range map[string]struct {
		reply playReply
		want  error
	}{
		"a service account that is refused": {playReply{status: 400, body: `{"error":"invalid_grant"}`}, ErrCredential},
		"no access token to be had":         {playReply{status: 500}, ErrUnavailable},
		"too many access tokens":            {playReply{status: 429}, ErrLimited},
		"an access token that is none":      {playReply{body: `{}`}, ErrAnswer},
	} {
		t.Run(name, func(t *testing.T) {
			s := servePlay(t)
			s.token = tt.reply
			if _, err := googleAPI(t, s, entitlement.Production).Pull(context.Background(), entitlement.KindRenewal, testToken); !errors.Is(err, tt.want) {
				t.Errorf("Pull: %v, want %v", err, tt.want)
			}
		})
	}
	t.Run("nobody there", func(t *testing.T) {
		s := servePlay(t)
		a := googleAPI(t, s, entitlement.Production)
		s.Close()
		if _, err := a.Pull(context.Background(), entitlement.KindRenewal, testToken); !errors.Is(err, ErrUnavailable) {
			t.Errorf("Pull: %v", err)
		}
	})
}

func TestNewGoogleAPIRefuses(t *testing.T) {
	for name, tt := range map[string]struct {
		change func(*GoogleAPIConfig)
		want   error
	}{
		"no account":                    {func(c *GoogleAPIConfig) { c.ServiceAccount = nil }, ErrGoogleAccount},
		"another kind of account":       {func(c *GoogleAPIConfig) { c.ServiceAccount = []byte(`{"type":"authorized_user","client_email":"a@b"}`) }, ErrGoogleAccount},
		"an account without a key":      {func(c *GoogleAPIConfig) { c.ServiceAccount = []byte(`{"client_email":"a@b","private_key":"canary"}`) }, ErrGoogleAccount},
		"a key that all could read":     {func(c *GoogleAPIConfig) { c.BaseURL = "http://play.example.test" }, ErrGoogleBase},
		"an account that all could see": {func(c *GoogleAPIConfig) { c.TokenURL = "http://play.example.test/token" }, ErrGoogleTokenURL},
	} {
		c := GoogleAPIConfig{Package: playPackage, ServiceAccount: serviceAccount()}
		tt.change(&c)
		if _, err := NewGoogleAPI(c); !errors.Is(err, tt.want) || strings.Contains(err.Error(), "canary") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestAcknowledgeGoogle(t *testing.T) {
	pending := map[string]any{"acknowledgementState": "ACKNOWLEDGEMENT_STATE_PENDING"}
	subscription := entitlement.Evidence{}.Add(answered(t, testToken, playNow, playState("ACTIVE", []any{lineItem("pro", "GPA.1", ends), lineItem("extra", "GPA.1", ends)}, pending))...)
	var product map[string]any
	if err := json.Unmarshal([]byte(googleSample(t, "product")), &product); err != nil {
		t.Fatal(err)
	}
	sold := entitlement.Evidence{}.Add(answered(t, testToken, playNow, product)...)
	tests := []struct {
		name       string
		e          entitlement.Evidence
		consumable bool
		want       string
	}{
		{"a subscription, once", subscription, false, "POST /purchases/subscriptions/extra/tokens/" + testToken + ":acknowledge"},
		{"a one-time product", sold, false, "POST /purchases/products/coins_100/tokens/" + testToken + ":acknowledge"},
		{"a consumable", sold, true, "POST /purchases/products/coins_100/tokens/" + testToken + ":consume"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := servePlay(t)
			s.set(tt.want, playReply{status: http.StatusNoContent})
			a := googleAPI(t, s, entitlement.Sandbox)
			ids := a.Unacknowledged(tt.e)
			if !slices.Equal(ids, []string{testToken}) {
				t.Fatalf("Unacknowledged = %v", ids)
			}
			for range 2 {
				if err := a.Acknowledge(context.Background(), tt.e, ids[0], func(entitlement.Sold) bool { return tt.consumable }); err != nil {
					t.Errorf("Acknowledge: %v", err)
				}
			}
			if got := s.calls(); !slices.Equal(got, []string{tt.want, tt.want}) {
				t.Errorf("asked %v, want %s twice", got, tt.want)
			}
		})
	}
	for _, state := range []string{"PENDING", "PENDING_PURCHASE_CANCELED", "ON_HOLD", "PAUSED", "EXPIRED"} {
		e := entitlement.Evidence{}.Add(answered(t, testToken, playNow, playState(state, []any{lineItem("pro", "GPA.1", ends)}, pending))...)
		if got := googleAPI(t, servePlay(t), entitlement.Sandbox).Unacknowledged(e); len(got) != 0 {
			t.Errorf("%s: Unacknowledged = %v", state, got)
		}
	}
}

func TestVoidedPurchases(t *testing.T) {
	s := servePlay(t)
	at := testMillis + 5000
	one := map[string]any{"kind": "androidpublisher#voidedPurchase", "purchaseToken": testToken, "orderId": "GPA.1..0", "voidedTimeMillis": fmt.Sprint(at), "voidedReason": 7, "voidedSource": 2}
	some := map[string]any{"purchaseToken": newToken, "orderId": "GPA.2", "voidedTimeMillis": fmt.Sprint(at + 1), "voidedQuantity": 1}
	s.set("GET /purchases/voidedpurchases", playReply{body: marshal(map[string]any{"voidedPurchases": []any{one, some, one, map[string]any{"orderId": "GPA.3"}, 7}})})
	a := googleAPI(t, s, entitlement.Production)
	events, err := a.VoidedPurchases(context.Background(), time.UnixMilli(testMillis), time.UnixMilli(at+9))
	if err != nil || len(events) != 3 {
		t.Fatalf("VoidedPurchases = %+v, %v", events, err)
	}
	if !reflect.DeepEqual(events[0], events[2]) || events[0].Environment != entitlement.Production || events[0].CreatedAt != at/1000 || strings.Contains(string(events[0].Raw), testToken) {
		t.Errorf("one voided purchase is %+v and %+v", events[0], events[2])
	}
	if want := playVoidedOrder(testToken, testToken, "GPA.1..0", true, at); !reflect.DeepEqual(events[0].Objects, want) {
		t.Errorf("objects %+v, want those of its message: %+v", events[0].Objects, want)
	}
	if want := []entitlement.Object{playHint(newToken, newToken, at+1)}; !reflect.DeepEqual(events[1].Objects, want) {
		t.Errorf("a part of a quantity is %+v, want %+v", events[1].Objects, want)
	}
	want := fmt.Sprintf("GET /purchases/voidedpurchases?endTime=%d&includeQuantityBasedPartialRefund=true&maxResults=1000&startTime=%d&type=1", at+9, testMillis)
	if got := s.calls(); !slices.Equal(got, []string{want}) {
		t.Errorf("asked %v, want %s", got, want)
	}
}
