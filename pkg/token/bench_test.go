package token

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"testing"
)

// Signing makes no garbage: not for the signature either, which would be 55 objects in crypto/ecdsa.
func TestSigningAllocatesNothing(t *testing.T) {
	if raceEnabled {
		t.Log("the race detector makes sync.Pool drop items at random; the plain run holds the figure")
		return
	}
	s, c, dst := graceSigner(t), answer(), make([]byte, 0, 8<<10)
	made := testing.AllocsPerRun(200, func() {
		if _, err := s.AppendSign(dst, c); err != nil {
			t.Fatal(err)
		}
	})
	if made >= 1 { // a collection in between may empty the pool
		t.Errorf("AppendSign allocates %.0f times, want 0", made)
	}
}

// BenchmarkBareECDSA is the yardstick: one P-256 signature over 600 bytes by crypto/ecdsa as everybody calls it.
func BenchmarkBareECDSA(b *testing.B) {
	key, message := fixedKey(b, "edge"), make([]byte, 600)
	b.ReportAllocs()
	for b.Loop() {
		digest := sha256.Sum256(message)
		if _, err := ecdsa.SignASN1(rand.Reader, key, digest[:]); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkBareRFC6979 is the same signature without randomness: byte for byte the one that GraceSigner makes.
func BenchmarkBareRFC6979(b *testing.B) {
	key, message := fixedKey(b, "edge"), make([]byte, 600)
	b.ReportAllocs()
	for b.Loop() {
		digest := sha256.Sum256(message)
		derSignature(b, key, digest[:])
	}
}

func BenchmarkGraceSign(b *testing.B) {
	s, c, dst := graceSigner(b), answer(), make([]byte, 0, 8<<10)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := s.AppendSign(dst, c); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkGraceVerify(b *testing.B) {
	tok, expect := signGrace(b, answer()), expectation(b)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Verify(tok, expect); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkSessionVerify(b *testing.B) {
	s, err := NewSessionSigner(fixedKey(b, "session"))
	if err != nil {
		b.Fatal(err)
	}
	tok, err := s.Sign(sessionClaimsOf())
	if err != nil {
		b.Fatal(err)
	}
	v := sessionVerifier(b)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := v.Verify(tok, at); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkPositionVerify(b *testing.B) {
	tok, err := positionSigner(b).AppendSign(nil, position())
	if err != nil {
		b.Fatal(err)
	}
	v := PositionVerifier{Roots: fixedRoots(b), Cluster: cluster}
	text := string(tok)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := v.Verify(text); err != nil {
			b.Fatal(err)
		}
	}
}
