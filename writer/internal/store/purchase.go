package store

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"

	"github.com/latchkey/latchkey/pkg/entitlement"
	"github.com/latchkey/latchkey/replication"
)

// maxPurchaseBytes bounds what is kept of one purchase: forty years of monthly invoices fit. One that grows past it is
// refused like a record that is too large, before it makes every message of it slow.
const maxPurchaseBytes = 1 << 20

// purchaseEdit is one purchase as it will be: planned first, written only when all of the command's records are known to fit.
type purchaseEdit struct {
	id      entitlement.PurchaseID
	row     purchaseRow
	value   []byte // row, encoded
	before  []storedPurchase
	was     []entitlement.Identity // what each of before said of its buyer
	is      entitlement.Identity   // what the purchase says of them
	had     [][]string             // by what names its buyer was known by each of before, and is now: see persons
	persons []string
	// shown is false while only fragments are known, such as a refund whose payment did not come yet.
	shown bool
	// doubts are what the provider is to be asked for. Fragments have some too: a hint of a subscription that we never saw.
	doubts []entitlement.Doubt
	trial  bool // a term of it was ever a trial
	owed   bool // a code is to be sent for it
	// delivered: by codes, all of it, so that no account need have it.
	delivered bool
	// stands: money was taken for it and not given back, or its trial began. accessUntil is when what it gives ends, Unix seconds; 0: never, or not known.
	stands      bool
	accessUntil int64
	// pulledAt is when all of it was asked for, Unix seconds; 0: it was not.
	pulledAt int64
}

// storedPurchase is a purchase as it is in the file.
type storedPurchase struct {
	id  entitlement.PurchaseID
	row purchaseRow
	raw []byte
}

// purchaseOf returns the purchase that a store id belongs to: one that has it as its id, or that a link points to.
func (c *command) purchaseOf(l entitlement.Link) (entitlement.PurchaseID, bool) {
	key := envKey(c.Env, string(l))
	if id := c.get(bucketLinks, key); id != nil {
		return entitlement.PurchaseID(id), true
	}
	if c.get(bucketPurchases, key) == nil {
		return "", false
	}
	return entitlement.PurchaseID(l), true
}

func (c *command) loadPurchase(id entitlement.PurchaseID) (storedPurchase, bool) {
	p := storedPurchase{id: id, raw: c.get(bucketPurchases, envKey(c.Env, string(id)))}
	if p.raw == nil || c.err != nil {
		return p, false
	}
	if err := entitlement.Decode(p.raw, &p.row); err != nil {
		c.fail(fmt.Errorf("purchase %s: %w: %w", id, replication.ErrCorrupt, err))
		return p, false
	}
	return p, true
}

