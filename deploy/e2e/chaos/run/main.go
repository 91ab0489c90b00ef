// Command run breaks a whole Latchkey in every way that it knows, for a while, and says what became of it: `make chaos`.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/latchkey/latchkey/deploy/e2e/chaos"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	config := chaos.Config{Out: os.Stdout}
	var only, plant string
	cmd := &cobra.Command{
		Use: "chaos", Short: "Inject faults into real processes and judge what was answered.", Args: cobra.NoArgs, SilenceUsage: true, SilenceErrors: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if only != "" {
				config.Only = strings.Split(only, ",")
			}
			if plant != "" {
				config.Plant = strings.Split(plant, ",")
			}
			return run(cmd.Context(), config)
		},
	}
	cmd.Flags().DurationVar(&config.For, "for", 5*time.Minute, "for how long faults are injected")
	cmd.Flags().Uint64Var(&config.Seed, "seed", uint64(time.Now().Unix()), "decides the faults and their order; default: the time")
	cmd.Flags().StringVar(&config.Programs, "programs", "bin/faults", "folder of the programs, built with -tags faults")
	cmd.Flags().StringVar(&config.Dir, "dir", "", "keep the nodes' folders and logs here; default: a folder that is removed unless something was wrong")
	cmd.Flags().StringVar(&only, "only", "", "these faults alone, by name, separated by commas")
	cmd.Flags().StringVar(&plant, "plant", "", "faults that every node carries, by name, separated by commas: the run must find them")
	if err := cmd.ExecuteContext(ctx); err != nil {
		if !errors.Is(err, chaos.ErrWrong) { // the table has said it
			fmt.Fprintln(os.Stderr, "chaos:", err)
		}
		os.Exit(1)
	}
}

func run(ctx context.Context, config chaos.Config) (err error) {
	if config.Programs, err = filepath.Abs(config.Programs); err != nil {
		return err
	}
	if config.Dir == "" {
		if config.Dir, err = os.MkdirTemp("", "latchkey-chaos-"); err != nil {
			return err
		}
		defer func() {
			if err == nil {
				err = os.RemoveAll(config.Dir)
			}
		}()
	}
	_, err = chaos.Run(ctx, config)
	return err
}
