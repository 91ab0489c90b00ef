package replica

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"time"

	"github.com/latchkey/latchkey/replication"
)

// Still is a replica in which nothing happens by itself, for a simulator: its owner says what time it is, when the file is proven and when it
// is synced. All else is what Open gives. One goroutine at a time may use it.
type Still struct {
	*Replica
	now func() time.Time
}

// OpenStill opens the replica in cfg.Dir at the time that now gives.
func OpenStill(cfg Config, now func() time.Time) (*Still, error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	s := &Still{now: now, Replica: &Replica{cfg: cfg, lost: make(chan struct{}, 1), updated: make(chan struct{}), stop: func() {}}}
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("open replica: %w", err)
	}
	if err := s.load(); err != nil {
		return nil, fmt.Errorf("open replica: %w", err)
	}
	if f := s.current.Load(); f != nil {
		f.now = now
	}
	return s, nil
}

// Build implements replication.Replica.
func (s *Still) Build(ctx context.Context, m replication.Manifest, records io.Reader) (replication.Copy, error) {
	c, err := s.Replica.Build(ctx, m, records)
	if f, ok := c.(*file); ok && f != nil {
		f.now = s.now
	}
	return c, err
}

// Prove does what Open leaves to the background: it reads the whole file.
func (s *Still) Prove() {
	if f := s.current.Load(); f != nil && !f.verified.Load() {
		s.prove(context.Background(), f)
	}
}

// Sync makes what was committed survive a power loss.
func (s *Still) Sync() error {
	if f := s.usable(); f != nil {
		return f.sync()
	}
	return nil
}

// File is the path of the file that is served and how many bytes of it are in use, empty for none: bbolt lets files grow far ahead.
func (s *Still) File() (path string, size int64) {
	f := s.usable()
	if f == nil {
		return "", 0
	}
	f.mu.RLock()
	defer f.mu.RUnlock()
	return f.path, f.live.tx.Size()
}

// Records yields every record as answers are read: through the checked walk. Errors: replication.ErrNoData, ErrUnproven, replication.ErrCorrupt
// without the file being given up.
func (s *Still) Records(yield func(replication.Record) error) error {
	x, err := s.Read()
	if err != nil {
		return err
	}
	defer x.Close()
	return guard(func() error {
		return x.v.tree.each(nil, func(key, stored []byte) error {
			if bytes.Equal(key, positionKey) {
				return nil
			}
			env, kind, k, ok := replication.SplitDBKey(key)
			if !ok {
				return errPage
			}
			r, err := replication.FromStored(env, kind, k, stored)
			if err != nil {
				return err
			}
			return yield(r)
		})
	})
}

// Kill ends the replica as the death of its process would: nothing is written that was not.
func (s *Still) Kill() error {
	f := s.usable()
	s.closed = true
	if f == nil {
		return nil
	}
	return f.close()
}
