// Package config reads a program's configuration: one YAML file, overridden by environment variables, with secrets in files
// of their own. It finds every mistake in one go, each with its source and field, because an operator who must start
// a program five times to see five mistakes learns to hate the program. Start at Load.
//
// A configuration is a struct whose fields carry `config:"name"`; nested structs are sections, and maps and slices may
// hold either. A field without the tag is not configurable.
//
// An environment variable LATCHKEY_<SECTION>_<FIELD> wins over the file: LATCHKEY_NODE_DATA_DIR is node.data_dir, and
// LATCHKEY_ENVIRONMENTS_SANDBOX_AUDIENCE is environments.sandbox.audience. Lists of plain values are separated by commas;
// anything larger is YAML. A variable of one of the program's sections that names no field is a mistake. Others are let
// be: Kubernetes puts LATCHKEY_WRITER_SERVICE_HOST and the like into every pod.
//
// A field of type [Secret] or []Secret can be given by <field>_file instead, in the file and in the environment: the path of
// a file with the secret, or with one secret a line.
package config

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"reflect"
	"strings"

	"github.com/knadh/koanf/parsers/yaml"
	"github.com/knadh/koanf/providers/env/v2"
	"github.com/knadh/koanf/providers/file"
	"github.com/knadh/koanf/v2"
)

const (
	tag        = "config"
	prefix     = "LATCHKEY_"
	fileSuffix = "_file"
	delimiter  = "." // between the parts of a field's path

	// maxSecretFileBytes bounds what is read as a secret: a path to a log file given by mistake must not fill the memory.
	maxSecretFileBytes = 64 << 10
)

// Secret is text that must not be printed: every way of formatting it shows a placeholder. string(s) gives the text.
type Secret string

const placeholder = "[secret]"

// String hides the secret.
func (Secret) String() string { return placeholder }

// GoString hides the secret from %#v.
func (Secret) GoString() string { return placeholder }

// LogValue hides the secret from slog.
func (Secret) LogValue() slog.Value { return slog.StringValue(placeholder) }

// MarshalText hides the secret from encoders.
func (Secret) MarshalText() ([]byte, error) { return []byte(placeholder), nil }

// Mistake is one thing that is wrong with a configuration.
type Mistake struct {
	Source  string // the file, or the environment variable; empty when the configuration was made in code
	Field   string // such as "environments.sandbox.audience"; empty for the file as a whole
	Problem string // never quotes a secret
}

// String is "source: field: problem".
func (m Mistake) String() string {
	var parts []string
	for _, p := range []string{m.Source, m.Field, m.Problem} {
		if p != "" {
			parts = append(parts, p)
		}
	}
	return strings.Join(parts, ": ")
}

// Mistakes is everything that is wrong with a configuration, as one error.
type Mistakes []Mistake

// Add notes a mistake in a field.
func (m *Mistakes) Add(field, format string, args ...any) {
	*m = append(*m, Mistake{Field: field, Problem: fmt.Sprintf(format, args...)})
}

// Err is nil when there are none.
func (m Mistakes) Err() error {
	if len(m) == 0 {
		return nil
	}
	return m
}

// Error lists the mistakes, one a line.
func (m Mistakes) Error() string {
	lines := make([]string, len(m))
	for i := range m {
		lines[i] = m[i].String()
	}
	return strings.Join(lines, "\n")
}

// Validator is a configuration with rules beyond its types. Validate returns Mistakes, or nil.
type Validator interface{ Validate() error }

// Load reads path into the struct that into points to, over the defaults that it holds, then applies the environment, and
// asks the struct to validate itself if it is a Validator. Error: Mistakes, with all of them.
func Load[T any](path string, into *T) error {
	return load(path, reflect.ValueOf(into).Elem(), os.Environ)
}

func load(path string, into reflect.Value, environ func() []string) error {
	l := loader{path: path, variables: map[string]string{}}
	ko := koanf.New(delimiter)
	if err := ko.Load(file.Provider(path), yaml.Parser()); err != nil {
		return Mistakes{{Source: path, Problem: strings.TrimPrefix(err.Error(), "open "+path+": ")}}
	}
	fromFile := ko.Raw()
	overrides := env.Provider(delimiter, env.Opt{Prefix: prefix, EnvironFunc: environ, TransformFunc: func(name, value string) (string, any) {
		return l.override(into.Type(), fromFile, name, value)
	}})
	if err := ko.Load(overrides, nil); err != nil {
		return append(l.mistakes, Mistake{Problem: err.Error()})
	}
	l.decode("", ko.Raw(), into)
	l.validate(into)
	return l.mistakes.Err()
}

// loader carries what one Load learns on its way.
type loader struct {
	path      string
	variables map[string]string // path of a field to the variable that set it
	mistakes  Mistakes
}

func (l *loader) add(field, format string, args ...any) {
	l.mistakes = append(l.mistakes, Mistake{Source: l.source(field), Field: field, Problem: fmt.Sprintf(format, args...)})
}

// source says where the value of a field, or of the nearest one above it, came from.
func (l *loader) source(field string) string {
	for f := field; f != ""; {
		if v, ok := l.variables[f]; ok {
			return v
		}
		f = f[:max(strings.LastIndexAny(f, ".["), 0)]
	}
	return l.path
}

// validate adds what the configuration says about itself, without what the types already said about the same field.
func (l *loader) validate(v reflect.Value) {
	validator, ok := v.Addr().Interface().(Validator)
	if !ok {
		return
	}
	err := validator.Validate()
	if err == nil {
		return
	}
	var found Mistakes
	if !errors.As(err, &found) {
		found = Mistakes{{Problem: err.Error()}}
	}
	known := map[string]bool{}
	for _, m := range l.mistakes {
		known[m.Field] = true
	}
	for _, m := range found {
		if m.Field != "" && known[m.Field] {
			continue
		}
		m.Source = l.source(m.Field)
		l.mistakes = append(l.mistakes, m)
	}
}
