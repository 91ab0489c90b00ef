package edge_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/latchkey/latchkey/edge"
	"github.com/latchkey/latchkey/pkg/config"
)

// public is the certificate that apps see, in files.
type public struct {
	t     testing.TB
	dir   string
	pool  *x509.CertPool
	files edge.HTTPSConfig
}

func newPublic(t testing.TB) *public {
	t.Helper()
	p := &public{t: t, dir: t.TempDir(), pool: x509.NewCertPool()}
	p.files = edge.HTTPSConfig{CertFile: filepath.Join(p.dir, "cert.pem"), KeyFile: filepath.Join(p.dir, "key.pem")}
	p.issue("first", time.Now().Add(time.Hour))
	return p
}

// issue puts a new pair in place, as an operator does: each file by rename.
func (p *public) issue(name string, ends time.Time) {
	p.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		p.t.Fatal(err)
	}
	p.replace(p.files.KeyFile, "PRIVATE KEY", must(x509.MarshalPKCS8PrivateKey(key)))
	p.replace(p.files.CertFile, "CERTIFICATE", p.certificate(name, ends, &key.PublicKey, key))
}

func (p *public) certificate(name string, ends time.Time, pub, signer any) []byte {
	p.t.Helper()
	template := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, DNSNames: []string{"edge.example.com"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: ends, KeyUsage: x509.KeyUsageDigitalSignature, BasicConstraintsValid: true, IsCA: true}
	der := must(x509.CreateCertificate(rand.Reader, template, template, pub, signer))
	p.pool.AddCert(must(x509.ParseCertificate(der)))
	return der
}

