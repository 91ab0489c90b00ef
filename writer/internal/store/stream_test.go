package store

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/latchkey/latchkey/pkg/mutual"
	"github.com/latchkey/latchkey/pkg/mutual/mutualtest"
)

// TestOnlyWritersReachRaftUnderTLS: three nodes agree, also after one was started again; whoever is no writer of the same authority cannot
// say a word, and a writer does not talk to another node than it means.
func TestOnlyWritersReachRaftUnderTLS(t *testing.T) {
	authority := mutualtest.New(t)
	nodes := startCluster(t, 3, func(c *Config) { c.Identity = authority.Identity(mutualtest.Writer(c.ID)) })
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
		return tls.Dial("tcp", at, i.Config(protocol, mutualtest.Writer("w2")))
	}
	if err := says(dial(authority.Identity(mutualtest.Writer("w9")), raftProtocol)); !errors.Is(err, io.EOF) {
		t.Errorf("another writer: %v, want that it is heard and its nonsense ends the connection", err)
	}
	strangers := []struct {
		name string
		dial func() (net.Conn, error)
	}{
		{"an edge", func() (net.Conn, error) {
			return dial(authority.Identity(mutualtest.Edge("e1")), raftProtocol)
		}},
		{"a writer of another authority", func() (net.Conn, error) {
			return dial(mutualtest.New(t).Identity(mutualtest.Writer("w1")), raftProtocol)
		}},
		{"a writer that speaks another protocol", func() (net.Conn, error) { return dial(authority.Identity(mutualtest.Writer("w1")), "") }},
		{"plain TCP", func() (net.Conn, error) { return net.Dial("tcp", at) }},
	}
	for _, s := range strangers {
		if err := says(s.dial()); err == nil || errors.Is(err, io.EOF) && s.name != "plain TCP" {
			t.Errorf("%s: %v, want that it is refused before Raft hears it", s.name, err)
		}
	}

	stream := streamLayer{identity: authority.Identity(mutualtest.Writer("w1"))}
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
