package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/latchkey/latchkey/pkg/entitlement"
	"github.com/latchkey/latchkey/writer"
)

// tool runs a command line and returns what it printed and its exit code.
func tool(ctx context.Context, args ...string) (out, errOut string, code int) {
	var stdout, stderr bytes.Buffer
	root := command()
	root.SetOut(&stdout)
	root.SetErr(&stderr)
	code = run(ctx, root, args)
	return stdout.String(), stderr.String(), code
}

// TestExitCodes shows 2 for wrong usage, 1 for what failed, 0 for what was done.
func TestExitCodes(t *testing.T) {
	dir := t.TempDir()
	wrong := filepath.Join(dir, "wrong.yaml")
	if err := os.WriteFile(wrong, []byte("node: {idd: w1}\nlog: {level: loud}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name string
		args []string
		code int
		says string
	}{
		{"no command", []string{}, 2, "which command?"},
		{"an unknown command", []string{"rewind"}, 2, "unknown command"},
		{"an unknown flag", []string{"serve", "--port", "1"}, 2, "unknown flag"},
		{"a flag is missing", []string{"serve"}, 2, `"config"`},
		{"a member without a name", []string{"remove", "--data-dir", dir}, 2, "1 arg"},
		{"join where none runs", []string{"join", "--data-dir", dir}, 1, "no writer runs here"},
		{"an argument too many", []string{"version", "x"}, 2, "unknown command"},
		{"an environment that is none", []string{"keys", "api", "revoke", "--data-dir", dir, "--env", "staging", "--name", "x"}, 2, "staging"},
		{"a provider that is none", []string{"webhook-test", "nobody", "--config", wrong}, 2, "nobody"},
		{"no configuration", []string{"serve", "--config", "/nowhere"}, 1, "/nowhere: no such file"},
		{"every mistake at once", []string{"serve", "--config", wrong}, 1, "node.idd: unknown field"},
		{"no writer runs", []string{"status", "--data-dir", dir}, 1, "no writer runs here"},
		{"keys are made", []string{"keys", "init", "--dir", filepath.Join(dir, "keys"), "--cluster", "c1"}, 0, "cluster: c1"},
		{"keys are not made twice", []string{"keys", "init", "--dir", filepath.Join(dir, "keys"), "--cluster", "c1"}, 1, "keys exist already"},
		{"version", []string{"version"}, 0, "latchkey-writer"},
		{"help", []string{"--help"}, 0, "latchkey-writer serve --config"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			out, errOut, code := tool(t.Context(), tt.args...)
			if code != tt.code || !strings.Contains(out+errOut, tt.says) {
				t.Errorf("latchkey-writer %s = %d\n%s%s\nwant %d and %q", strings.Join(tt.args, " "), code, out, errOut, tt.code, tt.says)
			}
		})
	}
	if _, errOut, _ := tool(t.Context(), "serve", "--config", wrong); !strings.Contains(errOut, "log.level") || !strings.Contains(errOut, "node.id") {
		t.Errorf("not all mistakes at once: %s", errOut)
	}
}

