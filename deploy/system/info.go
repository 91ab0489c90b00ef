package system

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"
)

// InfoFile is the file in Config.Dir that tells other programs where everything is. It is written when the system is ready, and
// removed at the next start.
const InfoFile = "latchkey-dev.json"

// Info is the content of InfoFile. Paths are absolute. It holds secrets.
type Info struct {
	Writers      []Node                 `json:"writers"`
	Edges        []Node                 `json:"edges"`
	NATS         *NATS                  `json:"nats,omitempty"`     // absent: NATS is off
	Storesim     *Stores                `json:"storesim,omitempty"` // absent: no provider is simulated
	Roots        []string               `json:"root_public_keys"`
	Environments map[string]Environment `json:"environments"`
}

// Node is one process.
type Node struct {
	ID  string `json:"id"`
	URL string `json:"url"`
	PID int    `json:"pid"`
	Dir string `json:"dir"`
}

// NATS is where its clients connect.
type NATS struct {
	URLs []string `json:"urls"`
}

// Stores is where the simulated providers are driven.
type Stores struct {
	URL string `json:"url"`
}

// Environment is what a client of one environment needs.
type Environment struct {
	ServerKey      string             `json:"server_key"`
	PublishableKey string             `json:"publishable_key"`
	Audience       string             `json:"audience"`
	Webhooks       map[string]Webhook `json:"webhooks"` // by provider; one without an adapter is absent
}

// Webhook is where a provider's messages go and what they are signed with.
type Webhook struct {
	Path   string `json:"path"`
	Secret string `json:"secret,omitempty"`

	OIDCKey  string `json:"oidc_key,omitempty"` // path of the key that identity tokens are signed with
	Audience string `json:"audience,omitempty"`
	Email    string `json:"email,omitempty"`
	Package  string `json:"package,omitempty"`

	// The App Store's: files with its root (DER), with the key that signs (PKCS#8 PEM) and with the chain from that key's certificate up (PEM).
	RootCA     string `json:"root_ca,omitempty"`
	SigningKey string `json:"signing_key,omitempty"`
	Chain      string `json:"chain,omitempty"`
	BundleID   string `json:"bundle_id,omitempty"`

	Authorization string `json:"authorization,omitempty"` // the whole header
	Password      string `json:"password,omitempty"`      // in the body
	Token         string `json:"token,omitempty"`         // in a header of its own
}

// ReadInfo reads the InfoFile of dir. Error: os.ErrNotExist while the system is not ready.
func ReadInfo(dir string) (Info, error) {
	var info Info
	b, err := os.ReadFile(filepath.Join(dir, InfoFile))
	if err != nil {
		return info, err
	}
	if err := json.Unmarshal(b, &info); err != nil {
		return info, fmt.Errorf("%s: %w", InfoFile, err)
	}
	return info, nil
}

func (s *System) infoPath() string { return filepath.Join(s.config.Dir, InfoFile) }

// describe says what is running now.
func (s *System) describe() Info {
	info := Info{Roots: s.roots(), Environments: map[string]Environment{}}
	for _, c := range s.children {
		n := Node{ID: c.id, URL: c.url, PID: int(c.pid.Load()), Dir: c.dir}
		switch c.role {
		case roleWriter:
			info.Writers = append(info.Writers, n)
		case roleEdge:
			info.Edges = append(info.Edges, n)
		case roleStores:
			info.Storesim = &Stores{URL: c.url}
		}
	}
	if urls := s.natsURLs(); len(urls) > 0 {
		info.NATS = &NATS{URLs: urls}
	}
	for env, secret := range s.secrets.Environments {
		info.Environments[env] = Environment{
			ServerKey:      secret.ServerKey,
			PublishableKey: secret.PublishableKey,
			Audience:       audience(env),
			Webhooks: map[string]Webhook{
				"stripe":     {Path: "/v1/webhooks/" + env + "/stripe", Secret: secret.StripeSecret},
				"revenuecat": {Path: "/v1/webhooks/" + env + "/revenuecat", Authorization: secret.RevenueCatAuthorization},
				"adapty":     {Path: "/v1/webhooks/" + env + "/adapty", Authorization: secret.AdaptyAuthorization},
				"iaptic":     {Path: "/v1/webhooks/" + env + "/iaptic", Password: secret.IapticPassword},
				"google":     s.googleWebhook(env),
				"apple": {Path: "/v1/webhooks/" + env + "/apple", RootCA: s.appleFile(appleRootFile), SigningKey: s.appleFile(appleKeyFile),
					Chain: s.appleFile(appleChainFile), BundleID: bundleID},
				"web2wave": {Path: "/v1/webhooks/" + env + "/web2wave", Token: secret.Web2WaveToken},
			},
		}
	}
	return info
}

