package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/latchkey/latchkey/pkg/token"
)

// TestKeysForNodesAndTheNextIssuer makes an authority, nodes, and an issuing key as an operator does, and shows what is refused.
func TestKeysForNodesAndTheNextIssuer(t *testing.T) {
	dir := t.TempDir()
	at := func(parts ...string) string { return filepath.Join(append([]string{dir}, parts...)...) }
	node := func(more ...string) []string { return append([]string{"keys", "node", "--ca", at("ca")}, more...) }
	steps := []struct {
		name string
		args []string
		code int
		says string
	}{
		{"no authority yet", node("--dir", at("w1"), "--id", "w1", "--role", "writer"), 1, "no such file"},
		{"an authority", []string{"keys", "ca", "--dir", at("ca")}, 0, "ca.pem is tls.ca_file"},
		{"not twice", []string{"keys", "ca", "--dir", at("ca")}, 1, "exists already"},
		{"a writer", node("--dir", at("w1"), "--id", "w1", "--role", "writer"), 0, "w1.key.pem tls.key_file of w1"},
		{"an edge in the same folder", node("--dir", at("w1"), "--id", "e1", "--role", "edge", "--days", "30"), 0, "tls.cert_file"},
		{"a renewal does not overwrite", node("--dir", at("w1"), "--id", "w1", "--role", "writer"), 1, "another --dir"},
		{"a renewal", node("--dir", at("next"), "--id", "w1", "--role", "writer"), 0, "tls.cert_file"},
		{"a role that is none", node("--dir", at("x"), "--id", "w1", "--role", "root"), 2, `"root"`},
		{"a life that is none", node("--dir", at("x"), "--id", "w1", "--role", "writer", "--days", "0"), 2, "1 to 398"},
		{"a name that is none", node("--dir", at("x"), "--id", "W 1", "--role", "writer"), 1, `"W 1"`},
		{"a flag is missing", []string{"keys", "node", "--id", "w1"}, 2, "required"},
		{"a cluster's keys", []string{"keys", "init", "--dir", at("keys"), "--cluster", "c1"}, 0, "cluster: c1"},
		{"the next issuer", []string{"keys", "issuer", "--root", at("keys", "root.key.pem"), "--cluster", "c1", "--dir", at("issuer")}, 0, "count until"},
		{"not twice", []string{"keys", "issuer", "--root", at("keys", "root.key.pem"), "--cluster", "c1", "--dir", at("issuer")}, 1, "keys exist already"},
		{"not over the present one", []string{"keys", "issuer", "--root", at("keys", "root.key.pem"), "--cluster", "c1", "--dir", at("keys")}, 1, "keys exist already"},
		{"a public key as the root", []string{"keys", "issuer", "--root", at("keys", "root.pub.pem"), "--cluster", "c1", "--dir", at("y")}, 1, "root.pub.pem"},
		{"a cluster that is none", []string{"keys", "issuer", "--root", at("keys", "root.key.pem"), "--cluster", "c 1", "--dir", at("y")}, 1, `"c 1"`},
	}
	for _, s := range steps {
		out, errOut, code := tool(t.Context(), s.args...)
		if code != s.code || !strings.Contains(out+errOut, s.says) {
			t.Errorf("%s: latchkey-writer %q = %d %q %q, want %d and %q", s.name, s.args, code, out, errOut, s.code, s.says)
		}
	}
	for name, want := range map[string]os.FileMode{"ca/ca.key.pem": 0o600, "w1/w1.key.pem": 0o600, "w1/e1.key.pem": 0o600, "issuer/issuer.key.pem": 0o600, "ca/ca.pem": 0o644, "w1/w1.pem": 0o644} {
		if info, err := os.Stat(at(name)); err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: %v, want mode %o", name, err, want)
		}
	}
	if _, err := os.Stat(at("x")); !os.IsNotExist(err) {
		t.Errorf("what was refused left a folder: %v", err)
	}
	read := func(name string) []byte {
		t.Helper()
		b, err := os.ReadFile(at(name))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	if slices.Equal(read("w1/w1.key.pem"), read("next/w1.key.pem")) {
		t.Error("the renewal has the old key")
	}
	issuer, err := token.ParseCertificate(strings.TrimSpace(string(read("issuer/issuer.cert"))))
	if err != nil || issuer.Role != token.RoleIssuer || issuer.Issuer != "c1" {
		t.Fatalf("issuer.cert is %+v, %v", issuer, err)
	}
	if left := time.Until(time.Unix(issuer.ExpiresAt, 0)); left < 399*24*time.Hour || left > 400*24*time.Hour {
		t.Errorf("the next issuer counts for %s, want 400 days", left)
	}
}
