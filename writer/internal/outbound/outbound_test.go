package outbound

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"math/big"
	"mime"
	"mime/quotedprintable"
	"net"
	"net/http"
	"net/http/httptest"
	"net/mail"
	"net/textproto"
	"strings"
	"sync"
	"testing"
	"time"
)

var message = Message{ID: "mail_1", To: "ann@example.com", Subject: "Your link – open it", Text: "Hello Änn,\n.\nhttps://app.example.com/?t=lkl_secret\n", Token: "lkl_secret"}

// mailServer is an SMTP server on loopback.
type mailServer struct {
	t       *testing.T
	address string
	tls     *tls.Config // nil: it offers no STARTTLS

	mu      sync.Mutex
	answers []string // to the next recipients; none left: 250
	tries   int
	got     []string // the texts that were taken, as they came
	secure  bool     // the last one came over TLS
	auth    string   // what it authenticated with
}

func startMail(t *testing.T, secure bool, answers ...string) (*mailServer, *x509.CertPool) {
	t.Helper()
	s := &mailServer{t: t, answers: answers}
	roots := x509.NewCertPool()
	if secure {
		certificate := ownCertificate(t, roots)
		s.tls = &tls.Config{Certificates: []tls.Certificate{certificate}}
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.address = l.Addr().String()
	var served sync.WaitGroup
	served.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			served.Go(func() { s.serve(conn) })
		}
	})
	t.Cleanup(func() { l.Close(); served.Wait() })
	return s, roots
}

// ownCertificate makes a certificate of this machine, in which roots believe from then on.
func ownCertificate(t *testing.T, roots *x509.CertPool) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	roots.AddCert(cert)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func (s *mailServer) serve(conn net.Conn) {
	defer func() { conn.Close() }()
	text, secure := textproto.NewConn(conn), false
	say := func(line string) { _ = text.PrintfLine("%s", line) }
	say("220 loopback ESMTP")
	for {
		line, err := text.ReadLine()
		if err != nil {
			return
		}
		verb, rest, _ := strings.Cut(line, " ")
		switch strings.ToUpper(verb) {
		case "EHLO":
			say("250-loopback")
			if s.tls != nil && !secure {
				say("250-STARTTLS")
			} else {
				say("250-AUTH PLAIN")
			}
			say("250 8BITMIME")
		case "STARTTLS":
			say("220 go on")
			over := tls.Server(conn, s.tls)
			if over.Handshake() != nil {
				return
			}
			conn, text, secure = over, textproto.NewConn(over), true
		case "AUTH":
			s.mu.Lock()
			s.auth = rest
			s.mu.Unlock()
			say("235 welcome")
		case "RCPT":
			s.mu.Lock()
			s.tries++
			answer := "250 ok"
			if len(s.answers) > 0 {
				answer, s.answers = s.answers[0], s.answers[1:]
			}
			s.mu.Unlock()
			say(answer)
		case "DATA":
			say("354 go on")
			b, err := io.ReadAll(text.DotReader())
			if err != nil {
				return
			}
			s.mu.Lock()
			s.got, s.secure = append(s.got, string(b)), secure
			s.mu.Unlock()
			say("250 taken")
		case "QUIT":
			say("221 bye")
			return
		default:
			say("250 ok")
		}
	}
}

