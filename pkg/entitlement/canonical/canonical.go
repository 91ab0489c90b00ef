// Package canonical reads and writes by hand the part of CBOR that records, rows and commands are made of: maps with small numbers as keys, in
// their order, arrays, texts, bytes, integers and booleans (RFC 8949, 4.2.1). It is no second format: a Writer's bytes are those of the general
// encoder, and a Reader gives up on what it does not know, so that the general decoder judges. Start at entitlement.Encode and Decode.
package canonical

import (
	"math"
	"math/bits"
	"slices"
	"unicode/utf8"
	"unsafe"
)

// Limits of what is accepted, far above what a record of 256 KiB can hold: they stop a corrupt length from costing memory.
const (
	MaxNesting  = 16
	MaxElements = 65_536
	maxAhead    = 64 // elements for which there is memory before the first has been read
)

// The major types (RFC 8949 section 3.1) and simple values.
const (
	majorUnsigned = 0
	majorNegative = 1
	majorBytes    = 2
	majorText     = 3
	majorArray    = 4
	majorMap      = 5
	simpleFalse   = 0xf4
	simpleTrue    = 0xf5
)

// Readable is a pointer to a zero value that can be read by hand. What is in it after the reader failed does not matter.
type Readable interface{ ReadCanonical(*Reader) }

// Writable can be written by hand, byte for byte as the general encoder would.
type Writable interface{ WriteCanonical(*Writer) }

// Reader takes bytes apart. After the first thing that it does not know, it has failed and everything reads as zero.
type Reader struct {
	text   string // all of it: texts are cut out of it without another copy
	at     int
	shared bool // byte strings are parts of text too
	failed bool
}

// Read fills v, which is zero, and reports whether b was canonical and held nothing but what v knows. Texts in v share memory of their own.
func Read(b []byte, v Readable) bool { return (&Reader{text: string(b)}).read(v) }

// ReadShared is Read without a copy: texts and byte strings in v are parts of b, which must never change again.
func ReadShared(b []byte, v Readable) bool {
	return (&Reader{text: unsafe.String(unsafe.SliceData(b), len(b)), shared: true}).read(v)
}

func (r *Reader) read(v Readable) bool {
	v.ReadCanonical(r)
	return !r.failed && r.at == len(r.text)
}

// Fail gives up: the value holds something that is not known.
func (r *Reader) Fail() { r.failed, r.at = true, len(r.text) }

func (r *Reader) byte() byte {
	if r.at >= len(r.text) {
		r.Fail()
		return 0
	}
	r.at++
	return r.text[r.at-1]
}

// head reads a data item's major type and argument.
func (r *Reader) head() (major byte, n uint64) {
	b := r.byte()
	major, n = b>>5, uint64(b&0x1f)
	if n < 24 {
		return major, n
	}
	size := 1 << (n - 24)
	if n > 27 || len(r.text)-r.at < size {
		r.Fail()
		return 0, 0
	}
	n = 0
	for range size {
		n = n<<8 | uint64(r.text[r.at])
		r.at++
	}
	return major, n
}

// length reads the length of a text, array or map; each element takes a byte at least.
func (r *Reader) length(major byte, limit uint64) int {
	got, n := r.head()
	if got != major || n > uint64(len(r.text)-r.at) || n > limit {
		r.Fail()
		return 0
	}
	return int(n)
}

// Fields calls read for each field of a map, which must come in the order of their numbers. read calls Fail for a field that it does not know.
func (r *Reader) Fields(read func(field uint64)) {
	last := -1
	for range r.length(majorMap, MaxElements) {
		major, field := r.head()
		if major != majorUnsigned || field > math.MaxUint8 || int(field) <= last {
			r.Fail()
		}
		if r.failed {
			return
		}
		last = int(field)
		read(field)
	}
}

// List reads an array, each element with read.
func List[T any](r *Reader, read func(*T)) []T {
	n := r.length(majorArray, MaxElements)
	out := make([]T, 0, min(n, maxAhead))
	for range n {
		if r.failed {
			break
		}
		var zero T
		out = append(out, zero)
		read(&out[len(out)-1])
	}
	return out
}

// Texts reads an array of texts.
func Texts[T ~string](r *Reader) []T { return List(r, func(s *T) { *s = T(r.String()) }) }

// String reads a text.
func (r *Reader) String() string {
	s := r.cut(majorText)
	if !utf8.ValidString(s) {
		r.Fail()
	}
	return s
}

// Bytes reads a byte string.
func (r *Reader) Bytes() []byte {
	s := r.cut(majorBytes)
	if r.shared && s != "" {
		return unsafe.Slice(unsafe.StringData(s), len(s))
	}
	return []byte(s)
}

// Fill reads a byte string of the length of dst into it.
func (r *Reader) Fill(dst []byte) {
	if s := r.cut(majorBytes); copy(dst, s) != len(dst) || len(s) != len(dst) {
		r.Fail()
	}
}