// TestServe runs a writer by its command, and the operator's commands against it.
func TestServe(t *testing.T) {
	dir, err := os.MkdirTemp("", "lkw") // short, for the socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	keys := filepath.Join(dir, "keys")
	if err := writer.MakeKeys(keys, "c1", entitlement.Environments); err != nil {
		t.Fatal(err)
	}
	raft, public := freeAddress(t), freeAddress(t)
	file := filepath.Join(dir, "writer.yaml")
	text := fmt.Sprintf(`
node: {id: w1, data_dir: %[1]s/w1, cluster: c1, listen: "%[3]s", internal_listen: "127.0.0.1:0", raft_listen: "%[2]s"}
cluster: {voters: [{id: w1, raft: "%[2]s", internal: "http://127.0.0.1:1"}]}
keys: {issuer_key_file: %[1]s/keys/issuer.key.pem, issuer_cert_file: %[1]s/keys/issuer.cert, session_key_files: {sandbox: %[1]s/keys/session-sandbox.key.pem}}
trust: {root_public_keys: [%[1]s/keys/root.pub.pem]}
log: {level: error}
environments: {sandbox: {audience: app, stripe: {webhook_secrets: [whsec_test]}, revenuecat: {authorizations: ["Bearer test"], signing_secrets: [whsec_test]}}}
`, dir, raft, public)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan int, 1)
	go func() {
		_, errOut, code := tool(ctx, "serve", "--config", file)
		if code != 0 {
			t.Errorf("serve = %d %s", code, errOut)
		}
		done <- code
	}()
	deadline := time.Now().Add(time.Minute)
	for {
		var s writer.Status
		out, _, code := tool(t.Context(), "status", "--config", file, "--json")
		if code == 0 && json.Unmarshal([]byte(out), &s) == nil && s.Ready {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("not ready: %s", out)
		}
		<-time.After(10 * time.Millisecond)
	}
	if out, _, code := tool(t.Context(), "status", "--data-dir", filepath.Join(dir, "w1")); code != 0 || !strings.Contains(out, "w1 of c1") || !strings.Contains(out, "leader") {
		t.Errorf("status = %d\n%s", code, out)
	}
	for _, c := range []struct {
		args []string
		code int
		says string
	}{
		{[]string{"status"}, 0, "w1 (leader)"},
		{[]string{"status"}, 0, "MEMBER"},
		{[]string{"join"}, 0, "votes"}, // it does already
		{[]string{"remove", "w9"}, 1, `There is no member "w9"`},
		{[]string{"remove", "w1"}, 1, "W1 is the only voter"},
		{[]string{"transfer", "w1"}, 0, ""},
		{[]string{"transfer", "w9"}, 1, `"w9" is no voter of this cluster`},
	} {
		if out, errOut, code := tool(t.Context(), append(c.args, "--config", file)...); code != c.code || !strings.Contains(out+errOut, c.says) {
			t.Errorf("%s = %d\n%s%s\nwant %d and %q", c.args, code, out, errOut, c.code, c.says)
		}
	}
	key, errOut, code := tool(t.Context(), "keys", "api", "add", "--config", file, "--env", "sandbox", "--name", "backend")
	if code != 0 || !strings.HasPrefix(key, "lk_sandbox_sk_") {
		t.Fatalf("keys api add = %d %s%s", code, key, errOut)
	}
	get := func() int {
		req, err := http.NewRequest("GET", "http://"+public+"/v1/catalog", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+strings.TrimSpace(key))
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		return res.StatusCode
	}
	if status := get(); status != http.StatusOK {
		t.Errorf("the new key = %d", status)
	}
	if _, errOut, code := tool(t.Context(), "keys", "api", "revoke", "--config", file, "--env", "sandbox", "--name", "backend"); code != 0 {
		t.Errorf("keys api revoke = %d %s", code, errOut)
	}
	if status := get(); status != http.StatusUnauthorized {
		t.Errorf("the revoked key = %d", status)
	}
	if out, _, code := tool(t.Context(), "keys", "api", "list", "--config", file); code != 0 || !strings.Contains(out, "backend") || strings.Contains(out, strings.TrimSpace(key)) {
		t.Errorf("keys api list = %d\n%s", code, out)
	}
	t.Run("an import may be repeated", func(t *testing.T) { importIsRepeatable(t, file) })
	t.Run("webhook-test prints what the writer takes, signed and with the header", func(t *testing.T) { revenueCatTest(t, file) })
	t.Run("webhook-test prints what the writer takes", func(t *testing.T) {
		out, errOut, code := tool(t.Context(), "webhook-test", "stripe", "--config", file)
		if code != 0 {
			t.Fatalf("webhook-test = %d %s", code, errOut)
		}
		// The parts of the command, as a shell would hand them to curl.
		quoted := strings.Split(out, "'")
		if len(quoted) != 9 {
			t.Fatalf("not the command that was expected: %s", out)
		}
		req, err := http.NewRequest("POST", quoted[1], strings.NewReader(quoted[7]))
		if err != nil {
			t.Fatal(err)
		}
		name, value, _ := strings.Cut(quoted[5], ": ")
		req.Header.Set(name, value)
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if res.StatusCode != http.StatusOK {
			t.Errorf("the test message = %d", res.StatusCode)
		}
	})
	cancel()
	<-done
}

// lastPort counts the ports that were looked at.
var lastPort atomic.Int64

// freeAddress returns an address that was free a moment ago: the configuration file must name it before anybody listens. It is below those that the system gives
// away, to a connection or to whoever asks for any.
func freeAddress(t *testing.T) string {
	t.Helper()
	for range 1000 {
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", 10000+(int64(os.Getpid())*50+lastPort.Add(1))%1500))
		if err == nil {
			defer l.Close()
			return l.Addr().String()
		}
	}
	t.Fatal("no free port")
	return ""
}
