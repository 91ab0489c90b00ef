package identity

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/MicahParks/jwkset"
	"github.com/golang-jwt/jwt/v5"

	"github.com/latchkey/latchkey/pkg/config"
	"github.com/latchkey/latchkey/pkg/token"
)

// issuer signs users in, and publishes its keys.
type issuer struct {
	t      *testing.T
	server *httptest.Server

	mu   sync.Mutex
	keys map[string]crypto.Signer
	uses map[string]jwkset.USE
	asks int
	down bool
}

func newIssuer(t *testing.T, keys map[string]crypto.Signer) *issuer {
	i := &issuer{t: t, keys: keys, uses: map[string]jwkset.USE{}}
	i.server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		i.mu.Lock()
		defer i.mu.Unlock()
		if i.asks++; i.down {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		_, _ = w.Write(i.set())
	}))
	t.Cleanup(i.server.Close)
	return i
}

func (i *issuer) set() []byte {
	var set jwkset.JWKSMarshal
	for kid, key := range i.keys {
		jwk, err := jwkset.NewJWKFromKey(key.Public(), jwkset.JWKOptions{Metadata: jwkset.JWKMetadataOptions{KID: kid, USE: i.uses[kid]}})
		if err != nil {
			i.t.Fatal(err)
		}
		m := jwk.Marshal()
		m.X5U = "http://127.0.0.1:1/never-asked"
		set.Keys = append(set.Keys, m)
	}
	text, err := json.Marshal(set)
	if err != nil {
		i.t.Fatal(err)
	}
	return text
}

func (i *issuer) change(f func()) {
	i.mu.Lock()
	defer i.mu.Unlock()
	f()
}

func (i *issuer) asked() int {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.asks
}

func (i *issuer) sign(method jwt.SigningMethod, kid string, claims jwt.MapClaims, header ...string) string {
	i.t.Helper()
	tok := jwt.NewWithClaims(method, claims)
	tok.Header["kid"] = kid
	for n := 0; n < len(header); n += 2 {
		tok.Header[header[n]] = header[n+1]
	}
	var key any = i.keys[kid]
	if strings.HasPrefix(method.Alg(), "HS") {
		key = []byte("what everybody can read: a public key as a password")
	} else if method == jwt.SigningMethodNone {
		key = jwt.UnsafeAllowNoneSignatureType
	}
	text, err := tok.SignedString(key)
	if err != nil {
		i.t.Fatal(err)
	}
	return text
}

const iss = "https://id.example.com/"

func newKeys(t *testing.T) map[string]crypto.Signer {
	t.Helper()
	weak, err1 := rsa.GenerateKey(rand.Reader, 1024)
	strong, err2 := rsa.GenerateKey(rand.Reader, 2048)
	p256, err3 := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	p384, err4 := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	_, ed, err5 := ed25519.GenerateKey(rand.Reader)
	if err := errors.Join(err1, err2, err3, err4, err5); err != nil {
		t.Fatal(err)
	}
	return map[string]crypto.Signer{"weak": weak, "rsa": strong, "p256": p256, "p384": p384, "ed": ed}
}

