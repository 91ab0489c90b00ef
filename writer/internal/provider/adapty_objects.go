package provider

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/tidwall/gjson"

	"github.com/latchkey/latchkey/pkg/entitlement"
)

// What Adapty's events prove.
//
// Only access_level_updated is a state. The others say what happened and give what they prove of it (a term, where the chain stands, a refund),
// so that a merchant who does not switch the state event on, and gives us no key to read profiles with, has right answers all the same. Every
// event that names a profile is a hint about that profile: read, it settles whatever the order of messages left open.
//
// A chain is one product of a store's subscription: "<original transaction>:<product>". When a product is changed at once, Adapty tells of the
// old one's end and of the new one's beginning in one moment and in any order; as two chains neither can undo the other.
//
// Versions. Adapty says not to order by event_datetime, which is the time in the business's sense: several events share one, and Apple's
// renewals are told up to a day before their own time. There is no other version in a message, and the order of arrival is none. So:
//   - What a state event says of a term has the later of event_datetime and the term's start. A renewal that is told early has its own start
//     as version, and a refund or cancel that comes between the telling and the start has the same: the digits below let it win.
//   - What other events say of a term has a version just below the term's start: a state event about that term is always newer, a profile
//     read too, and what two of them say is told apart by the digits.
//   - Adapty's times have six digits behind the point. The three below are free and hold how far a statement is in the life of what it is
//     about: so two statements of one moment have an order, and need not be taken for a contradiction.
//
// What this leaves open are two changes of one kind in one moment, or in the hours between the telling of a renewal and its start. The hint about
// the profile has event_datetime, so that its reading settles them, for a renewal that is told early once it has begun.
//
// Owner. Shared access makes one event for each profile, with nothing in it that says who bought. Other events go to the buyer alone, and
// profiles say nothing of sharing. So who bought and who shares are in objects of their own, which a newer state of a term or chain leaves as they
// are: Renewals of no chain, see adaptyClaim.

// adaptyType says how events of a type are read.
type adaptyType struct {
	name string // Adapty's present name of it
	read func(*adaptyEvent)
}

// adaptyTypes are the types that prove something, and the other names that Adapty's pages have for some of them.
var adaptyTypes = map[string]adaptyType{
	"access_level_updated":               {"access_level_updated", (*adaptyEvent).state},
	"subscription_started":               {"subscription_started", (*adaptyEvent).sold},
	"subscription_initial_purchase":      {"subscription_started", (*adaptyEvent).sold},
	"subscription_renewed":               {"subscription_renewed", (*adaptyEvent).sold},
	"trial_started":                      {"trial_started", (*adaptyEvent).sold},
	"trial_converted":                    {"trial_converted", (*adaptyEvent).sold},
	"non_subscription_purchase":          {"non_subscription_purchase", (*adaptyEvent).soldOnce},
	"subscription_deferred":              {"subscription_deferred", (*adaptyEvent).deferred},
	"subscription_renewal_cancelled":     {"subscription_renewal_cancelled", (*adaptyEvent).cancelled},
	"subscription_cancelled":             {"subscription_renewal_cancelled", (*adaptyEvent).cancelled},
	"trial_renewal_cancelled":            {"trial_renewal_cancelled", (*adaptyEvent).cancelled},
	"trial_cancelled":                    {"trial_renewal_cancelled", (*adaptyEvent).cancelled},
	"subscription_renewal_reactivated":   {"subscription_renewal_reactivated", (*adaptyEvent).reactivated},
	"trial_renewal_reactivated":          {"trial_renewal_reactivated", (*adaptyEvent).reactivated},
	"billing_issue_detected":             {"billing_issue_detected", (*adaptyEvent).unpaid},
	"entered_grace_period":               {"entered_grace_period", (*adaptyEvent).grace},
	"subscription_paused":                {"subscription_paused", (*adaptyEvent).paused},
	"subscription_expired":               {"subscription_expired", (*adaptyEvent).expired},
	"trial_expired":                      {"trial_expired", (*adaptyEvent).expired},
	"subscription_refunded":              {"subscription_refunded", (*adaptyEvent).refunded},
	"non_subscription_purchase_refunded": {"non_subscription_purchase_refunded", (*adaptyEvent).refunded},
}

