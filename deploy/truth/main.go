// Command truth plays random histories of customers over all seven providers, as the simulated providers tell of them, through Latchkey's adapters and
// state machine, and holds the result against an oracle that reads the simulator's own ledger. Messages come late, twice, in any order, or never, and
// what was lost is pulled. Start at stage.play.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// gcPercent trades memory, of which a history needs little, for time.
	gcPercent = 400
	// showEvery is how often the progress is shown.
	showEvery = 10 * time.Second
	// maxShown is how many histories that went wrong are shown.
	maxShown = 3
)

func main() {
	histories := flag.Int("histories", 10_000, "how many to play")
	first := flag.Uint64("seed", 1, "the first one")
	workers := flag.Int("workers", runtime.GOMAXPROCS(0), "how many at a time")
	flag.Parse()
	if flag.NArg() > 0 || *histories < 1 || *workers < 1 {
		flag.Usage()
		os.Exit(2)
	}
	debug.SetGCPercent(gcPercent)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	failed, err := playAll(ctx, os.Stdout, *first, *histories, *workers)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	if failed > 0 {
		os.Exit(1)
	}
}

// playAll plays histories and prints what went wrong, and a last line that counts. Error: it could not play.
func playAll(ctx context.Context, out io.Writer, first uint64, histories, workers int) (failed int64, err error) {
	dir, err := os.MkdirTemp("", "truth")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	var next, played, messages, wrong atomic.Int64
	var shown sync.Mutex
	var running sync.WaitGroup
	faults := make(chan error, workers)
	began := time.Now()
	for n := range workers {
		s, err := newStage(filepath.Join(dir, fmt.Sprint(n)))
		if err != nil {
			return 0, err
		}
		running.Go(func() {
			for ctx.Err() == nil {
				i := next.Add(1) - 1
				if i >= int64(histories) {
					break
				}
				seed := first + uint64(i)
				n, err := s.play(ctx, seed)
				messages.Add(int64(n))
				played.Add(1)
				if err != nil && ctx.Err() == nil {
					if wrong.Add(1) <= maxShown {
						shown.Lock()
						fmt.Fprintf(out, "history %d is wrong: %v\n  again: go run ./deploy/truth -histories 1 -seed %d\n", seed, err, seed)
						shown.Unlock()
					}
				}
			}
			faults <- s.close()
		})
	}
	done := make(chan struct{})
	go func() {
		running.Wait()
		close(done)
	}()
	progress := time.NewTicker(showEvery)
	defer progress.Stop()
	for open := true; open; {
		select {
		case <-done:
			open = false
		case <-progress.C:
			fmt.Fprintf(os.Stderr, "  %d of %d histories, %d wrong\n", played.Load(), histories, wrong.Load())
		}
	}
	for range workers {
		if fault := <-faults; fault != nil {
			err = fault
		}
	}
	fmt.Fprintf(out, "truth: %d histories, %d messages, %d wrong, %s\n", played.Load(), messages.Load(), wrong.Load(), time.Since(began).Round(time.Second))
	if err == nil {
		err = ctx.Err()
	}
	return wrong.Load(), err
}
