package writer

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/latchkey/latchkey/writer/internal/store"
)

// TestALinkLeadsAnAppToItsAccount: what an anonymous install bought is there after it, the repeat is answered alike, and nobody else can use it.
func TestALinkLeadsAnAppToItsAccount(t *testing.T) {
	w := oneWriter(t)
	first := w.begin()
	app := first.str("session_token")
	sub := unique("sub_")
	w.stripe(event(unique("evt_"), "customer.subscription.created", subscription(sub, first.str("account_id"), "price_pro")))
	id := w.account()
	once := header{"Idempotency-Key": "link"}
	link := w.api("POST", "/v1/link-tokens", fmt.Sprintf(`{"account_id": %q}`, id), once)
	token := link.str("token")
	if link.status != 201 || !strings.HasPrefix(token, "lkl_") || link.str("expires_at") == "" || link.str("account_id") != id {
		t.Fatalf("POST /v1/link-tokens = %d %s", link.status, link.text)
	}
	if again := w.api("POST", "/v1/link-tokens", fmt.Sprintf(`{"account_id": %q}`, id), once); again.text != link.text {
		t.Errorf("the repeat = %s, want %s", again.text, link.text)
	}
	path := "/v1/link-tokens/" + token + "/redeem"
	if r := w.do("POST", path, fmt.Sprintf(`{"account_id": %q}`, id), auth(app)); r.status != 403 {
		t.Errorf("a body that names another account = %d %s, want 403", r.status, r.text)
	}
	h := auth(app)
	h["Idempotency-Key"] = "redeem"
	r := w.do("POST", path, `{}`, h)
	if r.status != 200 || r.str("account_id") != id || r.str("session_token") == "" || fmt.Sprint(r.json["moved"]) != "[stripe:"+sub+"]" || r.str("merge_id") == "" {
		t.Fatalf("redeem = %d %s, want %s with the purchase", r.status, r.text, id)
	}
	if again := w.do("POST", path, `{}`, h); again.text != r.text {
		t.Errorf("the repeat = %s, want %s", again.text, r.text)
	}
	if again := w.do("POST", path, `{}`, auth(r.str("session_token"))); again.status != 200 || again.str("account_id") != id || fmt.Sprint(again.json["moved"]) != fmt.Sprint(r.json["moved"]) {
		t.Errorf("the same person again = %d %s, want the same", again.status, again.text)
	}
	if pro := w.pro(id); pro == nil || pro["active"] != true {
		t.Errorf("pro of %s = %v, want it active", id, pro)
	}
	if other := w.do("POST", path, `{}`, auth(w.begin().str("session_token"))); other.status != 409 || other.slug() != "link-used" {
		t.Errorf("another app = %d %s, want link-used", other.status, other.text)
	}
	if strings.Contains(w.logs.String(), token) {
		t.Error("the log shows the token")
	}
}

// TestALinkGivesAPaymentThatWaitsToWhoHasIt: paid on the web before there was any account.
func TestALinkGivesAPaymentThatWaitsToWhoHasIt(t *testing.T) {
	w := oneWriter(t)
	sub := unique("sub_")
	w.stripe(event(unique("evt_"), "customer.subscription.created", subscription(sub, "", "price_pro")))
	link := w.api("POST", "/v1/link-tokens", fmt.Sprintf(`{"unclaimed": "stripe:%s"}`, sub))
	app := w.begin()
	r := w.do("POST", "/v1/link-tokens/"+link.str("token")+"/redeem", ``, auth(app.str("session_token")))
	if r.status != 200 || r.str("account_id") != app.str("account_id") || fmt.Sprint(r.json["moved"]) != "[stripe:"+sub+"]" {
		t.Fatalf("redeem = %d %s", r.status, r.text)
	}
	if pro := w.pro(app.str("account_id")); pro == nil || pro["active"] != true {
		t.Errorf("pro = %v, want it active", pro)
	}
}