// The shapes below are the allow-list.
var (
	adaptyHead = fields(map[string]keep{
		"event_type": word, "event_datetime": microTime, "event_api_version": number, "profile_id": ident, "customer_user_id": userName,
	})

	adaptyProperties = fields(map[string]keep{
		"profile_event_id": ident, "profile_id": ident, "environment": word, "store": ident, "vendor_product_id": ident, "base_plan_id": ident,
		"transaction_id": ident, "original_transaction_id": ident, "purchase_date": microTime, "original_purchase_date": microTime,
		"subscription_expires_at": microTime, "cancellation_reason": word, "store_offer_category": word, "store_offer_discount_type": word,
		"consecutive_payments": number, "profile_has_access_level": flag, "currency": word, "store_country": word,
		"access_level_id": ident, "is_active": flag, "starts_at": told(termTime), "expires_at": told(termTime), "is_lifetime": flag, "is_in_grace_period": flag,
		"is_refund": flag, "will_renew": flag, "activated_at": microTime, "renewed_at": microTime, "billing_issue_detected_at": microTime,
		"active_introductory_offer_type": word, "active_promotional_offer_type": word,
	})

	adaptyProfile = fields(map[string]keep{"profile_id": ident, "customer_user_id": userName})

	adaptyToken = fields(map[string]keep{"product_id": ident, "purchase_token": ident, "is_subscription": flag})
)

// userName keeps a merchant's own id of a user. With blanks or "@" it might be a name or an address and is not kept.
func userName(v gjson.Result) any {
	if v.Type == gjson.String && isUserName(v.Str) {
		return v.Str
	}
	return nil
}

func isUserName(s string) bool {
	return isText(s, maxIDBytes, func(c byte) bool { return isAlnum(c) || strings.IndexByte("_.:-|/+=$~", c) >= 0 })
}

// The layouts of times: that of webhooks, which RFC 3339 does not know, and that of the API.
var microLayouts = []string{"2006-01-02T15:04:05.999999-0700", time.RFC3339Nano}

// The times that microTime keeps: others are none of a sale, and nanoseconds cannot hold them all.
var (
	firstTime = time.Date(1990, time.January, 1, 0, 0, 0, 0, time.UTC)
	lastTime  = time.Date(2200, time.December, 31, 23, 59, 59, 0, time.UTC)
)

// microTime keeps a time to the microsecond, as RFC 3339 in UTC.
func microTime(v gjson.Result) any {
	if t, ok := timeOf(v); ok && !t.Before(firstTime) && t.Year() <= lastTime.Year() {
		return t.Format(time.RFC3339Nano)
	}
	return nil
}

// termTime is microTime for when a term begins or ends. One that microTime would not keep is the first or the last that it does: what ended in 1970 is over,
// and not without an end.
func termTime(v gjson.Result) any {
	t, ok := timeOf(v)
	switch {
	case !ok:
		return nil
	case t.Before(firstTime):
		t = firstTime
	case t.Year() > lastTime.Year():
		t = lastTime
	}
	return t.Format(time.RFC3339Nano)
}

func timeOf(v gjson.Result) (at time.Time, ok bool) {
	if v.Type != gjson.String || len(v.Str) > maxWordBytes {
		return time.Time{}, false
	}
	for _, layout := range microLayouts {
		if t, err := time.Parse(layout, v.Str); err == nil {
			return t.UTC().Truncate(time.Microsecond), true
		}
	}
	return time.Time{}, false
}

// instant returns a kept time; zero for none.
func (o object) instant(name string) time.Time {
	t, _ := time.Parse(time.RFC3339Nano, o.text(name))
	return t
}

// instants returns the first of the kept times that is there.
func (o object) instants(names ...string) time.Time {
	for _, name := range names {
		if t := o.instant(name); !t.IsZero() {
			return t
		}
	}
	return time.Time{}
}

// unixOf is a time in Unix seconds; 0 for none.
func unixOf(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.Unix()
}

