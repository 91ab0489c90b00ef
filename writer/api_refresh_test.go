package writer

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
)

// TestARefreshTellsWhatChanged: a message that was lost, a sale of which none ever came, and a provider that does not answer (R92, R105).
func TestARefreshTellsWhatChanged(t *testing.T) {
	s := startStripe(t)
	w := pullingWriter(t, s)
	none := object{"object": "list", "data": []object{}, "has_more": false}
	s.put("/v1/subscriptions", none)
	s.put("/v1/checkout/sessions", none)
	refresh := func(id string, more ...header) reply {
		return w.api("POST", "/v1/accounts/"+id+"/refresh", "", more...)
	}
	one := func(r reply, list string) object {
		t.Helper()
		all, _ := r.json[list].([]any)
		if r.status != http.StatusOK || len(all) != 1 {
			t.Fatalf("refresh = %d %s, want one of %s", r.status, r.text, list)
		}
		return all[0].(object)
	}

	acc := w.account()
	sub := subscription("sub_cut", acc, "price_pro")
	w.send(event("evt_1", "customer.subscription.created", sub))
	s.put("/v1/subscriptions/sub_cut", with(with(sub, "status", "canceled"), "ended_at", sub["current_period_start"]))
	once := header{"Idempotency-Key": "support"}
	r := refresh(acc, once)
	change := one(r, "changed")
	if change["id"] != "pro" || change["before"].(object)["active"] != true || change["after"].(object)["active"] != false || r.json["complete"] != true {
		t.Errorf("the cancellation that nobody told = %s", r.text)
	}
	if asked := one(r, "asked"); asked["provider"] != "stripe" || asked["outcome"] != "answered" || asked["recorded"] != 1.0 {
		t.Errorf("asked = %v", asked)
	}
	if again := refresh(acc, once); again.text != r.text {
		t.Errorf("the repeat = %s, want %s", again.text, r.text)
	}
	if soon := refresh(acc); soon.status != 429 || soon.header.Get("Retry-After") == "" {
		t.Errorf("once more at once = %d %s, want too-many-requests", soon.status, soon.text)
	}

	lost := w.account()
	if r := w.api("POST", "/v1/accounts/"+lost+"/aliases", `{"kind": "stripe_customer", "value": "cus_sub_lost"}`); r.status != 200 {
		t.Fatalf("alias = %d %s", r.status, r.text)
	}
	bought := subscription("sub_lost", "", "price_pro")
	coins := with(with(checkout("cs_lost", lost), "customer", "cus_sub_lost"), "line_items", lineItems(lineItem("li_1", "price_coins", 2)))
	s.put("/v1/subscriptions", object{"object": "list", "data": []object{bought}, "has_more": false})
	s.put("/v1/subscriptions/sub_lost", bought)
	s.put("/v1/checkout/sessions", object{"object": "list", "data": []object{coins, {"id": "cs_sub", "mode": "subscription"}}, "has_more": false})
	s.put("/v1/checkout/sessions/cs_lost", coins)
	r = refresh("stripe_customer:cus_sub_lost")
	if change := one(r, "changed"); change["before"] != nil || change["after"].(object)["active"] != true || r.str("account_id") != lost {
		t.Errorf("a sale of which no message came = %s", r.text)
	}
	if coins, _ := r.json["balances_changed"].(object)["coins"].(object); coins["before"] != 0.0 || coins["after"] != 200.0 {
		t.Errorf("balances_changed = %v, want 200 coins more", r.json["balances_changed"])
	}
	if pro := w.pro(lost); pro["active"] != true {
		t.Errorf("pro = %v, want it active", pro)
	}

	down := w.account()
	w.send(event("evt_2", "customer.subscription.created", subscription("sub_down", down, "price_pro")))
	s.answer(func(rw http.ResponseWriter, path string, _ int) bool {
		if strings.HasSuffix(path, "sub_down") {
			rw.WriteHeader(http.StatusTooManyRequests)
			return true
		}
		return false
	})
	r = refresh(down)
	if asked := one(r, "asked"); asked["outcome"] != "limited" || r.json["complete"] != false || fmt.Sprint(r.json["changed"]) != "[]" {
		t.Errorf("a provider that asks for patience = %s", r.text)
	}

	for path, slug := range map[string]string{"acc_00000000000000000000000000": "not-found", "custom:nobody": "not-found"} {
		if r := refresh(path); r.slug() != slug {
			t.Errorf("refresh of %s = %d %s, want %s", path, r.status, r.text, slug)
		}
	}
	if r := w.api("POST", "/v1/accounts/"+down+"/refresh", `{"x": 1}`); r.slug() != "invalid-request" {
		t.Errorf("an unknown field = %d %s", r.status, r.text)
	}
}

// TestARefreshWithoutAKeySaysSo: and changes nothing.
func TestARefreshWithoutAKeySaysSo(t *testing.T) {
	w := oneWriter(t)
	acc := w.account()
	w.stripe(event(unique("evt_"), "customer.subscription.created", subscription(unique("sub_"), acc, "price_pro")))
	r := w.api("POST", "/v1/accounts/"+acc+"/refresh", "")
	if r.status != 200 || !strings.Contains(r.text, `{"provider":"stripe","outcome":"not_configured"`) || r.json["complete"] != false {
		t.Errorf("refresh = %d %s, want it told that nobody can be asked", r.status, r.text)
	}
	if empty := w.api("POST", "/v1/accounts/"+w.account()+"/refresh", ""); empty.status != 200 || empty.json["complete"] != true || fmt.Sprint(empty.json["asked"]) != "[]" {
		t.Errorf("of an account without purchases = %d %s", empty.status, empty.text)
	}
}
