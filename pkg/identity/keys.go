package identity

import (
	"crypto"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/MicahParks/jwkset"

	"github.com/latchkey/latchkey/pkg/token"
)

const (
	// keysAge is how old a set of keys may get before Run fetches it again: a key that was taken back must go. A file is read more often.
	keysAge = 10 * time.Minute
	fileAge = time.Minute
	// keysPause is the shortest time between two fetches, whatever tokens name: others must not make us ask.
	keysPause = 30 * time.Second
	// keysTimeout is how long a fetch may take. At most one request waits for it.
	keysTimeout = 5 * time.Second

	// Real sets have 2 to 10 keys in a few KiB.
	maxKeysBytes = 256 << 10
	maxKeys      = 64
)

// ErrKeys means that the provider's keys could not be read: whether the token is good is not known. Ask again.
var ErrKeys = errors.New("keys of the identity provider not available")

type publicKey struct {
	key       crypto.PublicKey
	algorithm string // "": any that it fits
}

// keySet is one provider's keys as of the last time that they could be read.
type keySet struct {
	read func() ([]byte, error)
	now  func() time.Time
	most time.Duration // that the keys may get old

	mu      sync.Mutex
	keys    map[string]publicKey // by kid; "" is that of a set with one key which has none; nil: none were read yet
	tried   time.Time            // when they were last read, or that was tried
	reading bool
	failed  bool // the last time
}

func fileKeys(path string, now func() time.Time) *keySet {
	return &keySet{now: now, most: fileAge, read: func() ([]byte, error) { return os.ReadFile(path) }}
}

func fetchedKeys(address string, now func() time.Time) *keySet {
	client := &http.Client{Timeout: keysTimeout, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	return &keySet{now: now, most: keysAge, read: func() ([]byte, error) {
		resp, err := client.Get(address)
		if err != nil {
			return nil, err
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return nil, fmt.Errorf("status %d", resp.StatusCode)
		}
		return io.ReadAll(io.LimitReader(resp.Body, maxKeysBytes+1))
	}}
}

// find returns the key for what a token's header names. Errors: ErrKeys, token.ErrUnknownKey.
func (s *keySet) find(algorithm, kid string) (crypto.PublicKey, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	k, known := s.keys[kid]
	if !known && s.reading {
		return nil, ErrKeys // another token has them read right now
	}
	if now := s.now(); !known && (s.tried.IsZero() || now.Sub(s.tried).Abs() >= keysPause) {
		s.renew(now)
		k, known = s.keys[kid]
	}
	switch {
	case !known && s.failed:
		return nil, ErrKeys
	case !known, k.algorithm != "" && k.algorithm != algorithm:
		return nil, token.ErrUnknownKey
	}
	return k.key, nil
}

// refresh reads keys again that are in use and have become old.
func (s *keySet) refresh() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if now := s.now(); !s.reading && s.keys != nil && now.Sub(s.tried).Abs() >= s.most {
		s.renew(now)
	}
}

// renew reads the keys, without s.mu, which the caller holds. What could not be read leaves those that are there.
func (s *keySet) renew(now time.Time) {
	s.reading, s.tried = true, now
	s.mu.Unlock()
	text, err := s.read()
	var keys map[string]publicKey
	if err == nil {
		keys, err = parseKeys(text)
	}
	s.mu.Lock()
	if s.reading, s.failed = false, err != nil; err == nil {
		s.keys = keys
	}
}

// parseKeys reads a JWK set (RFC 7517). Keys that are for something else, or of a kind that is not known, are left out.
func parseKeys(text []byte) (map[string]publicKey, error) {
	var set jwkset.JWKSMarshal
	if len(text) > maxKeysBytes {
		return nil, fmt.Errorf("%w: longer than %d bytes", ErrKeys, maxKeysBytes)
	}
	if err := json.Unmarshal(text, &set); err != nil {
		return nil, fmt.Errorf("%w: no JWK set", ErrKeys)
	}
	if len(set.Keys) > maxKeys {
		return nil, fmt.Errorf("%w: more than %d keys", ErrKeys, maxKeys)
	}
	keys := map[string]publicKey{}
	for _, m := range set.Keys {
		if m.USE != "" && m.USE != jwkset.UseSig || m.KID == "" && len(set.Keys) > 1 {
			continue
		}
		// The certificates beside a key prove nothing here, and x5u would have us ask an address that the set names.
		m.X5U, m.X5C, m.X5T, m.X5TS256 = "", nil, "", ""
		k, err := jwkset.NewJWKFromMarshal(m, jwkset.JWKMarshalOptions{}, jwkset.JWKValidateOptions{})
		if err != nil {
			continue
		}
		keys[m.KID] = publicKey{k.Key(), string(m.ALG)}
	}
	if len(keys) == 0 {
		return nil, fmt.Errorf("%w: no key that signs", ErrKeys)
	}
	return keys, nil
}
