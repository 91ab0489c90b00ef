package writer

import (
	"net"
	"net/mail"
	"net/url"
	"strings"

	"github.com/latchkey/latchkey/pkg/config"
	"github.com/latchkey/latchkey/writer/internal/outbound"
)

// linkPlace stands in mail.link_url for the token, and codePlace in mail.code_url for the code.
const (
	linkPlace = "{token}"
	codePlace = "{code}"
)

// MailConfig says how link tokens and redemption codes reach people: by SMTP, or by the customer's own backend. Without it send_to answers not-configured.
type MailConfig struct {
	// LinkURL is the page that opens the app, https, with {token} where the token goes. It stands in the mail.
	LinkURL string `config:"link_url"`
	// CodeURL is the page on which codes are redeemed, https, with {code} where the code goes. It stands in the mail that delivers one; without it the code
	// stands there alone.
	CodeURL string             `config:"code_url"`
	SMTP    *SMTPConfig        `config:"smtp"`
	Webhook *MailWebhookConfig `config:"webhook"`
}

// SMTPConfig is a mail server.
type SMTPConfig struct {
	Address  string        `config:"address"`  // host:port
	From     string        `config:"from"`     // a bare e-mail address
	Username string        `config:"username"` // empty: without authentication
	Password config.Secret `config:"password"`
	// Plain lets a server on this machine do without STARTTLS.
	Plain bool `config:"plain"`
}

// MailWebhookConfig is an address of the customer's backend, which writes and sends the mail.
type MailWebhookConfig struct {
	URL    string        `config:"url"`
	Secret config.Secret `config:"secret"` // signs what is sent
}

func (c *MailConfig) validate(m *config.Mistakes) {
	if c.SMTP == nil && c.Webhook == nil {
		if c.LinkURL != "" || c.CodeURL != "" {
			m.Add("mail", "want smtp or webhook")
		}
		return
	}
	if c.SMTP != nil && c.Webhook != nil {
		m.Add("mail", "has both smtp and webhook: want one")
	}
	if u, err := url.Parse(strings.Replace(c.LinkURL, linkPlace, "token", 1)); err != nil || u.Scheme != "https" || u.Host == "" || !strings.Contains(c.LinkURL, linkPlace) {
		m.Add("mail.link_url", "want an https:// address with %s in it", linkPlace)
	}
	if u, err := url.Parse(strings.Replace(c.CodeURL, codePlace, "code", 1)); c.CodeURL != "" && (err != nil || u.Scheme != "https" || u.Host == "" || !strings.Contains(c.CodeURL, codePlace)) {
		m.Add("mail.code_url", "want an https:// address with %s in it", codePlace)
	}
	if s := c.SMTP; s != nil {
		host, _, err := net.SplitHostPort(s.Address)
		if err != nil {
			m.Add("mail.smtp.address", "want host:port")
		} else if s.Plain && !isLoopback(host) {
			m.Add("mail.smtp.plain", "is for a server on this machine alone")
		}
		if from, err := mail.ParseAddress(s.From); err != nil || from.Address != s.From {
			m.Add("mail.smtp.from", "want one e-mail address")
		}
		if s.Username != "" && s.Plain {
			m.Add("mail.smtp.username", "goes through TLS only")
		}
	}
	if w := c.Webhook; w != nil {
		u, err := url.Parse(w.URL)
		if err != nil || u.Host == "" || u.Scheme != "https" && (u.Scheme != "http" || !isLoopback(u.Hostname())) {
			m.Add("mail.webhook.url", "want an https:// address, or http:// on this machine")
		}
		if w.Secret == "" {
			m.Add("mail.webhook.secret", "must be given")
		}
	}
}

// carrier returns what sends mail, nil for nothing.
func (c *MailConfig) carrier() outbound.Carrier {
	switch {
	case c.SMTP != nil:
		return outbound.SMTP{Address: c.SMTP.Address, From: c.SMTP.From, Username: c.SMTP.Username, Password: string(c.SMTP.Password), Plain: c.SMTP.Plain}
	case c.Webhook != nil:
		return outbound.Webhook{URL: c.Webhook.URL, Secret: string(c.Webhook.Secret)}
	}
	return nil
}
