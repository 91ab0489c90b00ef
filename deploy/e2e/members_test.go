package e2e

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/latchkey/latchkey/deploy/system"
)

// TestAWriterThatLostItsDiskIsReplacedUnderLoad: under its old id it never takes part again, however often it is started, and the other two go on. A writer
// with a new id joins, gets its vote, and the old id is removed; the newcomer then holds every event that was acknowledged meanwhile.
func TestAWriterThatLostItsDiskIsReplacedUnderLoad(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	d := start(t, dir, threeWriters...)
	l := d.startLoad(4)
	l.progress(20)

	stays := d.leader()
	var lost system.Node
	for _, w := range d.info().Writers {
		if w.ID != stays.ID {
			lost = w
		}
	}
	if err := os.Rename(filepath.Join(dir, lost.ID), filepath.Join(dir, lost.ID+".gone")); err != nil {
		t.Fatal(err)
	}
	d.signal(syscall.SIGKILL, lost)
	d.eventually(lost.ID+" is refused at two starts", patience, func() error {
		text, err := os.ReadFile(filepath.Join(dir, "logs", lost.ID+".log"))
		if n := strings.Count(string(text), "this writer belonged to the cluster already"); err == nil && n < 2 {
			err = fmt.Errorf("%d times so far", n)
		}
		return err
	})
	l.progress(20)

	added := d.addWriter("w4", lost.ID)
	writerTool(t, "join", "--config", d.configOf("w4"))
	writerTool(t, "remove", lost.ID, "--config", d.configOf(stays.ID))
	l.progress(20)
	l.stop()
	for _, p := range l.problems {
		t.Errorf("under load a writer answered %s, want 200 or 503", p)
	}
	if status := writerTool(t, "status", "--json", "--config", d.configOf(stays.ID)); strings.Contains(status, fmt.Sprintf("%q", lost.ID)) {
		t.Errorf("the status still names %s:\n%s", lost.ID, status)
	}
	header := http.Header{"Authorization": {"Bearer " + d.info().Environments["sandbox"].ServerKey}}
	for _, r := range l.acked {
		if a, err := untilTaken(func() (answer, error) {
			return d.do(t.Context(), http.MethodGet, added+"/v1/events/"+r.EventID, header, nil)
		}); err != nil || a.status != http.StatusOK {
			t.Errorf("the new writer on an acknowledged event: %s, %v", a, err)
		}
	}
}

// addWriter runs a writer that is none of the founders until the test ends, and returns its public address. Its configuration is that of a founder, with
// an id, a folder and addresses of its own.
func (d *dev) addWriter(id, founder string) string {
	d.t.Helper()
	b, err := os.ReadFile(d.configOf(founder))
	if err != nil {
		d.t.Fatal(err)
	}
	var config map[string]any
	if err := yaml.Unmarshal(b, &config); err != nil {
		d.t.Fatal(err)
	}
	address := func() string { return "127.0.0.1:" + freePort(d.t) }
	node := config["node"].(map[string]any)
	listen := address()
	node["id"], node["data_dir"] = id, filepath.Join(d.dir, id)
	node["listen"], node["internal_listen"], node["raft_listen"] = listen, address(), address()
	if nats, ok := config["nats"].(map[string]any); ok {
		nats["listen"], nats["cluster_listen"] = address(), address()
	}
	if b, err = yaml.Marshal(config); err == nil {
		err = os.WriteFile(d.configOf(id), b, 0o600)
	}
	if err != nil {
		d.t.Fatal(err)
	}
	out, err := os.Create(filepath.Join(d.dir, "logs", id+".log"))
	if err != nil {
		d.t.Fatal(err)
	}
	cmd := exec.Command(filepath.Join(bin, "latchkey-writer"), "serve", "--config", d.configOf(id))
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
		_ = out.Close()
	})
	d.eventually(id+" answers", patience, func() error {
		_, err := d.do(context.Background(), http.MethodGet, "http://"+listen+"/healthz", nil, nil)
		return err
	})
	return "http://" + listen
}
