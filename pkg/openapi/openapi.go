// Package openapi is the description of the HTTP interface for programs: OpenAPI 3.1, which writers and edges serve at Path. People write
// openapi.yaml, whose head says how; Served is what users get, in which the problems of each route are spelled out from the closed list of
// package problem. Package openapitest holds running programs to it.
package openapi

import (
	"bytes"
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"

	"go.yaml.in/yaml/v3"

	"github.com/latchkey/latchkey/pkg/problem"
)

// Where and as what the description is served.
const (
	Path      = "/openapi.json"
	MediaType = "application/openapi+json" // draft-ietf-httpapi-rest-api-mediatypes

	// CacheControl has who reads it ask again after a while: another release may have come.
	CacheControl = "public, max-age=300"
)

//go:embed openapi.yaml
var source []byte

// Description is the document as it is served.
type Description struct {
	JSON []byte
	ETag string // changes when the document does, quotes included
}

// Held reports whether the value of an If-None-Match names this document (RFC 9110 section 13.1.2): then 304 is the answer.
func (d *Description) Held(ifNoneMatch string) bool {
	for tag := range strings.SplitSeq(ifNoneMatch, ",") {
		if tag = strings.TrimPrefix(strings.TrimSpace(tag), "W/"); tag == d.ETag || tag == "*" {
			return true
		}
	}
	return false
}

// Served returns the description, made at the first call. An error is a mistake in openapi.yaml, which the tests of this package find.
var Served = sync.OnceValues(func() (Description, error) { return describe(source) })

