package writer

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// Paid for and locked, and charged after a cancel: shown with the account and listed, with whose it is, and gone once the money was given back (R75).
func TestMismatchesOfMoneyAndAccessAreListed(t *testing.T) {
	w := oneWriter(t)
	w.api("PUT", "/v1/catalog", testCatalog)
	account := w.account()
	send := func(kind string, o object) {
		t.Helper()
		if r := w.stripe(event(unique("evt_"), kind, o)); r.status != 200 {
			t.Fatalf("%s: %d %s", kind, r.status, r.text)
		}
	}
	ended := time.Now().AddDate(0, 0, -3).Unix()
	sub := subscription("sub_1", account, "price_pro")
	sub["status"], sub["ended_at"], sub["canceled_at"], sub["latest_invoice"] = "canceled", ended, ended, "in_1"
	send("customer.subscription.deleted", sub)
	send("customer.subscription.created", subscription("sub_2", "", "price_pro"))
	send("customer.subscription.created", subscription("sub_3", account, "price_pro"))
	bill := object{"id": "in_1", "object": "invoice", "status": "paid", "subscription": "sub_1", "customer": "cus_sub_1", "amount_paid": 999, "currency": "eur", "charge": "ch_1",
		"created": ended + 100, "status_transitions": object{"paid_at": ended + 100}, "livemode": false,
		"lines": object{"object": "list", "has_more": false, "data": []object{{"id": "il_1", "object": "line_item", "subscription_item": "si_sub_1", "amount": 999, "quantity": 1,
			"period": object{"start": ended + 60, "end": ended + 30*24*3600}, "price": object{"id": "price_pro", "product": "prod_x"}}}}}
	send("invoice.paid", bill)

	since := time.Unix(ended+60, 0).UTC().Format(time.RFC3339)
	charged := fmt.Sprintf(`{"kind":"charged_after_cancel","item_id":"si_sub_1","since":%q,"explanation":"stripe:sub_1 was charged for a term from %s on`, since, since)
	shown := w.api("GET", "/v1/accounts/"+account, "").text
	if !strings.Contains(shown, charged) || !strings.Contains(shown, `{"kind":"paid_but_locked","item_id":"si_sub_1"`) || !strings.Contains(shown, `"mismatches":[]`) {
		t.Errorf("the account = %s", shown)
	}
	listed := w.api("GET", "/v1/mismatches", "", auth(readKey))
	for _, part := range []string{charged, fmt.Sprintf(`{"purchase_id":"stripe:sub_1","account_id":%q,`, account), `{"purchase_id":"stripe:sub_2","account_id":null,"mismatches":[{"kind":"paid_but_unclaimed"`} {
		if listed.status != 200 || !strings.Contains(listed.text, part) {
			t.Errorf("the list = %d %s, want it with %s", listed.status, listed.text, part)
		}
	}
	if strings.Contains(listed.text, "sub_3") {
		t.Errorf("the list has one that agrees: %s", listed.text)
	}
	first := w.api("GET", "/v1/mismatches?limit=1", "")
	if rest := w.api("GET", "/v1/mismatches?cursor="+first.str("next"), ""); !strings.Contains(first.text, "sub_1") || strings.Contains(rest.text, "sub_1") || !strings.Contains(rest.text, "sub_2") {
		t.Errorf("pages: %s and %s", first.text, rest.text)
	}
	send("charge.refunded", object{"id": "ch_1", "object": "charge", "invoice": "in_1", "amount": 999, "amount_refunded": 999, "refunded": true, "currency": "eur", "created": ended + 100, "livemode": false})
	if r := w.api("GET", "/v1/mismatches", ""); strings.Contains(r.text, "stripe:sub_1") {
		t.Errorf("after the refund: %s", r.text)
	}
	if r := w.api("GET", "/v1/mismatches?limit=0", ""); r.slug() != "invalid-request" {
		t.Errorf("no limit: %d %s", r.status, r.text)
	}
}
