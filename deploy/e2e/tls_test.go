package e2e

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"go.yaml.in/yaml/v3"

	"github.com/latchkey/latchkey/deploy/stripemsg"
	"github.com/latchkey/latchkey/deploy/system"
	"github.com/latchkey/latchkey/pkg/config"
	"github.com/latchkey/latchkey/pkg/mutual"
	"github.com/latchkey/latchkey/pkg/mutual/mutualtest"
)

// tlsDir is where latchkey-dev --tls keeps the authority and the nodes' files.
func (d *dev) tlsDir() string { return filepath.Join(d.dir, "tls") }

// identity is what a node shows whose files are in the folder.
func identity(t *testing.T, ca, dir string, node mutual.Peer) *mutual.Identity {
	t.Helper()
	cert, key := mutual.NodeFiles(node.Node)
	var m config.Mistakes
	i := mutual.Load(mutual.Files{CA: filepath.Join(ca, mutual.AuthorityCertFile), Cert: filepath.Join(dir, cert), Key: filepath.Join(dir, key)}, node, time.Now, slog.New(slog.DiscardHandler), &m)
	if err := m.Err(); err != nil {
		t.Fatal(err)
	}
	return i
}

// tool runs one of the operators' commands.
func (d *dev) tool(program string, args ...string) string {
	d.t.Helper()
	out, err := exec.Command(filepath.Join(bin, program), args...).CombinedOutput()
	if err != nil {
		d.t.Fatalf("%s %q: %v\n%s", program, args, err, out)
	}
	return string(out)
}

// TestMainJobOverMutualTLS: with --tls everything goes as without, the operator's commands too; changes come over NATS; what passes between the nodes is not
// plain; and whoever has no certificate, or one of another role or authority, gets nothing.
func TestMainJobOverMutualTLS(t *testing.T) {
	t.Parallel()
	d := start(t, t.TempDir(), slices.Concat(threeWriters, []string{"--tls"})...)
	d.mainJobBeforeJudges(t)
	a := d.account("sandbox")
	d.eventually("changes come over NATS", patience, func() error {
		d.mustPost("sandbox", 0, stripemsg.NewSubscription(stripemsg.Classic, a.id, time.Now()).Updated("created", time.Now()))
		return d.sources("nats")
	})
	d.agree()
	if out := d.tool("latchkey-writer", "status", "--config", filepath.Join(d.dir, "config", "w1.yaml")); !strings.Contains(out, "w1 of") {
		t.Errorf("latchkey-writer status says\n%s", out)
	}
	if out := d.tool("latchkey-edge", "status", "--config", filepath.Join(d.dir, "config", "e1.yaml")); !strings.Contains(out, "e1") {
		t.Errorf("latchkey-edge status says\n%s", out)
	}

	t.Run("strangers get nothing from a writer", func(t *testing.T) {
		made := t.TempDir()
		if err := mutual.MakeNode(d.tlsDir(), made, mutual.Peer{Node: "n1", Role: mutual.RoleNATS}, time.Hour, time.Now()); err != nil {
			t.Fatal(err)
		}
		internal := d.internal(t)
		get := func(conf *tls.Config, path string) (int, error) {
			client := &http.Client{Timeout: patience, Transport: &http.Transport{TLSClientConfig: conf, DisableKeepAlives: true}}
			res, err := client.Get("https://" + internal + path)
			if err != nil {
				return 0, err
			}
			return res.StatusCode, res.Body.Close()
		}
		edge := identity(t, d.tlsDir(), d.tlsDir(), mutualtest.Edge("e1")).Config("")
		strangers := map[string]*tls.Config{
			"nobody":                       {InsecureSkipVerify: true},
			"an edge of another authority": mutualtest.New(t).Identity(mutualtest.Edge("e1")).Config(""),
			"another role":                 identity(t, d.tlsDir(), made, mutual.Peer{Node: "n1", Role: mutual.RoleNATS}).Config(""),
		}
		for _, path := range []string{"/internal/v1/head", "/internal/v1/changes?epoch=1&after=0&wait=0", "/internal/v1/snapshot"} {
			if status, err := get(edge, path); err != nil || status != http.StatusOK {
				t.Errorf("GET %s as an edge = %d, %v, want 200", path, status, err)
			}
			for name, conf := range strangers {
				if status, err := get(conf, path); err == nil {
					t.Errorf("GET %s as %s = %d, want no answer", path, name, status)
				}
			}
		}
		if status, err := get(edge, "/internal/v1/read-index"); err != nil || status != http.StatusForbidden {
			t.Errorf("GET /internal/v1/read-index as an edge = %d, %v, want 403", status, err)
		}
		if res, err := d.client.Get("http://" + internal + "/internal/v1/head"); err == nil {
			res.Body.Close()
			if res.StatusCode == http.StatusOK {
				t.Error("GET /internal/v1/head without TLS = 200")
			}
		}
	})

	t.Run("edges may only listen on NATS", func(t *testing.T) {
		conf := identity(t, d.tlsDir(), d.tlsDir(), mutualtest.Edge("e1")).Config("")
		onlyListens(t, d.info().NATS.URLs[0], conf)
	})

	t.Run("an edge of another authority stays empty", func(t *testing.T) {
		status := d.strangeEdge(t, mutualtest.New(t))
		d.eventually("it says why", patience, func() error {
			text, err := status()
			if err == nil && !strings.Contains(text, "tls: bad certificate") {
				err = errors.New(text)
			}
			return err
		})
		text, err := status()
		if err != nil || !strings.Contains(text, `"epoch":0`) || strings.Contains(text, `"expires_at"`) {
			t.Errorf("its status is %s, %v, want no data and no certificate", text, err)
		}
		if seen := d.tool("latchkey-writer", "status", "--config", filepath.Join(d.dir, "config", "w1.yaml")); strings.Contains(seen, "\ne9 ") {
			t.Errorf("the writer knows the stranger:\n%s", seen)
		}
	})
}