// writeInfo writes InfoFile, unless the system is not ready yet. s.mu is held.
func (s *System) writeInfo() error {
	if !s.ready {
		return nil
	}
	b, err := json.MarshalIndent(s.describe(), "", " ")
	if err != nil {
		return fmt.Errorf("encode %s: %w", InfoFile, err)
	}
	return writeFile(s.infoPath(), append(b, '\n'))
}

// writeFile replaces a file by rename: a reader sees the old one or the new one.
func writeFile(path string, content []byte) error {
	if err := os.WriteFile(path+".tmp", content, 0o600); err != nil {
		return fmt.Errorf("write: %w", err)
	}
	if err := os.Rename(path+".tmp", path); err != nil {
		return fmt.Errorf("write: %w", err)
	}
	return nil
}

// Where each kind of listener begins in the block of ports.
const (
	writerPort    = 1
	edgePort      = 11
	internalPort  = 21
	natsPort      = 31
	raftPort      = 41
	storesPort    = 51 // where they are driven, then production's APIs, then the sandbox's
	natsRoutePort = 61
)

// address is that of the i-th node's listener of one kind; i counts from 0.
func (c Config) address(kind, i int) string {
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(c.Port+kind+i))
}

// ports returns every address that the nodes will listen on, with what it is for.
func (s *System) ports() map[string]string {
	ports := map[string]string{}
	for i := range s.config.Writers {
		ports[s.config.address(writerPort, i)] = fmt.Sprintf("writer w%d", i+1)
		ports[s.config.address(internalPort, i)] = fmt.Sprintf("writer w%d's internal listener", i+1)
		ports[s.config.address(raftPort, i)] = fmt.Sprintf("writer w%d's Raft", i+1)
		ports[s.config.address(natsPort, i)] = fmt.Sprintf("writer w%d's NATS server", i+1)
		ports[s.config.address(natsRoutePort, i)] = fmt.Sprintf("writer w%d's NATS routes", i+1)
	}
	for i, what := range []string{"simulated providers", "simulated providers of production", "simulated providers of the sandbox"} {
		if s.config.Storesim {
			ports[s.config.address(storesPort, i)] = what
		}
	}
	for i := range s.config.Edges {
		ports[s.config.address(edgePort, i)] = fmt.Sprintf("edge e%d", i+1)
	}
	return ports
}

// ErrPortInUse means that something else listens where a node would.
var ErrPortInUse = errors.New("port in use")

// freeWithin is how long a port may be on its way to become free: the nodes of a latchkey-dev that was killed end after it.
const freeWithin = 4 * time.Second

// checkPorts finds what is in the way before anything starts: a child's own message would be in its log only.
func checkPorts(ports map[string]string) error {
	deadline := time.Now().Add(freeWithin)
	var errs []error
	for _, address := range slices.Sorted(maps.Keys(ports)) {
		if !becomesFree(address, deadline) {
			errs = append(errs, fmt.Errorf("%w: %s, wanted for %s; free it or choose another block with --port", ErrPortInUse, address, ports[address]))
		}
	}
	return errors.Join(errs...)
}

func becomesFree(address string, deadline time.Time) bool {
	for {
		l, err := net.Listen("tcp", address)
		if err == nil {
			return l.Close() == nil
		}
		if time.Now().After(deadline) {
			return false
		}
		<-time.After(pollEvery)
	}
}