// TestMailOverSTARTTLS: what arrives is what was sent, over TLS, with a password that only goes through it.
func TestMailOverSTARTTLS(t *testing.T) {
	s, roots := startMail(t, true)
	carrier := SMTP{Address: s.address, From: "links@example.com", Username: "u", Password: "p", Roots: roots}
	if err := Send(t.Context(), carrier, message); err != nil {
		t.Fatalf("Send: %v", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.got) != 1 || !s.secure || !strings.HasPrefix(s.auth, "PLAIN ") {
		t.Fatalf("%d messages, over TLS %t, authenticated with %q", len(s.got), s.secure, s.auth)
	}
	got, err := mail.ReadMessage(bufio.NewReader(strings.NewReader(s.got[0])))
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(quotedprintable.NewReader(got.Body))
	subject, subjectErr := new(mime.WordDecoder).DecodeHeader(got.Header.Get("Subject"))
	if err = errors.Join(err, subjectErr); err != nil || strings.TrimSpace(string(body)) != strings.TrimSpace(message.Text) || subject != message.Subject ||
		got.Header.Get("To") != "<ann@example.com>" || got.Header.Get("Message-ID") != "<mail_1@example.com>" {
		t.Errorf("arrived: %v %q %v, %v", got.Header, body, subject, err)
	}
}

// TestMailIsTriedAgainWhereThatHelps: and nothing that is said shows the address.
func TestMailIsTriedAgainWhereThatHelps(t *testing.T) {
	const later, never = "451 <ann@example.com> later", "550 <ann@example.com> unknown"
	tests := []struct {
		name    string
		secure  bool
		answers []string
		change  func(*SMTP, *Message)
		tries   int
		taken   int
		refused bool
	}{
		{"at once", true, nil, nil, 1, 1, false},
		{"after two that pass", true, []string{later, later}, nil, 3, 1, false},
		{"never more than four times", true, []string{later, later, later, later, later}, nil, 4, 0, false},
		{"a no is a no", true, []string{never}, nil, 1, 0, true},
		{"no TLS, no mail", false, nil, nil, 0, 0, true},
		{"but to this machine's own server, where that is wished", false, nil, func(s *SMTP, _ *Message) { s.Plain = true }, 1, 1, false},
		{"a certificate of nobody", true, nil, func(s *SMTP, _ *Message) { s.Roots = x509.NewCertPool() }, 0, 0, false},
		{"a header in the subject", true, nil, func(_ *SMTP, m *Message) { m.Subject = "x\r\nBcc: eve@example.com" }, 0, 0, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s, roots := startMail(t, tt.secure, tt.answers...)
			carrier, m := SMTP{Address: s.address, From: "links@example.com", Roots: roots}, message
			if tt.change != nil {
				tt.change(&carrier, &m)
			}
			err := Send(t.Context(), carrier, m)
			s.mu.Lock()
			defer s.mu.Unlock()
			if s.tries != tt.tries || len(s.got) != tt.taken || (err == nil) != (tt.taken == 1) || errors.Is(err, ErrRefused) != tt.refused {
				t.Errorf("Send = %v after %d tries, %d taken, want %d and %d, refused %t", err, s.tries, len(s.got), tt.tries, tt.taken, tt.refused)
			}
			if err != nil && (strings.Contains(err.Error(), "ann@") || strings.Contains(err.Error(), "lkl_")) {
				t.Errorf("the error shows what is the person's: %v", err)
			}
		})
	}
}

// TestAServerThatHangsIsLeft: when who waits has gone.
func TestAServerThatHangsIsLeft(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0") // accepts in the kernel, and says nothing
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := Send(ctx, SMTP{Address: l.Addr().String(), From: "a@b.example", Plain: true}, message); err == nil {
		t.Error("Send to a server that hangs = nil")
	}
}

// TestWebhook: signed, under one id, tried again where that helps.
func TestWebhook(t *testing.T) {
	for name, tt := range map[string]struct {
		answers []int
		tries   int
		ok      bool
		refused bool
	}{
		"at once":            {[]int{204}, 1, true, false},
		"after two failures": {[]int{500, 429, 200}, 3, true, false},
		"a no is a no":       {[]int{400}, 1, false, true},
		"a redirect is a no": {[]int{302}, 1, false, true},
		"no more than four":  {[]int{503, 503, 503, 503, 503}, 4, false, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var mu sync.Mutex
			tries := 0
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				body, _ := io.ReadAll(r.Body)
				mu.Lock()
				defer mu.Unlock()
				if r.Header.Get(SignatureHeader) != sign("secret", 1_790_000_000, body) || r.Header.Get("Idempotency-Key") != message.ID || !bytes.Contains(body, []byte(message.Token)) {
					t.Errorf("came as %v %s", r.Header, body)
				}
				w.Header().Set("Location", "http://127.0.0.1:1/")
				w.WriteHeader(tt.answers[tries])
				tries++
			}))
			defer server.Close()
			err := Send(t.Context(), Webhook{URL: server.URL, Secret: "secret", Now: func() time.Time { return time.Unix(1_790_000_000, 0) }}, message)
			mu.Lock()
			defer mu.Unlock()
			if tries != tt.tries || (err == nil) != tt.ok || errors.Is(err, ErrRefused) != tt.refused {
				t.Errorf("Send = %v after %d tries, want %d, ok %t, refused %t", err, tries, tt.tries, tt.ok, tt.refused)
			}
		})
	}
}
