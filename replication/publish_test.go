package replication_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/latchkey/latchkey/replication"
)

// changeLog is a log of changes that a test appends to; the bytes of change n are its number.
type changeLog struct {
	mu      sync.Mutex
	at      replication.Position
	floor   uint64
	updated chan struct{}
}

func (l *changeLog) move(f func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f()
	close(l.updated)
	l.updated = make(chan struct{})
}

func (l *changeLog) Position() replication.Position {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.at
}

func (l *changeLog) Updated() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.updated
}

func (l *changeLog) Changes(after uint64, limit, _ int) (changes [][]byte, at replication.Position, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if after < l.floor {
		return nil, at, fmt.Errorf("after %d: %w", after, replication.ErrBelowFloor)
	}
	at = replication.Position{Epoch: l.at.Epoch, N: min(l.at.N, after+uint64(limit))}
	for n := after + 1; n <= at.N; n++ {
		changes = append(changes, fmt.Append(nil, n))
	}
	return changes, at, nil
}

// TestPublish: each change from the start on goes out once, in order, in batches that end at their signed position: the first at once, those of the
// next 5 ms together, never more than 256. What was trimmed or belongs to another epoch is left to the pull.
func TestPublish(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &changeLog{at: replication.Position{Epoch: 1, N: 10}, updated: make(chan struct{})}
		var mu sync.Mutex
		var sent []string
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() {
			done <- replication.Publish(ctx, replication.PublishConfig{
				Log:  l,
				Sign: func(p replication.Position) (string, error) { return p.Revision().String(), nil },
				Send: func(frame []byte) error {
					b, err := replication.ParseBatch(frame)
					if err != nil {
						t.Error(err)
					}
					mu.Lock()
					defer mu.Unlock()
					sent = append(sent, fmt.Sprintf("%s-%s of %d to %s", b.Changes[0], b.Changes[len(b.Changes)-1], len(b.Changes), b.Signed))
					return errors.New("what could not be sent is not sent again")
				},
			})
		}()
		synctest.Wait()
		pass := func() { <-time.After(10 * time.Millisecond) } // of the test's own time
		grow := func(n uint64) { l.move(func() { l.at.N += n }) }
		expect := func(step string, want ...string) {
			t.Helper()
			synctest.Wait()
			mu.Lock()
			defer mu.Unlock()
			if fmt.Sprint(sent) != fmt.Sprint(want) {
				t.Errorf("%s: sent %q, want %q", step, sent, want)
			}
			sent = nil
		}
		expect("nothing new")
		grow(1)
		expect("a change after a pause goes at once", "11-11 of 1 to 1-11")
		grow(1)
		synctest.Wait()
		grow(2)
		expect("the next ones wait")
		pass()
		expect("and go together", "12-14 of 3 to 1-14")
		grow(300)
		pass()
		pass()
		expect("a batch has 256 at most", "15-270 of 256 to 1-270", "271-314 of 44 to 1-314")
		l.move(func() { l.at.N, l.floor = 320, 318 })
		pass()
		expect("what was trimmed is pulled")
		grow(1)
		pass()
		expect("then it goes on", "321-321 of 1 to 1-321")
		l.move(func() { l.at, l.floor = replication.Position{Epoch: 7, N: 330}, 330 })
		pass()
		expect("a new epoch begins where it is")
		grow(1)
		pass()
		expect("and goes on", "331-331 of 1 to 7-331")
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Publish = %v at the end of its context", err)
		}
	})
}
