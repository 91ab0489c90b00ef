package openapitest

import (
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/latchkey/latchkey/pkg/entitlement"
	"github.com/latchkey/latchkey/pkg/openapi"
	"github.com/latchkey/latchkey/pkg/problem"
)

// These tests hold the description to itself and to the lists that it repeats; the handlers' packages hold it to the handlers.

// TestEachOperationIsWhole: it says where it is, by what name a client calls it, who may ask, and what may be answered.
func TestEachOperationIsWhole(t *testing.T) {
	d := load(t)
	if len(d.operations) < 40 {
		t.Fatalf("only %d operations can be read", len(d.operations))
	}
	tags := []string{openapi.TagServer, openapi.TagApp, openapi.TagWebhooks, openapi.TagOperations}
	schemes := at(t, d.raw, "components", "securitySchemes")
	ids := map[string]string{}
	for _, o := range d.operations {
		raw := at(t, d.raw, "paths", o.path, strings.ToLower(o.method))
		if len(o.tags) == 0 || slices.ContainsFunc(o.tags, func(tag string) bool { return !slices.Contains(tags, tag) }) {
			t.Errorf("%s has tags %q, want some of %q", o.route(), o.tags, tags)
		}
		if other := ids[o.id]; o.id == "" || other != "" {
			t.Errorf("%s has operationId %q, which is empty or that of %q", o.route(), o.id, other)
		}
		ids[o.id] = o.route()
		if raw["summary"] == nil {
			t.Errorf("%s has no summary", o.route())
		}
		security, given := raw["security"].([]any)
		if !given {
			t.Errorf("%s does not say who may ask: security", o.route())
		}
		for _, s := range security {
			for name := range s.(map[string]any) {
				if schemes[name] == nil {
					t.Errorf("%s: security scheme %q is not described", o.route(), name)
				}
			}
		}
		inPath := regexp.MustCompile(`\{(\w+)\}`).FindAllStringSubmatch(o.path, -1)
		for _, name := range inPath {
			if !slices.ContainsFunc(o.params, func(p parameter) bool { return p.in == "path" && p.name == name[1] && p.required }) {
				t.Errorf("%s: parameter %s of the path is not described, or not as required", o.route(), name[1])
			}
		}
		keyed := slices.ContainsFunc(o.params, func(p parameter) bool { return p.name == "Idempotency-Key" })
		if want := o.method != http.MethodGet && len(security) > 0 && o.id != "signIn"; keyed != want {
			t.Errorf("%s takes an Idempotency-Key: %t, want %t", o.route(), keyed, want)
		}
		if !slices.ContainsFunc(slices.Collect(maps.Keys(o.answers)), func(status int) bool { return status/100 == 2 }) {
			t.Errorf("%s has no success", o.route())
		}
		if _, fails := o.answers[http.StatusInternalServerError]; !fails {
			t.Errorf("%s never fails: x-problems lacks internal", o.route())
		}
	}
}

// TestEveryWriteAnswersWithARevision: whoever wrote can ask any edge for an answer that is not older. That answers are as described, the tests of both programs see for each
// route.
func TestEveryWriteAnswersWithARevision(t *testing.T) {
	writes := 0
	for _, o := range load(t).operations {
		if o.method == http.MethodGet {
			continue
		}
		for status, content := range o.answers {
			if status/100 != 2 {
				continue
			}
			writes++
			s := content["application/json"]
			if s == nil {
				t.Errorf("%s answers %d without JSON, so without a revision", o.route(), status)
				continue
			}
			demanded := s.demands("revision")
			if slices.Contains(o.tags, openapi.TagWebhooks) { // a test of the address is answered as its provider wants it, and stored nowhere
				demanded = slices.ContainsFunc(s.oneOf, func(one *schema) bool { return one.demands("revision") })
			}
			if !demanded {
				t.Errorf("%s answers %d without a revision", o.route(), status)
			}
		}
	}
	if writes < 30 {
		t.Errorf("only %d answers to writes were judged", writes)
	}
}

// demands reports whether every value of s has the member.
func (s *schema) demands(member string) bool {
	if s == nil {
		return false
	}
	return slices.Contains(s.required, member) || s.ref.demands(member) || slices.ContainsFunc(s.allOf, func(part *schema) bool { return part.demands(member) })
}

