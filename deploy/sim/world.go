package main

import (
	"container/heap"
	"errors"
	"fmt"
	"hash"
	"hash/fnv"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime/debug"
	"time"
)

// epochTime is the Unix time at which every simulated history begins.
const epochTime = 1_790_000_000

// world is one installation: writers, edges and what lies between them, under one clock and one source of chance. Everything happens in
// events, one at a time.
type world struct {
	seed  uint64
	rand  *rand.Rand
	now   time.Duration // since epochTime
	queue events
	seq   uint64
	steps int
	trace trace
	dir   string

	keys    *keys
	cluster *cluster
	bus     *bus
	edges   []*edge
	load    *load
	judge   *judge
	calm    bool // no faults any more
}

// event is something that happens at a time. Of those at the same time the one with the smaller draw is first.
type event struct {
	at   time.Duration
	draw uint64
	do   func()
}

type events []event

func (q events) Len() int { return len(q) }
func (q events) Less(i, j int) bool {
	if q[i].at != q[j].at {
		return q[i].at < q[j].at
	}
	return q[i].draw < q[j].draw
}
func (q events) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *events) Push(x any)   { *q = append(*q, x.(event)) }
func (q *events) Pop() any {
	old := *q
	x := old[len(old)-1]
	old[len(old)-1] = event{}
	*q = old[:len(old)-1]
	return x
}

// after lets do happen in d from now.
func (w *world) after(d time.Duration, do func()) {
	w.seq++
	// Chance first, so that order is not that of the program; the number below, so that no two are equal.
	heap.Push(&w.queue, event{w.now + max(0, d), w.rand.Uint64()&^0xfffff | w.seq&0xfffff, do})
}

// between draws a time from low to high.
func (w *world) between(low, high time.Duration) time.Duration {
	return low + time.Duration(w.rand.Int64N(int64(high-low)+1))
}

// chance is true once in n.
func (w *world) chance(n int) bool { return w.rand.IntN(n) == 0 }

// clock is the true time.
func (w *world) clock() time.Time { return time.Unix(epochTime, 0).Add(w.now) }

// unix is the true time in seconds.
func (w *world) unix() int64 { return w.clock().Unix() }

// run lets events happen until the time is come.
func (w *world) run(until time.Duration) {
	for len(w.queue) > 0 && w.queue[0].at <= until {
		e := heap.Pop(&w.queue).(event)
		w.now = e.at
		w.steps++
		e.do()
	}
	w.now = until
}

// trace is what happened: a hash of all of it, and its end in words.
type trace struct {
	sum  hash.Hash64
	tail []string
	next int
}

// tailLines is how many of the last steps a failure shows.
const tailLines = 60

func (w *world) note(format string, args ...any) {
	line := fmt.Sprintf("%9.3f ", w.now.Seconds()) + fmt.Sprintf(format, args...)
	w.trace.sum.Write([]byte(line))
	if len(w.trace.tail) < tailLines {
		w.trace.tail = append(w.trace.tail, line)
	} else {
		w.trace.tail[w.trace.next%tailLines] = line
	}
	w.trace.next++
}

// last returns the end of the trace in order.
func (t *trace) last() []string {
	if len(t.tail) < tailLines {
		return t.tail
	}
	at := t.next % tailLines
	return append(append([]string(nil), t.tail[at:]...), t.tail[:at]...)
}

// violation is what a checker found.
type violation struct {
	invariant string
	text      string
}

func (v *violation) Error() string { return v.invariant + ": " + v.text }

// wrong ends the seed: an invariant does not hold.
func (w *world) wrong(invariant, format string, args ...any) {
	panic(&violation{invariant, fmt.Sprintf(format, args...)})
}

// must ends the seed on an error that only a broken machine gives.
func must(err error) {
	if err != nil {
		panic(err)
	}
}

// outcome is what became of one seed.
type outcome struct {
	seed   uint64
	steps  int
	trace  uint64
	counts counts
	failed *violation
	tail   []string
	stack  string
}

// counts say what a seed was about.
type counts struct {
	Acknowledged, Elections, Kills, Losses, Epochs, Forged, Dropped, Snapshots, Damaged, Checks int
}

// simulate plays one seed in a folder of its own below dir.
func simulate(seed uint64, dir string) (o outcome) {
	w := &world{seed: seed, rand: rand.New(rand.NewPCG(seed, 0x5eed)), dir: filepath.Join(dir, fmt.Sprint("seed-", seed)), trace: trace{sum: fnv.New64a()}}
	must(os.MkdirAll(w.dir, 0o700))
	defer func() {
		if p := recover(); p != nil {
			if err, ok := p.(error); !ok || !errors.As(err, &o.failed) {
				o.failed, o.stack = &violation{"I16", fmt.Sprintf("panic: %v", p)}, string(debug.Stack())
			}
		}
		w.close()
		o.seed, o.steps, o.trace = seed, w.steps, w.trace.sum.Sum64()
		o.tail = w.trace.last()
		if w.judge != nil {
			o.counts = w.judge.counts
		}
	}()
	w.open()
	w.play()
	return o
}

func (w *world) close() {
	if w.cluster != nil {
		for _, n := range w.cluster.writers {
			if n.up() {
				_ = n.machine.Close() // the folder goes with it
			}
		}
	}
	for _, e := range w.edges {
		e.close()
	}
	must(os.RemoveAll(w.dir))
}

// How long the parts of a history are. All of it is virtual.
const (
	troubleLeast = 6 * time.Second
	troubleMost  = 12 * time.Second
	// convergence is how soon after the last fault every edge must be where the writers are (I19).
	convergence = 5 * time.Second
	// quick is how soon a change must be everywhere while nothing is wrong.
	quick = 250 * time.Millisecond
)

// open builds the installation.
func (w *world) open() {
	w.judge = newJudge(w)
	w.keys = newKeys()
	w.bus = &bus{w: w}
	w.cluster = newCluster(w, 1+2*w.rand.IntN(2))
	for i := range 1 + w.rand.IntN(3) {
		w.edges = append(w.edges, newEdge(w, i))
	}
	w.load = newLoad(w)
}

// play is a history: trouble, then peace, in which everything must become right and stay so.
func (w *world) play() {
	trouble := w.between(troubleLeast, troubleMost)
	for _, n := range w.cluster.writers {
		n.start()
	}
	w.cluster.elect()
	for _, e := range w.edges {
		e.start()
	}
	w.load.begin(trouble)
	w.after(w.between(0, 2*time.Second), func() { w.trouble(trouble) })
	w.run(trouble)

	w.peace()
	healed := w.now
	w.run(healed + convergence)
	w.judge.converged(healed)
	if w.bus.works() {
		for range 4 {
			w.load.write()
			w.run(w.now + w.between(5*time.Millisecond, 20*time.Millisecond))
			at := w.now
			w.run(at + quick)
			w.judge.propagated(at)
		}
	}
	w.run(w.now + time.Second)
	w.judge.final()
}
