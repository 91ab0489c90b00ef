package store

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc64"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/hashicorp/raft"
	bolt "go.etcd.io/bbolt"

	"github.com/latchkey/latchkey/replication"
)

// Finding is what a check came to for one part of a data folder.
type Finding struct {
	Part   string `json:"part"` // "state.db", "snapshot 3-4711-...", "raft log", "journal segment 7", "journal"
	OK     bool   `json:"ok"`
	Detail string `json:"detail"` // what it holds, or what is wrong
}

// Report is the outcome of Fsck.
type Report struct {
	Findings []Finding `json:"findings"`
	Damaged  int       `json:"damaged"` // findings that are not OK
	Notes    []string  `json:"notes"`   // what is no damage but must be known
}

func (r *Report) add(part string, err error, format string, args ...any) {
	f := Finding{Part: part, OK: err == nil, Detail: fmt.Sprintf(format, args...)}
	if err != nil {
		f.Detail = err.Error()
		r.Damaged++
	}
	r.Findings = append(r.Findings, f)
}

// Fsck checks the data folder of a node that does not run, as far as one node's data can be checked: every hash of the state file and of each
// snapshot, the chain of the change log, the journal's entries and the segments' hashes, the checksums of Raft's log, and that they fit each
// other. It changes nothing; parts are unpacked into a folder beside dir. found is called with each finding as it comes. The error is of the check
// itself: a folder that is in use or none, ctx.
func Fsck(ctx context.Context, dir string, progress Progress, found func(Finding)) (r Report, err error) {
	if _, err := os.Stat(filepath.Join(dir, "raft")); err != nil {
		return r, fmt.Errorf("%s is no writer's data folder: %w", dir, err)
	}
	lock, err := lockDir(dir)
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, lock.Close()) }()
	work, err := os.MkdirTemp(filepath.Dir(filepath.Clean(dir)), "fsck-*.tmp")
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(work)) }()
	c := &check{dir: dir, work: work, told: found, report: &r}
	if c.snapshots, err = listSnapshots(dir); err != nil {
		return r, err
	}
	if err := c.measure(ctx, progress); err != nil {
		return r, err
	}
	for _, step := range []func(context.Context) error{c.state, c.eachSnapshot, c.log, c.journal} {
		if err := step(ctx); err != nil {
			return r, err
		}
	}
	c.notes()
	return r, nil
}

// check is one run of Fsck.
type check struct {
	dir, work string
	report    *Report
	told      func(Finding)
	step      func(int64) // so many bytes more are done
	snapshots []snapshotFile

	newest  *state    // of all good states
	sealed  []segment // as newest knows them
	covered uint64    // index of the newest good snapshot
}

func (c *check) finding(part string, err error, format string, args ...any) {
	c.report.add(part, err, format, args...)
	if c.told != nil {
		c.told(c.report.Findings[len(c.report.Findings)-1])
	}
}

// measure prepares the progress: everything is read once, the state file and snapshots some more times.
func (c *check) measure(ctx context.Context, progress Progress) error {
	total, err := sizeOf(filepath.Join(c.dir, "raft"), filepath.Join(c.dir, "journal"))
	if err != nil {
		return err
	}
	for _, s := range c.snapshots {
		total += s.Size
	}
	if info, err := os.Stat(filepath.Join(c.dir, stateFile)); err == nil {
		total += info.Size()
	}
	var done int64
	c.step = func(n int64) {
		if done += n; progress != nil {
			progress(done, total)
		}
	}
	return ctx.Err()
}

// good notes a state whose every hash holds.
func (c *check) good(st *state, sealed []segment) {
	if c.newest == nil || st.Applied > c.newest.Applied {
		c.newest, c.sealed = st, sealed
	}
}

func (c *check) state(context.Context) error {
	path := filepath.Join(c.dir, stateFile)
	info, err := os.Stat(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil // a start makes it
	}
	if err != nil {
		return err
	}
	st, sealed, err := examine(path)
	if err == nil {
		err = pagesFit(path)
	}
	if err == nil {
		c.good(&st, sealed)
	}
	c.finding("state.db", err, "%s", st.describe())
	c.step(info.Size())
	return nil
}

func (st *state) describe() string {
	return fmt.Sprintf("revision %s, state hash %s, full hash %s at index %d", st.position().Revision(), st.StateHash, st.FullHash, st.Applied)
}

// pagesFit checks how the file's pages hang together.
func pagesFit(path string) error {
	return unharmed(func() error {
		db, err := bolt.Open(path, 0o600, &bolt.Options{ReadOnly: true, PreLoadFreelist: true, Timeout: openTimeout})
		if err != nil {
			return err
		}
		defer db.Close() //nolint:errcheck // only read
		return db.View(func(tx *bolt.Tx) error {
			var first error
			for err := range tx.Check() {
				if first == nil {
					first = fmt.Errorf("%w: %w", replication.ErrCorrupt, err)
				}
			}
			return first
		})
	})
}

