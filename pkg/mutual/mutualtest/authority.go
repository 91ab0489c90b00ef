// Package mutualtest makes authorities and nodes' certificates for tests. Start at New.
package mutualtest

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/latchkey/latchkey/pkg/config"
	"github.com/latchkey/latchkey/pkg/mutual"
)

// Authority makes certificates below itself.
type Authority struct {
	t   testing.TB
	Dir string // ca.pem and ca.key.pem
}

// New makes an authority that ends with the test.
func New(t testing.TB) *Authority {
	t.Helper()
	a := &Authority{t: t, Dir: t.TempDir()}
	if err := mutual.MakeAuthority(a.Dir, "test", time.Now()); err != nil {
		t.Fatal(err)
	}
	return a
}

// Cert is the path of the authority's own certificate.
func (a *Authority) Cert() string { return filepath.Join(a.Dir, mutual.AuthorityCertFile) }

// Files makes a key and a certificate for a node, for a day.
func (a *Authority) Files(node mutual.Peer) mutual.Files {
	a.t.Helper()
	dir := a.t.TempDir()
	if err := mutual.MakeNode(a.Dir, dir, node, 24*time.Hour, time.Now()); err != nil {
		a.t.Fatal(err)
	}
	cert, key := mutual.NodeFiles(node.Node)
	f := mutual.Files{CA: filepath.Join(dir, "bundle.pem"), Cert: filepath.Join(dir, cert), Key: filepath.Join(dir, key)}
	Replace(a.t, f.CA, a.Cert())
	return f
}

// Identity is Files, loaded.
func (a *Authority) Identity(node mutual.Peer) *mutual.Identity {
	a.t.Helper()
	var m config.Mistakes
	identity := mutual.Load(a.Files(node), node, time.Now, slog.New(slog.DiscardHandler), &m)
	if err := m.Err(); err != nil {
		a.t.Fatal(err)
	}
	return identity
}

// Replace puts the content of from, one after the other, into a new file that takes the place of path, as an operator does.
func Replace(t testing.TB, path string, from ...string) {
	t.Helper()
	var content []byte
	for _, f := range from {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		content = append(content, b...)
	}
	if err := errors.Join(os.WriteFile(path+".new", content, 0o600), os.Rename(path+".new", path)); err != nil {
		t.Fatal(err)
	}
}

// Writer is a writer by name.
func Writer(id string) mutual.Peer { return mutual.Peer{Node: id, Role: mutual.RoleWriter} }

// Edge is an edge by name.
func Edge(id string) mutual.Peer { return mutual.Peer{Node: id, Role: mutual.RoleEdge} }