// TestWhoIsSignedIn is the table of what a sign-in token must be.
func TestWhoIsSignedIn(t *testing.T) {
	t.Setenv("GODEBUG", "rsa1024min=0")
	i := newIssuer(t, newKeys(t))
	i.keys["encrypts"] = i.keys["p256"]
	i.uses["encrypts"] = jwkset.UseEnc
	now := time.Unix(1_800_000_000, 0)
	providers := NewProviders(map[string][]Config{
		"production": {{Issuer: iss, Audiences: []string{"com.example.app", "com.example.web"}, JWKSURL: i.server.URL, Algorithms: []string{"RS256", "ES256", "EdDSA"}}},
		"sandbox":    {{Issuer: iss, Audiences: []string{"com.example.test"}, JWKSURL: i.server.URL, SubjectClaim: "uid"}},
	}, func() time.Time { return now })
	claims := func(change ...any) jwt.MapClaims {
		c := jwt.MapClaims{"iss": iss, "aud": "com.example.app", "sub": "user 1", "iat": now.Unix() - 10, "exp": now.Unix() + 3600, "nested": map[string]any{"x": 1.5}}
		for n := 0; n < len(change); n += 2 {
			if c[change[n].(string)] = change[n+1]; change[n+1] == nil {
				delete(c, change[n].(string))
			}
		}
		return c
	}
	good := i.sign(jwt.SigningMethodRS256, "rsa", claims())
	tests := []struct {
		name, token string
		env         string
		subject     string
		err         error
	}{
		{"an ID token", good, "production", "user 1", nil},
		{"of one of several audiences", i.sign(jwt.SigningMethodES256, "p256", claims("aud", []string{"x", "com.example.web"})), "production", "user 1", nil},
		{"with another kind of key", i.sign(jwt.SigningMethodEdDSA, "ed", claims()), "production", "user 1", nil},
		{"of another environment's app, whose subject another claim names", i.sign(jwt.SigningMethodRS256, "rsa", claims("aud", "com.example.test", "uid", "u-9")), "sandbox", "u-9", nil},
		{"an issuer that nobody configured", i.sign(jwt.SigningMethodRS256, "rsa", claims("iss", "https://evil.example")), "", "", token.ErrIssuer},
		{"no issuer", i.sign(jwt.SigningMethodRS256, "rsa", claims("iss", nil)), "", "", token.ErrMalformed},
		{"another app", i.sign(jwt.SigningMethodRS256, "rsa", claims("aud", "com.example.other")), "", "", token.ErrAudience},
		{"no audience", i.sign(jwt.SigningMethodRS256, "rsa", claims("aud", nil)), "", "", token.ErrMalformed},
		{"expired", i.sign(jwt.SigningMethodRS256, "rsa", claims("exp", now.Unix()-60)), "", "", token.ErrExpired},
		{"within the leeway", i.sign(jwt.SigningMethodRS256, "rsa", claims("exp", now.Unix()-59)), "production", "user 1", nil},
		{"without an end", i.sign(jwt.SigningMethodRS256, "rsa", claims("exp", nil)), "", "", token.ErrMalformed},
		{"not yet", i.sign(jwt.SigningMethodRS256, "rsa", claims("nbf", now.Unix()+61)), "", "", token.ErrNotYetValid},
		{"of the future", i.sign(jwt.SigningMethodRS256, "rsa", claims("iat", now.Unix()+61)), "", "", token.ErrNotYetValid},
		{"no subject", i.sign(jwt.SigningMethodRS256, "rsa", claims("sub", nil)), "", "", token.ErrMalformed},
		{"a number as subject", i.sign(jwt.SigningMethodRS256, "rsa", claims("sub", 7)), "", "", token.ErrMalformed},
		{"a subject too long for an alias", i.sign(jwt.SigningMethodRS256, "rsa", claims("sub", strings.Repeat("x", 512-len(iss)))), "", "", token.ErrMalformed},
		{"the longest subject", i.sign(jwt.SigningMethodRS256, "rsa", claims("sub", strings.Repeat("x", 511-len(iss)))), "production", strings.Repeat("x", 511-len(iss)), nil},
		{"a subject with a line break", i.sign(jwt.SigningMethodRS256, "rsa", claims("sub", "a\nb")), "", "", token.ErrMalformed},
		{"an algorithm that is not this provider's", i.sign(jwt.SigningMethodES384, "p384", claims()), "", "", token.ErrSignature},
		{"another algorithm of the same key", i.sign(jwt.SigningMethodPS256, "rsa", claims()), "", "", token.ErrSignature},
		{"a password", i.sign(jwt.SigningMethodHS256, "rsa", claims()), "", "", token.ErrSignature},
		{"nothing signed", i.sign(jwt.SigningMethodNone, "rsa", claims()), "", "", token.ErrSignature},
		{"a key that is too short", i.sign(jwt.SigningMethodRS256, "weak", claims()), "", "", token.ErrSignature},
		{"a key that is for encryption", i.sign(jwt.SigningMethodES256, "encrypts", claims()), "", "", token.ErrUnknownKey},
		{"a critical header", i.sign(jwt.SigningMethodRS256, "rsa", claims(), "crit", "x"), "", "", token.ErrMalformed},
		{"a changed signature", good[:len(good)-8] + "AAAAAAAA", "", "", token.ErrSignature},
		{"another encoding of it", good + "=", "", "", token.ErrMalformed},
		{"a line break in it", good + "\n", "", "", token.ErrMalformed},
		{"no token", "nonsense", "", "", token.ErrMalformed},
		{"too long", i.sign(jwt.SigningMethodRS256, "rsa", claims("x", strings.Repeat("x", token.MaxSignInBytes))), "", "", token.ErrMalformed},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			env, who, err := providers.Verify(tt.token, now)
			if !errors.Is(err, tt.err) || env != tt.env || who.Subject != tt.subject {
				t.Fatalf("Verify = %s %+v, %v; want %s %q, %v", env, who, err, tt.env, tt.subject, tt.err)
			}
			if err == nil && (who.Issuer != iss || who.IssuedAt != now.Unix()-10 || who.Alias() != iss+"|"+tt.subject) {
				t.Errorf("who is %+v", who)
			}
			if err != nil && len(tt.token) > 8 && strings.Contains(err.Error(), tt.token[:8]) {
				t.Errorf("the error quotes the token: %v", err)
			}
		})
	}
}

