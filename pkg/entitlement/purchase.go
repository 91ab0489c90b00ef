package entitlement

import (
	"crypto/sha256"
	"encoding/hex"
	"slices"
)

// Evidence is everything that providers have proved about one purchase: the newest state of each provider object, and
// every store id by which they are known to belong together. Equal evidence is byte-identical once encoded, whatever
// the order of arrival.
type Evidence struct {
	Links   []Link   `cbor:"1,keyasint,omitempty"` // sorted, no repeats; only ever grows
	Objects []Object `cbor:"2,keyasint,omitempty"` // sorted by Kind, ID; without their Links
}

// Purchase is one sale as folded from its evidence: what an answer needs and nothing else. It is what an account record holds.
type Purchase struct {
	ID       PurchaseID `cbor:"1,keyasint"`
	Provider Provider   `cbor:"2,keyasint"`           // who told us: of several the one whose word is the newest
	Store    string     `cbor:"3,keyasint"`           // who took the money: "stripe", "app_store", "play_store"
	Items    []Item     `cbor:"4,keyasint,omitempty"` // sorted by ID
	// TrialUsed: a term of this purchase was ever a trial. An incomplete payment never counts.
	TrialUsed bool `cbor:"5,keyasint,omitempty"`
	// Doubt: a provider object is tied or partial, and asking the provider would settle it.
	Doubt bool `cbor:"6,keyasint,omitempty"`
	// Sandbox: a test purchase in production, which counts for a day at most and never blocks buying.
	Sandbox bool `cbor:"7,keyasint,omitempty"`
	// Debt: credits of it that were taken back are owed where they were spent. Otherwise spent ones are the buyer's to keep.
	Debt bool `cbor:"8,keyasint,omitempty"`
	// Part is, in the record of accounts that were merged, whose it is: 0 the survivor's, else a number that is each account's own.
	Part int64 `cbor:"9,keyasint,omitempty"`
	// ForfeitedAt is when its credits went with an account that was erased, Unix seconds: what was sold until then gives none. 0: never.
	ForfeitedAt int64 `cbor:"10,keyasint,omitempty"`
}

// Item is one product inside a purchase: a Stripe subscription has one or more, other purchases one.
type Item struct {
	ID    string    `cbor:"1,keyasint"`
	Term  Term      `cbor:"2,keyasint"` // the newest
	State ItemState `cbor:"3,keyasint"`

	// AccessUntil is when access stops, exclusive, Unix seconds: the end of the last live term, or billing grace where
	// later, plus the renewal leeway where it will renew. 0 is never. It counts only in the states Live and Retrying: the
	// others give no access, whatever stands here.
	AccessUntil       int64  `cbor:"4,keyasint,omitempty"`
	BillingGraceUntil int64  `cbor:"5,keyasint,omitempty"` // set in Retrying: the provider retries the card and we wait
	WillRenew         bool   `cbor:"6,keyasint,omitempty"`
	Reason            Reason `cbor:"7,keyasint,omitempty"` // why it is Revoked, or empty
	Recurring         bool   `cbor:"8,keyasint,omitempty"` // a subscription's item, as opposed to a one-time sale

	Next        ProductID `cbor:"9,keyasint,omitempty"`  // what it will renew as, where that is another product
	Ownership   Ownership `cbor:"10,keyasint,omitempty"` // empty: bought by its owner
	Provisional bool      `cbor:"11,keyasint,omitempty"` // signed by the store and not confirmed yet: no credits
	Promo       bool      `cbor:"12,keyasint,omitempty"` // given away by an aggregator, not sold
	// Entitlements are an aggregator's own names of what this gives, sorted. They count where the catalog lacks the product.
	Entitlements []string `cbor:"13,keyasint,omitempty"`
}

// SharedCopy returns the purchase as one sees it with whom its provider shares it: it uses up no trial, and says that it is shared.
func (p *Purchase) SharedCopy() Purchase {
	c := *p
	c.TrialUsed, c.Items = false, slices.Clone(p.Items)
	for i := range c.Items {
		if c.Items[i].Ownership == "" {
			c.Items[i].Ownership = Shared
		}
	}
	return c
}

