package token

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"flag"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "write golden files and vectors")

// The fixed world of the tests: 2026-11-22T06:00:00Z, one cluster, one app in two environments.
const (
	now      = 1795327200
	cluster  = "01JD0CLUSTER0000000000000"
	audience = "com.example.app"
	account  = "acc_01JD0ACCOUNT0000000000000"
	hour     = 3600
	day      = 24 * hour
)

var at = time.Unix(now, 0).UTC()

// fixedKey returns the same key for the same name in every run: vectors and golden files depend on it. Never use such a key elsewhere.
func fixedKey(t testing.TB, name string) *ecdsa.PrivateKey {
	t.Helper()
	d := sha256.Sum256([]byte("latchkey test key: " + name))
	key, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), d[:])
	if err != nil {
		t.Fatalf("fixed key %s: %v", name, err)
	}
	return key
}

func fixedRoots(t testing.TB) Roots {
	return Roots{&fixedKey(t, "root").PublicKey, &fixedKey(t, "root-spare").PublicKey}
}

func issuerClaims(t testing.TB) Certificate {
	return Certificate{Issuer: cluster, Subject: "issuer-1", Role: RoleIssuer, NotBefore: now - 30*day, ExpiresAt: now + 335*day, Key: &fixedKey(t, "issuer").PublicKey}
}

func edgeClaims(t testing.TB) Certificate {
	return Certificate{Issuer: cluster, Subject: "e1", Role: RoleEdge, Audience: audience, Environment: "production",
		NotBefore: now - hour, ExpiresAt: now + 71*hour, Key: &fixedKey(t, "edge").PublicKey}
}

func writerClaims(t testing.TB) Certificate {
	return Certificate{Issuer: cluster, Subject: "w1", Role: RoleWriter, NotBefore: now - hour, ExpiresAt: now + 71*hour, Key: &fixedKey(t, "writer").PublicKey}
}

func issue(t testing.TB, signer *ecdsa.PrivateKey, c Certificate) string {
	t.Helper()
	cert, err := IssueCertificate(signer, c)
	if err != nil {
		t.Fatalf("IssueCertificate(%s): %v", c.Subject, err)
	}
	return cert
}

func issuerCert(t testing.TB) string { return issue(t, fixedKey(t, "root"), issuerClaims(t)) }

func edgeChain(t testing.TB) []string {
	return []string{issue(t, fixedKey(t, "issuer"), edgeClaims(t)), issuerCert(t)}
}

func writerChain(t testing.TB) []string {
	return []string{issue(t, fixedKey(t, "issuer"), writerClaims(t)), issuerCert(t)}
}

func graceSigner(t testing.TB) *GraceSigner {
	t.Helper()
	s, err := NewGraceSigner(fixedKey(t, "edge"), edgeChain(t), fixedRoots(t), at)
	if err != nil {
		t.Fatalf("NewGraceSigner: %v", err)
	}
	return s
}

func positionSigner(t testing.TB) *PositionSigner {
	t.Helper()
	s, err := NewPositionSigner(fixedKey(t, "writer"), writerChain(t), fixedRoots(t), at)
	if err != nil {
		t.Fatalf("NewPositionSigner: %v", err)
	}
	return s
}

// answer returns claims of a paying account as an edge would give them to its signer.
func answer() *GraceClaims {
	return &GraceClaims{
		Subject: account, IssuedAt: now, AsOf: now - 1, Revision: "1-4711", Nonce: "bm9uY2U", Device: "dev_1",
		Balances: []Balance{{"coins", 120}, {"gems", -3}},
		Entitlements: []GraceEntitlement{
			{ID: "pro", Status: "active", Reason: "paid", Until: now + 30*day, OfflineUntil: now + 31*day, WillRenew: true, Plan: "pro_monthly"},
			{ID: "extra", Status: "expired", Reason: "expired", Until: now - day, Plan: "extra_monthly"},
		},
	}
}

func expectation(t testing.TB) Expect {
	return Expect{Roots: fixedRoots(t), Audience: audience, Environment: "production", Subject: account, Nonce: "bm9uY2U", At: at}
}

func signGrace(t testing.TB, c *GraceClaims) string {
	t.Helper()
	tok, err := graceSigner(t).AppendSign(nil, c)
	if err != nil {
		t.Fatalf("AppendSign: %v", err)
	}
	return string(tok)
}

func position() PositionClaims {
	return PositionClaims{IssuedAt: now, Epoch: 1, Revision: 4711, Chain: sha256.Sum256([]byte("chain")), StateHash: sha256.Sum256([]byte("state")), Rules: 1}
}

func sessionClaimsOf() SessionClaims {
	return SessionClaims{Issuer: cluster, Audience: audience, Environment: "production", Subject: account, Device: "dev_1", IssuedAt: now, ExpiresAt: now + 30*day, Revision: "1-17"}
}

// derSignature returns the deterministic ASN.1 signature of digest.
func derSignature(t testing.TB, key *ecdsa.PrivateKey, digest []byte) []byte {
	t.Helper()
	der, err := key.Sign(nil, digest, crypto.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	return der
}
