package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/latchkey/latchkey/deploy/system"
	"github.com/latchkey/latchkey/pkg/token"
)

// phone is an app: the roots that it pinned at its release, and the lists of revoked keys that it has seen.
type phone struct {
	roots token.Roots
	known token.Revocations
	of    account
	aud   string
}

func (d *dev) phone(a account, roots ...string) *phone {
	d.t.Helper()
	var texts [][]byte
	for _, path := range roots {
		text, err := os.ReadFile(path)
		if err != nil {
			d.t.Fatal(err)
		}
		texts = append(texts, text)
	}
	pinned, err := token.ParseRoots(texts...)
	if err != nil {
		d.t.Fatal(err)
	}
	return &phone{roots: pinned, of: a, aud: d.info().Environments[a.env].Audience}
}

// allows is what the app makes of a token, and why.
func (p *phone) allows(tok string) error {
	c, err := token.Verify(tok, token.Expect{Roots: p.roots, Audience: p.aud, Environment: p.of.env, Subject: p.of.id, At: time.Now(), Revocations: &p.known})
	if err == nil && !c.Allows("pro", time.Now()) {
		err = errors.New("the token does not allow pro")
	}
	return err
}

// thief has what was in an edge's data folder, and signs what he likes with it.
type thief struct {
	signer *token.GraceSigner
	key    []byte // PEM
}

func (d *dev) steal(edge system.Node, env string, roots token.Roots) thief {
	d.t.Helper()
	read := func(name string) []byte {
		b, err := os.ReadFile(filepath.Join(edge.Dir, name))
		if err != nil {
			d.t.Fatal(err)
		}
		return b
	}
	text := read("edge-" + env + ".key.pem")
	key, err := token.ParsePrivateKeyPEM(text)
	if err != nil {
		d.t.Fatal(err)
	}
	var certs []string
	if err := json.Unmarshal(read("edge-"+env+".certs.json"), &certs); err != nil {
		d.t.Fatal(err)
	}
	signer, err := token.NewGraceSigner(key, certs, roots, time.Now())
	if err != nil {
		d.t.Fatal(err)
	}
	return thief{signer, text}
}

// forge is a token that gives the account what nobody paid for.
func (s thief) forge(t *testing.T, a account) string {
	t.Helper()
	now := time.Now().Unix()
	tok, err := s.signer.AppendSign(nil, &token.GraceClaims{Subject: a.id, IssuedAt: now, AsOf: now, Revision: "1-999999",
		Entitlements: []token.GraceEntitlement{{ID: "pro", Status: "active", OfflineUntil: now + token.GraceSeconds}}})
	if err != nil {
		t.Fatal(err)
	}
	return string(tok)
}

