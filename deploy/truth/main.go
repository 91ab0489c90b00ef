// Command truth plays random histories of customers over all seven providers, as the simulated providers tell of them, through Latchkey's adapters and
// state machine, and holds the result against an oracle that reads the simulator's own ledger. Messages come late, twice, in any order, or never, and
// what was lost is pulled. Start at stage.play.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
)

// gcPercent trades memory, of which a history needs little, for time.
const gcPercent = 400

func main() {
	histories := flag.Int("histories", 10_000, "how many to play")
	first := flag.Uint64("seed", 1, "the first one")
	show := flag.Int("show", 3, "how many of those that are wrong are shown")
	workers := flag.Int("workers", runtime.GOMAXPROCS(0), "how many at a time")
	flag.Parse()
	if flag.NArg() > 0 || *histories < 1 || *workers < 1 {
		flag.Usage()
		os.Exit(2)
	}
	debug.SetGCPercent(gcPercent)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	failed, err := playAll(ctx, os.Stdout, *first, *histories, *workers, *show)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	if failed > 0 {
		os.Exit(1)
	}
}
