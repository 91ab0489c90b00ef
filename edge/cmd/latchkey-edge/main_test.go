package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/latchkey/latchkey/edge"
	"github.com/latchkey/latchkey/pkg/entitlement"
	"github.com/latchkey/latchkey/pkg/token"
	"github.com/latchkey/latchkey/replication/replicationtest"
)

// TestCommands: exit codes, and what is said about a token.
func TestCommands(t *testing.T) {
	w, err := replicationtest.New("cluster")
	if err != nil {
		t.Fatal(err)
	}
	pem, err := token.MarshalPublicKeyPEM(w.Roots()[0])
	if err != nil {
		t.Fatal(err)
	}
	root := filepath.Join(t.TempDir(), "root.pub.pem")
	if err := os.WriteFile(root, pem, 0o600); err != nil {
		t.Fatal(err)
	}
	good := graceToken(t, w)
	tests := []struct {
		name string
		args []string
		in   string
		code int
		want string // in what is printed
	}{
		{"a genuine token", []string{"verify", "--root", root}, good + "\n", exitDone, `"pro": allowed until`},
		{"a changed token", []string{"verify", "--root", root}, good[:len(good)-4] + "AAAA", exitFailed, "refused"},
		{"a token two days later", []string{"verify", "--root", root, "--at", time.Now().Add(48 * time.Hour).UTC().Format(time.RFC3339)}, good, exitFailed, "expired"},
		{"no token", []string{"verify", "--root", root}, "", exitFailed, "refused"},
		{"no root", []string{"verify"}, good, exitUsage, "root"},
		{"a root that is not there", []string{"verify", "--root", root + "x"}, good, exitFailed, "no such file"},
		{"no time", []string{"verify", "--root", root, "--at", "tomorrow"}, good, exitUsage, "--at"},
		{"the version", []string{"version"}, "", exitDone, "latchkey-edge " + edge.Version()},
		{"help has examples", []string{"--help"}, "", exitDone, "serve --config edge.yaml"},
		{"an unknown command", []string{"dance"}, "", exitUsage, "unknown command"},
		{"a configuration that is not there", []string{"serve", "--config", root + "x"}, "", exitFailed, root + "x"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var out bytes.Buffer
			if got := run(t.Context(), tt.args, streams{strings.NewReader(tt.in), &out, &out}); got != tt.code || !strings.Contains(out.String(), tt.want) {
				t.Errorf("latchkey-edge %v = %d, printing:\n%s\nwant %d and %q", tt.args, got, out.String(), tt.code, tt.want)
			}
		})
	}
}

func graceToken(t *testing.T, w *replicationtest.Writer) string {
	t.Helper()
	key, err := token.GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	jwk, err := token.PublicJWK(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	certs, err := w.CertifyEdge("e1", entitlement.Sandbox, jwk)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	signer, err := token.NewGraceSigner(key, certs, w.Roots(), now)
	if err != nil {
		t.Fatal(err)
	}
	tok, err := signer.AppendSign(nil, &token.GraceClaims{Subject: "acc_1", IssuedAt: now.Unix(), AsOf: now.Unix(), Revision: "1-1",
		Entitlements: []token.GraceEntitlement{{ID: "pro", Status: "active", Until: now.Unix() + 9999, OfflineUntil: now.Unix() + 9999}}})
	if err != nil {
		t.Fatal(err)
	}
	return string(tok)
}
