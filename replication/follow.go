package replication

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"os"
	"sync"
	"time"
)

// Errors of a Moving. Follow acts on each of them; anything else that it returns is tried again later.
var (
	// ErrDiverged means that changes or a head do not lead to the signed position: the copy is not the writers' history. Take a snapshot.
	ErrDiverged = errors.New("copy diverged from the signed position")
	// ErrRules means that the position's rules version is not known here: go on serving what is held, and update the program.
	ErrRules = errors.New("rules version unknown to this program")
	// ErrNoData means that the copy holds nothing that may be used: take a snapshot.
	ErrNoData = errors.New("no usable data")
	// ErrOlderEpoch means that a statement belongs to a history that was left behind: the writer that made it must not be followed.
	ErrOlderEpoch = errors.New("statement of an older epoch")
)

// Moving is all records at one position, which only moves forward. All methods may be called at any time from any goroutine;
// Follow itself never calls Apply or Advance concurrently.
type Moving interface {
	// Head is what the copy holds. Epoch 0 means nothing.
	Head() Head
	// Apply applies consecutive changes, of which the first follows the copy's position, if they lead exactly to the position
	// to, which a writer has signed; else it changes nothing. Errors: ErrDiverged, ErrRules, ErrNoData, ErrCorrupt.
	Apply(to Position, changes [][]byte) error
	// Advance notes a newer as_of. Follow has made sure that the copy covers h. Error: ErrNoData.
	Advance(h Head) error
}

// Copy is a copy that is not served yet.
type Copy interface {
	Moving
	// Discard gives the copy up and frees what it holds.
	Discard()
}

// Replica is where Follow puts what it has verified.
type Replica interface {
	Moving
	// Build makes a new copy beside the one that is served, from the records that ReadSnapshot reads, and checks that they have the
	// manifest's state hash. Errors: ErrDiverged, ErrRules, ErrFrame.
	Build(ctx context.Context, m Manifest, records io.Reader) (Copy, error)
	// Adopt makes a copy that Build returned the served one. Readers see the old or the new one, nothing between.
	Adopt(Copy) error
	// Lost receives a value each time the replica has given up its data because it was found damaged.
	Lost() <-chan struct{}
}

// Source is a faster transport than pull that may lose, repeat, reorder and forge; *NATS is one.
type Source interface {
	// Subscribe calls batch and head with each message that arrives, until the source is closed.
	Subscribe(batch, head func([]byte)) error
}

// FollowConfig is what a Follower needs.
type FollowConfig struct {
	Node      string   // name of this node, for the writers' status pages; may be empty
	Writers   []string // base addresses of the internal API, in the order in which they are tried until it is known which is near
	Verifier  *Verifier
	Replica   Replica
	SpoolDir  string            // for snapshots while they are being downloaded
	Room      func(int64) error // asked before a snapshot of so many bytes is downloaded; nil: there is room
	Source    Source            // nil: pull alone
	Transport http.RoundTripper // nil: plain connections
	Logger    *slog.Logger
}

// reportEvery is how often a follower tells every writer what it holds: one that gets everything from the source would never be heard of. It costs a
// writer as much as a head.
const reportEvery = 10 * time.Second

// headEvery is how often a head is asked for while the source brings none.
const headEvery = time.Second

// Follower keeps a replica at the writers' newest position: it asks what the Ladder wants to know, and tells it what came.
type Follower struct {
	cfg     FollowConfig
	clients []*Client
	wake    chan struct{} // the pull loop should look again
	shown   shown

	mu        sync.Mutex // over the ladder, and so over Apply and Advance of the replica
	ladder    *Ladder
	interrupt context.CancelFunc // of the pull lane's open request
}

// FollowStatus says how a follower fares.
type FollowStatus struct {
	Source string // FromDisk, FromNATS, FromPull or FromSnapshot: how the newest data came
	Writer string // the writer in use

	// RoundTrips is how long each writer takes to answer, by its base address; those that are not known yet are missing.
	RoundTrips map[string]time.Duration
	Reasons    []string // what is wrong at present, in words for operators; none when all is well
}

