package main

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/latchkey/latchkey/pkg/entitlement"
)

const (
	// idleStreams is how many streams are open at one edge, each of an account of its own, and streamsGoal what the edge's process may take with them, in MiB.
	idleStreams = 5000
	streamsGoal = 300

	// streamsIdleFor is longer than the time between two comments.
	streamsIdleFor = 20 * time.Second
	streamsWithin  = time.Minute
)

// takeStreams: the most that an edge's process takes with so many streams open, while they are idle, and when the catalog changes for all of them; and how
// long it takes until the last of them shows that.
func takeStreams(ctx context.Context, config config) ([]figure, error) {
	dir, err := os.MkdirTemp("", "latchkey-bench-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	e := &loneEdge{dir: dir, program: filepath.Join(config.programs, "latchkey-edge")}
	writer, sessions, stop, err := e.serve(ctx, idleStreams, idleStreams)
	if err != nil {
		return nil, err
	}
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, 2*streamsWithin)
	defer cancel()
	least, err := e.memory()
	if err != nil {
		return nil, err
	}
	var answers, lost atomic.Int64
	for _, session := range sessions {
		conn, err := net.Dial("tcp", e.listen)
		if err != nil {
			return nil, err
		}
		defer conn.Close()
		if _, err := fmt.Fprintf(conn, "GET /v1/entitlements/stream HTTP/1.1\r\nHost: edge\r\nAuthorization: Bearer %s\r\n\r\n", session); err != nil {
			return nil, err
		}
		go func() {
			for lines := bufio.NewReader(conn); ; {
				line, err := lines.ReadString('\n')
				if err != nil {
					lost.Add(1)
					return
				}
				if strings.HasPrefix(line, "data: ") && strings.Contains(line, `"grace_token"`) {
					answers.Add(1)
				}
			}
		}()
	}
	most := least
	// sample notes the memory until enough answers came, and for a time afterwards.
	sample := func(want int64, after time.Duration) (took time.Duration, err error) {
		began := time.Now()
		tick := time.NewTicker(memoryEvery)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
			case <-ctx.Done():
				return 0, fmt.Errorf("%d of %d answers came: %w", answers.Load(), want, ctx.Err())
			}
			if lost.Load() > 0 {
				return 0, fmt.Errorf("%d streams were cut off", lost.Load())
			}
			now, err := e.memory()
			if err != nil {
				return 0, err
			}
			most = max(most, now)
			switch {
			case answers.Load() < want:
			case took == 0:
				took = time.Since(began)
			case time.Since(began) > took+after:
				return took, nil
			}
		}
	}
	if _, err := sample(idleStreams, streamsIdleFor); err != nil {
		return nil, err
	}
	writer.PutCatalog(entitlement.Production, entitlement.Catalog{Products: []entitlement.Product{
		{Provider: entitlement.Stripe, ID: "price_pro_monthly", Kind: entitlement.KindRecurring, Entitlements: []string{"premium"}, Plan: "pro_monthly", Group: "pro"},
	}})
	told, err := sample(2*idleStreams, time.Second)
	if err != nil {
		return nil, err
	}
	ms := milliseconds(told)
	return []figure{
		{Name: "idle_streams_memory", Value: most, Unit: "MiB", Goal: goal(streamsGoal), Min: least, Max: most, Runs: 1},
		{Name: "idle_streams_told", Value: ms, Unit: "ms", Min: ms, Max: ms, Runs: 1},
	}, nil
}
