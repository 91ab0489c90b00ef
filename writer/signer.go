package writer

import (
	"crypto/ecdsa"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/latchkey/latchkey/pkg/token"
)

// A position key's certificate is made for as long as the rules allow and renewed when a third of that has passed, so that a writer
// whose issuing key is unusable for a day goes on signing.
const (
	certificateLife = token.MaxLeafSeconds * time.Second
	renewBelow      = 48 * time.Hour
	// renewGain is the least by which a renewal must prolong: near the end of the issuing key's own life there is nothing to gain.
	renewGain = time.Hour
)

// signer signs positions, heads and manifests with a key that is made at start and lives in memory alone.
type signer struct {
	keys    *keyring
	cluster string
	node    string
	key     *ecdsa.PrivateKey

	renewing sync.Mutex
	current  atomic.Pointer[token.PositionSigner]
}

func newSigner(keys *keyring, cluster, node string, now time.Time) (*signer, error) {
	key, err := token.GenerateKey()
	if err != nil {
		return nil, err
	}
	s := &signer{keys: keys, cluster: cluster, node: node, key: key}
	return s, s.renew(now)
}

// renew certifies the key anew.
func (s *signer) renew(now time.Time) error {
	cert, err := s.keys.certify(token.Certificate{Issuer: s.cluster, Subject: s.node, Role: token.RoleWriter, Key: &s.key.PublicKey}, now)
	if err != nil {
		return err
	}
	next, err := token.NewPositionSigner(s.key, []string{cert, s.keys.issuerText}, s.keys.roots, now)
	if err != nil {
		return err
	}
	s.current.Store(next)
	return nil
}

// certify issues a certificate that begins a little before now and ends as late as the rules and the issuing key allow.
func (k *keyring) certify(c token.Certificate, now time.Time) (string, error) {
	c.NotBefore = max(now.Add(-backdate).Unix(), k.issuerCert.NotBefore)
	c.ExpiresAt = min(c.NotBefore+int64(certificateLife/time.Second), k.issuerCert.ExpiresAt)
	cert, err := token.IssueCertificate(k.issuer, c)
	if err != nil {
		return "", fmt.Errorf("certify %s: %w", c.Subject, err)
	}
	return cert, nil
}

// sign signs a position, head or manifest whose IssuedAt is now, renewing the certificate when it is due.
func (s *signer) sign(c token.PositionClaims, now time.Time) (string, error) {
	if !s.valid(now) {
		if err := s.replace(now); err != nil {
			return "", err
		}
	} else if s.due(now) && s.renewing.TryLock() {
		_ = s.renew(now) // what it has is good for a while
		s.renewing.Unlock()
	}
	b, err := s.current.Load().AppendSign(nil, c)
	return string(b), err
}

// valid is false for a certificate that has ended, and for one that has not begun: it was made while this writer's clock was ahead.
func (s *signer) valid(now time.Time) bool {
	c := s.current.Load().Certificate()
	return c.NotBefore <= now.Unix() && now.Unix() < c.ExpiresAt
}

// replace certifies the key anew, once for all who wait for it.
func (s *signer) replace(now time.Time) error {
	s.renewing.Lock()
	defer s.renewing.Unlock()
	if s.valid(now) {
		return nil
	}
	return s.renew(now)
}

func (s *signer) due(now time.Time) bool {
	left := time.Unix(s.current.Load().Certificate().ExpiresAt, 0).Sub(now)
	possible := time.Unix(s.keys.issuerCert.ExpiresAt, 0).Sub(now)
	return left < renewBelow && min(certificateLife, possible)-left > renewGain
}
