package deploy_test

import (
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/latchkey/latchkey/edge"
	"github.com/latchkey/latchkey/pkg/config"
	"github.com/latchkey/latchkey/pkg/entitlement"
	"github.com/latchkey/latchkey/writer"
)

// configurationPage is the operators' page about configuration files, from a heading to the next.
func configurationPage(t *testing.T, heading string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("docs", "configuration.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, found := strings.Cut(string(b), "\n## "+heading+"\n")
	if !found {
		t.Fatalf("configuration.md has no section %q", heading)
	}
	part, _, _ := strings.Cut(rest, "\n## ")
	return part
}

// TestConfigurationPageIsComplete: configuration.md names every field of both programs, and none that does not exist.
func TestConfigurationPageIsComplete(t *testing.T) {
	row := regexp.MustCompile("(?m)^\\| `([^`]+)`")
	for heading, cfg := range map[string]reflect.Type{"A writer": reflect.TypeFor[writer.Config](), "An edge": reflect.TypeFor[edge.Config]()} {
		fields := configFields(cfg, "")
		var named []string
		for _, m := range row.FindAllStringSubmatch(configurationPage(t, heading), -1) {
			named = append(named, m[1])
			// A row may be about a section or a list as a whole.
			within := func(field string) bool {
				return strings.HasPrefix(field, m[1]+".") || strings.HasPrefix(field, m[1]+"[")
			}
			if !slices.Contains(fields, m[1]) && !slices.ContainsFunc(fields, within) {
				t.Errorf("%s: there is no field %s", heading, m[1])
			}
		}
		for _, field := range fields {
			if !slices.Contains(named, field) {
				t.Errorf("%s: the page has no row for %s", heading, field)
			}
		}
	}
}

// configFields lists the fields of a configuration that hold values, as the page writes them.
func configFields(t reflect.Type, at string) []string {
	switch {
	case t.Kind() == reflect.Pointer:
		return configFields(t.Elem(), at)
	case t.Kind() == reflect.Map:
		key := "<" + strings.ToLower(t.Key().Name()) + ">"
		return configFields(t.Elem(), at+"."+key)
	case t.Kind() == reflect.Slice && t.Elem().Kind() == reflect.Struct:
		return configFields(t.Elem(), at+"[]")
	case t.Kind() != reflect.Struct:
		return []string{at}
	}
	var fields []string
	for f := range t.Fields() {
		if name := f.Tag.Get("config"); name != "" {
			fields = append(fields, configFields(f.Type, strings.TrimPrefix(at+"."+name, "."))...)
		}
	}
	return fields
}

// TestDocumentedEdgeConfiguration loads the example of an edge's file, and shows what the two variables for NATS do to it.
func TestDocumentedEdgeConfiguration(t *testing.T) {
	_, rest, _ := strings.Cut(configurationPage(t, "An edge"), "<!-- edge.yaml -->\n```yaml\n")
	example, _, found := strings.Cut(rest, "```")
	if !found {
		t.Fatal("the page has no example of edge.yaml")
	}
	dir := t.TempDir()
	keys := filepath.Join(dir, "keys")
	if err := writer.MakeKeys(keys, "01JD0000000000000000000000", entitlement.Environments); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "edge.yaml")
	if err := os.WriteFile(path, []byte(strings.ReplaceAll(example, "/etc/latchkey/keys", keys)), 0o600); err != nil {
		t.Fatal(err)
	}
	load := func() edge.NATSConfig {
		t.Helper()
		var cfg edge.Config
		if err := config.Load(path, &cfg); err != nil {
			t.Fatalf("the example does not load:\n%v", err)
		}
		return cfg.NATS
	}
	if nats := load(); !nats.Enabled || len(nats.URLs) != 3 {
		t.Errorf("nats is %+v, want it enabled with the three writers' servers", nats)
	}
	t.Setenv("LATCHKEY_NATS_URLS", "nats://127.0.0.1:4222,nats://127.0.0.1:4223")
	if nats := load(); !slices.Equal(nats.URLs, []string{"nats://127.0.0.1:4222", "nats://127.0.0.1:4223"}) {
		t.Errorf("LATCHKEY_NATS_URLS gives %v, want its two", nats.URLs)
	}
	t.Setenv("LATCHKEY_NATS_ENABLED", "false")
	if load().Enabled {
		t.Error("LATCHKEY_NATS_ENABLED=false leaves NATS enabled")
	}
}
