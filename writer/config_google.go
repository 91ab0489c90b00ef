package writer

import (
	"errors"
	"os"
	"time"

	"github.com/latchkey/latchkey/pkg/config"
	"github.com/latchkey/latchkey/pkg/entitlement"
	"github.com/latchkey/latchkey/writer/internal/provider"
)

// GoogleConfig is Google Play in one environment.
type GoogleConfig struct {
	// Package is the app's package name, "com.example.app".
	Package string `config:"package"`

	// Audience and Email are those of the Pub/Sub push subscription: the aud of its identity tokens, by default the address that it pushes to, and
	// the service account that they are for.
	Audience string `config:"audience"`
	Email    string `config:"email"`

	// JWKSURL is where the keys are that identity tokens are signed with. Empty is Google's; http:// is for loopback addresses. JWKSFile, instead, is a
	// file with a key set that never changes: for tests and what runs without Google.
	JWKSURL  string `config:"jwks_url"`
	JWKSFile string `config:"jwks_file"`

	// ServiceAccount lets the leader ask Google what became of purchases, and acknowledge them: the JSON key file of a service account. Messages prove
	// nothing by themselves: without it nobody gets access by Google.
	ServiceAccount config.Secret `config:"service_account"`
	// APIBase is where Google's API is and TokenURL where it gives access tokens. Empty are Google's; http:// is for loopback addresses.
	APIBase  string `config:"api_base"`
	TokenURL string `config:"token_url"`
}

func (g *GoogleConfig) validate(env entitlement.Environment, at string, m *config.Mistakes) {
	if g.JWKSURL != "" && g.JWKSFile != "" {
		m.Add(at+".jwks_url", "given together with %s.jwks_file: give one of them", at)
	} else if _, err := g.keys(); err != nil {
		if field := at + ".jwks_file"; g.JWKSFile != "" {
			m.Add(field, "%v", err)
		} else {
			m.Add(at+".jwks_url", "%v", err)
		}
	} else if _, err := g.adapter(env); err != nil {
		m.Add(at, "%v", err)
	}
	_, err := g.puller(env, nil)
	for field, sentinel := range map[string]error{".service_account": provider.ErrGoogleAccount, ".api_base": provider.ErrGoogleBase, ".token_url": provider.ErrGoogleTokenURL} {
		if errors.Is(err, sentinel) {
			m.Add(at+field, "%v", sentinel)
		}
	}
}

func (g *GoogleConfig) keys() (*provider.GoogleKeys, error) {
	if g.JWKSFile == "" {
		return provider.FetchedKeys(g.JWKSURL)
	}
	set, err := os.ReadFile(g.JWKSFile)
	if err != nil {
		return nil, err
	}
	return provider.FixedKeys(set)
}

func (g *GoogleConfig) adapter(entitlement.Environment) (provider.Adapter, error) {
	keys, err := g.keys()
	if err != nil {
		return nil, err
	}
	return provider.NewGoogle(provider.GoogleConfig{Package: g.Package, Audience: g.Audience, Email: g.Email, Keys: keys})
}

func (g *GoogleConfig) puller(env entitlement.Environment, now func() time.Time) (provider.Puller, error) {
	if g.ServiceAccount == "" {
		return nil, provider.CheckGoogleAddresses(g.APIBase, g.TokenURL)
	}
	return provider.NewGoogleAPI(provider.GoogleAPIConfig{Package: g.Package, ServiceAccount: []byte(g.ServiceAccount), BaseURL: g.APIBase, TokenURL: g.TokenURL,
		Environment: env, Now: now})
}
