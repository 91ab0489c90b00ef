package main

import (
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/latchkey/latchkey/pkg/mutual"
	"github.com/latchkey/latchkey/writer"
)

// required marks flags that are declared as required.
func required(cmd *cobra.Command, flags ...string) {
	for _, flag := range flags {
		if err := cmd.MarkFlagRequired(flag); err != nil {
			panic(err) // the caller declared it
		}
	}
}

func keysIssuerCommand() *cobra.Command {
	var dir, root, cluster string
	cmd := &cobra.Command{
		Use:   "issuer --root FILE --cluster ID --dir DIR",
		Short: "Make the next issuing key and its certificate, offline.",
		Long: "Make an issuing key certified by a root key for 400 days. It takes the place of the present one, writer by writer, each with a restart; both\n" +
			"count meanwhile. The root's private key is read from FILE, where it is kept offline.",
		Example: "  latchkey-writer keys issuer --root /media/safe/root.key.pem --cluster 01JD0000000000000000000000 --dir next",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			until, err := writer.MakeIssuer(dir, root, cluster)
			if err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "issuer.key.pem and issuer.cert in %s count until %s. Give both to every writer, and restart one after the other.\n", dir, until.UTC().Format(time.RFC3339))
			return nil
		},
	}
	cmd.Flags().StringVar(&root, "root", "", "the root's private key: root.key.pem or root-spare.key.pem")
	cmd.Flags().StringVar(&cluster, "cluster", "", "the cluster's id, node.cluster of every node")
	cmd.Flags().StringVar(&dir, "dir", "", "folder for the two files; existing ones are never overwritten")
	required(cmd, "root", "cluster", "dir")
	return cmd
}

func keysCACommand() *cobra.Command {
	var dir, name string
	cmd := &cobra.Command{
		Use:   "ca --dir DIR",
		Short: "Make the authority that certifies nodes to one another, for mutual TLS.",
		Long: "Make ca.key.pem, which certifies nodes and belongs on none of them, and ca.pem, which every node believes (tls.ca_file), for ten years. An installation\n" +
			"that has an authority of its own needs none of this.",
		Example: "  latchkey-writer keys ca --dir ca",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := mutual.MakeAuthority(dir, name, time.Now()); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s is tls.ca_file of every node. Keep %s off the nodes.\n",
				filepath.Join(dir, mutual.AuthorityCertFile), filepath.Join(dir, mutual.AuthorityKeyFile))
			return nil
		},
	}
	cmd.Flags().StringVar(&dir, "dir", "", "folder for the two files; existing ones are never overwritten")
	cmd.Flags().StringVar(&name, "name", "Latchkey nodes", "the authority's name, for people")
	required(cmd, "dir")
	return cmd
}

// defaultNodeDays is how long a node's certificate counts where nobody says otherwise: long enough to be renewed by hand, four times a year.
const defaultNodeDays = 90

func keysNodeCommand() *cobra.Command {
	var ca, dir, id, role string
	var days int
	cmd := &cobra.Command{
		Use:     "node --ca DIR --dir DIR --id ID --role ROLE",
		Short:   "Make a node's key and certificate for mutual TLS, or the next ones.",
		Example: "  latchkey-writer keys node --ca ca --dir w1 --id w1 --role writer\n  latchkey-writer keys node --ca ca --dir next --id e1 --role edge --days 30",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !mutual.Role(role).Valid() {
				return fmt.Errorf("%w: --role is %q, want writer, edge or nats", errUsage, role)
			}
			if most := int(mutual.MaxNodeLife / (24 * time.Hour)); days < 1 || days > most {
				return fmt.Errorf("%w: --days is %d, want 1 to %d", errUsage, days, most)
			}
			err := mutual.MakeNode(ca, dir, mutual.Peer{Node: id, Role: mutual.Role(role)}, time.Duration(days)*24*time.Hour, time.Now())
			if errors.Is(err, mutual.ErrExists) {
				return fmt.Errorf("%w: make the next ones in another --dir, then move them over", err)
			}
			if err != nil {
				return err
			}
			cert, key := mutual.NodeFiles(id)
			fmt.Fprintf(cmd.OutOrStdout(), "%s is tls.cert_file and %s tls.key_file of %s.\n", filepath.Join(dir, cert), filepath.Join(dir, key), id)
			return nil
		},
	}
	cmd.Flags().StringVar(&ca, "ca", "", "folder of the authority, as keys ca made it")
	cmd.Flags().StringVar(&dir, "dir", "", "folder for the two files; existing ones are never overwritten")
	cmd.Flags().StringVar(&id, "id", "", "the node's node.id")
	cmd.Flags().StringVar(&role, "role", "", "writer, edge, or nats for a NATS server of yours")
	cmd.Flags().IntVar(&days, "days", defaultNodeDays, "how long the certificate counts")
	required(cmd, "ca", "dir", "id", "role")
	return cmd
}
