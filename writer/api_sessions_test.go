package writer

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/latchkey/latchkey/pkg/entitlement"
)

// begin starts an anonymous session and returns the answer.
func (w *testWriter) begin(h ...header) reply {
	w.t.Helper()
	all := auth(publicKey)
	for _, one := range h {
		for name, value := range one {
			all[name] = value
		}
	}
	r := w.do("POST", "/v1/sessions", `{"device_id": "phone", "of_a_newer_app": 1}`, all)
	if r.status != 201 || r.json["anonymous"] != true || r.str("account_id") == "" || r.str("session_token") == "" || r.str("revision") == "" {
		w.t.Fatalf("POST /v1/sessions = %d %s, want an anonymous session", r.status, r.text)
	}
	return r
}

// TestAnAppWithoutABackend: from the first launch to a second device, with what was bought before the first login there on both.
func TestAnAppWithoutABackend(t *testing.T) {
	w := oneWriter(t)
	w.awaitReady()
	first := w.begin()
	anonymous := first.str("account_id")
	if expires, err := time.Parse(time.RFC3339, first.str("expires_at")); err != nil || time.Until(expires) < 365*24*time.Hour {
		t.Errorf("expires_at = %s, want a year: an anonymous account has no other name", first.str("expires_at"))
	}
	if shown := w.api("GET", "/v1/accounts/"+anonymous, ""); shown.json["anonymous"] != true {
		t.Errorf("GET of the account = %s, want it anonymous", shown.text)
	}
	w.stripe(event(unique("evt_"), "customer.subscription.created", subscription(unique("sub_"), anonymous, "price_pro")))
	backends := w.account()
	session := w.api("POST", "/v1/accounts/"+backends+"/sessions", `{}`).str("session_token")

	// The same under one Idempotency-Key is done once, and answered alike, the token included.
	login := func(present, key string) reply {
		h := auth(present)
		h["Idempotency-Key"] = key
		return w.do("POST", "/v1/sessions/login", fmt.Sprintf(`{"session_token": %q}`, session), h)
	}
	in := login(first.str("session_token"), "once")
	if in.status != 200 || in.str("account_id") != backends || in.json["anonymous"] != false || in.str("merge_id") == "" {
		t.Fatalf("login = %d %s, want %s and a merge", in.status, in.text, backends)
	}
	if again := login(first.str("session_token"), "once"); again.text != in.text {
		t.Errorf("the repeat = %s, want %s", again.text, in.text)
	}
	for _, id := range []string{anonymous, backends} {
		if pro := w.pro(id); pro == nil || pro["active"] != true {
			t.Errorf("pro of %s = %v, want it active", id, pro)
		}
	}
	// Signed in, the app switches, and nothing moves.
	other := w.account()
	session = w.api("POST", "/v1/accounts/"+other+"/sessions", `{}`).str("session_token")
	if r := login(in.str("session_token"), "switch"); r.status != 200 || r.str("account_id") != other || r.str("merge_id") != "" {
		t.Errorf("switch = %d %s, want %s without a merge", r.status, r.text, other)
	}
	if pro := w.pro(other); len(pro) != 0 {
		t.Errorf("pro of %s = %v, want none", other, pro)
	}
	out := w.do("POST", "/v1/sessions/logout", "", auth(in.str("session_token")))
	if id := out.str("account_id"); out.status != 200 || out.json["anonymous"] != true || id == anonymous || id == backends || id == "" {
		t.Errorf("logout = %d %s, want another anonymous account", out.status, out.text)
	}
}

// TestALoginLeavesBehindWhatSomebodyElseHas: support merged a person's account into the anonymous one of a device, where somebody else signs in, with a session or
// with a link.
func TestALoginLeavesBehindWhatSomebodyElseHas(t *testing.T) {
	w := oneWriter(t)
	w.awaitReady()
	ann := w.account()
	for _, tt := range []struct {
		name   string
		target func() string
	}{
		{"with a session", func() string {
			return fmt.Sprintf(`{"session_token": %q}`, w.api("POST", "/v1/accounts/"+ann+"/sessions", `{}`).str("session_token"))
		}},
		{"with a link", func() string {
			return fmt.Sprintf(`{"link_token": %q}`, w.api("POST", "/v1/link-tokens", fmt.Sprintf(`{"account_id": %q}`, ann)).str("token"))
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			first := w.begin()
			device := first.str("account_id")
			bob := w.api("POST", "/v1/accounts", fmt.Sprintf(`{"aliases": [{"kind": "custom", "value": %q}]}`, unique("bob-"))).str("account_id")
			w.stripe(event(unique("evt_"), "customer.subscription.created", subscription(unique("sub_"), bob, "price_pro")))
			if r := w.api("POST", "/v1/accounts/"+device+"/merges", fmt.Sprintf(`{"from": %q}`, bob)); r.status != 201 {
				t.Fatalf("merge = %d %s", r.status, r.text)
			}
			if shown := w.api("GET", "/v1/accounts/"+device, ""); shown.json["anonymous"] != false {
				t.Errorf("GET of the account = %s, want it somebody's", shown.text)
			}
			in := w.do("POST", "/v1/sessions/login", tt.target(), auth(first.str("session_token")))
			if in.status != 200 || in.str("account_id") != ann || in.str("merge_id") != "" {
				t.Errorf("login = %d %s, want %s without a merge", in.status, in.text, ann)
			}
			if pro := w.pro(ann); len(pro) != 0 {
				t.Errorf("pro of who signed in = %v, want none", pro)
			}
			if pro := w.pro(bob); pro == nil || pro["active"] != true {
				t.Errorf("pro of who bought it = %v, want it active", pro)
			}
		})
	}
}

