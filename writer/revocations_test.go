package writer

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/latchkey/latchkey/pkg/token"
	"github.com/latchkey/latchkey/replication"
)

// TestKeysAreRevoked through the socket: each list says again what still counts, a root's list is judged before it is taken, and what would leave the cluster without
// a key is refused.
func TestKeysAreRevoked(t *testing.T) {
	w := oneWriter(t)
	op := NewOperator(w.cfg.Node.DataDir)
	root := filepath.Join(filepath.Dir(w.cfg.Keys.IssuerKeyFile), rootKeyFile)
	own, err := token.Thumbprint(w.keys.issuerCert.Key)
	if err != nil {
		t.Fatal(err)
	}
	kids := func(r RevokedKeys, byRoot bool) (out []string) {
		for _, k := range r.Keys {
			if k.ByRoot == byRoot {
				out = append(out, k.ID)
			}
		}
		return out
	}
	if r, err := op.Revoked(t.Context()); err != nil || r.RootCounter != 0 || r.IssuerCounter != 0 || len(r.Keys) != 0 {
		t.Errorf("Revoked at first = %+v, %v", r, err)
	}
	first, err := op.Revoke(t.Context(), "kid-1")
	if err != nil {
		t.Fatal(err)
	}
	second, err := op.Revoke(t.Context(), "kid-2")
	if err != nil || second.IssuerCounter <= first.IssuerCounter || !slices.Equal(kids(second, false), []string{"kid-1", "kid-2"}) {
		t.Errorf("Revoke twice = %+v, then %+v, %v", first, second, err)
	}
	if again, err := op.Revoke(t.Context(), "kid-1"); err != nil || !slices.Equal(kids(again, false), []string{"kid-1", "kid-2"}) {
		t.Errorf("Revoke of what is revoked = %+v, %v", again, err)
	}
	if _, err := op.Revoke(t.Context(), own); err == nil || !strings.Contains(err.Error(), "issuing key in use") {
		t.Errorf("Revoke of the issuing key in use = %v", err)
	}
	sign := func(at time.Duration, cluster string, kids ...string) string {
		t.Helper()
		list, err := SignRevocations(root, cluster, kids, w.now().Add(at))
		if err != nil {
			t.Fatal(err)
		}
		return list
	}
	good := sign(0, w.cfg.Node.Cluster, "issuer-1")
	for range 2 { // the second time it is there already
		if r, err := op.PutRevocations(t.Context(), good); err != nil || !slices.Equal(kids(r, true), []string{"issuer-1"}) || !slices.Equal(kids(r, false), []string{"kid-1", "kid-2"}) {
			t.Errorf("PutRevocations = %+v, %v", r, err)
		}
	}
	online, err := w.revocations()
	if err != nil || len(online) != 2 {
		t.Fatalf("%d lists, %v", len(online), err)
	}
	for _, tt := range []struct{ name, list, says string }{
		{"one that lacks what counts", sign(time.Minute, w.cfg.Node.Cluster, "issuer-2"), "lacks issuer-1"},
		{"an older one", sign(-time.Minute, w.cfg.Node.Cluster, "issuer-1", "issuer-2"), "newer list"},
		{"of another cluster", sign(time.Minute, "other", "issuer-1"), "another cluster"},
		{"one against the issuing key in use", sign(time.Minute, w.cfg.Node.Cluster, "issuer-1", own), "issuing key in use"},
		{"what is no list", "x", "malformed"},
	} {
		if _, err := op.PutRevocations(t.Context(), tt.list); err == nil || !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%s: PutRevocations = %v, want %q", tt.name, err, tt.says)
		}
	}
	for _, l := range online {
		if !l.ByRoot {
			if _, err := op.PutRevocations(t.Context(), string(l.Text)); err == nil || !strings.Contains(err.Error(), "not signed by a root") {
				t.Errorf("PutRevocations of an issuing key's list = %v", err)
			}
		}
	}
	known, err := w.revoked()
	if err != nil || !known.RevokedLeaf("kid-1") || !known.RevokedLeaf("kid-2") || !known.RevokedIssuer("issuer-1") || known.RevokedIssuer(own) {
		t.Errorf("revoked: kid-1 %t, kid-2 %t, issuer-1 %t, own %t, %v", known.RevokedLeaf("kid-1"), known.RevokedLeaf("kid-2"), known.RevokedIssuer("issuer-1"), known.RevokedIssuer(own), err)
	}
	if _, err := SignRevocations(filepath.Join(filepath.Dir(root), rootPublicFile), w.cfg.Node.Cluster, []string{"x"}, w.now()); err == nil {
		t.Error("a list was signed by a public key")
	}
	if r := w.readiness(); !r.Ready {
		t.Errorf("before the own issuing key is revoked: %+v", r)
	}
	// Another writer, which has the next issuing key already, takes the list that this one would refuse.
	against := replication.RevocationList{Text: []byte(sign(time.Hour, w.cfg.Node.Cluster, "issuer-1", own)), ByRoot: true, Counter: w.now().Add(time.Hour).Unix()}
	if err := w.putList(t.Context(), against); err != nil {
		t.Fatal(err)
	}
	if r := w.readiness(); r.Ready || !slices.Contains(r.Reasons, reasonIssuer) {
		t.Errorf("with a revoked issuing key: %+v, want the reason %q", r, reasonIssuer)
	}
}
