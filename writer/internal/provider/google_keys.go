package provider

import (
	"context"
	"crypto/rsa"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/tidwall/gjson"
)

const (
	// googleKeysURL is where Google publishes what it signs identity tokens with.
	googleKeysURL = "https://www.googleapis.com/oauth2/v3/certs"

	// googleKeysPause is the shortest time between two fetches, whatever tokens name: others must not make us ask.
	googleKeysPause = time.Minute
	// googleKeysAge is how long a set counts that says nothing about that.
	googleKeysAge = time.Hour
	// googleKeysTimeout is how long a fetch may take: a message waits for it.
	googleKeysTimeout = 5 * time.Second

	// A real set is 2 keys in 1.5 KiB.
	maxGoogleKeysBytes = 256 << 10
	maxGoogleKeys      = 64

	// RSA keys of fewer bits can be broken, and more than these take too long to check.
	minRSABits = 2048
	maxRSABits = 8192
)

// ErrGoogleKeys means a key set that cannot be used, or an address that none may be fetched from.
var ErrGoogleKeys = errors.New("google: key set")

// GoogleKeys are the public keys that push tokens are signed with. It is safe for concurrent use.
type GoogleKeys struct {
	url    string // empty: the keys are fixed
	client *http.Client

	mu      sync.Mutex
	keys    map[string]*rsa.PublicKey // by kid; "" fits every token
	until   time.Time                 // they are to be fetched again
	tried   time.Time                 // last fetch
	pending chan struct{}             // closed when a fetch ends; nil: none
}

// FixedKeys reads a key set that never changes, JWKS. A key without a kid fits every token. Error: ErrGoogleKeys.
func FixedKeys(set []byte) (*GoogleKeys, error) {
	keys, err := readRSAKeys(set)
	if err != nil {
		return nil, err
	}
	return &GoogleKeys{keys: keys}, nil
}

// FetchedKeys fetches the set when a token needs it, keeps it for as long as the answer allows, and longer while no other one comes. Empty is Google's
// own address; http:// is for loopback addresses. Error: ErrGoogleKeys.
func FetchedKeys(url string) (*GoogleKeys, error) {
	if url == "" {
		url = googleKeysURL
	}
	if err := checkBase(url, ErrGoogleKeys); err != nil {
		return nil, err
	}
	return &GoogleKeys{url: url, client: googleClient(googleKeysTimeout)}, nil
}

var errGoogleKey = errors.New("no such key")

// find returns the key that a token names. It fetches the set when there is none that still counts, or when it lacks the key.
func (k *GoogleKeys) find(kid string, now time.Time) (*rsa.PublicKey, error) {
	k.mu.Lock()
	_, known := k.get(kid)
	due := k.url != "" && (!known || !now.Before(k.until)) && now.Sub(k.tried).Abs() >= googleKeysPause
	switch {
	case due && k.pending == nil:
		done := make(chan struct{})
		k.pending, k.tried = done, now
		k.mu.Unlock()
		keys, age, err := k.fetch()
		k.mu.Lock()
		if err == nil {
			k.keys, k.until = keys, now.Add(age)
		}
		k.pending = nil
		close(done)
	case !known && k.pending != nil: // by another message
		pending := k.pending
		k.mu.Unlock()
		<-pending
		k.mu.Lock()
	}
	defer k.mu.Unlock()
	key, known := k.get(kid)
	if !known {
		return nil, errGoogleKey
	}
	return key, nil
}

// get returns a key. k.mu is held.
func (k *GoogleKeys) get(kid string) (*rsa.PublicKey, bool) {
	if key := k.keys[kid]; key != nil {
		return key, true
	}
	key := k.keys[""]
	return key, key != nil
}

func (k *GoogleKeys) fetch() (keys map[string]*rsa.PublicKey, age time.Duration, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), googleKeysTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, k.url, nil)
	if err != nil {
		return nil, 0, fmt.Errorf("%w: %w", ErrGoogleKeys, err)
	}
	res, err := k.client.Do(req)
	if err != nil {
		return nil, 0, fmt.Errorf("%w: %w", ErrGoogleKeys, err)
	}
	defer res.Body.Close()
	set, err := io.ReadAll(io.LimitReader(res.Body, maxGoogleKeysBytes))
	if err != nil || res.StatusCode != http.StatusOK {
		return nil, 0, fmt.Errorf("%w: status %d", ErrGoogleKeys, res.StatusCode)
	}
	keys, err = readRSAKeys(set)
	return keys, googleMaxAge(res.Header), err
}

// googleMaxAge is how long an answer counts by its Cache-Control and Age, between googleKeysPause and a day.
func googleMaxAge(h http.Header) time.Duration {
	age := googleKeysAge
	for part := range strings.SplitSeq(h.Get("Cache-Control"), ",") {
		name, value, _ := strings.Cut(strings.TrimSpace(part), "=")
		if seconds, err := strconv.Atoi(value); err == nil && strings.EqualFold(name, "max-age") {
			age = time.Duration(min(max(seconds, 0), 86400)) * time.Second
		}
	}
	if seconds, err := strconv.Atoi(h.Get("Age")); err == nil && seconds > 0 {
		age -= time.Duration(min(seconds, 86400)) * time.Second
	}
	return max(age, googleKeysPause)
}

// readRSAKeys reads the RSA signing keys of a JWKS by kid. Error: ErrGoogleKeys, also where there are none.
func readRSAKeys(set []byte) (map[string]*rsa.PublicKey, error) {
	v, err := decodeObject(set)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrGoogleKeys, err)
	}
	keys := map[string]*rsa.PublicKey{}
	member(v, "keys").ForEach(func(_, jwk gjson.Result) bool {
		use, alg := member(jwk, "use").Str, member(jwk, "alg").Str
		if member(jwk, "kty").Str != "RSA" || use != "" && use != "sig" || alg != "" && alg != "RS256" {
			return true
		}
		n, errN := base64.RawURLEncoding.DecodeString(member(jwk, "n").Str)
		e, errE := base64.RawURLEncoding.DecodeString(member(jwk, "e").Str)
		modulus, exponent := new(big.Int).SetBytes(n), new(big.Int).SetBytes(e)
		if bits := modulus.BitLen(); errN != nil || errE != nil || bits < minRSABits || bits > maxRSABits || exponent.BitLen() > 31 || exponent.Int64() < 3 || exponent.Bit(0) == 0 {
			return true
		}
		keys[member(jwk, "kid").Str] = &rsa.PublicKey{N: modulus, E: int(exponent.Int64())}
		return len(keys) < maxGoogleKeys
	})
	if len(keys) == 0 {
		return nil, fmt.Errorf("%w: no RSA key in it", ErrGoogleKeys)
	}
	return keys, nil
}
