package system

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/latchkey/latchkey/deploy/storesim"
	"github.com/latchkey/latchkey/pkg/entitlement"
)

// virtualClock names the file by which nodes of a build with faults are off; the simulated providers write it, and all clocks are theirs.
const virtualClock = "LATCHKEY_FAULT_CLOCK"

func (s *System) storesDir() string { return filepath.Join(s.config.Dir, "storesim") }

func (s *System) storesCredentials() string {
	return filepath.Join(s.config.Dir, "config", storesim.CredentialsFile)
}

func (s *System) serviceAccountFile(env string) string {
	return filepath.Join(s.storesDir(), env, "google-service-account.json")
}

// storesAPI is where the simulated providers of an environment answer.
func (s *System) storesAPI(env string) string {
	if env == string(entitlement.Sandbox) {
		return "http://" + s.config.address(storesPort, 2)
	}
	return "http://" + s.config.address(storesPort, 1)
}

// makeStores writes what the simulated providers sign with and ask for: the keys of their APIs are their own, what webhooks show is the folder's.
func (s *System) makeStores() error {
	if !s.config.Storesim {
		return nil
	}
	all, err := storesim.OpenCredentials(s.storesDir())
	if err != nil {
		return fmt.Errorf("simulated providers: %w", err)
	}
	for env, c := range all {
		env := string(env)
		secret, google := s.secrets.Environments[env], s.googleWebhook(env)
		c.Stripe.WebhookSecret = secret.StripeSecret
		c.Apple.RootFile, c.Apple.ChainFile, c.Apple.KeyFile, c.Apple.BundleID = s.appleFile(appleRootFile), s.appleFile(appleChainFile), s.appleFile(appleKeyFile), bundleID
		c.Google.OIDCKeyFile, c.Google.Audience, c.Google.Email, c.Google.Package = google.OIDCKey, google.Audience, google.Email, google.Package
		c.RevenueCat.Authorization, c.RevenueCat.SigningSecret = secret.RevenueCatAuthorization, ""
		c.Adapty.Authorization, c.Iaptic.Password, c.Web2Wave.Token = secret.AdaptyAuthorization, secret.IapticPassword, secret.Web2WaveToken
		account, err := c.Google.ServiceAccount(s.storesAPI(env) + "/token")
		if err != nil {
			return err
		}
		if err := writeFile(s.serviceAccountFile(env), account); err != nil {
			return err
		}
	}
	b, err := json.MarshalIndent(all, "", " ")
	if err != nil {
		return fmt.Errorf("simulated providers: %w", err)
	}
	return writeFile(s.storesCredentials(), append(b, '\n'))
}

// askStores lets a writer ask the simulated providers. envs are its environments.
func (s *System) askStores(envs settings) {
	if !s.config.Storesim {
		return
	}
	all, err := storesim.ReadCredentials(s.storesCredentials())
	if err != nil {
		s.say("the writers cannot ask the simulated providers: %s", err)
		return
	}
	for env, c := range all {
		env := string(env)
		base := s.storesAPI(env)
		for provider, asking := range map[string]settings{
			"stripe":     {"api_key": c.Stripe.APIKey, "api_base": base},
			"apple":      {"api_key_file": c.Apple.APIKeyFile, "api_key_id": c.Apple.APIKeyID, "api_issuer_id": c.Apple.IssuerID, "api_base": base},
			"revenuecat": {"api_key": c.RevenueCat.APIKey, "project": c.RevenueCat.Project, "api_key_v1": c.RevenueCat.APIKey, "api_base": base},
			"google":     {"service_account_file": s.serviceAccountFile(env), "api_base": base, "token_url": base + "/token"},
			"adapty":     {"api_key": c.Adapty.SecretKey, "api_base": base},
			"iaptic":     {"app_name": c.Iaptic.AppName, "api_key": c.Iaptic.Password, "api_base": base},
			"web2wave":   {"api_key": c.Web2Wave.APIKey, "api_base": base + "/api"},
		} {
			if provider == "apple" && env == string(entitlement.Production) {
				asking["sandbox_api_base"] = s.storesAPI(string(entitlement.Sandbox)) // of testers, whose purchases are made there
			}
			section := envs[env].(settings)[provider].(settings)
			for name, value := range asking {
				section[name] = value
			}
		}
	}
}

// prepareStores returns the process of the simulated providers.
func (s *System) prepareStores() (*child, error) {
	if err := os.MkdirAll(s.storesDir(), 0o700); err != nil {
		return nil, fmt.Errorf("make folder: %w", err)
	}
	var writers []string
	for i := range s.config.Writers {
		writers = append(writers, "http://"+s.config.address(writerPort, i))
	}
	listen := s.config.address(storesPort, 0)
	args := []string{"serve", "--credentials", s.storesCredentials(), "--listen", listen, "--production", s.config.address(storesPort, 1), "--sandbox", s.config.address(storesPort, 2),
		"--writers", strings.Join(writers, ",")}
	if file := os.Getenv(virtualClock); file != "" {
		args = append(args, "--clock-file", file)
	}
	return &child{id: "storesim", role: roleStores, url: "http://" + listen, dir: s.storesDir(), program: filepath.Join(s.config.Programs, "latchkey-"+string(roleStores)), args: args,
		logPath: filepath.Join(s.config.Dir, "logs", "storesim.log")}, nil
}
