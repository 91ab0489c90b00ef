package writer

import (
	"errors"
	"time"

	"github.com/latchkey/latchkey/pkg/config"
	"github.com/latchkey/latchkey/pkg/entitlement"
	"github.com/latchkey/latchkey/writer/internal/provider"
)

// RevenueCatConfig is RevenueCat in one environment. A message must pass every kind of proof that is listed here: the header, the signature, or both.
type RevenueCatConfig struct {
	// Authorizations are the values of the header Authorization as they stand in the dashboard, whole, "Bearer " included where it is there: several
	// while one is replaced.
	Authorizations []config.Secret `config:"authorizations"`
	// SigningSecrets are those of integrations that sign, "whsec_...": several while one is rolled.
	SigningSecrets []config.Secret `config:"signing_secrets"`
	// SignatureHeader is where the signature is. Empty is X-RevenueCat-Webhook-Signature.
	SignatureHeader string `config:"signature_header"`

	// APIKey and Project, of version 2 of the API, and APIKeyV1, of version 1, let the leader ask for all that a customer has, where messages leave it
	// open: after a transfer, a merge of customers, a refund without its end. With both keys version 2 is asked for names, without making anybody, and
	// version 1 for purchases, which it knows better. Without any nothing is asked.
	APIKey   config.Secret `config:"api_key"`
	Project  string        `config:"project"`
	APIKeyV1 config.Secret `config:"api_key_v1"`
	// APIBase is where RevenueCat's API is. Empty is https://api.revenuecat.com; http:// is for loopback addresses.
	APIBase string `config:"api_base"`
}

func (s *RevenueCatConfig) validate(env entitlement.Environment, at string, m *config.Mistakes) {
	fields := map[error]string{
		provider.ErrRevenueCatAuthorization: "authorizations", provider.ErrRevenueCatSigningSecret: "signing_secrets", provider.ErrRevenueCatSignatureHeader: "signature_header",
		provider.ErrRevenueCatKey: "api_key", provider.ErrRevenueCatKeyV1: "api_key_v1", provider.ErrRevenueCatProject: "project", provider.ErrRevenueCatBase: "api_base",
	}
	_, wrongProof := s.adapter(env)
	_, wrongKey := s.puller(env, nil)
	for _, err := range []error{wrongProof, wrongKey} {
		for mistake, field := range fields {
			if errors.Is(err, mistake) {
				m.Add(at+"."+field, "%v", err)
			}
		}
	}
}

func (s *RevenueCatConfig) adapter(entitlement.Environment) (provider.Adapter, error) {
	return provider.NewRevenueCat(provider.RevenueCatConfig{Authorizations: secretTexts(s.Authorizations), SigningSecrets: secretTexts(s.SigningSecrets),
		SignatureHeader: s.SignatureHeader})
}

func (s *RevenueCatConfig) puller(env entitlement.Environment, now func() time.Time) (provider.Puller, error) {
	if s.APIKey == "" && s.APIKeyV1 == "" {
		return nil, provider.CheckRevenueCatBase(s.APIBase)
	}
	return provider.NewRevenueCatAPI(provider.RevenueCatAPIConfig{Key: string(s.APIKey), Project: s.Project, KeyV1: string(s.APIKeyV1), BaseURL: s.APIBase,
		Environment: env, Now: now})
}
