package entitlement

import (
	"cmp"
	"crypto/sha1" // RFC 9562 version 5 is made of it; nothing here needs a collision-free hash
	"encoding/hex"
	"math"
	"slices"
)

// Status is where an entitlement stands at the time of a view. The words are part of the app API.
type Status string

// The statuses. The first three are active.
const (
	StatusTrialing     Status = "trialing"
	StatusActive       Status = "active"
	StatusBillingGrace Status = "billing_grace"
	StatusPending      Status = "pending"
	StatusBillingRetry Status = "billing_retry"
	StatusPaused       Status = "paused"
	StatusExpired      Status = "expired"
	StatusRefunded     Status = "refunded"
	StatusRevoked      Status = "revoked"
)

// Active reports whether the status gives access.
func (s Status) Active() bool {
	return s == StatusTrialing || s == StatusActive || s == StatusBillingGrace
}

// Why buying is blocked.
const (
	BlockedSubscription = "active_subscription"
	BlockedOwned        = "already_owned"
)

const (
	// listedSeconds is how long what has ended stays in the answer: apps explain a lapse with it.
	listedSeconds = 90 * 24 * 3600

	// offlineRenewalSeconds is how long past its paid end a subscription that renews is allowed offline (A10.5): its renewal most likely
	// happened, and locking a payer out is the worse error.
	offlineRenewalSeconds = 24 * 3600

	// unconfirmedSeconds is how long the answer says that a purchase was not confirmed: until its buyer has opened the app again, or written to support.
	unconfirmedSeconds = 24 * 3600

	secondsPerDay = 24 * 3600
)

// ManageURLs says where a user manages a subscription, by provider. A provider that is not in it has no such page.
type ManageURLs map[Provider]string

// View is what an account may use at one moment. The zero value is an account without anything, which may buy everything.
type View struct {
	Entitlements []Entitlement  // sorted by ID, one for each
	Balances     []Balance      // sorted by Credit
	Blocked      []BlockedGroup // sorted by Group: product groups that must not be bought now
	Unmapped     []Unmapped     // what was sold and the catalog does not know
	TrialUsed    bool

	sales    []creditSale // of credits
	accesses []stretch    // of packages

	// PendingUntil is until when the state is pending because a purchase that the app told of is not confirmed; 0 is settled.
	PendingUntil int64

	// Unconfirmed is what the app told of and no provider confirmed in time, as the record has it: the buyer is to be told so, with what support needs.
	Unconfirmed []Awaited

	// NextChangeAt is the earliest instant after now at which the view changes by the passing of time alone, Unix seconds; 0 is never.
	NextChangeAt int64
}

// Entitlement is one key that an app asks about, by the best of the purchases that give it. Times are Unix seconds.
type Entitlement struct {
	ID          string
	Status      Status
	Reason      Reason
	ExpiresAt   int64 // the end of what was paid for, for display; 0 is never
	AccessUntil int64 // access stops here, exclusive; 0 is never
	WillRenew   bool
	Trial       bool
	Granted     bool // by support or a promotion, not bought
	Sandbox     bool // by a test purchase that came to production
	Ownership   Ownership
	Plan        string
	NextPlan    string // what it will renew as, where that is another plan
	Price       *Price // nil: not known
	ManageURL   string
	Provider    Provider
	Store       string
	Product     ProductID
	Purchase    PurchaseID
	Others      []OtherPurchase // sorted as purchases compete

	item string // breaks ties within a purchase
}

// OtherPurchase is a purchase that gives the same entitlement and is not the one shown.
type OtherPurchase struct {
	Purchase    PurchaseID
	Provider    Provider
	Store       string
	Product     ProductID
	Status      Status
	ExpiresAt   int64
	AccessUntil int64
	WillRenew   bool
	ManageURL   string

	item string
}

// Balance is what the account has of one credit. It is below zero for who has spent what was taken back.
type Balance struct {
	Credit string
	Amount int64
}

