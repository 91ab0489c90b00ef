package provider

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/tidwall/gjson"

	"github.com/latchkey/latchkey/pkg/entitlement"
)

const (
	// maxRevenueCatUsers bounds how many names of one customer are read: those that a person gave, before those that RevenueCat drew by lot. A
	// customer gets a name more with each device that they log in on; the purchase is found by any one.
	maxRevenueCatUsers = 32
	// maxRevenueCatEntitlements bounds how many entitlements one product gives.
	maxRevenueCatEntitlements = 50

	// anonymousUser begins the names that RevenueCat draws by lot.
	anonymousUser = "$RCAnonymousID:"
)

// The shapes below are the allow-list of webhooks.
var (
	revenueCatAttributes = fields(map[string]keep{"account_id": fields(map[string]keep{"value": accountID})})

	revenueCatEvent = fields(map[string]keep{
		"id": ident, "type": word, "app_id": ident, "event_timestamp_ms": number, "store": word, "environment": word, "purchase_environment": word,
		"app_user_id": revenueCatUser, "original_app_user_id": revenueCatUser, "aliases": revenueCatUsers,
		"transferred_from": revenueCatUsers, "transferred_to": revenueCatUsers, "subscriber_attributes": revenueCatAttributes,
		"product_id": revenueCatID, "new_product_id": revenueCatID, "entitlement_ids": revenueCatNames, "entitlement_id": revenueCatName,
		"period_type": word, "purchased_at_ms": number, "expiration_at_ms": numberOrNull, "grace_period_expiration_at_ms": number,
		"auto_resume_at_ms": number, "transaction_id": revenueCatID, "original_transaction_id": revenueCatID,
		"is_trial_conversion": flag, "is_family_share": flag, "cancel_reason": word, "expiration_reason": word, "renewal_number": number,
		"price_in_purchased_currency": decimal, "currency": word,
	})

	// revenueCatUnhandled is what is kept of a type that proves nothing.
	revenueCatUnhandled = fields(map[string]keep{"id": ident, "type": word, "app_id": ident, "event_timestamp_ms": number, "store": word,
		"environment": word, "purchase_environment": word})
)

// revenueCatUser keeps an App User ID: what an app chose as one, with the signs that identity providers use, so that no blank and no "@" makes it a name
// or an address.
func revenueCatUser(v gjson.Result) any { return textOf(v, maxIDBytes, "_.:-$|/+=~") }

// revenueCatID keeps an id of a store. Some of them come as numbers.
func revenueCatID(v gjson.Result) any {
	if v.Type == gjson.Number {
		if n, ok := number(v).(int64); ok && n > 0 {
			return strconv.FormatInt(n, 10)
		}
		return nil
	}
	return textOf(v, maxIDBytes, "_.:-=/+")
}

// revenueCatName keeps the name of an entitlement, which a merchant typed into the dashboard.
func revenueCatName(v gjson.Result) any { return textOf(v, maxWordBytes, "_.:-/+ ") }

func textOf(v gjson.Result, most int, extra string) any {
	if v.Type == gjson.String && isText(v.Str, most, func(c byte) bool { return isAlnum(c) || strings.IndexByte(extra, c) >= 0 }) {
		return v.Str
	}
	return nil
}

// numberOrNull keeps a number, and null as false: nothing is one thing, and "none" another.
func numberOrNull(v gjson.Result) any {
	if v.Type == gjson.Null {
		return false
	}
	return number(v)
}

// decimal keeps a number with digits behind its point as it was written.
func decimal(v gjson.Result) any {
	if v.Type == gjson.Number && isText(v.Raw, 32, func(c byte) bool { return isAlnum(c) || strings.IndexByte("+-.", c) >= 0 }) {
		return v.Raw
	}
	return nil
}

// revenueCatUsers keeps names of a customer.
func revenueCatUsers(v gjson.Result) any {
	if !v.IsArray() {
		return nil
	}
	var named, drawn []string
	v.ForEach(func(_, v gjson.Result) bool {
		id, _ := revenueCatUser(v).(string)
		into := &named
		if strings.HasPrefix(id, anonymousUser) {
			into = &drawn
		}
		if id != "" && len(*into) < maxRevenueCatUsers && !slices.Contains(*into, id) {
			*into = append(*into, id)
		}
		return len(named) < maxRevenueCatUsers
	})
	return idList(append(named, drawn...), maxRevenueCatUsers)
}

