package writer

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// emails returns what GET of an account shows: the present address, and the history with a star behind the ones that have ended.
func (w *testWriter) emails(id string) (string, string) {
	w.t.Helper()
	r := w.api("GET", "/v1/accounts/"+id, "")
	list, ok := r.json["email_history"].([]any)
	if r.status != 200 || !ok {
		w.t.Fatalf("GET of the account = %d %s", r.status, r.text)
	}
	var history []string
	for _, one := range list {
		entry := one.(object)
		text := fmt.Sprint(entry["email"])
		if entry["until"] != nil {
			text += "*"
		}
		history = append(history, text)
	}
	return r.str("email"), strings.Join(history, " ")
}

func (w *testWriter) setEmail(id, email string) {
	w.t.Helper()
	if r := w.api("PATCH", "/v1/accounts/"+id, fmt.Sprintf(`{"email": %q}`, email)); r.status != 200 || r.str("account_id") != id || r.str("revision") == "" {
		w.t.Fatalf("PATCH of the e-mail = %d %s", r.status, r.text)
	}
}

// suggested returns the accounts of each suggestion.
func (w *testWriter) suggested() string {
	w.t.Helper()
	r := w.api("GET", "/v1/merge-suggestions", "")
	list, ok := r.json["suggestions"].([]any)
	if r.status != 200 || !ok || r.json["next"] != nil {
		w.t.Fatalf("GET /v1/merge-suggestions = %d %s", r.status, r.text)
	}
	var all []string
	for _, one := range list {
		s := one.(object)
		if s["since"] == nil || s["age_seconds"] == nil {
			w.t.Errorf("suggestion %v has no age", s)
		}
		all = append(all, fmt.Sprint(s["accounts"]))
		if paid := s["unclaimed"].([]any); len(paid) > 0 {
			all = append(all, fmt.Sprint(paid))
		}
	}
	return strings.Join(all, " ")
}

// TestAnEmailIsAnAttributeWithHistory: two accounts may have one, which suggests a merge and does none; nothing that the writer writes or logs shows it.
func TestAnEmailIsAnAttributeWithHistory(t *testing.T) {
	configs := testConfigs(t, 1)
	w := startWriter(t, configs[0])
	w.awaitReady()
	ann, other := w.account(), w.account()
	w.setEmail(ann, "canary.one@example.com")
	w.setEmail(ann, "Canary.One@example.com") // the same one
	w.setEmail(ann, "canary.two@example.com")
	if present, history := w.emails(ann); present != "canary.two@example.com" || history != "canary.one@example.com* canary.two@example.com" {
		t.Errorf("e-mail %s, history %s", present, history)
	}
	w.setEmail(other, "canary.one@example.com")
	if got := w.suggested(); got != "" {
		t.Errorf("an address that nobody else has any more suggests %s", got)
	}
	w.setEmail(other, "CANARY.TWO@example.com")
	pair := fmt.Sprintf("[%s %s]", min(ann, other), max(ann, other))
	if got := w.suggested(); got != pair {
		t.Errorf("suggestions = %s, want %s", got, pair)
	}
	// Another address settles it, and so the same one opens it anew.
	if r := w.api("PATCH", "/v1/accounts/"+other, `{"email": null, "attributes": {"name": "x"}, "tester": true}`); r.status != 200 {
		t.Fatalf("PATCH = %d %s", r.status, r.text)
	}
	if shown := w.api("GET", "/v1/accounts/"+other, ""); shown.json["email"] != nil || shown.json["tester"] != true || !strings.Contains(shown.text, `"name":"x"`) {
		t.Errorf("after a PATCH of everything: %s", shown.text)
	}
	if got := w.suggested(); got != "" {
		t.Errorf("suggestions = %s, want none", got)
	}
	// The repeat under a key is done once; under the same key with another address it is refused.
	once := header{"Idempotency-Key": "mail"}
	first := w.api("PATCH", "/v1/accounts/"+other, `{"email": "canary.two@example.com"}`, once)
	if again := w.api("PATCH", "/v1/accounts/"+other, `{"email": "canary.two@example.com"}`, once); first.status != 200 || again.text != first.text {
		t.Errorf("repeat = %s, want %s", again.text, first.text)
	}
	if r := w.api("PATCH", "/v1/accounts/"+other, `{"email": "canary.three@example.com"}`, once); r.slug() != "idempotency-mismatch" {
		t.Errorf("another address under the same key = %d %s", r.status, r.text)
	}
	if got := w.suggested(); got != pair {
		t.Errorf("suggestions = %s, want %s", got, pair)
	}
	for _, body := range []string{`{"email": "no address"}`, `{"email": ""}`, `{"email": 1}`, `{"email": "Ann <canary.two@example.com>"}`, `{"email": "a@b.example, c@d.example"}`} {
		if r := w.api("PATCH", "/v1/accounts/"+ann, body); r.status != 400 || r.slug() != "invalid-request" || strings.Contains(r.text, "canary") {
			t.Errorf("%s = %d %s, want invalid-request that quotes nothing", body, r.status, r.text)
		}
	}
	if r := w.api("PATCH", "/v1/accounts/acc_00000000000000000000000000", `{"email": "canary.two@example.com"}`); r.slug() != "not-found" {
		t.Errorf("PATCH of nobody = %d %s", r.status, r.text)
	}
	metrics := w.get("/metrics").text
	if strings.Contains(strings.ToLower(metrics), "canary.") {
		t.Error("the metrics show an address")
	}
	w.showsNoCanary(configs[0].Node.DataDir)
}

