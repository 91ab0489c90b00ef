package writer

import (
	"strings"
	"testing"
)

// Wherever an account id stands, a name does that a provider told of; what is given by the API comes first. A Play token is kept as its hash alone (R38, R39).
func TestAnAccountIsFoundByWhatProvidersCallIt(t *testing.T) {
	w := oneWriter(t)
	mine, other := w.account(), w.account()
	if r := w.api("GET", "/v1/accounts/stripe_customer:cus_sub_1", ""); r.status != 404 || r.slug() != "not-found" {
		t.Errorf("before the purchase: %d %s", r.status, r.text)
	}
	if r := w.stripe(event("evt_1", "customer.subscription.created", subscription("sub_1", mine, "price_pro"))); r.status != 200 {
		t.Fatalf("%d %s", r.status, r.text)
	}
	shown := w.api("GET", "/v1/accounts/stripe_customer:cus_sub_1", "")
	if shown.str("account_id") != mine || !strings.Contains(shown.text, `"learned_aliases":[{"kind":"stripe_customer","value":"cus_sub_1"}]`) {
		t.Errorf("after it: %d %s", shown.status, shown.text)
	}
	untagged := subscription("sub_2", "", "price_pro")
	untagged["customer"] = "cus_sub_1"
	w.stripe(event("evt_2", "customer.subscription.created", untagged))
	if r := w.api("GET", "/v1/accounts/"+mine, ""); !strings.Contains(r.text, `"stripe:sub_2"`) {
		t.Errorf("the customer's next payment is not theirs: %s", r.text)
	}
	if r := w.api("POST", "/v1/accounts/"+other+"/aliases", `{"kind": "stripe_customer", "value": "cus_sub_1"}`); r.status != 200 {
		t.Fatalf("%d %s", r.status, r.text)
	}
	if r := w.api("GET", "/v1/accounts/stripe_customer:cus_sub_1/entitlements", ""); r.str("account_id") != other {
		t.Errorf("given by the API: %s", r.text)
	}
	if r := w.api("POST", "/v1/accounts/"+other+"/aliases", `{"kind": "google_purchase_token", "value": "canary-of-a-token"}`); r.status != 200 {
		t.Fatalf("%d %s", r.status, r.text)
	}
	byToken := w.api("GET", "/v1/accounts/google_purchase_token:canary-of-a-token", "")
	if byToken.str("account_id") != other || strings.Contains(byToken.text, "canary-of-a-token") {
		t.Errorf("by its token: %s", byToken.text)
	}
	if r := w.api("GET", "/v1/accounts/no_such_kind:x", ""); r.status != 404 || r.slug() != "invalid-id" {
		t.Errorf("of no kind: %s", r.text)
	}
}
