package token

import (
	"crypto/ecdsa"
	"encoding/hex"
	"fmt"
	"math"
	"strings"
	"sync"
	"time"

	"github.com/latchkey/latchkey/pkg/fault"
)

// PositionClaims say what a cluster's state was at one revision. With AsOf they are a head, with Size and SHA256 a snapshot's manifest.
type PositionClaims struct {
	Cluster  string // iss
	IssuedAt int64  // iat, Unix seconds, the writer's clock: the certificates are judged at it
	Epoch    uint64 // epoch; at most 2^53 - 1, as all numbers here
	Revision uint64 // rev

	Chain     [32]byte // chain: SHA-256 over the history up to Revision
	StateHash [32]byte // hash: sum over all records at Revision
	Rules     uint32   // rules: the rules version of the state

	AsOf int64 // as_of: every write acknowledged before it is at or below Revision. Zero: not a head.

	Size   int64    // size of the snapshot's body in bytes. Zero: not a manifest.
	SHA256 [32]byte // sha256 of the snapshot's body
}

// PositionSigner signs positions with a writer's key. It is immutable and safe for concurrent use.
type PositionSigner struct {
	signer rawSigner
	header []byte
	chain  Chain
}

// NewPositionSigner returns a signer for key under certs, leaf first and issuer second, verified up to roots at time at. Errors: ErrChain,
// ErrKey.
func NewPositionSigner(key *ecdsa.PrivateKey, certs []string, roots Roots, at time.Time) (*PositionSigner, error) {
	chain, err := VerifyChain(certs, RoleWriter, roots, at)
	if err != nil {
		return nil, fmt.Errorf("position signer: %w", err)
	}
	header, _, err := chainHeader(key, typPosition, certs, nil, chain)
	if err != nil {
		return nil, fmt.Errorf("position signer: %w", err)
	}
	signer, err := newRawSigner(key)
	if err != nil {
		return nil, fmt.Errorf("position signer: %w", err)
	}
	return &PositionSigner{signer: signer, header: header, chain: *chain}, nil
}

// Certificate returns the leaf: whose key it is and until when.
func (s *PositionSigner) Certificate() Certificate { return s.chain.Leaf }

// AppendSign appends the signed position to dst. The cluster is the certificate's. Errors: ErrChain with ErrExpired or ErrNotYetValid:
// at IssuedAt the certificates are not valid.
func (s *PositionSigner) AppendSign(dst []byte, c PositionClaims) ([]byte, error) {
	c.Cluster = s.chain.Leaf.Issuer
	if err := s.chain.validAt(c.IssuedAt); err != nil {
		return dst, fmt.Errorf("sign position: %w", err)
	}
	work := scratches.Get().(*scratch)
	defer scratches.Put(work)
	work.payload = appendPosition(work.payload[:0], &c)
	return appendJWS(dst, s.signer, s.header, work)
}

func appendPosition(dst []byte, c *PositionClaims) []byte {
	dst = append(dst, `{"iss":`...)
	dst = AppendString(dst, c.Cluster)
	dst = appendInteger(dst, "iat", c.IssuedAt)
	dst = appendInteger(dst, "epoch", int64(c.Epoch))
	dst = appendInteger(dst, "rev", int64(c.Revision))
	dst = appendHex(dst, "chain", &c.Chain)
	dst = appendHex(dst, "hash", &c.StateHash)
	dst = appendInteger(dst, "rules", int64(c.Rules))
	if c.AsOf != 0 {
		dst = appendInteger(dst, "as_of", c.AsOf)
	}
	if c.Size != 0 {
		dst = appendInteger(dst, "size", c.Size)
		dst = appendHex(dst, "sha256", &c.SHA256)
	}
	return append(dst, '}')
}

func appendHex(dst []byte, name string, value *[32]byte) []byte {
	dst = append(append(append(dst, `,"`...), name...), `":"`...)
	return append(hex.AppendEncode(dst, value[:]), '"')
}

// maxCachedHeaders bounds what a PositionVerifier remembers. A cluster of 5 writers that renew and restart has fewer live keys; past
// it everything is forgotten, which costs two verifications for each live key.
const maxCachedHeaders = 64

