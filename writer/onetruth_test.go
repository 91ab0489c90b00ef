package writer

import (
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/latchkey/latchkey/pkg/config"
	"github.com/latchkey/latchkey/pkg/entitlement"
)

// These tests show what becomes of one sale that an aggregator and its store both tell of, and of two that may be one.

// aggregatorSale is a sale as a provider that sells through others tells of it.
type aggregatorSale struct {
	name entitlement.Provider
	// stripe is a message about a month of a subscription at Stripe, elsewhere one about a month that no store of ours sold.
	stripe    func(account, subscription string, at time.Time) reply
	elsewhere func(account string, at time.Time) reply
}

// aggregatorSales are those of every provider that sells through others, at a writer that has all of them.
func (w *testWriter) aggregatorSales() []aggregatorSale {
	month := func(at time.Time) time.Time { return at.AddDate(0, 1, 0) }
	revenueCat := func(account, store, id string, at time.Time) reply {
		return w.revenueCat([]byte(jsonOf(w.t, object{"api_version": "1.0", "event": object{"type": "INITIAL_PURCHASE", "id": unique("rc-"), "event_timestamp_ms": at.UnixMilli(), "app_user_id": account,
			"original_app_user_id": account, "aliases": []string{account}, "product_id": "price_pro", "entitlement_ids": []string{"premium"}, "period_type": "NORMAL", "store": store, "environment": "SANDBOX",
			"purchased_at_ms": at.Add(-time.Hour).UnixMilli(), "expiration_at_ms": month(at).UnixMilli(), "transaction_id": id, "original_transaction_id": id}})), revenueCatAuthorization)
	}
	adapty := func(account, store, id string, at time.Time) reply {
		stamp := func(at time.Time) string { return at.UTC().Format("2006-01-02T15:04:05.000000-0700") }
		return w.do("POST", "/v1/webhooks/sandbox/adapty", jsonOf(w.t, object{"event_type": "access_level_updated", "event_datetime": stamp(at), "profile_id": unique("profile-"), "customer_user_id": account,
			"event_properties": object{"profile_event_id": unique("e"), "environment": "Sandbox", "store": store, "vendor_product_id": "price_pro", "transaction_id": id, "original_transaction_id": id,
				"purchase_date": stamp(at.Add(-time.Hour)), "access_level_id": "premium", "is_active": true, "is_refund": false, "will_renew": true, "expires_at": stamp(month(at))}}), header{"Authorization": adaptyAuthorization})
	}
	iaptic := func(account, platform, id string, at time.Time) reply {
		stamp := func(at time.Time) string { return at.UTC().Format("2006-01-02T15:04:05.000Z07:00") }
		id = platform + ":" + id
		return w.do("POST", "/v1/webhooks/sandbox/iaptic", jsonOf(w.t, object{"type": "purchases.updated", "password": iapticPassword, "applicationUsername": account,
			"notification": object{"reason": "PURCHASED", "id": unique("n"), "date": stamp(at)}, "purchases": object{"x": object{"purchaseId": id, "transactionId": id, "productId": platform + ":price_pro", "platform": platform,
				"sandbox": true, "purchaseDate": stamp(at.Add(-time.Hour)), "expirationDate": stamp(month(at)), "renewalIntent": "Renew", "cancelationReason": ""}}}), nil)
	}
	web2wave := func(account, label, id string, at time.Time) reply {
		user := "user-of-" + account
		if r := w.api("POST", "/v1/accounts/"+account+"/aliases", `{"kind": "web2wave_user", "value": "`+user+`"}`); r.status != http.StatusOK {
			w.t.Fatalf("alias = %d %s", r.status, r.text)
		}
		return w.web2wave("subscription", web2waveRow(int(at.UnixNano()/1e6), user, object{"id": "row-" + id, "payment_system_label": label, "pay_system_id": id, "updated_at": at.UTC().Format(time.DateTime)}))
	}
	return []aggregatorSale{
		{entitlement.RevenueCat, func(a, id string, at time.Time) reply { return revenueCat(a, "STRIPE", id, at) },
			func(a string, at time.Time) reply { return revenueCat(a, "RC_BILLING", unique("rcb"), at) }},
		{entitlement.Adapty, func(a, id string, at time.Time) reply { return adapty(a, "stripe", id, at) },
			func(a string, at time.Time) reply { return adapty(a, "paddle", unique("pdl"), at) }},
		{entitlement.Iaptic, func(a, id string, at time.Time) reply { return iaptic(a, "stripe", id, at) },
			func(a string, at time.Time) reply { return iaptic(a, "windows", unique("win"), at) }},
		{entitlement.Web2Wave, func(a, id string, at time.Time) reply { return web2wave(a, "Stripe", id, at) },
			func(a string, at time.Time) reply { return web2wave(a, "PayPal", unique("I-"), at) }},
	}
}

