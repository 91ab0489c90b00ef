package main

import (
	"fmt"
	"io"
	"os"
	"reflect"
	"sync"
	"text/tabwriter"
	"time"
)

// total is what all seeds came to.
type total struct {
	seeds, steps, failed int
	counts               counts
	took                 time.Duration
}

// mostShown is how many failures are printed in full.
const mostShown = 3

// scratch makes a folder in memory where there is one: the files are small, and what a disk does wrong is played.
func scratch() (string, error) {
	for _, parent := range []string{"/dev/shm", ""} {
		if dir, err := os.MkdirTemp(parent, "latchkey-sim-"); err == nil {
			return dir, nil
		} else if parent == "" {
			return "", err
		}
	}
	return "", nil
}

// playAll plays seeds from first on, some at a time, and prints each that fails with the command that repeats it.
func playAll(out io.Writer, dir string, first uint64, seeds, workers int, traces bool) total {
	began := time.Now()
	next := make(chan uint64)
	done := make(chan outcome)
	var playing sync.WaitGroup
	for range workers {
		playing.Go(func() {
			for seed := range next {
				done <- simulate(seed, dir)
			}
		})
	}
	go func() {
		for i := range seeds {
			next <- first + uint64(i)
		}
		close(next)
		playing.Wait()
		close(done)
	}()
	var t total
	for o := range done {
		t.seeds++
		t.steps += o.steps
		t.counts.add(o.counts)
		if traces {
			fmt.Fprintf(out, "seed %d trace %016x\n", o.seed, o.trace)
		}
		if o.failed != nil {
			if t.failed++; t.failed <= mostShown {
				o.print(out)
			} else {
				fmt.Fprintf(out, "seed %d failed: %v\n", o.seed, o.failed)
			}
		}
	}
	t.took = time.Since(began)
	return t
}

// print shows a failure: what was wrong, what led there, and how to see it again.
func (o *outcome) print(out io.Writer) {
	for _, line := range o.tail {
		fmt.Fprintln(out, line)
	}
	if o.stack != "" {
		fmt.Fprintln(out, o.stack)
	}
	fmt.Fprintf(out, "seed %d failed: %v\nagain: make sim SEEDS=1 SEED=%d\n\n", o.seed, o.failed, o.seed)
}

func (c *counts) add(o counts) {
	into, from := reflect.ValueOf(c).Elem(), reflect.ValueOf(o)
	for i := range into.NumField() {
		into.Field(i).SetInt(into.Field(i).Int() + from.Field(i).Int())
	}
}

// print shows what was played, as a table, and the last line that scripts read.
func (t *total) print(out io.Writer) {
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	values := reflect.ValueOf(t.counts)
	for i := range values.NumField() {
		fmt.Fprintf(table, "%s\t%d\n", words[values.Type().Field(i).Name], values.Field(i).Int())
	}
	fmt.Fprintf(table, "seeds a second\t%.1f\n", float64(t.seeds)/t.took.Seconds())
	table.Flush()
	fmt.Fprintf(out, "sim: %d seeds, %d steps, %d failed\n", t.seeds, t.steps, t.failed)
}

// words name the counts.
var words = map[string]string{
	"Acknowledged": "commands acknowledged",
	"Elections":    "leaders elected",
	"Kills":        "processes killed",
	"Losses":       "writers' disks lost",
	"Epochs":       "restores from a backup",
	"Forged":       "messages forged or altered",
	"Dropped":      "messages lost",
	"Snapshots":    "snapshots taken by edges",
	"Damaged":      "replicas given up as damaged",
	"Checks":       "states and answers checked",
}
