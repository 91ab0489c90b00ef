package entitlement

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// ProductKind is what sort of thing a product is.
type ProductKind string

// The product kinds.
const (
	KindRecurring     ProductKind = "subscription"
	KindNonConsumable ProductKind = "non_consumable"
	KindConsumable    ProductKind = "consumable"
	KindPackage       ProductKind = "package"
)

// Catalog says what each provider's products give. Entitlements are computed from it at every read, so that a product
// which is mapped later counts for purchases made before.
type Catalog struct {
	Products   []Product               `cbor:"1,keyasint,omitempty" json:"products"`
	Aggregator []AggregatorEntitlement `cbor:"2,keyasint,omitempty" json:"aggregator_entitlements,omitempty"`
}

// Product maps one product of one provider. The JSON form is the server API's.
type Product struct {
	Provider     Provider         `cbor:"1,keyasint" json:"provider"`
	ID           ProductID        `cbor:"2,keyasint" json:"product_id"`
	Kind         ProductKind      `cbor:"3,keyasint" json:"kind"`
	Entitlements []string         `cbor:"4,keyasint,omitempty" json:"entitlements,omitempty"`
	Plan         string           `cbor:"5,keyasint,omitempty" json:"plan,omitempty"`
	Group        string           `cbor:"6,keyasint,omitempty" json:"group,omitempty"`
	Credits      map[string]int64 `cbor:"7,keyasint,omitempty" json:"credits,omitempty"`
	Accesses     []ModuleAccess   `cbor:"8,keyasint,omitempty" json:"accesses,omitempty"`
	Deliver      string           `cbor:"9,keyasint,omitempty" json:"deliver,omitempty"`
	Stack        string           `cbor:"10,keyasint,omitempty" json:"stack,omitempty"`
	DurationDays int              `cbor:"11,keyasint,omitempty" json:"duration_days,omitempty"` // of what does not renew
	TrialDays    int              `cbor:"12,keyasint,omitempty" json:"trial_days,omitempty"`
	App          string           `cbor:"13,keyasint,omitempty" json:"app,omitempty"`
	// Retired: a later catalog left the product out. It stays mapped for those who bought it.
	Retired bool `cbor:"14,keyasint,omitempty" json:"retired,omitempty"`
}

// ModuleAccess is one digital access of a package.
type ModuleAccess struct {
	Module       string `cbor:"1,keyasint" json:"module"`
	DurationDays int    `cbor:"2,keyasint,omitempty" json:"duration_days,omitempty"` // 0 is for ever
}

// AggregatorEntitlement maps an entitlement id of an aggregator to ours, for products that the catalog lacks.
type AggregatorEntitlement struct {
	Provider    Provider `cbor:"1,keyasint" json:"provider"`
	ID          string   `cbor:"2,keyasint" json:"id"`
	Entitlement string   `cbor:"3,keyasint" json:"entitlement"`
}

// Limits of a catalog. Together they keep its record under 256 KiB, which is what replication carries in one piece.
const (
	maxCatalogBytes = 200 << 10
	maxNameBytes    = 255
	maxCredits      = 1_000_000_000 // per unit sold
	maxDays         = 36_500
)

// Providers lists those that a catalog can map products of.
var Providers = []Provider{Stripe, Apple, Google, RevenueCat, Adapty, Iaptic, Web2Wave}

// Valid reports whether p is one of Providers.
func (p Provider) Valid() bool { return slices.Contains(Providers, p) }

// ErrCatalog is inside every error of Validate.
var ErrCatalog = errors.New("catalog")

// Validate lists every fault of c at once, one error each (errors.Join), all of them ErrCatalog. Nil means that it can be used.
func (c *Catalog) Validate() error {
	var faults []error
	fault := func(where, format string, args ...any) {
		faults = append(faults, fmt.Errorf("%w: %s: %s", ErrCatalog, where, fmt.Sprintf(format, args...)))
	}
	seen := map[productKey]int{}
	for i := range c.Products {
		p := &c.Products[i]
		where := fmt.Sprintf("products[%d]", i)
		if first, twice := seen[p.key()]; twice {
			fault(where, "%s %s is already products[%d]", p.Provider, p.ID, first)
		} else {
			seen[p.key()] = i
		}
		p.validate(func(format string, args ...any) { fault(where, format, args...) })
	}
	for i, a := range c.Aggregator {
		where := fmt.Sprintf("aggregator_entitlements[%d]", i)
		if !a.Provider.Valid() {
			fault(where, "provider %q is not known", a.Provider)
		}
		if !validName(a.ID) || !validName(a.Entitlement) {
			fault(where, "id and entitlement must be names of 1 to %d bytes", maxNameBytes)
		}
	}
	if n := len(Encode(c)); n > maxCatalogBytes {
		fault("size", "%d bytes are more than %d", n, maxCatalogBytes)
	}
	return errors.Join(faults...)
}

