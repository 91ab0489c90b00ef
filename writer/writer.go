// Package writer is one node of the cluster that decides who may use what until when: it takes providers' webhooks and the customer's
// API calls, commits them by Raft, and serves every change to the edges, signed.
//
// It promises: a 2xx is sent only after a majority of writers has the event on disk; every read of the server API sees every write
// that returned before it, on every node; a head with as_of = T covers everything that was acknowledged before T.
//
// Start at Open and Run. A webhook goes webhook.go -> propose.go -> (on a follower: relay.go -> the leader's) admission.go -> internal/store; a
// read goes api.go -> read.go -> internal/store; an edge's pull goes internal_api.go -> internal/store. What only the leader does begins in
// leader.go: publishing to the edges (nats.go) and asking providers (pull.go).
package writer

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/latchkey/latchkey/pkg/config"
	"github.com/latchkey/latchkey/pkg/entitlement"
	"github.com/latchkey/latchkey/pkg/identity"
	"github.com/latchkey/latchkey/pkg/mutual"
	"github.com/latchkey/latchkey/pkg/room"
	"github.com/latchkey/latchkey/replication"
	"github.com/latchkey/latchkey/replication/natsd"
	"github.com/latchkey/latchkey/writer/internal/outbound"
	"github.com/latchkey/latchkey/writer/internal/provider"
	"github.com/latchkey/latchkey/writer/internal/store"
)

// The listeners, as the metrics name them.
const (
	listenerPublic   = "public"
	listenerInternal = "internal"
	listenerOperator = "operator"
)

const (
	// attemptTimeout is how long one try at the leader may take: a node that is frozen must not eat the whole of proposeTimeout,
	// in which another one is elected.
	attemptTimeout = 3 * time.Second
	dialTimeout    = time.Second
	// maxPeerConnections is how many connections to the leader are kept: as many as webhooks are taken at a time.
	maxPeerConnections = 512
)

// Writer is a running node. Make one with Open.
type Writer struct {
	cfg      Config
	log      *slog.Logger
	now      func() time.Time
	store    *store.Store
	keys     *keyring
	signer   *signer
	verifier *replication.Verifier
	adapters map[entitlement.Environment]map[entitlement.Provider]provider.Adapter
	pullers  map[entitlement.Environment]map[entitlement.Provider]provider.Puller // those that can be asked; the leader does
	metrics  *metrics
	clock    *clock
	disk     *disk

	identity *mutual.Identity    // among the nodes; nil: no mutual TLS
	signIns  *identity.Providers // who signs users in elsewhere

	peers  map[string]string // internal addresses of the configured voters, by id: see others
	client *http.Client      // to them
	reads  *sharedReads
	relays map[entitlement.Environment]*relay // of commands to the leader; "" is for what concerns the whole cluster

	natsServer *natsd.Server     // nil: NATS is off or runs elsewhere
	nats       *replication.NATS // nil: NATS is off

	catalogs        catalogCache
	doubles         atomic.Pointer[doublesCount] // as the leader counted last; nil or empty elsewhere
	begins          begins
	guesses         guesses
	frames          frames
	spool           *spool
	waiting         *waiting // messages that no leader took yet
	receiptPauses   pauses
	refreshes       refreshes
	sealer          *sealer          // nil: no key is configured
	mail            outbound.Carrier // nil: none is configured
	admission       *admission
	refusals        refusalLog
	doubts          selfDoubt
	polls           chan struct{}
	snapshotReaders chan struct{}

	succession

	headMu  sync.Mutex
	head    *head
	elected chan struct{} // a new leader's first head is due

	vitalsMu sync.Mutex
	vitals   map[string]peer // of the other writers, by id
	used     *usage

	differs atomic.Bool // a comparison with other writers' states found a difference

	edgesMu sync.Mutex
	edges   map[string]edgeSeen

	touchMu sync.Mutex
	touched map[[sha256.Size]byte]int64 // SHA-256 of an API key to when it was used last

	servers    []*server
	opened     chan struct{}   // closed when store is set: it asks for things before
	ended      chan error      // why this node must stop for good
	serving    context.Context // ends when requests are to end
	stop       context.CancelFunc
	background sync.WaitGroup
	spawning   sync.Mutex // guards ending
	ending     bool       // nothing more is spawned
	closeOnce  sync.Once
	closeErr   error
}

