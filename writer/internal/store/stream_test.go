package store

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"path/filepath"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/latchkey/latchkey/pkg/config"
	"github.com/latchkey/latchkey/pkg/mutual"
)

// identities makes an authority and returns what loads the identity of a node below it.
func identities(t *testing.T) func(mutual.Peer) *mutual.Identity {
	t.Helper()
	ca := t.TempDir()
	if err := mutual.MakeAuthority(ca, "test", time.Now()); err != nil {
		t.Fatal(err)
	}
	return func(node mutual.Peer) *mutual.Identity {
		t.Helper()
		dir := t.TempDir()
		if err := mutual.MakeNode(ca, dir, node, 24*time.Hour, time.Now()); err != nil {
			t.Fatal(err)
		}
		cert, key := mutual.NodeFiles(node.Node)
		var m config.Mistakes
		identity := mutual.Load(mutual.Files{CA: filepath.Join(ca, mutual.AuthorityCertFile), Cert: filepath.Join(dir, cert), Key: filepath.Join(dir, key)}, node, time.Now, quiet(), &m)
		if err := m.Err(); err != nil {
			t.Fatal(err)
		}
		return identity
	}
}

func writerNode(id string) mutual.Peer { return mutual.Peer{Node: id, Role: mutual.RoleWriter} }

// TestOnlyWritersReachRaftUnderTLS: three nodes agree, also after one was started again; whoever is no writer of the same authority cannot
// say a word, and a writer does not talk to another node than it means.
func TestOnlyWritersReachRaftUnderTLS(t *testing.T) {
	identity := identities(t)
	nodes := startCluster(t, 3, func(c *Config) { c.Identity = identity(writerNode(c.ID)) })
	propose(t, nodes, create("acc_1"))
	follower := nodes[0]
	if follower.IsLeader() {
		follower = nodes[1]
	}
	follower.close(t)
	follower.open(t)
	propose(t, nodes, create("acc_2"))
	catchUp(t, nodes...)

	at := nodes[0].cfg.Voters[1].Addr
	says := func(conn net.Conn, err error) error {
		if err != nil {
			return err
		}
		defer conn.Close()
		if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Write(bytes.Repeat([]byte{255}, 16)); err != nil { // no such RPC: Raft ends the connection
			return err
		}
		_, err = conn.Read(make([]byte, 1))
		return err
	}
	dial := func(i *mutual.Identity, protocol string) (net.Conn, error) {
		return tls.Dial("tcp", at, i.Config(protocol, writerNode("w2")))
	}
	if err := says(dial(identity(writerNode("w9")), raftProtocol)); !errors.Is(err, io.EOF) {
		t.Errorf("another writer: %v, want that it is heard and its nonsense ends the connection", err)
	}
	strangers := []struct {
		name string
		dial func() (net.Conn, error)
	}{
		{"an edge", func() (net.Conn, error) { return dial(identity(mutual.Peer{Node: "e1", Role: mutual.RoleEdge}), raftProtocol) }},
		{"a writer of another authority", func() (net.Conn, error) { return dial(identities(t)(writerNode("w1")), raftProtocol) }},
		{"a writer that speaks another protocol", func() (net.Conn, error) { return dial(identity(writerNode("w1")), "") }},
		{"plain TCP", func() (net.Conn, error) { return net.Dial("tcp", at) }},
	}
	for _, s := range strangers {
		if err := says(s.dial()); err == nil || errors.Is(err, io.EOF) && s.name != "plain TCP" {
			t.Errorf("%s: %v, want that it is refused before Raft hears it", s.name, err)
		}
	}

	stream := streamLayer{identity: identity(writerNode("w1"))}
	for address, want := range map[raft.ServerAddress]error{joinAddress("w2", raft.ServerAddress(at)): nil, joinAddress("w3", raft.ServerAddress(at)): mutual.ErrPeer} {
		conn, err := stream.Dial(address, patience)
		if !errors.Is(err, want) {
			t.Errorf("Dial(%s) = %v, want %v", address, err, want)
		}
		if err == nil {
			conn.Close()
		}
	}
	if conn, err := stream.Dial(raft.ServerAddress(at), patience); err == nil {
		conn.Close()
		t.Error("Dial of an address without a node's id succeeded")
	}
}
