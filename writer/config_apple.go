package writer

import (
	"context"
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

	// APIKey lets the leader ask the App Store for what messages leave open: the content of an In-App Purchase key, a .p8 file. APIKeyID and
	// APIIssuerID are what App Store Connect shows beside it. Empty: nothing is asked.
	APIKey      config.Secret `config:"api_key"`
	APIKeyID    string        `config:"api_key_id"`
	APIIssuerID string        `config:"api_issuer_id"`
	// APIBase is where the App Store Server API is, and SandboxAPIBase where production asks it about purchases of testers. Empty is Apple's;
	// an empty SandboxAPIBase beside an APIBase is nowhere. http:// is for loopback addresses.
	APIBase        string `config:"api_base"`
	SandboxAPIBase string `config:"sandbox_api_base"`

	// HistoryInterval is how often the leader reads what Apple has sent, for what never came: a minute at least. 0 is a quarter of an hour.
	HistoryInterval time.Duration `config:"history_interval"`
}

// minHistoryInterval leaves most of what a provider allows an app to ask to others.
const minHistoryInterval = time.Minute

// ErrNoAppleAPI means that there is no key to ask the App Store with.
var ErrNoAppleAPI = errors.New("no key of the App Store Server API is configured")

func (a *AppleConfig) validate(env entitlement.Environment, at string, m *config.Mistakes) {
	switch _, err := a.adapter(env); {
	case errors.Is(err, provider.ErrAppleBundle):
		m.Add(at+".bundle_id", "%v", err)
	case errors.Is(err, provider.ErrAppleApp):
		m.Add(at+".app_apple_id", "%v", err)
	case err != nil:
		m.Add(at+".root_ca_files", "%v", err)
	}
	for name, base := range map[string]string{".api_base": a.APIBase, ".sandbox_api_base": a.SandboxAPIBase} {
		if err := provider.CheckAppleBase(base); err != nil {
			m.Add(at+name, "%v", err)
		}
	}
	if a.HistoryInterval != 0 && a.HistoryInterval < minHistoryInterval {
		m.Add(at+".history_interval", "want %s or more", minHistoryInterval)
	}
	switch _, err := a.api(env, nil, nil); {
	case errors.Is(err, provider.ErrAppleKeyID):
		m.Add(at+".api_key_id", "%v", err)
	case errors.Is(err, provider.ErrAppleIssuer):
		m.Add(at+".api_issuer_id", "%v", err)
	case errors.Is(err, provider.ErrAppleKey):
		m.Add(at+".api_key", "%v", err)
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

func (a *AppleConfig) puller(env entitlement.Environment, now func() time.Time) (provider.Puller, error) {
	if a.APIKey == "" {
		return nil, nil
	}
	apple, err := a.apple()
	if err != nil {
		return nil, err
	}
	return a.api(env, apple, now)
}

// api returns what asks the App Store. Errors: ErrNoAppleAPI, and those of provider.NewAppleAPI.
func (a *AppleConfig) api(env entitlement.Environment, apple *provider.Apple, now func() time.Time) (*provider.AppleAPI, error) {
	if a.APIKey == "" {
		return nil, ErrNoAppleAPI
	}
	return provider.NewAppleAPI(provider.AppleAPIConfig{Key: string(a.APIKey), KeyID: a.APIKeyID, IssuerID: a.APIIssuerID, Apple: apple, Environment: env,
		BaseURL: a.APIBase, SandboxURL: a.SandboxAPIBase, Now: now})
}

// RequestTestNotification makes Apple send a notification of type TEST to the environment's address in App Store Connect, and returns Apple's token
// for it. Error: ErrNoAppleAPI, and what Apple says.
func (a *AppleConfig) RequestTestNotification(ctx context.Context, env entitlement.Environment) (token string, err error) {
	apple, err := a.apple()
	if err != nil {
		return "", err
	}
	api, err := a.api(env, apple, nil)
	if err != nil {
		return "", err
	}
	return api.RequestTestNotification(ctx)
}
