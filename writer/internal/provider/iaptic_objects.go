package provider

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/tidwall/gjson"

	"github.com/latchkey/latchkey/pkg/entitlement"
)

// What iaptic's messages prove.
//
// Each message holds everything that a user has, so what it was sent for (its reason, such as REFUNDED) is a label and decides nothing: a lost
// message heals with the next one. The key of a purchase is the purchaseId inside of it. The collection's own keys are product ids, which two
// purchases of one product share.
//
// iaptic's pages contradict each other about the dates, and its messages do not say of what kind a product is. What is stored is therefore
// explicit (requirement A10.1): a term with an end where the dates tell of one, a sale without an end where they do not, and a refund.
//
//	expirationDate                          what it is
//	none                                    owned; refunded where it is called expired or has a reason, and nothing shows that it renews
//	after purchaseDate                      a term until then; a refund or an expiry moves it to where that was
//	not after purchaseDate, with a reason   refunded
//	not after purchaseDate, without         owned: iaptic writes the purchase date where nothing expires. Marked in the event for people, because
//	                                        no real message has been seen
//
// What a message leaves out of the collection is gone (entitlement.WholeList), for it is everything that the user has: unless an entry of it could not be read.
//
// The version of a state is the notification's date. Two messages of one date that differ are a tie, and the user is asked about.

// The shapes below are the allow-list. The password is in none of them.
var (
	iapticHead = fields(map[string]keep{"type": word, "applicationUsername": userName, "notification": fields(map[string]keep{
		"reason": word, "id": ident, "date": microTime, "productId": ident, "purchaseId": ident, "transactionId": ident,
	})})

	iapticPurchase = map[string]keep{
		"purchaseId": ident, "transactionId": ident, "productId": ident, "platform": word, "sandbox": told(flag), "purchaseDate": microTime,
		"lastRenewalDate": microTime, "expirationDate": told(iapticEnd), "renewalIntent": word, "renewalIntentChangeDate": microTime,
		"cancelationReason": iapticReason, "isPending": told(flag), "isAcknowledged": flag, "isConsumed": flag, "isBillingRetryPeriod": flag, "isTrialPeriod": flag,
		"isIntroPeriod": flag, "isExpired": told(flag), "isSharedPurchase": flag, "priceConsentStatus": word, "discountId": ident, "quantity": number,
		"currency": word, "amountMicros": number, "entitledUsers": userNames,
	}
)

// iapticEnd keeps an end. One before all sales is not understood: an end that is not after the purchase is what iaptic writes where nothing expires.
func iapticEnd(v gjson.Result) any {
	if t, ok := timeOf(v); ok && t.Before(firstTime) {
		return nil
	}
	return termTime(v)
}

// iapticReason keeps why a purchase was cancelled. The empty text is no reason: so iaptic says that it was not.
func iapticReason(v gjson.Result) any {
	if v.Type == gjson.String && v.Str == "" {
		return nil
	}
	return told(word)(v)
}

// userNames keeps the names in a list of users, as objects: what was kept of a message has no other lists.
func userNames(v gjson.Result) any {
	if !v.IsArray() {
		return nil
	}
	out := list{Data: []object{}}
	v.ForEach(func(_, v gjson.Result) bool {
		if name := userName(v); name != nil {
			out.Data = append(out.Data, object{"user": name})
		} else {
			out.Cut = true
		}
		return len(out.Data) < maxIapticUsers
	})
	return out
}

const (
	// maxIapticUsers bounds the users who are read of one purchase, maxIapticPurchases the purchases of one user.
	maxIapticUsers     = 50
	maxIapticPurchases = 2000
)

// What is wrong with a message of a type that we act on, so that it proves nothing.
var (
	errIapticType    = errors.New("no message: the type is missing")
	errIapticVersion = errors.New("the notification has no date, so that nothing says which of two messages is newer")
	errIapticList    = errors.New("the purchases are missing")
)

