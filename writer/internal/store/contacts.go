package store

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"slices"

	bolt "go.etcd.io/bbolt"

	"github.com/latchkey/latchkey/pkg/entitlement"
	"github.com/latchkey/latchkey/replication"
)

// An e-mail address is an attribute with history, not a name: two accounts may have the same one. That they do is a suggestion to merge them, which is
// never done for an address alone. Here are sealed addresses, which nobody can read without a key that no node of Raft holds in its files, and
// their indexes, by which equal ones are found.

const (
	// maxContacts is how many addresses an account's history has; with one more the oldest goes.
	maxContacts = 50
	// contactIndexBytes is the length of an index, an HMAC-SHA256.
	contactIndexBytes = 32
	// maxBuyers is how many addresses one purchase is known by: whoever pays changes theirs now and then.
	maxBuyers = 4
)

// PutContact gives an account another e-mail address, or none, and changes what PatchAccount does.
type PutContact struct {
	Account     entitlement.AccountID `cbor:"1,keyasint"`
	Index       []byte                `cbor:"3,keyasint,omitempty"` // of the address, 32 bytes; empty: none from now on. The command carries the address under it
	Changes     *AttributeChanges     `cbor:"4,keyasint,omitempty"`
	Tester      *bool                 `cbor:"5,keyasint,omitempty"`
	Idempotency *Idempotency          `cbor:"6,keyasint,omitempty"`
	Personal    []Sealed              `cbor:"-"`
}

func (b *PutContact) idempotency() *Idempotency { return b.Idempotency }

// contactRow is the history of an account's addresses, oldest first. The last one is the present one if it has not ended.
type contactRow struct {
	Contacts []Contact `cbor:"1,keyasint"`
}

// Contact is an address that an account has or had.
type Contact struct {
	Sealed []byte `cbor:"-"` // of the bucket personal
	Index  []byte `cbor:"2,keyasint"`
	Since  int64  `cbor:"3,keyasint"`           // Unix seconds
	Until  int64  `cbor:"4,keyasint,omitempty"` // Unix seconds; 0: the account has it
}

// present returns the address that the account has, or nil.
func (row *contactRow) present() *Contact {
	if n := len(row.Contacts); n > 0 && row.Contacts[n-1].Until == 0 {
		return &row.Contacts[n-1]
	}
	return nil
}

func contactPrefix(env entitlement.Environment, index []byte) []byte {
	return append([]byte{envByte(env)}, index...)
}

func contactKey(env entitlement.Environment, index []byte, id entitlement.AccountID) []byte {
	return append(contactPrefix(env, index), keyText(string(id))...)
}

func (c *command) putContact(body *PutContact) Result {
	if len(body.Index) != 0 && len(body.Index) != contactIndexBytes {
		return rejected(SlugInvalidRequest, "index of the address")
	}
	result := c.patchAccount(&PatchAccount{Account: body.Account, Changes: body.Changes, Tester: body.Tester})
	if result.Rejection != nil {
		return result
	}
	key := envKey(c.Env, string(body.Account))
	var row contactRow
	c.decode(bucketContacts, key, &row)
	had := row.present()
	if had == nil && len(body.Index) == 0 || had != nil && bytes.Equal(had.Index, body.Index) {
		return result
	}
	if had != nil {
		had.Until = c.now
		c.dropContactIndex(had.Index, body.Account)
	}
	if len(body.Index) > 0 {
		row.Contacts = append(row.Contacts, Contact{Index: body.Index, Since: c.now})
		c.addContactIndex(body.Index, body.Account)
		c.keep(body.Account, EmailText(body.Index))
	}
	past := max(0, len(row.Contacts)-maxContacts)
	for _, old := range row.Contacts[:past] {
		if !slices.ContainsFunc(row.Contacts[past:], func(kept Contact) bool { return bytes.Equal(kept.Index, old.Index) }) {
			c.forget(body.Account, EmailText(old.Index))
		}
	}
	row.Contacts = row.Contacts[past:]
	c.encode(bucketContacts, key, &row)
	return result
}

// addContactIndex notes that the account has the address. The second one that does opens a suggestion.
func (c *command) addContactIndex(index []byte, id entitlement.AccountID) {
	c.put(bucketContactIndex, contactKey(c.Env, index, id), []byte(id))
	c.suggest(index)
}

// dropContactIndex takes that back, and the suggestion where only one has the address now.
func (c *command) dropContactIndex(index []byte, id entitlement.AccountID) {
	c.delete(bucketContactIndex, contactKey(c.Env, index, id))
	c.suggest(index)
}

// suggest opens or closes the suggestion of an address: two accounts have it, or one and a payment that nobody owns.
func (c *command) suggest(index []byte) {
	owners := len(c.contactOwners(index, 2))
	open := owners > 1
	if owners == 1 {
		open = len(paidWith(c.tx, c.Env, index, 1)) > 0
	}
	key := contactPrefix(c.Env, index)
	switch is := c.get(bucketSuggestions, key) != nil; {
	case open && !is:
		c.put(bucketSuggestions, key, binary.BigEndian.AppendUint64(nil, uint64(c.now)))
	case !open && is:
		c.delete(bucketSuggestions, key)
	}
}

// knowBuyers adds the address in the command's message to those of the purchase that it is about. Whose owner is known needs none, nor does a test.
func (c *command) knowBuyers(row *purchaseRow) {
	if c.st.Rules < rulesAccounts {
		return
	}
	if slices.Contains(row.Evidence.Links, c.buyerOf) && len(c.buyer) == hex.EncodedLen(contactIndexBytes) {
		row.Buyers = append(row.Buyers, c.buyer)
	}
	slices.Sort(row.Buyers)
	row.Buyers = slices.Compact(row.Buyers)
	row.Buyers = row.Buyers[:min(len(row.Buyers), maxBuyers)] // the same ones in whatever order they came
	if row.Owner != "" || row.Evidence.IsSandbox() || len(row.Buyers) == 0 {
		row.Buyers = nil
	}
}

