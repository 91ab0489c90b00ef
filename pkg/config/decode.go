package config

import (
	"encoding"
	"fmt"
	"io"
	"maps"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

var (
	secretType   = reflect.TypeFor[Secret]()
	secretsType  = reflect.TypeFor[[]Secret]()
	durationType = reflect.TypeFor[time.Duration]()
	textType     = reflect.TypeFor[encoding.TextUnmarshaler]()
)

// fields maps the names of a struct's fields to their indexes.
func fields(t reflect.Type) map[string]int {
	names := map[string]int{}
	for i := range t.NumField() {
		if name, ok := t.Field(i).Tag.Lookup(tag); ok {
			names[name] = i
		}
	}
	return names
}

func join(path, name string) string {
	if path == "" {
		return name
	}
	return path + delimiter + name
}

// decode puts value, as YAML gives it, into v. It goes on after a mistake.
func (l *loader) decode(path string, value any, v reflect.Value) {
	if value == nil {
		return // an empty section keeps its defaults
	}
	if v.Kind() == reflect.Pointer {
		v.Set(reflect.New(v.Type().Elem()))
		v = v.Elem()
	}
	if v.CanAddr() && v.Addr().Type().Implements(textType) {
		l.decodeText(path, value, v.Addr().Interface().(encoding.TextUnmarshaler))
		return
	}
	switch v.Kind() {
	case reflect.Struct:
		l.decodeStruct(path, value, v)
	case reflect.Map:
		l.decodeMap(path, value, v)
	case reflect.Slice:
		list, ok := value.([]any)
		if !ok {
			l.add(path, "want a list, have %s", describe(value))
			return
		}
		v.Set(reflect.MakeSlice(v.Type(), len(list), len(list)))
		for i, e := range list {
			l.decode(fmt.Sprintf("%s[%d]", path, i), e, v.Index(i))
		}
	default:
		l.decodeScalar(path, value, v)
	}
}

func (l *loader) decodeText(path string, value any, into encoding.TextUnmarshaler) {
	s, ok := value.(string)
	if !ok {
		l.add(path, "want text, have %s", describe(value))
		return
	}
	if err := into.UnmarshalText([]byte(s)); err != nil {
		l.add(path, "%v", err)
	}
}

func (l *loader) decodeStruct(path string, value any, v reflect.Value) {
	section, ok := value.(map[string]any)
	if !ok {
		l.add(path, "want a section, have %s", describe(value))
		return
	}
	known := fields(v.Type())
	for _, name := range slices.Sorted(maps.Keys(section)) {
		at := join(path, name)
		if i, ok := known[name]; ok {
			l.decode(at, section[name], v.Field(i))
			continue
		}
		base, isFile := strings.CutSuffix(name, fileSuffix)
		i, ok := known[base]
		if !isFile || !ok || !isSecret(v.Type().Field(i).Type) {
			l.add(at, "unknown field")
			continue
		}
		if _, both := section[base]; both && !l.overrules(at, join(path, base)) {
			continue
		}
		l.decodeSecretFile(at, section[name], v.Field(i))
	}
}

// overrules reports whether the <field>_file at fileField is to be read although field is there too: one that comes from the
// environment beats one from the configuration file; two of one source are a mistake.
func (l *loader) overrules(fileField, field string) bool {
	_, envFile := l.variables[fileField]
	_, envField := l.variables[field]
	if envFile == envField {
		l.add(fileField, "given together with %s: give one of them", field)
		return false
	}
	return envFile
}

func isSecret(t reflect.Type) bool { return t == secretType || t == secretsType }

func (l *loader) decodeSecretFile(path string, value any, v reflect.Value) {
	name, ok := value.(string)
	if !ok || name == "" {
		l.add(path, "want the path of a file, have %s", describe(value))
		return
	}
	text, err := readSecretFile(name)
	if err != nil {
		l.add(path, "%v", err)
		return
	}
	if v.Type() == secretType {
		v.SetString(text)
		return
	}
	var secrets []Secret
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); line != "" {
			secrets = append(secrets, Secret(line))
		}
	}
	v.Set(reflect.ValueOf(secrets))
}

func readSecretFile(name string) (string, error) {
	f, err := os.Open(name)
	if err != nil {
		return "", err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxSecretFileBytes+1))
	if err != nil {
		return "", err
	}
	if len(b) > maxSecretFileBytes {
		return "", fmt.Errorf("%s: larger than %d bytes, so hardly a secret", name, maxSecretFileBytes)
	}
	text := strings.TrimRight(string(b), "\r\n")
	if strings.TrimSpace(text) == "" {
		return "", fmt.Errorf("%s: empty", name)
	}
	return text, nil
}

func (l *loader) decodeMap(path string, value any, v reflect.Value) {
	section, ok := value.(map[string]any)
	if !ok {
		l.add(path, "want a section, have %s", describe(value))
		return
	}
	if v.IsNil() {
		v.Set(reflect.MakeMap(v.Type()))
	}
	for _, name := range slices.Sorted(maps.Keys(section)) {
		element := reflect.New(v.Type().Elem()).Elem()
		key := reflect.ValueOf(name).Convert(v.Type().Key())
		if old := v.MapIndex(key); old.IsValid() {
			element.Set(old)
		}
		l.decode(join(path, name), section[name], element)
		v.SetMapIndex(key, element)
	}
}

