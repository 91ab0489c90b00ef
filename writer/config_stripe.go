package writer

import (
	"errors"
	"time"

	"github.com/latchkey/latchkey/pkg/config"
	"github.com/latchkey/latchkey/pkg/entitlement"
	"github.com/latchkey/latchkey/writer/internal/provider"
)

// StripeConfig is Stripe in one environment.
type StripeConfig struct {
	// WebhookSecrets are the endpoint's signing secrets, "whsec_...": several while one is rolled.
	WebhookSecrets []config.Secret `config:"webhook_secrets"`

	// APIKey lets the leader ask Stripe for what messages leave open: a secret or a restricted key, "rk_...". Empty: nothing is asked, and
	// purchases stay marked as in doubt.
	APIKey config.Secret `config:"api_key"`
	// APIBase is where Stripe's API is. Empty is https://api.stripe.com; http:// is for loopback addresses.
	APIBase string `config:"api_base"`
	// HistoryInterval is how often the leader reads which events Stripe could not deliver: a minute at least. 0 is a quarter of an hour.
	HistoryInterval time.Duration `config:"history_interval"`
}

func (s *StripeConfig) validate(env entitlement.Environment, at string, m *config.Mistakes) {
	if _, err := s.adapter(env); err != nil {
		m.Add(at+".webhook_secrets", "%v", err)
	}
	if _, err := s.puller(env, nil); errors.Is(err, provider.ErrStripeBase) {
		m.Add(at+".api_base", "%v", err)
	} else if err != nil {
		m.Add(at+".api_key", "%v", err)
	}
	if s.HistoryInterval != 0 && s.HistoryInterval < minHistoryInterval {
		m.Add(at+".history_interval", "want %s or more", minHistoryInterval)
	}
}

func (s *StripeConfig) adapter(entitlement.Environment) (provider.Adapter, error) {
	secrets := make([]string, len(s.WebhookSecrets))
	for i, secret := range s.WebhookSecrets {
		secrets[i] = string(secret)
	}
	return provider.NewStripe(provider.StripeConfig{Secrets: secrets})
}

func (s *StripeConfig) puller(env entitlement.Environment, now func() time.Time) (provider.Puller, error) {
	if s.APIKey == "" {
		return nil, provider.CheckStripeBase(s.APIBase)
	}
	return provider.NewStripeAPI(provider.StripeAPIConfig{Key: string(s.APIKey), BaseURL: s.APIBase, Environment: env, Now: now})
}
