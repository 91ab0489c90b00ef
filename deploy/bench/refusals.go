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

// A flood is not sent request by request: who sends it has less work than who answers. So it comes in bursts over each connection, and from a thread of the
// lowest priority, because its senders are other machines.
const floodBurst = 8

// takeRefusals: answers to credentials that are worth nothing, another one each time, against a bare answer of that size; and customers' p99 at a quarter of the
// peak, alone and beside a flood of such at half of the bare rate: of the edge, and of a bare handler that signs for customers and refuses others.
func takeRefusals(ctx context.Context, config config) ([]figure, error) {
	return withCustomers(config, func(s *running, sessions []string) ([]figure, error) {
		flood := load.Config{Addr: s.edge(), Connections: connections, For: lasts, Status: http.StatusUnauthorized, Source: load.Strangers(s.edge())}
		trial := flood
		trial.For = lasts / 3
		refused, err := load.Run(ctx, trial)
		if err != nil {
			return nil, err
		}
		cost, err := compare(ctx, config, "edge_refusal", flood, "--status", fmt.Sprint(http.StatusUnauthorized), "--size", fmt.Sprint(refused.Body))
		if err != nil {
			return nil, err
		}
		cost[0].Goal = goal(refusalGoal)
		paying := load.Config{Addr: s.edge(), Connections: connections, For: lasts, Status: http.StatusOK, Source: load.Checks(s.edge(), sessions, true)}
		trial = paying
		trial.For = lasts / 3
		answered, err := load.Run(ctx, trial)
		if err != nil {
			return nil, err
		}
		bare, stop, err := startFloor(config, "--sign", "--size", fmt.Sprint(answered.Body), "--refusal", fmt.Sprint(refused.Body))
		if err != nil {
			return nil, err
		}
		defer stop()
		beside, err := payingBeside(ctx, paying, flood, bare, *cost[0].Floor/2)
		return append(cost, beside...), err
	})
}

// payingBeside compares the p99 of customers alone with that beside a flood of the given rate, at the edge and at a bare handler in turn.
func payingBeside(ctx context.Context, paying, flood load.Config, bare string, rate float64) ([]figure, error) {
	edge := besides{name: "edge", addr: paying.Addr}
	floor := besides{name: "floor", addr: bare}
	for range rounds {
		for _, b := range []*besides{&floor, &edge} {
			if err := b.take(ctx, paying, flood, rate); err != nil {
				return nil, fmt.Errorf("%s: %w", b.name, err)
			}
		}
	}
	ours := edge.figure("edge_paying_beside_refusals", edge.ratios, "of its p99 alone")
	ours.Goal = goal(besideGoal)
	refusals := edge.figure("edge_paying_beside_refusals_rate", edge.refused, aSecond)
	refusals.Floor = &rate
	return []figure{ours, floor.figure("floor_paying_beside_refusals", floor.ratios, "of its p99 alone"), refusals}, nil
}

// besides is what customers of one server wait beside a flood, in each round.
type besides struct {
	name, addr      string
	ratios, refused []float64
}

func (b *besides) take(ctx context.Context, paying, flood load.Config, rate float64) error {
	paying.Addr, flood.Addr = b.addr, b.addr
	peak, err := load.Run(ctx, paying)
	if err != nil {
		return err
	}
	paying.Rate = peak.PerSecond() / 4
	alone, err := load.Run(ctx, paying)
	if err != nil {
		return err
	}
	flooding, stop := context.WithCancel(ctx)
	flood.Rate, flood.For, flood.Burst, flood.Aside = rate, 2*lasts, floodBurst, true
	var refused load.Result
	var floods sync.WaitGroup
	floods.Go(func() { refused, _ = load.Run(flooding, flood) }) // it ends when it is told to
	beside, err := load.Run(ctx, paying)
	stop()
	floods.Wait()
	if err != nil {
		return err
	}
	was, is := milliseconds(alone.Quantile(0.99)), milliseconds(beside.Quantile(0.99))
	fmt.Fprintf(os.Stderr, "  %s: %.0f/s: p99 %.2f ms alone, %.2f ms beside %.0f refusals a second of %.0f\n", b.name, paying.Rate, was, is, refused.PerSecond(), rate)
	b.ratios, b.refused = append(b.ratios, is/was), append(b.refused, refused.PerSecond())
	return nil
}

func (b *besides) figure(name string, of []float64, unit string) figure {
	least, middle, greatest := spread(of)
	return figure{Name: name, Value: middle, Unit: unit, Min: least, Max: greatest, Runs: rounds}
}
