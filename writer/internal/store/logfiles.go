package store

import (
	"bytes"
	"encoding/binary"
	"io"
	"sync/atomic"

	"github.com/hashicorp/go-hclog"
	wal "github.com/hashicorp/raft-wal"
	"github.com/hashicorp/raft-wal/fs"
	walsegment "github.com/hashicorp/raft-wal/segment"
	"github.com/hashicorp/raft-wal/types"
)

// logFiles are the files of raft-wal, read frugally. raft-wal reads 64 KiB for each entry, which has hardly 2: a writer that starts, or sends a follower
// what it missed, spent most of its time copying what nobody looks at.
type logFiles struct {
	*fs.FS
	// recovered is set once the log is open. Before, raft-wal looks for where the log ends, and must be given exactly what it asks for.
	recovered atomic.Bool
}

// openWAL opens the log in dir, which is made if there is none.
func openWAL(dir string, logger hclog.Logger) (*wal.WAL, error) {
	files := &logFiles{FS: fs.New()}
	log, err := wal.Open(dir, wal.WithLogger(logger), wal.WithSegmentFiler(walsegment.NewFiler(dir, files)))
	files.recovered.Store(err == nil)
	return log, err
}

// What raft-wal v0.4.2 does to read an entry. Source: segment/reader.go, readFrame, and segment/format.go.
const (
	// walRead is how much it asks for first. Less with io.EOF, as at the end of a file, suits it if the entry is in that; it reads a longer one anew, in its
	// exact length.
	walRead = 64 << 10
	// walFrame is the length of what stands before an entry: its kind, three zeros, the entry's length.
	walFrame = 8
	// shortRead holds nearly every entry with what stands before it.
	shortRead = 4 << 10
)

// walEntry begins a frame that holds an entry. Nothing else that is read in a piece of walRead bytes can begin so: the entries themselves begin
// with their index and term, and a term is not 0.
var walEntry = []byte{1, 0, 0, 0}

// OpenReader implements types.VFS.
func (l *logFiles) OpenReader(dir, name string) (types.ReadableFile, error) {
	f, err := l.FS.OpenReader(dir, name)
	if err != nil {
		return nil, err
	}
	return readableLog{f, l}, nil
}

// OpenWriter implements types.VFS.
func (l *logFiles) OpenWriter(dir, name string) (types.WritableFile, error) {
	return l.writable(l.FS.OpenWriter(dir, name))
}

// Create implements types.VFS.
func (l *logFiles) Create(dir, name string, size uint64) (types.WritableFile, error) {
	return l.writable(l.FS.Create(dir, name, size))
}

func (l *logFiles) writable(f types.WritableFile, err error) (types.WritableFile, error) {
	if err != nil {
		return nil, err
	}
	return writableLog{f, l}, nil
}

type readableLog struct {
	types.ReadableFile
	files *logFiles
}

// ReadAt implements io.ReaderAt.
func (f readableLog) ReadAt(p []byte, at int64) (int, error) {
	return f.files.readAt(f.ReadableFile, p, at)
}

type writableLog struct {
	types.WritableFile
	files *logFiles
}

// ReadAt implements io.ReaderAt.
func (f writableLog) ReadAt(p []byte, at int64) (int, error) {
	return f.files.readAt(f.WritableFile, p, at)
}

// readAt reads less than it is asked for, with io.EOF, where that holds the whole entry that is wanted.
func (l *logFiles) readAt(file io.ReaderAt, p []byte, at int64) (int, error) {
	if len(p) != walRead || !l.recovered.Load() {
		return file.ReadAt(p, at)
	}
	n, err := file.ReadAt(p[:shortRead], at)
	if err != nil {
		return n, err
	}
	if bytes.HasPrefix(p, walEntry) && binary.LittleEndian.Uint32(p[len(walEntry):]) <= shortRead-walFrame {
		return n, io.EOF
	}
	more, err := file.ReadAt(p[shortRead:], at+shortRead)
	return n + more, err
}
