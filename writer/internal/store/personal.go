package store

import (
	"bytes"
	"encoding/hex"
	"slices"
	"strings"

	"github.com/latchkey/latchkey/pkg/entitlement"
)

// What people are called and what is said of them is in the bucket personal alone: texts that the receiving node has sealed, each under a name that says what
// it is and nothing of whom. A command carries them beside its body, and the journal, which is for ever, never has them. So nothing that is hashed may
// depend on them: a state that was made from the journal agrees with the others and has none. Deleting the row is therefore the end of the text, but for
// snapshots and logs until they are trimmed, and for backups.

// RulesPersonal is the version of the rules since which personal texts are sealed. Before, attributes and reasons are part of the commands.
const RulesPersonal = rulesAccounts

// Sealed is a sealed text, which one of the names below says what it is.
type Sealed struct {
	Name string `cbor:"1,keyasint"`
	Text []byte `cbor:"2,keyasint"`
}

// AttributeText is the name of an attribute's text. key stands for the attribute's own name, which is personal as well.
func AttributeText(key string) string { return "attribute:" + key }

// ReasonText is the name of why a grant was given.
func ReasonText(grant string) string { return "reason:" + grant }

// EmailText is the name of an e-mail address, by its index.
func EmailText(index []byte) string { return "email:" + hex.EncodeToString(index) }

// DeviceText is the name of a device's push token, by the device's index.
func DeviceText(index []byte) string { return "device:" + hex.EncodeToString(index) }

// LinkText is the name of the address to which a link was mailed, by the hash of its token.
func LinkText(hash []byte) string { return "link:" + hex.EncodeToString(hash) }

// AliasText is the name of what a hashed alias stands for.
func AliasText(hashed entitlement.Alias) string {
	return "alias:" + string(hashed.Kind) + ":" + hashed.Value
}

// AttributeChanges says which of an account's attributes are others from now on, by their keys.
type AttributeChanges struct {
	Set  []string `cbor:"1,keyasint,omitempty"` // whose texts the command carries
	Gone []string `cbor:"2,keyasint,omitempty"`
	// Clear are those among them that are kept as older rules did, by their own names: they are no more.
	Clear []string `cbor:"3,keyasint,omitempty"`
}

// maxAttributeKey bounds an attribute's key, a part of an HMAC in hex.
const maxAttributeKey = 64

func (ch *AttributeChanges) valid() bool {
	if ch == nil {
		return true
	}
	for _, key := range slices.Concat(ch.Set, ch.Gone) {
		if key == "" || len(key) > maxAttributeKey {
			return false
		}
	}
	return true
}

// change makes the keys of an account's attributes what they are to be.
func (row *accountRow) change(ch *AttributeChanges) {
	if ch == nil {
		return
	}
	for _, name := range ch.Clear {
		delete(row.Attributes, name)
	}
	row.Sealed = slices.DeleteFunc(append(slices.Clone(row.Sealed), ch.Set...), func(key string) bool { return slices.Contains(ch.Gone, key) })
	slices.Sort(row.Sealed)
	row.Sealed = slices.Compact(row.Sealed)
}

// keepAttributes writes the texts that a change names.
func (c *command) keepAttributes(id entitlement.AccountID, ch *AttributeChanges) {
	if ch == nil {
		return
	}
	for _, key := range ch.Set {
		c.keep(id, AttributeText(key))
	}
	for _, key := range ch.Gone {
		c.forget(id, AttributeText(key))
	}
}

func (b CreateAccount) carried() []Sealed { return b.Personal }
func (b AddAlias) carried() []Sealed      { return b.Personal }
func (b PatchAccount) carried() []Sealed  { return b.Personal }
func (b PutGrant) carried() []Sealed      { return b.Personal }
func (b Login) carried() []Sealed         { return b.Personal }
func (b PutLink) carried() []Sealed       { return b.Personal }
func (b PutContact) carried() []Sealed    { return b.Personal }