func (p *Product) validate(fault func(format string, args ...any)) {
	if !p.Provider.Valid() {
		fault("provider %q is not known", p.Provider)
	}
	if !validName(string(p.ID)) {
		fault("product_id must be a name of 1 to %d bytes", maxNameBytes)
	}
	gives := false
	switch p.Kind {
	case KindRecurring, KindNonConsumable:
		gives = len(p.Entitlements) > 0
	case KindConsumable:
		gives = len(p.Credits) > 0
	case KindPackage:
		gives = len(p.Accesses) > 0
	default:
		fault("kind %q is not known", p.Kind)
		gives = true
	}
	if !gives {
		fault("a %s that gives nothing", p.Kind)
	}
	if len(p.Credits) > 0 && p.Kind != KindConsumable {
		fault("credits belong to a consumable")
	}
	if p.Group != "" && p.Kind == KindConsumable {
		fault("a group is of what is bought once, which a consumable is not")
	}
	if len(p.Accesses) > 0 && p.Kind != KindPackage {
		fault("accesses belong to a package")
	}
	for _, e := range p.Entitlements {
		if !validName(e) {
			fault("entitlement %q must be a name of 1 to %d bytes", e, maxNameBytes)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(p.Credits)) {
		if n := p.Credits[name]; !validName(name) || n <= 0 || n > maxCredits {
			fault("credits %q must have a name and be 1 to %d", name, maxCredits)
		}
	}
	for _, a := range p.Accesses {
		if !validName(a.Module) || a.DurationDays < 0 || a.DurationDays > maxDays {
			fault("access %q must have a name and last 0 (for ever) to %d days", a.Module, maxDays)
		}
	}
	for _, f := range []struct{ name, value string }{{"plan", p.Plan}, {"group", p.Group}, {"app", p.App}} {
		if f.value != "" && !validName(f.value) {
			fault("%s must be a name of at most %d bytes", f.name, maxNameBytes)
		}
	}
	if p.Deliver != "" && p.Deliver != DeliverCode {
		fault("deliver %q is not known", p.Deliver)
	}
	if p.Stack != "" && p.Stack != StackExtend {
		fault("stack %q is not known", p.Stack)
	}
	if p.DurationDays < 0 || p.DurationDays > maxDays || p.TrialDays < 0 || p.TrialDays > maxDays {
		fault("duration_days and trial_days must be 0 to %d", maxDays)
	}
}

// How a package is handed over, and what a second one does.
const (
	DeliverCode = "code"   // by a redemption code; else at once
	StackExtend = "extend" // it begins where the first one ends
)

// validName accepts printable UTF-8 without spaces at its ends.
func validName(s string) bool {
	return s != "" && len(s) <= maxNameBytes && utf8.ValidString(s) && strings.TrimSpace(s) == s && strings.IndexFunc(s, unicode.IsControl) < 0
}

// Replace returns the catalog after a PUT of next: what next lists is as listed there, what it leaves out stays mapped and is marked
// Retired, for those who bought it. The result is sorted by provider and id, so that equal catalogs have equal bytes.
func (c *Catalog) Replace(next Catalog) Catalog {
	out := Catalog{Products: slices.Clone(next.Products), Aggregator: slices.Clone(next.Aggregator)}
	listed := map[productKey]bool{}
	for i := range next.Products {
		listed[next.Products[i].key()] = true
	}
	for _, p := range c.Products {
		if !listed[p.key()] {
			p.Retired = true
			out.Products = append(out.Products, p)
		}
	}
	slices.SortFunc(out.Products, func(a, b Product) int {
		return cmp.Or(cmp.Compare(a.Provider, b.Provider), cmp.Compare(a.ID, b.ID))
	})
	for _, old := range c.Aggregator {
		same := func(a AggregatorEntitlement) bool { return a.Provider == old.Provider && a.ID == old.ID }
		if !slices.ContainsFunc(next.Aggregator, same) {
			out.Aggregator = append(out.Aggregator, old)
		}
	}
	slices.SortFunc(out.Aggregator, func(a, b AggregatorEntitlement) int {
		return cmp.Or(cmp.Compare(a.Provider, b.Provider), cmp.Compare(a.ID, b.ID), cmp.Compare(a.Entitlement, b.Entitlement))
	})
	return out
}

type productKey struct {
	provider Provider
	id       ProductID
}

func (p *Product) key() productKey { return productKey{p.Provider, p.ID} }

// CatalogIndex is a catalog made ready for lookups. It never changes and is safe for concurrent use. A nil one maps nothing.
type CatalogIndex struct {
	products map[productKey]*Product
	// aggregator holds what an aggregator's own entitlement gives, as a product without a name.
	aggregator map[aggregatorKey]string
}

type aggregatorKey struct {
	provider Provider
	id       string
}

// NewCatalogIndex indexes c, which must not be changed afterwards.
func NewCatalogIndex(c *Catalog) *CatalogIndex {
	x := &CatalogIndex{products: make(map[productKey]*Product, len(c.Products)), aggregator: make(map[aggregatorKey]string, len(c.Aggregator))}
	for _, a := range c.Aggregator {
		x.aggregator[aggregatorKey{a.Provider, a.ID}] = a.Entitlement
	}
	for i := range c.Products {
		x.products[c.Products[i].key()] = &c.Products[i]
	}
	return x
}

// Lookup returns the product that s is, by its most exact id that the catalog lists. Retired ones count.
func (x *CatalogIndex) Lookup(p Provider, s *Sold) (*Product, bool) {
	if x == nil {
		return nil, false
	}
	if found, ok := x.products[productKey{p, s.Product}]; ok {
		return found, true
	}
	for _, id := range s.Also {
		if found, ok := x.products[productKey{p, id}]; ok {
			return found, true
		}
	}
	return nil, false
}

// lookup is Lookup by the name that the purchase's store has for a product, else by that of who told us.
func (x *CatalogIndex) lookup(p *Purchase, s *Sold) (*Product, bool) {
	if store := providerOf(p.Store); store != p.Provider {
		if found, ok := x.Lookup(store, s); ok {
			return found, true
		}
	}
	return x.Lookup(p.Provider, s)
}

// AggregatorNames returns what an aggregator calls an entitlement, sorted.
func (x *CatalogIndex) AggregatorNames(p Provider, entitlement string) []string {
	var names []string
	for key, gives := range x.aggregator {
		if key.provider == p && gives == entitlement {
			names = append(names, key.id)
		}
	}
	slices.Sort(names)
	return names
}

// productOf returns what an item is. A product that the catalog lacks is one that gives what the aggregator's own names of it are mapped to.
func (x *CatalogIndex) productOf(p *Purchase, item *Item) (*Product, bool) {
	if found, ok := x.lookup(p, &item.Term.Sold); ok || x == nil {
		return found, ok
	}
	var gives []string
	for _, id := range item.Entitlements {
		if name, ok := x.aggregator[aggregatorKey{p.Provider, id}]; ok && !slices.Contains(gives, name) {
			gives = append(gives, name)
		}
	}
	if len(gives) == 0 {
		return nil, false
	}
	kind := KindNonConsumable
	if item.Recurring {
		kind = KindRecurring
	}
	return &Product{Provider: p.Provider, ID: item.Term.Product, Kind: kind, Entitlements: gives}, true
}

// Knows reports whether an item of a purchase gives anything by the catalog.
func (x *CatalogIndex) Knows(p *Purchase, item *Item) bool {
	_, ok := x.productOf(p, item)
	return ok
}

// SellsCredits reports whether any item of a purchase is a consumable. Whoever has it may have spent what it gave.
func (x *CatalogIndex) SellsCredits(p *Purchase) bool {
	return slices.ContainsFunc(p.Items, func(i Item) bool {
		product, ok := x.productOf(p, &i)
		return ok && product.Kind == KindConsumable
	})
}

// Owes reports whether an item of a purchase is due a code: it is a package that codes deliver, or nobody knows yet what it is. What renews, what is not paid
// for and tests that came to production are due none.
func (x *CatalogIndex) Owes(p *Purchase, item *Item) bool {
	if item.Recurring || item.Provisional || item.State != Live || p.Sandbox {
		return false
	}
	product, ok := x.productOf(p, item)
	return !ok || product.Kind == KindPackage && product.Deliver == DeliverCode
}

// Package returns the package that an item of a purchase is.
func (x *CatalogIndex) Package(p *Purchase, item *Item) (*Product, bool) {
	product, ok := x.productOf(p, item)
	return product, ok && product.Kind == KindPackage
}

// AccessSeconds returns how long an access of a package lasts that was sold so many times at once; 0 is for ever.
func AccessSeconds(a ModuleAccess, quantity int64) int64 {
	const most = maxTime / secondsPerDay
	return min(int64(a.DurationDays)*min(quantity, most), most) * secondsPerDay
}
