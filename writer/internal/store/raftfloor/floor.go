package main

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
	wal "github.com/hashicorp/raft-wal"
	bolt "go.etcd.io/bbolt"
)

// recordBytes is what the state machine writes for an entry: about an account's record.
const recordBytes = 600

// batch is as large as the writers' batches are.
const batch = 256

var bucket = []byte("records")

// floor is one node.
type floor struct {
	id, nodes, dir string
	entryBytes     int
	inFlight       int
	lasts          time.Duration

	raft *raft.Raft
}

// run starts the node. For each line on standard input it does one run if it leads, and prints how many entries were applied and in how
// many seconds; a follower prints "0 1".
func (f *floor) run() error {
	if err := f.open(); err != nil {
		return err
	}
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		if f.raft.State() != raft.Leader {
			fmt.Println("0 1")
			continue
		}
		applied, took, err := f.drive()
		if err != nil {
			return err
		}
		fmt.Println(applied, took.Seconds())
	}
	return f.raft.Shutdown().Error()
}

// drive proposes entries, inFlight at a time, for as long as a run lasts.
func (f *floor) drive() (applied int64, took time.Duration, err error) {
	var (
		done    atomic.Int64
		workers sync.WaitGroup
		failed  = make(chan error, f.inFlight)
	)
	began := time.Now()
	for w := range f.inFlight {
		workers.Go(func() {
			for n := 0; time.Since(began) < f.lasts; n++ {
				entry := make([]byte, f.entryBytes)
				binary.BigEndian.PutUint64(entry, uint64(w)<<40|uint64(n))
				if err := f.raft.Apply(entry, 10*time.Second).Error(); err != nil {
					failed <- err
					return
				}
				done.Add(1)
			}
		})
	}
	workers.Wait()
	took = time.Since(began)
	select {
	case err = <-failed:
	default:
	}
	return done.Load(), took, err
}

// open starts Raft as the store does, with the same settings.
func (f *floor) open() error {
	logger := hclog.NewNullLogger()
	log, err := wal.Open(f.dir, wal.WithLogger(logger))
	if err != nil {
		return err
	}
	logs, err := raft.NewLogCache(4*batch, log)
	if err != nil {
		return err
	}
	db, err := bolt.Open(filepath.Join(f.dir, "state.db"), 0o600, &bolt.Options{
		NoSync: true, NoGrowSync: true, NoFreelistSync: true, FreelistType: bolt.FreelistMapType, NoStatistics: true, InitialMmapSize: 16 << 30,
	})
	if err != nil {
		return err
	}
	conf := raft.DefaultConfig()
	conf.LocalID, conf.Logger, conf.NoLegacyTelemetry = raft.ServerID(f.id), logger, true
	conf.HeartbeatTimeout, conf.ElectionTimeout, conf.LeaderLeaseTimeout = time.Second, time.Second, 500*time.Millisecond
	conf.CommitTimeout, conf.MaxAppendEntries, conf.BatchApplyCh = 20*time.Millisecond, batch, true
	conf.SnapshotThreshold, conf.SnapshotInterval = 1<<40, time.Hour
	var servers []raft.Server
	listen := ""
	for _, node := range strings.Split(f.nodes, ",") {
		id, address, _ := strings.Cut(node, "=")
		servers = append(servers, raft.Server{ID: raft.ServerID(id), Address: raft.ServerAddress(address)})
		if id == f.id {
			listen = address
		}
	}
	if listen == "" {
		return errors.New("-id is none of -nodes")
	}
	transport, err := raft.NewTCPTransport(listen, nil, 3, 10*time.Second, io.Discard)
	if err != nil {
		return err
	}
	snapshots := raft.NewDiscardSnapshotStore()
	if err := raft.BootstrapCluster(conf, logs, log, snapshots, transport, raft.Configuration{Servers: servers}); err != nil {
		return err
	}
	f.raft, err = raft.NewRaft(conf, &machine{db}, logs, log, snapshots, transport)
	return err
}

// machine puts one record for each entry into bbolt, a batch in one transaction.
type machine struct{ db *bolt.DB }

func (m *machine) Apply(l *raft.Log) any { return m.ApplyBatch([]*raft.Log{l})[0] }

// ApplyBatch implements raft.BatchingFSM.
func (m *machine) ApplyBatch(logs []*raft.Log) []any {
	err := m.db.Update(func(tx *bolt.Tx) error {
		b, err := tx.CreateBucketIfNotExists(bucket)
		if err != nil {
			return err
		}
		for _, l := range logs {
			if len(l.Data) < 8 {
				continue
			}
			if err := b.Put(l.Data[:8], l.Data[:min(recordBytes, len(l.Data))]); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		panic(err) // a floor that lost entries would be none
	}
	return make([]any, len(logs))
}

func (m *machine) Snapshot() (raft.FSMSnapshot, error) { return nil, errors.New("no snapshots here") }

func (m *machine) Restore(io.ReadCloser) error { return errors.New("no snapshots here") }
