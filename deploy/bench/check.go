package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/latchkey/latchkey/deploy/stripemsg"
	"github.com/latchkey/latchkey/edge/cmd/latchkey-bench/load"
)

// How the check path is measured: on both sides the same client, the same number of connections, the same time.
const (
	rounds      = 5
	lasts       = 3 * time.Second
	connections = 16
	customers   = 64 // accounts with a paid subscription, asked in turn
	checkGoal   = 0.85
)

// takeFresh: checks that are signed each for itself, against one bare P-256 signature.
func takeFresh(ctx context.Context, config config) ([]figure, error) {
	return takeChecks(ctx, config, "edge_check_fresh", true, "--sign")
}

// takeAgain: checks that may be answered with a token that was signed less than 5 s ago, against a bare answer of that size.
func takeAgain(ctx context.Context, config config) ([]figure, error) {
	return takeChecks(ctx, config, "edge_check_again", false)
}

func takeChecks(ctx context.Context, config config, name string, fresh bool, floorArgs ...string) ([]figure, error) {
	return withCustomers(config, func(s *running, sessions []string) ([]figure, error) {
		ours := load.Config{Addr: s.edge(), Connections: connections, For: lasts, Status: http.StatusOK, Source: load.Checks(s.edge(), sessions, fresh)}
		trial := ours
		trial.For = lasts / 3 // also warms up
		r, err := load.Run(ctx, trial)
		if err != nil {
			return nil, err
		}
		return compare(ctx, config, name, ours, append(floorArgs, "--size", fmt.Sprint(r.Body))...)
	})
}

// takeNotModified: checks by a client that holds the answer already, against a bare empty 304.
func takeNotModified(ctx context.Context, config config) ([]figure, error) {
	return withCustomers(config, func(s *running, sessions []string) ([]figure, error) {
		etag, err := s.etag(ctx, sessions[0])
		if err != nil {
			return nil, err
		}
		ours := load.Config{Addr: s.edge(), Connections: connections, For: lasts, Status: http.StatusNotModified, Source: load.Revalidations(s.edge(), sessions[0], etag)}
		return compare(ctx, config, "edge_check_304", ours)
	})
}

// compare runs ours and a floor in turn, and takes the best of both sides.
func compare(ctx context.Context, config config, name string, ours load.Config, floorArgs ...string) ([]figure, error) {
	addr, stop, err := startFloor(config, floorArgs...)
	if err != nil {
		return nil, err
	}
	defer stop()
	theirs := ours
	theirs.Addr = addr
	var floors, edges, ratios []float64
	for range rounds {
		f, err := load.Run(ctx, theirs)
		if err != nil {
			return nil, fmt.Errorf("floor: %w", err)
		}
		e, err := load.Run(ctx, ours)
		if err != nil {
			return nil, err
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		floors, edges, ratios = append(floors, f.PerSecond()), append(edges, e.PerSecond()), append(ratios, e.PerSecond()/f.PerSecond())
	}
	best := slices.Max(floors)
	least, _, greatest := spread(ratios)
	fmt.Fprintf(os.Stderr, "  floor %.0f/s, edge %.0f/s\n", best, slices.Max(edges))
	return []figure{{Name: name, Value: slices.Max(edges) / best, Unit: ofFloor, Goal: goal(checkGoal), Floor: &best, Min: least, Max: greatest, Runs: rounds}}, nil
}

// startFloor starts a floor program of latchkey-bench and returns its address.
func startFloor(config config, args ...string) (addr string, stop func(), err error) {
	cmd := exec.Command(filepath.Join(config.programs, "latchkey-bench"), append([]string{"floor"}, args...)...)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return "", nil, err
	}
	if err := cmd.Start(); err != nil {
		return "", nil, fmt.Errorf("floor: %w", err)
	}
	stop = func() { cmd.Process.Kill(); cmd.Wait() }
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		stop()
		return "", nil, fmt.Errorf("floor: %w", err)
	}
	return strings.TrimSpace(line), stop, nil
}

// takeHalfPeak: how long answers take on a schedule of half the rate that the edge can sustain, each signed for itself. The peak is taken anew
// before each run: what a virtual machine can do changes within a minute, and half of a peak that is over may be most of the present one.
func takeHalfPeak(ctx context.Context, config config) ([]figure, error) {
	return withCustomers(config, func(s *running, sessions []string) ([]figure, error) {
		full := load.Config{Addr: s.edge(), Connections: connections, For: lasts, Status: http.StatusOK, Source: load.Checks(s.edge(), sessions, true)}
		half := full
		half.Connections = 4 * connections
		var p99s []float64
		for range rounds {
			peak, err := load.Run(ctx, full)
			if err != nil {
				return nil, err
			}
			half.Rate = peak.PerSecond() / 2
			r, err := load.Run(ctx, half)
			if err != nil {
				return nil, err
			}
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
			p99s = append(p99s, milliseconds(r.Quantile(0.99)))
			fmt.Fprintf(os.Stderr, "  peak %.0f/s, then %.0f/s: p50 %.2f ms, p99 %.2f ms\n", peak.PerSecond(), half.Rate, milliseconds(r.Quantile(0.5)), milliseconds(r.Quantile(0.99)))
		}
		least, middle, greatest := spread(p99s)
		return []figure{{Name: "edge_check_half_peak_p99", Value: middle, Unit: "ms", Goal: goal(5), Min: least, Max: greatest, Runs: rounds}}, nil
	})
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// withCustomers runs take against a system of one writer and one edge in which some accounts have paid.
func withCustomers(config config, take func(*running, []string) ([]figure, error)) ([]figure, error) {
	s, err := startSystem(config, 1, 1)
	if err != nil {
		return nil, err
	}
	defer s.stop()
	var sessions []string
	for range customers {
		account, session, err := s.account()
		if err != nil {
			return nil, err
		}
		revision, err := s.post(stripemsg.NewSubscription(stripemsg.Basil, account, time.Now()).Updated("created", time.Now()))
		if err != nil {
			return nil, err
		}
		if err := s.visible(session, revision); err != nil {
			return nil, err
		}
		sessions = append(sessions, session)
	}
	return take(s, sessions)
}

// etag asks for an account once and returns the answer's tag.
func (s *running) etag(ctx context.Context, session string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.edge()+"/v1/entitlements", nil)
	if err != nil {
		return "", err
	}
	req.Header.Set("Authorization", "Bearer "+session)
	res, err := s.client.Do(req)
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	if _, err := io.Copy(io.Discard, res.Body); err != nil {
		return "", err
	}
	tag := res.Header.Get("ETag")
	if tag == "" {
		return "", errors.New("the answer has no ETag")
	}
	return tag, nil
}

// freePort returns the first of a block of 100 ports that nobody listens on at present.
func freePort() (int, error) {
	for base := 14000 + os.Getpid()%40*100; base < 20000; base += 100 {
		free := true
		for port := base; port < base+100 && free; port++ {
			l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
			if free = err == nil; free {
				l.Close()
			}
		}
		if free {
			return base, nil
		}
	}
	return 0, errors.New("no free block of 100 ports")
}
