package writer

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/latchkey/latchkey/pkg/entitlement"
	"github.com/latchkey/latchkey/pkg/token"
)

// TestCredentials shows which key may do what, here and in the other environment.
func TestCredentials(t *testing.T) {
	w := oneWriter(t)
	acc := w.account()
	refused := func(reason string) int {
		n, err := strconv.Atoi(w.metric(`latchkey_writer_credentials_refused_total{reason="` + reason + `"}`))
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	// Before the leader has brought its configuration into the state, its own keys are unknown.
	before := map[string]int{"missing": refused("missing"), "unknown": refused("unknown"), "scope": refused("scope")}
	tests := []struct {
		name   string
		method string
		path   string
		header header
		status int
		slug   string
	}{
		{"no credential", "GET", "/v1/catalog", nil, 401, "invalid-credential"},
		{"another scheme", "GET", "/v1/catalog", header{"Authorization": "Basic " + serverKey}, 401, "invalid-credential"},
		{"a key that nobody knows", "GET", "/v1/catalog", auth("lk_sandbox_sk_zzzzzzzzzzzzzzzzzzzzzzzz"), 401, "invalid-credential"},
		{"a key that nobody knows writes", "POST", "/v1/accounts", auth("lk_sandbox_sk_zzzzzzzzzzzzzzzzzzzzzzzz"), 401, "invalid-credential"},
		{"a server key reads", "GET", "/v1/accounts/" + acc, auth(serverKey), 200, ""},
		{"a server key writes", "POST", "/v1/accounts", auth(serverKey), 201, ""},
		{"a read key reads", "GET", "/v1/accounts/" + acc, auth(readKey), 200, ""},
		{"a read key does not write", "POST", "/v1/accounts", auth(readKey), 403, "forbidden"},
		{"a publishable key does not read", "GET", "/v1/accounts/" + acc, auth(publicKey), 403, "forbidden"},
		{"a publishable key does not write", "POST", "/v1/accounts", auth(publicKey), 403, "forbidden"},
		{"an account of sandbox is none of production", "GET", "/v1/accounts/" + acc, auth(productionKey), 404, "not-found"},
		{"the scheme is in any case", "GET", "/v1/catalog", header{"Authorization": "bearer " + serverKey}, 200, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := w.do(tt.method, tt.path, "", tt.header)
			if r.status != tt.status || r.slug() != tt.slug {
				t.Errorf("%s %s = %d %s, want %d %s", tt.method, tt.path, r.status, r.text, tt.status, tt.slug)
			}
			if tt.status == 401 && r.header.Get("WWW-Authenticate") != "Bearer" {
				t.Errorf("WWW-Authenticate = %q, want Bearer", r.header.Get("WWW-Authenticate"))
			}
		})
	}
	// Each is counted once, also where the key was looked up twice.
	for reason, want := range map[string]int{"missing": 2, "unknown": 2, "scope": 3} {
		if got := refused(reason) - before[reason]; got != want {
			t.Errorf("refused as %s: %d counted, want %d", reason, got, want)
		}
	}
}

