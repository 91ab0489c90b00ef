package store

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/latchkey/latchkey/pkg/entitlement"
)

// Both devices of 10,000 accounts ask in one batch, in two stores: the first in the log is allowed and the other told to wait. What the first one did and the other's next
// ask are in one batch too, in either order: nobody may pay twice, and nobody has two trials (R62, R63).
func TestBothDevicesAskInOneBatch(t *testing.T) {
	const races, together = 10_000, 1_000
	r := rand.New(rand.NewPCG(23, 1))
	m := newMachine(t, 64<<20)
	m.apply(shopCatalog())
	ends := map[string]int{}
	for first := 0; first < races; first += together {
		name := func(n int) entitlement.AccountID { return entitlement.AccountID(fmt.Sprintf("acc_%d", first+n)) }
		type device struct {
			buyer
			race int
		}
		var accounts, asks []Command
		var devices [together][2]device
		var order []*device
		for n := range together {
			accounts = append(accounts, create(name(n)))
			devices[n] = [2]device{{buyer{fmt.Sprintf("i%d-0", first+n), "phone", name(n), entitlement.Apple, "pro", r.IntN(2) == 0}, n},
				{buyer{fmt.Sprintf("i%d-1", first+n), "laptop", name(n), entitlement.Stripe, "price_pro_monthly", r.IntN(2) == 0}, n}}
			order = append(order, &devices[n][0], &devices[n][1])
		}
		r.Shuffle(len(order), func(i, j int) { order[i], order[j] = order[j], order[i] })
		for _, d := range order {
			asks = append(asks, d.asks())
		}
		m.applyAll(accounts)
		var allowed, waits [together]*device
		var trials, paid [together]int
		for at, got := range m.applyAll(asks) {
			d := order[at]
			switch {
			case got.Rejection == nil && allowed[d.race] == nil:
				if allowed[d.race] = d; got.Intent.TrialEligible {
					trials[d.race]++
				}
			case got.Rejection != nil && got.Rejection.Slug == SlugPurchaseInProgress && allowed[d.race] != nil:
				waits[d.race] = d
			default:
				t.Fatalf("race %d: device %s got %+v", first+d.race, d.id, got)
			}
		}
		var next []Command
		var again []int // the race of the ask at that place of next, else -1
		for _, n := range r.Perm(together) {
			d := allowed[n]
			what := []Command{d.pays(trials[n] > 0, ""), submit(d.id, name(n)), endOf(d.id, name(n))}[r.IntN(3)]
			if paid[n] = 1; what.Type == TypeEndIntent {
				paid[n], trials[n] = 0, 0
			}
			if r.IntN(2) == 0 {
				next, again = append(next, what, waits[n].asks()), append(again, -1, n)
			} else {
				next, again = append(next, waits[n].asks(), what), append(again, n, -1)
			}
		}
		for at, got := range m.applyAll(next) {
			n := again[at]
			switch {
			case n < 0 && got.Rejection != nil:
				t.Fatalf("what device %d of the batch did is refused: %+v", at, got.Rejection)
			case n < 0:
			case got.Rejection != nil:
				ends[got.Rejection.Slug]++
			default:
				ends["allowed"]++
				if paid[n]++; got.Intent.TrialEligible {
					trials[n]++
				}
			}
		}
		for n := range together {
			if paid[n] > 1 || trials[n] > 1 {
				t.Fatalf("race %d: %d may pay, %d of them with a trial", first+n, paid[n], trials[n])
			}
		}
	}
	for _, how := range []string{"allowed", SlugPurchaseInProgress, SlugPurchasePending, SlugActiveSubscription} {
		if ends[how] < races/20 {
			t.Errorf("only %d races ended with %s: %v", ends[how], how, ends)
		}
	}
}

func (b *buyer) asks() Command { return ask(b.id, b.account, b.at, b.product, b.device, b.trial) }