// revenueCatNames keeps a list of names of entitlements.
func revenueCatNames(v gjson.Result) any {
	if !v.IsArray() {
		return nil
	}
	var names []string
	v.ForEach(func(_, v gjson.Result) bool {
		if name, ok := revenueCatName(v).(string); ok {
			names = append(names, name)
		}
		return len(names) <= maxRevenueCatEntitlements
	})
	return idList(names, maxRevenueCatEntitlements)
}

func idList(ids []string, most int) any {
	if len(ids) == 0 {
		return nil
	}
	out := list{Cut: len(ids) > most}
	for _, id := range ids[:min(len(ids), most)] {
		out.Data = append(out.Data, object{"id": id})
	}
	return out
}

// ids returns the ids of a nested list.
func (o object) ids(name string) (ids []string) {
	l, _ := o[name].(list)
	for _, element := range l.Data {
		ids = append(ids, element.text("id"))
	}
	return ids
}

// What is wrong with a message of a type that we act on, so that it proves nothing.
var (
	errRevenueCatEvent   = errors.New("no event: id, type or time is missing or wrong")
	errRevenueCatContent = errors.New("the event names neither a purchase nor a customer whom we could ask about")
	errRevenueCatEnd     = errors.New("a purchase without a term: its end is missing or wrong")
)

func parseRevenueCat(body []byte, env entitlement.Environment) (entitlement.Event, error) {
	m, err := decodeObject(body)
	if err != nil {
		return entitlement.Event{}, err
	}
	subject := member(m, "event")
	head, _ := revenueCatUnhandled(subject).(object)
	at := head.int("event_timestamp_ms")
	ev := entitlement.Event{Provider: entitlement.RevenueCat, ID: head.text("id"), Type: head.text("type"), CreatedAt: at / 1000, Environment: env}
	if ev.ID == "" || ev.Type == "" || at < 0 {
		return entitlement.Event{}, errRevenueCatEvent
	}
	switch strings.ToUpper(cmp.Or(head.text("environment"), head.text("purchase_environment"))) {
	case "PRODUCTION":
		ev.Environment = entitlement.Production
	case "SANDBOX":
		ev.Environment = entitlement.Sandbox
	}
	read, handled := revenueCatTypes[ev.Type]
	if !handled {
		ev.Kind, ev.Raw = entitlement.Unhandled, object{"event": head}.raw()
		return ev, nil
	}
	// Without a time no state can be told to be newer than another.
	if at == 0 || at > math.MaxInt64/1_000_000 {
		return entitlement.Event{}, errRevenueCatEvent
	}
	o := revenueCatEvent(subject).(object)
	message := newRevenueCatMessage(o)
	if err := read.read(message); err != nil {
		return entitlement.Event{}, err
	}
	if ev.Objects = message.objects; message.echo {
		ev.Kind, ev.Objects = entitlement.Unhandled, nil
	}
	for i := range ev.Objects {
		o := &ev.Objects[i]
		if o.At = at * 1e6; o.Renewal != nil {
			o.Rank = read.rank
		}
	}
	ev.Raw = object{"event": o}.raw()
	return ev, nil
}

// revenueCatType says how events of a type are read. Of events of one moment, which RevenueCat sends in any order, the one counts that says
// that a subscription is further on.
type revenueCatType struct {
	rank uint8
	read func(*revenueCatMessage) error
}

// revenueCatTypes are the types that prove something, or say that there is something to ask for.
var revenueCatTypes = map[string]revenueCatType{
	"TEMPORARY_ENTITLEMENT_GRANT": {1, (*revenueCatMessage).provisional},
	"INITIAL_PURCHASE":            {2, (*revenueCatMessage).renewed},
	"NON_RENEWING_PURCHASE":       {2, (*revenueCatMessage).sold},
	"RENEWAL":                     {3, (*revenueCatMessage).renewed},
	"SUBSCRIPTION_EXTENDED":       {3, (*revenueCatMessage).extended},
	"UNCANCELLATION":              {4, (*revenueCatMessage).resumed},
	"PRODUCT_CHANGE":              {5, (*revenueCatMessage).changes},
	"CANCELLATION":                {6, (*revenueCatMessage).cancelled},
	"SUBSCRIPTION_PAUSED":         {7, (*revenueCatMessage).pauses},
	"BILLING_ISSUE":               {8, (*revenueCatMessage).retried},
	"EXPIRATION":                  {9, (*revenueCatMessage).expired},
	"REFUND_REVERSED":             {10, (*revenueCatMessage).refundReversed},
	"TRANSFER":                    {11, (*revenueCatMessage).transferred},
	"SUBSCRIBER_ALIAS":            {11, (*revenueCatMessage).renamed},
	"PURCHASE_REDEEMED":           {11, (*revenueCatMessage).renamed},
}

