package store

import (
	"bytes"
	"encoding/binary"
	"slices"

	"github.com/latchkey/latchkey/pkg/entitlement"
)

// A link token leads whoever has it to an account, or to a purchase that nobody has: a person shows with it that an address is theirs. Only its hash is
// here, and it is redeemed once.

const (
	// maxLinkSeconds is how long a link may live.
	maxLinkSeconds = 366 * 24 * 3600
	// keptLinkSeconds is how long a link's row stays after its end, so that one who comes late is told what became of it.
	keptLinkSeconds = 30 * 24 * 3600
	linkHashBytes   = 32

	// RelinkSeconds is the least time between two links that are mailed because the same one came too late, and maxRelinks how many that are at most: whoever
	// finds an old link must not fill its owner's mailbox.
	RelinkSeconds = 300
	maxRelinks    = 5
)

// PutLink makes a link to an account or to a purchase without one; one of the two is given.
type PutLink struct {
	Hash        []byte                 `cbor:"1,keyasint"` // SHA-256 of the token
	Account     entitlement.AccountID  `cbor:"2,keyasint,omitempty"`
	Purchase    entitlement.PurchaseID `cbor:"3,keyasint,omitempty"` // any id that it ever had
	TTLSeconds  int64                  `cbor:"4,keyasint"`           // from the stamp
	Idempotency *Idempotency           `cbor:"5,keyasint,omitempty"`
	// Mailed: the command carries the address to which the link goes (LinkText), so that one which comes too late brings another. False: nobody mails it.
	Mailed bool `cbor:"6,keyasint,omitempty"`
	// Index is that of the address to which the link is mailed: whoever redeems it has shown that the address is theirs. Empty: nobody mails it.
	Index    []byte   `cbor:"7,keyasint,omitempty"`
	Personal []Sealed `cbor:"-"`
}

// RedeemLink uses a link up. By an app that is From; by a backend it is Account, which a link to an account needs not.
type RedeemLink struct {
	Hash        []byte                `cbor:"1,keyasint"`
	From        *Session              `cbor:"2,keyasint,omitempty"`
	Account     entitlement.AccountID `cbor:"3,keyasint,omitempty"`
	Merge       string                `cbor:"4,keyasint"` // id of the merge, if the account that redeems is merged
	Idempotency *Idempotency          `cbor:"5,keyasint,omitempty"`
	// Renew is the hash of the token that is to be mailed if this one has expired. Empty: the proposing node mails nothing.
	Renew []byte `cbor:"6,keyasint,omitempty"`
}

func (b *PutLink) idempotency() *Idempotency    { return b.Idempotency }
func (b *RedeemLink) idempotency() *Idempotency { return b.Idempotency }

// linkRow is a link by the hash of its token.
type linkRow struct {
	Account   entitlement.AccountID    `cbor:"1,keyasint,omitempty"`
	Purchase  entitlement.PurchaseID   `cbor:"2,keyasint,omitempty"`
	ExpiresAt int64                    `cbor:"3,keyasint"`           // Unix seconds
	By        entitlement.AccountID    `cbor:"4,keyasint,omitempty"` // who redeemed it
	To        entitlement.AccountID    `cbor:"5,keyasint,omitempty"` // whom they are since
	Moved     []entitlement.PurchaseID `cbor:"6,keyasint,omitempty"` // what came along
	Merge     string                   `cbor:"7,keyasint,omitempty"`

	// Of a link that was mailed and not redeemed yet.
	Mailed    bool  `cbor:"8,keyasint,omitempty"` // the address is a text of its holder
	TTL       int64 `cbor:"9,keyasint,omitempty"` // seconds
	RenewedAt int64 `cbor:"10,keyasint,omitempty"`
	Renewals  int64 `cbor:"11,keyasint,omitempty"`

	Index []byte `cbor:"12,keyasint,omitempty"` // of the address to which it was mailed
}

