package replication

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/latchkey/latchkey/pkg/entitlement"
)

// Revision names one state of all records: within an epoch it grows by one with each change. Revisions of different
// epochs are ordered by epoch first.
type Revision struct {
	Epoch uint64
	N     uint64
}

// String is the form of the APIs: "1-4711".
func (r Revision) String() string {
	return string(r.Append(nil))
}

// Append appends the form of the APIs.
func (r Revision) Append(dst []byte) []byte {
	dst = strconv.AppendUint(dst, r.Epoch, 10)
	dst = append(dst, '-')
	return strconv.AppendUint(dst, r.N, 10)
}

// Compare returns -1, 0 or 1 as r is older than, the same as or newer than o.
func (r Revision) Compare(o Revision) int {
	switch {
	case r.Epoch != o.Epoch && r.Epoch < o.Epoch, r.Epoch == o.Epoch && r.N < o.N:
		return -1
	case r == o:
		return 0
	}
	return 1
}

// ErrRevisionForm means that a string is no revision.
var ErrRevisionForm = errors.New("not a revision: want <epoch>-<number>")

// ParseRevision reads what String writes, and nothing else (no signs, spaces or leading zeros). Error: ErrRevisionForm.
func ParseRevision(s string) (Revision, error) {
	e, n, ok := strings.Cut(s, "-")
	if !ok {
		return Revision{}, ErrRevisionForm
	}
	epoch, err1 := strconv.ParseUint(e, 10, 64)
	number, err2 := strconv.ParseUint(n, 10, 64)
	r := Revision{Epoch: epoch, N: number}
	if err1 != nil || err2 != nil || r.String() != s {
		return Revision{}, ErrRevisionForm
	}
	return r, nil
}

// Change is one record's whole new bytes. Applying it twice is harmless.
type Change struct {
	N uint64 // revision within the epoch
	Record
}

// noValue is the length that stands for a deleted record.
const noValue = 1<<32 - 1

// maxKeyBytes bounds a record's key in a frame.
const maxKeyBytes = 1024

// AppendBinary appends the change's one encoding, which the chain hashes and every transport carries: revision (8 bytes),
// environment, kind, key and value, each after its length (4 bytes); all big endian. A deleted record has the length
// 2^32-1 and no bytes.
func (c Change) AppendBinary(dst []byte) []byte {
	dst = binary.BigEndian.AppendUint64(dst, c.N)
	dst = appendString(dst, string(c.Env))
	dst = appendString(dst, string(c.Kind))
	dst = appendString(dst, c.Key)
	if c.Value == nil {
		return binary.BigEndian.AppendUint32(dst, noValue)
	}
	return appendString(dst, c.Value)
}

// ErrFrame means that bytes from the network or a file are not a frame that we write.
var ErrFrame = errors.New("malformed frame")

// ParseChange reads one change from the front of b and returns what follows it. The change's Value is a part of b.
// Error: ErrFrame.
func ParseChange(b []byte) (Change, []byte, error) {
	var c Change
	if len(b) < 8 {
		return c, nil, fmt.Errorf("change: %w", ErrFrame)
	}
	c.N, b = binary.BigEndian.Uint64(b), b[8:]
	var fields [3][]byte
	for i := range fields {
		var ok bool
		if fields[i], b, ok = cutString(b, maxKeyBytes); !ok {
			return Change{}, nil, fmt.Errorf("change %d: %w", c.N, ErrFrame)
		}
	}
	c.Env, c.Kind, c.Key = entitlement.Environment(fields[0]), Kind(fields[1]), string(fields[2])
	if len(b) >= 4 && binary.BigEndian.Uint32(b) == noValue {
		return c, b[4:], nil
	}
	value, rest, ok := cutString(b, MaxRecordBytes)
	if !ok {
		return Change{}, nil, fmt.Errorf("change %d: %w", c.N, ErrFrame)
	}
	c.Value = value[:len(value):len(value)]
	return c, rest, nil
}

func cutString(b []byte, limit uint32) (s, rest []byte, ok bool) {
	if len(b) < 4 {
		return nil, nil, false
	}
	n := binary.BigEndian.Uint32(b)
	if n > limit || int(n) > len(b)-4 {
		return nil, nil, false
	}
	return b[4 : 4+n], b[4+n:], true
}

// NextChain returns the chain value after a change: SHA-256 over the one before it and the length-prefixed change, so that
// a history cannot fork unseen. encoded is what AppendBinary gave.
func NextChain(before Hash, encoded []byte) Hash {
	h := sha256.New()
	h.Write(before[:])
	var length [4]byte
	binary.BigEndian.PutUint32(length[:], uint32(len(encoded)))
	h.Write(length[:])
	h.Write(encoded)
	var after Hash
	h.Sum(after[:0])
	return after
}