// NewFollower returns a follower that does nothing until Follow.
func NewFollower(cfg FollowConfig) *Follower {
	f := &Follower{cfg: cfg, wake: make(chan struct{}, 1), interrupt: func() {}}
	if f.cfg.Logger == nil {
		f.cfg.Logger = slog.New(slog.DiscardHandler)
	}
	for _, base := range cfg.Writers {
		f.clients = append(f.clients, NewClient(base, cfg.Node, cfg.Transport))
	}
	f.ladder = NewLadder(LadderConfig{Replica: cfg.Replica, Verifier: cfg.Verifier, Writers: len(f.clients), Source: cfg.Source != nil,
		Random: rand.Float64, Logger: f.cfg.Logger})
	return f
}

// Status says how the follower fares now.
func (f *Follower) Status() FollowStatus {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := FollowStatus{Source: f.ladder.Source(), Reasons: f.ladder.Reasons()}
	if len(f.clients) > 0 {
		s.Writer = f.clients[f.ladder.Writer()].Base()
	}
	s.RoundTrips = map[string]time.Duration{}
	for i, c := range f.clients {
		if took := f.ladder.RoundTrip(i); took > 0 {
			s.RoundTrips[c.Base()] = took
		}
	}
	return s
}

// Client returns the client of the writer in use, for the other requests of the internal API. Nil without writers.
func (f *Follower) Client() *Client {
	if all := f.Clients(); len(all) > 0 {
		return all[0]
	}
	return nil
}

// Clients returns the clients of all writers: that of the one in use first, then the others in the order in which they are worth asking.
func (f *Follower) Clients() []*Client {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.clients) == 0 {
		return nil
	}
	clients := []*Client{f.clients[f.ladder.Writer()]}
	for _, i := range f.ladder.Order() {
		if i != f.ladder.Writer() {
			clients = append(clients, f.clients[i])
		}
	}
	return clients
}

// Follow runs until ctx ends. It returns an error only for a source that cannot be subscribed to.
func (f *Follower) Follow(ctx context.Context) error {
	if f.cfg.Source != nil {
		batch := func(frame []byte) { f.tell(func(l *Ladder) { l.BatchFromSource(time.Now(), frame) }) }
		head := func(signed []byte) {
			f.shown.met(f.cfg.Verifier, string(signed))
			f.tell(func(l *Ladder) { l.HeadFromSource(time.Now(), signed) })
		}
		if err := f.cfg.Source.Subscribe(batch, head); err != nil {
			return fmt.Errorf("follow: %w", err)
		}
	}
	if len(f.clients) == 0 {
		<-ctx.Done()
		return nil
	}
	f.tell(func(l *Ladder) { l.Start(time.Now()) })
	var loops sync.WaitGroup
	loops.Go(func() { f.pullHeads(ctx) })
	loops.Go(func() { f.pullChanges(ctx) })
	if f.cfg.Node != "" {
		loops.Go(func() { f.report(ctx) })
	}
	loops.Go(func() {
		for {
			select {
			case <-ctx.Done():
				return
			case <-f.cfg.Replica.Lost():
				f.tell(func(l *Ladder) { l.Lost() })
			}
		}
	})
	loops.Wait()
	return nil
}

// tell lets the ladder take a step, and does at once what it wants done at once.
func (f *Follower) tell(step func(*Ladder)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	step(f.ladder)
	wake, interrupt := f.ladder.Signals()
	if interrupt {
		f.interrupt()
	}
	if wake {
		select {
		case f.wake <- struct{}{}:
		default:
		}
	}
}

