package writer

import (
	"fmt"
	"net/http"
	"testing"
	"time"
)

// These tests show what a receipt comes to while a provider is silent, what it leaves behind, and that its repeat costs nothing.

// session makes an app's credential for an account.
func (w *testWriter) session(account, device string) string {
	w.t.Helper()
	r := w.api("POST", "/v1/accounts/"+account+"/sessions", `{"device_id": "`+device+`"}`)
	if r.status != http.StatusCreated {
		w.t.Fatalf("POST sessions = %d %s", r.status, r.text)
	}
	return r.str("session_token")
}

// writesNothing shows that do, which may be repeated, writes no entry of the log. A writer that has just begun writes some about itself, so that do is
// tried until none of those falls into it.
func (w *testWriter) writesNothing(what string, do func()) {
	w.t.Helper()
	for range 20 {
		before := w.store.Stats().AppliedIndex
		if do(); w.store.Stats().AppliedIndex == before {
			return
		}
	}
	w.t.Errorf("%s: something is written each time", what)
}

// outcomes returns those of the results of an answer.
func (r reply) outcomes(t testing.TB) (list []string) {
	t.Helper()
	results, _ := r.json["results"].([]any)
	if r.status != http.StatusOK {
		t.Fatalf("POST /v1/receipts = %d %s", r.status, r.text)
	}
	for _, one := range results {
		list = append(list, fmt.Sprint(one.(object)["outcome"]))
	}
	return list
}

// TestWhatIsKnownStaysRecordedWhileItsProviderIsSilent: it is durable here, and its provider's outage changes nothing about that; what is not known yet
// has to wait.
func TestWhatIsKnownStaysRecordedWhileItsProviderIsSilent(t *testing.T) {
	t.Parallel() // it mostly waits
	f, s, play := startAppStore(t), startStripe(t), startPlay(t)
	w := receiptsWriter(t, f, s, play)
	acc, other := w.account(), w.account()
	s.put("/v1/checkout/sessions/cs_known", with(checkout("cs_known", ""), "line_items", lineItems(lineItem("li_1", "price_life", 1))))
	play.put("month-that-is-known-01", playSubscription(""))
	known := []object{signedReceipt(f.transaction("1000", "Sandbox", true)), sessionReceipt("cs_known"), playReceipt("month-that-is-known-01")}
	if got := w.api("POST", "/v1/receipts", shown(acc, known...)).outcomes(t); fmt.Sprint(got) != "[recorded recorded recorded]" {
		t.Fatalf("first shown: %v", got)
	}
	await(t, "what it left open", w.settled)
	if told := play.tellings(); len(told) != 1 || told[0] != "subscriptions/pro/tokens/month-that-is-known-01:acknowledge" {
		t.Errorf("Play was told %v, want the sale acknowledged", told)
	}
	f.setDown(true)
	play.setDown(true)
	s.answer(func(rw http.ResponseWriter, _ string, _ int) bool {
		rw.WriteHeader(http.StatusServiceUnavailable)
		return true
	})
	s.put("/v1/checkout/sessions/cs_new", with(checkout("cs_new", ""), "line_items", lineItems(lineItem("li_2", "price_life", 1))))
	play.put("month-that-is-new-0001", playSubscription(""))
	unknown := []object{sessionReceipt("cs_new"), playReceipt("month-that-is-new-0001")}
	w.writesNothing("receipts while all are silent", func() {
		for account, want := range map[string]string{acc: "[recorded recorded recorded]", other: "[owned_by_other owned_by_other owned_by_other]"} {
			if got := w.api("POST", "/v1/receipts", shown(account, known...)).outcomes(t); fmt.Sprint(got) != want {
				t.Errorf("known receipts while all are silent: %v, want %s", got, want)
			}
		}
		r := w.api("POST", "/v1/receipts", shown(other, unknown...))
		if got := r.outcomes(t); fmt.Sprint(got) != "[pending pending]" || r.str("state") != "pending" || w.pro(other)["active"] == true {
			t.Errorf("unknown receipts while all are silent: %s, want them pending and nothing given", r.text)
		}
		for _, one := range r.json["results"].([]any) {
			if one := one.(object); one["finish"] != false || one["retry_after"].(float64) < 5 || one["purchase_id"] != nil {
				t.Errorf("a pending receipt is %v", one)
			}
		}
	})
	s.answer(nil)
	play.setDown(false)
	if got := w.api("POST", "/v1/receipts", shown(other, unknown...)).outcomes(t); fmt.Sprint(got) != "[recorded recorded]" || w.pro(other)["active"] != true {
		t.Errorf("shown again when they answer: %v", got)
	}
}

