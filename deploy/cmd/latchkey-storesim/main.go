// Command latchkey-storesim simulates the seven payment providers under one virtual clock. What it does is in package storesim.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/latchkey/latchkey/deploy/storesim"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	os.Exit(storesim.Run(ctx, os.Stdout, os.Stderr, os.Args[1:]))
}
