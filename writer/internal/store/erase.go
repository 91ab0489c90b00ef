package store

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"slices"

	"github.com/latchkey/latchkey/pkg/entitlement"
	"github.com/latchkey/latchkey/replication"
)

// An account that is erased leaves a tombstone: its id, and hashes of the names by which providers know it. So a renewal that comes later has an owner, who is
// no more: it is shown to nobody, it is not unclaimed and alarms nobody. Purchases are the provider's statements about its own objects; they stay, and
// nothing about them changes, whether a message comes before or after the erasure. Whoever proves one gets it: to take it from an erased account takes it from nobody.

// EraseAccount deletes what is kept of a person: the account, and those that are merged with it.
type EraseAccount struct {
	Account     entitlement.AccountID `cbor:"1,keyasint"`
	Idempotency *Idempotency          `cbor:"2,keyasint,omitempty"`
}

// ExportAccount notes that somebody was given all that is kept of an account. It changes nothing: the audit trail is what it is for.
type ExportAccount struct {
	Account entitlement.AccountID `cbor:"1,keyasint"`
}

func (b *EraseAccount) idempotency() *Idempotency { return b.Idempotency }

// erasedNameKey is found by a name as evidence has it, and shows it to nobody.
func erasedNameKey(env entitlement.Environment, a entitlement.Alias) []byte {
	sum := sha256.Sum256([]byte(string(a.Kind) + "\x00" + a.Value))
	return append([]byte{envByte(env)}, sum[:]...)
}

// erased reports whether there was such an account, which was erased.
func (c *command) erased(id entitlement.AccountID) bool {
	return id != "" && c.get(bucketErased, envKey(c.Env, string(id))) != nil
}

// erasedAt returns when an account was erased, Unix seconds; 0: it was not.
func (c *command) erasedAt(id entitlement.AccountID) int64 {
	if at := c.get(bucketErased, envKey(c.Env, string(id))); id != "" && at != nil {
		return int64(binary.BigEndian.Uint64(at))
	}
	return 0
}

// forfeitedAt returns when the credits of a purchase went with an account that was erased, Unix seconds; 0: they did not. What was sold later was nobody's yet. The claim says
// so, and where it does not decide who has the purchase (claimed), the name by which they have it too: the API gave it to them when it was an erased account's before.
func (c *command) forfeitedAt(row *purchaseRow, identity *entitlement.Identity, claimed bool) (at int64) {
	if row.Claim != nil {
		at = row.Claim.ForfeitedAt
	}
	if claimed || c.st.Rules < rulesAccounts {
		return at
	}
	return max(at, c.forfeitedByName(row.Owner, identity))
}

// forfeitedByName is forfeitedAt for an owner by the names of the buyer. The one that decides counts: a purchase that names the account itself was never another's, whatever
// else its buyer is called.
func (c *command) forfeitedByName(owner entitlement.AccountID, identity *entitlement.Identity) int64 {
	if owner == "" || identity.Account != "" {
		return 0
	}
	for i, a := range identity.Aliases {
		by := a
		if c.ownerNamed(a) == "" {
			by = c.customer(a).by // its provider says another name of the same customer
		}
		if c.aliasOwner(by) != owner {
			continue
		}
		at := c.erasedAt(c.erasedNamed(by))
		if at != 0 && slices.ContainsFunc(identity.Aliases[:i], func(a entitlement.Alias) bool { return c.named(a) != "" }) {
			return 0
		}
		return at
	}
	return 0
}

// known reports whether there is such an account, or was: what names it is nobody else's.
func (c *command) known(id entitlement.AccountID) bool { return c.exists(id) || c.erased(id) }

// ownerNamed returns the account that the API gave a name to, be it erased since. Empty is none.
func (c *command) ownerNamed(a entitlement.Alias) entitlement.AccountID {
	if owner := c.aliasOwner(a); owner != "" {
		return owner
	}
	return c.erasedNamed(a)
}

// erasedNamed returns the erased account that had a name last. It stays so when the API gives the name to another.
func (c *command) erasedNamed(a entitlement.Alias) entitlement.AccountID {
	return entitlement.AccountID(c.get(bucketErasedNames, erasedNameKey(c.Env, c.hashedAlias(a))))
}

func (c *command) eraseAccount(body *EraseAccount) Result {
	if body.Account == "" || !c.exists(body.Account) {
		return rejected(SlugNotFound, "account")
	}
	members := c.mergedUnder(c.survivor(body.Account))
	whole := c.whole(members)
	result := Result{Account: members[0], Erased: members}
	for i := range whole.Purchases {
		if p := &whole.Purchases[i]; p.Renews(c.now) {
			result.Renewing = append(result.Renewing, p.ID)
		}
	}
	for _, id := range members {
		c.eraseRows(id)
	}
	c.erase(c.Env, replication.KindAccount, string(members[0]))
	for _, id := range members[1:] {
		c.erase(c.Env, replication.KindPointer, string(id))
	}
	c.accounts, c.groups, c.seen = nil, nil, seenRecord{}
	c.about = append(c.about, members...)
	return result
}