// addressed reports whether something is kept of the address to which the link was mailed.
func (row *linkRow) addressed() bool { return row.Mailed || len(row.Index) > 0 }

// linkHolder is under whose id the address of a link is kept: of a payment that waits it is the payment's own.
func linkHolder(account entitlement.AccountID, purchase entitlement.PurchaseID) entitlement.AccountID {
	if account != "" {
		return account
	}
	return entitlement.AccountID(purchase)
}

// RenewedLink is a link that stands for one that has expired, and is to be mailed to the same address.
type RenewedLink struct {
	Hash     []byte                 `cbor:"1,keyasint"`           // of its token; see Reader.LinkAddress
	Account  entitlement.AccountID  `cbor:"2,keyasint,omitempty"` // where it leads: this or the purchase
	Purchase entitlement.PurchaseID `cbor:"3,keyasint,omitempty"`
}

func linkTokenKey(env entitlement.Environment, hash []byte) []byte {
	return append([]byte{envByte(env)}, hash...)
}

func linksMailedPrefix(env entitlement.Environment, holder entitlement.AccountID) []byte {
	return appendKeyText([]byte{envByte(env)}, string(holder))
}

func linkDueKey(at int64, key []byte) []byte {
	return append(binary.BigEndian.AppendUint64(nil, uint64(at)), key...)
}

func (c *command) putLink(body *PutLink) Result {
	switch {
	case len(body.Hash) != linkHashBytes || (body.Account == "") == (body.Purchase == ""):
		return rejected(SlugInvalidRequest, "link")
	case len(body.Index) != 0 && len(body.Index) != contactIndexBytes:
		return rejected(SlugInvalidRequest, "index of the address")
	case body.TTLSeconds < 1 || body.TTLSeconds > maxLinkSeconds:
		return rejected(SlugInvalidRequest, "how long the link lives")
	case body.Account != "" && !c.exists(body.Account):
		return rejected(SlugNotFound, "account")
	case body.Purchase != "":
		id, ok := c.purchaseOf(entitlement.Link(body.Purchase))
		if !ok {
			return rejected(SlugNotFound, "purchase")
		}
		p, ok := c.loadPurchase(id)
		if !ok || !p.row.Evidence.IsPurchase() {
			return rejected(SlugNotFound, "purchase")
		}
		if p.row.Owner != "" && !c.erased(p.row.Owner) {
			return Result{Rejection: &Rejection{Slug: SlugAliasTaken, Detail: "the purchase belongs to an account", Owner: p.row.Owner}}
		}
	}
	key := linkTokenKey(c.Env, body.Hash)
	if c.get(bucketLinkTokens, key) != nil {
		return rejected(SlugInvalidRequest, "the Idempotency-Key gave another link more than a day ago")
	}
	c.dropLinks()
	row := linkRow{Account: body.Account, Purchase: body.Purchase, ExpiresAt: c.now + body.TTLSeconds, Index: body.Index}
	if body.Mailed {
		row.Mailed, row.TTL = true, body.TTLSeconds
		c.keep(linkHolder(body.Account, body.Purchase), LinkText(body.Hash))
	}
	c.writeLink(key, &row)
	return Result{Account: body.Account}
}

// writeLink writes the row of a new link, and when it goes.
func (c *command) writeLink(key []byte, row *linkRow) {
	c.encode(bucketLinkTokens, key, row)
	c.put(bucketLinksDue, linkDueKey(row.ExpiresAt+keptLinkSeconds, key), []byte{})
	if row.addressed() {
		c.put(bucketLinksMailed, append(linksMailedPrefix(c.Env, linkHolder(row.Account, row.Purchase)), key[1:]...), []byte{})
	}
}

// forgetAddress takes from a link, by its key, what is kept of the address to which it was mailed. It is mailed to nobody any more.
func (c *command) forgetAddress(env entitlement.Environment, key []byte, row *linkRow) {
	if !row.addressed() {
		return
	}
	holder := linkHolder(row.Account, row.Purchase)
	c.forgetIn(env, holder, LinkText(key[1:]))
	c.delete(bucketLinksMailed, append(linksMailedPrefix(env, holder), key[1:]...))
	row.Mailed, row.TTL, row.Index = false, 0, nil
}

