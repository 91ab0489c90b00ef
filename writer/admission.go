package writer

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/latchkey/latchkey/pkg/entitlement"
	"github.com/latchkey/latchkey/writer/internal/store"
)

// How many commands of each environment the leader has under way at one time; further ones wait their turn. A command waits for
// all that are under way before it, so the limits bound how long production waits for a flood in sandbox.
const (
	// maxUnderWay keeps Raft's batches full and bounds the memory of what waits in them.
	maxUnderWay = 768
	// maxBesideProduction is what sandbox may have under way while production is in use: some ten milliseconds of work.
	maxBesideProduction = 16
	// Beside production, sandbox's first commands in each window go at once, as testers need them; more wait for the next window and
	// then go together, because each commit of its own would make production wait for another sync of the disks. A flood costs
	// processor time long before its commands are committed, so its senders are what must be kept waiting: 100 a second go through.
	paceWindow   = 200 * time.Millisecond
	paceAtOnce   = 4
	paceTogether = 16
	// productionInUse is how long after its last command production counts as in use.
	productionInUse = 5 * time.Second
)

// admission decides whose turn it is to be committed. Make one with newAdmission.
type admission struct {
	mu             sync.Mutex
	underWay       map[entitlement.Environment]int
	waiting        map[entitlement.Environment][]chan struct{} // each is closed when it is its turn
	lastProduction time.Time
	pace           pace // of sandbox beside production
}

func newAdmission() *admission {
	return &admission{underWay: map[entitlement.Environment]int{}, waiting: map[entitlement.Environment][]chan struct{}{}}
}

// limit is how many commands of env may be under way now.
func (a *admission) limit(env entitlement.Environment) int {
	if env == entitlement.Sandbox && a.productionInUse() {
		return maxBesideProduction
	}
	return maxUnderWay
}

func (a *admission) productionInUse() bool {
	return a.underWay[entitlement.Production] > 0 || time.Since(a.lastProduction) < productionInUse
}

// enter returns when it is the turn of a command of env; leave is to be called when that is committed or given up. Errors: store.ErrBusy
// when its turn would come after the end of ctx; ctx.Err.
func (a *admission) enter(ctx context.Context, env entitlement.Environment) (leave func(), err error) {
	a.mu.Lock()
	if env == entitlement.Sandbox && a.productionInUse() {
		wait, ok := a.pace.reserve(ctx, time.Now())
		a.mu.Unlock()
		if !ok {
			return nil, store.ErrBusy
		}
		if err := sleep(ctx, wait); err != nil {
			return nil, err
		}
		a.mu.Lock()
	}
	if env == entitlement.Production {
		a.lastProduction = time.Now()
	}
	turn := make(chan struct{})
	a.waiting[env] = append(a.waiting[env], turn)
	a.call(env)
	a.mu.Unlock()
	select {
	case <-turn:
		return func() { a.leave(env) }, nil
	case <-ctx.Done():
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if i := slices.Index(a.waiting[env], turn); i >= 0 {
		a.waiting[env] = slices.Delete(a.waiting[env], i, i+1)
	} else { // it was called in the meantime
		a.underWay[env]--
		a.call(env)
	}
	return nil, ctx.Err()
}

func (a *admission) leave(env entitlement.Environment) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.underWay[env]--
	a.call(env)
}

// pace lets commands through a few at a time. The zero value is ready.
type pace struct {
	window time.Time // of the last command that was given a place
	taken  int       // places given in it
}

// reserve gives a command its place and returns how long it has to wait for it. ok is false when that is later than ctx allows.
func (p *pace) reserve(ctx context.Context, now time.Time) (wait time.Duration, ok bool) {
	present := now.Truncate(paceWindow)
	window, taken, places := p.window, p.taken, paceTogether
	if window.Before(present) {
		window, taken = present, 0
	}
	if window.Equal(present) {
		places = paceAtOnce
	}
	if taken >= places {
		window, taken = window.Add(paceWindow), 0
	}
	if deadline, has := ctx.Deadline(); has && window.After(deadline) {
		return 0, false
	}
	p.window, p.taken = window, taken+1
	return max(0, window.Sub(now)), true
}

func sleep(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// call gives their turn to as many as there is room for, first come first served.
func (a *admission) call(env entitlement.Environment) {
	for len(a.waiting[env]) > 0 && a.underWay[env] < a.limit(env) {
		close(a.waiting[env][0])
		a.waiting[env] = a.waiting[env][1:]
		a.underWay[env]++
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
