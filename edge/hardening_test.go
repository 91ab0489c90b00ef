package edge_test

import (
	"bufio"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/latchkey/latchkey/edge"
	"github.com/latchkey/latchkey/pkg/entitlement"
	"github.com/latchkey/latchkey/pkg/openapi"
)

// dial is a client that sends its own bytes.
func (r *rig) dial() net.Conn {
	r.t.Helper()
	conn, err := net.Dial("tcp", r.address())
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// ended reads until the edge closes the connection, at most until deadline, and returns what came.
func ended(t *testing.T, conn net.Conn, deadline time.Duration) (answer string) {
	t.Helper()
	_ = conn.SetReadDeadline(time.Now().Add(deadline))
	b, err := io.ReadAll(conn)
	var late net.Error
	if errors.As(err, &late) && late.Timeout() {
		t.Errorf("the connection is open after %s", deadline)
	}
	return string(b)
}

// TestSlowClientsAreLetGo: whoever does not finish a request, a handshake, or the reading of answers, holds a connection for some seconds and no longer. They all
// sit there at once, and a quick client is served beside them.
func TestSlowClientsAreLetGo(t *testing.T) {
	t.Parallel()
	plain := subscribed(t)
	secured, p := overTLS(t, func(*edge.Config) {})
	const (
		readWithin  = 3*time.Second + 30*time.Second // readTimeout, and what a busy machine adds
		writeWithin = 5*time.Second + 30*time.Second
	)
	say := func(text string) func(net.Conn) {
		return func(c net.Conn) { _, _ = io.WriteString(c, text) } // a broken connection shows in what is read
	}
	trickle := func(text string) func(net.Conn) {
		return func(c net.Conn) {
			tick := time.NewTicker(200 * time.Millisecond)
			defer tick.Stop()
			for i := range text {
				if _, err := io.WriteString(c, text[i:i+1]); err != nil {
					return // let go
				}
				<-tick.C
			}
		}
	}
	var clients sync.WaitGroup
	for _, tt := range []struct {
		name   string
		edge   *rig
		send   func(net.Conn)
		answer string // its beginning
		sends  bool   // to the end, so that the system may reset the connection before the answer was read
	}{
		{"says nothing", plain, say(""), "HTTP/1.1 408", false},
		{"half a header", plain, say("GET /v1/entitlements HTTP/1.1\r\nHost: a\r\nX-"), "HTTP/1.1 408", false},
		{"a header byte by byte", plain, trickle("GET /v1/entitlements HTTP/1.1\r\nHost: " + strings.Repeat("a", 60)), "HTTP/1.1 408", true},
		{"a body that does not come", plain, say("POST /v1/other HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n{"), "HTTP/1.1 408", false},
		{"a body byte by byte", plain, trickle("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 60\r\n\r\n{{{{"), "HTTP/1.1 408", true},
		{"no handshake", secured, say(""), "", false},
		{"half a handshake", secured, say("\x16\x03\x01\x02\x00\x01\x00"), "", false},
		{"no TLS", secured, say("GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n"), "", false},
	} {
		dialed := time.Now()
		conn := tt.edge.dial()
		clients.Go(func() { tt.send(conn) })
		clients.Go(func() {
			answer := ended(t, conn, readWithin)
			took := time.Since(dialed)
			if lost := tt.sends && answer == ""; !strings.HasPrefix(answer, tt.answer) && !lost || tt.answer != "" && took < 2*time.Second {
				t.Errorf("%s: let go after %s with %.60q, want %q after 3 s", tt.name, took, answer, tt.answer)
			}
		})
	}
	reads := plain.dial()
	clients.Go(func() {
		_ = reads.(*net.TCPConn).SetReadBuffer(4 << 10)
		_ = reads.SetWriteDeadline(time.Now().Add(writeWithin))
		requests := strings.Repeat("GET "+openapi.Path+" HTTP/1.1\r\nHost: a\r\n\r\n", 100) // long answers, which cost little to make
		for {
			if _, err := io.WriteString(reads, requests); err != nil {
				var late net.Error
				if errors.As(err, &late) && late.Timeout() {
					t.Errorf("reads no answers: the edge holds the connection for more than %s", writeWithin)
				}
				return
			}
		}
	})
	session := plain.writer.Session(entitlement.Sandbox, alice)
	for range 20 {
		if status, a, _ := plain.check("", session, nil); status != 200 || a.GraceToken == "" {
			t.Errorf("check beside them = %d", status)
		}
		if _, err := p.open(secured.address(), p.app()); err != nil {
			t.Errorf("handshake beside them: %v", err)
		}
	}
	clients.Wait()
}

// TestNoRequestHidesInAnother: after a request whose end two readers could see at different places, nothing that follows on the connection is answered.
func TestNoRequestHidesInAnother(t *testing.T) {
	t.Parallel()
	r := subscribed(t)
	const hidden = "GET /status HTTP/1.1\r\nHost: hidden\r\n\r\n"
	for name, request := range map[string]string{
		"a length and chunks":                "GET /v1/entitlements HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"chunks and a length":                "POST /v1/receipts HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n",
		"chunks alone":                       "GET /healthz HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"chunks in HTTP/1.0":                 "GET /healthz HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"a coding that nobody knows":         "GET /healthz HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
		"two codings":                        "GET /healthz HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"two lengths":                        "GET /healthz HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nContent-Length: 38\r\n\r\n",
		"a list of lengths":                  "GET /healthz HTTP/1.1\r\nHost: a\r\nContent-Length: 0, 38\r\n\r\n",
		"a length with a sign":               "GET /healthz HTTP/1.1\r\nHost: a\r\nContent-Length: +0\r\n\r\n",
		"a length below zero":                "GET /healthz HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
		"a space before the colon":           "GET /healthz HTTP/1.1\r\nHost: a\r\nContent-Length : 38\r\n\r\n",
		"a folded header":                    "GET /healthz HTTP/1.1\r\nHost: a\r\nX: a\r\n Content-Length: 38\r\n\r\n",
		"a carriage return alone in a value": "GET /healthz HTTP/1.1\r\nHost: a\r\nX: a\rContent-Length: 38\r\n\r\n",
		"a zero byte in a value":             "GET /healthz HTTP/1.1\r\nHost: a\r\nX: \x00\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			conn := r.dial()
			if _, err := io.WriteString(conn, request+hidden); err != nil {
				t.Fatal(err)
			}
			answer := ended(t, conn, 30*time.Second)
			if strings.Contains(answer, "state_hash") || !strings.HasPrefix(answer, "HTTP/1.1 400") {
				t.Errorf("answered %.300q, want one 400", answer)
			}
		})
	}
}