// later returns the later of two times.
func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// What is wrong with a message of a type that we act on, so that it proves nothing.
var (
	errAdaptyType = errors.New("no event: the type is missing")
	errAdaptyTime = errors.New("the event has no time")
	errAdaptyTerm = errors.New("when the access level begins or ends is told in a form that is not known")
)

// How far a statement is in the life of what it is about. Those of state events are above all others, adaptyState of them is added.
const (
	adaptySold = 10 * (1 + iota)
	adaptyDeferred
	adaptyReactivated
	adaptyUnpaid
	adaptyGrace
	adaptyPaused
	adaptyCancelled
	adaptyUpgraded
	adaptyExpired
	adaptyRefunded

	adaptyState = 500
)

// adaptyEvent is one event while it is read.
type adaptyEvent struct {
	kind          string // in Adapty's own spelling
	at            time.Time
	p             object // event_properties
	profile, user string
	sharers       []entitlement.Alias // with whom the profile shares, itself among them; nil: with nobody
	sale          adaptySale
	objects       []entitlement.Object
}

func (a *Adapty) parse(body []byte, env entitlement.Environment) (entitlement.Event, error) {
	m, err := decodeObject(body)
	if err != nil {
		return entitlement.Event{}, err
	}
	head, properties := adaptyHead(m).(object), member(m, "event_properties")
	e := adaptyEvent{p: object{}, at: head.instant("event_datetime"), user: head.text("customer_user_id")}
	if kept, ok := adaptyProperties(properties).(object); ok {
		e.p = kept
	}
	e.profile = cmp.Or(head.text("profile_id"), e.p.text("profile_id"))
	name := member(m, "event_type")
	if name.Type != gjson.String || name.Str == "" {
		return entitlement.Event{}, errAdaptyType
	}
	if own, renamed := a.names[name.Str]; renamed {
		head["event_type"] = own
	}
	t, handled := adaptyTypes[head.text("event_type")]
	e.kind = cmp.Or(t.name, head.text("event_type"), "other")
	head["event_type"] = e.kind
	ev := entitlement.Event{Provider: entitlement.Adapty, Type: e.kind, Environment: env, CreatedAt: unixOf(e.at)}
	switch strings.ToLower(e.p.text("environment")) {
	case "sandbox":
		ev.Environment = entitlement.Sandbox
	case "production":
		ev.Environment = entitlement.Production
	}
	ev.ID = e.id(body)
	if len(e.p) > 0 {
		head["event_properties"] = e.p
	}
	if handled && e.at.IsZero() {
		return entitlement.Event{}, errAdaptyTime
	}
	if e.own() || !handled {
		ev.Kind, ev.Raw = entitlement.Unhandled, head.raw()
		return ev, nil
	}
	if e.kind == "access_level_updated" && (e.p.wrong("starts_at") || e.p.wrong("expires_at") && !e.p.is("is_lifetime")) {
		return entitlement.Event{}, errAdaptyTerm
	}
	e.readSharers(member(m, "profiles_sharing_access_level"), head)
	token, _ := adaptyToken(member(m, "play_store_purchase_token")).(object)
	if token != nil { // the token itself is a credential of its buyer and stands in the hint alone, where it is needed
		head["play_store_purchase_token"] = object{"product_id": token.text("product_id"), "is_subscription": token.is("is_subscription")}
	}
	e.sale = newAdaptySale(e.p.text("store"), e.p.text("vendor_product_id"), e.p.text("base_plan_id"), e.p.text("transaction_id"), e.p.text("original_transaction_id"),
		cmp.Or(e.profile, e.user), e.p.text("access_level_id"), token)
	if e.sale.id != "" {
		t.read(&e)
		e.objects = append(e.objects, e.sale.echoes(e.at)...)
	}
	e.hint()
	ev.Objects, ev.Raw = e.objects, head.raw()
	if len(ev.Objects) == 0 {
		ev.Kind = entitlement.Unhandled
	}
	return ev, nil
}

