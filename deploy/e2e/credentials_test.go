package e2e

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/latchkey/latchkey/deploy/stripemsg"
	"github.com/latchkey/latchkey/pkg/identity/identitytest"
)

// TestUsersWhoSignInElsewhere: an app that shows its own sign-in token gets an account with its first request at any edge, buys, and reads; a token for another app does
// not.
func TestUsersWhoSignInElsewhere(t *testing.T) {
	t.Parallel()
	idp := identitytest.New(t)
	signIn := func(audience string) string { return idp.Token(idp.URL, audience, "ada|1", time.Now()) }
	d := startWith(t, t.TempDir(), []string{fmt.Sprintf("LATCHKEY_ENVIRONMENTS_SANDBOX_IDENTITY_PROVIDERS=[{issuer: %q, audiences: [app], jwks_url: %q}]", idp.URL, idp.URL)}, "--edges", "2")
	ada := account{"sandbox", "", signIn("app")}
	first := d.mustAsk(ada, 0, "")
	if first.pro().Active || !strings.HasPrefix(first.Account, "acc_") || first.Token == "" {
		t.Fatalf("the first answer to somebody new is %+v, want a signed one of a new account", first)
	}
	header := http.Header{"Authorization": {"Bearer " + ada.session}, "Content-Type": {"application/json"}, "Idempotency-Key": {stripemsg.ID("key")}}
	intent, err := untilTaken(func() (answer, error) {
		return d.do(context.Background(), http.MethodPost, d.info().Edges[1].URL+"/v1/purchase-intents", header.Clone(), []byte(`{"provider": "stripe", "product_id": "price_pro_monthly"}`))
	})
	var asked struct{ Metadata map[string]string }
	if err == nil {
		err = intent.into(&asked)
	}
	if err != nil || intent.status != http.StatusOK || asked.Metadata["account_id"] != first.Account {
		t.Fatalf("POST /v1/purchase-intents with a sign-in token: %s, %v, want metadata with %s", intent, err, first.Account)
	}
	bought := d.mustPost("sandbox", 0, stripemsg.NewSubscription(stripemsg.Basil, first.Account, time.Now()).Updated("created", time.Now()))
	for edge := range d.info().Edges {
		if v := d.mustAsk(ada, edge, bought.Revision); v.Account != first.Account || !v.pro().Active {
			t.Errorf("edge %d shows %s with %+v, want %s with pro", edge, v.Account, v.pro(), first.Account)
		}
	}
	for name, tok := range map[string]string{"another app's": signIn("another-app"), "an altered one": ada.session[:len(ada.session)-8] + "AAAAAAAA"} {
		if got, err := d.ask(account{"sandbox", "", tok}, 0, ""); err != nil || got.status != http.StatusUnauthorized || got.problem() != "invalid-credential" {
			t.Errorf("%s token: %s, %v, want 401", name, got, err)
		}
	}
}

// TestABackendReadsAtEdges: with a key that may only read, made by the command, a company's backend asks any edge about any account; nothing else opens with it, and once
// it is revoked nothing does (R86).
func TestABackendReadsAtEdges(t *testing.T) {
	t.Parallel()
	d := start(t, t.TempDir(), "--edges", "2")
	keys := func(args ...string) string {
		t.Helper()
		return writerTool(t, append([]string{"keys", "api", args[0], "--config", d.configOf("w1")}, args[1:]...)...)
	}
	var key string
	for word := range strings.FieldsSeq(keys("add", "--env", "sandbox", "--name", "reader", "--scope", "rk")) {
		if strings.HasPrefix(word, "lk_sandbox_rk_") {
			key = word
		}
	}
	user := d.account("sandbox")
	bought := d.mustPost("sandbox", 0, stripemsg.NewSubscription(stripemsg.Basil, user.id, time.Now()).Updated("created", time.Now()))
	read := func(edge int, path string) answer {
		t.Helper()
		got, err := d.do(context.Background(), http.MethodGet, d.info().Edges[edge].URL+path, http.Header{"Authorization": {"Bearer " + key}}, nil)
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	path := "/v1/accounts/" + user.id + "/entitlements"
	for edge := range d.info().Edges {
		d.eventually("the new key reads", patience, func() error {
			if got := read(edge, path+"?wait=10&min_revision="+bought.Revision); got.status != http.StatusOK {
				return fmt.Errorf("%s", got)
			}
			return nil
		})
		var v view
		if err := read(edge, path).into(&v); err != nil || v.Account != user.id || !v.pro().Active || v.Token != "" {
			t.Errorf("edge %d shows %+v, %v, want pro without a token", edge, v, err)
		}
		if got := read(edge, "/v1/entitlements"); got.status != http.StatusUnauthorized {
			t.Errorf("the key as an app's credential: %s, want 401", got)
		}
	}
	if got, err := d.do(context.Background(), http.MethodPost, d.writer(0)+"/v1/accounts", http.Header{"Authorization": {"Bearer " + key}}, []byte(`{}`)); err != nil || got.status != http.StatusForbidden {
		t.Errorf("a write with the key: %s, %v, want 403", got, err)
	}
	keys("revoke", "--env", "sandbox", "--name", "reader")
	for edge := range d.info().Edges {
		d.eventually("the revoked key reads nowhere", patience, func() error {
			if got := read(edge, path); got.status != http.StatusUnauthorized {
				return fmt.Errorf("%s", got)
			}
			return nil
		})
	}
}
