package store

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/latchkey/latchkey/replication"
)

// segment is a sealed segment of the journal, as the state knows it.
type segment struct {
	number uint64
	sum    replication.Hash
	size   int64
}

// fetchRetry is how long to wait after a segment could not be fetched.
const fetchRetry = 2 * time.Second

// sealedSegments lists what the state says was sealed.
func (f *fsm) sealedSegments() (list []segment, err error) {
	err = f.view(func(r *Reader) error {
		list, err = sealedIn(r.tx)
		return err
	})
	return list, err
}

// sealedIn is sealedSegments of one transaction. Error: replication.ErrCorrupt.
func sealedIn(tx *bolt.Tx) (list []segment, err error) {
	bucket := tx.Bucket(bucketSegments)
	if bucket == nil {
		return nil, nil
	}
	err = bucket.ForEach(func(k, row []byte) error {
		if len(k) != 8 || len(row) != sha256.Size+8 {
			return fmt.Errorf("segment row: %w", replication.ErrCorrupt)
		}
		seg := segment{number: binary.BigEndian.Uint64(k), size: int64(binary.BigEndian.Uint64(row[sha256.Size:]))}
		copy(seg.sum[:], row)
		list = append(list, seg)
		return nil
	})
	return list, err
}

// missingSegments lists sealed segments whose file is not here, or has another size.
func (f *fsm) missingSegments() ([]segment, error) {
	state := f.missing.state()
	list, err := f.sealedSegments()
	if err != nil {
		return nil, err
	}
	var missing []segment
	for _, seg := range list {
		info, err := os.Stat(f.journal.path(seg.number))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, err
		}
		if err != nil || info.Size() != seg.size {
			missing = append(missing, seg)
		}
	}
	f.missing.found(state, len(missing))
	return missing, nil
}

// lacking counts the sealed segments that are not on this disk. A state that came from elsewhere counts as lacking one until somebody has looked: what was found of
// the state before it says nothing.
type lacking struct {
	mu    sync.Mutex
	came  uint64 // states that came from elsewhere
	count int
}

// replaced notes that another state came from elsewhere.
func (l *lacking) replaced() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.came, l.count = l.came+1, max(l.count, 1)
}

// state names the newest state that came from elsewhere. Whoever looks takes the name first, and the list of segments then.
func (l *lacking) state() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.came
}

// found notes how many segments a state lacks.
func (l *lacking) found(state uint64, count int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if state == l.came {
		l.count = count
	}
}

func (l *lacking) segments() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.count
}

// wantSegments asks the background for a look.
func (s *Store) wantSegments() {
	select {
	case s.segments <- struct{}{}:
	default:
	}
}

// fetchMissing gets, after a restore, the sealed segments that are not on this disk.
func (s *Store) fetchMissing() {
	for {
		select {
		case <-s.segments:
		case <-s.ctx.Done():
			return
		}
		for s.ctx.Err() == nil && !s.fetchAll() {
			select {
			case <-time.After(fetchRetry):
			case <-s.ctx.Done():
			}
		}
	}
}

func (s *Store) fetchAll() bool {
	state := s.fsm.missing.state()
	missing, err := s.fsm.missingSegments()
	if err != nil {
		s.log.Error("list missing journal segments", "error", err)
		return false
	}
	for i, seg := range missing {
		if err := s.fetch(seg); err != nil {
			s.log.Warn("fetch a journal segment", "segment", seg.number, "error", err)
			return false
		}
		s.fsm.missing.found(state, len(missing)-1-i)
	}
	return true
}

func (s *Store) fetch(seg segment) error {
	if s.cfg.FetchSegment == nil {
		return ErrNoSegment
	}
	body, err := s.cfg.FetchSegment(s.ctx, seg.sum)
	if err != nil {
		return err
	}
	defer body.Close() //nolint:errcheck // only read
	tmp := s.fsm.journal.path(seg.number) + ".tmp"
	h := sha256.New()
	if err := writeFile(tmp, io.TeeReader(body, h), seg.size); err != nil {
		return err
	}
	if replication.Hash(h.Sum(nil)) != seg.sum {
		return errors.Join(fmt.Errorf("segment %d: %w", seg.number, errJournal), os.Remove(tmp))
	}
	if err := os.Rename(tmp, s.fsm.journal.path(seg.number)); err != nil {
		return err
	}
	return syncDir(s.fsm.journal.dir)
}
