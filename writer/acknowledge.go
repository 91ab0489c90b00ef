package writer

import (
	"context"
	"time"

	"github.com/latchkey/latchkey/pkg/entitlement"
	"github.com/latchkey/latchkey/pkg/problem"
	"github.com/latchkey/latchkey/writer/internal/provider"
	"github.com/latchkey/latchkey/writer/internal/store"
)

// Some providers take a sale back unless they are told that it was delivered: Play after three days. Telling them is a step of asking about the
// purchase (pull.go): the leader does it, only about what a majority has recorded with all that the provider says of it, and again after a growing pause
// until the provider itself says that it knows.

const (
	// acknowledgeAlarm is how long a sale may wait to be acknowledged before an operator is told.
	acknowledgeAlarm = time.Hour

	// acknowledgeUnmapped is how long a one-time product that the catalog lacks waits for being mapped: whether it is used up and can be bought again is not
	// known before, and afterwards the provider can still be told in time.
	acknowledgeUnmapped = 24 * time.Hour
)

// The outcomes of an attempt to acknowledge a sale, in the words of the metrics.
const (
	acknowledgeTold    = "told"     // the provider took it
	acknowledgeFailed  = "failed"   // it did not
	acknowledgeWaits   = "unmapped" // the catalog does not say yet whether it is used up
	acknowledgeOverdue = "overdue"  // besides: it has waited for longer than acknowledgeAlarm
)

// acknowledge tells the providers of a purchase about the sales that they wait to hear about.
func (p *pulling) acknowledge(ctx context.Context, purchase store.PurchaseDetail, pull store.Pull) {
	for name, api := range p.apis {
		teller, ok := api.(provider.Acknowledger)
		if !ok || p.paused(name) > 0 {
			continue
		}
		for _, id := range teller.Unacknowledged(purchase.Evidence) {
			age := p.now().Sub(time.Unix(pull.Since, 0))
			outcome, err := p.acknowledgeSale(ctx, teller, purchase.Evidence, id, age)
			if ctx.Err() != nil {
				return // the next leader does
			}
			p.metrics.acknowledged(outcome)
			attributes := []any{"provider", name, "environment", p.env, "purchase_id", purchase.ID, "outcome", outcome, "correlation_id", problem.RequestID(ctx)}
			if err != nil {
				p.failed(name, err) // it may ask for patience
				attributes = append(attributes, "error", err)
			}
			switch {
			case age > acknowledgeAlarm && outcome != acknowledgeTold:
				p.metrics.acknowledged(acknowledgeOverdue)
				p.log.ErrorContext(ctx, "sale not acknowledged for too long: its provider will take it back", append(attributes, "age_seconds", int64(age.Seconds()))...)
			case err != nil:
				p.log.WarnContext(ctx, "sale not acknowledged", attributes...)
			default:
				p.log.InfoContext(ctx, "sale acknowledged", attributes...)
			}
		}
	}
}

// acknowledgeSale tells of one sale, unless the catalog does not know yet what was sold.
func (p *pulling) acknowledgeSale(ctx context.Context, teller provider.Acknowledger, e entitlement.Evidence, id string, age time.Duration) (outcome string, err error) {
	var index *entitlement.CatalogIndex
	if err := p.store.View(func(r *store.Reader) (err error) {
		index, err = p.catalogs.index(r, p.env)
		return err
	}); err != nil {
		return acknowledgeFailed, err
	}
	for i := range e.Objects {
		o := &e.Objects[i]
		if t := o.Transaction; t != nil && o.By == teller.Provider() && !t.Recurring && age < acknowledgeUnmapped {
			if _, known := index.Lookup(o.By, &t.Sold); !known {
				return acknowledgeWaits, nil
			}
		}
	}
	consumable := func(s entitlement.Sold) bool {
		product, known := index.Lookup(teller.Provider(), &s)
		// A package is redeemed by itself, and can be bought again to extend it.
		return known && (product.Kind == entitlement.KindConsumable || product.Kind == entitlement.KindPackage)
	}
	if err := teller.Acknowledge(ctx, e, id, consumable); err != nil {
		return acknowledgeFailed, err
	}
	return acknowledgeTold, nil
}
