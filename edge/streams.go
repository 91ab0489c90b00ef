package edge

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net/netip"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/latchkey/latchkey/pkg/entitlement"
	"github.com/latchkey/latchkey/pkg/problem"
	"github.com/latchkey/latchkey/replication"
)

// Limits of streams. An open one costs a file, a goroutine and some 22 KiB, and nothing else until its account changes.
const (
	// maxStreams bounds what all of them take: some 350 MiB, and a quarter of the connections.
	maxStreams = 16_384
	// crowded is the number of open streams from which on one account and one address are held to their share: what a person has in use, and what
	// stands behind one address of a mobile network. Below it nobody is in anybody's way.
	crowded             = 8_192
	maxAccountStreams   = 16
	maxAddressStreams   = 512
	crowdedRetryAfter   = 30 * time.Second
	streamsSweepEvery   = time.Second // how late what the passing of time alone changes may be told
	streamsRetrySeconds = 1           // after which what could not be read is read again
	// streamsUnsignedSeconds is after which an edge that could not sign tries again for those who got an answer without a token.
	streamsUnsignedSeconds = 15
)

// streams are the open streams of entitlements, by account. A change of the replica names the accounts that it touched; a few workers compute what
// each of them may use now, once for all streams of an account and device, and hand it to the streams that do not show it yet. Nobody waits for a
// reader: a stream holds one answer at most, the latest.
type streams struct {
	edge *Edge

	beat        time.Duration // between two comments
	least, most time.Duration // how long a stream lives
	patience    time.Duration // with a client that does not read

	open     atomic.Int64 // len of all subjects' streams
	watching atomic.Int64 // len of watches

	mu        sync.Mutex
	subjects  map[subjectKey]*subject
	merged    map[subjectKey][]*subject // by the account whose record answers for them: they were merged into it
	watches   map[subjectKey]*watched
	addresses map[netip.Addr]int
	queue     []*subject // each once, to be computed
	queued    sync.Cond
	stopped   bool
	serving   sync.WaitGroup // the streams' goroutines
}

type subjectKey struct {
	env     entitlement.Environment
	account entitlement.AccountID
}

// subject is one account with open streams. All but the key is guarded by streams.mu.
type subject struct {
	key     subjectKey
	record  subjectKey // of the account whose record answers: another one where it was merged
	streams []*stream
	due     int64 // when its answer changes by the passing of time alone, Unix seconds; 0: not known yet
	queued  bool
	working bool // a worker is at it
	again   bool // it was touched meanwhile
	failing bool // what it shows could not be computed the last time
}

// position orders answers: by revision, then by as_of.
type position struct {
	revision replication.Revision
	asOf     int64
}

func (p position) before(o position) bool {
	c := p.revision.Compare(o.revision)
	return c < 0 || c == 0 && p.asOf < o.asOf
}

// message is one answer as it goes over the wire. It is immutable and shared.
type message struct {
	at       position
	chunk    []byte // with the frame of HTTP/1.1
	from, to int    // where the event lies in it
}

func newStreams(e *Edge) *streams {
	h := &streams{edge: e, beat: streamBeat, least: streamLifeMin, most: streamLifeMax, patience: writeTimeout, subjects: map[subjectKey]*subject{}, merged: map[subjectKey][]*subject{}, watches: map[subjectKey]*watched{}, addresses: map[netip.Addr]int{}}
	h.queued.L = &h.mu
	return h
}

// run computes and hands out until ctx ends.
func (h *streams) run(ctx context.Context) {
	var workers sync.WaitGroup
	// Half of the processors, so that checks find the other half free when the catalog changes and all streams are due at once.
	for range max(1, runtime.GOMAXPROCS(0)/2) {
		workers.Go(h.work)
	}
	tick := time.NewTicker(streamsSweepEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			h.sweep(h.edge.now(), time.Now())
			continue
		case <-ctx.Done():
		}
		break
	}
	h.stop()
	workers.Wait()
}

// stop ends the workers and lets no further stream begin. The open ones end by themselves: Edge.stopped is closed.
func (h *streams) stop() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.stopped = true
	h.queued.Broadcast()
}

