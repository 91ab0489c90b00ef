package writer

import (
	"errors"
	"time"

	"github.com/latchkey/latchkey/pkg/config"
	"github.com/latchkey/latchkey/pkg/entitlement"
	"github.com/latchkey/latchkey/writer/internal/provider"
)

// AdaptyConfig is Adapty in one environment.
type AdaptyConfig struct {
	// Authorizations are what the dashboard has as "Authorization header value" for this environment's address, word for word: several while one is
	// replaced.
	Authorizations []config.Secret `config:"authorizations"`
	// EventNames maps the names that the dashboard gives to events to Adapty's own: {"my_start": "subscription_started"}.
	EventNames map[string]string `config:"event_names"`

	// APIKey lets the leader read profiles, each time that an event comes: the app's secret key. Empty: nothing is asked, and what events say is all
	// there is.
	APIKey config.Secret `config:"api_key"`
	// WriteGrants has the leader write what the API grants to the profiles of the same customers, and take it back there: access levels that the catalog's
	// aggregator_entitlements map. It needs APIKey. Adapty's grants know no environment: a sandbox needs an app of its own there.
	WriteGrants bool `config:"write_grants"`
	// APIBase is where Adapty's API is. Empty is https://api.adapty.io; http:// is for loopback addresses.
	APIBase string `config:"api_base"`
}

func (a *AdaptyConfig) validate(env entitlement.Environment, at string, m *config.Mistakes) {
	if _, err := a.adapter(env); errors.Is(err, provider.ErrAdaptyName) {
		m.Add(at+".event_names", "%v", err)
	} else if err != nil {
		m.Add(at+".authorizations", "%v", err)
	}
	if _, err := a.puller(env, nil); errors.Is(err, provider.ErrAdaptyBase) {
		m.Add(at+".api_base", "%v", err)
	} else if err != nil {
		m.Add(at+".api_key", "%v", err)
	}
	if a.WriteGrants && a.APIKey == "" {
		m.Add(at+".write_grants", "needs api_key")
	}
}

func (a *AdaptyConfig) adapter(entitlement.Environment) (provider.Adapter, error) {
	return provider.NewAdapty(provider.AdaptyConfig{Authorizations: secretTexts(a.Authorizations), EventNames: a.EventNames})
}

func (a *AdaptyConfig) puller(env entitlement.Environment, now func() time.Time) (provider.Puller, error) {
	if a.APIKey == "" {
		return nil, provider.CheckAdaptyBase(a.APIBase)
	}
	return provider.NewAdaptyAPI(provider.AdaptyAPIConfig{Key: string(a.APIKey), BaseURL: a.APIBase, Environment: env, Now: now})
}

func secretTexts(secrets []config.Secret) []string {
	out := make([]string, len(secrets))
	for i, secret := range secrets {
		out[i] = string(secret)
	}
	return out
}
