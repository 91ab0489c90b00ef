package writer

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"
)

const courseCatalog = `{"products": [
	{"provider": "stripe", "product_id": "price_course", "kind": "package", "accesses": [{"module": "algebra", "duration_days": 30}, {"module": "logic"}], "deliver": "code", "stack": "extend"},
	{"provider": "stripe", "product_id": "price_life", "kind": "non_consumable", "entitlements": ["pro"]}]}`

func (w *testWriter) putCourses() {
	w.t.Helper()
	if r := w.api("PUT", "/v1/catalog", courseCatalog); r.status != http.StatusOK {
		w.t.Fatalf("PUT catalog = %d %s", r.status, r.text)
	}
}

// module returns an entitlement of an account, as a backend sees it.
func (w *testWriter) module(account, id string) object {
	w.t.Helper()
	list, _ := w.api("GET", "/v1/accounts/"+account+"/entitlements", "").json["entitlements"].([]any)
	for _, e := range list {
		if e.(object)["id"] == id {
			return e.(object)
		}
	}
	return nil
}

var codeForm = regexp.MustCompile(`^[0-9A-HJKMNP-TV-Z]{4}(-[0-9A-HJKMNP-TV-Z]{4}){4}$`)

// TestACodeIsRedeemedOnce: by the app of the first who types it, however they do; what was redeemed shows as entitlements, whose days count from then.
func TestACodeIsRedeemedOnce(t *testing.T) {
	w := oneWriter(t)
	w.putCourses()
	once := header{"Idempotency-Key": "code"}
	made := w.api("POST", "/v1/redemption-codes", `{"provider": "stripe", "product_id": "price_course"}`, once)
	code := made.str("code")
	if made.status != 201 || !codeForm.MatchString(code) || !strings.HasPrefix(made.str("code_id"), "code_") || made.json["expires_at"] != nil {
		t.Fatalf("POST /v1/redemption-codes = %d %s", made.status, made.text)
	}
	if again := w.api("POST", "/v1/redemption-codes", `{"provider": "stripe", "product_id": "price_course"}`, once); again.text != made.text || again.status != 201 {
		t.Errorf("the repeat = %d %s, want %s", again.status, again.text, made.text)
	}
	if other := w.api("POST", "/v1/redemption-codes", `{"provider": "stripe", "product_id": "price_course"}`); other.str("code") == code || other.status != 201 {
		t.Errorf("another one = %d %s", other.status, other.text)
	}
	app, rival := w.begin(), w.begin()
	typed := "/v1/redemption-codes/" + strings.ToLower(strings.ReplaceAll(code, "-", "")) + "/redeem"
	path := "/v1/redemption-codes/" + code + "/redeem"
	if r := w.do("POST", path, fmt.Sprintf(`{"account_id": %q}`, rival.str("account_id")), auth(app.str("session_token"))); r.status != 403 {
		t.Errorf("a body that names another account = %d %s, want 403", r.status, r.text)
	}
	first := w.do("POST", typed, ``, auth(app.str("session_token")))
	if first.status != 200 || first.str("account_id") != app.str("account_id") || fmt.Sprint(first.json["accesses"]) != "[map[duration_days:30 module:algebra] map[duration_days:<nil> module:logic]]" {
		t.Fatalf("redeem = %d %s", first.status, first.text)
	}
	if again := w.do("POST", path, `{"later": true}`, auth(app.str("session_token"))); again.status != 200 || again.text != first.text {
		t.Errorf("its owner again = %d %s, want %s", again.status, again.text, first.text)
	}
	if other := w.do("POST", path, ``, auth(rival.str("session_token"))); other.status != 409 || other.slug() != "code-used" {
		t.Errorf("another one = %d %s, want code-used", other.status, other.text)
	}
	e := w.module(app.str("account_id"), "algebra")
	until, err := time.Parse(time.RFC3339, fmt.Sprint(e["expires_at"]))
	redeemed, redeemedErr := time.Parse(time.RFC3339, first.str("redeemed_at"))
	if err != nil || redeemedErr != nil || e["active"] != true || until.Sub(redeemed) != 30*24*time.Hour {
		t.Errorf("algebra = %v, redeemed at %s", e, first.str("redeemed_at"))
	}
	if logic := w.module(app.str("account_id"), "logic"); logic["active"] != true || logic["expires_at"] != nil {
		t.Errorf("logic = %v, want it for ever", logic)
	}
	held := w.api("GET", "/v1/accounts/"+app.str("account_id"), "").json["accesses"].([]any)
	if len(held) != 2 || held[0].(object)["code_id"] != made.str("code_id") || held[0].(object)["duration_days"] != 30.0 || held[1].(object)["duration_days"] != nil {
		t.Errorf("the account shows %v", held)
	}
	gone := w.api("DELETE", "/v1/redemption-codes/"+made.str("code_id"), "")
	if gone.status != 200 || gone.str("account_id") != app.str("account_id") {
		t.Errorf("DELETE = %d %s", gone.status, gone.text)
	}
	if e := w.module(app.str("account_id"), "algebra"); e["active"] != false || e["status"] != "revoked" {
		t.Errorf("after it was revoked algebra = %v", e)
	}
	if r := w.api("DELETE", "/v1/redemption-codes/"+code, ""); r.status != 200 {
		t.Errorf("DELETE by the code itself = %d %s", r.status, r.text)
	}
	if r := w.do("POST", path, ``, auth(app.str("session_token"))); r.slug() != "code-revoked" {
		t.Errorf("its owner after that = %d %s, want code-revoked", r.status, r.text)
	}
}

