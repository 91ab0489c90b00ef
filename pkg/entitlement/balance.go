package entitlement

import (
	"cmp"
	"slices"
)

// maxBalance is the largest integer that every JSON library reads exactly.
const maxBalance = 1<<53 - 1

// creditSale is credits that were bought. What was consumed is charged to sales in the order in which they were made, so that any order of
// messages comes to the same balance.
type creditSale struct {
	credit   string
	part     int64
	at       int64
	purchase PurchaseID
	item     string
	amount   int64
	lost     bool // refunded or taken back
	debt     bool // what was spent of a lost one is owed
}

// appendSales appends what an item of a consumable gives, one for each credit. What moved to another account, what somebody else bought and shares, what went
// with an erased account, and what nobody has confirmed, gives none.
func appendSales(dst []creditSale, p *Purchase, item *Item, product *Product) []creditSale {
	lost := item.State == Revoked && item.Reason != ReasonTransferred
	forfeited := p.ForfeitedAt != 0 && item.Term.StartsAt <= p.ForfeitedAt
	if item.State != Live && !lost || item.Provisional || item.Ownership != "" || forfeited {
		return dst
	}
	for credit, n := range product.Credits {
		amount := min(min(n, maxCredits)*max(item.Term.Quantity, 1), maxBalance)
		dst = append(dst, creditSale{credit, p.Part, item.Term.StartsAt, p.ID, item.ID, amount, lost, p.Debt})
	}
	return dst
}

// appendBalances appends what is left of each credit, sorted by credit. It sorts sales.
func appendBalances(dst []Balance, sales []creditSale, spent []Spent) []Balance {
	chargeSales(sales, spent, func(s *creditSale, used int64) {
		left := s.amount - used
		switch {
		case s.lost && s.debt:
			left = -used
		case s.lost:
			left = 0
		}
		dst = addBalance(dst, s.credit, left)
	}, func(credit string, rest int64) { dst = addBalance(dst, credit, -rest) })
	return dst
}

// chargeSales calls fn with each sale, oldest first, and how much of it was consumed, and more with what was consumed and is no sale's.
func chargeSales(sales []creditSale, spent []Spent, fn func(s *creditSale, used int64), more func(credit string, rest int64)) {
	slices.SortFunc(sales, func(a, b creditSale) int {
		return cmp.Or(cmp.Compare(a.credit, b.credit), cmp.Compare(a.part, b.part), cmp.Compare(a.at, b.at), cmp.Compare(a.purchase, b.purchase), cmp.Compare(a.item, b.item))
	})
	rest := make([]int64, len(spent))
	for i := range spent {
		rest[i] = spent[i].Amount
	}
	for i := range sales {
		s := &sales[i]
		used := int64(0)
		if at := slices.IndexFunc(spent, func(x Spent) bool { return x.Credit == s.credit && x.Part == s.part }); at >= 0 {
			used = min(rest[at], s.amount)
			rest[at] -= used
		}
		fn(s, used)
	}
	for i, n := range rest {
		if n != 0 {
			more(spent[i].Credit, n)
		}
	}
}

func addBalance(dst []Balance, credit string, n int64) []Balance {
	at, found := slices.BinarySearchFunc(dst, credit, func(b Balance, credit string) int { return cmp.Compare(b.Credit, credit) })
	if !found {
		dst = slices.Insert(dst, at, Balance{Credit: credit})
	}
	dst[at].Amount = max(min(dst[at].Amount+n, maxBalance), -maxBalance)
	return dst
}

// Unspent is what is left of one sale of credits.
type Unspent struct {
	Part   int64
	At     int64 // when it was bought, Unix seconds
	Amount int64
}

// Unspent lists what the account has left of a credit, by sale, the oldest first.
func (a *Account) Unspent(x *CatalogIndex, credit string) []Unspent {
	var sales []creditSale
	for i := range a.Purchases {
		p := &a.Purchases[i]
		for j := range p.Items {
			if product, ok := x.productOf(p, &p.Items[j]); ok && product.Kind == KindConsumable {
				sales = appendSales(sales, p, &p.Items[j], product)
			}
		}
	}
	var left []Unspent
	chargeSales(sales, a.Spent, func(s *creditSale, used int64) {
		if s.credit == credit && !s.lost && s.amount > used {
			left = append(left, Unspent{s.part, s.at, s.amount - used})
		}
	}, func(string, int64) {})
	slices.SortStableFunc(left, func(a, b Unspent) int { return cmp.Compare(a.At, b.At) })
	return left
}
