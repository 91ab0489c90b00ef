package writer

import (
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/latchkey/latchkey/pkg/config"
	"github.com/latchkey/latchkey/pkg/entitlement"
	"github.com/latchkey/latchkey/pkg/fault"
	"github.com/latchkey/latchkey/pkg/identity"
	"github.com/latchkey/latchkey/pkg/mutual"
	"github.com/latchkey/latchkey/pkg/room"
	"github.com/latchkey/latchkey/writer/internal/provider"
)

// Config is everything that a writer is told at start. config.Load reads it from a file; deploy/docs/configuration.md shows one.
type Config struct {
	Node    NodeConfig    `config:"node"`
	Cluster ClusterConfig `config:"cluster"`
	NATS    NATSConfig    `config:"nats"`
	Keys    KeysConfig    `config:"keys"`
	Trust   TrustConfig   `config:"trust"`
	Log     LogConfig     `config:"log"`

	// Contacts is how e-mail addresses are kept. Without it none is taken.
	Contacts ContactsConfig `config:"contacts"`

	// Mail is how link tokens reach people. Without it none is sent.
	Mail MailConfig `config:"mail"`

	// TLS, when given, puts everything between the nodes under mutual TLS: Raft, the internal listener, NATS. All writers and edges of a cluster have
	// it or none. Only with it may the listeners for nodes be on other than loopback addresses.
	TLS *mutual.Files `config:"tls"`

	// ManageURLs are where a customer of each provider manages a subscription; shown as manage_url. None: none is shown.
	ManageURLs map[entitlement.Provider]string `config:"manage_urls"`

	// Environments are those that this cluster serves; at least one. What is not listed does not exist: 404.
	Environments map[entitlement.Environment]EnvironmentConfig `config:"environments"`

	// Now is the clock of this machine. Nil is time.Now. Only tests set it.
	Now func() time.Time
	// Tick gives the time every d, as Now counts it, until stop is called. Nil is time.NewTicker. Only tests set it, whose Now goes by leaps.
	Tick func(d time.Duration) (ticks <-chan time.Time, stop func())
	// Logger takes the log. Nil is JSON on standard error at Log.Level. Only tests set it.
	Logger *slog.Logger

	listeners listeners     // taken already, by tests that run several writers
	fatal     func(error)   // instead of ending the process, in tests
	heartbeat time.Duration // shorter in tests that stop leaders; 0 is the store's default
	segment   int64         // bytes of a journal segment, fewer in tests; 0 is the store's default
	statFS    room.Stat     // of tests' disks; nil is the file system's own

	joinStable time.Duration // how long a joining node must have held everything, less in tests; 0 is the store's default
}

type listeners struct{ public, internal, raft net.Listener }

func (c *Config) clock() func() time.Time {
	if c.Now != nil {
		return c.Now
	}
	return fault.Clock(time.Now)
}

func (c *Config) ticker(d time.Duration) (ticks <-chan time.Time, stop func()) {
	if c.Tick != nil {
		return c.Tick(d)
	}
	t := time.NewTicker(d)
	return t.C, t.Stop
}

func (c *Config) logger() *slog.Logger {
	log := c.Logger
	if log == nil {
		log = slog.New(slog.NewJSONHandler(os.Stderr, &slog.HandlerOptions{Level: c.Log.Level}))
	}
	return log.With("node", c.Node.ID)
}

func (c *Config) now() time.Time { return c.clock()() }

