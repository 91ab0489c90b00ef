package provider

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/tidwall/gjson"

	"github.com/latchkey/latchkey/pkg/entitlement"
)

const (
	// AdaptyBase is where Adapty's server-side API is.
	AdaptyBase = "https://api.adapty.io"

	// adaptyRequestsPerSecond is a steady rate, which is what Adapty asks for; it gives each key a limit of its own and does not say which.
	adaptyRequestsPerSecond = 50
	adaptyBurst             = 10

	// maxAdaptySales bounds what is read of one profile.
	maxAdaptySales = 500
)

// Mistakes in an AdaptyAPIConfig, for saying which field is wrong.
var (
	ErrAdaptyKey  = errors.New("adapty: API key")
	ErrAdaptyBase = errors.New("adapty: address of the API")
)

// AdaptyAPIConfig is what NewAdaptyAPI needs.
type AdaptyAPIConfig struct {
	// Key is the app's secret key, "secret_live_...".
	Key string
	// BaseURL is where the API is. Empty is AdaptyBase. http:// is for loopback addresses.
	BaseURL string
	// Environment is whose sales they are: those of the other one are passed over.
	Environment entitlement.Environment
	// Now is the clock that gives answers their version. Nil is time.Now.
	Now func() time.Time
}

// AdaptyAPI asks Adapty for what a profile has.
type AdaptyAPI struct {
	*jsonAPI
	key string
	env entitlement.Environment
	now func() time.Time
}

