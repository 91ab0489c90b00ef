// Command latchkey-storesim simulates the seven payment providers under one virtual clock. What it does is in package storesim.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/latchkey/latchkey/deploy/storesim"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := storesim.Command(os.Stdout).ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "latchkey-storesim:", err)
		if usage := err.Error(); strings.HasPrefix(usage, "unknown ") || strings.HasPrefix(usage, "accepts ") || strings.HasPrefix(usage, "invalid argument") {
			os.Exit(2)
		}
		os.Exit(1)
	}
}
