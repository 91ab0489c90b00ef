package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"text/tabwriter"

	"github.com/oklog/ulid/v2"
	"github.com/spf13/cobra"

	"github.com/latchkey/latchkey/pkg/config"
	"github.com/latchkey/latchkey/pkg/entitlement"
	"github.com/latchkey/latchkey/writer"
)

func serveCommand() *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:     "serve --config FILE",
		Short:   "Run the writer until SIGINT or SIGTERM.",
		Example: "  latchkey-writer serve --config /etc/latchkey/writer.yaml",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var cfg writer.Config
			if err := config.Load(file, &cfg); err != nil {
				return fmt.Errorf("configuration:\n%w", err)
			}
			relaxGC()
			w, err := writer.Open(cfg)
			if err != nil {
				return err
			}
			return w.Run(cmd.Context())
		},
	}
	configFlag(cmd, &file)
	return cmd
}

func configFlag(cmd *cobra.Command, file *string) {
	cmd.Flags().StringVar(file, "config", "", "the writer's configuration file (YAML)")
	if err := cmd.MarkFlagRequired("config"); err != nil {
		panic(err) // the flag is declared one line above
	}
}

// operator adds the flags that say which running writer is meant, and returns what reaches it.
func operator(cmd *cobra.Command) func() (*writer.Operator, error) {
	var file, dir string
	cmd.Flags().StringVar(&file, "config", "", "the running writer's configuration file")
	cmd.Flags().StringVar(&dir, "data-dir", "", "the running writer's data folder, instead of --config")
	cmd.MarkFlagsOneRequired("config", "data-dir")
	cmd.MarkFlagsMutuallyExclusive("config", "data-dir")
	return func() (*writer.Operator, error) {
		if dir != "" {
			return writer.NewOperator(dir), nil
		}
		var cfg writer.Config
		if err := config.Load(file, &cfg); err != nil {
			return nil, fmt.Errorf("configuration:\n%w", err)
		}
		return writer.NewOperator(cfg.Node.DataDir), nil
	}
}

func printJSON(w io.Writer, v any) error {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(w, "%s\n", b)
	return err
}

func keysCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "keys",
		Short:   "Make the keys of a new cluster, the next issuing key, certificates for nodes; revoke lost keys; manage API keys.",
		Example: "  latchkey-writer keys init --dir keys\n  latchkey-writer keys api list --config writer.yaml",
		Args:    cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			return fmt.Errorf("%w: init, issuer, revoke, root-list, ca, node or api?", errUsage)
		},
	}
	cmd.AddCommand(keysInitCommand(), keysIssuerCommand(), keysRevokeCommand(), keysRootListCommand(), keysCACommand(), keysNodeCommand(), keysAPICommand())
	return cmd
}

func keysInitCommand() *cobra.Command {
	var dir, cluster string
	cmd := &cobra.Command{
		Use:   "init --dir DIR",
		Short: "Make roots, issuing key and session keys of a new cluster.",
		Long: "Make two root keys (active and spare), an issuing key certified by the active one for 400 days, and a session key for each\n" +
			"environment. Apps pin root.pub.pem and root-spare.pub.pem. Take root.key.pem and root-spare.key.pem offline: a writer needs neither.",
		Example: "  latchkey-writer keys init --dir keys\n  latchkey-writer keys init --dir keys --cluster my-app",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := writer.MakeKeys(dir, cluster, entitlement.Environments); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "cluster: %s\nPut it into node.cluster of every writer and edge, and take the two root*.key.pem in %s offline.\n", cluster, dir)
			return nil
		},
	}
	cmd.Flags().StringVar(&dir, "dir", "", "folder for the keys; existing ones are never overwritten")
	cmd.Flags().StringVar(&cluster, "cluster", ulid.Make().String(), "the cluster's id, for ever; one is made by lot without this")
	if err := cmd.MarkFlagRequired("dir"); err != nil {
		panic(err) // the flag is declared above
	}
	return cmd
}

func keysAPICommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "api",
		Short:   "Add, list and revoke keys of the server API.",
		Example: "  latchkey-writer keys api add --config writer.yaml --env production --name backend --scope sk",
		Args:    cobra.NoArgs,
		RunE:    func(*cobra.Command, []string) error { return fmt.Errorf("%w: add, list or revoke?", errUsage) },
	}
	cmd.AddCommand(keysAPIAddCommand(), keysAPIListCommand(), keysAPIRevokeCommand())
	return cmd
}

// keyFlags are those that name a key.
func keyFlags(cmd *cobra.Command, env, name *string) {
	cmd.Flags().StringVar(env, "env", "", "production or sandbox")
	cmd.Flags().StringVar(name, "name", "", "the key's name, as it is listed")
	for _, flag := range []string{"env", "name"} {
		if err := cmd.MarkFlagRequired(flag); err != nil {
			panic(err) // the flags are declared above
		}
	}
}

func checkEnvironment(env string) error {
	if !entitlement.Environment(env).Valid() {
		return fmt.Errorf("%w: --env is %q, want production or sandbox", errUsage, env)
	}
	return nil
}

func keysAPIAddCommand() *cobra.Command {
	var env, name, scope string
	cmd := &cobra.Command{
		Use:     "add",
		Short:   "Make a key and print it: it is shown this once and stored nowhere.",
		Example: "  latchkey-writer keys api add --config writer.yaml --env production --name backend --scope sk",
		Args:    cobra.NoArgs,
	}
	keyFlags(cmd, &env, &name)
	cmd.Flags().StringVar(&scope, "scope", "sk", "sk (everything), rk (read only), pk (publishable: an app begins sessions with it)")
	reach := operator(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := checkEnvironment(env); err != nil {
			return err
		}
		op, err := reach()
		if err != nil {
			return err
		}
		key, err := op.AddKey(cmd.Context(), entitlement.Environment(env), name, scope)
		if err != nil {
			return err
		}
		fmt.Fprintln(cmd.OutOrStdout(), key)
		return nil
	}
	return cmd
}

func keysAPIListCommand() *cobra.Command {
	asJSON := false
	cmd := &cobra.Command{
		Use:     "list",
		Short:   "List all API keys, revoked ones too. The keys themselves are stored nowhere.",
		Example: "  latchkey-writer keys api list --config writer.yaml",
		Args:    cobra.NoArgs,
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "as JSON")
	reach := operator(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		op, err := reach()
		if err != nil {
			return err
		}
		keys, err := op.Keys(cmd.Context())
		if err != nil {
			return err
		}
		if asJSON {
			return printJSON(cmd.OutOrStdout(), keys)
		}
		t := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
		fmt.Fprintln(t, "ENVIRONMENT\tNAME\tSCOPE\tCREATED\tLAST USED\tREVOKED")
		for _, k := range keys {
			fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\n", k.Environment, k.Name, k.Scope, k.CreatedAt, orDash(k.LastUsed), orDash(k.RevokedAt))
		}
		return t.Flush()
	}
	return cmd
}

func orDash(s *string) string {
	if s == nil {
		return "-"
	}
	return *s
}

func keysAPIRevokeCommand() *cobra.Command {
	var env, name string
	cmd := &cobra.Command{
		Use:     "revoke",
		Short:   "End every key of a name, on all writers at once and for ever.",
		Example: "  latchkey-writer keys api revoke --config writer.yaml --env production --name backend",
		Args:    cobra.NoArgs,
	}
	keyFlags(cmd, &env, &name)
	reach := operator(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := checkEnvironment(env); err != nil {
			return err
		}
		op, err := reach()
		if err != nil {
			return err
		}
		return op.RevokeKey(cmd.Context(), entitlement.Environment(env), name)
	}
	return cmd
}

func versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "version",
		Short:   "Print what was built.",
		Example: "  latchkey-writer version",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			fmt.Fprintln(cmd.OutOrStdout(), "latchkey-writer", writer.Version())
			return nil
		},
	}
}

// gcPercent lets the heap grow to five times what is live before it is collected. What is live is small, because the data lies in a
// mapped file, so that this costs some ten megabytes and saves a tenth of the processor.
const gcPercent = 400

// relaxGC sets gcPercent. GOGC goes before it.
func relaxGC() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
}