// planPurchase joins known purchases (sorted by id) and new objects into one, resolves its owner, folds it and puts it into
// the owner's account in memory. Its result depends on what was proved and on the API's state, never on the order of arrival.
func (c *command) planPurchase(known []entitlement.PurchaseID, objects []entitlement.Object) *purchaseEdit {
	e := &purchaseEdit{}
	for _, id := range known {
		p, ok := c.loadPurchase(id)
		if !ok {
			c.fail(fmt.Errorf("purchase %s is linked and not there: %w", id, replication.ErrCorrupt))
			return e
		}
		e.before, e.was = append(e.before, p), append(e.was, p.row.Evidence.Identity())
		e.row.Evidence = entitlement.Merge(e.row.Evidence, p.row.Evidence)
		e.row.Claim = newerClaim(e.row.Claim, p.row.Claim)
		e.row.Lost = append(e.row.Lost, p.row.Lost...)
		if c.claim != nil && !c.claim.Shown { // no name counts from now on: who lost it by one goes on to be told
			e.row.Lost = append(e.row.Lost, p.row.Outnamed...)
		}
		e.row.Codes = append(e.row.Codes, p.row.Codes...)
		e.row.Buyers = append(e.row.Buyers, p.row.Buyers...)
	}
	e.row.Claim = cmp.Or(c.claim, e.row.Claim)
	if c.code != nil {
		e.row.Codes = append(e.row.Codes, *c.code)
	}
	e.row.Codes = unitedCodes(e.row.Codes)
	e.row.Evidence = e.row.Evidence.Add(objects...)
	if c.st.Rules < rulesAccounts { // as for namings: see planEvent
		e.row.Evidence = e.row.Evidence.WithoutFormer()
	}
	e.id = e.row.Evidence.ID()
	e.is = e.row.Evidence.Identity()
	c.tell(toldPurchase{e.id, known, e.is}, e.was)
	c.knowPersons(e)
	var losses []entitlement.Loss
	var claimed bool
	e.row.Owner, losses, claimed = c.ownerOf(&e.row, &e.is)
	e.row.Shares = c.sharesOf(&e.row)
	if c.lost != nil {
		e.row.Lost = append(e.row.Lost, *c.lost)
	}
	e.row.Lost = c.losersOf(&e.row)
	e.row.Outnamed = e.row.outnamed(losses)
	lost := slices.Concat(e.row.Lost, e.row.Outnamed)
	for _, p := range e.before {
		lost = slices.Concat(lost, p.row.Lost, p.row.Outnamed)
	}
	for _, lost := range e.row.losers(lost) {
		c.bystanders = append(c.bystanders, lost.Account)
	}
	c.knowBuyers(&e.row)
	e.shown = e.row.Evidence.IsPurchase()
	e.doubts = e.row.Evidence.DoubtsUnder(entitlement.Policy{Rules: c.st.Rules})

	for _, p := range e.before {
		if a := c.account(p.row.Owner); a != nil {
			a.removePurchase(p.id)
		}
		for _, id := range p.row.Shares {
			if a := c.account(id); a != nil {
				a.removePurchase(p.id)
			}
		}
		for _, lost := range slices.Concat(p.row.Lost, p.row.Outnamed) {
			if a := c.account(lost.Account); a != nil {
				a.removePurchase(p.id)
			}
		}
	}
	if e.shown {
		policy := c.policyOf(c.Env)
		folded := entitlement.Fold(e.row.Evidence, policy)
		folded.ForfeitedAt = c.forfeitedAt(&e.row, &e.is, claimed)
		gone := c.vanished(e.row.Evidence, &e.is)
		if gone.all {
			folded = folded.Vanished(entitlement.Iaptic, gone.at)
		}
		e.trial = folded.TrialUsed
		if e.stands = true; c.st.Rules >= rulesAccounts && e.row.Owner == "" {
			e.accessUntil, e.stands = e.row.Evidence.Stands(&folded)
		}
		c.settleCodes(e, &folded)
		owned := folded
		if gone.owner {
			owned = folded.Vanished(entitlement.Iaptic, gone.at)
		}
		c.give(e.row.Owner, owned, &policy)
		for _, id := range e.row.Shares {
			c.give(id, folded.SharedCopy(), &policy)
		}
		for _, lost := range slices.Concat(e.row.losers(e.row.Lost), e.row.Outnamed) {
			c.give(lost.Account, folded.TransferredCopy(lost.Stamp), &policy)
		}
	}
	return e
}

// involves reports whether an account has had the purchase until now, or shares it.
func (e *purchaseEdit) involves(id entitlement.AccountID) bool {
	return slices.Contains(e.row.Shares, id) || slices.ContainsFunc(e.before, func(p storedPurchase) bool {
		return p.row.Owner == id || slices.Contains(p.row.Shares, id)
	})
}

// give puts a purchase into an account, unless it is a test purchase that does not count there.
func (c *command) give(id entitlement.AccountID, p entitlement.Purchase, policy *entitlement.Policy) {
	if a := c.account(id); a != nil && (!p.Sandbox || policy.CountsSandbox(c.tests(a))) {
		a.putPurchase(p)
	}
}

// tests reports whether an account, or one that is merged with it, is a tester's.
func (c *command) tests(a *accountEdit) bool {
	return a.acc.Tester || a.part && c.someTest(c.mergedUnder(c.survivor(a.id)))
}

func (c *command) someTest(members []entitlement.AccountID) bool {
	return slices.ContainsFunc(members, func(id entitlement.AccountID) bool { return c.own(id).Tester })
}

// maxLosers bounds the accounts that see that they lost a purchase by a restore, and those that see it by a name, to those that lost it last: each is written whenever the purchase changes.
const maxLosers = 16