// forgetAddresses takes from all links to an account or to a payment what is kept of the addresses to which they were mailed.
func (c *command) forgetAddresses(holder entitlement.AccountID) {
	prefix := linksMailedPrefix(c.Env, holder)
	for _, mailed := range c.keysUnder(bucketLinksMailed, prefix) {
		key := linkTokenKey(c.Env, mailed[len(prefix):])
		var row linkRow
		if c.decode(bucketLinkTokens, key, &row) {
			c.forgetAddress(c.Env, key, &row)
			c.encode(bucketLinkTokens, key, &row)
		}
	}
}

// dropLinks removes some of the rows whose time has passed: more than one command makes.
func (c *command) dropLinks() {
	for range dropPerCommand {
		k, _ := c.cursor(bucketLinksDue).First()
		if k == nil || int64(binary.BigEndian.Uint64(k)) > c.now {
			return
		}
		k = bytes.Clone(k)
		var row linkRow
		if env, ok := byteEnv(k[8]); ok && c.decode(bucketLinkTokens, k[8:], &row) {
			c.forgetAddress(env, k[8:], &row)
		}
		c.delete(bucketLinkTokens, k[8:])
		c.delete(bucketLinksDue, k)
	}
}

func (c *command) redeemLink(body *RedeemLink) Result {
	if len(body.Merge) > maxIDBytes || body.From != nil && body.Account != "" {
		return rejected(SlugInvalidRequest, "merge id or account")
	}
	if rejection := c.sessionEnded(body.From); rejection != nil {
		return Result{Rejection: rejection}
	}
	by, device := body.Account, ""
	if body.From != nil {
		by, device = body.From.Account, body.From.Device
	}
	if by != "" && !c.exists(by) {
		return rejected(SlugNotFound, "account")
	}
	key := linkTokenKey(c.Env, body.Hash)
	var row linkRow
	if len(body.Hash) != linkHashBytes || !c.decode(bucketLinkTokens, key, &row) {
		if c.elsewhere(bucketLinkTokens, key) {
			return rejected(SlugOtherEnvironment, "the link is of the other environment")
		}
		return rejected(SlugNotFound, "link")
	}
	if by == "" {
		by = row.Account
	}
	switch {
	case by == "":
		return rejected(SlugInvalidRequest, "a link to a purchase is redeemed by an account")
	case row.By != "":
		return c.redeemedBefore(by, &row, device)
	case c.now >= row.ExpiresAt:
		return c.renewLink(body, key, &row)
	}
	var result Result
	if row.Account != "" {
		result = c.enteredByLink(by, body.Merge, device, &row)
	} else {
		result = c.claimPurchase(&ClaimPurchase{Account: by, Purchase: row.Purchase})
		row.Moved = []entitlement.PurchaseID{row.Purchase}
	}
	if result.Rejection != nil {
		return result
	}
	to := c.own(result.Account)
	result.Stamp = to.NextSession(device, c.now)
	row.By, row.To, row.Merge = by, result.Account, result.Merge
	c.forgetAddress(c.Env, key, &row)
	c.encode(bucketLinkTokens, key, &row)
	c.about = append(c.about, by)
	result.Moved, result.Anonymous = row.Moved, c.anonymous(result.Account)
	return result
}