// TestRefusedRequests shows that each mistake in a request is a problem that names the field, and that nothing is written.
func TestRefusedRequests(t *testing.T) {
	w := oneWriter(t)
	acc := "/v1/accounts/" + w.account()
	taken := w.api("POST", "/v1/accounts", `{"aliases": [{"kind": "custom", "value": "taken"}]}`).str("account_id")
	w.api("POST", "/v1/accounts", `{"aliases": [{"kind": "custom", "value": "another"}]}`)
	tests := []struct {
		name   string
		method string
		path   string
		body   string
		status int
		slug   string
		detail string // part of it
	}{
		{"an unknown field", "POST", "/v1/accounts", `{"alias": []}`, 400, "invalid-request", `"alias": unknown field`},
		{"an unknown field deeper", "POST", "/v1/accounts", `{"aliases": [{"kind": "custom", "valu": "x"}]}`, 400, "invalid-request", `"aliases[0].valu": unknown field`},
		{"a field in another case", "POST", "/v1/accounts", `{"Aliases": []}`, 400, "invalid-request", `"Aliases": unknown field`},
		{"a field twice", "POST", "/v1/accounts", `{"attributes": {}, "attributes": {}}`, 400, "invalid-request", `"attributes": given twice`},
		{"a wrong type", "POST", acc + "/sessions", `{"ttl_seconds": "x"}`, 400, "invalid-request", `"ttl_seconds": want a whole number, have string`},
		{"half a number", "POST", acc + "/sessions", `{"ttl_seconds": 60.5}`, 400, "invalid-request", `"ttl_seconds"`},
		{"no JSON", "POST", "/v1/accounts", `{`, 400, "invalid-request", "not valid JSON"},
		{"two values", "POST", "/v1/accounts", `{} {}`, 400, "invalid-request", "follows"},
		{"an array", "POST", "/v1/accounts", `[]`, 400, "invalid-request", "Want an object"},
		{"text that is no UTF-8", "POST", "/v1/accounts", "{\"attributes\": {\"a\": \"\xff\"}}", 400, "invalid-request", "UTF-8"},
		{"nested without end", "POST", acc + "/grants", `{"expires_at": ` + strings.Repeat("[", 40) + strings.Repeat("]", 40) + `}`, 400, "invalid-request", "nested"},
		{"a body that is too large", "POST", "/v1/accounts", `{"attributes": {"a": "` + strings.Repeat("x", 300<<10) + `"}}`, 413, "body-too-large", ""},
		{"an alias of no kind", "POST", "/v1/accounts", `{"aliases": [{"kind": "email", "value": "x"}]}`, 400, "invalid-request", "no such kind"},
		{"an alias without value", "POST", acc + "/aliases", `{"kind": "custom", "value": ""}`, 400, "invalid-request", `"value"`},
		{"an alias with a line break", "POST", acc + "/aliases", `{"kind": "custom", "value": "a\nb"}`, 400, "invalid-request", "control"},
		{"an attribute that is too long", "PATCH", acc, `{"attributes": {"a": "` + strings.Repeat("x", 2000) + `"}}`, 400, "invalid-request", "attributes"},
		{"an alias of another account", "POST", acc + "/aliases", `{"kind": "custom", "value": "taken"}`, 409, "alias-taken", ""},
		{"aliases of two accounts", "POST", "/v1/accounts", `{"aliases": [{"kind": "custom", "value": "taken"}, {"kind": "custom", "value": "another"}]}`, 409, "alias-taken", ""},
		{"an account that is none", "GET", "/v1/accounts/acc_00000000000000000000000000", "", 404, "not-found", ""},
		{"an alias that is none", "GET", "/v1/accounts/custom:nobody", "", 404, "not-found", ""},
		{"a session of nobody", "POST", "/v1/accounts/acc_00000000000000000000000000/sessions", `{}`, 404, "not-found", ""},
		{"a session of nobody's alias", "POST", "/v1/accounts/custom:nobody/sessions", `{}`, 404, "not-found", ""},
		{"a session for ever", "POST", acc + "/sessions", `{"ttl_seconds": 99999999999}`, 400, "invalid-request", "ttl_seconds"},
		{"a session that has ended", "POST", acc + "/sessions", `{"ttl_seconds": 0}`, 400, "invalid-request", "ttl_seconds"},
		{"a device id with a blank", "POST", acc + "/sessions", `{"device_id": "my phone"}`, 400, "invalid-request", "device_id"},
		{"a device id that is too long", "POST", acc + "/sessions", `{"device_id": "` + strings.Repeat("x", 200) + `"}`, 400, "invalid-request", "device_id"},
		{"a grant of nothing", "POST", acc + "/grants", `{"duration_days": 1}`, 400, "invalid-request", "entitlement"},
		{"a grant without end or duration", "POST", acc + "/grants", `{"entitlement": "pro"}`, 400, "invalid-request", "expires_at"},
		{"a grant with both", "POST", acc + "/grants", `{"entitlement": "pro", "duration_days": 1, "expires_at": null}`, 400, "invalid-request", "expires_at"},
		{"a grant that has ended", "POST", acc + "/grants", `{"entitlement": "pro", "expires_at": "2020-01-01T00:00:00Z"}`, 400, "invalid-request", "expires_at"},
		{"a grant of no days", "POST", acc + "/grants", `{"entitlement": "pro", "duration_days": 0}`, 400, "invalid-request", "duration_days"},
		{"a grant that is none", "DELETE", acc + "/grants/grant_00000000000000000000000000", "", 404, "not-found", ""},
		{"a catalog without products", "PUT", "/v1/catalog", `{}`, 400, "invalid-request", "products"},
		{"a catalog with a wrong product", "PUT", "/v1/catalog", `{"products": [{"provider": "nobody", "product_id": "x", "kind": "subscription"}]}`, 400, "invalid-request", ""},
		{"a policy of nobody", "PUT", "/v1/policy", `{"billing_grace": {"nobody": 1}}`, 400, "invalid-request", "billing_grace"},
		{"a policy for testers of another kind", "PUT", "/v1/policy", `{"billing_grace": {}, "sandbox_access": "some"}`, 400, "invalid-request", "sandbox_access"},
		{"a policy that shares by halves", "PUT", "/v1/policy", `{"billing_grace": {}, "sharing": "half"}`, 400, "invalid-request", "sharing"},
		{"a policy that waits a year", "PUT", "/v1/policy", `{"billing_grace": {"stripe": 31536000}}`, 400, "invalid-request", "billing_grace"},
		{"an event that is none", "GET", "/v1/events/evt_none", "", 404, "not-found", ""},
		{"a revision that is none", "GET", "/v1/events?after=x", "", 400, "invalid-request", "after"},
		{"a page that is too large", "GET", "/v1/events?limit=100000", "", 400, "invalid-request", "limit"},
		{"a cursor that is none", "GET", "/v1/events?cursor=x", "", 400, "invalid-request", "cursor"},
		{"an address that is none", "GET", "/v1/nothing", "", 404, "not-found", ""},
		{"a method that is none", "DELETE", "/v1/catalog", "", 405, "method-not-allowed", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			before := w.store.Position()
			r := w.api(tt.method, tt.path, tt.body)
			if r.status != tt.status || r.slug() != tt.slug || !strings.Contains(r.str("detail"), tt.detail) {
				t.Errorf("%s %s %.80s = %d %s, want %d %s %s", tt.method, tt.path, tt.body, r.status, r.text, tt.status, tt.slug, tt.detail)
			}
			if tt.slug == "alias-taken" && tt.method == "POST" && strings.HasSuffix(tt.path, "/aliases") && r.str("owner") != taken {
				t.Errorf("owner = %q, want %q", r.str("owner"), taken)
			}
			if after := w.store.Position(); after != before {
				t.Errorf("refused, and the position went from %v to %v", before, after)
			}
		})
	}
}