// TestExamplesAreValid: every body and every parameter has an example, and every example is what its schema says.
func TestExamplesAreValid(t *testing.T) {
	d := load(t)
	bodies := map[*schema]string{}
	for _, o := range d.operations {
		for _, p := range o.params {
			if len(p.examples) == 0 && p.schema.ref == nil {
				t.Errorf("%s: parameter %s has no example", o.route(), p.name)
			}
			for _, e := range p.examples {
				judge(t, o.route()+" "+p.name, p.schema, e, false)
			}
		}
		if o.body != nil {
			bodies[o.body.target()] = o.route()
		}
		for status, content := range o.answers {
			for media, s := range content {
				if status/100 == 2 || media != problem.ContentType {
					bodies[s.target()] = o.route()
				}
			}
		}
	}
	for s, route := range bodies {
		if len(s.examples) == 0 {
			t.Errorf("%s of %s has no examples", s.where, route)
		}
	}
	examples := 0
	for where, s := range d.compiler.done {
		for _, e := range s.examples {
			examples++
			judge(t, where, s, e, true)
		}
	}
	if examples < 40 {
		t.Errorf("only %d examples were judged", examples)
	}
}

func judge(t *testing.T, what string, s *schema, v any, closed bool) {
	t.Helper()
	c := check{closed: closed}
	c.value(s, v, "")
	for _, fault := range c.faults {
		t.Errorf("example of %s: %s", what, fault)
	}
}

// target is the schema that s stands for.
func (s *schema) target() *schema {
	if s.ref != nil && len(s.examples) == 0 && s.properties == nil && s.allOf == nil {
		return s.ref.target()
	}
	return s
}

// TestAnswersAreClosed: a member that no schema describes is a fault in every object of every answer, so that none is forgotten here.
func TestAnswersAreClosed(t *testing.T) {
	seen := map[*schema]bool{}
	var walk func(route string, s *schema, open bool)
	walk = func(route string, s *schema, open bool) {
		if s == nil || seen[s] && !open {
			return
		}
		seen[s] = true
		open = open || s.noUnevaluated
		if s.properties != nil && !open && !s.noOthers && s.others == nil {
			t.Errorf("%s, in an answer of %s: an object with members that may have others, which are not described", s.where, route)
		}
		walk(route, s.ref, open)
		for _, part := range s.allOf {
			walk(route, part, open)
		}
		for _, part := range s.oneOf {
			walk(route, part, false)
		}
		walk(route, s.items, false)
		walk(route, s.others, false)
		for _, p := range s.properties {
			walk(route, p, false)
		}
	}
	for _, o := range load(t).operations {
		for _, content := range o.answers {
			for media, s := range content {
				if media != problem.ContentType && media != openapi.MediaType {
					walk(o.route(), s, false)
				}
			}
		}
	}
}

// TestWordsAreThoseOfTheCode: lists that the description repeats.
func TestWordsAreThoseOfTheCode(t *testing.T) {
	d := load(t)
	var types []string
	for _, k := range problem.Kinds() {
		types = append(types, problem.BaseURL+string(k.Slug))
	}
	lists := map[string][]string{
		"Environment": texts(entitlement.Environments),
		"Provider":    texts(entitlement.Providers),
		"AnyProvider": append(texts(entitlement.Providers), string(entitlement.Latchkey)),
		"AliasKind":   texts(entitlement.AliasKinds),
	}
	for name, want := range lists {
		have, err := textOrTexts(at(t, d.raw, "components", "schemas", name)["enum"])
		if err != nil || !sameTexts(have, want) {
			t.Errorf("%s is described as %q, %v, and in the code %q", name, have, err, want)
		}
	}
	have, err := textOrTexts(at(t, d.raw, "components", "schemas", "Problem", "properties", "type")["enum"])
	if err != nil || !sameTexts(have, types) {
		t.Errorf("problems are described as %q, %v, and in the code %q", have, err, types)
	}
}

// TestEachProblemComesFromSomeRoute: one that no described route answers with is one among the nodes, or of addresses that are none.
func TestEachProblemComesFromSomeRoute(t *testing.T) {
	elsewhere := map[problem.Slug]string{
		problem.MethodNotAllowed: "of no route", problem.NotAcceptable: "of the nodes", problem.Superseded: "of the nodes", problem.BelowFloor: "of the nodes",
		problem.WrongRules: "of the nodes", problem.NotLeader: "of the nodes",
	}
	given := map[string]bool{}
	for _, o := range load(t).operations {
		for _, content := range o.answers {
			if s := content[problem.ContentType]; s != nil {
				for _, one := range s.properties["type"].enum {
					given[one.(string)] = true
				}
			}
		}
	}
	for _, k := range problem.Kinds() {
		if elsewhere[k.Slug] == "" && !given[problem.BaseURL+string(k.Slug)] {
			t.Errorf("no route is described to answer with %s", k.Slug)
		}
	}
}

func at(t *testing.T, v map[string]any, names ...string) map[string]any {
	t.Helper()
	for _, name := range names {
		v, _ = v[name].(map[string]any)
	}
	if v == nil {
		t.Fatalf("nothing at %q", names)
	}
	return v
}

func texts[T ~string](list []T) (all []string) {
	for _, one := range list {
		all = append(all, string(one))
	}
	return all
}

func sameTexts(a, b []string) bool {
	return slices.Equal(slices.Sorted(slices.Values(a)), slices.Sorted(slices.Values(b)))
}
