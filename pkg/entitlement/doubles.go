package entitlement

import (
	"cmp"
	"slices"
)

// DoubleKind says what somebody has twice. The words are part of the server API.
type DoubleKind string

// The kinds of doubles.
const (
	DoubleSubscriptions DoubleKind = "subscriptions" // two of one group, and both will renew
	DoublePaid          DoubleKind = "paid_twice"    // owned for ever, and paid for besides
	DoubleTrials        DoubleKind = "trials"        // one person has had two
)

// Double is what an account pays for more than once although it needs it once (requirement A10.6): it was bought where nobody asked before, or before two
// accounts became one.
type Double struct {
	Kind  DoubleKind
	Group string // of products
	Since int64  // when the second one began, Unix seconds
	Keep  DoubledPurchase
	End   []DoubledPurchase // the others, oldest first
}

// DoubledPurchase is one of those purchases.
type DoubledPurchase struct {
	Purchase  PurchaseID
	Store     string
	Product   ProductID
	Began     int64  // Unix seconds
	WillRenew bool   // it is to be cancelled; else it can only be given back
	ManageURL string // empty: the store has no such page
}

// Doubles lists what is paid for twice at now, Unix seconds, sorted by group. What is shared with the account, test purchases and what was cancelled already do
// not count, nor products without a group. To keep is what is owned for ever, else the oldest. began says when a purchase began, 0 for not known: the
// record knows its newest term alone; nil knows none.
func (a *Account) Doubles(x *CatalogIndex, now int64, urls ManageURLs, began func(PurchaseID) int64) []Double {
	type member struct {
		DoubledPurchase
		group string
	}
	var members []member
	for i := range a.Purchases {
		p := &a.Purchases[i]
		for j := range p.Items {
			item := &p.Items[j]
			product, ok := x.productOf(p, item)
			if !ok || product.Group == "" || p.Sandbox || item.Ownership != "" || item.Recurring && !item.WillRenew || !item.Recurring && (product.DurationDays > 0 || item.AccessUntil != 0) {
				continue
			}
			if status, _ := item.standing(now, item.AccessUntil); !status.Active() {
				continue
			}
			if slices.ContainsFunc(members, func(m member) bool { return m.group == product.Group && m.Purchase == p.ID }) {
				continue
			}
			m := member{DoubledPurchase{Purchase: p.ID, Store: p.Store, Product: item.Term.Product, Began: item.Term.StartsAt, WillRenew: item.Recurring}, product.Group}
			if item.Recurring {
				m.ManageURL = cmp.Or(urls[providerOf(p.Store)], urls[p.Provider])
			}
			if began != nil {
				m.Began = cmp.Or(began(p.ID), m.Began)
			}
			members = append(members, m)
		}
	}
	slices.SortFunc(members, func(a, b member) int {
		return cmp.Or(cmp.Compare(a.group, b.group), cmp.Compare(a.Began, b.Began), cmp.Compare(a.Purchase, b.Purchase))
	})
	var doubles []Double
	for len(members) > 0 {
		n := 1
		for n < len(members) && members[n].group == members[0].group {
			n++
		}
		if group := members[:n]; n > 1 {
			d := Double{Kind: DoubleSubscriptions, Group: group[0].group, Since: group[1].Began}
			keep := max(slices.IndexFunc(group, func(m member) bool { return !m.WillRenew }), 0)
			if d.Keep = group[keep].DoubledPurchase; !d.Keep.WillRenew {
				d.Kind = DoublePaid
			}
			for i, m := range group {
				if i != keep {
					d.End = append(d.End, m.DoubledPurchase)
				}
			}
			doubles = append(doubles, d)
		}
		members = members[n:]
	}
	return doubles
}