func TestWrongLinksAreRefused(t *testing.T) {
	w := oneWriter(t)
	id := w.account()
	for body, slug := range map[string]string{
		`{}`: "invalid-request",
		`{"account_id": "acc_00000000000000000000000000"}`:        "not-found",
		`{"unclaimed": "stripe:sub_none"}`:                        "not-found",
		`{"alias": {"kind": "custom", "value": "nobody"}}`:        "not-found",
		`{"alias": {"kind": "x", "value": "y"}}`:                  "invalid-request",
		fmt.Sprintf(`{"account_id": %q, "unclaimed": "x"}`, id):   "invalid-request",
		fmt.Sprintf(`{"account_id": %q, "ttl_seconds": 59}`, id):  "invalid-request",
		fmt.Sprintf(`{"account_id": %q, "send_to": "a@b.c"}`, id): "not-configured",
		fmt.Sprintf(`{"account_id": %q, "ttl_seconds": 1e9}`, id): "invalid-request",
	} {
		if r := w.api("POST", "/v1/link-tokens", body); r.slug() != slug {
			t.Errorf("%s = %d %s, want %s", body, r.status, r.text, slug)
		}
	}
	link := w.api("POST", "/v1/link-tokens", fmt.Sprintf(`{"account_id": %q}`, id))
	path := "/v1/link-tokens/" + link.str("token") + "/redeem"
	if r := w.do("POST", path, `{}`, auth(productionKey)); r.slug() != "other-environment" {
		t.Errorf("a link of another environment = %d %s, want other-environment", r.status, r.text)
	}
	if r := w.do("POST", path, `{}`, auth(readKey)); r.status != 403 {
		t.Errorf("a read key = %d %s, want 403", r.status, r.text)
	}
	if r := w.do("POST", path, `{}`, nil); r.status != 401 {
		t.Errorf("nobody = %d %s, want 401", r.status, r.text)
	}
	if r := w.api("POST", path, `{}`); r.status != 200 || r.str("account_id") != id {
		t.Errorf("a backend = %d %s, want %s", r.status, r.text, id)
	}
}

// TestALinkIsMailed: to the address that the backend names, by the customer's own backend here; the address is in no log, and a repeat sends the same link (R37, R116).
func TestALinkIsMailed(t *testing.T) {
	sent := make(chan map[string]string, 8)
	backend := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		var m map[string]string
		if json.NewDecoder(r.Body).Decode(&m) != nil || m["to"] == "canary.refused@example.com" {
			rw.WriteHeader(http.StatusBadRequest)
			return
		}
		sent <- m
	}))
	defer backend.Close()
	cfg := testConfigs(t, 1)[0]
	cfg.Mail = MailConfig{LinkURL: "https://app.example.com/in?t={token}", Webhook: &MailWebhookConfig{URL: backend.URL, Secret: "secret"}}
	w := startWriter(t, cfg)
	w.awaitReady()
	body := fmt.Sprintf(`{"account_id": %q, "send_to": "canary.ann@example.com"}`, w.account())
	once := header{"Idempotency-Key": "mail"}
	first := w.api("POST", "/v1/link-tokens", body, once)
	again := w.api("POST", "/v1/link-tokens", body, once)
	if first.status != 201 || again.text != first.text {
		t.Fatalf("POST = %d %s, the repeat = %s", first.status, first.text, again.text)
	}
	one, two := <-sent, <-sent
	if token := first.str("token"); one["to"] != "canary.ann@example.com" || one["token"] != token || !strings.Contains(one["text"], "https://app.example.com/in?t="+token) || one["id"] != two["id"] {
		t.Errorf("sent %v, then %v", one, two)
	}
	for _, to := range []string{"canary.refused@example.com", "canary no address"} {
		if r := w.api("POST", "/v1/link-tokens", fmt.Sprintf(`{"account_id": %q, "send_to": %q}`, first.str("account_id"), to)); r.slug() != "invalid-request" || strings.Contains(r.text, "canary") {
			t.Errorf("to %s = %d %s, want invalid-request that quotes nothing", to, r.status, r.text)
		}
	}
	if logs := w.logs.String(); strings.Contains(logs, "canary.") || strings.Contains(logs, first.str("token")) {
		t.Error("the log shows the address or the token")
	}
}

