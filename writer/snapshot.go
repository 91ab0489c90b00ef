package writer

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/latchkey/latchkey/pkg/problem"
	"github.com/latchkey/latchkey/replication"
	"github.com/latchkey/latchkey/writer/internal/store"
)

const (
	// A snapshot is served to whoever asks within this time, however many changes came since: an edge pulls those afterwards. Building
	// one reads every record, so a crowd of new edges must not cost more than a build now and then.
	snapshotAge = 30 * time.Second
	// snapshotEffort bounds the share of time that goes into building: a tenth.
	snapshotEffort = 10
	// snapshotUnchanged is how long one is served while nothing changes at all: its manifest's signature should not grow old.
	snapshotUnchanged = time.Hour
	// maxSnapshotReaders bounds how many edges download from this writer at one time. A snapshot goes out as fast as the network takes it, so more at a
	// time finish no earlier, while webhooks and changes share the same line.
	maxSnapshotReaders = 4
	// snapshotRetryAfter is what the others are told. They come back spread out over it, and hold what they have until then.
	snapshotRetryAfter = time.Second
	// minSnapshotRate is how fast an edge must take a snapshot on the whole, in bytes a second: one that hardly reads keeps its place from
	// the others. What it has by then is not lost, as it goes on from there.
	minSnapshotRate = 256 << 10
)

// spool builds snapshots into files, one at a time, and serves the newest to all. A file and not a stream: a slow edge must hold
// up no read transaction, which would make the state file grow.
type spool struct {
	dir   string
	spawn func(func()) // starts a goroutine that the writer waits for
	build func(file *os.File) (replication.Manifest, string, error)
	low   func() bool // the disk is nearly full: what is there is served for longer, and nothing is built

	mu      sync.Mutex
	current *spooled
	next    *spoolCall
	number  uint64
}

type spooled struct {
	path     string
	manifest replication.Manifest
	signed   string
	built    time.Time
	took     time.Duration
}

type spoolCall struct {
	done   chan struct{}
	result *spooled
	err    error
}

// newSpool empties dir: what is in it belongs to an earlier run.
func newSpool(dir string, spawn func(func()), build func(*os.File) (replication.Manifest, string, error), low func() bool) (*spool, error) {
	if err := os.RemoveAll(dir); err != nil {
		return nil, fmt.Errorf("empty spool: %w", err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make spool: %w", err)
	}
	return &spool{dir: dir, spawn: spawn, build: build, low: low}, nil
}

// get returns a snapshot that is good for a node at position now with the given floor of its change log, building one if there is none. Errors: errNoRoom,
// ctx.Err.
func (s *spool) get(ctx context.Context, now replication.Position, floor uint64) (*spooled, error) {
	s.mu.Lock()
	if s.current.good(now, floor) {
		defer s.mu.Unlock()
		return s.current, nil
	}
	if s.low() {
		defer s.mu.Unlock()
		if !s.current.usable(now, floor) {
			return nil, errNoRoom
		}
		return s.current, nil
	}
	call := s.next
	if call == nil {
		call = &spoolCall{done: make(chan struct{})}
		s.next = call
		s.number++
		path := filepath.Join(s.dir, fmt.Sprintf("snapshot-%d.zst", s.number))
		s.spawn(func() { s.run(call, path) })
	}
	s.mu.Unlock()
	select {
	case <-call.done:
		return call.result, call.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// usable reports whether an edge that takes c can go on from there.
func (c *spooled) usable(now replication.Position, floor uint64) bool {
	return c != nil && c.manifest.Epoch == now.Epoch && c.manifest.N >= floor
}

func (c *spooled) good(now replication.Position, floor uint64) bool {
	if !c.usable(now, floor) {
		return false
	}
	age := time.Since(c.built)
	if c.manifest.N == now.N {
		return age < snapshotUnchanged
	}
	return age < max(snapshotAge, snapshotEffort*c.took)
}

// run builds for one call, whoever still waits for it.
func (s *spool) run(call *spoolCall, path string) {
	began := time.Now()
	result := &spooled{path: path}
	var err error
	result.manifest, result.signed, err = s.write(path)
	result.built, result.took = time.Now(), time.Since(began)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.next = nil
	if err != nil {
		call.err = errors.Join(err, os.Remove(path))
	} else {
		if s.current != nil {
			_ = os.Remove(s.current.path) // downloads of it go on: they hold the file open
		}
		call.result, s.current = result, result
	}
	close(call.done)
}

func (s *spool) write(path string) (m replication.Manifest, signed string, err error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return m, "", fmt.Errorf("make snapshot: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	return s.build(f)
}

// buildSnapshot writes all records as of one read transaction, and signs what it wrote.
func (w *Writer) buildSnapshot(file *os.File) (replication.Manifest, string, error) {
	var m replication.Manifest
	err := w.store.View(func(r *store.Reader) error {
		info, err := replication.WriteSnapshot(file, r.Records)
		m = replication.Manifest{Position: r.Position(), Size: info.Size, SHA256: info.SHA256}
		return err
	})
	if err != nil {
		return m, "", err
	}
	now := w.now()
	signed, err := w.signer.sign(m.Claims(now.Unix()), now)
	if err != nil {
		return m, "", fmt.Errorf("sign manifest: %w", err)
	}
	w.metrics.snapshots.Inc()
	w.log.Info("snapshot for edges built", "revision", m.Revision().String(), "bytes", m.Size)
	return m, signed, nil
}

// handleSnapshot serves the newest snapshot, whole or in ranges, with its signed manifest in the header.
func (w *Writer) handleSnapshot(rw http.ResponseWriter, r *http.Request) error {
	select {
	case w.snapshotReaders <- struct{}{}:
		defer func() { <-w.snapshotReaders }()
	default:
		return problem.New(problem.Unavailable, "Too many edges download a snapshot.").After(snapshotRetryAfter)
	}
	position := w.store.Position()
	if position.Epoch == 0 {
		return problem.New(problem.Unavailable, "This writer has no data yet.").After(time.Second)
	}
	snapshot, err := w.spool.get(r.Context(), position, w.store.Stats().Floor)
	if errors.Is(err, errNoRoom) {
		return problem.New(problem.Unavailable, "This writer's disk is nearly full. Ask another one.").After(retryAfterNoRoom)
	}
	if err != nil {
		return err
	}
	file, err := os.Open(snapshot.path)
	if errors.Is(err, os.ErrNotExist) { // replaced between the two lines above
		return problem.New(problem.Unavailable, "A newer snapshot has just come.").After(time.Second)
	}
	if err != nil {
		return err
	}
	defer file.Close()
	h := rw.Header()
	h.Set("Content-Type", "application/zstd")
	h.Set(replication.ManifestHeader, snapshot.signed)
	h.Set("ETag", `"`+snapshot.manifest.SHA256.String()+`"`)
	h.Set("Cache-Control", "no-store")
	end := time.Now().Add(writeTimeout + time.Duration(snapshot.manifest.Size/minSnapshotRate)*time.Second)
	http.ServeContent(&boundedWriter{rw, end}, r, "", time.Time{}, file)
	return nil
}

// boundedWriter gives the peer writeTimeout for each piece, and until end for all of them.
type boundedWriter struct {
	http.ResponseWriter
	end time.Time
}

// Write implements io.Writer.
func (b *boundedWriter) Write(p []byte) (int, error) {
	deadline := time.Now().Add(writeTimeout)
	if deadline.After(b.end) {
		deadline = b.end
	}
	_ = http.NewResponseController(b.ResponseWriter).SetWriteDeadline(deadline)
	return b.ResponseWriter.Write(p)
}