func parseIaptic(body []byte, env entitlement.Environment) (entitlement.Event, error) {
	m, err := decodeObject(body)
	if err != nil {
		return entitlement.Event{}, err
	}
	head := iapticHead(m).(object)
	kind, notification := head.text("type"), head.in("notification")
	if kind == "" {
		return entitlement.Event{}, errIapticType
	}
	ev := entitlement.Event{Provider: entitlement.Iaptic, ID: notification.text("id"), Type: strings.ToLower(kind), Environment: env,
		CreatedAt: unixOf(notification.instant("date"))}
	if ev.ID == "" {
		sum := sha256.Sum256(body)
		ev.ID = "sha256:" + hex.EncodeToString(sum[:])
	}
	if ev.Type != "purchases.updated" { // a test has neither a notification nor purchases
		ev.Kind, ev.Raw = entitlement.Unhandled, head.raw()
		return ev, nil
	}
	date := notification.instant("date")
	if date.IsZero() {
		return entitlement.Event{}, errIapticVersion
	}
	purchases, kept := iapticPurchases(member(m, "purchases"))
	if purchases == nil {
		return entitlement.Event{}, errIapticList
	}
	ev.Environment = iapticEnvironment(purchases, notification.text("purchaseId"), env)
	for _, o := range purchases {
		if iapticSandbox(o) == (ev.Environment == entitlement.Sandbox) {
			ev.Objects = append(ev.Objects, newIapticSale(o, head.text("applicationUsername"), date).read()...)
		}
	}
	if user := head.text("applicationUsername"); user != "" && !kept.Cut {
		ev.Objects = append(ev.Objects, entitlement.WholeList(entitlement.Iaptic, user, date.UnixNano()))
	}
	head["purchases"] = kept
	ev.Raw = head.raw()
	return ev, nil
}

// iapticMeans are the members of a purchase without which nobody can say what it gives.
var iapticMeans = []string{"sandbox", "expirationDate", "cancelationReason", "isPending", "isExpired"}

// iapticPurchases returns the purchases of a collection, nil where there is none. One without an id is passed over, and one of which a member that
// decides about access is not understood: a wrong end is not "no end". What was told of it before stands.
func iapticPurchases(v gjson.Result) (purchases []object, kept list) {
	if !v.IsObject() && !v.IsArray() {
		return nil, kept
	}
	purchases, kept.Data = []object{}, []object{}
	seen := map[string]bool{}
	v.ForEach(func(_, v gjson.Result) bool {
		o, ok := fields(iapticPurchase)(v).(object)
		if !ok || o.text("purchaseId") == "" || seen[o.text("purchaseId")] || o.wrong(iapticMeans...) || len(purchases) == maxIapticPurchases {
			kept.Cut = true
			return len(purchases) < maxIapticPurchases
		}
		seen[o.text("purchaseId")] = true
		purchases = append(purchases, o)
		return true
	})
	slices.SortFunc(purchases, func(a, b object) int { return cmp.Compare(a.text("purchaseId"), b.text("purchaseId")) })
	for _, o := range purchases {
		shown := object{}
		for name, value := range o {
			shown[name] = value
		}
		if iapticUnclear(o) {
			shown["unclear_end"] = true
		}
		kept.Data = append(kept.Data, shown)
	}
	return purchases, kept
}

func iapticSandbox(o object) bool { return o.is("sandbox") }

// iapticEnvironment is that of the purchase that a message is about, else that of all its purchases, else that of its address.
func iapticEnvironment(purchases []object, about string, env entitlement.Environment) entitlement.Environment {
	sandbox := 0
	for _, o := range purchases {
		if iapticSandbox(o) {
			sandbox++
		}
		if o.text("purchaseId") == about && about != "" {
			return iapticEnvironmentOf(o)
		}
	}
	if len(purchases) > 0 && (sandbox == 0 || sandbox == len(purchases)) {
		return iapticEnvironmentOf(purchases[0])
	}
	return env
}

func iapticEnvironmentOf(o object) entitlement.Environment {
	if iapticSandbox(o) {
		return entitlement.Sandbox
	}
	return entitlement.Production
}

// iapticOver reports whether the expiration date of a purchase is not after its purchase date.
func iapticOver(o object) bool {
	bought, ends := o.instant("purchaseDate"), o.instant("expirationDate")
	return !ends.IsZero() && !bought.IsZero() && !ends.After(bought)
}

