package main

import (
	"context"
	"fmt"
	"io"
	"time"
)

// run plants each fault, has its checkers run, and says what came of it. said gets everything that they print.
func run(ctx context.Context, chosen []plantedFault, out, said io.Writer) (caught bool, err error) {
	b := &bench{said: said}
	if err := b.build(ctx, chosen); err != nil {
		return false, err
	}
	defer b.remove()
	caught = true
	controlled := map[string]bool{}
	for _, f := range chosen {
		for _, c := range f.by {
			if key := c.key(); !controlled[key] {
				controlled[key] = true
				if text, err := b.passes(ctx, c); err != nil {
					fmt.Fprintf(out, "control: %s fails without a fault: %v\n%s\n", c.name, err, end(text))
					caught = false
					continue
				}
			}
			began := time.Now()
			if text, err := b.catches(ctx, f.name, c); err != nil {
				fmt.Fprintf(out, "planted: %s NOT caught by %s: %v\n%s\n", f.name, c.name, err, end(text))
				caught = false
				continue
			}
			fmt.Fprintf(out, "planted: %s caught by %s (%.1f s)\n", f.name, c.name, time.Since(began).Seconds())
		}
	}
	return caught, ctx.Err()
}