// NewAdaptyAPI returns a Puller. Errors: ErrAdaptyKey, ErrAdaptyBase; they do not quote the key.
func NewAdaptyAPI(c AdaptyAPIConfig) (*AdaptyAPI, error) {
	if err := checkAPIKey(c.Key, ErrAdaptyKey); err != nil {
		return nil, err
	}
	if err := CheckAdaptyBase(c.BaseURL); err != nil {
		return nil, err
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	return &AdaptyAPI{jsonAPI: newJSONAPI(cmp.Or(c.BaseURL, AdaptyBase), adaptyRequestsPerSecond, adaptyBurst), key: c.Key, env: c.Environment, now: c.Now}, nil
}

// CheckAdaptyBase returns ErrAdaptyBase for an address that the key may not be sent to, or nil. Empty is AdaptyBase.
func CheckAdaptyBase(base string) error { return checkBase(base, ErrAdaptyBase) }

// Provider returns entitlement.Adapty.
func (a *AdaptyAPI) Provider() entitlement.Provider { return entitlement.Adapty }

// Targets returns the profiles: a customer themselves, and for what is open about a sale those that it names. What names none is left out.
func (a *AdaptyAPI) Targets(e entitlement.Evidence, doubts []entitlement.Doubt) []entitlement.Doubt {
	return customerTargets(e, doubts, entitlement.Adapty, adaptyCustomer)
}

// adaptyCustomer is the id to ask about a customer by who has such a name, or "".
func adaptyCustomer(alias entitlement.Alias) string {
	switch alias.Kind {
	case entitlement.AdaptyProfile:
		return alias.Value
	case entitlement.AdaptyCustomerUser:
		return adaptyUser + alias.Value
	}
	return ""
}

// Due returns the profile with a subscription that should have renewed, or whose grace is over, and of which nothing was told since.
func (a *AdaptyAPI) Due(e entitlement.Evidence, asked func(id string) time.Time, now time.Time) []entitlement.Doubt {
	customer := ""
	for _, alias := range e.Identity().Aliases {
		if id := adaptyCustomer(alias); customer == "" || alias.Kind == entitlement.AdaptyProfile {
			customer = cmp.Or(id, customer)
		}
	}
	return customerDue(e, entitlement.Adapty, customer, asked, now)
}

// customerTargets returns the customers who are to be asked about so that doubts are settled. idOf is a customer's id by one of their names, or "".
// Of an object's names the first one that has an id counts: they are of one customer.
func customerTargets(e entitlement.Evidence, doubts []entitlement.Doubt, by entitlement.Provider, idOf func(entitlement.Alias) string) []entitlement.Doubt {
	var out []entitlement.Doubt
	add := func(id string, from int64) {
		if at := slices.IndexFunc(out, func(d entitlement.Doubt) bool { return d.ID == id }); at >= 0 {
			out[at].From = max(out[at].From, from)
			return
		}
		out = append(out, entitlement.Doubt{Kind: entitlement.KindCustomer, ID: id, From: from, By: by})
	}
	for _, d := range doubts {
		if d.Kind == entitlement.KindCustomer {
			add(d.ID, d.From)
			continue
		}
		for i := range e.Objects {
			if e.Objects[i].By != by {
				continue
			}
			for _, alias := range e.Objects[i].Aliases {
				if id := idOf(alias); id != "" {
					add(id, d.From)
					break
				}
			}
		}
	}
	return out
}

var (
	adaptyOffer = fields(map[string]keep{"category": word, "type": word})

	// adaptyEntry is an access level, a subscription or a one-time sale in a profile.
	adaptyEntry = fields(map[string]keep{
		"access_level_id": ident, "store": ident, "store_product_id": ident, "store_base_plan_id": ident, "store_transaction_id": ident,
		"store_original_transaction_id": ident, "offer": adaptyOffer, "starts_at": told(termTime), "purchased_at": microTime, "originally_purchased_at": microTime,
		"expires_at": told(termTime), "renewal_cancelled_at": microTime, "billing_issue_detected_at": microTime, "is_in_grace_period": flag,
		"cancellation_reason": word, "environment": word, "is_refund": flag, "is_consumable": flag, "purchase_id": ident,
	})
)

const (
	adaptyProfilePath = "/api/v2/server-side-api/profile/"
	// The headers that say whose profile it is.
	adaptyProfileHeader = "adapty-profile-id"
	adaptyUserHeader    = "adapty-customer-user-id"
)

// header is that of a request about a profile, which a header of that name says.
func (a *AdaptyAPI) header(name, value string) http.Header {
	return http.Header{"Authorization": {"Api-Key " + a.key}, "Content-Type": {"application/json"}, http.CanonicalHeaderKey(name): {value}}
}

// Pull asks for a profile, by its id or, behind "user:", by the merchant's id of the user. A profile that is not there is an answer too.
func (a *AdaptyAPI) Pull(ctx context.Context, kind entitlement.ObjectKind, id string) (entitlement.Event, error) {
	name, value := adaptyProfileHeader, id
	if user, ok := strings.CutPrefix(id, adaptyUser); ok {
		name, value = adaptyUserHeader, user
	}
	if kind != entitlement.KindCustomer || !isUserName(value) {
		return entitlement.Event{}, &PullError{Reason: ErrGone, Detail: "Adapty cannot be asked for it"}
	}
	left := a.now()
	answer, head, err := a.get(ctx, adaptyProfilePath, a.header(name, value))
	gone := errors.Is(err, ErrGone) && head.status == http.StatusNotFound
	if err != nil && !gone {
		return entitlement.Event{}, err
	}
	profile := member(answer, "data")
	if !gone && !profile.IsObject() {
		return entitlement.Event{}, head.fail(ErrAnswer, "no profile in it")
	}
	at := version(left, head.header) * int64(time.Second)
	return readAdaptyProfile(profile, id, gone, at, a.env, fmt.Sprintf("pull:%s:%d", id, left.UnixNano())), nil
}

// readAdaptyProfile is the event of a profile as it was at a time. asked is the id that it was asked for by.
func readAdaptyProfile(profile gjson.Result, asked string, gone bool, at int64, env entitlement.Environment, id string) entitlement.Event {
	head, _ := adaptyProfile(profile).(object)
	if head == nil {
		head = object{}
	}
	ev := entitlement.Event{Provider: entitlement.Adapty, ID: id, Environment: env, Type: pullPrefix + string(entitlement.KindCustomer), CreatedAt: at / int64(time.Second)}
	ids := []string{asked}
	if own := head.text("profile_id"); own != "" && own != asked {
		ids = append(ids, own)
	}
	for _, answered := range ids {
		o := entitlement.Object{Kind: entitlement.KindCustomer, ID: answered, By: entitlement.Adapty, At: at,
			Links: []entitlement.Link{adaptyCustomerLink(answered)}, Customer: &entitlement.Customer{Gone: gone}}
		if own := ownAccount(head.text("customer_user_id")); own != "" && answered == head.text("profile_id") { // what it bought before the login is theirs
			o.Account, o.Aliases = own, adaptyAliases(answered, "")
		}
		ev.Objects = append(ev.Objects, o)
	}
	sales, environments := map[string]object{}, map[string]string{} // environments are those of terms and of chains
	var order []string
	for _, name := range []string{"subscriptions", "non_subscriptions", "access_levels"} { // what comes later counts, and adds to what came before
		kept := list{Data: []object{}}
		member(profile, name).ForEach(func(_, v gjson.Result) bool {
			o, ok := adaptyEntry(v).(object)
			if !ok || len(order) == maxAdaptySales {
				kept.Cut = true
				return len(order) < maxAdaptySales
			}
			kept.Data = append(kept.Data, o)
			key := cmp.Or(o.text("store_transaction_id"), o.text("store_original_transaction_id"), o.text("access_level_id"))
			if sales[key] == nil {
				order = append(order, key)
			}
			for _, id := range []string{key, o.text("store_original_transaction_id")} {
				if id != "" {
					environments[id] = cmp.Or(environments[id], o.text("environment"))
				}
			}
			sales[key] = merged(sales[key], o)
			return true
		})
		if len(kept.Data) > 0 || kept.Cut {
			head[name] = kept
		}
	}
	for _, key := range order {
		o := sales[key]
		if o.wrong("starts_at", "expires_at") {
			continue // what was told of the sale before stands
		}
		of := cmp.Or(o.text("environment"), environments[key], environments[o.text("store_original_transaction_id")])
		ev.Objects = append(ev.Objects, adaptyPulled(o, of, head.text("profile_id"), head.text("customer_user_id"), at, env)...)
	}
	ev.Raw = head.raw()
	return ev
}

// merged is an object with what another one has beside it, or instead.
func merged(o, more object) object {
	out := maps.Clone(o)
	if out == nil {
		return more
	}
	maps.Copy(out, more)
	return out
}

// adaptyPulled is what an entry of a profile says in an environment. An inheritor's profile has what its parent bought, and does not say so: whose
// it is, an answer says as weakly as an event of a profile that shares. of is the environment in which it was sold. Where that is not told, and
// access levels need not tell it, the entry proves no sale, for one of the sandbox would give access in production: it says what has become of a sale
// that is known here by other words. What nobody bought knows no environment.
func adaptyPulled(o object, of, profile, user string, at int64, env entitlement.Environment) []entitlement.Object {
	if of != "" && !strings.EqualFold(of, string(env)) {
		return nil
	}
	ends := o.instant("expires_at")
	if adaptyOwn(o.text("store_product_id"), ends) {
		return nil
	}
	s := newAdaptySale(o.text("store"), o.text("store_product_id"), o.text("store_base_plan_id"), o.text("store_transaction_id"),
		o.text("store_original_transaction_id"), cmp.Or(profile, user), o.text("access_level_id"), nil)
	if s.id == "" {
		return nil
	}
	now, reason := time.Unix(0, at), o.text("cancellation_reason")
	a := adaptyAccess{
		starts: o.instants("purchased_at", "starts_at", "originally_purchased_at"), ends: ends, at: now, issue: o.instant("billing_issue_detected_at"),
		grace: o.is("is_in_grace_period"), waits: o.instant("starts_at").After(now), reason: reason,
		renews: o.instant("renewal_cancelled_at").IsZero() && reason == "",
		trial:  o.in("offer").text("type") == "free_trial" && o.in("offer").text("category") == "introductory",
	}
	a.replaced = (reason == "upgraded" || reason == "new_subscription_replace") && a.over()
	a.refund = o.is("is_refund") || reason == "refund" && (a.over() || ends.IsZero())
	if level := o.text("access_level_id"); level != "" {
		a.levels = []string{level}
	}
	out := s.access(&a, func(int64) int64 { return at })
	back := s.object(entitlement.KindRevocation, s.id, at)
	switch {
	case of == "" && !s.given:
		if a.refund {
			back.Revocation = &entitlement.Revocation{Transaction: s.id, RevokedAt: out[0].Transaction.RevokedAt}
			out = append(out, back)
		}
		out = slices.DeleteFunc(out, func(o entitlement.Object) bool { return o.Transaction != nil })
	case !a.refund && !a.over(): // a refund that was told before has been reversed
		back.Revocation = &entitlement.Revocation{Transaction: s.id, Undone: true}
		out = append(out, back)
	}
	return append(out, adaptyClaim(&s, profile, user, o.instants("originally_purchased_at", "purchased_at"), true))
}
