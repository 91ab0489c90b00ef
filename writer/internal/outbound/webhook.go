package outbound

import (
	"bytes"
	"cmp"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// SignatureHeader proves that a webhook is ours: "t=<Unix seconds>,v1=<hex>", the HMAC-SHA256 of "<t>.<body>" under the shared secret.
const SignatureHeader = "Latchkey-Signature"

// maxDrained is how much of an answer is read so that the connection can be used again.
const maxDrained = 4 << 10

// Webhook carries messages to the customer's own backend, which writes and sends the mail.
type Webhook struct {
	URL    string
	Secret string
	Client *http.Client     // nil is one that follows no redirects
	Now    func() time.Time // nil is time.Now
}

// Carry implements Carrier. Any 2xx is a yes; 4xx, but for 408 and 429, is ErrRefused.
func (w Webhook) Carry(ctx context.Context, m Message) error {
	body, err := json.Marshal(map[string]string{"id": m.ID, "type": cmp.Or(m.Kind, KindLink), "to": m.To, "subject": m.Subject, "text": m.Text, "token": m.Token})
	if err != nil {
		return fmt.Errorf("encode: %w", ErrRefused)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, w.URL, bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("webhook address: %w", ErrRefused)
	}
	now, client := time.Now, w.Client
	if w.Now != nil {
		now = w.Now
	}
	if client == nil {
		client = &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Idempotency-Key", m.ID)
	req.Header.Set(SignatureHeader, sign(w.Secret, now().Unix(), body))
	resp, err := client.Do(req)
	var asked *url.Error
	if errors.As(err, &asked) {
		err = asked.Err // without the address, which may hold a secret
	}
	if err != nil {
		return fmt.Errorf("webhook: %w", err)
	}
	defer resp.Body.Close()
	_, _ = io.CopyN(io.Discard, resp.Body, maxDrained)
	switch code := resp.StatusCode; {
	case code >= 200 && code < 300:
		return nil
	case code >= 300 && code < 500 && code != http.StatusRequestTimeout && code != http.StatusTooManyRequests:
		return fmt.Errorf("webhook: answer %d: %w", code, ErrRefused)
	default:
		return fmt.Errorf("webhook: answer %d", code)
	}
}

func sign(secret string, at int64, body []byte) string {
	t := strconv.FormatInt(at, 10)
	h := hmac.New(sha256.New, []byte(secret))
	h.Write([]byte(t + "."))
	h.Write(body)
	return "t=" + t + ",v1=" + hex.EncodeToString(h.Sum(nil))
}