// TestTheCodeOfASale: there is one for each package of a purchase, it is as many times as long as was paid for, and a refund takes back what it gave.
func TestTheCodeOfASale(t *testing.T) {
	w := oneWriter(t)
	w.putCourses()
	session := with(checkout("cs_1", ""), "line_items", lineItems(lineItem("li_1", "price_course", 2), lineItem("li_2", "price_life", 1)))
	w.send(event("evt_1", "checkout.session.completed", session))
	ask := func(product string) reply {
		return w.api("POST", "/v1/redemption-codes", fmt.Sprintf(`{"provider": "stripe", "product_id": %q, "purchase_id": "stripe:pi_cs_1"}`, product))
	}
	made, again := ask("price_course"), ask("price_course")
	if made.status != 201 || again.status != 200 || again.str("code") != made.str("code") || again.str("code_id") != made.str("code_id") {
		t.Fatalf("the code = %d %s, then %d %s", made.status, made.text, again.status, again.text)
	}
	if r := ask("price_life"); r.slug() != "invalid-request" {
		t.Errorf("a code for what is no package = %d %s", r.status, r.text)
	}
	id := w.account()
	r := w.api("POST", "/v1/redemption-codes/"+made.str("code")+"/redeem", fmt.Sprintf(`{"account_id": %q}`, id))
	if r.status != 200 || !strings.Contains(r.text, `"duration_days":60`) {
		t.Fatalf("a backend redeems = %d %s", r.status, r.text)
	}
	w.send(event("evt_2", "charge.refunded", object{"id": "ch_1", "object": "charge", "payment_intent": "pi_cs_1", "livemode": false, "status": "succeeded", "currency": "eur",
		"created": time.Now().Unix(), "amount": 4900, "amount_captured": 4900, "amount_refunded": 4900, "refunded": true}))
	if e := w.module(id, "algebra"); e["active"] != false || e["status"] != "refunded" {
		t.Errorf("after the refund algebra = %v", e)
	}
	if r := ask("price_course"); r.status != 200 {
		t.Errorf("the code that was made, asked for again = %d %s", r.status, r.text)
	}
}

