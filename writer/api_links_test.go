package writer

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
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
		`{}`:                               "invalid-request",
		`{"account_id": "acc_x"}`:          "not-found",
		`{"unclaimed": "stripe:sub_none"}`: "not-found",
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
	if r := w.do("POST", path, `{}`, auth(productionKey)); r.slug() != "not-found" {
		t.Errorf("a link of another environment = %d %s, want not-found", r.status, r.text)
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

// TestALinkIsMailed: to the address that the backend names, by the customer's own backend here; the address is in no log, and a repeat sends the same link.
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