// suggestBuyers opens and closes the suggestions that a purchase, which is written, takes part in.
func (c *command) suggestBuyers(e *purchaseEdit) {
	indexes := slices.Clone(e.row.Buyers)
	for _, p := range e.before {
		indexes = append(indexes, p.row.Buyers...)
	}
	slices.Sort(indexes)
	for _, text := range slices.Compact(indexes) {
		index, err := hex.DecodeString(text)
		if err != nil || len(index) != contactIndexBytes {
			continue // no node of ours writes such a one
		}
		c.suggest(index)
	}
}

// contactOwners lists accounts that have an address, at most limit.
func (c *command) contactOwners(index []byte, limit int) []entitlement.AccountID {
	var owners []entitlement.AccountID
	prefix := contactPrefix(c.Env, index)
	cursor := c.cursor(bucketContactIndex)
	for k, id := cursor.Seek(prefix); k != nil && bytes.HasPrefix(k, prefix) && len(owners) < limit; k, id = cursor.Next() {
		owners = append(owners, entitlement.AccountID(id))
	}
	return owners
}

// Contacts returns the history of an account's addresses, oldest first. Error: replication.ErrCorrupt.
func (r *Reader) Contacts(env entitlement.Environment, id entitlement.AccountID) ([]Contact, error) {
	var row contactRow
	_, err := r.decode(bucketContacts, envKey(env, string(id)), &row)
	for i := range row.Contacts {
		row.Contacts[i].Sealed = bytes.Clone(r.PersonalText(env, id, EmailText(row.Contacts[i].Index)))
	}
	return row.Contacts, err
}

// Suggestion is an address that several accounts have, which are not merged, or an account and a payment that nobody owns.
type Suggestion struct {
	ID       []byte // another one once it is about others too
	Index    []byte
	Accounts []entitlement.AccountID // sorted; of accounts that are merged the survivor alone
	// Unclaimed are payments with the address that nobody owns, sorted.
	Unclaimed []entitlement.PurchaseID
	Since     int64 // since when there is more than one of them all, Unix seconds
}

// maxSuggested bounds the accounts of one suggestion: an address that stands for nobody, such as a shop's own, is given to many.
const maxSuggested = 100

// Suggestions lists what could be merged, sorted by index, after the given one. It returns the index up to which it looked, nil for all of them; what was merged
// since, or was dismissed, is passed over. Error: replication.ErrCorrupt.
func (r *Reader) Suggestions(env entitlement.Environment, after []byte, limit int) (list []Suggestion, upTo []byte, err error) {
	prefix := []byte{envByte(env)}
	start := prefix
	if len(after) > 0 {
		start = append(contactPrefix(env, after), 0)
	}
	cursor := r.bucket(bucketSuggestions).Cursor()
	looked := 0
	for k, row := cursor.Seek(start); k != nil && bytes.HasPrefix(k, prefix); k, row = cursor.Next() {
		if looked == limit {
			return list, upTo, nil
		}
		looked++
		if len(row) != 8 || len(k) != 1+contactIndexBytes {
			return nil, nil, fmt.Errorf("merge suggestion: %w", replication.ErrCorrupt)
		}
		upTo = bytes.Clone(k[1:])
		s := Suggestion{Index: upTo, Since: int64(binary.BigEndian.Uint64(row))}
		owners, err := r.addressOwners(env, k)
		if err != nil {
			return nil, nil, err
		}
		s.Unclaimed = paidWith(r.tx, env, s.Index, maxSuggested)
		if !r.undismissed(env, s.Index, owners, s.Unclaimed) {
			continue
		}
		s.ID = suggestionID(s.Index, owners, s.Unclaimed)
		for _, o := range owners {
			s.Accounts = append(s.Accounts, o.survivor)
		}
		slices.Sort(s.Accounts)
		s.Accounts = slices.Compact(s.Accounts)
		list = append(list, s)
	}
	return list, nil, nil
}

// addressOwners lists the accounts that have an address, sorted by id, at most maxSuggested. Error: replication.ErrCorrupt.
func (r *Reader) addressOwners(env entitlement.Environment, prefix []byte) (owners []addressOwner, err error) {
	prefix = bytes.Clone(prefix)
	cursor := r.bucket(bucketContactIndex).Cursor()
	for k, id := cursor.Seek(prefix); k != nil && bytes.HasPrefix(k, prefix) && len(owners) < maxSuggested; k, id = cursor.Next() {
		owner := addressOwner{id: entitlement.AccountID(id), survivor: entitlement.AccountID(id)}
		for {
			var row mergeRow
			merged, err := r.decode(bucketMerges, envKey(env, string(owner.survivor)), &row)
			if err != nil {
				return nil, err
			}
			if !merged {
				break
			}
			owner.survivor = row.Into
		}
		owners = append(owners, owner)
	}
	return owners, nil
}

// paidWith lists the payments with an address that wait for their account, at most limit.
func paidWith(tx *bolt.Tx, env entitlement.Environment, index []byte, limit int) (list []entitlement.PurchaseID) {
	prefix := identityPrefix(env, buyerIdentity(hex.EncodeToString(index)))
	cursor, waiting := tx.Bucket(bucketIdentities).Cursor(), tx.Bucket(bucketUnclaimed)
	for k, id := cursor.Seek(prefix); k != nil && bytes.HasPrefix(k, prefix) && len(list) < limit; k, id = cursor.Next() {
		if waiting.Get(envKey(env, string(id))) != nil {
			list = append(list, entitlement.PurchaseID(id))
		}
	}
	return list
}
