package writer

import (
	"fmt"
	"testing"
)

// TestEachMistakeIsAProblemOfItsOwn: what a caller can get wrong about accounts, merges, codes, links, leases and credits, each with a type that says what to do.
func TestEachMistakeIsAProblemOfItsOwn(t *testing.T) {
	w := oneWriter(t)
	w.api("PUT", "/v1/catalog", testCatalog)
	a, b, free := w.account(), w.account(), w.account()
	session := w.api("POST", "/v1/accounts/"+a+"/sessions", `{}`).str("session_token")
	w.api("POST", "/v1/accounts/"+a+"/aliases", `{"kind": "custom", "value": "taken"}`)
	w.api("POST", "/v1/accounts/"+a+"/merges", fmt.Sprintf(`{"from": %q}`, b))
	lease := w.api("POST", "/v1/purchase-intents", fmt.Sprintf(`{"account_id": %q, "provider": "stripe", "product_id": "price_pro"}`, free)).str("intent_id")
	link := w.api("POST", "/v1/link-tokens", fmt.Sprintf(`{"account_id": %q}`, free)).str("token")
	w.putCourses()
	code := w.api("POST", "/v1/redemption-codes", `{"provider": "stripe", "product_id": "price_course"}`).str("code")
	live := w.do("POST", "/v1/accounts", `{}`, auth(productionKey)).str("account_id")
	spend := func(amount string) string {
		return fmt.Sprintf(`{"credit": "coins", "amount": %s, "consumption_id": "c"}`, amount)
	}
	own := map[string]string{} // of each kind of mistake its type
	for _, tt := range []struct {
		kind, method, path, body string
		credential               string
		status                   int
		slug                     string
	}{
		{"an unknown account", "GET", "/v1/accounts/acc_00000000000000000000000000", "", serverKey, 404, "not-found"},
		{"an unknown account", "PATCH", "/v1/accounts/acc_00000000000000000000000000", `{}`, serverKey, 404, "not-found"},
		{"an unknown account", "GET", "/v1/accounts/custom:unknown/entitlements", "", serverKey, 404, "not-found"},
		{"an unknown account", "POST", "/v1/accounts/" + a + "/merges", `{"from": "acc_00000000000000000000000000"}`, serverKey, 404, "not-found"},
		{"an alias of another account", "POST", "/v1/accounts/" + free + "/aliases", `{"kind": "custom", "value": "taken"}`, serverKey, 409, "alias-taken"},
		{"a merge with itself", "POST", "/v1/accounts/" + a + "/merges", fmt.Sprintf(`{"from": %q}`, a), serverKey, 400, "same-account"},
		{"a merge with itself", "POST", "/v1/accounts/" + a + "/merges", `{"from": "custom:taken", "preview": true}`, serverKey, 400, "same-account"},
		{"a cycle", "POST", "/v1/accounts/" + b + "/merges", fmt.Sprintf(`{"from": %q}`, a), serverKey, 409, "merge-cycle"},
		{"a cycle", "POST", "/v1/accounts/" + b + "/merges", `{"from": "custom:taken", "preview": true}`, serverKey, 409, "merge-cycle"},
		{"a merge of one that was merged before", "POST", "/v1/accounts/" + a + "/merges", fmt.Sprintf(`{"from": %q}`, b), serverKey, 409, "already-merged"},
		{"a merge of one that was merged before", "POST", "/v1/accounts/" + free + "/merges", fmt.Sprintf(`{"from": %q, "preview": true}`, b), serverKey, 409, "already-merged"},
		{"a code or link of another environment", "POST", "/v1/redemption-codes/" + code + "/redeem", fmt.Sprintf(`{"account_id": %q}`, live), productionKey, 409, "other-environment"},
		{"a code or link of another environment", "POST", "/v1/link-tokens/" + link + "/redeem", `{}`, productionKey, 409, "other-environment"},
		{"a lease of another account", "DELETE", "/v1/purchase-intents/" + lease, "", session, 403, "other-account"},
		{"a lease of another account", "POST", "/v1/purchase-intents/" + lease + "/submitted", "", session, 403, "other-account"},
		{"a negative amount", "POST", "/v1/accounts/" + a + "/consumptions", spend("-1"), serverKey, 400, "invalid-amount"},
		{"a negative amount", "POST", "/v1/accounts/" + a + "/consumptions", spend("0"), serverKey, 400, "invalid-amount"},
		{"an id of a wrong form", "GET", "/v1/accounts/42", "", serverKey, 404, "invalid-id"},
		{"an id of a wrong form", "GET", "/v1/accounts/acc_a%20b/entitlements", "", serverKey, 404, "invalid-id"},
		{"an id of a wrong form", "GET", "/v1/accounts/e_mail:a/export", "", serverKey, 404, "invalid-id"},
		{"an id of a wrong form", "GET", "/v1/accounts/acc_x", "", serverKey, 404, "invalid-id"},
		{"an id of a wrong form", "DELETE", "/v1/accounts/custom:", "", serverKey, 404, "invalid-id"},
		{"an id of a wrong form", "POST", "/v1/accounts/" + a + "/merges", `{"from": "42"}`, serverKey, 404, "invalid-id"},
		{"an id of a wrong form", "DELETE", "/v1/accounts/" + a + "/merges/42", "", serverKey, 404, "invalid-id"},
		{"an id of a wrong form", "DELETE", "/v1/accounts/" + a + "/grants/42", "", serverKey, 404, "invalid-id"},
		{"an id of a wrong form", "DELETE", "/v1/purchase-intents/42", "", serverKey, 404, "invalid-id"},
		{"an id of a wrong form", "POST", "/v1/purchase-intents", `{"account_id": "42", "provider": "stripe", "product_id": "price_life"}`, serverKey, 404, "invalid-id"},
		{"an id of a wrong form", "POST", "/v1/link-tokens", `{"account_id": "42"}`, serverKey, 404, "invalid-id"},
		{"an id of a wrong form", "POST", "/v1/link-tokens", `{"unclaimed": "sub_1"}`, serverKey, 404, "invalid-id"},
		{"an id of a wrong form", "POST", "/v1/redemption-codes", `{"provider": "stripe", "product_id": "price_course", "purchase_id": "pi_1"}`, serverKey, 404, "invalid-id"},
		{"an id of a wrong form", "POST", "/v1/unclaimed/sub_1/claim", fmt.Sprintf(`{"account_id": %q}`, a), serverKey, 404, "invalid-id"},
		{"an id of a wrong form", "POST", "/v1/unclaimed/stripe:sub_1/claim", `{"account_id": "42"}`, serverKey, 404, "invalid-id"},
	} {
		r := w.do(tt.method, tt.path, tt.body, auth(tt.credential))
		if r.status != tt.status || r.slug() != tt.slug || r.str("detail") == "" {
			t.Errorf("%s: %s %s %s = %d %s, want %d %s", tt.kind, tt.method, tt.path, tt.body, r.status, r.text, tt.status, tt.slug)
		}
		own[tt.kind] = tt.slug
	}
	kinds := map[string]string{}
	for kind, slug := range own {
		if other, used := kinds[slug]; used {
			t.Errorf("%s and %s have one type, %s", kind, other, slug)
		}
		kinds[slug] = kind
	}
}
