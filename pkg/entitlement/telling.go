package entitlement

// Every provider but Stripe tells of purchases in the four kinds of objects below. A chain is what renews: an App Store original transaction, a
// product under a Play purchase token, a subscription at an aggregator. Its transactions are its terms, its Renewal says where it stands.
// What is not recurring is a chain of one transaction and has no Renewal. An adapter gives a chain the same id in every message and every
// answer about it.

// TransactionState is whether the money for a transaction came.
type TransactionState uint8

// The transaction states. The zero value is TransactionPaid.
const (
	TransactionPaid    TransactionState = iota // or free: a trial, a gift
	TransactionPending                         // the provider waits for the money, for days maybe
	TransactionFailed                          // it never came
)

// Transaction is one term of one product, or one sale. Its object has the store's id of it, where there is one: Apple's transactionId, a Play
// order id. Times are Unix seconds, 0 is absent.
type Transaction struct {
	Chain string `cbor:"1,keyasint,omitempty"` // id of the chain that it belongs to; empty: its object's own
	Sold
	State     TransactionState `cbor:"10,keyasint,omitempty"`
	Recurring bool             `cbor:"11,keyasint,omitempty"` // a term of a subscription that can renew
	StartsAt  int64            `cbor:"12,keyasint,omitempty"` // what the provider does not tell is 0
	EndsAt    int64            `cbor:"13,keyasint,omitempty"` // exclusive, without grace; 0 is never, or unknown where it is recurring
	Trial     bool             `cbor:"14,keyasint,omitempty"` // free
	Upgraded  bool             `cbor:"15,keyasint,omitempty"` // another term took over before its end
	RevokedAt int64            `cbor:"16,keyasint,omitempty"` // refunded or taken back
	Ownership Ownership        `cbor:"17,keyasint,omitempty"`
	Store     string           `cbor:"18,keyasint,omitempty"` // who took the money: "app_store", "play_store", "stripe"; empty: the provider itself
	// Provisional: signed by the store, and the store could not be asked. It counts for a day from the version on.
	Provisional bool `cbor:"19,keyasint,omitempty"`
	Promo       bool `cbor:"20,keyasint,omitempty"` // given away by the provider, not sold
	// Entitlements are the provider's own names of what it gives, sorted: for products that the catalog lacks.
	Entitlements []string `cbor:"21,keyasint,omitempty"`
}

// Phase is where a chain stands by its provider's word.
type Phase string

// The phases. An unknown or empty one says nothing: what was paid for counts.
const (
	PhaseActive       Phase = "active"
	PhasePending      Phase = "pending"       // the first payment is under way
	PhaseNever        Phase = "never"         // the first payment was given up
	PhaseBillingGrace Phase = "billing_grace" // the card is retried and access goes on
	PhaseBillingRetry Phase = "billing_retry" // the card is retried and access has stopped; Play's account hold
	PhasePaused       Phase = "paused"        // by the user, since the end of what was paid for
	PhaseExpired      Phase = "expired"
	PhaseRevoked      Phase = "revoked" // taken back before its end, all of it
)

// Renewal is where a chain stands. Times are Unix seconds, 0 is absent.
type Renewal struct {
	Phase       Phase     `cbor:"1,keyasint,omitempty"`
	WillRenew   bool      `cbor:"2,keyasint,omitempty"`
	Next        ProductID `cbor:"3,keyasint,omitempty"` // what it renews as
	GraceUntil  int64     `cbor:"4,keyasint,omitempty"` // in PhaseBillingGrace; 0: the policy's billing grace
	EndedAt     int64     `cbor:"5,keyasint,omitempty"` // in PhaseExpired and PhaseRevoked, 0: the version's time; in PhaseBillingRetry and PhasePaused, 0: at the end of what was paid for
	ResumesAt   int64     `cbor:"6,keyasint,omitempty"` // in PhasePaused
	Transaction string    `cbor:"7,keyasint,omitempty"` // the present term, where the provider names it
	// Replaces is the id of a Renewal whose chains (its own, and those under its id and ":") this one took over, once it is neither pending
	// nor given up: Play's linkedPurchaseToken.
	Replaces string `cbor:"8,keyasint,omitempty"`
	// Unacknowledged: the provider takes the sale back unless it is told in time that it was delivered: Play's acknowledgementState. It is told
	// once this state is recorded, and asked until it says that it knows.
	Unacknowledged bool `cbor:"9,keyasint,omitempty"`
}

// Revocation takes a transaction back, or a part of it, where that is told apart from the transaction's own state: Play's voided purchases.
type Revocation struct {
	Transaction string `cbor:"1,keyasint"`
	RevokedAt   int64  `cbor:"2,keyasint,omitempty"` // Unix seconds; 0: the version's time
	Reason      Reason `cbor:"3,keyasint,omitempty"` // empty: ReasonRefunded
	Quantity    int64  `cbor:"4,keyasint,omitempty"` // how many were taken back; 0 is all
	Undone      bool   `cbor:"5,keyasint,omitempty"` // it was reversed
}

// Customer says that a customer of an aggregator was asked about, which settles hints about them.
type Customer struct {
	Gone bool `cbor:"1,keyasint,omitempty"` // the provider knows no such customer
}