// BlockedGroup is a group of products that must not be bought now, because it is already paid for.
type BlockedGroup struct {
	Group     string
	Reason    string // BlockedSubscription, BlockedOwned
	Store     string
	ManageURL string

	kind blockingKind
}

// blockingKind orders what may be in the way within a group: there is something to manage of a subscription, and a pass ends by itself.
type blockingKind uint8

const (
	blockingPass blockingKind = iota
	blockingOwned
	blockingSubscription
)

// Unmapped is a product that was sold and is not in the catalog: it gives nothing until it is mapped.
type Unmapped struct {
	Purchase PurchaseID
	Provider Provider
	Product  ProductID
}

// OfflineUntil returns until when an app may use e without a newer answer, given the exp of the token that it comes with; 0 is never
// allowed (A10.5). Graces never add up: only a paid subscription that will renew may pass its paid end, by a day.
func (e *Entitlement) OfflineUntil(exp int64) int64 {
	switch {
	case !e.Status.Active():
		return 0
	case e.Status == StatusActive && e.WillRenew && e.AccessUntil > e.ExpiresAt: // not where the provider gave up on the last invoice
		return min(exp, e.ExpiresAt+offlineRenewalSeconds)
	case e.AccessUntil == 0:
		return exp
	}
	return min(exp, e.AccessUntil)
}

// The states of an answer: whether a purchase that the app told of cannot be confirmed yet.
const (
	StateSettled = "settled"
	StatePending = "pending"
)

// State is the answer's: StateSettled or StatePending.
func (v *View) State() string {
	if v.PendingUntil != 0 {
		return StatePending
	}
	return StateSettled
}

// View computes what a may use at now, Unix seconds.
func (a *Account) View(x *CatalogIndex, now int64, urls ManageURLs) View {
	var v View
	a.ViewInto(&v, x, now, urls)
	return v
}

// ViewInto is View into a view whose memory is used again.
func (a *Account) ViewInto(v *View, x *CatalogIndex, now int64, urls ManageURLs) {
	*v = View{Entitlements: v.Entitlements[:0], Balances: v.Balances[:0], sales: v.sales[:0], accesses: v.accesses[:0], Blocked: v.Blocked[:0], Unmapped: v.Unmapped[:0],
		Unconfirmed: v.Unconfirmed[:0], NextChangeAt: math.MaxInt64}
	for i := range a.Purchases {
		p := &a.Purchases[i]
		v.TrialUsed = v.TrialUsed || p.TrialUsed
		for j := range p.Items {
			v.addItem(p, &p.Items[j], x, now, urls)
		}
	}
	v.TrialUsed = v.TrialUsed || a.TrialLocked
	v.Balances = appendBalances(v.Balances, v.sales, a.Spent)
	for i := range a.Grants {
		v.addGrant(&a.Grants[i], now)
	}
	v.addRedeemed(a.Accesses)
	v.addAccesses(now)
	for _, w := range a.Awaited {
		switch {
		case now >= w.ForgottenAt() || a.Bought(x, w, now):
		case now < w.Until:
			v.PendingUntil = max(v.PendingUntil, w.Until)
			v.changesAt(w.Until, now)
		case !a.came(x, w):
			v.Unconfirmed = append(v.Unconfirmed, w)
			v.changesAt(w.ForgottenAt(), now)
		}
	}
	if v.NextChangeAt == math.MaxInt64 {
		v.NextChangeAt = 0
	}
	for i := range v.Entitlements {
		slices.SortFunc(v.Entitlements[i].Others, compareOthers)
	}
}

