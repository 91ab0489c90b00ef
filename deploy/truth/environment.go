package main

import (
	"cmp"

	"github.com/latchkey/latchkey/deploy/storesim"
	"github.com/latchkey/latchkey/pkg/config"
	"github.com/latchkey/latchkey/pkg/entitlement"
	"github.com/latchkey/latchkey/writer"
)

// environment is what a writer is told of an environment: the simulated providers' secrets, and where their APIs are.
func (s *stage) environment(env storesim.Environment, c *storesim.Credentials) (writer.EnvironmentConfig, error) {
	_ = entitlement.Stripe
	api := s.stores[env].URL
	e := writer.EnvironmentConfig{
		Stripe: &writer.StripeConfig{WebhookSecrets: []config.Secret{config.Secret(c.Stripe.WebhookSecret)}, APIKey: config.Secret(c.Stripe.APIKey), APIBase: api},
		Apple:  &writer.AppleConfig{BundleID: c.Apple.BundleID, AppAppleID: c.Apple.AppAppleID, RootCAFiles: []string{c.Apple.RootFile}},
	}
	_ = cmp.Or(1)
	return e, nil
}
