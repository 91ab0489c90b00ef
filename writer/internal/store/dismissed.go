package store

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"slices"

	"github.com/latchkey/latchkey/pkg/entitlement"
)

// Two people may have one address: a family's, or that of a shop's counter. Support says so by dismissing the suggestion, and what had the address then is not suggested
// for it again. A row says it of one pair, under the account that it goes with: whoever gets the address later is a pair with each of them that nobody has judged.

// DismissSuggestion says that those who have an address, as a suggestion listed them, are not one person.
type DismissSuggestion struct {
	ID          []byte       `cbor:"1,keyasint"`
	Idempotency *Idempotency `cbor:"2,keyasint,omitempty"`
}

func (b *DismissSuggestion) idempotency() *Idempotency { return b.Idempotency }

// SuggestionIDBytes is the length of a suggestion's id.
const SuggestionIDBytes = contactIndexBytes + suggestionVersionBytes

// suggestionVersionBytes is how much of a hash tells the states of one suggestion apart.
const suggestionVersionBytes = 8

// addressOwner is an account that has an address, and the one that answers for it.
type addressOwner struct {
	id, survivor entitlement.AccountID
}

// suggestionID is the index of the address and a hash of whom the suggestion is about: who dismisses it dismisses what was shown.
func suggestionID(index []byte, owners []addressOwner, paid []entitlement.PurchaseID) []byte {
	var text []byte
	text = binary.BigEndian.AppendUint32(text, uint32(len(owners)))
	for _, o := range owners {
		text = appendKeyText(appendKeyText(text, string(o.id)), string(o.survivor))
	}
	for _, p := range paid {
		text = appendKeyText(text, string(p))
	}
	sum := sha256.Sum256(text)
	return slices.Concat(index, sum[:suggestionVersionBytes])
}

func dismissedPrefix(env entitlement.Environment, id entitlement.AccountID, index []byte) []byte {
	return append(appendKeyText([]byte{envByte(env)}, string(id)), index...)
}

func dismissedKey(env entitlement.Environment, id entitlement.AccountID, index []byte, other string) []byte {
	return append(dismissedPrefix(env, id, index), keyText(other)...)
}

func (c *command) dismissSuggestion(body *DismissSuggestion) Result {
	if len(body.ID) != SuggestionIDBytes {
		return rejected(SlugInvalidRequest, "id of the suggestion")
	}
	index := body.ID[:contactIndexBytes]
	var owners []addressOwner
	for _, id := range c.contactOwners(index, maxSuggested) {
		owners = append(owners, addressOwner{id, c.survivor(id)})
	}
	paid := paidWith(c.tx, c.Env, index, maxSuggested)
	if c.get(bucketSuggestions, contactPrefix(c.Env, index)) == nil || !bytes.Equal(body.ID, suggestionID(index, owners, paid)) {
		return rejected(SlugNotFound, "suggestion")
	}
	for i, one := range owners {
		for _, other := range owners[i+1:] {
			c.put(bucketDismissed, dismissedKey(c.Env, one.id, index, string(other.id)), []byte(other.id))
			c.put(bucketDismissed, dismissedKey(c.Env, other.id, index, string(one.id)), []byte(one.id))
		}
		for _, p := range paid {
			c.put(bucketDismissed, dismissedKey(c.Env, one.id, index, string(p)), []byte(p))
		}
		c.about = append(c.about, one.id)
	}
	return Result{}
}

// forgetDismissed deletes all that was said so of an account.
func (c *command) forgetDismissed(id entitlement.AccountID) {
	prefix := appendKeyText([]byte{envByte(c.Env)}, string(id))
	for _, key := range c.keysUnder(bucketDismissed, prefix) {
		index := key[len(prefix) : len(prefix)+contactIndexBytes]
		other := entitlement.AccountID(c.get(bucketDismissed, key))
		c.delete(bucketDismissed, dismissedKey(c.Env, other, index, string(id))) // none where it is a purchase
		c.delete(bucketDismissed, key)
	}
}

// dismissedWith lists what is not suggested with an account for an address, purchases by their present ids.
func (r *Reader) dismissedWith(env entitlement.Environment, id entitlement.AccountID, index []byte) (others []string) {
	prefix := dismissedPrefix(env, id, index)
	cursor, links := r.bucket(bucketDismissed).Cursor(), r.bucket(bucketLinks)
	for k, other := cursor.Seek(prefix); k != nil && bytes.HasPrefix(k, prefix); k, other = cursor.Next() {
		if present := links.Get(envKey(env, string(other))); present != nil {
			other = present
		}
		others = append(others, string(other))
	}
	return others
}

// undismissed reports whether there are two to be judged: accounts that are not one, or an account and a payment.
func (r *Reader) undismissed(env entitlement.Environment, index []byte, owners []addressOwner, paid []entitlement.PurchaseID) bool {
	for i, one := range owners {
		not := r.dismissedWith(env, one.id, index)
		if slices.ContainsFunc(owners[i+1:], func(other addressOwner) bool {
			return other.survivor != one.survivor && !slices.Contains(not, string(other.id))
		}) || slices.ContainsFunc(paid, func(p entitlement.PurchaseID) bool { return !slices.Contains(not, string(p)) }) {
			return true
		}
	}
	return false
}
