package writer

import (
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/latchkey/latchkey/pkg/entitlement"
	"github.com/latchkey/latchkey/pkg/mutual"
	"github.com/latchkey/latchkey/pkg/mutual/mutualtest"
	"github.com/latchkey/latchkey/pkg/token"
)

// secured gives configurations a section tls, with certificates of authority.
func secured(authority *mutualtest.Authority, configs []Config) []Config {
	for i := range configs {
		c := &configs[i]
		files := authority.Files(mutualtest.Writer(c.Node.ID))
		c.TLS = &files
		c.Cluster.Voters = append([]VoterConfig{}, c.Cluster.Voters...)
		for v := range c.Cluster.Voters {
			c.Cluster.Voters[v].Internal = strings.Replace(c.Cluster.Voters[v].Internal, "http:", "https:", 1)
		}
	}
	return configs
}

// nodeClient connects as a node, each time anew.
func nodeClient(conf *tls.Config) *http.Client {
	return &http.Client{Timeout: awaitTimeout, Transport: &http.Transport{TLSClientConfig: conf, DisableKeepAlives: true}}
}

// TestNodesTellEachOtherApart: three writers work together under mutual TLS, whichever of them is asked; an edge gets what edges need, and under its own
// name alone; nobody else gets anything.
func TestNodesTellEachOtherApart(t *testing.T) {
	authority := mutualtest.New(t)
	var writers []*testWriter
	for _, cfg := range secured(authority, testConfigs(t, 3)) {
		writers = append(writers, startWriter(t, cfg))
	}
	for _, w := range writers {
		w.awaitReady()
	}
	acc := writers[0].account()
	for i, w := range writers {
		if r := w.api("PATCH", "/v1/accounts/"+acc, fmt.Sprintf(`{"attributes": {"n": "%d"}}`, i)); r.status != http.StatusOK {
			t.Errorf("write at %s = %d %s", w.cfg.Node.ID, r.status, r.text)
		}
		if r := writers[(i+1)%3].api("GET", "/v1/accounts/"+acc, ""); r.json["attributes"].(object)["n"] != fmt.Sprint(i) {
			t.Errorf("read after the write at %s = %s", w.cfg.Node.ID, r.text)
		}
	}

	w := writers[0]
	base := "https://" + w.InternalAddr().String()
	inCluster := header{clusterHeader: testCluster}
	writersOnly := []string{"POST /internal/v1/propose", "GET /internal/v1/read-index", "GET " + vitalsPath, "GET " + marksPath, "GET " + membersPath + "/w1", "POST " + membersPath, "GET /internal/v1/segments/" + strings.Repeat("0", 64)}
	key, err := token.GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	jwk, err := token.PublicJWK(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	request := func(node string) string {
		b, err := json.Marshal(certificateRequest{Node: node, Environment: entitlement.Sandbox, Audience: "com.example.app/sandbox", JWK: jwk})
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	changes := fmt.Sprintf("GET /internal/v1/changes?epoch=1&after=%d&wait=0", w.store.Position().N)
	tests := []struct {
		name     string
		self     mutual.Peer
		requests []string // method, path
		body     string
		status   int
	}{
		{"an edge replicates", mutualtest.Edge("e1"), []string{"GET /internal/v1/head", changes, "GET /internal/v1/snapshot"}, "", 200},
		{"an edge takes no part in the cluster", mutualtest.Edge("e1"), writersOnly, "", 403},
		{"an edge is certified under its own name", mutualtest.Edge("e1"), []string{"POST /internal/v1/edge-certificates"}, request("e1"), 200},
		{"an edge is not certified under another name", mutualtest.Edge("e1"), []string{"POST /internal/v1/edge-certificates"}, request("e2"), 403},
		{"a writer is no edge", mutualtest.Writer("w2"), []string{"POST /internal/v1/edge-certificates"}, request("w2"), 403},
		{"a writer takes part", mutualtest.Writer("w2"), []string{"GET /internal/v1/head", "GET " + vitalsPath}, "", 200},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			client := nodeClient(authority.Identity(tt.self).Config("", mutualtest.Writer("w1")))
			for _, request := range tt.requests {
				method, path, _ := strings.Cut(request, " ")
				r, err := sendWith(client, method, base+path, tt.body, inCluster)
				if err != nil || r.status != tt.status {
					t.Errorf("%s as %s %s = %d %.300s, %v, want %d", request, tt.self.Role, tt.self.Node, r.status, r.text, err, tt.status)
				}
			}
		})
	}
	await(t, "the edge in /status", func() bool { return strings.Contains(w.get("/status").text, `"id":"e1"`) })
	if status := w.get("/status").text; strings.Contains(status, `"id":"w2","last_seen"`) {
		t.Errorf("a writer is listed as an edge: %s", status)
	}

	strangers := map[string]*http.Client{
		"nobody in particular":         nodeClient(&tls.Config{InsecureSkipVerify: true}),
		"an edge of another authority": nodeClient(mutualtest.New(t).Identity(mutualtest.Edge("e1")).Config("")),
		"a NATS server":                nodeClient(authority.Identity(mutual.Peer{Node: "n1", Role: mutual.RoleNATS}).Config("")),
	}
	for name, client := range strangers {
		for _, request := range append([]string{"GET /internal/v1/head", changes, "GET /internal/v1/snapshot"}, writersOnly...) {
			method, path, _ := strings.Cut(request, " ")
			if r, err := sendWith(client, method, base+path, "", inCluster); err == nil {
				t.Errorf("%s as %s = %d %s, want no answer", request, name, r.status, r.text)
			}
		}
	}
	if r, err := send("GET", "http://"+w.InternalAddr().String()+"/internal/v1/head", "", nil); err == nil && r.status == http.StatusOK {
		t.Errorf("plain HTTP = %d %s, want nothing", r.status, r.text)
	}
	client := nodeClient(authority.Identity(mutualtest.Edge("e1")).Config("", mutualtest.Writer("w2")))
	if _, err := sendWith(client, "GET", base+"/internal/v1/head", "", nil); !errors.Is(err, mutual.ErrPeer) {
		t.Errorf("who wants w2 at w1's address gets %v, want ErrPeer", err)
	}
}