// TestATokenThatPlayDoesNotKnow may be too new: it is asked about for some moments, and what Play never knew is refused.
func TestATokenThatPlayDoesNotKnow(t *testing.T) {
	t.Parallel() // it mostly waits
	play := startPlay(t)
	w := receiptsWriter(t, startAppStore(t), startStripe(t), play)
	acc := w.account()
	play.tooNew = map[string]object{"token-that-is-too-new": with(playSubscription(""), "acknowledgementState", "ACKNOWLEDGEMENT_STATE_PENDING")}
	r := w.api("POST", "/v1/receipts", shown(acc, playReceipt("token-that-is-too-new"), playReceipt("token-that-never-is-01")))
	if got := r.outcomes(t); fmt.Sprint(got) != "[recorded rejected]" {
		t.Fatalf("POST /v1/receipts = %s", r.text)
	}
	never := r.json["results"].([]any)[1].(object)
	if never["finish"] != false || never["retry_after"] != receiptUnknownRetry.Seconds() {
		t.Errorf("what Play does not know is %v, want it refused and shown again after a minute at the earliest", never)
	}
	if n := play.asked("token-that-never-is-01"); n != receiptTries {
		t.Errorf("asked %d times, want %d", n, receiptTries)
	}
}

// TestAProvisionalReceiptGivesADayAndNoCredits: the day is not begun anew by a newer signature, and in the end the store's word counts under the same
// purchase id, whatever it is.
func TestAProvisionalReceiptGivesADayAndNoCredits(t *testing.T) {
	t.Parallel() // it mostly waits
	f := startAppStore(t)
	w := receiptsWriter(t, f, startStripe(t), nil)
	acc := w.account()
	f.setDown(true)
	month, refunded, hundred := f.sell(sale("1", "Sandbox")), f.sell(sale("2", "Sandbox")), f.sell(coins("3", "Sandbox"))
	r := w.api("POST", "/v1/receipts", shown(acc, signedReceipt(f.Sign(t, month)), signedReceipt(f.Sign(t, refunded)), signedReceipt(f.Sign(t, hundred))))
	if got := r.outcomes(t); fmt.Sprint(got) != "[provisional provisional provisional]" || w.pro(acc)["active"] != true {
		t.Fatalf("POST /v1/receipts = %s", r.text)
	}
	balance := func() any {
		return w.api("GET", "/v1/accounts/"+acc+"/entitlements", "").json["balances"].(object)["coins"]
	}
	if got := balance(); got != nil && got != 0.0 {
		t.Errorf("a provisional receipt gives %v coins", got)
	}
	until := w.pro(acc)["access_until"]
	newer := with(month, "signedDate", time.Now().Add(6*time.Hour).UnixMilli())
	w.writesNothing("the same transaction with a newer signature", func() {
		if outcome, finish, _ := w.api("POST", "/v1/receipts", shown(acc, signedReceipt(f.Sign(t, newer)))).result(t); outcome != receiptProvisional || !finish {
			t.Errorf("signed once more it is %s, finish %t", outcome, finish)
		}
	})
	if got := w.pro(acc)["access_until"]; got != until {
		t.Errorf("signed once more it counts until %v, want %v", got, until)
	}
	// What the store itself signed as taken back needs no question.
	back := with(with(refunded, "revocationDate", time.Now().UnixMilli()), "signedDate", time.Now().Add(time.Second).UnixMilli())
	f.sell(with(back, "revocationReason", 0))
	if outcome, _, _ := w.api("POST", "/v1/receipts", shown(acc, signedReceipt(f.Sign(t, back)))).result(t); outcome != receiptRecorded {
		t.Errorf("what is signed as taken back is %s", outcome)
	}
	ids := func() map[string]any { // the entitlement's purchases, with whether they count
		list := map[string]any{}
		for _, p := range w.purchases(acc) {
			list[fmt.Sprint(p["purchase_id"])] = p["items"].([]any)[0].(object)["state"]
		}
		return list
	}
	first := fmt.Sprint(ids())
	if len(ids()) != 3 || ids()["apple:2"] != "revoked" {
		t.Errorf("purchases %s, want the second one taken back", first)
	}
	f.setDown(false)
	await(t, "the store's word", func() bool { return w.pro(acc)["reason"] == "paid" && balance() == 100.0 })
	if got := fmt.Sprint(ids()); got != first {
		t.Errorf("confirmed: purchases %s, before %s", got, first)
	}
	// Shown again nothing is doubled.
	w.api("POST", "/v1/receipts", shown(acc, signedReceipt(f.Sign(t, hundred)))).result(t)
	if got := balance(); got != 100.0 {
		t.Errorf("shown again they are %v coins", got)
	}
}

