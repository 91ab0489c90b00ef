package store

import (
	"cmp"
	"slices"

	"github.com/latchkey/latchkey/pkg/entitlement"
)

// claimPurchase gives a purchase without an owner to an account. What it takes from nobody it may do for whoever proves the purchase: that is
// asked here again, because another claim may have come first.
func (c *command) claimPurchase(body *ClaimPurchase) Result {
	if c.st.Rules < RulesChains {
		return rejected(SlugInvalidRequest, "not every writer knows how to claim a purchase yet")
	}
	if body.Account == "" || !c.exists(body.Account) {
		return rejected(SlugNotFound, "account")
	}
	id, ok := c.purchaseOf(entitlement.Link(body.Purchase))
	if !ok {
		return rejected(SlugNotFound, "purchase")
	}
	p, ok := c.loadPurchase(id)
	if !ok || !p.row.Evidence.IsPurchase() {
		return rejected(SlugNotFound, "purchase")
	}
	switch owner := p.row.Owner; {
	case owner != "" && c.survivor(owner) == c.survivor(body.Account):
		return Result{Account: body.Account, Existing: true}
	case owner != "" && !c.erased(owner):
		return Result{Rejection: &Rejection{Slug: SlugAliasTaken, Detail: "the purchase belongs to another account", Owner: p.row.Owner}}
	}
	c.refs.From, c.refs.To = p.row.Owner, body.Account
	c.claim = c.claimFor(body.Account, &p.row, false)
	c.claim.Shown = c.st.Rules >= rulesAccounts
	if old := p.row.Claim; old != nil && c.claim.Shown && !c.erased(old.Account) {
		c.lost = &lostRow{Account: old.Account, Stamp: c.now} // it was shown before and went to a name: the claim that told so is no more
	}
	return Result{Account: body.Account, Rejection: c.commit([]*purchaseEdit{c.planPurchase([]entitlement.PurchaseID{id}, nil)})}
}

// restoring decides whether a tapped restore takes a purchase from somebody.
type restoring struct {
	policy  entitlement.Policy
	catalog *entitlement.CatalogIndex
	now     int64
	asks    []entitlement.AccountID                       // who restores, and those that are merged with it
	sharer  func(entitlement.Alias) entitlement.AccountID // whom a provider means that lets others use a purchase
}

// takes reports whether a restore takes the purchase from the account that has it. Shares never move. Credits do not either: who had them may have spent them, and
// whoever shows the purchase would have them once more.
func (by *restoring) takes(row *purchaseRow) bool {
	if row.Claim != nil && row.Claim.Support || by.shares(row) {
		return false
	}
	folded := entitlement.Fold(row.Evidence, by.policy)
	return !folded.FamilyShared() && !by.catalog.SellsCredits(&folded) && by.policy.Transfers(&folded, by.now)
}

// shares reports whether the purchase is shared with who restores, be it that the policy lets no share give anything.
func (by *restoring) shares(row *purchaseRow) bool {
	isOurs := func(id entitlement.AccountID) bool { return slices.Contains(by.asks, id) }
	if by.policy.SharingOff {
		return slices.ContainsFunc(row.Evidence.Shares(), func(a entitlement.Alias) bool { return isOurs(by.sharer(a)) })
	}
	return slices.ContainsFunc(row.Shares, isOurs)
}

// RestoreTakes reports whether a tapped restore by an account would take a purchase from the one that has it, at now. Error: replication.ErrCorrupt.
func (r *Reader) RestoreTakes(env entitlement.Environment, id entitlement.PurchaseID, account entitlement.AccountID, catalog *entitlement.CatalogIndex, now int64) (bool, error) {
	row, found, err := keptRow(r, &r.kept.purchases, bucketPurchases, envKey(env, string(id)))
	if err != nil || !found {
		return false, err
	}
	by := restoring{catalog: catalog, now: now}
	if by.policy, err = r.Policy(env); err != nil {
		return false, err
	}
	if by.asks, _, err = r.Group(env, account); err != nil {
		return false, err
	}
	by.sharer = func(a entitlement.Alias) entitlement.AccountID {
		id, _, wrong := r.Named(env, a)
		err = cmp.Or(err, wrong)
		return id
	}
	takes := by.takes(row)
	return takes && err == nil, err
}

// restorePurchase gives a purchase to an account that shows it, or that support names. The account that had it sees it as transferred.
func (c *command) restorePurchase(body *RestorePurchase) Result {
	if body.Account == "" || !c.exists(body.Account) {
		return rejected(SlugNotFound, "account")
	}
	id, ok := c.purchaseOf(entitlement.Link(body.Purchase))
	if !ok {
		return rejected(SlugNotFound, "purchase")
	}
	p, ok := c.loadPurchase(id)
	if !ok || !p.row.Evidence.IsPurchase() {
		return rejected(SlugNotFound, "purchase")
	}
	owner := p.row.Owner
	taken := Result{Rejection: &Rejection{Slug: SlugAliasTaken, Detail: "the purchase belongs to another account", Owner: owner}}
	switch {
	case owner != "" && c.survivor(owner) == c.survivor(body.Account):
		return Result{Account: body.Account, Existing: true}
	case owner == "" || c.erased(owner):
	case body.Support && (body.From == "" || c.survivor(body.From) != c.survivor(owner)):
		taken.Rejection.Detail = "the purchase belongs to another account, from which it is taken where \"from\" names that account"
		return taken
	case body.Support:
		c.lost = &lostRow{Account: owner, Stamp: c.now}
	default:
		if by := (restoring{c.policyOf(c.Env), c.catalogIndex(), c.now, c.mergedUnder(c.survivor(body.Account)), c.sharer}); !by.takes(&p.row) {
			return taken
		}
		c.lost = &lostRow{Account: owner, Stamp: c.now}
	}
	c.refs.From, c.refs.To = owner, body.Account
	c.claim = c.claimFor(body.Account, &p.row, body.Support)
	return Result{Account: body.Account, Rejection: c.commit([]*purchaseEdit{c.planPurchase([]entitlement.PurchaseID{id}, nil)})}
}

// claimFor is what the API says about the owner from now on: it outranks what was said before, in the same second too. Who was erased took the credits along.
func (c *command) claimFor(id entitlement.AccountID, row *purchaseRow, support bool) *claimRow {
	identity := row.Evidence.Identity()
	_, _, claimed := c.ownerOf(row, &identity)
	claim := &claimRow{Account: id, Stamp: c.now, Support: support, ForfeitedAt: max(c.erasedAt(row.Owner), c.forfeitedAt(row, &identity, claimed))}
	if old := row.Claim; old != nil {
		claim.Stamp = max(c.now, old.Stamp+1)
	}
	return claim
}

// AsTest returns an event about a test purchase as production keeps it: see RecordEvent.
func AsTest(ev entitlement.Event) entitlement.Event { return *asTest(&ev) }
