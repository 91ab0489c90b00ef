package writer

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/latchkey/latchkey/pkg/entitlement"
)

// How many commands of each environment this node has under way at one time; further ones wait. The limits are apart, and sandbox has
// the lower one, so that a flood of test messages leaves production the log, the disk and most of the processor.
const (
	maxProduction = 512
	maxSandbox    = 128
	maxOwn        = 16 // of the writer itself, for both environments
)

func newAdmission() map[entitlement.Environment]chan struct{} {
	return map[entitlement.Environment]chan struct{}{
		entitlement.Production: make(chan struct{}, maxProduction),
		entitlement.Sandbox:    make(chan struct{}, maxSandbox),
		"":                     make(chan struct{}, maxOwn),
	}
}

// admit waits for a place among the environment's commands. leave gives it back. Errors: a problem (unavailable), ctx.Err.
func (w *Writer) admit(ctx context.Context, env entitlement.Environment) (leave func(), err error) {
	places := w.admitted[env]
	select {
	case places <- struct{}{}:
		return func() { <-places }, nil
	case <-ctx.Done():
		if errors.Is(context.Cause(ctx), errProposeTimeout) {
			return nil, unavailable("Too many writes of this environment are under way.")
		}
		return nil, ctx.Err()
	}
}

// refusalPause is how often refused webhooks are logged at most: whoever sends them need not be anybody that we know.
const refusalPause = time.Second

// refusalLog says when a refusal is to be logged. The metrics count all of them.
type refusalLog struct {
	mu    sync.Mutex
	last  time.Time
	count int
}

// due returns how many refusals there were since one was logged, this one included, or 0 when it is too early for the next.
func (l *refusalLog) due(now time.Time) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.count++
	if now.Sub(l.last).Abs() < refusalPause {
		return 0
	}
	n := l.count
	l.last, l.count = now, 0
	return n
}
