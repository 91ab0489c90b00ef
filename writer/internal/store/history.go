package store

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/latchkey/latchkey/replication"
)

// A restore begins another history of the same cluster, with the same node ids and perhaps at the same addresses, and Raft knows nothing of
// that: to it, a leader of the old history with a higher term is the leader, and terms and indexes of the two mean different entries. So nodes
// of two histories never speak Raft with each other. A connection says at its beginning which history it belongs to: the state that was
// restored, and the epoch that was raised after it (0 while it is held). Nodes of a cluster that was never restored say nothing, as before.

// greeting is what a node of a restored history sends first: this byte, which no request of Raft begins with, the base (32 bytes) and the epoch
// (8 bytes, big endian).
const (
	greetingByte = 'L'
	greetingSize = 1 + 32 + 8
)

// history is what a node's state belongs to. The zero value is that of a cluster that was never restored.
type history struct {
	base  string // state.Base
	epoch uint64 // 0: held
	empty bool   // the node knows nothing yet: it learns its history from whoever made it a member
}

// history is what this node belongs to. A restore always leaves a snapshot, so that a node whose state is still empty and whose log is not is one
// of a cluster that was never restored.
func (s *Store) history() history {
	st, _, _, _ := s.fsm.current()
	h := history{base: st.Base, epoch: st.Epoch}
	if st.Held || st.Base == "" {
		h.epoch = 0
	}
	if st.Epoch == 0 {
		last, err := s.disk.LastIndex()
		h.empty = err == nil && last == 0
	}
	return h
}

// with reports whether two nodes may speak with each other.
func (h history) with(peer history) bool {
	return h.empty || h.base == peer.base && (h.epoch == 0 || peer.epoch == 0 || h.epoch == peer.epoch)
}

// append appends the greeting; nothing for a cluster that was never restored.
func (h history) append(b []byte) []byte {
	base, err := hex.DecodeString(h.base)
	if err != nil || len(base) != 32 {
		return b
	}
	b = append(append(b, greetingByte), base...)
	return binary.BigEndian.AppendUint64(b, h.epoch)
}

// historyLayer lets only nodes of the same history speak with each other.
type historyLayer struct {
	raft.StreamLayer
	own     func() history
	known   <-chan struct{} // closed when own is
	refused func(peer net.Addr)
}

// sameHistory lets through only nodes of this node's history.
func (s *Store) sameHistory(below raft.StreamLayer, known <-chan struct{}) raft.StreamLayer {
	return historyLayer{StreamLayer: below, known: known, own: s.history,
		refused: func(peer net.Addr) {
			s.log.Warn("a node of another history was refused: one that was restored from something else, or not at all", "peer", peer.String())
		}}
}

// Dial implements raft.StreamLayer.
func (l historyLayer) Dial(address raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	conn, err := l.StreamLayer.Dial(address, timeout)
	if err != nil {
		return nil, err
	}
	<-l.known
	if greeting := l.own().append(nil); len(greeting) > 0 {
		_, err = conn.Write(greeting)
	}
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return conn, nil
}

// Accept implements net.Listener. It does not wait for the greeting: others must be let in meanwhile.
func (l historyLayer) Accept() (net.Conn, error) {
	conn, err := l.StreamLayer.Accept()
	if err != nil {
		return nil, err
	}
	return &greetedConn{Conn: conn, layer: l}, nil
}

// greetedConn reads the greeting before anything else.
type greetedConn struct {
	net.Conn
	layer historyLayer
	once  sync.Once
	err   error
	first []byte // read before it was known to be no greeting
}

// Read implements net.Conn. To a peer of another history the connection ends.
func (c *greetedConn) Read(b []byte) (int, error) {
	c.once.Do(c.greet)
	if len(c.first) > 0 && len(b) > 0 {
		n := copy(b, c.first)
		c.first = c.first[n:]
		return n, nil
	}
	if c.err != nil {
		return 0, c.err
	}
	return c.Conn.Read(b)
}

func (c *greetedConn) greet() {
	var text [greetingSize]byte
	if _, c.err = io.ReadFull(c.Conn, text[:1]); c.err != nil {
		return
	}
	peer := history{}
	if text[0] != greetingByte {
		c.first = text[:1]
	} else {
		if _, c.err = io.ReadFull(c.Conn, text[1:]); c.err != nil {
			return
		}
		peer = history{base: hex.EncodeToString(text[1:33]), epoch: binary.BigEndian.Uint64(text[33:])}
	}
	<-c.layer.known
	if !c.layer.own().with(peer) {
		c.first, c.err = nil, io.EOF // for Raft: the peer went away
		c.layer.refused(c.RemoteAddr())
	}
}

// ErrSuperseded means that the cluster has begun a newer history without this node: it must never run again on its data.
var ErrSuperseded = errors.New("superseded")

// supersededFile says for good that the node is superseded, and why.
const supersededFile = "superseded.json"

// Superseded says by what a node was superseded.
type Superseded struct {
	Epoch     uint64 `json:"epoch"`     // that was shown
	OwnEpoch  uint64 `json:"own_epoch"` // of this node's data
	Revision  uint64 `json:"revision"`  // of this node's data
	NoticedAt string `json:"noticed_at"`
	Head      string `json:"head"` // what a writer of the newer history has signed
}

// OlderThan reports whether a signed position of this node's own cluster shows that its history has ended. One that is still held back after a
// restore, or knows nothing yet, is about to learn its epoch from the others.
func (s *Store) OlderThan(p replication.Position) bool {
	st, _, _, _ := s.fsm.current()
	epoch := st.Epoch
	if epoch == 0 && !s.history().empty {
		epoch = 1 // that of a cluster that was never restored; nobody has told yet how much of its log is committed
	}
	return p.Cluster == s.cfg.Cluster && epoch > 0 && !st.Held && p.Epoch > epoch
}

// Held reports whether this node's state was restored and no leader has raised the epoch since: nothing may be answered from it.
func (s *Store) Held() bool {
	st, _, _, _ := s.fsm.current()
	return st.Held
}

// Supersede notes for ever that the signed head ends this node's history: no Open of this folder succeeds any more. The caller has verified
// the signature, and stops the node.
func (s *Store) Supersede(p replication.Position, signedHead string) error {
	st, _, _, _ := s.fsm.current()
	text, err := json.MarshalIndent(Superseded{Epoch: p.Epoch, OwnEpoch: st.Epoch, Revision: st.N, NoticedAt: s.clock().Format(time.RFC3339), Head: signedHead}, "", " ")
	if err != nil {
		return err
	}
	path := filepath.Join(s.cfg.Dir, supersededFile)
	if err := writeFile(path+".tmp", bytes.NewReader(text), int64(len(text))); err != nil {
		return fmt.Errorf("note that this node is superseded: %w", err)
	}
	if err := os.Rename(path+".tmp", path); err != nil {
		return fmt.Errorf("note that this node is superseded: %w", err)
	}
	return syncDir(s.cfg.Dir)
}
