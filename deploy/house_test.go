// Package deploy_test holds the house together: who may import whom, what lies where, what no file may contain.
package deploy_test

import (
	"encoding/json"
	"errors"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const (
	root   = ".."
	module = "github.com/latchkey/latchkey"
)

// goPackage is what go list says of one package; Dir is its import path within the module.
type goPackage struct {
	ImportPath   string
	Name         string
	Dir          string
	GoFiles      []string
	Imports      []string
	TestImports  []string
	XTestImports []string
	Deps         []string
}

func (p goPackage) path() string {
	return strings.TrimPrefix(strings.TrimPrefix(p.ImportPath, module), "/")
}

// list runs go list; the packages' Deps are everything that they pull in, however far down.
func list(t *testing.T, patterns ...string) []goPackage {
	t.Helper()
	cmd := exec.Command("go", append([]string{"list", "-json=ImportPath,Name,Dir,GoFiles,Imports,TestImports,XTestImports,Deps"}, patterns...)...)
	cmd.Dir = root
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list %s: %v", patterns, err)
	}
	var packages []goPackage
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p goPackage
		switch err := dec.Decode(&p); {
		case errors.Is(err, io.EOF):
			return packages
		case err != nil:
			t.Fatalf("go list %s: %v", patterns, err)
		}
		packages = append(packages, p)
	}
}

// within reports whether path is one of the folders or below it.
func within(path string, folders ...string) bool {
	return slices.ContainsFunc(folders, func(f string) bool { return path == f || strings.HasPrefix(path, f+"/") })
}

// TestEachOutsideTechnologyHasOneOwner: what one package hides can be replaced there, and nowhere else must it be understood. Tests may
// use a technology as a judge.
func TestEachOutsideTechnologyHasOneOwner(t *testing.T) {
	owners := map[string][]string{
		"github.com/hashicorp/raft":          {"writer/internal/store"},
		"github.com/hashicorp/raft-wal":      {"writer/internal/store"},
		"go.etcd.io/bbolt":                   {"writer/internal/store", "edge/internal/replica"},
		"github.com/nats-io":                 {"replication"},
		"github.com/valyala/fasthttp":        {"edge"},
		"github.com/fasthttp":                {"edge"},
		"github.com/stripe/stripe-go":        {"writer/internal/provider"},
		"github.com/golang-jwt/jwt":          {"pkg/token", "pkg/identity/identitytest", "writer/internal/provider", "deploy/bench/rival"}, // the last is what others would build, for comparison
		"github.com/MicahParks/jwkset":       {"pkg/identity"},
		"filippo.io":                         {"pkg/token"},
		"github.com/fxamacker/cbor":          {"pkg/entitlement", "writer/internal/store"},
		"github.com/knadh/koanf":             {"pkg/config"},
		"go.yaml.in/yaml":                    {"pkg/config", "pkg/openapi", "deploy"},
		module + "/replication/natsd":        {"writer"},
		module + "/deploy":                   {"deploy"},
		"github.com/nats-io/nats-server":     {"replication/natsd"},
		"github.com/hashicorp/go-hclog":      {"writer/internal/store"},
		"github.com/klauspost/compress/zstd": {"replication", "writer/internal/store"},
	}
	for _, p := range list(t, "./...") {
		for _, imported := range p.Imports {
			for tech, folders := range owners {
				if within(imported, tech) && !within(p.path(), folders...) {
					t.Errorf("%s imports %s, which belongs to %s alone", p.path(), imported, strings.Join(folders, " and "))
				}
			}
		}
	}
}

// TestStripeIsKnownInItsAdapter: a provider's own words end at its adapter, whose files begin with its name: stripe.go takes messages,
// stripe_pull.go asks.
func TestStripeIsKnownInItsAdapter(t *testing.T) {
	for path, text := range sources(t) {
		if strings.Contains(text, `"github.com/stripe/stripe-go/`) && !strings.HasPrefix(path, "writer/internal/provider/stripe") && !strings.HasSuffix(path, "_test.go") {
			t.Errorf("%s imports stripe-go, which belongs in writer/internal/provider/stripe*.go", path)
		}
	}
}

// TestArrowsGoOneWay: deploy -> writer, edge -> replication -> pkg; tests too.
func TestArrowsGoOneWay(t *testing.T) {
	may := map[string][]string{
		"pkg":         {"pkg"},
		"replication": {"pkg", "replication"},
		"writer":      {"pkg", "replication", "writer"},
		"edge":        {"pkg", "replication", "edge"},
		"deploy":      {"pkg", "replication", "writer", "edge", "deploy"},
	}
	for _, p := range list(t, "./...") {
		top, _, _ := strings.Cut(p.path(), "/")
		for _, imported := range slices.Concat(p.Imports, p.TestImports, p.XTestImports) {
			inner, ours := strings.CutPrefix(imported, module+"/")
			if ours && !within(inner, may[top]...) {
				t.Errorf("%s imports %s: %s may import %s only", p.path(), inner, top, strings.Join(may[top], ", "))
			}
		}
	}
}