// losersOf returns whom a restore took the purchase from, without the present owner. With whom it is shared stays among them: a newer message may end that, and the order would show.
func (c *command) losersOf(row *purchaseRow) []lostRow {
	if c.st.Rules < rulesAccounts {
		return row.losers(row.Lost)
	}
	return lastLosers(lostOnce(row.Lost, row.Owner))
}

// outnamed returns who lost the purchase by the names of its buyers, and not by a restore.
func (row *purchaseRow) outnamed(losses []entitlement.Loss) []lostRow {
	var lost []lostRow
	for _, loss := range losses {
		if !slices.ContainsFunc(row.Lost, func(l lostRow) bool { return l.Account == loss.Account }) {
			lost = append(lost, lostRow{Account: loss.Account, Stamp: loss.At})
		}
	}
	return lastLosers(row.losers(lost))
}

// lastLosers returns the maxLosers that lost it last, sorted by account.
func lastLosers(lost []lostRow) []lostRow {
	if len(lost) <= maxLosers {
		return lost
	}
	slices.SortFunc(lost, func(a, b lostRow) int {
		return cmp.Or(-cmp.Compare(a.Stamp, b.Stamp), cmp.Compare(a.Account, b.Account))
	})
	lost = lost[:maxLosers]
	slices.SortFunc(lost, func(a, b lostRow) int { return cmp.Compare(a.Account, b.Account) })
	return lost
}

// losers returns the accounts of those that lost the purchase that do not have it again, sorted, each with the last time that it did.
func (row *purchaseRow) losers(lost []lostRow) []lostRow {
	return slices.DeleteFunc(lostOnce(lost, row.Owner), func(l lostRow) bool { return slices.Contains(row.Shares, l.Account) })
}

// lostOnce returns the accounts that lost a purchase, sorted, each with the last time that it did, without the present owner.
func lostOnce(lost []lostRow, owner entitlement.AccountID) []lostRow {
	lost = slices.Clone(lost)
	slices.SortFunc(lost, func(a, b lostRow) int {
		return cmp.Or(cmp.Compare(a.Account, b.Account), -cmp.Compare(a.Stamp, b.Stamp))
	})
	lost = slices.CompactFunc(lost, func(a, b lostRow) bool { return a.Account == b.Account })
	return slices.DeleteFunc(lost, func(l lostRow) bool { return l.Account == owner })
}

func newerClaim(a, b *claimRow) *claimRow {
	switch {
	case a == nil || b == nil:
		return cmp.Or(a, b)
	case a.Support != b.Support:
		if b.Support {
			return b
		}
	case a.Shown != b.Shown:
		if a.Shown {
			return b
		}
	case b.Stamp > a.Stamp || b.Stamp == a.Stamp && b.Account < a.Account:
		return b
	}
	return a
}

// ownerOf resolves whose purchase it is, the first that applies: what the API claimed, unless it was only shown and went to another since; who has it by the names under which it was bought, where the policy
// says that it stays with them (requirement A10.7); the account that the newest metadata names, where it exists (an unknown one leaves the purchase unclaimed: accounts are never made from metadata); the
// account that has one of the purchase's aliases. Empty is unclaimed. An account that was erased still is the owner: what it paid for is nobody's to see.
//
// It also returns who lost it by the names under which it was bought, and whether the claim decided. Where the API said whose it is, names do not count.
func (c *command) ownerOf(row *purchaseRow, identity *entitlement.Identity) (owner entitlement.AccountID, lost []entitlement.Loss, claimed bool) {
	var shown *entitlement.Showing
	switch claim := row.Claim; {
	case claim == nil:
	case claim.Shown:
		shown = &entitlement.Showing{Account: claim.Account, At: claim.Stamp}
	default:
		return claim.Account, nil, true
	}
	if c.st.Rules >= rulesAccounts {
		policy := c.policyOf(c.Env)
		owner, lost, shows := row.Evidence.Holders(policy.KeepsHolder(), shown, c.whose)
		if shows {
			return c.movedFrom(row, identity, lost)
		}
		if owner != "" && policy.KeepsHolder() {
			return owner, lost, false
		}
		return c.namedBy(identity), lost, false
	}
	return c.namedBy(identity), nil, false
}

