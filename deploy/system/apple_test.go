package system

import (
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/pem"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// checkApple: what the file names signs what a verifier with its root accepts, as of any day until 2045.
func checkApple(t *testing.T, env string, hook Webhook) {
	t.Helper()
	if hook.Path != "/v1/webhooks/"+env+"/apple" || hook.BundleID != "com.example.app" {
		t.Errorf("environment %s: Apple's webhook is %+v", env, hook)
	}
	read := func(path string) []byte {
		b, err := os.ReadFile(path)
		if err != nil || !filepath.IsAbs(path) {
			t.Fatalf("%s: %v", path, err)
		}
		return b
	}
	root, err := x509.ParseCertificate(read(hook.RootCA))
	if err != nil {
		t.Fatal(err)
	}
	var chain []*x509.Certificate
	for block, rest := pem.Decode(read(hook.Chain)); block != nil; block, rest = pem.Decode(rest) {
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		chain = append(chain, c)
	}
	block, _ := pem.Decode(read(hook.SigningKey))
	if block == nil {
		t.Fatalf("%s is no PEM", hook.SigningKey)
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	if leaf := key.(*ecdsa.PrivateKey); len(chain) != 3 || !leaf.PublicKey.Equal(chain[0].PublicKey) || !chain[2].Equal(root) {
		t.Fatalf("a chain of %d certificates, not from the key's own to the root", len(chain))
	}
	roots, between := x509.NewCertPool(), x509.NewCertPool()
	roots.AddCert(root)
	between.AddCert(chain[1])
	for _, day := range []time.Time{time.Date(2020, 1, 2, 0, 0, 0, 0, time.UTC), time.Date(2044, 12, 31, 0, 0, 0, 0, time.UTC)} {
		if _, err := chain[0].Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, CurrentTime: day}); err != nil {
			t.Errorf("on %s: %v", day, err)
		}
	}
}
