package writer

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/latchkey/latchkey/pkg/config"
	"github.com/latchkey/latchkey/pkg/entitlement"
	"github.com/latchkey/latchkey/pkg/token"
)

// TestValidate shows that each mistake is found under the field's name, and that mistakes come all at once.
func TestValidate(t *testing.T) {
	other := t.TempDir()
	if err := MakeKeys(other, "othercluster", entitlement.Environments); err != nil {
		t.Fatal(err)
	}
	same := t.TempDir()
	if err := MakeKeys(same, testCluster, entitlement.Environments); err != nil {
		t.Fatal(err)
	}
	broken := filepath.Join(other, "broken")
	if err := os.WriteFile(broken, []byte(`{"products": [{"provider": "stripe"}]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	sandbox := func(f func(*EnvironmentConfig)) func(*Config) {
		return func(c *Config) {
			e := c.Environments[entitlement.Sandbox]
			f(&e)
			c.Environments[entitlement.Sandbox] = e
		}
	}
	tests := []struct {
		name   string
		change func(*Config)
		want   []string // fields
	}{
		{"nothing is wrong", func(*Config) {}, nil},
		{"an empty configuration", func(c *Config) { *c = Config{} }, []string{"node.id", "node.cluster", "node.data_dir", "node.listen", "node.internal_listen", "node.raft_listen",
			"cluster.voters", "environments", "trust.root_public_keys", "keys.issuer_key_file", "keys.issuer_cert_file"}},
		{"a node's name with a slash", func(c *Config) { c.Node.ID = "w/1" }, []string{"node.id"}},
		{"a node that is none of the founders", func(c *Config) { c.Node.ID = "w9" }, nil},
		{"an address without a port", func(c *Config) { c.Node.Listen = "127.0.0.1" }, []string{"node.listen"}},
		{"an internal listener for all the world", func(c *Config) { c.Node.InternalListen = "0.0.0.0:8421" }, []string{"node.internal_listen"}},
		{"an internal listener on a name", func(c *Config) { c.Node.InternalListen = "writer.internal:8421" }, []string{"node.internal_listen"}},
		{"an internal listener on every interface by leaving the host out", func(c *Config) { c.Node.InternalListen = ":8421" }, []string{"node.internal_listen"}},
		{"Raft for all the world", func(c *Config) { c.Node.RaftListen = "10.0.0.1:1" }, []string{"node.raft_listen"}},
		{"a voter twice", func(c *Config) { c.Cluster.Voters = append(c.Cluster.Voters, c.Cluster.Voters[0]) }, []string{"cluster.voters[1].id"}},
		{"a voter without addresses", func(c *Config) { c.Cluster.Voters = append(c.Cluster.Voters, VoterConfig{ID: "w2"}) }, []string{"cluster.voters[1].raft", "cluster.voters[1].internal"}},
		{"one audience for both", sandbox(func(e *EnvironmentConfig) { e.Audience = "com.example.app" }), []string{"environments.sandbox.audience"}},
		{"no audience", sandbox(func(e *EnvironmentConfig) { e.Audience = "" }), []string{"environments.sandbox.audience"}},
		{"an environment that is none", func(c *Config) { c.Environments["staging"] = EnvironmentConfig{} }, []string{"environments.staging"}},
		{"a key of the other environment", sandbox(func(e *EnvironmentConfig) { e.APIKeys[0].Key = productionKey }), []string{"environments.sandbox.api_keys[0].key"}},
		{"a key of another scope", sandbox(func(e *EnvironmentConfig) { e.APIKeys[0].Scope = scopeRead }), []string{"environments.sandbox.api_keys[0].key"}},
		{"a key that can be guessed", sandbox(func(e *EnvironmentConfig) { e.APIKeys[0].Key = "lk_sandbox_sk_short" }), []string{"environments.sandbox.api_keys[0].key"}},
		{"a key without name and scope", sandbox(func(e *EnvironmentConfig) { e.APIKeys[0] = APIKeyConfig{Key: serverKey} }),
			[]string{"environments.sandbox.api_keys[0].name", "environments.sandbox.api_keys[0].scope"}},
		{"two keys of one name", sandbox(func(e *EnvironmentConfig) { e.APIKeys[1].Name = e.APIKeys[0].Name }), []string{"environments.sandbox.api_keys[1].name"}},
		{"RevenueCat without a proof", sandbox(func(e *EnvironmentConfig) { e.RevenueCat = &RevenueCatConfig{} }), []string{"environments.sandbox.revenuecat.authorizations"}},
		{"RevenueCat with an empty signing secret", sandbox(func(e *EnvironmentConfig) { e.RevenueCat = &RevenueCatConfig{SigningSecrets: []config.Secret{""}} }), []string{"environments.sandbox.revenuecat.signing_secrets"}},
		{"RevenueCat's signature in no header", sandbox(func(e *EnvironmentConfig) {
			e.RevenueCat = &RevenueCatConfig{SigningSecrets: []config.Secret{"s"}, SignatureHeader: "a b"}
		}), []string{"environments.sandbox.revenuecat.signature_header"}},
		{"RevenueCat's key without its project", sandbox(func(e *EnvironmentConfig) {
			e.RevenueCat = &RevenueCatConfig{SigningSecrets: []config.Secret{"s"}, APIKey: "sk_canary"}
		}), []string{"environments.sandbox.revenuecat.project"}},
		{"RevenueCat's key to an address without TLS", sandbox(func(e *EnvironmentConfig) {
			e.RevenueCat = &RevenueCatConfig{SigningSecrets: []config.Secret{"s"}, APIKeyV1: "sk_canary", APIBase: "http://rc.example"}
		}), []string{"environments.sandbox.revenuecat.api_base"}},
		{"Stripe without a secret", sandbox(func(e *EnvironmentConfig) { e.Stripe = &StripeConfig{} }), []string{"environments.sandbox.stripe.webhook_secrets"}},
		{"Stripe with an empty secret", sandbox(func(e *EnvironmentConfig) {
			e.Stripe = &StripeConfig{WebhookSecrets: []config.Secret{stripeSecret, ""}}
		}),
			[]string{"environments.sandbox.stripe.webhook_secrets"}},
		{"Stripe's API without a key", sandbox(func(e *EnvironmentConfig) { e.Stripe.APIBase = "https://stripe.example" }), nil},
		{"Stripe's API with one", sandbox(func(e *EnvironmentConfig) { e.Stripe.APIKey, e.Stripe.APIBase = stripeKey, "http://127.0.0.1:1" }), nil},
		{"Stripe's live key in sandbox", sandbox(func(e *EnvironmentConfig) { e.Stripe.APIKey = "rk_live_canary" }), []string{"environments.sandbox.stripe.api_key"}},
		{"a publishable key for Stripe's API", sandbox(func(e *EnvironmentConfig) { e.Stripe.APIKey = "pk_test_canary" }), []string{"environments.sandbox.stripe.api_key"}},
		{"Stripe's API without TLS", sandbox(func(e *EnvironmentConfig) { e.Stripe.APIBase = "http://stripe.example" }), []string{"environments.sandbox.stripe.api_base"}},
		{"the key to an address without TLS", sandbox(func(e *EnvironmentConfig) { e.Stripe.APIKey, e.Stripe.APIBase = stripeKey, "http://stripe.example" }), []string{"environments.sandbox.stripe.api_base"}},
		{"a catalog that is not there", sandbox(func(e *EnvironmentConfig) { e.CatalogFile = "/nowhere" }), []string{"environments.sandbox.catalog_file"}},
		{"a catalog that is wrong", sandbox(func(e *EnvironmentConfig) { e.CatalogFile = broken }), []string{"environments.sandbox.catalog_file"}},
		{"a page to manage purchases at nobody's", func(c *Config) { c.ManageURLs["nobody"] = "https://x.example" }, []string{"manage_urls.nobody"}},
		{"a page to manage purchases without TLS", func(c *Config) { c.ManageURLs[entitlement.Stripe] = "http://x.example" }, []string{"manage_urls.stripe"}},
		{"keys that are not there", func(c *Config) { c.Keys.IssuerKeyFile = "/nowhere" }, []string{"keys.issuer_key_file"}},
		{"another cluster's issuer", func(c *Config) {
			c.Keys.IssuerKeyFile, c.Keys.IssuerCertFile = filepath.Join(other, issuerKeyFile), filepath.Join(other, issuerCertFile)
		}, []string{"keys.issuer_cert_file"}},
		{"an issuing key without its certificate", func(c *Config) { c.Keys.IssuerKeyFile = filepath.Join(same, issuerKeyFile) }, []string{"keys.issuer_cert_file"}},
		{"an issuer under a root that is not pinned", func(c *Config) {
			c.Keys.IssuerKeyFile, c.Keys.IssuerCertFile = filepath.Join(same, issuerKeyFile), filepath.Join(same, issuerCertFile)
		}, []string{"keys.issuer_cert_file"}},
		{"no session key", func(c *Config) { c.Keys.SessionKeyFiles = nil }, []string{"keys.session_key_files.production", "keys.session_key_files.sandbox"}},
		{"a public key for a private one", func(c *Config) { c.Keys.SessionKeyFiles[entitlement.Sandbox] = c.Trust.RootPublicKeys[0] }, []string{"keys.session_key_files.sandbox"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			cfg := testConfigs(t, 1)[0]
			tt.change(&cfg)
			err := mistaken(t, &cfg, tt.want)
			if err == nil {
				return
			}
			if _, openErr := Open(cfg); openErr == nil || openErr.Error() != err.Error() {
				t.Errorf("Open = %v, want what Validate says", openErr)
			}
			for _, secret := range []string{serverKey, productionKey, stripeSecret, "lk_sandbox_sk_short", "canary"} {
				if strings.Contains(err.Error(), secret) {
					t.Errorf("a mistake quotes a secret: %v", err)
				}
			}
		})
	}
}

// mistaken compares the fields in which Validate finds mistakes, and returns what it says.
func mistaken(t *testing.T, cfg *Config, want []string) error {
	t.Helper()
	err := cfg.Validate()
	var mistakes config.Mistakes
	if err != nil && !errors.As(err, &mistakes) {
		t.Fatalf("Validate = %v, want config.Mistakes", err)
	}
	var fields []string
	for _, m := range mistakes {
		fields = append(fields, m.Field)
	}
	slices.Sort(fields)
	slices.Sort(want)
	if !slices.Equal(fields, want) {
		t.Errorf("Validate found %v, want mistakes in %v", err, want)
	}
	return err
}

// TestDocumentedConfiguration loads the example of deploy/docs/configuration.md, so that the page names every field rightly.
func TestDocumentedConfiguration(t *testing.T) {
	page, err := os.ReadFile(filepath.Join("..", "deploy", "docs", "configuration.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(page), "<!-- writer.yaml -->\n```yaml\n")
	example, _, ok := strings.Cut(rest, "```")
	if !ok {
		t.Fatal("the page has no example of writer.yaml")
	}
	dir := t.TempDir()
	cfg := testConfigs(t, 1)[0]
	keys := filepath.Dir(cfg.Keys.IssuerKeyFile)
	replace := strings.NewReplacer("/etc/latchkey/keys", keys, "/etc/latchkey/catalog.json", cfg.Environments[entitlement.Sandbox].CatalogFile,
		"/etc/latchkey/secrets", dir, "01JD0000000000000000000000", testCluster)
	for name, text := range map[string]string{"production.key": productionKey, "sandbox.key": serverKey, "stripe-production": "whsec_1\nwhsec_2\n", "stripe-sandbox": "whsec_3\n",
		"stripe-production-api": "rk_live_1\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	path := filepath.Join(dir, "writer.yaml")
	if err := os.WriteFile(path, []byte(replace.Replace(example)), 0o600); err != nil {
		t.Fatal(err)
	}
	var loaded Config
	if err := config.Load(path, &loaded); err != nil {
		t.Fatalf("the example does not load:\n%v", err)
	}
	if got := loaded.Environments[entitlement.Production].Stripe.WebhookSecrets; len(got) != 2 {
		t.Errorf("production has %d webhook secrets, want the file's 2", len(got))
	}
	if key := loaded.Environments[entitlement.Production].Stripe.APIKey; string(key) != "rk_live_1" {
		t.Error("production's API key is not the file's")
	}
}

// TestMakeKeys shows that keys are made once, with modes that keep them, and go together.
func TestMakeKeys(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "keys")
	if err := MakeKeys(dir, testCluster, entitlement.Environments); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(e.Name(), ".key") && info.Mode().Perm() != 0o600 {
			t.Errorf("%s has the mode %o, want 600", e.Name(), info.Mode().Perm())
		}
	}
	if len(entries) != 9 {
		t.Errorf("%d files, want 9: %v", len(entries), entries)
	}
	if err := MakeKeys(dir, testCluster, entitlement.Environments); !errors.Is(err, ErrKeysExist) {
		t.Errorf("MakeKeys again = %v, want ErrKeysExist", err)
	}
	if err := MakeKeys(t.TempDir(), "a cluster", nil); err == nil {
		t.Error("MakeKeys took a cluster's name with a blank")
	}
}

// TestSignerRenews shows when a position key's certificate is made anew, and that what it signs verifies all the time.
func TestSignerRenews(t *testing.T) {
	cfg := testConfigs(t, 1)[0]
	var mistakes config.Mistakes
	keys := cfg.loadKeys(&mistakes)
	if mistakes != nil {
		t.Fatal(mistakes)
	}
	start := cfg.now()
	s, err := newSigner(keys, testCluster, "w1", start)
	if err != nil {
		t.Fatal(err)
	}
	verifier := &token.PositionVerifier{Roots: keys.roots, Cluster: testCluster}
	const hour = 3600
	issuerEnds := keys.issuerCert.ExpiresAt - start.Unix()
	tests := []struct {
		name    string
		after   int64 // seconds since start
		renewed bool
	}{
		{"not while more than 48 h are left", 23 * hour, false},
		{"when less than 48 h are left", 25 * hour, true},
		{"not again at once", 26 * hour, false},
		{"after a day more", 50 * hour, true},
		{"near the issuer's end, as far as that goes", issuerEnds - 30*hour, true},
		{"not for nothing at the issuer's end", issuerEnds - 20*hour, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			now := start.Add(time.Duration(tt.after) * time.Second)
			before := s.current.Load()
			signed, err := s.sign(token.PositionClaims{Epoch: 1, Revision: 1, Rules: 1, IssuedAt: now.Unix()}, now)
			if err != nil {
				t.Fatal(err)
			}
			if renewed := s.current.Load() != before; renewed != tt.renewed {
				t.Errorf("renewed = %t, want %t; the certificate ends in %s", renewed, tt.renewed, time.Duration(s.current.Load().Certificate().ExpiresAt-now.Unix())*time.Second)
			}
			if _, err := verifier.Verify(signed); err != nil {
				t.Errorf("what was signed does not verify: %v", err)
			}
		})
	}
}