// movedFrom is ownerOf for a purchase that was shown and is still of who showed it by the names of its buyers: it is theirs, unless an aggregator that alone tells of it has moved it since.
func (c *command) movedFrom(row *purchaseRow, identity *entitlement.Identity, lost []entitlement.Loss) (entitlement.AccountID, []entitlement.Loss, bool) {
	if at := row.Evidence.MovedAfter(row.Claim.Stamp); at != 0 {
		if to := c.namedBy(identity); to != "" {
			return to, append(lost, entitlement.Loss{Account: row.Claim.Account, At: at}), false
		}
	}
	return row.Claim.Account, lost, true
}

// namedBy returns the account that an identity is of. Empty is nobody's.
func (c *command) namedBy(identity *entitlement.Identity) entitlement.AccountID {
	if identity.Account != "" {
		if c.known(identity.Account) {
			return identity.Account
		}
		return ""
	}
	for _, a := range identity.Aliases {
		if owner := c.named(a); owner != "" {
			return owner
		}
	}
	return ""
}

// whose returns the account that was named when a purchase was bought. Empty is nobody's.
func (c *command) whose(n entitlement.Naming) entitlement.AccountID {
	return c.namedBy(&entitlement.Identity{Account: n.Account, Aliases: n.Aliases})
}

// named returns whose name an alias is: the account that the API gave it to, else the one that its provider last said it to be, else the one that other
// purchases under the name are of. Empty is nobody's.
func (c *command) named(a entitlement.Alias) entitlement.AccountID {
	if owner := c.ownerNamed(a); owner != "" {
		return owner
	}
	if told := c.customer(a); told.account != "" {
		return told.account
	}
	return c.learned(a)
}

// toldCustomer is the account that a provider's statements about a customer mean, empty for none, and the one of the customer's names by which they do: none where they name the account.
type toldCustomer struct {
	account entitlement.AccountID
	by      entitlement.Alias
}

// customer returns the account that the alias's provider last said its customer to be, where it is there.
func (c *command) customer(a entitlement.Alias) toldCustomer {
	provider := a.Kind.Provider()
	if provider == "" || c.st.Rules < RulesChains {
		return toldCustomer{}
	}
	link := entitlement.CustomerLink(provider, a.Value)
	told, pending := c.customers[link]
	if !pending {
		if id, ok := c.purchaseOf(link); ok {
			if p, ok := c.loadPurchase(id); ok {
				told = c.customerOf(p.row.Evidence.Identity())
			}
		}
	}
	if told.account == "" || !c.known(told.account) {
		return toldCustomer{}
	}
	return told
}

// customerOf returns which account a provider's statements about a customer mean: the one that they name, else the one that the API gave another of the
// customer's names to.
func (c *command) customerOf(identity entitlement.Identity) toldCustomer {
	if identity.Account != "" || c.st.Rules < rulesLearned {
		return toldCustomer{account: identity.Account}
	}
	for _, a := range identity.Aliases {
		if owner := c.ownerNamed(a); owner != "" {
			return toldCustomer{owner, a}
		}
	}
	return toldCustomer{}
}

// sharesOf resolves who may use the purchase beside its owner.
func (c *command) sharesOf(row *purchaseRow) []entitlement.AccountID {
	var shares []entitlement.AccountID
	if policy := c.policyOf(c.Env); policy.SharingOff {
		return nil
	}
	told := row.Evidence.ToldAt(entitlement.Iaptic)
	for _, a := range row.Evidence.Shares() {
		if c.leftOut(a, told) {
			continue
		}
		if id := c.sharer(a); id != "" && id != row.Owner {
			shares = append(shares, id)
		}
	}
	slices.Sort(shares)
	return slices.Compact(shares)
}

// sharer returns the account that a provider means which lets it use a purchase beside its owner. Empty is nobody's.
func (c *command) sharer(a entitlement.Alias) entitlement.AccountID {
	if id := c.named(a); id != "" {
		return id
	}
	if id := entitlement.AccountID(a.Value); strings.HasPrefix(a.Value, "acc_") && c.known(id) {
		return id
	}
	return ""
}

// fits encodes what is planned, and reports false if a record or a row would be larger than may be kept: then nothing may be written.
func (c *command) fits(edits []*purchaseEdit) bool {
	c.lockTrials(edits)
	return c.encodeAccounts() && c.encodePurchases(edits)
}

