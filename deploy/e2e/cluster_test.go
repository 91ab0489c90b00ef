package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/latchkey/latchkey/deploy/stripemsg"
	"github.com/latchkey/latchkey/deploy/system"
)

// leader returns the writer that leads, in the word of all others.
func (d *dev) leader() (leader system.Node) {
	d.t.Helper()
	d.eventually("all writers name one leader", patience, func() error {
		named := ""
		for _, n := range d.info().Writers {
			a, err := d.do(d.t.Context(), http.MethodGet, n.URL+"/status", nil, nil)
			if err != nil {
				return err
			}
			var s struct {
				Leader string `json:"leader"`
			}
			if err := json.Unmarshal(a.body, &s); err != nil {
				return err
			}
			if s.Leader == "" || named != "" && s.Leader != named {
				return fmt.Errorf("%s names %q, another %q", n.ID, s.Leader, named)
			}
			named = s.Leader
		}
		for _, n := range d.info().Writers {
			if n.ID == named {
				leader = n
			}
		}
		return nil
	})
	return leader
}

// TestLeaderKilledTenTimesUnderLoad: whoever leads is killed as by a power cut, ten times, while messages come in at every writer, and all nodes speak mutual TLS, which
// chaos does without. Every 200 is at every writer afterwards (I1), there is never more than 10 s without one, and both edges end with the writers' state hash
// (I3, I6, I19).
func TestLeaderKilledTenTimesUnderLoad(t *testing.T) {
	t.Parallel()
	d := start(t, t.TempDir(), slices.Concat(threeWriters, []string{"--tls"})...)
	a, before := d.buy("sandbox")
	watched := d.startWatch(a, 0, before.pro(), 0)
	l := d.startLoad(8)
	killed := map[string]int{}
	for range 10 {
		l.progress(50)
		n := d.leader()
		d.kill(n)
		killed[n.ID]++
	}
	l.progress(50)
	l.stop()
	d.agree()
	watched.check(t)
	l.check(t)
	if l.longest > beside*10*time.Second {
		t.Errorf("the longest time without an acknowledgement is %s, want 10 s at most on a machine of its own", l.longest)
	}
	t.Logf("killed %v", killed)
}

// outsideNATS is Debian's nats-server, which knows nothing of Latchkey.
type outsideNATS struct {
	t   *testing.T
	url string
	cmd *exec.Cmd
}

func startNATS(t *testing.T, port string, args ...string) *outsideNATS {
	t.Helper()
	n := &outsideNATS{t: t, url: "nats://127.0.0.1:" + port, cmd: exec.Command("nats-server", append([]string{"--addr", "127.0.0.1", "--port", port}, args...)...)}
	n.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := n.cmd.Start(); err != nil {
		t.Fatalf("start nats-server: %v", err)
	}
	t.Cleanup(n.kill)
	if err := poll(patience, func() error {
		c, err := net.Dial("tcp", "127.0.0.1:"+port)
		if err == nil {
			c.Close()
		}
		return err
	}); err != nil {
		t.Fatalf("nats-server does not listen: %v", err)
	}
	return n
}

// kill ends the server as by a power cut.
func (n *outsideNATS) kill() {
	if n.cmd.ProcessState == nil {
		n.cmd.Process.Kill()
		n.cmd.Wait()
	}
}

func freePort(t *testing.T) string {
	t.Helper()
	for range 50 {
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", 30500+(int64(os.Getpid())*40+nextBlock.Add(1))%2000))
		if err == nil {
			defer l.Close()
			_, port, _ := net.SplitHostPort(l.Addr().String())
			return port
		}
	}
	t.Fatal("no free port")
	return ""
}

// sources says by which way each edge got its newest data.
func (d *dev) sources(want string) error {
	for _, n := range d.info().Edges {
		s, err := d.status(n)
		if err != nil {
			return err
		}
		if s.Source != want {
			return fmt.Errorf("%s has its data by %s", n.ID, s.Source)
		}
	}
	return nil
}

// TestOutsideNATSKilledForGood: with a server that runs elsewhere changes come over NATS. Killed, everything goes on by pull, and a change shows
// at every edge within 2 s of what it would by pull alone; back again, it is used again (I12).
func TestOutsideNATSKilledForGood(t *testing.T) {
	t.Parallel()
	port := freePort(t)
	outside := startNATS(t, port)
	d := startWith(t, t.TempDir(), []string{"LATCHKEY_NATS_URLS=" + outside.url}, threeWriters...)
	if got := d.info().NATS; got == nil || len(got.URLs) != 1 || got.URLs[0] != outside.url {
		t.Errorf("the file names %+v, want %s", got, outside.url)
	}
	a := d.account("sandbox")
	another := func() stripemsg.Object {
		return stripemsg.NewSubscription(stripemsg.Classic, a.id, time.Now()).Updated("created", time.Now())
	}
	overNATS := func() error {
		d.mustPost("sandbox", 1, another())
		return d.sources("nats")
	}
	d.eventually("changes come over NATS", patience, overNATS)

	outside.kill()
	for range 3 {
		revision := d.mustPost("sandbox", 0, another()).Revision
		sent := time.Now()
		for edge := range d.info().Edges {
			d.mustAsk(a, edge, revision)
		}
		// Silence is noticed within 2 s; a second more is for a pull on a busy machine.
		if took := time.Since(sent); took > beside*3*time.Second {
			t.Errorf("with NATS killed a change shows after %s, want 2 s after what pull alone takes, on a machine of its own", took)
		}
	}
	d.eventually("edges pull", patience, func() error { return d.sources("pull") })
	killedAt := time.Now()
	// An edge hands out one signed answer for 5 s, so as_of is seen to move in steps of that.
	d.eventually("as_of goes on", patience, func() error {
		if v := d.mustAsk(a, 0, ""); v.Stale || v.AsOf.Before(killedAt.Truncate(time.Second)) {
			return errors.New("as of " + v.AsOf.String())
		}
		return nil
	})

	startNATS(t, port)
	d.eventually("changes come over NATS again", patience, overNATS)
	d.agree()
}