// TestAccounts goes through an account's life: made, found by its aliases, changed, shown whole (R30).
func TestAccounts(t *testing.T) {
	w := oneWriter(t)
	subject := "https://login.example.com|user/1"
	body := fmt.Sprintf(`{"aliases": [{"kind": "stripe_customer", "value": "cus_1"}, {"kind": "oidc_subject", "value": %q}], "attributes": {"tier": "gold", "old": "x"}}`, subject)
	made := w.api("POST", "/v1/accounts", body)
	id := made.str("account_id")
	if made.status != 201 || !strings.HasPrefix(id, "acc_") || made.str("revision") == "" || made.json["created"] != true {
		t.Fatalf("POST /v1/accounts = %d %s", made.status, made.text)
	}
	if again := w.api("POST", "/v1/accounts", body); again.status != 200 || again.str("account_id") != id || again.json["created"] != false {
		t.Errorf("POST with the same aliases = %d %s, want 200 and %s", again.status, again.text, id)
	}
	if r := w.api("PATCH", "/v1/accounts/stripe_customer:cus_1", `{"attributes": {"tier": "silver", "old": null, "new": "y"}, "tester": true}`); r.status != 200 || r.str("account_id") != id {
		t.Errorf("PATCH = %d %s", r.status, r.text)
	}
	if r := w.api("POST", "/v1/accounts/"+id+"/aliases", `{"kind": "custom", "value": "mine"}`); r.status != 200 {
		t.Errorf("POST aliases = %d %s", r.status, r.text)
	}
	w.stripe(event(unique("evt_"), "customer.subscription.created", subscription("sub_known", id, "price_pro")))
	w.stripe(event(unique("evt_"), "customer.subscription.created", subscription("sub_unmapped", id, "price_nobody_knows")))
	if m := w.get("/metrics").text; !strings.Contains(m, `latchkey_writer_unmapped_products_total{provider="stripe"} 1`) || !strings.Contains(w.logs.String(), "price_nobody_knows") {
		t.Error("a product that the catalog does not know raised no alarm")
	}
	for _, path := range []string{id, "stripe_customer:cus_1", "custom:mine", "oidc_subject:" + url.PathEscape(subject)} {
		r := w.api("GET", "/v1/accounts/"+path, "")
		if r.status != 200 || r.str("account_id") != id {
			t.Errorf("GET /v1/accounts/%s = %d %s, want %s", path, r.status, r.text, id)
		}
	}
	r := w.api("GET", "/v1/accounts/"+id, "")
	attributes, _ := json.Marshal(r.json["attributes"])
	if string(attributes) != `{"new":"y","tier":"silver"}` || r.json["tester"] != true {
		t.Errorf("attributes = %s, tester = %v", attributes, r.json["tester"])
	}
	if aliases, _ := r.json["aliases"].([]any); len(aliases) != 3 {
		t.Errorf("aliases = %v, want 3", aliases)
	}
	mapped := map[string]any{}
	for _, p := range r.json["purchases"].([]any) {
		p := p.(object)
		mapped[p["purchase_id"].(string)] = p["items"].([]any)[0].(object)["mapped"]
	}
	if mapped["stripe:sub_known"] != true || mapped["stripe:sub_unmapped"] != false {
		t.Errorf("mapped = %v, want the unknown product shown as not mapped", mapped)
	}
	// The unmapped product counts from the moment at which the catalog knows it.
	catalog := w.api("GET", "/v1/catalog", "")
	products := catalog.json["products"].([]any)
	products = append(products, object{"provider": "stripe", "product_id": "price_nobody_knows", "kind": "subscription", "entitlements": []string{"extra"}})
	next, _ := json.Marshal(object{"products": products})
	if r := w.api("PUT", "/v1/catalog", string(next)); r.status != 200 {
		t.Fatalf("PUT /v1/catalog = %d %s", r.status, r.text)
	}
	if r := w.api("GET", "/v1/accounts/"+id+"/entitlements", ""); !strings.Contains(r.text, `"id":"extra","active":true`) {
		t.Errorf("entitlements after mapping = %s", r.text)
	}
}

