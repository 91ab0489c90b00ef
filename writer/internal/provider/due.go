package provider

import (
	"time"

	"github.com/latchkey/latchkey/pkg/entitlement"
)

// aggregatorEndPoll is how long after its end a term that renews is asked about where an aggregator told nothing since: its messages take a minute, and what
// it could not deliver it repeats for two and a half hours to a day, and never again.
const aggregatorEndPoll = 15 * time.Minute

// standsUntil returns until when what a provider has told is known to hold, of what goes on then: the end of the last term that renews, of a billing grace, of
// a pause. Only chains count whose ids are wanted. Zero: nothing goes on, or nobody told when.
func standsUntil(e entitlement.Evidence, by entitlement.Provider, wanted func(chain string) bool) (until time.Time) {
	renews := map[string]bool{}
	note := func(at int64) {
		if at > 0 {
			until = later(until, time.Unix(at, 0))
		}
	}
	for i := range e.Objects {
		o := &e.Objects[i]
		if o.Renewal == nil || o.By != by || !o.Renewal.WillRenew || !wanted(o.ID) {
			continue
		}
		switch o.Renewal.Phase {
		case entitlement.PhaseActive:
			renews[o.ID] = true
		case entitlement.PhaseBillingGrace:
			note(o.Renewal.GraceUntil)
		case entitlement.PhasePaused:
			note(o.Renewal.ResumesAt)
		}
	}
	for i := range e.Objects {
		if t := e.Objects[i].Transaction; t != nil && e.Objects[i].By == by && renews[t.Chain] {
			note(t.EndsAt)
		}
	}
	return until
}

// customerDue returns the customer of an aggregator about whom to ask, because a subscription of theirs was to go on and nobody has said since that it did: not
// the aggregator, and not the store, should that be heard too.
func customerDue(e entitlement.Evidence, by entitlement.Provider, customer string, asked func(id string) time.Time, now time.Time) []entitlement.Doubt {
	until := standsUntil(e, by, func(string) bool { return true })
	poll := until.Add(aggregatorEndPoll)
	if customer == "" || until.IsZero() || now.Before(poll) || !poll.After(asked(customer)) || toldSince(e, until, poll) {
		return nil
	}
	return []entitlement.Doubt{{Kind: entitlement.KindCustomer, ID: customer, By: by}}
}

// toldSince reports whether anybody has told at a time or after it how a subscription stands, or of a term that ends after until.
func toldSince(e entitlement.Evidence, until, since time.Time) bool {
	for i := range e.Objects {
		o := &e.Objects[i]
		ends, stands := int64(0), o.Transaction != nil || o.Subscription != nil || o.Renewal != nil && o.Renewal.Phase != ""
		if o.Transaction != nil {
			ends = o.Transaction.EndsAt
		}
		if o.Subscription != nil {
			for _, item := range o.Subscription.Items {
				ends = max(ends, item.EndsAt)
			}
		}
		if ends > until.Unix() || stands && o.At >= since.UnixNano() {
			return true
		}
	}
	return false
}
