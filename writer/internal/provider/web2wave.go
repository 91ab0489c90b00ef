package provider

import (
	"bytes"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/latchkey/latchkey/pkg/entitlement"
)

const (
	web2waveTokenHeader = "Webhooks-Token"

	// web2wavePatience is how long a message may wait for a leader: Web2Wave cuts the connection after 3 s, and with a single address it never
	// sends again. Half a second is for the way and for the disk.
	web2wavePatience = 2500 * time.Millisecond

	maxWeb2WaveTokenBytes = 4 << 10

	// web2waveTypeSubscription is the type of a message with a subscription's row.
	web2waveTypeSubscription = "subscription"
)

// Web2WaveConfig is what NewWeb2Wave needs.
type Web2WaveConfig struct {
	// Tokens are the project's webhook secrets, at least one: several while one is replaced.
	Tokens []string
}

// Web2Wave is the adapter for Web2Wave's messages. They carry a token and no signature, and no id of their own.
type Web2Wave struct {
	tokens [][sha256.Size]byte
}

// NewWeb2Wave returns an adapter. It refuses a configuration without tokens or with an empty one, because everybody can send an empty header.
func NewWeb2Wave(c Web2WaveConfig) (*Web2Wave, error) {
	if len(c.Tokens) == 0 {
		return nil, errors.New("web2wave: no webhook token")
	}
	w := &Web2Wave{}
	for i, token := range c.Tokens {
		if token == "" || strings.TrimSpace(token) != token || len(token) > maxWeb2WaveTokenBytes {
			return nil, fmt.Errorf("web2wave: webhook token %d is empty, has blanks around it or is too long", i+1)
		}
		w.tokens = append(w.tokens, sha256.Sum256([]byte(token)))
	}
	return w, nil
}

// Provider returns entitlement.Web2Wave.
func (w *Web2Wave) Provider() entitlement.Provider { return entitlement.Web2Wave }

// Delivery asks for an answer within 2.5 s. Source: docs.web2wave.com/reference/webhook-formats.
func (w *Web2Wave) Delivery() Delivery { return Delivery{Patience: web2wavePatience} }

// Verify compares the token. There is no time in the message to be judged. Error: ErrSignature.
func (w *Web2Wave) Verify(r Request, _ time.Time) error {
	values := r.Header.Values(http.CanonicalHeaderKey(web2waveTokenHeader))
	if len(values) != 1 || len(values[0]) > maxWeb2WaveTokenBytes {
		return fmt.Errorf("web2wave: %s header: %w", web2waveTokenHeader, ErrSignature)
	}
	// Hashes are compared, so that the time taken tells nothing about a token, its length included.
	given, right := sha256.Sum256([]byte(values[0])), 0
	for i := range w.tokens {
		right |= subtle.ConstantTimeCompare(given[:], w.tokens[i][:])
	}
	if right != 1 {
		return fmt.Errorf("web2wave: %w", ErrSignature)
	}
	return nil
}

// Parse reads a message of any type. It never returns an error.
func (w *Web2Wave) Parse(body []byte, env entitlement.Environment) (entitlement.Event, error) {
	ev, err := parseWeb2Wave(body, env)
	if err != nil {
		return unreadable(entitlement.Web2Wave, env, body, err), nil
	}
	return ev, nil
}

// Buyer implements BuyerTeller: the row of a subscription has the address of its user, where they gave one in the funnel.
func (w *Web2Wave) Buyer(body []byte) (of entitlement.Link, address string, ok bool) {
	if !bytes.Contains(body, []byte(`"user_email"`)) {
		return "", "", false
	}
	message, err := decodeObject(body)
	if err != nil || word(member(message, "type")) != web2waveTypeSubscription {
		return "", "", false
	}
	row := member(message, "data")
	address = member(row, "user_email").Str
	id, _ := web2waveIdent(member(row, "id")).(string)
	return web2waveLink(id), address, address != "" && id != ""
}

func parseWeb2Wave(body []byte, env entitlement.Environment) (entitlement.Event, error) {
	m, err := decodeObject(body)
	if err != nil {
		return entitlement.Event{}, err
	}
	kind, _ := word(member(m, "type")).(string)
	if kind == "" {
		return entitlement.Event{}, errWeb2WaveType
	}
	switch data := member(m, "data"); kind {
	case web2waveTypeSubscription:
		row, ok := fields(web2waveSubscription)(data).(object)
		if !ok {
			return entitlement.Event{}, errWeb2WaveRow
		}
		return web2waveRowEvent(row, env)
	case "user_property":
		property, ok := fields(web2waveProperty)(data).(object)
		if !ok || property.text("user_id") == "" {
			return entitlement.Event{}, errWeb2WaveUser
		}
		return web2wavePropertyEvent(property, env), nil
	default:
		// Analytics, and what Web2Wave may add. A body is one message, whenever it comes again.
		sum := sha256.Sum256(body)
		head := object{"type": kind}
		if kept, ok := fields(map[string]keep{"user_id": ident})(data).(object); ok {
			head["data"] = kept
		}
		return entitlement.Event{Provider: entitlement.Web2Wave, ID: "sha256:" + hex.EncodeToString(sum[:]), Environment: env, Type: kind,
			Kind: entitlement.Unhandled, Raw: head.raw()}, nil
	}
}

// What is wrong with a message of a type that we act on, so that it proves nothing.
var (
	errWeb2WaveType    = errors.New("no message: the type is missing or wrong")
	errWeb2WaveRow     = errors.New("the subscription is missing, or without an id")
	errWeb2WaveVersion = errors.New("the subscription has no time of its last change")
	errWeb2WaveUser    = errors.New("the property is missing, or without a user")
)

// web2waveID is the id of a message, which has none of its own: a hash over what tells it from the others.
func web2waveID(kind string, parts ...string) string {
	h := sha256.New()
	for _, p := range parts {
		fmt.Fprintf(h, "%d:%s", len(p), p)
	}
	return kind + ":" + hex.EncodeToString(h.Sum(nil))
}
