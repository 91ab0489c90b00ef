package main

import (
	"bufio"
	"context"
	"fmt"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/latchkey/latchkey/edge/cmd/latchkey-bench/load"
)

const (
	// memoryGoal is what an edge may take without its mapped file, in MiB.
	memoryGoal = 128

	// askers is how many accounts ask: more than an edge remembers of sessions or accounts.
	askers = 40_000

	memoryEvery  = 100 * time.Millisecond
	memoryWithin = 2 * time.Minute // that long it may take until all have asked, twice
)

// takeMemory: the most that the edge's process takes while so many accounts ask twice, each in turn, as fast as they are answered.
func (e *loneEdge) takeMemory(ctx context.Context, sessions []string) (figure, error) {
	stop, err := e.start()
	if err != nil {
		return figure{}, err
	}
	defer stop()
	if err := e.firstAnswer(ctx, sessions[0]); err != nil {
		return figure{}, err
	}
	idle, err := e.memory()
	if err != nil {
		return figure{}, err
	}
	checks := load.Checks(e.listen, sessions, false) // without a nonce, so that tokens are kept
	var turn atomic.Int64
	asked := make(chan error, 1)
	asking, enough := context.WithCancel(ctx)
	defer enough()
	go func() {
		_, err := load.Run(asking, load.Config{Addr: e.listen, Connections: connections, For: memoryWithin, Status: http.StatusOK,
			// Whatever the connection and its count, the next session is asked for: numbers of one connection are numbers of accounts.
			Source: func(dst []byte, _, _ int) []byte { return checks(dst, 0, int(turn.Add(1))) }})
		asked <- err
	}()
	sampled := time.NewTicker(memoryEvery)
	defer sampled.Stop()
	most := idle
	for {
		select {
		case err := <-asked:
			if err == nil && turn.Load() < 2*askers {
				err = fmt.Errorf("%d of %d accounts have asked twice", turn.Load()-askers, askers)
			}
			return figure{Name: "edge_memory_1m", Value: most, Unit: "MiB", Goal: goal(memoryGoal), Min: idle, Max: most, Runs: 1}, err
		case <-sampled.C:
			now, err := e.memory()
			if err != nil {
				return figure{}, err
			}
			if most = max(most, now); turn.Load() >= 2*askers {
				enough()
			}
		}
	}
}

// memory is what of the edge's process is in memory without its mapped replica, in MiB.
func (e *loneEdge) memory() (float64, error) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/smaps", e.pid))
	if err != nil {
		return 0, err
	}
	defer f.Close()
	var kilobytes int
	var replica bool
	for lines := bufio.NewScanner(f); lines.Scan(); {
		fields := strings.Fields(lines.Text())
		switch {
		case len(fields) > 0 && !strings.HasSuffix(fields[0], ":"): // the head of a mapping: addresses, rights, ..., and the file if there is one
			replica = len(fields) > 5 && strings.HasPrefix(fields[5], e.dir)
		case len(fields) > 1 && fields[0] == "Rss:" && !replica:
			n, err := strconv.Atoi(fields[1])
			if err != nil {
				return 0, fmt.Errorf("smaps: %w", err)
			}
			kilobytes += n
		}
	}
	return float64(kilobytes) / 1024, nil
}