// TestEntitlementsAnswer shows that the check has every member that the contract names (R61, R86).
func TestEntitlementsAnswer(t *testing.T) {
	w := oneWriter(t)
	acc := w.account()
	r := w.stripe(event(unique("evt_"), "customer.subscription.created", subscription("sub_1", acc, "price_pro")))
	got := w.api("GET", "/v1/accounts/"+acc+"/entitlements", "")
	for _, name := range []string{"account_id", "environment", "revision", "server_time", "as_of", "fresh_until", "stale", "state", "entitlements", "balances", "purchase", "trial", "apple_app_account_token"} {
		if _, ok := got.json[name]; !ok {
			t.Errorf("no %q in %s", name, got.text)
		}
	}
	if got.str("revision") != r.str("revision") || got.str("state") != "settled" || got.json["stale"] != false {
		t.Errorf("revision %s, state %s, stale %v", got.str("revision"), got.str("state"), got.json["stale"])
	}
	pro := w.pro(acc)
	for name, want := range (object{"active": true, "status": "active", "reason": "paid", "will_renew": true, "plan": "pro_monthly", "product_id": "price_pro",
		"purchase_id": "stripe:sub_1", "provider": "stripe", "sandbox": true, "manage_url": "https://billing.example.com/manage"}) {
		if pro[name] != want {
			t.Errorf("pro[%s] = %v, want %v", name, pro[name], want)
		}
	}
	if asOf, err := time.Parse(time.RFC3339, got.str("as_of")); err != nil || time.Since(asOf) > awaitTimeout {
		t.Errorf("as_of = %q", got.str("as_of"))
	}
}

