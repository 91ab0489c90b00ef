package main

import (
	"encoding/json"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"

	"github.com/latchkey/latchkey/deploy/storesim"
	"github.com/latchkey/latchkey/pkg/config"
	"github.com/latchkey/latchkey/writer"
)

// environment is what a writer is told of an environment: the simulated providers' secrets, and that their APIs are at the address api. Files go to dir.
func environment(dir string, env storesim.Environment, all map[storesim.Environment]*storesim.Credentials, api string) (writer.EnvironmentConfig, error) {
	c := all[env]
	google, err := googleConfig(dir, env, all, api)
	if err != nil {
		return writer.EnvironmentConfig{}, err
	}
	appleKey, err := os.ReadFile(c.Apple.APIKeyFile)
	if err != nil {
		return writer.EnvironmentConfig{}, err
	}
	return writer.EnvironmentConfig{
		Stripe: &writer.StripeConfig{WebhookSecrets: secrets(c.Stripe.WebhookSecret), APIKey: config.Secret(c.Stripe.APIKey), APIBase: api},
		Apple: &writer.AppleConfig{BundleID: c.Apple.BundleID, AppAppleID: c.Apple.AppAppleID, RootCAFiles: []string{c.Apple.RootFile},
			APIKey: config.Secret(appleKey), APIKeyID: c.Apple.APIKeyID, APIIssuerID: c.Apple.IssuerID, APIBase: api, SandboxAPIBase: api},
		Google: google,
		RevenueCat: &writer.RevenueCatConfig{Authorizations: secrets(c.RevenueCat.Authorization), APIKey: config.Secret(c.RevenueCat.APIKey), Project: c.RevenueCat.Project,
			APIKeyV1: config.Secret(c.RevenueCat.APIKey), APIBase: api},
		Adapty:   &writer.AdaptyConfig{Authorizations: secrets(c.Adapty.Authorization), APIKey: config.Secret(c.Adapty.SecretKey), APIBase: api},
		Web2Wave: &writer.Web2WaveConfig{WebhookTokens: secrets(c.Web2Wave.Token), APIKey: config.Secret(c.Web2Wave.APIKey), APIBase: api + "/api"},
		Iaptic:   &writer.IapticConfig{Passwords: secrets(c.Iaptic.Password), AppName: c.Iaptic.AppName, APIKey: config.Secret(c.Iaptic.Password), APIBase: api},
	}, nil
}

func secrets(s string) []config.Secret { return []config.Secret{config.Secret(s)} }

func googleConfig(dir string, env storesim.Environment, all map[storesim.Environment]*storesim.Credentials, api string) (*writer.GoogleConfig, error) {
	c := all[env]
	jwks, err := json.Marshal(storesim.New(storesim.Config{Credentials: all}).JWKS(env))
	if err != nil {
		return nil, err
	}
	path := filepath.Join(dir, "jwks-"+string(env)+".json")
	if err := os.WriteFile(path, jwks, 0o600); err != nil {
		return nil, err
	}
	key, err := os.ReadFile(c.Google.ServiceKeyFile)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(key)
	if block == nil {
		return nil, fmt.Errorf("%s: no PEM", c.Google.ServiceKeyFile)
	}
	account, err := json.Marshal(map[string]string{"type": "service_account", "client_email": c.Google.ServiceEmail, "private_key": string(pem.EncodeToMemory(block)),
		"private_key_id": "1", "token_uri": api + "/token"})
	if err != nil {
		return nil, err
	}
	return &writer.GoogleConfig{Package: c.Google.Package, Audience: c.Google.Audience, Email: c.Google.Email, JWKSFile: path,
		ServiceAccount: config.Secret(account), APIBase: api, TokenURL: api + "/token"}, nil
}
