package provider

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/stripe/stripe-go/v76/webhook"

	"github.com/latchkey/latchkey/pkg/entitlement"
)

const (
	stripeSignatureHeader = "Stripe-Signature"

	// stripeTolerance is how far a signature's time may be from ours, either way. Stripe signs every retry anew, so five minutes are for clocks alone.
	stripeTolerance = 300 * time.Second

	// A real header is about 150 bytes with one v1, and has one v1 for each of at most two active secrets. The bounds keep what an attacker
	// can make us compare small.
	maxStripeHeaderBytes = 4 << 10
	maxStripeSignatures  = 16
)

// StripeConfig is what NewStripe needs.
type StripeConfig struct {
	// Secrets are the endpoint's signing secrets ("whsec_..."), at least one. While Stripe rolls a secret, the old and the new one are both valid.
	Secrets []string
}

// Stripe is the adapter for Stripe's events, thin ones and snapshots of any API version: bodies come in the shape of the endpoint's version, not of
// a library's.
type Stripe struct {
	secrets []string
}

// NewStripe returns an adapter. It refuses a configuration without secrets or with an empty one, because everybody can sign with an empty key.
func NewStripe(c StripeConfig) (*Stripe, error) {
	if len(c.Secrets) == 0 {
		return nil, errors.New("stripe: no webhook secret")
	}
	for i, secret := range c.Secrets {
		if secret == "" || strings.TrimSpace(secret) != secret {
			return nil, fmt.Errorf("stripe: webhook secret %d is empty or has blanks around it", i+1)
		}
	}
	return &Stripe{secrets: append([]string(nil), c.Secrets...)}, nil
}

// Provider returns entitlement.Stripe.
func (s *Stripe) Provider() entitlement.Provider { return entitlement.Stripe }

// Delivery asks for nothing: Stripe repeats for three days what was not answered with 2xx, and waits long enough.
// Source: docs.stripe.com/webhooks#retries.
func (s *Stripe) Delivery() Delivery { return Delivery{} }

// Verify checks the v1 signatures of r with each secret, then the signature's time against now. Errors: ErrSignature, ErrStale.
func (s *Stripe) Verify(r Request, now time.Time) error {
	values := r.Header.Values(stripeSignatureHeader)
	if len(values) != 1 || len(values[0]) > maxStripeHeaderBytes {
		return fmt.Errorf("stripe: %s header: %w", stripeSignatureHeader, ErrSignature)
	}
	header := values[0]
	signedAt, err := stripeSignedAt(header)
	if err != nil {
		return err
	}
	for _, secret := range s.secrets {
		// The library's own tolerance looks at the past alone, and at its own clock.
		if webhook.ValidatePayloadIgnoringTolerance(r.Body, header, secret) != nil {
			continue
		}
		if age := now.Unix() - signedAt; age > int64(stripeTolerance/time.Second) || age < -int64(stripeTolerance/time.Second) {
			return fmt.Errorf("stripe: signed %d s ago: %w", age, ErrStale)
		}
		return nil
	}
	return fmt.Errorf("stripe: %w", ErrSignature)
}

// stripeSignedAt returns the one t of a header, Unix seconds, within what a difference of times can hold.
func stripeSignedAt(header string) (int64, error) {
	var times []string
	signatures := 0
	for part := range strings.SplitSeq(header, ",") {
		switch name, value, _ := strings.Cut(part, "="); name {
		case "t":
			times = append(times, value)
		case "v1":
			signatures++
		}
	}
	if len(times) != 1 || signatures == 0 || signatures > maxStripeSignatures {
		return 0, fmt.Errorf("stripe: %d times and %d signatures in the header: %w", len(times), signatures, ErrSignature)
	}
	t, err := strconv.ParseInt(times[0], 10, 64)
	if err != nil || t < 0 {
		return 0, fmt.Errorf("stripe: signature time: %w", ErrSignature)
	}
	return t, nil
}

// Parse reads an event of any API version. It never returns an error.
func (s *Stripe) Parse(body []byte, env entitlement.Environment) (entitlement.Event, error) {
	ev, err := parseStripe(body, env)
	if err != nil {
		return unreadable(entitlement.Stripe, env, body, err), nil
	}
	return ev, nil
}
