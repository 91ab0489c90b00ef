package main

import (
	"math/rand/v2"
	"slices"
	"time"

	"github.com/latchkey/latchkey/deploy/storesim"
)

const (
	// joinWithin is when the last one of the crowd buys for the first time: most of them have a year of renewals before them, and some a short one.
	joinWithin = 300 * 24 * time.Hour
	// deedsEach is how much each of them does in the year besides the first purchase, on average.
	deedsEach = 1.5
	trialDays = 7
)

// The shares of what the crowd buys, in hundredths. The rest are things that are used up.
const (
	monthly  = 40
	yearly   = 40
	lifetime = 14
)

// crowd is everybody who buys in the year, and what they do.
type crowd struct {
	stores   *storesim.Sim
	dice     *rand.Rand
	accounts []string
	bought   []string // what was bought in its order, told by the ledger
	facts    int      // of the ledger that were read
	done     int      // deeds
}

// deed is something that somebody does at a time.
type deed struct {
	at    time.Time
	buyer string // who buys for the first time; empty: anything else
}

// deeds plans the year.
func (c *crowd) deeds(from time.Time, year time.Duration) []deed {
	var all []deed
	within := func(d time.Duration) time.Time {
		return from.Add(time.Duration(c.dice.Int64N(int64(d))).Truncate(time.Second))
	}
	for _, account := range c.accounts {
		join := time.Duration(float64(joinWithin) * c.dice.Float64() * c.dice.Float64()) // earlier rather than later
		all = append(all, deed{within(max(join, time.Second)), account})
		for d := c.dice.ExpFloat64() * deedsEach; d >= 1 || c.dice.Float64() < d; d-- {
			all = append(all, deed{at: within(year)})
		}
	}
	slices.SortStableFunc(all, func(a, b deed) int { return a.at.Compare(b.at) })
	return all
}

func (c *crowd) chance(n int) bool { return c.dice.IntN(n) == 0 }

func (c *crowd) between(from, to time.Duration) time.Duration {
	return from + time.Duration(c.dice.Int64N(int64(to-from)+1)).Truncate(time.Second)
}

// do does it. What a provider refuses is nothing.
func (c *crowd) do(d deed) {
	if d.buyer != "" {
		c.buy(d.buyer)
		return
	}
	for _, f := range c.stores.Facts()[c.facts:] {
		if c.facts++; f.Kind == storesim.Bought || f.Kind == storesim.PaymentPending {
			c.bought = append(c.bought, f.Purchase)
		}
	}
	if len(c.bought) == 0 {
		return
	}
	p, _ := c.stores.Purchase(c.bought[c.dice.IntN(len(c.bought))])
	if err := c.act(p); err == nil {
		c.done++
	}
}

// products are what a provider sells, by what they are for.
func (c *crowd) product(provider storesim.Provider) storesim.Product {
	store := map[storesim.Provider]storesim.Store{storesim.Stripe: storesim.StripeStore, storesim.Web2Wave: storesim.StripeStore, storesim.Apple: storesim.AppStore, storesim.Google: storesim.PlayStore}[provider]
	if store == "" {
		store = []storesim.Store{storesim.AppStore, storesim.PlayStore, storesim.StripeStore}[c.dice.IntN(3)]
	}
	kind, months := storesim.Consumable, 0
	switch n := c.dice.IntN(100); {
	case n < monthly:
		kind, months = storesim.Recurring, 1
	case n < monthly+yearly:
		kind, months = storesim.Recurring, 12
	case n < monthly+yearly+lifetime:
		kind = storesim.NonConsumable
	}
	at := slices.IndexFunc(storesim.DefaultProducts, func(p storesim.Product) bool { return p.Store == store && p.Kind == kind && p.Months == months })
	return storesim.DefaultProducts[at]
}

func (c *crowd) buy(account string) {
	provider := storesim.Providers[c.dice.IntN(len(storesim.Providers))]
	product := c.product(provider)
	order := storesim.Order{Provider: provider, Env: yearEnv, Account: account, Product: product.ID}
	if product.Kind == storesim.Recurring && c.chance(3) {
		order.Trial = trialDays
	}
	order.StoreTells, order.Pending = c.chance(3), c.chance(8)
	_, _ = c.stores.Buy(order) // what is not sold is not bought
}

// shares is the aggregator whose app shares what another customer shows; those of the others move it.
const shares = storesim.Adapty

// act is what becomes of a purchase.
func (c *crowd) act(p storesim.Purchase) error {
	switch c.dice.IntN(23) {
	case 0, 1, 2:
		return c.stores.Cancel(p.ID)
	case 3:
		return c.stores.Resume(p.ID)
	case 4, 5:
		return c.stores.FailCard(p.ID)
	case 6, 7:
		return c.stores.Recover(p.ID)
	case 8:
		return c.stores.Refund(p.ID, -1, 0)
	case 9:
		return c.stores.Refund(p.ID, -1, 100)
	case 10:
		return c.stores.Refund(p.ID, 0, 0)
	case 11:
		if p.Provider == storesim.RevenueCat && p.Store != storesim.AppStore {
			return storesim.ErrRefused // RevenueCat does not tell
		}
		return c.stores.ReverseRefund(p.ID, -1)
	case 12:
		return c.stores.Dispute(p.ID)
	case 13:
		return c.stores.CloseDispute(p.ID, c.chance(2))
	case 14:
		return c.stores.Pause(p.ID, c.between(10*24*time.Hour, 60*24*time.Hour))
	case 15:
		if p.Store != storesim.PlayStore || p.StoreTells || p.Provider == shares {
			return storesim.ErrRefused // a store that can be asked says whose it is
		}
		return c.stores.Transfer(p.ID, c.accounts[c.dice.IntN(len(c.accounts))])
	case 16:
		c.buy(p.Owner)
		return nil
	case 17, 18:
		return c.stores.Change(p.ID, otherTerm(p))
	case 19:
		return c.stores.Extend(p.ID, c.between(24*time.Hour, 30*24*time.Hour))
	case 20:
		if p.Provider != storesim.Apple && p.Provider != shares {
			return storesim.ErrRefused
		}
		with := c.accounts[c.dice.IntN(len(c.accounts))]
		if err := c.stores.Share(p.ID, with); err == nil {
			return nil
		}
		return c.stores.Unshare(p.ID, with)
	case 21:
		return c.stores.Settle(p.ID, !c.chance(3))
	}
	_, err := c.stores.Resubscribe(p.ID)
	return err
}