// TestAProvisionalReceiptIsWithdrawnWhenItsStoreSaysSo, under the same purchase id.
func TestAProvisionalReceiptIsWithdrawnWhenItsStoreSaysSo(t *testing.T) {
	t.Parallel() // it mostly waits
	f := startAppStore(t)
	w := receiptsWriter(t, f, startStripe(t), nil)
	acc := w.account()
	f.setDown(true)
	month := sale("1", "Sandbox")
	if outcome, _, pro := w.api("POST", "/v1/receipts", shown(acc, signedReceipt(f.Sign(t, month)))).result(t); outcome != receiptProvisional || !pro {
		t.Fatalf("POST /v1/receipts = %s", outcome)
	}
	f.sell(with(with(month, "revocationDate", time.Now().UnixMilli()), "revocationReason", 0))
	f.setDown(false)
	await(t, "the store's word", func() bool { return w.pro(acc)["active"] == false })
	if pro := w.pro(acc); pro["reason"] != "refunded" || pro["purchase_id"] != "apple:1" {
		t.Errorf("withdrawn: %v", pro)
	}
}

// TestATestersReceiptInProduction counts for whom the policy says, marked and for a day at most (I15).
func TestATestersReceiptInProduction(t *testing.T) {
	f := startAppStore(t)
	w := receiptsWriter(t, f, startStripe(t), nil)
	tests := []struct {
		policy  string
		tester  bool
		outcome string
	}{
		{"none", true, receiptEnvironment},
		{"testers", false, receiptEnvironment},
		{"testers", true, receiptRecorded},
		{"anyone", false, receiptRecorded},
	}
	for i, tt := range tests {
		t.Run(fmt.Sprintf("%s, tester %t", tt.policy, tt.tester), func(t *testing.T) {
			if r := w.do("PUT", "/v1/policy", `{"sandbox_access": "`+tt.policy+`"}`, auth(productionKey)); r.status != http.StatusOK {
				t.Fatalf("PUT policy = %d %s", r.status, r.text)
			}
			acc := w.do("POST", "/v1/accounts", `{}`, auth(productionKey)).str("account_id")
			w.do("PATCH", "/v1/accounts/"+acc, fmt.Sprintf(`{"tester": %t}`, tt.tester), auth(productionKey))
			r := w.do("POST", "/v1/receipts", shown(acc, signedReceipt(f.transaction(fmt.Sprint(7000+i), "Sandbox", true))), auth(productionKey))
			counts := tt.outcome == receiptRecorded
			if outcome, finish, pro := r.result(t); outcome != tt.outcome || finish != counts || pro != counts {
				t.Fatalf("POST /v1/receipts = %s, want %s", r.text, tt.outcome)
			}
			if !counts {
				return
			}
			e := r.json["entitlements"].([]any)[0].(object)
			until, err := time.Parse(time.RFC3339, fmt.Sprint(e["access_until"]))
			if e["sandbox"] != true || err != nil || until.After(time.Now().Add(24*time.Hour)) {
				t.Errorf("it gives %v, want it marked and for a day", e)
			}
		})
	}
}

