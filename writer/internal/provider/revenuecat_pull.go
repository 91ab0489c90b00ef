package provider

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/tidwall/gjson"
	"golang.org/x/time/rate"

	"github.com/latchkey/latchkey/pkg/entitlement"
)

const (
	// RevenueCatBase is where RevenueCat's API is, both versions of it.
	RevenueCatBase = "https://api.revenuecat.com"

	// A key may ask about customers 480 times a minute, which the two environments and the merchant's own backend share. Where the answers say that
	// others use it up, we ask less often, and never less than once in 2 s.
	revenueCatRequestsPerSecond = 3
	revenueCatBurst             = 6
	revenueCatSlowest           = 0.5

	// Lists come by pages. What is longer than 500 is not read: nobody has so many subscriptions.
	revenueCatPageSize = 100
	maxRevenueCatPages = 5

	// maxRevenueCatProducts bounds how many products' store ids are remembered, and how many rows of an answer are read.
	maxRevenueCatProducts = 10_000
	maxRevenueCatRows     = 500
)

// Mistakes in a RevenueCatAPIConfig, for saying which field is wrong.
var (
	ErrRevenueCatKey     = errors.New("revenuecat: API key")
	ErrRevenueCatKeyV1   = errors.New("revenuecat: API key of version 1")
	ErrRevenueCatProject = errors.New("revenuecat: project")
	ErrRevenueCatBase    = errors.New("revenuecat: address of the API")
)

// RevenueCatAPIConfig is what NewRevenueCatAPI needs: a key of version 2 with its project, one of version 1, or both. Version 2 knows all names of a
// customer and makes nobody by being asked, and lists all that they have; version 1 knows refunds, trials and the ids of all stores, and lists one
// subscription for each product. With both each is asked for what it knows.
type RevenueCatAPIConfig struct {
	Key     string // secret key of version 2
	Project string // "proj..."
	KeyV1   string // secret key of version 1
	// BaseURL is where the API is. Empty is RevenueCatBase. http:// is for loopback addresses.
	BaseURL string
	// Environment is whose purchases they are: those of the other one are passed over.
	Environment entitlement.Environment
	// Now is the clock that gives answers their version. Nil is time.Now.
	Now func() time.Time
}

// RevenueCatAPI asks RevenueCat for all that a customer has.
type RevenueCatAPI struct {
	api           *jsonAPI
	auth, authV1  string
	project       string
	env           entitlement.Environment
	now           func() time.Time
	mu            sync.Mutex
	storeProducts map[string]string // by RevenueCat's id of a product
}

// NewRevenueCatAPI returns a Puller. Errors: ErrRevenueCatKey, ErrRevenueCatKeyV1, ErrRevenueCatProject, ErrRevenueCatBase; they quote no key.
func NewRevenueCatAPI(c RevenueCatAPIConfig) (*RevenueCatAPI, error) {
	a := &RevenueCatAPI{project: c.Project, env: c.Environment, now: c.Now, storeProducts: map[string]string{}}
	if c.Key == "" && c.KeyV1 == "" {
		return nil, fmt.Errorf("%w: neither of version 2 nor of version 1", ErrRevenueCatKey)
	}
	if c.Key != "" {
		if err := checkAPIKey(c.Key, ErrRevenueCatKey); err != nil {
			return nil, err
		}
		if !isIdent(c.Project) {
			return nil, fmt.Errorf("%w: a key of version 2 needs the id of its project", ErrRevenueCatProject)
		}
		a.auth = "Bearer " + c.Key
	}
	if c.KeyV1 != "" {
		if err := checkAPIKey(c.KeyV1, ErrRevenueCatKeyV1); err != nil {
			return nil, err
		}
		a.authV1 = "Bearer " + c.KeyV1
	}
	if err := CheckRevenueCatBase(c.BaseURL); err != nil {
		return nil, err
	}
	if a.now == nil {
		a.now = time.Now
	}
	a.api = newJSONAPI(cmp.Or(c.BaseURL, RevenueCatBase), revenueCatRequestsPerSecond, revenueCatBurst)
	return a, nil
}

// CheckRevenueCatBase returns ErrRevenueCatBase for an address that the key may not be sent to, or nil. Empty is RevenueCatBase.
func CheckRevenueCatBase(base string) error { return checkBase(base, ErrRevenueCatBase) }