func personalPrefix(env entitlement.Environment, id entitlement.AccountID) []byte {
	return appendKeyText([]byte{envByte(env)}, string(id))
}

func personalKey(env entitlement.Environment, id entitlement.AccountID, name string) []byte {
	return append(personalPrefix(env, id), name...)
}

// keep writes a text that the command carries, for an account. One that it does not carry, as in a replay, changes nothing.
func (c *command) keep(id entitlement.AccountID, name string) {
	if c.personal == nil && len(c.Personal) > 0 {
		if err := entitlement.Decode(c.Personal, &c.personal); err != nil {
			c.fail(err)
		}
	}
	at := slices.IndexFunc(c.personal, func(s Sealed) bool { return s.Name == name })
	if at < 0 || c.err != nil {
		return
	}
	if err := c.tx.Bucket(bucketPersonal).Put(personalKey(c.Env, id, name), c.personal[at].Text); err != nil {
		c.fail(err)
	}
}

// forget deletes a text of an account, if it is there.
func (c *command) forget(id entitlement.AccountID, name string) { c.forgetIn(c.Env, id, name) }

func (c *command) forgetIn(env entitlement.Environment, id entitlement.AccountID, name string) {
	if c.err != nil {
		return
	}
	if err := c.tx.Bucket(bucketPersonal).Delete(personalKey(env, id, name)); err != nil {
		c.fail(err)
	}
}

// copyText writes a text, if it is there, under another name too.
func (c *command) copyText(id entitlement.AccountID, from, to string) {
	bucket := c.tx.Bucket(bucketPersonal)
	if text := bucket.Get(personalKey(c.Env, id, from)); text != nil && c.err == nil {
		if err := bucket.Put(personalKey(c.Env, id, to), bytes.Clone(text)); err != nil {
			c.fail(err)
		}
	}
}

// forgetAll deletes all texts of an account.
func (c *command) forgetAll(id entitlement.AccountID) {
	for _, key := range c.keysUnder(bucketPersonal, personalPrefix(c.Env, id)) {
		if err := c.tx.Bucket(bucketPersonal).Delete(key); err != nil {
			c.fail(err)
		}
	}
}

// keysUnder lists the keys of a bucket that begin with prefix.
func (c *command) keysUnder(bucket, prefix []byte) (keys [][]byte) {
	cursor := c.tx.Bucket(bucket).Cursor()
	for k, _ := cursor.Seek(prefix); k != nil && bytes.HasPrefix(k, prefix); k, _ = cursor.Next() {
		keys = append(keys, bytes.Clone(k))
	}
	return keys
}

// hashedAlias returns an alias as the rules keep it. What was hashed before it was proposed stays as it is.
func hashedAlias(rules uint32, a entitlement.Alias) entitlement.Alias {
	if rules < RulesPersonal || a.IsHashed() {
		return a
	}
	return a.Hashed()
}

func (c *command) hashedAlias(a entitlement.Alias) entitlement.Alias {
	return hashedAlias(c.st.Rules, a)
}

// hashedAliases returns aliases as the rules keep them.
func (c *command) hashedAliases(list []entitlement.Alias) []entitlement.Alias {
	kept := make([]entitlement.Alias, 0, len(list))
	for _, a := range list {
		kept = append(kept, c.hashedAlias(a))
	}
	return kept
}

// aliasOwner returns the account that the API gave a name to, empty for none.
func (c *command) aliasOwner(a entitlement.Alias) entitlement.AccountID {
	return entitlement.AccountID(c.get(bucketAliases, aliasKey(c.Env, c.hashedAlias(a))))
}

// hashNames hashes the personal aliases that were kept as they are before the rules hashed them. It is done once in the life of a cluster.
func (c *command) hashNames() {
	for _, env := range entitlement.Environments {
		c.Env = env
		c.hashAliasesOf(env)
		c.hashIdentitiesOf(env)
	}
	c.Env = ""
}

