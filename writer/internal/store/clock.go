package store

import (
	"fmt"
	"time"
)

// CheckClock returns ErrClock when a command that is proposed now would be refused for this node's clock: because Config.TrustClock says so, or because
// the clock is more than 5 s behind the newest stamp. It is of interest on followers too: they may lead next.
func (s *Store) CheckClock() error {
	s.stampMu.Lock()
	defer s.stampMu.Unlock()
	_, err := s.checkClock()
	return err
}

// checkClock returns the time to stamp with, if there is one. It brings lastStamp up to the state's. Callers hold stampMu.
func (s *Store) checkClock() (now int64, err error) {
	if s.cfg.TrustClock != nil {
		if err := s.cfg.TrustClock(); err != nil {
			return 0, fmt.Errorf("%w: %w", ErrClock, err)
		}
	}
	st, _, _, _ := s.fsm.current()
	s.lastStamp = max(s.lastStamp, st.Stamp)
	now = s.clock().Unix()
	if behind := time.Duration(s.lastStamp-now) * time.Second; behind > maxClockLag {
		return 0, fmt.Errorf("%s behind the last stamp: %w", behind, ErrClock)
	}
	return now, nil
}

// The first command of a cluster, or of an epoch, waits so long for a clock that is believed: usually some milliseconds, until it was compared with the
// others'. Its stamp binds all that follow.
const (
	firstStampWait  = 10 * time.Second
	firstStampPause = 20 * time.Millisecond
)

// firstStamp returns the time to stamp such a command with.
func (s *Store) firstStamp() int64 {
	deadline := time.After(firstStampWait)
	for s.cfg.TrustClock != nil && s.cfg.TrustClock() != nil {
		select {
		case <-time.After(firstStampPause):
			continue
		case <-deadline:
		case <-s.ctx.Done():
		}
		break
	}
	return s.clock().Unix()
}
