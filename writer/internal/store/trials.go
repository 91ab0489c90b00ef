package store

import (
	"bytes"
	"slices"
	"strings"

	"github.com/latchkey/latchkey/pkg/entitlement"
)

// One trial a person (requirement A10.6): a store knows who buys by a name of its own, whatever account the app has for them. The bucket persons says of
// each such name which purchases were bought under it and which of them had a trial. An account is locked while one of its purchases was bought
// by somebody who had a trial, or the API gave it the name of one; that is a function of the purchases and names alone, never of the order in which they became known.

func personPrefix(env entitlement.Environment, person string) []byte {
	return appendKeyText([]byte{envByte(env)}, person)
}

func personKey(env entitlement.Environment, person string, id entitlement.PurchaseID) []byte {
	return append(personPrefix(env, person), keyText(string(id))...)
}

func trialFlag(used bool) []byte {
	if used {
		return []byte{1}
	}
	return []byte{0}
}

// writePersons notes by whom the purchase was bought and whether they had a trial.
func (c *command) writePersons(e *purchaseEdit) {
	if c.st.Rules < rulesAccounts {
		return
	}
	persons := e.persons
	if !e.shown {
		persons = nil
	}
	for i, p := range e.before {
		for _, person := range e.had[i] {
			if p.id != e.id || !slices.Contains(persons, person) { // a newer word may name another buyer
				c.delete(bucketPersons, personKey(c.Env, person, p.id))
			}
		}
	}
	for _, person := range persons {
		c.put(bucketPersons, personKey(c.Env, person, e.id), trialFlag(e.trial))
	}
}

// personsOf lists by whom the purchase is bought, and those who did by what was known before, sorted.
func (e *purchaseEdit) personsOf() []string {
	persons := slices.Clone(e.persons)
	for _, had := range e.had {
		persons = append(persons, had...)
	}
	slices.Sort(persons)
	return slices.Compact(persons)
}

// lockTrials says anew, of every account that has a purchase of the persons whose purchases change, whether a trial of theirs is used up.
func (c *command) lockTrials(edits []*purchaseEdit) {
	if c.st.Rules < rulesAccounts || c.nameGiven == "" && !slices.ContainsFunc(edits, func(e *purchaseEdit) bool { return len(e.personsOf()) > 0 }) {
		return
	}
	planned := map[entitlement.PurchaseID]*purchaseEdit{} // nil for one that became part of another
	for _, e := range edits {
		for _, p := range e.before {
			planned[p.id] = nil
		}
	}
	for _, e := range edits {
		planned[e.id] = e
	}
	policy := c.policyOf(c.Env)
	var owners []entitlement.AccountID
	if c.nameGiven != "" {
		owners = append(owners, c.nameGiven)
	}
	for _, e := range edits {
		if c.relock != nil && !c.relock[e.row.Owner] { // as every purchase is planned anew, each owner has their turn
			c.relock[e.row.Owner] = true
			owners = append(owners, e.row.Owner)
		}
		persons := e.personsOf()
		if !e.shown || len(persons) == 0 || c.sameTrial(e, persons) {
			continue
		}
		owners = append(owners, e.row.Owner)
		for _, p := range e.before {
			owners = append(owners, p.row.Owner)
		}
		for _, person := range persons {
			if !counts(&policy, person) {
				continue
			}
			owners = append(owners, c.calledLike(person))
			c.boughtBy(person, planned, func(id entitlement.PurchaseID, _ bool) {
				if row, ok := c.plannedRow(id, planned); ok {
					owners = append(owners, row.Owner)
				}
			})
		}
	}
	slices.Sort(owners)
	for _, id := range slices.Compact(owners) {
		if a := c.account(id); a != nil {
			a.acc.TrialLocked = c.trialLocked(&a.acc, planned, &policy)
		}
	}
}

// indexPersons notes by whom purchases were bought that were told of before rulesAccounts, and locks the trials that those have used up. How a store itself calls a person
// was not kept then: that comes with its next message.
func (c *command) indexPersons(ids []entitlement.PurchaseID) {
	policy := c.policyOf(c.Env)
	var owners []entitlement.AccountID
	for _, id := range ids {
		p, ok := c.loadPurchase(id)
		if !ok {
			return
		}
		persons := p.row.Evidence.Persons()
		if len(persons) == 0 || !p.row.Evidence.IsPurchase() {
			continue
		}
		folded := entitlement.Fold(p.row.Evidence, policy)
		for _, person := range persons {
			c.put(bucketPersons, personKey(c.Env, person, id), trialFlag(folded.TrialUsed))
			owners = append(owners, c.calledLike(person))
		}
		owners = append(owners, p.row.Owner)
	}
	slices.Sort(owners)
	for _, id := range slices.Compact(owners) {
		c.accounts = nil
		if a := c.account(id); a != nil && c.trialLocked(&a.acc, nil, &policy) {
			a.acc.TrialLocked = true
			c.commit(nil) // one that no longer fits keeps what it had
		}
	}
	c.accounts = nil
}