// TestCertificatesAreReplacedUnderRunningWriters changes the authority of three writers that go on working: first all believe both, then each gets a
// certificate of the new one, then the old one is believed no more.
func TestCertificatesAreReplacedUnderRunningWriters(t *testing.T) {
	before, after := mutualtest.New(t), mutualtest.New(t)
	var writers []*testWriter
	for _, cfg := range secured(before, testConfigs(t, 3)) {
		writers = append(writers, startWriter(t, cfg))
	}
	for _, w := range writers {
		w.awaitReady()
	}
	works := func(step string) {
		t.Helper()
		for _, w := range writers {
			w.client.CloseIdleConnections()
			if r := w.api("POST", "/v1/accounts", "{}"); r.status != http.StatusCreated {
				t.Fatalf("%s: write at %s = %d %s", step, w.cfg.Node.ID, r.status, r.text)
			}
		}
	}
	late := before.Identity(mutualtest.Edge("e1"))
	works("before")
	for _, w := range writers {
		mutualtest.Replace(t, w.cfg.TLS.CA, before.Cert(), after.Cert())
		works("both are believed at " + w.cfg.Node.ID)
	}
	for _, w := range writers {
		next := after.Files(mutualtest.Writer(w.cfg.Node.ID))
		mutualtest.Replace(t, w.cfg.TLS.Key, next.Key)
		mutualtest.Replace(t, w.cfg.TLS.Cert, next.Cert)
		works("new certificate of " + w.cfg.Node.ID)
		conn, err := tls.Dial("tcp", w.InternalAddr().String(), after.Identity(mutualtest.Edge("e2")).Config("", mutualtest.Writer(w.cfg.Node.ID)))
		if err != nil {
			t.Fatalf("who believes the new authority alone, at %s: %v", w.cfg.Node.ID, err)
		}
		conn.Close()
	}
	for _, w := range writers {
		mutualtest.Replace(t, w.cfg.TLS.CA, after.Cert())
		works("the new one alone at " + w.cfg.Node.ID)
	}
	client := nodeClient(late.Config(""))
	if r, err := sendWith(client, "GET", "https://"+writers[0].InternalAddr().String()+"/internal/v1/head", "", nil); err == nil {
		t.Errorf("a certificate of the old authority = %d, want no answer", r.status)
	}
	for which, want := range map[string]time.Time{"tls": time.Now().Add(24 * time.Hour), "issuer": time.Unix(writers[0].keys.issuerCert.ExpiresAt, 0)} {
		text := writers[0].metric(`latchkey_writer_certificate_expiry_timestamp_seconds{certificate="` + which + `"}`)
		if at, err := strconv.ParseFloat(text, 64); err != nil || want.Sub(time.Unix(int64(at), 0)).Abs() > time.Hour {
			t.Errorf("certificate %s expires at %s by the metric, %v; want about %d", which, text, err, want.Unix())
		}
	}
}

