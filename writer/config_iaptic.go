package writer

import (
	"errors"
	"time"

	"github.com/latchkey/latchkey/pkg/config"
	"github.com/latchkey/latchkey/pkg/entitlement"
	"github.com/latchkey/latchkey/writer/internal/provider"
)

// IapticConfig is iaptic in one environment.
type IapticConfig struct {
	// Passwords are the account's secret key, which iaptic puts into every message: several while one is replaced.
	Passwords []config.Secret `config:"passwords"`

	// AppName is the app's name at iaptic, which its API wants to know.
	AppName string `config:"app_name"`
	// APIKey lets the leader ask for what a user has: the secret key, or a master key. Empty: nothing is asked. Messages hold everything that a user
	// has, so little is left open.
	APIKey config.Secret `config:"api_key"`
	// APIScheme says how name and key are shown: "bearer" or "basic". Empty is bearer.
	APIScheme string `config:"api_scheme"`
	// APIBase is where iaptic's API is. Empty is https://validator.iaptic.com; http:// is for loopback addresses.
	APIBase string `config:"api_base"`
}

func (i *IapticConfig) validate(env entitlement.Environment, at string, m *config.Mistakes) {
	if _, err := i.adapter(env); err != nil {
		m.Add(at+".passwords", "%v", err)
	}
	_, err := i.puller(env, nil)
	for wrong, field := range map[error]string{
		provider.ErrIapticApp: ".app_name", provider.ErrIapticKey: ".api_key", provider.ErrIapticScheme: ".api_scheme", provider.ErrIapticBase: ".api_base",
	} {
		if errors.Is(err, wrong) {
			m.Add(at+field, "%v", err)
		}
	}
}

func (i *IapticConfig) adapter(entitlement.Environment) (provider.Adapter, error) {
	return provider.NewIaptic(provider.IapticConfig{Passwords: secretTexts(i.Passwords)})
}

func (i *IapticConfig) puller(env entitlement.Environment, now func() time.Time) (provider.Puller, error) {
	if i.APIKey == "" {
		return nil, provider.CheckIapticBase(i.APIBase)
	}
	return provider.NewIapticAPI(provider.IapticAPIConfig{App: i.AppName, Key: string(i.APIKey), Scheme: i.APIScheme, BaseURL: i.APIBase, Environment: env, Now: now})
}
