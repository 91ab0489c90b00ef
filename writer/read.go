package writer

import (
	"context"
	"encoding/binary"
	"errors"
	"net/http"
	"runtime"
	"sync"
	"time"

	"github.com/latchkey/latchkey/pkg/fault"
	"github.com/latchkey/latchkey/pkg/problem"
	"github.com/latchkey/latchkey/writer/internal/store"
)

// readWithin is how long a read waits for a leader and for this node to catch up with it.
const readWithin = 5 * time.Second

// read runs f on a state that has every write which returned, on any node, before read was called: the leader proves that it leads and says how far
// the log is committed, and this node waits until it has applied that much. Errors: f's, a problem (unavailable), ctx.Err.
func (w *Writer) read(ctx context.Context, f func(*store.Reader) error) error {
	shared, err := w.caughtUp(ctx)
	switch {
	case err != nil:
		return err
	case shared == nil:
		return w.store.View(f)
	}
	return shared.View(f)
}

// catchUp returns when this node's state has every write which returned before the call.
func (w *Writer) catchUp(ctx context.Context) error {
	shared, err := w.caughtUp(ctx)
	if shared != nil {
		shared.Leave()
	}
	return err
}

// caughtUp is catchUp for who reads at once, with those who waited for the same round, or alone if that is nil.
func (w *Writer) caughtUp(ctx context.Context) (*store.Shared, error) {
	if fault.Planted("stale-read") {
		return nil, nil
	}
	index, shared, err := w.reads.join(ctx) // a round has its own end
	if err == nil && w.store.AppliedIndex() < index {
		shared.Leave() // a transaction is not to stay open meanwhile
		shared = nil
		waiting, cancel := context.WithTimeout(ctx, readWithin)
		defer cancel()
		ctx, err = waiting, w.store.WaitApplied(waiting, index)
	}
	if err != nil {
		w.metrics.readFailed()
		return nil, errors.Join(unavailable("No leader confirmed in time what is committed."), context.Cause(ctx))
	}
	return shared, nil
}

// readIndex asks the leader, wherever it is, how far the log is committed, and tries again while there is none.
func (w *Writer) readIndex(ctx context.Context) (uint64, error) {
	pause := retryPauseMin
	for {
		index, err := w.readIndexOnce(ctx)
		if err == nil || !retryable(err) {
			return index, err
		}
		select {
		case <-ctx.Done():
			return 0, err
		case <-time.After(pause):
		}
		pause = min(2*pause, retryPauseMax)
	}
}

func (w *Writer) readIndexOnce(ctx context.Context) (uint64, error) {
	if w.store.IsLeader() {
		return w.store.ReadIndex(ctx)
	}
	answer, err := w.askLeader(ctx, http.MethodGet, "/internal/v1/read-index", nil)
	if err != nil {
		return 0, err
	}
	if len(answer) != 8 {
		return 0, errUnreachable
	}
	return binary.BigEndian.Uint64(answer), nil
}

// handleReadIndex serves the leader's read index to another writer, as 8 bytes.
func (w *Writer) handleReadIndex(rw http.ResponseWriter, r *http.Request) error {
	ctx, cancel := context.WithTimeout(r.Context(), readWithin)
	defer cancel()
	index, err := w.store.ReadIndex(ctx)
	if err != nil {
		return problem.New(problem.NotLeader, "This writer does not lead.").After(time.Second)
	}
	writeBody(rw, http.StatusOK, "application/octet-stream", binary.BigEndian.AppendUint64(nil, index))
	return nil
}

// sharedReads lets many reads share one round trip to the leader. A round counts only for reads that joined before it began: one
// that began earlier could miss a write that returned in between.
type sharedReads struct {
	ask   func(context.Context) (uint64, error)
	owner context.Context // ends with the writer, not with the request that happened to come first
	spawn func(func())    // starts a goroutine that the writer waits for
	share func(int) *store.Shared

	mu      sync.Mutex
	running bool
	next    *readRound
}

type readRound struct {
	done   chan struct{}
	index  uint64
	err    error
	joined int           // how many wait for it
	shared *store.Shared // what they share; nil before the round is over, and where it failed
}

// join takes part in the next round and returns its index, and what those who waited for it share: the caller views it, or leaves it, at once.
func (s *sharedReads) join(ctx context.Context) (uint64, *store.Shared, error) {
	s.mu.Lock()
	if s.next == nil {
		s.next = &readRound{done: make(chan struct{})}
	}
	round := s.next
	round.joined++
	if !s.running {
		s.running = true
		s.spawn(s.run)
	}
	s.mu.Unlock()
	select {
	case <-round.done:
		return round.index, round.shared, round.err
	case <-ctx.Done():
	}
	s.mu.Lock()
	round.joined--
	shared := round.shared
	s.mu.Unlock()
	if shared != nil { // it counts on us
		shared.Leave()
	}
	return 0, nil, ctx.Err()
}

// run does rounds while somebody waits for one. Each begins when everything else that could go on has had its turn: with all cores busy that is when those who were
// answered by the last one have written their answers, so that more join this one, and fewer are needed; with a core to spare it is at once.
func (s *sharedReads) run() {
	for {
		runtime.Gosched()
		s.mu.Lock()
		round := s.next
		s.next = nil
		if round == nil {
			s.running = false
			s.mu.Unlock()
			return
		}
		s.mu.Unlock()
		ctx, cancel := context.WithTimeout(s.owner, readWithin)
		round.index, round.err = s.ask(ctx)
		cancel()
		if round.err == nil {
			s.mu.Lock()
			round.shared = s.share(round.joined)
			s.mu.Unlock()
		}
		close(round.done)
	}
}
