package token

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"
)

func signList(t testing.TB, signer, issuerCert string, c RevocationClaims) string {
	t.Helper()
	list, err := SignRevocations(fixedKey(t, signer), issuerCert, c)
	if err != nil {
		t.Fatalf("SignRevocations: %v", err)
	}
	return list
}

func listClaims(revoked ...string) RevocationClaims {
	return RevocationClaims{Issuer: cluster, IssuedAt: now, Counter: now, Revoked: revoked}
}

// What SignRevocations signs, Learn takes; and what no verifier would take is not signed.
func TestSignRevocations(t *testing.T) {
	list := signList(t, "issuer", issuerCert(t), listClaims("a", "b"))
	c, byRoot, err := ReadRevocations(list, fixedRoots(t))
	if err != nil || byRoot || !slices.Equal(c.Revoked, []string{"a", "b"}) || c.Counter != now || c.Issuer != cluster || c.IssuedAt != now {
		t.Errorf("ReadRevocations = %+v, %t, %v", c, byRoot, err)
	}
	if _, byRoot, err := ReadRevocations(signList(t, "root-spare", "", listClaims("a")), fixedRoots(t)); err != nil || !byRoot {
		t.Errorf("ReadRevocations(of the spare root) = %t, %v", byRoot, err)
	}
	for name, tt := range map[string]struct {
		signer, cert string
		change       func(*RevocationClaims)
		want         error
	}{
		"another key than the certificate's": {"thief", issuerCert(t), func(*RevocationClaims) {}, ErrKey},
		"an edge's certificate":              {"edge", edgeChain(t)[0], func(*RevocationClaims) {}, ErrKey},
		"no certificate":                     {"issuer", "x", func(*RevocationClaims) {}, ErrMalformed},
		"no cluster":                         {"root", "", func(c *RevocationClaims) { c.Issuer = "" }, ErrMalformed},
		"no counter":                         {"root", "", func(c *RevocationClaims) { c.Counter = 0 }, ErrMalformed},
		"a key twice":                        {"root", "", func(c *RevocationClaims) { c.Revoked = []string{"a", "a"} }, ErrMalformed},
		"more keys than a list holds":        {"root", "", func(c *RevocationClaims) { c.Revoked = names(MaxRevoked + 1) }, ErrMalformed},
	} {
		c := listClaims("a")
		tt.change(&c)
		if _, err := SignRevocations(fixedKey(t, tt.signer), tt.cert, c); !errors.Is(err, tt.want) {
			t.Errorf("%s: SignRevocations = %v, want %v", name, err, tt.want)
		}
	}
}

// What is kept survives a restart as text, in either order of learning.
func TestListsAreWhatToKeep(t *testing.T) {
	edge := kidOf(t, "edge")
	lists := []string{signList(t, "root", "", listClaims("other")), signList(t, "issuer", issuerCert(t), listClaims(edge))}
	for range 2 {
		var known Revocations
		for _, l := range lists {
			if newer, err := known.Learn(l, fixedRoots(t)); err != nil || !newer {
				t.Fatalf("Learn = %t, %v", newer, err)
			}
			if newer, err := known.Learn(l, fixedRoots(t)); err != nil || newer {
				t.Errorf("Learn again = %t, %v, want false", newer, err)
			}
		}
		if got := known.Lists(); len(got) != 2 || got[0] == got[1] || !known.RevokedLeaf(edge) || !known.RevokedLeaf("other") || !known.RevokedIssuer("other") || known.RevokedIssuer(edge) {
			t.Errorf("Lists = %d, RevokedLeaf(edge) = %t, RevokedIssuer(other) = %t", len(got), known.RevokedLeaf(edge), known.RevokedIssuer("other"))
		}
		slices.Reverse(lists)
	}
	var none *Revocations
	if none.Lists() != nil || none.RevokedLeaf(edge) || none.RevokedIssuer(edge) {
		t.Error("a nil Revocations knows something")
	}
}

// A token hands the lists on to who verifies it, and the signer's other claims stay what they were.
func TestTokensCarryRevocations(t *testing.T) {
	var known Revocations
	for _, l := range []string{signList(t, "root", "", listClaims("a")), signList(t, "issuer", issuerCert(t), listClaims("b"))} {
		if _, err := known.Learn(l, fixedRoots(t)); err != nil {
			t.Fatal(err)
		}
	}
	signer, err := graceSigner(t).WithRevocations(&known)
	if err != nil {
		t.Fatal(err)
	}
	tok, err := signer.AppendSign(nil, answer())
	if err != nil {
		t.Fatal(err)
	}
	var app Revocations
	expect := expectation(t)
	expect.Revocations = &app
	if _, err := Verify(string(tok), expect); err != nil {
		t.Fatalf("Verify = %v", err)
	}
	if !slices.Equal(app.Lists(), known.Lists()) {
		t.Errorf("the app learned %d lists, want those of the edge, %d", len(app.Lists()), len(known.Lists()))
	}
	again, err := signer.WithRevocations(nil)
	if err != nil {
		t.Fatal(err)
	}
	if tok, err = again.AppendSign(nil, answer()); err != nil || string(tok) != signGrace(t, answer()) {
		t.Errorf("without lists the token differs from one of a signer that never had any (%v)", err)
	}
	if _, err := known.Learn(signList(t, "issuer", issuerCert(t), RevocationClaims{Issuer: cluster, IssuedAt: now, Counter: now + 1, Revoked: []string{kidOf(t, "edge")}}), fixedRoots(t)); err != nil {
		t.Fatal(err)
	}
	if _, err := graceSigner(t).WithRevocations(&known); !errors.Is(err, ErrRevoked) || !errors.Is(err, ErrChain) {
		t.Errorf("WithRevocations of a revoked key = %v, want ErrRevoked", err)
	}
}