func TestWrongCodesAreRefused(t *testing.T) {
	w := oneWriter(t)
	w.putCourses()
	for body, slug := range map[string]string{
		`{}`: "invalid-request",
		`{"provider": "paypal", "product_id": "price_course"}`:                                       "invalid-request",
		`{"provider": "stripe", "product_id": "price_life"}`:                                         "invalid-request",
		`{"provider": "stripe", "product_id": "price_none"}`:                                         "invalid-request",
		`{"provider": "stripe", "product_id": "price_course", "expires_at": "2020-01-01T00:00:00Z"}`: "invalid-request",
		`{"provider": "stripe", "product_id": "price_course", "purchase_id": "stripe:pi_none"}`:      "not-found",
		`{"provider": "stripe", "product_id": "price_course", "quantity": 2}`:                        "invalid-request",
	} {
		if r := w.api("POST", "/v1/redemption-codes", body); r.slug() != slug {
			t.Errorf("%s = %d %s, want %s", body, r.status, r.text, slug)
		}
	}
	code := w.api("POST", "/v1/redemption-codes", `{"provider": "stripe", "product_id": "price_course"}`).str("code")
	path, id := "/v1/redemption-codes/"+code+"/redeem", w.account()
	if r := w.do("POST", path, fmt.Sprintf(`{"account_id": %q}`, w.api("POST", "/v1/accounts", `{}`, auth(productionKey)).str("account_id")), auth(productionKey)); r.slug() != "other-environment" {
		t.Errorf("a code of another environment = %d %s, want other-environment", r.status, r.text)
	}
	for name, tt := range map[string]struct {
		key    string
		body   string
		status int
	}{
		"a read key":           {readKey, fmt.Sprintf(`{"account_id": %q}`, id), 403},
		"nobody":               {"", `{}`, 401},
		"a backend for nobody": {serverKey, `{}`, 400},
		"an unknown account":   {serverKey, `{"account_id": "acc_00000000000000000000000000"}`, 404},
	} {
		h := auth(tt.key)
		if tt.key == "" {
			h = nil
		}
		if r := w.do("POST", path, tt.body, h); r.status != tt.status {
			t.Errorf("%s = %d %s, want %d", name, r.status, r.text, tt.status)
		}
	}
	app := w.begin().str("session_token")
	for n := range guessBurst {
		if r := w.do("POST", fmt.Sprintf("/v1/redemption-codes/AAAA-%04d/redeem", n), ``, auth(app)); r.slug() != "not-found" {
			t.Fatalf("guess %d = %d %s, want not-found", n, r.status, r.text)
		}
	}
	if r := w.do("POST", path, ``, auth(app)); r.status != 429 || r.header.Get("Retry-After") == "" {
		t.Errorf("after %d wrong ones = %d %s, want 429", guessBurst, r.status, r.text)
	}
	if r := w.do("POST", path, ``, auth(w.begin().str("session_token"))); r.status != 200 {
		t.Errorf("somebody else = %d %s, want 200", r.status, r.text)
	}
	for series, want := range map[string]string{`unknown`: "10", `limited`: "1", `redeemed`: "1", "made": "1", "mailed": "0"} {
		if got := w.metric(`latchkey_writer_codes_total{outcome="` + series + `"}`); got != want {
			t.Errorf("codes_total of %s = %s, want %s", series, got, want)
		}
	}
}

func TestGuessesAreForgotten(t *testing.T) {
	var g guesses
	now := time.Unix(1_790_000_000, 0)
	who := []string{"a", "b"}
	for range guessBurst {
		if wait := g.wait(who, now); wait > 0 {
			t.Fatalf("wait = %s before the limit", wait)
		}
		g.wrong(who, now)
	}
	if wait := g.wait([]string{"b"}, now); wait != guessEvery {
		t.Errorf("wait = %s, want %s", wait, guessEvery)
	}
	if wait := g.wait([]string{"b"}, now.Add(guessEvery)); wait != 0 {
		t.Errorf("wait after that = %s, want none", wait)
	}
	for n := range maxGuessers + 10 {
		g.wrong([]string{fmt.Sprint(n)}, now)
	}
	if len(g.used) > maxGuessers+1 {
		t.Errorf("%d are remembered, want at most %d", len(g.used), maxGuessers)
	}
}

// TestDevicesAreTaken: by app and backend, once a day at most as long as nothing changes.
func TestDevicesAreTaken(t *testing.T) {
	w := oneWriter(t)
	app := w.begin()
	put := func(body, key string) reply { return w.do("POST", "/v1/devices", body, auth(key)) }
	const mine = `{"device_id": "phone", "platform": "apns", "push_token": "token_1"}`
	if r := put(mine, app.str("session_token")); r.status != 200 || r.str("account_id") != app.str("account_id") {
		t.Fatalf("POST /v1/devices = %d %s", r.status, r.text)
	}
	w.writesNothing("the same again", func() {
		if r := put(mine, app.str("session_token")); r.status != 200 {
			t.Errorf("the same again = %d %s", r.status, r.text)
		}
	})
	for body, slug := range map[string]string{
		`{"device_id": "phone", "platform": "web", "push_token": "t"}`:                          "invalid-request",
		`{"device_id": "phone", "platform": "fcm"}`:                                             "invalid-request",
		`{"platform": "fcm", "push_token": "t"}`:                                                "invalid-request",
		`{"device_id": "phone", "platform": "fcm", "push_token": "a b"}`:                        "invalid-request",
		`{"device_id": "p", "platform": "fcm", "push_token": "t", "account_id": "acc_another"}`: "forbidden",
	} {
		if r := put(body, app.str("session_token")); r.slug() != slug {
			t.Errorf("%s = %d %s, want %s", body, r.status, r.text, slug)
		}
	}
	if r := put(fmt.Sprintf(`{"account_id": %q, "device_id": "tablet", "platform": "fcm", "push_token": "t"}`, app.str("account_id")), serverKey); r.status != 200 {
		t.Errorf("a backend = %d %s", r.status, r.text)
	}
	if held := w.api("GET", "/v1/accounts/"+app.str("account_id"), ""); strings.Contains(held.text, "token_1") || len(held.json["devices"].([]any)) != 2 {
		t.Errorf("the account shows %s", held.text)
	}
	w.api("DELETE", "/v1/accounts/"+app.str("account_id")+"/sessions", "")
	if r := put(mine, app.str("session_token")); r.slug() != "session-ended" {
		t.Errorf("an ended session = %d %s", r.status, r.text)
	}
}

