package system

import (
	"crypto/rand"
	_ "embed"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/latchkey/latchkey/pkg/entitlement"
	"github.com/latchkey/latchkey/pkg/mutual"
	"github.com/latchkey/latchkey/writer"
)

// catalog is what the example app sells, in both environments.
//
//go:embed catalog.json
var catalog []byte

var environments = []entitlement.Environment{entitlement.Production, entitlement.Sandbox}

// rootFiles are the public root keys that an app pins, in DIR/keys: the active one and the spare.
var rootFiles = []string{"root.pub.pem", "root-spare.pub.pem"}

// audience is the app's name in tokens. The sandbox one differs, so that no sandbox token passes in production.
func audience(env string) string {
	if env == string(entitlement.Sandbox) {
		return "com.example.app/sandbox"
	}
	return "com.example.app"
}

// secrets is what the first start draws by lot and every later one finds: DIR/secrets.json.
type secrets struct {
	Cluster      string                       `json:"cluster"`
	Writers      int                          `json:"writers"`
	Environments map[string]environmentSecret `json:"environments"`
	ContactsKey  string                       `json:"contacts_key"`
}

type environmentSecret struct {
	ServerKey      string `json:"server_key"`
	PublishableKey string `json:"publishable_key"`
	StripeSecret   string `json:"stripe_webhook_secret"`

	RevenueCatAuthorization string `json:"revenuecat_authorization"`
	AdaptyAuthorization     string `json:"adapty_authorization"`
	IapticPassword          string `json:"iaptic_password"`
	Web2WaveToken           string `json:"web2wave_token"`
}

func random(prefix string) string {
	var b [24]byte
	rand.Read(b[:])
	return prefix + hex.EncodeToString(b[:])
}

// loadSecrets returns the folder's secrets, and makes them and the keys when there are none.
func loadSecrets(config Config) (secrets, error) {
	var s secrets
	path := filepath.Join(config.Dir, "secrets.json")
	b, err := os.ReadFile(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return makeSecrets(config, path)
	case err != nil:
		return s, fmt.Errorf("secrets: %w", err)
	}
	if err := json.Unmarshal(b, &s); err != nil {
		return s, fmt.Errorf("%s: %w", path, err)
	}
	// The members of a Raft cluster are part of its data; a different number here would leave it without a majority, or split.
	if s.Writers != config.Writers {
		return s, fmt.Errorf("%w: %s was made with --writers %d; start it so, or choose another --dir", ErrUsage, config.Dir, s.Writers)
	}
	if s.complete() {
		return s, s.write(path)
	}
	return s, nil
}

// complete draws by lot what is missing, and reports whether that was anything: a folder of an earlier program has no secrets of the providers
// that it did not know.
func (s *secrets) complete() bool {
	drawn := s.ContactsKey == ""
	if drawn {
		s.ContactsKey = random("") + random("")[:16]
	}
	for env, secret := range s.Environments {
		for _, missing := range []struct {
			secret *string
			prefix string
		}{
			{&secret.RevenueCatAuthorization, "Bearer "},
			{&secret.AdaptyAuthorization, "Bearer "},
			{&secret.IapticPassword, ""},
			{&secret.Web2WaveToken, ""},
		} {
			if *missing.secret == "" {
				*missing.secret, drawn = random(missing.prefix), true
			}
		}
		s.Environments[env] = secret
	}
	return drawn
}

func (s *secrets) write(path string) error {
	b, err := json.MarshalIndent(s, "", " ")
	if err != nil {
		return fmt.Errorf("secrets: %w", err)
	}
	return writeFile(path, append(b, '\n'))
}

