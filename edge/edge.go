package edge

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/valyala/fasthttp"

	"github.com/latchkey/latchkey/edge/internal/replica"
	"github.com/latchkey/latchkey/pkg/mutual"
	"github.com/latchkey/latchkey/pkg/room"
	"github.com/latchkey/latchkey/pkg/token"
	"github.com/latchkey/latchkey/replication"
)

// KnownRules is the newest rules version that this program reads records by. Of a newer one it applies nothing.
const KnownRules = 3

const (
	// drainTimeout is how long requests under way may take once the edge is to stop; then they are cut off. With what follows it stays below 10 s.
	drainTimeout = 8 * time.Second
	dirMode      = 0o700
)

// Edge is one edge node. Make one with Open.
type Edge struct {
	cfg      Config
	log      *slog.Logger
	replica  *replica.Replica
	follower *replication.Follower
	nats     *replication.NATS // nil when it is off
	identity *mutual.Identity  // among the nodes; nil: no mutual TLS
	keys     []*signingKey     // by environment, ascending
	revoked  revocations
	clock    clock
	room     *room.Watch
	registry *prometheus.Registry
	metrics  *metrics
	streams  *streams

	identities *identities

	stateMu sync.Mutex
	state   atomic.Pointer[state]

	https    *https // towards apps; nil: a proxy in front ends TLS
	clients  clients
	listener net.Listener
	server   *fasthttp.Server
	draining atomic.Bool
	relays   chan struct{} // requests that are under way at a writer
	stopped  chan struct{} // closed when draining begins: who waits for a revision is let go
	close    sync.Once
	closeErr error
}

// Open checks cfg, opens the replica and the keys in its data folder, and listens. Requests are answered once Run is called. Error: config.Mistakes
// for what is wrong with cfg.
func Open(cfg Config) (*Edge, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	cfg.Now = cfg.clock()
	e := &Edge{cfg: cfg, log: cfg.logger(), identity: cfg.identity, https: cfg.https, clients: newClients(cfg.Clients, cfg.proxies), clock: clock{wall: cfg.Now}, stopped: make(chan struct{}), relays: make(chan struct{}, maxRelays)}
	e.room = &room.Watch{Dir: cfg.Node.DataDir, Reserve: cfg.Node.DiskReserveBytes, Stat: cfg.StatFS, Logger: e.log}
	if err := e.open(); err != nil {
		return nil, errors.Join(fmt.Errorf("open edge: %w", err), e.Close())
	}
	return e, nil
}

func (e *Edge) open() error {
	dir := e.cfg.Node.DataDir
	if err := os.MkdirAll(dir, dirMode); err != nil {
		return err
	}
	for _, env := range slices.Sorted(maps.Keys(e.cfg.Environments)) {
		k, err := loadKey(dir, env, e.cfg.Environments[env].Audience, &e.cfg)
		if err != nil {
			return err
		}
		e.keys = append(e.keys, k)
	}
	var err error
	e.replica, err = replica.Open(replica.Config{Dir: filepath.Join(dir, "replica"), Rules: KnownRules, Logger: e.log})
	if err != nil {
		return err
	}
	e.learnRevocations()
	transport := replication.NewTransport(nil)
	if e.identity != nil {
		transport = replication.NewTransport(e.identity.Config("", mutual.Peer{Role: mutual.RoleWriter}))
		if err := e.identity.Check(); err != nil {
			e.log.Warn("writers will not let this edge in: renew the certificate in tls.cert_file", "error", err)
		}
	}
	follow := replication.FollowConfig{
		Node: e.cfg.Node.ID, Writers: e.cfg.Writers.URLs, Transport: transport,
		Verifier: replication.NewVerifierWith((&token.PositionVerifier{Roots: e.cfg.roots, Cluster: e.cfg.Node.Cluster, Revocations: &e.revoked.known}).Verify),
		Replica:  heard{e.replica, e}, SpoolDir: filepath.Join(dir, "replica"), Room: e.roomFor, Logger: e.log,
	}
	if e.cfg.NATS.Enabled {
		if e.nats, err = replication.ConnectNATS(e.cfg.NATS.URLs, e.cfg.Node.ID, e.identity, e.log); err != nil {
			return err
		}
		follow.Source = e.nats
	}
	e.follower = replication.NewFollower(follow)
	e.streams, e.identities = newStreams(e), newIdentities(&e.cfg)
	e.registry = prometheus.NewRegistry()
	e.metrics = newMetrics(e.registry, e)
	e.server = e.newServer()
	listener, err := net.Listen("tcp", e.cfg.Node.Listen)
	if err != nil {
		return err
	}
	e.listener = lingeringListener{listener.(*net.TCPListener)}
	if e.https != nil {
		// Not through the server, which would clone the configuration: new ticket keys would not reach the clone.
		e.listener = tls.NewListener(e.listener, e.https.conf)
	}
	return nil
}