// TestADismissedSuggestionStaysAway: support says that two people have one address. They are not suggested again, but with a third one.
func TestADismissedSuggestionStaysAway(t *testing.T) {
	configs := testConfigs(t, 1)
	w := startWriter(t, configs[0])
	w.awaitReady()
	ann, ben, third := w.account(), w.account(), w.account()
	for _, id := range []string{ann, ben, third} {
		w.setEmail(id, "canary.two@example.com")
	}
	dismiss := func(id string, more ...header) reply {
		return w.api("DELETE", "/v1/merge-suggestions/"+id, "", more...)
	}
	listed := func() string {
		t.Helper()
		list, _ := w.api("GET", "/v1/merge-suggestions", "").json["suggestions"].([]any)
		if len(list) != 1 {
			t.Fatalf("%d suggestions, want 1", len(list))
		}
		id, _ := list[0].(object)["suggestion_id"].(string)
		return id
	}
	seen := listed()
	if r := w.api("PATCH", "/v1/accounts/"+third, `{"email": null}`); r.status != 200 {
		t.Fatalf("PATCH = %d %s", r.status, r.text)
	}
	if r := dismiss(seen); r.status != 404 || r.slug() != "not-found" {
		t.Errorf("DELETE of what has changed since = %d %s, want not-found", r.status, r.text)
	}
	now := listed()
	done := dismiss(now, header{"Idempotency-Key": "dismissed"})
	if done.status != 200 || done.str("suggestion_id") != now || done.str("revision") == "" {
		t.Fatalf("DELETE of a suggestion = %d %s", done.status, done.text)
	}
	if again := dismiss(now, header{"Idempotency-Key": "dismissed"}); again.text != done.text {
		t.Errorf("the repeat = %s, want %s", again.text, done.text)
	}
	if got := w.suggested(); got != "" {
		t.Errorf("after it was dismissed %s is suggested", got)
	}
	if trail := w.api("GET", "/v1/accounts/"+ann+"/events", ""); !strings.Contains(trail.text, `"suggestion.dismissed"`) {
		t.Errorf("the audit trail = %s, want it dismissed", trail.text)
	}
	for id, slug := range map[string]string{"suggestion_x": "invalid-id", "42": "invalid-id", "suggestion_" + strings.Repeat("A", 54): "not-found"} {
		if r := dismiss(id); r.status != 404 || r.slug() != slug {
			t.Errorf("DELETE of %s = %d %s, want %s", id, r.status, r.text, slug)
		}
	}
	if r := w.do("DELETE", "/v1/merge-suggestions/"+now, "", auth(readKey)); r.slug() != "forbidden" {
		t.Errorf("DELETE with a key that reads = %d %s", r.status, r.text)
	}
	w.setEmail(third, "canary.two@example.com")
	if got := w.suggested(); !strings.Contains(got, third) {
		t.Errorf("a third account with the address: %q is suggested", got)
	}
	if r := dismiss(listed()); r.status != 200 {
		t.Errorf("DELETE of all three = %d %s", r.status, r.text)
	}
	if got := w.suggested(); got != "" {
		t.Errorf("after all three were dismissed %s is suggested", got)
	}
	w.showsNoCanary(configs[0].Node.DataDir)
}

