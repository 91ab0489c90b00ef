package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"

	"github.com/hashicorp/raft"
	wal "github.com/hashicorp/raft-wal"
)

// errLogShort means that the log ends before entries that this node has acknowledged: its disk lost them. The node must not vote again under its id.
var errLogShort = errors.New("the log is shorter than it was")

// logMark remembers how far the log went. raft-wal cannot: a bit that flips in the header of a frame, or anywhere in the last batch, looks like a
// write that the power cut short, and the log then ends there without a word. Such a node would vote without what it has promised to know, and
// an acknowledged event could be lost although only one disk is bad.
//
// It is written after each batch and not synced, so that it costs a microsecond: the death of the process leaves it whole, and after a
// power loss it may be older than the log, never newer. Only where the log becomes shorter in good order it is synced first.
// A nil one remembers nothing.
type logMark struct{ file *os.File }

// logMarkFile lies beside the log.
const logMarkFile = "last"

// A mark is the index of the log's last entry and its CRC-32C.
const logMarkBytes = 12

// openLogMark opens or makes the mark, and compares it with how far the log and the newest snapshot go. Error: errLogShort.
func openLogMark(path string, log *wal.WAL, snapshots raft.SnapshotStore) (*logMark, error) {
	last, err := log.LastIndex()
	if err != nil {
		return nil, err
	}
	taken, err := snapshots.List() // the newest first
	if err != nil {
		return nil, err
	}
	if len(taken) > 0 {
		last = max(last, taken[0].Index) // what is in a snapshot may be gone from the log
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	m := &logMark{f}
	marked, err := m.read()
	if err == nil && last < marked {
		err = fmt.Errorf("%w: it ends at %d and went to %d; treat this disk as lost", errLogShort, last, marked)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return m, nil
}

// read returns the mark; 0 for one that is not there or was torn by a power loss.
func (m *logMark) read() (uint64, error) {
	var b [logMarkBytes]byte
	if _, err := m.file.ReadAt(b[:], 0); err != nil {
		if errors.Is(err, io.EOF) {
			return 0, nil
		}
		return 0, err
	}
	if crc32.Checksum(b[:8], castagnoli) != binary.BigEndian.Uint32(b[8:]) {
		return 0, nil
	}
	return binary.BigEndian.Uint64(b[:]), nil
}

// set moves the mark.
func (m *logMark) set(last uint64) error {
	if m == nil {
		return nil
	}
	var b [logMarkBytes]byte
	binary.BigEndian.PutUint64(b[:], last)
	binary.BigEndian.PutUint32(b[8:], crc32.Checksum(b[:8], castagnoli))
	_, err := m.file.WriteAt(b[:], 0)
	return err
}

// lower moves the mark back before the log is cut at its end.
func (m *logMark) lower(last uint64) error {
	if err := m.set(last); err != nil || m == nil {
		return err
	}
	return m.file.Sync()
}

func (m *logMark) close() error {
	if m == nil {
		return nil
	}
	return m.file.Close()
}