// heard tells the clock of each head that the replica takes over, and the streams of each change.
type heard struct {
	*replica.Replica
	edge *Edge
}

// Adopt implements replication.Replica.
func (h heard) Adopt(c replication.Copy) error {
	h.edge.clock.head(c.Head().AsOf)
	err := h.Replica.Adopt(c)
	if err == nil {
		h.edge.metrics.snapshots.Inc()
		h.edge.streams.replaced()
	}
	return err
}

// Advance implements replication.Moving.
func (h heard) Advance(head replication.Head) error {
	// The clock moves first: an answer must never see an as_of that its now does not know.
	h.edge.clock.head(head.AsOf)
	return h.Replica.Advance(head)
}

// Addr is the address that the edge listens on.
func (e *Edge) Addr() net.Addr { return e.listener.Addr() }

// Run answers requests and follows the writers until ctx ends, then lets requests under way finish. It returns an error when
// the listener fails.
func (e *Edge) Run(ctx context.Context) error {
	work, stop := context.WithCancel(ctx)
	defer stop()
	var workers sync.WaitGroup
	workers.Go(func() {
		if err := e.follower.Follow(work); err != nil {
			e.log.Error("replication", "error", err)
		}
	})
	workers.Go(func() { e.keepCertified(work) })
	workers.Go(func() { e.streams.run(work) })
	workers.Go(func() { e.identities.Run(work) })
	served := make(chan error, 1)
	go func() { served <- e.server.Serve(e.listener) }()
	e.log.Info("edge serves", "address", e.Addr().String(), "revision", e.replica.Head().Revision().String())
	var err error
	select {
	case err = <-served:
		e.letGo()
	case <-ctx.Done():
		e.letGo()
		drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTimeout)
		if shutErr := e.server.ShutdownWithContext(drain); shutErr != nil {
			e.log.Warn("requests cut off at shutdown", "error", shutErr)
		}
		cancel()
	}
	stop()
	workers.Wait()
	e.streams.serving.Wait() // each ends within writeTimeout, whether its client reads or not
	if err != nil {
		return fmt.Errorf("serve: %w", err)
	}
	return nil
}

// letGo begins the end: who waits gets an answer, streams end, and no new ones begin.
func (e *Edge) letGo() {
	e.draining.Store(true)
	close(e.stopped)
	e.streams.stop()
}

// Close frees what Open took. It may be called more than once, and after Run has returned.
func (e *Edge) Close() error {
	e.close.Do(func() {
		if e.listener != nil {
			_ = e.listener.Close() // Run has closed it already, most often
		}
		if e.nats != nil {
			e.nats.Close()
		}
		if e.replica != nil {
			e.closeErr = e.replica.Close()
		}
	})
	return e.closeErr
}

// now is the edge's time, Unix seconds.
func (e *Edge) now() int64 { return e.clock.now(e.replica.Head().AsOf) }
