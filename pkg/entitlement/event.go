package entitlement

import (
	"strings"

	"github.com/oklog/ulid/v2"
)

// Environment keeps test purchases and real ones apart: everything that we store, sign or answer belongs to exactly one.
type Environment string

// The two environments.
const (
	Production Environment = "production"
	Sandbox    Environment = "sandbox"
)

// Environments lists both, in the order in which we show them.
var Environments = []Environment{Production, Sandbox}

// Valid reports whether e is one of the two.
func (e Environment) Valid() bool { return e == Production || e == Sandbox }

// Provider names who told us about a purchase.
type Provider string

// The providers that Latchkey takes messages from. Latchkey is the provider of what the API itself grants.
const (
	Stripe     Provider = "stripe"
	Apple      Provider = "apple"
	Google     Provider = "google"
	RevenueCat Provider = "revenuecat"
	Adapty     Provider = "adapty"
	Iaptic     Provider = "iaptic"
	Web2Wave   Provider = "web2wave"
	Latchkey   Provider = "latchkey"
)

// AccountID is the server-made id of whose access it is: "acc_" and a ULID.
type AccountID string

// IsID reports whether id has the form of those that writers make for things of a kind: the kind's prefix, such as "acc_", and a ULID in capitals.
func IsID(prefix, id string) bool {
	rest, ok := strings.CutPrefix(id, prefix)
	made, err := ulid.ParseStrict(rest)
	return ok && err == nil && made.String() == rest
}

// PurchaseID is the smallest store id by which a purchase is known, such as "stripe:sub_1". See [Evidence.ID].
type PurchaseID string

// TermID is the provider's name of one stretch of one product: Stripe "<item>:<period start>" or a payment intent.
type TermID string

// ProductID is the provider's name of what is sold: a Stripe price, an Apple product id.
type ProductID string

// Link is a store id that a message proves to belong to a purchase: "<provider>:<id>". Objects that share a link are
// one purchase.
type Link string

// Alias is another name of an account: a provider's customer id, a subject of an identity provider.
type Alias struct {
	Kind  AliasKind `cbor:"1,keyasint" json:"kind"`
	Value string    `cbor:"2,keyasint" json:"value"`
}

// AliasKind says whose name an alias is. One (kind, value) has one owner.
type AliasKind string

// The alias kinds of the server API.
const (
	StripeCustomer           AliasKind = "stripe_customer"
	AppleAppAccountToken     AliasKind = "apple_app_account_token"
	AppleOriginalTransaction AliasKind = "apple_original_transaction"
	GoogleObfuscatedAccount  AliasKind = "google_obfuscated_account"
	GooglePurchaseToken      AliasKind = "google_purchase_token"
	RevenueCatAppUser        AliasKind = "revenuecat_app_user"
	AdaptyProfile            AliasKind = "adapty_profile"
	AdaptyCustomerUser       AliasKind = "adapty_customer_user"
	IapticUsername           AliasKind = "iaptic_username"
	Web2WaveUser             AliasKind = "web2wave_user"
	OIDCSubject              AliasKind = "oidc_subject"
	Custom                   AliasKind = "custom"
)

// Provider returns whose name of a customer the kind is, empty where it is nobody's: an alias of another kind is learned from the API alone.
func (k AliasKind) Provider() Provider {
	switch k {
	case RevenueCatAppUser:
		return RevenueCat
	case AdaptyProfile, AdaptyCustomerUser:
		return Adapty
	case IapticUsername:
		return Iaptic
	case Web2WaveUser:
		return Web2Wave
	}
	return ""
}

// CarriesAccount reports whether a provider carries our account id as a name of this kind, which then needs no alias.
func (k AliasKind) CarriesAccount() bool {
	return k.Provider() != "" || k == GoogleObfuscatedAccount
}

// CustomerLink is the link of what a provider says about a customer and no purchase of theirs.
func CustomerLink(p Provider, id string) Link { return Link(string(p) + ":customer:" + id) }