// id is the event's own, else what tells it from the others.
func (e *adaptyEvent) id(body []byte) string {
	if id := e.p.text("profile_event_id"); id != "" {
		return id
	}
	if id := strings.Join([]string{e.kind, e.p.text("transaction_id"), e.profile, e.p.text("access_level_id"), e.at.Format(time.RFC3339Nano)}, ":"); e.p.text("transaction_id") != "" && isIdent(id) {
		return id
	}
	sum := sha256.Sum256(body)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// own reports whether the event tells of an access that Latchkey granted, or revoked.
func (e *adaptyEvent) own() bool {
	return adaptyOwn(e.p.text("vendor_product_id"), e.p.instants("expires_at", "subscription_expires_at"))
}

// adaptyServerSide is the product of access that was granted by Adapty's API, as Latchkey does.
const adaptyServerSide = "adapty_server_side_product"

// adaptyOwn reports whether access to a product is what Latchkey itself granted: an echo of what we know, which counts for nothing here. Whatever else was
// granted by Adapty's API or in its dashboard counts. What was revoked has the mark behind the second alone, as its end could not wait for another.
func adaptyOwn(product string, end time.Time) bool {
	switch {
	case product != adaptyServerSide || end.IsZero():
		return false
	case end.Nanosecond() == 0:
		return isOurs(end.UnixMilli(), true)
	}
	return time.Duration(end.Nanosecond()) == outboundMark%time.Second
}

// adaptyGiven reports whether a product is none that was sold: access that somebody granted.
func adaptyGiven(product string) bool {
	return product == adaptyServerSide || product == "adapty_dashboard_product" || product == "adapty_promotion"
}

// maxAdaptySharers bounds the profiles that are read of those that share. A store's account has as many as its owner made logins.
const maxAdaptySharers = 50

func (e *adaptyEvent) readSharers(v gjson.Result, head object) {
	kept := list{Data: []object{}}
	if !v.IsArray() {
		return
	}
	v.ForEach(func(_, v gjson.Result) bool {
		if o, ok := adaptyProfile(v).(object); ok && len(o) > 0 {
			kept.Data = append(kept.Data, o)
			e.sharers = append(e.sharers, adaptyAliases(o.text("profile_id"), o.text("customer_user_id"))...)
		}
		return len(kept.Data) < maxAdaptySharers
	})
	if len(kept.Data) == 0 {
		return
	}
	head["profiles_sharing_access_level"] = kept
	e.sharers = append(e.sharers, adaptyAliases(e.profile, e.user)...)
	sortAliases(&e.sharers)
}

func adaptyAliases(profile, user string) (out []entitlement.Alias) {
	if profile != "" {
		out = append(out, entitlement.Alias{Kind: entitlement.AdaptyProfile, Value: profile})
	}
	if user != "" {
		out = append(out, entitlement.Alias{Kind: entitlement.AdaptyCustomerUser, Value: user})
	}
	return out
}

func sortAliases(aliases *[]entitlement.Alias) {
	slices.SortFunc(*aliases, func(a, b entitlement.Alias) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Value, b.Value))
	})
	*aliases = slices.Compact(*aliases)
}

// ownAccount returns an id that has the form of ours, or "".
func ownAccount(id string) entitlement.AccountID {
	own, _ := accountID(gjson.Result{Type: gjson.String, Str: id}).(string)
	return entitlement.AccountID(own)
}

// adaptySale is what was sold, by the store's ids.
type adaptySale struct {
	store     string
	id, chain string // of the term, and of the product's chain
	original  string
	sold      entitlement.Sold
	given     bool
	links     []entitlement.Link
	token     object // of Play, where it was sent
}

