package writer

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/mail"
	"strings"

	"github.com/latchkey/latchkey/pkg/config"
	"github.com/latchkey/latchkey/pkg/entitlement"
	"github.com/latchkey/latchkey/pkg/problem"
)

// An e-mail address is sealed by the node that receives it, before anything of it is proposed, and opened by the node that shows it: commands, rows,
// journals, snapshots and backups hold nothing that is readable without the key, which is in none of them.

const (
	// sealKeyBytes is the length of the configured key.
	sealKeyBytes = 32
	// sealVersion is a sealed text's first byte.
	sealVersion = 1
	// maxEmailBytes is what SMTP lets an address have (RFC 5321, 4.5.3.1.3, without the angle brackets).
	maxEmailBytes = 254

	contactKeyFile = "contacts.key"
)

// ContactsConfig says how people's addresses are kept.
type ContactsConfig struct {
	// Key seals e-mail addresses: 64 hexadecimal digits by lot, the same on every writer, kept like a private key. Without it everything that needs an
	// address answers not-configured. Whoever loses it loses the addresses, and nothing else; whoever has it and a copy of the data can read them.
	Key config.Secret `config:"key"`
}

func (c *ContactsConfig) validate(m *config.Mistakes) {
	if c.Key == "" {
		return
	}
	if key, err := hex.DecodeString(string(c.Key)); err != nil || len(key) != sealKeyBytes {
		m.Add("contacts.key", "want %d hexadecimal digits", 2*sealKeyBytes)
	}
}

// makeContactKey makes the file of a new contacts.key in dir. Error: ErrKeysExist.
func makeContactKey(dir string) error {
	var key [sealKeyBytes]byte
	_, _ = rand.Read(key[:]) // never fails, see crypto/rand
	return makeFile(dir, contactKeyFile, []byte(hex.EncodeToString(key[:])+"\n"), 0o600)
}

// errUnsealed means that a sealed text is not of this key, or not of the place where it was found.
var errUnsealed = errors.New("not sealed with this key for this place")

// sealer seals what must not be readable in anything that is written. Each use has a key of its own, derived from the configured one. A nil one stands for a
// configuration without a key.
type sealer struct {
	aead  cipher.AEAD
	index []byte
}

// newSealer returns nil where no key is configured. The key was validated.
func newSealer(cfg ContactsConfig) (*sealer, error) {
	if cfg.Key == "" {
		return nil, nil
	}
	key, err := hex.DecodeString(string(cfg.Key))
	if err != nil {
		return nil, errors.New("contacts.key: not hexadecimal") // hex's own error quotes a character of it
	}
	derive := func(use string) []byte {
		derived, deriveErr := hkdf.Key(sha256.New, key, nil, "latchkey contacts: "+use, sealKeyBytes)
		err = errors.Join(err, deriveErr)
		return derived
	}
	s := &sealer{index: derive("index")}
	block, blockErr := aes.NewCipher(derive("seal"))
	if err = errors.Join(err, blockErr); err != nil {
		return nil, fmt.Errorf("contacts.key: %w", err)
	}
	s.aead, err = cipher.NewGCM(block)
	return s, err
}

// seal returns text sealed for a place: it can be opened only with the same environment and place, so that no sealed text can be put elsewhere.
func (s *sealer) seal(env entitlement.Environment, place, text string) []byte {
	nonce := make([]byte, s.aead.NonceSize())
	_, _ = rand.Read(nonce) // never fails
	return s.aead.Seal(append([]byte{sealVersion}, nonce...), nonce, []byte(text), sealedFor(env, place))
}

// open returns what was sealed. Error: errUnsealed.
func (s *sealer) open(env entitlement.Environment, place string, sealed []byte) (string, error) {
	if s == nil || len(sealed) < 1+s.aead.NonceSize() || sealed[0] != sealVersion {
		return "", errUnsealed
	}
	nonce, rest := sealed[1:1+s.aead.NonceSize()], sealed[1+s.aead.NonceSize():]
	text, err := s.aead.Open(nil, nonce, rest, sealedFor(env, place))
	if err != nil {
		return "", errUnsealed
	}
	return string(text), nil
}

func sealedFor(env entitlement.Environment, place string) []byte {
	return []byte(string(env) + "\x00" + place)
}

// mac returns a hash that only who has the key can make, so that nobody finds a text by trying the likely ones. use keeps those of one purpose apart
// from those of another.
func (s *sealer) mac(env entitlement.Environment, use string, text []byte) []byte {
	h := hmac.New(sha256.New, s.index)
	h.Write(sealedFor(env, use))
	h.Write([]byte{0})
	h.Write(text)
	return h.Sum(nil)
}

// emailIndex is the same for every way of writing one address, by which accounts that share it are found.
func (s *sealer) emailIndex(env entitlement.Environment, email string) []byte {
	return s.mac(env, "email", []byte(strings.ToLower(email)))
}

// cardIndex is the same for a card whoever pays with it.
func (s *sealer) cardIndex(env entitlement.Environment, fingerprint string) []byte {
	return s.mac(env, "card", []byte(fingerprint))
}

// parseEmail returns a bare address, without surrounding space. Error: a problem that does not quote it.
func parseEmail(field, text string) (string, error) {
	text = strings.TrimSpace(text)
	parsed, err := mail.ParseAddress(text)
	if err != nil || parsed.Address != text || len(text) > maxEmailBytes || strings.ContainsAny(text, "\r\n") {
		return "", wrong(field, "want one e-mail address of at most %d bytes, such as ann@example.com", maxEmailBytes)
	}
	return text, nil
}

// sealing returns the node's sealer. Error: a not-configured problem.
func (w *Writer) sealing() (*sealer, error) {
	if w.sealer == nil {
		return nil, problem.New(problem.NotConfigured, "No contacts.key is configured, without which no e-mail address is taken.")
	}
	return w.sealer, nil
}
