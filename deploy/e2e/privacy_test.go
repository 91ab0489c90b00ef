package e2e

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/latchkey/latchkey/deploy/stripemsg"
)

// expiry reads exp from a token that somebody else has verified.
func expiry(t *testing.T, token string) int64 {
	t.Helper()
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		t.Fatalf("no token: %d parts", len(parts))
	}
	b, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		t.Fatal(err)
	}
	var claims struct{ Exp int64 }
	if err := json.Unmarshal(b, &claims); err != nil {
		t.Fatal(err)
	}
	return claims.Exp
}

// TestNothingPersonalIsStored: names, addresses, mails, card data and free text of messages, and every secret in use, are in no file of any
// node and in no log: not plainly, and not inside what is compressed.
func TestNothingPersonalIsStored(t *testing.T) {
	t.Parallel()
	d := start(t, t.TempDir(), threeWriters...)
	a := d.account("sandbox")
	const mark = "canary7f3a" // in everything that must not be stored
	personal := stripemsg.Object{
		"customer_email": mark + "@example.com", "customer_name": mark + " name", "customer_phone": "+49" + mark,
		"customer_address": stripemsg.Object{"line1": mark + " street", "postal_code": mark},
		"billing_details":  stripemsg.Object{"name": mark, "email": mark + "@example.com", "phone": mark},
		"description":      mark + " description", "footer": mark, "receipt_email": mark + "@example.com", "hosted_invoice_url": "https://invoice.stripe.com/" + mark,
		"payment_method_details": stripemsg.Object{"card": stripemsg.Object{"last4": "4242" + mark, "fingerprint": mark}},
		"client_secret":          "seti_" + mark, "statement_descriptor": mark, "custom_fields": []any{stripemsg.Object{"name": mark, "value": mark}},
		"cancellation_details": stripemsg.Object{"comment": mark, "feedback": "other", "reason": "cancellation_requested"},
		"future_field":         stripemsg.Object{"deep": []any{mark}},
	}
	for _, shape := range shapes {
		s := stripemsg.NewSubscription(shape, a.id, time.Now())
		messages := append(s.Bought(time.Now()), s.ChargeRefunded(time.Now(), s.Cents),
			s.Event("customer.updated", time.Now(), stripemsg.Object{"id": s.Customer, "object": "customer", "email": mark + "@example.com", "name": mark}))
		for _, message := range messages {
			about := message["data"].(stripemsg.Object)["object"].(stripemsg.Object)
			for field, value := range personal {
				about[field] = value
			}
			if metadata, ok := about["metadata"].(stripemsg.Object); ok {
				metadata["note"] = mark + " metadata of the shop's own"
			}
			d.mustPost("sandbox", 0, message)
		}
	}
	garbage := []byte(`{"id": "evt_x", "data": "` + mark + `" nonsense`)
	secret := d.info().Environments["sandbox"].Webhooks["stripe"].Secret
	if got, err := d.postSigned("sandbox", 0, garbage, stripemsg.Sign(secret, garbage, time.Now())); err != nil || got.status != http.StatusOK {
		t.Fatalf("garbage: %s, %v, want 200", got, err)
	}
	// Refused messages and credentials must not reach a log either.
	refused := stripemsg.Encode(stripemsg.Object{"id": "evt_" + mark})
	if got, err := d.postSigned("sandbox", 0, refused, "t=1,v1="+mark); err != nil || got.status != http.StatusUnauthorized {
		t.Fatalf("a wrong signature: %s, %v, want 401", got, err)
	}
	if _, err := d.ask(account{session: mark + ".a.b"}, 0, ""); err != nil {
		t.Fatal(err)
	}
	d.mustAsk(a, 0, "")
	d.agree(10 * time.Second)
	d.stop()
	never := map[string]string{
		"what a message said of a person": mark, "the webhook secret": secret, "a session token": a.session,
		"the server key": d.info().Environments["sandbox"].ServerKey, "the publishable key": d.info().Environments["sandbox"].PublishableKey,
	}
	files, unpacked := 0, 0
	for _, part := range append([]string{"logs"}, nodeDirs(d)...) {
		err := filepath.WalkDir(filepath.Join(d.dir, part), func(path string, entry fs.DirEntry, err error) error {
			if err != nil || !entry.Type().IsRegular() {
				return err
			}
			content, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			files++
			texts := append([][]byte{content}, unpack(content)...)
			unpacked += len(texts) - 1
			for what, canary := range never {
				for _, text := range texts {
					if bytes.Contains(text, []byte(canary)) {
						t.Errorf("%s holds %s", path, what)
						break
					}
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if files < 3 {
		t.Errorf("only %d files were searched", files)
	}
	t.Logf("searched %d files and %d compressed parts", files, unpacked)
}

func nodeDirs(d *dev) (dirs []string) {
	for _, n := range d.nodes() {
		dirs = append(dirs, n.ID)
	}
	return dirs
}

// unpack returns what every zstd frame inside content holds, wherever it begins.
func unpack(content []byte) (texts [][]byte) {
	magic := []byte{0x28, 0xb5, 0x2f, 0xfd}
	decoder, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1))
	if err != nil {
		panic(err)
	}
	defer decoder.Close()
	for at := 0; ; at += len(magic) {
		next := bytes.Index(content[at:], magic)
		if next < 0 {
			return texts
		}
		at += next
		if decoder.Reset(bytes.NewReader(content[at:])) != nil {
			continue
		}
		// What follows the frame is no zstd: the error at its end is expected, and what came before it counts.
		text, _ := io.ReadAll(io.LimitReader(decoder, 64<<20))
		texts = append(texts, text)
	}
}
