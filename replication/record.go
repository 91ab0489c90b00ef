package replication

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"

	"github.com/latchkey/latchkey/pkg/entitlement"
	"github.com/latchkey/latchkey/pkg/fault"
)

// Kind says what a record holds.
type Kind string

// The record kinds.
const (
	KindAccount Kind = "account" // an entitlement.Account
	KindPointer Kind = "pointer" // a merged account id, or the hash of a sign-in subject, to an account id
	KindCatalog Kind = "catalog" // an entitlement.Catalog, under CurrentKey
	KindPolicy  Kind = "policy"  // an entitlement.Policy, under CurrentKey
	KindKeys    Kind = "keys"    // session public keys and revocations, under CurrentKey
)

// CurrentKey is the key of a record of which an environment has only one.
const CurrentKey = "current"

// MaxRecordBytes is the largest value of a record. An account with 1,000 purchases fits; a larger one would slow every
// reader of it down, so the writer refuses the change instead.
const MaxRecordBytes = 256 << 10

// Record is the unit of replication. A nil Value stands for no record.
type Record struct {
	Env   entitlement.Environment
	Kind  Kind
	Key   string
	Value []byte
}

// ErrCorrupt means that stored bytes are not what was written: the file must not be believed any more.
var ErrCorrupt = errors.New("record corrupt")

// checksumBytes is how much of a record's hash stands before its value on disk: enough that no accident passes.
const checksumBytes = 8

// DBKey is the record's key in a bbolt bucket: "env/kind/key". Keys sort by environment, kind, key.
func (r Record) DBKey() []byte { return AppendDBKey(nil, r.Env, r.Kind, r.Key) }

// AppendDBKey appends what DBKey returns.
func AppendDBKey(dst []byte, env entitlement.Environment, kind Kind, key string) []byte {
	dst = append(dst, env...)
	dst = append(dst, '/')
	dst = append(dst, kind...)
	dst = append(dst, '/')
	return append(dst, key...)
}

// Hash is the SHA-256 of the length-prefixed environment, kind, key and value.
func (r Record) Hash() Hash {
	var stack [1024]byte
	return sha256.Sum256(r.appendBinary(stack[:0]))
}

func (r Record) appendBinary(dst []byte) []byte {
	dst = appendString(dst, string(r.Env))
	dst = appendString(dst, string(r.Kind))
	dst = appendString(dst, r.Key)
	return appendString(dst, r.Value)
}

func appendString[S ~string | ~[]byte](dst []byte, s S) []byte {
	dst = binary.BigEndian.AppendUint32(dst, uint32(len(s)))
	return append(dst, s...)
}

// Stored returns the bytes to put under DBKey: the first 8 bytes of the hash, then the value.
func (r Record) Stored() []byte { return r.StoredWithHash(r.Hash()) }

// StoredWithHash is Stored for a caller that knows the hash.
func (r Record) StoredWithHash(h Hash) []byte {
	return append(append(make([]byte, 0, checksumBytes+len(r.Value)), h[:checksumBytes]...), r.Value...)
}

// FromStored checks stored bytes against their checksum and returns the record; its Value is a part of stored.
// Error: ErrCorrupt.
func FromStored(env entitlement.Environment, kind Kind, key string, stored []byte) (Record, error) {
	if len(stored) < checksumBytes {
		return Record{}, ErrCorrupt
	}
	r := Record{Env: env, Kind: kind, Key: key, Value: stored[checksumBytes:]}
	if h := r.Hash(); string(h[:checksumBytes]) != string(stored[:checksumBytes]) && !fault.Planted("record-unchecked") {
		return Record{}, ErrCorrupt
	}
	return r, nil
}

// SplitDBKey is the inverse of DBKey. ok is false for a key that DBKey never makes.
func SplitDBKey(k []byte) (env entitlement.Environment, kind Kind, key string, ok bool) {
	var parts [2]string
	rest := string(k)
	for i := range parts {
		at := -1
		for j := range rest {
			if rest[j] == '/' {
				at = j
				break
			}
		}
		if at < 0 {
			return "", "", "", false
		}
		parts[i], rest = rest[:at], rest[at+1:]
	}
	return entitlement.Environment(parts[0]), Kind(parts[1]), rest, true
}

// Hash is a SHA-256, or a sum of such mod 2^256 (big endian). As a state hash the zero value is that of no records.
type Hash [32]byte

// String is the hash in hex.
func (h Hash) String() string { return hex.EncodeToString(h[:]) }

// Add returns h + o mod 2^256.
func (h Hash) Add(o Hash) Hash {
	var sum Hash
	var carry uint64
	for i := 24; i >= 0; i -= 8 {
		a, b := binary.BigEndian.Uint64(h[i:]), binary.BigEndian.Uint64(o[i:])
		s := a + b
		c := uint64(0)
		if s < a {
			c = 1
		}
		s2 := s + carry
		if s2 < s {
			c = 1
		}
		binary.BigEndian.PutUint64(sum[i:], s2)
		carry = c
	}
	return sum
}

// Sub returns h - o mod 2^256.
func (h Hash) Sub(o Hash) Hash {
	var neg Hash
	for i := range o {
		neg[i] = ^o[i]
	}
	one := Hash{31: 1}
	return h.Add(neg).Add(one)
}
