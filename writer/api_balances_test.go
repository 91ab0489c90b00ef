package writer

import (
	"net/http"
	"testing"
	"time"
)

// TestSupportOverHTTP: what support does for one customer: a purchase that nobody has is given to them, one of another account comes with a restore, as the
// policy says; and what they bought is consumed once.
func TestSupportOverHTTP(t *testing.T) {
	t.Parallel() // it mostly waits
	f := startAppStore(t)
	w := receiptsWriter(t, f, startStripe(t), nil)
	customer, other := w.account(), w.account()

	policy := w.api("GET", "/v1/policy", "")
	if policy.status != http.StatusOK || policy.str("transfer") != "transfer" || policy.str("claw_back") != "floor_zero" {
		t.Errorf("GET /v1/policy = %d %s, want the defaults", policy.status, policy.text)
	}
	if r := w.api("PUT", "/v1/policy", policy.text); r.status != http.StatusOK {
		t.Errorf("PUT /v1/policy of what GET gave = %d %s, want 200", r.status, r.text)
	}
	w.api("PUT", "/v1/policy", `{"transfer": "keep", "claw_back": "debt", "sharing": "off", "billing_grace": {"stripe": 60}}`)
	changed := w.api("GET", "/v1/policy", "")
	if grace, _ := changed.json["billing_grace"].(object); changed.str("transfer") != "keep" || changed.str("claw_back") != "debt" || changed.str("sharing") != "off" || grace["stripe"] != 60.0 {
		t.Errorf("GET /v1/policy = %d %s, want what was put", changed.status, changed.text)
	}

	month := f.transaction("1000", "Sandbox", true)
	if outcome, _, _ := w.api("POST", "/v1/receipts", shown(other, signedReceipt(month))).result(t); outcome != receiptRecorded {
		t.Fatalf("the receipt of another account: %s", outcome)
	}
	if outcome, finish, pro := w.api("POST", "/v1/restores", shown(customer, signedReceipt(month))).result(t); outcome != receiptOther || !finish || pro {
		t.Errorf("a restore where the policy keeps: %s, finish %t, pro %t, want %s and nothing taken", outcome, finish, pro, receiptOther)
	}
	w.api("PUT", "/v1/policy", `{"transfer": "transfer"}`)
	if outcome, _, pro := w.api("POST", "/v1/restores", shown(customer, signedReceipt(month))).result(t); outcome != receiptRecorded || !pro {
		t.Errorf("a restore where the policy transfers: %s, pro %t, want it taken", outcome, pro)
	}

	if r := w.stripe(event(unique("evt_"), "customer.subscription.created", subscription("sub_nobodys", "", "price_pro"))); r.status != http.StatusOK {
		t.Fatalf("a payment without an account = %d %s", r.status, r.text)
	}
	claim := "/v1/unclaimed/stripe:sub_nobodys/claim"
	if r := w.api("POST", claim, `{"account_id": "`+other+`"}`); r.status != http.StatusOK || r.str("purchase_id") != "stripe:sub_nobodys" || w.pro(other)["purchase_id"] != "stripe:sub_nobodys" {
		t.Errorf("POST %s = %d %s, want the account's", claim, r.status, r.text)
	}
	if r := w.api("POST", claim, `{"account_id": "`+customer+`"}`); r.slug() != "alias-taken" || r.str("owner") != other {
		t.Errorf("a claim of what is somebody's = %d %s, want alias-taken with owner", r.status, r.text)
	}
	if r := w.api("POST", claim, `{"account_id": "`+customer+`", "from": "`+customer+`"}`); r.slug() != "alias-taken" || r.str("owner") != other {
		t.Errorf("a claim from who does not have it = %d %s, want alias-taken with owner", r.status, r.text)
	}
	if r := w.api("POST", claim, `{"account_id": "`+customer+`", "from": "x"}`); r.slug() != "invalid-id" {
		t.Errorf("a claim from what is no account = %d %s, want invalid-id", r.status, r.text)
	}
	if r := w.api("POST", claim, `{"account_id": "`+customer+`", "from": "`+other+`"}`); r.status != http.StatusOK || r.str("account_id") != customer || w.pro(other)["reason"] != "transferred" {
		t.Errorf("a claim from who has it = %d %s, and it sees %v, want the customer's and transferred", r.status, r.text, w.pro(other))
	}

	hundred := f.Sign(t, f.sell(coins("2000", "Sandbox")))
	w.api("POST", "/v1/receipts", shown(customer, signedReceipt(hundred)))
	consume := "/v1/accounts/" + customer + "/consumptions"
	steps := []struct {
		name, body string
		status     int
		slug       string
		balance    any
	}{
		{"some are spent", `{"credit": "coins", "amount": 70, "consumption_id": "door-1"}`, 200, "", 30.0},
		{"the same again spends nothing", `{"credit": "coins", "amount": 70, "consumption_id": "door-1"}`, 200, "", 30.0},
		{"another under its id", `{"credit": "coins", "amount": 7, "consumption_id": "door-1"}`, 422, "idempotency-mismatch", nil},
		{"more than there are", `{"credit": "coins", "amount": 31, "consumption_id": "door-2"}`, 409, "insufficient-balance", "30"},
		{"less than nothing", `{"credit": "coins", "amount": -1, "consumption_id": "door-3"}`, 400, "invalid-amount", nil},
		{"of no credit", `{"amount": 1, "consumption_id": "door-4"}`, 400, "invalid-request", nil},
		{"without an id", `{"credit": "coins", "amount": 1}`, 400, "invalid-request", nil},
	}
	for _, s := range steps {
		if r := w.api("POST", consume, s.body); r.status != s.status || r.slug() != s.slug || r.json["balance"] != s.balance {
			t.Errorf("%s: %d %s, want %d %s with balance %v", s.name, r.status, r.text, s.status, s.slug, s.balance)
		}
	}
	for _, route := range []string{"/v1/receipts", "/v1/restores"} {
		r := w.api("POST", route, shown(other, signedReceipt(hundred)))
		result := r.json["results"].([]any)[0].(object)
		if result["outcome"] != receiptOther || result["restore_allowed"] != false || r.json["balances"] != nil && r.json["balances"].(object)["coins"] != nil {
			t.Errorf("POST %s of coins of another account = %s, want %s and no coins", route, r.text, receiptOther)
		}
	}
}

