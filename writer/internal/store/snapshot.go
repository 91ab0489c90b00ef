package store

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/hashicorp/raft"
	bolt "go.etcd.io/bbolt"

	"github.com/latchkey/latchkey/pkg/entitlement"
	"github.com/latchkey/latchkey/pkg/fault"
	"github.com/latchkey/latchkey/replication"
)

// A Raft snapshot is a header, the state file as of one read transaction, and the journal's unsealed segment up to where that
// state says. Header: magic (8 bytes), size of the state file (8), size of the segment (8), big endian. Sealed segments are
// no part of it: who lacks one fetches it by its hash.
const (
	snapshotMagic  = "LKSNAP01"
	snapshotHeader = len(snapshotMagic) + 16
)

// errSnapshot means that a snapshot is not what was written.
var errSnapshot = errors.New("snapshot does not verify")

// snapshot is the state as of one read transaction, which it holds open until Release.
type snapshot struct {
	tx      *bolt.Tx
	journal *journal
	metrics *metrics
}

// Snapshot opens the read transaction; Persist does the work while entries are applied further.
func (f *fsm) Snapshot() (raft.FSMSnapshot, error) {
	f.commitNow()
	tx, err := f.begin()
	if err != nil {
		return nil, err
	}
	return &snapshot{tx: tx, journal: f.journal, metrics: f.metrics}, nil
}

// Persist writes the snapshot. The journal is on the disk before it returns: Raft then forgets the log that could rebuild it.
func (s *snapshot) Persist(sink raft.SnapshotSink) error {
	if err := s.write(sink); err != nil {
		return errors.Join(err, sink.Cancel())
	}
	fault.Point("snapshot-written")
	if err := sink.Close(); err != nil {
		return err
	}
	fault.Point("snapshot-named")
	s.metrics.snapshots.Inc()
	return nil
}

func (s *snapshot) write(w io.Writer) error {
	st, err := stateOf(s.tx)
	if err != nil {
		return err
	}
	if err := s.journal.sync(&st); err != nil {
		return err
	}
	return writeSnapshot(w, s.tx, &st, s.journal)
}

// writeSnapshot writes the state of tx, which is st, and the journal's unsealed segment.
func writeSnapshot(w io.Writer, tx *bolt.Tx, st *state, j *journal) error {
	header := append(make([]byte, 0, snapshotHeader), snapshotMagic...)
	header = binary.BigEndian.AppendUint64(header, uint64(tx.Size()))
	header = binary.BigEndian.AppendUint64(header, uint64(st.SegmentOffset))
	if _, err := w.Write(header); err != nil {
		return err
	}
	if _, err := tx.WriteTo(w); err != nil {
		return err
	}
	if st.SegmentOffset == 0 {
		return nil
	}
	tail, err := os.Open(j.path(st.Segment))
	if err != nil {
		return err
	}
	defer tail.Close() //nolint:errcheck // only read
	_, err = io.CopyN(w, tail, st.SegmentOffset)
	return err
}

// Release ends the read transaction.
func (s *snapshot) Release() { s.tx.Rollback() } //nolint:errcheck // a read transaction

func stateOf(tx *bolt.Tx) (st state, err error) {
	meta := tx.Bucket(bucketMeta)
	if meta == nil {
		return st, fmt.Errorf("%w: no meta", replication.ErrCorrupt)
	}
	if err := entitlement.Decode(meta.Get(stateKey), &st); err != nil {
		return st, fmt.Errorf("%w: %w", replication.ErrCorrupt, err)
	}
	return st, nil
}

// maxRestoresInARow is how many snapshots a leader may send with nothing applied between, each newer than the one before: while
// one is installed, the log behind it may be cut again.
const maxRestoresInARow = 4

// Restore puts a snapshot into the present state's place: it is written beside the present files, verified as a whole, and
// swapped in by renames. A crash before leaves the present files; one between the two renames leaves files that the next
// start makes anew.
func (f *fsm) Restore(source io.ReadCloser) error {
	f.commitNow()
	before := f.state.Applied
	if err := f.restore(source); err != nil {
		err = fmt.Errorf("restore snapshot: %w", err)
		if f.running.Load() || errors.Is(err, ErrRules) { // else Raft is starting, and tries the older snapshot
			f.fail(err)
		}
		return err
	}
	if f.running.Load() {
		f.restoresInARow++
		if f.restoresInARow > 1 && f.state.Applied == before || f.restoresInARow > maxRestoresInARow {
			f.fail(errRestoreLoop)
			return errRestoreLoop
		}
	}
	f.restored.Add(1)
	f.metrics.restores.Inc()
	f.fetchSegments()
	return nil
}

func (f *fsm) restore(source io.Reader) error {
	stateTmp, tailTmp := filepath.Join(f.dir, stateFile+".tmp"), filepath.Join(f.journal.dir, "tail.tmp")
	if err := unpack(source, stateTmp, tailTmp); err != nil {
		return err
	}
	db, err := openState(stateTmp, f.mmapBytes)
	if err != nil {
		return err
	}
	var st state
	if err = db.Update(makeBuckets); err == nil {
		st, err = verifyState(db)
	}
	if err == nil && st.Rules > f.rules {
		err = fmt.Errorf("a state of rules %d, this program knows %d: %w", st.Rules, f.rules, ErrRules)
	}
	if err == nil {
		err = verifyTail(tailTmp, &st)
	}
	if err == nil {
		err = f.disown() // until the new file is in its place
	}
	if err == nil {
		err = f.journal.open(&st, tailTmp)
	}
	if err == nil {
		fault.Point("restore-before-rename")
		err = os.Rename(stateTmp, filepath.Join(f.dir, stateFile))
		fault.Point("restore-after-rename")
	}
	if err == nil {
		err = syncDir(f.dir)
	}
	if err == nil {
		err = f.vouch()
	}
	if err != nil {
		return errors.Join(err, db.Close())
	}
	f.mu.Lock()
	old := f.db
	f.db = db
	f.missing.replaced() // at once: whoever sees the new state must not hear that it lacks nothing
	f.mu.Unlock()
	f.publish(st)
	// Close waits for the readers of the old file, and a snapshot may be reading it for long.
	f.closing.Go(func() {
		if err := old.Close(); err != nil {
			f.log.Error("close the replaced state file", "error", err)
		}
	})
	return nil
}

