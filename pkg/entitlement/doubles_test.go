package entitlement

import (
	"fmt"
	"testing"
)

// What is paid for twice is found, and only that (requirement A10.6).
func TestDoubles(t *testing.T) {
	x := NewCatalogIndex(&Catalog{Products: []Product{
		{Provider: Stripe, ID: "monthly", Kind: KindRecurring, Entitlements: []string{"pro"}, Group: "pro"},
		{Provider: Apple, ID: "monthly", Kind: KindRecurring, Entitlements: []string{"pro"}, Group: "pro"},
		{Provider: Stripe, ID: "life", Kind: KindNonConsumable, Entitlements: []string{"pro"}, Group: "pro"},
		{Provider: Stripe, ID: "pass", Kind: KindNonConsumable, Entitlements: []string{"pro"}, Group: "pro", DurationDays: 30},
		{Provider: Stripe, ID: "news", Kind: KindRecurring, Entitlements: []string{"news"}, Group: "news"},
		{Provider: Stripe, ID: "loose", Kind: KindRecurring, Entitlements: []string{"loose"}}}})
	sold := func(by Provider, id PurchaseID, product ProductID, began int64, edit ...func(*Purchase, *Item)) Purchase {
		p := Purchase{ID: id, Provider: by, Store: string(by)}
		i := Item{ID: "1", State: Live, Term: Term{Sold: Sold{Product: product}, StartsAt: began}}
		if product != "life" && product != "pass" {
			i.Recurring, i.WillRenew, i.AccessUntil, i.Term.EndsAt = true, true, 1000, 1000
		}
		for _, e := range edit {
			e(&p, &i)
		}
		p.Items = []Item{i}
		return p
	}
	cancelled := func(_ *Purchase, i *Item) { i.WillRenew = false }
	ended := func(_ *Purchase, i *Item) { i.AccessUntil = 400 }
	refunded := func(_ *Purchase, i *Item) { i.State, i.Reason = Revoked, ReasonRefunded }
	shared := func(_ *Purchase, i *Item) { i.Ownership = Family }
	test := func(p *Purchase, _ *Item) { p.Sandbox = true }
	retried := func(_ *Purchase, i *Item) { i.State = Retrying }
	apple := sold(Apple, "apple:1", "monthly", 100)
	tests := []struct {
		name   string
		bought []Purchase
		want   string
	}{
		{"two stores: the older one stays", []Purchase{sold(Stripe, "stripe:sub_1", "monthly", 200), apple}, "[subscriptions pro 200 apple:1 [stripe:sub_1]]"},
		{"one store twice", []Purchase{sold(Stripe, "stripe:sub_1", "monthly", 200), sold(Stripe, "stripe:sub_2", "monthly", 100)}, "[subscriptions pro 200 stripe:sub_2 [stripe:sub_1]]"},
		{"three", []Purchase{apple, sold(Stripe, "stripe:sub_1", "monthly", 300), sold(Stripe, "stripe:sub_2", "monthly", 200)}, "[subscriptions pro 200 apple:1 [stripe:sub_2 stripe:sub_1]]"},
		{"owned for ever besides", []Purchase{apple, sold(Stripe, "stripe:pi_1", "life", 300)}, "[paid_twice pro 300 stripe:pi_1 [apple:1]]"},
		{"owned twice", []Purchase{sold(Stripe, "stripe:pi_2", "life", 300), sold(Stripe, "stripe:pi_1", "life", 200)}, "[paid_twice pro 300 stripe:pi_1 [stripe:pi_2]]"},
		{"two groups", []Purchase{apple, sold(Stripe, "stripe:sub_1", "news", 200)}, "[]"},
		{"no group", []Purchase{sold(Stripe, "stripe:sub_1", "loose", 200), sold(Stripe, "stripe:sub_2", "loose", 200)}, "[]"},
		{"cancelled", []Purchase{apple, sold(Stripe, "stripe:sub_1", "monthly", 200, cancelled)}, "[]"},
		{"over", []Purchase{apple, sold(Stripe, "stripe:sub_1", "monthly", 200, ended)}, "[]"},
		{"given back", []Purchase{apple, sold(Stripe, "stripe:sub_1", "monthly", 200, refunded)}, "[]"},
		{"retried", []Purchase{apple, sold(Stripe, "stripe:sub_1", "monthly", 200, retried)}, "[]"},
		{"a family's", []Purchase{apple, sold(Stripe, "stripe:sub_1", "monthly", 200, shared)}, "[]"},
		{"a test", []Purchase{apple, sold(Stripe, "stripe:sub_1", "monthly", 200, test)}, "[]"},
		{"a pass of a month", []Purchase{apple, sold(Stripe, "stripe:pi_1", "pass", 200)}, "[]"},
		{"one", []Purchase{apple}, "[]"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			a := Account{Purchases: tt.bought}
			got := []any{}
			for _, d := range a.Doubles(x, 500, nil, nil) {
				var end []PurchaseID
				for _, p := range d.End {
					end = append(end, p.Purchase)
				}
				got = append(got, d.Kind, d.Group, d.Since, d.Keep.Purchase, end)
			}
			if text := fmt.Sprint(got); text != tt.want {
				t.Errorf("%s, want %s", text, tt.want)
			}
		})
	}
	// A renewed subscription began with its first term, which the record does not hold.
	a := Account{Purchases: []Purchase{apple, sold(Stripe, "stripe:sub_1", "monthly", 200)}}
	d := a.Doubles(x, 500, ManageURLs{Stripe: "https://billing.example.com"}, func(id PurchaseID) int64 { return map[PurchaseID]int64{"stripe:sub_1": 50}[id] })
	if len(d) != 1 || d[0].Since != 100 || d[0].Keep.Purchase != "stripe:sub_1" || d[0].Keep.ManageURL == "" || d[0].End[0].Purchase != "apple:1" {
		t.Errorf("by when they began: %+v", d)
	}
}
