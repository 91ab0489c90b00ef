package token

import (
	"crypto"
	"crypto/ecdsa"
	"errors"
	"fmt"
	"time"
)

// Role says what a certified key may sign.
type Role string

// The roles.
const (
	RoleIssuer Role = "issuer" // certificates of edges and writers
	RoleEdge   Role = "edge"   // grace tokens of one audience and environment
	RoleWriter Role = "writer" // positions, heads and snapshot manifests
)

// How long certificates may live, in seconds. A stolen edge or writer key is worth 72 hours; the issuing key, which apps cannot
// revoke, a year and the month in which its successor is already in use.
const (
	MaxLeafSeconds   = 72 * 3600
	MaxIssuerSeconds = 400 * 24 * 3600
)

// ErrCertificate means that IssueCertificate was asked for what no verifier would accept.
var ErrCertificate = errors.New("no such certificate can be issued")

// Certificate binds a P-256 key to what it may sign. On the wire it is a JWT of typ `latchkey-cert+jwt`. Times are Unix seconds.
type Certificate struct {
	Issuer  string // iss: the cluster's id, in every certificate of a chain the same
	Subject string // sub: the node's name; for an issuer a name of the key
	Role    Role

	// Audience and Environment are the app and environment whose tokens an edge's key may sign. Set for RoleEdge and for no other.
	Audience    string
	Environment string

	NotBefore int64 // nbf: valid from this second on
	ExpiresAt int64 // exp: no longer valid at this second

	Key *ecdsa.PublicKey // cnf.jwk, RFC 7800
}

// IssueCertificate signs c: with a root's key for RoleIssuer, with an issuer's key for the others. Errors: ErrCertificate (which rule
// c breaks), ErrKey.
func IssueCertificate(signer crypto.Signer, c Certificate) (string, error) {
	if _, err := publicKeyOf(signer); err != nil {
		return "", fmt.Errorf("issue certificate for %s: signer: %w", c.Subject, err)
	}
	jwk, err := bareJWK(c.Key)
	if err != nil {
		return "", fmt.Errorf("issue certificate for %s: %w", c.Subject, err)
	}
	if c.Issuer == "" || c.Subject == "" {
		return "", fmt.Errorf("%w: issuer and subject must be given", ErrCertificate)
	}
	if err := c.rules(c.Role); err != nil {
		return "", fmt.Errorf("%w: %s: %w", ErrCertificate, c.Subject, err)
	}
	b := appendCertificate(nil, &c, jwk)
	jws, err := oneJWS(signer, certificateHeader, b)
	if err != nil {
		return "", fmt.Errorf("issue certificate for %s: %w", c.Subject, err)
	}
	return string(jws), nil
}

func appendCertificate(dst []byte, c *Certificate, jwk JWK) []byte {
	b := AppendString(append(dst, `{"iss":`...), c.Issuer)
	b = appendText(b, "sub", c.Subject)
	b = appendText(b, "role", string(c.Role))
	if c.Audience != "" {
		b = appendText(b, "aud", c.Audience)
	}
	if c.Environment != "" {
		b = appendText(b, "env", c.Environment)
	}
	b = appendInteger(b, "nbf", c.NotBefore)
	b = appendInteger(b, "exp", c.ExpiresAt)
	b = append(b, `,"cnf":{"jwk":{"kty":"EC","crv":"P-256","x":"`...)
	b = append(append(b, jwk.X...), `","y":"`...)
	return append(append(b, jwk.Y...), `"}}}`...)
}

var certificateHeader = encodeHeader([]byte(`{"alg":"ES256","typ":"` + typCertificate + `"}`))

// rules says which rule of role c breaks. The time of judging is not part of it.
func (c *Certificate) rules(role Role) error {
	limit := int64(MaxLeafSeconds)
	switch role {
	case RoleIssuer:
		limit = MaxIssuerSeconds
	case RoleEdge, RoleWriter:
	default:
		return fmt.Errorf("%w: unknown role", ErrMalformed)
	}
	if c.Role != role {
		return fmt.Errorf("%w: the role is not %s", ErrMalformed, role)
	}
	if named := c.Audience != "" && c.Environment != ""; role == RoleEdge && !named {
		return fmt.Errorf("%w: an edge's certificate names no audience or no environment", ErrMalformed)
	}
	if role != RoleEdge && (c.Audience != "" || c.Environment != "") {
		return fmt.Errorf("%w: the certificate of an %s names an audience or an environment", ErrMalformed, role)
	}
	if c.ExpiresAt <= c.NotBefore || c.ExpiresAt-c.NotBefore > limit {
		return fmt.Errorf("%w: certificate of role %s", ErrLifetime, role)
	}
	return nil
}

// validAt reports whether nbf <= t < exp. Errors: ErrNotYetValid, ErrExpired.
func (c *Certificate) validAt(t int64) error {
	switch {
	case t < c.NotBefore:
		return ErrNotYetValid
	case t >= c.ExpiresAt:
		return ErrExpired
	}
	return nil
}

// Chain is a leaf's certificate and that of the issuer above it, the issuer signed by a pinned root.
type Chain struct {
	Leaf   Certificate // RoleEdge or RoleWriter
	Issuer Certificate // RoleIssuer
}