// newAdaptySale returns a sale without an id where nothing tells it from others.
func newAdaptySale(store, product, plan, id, original, customer, level string, token object) adaptySale {
	s := adaptySale{store: strings.ToLower(store), given: adaptyGiven(product), token: token}
	s.id, s.original = cmp.Or(id, original), cmp.Or(original, id)
	if s.id == "" && s.given && customer != "" && isIdent(customer) {
		s.id = customer + ":" + level
		s.original = s.id
	}
	if s.id == "" {
		return s
	}
	s.sold.Product = entitlement.ProductID(product)
	switch {
	case plan == "":
	case s.store == entitlement.PlayStore && product != "":
		s.sold.Product, s.sold.Also = entitlement.ProductID(product+":"+plan), []entitlement.ProductID{entitlement.ProductID(product)}
	case s.store == string(entitlement.Stripe):
		s.sold.Product = entitlement.ProductID(plan)
		if product != "" {
			s.sold.Also = []entitlement.ProductID{entitlement.ProductID(product)}
		}
	}
	s.chain = s.original + ":" + string(s.sold.Product)
	s.links = storeLinks(s.store, s.original, s.id)
	if t := s.token.text("purchase_token"); s.store == entitlement.PlayStore && t != "" {
		s.links = append(s.links, googleLink(t))
	}
	if len(s.links) == 0 {
		s.links = []entitlement.Link{entitlement.Link("adapty:" + s.original)}
	}
	slices.Sort(s.links)
	s.links = slices.Compact(s.links)
	return s
}

// googleLink is the link of a Play purchase token. The token is a credential of its buyer, so its hash stands for it.
func googleLink(token string) entitlement.Link {
	sum := sha256.Sum256([]byte(token))
	return entitlement.Link(string(entitlement.Google) + ":" + hex.EncodeToString(sum[:]))
}

var (
	appleID   = regexp.MustCompile(`^[0-9]{1,20}$`)
	playOrder = regexp.MustCompile(`^(GPA\.[0-9-]+)(\.\.[0-9]+)?$`)
	stripeID  = regexp.MustCompile(`^(sub|pi|in|ch)_[A-Za-z0-9_]+$`)
)

// storeLinks are the links that the first id of a chain and the id of one of its terms prove, in the store's own words. None: the store is not
// known, or these are no ids of it.
func storeLinks(store, original, id string) (links []entitlement.Link) {
	switch store {
	case entitlement.AppStore:
		if !appleID.MatchString(original) || !appleID.MatchString(id) {
			return nil
		}
		return []entitlement.Link{entitlement.Link(string(entitlement.Apple) + ":" + original),
			entitlement.SecondaryLink(entitlement.Apple, original), entitlement.SecondaryLink(entitlement.Apple, id)}
	case entitlement.PlayStore:
		for _, order := range []string{original, id} {
			if m := playOrder.FindStringSubmatch(order); m != nil {
				links = append(links, entitlement.SecondaryLink(entitlement.Google, m[1]))
			}
		}
	case string(entitlement.Stripe):
		for _, own := range []string{original, id} {
			if stripeID.MatchString(own) {
				links = append(links, entitlement.Link(string(entitlement.Stripe)+":"+own))
			}
		}
	}
	return links
}

// echoes are the hints that make a store be asked about a sale of its own, where it can be.
func (s *adaptySale) echoes(at time.Time) []entitlement.Object {
	hint := entitlement.Object{Kind: entitlement.KindHint, At: at.UnixNano(), Links: s.links, Hint: &entitlement.Hint{Echo: true}}
	switch token := s.token.text("purchase_token"); {
	case s.store == entitlement.AppStore && appleID.MatchString(s.original):
		hint.By, hint.ID, hint.Hint.Of = entitlement.Apple, s.original, entitlement.KindRenewal
	case s.store == entitlement.PlayStore && token != "":
		hint.By, hint.ID, hint.Hint.Of = entitlement.Google, token, entitlement.KindTransaction
		if s.token.is("is_subscription") {
			hint.Hint.Of = entitlement.KindRenewal
		}
	case s.store == string(entitlement.Stripe) && strings.HasPrefix(s.original, "sub_"):
		hint.ID, hint.Hint.Of = s.original, entitlement.KindSubscription
	default:
		return nil
	}
	return []entitlement.Object{hint}
}

// object returns an object of the sale.
func (s *adaptySale) object(kind entitlement.ObjectKind, id string, at int64) entitlement.Object {
	return entitlement.Object{Kind: kind, ID: id, By: entitlement.Adapty, At: at, Links: s.links}
}

// transaction returns the term without its times.
func (s *adaptySale) transaction(recurring bool) *entitlement.Transaction {
	t := &entitlement.Transaction{Sold: s.sold, Recurring: recurring, Store: s.store, Promo: s.given}
	if recurring {
		t.Chain = s.chain
	}
	return t
}

