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
	"runtime/debug"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/latchkey/latchkey/replication"
)

// A backup is one file: magic (8 bytes), length of the body (8, big endian), the body, SHA-256 of the body (32). The body is a Raft snapshot
// (snapshot.go) and after it every sealed segment of the journal, in order; their sizes and hashes are in the snapshot's state.
const (
	backupMagic  = "LKBACK01"
	backupHeader = len(backupMagic) + 8
)

// ErrBackup means that a file is no backup, or not what was written.
var ErrBackup = errors.New("backup does not verify")

// openTimeout is how long a state file that another process has open is waited for.
const openTimeout = time.Second

// copyBuffer is the piece in which files are copied and hashed.
const copyBuffer = 1 << 20

// Progress is told now and then how many bytes of how many are done.
type Progress func(done, total int64)

// Backup is everything that a node holds as of one moment, ready to be written. Close it.
type Backup struct {
	// Position is how far it goes.
	Position replication.Position
	// Size is that of the whole file, in bytes.
	Size int64

	spool    *os.File // the snapshot; its name is gone already
	spooled  int64
	segments []segment
	journal  *journal
}

// Backup takes a backup. The state is copied beside the state file first, so that whoever takes the bytes slowly holds up nothing: as much
// space must be free. Errors: ErrNoSegment while sealed segments are still being fetched, ErrClosed.
func (s *Store) Backup() (b *Backup, err error) {
	s.fsm.commitNow()
	tx, err := s.fsm.begin()
	if err != nil {
		return nil, err
	}
	defer tx.Rollback() //nolint:errcheck // a read transaction
	st, err := stateOf(tx)
	if err != nil {
		return nil, err
	}
	b = &Backup{Position: st.position(), journal: s.fsm.journal}
	if b.segments, err = sealedIn(tx); err != nil {
		return nil, err
	}
	if s.fsm.missing.segments() > 0 {
		return nil, fmt.Errorf("this node still fetches journal segments from others: %w", ErrNoSegment)
	}
	if b.spool, err = os.CreateTemp(s.cfg.Dir, "backup-*.tmp"); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, b.Close())
		}
	}()
	if err := os.Remove(b.spool.Name()); err != nil {
		return nil, err
	}
	if err := writeSnapshot(b.spool, tx, &st, s.fsm.journal); err != nil {
		return nil, fmt.Errorf("copy the state: %w", err)
	}
	if b.spooled, err = b.spool.Seek(0, io.SeekEnd); err != nil {
		return nil, err
	}
	b.Size = int64(backupHeader) + b.spooled + sha256.Size
	for _, seg := range b.segments {
		b.Size += seg.size
	}
	return b, nil
}

// WriteTo writes the file. It stops with an error at a segment that is not what was sealed.
func (b *Backup) WriteTo(w io.Writer) (int64, error) {
	if _, err := b.spool.Seek(0, io.SeekStart); err != nil {
		return 0, err
	}
	header := append(make([]byte, 0, backupHeader), backupMagic...)
	header = binary.BigEndian.AppendUint64(header, uint64(b.Size-int64(backupHeader)-sha256.Size))
	if _, err := w.Write(header); err != nil {
		return 0, err
	}
	sum := sha256.New()
	body := io.MultiWriter(w, sum)
	buffer := make([]byte, copyBuffer)
	if _, err := io.CopyBuffer(body, io.LimitReader(b.spool, b.spooled), buffer); err != nil {
		return 0, err
	}
	for _, seg := range b.segments {
		if err := copySegment(body, b.journal.path(seg.number), seg, buffer); err != nil {
			return 0, err
		}
	}
	_, err := w.Write(sum.Sum(nil))
	return b.Size, err
}

// Close frees what the backup holds.
func (b *Backup) Close() error { return b.spool.Close() }

// copySegment copies a sealed segment that lies at path. Errors: errJournal, os.ErrNotExist.
func copySegment(w io.Writer, path string, seg segment, buffer []byte) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close() //nolint:errcheck // only read
	return passSegment(w, file, seg, buffer)
}

// passSegment copies a segment from r to w and checks it. Error: errJournal.
func passSegment(w io.Writer, r io.Reader, seg segment, buffer []byte) error {
	sum := sha256.New()
	n, err := io.CopyBuffer(io.MultiWriter(w, sum), io.LimitReader(r, seg.size), buffer)
	if err != nil {
		return fmt.Errorf("segment %d: %w", seg.number, err)
	}
	if n != seg.size || replication.Hash(sum.Sum(nil)) != seg.sum {
		return fmt.Errorf("segment %d is not what was sealed: %w", seg.number, errJournal)
	}
	return nil
}

// Contents says what a backup or a data folder holds.
type Contents struct {
	Cluster      string
	Position     replication.Position
	FullHash     replication.Hash
	Stamp        int64 // of the last command, Unix seconds
	AppliedIndex uint64
	Segments     int   // sealed segments of the journal
	JournalBytes int64 // of sealed segments and the unsealed one

	// What a node that founds a new history alone did not have: sealed segments that are missing or damaged, and entries that its log once had and
	// its disk lost.
	Missing     []uint64
	LostEntries uint64
}

func (st *state) contents(sealed []segment) Contents {
	c := Contents{Cluster: st.Cluster, Position: st.position(), FullHash: st.FullHash, Stamp: st.Stamp, AppliedIndex: st.Applied,
		Segments: len(sealed), JournalBytes: st.SegmentOffset}
	for _, seg := range sealed {
		c.JournalBytes += seg.size
	}
	return c
}

