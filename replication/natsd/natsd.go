// Package natsd runs a NATS server inside a writer, so that a small installation needs no service beside Latchkey. The
// servers of all writers form one cluster. It carries messages and stores none: JetStream stays off, because the change
// log and the pull repair every loss. Only the writer imports it. Start at Start.
package natsd

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/latchkey/latchkey/pkg/mutual"
)

// Config says where a server listens and whom it knows.
type Config struct {
	Name          string   // of this server: the writer's id
	Cluster       string   // the same on all writers: the cluster's id
	Listen        string   // host:port for clients. Port 0 takes a free one
	ClusterListen string   // host:port for the other writers' servers; empty: this server stands alone
	Routes        []string // tls://host:port or nats://host:port of the other writers' cluster listeners
	// Advertise and ClusterAdvertise are what servers tell clients and each other of how this one is reached, host:port, where that is not as it
	// listens. Empty: as it listens.
	Advertise, ClusterAdvertise string
	// Identity puts clients and routes under mutual TLS: edges may listen, writers also speak. Nil: whoever connects may do both.
	Identity *mutual.Identity
	Logger   *slog.Logger
}

const (
	// maxConnections bounds the clients of one server: edges and tools of a large installation, and what they cost in memory.
	maxConnections = 4096
	// maxPendingBytes is what a client may lag behind before it is cut off: it then repairs itself by pull.
	maxPendingBytes = 16 << 20
	// readyTimeout is how long a server may take to listen.
	readyTimeout = 10 * time.Second
	// lameDuck is the time in which a server that stops hands its clients to the others.
	lameDuck      = 500 * time.Millisecond
	lameDuckGrace = 100 * time.Millisecond
)

// Server is a running NATS server.
type Server struct{ s *server.Server }

// Start runs a server and returns once it accepts clients.
func Start(cfg Config) (*Server, error) {
	host, port, err := splitHostPort(cfg.Listen)
	if err != nil {
		return nil, fmt.Errorf("nats listen address: %w", err)
	}
	opts := &server.Options{
		ServerName: cfg.Name, Host: host, Port: port,
		NoSigs:  true, // else it would end the whole writer at SIGINT by itself
		MaxConn: maxConnections, MaxPending: maxPendingBytes,
		LameDuckDuration: lameDuck, LameDuckGracePeriod: lameDuckGrace,
		ClientAdvertise: cfg.Advertise,
	}
	if cfg.ClusterListen != "" {
		opts.Cluster.Name, opts.Cluster.Advertise = cfg.Cluster, cfg.ClusterAdvertise
		if opts.Cluster.Host, opts.Cluster.Port, err = splitHostPort(cfg.ClusterListen); err != nil {
			return nil, fmt.Errorf("nats cluster listen address: %w", err)
		}
		for _, r := range cfg.Routes {
			u, err := url.Parse(r)
			if err != nil {
				return nil, fmt.Errorf("nats route: %w", err)
			}
			opts.Routes = append(opts.Routes, u)
		}
	}
	if cfg.Identity != nil {
		secure(opts, cfg.Identity)
	}
	s, err := server.NewServer(opts)
	if err != nil {
		return nil, fmt.Errorf("nats server: %w", err)
	}
	s.SetLogger(&logBridge{log: cfg.Logger}, false, false)
	s.Start()
	if !s.ReadyForConnections(readyTimeout) {
		s.Shutdown()
		return nil, errors.New("nats server does not accept connections: is the port in use?")
	}
	return &Server{s}, nil
}

// ClientURL is where clients connect: "nats://host:port", or "tls://host:port" with an identity.
func (s *Server) ClientURL() string { return s.s.ClientURL() }

// Routes is how many connections to other servers there are.
func (s *Server) Routes() int { return s.s.NumRoutes() }

// Close tells clients to go to another server, then stops. It returns when everything has ended.
func (s *Server) Close() {
	s.s.LameDuckShutdown()
	s.s.WaitForShutdown()
}

func splitHostPort(address string) (string, int, error) {
	host, p, err := net.SplitHostPort(address)
	if err != nil {
		return "", 0, err
	}
	port, err := strconv.Atoi(p)
	if err != nil {
		return "", 0, fmt.Errorf("port %q is not a number", p)
	}
	if port == 0 {
		port = server.RANDOM_PORT
	}
	return host, port, nil
}

// unverifiedWarning is part of what the server says to a TLS configuration that does not let the library verify. Ours verifies itself, by node
// and role instead of by host name (mutual.Identity.Config).
const unverifiedWarning = "hostname of solicited routes will not be verified"

// logBridge hands the server's messages on. What it calls fatal it also returns as an error, and its notices are noise here.
type logBridge struct {
	log *slog.Logger

	mu      sync.Mutex
	refused time.Time // when a refused handshake was logged last
}

// refusalPause is how often a refused handshake is logged at most: a client with a wrong certificate comes again several times a second.
const refusalPause = 10 * time.Second

func (b *logBridge) Noticef(format string, v ...any) {
	b.log.Debug("nats notice", "message", fmt.Sprintf(format, v...))
}
func (b *logBridge) Warnf(format string, v ...any) {
	if strings.Contains(format, unverifiedWarning) {
		return
	}
	b.log.Warn("nats warning", "message", fmt.Sprintf(format, v...))
}
func (b *logBridge) Fatalf(format string, v ...any) {
	b.log.Error("nats failure", "message", fmt.Sprintf(format, v...))
}
func (b *logBridge) Errorf(format string, v ...any) {
	if strings.Contains(format, "TLS handshake error") && !b.mayLogRefusal() {
		return
	}
	b.log.Error("nats error", "message", fmt.Sprintf(format, v...))
}
func (b *logBridge) Debugf(string, ...any) {}
func (b *logBridge) Tracef(string, ...any) {}

func (b *logBridge) mayLogRefusal() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if time.Since(b.refused) < refusalPause {
		return false
	}
	b.refused = time.Now()
	return true
}