// TestMailMistakes: what would send nothing, or send a way into an account in clear, is found at start.
func TestMailMistakes(t *testing.T) {
	const link = "https://app.example.com/in?t={token}"
	good := SMTPConfig{Address: "mail.example.com:587", From: "links@example.com"}
	with := func(change func(*SMTPConfig)) *SMTPConfig { s := good; change(&s); return &s }
	tests := []struct {
		name  string
		mail  MailConfig
		field string // of the mistake; empty for none
	}{
		{"none", MailConfig{}, ""},
		{"a server", MailConfig{LinkURL: link, SMTP: &good}, ""},
		{"a backend", MailConfig{LinkURL: link, Webhook: &MailWebhookConfig{URL: "https://example.com/mail", Secret: "s"}}, ""},
		{"a server of this machine", MailConfig{LinkURL: link, SMTP: with(func(s *SMTPConfig) { s.Address, s.Plain = "127.0.0.1:25", true })}, ""},
		{"in clear to another machine", MailConfig{LinkURL: link, SMTP: with(func(s *SMTPConfig) { s.Plain = true })}, "mail.smtp.plain"},
		{"a password in clear", MailConfig{LinkURL: link, SMTP: with(func(s *SMTPConfig) { s.Address, s.Plain, s.Username = "127.0.0.1:25", true, "u" })}, "mail.smtp.username"},
		{"no address", MailConfig{LinkURL: link, SMTP: with(func(s *SMTPConfig) { s.Address = "mail" })}, "mail.smtp.address"},
		{"no sender", MailConfig{LinkURL: link, SMTP: with(func(s *SMTPConfig) { s.From = "Links <links@example.com>" })}, "mail.smtp.from"},
		{"a link without the token", MailConfig{LinkURL: "https://app.example.com", SMTP: &good}, "mail.link_url"},
		{"a link in clear", MailConfig{LinkURL: "http://app.example.com/{token}", SMTP: &good}, "mail.link_url"},
		{"a code without its place", MailConfig{LinkURL: "https://app.example.com/{token}", CodeURL: "https://app.example.com/code", SMTP: &good}, "mail.code_url"},
		{"a code's page and nobody who sends it", MailConfig{CodeURL: "https://app.example.com/{code}"}, "mail"},
		{"a link and nobody who sends it", MailConfig{LinkURL: link}, "mail"},
		{"both", MailConfig{LinkURL: link, SMTP: &good, Webhook: &MailWebhookConfig{URL: "https://example.com/mail", Secret: "s"}}, "mail"},
		{"a backend in clear", MailConfig{LinkURL: link, Webhook: &MailWebhookConfig{URL: "http://example.com/mail", Secret: "s"}}, "mail.webhook.url"},
		{"a backend without a secret", MailConfig{LinkURL: link, Webhook: &MailWebhookConfig{URL: "https://example.com/mail"}}, "mail.webhook.secret"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var m config.Mistakes
			tt.mail.validate(&m)
			fields := []string{}
			for _, mistake := range m {
				fields = append(fields, mistake.Field)
			}
			if got := strings.Join(fields, " "); got != tt.field {
				t.Errorf("mistakes = %v, want %q", m, tt.field)
			}
		})
	}
}