// AliasKinds lists every kind that a caller may use.
var AliasKinds = []AliasKind{StripeCustomer, AppleAppAccountToken, AppleOriginalTransaction, GoogleObfuscatedAccount, GooglePurchaseToken,
	RevenueCatAppUser, AdaptyProfile, AdaptyCustomerUser, IapticUsername, Web2WaveUser, OIDCSubject, Custom}

// Event is a provider's message in our words: what it proves, without what belongs to its delivery. Two deliveries of
// one message give equal events.
type Event struct {
	Provider    Provider    `cbor:"1,keyasint"`
	ID          string      `cbor:"2,keyasint"` // the provider's own id, else "sha256:<hex of the body>"
	Environment Environment `cbor:"3,keyasint"` // that the message itself names
	Type        string      `cbor:"4,keyasint,omitempty"`
	CreatedAt   int64       `cbor:"5,keyasint,omitempty"` // provider's time, Unix seconds; for the audit trail only
	Kind        EventKind   `cbor:"6,keyasint,omitempty"`
	Objects     []Object    `cbor:"7,keyasint,omitempty"`

	// Raw is what the adapter's allow-list keeps of the message, as JSON: ids, numbers, booleans, times, enums, our own
	// metadata keys. It is for people and for re-reading history, and never decides: it is no part of sameness.
	Raw []byte `cbor:"8,keyasint,omitempty"`
}

// EventKind says how an event is to be taken.
type EventKind uint8

const (
	// Proof carries states of provider objects. It is the zero value.
	Proof EventKind = iota
	// Unhandled is authentic and of a type that proves nothing we use: stored and counted.
	Unhandled
	// Unreadable is authentic but not understood: its SHA-256, length and parse error are stored.
	Unreadable
)

// ObjectKind names a kind of provider object, in words that all providers share.
type ObjectKind string

// The kinds of provider objects. Each belongs to the field of the same name in Object.
const (
	KindSubscription ObjectKind = "subscription"
	KindInvoice      ObjectKind = "invoice"
	KindPayment      ObjectKind = "payment" // which payment intent paid which invoice
	KindCharge       ObjectKind = "charge"
	KindRefund       ObjectKind = "refund"
	KindDispute      ObjectKind = "dispute"
	KindCheckout     ObjectKind = "checkout" // a one-time purchase, or what ties one to its customer
	KindSale         ObjectKind = "sale"     // what a checkout sold: an object of its own, because only some messages carry it
	KindHint         ObjectKind = "hint"     // that an object has changed, without its state; it has the object's id

	// The kinds in which every provider but Stripe tells of a purchase, since version 2 of the rules.
	KindTransaction ObjectKind = "transaction" // one term of one product, or one sale
	KindRenewal     ObjectKind = "renewal"     // where a chain of terms stands; it has the chain's id
	KindRevocation  ObjectKind = "revocation"  // that a transaction was taken back, told apart from the transaction
	KindCustomer    ObjectKind = "customer"    // that a customer was asked about: what settles a hint about all that they own
)