// internal is the first writer's internal listener, host:port.
func (d *dev) internal(t *testing.T) string {
	t.Helper()
	return settingsOf(t, filepath.Join(d.dir, "config", "w1.yaml"))["node"].(map[string]any)["internal_listen"].(string)
}

func settingsOf(t *testing.T, path string) map[string]any {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var conf map[string]any
	if err := yaml.Unmarshal(b, &conf); err != nil {
		t.Fatal(err)
	}
	return conf
}

// strangeEdge starts an edge "e9" that is configured like e1, believes the writers' authority, and has a certificate of another one. It returns what reads
// its status.
func (d *dev) strangeEdge(t *testing.T, authority *mutualtest.Authority) func() (string, error) {
	t.Helper()
	files := authority.Files(mutualtest.Edge("e9"))
	mutualtest.Replace(t, files.CA, authority.Cert(), filepath.Join(d.tlsDir(), mutual.AuthorityCertFile))
	conf := settingsOf(t, filepath.Join(d.dir, "config", "e1.yaml"))
	address := net.JoinHostPort("127.0.0.1", freePort(t))
	node := conf["node"].(map[string]any)
	node["id"], node["data_dir"], node["listen"] = "e9", filepath.Join(t.TempDir(), "e9"), address
	conf["tls"] = map[string]any{"ca_file": files.CA, "cert_file": files.Cert, "key_file": files.Key}
	b, err := yaml.Marshal(conf)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "e9.yaml")
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	cmd := exec.Command(filepath.Join(bin, "latchkey-edge"), "serve", "--config", path)
	cmd.Stderr = &log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGTERM)
		if err := cmd.Wait(); err != nil || t.Failed() {
			t.Logf("the strange edge: %v\n%s", err, log.String())
		}
	})
	return func() (string, error) {
		a, err := d.do(context.Background(), http.MethodGet, "http://"+address+"/status", nil, nil)
		return string(a.body), err
	}
}