// showsNoCanary stops the writer, and fails where its log or one of its files has an address of the tests.
func (w *testWriter) showsNoCanary(dir string) {
	w.t.Helper()
	w.stop()
	if strings.Contains(strings.ToLower(w.logs.String()), "canary.") {
		w.t.Error("the log shows an address")
	}
	files := 0
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		files++
		b, err := os.ReadFile(path)
		if strings.Contains(strings.ToLower(string(b)), "canary.") {
			w.t.Errorf("%s shows an address", path)
		}
		return err
	})
	if err != nil || files < 3 {
		w.t.Errorf("%d files were looked through, %v", files, err)
	}
}

// TestMergedAccountsShowOneHistoryOfEmails: under both ids the newest address that either has, and what both had; each its own when they are two again.
func TestMergedAccountsShowOneHistoryOfEmails(t *testing.T) {
	w := oneWriter(t)
	from, into := w.account(), w.account()
	w.setEmail(into, "into@example.com")
	set := time.Now()
	merge := w.api("POST", "/v1/accounts/"+into+"/merges", fmt.Sprintf(`{"from": %q}`, from)).str("merge_id")
	shows := func(when, id, present, history string) {
		t.Helper()
		if gotPresent, gotHistory := w.emails(id); gotPresent != present || gotHistory != history {
			t.Errorf("%s: %s shows %q and %q, want %q and %q", when, id, gotPresent, gotHistory, present, history)
		}
	}
	both := func(when, present, history string) {
		t.Helper()
		shows(when, from, present, history)
		shows(when, into, present, history)
	}
	both("at first", "into@example.com", "into@example.com")
	await(t, "another second", func() bool { return time.Now().Unix() > set.Unix() })
	w.setEmail(from, "from@example.com")
	both("after a PATCH of the merged id", "from@example.com", "into@example.com from@example.com")
	if exported := w.api("GET", "/v1/accounts/"+into+"/export", ""); !strings.Contains(exported.text, `"email":"from@example.com"`) {
		t.Errorf("the export = %s, want the newest address in its account", exported.text)
	}
	if r := w.api("PATCH", "/v1/accounts/"+from, `{"email": null}`); r.status != 200 {
		t.Fatalf("PATCH = %d %s", r.status, r.text)
	}
	both("once it is gone", "into@example.com", "into@example.com from@example.com*")
	w.setEmail(from, "INTO@example.com")
	both("with the address of both, which is the newest", "INTO@example.com", "into@example.com from@example.com*")
	if r := w.api("PATCH", "/v1/accounts/"+into, `{"email": null}`); r.status != 200 {
		t.Fatalf("PATCH = %d %s", r.status, r.text)
	}
	both("once one of them has given it up", "INTO@example.com", "into@example.com from@example.com*")
	if r := w.api("DELETE", "/v1/accounts/"+into+"/merges/"+merge, ""); r.status != 200 {
		t.Fatalf("undo = %d %s", r.status, r.text)
	}
	shows("apart", from, "INTO@example.com", "from@example.com* INTO@example.com")
	shows("apart", into, "", "into@example.com*")
}

// TestWithoutAKeyNothingOfAPersonIsTaken: no address, no attribute, no reason; and the rest goes on.
func TestWithoutAKeyNothingOfAPersonIsTaken(t *testing.T) {
	cfg := testConfigs(t, 1)[0]
	cfg.Contacts.Key = ""
	w := startWriter(t, cfg)
	w.awaitReady()
	id := w.account()
	if r := w.api("PATCH", "/v1/accounts/"+id, `{"email": "ann@example.com"}`); r.status != 501 || r.slug() != "not-configured" {
		t.Errorf("PATCH of an e-mail = %d %s, want not-configured", r.status, r.text)
	}
	for path, body := range map[string]string{"PATCH /v1/accounts/" + id: `{"attributes": {"a": "b"}}`, "POST /v1/accounts": `{"attributes": {"a": "b"}}`,
		"POST /v1/accounts/" + id + "/grants": `{"entitlement": "pro", "duration_days": 1, "reason": "a friend"}`} {
		method, address, _ := strings.Cut(path, " ")
		if r := w.api(method, address, body); r.status != 501 || r.slug() != "not-configured" {
			t.Errorf("%s = %d %s, want not-configured", path, r.status, r.text)
		}
	}
	if r := w.api("PATCH", "/v1/accounts/"+id, `{"tester": true}`); r.status != 200 {
		t.Errorf("PATCH of tester = %d %s", r.status, r.text)
	}
	if r := w.api("POST", "/v1/accounts/"+id+"/grants", `{"entitlement": "pro", "duration_days": 1}`); r.status != 201 {
		t.Errorf("a grant without a reason = %d %s", r.status, r.text)
	}
	// A name of the person's is known by its hash, which finds the account all the same.
	if r := w.api("POST", "/v1/accounts/"+id+"/aliases", `{"kind": "custom", "value": "someone"}`); r.status != 200 {
		t.Errorf("an alias = %d %s", r.status, r.text)
	}
	if r := w.api("GET", "/v1/accounts/custom:someone", ""); r.status != 200 || r.str("account_id") != id || strings.Contains(r.text, "someone") {
		t.Errorf("the account by its alias = %d %s", r.status, r.text)
	}
	if present, history := w.emails(id); present != "" || history != "" {
		t.Errorf("e-mail %s, history %s", present, history)
	}
}

