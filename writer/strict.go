package writer

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"
	"unicode/utf8"
)

// maxJSONDepth bounds the nesting of a request; the deepest that we read, a catalog, has 4 levels.
const maxJSONDepth = 16

// decodeStrict reads one JSON value into v, a pointer. It refuses what encoding/json lets pass and what could therefore mean two
// things: unknown fields, fields named twice or in another case, text that is no UTF-8, anything after the value. The error's text
// is made for the one who sent it: it names the field and quotes no value.
func decodeStrict(b []byte, v any) error {
	if !utf8.Valid(b) {
		return errors.New("the body is not UTF-8")
	}
	if len(bytes.TrimSpace(b)) == 0 {
		return errors.New("the body is empty")
	}
	if err := checkNames(json.NewDecoder(bytes.NewReader(b)), reflect.TypeOf(v).Elem(), "", 0); err != nil {
		return err
	}
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	if err := dec.Decode(v); err != nil {
		return explain(err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return errors.New("something follows the JSON value")
	}
	return nil
}

// explain turns an error of encoding/json into words that quote nothing of the body.
func explain(err error) error {
	var wrongType *json.UnmarshalTypeError
	switch {
	case errors.As(err, &wrongType) && wrongType.Field != "":
		return fmt.Errorf("field %q: want %s, have %s", wrongType.Field, jsonKind(wrongType.Type), wrongType.Value)
	case errors.As(err, &wrongType):
		return fmt.Errorf("want %s, have %s", jsonKind(wrongType.Type), wrongType.Value)
	}
	var field *fieldError
	if errors.As(err, &field) {
		return err
	}
	return errors.New("the body is not valid JSON")
}

// fieldError is a mistake in a field, in words for the one who sent it.
type fieldError struct{ field, problem string }

func (e *fieldError) Error() string { return fmt.Sprintf("field %q: %s", e.field, e.problem) }

func jsonKind(t reflect.Type) string {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch t.Kind() {
	case reflect.String:
		return "a string"
	case reflect.Bool:
		return "true or false"
	case reflect.Slice, reflect.Array:
		return "an array"
	case reflect.Struct, reflect.Map:
		return "an object"
	}
	return "a whole number"
}

// checkNames walks a value beside the type that it will be read into and refuses a name that appears twice or that no field has
// exactly. t is nil below what takes any value.
func checkNames(dec *json.Decoder, t reflect.Type, path string, depth int) error {
	if depth > maxJSONDepth {
		return errors.New("the body is nested too deep")
	}
	tok, err := dec.Token()
	if err != nil {
		return explain(err)
	}
	delim, ok := tok.(json.Delim)
	if !ok {
		return nil
	}
	for t != nil && t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	seen := map[string]bool{}
	for i := 0; dec.More(); i++ {
		if delim == '[' {
			if err := checkNames(dec, elementOf(t, reflect.Slice), fmt.Sprintf("%s[%d]", path, i), depth+1); err != nil {
				return err
			}
			continue
		}
		nameTok, err := dec.Token()
		if err != nil {
			return explain(err)
		}
		name, _ := nameTok.(string)
		at := strings.TrimPrefix(path+"."+name, ".")
		if seen[name] {
			return &fieldError{at, "given twice"}
		}
		seen[name] = true
		next := elementOf(t, reflect.Map)
		if t != nil && t.Kind() == reflect.Struct {
			if next, ok = jsonField(t, name); !ok {
				return &fieldError{at, "unknown field"}
			}
		}
		if err := checkNames(dec, next, at, depth+1); err != nil {
			return err
		}
	}
	if _, err := dec.Token(); err != nil {
		return explain(err)
	}
	return nil
}

func elementOf(t reflect.Type, kind reflect.Kind) reflect.Type {
	if t == nil || t.Kind() != kind {
		return nil
	}
	return t.Elem()
}

func jsonField(t reflect.Type, name string) (reflect.Type, bool) {
	for i := range t.NumField() {
		tag, _, _ := strings.Cut(t.Field(i).Tag.Get("json"), ",")
		if tag == name && tag != "-" {
			return t.Field(i).Type, true
		}
	}
	return nil, false
}