// Object is one provider object in one state. Of several states of an object the newest counts, the first difference
// decides: Final, At, Rank, then the SHA-256 of the normalised state. Exactly one of the state fields is set.
type Object struct {
	Kind  ObjectKind `cbor:"1,keyasint"`
	ID    string     `cbor:"2,keyasint"`           // the provider's
	Final bool       `cbor:"3,keyasint,omitempty"` // a state that the provider calls final
	At    int64      `cbor:"4,keyasint,omitempty"` // the provider's version or time at full precision, Unix nanoseconds
	Rank  uint8      `cbor:"5,keyasint,omitempty"` // the adapter's progress rank

	// Tied: another state of this object has the same Final and At, so Rank or the hash had to decide. Set by Merge.
	Tied bool `cbor:"6,keyasint,omitempty"`
	// Partial: the message did not carry all of the object (a cut list, no period end), so it must be asked for.
	Partial bool `cbor:"7,keyasint,omitempty"`

	Account AccountID `cbor:"8,keyasint,omitempty"` // metadata account_id; not checked to exist
	Aliases []Alias   `cbor:"9,keyasint,omitempty"` // under which an account may own this
	Links   []Link    `cbor:"10,keyasint,omitempty"`

	Subscription *Subscription `cbor:"11,keyasint,omitempty"`
	Invoice      *Invoice      `cbor:"12,keyasint,omitempty"`
	Payment      *Payment      `cbor:"13,keyasint,omitempty"`
	Charge       *Charge       `cbor:"14,keyasint,omitempty"`
	Refund       *Refund       `cbor:"15,keyasint,omitempty"`
	Dispute      *Dispute      `cbor:"16,keyasint,omitempty"`
	Checkout     *Checkout     `cbor:"17,keyasint,omitempty"`
	Sale         *Sale         `cbor:"18,keyasint,omitempty"`
	Hint         *Hint         `cbor:"19,keyasint,omitempty"`

	// By is who says so, where that is not Stripe. Two providers that tell of one thing tell of two objects.
	By Provider `cbor:"20,keyasint,omitempty"`

	Transaction *Transaction `cbor:"21,keyasint,omitempty"`
	Renewal     *Renewal     `cbor:"22,keyasint,omitempty"`
	Revocation  *Revocation  `cbor:"23,keyasint,omitempty"`
	Customer    *Customer    `cbor:"24,keyasint,omitempty"`

	// Shares are identities that the provider lets use the purchase beside its owner.
	Shares []Alias `cbor:"25,keyasint,omitempty"`
	// Sandbox: a test purchase that came to production. The state machine sets it, adapters never do.
	Sandbox bool `cbor:"26,keyasint,omitempty"`

	// Person is what the store calls whoever bought it, the same under every account of theirs: Apple's appTransactionId. A trial is used up by it.
	Person string `cbor:"27,keyasint,omitempty"`

	// Naming is whom the store was told that the buyer is. It stands beside Account and Aliases, of which a later purchase leaves no trace; nil: nobody was named.
	Naming *Naming `cbor:"28,keyasint,omitempty"`
	// Former are other names that earlier states of the object had in Account and Aliases, sorted: a purchase that moved was of those accounts. Set by Merge,
	// adapters never do. There are none at stores that say with each term who bought it (Naming).
	Former []FormerName `cbor:"29,keyasint,omitempty"`
	// NamedSince is the oldest version in which an aggregator said the name in Account and Aliases, Unix nanoseconds. Zero: that of At. Set as Former is.
	NamedSince int64 `cbor:"30,keyasint,omitempty"`
}

// SubscriptionStatus is Stripe's word for it; adapters of other providers translate.
type SubscriptionStatus string

// The subscription statuses. Canceled and IncompleteExpired are final.
// Source: docs.stripe.com/api/subscriptions/object#subscription_object-status.
const (
	Incomplete        SubscriptionStatus = "incomplete"
	IncompleteExpired SubscriptionStatus = "incomplete_expired"
	Trialing          SubscriptionStatus = "trialing"
	Active            SubscriptionStatus = "active"
	PastDue           SubscriptionStatus = "past_due"
	Unpaid            SubscriptionStatus = "unpaid"
	Paused            SubscriptionStatus = "paused"
	Canceled          SubscriptionStatus = "canceled"
)

// Subscription is the state of a recurring agreement. All times are Unix seconds; 0 is absent.
type Subscription struct {
	Status            SubscriptionStatus `cbor:"1,keyasint"`
	Items             []SubscriptionItem `cbor:"2,keyasint,omitempty"` // sorted by ID
	TrialStart        int64              `cbor:"3,keyasint,omitempty"`
	TrialEnd          int64              `cbor:"4,keyasint,omitempty"`
	CancelAt          int64              `cbor:"5,keyasint,omitempty"`
	CancelAtPeriodEnd bool               `cbor:"6,keyasint,omitempty"`
	EndedAt           int64              `cbor:"7,keyasint,omitempty"`
	StartedAt         int64              `cbor:"8,keyasint,omitempty"`
	LatestInvoice     string             `cbor:"9,keyasint,omitempty"`
	CollectionPaused  bool               `cbor:"10,keyasint,omitempty"`
}

