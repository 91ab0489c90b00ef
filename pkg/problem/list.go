package problem

import (
	"net/http"
	"strconv"
	"strings"
)

// Slug names a problem's type: the last part of its address. Clients switch on it; one is never renamed or reused.
type Slug string

// The slugs. Each has an entry in the list below.
const (
	Internal Slug = "internal"

	// Requests in general.
	InvalidRequest      Slug = "invalid-request"
	InvalidCredential   Slug = "invalid-credential"
	Forbidden           Slug = "forbidden"
	UnknownEnvironment  Slug = "unknown-environment"
	NotFound            Slug = "not-found"
	InvalidID           Slug = "invalid-id"
	OtherEnvironment    Slug = "other-environment"
	OtherAccount        Slug = "other-account"
	MethodNotAllowed    Slug = "method-not-allowed"
	NotAcceptable       Slug = "not-acceptable"
	BodyTooLarge        Slug = "body-too-large"
	TooManyRequests     Slug = "too-many-requests"
	IdempotencyMismatch Slug = "idempotency-mismatch"
	Unavailable         Slug = "unavailable"
	Superseded          Slug = "superseded"
	NotConfigured       Slug = "not-configured"

	// Webhooks.
	InvalidSignature Slug = "invalid-signature"
	StaleSignature   Slug = "stale-signature"

	// Accounts and buying.
	AliasTaken          Slug = "alias-taken"
	SameAccount         Slug = "same-account"
	AlreadyMerged       Slug = "already-merged"
	MergeCycle          Slug = "merge-cycle"
	MergeFinal          Slug = "merge-final"
	LinkUsed            Slug = "link-used"
	LinkExpired         Slug = "link-expired"
	CodeUsed            Slug = "code-used"
	CodeExpired         Slug = "code-expired"
	CodeRevoked         Slug = "code-revoked"
	ActiveSubscription  Slug = "active-subscription"
	AlreadyOwned        Slug = "already-owned"
	PurchasePending     Slug = "purchase-pending"
	PurchaseInProgress  Slug = "purchase-in-progress"
	TrialUsed           Slug = "trial-used"
	InsufficientBalance Slug = "insufficient-balance"
	InvalidAmount       Slug = "invalid-amount"

	// Answers of edges to apps.
	SessionEnded   Slug = "session-ended"
	NotYet         Slug = "not-yet"
	OtherHistory   Slug = "other-history"
	NoData         Slug = "no-data"
	UnknownAccount Slug = "unknown-account"

	// Between edges and writers.
	BelowFloor Slug = "below-floor"
	WrongRules Slug = "wrong-rules"
	NotLeader  Slug = "not-leader"
)

// Kind is one type of problem.
type Kind struct {
	Slug   Slug
	Title  string // short, the same in every occurrence
	Status int    // HTTP
	Advice string // what the one who asked should do, in one sentence
}

