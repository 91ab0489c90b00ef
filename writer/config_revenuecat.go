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
}

func (s *RevenueCatConfig) validate(env entitlement.Environment, at string, m *config.Mistakes) {
	field := at + ".authorizations"
	_, err := s.adapter(env)
	switch {
	case err == nil:
		return
	case errors.Is(err, provider.ErrRevenueCatSigningSecret):
		field = at + ".signing_secrets"
	case errors.Is(err, provider.ErrRevenueCatSignatureHeader):
		field = at + ".signature_header"
	}
	m.Add(field, "%v", err)
}

func (s *RevenueCatConfig) adapter(entitlement.Environment) (provider.Adapter, error) {
	return provider.NewRevenueCat(provider.RevenueCatConfig{Authorizations: texts(s.Authorizations), SigningSecrets: texts(s.SigningSecrets),
		SignatureHeader: s.SignatureHeader})
}

func texts(secrets []config.Secret) []string {
	out := make([]string, len(secrets))
	for i, s := range secrets {
		out[i] = string(s)
	}
	return out
}

func (s *RevenueCatConfig) puller(entitlement.Environment, func() time.Time) (provider.Puller, error) {
	return nil, nil
}
