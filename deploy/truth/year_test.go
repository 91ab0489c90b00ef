package main

import (
	"strings"
	"testing"
	"time"
)

// The lies that a year must not believe: an oracle who speaks of a month ago, and an edge that goes on giving what was refunded.
var lies = []lie{
	{name: "an oracle a month late", late: -30 * 24 * time.Hour},
	{name: "an edge that ignores refunds", said: func(c *checked) {
		for i := range c.Entitlements {
			c.Entitlements[i].Active = c.Entitlements[i].Active || c.Entitlements[i].Status == "refunded"
		}
	}},
}

// What a real writer and a real edge say over a year is what the oracle says, whoever sold and whatever became of it, with messages repeated and
// reordered; and a mistake, of the edge or of the oracle, would have been seen. `make sim YEAR=10000` plays more customers.
func TestACrowdLivesThroughAYearAndTheEdgeIsRight(t *testing.T) {
	var out strings.Builder
	r, err := playYear(t.Context(), &out, yearConfig{users: 60, instants: 24, seed: 1, show: 3, chaos: yearChaos, lies: lies})
	if err != nil || r.wrong > 0 || r.lost > 0 {
		t.Errorf("a year is wrong: %v\n%s", err, out.String())
	}
	if r.answers < 60*24*9/10 {
		t.Errorf("%d answers of %d accounts at %d instants: too many were left out (%d)", r.answers, r.users, r.instants, r.skipped)
	}
	for _, l := range lies {
		if r.believed[l.name] == 0 {
			t.Errorf("%s: not one of %d answers shows it", l.name, r.answers)
		}
	}
}
