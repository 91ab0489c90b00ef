package entitlement

import (
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"
)

// What packages give: digital accesses whose days count from redemption, one by one or one behind the other.

func redeemed(id string, at, days int64, change ...func(*Access)) Access {
	a := Access{ID: id, Module: "algebra", RedeemedAt: at, Seconds: days * day}
	for _, f := range change {
		f(&a)
	}
	return a
}

func stacked(a *Access)                { a.Stacked = true }
func takenBack(at int64) func(*Access) { return func(a *Access) { a.RevokedAt = at } }
func forReason(r Reason) func(*Access) { return func(a *Access) { a.Reason = r } }
func boughtAt(at int64) func(*Item)    { return func(i *Item) { i.Term.StartsAt = at } }

func bought(at int64, n ...int64) Item { // in a store, without a code
	i := item(Live, 0, oneTime, of("course_extended"), boughtAt(at))
	if len(n) > 0 {
		i.Term.Quantity = n[0]
	}
	return i
}

// TestAccessesOfPackagesCountFromRedemption defends R69.
func TestAccessesOfPackagesCountFromRedemption(t *testing.T) {
	catalog := Catalog{Products: append(slices.Clone(testCatalog.Products),
		Product{Provider: Stripe, ID: "course_extended", Kind: KindPackage, Accesses: []ModuleAccess{{Module: "algebra", DurationDays: 30}}, Stack: StackExtend})}
	x := NewCatalogIndex(&catalog)
	tests := []struct {
		name      string
		accesses  []Access
		purchases []Purchase
		now       int64
		status    Status // "" means none is shown
		until     int64
	}{
		{"one, in its last second", []Access{redeemed("c1", start, 30)}, nil, start + 30*day - 1, StatusActive, start + 30*day},
		{"one, at its end", []Access{redeemed("c1", start, 30)}, nil, start + 30*day, StatusExpired, start + 30*day},
		{"one for ever", []Access{redeemed("c1", start, 0)}, nil, maxTime, StatusActive, 0},
		{"two beside each other: the later end counts", []Access{redeemed("c1", start, 30), redeemed("c2", start+10*day, 30)}, nil, start + 11*day, StatusActive, start + 40*day},
		{"the second extends the first", []Access{redeemed("c1", start, 30, stacked), redeemed("c2", start+10*day, 30, stacked)}, nil, start + 11*day, StatusActive, start + 60*day},
		{"it extends one that is not stacked itself", []Access{redeemed("c1", start, 30), redeemed("c2", start+10*day, 30, stacked)}, nil, start + 11*day, StatusActive, start + 60*day},
		{"after a gap it begins when it is redeemed", []Access{redeemed("c1", start, 30, stacked), redeemed("c2", start+50*day, 30, stacked)}, nil, start + 51*day, StatusActive, start + 80*day},
		{"nothing extends what never ends", []Access{redeemed("c1", start, 0, stacked), redeemed("c2", start+day, 30, stacked)}, nil, start + 99*day, StatusActive, 0},
		{"refunded", []Access{redeemed("c1", start, 30, takenBack(start+day))}, nil, start + 2*day, StatusRefunded, start + day},
		{"disputed", []Access{redeemed("c1", start, 30, takenBack(start+day), forReason(ReasonDisputed))}, nil, start + 2*day, StatusRevoked, start + day},
		{"what follows a refunded one begins at the refund", []Access{redeemed("c1", start, 30, stacked, takenBack(start+20*day)), redeemed("c2", start+10*day, 30, stacked)}, nil,
			start + 21*day, StatusActive, start + 50*day},
		{"a refund after its end shortens nobody's", []Access{redeemed("c1", start, 30, stacked, takenBack(start+40*day)), redeemed("c2", start+10*day, 30, stacked)}, nil,
			start + 41*day, StatusActive, start + 60*day},
		{"long over", []Access{redeemed("c1", start, 30)}, nil, start + 120*day, "", 0},
		{"bought in a store it is redeemed by itself", nil, []Purchase{purchase("a", bought(start))}, start + day, StatusActive, start + 30*day},
		{"twice as much is twice as long", nil, []Purchase{purchase("a", bought(start, 2))}, start + day, StatusActive, start + 60*day},
		{"one bought in a store extends one by code, and is extended by the next", []Access{redeemed("c1", start, 30, stacked), redeemed("c2", start+20*day, 30, stacked)},
			[]Purchase{purchase("a", bought(start+10*day))}, start + 21*day, StatusActive, start + 90*day},
		{"one of a store that was refunded counts up to then", []Access{redeemed("c2", start+10*day, 30, stacked)},
			[]Purchase{purchase("a", item(Revoked, start+20*day, oneTime, of("course_extended"), because(ReasonRefunded)))}, start + 21*day, StatusActive, start + 50*day},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			a := Account{ID: "acc_1", Accesses: tt.accesses, Purchases: tt.purchases}
			v := a.View(x, tt.now, nil)
			if tt.status == "" {
				if len(v.Entitlements) != 0 {
					t.Fatalf("View = %+v, want nothing", v.Entitlements)
				}
				return
			}
			if len(v.Entitlements) != 1 {
				t.Fatalf("View = %+v, want one entitlement", v.Entitlements)
			}
			if e := v.Entitlements[0]; e.ID != "algebra" || e.Status != tt.status || e.AccessUntil != tt.until {
				t.Errorf("View = %s, %s until %d, want algebra, %s until %d", e.ID, e.Status, e.AccessUntil, tt.status, tt.until)
			}
		})
	}
}

