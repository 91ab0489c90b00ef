package entitlement

import (
	"fmt"
	"testing"
)

// TestBuying: what is live on any channel blocks its group, what may come back only warns, and what somebody else pays for, or nobody, never blocks (R63, requirement A10.6).
func TestBuying(t *testing.T) {
	catalog := testCatalog
	catalog.Products = append(append([]Product{}, testCatalog.Products...), Product{Provider: Apple, ID: "pro_ios", Kind: KindRecurring, Entitlements: []string{"pro"}, Plan: "pro_ios", Group: "pro"})
	x := NewCatalogIndex(&catalog)
	shared := func(o Ownership) func(*Item) { return func(i *Item) { i.Ownership = o } }
	test := purchase("stripe:sub_1", item(Live, end))
	test.Sandbox = true
	lifetime := purchase("stripe:pi_1", item(Live, 0, oneTime, of("price_lifetime")))
	const monthly, yearly, forever, extra, ios = "price_pro_monthly", "price_pro_yearly", "price_lifetime", "price_extra", "pro_ios"
	one := func(i Item) []Purchase { return []Purchase{purchase("stripe:sub_1", i)} }
	for _, tt := range []struct {
		name    string
		has     []Purchase
		wanted  ProductID
		blocked string
		warns   string
	}{
		{"nothing", nil, monthly, "", "[]"},
		{"a live subscription, in another store", one(item(Live, end)), ios, BlockedSubscription, "[]"},
		{"the same product in the same store", one(item(Live, end)), monthly, BlockedSubscription, "[]"},
		{"another plan in the same store is an upgrade", one(item(Live, end)), yearly, "", "[]"},
		{"a trial", one(item(Live, end, onTrial)), ios, BlockedSubscription, "[]"},
		{"billing grace", one(item(Retrying, end, inGrace)), ios, BlockedSubscription, "[]"},
		{"one that is cancelled and still lasts", one(item(Live, end, willEnd)), ios, BlockedSubscription, "[]"},
		{"a subscription does not block the lifetime", one(item(Live, end)), forever, "", "[cancel-subscription]"},
		{"one that ends by itself needs no cancelling", one(item(Live, end, willEnd)), forever, "", "[]"},
		{"the lifetime blocks the subscription", []Purchase{lifetime}, monthly, BlockedOwned, "[]"},
		{"the lifetime blocks the subscription of another store", []Purchase{lifetime}, ios, BlockedOwned, "[]"},
		{"the lifetime is not sold twice", []Purchase{lifetime}, forever, BlockedOwned, "[]"},
		{"what is owned ends the matter", []Purchase{lifetime, purchase("stripe:sub_1", item(Live, end))}, ios, BlockedOwned, "[]"},
		{"billing retry", one(item(Retrying, start, inGrace)), ios, "", "[may-renew]"},
		{"hold or pause", one(item(OnHold, end)), ios, "", "[may-renew]"},
		{"hold, and the lifetime is wanted", one(item(OnHold, end)), forever, "", "[may-renew]"},
		{"one that ended", one(item(Ended, end)), ios, "", "[]"},
		{"one that was refunded", one(item(Revoked, end, because(ReasonRefunded))), ios, "", "[]"},
		{"a payment that is under way", one(item(Pending, 0)), ios, BlockedPending, "[]"},
		{"shared by the family", one(item(Live, end, shared(Family))), ios, "", "[]"},
		{"shared by an aggregator", one(item(Live, end, shared(Shared))), ios, "", "[]"},
		{"a test purchase", []Purchase{test}, ios, "", "[]"},
		{"without a group", one(item(Live, end, of("price_extra"))), extra, "", "[]"},
		{"another group", one(item(Live, end, of("price_extra"))), monthly, "", "[]"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			from := Stripe
			if tt.wanted == ios {
				from = Apple
			}
			product, ok := x.Lookup(from, &Sold{Product: tt.wanted})
			if !ok {
				t.Fatalf("%s is not listed", tt.wanted)
			}
			a := Account{ID: "acc_1", Purchases: tt.has}
			if got := a.Buying(x, product, start); got.Blocked != tt.blocked || fmt.Sprint(got.Warnings) != tt.warns {
				t.Errorf("Buying(%s) = %q with %v, want %q with %s", tt.wanted, got.Blocked, got.Warnings, tt.blocked, tt.warns)
			}
		})
	}
}
