package store

import (
	"bufio"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/latchkey/latchkey/pkg/fault"
	"github.com/latchkey/latchkey/replication"
)

// journal keeps every command verbatim in log order, in segment files that are byte for byte the same on all nodes. How far
// it goes is part of the state: bytes past that are cut when a file is opened, so a crash between the two writes leaves
// nothing behind. It is written by the state machine's goroutine alone; files below the state's offset never change.
//
// An entry is its length (4 bytes), its CRC-32C (4 bytes), and the command's bytes. The first entry that passes the limit
// seals its segment.
type journal struct {
	dir   string
	limit int64

	file   *os.File // the unsealed segment; nil until the first use
	at     place    // where the next entry begins
	buffer []byte   // entries that are not in the file yet
	hash   hash.Hash
}

// place is where an entry of the journal begins.
type place struct {
	segment uint64
	offset  int64
}

const entryHeader = 8

var (
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
	emptyHash  = replication.Hash(sha256.Sum256(nil))
)

// errJournal means that the journal's files are not what the state says.
var errJournal = errors.New("journal does not fit the state")

func newJournal(dir string, limit int64) (*journal, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	return &journal{dir: dir, limit: limit, hash: sha256.New()}, nil
}

func (j *journal) path(segment uint64) string {
	return filepath.Join(j.dir, fmt.Sprintf("%08d.seg", segment))
}

// open cuts the journal to what st says and makes it ready for the next entry. tail, unless it is empty, is a file with the
// unsealed segment, which takes the place of what is here.
func (j *journal) open(st *state, tail string) error {
	if err := j.close(); err != nil {
		return err
	}
	path := j.path(st.Segment)
	if tail != "" {
		if err := os.Rename(tail, path); err != nil {
			return err
		}
	}
	numbers, err := segmentNumbers(j.dir)
	if err != nil {
		return err
	}
	for _, n := range numbers {
		if n > st.Segment {
			if err := os.Remove(j.path(n)); err != nil {
				return err
			}
		}
	}
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	j.file, j.at, j.buffer = file, place{st.Segment, st.SegmentOffset}, j.buffer[:0]
	if err := file.Truncate(st.SegmentOffset); err != nil {
		return err
	}
	j.hash.Reset()
	if n, err := io.Copy(j.hash, bufio.NewReaderSize(file, 1<<20)); err != nil || n != st.SegmentOffset || j.sum() != st.SegmentHash {
		return fmt.Errorf("segment %d, %d bytes of %d: %w", st.Segment, n, st.SegmentOffset, errors.Join(errJournal, err))
	}
	return syncDir(j.dir)
}

func (j *journal) sum() (h replication.Hash) {
	j.hash.Sum(h[:0])
	return h
}

// append adds an entry and returns where it begins.
func (j *journal) append(entry []byte) place {
	at := j.at
	from := len(j.buffer)
	j.buffer = binary.BigEndian.AppendUint32(j.buffer, uint32(len(entry)))
	j.buffer = binary.BigEndian.AppendUint32(j.buffer, crc32.Checksum(entry, castagnoli))
	j.buffer = append(j.buffer, entry...)
	j.hash.Write(j.buffer[from:])
	j.at.offset += int64(entryHeader + len(entry))
	return at
}

// full reports whether the segment is to be sealed.
func (j *journal) full() bool { return j.at.offset >= j.limit }

// seal syncs the segment, returns its number, hash and size, and starts the next one.
func (j *journal) seal() (at place, sum replication.Hash, err error) {
	at, sum = j.at, j.sum()
	if err := j.write(); err != nil {
		return at, sum, err
	}
	if err := j.file.Sync(); err != nil {
		return at, sum, err
	}
	next := &state{Segment: at.segment + 1, SegmentHash: emptyHash}
	return at, sum, j.open(next, "")
}

// flush brings the entries into the file and the journal's place into st.
func (j *journal) flush(st *state) error {
	if err := j.write(); err != nil {
		return err
	}
	st.Segment, st.SegmentOffset, st.SegmentHash = j.at.segment, j.at.offset, j.sum()
	return nil
}

