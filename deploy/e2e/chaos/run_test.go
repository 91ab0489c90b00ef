package chaos

import (
	"math/rand/v2"
	"slices"
	"testing"
)

// plan is the first rounds of a seed, by name.
func plan(seed uint64, rounds int) (names []string) {
	d := newDeck(faults(), rand.New(rand.NewPCG(seed, 0)))
	for range rounds {
		chosen, lots := d.deal()
		for i, f := range chosen {
			names = append(names, f.name, lasts(lots[i], 0, 1<<40).String())
		}
		names = append(names, "and then")
	}
	return names
}

// The seed decides the faults, their order and their lengths; every kind comes once before lots are drawn.
func TestSeedDecidesThePlan(t *testing.T) {
	const rounds = 60
	one, again, other := plan(7, rounds), plan(7, rounds), plan(8, rounds)
	if !slices.Equal(one, again) {
		t.Errorf("seed 7 planned %v, and then %v", one, again)
	}
	if slices.Equal(one, other) {
		t.Errorf("seeds 7 and 8 planned the same: %v", one)
	}
	for _, f := range faults() {
		if !slices.Contains(one, f.name) {
			t.Errorf("%q does not come in %d rounds", f.name, rounds)
		}
	}
}

func TestFaultsAreNamedOnceAndWeighted(t *testing.T) {
	seen := map[string]bool{}
	for _, f := range faults() {
		if seen[f.name] || f.name == "" || f.weight < 1 || f.inject == nil {
			t.Errorf("fault %+v: want a name of its own, a weight and what it does", f)
		}
		seen[f.name] = true
	}
}
