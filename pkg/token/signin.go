package token

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/golang-jwt/jwt/v5"
)

const (
	// MaxSignInBytes bounds a sign-in token before anything of it is looked at. Firebase's have about 1 KiB, those with many claims of their own 3.
	MaxSignInBytes = 4 << 10
	// maxSubjectBytes bounds issuer and subject together: they are one alias of the account.
	maxSubjectBytes = 512

	// signInLeeway is how far the clock of an identity provider may be off.
	signInLeeway = time.Minute

	// RSA keys of fewer bits can be broken, and more than these take too long to check.
	minRSABits = 2048
	maxRSABits = 8192
)

// SignInAlgorithms are those that a sign-in token may be signed with. None of them works with a key that both sides know.
var SignInAlgorithms = []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"}

// SignIn says which sign-in tokens are believed: JWTs that somebody else signs, such as the ID tokens of OpenID Connect. Tokens of our own are not
// among them; see SessionVerifier.
type SignIn struct {
	Issuer       string   // iss, to the letter
	Audiences    []string // aud names one of them
	Algorithms   []string // some of SignInAlgorithms
	SubjectClaim string   // the claim that names the user for ever; most often "sub"

	// Key returns the issuer's key for what the header says, which nobody has verified yet. Its errors come back from Verify, wrapped.
	Key func(algorithm, kid string) (crypto.PublicKey, error)
}

// SignedIn is what a sign-in token proves. Times are Unix seconds.
type SignedIn struct {
	Issuer    string
	Subject   string
	IssuedAt  int64 // 0: it does not say
	ExpiresAt int64 // exclusive
}

// Alias is the subject as the aliases of an account have it: "<issuer>|<subject>".
func (s SignedIn) Alias() string { return s.Issuer + "|" + s.Subject }

// SignInIssuer returns whom a token claims to come from, so that its keys can be found. Nothing of it is verified. Error: ErrMalformed.
func SignInIssuer(tok string) (string, error) {
	if len(tok) > MaxSignInBytes {
		return "", fmt.Errorf("%w: longer than %d bytes", ErrMalformed, MaxSignInBytes)
	}
	var c jwt.MapClaims
	if _, _, err := jwt.NewParser(jwt.WithStrictDecoding()).ParseUnverified(tok, &c); err != nil {
		return "", ErrMalformed // the library's own words may quote the token
	}
	issuer, err := c.GetIssuer()
	if err != nil || issuer == "" {
		return "", fmt.Errorf("%w: no issuer", ErrMalformed)
	}
	return issuer, nil
}

// Verify verifies tok at time at. Errors: ErrMalformed, ErrSignature, ErrExpired, ErrNotYetValid, ErrIssuer, ErrAudience, and those of Key.
func (s *SignIn) Verify(tok string, at time.Time) (SignedIn, error) {
	var out SignedIn
	if len(tok) > MaxSignInBytes || strings.ContainsAny(tok, "\r\n") {
		return out, fmt.Errorf("sign-in token: %w: too long, or with a line break", ErrMalformed)
	}
	parser := jwt.NewParser(
		jwt.WithValidMethods(s.Algorithms),
		jwt.WithStrictDecoding(),
		jwt.WithExpirationRequired(),
		jwt.WithIssuedAt(),
		jwt.WithIssuer(s.Issuer),
		jwt.WithAudience(s.Audiences...),
		jwt.WithLeeway(signInLeeway),
		jwt.WithTimeFunc(func() time.Time { return at }),
	)
	var keyErr error
	var c jwt.MapClaims
	_, err := parser.ParseWithClaims(tok, &c, func(t *jwt.Token) (any, error) {
		var key crypto.PublicKey
		key, keyErr = s.keyOf(t)
		return key, keyErr
	})
	switch {
	case keyErr != nil:
		err = keyErr
	case errors.Is(err, jwt.ErrTokenInvalidIssuer):
		err = ErrIssuer
	case errors.Is(err, jwt.ErrTokenInvalidAudience):
		err = ErrAudience
	case errors.Is(err, jwt.ErrTokenUsedBeforeIssued):
		err = ErrNotYetValid
	case err != nil:
		err = reason(err)
	default:
		out, err = s.signedIn(c)
	}
	if err != nil {
		return SignedIn{}, fmt.Errorf("sign-in token: %w", err)
	}
	return out, nil
}

func (s *SignIn) keyOf(t *jwt.Token) (crypto.PublicKey, error) {
	if _, has := t.Header["crit"]; has { // RFC 7515 section 4.1.11; golang-jwt does not look
		return nil, fmt.Errorf("%w: header has crit", ErrMalformed)
	}
	kid, _ := t.Header["kid"].(string)
	key, err := s.Key(t.Method.Alg(), kid)
	if err != nil {
		return nil, err
	}
	if !fitsAlgorithm(key, t.Method.Alg()) {
		return nil, fmt.Errorf("%w: the key is none for %s", ErrSignature, t.Method.Alg())
	}
	return key, nil
}

// fitsAlgorithm reports whether a key may be used with an algorithm. golang-jwt looks at the kind of key, and not at its curve or length.
func fitsAlgorithm(key crypto.PublicKey, algorithm string) bool {
	switch k := key.(type) {
	case *rsa.PublicKey:
		return (strings.HasPrefix(algorithm, "RS") || strings.HasPrefix(algorithm, "PS")) && k.N.BitLen() >= minRSABits && k.N.BitLen() <= maxRSABits
	case *ecdsa.PublicKey:
		return map[string]string{"ES256": "P-256", "ES384": "P-384", "ES512": "P-521"}[algorithm] == k.Curve.Params().Name
	case ed25519.PublicKey:
		return algorithm == "EdDSA"
	}
	return false
}

func (s *SignIn) signedIn(c jwt.MapClaims) (SignedIn, error) {
	subject, _ := c[s.SubjectClaim].(string)
	if subject == "" || len(s.Issuer)+1+len(subject) > maxSubjectBytes || strings.ContainsFunc(subject, unicode.IsControl) {
		return SignedIn{}, fmt.Errorf("%w: claim %s names nobody", ErrMalformed, s.SubjectClaim)
	}
	out := SignedIn{Issuer: s.Issuer, Subject: subject}
	expires, err := c.GetExpirationTime()
	if err != nil || expires == nil {
		return SignedIn{}, ErrMalformed
	}
	out.ExpiresAt = expires.Unix()
	if issued, err := c.GetIssuedAt(); err == nil && issued != nil {
		out.IssuedAt = issued.Unix()
	}
	return out, nil
}

// ValidSignInAlgorithm reports whether a sign-in token may be signed with an algorithm at all.
func ValidSignInAlgorithm(name string) bool { return slices.Contains(SignInAlgorithms, name) }
