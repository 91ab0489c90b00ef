package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/latchkey/latchkey/pkg/config"
	"github.com/latchkey/latchkey/writer"
	"github.com/latchkey/latchkey/writer/internal/store"
)

// errDamaged means that what was checked is not what was written: exit code 1.
var errDamaged = errors.New("damaged")

// progressEvery is how often a long command says how far it is.
const progressEvery = 2 * time.Second

// progress tells the operator now and then how far a long command is.
func progress(w io.Writer, what string) store.Progress {
	last := time.Now()
	return func(done, total int64) {
		if now := time.Now(); now.Sub(last) >= progressEvery {
			last = now
			fmt.Fprintf(w, "%s: %d of %d MiB\n", what, done>>20, total>>20)
		}
	}
}

func printContents(w io.Writer, c store.Contents) {
	fmt.Fprintf(w, "cluster %s, revision %s, state hash %s, full hash %s\nwritten up to %s, %d sealed journal segments, journal of %d bytes\n",
		c.Cluster, c.Position.Revision(), c.Position.StateHash, c.FullHash, time.Unix(c.Stamp, 0).UTC().Format(time.RFC3339), c.Segments, c.JournalBytes)
}

func backupCommand() *cobra.Command {
	local := false
	cmd := &cobra.Command{
		Use:   "backup FILE",
		Short: "Write everything that the running writer on this machine holds into a new file, and prove it.",
		Long: "Write state and journal of the running writer into one file, which is then read back: every hash is recomputed. What was acknowledged\n" +
			"before the command began is in it. There are no private keys in it: keep those as you keep any private key. With - as FILE it goes to\n" +
			"standard output and is not read back; check it with fsck where it ends up.",
		Example: "  latchkey-writer backup --config writer.yaml /backups/latchkey-2026-11-22",
		Args:    cobra.ExactArgs(1),
	}
	cmd.Flags().BoolVar(&local, "local", false, "as this writer has it, although no leader says whether that is all")
	reach := operator(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		op, err := reach()
		if err != nil {
			return err
		}
		say := cmd.ErrOrStderr()
		if args[0] == "-" {
			return op.StreamBackup(cmd.Context(), cmd.OutOrStdout(), local, progress(say, "written"))
		}
		contents, err := op.Backup(cmd.Context(), args[0], local, progress(say, "written"), progress(say, "read back"))
		if err != nil {
			return err
		}
		printContents(cmd.OutOrStdout(), contents)
		return nil
	}
	return cmd
}

func restoreCommand() *cobra.Command {
	var file, from string
	alone := false
	cmd := &cobra.Command{
		Use:   "restore [FILE]",
		Short: "Found a new history of the cluster from a backup, or from what is left of a lost majority.",
		Long: "Fill the empty data folder of the configuration from a backup. Do the same with the same file on every voter, then start them: the first\n" +
			"leader begins a new epoch, and nothing is answered before. With --from-data-dir the source is the data folder of a writer that does not\n" +
			"run: it becomes the only voter, with everything that is in its log. Nothing is ever overwritten.",
		Example: "  latchkey-writer restore --config writer.yaml /backups/latchkey-2026-11-22\n" +
			"  mv /var/lib/latchkey /var/lib/latchkey.lost && latchkey-writer restore --config writer.yaml --from-data-dir /var/lib/latchkey.lost",
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if (len(args) == 1) == (from != "") {
				return fmt.Errorf("%w: a backup's FILE or --from-data-dir?", errUsage)
			}
			var cfg writer.Config
			if err := config.Load(file, &cfg); err != nil {
				return fmt.Errorf("configuration:\n%w", err)
			}
			if err := cfg.Validate(); err != nil {
				return fmt.Errorf("configuration:\n%w", err)
			}
			into := cfg.RestoreConfig(alone || from != "")
			into.Progress = progress(cmd.ErrOrStderr(), "read")
			var contents store.Contents
			var err error
			if from != "" {
				contents, err = store.RestoreNode(cmd.Context(), into, from)
			} else {
				contents, err = store.Restore(cmd.Context(), into, args[0])
			}
			if err != nil {
				return err
			}
			out := cmd.OutOrStdout()
			printContents(out, contents)
			for _, n := range contents.Missing {
				fmt.Fprintf(out, "missing or damaged in the old folder: journal segment %d, which holds old events and no state\n", n)
			}
			if contents.LostEntries > 0 {
				fmt.Fprintf(out, "the old folder's disk has lost the last %d entries of its log\n", contents.LostEntries)
			}
			for _, v := range into.Voters {
				fmt.Fprintf(out, "voter %s at %s\n", v.ID, v.Addr)
			}
			return nil
		},
	}
	configFlag(cmd, &file)
	cmd.Flags().StringVar(&from, "from-data-dir", "", "the data folder of a writer that does not run, instead of FILE; it is only read")
	cmd.Flags().BoolVar(&alone, "alone", false, "make this writer the only voter, to be joined by others; --from-data-dir does so anyway")
	return cmd
}

