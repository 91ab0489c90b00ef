// Command truth plays random histories of customers over all seven providers, as the simulated providers tell of them, through Latchkey's adapters and
// state machine, and holds the result against an oracle that reads the simulator's own ledger. Messages come late, twice, in any order, or never, and
// what was lost is pulled. Start at stage.play.
//
// With -users it lets a crowd live through one year of virtual time instead, before a real writer and a real edge, over HTTP. Start at playYear.
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
	users := flag.Int("users", 0, "how many live through a year, instead")
	instants := flag.Int("instants", 1000, "at how many instants of the year they are looked at")
	flag.Parse()
	if flag.NArg() > 0 || *histories < 1 || *workers < 1 || *users < 0 || *instants < 1 {
		flag.Usage()
		os.Exit(2)
	}
	debug.SetGCPercent(gcPercent)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	var failed int64
	var err error
	if *users > 0 {
		var year yearResult
		year, err = playYear(ctx, os.Stdout, yearConfig{users: *users, instants: *instants, seed: *first, show: *show, chaos: yearChaos})
		failed = int64(year.wrong + year.lost)
	} else {
		failed, err = playAll(ctx, os.Stdout, *first, *histories, *workers, *show)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	if failed > 0 {
		os.Exit(1)
	}
}
