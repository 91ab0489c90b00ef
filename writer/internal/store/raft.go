package store

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
	wal "github.com/hashicorp/raft-wal"

	"github.com/latchkey/latchkey/pkg/fault"
)

// safeTransport switches Raft's heartbeat fast path off: it handles a heartbeat on the connection's goroutine, beside the
// main loop, so that a deposed leader can stamp an entry with a term it never won (hashicorp/raft#695).
type safeTransport struct{ *raft.NetworkTransport }

// SetHeartbeatHandler does nothing: heartbeats go through the main loop like every other request.
func (t safeTransport) SetHeartbeatHandler(handler func(raft.RPC)) {
	if fault.Planted("heartbeat-fast-path") {
		t.NetworkTransport.SetHeartbeatHandler(handler)
	}
}

// disk is Raft's log and votes. Any error of a write, and a call that does not return, ends the process: after a failed sync
// nobody knows what is on the disk, and a leader whose disk hangs still sends heartbeats (hashicorp/raft#503).
type disk struct {
	*wal.WAL
	fatal   func(error)
	timeout time.Duration
	sync    func(seconds float64) // metric
	late    late                  // empty but where a fault is planted
	mark    *logMark              // nil: nobody remembers how far the log went
}

func (d *disk) guard(what string, call func() error) error {
	watchdog := time.AfterFunc(d.timeout, func() {
		d.fatal(fmt.Errorf("%s has not returned for %s: the disk hangs", what, d.timeout))
	})
	defer watchdog.Stop()
	start := time.Now()
	if err := call(); err != nil {
		err = fmt.Errorf("%s: %w", what, err)
		d.fatal(err)
		return err
	}
	d.sync(time.Since(start).Seconds())
	return nil
}

// GetLog implements raft.LogStore. raft-wal goes on to find entries that were cut from the head of its newest file; for Raft
// they must be gone, so that what a follower gets does not depend on where files end. An entry that is not what was written ends the
// process: it must neither be applied nor passed on. Error: raft.ErrLogNotFound.
func (d *disk) GetLog(index uint64, l *raft.Log) error {
	first, err := d.FirstIndex()
	if err != nil {
		return err
	}
	if index < first {
		return raft.ErrLogNotFound
	}
	if err := d.WAL.GetLog(index, l); err != nil {
		return err
	}
	if err := verify(l); err != nil {
		err = fmt.Errorf("entry %d: %w", index, err)
		d.fatal(err)
		return err
	}
	return nil
}

// StoreLog implements raft.LogStore.
func (d *disk) StoreLog(l *raft.Log) error {
	return d.StoreLogs([]*raft.Log{l})
}

// StoreLogs implements raft.LogStore.
func (d *disk) StoreLogs(logs []*raft.Log) error {
	if fault.Planted("unsynced-log") {
		return d.storeLater(logs)
	}
	return d.guard("store log entries", func() error {
		fault.Point("log-before-sync")
		if err := d.WAL.StoreLogs(checksummed(logs)); err != nil {
			return err
		}
		fault.Point("log-after-sync")
		return d.mark.set(logs[len(logs)-1].Index)
	})
}

// DeleteRange implements raft.LogStore.
func (d *disk) DeleteRange(low, high uint64) error {
	if fault.Planted("unsynced-log") {
		d.storeLate()
	}
	return d.guard("delete log entries", func() error {
		last, err := d.LastIndex()
		if err == nil && high >= last { // the end is cut: entries that a leader never committed, or all behind a snapshot
			err = d.mark.lower(max(low, 1) - 1) // Raft cuts 0 to 0 where the log is empty
		}
		if err != nil {
			return err
		}
		return d.WAL.DeleteRange(low, high)
	})
}

// Set implements raft.StableStore.
func (d *disk) Set(key, value []byte) error {
	return d.guard("store vote", func() error {
		err := d.WAL.Set(key, value)
		fault.Point("vote-after-sync")
		return err
	})
}

// SetUint64 implements raft.StableStore.
func (d *disk) SetUint64(key []byte, value uint64) error {
	return d.guard("store term", func() error { return d.WAL.SetUint64(key, value) })
}

