package token

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
)

// ErrKey means that something given as a key is not a P-256 key in the form asked for. No other curve is ever accepted:
// ES256 with a key of another curve verifies in some libraries and not in others.
var ErrKey = errors.New("not a P-256 key")

const (
	coordinateBytes = 32 // of P-256: x, y, r and s each

	pemPrivateKey = "PRIVATE KEY" // PKCS#8, RFC 5958
	pemPublicKey  = "PUBLIC KEY"  // SPKI, RFC 5280
)

// JWK is a P-256 public key as RFC 7517 writes it. KeyID, Use and Algorithm are optional: inside a certificate they are absent.
type JWK struct {
	KeyType   string `json:"kty"`           // always "EC"
	Curve     string `json:"crv"`           // always "P-256"
	X         string `json:"x"`             // 32 bytes, base64url without padding
	Y         string `json:"y"`             // as X
	KeyID     string `json:"kid,omitempty"` // the RFC 7638 thumbprint
	Use       string `json:"use,omitempty"` // "sig"
	Algorithm string `json:"alg,omitempty"` // "ES256"
}

// PublicKey returns the key that j describes. Errors: ErrKey, also for a point that is not on the curve.
func (j JWK) PublicKey() (*ecdsa.PublicKey, error) {
	if j.KeyType != "EC" || j.Curve != "P-256" {
		return nil, fmt.Errorf("%w: kty or crv is another", ErrKey)
	}
	if (j.Use != "" && j.Use != "sig") || (j.Algorithm != "" && j.Algorithm != algorithm) {
		return nil, fmt.Errorf("%w: use or alg is another than that of ES256 signatures", ErrKey)
	}
	point := make([]byte, 1, 1+2*coordinateBytes)
	point[0] = 4 // uncompressed, SEC 1 section 2.3.3
	for _, c := range []string{j.X, j.Y} {
		b, err := base64.RawURLEncoding.Strict().DecodeString(c)
		if err != nil || len(b) != coordinateBytes || base64.RawURLEncoding.EncodedLen(len(b)) != len(c) {
			return nil, fmt.Errorf("%w: a coordinate is not 32 bytes in base64url", ErrKey)
		}
		point = append(point, b...)
	}
	key, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), point)
	if err != nil {
		return nil, fmt.Errorf("%w: the point is not on the curve", ErrKey)
	}
	return key, nil
}

// PublicJWK returns pub with its thumbprint as KeyID, ready for a JWKS document or a certificate request. Errors: ErrKey.
func PublicJWK(pub *ecdsa.PublicKey) (JWK, error) {
	j, err := bareJWK(pub)
	if err != nil {
		return JWK{}, err
	}
	j.KeyID, j.Use, j.Algorithm = j.thumbprint(), "sig", algorithm
	return j, nil
}

// Thumbprint returns the RFC 7638 thumbprint of pub: SHA-256, base64url, 43 characters. It is the `kid` of everything that the
// key signs. Errors: ErrKey.
func Thumbprint(pub *ecdsa.PublicKey) (string, error) {
	j, err := bareJWK(pub)
	if err != nil {
		return "", err
	}
	return j.thumbprint(), nil
}

// AppendJWKS appends the JWK Set (RFC 7517 section 5) of keys to dst: what `/.well-known/jwks.json` serves. Errors: ErrKey.
func AppendJWKS(dst []byte, keys ...*ecdsa.PublicKey) ([]byte, error) {
	out := append(dst, `{"keys":[`...)
	for i, pub := range keys {
		j, err := PublicJWK(pub)
		if err != nil {
			return dst, fmt.Errorf("key %d: %w", i, err)
		}
		if i > 0 {
			out = append(out, ',')
		}
		out = append(out, `{"kty":"EC","crv":"P-256","x":"`...)
		out = append(out, j.X...)
		out = append(out, `","y":"`...)
		out = append(out, j.Y...)
		out = append(out, `","kid":"`...)
		out = append(out, j.KeyID...)
		out = append(out, `","use":"sig","alg":"ES256"}`...)
	}
	return append(out, `]}`...), nil
}

