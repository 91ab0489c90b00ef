package writer

import (
	"errors"
	"time"

	"github.com/latchkey/latchkey/pkg/config"
	"github.com/latchkey/latchkey/pkg/entitlement"
	"github.com/latchkey/latchkey/writer/internal/provider"
)

// Web2WaveConfig is Web2Wave in one environment.
type Web2WaveConfig struct {
	// WebhookTokens are the project's webhook secrets, as they come in the header Webhooks-Token: several while one is replaced.
	WebhookTokens []config.Secret `config:"webhook_tokens"`

	// APIKey lets the leader ask for all that a customer has, each time that a message comes: refunds, and the end of what was paid for, are in no
	// message. Empty: nothing is asked, and what messages say is all there is.
	APIKey config.Secret `config:"api_key"`
	// APIBase is where Web2Wave's API is. Empty is https://api.web2wave.com/api; http:// is for loopback addresses.
	APIBase string `config:"api_base"`
}

func (s *Web2WaveConfig) validate(env entitlement.Environment, at string, m *config.Mistakes) {
	if _, err := s.adapter(env); err != nil {
		m.Add(at+".webhook_tokens", "%v", err)
	}
	if _, err := s.puller(env, nil); errors.Is(err, provider.ErrWeb2WaveBase) {
		m.Add(at+".api_base", "%v", err)
	} else if err != nil {
		m.Add(at+".api_key", "%v", err)
	}
}

func (s *Web2WaveConfig) adapter(entitlement.Environment) (provider.Adapter, error) {
	tokens := make([]string, len(s.WebhookTokens))
	for i, token := range s.WebhookTokens {
		tokens[i] = string(token)
	}
	return provider.NewWeb2Wave(provider.Web2WaveConfig{Tokens: tokens})
}

func (s *Web2WaveConfig) puller(env entitlement.Environment, now func() time.Time) (provider.Puller, error) {
	if s.APIKey == "" {
		return nil, provider.CheckWeb2WaveBase(s.APIBase)
	}
	return provider.NewWeb2WaveAPI(provider.Web2WaveAPIConfig{Key: string(s.APIKey), BaseURL: s.APIBase, Environment: env, Now: now})
}