// TestGrants shows the three ways in which a grant ends, and its taking back.
func TestGrants(t *testing.T) {
	w := oneWriter(t)
	tests := []struct {
		name string
		body string
		end  time.Duration // 0: never
	}{
		{"after days", `{"entitlement": "pro", "duration_days": 30, "reason": "support"}`, 30 * 24 * time.Hour},
		{"at a time", `{"entitlement": "pro", "expires_at": "` + time.Now().Add(time.Hour).UTC().Format(time.RFC3339) + `"}`, time.Hour},
		{"never", `{"entitlement": "pro", "expires_at": null}`, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			acc := w.account()
			r := w.api("POST", "/v1/accounts/"+acc+"/grants", tt.body)
			grant := r.str("grant_id")
			if r.status != 201 || !strings.HasPrefix(grant, "grant_") || r.str("revision") == "" {
				t.Fatalf("POST grants = %d %s", r.status, r.text)
			}
			pro := w.pro(acc)
			if pro["active"] != true || pro["reason"] != "promo" {
				t.Errorf("pro = %v, want it active as promo", pro)
			}
			text, _ := pro["expires_at"].(string)
			at, _ := time.Parse(time.RFC3339, text)
			if off := time.Until(at) - tt.end; tt.end != 0 && off.Abs() > awaitTimeout || tt.end == 0 && text != "" {
				t.Errorf("expires_at = %q, want in %s", text, tt.end)
			}
			if r := w.api("DELETE", "/v1/accounts/"+acc+"/grants/"+grant, ""); r.status != 200 {
				t.Errorf("DELETE = %d %s", r.status, r.text)
			}
			if pro := w.pro(acc); pro["active"] == true {
				t.Errorf("pro after DELETE = %v", pro)
			}
		})
	}
}

// sessionVerifier verifies session tokens as an edge does, with the key file's public half.
func sessionVerifier(t *testing.T, w *testWriter) *token.SessionVerifier {
	t.Helper()
	v := &token.SessionVerifier{Issuer: testCluster, Audience: "com.example.app/sandbox", Environment: "sandbox"}
	var jwk token.JWK
	if err := json.Unmarshal(w.keys.sessionJWKs[entitlement.Sandbox], &jwk); err != nil {
		t.Fatal(err)
	}
	if err := v.AddKey(jwk); err != nil {
		t.Fatal(err)
	}
	return v
}

// TestSessions shows what a session token says, and that ending sessions ends those before and none after.
func TestSessions(t *testing.T) {
	w := oneWriter(t)
	verifier := sessionVerifier(t, w)
	acc := w.account()
	start := func() token.SessionClaims {
		t.Helper()
		r := w.api("POST", "/v1/accounts/"+acc+"/sessions", `{"device_id": "phone-1", "ttl_seconds": 3600}`)
		if r.status != 201 {
			t.Fatalf("POST sessions = %d %s", r.status, r.text)
		}
		claims, err := verifier.Verify(r.str("session_token"), time.Now())
		if err != nil {
			t.Fatal(err)
		}
		if want := formatTime(claims.ExpiresAt); r.str("expires_at") != want {
			t.Errorf("expires_at = %s, want the token's %s", r.str("expires_at"), want)
		}
		return claims
	}
	first := start()
	if first.Subject != acc || first.Device != "phone-1" || first.ExpiresAt-first.IssuedAt != 3600 || first.Revision == "" {
		t.Errorf("claims = %+v", first)
	}
	if r := w.api("DELETE", "/v1/accounts/"+acc+"/sessions", ""); r.status != 200 || r.str("revision") == "" {
		t.Errorf("DELETE sessions = %d %s", r.status, r.text)
	}
	// In the same second as the end: the hardest case.
	second := start()
	from := w.api("GET", "/v1/accounts/"+acc, "").str("sessions_from")
	at, err := time.Parse(time.RFC3339, from)
	if err != nil {
		t.Fatalf("sessions_from = %q", from)
	}
	if first.IssuedAt >= at.Unix() {
		t.Errorf("the first session (iat %d) lives on after sessions_from %d", first.IssuedAt, at.Unix())
	}
	if second.IssuedAt < at.Unix() {
		t.Errorf("the session after the end (iat %d) is dead: sessions_from is %d", second.IssuedAt, at.Unix())
	}
}

