package store

import (
	"slices"

	"github.com/latchkey/latchkey/pkg/entitlement"
)

// What an account consumes of its credits is kept for ever under the caller's id, so that a repeat, however late, takes nothing again. The record holds
// the sums alone: what they leave is computed when it is read (entitlement.Balance).

// maxConsumed bounds one consumption: more than anybody can have.
const maxConsumed = 1<<53 - 1

// Consume takes credits from an account's balance.
type Consume struct {
	Account     entitlement.AccountID `cbor:"1,keyasint"`
	ID          string                `cbor:"2,keyasint"` // unique for the account, for ever
	Credit      string                `cbor:"3,keyasint"`
	Amount      int64                 `cbor:"4,keyasint"`
	Idempotency *Idempotency          `cbor:"5,keyasint,omitempty"`
}

// spendRow is one consumption. Of accounts that are merged each pays from its own sales, the oldest first.
type spendRow struct {
	Credit  string         `cbor:"1,keyasint"`
	Amount  int64          `cbor:"2,keyasint"`
	Stamp   int64          `cbor:"3,keyasint"`
	Balance int64          `cbor:"4,keyasint,omitempty"` // after it
	Parts   []spendPartRow `cbor:"5,keyasint"`
}

type spendPartRow struct {
	Account entitlement.AccountID `cbor:"1,keyasint"`
	Amount  int64                 `cbor:"2,keyasint"`
}

func spendKey(env entitlement.Environment, account entitlement.AccountID, id string) []byte {
	return append(appendKeyText([]byte{envByte(env)}, string(account)), id...)
}

func (c *command) consume(body *Consume) Result {
	if body.ID == "" || len(body.ID) > maxIDBytes || body.Credit == "" || len(body.Credit) > maxAliasBytes || body.Amount < 1 || body.Amount > maxConsumed {
		return rejected(SlugInvalidRequest, "consumption id, credit or amount")
	}
	if !c.exists(body.Account) {
		return rejected(SlugNotFound, "account")
	}
	members := c.mergedUnder(c.survivor(body.Account))
	for _, id := range members {
		var row spendRow
		if !c.decode(bucketSpends, spendKey(c.Env, id, body.ID), &row) {
			continue
		}
		if row.Credit != body.Credit || row.Amount != body.Amount {
			return rejected(SlugIdempotencyMismatch, "the consumption id was used for another consumption")
		}
		return Result{Account: body.Account, Existing: true, Balance: row.Balance}
	}
	whole, x := c.whole(members), c.catalogIndex()
	view := whole.View(x, c.now, nil)
	balance := int64(0)
	if at := slices.IndexFunc(view.Balances, func(b entitlement.Balance) bool { return b.Credit == body.Credit }); at >= 0 {
		balance = view.Balances[at].Amount
	}
	if balance < body.Amount {
		return Result{Balance: balance, Rejection: &Rejection{Slug: SlugInsufficientBalance, Detail: "the account has less of this credit"}}
	}
	row := spendRow{Credit: body.Credit, Amount: body.Amount, Stamp: c.now, Balance: balance - body.Amount}
	due := body.Amount
	for _, from := range whole.Unspent(x, body.Credit) {
		n := min(due, from.Amount)
		if due -= n; n == 0 {
			break
		}
		id := members[from.Part]
		at := slices.IndexFunc(row.Parts, func(p spendPartRow) bool { return p.Account == id })
		if at < 0 {
			row.Parts = append(row.Parts, spendPartRow{Account: id})
			at = len(row.Parts) - 1
		}
		row.Parts[at].Amount += n
	}
	for _, p := range row.Parts {
		c.account(p.Account).spend(body.Credit, p.Amount)
	}
	if rejection := c.commit(nil); rejection != nil {
		return Result{Rejection: rejection}
	}
	c.encode(bucketSpends, spendKey(c.Env, body.Account, body.ID), &row)
	return Result{Account: body.Account, Balance: row.Balance}
}

func (a *accountEdit) spend(credit string, n int64) {
	at, found := slices.BinarySearchFunc(a.acc.Spent, credit, func(s entitlement.Spent, credit string) int {
		switch {
		case s.Credit < credit:
			return -1
		case s.Credit > credit:
			return 1
		}
		return 0
	})
	if !found {
		a.acc.Spent = slices.Insert(a.acc.Spent, at, entitlement.Spent{Credit: credit})
	}
	a.acc.Spent[at].Amount += n
}
