package entitlement

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
