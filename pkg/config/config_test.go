package config

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

// colour is a type of its own with a text form.
type colour struct{ name string }

func (c *colour) UnmarshalText(b []byte) error {
	if string(b) != "red" {
		return fmt.Errorf("%q is no colour", b)
	}
	c.name = string(b)
	return nil
}

type program struct {
	Node struct {
		ID      string        `config:"id"`
		DataDir string        `config:"data_dir"`
		Timeout time.Duration `config:"timeout"`
		Enabled bool          `config:"enabled"`
		Port    uint16        `config:"port"`
		Offset  int           `config:"offset"`
		Colour  colour        `config:"colour"`
		Note    string        // not configurable
	} `config:"node"`
	Environments map[string]environment `config:"environments"`
	URLs         map[string]string      `config:"manage_urls"`
	Writers      []string               `config:"writers"`

	mistakes Mistakes // what Validate reports
}

type environment struct {
	Audience string  `config:"audience"`
	Keys     []key   `config:"api_keys"`
	Stripe   *stripe `config:"stripe"`
}

type key struct {
	Name string `config:"name"`
	Key  Secret `config:"key"`
}

type stripe struct {
	Secrets []Secret `config:"webhook_secrets"`
}

func (p *program) Validate() error { return p.mistakes.Err() }

func write(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func loadText(t *testing.T, text string, into *program, environ ...string) (string, error) {
	t.Helper()
	path := write(t, "program.yaml", text)
	return path, load(path, reflect.ValueOf(into).Elem(), func() []string { return environ })
}

// TestLoad shows what a field holds after file and environment.
func TestLoad(t *testing.T) {
	secrets := write(t, "secrets", "one\ntwo\r\n\n")
	tests := []struct {
		name    string
		text    string
		environ []string
		got     func(p *program) any
		want    any
	}{
		{"a file sets text", "node: {id: w1}", nil, func(p *program) any { return p.Node.ID }, "w1"},
		{"a default stands where nothing is said", "node: {id: w1}", nil, func(p *program) any { return p.Node.Timeout }, time.Minute},
		{"an empty section keeps its defaults", "node:", nil, func(p *program) any { return p.Node.Timeout }, time.Minute},
		{"a duration has a unit", "node: {timeout: 1h30m}", nil, func(p *program) any { return p.Node.Timeout }, 90 * time.Minute},
		{"a number", "node: {port: 8401, offset: -3}", nil, func(p *program) any { return []int{int(p.Node.Port), p.Node.Offset} }, []int{8401, -3}},
		{"a type with a text form", "node: {colour: red}", nil, func(p *program) any { return p.Node.Colour.name }, "red"},
		{"a map of sections", "environments: {sandbox: {audience: a}, production: {audience: b}}", nil,
			func(p *program) any { return p.Environments["production"].Audience }, "b"},
		{"a list of sections", "environments: {sandbox: {api_keys: [{name: a, key: x}, {name: b, key: z}]}}", nil,
			func(p *program) any { return p.Environments["sandbox"].Keys }, []key{{"a", "x"}, {"b", "z"}}},
		{"an optional section is absent", "environments: {sandbox: {audience: a}}", nil,
			func(p *program) any { return p.Environments["sandbox"].Stripe == nil }, true},
		{"an optional section is there", "environments: {sandbox: {stripe: {webhook_secrets: [s]}}}", nil,
			func(p *program) any { return p.Environments["sandbox"].Stripe.Secrets }, []Secret{"s"}},
		{"a secret comes from a file, without its line end", "environments: {sandbox: {api_keys: [{name: a, key_file: " + write(t, "key", "k e y\n") + "}]}}", nil,
			func(p *program) any { return string(p.Environments["sandbox"].Keys[0].Key) }, "k e y"},
		{"a list of secrets comes from a file, one a line", "environments: {sandbox: {stripe: {webhook_secrets_file: " + secrets + "}}}", nil,
			func(p *program) any { return p.Environments["sandbox"].Stripe.Secrets }, []Secret{"one", "two"}},

		{"a variable wins over the file", "node: {data_dir: /a}", []string{"LATCHKEY_NODE_DATA_DIR=/b"}, func(p *program) any { return p.Node.DataDir }, "/b"},
		{"a variable sets what the file lacks", "", []string{"LATCHKEY_NODE_ENABLED=true", "LATCHKEY_NODE_PORT=9"},
			func(p *program) any { return fmt.Sprint(p.Node.Enabled, p.Node.Port) }, "true 9"},
		{"a variable that looks like a number stays text in a text field", "", []string{"LATCHKEY_NODE_ID=007"}, func(p *program) any { return p.Node.ID }, "007"},
		{"a variable sets a duration", "", []string{"LATCHKEY_NODE_TIMEOUT=5s"}, func(p *program) any { return p.Node.Timeout }, 5 * time.Second},
		{"a variable reaches into a map", "environments: {sandbox: {audience: a}}", []string{"LATCHKEY_ENVIRONMENTS_SANDBOX_AUDIENCE=b"},
			func(p *program) any { return p.Environments["sandbox"].Audience }, "b"},
		{"a variable makes an entry of a map", "", []string{"LATCHKEY_MANAGE_URLS_STRIPE=https://x"}, func(p *program) any { return p.URLs["stripe"] }, "https://x"},
		{"a variable finds a key of the file that has an underscore", "environments: {a_b: {audience: x}}", []string{"LATCHKEY_ENVIRONMENTS_A_B_AUDIENCE=y"},
			func(p *program) any { return p.Environments["a_b"].Audience }, "y"},
		{"a list in a variable is separated by commas", "writers: [a]", []string{"LATCHKEY_WRITERS=b, c"}, func(p *program) any { return p.Writers }, []string{"b", "c"}},
		{"a list of sections in a variable is YAML", "", []string{"LATCHKEY_ENVIRONMENTS_SANDBOX_API_KEYS=[{name: n, key: k}]"},
			func(p *program) any { return p.Environments["sandbox"].Keys }, []key{{"n", "k"}}},
		{"a variable names a secret's file", "", []string{"LATCHKEY_ENVIRONMENTS_SANDBOX_STRIPE_WEBHOOK_SECRETS_FILE=" + secrets},
			func(p *program) any { return p.Environments["sandbox"].Stripe.Secrets }, []Secret{"one", "two"}},
		{"a variable with a secret beats a file named in the file", "environments: {sandbox: {stripe: {webhook_secrets_file: " + secrets + "}}}",
			[]string{"LATCHKEY_ENVIRONMENTS_SANDBOX_STRIPE_WEBHOOK_SECRETS=three"},
			func(p *program) any { return p.Environments["sandbox"].Stripe.Secrets }, []Secret{"three"}},
		{"variables of others are let be", "node: {id: w1}", []string{"LATCHKEY_WRITER_SERVICE_HOST=10.0.0.1", "LATCHKEY_DEV=1", "PATH=/bin"},
			func(p *program) any { return p.Node.ID }, "w1"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var p program
			p.Node.Timeout = time.Minute
			if _, err := loadText(t, tt.text, &p, tt.environ...); err != nil {
				t.Fatalf("Load: %v", err)
			}
			if got := tt.got(&p); !reflect.DeepEqual(got, tt.want) {
				t.Errorf("Load(%s, %s) gave %#v, want %#v", tt.text, tt.environ, got, tt.want)
			}
		})
	}
}

