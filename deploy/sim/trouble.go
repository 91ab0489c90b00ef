package main

import (
	"bytes"
	"time"

	"github.com/latchkey/latchkey/writer/writertest"
)

// trouble does something bad, and again, until the time is come.
func (w *world) trouble(until time.Duration) {
	if w.now >= until {
		return
	}
	w.after(w.between(50*time.Millisecond, 900*time.Millisecond), func() { w.trouble(until) })
	c := w.cluster
	n := c.writers[w.rand.IntN(len(c.writers))]
	e := w.edges[w.rand.IntN(len(w.edges))]
	while := func() time.Duration { return w.between(10*time.Millisecond, 4*time.Second) }
	switch w.rand.IntN(23) {
	case 0, 1: // a writer dies
		w.kill(n, w.chance(2), while())
	case 2: // the leader dies
		if c.leader != nil {
			w.kill(c.leader, w.chance(2), while())
		}
	case 3: // a writer is cut off from the others
		w.note("%s cut off", n.name)
		n.cut = true
		w.after(while(), func() { n.cut = false })
	case 4: // the leader is
		if l := c.leader; l != nil {
			w.note("%s cut off", l.name)
			l.cut = true
			w.after(2*while(), func() { l.cut = false })
		}
	case 5: // a writer loses its disk, while the others have everything
		w.loseDisk(n, while())
	case 6, 7:
		n.compact()
	case 8: // the change log is trimmed
		if l := c.leader; l != nil && l.machine.Position().N > 2 {
			floor := l.machine.Position().N - w.rand.Uint64N(3)
			c.propose(l, command(writertest.TypeTrim, "", "", &writertest.Trim{Floor: floor}), func(writertest.Result, uint64, error) {})
		}
	case 9:
		c.takeBackup()
	case 10:
		if w.chance(2) {
			c.restore()
		}
	case 11, 12: // an edge dies
		if e.up() {
			w.note("%s killed", e.name)
			w.judge.counts.Kills++
			switch w.rand.IntN(4) {
			case 0:
				e.losePower()
			case 1:
				e.loseFile()
			default:
				e.stop()
			}
			w.revive(e, while())
		}
	case 13: // bits of an edge's file change
		if e.up() {
			e.flip()
		}
	case 14, 15: // an edge is cut off from some writers
		for i := range e.cut {
			e.cut[i] = w.chance(2)
		}
		w.note("%s cut off from writers %v", e.name, e.cut)
		w.after(while(), func() { e.cut = [mostWriters]bool{} })
	case 16: // the bus carries nothing for a while, or lies, or keeps heads back
		if !w.bus.forever {
			b := w.bus
			b.cut, b.hostile, b.withhold = w.chance(3), w.chance(2), w.chance(3)
			w.note("bus cut %t hostile %t withholds heads %t", b.cut, b.hostile, b.withhold)
			if b.forever = w.chance(6); !b.forever {
				w.after(while(), func() {
					if !b.forever {
						b.cut, b.hostile, b.withhold = false, false, false
					}
				})
			}
		}
	case 17, 18, 19: // a stranger speaks
		if e.up() {
			w.bus.lie(e)
		}
	case 20: // a clock is set
		n.skew = w.between(-900*time.Millisecond, 900*time.Millisecond)
	case 21: // an edge reaches only a writer that falls behind, and then needs a snapshot
		if n != c.leader && e.up() {
			w.note("%s cut off, and %s left with it", n.name, e.name)
			n.cut = true
			for i := range e.cut {
				e.cut[i] = i != n.id
			}
			e.later(w.between(500*time.Millisecond, 3*time.Second), e.flip)
			w.after(3*time.Second+while(), func() { n.cut, e.cut = false, [mostWriters]bool{} })
		}
	case 22: // a writer's newest snapshot rots
		if k := len(n.snapshots); k > 1 && !n.snapshots[0].rotten {
			s := &n.snapshots[k-1]
			s.bytes, s.rotten = bytes.Clone(s.bytes), true
			if w.chance(2) {
				s.bytes[w.rand.IntN(8)] ^= 1
			} else {
				s.bytes = s.bytes[:len(s.bytes)/2]
			}
		}
	}
}

// kill ends a writer, with or without the power of its machine, and starts it again.
func (w *world) kill(n *writer, power bool, down time.Duration) {
	if !n.up() {
		return
	}
	w.note("%s killed, power lost %t", n.name, power)
	w.judge.counts.Kills++
	n.stop()
	if power {
		n.tear()
		n.dark = true
	}
	life := n.life
	w.after(down, func() {
		if n.life == life && !n.up() {
			n.start()
		}
	})
}

// loseDisk takes a writer's disk if all others can do without.
func (w *world) loseDisk(n *writer, down time.Duration) {
	c := w.cluster
	for _, o := range c.writers {
		if len(c.writers) < 3 || o.left || o.held || o != n && (!o.up() || o.cut || !o.voter || o.has < uint64(len(c.log))) {
			return
		}
	}
	w.note("%s loses its disk", n.name)
	w.judge.counts.Losses++
	n.lose()
	life := n.life
	w.after(down, func() {
		if n.life == life && !n.up() {
			n.start()
		}
	})
}

// revive starts an edge again, on the machine as it then is.
func (w *world) revive(e *edge, in time.Duration) {
	life := e.life
	w.after(in, func() {
		if e.life == life && !e.up() {
			e.start()
		}
	})
}

// peace ends all trouble: everything that is down comes back, everything that is cut is whole. A bus that lies for ever goes on.
func (w *world) peace() {
	w.note("peace")
	w.calm = true
	c := w.cluster
	for _, n := range c.writers {
		n.cut = false
		if n.left {
			n.join()
		}
		if !n.up() {
			n.start()
		}
	}
	if b := w.bus; !b.forever {
		b.cut, b.hostile, b.withhold = false, false, false
	}
	for _, e := range w.edges {
		e.cut = [mostWriters]bool{}
		if !e.up() {
			e.start()
		}
	}
}