// revenueCatMessage collects what an event proves.
type revenueCatMessage struct {
	o       object
	at      int64 // Unix seconds
	owner   revenueCatOwner
	sale    revenueCatSale
	objects []entitlement.Object
	echo    bool // of a grant of our own
}

func newRevenueCatMessage(o object) *revenueCatMessage {
	m := &revenueCatMessage{o: o, at: o.int("event_timestamp_ms") / 1000}
	m.owner = newRevenueCatOwner(o.in("subscriber_attributes", "account_id").text("value"),
		append([]string{o.text("app_user_id"), o.text("original_app_user_id")}, o.ids("aliases")...))
	end, told := o["expiration_at_ms"].(int64)
	m.sale = revenueCatSale{
		store: strings.ToLower(o.text("store")), transaction: o.text("transaction_id"), original: o.text("original_transaction_id"),
		product: o.text("product_id"), entitlements: o.ids("entitlement_ids"), family: o.is("is_family_share"),
		startsAt: wholeSecond(o.int("purchased_at_ms")), trial: o.text("period_type") == "TRIAL", prepaid: o.text("period_type") == "PREPAID",
	}
	if name := o.text("entitlement_id"); name != "" && len(m.sale.entitlements) == 0 {
		m.sale.entitlements = []string{name}
	}
	if told {
		m.sale.endsAt = wholeSecond(end)
	}
	_, never := o["expiration_at_ms"].(bool)
	m.sale.endless = never
	m.sale.recurring = !never && !m.sale.promo()
	m.sale.price = priceOf(o.text("price_in_purchased_currency"), o.text("currency"))
	return m
}

// wholeSecond is a time in milliseconds as Unix seconds; one that was told is never 0, which is none.
func wholeSecond(millis int64) int64 {
	if s := millis / 1000; s != 0 || millis == 0 {
		return s
	}
	return 1
}

// priceOf returns a price in the smallest unit of its currency, nil for one that is none: a trial's, a refund's.
func priceOf(amount, currency string) *entitlement.Price {
	value, err := strconv.ParseFloat(amount, 64)
	if currency = strings.ToUpper(currency); err != nil || !(value > 0) || len(currency) != 3 {
		return nil
	}
	units := math.Round(value * math.Pow10(entitlement.MinorDigits(currency)))
	if !(units < 1<<53) {
		return nil
	}
	return &entitlement.Price{Amount: int64(units), Currency: currency}
}

// add adds objects about the sale.
func (m *revenueCatMessage) add(objects ...entitlement.Object) {
	for _, o := range objects {
		m.objects = append(m.objects, m.owner.own(o, m.sale.links()))
	}
}

// term adds the sale's term, and asks its store: an aggregator's word is that of the store, later. What the message lacks is asked for.
func (m *revenueCatMessage) term() error {
	if m.sale.transaction == "" || m.sale.recurring && m.sale.endsAt == 0 {
		if err := m.customerChanged(); err != nil {
			return err
		}
	}
	if m.sale.transaction != "" {
		m.add(m.sale.term())
	}
	m.objects = append(m.objects, m.sale.echoes()...)
	return nil
}

// standing adds where the subscription stands.
func (m *revenueCatMessage) standing(r entitlement.Renewal) {
	if m.sale.chain() != "" {
		if r.Next == "" { // else it is told with the term that is about to be replaced, maybe after it was
			r.Transaction = m.sale.termID()
		}
		m.add(m.sale.standing(r))
	}
}

// revoked adds that the transaction was taken back, or given again.
func (m *revenueCatMessage) revoked(why entitlement.Reason, undone bool) {
	if id := m.sale.termID(); id != "" {
		m.add(m.sale.revocation(m.endedBy(), why, undone))
	}
}

