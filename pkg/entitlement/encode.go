package entitlement

import (
	"bytes"
	"fmt"
	"reflect"
	"sync"

	"github.com/fxamacker/cbor/v2"

	"github.com/latchkey/latchkey/pkg/entitlement/canonical"
)

var (
	encMode = must(cbor.CoreDetEncOptions().EncMode())
	decMode = must(cbor.DecOptions{
		DupMapKey:        cbor.DupMapKeyEnforcedAPF,
		MaxNestedLevels:  canonical.MaxNesting,
		MaxArrayElements: canonical.MaxElements,
		MaxMapPairs:      canonical.MaxElements,
		IndefLength:      cbor.IndefLengthForbidden,
	}.DecMode())
)

func must[T any](mode T, err error) T {
	if err != nil {
		panic(err) // a constant set of options, tested at every start
	}
	return mode
}

// writers are reused: what Encode returns has just the size that it needs.
var writers = sync.Pool{New: func() any { return new(canonical.Writer) }}

// maxKeptBuffer is the largest buffer that waits for the next Encode.
const maxKeptBuffer = 64 << 10

// Encode returns the canonical bytes of v: CBOR with Core Deterministic Encoding (RFC 8949, 4.2.1). Equal values have
// equal bytes, which is what state hashes rest on. v is one of this package's types or a struct of such; a canonical.Writable
// is written by hand.
func Encode(v any) []byte {
	if value, ok := v.(canonical.Writable); ok {
		w := writers.Get().(*canonical.Writer)
		defer writers.Put(w)
		value.WriteCanonical(w)
		b := bytes.Clone(w.Buffer)
		if w.Buffer = w.Buffer[:0]; cap(w.Buffer) > maxKeptBuffer {
			w.Buffer = nil
		}
		return b
	}
	return encodeGeneral(v)
}

func encodeGeneral(v any) []byte {
	b, err := encMode.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("encode %T: %v", v, err)) // only for a type that CBOR cannot hold: a mistake of ours
	}
	return b
}

// Decode reads what Encode wrote into the pointer v, which is zero. Fields that this version does not know are ignored. A canonical.Readable is
// read by hand where that can be; what it cannot read, the general decoder judges.
func Decode(b []byte, v any) error { return decode(b, v, canonical.Read) }

// DecodeShared is Decode without a copy of b: texts and byte strings in v may be parts of b, which must never change again.
func DecodeShared(b []byte, v any) error { return decode(b, v, canonical.ReadShared) }

func decode(b []byte, v any, byHand func([]byte, canonical.Readable) bool) error {
	if value, ok := v.(canonical.Readable); ok {
		reflect.ValueOf(v).Elem().SetZero()
		if byHand(b, value) {
			return nil
		}
		reflect.ValueOf(v).Elem().SetZero()
	}
	if err := decMode.Unmarshal(b, v); err != nil {
		return fmt.Errorf("decode %T: %w", v, err)
	}
	return nil
}
