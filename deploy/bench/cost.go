package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"time"

	"github.com/latchkey/latchkey/edge/cmd/latchkey-bench/load"
)

const (
	// allocationsGoal is how many allocations an answer may make.
	allocationsGoal = 5

	// profiledFor is how long the edge is under load while its profiles are taken.
	profiledFor = 15 * time.Second
)

// profilesDir is where the profiles of the check path are kept.
var profilesDir = filepath.Join("deploy", "bench", "profiles")

var allocationsLine = regexp.MustCompile(`(?m)^BenchmarkCheck/(\w+?)(?:-\d+)?\s+\d+\s+[0-9.]+ ns/op\s+\d+ B/op\s+(\d+) allocs/op`)

// takeCost: what an answer allocates, by the edge's own benchmark, and the profiles of an edge that signs as much as it can.
func takeCost(ctx context.Context, config config) ([]figure, error) {
	out, err := exec.CommandContext(ctx, "go", "test", "-run", "^$", "-bench", "^BenchmarkCheck$", "-benchtime", "300ms", "./edge").CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("benchmarks: %w\n%s", err, out)
	}
	figures, err := allocationFigures(string(out))
	if err != nil {
		return nil, err
	}
	return figures, takeProfiles(ctx, config)
}

// allocationFigures reads what the benchmark printed. It is an error when a kind of answer is missing.
func allocationFigures(out string) ([]figure, error) {
	made := map[string]float64{}
	for _, line := range allocationsLine.FindAllStringSubmatch(out, -1) {
		n, err := strconv.ParseFloat(line[2], 64)
		if err != nil {
			return nil, fmt.Errorf("benchmark %s: %w", line[1], err)
		}
		made[line[1]] = n
	}
	for _, kind := range []string{"fresh", "again", "not_modified", "bare_signature"} {
		if _, ok := made[kind]; !ok {
			return nil, errors.New("no benchmark of " + kind)
		}
	}
	allocations := func(name string, n float64, goal *float64) figure {
		return figure{Name: name, Value: n, Unit: "allocations an answer", Goal: goal, Min: n, Max: n, Runs: 1}
	}
	most := goal(allocationsGoal + 0.5) // at most, not below
	return []figure{
		allocations("edge_check_304_allocations", made["not_modified"], most),
		allocations("edge_check_again_allocations", made["again"], most),
		allocations("edge_check_fresh_allocations", made["fresh"], most),
		allocations("floor_signature_allocations", made["bare_signature"], nil),
	}, nil
}

// takeProfiles keeps the profiles of an edge whose every answer is signed for itself.
func takeProfiles(ctx context.Context, config config) error {
	dir, err := os.MkdirTemp("", "latchkey-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	e := &loneEdge{dir: dir, program: filepath.Join(config.programs, "latchkey-edge"), profiles: profilesDir}
	_, sessions, stop, err := e.serve(ctx, customers, customers)
	if err != nil {
		return err
	}
	defer stop() // which writes them
	_, err = load.Run(ctx, load.Config{Addr: e.listen, Connections: connections, For: profiledFor, Status: http.StatusOK, Source: load.Checks(e.listen, sessions, true)})
	return err
}