// TestALogoutEndsTheDevicesSession: that one and no other, everywhere in the API of apps, and the device can sign in again at once.
func TestALogoutEndsTheDevicesSession(t *testing.T) {
	w := oneWriter(t)
	id := w.account()
	session := func(body string) string {
		t.Helper()
		return w.api("POST", "/v1/accounts/"+id+"/sessions", body).str("session_token")
	}
	phone, before, tablet, nameless, other := session(`{"device_id": "phone"}`), session(`{"device_id": "phone", "ttl_seconds": 3600}`), session(`{"device_id": "tablet"}`), session(`{}`), ""
	await(t, "a session of another second", func() bool {
		other = session(`{}`)
		return claimsOf(t, other).IssuedAt != claimsOf(t, nameless).IssuedAt
	})
	out := w.do("POST", "/v1/sessions/logout", "", auth(phone))
	if out.status != 200 || out.json["anonymous"] != true || out.str("account_id") == id {
		t.Fatalf("logout = %d %s", out.status, out.text)
	}
	if r := w.do("POST", "/v1/sessions/logout", "", auth(nameless)); r.status != 200 {
		t.Fatalf("logout without a device = %d %s", r.status, r.text)
	}
	for _, tt := range []struct {
		path, body string
		done       int // for one that counts
	}{
		{"/v1/purchase-intents", `{"provider": "stripe", "product_id": "price_life"}`, 200},
		{"/v1/receipts", `{"receipts": [{"provider": "stripe", "checkout_session_id": "cs_1"}]}`, 200},
		{"/v1/devices", `{"device_id": "x", "platform": "fcm", "push_token": "y"}`, 200},
		{"/v1/sessions/login", fmt.Sprintf(`{"session_token": %q}`, other), 200},
	} {
		for name, token := range map[string]string{"its session": phone, "an earlier one of the device": before, "one that names no device": nameless} {
			if r := w.do("POST", tt.path, tt.body, auth(token)); r.status != 401 || r.slug() != "session-ended" {
				t.Errorf("%s with %s = %d %s, want session-ended", tt.path, name, r.status, r.text)
			}
		}
		for name, token := range map[string]string{"another device's": tablet, "another that names no device": other} {
			if r := w.do("POST", tt.path, tt.body, auth(token)); r.slug() == "session-ended" || r.status == 401 {
				t.Errorf("%s with %s = %d %s", tt.path, name, r.status, r.text)
			}
		}
	}
	anonymous := out.str("session_token")
	if r := w.do("POST", "/v1/sessions/logout", "", auth(anonymous)); r.status != 200 {
		t.Errorf("logout of an anonymous account = %d %s", r.status, r.text)
	}
	back := w.do("POST", "/v1/sessions/login", fmt.Sprintf(`{"session_token": %q}`, session(`{"device_id": "phone"}`)), auth(anonymous)) // which goes on: nothing else leads to what it has
	if r := w.do("POST", "/v1/purchase-intents", `{"provider": "stripe", "product_id": "price_life"}`, auth(back.str("session_token"))); r.slug() == "session-ended" {
		t.Errorf("signed in again in the same second: %d %s", r.status, r.text)
	}
}

