package storesim

import (
	"slices"
	"time"
)

// Customer is a person as the providers know them.
type Customer struct {
	Account string // Latchkey's account id, or any name that the app gave them; the key
	N       int    // counts from 1
}

// Term is one stretch of one product that a purchase holds: what one payment bought, or a trial.
type Term struct {
	Product    Product   `json:"product"`
	StartsAt   time.Time `json:"starts_at,omitzero"`
	EndsAt     time.Time `json:"ends_at,omitzero"` // exclusive; zero: never
	Trial      bool      `json:"trial,omitempty"`
	Offer      bool      `json:"offer,omitempty"`       // at the price of an introductory offer
	Cents      int64     `json:"cents"`                 // what was paid, 0 for a trial
	PaidAt     time.Time `json:"paid_at,omitzero"`      // zero: not yet
	Refunded   int64     `json:"refunded,omitempty"`    // cents given back
	Refunds    int       `json:"refunds,omitempty"`     // how often
	LastRefund int64     `json:"last_refund,omitempty"` // cents given back the last time
	RefundedAt time.Time `json:"refunded_at,omitzero"`  // last; zero: never
	RevokedAt  time.Time `json:"revoked_at,omitzero"`   // given back in full, or taken back; zero: it stands
	Upgraded   bool      `json:"upgraded,omitempty"`    // a better product took over before its end
	Attempts   int       `json:"attempts,omitempty"`    // of the store to charge for it, where that fails
}

// Phase is where a purchase stands.
type Phase string

// The phases of a purchase.
const (
	Active  Phase = "active"
	Pending Phase = "pending" // the first payment is under way
	Grace   Phase = "grace"   // the card is retried and access goes on
	Retry   Phase = "retry"   // the card is retried and access has stopped: Play calls it hold
	Paused  Phase = "paused"
	Ended   Phase = "ended"
)

// Purchase is one subscription, or one sale, as its provider's books have it.
type Purchase struct {
	ID       string      `json:"id"` // the simulator's, or the name that it was given
	N        int         `json:"n"`  // counts from 1
	Provider Provider    `json:"provider"`
	Env      Environment `json:"environment"`
	Store    Store       `json:"store"`
	Owner    string      `json:"owner"`            // account of its Customer
	Shares   []string    `json:"shares,omitempty"` // accounts of others who may use it: the family, or profiles of one store account

	Product   Product   `json:"product"` // of the present term
	Next      Product   `json:"next"`    // what it renews as
	Terms     []Term    `json:"terms"`   // the oldest first; one for a sale
	Phase     Phase     `json:"phase"`
	StartedAt time.Time `json:"started_at,omitzero"`
	ChangedAt time.Time `json:"changed_at,omitzero"` // when the last fact about it was written
	WillRenew bool      `json:"will_renew"`
	TurnedOff time.Time `json:"turned_off,omitzero"` // when the renewal was turned off; zero: it is on
	CardFails bool      `json:"card_fails,omitempty"`
	FailedAt  time.Time `json:"failed_at,omitzero"`   // when the card first failed; zero: it works
	GraceEnds time.Time `json:"grace_ends,omitzero"`  // in Grace
	RetryEnds time.Time `json:"retry_ends,omitzero"`  // in Grace and Retry
	PauseDue  bool      `json:"pause_due,omitempty"`  // at the end of the term
	ResumesAt time.Time `json:"resumes_at,omitzero"`  // of a pause
	EndedAt   time.Time `json:"ended_at,omitzero"`    // in Ended
	EndReason string    `json:"end_reason,omitempty"` // in Ended: "cancelled", "billing", "refund", "replaced"
	Replaces  string    `json:"replaces,omitempty"`   // id of the purchase that this one took over: a Play token

	DisputedTerm int       `json:"disputed_term"`           // -1: no dispute is open
	DisputeState string    `json:"dispute_state,omitempty"` // of the last one: "needs_response", "won", "lost"
	DisputeTerm  int       `json:"dispute_term"`            // that the last one was about
	DisputedAt   time.Time `json:"disputed_at,omitzero"`
	Disputes     int       `json:"disputes,omitempty"`
	Quantity     int       `json:"quantity"`
	Taken        bool      `json:"taken,omitempty"`       // Play: acknowledged or consumed
	StoreTells   bool      `json:"store_tells,omitempty"` // its store sends messages too
	OfferTerms   int       `json:"offer_terms,omitempty"` // so many paid terms, the first ones, cost OfferCents
	OfferCents   int64     `json:"offer_cents,omitempty"`
	Email        string    `json:"email,omitempty"`     // what the buyer gave at a checkout on the web
	SharedOf     string    `json:"shared_of,omitempty"` // of the family's part: the purchase that was bought

	waited bool // its first payment was pending once
	noted  int  // in the index: 0 nothing, else one more than its terms there
}

