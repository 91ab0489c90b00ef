package token

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"testing"
)

// Signing allocates what crypto/ecdsa allocates and nothing of its own.
func TestSigningAddsNoAllocations(t *testing.T) {
	if raceEnabled {
		t.Log("the race detector makes sync.Pool drop items at random; the plain run holds the figure")
		return
	}
	key := fixedKey(t, "edge")
	digest := sha256.Sum256([]byte("600 bytes"))
	bare := testing.AllocsPerRun(200, func() { derSignature(t, key, digest[:]) })
	s, c, dst := graceSigner(t), answer(), make([]byte, 0, 8<<10)
	ours := testing.AllocsPerRun(200, func() {
		if _, err := s.AppendSign(dst, c); err != nil {
			t.Fatal(err)
		}
	})
	t.Logf("crypto/ecdsa alone %.0f, AppendSign %.0f", bare, ours)
	if ours > bare {
		t.Errorf("AppendSign allocates %.0f times, crypto/ecdsa alone %.0f", ours, bare)
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

// BenchmarkBareRFC6979 is the same signature without randomness, as GraceSigner makes it.
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
