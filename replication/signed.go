package replication

import (
	"errors"
	"fmt"
	"time"

	"github.com/latchkey/latchkey/pkg/token"
)

// Head is a position together with a promise: every write that was acknowledged before AsOf is at or below it. It stays
// true however late it arrives. The zero value is that of a node which holds nothing.
type Head struct {
	Position
	AsOf int64 // Unix seconds; 0 for a position that is no head
}

// Manifest describes a snapshot: the position of its records, and its body as it travels.
type Manifest struct {
	Position
	Size   int64 // of the compressed body, bytes
	SHA256 Hash  // of the compressed body
}

// Claims are what a writer signs for the position at issuedAt (its clock, Unix seconds).
func (p Position) Claims(issuedAt int64) token.PositionClaims {
	return token.PositionClaims{Cluster: p.Cluster, IssuedAt: issuedAt, Epoch: p.Epoch, Revision: p.N, Chain: p.Chain, StateHash: p.StateHash, Rules: p.Rules}
}

// Claims are what a writer signs for the head.
func (h Head) Claims(issuedAt int64) token.PositionClaims {
	c := h.Position.Claims(issuedAt)
	c.AsOf = h.AsOf
	return c
}

// Claims are what a writer signs for the snapshot.
func (m Manifest) Claims(issuedAt int64) token.PositionClaims {
	c := m.Position.Claims(issuedAt)
	c.Size, c.SHA256 = m.Size, m.SHA256
	return c
}

// maxStatementAge is how much older than what an edge already holds a signed statement may be. Certificates of writers live no
// longer, so that a key which leaked long ago cannot speak for ever through statements dated back.
const maxStatementAge = token.MaxLeafSeconds

// Errors of Verifier. Both mean: do not believe this, and ask another writer.
var (
	// ErrUnsigned means that no writer of our cluster made the statement.
	ErrUnsigned = errors.New("statement not signed by a writer of this cluster")
	// ErrStatementAge means that the statement is signed, but dated too far before what is already held.
	ErrStatementAge = errors.New("signed statement too old")
)

// Verifier decides whether a statement comes from a writer of the cluster. It is safe for concurrent use.
type Verifier struct {
	verify func(signed string) (token.PositionClaims, error)
}

// NewVerifier returns a verifier that believes writers of the cluster whose certificates lead to one of roots.
func NewVerifier(roots token.Roots, cluster string) *Verifier {
	return NewVerifierWith((&token.PositionVerifier{Roots: roots, Cluster: cluster}).Verify)
}

// NewVerifierWith returns a verifier that has the signature and the certificates judged by verify, which must do what
// token.PositionVerifier.Verify does: a simulator judges each statement once for all its edges.
func NewVerifierWith(verify func(signed string) (token.PositionClaims, error)) *Verifier {
	return &Verifier{verify}
}

// Position verifies a signed position; heldAsOf is the as_of that the caller already holds. Errors: ErrUnsigned, ErrStatementAge.
func (v *Verifier) Position(signed string, heldAsOf int64) (Position, error) {
	c, err := v.claims(signed, heldAsOf)
	return positionOf(c), err
}

// Head verifies a signed head. A position without as_of is none. Errors: ErrUnsigned, ErrStatementAge.
func (v *Verifier) Head(signed string, heldAsOf int64) (Head, error) {
	c, err := v.claims(signed, heldAsOf)
	if err == nil && c.AsOf <= 0 {
		err = fmt.Errorf("head without as_of: %w", ErrUnsigned)
	}
	if err == nil && c.AsOf > c.IssuedAt {
		// as_of is taken before the writer asks its quorum, and signed after. One in the future would make tokens outlive 24 h.
		err = fmt.Errorf("head with as_of after iat: %w", ErrUnsigned)
	}
	if err != nil {
		return Head{}, err
	}
	return Head{Position: positionOf(c), AsOf: c.AsOf}, nil
}

// Manifest verifies a signed snapshot manifest. Errors: ErrUnsigned, ErrStatementAge.
func (v *Verifier) Manifest(signed string, heldAsOf int64) (Manifest, error) {
	c, err := v.claims(signed, heldAsOf)
	if err == nil && c.Size <= 0 {
		err = fmt.Errorf("manifest without size: %w", ErrUnsigned)
	}
	if err != nil {
		return Manifest{}, err
	}
	return Manifest{Position: positionOf(c), Size: c.Size, SHA256: c.SHA256}, nil
}

func (v *Verifier) claims(signed string, heldAsOf int64) (token.PositionClaims, error) {
	c, err := v.verify(signed)
	if err != nil {
		return token.PositionClaims{}, fmt.Errorf("%w: %w", ErrUnsigned, err)
	}
	if c.IssuedAt < heldAsOf-maxStatementAge {
		return token.PositionClaims{}, fmt.Errorf("%w: %s before what is held", ErrStatementAge, time.Duration(heldAsOf-c.IssuedAt)*time.Second)
	}
	return c, nil
}

func positionOf(c token.PositionClaims) Position {
	return Position{Cluster: c.Cluster, Epoch: c.Epoch, N: c.Revision, Chain: c.Chain, StateHash: c.StateHash, Rules: c.Rules}
}
