// Package provider turns the messages of payment providers into events in our words: one adapter for each, which verifies that a message is
// authentic and then keeps of it what its allow-list names. What a provider's message proves is decided here, what it means for access is
// decided in package entitlement. No secret, name, address or free text passes an adapter. Start at Adapter; stripe.go is the first one.
package provider

import (
	"errors"
	"net/http"
	"time"

	"github.com/latchkey/latchkey/pkg/entitlement"
)

// ErrSignature means that a message is not authentic: no signature, a wrong one, or one that we do not accept. Answer 401 and store nothing.
var ErrSignature = errors.New("signature does not match")

// ErrStale means that the signature is right and its time is too far from ours, in the past or in the future: a replay, or a wrong clock. Answer 401.
var ErrStale = errors.New("signature is too old or too new")

// Request is what an adapter sees of a webhook: headers and the bytes of the body as they came. Their encoding is what is signed.
type Request struct {
	Header http.Header
	Body   []byte
}

// Adapter understands one provider in one environment. It is safe for concurrent use.
type Adapter interface {
	Provider() entitlement.Provider

	// Verify reports whether r comes from the provider, as of now, the receiving node's own time. Errors: ErrSignature, ErrStale.
	Verify(r Request, now time.Time) error

	// Parse turns a verified body into an event. env is that of the webhook's address and counts only where the message names none. What cannot
	// be understood becomes an event of kind entitlement.Unreadable, never an error: the provider would send it again for days. An error means
	// that the adapter could not do its work, whatever the bytes were.
	Parse(body []byte, env entitlement.Environment) (entitlement.Event, error)
}
