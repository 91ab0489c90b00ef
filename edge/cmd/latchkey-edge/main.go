// Command latchkey-edge runs an edge node, and checks grace tokens offline.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/latchkey/latchkey/edge"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], streams{os.Stdin, os.Stdout, os.Stderr}))
}

func rootCommand(s streams) *cobra.Command {
	root := &cobra.Command{
		Use:           "latchkey-edge",
		Short:         "Answer apps that ask what they may use, from a replica on this machine",
		SilenceErrors: true,
		SilenceUsage:  true,
		Example: `  latchkey-edge serve --config edge.yaml
  latchkey-edge status --config edge.yaml
  latchkey-edge verify --root root.pub.pem < token.txt`,
	}
	root.SetIn(s.in)
	root.SetOut(s.out)
	root.SetErr(s.err)
	root.AddCommand(serveCommand(), statusCommand(), verifyCommand(), &cobra.Command{
		Use: "version", Short: "Print the version", Args: cobra.NoArgs,
		Run: func(cmd *cobra.Command, _ []string) { fmt.Fprintln(cmd.OutOrStdout(), "latchkey-edge", edge.Version()) },
	})
	return root
}
