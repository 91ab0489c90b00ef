package store

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
)

// A configured voter with an empty disk founds the cluster, unless it is one that has lost its disk: that one would vote a second time in a term, and
// make a majority with nodes that lack what it once acknowledged. It looks the same from inside. So whoever would found something asks the
// other voters first, and neither votes nor takes an entry before they have answered.

// ErrLostDisk means that this node belonged to the cluster and comes back on an empty disk. It never votes again under its id.
var ErrLostDisk = errors.New("this writer belonged to the cluster already, and its data folder was empty: its vote would have no memory. " +
	"Give it a new node.id and an empty node.data_dir, join, and remove the old id")

var errFounding = errors.New("the other founders have not been asked yet")

const (
	// foundingFile is in the folder from before this node founds anything until the others have said that it may.
	foundingFile = "founding"
	// foundingInterval is how often they are asked: the first start of a cluster waits for it.
	foundingInterval = 50 * time.Millisecond
)

// founding keeps Raft from the other nodes while the file is there.
type founding struct {
	path string
	open atomic.Bool
}

// openFounding looks whether a founding in dir has begun and not ended.
func openFounding(dir string) (*founding, error) {
	f := &founding{path: filepath.Join(dir, foundingFile)}
	_, err := os.Stat(f.path)
	f.open.Store(errors.Is(err, os.ErrNotExist))
	if f.open.Load() {
		err = nil
	}
	return f, err
}

// begin holds this node back until end.
func (f *founding) begin() error {
	f.open.Store(false)
	return errors.Join(os.WriteFile(f.path, nil, 0o600), syncDir(filepath.Dir(f.path)))
}

// end lets this node take part.
func (f *founding) end() error {
	if err := errors.Join(os.Remove(f.path), syncDir(filepath.Dir(f.path))); err != nil {
		return err
	}
	f.open.Store(true)
	return nil
}

// layer lets nothing through before the end.
func (f *founding) layer(below raft.StreamLayer) raft.StreamLayer { return foundingLayer{below, f} }

type foundingLayer struct {
	raft.StreamLayer
	founding *founding
}

// Dial implements raft.StreamLayer. Error: errFounding.
func (l foundingLayer) Dial(address raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	if !l.founding.open.Load() {
		return nil, errFounding
	}
	return l.StreamLayer.Dial(address, timeout)
}

// Accept implements net.Listener.
func (l foundingLayer) Accept() (net.Conn, error) {
	for {
		conn, err := l.StreamLayer.Accept()
		if err != nil || l.founding.open.Load() {
			return conn, err
		}
		_ = conn.Close()
	}
}

// askToFound asks the other founders until they say whether this node may take part.
func (s *Store) askToFound(ctx context.Context) {
	s.log.InfoContext(ctx, "asks the other voters before it founds the cluster")
	tick := time.NewTicker(foundingInterval)
	defer tick.Stop()
	for {
		may, err := s.mayFound(ctx)
		if may {
			err = s.founding.end()
		}
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			s.fsm.fail(err)
			return
		case may:
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// mayFound reports whether enough of the others have answered to be sure that this node was never one of them. Error: ErrLostDisk.
//
// That a node belongs to the cluster is known once it has said how it is reached. A majority has that, this node perhaps among them; so of the others
// at least half have it, and as many must have answered that one of these is among them. While nobody has any state the cluster is
// being founded: then a majority is enough, as it is for all that comes.
func (s *Store) mayFound(ctx context.Context) (bool, error) {
	var others []string
	for _, v := range s.cfg.Voters {
		if v.ID != s.cfg.ID {
			others = append(others, v.ID)
		}
	}
	answered, empty := 0, true
	for id, standing := range s.askAll(ctx, others) {
		if standing == nil {
			continue
		}
		if slices.Contains(standing.Announced, s.cfg.ID) {
			return false, fmt.Errorf("%w (%s knows %s)", ErrLostDisk, id, s.cfg.ID)
		}
		answered++
		empty = empty && standing.Empty
	}
	voters := len(s.cfg.Voters)
	if empty {
		return answered >= voters/2, nil
	}
	return answered >= voters-voters/2, nil
}
