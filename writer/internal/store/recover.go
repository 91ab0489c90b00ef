package store

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/hashicorp/raft"
	bolt "go.etcd.io/bbolt"

	"github.com/latchkey/latchkey/pkg/entitlement"
	"github.com/latchkey/latchkey/pkg/fault"
)

// A restore makes, in an empty folder, what Raft takes for a node that has just taken a snapshot: the state and the journal of the source, with a
// mark that holds the state back until a leader has raised the epoch, and the new voters. From the same source and the same voters the
// snapshot is the same byte for byte on every node, so that each voter may be restored by itself.

var (
	// ErrNotEmpty means that the folder to restore into holds something.
	ErrNotEmpty = errors.New("folder is not empty")
	// ErrHalfRestored means that a restore into the folder did not end: delete the folder and restore again.
	ErrHalfRestored = errors.New("a restore into this folder was not finished")
	// ErrRemoved means that a voter to be was removed from the cluster: an id is never used again.
	ErrRemoved = errors.New("was removed from the cluster, and an id is never used again")
	// ErrOtherCluster means that what is to be restored belongs to another cluster.
	ErrOtherCluster = errors.New("of another cluster")
)

// restoringFile is there from a restore's first step to its last.
const restoringFile = "restoring"

// RestoreConfig says where to restore to.
type RestoreConfig struct {
	Dir          string // of the new node; missing or empty
	Cluster      string // must be that of the source
	Voters       []Voter
	Progress     Progress // may be nil
	SegmentBytes int64    // as Config has it

	InitialMmapBytes int // as Config has it
}

// Restore founds a new history of the cluster in cfg.Dir from the backup at path, which it verifies. Each of cfg.Voters is to be restored from the
// same backup before a majority of them is started. Errors: ErrNotEmpty, ErrBackup, ErrOtherCluster, ErrRemoved, that
// of ctx.
func Restore(ctx context.Context, cfg RestoreConfig, path string) (Contents, error) {
	return restore(cfg, func() (Contents, error) {
		return unpackBackup(ctx, path, cfg.Dir, true, cfg.Progress)
	})
}

// RestoreNode founds a new history of the cluster in cfg.Dir from the data folder of a node that does not run: its newest snapshot and every
// entry of its log, committed or not, as nobody is left who could tell. The old folder is only read. Journal segments that are missing or
// damaged there are left out and named. Errors: ErrNotEmpty, ErrOtherCluster, replication.ErrCorrupt for a damaged log, that of ctx.
func RestoreNode(ctx context.Context, cfg RestoreConfig, from string) (Contents, error) {
	return restore(cfg, func() (Contents, error) { return rebuild(ctx, cfg, from) })
}

// restore surrounds what brings state.db and the journal into cfg.Dir.
func restore(cfg RestoreConfig, fetch func() (Contents, error)) (c Contents, err error) {
	lock, err := occupy(cfg.Dir)
	if err != nil {
		return c, err
	}
	defer func() { err = errors.Join(err, lock.Close()) }()
	if c, err = fetch(); err != nil {
		return c, err
	}
	if c.Cluster != cfg.Cluster {
		return c, fmt.Errorf("%w: it is %q, configured is %q", ErrOtherCluster, c.Cluster, cfg.Cluster)
	}
	fault.Point("restore-before-base")
	if err := writeBase(cfg); err != nil {
		return c, fmt.Errorf("found the new history: %w", err)
	}
	fault.Point("restore-before-end")
	return c, errors.Join(os.Remove(filepath.Join(cfg.Dir, restoringFile)), syncDir(cfg.Dir))
}

// occupy makes the empty folder dir one that is being restored into.
func occupy(dir string) (*os.File, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	files, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	if len(files) > 0 {
		return nil, fmt.Errorf("%w: %s holds %s", ErrNotEmpty, dir, files[0].Name())
	}
	if err := os.WriteFile(filepath.Join(dir, restoringFile), nil, 0o600); err != nil {
		return nil, err
	}
	if err := syncDir(dir); err != nil {
		return nil, err
	}
	return lockDir(dir)
}

