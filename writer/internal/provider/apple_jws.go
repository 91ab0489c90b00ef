package provider

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	_ "embed"
	"encoding/asn1"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/tidwall/gjson"
)

const (
	// maxAppleJWSBytes is the largest signed text that is looked at. A notification with both of its nested ones is about 20 KiB.
	maxAppleJWSBytes = 256 << 10

	// appleChainLength is leaf, intermediate, root. The root is there for others: only the pinned ones count.
	appleChainLength = 3

	// maxAppleChains bounds how many verified chains are remembered. Apple has two or three in use at a time. Only chains under a pinned root
	// are remembered, so that no stranger can fill it.
	maxAppleChains = 32

	// es256SignatureBytes is that of R and S beside each other, as JWS writes them (RFC 7518 section 3.4).
	es256SignatureBytes = 64
)

// The marks of what may sign for the App Store. Any other certificate under Apple's root, a developer's own among them, lacks them.
// Source: Apple's certificate policy; App Store Server Library, SignedDataVerifier.
var (
	appleLeafMark         = asn1.ObjectIdentifier{1, 2, 840, 113635, 100, 6, 11, 1}
	appleIntermediateMark = asn1.ObjectIdentifier{1, 2, 840, 113635, 100, 6, 2, 1}
)

// appleRootG3 is Apple Root CA - G3, valid until 2039. Its SHA-256 is 63343ABFB89A6A03EBB57E9B3F5FA7BE7C4F5C756F3017B3A8C488C3653E9179.
// Source: www.apple.com/certificateauthority.
//
//go:embed apple_root_g3.pem
var appleRootG3 []byte

// AppleRootCA returns the root that signs for the App Store, PEM.
func AppleRootCA() []byte { return bytes.Clone(appleRootG3) }

// parseRoots reads certificates, PEM (one or more) or one DER.
func parseRoots(b []byte) ([]*x509.Certificate, error) {
	if !bytes.Contains(b, []byte("-----BEGIN")) {
		root, err := x509.ParseCertificate(b)
		return []*x509.Certificate{root}, err
	}
	var roots []*x509.Certificate
	for block, rest := pem.Decode(b); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("a %s instead of a certificate", strings.ToLower(block.Type))
		}
		root, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		roots = append(roots, root)
	}
	if len(roots) == 0 {
		return nil, errors.New("no certificate")
	}
	return roots, nil
}

// appleChains verifies certificate chains against pinned roots, each once.
type appleChains struct {
	roots *x509.CertPool

	mu    sync.Mutex
	known map[[sha256.Size]byte]appleChain // by the hash of leaf and intermediate
}

// appleChain is a chain that leads to a pinned root. What depends on time is its validity alone, so that it is remembered for good.
type appleChain struct {
	key       *ecdsa.PublicKey // the leaf's
	from, end time.Time        // all three certificates are valid within, both inclusive
}

func newAppleChains(roots []*x509.Certificate) *appleChains {
	pool := x509.NewCertPool()
	for _, root := range roots {
		pool.AddCert(root)
	}
	return &appleChains{roots: pool, known: map[[sha256.Size]byte]appleChain{}}
}

// key returns the key of a chain's leaf, at a time at which the chain is valid. Error: what is wrong with it.
func (c *appleChains) key(x5c []string, at time.Time) (*ecdsa.PublicKey, error) {
	if len(x5c) != appleChainLength {
		return nil, fmt.Errorf("a chain of %d certificates", len(x5c))
	}
	var ders [2][]byte
	for i := range ders {
		der, err := base64.StdEncoding.Strict().DecodeString(x5c[i])
		if err != nil {
			return nil, fmt.Errorf("certificate %d is not base64", i+1)
		}
		ders[i] = der
	}
	name := sha256.Sum256(bytes.Join(ders[:], nil))
	c.mu.Lock()
	chain, known := c.known[name]
	c.mu.Unlock()
	if !known {
		var err error
		if chain, err = c.verify(ders, at); err != nil {
			return nil, err
		}
		c.remember(name, chain)
	}
	if at.Before(chain.from) || at.After(chain.end) {
		return nil, errors.New("a certificate is not valid at the signed time")
	}
	return chain.key, nil
}

func (c *appleChains) remember(name [sha256.Size]byte, chain appleChain) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.known) >= maxAppleChains {
		for other := range c.known { // one by lot
			delete(c.known, other)
			break
		}
	}
	c.known[name] = chain
}

