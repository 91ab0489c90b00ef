package storesim

import (
	"errors"
	"fmt"
	"strings"
	"time"
)

// Provider is who tells Latchkey of a purchase.
type Provider string

// The seven providers.
const (
	Stripe     Provider = "stripe"
	Apple      Provider = "apple"
	Google     Provider = "google"
	RevenueCat Provider = "revenuecat"
	Adapty     Provider = "adapty"
	Iaptic     Provider = "iaptic"
	Web2Wave   Provider = "web2wave"
)

// Providers lists them.
var Providers = []Provider{Stripe, Apple, Google, RevenueCat, Adapty, Iaptic, Web2Wave}

// Environment keeps test purchases and real ones apart.
type Environment string

// The two environments.
const (
	Production Environment = "production"
	Sandbox    Environment = "sandbox"
)

// Environments lists both.
var Environments = []Environment{Production, Sandbox}

// Store is who takes the money, which an aggregator does not.
type Store string

// The stores.
const (
	AppStore    Store = "app_store"
	PlayStore   Store = "play_store"
	StripeStore Store = "stripe"
)

// Kind is what sort of thing a product is.
type Kind string

// The kinds of products.
const (
	Recurring     Kind = "subscription"
	NonConsumable Kind = "non_consumable"
	Consumable    Kind = "consumable"
)

// Product is something that a store sells.
type Product struct {
	ID     string `json:"id"`
	Store  Store  `json:"store"`
	Kind   Kind   `json:"kind"`
	Months int    `json:"months,omitempty"` // of one term of what recurs
	Cents  int64  `json:"cents"`            // what a term, or one of them, costs, in hundredths of a euro
	// Entitlement is what it gives, as apps ask for it; empty for what is used up.
	Entitlement string `json:"entitlement,omitempty"`
	Level       int    `json:"level,omitempty"` // higher is better: a change to a higher level happens now, to a lower one at the term's end
}

// DefaultProducts are those of latchkey-dev's catalog, and beside each monthly one a yearly one.
var DefaultProducts = []Product{
	{ID: "price_pro_monthly", Store: StripeStore, Kind: Recurring, Months: 1, Cents: 999, Entitlement: "pro", Level: 1},
	{ID: "price_pro_yearly", Store: StripeStore, Kind: Recurring, Months: 12, Cents: 9999, Entitlement: "pro", Level: 2},
	{ID: "price_lifetime", Store: StripeStore, Kind: NonConsumable, Cents: 19999, Entitlement: "pro"},
	{ID: "price_coins_100", Store: StripeStore, Kind: Consumable, Cents: 199},
	{ID: "com.example.pro_monthly", Store: AppStore, Kind: Recurring, Months: 1, Cents: 999, Entitlement: "pro", Level: 1},
	{ID: "com.example.pro_yearly", Store: AppStore, Kind: Recurring, Months: 12, Cents: 9999, Entitlement: "pro", Level: 2},
	{ID: "com.example.lifetime", Store: AppStore, Kind: NonConsumable, Cents: 19999, Entitlement: "pro"},
	{ID: "com.example.coins_100", Store: AppStore, Kind: Consumable, Cents: 199},
	{ID: "pro:monthly", Store: PlayStore, Kind: Recurring, Months: 1, Cents: 999, Entitlement: "pro", Level: 1},
	{ID: "pro:yearly", Store: PlayStore, Kind: Recurring, Months: 12, Cents: 9999, Entitlement: "pro", Level: 2},
	{ID: "lifetime", Store: PlayStore, Kind: NonConsumable, Cents: 19999, Entitlement: "pro"},
	{ID: "coins_100", Store: PlayStore, Kind: Consumable, Cents: 199},
}

// CoursePack is the package of latchkey-dev's catalog, which is delivered by code. A store knows no packages: it sells something that is used up.
var CoursePack = Product{ID: "price_course_pack", Store: StripeStore, Kind: Consumable, Cents: 2999}

// sells reports whether the provider tells of sales of the store.
func (p Provider) sells(s Store) bool {
	switch p {
	case Stripe, Web2Wave:
		return s == StripeStore
	case Apple:
		return s == AppStore
	case Google:
		return s == PlayStore
	}
	return true
}

func (p Provider) valid() bool {
	for _, q := range Providers {
		if p == q {
			return true
		}
	}
	return false
}

// split returns Play's product and base plan.
func (p Product) split() (product, plan string) {
	product, plan, _ = strings.Cut(p.ID, ":")
	return product, plan
}

// after returns the end of the term that starts at t: the same day of a later month, or its last one.
func (p Product) after(t time.Time) time.Time {
	end := t.AddDate(0, p.Months, 0)
	if end.Day() != t.Day() {
		end = end.AddDate(0, 0, -end.Day())
	}
	return end
}

// ErrRefused means that the simulated provider would not do what was asked: no such purchase, or not in its present state. Nothing was done.
var ErrRefused = errors.New("refused")

func refuse(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrRefused, fmt.Sprintf(format, args...))
}