// SubscriptionItem is one product inside a subscription with its present period.
type SubscriptionItem struct {
	ID string `cbor:"1,keyasint"`
	Sold
	StartsAt int64 `cbor:"10,keyasint,omitempty"` // of the present period
	EndsAt   int64 `cbor:"11,keyasint,omitempty"` // exclusive; 0 is unknown, and then the object is Partial
}

// Sold says what is sold, how many, and at what price.
type Sold struct {
	Product  ProductID   `cbor:"2,keyasint,omitempty"` // the most exact id: Stripe's price
	Also     []ProductID `cbor:"3,keyasint,omitempty"` // less exact ones, most exact first: Stripe's lookup key, product
	Quantity int64       `cbor:"4,keyasint,omitempty"` // 0 is 1
	Price    *Price      `cbor:"5,keyasint,omitempty"`
}

// Price is what one unit costs, as the provider reported it.
type Price struct {
	Amount   int64  `cbor:"1,keyasint" json:"-"`           // in the currency's smallest unit
	Currency string `cbor:"2,keyasint" json:"-"`           // ISO 4217, upper case
	Period   string `cbor:"3,keyasint,omitempty" json:"-"` // ISO 8601 duration, "P1M"; empty for a one-time price
}

// InvoiceStatus is Stripe's word for it. Paid and Void are final.
type InvoiceStatus string

// The invoice statuses. Source: docs.stripe.com/api/invoices/object#invoice_object-status.
const (
	InvoiceDraft         InvoiceStatus = "draft"
	InvoiceOpen          InvoiceStatus = "open"
	InvoicePaid          InvoiceStatus = "paid"
	InvoiceUncollectible InvoiceStatus = "uncollectible"
	InvoiceVoid          InvoiceStatus = "void"
)

// Invoice is a demand for money and, once paid, the proof of what the money bought.
type Invoice struct {
	Status        InvoiceStatus `cbor:"1,keyasint"`
	Subscription  string        `cbor:"2,keyasint,omitempty"` // id
	PaymentIntent string        `cbor:"3,keyasint,omitempty"` // before basil
	Charge        string        `cbor:"4,keyasint,omitempty"` // before basil
	AmountPaid    int64         `cbor:"5,keyasint,omitempty"` // smallest unit
	Currency      string        `cbor:"6,keyasint,omitempty"`
	CreatedAt     int64         `cbor:"7,keyasint,omitempty"`
	PaidAt        int64         `cbor:"8,keyasint,omitempty"`
	Lines         []InvoiceLine `cbor:"9,keyasint,omitempty"` // sorted by ID
}

// InvoiceLine is one position of an invoice: a stretch of one subscription item.
type InvoiceLine struct {
	ID        string `cbor:"1,keyasint"`
	Sold             // Price is absent: Amount is what counts
	Item      string `cbor:"10,keyasint,omitempty"` // subscription item id
	Amount    int64  `cbor:"11,keyasint,omitempty"` // negative for a credit
	StartsAt  int64  `cbor:"12,keyasint,omitempty"`
	EndsAt    int64  `cbor:"13,keyasint,omitempty"` // exclusive
	Proration bool   `cbor:"14,keyasint,omitempty"`
}

// Payment ties a payment intent to the invoice that it paid: since API basil nothing else does. One that has the payment intent's or the charge's own id, and
// no Invoice, says that it was asked what that paid: whatever it did has an object of its own.
type Payment struct {
	Invoice       string `cbor:"1,keyasint"`
	PaymentIntent string `cbor:"2,keyasint,omitempty"`
	Charge        string `cbor:"3,keyasint,omitempty"`
	Status        string `cbor:"4,keyasint,omitempty"` // open, paid, canceled
	AmountPaid    int64  `cbor:"5,keyasint,omitempty"`
}

