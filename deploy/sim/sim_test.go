package main

import (
	"bytes"
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"
)

func scratchDir(t *testing.T) string {
	t.Helper()
	dir, err := scratch()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// TestNothingGoesWrong plays a few of the histories that `make sim` plays many of.
func TestNothingGoesWrong(t *testing.T) {
	const seeds = 200
	var out bytes.Buffer
	total := playAll(&out, scratchDir(t), 1, seeds, runtime.GOMAXPROCS(0), false)
	if total.failed > 0 {
		t.Errorf("%d of %d seeds failed:\n%s", total.failed, seeds, out.String())
	}
	// A history in which nothing happens shows nothing.
	c := total.counts
	for what, n := range map[string]int{"commands acknowledged": c.Acknowledged, "leaders elected": c.Elections, "processes killed": c.Kills, "disks lost": c.Losses,
		"restores": c.Epochs, "forgeries": c.Forged, "lost messages": c.Dropped, "snapshots": c.Snapshots, "damaged replicas": c.Damaged} {
		if n < seeds/20 {
			t.Errorf("only %d %s in %d seeds", n, what, seeds)
		}
	}
}

// TestTheSameSeedIsTheSameHistory: else a failure could not be seen again.
func TestTheSameSeedIsTheSameHistory(t *testing.T) {
	traces := func(procs, workers int) string {
		defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(procs))
		var out bytes.Buffer
		playAll(&out, scratchDir(t), 500, 12, workers, true)
		return sorted(out.String())
	}
	alone, together := traces(1, 1), traces(4, 6)
	if alone != together {
		t.Errorf("one at a time on one processor:\n%ssix at a time on four:\n%s", alone, together)
	}
	if strings.Count(alone, "trace") != 12 {
		t.Errorf("traces: %s", alone)
	}
}

func sorted(text string) string {
	var lines []string
	for seed := 500; seed < 512; seed++ {
		for line := range strings.Lines(text) {
			if strings.HasPrefix(line, fmt.Sprintf("seed %d ", seed)) {
				lines = append(lines, line)
			}
		}
	}
	return strings.Join(lines, "")
}

// TestAFailureSaysHowToSeeItAgain: the invariant, what led there, and the command.
func TestAFailureSaysHowToSeeItAgain(t *testing.T) {
	w := &world{trace: trace{}}
	o := outcome{seed: 7, failed: &violation{"I6", "e1 holds something else"}, tail: []string{"    1.000 e1 starts at 0-0"}}
	func() {
		defer func() {
			if v, ok := recover().(*violation); !ok || v.Error() != o.failed.Error() {
				t.Errorf("wrong panics with %v", v)
			}
		}()
		w.wrong("I6", "%s holds something else", "e1")
	}()
	var out bytes.Buffer
	o.print(&out)
	for _, want := range []string{"e1 starts at 0-0", "seed 7 failed: I6: e1 holds something else", "make sim SEEDS=1 SEED=7"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is not in\n%s", want, out.String())
		}
	}
	total := total{seeds: 3, steps: 40, failed: 1, took: 1}
	out.Reset()
	total.print(&out)
	if !strings.HasSuffix(out.String(), "\nsim: 3 seeds, 40 steps, 1 failed\n") {
		t.Errorf("last line of\n%s", out.String())
	}
}