// Provider returns entitlement.RevenueCat.
func (a *RevenueCatAPI) Provider() entitlement.Provider { return entitlement.RevenueCat }

// Targets returns the customers: those that hints name, and for what is open about a purchase the one who owns it by the newest statement.
func (a *RevenueCatAPI) Targets(e entitlement.Evidence, doubts []entitlement.Doubt) []entitlement.Doubt {
	var out []entitlement.Doubt
	for _, d := range doubts {
		id, _, _ := strings.Cut(d.ID, revenueCatNamed)
		if d.Kind != entitlement.KindCustomer {
			id = ownerOf(e)
		}
		if id == "" {
			continue
		}
		if at := slices.IndexFunc(out, func(d entitlement.Doubt) bool { return d.ID == id }); at >= 0 {
			out[at].From = max(out[at].From, d.From)
			continue
		}
		out = append(out, entitlement.Doubt{Kind: entitlement.KindCustomer, ID: id, From: d.From, By: entitlement.RevenueCat})
	}
	return out
}

// Due returns the owner of a subscription that should have renewed, or whose grace or pause is over, and of which nothing was told since.
func (a *RevenueCatAPI) Due(e entitlement.Evidence, asked func(id string) time.Time, now time.Time) []entitlement.Doubt {
	return customerDue(e, entitlement.RevenueCat, ownerOf(e), asked, now)
}

// ownerOf returns the name by which to ask about a purchase's owner.
func ownerOf(e entitlement.Evidence) string {
	var users []string
	for _, alias := range e.Identity().Aliases {
		if alias.Kind == entitlement.RevenueCatAppUser {
			users = append(users, alias.Value)
		}
	}
	return bestUser(users)
}

// revenueCatAnswer collects what is known of a customer.
type revenueCatAnswer struct {
	version int64 // Unix seconds
	users   []string
	account string // that the merchant set as an attribute
	gone    bool
	sales   []pulledSale
	rows    int // of subscriptions, that version 1 listed of this environment
}

// pulledSale is a sale with what the answer says besides about it.
type pulledSale struct {
	revenueCatSale
	termKnown bool // else it only says where the subscription stands
	revoked   int8 // 1 taken back, -1 surely not
	revokedAt int64
	stands    *entitlement.Renewal
	ask       string // a customer to ask about, where nothing else is known
}

// Pull asks for a customer with all that they have. One whom RevenueCat does not know is an answer too.
func (a *RevenueCatAPI) Pull(ctx context.Context, kind entitlement.ObjectKind, id string) (entitlement.Event, error) {
	if kind != entitlement.KindCustomer || revenueCatUser(gjson.Result{Type: gjson.String, Str: id}) == nil {
		return entitlement.Event{}, &PullError{Reason: ErrGone, Detail: "RevenueCat can be asked about customers alone"}
	}
	left := a.now()
	answer := revenueCatAnswer{version: left.Unix(), users: []string{id}}
	if a.auth != "" {
		if err := a.askNames(ctx, left, id, &answer); err != nil {
			return entitlement.Event{}, err
		}
	}
	if !answer.gone {
		ask := a.askPurchases
		if a.authV1 != "" {
			ask = a.askV1
		}
		if err := ask(ctx, left, id, &answer); err != nil {
			return entitlement.Event{}, err
		}
	}
	return a.event(id, left, &answer), nil
}

// event is the answer as it is stored.
func (a *RevenueCatAPI) event(id string, left time.Time, answer *revenueCatAnswer) entitlement.Event {
	sum := sha256.Sum256([]byte(id)) // a name may be one that its owner would not want in a log
	ev := entitlement.Event{
		Provider: entitlement.RevenueCat, ID: "pull:customer:" + hex.EncodeToString(sum[:8]) + ":" + strconv.FormatInt(left.UnixNano(), 10),
		Type: pullPrefix + string(entitlement.KindCustomer), Environment: a.env, CreatedAt: answer.version,
	}
	ev.Objects = []entitlement.Object{{Kind: entitlement.KindCustomer, ID: id, By: entitlement.RevenueCat, Links: []entitlement.Link{customerLink(id)},
		Customer: &entitlement.Customer{Gone: answer.gone}}}
	owner := newRevenueCatOwner(answer.account, answer.users)
	kept := list{}
	for i := range answer.sales {
		s := &answer.sales[i]
		ev.Objects = append(ev.Objects, s.objects(&owner)...)
		kept.Data = append(kept.Data, s.kept())
	}
	for i := range ev.Objects {
		o := &ev.Objects[i]
		if o.At = answer.version * int64(time.Second); o.Renewal != nil {
			o.Rank = 12 // after those of events
		}
	}
	ev.Raw = object{"customer": id, "gone": answer.gone, "sales": kept}.raw()
	return ev
}

