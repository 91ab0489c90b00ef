package openapitest

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/latchkey/latchkey/pkg/openapi"
)

// TestSchemas: what each keyword refuses. A judge that lets everything pass would make every other test pass.
func TestSchemas(t *testing.T) {
	doc := `{"defs": {"base": {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}, "word": {"enum": ["x", "y"]}}}`
	tests := []struct {
		name, schema, value string
		closed              bool
		want                string // part of the fault; empty: valid
	}{
		{"a type", `{"type": "string"}`, `"x"`, false, ""},
		{"another type", `{"type": "string"}`, `1`, false, "want string, have integer"},
		{"one of two types", `{"type": ["string", "null"]}`, `null`, false, ""},
		{"neither of two types", `{"type": ["string", "null"]}`, `true`, false, "want string or null"},
		{"a whole number is a number", `{"type": "number"}`, `1`, false, ""},
		{"a part is no whole number", `{"type": "integer"}`, `1.5`, false, "want integer"},
		{"a listed value", `{"enum": ["x"]}`, `"x"`, false, ""},
		{"another value", `{"enum": ["x"]}`, `"y"`, false, "none of"},
		{"the only value", `{"const": true}`, `false`, false, "none of"},
		{"a reference holds", `{"$ref": "#/defs/word"}`, `"z"`, false, "none of"},
		{"a member is missing", `{"$ref": "#/defs/base"}`, `{}`, false, `"a" is missing`},
		{"a member is wrong", `{"$ref": "#/defs/base"}`, `{"a": 1}`, false, ".a: want string"},
		{"an open object takes others", `{"$ref": "#/defs/base"}`, `{"a": "x", "b": 1}`, false, ""},
		{"unless it is held closed", `{"$ref": "#/defs/base"}`, `{"a": "x", "b": 1}`, true, `"b" is not described`},
		{"also below a list", `{"type": "array", "items": {"$ref": "#/defs/base"}}`, `[{"a": "x", "b": 1}]`, true, `"b" is not described`},
		{"a closed object", `{"properties": {"a": {}}, "additionalProperties": false}`, `{"b": 1}`, false, `"b" is not described`},
		{"others of a schema", `{"additionalProperties": {"type": "integer"}}`, `{"b": "x"}`, false, ".b: want integer"},
		{"names of others", `{"propertyNames": {"maxLength": 1}}`, `{"bb": 1}`, false, "2 characters"},
		{"what parts describe", `{"allOf": [{"$ref": "#/defs/base"}], "properties": {"b": {}}, "unevaluatedProperties": false}`, `{"a": "x", "b": 1}`, false, ""},
		{"what no part describes", `{"allOf": [{"$ref": "#/defs/base"}], "properties": {"b": {}}, "unevaluatedProperties": false}`, `{"a": "x", "c": 1}`, false, `"c" is not described`},
		{"parts hold", `{"allOf": [{"$ref": "#/defs/base"}]}`, `{"a": 1}`, false, ".a: want string"},
		{"one of two", `{"oneOf": [{"type": "null"}, {"$ref": "#/defs/word"}]}`, `"x"`, false, ""},
		{"none of two", `{"oneOf": [{"type": "null"}, {"$ref": "#/defs/word"}]}`, `"z"`, false, "fits 0 of 2"},
		{"both of two", `{"oneOf": [{"type": "string"}, {"$ref": "#/defs/word"}]}`, `"x"`, false, "fits 2 of 2"},
		{"an entry is wrong", `{"items": {"type": "integer"}}`, `[1, "x"]`, false, "[1]: want integer"},
		{"too few entries", `{"minItems": 1}`, `[]`, false, "0 entries"},
		{"too many entries", `{"maxItems": 1}`, `[1, 2]`, false, "2 entries"},
		{"too few members", `{"minProperties": 1}`, `{}`, false, "0 members"},
		{"too many members", `{"maxProperties": 0}`, `{"a": 1}`, false, "1 members"},
		{"too short", `{"minLength": 2}`, `"é"`, false, "1 characters"},
		{"too long", `{"maxLength": 1}`, `"ab"`, false, "2 characters"},
		{"too small", `{"minimum": 1}`, `0`, false, "not within"},
		{"too large", `{"maximum": 1}`, `2`, false, "not within"},
		{"a pattern", `{"pattern": "^a$"}`, `"b"`, false, "does not match"},
		{"no time", `{"format": "date-time"}`, `"yesterday"`, false, "no date-time"},
		{"no address", `{"format": "uri"}`, `"x"`, false, "no uri"},
		{"no id", `{"format": "uuid"}`, `"x"`, false, "no uuid"},
		{"no JSON", `{}`, `{`, false, "no JSON"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var raw map[string]any
			var s any
			if err := json.Unmarshal([]byte(doc), &raw); err != nil {
				t.Fatal(err)
			}
			if err := json.Unmarshal([]byte(tt.schema), &s); err != nil {
				t.Fatal(err)
			}
			c := &compiler{doc: raw, done: map[string]*schema{}}
			compiled, err := c.compile(s, "#/here")
			if err != nil {
				t.Fatal(err)
			}
			got := strings.Join(compiled.checkJSON([]byte(tt.value), tt.closed), "; ")
			if (got == "") != (tt.want == "") || !strings.Contains(got, tt.want) {
				t.Errorf("%s held against %s: %q, want %q", tt.value, tt.schema, got, tt.want)
			}
		})
	}
}

