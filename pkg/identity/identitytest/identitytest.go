// Package identitytest is an identity provider for tests: it signs users in with a key of its own, which it publishes as real ones do.
package identitytest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"github.com/MicahParks/jwkset"
	"github.com/golang-jwt/jwt/v5"
)

// Provider signs users in. Its tokens are ES256.
type Provider struct {
	// URL is where the keys lie.
	URL string
	// Asks counts the requests for them.
	Asks atomic.Int64
	// Down has those requests fail.
	Down atomic.Bool

	t    testing.TB
	key  *ecdsa.PrivateKey
	keys []byte
}

const keyID = "k1"

// New returns a provider that answers until t ends.
func New(t testing.TB) *Provider {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	jwk, err := jwkset.NewJWKFromKey(&key.PublicKey, jwkset.JWKOptions{Metadata: jwkset.JWKMetadataOptions{KID: keyID}})
	if err != nil {
		t.Fatal(err)
	}
	keys, err := json.Marshal(jwkset.JWKSMarshal{Keys: []jwkset.JWKMarshal{jwk.Marshal()}})
	if err != nil {
		t.Fatal(err)
	}
	p := &Provider{t: t, key: key, keys: keys}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if p.Asks.Add(1); p.Down.Load() {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		_, _ = w.Write(p.keys)
	}))
	t.Cleanup(server.Close)
	p.URL = server.URL
	return p
}

// JWKS is what lies at URL.
func (p *Provider) JWKS() []byte { return p.keys }

// Token signs subject in to the app that audience names, at now for 10 minutes. change alters the token before it is signed.
func (p *Provider) Token(issuer, audience, subject string, now time.Time, change ...func(*jwt.Token)) string {
	p.t.Helper()
	tok := jwt.NewWithClaims(jwt.SigningMethodES256, jwt.MapClaims{"iss": issuer, "aud": audience, "sub": subject, "iat": now.Unix(), "exp": now.Unix() + 600})
	tok.Header["kid"] = keyID
	for _, f := range change {
		f(tok)
	}
	text, err := tok.SignedString(p.key)
	if err != nil {
		p.t.Fatal(err)
	}
	return text
}
