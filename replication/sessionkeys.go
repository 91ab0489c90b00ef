package replication

import (
	"encoding/json"
	"fmt"

	"github.com/latchkey/latchkey/pkg/entitlement"
	"github.com/latchkey/latchkey/pkg/token"
)

// SessionKeys is the value of the record (environment, KindKeys, CurrentKey): the public keys that session tokens of the
// environment are checked with. Several are live while one is being replaced.
type SessionKeys struct {
	JWKs [][]byte `cbor:"1,keyasint"` // each a JWK as JSON (RFC 7517)

	// Revocations are the lists of revoked keys of edges, writers and issuing keys: the newest of a root and the newest of an issuing key. Every
	// environment has the same ones.
	Revocations []RevocationList `cbor:"2,keyasint,omitempty"`
}

// RevocationList is a signed list of revoked keys, with what a writer knows of it. Only the text proves anything.
type RevocationList struct {
	Text    []byte       `cbor:"1,keyasint"` // as token.SignRevocations made it
	ByRoot  bool         `cbor:"2,keyasint,omitempty"`
	Counter int64        `cbor:"3,keyasint"`
	Keys    []RevokedKey `cbor:"4,keyasint,omitempty"`
}

// RevokedKey is one entry of a list.
type RevokedKey struct {
	ID    string `cbor:"1,keyasint"` // its kid
	Until int64  `cbor:"2,keyasint"` // Unix seconds: from then on no certificate of it can be valid, and it need not be on a list any more
}

// Counts reports whether a key of the list could still be believed at now, Unix seconds, by who has not seen it.
func (l RevocationList) Counts(now int64) bool {
	for _, k := range l.Keys {
		if now < k.Until {
			return true
		}
	}
	return false
}

// Parse returns the keys. A key that is no P-256 JWK makes all of them unusable, because whoever put it there meant it to count.
func (k SessionKeys) Parse() ([]token.JWK, error) {
	keys := make([]token.JWK, 0, len(k.JWKs))
	for i, text := range k.JWKs {
		var jwk token.JWK
		if err := json.Unmarshal(text, &jwk); err != nil {
			return nil, fmt.Errorf("session key %d: %w", i, err)
		}
		if _, err := jwk.PublicKey(); err != nil {
			return nil, fmt.Errorf("session key %d: %w", i, err)
		}
		keys = append(keys, jwk)
	}
	return keys, nil
}

// DecodeSessionKeys reads the value of a keys record.
func DecodeSessionKeys(value []byte) ([]token.JWK, error) {
	var k SessionKeys
	if err := entitlement.Decode(value, &k); err != nil {
		return nil, fmt.Errorf("session keys: %w", err)
	}
	return k.Parse()
}

// DecodeRevocations reads the lists of revoked keys in the value of a keys record.
func DecodeRevocations(value []byte) ([]RevocationList, error) {
	var k SessionKeys
	if err := entitlement.Decode(value, &k); err != nil {
		return nil, fmt.Errorf("revocations: %w", err)
	}
	return k.Revocations, nil
}