func (p *Purchase) last() *Term   { return &p.Terms[len(p.Terms)-1] }
func (p *Purchase) recurs() bool  { return p.Product.Kind == Recurring }
func (p *Purchase) sandbox() bool { return p.Env == Sandbox }
func (p *Purchase) present() int  { return len(p.Terms) - 1 }

// charges counts the payments.
func (p *Purchase) charges() int {
	count := 0
	for _, t := range p.Terms {
		if t.Cents > 0 && !t.PaidAt.IsZero() {
			count++
		}
	}
	return count
}

// copy returns a purchase that later facts do not change.
func (p *Purchase) copy() *Purchase {
	c := *p
	c.Terms, c.Shares = slices.Clone(p.Terms), slices.Clone(p.Shares)
	return &c
}

// FactKind is what can happen to a purchase.
type FactKind string

// The kinds of facts. What each of them uses of a Fact stands beside it.
const (
	Bought          FactKind = "bought"           // Term, Until
	PaymentPending  FactKind = "payment_pending"  // Term
	PaymentFailed   FactKind = "payment_failed"   // of a pending one: it never came
	Billed          FactKind = "billed"           // Term, Until: Stripe's next term has begun, and the card is charged in an hour
	Renewed         FactKind = "renewed"          // Term, Until
	RenewalFailed   FactKind = "renewal_failed"   // Until: the end of billing grace; zero: access stopped
	GraceExpired    FactKind = "grace_expired"    //
	Recovered       FactKind = "recovered"        // Term, Until
	Resubscribed    FactKind = "resubscribed"     // Term, Until: after its end
	RenewalOff      FactKind = "renewal_off"      //
	RenewalOn       FactKind = "renewal_on"       //
	Expired         FactKind = "expired"          // Reason
	Refunded        FactKind = "refunded"         // Term, Cents, Full, Reason
	RefundReversed  FactKind = "refund_reversed"  // Term
	DisputeOpened   FactKind = "dispute_opened"   // Term
	DisputeWon      FactKind = "dispute_won"      // Term
	DisputeLost     FactKind = "dispute_lost"     // Term
	PauseSet        FactKind = "pause_set"        // Until: when it resumes
	PauseBegan      FactKind = "pause_began"      // Until: when it resumes
	Resumed         FactKind = "resumed"          // Term, Until
	Upgraded        FactKind = "upgraded"         // Term: the new one; Until
	ChangeScheduled FactKind = "change_scheduled" // at the term's end
	Extended        FactKind = "extended"         // Term, Until
	Transferred     FactKind = "transferred"      // From, To
	Shared          FactKind = "shared"           // To
	Unshared        FactKind = "unshared"         // From
	Replaced        FactKind = "replaced"         // by another purchase
)

// Fact is one entry of the ledger.
type Fact struct {
	At       time.Time `json:"at"`
	Kind     FactKind  `json:"kind"`
	Purchase string    `json:"purchase"`
	Term     int       `json:"term,omitempty"` // index into the purchase's terms
	Product  string    `json:"product,omitempty"`
	Until    time.Time `json:"until,omitzero"`
	Trial    bool      `json:"trial,omitempty"`
	Cents    int64     `json:"cents,omitempty"`
	Full     bool      `json:"full,omitempty"` // the term ended with it
	Reason   string    `json:"reason,omitempty"`
	From     string    `json:"from,omitempty"`
	To       string    `json:"to,omitempty"`
}
