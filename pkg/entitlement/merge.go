package entitlement

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"slices"
	"strings"

	"github.com/latchkey/latchkey/pkg/fault"
)

// Digest identifies what the event says, for judging whether two under one id are the same: SHA-256 over its canonical bytes without Raw.
func (e *Event) Digest() [sha256.Size]byte {
	bare := *e
	bare.Raw = nil
	return sha256.Sum256(Encode(&bare))
}

// Merge joins what a and b prove. It is commutative, associative and idempotent, so that messages may come in any order, any number of
// times and in any portions. Neither argument is changed; the result may share memory with both and must not be written to.
func Merge(a, b Evidence) Evidence {
	return Evidence{
		Links:   unionOf(a.Links, b.Links),
		Objects: mergeObjects(a.Objects, b.Objects),
	}
}

// Add joins objects, as an adapter made them, to the evidence. e is not changed.
func (e Evidence) Add(objects ...Object) Evidence {
	for i := range objects {
		single := Evidence{Links: sortedLinks(objects[i].Links), Objects: []Object{objects[i]}}
		single.Objects[0].Links = nil
		e = Merge(e, single)
	}
	return e
}

func sortedLinks(links []Link) []Link {
	links = slices.Clone(links)
	slices.Sort(links)
	return slices.Compact(links)
}

// unionOf merges two sorted lists without repeats into one.
func unionOf(a, b []Link) []Link {
	if len(a) == 0 {
		return b
	}
	if len(b) == 0 {
		return a
	}
	out := make([]Link, 0, len(a)+len(b))
	for len(a) > 0 && len(b) > 0 {
		switch c := cmp.Compare(a[0], b[0]); {
		case c < 0:
			out, a = append(out, a[0]), a[1:]
		case c > 0:
			out, b = append(out, b[0]), b[1:]
		default:
			out, a, b = append(out, a[0]), a[1:], b[1:]
		}
	}
	return append(append(out, a...), b...)
}

func mergeObjects(a, b []Object) []Object {
	if len(a) == 0 {
		return b
	}
	if len(b) == 0 {
		return a
	}
	out := make([]Object, 0, len(a)+len(b))
	for len(a) > 0 && len(b) > 0 {
		switch c := compareKeys(&a[0], &b[0]); {
		case c < 0:
			out, a = append(out, a[0]), a[1:]
		case c > 0:
			out, b = append(out, b[0]), b[1:]
		default:
			out, a, b = append(out, newest(&a[0], &b[0])), a[1:], b[1:]
		}
	}
	return append(append(out, a...), b...)
}

func compareKeys(a, b *Object) int {
	return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.ID, b.ID), cmp.Compare(a.By, b.By))
}

// newest returns the state that counts of two of one object. Think of each side as the set of states that it has seen: the winner is
// the set's maximum, and Tied says that the set holds another state with the maximum's Final and At. Both are functions of the union,
// which is why merging does not depend on the order.
func newest(a, b *Object) Object {
	if fault.Planted("fold-by-arrival") {
		return *b
	}
	if c := compareVersions(a, b); c > 0 {
		return a.after(b)
	} else if c < 0 {
		return b.after(a)
	}
	stateA, stateB := a.state(), b.state()
	if bytes.Equal(stateA, stateB) {
		out := a.after(b)
		out.Tied = a.Tied || b.Tied
		return out
	}
	out := b.after(a)
	if c := cmp.Compare(a.Rank, b.Rank); c > 0 || c == 0 && compareHashes(stateA, stateB) > 0 {
		out = a.after(b)
	}
	out.Tied = true
	return out
}

func compareVersions(a, b *Object) int {
	if a.Final != b.Final {
		if a.Final {
			return 1
		}
		return -1
	}
	return cmp.Compare(a.At, b.At)
}

// state returns the canonical bytes of the state alone: what was seen, not when nor what else was seen.
func (o *Object) state() []byte {
	bare := *o
	bare.At, bare.Tied, bare.Links, bare.Former, bare.NamedSince = 0, false, nil, nil, 0
	return Encode(&bare)
}

// compareHashes orders states by SHA-256 rather than by their bytes, so that no field of ours gets a say in who wins.
func compareHashes(a, b []byte) int {
	hashA, hashB := sha256.Sum256(a), sha256.Sum256(b)
	return bytes.Compare(hashA[:], hashB[:])
}

// ID returns the purchase's id: the smallest link by the rank of its provider (apple, google, stripe, then the others by name), within
// Stripe subscriptions before payment intents before the rest; ids of single transactions and orders (SecondaryLink) come after those of the
// stores. It is empty without links. A link that comes later can change it; the older id keeps being a link.
func (e Evidence) ID() PurchaseID {
	var best Link
	for _, l := range e.Links {
		if best == "" || cmp.Or(cmp.Compare(linkRank(l), linkRank(best)), cmp.Compare(l, best)) < 0 {
			best = l
		}
	}
	return PurchaseID(best)
}

func linkRank(l Link) int {
	provider, id, _ := strings.Cut(string(l), ":")
	switch Provider(provider) {
	case Apple, Google:
		if strings.HasPrefix(id, secondaryMark) {
			return 5
		}
		if Provider(provider) == Apple {
			return 0
		}
		return 1
	case Stripe:
		switch {
		case strings.HasPrefix(id, "sub_"):
			return 2
		case strings.HasPrefix(id, "pi_"):
			return 3
		}
		return 4
	}
	return 6
}

const secondaryMark = "tx:"

