package writer

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// What a clock is held to. An edge that says as_of = T shows every write that was acknowledged before T - 2 s. The leader's head is dated by its
// own clock, so that clock may be ahead of the others' by less than 2 s in all: clockLimit, what a measurement may be wrong by
// (vitalsRoundTrip/2), and clockStep sum up to 1.75 s. Rounding down to whole seconds only makes as_of older.
const (
	// clockLimit is how far a writer's clock may be off a majority's.
	clockLimit = time.Second
	// clockStep is by how much a clock may move against the monotonic one between two rounds: slewing moves it by 0.5 ms, setting it by more.
	clockStep = 500 * time.Millisecond
	// clockKept is how long a measurement counts when newer ones fail: clocks run steadily, and drift some 0.1 ms meanwhile.
	clockKept = 10 * time.Second
	// clockGrace is how long after its start a node stamps nothing before it has compared its clock with a majority. It usually
	// takes some milliseconds; where the others do not answer at all, the cluster must still come up.
	clockGrace = 5 * time.Second
	// ownApart is how far apart the readings of the own clock and of the monotonic one may lie: little against clockStep. Usually it is less than a microsecond.
	ownApart = 5 * time.Millisecond
	// ownTries bounds how often they are taken anew.
	ownTries = 10
)

// errClockOff means that this writer's clock cannot be believed at present: nothing may be dated by it.
var errClockOff = errors.New("own clock not believed")

// clock is the time as this writer uses it.
//
// It is that of its own machine as long as nothing speaks against it. Two things do: it is more than clockLimit off a majority of writers
// (measured by judge), or it has just been set, seen as a step against the monotonic clock that no majority has confirmed yet. Time then goes on as it
// was before the step, or as a majority has it, and the node stamps no command and dates no head until its clock is right again: a
// stamp that is ahead would stop all other leaders until they get there, because stamps never go back, and a head that is ahead would have an edge
// promise what it does not hold. Where no majority can be asked, nobody knows whose clock is wrong, and the own one counts. A writer without
// others believes its own always.
type clock struct {
	raw  func() time.Time
	base time.Time // with a monotonic reading; elapsed times are from here
	kick chan struct{}
	line atomic.Pointer[timeline]

	mu    sync.Mutex // guards peers; one round at a time judges
	peers map[string]reading
}

// timeline is how the own clock is to be read.
type timeline struct {
	zero       time.Time     // what the own clock showed at base, seen from when it was last believed
	correction time.Duration // to be added to it: what a majority has
	alone      bool          // there is nobody to compare with
	compared   bool          // with a majority, since the start
	off        bool
	deviation  time.Duration // of a majority from the own clock; positive: they are ahead
}

// reading is what is known of another writer's clock.
type reading struct {
	zero  time.Time     // what it showed at base
	err   time.Duration // how wrong that may be
	taken time.Duration // when, after base
}

// newClock starts with the own clock, which is believed at once where there are no others.
func newClock(raw func() time.Time, writers int) *clock {
	c := &clock{raw: raw, base: time.Now(), kick: make(chan struct{}, 1), peers: map[string]reading{}}
	zero, _ := c.own()
	c.line.Store(&timeline{zero: zero, alone: writers <= 1})
	return c
}

// own reads the own clock: what it would have shown at base, and how long ago base is. A machine that pauses between the two readings, as one that is overloaded or
// virtual does, would show a clock that was set: then both are taken anew.
func (c *clock) own() (zero time.Time, elapsed time.Duration) {
	for range ownTries {
		before := time.Since(c.base)
		shown := c.raw().Round(0)
		elapsed = time.Since(c.base)
		zero = shown.Add(-elapsed)
		if elapsed-before < ownApart {
			break
		}
	}
	return zero, elapsed
}

// now returns the time to use.
func (c *clock) now() time.Time {
	now, _ := c.read()
	return now
}

// believed returns errClockOff while nothing may be dated by this clock.
func (c *clock) believed() error {
	_, err := c.read()
	return err
}

// read returns the time to use, and errClockOff when nothing may be dated by it.
func (c *clock) read() (time.Time, error) {
	line := c.line.Load()
	if line.alone {
		return c.raw(), nil
	}
	zero, elapsed := c.own()
	if step := zero.Sub(line.zero); step.Abs() > clockStep {
		select {
		case c.kick <- struct{}{}: // the others are asked at once
		default:
		}
		return line.zero.Add(elapsed + line.correction), fmt.Errorf("clock was set by %s: %w", step.Round(time.Millisecond), errClockOff)
	}
	now := zero.Add(elapsed + line.correction)
	switch {
	case line.off:
		return now, fmt.Errorf("clock is %s off: %w", line.deviation.Round(time.Millisecond), errClockOff)
	case !line.compared && elapsed < clockGrace:
		return now, fmt.Errorf("not compared yet: %w", errClockOff)
	}
	return now, nil
}

// wrong reports that a majority has another time, or that the own clock was set and no majority confirms it: somebody else should lead.
func (c *clock) wrong() bool {
	line := c.line.Load()
	zero, _ := c.own()
	return !line.alone && (line.off || zero.Sub(line.zero).Abs() > clockStep)
}

// measured notes another writer's clock: asked when the request left, and how long the answer took. The clock was read in between, so the
// middle is wrong by half the round trip at most, however unlike the two ways are. A slow answer says too little.
func (c *clock) measured(id string, theirs, asked time.Time, roundTrip time.Duration) {
	if roundTrip > vitalsRoundTrip {
		return
	}
	elapsed := asked.Sub(c.base)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.peers[id] = reading{zero: theirs.Round(0).Add(-elapsed - roundTrip/2), err: roundTrip / 2, taken: elapsed + roundTrip}
}