// encodePurchases encodes the rows, and reports false if one is larger than may be kept.
func (c *command) encodePurchases(edits []*purchaseEdit) bool {
	for _, e := range edits {
		if e.value = entitlement.Encode(&e.row); len(e.value) > maxPurchaseBytes {
			return false
		}
	}
	return true
}

// writePurchase writes a planned purchase and what points to it.
func (c *command) writePurchase(e *purchaseEdit) {
	key := envKey(c.Env, string(e.id))
	var same storedPurchase // what was known under the same id
	var waited []string     // identities under which it stood
	since := c.now          // unclaimed since
	var pull pullRow
	var unclaimed, pulled bool // rows are there under the same id
	for _, p := range e.before {
		oldKey := envKey(c.Env, string(p.id))
		if at := c.get(bucketUnclaimed, oldKey); at != nil {
			since = min(since, int64(binary.BigEndian.Uint64(at)))
			unclaimed = unclaimed || p.id == e.id
		}
		var old pullRow
		if c.decode(bucketPulls, oldKey, &old) {
			pulled = pulled || p.id == e.id
			pull.Conflict, pull.ConflictAt = pull.Conflict || old.Conflict, max(pull.ConflictAt, old.ConflictAt)
			pull.Since = cmp.Or(min(pull.Since, old.Since), old.Since)
		}
		names := p.row.waitsUnder(c.st.Rules)
		if p.id == e.id {
			same, waited = p, names
			continue
		}
		c.delete(bucketPurchases, oldKey)
		c.delete(bucketUnclaimed, oldKey)
		c.delete(bucketPulls, oldKey)
		for _, name := range names {
			c.delete(bucketIdentities, identityKey(c.Env, name, p.id))
		}
	}
	if !bytes.Equal(same.raw, e.value) {
		c.replace(bucketPurchases, key, same.raw, e.value)
		c.writeLinks(e, &same)
		c.writeNamed(e)
		c.writeIdentities(e, waited)
	}
	c.writePersons(e)
	c.writeOwed(e)
	if e.shown && e.stands && !e.delivered && e.row.Owner == "" && !e.row.Evidence.IsSandbox() {
		c.put(bucketUnclaimed, key, unclaimedRow(since, e.accessUntil))
	} else if unclaimed {
		c.delete(bucketUnclaimed, key)
	}
	c.suggestBuyers(e)
	c.forgetMailed(e)
	// An answer of the second in which the conflict was noted may be older than it.
	if e.pulledAt > pull.ConflictAt {
		pull.Conflict, pull.ConflictAt = false, 0
	}
	pull.Doubt, pull.Asks, pull.Echoes = len(e.doubts) > 0, asksOf(e.doubts), c.echoesOf(e.doubts)
	if pulled || pull.Doubt || pull.Conflict {
		c.writePull(key, pull)
	}
}

// forgetMailed forgets the addresses to which links to a purchase were mailed that is somebody's from now on: nobody needs another, and who has it may be erased.
func (c *command) forgetMailed(e *purchaseEdit) {
	if c.st.Rules < rulesAccounts || e.row.Owner == "" || !slices.ContainsFunc(e.before, func(p storedPurchase) bool { return p.row.Owner != e.row.Owner }) {
		return
	}
	for _, l := range e.row.Evidence.Links { // a link may lead to any id that it ever had
		c.forgetAddresses(entitlement.AccountID(l))
	}
}

// unclaimedRow says since when a payment has waited for its account and until when it gives access, both in Unix seconds. What never ends says nothing of it.
func unclaimedRow(since, accessUntil int64) []byte {
	row := binary.BigEndian.AppendUint64(nil, uint64(since))
	if accessUntil != 0 {
		row = binary.BigEndian.AppendUint64(row, uint64(accessUntil))
	}
	return row
}

// weighUnclaimed judges a payment that has waited for its account since before rulesAccounts.
func (c *command) weighUnclaimed(p *storedPurchase) {
	key := envKey(c.Env, string(p.id))
	row := c.get(bucketUnclaimed, key)
	if row == nil {
		return
	}
	folded := entitlement.Fold(p.row.Evidence, c.policyOf(c.Env))
	accessUntil, stands := p.row.Evidence.Stands(&folded)
	if !stands {
		c.delete(bucketUnclaimed, key)
		return
	}
	c.put(bucketUnclaimed, key, unclaimedRow(int64(binary.BigEndian.Uint64(row)), accessUntil))
}