// verify does what can be done for nothing first: signatures of P-384 take a millisecond each.
func (c *appleChains) verify(ders [2][]byte, at time.Time) (appleChain, error) {
	leaf, err := x509.ParseCertificate(ders[0])
	if err != nil {
		return appleChain{}, errors.New("the leaf is no certificate")
	}
	intermediate, err := x509.ParseCertificate(ders[1])
	if err != nil {
		return appleChain{}, errors.New("the intermediate is no certificate")
	}
	key, ok := leaf.PublicKey.(*ecdsa.PublicKey)
	switch {
	case !ok || key.Curve != elliptic.P256():
		return appleChain{}, errors.New("the leaf's key is not of P-256")
	case !hasExtension(leaf, appleLeafMark) || !hasExtension(intermediate, appleIntermediateMark):
		return appleChain{}, errors.New("a certificate that may not sign for the App Store")
	case !intermediate.IsCA || leaf.IsCA:
		return appleChain{}, errors.New("leaf and intermediate are not in their order")
	}
	between := x509.NewCertPool()
	between.AddCert(intermediate)
	chains, err := leaf.Verify(x509.VerifyOptions{Roots: c.roots, Intermediates: between, CurrentTime: at, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
	if err != nil {
		return appleChain{}, fmt.Errorf("the chain does not lead to a pinned root, or is not valid at the signed time: %w", ErrUntrusted)
	}
	at3 := slices.IndexFunc(chains, func(chain []*x509.Certificate) bool { return len(chain) == appleChainLength })
	if at3 < 0 {
		return appleChain{}, errors.New("the way to the root is not by the intermediate alone")
	}
	found := appleChain{key: key, from: leaf.NotBefore, end: leaf.NotAfter}
	for _, certificate := range chains[at3] {
		if certificate.NotBefore.After(found.from) {
			found.from = certificate.NotBefore
		}
		if certificate.NotAfter.Before(found.end) {
			found.end = certificate.NotAfter
		}
	}
	return found, nil
}

func hasExtension(c *x509.Certificate, id asn1.ObjectIdentifier) bool {
	for _, e := range c.Extensions {
		if e.Id.Equal(id) {
			return true
		}
	}
	return false
}

// splitJWS returns the three parts of a compact JWS.
func splitJWS(jws string) (header, payload, signature string, ok bool) {
	header, rest, _ := strings.Cut(jws, ".")
	payload, signature, ok = strings.Cut(rest, ".")
	return header, payload, signature, ok && len(jws) <= maxAppleJWSBytes && !strings.Contains(signature, ".")
}

var base64URL = base64.RawURLEncoding.Strict()

// jwsPayload returns what a compact JWS says, whether its signature is right or not.
func jwsPayload(jws string) (gjson.Result, error) {
	_, payload, _, ok := splitJWS(jws)
	if !ok {
		return gjson.Result{}, errors.New("not a compact JWS")
	}
	b, err := base64URL.DecodeString(payload)
	if err != nil {
		return gjson.Result{}, errors.New("the payload is not base64url")
	}
	return decodeObject(b)
}

// verifyJWS reports whether a JWS is signed by the App Store, by a chain that is valid at a time. Error: what is wrong with it.
func (c *appleChains) verifyJWS(jws string, at time.Time) error {
	header, payload, signature, ok := splitJWS(jws)
	if !ok {
		return errors.New("not a compact JWS")
	}
	b, err := base64URL.DecodeString(header)
	if err != nil {
		return errors.New("the header is not base64url")
	}
	h, err := decodeObject(b)
	if err != nil {
		return fmt.Errorf("header: %w", err)
	}
	// A header that says crit asks for what we do not know (RFC 7515 section 4.1.11).
	if alg := member(h, "alg"); alg.Type != gjson.String || alg.Str != "ES256" || member(h, "crit").Exists() {
		return errors.New("the algorithm is not ES256")
	}
	var x5c []string
	member(h, "x5c").ForEach(func(_, v gjson.Result) bool {
		x5c = append(x5c, v.String())
		return len(x5c) <= appleChainLength
	})
	key, err := c.key(x5c, at)
	if err != nil {
		return err
	}
	rs, err := base64URL.DecodeString(signature)
	if err != nil || len(rs) != es256SignatureBytes {
		return errors.New("the signature has a wrong form")
	}
	r, s := new(big.Int).SetBytes(rs[:es256SignatureBytes/2]), new(big.Int).SetBytes(rs[es256SignatureBytes/2:])
	hash := sha256.New()
	hash.Write([]byte(header))
	hash.Write([]byte("."))
	hash.Write([]byte(payload))
	if !ecdsa.Verify(key, hash.Sum(nil), r, s) {
		return errors.New("the signature is wrong")
	}
	return nil
}
