package provider

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"strings"
	"time"

	"github.com/tidwall/gjson"

	"github.com/latchkey/latchkey/pkg/entitlement"
)

const (
	// maxSharedSecretBytes bounds what is compared with a secret that comes as it is.
	maxSharedSecretBytes = 4 << 10

	// maxAdaptyHandshakeBytes bounds what is looked at before the sender is known. The handshake with a text is below 100 bytes.
	maxAdaptyHandshakeBytes = 512
)

// sharedSecrets are texts of which a sender must know one. Their hashes are compared, so that the time taken tells nothing about them, their
// length included.
type sharedSecrets [][sha256.Size]byte

func newSharedSecrets(what string, secrets []string) (sharedSecrets, error) {
	if len(secrets) == 0 {
		return nil, fmt.Errorf("no %s", what)
	}
	var out sharedSecrets
	for i, secret := range secrets {
		if secret == "" || strings.TrimSpace(secret) != secret || len(secret) > maxSharedSecretBytes {
			return nil, fmt.Errorf("%s %d is empty, has blanks around it or is too long", what, i+1)
		}
		out = append(out, sha256.Sum256([]byte(secret)))
	}
	return out, nil
}

func (s sharedSecrets) has(given string) bool {
	sum, right := sha256.Sum256([]byte(given)), 0
	for i := range s {
		right |= subtle.ConstantTimeCompare(sum[:], s[i][:])
	}
	return right == 1 && given != ""
}

// AdaptyConfig is what NewAdapty needs.
type AdaptyConfig struct {
	// Authorizations are the texts that stand in the dashboard as "Authorization header value", at least one: several while one is replaced. Adapty
	// sends the text as it was typed and adds no "Bearer".
	Authorizations []string
	// EventNames maps the names that the dashboard gives to events to Adapty's own.
	EventNames map[string]string
}

// Adapty is the adapter for Adapty's webhooks. They carry a text that both sides know, no signature and no time, so that a repeat is known by
// its id alone.
type Adapty struct {
	secrets sharedSecrets
	names   map[string]string
}

// ErrAdaptyName means that a name in AdaptyConfig.EventNames is mapped to none of Adapty's events.
var ErrAdaptyName = errors.New("adapty: event name")

// NewAdapty returns an adapter. It refuses a configuration without an authorization or with an empty one, because everybody can send an empty
// header. Errors: ErrAdaptyName.
func NewAdapty(c AdaptyConfig) (*Adapty, error) {
	for name, event := range c.EventNames {
		if _, known := adaptyTypes[event]; !known || name == "" {
			return nil, fmt.Errorf("%w: %q is no event of Adapty", ErrAdaptyName, event)
		}
	}
	secrets, err := newSharedSecrets("authorization", c.Authorizations)
	if err != nil {
		return nil, fmt.Errorf("adapty: %w", err)
	}
	return &Adapty{secrets: secrets, names: maps.Clone(c.EventNames)}, nil
}

// Provider returns entitlement.Adapty.
func (a *Adapty) Provider() entitlement.Provider { return entitlement.Adapty }

// adaptyRefused answers what is not taken: Adapty repeats only what was answered with less than 200 or more than 404, so 401 or 404 would lose for good what our own
// mistake refused. Source: adapty.io/docs/set-up-webhook-integration.
const adaptyRefused = http.StatusServiceUnavailable

// Delivery has a status of its own for what Verify refused, and Adapty's test of the address. Adapty waits 10 s.
func (a *Adapty) Delivery() Delivery {
	return Delivery{RefusedStatus: adaptyRefused, Handshake: adaptyHandshake}
}

// adaptyHandshake answers the test that Adapty makes when the address is saved: the empty object, and before 2025 an object with a text that is
// to come back.
func adaptyHandshake(r Request) (answer []byte, ok bool) {
	if len(r.Body) > maxAdaptyHandshakeBytes || !gjson.ValidBytes(r.Body) {
		return nil, false
	}
	names, check := 0, gjson.Result{}
	v := gjson.ParseBytes(r.Body)
	if !v.IsObject() {
		return nil, false
	}
	v.ForEach(func(key, value gjson.Result) bool {
		if names++; key.Str == "adapty_check" {
			check = value
		}
		return names < 2
	})
	switch {
	case names == 0:
		return []byte("{}"), true
	case names == 1 && check.Type == gjson.String:
		answer, err := json.Marshal(map[string]string{"adapty_check_response": check.Str})
		return answer, err == nil
	}
	return nil, false
}

// Verify compares the Authorization header, all of it. There is no time in it to be judged. Error: ErrSignature.
func (a *Adapty) Verify(r Request, _ time.Time) error {
	values := r.Header.Values("Authorization")
	if len(values) != 1 || len(values[0]) > maxSharedSecretBytes || !a.secrets.has(values[0]) {
		return fmt.Errorf("adapty: Authorization header: %w", ErrSignature)
	}
	return nil
}

// Parse reads an event of any type. It never returns an error.
func (a *Adapty) Parse(body []byte, env entitlement.Environment) (entitlement.Event, error) {
	ev, err := a.parse(body, env)
	if err != nil {
		return unreadable(entitlement.Adapty, env, body, err), nil
	}
	return ev, nil
}
