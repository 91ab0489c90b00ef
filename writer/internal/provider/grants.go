package provider

import (
	"context"
	"time"

	"github.com/latchkey/latchkey/pkg/entitlement"
)

// The mark of what we grant inside an aggregator ourselves: its end is this far into an hour, Unix time. Its echo comes back as a gift with the same end
// and is dropped, or an entitlement of ours would keep itself alive for ever. To RevenueCat two ends within 2 hours are one, so that moving an end by
// less than one takes nothing from anybody; its API of version 1 and Adapty's show whole seconds, so that the second alone must do there. A grant
// that others made ends in that second once in 3,600.
const (
	outboundMarkEvery  = time.Hour
	outboundMarkSecond = 46*time.Minute + 17*time.Second
	outboundMark       = outboundMarkSecond + 613*time.Millisecond
)

// MarkedEnd returns the first end from at on that marks a grant as ours. Whatever grants inside an aggregator must use such an end.
func MarkedEnd(at time.Time) time.Time {
	marked := at.Truncate(outboundMarkEvery).Add(outboundMark)
	if marked.Before(at) {
		marked = marked.Add(outboundMarkEvery)
	}
	return marked
}

// isOurs reports whether a grant with that end, Unix milliseconds, is one of ours. An end in whole seconds lost its milliseconds.
func isOurs(endMillis int64, wholeSeconds bool) bool {
	if rest := endMillis % outboundMarkEvery.Milliseconds(); wholeSeconds {
		return rest-rest%1000 == outboundMarkSecond.Milliseconds()
	} else {
		return rest == outboundMark.Milliseconds()
	}
}

// endlessGrant is when a grant without an end ends inside an aggregator: one without any could not be marked.
var endlessGrant = MarkedEnd(time.Date(2100, time.January, 1, 0, 0, 0, 0, time.UTC))

// Access is what a customer is to have inside an aggregator.
type Access struct {
	Level  string // the aggregator's id of the entitlement
	EndsAt int64  // exclusive, Unix seconds; 0 is never
}

// Passed is what came of passing grants on.
type Passed struct {
	Granted, Revoked int // levels
	// Open: something could not be done, because others sold or gave the same level there. It is to be tried again.
	Open bool
}

// Granter is a Puller whose provider gives customers access that it is told of.
type Granter interface {
	Puller

	// PassOn makes what we grant a customer there, whose name is one of the provider's, equal to want, which has each level once. It asks what is there first, so
	// that it may be called again, and leaves alone what others gave or sold: nothing is granted that lasts less, and nothing revoked that is not ours
	// alone. Errors: as Pull's; ErrGone where the provider has no such customer (yet).
	PassOn(ctx context.Context, customer entitlement.Alias, want []Access) (Passed, error)
}
