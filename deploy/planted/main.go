// Command planted shows that the checkers can fail: it builds the programs and tests with the tag "faults", plants one known fault after the
// other, and runs the checker that must find it. Before that each checker must pass without a fault: `make planted`.
//
// The faults are in table.go; what they break is in the code, at fault.Planted(name). How a checker is run is in check.go. Start at run.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
)

func main() {
	only := flag.String("only", "", "these faults alone, by name, separated by commas")
	list := flag.Bool("list", false, "print the faults and their checkers, and run nothing")
	verbose := flag.Bool("v", false, "print what each checker said")
	flag.Parse()
	chosen := faults
	if *only != "" {
		names := strings.Split(*only, ",")
		chosen = slices.DeleteFunc(slices.Clone(faults), func(f plantedFault) bool { return !slices.Contains(names, f.name) })
	}
	switch {
	case flag.NArg() > 0 || len(chosen) == 0:
		flag.Usage()
		os.Exit(2)
	case *list:
		for _, f := range chosen {
			for _, c := range f.by {
				fmt.Printf("%-24s %s\n%24s caught by %s\n", f.name, f.what, "", c.name)
			}
		}
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	said := io.Discard
	if *verbose {
		said = os.Stderr
	}
	caught, err := run(ctx, chosen, os.Stdout, said)
	if err != nil {
		fmt.Fprintln(os.Stderr, "planted:", err)
	}
	if err != nil || !caught {
		os.Exit(1)
	}
}
