package entitlement

import (
	"fmt"

	"github.com/fxamacker/cbor/v2"
)

// Limits of what Decode accepts, far above what a record of 256 KiB can hold: they stop a corrupt length from costing memory.
const (
	maxNesting  = 16
	maxElements = 65_536
)

var (
	encMode = must(cbor.CoreDetEncOptions().EncMode())
	decMode = must(cbor.DecOptions{
		DupMapKey:        cbor.DupMapKeyEnforcedAPF,
		MaxNestedLevels:  maxNesting,
		MaxArrayElements: maxElements,
		MaxMapPairs:      maxElements,
		IndefLength:      cbor.IndefLengthForbidden,
	}.DecMode())
)

func must[T any](mode T, err error) T {
	if err != nil {
		panic(err) // a constant set of options, tested at every start
	}
	return mode
}

// Encode returns the canonical bytes of v: CBOR with Core Deterministic Encoding (RFC 8949, 4.2.1). Equal values have
// equal bytes, which is what state hashes rest on. v is one of this package's types or a struct of such.
func Encode(v any) []byte {
	b, err := encMode.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("encode %T: %v", v, err)) // only for a type that CBOR cannot hold: a mistake of ours
	}
	return b
}

// Decode reads what Encode wrote into the pointer v. Fields that this version does not know are ignored.
func Decode(b []byte, v any) error {
	if account, ok := v.(*Account); ok {
		if account.decodeCanonical(b) {
			return nil
		}
		*account = Account{}
	}
	if err := decMode.Unmarshal(b, v); err != nil {
		return fmt.Errorf("decode %T: %w", v, err)
	}
	return nil
}
