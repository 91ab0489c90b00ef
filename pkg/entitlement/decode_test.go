package entitlement

import (
	"bytes"
	"reflect"
	"testing"

	"pgregory.net/rapid"

	"github.com/latchkey/latchkey/pkg/entitlement/canonical"
)

// byHand are the types that are read and written by hand.
var byHand = map[string]func() canonicalValue{
	"account":  func() canonicalValue { return new(Account) },
	"event":    func() canonicalValue { return new(Event) },
	"evidence": func() canonicalValue { return new(Evidence) },
	"object":   func() canonicalValue { return new(Object) },
}

type canonicalValue interface {
	canonical.Readable
	canonical.Writable
}

// draw sets every field of every type in v at random, whatever fields there are.
func draw(t *rapid.T, v canonicalValue) canonicalValue {
	fill(t, reflect.ValueOf(v).Elem())
	return v
}

func fill(t *rapid.T, v reflect.Value) {
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			fill(t, v.Field(i))
		}
	case reflect.String:
		v.SetString(rapid.String().Draw(t, "text"))
	case reflect.Int64:
		v.SetInt(rapid.Int64().Draw(t, "number"))
	case reflect.Uint8:
		v.SetUint(uint64(rapid.Uint8().Draw(t, "small")))
	case reflect.Bool:
		v.SetBool(rapid.Bool().Draw(t, "flag"))
	case reflect.Slice:
		if n := rapid.IntRange(0, 3).Draw(t, "length"); n > 0 {
			v.Set(reflect.MakeSlice(v.Type(), n, n))
			for i := range n {
				fill(t, v.Index(i))
			}
		}
	case reflect.Pointer:
		if rapid.Bool().Draw(t, "there") {
			v.Set(reflect.New(v.Type().Elem()))
			fill(t, v.Elem())
		}
	default:
		t.Fatalf("there is a field of kind %s: teach package canonical and this test", v.Kind())
	}
}

// Every value that we write takes the fast way, a field added tomorrow included, and has the bytes of the general encoder.
func TestByHandIsWhatTheGeneralCodecSays(t *testing.T) {
	for name, zero := range byHand {
		t.Run(name, func(t *testing.T) {
			rapid.Check(t, func(t *rapid.T) {
				want := draw(t, zero())
				encoded := encodeGeneral(want)
				if got := Encode(want); !bytes.Equal(got, encoded) {
					t.Fatalf("Encode(%+v)\n got %x\nwant %x", want, got, encoded)
				}
				for _, read := range []func([]byte, canonical.Readable) bool{canonical.Read, canonical.ReadShared} {
					got := zero()
					if !read(encoded, got) {
						t.Fatalf("the fast way does not know %x of %+v", encoded, want)
					}
					if !reflect.DeepEqual(got, want) {
						t.Fatalf("read by hand: %+v, want %+v", got, want)
					}
				}
			})
		})
	}
}

// agree shows that on any bytes at all Decode says what the general decoder says: the fast way is no second format.
func agree(t interface{ Fatalf(string, ...any) }, b []byte, zero func() canonicalValue) {
	slow := zero()
	errSlow := decMode.Unmarshal(b, slow)
	for _, decode := range []func([]byte, any) error{Decode, DecodeShared} {
		fast := zero()
		errFast := decode(b, fast)
		if (errFast == nil) != (errSlow == nil) {
			t.Fatalf("Decode(%x) = %v, the general decoder: %v", b, errFast, errSlow)
		}
		if errSlow == nil && !reflect.DeepEqual(fast, slow) {
			t.Fatalf("Decode(%x) = %+v, the general decoder: %+v", b, fast, slow)
		}
	}
}

func TestFastDecodeAgreesWithTheGeneralOne(t *testing.T) {
	for name, zero := range byHand {
		t.Run(name, func(t *testing.T) {
			rapid.Check(t, func(t *rapid.T) {
				b := Encode(draw(t, zero()))
				agree(t, b, zero)
				for range 4 {
					b[rapid.IntRange(0, len(b)-1).Draw(t, "where")] = rapid.Byte().Draw(t, "what")
					agree(t, b, zero)
				}
				agree(t, b[:rapid.IntRange(0, len(b)).Draw(t, "cut")], zero)
			})
		})
	}
	t.Run("a record of a later version", func(t *testing.T) {
		later := struct {
			Account
			New string `cbor:"99,keyasint"`
		}{Account{ID: "acc_1", CreatedAt: 7}, "new"}
		var a Account
		if err := Decode(encodeGeneral(&later), &a); err != nil || a.ID != "acc_1" || a.CreatedAt != 7 {
			t.Errorf("Decode = %+v, %v, want what this version knows", a, err)
		}
	})
}

// FuzzDecode is the same for bytes that a fuzzer finds: go test -fuzz FuzzDecode ./pkg/entitlement
func FuzzDecode(f *testing.F) {
	for _, v := range goldenValues() {
		f.Add(Encode(v))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, zero := range byHand {
			agree(t, b, zero)
		}
	})
}

// A length is a promise that bytes follow: one that lies must not cost memory before they do.
func TestALyingLengthCostsNoMemory(t *testing.T) {
	for _, tt := range []struct{ name, head string }{
		{"objects of an event", "\xa1\x07\x9a\x00\x00\xff\xff\x00"},
		{"links of evidence", "\xa1\x01\x9a\x00\x00\xff\xff\x00"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := append([]byte(tt.head), make([]byte, 1<<16)...)
			used := testing.Benchmark(func(bench *testing.B) {
				bench.ReportAllocs()
				for range bench.N {
					if canonical.ReadShared(b, new(Event)) || canonical.ReadShared(b, new(Evidence)) {
						bench.Fatal("it was read")
					}
				}
			}).AllocedBytesPerOp()
			if limit := int64(1 << 16); used > limit {
				t.Errorf("%d bytes of memory for %d of input, want at most %d", used, len(b), limit)
			}
		})
	}
}
