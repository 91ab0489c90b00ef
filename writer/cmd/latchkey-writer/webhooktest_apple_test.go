package main

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/latchkey/latchkey/pkg/entitlement"
	"github.com/latchkey/latchkey/writer"
	"github.com/latchkey/latchkey/writer/internal/provider"
	"github.com/latchkey/latchkey/writer/internal/provider/appletest"
)

// The test message is one that a writer with the same root takes for the App Store's, and gives the account its product (R27, R136).
func TestAppleTestMessageIsAccepted(t *testing.T) {
	authority := appletest.New(t)
	der, err := x509.MarshalPKCS8PrivateKey(authority.Key)
	if err != nil {
		t.Fatal(err)
	}
	var chain []byte
	for _, c := range authority.Chain {
		chain = append(chain, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c})...)
	}
	dir := t.TempDir()
	signer := appleSigner{filepath.Join(dir, "leaf.pem"), filepath.Join(dir, "chain.pem")}
	for path, b := range map[string][]byte{signer.keyFile: pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), signer.chainFile: chain} {
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	const account = "acc_01JD0000000000000000000000"
	for _, env := range entitlement.Environments {
		cfg := writer.EnvironmentConfig{Apple: &writer.AppleConfig{BundleID: "com.example.app", AppAppleID: 7}}
		now := time.Now()
		_, body, err := testMessages["apple"](testOrder{cfg: cfg, env: env, account: account, price: "pro.monthly", now: now, apple: signer})
		if err != nil {
			t.Fatal(err)
		}
		a, err := provider.NewApple(provider.AppleConfig{BundleID: "com.example.app", AppID: 7, Roots: [][]byte{authority.Root}})
		if err != nil {
			t.Fatal(err)
		}
		if err := a.Verify(provider.Request{Body: body}, now); err != nil {
			t.Errorf("%s: Verify = %v", env, err)
		}
		ev, err := a.Parse(body, env)
		if err != nil || ev.Environment != env || ev.Type != "SUBSCRIBED.INITIAL_BUY" {
			t.Errorf("%s: Parse = %+v, %v", env, ev, err)
		}
		evidence := entitlement.Evidence{}.Add(ev.Objects...)
		token := entitlement.Alias{Kind: entitlement.AppleAppAccountToken, Value: entitlement.AccountID(account).AppleAppAccountToken()}
		if p := entitlement.Fold(evidence, entitlement.Policy{}); len(p.Items) != 1 || p.Items[0].State != entitlement.Live || evidence.Identity().Aliases[0] != token {
			t.Errorf("%s: it proves %+v of %v", env, p, evidence.Identity())
		}
	}
	if _, _, err := testMessages["apple"](testOrder{apple: signer}); !errors.Is(err, errNotConfigured) {
		t.Errorf("without a section: %v", err)
	}
}