func (s *pulledSale) objects(owner *revenueCatOwner) (out []entitlement.Object) {
	links := s.links()
	add := func(o entitlement.Object) { out = append(out, owner.own(o, links)) }
	if s.ask != "" {
		out = append(out, customerHint(s.ask))
	}
	if s.termKnown {
		add(s.term())
	}
	if s.transaction != "" { // a refund counts also where it is not known here what the term gives
		switch s.revoked {
		case 1:
			add(s.revocation(s.revokedAt, entitlement.ReasonRefunded, false))
		case -1:
			add(s.revocation(0, "", true))
		}
	}
	if s.stands != nil && s.chain() != "" {
		add(s.standing(*s.stands))
	}
	return out
}

// kept is what is stored of a row for people.
func (s *pulledSale) kept() object {
	o := object{"store": s.store, "starts_at": s.startsAt, "ends_at": s.endsAt}
	for name, text := range map[string]string{"product": s.product, "transaction": s.transaction} {
		if text != "" {
			o[name] = text
		}
	}
	if s.stands != nil && s.stands.Phase != "" {
		o["phase"], o["will_renew"] = string(s.stands.Phase), s.stands.WillRenew
	}
	if s.revoked == 1 {
		o["refunded_at"] = s.revokedAt
	}
	return o
}

// get asks, and keeps to the rate that the answer shows to be left.
func (a *RevenueCatAPI) get(ctx context.Context, path, auth string) (gjson.Result, *stripeHead, error) {
	answer, head, err := a.api.get(ctx, path, http.Header{"Authorization": {auth}})
	used, errUsed := strconv.Atoi(head.header.Get("RevenueCat-Rate-Limit-Current-Usage"))
	most, errMost := strconv.Atoi(head.header.Get("RevenueCat-Rate-Limit-Current-Limit"))
	if errUsed == nil && errMost == nil {
		a.api.slowTo(rate.Limit(min(max(float64(most-used)/60, revenueCatSlowest), revenueCatRequestsPerSecond)))
	}
	return answer, head, err
}

// The shapes of version 1's answers.
var (
	isoTime = func(v gjson.Result) any {
		if t, err := time.Parse(time.RFC3339, v.Str); err == nil && 0 < t.Unix() && t.Year() < 10_000 {
			return t.Unix()
		}
		return nil
	}
	isoTimeOrNull = func(v gjson.Result) any {
		if v.Type == gjson.Null {
			return false
		}
		return isoTime(v)
	}
	revenueCatV1Row = fields(map[string]keep{
		"store": word, "is_sandbox": flag, "store_transaction_id": revenueCatID, "id": revenueCatID, "product_plan_identifier": revenueCatID, "period_type": word, "ownership_type": word,
		"purchase_date": isoTime, "expires_date": isoTimeOrNull, "grace_period_expires_date": isoTime, "unsubscribe_detected_at": isoTime,
		"billing_issues_detected_at": isoTime, "refunded_at": isoTime, "auto_resume_date": isoTime,
		"price": fields(map[string]keep{"amount": decimal, "currency": word}),
	})
	revenueCatV1Customer    = fields(map[string]keep{"original_app_user_id": revenueCatUser, "subscriber_attributes": revenueCatAttributes})
	revenueCatV1Entitlement = fields(map[string]keep{"product_identifier": revenueCatID})
)