// TestIdempotency shows that the repeat of a request gets the same answer to the byte, and that another request under the key does not.
func TestIdempotency(t *testing.T) {
	w := oneWriter(t)
	acc := "/v1/accounts/" + w.account()
	other := "/v1/accounts/" + w.account()
	tests := []struct {
		name   string
		method string
		path   string
		body   string
		change string // another body
	}{
		{"an account", "POST", "/v1/accounts", `{"attributes": {"a": "1"}}`, `{"attributes": {"a": "2"}}`},
		{"an alias", "POST", acc + "/aliases", `{"kind": "custom", "value": "one"}`, `{"kind": "custom", "value": "two"}`},
		{"a session, token included", "POST", acc + "/sessions", `{"device_id": "d"}`, `{"device_id": "e"}`},
		{"the end of sessions", "DELETE", acc + "/sessions", ``, `{}`},
		{"a grant", "POST", acc + "/grants", `{"entitlement": "pro", "duration_days": 1}`, `{"entitlement": "pro", "duration_days": 2}`},
		{"attributes", "PATCH", acc, `{"attributes": {"b": "1"}}`, `{"attributes": {"b": "2"}}`},
		{"a catalog", "PUT", "/v1/catalog", testCatalog, testCatalog + " "},
		{"a policy", "PUT", "/v1/policy", `{"billing_grace": {"stripe": 86400}}`, `{"billing_grace": {}}`},
	}
	for i, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			key := header{"Idempotency-Key": fmt.Sprintf("key %d", i)}
			first := w.api(tt.method, tt.path, tt.body, key)
			if first.status >= 300 {
				t.Fatalf("%s %s = %d %s", tt.method, tt.path, first.status, first.text)
			}
			w.api("PATCH", acc, fmt.Sprintf(`{"attributes": {"between": "%d"}}`, i)) // the world moves on
			before := w.store.Position()
			if again := w.api(tt.method, tt.path, tt.body, key); again.status != first.status || again.text != first.text {
				t.Errorf("repeat = %d %s, want %d %s", again.status, again.text, first.status, first.text)
			}
			if mismatch := w.api(tt.method, tt.path, tt.change, key); mismatch.status != 422 || mismatch.slug() != "idempotency-mismatch" {
				t.Errorf("another body under the key = %d %s, want 422 idempotency-mismatch", mismatch.status, mismatch.text)
			}
			if after := w.store.Position(); after != before {
				t.Errorf("repeats moved the position from %v to %v", before, after)
			}
		})
	}
	t.Run("another path is another scope", func(t *testing.T) {
		key := header{"Idempotency-Key": "shared"}
		a, b := w.api("POST", acc+"/grants", `{"entitlement": "pro", "duration_days": 1}`, key), w.api("POST", other+"/grants", `{"entitlement": "pro", "duration_days": 1}`, key)
		if a.status != 201 || b.status != 201 || a.str("grant_id") == b.str("grant_id") {
			t.Errorf("%d %s and %d %s, want two grants", a.status, a.text, b.status, b.text)
		}
	})
	t.Run("a key that is none", func(t *testing.T) {
		if r := w.api("POST", "/v1/accounts", `{}`, header{"Idempotency-Key": strings.Repeat("x", 300)}); r.status != 400 {
			t.Errorf("POST with a key of 300 bytes = %d %s", r.status, r.text)
		}
	})
}

// TestEventLists pages through the audit trail, by environment, by account, by revision, in both forms.
func TestEventLists(t *testing.T) {
	w := oneWriter(t)
	acc := w.account()
	var ids []string
	var revisions []string
	for i := range 5 {
		id := unique("evt_")
		r := w.stripe(event(id, "customer.subscription.created", subscription(fmt.Sprintf("sub_%d", i), acc, "price_pro")))
		ids, revisions = append(ids, id), append(revisions, r.str("revision"))
	}
	collect := func(path string) []string {
		var got []string
		for next := ""; ; {
			r := w.api("GET", path+next, "")
			list, ok := r.json["events"].([]any)
			if !ok {
				t.Fatalf("GET %s = %d %s", path+next, r.status, r.text)
			}
			for _, e := range list {
				if e := e.(object); e["provider"] == "stripe" {
					got = append(got, e["event_id"].(string))
				}
			}
			cursor := r.str("next")
			if cursor == "" {
				return got
			}
			next = "&cursor=" + cursor
		}
	}
	for path, want := range map[string][]string{
		"/v1/events?limit=2":                          ids,
		"/v1/accounts/" + acc + "/events?limit=2":     ids,
		"/v1/events?limit=2&after=" + revisions[1]:    ids[2:],
		"/v1/events?limit=1000&after=" + revisions[4]: nil,
	} {
		if got := collect(path); !slices.Equal(got, want) {
			t.Errorf("GET %s gave %v, want %v", path, got, want)
		}
	}
	r := w.api("GET", "/v1/events?limit=3", "", header{"Accept": "application/x-ndjson"})
	lines := strings.Split(strings.TrimSpace(r.text), "\n")
	if r.header.Get("Content-Type") != "application/x-ndjson" || len(lines) != 3 || r.header.Get(nextHeader) == "" {
		t.Errorf("NDJSON of 3: %d lines, type %q, next %q", len(lines), r.header.Get("Content-Type"), r.header.Get(nextHeader))
	}
	for _, line := range lines {
		if !json.Valid([]byte(line)) {
			t.Errorf("line is no JSON: %s", line)
		}
	}
	one := w.api("GET", "/v1/events/"+ids[0]+"?provider=stripe", "")
	if one.str("outcome") != "recorded" || one.str("account_id") != acc || one.str("purchase_id") != "stripe:sub_0" || one.str("received_at") == "" || one.json["data"] == nil {
		t.Errorf("GET /v1/events/%s = %s", ids[0], one.text)
	}
	if r := w.api("GET", "/v1/events/"+ids[0]+"?provider=apple", ""); r.status != 404 {
		t.Errorf("the event under another provider = %d", r.status)
	}
}

