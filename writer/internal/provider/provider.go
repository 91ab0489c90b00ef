// Package provider turns the messages of payment providers into events in our words: one adapter for each, which verifies that a message is
// authentic and then keeps of it what its allow-list names. What a provider's message proves is decided here, what it means for access is
// decided in package entitlement. No secret, name, address or free text passes an adapter. Start at Adapter and Puller; stripe.go and
// stripe_pull.go are the first ones.
package provider

import (
	"context"
	"errors"
	"iter"
	"net/http"
	"strconv"
	"time"

	"github.com/latchkey/latchkey/pkg/entitlement"
)

// ErrSignature means that a message is not authentic: no signature, a wrong one, or one that we do not accept. Answer 401 and store nothing.
var ErrSignature = errors.New("signature does not match")

// ErrStale means that the signature is right and its time is too far from ours, in the past or in the future: a replay, or a wrong clock. Answer 401.
var ErrStale = errors.New("signature is too old or too new")

// ErrUntrusted is inside of an ErrSignature where the message may be the provider's and our configuration wrong: it is signed by nobody whom we trust, or
// about another app than ours. A stranger's messages look the same.
var ErrUntrusted = errors.New("nothing that is configured here vouches for it")

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

	// Delivery says what the provider's way of delivering asks of our answers. The zero value asks nothing.
	Delivery() Delivery
}

// BuyerTeller is an Adapter whose messages may have the e-mail address of who paid.
type BuyerTeller interface {
	Adapter

	// Buyer returns the address in a verified body and the store id of what was bought; ok is false where there is none. The address is as somebody typed it. It
	// must go nowhere but into an index of it.
	Buyer(body []byte) (of entitlement.Link, address string, ok bool)
}

// CardTeller is an Adapter whose messages may have the fingerprint of a card, which is the same for whoever pays with it.
type CardTeller interface {
	Adapter

	// Card returns the fingerprint in a verified body and the customer who has or used the card; ok is false where there is none. It must go nowhere but into an
	// index of it.
	Card(body []byte) (customer, fingerprint string, ok bool)
}

// ReceiptLink returns the link that every object of a purchase has which an app shows by a name to ask its store with: Play's purchase token, Stripe's
// checkout session.
func ReceiptLink(from entitlement.Provider, id string) entitlement.Link {
	if from == entitlement.Google {
		return playTokenLink(id)
	}
	return entitlement.Link(string(from) + ":" + id)
}

// Delivery is what a provider's way of delivering asks of our answers.
type Delivery struct {
	// RefusedStatus answers what Verify refused. 0 is 401. A provider that never repeats what was answered so gets 503: a message that our own
	// mistake refused must come again.
	RefusedStatus int
	// DoubtAfter, where it is not 0, is after how many refusals in a row for ErrUntrusted or ErrStale we doubt ourselves: from the next one on they are
	// answered 503, until a message is authentic. Of a provider that may not repeat what was answered 4xx.
	DoubtAfter int
	// Patience is how long the provider waits for an answer, less what the way takes. 0 is long enough to retry a command. Of a provider with
	// Patience a verified message is kept on this node's disk until a leader has taken it, because it may not come again.
	Patience time.Duration
	// Handshake returns the answer to a request that is no message but the provider's test of the address, ok false for any other. It is asked
	// before Verify and must tell nothing. Nil: the provider has none.
	Handshake func(Request) (answer []byte, ok bool)
}

// NotServedStatus answers a message where its provider is not configured, as while a new configuration goes from node to node. 0 is that of the problem, below 500;
// a provider that never repeats what was answered so gets 503.
func NotServedStatus(p entitlement.Provider) int {
	if p == entitlement.Adapty {
		return adaptyRefused
	}
	return 0
}

// Puller asks one provider in one environment for the present state of its objects. It is safe for concurrent use, keeps to a rate that the
// provider allows, and never asks twice for one answer: when to ask again is the caller's matter.
type Puller interface {
	Provider() entitlement.Provider

	// Targets says what to ask for so that doubts about a purchase, or about what is no purchase yet, are settled: for each the object itself, or
	// the customer that it belongs to. All of the doubts are for this provider. What it cannot be asked about is left out.
	Targets(e entitlement.Evidence, doubts []entitlement.Doubt) []entitlement.Doubt

	// Pull returns the answer as an event of its own, of kind entitlement.Proof, to be stored like a message. Its states have the version of the
	// whole second in which the request left. Errors: *PullError around one of those below, and ctx's.
	Pull(ctx context.Context, kind entitlement.ObjectKind, id string) (entitlement.Event, error)
}

// Acknowledger is a Puller whose provider takes a sale back unless it hears in time that it was delivered.
type Acknowledger interface {
	Puller

	// Unacknowledged lists the sales in what is recorded of a purchase that the provider waits to hear about, by ids for Acknowledge.
	Unacknowledged(e entitlement.Evidence) []string

	// Acknowledge tells the provider that a sale is delivered; what is consumable is also used up by that, so that it can be bought again. It may be called
	// again. That the provider knows is told by what Pull returns. Errors: as Pull's.
	Acknowledge(ctx context.Context, e entitlement.Evidence, id string, consumable func(entitlement.Sold) bool) error
}

