package main

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"sync"

	"github.com/latchkey/latchkey/edge/cmd/latchkey-bench/load"
)

const (
	// refusalGoal: a refusal costs 1.3 bare answers at most.
	refusalGoal = 1 / 1.3
	// besideGoal is how many times their p99 alone customers may wait beside a flood.
	besideGoal = 3
)

// takeRefusals: answers to credentials that are worth nothing, another one each time, against a bare answer of that size; and customers' p99 at a quarter of the
// peak, alone and beside a flood of such at half of the bare rate.
func takeRefusals(ctx context.Context, config config) ([]figure, error) {
	return withCustomers(config, func(s *running, sessions []string) ([]figure, error) {
		flood := load.Config{Addr: s.edge(), Connections: connections, For: lasts, Status: http.StatusUnauthorized, Source: load.Strangers(s.edge())}
		trial := flood
		trial.For = lasts / 3
		r, err := load.Run(ctx, trial)
		if err != nil {
			return nil, err
		}
		cost, err := compare(ctx, config, "edge_refusal", flood, "--status", fmt.Sprint(http.StatusUnauthorized), "--size", fmt.Sprint(r.Body))
		if err != nil {
			return nil, err
		}
		cost[0].Goal = goal(refusalGoal)
		paying := load.Config{Addr: s.edge(), Connections: connections, For: lasts, Status: http.StatusOK, Source: load.Checks(s.edge(), sessions, true)}
		beside, err := payingBeside(ctx, paying, flood, *cost[0].Floor/2)
		return append(cost, beside...), err
	})
}

// payingBeside compares the p99 of customers alone with that beside a flood of the given rate.
func payingBeside(ctx context.Context, paying, flood load.Config, rate float64) ([]figure, error) {
	var ratios []float64
	for range rounds {
		peak, err := load.Run(ctx, paying)
		if err != nil {
			return nil, err
		}
		quarter := paying
		quarter.Rate = peak.PerSecond() / 4
		alone, err := load.Run(ctx, quarter)
		if err != nil {
			return nil, err
		}
		flooding, stop := context.WithCancel(ctx)
		strangers := flood
		strangers.Rate, strangers.For = rate, 2*lasts
		var refused load.Result
		var floods sync.WaitGroup
		floods.Go(func() { refused, _ = load.Run(flooding, strangers) }) // it ends when it is told to
		beside, err := load.Run(ctx, quarter)
		stop()
		floods.Wait()
		if err != nil {
			return nil, err
		}
		a, b := milliseconds(alone.Quantile(0.99)), milliseconds(beside.Quantile(0.99))
		fmt.Fprintf(os.Stderr, "  %.0f/s: p99 %.2f ms alone, %.2f ms beside %.0f refusals a second of %.0f\n", quarter.Rate, a, b, float64(refused.Answers)/lasts.Seconds(), rate)
		ratios = append(ratios, b/a)
	}
	least, middle, greatest := spread(ratios)
	return []figure{{Name: "edge_paying_beside_refusals", Value: middle, Unit: "of its p99 alone", Goal: goal(besideGoal), Min: least, Max: greatest, Runs: rounds}}, nil
}