// TestAnOldSessionOfAMergedAccountEndsToo: what the app had before the login still leads to all that the person has, so it ends with the others.
func TestAnOldSessionOfAMergedAccountEndsToo(t *testing.T) {
	w := oneWriter(t)
	for name, end := range map[string]func(known, session string) reply{
		"a logout":                      func(_, session string) reply { return w.do("POST", "/v1/sessions/logout", "", auth(session)) },
		"a DELETE of the account's own": func(known, _ string) reply { return w.api("DELETE", "/v1/accounts/"+known+"/sessions", "") },
	} {
		begun := w.begin()
		old := begun.str("session_token")
		known := w.account()
		in := w.do("POST", "/v1/sessions/login", fmt.Sprintf(`{"session_token": %q}`, w.api("POST", "/v1/accounts/"+known+"/sessions", `{}`).str("session_token")), auth(old))
		if in.status != 200 || in.str("merge_id") == "" {
			t.Fatalf("login = %d %s, want a merge", in.status, in.text)
		}
		intent := func(session string) reply {
			return w.do("POST", "/v1/purchase-intents", `{"provider": "stripe", "product_id": "price_life"}`, auth(session))
		}
		if r := intent(old); r.status != 200 {
			t.Fatalf("before %s: the old session = %d %s", name, r.status, r.text)
		}
		if r := end(known, in.str("session_token")); r.status != 200 {
			t.Fatalf("%s = %d %s", name, r.status, r.text)
		}
		refused := func(when string) {
			t.Helper()
			if r := intent(old); r.slug() != "session-ended" {
				t.Errorf("%s: the old session = %d %s, want session-ended", when, r.status, r.text)
			}
			back := fmt.Sprintf(`{"session_token": %q}`, old)
			if r := w.do("POST", "/v1/sessions/login", back, auth(w.begin().str("session_token"))); r.slug() != "session-ended" {
				t.Errorf("%s: a login with it = %d %s, want session-ended", when, r.status, r.text)
			}
		}
		refused("after " + name)
		if r := w.api("DELETE", "/v1/accounts/"+known+"/merges/"+in.str("merge_id"), ""); r.status != 200 {
			t.Fatalf("undo = %d %s", r.status, r.text)
		}
		refused("after " + name + " and the end of the merge")
	}
}

// claimsOf reads a session token without judging it.
func claimsOf(t *testing.T, text string) (c struct {
	IssuedAt int64 `json:"iat"`
}) {
	t.Helper()
	parts := strings.Split(text, ".")
	if len(parts) != 3 {
		t.Fatalf("no token: %q", text)
	}
	body, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err == nil {
		err = json.Unmarshal(body, &c)
	}
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestSessionsAreRefused: each wrong request of an app is a problem of its own.
func TestSessionsAreRefused(t *testing.T) {
	w := oneWriter(t)
	w.awaitReady()
	begun := w.begin()
	present := begun.str("session_token")
	ended := w.begin()
	w.api("DELETE", "/v1/accounts/"+ended.str("account_id")+"/sessions", "")
	tests := []struct {
		name, path, body string
		header           header
		status           int
		slug             string
	}{
		{"no key", "/v1/sessions", `{}`, nil, 401, "invalid-credential"},
		{"a read key", "/v1/sessions", `{}`, auth(readKey), 403, "forbidden"},
		{"a device that is none", "/v1/sessions", `{"device_id": "a b"}`, auth(publicKey), 400, "invalid-request"},
		{"no JSON", "/v1/sessions", `{`, auth(publicKey), 400, "invalid-request"},
		{"a backend with an unknown field", "/v1/sessions", `{"device_id": "phone", "of_a_newer_app": 1}`, auth(serverKey), 400, "invalid-request"},
		{"a key instead of the session", "/v1/sessions/login", `{}`, auth(publicKey), 401, "invalid-credential"},
		{"nobody signs in", "/v1/sessions/login", `{}`, auth(present), 400, "invalid-request"},
		{"somebody without a session", "/v1/sessions/login", `{"session_token": "x"}`, auth(present), 401, "invalid-credential"},
		{"whose session was ended", "/v1/sessions/login", fmt.Sprintf(`{"session_token": %q}`, ended.str("session_token")), auth(present), 401, "session-ended"},
		{"from a session that was ended", "/v1/sessions/login", fmt.Sprintf(`{"session_token": %q}`, present), auth(ended.str("session_token")), 401, "session-ended"},
		{"a logout of a session that was ended", "/v1/sessions/logout", ``, auth(ended.str("session_token")), 401, "session-ended"},
		{"a body that is too large", "/v1/sessions/login", fmt.Sprintf(`{"session_token": "%020000d"}`, 1), auth(present), 413, "body-too-large"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if r := w.do("POST", tt.path, tt.body, tt.header); r.status != tt.status || r.slug() != tt.slug {
				t.Errorf("POST %s = %d %s, want %d %s", tt.path, r.status, r.text, tt.status, tt.slug)
			}
		})
	}
}

// TestNewAccountsAreBounded: a publishable key that somebody took out of the app fills no log, and the other environment goes on.
func TestNewAccountsAreBounded(t *testing.T) {
	var b begins
	now := time.Unix(1_790_000_000, 0)
	for i := range beginsBurst {
		if wait := b.take(entitlement.Sandbox, now); wait != 0 {
			t.Fatalf("account %d of a crowd waits %s", i, wait)
		}
	}
	wait := b.take(entitlement.Sandbox, now)
	if wait <= 0 || wait > time.Second {
		t.Errorf("one too many waits %s, want a part of a second", wait)
	}
	if other := b.take(entitlement.Production, now); other != 0 {
		t.Errorf("the other environment waits %s", other)
	}
	if after := b.take(entitlement.Sandbox, now.Add(wait)); after != 0 {
		t.Errorf("after the wait there is another of %s", after)
	}
}
