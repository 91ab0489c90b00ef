package writer

import (
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// personal is a person of whom everything is kept that can be, in two accounts that are merged; each text has mark in it.
func (w *testWriter) personal(mark string) (id, merged string) {
	w.t.Helper()
	must := func(status int, method, path, body string, more ...header) reply {
		w.t.Helper()
		r := w.api(method, path, body, more...)
		if r.status != status {
			w.t.Fatalf("%s %s = %d %s, want %d", method, path, r.status, r.text, status)
		}
		return r
	}
	id = must(201, "POST", "/v1/accounts", fmt.Sprintf(`{"aliases": [{"kind": "custom", "value": "%s-alias"}], "attributes": {"%s-name": "%s-value", "gone": "%s-gone"}}`, mark, mark, mark, mark)).str("account_id")
	merged = must(201, "POST", "/v1/accounts", fmt.Sprintf(`{"aliases": [{"kind": "oidc_subject", "value": "https://id.example|%s"}]}`, mark), header{"Idempotency-Key": mark + "-1"}).str("account_id")
	must(200, "PATCH", "/v1/accounts/"+id, fmt.Sprintf(`{"attributes": {"gone": null, "second": "%s-second"}}`, mark))
	must(200, "PATCH", "/v1/accounts/"+id, fmt.Sprintf(`{"email": "%s.one@example.com", "attributes": {"third": "%s-third"}}`, mark, mark))
	must(200, "PATCH", "/v1/accounts/"+id, fmt.Sprintf(`{"email": "%s.two@example.com"}`, mark))
	must(200, "PATCH", "/v1/accounts/"+merged, fmt.Sprintf(`{"email": "%s.three@example.com", "attributes": {"second": "%s-of-the-other"}}`, mark, mark))
	must(201, "POST", "/v1/accounts/"+merged+"/grants", fmt.Sprintf(`{"entitlement": "extra", "expires_at": null, "reason": "%s-reason"}`, mark))
	must(200, "POST", "/v1/accounts/"+id+"/aliases", fmt.Sprintf(`{"kind": "custom", "value": "%s-second-alias"}`, mark), header{"Idempotency-Key": mark + "-2"})
	session := must(201, "POST", "/v1/accounts/"+id+"/sessions", `{}`).str("session_token")
	if r := w.do("POST", "/v1/devices", fmt.Sprintf(`{"device_id": "phone", "platform": "apns", "push_token": "%s-token"}`, mark), auth(session)); r.status != 200 {
		w.t.Fatalf("device = %d %s", r.status, r.text)
	}
	must(201, "POST", "/v1/accounts/"+id+"/merges", fmt.Sprintf(`{"from": %q}`, merged))
	if r := w.stripe(event(unique("evt_"), "customer.subscription.created", subscription("sub_"+mark, id, "price_pro"))); r.status != 200 {
		w.t.Fatalf("purchase = %d %s", r.status, r.text)
	}
	return id, merged
}

// withoutCanary fails for each file of a data folder, and each of texts, that has mark in it.
func withoutCanary(t *testing.T, dir, mark string, texts map[string]string) {
	t.Helper()
	files := 0
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		files++
		b, err := os.ReadFile(path)
		texts[path] = string(b)
		return err
	})
	if err != nil || files < 3 {
		t.Errorf("%d files were looked through, %v", files, err)
	}
	for name, text := range texts {
		if strings.Contains(strings.ToLower(text), mark) {
			t.Errorf("%s has what was said of a person", name)
		}
	}
}

