package outbound

import (
	"bufio"
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"mime/quotedprintable"
	"net"
	"net/mail"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestAnotherMailServerTakesIt: Debian's aiosmtpd, which knows nothing of us and takes nothing but over STARTTLS, keeps what was sent.
func TestAnotherMailServerTakesIt(t *testing.T) {
	roots := x509.NewCertPool()
	certificate := ownCertificate(t, roots)
	key, err := x509.MarshalPKCS8PrivateKey(certificate.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	in := func(name string) string { return filepath.Join(dir, name) }
	for name, block := range map[string]*pem.Block{"cert.pem": {Type: "CERTIFICATE", Bytes: certificate.Certificate[0]}, "key.pem": {Type: "PRIVATE KEY", Bytes: key}} {
		if err := os.WriteFile(in(name), pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	address := ""
	for port := 11500 + os.Getpid()%400; address == ""; port++ { // below those that the system gives away: aiosmtpd takes it a moment later
		if l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port)); err == nil {
			address = l.Addr().String()
			l.Close()
		} else if port == 11999 {
			t.Fatal(err)
		}
	}
	server := exec.Command("aiosmtpd", "--nosetuid", "--listen", address, "--tlscert", in("cert.pem"), "--tlskey", in("key.pem"), "--class", "aiosmtpd.handlers.Mailbox", in("mail"))
	server.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var said bytes.Buffer
	server.Stderr = &said
	if err := server.Start(); err != nil {
		t.Fatalf("start aiosmtpd: %v", err)
	}
	defer func() {
		server.Process.Kill()
		server.Wait()
		if t.Failed() {
			t.Logf("aiosmtpd said: %s", &said)
		}
	}()
	for deadline := time.Now().Add(30 * time.Second); ; <-time.After(10 * time.Millisecond) {
		conn, err := net.Dial("tcp", address)
		if err == nil {
			conn.Close()
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("aiosmtpd does not listen: %v", err)
		}
	}
	if err := Send(t.Context(), SMTP{Address: address, From: "links@example.com", Roots: roots}, message); err != nil {
		t.Fatalf("Send: %v", err)
	}
	files, err := filepath.Glob(in("mail/new/*"))
	if err != nil || len(files) != 1 {
		t.Fatalf("it keeps %v, %v, want one message", files, err)
	}
	text, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	got, err := mail.ReadMessage(bufio.NewReader(bytes.NewReader(text)))
	if err != nil {
		t.Fatalf("%v in:\n%s", err, text)
	}
	body, err := io.ReadAll(quotedprintable.NewReader(got.Body))
	from, fromErr := got.Header.AddressList("From")
	if err = errors.Join(err, fromErr); err != nil || got.Header.Get("X-RcptTo") != message.To || len(from) != 1 || from[0].Address != "links@example.com" ||
		strings.ReplaceAll(strings.TrimSpace(string(body)), "\r\n", "\n") != strings.TrimSpace(message.Text) {
		t.Errorf("it keeps %v\n%q, %v\nwant %q", got.Header, body, err, message.Text)
	}
}
