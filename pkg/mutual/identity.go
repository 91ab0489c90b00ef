package mutual

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"sync"
	"time"

	"github.com/latchkey/latchkey/pkg/config"
)

// Role is what a node may do among the others.
type Role string

// The roles. Their names stand in certificates.
const (
	RoleWriter Role = "writer" // may take part in Raft, hand commands to a leader, and be replicated from
	RoleEdge   Role = "edge"   // may replicate
	RoleNATS   Role = "nats"   // may carry messages: a NATS server that is none of ours
)

// Valid reports whether r is one of the roles.
func (r Role) Valid() bool { return r == RoleWriter || r == RoleEdge || r == RoleNATS }

// Peer is who is at an end of a connection, or who is accepted there: then an empty Node stands for every node of the role.
type Peer struct {
	Node string // its node.id: the only DNS name of its certificate
	Role Role   // the only organizational unit
}

func (p Peer) accepts(q Peer) bool { return p.Role == q.Role && (p.Node == "" || p.Node == q.Node) }

// Errors with which a connection is refused. The other end learns no more than that it was.
var (
	// ErrNoCertificate means that none was shown, or one that does not name exactly one node and one role.
	ErrNoCertificate = errors.New("no certificate of a node")
	// ErrAuthority means that none of the authorities in ca_file issued the certificate.
	ErrAuthority = errors.New("certificate of an authority that is not believed")
	// ErrExpired means that the certificate, or that of its authority, no longer counts: renew it.
	ErrExpired = errors.New("certificate has expired")
	// ErrNotYetValid means that it does not count yet: one of the two clocks is wrong.
	ErrNotYetValid = errors.New("certificate is not valid yet")
	// ErrPeer means a good certificate of another node or another role than is accepted here.
	ErrPeer = errors.New("certificate of another node or role")
	// ErrProtocol means that the other end did not ask for the protocol that is spoken here.
	ErrProtocol = errors.New("another protocol is spoken here")
)

// Files are the paths of what a node shows and believes. All are PEM.
type Files struct {
	// CA holds the certificates of the authorities that are believed: one, or the old and the new while they are changed.
	CA string `config:"ca_file"`
	// Cert is the node's certificate, with those between it and the authority if there are any; Key is its private key, which nobody else may
	// read: mode 0600, or 0640 for a group.
	Cert string `config:"cert_file"`
	Key  string `config:"key_file"`
}

// Identity is what a node shows to the others and whom it believes. It reads the files again when they have changed.
type Identity struct {
	files Files
	self  Peer
	now   func() time.Time
	log   *slog.Logger

	mu      sync.Mutex
	current *material
	read    stamps // of the files as they were when current was read
	refused stamps // of files that were wrong, as they were then
}

// Load reads the files of the node self and adds what is wrong with them to m, under tls.ca_file and its neighbours; it then returns nil. That a certificate has
// expired is no mistake here: ask Check. now is the clock by which certificates are judged.
func Load(files Files, self Peer, now func() time.Time, log *slog.Logger, m *config.Mistakes) *Identity {
	n := &Identity{files: files, self: self, now: now, log: log, read: files.stamps()}
	var mistakes config.Mistakes
	if n.current = files.load(self, &mistakes); len(mistakes) > 0 {
		*m = append(*m, mistakes...)
		return nil
	}
	return n
}

// Check reports whether the others accept the node's own certificate at present. Errors: ErrExpired, ErrNotYetValid.
func (n *Identity) Check() error {
	now := n.material()
	return n.verify(now.cert.Leaf, now.between, nil)
}

// Expires is when the node's certificate, or that of its authority, ceases to be accepted, whichever is first.
func (n *Identity) Expires() time.Time { return n.material().expires }

