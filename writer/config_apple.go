package writer

import (
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/latchkey/latchkey/pkg/config"
	"github.com/latchkey/latchkey/pkg/entitlement"
	"github.com/latchkey/latchkey/writer/internal/provider"
)

// AppleConfig is the App Store in one environment.
type AppleConfig struct {
	// BundleID is the app's, "com.example.app". Messages about another one are refused.
	BundleID string `config:"bundle_id"`
	// AppAppleID is the app's Apple id, the number in its App Store address. Production messages about another one are refused. 0: it is not looked at.
	AppAppleID int64 `config:"app_apple_id"`
	// RootCAFiles are the certificates, DER or PEM, under which messages may be signed. None: Apple Root CA - G3. Whoever has the key of one
	// of them can grant any entitlement.
	RootCAFiles []string `config:"root_ca_files"`
}

func (a *AppleConfig) validate(env entitlement.Environment, at string, m *config.Mistakes) {
	switch _, err := a.adapter(env); {
	case errors.Is(err, provider.ErrAppleBundle):
		m.Add(at+".bundle_id", "%v", err)
	case errors.Is(err, provider.ErrAppleApp):
		m.Add(at+".app_apple_id", "%v", err)
	case err != nil:
		m.Add(at+".root_ca_files", "%v", err)
	}
}

func (a *AppleConfig) adapter(entitlement.Environment) (provider.Adapter, error) {
	return a.apple()
}

// apple returns the adapter as what it is: it also reads what StoreKit signs for the app.
func (a *AppleConfig) apple() (*provider.Apple, error) {
	var roots [][]byte
	for _, path := range a.RootCAFiles {
		b, err := os.ReadFile(path)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", provider.ErrAppleRoot, err)
		}
		roots = append(roots, b)
	}
	return provider.NewApple(provider.AppleConfig{BundleID: a.BundleID, AppID: a.AppAppleID, Roots: roots})
}

func (a *AppleConfig) puller(entitlement.Environment, func() time.Time) (provider.Puller, error) {
	return nil, nil
}