// TestUnclaimed shows that a payment without an account is listed, and claimed by the link that arrives later.
func TestUnclaimed(t *testing.T) {
	w := oneWriter(t)
	w.stripe(event(unique("evt_"), "customer.subscription.created", subscription("sub_lost", "", "price_pro")))
	r := w.api("GET", "/v1/unclaimed", "")
	list, _ := r.json["unclaimed"].([]any)
	if len(list) != 1 || list[0].(object)["purchase_id"] != "stripe:sub_lost" {
		t.Fatalf("GET /v1/unclaimed = %d %s", r.status, r.text)
	}
	if m := w.get("/metrics").text; !strings.Contains(m, `latchkey_writer_unclaimed_purchases{environment="sandbox"} 1`) {
		t.Error("the unclaimed payment is not in /metrics")
	}
	acc := w.api("POST", "/v1/accounts", `{"aliases": [{"kind": "stripe_customer", "value": "cus_sub_lost"}]}`).str("account_id")
	if pro := w.pro(acc); pro["active"] != true {
		t.Errorf("pro after the alias came = %v", pro)
	}
	if r := w.api("GET", "/v1/unclaimed", ""); !strings.Contains(r.text, `"unclaimed":[]`) {
		t.Errorf("GET /v1/unclaimed after the claim = %s", r.text)
	}
}

// TestLinearizableRead shows that what a write returned is what the next read has, from many clients at a time.
func TestLinearizableRead(t *testing.T) {
	w := oneWriter(t)
	acc := w.account()
	for i := range 50 {
		r := w.api("PATCH", "/v1/accounts/"+acc, fmt.Sprintf(`{"attributes": {"n": "%d"}}`, i))
		got := w.api("GET", "/v1/accounts/"+acc, "")
		if n := got.json["attributes"].(object)["n"]; n != fmt.Sprint(i) {
			t.Fatalf("after write %d (revision %s) a read has %v at %s", i, r.str("revision"), n, got.str("revision"))
		}
	}
}

// TestOps shows what a monitor sees.
func TestOps(t *testing.T) {
	w := oneWriter(t)
	if r := w.get("/healthz"); r.status != http.StatusOK {
		t.Errorf("/healthz = %d %s", r.status, r.text)
	}
	if r := w.get("/readyz"); r.text != `{"ready":true,"role":"leader","reasons":[]}`+"\n" {
		t.Errorf("/readyz = %d %s", r.status, r.text)
	}
	s := w.get("/status")
	position := w.store.Position()
	if s.json["epoch"] != 1.0 || s.json["revision"] != float64(position.N) || s.str("state_hash") != position.StateHash.String() || s.str("as_of") == "" ||
		s.str("leader") != "w1" || len(s.json["members"].([]any)) != 1 {
		t.Errorf("/status = %s", s.text)
	}
	m := w.get("/metrics").text
	for _, line := range []string{
		`latchkey_writer_webhooks_total{outcome="invalid_signature",provider="stripe"} 0`,
		`latchkey_writer_webhooks_total{outcome="recorded",provider="apple"} 0`,
		`latchkey_writer_http_requests_total{listener="public",route="POST /v1/accounts",status="5xx"} 0`,
		`latchkey_writer_credentials_refused_total{reason="revoked"} 0`,
		`latchkey_writer_proposals_total{outcome="unavailable"} 0`,
	} {
		if !strings.Contains(m, line) {
			t.Errorf("/metrics does not have %s from the start", line)
		}
	}
}

