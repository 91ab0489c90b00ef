package token

import (
	"crypto"
	"crypto/ecdsa"
	"fmt"
	"strings"
	"time"
)

// SessionClaims are the claims of a session token: what an app shows to an edge. All times are Unix seconds, UTC.
type SessionClaims struct {
	Issuer      string // iss: the cluster's id
	Audience    string // aud: the app
	Environment string // env
	Subject     string // sub: the account's id
	Device      string // dev: the device; empty when the customer's backend gave none
	IssuedAt    int64  // iat: an edge refuses one before the account's sessions_from
	ExpiresAt   int64  // exp, exclusive
	Revision    string // rev: where the account existed, "<epoch>-<revision>": an implicit min_revision
}

// SessionSigner signs session tokens of one environment. It is immutable and safe for concurrent use.
type SessionSigner struct {
	signer rawSigner
	header []byte
	keyID  string
}

// NewSessionSigner returns a signer with the environment's session key. Errors: ErrKey.
func NewSessionSigner(signer crypto.Signer) (*SessionSigner, error) {
	pub, err := publicKeyOf(signer)
	if err != nil {
		return nil, fmt.Errorf("session signer: %w", err)
	}
	kid, err := Thumbprint(pub)
	if err != nil {
		return nil, fmt.Errorf("session signer: %w", err)
	}
	raw, err := newRawSigner(signer)
	if err != nil {
		return nil, fmt.Errorf("session signer: %w", err)
	}
	return &SessionSigner{signer: raw, header: sessionHeader(kid), keyID: kid}, nil
}

// sessionHeader is the encoded header of every session token under a key.
func sessionHeader(kid string) []byte {
	header := appendText([]byte(`{"alg":"ES256","typ":"`+typSession+`"`), "kid", kid)
	return encodeHeader(append(header, '}'))
}

// KeyID returns the thumbprint of the signer's key.
func (s *SessionSigner) KeyID() string { return s.keyID }

// Sign returns the token of c. The same claims give the same token (RFC 6979): the repeat of a request under an Idempotency-Key signs
// its stored claims again instead of keeping the token. Errors: ErrMalformed for claims that every edge would refuse.
func (s *SessionSigner) Sign(c SessionClaims) (string, error) {
	if c.Issuer == "" || c.Audience == "" || c.Environment == "" || c.Subject == "" || c.Revision == "" || c.IssuedAt >= c.ExpiresAt {
		return "", fmt.Errorf("session token: %w: claims are missing or exp is not after iat", ErrMalformed)
	}
	b := AppendString([]byte(`{"iss":`), c.Issuer)
	b = appendText(b, "aud", c.Audience)
	b = appendText(b, "env", c.Environment)
	b = appendText(b, "sub", c.Subject)
	if c.Device != "" {
		b = appendText(b, "dev", c.Device)
	}
	b = appendInteger(b, "iat", c.IssuedAt)
	b = appendInteger(b, "exp", c.ExpiresAt)
	b = append(appendText(b, "rev", c.Revision), '}')
	out, err := appendJWS(nil, s.signer, s.header, &scratch{payload: b})
	if err != nil {
		return "", fmt.Errorf("session token: %w", err)
	}
	return string(out), nil
}

// SessionVerifier verifies the session tokens of one app in one environment. It is a value: replace it when the keys change. The zero
// value accepts nothing.
type SessionVerifier struct {
	Issuer      string // the cluster's id
	Audience    string
	Environment string
	Keys        map[string]*ecdsa.PublicKey // by kid

	headers []string // of the keys that AddKey added
}

// AddKey adds a session key as the records of kind `keys` hold it. Errors: ErrKey.
func (v *SessionVerifier) AddKey(j JWK) error {
	pub, err := j.PublicKey()
	if err != nil {
		return err
	}
	if v.Keys == nil {
		v.Keys = map[string]*ecdsa.PublicKey{}
	}
	kid := j.thumbprint() // not by the one that it claims
	v.Keys[kid] = pub
	v.headers = append(v.headers, string(sessionHeader(kid)))
	return nil
}

// Begins reports whether tok begins as SessionSigner has the tokens of one of the keys begin. Verify takes no other from a writer, and says why; this costs next to
// nothing, for whoever is sent garbage all day.
func (v *SessionVerifier) Begins(tok string) bool {
	for _, header := range v.headers {
		if strings.HasPrefix(tok, header) {
			return true
		}
	}
	return false
}

// Verify verifies tok at time at. What it cannot know is whether the account ended its sessions after IssuedAt. Errors: ErrMalformed,
// ErrUnknownKey, ErrSignature, ErrExpired, ErrNotYetValid, ErrIssuer, ErrAudience, ErrEnvironment.
func (v *SessionVerifier) Verify(tok string, at time.Time) (SessionClaims, error) {
	var c sessionClaims
	err := verifyJWS(tok, typSession, &c, judgedAt(at), func(h header) (*ecdsa.PublicKey, error) {
		if key := v.Keys[h.kid]; key != nil {
			return key, nil
		}
		return nil, ErrUnknownKey
	})
	switch {
	case err != nil:
	case c.Issuer != v.Issuer:
		err = ErrIssuer
	case c.Audience != v.Audience:
		err = ErrAudience
	case c.Environment != v.Environment:
		err = ErrEnvironment
	}
	if err != nil {
		return SessionClaims{}, fmt.Errorf("session token: %w", err)
	}
	return c.SessionClaims, nil
}

type sessionClaims struct {
	registered
	SessionClaims
}

func (c *sessionClaims) fromObject(o object) error {
	m := members{object: o}
	c.judge(&m)
	c.SessionClaims = SessionClaims{
		Issuer:      m.text("iss"),
		Audience:    m.text("aud"),
		Environment: m.text("env"),
		Subject:     m.text("sub"),
		Device:      m.optionalText("dev"),
		IssuedAt:    m.integer("iat"),
		ExpiresAt:   m.integer("exp"),
		Revision:    m.text("rev"),
	}
	return m.err
}