func (v *View) addItem(p *Purchase, item *Item, x *CatalogIndex, now int64, urls ManageURLs) {
	product, ok := x.productOf(p, item)
	if !ok {
		v.Unmapped = append(v.Unmapped, Unmapped{p.ID, p.Provider, item.Term.Product})
		return
	}
	e := Entitlement{
		ExpiresAt:   item.Term.EndsAt,
		AccessUntil: item.AccessUntil,
		WillRenew:   item.WillRenew,
		Trial:       item.Term.Trial,
		Sandbox:     p.Sandbox,
		Ownership:   item.Ownership,
		Plan:        product.Plan,
		Price:       item.Term.Price,
		Provider:    p.Provider,
		Store:       p.Store,
		Product:     item.Term.Product,
		Purchase:    p.ID,
		item:        item.ID,
	}
	if item.Recurring {
		if e.ManageURL = urls[providerOf(p.Store)]; e.ManageURL == "" {
			e.ManageURL = urls[p.Provider]
		}
	}
	if item.Next != "" {
		if next, ok := x.lookup(p, &Sold{Product: item.Next}); ok && next.Plan != product.Plan {
			e.NextPlan = next.Plan
		}
	}
	quantity := max(item.Term.Quantity, 1)
	if !item.Recurring && item.State == Live && product.DurationDays > 0 {
		e.endAfter(item.Term.StartsAt, int64(product.DurationDays), quantity)
	}
	e.Status, e.Reason = item.standing(now, e.AccessUntil)
	if e.ExpiresAt == 0 && !e.Status.Active() && e.Status != StatusPending {
		e.ExpiresAt = e.AccessUntil // what never ended has ended now
	}
	switch product.Kind {
	case KindConsumable:
		v.sales = appendSales(v.sales, p, item, product)
		return
	case KindPackage:
		if product.Deliver == DeliverCode {
			return // given by redeeming the code, not by the payment
		}
		for _, access := range product.Accesses {
			one := stretch{e: e, item: item, start: item.Term.StartsAt, seconds: AccessSeconds(access, quantity),
				stacked: product.Stack == StackExtend && !item.Recurring}
			one.e.ID = access.Module
			switch {
			case item.State == Revoked:
				one.revokedAt = max(item.AccessUntil, 1)
			case item.State != Live || access.DurationDays == 0:
				one.seconds, one.fixed = 0, true
			}
			v.accesses = append(v.accesses, one)
		}
		return
	}
	v.block(product, &e)
	for _, id := range product.Entitlements {
		e.ID = id
		v.add(&e, now)
	}
}

// endAfter ends what does not renew a number of days after it began, for each unit of it.
func (e *Entitlement) endAfter(start, days, quantity int64) {
	e.AccessUntil = min(start+days*secondsPerDay*quantity, maxTime)
	e.ExpiresAt = e.AccessUntil
}

// standing says where the item stands at now. until is its AccessUntil, or what the catalog makes of it. Only Live and Retrying look at
// the clock: the clocks of two nodes differ, and what was taken back must not come back for a second.
func (i *Item) standing(now, until int64) (Status, Reason) {
	within := until == 0 || now < until
	switch i.State {
	case Live:
		switch {
		case !within:
			return StatusExpired, ReasonExpired
		case i.Provisional:
			return StatusActive, ReasonProvisional
		case i.Promo:
			return StatusActive, ReasonPromo
		case i.Ownership == Family:
			return StatusActive, ReasonFamily
		case i.Recurring && !i.WillRenew && i.Term.Trial:
			return StatusTrialing, ReasonCancelledUntilEnd
		case i.Term.Trial:
			return StatusTrialing, ReasonTrial
		case i.Recurring && !i.WillRenew:
			return StatusActive, ReasonCancelledUntilEnd
		}
		return StatusActive, ReasonPaid
	case Retrying:
		if i.BillingGraceUntil != 0 && within {
			return StatusBillingGrace, ReasonBillingGrace
		}
		return StatusBillingRetry, ReasonBillingRetry
	case Pending:
		return StatusPending, ReasonProvisional
	case OnHold:
		return StatusPaused, ReasonPaused
	case Revoked:
		if i.Reason == ReasonRefunded {
			return StatusRefunded, ReasonRefunded
		}
		return StatusRevoked, cmp.Or(i.Reason, ReasonRevoked)
	}
	return StatusExpired, ReasonExpired
}