// Roots are the pinned public keys, in any order: the active one and the spare. None means that nothing is accepted.
type Roots []*ecdsa.PublicKey

// ParseRoots reads one SPKI PEM text for each root. Errors: ErrKey.
func ParseRoots(texts ...[]byte) (Roots, error) {
	var roots Roots
	for i, text := range texts {
		key, err := ParsePublicKeyPEM(text)
		if err != nil {
			return nil, fmt.Errorf("root %d: %w", i+1, err)
		}
		roots = append(roots, key)
	}
	return roots, nil
}

// VerifyChain verifies certs, leaf first and issuer second, up to one of roots at time at, the leaf in the given role. Errors:
// ErrChain, with the reason inside (ErrExpired, ErrNotYetValid, ErrSignature, ErrMalformed, ErrLifetime, ErrIssuer).
func VerifyChain(certs []string, role Role, roots Roots, at time.Time) (*Chain, error) {
	chain, err := verifyChain(certs, role, roots)
	if err != nil {
		return nil, err
	}
	if err := chain.validAt(at.Unix()); err != nil {
		return nil, err
	}
	return chain, nil
}

// validAt reports whether both certificates are valid at t. Errors: ErrChain with ErrNotYetValid or ErrExpired.
func (c *Chain) validAt(t int64) error {
	if err := c.Issuer.validAt(t); err != nil {
		return fmt.Errorf("%w: issuer: %w", ErrChain, err)
	}
	if err := c.Leaf.validAt(t); err != nil {
		return fmt.Errorf("%w: %s: %w", ErrChain, c.Leaf.Role, err)
	}
	return nil
}

// expiresAt is the earlier end of the two: nothing that the leaf signs may live longer.
func (c *Chain) expiresAt() int64 { return min(c.Leaf.ExpiresAt, c.Issuer.ExpiresAt) }

// verifyChain is VerifyChain without the clock, for callers that learn the time of judging from what the leaf signed.
func verifyChain(certs []string, role Role, roots Roots) (*Chain, error) {
	if len(certs) != 2 {
		return nil, fmt.Errorf("%w: %w: not exactly two certificates", ErrChain, ErrMalformed)
	}
	var c Chain
	var err error
	if c.Issuer, err = verifyIssuer(certs[1], roots); err != nil {
		return nil, err
	}
	if c.Leaf, err = verifyCertificate(certs[0], c.Issuer.Key); err == nil {
		err = c.Leaf.rules(role)
	}
	if err == nil && c.Leaf.Issuer != c.Issuer.Issuer {
		err = ErrIssuer
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrChain, role, err)
	}
	return &c, nil
}

// verifyIssuer verifies an issuing key's certificate, without the clock. Errors: ErrChain with the reason inside.
func verifyIssuer(cert string, roots Roots) (c Certificate, err error) {
	err = fmt.Errorf("%w: no root is pinned", ErrSignature)
	for _, root := range roots {
		if c, err = verifyCertificate(cert, root); !errors.Is(err, ErrSignature) {
			break
		}
	}
	if err == nil {
		err = c.rules(RoleIssuer)
	}
	if err != nil {
		return Certificate{}, fmt.Errorf("%w: issuer: %w", ErrChain, err)
	}
	return c, nil
}

// ParseCertificate reads a certificate without verifying it: for status pages, and for a node to see when its own one ends. Errors:
// ErrMalformed.
func ParseCertificate(cert string) (Certificate, error) {
	var c certificateClaims
	err := unverifiedClaims(cert, typCertificate, &c)
	return c.Certificate, err
}

// verifyCertificate verifies form and signature of one certificate.
func verifyCertificate(cert string, signer *ecdsa.PublicKey) (Certificate, error) {
	var c certificateClaims
	err := verifyJWS(cert, typCertificate, &c, judgedLater(), func(header) (*ecdsa.PublicKey, error) { return signer, nil })
	return c.Certificate, err
}

type certificateClaims struct {
	registered
	Certificate
}

func (c *certificateClaims) fromObject(o object) error {
	m := members{object: o}
	c.judge(&m)
	c.Certificate = Certificate{
		Issuer:    m.text("iss"),
		Subject:   m.text("sub"),
		Role:      Role(m.text("role")),
		NotBefore: m.integer("nbf"),
		ExpiresAt: m.integer("exp"),
	}
	// Present but empty is not absent: an issuer with "aud":"" would pass for one without.
	if m.has("aud") {
		c.Audience = m.text("aud")
	}
	if m.has("env") {
		c.Environment = m.text("env")
	}
	cnf := members{object: m.nested("cnf")}
	jwk := members{object: cnf.nested("jwk")}
	j := JWK{KeyType: jwk.text("kty"), Curve: jwk.text("crv"), X: jwk.text("x"), Y: jwk.text("y")}
	for _, part := range []members{m, cnf, jwk} {
		if part.err != nil {
			return part.err
		}
	}
	// Exactly the members that the thumbprint covers: with key_ops, alg or d inside, JOSE libraries differ on what to do with the key.
	if len(jwk.object) != 4 {
		return fmt.Errorf("%w: cnf.jwk has other members than kty, crv, x and y", errJSON)
	}
	var err error
	if c.Key, err = j.PublicKey(); err != nil {
		return fmt.Errorf("%w: cnf.jwk: %w", errJSON, err)
	}
	return nil
}