// A position of a writer whose key is revoked is not believed any more, though its chain was verified before.
func TestPositionsOfARevokedKey(t *testing.T) {
	tests := []struct {
		name string
		list string
	}{
		{"the writer's key", signList(t, "issuer", issuerCert(t), listClaims(kidOf(t, "writer")))},
		{"the issuing key", signList(t, "root", "", listClaims(kidOf(t, "issuer")))},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			v := PositionVerifier{Roots: fixedRoots(t), Cluster: cluster, Revocations: new(Revocations)}
			signed, err := positionSigner(t).AppendSign(nil, position())
			if err != nil {
				t.Fatal(err)
			}
			if _, err := v.Verify(string(signed)); err != nil {
				t.Fatalf("before: Verify = %v", err)
			}
			if _, err := v.Revocations.Learn(tt.list, v.Roots); err != nil {
				t.Fatal(err)
			}
			if _, err := v.Verify(string(signed)); !errors.Is(err, ErrRevoked) {
				t.Errorf("Verify = %v, want ErrRevoked", err)
			}
		})
	}
}

// The greatest list and a token that carries two of them stay readable: 64 KiB bound both.
func TestTheGreatestListsFitIntoAToken(t *testing.T) {
	kids := names(MaxRevoked)
	for i := range kids {
		kids[i] += strings.Repeat("x", 43-len(kids[i])) // as long as a thumbprint
	}
	var known Revocations
	for _, l := range []string{signList(t, "root", "", listClaims(kids...)), signList(t, "issuer", issuerCert(t), listClaims(kids...))} {
		if _, err := known.Learn(l, fixedRoots(t)); err != nil {
			t.Fatal(err)
		}
	}
	signer, err := graceSigner(t).WithRevocations(&known)
	if err != nil {
		t.Fatal(err)
	}
	tok, err := signer.AppendSign(nil, answer())
	if err != nil || len(tok) > MaxTokenBytes/3 {
		t.Fatalf("a token of %d bytes, %v; want less than a third of what is read", len(tok), err)
	}
	if _, err := Inspect(string(tok), fixedRoots(t), nil, at); err != nil {
		t.Errorf("Inspect = %v", err)
	}
}

// What an app of a release before the lists makes of a token that carries some: the parameter is one that it does not know, and ignores.
func TestListsAreNoCriticalParameter(t *testing.T) {
	var known Revocations
	if _, err := known.Learn(signList(t, "root", "", listClaims("a")), fixedRoots(t)); err != nil {
		t.Fatal(err)
	}
	signer, err := graceSigner(t).WithRevocations(&known)
	if err != nil {
		t.Fatal(err)
	}
	tok, err := signer.AppendSign(nil, answer())
	if err != nil {
		t.Fatal(err)
	}
	text, err := decodeSegment(strings.Split(string(tok), ".")[0])
	if err != nil {
		t.Fatal(err)
	}
	var header map[string]any
	if err := json.Unmarshal(text, &header); err != nil {
		t.Fatal(err)
	}
	if header["rvk"] == nil || header["crit"] != nil || len(header["crt"].([]any)) != 2 {
		t.Errorf("header has the members %v", slices.Sorted(func(yield func(string) bool) {
			for name := range header {
				if !yield(name) {
					return
				}
			}
		}))
	}
}

// Learning and judging go on at once.
func TestRevocationsAreSafeForConcurrentUse(t *testing.T) {
	var known Revocations
	lists := []string{signList(t, "root", "", listClaims("a")), signList(t, "issuer", issuerCert(t), listClaims(kidOf(t, "edge")))}
	tok := signGrace(t, answer())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range 20 {
			_, _ = Inspect(tok, fixedRoots(t), &known, at)
		}
	}()
	for _, l := range lists {
		if _, err := known.Learn(l, fixedRoots(t)); err != nil {
			t.Error(err)
		}
	}
	<-done
	if _, err := Inspect(tok, fixedRoots(t), &known, time.Unix(now, 0)); !errors.Is(err, ErrRevoked) {
		t.Errorf("Inspect = %v, want ErrRevoked", err)
	}
}