// sameTrial reports whether nothing has changed that decides about anybody's trial, as is so for every renewal.
func (c *command) sameTrial(e *purchaseEdit, persons []string) bool {
	if len(e.before) != 1 || e.before[0].id != e.id || e.before[0].row.Owner != e.row.Owner {
		return false
	}
	if !slices.Equal(e.persons, e.had[0]) {
		return false
	}
	return !slices.ContainsFunc(persons, func(person string) bool {
		return !bytes.Equal(c.get(bucketPersons, personKey(c.Env, person, e.id)), trialFlag(e.trial))
	})
}

// boughtBy calls fn with every purchase of a person, as it will be.
func (c *command) boughtBy(person string, planned map[entitlement.PurchaseID]*purchaseEdit, fn func(id entitlement.PurchaseID, trial bool)) {
	prefix := personPrefix(c.Env, person)
	cursor := c.tx.Bucket(bucketPersons).Cursor()
	for k, flag := cursor.Seek(prefix); k != nil && bytes.HasPrefix(k, prefix); k, flag = cursor.Next() {
		id := entitlement.PurchaseID(k[len(prefix):])
		if _, changes := planned[id]; !changes {
			fn(id, len(flag) == 1 && flag[0] == 1)
		}
	}
	for _, e := range planned {
		if e != nil && e.shown && slices.Contains(e.persons, person) {
			fn(e.id, e.trial)
		}
	}
}

func (c *command) plannedRow(id entitlement.PurchaseID, planned map[entitlement.PurchaseID]*purchaseEdit) (*purchaseRow, bool) {
	if e := planned[id]; e != nil {
		return &e.row, true
	}
	p, ok := c.loadPurchase(id)
	return &p.row, ok
}

// calledLike returns the account that the API gave a person's name to. Empty is none.
func (c *command) calledLike(person string) entitlement.AccountID {
	kind, value, _ := strings.Cut(person, ":")
	return c.aliasOwner(entitlement.Alias{Kind: entitlement.AliasKind(kind), Value: value})
}

// aliasesOf lists the names that the API gave to an account, with those that it gets by the command.
func (c *command) aliasesOf(id entitlement.AccountID) []entitlement.Alias {
	if id == c.nameGiven {
		return c.namesByThen
	}
	var details accountRow
	c.decode(bucketAccounts, envKey(c.Env, string(id)), &details)
	return details.Aliases
}

// trialLocked reports whether somebody who bought one of the account's own purchases had a trial with any, or somebody whose name the account has. A test purchase
// locks nobody: whether the account has it hangs on who is a tester.
func (c *command) trialLocked(a *entitlement.Account, planned map[entitlement.PurchaseID]*purchaseEdit, policy *entitlement.Policy) bool {
	for i := range a.Purchases {
		row, ok := c.plannedRow(a.Purchases[i].ID, planned)
		if !ok || row.Owner != a.ID || a.Purchases[i].Sandbox {
			continue
		}
		is := row.Evidence.Identity()
		if c.hadTrial(c.persons(&row.Evidence, &is, true), planned, policy) {
			return true
		}
	}
	return c.hadTrial(personsCalled(c.aliasesOf(a.ID)), planned, policy)
}

// personsCalled lists the persons whose names the aliases are.
func personsCalled(aliases []entitlement.Alias) []string {
	var persons []string
	for _, a := range aliases {
		if person := a.Person(); person != "" {
			persons = append(persons, person)
		}
	}
	return persons
}

// hadTrial reports whether a person who is known by one of the names had a trial, as far as the name counts.
func (c *command) hadTrial(persons []string, planned map[entitlement.PurchaseID]*purchaseEdit, policy *entitlement.Policy) bool {
	had := false
	for _, person := range persons {
		if counts(policy, person) {
			c.boughtBy(person, planned, func(_ entitlement.PurchaseID, trial bool) { had = had || trial })
		}
	}
	return had
}

// knownForTrial reports whether one of the names that the account has by the API is that of a person who had a trial.
func (c *command) knownForTrial(aliases []entitlement.Alias) bool {
	policy := c.policyOf(c.Env)
	return c.hadTrial(withCards(personsCalled(aliases), &entitlement.Identity{Aliases: aliases}, c.cardsKnown), nil, &policy)
}

// TrialsOfBuyer lists the other purchases with a trial that were bought by whoever bought this one, by what stores say of them and, where the policy says so, by their
// cards, sorted. Error: replication.ErrCorrupt.
func (r *Reader) TrialsOfBuyer(env entitlement.Environment, id entitlement.PurchaseID) ([]entitlement.PurchaseID, error) {
	p, found, err := r.Purchase(env, id)
	if err != nil || !found {
		return nil, err
	}
	persons, err := r.persons(env, &p.Evidence)
	if err != nil {
		return nil, err
	}
	var trials []entitlement.PurchaseID
	for _, person := range persons {
		prefix := personPrefix(env, person)
		cursor := r.bucket(bucketPersons).Cursor()
		for k, flag := cursor.Seek(prefix); k != nil && bytes.HasPrefix(k, prefix); k, flag = cursor.Next() {
			if other := entitlement.PurchaseID(k[len(prefix):]); other != p.ID && len(flag) == 1 && flag[0] == 1 {
				trials = append(trials, other)
			}
		}
	}
	slices.Sort(trials)
	return slices.Compact(trials), nil
}
