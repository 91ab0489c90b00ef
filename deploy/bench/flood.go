package main

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/latchkey/latchkey/edge/cmd/latchkey-bench/load"
)

// How a flood in sandbox is measured: production at a steady rate, alone and beside clients that send as fast as they are answered.
const (
	floodGoal        = 2 // times the p99 of production alone
	floodConnections = 96
	floodLasts       = 6 * time.Second
	productionRate   = 50
)

// takeFlood: production's p99 beside a flood in sandbox, over its p99 alone.
func takeFlood(ctx context.Context, config config) ([]figure, error) {
	s, err := startSystem(config, webhookWriters, 0)
	if err != nil {
		return nil, err
	}
	defer s.stop()
	accounts := map[string][]string{}
	for _, env := range []string{"production", "sandbox"} {
		for range customers {
			id, err := s.newAccountIn(env)
			if err != nil {
				return nil, err
			}
			accounts[env] = append(accounts[env], id)
		}
	}
	hook := func(env, run string, writer int) (string, load.Source) {
		host, e := strings.TrimPrefix(s.info.Writers[writer].URL, "http://"), s.info.Environments[env]
		return host, load.Webhooks(host, e.Webhooks["stripe"].Path, e.Webhooks["stripe"].Secret, run, accounts[env])
	}
	production := func(run string) (float64, error) {
		host, source := hook("production", run, 0)
		r, err := load.Run(ctx, load.Config{Addr: host, Connections: connections, For: floodLasts, Status: http.StatusOK, Source: source, Rate: productionRate})
		return milliseconds(r.Quantile(0.99)), err
	}
	if _, err := production("warm"); err != nil {
		return nil, err
	}
	var ratios []float64
	for round := range rounds {
		alone, err := production(fmt.Sprintf("alone%d", round))
		if err != nil {
			return nil, err
		}
		flooding, stop := context.WithCancel(ctx)
		var floods sync.WaitGroup
		answered := make([]int, len(s.info.Writers))
		for w := range s.info.Writers {
			floods.Go(func() {
				host, source := hook("sandbox", fmt.Sprintf("flood%d%d", round, w), w)
				r, _ := load.Run(flooding, load.Config{Addr: host, Connections: floodConnections / len(s.info.Writers), For: floodLasts, Status: http.StatusOK, Source: source})
				answered[w] = r.Answers
			})
		}
		beside, err := production(fmt.Sprintf("beside%d", round))
		stop()
		floods.Wait()
		if err != nil {
			return nil, err
		}
		sum := 0
		for _, n := range answered {
			sum += n
		}
		fmt.Fprintf(os.Stderr, "  production's p99 %.1f ms alone, %.1f ms beside %.0f a second in sandbox\n", alone, beside, float64(sum)/floodLasts.Seconds())
		ratios = append(ratios, beside/alone)
	}
	least, middle, greatest := spread(ratios)
	return []figure{{Name: "production_in_flood", Value: middle, Unit: "of its p99 alone", Goal: goal(floodGoal), Min: least, Max: greatest, Runs: rounds}}, nil
}
