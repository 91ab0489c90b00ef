package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"sync"
	"time"

	"github.com/latchkey/latchkey/pkg/token"
	"github.com/latchkey/latchkey/replication"
)

const (
	clusterID = "01SIMULATED"
	// otherID is another installation under the same root, which ours must not believe.
	otherID = "01ANOTHER"
	// mostWriters have certificates.
	mostWriters = 3
)

// authority is a root and the writers that it certifies. Keys are the same in every run, so that signatures are.
type authority struct {
	roots   token.Roots
	signers [mostWriters]*token.PositionSigner
}

func newAuthority(root, cluster string) *authority {
	a := &authority{}
	rootKey, issuer := fixedKey(root), fixedKey(root+" issuer")
	a.roots = token.Roots{&rootKey.PublicKey}
	certify := func(by *ecdsa.PrivateKey, c token.Certificate) string {
		c.Issuer = cluster
		text, err := token.IssueCertificate(by, c)
		must(err)
		return text
	}
	issuerText := certify(rootKey, token.Certificate{Subject: "issuer", Role: token.RoleIssuer, NotBefore: epochTime - 86400, ExpiresAt: epochTime + 86400*300, Key: &issuer.PublicKey})
	for i := range a.signers {
		name := writerName(i)
		key := fixedKey(root + name)
		leaf := certify(issuer, token.Certificate{Subject: name, Role: token.RoleWriter, NotBefore: epochTime - 3600, ExpiresAt: epochTime - 3600 + token.MaxLeafSeconds, Key: &key.PublicKey})
		var err error
		a.signers[i], err = token.NewPositionSigner(key, []string{leaf, issuerText}, a.roots, time.Unix(epochTime, 0))
		must(err)
	}
	return a
}

func writerName(i int) string { return "w" + string(rune('1'+i)) }

// fixedKey is the private key that a name stands for.
func fixedKey(name string) *ecdsa.PrivateKey {
	sum := sha256.Sum256([]byte(name))
	key, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), sum[:])
	must(err)
	return key
}

// authorities are made once: ours, one with another root, and another cluster under ours.
var authorities = sync.OnceValue(func() [3]*authority {
	return [3]*authority{newAuthority("root", clusterID), newAuthority("stranger", clusterID), newAuthority("root", otherID)}
})

// keys sign and verify in one world. A statement is verified once, whoever asks.
type keys struct {
	ours, stranger, other *authority
	verifier              *replication.Verifier
	judged                map[string]judged
}

type judged struct {
	claims token.PositionClaims
	err    error
}

func newKeys() *keys {
	all := authorities()
	k := &keys{ours: all[0], stranger: all[1], other: all[2], judged: map[string]judged{}}
	positions := sharedPositions()
	k.verifier = replication.NewVerifierWith(func(signed string) (token.PositionClaims, error) {
		j, known := k.judged[signed]
		if !known {
			j.claims, j.err = positions.Verify(signed)
			k.judged[signed] = j
		}
		return j.claims, j.err
	})
	return k
}

// sharedPositions knows the chains of all writers after their first statement.
var sharedPositions = sync.OnceValue(func() *token.PositionVerifier {
	return &token.PositionVerifier{Roots: authorities()[0].roots, Cluster: clusterID}
})

// sign signs as writer i of an authority.
func (a *authority) sign(i int, c token.PositionClaims) string {
	b, err := a.signers[i].AppendSign(nil, c)
	must(err)
	return string(b)
}