func (j *journal) write() error {
	if len(j.buffer) == 0 {
		return nil
	}
	_, err := j.file.WriteAt(j.buffer, j.at.offset-int64(len(j.buffer)))
	fault.Point("journal-written")
	j.buffer = j.buffer[:0]
	return err
}

func (j *journal) close() error {
	if j.file == nil {
		return nil
	}
	err := j.file.Close()
	j.file = nil
	return err
}

// sync puts the unsealed segment of a state onto the disk. It is safe beside the state machine.
func (j *journal) sync(st *state) error {
	file, err := os.Open(j.path(st.Segment))
	if errors.Is(err, os.ErrNotExist) && st.SegmentOffset == 0 {
		return nil
	}
	if err != nil {
		return err
	}
	return errors.Join(file.Sync(), file.Close())
}

// read returns the entry at a place.
func (j *journal) read(at place) ([]byte, error) {
	file, err := os.Open(j.path(at.segment))
	if err != nil {
		return nil, err
	}
	defer file.Close() //nolint:errcheck // only read
	entry, err := readEntry(io.NewSectionReader(file, at.offset, entryHeader+MaxEntryBytes))
	if err != nil {
		return nil, fmt.Errorf("journal entry %d/%d: %w", at.segment, at.offset, err)
	}
	return entry, nil
}

// readEntry reads the next entry. Errors: io.EOF at the end, errJournal for bytes that are no entry.
func readEntry(r io.Reader) ([]byte, error) {
	var header [entryHeader]byte
	if _, err := io.ReadFull(r, header[:]); err != nil {
		if errors.Is(err, io.ErrUnexpectedEOF) {
			err = errJournal
		}
		return nil, err
	}
	size := binary.BigEndian.Uint32(header[:])
	if size > MaxEntryBytes {
		return nil, errJournal
	}
	entry := make([]byte, size)
	if _, err := io.ReadFull(r, entry); err != nil {
		return nil, errors.Join(errJournal, err)
	}
	if crc32.Checksum(entry, castagnoli) != binary.BigEndian.Uint32(header[4:]) {
		return nil, errJournal
	}
	return entry, nil
}

// walkJournal calls fn with every entry of a journal and where it begins, in order. A torn entry at the very end, which a crash leaves, ends it.
// Error: errJournal for a missing segment or one that is torn before the last.
func walkJournal(dir string, fn func(at place, entry []byte) error) error {
	numbers, err := segmentNumbers(dir)
	if err != nil {
		return err
	}
	for i, n := range numbers {
		if n != uint64(i+1) {
			return fmt.Errorf("segment %d is missing: %w", i+1, errJournal)
		}
		at := place{segment: n}
		each := func(entry []byte) error {
			defer func() { at.offset += int64(entryHeader + len(entry)) }()
			return fn(at, entry)
		}
		if err := walkSegment(filepath.Join(dir, fmt.Sprintf("%08d.seg", n)), i == len(numbers)-1, each); err != nil {
			return fmt.Errorf("segment %d: %w", n, err)
		}
	}
	return nil
}

func walkSegment(path string, last bool, fn func(entry []byte) error) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close() //nolint:errcheck // only read
	r := bufio.NewReaderSize(file, 1<<20)
	for {
		entry, err := readEntry(r)
		if err == io.EOF || last && errors.Is(err, errJournal) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := fn(entry); err != nil {
			return err
		}
	}
}

// segmentNumbers lists the segments of a journal, in order.
func segmentNumbers(dir string) ([]uint64, error) {
	files, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var numbers []uint64
	for _, f := range files {
		name, isSegment := strings.CutSuffix(f.Name(), ".seg")
		if n, err := strconv.ParseUint(name, 10, 64); isSegment && err == nil {
			numbers = append(numbers, n)
		}
	}
	slices.Sort(numbers)
	return numbers, nil
}

// syncDir makes renames and new files in dir durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