// What two accounts have of a module is one row of accesses, whichever of them is named first, and alone each has its own again.
func TestAccessesOfMergedAccountsAreUnited(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		var parts [2]Account
		for i := range parts {
			parts[i].ID = AccountID("acc_" + string(rune('1'+i)))
			for range r.IntN(4) {
				a := redeemed("c"+string(rune('a'+r.IntN(26))), start+r.Int64N(60)*day, 1+r.Int64N(40))
				a.Stacked = r.IntN(2) == 0
				parts[i].Accesses = append(parts[i].Accesses, a)
			}
			slices.SortFunc(parts[i].Accesses, CompareAccesses)
		}
		one, two := Union(parts[:]), Union([]Account{parts[1], parts[0]})
		now := start + r.Int64N(120)*day
		if a, b := one.View(nil, now, nil), two.View(nil, now, nil); !reflect.DeepEqual(a.Entitlements, b.Entitlements) {
			t.Fatalf("%+v, the other way around %+v", a.Entitlements, b.Entitlements)
		}
		for i := range parts {
			for _, e := range parts[i].View(nil, now, nil).Entitlements {
				if v := one.View(nil, now, nil); e.Status.Active() && (len(v.Entitlements) != 1 || !v.Entitlements[0].Status.Active() || v.Entitlements[0].AccessUntil < e.AccessUntil) {
					t.Fatalf("alone until %d, merged %+v", e.AccessUntil, v.Entitlements)
				}
			}
		}
	}
}

func TestCodesAreOwedForWhatIsPaidAndDeliveredByCode(t *testing.T) {
	x := NewCatalogIndex(&testCatalog)
	tests := []struct {
		name    string
		item    Item
		sandbox bool
		want    bool
	}{
		{"a package by code", item(Live, 0, oneTime, of("price_course_pack")), false, true},
		{"a package without one", item(Live, 0, oneTime, of("price_course")), false, false},
		{"another product", item(Live, 0, oneTime, of("price_lifetime")), false, false},
		{"what nobody knows yet", item(Live, 0, oneTime, of("price_unmapped")), false, true},
		{"not paid yet", item(Pending, start, oneTime, of("price_course_pack")), false, false},
		{"refunded", item(Revoked, start, oneTime, of("price_course_pack")), false, false},
		{"not confirmed by its store", item(Live, 0, oneTime, of("price_course_pack"), func(i *Item) { i.Provisional = true }), false, false},
		{"a test in production", item(Live, 0, oneTime, of("price_course_pack")), true, false},
		{"a subscription", item(Live, end, of("price_course_pack")), false, false},
	}
	for _, tt := range tests {
		p := purchase("a", tt.item)
		p.Sandbox = tt.sandbox
		if got := x.Owes(&p, &p.Items[0]); got != tt.want {
			t.Errorf("%s: Owes = %t, want %t", tt.name, got, tt.want)
		}
	}
}
