package provider

import (
	"fmt"
	"time"

	"github.com/tidwall/gjson"

	"github.com/latchkey/latchkey/pkg/entitlement"
)

// IapticConfig is what NewIaptic needs.
type IapticConfig struct {
	// Passwords are the account's secret key, as it comes inside of every message, at least one: several while one is replaced.
	Passwords []string
}

// Iaptic is the adapter for iaptic's webhooks. Each holds the password, which opens iaptic's API too: it is compared, and nothing that is made
// of a message holds it.
type Iaptic struct {
	passwords sharedSecrets
}

// NewIaptic returns an adapter. It refuses a configuration without a password or with an empty one, because everybody can send that.
func NewIaptic(c IapticConfig) (*Iaptic, error) {
	passwords, err := newSharedSecrets("password", c.Passwords)
	if err != nil {
		return nil, fmt.Errorf("iaptic: %w", err)
	}
	return &Iaptic{passwords: passwords}, nil
}

// Provider returns entitlement.Iaptic.
func (a *Iaptic) Provider() entitlement.Provider { return entitlement.Iaptic }

// Delivery asks for nothing: iaptic repeats what was not answered with 200. An address that refuses for long is left alone for 30 days, so a
// wrong password is a matter for the alarm. Source: www.iaptic.com/documentation/webhooks.
func (a *Iaptic) Delivery() Delivery { return Delivery{} }

// Verify compares the password in the body. There is no time in it to be judged. Error: ErrSignature, for what is no JSON object too: nothing
// says who sent it.
func (a *Iaptic) Verify(r Request, _ time.Time) error {
	m, err := decodeObject(r.Body)
	if err != nil {
		return fmt.Errorf("iaptic: %w: %w", err, ErrSignature)
	}
	given := member(m, "password")
	if given.Type != gjson.String || len(given.Str) > maxSharedSecretBytes || !a.passwords.has(given.Str) {
		return fmt.Errorf("iaptic: password: %w", ErrSignature)
	}
	return nil
}

// Parse reads a message of any type. It never returns an error.
func (a *Iaptic) Parse(body []byte, env entitlement.Environment) (entitlement.Event, error) {
	bare := withoutPassword(body)
	ev, err := parseIaptic(bare, env)
	if err != nil {
		return unreadable(entitlement.Iaptic, env, bare, err), nil
	}
	return ev, nil
}

// withoutPassword returns a message without its password, so that not even a hash is made of it. What is no JSON object has none that Verify saw.
func withoutPassword(body []byte) []byte {
	m, err := decodeObject(body)
	if err != nil {
		return nil
	}
	out := []byte{'{'}
	m.ForEach(func(key, value gjson.Result) bool {
		if key.Str != "password" {
			if len(out) > 1 {
				out = append(out, ',')
			}
			out = append(append(append(out, key.Raw...), ':'), value.Raw...)
		}
		return true
	})
	return append(out, '}')
}
