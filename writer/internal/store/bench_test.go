package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"runtime"
	"sync/atomic"
	"syscall"
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
	ev.Raw = typicalRaw(ev.ID, n)
	c := record(ev)
	c.Stamp = startTime
	return c
}

func typicalRaw(id string, n int) []byte {
	var raw bytes.Buffer
	raw.WriteString(`{"id":"` + id + `","object":"event","data":{"object":{`)
	for i := range 30 {
		fmt.Fprintf(&raw, `"field_%d":"value_%d_%s",`, i, n*i, id)
	}
	raw.WriteString(`"object":"subscription"}}}`)
	return raw.Bytes()
}

// renewal is the next message of the same purchase: the subscription in its next period, and that period's invoice.
func renewal(n int) Command {
	id := entitlement.AccountID(fmt.Sprintf("acc_%026d", n))
	sub := fmt.Sprintf("sub_%020d", n)
	ev := event("evt2_"+sub, subscription(sub, int64(n)+1, entitlement.Active, id, customer(fmt.Sprintf("cus_%016d", n))),
		invoice("in2_"+sub, sub, "pi2_"+sub, int64(n)+1, entitlement.InvoicePaid))
	ev.Raw = typicalRaw(ev.ID, n)
	c := record(ev)
	c.Stamp = startTime
	return c
}

// BenchmarkApplyBatch is the state machine's cost of a webhook, in batches of 256 on a state of some 10,000 accounts: first messages of as
// many purchases, each of an account of its own; later messages of them; and messages that are known. Run it with -benchtime=40x: then each
// part has every account once.
func BenchmarkApplyBatch(b *testing.B) {
	const (
		size     = 256
		accounts = 40 * size
	)
	shuffled := func(i int) int { return i * 7919 % accounts }
	for _, part := range []struct {
		name    string
		before  func(int) Command // applied to all accounts first
		command func(int) Command
	}{
		{"first", nil, typical},
		{"later", typical, renewal},
		{"known", typical, typical},
	} {
		b.Run(part.name, func(b *testing.B) {
			m := newMachine(b, defaultSegmentBytes)
			var spent time.Duration
			apply := func(n int, command func(int) Command) {
				logs := make([]*raft.Log, size)
				for i := range logs {
					m.index++
					logs[i] = &raft.Log{Index: m.index, Term: 1, Type: raft.LogCommand, Data: command(shuffled(n*size + i)).Encode()}
				}
				before := cpuTime(b)
				b.StartTimer()
				responses := m.ApplyBatch(logs)
				b.StopTimer()
				spent += cpuTime(b) - before
				if responses[0] == nil {
					b.Fatal(m.fault)
				}
			}
			for n := range accounts / size {
				apply(n, func(i int) Command { return create(entitlement.AccountID(fmt.Sprintf("acc_%026d", i))) })
			}
			for n := 0; part.before != nil && n < accounts/size; n++ {
				apply(n, part.before)
			}
			runtime.GC()
			b.ReportAllocs()
			b.ResetTimer()
			b.StopTimer()
			spent = 0
			for n := range b.N {
				apply(n, part.command)
			}
			b.ReportMetric(float64(spent.Microseconds())/float64(b.N*size), "cpu-µs/command")
			b.ReportMetric(0, "ns/op")
		})
	}
}

// cpuTime is what this process has used so far: on a machine that others use too it says more than the time that passed.
func cpuTime(b *testing.B) time.Duration {
	var used syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &used); err != nil {
		b.Fatal(err)
	}
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}

// BenchmarkCommand is what a command costs outside of the state machine: the receiving node encodes it, each node decodes it.
func BenchmarkCommand(b *testing.B) {
	var ev RecordEvent
	if err := entitlement.Decode(typical(1).Body, &ev); err != nil {
		b.Fatal(err)
	}
	entry := typical(1).Encode()
	b.Run("encode", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			NewCommand(TypeRecordEvent, sandbox, "corr", &ev).Encode()
		}
		b.ReportMetric(float64(len(entry)), "bytes")
	})
	b.Run("decode", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if d := decodeEntry(entry); d.err != nil || d.bad {
				b.Fatal(d.err)
			}
		}
	})
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
