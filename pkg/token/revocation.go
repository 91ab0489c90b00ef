package token

import (
	"crypto"
	"crypto/ecdsa"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
)

// ErrRevoked means that a key in the chain is on a list of revoked keys. What it signed counts for nothing, whatever its date.
var ErrRevoked = errors.New("key revoked")

const (
	// MaxRevoked is how many keys a list may name. A list travels with every answer, and a key stays on it no longer than its certificates live: when more
	// edges than this are lost at once, the issuing key above them is what to revoke.
	MaxRevoked = 64

	// maxLists is how many lists a token's header may carry: one of a root, one of an issuing key.
	maxLists = 2
)

// RevocationClaims are the claims of a list of revoked keys. A newer list stands in the place of an older one: it says again what still counts.
type RevocationClaims struct {
	Issuer   string // iss: the cluster's id
	IssuedAt int64  // iat, Unix seconds: the certificate above the list is judged at it, so that a kept list needs no clock
	// Counter orders lists: at least one more than the last one's, and not below IssuedAt, so that a cluster restored from an old backup does not make
	// lists which everybody takes for old. At most 2^53 - 1.
	Counter int64
	Revoked []string // revoked: the kids, RFC 7638 thumbprints, unique, at most MaxRevoked
}

// SignRevocations returns the list of c. With issuerCert, the certificate of signer's key under a root, it can revoke keys of edges and writers. Without,
// signer is a root's key, and the list can revoke issuing keys too: what an issuing key could say against another, its thief could. Errors: ErrKey,
// ErrMalformed for what no verifier would take.
func SignRevocations(signer crypto.Signer, issuerCert string, c RevocationClaims) (string, error) {
	pub, err := publicKeyOf(signer)
	if err != nil {
		return "", fmt.Errorf("sign revocations: %w", err)
	}
	header := []byte(`{"alg":"ES256","typ":"` + typRevocations + `"`)
	if issuerCert != "" {
		cert, err := ParseCertificate(issuerCert)
		if err != nil {
			return "", fmt.Errorf("sign revocations: issuer: %w", err)
		}
		if !pub.Equal(cert.Key) || cert.Role != RoleIssuer {
			return "", fmt.Errorf("sign revocations: %w: the certificate is not that of the signing key", ErrKey)
		}
		header = AppendString(append(header, `,"crt":[`...), issuerCert)
		header = append(header, ']')
	}
	payload := appendRevocations(nil, &c)
	if err := decodeRevocations(payload); err != nil {
		return "", fmt.Errorf("sign revocations: %w", err)
	}
	list, err := oneJWS(signer, encodeHeader(append(header, '}')), payload)
	if err != nil {
		return "", fmt.Errorf("sign revocations: %w", err)
	}
	return string(list), nil
}