// TestTheOracleStandsApart: what says who must be entitled reads the simulation's books, by rules of its own. Nothing of the fold that it judges, nor of what
// tells messages, is in reach of its file.
func TestTheOracleStandsApart(t *testing.T) {
	file, err := parser.ParseFile(token.NewFileSet(), filepath.Join(root, "deploy/storesim/oracle.go"), nil, parser.ImportsOnly)
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range file.Imports {
		if path := strings.Trim(i.Path.Value, `"`); strings.Contains(path, ".") {
			t.Errorf("the oracle imports %s", path)
		}
	}
	if len(file.Imports) == 0 {
		t.Error("no imports were read")
	}
}

// TestEdgeHoldsNoWriterTechnology: what is not in the binary cannot be attacked there, and an edge decides nothing.
func TestEdgeHoldsNoWriterTechnology(t *testing.T) {
	for _, p := range list(t, "./edge/cmd/...") {
		for _, dep := range p.Deps {
			for _, tech := range []string{"github.com/hashicorp/raft", "github.com/stripe", "github.com/nats-io/nats-server", module + "/writer"} {
				if strings.HasPrefix(dep, tech) {
					t.Errorf("%s contains %s", p.path(), dep)
				}
			}
		}
	}
}

// TestTopLevelIsFixed: the product's owner chose it.
func TestTopLevelIsFixed(t *testing.T) {
	fixed := []string{"writer", "edge", "replication", "pkg", "deploy", "go.mod", "go.sum", "Makefile", "README.md", "LICENSE"}
	files, err := exec.Command("git", "-C", root, "ls-files", "--cached", "--others", "--exclude-standard").Output()
	if err != nil {
		t.Fatalf("git ls-files: %v", err)
	}
	for _, path := range strings.Fields(string(files)) {
		if top, _, _ := strings.Cut(path, "/"); !strings.HasPrefix(top, ".") && !slices.Contains(fixed, top) {
			t.Errorf("top level holds %s; it is fixed: %s and dotfiles", top, strings.Join(fixed, " "))
		}
	}
	for _, name := range append(fixed, ".ci/run") {
		if _, err := os.Stat(filepath.Join(root, name)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestPackageNamesSayWhatIsInside(t *testing.T) {
	empty := []string{"utils", "util", "common", "helpers", "helper", "models", "types", "core", "service", "services", "manager", "misc"}
	for _, p := range list(t, "./...") {
		if slices.Contains(empty, p.Name) {
			t.Errorf("package %s: its name says nothing about what is inside", p.path())
		}
	}
}

// TestMainsOnlyStart: flags, configuration, open, run until a signal. The rest lives in packages that tests can start.
func TestMainsOnlyStart(t *testing.T) {
	const maxLines = 80
	for path, text := range sources(t) {
		if lines := strings.Count(text, "\n"); strings.HasSuffix(path, "/main.go") && lines > maxLines {
			t.Errorf("%s has %d lines, want %d at most", path, lines, maxLines)
		}
	}
}

// TestNoReplaceInModule: go install would refuse the module.
func TestNoReplaceInModule(t *testing.T) {
	b, err := os.ReadFile(filepath.Join(root, "go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	if regexp.MustCompile(`(?m)^\s*replace\b`).Match(b) {
		t.Error("go.mod has a replace directive")
	}
}

// TestTidy: what no file of ours may contain, and why.
func TestTidy(t *testing.T) {
	rules := []struct {
		in      *regexp.Regexp // of which files
		never   *regexp.Regexp
		because string
	}{
		{regexp.MustCompile(`_test\.go$`), regexp.MustCompile(`\btime\.` + `Sleep\(`), "a test waits for the event"},
		{regexp.MustCompile(`\.(go|mjs|ts)$`), regexp.MustCompile(`\b[tb]\.` + `Skip(f|Now)?\(|\.skip\(|\.only\(`), "a test that is skipped shows nothing"},
		{regexp.MustCompile(`\.(go|mjs|ts)$`), regexp.MustCompile(`\b(TO` + `DO|FIX` + `ME|XX` + `X)\b`), "what is not done belongs in an issue"},
		{regexp.MustCompile(`.`), regexp.MustCompile(`(^|[^a-zA-Z0-9.])/(home|root|Users|work|farm)/[a-z]`), "a path of one machine"},
	}
	for path, text := range sources(t) {
		for _, rule := range rules {
			if !rule.in.MatchString(path) {
				continue
			}
			for n, line := range strings.Split(text, "\n") {
				if rule.never.MatchString(line) {
					t.Errorf("%s:%d: %s: %s", path, n+1, strings.TrimSpace(line), rule.because)
				}
			}
		}
	}
}

// sources returns the text of every file that people write, by its path within the project.
func sources(t *testing.T) map[string]string {
	t.Helper()
	written := regexp.MustCompile(`(\.(go|mod|mjs|js|ts|md|json|ya?ml|sh|html|css)|Makefile|run)$`)
	texts := map[string]string{}
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := entry.Name()
		if entry.IsDir() && (name == "node_modules" || name == "bin" || path == filepath.Join(root, "pkg/sdk/js/build") || path == filepath.Join(root, "pkg/sdk/js/dist") || name == "results" || name == "testdata" || strings.HasPrefix(name, ".") && path != root && name != ".ci") {
			return filepath.SkipDir
		}
		if entry.IsDir() || !written.MatchString(name) || name == "package-lock.json" {
			return nil
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		inside, err := filepath.Rel(root, path)
		texts[filepath.ToSlash(inside)] = string(b)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(texts) < 10 {
		t.Fatalf("only %d files found: %v", len(texts), slices.Sorted(maps.Keys(texts)))
	}
	return texts
}