// writeLinks points the purchase's store ids to it, those apart that did so before, and its own id: that one finds it without.
func (c *command) writeLinks(e *purchaseEdit, same *storedPurchase) {
	for _, l := range e.row.Evidence.Links {
		if _, had := slices.BinarySearch(same.row.Evidence.Links, l); had || entitlement.PurchaseID(l) == e.id {
			continue
		}
		if key := envKey(c.Env, string(l)); len(e.before) == 0 {
			c.add(bucketLinks, key, []byte(e.id)) // nobody had any of them
		} else {
			c.put(bucketLinks, key, []byte(e.id))
		}
	}
}

// asksOf identifies what there is to ask for, so that whoever asks sees from the row alone that there is something new.
func asksOf(doubts []entitlement.Doubt) []byte {
	if len(doubts) == 0 {
		return nil
	}
	sum := sha256.Sum256(entitlement.Encode(doubts))
	return sum[:8]
}

// echoesOf names whom the doubts are for where nothing is open unless they can be asked, separated by commas.
func (c *command) echoesOf(doubts []entitlement.Doubt) string {
	if c.st.Rules < rulesAccounts {
		return ""
	}
	var names []string
	for i := range doubts {
		if !doubts[i].Echo {
			return ""
		}
		names = append(names, string(doubts[i].Provider()))
	}
	slices.Sort(names)
	return strings.Join(slices.Compact(names), ",")
}

// writeIdentities keeps the index by which a new account or alias finds the purchases that it decides about.
func (c *command) writeIdentities(e *purchaseEdit, waited []string) {
	names := e.row.waitsUnder(c.st.Rules)
	for _, name := range waited {
		if !slices.Contains(names, name) {
			c.delete(bucketIdentities, identityKey(c.Env, name, e.id))
		}
	}
	for _, name := range names {
		if !slices.Contains(waited, name) {
			c.add(bucketIdentities, identityKey(c.Env, name, e.id), []byte(e.id))
		}
	}
}

func (c *command) writePull(key []byte, pull pullRow) {
	if !pull.Doubt && !pull.Conflict {
		c.delete(bucketPulls, key)
		return
	}
	pull.Since = cmp.Or(pull.Since, c.now)
	c.encode(bucketPulls, key, &pull)
}

// markConflict notes that the provider must be asked about a purchase, which may have another id by now.
func (c *command) markConflict(id entitlement.PurchaseID) {
	present, ok := c.purchaseOf(entitlement.Link(id))
	if !ok {
		return
	}
	key := envKey(c.Env, string(present))
	var pull pullRow
	c.decode(bucketPulls, key, &pull)
	pull.Conflict, pull.ConflictAt = true, c.now
	c.writePull(key, pull)
}

// resolveWaiting resolves anew the owner of every purchase that names one of the identities, after the API changed what that
// means. It returns the planned purchases but for those that are planned already (nil: none is); nothing is written yet.
func (c *command) resolveWaiting(names []string, planned func(entitlement.PurchaseID) bool) []*purchaseEdit {
	edits := c.resolveNamed(names, planned)
	if c.st.Rules < rulesLearned {
		return edits
	}
	// What means a customer by now decides about what they bought.
	var learned []string
	for _, e := range edits {
		if !e.shown {
			learned = append(learned, c.learn(e)...)
		}
		learned = append(learned, c.heard(e)...)
	}
	return append(edits, c.resolveNamed(learned, func(id entitlement.PurchaseID) bool {
		return planned != nil && planned(id) || slices.ContainsFunc(edits, func(e *purchaseEdit) bool { return e.id == id })
	})...)
}