// VerifyBackup reads the whole backup at path and recomputes every hash that it states. The state is unpacked into a folder beside it, which is
// removed again. Progress counts what is read: all of it twice, as nothing is unpacked before the SHA-256 of the whole is right. Errors: ErrBackup, that of ctx.
func VerifyBackup(ctx context.Context, path string, progress Progress) (c Contents, err error) {
	work, err := os.MkdirTemp(filepath.Dir(path), "verify-*.tmp")
	if err != nil {
		return c, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(work)) }()
	return unpackBackup(ctx, path, work, false, progress)
}

// unpackBackup puts what the backup at path holds into the folder dir: state.db, and in journal/ the unsealed segment. The sealed ones
// are read and checked; keep puts them there too. Errors: ErrBackup, that of ctx.
func unpackBackup(ctx context.Context, path, dir string, keep bool, progress Progress) (c Contents, err error) {
	file, err := os.Open(path)
	if err != nil {
		return c, err
	}
	defer file.Close() //nolint:errcheck // only read
	info, err := file.Stat()
	if err != nil {
		return c, err
	}
	var header [backupHeader]byte
	if _, err := io.ReadFull(file, header[:]); err != nil || !bytes.HasPrefix(header[:], []byte(backupMagic)) {
		return c, fmt.Errorf("%w: %s is no backup", ErrBackup, path)
	}
	length := binary.BigEndian.Uint64(header[len(backupMagic):])
	if want := uint64(info.Size()) - uint64(backupHeader) - sha256.Size; length != want || info.Size() < int64(backupHeader)+sha256.Size {
		return c, fmt.Errorf("%w: %d bytes, %d are missing or too many", ErrBackup, info.Size(), int64(length-want))
	}
	// It is read twice: a state file that is damaged anywhere is never opened.
	section := func() io.Reader { return io.NewSectionReader(file, int64(backupHeader), int64(length)) }
	both := Counted(ctx, io.MultiReader(section(), section()), 2*int64(length), progress)
	defer func() {
		if err != nil && ctx.Err() != nil {
			err = ctx.Err()
		}
	}()
	sum := sha256.New()
	if _, err := io.CopyN(sum, both, int64(length)); err != nil {
		return c, fmt.Errorf("%w: %w", ErrBackup, err)
	}
	var want [sha256.Size]byte
	if _, err := file.ReadAt(want[:], info.Size()-sha256.Size); err != nil || !bytes.Equal(want[:], sum.Sum(nil)) {
		return c, fmt.Errorf("%w: its SHA-256 is another", ErrBackup)
	}
	body := bufio.NewReaderSize(both, copyBuffer)
	if c, err = unpackBody(body, dir, keep); err != nil {
		return c, fmt.Errorf("%w: %w", ErrBackup, err)
	}
	if _, err := body.ReadByte(); err != io.EOF {
		return c, fmt.Errorf("%w: bytes after the last segment", ErrBackup)
	}
	return c, nil
}

func unpackBody(r io.Reader, dir string, keep bool) (c Contents, err error) {
	j, err := newJournal(filepath.Join(dir, "journal"), defaultSegmentBytes)
	if err != nil {
		return c, err
	}
	statePath, tail := filepath.Join(dir, stateFile), filepath.Join(j.dir, "tail.tmp")
	if err := unpackParts(r, statePath, tail); err != nil {
		return c, err
	}
	st, sealed, err := examine(statePath)
	if err != nil {
		return c, err
	}
	if err := verifyTail(tail, &st); err != nil {
		return c, err
	}
	if err := os.Rename(tail, j.path(st.Segment)); err != nil {
		return c, err
	}
	buffer := make([]byte, copyBuffer)
	for _, seg := range sealed {
		if !keep {
			err = passSegment(io.Discard, r, seg, buffer)
		} else {
			err = keepSegment(j.path(seg.number), r, seg, buffer)
		}
		if err != nil {
			return c, err
		}
	}
	return st.contents(sealed), syncDir(j.dir)
}

func keepSegment(path string, r io.Reader, seg segment, buffer []byte) error {
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	if err = passSegment(file, r, seg, buffer); err == nil {
		err = file.Sync()
	}
	return errors.Join(err, file.Close())
}

// examine opens the state file at path for reading alone and recomputes every hash of it. Error: replication.ErrCorrupt and others for whatever
// is wrong with it; a damaged file never ends the process.
func examine(path string) (st state, sealed []segment, err error) {
	err = unharmed(func() error {
		db, err := bolt.Open(path, 0o600, &bolt.Options{ReadOnly: true, Timeout: openTimeout})
		if err != nil {
			return err
		}
		defer db.Close() //nolint:errcheck // only read
		if st, err = verifyState(db); err != nil {
			return err
		}
		return db.View(func(tx *bolt.Tx) error {
			if err := verifyChanges(tx, &st); err != nil {
				return err
			}
			sealed, err = sealedIn(tx)
			return err
		})
	})
	return st, sealed, err
}

// unharmed runs f, which reads a mapped file that may be damaged in any way, and turns every fault into an error.
func unharmed(f func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if fault := recover(); fault != nil {
			err = fmt.Errorf("%w: %v", replication.ErrCorrupt, fault)
		}
	}()
	return f()
}

// readerFunc is a Read method.
type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(b []byte) (int, error) { return f(b) }

// Counted tells progress what is read of r, and ends with ctx. progress may be nil.
func Counted(ctx context.Context, r io.Reader, total int64, progress Progress) io.Reader {
	var done int64
	return readerFunc(func(b []byte) (int, error) {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		n, err := r.Read(b)
		if done += int64(n); progress != nil {
			progress(done, total)
		}
		return n, err
	})
}