// TestAPaymentIsSuggestedToWhoHasItsBuyersAddress: and given to nobody for it. The address comes with Stripe's message and is in no file.
func TestAPaymentIsSuggestedToWhoHasItsBuyersAddress(t *testing.T) {
	configs := testConfigs(t, 1)
	w := startWriter(t, configs[0])
	w.awaitReady()
	id, sub := w.account(), unique("sub_")
	w.setEmail(id, "canary.buyer@example.com")
	w.stripe(event(unique("evt_"), "customer.subscription.created", subscription(sub, "", "price_pro")))
	if got := w.suggested(); got != "" {
		t.Errorf("without an address in the message %s is suggested", got)
	}
	session := object{"id": unique("cs_"), "object": "checkout.session", "mode": "subscription", "status": "complete", "payment_status": "paid", "subscription": sub, "customer": "cus_" + sub,
		"customer_details": object{"email": "Canary.Buyer@example.com"}, "created": time.Now().Unix(), "livemode": false, "metadata": object{}}
	if r := w.stripe(event(unique("evt_"), "checkout.session.completed", session)); r.status != 200 {
		t.Fatalf("webhook = %d %s", r.status, r.text)
	}
	if got, want := w.suggested(), fmt.Sprintf("[%s] [stripe:%s]", id, sub); got != want {
		t.Errorf("suggested %q, want %q", got, want)
	}
	if pro := w.pro(id); pro["active"] == true {
		t.Errorf("pro = %v: an address alone gives nothing", pro)
	}
	link := w.api("POST", "/v1/link-tokens", fmt.Sprintf(`{"unclaimed": "stripe:%s"}`, sub)).str("token")
	if r := w.api("POST", "/v1/link-tokens/"+link+"/redeem", fmt.Sprintf(`{"account_id": %q}`, id)); r.status != 200 {
		t.Fatalf("redeem = %d %s", r.status, r.text)
	}
	if got := w.suggested(); got != "" || w.pro(id)["active"] != true {
		t.Errorf("after the link suggested %q and pro %v, want none and active", got, w.pro(id))
	}
	w.showsNoCanary(configs[0].Node.DataDir)
}

// TestAFunnelsPaymentIsSuggestedToWhoHasItsBuyersAddress: the same of Web2Wave, whose rows have the address that was given in the funnel, and whose messages lie on the
// disk before a leader has them.
func TestAFunnelsPaymentIsSuggestedToWhoHasItsBuyersAddress(t *testing.T) {
	configs := testConfigs(t, 1)
	withWeb2Wave(&configs[0], "")
	w := startWriter(t, configs[0])
	w.awaitReady()
	id := w.account()
	w.setEmail(id, "canary.funnel@example.com")
	for charges, address := range []string{"", "Canary.Funnel@example.com"} { // it was given after the first charge
		row := web2waveRow(7, "8e6a0f5e-3d0b-4c61-9a0e-5f4f2f9d1c22", object{"user_email": address, "payment_system_label": "PayPal", "pay_system_id": "I-7", "charges_count": 1 + charges})
		want := ""
		if address != "" {
			want = fmt.Sprintf("[%s] [web2wave:7]", id)
		}
		if r := w.web2wave("subscription", row); r.status != 200 || r.str("outcome") != "recorded" {
			t.Fatalf("webhook = %d %s", r.status, r.text)
		}
		if got := w.suggested(); got != want {
			t.Errorf("with the address %q %q is suggested, want %q", address, got, want)
		}
	}
	if pro := w.pro(id); pro["active"] == true {
		t.Errorf("pro = %v: an address alone gives nothing", pro)
	}
	w.showsNoCanary(configs[0].Node.DataDir)
}
