package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/latchkey/latchkey/pkg/entitlement"
	"github.com/latchkey/latchkey/writer"
)

// childVariable names the configuration of a writer that a test runs as a process of its own.
const childVariable = "LATCHKEY_WRITER_TEST_CHILD"

func TestMain(m *testing.M) {
	if config := os.Getenv(childVariable); config != "" {
		signal.Ignore(syscall.SIGXFSZ) // so that a write past the limit fails, as on a full disk
		go func() {
			// With the first line on standard input every file is as long as it may be.
			if bufio.NewScanner(os.Stdin).Scan() {
				if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &syscall.Rlimit{Cur: 1, Max: 1}); err != nil {
					panic(err)
				}
				fmt.Println("full")
			}
		}()
		os.Exit(run(context.Background(), command(), []string{"serve", "--config", config}))
	}
	os.Exit(m.Run())
}

// TestADiskThatFailsEndsTheProgram: the first write of the log that fails ends it with status 1 and one line that says why; nothing is
// acknowledged any more, and on a disk that works it starts again with all that was.
func TestADiskThatFailsEndsTheProgram(t *testing.T) {
	dir, err := os.MkdirTemp("", "lkw") // short, for the socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := writer.MakeKeys(filepath.Join(dir, "keys"), "c1", entitlement.Environments); err != nil {
		t.Fatal(err)
	}
	config := filepath.Join(dir, "writer.yaml")
	if err := os.WriteFile(config, fmt.Appendf(nil, `
node: {id: w1, data_dir: %[1]s/w1, cluster: c1, listen: "127.0.0.1:0", internal_listen: "127.0.0.1:0", raft_listen: "127.0.0.1:0"}
cluster: {voters: [{id: w1, raft: "%[2]s", internal: "http://127.0.0.1:1"}]}
keys: {issuer_key_file: %[1]s/keys/issuer.key.pem, issuer_cert_file: %[1]s/keys/issuer.cert, session_key_files: {sandbox: %[1]s/keys/session-sandbox.key.pem}}
trust: {root_public_keys: [%[1]s/keys/root.pub.pem]}
log: {level: error}
environments: {sandbox: {audience: app, stripe: {webhook_secrets: [whsec_test]}}}
`, dir, freeAddress(t)), 0o600); err != nil {
		t.Fatal(err)
	}
	start := func() (child *exec.Cmd, say func(), said *bytes.Buffer) {
		t.Helper()
		child = exec.Command(os.Args[0], "-test.run=^$")
		child.Env = append(os.Environ(), childVariable+"="+config)
		said = &bytes.Buffer{}
		child.Stderr = said
		in, err := child.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		out, err := child.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := child.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = child.Process.Kill() })
		deadline := time.Now().Add(time.Minute)
		for {
			var s writer.Status
			text, _, code := tool(t.Context(), "status", "--config", config, "--json")
			if code == 0 && json.Unmarshal([]byte(text), &s) == nil && s.Ready {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("not ready: %s", text)
			}
			<-time.After(10 * time.Millisecond)
		}
		return child, func() {
			fmt.Fprintln(in, "full")
			bufio.NewScanner(out).Scan()
		}, said
	}
	add := func(name string) int {
		_, _, code := tool(t.Context(), "keys", "api", "add", "--config", config, "--env", "sandbox", "--name", name)
		return code
	}
	child, fill, said := start()
	if code := add("before"); code != 0 {
		t.Fatalf("keys api add = %d", code)
	}
	fill()
	if code := add("after"); code != 1 {
		t.Errorf("keys api add on a disk that fails = %d, want 1", code)
	}
	var exit *exec.ExitError
	if err := child.Wait(); !errors.As(err, &exit) || exit.ExitCode() != 1 {
		t.Errorf("the writer ended with %v, want status 1", err)
	}
	if lines := strings.Count(said.String(), "\n"); lines != 1 || !strings.Contains(said.String(), `"msg":"store cannot go on"`) {
		t.Errorf("it said %s, want one line", said)
	}
	child, _, _ = start()
	if out, _, code := tool(t.Context(), "keys", "api", "list", "--config", config); code != 0 || !strings.Contains(out, "before") || strings.Contains(out, "after") {
		t.Errorf("keys api list after a restart = %d %s, want before alone", code, out)
	}
	if err := child.Process.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	_ = child.Wait() // killed
}