// NodeConfig is what differs from writer to writer.
type NodeConfig struct {
	// ID names the writer among the voters, for ever: "w1".
	ID string `config:"id"`

	// DataDir holds the log, the state, the journal and operator.sock. It is trusted: whoever can write it can grant themselves
	// any entitlement, and whoever can open operator.sock is the operator. Made with mode 0700.
	DataDir string `config:"data_dir"`

	// DiskReserveBytes is how much of DataDir's file system is kept free: below it this writer leads no more if another one has room, and
	// where a majority is below it writes are answered with 503 while reads go on. Zero is a fiftieth of the file system, but 512 MiB at
	// least, 2 GiB and a quarter of it at most, and as much as the state takes.
	DiskReserveBytes int64 `config:"disk_reserve_bytes"`

	// Cluster is the cluster's id, which `latchkey-writer keys init` put into the issuing certificate. It is the iss of every token.
	Cluster string `config:"cluster"`

	// Listen is the public address, host:port: webhooks, server API, health, metrics. A reverse proxy in front ends TLS.
	Listen string `config:"listen"`

	// InternalListen is where edges and the other writers connect, and RaftListen where Raft does. Without TLS both believe whoever
	// reaches them, so that only loopback addresses are accepted.
	InternalListen string `config:"internal_listen"`
	RaftListen     string `config:"raft_listen"`

	// InternalAdvertise and RaftAdvertise are how the other writers reach this one where cluster.voters does not list it, because it joined later:
	// https://host:port, without TLS http://host:port; and host:port. Empty is where it listens.
	InternalAdvertise string `config:"internal_advertise"`
	RaftAdvertise     string `config:"raft_advertise"`
}

// ClusterConfig says who the writers are.
type ClusterConfig struct {
	// Voters are the writers that found the cluster, the same list on each of them. 3 survive the loss of one, 5 of two. A writer that is not in its
	// own list founds nothing: it asks those in the list to take it in when `latchkey-writer join` is called.
	Voters []VoterConfig `config:"voters"`
}

// VoterConfig is one writer as the others reach it.
type VoterConfig struct {
	ID       string `config:"id"`
	Raft     string `config:"raft"`     // host:port
	Internal string `config:"internal"` // https://host:port, without TLS http://host:port
}

// NATSConfig is the fast path to the edges. Without it they pull, as right and hardly later.
type NATSConfig struct {
	Enabled bool `config:"enabled"`

	// URLs name servers that run elsewhere, nats://host:port on this machine or tls://host:port. None: this writer runs one itself.
	URLs []string `config:"urls"`

	// Listen is where the own server takes edges, ClusterListen where it takes the other writers' servers, host:port; Routes are
	// those others, tls://host:port, without TLS nats://host:port. Without TLS they believe whoever reaches them, so that only loopback addresses
	// are accepted.
	Listen        string   `config:"listen"`
	ClusterListen string   `config:"cluster_listen"`
	Routes        []string `config:"routes"`

	// Advertise and ClusterAdvertise are how edges and the other writers' servers reach the own server, host:port, where they are told of it by
	// another server: behind a translation of addresses. Empty: as it listens.
	Advertise        string `config:"advertise"`
	ClusterAdvertise string `config:"cluster_advertise"`
}

// KeysConfig names the private keys. They are in no log, snapshot or backup of ours: keep them as you keep any private key.
type KeysConfig struct {
	IssuerKeyFile   string                             `config:"issuer_key_file"`   // PKCS#8 PEM
	IssuerCertFile  string                             `config:"issuer_cert_file"`  // the root's certificate for it
	SessionKeyFiles map[entitlement.Environment]string `config:"session_key_files"` // PKCS#8 PEM, one for each environment
}

// TrustConfig names what the writer believes without proof.
type TrustConfig struct {
	// RootPublicKeys are the files of the pinned roots, SPKI PEM: the active one and the spare, as in the apps. With them a writer finds at
	// start that its certificate would be refused by every edge.
	RootPublicKeys []string `config:"root_public_keys"`
}

// LogConfig says what is logged.
type LogConfig struct {
	Level slog.Level `config:"level"` // debug, info (default), warn, error
}

// EnvironmentConfig is one environment. The two share nothing but the machine.
type EnvironmentConfig struct {
	// Audience is the aud of the environment's tokens: the app's name. That of sandbox is never that of production.
	Audience string `config:"audience"`

	// APIKeys are the first server keys; `latchkey-writer keys api` manages more. They are hashed into the cluster's state, and a
	// key that was revoked there stays revoked although it is here.
	APIKeys []APIKeyConfig `config:"api_keys"`

	// CatalogFile is the first catalog, as the body of PUT /v1/catalog. It counts only while the environment has none.
	CatalogFile string `config:"catalog_file"`

	// IdentityProviders are those whose users need no session of ours: an app shows the token that it got there. As the edges have them.
	IdentityProviders []identity.Config `config:"identity_providers"`

	// The providers. One that is absent has no webhook address and is never asked.
	Stripe     *StripeConfig     `config:"stripe"`
	RevenueCat *RevenueCatConfig `config:"revenuecat"`
	Google     *GoogleConfig     `config:"google"`
	Apple      *AppleConfig      `config:"apple"`
	Adapty     *AdaptyConfig     `config:"adapty"`
	Iaptic     *IapticConfig     `config:"iaptic"`
	Web2Wave   *Web2WaveConfig   `config:"web2wave"`
}