// askV1 asks version 1, which makes a customer whom it does not know, and version 2 for what version 1 leaves out.
func (a *RevenueCatAPI) askV1(ctx context.Context, left time.Time, id string, into *revenueCatAnswer) error {
	answer, head, err := a.get(ctx, "/v1/subscribers/"+url.PathEscape(id), a.authV1)
	into.version = min(into.version, version(left, head.header))
	if head.status == http.StatusCreated {
		into.gone = true
		return nil
	}
	if err != nil {
		return err
	}
	subscriber := member(answer, "subscriber")
	customer, ok := revenueCatV1Customer(subscriber).(object)
	if !ok {
		return head.fail(ErrAnswer, "no subscriber")
	}
	if original := customer.text("original_app_user_id"); original != "" {
		into.users = append(into.users, original)
	}
	into.account = cmp.Or(customer.in("subscriber_attributes", "account_id").text("value"), into.account)
	gives := map[string][]string{}
	member(subscriber, "entitlements").ForEach(func(name, v gjson.Result) bool {
		entitled, _ := revenueCatV1Entitlement(v).(object)
		if name, ok := revenueCatName(name).(string); ok && entitled != nil {
			product := entitled.text("product_identifier")
			gives[product] = append(gives[product], name)
		}
		return len(gives) < maxRevenueCatEntitlements
	})
	member(subscriber, "subscriptions").ForEach(func(product, v gjson.Result) bool {
		a.rowV1(product, v, gives, true, into)
		return len(into.sales) < maxRevenueCatRows
	})
	member(subscriber, "non_subscriptions").ForEach(func(product, rows gjson.Result) bool {
		rows.ForEach(func(_, v gjson.Result) bool {
			a.rowV1(product, v, gives, false, into)
			return len(into.sales) < maxRevenueCatRows
		})
		return len(into.sales) < maxRevenueCatRows
	})
	if a.auth == "" {
		return nil
	}
	return a.askHidden(ctx, id, into)
}

// rowV1 adds one row of version 1's answer.
func (a *RevenueCatAPI) rowV1(product, v gjson.Result, gives map[string][]string, subscription bool, into *revenueCatAnswer) {
	o, _ := revenueCatV1Row(v).(object)
	name, _ := revenueCatID(product).(string)
	if o == nil || name == "" || o.is("is_sandbox") != (a.env == entitlement.Sandbox) {
		return
	}
	if subscription {
		into.rows++
	}
	s := pulledSale{revenueCatSale: revenueCatSale{
		store: strings.ToLower(o.text("store")), transaction: cmp.Or(o.text("store_transaction_id"), o.text("id")), product: name, entitlements: gives[name],
		startsAt: o.int("purchase_date"), endsAt: o.int("expires_date"), trial: strings.EqualFold(o.text("period_type"), "trial"),
		prepaid: strings.EqualFold(o.text("period_type"), "prepaid"), family: o.text("ownership_type") == "FAMILY_SHARED",
		price: priceOf(o.in("price").text("amount"), o.in("price").text("currency")),
	}}
	_, s.endless = o["expires_date"].(bool)
	s.endless = s.endless || !subscription
	if plan := o.text("product_plan_identifier"); plan != "" && s.store == entitlement.PlayStore && !strings.Contains(name, ":") {
		s.product = name + ":" + plan
		s.entitlements = append(slices.Clone(s.entitlements), gives[s.product]...)
	}
	if s.transaction == "" || s.endsAt == 0 && !s.endless || s.promo() && isOurs(s.endsAt*1000, true) {
		return
	}
	s.recurring = !s.endless && !s.promo()
	// An entitlement is listed under the one product that gives it the longest. Of another product it is not known here what it gives, and what is known
	// already must not be lost.
	s.termKnown = len(s.entitlements) > 0 || len(gives) == 0 || !s.recurring
	if s.recurring {
		s.stands = standingV1(o, into.version)
		if s.revoked, s.revokedAt = -1, o.int("refunded_at"); s.revokedAt != 0 {
			s.revoked = 1
		}
		s.stands.Transaction = s.termID()
	}
	into.sales = append(into.sales, s)
}