// PositionVerifier verifies positions, heads and manifests of one cluster. A writer's header is the same in all that it signs, so its
// chain is verified once and remembered: each message costs one signature. It is safe for concurrent use and must not be copied.
type PositionVerifier struct {
	Roots   Roots
	Cluster string // the iss that every certificate and position must have

	// Revocations is what the one who judges knows of revoked keys. Nil: none.
	Revocations *Revocations

	mu     sync.Mutex
	chains map[string]*Chain // by the exact header; only those that verified, so that garbage evicts nothing
}

// Verify verifies a signed position. Its certificates are judged at its own iat, because a head stays true however late it arrives; how old
// an iat may be is the caller's rule. Errors: ErrMalformed, ErrSignature, ErrChain (with the reason inside), ErrIssuer.
func (v *PositionVerifier) Verify(tok string) (PositionClaims, error) {
	if len(tok) > MaxTokenBytes {
		return PositionClaims{}, fmt.Errorf("position: %w: longer than %d bytes", ErrMalformed, MaxTokenBytes)
	}
	encoded, rest, _ := strings.Cut(tok, ".")
	if fault.Planted("edge-skips-signature") {
		var c positionClaims
		claimed, _, _ := strings.Cut(rest, ".")
		err := decodeClaims(claimed, &c)
		return c.PositionClaims, err
	}
	chain, err := v.chain(tok, encoded)
	if err != nil {
		return PositionClaims{}, fmt.Errorf("position: %w", err)
	}
	if err := v.Revocations.refuse(chain); err != nil {
		return PositionClaims{}, fmt.Errorf("position: %w", err)
	}
	encoded, err = verifySignature(tok, chain.Leaf.Key)
	if err != nil {
		return PositionClaims{}, fmt.Errorf("position: %w", err)
	}
	var c positionClaims
	if err := decodeClaims(encoded, &c); err != nil {
		return PositionClaims{}, fmt.Errorf("position: %w", err)
	}
	if c.Cluster != v.Cluster {
		return PositionClaims{}, fmt.Errorf("position: %w", ErrIssuer)
	}
	if err := chain.validAt(c.IssuedAt); err != nil {
		return PositionClaims{}, fmt.Errorf("position: %w", err)
	}
	return c.PositionClaims, nil
}

// chain returns the verified chain of the header at the start of tok, remembered or not.
func (v *PositionVerifier) chain(tok, encoded string) (*Chain, error) {
	v.mu.Lock()
	chain := v.chains[encoded]
	v.mu.Unlock()
	if chain != nil {
		return chain, nil
	}
	h, err := parseHeader(tok)
	if err != nil {
		return nil, err
	}
	if h.typ != typPosition {
		return nil, fmt.Errorf("%w: typ is not %s", ErrMalformed, typPosition)
	}
	if chain, err = verifyChain(h.crt, RoleWriter, v.Roots); err != nil {
		return nil, err
	}
	if _, err := chain.keyFor(h); err != nil {
		return nil, err
	}
	if chain.Leaf.Issuer != v.Cluster {
		return nil, ErrIssuer
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if len(v.chains) >= maxCachedHeaders || v.chains == nil {
		v.chains = map[string]*Chain{}
	}
	v.chains[strings.Clone(encoded)] = chain
	return chain, nil
}

type positionClaims struct {
	registered
	PositionClaims
}

func (c *positionClaims) fromObject(o object) error {
	m := members{object: o}
	c.PositionClaims = PositionClaims{
		Cluster:   m.text("iss"),
		IssuedAt:  m.integer("iat"),
		Epoch:     m.natural("epoch"),
		Revision:  m.natural("rev"),
		Chain:     m.hash("chain"),
		StateHash: m.hash("hash"),
		AsOf:      m.optionalInteger("as_of"),
	}
	rules := m.natural("rules")
	if rules > math.MaxUint32 {
		m.fail("rules", "a version")
	}
	c.Rules = uint32(rules)
	if m.has("size") {
		c.Size, c.SHA256 = m.integer("size"), m.hash("sha256")
	}
	return m.err
}
