package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	wal "github.com/hashicorp/raft-wal"
	bolt "go.etcd.io/bbolt"

	"github.com/latchkey/latchkey/pkg/entitlement"
)

// typical is a message of the size that Stripe's are: its allow-listed content is about 1.5 KB of JSON.
func typical(n int) Command {
	id := entitlement.AccountID(fmt.Sprintf("acc_%026d", n))
	sub := fmt.Sprintf("sub_%020d", n)
	ev := event("evt_"+sub, subscription(sub, int64(n), entitlement.Active, id, customer(fmt.Sprintf("cus_%016d", n))),
		invoice("in_"+sub, sub, "pi_"+sub, int64(n), entitlement.InvoicePaid))
	var raw bytes.Buffer
	raw.WriteString(`{"id":"` + ev.ID + `","object":"event","data":{"object":{`)
	for i := range 30 {
		fmt.Fprintf(&raw, `"field_%d":"value_%d_%s",`, i, n*i, ev.ID)
	}
	raw.WriteString(`"object":"subscription"}}}`)
	ev.Raw = raw.Bytes()
	c := record(ev)
	c.Stamp = startTime
	return c
}

// BenchmarkApplyBatch is the state machine's cost of a webhook: batches of 256 first messages of as many purchases, each of an
// account of its own, on a state that holds some already.
func BenchmarkApplyBatch(b *testing.B) {
	const size = 256
	m := newMachine(b, defaultSegmentBytes)
	var logs []*raft.Log
	flush := func() {
		if responses := m.ApplyBatch(logs); responses[0] == nil {
			b.Fatal(m.fault)
		}
		logs = logs[:0]
	}
	add := func(c Command) {
		m.index++
		logs = append(logs, &raft.Log{Index: m.index, Term: 1, Type: raft.LogCommand, Data: c.Encode()})
		if len(logs) == size {
			flush()
		}
	}
	for i := range 80 * size {
		add(NewCommand(TypeCreate, sandbox, fmt.Sprintf("c%d", i), &CreateAccount{ID: entitlement.AccountID(fmt.Sprintf("acc_%026d", i%(40*size)*7919%(40*size)))}))
	}
	n := 0
	b.ReportAllocs()
	for b.Loop() {
		b.StopTimer()
		for range size {
			m.index++
			logs = append(logs, &raft.Log{Index: m.index, Term: 1, Type: raft.LogCommand, Data: typical(n * 7919 % (40 * size)).Encode()})
			n++
		}
		b.StartTimer()
		flush()
	}
	b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N*size), "µs/command")
}

// BenchmarkPropose is a webhook's way through one node: proposal, synced log, state machine, answer; 256 in flight.
func BenchmarkPropose(b *testing.B) {
	nodes := startCluster(b, 1, nil)
	leader := leaderOf(b, nodes...)
	var n atomic.Int64
	b.SetParallelism(256)
	b.RunParallel(func(p *testing.PB) {
		for p.Next() {
			if _, err := leader.Propose(context.Background(), typical(int(n.Add(1))).Encode()); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkBareRaft is what BenchmarkPropose is held against: the same log store and entry size, and a state machine that puts one
// record of 600 bytes for each entry into bbolt.
func BenchmarkBareRaft(b *testing.B) {
	dir := b.TempDir()
	log, err := wal.Open(dir)
	if err != nil {
		b.Fatal(err)
	}
	db, err := openState(filepath.Join(dir, "state.db"), 1<<30)
	if err != nil {
		b.Fatal(err)
	}
	transport, err := raft.NewTCPTransport("127.0.0.1:0", nil, 1, time.Second, io.Discard)
	if err != nil {
		b.Fatal(err)
	}
	conf := raft.DefaultConfig()
	conf.LocalID, conf.Logger, conf.MaxAppendEntries, conf.BatchApplyCh = "w1", newHCLog(quiet()), maxAppendEntries, true
	servers := raft.Configuration{Servers: []raft.Server{{ID: "w1", Address: transport.LocalAddr()}}}
	snapshots := raft.NewDiscardSnapshotStore()
	if err := raft.BootstrapCluster(conf, log, log, snapshots, transport, servers); err != nil {
		b.Fatal(err)
	}
	r, err := raft.NewRaft(conf, &bareFSM{db: db}, log, log, snapshots, transport)
	if err != nil {
		b.Fatal(err)
	}
	<-r.LeaderCh()
	var n atomic.Int64
	b.SetParallelism(256)
	b.ResetTimer()
	b.RunParallel(func(p *testing.PB) {
		for p.Next() {
			if err := r.Apply(typical(int(n.Add(1))).Encode(), 0).Error(); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.StopTimer()
	if err := errors.Join(r.Shutdown().Error(), log.Close(), db.Close()); err != nil {
		b.Fatal(err)
	}
}

type bareFSM struct {
	db *bolt.DB
	n  uint64
}

func (f *bareFSM) Apply(l *raft.Log) any { return f.ApplyBatch([]*raft.Log{l})[0] }

func (f *bareFSM) ApplyBatch(logs []*raft.Log) []any {
	err := f.db.Update(func(tx *bolt.Tx) error {
		records, err := tx.CreateBucketIfNotExists([]byte("records"))
		if err != nil {
			return err
		}
		for range logs {
			f.n++
			if err := records.Put([]byte(fmt.Sprintf("sandbox/account/acc_%026d", f.n*7919%1_000_003)), make([]byte, 600)); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		panic(err)
	}
	return make([]any, len(logs))
}

func (f *bareFSM) Snapshot() (raft.FSMSnapshot, error) { return nil, raft.ErrNothingNewToSnapshot }

func (f *bareFSM) Restore(io.ReadCloser) error { return nil }
