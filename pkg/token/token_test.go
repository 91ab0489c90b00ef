package token

import (
	"reflect"
	"testing"
)

func TestVerifyReturnsWhatWasSigned(t *testing.T) {
	c := answer()
	got, err := Verify(signGrace(t, c), expectation(t))
	if err != nil {
		t.Fatalf("Verify: %v", err)
	}
	got.notBefore = 0
	if !reflect.DeepEqual(got, c) {
		t.Errorf("Verify = %+v\nwant     %+v", got, c)
	}
}

func TestPositionRoundTrip(t *testing.T) {
	head, manifest := position(), position()
	head.AsOf = now - 1
	manifest.Size, manifest.SHA256 = 4096, head.Chain
	for name, want := range map[string]PositionClaims{"position": position(), "head": head, "manifest": manifest} {
		tok, err := positionSigner(t).AppendSign(nil, want)
		if err != nil {
			t.Fatalf("%s: AppendSign: %v", name, err)
		}
		v := PositionVerifier{Roots: fixedRoots(t), Cluster: cluster}
		for range 2 { // the second time from the cache
			got, err := v.Verify(string(tok))
			want.Cluster = cluster
			if err != nil || got != want {
				t.Errorf("%s: Verify = %+v, %v\nwant %+v", name, got, err, want)
			}
		}
	}
}

func TestSessionRoundTrip(t *testing.T) {
	key := fixedKey(t, "session")
	signer, err := NewSessionSigner(key)
	if err != nil {
		t.Fatal(err)
	}
	want := sessionClaimsOf()
	tok, err := signer.Sign(want)
	if err != nil {
		t.Fatal(err)
	}
	jwk, err := PublicJWK(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	v := SessionVerifier{Issuer: cluster, Audience: audience, Environment: "production"}
	if err := v.AddKey(jwk); err != nil {
		t.Fatal(err)
	}
	if got, err := v.Verify(tok, at); err != nil || got != want {
		t.Errorf("Verify = %+v, %v, want %+v", got, err, want)
	}
}