// onlyListens shows that an edge's connection to NATS hears heads and can say nothing.
func onlyListens(t *testing.T, url string, conf *tls.Config) {
	t.Helper()
	refused := make(chan error, 16)
	conn, err := nats.Connect(url, nats.Secure(conf), nats.Timeout(patience), nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { refused <- err }))
	if err != nil {
		t.Fatalf("an edge connects: %v", err)
	}
	defer conn.Close()
	heads, err := conn.SubscribeSync("lk.head")
	if err != nil {
		t.Fatal(err)
	}
	const forged = "forged"
	for _, subject := range []string{"lk.head", "lk.changes"} {
		if err := conn.Publish(subject, []byte(forged)); err != nil {
			t.Fatal(err)
		}
		select {
		case err := <-refused:
			if !strings.Contains(strings.ToLower(err.Error()), "permissions violation") {
				t.Errorf("an edge publishes on %s: %v, want a violation of permissions", subject, err)
			}
		case <-time.After(patience):
			t.Errorf("an edge may publish on %s", subject)
		}
	}
	for range 2 { // one a second
		if m, err := heads.NextMsg(patience); err != nil || string(m.Data) == forged {
			t.Errorf("an edge hears %v, %v, want heads of the writers", m, err)
		}
	}
}

// TestCertificatesAreRenewedByTheRunbook does what operations.md says, to a system that runs: a writer's certificate is renewed, then the authority is changed in
// three rounds over all nodes. No process ends, and afterwards an edge still follows.
func TestCertificatesAreRenewedByTheRunbook(t *testing.T) {
	t.Parallel()
	d := start(t, t.TempDir(), slices.Concat(threeWriters, []string{"--tls"})...)
	before := d.info()
	work := t.TempDir()
	at := func(parts ...string) string { return filepath.Join(append([]string{work}, parts...)...) }
	ends := func(n system.Node) (time.Time, error) {
		part := "writer"
		if strings.HasPrefix(n.ID, "e") {
			part = "edge"
		}
		a, err := d.do(context.Background(), http.MethodGet, n.URL+"/metrics", nil, nil)
		if err != nil {
			return time.Time{}, err
		}
		_, rest, _ := strings.Cut(string(a.body), "latchkey_"+part+`_certificate_expiry_timestamp_seconds{certificate="tls"} `)
		text, _, _ := strings.Cut(rest, "\n")
		seconds, err := strconv.ParseFloat(text, 64)
		return time.Unix(int64(seconds), 0), err
	}
	renew := func(ca string, n system.Node, days int) {
		t.Helper()
		role := mutual.RoleWriter
		if strings.HasPrefix(n.ID, "e") {
			role = mutual.RoleEdge
		}
		next := at(fmt.Sprint(n.ID, "-", days))
		d.tool("latchkey-writer", "keys", "node", "--ca", ca, "--dir", next, "--id", n.ID, "--role", string(role), "--days", fmt.Sprint(days))
		cert, key := mutual.NodeFiles(n.ID)
		for _, name := range []string{key, cert} {
			mutualtest.Replace(t, filepath.Join(d.tlsDir(), name), filepath.Join(next, name))
		}
		if end, err := ends(n); err != nil || time.Until(end).Round(time.Hour) != time.Duration(days)*24*time.Hour {
			t.Errorf("%s expires at %s after the renewal, %v, want in %d days", n.ID, end, err, days)
		}
	}
	works := func(step string) {
		t.Helper()
		a := d.account("sandbox")
		revision := d.mustPost("sandbox", 1, stripemsg.NewSubscription(stripemsg.Classic, a.id, time.Now()).InvoicePaid(time.Now())).Revision
		for edge := range d.info().Edges {
			if v := d.mustAsk(a, edge, revision); v.Stale {
				t.Errorf("%s: %s is stale", step, d.info().Edges[edge].ID)
			}
		}
	}
	works("before")
	renew(d.tlsDir(), before.Writers[0], 30)
	works("a renewed writer")

	d.tool("latchkey-writer", "keys", "ca", "--dir", at("new-ca"))
	// latchkey-dev gives all nodes one ca_file.
	believed, old, next := filepath.Join(d.tlsDir(), mutual.AuthorityCertFile), at("old.pem"), at("new-ca", mutual.AuthorityCertFile)
	mutualtest.Replace(t, old, believed)
	mutualtest.Replace(t, believed, old, next)
	works("both authorities are believed")
	for _, n := range d.nodes() {
		renew(at("new-ca"), n, 60)
		works("the new authority's certificate at " + n.ID)
	}
	mutualtest.Replace(t, believed, next)
	works("the new authority alone")
	if err := d.read(); err != nil {
		t.Fatal(err)
	}
	for i, n := range append(before.Writers, before.Edges...) {
		if now := d.nodes()[i]; now.PID != n.PID {
			t.Errorf("%s was started again", n.ID)
		}
	}
	// Who comes back has only the new ones to connect with.
	d.kill(d.info().Edges[0])
	d.eventually("the edge is fresh again", patience, func() error {
		a, err := d.do(context.Background(), http.MethodGet, d.info().Edges[0].URL+"/readyz", nil, nil)
		if err == nil && a.status != http.StatusOK {
			err = errors.New(a.String())
		}
		return err
	})
	d.agree()
}

