package token

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"unicode/utf8"
)

const (
	// maxSafeInteger is the largest number that every JSON library reads exactly (2^53 - 1, RFC 8259 section 6). A larger one would mean
	// one thing to a verifier in Go and another to one in JavaScript.
	maxSafeInteger = 1<<53 - 1

	// maxJSONDepth bounds the recursion: how many objects and arrays may be open around one. Ours (cnf.jwk, ent[]) have 2.
	maxJSONDepth = 8
)

// object is a JSON object read so that two verifiers cannot read it differently: valid UTF-8, exact and unique names at every depth,
// numbers that are integers written without fraction or exponent and within maxSafeInteger. encoding/json alone lets the last of two
// equal names win and matches "EXP" to exp. Values are string, int64, bool, nil, object or []any.
type object map[string]any

var errJSON = errors.New("not a strict JSON object")

func parseObject(data []byte) (object, error) {
	if !utf8.Valid(data) || !json.Valid(data) {
		return nil, errJSON
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	value, err := parseValue(dec, 0)
	if err != nil {
		return nil, err
	}
	o, ok := value.(object)
	if !ok {
		return nil, errJSON
	}
	return o, nil
}

func parseValue(dec *json.Decoder, depth int) (any, error) {
	t, err := dec.Token()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errJSON, err)
	}
	switch t := t.(type) {
	case json.Number:
		n, err := strconv.ParseInt(t.String(), 10, 64)
		if err != nil || n > maxSafeInteger || n < -maxSafeInteger {
			return nil, fmt.Errorf("%w: a number is not a safe integer", errJSON)
		}
		return n, nil
	case json.Delim:
		if depth > maxJSONDepth {
			return nil, fmt.Errorf("%w: nested too deep", errJSON)
		}
		if t == '[' {
			return parseArray(dec, depth)
		}
		return parseMembers(dec, depth)
	default:
		return t, nil // string, bool, nil
	}
}

func parseArray(dec *json.Decoder, depth int) (any, error) {
	list := []any{}
	for dec.More() {
		v, err := parseValue(dec, depth+1)
		if err != nil {
			return nil, err
		}
		list = append(list, v)
	}
	_, err := dec.Token()
	return list, err
}

func parseMembers(dec *json.Decoder, depth int) (any, error) {
	o := object{}
	for dec.More() {
		t, err := dec.Token()
		if err != nil {
			return nil, fmt.Errorf("%w: %w", errJSON, err)
		}
		name, ok := t.(string)
		if !ok {
			return nil, errJSON
		}
		if _, dup := o[name]; dup {
			return nil, fmt.Errorf("%w: a member appears twice", errJSON)
		}
		if o[name], err = parseValue(dec, depth+1); err != nil {
			return nil, err
		}
	}
	_, err := dec.Token()
	return o, err
}

// members reads typed members of an object and keeps the first mistake, so that a decoder reads as the list of its fields.
type members struct {
	object
	err error
}

func (m *members) fail(name, want string) {
	if m.err == nil {
		m.err = fmt.Errorf("%w: %s is not %s", errJSON, name, want)
	}
}

func (m *members) has(name string) bool {
	_, ok := m.object[name]
	return ok
}

// text is a required string that is not empty.
func (m *members) text(name string) string {
	s, ok := m.object[name].(string)
	if !ok || s == "" {
		m.fail(name, "a string")
	}
	return s
}

// optionalText is "" when absent; null is not absent.
func (m *members) optionalText(name string) string {
	if !m.has(name) {
		return ""
	}
	s, ok := m.object[name].(string)
	if !ok {
		m.fail(name, "a string")
	}
	return s
}

func (m *members) integer(name string) int64 {
	n, ok := m.object[name].(int64)
	if !ok {
		m.fail(name, "an integer")
	}
	return n
}

func (m *members) optionalInteger(name string) int64 {
	if !m.has(name) {
		return 0
	}
	return m.integer(name)
}

// natural is a required integer that is not negative.
func (m *members) natural(name string) uint64 {
	n := m.integer(name)
	if n < 0 {
		m.fail(name, "zero or more")
	}
	return uint64(n)
}

func (m *members) optionalBool(name string) bool {
	if !m.has(name) {
		return false
	}
	b, ok := m.object[name].(bool)
	if !ok {
		m.fail(name, "true or false")
	}
	return b
}

func (m *members) list(name string) []any {
	l, ok := m.object[name].([]any)
	if !ok {
		m.fail(name, "an array")
	}
	return l
}

// texts is an optional array of strings: nil when absent, and never nil when there.
func (m *members) texts(name string) []string {
	if !m.has(name) {
		return nil
	}
	out := []string{}
	for _, v := range m.list(name) {
		s, ok := v.(string)
		if !ok {
			m.fail(name, "an array of strings")
		}
		out = append(out, s)
	}
	return out
}

func (m *members) nested(name string) object {
	o, ok := m.object[name].(object)
	if !ok {
		m.fail(name, "an object")
	}
	return o
}

// hash is a required SHA-256 in lower-case hex.
func (m *members) hash(name string) (sum [32]byte) {
	s := m.text(name)
	if b, err := hex.DecodeString(s); err != nil || len(b) != len(sum) || hex.EncodeToString(b) != s {
		m.fail(name, "a SHA-256 in hex")
	} else {
		copy(sum[:], b)
	}
	return sum
}

// names returns the names of all members in ascending order.
func (m *members) names() []string { return slices.Sorted(maps.Keys(m.object)) }

// AppendString appends s to dst as a JSON string. It is exported so that the answer beside a token spells strings as the token does.
// Text that needs no escape costs no allocation; bytes that are not UTF-8 become U+FFFD.
func AppendString(dst []byte, s string) []byte {
	for i := range len(s) {
		if c := s[i]; c < 0x20 || c == '"' || c == '\\' || c >= utf8.RuneSelf {
			return appendEscaped(dst, s)
		}
	}
	dst = append(dst, '"')
	dst = append(dst, s...)
	return append(dst, '"')
}

func appendEscaped(dst []byte, s string) []byte {
	b, err := json.Marshal(s)
	if err != nil { // never for a string
		return append(dst, `""`...)
	}
	return append(dst, b...)
}

// appendText appends `,"name":"value"`.
func appendText(dst []byte, name, value string) []byte {
	dst = append(append(append(dst, `,"`...), name...), `":`...)
	return AppendString(dst, value)
}

// appendInteger appends `,"name":value`.
func appendInteger(dst []byte, name string, value int64) []byte {
	dst = append(append(append(dst, `,"`...), name...), `":`...)
	return strconv.AppendInt(dst, value, 10)
}

// appendBool appends `,"name":value`.
func appendBool(dst []byte, name string, value bool) []byte {
	dst = append(append(append(dst, `,"`...), name...), `":`...)
	return strconv.AppendBool(dst, value)
}