// standingV1 is where a subscription stands. What is past its end without a reason has not been told of yet: its renewal may be on the way.
func standingV1(o object, now int64) *entitlement.Renewal {
	r := &entitlement.Renewal{Phase: entitlement.PhaseActive, WillRenew: o.int("unsubscribe_detected_at") == 0}
	switch grace, resumes := o.int("grace_period_expires_date"), o.int("auto_resume_date"); {
	case resumes != 0:
		r.Phase, r.ResumesAt = entitlement.PhasePaused, resumes
	case o.int("billing_issues_detected_at") == 0:
	case grace > now:
		r.Phase, r.GraceUntil = entitlement.PhaseBillingGrace, grace
	case o.int("unsubscribe_detected_at") > o.int("billing_issues_detected_at") && o.int("expires_date") <= now: // nobody tries the card any more
		r.Phase, r.EndedAt = entitlement.PhaseExpired, o.int("expires_date")
	default:
		r.Phase = entitlement.PhaseBillingRetry
	}
	return r
}

// The shapes of version 2's answers. Lists within objects are read by their first page.
var (
	revenueCatItems = func(shape map[string]keep) keep {
		element := fields(shape)
		return fields(map[string]keep{"next_page": flag, "items": func(v gjson.Result) any {
			out := list{}
			v.ForEach(func(_, v gjson.Result) bool {
				if o, ok := element(v).(object); ok {
					out.Data = append(out.Data, o)
				}
				return len(out.Data) < maxRevenueCatRows
			})
			return out
		}})
	}
	revenueCatV2Gives = revenueCatItems(map[string]keep{"lookup_key": revenueCatName,
		"products": revenueCatItems(map[string]keep{"id": revenueCatID, "store_identifier": revenueCatID})})
	revenueCatV2Names      = map[string]keep{"id": revenueCatUser}
	revenueCatV2Attributes = fields(map[string]keep{"id": revenueCatUser, "attributes": revenueCatItems(map[string]keep{"name": word, "value": accountID})})

	revenueCatV2Subscription = map[string]keep{
		"id": ident, "product_id": revenueCatID, "starts_at": number, "current_period_starts_at": number, "current_period_ends_at": number, "ends_at": number,
		"gives_access": flag, "auto_renewal_status": word, "status": word, "environment": word, "store": word, "store_subscription_identifier": revenueCatID,
		"ownership": word, "entitlements": revenueCatV2Gives,
		"pending_changes": fields(map[string]keep{"product": fields(map[string]keep{"store_identifier": revenueCatID})}),
	}
	revenueCatV2Purchase = map[string]keep{
		"id": ident, "product_id": revenueCatID, "purchased_at": number, "status": word, "quantity": number, "environment": word, "store": word,
		"store_purchase_identifier": revenueCatID, "ownership": word, "entitlements": revenueCatV2Gives,
	}
	revenueCatV2Transaction = map[string]keep{
		"id": revenueCatID, "purchased_at": number, "expiration_date": number, "effective_expiration_date": number, "product_store_identifier": revenueCatID,
		"revenue_in_usd": fields(map[string]keep{"gross": decimal}),
	}
)

// pages returns the rows of a list of version 2.
func (a *RevenueCatAPI) pages(ctx context.Context, path string, shape map[string]keep) ([]object, error) {
	var rows []object
	query := url.Values{"limit": {strconv.Itoa(revenueCatPageSize)}, "environment": {string(a.env)}}
	for range maxRevenueCatPages {
		answer, _, err := a.get(ctx, path+"?"+query.Encode(), a.auth)
		if err != nil {
			return nil, err
		}
		page, _ := revenueCatItems(shape)(answer).(object)
		rows = append(rows, page.list("items").Data...)
		next, err := url.Parse(member(answer, "next_page").Str)
		if err != nil || next.Query().Get("starting_after") == "" {
			break
		}
		query.Set("starting_after", next.Query().Get("starting_after")) // the rest of its address is not believed
	}
	return rows, nil
}

func (a *RevenueCatAPI) projectPath(parts ...string) string {
	path := "/v2/projects/" + url.PathEscape(a.project)
	for _, part := range parts {
		path += "/" + url.PathEscape(part)
	}
	return path
}

