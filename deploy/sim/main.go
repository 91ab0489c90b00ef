// Command sim plays random histories of a whole installation, writers, edges and what lies between them, in one process under virtual time, and
// checks after each step that nothing is wrong. The same seed is the same history. DESIGN.md says what is real in it and what is modelled.
// Start at simulate.
package main

import (
	"flag"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
)

// gcPercent trades memory, of which a world needs little, for time.
const gcPercent = 400

func main() {
	seeds := flag.Int("seeds", 1000, "how many histories to play")
	first := flag.Uint64("seed", 1, "the first one")
	workers := flag.Int("workers", runtime.GOMAXPROCS(0), "how many at a time")
	trace := flag.Bool("trace", false, "print the hash of each history")
	flag.Parse()
	if flag.NArg() > 0 || *seeds < 1 || *workers < 1 {
		flag.Usage()
		os.Exit(2)
	}
	debug.SetGCPercent(gcPercent)
	dir, err := scratch()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	total := playAll(os.Stdout, dir, *first, *seeds, *workers, *trace)
	if err := os.RemoveAll(dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	total.print(os.Stdout)
	if total.failed > 0 {
		os.Exit(1)
	}
}
