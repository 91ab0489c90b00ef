package main

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
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
	list := func(name, text string) string {
		path := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	revoke := func(kid string) string {
		text, err := w.SignRevocations(false, kid)
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	revoked, other := list("revoked", revoke("other")+"\n"+revoke(kidOf(t, good))+"\n"), list("other", revoke("other"))
	tests := []struct {
		name string
		args []string
		in   string
		code int
		want string // in what is printed
	}{
		{"a genuine token", []string{"verify", "--root", root}, good + "\n", exitDone, `"pro": allowed until`},
		{"a changed token", []string{"verify", "--root", root}, good[:len(good)-8] + "AAAAAAAA", exitFailed, "refused"},
		{"a token two days later", []string{"verify", "--root", root, "--at", time.Now().Add(48 * time.Hour).UTC().Format(time.RFC3339)}, good, exitFailed, "expired"},
		{"a token of a revoked key", []string{"verify", "--root", root, "--revocations", revoked}, good, exitFailed, "refused: grace token: certificate chain refused: edge: key revoked"},
		{"a list of other keys", []string{"verify", "--root", root, "--revocations", other}, good, exitDone, `"pro": allowed until`},
		{"a list that is none", []string{"verify", "--root", root, "--revocations", list("none", "x")}, good, exitFailed, "list 1: revocations: malformed"},
		{"a list that is not there", []string{"verify", "--root", root, "--revocations", root + "x"}, good, exitFailed, "no such file"},
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

// kidOf reads the kid of a token's header.
func kidOf(t *testing.T, tok string) string {
	t.Helper()
	encoded, _, _ := strings.Cut(tok, ".")
	text, err := base64.RawURLEncoding.DecodeString(encoded)
	if err != nil {
		t.Fatal(err)
	}
	var header struct{ Kid string }
	if err := json.Unmarshal(text, &header); err != nil {
		t.Fatal(err)
	}
	return header.Kid
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