// kinds is the closed list. The first entry stands for everything that has none.
var kinds = []Kind{
	{Internal, "Internal error", http.StatusInternalServerError, "Send the request again after a pause; if it stays, report the request_id."},

	{InvalidRequest, "Invalid request", http.StatusBadRequest, "Correct what the detail names; sending the same again gives the same answer."},
	{InvalidCredential, "Invalid credential", http.StatusUnauthorized, "Send a valid key or session token of this environment."},
	{Forbidden, "Forbidden", http.StatusForbidden, "Use a credential whose scope or account covers this request."},
	{UnknownEnvironment, "Unknown environment", http.StatusNotFound, "Use production or sandbox in the path."},
	{NotFound, "Not found", http.StatusNotFound, "Check the id and the environment of the key; for an account, create it first."},
	{InvalidID, "Invalid id", http.StatusNotFound, "Send an id as it was given, or an alias as <kind>:<value>."},
	{OtherEnvironment, "Other environment", http.StatusConflict, "Use it with a key or session of the environment that it was made in: production and sandbox share nothing."},
	{OtherAccount, "Other account", http.StatusForbidden, "Use the session of the account that it was made for; this one's own is asked for anew."},
	{MethodNotAllowed, "Method not allowed", http.StatusMethodNotAllowed, "Use a method that the Allow header lists."},
	{NotAcceptable, "Not acceptable", http.StatusNotAcceptable, "Accept a media type that this address offers."},
	{BodyTooLarge, "Body too large", http.StatusRequestEntityTooLarge, "Send a smaller body; the detail says the limit."},
	{TooManyRequests, "Too many requests", http.StatusTooManyRequests, "Wait as long as Retry-After says, then send the request again."},
	{IdempotencyMismatch, "Idempotency key reused", http.StatusUnprocessableEntity, "Use a new Idempotency-Key for a request with another body."},
	{Unavailable, "Unavailable", http.StatusServiceUnavailable, "Nothing is known to be written; wait as long as Retry-After says, then send the same again, with the same Idempotency-Key."},
	{Superseded, "Node superseded", http.StatusServiceUnavailable, "Ask another node: this one belongs to a history that has ended and needs its operator."},
	{NotConfigured, "Not configured", http.StatusNotImplemented, "Let the operator add what the detail names to the configuration of every writer; nothing was stored."},

	{InvalidSignature, "Invalid signature", http.StatusUnauthorized, "Check the secret that is configured for this provider and environment; nothing was stored."},
	{StaleSignature, "Stale signature", http.StatusUnauthorized, "Sign and send again now, and check the clocks; nothing was stored."},

	{AliasTaken, "Alias taken", http.StatusConflict, "Use the account in owner, or merge the two accounts. Support corrects whose a purchase is by naming that account in from."},
	{SameAccount, "Same account", http.StatusBadRequest, "Name two different accounts: one cannot be merged with itself."},
	{AlreadyMerged, "Already merged", http.StatusConflict, "Use the account in owner, which answers for both; or undo the earlier merge first."},
	{MergeCycle, "Merge cycle", http.StatusConflict, "Use the account in owner, which answers for both already; for the other to answer, undo that merge first."},
	{MergeFinal, "Merge final", http.StatusConflict, "A merge can be undone for 30 days; this one cannot any more."},
	{LinkUsed, "Link used", http.StatusConflict, "Ask for a new link: another account has redeemed this one."},
	{LinkExpired, "Link expired", http.StatusGone, "Look for a new link in the mail where new_link says so, else ask for one: this one was not redeemed in time."},
	{CodeUsed, "Code used", http.StatusConflict, "Ask for a new code: another account has redeemed this one."},
	{CodeExpired, "Code expired", http.StatusGone, "Ask for a new code: this one was not redeemed in time."},
	{CodeRevoked, "Code revoked", http.StatusConflict, "Do not redeem it again: the code, or the payment for it, was taken back."},
	{ActiveSubscription, "Active subscription", http.StatusConflict, "Do not sell again; lead the user to manage_url."},
	{AlreadyOwned, "Already owned", http.StatusConflict, "Do not sell again: the account owns this for ever."},
	{PurchasePending, "Purchase pending", http.StatusConflict, "Wait until the provider confirms or rejects the payment."},
	{PurchaseInProgress, "Purchase in progress", http.StatusConflict, "Finish or leave the purchase on the other device, then ask again."},
	{TrialUsed, "Trial used", http.StatusConflict, "Offer the product without a trial."},
	{InsufficientBalance, "Insufficient balance", http.StatusConflict, "Offer credits for sale; nothing was consumed."},
	{InvalidAmount, "Invalid amount", http.StatusBadRequest, "Send a whole number above zero; nothing was consumed."},

	{SessionEnded, "Session ended", http.StatusUnauthorized, "Sign the user in again; the entitlements that the app holds stay valid until their own end."},
	{NotYet, "Not yet", http.StatusServiceUnavailable, "Ask again after Retry-After or ask another edge: this one does not have the revision yet."},
	{OtherHistory, "Other history", http.StatusConflict, "Drop the revision that you hold and ask again without it."},
	{NoData, "No data", http.StatusServiceUnavailable, "Ask another edge, and keep what you hold: this one has not received any data yet."},
	{UnknownAccount, "Unknown account", http.StatusServiceUnavailable, "Keep what you hold and ask again: the account exists, but this edge has no record of it."},

	{BelowFloor, "Below the floor", http.StatusGone, "Fetch a snapshot: these changes are no longer kept."},
	{WrongRules, "Wrong rules", http.StatusConflict, "Upgrade this node: the cluster follows rules that it does not know."},
	{NotLeader, "Not the leader", http.StatusServiceUnavailable, "Send the command to the leader that the writers agree on."},
}

// Kinds returns a copy of the closed list.
func Kinds() []Kind { return append([]Kind(nil), kinds...) }

// Catalogue returns the page that explains every type, in Markdown. deploy/docs/problems.md is this text.
func Catalogue() string {
	var b strings.Builder
	b.WriteString("# Problems\n\n" +
		"Every error answer of Latchkey is `application/problem+json` (RFC 9457) with `type`, `title`, `status`, `detail` and `request_id`.\n" +
		"Switch on `type`, never on `title` or `detail`. The list is closed: a type that is not below does not occur. An error never takes\n" +
		"access away from a user: an app goes on with the newest answer that it has verified.\n\n" +
		"This page is generated from `pkg/problem`; `go test ./pkg/problem -update` writes it.\n")
	for _, k := range kinds {
		b.WriteString("\n## " + string(k.Slug) + "\n\n" +
			"`" + BaseURL + string(k.Slug) + "`, " + strconv.Itoa(k.Status) + ", " + k.Title + "\n\n" + k.Advice + "\n")
	}
	return b.String()
}