// providerConfig is one provider in one environment.
type providerConfig interface {
	// validate adds what is wrong with the section that stands at a field.
	validate(env entitlement.Environment, at string, m *config.Mistakes)
	adapter(env entitlement.Environment) (provider.Adapter, error)
	// puller returns nil where the section has nothing to ask with. now is the node's clock.
	puller(env entitlement.Environment, now func() time.Time) (provider.Puller, error)
}

// providers are those that the environment has.
func (e *EnvironmentConfig) providers() map[entitlement.Provider]providerConfig {
	all := map[entitlement.Provider]providerConfig{}
	if e.Stripe != nil {
		all[entitlement.Stripe] = e.Stripe
	}
	if e.RevenueCat != nil {
		all[entitlement.RevenueCat] = e.RevenueCat
	}
	if e.Apple != nil {
		all[entitlement.Apple] = e.Apple
	}
	if e.Adapty != nil {
		all[entitlement.Adapty] = e.Adapty
	}
	if e.Iaptic != nil {
		all[entitlement.Iaptic] = e.Iaptic
	}
	if e.Google != nil {
		all[entitlement.Google] = e.Google
	}
	if e.Web2Wave != nil {
		all[entitlement.Web2Wave] = e.Web2Wave
	}
	return all
}

// APIKeyConfig is one server key.
type APIKeyConfig struct {
	Name  string        `config:"name"`
	Scope string        `config:"scope"` // sk, rk or pk
	Key   config.Secret `config:"key"`   // lk_<environment>_<scope>_<at least 20 characters by lot>
}

// The forms of names. They end up in paths, tokens and metrics, so they are kept plain.
var (
	nodeName    = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,31}$`)
	clusterName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$`)
	keyName     = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)
)

// Validate returns every mistake as config.Mistakes, or nil. It reads the files that the configuration names.
func (c *Config) Validate() error {
	var m config.Mistakes
	c.validateNode(&m)
	c.validateVoters(&m)
	c.validateNATS(&m)
	c.validateEnvironments(&m)
	for _, p := range slices.Sorted(maps.Keys(c.ManageURLs)) {
		at := "manage_urls." + string(p)
		if !p.Valid() {
			m.Add(at, "no such provider")
		} else if u, err := url.Parse(c.ManageURLs[p]); err != nil || u.Host == "" || u.Scheme != "https" {
			m.Add(at, "want an https:// address")
		}
	}
	c.Contacts.validate(&m)
	c.Mail.validate(&m)
	c.loadKeys(&m)
	c.loadIdentity(&m)
	return m.Err()
}

func (c *Config) validateNode(m *config.Mistakes) {
	n := c.Node
	if !nodeName.MatchString(n.ID) {
		m.Add("node.id", "want 1 to 32 of a-z, 0-9 and -, beginning with a letter or digit")
	}
	if !clusterName.MatchString(n.Cluster) {
		m.Add("node.cluster", "want 1 to 64 of A-Z, a-z, 0-9, _ and -, beginning with a letter or digit")
	}
	if n.DataDir == "" {
		m.Add("node.data_dir", "must be given")
	}
	if n.DiskReserveBytes < 0 {
		m.Add("node.disk_reserve_bytes", "must not be negative")
	}
	for _, f := range []struct {
		field, value string
		loopback     bool
	}{{"node.listen", n.Listen, false}, {"node.internal_listen", n.InternalListen, true}, {"node.raft_listen", n.RaftListen, true}} {
		if f.value == "" {
			m.Add(f.field, "must be given")
		} else if host, _, err := net.SplitHostPort(f.value); err != nil {
			m.Add(f.field, "%q is not host:port", f.value)
		} else if f.loopback && c.TLS == nil && !isLoopback(host) {
			m.Add(f.field, "%q is not a loopback address: without a section tls whoever reaches this listener is believed", f.value)
		}
	}
}