// TestALinkToASharedAddressSettlesTheSuggestion: two accounts that are somebody's have one address, which opens a suggestion and nothing else. Who redeems the link that was
// mailed to the address has shown that both are theirs; a link that went nowhere shows nothing (R35, R37). Nor does any once support has said that they are two people.
func TestALinkToASharedAddressSettlesTheSuggestion(t *testing.T) {
	backend := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {}))
	defer backend.Close()
	cfg := testConfigs(t, 1)[0]
	cfg.Mail = MailConfig{LinkURL: "https://app.example.com/in?t={token}", Webhook: &MailWebhookConfig{URL: backend.URL, Secret: "secret"}}
	w := startWriter(t, cfg)
	w.awaitReady()
	ann, other := w.account(), w.account()
	w.setEmail(ann, "canary.ann@example.com")
	w.setEmail(other, "Canary.Ann@example.com")
	w.stripe(event(unique("evt_"), "customer.subscription.created", subscription(unique("sub_"), other, "price_pro")))
	follow := func(to string) reply {
		t.Helper()
		link := w.api("POST", "/v1/link-tokens", fmt.Sprintf(`{"account_id": %q%s}`, ann, to)).str("token")
		session := w.api("POST", "/v1/accounts/"+other+"/sessions", `{}`).str("session_token")
		return w.do("POST", "/v1/sessions/login", fmt.Sprintf(`{"link_token": %q}`, link), auth(session))
	}
	if got, want := w.suggested(), fmt.Sprint([]string{min(ann, other), max(ann, other)}); got != want {
		t.Fatalf("suggested %q, want %q", got, want)
	}
	for name, to := range map[string]string{"a link that nobody mailed": "", "a link to another address": `, "send_to": "canary.bob@example.com"`} {
		if r := follow(to); r.status != 200 || r.str("account_id") != ann || r.str("merge_id") != "" || w.suggested() == "" || w.pro(ann)["active"] == true {
			t.Errorf("%s = %d %s, want a switch that settles nothing", name, r.status, r.text)
		}
	}
	r := follow(`, "send_to": "canary.ann@example.com"`)
	if r.status != 200 || r.str("account_id") != ann || r.str("merge_id") == "" || len(r.json["moved"].([]any)) != 1 {
		t.Fatalf("the link to the address = %d %s, want a merge and what was bought", r.status, r.text)
	}
	if got := w.suggested(); got != "" || w.pro(ann)["active"] != true {
		t.Errorf("after the link suggested %q and pro %v, want none and active", got, w.pro(ann))
	}
	if undone := w.api("DELETE", "/v1/accounts/"+ann+"/merges/"+r.str("merge_id"), ""); undone.status != 200 || w.pro(ann)["active"] == true || w.suggested() == "" {
		t.Errorf("undone = %d %s: suggested %q, pro %v", undone.status, undone.text, w.suggested(), w.pro(ann))
	}
	listed, _ := w.api("GET", "/v1/merge-suggestions", "").json["suggestions"].([]any)
	if len(listed) != 1 {
		t.Fatalf("%d suggestions after the merge was undone, want 1", len(listed))
	}
	if r := w.api("DELETE", fmt.Sprintf("/v1/merge-suggestions/%v", listed[0].(object)["suggestion_id"]), ""); r.status != 200 {
		t.Fatalf("DELETE of the suggestion = %d %s", r.status, r.text)
	}
	if r := follow(`, "send_to": "canary.ann@example.com"`); r.status != 200 || r.str("account_id") != ann || r.str("merge_id") != "" || w.pro(ann)["active"] == true {
		t.Errorf("the link after support said that they are two = %d %s, want a switch", r.status, r.text)
	}
}

// TestALoginByALink: by the same rules as any other login, and with its answer.
func TestALoginByALink(t *testing.T) {
	w := oneWriter(t)
	login := func(session, link string, more ...header) reply {
		h := auth(session)
		for _, m := range more {
			for name, value := range m {
				h[name] = value
			}
		}
		return w.do("POST", "/v1/sessions/login", fmt.Sprintf(`{"link_token": %q}`, link), h)
	}
	link := func(body string) string {
		t.Helper()
		r := w.api("POST", "/v1/link-tokens", body)
		if r.status != 201 {
			t.Fatalf("POST /v1/link-tokens = %d %s", r.status, r.text)
		}
		return r.str("token")
	}
	known := w.account()
	toKnown := link(fmt.Sprintf(`{"account_id": %q}`, known))
	first := w.begin()
	sub := unique("sub_")
	w.stripe(event(unique("evt_"), "customer.subscription.created", subscription(sub, first.str("account_id"), "price_pro")))
	once := header{"Idempotency-Key": "login"}
	in := login(first.str("session_token"), toKnown, once)
	if in.status != 200 || in.str("account_id") != known || in.str("session_token") == "" || in.json["anonymous"] != false || in.str("merge_id") == "" || fmt.Sprint(in.json["moved"]) != "[stripe:"+sub+"]" {
		t.Fatalf("login = %d %s, want %s, which takes the anonymous account in", in.status, in.text, known)
	}
	if again := login(first.str("session_token"), toKnown, once); again.text != in.text {
		t.Errorf("the repeat = %s, want %s", again.text, in.text)
	}
	if again := login(first.str("session_token"), toKnown); again.status != 200 || again.str("account_id") != known || again.str("merge_id") != in.str("merge_id") {
		t.Errorf("the same link again = %d %s, want the same", again.status, again.text)
	}
	if other := login(w.begin().str("session_token"), toKnown); other.status != 409 || other.slug() != "link-used" {
		t.Errorf("somebody else = %d %s, want link-used", other.status, other.text)
	}
	if undone := w.api("DELETE", "/v1/accounts/"+known+"/merges/"+in.str("merge_id"), ""); undone.status != 200 {
		t.Errorf("undo of the merge = %d %s", undone.status, undone.text)
	}

	second := w.account()
	if r := login(in.str("session_token"), link(fmt.Sprintf(`{"account_id": %q}`, second))); r.status != 200 || r.str("account_id") != second || r.str("merge_id") != "" || fmt.Sprint(r.json["moved"]) != "[]" {
		t.Errorf("from a known account = %d %s, want %s and nothing moved", r.status, r.text, second)
	}

	waits := unique("sub_")
	w.stripe(event(unique("evt_"), "customer.subscription.created", subscription(waits, "", "price_pro")))
	app := w.begin()
	r := login(app.str("session_token"), link(fmt.Sprintf(`{"unclaimed": "stripe:%s"}`, waits)))
	if r.status != 200 || r.str("account_id") != app.str("account_id") || r.json["anonymous"] != true || fmt.Sprint(r.json["moved"]) != "[stripe:"+waits+"]" {
		t.Errorf("a payment that waited = %d %s, want it with the account that the app has", r.status, r.text)
	}
	if pro := w.pro(app.str("account_id")); pro["active"] != true {
		t.Errorf("pro = %v, want it active", pro)
	}

	session := w.begin().str("session_token")
	for body, slug := range map[string]string{
		`{"link_token": "lkl_nobody"}`:               "not-found",
		`{"link_token": "x", "session_token": "y"}`:  "invalid-request",
		`{"link_token": "x", "identity_token": "y"}`: "invalid-request",
		`{}`: "invalid-request",
	} {
		if r := w.do("POST", "/v1/sessions/login", body, auth(session)); r.slug() != slug {
			t.Errorf("%s = %d %s, want %s", body, r.status, r.text, slug)
		}
	}
}

