package writer

import (
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/latchkey/latchkey/pkg/entitlement"
	"github.com/latchkey/latchkey/pkg/identity"
	"github.com/latchkey/latchkey/pkg/identity/identitytest"
)

// TestAnAccountIsMadeForWhomeverAProviderVouches: once for each subject, however many ask at a time, under the alias that the server API knows; and for nobody whose
// token is not good.
func TestAnAccountIsMadeForWhomeverAProviderVouches(t *testing.T) {
	const issuer = "https://id.example.com/"
	idp := identitytest.New(t)
	file := filepath.Join(t.TempDir(), "jwks.json")
	if err := os.WriteFile(file, idp.JWKS(), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg := testConfigs(t, 1)[0]
	e := cfg.Environments[entitlement.Sandbox]
	e.IdentityProviders = []identity.Config{{Issuer: issuer, Audiences: []string{"app"}, JWKSFile: file}}
	cfg.Environments[entitlement.Sandbox] = e
	w := startWriter(t, cfg)
	w.awaitReady()
	token := func(subject, audience string) string { return idp.Token(issuer, audience, subject, time.Now()) }
	ask := func(credential string) reply {
		return w.do("POST", "/v1/sessions/identity", `{"field_of_later": 1}`, auth(credential))
	}
	if r := ask(token("the first one", "app")); r.status != http.StatusCreated { // has the provider's keys read, for which one request waits alone
		t.Fatalf("the first one: %d %s", r.status, r.text)
	}
	var all sync.WaitGroup
	var mu sync.Mutex
	ids, created := map[string]bool{}, 0
	tok := token("user 1", "app")
	for range 8 {
		all.Go(func() {
			r := ask(tok)
			mu.Lock()
			defer mu.Unlock()
			if ids[r.str("account_id")] = true; r.json["created"] == true {
				created++
			}
			if r.status != http.StatusOK && r.status != http.StatusCreated || r.str("environment") != "sandbox" || r.str("revision") == "" {
				t.Errorf("%d %s", r.status, r.text)
			}
		})
	}
	all.Wait()
	if len(ids) != 1 || created != 1 {
		t.Errorf("8 at a time: accounts %v, %d of them made, want one", ids, created)
	}
	if r := ask(token("user 2", "app")); r.status != http.StatusCreated || ids[r.str("account_id")] {
		t.Errorf("another subject: %d %s", r.status, r.text)
	}
	for name, credential := range map[string]string{"another app's": token("user 1", "other"), "a server key": serverKey, "nonsense": "eyJ.eyJ.x"} {
		if r := ask(credential); r.status != http.StatusUnauthorized || r.slug() != "invalid-credential" {
			t.Errorf("%s: %d %s, want 401", name, r.status, r.text)
		}
	}
	for id := range ids {
		if r := w.api("GET", "/v1/accounts/oidc_subject:"+url.PathEscape(issuer+"|user 1"), ""); r.status != http.StatusOK || r.str("account_id") != id {
			t.Errorf("by its alias: %d %s, want %s", r.status, r.text, id)
		}
		r := w.api("GET", "/v1/accounts/"+id+"/events", "")
		if n := strings.Count(r.text, `"event_id"`); n == 0 || strings.Count(r.text, `"caller":{"kind":"sign_in"}`) != n {
			t.Errorf("the audit trail = %s, want a sign-in as the caller of all", r.text)
		}
	}
	// From an anonymous session: somebody known takes it in, somebody new is who it was.
	for _, tt := range []struct {
		name, subject string
		known         bool
	}{{"somebody known", "user 1", true}, {"somebody new", "user 3", false}, {"who is known since", "user 3", true}} {
		begun := w.begin()
		login := w.do("POST", "/v1/sessions/login", fmt.Sprintf(`{"identity_token": %q}`, token(tt.subject, "app")), auth(begun.str("session_token")))
		same := login.str("account_id") == begun.str("account_id")
		if login.status != http.StatusOK || login.json["anonymous"] != false || same == tt.known || (login.str("merge_id") != "") != tt.known {
			t.Errorf("%s signs in from %s: %d %s", tt.name, begun.str("account_id"), login.status, login.text)
		}
	}
	begun := w.begin().str("session_token")
	if r := w.do("POST", "/v1/sessions/login", fmt.Sprintf(`{"identity_token": %q}`, token("user 1", "other")), auth(begun)); r.status != http.StatusUnauthorized {
		t.Errorf("a login by another app's token: %d %s", r.status, r.text)
	}
	if r := w.do("POST", "/v1/sessions/login", fmt.Sprintf(`{"identity_token": %q, "session_token": %q}`, tok, begun), auth(begun)); r.status != http.StatusBadRequest {
		t.Errorf("a login by two at once: %d %s", r.status, r.text)
	}
	r := w.do("POST", "/v1/receipts", `{"receipts": [{"provider": "stripe", "checkout_session_id": "cs_1"}]}`, auth(tok))
	if r.status != http.StatusOK || !ids[r.str("account_id")] {
		t.Errorf("a receipt with the sign-in token: %d %s", r.status, r.text)
	}
}