// Open reads keys, takes the listeners and opens the store; nothing is answered before Run. Error: config.Mistakes for what is wrong
// with cfg, all at once.
func Open(cfg Config) (w *Writer, err error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	var mistakes config.Mistakes
	clock := newClock(cfg.clock(), len(cfg.Cluster.Voters))
	cfg.Now = clock.now
	w = &Writer{cfg: cfg, log: cfg.logger(), signIns: newSignIns(&cfg), clock: clock, now: clock.now, vitals: map[string]peer{}, used: newUsage(cfg.Node.DataDir), ended: make(chan error, 1), opened: make(chan struct{}), admission: newAdmission(), keys: cfg.loadKeys(&mistakes), edges: map[string]edgeSeen{}, touched: map[[sha256.Size]byte]int64{},
		polls: make(chan struct{}, maxPolls), snapshotReaders: make(chan struct{}, maxSnapshotReaders), peers: map[string]string{}, elected: make(chan struct{}, 1)}
	w.identity = cfg.loadIdentity(&mistakes)
	if err := mistakes.Err(); err != nil { // files that changed since Validate
		return nil, err
	}
	w.serving, w.stop = context.WithCancel(context.Background())
	defer func() {
		if err != nil {
			err = errors.Join(err, w.Close())
			w = nil
		}
	}()
	if w.sealer, err = newSealer(cfg.Contacts); err != nil {
		return w, err
	}
	w.mail = cfg.Mail.carrier()
	w.metrics = newMetrics(w)
	w.verifier = replication.NewVerifier(w.keys.roots, cfg.Node.Cluster)
	if w.signer, err = newSigner(w.keys, cfg.Node.Cluster, cfg.Node.ID, w.now()); err != nil {
		return w, err
	}
	if w.adapters, err = cfg.Adapters(); err != nil {
		return w, err
	}
	if w.pullers, err = cfg.Pullers(); err != nil {
		return w, err
	}
	w.connect()
	if err := w.openFiles(); err != nil {
		return w, err
	}
	if err := w.openNATS(); err != nil {
		return w, err
	}
	return w, w.listen()
}

// connect prepares what asks the other writers.
func (w *Writer) connect() {
	for _, v := range w.cfg.Cluster.Voters {
		w.peers[v.ID] = w.peerBase(v)
	}
	w.client = &http.Client{
		Transport:     w.peerTransport(),
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	w.reads = &sharedReads{ask: w.readIndex, owner: w.serving, spawn: w.spawn, share: func(n int) *store.Shared { return w.store.Share(n) }}
	w.frames.build = w.buildFrame
	w.relays = map[entitlement.Environment]*relay{}
	for _, env := range append([]entitlement.Environment{""}, entitlement.Environments...) {
		w.relays[env] = newRelay(func(ctx context.Context, batch []byte) ([]byte, error) {
			return w.askLeader(ctx, http.MethodPost, "/internal/v1/propose", batch)
		})
	}
}

// openFiles opens what lies in the data folder.
func (w *Writer) openFiles() error {
	dir := w.cfg.Node.DataDir
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make data folder: %w", err)
	}
	if err := checkRemoved(dir); err != nil {
		return err
	}
	var err error
	if w.spool, err = newSpool(filepath.Join(dir, "spool"), w.spawn, w.buildSnapshot, func() bool { return w.disk.Status().Low }); err != nil {
		return err
	}
	if w.waiting, err = openWaiting(filepath.Join(dir, waitingFolder), w.log, func(outcome string) { w.metrics.waited.WithLabelValues(outcome).Inc() }); err != nil {
		return err
	}
	voters := make([]store.Voter, len(w.cfg.Cluster.Voters))
	for i, v := range w.cfg.Cluster.Voters {
		voters[i] = store.Voter{ID: v.ID, Addr: v.Raft}
	}
	raft, _ := w.cfg.addresses()
	w.store, err = store.Open(store.Config{
		Dir: dir, ID: w.cfg.Node.ID, Cluster: w.cfg.Node.Cluster, Listen: w.cfg.Node.RaftListen, Listener: w.cfg.listeners.raft, Voters: voters, Identity: w.identity,
		Advertise: raft, Ask: w.storeAsks, JoinStable: w.cfg.joinStable, Now: w.now, TrustClock: w.clock.believed, Logger: w.log.With("part", "store"), Metrics: w.metrics.registry, Fatal: w.cfg.fatal,
		FetchSegment: w.storeFetches, HeartbeatTimeout: w.cfg.heartbeat, LeaderLease: w.cfg.heartbeat * 3 / 4, SegmentBytes: w.cfg.segment,
	})
	if err != nil {
		return fmt.Errorf("open store: %w", err)
	}
	close(w.opened)
	w.disk = &disk{Watch: room.Watch{Dir: dir, Reserve: w.cfg.Node.DiskReserveBytes, Stat: w.cfg.statFS, Logger: w.log,
		Extra: func() int64 { return w.store.Stats().StateBytes }}} // room for one more copy, which a Raft snapshot is
	return nil
}

// listen takes the addresses and lays the routes.
func (w *Writer) listen() error {
	public, err := listenOn(w.cfg.listeners.public, w.cfg.Node.Listen)
	if err != nil {
		return fmt.Errorf("node.listen: %w", err)
	}
	s := w.addServer(listenerPublic, public)
	s.handle("POST /v1/webhooks/{env}/{provider}", w.handleWebhook)
	w.routeAccounts(s)
	w.routeCatalog(s)
	w.routeEvents(s)
	w.routeReceipts(s.handle)
	w.routeSupport(s)
	w.routeContacts(s)
	w.routeDoubles(s)
	w.routeMismatches(s)
	w.routeErase(s)
	w.routeLinks(s)
	w.routeCodes(s)
	w.routeDevices(s.handle)
	w.routeIntents(s.handle)
	w.routeSessions(s.handle)
	s.handle(identityRoute, w.handleIdentity)
	w.routeMerges(s)
	w.routeOps(s)
	internal, err := listenOn(w.cfg.listeners.internal, w.cfg.Node.InternalListen)
	if err != nil {
		return fmt.Errorf("node.internal_listen: %w", err)
	}
	nodes := w.addServer(listenerInternal, internal)
	w.secure(nodes)
	w.routeInternal(nodes)
	operator, err := listenOperator(w.cfg.Node.DataDir)
	if err != nil {
		return fmt.Errorf("operator's socket: %w", err)
	}
	w.routeOperator(w.addServer(listenerOperator, operator))
	return nil
}

