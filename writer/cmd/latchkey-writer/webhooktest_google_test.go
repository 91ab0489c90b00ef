package main

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"math/big"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/latchkey/latchkey/pkg/entitlement"
	"github.com/latchkey/latchkey/writer"
	"github.com/latchkey/latchkey/writer/internal/provider"
)

// The adapter takes the message that webhook-test makes with a key of one's own (R27, R136).
func TestGoogleTestMessage(t *testing.T) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "key.pem")
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	set, err := json.Marshal(map[string]any{"keys": []any{map[string]any{"kty": "RSA", "n": base64.RawURLEncoding.EncodeToString(key.N.Bytes()),
		"e": base64.RawURLEncoding.EncodeToString(big.NewInt(int64(key.E)).Bytes())}}})
	if err != nil {
		t.Fatal(err)
	}
	keys, err := provider.FixedKeys(set)
	if err != nil {
		t.Fatal(err)
	}
	google := writer.GoogleConfig{Package: "com.example.app", Audience: "https://hooks.example.test", Email: "push@example.iam.gserviceaccount.com"}
	order := testOrder{cfg: writer.EnvironmentConfig{Google: &google}, now: time.Now(), googleKey: path}
	header, body, err := googleTestMessage(order)
	if err != nil {
		t.Fatal(err)
	}
	adapter, err := provider.NewGoogle(provider.GoogleConfig{Package: google.Package, Audience: google.Audience, Email: google.Email, Keys: keys})
	if err != nil {
		t.Fatal(err)
	}
	if err := adapter.Verify(provider.Request{Header: headerOf(header), Body: body}, order.now); err != nil {
		t.Errorf("Verify: %v", err)
	}
	if ev, err := adapter.Parse(body, entitlement.Sandbox); err != nil || ev.Type != "TEST" || ev.Kind != entitlement.Unhandled {
		t.Errorf("Parse = %+v, %v", ev, err)
	}
	order.googleKey = ""
	if _, _, err := googleTestMessage(order); !errors.Is(err, errGoogleSigns) {
		t.Errorf("without a key: %v", err)
	}
	order.cfg.Google = nil
	if _, _, err := googleTestMessage(order); !errors.Is(err, errNotConfigured) {
		t.Errorf("not configured: %v", err)
	}
}