func makeSecrets(config Config, path string) (secrets, error) {
	s := secrets{Cluster: random("dev-")[:16], Writers: config.Writers, Environments: map[string]environmentSecret{}}
	for _, env := range environments {
		s.Environments[string(env)] = environmentSecret{
			ServerKey:      random("lk_" + string(env) + "_sk_"),
			PublishableKey: random("lk_" + string(env) + "_pk_"),
			StripeSecret:   random("whsec_"),
		}
	}
	// The keys go first and arrive whole: secrets.json says that they are there.
	keys := filepath.Join(config.Dir, "keys")
	if err := errors.Join(os.RemoveAll(keys+".tmp"), os.RemoveAll(keys), os.Mkdir(keys+".tmp", 0o700)); err != nil {
		return s, fmt.Errorf("keys: %w", err)
	}
	if err := writer.MakeKeys(keys+".tmp", s.Cluster, environments); err != nil {
		return s, fmt.Errorf("keys: %w", err)
	}
	if err := os.Rename(keys+".tmp", keys); err != nil {
		return s, fmt.Errorf("keys: %w", err)
	}
	s.complete()
	return s, s.write(path)
}

func (s *System) keysDir() string { return filepath.Join(s.config.Dir, "keys") }

// roots are the paths of the keys that apps and nodes pin.
func (s *System) roots() []string {
	var paths []string
	for _, name := range rootFiles {
		paths = append(paths, filepath.Join(s.keysDir(), name))
	}
	return paths
}

// settings is a part of a node's configuration file; docs/configuration.md lists them all.
type settings = map[string]any

// prepareNodes writes every node's configuration and returns the nodes.
func (s *System) prepareNodes() ([]*child, error) {
	for _, dir := range []string{"config", "logs"} {
		if err := os.MkdirAll(filepath.Join(s.config.Dir, dir), 0o700); err != nil {
			return nil, fmt.Errorf("make folder: %w", err)
		}
	}
	if err := writeFile(filepath.Join(s.config.Dir, "config", "catalog.json"), catalog); err != nil {
		return nil, err
	}
	if err := s.makeGoogleKeys(); err != nil {
		return nil, err
	}
	if err := s.makeApple(); err != nil {
		return nil, err
	}
	if err := s.makeStores(); err != nil {
		return nil, err
	}
	var children []*child
	for i := range s.config.Writers {
		c, err := s.prepareNode(roleWriter, fmt.Sprintf("w%d", i+1), s.config.address(writerPort, i), s.writerSettings(i))
		if err != nil {
			return nil, err
		}
		children = append(children, c)
	}
	for i := range s.config.Edges {
		c, err := s.prepareNode(roleEdge, fmt.Sprintf("e%d", i+1), s.config.address(edgePort, i), s.edgeSettings(i))
		if err != nil {
			return nil, err
		}
		children = append(children, c)
	}
	if s.config.Storesim {
		c, err := s.prepareStores()
		if err != nil {
			return nil, err
		}
		children = append(children, c)
	}
	return children, nil
}

func (s *System) prepareNode(role role, id, listen string, conf settings) (*child, error) {
	dir := filepath.Join(s.config.Dir, id)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make folder: %w", err)
	}
	if err := s.secure(conf, mutual.Peer{Node: id, Role: mutual.Role(role)}); err != nil {
		return nil, err
	}
	b, err := yaml.Marshal(conf)
	if err != nil {
		return nil, fmt.Errorf("configuration of %s: %w", id, err)
	}
	path := filepath.Join(s.config.Dir, "config", id+".yaml")
	if err := writeFile(path, b); err != nil {
		return nil, err
	}
	return &child{
		id: id, role: role, url: "http://" + listen, dir: dir,
		program: filepath.Join(s.config.Programs, "latchkey-"+string(role)),
		args:    []string{"serve", "--config", path},
		logPath: filepath.Join(s.config.Dir, "logs", id+".log"),
	}, nil
}

