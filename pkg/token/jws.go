package token

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// Why a token, certificate or position was refused. A refusal wraps exactly one of these, but that of a certificate wraps ErrChain
// and the reason inside. None of them takes anything from a user: an app that holds an older accepted token goes on with that.
var (
	// ErrMalformed means that the text is not of the kind asked for: wrong typ, base64, JSON, a claim missing or contradicting another.
	// Asking again does not help; the sender is broken or not Latchkey.
	ErrMalformed = errors.New("malformed")
	// ErrSignature means that a signature does not hold under the key it must hold under, or is of another algorithm than ES256.
	ErrSignature = errors.New("signature does not verify")
	// ErrChain means that the certificates do not lead from the key to a pinned root by the rules.
	ErrChain = errors.New("certificate chain refused")
	// ErrExpired means that the time of judging is at or after an exp. Ask an edge for a new token.
	ErrExpired = errors.New("expired")
	// ErrNotYetValid means that the time of judging is before an nbf. Most often the clock of the one who judges is behind.
	ErrNotYetValid = errors.New("not yet valid")
	// ErrLifetime means that something lives longer than the rules allow: a certificate, or a token beyond its as_of or certificates.
	ErrLifetime = errors.New("lives longer than allowed")
	// ErrIssuer means another cluster than expected.
	ErrIssuer = errors.New("other issuer")
	// ErrAudience means that the token is for another app.
	ErrAudience = errors.New("other audience")
	// ErrEnvironment means that the token is for another environment: a sandbox token in production, or the other way round.
	ErrEnvironment = errors.New("other environment")
	// ErrSubject means that the token is for another account.
	ErrSubject = errors.New("other subject")
	// ErrNonce means that the token does not answer the request that was made.
	ErrNonce = errors.New("other nonce")
	// ErrUnknownKey means that no key is known under the token's kid. The key set may be behind.
	ErrUnknownKey = errors.New("unknown key")
)

// MaxTokenBytes bounds what is looked at before any signature is verified. It has room for about 300 entitlements.
const MaxTokenBytes = 64 << 10

const (
	typCertificate = "latchkey-cert+jwt"
	typGrace       = "latchkey-grace+jwt"
	typSession     = "latchkey-session+jwt"
	typPosition    = "latchkey-position+jwt"
	typRevocations = "latchkey-revocations+jwt"

	algorithm      = "ES256"
	signatureBytes = 2 * coordinateBytes
)

// encodeHeader returns the first part of a token with the dot behind it. It is made once for a key: the header never varies.
func encodeHeader(header []byte) []byte {
	return append(base64.RawURLEncoding.AppendEncode(nil, header), '.')
}

// scratch holds what a signature needs for a moment. It is pooled; digest and signature are in it because what an interface's method sees escapes.
type scratch struct {
	payload []byte
	digest  [sha256.Size]byte
	raw     [signatureBytes]byte
	arithmetic
}

var scratches = sync.Pool{New: func() any { return &scratch{payload: make([]byte, 0, 1024)} }}

// appendJWS appends the compact JWS of work.payload to dst. Where dst has room, it allocates nothing under a key that is kept here.
func appendJWS(dst []byte, signer rawSigner, encodedHeader []byte, work *scratch) ([]byte, error) {
	start := len(dst)
	out := append(dst, encodedHeader...)
	out = base64.RawURLEncoding.AppendEncode(out, work.payload)
	work.digest = sha256.Sum256(out[start:])
	if err := signer.sign(work); err != nil {
		return dst, err
	}
	out = append(out, '.')
	return base64.RawURLEncoding.AppendEncode(out, work.raw[:]), nil
}

// oneJWS returns the compact JWS of payload by a signer that is not kept for further ones.
func oneJWS(signer crypto.Signer, encodedHeader, payload []byte) ([]byte, error) {
	raw, err := newRawSigner(signer)
	if err != nil {
		return nil, err
	}
	return appendJWS(nil, raw, encodedHeader, &scratch{payload: payload})
}