func (c *check) eachSnapshot(ctx context.Context) error {
	if len(c.snapshots) == 0 {
		c.report.Notes = append(c.report.Notes, "there is no snapshot yet: the log holds everything")
	}
	for _, snap := range c.snapshots {
		if err := ctx.Err(); err != nil {
			return err
		}
		st, sealed, err := snap.examine(c.work)
		if err == nil && st.Applied > snap.Index {
			err = fmt.Errorf("%w: its state is at index %d", errSnapshot, st.Applied)
		}
		if err == nil {
			c.good(&st, sealed)
			c.covered = max(c.covered, snap.Index)
		}
		c.finding("snapshot "+snap.ID, err, "%s", st.describe())
		c.step(snap.Size)
	}
	return nil
}

// log checks every entry of Raft's log in a copy.
func (c *check) log(ctx context.Context) error {
	copied := filepath.Join(c.work, "raft")
	if err := copyFiles(ctx, filepath.Join(c.dir, "raft"), copied, c.step); err != nil {
		return err
	}
	detail, err := c.readLog(ctx, copied)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	c.finding("raft log", err, "%s", detail)
	return os.RemoveAll(copied)
}

func (c *check) readLog(ctx context.Context, dir string) (detail string, err error) {
	log, err := openLog(dir)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, log.Close()) }()
	first, err := log.FirstIndex()
	if err != nil {
		return "", err
	}
	last, err := log.LastIndex()
	if err != nil {
		return "", err
	}
	lost, err := log.lost(dir)
	if err == nil && lost > 0 {
		err = fmt.Errorf("%w: %d entries are missing after %d", errLogShort, lost, last)
	}
	if err != nil {
		return "", err
	}
	vote, err := log.GetUint64(currentTermKey)
	if err != nil {
		return "", fmt.Errorf("the node's term: %w", err)
	}
	term := uint64(0)
	for index := first; index <= last && last > 0; index++ {
		if err := ctx.Err(); err != nil {
			return "", err
		}
		var entry raft.Log
		if err := log.GetLog(index, &entry); err != nil {
			return "", fmt.Errorf("entry %d: %w", index, err)
		}
		if entry.Index != index || entry.Term < term || entry.Term > vote {
			return "", fmt.Errorf("%w: entry %d says index %d and term %d after term %d; the node's term is %d", replication.ErrCorrupt, index, entry.Index, entry.Term, term, vote)
		}
		term = entry.Term
	}
	if last > 0 && first > c.covered+1 {
		return "", fmt.Errorf("%w: it begins at %d, the newest good snapshot ends at %d", replication.ErrCorrupt, first, c.covered)
	}
	if last == 0 {
		return fmt.Sprintf("empty, term %d", vote), nil
	}
	return fmt.Sprintf("entries %d to %d, term %d", first, last, vote), nil
}

// journal checks the sealed segments against the newest good state, and the entries of all.
func (c *check) journal(ctx context.Context) error {
	if c.newest == nil {
		c.finding("journal", fmt.Errorf("%w: no good state says what it must be", errJournal), "")
		return nil
	}
	buffer := make([]byte, copyBuffer)
	bad := c.report.Damaged
	for _, seg := range c.sealed {
		if err := ctx.Err(); err != nil {
			return err
		}
		path := c.segmentPath(seg.number)
		err := copySegment(io.Discard, path, seg, buffer)
		if err == nil {
			err = walkSegment(path, false, func([]byte) error { return nil })
		}
		if err != nil {
			c.finding(fmt.Sprintf("journal segment %d", seg.number), err, "")
		}
		c.step(seg.size)
	}
	st := c.newest
	err := cmp.Or(c.unsealed(st), c.after(st))
	c.step(st.SegmentOffset)
	if err == nil && bad == c.report.Damaged {
		c.finding("journal", nil, "%d sealed segments and %d bytes of segment %d", len(c.sealed), st.SegmentOffset, st.Segment)
	} else {
		c.finding("journal", cmp.Or(err, fmt.Errorf("%w: %d of %d sealed segments", errJournal, c.report.Damaged-bad, len(c.sealed))), "")
	}
	return nil
}

func (c *check) segmentPath(number uint64) string {
	return (&journal{dir: filepath.Join(c.dir, "journal")}).path(number)
}

// unsealed checks the unsealed segment as far as the state goes. What comes after belongs to entries of the log that the state lacks.
func (c *check) unsealed(st *state) error {
	path := c.segmentPath(st.Segment)
	if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) && st.SegmentOffset == 0 {
		return nil
	}
	seg := segment{number: st.Segment, sum: st.SegmentHash, size: st.SegmentOffset}
	return copySegment(io.Discard, path, seg, make([]byte, copyBuffer))
}

// after checks the entries of the segments that the newest good state does not know as sealed.
func (c *check) after(st *state) error {
	numbers, err := segmentNumbers(filepath.Join(c.dir, "journal"))
	if err != nil {
		return err
	}
	for i, n := range numbers {
		if n < st.Segment {
			continue
		}
		if err := walkSegment(c.segmentPath(n), i == len(numbers)-1, func([]byte) error { return nil }); err != nil {
			return fmt.Errorf("segment %d: %w", n, err)
		}
	}
	return nil
}