// openRaft starts this node's part in the cluster. A voter with an empty disk founds the cluster with the configured voters, once they have said that it
// may (founding.go): every one of them writes the identical first entry. Any other node waits to be added.
func (s *Store) openRaft() (err error) {
	cfg := &s.cfg
	defer func() {
		if err != nil {
			err = errors.Join(err, s.closeRaft())
		}
	}()
	dir := filepath.Join(cfg.Dir, "raft")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	logger := newHCLog(cfg.Logger)
	log, err := openWAL(dir, logger)
	if err != nil {
		return fmt.Errorf("open raft log: %w", err)
	}
	s.disk = &disk{WAL: log, fatal: s.fsm.fail, timeout: cfg.StoreTimeout, sync: s.metrics.logSeconds.Observe}
	snapshots, err := raft.NewFileSnapshotStoreWithLogger(cfg.Dir, retainSnapshots, logger)
	if err != nil {
		return fmt.Errorf("open snapshots: %w", err)
	}
	if s.disk.mark, err = openLogMark(filepath.Join(dir, logMarkFile), log, snapshots); err != nil {
		return fmt.Errorf("raft log: %w", err)
	}
	if s.logs, err = raft.NewLogCache(logCacheEntries, s.disk); err != nil {
		return err
	}

	var servers []raft.Server
	for _, v := range cfg.Voters {
		servers = append(servers, raft.Server{Suffrage: raft.Voter, ID: raft.ServerID(v.ID), Address: raft.ServerAddress(v.Addr)})
	}
	listener := cfg.Listener
	if listener == nil {
		if listener, err = net.Listen("tcp", cfg.Listen); err != nil {
			return fmt.Errorf("raft listener: %w", err)
		}
	}
	if s.founding, err = openFounding(cfg.Dir); err != nil {
		return fmt.Errorf("founding: %w", err)
	}
	known := make(chan struct{}) // which history the state belongs to: when the newest snapshot is restored
	defer close(known)
	s.ownAddr = raft.ServerAddress(cmp.Or(cfg.Advertise, cfg.Listen, listener.Addr().String()))
	s.transport = safeTransport{raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{
		Stream:                s.founding.layer(s.sameHistory(newStreamLayer(listener, cfg.Identity, cfg.Logger), known)),
		ServerAddressProvider: addresses{s},
		MaxPool:               transportPool,
		Timeout:               transportTimeout,
		Logger:                logger,
	})}

	conf := raft.DefaultConfig()
	conf.LocalID = raft.ServerID(cfg.ID)
	conf.HeartbeatTimeout, conf.ElectionTimeout, conf.LeaderLeaseTimeout = cfg.HeartbeatTimeout, cfg.HeartbeatTimeout, cfg.LeaderLease
	conf.CommitTimeout, conf.MaxAppendEntries, conf.BatchApplyCh = commitTimeout, maxAppendEntries, true
	conf.SnapshotThreshold, conf.TrailingLogs, conf.SnapshotInterval = cfg.SnapshotThreshold, cfg.TrailingLogs, cfg.SnapshotInterval
	conf.NotifyCh, conf.Logger, conf.NoLegacyTelemetry = s.notify, logger, true

	exists, err := raft.HasExistingState(s.logs, s.disk, snapshots)
	if err != nil {
		return fmt.Errorf("look for raft state: %w", err)
	}
	if _, founder := s.configured(cfg.ID); founder && !exists {
		if len(servers) > 1 && cfg.Ask != nil {
			if err := s.founding.begin(); err != nil {
				return fmt.Errorf("found the cluster: %w", err)
			}
		}
		if err := raft.BootstrapCluster(conf, s.logs, s.disk, snapshots, s.transport, raft.Configuration{Servers: servers}); err != nil {
			return fmt.Errorf("found the cluster: %w", err)
		}
	}
	if s.fsm.kept {
		fits, err := s.fsm.fits(s.disk, snapshots)
		if err == nil && !fits {
			err = s.fsm.discard()
		}
		if err != nil {
			return fmt.Errorf("keep the state: %w", err)
		}
	}
	conf.NoSnapshotRestoreOnStart = s.fsm.kept
	if s.raft, err = raft.NewRaft(conf, s.fsm, s.logs, s.disk, snapshots, s.transport); err != nil {
		return fmt.Errorf("start raft: %w", err)
	}
	s.fsm.running.Store(true)
	more := func(index uint64) bool { return s.raft.LastIndex() > index }
	s.fsm.more.Store(&more)
	return nil
}

