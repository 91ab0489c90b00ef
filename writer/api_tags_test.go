package writer

import (
	"fmt"
	"net/http"
	"net/url"
	"testing"
)

// TestATaggedCustomersPaymentFindsItsAccount: the tag is at Stripe, with the environment, and a payment that had waited for its account is there (R31, R33).
func TestATaggedCustomersPaymentFindsItsAccount(t *testing.T) {
	s := startStripe(t)
	w := pullingWriter(t, s)
	w.send(event("evt_1", "customer.subscription.created", subscription("sub_1", "", "price_pro"))) // of cus_sub_1
	s.put("/v1/customers/cus_sub_1", object{"id": "cus_sub_1", "object": "customer", "email": "canary@example.com"})
	acc := w.account()
	tag := func(body string, more ...header) reply {
		return w.api("POST", "/v1/accounts/"+acc+"/tags", body, more...)
	}
	const body = `{"provider": "stripe", "customer": "cus_sub_1"}`
	once := header{"Idempotency-Key": "tag"}
	r := tag(body, once)
	if r.status != http.StatusOK || r.str("account_id") != acc || fmt.Sprint(r.json["metadata"]) != fmt.Sprintf("map[account_id:%s environment:sandbox]", acc) {
		t.Fatalf("POST tags = %d %s", r.status, r.text)
	}
	s.mu.Lock()
	sent, err := url.ParseQuery(s.posted["/v1/customers/cus_sub_1"])
	s.mu.Unlock()
	if err != nil || sent.Get("metadata[account_id]") != acc || sent.Get("metadata[environment]") != "sandbox" || len(sent) != 2 {
		t.Errorf("Stripe was sent %v, %v", sent, err)
	}
	if again := tag(body, once); again.text != r.text {
		t.Errorf("the repeat = %s, want %s", again.text, r.text)
	}
	if pro := w.pro(acc); pro["active"] != true {
		t.Errorf("pro = %v, want it active by the customer", pro)
	}
	if r := w.api("POST", "/v1/accounts/"+w.account()+"/tags", body); r.slug() != "alias-taken" || r.str("owner") != acc {
		t.Errorf("another account = %d %s, want alias-taken", r.status, r.text)
	}
	same := w.account()
	if r := w.api("POST", "/v1/accounts/"+same+"/merges", fmt.Sprintf(`{"from": %q}`, acc)); r.status != http.StatusCreated {
		t.Fatalf("merge = %d %s", r.status, r.text)
	}
	if r := w.api("POST", "/v1/accounts/"+same+"/tags", body); r.status != http.StatusOK || r.str("account_id") != acc {
		t.Errorf("an account that is the same person's = %d %s, want the tag of %s, whose customer it stays", r.status, r.text, acc)
	}
	for body, slug := range map[string]string{
		`{"provider": "stripe", "customer": "cus_nobody"}`: "not-found",
		`{"provider": "stripe", "customer": ""}`:           "invalid-request",
		`{"provider": "apple", "customer": "x"}`:           "invalid-request",
	} {
		if r := tag(body); r.slug() != slug {
			t.Errorf("%s = %d %s, want %s", body, r.status, r.text, slug)
		}
	}
	for status, slug := range map[int]string{http.StatusForbidden: "not-configured", http.StatusServiceUnavailable: "unavailable", http.StatusTooManyRequests: "unavailable"} {
		s.answer(func(rw http.ResponseWriter, _ string, _ int) bool {
			rw.WriteHeader(status)
			return true
		})
		if r := tag(body); r.slug() != slug || slug == "unavailable" && r.header.Get("Retry-After") == "" {
			t.Errorf("where Stripe says %d = %d %s, want %s", status, r.status, r.text, slug)
		}
	}
	other := oneWriter(t)
	if r := other.api("POST", "/v1/accounts/"+other.account()+"/tags", body); r.slug() != "not-configured" {
		t.Errorf("without a key = %d %s, want not-configured", r.status, r.text)
	}
}