// offline adds the flags that say whose data folder is meant, and returns what finds it.
func offline(cmd *cobra.Command) func() (string, error) {
	var file, dir string
	cmd.Flags().StringVar(&file, "config", "", "the writer's configuration file")
	cmd.Flags().StringVar(&dir, "data-dir", "", "the writer's data folder, instead of --config")
	cmd.MarkFlagsMutuallyExclusive("config", "data-dir")
	return func() (string, error) {
		if file == "" {
			return dir, nil
		}
		var cfg writer.Config
		if err := config.Load(file, &cfg); err != nil {
			return "", fmt.Errorf("configuration:\n%w", err)
		}
		return cfg.Node.DataDir, nil
	}
}

func fsckCommand() *cobra.Command {
	asJSON := false
	cmd := &cobra.Command{
		Use:   "fsck [FILE]",
		Short: "Check the data folder of a writer that does not run, or a backup.",
		Long: "Recompute every hash and checksum of a data folder: state file, snapshots, change log, journal, Raft's log. With FILE: of a backup. Nothing is\n" +
			"changed; a copy of the state is unpacked beside it meanwhile. Ends with 1 if anything is damaged.",
		Example: "  latchkey-writer fsck --config writer.yaml\n  latchkey-writer fsck /backups/latchkey-2026-11-22",
		Args:    cobra.MaximumNArgs(1),
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "as JSON")
	find := offline(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		dir, err := find()
		if err != nil {
			return err
		}
		if (len(args) == 1) == (dir != "") {
			return fmt.Errorf("%w: a backup's FILE, --config or --data-dir?", errUsage)
		}
		say := progress(cmd.ErrOrStderr(), "checked")
		if dir == "" {
			return checkBackup(cmd, args[0], say, asJSON)
		}
		out := cmd.OutOrStdout()
		found := func(f store.Finding) { fmt.Fprintf(out, "%-8s %s: %s\n", verdict(f.OK), f.Part, f.Detail) }
		if asJSON {
			found = nil
		}
		report, err := store.Fsck(cmd.Context(), dir, say, found)
		if err != nil {
			return err
		}
		if asJSON {
			if err := printJSON(out, report); err != nil {
				return err
			}
		} else {
			for _, note := range report.Notes {
				fmt.Fprintf(out, "%-8s %s\n", "note", note)
			}
		}
		if report.Damaged > 0 {
			return fmt.Errorf("%s: %d of %d parts %w", dir, report.Damaged, len(report.Findings), errDamaged)
		}
		return nil
	}
	return cmd
}

func verdict(ok bool) string {
	if ok {
		return "ok"
	}
	return "DAMAGED"
}

func checkBackup(cmd *cobra.Command, path string, say store.Progress, asJSON bool) error {
	contents, err := store.VerifyBackup(cmd.Context(), path, say)
	if err != nil {
		return err
	}
	if asJSON {
		return printJSON(cmd.OutOrStdout(), store.Report{Findings: []store.Finding{{Part: filepath.Base(path), OK: true,
			Detail: fmt.Sprintf("revision %s, state hash %s, full hash %s", contents.Position.Revision(), contents.Position.StateHash, contents.FullHash)}}, Notes: []string{}})
	}
	printContents(cmd.OutOrStdout(), contents)
	return nil
}

func replayCommand() *cobra.Command {
	into := ""
	cmd := &cobra.Command{
		Use:   "replay",
		Short: "Fold the journal through this program into a new state, and compare it with the writer's own.",
		Long: "Everything that ever happened is applied again by this program's code. The state hash and the full hash that come out must be those of the\n" +
			"data folder. Ends with 1 if they are not.",
		Example: "  latchkey-writer replay --config writer.yaml",
		Args:    cobra.NoArgs,
	}
	cmd.Flags().StringVar(&into, "into", "", "an empty folder that keeps the new state; without this it is made beside the data folder and removed")
	find := offline(cmd)
	cmd.MarkFlagsOneRequired("config", "data-dir")
	cmd.RunE = func(cmd *cobra.Command, _ []string) (err error) {
		dir, err := find()
		if err != nil {
			return err
		}
		if into == "" {
			if into, err = os.MkdirTemp(filepath.Dir(filepath.Clean(dir)), "replay-*.tmp"); err != nil {
				return err
			}
			defer func() { err = errors.Join(err, os.RemoveAll(into)) }()
		} else if files, err := os.ReadDir(into); err == nil && len(files) > 0 {
			return fmt.Errorf("%w: %s", store.ErrNotEmpty, into)
		}
		done, err := store.Replay(cmd.Context(), store.ReplayConfig{Dir: dir, Into: into, Progress: progress(cmd.ErrOrStderr(), "replayed")})
		if err != nil {
			return err
		}
		out := cmd.OutOrStdout()
		fmt.Fprintf(out, "%d commands lead to revision %s, state hash %s, full hash %s\n", done.Entries, done.Position.Revision(), done.Position.StateHash, done.FullHash)
		if done.Against == "" {
			return fmt.Errorf("%s holds no sound state to compare with", dir)
		}
		for _, c := range []struct {
			name     string
			contents store.Contents
		}{{done.Against, done.Want}, {"journal", done.Got}} {
			fmt.Fprintf(out, "%s at revision %s: state hash %s, full hash %s\n", c.name, c.contents.Position.Revision(), c.contents.Position.StateHash, c.contents.FullHash)
		}
		if !done.Agrees() {
			return fmt.Errorf("the journal does not lead to the state: %w", errDamaged)
		}
		fmt.Fprintln(out, "they agree")
		return nil
	}
	return cmd
}
