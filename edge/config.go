package edge

import (
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strconv"
	"time"

	"github.com/latchkey/latchkey/pkg/config"
	"github.com/latchkey/latchkey/pkg/entitlement"
	"github.com/latchkey/latchkey/pkg/identity"
	"github.com/latchkey/latchkey/pkg/mutual"
	"github.com/latchkey/latchkey/pkg/room"
	"github.com/latchkey/latchkey/pkg/token"
)

// Config is everything that an edge is told at start. config.Load reads it from a file; deploy/docs/configuration.md shows one.
type Config struct {
	Node    NodeConfig    `config:"node"`
	Writers WritersConfig `config:"writers"`
	NATS    NATSConfig    `config:"nats"`
	Trust   TrustConfig   `config:"trust"`
	Log     LogConfig     `config:"log"`

	// TLS, when given, is how the edge shows the writers who it is, and knows them: a certificate for node.id and the role edge. It goes with writers
	// that have such a section too.
	TLS *mutual.Files `config:"tls"`

	// HTTPS, when given, has the edge end TLS for apps itself. Without it a reverse proxy in front does.
	HTTPS *HTTPSConfig `config:"https"`

	// Clients says how the edge knows who asks, and how much one may ask.
	Clients ClientsConfig `config:"clients"`

	// ManageURLs are where a customer of each provider manages a subscription; shown as manage_url. None: none is shown. All edges
	// must have the same.
	ManageURLs entitlement.ManageURLs `config:"manage_urls"`

	// Environments are those that this edge serves; at least one.
	Environments map[entitlement.Environment]EnvironmentConfig `config:"environments"`

	// Now is the wall clock. Nil is time.Now. Only tests set it.
	Now func() time.Time
	// Logger takes the log. Nil is JSON on standard error at Log.Level. Only tests set it.
	Logger *slog.Logger

	// StatFS tells how much room there is. Nil asks the file system. Only tests set it.
	StatFS room.Stat

	roots    token.Roots      // read by Validate
	identity *mutual.Identity // read by Validate
	https    *https           // read by Validate
	proxies  []netip.Prefix   // read by Validate
}

func (c *Config) clock() func() time.Time {
	if c.Now != nil {
		return c.Now
	}
	return time.Now
}

func (c *Config) logger() *slog.Logger {
	log := c.Logger
	if log == nil {
		log = slog.New(slog.NewJSONHandler(os.Stderr, &slog.HandlerOptions{Level: c.Log.Level}))
	}
	return log.With("node", c.Node.ID)
}

// NodeConfig is what differs from edge to edge.
type NodeConfig struct {
	// ID names the edge in its certificates and to the writers: "e1".
	ID string `config:"id"`

	// DataDir holds the replica, the edge's private keys and their certificates. It is trusted: whoever can write it can grant
	// themselves any entitlement, and whoever can read it can sign as this edge until its certificate ends. Made with mode 0700.
	DataDir string `config:"data_dir"`

	// DiskReserveBytes is how much of DataDir's file system is kept free: below it the edge goes on serving what it holds and takes nothing
	// new. Zero is a fiftieth of the file system, but 512 MiB at least, 2 GiB and a quarter of it at most.
	DiskReserveBytes int64 `config:"disk_reserve_bytes"`

	// Cluster is the writers' cluster id. Nothing of another cluster is believed.
	Cluster string `config:"cluster"`

	// Listen is the address, host:port, that apps reach: checks, health, metrics. Without a section https a reverse proxy in front ends TLS.
	Listen string `config:"listen"`
}

// WritersConfig says where the writers' internal listeners are.
type WritersConfig struct {
	// URLs are tried in this order until it is known which of the writers is near. Only https:// leaves the machine; http:// is for loopback addresses, and not for an edge with a section tls.
	URLs []string `config:"urls"`
}

// NATSConfig is the fast path. Without it changes come by pull, as right and about as soon as the writers are near.
type NATSConfig struct {
	Enabled bool `config:"enabled"`

	// URLs are the servers: tls://host:port, or nats://host:port of a loopback address.
	URLs []string `config:"urls"`
}

// TrustConfig names what the edge believes without proof.
type TrustConfig struct {
	// RootPublicKeys are the files of the pinned roots, SPKI PEM: the active one and the spare, as in the apps.
	RootPublicKeys []string `config:"root_public_keys"`
}

// LogConfig says what is logged.
type LogConfig struct {
	Level slog.Level `config:"level"` // debug, info (default), warn, error
}

// EnvironmentConfig is one environment.
type EnvironmentConfig struct {
	// Audience is the aud of the environment's tokens, as the writers have it.
	Audience string `config:"audience"`

	// IdentityProviders are those whose users need no session of ours: an app shows the token that it got there. As the writers have them.
	IdentityProviders []identity.Config `config:"identity_providers"`
}

// The forms of names, as the writers accept them.
var (
	nodeName    = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,31}$`)
	clusterName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$`)
)