// pullHeads asks for a head each second, unless the source brings them.
func (f *Follower) pullHeads(ctx context.Context) {
	tick := time.NewTicker(headEvery)
	defer tick.Stop()
	for {
		var r Request
		f.tell(func(l *Ladder) { r = l.NextHead(time.Now()) })
		if r.Kind == AskHead {
			signed, err := f.clients[r.Writer].Head(ctx)
			if ctx.Err() != nil {
				return
			}
			f.tell(func(l *Ladder) { l.TookHead(time.Now(), r, signed, err) })
			if err == nil && f.shown.met(f.cfg.Verifier, signed) {
				f.shown.to(ctx, f.clients[r.Writer])
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// report tells the writers what the replica holds, not all followers at once, and measures by their answers which of them is near.
func (f *Follower) report(ctx context.Context) {
	distances := make([]Distance, len(f.clients))
	for wait := rand.N(reportEvery); pause(ctx, wait) == nil; wait = reportEvery {
		held := f.cfg.Replica.Head().Revision()
		if held == (Revision{}) {
			continue
		}
		var reports sync.WaitGroup
		for i, c := range f.clients {
			reports.Go(func() {
				began := time.Now()
				signed, err := c.Report(ctx, held)
				distances[i] = Distance{time.Since(began), signed, err}
				if err != nil {
					f.cfg.Logger.DebugContext(ctx, "a writer does not hear what this node holds", "writer", c.Base(), "error", err)
				}
			})
		}
		reports.Wait()
		if ctx.Err() == nil {
			f.tell(func(l *Ladder) { l.Measured(time.Now(), distances) })
		}
	}
}

// pullChanges does what the ladder asks for next: changes, or a snapshot where only that helps.
func (f *Follower) pullChanges(ctx context.Context) {
	for ctx.Err() == nil {
		var r Request
		// Losing the writer or the data must not wait for the end of a long poll.
		call, cancel := context.WithCancel(ctx)
		f.tell(func(l *Ladder) {
			r = l.NextPull(time.Now())
			f.interrupt = cancel
		})
		switch r.Kind {
		case AskNothing:
			f.sleep(ctx, r.Wait)
		case AskSnapshot:
			f.bootstrap(ctx, call, r)
		case AskChanges:
			batch, err := f.clients[r.Writer].Changes(call, r.After, MaxBatchChanges, r.Wait)
			if call.Err() == nil {
				f.tell(func(l *Ladder) { l.TookChanges(time.Now(), r, batch, err) })
				if errors.Is(err, ErrOtherHistory) {
					f.shown.to(ctx, f.clients[r.Writer])
				}
			}
		}
		cancel()
	}
}

// bootstrap brings a snapshot and the changes after it, and replaces what is served. What is served stays until then.
func (f *Follower) bootstrap(ctx, call context.Context, r Request) {
	started := time.Now()
	climb := f.ladder.Climb()
	err := f.climb(call, f.clients[r.Writer], climb)
	if ctx.Err() != nil {
		climb.Discard()
		return
	}
	if err != nil && call.Err() != nil {
		err = fmt.Errorf("snapshot given up: the writer does not answer: %w", ErrUnavailable)
	}
	if errors.Is(err, ErrOlderEpoch) {
		f.shown.to(ctx, f.clients[r.Writer])
	}
	f.tell(func(l *Ladder) { err = l.Finish(time.Now(), r, climb, err) })
	if err == nil {
		head := f.cfg.Replica.Head()
		f.cfg.Logger.Info("replica built from a snapshot", "reason", r.Why.Error(), "revision", head.Revision().String(), "duration_seconds", time.Since(started).Seconds())
	}
}

// climb downloads, builds and catches up.
func (f *Follower) climb(ctx context.Context, client *Client, c *Climb) error {
	file, err := os.CreateTemp(f.cfg.SpoolDir, "snapshot-*.tmp")
	if err != nil {
		return fmt.Errorf("spool snapshot: %w", err)
	}
	defer func() {
		_ = file.Close()
		_ = os.Remove(file.Name())
	}()
	m, err := client.Snapshot(ctx, file, func(signed string) (Manifest, error) {
		m, err := c.Judge(signed)
		if err == nil && f.cfg.Room != nil {
			err = f.cfg.Room(m.Size)
		}
		return m, err
	})
	if err != nil {
		return err
	}
	if err := c.Build(ctx, m, file); err != nil {
		return err
	}
	for {
		switch r := c.Next(); r.Kind {
		case AskChanges:
			batch, err := client.Changes(ctx, r.After, MaxBatchChanges, 0)
			if err := c.TookChanges(batch, err); err != nil {
				return err
			}
		case AskHead:
			signed, err := client.Head(ctx)
			if err := c.TookHead(signed, err); err != nil {
				return err
			}
		default:
			return nil
		}
	}
}

// sleep waits for d, the end of ctx, or a reason to look again.
func (f *Follower) sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	case <-f.wake:
	}
}
