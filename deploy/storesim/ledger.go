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
	Product    Product
	StartsAt   time.Time
	EndsAt     time.Time // exclusive; zero: never
	Trial      bool
	Offer      bool      // at the price of an introductory offer
	Cents      int64     // what was paid, 0 for a trial
	PaidAt     time.Time // zero: not yet
	Refunded   int64     // cents given back
	Refunds    int       // how often
	LastRefund int64     // cents given back the last time
	RefundedAt time.Time // last; zero: never
	RevokedAt  time.Time // given back in full, or taken back; zero: it stands
	Upgraded   bool      // a better product took over before its end
	Attempts   int       // of the store to charge for it, where that fails
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
	ID       string `json:"id"` // the simulator's, or the name that it was given
	N        int    `json:"n"`  // counts from 1
	Provider Provider
	Env      Environment
	Store    Store
	Owner    string   // account of its Customer
	Shares   []string // accounts of others who may use it: the family, or profiles of one store account

	Product   Product // of the present term
	Next      Product // what it renews as
	Terms     []Term  // the oldest first; one for a sale
	Phase     Phase
	StartedAt time.Time
	ChangedAt time.Time // when the last fact about it was written
	WillRenew bool
	TurnedOff time.Time // when the renewal was turned off; zero: it is on
	CardFails bool
	FailedAt  time.Time // when the card first failed; zero: it works
	GraceEnds time.Time // in Grace
	RetryEnds time.Time // in Grace and Retry
	PauseDue  bool      // at the end of the term
	ResumesAt time.Time // of a pause
	EndedAt   time.Time // in Ended
	EndReason string    // in Ended: "cancelled", "billing", "refund", "replaced"
	Replaces  string    // id of the purchase that this one took over: a Play token

	DisputedTerm int    // -1: no dispute is open
	DisputeState string // of the last one: "needs_response", "won", "lost"
	DisputeTerm  int    // that the last one was about
	DisputedAt   time.Time
	Disputes     int
	Quantity     int
	Taken        bool // Play: acknowledged or consumed
	StoreTells   bool // its store sends messages too
	OfferTerms   int  // so many paid terms, the first ones, cost OfferCents
	OfferCents   int64
	Email        string // what the buyer gave at a checkout on the web
	SharedOf     string // of the family's part: the purchase that was bought

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
	Renewed         FactKind = "renewed"          // Term, Until
	RenewalFailed   FactKind = "renewal_failed"   // Until: the end of billing grace; zero: access stopped
	GraceExpired    FactKind = "grace_expired"    //
	Recovered       FactKind = "recovered"        // Term, Until
	Resubscribed    FactKind = "resubscribed"     // Term, Until: after its end
	RenewalOff      FactKind = "renewal_off"      //
	RenewalOn       FactKind = "renewal_on"       //
	Expired         FactKind = "expired"          // Reason
	Refunded        FactKind = "refunded"         // Term, Cents, Full
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
	Full     bool      `json:"full,omitempty"`
	Reason   string    `json:"reason,omitempty"`
	From     string    `json:"from,omitempty"`
	To       string    `json:"to,omitempty"`
}