// TestWhatIsSaidOfAPersonIsShownAndErased: all of it is in the account and in the export, none of it in a file at any time, and after the erasure none is shown.
func TestWhatIsSaidOfAPersonIsShownAndErased(t *testing.T) {
	const mark = "canary5c1e"
	cfg := testConfigs(t, 1)[0]
	w := startWriter(t, cfg)
	w.awaitReady()
	id, merged := w.personal(mark)
	shown := w.api("GET", "/v1/accounts/custom:"+mark+"-alias", "")
	if got := fmt.Sprint(shown.json["attributes"]); got != fmt.Sprintf("map[%s-name:%s-value second:%s-second third:%s-third]", mark, mark, mark, mark) {
		t.Errorf("attributes %s", got)
	}
	said := []string{mark + "-alias", mark + "-second-alias", "https://id.example|" + mark, mark + ".one@example.com", mark + ".two@example.com", mark + "-reason"}
	for _, text := range said {
		if !strings.Contains(shown.text, `"`+text+`"`) {
			t.Errorf("the account does not show %s: %s", text, shown.text)
		}
	}
	if r := w.api("POST", "/v1/accounts", fmt.Sprintf(`{"aliases": [{"kind": "oidc_subject", "value": "https://id.example|%s"}]}`, mark), header{"Idempotency-Key": mark + "-1"}); r.str("account_id") != merged || r.status != 201 {
		t.Errorf("the repeat under a key = %d %s", r.status, r.text)
	}
	if r := w.api("POST", "/v1/accounts/"+id+"/aliases", fmt.Sprintf(`{"kind": "custom", "value": "%s-third-alias"}`, mark), header{"Idempotency-Key": mark + "-2"}); r.slug() != "idempotency-mismatch" {
		t.Errorf("another alias under the same key = %d %s", r.status, r.text)
	}
	if r := w.api("POST", "/v1/accounts", fmt.Sprintf(`{"aliases": [{"kind": "custom", "value": "%s-alias"}]}`, mark)); r.status != 200 || r.str("account_id") != id {
		t.Errorf("the account that owns the alias = %d %s", r.status, r.text)
	}
	session := w.api("POST", "/v1/accounts/"+merged+"/sessions", `{"device_id": "phone"}`).str("session_token")

	export := w.do("GET", "/v1/accounts/"+merged+"/export", "", auth(readKey))
	if export.status != 200 || export.json == nil || export.str("account_id") != id {
		t.Fatalf("export = %d %s", export.status, export.text)
	}
	for _, text := range append(said, mark+".three@example.com", mark+"-token", mark+"-value", "sub_"+mark, "account.exported", "customer.subscription.created", `"entitlements":[{"id":"`) {
		if !strings.Contains(export.text, text) {
			t.Errorf("the export has no %s: %s", text, export.text)
		}
	}
	if got := fmt.Sprint(export.json["account_ids"]); got != fmt.Sprintf("[%s %s]", id, merged) {
		t.Errorf("accounts of the export %s", got)
	}

	once := header{"Idempotency-Key": "erase"}
	erased := w.api("DELETE", "/v1/accounts/custom:"+mark+"-alias", "", once)
	if erased.status != 200 || fmt.Sprint(erased.json["erased"]) != fmt.Sprintf("[%s %s]", id, merged) || fmt.Sprint(erased.json["renewing"]) != "[stripe:sub_"+mark+"]" ||
		fmt.Sprint(erased.json["warnings"]) != "[cancel-subscription]" {
		t.Fatalf("erase = %d %s", erased.status, erased.text)
	}
	if again := w.api("DELETE", "/v1/accounts/custom:"+mark+"-alias", "", once); again.status != 200 || again.text != erased.text {
		t.Errorf("the repeat under the same key = %d %s", again.status, again.text)
	}
	for _, path := range []string{id, merged, "custom:" + mark + "-alias", "stripe_customer:cus_sub_" + mark} {
		for _, request := range []string{"GET /v1/accounts/%s", "GET /v1/accounts/%s/export", "GET /v1/accounts/%s/entitlements", "GET /v1/accounts/%s/events", "DELETE /v1/accounts/%s"} {
			method, address, _ := strings.Cut(fmt.Sprintf(request, path), " ")
			if r := w.api(method, address, ""); r.status != 404 || r.slug() != "not-found" {
				t.Errorf("%s %s = %d %s, want not-found", method, address, r.status, r.text)
			}
		}
	}
	for path, body := range map[string]string{"/v1/sessions/logout": `{}`, "/v1/purchase-intents": `{"provider": "stripe", "product_id": "price_pro"}`, "/v1/devices": `{"device_id": "phone", "platform": "apns", "push_token": "t"}`,
		"/v1/redemption-codes/AAAA/redeem": `{}`, "/v1/receipts": `{"receipts": [{"provider": "google", "package": "p", "purchase_token": "t"}]}`} {
		if r := w.do("POST", path, body, auth(session)); r.status != 401 || r.slug() != "invalid-credential" {
			t.Errorf("POST %s with a session of the erased account = %d %s, want 401 invalid-credential", path, r.status, r.text)
		}
	}
	if r := w.api("GET", "/v1/merge-suggestions", ""); strings.Contains(r.text, id) {
		t.Errorf("suggestions: %s", r.text)
	}
	renewal := subscription("sub_"+mark, id, "price_pro")
	renewal["current_period_end"] = time.Now().AddDate(0, 2, 0).Unix()
	if r := w.stripe(event(unique("evt_"), "customer.subscription.updated", renewal)); r.status != 200 {
		t.Fatalf("renewal = %d %s", r.status, r.text)
	}
	if r := w.api("GET", "/v1/unclaimed", ""); fmt.Sprint(r.json["unclaimed"]) != "[]" {
		t.Errorf("unclaimed: %s", r.text)
	}
	if r := w.api("GET", "/v1/events", ""); !strings.Contains(r.text, "account.erased") {
		t.Errorf("the audit trail has no erasure: %s", r.text)
	}
	// Support revives it for who shows that it is theirs.
	again := w.account()
	if r := w.api("POST", "/v1/unclaimed/stripe:sub_"+mark+"/claim", fmt.Sprintf(`{"account_id": %q}`, again)); r.status != 200 {
		t.Errorf("claim = %d %s", r.status, r.text)
	}
	if pro := w.pro(again); pro["active"] != true {
		t.Errorf("the purchase in the new account: %v", pro)
	}
	metrics := w.get("/metrics").text
	w.stop()
	// The mark is in the id of the subscription, which the provider says: it is not what is looked for.
	files := map[string]string{"log": w.logs.String(), "metrics": metrics}
	withoutCanary(t, cfg.Node.DataDir, mark+"-", files)
	for name, text := range files {
		for _, part := range []string{mark + ".", "|" + mark} {
			if strings.Contains(text, part) {
				t.Errorf("%s has %s", name, part)
			}
		}
	}
}