// FamilyShared reports whether all of it is what the store's family sharing gave: a share, and no purchase of whoever shows it.
func (p *Purchase) FamilyShared() bool {
	return len(p.Items) > 0 && !slices.ContainsFunc(p.Items, func(i Item) bool { return i.Ownership != Family })
}

// TransferredCopy returns the purchase as the account sees it that lost it to another at a time, Unix seconds.
func (p *Purchase) TransferredCopy(at int64) Purchase {
	c := *p
	c.Items = slices.Clone(p.Items)
	for i := range c.Items {
		item := &c.Items[i]
		item.State, item.Reason = Revoked, ReasonTransferred
		item.WillRenew, item.BillingGraceUntil, item.Provisional, item.Next = false, 0, false, ""
		item.AccessUntil, item.Term.RevokedAt = at, at
	}
	return c
}

// Ownership says by what right somebody who did not buy a purchase uses it. The words are part of the app API.
type Ownership string

// The ownerships. Empty is that of the buyer.
const (
	Family Ownership = "family" // the store's family sharing
	Shared Ownership = "shared" // an aggregator shares it between profiles
)

// ItemState is where an item stands, apart from the passing of time.
type ItemState uint8

// The item states.
const (
	Pending  ItemState = 1 + iota // the first payment is under way
	Live                          // paid or on trial: access until AccessUntil
	Retrying                      // the provider retries the card: access until AccessUntil, which is billing grace
	OnHold                        // paused
	Ended                         // over
	Revoked                       // taken back: refund, dispute, transfer; Reason says which
)

// Term is one stretch of one product inside a purchase: what one payment bought. A refund ends its own term and no other.
type Term struct {
	ID TermID `cbor:"1,keyasint"`
	Sold
	StartsAt     int64 `cbor:"10,keyasint,omitempty"`
	EndsAt       int64 `cbor:"11,keyasint,omitempty"` // of what was paid for, exclusive; 0 is never. For display: access ends at AccessUntil
	Trial        bool  `cbor:"12,keyasint,omitempty"`
	SupersededAt int64 `cbor:"13,keyasint,omitempty"` // a newer term of the same item took over
	RevokedAt    int64 `cbor:"14,keyasint,omitempty"`
}

// Reason says why an entitlement stands as it does. The words are part of the app API.
type Reason string

// The reasons.
const (
	ReasonPaid              Reason = "paid"
	ReasonTrial             Reason = "trial"
	ReasonPromo             Reason = "promo"
	ReasonFamily            Reason = "family"
	ReasonProvisional       Reason = "provisional"
	ReasonCancelledUntilEnd Reason = "cancelled_until_end"
	ReasonBillingGrace      Reason = "billing_grace"
	ReasonBillingRetry      Reason = "billing_retry"
	ReasonPaused            Reason = "paused"
	ReasonExpired           Reason = "expired"
	ReasonRefunded          Reason = "refunded"
	ReasonDisputed          Reason = "disputed"
	ReasonTransferred       Reason = "transferred"
	ReasonRevoked           Reason = "revoked"
)

// Grant is access that support or a promotion gave, without a payment.
type Grant struct {
	ID          string `cbor:"1,keyasint"` // "grant_" and a ULID
	Entitlement string `cbor:"2,keyasint"`
	CreatedAt   int64  `cbor:"3,keyasint,omitempty"`
	EndsAt      int64  `cbor:"4,keyasint,omitempty"` // exclusive, Unix seconds; 0 is never
}

