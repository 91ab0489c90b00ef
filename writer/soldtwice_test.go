package writer

import (
	"testing"

	"github.com/latchkey/latchkey/pkg/entitlement"
)

func TestWhatTwoProvidersSoldAtOnce(t *testing.T) {
	sold := func(by entitlement.Provider, id entitlement.PurchaseID, edit func(*entitlement.Item)) entitlement.Purchase {
		item := entitlement.Item{ID: "1", State: entitlement.Live, AccessUntil: 200, Term: entitlement.Term{Sold: entitlement.Sold{Product: "pro"}, EndsAt: 200}}
		if edit != nil {
			edit(&item)
		}
		return entitlement.Purchase{ID: id, Provider: by, Store: string(by), Items: []entitlement.Item{item}}
	}
	index := entitlement.NewCatalogIndex(&entitlement.Catalog{Products: []entitlement.Product{
		{Provider: entitlement.Stripe, ID: "pro", Kind: entitlement.KindRecurring, Entitlements: []string{"pro"}},
		{Provider: entitlement.RevenueCat, ID: "pro", Kind: entitlement.KindRecurring, Entitlements: []string{"pro"}}}})
	stripe := sold(entitlement.Stripe, "stripe:sub_1", nil)
	for _, tt := range []struct {
		name  string
		other entitlement.Purchase
		want  int
	}{
		{"two providers", sold(entitlement.RevenueCat, "revenuecat:1", nil), 1},
		{"one provider twice", sold(entitlement.Stripe, "stripe:sub_2", nil), 0},
		{"one of them is over", sold(entitlement.RevenueCat, "revenuecat:1", func(i *entitlement.Item) { i.AccessUntil = 50 }), 0},
		{"one of them is another's", sold(entitlement.RevenueCat, "revenuecat:1", func(i *entitlement.Item) { i.Ownership, i.AccessUntil = entitlement.Shared, 300 }), 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			account := &entitlement.Account{Purchases: []entitlement.Purchase{stripe, tt.other}}
			if got := len(soldTwice(account.View(index, 100, nil))); got != tt.want {
				t.Errorf("%d entitlements, want %d", got, tt.want)
			}
		})
	}
}
