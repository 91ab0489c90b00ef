package store

import (
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"time"

	"github.com/hashicorp/raft"

	"github.com/latchkey/latchkey/pkg/mutual"
)

// raftProtocol is what both ends of Raft's connections must ask for under mutual TLS, so that nothing that is meant for another listener
// is ever read as Raft.
const raftProtocol = "latchkey-raft/1"

// streamLayer carries Raft between the nodes: mutual TLS among writers, or plain TCP where there is no identity.
type streamLayer struct {
	net.Listener
	identity *mutual.Identity // nil: plain TCP
}

func newStreamLayer(l net.Listener, identity *mutual.Identity, log *slog.Logger) streamLayer {
	if identity != nil {
		l = mutual.Listen(l, identity.Config(raftProtocol, mutual.Peer{Role: mutual.RoleWriter}), log.With("listener", "raft"))
	}
	return streamLayer{l, identity}
}

// Dial implements raft.StreamLayer. Under TLS it insists on the node that the address was given for.
func (s streamLayer) Dial(address raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	dialer := &net.Dialer{Timeout: timeout}
	id, at := splitAddress(address)
	if s.identity == nil {
		return dialer.Dial("tcp", at)
	}
	if id == "" {
		return nil, fmt.Errorf("connect to %s: no node is known to be there", at)
	}
	return tls.DialWithDialer(dialer, "tcp", at, s.identity.Config(raftProtocol, mutual.Peer{Node: string(id), Role: mutual.RoleWriter}))
}

// Raft hands a StreamLayer an address alone. Ours begins with the id of the node: "w2@host:port".
const addressID = "@"

func joinAddress(id raft.ServerID, address raft.ServerAddress) raft.ServerAddress {
	return raft.ServerAddress(id) + addressID + address
}

// splitAddress returns an empty id for an address that came without one.
func splitAddress(address raft.ServerAddress) (id raft.ServerID, at string) {
	before, after, found := strings.Cut(string(address), addressID)
	if !found {
		return "", before
	}
	return raft.ServerID(before), after
}
