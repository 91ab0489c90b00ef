package main

import (
	"cmp"
	"slices"

	"github.com/latchkey/latchkey/pkg/entitlement"
)

// book is the independent ledger of one account: every sale and every consumption, and nothing derived from them. It is slow and plain on purpose.
type book struct {
	debt  bool // the policy: spent credits that were taken back are owed
	sales []*sale
	spent map[string]consumption // by consumption id
	gone  bool                   // the account was erased
}

type sale struct {
	id        string
	buyer     entitlement.AccountID // as the store says; empty: it does not
	of        *book                 // whose it is; nil: nobody's
	forfeited bool                  // who had it was erased, and took the credits along
	credit    string
	amount    int64
	at        int64 // when it was bought, Unix seconds
	states    int   // that the store has told of: bought, refunded, refund taken back, refunded, ...
	known     bool  // a message about it has been recorded
	newest    int   // of the states in recorded messages
	current   bool  // refunded, by those
}

type consumption struct {
	credit string
	amount int64
	left   int64 // as it was answered
}

// balance is what an account has of a credit: each sale in the order of the purchases pays for what was consumed; what a refund takes back is its sale's
// unspent part, or, in debt, all of it.
func (b *book) balance(credit string) int64 {
	var sales []*sale
	for _, s := range b.sales {
		if s.known && s.credit == credit {
			sales = append(sales, s)
		}
	}
	slices.SortFunc(sales, func(a, b *sale) int { return cmp.Or(cmp.Compare(a.at, b.at), cmp.Compare(a.id, b.id)) })
	rest := int64(0)
	for _, c := range b.spent {
		if c.credit == credit {
			rest += c.amount
		}
	}
	balance := -rest
	for _, s := range sales {
		used := min(rest, s.amount)
		rest -= used
		switch {
		case !s.current:
			balance += s.amount
		case !b.debt:
			balance += used
		}
	}
	return balance
}