// isLoopback reports whether only this machine can connect to host. A name other than localhost may resolve to anything.
func isLoopback(host string) bool {
	if host == "localhost" {
		return true
	}
	addr, err := netip.ParseAddr(host)
	return err == nil && addr.IsLoopback()
}

func (c *Config) validateVoters(m *config.Mistakes) {
	if len(c.Cluster.Voters) == 0 {
		m.Add("cluster.voters", "must list the writers of the cluster")
		return
	}
	seen := map[string]bool{}
	for i, v := range c.Cluster.Voters {
		at := fmt.Sprintf("cluster.voters[%d]", i)
		if !nodeName.MatchString(v.ID) {
			m.Add(at+".id", "%q is not a writer's id", v.ID)
		} else if seen[v.ID] {
			m.Add(at+".id", "%q is listed twice", v.ID)
		}
		seen[v.ID] = true
		c.validatePeer(v, at+".raft", at+".internal", m)
	}
	// One that is not listed says itself how it is reached.
	if raft, internal := c.addresses(); !seen[c.Node.ID] && c.Node.RaftListen != "" && c.Node.InternalListen != "" {
		c.validatePeer(VoterConfig{Raft: raft, Internal: internal}, "node.raft_advertise", "node.internal_advertise", m)
	}
}

// validatePeer holds what goes to another writer to TLS, or to this machine. An address of all interfaces is none to connect to.
func (c *Config) validatePeer(v VoterConfig, raftField, internalField string, m *config.Mistakes) {
	const plain = "is not a loopback address, and there is no section tls"
	if host, _, err := net.SplitHostPort(v.Raft); err != nil || anyInterface(host) {
		m.Add(raftField, "%q is not host:port", v.Raft)
	} else if c.TLS == nil && !isLoopback(host) {
		m.Add(raftField, "%q %s", v.Raft, plain)
	}
	if u, err := url.Parse(v.Internal); err != nil || u.Scheme != c.internalScheme() || u.Port() == "" || strings.Trim(u.Path, "/") != "" || anyInterface(u.Hostname()) {
		m.Add(internalField, "%q is not %s://host:port", v.Internal, c.internalScheme())
	} else if c.TLS == nil && !isLoopback(u.Hostname()) {
		m.Add(internalField, "%q %s", v.Internal, plain)
	}
}

func (c *Config) internalScheme() string {
	if c.TLS != nil {
		return "https"
	}
	return "http"
}

func anyInterface(host string) bool {
	addr, err := netip.ParseAddr(host)
	return host == "" || err == nil && addr.IsUnspecified()
}

func (c *Config) validateNATS(m *config.Mistakes) {
	n := c.NATS
	if !n.Enabled {
		return
	}
	for i, text := range n.URLs {
		if err := checkNATSURL(text); err != nil {
			m.Add(fmt.Sprintf("nats.urls[%d]", i), "%v", err)
		}
	}
	for i, text := range n.Routes {
		if err := c.checkRoute(text); err != nil {
			m.Add(fmt.Sprintf("nats.routes[%d]", i), "%v", err)
		}
	}
	if len(n.URLs) > 0 {
		return
	}
	for field, value := range map[string]string{"nats.advertise": n.Advertise, "nats.cluster_advertise": n.ClusterAdvertise} {
		if host, _, err := net.SplitHostPort(value); value != "" && (err != nil || anyInterface(host)) {
			m.Add(field, "%q is not host:port", value)
		}
	}
	for _, f := range []struct {
		field, value string
		needed       bool
	}{{"nats.listen", n.Listen, true}, {"nats.cluster_listen", n.ClusterListen, len(c.Cluster.Voters) > 1}} {
		if f.value == "" {
			if f.needed {
				m.Add(f.field, "must be given, as nats.enabled is true and nats.urls names no server")
			}
		} else if host, _, err := net.SplitHostPort(f.value); err != nil {
			m.Add(f.field, "%q is not host:port", f.value)
		} else if c.TLS == nil && !isLoopback(host) {
			m.Add(f.field, "%q is not a loopback address: without a section tls whoever reaches this listener is believed", f.value)
		}
	}
}