func (v *View) addGrant(g *Grant, now int64) {
	e := Entitlement{
		ID: g.Entitlement, Status: StatusActive, Reason: ReasonPromo, ExpiresAt: g.EndsAt, AccessUntil: g.EndsAt, Granted: true,
		Provider: Latchkey, Store: string(Latchkey), Purchase: PurchaseID(string(Latchkey) + ":" + g.ID), item: g.ID,
	}
	if g.EndsAt != 0 && now >= g.EndsAt {
		e.Status, e.Reason = StatusExpired, ReasonExpired
	}
	v.add(&e, now)
}

// stretch is one access of a package, whose code was redeemed or which a store sold.
type stretch struct {
	e         Entitlement
	item      *Item // nil: of a code
	start     int64 // when it was redeemed; a store's counts as redeemed when it was bought
	seconds   int64 // 0: for ever
	stacked   bool
	fixed     bool  // a store's item says itself when it ends
	revokedAt int64 // 0: it was not
}

// addRedeemed notes what redeemed codes give.
func (v *View) addRedeemed(accesses []Access) {
	for i := range accesses {
		a := &accesses[i]
		one := stretch{start: a.RedeemedAt, seconds: a.Seconds, stacked: a.Stacked, revokedAt: a.RevokedAt, e: Entitlement{ID: a.Module, Status: StatusActive, Reason: ReasonPaid,
			Provider: Latchkey, Store: string(Latchkey), Purchase: PurchaseID(string(Latchkey) + ":" + a.ID), item: a.ID}}
		if a.RevokedAt != 0 {
			one.e.Status, one.e.Reason = StatusRefunded, ReasonRefunded
			if a.Reason != "" {
				one.e.Status, one.e.Reason = StatusRevoked, a.Reason
			}
		}
		v.accesses = append(v.accesses, one)
	}
}

// addAccesses adds what packages give. One that is stacked begins where what the account has of its module ends; what was taken back counts up to then.
func (v *View) addAccesses(now int64) {
	if len(v.accesses) == 0 {
		return
	}
	slices.SortFunc(v.accesses, func(a, b stretch) int {
		return cmp.Or(cmp.Compare(a.start, b.start), cmp.Compare(a.e.Purchase, b.e.Purchase), cmp.Compare(a.e.item, b.e.item), cmp.Compare(a.e.ID, b.e.ID))
	})
	const never = maxTime + 1
	ends := make(map[string]int64, len(v.accesses)) // of each module so far
	for i := range v.accesses {
		a := &v.accesses[i]
		start := a.start
		if a.stacked {
			start = max(start, ends[a.e.ID])
		}
		end := min(start+a.seconds, maxTime)
		switch {
		case a.fixed:
			end = a.e.AccessUntil
			if end == 0 {
				end = never
			}
		case a.seconds == 0 || start > maxTime:
			end = never
		}
		if a.revokedAt != 0 {
			end = min(end, a.revokedAt)
		}
		switch {
		case a.fixed:
		case end == never:
			a.e.ExpiresAt, a.e.AccessUntil = 0, 0
		default:
			a.e.ExpiresAt, a.e.AccessUntil = end, end
		}
		switch {
		case a.item != nil:
			a.e.Status, a.e.Reason = a.item.standing(now, a.e.AccessUntil)
		case a.revokedAt == 0 && now >= end:
			a.e.Status, a.e.Reason = StatusExpired, ReasonExpired
		}
		if a.item == nil || a.item.State == Live || a.item.State == Revoked {
			ends[a.e.ID] = max(ends[a.e.ID], end)
		}
		v.add(&a.e, now)
	}
}