// endedBy is when something is over that the message says has ended: at its end, not later than the message. RevenueCat cuts the end of what it took back.
func (m *revenueCatMessage) endedBy() int64 {
	if m.sale.endsAt != 0 {
		return min(m.sale.endsAt, m.at)
	}
	return m.at
}

// The types. A term is added by every message that has one, so that a lost message is made up for by the next.

// renewed is a term that was bought or renewed.
func (m *revenueCatMessage) renewed() error {
	if m.sale.promo() || m.sale.endless {
		return m.sold()
	}
	m.standing(entitlement.Renewal{Phase: entitlement.PhaseActive, WillRenew: true})
	return m.term()
}

// stands adds where the subscription stands, by a message that knows nothing of cards. After the end of what was paid for one is being retried, and whether access
// goes on meanwhile is not told: then the customer is asked about.
func (m *revenueCatMessage) stands(r entitlement.Renewal) error {
	if m.sale.recurring && m.sale.endsAt > 0 && m.sale.endsAt <= m.at {
		return m.customerChanged()
	}
	m.standing(r)
	return nil
}

// extended makes the term longer. Whether it renews, and whether a card is being retried, is not told.
func (m *revenueCatMessage) extended() error {
	if m.sale.promo() || m.sale.endless {
		return m.sold()
	}
	if err := m.customerChanged(); err != nil {
		return err
	}
	return m.term()
}

// resumed tells that it will renew after all.
func (m *revenueCatMessage) resumed() error {
	if m.sale.promo() || m.sale.endless {
		return m.sold()
	}
	if err := m.stands(entitlement.Renewal{Phase: entitlement.PhaseActive, WillRenew: true}); err != nil {
		return err
	}
	return m.term()
}

// sold is a sale that does not renew, or a grant.
func (m *revenueCatMessage) sold() error {
	m.sale.recurring = false
	if m.sale.endsAt == 0 && !m.sale.endless {
		return errRevenueCatEnd
	}
	if m.echo = m.isEcho(); m.echo {
		return nil
	}
	return m.term()
}

// isEcho reports whether the message is about a grant of our own.
func (m *revenueCatMessage) isEcho() bool {
	return m.sale.promo() && isOurs(m.o.int("expiration_at_ms"), false)
}

// provisional is access for a day at most while a store does not answer.
func (m *revenueCatMessage) provisional() error {
	m.sale.provisional = true
	return m.term()
}

// changes tells of the product that the subscription renews as. Its end is that of the present one.
func (m *revenueCatMessage) changes() error {
	if err := m.stands(entitlement.Renewal{Phase: entitlement.PhaseActive, WillRenew: true, Next: entitlement.ProductID(m.o.text("new_product_id"))}); err != nil {
		return err
	}
	m.objects = append(m.objects, m.sale.echoes()...)
	if len(m.objects) == 0 {
		return m.customerChanged()
	}
	return nil
}

// cancelled tells that it will not renew, or that the money was given back, or that a grant was taken away. It ends nothing else.
func (m *revenueCatMessage) cancelled() error {
	reason := m.o.text("cancel_reason")
	switch {
	case m.isEcho():
		m.echo = true
		return nil
	case m.sale.promo():
		if m.sale.transaction == "" {
			return m.customerChanged()
		}
		m.revoked(entitlement.ReasonRevoked, false)
		return nil
	case reason == "CUSTOMER_SUPPORT":
		// Whether it renews is not told. Where the end is yet to come RevenueCat did not cut it, and it is not known what was refunded.
		if m.sale.endsAt > m.at {
			if err := m.customerChanged(); err != nil {
				return err
			}
		} else {
			m.revoked(entitlement.ReasonRefunded, false)
		}
	case reason == "BILLING_ERROR":
		// A billing issue is told beside it, at the same moment and in any order, and that one knows the grace.
	case m.sale.recurring:
		if err := m.stands(entitlement.Renewal{Phase: entitlement.PhaseActive}); err != nil {
			return err
		}
	}
	return m.term()
}

// pauses tells of a pause from the end of the term on.
func (m *revenueCatMessage) pauses() error {
	if err := m.stands(entitlement.Renewal{Phase: entitlement.PhasePaused, WillRenew: true, ResumesAt: wholeSecond(m.o.int("auto_resume_at_ms"))}); err != nil {
		return err
	}
	return m.term()
}