// TestOutsideNATSAsDocumented runs Debian's nats-server with the file of configuration.md: the whole system works over it, and edges only listen.
func TestOutsideNATSAsDocumented(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	ca := filepath.Join(dir, "tls") // where latchkey-dev looks for one before it makes it
	if err := mutual.MakeAuthority(ca, "test", time.Now()); err != nil {
		t.Fatal(err)
	}
	own := t.TempDir()
	if err := mutual.MakeNode(ca, own, mutual.Peer{Node: "nats1", Role: mutual.RoleNATS}, time.Hour, time.Now()); err != nil {
		t.Fatal(err)
	}
	mutualtest.Replace(t, filepath.Join(own, "ca.pem"), filepath.Join(ca, mutual.AuthorityCertFile))
	_, rest, _ := strings.Cut(page(t, "configuration.md"), "<!-- nats.conf -->\n```\n")
	conf, _, found := strings.Cut(rest, "```")
	if !found {
		t.Fatal("the page has no nats.conf")
	}
	conf = strings.ReplaceAll(conf, "/etc/nats", own)
	for _, more := range []string{"w2", "w3", "e2"} { // the page lists one of each
		first := map[byte]string{'w': "w1", 'e': "e1"}[more[0]]
		line := lineWith(t, conf, "user: "+first+",")
		conf = strings.Replace(conf, line, line+strings.Replace(line, first, more, 1), 1)
	}
	path := filepath.Join(own, "nats.conf")
	if err := os.WriteFile(path, []byte(conf), 0o600); err != nil {
		t.Fatal(err)
	}
	port := freePort(t)
	outside := startNATS(t, port, "--config", path)
	url := strings.Replace(outside.url, "nats:", "tls:", 1)
	d := startWith(t, dir, []string{"LATCHKEY_NATS_URLS=" + url}, slices.Concat(threeWriters, []string{"--tls"})...)
	a := d.account("sandbox")
	d.eventually("changes come over NATS", patience, func() error {
		d.mustPost("sandbox", 0, stripemsg.NewSubscription(stripemsg.Classic, a.id, time.Now()).Updated("created", time.Now()))
		return d.sources("nats")
	})
	onlyListens(t, url, identity(t, d.tlsDir(), d.tlsDir(), mutualtest.Edge("e1")).Config(""))
	if conn, err := nats.Connect(url, nats.Secure(mutualtest.New(t).Identity(mutualtest.Edge("e1")).Config("")), nats.MaxReconnects(0)); err == nil {
		conn.Close()
		t.Error("an edge of another authority gets in")
	}
}

// lineWith returns the line of text that contains part, with its end.
func lineWith(t *testing.T, text, part string) string {
	t.Helper()
	for line := range strings.Lines(text) {
		if strings.Contains(line, part) {
			return line
		}
	}
	t.Fatalf("no line with %q in\n%s", part, text)
	return ""
}
