package main

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/latchkey/latchkey/deploy/stripemsg"
)

// How propagation is measured: a steady rate that a large customer base makes, on a schedule.
const (
	webhooksPerSecond = 200
	propagationRuns   = 3
	propagationLasts  = 5 * time.Second
)

// takePropagation: from the scheduled send of a webhook until every edge has answered at its revision.
func takePropagation(ctx context.Context, config config) ([]figure, error) {
	s, err := startSystem(config, 3, 2)
	if err != nil {
		return nil, err
	}
	defer s.stop()
	type customer struct{ account, session string }
	var all []customer
	for range customers {
		account, session, err := s.account()
		if err != nil {
			return nil, err
		}
		all = append(all, customer{account, session})
	}
	var p50s, p99s []float64
	for range propagationRuns {
		var (
			mu    sync.Mutex
			took  []time.Duration
			errs  []error
			works sync.WaitGroup
		)
		ticks := time.NewTicker(time.Second / webhooksPerSecond)
		for n := range int(propagationLasts.Seconds() * webhooksPerSecond) {
			var scheduled time.Time
			select {
			case scheduled = <-ticks.C:
			case <-ctx.Done():
				return nil, ctx.Err()
			}
			c := all[n%len(all)]
			works.Go(func() {
				revision, err := s.post(stripemsg.NewSubscription(stripemsg.Basil, c.account, scheduled).Updated("created", scheduled))
				if err == nil {
					err = s.visible(c.session, revision)
				}
				mu.Lock()
				defer mu.Unlock()
				took, errs = append(took, time.Since(scheduled)), append(errs, err)
			})
		}
		ticks.Stop()
		works.Wait()
		if err := errors.Join(errs...); err != nil {
			return nil, err
		}
		slices.Sort(took)
		p50s, p99s = append(p50s, milliseconds(took[len(took)/2])), append(p99s, milliseconds(took[len(took)*99/100]))
	}
	figures := []figure{{Name: "propagation_p50", Goal: goal(20)}, {Name: "propagation_p99", Goal: goal(100)}}
	for i, values := range [][]float64{p50s, p99s} {
		f := &figures[i]
		f.Unit, f.Runs = "ms", propagationRuns
		f.Min, f.Value, f.Max = spread(values)
	}
	return figures, nil
}
