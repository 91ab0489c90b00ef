package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/latchkey/latchkey/deploy/storesim"
	"github.com/latchkey/latchkey/edge"
	"github.com/latchkey/latchkey/pkg/config"
	"github.com/latchkey/latchkey/pkg/entitlement"
	"github.com/latchkey/latchkey/pkg/token"
	"github.com/latchkey/latchkey/writer"
)

const (
	yearCluster  = "year"
	yearEnv      = storesim.Production
	yearAudience = "com.example.app"
	serverKey    = "lk_production_sk_aaaaaaaaaaaaaaaaaaaaaaaa"

	// startWithin is how long the nodes may take to be ready, askWithin an answer: on a machine that may have other work.
	startWithin = time.Minute
	askWithin   = time.Minute
	// The pause between two looks at what nothing announces: at a node's own state, and at its metrics, which cost it more.
	pollEvery    = 2 * time.Millisecond
	metricsEvery = 20 * time.Millisecond
)

// clock is the virtual time as the nodes read it, and the tickers that go by it. It leaps from second to second with the simulation, and runs on in between for
// less than one: no two questions to a provider leave at the same nanosecond.
type clock struct {
	at atomic.Pointer[leap]

	mu      sync.Mutex
	tickers []*ticker
}

type ticker struct {
	every time.Duration
	last  time.Time
	ticks chan time.Time
}

type leap struct {
	to   time.Time
	when time.Time // of the real clock
}

// runsOn is how far the clock runs on without a leap.
const runsOn = 900 * time.Millisecond

// Now is writer.Config.Now, and edge.Config.Now.
func (c *clock) Now() time.Time {
	at := c.at.Load()
	return at.to.Add(min(time.Since(at.when), runsOn))
}

// Tick is writer.Config.Tick.
func (c *clock) Tick(d time.Duration) (<-chan time.Time, func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	t := &ticker{every: d, last: c.Now(), ticks: make(chan time.Time, 1)}
	c.tickers = append(c.tickers, t)
	return t.ticks, func() {}
}

// move sets the time.
func (c *clock) move(now time.Time) {
	if old := c.at.Load(); old == nil || now.After(old.to) {
		c.at.Store(&leap{now, time.Now()})
	}
}

// tick lets the tickers tick that are due: once, however often they would have in a day that passed in a moment. Who has not taken the last tick yet gets
// no other.
func (c *clock) tick() {
	now := c.at.Load().to
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, t := range c.tickers {
		if now.Sub(t.last) < t.every {
			continue
		}
		t.last = now
		select {
		case t.ticks <- now:
		default:
		}
	}
}

// system is one writer and one edge, as anybody runs them but for their clock, and the simulated providers.
type system struct {
	sim    *storesim.Sim
	apis   *httptest.Server // the providers' own APIs
	edge   *edge.Edge
	clock  *clock
	client *http.Client
	writer string // its address
	roots  token.Roots
	stop   func() error
}

// startSystem starts everything in dir.
func startSystem(dir string, sim storesim.Config) (s *system, err error) {
	listen, err := freeAddresses(4)
	if err != nil {
		return nil, err
	}
	public, internal, raft, nats := listen[0], listen[1], listen[2], listen[3]
	s = &system{writer: "http://" + public, client: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: askers + posters, DisableCompression: true}, Timeout: askWithin}}
	if sim.Credentials, err = storesim.NewCredentials(dir); err != nil {
		return nil, err
	}
	sim.Writers, sim.Logger, sim.Together = []string{s.writer}, slog.New(slog.DiscardHandler), posters
	sim.Client = s.client
	s.sim = storesim.New(sim)
	s.apis = httptest.NewServer(s.sim.Stores(yearEnv))
	virtual := &clock{}
	s.clock = virtual
	s.sim.OnMove(func() { virtual.move(s.sim.Now()) })

	keys, catalog := filepath.Join(dir, "keys"), filepath.Join(dir, "catalog.json")
	env := entitlement.Environment(yearEnv)
	if err := errors.Join(writer.MakeKeysAt(keys, yearCluster, []entitlement.Environment{env}, sim.Start), os.WriteFile(catalog, catalogFile(), 0o600)); err != nil {
		return nil, err
	}
	root := filepath.Join(keys, "root.pub.pem")
	text, err := os.ReadFile(root)
	if err != nil {
		return nil, err
	}
	if s.roots, err = token.ParseRoots(text); err != nil {
		return nil, err
	}
	settings, err := environment(dir, yearEnv, sim.Credentials, s.apis.URL)
	if err != nil {
		return nil, err
	}
	settings.Audience, settings.CatalogFile = yearAudience, catalog
	settings.APIKeys = []writer.APIKeyConfig{{Name: "server", Scope: "sk", Key: config.Secret(serverKey)}}
	logs, err := os.Create(filepath.Join(dir, "nodes.log"))
	if err != nil {
		return nil, err
	}
	log := slog.New(slog.NewJSONHandler(logs, &slog.HandlerOptions{Level: slog.LevelWarn}))
	w, err := writer.Open(writer.Config{
		Node:    writer.NodeConfig{ID: "w1", DataDir: filepath.Join(dir, "w1"), Cluster: yearCluster, Listen: public, InternalListen: internal, RaftListen: raft},
		Cluster: writer.ClusterConfig{Voters: []writer.VoterConfig{{ID: "w1", Raft: raft, Internal: "http://" + internal}}},
		NATS:    writer.NATSConfig{Enabled: true, Listen: nats},
		Keys: writer.KeysConfig{IssuerKeyFile: filepath.Join(keys, "issuer.key.pem"), IssuerCertFile: filepath.Join(keys, "issuer.cert"),
			SessionKeyFiles: map[entitlement.Environment]string{env: filepath.Join(keys, "session-"+string(env)+".key.pem")}},
		Trust:        writer.TrustConfig{RootPublicKeys: []string{root}},
		Environments: map[entitlement.Environment]writer.EnvironmentConfig{env: settings},
		Now:          virtual.Now, Tick: virtual.Tick, Logger: log,
	})
	if err != nil {
		return nil, err
	}
	s.edge, err = edge.Open(edge.Config{
		Node:         edge.NodeConfig{ID: "e1", DataDir: filepath.Join(dir, "e1"), Cluster: yearCluster, Listen: "127.0.0.1:0"},
		Writers:      edge.WritersConfig{URLs: []string{"http://" + internal}},
		NATS:         edge.NATSConfig{Enabled: true, URLs: []string{"nats://" + nats}},
		Trust:        edge.TrustConfig{RootPublicKeys: []string{root}},
		Environments: map[entitlement.Environment]edge.EnvironmentConfig{env: {Audience: yearAudience}},
		Now:          virtual.Now, Logger: log,
	})
	if err != nil {
		return nil, errors.Join(err, w.Close())
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 2)
	go func() { ended <- w.Run(ctx) }()
	go func() { ended <- errors.Join(s.edge.Run(ctx), s.edge.Close()) }()
	s.stop = func() error {
		cancel()
		err := errors.Join(<-ended, <-ended)
		s.apis.Close()
		s.client.CloseIdleConnections()
		return errors.Join(err, logs.Close())
	}
	return s, nil
}

