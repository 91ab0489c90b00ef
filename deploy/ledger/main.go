// Command ledger plays random histories of credits before three state machines of real writers: purchases, consumptions that are repeated under their id, refunds
// and refunds that were taken back, receipts and restores of what is one's own, another's, nobody's or an erased account's, erasures, messages late, twice and in any order, under
// both policies of claw-back, while leaders die. After each step the balance must be that of a ledger which shares no code with them. Start at history.play.
package main

import (
	"flag"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
)

// gcPercent trades memory, of which a history needs little, for time.
const gcPercent = 400

func main() {
	operations := flag.Int("operations", 1_000_000, "how many in all")
	first := flag.Uint64("seed", 1, "of the first history")
	workers := flag.Int("workers", runtime.GOMAXPROCS(0), "how many histories at a time")
	flag.Parse()
	if flag.NArg() > 0 || *operations < 1 || *workers < 1 {
		flag.Usage()
		os.Exit(2)
	}
	debug.SetGCPercent(gcPercent)
	total, err := playAll(*operations, *first, *workers)
	total.print(os.Stdout)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