// TestKeysAreRotated: a new key is asked for once it is met, an old one goes when the set is read again, nobody makes us ask often, and while the keys cannot be read
// nothing is said about a token.
func TestKeysAreRotated(t *testing.T) {
	i := newIssuer(t, newKeys(t))
	delete(i.keys, "weak")
	delete(i.keys, "p384")
	now := time.Unix(1_800_000_000, 0)
	providers := NewProviders(map[string][]Config{"production": {{Issuer: iss, Audiences: []string{"a"}, JWKSURL: i.server.URL}}}, func() time.Time { return now })
	sign := func(kid string, method jwt.SigningMethod) string {
		return i.sign(method, kid, jwt.MapClaims{"iss": iss, "aud": "a", "sub": "u", "exp": now.Unix() + 1<<30})
	}
	first := sign("p256", jwt.SigningMethodES256)
	ask := func(name, tok string, want error, asks int) {
		t.Helper()
		before := i.asked()
		if _, _, err := providers.Verify(tok, now); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", name, err, want)
		}
		if got := i.asked() - before; got != asks {
			t.Errorf("%s: the provider was asked %d times, want %d", name, got, asks)
		}
	}
	i.change(func() { i.down = true })
	ask("while it is down", first, ErrKeys, 1)
	ask("while it is down, again", first, ErrKeys, 0)
	i.change(func() { i.down = false })
	now = now.Add(keysPause)
	ask("the first token", first, nil, 1)
	ask("the same", first, nil, 0)
	next, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	i.change(func() { i.keys["next"] = next })
	second := sign("next", jwt.SigningMethodES256)
	ask("a key met too soon", second, token.ErrUnknownKey, 0)
	now = now.Add(keysPause)
	ask("a new key", second, nil, 1)
	now = now.Add(keysPause)
	i.keys["made up"] = next
	madeUp := sign("made up", jwt.SigningMethodES256)
	i.change(func() { delete(i.keys, "made up") })
	ask("a key that is not there", madeUp, token.ErrUnknownKey, 1)
	for range 100 {
		ask("the same, often", madeUp, token.ErrUnknownKey, 0)
	}
	i.change(func() { delete(i.keys, "p256"); i.down = true })
	now = now.Add(keysAge)
	providers.list[0].keys.refresh()
	ask("an old key while the provider is down", first, nil, 0)
	i.change(func() { i.down = false })
	now = now.Add(keysAge)
	providers.list[0].keys.refresh()
	now = now.Add(keysPause)
	ask("a key that was taken back", first, token.ErrUnknownKey, 1)
	ask("the other", second, nil, 0)
}

// TestMistakesOfProviders: all of them, with their fields.
func TestMistakesOfProviders(t *testing.T) {
	i := newIssuer(t, newKeys(t))
	dir := t.TempDir()
	good, bad := filepath.Join(dir, "good.json"), filepath.Join(dir, "bad.json")
	if err := errors.Join(os.WriteFile(good, i.set(), 0o600), os.WriteFile(bad, []byte(`{"keys":[]}`), 0o600)); err != nil {
		t.Fatal(err)
	}
	var m config.Mistakes
	Validate([]Config{
		{Issuer: iss, Audiences: []string{"a"}, JWKSFile: good},
		{Issuer: iss, Audiences: []string{"a"}, JWKSURL: "https://id.example.com/keys", Algorithms: []string{"RS256"}},
	}, "ok", &m)
	if err := m.Err(); err != nil {
		t.Errorf("what is right: %v", err)
	}
	Validate([]Config{
		{Audiences: []string{""}, JWKSURL: "http://id.example.com/keys"},
		{Issuer: "a|b", JWKSFile: bad, Algorithms: []string{"HS256"}},
		{Issuer: iss, Audiences: []string{"a"}, JWKSURL: "https://x", JWKSFile: good},
	}, "bad", &m)
	Apart(map[string][]Config{"production": {{Issuer: iss, Audiences: []string{"a", "b"}}}, "sandbox": {{Issuer: iss, Audiences: []string{"b"}}}},
		func(env string) string { return env }, &m)
	for _, field := range []string{"bad[0].issuer", "bad[0].audiences", "bad[0].jwks_url", "bad[1].issuer", "bad[1].audiences", "bad[1].algorithms", "bad[1].jwks_file", "bad[2].jwks_url", "sandbox[0].audiences"} {
		if !strings.Contains(m.Error(), field+":") {
			t.Errorf("no word about %s in:\n%v", field, m)
		}
	}
}
