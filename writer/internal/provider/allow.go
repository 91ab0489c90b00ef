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

	"github.com/tidwall/gjson"

	"github.com/latchkey/latchkey/pkg/entitlement"
)

// What is stored of a message is what an allow-list keeps: ids, numbers, booleans, times, enums and our own metadata. Adapters read the
// kept part alone, so that nothing else can reach an event, whatever a provider adds or a merchant types into a free field.

// keep returns what is allowed of a JSON value, or nil for nothing. A value of a wrong type is nothing: one bad field loses itself, not the message.
// Of several members of one name the last counts.
type keep func(v gjson.Result) any

const (
	maxIDBytes   = 255 // the longest id that a provider promises: Stripe's
	maxWordBytes = 100
)

// ident keeps an id. Without blanks and "@" it cannot be a name or an address.
func ident(v gjson.Result) any {
	if v.Type == gjson.String && isIdent(v.Str) {
		return v.Str
	}
	return nil
}

func isIdent(s string) bool {
	return isText(s, maxIDBytes, func(c byte) bool { return isAlnum(c) || strings.IndexByte("_.:-", c) >= 0 })
}

// word keeps a value out of the provider's own vocabulary: an enum, a type, a currency.
func word(v gjson.Result) any {
	if v.Type == gjson.String && isText(v.Str, maxWordBytes, func(c byte) bool { return isAlnum(c) || c == '_' || c == '.' }) {
		return v.Str
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
func number(v gjson.Result) any {
	if v.Type != gjson.Number {
		return nil
	}
	if i, err := strconv.ParseInt(v.Raw, 10, 64); err == nil {
		return i
	}
	if f, err := strconv.ParseFloat(v.Raw, 64); err == nil && f == math.Trunc(f) && math.Abs(f) < 1<<53 {
		return int64(f) // 1.0 and 1e3 are integers too
	}
	return nil
}

// flag keeps a boolean.
func flag(v gjson.Result) any {
	if v.IsBool() {
		return v.Type == gjson.True
	}
	return nil
}

// wrongForm stands for a value that is there and not understood, where that must not be taken for nothing.
const wrongForm = "wrong_form"

// told keeps what another keep does, and wrongForm for what that one does not understand. Null is nothing.
func told(keep keep) keep {
	return func(v gjson.Result) any {
		if kept := keep(v); kept != nil || v.Type == gjson.Null {
			return kept
		}
		return wrongForm
	}
}

// wrong reports whether one of the members is there and not understood.
func (o object) wrong(names ...string) bool {
	return slices.ContainsFunc(names, func(name string) bool { return o.text(name) == wrongForm })
}

// ref keeps the id of another object, which may be there in full.
func ref(v gjson.Result) any {
	if v.IsObject() {
		v = member(v, "id")
	}
	return ident(v)
}

// member returns an object's member; one that is not there does not exist.
func member(v gjson.Result, name string) (found gjson.Result) {
	v.ForEach(func(key, value gjson.Result) bool {
		if key.Str == name {
			found = value
		}
		return true
	})
	return found
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
	return func(v gjson.Result) any {
		if !v.IsObject() {
			return nil
		}
		out := object{}
		v.ForEach(func(key, value gjson.Result) bool {
			if keep, allowed := shape[key.Str]; allowed {
				if kept := keep(value); kept != nil {
					out[key.Str] = kept
				} else {
					delete(out, key.Str)
				}
			}
			return true
		})
		return out
	}
}

// named is fields for an object that may be there as its id alone.
func named(shape map[string]keep) keep {
	full := fields(shape)
	return func(v gjson.Result) any {
		if id := ident(v); id != nil {
			return object{"id": id}
		}
		return full(v)
	}
}

// page keeps a list as Stripe sends it: `{"data": [...], "has_more": false}`. An element that is no object cuts the list.
func page(shape map[string]keep) keep {
	element := fields(shape)
	return func(v gjson.Result) any {
		if !v.IsObject() {
			return nil
		}
		data := member(v, "data")
		out := list{Data: []object{}, Cut: !data.IsArray() || member(v, "has_more").Type == gjson.True}
		if data.IsArray() {
			data.ForEach(func(_, v gjson.Result) bool {
				if kept, ok := element(v).(object); ok {
					out.Data = append(out.Data, kept)
				} else {
					out.Cut = true
				}
				return true
			})
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

// maxDepth is how deeply a message may be nested: far more than any provider nests, and a few megabytes of stack. encoding/json has the same.
const maxDepth = 10_000

// decodeObject reads one JSON object. Its errors say where, never what stands there.
func decodeObject(body []byte) (gjson.Result, error) {
	if bytes.Count(body, []byte("["))+bytes.Count(body, []byte("{")) > maxDepth && depth(body) > maxDepth {
		return gjson.Result{}, fmt.Errorf("nested more than %d deep", maxDepth)
	}
	if !gjson.ValidBytes(body) {
		return gjson.Result{}, whereInvalid(body)
	}
	v := gjson.ParseBytes(body)
	if !v.IsObject() {
		return gjson.Result{}, errNotObject
	}
	return v, nil
}

// depth is how deeply brackets are nested, those in texts apart.
func depth(body []byte) (deepest int) {
	at, inText := 0, false
	for i := 0; i < len(body); i++ {
		switch c := body[i]; {
		case inText && c == '\\':
			i++
		case c == '"':
			inText = !inText
		case inText:
		case c == '[' || c == '{':
			at++
			deepest = max(deepest, at)
		case c == ']' || c == '}':
			at--
		}
	}
	return deepest
}

// whereInvalid says at which byte a body stops to be JSON.
func whereInvalid(body []byte) error {
	dec := json.NewDecoder(bytes.NewReader(body))
	var v json.RawMessage
	if err := dec.Decode(&v); err != nil {
		if syntax := (*json.SyntaxError)(nil); errors.As(err, &syntax) {
			return fmt.Errorf("not JSON at byte %d", syntax.Offset)
		}
		return fmt.Errorf("not JSON at byte %d", dec.InputOffset())
	}
	rest := bytes.TrimLeft(body[dec.InputOffset():], " \t\r\n")
	return fmt.Errorf("more than one JSON value at byte %d", len(body)-len(rest))
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