// TestDraining: told to stop, the edge lets waiting clients go with an answer, finishes what it has begun, closes what is idle, and is gone within 10 s although
// one client never finishes.
func TestDraining(t *testing.T) {
	t.Parallel()
	r := subscribed(t)
	idle := r.dial()
	reader := bufio.NewReader(idle)
	if _, err := io.WriteString(idle, "GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	if resp, err := http.ReadResponse(reader, nil); err != nil || resp.StatusCode != 200 {
		t.Fatalf("keep-alive: %v %v", resp, err)
	}
	waiting := r.dial()
	session := r.writer.Session(entitlement.Sandbox, alice)
	if _, err := io.WriteString(waiting, "GET /v1/entitlements?min_revision=1-999999&wait=20 HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer "+session+"\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	slow := r.dial()
	if _, err := io.WriteString(slow, "GET /v1/entitlements HTTP/1.1\r\nHost: a\r\nX: "); err != nil {
		t.Fatal(err)
	}
	until(t, "three connections are open", func() bool {
		_, body := r.get("/metrics", nil)
		return strings.Contains(string(body), "latchkey_edge_open_connections 4") // and the one that asks
	})
	began := time.Now()
	r.stop()
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("stopping took %s", took)
	}
	answer := ended(t, waiting, 30*time.Second)
	if !strings.HasPrefix(answer, "HTTP/1.1 503") || !strings.Contains(answer, "not-yet") || !strings.Contains(answer, "Connection: close") {
		t.Errorf("the waiting client got %.200q, want 503 not-yet and the end of its connection", answer)
	}
	if answer := ended(t, idle, 30*time.Second); answer != "" {
		t.Errorf("the idle client got %q", answer)
	}
	if conn, err := tls.DialWithDialer(&net.Dialer{Timeout: time.Second}, "tcp", r.address(), &tls.Config{InsecureSkipVerify: true}); err == nil {
		conn.Close()
		t.Error("the edge still listens")
	}
}

// TestWhoSendsTooMuchHearsIt: a client that looks for an answer only after its whole body is sent finds it, although the edge stopped reading long before.
func TestWhoSendsTooMuchHearsIt(t *testing.T) {
	t.Parallel()
	plain := subscribed(t)
	secured, p := overTLS(t, func(*edge.Config) {})
	const body, pieces = 1 << 20, 8
	for name, dial := range map[string]func() net.Conn{
		"without TLS": plain.dial,
		"over TLS":    func() net.Conn { return tls.Client(secured.dial(), p.app()) },
	} {
		for i := range 21 { // a reset takes the answer along now and then only
			var conn net.Conn
			var err error
			for began := (time.Time{}); time.Since(began) > 3*time.Second; { // a machine too busy for readTimeout: the edge lets it go
				began, conn = time.Now(), dial()
				_, err = fmt.Fprintf(conn, "POST /v1/receipts HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n", body)
			}
			for range pieces {
				if i == 0 { // one of them over a slow network
					<-time.After(300 * time.Millisecond)
				}
				if err == nil {
					_, err = io.WriteString(conn, strings.Repeat(" ", body/pieces))
				}
			}
			if err != nil {
				t.Errorf("%s: sending: %v", name, err)
			}
			if answer := ended(t, conn, 30*time.Second); !strings.HasPrefix(answer, "HTTP/1.1 413") || !strings.Contains(answer, "body-too-large") {
				t.Errorf("%s: answered %.100q, want 413", name, answer)
			}
		}
	}
}