func (c *command) hashAliasesOf(env entitlement.Environment) {
	// Of a long alias the key is a hash: its account says what it is.
	owners := map[entitlement.AccountID]bool{}
	var order []entitlement.AccountID
	for _, prefix := range []string{string(entitlement.OIDCSubject) + "\x00", string(entitlement.Custom) + "\x00", keyHashPrefix} {
		for _, key := range c.keysUnder(bucketAliases, append([]byte{envByte(env)}, prefix...)) {
			id := entitlement.AccountID(c.get(bucketAliases, key))
			if !owners[id] {
				owners[id], order = true, append(order, id)
			}
		}
	}
	for _, id := range order {
		key := envKey(env, string(id))
		var row accountRow
		if !c.decode(bucketAccounts, key, &row) {
			continue
		}
		for i, a := range row.Aliases {
			hashed := a.Hashed()
			if hashed == a {
				continue
			}
			c.delete(bucketAliases, aliasKey(env, a))
			c.put(bucketAliases, aliasKey(env, hashed), []byte(id))
			if row.Names == nil {
				row.Names = map[string]string{}
			}
			row.Names[AliasText(hashed)] = a.Value
			row.Aliases[i] = hashed
			c.pointTo(hashed, id)
		}
		slices.SortFunc(row.Aliases, compareAliases)
		c.encode(bucketAccounts, key, &row)
	}
}

// hashIdentitiesOf hashes the names under which purchases wait to hear of their owner.
func (c *command) hashIdentitiesOf(env entitlement.Environment) {
	var purchases []entitlement.PurchaseID
	cursor := c.tx.Bucket(bucketIdentities).Cursor()
	prefix, part := []byte{envByte(env)}, []byte(aliasIdentity(entitlement.Alias{Kind: entitlement.Custom}))
	for k, id := cursor.Seek(prefix); k != nil && bytes.HasPrefix(k, prefix); k, id = cursor.Next() {
		if len(k) > 3 && (bytes.HasPrefix(k[3:], part) || strings.HasPrefix(string(k[3:]), keyHashPrefix)) {
			purchases = append(purchases, entitlement.PurchaseID(id))
		}
	}
	slices.Sort(purchases)
	for _, id := range slices.Compact(purchases) {
		p, ok := c.loadPurchase(id)
		if !ok {
			continue
		}
		for _, name := range p.row.waitsUnder(RulesPersonal - 1) {
			c.delete(bucketIdentities, identityKey(c.Env, name, id))
		}
		for _, name := range p.row.waitsUnder(RulesPersonal) {
			c.put(bucketIdentities, identityKey(c.Env, name, id), []byte(id))
		}
	}
}

// Personal returns the sealed texts of an account, sorted by name. They are valid inside View.
func (r *Reader) Personal(env entitlement.Environment, id entitlement.AccountID) []Sealed {
	var texts []Sealed
	prefix := personalPrefix(env, id)
	cursor := r.bucket(bucketPersonal).Cursor()
	for k, v := cursor.Seek(prefix); k != nil && bytes.HasPrefix(k, prefix); k, v = cursor.Next() {
		texts = append(texts, Sealed{Name: string(k[len(prefix):]), Text: v})
	}
	return texts
}

// PersonalText returns one sealed text of an account, nil for none. It is valid inside View.
func (r *Reader) PersonalText(env entitlement.Environment, id entitlement.AccountID, name string) []byte {
	return r.get(bucketPersonal, personalKey(env, id, name))
}

// ClearAttributes returns the names of an account's attributes that are kept as rules before RulesPersonal did. Error: replication.ErrCorrupt.
func (r *Reader) ClearAttributes(env entitlement.Environment, id entitlement.AccountID) ([]string, error) {
	var row accountRow
	_, err := r.decode(bucketAccounts, envKey(env, string(id)), &row)
	var names []string
	for name := range row.Attributes {
		names = append(names, name)
	}
	slices.Sort(names)
	return names, err
}