// retried tells that the card failed. Access goes on where there is a grace, and else to the end of what was paid for.
func (m *revenueCatMessage) retried() error {
	if grace := wholeSecond(m.o.int("grace_period_expiration_at_ms")); grace > 0 {
		m.standing(entitlement.Renewal{Phase: entitlement.PhaseBillingGrace, WillRenew: true, GraceUntil: grace})
	} else {
		m.standing(entitlement.Renewal{Phase: entitlement.PhaseBillingRetry, WillRenew: true})
	}
	return m.term()
}

// expired tells that access is over.
func (m *revenueCatMessage) expired() error {
	reason := m.o.text("expiration_reason")
	if m.sale.promo() {
		if m.echo = m.isEcho(); m.echo {
			return nil
		}
		if reason == "DEVELOPER_INITIATED" && m.sale.transaction != "" {
			m.revoked(entitlement.ReasonRevoked, false)
			return nil
		}
		m.sale.endsAt, m.sale.endless = m.endedBy(), false
		return m.term()
	}
	if m.sale.endless {
		m.sale.recurring, m.sale.endless, m.sale.endsAt = false, false, m.at
		return m.term()
	}
	r := entitlement.Renewal{Phase: entitlement.PhaseExpired, EndedAt: m.endedBy()}
	if reason == "SUBSCRIPTION_PAUSED" {
		r = entitlement.Renewal{Phase: entitlement.PhasePaused, WillRenew: true, ResumesAt: wholeSecond(m.o.int("auto_resume_at_ms"))}
		m.sale.endsAt = m.endedBy()
	}
	if reason == "CUSTOMER_SUPPORT" {
		m.revoked(entitlement.ReasonRefunded, false)
	}
	m.standing(r)
	return m.term()
}

// refundReversed gives back what a refund took. Whether it renews is not told.
func (m *revenueCatMessage) refundReversed() error {
	m.revoked("", true)
	if m.sale.recurring {
		m.standing(entitlement.Renewal{Phase: entitlement.PhaseActive})
	}
	return m.term()
}

// transferred says that purchases went from one customer to another, and not which: both are asked about. All names of a side are of one customer, and
// the answer may have but one of them.
func (m *revenueCatMessage) transferred() error {
	for _, side := range []string{"transferred_from", "transferred_to"} {
		if owner := newRevenueCatOwner("", m.o.ids(side)); owner.user != "" {
			m.objects = append(m.objects, customerHint(owner.user), owner.names())
		}
	}
	if len(m.objects) == 0 {
		return errRevenueCatContent
	}
	return nil
}

// renamed says what the customer is called, and has them asked about.
func (m *revenueCatMessage) renamed() error {
	if m.owner.user != "" {
		m.objects = append(m.objects, m.owner.names())
	}
	return m.customerChanged()
}

// customerChanged has the customer asked about.
func (m *revenueCatMessage) customerChanged() error {
	if m.owner.user != "" {
		m.objects = append(m.objects, customerHint(m.owner.user))
	} else if m.sale.transaction == "" {
		return errRevenueCatContent
	}
	return nil
}

func customerHint(user string) entitlement.Object {
	return entitlement.Object{Kind: entitlement.KindHint, ID: user, By: entitlement.RevenueCat, Links: []entitlement.Link{customerLink(user)},
		Hint: &entitlement.Hint{Of: entitlement.KindCustomer}}
}

func customerLink(user string) entitlement.Link {
	return entitlement.Link(string(entitlement.RevenueCat) + ":customer:" + user)
}

// bestUser returns the name of a customer by which to ask: one that somebody gave, before one that was drawn by lot.
func bestUser(users []string) string {
	for _, user := range users {
		if user != "" && !strings.HasPrefix(user, anonymousUser) {
			return user
		}
	}
	for _, user := range users {
		if user != "" {
			return user
		}
	}
	return ""
}

// revenueCatOwner is a customer as they own a purchase.
type revenueCatOwner struct {
	user    string // by which to ask about them; empty: not known
	account entitlement.AccountID
	aliases []entitlement.Alias
}