// TestReceiptsUnderAnIdempotencyKey: the repeat gets the same answer, byte for byte, and nothing is written again.
func TestReceiptsUnderAnIdempotencyKey(t *testing.T) {
	f, play := startAppStore(t), startPlay(t)
	w := receiptsWriter(t, f, startStripe(t), play)
	acc := w.account()
	app, tablet := w.session(acc, "phone"), w.session(acc, "tablet")
	one := shown("", signedReceipt(f.transaction("1", "Sandbox", true)))
	two := shown("", signedReceipt(f.transaction("2", "Sandbox", true)))
	post := func(credential, key, body string) reply {
		t.Helper()
		h := auth(credential)
		h["Idempotency-Key"] = key
		return w.do("POST", "/v1/receipts", body, h)
	}
	first := post(app, "k", one)
	if outcome, _, pro := first.result(t); outcome != receiptRecorded || !pro {
		t.Fatalf("POST /v1/receipts = %s", first.text)
	}
	w.api("POST", "/v1/accounts/"+acc+"/grants", `{"entitlement": "extra", "expires_at": null}`)
	w.writesNothing("the repeat", func() {
		if again := post(app, "k", one); again.text != first.text {
			t.Errorf("the repeat gets\n%s\nthe first got\n%s", again.text, first.text)
		}
	})
	for name, tt := range map[string]struct {
		credential, key, body string
		status                int
		slug                  string
	}{
		"another request under the key":         {app, "k", two, http.StatusUnprocessableEntity, "idempotency-mismatch"},
		"the key of another device":             {tablet, "k", two, http.StatusOK, ""},
		"the key of a backend":                  {serverKey, "k", shown(acc, signedReceipt("x")), http.StatusOK, ""},
		"an empty key":                          {app, "", one, http.StatusBadRequest, "invalid-request"},
		"a key that is too long":                {app, fmt.Sprintf("%0256d", 1), one, http.StatusBadRequest, "invalid-request"},
		"a request that was refused binds none": {app, "n", shown(""), http.StatusBadRequest, "invalid-request"},
		"and may come as it should":             {app, "o", two, http.StatusOK, ""},
	} {
		if r := post(tt.credential, tt.key, tt.body); r.status != tt.status || r.slug() != tt.slug {
			t.Errorf("%s: %d %s, want %d %s", name, r.status, r.text, tt.status, tt.slug)
		}
	}
	// What is pending is to be shown again, under the same key too.
	play.put("month-that-comes-later", playSubscription(""))
	later := shown("", playReceipt("month-that-comes-later"))
	play.setDown(true)
	for range 2 {
		if got := post(app, "p", later).outcomes(t); fmt.Sprint(got) != "[pending]" {
			t.Errorf("while Play is silent: %v", got)
		}
	}
	if r := post(app, "p", two); r.slug() != "idempotency-mismatch" {
		t.Errorf("another request under the key of a pending one: %d %s", r.status, r.text)
	}
	play.setDown(false)
	settled := post(app, "p", later)
	if got := settled.outcomes(t); fmt.Sprint(got) != "[recorded]" {
		t.Errorf("when Play answers: %v", got)
	}
	if again := post(app, "p", later); again.text != settled.text {
		t.Errorf("the repeat gets %s, the first %s", again.text, settled.text)
	}
	if r := w.api("DELETE", "/v1/accounts/"+acc+"/sessions", ""); r.status != http.StatusOK {
		t.Fatalf("DELETE sessions = %d %s", r.status, r.text)
	}
	if r := post(app, "k", one); r.slug() != "session-ended" {
		t.Errorf("an answer that is kept goes to a session that was ended: %d %s", r.status, r.text)
	}
}

// TestAReceiptIsFinishedOnlyWhenItIsDurable: while nothing can be written the app must keep what it has, and show it again.
func TestAReceiptIsFinishedOnlyWhenItIsDurable(t *testing.T) {
	t.Parallel() // it mostly waits
	f, disk := startAppStore(t), newTestDisk(50<<30)
	w := receiptsWriter(t, f, startStripe(t), nil, func(c *Config) { c.statFS = disk.stat })
	acc := w.account()
	one := signedReceipt(f.transaction("1", "Sandbox", true))
	disk.free.Store(1 << 20)
	await(t, "the disk to be found full", func() bool { return w.api("POST", "/v1/accounts", "{}").status == http.StatusServiceUnavailable })
	if r := w.api("POST", "/v1/receipts", shown(acc, one)); r.slug() != "unavailable" { // nor can be written that something is pending
		t.Errorf("with a full disk: %d %s, want it unavailable", r.status, r.text)
	}
	disk.free.Store(50 << 30)
	await(t, "room on the disk", func() bool { return w.api("POST", "/v1/accounts", "{}").status == http.StatusCreated })
	if outcome, finish, pro := w.api("POST", "/v1/receipts", shown(acc, one)).result(t); outcome != receiptRecorded || !finish || !pro {
		t.Errorf("with room: %s, finish %t, pro %t", outcome, finish, pro)
	}
}

// TestAProviderThatAsksForPatienceIsLeftAlone, however many receipts come meanwhile.
func TestAProviderThatAsksForPatienceIsLeftAlone(t *testing.T) {
	s := startStripe(t)
	w := receiptsWriter(t, startAppStore(t), s, nil)
	acc := w.account()
	s.answer(func(rw http.ResponseWriter, _ string, _ int) bool {
		rw.Header().Set("Retry-After", "30")
		rw.WriteHeader(http.StatusTooManyRequests)
		return true
	})
	for range 3 {
		r := w.api("POST", "/v1/receipts", shown(acc, sessionReceipt("cs_1")))
		if got := r.outcomes(t); fmt.Sprint(got) != "[pending]" {
			t.Fatalf("POST /v1/receipts = %s", r.text)
		}
		if after := r.json["results"].([]any)[0].(object)["retry_after"].(float64); after < 10 || after > 30 {
			t.Errorf("retry_after is %v, want the provider's 30 s", after)
		}
	}
	if n := s.count("/v1/checkout/sessions/cs_1"); n != 1 {
		t.Errorf("Stripe was asked %d times, want once", n)
	}
}