// TestMistakes shows that every mistake is reported, all at once, with its source and field, and without what it quotes.
func TestMistakes(t *testing.T) {
	empty := write(t, "empty", "\n")
	tests := []struct {
		name    string
		text    string
		environ []string
		found   Mistakes // by Validate
		want    []string // "FILE" stands for the file's path
	}{
		{name: "an unknown field", text: "node: {idd: w1}", want: []string{"FILE: node.idd: unknown field"}},
		{name: "an unknown section", text: "nodes: {id: w1}", want: []string{"FILE: nodes: unknown field"}},
		{name: "a field that is not configurable", text: "node: {Note: x}", want: []string{"FILE: node.Note: unknown field"}},
		{name: "a file for what is no secret", text: "node: {id_file: x}", want: []string{"FILE: node.id_file: unknown field"}},
		{name: "a number for text", text: "node: {id: 1}", want: []string{"FILE: node.id: want text, have a number: put it into quotes"}},
		{name: "text for a number", text: "node: {port: x}", want: []string{"FILE: node.port: want a whole number that is not negative, have text"}},
		{name: "a number that does not fit", text: "node: {port: 70000}", want: []string{"FILE: node.port: want a whole number that is not negative, have a number"}},
		{name: "a duration without a unit", text: "node: {timeout: 30}", want: []string{"FILE: node.timeout: want a duration such as 30s or 24h, have a number"}},
		{name: "text for a section", text: "node: w1", want: []string{"FILE: node: want a section, have text"}},
		{name: "a section for a list", text: "writers: {a: b}", want: []string{"FILE: writers: want a list, have a section"}},
		{name: "a type's own complaint", text: "node: {colour: blue}", want: []string{`FILE: node.colour: "blue" is no colour`}},
		{name: "several at once, in order of the fields", text: "node: {timeout: x, idd: w1}\nwriters: 5", want: []string{
			"FILE: node.idd: unknown field", "FILE: node.timeout: want a duration such as 30s or 24h, have text", "FILE: writers: want a list, have a number"}},
		{name: "inside a list", text: "environments: {sandbox: {api_keys: [{name: a}, {nam: b}]}}", want: []string{"FILE: environments.sandbox.api_keys[1].nam: unknown field"}},
		{name: "a secret and its file", text: "environments: {sandbox: {api_keys: [{key: a, key_file: b}]}}",
			want: []string{"FILE: environments.sandbox.api_keys[0].key_file: given together with environments.sandbox.api_keys[0].key: give one of them"}},
		{name: "a secret's file that is not there", text: "environments: {sandbox: {api_keys: [{key_file: /nowhere/k}]}}",
			want: []string{"FILE: environments.sandbox.api_keys[0].key_file: open /nowhere/k: no such file or directory"}},
		{name: "a secret's file that is empty", text: "environments: {sandbox: {api_keys: [{key_file: " + empty + "}]}}",
			want: []string{"FILE: environments.sandbox.api_keys[0].key_file: " + empty + ": empty"}},
		{name: "a variable with a wrong value is named", text: "node: {port: 1}", environ: []string{"LATCHKEY_NODE_PORT=high"},
			want: []string{"LATCHKEY_NODE_PORT: node.port: want a whole number that is not negative, have text"}},
		{name: "a variable of a section that names no field", environ: []string{"LATCHKEY_NODE_IDD=x"}, want: []string{"LATCHKEY_NODE_IDD: no field of this name"}},
		{name: "what Validate finds is placed", text: "node: {id: w1}", environ: []string{"LATCHKEY_NODE_DATA_DIR=x"},
			found: Mistakes{{Field: "node.id", Problem: "no"}, {Field: "node.data_dir", Problem: "neither"}},
			want:  []string{"FILE: node.id: no", "LATCHKEY_NODE_DATA_DIR: node.data_dir: neither"}},
		{name: "what the type said is not said again", text: "node: {id: 1}", found: Mistakes{{Field: "node.id", Problem: "must be given"}},
			want: []string{"FILE: node.id: want text, have a number: put it into quotes"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := program{mistakes: tt.found}
			path, err := loadText(t, tt.text, &p, tt.environ...)
			want := strings.ReplaceAll(strings.Join(tt.want, "\n"), "FILE", path)
			if err == nil || err.Error() != want {
				t.Errorf("Load(%s, %s) = %v, want\n%s", tt.text, tt.environ, err, want)
			}
		})
	}
}