func (s *Store) closeRaft() error {
	var errs []error
	if s.raft != nil {
		errs = append(errs, s.raft.Shutdown().Error())
	}
	if s.transport.NetworkTransport != nil {
		errs = append(errs, s.transport.Close())
	} else if s.cfg.Listener != nil {
		errs = append(errs, s.cfg.Listener.Close())
	}
	if s.disk != nil {
		errs = append(errs, s.disk.Close(), s.disk.mark.close())
	}
	return errors.Join(errs...)
}

// hcLog passes what Raft logs at warn and above to slog.
type hcLog struct {
	log  *slog.Logger
	name string
}

func newHCLog(log *slog.Logger) hclog.Logger { return &hcLog{log: log, name: "raft"} }

// Log implements hclog.Logger.
func (l *hcLog) Log(level hclog.Level, msg string, args ...any) {
	switch level {
	case hclog.Warn:
		l.log.Warn(msg, append([]any{"part", l.name}, plainArgs(args)...)...)
	case hclog.Error:
		l.log.Error(msg, append([]any{"part", l.name}, plainArgs(args)...)...)
	}
}

func plainArgs(args []any) []any {
	for i, a := range args {
		if f, ok := a.(hclog.Format); ok && len(f) > 0 {
			args[i] = fmt.Sprintf(fmt.Sprint(f[0]), f[1:]...)
		}
	}
	return args
}

func (l *hcLog) Trace(string, ...any)          {}
func (l *hcLog) Debug(string, ...any)          {}
func (l *hcLog) Info(string, ...any)           {}
func (l *hcLog) Warn(msg string, args ...any)  { l.Log(hclog.Warn, msg, args...) }
func (l *hcLog) Error(msg string, args ...any) { l.Log(hclog.Error, msg, args...) }
func (l *hcLog) IsTrace() bool                 { return false }
func (l *hcLog) IsDebug() bool                 { return false }
func (l *hcLog) IsInfo() bool                  { return false }
func (l *hcLog) IsWarn() bool                  { return true }
func (l *hcLog) IsError() bool                 { return true }
func (l *hcLog) ImpliedArgs() []any            { return nil }
func (l *hcLog) With(args ...any) hclog.Logger {
	return &hcLog{log: l.log.With(plainArgs(args)...), name: l.name}
}
func (l *hcLog) Name() string                     { return l.name }
func (l *hcLog) Named(name string) hclog.Logger   { return &hcLog{log: l.log, name: l.name + "." + name} }
func (l *hcLog) ResetNamed(n string) hclog.Logger { return &hcLog{log: l.log, name: n} }
func (l *hcLog) SetLevel(hclog.Level)             {}
func (l *hcLog) GetLevel() hclog.Level            { return hclog.Warn }
func (l *hcLog) StandardLogger(*hclog.StandardLoggerOptions) *log.Logger {
	return slog.NewLogLogger(l.log.Handler(), slog.LevelWarn)
}
func (l *hcLog) StandardWriter(*hclog.StandardLoggerOptions) io.Writer { return io.Discard }

// leadership tells who may act as the leader: this node, from the barrier of its term until it loses it.
type leadership struct {
	mu      sync.Mutex
	ctx     context.Context // of the present term, or nil
	cancel  context.CancelFunc
	term    uint64
	changed chan struct{} // closed when any of this changes
}

// current returns the term in which this node leads, or 0.
func (l *leadership) current() (term uint64, ctx context.Context, changed <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.term, l.ctx, l.changed
}

func (l *leadership) begin(ctx context.Context, cancel context.CancelFunc, term uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ctx, l.cancel, l.term = ctx, cancel, term
	close(l.changed)
	l.changed = make(chan struct{})
}

func (l *leadership) end() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.cancel != nil {
		l.cancel()
	}
	l.ctx, l.cancel, l.term = nil, nil, 0
	close(l.changed)
	l.changed = make(chan struct{})
}
