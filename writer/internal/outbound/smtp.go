package outbound

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"mime"
	"mime/quotedprintable"
	"net"
	"net/smtp"
	"net/textproto"
	"strings"
	"time"
)

// SMTP carries messages to a mail server (RFC 5321), over TLS that the server begins by STARTTLS.
type SMTP struct {
	Address  string // host:port, usually port 587
	From     string // a bare address
	Username string // empty: without authentication
	Password string

	// Plain lets a server do without STARTTLS. Only for one on this machine: the message holds a way into an account.
	Plain bool
	// Roots are whom the server's certificate is believed from; nil is the system's.
	Roots *x509.CertPool
	// Now dates messages. Nil is time.Now.
	Now func() time.Time
}

// Carry implements Carrier.
func (s SMTP) Carry(ctx context.Context, m Message) error {
	if strings.ContainsAny(m.To+m.Subject+m.ID+s.From, "\r\n") { // a header of the sender's own
		return ErrRefused
	}
	host, _, err := net.SplitHostPort(s.Address)
	if err != nil {
		return fmt.Errorf("smtp address: %w", ErrRefused)
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", s.Address)
	if err != nil {
		return err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	client, err := smtp.NewClient(conn, host)
	if err != nil {
		return said("greeting", err)
	}
	defer client.Close()
	if err := s.begin(client, host); err != nil {
		return err
	}
	if err := client.Mail(s.From); err != nil {
		return said("sender", err)
	}
	if err := client.Rcpt(m.To); err != nil {
		return said("recipient", err)
	}
	data, err := client.Data()
	if err != nil {
		return said("data", err)
	}
	if _, err := data.Write(s.compose(m)); err != nil {
		return said("text", err)
	}
	if err := data.Close(); err != nil {
		return said("text", err)
	}
	_ = client.Quit() // the message is the server's already
	return nil
}

func (s SMTP) begin(client *smtp.Client, host string) error {
	switch offers, _ := client.Extension("STARTTLS"); {
	case offers:
		if err := client.StartTLS(&tls.Config{ServerName: host, RootCAs: s.Roots, MinVersion: tls.VersionTLS12}); err != nil {
			return said("starttls", err)
		}
	case !s.Plain:
		return fmt.Errorf("the server offers no STARTTLS: %w", ErrRefused)
	}
	if s.Username == "" {
		return nil
	}
	if err := client.Auth(smtp.PlainAuth("", s.Username, s.Password, host)); err != nil {
		return said("authentication", err)
	}
	return nil
}

// said makes an error of what the server said, without its words: they may quote the address.
func said(to string, err error) error {
	var reply *textproto.Error
	switch {
	case !errors.As(err, &reply):
		return fmt.Errorf("smtp %s: %w", to, err)
	case reply.Code >= 500:
		return fmt.Errorf("smtp %s: answer %d: %w", to, reply.Code, ErrRefused)
	}
	return fmt.Errorf("smtp %s: answer %d", to, reply.Code)
}

// compose writes the message as RFC 5322 has it.
func (s SMTP) compose(m Message) []byte {
	now := time.Now
	if s.Now != nil {
		now = s.Now
	}
	_, domain, _ := strings.Cut(s.From, "@")
	var b bytes.Buffer
	for _, h := range [][2]string{{"From", "<" + s.From + ">"}, {"To", "<" + m.To + ">"}, {"Subject", mime.QEncoding.Encode("utf-8", m.Subject)},
		{"Date", now().UTC().Format(time.RFC1123Z)}, {"Message-ID", "<" + m.ID + "@" + domain + ">"}, {"Auto-Submitted", "auto-generated"},
		{"MIME-Version", "1.0"}, {"Content-Type", "text/plain; charset=utf-8"}, {"Content-Transfer-Encoding", "quoted-printable"}} {
		b.WriteString(h[0] + ": " + h[1] + "\r\n")
	}
	b.WriteString("\r\n")
	w := quotedprintable.NewWriter(&b)
	_, _ = w.Write([]byte(m.Text)) // into memory
	_ = w.Close()
	return b.Bytes()
}