// unpack writes a snapshot's parts into two files and syncs them. Nothing may follow it.
func unpack(source io.Reader, statePath, tailPath string) error {
	r := bufio.NewReaderSize(source, 1<<20)
	if err := unpackParts(r, statePath, tailPath); err != nil {
		return err
	}
	if _, err := r.ReadByte(); err != io.EOF {
		return fmt.Errorf("%w: bytes after its end", errSnapshot)
	}
	return nil
}

func unpackParts(r io.Reader, statePath, tailPath string) error {
	var header [snapshotHeader]byte
	if _, err := io.ReadFull(r, header[:]); err != nil {
		return errors.Join(errSnapshot, err)
	}
	if !bytes.HasPrefix(header[:], []byte(snapshotMagic)) {
		return fmt.Errorf("%w: not a snapshot", errSnapshot)
	}
	sizes := header[len(snapshotMagic):]
	for i, path := range []string{statePath, tailPath} {
		if err := writeFile(path, r, int64(binary.BigEndian.Uint64(sizes[8*i:]))); err != nil {
			return err
		}
	}
	return nil
}

func writeFile(path string, r io.Reader, size int64) error {
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	if _, err = io.CopyN(file, r, size); err == nil {
		err = file.Sync()
	}
	return errors.Join(err, file.Close())
}

// verifyState recomputes every hash of a state file.
func verifyState(db *bolt.DB) (st state, err error) {
	err = db.View(func(tx *bolt.Tx) error {
		st, err = verifyTx(context.Background(), tx)
		return err
	})
	return st, err
}

// verifyTx is verifyState of one transaction. Errors: errSnapshot and replication.ErrCorrupt for what does not verify; ctx.Err.
func verifyTx(ctx context.Context, tx *bolt.Tx) (st state, err error) {
	if st, err = stateOf(tx); err != nil {
		return st, err
	}
	// The state of an earlier release lacks buckets that came later; where one is missing that held something, the full hash says so.
	for _, name := range [][]byte{bucketRecords, bucketChanges} {
		if tx.Bucket(name) == nil {
			return st, fmt.Errorf("%w: no bucket %s", errSnapshot, name)
		}
	}
	stateHash, err := hashRecords(ctx, tx)
	if err != nil {
		return st, err
	}
	full, err := hashRows(ctx, tx)
	if err != nil {
		return st, err
	}
	if stateHash != st.StateHash || full != st.FullHash {
		return st, fmt.Errorf("%w: state hash %s and full hash %s, computed %s and %s", errSnapshot, st.StateHash, st.FullHash, stateHash, full)
	}
	if k, row := tx.Bucket(bucketChanges).Cursor().Last(); k != nil && (!bytes.Equal(k, revisionKey(st.N)) || !bytes.Equal(row[8:40], st.Chain[:])) {
		return st, fmt.Errorf("%w: the change log ends elsewhere", errSnapshot)
	}
	return st, nil
}

// hashRecords computes the state hash anew; every record's checksum is tested. Errors: replication.ErrCorrupt, ctx.Err.
func hashRecords(ctx context.Context, tx *bolt.Tx) (sum replication.Hash, err error) {
	err = tx.Bucket(bucketRecords).ForEach(func(k, stored []byte) error {
		r, err := parseRecord(k, stored)
		if err == nil {
			sum = sum.Add(r.Hash())
		}
		return errors.Join(err, ctx.Err())
	})
	return sum, err
}

func parseRecord(k, stored []byte) (replication.Record, error) {
	env, kind, key, ok := replication.SplitDBKey(k)
	if !ok {
		return replication.Record{}, fmt.Errorf("record %q: %w", k, replication.ErrCorrupt)
	}
	r, err := replication.FromStored(env, kind, key, stored)
	if err != nil {
		return r, fmt.Errorf("record %q: %w", k, err)
	}
	return r, nil
}

// hashRows computes the full hash anew. Error: ctx.Err.
func hashRows(ctx context.Context, tx *bolt.Tx) (sum replication.Hash, err error) {
	var scratch []byte
	for _, name := range hashed {
		bucket := tx.Bucket(name)
		if bucket == nil {
			continue
		}
		c := bucket.Cursor()
		for k, v := c.First(); k != nil && ctx.Err() == nil; k, v = c.Next() {
			var h replication.Hash
			h, scratch = appendRowHash(scratch[:0], name, k, v)
			sum = sum.Add(h)
		}
	}
	return sum, ctx.Err()
}

func verifyTail(path string, st *state) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close() //nolint:errcheck // only read
	h := sha256.New()
	if n, err := io.Copy(h, file); err != nil || n != st.SegmentOffset || replication.Hash(h.Sum(nil)) != st.SegmentHash {
		return fmt.Errorf("journal tail: %w", errors.Join(errSnapshot, err))
	}
	return nil
}