func listenOn(given net.Listener, address string) (net.Listener, error) {
	if given != nil {
		return given, nil
	}
	return net.Listen("tcp", address)
}

func (w *Writer) addServer(name string, l net.Listener) *server {
	s := newServer(w, name, l)
	w.servers = append(w.servers, s)
	return s
}

// PublicAddr is where the public listener really listens: of interest where the configured port is 0.
func (w *Writer) PublicAddr() net.Addr { return w.addr(listenerPublic) }

// InternalAddr is where the internal listener really listens.
func (w *Writer) InternalAddr() net.Addr { return w.addr(listenerInternal) }

func (w *Writer) addr(name string) net.Addr {
	for _, s := range w.servers {
		if s.name == name {
			return s.listener.Addr()
		}
	}
	return nil
}

// Run answers until ctx ends or a listener fails, then closes the writer: it stops accepting, lets requests in flight finish, hands
// leadership over and closes the store.
func (w *Writer) Run(ctx context.Context) error {
	failed := make(chan error, len(w.servers))
	for _, s := range w.servers {
		w.background.Go(func() {
			if err := s.http.Serve(s.listener); !errors.Is(err, http.ErrServerClosed) {
				failed <- fmt.Errorf("%s listener: %w", s.name, err)
			}
		})
	}
	w.background.Go(func() { w.makeHeads(w.serving) })
	w.background.Go(func() { w.watch(w.serving) })
	w.background.Go(func() { w.lead(w.serving) })
	w.background.Go(func() { w.proposeWaiting(w.serving) })
	w.background.Go(func() { w.lookAround(w.serving) })
	w.background.Go(func() { w.attend(w.serving) })
	for _, r := range w.relays {
		w.background.Go(func() { r.run(w.serving) })
	}
	w.background.Go(func() { w.flushTouches(w.serving) })
	w.background.Go(func() { w.signIns.Run(w.serving) })
	w.background.Go(func() { w.compareStates(w.serving) })
	w.log.InfoContext(ctx, "writer runs", "cluster", w.cfg.Node.Cluster, "listen", w.PublicAddr().String(),
		"internal_listen", w.InternalAddr().String(), "version", Version())
	var err error
	select {
	case <-ctx.Done():
	case err = <-failed:
	case err = <-w.ended:
	}
	w.log.InfoContext(ctx, "writer stops")
	return errors.Join(err, w.Close())
}

// Close stops everything and returns when it has ended. It may be called more than once, with or without Run.
func (w *Writer) Close() error {
	w.closeOnce.Do(func() { w.closeErr = w.close() })
	return w.closeErr
}

func (w *Writer) close() error {
	w.drain()
	var err error
	if w.store != nil {
		ctx, cancel := context.WithTimeout(context.Background(), handOverTimeout)
		defer cancel()
		err = w.store.Close(ctx)
	}
	w.spawning.Lock()
	w.ending = true
	w.spawning.Unlock()
	w.background.Wait()
	w.closeNATS()
	if w.client != nil {
		w.client.CloseIdleConnections()
	}
	return err
}

// spawn starts what a request began and others may wait for. Close waits for it; after that nothing starts, and who waits for it is told
// so by the end of the request's context.
func (w *Writer) spawn(f func()) {
	w.spawning.Lock()
	defer w.spawning.Unlock()
	if !w.ending {
		w.background.Go(f)
	}
}

// drain stops accepting and lets requests in flight finish: first no more connections, then the end of what waits for
// something, so that nobody connects in vain in between.
func (w *Writer) drain() {
	ctx, cancel := context.WithTimeout(context.Background(), shutdownTimeout)
	defer cancel()
	var draining sync.WaitGroup
	for _, s := range w.servers {
		draining.Go(func() {
			if err := s.http.Shutdown(ctx); err != nil {
				_ = s.http.Close()
			}
			_ = s.listener.Close() // for a server that never ran
		})
	}
	stop := time.AfterFunc(pollDrain, w.stop)
	draining.Wait()
	stop.Stop()
	w.stop()
}

// How a writer ends: all of it within the 4 s after which latchkey-dev and others kill.
const (
	// pollDrain is how long short requests get before those that wait for something are ended.
	pollDrain = 300 * time.Millisecond
	// shutdownTimeout is how long requests in flight get.
	shutdownTimeout = 2 * time.Second
	// handOverTimeout is how long another writer gets to take the lead over.
	handOverTimeout = time.Second
)