// iapticUnclear reports whether nothing but iaptic's habit says that a purchase is owned: see the top of this file.
func iapticUnclear(o object) bool {
	return iapticOver(o) && o.text("cancelationReason") == "" && !iapticRenews(o)
}

// iapticRenews reports whether a purchase shows a sign of what only subscriptions have.
func iapticRenews(o object) bool {
	return o.text("renewalIntent") != "" || !o.instant("lastRenewalDate").IsZero() || o.is("isTrialPeriod") || o.is("isIntroPeriod") || o.is("isBillingRetryPeriod")
}

// iapticRanks says which of two states with one version is further on.
const (
	iapticPending = 1 + iota
	iapticActive
	iapticLapses
	iapticUnpaid
	iapticExpired
	iapticRefunded
)

// iapticSale is one purchase of one user.
type iapticSale struct {
	object
	user         string
	date         time.Time // of the message: the version
	id, chain    string    // of the last transaction and of the purchase, as the store writes them
	product      string
	store        string
	links        []entitlement.Link
	bought, ends time.Time
}

func newIapticSale(o object, user string, date time.Time) *iapticSale {
	s := &iapticSale{object: o, user: user, date: date, bought: o.instant("purchaseDate"), ends: o.instant("expirationDate")}
	platform, _, _ := strings.Cut(o.text("purchaseId"), ":")
	platform = strings.ToLower(cmp.Or(o.text("platform"), platform))
	bare := func(name string) string { return strings.TrimPrefix(o.text(name), platform+":") }
	s.chain, s.product = bare("purchaseId"), bare("productId")
	s.id = cmp.Or(bare("transactionId"), s.chain)
	switch platform {
	case "apple":
		s.store = entitlement.AppStore
	case "google":
		s.store = entitlement.PlayStore
	default:
		s.store = platform
	}
	if s.links = storeLinks(s.store, s.chain, s.id); len(s.links) == 0 {
		s.links = []entitlement.Link{entitlement.Link("iaptic:" + o.text("purchaseId"))}
	}
	slices.Sort(s.links)
	s.links = slices.Compact(s.links)
	return s
}

func (s *iapticSale) new(kind entitlement.ObjectKind, id string, rank uint8) entitlement.Object {
	return entitlement.Object{Kind: kind, ID: id, By: entitlement.Iaptic, At: s.date.UnixNano(), Rank: rank, Links: s.links}
}

// read returns what the purchase proves.
func (s *iapticSale) read() []entitlement.Object {
	sold := entitlement.Sold{Product: entitlement.ProductID(s.product), Quantity: s.int("quantity")}
	if full := s.text("productId"); full != s.product {
		sold.Also = []entitlement.ProductID{entitlement.ProductID(full)}
	}
	t := &entitlement.Transaction{Sold: sold, Store: s.store, Trial: s.is("isTrialPeriod"), StartsAt: unixOf(later(s.bought, s.instant("lastRenewalDate")))}
	if s.is("isSharedPurchase") {
		t.Ownership = entitlement.Family
	}
	reason, rank := s.text("cancelationReason"), uint8(iapticActive)
	var r *entitlement.Renewal
	switch {
	case s.is("isPending"):
		rank, t.State = iapticPending, entitlement.TransactionPending
	case iapticOver(s.object) && reason != "":
		rank, t.RevokedAt = iapticRefunded, unixOf(s.ends)
	case iapticRenews(s.object):
		r, rank = s.standing(reason)
		t.Chain, t.Recurring, t.EndsAt = s.chain, true, unixOf(s.ends)
	case s.ends.IsZero() && (s.is("isExpired") || reason != ""):
		// When it was taken back is not told. A time of the message would make each of them another state.
		rank, t.RevokedAt = iapticRefunded, max(unixOf(s.instants("renewalIntentChangeDate", "purchaseDate")), 1)
	case !s.ends.IsZero() && s.ends.After(s.bought):
		t.EndsAt = unixOf(s.ends)
	}
	o := s.new(entitlement.KindTransaction, s.id, rank)
	o.Transaction = t
	out := []entitlement.Object{o}
	if r != nil {
		o := s.new(entitlement.KindRenewal, s.chain, rank)
		o.Renewal = r
		out = append(out, o)
	}
	return slices.Concat(out, s.own(), s.echoes())
}