// rawSignature turns the ASN.1 signature of crypto/ecdsa into the r || s of RFC 7518 section 3.4. crypto/ecdsa has no function that
// gives r and s without either ASN.1 or two big.Ints; this is the one that allocates nothing.
func rawSignature(raw *[signatureBytes]byte, der []byte) error {
	// SEQUENCE of two INTEGERs; for P-256 at most 70 bytes, so every length is one byte.
	if len(der) < 2 || der[0] != 0x30 || int(der[1]) != len(der)-2 {
		return errASN1
	}
	rest, ok := rawInteger(raw[:coordinateBytes], der[2:])
	if !ok {
		return errASN1
	}
	if rest, ok = rawInteger(raw[coordinateBytes:], rest); !ok || len(rest) != 0 {
		return errASN1
	}
	return nil
}

var errASN1 = errors.New("the signer gave no ASN.1 P-256 signature")

// rawInteger writes the INTEGER at the head of der into dst, padded on the left, and returns what follows it.
func rawInteger(dst, der []byte) (rest []byte, ok bool) {
	if len(der) < 2 || der[0] != 0x02 || int(der[1]) > len(der)-2 {
		return nil, false
	}
	value, rest := der[2:2+der[1]], der[2+der[1]:]
	for len(value) > 0 && value[0] == 0 {
		value = value[1:]
	}
	if len(value) > len(dst) {
		return nil, false
	}
	copy(dst[len(dst)-len(value):], value)
	return rest, true
}

// header is what we read of a JOSE header. Others than these and crit are ignored, as RFC 7515 section 4 asks.
type header struct {
	typ, kid string
	crt      []string // nil when absent
	rvk      []string // lists of revoked keys; nil when absent
}

// parseHeader reads the header strictly and refuses any algorithm but ES256 before a key is looked at.
func parseHeader(tok string) (header, error) {
	if len(tok) > MaxTokenBytes {
		return header{}, fmt.Errorf("%w: longer than %d bytes", ErrMalformed, MaxTokenBytes)
	}
	if strings.ContainsAny(tok, "\r\n") { // golang-jwt would pass them on to the decoder, see decodeSegment
		return header{}, fmt.Errorf("%w: line break", ErrMalformed)
	}
	encoded, _, _ := strings.Cut(tok, ".")
	text, err := decodeSegment(encoded)
	if err != nil {
		return header{}, err
	}
	o, err := parseObject(text)
	if err != nil {
		return header{}, fmt.Errorf("%w: header: %w", ErrMalformed, err)
	}
	m := members{object: o}
	if m.text("alg") != algorithm {
		return header{}, fmt.Errorf("%w: the algorithm is not %s", ErrSignature, algorithm)
	}
	// RFC 7515 section 4.1.11: what the sender calls critical and we do not know makes the token invalid. golang-jwt does not look.
	if m.has("crit") {
		return header{}, fmt.Errorf("%w: header has crit", ErrMalformed)
	}
	h := header{typ: m.optionalText("typ"), kid: m.optionalText("kid")}
	h.crt, h.rvk = m.texts("crt"), m.texts("rvk")
	if len(h.rvk) > maxLists {
		m.fail("rvk", "an array of at most two")
	}
	if m.err != nil {
		return header{}, fmt.Errorf("%w: header: %w", ErrMalformed, m.err)
	}
	return h, nil
}

// decodeSegment decodes canonical base64url. Go's decoder skips line breaks even when it is strict, hence the comparison.
func decodeSegment(s string) ([]byte, error) {
	b, err := base64.RawURLEncoding.Strict().DecodeString(s)
	if err != nil || base64.RawURLEncoding.EncodedLen(len(b)) != len(s) {
		return nil, fmt.Errorf("%w: not canonical base64url", ErrMalformed)
	}
	return b, nil
}

// unverifiedClaims decodes the claims of tok into c without looking at the signature.
func unverifiedClaims(tok, typ string, c claims) error {
	h, err := parseHeader(tok)
	if err != nil {
		return err
	}
	if h.typ != typ {
		return fmt.Errorf("%w: not a %s", ErrMalformed, typ)
	}
	parts := strings.Split(tok, ".")
	if len(parts) != 3 {
		return fmt.Errorf("%w: not three parts", ErrMalformed)
	}
	return decodeClaims(parts[1], c)
}

// verifySignature verifies tok, whose header is already known to be good, under key, and returns its second part.
func verifySignature(tok string, key *ecdsa.PublicKey) (encoded string, err error) {
	parts := strings.Split(tok, ".")
	if len(parts) != 3 {
		return "", fmt.Errorf("%w: not three parts", ErrMalformed)
	}
	signature, err := decodeSegment(parts[2])
	if err != nil {
		return "", err
	}
	if err := jwt.SigningMethodES256.Verify(tok[:len(tok)-len(parts[2])-1], signature, key); err != nil {
		return "", ErrSignature
	}
	return parts[1], nil
}