// TestUnknownKeywordsAreMistakes: one that is passed over would make the description say more than is judged.
func TestUnknownKeywordsAreMistakes(t *testing.T) {
	for _, s := range []map[string]any{{"minimun": 1.0}, {"format": "ipv4"}, {"$ref": "#/nowhere"}, {"$ref": "other.yaml"}, {"unevaluatedProperties": true}} {
		c := &compiler{doc: map[string]any{}, done: map[string]*schema{}}
		if _, err := c.compile(s, "#/here"); err == nil {
			t.Errorf("compile(%v) = nil, want an error", s)
		}
	}
}

// witness is a test that remembers how it failed.
type witness struct {
	testing.TB
	faults   []string
	cleanups []func()
}

func (w *witness) Helper()          {}
func (w *witness) Cleanup(f func()) { w.cleanups = append(w.cleanups, f) }
func (w *witness) Errorf(_ string, args ...any) {
	w.faults = append(w.faults, args[len(args)-1].(string))
}

// TestExchangesAreJudged: what a program answers beside the description fails the test that asked.
func TestExchangesAreJudged(t *testing.T) {
	const made = `{"account_id": "acc_01", "revision": "1-1", "environment": "sandbox", "aliases": [], "created": true}`
	tests := []struct {
		name, method, path, body, key string
		status                        int
		media, answer                 string
		want                          string // part of the fault; empty: none
	}{
		{"as described", "POST", "/v1/accounts", `{}`, "lk_sandbox_sk_1", 201, "application/json", made, ""},
		{"another member", "POST", "/v1/accounts", `{}`, "lk_sandbox_sk_1", 201, "application/json", strings.Replace(made, "{", `{"more": 1, `, 1), `"more" is not described`},
		{"another status", "POST", "/v1/accounts", `{}`, "lk_sandbox_sk_1", 202, "application/json", made, "no such status"},
		{"another media type", "POST", "/v1/accounts", `{}`, "lk_sandbox_sk_1", 201, "text/plain", made, "Content-Type"},
		{"a request with another field is taken", "POST", "/v1/accounts", `{"more": 1}`, "lk_sandbox_sk_1", 201, "application/json", made, `"more" is not described`},
		{"the same is refused", "POST", "/v1/accounts", `{"more": 1}`, "lk_sandbox_sk_1", 400, "application/problem+json", aProblem("invalid-request", "400"), ""},
		{"a problem that is not of the route", "POST", "/v1/accounts", `{}`, "lk_sandbox_sk_1", 409, "application/problem+json", aProblem("trial-used", "409"), "none of"},
		{"a problem in another status", "POST", "/v1/accounts", `{}`, "lk_sandbox_sk_1", 409, "application/problem+json", aProblem("alias-taken", "410"), "none of"},
		{"a parameter that cannot be is taken", "GET", "/v1/events?limit=0", "", "lk_sandbox_sk_1", 200, "application/json", `{"events": [], "next": null}`, "not within"},
		{"a line that is wrong", "GET", "/v1/events", "", "lk_sandbox_sk_1", 200, "application/x-ndjson", "{}\n", "is missing"},
		{"an app's fields of another release", "POST", "/v1/sessions/login", `{"session_token": "x", "more": 1}`, "eyJ", 200, "application/json",
			`{"session_token": "a.b.c", "expires_at": "2026-11-22T06:00:00Z", "account_id": "acc_01", "revision": "1-1", "anonymous": true}`, ""},
		{"a backend's", "POST", "/v1/link-tokens/x/redeem", `{"account_id": "acc_01", "more": 1}`, "lk_sandbox_sk_1", 200, "application/json",
			`{"session_token": "a.b.c", "expires_at": "2026-11-22T06:00:00Z", "account_id": "acc_01", "revision": "1-1", "anonymous": true, "moved": []}`, `"more" is not described`},
		{"a time with parts of seconds", "POST", "/v1/sessions/login", `{"session_token": "x"}`, "eyJ", 200, "application/json",
			`{"session_token": "a.b.c", "expires_at": "2026-11-22T06:00:00.5Z", "account_id": "acc_01", "revision": "1-1", "anonymous": true}`, "does not match"},
		{"a route that is not described", "GET", "/v1/secrets", "", "lk_sandbox_sk_1", 200, "application/json", `{}`, "no such route is described"},
		{"no route", "GET", "/v1/secrets", "", "lk_sandbox_sk_1", 404, "application/json", `{}`, ""},
		{"an event of a stream", "GET", "/v1/entitlements/stream", "", "eyJ", 200, "text/event-stream", "retry: 1\n\nid: 1\nevent: entitlements\ndata: {}\n\n", "is missing"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Content-Type", tt.media)
				w.WriteHeader(tt.status)
				_, _ = io.WriteString(w, tt.answer)
			}))
			defer server.Close()
			test := &witness{TB: t}
			program := Writer
			if strings.Contains(tt.path, "/stream") {
				program = Edge
			}
			Watch(test, server.URL, program)
			client := &http.Client{Transport: Transport(http.DefaultTransport)}
			req, err := http.NewRequest(tt.method, server.URL+tt.path, strings.NewReader(tt.body))
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Authorization", "Bearer "+tt.key)
			res, err := client.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(res.Body)
			res.Body.Close()
			if err != nil || string(got) != tt.answer {
				t.Errorf("the client sees %q, %v, want %q", got, err, tt.answer)
			}
			for _, f := range test.cleanups {
				f()
			}
			faults := strings.Join(test.faults, "; ")
			if (faults == "") != (tt.want == "") || !strings.Contains(faults, tt.want) {
				t.Errorf("judged %q, want %q", faults, tt.want)
			}
		})
	}
}

func aProblem(slug, status string) string {
	return `{"type": "https://latchkey.dev/problems/` + slug + `", "title": "T", "status": ` + status + `, "detail": "D.", "request_id": "r"}`
}

// TestRoutesAreCompared: both a route that is not described and a description without a route are told.
func TestRoutesAreCompared(t *testing.T) {
	var routes []string
	for _, o := range load(t).operations {
		if Edge.serves(o) {
			routes = append(routes, o.route())
		}
	}
	same, other := &witness{TB: t}, &witness{TB: t}
	if CompareRoutes(same, Edge, routes); len(same.faults) != 0 {
		t.Errorf("the same routes: %q, want nothing", same.faults)
	}
	if CompareRoutes(other, Edge, append(routes[1:], "GET /v1/secrets")); len(other.faults) != 2 {
		t.Errorf("one less and one more: %q, want both", other.faults)
	}
}

// TestServedIsSmall: it is sent whole to whoever asks.
func TestServedIsSmall(t *testing.T) {
	const most = 320 << 10
	d, err := openapi.Served()
	if err != nil || len(d.JSON) > most || len(d.ETag) < 10 {
		t.Errorf("Served = %d bytes, %s, %v, want %d at most", len(d.JSON), d.ETag, err, most)
	}
}
