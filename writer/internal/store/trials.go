package store

import (
	"bytes"
	"slices"

	"github.com/latchkey/latchkey/pkg/entitlement"
)

// One trial a person (requirement A10.6): a store knows who buys by a name of its own, whatever account the app has for them. The bucket persons says of
// each such name which purchases were bought under it and which of them had a trial. An account is locked while one of its purchases was bought
// by somebody who had a trial; that is a function of the purchases alone, never of the order in which they became known.

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
	var persons []string
	if e.shown {
		persons = e.row.Evidence.Persons()
	}
	for _, p := range e.before {
		for _, person := range p.row.Evidence.Persons() {
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
	persons := e.row.Evidence.Persons()
	for _, p := range e.before {
		persons = append(persons, p.row.Evidence.Persons()...)
	}
	slices.Sort(persons)
	return slices.Compact(persons)
}

// lockTrials says anew, of every account that has a purchase of the persons whose purchases change, whether a trial of theirs is used up.
func (c *command) lockTrials(edits []*purchaseEdit) {
	if c.st.Rules < rulesAccounts || !slices.ContainsFunc(edits, func(e *purchaseEdit) bool { return len(e.personsOf()) > 0 }) {
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
	var owners []entitlement.AccountID
	for _, e := range edits {
		persons := e.personsOf()
		if !e.shown || len(persons) == 0 || c.sameTrial(e, persons) {
			continue
		}
		owners = append(owners, e.row.Owner)
		for _, p := range e.before {
			owners = append(owners, p.row.Owner)
		}
		for _, person := range persons {
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
			a.acc.TrialLocked = c.trialLocked(&a.acc, planned)
		}
	}
}

// sameTrial reports whether nothing has changed that decides about anybody's trial, as is so for every renewal.
func (c *command) sameTrial(e *purchaseEdit, persons []string) bool {
	if len(e.before) != 1 || e.before[0].id != e.id || e.before[0].row.Owner != e.row.Owner {
		return false
	}
	if !slices.Equal(e.row.Evidence.Persons(), e.before[0].row.Evidence.Persons()) {
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
		if e != nil && e.shown && slices.Contains(e.row.Evidence.Persons(), person) {
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

// trialLocked reports whether somebody who bought one of the account's own purchases had a trial with any.
func (c *command) trialLocked(a *entitlement.Account, planned map[entitlement.PurchaseID]*purchaseEdit) bool {
	locked := false
	for i := range a.Purchases {
		row, ok := c.plannedRow(a.Purchases[i].ID, planned)
		if !ok || row.Owner != a.ID {
			continue
		}
		for _, person := range row.Evidence.Persons() {
			c.boughtBy(person, planned, func(_ entitlement.PurchaseID, trial bool) { locked = locked || trial })
		}
	}
	return locked
}

// knownForTrial reports whether one of the names that the account has by the API is that of a person who had a trial.
func (c *command) knownForTrial(aliases []entitlement.Alias) bool {
	known := false
	for _, a := range aliases {
		c.boughtBy(string(a.Kind)+":"+a.Value, nil, func(_ entitlement.PurchaseID, trial bool) { known = known || trial })
	}
	return known
}

// TrialsOfBuyer lists the other purchases with a trial that were bought by whoever bought this one, by what stores say of them, sorted. Error:
// replication.ErrCorrupt.
func (r *Reader) TrialsOfBuyer(env entitlement.Environment, id entitlement.PurchaseID) ([]entitlement.PurchaseID, error) {
	p, found, err := r.Purchase(env, id)
	if err != nil || !found {
		return nil, err
	}
	var trials []entitlement.PurchaseID
	for _, person := range p.Evidence.Persons() {
		prefix := personPrefix(env, person)
		cursor := r.tx.Bucket(bucketPersons).Cursor()
		for k, flag := cursor.Seek(prefix); k != nil && bytes.HasPrefix(k, prefix); k, flag = cursor.Next() {
			if other := entitlement.PurchaseID(k[len(prefix):]); other != p.ID && len(flag) == 1 && flag[0] == 1 {
				trials = append(trials, other)
			}
		}
	}
	slices.Sort(trials)
	return slices.Compact(trials), nil
}