func (c *command) resolveNamed(names []string, planned func(entitlement.PurchaseID) bool) []*purchaseEdit {
	var ids []entitlement.PurchaseID
	for _, name := range names {
		prefix := identityPrefix(c.Env, name)
		cursor := c.tx.Bucket(bucketIdentities).Cursor()
		for k, id := cursor.Seek(prefix); k != nil && bytes.HasPrefix(k, prefix); k, id = cursor.Next() {
			ids = append(ids, entitlement.PurchaseID(id))
		}
	}
	slices.Sort(ids)
	var edits []*purchaseEdit
	for _, id := range slices.Compact(ids) {
		if planned != nil && planned(id) {
			continue
		}
		edits = append(edits, c.planPurchase([]entitlement.PurchaseID{id}, nil))
	}
	return edits
}

// accountEdit is one account as it will be: what it has itself, which is its record unless it takes part in a merge.
type accountEdit struct {
	id     entitlement.AccountID
	acc    entitlement.Account
	before []byte // as it is in the file; nil for a new one
	value  []byte // encoded
	part   bool   // of a merge: see merge.go
}

// account returns the account for changing, or nil for one that does not exist.
func (c *command) account(id entitlement.AccountID) *accountEdit {
	if id == "" {
		return nil
	}
	for _, a := range c.accounts {
		if a.id == id {
			return a
		}
	}
	a := &accountEdit{id: id}
	if a.before = c.accountRecord(id); a.before != nil && !c.decodeAccount(a) {
		return nil
	}
	if a.before == nil || a.acc.Merged {
		if a.before, a.part = c.get(bucketParts, envKey(c.Env, string(id))), true; a.before == nil || !c.decodeAccount(a) {
			return nil
		}
	}
	c.accounts = append(c.accounts, a)
	return a
}

func (c *command) decodeAccount(a *accountEdit) bool {
	a.acc = entitlement.Account{}
	if err := entitlement.Decode(a.before, &a.acc); err != nil {
		c.fail(fmt.Errorf("account %s: %w: %w", a.id, replication.ErrCorrupt, err))
		return false
	}
	return true
}

// exists reports whether the account is there, or is being made by this command.
func (c *command) exists(id entitlement.AccountID) bool {
	if slices.ContainsFunc(c.accounts, func(a *accountEdit) bool { return a.id == id }) {
		return true
	}
	return c.accountRecord(id) != nil || c.get(bucketParts, envKey(c.Env, string(id))) != nil
}

// seenRecord is an account's record as it was before the command, nil for none.
type seenRecord struct {
	id    entitlement.AccountID
	value []byte
}

// accountRecord reads the record of an account that the command has not touched: whether it exists is asked just before it is changed.
func (c *command) accountRecord(id entitlement.AccountID) []byte {
	if c.seen.id != id {
		c.seen = seenRecord{id, c.record(c.Env, replication.KindAccount, string(id))}
	}
	return c.seen.value
}

func byPurchaseID(p entitlement.Purchase, id entitlement.PurchaseID) int {
	return cmp.Compare(p.ID, id)
}

func (a *accountEdit) removePurchase(id entitlement.PurchaseID) {
	if at, ok := slices.BinarySearchFunc(a.acc.Purchases, id, byPurchaseID); ok {
		a.acc.Purchases = slices.Delete(a.acc.Purchases, at, at+1)
	}
}

func (a *accountEdit) putPurchase(p entitlement.Purchase) {
	at, ok := slices.BinarySearchFunc(a.acc.Purchases, p.ID, byPurchaseID)
	if ok {
		a.acc.Purchases[at] = p
		return
	}
	a.acc.Purchases = slices.Insert(a.acc.Purchases, at, p)
}

// encodeAccounts encodes the touched accounts, and reports false if one is larger than a record may be.
func (c *command) encodeAccounts() bool {
	for _, a := range c.accounts {
		if a.value = entitlement.Encode(&a.acc); len(a.value) > replication.MaxRecordBytes {
			return false
		}
	}
	return c.uniteGroups()
}

// writeAccounts writes the accounts whose bytes differ, each as one change; those that were merged as one.
func (c *command) writeAccounts() {
	for _, a := range c.accounts {
		if a.part {
			c.replace(bucketParts, envKey(c.Env, string(a.id)), a.before, a.value)
		} else {
			c.writeOver(replication.Record{Env: c.Env, Kind: replication.KindAccount, Key: string(a.id), Value: a.value}, a.before)
		}
		a.before = a.value
	}
	c.writeGroups()
	c.seen = seenRecord{}
}
