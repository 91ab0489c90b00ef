package main

import (
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/latchkey/latchkey/writer"
)

func keysRevokeCommand() *cobra.Command {
	var list string
	cmd := &cobra.Command{
		Use:   "revoke [KID]",
		Short: "Revoke the key of an edge or a writer that was lost to others; without KID, show what is revoked.",
		Long: "Revoke a key by its kid, the thumbprint in the header of the tokens that it signed and in /status of its edge. Its certificate is not renewed, its edge makes another\n" +
			"key, and whoever sees a newer answer refuses what it signed. An issuing key is revoked by a root: make the list with keys root-list, and bring it with --list. A kid may begin with -, so it comes after --.",
		Example: "  latchkey-writer keys revoke --config writer.yaml -- cPUl4N2AOD3ewdglb-y4N2e78ffS0bG1_7br2eSBckY\n  latchkey-writer keys revoke --list root-list.txt --config writer.yaml",
		Args:    cobra.MaximumNArgs(1),
	}
	cmd.Flags().StringVar(&list, "list", "", "bring the root's list in `FILE`")
	reach := operator(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if list != "" && len(args) > 0 {
			return fmt.Errorf("%w: a kid or --list, not both", errUsage)
		}
		op, err := reach()
		if err != nil {
			return err
		}
		var revoked writer.RevokedKeys
		switch {
		case len(args) > 0:
			revoked, err = op.Revoke(cmd.Context(), args[0])
		case list != "":
			var text []byte
			if text, err = os.ReadFile(list); err == nil {
				revoked, err = op.PutRevocations(cmd.Context(), strings.TrimSpace(string(text)))
			}
		default:
			revoked, err = op.Revoked(cmd.Context())
		}
		if err != nil {
			return err
		}
		return printJSON(cmd.OutOrStdout(), revoked)
	}
	return cmd
}

func keysRootListCommand() *cobra.Command {
	var root, cluster string
	cmd := &cobra.Command{
		Use:   "root-list --root FILE --cluster ID -- KID...",
		Short: "Make a root's list of revoked keys, offline: the only one that revokes an issuing key.",
		Long: "Print a list that revokes the keys with these kids, signed by the root's private key in FILE, where it is kept offline. Name all that the root's last list has and\n" +
			"that still counts (keys revoke shows them), and bring the list to a writer with keys revoke --list.",
		Example: "  latchkey-writer keys root-list --root /media/safe/root.key.pem --cluster 01JD0000000000000000000000 -- cPUl4N2AOD3ewdglb-y4N2e78ffS0bG1_7br2eSBckY > root-list.txt",
		Args:    cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			list, err := writer.SignRevocations(root, cluster, args, time.Now())
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), list)
			return err
		},
	}
	cmd.Flags().StringVar(&root, "root", "", "the root's private key: root.key.pem or root-spare.key.pem")
	cmd.Flags().StringVar(&cluster, "cluster", "", "the cluster's id, node.cluster of every node")
	required(cmd, "root", "cluster")
	return cmd
}