// Config returns the configuration of either end of a connection, as listener or client, whose other end must be one of accept. Both ends
// must speak protocol (ALPN); empty leaves that open.
func (n *Identity) Config(protocol string, accept ...Peer) *tls.Config {
	c := &tls.Config{
		MinVersion: tls.VersionTLS13,
		ClientAuth: tls.RequireAnyClientCert,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			return &n.material().cert, nil
		},
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return &n.material().cert, nil
		},
		// The library would ask for the host's name. What is asked instead is in VerifyConnection, which it calls for every
		// connection on both sides.
		InsecureSkipVerify: true,
		// A resumed connection would count by the certificate of the first one.
		SessionTicketsDisabled: true,
		VerifyConnection: func(s tls.ConnectionState) error {
			if protocol != "" && s.NegotiatedProtocol != protocol {
				return ErrProtocol
			}
			if len(s.PeerCertificates) == 0 {
				return ErrNoCertificate
			}
			return n.verify(s.PeerCertificates[0], s.PeerCertificates[1:], accept)
		},
	}
	if protocol != "" {
		c.NextProtos = []string{protocol}
	}
	return c
}

// verify judges a certificate by what is believed now. Without accept every node of every role passes.
func (n *Identity) verify(leaf *x509.Certificate, between []*x509.Certificate, accept []Peer) error {
	now := n.now()
	peer, err := identify(leaf)
	if err != nil {
		return err
	}
	chains, err := n.material().chains(leaf, between, leaf.NotBefore)
	if err != nil {
		return fmt.Errorf("%s %s: %w", peer.Role, peer.Node, ErrAuthority)
	}
	begin, end := lifetime(chains)
	switch {
	case now.After(end):
		return fmt.Errorf("%s %s: %w at %s", peer.Role, peer.Node, ErrExpired, end.UTC().Format(time.RFC3339))
	case now.Before(begin):
		return fmt.Errorf("%s %s: %w before %s", peer.Role, peer.Node, ErrNotYetValid, begin.UTC().Format(time.RFC3339))
	}
	for _, a := range accept {
		if a.accepts(peer) {
			return nil
		}
	}
	if len(accept) > 0 {
		return fmt.Errorf("%w: %s %s", ErrPeer, peer.Role, peer.Node)
	}
	return nil
}

// PeerOf names the other end of a connection that was made with a Config. False: it was not made with one.
func PeerOf(s *tls.ConnectionState) (Peer, bool) {
	if s == nil || len(s.PeerCertificates) == 0 {
		return Peer{}, false
	}
	p, err := identify(s.PeerCertificates[0])
	return p, err == nil
}

// nodeName is what a node.id looks like; writers and edges accept the same.
var nodeName = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,31}$`)

// identify reads whom a certificate is for. More than one name or role would be as many nodes with one key. Error: ErrNoCertificate.
func identify(c *x509.Certificate) (Peer, error) {
	units := c.Subject.OrganizationalUnit
	if len(c.DNSNames) != 1 || len(units) != 1 {
		return Peer{}, fmt.Errorf("%w: %d DNS names and %d organizational units, want one of each: node.id and role", ErrNoCertificate, len(c.DNSNames), len(units))
	}
	p := Peer{Node: c.DNSNames[0], Role: Role(units[0])}
	if !nodeName.MatchString(p.Node) || !p.Role.Valid() {
		return Peer{}, fmt.Errorf("%w: the DNS name is no node.id, or the organizational unit none of writer, edge, nats", ErrNoCertificate)
	}
	return p, nil
}

// material returns what the files say now, as far as that is right.
func (n *Identity) material() *material {
	n.mu.Lock()
	defer n.mu.Unlock()
	seen := n.files.stamps()
	if seen == n.read {
		return n.current
	}
	var mistakes config.Mistakes
	if next := n.files.load(n.self, &mistakes); len(mistakes) == 0 {
		n.current, n.read, n.refused = next, seen, stamps{}
		n.log.Info("tls files read again", "expires", next.expires.UTC().Format(time.RFC3339))
	} else if seen != n.refused { // else it was said: a key and its certificate are replaced one after the other
		n.refused = seen
		n.log.Warn("tls files not taken over, the last ones stay in use", "error", mistakes.Err())
	}
	return n.current
}
