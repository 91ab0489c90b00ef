package store

import (
	"bytes"
	"reflect"
	"testing"

	"github.com/fxamacker/cbor/v2"
	"pgregory.net/rapid"

	"github.com/latchkey/latchkey/pkg/entitlement"
	"github.com/latchkey/latchkey/pkg/entitlement/canonical"
)

type canonicalRow interface {
	canonical.Readable
	canonical.Writable
}

// byHand makes the rows that are read and written by hand. Evidence and events are drawn in package entitlement.
var byHand = map[string]func() canonicalRow{
	"command":  func() canonicalRow { return new(RecordEvent) },
	"purchase": func() canonicalRow { return new(purchaseRow) },
	"claim":    func() canonicalRow { return new(claimRow) },
	"event":    func() canonicalRow { return new(eventRow) },
	"state":    func() canonicalRow { return new(state) },
}

// fillRow sets every field at random, whatever fields there are.
func fillRow(t *rapid.T, v reflect.Value) {
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			fillRow(t, v.Field(i))
		}
	case reflect.String:
		v.SetString(rapid.String().Draw(t, "text"))
	case reflect.Int64:
		v.SetInt(rapid.Int64().Draw(t, "number"))
	case reflect.Uint64, reflect.Uint32, reflect.Uint8:
		v.SetUint(rapid.Uint64Max(1<<v.Type().Bits()-1).Draw(t, "unsigned"))
	case reflect.Bool:
		v.SetBool(rapid.Bool().Draw(t, "flag"))
	case reflect.Array:
		for i := range v.Len() {
			fillRow(t, v.Index(i))
		}
	case reflect.Slice:
		if n := rapid.IntRange(0, 3).Draw(t, "length"); n > 0 {
			v.Set(reflect.MakeSlice(v.Type(), n, n))
			for i := range n {
				fillRow(t, v.Index(i))
			}
		}
	case reflect.Pointer:
		if rapid.Bool().Draw(t, "there") {
			v.Set(reflect.New(v.Type().Elem()))
			fillRow(t, v.Elem())
		}
	default:
		t.Fatalf("there is a field of kind %s: teach package canonical and this test", v.Kind())
	}
}

// Rows and commands by hand are those of the general codec, which has written golden files, on damaged bytes as well.
func TestRowsByHandAreThoseOfTheGeneralCodec(t *testing.T) {
	general, err := cbor.CoreDetEncOptions().EncMode()
	if err != nil {
		t.Fatal(err)
	}
	for name, zero := range byHand {
		t.Run(name, func(t *testing.T) {
			// A type without methods is what the general decoder gets.
			agree := func(t *rapid.T, b []byte) {
				fast, slow := zero(), zero()
				byGeneral := reflect.New(reflect.StructOf([]reflect.StructField{{
					Name: "Row", Type: reflect.TypeOf(slow).Elem(), Tag: `cbor:"1,keyasint"`}}))
				errSlow := entitlement.Decode(append([]byte{0xa1, 1}, b...), byGeneral.Interface())
				if errFast := entitlement.Decode(b, fast); (errFast == nil) != (errSlow == nil) {
					t.Fatalf("Decode(%x) = %v, the general decoder: %v", b, errFast, errSlow)
				}
				if want := byGeneral.Elem().Field(0).Addr().Interface(); errSlow == nil && !reflect.DeepEqual(fast, want) {
					t.Fatalf("Decode(%x) = %+v, the general decoder: %+v", b, fast, want)
				}
			}
			rapid.Check(t, func(t *rapid.T) {
				want := zero()
				fillRow(t, reflect.ValueOf(want).Elem())
				encoded, err := general.Marshal(want)
				if err != nil {
					t.Fatal(err)
				}
				if got := entitlement.Encode(want); !bytes.Equal(got, encoded) {
					t.Fatalf("Encode(%+v)\n got %x\nwant %x", want, got, encoded)
				}
				if got := zero(); !canonical.Read(encoded, got) || !reflect.DeepEqual(got, want) {
					t.Fatalf("read by hand: %+v, want %+v", got, want)
				}
				for range 4 {
					encoded[rapid.IntRange(0, len(encoded)-1).Draw(t, "where")] = rapid.Byte().Draw(t, "what")
					agree(t, encoded)
				}
				agree(t, encoded[:rapid.IntRange(0, len(encoded)).Draw(t, "cut")])
			})
		})
	}
}

// A result outlives the bytes of its proposal: the caller may use them again at once, whatever became of the command.
func TestProposeKeepsNothingOfTheCallersBytes(t *testing.T) {
	nodes := startCluster(t, 1, nil)
	encoded := record(event("evt_1", subscription("sub_1", 1, entitlement.Active, "acc_1"))).Encode()
	result, err := leaderOf(t, nodes...).Propose(testContext(t), encoded)
	clear(encoded)
	if err != nil || result.EventID != "evt_1" {
		t.Errorf("Propose = %+v, %v, want evt_1", result, err)
	}
}