// round is one comparison with the others, from before they are asked.
type round struct {
	zero  time.Time // of the own clock
	began time.Duration
}

func (c *clock) begin() round {
	zero, elapsed := c.own()
	return round{zero: zero, began: elapsed}
}

// judge compares the own clock with the other writers', as measured since r began or not long before, and decides how it is read from now on. writers
// are all that vote, this one included or not.
func (c *clock) judge(r round, self string, writers []string) (changed bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	old := c.line.Load()
	zero, elapsed := c.own()
	if zero.Sub(r.zero).Abs() > clockStep {
		return false // it was set meanwhile: what was measured says nothing of it, and the next reading asks for another round
	}
	others := others(self, writers)
	stepped := !old.alone && zero.Sub(old.zero).Abs() > clockStep
	since := elapsed - clockKept
	if stepped { // all clocks may have been set together: what they showed before is no objection
		since = r.began
	}
	next := &timeline{zero: zero, alone: len(others) == 0, compared: old.compared, off: old.off, correction: old.correction, deviation: old.deviation}
	known := c.deviations(zero, others, since)
	agree := 1
	for _, d := range known {
		if d.Abs() <= clockLimit {
			agree++
		}
	}
	middle := middleOf(slices.Collect(maps.Values(known)), len(others)+1)
	limit := clockLimit
	if old.off { // not back and forth at the limit
		limit /= 2
	}
	switch {
	case next.alone:
		next.off, next.correction, next.deviation = false, 0, 0
	case middle.Abs() > limit:
		next.off, next.compared, next.correction, next.deviation = true, true, middle, middle
	case agree > (len(others)+1)/2:
		next.off, next.compared, next.correction, next.deviation = false, true, 0, middle
	case stepped: // and nobody confirms it
		next.zero = old.zero
	}
	c.line.Store(next)
	return next.off != old.off
}

// deviations returns how far each of others is ahead of a clock that showed zero at base; missing are those that were not measured since then.
func (c *clock) deviations(zero time.Time, others []string, since time.Duration) map[string]time.Duration {
	known := map[string]time.Duration{}
	for _, id := range others {
		if r, measured := c.peers[id]; measured && r.taken >= since {
			known[id] = r.zero.Sub(zero)
		}
	}
	return known
}

// good returns those of writers whose clocks are not off a majority's, as far as this node has measured. self is not among them.
func (c *clock) good(self string, writers []string) map[string]bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	zero, elapsed := c.own()
	others := others(self, writers)
	known := c.deviations(zero, others, elapsed-clockKept)
	good := map[string]bool{}
	for id, theirs := range known {
		seen := []time.Duration{-theirs} // the own clock, as that one sees it
		for other, d := range known {
			if other != id {
				seen = append(seen, d-theirs)
			}
		}
		good[id] = middleOf(seen, len(others)+1).Abs() <= clockLimit
	}
	return good
}

// middleOf returns by how much a majority of n clocks is off one of them, on the side where there is a majority: the median of n deviations, of two middle
// ones the smaller. Those that are not known, and the clock itself, count as no deviation. So of three clocks with three times the middle one is
// right, and of two nobody knows.
func middleOf(known []time.Duration, n int) time.Duration {
	all := append(make([]time.Duration, n-len(known)), known...)
	slices.Sort(all)
	low, high := all[(n-1)/2], all[n/2]
	if low.Abs() < high.Abs() {
		return low
	}
	return high
}

// others returns the writers without self.
func others(self string, writers []string) []string {
	return slices.DeleteFunc(slices.Clone(writers), func(id string) bool { return id == self })
}

// ClockStatus says how this writer's clock compares with the others'.
type ClockStatus struct {
	// Believed is false while this writer dates nothing: its clock is more than 1 s off a majority of writers, was set a moment ago, has
	// not been compared since the start, or is more than 5 s behind the newest stamp.
	Believed bool   `json:"believed"`
	Reason   string `json:"reason,omitempty"` // why not
	// OffsetSeconds is by how much a majority of writers is ahead of this one.
	OffsetSeconds float64 `json:"offset_seconds"`
	// Offsets are the others', those measured within the last 10 s, by id.
	Offsets []ClockOffset `json:"offsets"`
}

// ClockOffset is how far another writer's clock is ahead of this one's.
type ClockOffset struct {
	ID            string  `json:"id"`
	OffsetSeconds float64 `json:"offset_seconds"` // negative: it is behind
	ErrorSeconds  float64 `json:"error_seconds"`  // the offset is right within this: half the round trip
}

// ClockStatus returns what this writer knows of its clock and the others'.
func (w *Writer) ClockStatus() ClockStatus {
	s := ClockStatus{Believed: true, Offsets: []ClockOffset{}}
	if err := w.store.CheckClock(); err != nil { // asks w.clock too
		s.Believed, s.Reason = false, err.Error()
	}
	c := w.clock
	s.OffsetSeconds = c.line.Load().deviation.Seconds()
	c.mu.Lock()
	defer c.mu.Unlock()
	zero, _ := c.own()
	elapsed := time.Since(c.base)
	for id, r := range c.peers {
		if elapsed-r.taken <= clockKept {
			s.Offsets = append(s.Offsets, ClockOffset{ID: id, OffsetSeconds: r.zero.Sub(zero).Seconds(), ErrorSeconds: r.err.Seconds()})
		}
	}
	slices.SortFunc(s.Offsets, func(a, b ClockOffset) int { return strings.Compare(a.ID, b.ID) })
	return s
}