func (l *loader) decodeScalar(path string, value any, v reflect.Value) {
	switch {
	case v.Type() == durationType:
		s, ok := value.(string)
		d, err := time.ParseDuration(s)
		if !ok || err != nil {
			l.add(path, "want a duration such as 30s or 24h, have %s", describe(value))
			return
		}
		v.SetInt(int64(d))
	case v.Kind() == reflect.String:
		s, ok := value.(string)
		if !ok {
			l.add(path, "want text, have %s: put it into quotes", describe(value))
			return
		}
		v.SetString(s)
	case v.Kind() == reflect.Bool:
		b, ok := value.(bool)
		if !ok {
			l.add(path, "want true or false, have %s", describe(value))
			return
		}
		v.SetBool(b)
	case v.CanInt():
		n, ok := value.(int)
		if !ok || v.OverflowInt(int64(n)) {
			l.add(path, "want a whole number, have %s", describe(value))
			return
		}
		v.SetInt(int64(n))
	case v.CanUint():
		n, ok := value.(int)
		if !ok || n < 0 || v.OverflowUint(uint64(n)) {
			l.add(path, "want a whole number that is not negative, have %s", describe(value))
			return
		}
		v.SetUint(uint64(n))
	default:
		panic(fmt.Sprintf("config: a field of type %s cannot be configured", v.Type())) // a mistake of ours
	}
}

// describe names a value by its kind alone: it may be a secret in the wrong place.
func describe(value any) string {
	switch value.(type) {
	case string:
		return "text"
	case bool:
		return "true or false"
	case int, int64, uint64, float64:
		return "a number"
	case []any:
		return "a list"
	case map[string]any:
		return "a section"
	}
	return "something else"
}

// override finds the field that a variable names and reads its value in the form that the field wants. It returns no path for a
// variable that is not for this program.
func (l *loader) override(t reflect.Type, fromFile map[string]any, name, value string) (string, any) {
	rest := strings.TrimPrefix(name, prefix)
	path, field := find(t, fromFile, "", rest)
	if field == nil {
		for section := range fields(t) {
			if strings.HasPrefix(rest, strings.ToUpper(section)+"_") || rest == strings.ToUpper(section) {
				l.mistakes = append(l.mistakes, Mistake{Source: name, Problem: "no field of this name"})
				break
			}
		}
		return "", nil
	}
	l.variables[path] = name
	return path, parseVariable(field, value)
}

// find returns path and type of the field that rest, the end of a variable's name, means. Names contain underscores themselves,
// so all splits are tried; for the keys of a map those that the file has come first.
func find(t reflect.Type, value any, path, rest string) (string, reflect.Type) {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if rest == "" {
		return path, t
	}
	section, _ := value.(map[string]any)
	switch {
	case t.Kind() == reflect.Struct:
		known := fields(t)
		for _, name := range slices.Sorted(maps.Keys(known)) {
			field := t.Field(known[name]).Type
			if after, ok := cutName(rest, name); ok {
				if p, found := find(field, section[name], join(path, name), after); found != nil {
					return p, found
				}
			}
			if isSecret(field) && rest == strings.ToUpper(name+fileSuffix) {
				return join(path, name+fileSuffix), reflect.TypeFor[string]()
			}
		}
	case t.Kind() == reflect.Map:
		keys := slices.Sorted(maps.Keys(section))
		for i := range len(rest) + 1 {
			if i == len(rest) || rest[i] == '_' {
				keys = append(keys, strings.ToLower(rest[:i]))
			}
		}
		for _, key := range keys {
			if after, ok := cutName(rest, key); ok && key != "" {
				if p, found := find(t.Elem(), section[key], join(path, key), after); found != nil {
					return p, found
				}
			}
		}
	}
	return "", nil
}

// cutName takes a field's name off the front of a variable's.
func cutName(rest, name string) (after string, ok bool) {
	upper := strings.ToUpper(name)
	if rest == upper {
		return "", true
	}
	return strings.CutPrefix(rest, upper+"_")
}

// parseVariable turns a variable's text into what YAML would have given for a field of type t. What it cannot read stays text,
// and decode says what it wanted instead.
func parseVariable(t reflect.Type, text string) any {
	switch {
	case t.Kind() == reflect.String, t == durationType, reflect.PointerTo(t).Implements(textType):
		return text
	case t.Kind() == reflect.Bool:
		if b, err := strconv.ParseBool(text); err == nil {
			return b
		}
		return text
	case t.Kind() == reflect.Slice && t.Elem().Kind() == reflect.String && !strings.HasPrefix(text, "["):
		list := []any{}
		for part := range strings.SplitSeq(text, ",") {
			if part = strings.TrimSpace(part); part != "" {
				list = append(list, part)
			}
		}
		return list
	}
	var value any
	if err := yaml.Unmarshal([]byte(text), &value); err != nil {
		return text
	}
	return value
}
