package replication

import (
	"encoding/binary"
	"fmt"
)

// Position says how far a history goes and what it leads to. Two nodes at equal positions hold equal records. The zero
// value is that of a node which holds nothing.
type Position struct {
	Cluster   string
	Epoch     uint64
	N         uint64 // revision within the epoch
	Chain     Hash   // over every change of the cluster's life up to N
	StateHash Hash   // over every record
	Rules     uint32 // version of the rules by which records are to be read
}

// Revision returns the position's revision.
func (p Position) Revision() Revision { return Revision{Epoch: p.Epoch, N: p.N} }

// Batch is consecutive changes and the signed position after the last of them; without changes it states a position alone.
type Batch struct {
	Signed  string   // JWS over the Position after the last change
	Changes [][]byte // each as Change.AppendBinary gives it
}

// Limits of a batch on the wire: what an edge holds in memory for one is bounded by them.
const (
	MaxBatchChanges = 1024
	MaxBatchBytes   = 8 << 20
	maxSignedBytes  = 16 << 10
)

// AppendBinary appends the batch's one encoding: the signed position after its length (4 bytes), the number of changes
// (4 bytes), and each change after its length (4 bytes); all big endian. It is an answer of /changes and a NATS message.
func (b Batch) AppendBinary(dst []byte) []byte {
	dst = appendString(dst, b.Signed)
	dst = binary.BigEndian.AppendUint32(dst, uint32(len(b.Changes)))
	for _, c := range b.Changes {
		dst = appendString(dst, c)
	}
	return dst
}

// ParseBatch reads what AppendBinary wrote; the changes are parts of b. Error: ErrFrame.
func ParseBatch(b []byte) (Batch, error) {
	signed, rest, ok := cutString(b, maxSignedBytes)
	if !ok || len(rest) < 4 {
		return Batch{}, fmt.Errorf("batch: %w", ErrFrame)
	}
	n, rest := binary.BigEndian.Uint32(rest), rest[4:]
	if n > MaxBatchChanges {
		return Batch{}, fmt.Errorf("batch of %d changes: %w", n, ErrFrame)
	}
	batch := Batch{Signed: string(signed), Changes: make([][]byte, n)}
	for i := range batch.Changes {
		if batch.Changes[i], rest, ok = cutString(rest, MaxBatchBytes); !ok {
			return Batch{}, fmt.Errorf("batch: %w", ErrFrame)
		}
	}
	if len(rest) != 0 {
		return Batch{}, fmt.Errorf("batch: %d bytes too many: %w", len(rest), ErrFrame)
	}
	return batch, nil
}
