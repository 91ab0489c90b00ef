// Package openapitest holds running programs to their description, package openapi: that their routes are those described (CompareRoutes), and that
// what they take and answer is what is described. For the latter a test's client has a Transport, and Watch says which addresses are a writer's or an edge's:
// every exchange with them is judged, and the test fails at its end by what was wrong. Nothing else in a test changes.
package openapitest

import (
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/latchkey/latchkey/pkg/openapi"
)

// sourceFile is what a fault is mended in, unless the handler is wrong.
const sourceFile = "pkg/openapi/openapi.yaml"

// Program is a kind of program, by what it serves.
type Program struct {
	name    string
	tags    []string
	methods []string // that are judged; nil: all
}

// The programs. EdgeAlone is an edge whose writers are played by the test: what it passes on proves nothing.
var (
	Writer    = Program{name: "a writer", tags: []string{openapi.TagServer, openapi.TagWebhooks, openapi.TagOperations}}
	Edge      = Program{name: "an edge", tags: []string{openapi.TagApp, openapi.TagOperations}}
	EdgeAlone = Program{name: Edge.name, tags: Edge.tags, methods: []string{http.MethodGet}}
)

func (p Program) serves(op *operation) bool {
	return slices.ContainsFunc(op.tags, func(tag string) bool { return slices.Contains(p.tags, tag) })
}

// operation is one described route.
type operation struct {
	id, method, path string
	tags             []string
	params           []parameter
	body             *schema // nil: none is described
	bodyRequired     bool
	answers          map[int]map[string]*schema // by status and media type

	mu       sync.Mutex
	answered bool // with a success that was as described
}

func (o *operation) route() string { return o.method + " " + o.path }

type parameter struct {
	name, in string
	required bool
	schema   *schema
	examples []any
}

// document is the description, read once for all tests of a process.
type document struct {
	raw        map[string]any
	compiler   *compiler
	operations []*operation
}

var described = sync.OnceValues(read)

func read() (*document, error) {
	served, err := openapi.Served()
	if err != nil {
		return nil, err
	}
	d := &document{}
	if err := json.Unmarshal(served.JSON, &d.raw); err != nil {
		return nil, err
	}
	d.compiler = &compiler{doc: d.raw, done: map[string]*schema{}}
	paths, _ := d.raw["paths"].(map[string]any)
	for path, v := range paths {
		item, _ := v.(map[string]any)
		for method, v := range item {
			if op, ok := v.(map[string]any); ok {
				o, err := d.operation(strings.ToUpper(method), path, item, op)
				if err != nil {
					return nil, fmt.Errorf("%s: %s %s: %w", sourceFile, method, path, err)
				}
				d.operations = append(d.operations, o)
			}
		}
	}
	slices.SortFunc(d.operations, func(a, b *operation) int { return strings.Compare(a.route(), b.route()) })
	return d, nil
}

// follow returns what v refers to, or v.
func (d *document) follow(v any) (m map[string]any, where string, err error) {
	m, _ = v.(map[string]any)
	if ref, ok := m["$ref"].(string); ok {
		v, err = d.compiler.resolve(ref)
		m, _ = v.(map[string]any)
		where = ref
	}
	return m, where, err
}

func (d *document) operation(method, path string, item, v map[string]any) (*operation, error) {
	o := &operation{method: method, path: path, answers: map[int]map[string]*schema{}}
	o.id, _ = v["operationId"].(string)
	var err error
	if o.tags, err = textOrTexts(v["tags"]); err != nil {
		return nil, err
	}
	where := "#/paths/" + strings.ReplaceAll(path, "/", "~1") + "/" + strings.ToLower(method)
	shared, _ := item["parameters"].([]any)
	own, _ := v["parameters"].([]any)
	for i, p := range slices.Concat(shared, own) {
		m, at, err := d.follow(p)
		if err != nil {
			return nil, err
		}
		if at == "" {
			at = fmt.Sprintf("%s/parameters/%d", where, i)
		}
		read := parameter{}
		read.name, _ = m["name"].(string)
		read.in, _ = m["in"].(string)
		read.required, _ = m["required"].(bool)
		if read.schema, err = d.compiler.compile(m["schema"], at+"/schema"); err != nil {
			return nil, err
		}
		if example, has := m["example"]; has {
			read.examples = append(read.examples, example)
		}
		examples, _ := m["examples"].(map[string]any)
		for _, e := range examples {
			e, _ := e.(map[string]any)
			read.examples = append(read.examples, e["value"])
		}
		o.params = append(o.params, read)
	}
	if body, at, err := d.follow(v["requestBody"]); err != nil {
		return nil, err
	} else if body != nil {
		o.bodyRequired, _ = body["required"].(bool)
		content, err := d.content(body, at+where+"/requestBody")
		if err != nil {
			return nil, err
		}
		o.body = content["application/json"]
	}
	responses, _ := v["responses"].(map[string]any)
	for status, r := range responses {
		n, err := strconv.Atoi(status)
		if err != nil {
			return nil, fmt.Errorf("status %q: want a number", status)
		}
		response, at, err := d.follow(r)
		if err != nil {
			return nil, err
		}
		if at == "" {
			at = where + "/responses/" + status
		}
		if o.answers[n], err = d.content(response, at); err != nil {
			return nil, err
		}
	}
	return o, nil
}