// Account is the record of whose access it is: everything that an answer needs and nothing else.
type Account struct {
	ID           AccountID  `cbor:"1,keyasint"`
	CreatedAt    int64      `cbor:"2,keyasint,omitempty"`
	SessionsFrom int64      `cbor:"3,keyasint,omitempty"` // session tokens issued before are refused
	Tester       bool       `cbor:"4,keyasint,omitempty"`
	Purchases    []Purchase `cbor:"5,keyasint,omitempty"` // sorted by ID
	Grants       []Grant    `cbor:"6,keyasint,omitempty"` // sorted by ID

	// What follows is there since version 3 of the rules.

	// Merged: the record is the union of what several accounts have, of which this one survives.
	Merged bool `cbor:"7,keyasint,omitempty"`
	// TrialLocked: the person has used a trial under another account, by what a store says of who they are.
	TrialLocked bool `cbor:"8,keyasint,omitempty"`
	// Spent is how much of each credit was consumed, sorted by credit, part.
	Spent    []Spent   `cbor:"9,keyasint,omitempty"`
	Accesses []Access  `cbor:"10,keyasint,omitempty"` // sorted by RedeemedAt, ID, Module
	Awaited  []Awaited `cbor:"11,keyasint,omitempty"` // sorted by ID
	// SignedOut are the devices that were signed out of the account itself, sorted by Device.
	SignedOut []SignedOut `cbor:"12,keyasint,omitempty"`
}

// Spent is how much of a credit was consumed.
type Spent struct {
	Credit string `cbor:"1,keyasint"`
	Amount int64  `cbor:"2,keyasint"`
	Part   int64  `cbor:"3,keyasint,omitempty"` // as that of Purchase: what one account consumed is charged to what it bought
}

// Access is one digital access of a package whose code was redeemed.
type Access struct {
	ID         string `cbor:"1,keyasint"` // of the code
	Module     string `cbor:"2,keyasint"` // the entitlement that it gives
	RedeemedAt int64  `cbor:"3,keyasint,omitempty"`
	Seconds    int64  `cbor:"4,keyasint,omitempty"` // it lasts from redemption; 0 is for ever
	Stacked    bool   `cbor:"5,keyasint,omitempty"` // it begins where the one before it ends
	RevokedAt  int64  `cbor:"6,keyasint,omitempty"` // when it was taken back; 0 it was not
	Reason     Reason `cbor:"7,keyasint,omitempty"` // why, where it is not that the payment was refunded
}

// AwaitSeconds is how long an account's state is pending for a purchase that the app told of (contract section 4).
const AwaitSeconds = 60

// Awaited is a purchase that the app told of: the account's state is pending until it is there (Account.Bought), a minute at most. Then, for a day, the
// answer says that it was not confirmed. It stays in the record after that, so that a record does not depend on which came first.
type Awaited struct {
	ID       string    `cbor:"1,keyasint"` // of the intent, or "receipt:" and a hash
	Provider Provider  `cbor:"2,keyasint"`
	Product  ProductID `cbor:"3,keyasint,omitempty"` // empty: not known
	Until    int64     `cbor:"4,keyasint"`           // exclusive, Unix seconds
	Since    int64     `cbor:"5,keyasint,omitempty"` // when its intent was made: a sale that was made before is not it; 0: not known
}

// ToldAt is when the app told of it, Unix seconds.
func (w *Awaited) ToldAt() int64 { return w.Until - AwaitSeconds }

// ForgottenAt is when no answer speaks of it any more, Unix seconds.
func (w *Awaited) ForgottenAt() int64 { return w.Until + unconfirmedSeconds }

// Pointer leads from another name to the account that answers for it: from an account that was merged into another, or from the subject of a sign-in
// token. It is the record of kind pointer.
type Pointer struct {
	Account      AccountID `cbor:"1,keyasint"`
	SessionsFrom int64     `cbor:"2,keyasint,omitempty"` // of a merged account: session tokens issued before for it are refused
	// SignedOut are the devices that were signed out of a merged account, sorted by Device.
	SignedOut []SignedOut `cbor:"3,keyasint,omitempty"`
}

// subjectPrefix begins the key of a subject's pointer.
const subjectPrefix = "sub:"

// SubjectKey is the key of the pointer of a subject of an identity provider, given as its alias is ("<issuer>|<subject>"). The stream must not carry the
// subject itself. An account id never looks like one.
func SubjectKey(subject string) string {
	sum := sha256.Sum256([]byte(subject))
	return subjectPrefix + hex.EncodeToString(sum[:])
}