// freeAddresses are some on which nothing listens. They are below those that the system gives away, to a connection or to whoever asks for any: the nodes take
// them a moment later.
func freeAddresses(n int) (addresses []string, err error) {
	const from, to = 4000, 10000
	for port := from + os.Getpid()*50%(to-from); len(addresses) < n; port++ {
		if port >= to {
			return nil, errors.Join(errors.New("no free ports"), err)
		}
		var l net.Listener
		if l, err = net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port)); err == nil {
			defer l.Close()
			addresses = append(addresses, l.Addr().String())
		}
	}
	return addresses, nil
}

// catalogFile maps every product under the name of its store.
func catalogFile() []byte {
	type product = map[string]any
	var products []product
	for _, p := range catalogOf(storesim.DefaultProducts).Products {
		o := product{"provider": p.Provider, "product_id": p.ID, "kind": p.Kind, "plan": p.Plan}
		if len(p.Entitlements) > 0 {
			o["entitlements"] = p.Entitlements
		} else {
			o["credits"] = p.Credits
		}
		products = append(products, o)
	}
	b, err := json.Marshal(map[string]any{"products": products, "aggregator_entitlements": []product{
		{"provider": "revenuecat", "id": "pro", "entitlement": "pro"}, {"provider": "adapty", "id": "premium", "entitlement": "pro"}}})
	if err != nil {
		panic(err) // of what always encodes
	}
	return b
}

// call makes a request of a node and reads the answer into out. Error: any status but 200 and 201.
func (s *system) call(ctx context.Context, method, url, credential, body string, out any) error {
	text, err := s.read(ctx, method, url, credential, body)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(text, out); err != nil {
		return fmt.Errorf("%s %s: %w", method, url, err)
	}
	return nil
}

func (s *system) read(ctx context.Context, method, url, credential, body string) ([]byte, error) {
	r, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(body))
	if err != nil {
		return nil, err
	}
	r.Header.Set("Authorization", "Bearer "+credential)
	res, err := s.client.Do(r)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", method, url, err)
	}
	switch res.StatusCode {
	case http.StatusOK, http.StatusCreated:
		return text, nil
	case http.StatusRequestTimeout, http.StatusServiceUnavailable:
		return nil, fmt.Errorf("%s %s: %w: status %d, %s", method, url, errBusy, res.StatusCode, text)
	}
	return nil, fmt.Errorf("%s %s: status %d, %s", method, url, res.StatusCode, text)
}

// errBusy is an answer on a machine that has too much to do: ask again.
var errBusy = errors.New("busy")

// doubtful is the metric that counts purchases about which the writer has still to ask their providers.
var doubtful = regexp.MustCompile(`(?m)^latchkey_writer_doubtful_purchases\{environment="production"\} (\d+)`)

// doubts is what it says.
func (s *system) doubts(ctx context.Context) (int, error) {
	text, err := s.read(ctx, http.MethodGet, s.writer+"/metrics", "", "")
	if err != nil {
		return 0, err
	}
	found := doubtful.FindSubmatch(text)
	if found == nil {
		return 0, errors.New("the writer's metrics do not tell of doubts")
	}
	return strconv.Atoi(string(found[1]))
}

// poll waits until something holds that nothing announces.
func poll(ctx context.Context, every, within time.Duration, what string, holds func() (bool, error)) error {
	pause := time.NewTicker(every)
	defer pause.Stop()
	for end := time.Now().Add(within); ; {
		ok, err := holds()
		if ok {
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("not within %s: %s, %w", within, what, cmp.Or(err, errors.New("it does not hold")))
		}
		select {
		case <-pause.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
