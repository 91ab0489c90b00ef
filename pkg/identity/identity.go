package identity

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"time"

	"github.com/latchkey/latchkey/pkg/token"
)

// defaultAlgorithms are those of nearly all identity providers.
var defaultAlgorithms = []string{"RS256", "ES256"}

// Providers are the identity providers of all environments. It is safe for concurrent use. The zero value knows none.
type Providers struct {
	list []provider
}

type provider struct {
	environment string
	signIn      token.SignIn // without Key
	keys        *keySet
}

// NewProviders returns the providers that are configured for each environment. Validate has found nothing wrong with them. Nothing is fetched before
// a token asks for it. now is the clock of this machine.
func NewProviders(lists map[string][]Config, now func() time.Time) *Providers {
	p := &Providers{}
	for _, env := range sortedKeys(lists) {
		for _, c := range lists[env] {
			one := provider{environment: env, signIn: token.SignIn{Issuer: c.Issuer, Audiences: c.Audiences, Algorithms: c.Algorithms, SubjectClaim: c.SubjectClaim}}
			if len(c.Algorithms) == 0 {
				one.signIn.Algorithms = defaultAlgorithms
			}
			if c.SubjectClaim == "" {
				one.signIn.SubjectClaim = "sub"
			}
			if one.keys = fileKeys(c.JWKSFile, now); c.JWKSFile == "" {
				one.keys = fetchedKeys(c.JWKSURL, now)
			}
			p.list = append(p.list, one)
		}
	}
	return p
}

// None reports whether no provider is configured.
func (p *Providers) None() bool { return p == nil || len(p.list) == 0 }

// Run keeps the keys that are in use fresh until ctx ends.
func (p *Providers) Run(ctx context.Context) {
	tick := time.NewTicker(fileAge)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		for i := range p.list {
			p.list[i].keys.refresh()
		}
	}
}

// Verify says who is behind tok at time at, and in which environment. Errors: ErrKeys; those of token.SignIn, of which token.ErrIssuer means that no such
// provider is configured.
func (p *Providers) Verify(tok string, at time.Time) (environment string, who token.SignedIn, err error) {
	issuer, err := token.SignInIssuer(tok)
	if err != nil {
		return "", who, err
	}
	err = fmt.Errorf("sign-in token: %w", token.ErrIssuer)
	for i := range p.list {
		one := &p.list[i]
		if one.signIn.Issuer != issuer {
			continue
		}
		s := one.signIn
		s.Key = func(algorithm, kid string) (crypto.PublicKey, error) { return one.keys.find(algorithm, kid) }
		if who, err = s.Verify(tok, at); err == nil {
			return one.environment, who, nil
		}
		if !errors.Is(err, token.ErrAudience) { // that may be the app of another environment
			break
		}
	}
	return "", token.SignedIn{}, err
}
