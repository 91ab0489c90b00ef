// Command latchkey-dev runs a whole Latchkey on one machine. What it does is in package system.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/latchkey/latchkey/deploy/system"
)

func main() {
	config := system.Config{Out: os.Stdout}
	demo := false
	started := false // the arguments were understood
	cmd := &cobra.Command{
		Use:           "latchkey-dev",
		Short:         "Run a whole Latchkey on this machine: every writer and every edge a process of its own on loopback.",
		Example:       "  latchkey-dev --writers 1 --edges 1\n  latchkey-dev --dir /tmp/try --port 9000\n  latchkey-dev --demo",
		Args:          cobra.NoArgs,
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			started = true
			self, err := os.Executable()
			if err != nil {
				return fmt.Errorf("find the programs beside this one: %w", err)
			}
			config.Programs = filepath.Dir(self)
			if demo {
				return system.Demo(cmd.Context(), config)
			}
			return system.Run(cmd.Context(), config)
		},
	}
	cmd.Flags().StringVar(&config.Dir, "dir", ".latchkey-dev", "folder for keys, configuration, data and logs; a second start goes on with it")
	cmd.Flags().IntVar(&config.Port, "port", 8400, "first of the 100 ports that may be used")
	cmd.Flags().IntVar(&config.Writers, "writers", 3, "number of writers")
	cmd.Flags().IntVar(&config.Edges, "edges", 2, "number of edges")
	cmd.Flags().BoolVar(&config.TLS, "tls", false, "mutual TLS between the nodes, with an authority and certificates of this folder's own")
	cmd.Flags().BoolVar(&config.Storesim, "storesim", false, "the seven providers simulated too: latchkey-storesim drives them")
	cmd.Flags().BoolVar(&demo, "demo", false, "play the main job once, print each step, stop everything; exit 0 only if every step held")

	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := cmd.ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "latchkey-dev:", err)
		if !started || errors.Is(err, system.ErrUsage) {
			os.Exit(2)
		}
		os.Exit(1)
	}
}