// sellingWriter starts a writer with every aggregator, and with Stripe's API where s is given.
func sellingWriter(t *testing.T, s *fakeStripe) *testWriter {
	t.Helper()
	cfg := testConfigs(t, 1)[0]
	withWeb2Wave(&cfg, "")
	e := cfg.Environments[entitlement.Sandbox]
	e.RevenueCat = &RevenueCatConfig{Authorizations: []config.Secret{revenueCatAuthorization}}
	e.Adapty = &AdaptyConfig{Authorizations: []config.Secret{adaptyAuthorization}}
	e.Iaptic = &IapticConfig{Passwords: []config.Secret{iapticPassword}}
	cfg.Environments[entitlement.Sandbox] = e
	if s != nil {
		cfg = s.asking(cfg)
	}
	w := startWriter(t, cfg)
	w.awaitReady()
	w.putCoins()
	if r := w.api("PUT", "/v1/catalog", `{"products": [{"provider": "stripe", "product_id": "price_pro", "kind": "subscription", "entitlements": ["pro"], "plan": "pro_monthly", "group": "pro"}],
		"aggregator_entitlements": [{"provider": "revenuecat", "id": "premium", "entitlement": "pro"}, {"provider": "adapty", "id": "premium", "entitlement": "pro"}]}`); r.status != http.StatusOK {
		t.Fatalf("PUT catalog = %d %s", r.status, r.text)
	}
	for _, name := range []entitlement.Provider{entitlement.Iaptic, entitlement.Web2Wave} {
		if r := w.api("PUT", "/v1/catalog", fmt.Sprintf(`{"products": [{"provider": %q, "product_id": "price_pro", "kind": "subscription", "entitlements": ["pro"], "plan": "pro_monthly", "group": "pro"}]}`, name)); r.status != http.StatusOK {
			t.Fatalf("PUT catalog = %d %s", r.status, r.text)
		}
	}
	return w
}

// Where the store cannot be asked the aggregator is the truth. Where it can, what the aggregator says has the store asked, and the store's word stands.
func TestAnAggregatorsStatementHasTheStoreAskedWhereItCanBe(t *testing.T) {
	stripe := startStripe(t)
	asking, alone := sellingWriter(t, stripe), sellingWriter(t, nil)
	began := time.Now().Add(-10 * time.Second)
	type sold struct {
		aggregatorSale
		account, id string
	}
	var sales []sold
	for i, at := range alone.aggregatorSales() {
		account, id := alone.account(), fmt.Sprintf("sub_alone%d", i)
		if r := at.stripe(account, id, began); r.status != http.StatusOK || r.str("outcome") != "recorded" {
			t.Fatalf("%s = %d %s", at.name, r.status, r.text)
		}
		if pro := alone.pro(account); pro["active"] != true || pro["provider"] != string(at.name) || pro["store"] != "stripe" || pro["purchase_id"] != "stripe:"+id {
			t.Errorf("%s where Stripe cannot be asked: %v", at.name, pro)
		}
	}
	for i, at := range asking.aggregatorSales() {
		s := sold{at, asking.account(), fmt.Sprintf("sub_asked%d", i)}
		stripe.put("/v1/subscriptions/"+s.id, with(with(subscription(s.id, "", "price_pro"), "status", "canceled"), "ended_at", began.Unix()))
		if r := s.stripe(s.account, s.id, began); r.status != http.StatusOK || r.str("outcome") != "recorded" {
			t.Fatalf("%s = %d %s", s.name, r.status, r.text)
		}
		sales = append(sales, s)
	}
	told := func(s *sold, times int) bool {
		pro := asking.pro(s.account)
		return pro["active"] == false && pro["provider"] == "stripe" && pro["purchase_id"] == "stripe:"+s.id && stripe.count("/v1/subscriptions/"+s.id) >= times
	}
	for i := range sales {
		await(t, string(sales[i].name)+": Stripe's word", func() bool { return told(&sales[i], 1) })
	}
	// A newer statement of the aggregator has the store asked anew.
	for i := range sales {
		if r := sales[i].stripe(sales[i].account, sales[i].id, time.Now()); r.status != http.StatusOK || r.str("outcome") != "recorded" {
			t.Fatalf("%s = %d %s", sales[i].name, r.status, r.text)
		}
	}
	for i := range sales {
		await(t, string(sales[i].name)+": Stripe's word again", func() bool { return told(&sales[i], 2) })
	}
}

// Two sales that share no id of a store may be one that was told twice, or two that are both being paid for: both are shown and it is counted, whichever
// is told first.
func TestTwoSalesThatCannotBeToldApartAreShownAndCounted(t *testing.T) {
	w := sellingWriter(t, nil)
	count := func() string { return w.metric(`latchkey_writer_sold_twice_total{environment="sandbox"}`) }
	n := 0
	for _, s := range w.aggregatorSales() {
		for _, stripeFirst := range []bool{true, false} {
			account := w.account()
			atStripe := func() {
				w.send(event(unique("evt_"), "customer.subscription.created", subscription(unique("sub_"), account, "price_pro")))
			}
			if stripeFirst {
				atStripe()
			}
			if r := s.elsewhere(account, time.Now()); r.status != http.StatusOK || r.str("outcome") != "recorded" {
				t.Fatalf("%s = %d %s", s.name, r.status, r.text)
			}
			if !stripeFirst {
				atStripe()
			}
			n++
			pro := w.pro(account)
			others, _ := pro["other_purchases"].([]any)
			if pro["active"] != true || len(others) != 1 || len(w.purchases(account)) != 2 {
				t.Errorf("%s, Stripe first %t: %v", s.name, stripeFirst, pro)
			}
			if got := count(); got != fmt.Sprint(n) {
				t.Errorf("%s, Stripe first %t: counted %s, want %d", s.name, stripeFirst, got, n)
			}
		}
	}
}
