package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/latchkey/latchkey/deploy/stripemsg"
	"github.com/latchkey/latchkey/deploy/system"
)

// writerTool runs a command of latchkey-writer and returns what it printed.
func writerTool(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.Command(filepath.Join(bin, "latchkey-writer"), args...).CombinedOutput()
	if err != nil {
		t.Fatalf("latchkey-writer %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

func (d *dev) configOf(id string) string { return filepath.Join(d.dir, "config", id+".yaml") }

// TestAllDisksAreLostAndABackupFoundsANewHistory: a backup is taken under load, all writers lose their disks, each is restored from the file. Everything
// that was acknowledged before the backup is there, edges take up the new epoch and never go back, apps keep their sessions, and a writer whose
// disk turns up again finds out and stops for good.
func TestAllDisksAreLostAndABackupFoundsANewHistory(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	d := start(t, dir, "--writers", "3", "--edges", "2")
	a, sold := d.buy("sandbox")
	l := d.startLoad(4)
	l.progress(40)
	l.mu.Lock()
	before := slices.Clone(l.acked)
	l.mu.Unlock()
	backup := filepath.Join(t.TempDir(), "backup")
	writerTool(t, "backup", "--config", d.configOf("w2"), backup)
	l.progress(20)
	l.stop()
	lost := d.mustPost("sandbox", 0, stripemsg.NewSubscription(stripemsg.Basil, a.id, time.Now()).Updated("created", time.Now()))
	old := d.agree()
	d.noSecrets(backup, a)
	d.stop()

	aside := filepath.Join(dir, "w3.old")
	if err := os.Rename(filepath.Join(dir, "w3"), aside); err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"w1", "w2", "w3"} {
		if err := os.RemoveAll(filepath.Join(dir, id)); err != nil {
			t.Fatal(err)
		}
		writerTool(t, "restore", "--config", d.configOf(id), backup)
		writerTool(t, "fsck", "--config", d.configOf(id))
	}
	d = start(t, dir, "--writers", "3", "--edges", "2")
	now := d.agree()
	if now.Epoch <= old.Epoch || now.Epoch > uint64(time.Now().Unix()) {
		t.Errorf("the epoch is %d, before the restore it was %d: want about the time of the restore", now.Epoch, old.Epoch)
	}
	l.d, l.acked, l.problems = d, before, nil
	l.check(t)
	d.sessionsGoOn(a, sold)
	if got, err := d.ask(a, 0, "?min_revision="+lost.Revision); err != nil || got.problem() != "other-history" {
		t.Errorf("min_revision of the old epoch: %s, %v, want other-history", got, err)
	}
	for _, n := range d.info().Edges {
		if s, err := d.status(n); err != nil || s.Epoch != now.Epoch {
			t.Errorf("%s is at %+v, %v, want epoch %d", n.ID, s, err, now.Epoch)
		}
	}
	// An event of before the backup is known still (I2); one that was lost with the disks is new when the provider sends it again.
	next, _ := d.buy("sandbox")
	d.superseded(aside)
	d.sessionsGoOn(next, sold)
	if after := d.agree(); after.Epoch != now.Epoch {
		t.Errorf("the old writer moved the epoch to %d", after.Epoch)
	}
}

// noSecrets shows that what an attacker could use is not in a file.
func (d *dev) noSecrets(path string, a account) {
	d.t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		d.t.Fatal(err)
	}
	never := map[string][]byte{"a session token": []byte(a.session), "a private key in PEM": []byte("PRIVATE KEY")}
	for name, env := range d.info().Environments {
		never["the server key of "+name], never["the webhook secret of "+name] = []byte(env.ServerKey), []byte(env.Webhooks["stripe"].Secret)
	}
	keys, err := filepath.Glob(filepath.Join(d.dir, "keys", "*.key.pem"))
	if err != nil || len(keys) < 3 {
		d.t.Fatalf("keys %v, %v", keys, err)
	}
	for _, key := range keys {
		scalar, err := privateScalar(key)
		if err != nil {
			d.t.Fatal(err)
		}
		never["the private key of "+filepath.Base(key)] = scalar
	}
	for what, canary := range never {
		for _, text := range append([][]byte{content}, unpack(content)...) {
			if bytes.Contains(text, canary) {
				d.t.Errorf("the backup holds %s", what)
			}
		}
	}
}

// sessionsGoOn shows that a session of before answers at every edge with what was bought.
func (d *dev) sessionsGoOn(a account, want view) {
	d.t.Helper()
	for edge, n := range d.info().Edges {
		if v := d.mustAsk(a, edge, ""); !v.pro().Active || v.Token == "" || v.pro().Plan != want.pro().Plan {
			d.t.Errorf("%s answers %+v, want pro active and a token", n.ID, v)
		}
	}
}

// superseded starts the writer of the old history whose data folder was set aside, and shows that it stops and never starts again.
func (d *dev) superseded(aside string) {
	d.t.Helper()
	address := "127.0.0.1:" + freePort(d.t)
	var said bytes.Buffer
	serve := func() *exec.Cmd {
		cmd := exec.Command(filepath.Join(bin, "latchkey-writer"), "serve", "--config", d.configOf("w3"))
		cmd.Env = append(os.Environ(), "LATCHKEY_NODE_DATA_DIR="+aside, "LATCHKEY_NODE_LISTEN="+address, "LATCHKEY_NODE_INTERNAL_LISTEN=127.0.0.1:"+freePort(d.t),
			"LATCHKEY_NODE_RAFT_LISTEN=127.0.0.1:"+freePort(d.t), "LATCHKEY_NATS_ENABLED=false")
		cmd.Stdout, cmd.Stderr = &said, &said
		if err := cmd.Start(); err != nil {
			d.t.Fatal(err)
		}
		return cmd
	}
	first := serve()
	ended := false
	d.t.Cleanup(func() {
		if !ended {
			first.Process.Kill()
			first.Wait()
		}
	})
	url := "http://" + address
	d.eventually("the old writer says that it is superseded", patience, func() error {
		got, err := d.do(d.t.Context(), http.MethodGet, url+"/readyz", nil, nil)
		if err != nil {
			return err
		}
		if got.status != http.StatusServiceUnavailable || !bytes.Contains(got.body, []byte(`"superseded"`)) {
			return errors.New(got.String())
		}
		return nil
	})
	if got, err := d.do(d.t.Context(), http.MethodGet, url+"/v1/catalog", http.Header{"Authorization": {"Bearer " + d.info().Environments["sandbox"].ServerKey}}, nil); err != nil || got.status != http.StatusServiceUnavailable {
		d.t.Errorf("a read of the superseded writer: %s, %v, want 503", got, err)
	}
	first.Process.Signal(syscall.SIGTERM)
	if err := first.Wait(); err != nil {
		d.t.Errorf("the superseded writer ended with %v:\n%s", err, said.String())
	}
	ended = true
	second := serve()
	if err := second.Wait(); second.ProcessState.ExitCode() != 1 || !strings.Contains(said.String(), "superseded") {
		d.t.Errorf("its second start = %v, want 1 and why:\n%s", err, said.String())
	}
	writerTool(d.t, "fsck", "--data-dir", aside)
}

// TestAMajorityIsLostAndOneWriterGoesOn: two of three disks are gone. The third writer's data founds the new history, and nothing that it had is lost.
func TestAMajorityIsLostAndOneWriterGoesOn(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	d := start(t, dir, "--writers", "3", "--edges", "1")
	a, sold := d.buy("sandbox")
	l := d.startLoad(2)
	l.progress(20)
	l.stop()
	old := d.agree() // so that the survivor has everything: else what only the two had would be gone
	d.stop()
	aside := filepath.Join(dir, "w3.lost")
	if err := os.Rename(filepath.Join(dir, "w3"), aside); err != nil {
		t.Fatal(err)
	}
	writerTool(t, "restore", "--config", d.configOf("w3"), "--from-data-dir", aside)
	// It runs alone: what the other two would do without their disks is another matter.
	out, err := os.Create(filepath.Join(dir, "logs", "alone.log"))
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	alone := exec.Command(filepath.Join(bin, "latchkey-writer"), "serve", "--config", d.configOf("w3"))
	alone.Stdout, alone.Stderr = out, out
	if err := alone.Start(); err != nil {
		t.Fatal(err)
	}
	edge := exec.Command(filepath.Join(bin, "latchkey-edge"), "serve", "--config", d.configOf("e1"))
	if err := edge.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, cmd := range []*exec.Cmd{alone, edge} {
			cmd.Process.Signal(syscall.SIGTERM)
			cmd.Wait()
		}
	})
	info := d.info()
	info.Writers = []system.Node{info.Writers[2]}
	d.now.Store(&info)
	var now nodeStatus
	d.eventually("writer and edge are in the new epoch", patience, func() (err error) {
		for _, n := range d.nodes() {
			if now, err = d.status(n); err != nil {
				return err
			}
			if now.Epoch <= old.Epoch || now.Revision < old.Revision {
				return fmt.Errorf("%s is at %d-%d, before it was %d-%d", n.ID, now.Epoch, now.Revision, old.Epoch, old.Revision)
			}
		}
		return nil
	})
	l.check(t)
	d.sessionsGoOn(a, sold)
	if _, v := d.buy("sandbox"); !v.pro().Active {
		t.Error("nothing can be bought any more")
	}
}
