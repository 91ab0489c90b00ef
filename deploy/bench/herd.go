package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"time"

	"github.com/latchkey/latchkey/deploy/herd"
)

// How a crowd of edges that lose everything at once is measured.
const (
	herdEdges    = 200
	herdAccounts = 20_000
	herdRate     = 50 // webhooks a second at each writer
	herdLasts    = 8 * time.Second
	herdRuns     = 3
	herdGoal     = 100 // ms
)

// crowdCommand is this program as a crowd of edges.
const crowdCommand = "crowd"

// crowd starts edges that take what writers and measurement leave of the machine: they are other machines.
func crowd(cfg herd.Config) (herd.Crowd, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command("nice", "-n", "19", self, crowdCommand)
	cmd.Stderr = os.Stderr
	return herd.Launch(cmd, cfg)
}

// takeHerd: the p99 of webhooks at the slowest of three writers from the moment on at which 200 edges want a snapshot.
func takeHerd(ctx context.Context, config config) ([]figure, error) {
	s, err := startSystem(config, 3, 0)
	if err != nil {
		return nil, err
	}
	defer s.stop()
	accounts, err := s.accounts(herdAccounts)
	if err != nil {
		return nil, err
	}
	if _, _, err := s.webhooks(ctx, "fill", accounts); err != nil { // so that there is something to download
		return nil, err
	}
	var p99s, alone, took, changed []float64
	for range herdRuns {
		out, err := herd.Trial{Edges: herdEdges, Accounts: accounts, Rate: herdRate, For: herdLasts, Start: crowd}.Run(ctx, s.info)
		if err != nil {
			return nil, err
		}
		fmt.Fprintf(os.Stderr, "  %d snapshots, %d webhooks\n", out.Snapshots, out.Webhooks)
		p99s, alone = append(p99s, milliseconds(out.Beside)), append(alone, milliseconds(out.Alone))
		took, changed = append(took, out.Recovered.Seconds()), append(changed, float64(out.LeaderChanges))
	}
	figures := []figure{
		{Name: "herd_webhook_p99", Unit: "ms", Goal: goal(herdGoal)},
		{Name: "herd_webhook_p99_alone", Unit: "ms"},
		{Name: "herd_leader_changes", Unit: "changes", Goal: goal(1)},
		{Name: "herd_recovered", Unit: "s"},
	}
	for i, values := range [][]float64{p99s, alone, changed, took} {
		f := &figures[i]
		f.Runs = herdRuns
		f.Min, f.Value, f.Max = spread(values)
	}
	figures[2].Value = figures[2].Max // not one in any run
	return figures, nil
}
