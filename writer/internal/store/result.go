package store

import (
	"errors"

	"github.com/latchkey/latchkey/pkg/entitlement"
	"github.com/latchkey/latchkey/replication"
)

// Outcome says what became of a command. The words are shown in the audit trail.
type Outcome string

// The outcomes.
const (
	// Recorded: stored, and what it proves or asks for is in the state.
	Recorded Outcome = "recorded"
	// Unhandled: authentic, of a type that proves nothing we use; stored.
	Unhandled Outcome = "unhandled"
	// Unreadable: authentic but not understood; stored.
	Unreadable Outcome = "unreadable"
	// Conflicting: its id was used before with another content; stored beside the first, without effect.
	Conflicting Outcome = "conflicting"
	// WrongEnvironment: the message names another environment than the webhook's address; stored, not applied.
	WrongEnvironment Outcome = "wrong_environment"
	// TooLarge: the account's record would pass replication.MaxRecordBytes; stored, not applied. An operator must act.
	TooLarge Outcome = "too_large"
	// Rejected: an API command that cannot be done; Result.Rejection says why. Nothing changed.
	Rejected Outcome = "rejected"
)

// Result is what a command came to. It is the same for every node, and travels as CBOR from the leader to the node that asked.
type Result struct {
	// Revision is the least one at which all effects are visible: the command's last change; for a duplicate that of the
	// first time; without effect the current one.
	Revision  replication.Revision `cbor:"1,keyasint"`
	Outcome   Outcome              `cbor:"2,keyasint,omitempty"`
	Duplicate bool                 `cbor:"3,keyasint,omitempty"` // a provider's message that was recorded before
	// Account is the account that the command made, found or changed; for an event the owner of its purchase. Empty for none.
	Account entitlement.AccountID `cbor:"4,keyasint,omitempty"`
	EventID string                `cbor:"5,keyasint,omitempty"` // under which the audit trail has it
	Stamp   int64                 `cbor:"6,keyasint,omitempty"` // the command's time, Unix seconds
	// Existing: what was to be made was there already (an account that owns the aliases, a grant with this id).
	Existing  bool                     `cbor:"7,keyasint,omitempty"`
	Rejection *Rejection               `cbor:"8,keyasint,omitempty"`
	Intent    *Intent                  `cbor:"9,keyasint,omitempty"`  // of PutIntent and SubmitIntent
	Merge     string                   `cbor:"10,keyasint,omitempty"` // id of the merge that a login made
	Anonymous bool                     `cbor:"11,keyasint,omitempty"` // of a login: the account is anonymous
	Balance   int64                    `cbor:"12,keyasint,omitempty"` // of Consume: what was left after it
	Moved     []entitlement.PurchaseID `cbor:"14,keyasint,omitempty"` // of RedeemLink: what the account has by it
	Code      *Code                    `cbor:"16,keyasint,omitempty"` // of PutCode, RedeemCode and RevokeCode
	Renewed   *RenewedLink             `cbor:"15,keyasint,omitempty"` // of RedeemLink: it had expired, and this one is to be mailed

	// Erased are the accounts that EraseAccount erased, and Renewing those of their purchases whose provider goes on charging.
	Erased   []entitlement.AccountID  `cbor:"20,keyasint,omitempty"`
	Renewing []entitlement.PurchaseID `cbor:"21,keyasint,omitempty"`

	what string // in the audit trail, where the command's type alone does not say it
}

// Rejection says why an API command was not done. It is a result like any other: the same on every node.
type Rejection struct {
	Slug   string                `cbor:"1,keyasint"`           // of the problem: one of the Slug constants
	Detail string                `cbor:"2,keyasint,omitempty"` // for people
	Owner  entitlement.AccountID `cbor:"3,keyasint,omitempty"` // with SlugAliasTaken: who has it; with SlugAlreadyMerged and SlugMergeCycle: who answers for it

	Store    string               `cbor:"4,keyasint,omitempty"` // of the purchase that blocks another
	Provider entitlement.Provider `cbor:"5,keyasint,omitempty"` // who told of it
}

// The rejections' slugs, which are those of the API's problems.
const (
	SlugAliasTaken          = "alias-taken"
	SlugNotFound            = "not-found"
	SlugIdempotencyMismatch = "idempotency-mismatch"
	SlugInvalidRequest      = "invalid-request"
	SlugUnavailable         = "unavailable"
	SlugInsufficientBalance = "insufficient-balance"
	SlugOtherAccount        = "other-account"
	SlugOtherEnvironment    = "other-environment"
	SlugSameAccount         = "same-account"
	SlugActiveSubscription  = "active-subscription"
	SlugAlreadyOwned        = "already-owned"
	SlugPurchasePending     = "purchase-pending"
	SlugPurchaseInProgress  = "purchase-in-progress"
	SlugTrialUsed           = "trial-used"
	SlugAlreadyMerged       = "already-merged"
	SlugMergeCycle          = "merge-cycle"
	SlugMergeFinal          = "merge-final"
	SlugInvalidCredential   = "invalid-credential"
	SlugLinkUsed            = "link-used"
	SlugLinkExpired         = "link-expired"
	SlugSessionEnded        = "session-ended"
	SlugCodeUsed            = "code-used"
	SlugCodeExpired         = "code-expired"
	SlugCodeRevoked         = "code-revoked"
)

// Errors of Propose, ReadIndex and the reads.
var (
	// ErrNotLeader: this node does not lead, and nothing was written. Ask the leader.
	ErrNotLeader = errors.New("not the leader")
	// ErrOutcomeUnknown: leadership moved, or the caller stopped waiting, while the command was being committed: it may or may
	// not be recorded. Send it again; a duplicate is dropped.
	ErrOutcomeUnknown = errors.New("outcome unknown")
	// ErrBusy: too many proposals of this environment are in flight. Nothing was written; try again shortly.
	ErrBusy = errors.New("too many proposals in flight")
	// ErrClock: this node's clock is more than 5 s behind the last command's stamp, or Config.TrustClock says that it is wrong. Nothing was written.
	ErrClock = errors.New("no command can be dated")
	// ErrTooLarge: the encoded command is larger than MaxEntryBytes.
	ErrTooLarge = errors.New("command too large")
	// ErrBelowFloor: the change log no longer holds what was asked for; take a snapshot.
	ErrBelowFloor = replication.ErrBelowFloor
	// ErrAhead: a revision was asked for that this node does not have.
	ErrAhead = errors.New("ahead of this node")
	// ErrClosed: the store was closed, or a fault stopped it.
	ErrClosed = errors.New("store closed")
	// ErrNoSegment: no sealed journal segment with this hash is on this node.
	ErrNoSegment = errors.New("no such journal segment")
)