// join makes room for a stream. Error: a problem, too-many-requests or unavailable.
func (h *streams) join(st *stream) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	open, key := int(h.open.Load()), subjectKey{st.session.env, st.session.account}
	s := h.subjects[key]
	switch {
	case h.stopped:
		return problem.New(problem.Unavailable, "This edge is stopping.").After(retryAfter)
	case open >= maxStreams:
		return problem.New(problem.TooManyRequests, "This edge has no room for another stream.").After(crowdedRetryAfter)
	case open >= crowded && s != nil && len(s.streams) >= maxAccountStreams:
		return problem.New(problem.TooManyRequests, "The account has too many streams open.").After(crowdedRetryAfter)
	case open >= crowded && h.addresses[st.address] >= maxAddressStreams:
		return problem.New(problem.TooManyRequests, "Too many streams are open from this address.").After(crowdedRetryAfter)
	}
	if s == nil {
		s = &subject{key: key, record: key}
		h.subjects[key] = s
	}
	st.subject = s
	s.streams = append(s.streams, st)
	h.addresses[st.address]++
	h.open.Add(1)
	h.enqueue(s)
	return nil
}

// begin notes that st has its connection, and reports whether it may be served.
func (h *streams) begin(st *stream) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.stopped || st.left {
		return false
	}
	st.begun = true
	h.serving.Add(1)
	return true
}

// leave frees the place of st. It may be called more than once.
func (h *streams) leave(st *stream) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.remove(st)
}

func (h *streams) remove(st *stream) {
	if st.left {
		return
	}
	st.left = true
	s := st.subject
	s.streams = slices.DeleteFunc(s.streams, func(o *stream) bool { return o == st })
	if len(s.streams) == 0 {
		delete(h.subjects, s.key)
		h.follow(s, s.key)
	}
	if h.addresses[st.address]--; h.addresses[st.address] == 0 {
		delete(h.addresses, st.address)
	}
	h.open.Add(-1)
}

// follow notes whose record answers for s. The caller holds h.mu.
func (h *streams) follow(s *subject, record subjectKey) {
	if s.record == record {
		return
	}
	if s.record != s.key {
		left := slices.DeleteFunc(h.merged[s.record], func(o *subject) bool { return o == s })
		if h.merged[s.record] = left; len(left) == 0 {
			delete(h.merged, s.record)
		}
	}
	if s.record = record; record != s.key {
		h.merged[record] = append(h.merged[record], s)
	}
}

// watched is an account whose next change requests wait for.
type watched struct {
	key     subjectKey
	moved   chan struct{} // closed at the change
	due     int64         // or then, Unix seconds
	waiting int
}

// watch returns what tells of the next change of an account's record, or of until having come. It is given back with unwatch.
func (h *streams) watch(key subjectKey, until int64) *watched {
	h.mu.Lock()
	defer h.mu.Unlock()
	w := h.watches[key]
	if w == nil {
		w = &watched{key: key, moved: make(chan struct{}), due: until}
		h.watches[key] = w
		h.watching.Add(1)
	}
	w.waiting++
	return w
}

func (h *streams) unwatch(w *watched) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if w.waiting--; w.waiting == 0 && h.watches[w.key] == w {
		delete(h.watches, w.key)
		h.watching.Add(-1)
	}
}

// move lets go who waits for an account. The caller holds h.mu.
func (h *streams) move(w *watched) {
	close(w.moved)
	delete(h.watches, w.key)
	h.watching.Add(-1)
}

// enqueue has s computed. The caller holds h.mu.
func (h *streams) enqueue(s *subject) {
	switch {
	case s.working:
		s.again = true
	case !s.queued:
		s.queued = true
		h.queue = append(h.queue, s)
		h.queued.Signal()
	}
}

// applied is told of the changes that the replica has taken over.
func (h *streams) applied(changes [][]byte) {
	if h.open.Load() == 0 && h.watching.Load() == 0 {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, encoded := range changes {
		c, _, err := replication.ParseChange(encoded)
		switch {
		case err != nil: // never: the replica has read it
		case c.Kind == replication.KindAccount, c.Kind == replication.KindPointer:
			key := subjectKey{c.Env, entitlement.AccountID(c.Key)}
			if s := h.subjects[key]; s != nil {
				h.enqueue(s)
			}
			for _, s := range h.merged[key] {
				h.enqueue(s)
			}
			if w := h.watches[key]; w != nil {
				h.move(w)
			}
		case c.Kind == replication.KindCatalog:
			h.enqueueAll(c.Env)
		case c.Kind == replication.KindKeys && c.Key == replication.CurrentKey:
			// Sessions may not be valid any more under the new keys. Each stream ends at its next comment, hence not all at once, and who comes back
			// is looked at again.
			for _, s := range h.subjects {
				for _, st := range s.streams {
					if s.key.env == c.Env {
						st.endAt.Store(0)
					}
				}
			}
		}
	}
}

// replaced is told that all records may have changed.
func (h *streams) replaced() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.enqueueAll("")
	for _, w := range h.watches {
		h.move(w)
	}
}