func decodeRevocations(payload []byte) error {
	o, err := parseObject(payload)
	if err == nil {
		err = new(revocationClaims).fromObject(o)
	}
	if err != nil {
		return fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	return nil
}

func appendRevocations(dst []byte, c *RevocationClaims) []byte {
	dst = AppendString(append(dst, `{"iss":`...), c.Issuer)
	dst = appendInteger(dst, "iat", c.IssuedAt)
	dst = appendInteger(dst, "counter", c.Counter)
	dst = append(dst, `,"revoked":[`...)
	for i, kid := range c.Revoked {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = AppendString(dst, kid)
	}
	return append(dst, `]}`...)
}

// Revocations is what a verifier knows of revoked keys: the newest list of a root and the newest of an issuing key. It never goes back. The zero value knows
// none. It is safe for concurrent use and must not be copied.
type Revocations struct {
	mu           sync.RWMutex
	root, issuer *revocationList // nil: none
}

type revocationList struct {
	text     string
	claims   RevocationClaims
	issuerID string // kid of the issuing key that signed it; empty for a root's
}

// Learn takes list if it is genuine and newer than what is known, and reports whether it was. A list is judged without a clock. Errors, of a list that nobody
// may take: ErrMalformed, ErrSignature, ErrChain with the reason inside (ErrRevoked: a root has revoked the issuing key that signed it).
func (r *Revocations) Learn(list string, roots Roots) (newer bool, err error) {
	l, err := verifyRevocations(list, roots)
	if err != nil {
		return false, fmt.Errorf("revocations: %w", err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if l.issuerID == "" {
		if r.root != nil && l.claims.Counter <= r.root.claims.Counter {
			return false, nil
		}
		r.root = l
		if r.issuer != nil && l.names(r.issuer.issuerID) {
			r.issuer = nil // its thief may have signed it, with the greatest counter that there is
		}
		return true, nil
	}
	if r.root.names(l.issuerID) {
		return false, fmt.Errorf("revocations: %w: %w", ErrChain, ErrRevoked)
	}
	if r.issuer != nil && l.claims.Counter <= r.issuer.claims.Counter {
		return false, nil
	}
	r.issuer = l
	return true, nil
}

// Lists returns the lists that are known, the root's first: what to keep, to hand on, and to give to Learn after a restart.
func (r *Revocations) Lists() []string {
	if r == nil {
		return nil
	}
	r.mu.RLock()
	defer r.mu.RUnlock()
	var lists []string
	for _, l := range []*revocationList{r.root, r.issuer} {
		if l != nil {
			lists = append(lists, l.text)
		}
	}
	return lists
}

// Counters returns those of the newest list of a root and of an issuing key; 0 without one.
func (r *Revocations) Counters() (root, issuer int64) {
	if r == nil {
		return 0, 0
	}
	r.mu.RLock()
	defer r.mu.RUnlock()
	if r.root != nil {
		root = r.root.claims.Counter
	}
	if r.issuer != nil {
		issuer = r.issuer.claims.Counter
	}
	return root, issuer
}

// RevokedLeaf reports whether kid, of an edge's or a writer's key, is revoked.
func (r *Revocations) RevokedLeaf(kid string) bool {
	if r == nil {
		return false
	}
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.root.names(kid) || r.issuer.names(kid)
}

// RevokedIssuer reports whether kid, of an issuing key, is revoked. Only a root's list says so.
func (r *Revocations) RevokedIssuer(kid string) bool {
	if r == nil {
		return false
	}
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.root.names(kid)
}

// names reports whether the list names kid; nil names none.
func (l *revocationList) names(kid string) bool {
	return l != nil && slices.Contains(l.claims.Revoked, kid)
}

// refuse says why nothing under the chain counts, or nil. Errors: ErrChain with ErrRevoked.
func (r *Revocations) refuse(c *Chain) error {
	if r == nil {
		return nil
	}
	leaf, err := Thumbprint(c.Leaf.Key)
	if err != nil {
		return err
	}
	issuer, err := Thumbprint(c.Issuer.Key)
	if err != nil {
		return err
	}
	if r.RevokedIssuer(issuer) {
		return fmt.Errorf("%w: issuer: %w", ErrChain, ErrRevoked)
	}
	if r.RevokedLeaf(leaf) {
		return fmt.Errorf("%w: %s: %w", ErrChain, c.Leaf.Role, ErrRevoked)
	}
	return nil
}

// ReadRevocations verifies a list and returns what it says, and whether a root signed it: for tools, and for a writer that stores it. Errors: those of
// Revocations.Learn but ErrRevoked.
func ReadRevocations(list string, roots Roots) (c RevocationClaims, byRoot bool, err error) {
	l, err := verifyRevocations(list, roots)
	if err != nil {
		return RevocationClaims{}, false, fmt.Errorf("revocations: %w", err)
	}
	return l.claims, l.issuerID == "", nil
}

// verifyRevocations verifies form, signature and certificate of one list.
func verifyRevocations(list string, roots Roots) (*revocationList, error) {
	h, err := parseHeader(list)
	if err != nil {
		return nil, err
	}
	if h.typ != typRevocations {
		return nil, fmt.Errorf("%w: typ is not %s", ErrMalformed, typRevocations)
	}
	l := &revocationList{text: strings.Clone(list)}
	signers := roots
	var cert Certificate
	if h.crt != nil {
		if cert, err = revokingIssuer(h.crt, roots); err != nil {
			return nil, err
		}
		signers = Roots{cert.Key}
		if l.issuerID, err = Thumbprint(cert.Key); err != nil {
			return nil, err
		}
	}
	encoded, err := verifyUnderAny(list, signers)
	if err != nil {
		return nil, err
	}
	var c revocationClaims
	if err := decodeClaims(encoded, &c); err != nil {
		return nil, err
	}
	if h.crt != nil {
		if c.Issuer != cert.Issuer {
			return nil, fmt.Errorf("%w: %w", ErrChain, ErrIssuer)
		}
		if err := cert.validAt(c.IssuedAt); err != nil {
			return nil, fmt.Errorf("%w: issuer: %w", ErrChain, err)
		}
	}
	l.claims = c.RevocationClaims
	return l, nil
}

func revokingIssuer(crt []string, roots Roots) (Certificate, error) {
	if len(crt) != 1 {
		return Certificate{}, fmt.Errorf("%w: %w: not exactly one certificate", ErrChain, ErrMalformed)
	}
	return verifyIssuer(crt[0], roots)
}

// verifyUnderAny verifies jws under one of keys and returns its second part. No key gives ErrSignature.
func verifyUnderAny(jws string, keys []*ecdsa.PublicKey) (encoded string, err error) {
	err = fmt.Errorf("%w: no root is pinned", ErrSignature)
	for _, key := range keys {
		if encoded, err = verifySignature(jws, key); !errors.Is(err, ErrSignature) {
			break
		}
	}
	return encoded, err
}

type revocationClaims struct {
	registered
	RevocationClaims
}

func (c *revocationClaims) fromObject(o object) error {
	m := members{object: o}
	c.RevocationClaims = RevocationClaims{Issuer: m.text("iss"), IssuedAt: m.integer("iat"), Counter: m.integer("counter")}
	if c.Counter < 1 {
		m.fail("counter", "one or more")
	}
	list := m.list("revoked")
	if len(list) > MaxRevoked {
		m.fail("revoked", fmt.Sprintf("an array of at most %d", MaxRevoked))
	}
	for _, v := range list {
		kid, ok := v.(string)
		if !ok || kid == "" || slices.Contains(c.Revoked, kid) {
			m.fail("revoked", "an array of unique strings")
			break
		}
		c.Revoked = append(c.Revoked, kid)
	}
	return m.err
}