// newRevenueCatOwner reads a customer's names, the present one first. attribute is the account id that the merchant set as an attribute.
func newRevenueCatOwner(attribute string, users []string) revenueCatOwner {
	owner := revenueCatOwner{user: bestUser(users)}
	for i, user := range users {
		switch {
		case owner.account != "":
		case isAccountID(user):
			owner.account = entitlement.AccountID(user)
		case i == 0 && attribute != "":
			owner.account = entitlement.AccountID(attribute)
		}
		alias := entitlement.Alias{Kind: entitlement.RevenueCatAppUser, Value: user}
		if user != "" && len(owner.aliases) < maxRevenueCatUsers && !slices.Contains(owner.aliases, alias) {
			owner.aliases = append(owner.aliases, alias)
		}
	}
	slices.SortFunc(owner.aliases, func(a, b entitlement.Alias) int { return cmp.Compare(a.Value, b.Value) })
	return owner
}

// revenueCatNamed stands between a customer and a list of their names, in the id of what says that they are one. No customer's name has it.
const revenueCatNamed = "#"

// names says that all names are of the one customer. Each list of names is an object of its own: two of one moment are no riddle to ask about, and a hint
// that comes later, and names nobody, takes nothing back.
func (c *revenueCatOwner) names() entitlement.Object {
	list := string(c.account)
	for _, alias := range c.aliases {
		list += "\n" + alias.Value
	}
	sum := sha256.Sum256([]byte(list))
	return c.own(entitlement.Object{Kind: entitlement.KindCustomer, ID: c.user + revenueCatNamed + hex.EncodeToString(sum[:8]), Customer: &entitlement.Customer{}},
		[]entitlement.Link{customerLink(c.user)})
}

func isAccountID(s string) bool { return accountID(gjson.Result{Type: gjson.String, Str: s}) != nil }

// own returns the object as one of RevenueCat's about this owner's purchase.
func (c *revenueCatOwner) own(o entitlement.Object, links []entitlement.Link) entitlement.Object {
	o.By, o.Links = entitlement.RevenueCat, links
	o.Account, o.Aliases = c.account, c.aliases
	return o
}

// revenueCatSale is one term of a subscription, or one sale or grant, as messages, answers and exports tell of it. Times are Unix seconds.
type revenueCatSale struct {
	store, transaction, original string   // store in lower case
	others                       []string // more ids of the same subscription
	product                      string
	quantity                     int64
	entitlements                 []string
	startsAt, endsAt             int64 // endsAt 0: not told, or never where it is endless
	endless, recurring           bool
	trial, prepaid, family       bool
	provisional                  bool
	price                        *entitlement.Price
}

const (
	revenueCatPromotional = "promotional"
	revenueCatMacAppStore = "mac_app_store"
)

// promo reports whether it was granted inside RevenueCat.
func (s *revenueCatSale) promo() bool { return s.store == revenueCatPromotional }

// storeName is who took the money; empty: RevenueCat itself gave it.
func (s *revenueCatSale) storeName() string {
	switch s.store {
	case revenueCatMacAppStore:
		return entitlement.AppStore
	case revenueCatPromotional:
		return ""
	}
	return s.store
}

// chain is the id of the subscription within its purchase; empty for what does not renew. A purchase is what shares a store's id, and has one
// subscription of a store: so the store's name is enough, and is in every message and every answer, which an original transaction id is not. At
// Play one purchase can follow another, and each has an order id of its own, whose renewals are numbered.
func (s *revenueCatSale) chain() string {
	switch {
	case !s.recurring || s.anyID() == "":
		return ""
	case s.store == entitlement.PlayStore:
		return orderOf(s.anyID())
	}
	return s.storeName()
}

// anyID returns an id of the subscription, or of one of its terms.
func (s *revenueCatSale) anyID() string {
	return cmp.Or(append([]string{s.transaction, s.original}, s.others...)...)
}

// orderOf is a Play order id without the number of the renewal.
func orderOf(id string) string {
	order, _, _ := strings.Cut(id, "..")
	return order
}

// termID is the store's id of the transaction. Stripe's is that of the subscription, term after term, so its start makes it one; a payment intent
// is one by itself, also where the end that a refund has cut makes it look like a term.
func (s *revenueCatSale) termID() string {
	if s.transaction != "" && s.store == string(entitlement.Stripe) && s.recurring && !strings.HasPrefix(s.transaction, "pi_") {
		return s.transaction + ":" + strconv.FormatInt(s.startsAt, 10)
	}
	return s.transaction
}

