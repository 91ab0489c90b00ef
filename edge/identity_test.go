package edge_test

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/latchkey/latchkey/edge"
	"github.com/latchkey/latchkey/pkg/entitlement"
	"github.com/latchkey/latchkey/pkg/identity"
	"github.com/latchkey/latchkey/pkg/identity/identitytest"
	"github.com/latchkey/latchkey/replication"
)

const issuer = "https://id.example.com/"

// TestUsersWhoSignInElsewhere: the token of an identity provider opens its subject's account and no other; somebody new gets an account by a writer, once;
// what is wrong with a token is said, and keys that cannot be read are no refusal.
func TestUsersWhoSignInElsewhere(t *testing.T) {
	t.Parallel()
	s := identitytest.New(t)
	r := newRig(t)
	signIn := func(subject string, change ...func(*jwt.Token)) string {
		return s.Token(issuer, "com.example.app", subject, r.clock.Now(), change...)
	}
	now := r.clock.Now().Unix()
	pointer := func(subject string, to entitlement.AccountID) replication.Record {
		return replication.Record{Env: entitlement.Sandbox, Kind: replication.KindPointer, Key: entitlement.SubjectKey(issuer + "|" + subject), Value: entitlement.Encode(&entitlement.Pointer{Account: to})}
	}
	var enrolled, refuse atomic.Int64
	r.server.Close()
	r.server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if req.URL.Path != "/v1/sessions/identity" {
			r.writer.ServeHTTP(w, req)
			return
		}
		if req.Method != http.MethodPost || !strings.HasPrefix(req.Header.Get("Authorization"), "Bearer eyJ") {
			t.Errorf("a writer is asked by %s, without a sign-in token", req.Method)
		}
		if status := refuse.Load(); status != 0 {
			w.WriteHeader(int(status))
			return
		}
		id := entitlement.AccountID(fmt.Sprintf("acc_01NEW%d", enrolled.Add(1)))
		r.writer.PutAccount(entitlement.Sandbox, entitlement.Account{ID: id, CreatedAt: now})
		at := r.writer.Put(pointer("newcomer", id)).Revision()
		w.WriteHeader(http.StatusCreated)
		_, _ = fmt.Fprintf(w, `{"account_id":%q,"revision":%q}`, id, at)
	}))
	t.Cleanup(r.server.Close)
	r.writer.PutCatalog(entitlement.Sandbox, catalog)
	r.writer.PutAccount(entitlement.Sandbox, subscriber(alice, now, now+86400))
	r.writer.Put(pointer("alice", alice))
	r.startWith(func(c *edge.Config) {
		c.Environments[entitlement.Sandbox] = edge.EnvironmentConfig{Audience: c.Environments[entitlement.Sandbox].Audience,
			IdentityProviders: []identity.Config{{Issuer: issuer, Audiences: []string{"com.example.app"}, JWKSURL: s.URL}}}
	})
	r.ready()
	check := func(name, tok, query string, status int, want string) answer {
		t.Helper()
		got, a, _ := r.check(query, tok, nil)
		if got != status || slug(a) != want {
			t.Errorf("%s: %d %+v, want %d %s", name, got, a, status, want)
		}
		return a
	}
	good := signIn("alice")
	s.Down.Store(true)
	check("while the keys cannot be read", good, "", 503, "unavailable")
	s.Down.Store(false)
	r.clock.Add(31 * time.Second)
	r.atAsOf()
	for range 3 {
		a := check("a user", good, "?nonce=n", 200, "")
		if c := r.verify(a.GraceToken, alice, entitlement.Sandbox); a.AccountID != string(alice) || c.Subject != string(alice) || !c.Allows("pro", r.clock.Now()) {
			t.Errorf("a user: %+v %+v", a, c)
		}
	}
	if asks := s.Asks.Load(); asks != 2 || r.metric(`latchkey_edge_sign_ins_total{outcome="verified"}`) != "1" {
		t.Errorf("the provider was asked %d times, %s tokens were verified; want 2 and 1", asks, r.metric(`latchkey_edge_sign_ins_total{outcome="verified"}`))
	}
	check("a session is still one", r.writer.Session(entitlement.Sandbox, alice), "", 200, "")
	check("another app's", signIn("alice", func(k *jwt.Token) { k.Claims.(jwt.MapClaims)["aud"] = "other" }), "", 401, "invalid-credential")
	check("another issuer's", signIn("alice", func(k *jwt.Token) { k.Claims.(jwt.MapClaims)["iss"] = "other" }), "", 401, "invalid-credential")
	forged := good[:len(good)-8] + "AAAAAAAA"
	for range 2 { // the second time from the cache
		check("a forged one", forged, "", 401, "invalid-credential")
	}
	if got := r.metric(`latchkey_edge_sign_ins_total{outcome="refused"}`); got != "3" {
		t.Errorf("%s refusals, want 3: one was known", got)
	}

	newcomer := signIn("newcomer")
	refuse.Store(503)
	check("somebody new, while no writer serves", newcomer, "", 503, "unavailable")
	refuse.Store(401)
	check("somebody new, whom the writers refuse", newcomer, "", 401, "invalid-credential")
	refuse.Store(0)
	if a := check("somebody new", newcomer, "?wait=20", 200, ""); a.AccountID != "acc_01NEW1" {
		t.Errorf("somebody new: %+v", a)
	}
	check("the same again", newcomer, "", 200, "")
	if n := enrolled.Load(); n != 1 {
		t.Errorf("writers were asked %d times to make one account", n)
	}
	st := r.stream("", newcomer, nil)
	if e := st.next(); e.AccountID != "acc_01NEW1" {
		t.Errorf("stream of somebody new: %+v", e)
	}
	r.writer.Put(pointer("newcomer", alice)) // merged into another
	r.atRevision()
	if a := check("an account that is another now", newcomer, "", 200, ""); a.AccountID != string(alice) {
		t.Errorf("led to %s", a.AccountID)
	}
	ended := subscriber(alice, now, now+86400)
	ended.SessionsFrom = r.clock.Now().Unix() + 1
	r.writer.PutAccount(entitlement.Sandbox, ended)
	r.atRevision()
	check("a sign-in before the sessions were ended", good, "", 401, "session-ended")
	r.clock.Add(11 * time.Minute)
	r.atAsOf()
	check("expired", newcomer, "", 401, "invalid-credential")
	if err := st.end(); err != nil && !errors.Is(err, http.ErrBodyReadAfterClose) {
		t.Errorf("a stream whose sign-in has expired: %v", err)
	}
}