// askNames asks version 2 whether there is such a customer, and what they are called.
func (a *RevenueCatAPI) askNames(ctx context.Context, left time.Time, id string, into *revenueCatAnswer) error {
	answer, head, err := a.get(ctx, a.projectPath("customers", id)+"?expand=attributes", a.auth)
	into.version = min(into.version, version(left, head.header))
	if errors.Is(err, ErrGone) {
		into.gone = true
		return nil
	}
	if err != nil {
		return err
	}
	customer, _ := revenueCatV2Attributes(answer).(object)
	if main := customer.text("id"); main != "" {
		into.users = append(into.users, main)
	}
	for _, attribute := range customer.in("attributes").list("items").Data {
		if attribute.text("name") == "account_id" {
			into.account = attribute.text("value")
		}
	}
	names, err := a.pages(ctx, a.projectPath("customers", id, "aliases"), revenueCatV2Names)
	if err != nil {
		return err
	}
	for _, name := range names {
		into.users = append(into.users, name.text("id"))
	}
	return nil
}

// askSubscriptions asks version 2 for the subscriptions of this environment.
func (a *RevenueCatAPI) askSubscriptions(ctx context.Context, id string) ([]object, error) {
	rows, err := a.pages(ctx, a.projectPath("customers", id, "subscriptions"), revenueCatV2Subscription)
	return slices.DeleteFunc(rows, func(o object) bool { return o.text("environment") != string(a.env) }), err
}

// askHidden asks version 2 for the subscriptions that version 1 left out: it lists one for each product, though a customer may have two of a store, one of
// them by a transfer or bought anew after a refund.
func (a *RevenueCatAPI) askHidden(ctx context.Context, id string, into *revenueCatAnswer) error {
	subscriptions, err := a.askSubscriptions(ctx, id)
	if err != nil || len(subscriptions) <= into.rows {
		return err
	}
	listed := into.sales
	into.sales = nil
	for _, o := range subscriptions {
		if err := a.subscriptionV2(ctx, o, into); err != nil {
			return err
		}
	}
	hidden := slices.DeleteFunc(into.sales, func(s pulledSale) bool {
		return slices.ContainsFunc(listed, func(row pulledSale) bool { return row.recurring == s.recurring && s.isListedAs(&row) })
	})
	into.sales = append(listed, hidden...)
	return nil
}

// isListedAs says whether a row of version 1 is about the same subscription. Stripe's ids differ between the versions; the start of the term does not.
func (s *pulledSale) isListedAs(row *pulledSale) bool {
	if s.storeName() != row.storeName() {
		return false
	}
	if s.store == entitlement.PlayStore {
		return s.chain() == row.chain()
	}
	return s.startsAt == row.startsAt || slices.Contains(append([]string{s.transaction}, s.others...), row.transaction)
}

// askPurchases asks version 2 for subscriptions and one-time purchases.
func (a *RevenueCatAPI) askPurchases(ctx context.Context, _ time.Time, id string, into *revenueCatAnswer) error {
	subscriptions, err := a.askSubscriptions(ctx, id)
	if err != nil {
		return err
	}
	for _, o := range subscriptions {
		if err := a.subscriptionV2(ctx, o, into); err != nil {
			return err
		}
	}
	purchases, err := a.pages(ctx, a.projectPath("customers", id, "purchases"), revenueCatV2Purchase)
	if err != nil {
		return err
	}
	for _, o := range purchases {
		s, err := a.saleV2(ctx, o)
		if err != nil {
			return err
		}
		s.transaction, s.startsAt, s.endless, s.quantity = o.text("store_purchase_identifier"), wholeSecond(o.int("purchased_at")), true, o.int("quantity")
		if s.revoked = -1; o.text("status") == "refunded" {
			s.revoked = 1
		}
		if s.termKnown = s.transaction != ""; s.termKnown && o.text("environment") == string(a.env) {
			into.sales = append(into.sales, s)
		}
	}
	return nil
}

// saleV2 is what subscriptions and purchases have in common.
func (a *RevenueCatAPI) saleV2(ctx context.Context, o object) (s pulledSale, err error) {
	s.store, s.family = strings.ToLower(o.text("store")), o.text("ownership") == "family_shared"
	for _, e := range o.in("entitlements").list("items").Data {
		if name := e.text("lookup_key"); name != "" {
			s.entitlements = append(s.entitlements, name)
		}
		for _, p := range e.in("products").list("items").Data {
			if p.text("id") == o.text("product_id") {
				s.product = p.text("store_identifier")
			}
		}
	}
	if s.product == "" {
		s.product, err = a.storeProduct(ctx, o.text("product_id"))
	}
	return s, err
}

