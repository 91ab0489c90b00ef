package store

import "sync"

// Shared lets reads that may all see the same state take turns at few transactions: one at a time has each of them, so that what the first looked up
// serves those behind it. A transaction waits for nobody who is not about to read.
type Shared struct {
	fsm *fsm

	mu     sync.Mutex
	coming int       // reads that have not begun
	free   []*Reader // whose turn is over, for those who come
}

// Share returns what n reads share. Each of them calls View or Leave, once and without delay.
func (s *Store) Share(n int) *Shared { return &Shared{fsm: s.fsm, coming: n} }

// View is Store.View in a transaction that began after Share.
func (s *Shared) View(fn func(*Reader) error) error {
	s.mu.Lock()
	s.coming--
	var r *Reader
	if last := len(s.free) - 1; last >= 0 {
		r, s.free = s.free[last], s.free[:last]
	}
	s.mu.Unlock()
	if r == nil {
		var err error
		if r, err = s.fsm.newReader(); err != nil {
			s.end(nil)
			return err
		}
	}
	defer s.end(r)
	return fn(r)
}

// Leave says that one of the reads will not come.
func (s *Shared) Leave() {
	s.mu.Lock()
	s.coming--
	s.mu.Unlock()
	s.end(nil)
}

// end takes a transaction whose turn is over, if any. With the last read all of them are closed.
func (s *Shared) end(r *Reader) {
	s.mu.Lock()
	if r != nil {
		s.free = append(s.free, r)
	}
	var done []*Reader
	if s.coming == 0 {
		done, s.free = s.free, nil
	}
	s.mu.Unlock()
	for _, r := range done {
		r.close()
	}
}
