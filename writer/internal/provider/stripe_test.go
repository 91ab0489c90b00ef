package provider

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"
)

// The test vector was computed outside of this code. It shows above all that the secret is used whole, with its prefix.
const (
	vectorSecret    = "whsec_latchkey_test_secret"
	vectorSecret2   = "whsec_latchkey_new_secret"
	vectorTime      = 1_795_305_600
	vectorBody      = `{"id":"evt_lk_0001","object":"event","type":"ping"}`
	vectorSignature = "7151e3e3951a8dce3331c0d393933280d89cd2b2280ef3dd6b3dfc584f80c2bc"
	vectorRolled    = "a456bbf056b218e3b890830901d30aab473290c0f4547cefa03c6c1059a3a689"
)

func newStripe(t testing.TB, secrets ...string) *Stripe {
	t.Helper()
	s, err := NewStripe(StripeConfig{Secrets: secrets})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// sign is Stripe's signature by the standard library alone.
func sign(t int64, body, secret string) string {
	mac := hmac.New(sha256.New, []byte(secret))
	fmt.Fprintf(mac, "%d.%s", t, body)
	return hex.EncodeToString(mac.Sum(nil))
}

func TestStripeVerify(t *testing.T) {
	header := func(at int64, signatures ...string) []string {
		return []string{fmt.Sprintf("t=%d,%s", at, strings.Join(signatures, ","))}
	}
	signed := func(at int64) []string { return header(at, "v1="+sign(at, vectorBody, vectorSecret)) }
	var (
		one   = []string{vectorSecret}
		wrong = "v1=" + strings.Repeat("0", 64)
		right = "v1=" + vectorSignature
	)
	tests := []struct {
		name    string
		secrets []string
		header  []string
		body    string
		want    error
	}{
		{"the vector", one, header(vectorTime, right), vectorBody, nil},
		{"the vector of the second secret", []string{vectorSecret, vectorSecret2}, header(vectorTime, "v1="+vectorRolled), vectorBody, nil},
		{"two signatures, the second right", one, header(vectorTime, wrong, right), vectorBody, nil},
		{"a rolled secret: one signature for each, we know the old", one, header(vectorTime, "v1="+vectorRolled, right), vectorBody, nil},
		{"a signature that is no hex beside a right one", one, header(vectorTime, "v1=zz", right), vectorBody, nil},
		{"a scheme to come beside a right signature", one, header(vectorTime, "v2=abc", right), vectorBody, nil},
		{"300 s old", one, signed(vectorTime - 300), vectorBody, nil},
		{"300 s ahead", one, signed(vectorTime + 300), vectorBody, nil},
		{"301 s old is stale", one, signed(vectorTime - 301), vectorBody, ErrStale},
		{"301 s ahead is stale", one, signed(vectorTime + 301), vectorBody, ErrStale},
		{"a day ahead is stale", one, signed(vectorTime + 86400), vectorBody, ErrStale},
		{"the largest time is stale", one, signed(1<<63 - 1), vectorBody, ErrStale},
		{"stale and wrong is wrong", one, header(vectorTime-301, wrong), vectorBody, ErrSignature},
		{"a wrong signature", one, header(vectorTime, wrong), vectorBody, ErrSignature},
		{"another body", one, header(vectorTime, right), vectorBody + " ", ErrSignature},
		{"another time", one, header(vectorTime+1, right), vectorBody, ErrSignature},
		{"another secret", []string{vectorSecret2}, header(vectorTime, right), vectorBody, ErrSignature},
		{"signed with an empty key", one, header(vectorTime, "v1="+sign(vectorTime, vectorBody, "")), vectorBody, ErrSignature},
		{"v0 alone is a downgrade", one, header(vectorTime, "v0="+vectorSignature), vectorBody, ErrSignature},
		{"upper-case V1 is another scheme", one, header(vectorTime, "V1="+vectorSignature), vectorBody, ErrSignature},
		{"no time", one, []string{right}, vectorBody, ErrSignature},
		{"two times", one, []string{fmt.Sprintf("t=1,t=%d,%s", vectorTime, right)}, vectorBody, ErrSignature},
		{"a time that is no number", one, []string{"t=now," + right}, vectorBody, ErrSignature},
		{"a time before 1970", one, signed(-1), vectorBody, ErrSignature},
		{"no header", one, nil, vectorBody, ErrSignature},
		{"an empty header", one, []string{""}, vectorBody, ErrSignature},
		{"two headers", one, append(header(vectorTime, right), header(vectorTime, right)...), vectorBody, ErrSignature},
		{"more signatures than a rolling secret has", one, header(vectorTime, slicesOf(wrong, 16, right)...), vectorBody, ErrSignature},
		{"a header of 5 KiB", one, []string{fmt.Sprintf("t=%d,%s,v0=%s", vectorTime, right, strings.Repeat("0", 5<<10))}, vectorBody, ErrSignature},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := Request{Header: http.Header{stripeSignatureHeader: tt.header}, Body: []byte(tt.body)}
			err := newStripe(t, tt.secrets...).Verify(r, time.Unix(vectorTime, 0))
			if !errors.Is(err, tt.want) {
				t.Errorf("Verify(%q) = %v, want %v", tt.header, err, tt.want)
			}
			if err != nil && strings.Contains(err.Error(), "whsec") {
				t.Errorf("the error holds a secret: %v", err)
			}
		})
	}
}

func slicesOf(s string, n int, last string) []string {
	out := make([]string, n, n+1)
	for i := range out {
		out[i] = s
	}
	return append(out, last)
}

func TestNewStripeRefusesWhatEverybodyCouldSignWith(t *testing.T) {
	for _, secrets := range [][]string{nil, {""}, {vectorSecret, ""}, {" "}, {vectorSecret + "\n"}} {
		if s, err := NewStripe(StripeConfig{Secrets: secrets}); err == nil {
			t.Errorf("NewStripe(%q) = %v, want an error", secrets, s)
		} else if strings.Contains(err.Error(), "whsec") {
			t.Errorf("the error holds a secret: %v", err)
		}
	}
}
