package edge_test

import (
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/latchkey/latchkey/edge"
	"github.com/latchkey/latchkey/pkg/config"
	"github.com/latchkey/latchkey/pkg/entitlement"
	"github.com/latchkey/latchkey/pkg/mutual"
	"github.com/latchkey/latchkey/pkg/mutual/mutualtest"
)

// behind puts the rig's writer behind TLS with a certificate for peer, and lets edges of authority in.
func (r *rig) behind(authority *mutualtest.Authority, peer mutual.Peer) {
	r.t.Helper()
	r.server.Close()
	r.server = httptest.NewUnstartedServer(r.writer)
	conf := authority.Identity(peer).Config("", mutual.Peer{Role: mutual.RoleEdge})
	r.server.Listener = mutual.Listen(r.server.Listener, conf, slog.New(slog.DiscardHandler))
	r.server.Start()
	r.server.URL = strings.Replace(r.server.URL, "http:", "https:", 1)
	r.t.Cleanup(r.server.Close)
}

// TestEdgeKnowsWritersByTheirCertificates: it replicates from a writer of its own authority, and takes nothing from anybody else who answers in a writer's
// place, however right the content.
func TestEdgeKnowsWritersByTheirCertificates(t *testing.T) {
	ours := mutualtest.New(t)
	tests := []struct {
		name      string
		authority *mutualtest.Authority
		answers   mutual.Peer
		says      string // in reasons; empty: it becomes ready
	}{
		{"a writer", ours, mutualtest.Writer("w1"), ""},
		{"another edge", ours, mutualtest.Edge("e2"), mutual.ErrPeer.Error()},
		{"a NATS server", ours, mutual.Peer{Node: "n1", Role: mutual.RoleNATS}, mutual.ErrPeer.Error()},
		{"a writer of another authority", mutualtest.New(t), mutualtest.Writer("w1"), mutual.ErrAuthority.Error()},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t)
			r.behind(tt.authority, tt.answers)
			files := ours.Files(mutualtest.Edge("e1"))
			r.startWith(func(c *edge.Config) { c.TLS = &files })
			if tt.says == "" {
				r.ready()
				return
			}
			until(t, "the reason in /status", func() bool {
				_, body := r.get("/status", nil)
				return strings.Contains(string(body), tt.says)
			})
			if resp, body := r.get("/readyz", nil); resp.StatusCode != http.StatusServiceUnavailable || r.edge.Status().Epoch != 0 {
				t.Errorf("/readyz = %d %s at epoch %d, want 503 without data", resp.StatusCode, body, r.edge.Status().Epoch)
			}
		})
	}
}

// TestExpiredCertificateDoesNotStopAnswers: an edge that is started with one gets nothing new, and answers from its disk all the same.
func TestExpiredCertificateDoesNotStopAnswers(t *testing.T) {
	authority := mutualtest.New(t)
	r := newRig(t)
	r.behind(authority, mutualtest.Writer("w1"))
	r.writer.PutAccount(entitlement.Sandbox, entitlement.Account{ID: alice})
	files := authority.Files(mutualtest.Edge("e1"))
	tls := func(c *edge.Config) { c.TLS = &files }
	r.startWith(tls)
	r.ready()
	r.stop()
	r.server.Close()
	r.clock.Add(25 * time.Hour) // the certificates are for a day
	r.startWith(tls)
	until(t, "what the file lacks is proven", func() bool { return r.edge.Status().Proven })
	if status, a, _ := r.check("", r.writer.Session(entitlement.Sandbox, alice), nil); status != http.StatusOK || a.Revision == "" {
		t.Errorf("check = %d %+v, want an answer from the disk", status, a)
	}
	if _, body := r.get("/status", nil); !strings.Contains(string(body), mutual.ErrExpired.Error()) {
		t.Errorf("/status does not say that the certificate has expired: %s", body)
	}
	if status, body := r.get("/metrics", nil); !strings.Contains(string(body), `latchkey_edge_certificate_expiry_timestamp_seconds{certificate="tls"} 1.`) {
		t.Errorf("/metrics = %d without the end of the certificate", status.StatusCode)
	}
}

func TestTLSMistakes(t *testing.T) {
	authority := mutualtest.New(t)
	tests := []struct {
		name   string
		change func(*edge.Config)
		want   []string // fields
	}{
		{"nothing is wrong", func(*edge.Config) {}, nil},
		{"a certificate that has expired is for the log", func(c *edge.Config) { c.Now = func() time.Time { return time.Now().Add(25 * time.Hour) } }, nil},
		{"a writer's certificate", func(c *edge.Config) { *c.TLS = authority.Files(mutualtest.Writer("e1")) }, []string{"tls.cert_file"}},
		{"another edge's certificate", func(c *edge.Config) { *c.TLS = authority.Files(mutualtest.Edge("e2")) }, []string{"tls.cert_file"}},
		{"nothing in the section", func(c *edge.Config) { *c.TLS = mutual.Files{} }, []string{"tls.ca_file", "tls.cert_file", "tls.key_file"}},
		{"a writer without TLS", func(c *edge.Config) { c.Writers.URLs = []string{"http://127.0.0.1:1"} }, []string{"writers.urls[0]"}},
		{"NATS in the clear to elsewhere", func(c *edge.Config) {
			c.NATS = edge.NATSConfig{Enabled: true, URLs: []string{"nats://127.0.0.1:4222", "tls://nats.example.com:4222", "nats://nats.example.com:4222"}}
		}, []string{"nats.urls[2]"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t)
			r.behind(authority, mutualtest.Writer("w1"))
			files := authority.Files(mutualtest.Edge("e1"))
			cfg := r.config()
			cfg.TLS = &files
			tt.change(&cfg)
			err := cfg.Validate()
			var mistakes config.Mistakes
			if err != nil && !errors.As(err, &mistakes) {
				t.Fatalf("Validate = %v, want config.Mistakes", err)
			}
			var fields []string
			for _, m := range mistakes {
				fields = append(fields, m.Field)
			}
			slices.Sort(fields)
			if !slices.Equal(fields, tt.want) {
				t.Errorf("Validate found %v, want mistakes in %v", err, tt.want)
			}
		})
	}
}