// standing is where a subscription stands. Whether it is over is iaptic's word, or its dates' where it will not renew: of what will, the
// renewal's message may come late.
func (s *iapticSale) standing(reason string) (r *entitlement.Renewal, rank uint8) {
	intent := strings.ToLower(s.text("renewalIntent"))
	r = &entitlement.Renewal{Phase: entitlement.PhaseActive, WillRenew: intent == "renew" || intent == "" && reason == ""}
	past := !s.ends.IsZero() && !s.ends.After(s.date)
	switch {
	case s.is("isBillingRetryPeriod"):
		// iaptic does not say whether the store grants a grace, nor whether the date has it in it: what is given beyond the date is the policy's
		// billing grace for the store, by default nothing but for Stripe.
		r.Phase = entitlement.PhaseBillingGrace
		return r, iapticUnpaid
	case s.is("isExpired"), past && !r.WillRenew:
		return &entitlement.Renewal{Phase: entitlement.PhaseExpired, EndedAt: unixOf(s.ends)}, iapticExpired
	case !r.WillRenew:
		return r, iapticLapses
	}
	return r, iapticActive
}

// own says whose the purchase is, and who else uses it, in objects of their own. A message is about one user and the purchase may have several:
// then who bought it is not told, so each is a user beside its owner, and the claim to own it is as old as the purchase. Where the message's user is not
// among them, the purchase goes to the first of them; where nobody is, it is nobody's.
func (s *iapticSale) own() (out []entitlement.Object) {
	users, told := s.object["entitledUsers"].(list)
	whole := told && !users.Cut
	var names []entitlement.Alias
	listed := false
	for _, u := range users.Data {
		names = append(names, entitlement.Alias{Kind: entitlement.IapticUsername, Value: u.text("user")})
		listed = listed || u.text("user") == s.user
	}
	sortAliases(&names)
	share := func() {
		shares := s.new(entitlement.KindRenewal, "shares:"+s.chain, 0)
		shares.Renewal, shares.Shares = &entitlement.Renewal{}, names
		out = append(out, shares)
	}
	switch {
	case whole && len(names) == 0:
		share() // those of before end
		out = append(out, s.claim("", s.date, false))
		if s.user != "" {
			nobody := s.claim(s.user, s.date, true)
			nobody.Account, nobody.Aliases = "", nil
			out = append(out, nobody)
		}
	case whole && len(names) == 1: // theirs, whoever the message is about
		out = append(out, s.claim(names[0].Value, s.date, false))
	case len(names) == 0:
		if s.user != "" {
			out = append(out, s.claim(s.user, s.date, false))
		}
	default:
		share()
		switch {
		case s.user == "":
		case listed || !whole:
			out = append(out, s.claim(s.user, s.bought, true))
		default: // newer than all that was said before, and older than who shares
			out = append(out, s.claim(users.Data[0].text("user"), s.date.Add(-1), false))
		}
	}
	return out
}

// claim says that the purchase is a user's; of nobody, that it is nobody's. beside: it is one of several users' claims.
func (s *iapticSale) claim(user string, at time.Time, beside bool) entitlement.Object {
	o := s.new(entitlement.KindRenewal, "owner:"+s.chain, 0)
	o.At, o.Renewal, o.Account = later(at, time.Unix(1, 0)).UnixNano(), &entitlement.Renewal{}, ownAccount(user)
	if user != "" {
		o.Aliases = []entitlement.Alias{{Kind: entitlement.IapticUsername, Value: user}}
	}
	if beside {
		sum := sha256.Sum256([]byte(user))
		o.ID += ":" + hex.EncodeToString(sum[:8])
	}
	return o
}

// echoes are the hints that make a store be asked about a sale of its own, where it can be. Play is asked by purchase tokens, which iaptic does
// not tell.
func (s *iapticSale) echoes() []entitlement.Object {
	sale := adaptySale{store: s.store, original: s.chain, links: s.links}
	return sale.echoes(s.date)
}

func iapticCustomerLink(user string) entitlement.Link {
	return entitlement.Link("iaptic:customer:" + user)
}
