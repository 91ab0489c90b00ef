package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/latchkey/latchkey/pkg/entitlement"
	"github.com/latchkey/latchkey/writer"
)

// oneWriter makes keys and configuration of a cluster of one, in a folder with a short name, for the socket.
func oneWriter(t *testing.T) (dir, file string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "lkw")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := writer.MakeKeys(filepath.Join(dir, "keys"), "c1", entitlement.Environments); err != nil {
		t.Fatal(err)
	}
	return dir, configure(t, dir, "w1")
}

// configure writes a configuration whose data folder is name.
func configure(t *testing.T, dir, name string) (file string) {
	t.Helper()
	file = filepath.Join(dir, name+".yaml")
	text := fmt.Sprintf(`
node: {id: w1, data_dir: %[1]s/%[4]s, cluster: c1, listen: "%[3]s", internal_listen: "127.0.0.1:0", raft_listen: "%[2]s"}
cluster: {voters: [{id: w1, raft: "%[2]s", internal: "http://127.0.0.1:1"}]}
keys: {issuer_key_file: %[1]s/keys/issuer.key.pem, issuer_cert_file: %[1]s/keys/issuer.cert, session_key_files: {sandbox: %[1]s/keys/session-sandbox.key.pem}}
trust: {root_public_keys: [%[1]s/keys/root.pub.pem]}
log: {level: error}
environments: {sandbox: {audience: app, stripe: {webhook_secrets: [whsec_canary_of_the_backup]}}}
`, dir, freeAddress(t), freeAddress(t), name)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// serve runs a writer until stop, and returns what it says when it is ready.
func serve(t *testing.T, file string) (s writer.Status, stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if _, errOut, code := tool(ctx, "serve", "--config", file); code != 0 {
			t.Errorf("serve = %d %s", code, errOut)
		}
	}()
	stop = func() { cancel(); <-done }
	t.Cleanup(stop)
	for deadline := time.Now().Add(time.Minute); ; {
		out, _, code := tool(t.Context(), "status", "--config", file, "--json")
		if code == 0 && json.Unmarshal([]byte(out), &s) == nil && s.Ready {
			return s, stop
		}
		if time.Now().After(deadline) {
			t.Fatalf("not ready: %s", out)
		}
		<-time.After(10 * time.Millisecond)
	}
}

// must runs a command line that has to end with code and say something.
func must(t *testing.T, code int, says string, args ...string) string {
	t.Helper()
	out, errOut, got := tool(t.Context(), args...)
	if got != code || !strings.Contains(out+errOut, says) {
		t.Errorf("latchkey-writer %s = %d\n%s%s\nwant %d and %q", strings.Join(args, " "), got, out, errOut, code, says)
	}
	return out
}

var stateHash = regexp.MustCompile(`state hash ([0-9a-f]{64})`)

// TestBackupAndRestore takes the operator's way: back up a running writer, check the file, lose the disk, restore, and go on in a new epoch.
func TestBackupAndRestore(t *testing.T) {
	dir, file := oneWriter(t)
	before, stop := serve(t, file)
	key := strings.TrimSpace(must(t, 0, "lk_sandbox_sk_", "keys", "api", "add", "--config", file, "--env", "sandbox", "--name", "backend"))
	backup := filepath.Join(dir, "backup")
	taken := must(t, 0, "revision 1-", "backup", "--config", file, backup)
	info, err := os.Stat(backup)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("backup: %v, %v, want mode 0600", info, err)
	}
	must(t, 1, "exist", "backup", "--config", file, backup)
	must(t, 1, "no such file", "backup", "--config", file, filepath.Join(dir, "nowhere", "backup"))
	piped := must(t, 0, "LKBACK01", "backup", "--config", file, "-")
	if err := os.WriteFile(filepath.Join(dir, "piped"), []byte(piped), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{backup, filepath.Join(dir, "piped")} {
		if checked := must(t, 0, "revision 1-", "fsck", path); stateHash.FindString(checked) != stateHash.FindString(taken) {
			t.Errorf("fsck says %s\nbackup said %s", checked, taken)
		}
	}
	must(t, 0, `"ok": true`, "fsck", "--json", backup)
	must(t, 1, "in use", "fsck", "--config", file)
	must(t, 1, "in use", "restore", "--config", configure(t, dir, "stolen"), "--from-data-dir", filepath.Join(dir, "w1"))
	must(t, 1, "folder is not empty", "restore", "--config", file, backup)

	content, err := os.ReadFile(backup)
	if err != nil {
		t.Fatal(err)
	}
	// The configuration's secrets and the keys themselves are in no backup.
	for _, secret := range []string{"whsec_canary_of_the_backup", key, "PRIVATE KEY"} {
		if strings.Contains(string(content), secret) {
			t.Errorf("the backup holds %q", secret)
		}
	}
	content[len(content)/2] ^= 1
	if err := os.WriteFile(filepath.Join(dir, "torn"), content, 0o600); err != nil {
		t.Fatal(err)
	}
	must(t, 1, "backup does not verify", "fsck", filepath.Join(dir, "torn"))

	stop()
	must(t, 0, "ok       state.db", "fsck", "--config", file)
	must(t, 0, `"damaged": 0`, "fsck", "--data-dir", filepath.Join(dir, "w1"), "--json")
	must(t, 0, "they agree", "replay", "--config", file)
	must(t, 0, "they agree", "replay", "--config", file, "--into", filepath.Join(dir, "again"))
	must(t, 1, "folder is not empty", "replay", "--config", file, "--into", filepath.Join(dir, "again"))
	if err := os.Rename(filepath.Join(dir, "w1"), filepath.Join(dir, "w1.lost")); err != nil {
		t.Fatal(err)
	}
	must(t, 1, "no writer runs here", "backup", "--config", file, filepath.Join(dir, "other"))

	must(t, 0, "voter w1", "restore", "--config", file, backup)
	must(t, 0, "note     restored, and no leader has raised the epoch yet", "fsck", "--config", file)
	after, stop := serve(t, file)
	if after.Epoch <= before.Epoch {
		t.Errorf("restored in epoch %d, it was %d", after.Epoch, before.Epoch)
	}
	must(t, 0, "backend", "keys", "api", "list", "--config", file)
	stop()
	must(t, 0, "they agree", "replay", "--config", file)

	// What is left of the lost disk will do, too.
	saved := configure(t, dir, "saved")
	must(t, 0, "voter w1", "restore", "--config", saved, "--from-data-dir", filepath.Join(dir, "w1.lost"))
	if s, _ := serve(t, saved); s.Epoch <= before.Epoch || s.Revision < before.Revision {
		t.Errorf("recovered to %d-%d, it was %d-%d", s.Epoch, s.Revision, before.Epoch, before.Revision)
	}

	// A damaged folder is named, with the part.
	journal := filepath.Join(dir, "w1", "journal", "00000001.seg")
	if content, err = os.ReadFile(journal); err != nil {
		t.Fatal(err)
	}
	content[len(content)/3] ^= 1
	if err := os.WriteFile(journal, content, 0o600); err != nil {
		t.Fatal(err)
	}
	must(t, 1, "DAMAGED  journal", "fsck", "--config", file)
	must(t, 2, "FILE", "fsck")
	must(t, 2, "FILE", "restore", "--config", file)
	must(t, 2, "FILE", "restore", "--config", file, "--from-data-dir", dir, backup)
}
