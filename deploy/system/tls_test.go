package system

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/latchkey/latchkey/pkg/mutual"
)

// TestTLSKeepsItsAuthority: a folder may be started without and with TLS. With it every node is given a section tls and addresses to match; the second
// start keeps the authority and makes new certificates.
func TestTLSKeepsItsAuthority(t *testing.T) {
	config := testConfig(t)
	read := func(name string) string {
		t.Helper()
		b, err := os.ReadFile(filepath.Join(config.Dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	run := func() (info Info) {
		s := mustStart(t, config)
		defer s.Stop()
		return s.Info()
	}
	run()
	if conf := read("config/e1.yaml"); strings.Contains(conf, "tls") {
		t.Errorf("without TLS e1 is told of it:\n%s", conf)
	}
	config.TLS = true
	if info := run(); !strings.HasPrefix(info.NATS.URLs[0], "tls://") {
		t.Errorf("NATS is at %s, want tls://", info.NATS.URLs[0])
	}
	for _, id := range []string{"w1", "e1", "e2"} {
		cert, key := mutual.NodeFiles(id)
		conf := read("config/" + id + ".yaml")
		for _, want := range []string{"ca_file: " + filepath.Join(config.Dir, "tls", mutual.AuthorityCertFile), "cert_file: " + filepath.Join(config.Dir, "tls", cert), "key_file: " + filepath.Join(config.Dir, "tls", key), "https://"} {
			if !strings.Contains(conf, want) {
				t.Errorf("the configuration of %s lacks %q:\n%s", id, want, conf)
			}
		}
		if strings.Contains(conf, "http://") || strings.Contains(conf, "nats://") {
			t.Errorf("%s is told of something without TLS:\n%s", id, conf)
		}
	}
	cert, _ := mutual.NodeFiles("w1")
	authority, node := read("tls/"+mutual.AuthorityCertFile), read("tls/"+cert)
	run()
	if read("tls/"+mutual.AuthorityCertFile) != authority {
		t.Error("the second start has another authority")
	}
	if read("tls/"+cert) == node {
		t.Error("the second start has the first one's certificate of w1")
	}
}
