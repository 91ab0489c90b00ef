package main

import (
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/latchkey/latchkey/writer"
)

// joinInterval is how often join looks how far the writer is.
const joinInterval = 500 * time.Millisecond

func joinCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "join",
		Short: "Have the writer on this machine taken into its cluster, and wait until it votes.",
		Long: "Have the writer on this machine taken into its cluster, and wait until it votes. It runs already, with a new node.id, an empty data folder, and\n" +
			"the present writers in cluster.voters, itself not among them. It gets everything as a non-voter first, and a vote when it has kept up for\n" +
			"10 s. Interrupting this command changes nothing: the cluster goes on, and calling it again shows how far it is.",
		Example: "  latchkey-writer join --config writer.yaml",
		Args:    cobra.NoArgs,
	}
	reach := operator(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		op, err := reach()
		if err != nil {
			return err
		}
		said := ""
		for {
			p, err := op.Join(cmd.Context())
			if err != nil {
				return err
			}
			if text := joinText(p); text != said {
				said = text
				fmt.Fprintln(cmd.OutOrStdout(), text)
			}
			if p.Suffrage == "voter" {
				return nil
			}
			select {
			case <-cmd.Context().Done():
				return fmt.Errorf("not a voter yet: %w", cmd.Context().Err())
			case <-time.After(joinInterval):
			}
		}
	}
	return cmd
}

// joinText says in words how far a writer is.
func joinText(p writer.JoinProgress) string {
	switch {
	case p.Suffrage == "voter":
		return "votes"
	case p.Suffrage == "":
		return "asked to be taken in"
	case p.LeaderIndex == 0:
		return "non-voter, waits for the log"
	case p.AppliedIndex < p.LeaderIndex:
		return fmt.Sprintf("non-voter, has %d of %d log entries", p.AppliedIndex, p.LeaderIndex)
	case p.MissingSegments > 0:
		return fmt.Sprintf("non-voter, %d journal segments are missing", p.MissingSegments)
	}
	return "non-voter, has everything: votes when it has kept up for 10 s"
}

func removeCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "remove ID",
		Short: "Remove a writer from the cluster, for ever.",
		Long: "Remove a writer from the cluster, for ever: its id is used up, and it stops by itself when it notices. Any writer can be asked. Refused is what\n" +
			"would leave no majority of voters that answer; a writer that does not answer itself can always be removed.",
		Example: "  latchkey-writer remove w2 --config writer.yaml",
		Args:    cobra.ExactArgs(1),
	}
	reach := operator(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		op, err := reach()
		if err != nil {
			return err
		}
		if err := op.Remove(cmd.Context(), args[0]); err != nil {
			return err
		}
		fmt.Fprintf(cmd.OutOrStdout(), "%s is removed\n", args[0])
		return nil
	}
	return cmd
}

func transferCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "transfer [ID]",
		Short:   "Hand leadership from the writer on this machine to another one: to ID, or to the most advanced.",
		Example: "  latchkey-writer transfer --config writer.yaml\n  latchkey-writer transfer w2 --config writer.yaml",
		Args:    cobra.MaximumNArgs(1),
	}
	reach := operator(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		op, err := reach()
		if err != nil {
			return err
		}
		to := ""
		if len(args) == 1 {
			to = args[0]
		}
		return op.Transfer(cmd.Context(), to)
	}
	return cmd
}

func statusCommand() *cobra.Command {
	asJSON := false
	cmd := &cobra.Command{
		Use:     "status",
		Short:   "Show what the writer on this machine says of itself, of its cluster and of the edges.",
		Example: "  latchkey-writer status --config writer.yaml\n  latchkey-writer status --data-dir /var/lib/latchkey --json",
		Args:    cobra.NoArgs,
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "as JSON")
	reach := operator(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		op, err := reach()
		if err != nil {
			return err
		}
		s, err := op.Status(cmd.Context())
		if err != nil {
			return err
		}
		if asJSON {
			return printJSON(cmd.OutOrStdout(), s)
		}
		return printStatus(cmd.OutOrStdout(), s)
	}
	return cmd
}

func printStatus(w io.Writer, s writer.Status) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "node\t%s of %s, %s\nrole\t%s, ready: %t\nleader\t%s\nrevision\t%d-%d, rules %d\nas of\t%s\nstate hash\t%s\nfull hash\t%s at index %d\n",
		s.Node, s.Cluster, s.Version, s.Role, s.Ready, orNone(s.Leader), s.Epoch, s.Revision, s.Rules, orNever(s.AsOf), s.StateHash, s.FullHash, s.AppliedIndex)
	for _, reason := range s.Reasons {
		fmt.Fprintf(t, "not ready\t%s\n", reason)
	}
	for _, alarm := range s.Alarms {
		fmt.Fprintf(t, "look at\t%s\n", alarm)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	t = tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "\nMEMBER\tSUFFRAGE\tREADY\tTERM\tCOMMIT\tAPPLIED\tLAST\tLAG\tSEGMENTS\tDISK FREE\tDISK USED\tCLOCK\tRULES\tINTERNAL")
	for _, m := range s.Members {
		name := m.ID
		if m.Leader {
			name += " (leader)"
		}
		state := m.State
		if state == nil {
			fmt.Fprintf(t, "%s\t%s\tno answer\t\t\t\t\t\t\t\t\t\t\t%s\n", name, orNone(m.Suffrage), m.Internal)
			continue
		}
		segments := "all"
		if state.MissingSegments > 0 {
			segments = fmt.Sprintf("%d missing", state.MissingSegments)
		}
		clock := "?"
		if o := state.ClockOffsetSeconds; o != nil {
			clock = fmt.Sprintf("%+.3f s", *o)
		}
		fmt.Fprintf(t, "%s\t%s\t%t\t%d\t%d\t%d\t%d\t%d\t%s\t%s\t%s\t%s\t%d\t%s\n", name, orNone(m.Suffrage), state.Ready, state.Term, state.CommitIndex, state.AppliedIndex,
			state.LastIndex, state.Lag, segments, bytesText(state.DiskFreeBytes), bytesText(state.DiskUsedBytes), clock, state.RulesKnown, m.Internal)
	}
	if len(s.Edges) > 0 {
		fmt.Fprintln(t, "\nEDGE\tREVISION\tLAG\tLAST SEEN")
	}
	for _, e := range s.Edges {
		lag := "?"
		if e.Lag != nil {
			lag = fmt.Sprint(*e.Lag)
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\n", e.ID, orNone(e.Revision), lag, e.LastSeen)
	}
	return t.Flush()
}

// bytesText is a size for people, in units of 1024.
func bytesText(n int64) string {
	size, unit := float64(n), 0
	for units := []string{"B", "KiB", "MiB", "GiB", "TiB"}; ; unit++ {
		if size < 1024 || unit == len(units)-1 {
			return fmt.Sprintf("%.3g %s", size, units[unit])
		}
		size /= 1024
	}
}

func orNone(s string) string {
	if s == "" {
		return "none"
	}
	return s
}

func orNever(s *string) string {
	if s == nil {
		return "never"
	}
	return *s
}
