package provider

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/latchkey/latchkey/pkg/entitlement"
)

// What is stored of a message is what an allow-list keeps: ids, numbers, booleans, times, enums and our own metadata. Adapters read the
// kept part alone, so that nothing else can reach an event, whatever a provider adds or a merchant types into a free field.

// keep returns what is allowed of a JSON value, or nil for nothing. A value of a wrong type is nothing: one bad field loses itself, not the message.
type keep func(v any) any

const (
	maxIDBytes   = 255 // the longest id that a provider promises: Stripe's
	maxWordBytes = 100
)

// ident keeps an id. Without blanks and "@" it cannot be a name or an address.
func ident(v any) any {
	if s, ok := v.(string); ok && isText(s, maxIDBytes, func(c byte) bool { return isAlnum(c) || strings.IndexByte("_.:-", c) >= 0 }) {
		return s
	}
	return nil
}

// word keeps a value out of the provider's own vocabulary: an enum, a type, a currency.
func word(v any) any {
	if s, ok := v.(string); ok && isText(s, maxWordBytes, func(c byte) bool { return isAlnum(c) || c == '_' || c == '.' }) {
		return s
	}
	return nil
}

func isText(s string, most int, allowed func(byte) bool) bool {
	for i := range len(s) {
		if !allowed(s[i]) {
			return false
		}
	}
	return s != "" && len(s) <= most
}

func isAlnum(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
}

// number keeps an integer that fits 64 bits.
func number(v any) any {
	n, ok := v.(json.Number)
	if !ok {
		return nil
	}
	if i, err := strconv.ParseInt(string(n), 10, 64); err == nil {
		return i
	}
	if f, err := strconv.ParseFloat(string(n), 64); err == nil && f == math.Trunc(f) && math.Abs(f) < 1<<53 {
		return int64(f) // 1.0 and 1e3 are integers too
	}
	return nil
}

// flag keeps a boolean.
func flag(v any) any {
	if b, ok := v.(bool); ok {
		return b
	}
	return nil
}

// ref keeps the id of another object, which may be there in full.
func ref(v any) any {
	if full, ok := v.(map[string]any); ok {
		v = full["id"]
	}
	return ident(v)
}

// object is what was kept of a JSON object: its values are string, int64, bool, object or list.
type object map[string]any

// list is what was kept of a JSON array. Cut says that there is more than this.
type list struct {
	Data []object
	Cut  bool
}

// fields keeps of an object what the shape names.
func fields(shape map[string]keep) keep {
	return func(v any) any {
		in, ok := v.(map[string]any)
		if !ok {
			return nil
		}
		out := object{}
		for name, keep := range shape {
			if value, there := in[name]; there {
				if kept := keep(value); kept != nil {
					out[name] = kept
				}
			}
		}
		return out
	}
}

// named is fields for an object that may be there as its id alone.
func named(shape map[string]keep) keep {
	full := fields(shape)
	return func(v any) any {
		if id := ident(v); id != nil {
			return object{"id": id}
		}
		return full(v)
	}
}

// page keeps a list as Stripe sends it: `{"data": [...], "has_more": false}`. An element that is no object cuts the list.
func page(shape map[string]keep) keep {
	element := fields(shape)
	return func(v any) any {
		in, ok := v.(map[string]any)
		if !ok {
			return nil
		}
		data, ok := in["data"].([]any)
		out := list{Data: []object{}, Cut: !ok || in["has_more"] == true}
		for _, v := range data {
			if kept, ok := element(v).(object); ok {
				out.Data = append(out.Data, kept)
			} else {
				out.Cut = true
			}
		}
		return out
	}
}

func (o object) text(name string) string { s, _ := o[name].(string); return s }

func (o object) int(name string) int64 { n, _ := o[name].(int64); return n }

func (o object) is(name string) bool { b, _ := o[name].(bool); return b }

// in returns a nested object; one that is not there is empty.
func (o object) in(names ...string) object {
	for _, name := range names {
		o, _ = o[name].(object)
	}
	return o
}

// list returns a nested list; one that is not there is cut, because nothing says that it is empty.
func (o object) list(name string) list {
	l, ok := o[name].(list)
	if !ok {
		l.Cut = true
	}
	return l
}

// raw returns what is stored of the message for people and for re-reading history: JSON with the names in order.
func (o object) raw() []byte { return appendKept(make([]byte, 0, 1024), o) }

// appendKept writes a kept value. It exists because encoding/json takes longer over maps than all the rest of reading a message does.
func appendKept(dst []byte, v any) []byte {
	switch v := v.(type) {
	case string:
		return appendText(dst, v)
	case int64:
		return strconv.AppendInt(dst, v, 10)
	case bool:
		return strconv.AppendBool(dst, v)
	case object:
		names := make([]string, 0, 32)
		for name := range v {
			names = append(names, name)
		}
		slices.Sort(names)
		dst = append(dst, '{')
		for i, name := range names {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = append(appendText(dst, name), ':')
			dst = appendKept(dst, v[name])
		}
		return append(dst, '}')
	case list:
		dst = append(dst, `{"data":[`...)
		for i, o := range v.Data {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = appendKept(dst, o)
		}
		if dst = append(dst, ']'); v.Cut {
			dst = append(dst, `,"has_more":true`...)
		}
		return append(dst, '}')
	}
	panic(fmt.Sprintf("an allow-list kept a %T", v)) // keep functions return nothing else
}

// appendText writes a text that ident or word let through, or one of our own: none needs an escape.
func appendText(dst []byte, s string) []byte {
	return append(append(append(dst, '"'), s...), '"')
}

var errNotObject = errors.New("not a JSON object")

// decodeObject reads one JSON object. Its errors say where, never what stands there.
func decodeObject(body []byte) (map[string]any, error) {
	dec := json.NewDecoder(bytes.NewReader(body))
	dec.UseNumber()
	var v any
	if err := dec.Decode(&v); err != nil {
		if syntax := (*json.SyntaxError)(nil); errors.As(err, &syntax) {
			return nil, fmt.Errorf("not JSON at byte %d", syntax.Offset)
		}
		return nil, fmt.Errorf("not JSON at byte %d", dec.InputOffset())
	}
	if rest := bytes.TrimLeft(body[dec.InputOffset():], " \t\r\n"); len(rest) > 0 {
		return nil, fmt.Errorf("more than one JSON value at byte %d", len(body)-len(rest))
	}
	m, ok := v.(map[string]any)
	if !ok {
		return nil, errNotObject
	}
	return m, nil
}

// unreadable is the event of an authentic body that could not be understood. Of the body it holds the hash, the length and what was wrong.
func unreadable(p entitlement.Provider, env entitlement.Environment, body []byte, why error) entitlement.Event {
	sum := sha256.Sum256(body)
	hash := hex.EncodeToString(sum[:])
	return entitlement.Event{
		Provider:    p,
		ID:          "sha256:" + hash,
		Environment: env,
		Kind:        entitlement.Unreadable,
		Raw:         object{"sha256": hash, "length": int64(len(body)), "error": why.Error()}.raw(),
	}
}