// Policy holds the rules of an environment that the fold obeys.
type Policy struct {
	// BillingGrace is how long a failed renewal keeps access after what was paid for, in seconds, by provider.
	BillingGrace map[Provider]int64 `cbor:"1,keyasint,omitempty"`
	// SandboxAccess says for whom a store's test purchase counts in production. Empty is SandboxTesters.
	SandboxAccess SandboxAccess `cbor:"2,keyasint,omitempty"`
	// SharingOff: what a provider shares beside the owner gives nothing.
	SharingOff bool `cbor:"3,keyasint,omitempty"`

	// Transfer says what a restore that the user tapped does with a purchase of another account, and whether one that was bought under another name stays where
	// it is: KeepsHolder. Empty is TransferAlways.
	Transfer Transfer `cbor:"4,keyasint,omitempty"`
	// Debt: a refund takes back all credits of its purchase, spent ones too. Otherwise it takes the unspent ones alone.
	Debt bool `cbor:"5,keyasint,omitempty"`
	// TrialByPayment: a card's fingerprint identifies the person who used a trial, as the stores' identities do.
	TrialByPayment bool `cbor:"6,keyasint,omitempty"`

	// Rules is the version of the rules in force, and no part of what is stored: whoever folds what an older version of the cluster folded says so.
	// Zero is the newest.
	Rules uint32 `cbor:"-"`
}

const (
	// rulesOvertaken is the version of the rules since which a term ends where one of another product takes its place, and where a hold or a pause stops
	// it. Before, the longest end counted, and a term told of under two ids had no leeway.
	rulesOvertaken = 3
	// rulesAskStores is the version since which a store is asked after an aggregator was.
	rulesAskStores = 3
	// rulesAskPayments is the version since which a payment is asked about whose money came back and that no known purchase was paid by.
	rulesAskPayments = 3
)

// overtakes reports whether a term ends where one of another product takes its place.
func (p *Policy) overtakes() bool { return p.Rules == 0 || p.Rules >= rulesOvertaken }

// asksStores reports whether a store is asked again after an aggregator has answered about a sale of its.
func (p *Policy) asksStores() bool { return p.Rules == 0 || p.Rules >= rulesAskStores }

// asksPayments reports whether money that came back makes its payment be asked about.
func (p *Policy) asksPayments() bool { return p.Rules == 0 || p.Rules >= rulesAskPayments }

// Transfer is what becomes of a purchase that somebody else restores. The words are part of the server API.
type Transfer string

// The choices of transfer.
const (
	TransferAlways     Transfer = "transfer"
	TransferNever      Transfer = "keep"
	TransferIfInactive Transfer = "transfer_if_inactive"
)

// SandboxAccess says for whom test purchases of App Review, TestFlight and licence testers count in production: invariant I15.
type SandboxAccess string

// The choices of sandbox access.
const (
	SandboxNone    SandboxAccess = "none"
	SandboxTesters SandboxAccess = "testers" // accounts marked as testers
	SandboxAnyone  SandboxAccess = "anyone"
)

// Transfers reports whether a restore takes a purchase from the account that has it, at now.
func (p *Policy) Transfers(bought *Purchase, now int64) bool {
	switch p.Transfer {
	case TransferNever:
		return false
	case TransferIfInactive:
		return !slices.ContainsFunc(bought.Items, func(i Item) bool {
			status, _ := i.standing(now, i.AccessUntil)
			return status.Active()
		})
	}
	return true
}

// KeepsHolder reports whether a purchase stays with whom it is of when the same chain is bought under another name while it is live, rather than go with the newest
// name: see Evidence.Holders.
func (p *Policy) KeepsHolder() bool {
	return p.Transfer == TransferNever || p.Transfer == TransferIfInactive
}

// CountsSandbox reports whether a test purchase counts for an account.
func (p *Policy) CountsSandbox(tester bool) bool {
	switch p.SandboxAccess {
	case SandboxNone:
		return false
	case SandboxAnyone:
		return true
	}
	return tester
}

// DefaultPolicy is what holds where nothing was set: Stripe 7 days of billing grace (requirement A10.10's companion: one
// failed card must not drop access).
var DefaultPolicy = Policy{BillingGrace: map[Provider]int64{Stripe: 7 * 24 * 3600}}