func (e *adaptyEvent) add(o entitlement.Object) { e.objects = append(e.objects, o) }

// version is that of a statement about the present term: see the top of this file.
func (e *adaptyEvent) version(progress int64) int64 {
	return later(e.at, e.starts()).UnixNano() + progress
}

// starts is when the present term began.
func (e *adaptyEvent) starts() time.Time {
	return e.p.instants("purchase_date", "renewed_at", "activated_at", "starts_at")
}

// bought is when the first term began.
func (e *adaptyEvent) bought() time.Time {
	return e.p.instants("original_purchase_date", "activated_at", "purchase_date")
}

// term says what was sold, in the words of an event that is no state.
func (e *adaptyEvent) term(recurring bool, progress int64, edit func(*entitlement.Transaction)) {
	starts := e.starts()
	if starts.IsZero() {
		starts = e.at
	}
	t := e.sale.transaction(recurring)
	t.StartsAt = unixOf(starts)
	t.Trial = strings.HasPrefix(e.kind, "trial_") && e.kind != "trial_converted"
	if recurring {
		t.EndsAt = unixOf(e.p.instant("subscription_expires_at"))
	}
	if edit != nil {
		edit(t)
	}
	o := e.sale.object(entitlement.KindTransaction, e.sale.id, starts.UnixNano()-int64(time.Microsecond)+progress)
	o.Transaction = t
	e.add(o)
}

// stands says where the chain stands.
func (e *adaptyEvent) stands(progress int64, r entitlement.Renewal) {
	o := e.sale.object(entitlement.KindRenewal, e.sale.chain, e.version(progress))
	o.Renewal = &r
	e.add(o)
}

func (e *adaptyEvent) sold() {
	e.buyer()
	e.term(true, adaptySold, nil)
	e.stands(adaptySold, entitlement.Renewal{Phase: entitlement.PhaseActive, WillRenew: true})
}

func (e *adaptyEvent) soldOnce() {
	e.buyer()
	e.term(false, adaptySold, nil)
}

// deferred is a term that Play made longer.
func (e *adaptyEvent) deferred() {
	e.buyer()
	e.term(true, adaptyDeferred, nil)
}

func (e *adaptyEvent) cancelled() {
	if e.buyer(); e.pastEnd() {
		return
	}
	e.stands(adaptyCancelled, entitlement.Renewal{Phase: entitlement.PhaseActive})
}

// reactivated is about the product that was cancelled, even where another one renews.
func (e *adaptyEvent) reactivated() {
	if e.buyer(); e.pastEnd() {
		return
	}
	e.stands(adaptyReactivated, entitlement.Renewal{Phase: entitlement.PhaseActive, WillRenew: true})
}

func (e *adaptyEvent) unpaid() {
	e.buyer()
	e.stands(adaptyUnpaid, entitlement.Renewal{Phase: entitlement.PhaseBillingRetry, WillRenew: true})
}

// grace is a failed charge during which access goes on: what is called the expiry is then the end of that.
func (e *adaptyEvent) grace() {
	e.buyer()
	e.stands(adaptyGrace, entitlement.Renewal{Phase: entitlement.PhaseBillingGrace, WillRenew: true, GraceUntil: unixOf(e.p.instant("subscription_expires_at"))})
}

// paused is a pause that the user asked for: access goes on to the end of what was paid for. Told after that, it is as old as the end, so that a grace that
// has begun since stays.
func (e *adaptyEvent) paused() {
	e.buyer()
	o := e.sale.object(entitlement.KindRenewal, e.sale.chain, e.version(adaptyPaused))
	if e.pastEnd() {
		o.At = later(e.p.instant("subscription_expires_at"), e.starts()).UnixNano() - int64(time.Microsecond) + adaptyPaused
	}
	o.Renewal = &entitlement.Renewal{Phase: entitlement.PhasePaused, WillRenew: true}
	e.add(o)
}