func (p *public) replace(path, kind string, der []byte) {
	p.t.Helper()
	if err := os.WriteFile(path+".new", pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		p.t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		p.t.Fatal(err)
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// app is a client that keeps session tickets.
func (p *public) app() *tls.Config {
	return &tls.Config{RootCAs: p.pool, ServerName: "edge.example.com", ClientSessionCache: tls.NewLRUClientSessionCache(4)}
}

// open is an app that opens: a new connection and one request. It returns what the connection came to. One that takes longer than the edge waits for a request, as
// on a machine that is too busy, is let go, and opens again.
func (p *public) open(address string, conf *tls.Config) (tls.ConnectionState, error) {
	for end := time.Now().Add(time.Minute); ; {
		began := time.Now()
		state, err := p.connect(address, conf)
		if err == nil || time.Since(began) < 3*time.Second || time.Now().After(end) {
			return state, err
		}
	}
}

func (p *public) connect(address string, conf *tls.Config) (tls.ConnectionState, error) {
	conn, err := tls.DialWithDialer(&net.Dialer{Timeout: 30 * time.Second}, "tcp", address, conf)
	if err != nil {
		return tls.ConnectionState{}, err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(30 * time.Second))
	if _, err := io.WriteString(conn, "GET /healthz HTTP/1.1\r\nHost: edge.example.com\r\nConnection: close\r\n\r\n"); err != nil {
		return tls.ConnectionState{}, err
	}
	answer, err := io.ReadAll(conn) // the ticket comes with it
	if err == nil && !strings.HasPrefix(string(answer), "HTTP/1.1 200") {
		err = errors.New(string(answer))
	}
	return conn.ConnectionState(), err
}

// overTLS starts the rig's edge with a certificate for apps.
func overTLS(t *testing.T, change func(*edge.Config)) (*rig, *public) {
	t.Helper()
	r, p := newRig(t), newPublic(t)
	r.startWith(func(cfg *edge.Config) {
		cfg.HTTPS = &p.files
		change(cfg)
	})
	return r, p
}

func (r *rig) address() string { return r.edge.Addr().String() }

// TestAppsReachTheEdgeOverTLS: TLS 1.3 with a P-256 certificate and nothing below; what is sent in the clear is no request.
func TestAppsReachTheEdgeOverTLS(t *testing.T) {
	t.Parallel()
	r, p := overTLS(t, func(*edge.Config) {})
	state, err := p.open(r.address(), p.app())
	if err != nil || state.Version != tls.VersionTLS13 || state.PeerCertificates[0].Subject.CommonName != "first" {
		t.Fatalf("open = %x, %v", state.Version, err)
	}
	old := p.app()
	old.MaxVersion = tls.VersionTLS12
	if _, err := p.open(r.address(), old); err == nil {
		t.Error("TLS 1.2 was spoken")
	}
	client := p.app()
	client.NextProtos = []string{"h2", "http/1.1"}
	if state, err := p.open(r.address(), client); err != nil || state.NegotiatedProtocol != "http/1.1" {
		t.Errorf("protocol = %q, %v, want http/1.1", state.NegotiatedProtocol, err)
	}
	if resp, err := http.Get("http://" + r.address() + "/healthz"); err == nil {
		resp.Body.Close()
		t.Errorf("in the clear = %d, want no answer", resp.StatusCode)
	}
	if _, err := p.open(r.address(), p.app()); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

// TestCertificateFilesAreReadAgain: a new pair is shown to the next app without a restart, half a pair is not, and apps that hold a ticket resume all the while.
func TestCertificateFilesAreReadAgain(t *testing.T) {
	t.Parallel()
	r, p := overTLS(t, func(*edge.Config) {})
	app := p.app()
	if state, err := p.open(r.address(), app); err != nil || state.DidResume {
		t.Fatalf("first open: resumed %t, %v", state.DidResume, err)
	}
	shown := func() string {
		state, err := p.open(r.address(), p.app()) // without a ticket
		if err != nil {
			t.Fatal(err)
		}
		return state.PeerCertificates[0].Subject.CommonName
	}
	resumes := func(when string) {
		t.Helper()
		if state, err := p.open(r.address(), app); err != nil || !state.DidResume {
			t.Errorf("%s: resumed %t, %v", when, state.DidResume, err)
		}
	}
	resumes("before")
	p.issue("second", time.Now().Add(2*time.Hour))
	until(t, "the second certificate is shown", func() bool { return shown() == "second" })
	resumes("after the certificate was replaced")

	other := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	p.replace(p.files.KeyFile, "PRIVATE KEY", must(x509.MarshalPKCS8PrivateKey(other)))
	looked := time.NewTimer(1100 * time.Millisecond) // longer than the files are left alone; nothing tells that they were looked at
	<-looked.C
	if got := shown(); got != "second" {
		t.Errorf("with half a pair in place %q is shown, want the last whole one", got)
	}
	p.issue("third", time.Now().Add(3*time.Hour))
	until(t, "the third certificate is shown", func() bool { return shown() == "third" })
	resumes("after the third")
}

// TestTicketsAreSharedAndRotate: with the same secret an app resumes at another edge, and a day later; two days later, or with another secret, it does not.
func TestTicketsAreSharedAndRotate(t *testing.T) {
	t.Parallel()
	secret := filepath.Join(t.TempDir(), "tickets")
	if err := os.WriteFile(secret, []byte(strings.Repeat("s", 32)), 0o600); err != nil {
		t.Fatal(err)
	}
	p := newPublic(t)
	p.files.TicketSecretFile = secret
	now := newClock().Now() // of all of them: another day would be another key
	begin := func(file string, ahead time.Duration) *rig {
		r := newRig(t)
		r.clock.now = now
		r.writer.SetDown(true) // its certificates end before this clock does
		r.clock.Add(ahead)
		files := p.files
		files.TicketSecretFile = file
		r.startWith(func(cfg *edge.Config) { cfg.HTTPS = &files })
		return r
	}
	other := filepath.Join(t.TempDir(), "tickets")
	if err := os.WriteFile(other, []byte(strings.Repeat("o", 32)), 0o600); err != nil {
		t.Fatal(err)
	}
	const day = 24 * time.Hour
	first := begin(secret, 0)
	for _, tt := range []struct {
		name    string
		edge    *rig
		resumes bool
	}{
		{"another edge", begin(secret, 0), true},
		{"an edge whose clock is a day ahead", begin(secret, day), true},
		{"two days later", begin(secret, 2*day), false},
		{"an edge with another secret", begin(other, 0), false},
		{"an edge with keys of its own", begin("", 0), false},
	} {
		app := p.app()
		if _, err := p.open(first.address(), app); err != nil {
			t.Fatal(err)
		}
		if state, err := p.open(tt.edge.address(), app); err != nil || state.DidResume != tt.resumes {
			t.Errorf("%s: resumed %t, %v, want %t", tt.name, state.DidResume, err, tt.resumes)
		}
	}
	app := p.app()
	if _, err := p.open(first.address(), app); err != nil {
		t.Fatal(err)
	}
	for range 3 { // the same edge, day by day: the ticket is made anew each time
		first.clock.Add(day)
		looked := time.NewTimer(1050 * time.Millisecond)
		<-looked.C
		if state, err := p.open(first.address(), app); err != nil || !state.DidResume {
			t.Errorf("a day later: resumed %t, %v", state.DidResume, err)
		}
	}
}

// TestHTTPSMistakes: all of them at once, with their fields; an expired certificate is none, but is told.
func TestHTTPSMistakes(t *testing.T) {
	t.Parallel()
	p := newPublic(t)
	rsaKey := must(rsa.GenerateKey(rand.Reader, 2048))
	big := filepath.Join(p.dir, "big")
	secret := filepath.Join(p.dir, "short")
	open := filepath.Join(p.dir, "open.pem")
	for path, text := range map[string]string{secret: "too short", big: strings.Repeat("x", 5<<10), open: string(must(os.ReadFile(p.files.KeyFile)))} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(open, 0o644); err != nil {
		t.Fatal(err)
	}
	rsaFiles := edge.HTTPSConfig{CertFile: filepath.Join(p.dir, "rsa.pem"), KeyFile: filepath.Join(p.dir, "rsa.key.pem")}
	p.replace(rsaFiles.KeyFile, "PRIVATE KEY", must(x509.MarshalPKCS8PrivateKey(rsaKey)))
	p.replace(rsaFiles.CertFile, "CERTIFICATE", p.certificate("rsa", time.Now().Add(time.Hour), &rsaKey.PublicKey, rsaKey))
	tests := []struct {
		name  string
		files edge.HTTPSConfig
		want  []string
	}{
		{"nothing given", edge.HTTPSConfig{}, []string{"https.cert_file: is missing", "https.key_file: is missing"}},
		{"files that are not there", edge.HTTPSConfig{CertFile: p.dir + "/x", KeyFile: p.dir + "/y"}, []string{"https.cert_file", "https.key_file"}},
		{"a key of another certificate", edge.HTTPSConfig{CertFile: p.files.CertFile, KeyFile: rsaFiles.KeyFile}, []string{"are no pair"}},
		{"an RSA key", rsaFiles, []string{"https.cert_file: " + rsaFiles.CertFile + " is not of an ECDSA key on P-256"}},
		{"a key that others may read", edge.HTTPSConfig{CertFile: p.files.CertFile, KeyFile: open}, []string{"https.key_file", "0644"}},
		{"a short secret for tickets", edge.HTTPSConfig{CertFile: p.files.CertFile, KeyFile: p.files.KeyFile, TicketSecretFile: secret}, []string{"https.ticket_secret_file", "want 32"}},
		{"a secret that is none", edge.HTTPSConfig{CertFile: p.files.CertFile, KeyFile: p.files.KeyFile, TicketSecretFile: big}, []string{"larger than"}},
	}
	for _, tt := range tests {
		cfg := newRig(t).config()
		cfg.HTTPS = &tt.files
		err := cfg.Validate()
		var mistakes config.Mistakes
		if !errors.As(err, &mistakes) {
			t.Errorf("%s: Validate = %v, want mistakes", tt.name, err)
			continue
		}
		for _, want := range tt.want {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%s: Validate = %v, want %q", tt.name, err, want)
			}
		}
	}
	p.issue("over", time.Now().Add(-time.Minute))
	r := newRig(t)
	r.startWith(func(cfg *edge.Config) { cfg.HTTPS = &p.files })
	if got := r.edge.Status().Reasons; !strings.Contains(strings.Join(got, " "), "https.cert_file: the certificate has expired") {
		t.Errorf("reasons of an edge with an expired certificate = %q", got)
	}
}

// TestManyHandshakesAtOnce: apps that open together are all served, while the files are being replaced.
func TestManyHandshakesAtOnce(t *testing.T) {
	t.Parallel()
	r, p := overTLS(t, func(*edge.Config) {})
	conf := p.app()
	conf.ClientSessionCache = nil
	conf.InsecureSkipVerify = true // the pool is written to meanwhile
	var apps sync.WaitGroup
	for range 8 {
		apps.Go(func() {
			for range 20 {
				if _, err := p.open(r.address(), conf); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for range 5 {
		p.issue("next", time.Now().Add(time.Hour))
	}
	apps.Wait()
}