func (r *Reader) cut(major byte) string {
	n := r.length(major, math.MaxInt32)
	s := r.text[r.at : r.at+n]
	r.at += n
	return s
}

// Int reads an integer.
func (r *Reader) Int() int64 {
	major, n := r.head()
	if major > majorNegative || n > math.MaxInt64 {
		r.Fail()
		return 0
	}
	if major == majorNegative {
		return -1 - int64(n)
	}
	return int64(n)
}

// Uint reads an integer that is not negative.
func (r *Reader) Uint() uint64 {
	major, n := r.head()
	if major != majorUnsigned {
		r.Fail()
		return 0
	}
	return n
}

// Small reads an integer of a byte.
func (r *Reader) Small() uint8 {
	n := r.Uint()
	if n > math.MaxUint8 {
		r.Fail()
	}
	return uint8(n)
}

// Bool reads a boolean.
func (r *Reader) Bool() bool {
	b := r.byte()
	if b != simpleTrue && b != simpleFalse {
		r.Fail()
	}
	return b == simpleTrue
}

// Writer puts bytes together. The zero value is ready.
type Writer struct {
	Buffer []byte
}

// Map is where the head of a map stands, whose fields are being written in the order of their numbers. It has 255 at most.
type Map int

// Map begins a map.
func (w *Writer) Map() Map {
	w.Buffer = append(w.Buffer, majorMap<<5)
	return Map(len(w.Buffer) - 1)
}

// Field begins a field, whose value comes next. The functions named after kinds leave a field out whose value is zero.
func (w *Writer) Field(m Map, number byte) {
	switch w.Buffer[m] {
	default:
		w.Buffer[m]++
	case majorMap<<5 | maxShort:
		w.Buffer[m]++ // the count has a byte of its own from here on
		w.Buffer = slices.Insert(w.Buffer, int(m)+1, maxShort+1)
	case majorMap<<5 | oneByte:
		w.Buffer[m+1]++
	}
	w.head(majorUnsigned, uint64(number))
}

// RFC 8949, section 3: a head holds numbers up to 23 itself, and says by 24 that one byte more holds it.
const (
	maxShort = 23
	oneByte  = 24
)

func (w *Writer) head(major byte, n uint64) {
	major <<= 5
	switch size := bits.Len64(n); {
	case n < 24:
		w.Buffer = append(w.Buffer, major|byte(n))
	case size <= 8:
		w.Buffer = append(w.Buffer, major|24, byte(n))
	case size <= 16:
		w.Buffer = append(w.Buffer, major|25, byte(n>>8), byte(n))
	case size <= 32:
		w.Buffer = append(w.Buffer, major|26, byte(n>>24), byte(n>>16), byte(n>>8), byte(n))
	default:
		w.Buffer = append(w.Buffer, major|27, byte(n>>56), byte(n>>48), byte(n>>40), byte(n>>32), byte(n>>24), byte(n>>16), byte(n>>8), byte(n))
	}
}

// String writes a text.
func (w *Writer) String(s string) {
	w.head(majorText, uint64(len(s)))
	w.Buffer = append(w.Buffer, s...)
}

// Text is a field with a text.
func (w *Writer) Text(m Map, number byte, s string) {
	if s != "" {
		w.Field(m, number)
		w.String(s)
	}
}

// Blob writes a byte string.
func (w *Writer) Blob(b []byte) {
	w.BytesHead(len(b))
	w.Buffer = append(w.Buffer, b...)
}

// Bytes is a field with a byte string.
func (w *Writer) Bytes(m Map, number byte, b []byte) {
	if len(b) > 0 {
		w.Field(m, number)
		w.Blob(b)
	}
}

// BytesHead writes what stands before a byte string of n bytes.
func (w *Writer) BytesHead(n int) { w.head(majorBytes, uint64(n)) }

// Number writes an integer.
func (w *Writer) Number(n int64) {
	if n < 0 {
		w.head(majorNegative, uint64(-1-n))
		return
	}
	w.head(majorUnsigned, uint64(n))
}

// Unsigned writes an integer that is not negative.
func (w *Writer) Unsigned(n uint64) { w.head(majorUnsigned, n) }

// Int is a field with an integer.
func (w *Writer) Int(m Map, number byte, n int64) {
	if n != 0 {
		w.Field(m, number)
		w.Number(n)
	}
}

// True is a field with a boolean.
func (w *Writer) True(m Map, number byte, b bool) {
	if b {
		w.Field(m, number)
		w.Buffer = append(w.Buffer, simpleTrue)
	}
}

// WriteList is a field with an array, each element of which write writes.
func WriteList[T any](w *Writer, m Map, number byte, list []T, write func(*T)) {
	if len(list) == 0 {
		return
	}
	w.Field(m, number)
	w.head(majorArray, uint64(len(list)))
	for i := range list {
		write(&list[i])
	}
}

// WriteTexts is a field with an array of texts.
func WriteTexts[T ~string](w *Writer, m Map, number byte, list []T) {
	WriteList(w, m, number, list, func(s *T) { w.String(string(*s)) })
}