// rebuild puts the newest state of the node whose folder is from into cfg.Dir.
func rebuild(ctx context.Context, cfg RestoreConfig, from string) (c Contents, err error) {
	if _, err := os.Stat(filepath.Join(from, "raft")); err != nil {
		return c, fmt.Errorf("%s is no writer's data folder: %w", from, err)
	}
	lock, err := lockDir(from)
	if err != nil {
		return c, err
	}
	defer func() { err = errors.Join(err, lock.Close()) }()
	// Copies, because opening a log may change it and folding it changes the journal.
	logCopy := filepath.Join(cfg.Dir, "raft.tmp")
	total, err := sizeOf(filepath.Join(from, "raft"), filepath.Join(from, "journal"))
	if err != nil {
		return c, err
	}
	var done int64
	progress := func(n int64) {
		if done += n; cfg.Progress != nil {
			cfg.Progress(done, total)
		}
	}
	if err := copyFiles(ctx, filepath.Join(from, "raft"), logCopy, progress); err != nil {
		return c, err
	}
	if err := copyFiles(ctx, filepath.Join(from, "journal"), filepath.Join(cfg.Dir, "journal"), progress); err != nil {
		return c, err
	}
	f, lost, err := fold(cfg, from, logCopy)
	if err != nil {
		return c, err
	}
	st, _, _, _ := f.current()
	sealed, err := f.sealedSegments()
	if err != nil {
		return c, errors.Join(err, f.close())
	}
	c = st.contents(sealed)
	c.LostEntries = lost
	buffer := make([]byte, copyBuffer)
	for _, seg := range sealed {
		path := f.journal.path(seg.number)
		if err := copySegment(io.Discard, path, seg, buffer); err != nil {
			c.Missing = append(c.Missing, seg.number)
			if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
				return c, errors.Join(err, f.close())
			}
		}
	}
	return c, errors.Join(f.journal.sync(&st), f.close(), os.RemoveAll(logCopy))
}

// fold brings the newest good snapshot of from and the entries of the log at logDir after it into a state machine in cfg.Dir. lost is how many entries
// the log once had and has no more.
func fold(cfg RestoreConfig, from, logDir string) (f *fsm, lost uint64, err error) {
	segmentBytes, mmapBytes := cfg.SegmentBytes, cfg.InitialMmapBytes
	orDefault(&segmentBytes, defaultSegmentBytes, segmentBytes == 0)
	orDefault(&mmapBytes, defaultInitialMmapBytes, mmapBytes == 0)
	j, err := newJournal(filepath.Join(cfg.Dir, "journal"), segmentBytes)
	if err != nil {
		return nil, 0, err
	}
	m, err := newMetrics(nil)
	if err != nil {
		return nil, 0, err
	}
	var failure error
	if f, err = newFSM(cfg.Dir, mmapBytes, j, slog.New(slog.DiscardHandler), m, func(err error) { failure = err }); err != nil {
		return nil, 0, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.close())
		}
	}()
	if err := restoreNewest(f, from); err != nil {
		return nil, 0, err
	}
	log, err := openLog(logDir)
	if err != nil {
		return nil, 0, err
	}
	defer func() { err = errors.Join(err, log.Close()) }()
	if lost, err = log.lost(logDir); err != nil {
		return nil, 0, err
	}
	st, _, _, _ := f.current()
	first, err := log.FirstIndex()
	if err != nil {
		return nil, 0, err
	}
	last, err := log.LastIndex()
	if err != nil {
		return nil, 0, err
	}
	if last > st.Applied && first > st.Applied+1 {
		return nil, 0, fmt.Errorf("%w: the log begins at %d, the newest good snapshot ends at %d", errSnapshot, first, st.Applied)
	}
	var batch []*raft.Log
	for index := st.Applied + 1; index <= last; index++ {
		entry := new(raft.Log)
		if err := log.GetLog(index, entry); err != nil {
			return nil, 0, err
		}
		if entry.Type == raft.LogCommand || entry.Type == raft.LogConfiguration { // as Raft does
			batch = append(batch, entry)
		}
		if len(batch) == maxAppendEntries || index == last && len(batch) > 0 {
			f.ApplyBatch(batch)
			batch = nil
		}
		if failure != nil {
			return nil, 0, failure
		}
	}
	if st, _, _, _ = f.current(); st.Epoch == 0 {
		return nil, 0, fmt.Errorf("%s holds no cluster", from)
	}
	return f, lost, nil
}