// Charge is money taken, and how much of it was given back.
type Charge struct {
	PaymentIntent  string `cbor:"1,keyasint,omitempty"`
	Invoice        string `cbor:"2,keyasint,omitempty"` // before basil
	Amount         int64  `cbor:"3,keyasint,omitempty"`
	AmountRefunded int64  `cbor:"4,keyasint,omitempty"`
	Refunded       bool   `cbor:"5,keyasint,omitempty"` // in full
}

// RefundStatus is Stripe's word for it. Failed and RefundCanceled undo the refund.
type RefundStatus string

// The refund statuses. Source: docs.stripe.com/api/refunds/object#refund_object-status.
const (
	RefundPending        RefundStatus = "pending"
	RefundRequiresAction RefundStatus = "requires_action"
	RefundSucceeded      RefundStatus = "succeeded"
	RefundFailed         RefundStatus = "failed"
	RefundCanceled       RefundStatus = "canceled"
)

// Refund is one giving back of money.
type Refund struct {
	Status        RefundStatus `cbor:"1,keyasint"`
	Charge        string       `cbor:"2,keyasint,omitempty"`
	PaymentIntent string       `cbor:"3,keyasint,omitempty"`
	Amount        int64        `cbor:"4,keyasint,omitempty"`
	CreatedAt     int64        `cbor:"5,keyasint,omitempty"`
}

// Dispute is a chargeback or, with a warning status, an inquiry.
type Dispute struct {
	Status        string `cbor:"1,keyasint"` // Stripe's: needs_response under_review won lost warning_... prevented
	Charge        string `cbor:"2,keyasint,omitempty"`
	PaymentIntent string `cbor:"3,keyasint,omitempty"`
	Amount        int64  `cbor:"4,keyasint,omitempty"`
	CreatedAt     int64  `cbor:"5,keyasint,omitempty"`
}

// The modes of a checkout.
const (
	CheckoutPayment      = "payment"
	CheckoutSubscription = "subscription"
	CheckoutUnfinished   = "unfinished" // asked for before its end: no purchase yet, whatever it is for
	CheckoutExpired      = "expired"    // it ran out, and never becomes a purchase
)

// The payment states of a checkout: Stripe's words, and CheckoutFailed for one whose delayed payment failed.
const (
	CheckoutPaid   = "paid"
	CheckoutUnpaid = "unpaid" // a delayed payment is under way
	CheckoutFree   = "no_payment_required"
	CheckoutFailed = "failed"
)

// Checkout is a finished checkout. For a one-time payment it is the purchase itself; its Sale says what was sold.
type Checkout struct {
	Mode          string `cbor:"1,keyasint"`           // payment, subscription, setup
	Payment       string `cbor:"2,keyasint,omitempty"` // paid, unpaid, no_payment_required, failed
	Subscription  string `cbor:"3,keyasint,omitempty"`
	PaymentIntent string `cbor:"4,keyasint,omitempty"`
	Invoice       string `cbor:"5,keyasint,omitempty"`
	AmountTotal   int64  `cbor:"6,keyasint,omitempty"` // smallest unit
	CreatedAt     int64  `cbor:"7,keyasint,omitempty"`
}

// Sale is what one checkout sold. It has the checkout's id.
type Sale struct {
	Lines []SaleLine `cbor:"1,keyasint,omitempty"` // sorted by ID
}

// SaleLine is one product of a sale.
type SaleLine struct {
	ID string `cbor:"1,keyasint"`
	Sold
}

// Hint says that an object of the provider was in a new state at the hint's At, and does not say in which: a Stripe thin event. It has the
// object's id, proves nothing by itself, and is settled by any state of the object that is not older.
type Hint struct {
	Of ObjectKind `cbor:"1,keyasint"`
	// Echo: the hint comes from another provider than the object's. Where that one cannot be asked, what the other says is the truth, and
	// nothing is in doubt.
	Echo bool `cbor:"2,keyasint,omitempty"`
}