// TestOnlyWhoMayWriteErases: and nobody without a key exports.
func TestOnlyWhoMayWriteErases(t *testing.T) {
	w := oneWriter(t)
	id := w.account()
	for name, tt := range map[string]struct {
		method, path, key string
		status            int
	}{
		"a read key": {"DELETE", "", readKey, http.StatusForbidden}, "an app's key": {"DELETE", "", publicKey, http.StatusForbidden}, "no key": {"DELETE", "", "", http.StatusUnauthorized},
		"another environment": {"DELETE", "", productionKey, http.StatusNotFound}, "an export by an app's key": {"GET", "/export", publicKey, http.StatusForbidden},
		"an export of another environment": {"GET", "/export", productionKey, http.StatusNotFound},
	} {
		if r := w.do(tt.method, "/v1/accounts/"+id+tt.path, "", auth(tt.key)); r.status != tt.status {
			t.Errorf("%s = %d %s, want %d", name, r.status, r.text, tt.status)
		}
	}
	if r := w.api("GET", "/v1/accounts/"+id, ""); r.status != 200 {
		t.Errorf("GET = %d %s", r.status, r.text)
	}
}

// TestAnExportHasAllPages: of events and consumptions there may be more than one read gives.
func TestAnExportHasAllPages(t *testing.T) {
	w := oneWriter(t)
	id := w.account()
	for range exportPage + 5 {
		w.api("POST", "/v1/accounts/"+id+"/sessions", `{}`)
	}
	r := w.api("GET", "/v1/accounts/"+id+"/export", "")
	events, _ := r.json["events"].([]any)
	if want := exportPage + 5 + 2; len(events) != want { // it was made, and exported
		t.Errorf("%d events, want %d", len(events), want)
	}
	if got := fmt.Sprint(r.json["consumptions"], r.json["emails"], r.json["devices"], r.json["accesses"], r.json["purchase_intents"]); got != "[] [] [] [] []" {
		t.Errorf("what there is none of: %s", got)
	}
}
