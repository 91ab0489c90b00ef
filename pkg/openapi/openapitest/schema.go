package openapitest

import (
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"net/url"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// schema is a JSON Schema (2020-12) of the keywords that the description uses. A keyword that is not understood here is a mistake when the schema is read,
// so that none is passed over.
type schema struct {
	types            []string
	enum             []any // nil: anything; const is one of one
	ref              *schema
	allOf, oneOf     []*schema
	properties       map[string]*schema
	required         []string
	others           *schema // additionalProperties; nil: anything
	noOthers         bool    // additionalProperties: false
	noUnevaluated    bool
	names            *schema
	items            *schema
	minItems         int
	maxItems         int
	minProps         int
	maxProps         int
	minLength        int
	maxLength        int
	minimum, maximum float64
	pattern          *regexp.Regexp
	format           string
	examples         []any
	where            string
}

// compiler reads schemas of a document, each place once, so that they may refer to one another in circles.
type compiler struct {
	doc  map[string]any
	done map[string]*schema
}

// resolve follows a reference within the document.
func (c *compiler) resolve(ref string) (any, error) {
	path, ok := strings.CutPrefix(ref, "#/")
	if !ok {
		return nil, fmt.Errorf("reference %q leads outside", ref)
	}
	var v any = c.doc
	for _, name := range strings.Split(path, "/") {
		m, _ := v.(map[string]any)
		if v = m[strings.NewReplacer("~1", "/", "~0", "~").Replace(name)]; v == nil {
			return nil, fmt.Errorf("reference %q leads nowhere", ref)
		}
	}
	return v, nil
}

// compile reads the schema v, which stands at where.
func (c *compiler) compile(v any, where string) (*schema, error) {
	if s := c.done[where]; s != nil {
		return s, nil
	}
	m, ok := v.(map[string]any)
	if !ok {
		return nil, fmt.Errorf("%s: a schema is an object", where)
	}
	s := &schema{maxItems: math.MaxInt, maxProps: math.MaxInt, maxLength: math.MaxInt, minimum: math.Inf(-1), maximum: math.Inf(1), where: where}
	c.done[where] = s
	for _, name := range slices.Sorted(maps.Keys(m)) {
		if err := c.keyword(s, name, m[name]); err != nil {
			return nil, fmt.Errorf("%s/%s: %w", where, name, err)
		}
	}
	return s, nil
}

func (c *compiler) keyword(s *schema, name string, v any) (err error) {
	below := s.where + "/" + name
	switch name {
	case "title", "description", "default", "deprecated":
	case "examples":
		s.examples, err = as[[]any](v)
	case "type":
		s.types, err = textOrTexts(v)
	case "enum":
		s.enum, err = as[[]any](v)
	case "const":
		s.enum = []any{v}
	case "$ref":
		ref, _ := v.(string)
		target, err := c.resolve(ref)
		if err != nil {
			return err
		}
		s.ref, err = c.compile(target, ref)
		return err
	case "allOf":
		s.allOf, err = c.list(v, below)
	case "oneOf":
		s.oneOf, err = c.list(v, below)
	case "properties":
		s.properties = map[string]*schema{}
		m, _ := v.(map[string]any)
		for name, p := range m {
			if s.properties[name], err = c.compile(p, below+"/"+name); err != nil {
				return err
			}
		}
	case "required":
		s.required, err = textOrTexts(v)
	case "additionalProperties":
		if allowed, isBool := v.(bool); isBool {
			s.noOthers = !allowed
			if allowed {
				s.others = &schema{maxItems: math.MaxInt, maxProps: math.MaxInt, maxLength: math.MaxInt, minimum: math.Inf(-1), maximum: math.Inf(1), where: below}
			}
			return nil
		}
		s.others, err = c.compile(v, below)
	case "unevaluatedProperties":
		if v != false {
			return fmt.Errorf("want false")
		}
		s.noUnevaluated = true
	case "propertyNames":
		s.names, err = c.compile(v, below)
	case "items":
		s.items, err = c.compile(v, below)
	case "minItems":
		s.minItems, err = whole(v)
	case "maxItems":
		s.maxItems, err = whole(v)
	case "minProperties":
		s.minProps, err = whole(v)
	case "maxProperties":
		s.maxProps, err = whole(v)
	case "minLength":
		s.minLength, err = whole(v)
	case "maxLength":
		s.maxLength, err = whole(v)
	case "minimum":
		s.minimum, err = as[float64](v)
	case "maximum":
		s.maximum, err = as[float64](v)
	case "pattern":
		text, _ := v.(string)
		s.pattern, err = regexp.Compile(text)
	case "format":
		s.format, err = as[string](v)
		if formats[s.format] == nil {
			return fmt.Errorf("format %q is not known here", s.format)
		}
	default:
		return fmt.Errorf("keyword is not known here")
	}
	return err
}

func (c *compiler) list(v any, where string) ([]*schema, error) {
	parts, err := as[[]any](v)
	if err != nil {
		return nil, err
	}
	var list []*schema
	for i, part := range parts {
		s, err := c.compile(part, fmt.Sprintf("%s/%d", where, i))
		if err != nil {
			return nil, err
		}
		list = append(list, s)
	}
	return list, nil
}

func as[T any](v any) (T, error) {
	t, ok := v.(T)
	if !ok {
		return t, fmt.Errorf("want %T, have %T", t, v)
	}
	return t, nil
}

func whole(v any) (int, error) {
	n, err := as[float64](v)
	return int(n), err
}

func textOrTexts(v any) ([]string, error) {
	if text, ok := v.(string); ok {
		return []string{text}, nil
	}
	list, err := as[[]any](v)
	var texts []string
	for _, entry := range list {
		text, err := as[string](entry)
		if err != nil {
			return nil, err
		}
		texts = append(texts, text)
	}
	return texts, err
}

// formats judge text.
var formats = map[string]func(string) bool{
	"date-time": func(s string) bool {
		_, err := time.Parse(time.RFC3339, s)
		return err == nil
	},
	"uri": func(s string) bool {
		u, err := url.Parse(s)
		return err == nil && u.IsAbs()
	},
	"uuid": regexp.MustCompile(`^[0-9a-f]{8}-([0-9a-f]{4}-){3}[0-9a-f]{12}$`).MatchString,
}

// check is one value held against one schema.
type check struct {
	// closed: an object has no other members than those that are described, unless additionalProperties says so.
	closed bool
	faults []string
}

// fault notes what is wrong at a place. Values are quoted only when they are words of an enum: others may be secrets.
func (c *check) fault(at, format string, args ...any) {
	c.faults = append(c.faults, strings.TrimPrefix(at+": ", ": ")+fmt.Sprintf(format, args...))
}

// value holds v, as encoding/json decodes it, against s.
func (c *check) value(s *schema, v any, at string) { c.hold(s, v, at, false) }

// hold holds v against s and returns the members of v that some schema describes. part: others describe v beside s, and only they together know all members.
func (c *check) hold(s *schema, v any, at string, part bool) (described map[string]bool) {
	described = map[string]bool{}
	if len(s.types) > 0 && !slices.ContainsFunc(s.types, func(t string) bool { return isType(v, t) }) {
		c.fault(at, "want %s, have %s", strings.Join(s.types, " or "), kindOf(v))
		return described
	}
	if s.enum != nil && !slices.ContainsFunc(s.enum, func(one any) bool { return reflect.DeepEqual(one, v) }) {
		c.fault(at, "%v is none of %v", v, s.enum)
	}
	for _, one := range s.allOf {
		maps.Copy(described, c.hold(one, v, at, true))
	}
	if s.ref != nil {
		maps.Copy(described, c.hold(s.ref, v, at, part || s.properties != nil || len(s.allOf) > 0))
	}
	if len(s.oneOf) > 0 {
		maps.Copy(described, c.one(s, v, at))
	}
	switch v := v.(type) {
	case string:
		c.text(s, v, at)
	case float64:
		if v < s.minimum || v > s.maximum {
			c.fault(at, "%v is not within %v and %v", v, s.minimum, s.maximum)
		}
	case []any:
		if len(v) < s.minItems || len(v) > s.maxItems {
			c.fault(at, "%d entries, want %d to %d", len(v), s.minItems, s.maxItems)
		}
		for i, entry := range v {
			if s.items != nil {
				c.value(s.items, entry, fmt.Sprintf("%s[%d]", at, i))
			}
		}
	case map[string]any:
		c.object(s, v, at, described, part)
	}
	return described
}

func (c *check) one(s *schema, v any, at string) map[string]bool {
	var found map[string]bool
	var why []string // of the one that comes closest
	fits := 0
	for _, part := range s.oneOf {
		inner := check{closed: c.closed}
		described := inner.hold(part, v, at, false)
		if len(inner.faults) == 0 {
			fits++
			found = described
		}
		if why == nil || len(inner.faults) < len(why) {
			why = inner.faults
		}
	}
	if fits != 1 {
		c.fault(at, "fits %d of %d schemas, want one (%s)", fits, len(s.oneOf), strings.Join(why, "; "))
	}
	return found
}

func (c *check) text(s *schema, v, at string) {
	if n := utf8.RuneCountInString(v); n < s.minLength || n > s.maxLength {
		c.fault(at, "%d characters, want %d to %d", n, s.minLength, s.maxLength)
	}
	if s.pattern != nil && !s.pattern.MatchString(v) {
		c.fault(at, "does not match %s", s.pattern)
	}
	if s.format != "" && !formats[s.format](v) {
		c.fault(at, "is no %s", s.format)
	}
}

func (c *check) object(s *schema, v map[string]any, at string, described map[string]bool, part bool) {
	for _, name := range s.required {
		if _, has := v[name]; !has {
			c.fault(at, "member %q is missing", name)
		}
	}
	if len(v) < s.minProps || len(v) > s.maxProps {
		c.fault(at, "%d members, want %d to %d", len(v), s.minProps, s.maxProps)
	}
	closed := s.noUnevaluated || c.closed && !part && s.properties != nil
	for _, name := range slices.Sorted(maps.Keys(v)) {
		if s.names != nil {
			c.value(s.names, name, at+"."+name)
		}
		switch p := s.properties[name]; {
		case p != nil:
			described[name] = true
			c.value(p, v[name], at+"."+name)
		case s.others != nil:
			described[name] = true
			c.value(s.others, v[name], at+"."+name)
		case s.noOthers || closed && !described[name]:
			c.fault(at, "member %q is not described", name)
		}
	}
}

func isType(v any, t string) bool {
	switch v := v.(type) {
	case nil:
		return t == "null"
	case bool:
		return t == "boolean"
	case string:
		return t == "string"
	case float64:
		return t == "number" || t == "integer" && v == math.Trunc(v)
	case []any:
		return t == "array"
	default:
		return t == "object"
	}
}

func kindOf(v any) string {
	for _, t := range []string{"null", "boolean", "string", "integer", "number", "array", "object"} {
		if isType(v, t) {
			return t
		}
	}
	return "nothing"
}

// checkJSON holds a JSON text against s.
func (s *schema) checkJSON(text []byte, closed bool) []string {
	var v any
	if err := json.Unmarshal(text, &v); err != nil {
		return []string{"is no JSON: " + err.Error()}
	}
	c := check{closed: closed}
	c.value(s, v, "")
	return c.faults
}
