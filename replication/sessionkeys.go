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
