package provider

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"net/textproto"
	"strconv"
	"strings"
	"time"

	"github.com/latchkey/latchkey/pkg/entitlement"
)

const (
	// RevenueCatSignatureHeader carries the signature of an integration that signs.
	RevenueCatSignatureHeader = "X-RevenueCat-Webhook-Signature"

	// revenueCatTolerance is how far a signature's time may be from ours, either way. Every attempt is signed anew, so five minutes are for clocks alone.
	revenueCatTolerance = 300 * time.Second

	// A real header is about 150 bytes with one v1, and has one more while a secret is rolled.
	maxRevenueCatHeaderBytes = 4 << 10
	maxRevenueCatSignatures  = 16
)

// RevenueCatConfig is what NewRevenueCat needs. A message must pass every kind of proof that is given here.
type RevenueCatConfig struct {
	// Authorizations are the values of the header Authorization that the dashboard sends, whole: usually "Bearer ...", and not always. Several while
	// one is replaced.
	Authorizations []string
	// SigningSecrets are those of integrations that sign. Several while one is rolled.
	SigningSecrets []string
	// SignatureHeader is where the signature is. Empty is RevenueCatSignatureHeader.
	SignatureHeader string
}

// RevenueCat is the adapter for RevenueCat's webhooks.
type RevenueCat struct {
	authorizations [][sha256.Size]byte
	secrets        []string
	header         string
}

// Mistakes in a RevenueCatConfig, for saying which field is wrong.
var (
	ErrRevenueCatAuthorization   = errors.New("revenuecat: authorization")
	ErrRevenueCatSigningSecret   = errors.New("revenuecat: signing secret")
	ErrRevenueCatSignatureHeader = errors.New("revenuecat: signature header")
)

// NewRevenueCat returns an adapter. It refuses a configuration by which everybody's message would pass. Errors: ErrRevenueCatAuthorization,
// ErrRevenueCatSigningSecret, ErrRevenueCatSignatureHeader; they quote no secret.
func NewRevenueCat(c RevenueCatConfig) (*RevenueCat, error) {
	if len(c.Authorizations) == 0 && len(c.SigningSecrets) == 0 {
		return nil, fmt.Errorf("%w: neither a value of the header nor a signing secret", ErrRevenueCatAuthorization)
	}
	r := &RevenueCat{secrets: append([]string(nil), c.SigningSecrets...), header: RevenueCatSignatureHeader}
	for i, value := range c.Authorizations {
		if value == "" || strings.TrimSpace(value) != value {
			return nil, fmt.Errorf("%w: value %d is empty or has blanks around it", ErrRevenueCatAuthorization, i+1)
		}
		r.authorizations = append(r.authorizations, sha256.Sum256([]byte(value)))
	}
	for i, secret := range c.SigningSecrets {
		if secret == "" || strings.TrimSpace(secret) != secret {
			return nil, fmt.Errorf("%w: secret %d is empty or has blanks around it", ErrRevenueCatSigningSecret, i+1)
		}
	}
	if c.SignatureHeader != "" {
		if !isText(c.SignatureHeader, maxWordBytes, func(b byte) bool { return isAlnum(b) || b == '-' }) {
			return nil, fmt.Errorf("%w: not a header's name", ErrRevenueCatSignatureHeader)
		}
		r.header = c.SignatureHeader
	}
	r.header = textproto.CanonicalMIMEHeaderKey(r.header)
	return r, nil
}

// Provider returns entitlement.RevenueCat.
func (r *RevenueCat) Provider() entitlement.Provider { return entitlement.RevenueCat }

// Delivery asks for nothing: RevenueCat waits for a minute, takes nothing but 200 for success, as we answer, and repeats five times in two and a
// half hours. Source: revenuecat.com/docs/integrations/webhooks.
func (r *RevenueCat) Delivery() Delivery { return Delivery{} }

// Verify checks the header Authorization and the signature, whichever are configured, then the signature's time against now. Errors:
// ErrSignature, ErrStale.
func (r *RevenueCat) Verify(req Request, now time.Time) error {
	if len(r.authorizations) > 0 && !r.authorized(req.Header.Values("Authorization")) {
		return fmt.Errorf("revenuecat: Authorization header: %w", ErrSignature)
	}
	if len(r.secrets) == 0 {
		return nil
	}
	values := req.Header[r.header]
	if len(values) != 1 || len(values[0]) > maxRevenueCatHeaderBytes {
		return fmt.Errorf("revenuecat: %s header: %w", r.header, ErrSignature)
	}
	return r.signed(values[0], req.Body, now)
}

// authorized compares in constant time, whatever the lengths.
func (r *RevenueCat) authorized(values []string) bool {
	if len(values) != 1 {
		return false
	}
	got, right := sha256.Sum256([]byte(values[0])), 0
	for i := range r.authorizations {
		right |= subtle.ConstantTimeCompare(got[:], r.authorizations[i][:])
	}
	return right == 1
}

// signed checks a header "t=<Unix seconds>,v1=<hex>,...", one of whose v1 must be the HMAC-SHA256 of "<t>.<body>" as it came.
func (r *RevenueCat) signed(header string, body []byte, now time.Time) error {
	var times []string
	var signatures [][]byte
	for part := range strings.SplitSeq(header, ",") {
		switch name, value, _ := strings.Cut(strings.TrimSpace(part), "="); name {
		case "t":
			times = append(times, value)
		case "v1":
			given, err := hex.DecodeString(value)
			if err != nil {
				given = nil
			}
			signatures = append(signatures, given)
		}
	}
	if len(times) != 1 || len(signatures) == 0 || len(signatures) > maxRevenueCatSignatures {
		return fmt.Errorf("revenuecat: %d times and %d signatures in the header: %w", len(times), len(signatures), ErrSignature)
	}
	at, err := strconv.ParseInt(times[0], 10, 64)
	if err != nil || at < 0 {
		return fmt.Errorf("revenuecat: signature time: %w", ErrSignature)
	}
	for _, secret := range r.secrets {
		mac := hmac.New(sha256.New, []byte(secret))
		mac.Write([]byte(times[0] + "."))
		mac.Write(body)
		want := mac.Sum(nil)
		for _, given := range signatures {
			if !hmac.Equal(given, want) {
				continue
			}
			if age := now.Unix() - at; age > int64(revenueCatTolerance/time.Second) || age < -int64(revenueCatTolerance/time.Second) {
				return fmt.Errorf("revenuecat: signed %d s ago: %w", age, ErrStale)
			}
			return nil
		}
	}
	return fmt.Errorf("revenuecat: %w", ErrSignature)
}

// Parse reads a message. It never returns an error.
func (r *RevenueCat) Parse(body []byte, env entitlement.Environment) (entitlement.Event, error) {
	ev, err := parseRevenueCat(body, env)
	if err != nil {
		return unreadable(entitlement.RevenueCat, env, body, err), nil
	}
	return ev, nil
}