// storeProduct returns what the store calls a product.
func (a *RevenueCatAPI) storeProduct(ctx context.Context, id string) (string, error) {
	a.mu.Lock()
	known := a.storeProducts[id]
	a.mu.Unlock()
	if known != "" || id == "" {
		return known, nil
	}
	answer, _, err := a.get(ctx, a.projectPath("products", id), a.auth)
	if errors.Is(err, ErrGone) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	found, _ := revenueCatID(member(answer, "store_identifier")).(string)
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.storeProducts) >= maxRevenueCatProducts {
		clear(a.storeProducts)
	}
	a.storeProducts[id] = found
	return found, nil
}

// subscriptionV2 adds a subscription. Its present term is known by its transaction where the store is one whose transactions can be asked for, or
// one whose transactions have the subscription's id; of others only where it stands is known.
func (a *RevenueCatAPI) subscriptionV2(ctx context.Context, o object, into *revenueCatAnswer) error {
	if o.text("id") == "" || len(into.sales) >= maxRevenueCatRows {
		return nil
	}
	s, err := a.saleV2(ctx, o)
	if err != nil {
		return err
	}
	started, storeID := o.int("starts_at"), o.text("store_subscription_identifier")
	s.startsAt, s.endsAt = wholeSecond(o.int("current_period_starts_at")), wholeSecond(o.int("current_period_ends_at"))
	s.recurring, s.trial = !s.promo(), o.text("status") == "trialing"
	if s.promo() && isOurs(o.int("current_period_ends_at"), false) {
		return nil
	}
	grace := s.endsAt
	switch {
	case s.promo(), s.store == string(entitlement.Stripe):
		s.transaction = storeID
	case storeID != "":
		s.others = []string{storeID}
	}
	if s.storeName() == entitlement.AppStore || s.store == entitlement.PlayStore {
		terms, err := a.pages(ctx, a.projectPath("subscriptions", o.text("id"), "transactions"), revenueCatV2Transaction)
		if err != nil && !errors.Is(err, ErrGone) {
			return err
		}
		var newest object
		for _, t := range terms {
			if id := t.text("id"); id != "" {
				s.others = append(s.others, id)
				if newest == nil || t.int("purchased_at") > newest.int("purchased_at") {
					newest = t
				}
			}
		}
		if newest != nil {
			s.transaction, s.startsAt, s.endsAt = newest.text("id"), wholeSecond(newest.int("purchased_at")), wholeSecond(newest.int("expiration_date"))
			s.product = cmp.Or(newest.text("product_store_identifier"), s.product)
			grace = max(grace, wholeSecond(newest.int("effective_expiration_date")))
			free, err := strconv.ParseFloat(newest.in("revenue_in_usd").text("gross"), 64)
			s.trial = s.trial || err == nil && free == 0 && newest.int("purchased_at") <= started
		}
	}
	s.termKnown = s.transaction != "" && s.endsAt > 0
	if s.recurring {
		s.stands = standingV2(o, grace)
		s.stands.Transaction = s.termID()
		if o.is("gives_access") {
			s.revoked = -1
		}
	}
	if s.termKnown || s.anyID() != "" {
		into.sales = append(into.sales, s)
	}
	return nil
}

// standingV2 is where a subscription stands, by its status.
func standingV2(o object, grace int64) *entitlement.Renewal {
	r := &entitlement.Renewal{Next: entitlement.ProductID(o.in("pending_changes", "product").text("store_identifier"))}
	switch o.text("auto_renewal_status") {
	case "will_renew", "will_change_product", "will_pause", "has_already_renewed":
		r.WillRenew = true
	}
	switch o.text("status") {
	case "trialing", "active":
		r.Phase = entitlement.PhaseActive
	case "in_grace_period":
		r.Phase, r.GraceUntil = entitlement.PhaseBillingGrace, grace
	case "in_billing_retry":
		r.Phase = entitlement.PhaseBillingRetry
	case "paused":
		r.Phase = entitlement.PhasePaused
	case "incomplete":
		r.Phase = entitlement.PhasePending
	case "expired":
		r.Phase, r.WillRenew, r.EndedAt = entitlement.PhaseExpired, false, wholeSecond(cmp.Or(o.int("ends_at"), o.int("current_period_ends_at")))
	}
	return r
}