func decodeClaims(encoded string, c claims) error {
	payload, err := decodeSegment(encoded)
	if err != nil {
		return err
	}
	o, err := parseObject(payload)
	if err == nil {
		err = c.fromObject(o)
	}
	if err != nil {
		return fmt.Errorf("%w: claims: %w", ErrMalformed, err)
	}
	return nil
}

// claims is what each of our claim sets is to golang-jwt.
type claims interface {
	jwt.Claims
	fromObject(o object) error
}

// verifyJWS verifies tok under the key that keyFor chooses by the (unverified) header, and decodes its claims into c. clock is judgedAt
// or, where the caller compares the times itself, judgedLater. It is the one place where golang-jwt parses.
func verifyJWS(tok, typ string, c claims, clock jwt.ParserOption, keyFor func(header) (*ecdsa.PublicKey, error)) error {
	h, err := parseHeader(tok)
	if err != nil {
		return err
	}
	if h.typ != typ {
		return fmt.Errorf("%w: typ is not %s", ErrMalformed, typ)
	}
	key, err := keyFor(h)
	if err != nil {
		return err
	}
	if _, err := bareJWK(key); err != nil { // golang-jwt looks at the signature's length, not at the key's curve
		return err
	}
	parser := jwt.NewParser(
		jwt.WithValidMethods([]string{algorithm}),
		jwt.WithStrictDecoding(),
		jwt.WithExpirationRequired(),
		clock,
	)
	_, err = parser.ParseWithClaims(tok, &jwtClaims{c}, func(*jwt.Token) (any, error) { return key, nil })
	return reason(err)
}

// judgedAt judges exp and nbf at t.
func judgedAt(t time.Time) jwt.ParserOption {
	return jwt.WithTimeFunc(func() time.Time { return t.Truncate(time.Second) })
}

// judgedLater leaves exp and nbf to the caller, who learns the time of judging only from what the key signed.
func judgedLater() jwt.ParserOption { return jwt.WithoutClaimsValidation() }

// jwtClaims lets golang-jwt decode claims through our strict reader.
type jwtClaims struct{ claims }

// UnmarshalJSON implements json.Unmarshaler.
func (c *jwtClaims) UnmarshalJSON(data []byte) error {
	o, err := parseObject(data)
	if err != nil {
		return err
	}
	return c.fromObject(o)
}

// reason translates golang-jwt's errors into ours. Its texts are not passed on: some of them quote the token.
func reason(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, jwt.ErrTokenSignatureInvalid):
		return ErrSignature
	case errors.Is(err, jwt.ErrTokenExpired):
		return ErrExpired
	case errors.Is(err, jwt.ErrTokenNotValidYet):
		return ErrNotYetValid
	case errors.Is(err, errJSON):
		return fmt.Errorf("%w: claims", ErrMalformed)
	default:
		return ErrMalformed
	}
}

// registered gives golang-jwt the claims that it judges by itself; what it does not find here we compare ourselves, because we must say
// which of them differs.
type registered struct{ exp, nbf *jwt.NumericDate }

// GetExpirationTime implements jwt.Claims.
func (r *registered) GetExpirationTime() (*jwt.NumericDate, error) { return r.exp, nil }

// GetNotBefore implements jwt.Claims.
func (r *registered) GetNotBefore() (*jwt.NumericDate, error) { return r.nbf, nil }

// GetIssuedAt implements jwt.Claims.
func (r *registered) GetIssuedAt() (*jwt.NumericDate, error) { return nil, nil }

// GetIssuer implements jwt.Claims.
func (r *registered) GetIssuer() (string, error) { return "", nil }

// GetSubject implements jwt.Claims.
func (r *registered) GetSubject() (string, error) { return "", nil }

// GetAudience implements jwt.Claims.
func (r *registered) GetAudience() (jwt.ClaimStrings, error) { return nil, nil }

// judge reads exp (required) and nbf (if there is one) for golang-jwt.
func (r *registered) judge(m *members) {
	r.exp = jwt.NewNumericDate(time.Unix(m.integer("exp"), 0))
	if m.has("nbf") {
		r.nbf = jwt.NewNumericDate(time.Unix(m.integer("nbf"), 0))
	}
}
