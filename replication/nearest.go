package replication

import (
	"cmp"
	"slices"
	"time"
)

const (
	// distanceKept is how many of a writer's newest answers say how far away it is. The quickest of them counts: a first one that had to make its
	// connection, or one that waited behind others, says nothing of the way.
	distanceKept = 3
	// nearerBy is what another writer must save on each request, beside a quarter of the way to the one in use. Writers of one region differ by less, so
	// that their order stays the configured one and a busy minute moves nobody.
	nearerBy = 5 * time.Millisecond
)

// Distance is one measurement of the way to a writer: how long it took to answer with a signed head.
type Distance struct {
	Took   time.Duration
	Signed string
	Err    error // it did not answer
}

// way is what a ladder knows of the way to one writer.
type way struct {
	took [distanceKept]time.Duration // the newest first, 0 where there is none yet
	fit  bool                        // at the newest measurement it answered, with a head as new as the others'
}

// length is the quickest of the newest answers, 0 as long as there are not two of them: moving is worth more than one accident.
func (w *way) length() time.Duration {
	if w.took[1] == 0 {
		return 0
	}
	quickest := w.took[0]
	for _, took := range w.took[1:] {
		if took > 0 {
			quickest = min(quickest, took)
		}
	}
	return quickest
}

// Measured takes one measurement of every writer, in their order, and moves to the nearest one that serves if that is worth it. A writer that answers but is
// cut off from its cluster shows by an old head, and is not moved to. The one in use is never left here because it fails: that is seen sooner elsewhere.
func (l *Ladder) Measured(now time.Time, distances []Distance) {
	held := l.cfg.Replica.Head()
	newest := l.newestAsOf()
	heads := make([]Head, len(distances))
	for i, d := range distances {
		if d.Err != nil {
			continue
		}
		if h, err := l.cfg.Verifier.Head(d.Signed, held.AsOf); err == nil && h.Epoch == held.Epoch {
			heads[i] = h
			newest = max(newest, h.AsOf)
		}
	}
	for i, d := range distances {
		w := &l.ways[i]
		w.fit = heads[i].Epoch != 0 && newest-heads[i].AsOf <= int64(standstill/time.Second)
		if d.Err == nil {
			copy(w.took[1:], w.took[:])
			w.took[0] = max(d.Took, 1)
		}
	}
	nearest, inUse := l.Order()[0], l.writer
	if l.asked == AskSnapshot || now.Before(l.awayUntil) || !l.worth(nearest, inUse) {
		return
	}
	l.writer = nearest
	l.movedAt = now // it has as long as any other to show that it is alive
	l.interrupt = l.interrupt || l.asked == AskChanges
	l.cfg.Logger.Info("going over to a nearer writer", "round_trip_ms", l.ways[nearest].length().Milliseconds(), "before_ms", l.ways[inUse].length().Milliseconds())
}

// worth reports whether going from one writer to another saves enough.
func (l *Ladder) worth(to, from int) bool {
	near, far := l.ways[to].length(), l.ways[from].length()
	return l.ways[to].fit && near > 0 && far-near > nearerBy+far/4
}

// Order is the order in which writers are worth asking: those that serve before others, the nearer first, and as configured where nothing is known or the difference
// is too small to count.
func (l *Ladder) Order() []int {
	order := make([]int, len(l.ways))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int {
		if fa, fb := l.ways[a].fit, l.ways[b].fit; fa != fb {
			if fa {
				return -1
			}
			return 1
		}
		return cmp.Compare(l.ways[a].length()/nearerBy, l.ways[b].length()/nearerBy)
	})
	return order
}

// RoundTrip is how long the way to a writer and back takes, 0 as long as that is not known.
func (l *Ladder) RoundTrip(writer int) time.Duration { return l.ways[writer].length() }