// content reads the schemas of a body by media type.
func (d *document) content(v map[string]any, where string) (map[string]*schema, error) {
	schemas := map[string]*schema{}
	content, _ := v["content"].(map[string]any)
	for media, m := range content {
		m, _ := m.(map[string]any)
		var err error
		if schemas[media], err = d.compiler.compile(m["schema"], where+"/"+media); err != nil {
			return nil, err
		}
	}
	return schemas, nil
}

// find returns the operation of a request to p, nil if none is described. A route without a parameter comes before one with.
func (d *document) find(p Program, method, path string) (found *operation) {
	least := -1
	for _, o := range d.operations {
		if n, ok := matches(o.path, path); ok && o.method == method && p.serves(o) && (found == nil || n < least) {
			found, least = o, n
		}
	}
	return found
}

// matches reports whether a path is of the pattern, with how many parameters.
func matches(pattern, path string) (parameters int, ok bool) {
	want, have := strings.Split(pattern, "/"), strings.Split(path, "/")
	if len(want) != len(have) {
		return 0, false
	}
	for i := range want {
		switch {
		case strings.HasPrefix(want[i], "{") && have[i] != "":
			parameters++
		case want[i] != have[i]:
			return 0, false
		}
	}
	return parameters, true
}

func load(tb testing.TB) *document {
	tb.Helper()
	d, err := described()
	if err != nil {
		tb.Fatal(err)
	}
	return d
}

// CompareRoutes fails tb unless the routes that a program serves, each as "GET /v1/accounts/{id}", are those described for it.
func CompareRoutes(tb testing.TB, p Program, served []string) {
	tb.Helper()
	want := map[string]bool{}
	for _, o := range load(tb).operations {
		if p.serves(o) {
			want[o.route()] = true
		}
	}
	have := map[string]bool{}
	for _, route := range served {
		if have[route] = true; !want[route] {
			tb.Errorf("%s serves %s, which is not described: add it to %s under paths, with one of the tags %s, its parameters, body, answers and x-problems",
				p.name, route, sourceFile, strings.Join(p.tags, ", "))
		}
	}
	for _, route := range slices.Sorted(maps.Keys(want)) {
		if !have[route] {
			tb.Errorf("%s is described in %s with a tag of %s (%s), which does not serve it", route, sourceFile, p.name, strings.Join(p.tags, ", "))
		}
	}
}

// Main runs the tests of a package whose clients are http.DefaultClient and the like, every one of them with a Transport, and returns the code to exit with. It fails
// a run of all tests that has not seen each described route of p succeed: the description of what nobody asks for could say anything.
func Main(m *testing.M, p Program) (code int) {
	http.DefaultTransport = Transport(http.DefaultTransport)
	code = m.Run()
	for _, name := range []string{"run", "skip", "list", "bench", "fuzz"} {
		if f := flag.Lookup("test." + name); f != nil && f.Value.String() != "" {
			return code // some tests only
		}
	}
	if routes := unanswered(p); code == 0 && len(routes) > 0 {
		fmt.Fprintf(os.Stderr, "described in %s for %s, and no test of this package has had it answered with a success: %q\n", sourceFile, p.name, routes)
		return 1
	}
	return code
}

// unanswered lists the routes of p that nobody saw answer with a success so far in this process.
func unanswered(p Program) []string {
	d, err := described()
	if err != nil {
		return []string{err.Error()}
	}
	var routes []string
	for _, o := range d.operations {
		o.mu.Lock()
		if p.serves(o) && !o.answered && (p.methods == nil || slices.Contains(p.methods, o.method)) {
			routes = append(routes, o.route())
		}
		o.mu.Unlock()
	}
	return routes
}

// watch is what is known of one address.
type watch struct {
	program Program
	doc     *document

	mu     sync.Mutex
	faults []string
}

var (
	watchesMu sync.Mutex
	watches   = map[string]*watch{} // by host and port
)

// Watch judges what clients with a Transport exchange with base, such as "http://127.0.0.1:8401", until tb ends, which fails by what is wrong. An exchange counts
// once its answer was read or closed.
func Watch(tb testing.TB, base string, p Program) {
	tb.Helper()
	u, err := url.Parse(base)
	if err != nil {
		tb.Fatal(err)
	}
	w := &watch{program: p, doc: load(tb)}
	watchesMu.Lock()
	defer watchesMu.Unlock()
	watches[u.Host] = w
	tb.Cleanup(func() {
		watchesMu.Lock()
		if watches[u.Host] == w {
			delete(watches, u.Host)
		}
		watchesMu.Unlock()
		w.mu.Lock()
		defer w.mu.Unlock()
		for _, fault := range w.faults {
			tb.Errorf("not as described in %s, or the handler is wrong: %s", sourceFile, fault)
		}
	})
}

// maxFaults is how many different ones a test is told.
const maxFaults = 20

func (w *watch) fault(text string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.faults) < maxFaults && !slices.Contains(w.faults, text) {
		w.faults = append(w.faults, text)
	}
}

func watching(host string) *watch {
	watchesMu.Lock()
	defer watchesMu.Unlock()
	return watches[host]
}
