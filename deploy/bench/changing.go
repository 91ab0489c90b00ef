package main

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/latchkey/latchkey/edge/cmd/latchkey-bench/load"
	"github.com/latchkey/latchkey/pkg/entitlement"
	"github.com/latchkey/latchkey/replication"
	"github.com/latchkey/latchkey/replication/replicationtest"
)

// How checks of a large crowd are measured while its records change.
const (
	changesPerSecond = 500
	changesEvery     = 5 * time.Millisecond // writers publish what was committed in so long at once
	changingP99Goal  = 5                    // ms
	changingTailGoal = 15                   // ms, of p99.9

	// inTurn is how many accounts ask in turn: more than an edge remembers, so that most records are read and decoded.
	inTurn = 20_000
)

// takeChanging: how long fresh signatures take at half of the peak, with as many accounts as are in config on the disk and changes applied meanwhile.
func takeChanging(ctx context.Context, config config) ([]figure, error) {
	dir, err := os.MkdirTemp("", "latchkey-bench-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	e := &loneEdge{dir: dir, program: filepath.Join(config.programs, "latchkey-edge")}
	writer, sessions, stop, err := e.serve(ctx, config.accounts, inTurn)
	if err != nil {
		return nil, err
	}
	defer stop()
	// The stand-in holds every record in this program: to collect that beside the edge would be the writers' work on the edge's cores.
	debug.FreeOSMemory()
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	// Neither may the client wait for its turn behind the stand-in, which it would on another machine as little.
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(4 * runtime.NumCPU()))

	fresh := load.Checks(e.listen, sessions, true)
	var turn atomic.Int64
	full := load.Config{Addr: e.listen, Connections: connections, For: lasts, Status: http.StatusOK,
		// Whatever the connection, the next account asks.
		Source: func(dst []byte, _, _ int) []byte { return fresh(dst, 0, int(turn.Add(1))) }}
	for begun := turn.Load(); turn.Load()-begun < int64(len(sessions)); { // until everybody is known
		if _, err := load.Run(ctx, full); err != nil {
			return nil, err
		}
	}
	answered, err := load.Run(ctx, full)
	if err != nil {
		return nil, err
	}
	bare, stopBare, err := startFloor(config, "--sign", "--size", fmt.Sprint(answered.Body))
	if err != nil {
		return nil, err
	}
	defer stopBare()
	var ours, floor tails
	for range rounds {
		if err := floor.take(ctx, "floor", bare, full, nil); err != nil {
			return nil, err
		}
		if err := ours.take(ctx, "edge", e.listen, full, func(until context.Context) int { return change(until, writer, config.accounts) }); err != nil {
			return nil, err
		}
		// What was changed meanwhile must be there, or the edge was measured without its work.
		if err := e.visible(ctx, sessions[0], writer.Position().Revision().String()); err != nil {
			return nil, err
		}
	}
	figures := append(ours.figures("edge_check_changing", goal(changingP99Goal), goal(changingTailGoal)), floor.figures("floor_check_steady", nil, nil)...)
	least, middle, greatest := spread(ours.changes)
	return append(figures, figure{Name: "edge_check_changing_applied", Value: middle, Unit: aSecond, Min: least, Max: greatest, Runs: rounds}), nil
}

// change puts changes of accounts, anywhere among all of them, until ctx ends, and returns how many.
func change(ctx context.Context, writer *replicationtest.Writer, accounts int) int {
	const apart = 7919 // a prime: the accounts of two changes lie far from each other
	due := time.NewTicker(changesEvery)
	defer due.Stop()
	began, n := time.Now(), 0
	for {
		var records []replication.Record
		for ; n < int(time.Since(began).Seconds()*changesPerSecond); n++ {
			a := customer((n*apart)%accounts, time.Now().Unix())
			records = append(records, replication.Record{Env: entitlement.Production, Kind: replication.KindAccount, Key: string(a.ID), Value: entitlement.Encode(a)})
		}
		writer.Put(records...)
		select {
		case <-due.C:
		case <-ctx.Done():
			return n
		}
	}
}

// tails are the p99 and the p99.9 of runs at half of a peak, in milliseconds, and the changes a second meanwhile.
type tails struct{ p99, p999, changes []float64 }

// take takes one run more. beside works until its context ends; nil: nothing does.
func (t *tails) take(ctx context.Context, side, addr string, full load.Config, beside func(context.Context) int) error {
	full.Addr = addr
	peak, err := load.Run(ctx, full)
	if err != nil {
		return fmt.Errorf("%s: %w", side, err)
	}
	half := full
	half.Rate, half.Connections = peak.PerSecond()/2, 4*connections
	var work sync.WaitGroup
	working, enough := context.WithCancel(ctx)
	defer enough()
	began, done := time.Now(), 0
	if beside != nil {
		work.Go(func() { done = beside(working) })
	}
	r, err := load.Run(ctx, half)
	enough()
	work.Wait()
	if err != nil {
		return fmt.Errorf("%s: %w", side, err)
	}
	rate := float64(done) / time.Since(began).Seconds()
	t.p99, t.p999, t.changes = append(t.p99, milliseconds(r.Quantile(0.99))), append(t.p999, milliseconds(r.Quantile(0.999))), append(t.changes, rate)
	fmt.Fprintf(os.Stderr, "  %s: peak %.0f/s, then %.0f/s beside %.0f changes a second: p50 %.2f ms, p99 %.2f ms, p99.9 %.2f ms\n", side, peak.PerSecond(), half.Rate, rate,
		milliseconds(r.Quantile(0.5)), milliseconds(r.Quantile(0.99)), milliseconds(r.Quantile(0.999)))
	return nil
}

// figures are the best of both, as everything that is compared with a floor.
func (t *tails) figures(name string, p99, p999 *float64) []figure {
	least, _, greatest := spread(t.p99)
	tailLeast, _, tailGreatest := spread(t.p999)
	return []figure{
		{Name: name + "_p99", Value: least, Unit: "ms", Goal: p99, Min: least, Max: greatest, Runs: rounds},
		{Name: name + "_p999", Value: tailLeast, Unit: "ms", Goal: p999, Min: tailLeast, Max: tailGreatest, Runs: rounds},
	}
}

// visible returns when the edge answers at revision or newer.
func (e *loneEdge) visible(ctx context.Context, session, revision string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+e.listen+"/v1/entitlements?wait=10&min_revision="+revision, nil)
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+session)
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("revision %s is not at the edge: %s", revision, res.Status)
	}
	return nil
}