// openLog opens a Raft log that nobody writes.
func openLog(dir string) (*disk, error) {
	log, err := openWAL(dir, newHCLog(slog.New(slog.DiscardHandler)))
	if err != nil {
		return nil, fmt.Errorf("open raft log: %w", err)
	}
	return &disk{WAL: log, fatal: func(error) {}, timeout: defaultStoreTimeout, sync: func(float64) {}}, nil
}

// lost is how many entries the log, which lies in dir, once had at its end and has no more.
func (d *disk) lost(dir string) (uint64, error) {
	file, err := os.Open(filepath.Join(dir, logMarkFile))
	if errors.Is(err, os.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	defer file.Close() //nolint:errcheck // only read
	marked, err := (&logMark{file}).read()
	if err != nil {
		return 0, err
	}
	last, err := d.LastIndex()
	if err != nil || last == 0 { // a snapshot may have taken its place
		return 0, err
	}
	return marked - min(last, marked), nil
}

// restoreNewest restores the newest snapshot of the data folder from that is good. None at all is no error: the log begins at the beginning then.
func restoreNewest(f *fsm, from string) error {
	list, err := listSnapshots(from)
	if err != nil {
		return err
	}
	var errs []error
	for _, snap := range list {
		source, err := snap.open()
		if err == nil {
			err = errors.Join(f.Restore(source), source.Close())
		}
		if err == nil {
			return nil
		}
		errs = append(errs, fmt.Errorf("snapshot %s: %w", snap.ID, err))
	}
	return errors.Join(errs...)
}

// sizeOf is the size of all files in some folders.
func sizeOf(dirs ...string) (total int64, err error) {
	for _, dir := range dirs {
		files, err := os.ReadDir(dir)
		if err != nil {
			return 0, err
		}
		for _, file := range files {
			info, err := file.Info()
			if err != nil {
				return 0, err
			}
			total += info.Size()
		}
	}
	return total, nil
}

// copyFiles copies the files of a folder into a new one.
func copyFiles(ctx context.Context, from, to string, progress func(int64)) error {
	if err := os.MkdirAll(to, 0o700); err != nil {
		return err
	}
	files, err := os.ReadDir(from)
	if err != nil {
		return err
	}
	for _, file := range files {
		if file.Type().IsRegular() {
			if err := copyFile(ctx, filepath.Join(from, file.Name()), filepath.Join(to, file.Name()), progress); err != nil {
				return err
			}
		}
	}
	return nil
}

func copyFile(ctx context.Context, from, to string, progress func(int64)) error {
	source, err := os.Open(from)
	if err != nil {
		return err
	}
	defer source.Close() //nolint:errcheck // only read
	target, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	reader := readerFunc(func(b []byte) (int, error) {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		n, err := source.Read(b)
		progress(int64(n))
		return n, err
	})
	if _, err = io.CopyBuffer(struct{ io.Writer }{target}, reader, make([]byte, copyBuffer)); err == nil {
		err = target.Sync()
	}
	return errors.Join(err, target.Close())
}

// writeBase makes a held state of the one in cfg.Dir, and of that the snapshot from which Raft starts.
func writeBase(cfg RestoreConfig) error {
	path := filepath.Join(cfg.Dir, stateFile)
	// The array picks the same free pages everywhere, the map, which is faster, does not.
	db, err := bolt.Open(path, 0o600, &bolt.Options{Timeout: openTimeout, NoFreelistSync: true, FreelistType: bolt.FreelistArrayType})
	if err != nil {
		return err
	}
	var st state
	err = db.Update(func(tx *bolt.Tx) error {
		if err := makeBuckets(tx); err != nil { // of an earlier release
			return err
		}
		if st, err = stateOf(tx); err != nil {
			return err
		}
		rows, err := (&Reader{tx: tx}).memberRows()
		if err != nil {
			return err
		}
		for _, v := range cfg.Voters {
			if rows[v.ID].RemovedAt != 0 {
				return fmt.Errorf("voter %q %w", v.ID, ErrRemoved)
			}
		}
		sum := sha256.Sum256(entitlement.Encode(&st))
		st.Base, st.Held = hex.EncodeToString(sum[:]), true
		return tx.Bucket(bucketMeta).Put(stateKey, entitlement.Encode(&st))
	})
	if err == nil {
		err = writeRaft(cfg, db, &st)
	}
	// Derived from the snapshot: the first start makes it.
	return errors.Join(err, db.Close(), os.Remove(path), disown(cfg.Dir))
}

// currentTermKey is where Raft keeps its term.
var currentTermKey = []byte("CurrentTerm")

// writeRaft writes the snapshot and the term of a node that knows nothing newer than st.
func writeRaft(cfg RestoreConfig, db *bolt.DB, st *state) error {
	j, err := newJournal(filepath.Join(cfg.Dir, "journal"), defaultSegmentBytes)
	if err != nil {
		return err
	}
	snapshots, err := raft.NewFileSnapshotStoreWithLogger(cfg.Dir, retainSnapshots, newHCLog(slog.New(slog.DiscardHandler)))
	if err != nil {
		return err
	}
	var configuration raft.Configuration
	for _, v := range cfg.Voters {
		configuration.Servers = append(configuration.Servers, raft.Server{Suffrage: raft.Voter, ID: raft.ServerID(v.ID), Address: raft.ServerAddress(v.Addr)})
	}
	_, encoder := raft.NewInmemTransport("") // names the voters in the form that Raft's oldest versions read
	sink, err := snapshots.Create(raft.SnapshotVersionMax, st.Applied, st.AppliedTerm, configuration, st.Applied, encoder)
	if err != nil {
		return err
	}
	err = db.View(func(tx *bolt.Tx) error { return writeSnapshot(sink, tx, st, j) })
	if err != nil {
		return errors.Join(err, sink.Cancel())
	}
	if err := sink.Close(); err != nil {
		return err
	}
	dir := filepath.Join(cfg.Dir, "raft")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	log, err := openLog(dir)
	if err != nil {
		return err
	}
	return errors.Join(log.SetUint64(currentTermKey, st.AppliedTerm), log.Close(), syncDir(dir), syncDir(cfg.Dir))
}

// laterInterval is how often the clock is looked at that must go on before an epoch is raised.
const laterInterval = 20 * time.Millisecond

// later returns when the clock is past the second in which this node started, or at once where it leads no more: an epoch is a time in
// seconds, and the history of a restore before this one, from the same backup, may have begun in that very second.
func (s *Store) later() {
	tick := time.NewTicker(laterInterval)
	defer tick.Stop()
	for s.clock().Unix() <= s.started && s.raft.State() == raft.Leader {
		select {
		case <-tick.C:
		case <-s.ctx.Done():
			return
		}
	}
}

// raise begins the new epoch of a restored state, as the first thing that its first leader does. Nobody acts as the leader before.
func (s *Store) raise() error {
	st, _, _, _ := s.fsm.current()
	if !st.Held {
		return nil
	}
	s.later()
	command := NewCommand(TypeRaiseEpoch, "", "", &RaiseEpoch{Cause: "restore"})
	command.Stamp = s.firstStamp()
	if err := s.raft.Apply(command.Encode(), transportTimeout).Error(); err != nil {
		return fmt.Errorf("raise the epoch: %w", err)
	}
	s.fsm.commitNow()
	raised, _, _, _ := s.fsm.current()
	s.log.Warn("a new epoch has begun after a restore", "epoch", raised.Epoch, "restored_epoch", st.Epoch, "revision", raised.N)
	return nil
}

// refuseUnfinished keeps a node from starting on a folder that is not to be started on. Errors: ErrHalfRestored, ErrSuperseded.
func refuseUnfinished(dir string) error {
	if _, err := os.Stat(filepath.Join(dir, restoringFile)); !errors.Is(err, os.ErrNotExist) {
		return errors.Join(fmt.Errorf("%w: delete %s and restore again", ErrHalfRestored, dir), err)
	}
	text, err := os.ReadFile(filepath.Join(dir, supersededFile))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return errors.Join(fmt.Errorf("%w: %s", ErrSuperseded, bytes.TrimSpace(text)), err)
}