// add lets e compete for its id, unless it ended too long ago to be shown, and notes when that will change.
func (v *View) add(e *Entitlement, now int64) {
	switch e.Status {
	case StatusTrialing, StatusActive, StatusBillingGrace:
		v.changesAt(e.AccessUntil, now)
	case StatusExpired, StatusRefunded, StatusRevoked:
		gone := max(e.AccessUntil, e.ExpiresAt)
		if e.Status == StatusExpired {
			gone = e.AccessUntil
		}
		if gone = min(gone, maxTime) + listedSeconds; now >= gone {
			return
		}
		v.changesAt(gone, now)
	}
	at := 0
	for at < len(v.Entitlements) && v.Entitlements[at].ID < e.ID {
		at++
	}
	if at == len(v.Entitlements) || v.Entitlements[at].ID != e.ID {
		v.Entitlements = slices.Insert(v.Entitlements, at, *e)
		return
	}
	shown := &v.Entitlements[at]
	others := shown.Others
	loser := e.other()
	if compareOthers(e.other(), shown.other()) < 0 {
		loser = shown.other()
		*shown = *e
	}
	shown.Others = append(others, loser)
}

func (v *View) changesAt(t, now int64) {
	if t > now {
		v.NextChangeAt = min(v.NextChangeAt, t)
	}
}

func (e *Entitlement) other() OtherPurchase {
	return OtherPurchase{e.Purchase, e.Provider, e.Store, e.Product, e.Status, e.ExpiresAt, e.AccessUntil, e.WillRenew, e.ManageURL, e.item}
}

// compareOthers puts the better purchase first: active before not, then the later end of access, then the smallest id.
func compareOthers(a, b OtherPurchase) int {
	if activeA, activeB := a.Status.Active(), b.Status.Active(); activeA != activeB {
		if activeA {
			return -1
		}
		return 1
	}
	return cmp.Or(-cmp.Compare(endOf(a.AccessUntil), endOf(b.AccessUntil)), cmp.Compare(a.Purchase, b.Purchase), cmp.Compare(a.item, b.item))
}

// endOf makes "never" the latest of all ends.
func endOf(t int64) int64 {
	if t == 0 {
		return math.MaxInt64
	}
	return t
}

// block notes that the product's group must not be bought now. Billing retry, hold and pause do not block: the user may well want to
// start anew. Products without a group never do, nor what others share or a test purchase gives.
func (v *View) block(p *Product, e *Entitlement) {
	if p.Group == "" || !e.Status.Active() || e.Sandbox || e.Ownership != "" {
		return
	}
	b := BlockedGroup{Group: p.Group, Reason: BlockedSubscription, Store: e.Store, ManageURL: e.ManageURL, kind: blockingSubscription}
	switch {
	case p.Kind == KindRecurring:
	case e.AccessUntil == 0:
		b.Reason, b.kind = BlockedOwned, blockingOwned
	default:
		b.kind = blockingPass
	}
	at := 0
	for at < len(v.Blocked) && v.Blocked[at].Group < b.Group {
		at++
	}
	if at == len(v.Blocked) || v.Blocked[at].Group != b.Group {
		v.Blocked = slices.Insert(v.Blocked, at, b)
	} else if b.kind > v.Blocked[at].kind {
		v.Blocked[at] = b
	}
}

// appleNamespace is the name space (RFC 9562 section 6.5) of the tokens that AccountID.AppleAppAccountToken makes.
var appleNamespace = [16]byte{0x6c, 0x61, 0x74, 0x63, 0x68, 0x6b, 0x45, 0x79, 0x8a, 0x70, 0x70, 0x6c, 0x65, 0x00, 0x00, 0x01}

// AppleAppAccountToken returns the UUID (version 5) that an app hands to StoreKit as appAccountToken: always the same one for an account, so
// that a purchase finds its account without anything stored.
func (id AccountID) AppleAppAccountToken() string {
	h := sha1.New()
	h.Write(appleNamespace[:])
	h.Write([]byte(id))
	var u [16]byte
	copy(u[:], h.Sum(nil))
	u[6] = u[6]&0x0f | 0x50
	u[8] = u[8]&0x3f | 0x80
	var b [36]byte
	hex.Encode(b[:8], u[:4])
	hex.Encode(b[9:13], u[4:6])
	hex.Encode(b[14:18], u[6:8])
	hex.Encode(b[19:23], u[8:10])
	hex.Encode(b[24:], u[10:])
	b[8], b[13], b[18], b[23] = '-', '-', '-', '-'
	return string(b[:])
}
