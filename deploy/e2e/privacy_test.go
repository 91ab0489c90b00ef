package e2e

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
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
	d.agree()
	d.stop()
	never := map[string]string{
		"what a message said of a person": mark, "the webhook secret": secret, "a session token": a.session,
		"the server key": d.info().Environments["sandbox"].ServerKey, "the publishable key": d.info().Environments["sandbox"].PublishableKey,
	}
	d.inNoFile(never)
}

// eachFile visits the files of a folder: what each holds, and then what is inside of it that is compressed.
func eachFile(t *testing.T, root string, visit func(path string, texts [][]byte)) {
	t.Helper()
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // a running node has files that come and go
		}
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		content, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		visit(path, append([][]byte{content}, unpack(content)...))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// inNoFile fails for each file of a node, and each log, that has one of the texts, plainly or inside what is compressed. The texts are given by what they are.
func (d *dev) inNoFile(never map[string]string) {
	t := d.t
	t.Helper()
	files, unpacked := 0, 0
	for _, part := range append([]string{"logs"}, nodeDirs(d)...) {
		eachFile(t, filepath.Join(d.dir, part), func(path string, texts [][]byte) {
			files++
			unpacked += len(texts) - 1
			for what, canary := range never {
				if slices.ContainsFunc(texts, func(text []byte) bool { return bytes.Contains(text, []byte(canary)) }) {
					t.Errorf("%s holds %s", path, what)
				}
			}
		})
	}
	if files < 3 {
		t.Errorf("only %d files were searched", files)
	}
	t.Logf("searched %d files and %d compressed parts", files, unpacked)
}

// TestAPersonIsErasedEverywhere: a person of whom everything is known that can be is in no file in clear at any time. Erased, they are gone at every writer and edge, out of
// every row that they were found in before, also after a writer was killed; their subscription renews without an alarm, and comes back to them in a new account by support.
func TestAPersonIsErasedEverywhere(t *testing.T) {
	t.Parallel()
	d := start(t, t.TempDir(), threeWriters...)
	const mark = "canary9e2b"
	call := func(status int, method, path string, body any, into any) {
		t.Helper()
		got, err := d.api("sandbox", len(path), method, path, body)
		if err != nil || got.status != status {
			t.Fatalf("%s %s: %s, %v, want %d", method, path, got, err, status)
		}
		if into != nil {
			if err := got.into(into); err != nil {
				t.Fatal(err)
			}
		}
	}
	type object = map[string]any
	a, other := d.account("sandbox"), d.account("sandbox")
	own := "/v1/accounts/" + a.id
	call(200, "PATCH", own, object{"attributes": object{mark + "-name": mark + "-value"}, "email": mark + "@example.com"}, nil)
	call(200, "PATCH", own, object{"email": mark + ".new@example.com", "tester": true}, nil)
	call(200, "PATCH", "/v1/accounts/"+other.id, object{"email": mark + ".new@example.com"}, nil)
	call(200, "POST", own+"/aliases", object{"kind": "custom", "value": mark + "-alias"}, nil)
	call(200, "POST", "/v1/accounts/"+other.id+"/aliases", object{"kind": "oidc_subject", "value": "https://id.example|" + mark}, nil)
	call(201, "POST", own+"/grants", object{"entitlement": "extra", "expires_at": nil, "reason": mark + "-reason"}, nil)
	call(201, "POST", "/v1/link-tokens", object{"alias": object{"kind": "custom", "value": mark + "-alias"}}, nil)
	device := object{"device_id": "phone", "platform": "fcm", "push_token": mark + "-token"}
	text, err := json.Marshal(device)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := untilTaken(func() (answer, error) {
		return d.do(t.Context(), "POST", d.info().Edges[0].URL+"/v1/devices", http.Header{"Authorization": {"Bearer " + a.session}}, text)
	}); err != nil || got.status != 200 {
		t.Fatalf("POST devices: %s, %v", got, err)
	}
	s := stripemsg.NewSubscription(shapes[0], a.id, time.Now())
	for _, message := range s.Bought(time.Now()) {
		d.mustPost("sandbox", 0, message)
	}
	call(201, "POST", own+"/merges", object{"from": other.id}, nil)
	d.inNoFile(map[string]string{"what was said of a person": mark})

	var exported struct {
		Emails []object `json:"emails"`
		Events []object `json:"events"`
	}
	call(200, "GET", "/v1/accounts/custom:"+mark+"-alias/export", nil, &exported)
	if len(exported.Emails) != 3 || len(exported.Events) < 12 {
		t.Errorf("the export has %d addresses and %d events: %v", len(exported.Emails), len(exported.Events), exported)
	}
	d.agree()
	kept := d.beforeErasure(8, a.id, other.id)
	var erased struct {
		Erased   []string `json:"erased"`
		Renewing []string `json:"renewing"`
		Revision string   `json:"revision"`
	}
	call(200, "DELETE", "/v1/accounts/"+other.id, nil, &erased)
	if len(erased.Erased) != 2 || len(erased.Renewing) != 1 {
		t.Errorf("erased: %+v", erased)
	}
	gone := func() {
		t.Helper()
		for i := range d.info().Writers {
			for _, id := range []string{a.id, other.id, "custom:" + mark + "-alias"} {
				d.eventually("the account is at no writer", patience, func() error { // a writer that was killed answers after its start
					got, err := d.api("sandbox", i, http.MethodGet, "/v1/accounts/"+id, nil)
					if err == nil && got.status != http.StatusNotFound {
						err = fmt.Errorf("GET of %s at writer %d: %s", id, i, got)
					}
					return err
				})
			}
		}
		for i := range d.info().Edges {
			for _, who := range []account{a, other} {
				got, err := d.ask(who, i, "?wait=20&min_revision="+erased.Revision)
				if err != nil || got.status != http.StatusServiceUnavailable || got.problem() != "unknown-account" {
					t.Errorf("edge %d of the erased account: %s, %v, want unknown-account", i, got, err)
				}
			}
		}
	}
	gone()
	kept.gone()
	killed := d.leader()
	d.kill(killed)
	d.awaitRestart(killed)
	gone()
	kept.gone()
	for _, message := range s.Renewed().Bought(time.Now()) {
		d.mustPost("sandbox", 0, message)
	}
	var waiting struct{ Unclaimed []object }
	call(200, "GET", "/v1/unclaimed", nil, &waiting)
	if len(waiting.Unclaimed) != 0 {
		t.Errorf("unclaimed after a renewal: %v", waiting.Unclaimed)
	}
	again := d.account("sandbox")
	var claimed struct{ Revision string }
	call(200, "POST", "/v1/unclaimed/"+erased.Renewing[0]+"/claim", object{"account_id": again.id}, &claimed)
	if pro := d.mustAsk(again, 1, claimed.Revision).pro(); !pro.Active {
		t.Errorf("the new account has %+v, want what was bought", pro)
	}
	d.agree()
	d.stop()
	d.inNoFile(map[string]string{"what was said of a person": mark})
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