// TestALinkThatCameTooLateBringsANewOne: to the same address, which the one who asks is not told, and not again at once.
func TestALinkThatCameTooLateBringsANewOne(t *testing.T) {
	sent := make(chan map[string]string, 8)
	var down atomic.Bool
	backend := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		var m map[string]string
		if down.Load() || json.NewDecoder(r.Body).Decode(&m) != nil {
			rw.WriteHeader(http.StatusBadRequest)
			return
		}
		sent <- m
	}))
	defer backend.Close()
	cfg := testConfigs(t, 1)[0]
	cfg.Mail = MailConfig{LinkURL: "https://app.example.com/in?t={token}", Webhook: &MailWebhookConfig{URL: backend.URL, Secret: "secret"}}
	var ahead atomic.Int64 // of the machine's clock
	cfg.Now = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	w := startWriter(t, cfg)
	w.awaitReady()
	const address = "canary.late@example.com"
	known := w.account()
	old := w.api("POST", "/v1/link-tokens", fmt.Sprintf(`{"account_id": %q, "send_to": %q}`, known, address)).str("token")
	unmailed := w.api("POST", "/v1/link-tokens", fmt.Sprintf(`{"account_id": %q}`, known)).str("token")
	<-sent
	app := w.begin()
	login := func(link string) reply {
		return w.do("POST", "/v1/sessions/login", fmt.Sprintf(`{"link_token": %q}`, link), auth(app.str("session_token")))
	}
	ahead.Add(int64(accountLinkTTL * time.Second))
	late := login(old)
	if late.status != 410 || late.slug() != "link-expired" || late.str("new_link") != "mailed" {
		t.Fatalf("a late link = %d %s, want link-expired and a new one", late.status, late.text)
	}
	fresh := <-sent
	if fresh["to"] != address || fresh["token"] == old {
		t.Errorf("sent %v, want a new link to the same address", fresh)
	}
	for what, r := range map[string]reply{"again": login(old), "a link that nobody mailed": login(unmailed)} {
		if r.slug() != "link-expired" || r.str("new_link") != "" {
			t.Errorf("%s = %d %s, want link-expired alone", what, r.status, r.text)
		}
	}
	ahead.Add(int64(store.RelinkSeconds * time.Second))
	down.Store(true)
	if r := login(old); r.slug() != "link-expired" || r.str("new_link") != "" || r.header.Get("Retry-After") != fmt.Sprint(store.RelinkSeconds) {
		t.Errorf("without mail = %d %v %s, want link-expired and when to try again", r.status, r.header, r.text)
	}
	down.Store(false)
	if r := login(fresh["token"]); r.status != 200 || r.str("account_id") != known {
		t.Errorf("the new link = %d %s, want %s", r.status, r.text, known)
	}
	if n := len(sent); n != 0 {
		t.Errorf("%d more mails went out", n)
	}
	for _, text := range []string{w.logs.String(), late.text} {
		if strings.Contains(text, "canary.") || strings.Contains(text, fresh["token"]) || strings.Contains(text, old) {
			t.Error("the log or the answer shows the address or a token")
		}
	}
}