// TestCodesAndPushTokensAreNowhere: not in a file, not in the log, not in a label, not in what edges get.
func TestCodesAndPushTokensAreNowhere(t *testing.T) {
	w := oneWriter(t)
	w.putCourses()
	w.send(event("evt_1", "checkout.session.completed", with(checkout("cs_1", ""), "line_items", lineItems(lineItem("li_1", "price_course", 1)))))
	app := w.begin()
	var secrets []string
	for n, body := range []string{`{"provider": "stripe", "product_id": "price_course"}`, `{"provider": "stripe", "product_id": "price_course", "purchase_id": "stripe:pi_cs_1"}`} {
		r := w.api("POST", "/v1/redemption-codes", body, header{"Idempotency-Key": fmt.Sprint(n)})
		code := r.str("code")
		if r.status != 201 {
			t.Fatalf("%s = %d %s", body, r.status, r.text)
		}
		secrets = append(secrets, code, strings.ReplaceAll(code, "-", ""))
		if r := w.do("POST", "/v1/redemption-codes/"+code+"/redeem", ``, auth(app.str("session_token"))); r.status != 200 {
			t.Fatalf("redeem = %d %s", r.status, r.text)
		}
		w.do("POST", "/v1/redemption-codes/"+code+"/redeem", ``, auth(w.begin().str("session_token")))
		w.api("DELETE", "/v1/redemption-codes/"+code, "")
	}
	const token, device = "CANARY_push_token", "CANARY_device"
	if r := w.do("POST", "/v1/devices", fmt.Sprintf(`{"device_id": %q, "platform": "apns", "push_token": %q}`, device, token), auth(app.str("session_token"))); r.status != 200 {
		t.Fatalf("POST /v1/devices = %d %s", r.status, r.text)
	}
	secrets = append(secrets, token, device)
	snapshot, err := send("GET", "http://"+w.InternalAddr().String()+"/internal/v1/snapshot", "", nil)
	if err != nil || snapshot.status != http.StatusOK {
		t.Fatalf("snapshot = %d, %v", snapshot.status, err)
	}
	streamed := filepath.Join(t.TempDir(), "snapshot")
	if err := os.WriteFile(streamed, []byte(snapshot.text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := scan(t, streamed, secrets); err != nil {
		t.Fatal(err)
	}
	metrics := w.get("/metrics").text
	w.stop()
	files := 0
	err = filepath.WalkDir(w.cfg.Node.DataDir, func(path string, entry os.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		files++
		return scan(t, path, secrets)
	})
	if err != nil || files < 4 {
		t.Errorf("scanned %d files, %v", files, err)
	}
	for name, text := range map[string]string{"log": w.logs.String(), "metrics": metrics} {
		for _, s := range secrets {
			if strings.Contains(text, s) {
				t.Errorf("the %s has %q", name, s)
			}
		}
	}
}

// TestOneOfManyRedeemsACode: whoever comes first at whichever writer, and nobody else.
func TestOneOfManyRedeemsACode(t *testing.T) {
	writers := startCluster(t, 3)
	writers[0].putCourses()
	var accounts []string
	for range 12 {
		accounts = append(accounts, writers[0].account())
	}
	for range 3 {
		made := writers[0].api("POST", "/v1/redemption-codes", `{"provider": "stripe", "product_id": "price_course"}`)
		if made.status != 201 {
			t.Fatalf("POST = %d %s", made.status, made.text)
		}
		answers := make([]reply, len(accounts))
		var redeeming sync.WaitGroup
		for i, id := range accounts {
			redeeming.Go(func() {
				answers[i] = writers[i%len(writers)].api("POST", "/v1/redemption-codes/"+made.str("code")+"/redeem", fmt.Sprintf(`{"account_id": %q}`, id))
			})
		}
		redeeming.Wait()
		won := 0
		for i, r := range answers {
			switch {
			case r.status == 200:
				won++
				if e := writers[0].module(accounts[i], "algebra"); e["active"] != true {
					t.Errorf("%s redeemed it and has %v", accounts[i], e)
				}
			case r.slug() != "code-used":
				t.Errorf("%s: %d %s, want code-used", accounts[i], r.status, r.text)
			}
		}
		if won != 1 {
			t.Errorf("%d accounts redeemed one code", won)
		}
	}
}
