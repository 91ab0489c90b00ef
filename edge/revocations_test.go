package edge_test

import (
	"encoding/base64"
	"encoding/json"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/latchkey/latchkey/pkg/entitlement"
	"github.com/latchkey/latchkey/pkg/token"
	"github.com/latchkey/latchkey/replication/replicationtest"
)

// counts is how many seconds revoked keys count in these tests.
const counts = 30

// revoke has the writers put a list that revokes kids, of a root or of the issuing key.
func (r *rig) revoke(byRoot bool, kids ...string) string {
	r.t.Helper()
	list, err := r.writer.SignRevocations(byRoot, kids...)
	if err == nil {
		err = r.writer.PutRevocations(r.clock.Now().Unix()+counts, list)
	}
	if err != nil {
		r.t.Fatal(err)
	}
	return list
}

func (r *rig) judge(tok string, known *token.Revocations) error {
	_, err := token.Verify(tok, token.Expect{Roots: r.writer.Roots(), Audience: replicationtest.Audience(entitlement.Sandbox), Environment: string(entitlement.Sandbox),
		Subject: string(alice), At: r.clock.Now(), Revocations: known})
	return err
}

// TestEveryAnswerCarriesTheLists: what another key's revocation changes is the header of tokens; what was handed out before stays good, and the lists are served alone too.
func TestEveryAnswerCarriesTheLists(t *testing.T) {
	t.Parallel()
	r := subscribed(t)
	session := r.writer.Session(entitlement.Sandbox, alice)
	_, before, _ := r.check("", session, nil)
	list := r.revoke(false, "other")
	var app token.Revocations
	until(t, "a token carries the list", func() bool {
		_, a, _ := r.check("", session, nil)
		if err := r.judge(a.GraceToken, &app); err != nil {
			t.Fatal(err)
		}
		return slices.Equal(app.Lists(), []string{list})
	})
	if err := r.judge(before.GraceToken, &app); err != nil {
		t.Errorf("a token of before = %v", err)
	}
	if resp, body := r.get("/v1/revocations", nil); resp.StatusCode != http.StatusOK || string(body) != list+"\n" {
		t.Errorf("/v1/revocations = %d %.80q", resp.StatusCode, body)
	}
	root := r.revoke(true, "other")
	until(t, "a token carries the root's list", func() bool {
		_, a, _ := r.check("", session, nil)
		if err := r.judge(a.GraceToken, &app); err != nil {
			t.Fatal(err)
		}
		return slices.Equal(app.Lists(), []string{root, list})
	})
	r.clock.Add((counts + 1) * time.Second)
	r.writer.PutAccount(entitlement.Sandbox, entitlement.Account{ID: "acc_01NEW"}) // has the edge look
	until(t, "no token carries what has expired", func() bool {
		_, a, _ := r.check("", session, nil)
		return a.GraceToken != "" && !strings.Contains(header(t, a.GraceToken), `"rvk"`)
	})
}

// header is that of a token, as text.
func header(t *testing.T, tok string) string {
	t.Helper()
	encoded, _, _ := strings.Cut(tok, ".")
	return string(must(base64URL(encoded)))
}

// TestARevokedKeyIsReplaced: the edge signs with it no more, makes another, has it certified, and is believed again by who knows the list. A restart does not bring
// the old one back.
func TestARevokedKeyIsReplaced(t *testing.T) {
	t.Parallel()
	r := subscribed(t)
	session := r.writer.Session(entitlement.Sandbox, alice)
	_, old, _ := r.check("", session, nil)
	sandbox := func() string {
		for _, c := range r.status().Certificates {
			if c.Environment == string(entitlement.Sandbox) {
				return c.KeyID
			}
		}
		return ""
	}
	lost := sandbox()
	r.revoke(false, lost)
	var fresh answer
	until(t, "another key is certified and signs", func() bool {
		if kid := sandbox(); kid == "" || kid == lost {
			return false // asked before the answer: one that was signed earlier may be the old key's
		}
		_, fresh, _ = r.check("", session, nil)
		return fresh.GraceToken != ""
	})
	var app token.Revocations
	if err := r.judge(fresh.GraceToken, &app); err != nil {
		t.Errorf("a token of the new key = %v", err)
	}
	if err := r.judge(old.GraceToken, &app); err == nil || !strings.Contains(err.Error(), token.ErrRevoked.Error()) {
		t.Errorf("a token of the revoked key = %v, want refused", err)
	}
	_, body := r.get("/.well-known/jwks.json", nil)
	if strings.Contains(string(body), lost) {
		t.Error("the revoked key is among the edge's public keys")
	}
	kid := sandbox()
	r.stop()
	r.start()
	r.ready()
	if got := sandbox(); got != kid {
		t.Errorf("after a restart the key is %s, want %s", got, kid)
	}
	if files, err := filepath.Glob(filepath.Join(r.dir, "e1", "*.tmp")); err != nil || len(files) != 0 {
		t.Errorf("left behind: %v %v", files, err)
	}
}

// TestARevokedIssuingKey ends every certificate below it at once: an edge whose writers have no other one goes on answering, and signs nothing.
func TestARevokedIssuingKey(t *testing.T) {
	t.Parallel()
	r := subscribed(t)
	session := r.writer.Session(entitlement.Sandbox, alice)
	_, a, _ := r.check("", session, nil)
	chain := must(token.VerifyChain(certificates(t, a.GraceToken), token.RoleEdge, r.writer.Roots(), r.clock.Now()))
	r.revoke(true, must(token.Thumbprint(chain.Issuer.Key)))
	until(t, "answers without a token", func() bool {
		status, a, _ := r.check("", session, nil)
		return status == http.StatusOK && len(a.Entitlements) == 1 && a.Entitlements[0].Active && a.GraceToken == ""
	})
	if ready, said := r.readiness(); ready || !strings.Contains(said, "not certified") {
		t.Errorf("/readyz = %s", said)
	}
}

func base64URL(s string) ([]byte, error) { return base64.RawURLEncoding.DecodeString(s) }

// certificates are those in a token's header.
func certificates(t *testing.T, tok string) []string {
	t.Helper()
	var h struct{ Crt []string }
	if err := json.Unmarshal([]byte(header(t, tok)), &h); err != nil {
		t.Fatal(err)
	}
	return h.Crt
}
