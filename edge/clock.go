package edge

import (
	"sync/atomic"
	"time"
)

// clock gives the edge's now: the newest head's as_of and the monotonic time since it came. The machine's own wall clock is used only
// before the first head of this process, and never below the as_of on the disk: a machine with a wrong clock gives right answers as long
// as it hears from a writer.
type clock struct {
	wall   func() time.Time
	anchor atomic.Pointer[anchor]
	last   atomic.Int64 // now never goes back
}

type anchor struct {
	asOf int64
	came time.Time // with the monotonic reading
}

// head notes that a newer as_of came in just now.
func (c *clock) head(asOf int64) {
	if old := c.anchor.Load(); asOf > 0 && (old == nil || asOf > old.asOf) {
		c.anchor.Store(&anchor{asOf: asOf, came: c.wall()})
	}
}

// now returns Unix seconds. asOf is what the replica holds.
func (c *clock) now(asOf int64) int64 {
	t := c.wall()
	now := t.Unix()
	if a := c.anchor.Load(); a != nil {
		now = a.asOf + int64(t.Sub(a.came)/time.Second)
	}
	now = max(now, asOf)
	for {
		last := c.last.Load()
		if now <= last {
			return last
		}
		if c.last.CompareAndSwap(last, now) {
			return now
		}
	}
}