// renewLink puts another link in the place of one that has expired, for the same address. Where none is to be mailed that is a rejection.
func (c *command) renewLink(body *RedeemLink, key []byte, row *linkRow) Result {
	open := c.exists(row.Account)
	if row.Purchase != "" {
		id, _ := c.purchaseOf(entitlement.Link(row.Purchase))
		p, ok := c.loadPurchase(id)
		open = ok && (p.row.Owner == "" || c.erased(p.row.Owner))
	}
	renewed := linkTokenKey(c.Env, body.Renew)
	switch {
	case !row.Mailed || len(body.Renew) != linkHashBytes || !open || row.Renewals >= maxRelinks || c.get(bucketLinkTokens, renewed) != nil:
		return rejected(SlugLinkExpired, "the link has expired")
	case row.RenewedAt != 0 && c.now-row.RenewedAt < RelinkSeconds:
		return rejected(SlugLinkExpired, "the link has expired, and another was sent to the same address a short while ago")
	}
	c.writeLink(renewed, &linkRow{Account: row.Account, Purchase: row.Purchase, ExpiresAt: c.now + row.TTL, Mailed: true, TTL: row.TTL, Index: row.Index})
	c.copyText(linkHolder(row.Account, row.Purchase), LinkText(body.Hash), LinkText(body.Renew))
	row.RenewedAt, row.Renewals = c.now, row.Renewals+1
	c.encode(bucketLinkTokens, key, row)
	c.dropLinks()
	return Result{Account: row.Account, Renewed: &RenewedLink{Hash: body.Renew, Account: row.Account, Purchase: row.Purchase}, what: "link.renewed"}
}

// LinkAddress returns the sealed address to which a link goes, nil for none. It is valid inside View.
func (r *Reader) LinkAddress(env entitlement.Environment, l *RenewedLink) []byte {
	return r.PersonalText(env, linkHolder(l.Account, l.Purchase), LinkText(l.Hash))
}

// enteredByLink leads who redeems to the link's account. What an anonymous account had comes along, and what an account had that has the address too to which the
// link was mailed: that settles the suggestion that the two are one, unless support has settled it before.
func (c *command) enteredByLink(by entitlement.AccountID, merge, device string, row *linkRow) Result {
	if !c.exists(row.Account) {
		return rejected(SlugNotFound, "account")
	}
	var had []entitlement.PurchaseID
	for _, id := range c.mergedUnder(c.survivor(by)) { // all of them come along
		for _, p := range c.own(id).Purchases {
			had = append(had, p.ID)
		}
	}
	result := c.entered(by, row.Account, merge, device, c.anonymous(by) || c.suggested(row.Index, by, row.Account))
	if result.Merge != "" {
		slices.Sort(had)
		row.Moved = slices.Compact(had)
	}
	return result
}

// suggested reports whether an address suggests that two accounts are one: each of them has it, or one that is merged with it, and support has not said of all that have
// it that they are two people. Nobody has no address.
func (c *command) suggested(index []byte, one, other entitlement.AccountID) bool {
	if len(index) == 0 {
		return false
	}
	having := func(id entitlement.AccountID) []entitlement.AccountID {
		return slices.DeleteFunc(c.mergedUnder(c.survivor(id)), func(member entitlement.AccountID) bool {
			return c.get(bucketContactIndex, contactKey(c.Env, index, member)) == nil
		})
	}
	others := having(other)
	return slices.ContainsFunc(having(one), func(id entitlement.AccountID) bool {
		return slices.ContainsFunc(others, func(with entitlement.AccountID) bool {
			return c.get(bucketDismissed, dismissedKey(c.Env, id, index, string(with))) == nil
		})
	})
}

// redeemedBefore answers who redeems a link again: the same person as before, as the first time; anybody else is refused.
func (c *command) redeemedBefore(by entitlement.AccountID, row *linkRow, device string) Result {
	who := c.survivor(by)
	if who != c.survivor(row.By) && who != c.survivor(row.To) {
		return rejected(SlugLinkUsed, "another account has redeemed this link")
	}
	if !c.exists(row.To) {
		return rejected(SlugNotFound, "account")
	}
	to := c.own(row.To)
	return Result{Account: row.To, Existing: true, Stamp: to.NextSession(device, c.now), Merge: row.Merge, Moved: row.Moved, Anonymous: c.anonymous(row.To)}
}
