package writer

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/latchkey/latchkey/pkg/config"
	"github.com/latchkey/latchkey/pkg/mutual"
	"github.com/latchkey/latchkey/pkg/problem"
)

// Who may do what among the nodes. With a section tls every node shows a certificate, and writers and edges are told apart by it; without one
// the listeners for nodes are on loopback addresses, and whoever reaches them is believed.

// loadIdentity reads the files of the section tls and notes everything that is wrong with them. Nil: there is no such section, or it is wrong.
func (c *Config) loadIdentity(m *config.Mistakes) *mutual.Identity {
	if c.TLS == nil {
		return nil
	}
	identity := mutual.Load(*c.TLS, mutual.Peer{Node: c.Node.ID, Role: mutual.RoleWriter}, c.clock(), c.logger(), m)
	if identity == nil {
		return nil
	}
	// A writer that nobody lets in is of no use, and it is better said once than for ever in the others' logs.
	if err := identity.Check(); err != nil {
		m.Add("tls.cert_file", "%v", err)
	}
	return identity
}

// secure puts the internal listener under mutual TLS, if there is an identity.
func (w *Writer) secure(s *server) {
	if w.identity != nil {
		conf := w.identity.Config("", mutual.Peer{Role: mutual.RoleWriter}, mutual.Peer{Role: mutual.RoleEdge})
		s.listener = mutual.Listen(s.listener, conf, w.log.With("listener", s.name))
	}
}

// peerBase is the address of another writer's internal API. Under TLS the host is the node's id, so that each connection is to the node that is
// meant, wherever it is: see dialPeer.
func (w *Writer) peerBase(v VoterConfig) string {
	if w.identity == nil {
		return strings.TrimSuffix(v.Internal, "/")
	}
	return "https://" + v.ID
}

// peerTransport reaches the other writers.
func (w *Writer) peerTransport() *http.Transport {
	t := &http.Transport{
		DialContext:         (&net.Dialer{Timeout: dialTimeout, KeepAlive: 15 * time.Second}).DialContext,
		MaxIdleConnsPerHost: maxPeerConnections,
		IdleConnTimeout:     time.Minute,
		DisableCompression:  true,
	}
	if w.identity != nil {
		t.DialTLSContext = w.dialPeer
	}
	return t
}

// dialPeer connects to the node that address names ("w2:443") and to no other.
func (w *Writer) dialPeer(ctx context.Context, network, address string) (net.Conn, error) {
	id, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	at, err := w.internalAddress(id)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	return (&tls.Dialer{Config: w.identity.Config("", mutual.Peer{Node: id, Role: mutual.RoleWriter})}).DialContext(ctx, network, at)
}

// internalAddress is where a writer's internal listener is, host:port.
func (w *Writer) internalAddress(id string) (string, error) {
	at := w.internalOf(id)
	if at == "" {
		return "", fmt.Errorf("no writer %q is known", id)
	}
	u, err := url.Parse(at)
	if err != nil {
		return "", err
	}
	return u.Host, nil
}

var errNoPeer = errors.New("request without a node's certificate")

// peer is who asks on the internal listener. False: nobody has to show who they are here.
func (w *Writer) peer(r *http.Request) (p mutual.Peer, shown bool, err error) {
	if w.identity == nil {
		return mutual.Peer{}, false, nil
	}
	if p, shown = mutual.PeerOf(r.TLS); !shown {
		return p, false, errNoPeer // the listener lets no such request through
	}
	return p, true, nil
}

// fromNodes answers nodes of the cluster only: who has shown a certificate, or without TLS who asks for a loopback address. A page in a browser on this
// machine could have its own name resolve to one and so reach this listener; edges and writers use addresses.
func (w *Writer) fromNodes(h handler) handler {
	if w.identity != nil {
		return h
	}
	return func(rw http.ResponseWriter, r *http.Request) error {
		host, _, err := net.SplitHostPort(r.Host)
		if err != nil {
			host = r.Host
		}
		if !isLoopback(host) {
			return problem.New(problem.Forbidden, "This listener answers requests for a loopback address only.")
		}
		return h(rw, r)
	}
}

// ofWriter lets only writers of the same cluster pass.
func (w *Writer) ofWriter(h handler) handler {
	return func(rw http.ResponseWriter, r *http.Request) error {
		p, shown, err := w.peer(r)
		if err != nil {
			return err
		}
		if shown && p.Role != mutual.RoleWriter || r.Header.Get(clusterHeader) != w.cfg.Node.Cluster {
			return problem.New(problem.Forbidden, "This address is for writers of the same cluster.")
		}
		return h(rw, r)
	}
}

// asking is the edge that a request comes from: as its certificate says, or without TLS as it says itself.
func (w *Writer) asking(r *http.Request, says string) (string, error) {
	p, shown, err := w.peer(r)
	switch {
	case err != nil:
		return "", err
	case !shown:
		return says, nil
	case p.Role != mutual.RoleEdge: // a writer, whose requests are not counted as an edge's
		return "", nil
	}
	return p.Node, nil
}

// The certificates that somebody must renew, as the metrics name them.
const (
	certificateTLS    = "tls"
	certificateIssuer = "issuer"
)

// certificateEnds is when a certificate ends, in Unix seconds; infinity when there is none that could.
func (w *Writer) certificateEnds(which string) float64 {
	switch {
	case which == certificateIssuer:
		return float64(w.keys.issuerCert.ExpiresAt)
	case w.identity != nil:
		return float64(w.identity.Expires().Unix())
	}
	return math.Inf(1)
}
