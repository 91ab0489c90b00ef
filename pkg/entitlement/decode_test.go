package entitlement

import (
	"reflect"
	"testing"

	"pgregory.net/rapid"
)

// drawAccount sets every field of every type of the record at random, whatever fields there are.
func drawAccount(t *rapid.T) *Account {
	a := new(Account)
	fill(t, reflect.ValueOf(a).Elem())
	return a
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
		t.Fatalf("a record has a field of kind %s: teach decodeCanonical and this test", v.Kind())
	}
}

// Every record that we write takes the fast way, a field added tomorrow included.
func TestFastDecodeReadsWhatEncodeWrites(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := drawAccount(t)
		var got Account
		if encoded := Encode(want); !got.decodeCanonical(encoded) {
			t.Fatalf("the fast way does not know %x of %+v", encoded, want)
		}
		if !reflect.DeepEqual(&got, want) {
			t.Fatalf("decodeCanonical = %+v, want %+v", got, *want)
		}
	})
}

// On any bytes at all it agrees with the general decoder: the fast way is no second format.
func TestFastDecodeAgreesWithTheGeneralOne(t *testing.T) {
	agree := func(t interface{ Fatalf(string, ...any) }, b []byte) {
		var fast, slow Account
		errFast, errSlow := Decode(b, &fast), decMode.Unmarshal(b, &slow)
		if (errFast == nil) != (errSlow == nil) {
			t.Fatalf("Decode(%x) = %v, the general decoder: %v", b, errFast, errSlow)
		}
		if errSlow == nil && !reflect.DeepEqual(fast, slow) {
			t.Fatalf("Decode(%x) = %+v, the general decoder: %+v", b, fast, slow)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		b := Encode(drawAccount(t))
		agree(t, b)
		for range 4 {
			b[rapid.IntRange(0, len(b)-1).Draw(t, "where")] = rapid.Byte().Draw(t, "what")
			agree(t, b)
		}
		agree(t, b[:rapid.IntRange(0, len(b)).Draw(t, "cut")])
	})
	t.Run("a record of a later version", func(t *testing.T) {
		later := struct {
			Account
			New string `cbor:"99,keyasint"`
		}{Account{ID: "acc_1", CreatedAt: 7}, "new"}
		var a Account
		if err := Decode(Encode(&later), &a); err != nil || a.ID != "acc_1" || a.CreatedAt != 7 {
			t.Errorf("Decode = %+v, %v, want what this version knows", a, err)
		}
	})
}