// SecondaryLink is the link of a store's id that belongs to a purchase and is no name for it: an Apple transaction id or a Play order id of one
// term. Whoever knows an id as the first one of its chain gives both links, because another provider may know it only as one of many.
func SecondaryLink(p Provider, id string) Link { return Link(string(p) + ":" + secondaryMark + id) }

// Provider returns who told us about the purchase: the one that its id is of.
func (id PurchaseID) Provider() Provider {
	provider, _, _ := strings.Cut(string(id), ":")
	return Provider(provider)
}

// Identity is what the evidence says about whose purchase it is. Whether such an account exists is for the caller to see.
type Identity struct {
	// Account is the account id in our metadata, empty if there is none. The subscription's own counts before that of other objects, then
	// the newest.
	Account AccountID
	At      int64   // the provider's version or time of the state that names Account, Unix nanoseconds
	Aliases []Alias // sorted by Kind, Value
}

// NamedAt returns the provider's version or time of the newest state that carries an alias, hashed or not, Unix nanoseconds; 0: none does.
func (e Evidence) NamedAt(a Alias) int64 {
	at := int64(0)
	for i := range e.Objects {
		if slices.ContainsFunc(e.Objects[i].Aliases, func(has Alias) bool { return has == a || a.IsHashed() && has.Hashed() == a }) {
			at = max(at, e.Objects[i].At)
		}
	}
	return at
}

// Identity returns who may own the purchase, by what the newest states say. Of a provider other than Stripe only the newest statement counts
// that names anybody: purchases move from one of its customers to another.
func (e Evidence) Identity() Identity {
	var (
		id   Identity
		best *Object
	)
	newest := e.namers()
	for i := range e.Objects {
		o := &e.Objects[i]
		if o.By != "" && newest[o.By] != o {
			continue
		}
		id.Aliases = append(id.Aliases, o.Aliases...)
		if o.Account != "" && (best == nil || compareNaming(o, best) > 0) {
			best = o
		}
	}
	if best != nil {
		id.Account, id.At = best.Account, best.At
	}
	slices.SortFunc(id.Aliases, compareAliases)
	id.Aliases = slices.Compact(id.Aliases)
	return id
}

// namers returns of each provider other than Stripe the object that says who the buyer is; nil as long as Stripe alone tells.
func (e Evidence) namers() map[Provider]*Object {
	var newest map[Provider]*Object
	for i := range e.Objects {
		if o := &e.Objects[i]; o.By != "" && o.names() {
			if known := newest[o.By]; known == nil || compareNaming(o, known) > 0 {
				if newest == nil {
					newest = map[Provider]*Object{}
				}
				newest[o.By] = o
			}
		}
	}
	return newest
}

// names reports whether the object says who the buyer is.
func (o *Object) names() bool { return o.Account != "" || len(o.Aliases) > 0 }

// Persons returns by what names the stores know whoever bought this, sorted: a trial that one of them had, all of them had. Source: requirement A10.6.
func (e Evidence) Persons() []string {
	var persons []string
	for i := range e.Objects {
		o := &e.Objects[i]
		if o.Person != "" {
			persons = append(persons, string(o.By)+":"+o.Person)
		}
		for _, a := range o.Aliases {
			if person := a.Person(); person != "" {
				persons = append(persons, person)
			}
		}
	}
	slices.Sort(persons)
	return slices.Compact(persons)
}

// Person returns by what name Persons has somebody who is called so. Empty: the alias is no store's name of a person.
func (a Alias) Person() string {
	switch a.Kind {
	case GoogleObfuscatedAccount, RevenueCatAppUser, AdaptyProfile, AdaptyCustomerUser, IapticUsername, Web2WaveUser:
		return string(a.Kind) + ":" + a.Value
	}
	return ""
}

// Shares returns who may use the purchase beside its owner, sorted by kind and value. Of each provider the newest statement counts that names
// anybody, owner or not, as for the owner: what says nothing of people ends no share.
func (e Evidence) Shares() []Alias {
	var newest map[Provider]*Object
	for i := range e.Objects {
		if o := &e.Objects[i]; o.By != "" && (o.Account != "" || len(o.Aliases) > 0 || len(o.Shares) > 0) {
			if known := newest[o.By]; known == nil || compareNaming(o, known) > 0 {
				if newest == nil {
					newest = map[Provider]*Object{}
				}
				newest[o.By] = o
			}
		}
	}
	var shares []Alias
	for _, o := range newest {
		shares = append(shares, o.Shares...)
	}
	slices.SortFunc(shares, compareAliases)
	return slices.Compact(shares)
}

func compareAliases(a, b Alias) int {
	return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Value, b.Value))
}

// IsSandbox reports whether this is a test purchase that came to production.
func (e Evidence) IsSandbox() bool {
	return slices.ContainsFunc(e.Objects, func(o Object) bool { return o.Sandbox })
}

// compareNaming orders objects by how much their account id is worth.
func compareNaming(a, b *Object) int {
	if subA, subB := a.Kind == KindSubscription, b.Kind == KindSubscription; subA != subB {
		if subA {
			return 1
		}
		return -1
	}
	return cmp.Or(cmp.Compare(a.At, b.At), -compareKeys(a, b))
}

// IsPurchase reports whether something was sold here, as opposed to fragments that wait for their purchase: an invoice whose
// subscription has not been seen, a refund whose payment is unknown.
func (e Evidence) IsPurchase() bool {
	for i := range e.Objects {
		if o := &e.Objects[i]; o.Transaction != nil || o.Subscription != nil || o.Checkout != nil && o.Checkout.Mode == CheckoutPayment {
			return true
		}
	}
	return false
}