// Validate returns every mistake as config.Mistakes, or nil. It reads the root keys.
func (c *Config) Validate() error {
	var m config.Mistakes
	if !nodeName.MatchString(c.Node.ID) {
		m.Add("node.id", "want 1 to 32 of a-z, 0-9 and -, beginning with a letter or digit")
	}
	if c.Node.DataDir == "" {
		m.Add("node.data_dir", "is missing")
	}
	if c.Node.DiskReserveBytes < 0 {
		m.Add("node.disk_reserve_bytes", "must not be negative")
	}
	if !clusterName.MatchString(c.Node.Cluster) {
		m.Add("node.cluster", "want 1 to 64 of A-Z, a-z, 0-9, _ and -")
	}
	if _, port, err := net.SplitHostPort(c.Node.Listen); err != nil {
		m.Add("node.listen", "want host:port")
	} else if n, err := strconv.ParseUint(port, 10, 16); err != nil {
		m.Add("node.listen", "port %d is none", n)
	}
	c.validateWriters(&m)
	c.validateEnvironments(&m)
	c.readRoots(&m)
	for _, p := range slices.Sorted(maps.Keys(c.ManageURLs)) {
		at := "manage_urls." + string(p)
		if !p.Valid() {
			m.Add(at, "no such provider")
		} else if u, err := url.Parse(c.ManageURLs[p]); err != nil || u.Host == "" || u.Scheme != "https" {
			m.Add(at, "want an https:// address")
		}
	}
	c.validateNATS(&m)
	// Whether the certificate has expired is not asked: an edge that is started then still answers from its disk.
	if c.identity = nil; c.TLS != nil {
		c.identity = mutual.Load(*c.TLS, mutual.Peer{Node: c.Node.ID, Role: mutual.RoleEdge}, c.clock(), c.logger(), &m)
	}
	if c.https = nil; c.HTTPS != nil {
		c.https = loadHTTPS(*c.HTTPS, c.clock(), c.logger(), &m)
	}
	c.validateClients(&m)
	return m.Err()
}

func (c *Config) validateClients(m *config.Mistakes) {
	proxies, bad := parseProxies(c.Clients.TrustedProxies)
	if c.proxies = proxies; bad >= 0 {
		m.Add("clients.trusted_proxies["+strconv.Itoa(bad)+"]", "want an address or a network: 10.1.2.3 or 10.0.0.0/8")
	}
	for _, rate := range []struct {
		field     string
		perSecond int
	}{{"address_per_second", c.Clients.AddressPerSecond}, {"account_per_second", c.Clients.AccountPerSecond}} {
		if rate.perSecond < -1 || rate.perSecond > maxPerSecond {
			m.Add("clients."+rate.field, "want 1 to %d, 0 for the default, or -1 for no limit", maxPerSecond)
		}
	}
}

func (c *Config) validateWriters(m *config.Mistakes) {
	if len(c.Writers.URLs) == 0 {
		m.Add("writers.urls", "is missing")
	}
	for i, text := range c.Writers.URLs {
		at := "writers.urls[" + strconv.Itoa(i) + "]"
		u, err := url.Parse(text)
		switch {
		case err != nil || u.Host == "" || u.Path != "" && u.Path != "/" || u.RawQuery != "" || u.User != nil:
			m.Add(at, "want scheme://host:port and nothing else")
		case u.Scheme == "http" && c.TLS != nil:
			m.Add(at, "http:// does not go with a section tls; use https://")
		case u.Scheme == "http" && !isLoopback(u.Hostname()):
			// Records are signed, but they are also about people: they do not travel in the clear.
			m.Add(at, "http:// is for loopback addresses; use https://")
		case u.Scheme != "http" && u.Scheme != "https":
			m.Add(at, "want http:// or https://")
		}
	}
}

func (c *Config) validateNATS(m *config.Mistakes) {
	if !c.NATS.Enabled {
		return
	}
	if len(c.NATS.URLs) == 0 {
		m.Add("nats.urls", "is missing, and nats.enabled is true")
	}
	for i, text := range c.NATS.URLs {
		u, err := url.Parse(text)
		if err != nil || u.Port() == "" || u.User != nil || u.Scheme != "tls" && !(u.Scheme == "nats" && isLoopback(u.Hostname())) {
			m.Add("nats.urls["+strconv.Itoa(i)+"]", "want tls://host:port, or nats://host:port of a loopback address")
		}
	}
}

func isLoopback(host string) bool {
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.IsLoopback()
}

func (c *Config) validateEnvironments(m *config.Mistakes) {
	if len(c.Environments) == 0 {
		m.Add("environments", "is missing: list production, sandbox or both")
	}
	owner := map[string]entitlement.Environment{}
	providers := map[string][]identity.Config{}
	for _, env := range slices.Sorted(maps.Keys(c.Environments)) {
		at := "environments." + string(env)
		audience := c.Environments[env].Audience
		switch other, taken := owner[audience]; {
		case !env.Valid():
			m.Add(at, "no such environment: production and sandbox are all")
		case audience == "":
			m.Add(at+".audience", "is missing")
		case taken:
			m.Add(at+".audience", "is that of %s: an app could not tell their tokens apart", other)
		}
		owner[audience] = env
		identity.Validate(c.Environments[env].IdentityProviders, at+".identity_providers", m)
		providers[string(env)] = c.Environments[env].IdentityProviders
	}
	identity.Apart(providers, func(env string) string { return "environments." + env + ".identity_providers" }, m)
}

func (c *Config) readRoots(m *config.Mistakes) {
	c.roots = nil
	if len(c.Trust.RootPublicKeys) == 0 {
		m.Add("trust.root_public_keys", "is missing")
	}
	for i, path := range c.Trust.RootPublicKeys {
		at := "trust.root_public_keys[" + strconv.Itoa(i) + "]"
		text, err := os.ReadFile(path)
		if err != nil {
			m.Add(at, "%v", err)
			continue
		}
		key, err := token.ParsePublicKeyPEM(text)
		if err != nil {
			m.Add(at, "%s: %v", path, err)
			continue
		}
		c.roots = append(c.roots, key)
	}
}