// TestTLSMistakes shows what is found in the section tls, and what it changes for the addresses.
func TestTLSMistakes(t *testing.T) {
	authority := mutualtest.New(t)
	tests := []struct {
		name   string
		change func(*Config)
		want   []string // fields
	}{
		{"nothing is wrong", func(*Config) {}, nil},
		{"listeners for all the world", func(c *Config) {
			c.Node.InternalListen, c.Node.RaftListen = "0.0.0.0:8421", "10.0.0.1:1"
			c.Cluster.Voters[0].Raft, c.Cluster.Voters[0].Internal = "w1.example.com:8441", "https://w1.example.com:8421"
			c.NATS = NATSConfig{Enabled: true, Listen: "0.0.0.0:4222", ClusterListen: ":6222", Routes: []string{"tls://w2.example.com:6222"}}
		}, nil},
		{"an edge's certificate", func(c *Config) { *c.TLS = authority.Files(mutualtest.Edge("w1")) }, []string{"tls.cert_file"}},
		{"another writer's certificate", func(c *Config) { *c.TLS = authority.Files(mutualtest.Writer("w2")) }, []string{"tls.cert_file"}},
		{"another authority", func(c *Config) { c.TLS.CA = mutualtest.New(t).Cert() }, []string{"tls.cert_file"}},
		{"nothing in the section", func(c *Config) { *c.TLS = mutual.Files{} }, []string{"tls.ca_file", "tls.cert_file", "tls.key_file"}},
		{"a certificate that has expired", func(c *Config) { c.Now = func() time.Time { return time.Now().Add(25 * time.Hour) } }, []string{"tls.cert_file"}},
		{"a voter without TLS", func(c *Config) { c.Cluster.Voters[0].Internal = "http://127.0.0.1:1" }, []string{"cluster.voters[0].internal"}},
		{"a route without TLS", func(c *Config) {
			c.NATS = NATSConfig{Enabled: true, Listen: "127.0.0.1:0", Routes: []string{"nats://127.0.0.1:6222"}}
		}, []string{"nats.routes[0]"}},
		{"no section: a voter elsewhere", func(c *Config) {
			c.TLS = nil
			c.Cluster.Voters[0].Raft, c.Cluster.Voters[0].Internal = "10.0.0.1:1", "http://10.0.0.1:2"
		}, []string{"cluster.voters[0].internal", "cluster.voters[0].raft"}},
		{"no section: a voter and a route with TLS", func(c *Config) {
			c.TLS = nil
			c.NATS = NATSConfig{Enabled: true, Listen: "127.0.0.1:0", Routes: []string{"tls://127.0.0.1:6222"}}
		}, []string{"cluster.voters[0].internal", "nats.routes[0]"}},
		{"no section: a NATS server for all the world", func(c *Config) {
			c.TLS, c.Cluster.Voters[0].Internal = nil, "http://127.0.0.1:1"
			c.NATS = NATSConfig{Enabled: true, Listen: "0.0.0.0:4222", ClusterListen: "10.0.0.1:6222"}
		}, []string{"nats.cluster_listen", "nats.listen"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			cfg := secured(authority, testConfigs(t, 1))[0]
			tt.change(&cfg)
			mistaken(t, &cfg, tt.want)
		})
	}
}