// canaries are what a message must leave behind nowhere: secrets, names, addresses, free text.
var canaries = []string{"CANARY_name", "canary@example.com", "CANARY_street", "CANARY_note", "CANARY_4242", "CANARY_secret", "CANARY_phone", "CANARY_meta"}

// TestNothingPersonalIsStored plants canaries in every place of a message where people write, and looks for them, for secrets and for
// keys in every file and in the log.
func TestNothingPersonalIsStored(t *testing.T) {
	w := oneWriter(t)
	acc := w.account()
	session := w.api("POST", "/v1/accounts/"+acc+"/sessions", `{"device_id": "d"}`).str("session_token")
	sub := subscription("sub_canary", acc, "price_pro")
	sub["description"] = "CANARY_note"
	sub["metadata"].(object)["nickname"] = "CANARY_meta"
	sub["default_payment_method"] = object{"billing_details": object{"name": "CANARY_name", "email": "canary@example.com", "phone": "CANARY_phone",
		"address": object{"line1": "CANARY_street"}}, "card": object{"last4": "CANARY_4242"}}
	for i, body := range [][]byte{
		event("evt_canary1", "customer.subscription.created", sub),
		event("evt_canary2", "invoice.paid", object{"id": "in_1", "object": "invoice", "status": "paid", "subscription": "sub_canary", "customer_name": "CANARY_name",
			"customer_email": "canary@example.com", "customer_address": object{"line1": "CANARY_street"}, "description": "CANARY_note", "metadata": object{"nickname": "CANARY_meta"},
			"payment_intent": "pi_1", "lines": object{"data": []object{{"id": "il_1", "description": "CANARY_note", "amount": 999, "price": object{"id": "price_pro", "nickname": "CANARY_name"}}}}}),
		event("evt_canary3", "customer.updated", object{"id": "cus_1", "object": "customer", "name": "CANARY_name", "email": "canary@example.com", "phone": "CANARY_phone"}),
		event("evt_canary4", "payment_intent.succeeded", object{"id": "pi_1", "object": "payment_intent", "client_secret": "CANARY_secret", "receipt_email": "canary@example.com"}),
		[]byte(`{"id": "CANARY_name", "email": "canary@example.com", CANARY_note`),
		[]byte(`{"id": 5, "type": "CANARY_note", "object": "CANARY_name"}`),
	} {
		if r := w.stripe(body); r.status != http.StatusOK {
			t.Errorf("message %d = %d %s", i, r.status, r.text)
		}
	}
	w.do("POST", "/v1/webhooks/sandbox/stripe", "CANARY_note", header{"Stripe-Signature": "t=1,v1=CANARY_secret"})
	w.do("GET", "/v1/catalog", "", auth("lk_sandbox_sk_CANARY_secret"))
	w.api("POST", "/v1/accounts", `{"CANARY_note": 1}`)
	send("GET", "http://"+w.InternalAddr().String()+"/internal/v1/snapshot", "", nil)
	w.stop()
	secrets := append([]string{stripeSecret, stripeSecret2, serverKey, readKey, session, strings.Split(session, ".")[2]}, canaries...)
	files := 0
	err := filepath.WalkDir(w.cfg.Node.DataDir, func(path string, entry os.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		files++
		return scan(t, path, secrets)
	})
	if err != nil || files < 4 {
		t.Errorf("scanned %d files, %v", files, err)
	}
	for _, s := range secrets {
		if strings.Contains(w.logs.String(), s) {
			t.Errorf("the log has %q", s)
		}
	}
}

// scan looks for texts in a file, and in what is compressed in it: commands of the log and the journal, snapshots.
func scan(t *testing.T, path string, texts []string) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	plain := []string{string(b)}
	for rest := b; ; {
		at := bytes.Index(rest, []byte{0x28, 0xb5, 0x2f, 0xfd}) // RFC 8878: the magic number of a zstd frame
		if at < 0 {
			break
		}
		frame, err := zstd.NewReader(bytes.NewReader(rest[at:]), zstd.WithDecoderConcurrency(1))
		if err != nil {
			return err
		}
		text, _ := io.ReadAll(frame) // what follows the frame is an error, and no matter
		frame.Close()
		plain = append(plain, string(text))
		rest = rest[at+4:]
	}
	for _, part := range plain {
		for _, text := range texts {
			if strings.Contains(part, text) {
				t.Errorf("%s has %q", filepath.Base(path), text)
			}
		}
	}
	return nil
}