// bareJWK returns the four members that make a P-256 key, which are also what the thumbprint covers.
func bareJWK(pub *ecdsa.PublicKey) (JWK, error) {
	if pub == nil || pub.Curve != elliptic.P256() {
		return JWK{}, ErrKey
	}
	point, err := pub.Bytes()
	if err != nil {
		return JWK{}, fmt.Errorf("%w: %w", ErrKey, err)
	}
	return JWK{
		KeyType: "EC",
		Curve:   "P-256",
		X:       base64.RawURLEncoding.EncodeToString(point[1 : 1+coordinateBytes]),
		Y:       base64.RawURLEncoding.EncodeToString(point[1+coordinateBytes:]),
	}, nil
}

func (j JWK) thumbprint() string {
	// RFC 7638 section 3.2: the required members alone, in lexical order, without white space.
	sum := sha256.Sum256([]byte(`{"crv":"` + j.Curve + `","kty":"` + j.KeyType + `","x":"` + j.X + `","y":"` + j.Y + `"}`))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// GenerateKey makes a P-256 key.
func GenerateKey() (*ecdsa.PrivateKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("generate P-256 key: %w", err)
	}
	return key, nil
}

// MarshalPrivateKeyPEM writes key as PKCS#8 PEM. Whoever holds the text holds the key: mode 0600. Errors: ErrKey.
func MarshalPrivateKeyPEM(key *ecdsa.PrivateKey) ([]byte, error) {
	if key == nil || key.Curve != elliptic.P256() {
		return nil, ErrKey
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrKey, err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: pemPrivateKey, Bytes: der}), nil
}

// ParsePrivateKeyPEM reads one PKCS#8 PEM block. Errors: ErrKey; the text never appears in one.
func ParsePrivateKeyPEM(text []byte) (*ecdsa.PrivateKey, error) {
	block, err := onlyBlock(text, pemPrivateKey)
	if err != nil {
		return nil, err
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block)
	if err != nil {
		return nil, fmt.Errorf("%w: no PKCS#8 structure", ErrKey)
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	if !ok || key.Curve != elliptic.P256() {
		return nil, ErrKey
	}
	return key, nil
}

// MarshalPublicKeyPEM writes pub as SPKI PEM, the form in which apps pin roots. Errors: ErrKey.
func MarshalPublicKeyPEM(pub *ecdsa.PublicKey) ([]byte, error) {
	if pub == nil || pub.Curve != elliptic.P256() {
		return nil, ErrKey
	}
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrKey, err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: pemPublicKey, Bytes: der}), nil
}

// ParsePublicKeyPEM reads one SPKI PEM block. Errors: ErrKey.
func ParsePublicKeyPEM(text []byte) (*ecdsa.PublicKey, error) {
	block, err := onlyBlock(text, pemPublicKey)
	if err != nil {
		return nil, err
	}
	parsed, err := x509.ParsePKIXPublicKey(block)
	if err != nil {
		return nil, fmt.Errorf("%w: no SPKI structure", ErrKey)
	}
	pub, ok := parsed.(*ecdsa.PublicKey)
	if !ok || pub.Curve != elliptic.P256() {
		return nil, ErrKey
	}
	return pub, nil
}

// onlyBlock returns the content of the one PEM block in text. A second block would be a key that nobody uses though its owner thinks
// so; it is refused.
func onlyBlock(text []byte, kind string) ([]byte, error) {
	block, rest := pem.Decode(text)
	if block == nil || block.Type != kind {
		return nil, fmt.Errorf("%w: no PEM block %q", ErrKey, kind)
	}
	if second, _ := pem.Decode(rest); second != nil {
		return nil, fmt.Errorf("%w: more than one PEM block", ErrKey)
	}
	return block.Bytes, nil
}

// publicKeyOf returns the P-256 key that signer signs with. Signer may be an *ecdsa.PrivateKey or stand for a key kept elsewhere.
func publicKeyOf(signer crypto.Signer) (*ecdsa.PublicKey, error) {
	if signer == nil {
		return nil, ErrKey
	}
	pub, ok := signer.Public().(*ecdsa.PublicKey)
	if !ok || pub == nil || pub.Curve != elliptic.P256() {
		return nil, ErrKey
	}
	return pub, nil
}
