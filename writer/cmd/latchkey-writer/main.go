// Command latchkey-writer runs one writer, and is its operator's tool. What it does is in package writer.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
)

// errUsage means that the command line is wrong: exit code 2.
var errUsage = errors.New("wrong usage")

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, command(), os.Args[1:]))
}

// run returns the exit code: 0 done, 1 failed, 2 wrong usage.
func run(ctx context.Context, root *cobra.Command, args []string) int {
	root.SetArgs(args)
	understood := false // flags and arguments were; cobra calls a command's function only then
	noteUnderstood(root, &understood)
	err := root.ExecuteContext(ctx)
	switch {
	case err == nil:
		return 0
	case !understood || errors.Is(err, errUsage):
		fmt.Fprintf(root.ErrOrStderr(), "latchkey-writer: %v\nRun latchkey-writer --help.\n", err)
		return 2
	default:
		fmt.Fprintf(root.ErrOrStderr(), "latchkey-writer: %v\n", err)
		return 1
	}
}

func noteUnderstood(cmd *cobra.Command, understood *bool) {
	if f := cmd.RunE; f != nil {
		cmd.RunE = func(cmd *cobra.Command, args []string) error {
			*understood = true
			return f(cmd, args)
		}
	}
	for _, sub := range cmd.Commands() {
		noteUnderstood(sub, understood)
	}
}

func command() *cobra.Command {
	root := &cobra.Command{
		Use:   "latchkey-writer",
		Short: "One writer of a Latchkey cluster, and its operator's tool.",
		Example: "  latchkey-writer keys init --dir keys --cluster my-app\n" +
			"  latchkey-writer serve --config writer.yaml\n" +
			"  latchkey-writer status --config writer.yaml",
		SilenceUsage:  true,
		SilenceErrors: true,
		Args:          cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			return fmt.Errorf("%w: which command?", errUsage)
		},
	}
	root.CompletionOptions.DisableDefaultCmd = true
	root.AddCommand(serveCommand(), statusCommand(), keysCommand(), joinCommand(), removeCommand(), transferCommand(),
		backupCommand(), restoreCommand(), fsckCommand(), replayCommand(), importCommand(), webhookTestCommand(), versionCommand())
	return root
}