// TestUnreadableFile shows that a file that cannot be read or is no YAML is one mistake with its name.
func TestUnreadableFile(t *testing.T) {
	var p program
	if err := Load("/nowhere/program.yaml", &p); err == nil || err.Error() != "/nowhere/program.yaml: no such file or directory" {
		t.Errorf("Load of a missing file = %v", err)
	}
	path, err := loadText(t, "node: [", &p)
	if err == nil || !strings.HasPrefix(err.Error(), path+": yaml: ") {
		t.Errorf("Load of broken YAML = %v", err)
	}
}

// TestSecretIsNeverPrinted tries every way by which a configuration could reach a log.
func TestSecretIsNeverPrinted(t *testing.T) {
	const canary = "whsec_canary"
	k := key{Name: "n", Key: canary}
	var log bytes.Buffer
	slog.New(slog.NewJSONHandler(&log, nil)).Info("configuration", "key", k, "secret", k.Key)
	asJSON, err := json.Marshal(k)
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{fmt.Sprint(k), fmt.Sprintf("%+v", k), fmt.Sprintf("%#v", k), fmt.Sprintf("%s %q %x", k.Key, k.Key, k.Key), log.String(), string(asJSON)} {
		if strings.Contains(text, canary) || strings.Contains(text, fmt.Sprintf("%x", canary)) {
			t.Errorf("a secret was printed: %s", text)
		}
	}
}
