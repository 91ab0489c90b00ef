// Command latchkey-bench puts load on a running system. What it does is in package load.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/latchkey/latchkey/edge/cmd/latchkey-bench/load"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := load.Command().ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "latchkey-bench:", err)
		if errors.Is(err, load.ErrFailed) {
			os.Exit(1)
		}
		os.Exit(2)
	}
}