func (c *check) notes() {
	if err := refuseUnfinished(c.dir); err != nil {
		c.report.Notes = append(c.report.Notes, strings.SplitN(err.Error(), "\n", 2)[0])
	}
	if c.newest != nil && c.newest.Held {
		c.report.Notes = append(c.report.Notes, "restored, and no leader has raised the epoch yet")
	}
}

// verifyChanges walks the change log: dense, linked, and leading to where the state is. Error: replication.ErrCorrupt.
func verifyChanges(tx *bolt.Tx, st *state) error {
	n, size := st.Floor, int64(0)
	var chain, stateHash replication.Hash
	known := st.Floor == 0 // the chain before the first change
	err := tx.Bucket(bucketChanges).ForEach(func(k, row []byte) error {
		if n++; len(row) < changePrefix || !bytes.Equal(k, revisionKey(n)) {
			return fmt.Errorf("change log at revision %d: %w", n, replication.ErrCorrupt)
		}
		size += int64(len(k) + len(row))
		if next := replication.NextChain(chain, row[changePrefix:]); known && next != replication.Hash(row[8:40]) {
			return fmt.Errorf("chain at revision %d: %w", n, replication.ErrCorrupt)
		}
		chain, stateHash, known = replication.Hash(row[8:40]), replication.Hash(row[40:changePrefix]), true
		if len(row) < changePrefix+8 || binary.BigEndian.Uint64(row[changePrefix:]) != n {
			return fmt.Errorf("change %d: %w", n, replication.ErrCorrupt)
		}
		return nil
	})
	switch {
	case err != nil:
		return err
	case n != st.N || size != st.ChangeBytes:
		return fmt.Errorf("change log ends at %d with %d bytes, the state at %d with %d: %w", n, size, st.N, st.ChangeBytes, replication.ErrCorrupt)
	case n > st.Floor && (chain != st.Chain || stateHash != st.StateHash):
		return fmt.Errorf("change log leads to another state: %w", replication.ErrCorrupt)
	}
	return nil
}

// snapshotFile is one of Raft's snapshots as it lies on the disk. Raft's own reader is not used: it writes into the folder.
type snapshotFile struct {
	raft.SnapshotMeta
	CRC  []byte // CRC-64 of the content
	path string
}

// listSnapshots lists the snapshots of a data folder, the newest first. Ones that were not finished are left out, as Raft does.
func listSnapshots(dir string) (list []snapshotFile, err error) {
	base := filepath.Join(dir, "snapshots")
	entries, err := os.ReadDir(base)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	for _, entry := range entries {
		if !entry.IsDir() || strings.HasSuffix(entry.Name(), ".tmp") {
			continue
		}
		s := snapshotFile{path: filepath.Join(base, entry.Name(), "state.bin")}
		text, err := os.ReadFile(filepath.Join(base, entry.Name(), "meta.json"))
		if err != nil || json.Unmarshal(text, &s) != nil {
			s.CRC = nil // found damaged when it is opened
		}
		s.ID = entry.Name()
		list = append(list, s)
	}
	slices.SortFunc(list, func(a, b snapshotFile) int {
		return cmp.Or(cmp.Compare(b.Term, a.Term), cmp.Compare(b.Index, a.Index), cmp.Compare(b.ID, a.ID))
	})
	return list, nil
}

// open checks the content and opens it. Error: errSnapshot.
func (s *snapshotFile) open() (io.ReadCloser, error) {
	file, err := os.Open(s.path)
	if err != nil {
		return nil, err
	}
	sum := crc64.New(crc64.MakeTable(crc64.ECMA))
	if _, err = io.CopyBuffer(struct{ io.Writer }{sum}, file, make([]byte, copyBuffer)); err == nil && !bytes.Equal(sum.Sum(nil), s.CRC) {
		err = fmt.Errorf("%w: its checksum is another", errSnapshot)
	}
	if err == nil {
		_, err = file.Seek(0, io.SeekStart)
	}
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return file, nil
}

// examine unpacks the snapshot into the folder work and recomputes every hash.
func (s *snapshotFile) examine(work string) (st state, sealed []segment, err error) {
	source, err := s.open()
	if err != nil {
		return st, nil, err
	}
	defer source.Close() //nolint:errcheck // only read
	statePath, tail := filepath.Join(work, stateFile), filepath.Join(work, "tail")
	defer func() { err = errors.Join(err, os.RemoveAll(statePath), os.RemoveAll(tail)) }()
	if err := unpack(bufio.NewReaderSize(source, copyBuffer), statePath, tail); err != nil {
		return st, nil, err
	}
	if st, sealed, err = examine(statePath); err != nil {
		return st, nil, err
	}
	return st, sealed, verifyTail(tail, &st)
}