// links are the store's ids, as the store's own adapter gives them. RevenueCat's own are for stores without one.
func (s *revenueCatSale) links() []entitlement.Link {
	var links []entitlement.Link
	for i, id := range append([]string{s.original, s.transaction}, s.others...) {
		switch {
		case id == "":
		case s.storeName() == entitlement.AppStore:
			if i == 0 {
				links = append(links, entitlement.Link(string(entitlement.Apple)+":"+id))
			}
			links = append(links, entitlement.SecondaryLink(entitlement.Apple, id))
		case s.store == entitlement.PlayStore:
			links = append(links, entitlement.SecondaryLink(entitlement.Google, orderOf(id)))
		case s.store == string(entitlement.Stripe) && isStripeLink(id):
			links = append(links, entitlement.Link(string(entitlement.Stripe)+":"+id))
		default:
			links = append(links, entitlement.Link(string(entitlement.RevenueCat)+":"+s.store+":"+id))
		}
	}
	slices.Sort(links)
	return slices.Compact(links)
}

// isStripeLink reports whether an id is one by which Stripe's own messages tie a purchase together.
func isStripeLink(id string) bool {
	prefix, _, _ := strings.Cut(id, "_")
	return slices.Contains([]string{"sub", "pi", "in", "ch"}, prefix)
}

// term is the transaction.
func (s *revenueCatSale) term() entitlement.Object {
	t := &entitlement.Transaction{
		Chain: s.chain(), Sold: entitlement.Sold{Product: entitlement.ProductID(s.product), Quantity: s.quantity, Price: s.price}, Recurring: s.recurring,
		StartsAt: s.startsAt, EndsAt: s.endsAt, Trial: s.trial, Store: s.storeName(), Provisional: s.provisional, Promo: s.promo(),
	}
	if product, _, plan := strings.Cut(s.product, ":"); plan && s.store == entitlement.PlayStore {
		t.Also = []entitlement.ProductID{entitlement.ProductID(product)}
	}
	if s.family {
		t.Ownership = entitlement.Family
	}
	if len(s.entitlements) > 0 {
		t.Entitlements = slices.Clone(s.entitlements)
		slices.Sort(t.Entitlements)
		t.Entitlements = slices.Compact(t.Entitlements)
	}
	o := entitlement.Object{Kind: entitlement.KindTransaction, ID: s.termID(), Transaction: t}
	if !s.provisional {
		o.Rank = 1
	}
	return o
}

// standing is where the subscription stands. What is prepaid never renews by itself.
func (s *revenueCatSale) standing(r entitlement.Renewal) entitlement.Object {
	r.WillRenew = r.WillRenew && !s.prepaid
	return entitlement.Object{Kind: entitlement.KindRenewal, ID: s.chain(), Renewal: &r}
}

// revocation takes the transaction back from a time on, or says that it was not, or no longer, taken back.
func (s *revenueCatSale) revocation(at int64, why entitlement.Reason, undone bool) entitlement.Object {
	o := entitlement.Object{Kind: entitlement.KindRevocation, ID: s.termID(), Revocation: &entitlement.Revocation{Transaction: s.termID(), Undone: undone}}
	if undone {
		o.Rank = 1
	} else {
		o.Revocation.RevokedAt, o.Revocation.Reason = at, why
	}
	return o
}

// echoes have the store asked, where it can be asked by an id that is known here.
func (s *revenueCatSale) echoes() []entitlement.Object {
	echo := entitlement.Object{Kind: entitlement.KindHint, Links: s.links(), Hint: &entitlement.Hint{Echo: true}}
	switch {
	case s.storeName() == entitlement.AppStore && s.recurring && s.original != "":
		echo.ID, echo.By, echo.Hint.Of = s.original, entitlement.Apple, entitlement.KindRenewal
	case s.storeName() == entitlement.AppStore && s.transaction != "":
		echo.ID, echo.By, echo.Hint.Of = s.transaction, entitlement.Apple, entitlement.KindTransaction
	case s.store == string(entitlement.Stripe) && strings.HasPrefix(cmp.Or(s.original, s.transaction), "sub_"):
		echo.ID, echo.Hint.Of = cmp.Or(s.original, s.transaction), entitlement.KindSubscription
	default:
		return nil
	}
	return []entitlement.Object{echo}
}
