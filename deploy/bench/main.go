// Command bench takes the figures of README.md: `make bench`.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/latchkey/latchkey/deploy/bench/rival"
	"github.com/latchkey/latchkey/deploy/herd"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	var config config
	cmd := &cobra.Command{
		Use:           "bench",
		Short:         "Take the figures, print them as a table and keep them as JSON.",
		Args:          cobra.NoArgs,
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE:          func(cmd *cobra.Command, _ []string) error { return takeAll(cmd.Context(), config) },
	}
	cmd.Flags().StringVar(&config.only, "only", "", "take this one alone")
	cmd.Flags().StringVar(&config.programs, "programs", "bin", "folder of the built programs")
	cmd.Flags().StringVar(&config.results, "results", "deploy/bench/results", "folder for the JSON file")
	cmd.Flags().IntVar(&config.accounts, "accounts", 1_000_000, "accounts on the edge's disk for the figures named 1m; another number is for trying this program")
	cmd.AddCommand(&cobra.Command{Use: crowdCommand, Hidden: true, Args: cobra.NoArgs, RunE: func(*cobra.Command, []string) error { return herd.Serve(os.Stdin, os.Stdout) }})
	cmd.AddCommand(&cobra.Command{Use: rivalCommand, Hidden: true, Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error { return rival.Serve(cmd.Context(), os.Stdin, os.Stdout) }})
	if err := cmd.ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		if errors.Is(err, errUsage) {
			os.Exit(2)
		}
		os.Exit(1)
	}
}
