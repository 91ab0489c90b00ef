package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"
)

// showEvery is how often the progress is shown.
const showEvery = 10 * time.Second

// playAll plays histories and prints what went wrong, and a last line that counts. Error: it could not play.
func playAll(ctx context.Context, out io.Writer, first uint64, histories, workers, show int) (failed int64, err error) {
	dir, err := os.MkdirTemp("", "truth")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	var next, played, events, resent, wrong atomic.Int64
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
				told, err := s.play(ctx, seed)
				events.Add(int64(told.events))
				resent.Add(int64(told.resent))
				played.Add(1)
				if err != nil && ctx.Err() == nil {
					if wrong.Add(1) <= int64(show) {
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
	fmt.Fprintf(out, "truth: %d histories, %d messages and answers, %d of them lost and sent again, %d wrong, %s\n", played.Load(), events.Load(), resent.Load(), wrong.Load(), time.Since(began).Round(time.Second))
	if err == nil {
		err = ctx.Err()
	}
	return wrong.Load(), err
}
