package token

import (
	"strings"
	"testing"
)

// Every token that SessionSigner makes under a known key begins as Begins knows, and no other one does.
func TestSessionsBegin(t *testing.T) {
	sign := func(name string) string {
		t.Helper()
		s, err := NewSessionSigner(fixedKey(t, name))
		if err != nil {
			t.Fatal(err)
		}
		tok, err := s.Sign(sessionClaimsOf())
		if err != nil {
			t.Fatal(err)
		}
		return tok
	}
	var v SessionVerifier
	for _, name := range []string{"session", "session-next"} {
		if v.Begins(sign(name)) {
			t.Errorf("Begins(a token of %s) before its key is known", name)
		}
		jwk, err := PublicJWK(&fixedKey(t, name).PublicKey)
		if err != nil {
			t.Fatal(err)
		}
		if err := v.AddKey(jwk); err != nil {
			t.Fatal(err)
		}
		if !v.Begins(sign(name)) {
			t.Errorf("Begins(a token of %s) = false", name)
		}
	}
	header, _, _ := strings.Cut(sign("session"), ".")
	for name, tok := range map[string]string{"nothing": "", "half a header": header[:20], "a header without its dot": header, "a token of another key": sign("thief"), "a grace token": signGrace(t, answer())} {
		if v.Begins(tok) {
			t.Errorf("Begins(%s) = true", name)
		}
	}
}
