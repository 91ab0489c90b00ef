package entitlement

import (
	"cmp"
	"slices"
)

// Union returns the record of accounts that were merged, of which the first survives: what any of them has, each thing once.
func Union(parts []Account) Account {
	u := Account{ID: parts[0].ID, CreatedAt: parts[0].CreatedAt, SessionsFrom: parts[0].SessionsFrom, SignedOut: parts[0].SignedOut, Merged: true}
	for i := range parts {
		p := &parts[i]
		u.Tester = u.Tester || p.Tester
		u.TrialLocked = u.TrialLocked || p.TrialLocked
		for _, bought := range p.Purchases {
			bought.Part = int64(i)
			u.Purchases = append(u.Purchases, bought)
		}
		u.Grants = append(u.Grants, p.Grants...)
		u.Accesses = append(u.Accesses, p.Accesses...)
		u.Awaited = append(u.Awaited, p.Awaited...)
		for _, s := range p.Spent {
			s.Part = int64(i)
			u.Spent = append(u.Spent, s)
		}
	}
	// Of a purchase that one of them owns and shares with another, or restored from it, the owner's view counts.
	slices.SortStableFunc(u.Purchases, func(a, b Purchase) int {
		return cmp.Or(cmp.Compare(a.ID, b.ID), cmp.Compare(a.standing(), b.standing()))
	})
	u.Purchases = slices.CompactFunc(u.Purchases, func(a, b Purchase) bool { return a.ID == b.ID })
	slices.SortFunc(u.Grants, func(a, b Grant) int { return cmp.Compare(a.ID, b.ID) })
	slices.SortFunc(u.Accesses, CompareAccesses)
	slices.SortFunc(u.Awaited, func(a, b Awaited) int { return cmp.Compare(a.ID, b.ID) })
	slices.SortFunc(u.Spent, func(a, b Spent) int { return cmp.Or(cmp.Compare(a.Credit, b.Credit), cmp.Compare(a.Part, b.Part)) })
	return u
}

// standing is 0 for the owner's own view of a purchase, 1 for a share of it, 2 for what is left where it was lost.
func (p *Purchase) standing() int {
	for i := range p.Items {
		switch {
		case p.Items[i].Reason == ReasonTransferred:
			return 2
		case p.Items[i].Ownership != "":
			return 1
		}
	}
	return 0
}

// CompareAccesses orders accesses as records hold them.
func CompareAccesses(a, b Access) int {
	return cmp.Or(cmp.Compare(a.RedeemedAt, b.RedeemedAt), cmp.Compare(a.ID, b.ID), cmp.Compare(a.Module, b.Module))
}