func (c *Config) validateEnvironments(m *config.Mistakes) {
	if len(c.Environments) == 0 {
		m.Add("environments", "must have production, sandbox or both")
	}
	audiences := map[string]entitlement.Environment{}
	signIns := map[string][]identity.Config{}
	for _, env := range slices.Sorted(maps.Keys(c.Environments)) {
		e, at := c.Environments[env], "environments."+string(env)
		if !env.Valid() {
			m.Add(at, "no such environment: want production or sandbox")
			continue
		}
		if e.Audience == "" {
			m.Add(at+".audience", "must be given")
		} else if other, taken := audiences[e.Audience]; taken {
			m.Add(at+".audience", "is that of %s too: a token of one would pass in the other", other)
		}
		audiences[e.Audience] = env
		e.validateAPIKeys(env, at+".api_keys", m)
		if e.CatalogFile != "" {
			if _, err := readCatalog(e.CatalogFile); err != nil {
				m.Add(at+".catalog_file", "%v", err)
			}
		}
		for name, p := range e.providers() {
			p.validate(env, at+"."+string(name), m)
		}
		identity.Validate(e.IdentityProviders, at+".identity_providers", m)
		signIns[string(env)] = e.IdentityProviders
	}
	identity.Apart(signIns, func(env string) string { return "environments." + env + ".identity_providers" }, m)
}

func (e *EnvironmentConfig) validateAPIKeys(env entitlement.Environment, at string, m *config.Mistakes) {
	names := map[string]bool{}
	for i, k := range e.APIKeys {
		at := fmt.Sprintf("%s[%d]", at, i)
		if !keyName.MatchString(k.Name) {
			m.Add(at+".name", "%q is not a name: want letters, digits, dots, dashes, at most 64", k.Name)
		} else if names[k.Name] {
			m.Add(at+".name", "%q is listed twice", k.Name)
		}
		names[k.Name] = true
		if !validScope(k.Scope) {
			m.Add(at+".scope", "%q is not sk, rk or pk", k.Scope)
		} else if err := checkAPIKey(string(k.Key), env, k.Scope); err != nil {
			m.Add(at+".key", "%v", err)
		}
	}
}

// Pullers makes what asks the providers, as a writer does: those that have what it takes to ask.
func (c *Config) Pullers() (map[entitlement.Environment]map[entitlement.Provider]provider.Puller, error) {
	all := map[entitlement.Environment]map[entitlement.Provider]provider.Puller{}
	for env, e := range c.Environments {
		for name, p := range e.providers() {
			api, err := p.puller(env, c.clock())
			if err != nil {
				return nil, fmt.Errorf("environments.%s.%s: %w", env, name, err)
			}
			if api == nil {
				continue
			}
			if all[env] == nil {
				all[env] = map[entitlement.Provider]provider.Puller{}
			}
			all[env][name] = api
		}
	}
	return all, nil
}

// Adapters makes what understands the providers' messages.
func (c *Config) Adapters() (map[entitlement.Environment]map[entitlement.Provider]provider.Adapter, error) {
	all := map[entitlement.Environment]map[entitlement.Provider]provider.Adapter{}
	for env, e := range c.Environments {
		all[env] = map[entitlement.Provider]provider.Adapter{}
		for name, p := range e.providers() {
			adapter, err := p.adapter(env)
			if err != nil {
				return nil, fmt.Errorf("environments.%s.%s: %w", env, name, err)
			}
			all[env][name] = adapter
		}
	}
	return all, nil
}

// readCatalog reads what could be sent with PUT /v1/catalog, as strictly.
func readCatalog(path string) (entitlement.Catalog, error) {
	var catalog entitlement.Catalog
	b, err := os.ReadFile(path)
	if err != nil {
		return catalog, err
	}
	if err := decodeStrict(b, &catalog); err != nil {
		return catalog, fmt.Errorf("%s: %w", path, err)
	}
	return catalog, catalog.Validate()
}
