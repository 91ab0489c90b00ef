package natsd

import (
	"github.com/nats-io/nats-server/v2/server"

	"github.com/latchkey/latchkey/pkg/mutual"
)

// subjects are those of Latchkey: replication.SubjectChanges and SubjectHead are two of them.
const subjects = "lk.>"

// secure puts clients and routes under mutual TLS.
func secure(opts *server.Options, identity *mutual.Identity) {
	writers, edges := mutual.Peer{Role: mutual.RoleWriter}, mutual.Peer{Role: mutual.RoleEdge}
	opts.TLS = true
	opts.TLSConfig = identity.Config("", writers, edges)
	opts.CustomClientAuthentication = byCertificate{}
	opts.Cluster.TLSConfig = identity.Config("", writers)
}

// byCertificate gives a client what its certificate allows: writers speak and hear one another, edges listen, and nobody does anything else.
type byCertificate struct{}

// Check implements server.Authentication.
func (byCertificate) Check(c server.ClientAuthentication) bool {
	peer, shown := mutual.PeerOf(c.GetTLSConnectionState())
	if !shown {
		return false
	}
	nothing, ours := &server.SubjectPermission{Deny: []string{">"}}, &server.SubjectPermission{Allow: []string{subjects}}
	switch peer.Role {
	case mutual.RoleWriter:
		c.RegisterUser(&server.User{Username: peer.Node, Permissions: &server.Permissions{Publish: ours, Subscribe: ours}})
	case mutual.RoleEdge:
		c.RegisterUser(&server.User{Username: peer.Node, Permissions: &server.Permissions{Publish: nothing, Subscribe: ours}})
	default:
		return false
	}
	return true
}