// pastEnd reports whether the end of the term was over. What goes on then is a grace, or a charge that is retried, and an event about the renewal does not
// say which: where the chain stands is for the events of those, and for the profile.
func (e *adaptyEvent) pastEnd() bool {
	end := e.p.instant("subscription_expires_at")
	return !end.IsZero() && !end.After(e.at)
}

// expired ends the term itself too: the event of the cancel, made in the same moment, may have the later time.
func (e *adaptyEvent) expired() {
	e.buyer()
	e.stands(adaptyExpired, entitlement.Renewal{Phase: entitlement.PhaseExpired, EndedAt: unixOf(e.at)})
	if e.starts().IsZero() {
		return // which term it was is told, not when it began: who sold it says that
	}
	e.term(true, adaptyExpired, func(t *entitlement.Transaction) {
		if end := unixOf(e.at); t.EndsAt == 0 || end < t.EndsAt {
			t.EndsAt = max(end, t.StartsAt)
		}
	})
}

// refunded takes one term back. The refund that belongs to a change of product takes nothing: the new term is told apart.
func (e *adaptyEvent) refunded() {
	e.buyer()
	if e.replaced() {
		e.term(true, adaptyUpgraded, func(t *entitlement.Transaction) { t.Upgraded = true })
		return
	}
	o := e.sale.object(entitlement.KindRevocation, e.sale.id, e.version(adaptyRefunded))
	o.Revocation = &entitlement.Revocation{Transaction: e.sale.id, RevokedAt: unixOf(e.at)}
	e.add(o)
}

func (e *adaptyEvent) replaced() bool {
	reason := e.p.text("cancellation_reason")
	return reason == "upgraded" || reason == "new_subscription_replace"
}

// state reads an access level. What it says of time is compared with the event's own time: whether it is active now is for the reader.
func (e *adaptyEvent) state() {
	a := adaptyAccess{
		starts: e.starts(), ends: e.p.instant("expires_at"), at: e.at, issue: e.p.instant("billing_issue_detected_at"),
		grace: e.p.is("is_in_grace_period"), refund: e.p.is("is_refund") && !e.replaced(), waits: e.p.instant("starts_at").After(e.at),
		renews: e.p.is("will_renew"), reason: e.p.text("cancellation_reason"), trial: e.p.text("active_introductory_offer_type") == "free_trial",
	}
	if e.p.is("is_lifetime") {
		a.ends = time.Time{}
	}
	if level := e.p.text("access_level_id"); level != "" {
		a.levels = []string{level}
	}
	active, told := e.p["is_active"].(bool)
	lost := told && !active
	a.replaced = e.replaced() && (a.over() || lost)
	if lost && !a.refund && !a.over() && !a.waits && !a.replaced {
		// The profile has lost it and the sale has not ended: it moved to another profile, whose own event says so.
		return
	}
	e.objects = append(e.objects, e.sale.access(&a, func(progress int64) int64 { return e.version(adaptyState + progress) })...)
	switch {
	case len(e.sharers) > 0:
		e.add(adaptyClaim(&e.sale, e.profile, e.user, e.bought(), true))
		shares := e.sale.object(entitlement.KindRenewal, "shares:"+e.sale.original, e.version(adaptyState))
		shares.Renewal, shares.Shares = &entitlement.Renewal{}, e.sharers
		e.add(shares)
	case !a.over() && !a.refund && !a.replaced:
		claim := adaptyClaim(&e.sale, e.profile, e.user, e.bought(), false)
		claim.At = e.version(adaptyState)
		e.add(claim)
	}
}

// adaptyAccess is what a state event or an answer says about one sale.
type adaptyAccess struct {
	starts, ends  time.Time // of the present term; without an end it is for ever
	at            time.Time // when this was so
	issue         time.Time // since when the money does not come
	grace, refund bool
	replaced      bool // by another product, before its end
	waits         bool // it begins later
	renews, trial bool
	reason        string // why it was cancelled; empty: it was not
	levels        []string
}

func (a *adaptyAccess) over() bool { return !a.ends.IsZero() && !a.ends.After(a.at) }