// Addresser is a Puller that can be asked where a buyer wants to be written to.
type Addresser interface {
	Puller

	// BuyerAddress returns the e-mail address that the buyer of a purchase gave when they paid, as they wrote it. Whoever asks uses it at once and stores it
	// nowhere. Errors: as Pull's; ErrGone where the provider knows none.
	BuyerAddress(ctx context.Context, e entitlement.Evidence) (string, error)
}

// Poller is a Puller whose provider does not tell all that ends access, or tells it late: it is asked without a message as well.
type Poller interface {
	Puller

	// Due returns what to ask about a purchase now. asked says when an id was asked about last without a message, zero for never.
	Due(e entitlement.Evidence, asked func(id string) time.Time, now time.Time) []entitlement.Doubt
}

// VoidLister is a Puller whose provider keeps a list of the sales that it took back: messages about them can be lost, and an answer about such a sale may
// still show it as it was.
type VoidLister interface {
	Puller

	// VoidedPurchases lists what was taken back between two times, as events: the same ones however often it is asked. Errors: as Pull's.
	VoidedPurchases(ctx context.Context, from, to time.Time) ([]entitlement.Event, error)
}

// KeptMessage is a message that its provider still has.
type KeptMessage struct {
	entitlement.Event
	Body []byte // as it was sent, for BuyerTeller and CardTeller; nil where its provider's adapter is neither
}

// HistoryKeeper is a Puller whose provider keeps the messages that it made, for those that never came.
type HistoryKeeper interface {
	Puller

	// HistoryReach is how far back the provider keeps them.
	HistoryReach() time.Duration

	// Messages lists what the provider has told us between two times, as the events that the messages were, whether they came or not. A message that is not
	// authentic is ErrSignature, and the next one follows. Any other error, as Pull's, ends the list.
	Messages(ctx context.Context, from, to time.Time) iter.Seq2[KeptMessage, error]

	// IsMessage reports whether an event of this provider with such an id came as a message, and was not asked for or shown by an app.
	IsMessage(id string) bool
}

// CustomerLister is a Puller that can be asked what a customer has bought: messages about that may all have been lost.
type CustomerLister interface {
	Puller

	// BoughtBy lists what to Pull about a customer, whose name is one of the provider's. Errors: as Pull's.
	BoughtBy(ctx context.Context, customer entitlement.Alias) ([]entitlement.Doubt, error)
}

// Forgetter is a Puller whose provider has no answer any more about what ended long ago, so that no question about it is ever settled.
type Forgetter interface {
	Puller

	// Forgotten returns, for a question that failed with Forgotten in its *PullError, the event that settles it by what is known: as that ended long
	// ago, nothing changes but that nobody asks any more. ok is false where what is known says otherwise: then the provider is wrong, and is asked again.
	Forgotten(e entitlement.Evidence, about entitlement.Doubt, now time.Time) (ev entitlement.Event, ok bool)
}

// Tagger is a Puller whose provider keeps a tag of ours on a customer.
type Tagger interface {
	Puller

	// Tag writes metadata to a customer, and leaves other metadata as it is. Errors: as Pull's.
	Tag(ctx context.Context, customer string, metadata map[string]string) error
}

// What a pull can come to, by what to do next. They are inside a *PullError.
var (
	// ErrGone: the provider has no such object, or not for this key. Asking again will not help soon.
	ErrGone = errors.New("the provider has no such object")
	// ErrCredential: the provider refuses our key, or the key may not read the object. An operator must act.
	ErrCredential = errors.New("the provider refuses the key")
	// ErrLimited: we ask too often. Wait for RetryAfter before asking for anything.
	ErrLimited = errors.New("the provider asks for patience")
	// ErrUnavailable: no answer, or one that says that the provider is at fault. Ask again.
	ErrUnavailable = errors.New("the provider does not answer")
	// ErrAnswer: an answer that we do not understand. Nothing of it is kept.
	ErrAnswer = errors.New("the provider's answer is not understood")
	// ErrOtherEnvironment: the answer is of the other environment. It is refused.
	ErrOtherEnvironment = errors.New("the provider's answer is of another environment")
)

// PullError is a pull without an answer. Its text holds no part of the answer, and no key.
type PullError struct {
	Reason     error         // one of the errors above
	Status     int           // of HTTP; 0 when there was none
	RequestID  string        // the provider's name of the request, for its support
	RetryAfter time.Duration // that the provider asked for; 0 when it did not
	Detail     string        // ours, for people
	Forgotten  bool          // the provider had it once: see Forgetter
}

func (e *PullError) Error() string {
	text := e.Reason.Error()
	if e.Status != 0 {
		text += ": status " + strconv.Itoa(e.Status)
	}
	if e.Detail != "" {
		text += ": " + e.Detail
	}
	return text
}

func (e *PullError) Unwrap() error { return e.Reason }