func (h *streams) enqueueAll(env entitlement.Environment) {
	for _, s := range h.subjects {
		if env == "" || s.key.env == env {
			h.enqueue(s)
		}
	}
}

// sweep has computed what is due at now, ends streams whose session is over, and forgets those whose connection was lost before they began.
func (h *streams) sweep(now int64, wall time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	var lost []*stream
	for _, s := range h.subjects {
		if s.due != 0 && now >= s.due {
			s.due = 0
			h.enqueue(s)
		}
		for _, st := range s.streams {
			if now >= st.session.expiresAt {
				st.end(endedSession)
			}
			if !st.begun && wall.Sub(st.joined) > h.patience {
				lost = append(lost, st)
			}
		}
	}
	for _, st := range lost {
		h.remove(st)
	}
	for _, w := range h.watches {
		if now >= w.due {
			h.move(w)
		}
	}
}

// work computes what subjects show until the streams are stopped.
func (h *streams) work() {
	c := checks.Get().(*check)
	var list []*stream
	for {
		h.mu.Lock()
		for len(h.queue) == 0 && !h.stopped {
			h.queued.Wait()
		}
		if h.stopped {
			h.mu.Unlock()
			return
		}
		s := h.queue[0]
		h.queue[0] = nil
		h.queue = h.queue[1:]
		s.queued, s.working, s.again = false, true, false
		list = append(list[:0], s.streams...)
		h.mu.Unlock()

		record, due, err := h.tell(s.key, list, c)

		clear(list)
		h.mu.Lock()
		if err != nil && !s.failing && !errors.Is(err, replication.ErrNoData) {
			h.edge.log.LogAttrs(h.edge.logContext(), slog.LevelWarn, "answer of a stream not computed", slog.Any("error", err))
		}
		s.failing = err != nil
		if len(s.streams) > 0 && s.record != record {
			h.follow(s, record)
			s.again = true // it may have changed before we listened
		}
		if s.working, s.due = false, due; s.again && len(s.streams) > 0 {
			h.enqueue(s)
		}
		h.mu.Unlock()
	}
}

// tell hands every stream in list what its account may use now, unless it shows that already. record is the account whose record says so; due is when that
// changes by time alone; with an error, when to try again.
func (h *streams) tell(key subjectKey, list []*stream, c *check) (record subjectKey, due int64, err error) {
	e := h.edge
	record, due = key, e.now()+streamsRetrySeconds
	defer func() {
		if p := recover(); p != nil { // a fault of one account must not end the process
			err = fmt.Errorf("panic: %v", p)
		}
	}()
	x, err := e.replica.Read()
	if err != nil {
		return record, due, err
	}
	defer x.Close()
	s, err := e.stateOf(&x)
	if err != nil {
		return record, due, err
	}
	env := s.environment(key.env)
	if env.unproven != nil {
		return record, due, env.unproven
	}
	now := e.clock.now(x.Head.AsOf)
	at := position{x.Head.Revision(), x.Head.AsOf}
	signer := env.key.signer.Load()
	signs := signer != nil && at.asOf > 0 && now < signer.ExpiresAt(at.asOf)
	made := map[string]*message{} // by device, which stands in the token
	until := int64(math.MaxInt64)
	for _, st := range list {
		k, err := e.known(env, &x, st.session, now)
		var p *problem.Problem
		switch {
		case errors.Is(err, errUnknownAccount):
			until = min(until, due) // between two changes of a merge, or erased
			continue
		case errors.As(err, &p):
			st.end(endedSession)
			continue
		case err != nil:
			return record, due, err
		}
		until, record.account = min(until, k.until), k.owner
		switch {
		case at.before(st.held):
			until = min(until, due) // it has something newer, from another edge
			continue
		case !signs:
			until = min(until, now+streamsUnsignedSeconds)
		}
		if st.told && st.shows == k.digest && (st.signed || !signs) {
			continue
		}
		m := made[st.session.device]
		if m == nil || m.at.before(st.held) {
			c.fresh = st.held != position{}
			t, err := e.issue(c, env, k, st.session, x.Head, now)
			if err != nil {
				return record, due, err
			}
			c.body = k.appendAnswer(c.body[:0], env.env, key.account, t, now)
			m = newMessage(t, c.body)
			made[st.session.device] = m
		}
		st.told, st.shows, st.signed = true, k.digest, signs
		st.offer(m)
		e.metrics.streamed.Inc()
	}
	return record, until, nil
}
