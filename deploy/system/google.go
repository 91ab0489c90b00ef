package system

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
)

// The Google of this machine: whoever has its key pushes Play's notifications as Pub/Sub would. Nothing is fetched from the real one.
const (
	googleKeyFile  = "key.pem"   // RSA, PKCS#8
	googleJWKSFile = "jwks.json" // the public key, which fits every token whatever its kid
	googleEmail    = "play-push@latchkey-dev.iam.gserviceaccount.com"
	googlePackage  = "com.example.app"
)

func (s *System) googlePath(name string) string { return filepath.Join(s.config.Dir, "google", name) }

func googleAudience(env string) string {
	return "https://latchkey-dev.example/v1/webhooks/" + env + "/google"
}

// makeGoogleKeys makes the key at the first start, and the key set from it at each.
func (s *System) makeGoogleKeys() error {
	if err := os.MkdirAll(s.googlePath(""), 0o700); err != nil {
		return fmt.Errorf("make folder: %w", err)
	}
	path := s.googlePath(googleKeyFile)
	b, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		if b, err = newGoogleKey(); err == nil {
			err = writeFile(path, b)
		}
	}
	if err != nil {
		return fmt.Errorf("google key: %w", err)
	}
	block, _ := pem.Decode(b)
	if block == nil {
		return fmt.Errorf("google key: %s is no PEM", path)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return fmt.Errorf("google key: %s: %w", path, err)
	}
	key, ok := parsed.(*rsa.PrivateKey)
	if !ok {
		return fmt.Errorf("google key: %s is no RSA key", path)
	}
	set, err := json.Marshal(settings{"keys": []settings{{"kty": "RSA", "use": "sig", "alg": "RS256",
		"n": base64.RawURLEncoding.EncodeToString(key.N.Bytes()), "e": base64.RawURLEncoding.EncodeToString(big.NewInt(int64(key.E)).Bytes())}}})
	if err != nil {
		return fmt.Errorf("google key: %w", err)
	}
	return writeFile(s.googlePath(googleJWKSFile), set)
}

func newGoogleKey() ([]byte, error) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

func (s *System) googleSettings(env string) settings {
	return settings{"package": googlePackage, "audience": googleAudience(env), "email": googleEmail, "jwks_file": s.googlePath(googleJWKSFile)}
}

func (s *System) googleWebhook(env string) Webhook {
	return Webhook{Path: "/v1/webhooks/" + env + "/google", OIDCKey: s.googlePath(googleKeyFile), Audience: googleAudience(env), Email: googleEmail, Package: googlePackage}
}
