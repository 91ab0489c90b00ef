package entitlement

import "slices"

// Whether a product may be sold to an account (requirements A10.6, R67 to R71): one live subscription in a group of products, whatever the channel, and
// nothing twice that is owned for ever. A pass, which is paid for once and lasts some days, is like a subscription that does not renew.

// BlockedPending: a payment for something in the group is under way at its provider.
const BlockedPending = "purchase_pending"

// What somebody who sells should tell the buyer. The words are part of the server API.
const (
	// WarnCancel: a subscription goes on beside the new purchase, which makes it needless: it is to be changed into it where the store can do that, else cancelled.
	WarnCancel = "cancel-subscription"
	// WarnMayRenew: an earlier subscription gives no access now and may still renew: it is retried, held or paused.
	WarnMayRenew = "may-renew"
)

// Buying says whether a product may be sold to an account now. The zero value is yes, without a word.
type Buying struct {
	Blocked  string     // BlockedSubscription, BlockedOwned, BlockedPending; empty: it may be bought
	Store    string     // of the purchase that blocks
	Provider Provider   // who told of it
	Purchase PurchaseID // that blocks
	Warnings []string   // sorted, each once
}

// Buying judges the sale of product, which the catalog lists for provider, to a at now, Unix seconds. Products without a group are never blocked; what
// others share with a and test purchases never block.
func (a *Account) Buying(x *CatalogIndex, product *Product, now int64) Buying {
	var b Buying
	if product.Group == "" {
		return b
	}
	for i := range a.Purchases {
		p := &a.Purchases[i]
		for j := range p.Items {
			item := &p.Items[j]
			owned, ok := x.productOf(p, item)
			if !ok || owned.Group != product.Group || p.Sandbox || item.Ownership != "" || !owned.fills() {
				continue
			}
			until := item.AccessUntil
			if !item.Recurring && item.State == Live && owned.DurationDays > 0 {
				e := Entitlement{}
				e.endAfter(item.Term.StartsAt, int64(owned.DurationDays), max(item.Term.Quantity, 1))
				until = e.AccessUntil
			}
			status, _ := item.standing(now, until)
			b.judge(p, item, owned, product, status, until == 0)
		}
	}
	slices.Sort(b.Warnings)
	b.Warnings = slices.Compact(b.Warnings)
	return b
}

// fills reports whether a product, once bought, is in the way of others of its group: not what is bought again and again.
func (p *Product) fills() bool { return p.Kind == KindRecurring || p.Kind == KindNonConsumable }

// forEver reports whether a product that is bought never ends.
func (p *Product) forEver() bool { return p.Kind != KindRecurring && p.DurationDays == 0 }

// judge weighs an item that the account has, a product owned, against the wanted one. endless: it never ends.
func (b *Buying) judge(p *Purchase, item *Item, owned, wanted *Product, status Status, endless bool) {
	switch {
	case status == StatusPending:
		b.block(BlockedPending, p)
	case status == StatusBillingRetry || status == StatusPaused:
		b.Warnings = append(b.Warnings, WarnMayRenew)
	case !status.Active():
	case owned.Kind != KindRecurring && endless:
		b.block(BlockedOwned, p)
	case wanted.forEver():
		if item.WillRenew {
			b.Warnings = append(b.Warnings, WarnCancel)
		}
	case providerOf(p.Store) == wanted.Provider && anotherPlan(owned, wanted):
		if item.WillRenew && !(replaces(wanted.Provider) && wanted.Kind == KindRecurring) {
			b.Warnings = append(b.Warnings, WarnCancel)
		}
	default:
		b.block(BlockedSubscription, p)
	}
}

// anotherPlan reports whether one of two products of a group and store can be changed for the other. Two that name no plan are two plans.
func anotherPlan(a, b *Product) bool { return a.ID != b.ID && (a.Plan != b.Plan || a.Plan == "") }

// replaces reports whether what a store sells takes the place of the subscription of the same group by itself. The App Store's own subscription groups do that.
// Stripe sells a second one beside the first unless that is updated, and Play does unless the app says which one is replaced.
func replaces(store Provider) bool { return store == Apple }

// blocking orders the reasons: what can be managed comes before what only can be waited for, and what is owned for ever ends the matter.
var blocking = []string{"", BlockedPending, BlockedSubscription, BlockedOwned}

func (b *Buying) block(why string, p *Purchase) {
	if slices.Index(blocking, why) > slices.Index(blocking, b.Blocked) {
		b.Blocked, b.Store, b.Provider, b.Purchase = why, p.Store, p.Provider, p.ID
	}
}

// soldBefore is how much earlier than its intent a sale may say that it was made, in seconds: a provider's clock is not ours.
const soldBefore = 60

// Bought reports whether the account has what an Awaited purchase waits for: a sale of the product, or of any where that is not known, by the
// provider, live or under way at now.
func (a *Account) Bought(x *CatalogIndex, w Awaited, now int64) bool {
	return a.settles(x, w, func(item *Item) bool {
		status, _ := item.standing(now, item.AccessUntil)
		return status.Active() || status == StatusPending
	})
}

// came reports whether the account ever had what an Awaited purchase waits for: what was refunded an hour later was confirmed all the same.
func (a *Account) came(x *CatalogIndex, w Awaited) bool {
	return a.settles(x, w, func(item *Item) bool {
		return item.Term.StartsAt >= w.Since-soldBefore || item.AccessUntil == 0 || item.AccessUntil > w.Since
	})
}

// settles reports whether the account has what an Awaited purchase waits for, in an item that counts.
func (a *Account) settles(x *CatalogIndex, w Awaited, counts func(*Item) bool) bool {
	for i := range a.Purchases {
		if a.Purchases[i].settles(x, w, counts) {
			return true
		}
	}
	return false
}

func (p *Purchase) settles(x *CatalogIndex, w Awaited, counts func(*Item) bool) bool {
	if p.Provider != w.Provider && providerOf(p.Store) != w.Provider {
		return false
	}
	for i := range p.Items {
		item := &p.Items[i]
		if !counts(item) {
			continue
		}
		if !item.Recurring && item.Term.StartsAt < w.Since-soldBefore {
			continue // the same thing, bought earlier: coins are bought again and again
		}
		if w.Product == "" || item.Term.Product == w.Product || slices.Contains(item.Term.Also, w.Product) {
			return true
		}
		if product, ok := x.productOf(p, item); ok && product.ID == w.Product {
			return true
		}
	}
	return false
}

// UsedTrial reports whether the account's person has used a trial.
func (a *Account) UsedTrial() bool {
	return a.TrialLocked || slices.ContainsFunc(a.Purchases, func(p Purchase) bool { return p.TrialUsed })
}

// Renews reports whether the provider will charge the buyer again, at now.
func (p *Purchase) Renews(now int64) bool {
	for i := range p.Items {
		item := &p.Items[i]
		if item.Ownership != "" || !item.WillRenew {
			continue
		}
		if status, _ := item.standing(now, item.AccessUntil); status.Active() || item.State == Retrying || item.State == OnHold {
			return true
		}
	}
	return false
}
