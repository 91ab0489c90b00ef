package problem

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "write deploy/docs/problems.md")

// The list is closed: every Slug constant has exactly one complete entry, and every entry has a constant.
func TestTheListIsClosedAndComplete(t *testing.T) {
	entries := map[string]bool{}
	for _, k := range Kinds() {
		if entries[string(k.Slug)] {
			t.Errorf("%s: more than one entry", k.Slug)
		}
		entries[string(k.Slug)] = true
		if !regexp.MustCompile(`^[a-z]+(-[a-z]+)*$`).MatchString(string(k.Slug)) {
			t.Errorf("%q is not a slug", k.Slug)
		}
		if k.Title == "" || strings.HasSuffix(k.Title, ".") {
			t.Errorf("%s: title %q", k.Slug, k.Title)
		}
		if k.Status < 400 || k.Status > 599 || http.StatusText(k.Status) == "" {
			t.Errorf("%s: status %d", k.Slug, k.Status)
		}
		if !strings.HasSuffix(k.Advice, ".") || strings.Contains(k.Advice, "\n") {
			t.Errorf("%s: advice %q is not one sentence", k.Slug, k.Advice)
		}
	}
	constants := slugConstants(t)
	for slug := range constants {
		if !entries[slug] {
			t.Errorf("slug %s has no entry", slug)
		}
	}
	if len(constants) != len(entries) {
		t.Errorf("%d constants, %d entries", len(constants), len(entries))
	}
	if Kinds()[0].Slug != Internal {
		t.Errorf("the first entry is %s, want %s: it stands for what has none", Kinds()[0].Slug, Internal)
	}
}

// slugConstants reads the values of all constants of type Slug from the source.
func slugConstants(t *testing.T) map[string]bool {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), "list.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	slugs := map[string]bool{}
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok {
			return true
		}
		if id, ok := spec.Type.(*ast.Ident); !ok || id.Name != "Slug" {
			return true
		}
		for _, v := range spec.Values {
			slug, err := strconv.Unquote(v.(*ast.BasicLit).Value)
			if err != nil {
				t.Fatal(err)
			}
			slugs[slug] = true
		}
		return true
	})
	return slugs
}

func TestThePageIsTheList(t *testing.T) {
	path := filepath.Join("..", "..", "deploy", "docs", "problems.md")
	if *update {
		if err := os.WriteFile(path, []byte(Catalogue()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	page, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if string(page) != Catalogue() {
		t.Errorf("%s differs from Catalogue(): go test ./pkg/problem -update", path)
	}
}

func TestFrom(t *testing.T) {
	taken := New(AliasTaken, "This alias belongs to another account.")
	tests := []struct {
		name       string
		err        error
		want       Slug
		wantStatus int
	}{
		{"a problem is itself", taken, AliasTaken, 409},
		{"a wrapped problem is found", fmt.Errorf("link: %w", taken), AliasTaken, 409},
		{"a body over the reader's limit", fmt.Errorf("read: %w", &http.MaxBytesError{Limit: 10}), BodyTooLarge, 413},
		{"anything else is internal", errors.New("disk on fire at /var/secret"), Internal, 500},
		{"a slug outside the list is written as internal", New("made-up", ""), "made-up", 500},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := From(tt.err)
			if got.Slug != tt.want || got.Status() != tt.wantStatus {
				t.Errorf("From(%v) = %s %d, want %s %d", tt.err, got.Slug, got.Status(), tt.want, tt.wantStatus)
			}
			if strings.Contains(got.Detail, "secret") {
				t.Errorf("From(%v).Detail = %q tells internals", tt.err, got.Detail)
			}
		})
	}
	if From(nil) != nil {
		t.Error("From(nil) is not nil")
	}
}

// AppendJSON builds by hand; encoding/json is the judge of what it built.
func TestAppendJSON(t *testing.T) {
	tests := []struct {
		name string
		p    *Problem
		want map[string]any
	}{
		{"the five members", New(AliasTaken, "This alias belongs to another account."),
			map[string]any{"type": BaseURL + "alias-taken", "title": "Alias taken", "status": 409.0, "detail": "This alias belongs to another account."}},
		{"members of the contract", New(AliasTaken, "x").With("owner", "acc_1").With("kind", `a"b`),
			map[string]any{"type": BaseURL + "alias-taken", "title": "Alias taken", "status": 409.0, "detail": "x", "owner": "acc_1", "kind": `a"b`}},
		{"text that must be escaped", Newf(InvalidRequest, "field %q\n\x01é\u2028", `a\b`),
			map[string]any{"type": BaseURL + "invalid-request", "title": "Invalid request", "status": 400.0, "detail": "field \"a\\\\b\"\n\x01é\u2028"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var got map[string]any
			body := AppendJSON([]byte("x"), tt.p, "01J9Z3")[1:]
			if err := json.Unmarshal(body, &got); err != nil {
				t.Fatalf("%s: %v", body, err)
			}
			tt.want["request_id"] = "01J9Z3"
			if !reflect.DeepEqual(got, tt.want) {
				t.Errorf("AppendJSON = %v, want %v", got, tt.want)
			}
		})
	}
}

func TestWithLeavesTheOriginalAlone(t *testing.T) {
	p := New(AliasTaken, "x").With("a", "1")
	p.With("b", "2")
	q := p.With("c", "3")
	if len(p.members) != 1 || q.members[1].name != "c" {
		t.Errorf("p has %v, q has %v", p.members, q.members)
	}
}

func TestWrite(t *testing.T) {
	tests := []struct {
		name       string
		err        error
		wantStatus int
		wantHeader map[string]string
	}{
		{"Retry-After is rounded up", New(Unavailable, "No leader.").After(1100 * time.Millisecond), 503, map[string]string{"Retry-After": "2"}},
		{"no Retry-After unless asked", New(NotFound, "No such account."), 404, map[string]string{"Retry-After": ""}},
		{"a missing credential names the scheme", New(InvalidCredential, "No credential."), 401, map[string]string{"WWW-Authenticate": "Bearer"}},
		{"a webhook's signature is no credential", New(InvalidSignature, "No match."), 401, map[string]string{"WWW-Authenticate": ""}},
		{"an unknown error is internal", errors.New("x"), 500, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := httptest.NewRequest(http.MethodGet, "/", nil)
			r = r.WithContext(WithRequestID(context.Background(), "01J9Z3"))
			w := httptest.NewRecorder()
			if p := Write(w, r, tt.err); p.Status() != tt.wantStatus || w.Code != tt.wantStatus {
				t.Errorf("Write(%v) = %d, status %d, want %d", tt.err, p.Status(), w.Code, tt.wantStatus)
			}
			for name, want := range tt.wantHeader {
				if got := w.Header().Get(name); got != want {
					t.Errorf("%s = %q, want %q", name, got, want)
				}
			}
			if got := w.Header().Get("Content-Type"); got != ContentType {
				t.Errorf("Content-Type = %q, want %q", got, ContentType)
			}
			if !strings.Contains(w.Body.String(), `"request_id":"01J9Z3"`) {
				t.Errorf("body %s lacks the request's id", w.Body)
			}
		})
	}
}

func TestIsComparesTypes(t *testing.T) {
	err := fmt.Errorf("wait: %w", New(NotYet, "Revision 1-9 is not here."))
	if !errors.Is(err, New(NotYet, "")) || errors.Is(err, New(NoData, "")) {
		t.Errorf("errors.Is does not go by the slug")
	}
}