func describe(source []byte) (Description, error) {
	var doc map[string]any
	if err := yaml.Unmarshal(source, &doc); err != nil {
		return Description{}, fmt.Errorf("read openapi.yaml: %w", err)
	}
	if err := spellOut(doc); err != nil {
		return Description{}, fmt.Errorf("openapi.yaml: %w", err)
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(doc); err != nil {
		return Description{}, fmt.Errorf("encode openapi.yaml: %w", err)
	}
	sum := sha256.Sum256(b.Bytes())
	return Description{JSON: b.Bytes(), ETag: `"` + hex.EncodeToString(sum[:8]) + `"`}, nil
}

// The tags of operations, which say where they are.
const (
	TagServer     = "server"     // on writers, for backends
	TagApp        = "app"        // on edges
	TagWebhooks   = "webhooks"   // on writers, for providers
	TagOperations = "operations" // on both
)

// How openapi.yaml names problems.
const (
	problemsKey    = "x-problems"
	problemSetsKey = "x-problem-sets"
)

// spellOut turns the lists of problems into answers.
func spellOut(doc map[string]any) error {
	sets, _ := doc[problemSetsKey].(map[string]any)
	delete(doc, problemSetsKey)
	var types []any
	for _, k := range problem.Kinds() {
		types = append(types, problem.BaseURL+string(k.Slug))
	}
	known, ok := at(doc, "components", "schemas", "Problem", "properties", "type").(map[string]any)
	paths, isMap := doc["paths"].(map[string]any)
	if !ok || !isMap {
		return errors.New("no paths, or no schema Problem with a type")
	}
	known["enum"] = types
	for path, item := range paths {
		methods, _ := item.(map[string]any)
		for method, op := range methods {
			operation, isOperation := op.(map[string]any)
			if !isOperation || method == "parameters" {
				continue
			}
			if err := addProblems(operation, sets); err != nil {
				return fmt.Errorf("%s %s: %w", strings.ToUpper(method), path, err)
			}
		}
	}
	return nil
}

// at walks down maps.
func at(v any, names ...string) any {
	for _, name := range names {
		m, _ := v.(map[string]any)
		v = m[name]
	}
	return v
}

// addProblems gives an operation an answer for each status of its problems, and each answer the headers that belong to it.
func addProblems(operation, sets map[string]any) error {
	list, _ := operation[problemsKey].([]any)
	delete(operation, problemsKey)
	responses, _ := operation["responses"].(map[string]any)
	if responses == nil || list == nil {
		return fmt.Errorf("want responses and %s", problemsKey)
	}
	kinds, err := expand(list, sets, 0)
	if err != nil {
		return err
	}
	byStatus := map[int][]problem.Kind{}
	for _, k := range kinds {
		if !slices.Contains(byStatus[k.Status], k) {
			byStatus[k.Status] = append(byStatus[k.Status], k)
		}
	}
	for status, kinds := range byStatus {
		answer := problemAnswer(status, kinds)
		if described, _ := responses[strconv.Itoa(status)].(map[string]any); described != nil {
			content, _ := described["content"].(map[string]any)
			if content == nil {
				return fmt.Errorf("status %d has no content of its own to stand beside problems", status)
			}
			content[problem.ContentType] = at(answer, "content", problem.ContentType)
			continue
		}
		responses[strconv.Itoa(status)] = answer
	}
	tags, _ := operation["tags"].([]any)
	if slices.Contains(tags, any(TagServer)) || slices.Contains(tags, any(TagWebhooks)) {
		nameRequests(responses)
	}
	if slices.Contains(tags, any(TagApp)) || slices.Contains(tags, any(TagOperations)) {
		responses[strconv.Itoa(http.StatusRequestTimeout)] = reference("responses", "TooLate")
	}
	return nil
}

// nameRequests adds the header that every answer of a writer has. Answers that several operations share have it written down.
func nameRequests(responses map[string]any) {
	for _, response := range responses {
		r, _ := response.(map[string]any)
		if r == nil || r["$ref"] != nil {
			continue
		}
		headers, _ := r["headers"].(map[string]any)
		if headers == nil {
			headers = map[string]any{}
			r["headers"] = headers
		}
		headers["Request-Id"] = reference("headers", "Request-Id")
	}
}

// expand returns the kinds of a list of slugs, of slugs in another status, and of names of sets.
func expand(list []any, sets map[string]any, depth int) ([]problem.Kind, error) {
	const maxDepth = 4
	if depth > maxDepth {
		return nil, errors.New("a set of problems contains itself")
	}
	var all []problem.Kind
	for _, entry := range list {
		name, _ := entry.(string)
		if set, isSet := sets[name].([]any); isSet {
			kinds, err := expand(set, sets, depth+1)
			if err != nil {
				return nil, err
			}
			all = append(all, kinds...)
			continue
		}
		slug, status, elsewhere := strings.Cut(name, "@")
		i := slices.IndexFunc(problem.Kinds(), func(k problem.Kind) bool { return string(k.Slug) == slug })
		if i < 0 {
			return nil, fmt.Errorf("%s: %q is neither a problem nor a set of some", problemsKey, slug)
		}
		k := problem.Kinds()[i]
		if elsewhere {
			n, err := strconv.Atoi(status)
			if err != nil {
				return nil, fmt.Errorf("%s: %q is no status", problemsKey, status)
			}
			k.Status = n
		}
		all = append(all, k)
	}
	slices.SortStableFunc(all, func(a, b problem.Kind) int { return strings.Compare(string(a.Slug), string(b.Slug)) })
	return all, nil
}

// problemAnswer describes an answer of one status that is one of the problems.
func problemAnswer(status int, kinds []problem.Kind) map[string]any {
	var types []any
	var words []string
	headers := map[string]any{}
	for _, k := range kinds {
		types = append(types, problem.BaseURL+string(k.Slug))
		words = append(words, k.Title+": "+k.Advice)
		if problem.New(k.Slug, "").Challenge() != "" {
			headers["WWW-Authenticate"] = reference("headers", "WWW-Authenticate")
		}
	}
	if status == http.StatusTooManyRequests || status == http.StatusServiceUnavailable {
		headers["Retry-After"] = reference("headers", "Retry-After")
	}
	answer := map[string]any{
		"description": strings.Join(words, " "),
		"content": map[string]any{problem.ContentType: map[string]any{"schema": map[string]any{
			"allOf":      []any{reference("schemas", "Problem")},
			"properties": map[string]any{"type": map[string]any{"enum": types}, "status": map[string]any{"const": status}},
		}}},
	}
	if len(headers) > 0 {
		answer["headers"] = headers
	}
	return answer
}

func reference(kind, name string) map[string]any {
	return map[string]any{"$ref": "#/components/" + kind + "/" + name}
}