// TestADrillOfStolenKeys: an edge's key is stolen and revoked, then the issuing key above it, with the spare root in place of the active one. Apps of before, which
// know nothing but the two roots that they pinned, refuse what the thief signs as soon as they have seen any newer answer, and payers lose nothing at any step.
func TestADrillOfStolenKeys(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	d := start(t, dir, "--writers", "1", "--edges", "2")
	keys := func(name string) string { return filepath.Join(dir, "keys", name) }
	config := d.configOf(d.info().Writers[0].ID)

	payer, freeloader := d.account("sandbox"), d.account("sandbox")
	revision := d.grant(payer)
	app := d.phone(payer, keys("root.pub.pem"), keys("root-spare.pub.pem"))
	other := d.phone(freeloader, keys("root.pub.pem"), keys("root-spare.pub.pem"))
	before := d.mustAsk(payer, 0, revision).Token
	kid := func(edge int) string {
		a, err := d.do(context.Background(), http.MethodGet, d.info().Edges[edge].URL+"/status", nil, nil)
		var s struct {
			Certificates []struct{ Environment, Kid string }
		}
		if err == nil {
			err = a.into(&s)
		}
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range s.Certificates {
			if c.Environment == "sandbox" {
				return c.Kid
			}
		}
		return ""
	}
	// served asks an edge until the app accepts its answer, which carries what is revoked, and the edge signs with a key that is none of gone.
	served := func(step string, edge int, gone ...string) string {
		t.Helper()
		var tok string
		d.eventually(step+": an app is served by "+d.info().Edges[edge].ID, patience, func() error {
			if k := kid(edge); k == "" || slices.Contains(gone, k) {
				return fmt.Errorf("it signs with %q", k)
			}
			v := d.mustAsk(payer, edge, revision)
			tok = v.Token
			return app.allows(tok)
		})
		return tok
	}
	refused := func(step string, p *phone, tok string) {
		t.Helper()
		if err := p.allows(tok); !errors.Is(err, token.ErrRevoked) {
			t.Errorf("%s: the app says %v, want that a key is revoked", step, err)
		}
	}

	lost := kid(0)
	stolen := d.steal(d.info().Edges[0], "sandbox", app.roots)
	forged := stolen.forge(t, freeloader)
	if err := other.allows(forged); err != nil {
		t.Fatalf("before the drill the thief's token is refused: %v", err)
	}
	began := time.Now()
	if out := writerTool(t, "keys", "revoke", "--config", config, "--", lost); !strings.Contains(out, lost) {
		t.Errorf("keys revoke says %s", out)
	}
	served("the edge key is revoked", 0, lost)
	t.Logf("%s after keys revoke the edge signs with another key", time.Since(began).Round(10*time.Millisecond))
	second := served("the edge key is revoked", 1)
	refused("the token of before", app, before)
	d.eventually("an app that asks the other edge hears of it", patience, func() error {
		second = d.mustAsk(payer, 1, revision).Token
		_ = other.allows(second) // another account's, which is refused; the lists in it are taken all the same
		if _, issuer := other.known.Counters(); issuer == 0 {
			return errors.New("no list came with the answer")
		}
		return nil
	})
	refused("the thief's token", other, forged)
	if status := d.certify(t, stolen.key, d.info().Edges[0].ID); status != http.StatusForbidden {
		t.Errorf("the thief asks for a certificate of the stolen key: %d, want 403", status)
	}

	// The issuing key: the next one comes from the spare root, as if the active one were lost as well.
	cert, err := token.ParseCertificate(strings.TrimSpace(d.readFile(keys("issuer.cert"))))
	if err != nil {
		t.Fatal(err)
	}
	issuer, err := token.Thumbprint(cert.Key)
	if err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(filepath.Join(bin, "latchkey-writer"), "keys", "revoke", "--config", config, "--", issuer).CombinedOutput(); err == nil {
		t.Errorf("the issuing key in use was revoked: %s", out)
	}
	next := filepath.Join(t.TempDir(), "next")
	writerTool(t, "keys", "issuer", "--root", keys("root-spare.key.pem"), "--cluster", cert.Issuer, "--dir", next)
	for _, name := range []string{"issuer.key.pem", "issuer.cert"} {
		if err := os.Rename(filepath.Join(next, name), keys(name)); err != nil {
			t.Fatal(err)
		}
	}
	d.kill(d.info().Writers[0])
	list := writerTool(t, "keys", "root-list", "--root", keys("root-spare.key.pem"), "--cluster", cert.Issuer, "--", issuer)
	path := filepath.Join(t.TempDir(), "root-list.txt")
	if err := os.WriteFile(path, []byte(list), 0o600); err != nil {
		t.Fatal(err)
	}
	d.eventually("the root's list is taken", patience, func() error {
		out, err := exec.Command(filepath.Join(bin, "latchkey-writer"), "keys", "revoke", "--list", path, "--config", config).CombinedOutput()
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	})
	for edge := range d.info().Edges {
		d.eventually("edges are certified by the next issuing key", patience, func() error {
			v := d.mustAsk(payer, edge, revision)
			if err := app.allows(v.Token); err != nil {
				return err
			}
			if root, _ := app.known.Counters(); root == 0 {
				return errors.New("the app has not seen the root's list")
			}
			return nil
		})
	}
	refused("a token below the revoked issuing key", app, second)

	lists := d.readURL(d.info().Edges[1].URL + "/v1/revocations")
	if err := os.WriteFile(path, []byte(lists), 0o600); err != nil {
		t.Fatal(err)
	}
	verify := exec.Command(filepath.Join(bin, "latchkey-edge"), "verify", "--root", keys("root.pub.pem"), "--root", keys("root-spare.pub.pem"), "--revocations", path)
	verify.Stdin = strings.NewReader(forged)
	if out, err := verify.CombinedOutput(); err == nil || !strings.Contains(string(out), "key revoked") {
		t.Errorf("latchkey-edge verify of the thief's token: %v %s", err, out)
	}
}

// certify asks the writer for a certificate of a key, as an edge does, and returns the status of the answer.
func (d *dev) certify(t *testing.T, key []byte, node string) int {
	t.Helper()
	private, err := token.ParsePrivateKeyPEM(key)
	if err != nil {
		t.Fatal(err)
	}
	jwk, err := token.PublicJWK(&private.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	body, err := json.Marshal(map[string]any{"node": node, "environment": "sandbox", "audience": d.info().Environments["sandbox"].Audience, "jwk": jwk})
	if err != nil {
		t.Fatal(err)
	}
	writers := settingsOf(t, d.configOf(d.info().Edges[0].ID))["writers"].(map[string]any)["urls"].([]any)
	a, err := d.do(t.Context(), http.MethodPost, writers[0].(string)+"/internal/v1/edge-certificates", nil, body)
	if err != nil {
		t.Fatal(err)
	}
	return a.status
}

func (d *dev) readFile(path string) string {
	d.t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		d.t.Fatal(err)
	}
	return string(b)
}

func (d *dev) readURL(url string) string {
	d.t.Helper()
	a, err := d.do(context.Background(), http.MethodGet, url, nil, nil)
	if err != nil || a.status != http.StatusOK {
		d.t.Fatalf("GET %s: %s %v", url, a, err)
	}
	return string(a.body)
}

// grant gives the account pro, and returns the revision at which it has it.
func (d *dev) grant(a account) string {
	d.t.Helper()
	var r struct{ Revision string }
	got, err := d.api(a.env, 0, http.MethodPost, "/v1/accounts/"+a.id+"/grants", map[string]any{"entitlement": "pro", "duration_days": 30, "reason": "drill"})
	if err == nil {
		err = got.into(&r)
	}
	if err != nil || r.Revision == "" {
		d.t.Fatalf("POST grants: %s %v", got, err)
	}
	return r.Revision
}