// eraseRows deletes what is kept of one account beside its record, and leaves the tombstone.
func (c *command) eraseRows(id entitlement.AccountID) {
	key := envKey(c.Env, string(id))
	var details accountRow
	c.decode(bucketAccounts, key, &details)
	for _, a := range append(details.Aliases, entitlement.Alias{Kind: entitlement.AppleAppAccountToken, Value: id.AppleAppAccountToken()}) {
		if c.aliasOwner(a) != id {
			continue
		}
		c.delete(bucketAliases, aliasKey(c.Env, a))
		if a.Kind == entitlement.OIDCSubject { // no provider ever says it
			c.erase(c.Env, replication.KindPointer, a.SubjectKey())
			continue
		}
		c.put(bucketErasedNames, erasedNameKey(c.Env, a), []byte(id))
	}
	c.delete(bucketAccounts, key)

	var contacts contactRow
	if c.decode(bucketContacts, key, &contacts) {
		if present := contacts.present(); present != nil {
			c.dropContactIndex(present.Index, id)
		}
		c.delete(bucketContacts, key)
	}
	c.forgetDismissed(id)
	c.forgetDevices(id)
	c.delete(bucketGrantsOwed, key)
	c.forgetAddresses(id)
	c.forgetAll(id)

	var edge mergeRow
	if c.decode(bucketMerges, key, &edge) {
		c.delete(bucketMergedIn, mergedInKey(c.Env, edge.Into, id))
		c.delete(bucketMerges, key)
	}
	c.delete(bucketParts, key)

	for _, spend := range c.keysUnder(bucketSpends, appendKeyText([]byte{envByte(c.Env)}, string(id))) {
		c.delete(bucketSpends, spend)
	}
	for _, lease := range c.keysUnder(bucketLeases, appendKeyText([]byte{envByte(c.Env)}, string(id))) {
		intent := string(c.get(bucketLeases, lease))
		var row intentRow
		if c.decode(bucketIntents, envKey(c.Env, intent), &row) {
			c.deleteLeases(c.Env, intent, &row)
		}
		c.delete(bucketIntents, envKey(c.Env, intent))
		c.delete(bucketLeases, lease)
	}
	c.put(bucketErased, key, binary.BigEndian.AppendUint64(nil, uint64(c.now)))
}

func (c *command) exportAccount(body *ExportAccount) Result {
	if body.Account == "" || !c.exists(body.Account) {
		return rejected(SlugNotFound, "account")
	}
	return Result{Account: body.Account}
}

// Erased reports whether there was such an account, which was erased.
func (r *Reader) Erased(env entitlement.Environment, id entitlement.AccountID) bool {
	return id != "" && r.get(bucketErased, envKey(env, string(id))) != nil
}

// KeptIntent is what an account was about to buy.
type KeptIntent struct {
	ID        string
	Provider  entitlement.Provider
	Product   entitlement.ProductID
	Device    string
	ExpiresAt int64 // Unix seconds
}

// Intents lists the intents of an account that are kept, ended ones too, sorted by id. Error: replication.ErrCorrupt.
func (r *Reader) Intents(env entitlement.Environment, id entitlement.AccountID) ([]KeptIntent, error) {
	var list []KeptIntent
	prefix := leaseKey(env, id, leaseIntent)
	cursor := r.bucket(bucketLeases).Cursor()
	for k, v := cursor.Seek(prefix); k != nil && bytes.HasPrefix(k, prefix); k, v = cursor.Next() {
		var row intentRow
		ok, err := r.decode(bucketIntents, envKey(env, string(v)), &row)
		if err != nil {
			return nil, err
		}
		if ok {
			list = append(list, KeptIntent{string(v), row.Provider, row.Product, row.Device, row.ExpiresAt})
		}
	}
	return list, nil
}

// Consumption is what an account consumed once.
type Consumption struct {
	Account entitlement.AccountID
	ID      string
	Credit  string
	Amount  int64
	Stamp   int64 // Unix seconds
}

// Consumptions lists what an account consumed, sorted by id, after the given one. Error: replication.ErrCorrupt.
func (r *Reader) Consumptions(env entitlement.Environment, id entitlement.AccountID, after string, limit int) ([]Consumption, error) {
	var list []Consumption
	prefix := appendKeyText([]byte{envByte(env)}, string(id))
	start := prefix
	if after != "" {
		start = append(spendKey(env, id, after), 0)
	}
	cursor := r.bucket(bucketSpends).Cursor()
	for k, v := cursor.Seek(start); k != nil && bytes.HasPrefix(k, prefix) && len(list) < limit; k, v = cursor.Next() {
		var row spendRow
		if err := entitlement.Decode(v, &row); err != nil {
			return nil, err
		}
		list = append(list, Consumption{Account: id, ID: string(k[len(prefix):]), Credit: row.Credit, Amount: row.Amount, Stamp: row.Stamp})
	}
	return list, nil
}
