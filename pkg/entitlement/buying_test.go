package entitlement

import (
	"fmt"
	"slices"
	"testing"
)

// TestBuying: what is live on any channel blocks its group, what may come back only warns, and what somebody else pays for, or nobody, never blocks (R63, requirement A10.6).
func TestBuying(t *testing.T) {
	catalog := Catalog{Products: slices.Clone(testCatalog.Products)}
	sells := func(from Provider, id ProductID, plan string) {
		catalog.Products = append(catalog.Products, Product{Provider: from, ID: id, Kind: KindRecurring, Entitlements: []string{"pro"}, Plan: plan, Group: "pro"})
	}
	sells(Apple, "pro_ios", "pro_ios")
	sells(Apple, "max_ios", "max_ios")
	sells(Google, "pro_play", "pro_monthly")
	sells(Google, "max_play", "pro_yearly")
	for id, from := range map[ProductID]Provider{"week": Stripe, "month": Stripe, "week_ios": Apple} {
		catalog.Products = append(catalog.Products, Product{Provider: from, ID: id, Kind: KindNonConsumable, Entitlements: []string{"pro"}, Plan: string(id), Group: "pro", DurationDays: 7})
	}
	catalog.Products = append(catalog.Products, Product{Provider: Stripe, ID: "pack", Kind: KindPackage, Accesses: []ModuleAccess{{Module: "pro"}}, Group: "pro"},
		Product{Provider: Stripe, ID: "coins", Kind: KindConsumable, Credits: map[string]int64{"coins": 1}, Group: "pro"})
	sells(Stripe, "price_no_plan", "")
	sells(Stripe, "price_no_plan_either", "")
	x := NewCatalogIndex(&catalog)
	shared := func(o Ownership) func(*Item) { return func(i *Item) { i.Ownership = o } }
	test := purchase("stripe:sub_1", item(Live, end))
	test.Sandbox = true
	lifetime := purchase("stripe:pi_1", item(Live, 0, oneTime, of("price_lifetime")))
	const monthly, yearly, forever, extra, ios = "price_pro_monthly", "price_pro_yearly", "price_lifetime", "price_extra", "pro_ios"
	one := func(i Item) []Purchase { return []Purchase{purchase("stripe:sub_1", i)} }
	at := func(from Provider, i Item) []Purchase {
		return []Purchase{{ID: "1", Provider: from, Store: storeOf(from), Items: []Item{i}}}
	}
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
		{"another plan in the same store is an upgrade, of that subscription", one(item(Live, end)), yearly, "", "[cancel-subscription]"},
		{"the same, of one that ends by itself", one(item(Live, end, willEnd)), yearly, "", "[]"},
		{"at Play as well", at(Google, item(Live, end, of("pro_play"))), "max_play", "", "[cancel-subscription]"},
		{"the App Store replaces it", at(Apple, item(Live, end, of("pro_ios"))), "max_ios", "", "[]"},
		{"the App Store's, told by an aggregator", []Purchase{{ID: "1", Provider: RevenueCat, Store: AppStore, Items: []Item{item(Live, end, of("pro_ios"))}}}, "max_ios", "", "[]"},
		{"another product, both without a plan", one(item(Live, end, of("price_no_plan"))), "price_no_plan_either", "", "[cancel-subscription]"},
		{"the same product without a plan", one(item(Live, end, of("price_no_plan"))), "price_no_plan", BlockedSubscription, "[]"},
		{"another product, one of them without a plan", one(item(Live, end)), "price_no_plan", "", "[cancel-subscription]"},
		{"a trial", one(item(Live, end, onTrial)), ios, BlockedSubscription, "[]"},
		{"billing grace", one(item(Retrying, end, inGrace)), ios, BlockedSubscription, "[]"},
		{"one that is cancelled and still lasts", one(item(Live, end, willEnd)), ios, BlockedSubscription, "[]"},
		{"a subscription does not block the lifetime", one(item(Live, end)), forever, "", "[cancel-subscription]"},
		{"one that ends by itself needs no cancelling", one(item(Live, end, willEnd)), forever, "", "[]"},
		{"the lifetime blocks the subscription", []Purchase{lifetime}, monthly, BlockedOwned, "[]"},
		{"the lifetime blocks the subscription of another store", []Purchase{lifetime}, ios, BlockedOwned, "[]"},
		{"the lifetime is not sold twice", []Purchase{lifetime}, forever, BlockedOwned, "[]"},
		{"what is owned ends the matter", []Purchase{lifetime, purchase("stripe:sub_1", item(Live, end))}, ios, BlockedOwned, "[]"},
		{"a pass blocks other stores until it ends", one(item(Live, 0, oneTime, of("week"))), ios, BlockedSubscription, "[]"},
		{"a pass is not sold twice at once", one(item(Live, 0, oneTime, of("week"))), "week", BlockedSubscription, "[]"},
		{"a pass blocks no better one of its store", one(item(Live, 0, oneTime, of("week"))), "month", "", "[]"},
		{"a pass blocks no subscription of its store", one(item(Live, 0, oneTime, of("week"))), monthly, "", "[]"},
		{"a pass blocks no lifetime", one(item(Live, 0, oneTime, of("week"))), forever, "", "[]"},
		{"a pass that is over", one(item(Live, 0, oneTime, of("week"), func(i *Item) { i.Term.StartsAt = start - 7*day })), ios, "", "[]"},
		{"a subscription blocks a pass of another store", one(item(Live, end)), "week_ios", BlockedSubscription, "[]"},
		{"a pass beside a subscription of its store", one(item(Live, end)), "week", "", "[cancel-subscription]"},
		{"not even the App Store replaces a subscription by a pass", at(Apple, item(Live, end, of("pro_ios"))), "week_ios", "", "[cancel-subscription]"},
		{"the lifetime blocks a pass", []Purchase{lifetime}, "week", BlockedOwned, "[]"},
		{"a package is bought again and again", one(item(Live, 0, oneTime, of("pack"))), monthly, "", "[]"},
		{"so are coins, which an older catalog has in a group", one(item(Live, 0, oneTime, of("coins"))), monthly, "", "[]"},
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
			at := slices.IndexFunc(catalog.Products, func(p Product) bool { return p.ID == tt.wanted })
			if at < 0 {
				t.Fatalf("%s is not listed", tt.wanted)
			}
			product := &catalog.Products[at]
			a := Account{ID: "acc_1", Purchases: tt.has}
			if got := a.Buying(x, product, start); got.Blocked != tt.blocked || fmt.Sprint(got.Warnings) != tt.warns {
				t.Errorf("Buying(%s) = %q with %v, want %q with %s", tt.wanted, got.Blocked, got.Warnings, tt.blocked, tt.warns)
			}
		})
	}
}