// access returns what a says about the sale. version is asked with how far the state is in the life of the sale.
func (s *adaptySale) access(a *adaptyAccess, version func(progress int64) int64) []entitlement.Object {
	recurring := !s.given && !a.ends.IsZero()
	t := s.transaction(recurring)
	t.StartsAt, t.EndsAt, t.Trial, t.Upgraded, t.Entitlements = unixOf(a.starts), unixOf(a.ends), a.trial, a.replaced, a.levels
	progress, r := int64(adaptySold), entitlement.Renewal{Phase: entitlement.PhaseActive, WillRenew: a.renews}
	switch {
	case a.refund:
		// Where no end is told the refund has no time. That of the statement would make each of them another state.
		progress, t.RevokedAt = adaptyRefunded, cmp.Or(unixOf(a.ends), unixOf(a.starts), unixOf(a.at))
	case a.waits:
		t.State = entitlement.TransactionPending
	case a.replaced:
		progress, r.WillRenew = adaptyUpgraded, false
	case a.grace:
		progress, r.Phase, r.GraceUntil = adaptyGrace, entitlement.PhaseBillingGrace, unixOf(a.ends)
	case a.over() && recurring && !a.issue.IsZero() && a.reason == "":
		progress, r = adaptyUnpaid, entitlement.Renewal{Phase: entitlement.PhaseBillingRetry, WillRenew: true}
	case a.over():
		progress, r = adaptyExpired, entitlement.Renewal{Phase: entitlement.PhaseExpired, EndedAt: unixOf(a.ends)}
	case !a.renews:
		progress = adaptyCancelled
	}
	at := version(progress)
	o := s.object(entitlement.KindTransaction, s.id, at)
	if a.grace && r.Phase == entitlement.PhaseBillingGrace {
		// The end that is told is that of the grace. What was paid for ended before: any other word about the term is better than this one.
		o.At = later(a.starts, time.Unix(1, 0)).UnixNano() - int64(time.Microsecond)
		if !a.issue.IsZero() && a.issue.Before(a.ends) {
			t.EndsAt = unixOf(a.issue)
		}
	}
	if o.Transaction = t; !recurring {
		return []entitlement.Object{o}
	}
	stands := s.object(entitlement.KindRenewal, s.chain, at)
	stands.Renewal = &r
	return []entitlement.Object{o, stands}
}

// buyer names whoever bought: events other than states go to the profile that did.
func (e *adaptyEvent) buyer() { e.add(adaptyClaim(&e.sale, e.profile, e.user, e.bought(), false)) }

// adaptyClaim says whose a sale is. It is the Renewal of no chain and says nothing but that. Three kinds, the stronger one has the later version:
// a state event of a profile that does not share has its own time, for a sale that moved has such an event at its new owner; the buyer has the
// time of the first purchase, because a sale that moved goes on to be told under its buyer; a profile that shares has the same in an object of
// its own, and counts where nobody says who bought. A profile that a user logged in to goes before one without.
func adaptyClaim(s *adaptySale, profile, user string, bought time.Time, shares bool) entitlement.Object {
	id, at := "owner:"+s.original, later(bought, time.Unix(1, 0)).UnixNano()
	if user != "" {
		at++
	}
	if shares {
		id += ":" + profile
	}
	o := s.object(entitlement.KindRenewal, id, at)
	o.Renewal, o.Account, o.Aliases = &entitlement.Renewal{}, ownAccount(user), adaptyAliases(profile, user)
	return o
}

// adaptyUser begins the id of a customer who is asked for by the merchant's id; without it, it is the id of a profile.
const adaptyUser = "user:"

func adaptyCustomerLink(id string) entitlement.Link {
	return entitlement.CustomerLink(entitlement.Adapty, id)
}

// hint says that there is a profile to read.
func (e *adaptyEvent) hint() {
	id := e.profile
	if id == "" && e.user != "" {
		id = adaptyUser + e.user
	}
	if id != "" {
		e.add(entitlement.Object{Kind: entitlement.KindHint, ID: id, By: entitlement.Adapty, At: e.at.UnixNano(),
			Links: []entitlement.Link{adaptyCustomerLink(id)}, Hint: &entitlement.Hint{Of: entitlement.KindCustomer}})
	}
}