func (s *System) writerSettings(i int) settings {
	var voters []settings
	for v := range s.config.Writers {
		voters = append(voters, settings{
			"id": fmt.Sprintf("w%d", v+1), "raft": s.config.reach(raftPort, v), "internal": s.scheme("http://", "https://") + s.config.reach(internalPort, v),
		})
	}
	sessionKeys, envs := settings{}, settings{}
	for _, env := range environments {
		env := string(env)
		sessionKeys[env] = filepath.Join(s.keysDir(), "session-"+env+".key.pem")
		secret := s.secrets.Environments[env]
		envs[env] = settings{
			"audience": audience(env),
			"api_keys": []settings{
				{"name": "dev-server", "scope": "sk", "key": secret.ServerKey},
				{"name": "dev-app", "scope": "pk", "key": secret.PublishableKey},
			},
			"catalog_file": filepath.Join(s.config.Dir, "config", "catalog.json"),
			"stripe":       settings{"webhook_secrets": []string{secret.StripeSecret}},
			"revenuecat":   settings{"authorizations": []string{secret.RevenueCatAuthorization}},
			"adapty":       settings{"authorizations": []string{secret.AdaptyAuthorization}},
			"iaptic":       settings{"passwords": []string{secret.IapticPassword}},
			"google":       s.googleSettings(env),
			"apple":        settings{"bundle_id": bundleID, "root_ca_files": []string{s.appleFile(appleRootFile)}},
			"web2wave":     settings{"webhook_tokens": []string{secret.Web2WaveToken}},
		}
	}
	s.askStores(envs)
	return settings{
		"trust": settings{"root_public_keys": s.roots()},
		"node": settings{
			"id": fmt.Sprintf("w%d", i+1), "data_dir": filepath.Join(s.config.Dir, fmt.Sprintf("w%d", i+1)), "cluster": s.secrets.Cluster,
			"listen": s.config.address(writerPort, i), "internal_listen": s.config.address(internalPort, i), "raft_listen": s.config.address(raftPort, i),
		},
		"cluster": settings{"voters": voters},
		"nats":    s.writerNATS(i),
		"keys": settings{
			"issuer_key_file":   filepath.Join(s.keysDir(), "issuer.key.pem"),
			"issuer_cert_file":  filepath.Join(s.keysDir(), "issuer.cert"),
			"session_key_files": sessionKeys,
		},
		"contacts":     settings{"key": s.secrets.ContactsKey},
		"manage_urls":  manageURLs,
		"environments": envs,
	}
}

// writerNATS is the i-th writer's own NATS server. LATCHKEY_NATS_ENABLED and LATCHKEY_NATS_URLS, which the nodes inherit, go before it.
func (s *System) writerNATS(i int) settings {
	var routes []string
	for w := range s.config.Writers {
		if w != i {
			routes = append(routes, s.scheme("nats://", "tls://")+s.config.reach(natsRoutePort, w))
		}
	}
	own := settings{"enabled": true, "listen": s.config.address(natsPort, i), "cluster_listen": s.config.address(natsRoutePort, i), "routes": routes}
	if s.config.Reach != nil { // what servers tell of each other must not lead past the relay
		own["advertise"], own["cluster_advertise"] = s.config.reach(natsPort, i), s.config.reach(natsRoutePort, i)
	}
	return own
}

// ownNATS is where the writers' own servers take clients.
func (s *System) ownNATS() []string {
	var urls []string
	for w := range s.config.Writers {
		urls = append(urls, s.scheme("nats://", "tls://")+s.config.reach(natsPort, w))
	}
	return urls
}

// natsURLs is where NATS clients connect, after what the environment says. None: NATS is off.
func (s *System) natsURLs() []string {
	if enabled, err := strconv.ParseBool(os.Getenv("LATCHKEY_NATS_ENABLED")); err == nil && !enabled {
		return nil
	}
	if outside := os.Getenv("LATCHKEY_NATS_URLS"); outside != "" {
		return strings.Split(outside, ",")
	}
	return s.ownNATS()
}

var manageURLs = settings{"stripe": "https://billing.example.com/manage"}

func (s *System) edgeSettings(i int) settings {
	var urls []string
	for w := range s.config.Writers {
		urls = append(urls, s.scheme("http://", "https://")+s.config.reach(internalPort, w))
	}
	envs := settings{}
	for _, env := range environments {
		envs[string(env)] = settings{"audience": audience(string(env))}
	}
	return settings{
		"node": settings{
			"id": fmt.Sprintf("e%d", i+1), "data_dir": filepath.Join(s.config.Dir, fmt.Sprintf("e%d", i+1)), "cluster": s.secrets.Cluster,
			"listen": s.config.address(edgePort, i),
		},
		"writers":      settings{"urls": urls},
		"nats":         settings{"enabled": true, "urls": s.ownNATS()},
		"trust":        settings{"root_public_keys": s.roots()},
		"manage_urls":  manageURLs,
		"environments": envs,
	}
}