// TestADebtIsShownToTheOperatorAlone: of coins that were spent and refunded the operator sees what is owed, where the policy says so, and an app sees none.
func TestADebtIsShownToTheOperatorAlone(t *testing.T) {
	for policy, owed := range map[string]float64{"debt": -70, "floor_zero": 0} {
		w := oneWriter(t)
		w.api("PUT", "/v1/catalog", `{"products": [{"provider": "stripe", "product_id": "price_coins", "kind": "consumable", "credits": {"coins": 100}}]}`)
		w.api("PUT", "/v1/policy", `{"claw_back": "`+policy+`"}`)
		id := w.account()
		w.send(event("evt_1", "checkout.session.completed", with(checkout("cs_1", id), "line_items", lineItems(lineItem("li_1", "price_coins", 1)))))
		if r := w.api("POST", "/v1/accounts/"+id+"/consumptions", `{"credit": "coins", "amount": 70, "consumption_id": "door-1"}`); r.json["balance"] != 30.0 {
			t.Fatalf("%s: %d %s, want a balance of 30", policy, r.status, r.text)
		}
		w.send(event("evt_2", "charge.refunded", object{"id": "ch_1", "object": "charge", "payment_intent": "pi_cs_1", "livemode": false, "status": "succeeded", "currency": "eur",
			"created": time.Now().Unix(), "amount": 4900, "amount_captured": 4900, "amount_refunded": 4900, "refunded": true}))
		operator, _ := w.api("GET", "/v1/accounts/"+id, "").json["balances"].(object)
		app, _ := w.api("GET", "/v1/accounts/"+id+"/entitlements", "").json["balances"].(object)
		if operator["coins"] != owed || app["coins"] != 0.0 {
			t.Errorf("%s: the operator sees %v, want %v; the app %v, want 0", policy, operator, owed, app)
		}
	}
}
