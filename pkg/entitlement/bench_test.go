package entitlement

import "testing"

// oneSubscription is the account that most answers are about.
func oneSubscription() (*Account, *CatalogIndex) {
	catalog := Catalog{Products: []Product{
		{Provider: Stripe, ID: "price_pro_monthly", Kind: KindRecurring, Entitlements: []string{"pro"}, Plan: "pro_monthly", Group: "pro"},
		{Provider: Stripe, ID: "price_lifetime", Kind: KindNonConsumable, Entitlements: []string{"pro"}, Plan: "lifetime", Group: "pro"},
		{Provider: Stripe, ID: "price_coins_100", Kind: KindConsumable, Credits: map[string]int64{"coins": 100}},
	}}
	account := &Account{
		ID: "acc_01JD0000000000000000000000", CreatedAt: 1_790_000_000,
		Purchases: []Purchase{{
			ID: "stripe:sub_1LkA", Provider: Stripe, Store: "stripe",
			Items: []Item{{
				ID: "si_LkA", State: Live, AccessUntil: 1_797_984_000, WillRenew: true, Recurring: true,
				Term: Term{
					ID: "si_LkA:1795305600", StartsAt: 1_795_305_600, EndsAt: 1_797_897_600,
					Sold: Sold{Product: "price_pro_monthly", Also: []ProductID{"pro_monthly", "prod_LkPro"}, Quantity: 1, Price: &Price{Amount: 999, Currency: "EUR", Period: "P1M"}},
				},
			}},
		}},
	}
	return account, NewCatalogIndex(&catalog)
}

// BenchmarkAnswer is the domain's share of one check at an edge: decode the record, compute the view, spell it.
func BenchmarkAnswer(b *testing.B) {
	account, index := oneSubscription()
	record := Encode(account)
	urls := ManageURLs{Stripe: "https://billing.example.com/"}
	var (
		view View
		out  []byte
	)
	b.ReportAllocs()
	for b.Loop() {
		var a Account
		if err := Decode(record, &a); err != nil {
			b.Fatal(err)
		}
		a.ViewInto(&view, index, 1_796_000_000, urls)
		out = view.AppendJSON(out[:0], Production, 1_796_086_400)
	}
}

// BenchmarkView is BenchmarkAnswer without decoding.
func BenchmarkView(b *testing.B) {
	account, index := oneSubscription()
	urls := ManageURLs{Stripe: "https://billing.example.com/"}
	var (
		view View
		out  []byte
	)
	b.ReportAllocs()
	for b.Loop() {
		account.ViewInto(&view, index, 1_796_000_000, urls)
		out = view.AppendJSON(out[:0], Production, 1_796_086_400)
	}
}

// BenchmarkCanonical compares the two ways of reading and writing what a message is made of.
func BenchmarkCanonical(b *testing.B) {
	for _, name := range []string{"account", "event", "evidence"} {
		value := goldenValues()[name]
		encoded := Encode(value)
		zero := byHand[name]
		for _, way := range []struct {
			name string
			do   func() error
		}{
			{"decode", func() error { return Decode(encoded, zero()) }},
			{"decode shared", func() error { return DecodeShared(encoded, zero()) }},
			{"decode general", func() error { return decMode.Unmarshal(encoded, zero()) }},
			{"encode", func() error { Encode(value); return nil }},
			{"encode general", func() error { encodeGeneral(value); return nil }},
		} {
			b.Run(name+"/"+way.name, func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					if err := way.do(); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
