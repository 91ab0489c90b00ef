package writer

import (
	"strings"
	"testing"
)

// What a person pays for twice is shown with the account and listed, with what to do about it, and is gone once that was done (R75).
func TestWhatIsPaidForTwiceIsListedAndExplained(t *testing.T) {
	w := oneWriter(t)
	w.api("PUT", "/v1/catalog", testCatalog)
	twice, once := w.account(), w.account()
	bought := func(id, account, price string) {
		t.Helper()
		sub := subscription(id, account, price)
		if r := w.stripe(event(unique("evt_"), "customer.subscription.created", sub)); r.status != 200 {
			t.Fatalf("%d %s", r.status, r.text)
		}
	}
	bought("sub_1", twice, "price_pro")
	bought("sub_3", once, "price_pro")
	if r := w.api("GET", "/v1/doubles", ""); r.status != 200 || !strings.HasPrefix(r.text, `{"accounts":[],"next":null`) {
		t.Errorf("before: %d %s", r.status, r.text)
	}
	bought("sub_2", twice, "price_pro")
	parts := []string{`"kind":"subscriptions","group":"pro"`, `"explanation":"Billed twice for pro since `, `: keep stripe:sub_1; cancel stripe:sub_2."`, `"manage_url":"https://billing.example.com/manage"`}
	listed := w.api("GET", "/v1/doubles?limit=1", "", auth(readKey))
	for name, text := range map[string]string{"the account": w.api("GET", "/v1/accounts/"+twice, "").text, "the list": listed.text} {
		for _, part := range parts {
			if !strings.Contains(text, part) {
				t.Errorf("%s = %s, want it with %s", name, text, part)
			}
		}
	}
	if strings.Contains(listed.text, once) || !strings.Contains(listed.text, `"account_id":"`+twice) {
		t.Errorf("the list = %s, want %s alone", listed.text, twice)
	}
	if next := listed.str("next"); next != "" {
		if rest := w.api("GET", "/v1/doubles?cursor="+next, ""); strings.Contains(rest.text, twice) {
			t.Errorf("the next page = %s", rest.text)
		}
	}
	if got := w.metric(`latchkey_writer_sold_twice_total{environment="sandbox"}`); got != "1" {
		t.Errorf("counted %s", got)
	}
	sub := subscription("sub_2", twice, "price_pro")
	sub["cancel_at_period_end"] = true
	w.stripe(event(unique("evt_"), "customer.subscription.updated", sub, object{"created": sub["created"].(int64) + 5}))
	if r := w.api("GET", "/v1/doubles", ""); strings.Contains(r.text, twice) {
		t.Errorf("after the cancellation: %s", r.text)
	}
	if r := w.api("GET", "/v1/doubles?limit=0", ""); r.slug() != "invalid-request" {
		t.Errorf("no limit: %d %s", r.status, r.text)
	}
}

// Two trials of one person are shown, each with what it is of and whether it goes on.
func TestTwoTrialsOfOnePersonAreShown(t *testing.T) {
	w := oneWriter(t)
	w.api("PUT", "/v1/catalog", testCatalog)
	account := w.account()
	for _, id := range []string{"sub_1", "sub_2"} {
		sub := subscription(id, account, "price_pro")
		sub["status"], sub["trial_start"], sub["trial_end"], sub["cancel_at_period_end"] = "trialing", sub["created"], sub["current_period_end"], id == "sub_1"
		if r := w.stripe(event(unique("evt_"), "customer.subscription.created", sub)); r.status != 200 {
			t.Fatalf("%d %s", r.status, r.text)
		}
	}
	r := w.api("GET", "/v1/accounts/"+account, "")
	for _, want := range []string{`"kind":"trials"`, "One person has had 2 trials", `"purchase_id":"stripe:sub_1","store":"stripe","product_id":"price_pro"`, `"purchase_id":"stripe:sub_2","store":"stripe","product_id":"price_pro"`} {
		if !strings.Contains(r.text, want) {
			t.Errorf("%s lacks %s", r.text, want)
		}
	}
	if n := strings.Count(r.text[strings.Index(r.text, `"kind":"trials"`):strings.Index(r.text, "One person has had")], `"will_renew":true`); n != 1 {
		t.Errorf("%d of the trials go on, want the one that was not cancelled: %s", n, r.text)
	}
}
