package main

import (
	"bytes"
	"errors"
	"slices"
	"time"

	"github.com/latchkey/latchkey/replication"
	"github.com/latchkey/latchkey/writer/writertest"
)

// cluster is what stands for Raft: one log of committed commands that every writer applies in order, whoever leads, whoever dies. Which
// writers have an entry on their disks is kept, so that no election and no crash may lose a committed one.
type cluster struct {
	w       *world
	writers []*writer
	log     []entry // that of index i stands at i-1
	leader  *writer // nil: none
	term    uint64
	life    int      // grows when the installation is restored from a backup
	limbo   [][]byte // proposed under a leader that went: they may come to be committed, or not
	stamp   int64
	backup  backup
}

// entry is a committed command; done is told its result by the leader that committed it.
type entry struct {
	writertest.Entry
	done func(r writertest.Result, index uint64, err error)
}

// backup is what an operator keeps of one writer.
type backup struct {
	bytes    []byte
	index    uint64
	position replication.Position
}

// What a proposal may come to, beside a result.
var (
	errNotLeader = errors.New("no leader within reach")
	errUnknown   = errors.New("outcome unknown")
	errClock     = errors.New("clock behind the last stamp")
)

const (
	heartbeat = 200 * time.Millisecond
	lease     = 500 * time.Millisecond
	// blind is for how long a leader that was frozen, say, may not notice that it leads no more.
	blind = 8 * time.Second
	// An election takes this long, from the loss of the leader.
	electionLeast, electionMost = 700 * time.Millisecond, 2 * time.Second
	// clockLag is how far behind the last stamp a leader's clock may be that proposes.
	clockLag = 5
	// trailing is how many entries writers keep behind a snapshot.
	trailing = 4
)

func newCluster(w *world, n int) *cluster {
	c := &cluster{w: w}
	for i := range n {
		c.writers = append(c.writers, newWriter(c, i))
	}
	w.after(heartbeat, c.beat)
	return c
}

// reaches reports whether a and b can talk.
func (c *cluster) reaches(a, b *writer) bool {
	return a == b || a.up() && b.up() && !a.cut && !b.cut && !a.left && !b.left
}

// eligible are the voters that can talk to each other.
func (c *cluster) eligible() []*writer {
	var list []*writer
	for _, n := range c.writers {
		if n.up() && !n.cut && !n.left && n.voter {
			list = append(list, n)
		}
	}
	return list
}

func (c *cluster) majority() int { return len(c.writers)/2 + 1 }

// leads reports whether n is the leader and could prove it now.
func (c *cluster) leads(n *writer) bool {
	return c.leader == n && n.up() && !n.cut && len(c.eligible()) >= c.majority()
}

// beat is the leader's heartbeat: followers learn what is committed; without a leader one is elected.
func (c *cluster) beat() {
	c.w.after(heartbeat, c.beat)
	if c.leader != nil && !c.leads(c.leader) {
		c.lost(c.leader)
	}
	if c.leader == nil {
		return
	}
	for _, n := range c.writers {
		c.teach(n)
	}
}

// lost notes that the leader is gone, or cut off: it steps down within its lease, and the others elect.
func (c *cluster) lost(n *writer) {
	if c.leader != n {
		return
	}
	c.leader = nil
	c.w.note("%s leads no more", n.name)
	life, notices := n.life, lease
	if c.w.chance(2) {
		notices = blind
	}
	c.w.after(c.w.between(0, notices), func() {
		if n.life == life && c.leader != n {
			n.stepDown()
		}
	})
	// What it had committed and not answered: nobody knows.
	for i := range c.log {
		if e := &c.log[i]; e.done != nil {
			done := e.done
			e.done = nil
			done(writertest.Result{}, 0, errUnknown)
		}
	}
	c.w.after(c.w.between(electionLeast, electionMost), c.elect)
}

// elect makes one of those that have everything the leader.
func (c *cluster) elect() {
	if c.leader != nil {
		return
	}
	voters := c.eligible()
	if len(voters) < c.majority() {
		c.w.after(electionLeast, c.elect)
		return
	}
	voters = slices.DeleteFunc(voters, func(n *writer) bool { return n.has < uint64(len(c.log)) })
	if len(voters) == 0 {
		c.w.wrong("I4", "no voter of a majority has all %d committed entries", len(c.log))
	}
	n := voters[c.w.rand.IntN(len(voters))]
	c.term++
	c.leader = n
	c.w.judge.counts.Elections++
	c.w.note("%s leads term %d", n.name, c.term)
	n.knows = uint64(len(c.log))
	limbo := c.limbo
	c.limbo = nil
	for _, data := range limbo {
		if c.w.chance(2) {
			c.commit(data, nil)
		}
	}
	if len(c.log) == 0 {
		c.stamp = n.clock().Unix()
		data := command(writertest.TypeInit, "", "", &writertest.Init{Cluster: clusterID, Rules: 1})
		writertest.SetStamp(data, c.stamp)
		c.commit(data, nil)
	}
	n.barrier = n.knows
	n.soon()
	n.ready()
}

// propose has a command committed that came to writer from.
func (c *cluster) propose(from *writer, encoded []byte, done func(writertest.Result, uint64, error)) {
	n := c.leader
	if n == nil || !from.up() || !c.reaches(from, n) || from.held || n.held || n.machine.Position().Epoch == 0 {
		done(writertest.Result{}, 0, errNotLeader)
		return
	}
	now := n.clock().Unix()
	if c.stamp = max(c.stamp, n.machine.Stamp()); c.stamp-now > clockLag {
		done(writertest.Result{}, 0, errClock)
		return
	}
	c.stamp = max(c.stamp, now)
	data := bytes.Clone(encoded)
	writertest.SetStamp(data, c.stamp)
	term, life := c.term, c.life
	c.w.after(c.w.between(time.Millisecond, 6*time.Millisecond), func() {
		switch {
		case c.life != life:
			done(writertest.Result{}, 0, errUnknown)
		case c.term == term && c.leads(n) && c.commit(data, done):
		default:
			c.limbo = append(c.limbo, data)
			done(writertest.Result{}, 0, errUnknown)
		}
	})
}

// commit brings an entry onto the disks of a majority. It reports whether there is one that can take it.
func (c *cluster) commit(data []byte, done func(writertest.Result, uint64, error)) bool {
	index := uint64(len(c.log) + 1)
	var able []*writer
	for _, n := range c.eligible() {
		if n != c.leader && n.has+1 >= c.leader.first {
			able = append(able, n)
		}
	}
	need := c.majority() - 1
	if len(able) < need {
		return false
	}
	c.w.rand.Shuffle(len(able), func(i, j int) { able[i], able[j] = able[j], able[i] })
	for _, n := range able[:need] {
		n.has = index
	}
	c.log = append(c.log, entry{writertest.Entry{Index: index, Term: c.term, Data: data}, done})
	c.leader.has, c.leader.knows = index, index
	c.leader.soon()
	for _, n := range c.writers {
		if n != c.leader && !c.w.chance(8) { // else the next heartbeat tells
			c.w.after(c.w.between(time.Millisecond, 25*time.Millisecond), func() { c.teach(n) })
		}
	}
	return true
}

// teach tells a follower what is committed, and gives it what it lacks: entries, or a snapshot where the leader has no more of them.
func (c *cluster) teach(n *writer) {
	l := c.leader
	if l == nil || n == l || !n.up() || !c.reaches(n, l) || n.installing {
		return
	}
	if n.leading {
		n.stepDown()
	}
	if n.has+1 >= l.first {
		n.has, n.knows, n.voter = uint64(len(c.log)), uint64(len(c.log)), true
		n.soon()
		return
	}
	newest := l.sound()
	if newest == nil {
		l.compact()
		return
	}
	n.installing = true
	life, s := n.life, *newest
	c.w.after(c.w.between(5*time.Millisecond, 80*time.Millisecond), func() {
		if n.life != life || !n.up() {
			return
		}
		n.installing = false
		if s.index > n.machine.Applied() {
			n.install(s)
		}
		c.teach(n)
	})
}

// takeBackup keeps what an operator's backup of one writer holds.
func (c *cluster) takeBackup() {
	for _, n := range c.writers {
		if n.up() && !n.left && !n.held && n.machine.Position().Epoch != 0 {
			b, err := n.machine.Snapshot()
			must(err)
			c.backup = backup{b, n.machine.Applied(), n.machine.Position()}
			c.w.note("backup of %s at %d", n.name, c.backup.index)
			return
		}
	}
}

// restore puts the backup into the place of everything: what came after it is gone, and a new epoch begins. One writer may be left behind in
// the old history for a while.
func (c *cluster) restore() {
	if c.backup.bytes == nil {
		return
	}
	b := c.backup
	c.w.note("restored from the backup at %d of %d", b.index, len(c.log))
	c.w.judge.counts.Epochs++
	if c.leader != nil {
		c.lost(c.leader)
	}
	c.life++
	c.limbo = nil
	c.log = c.log[:b.index]
	c.w.judge.restored(b.index)
	var left *writer
	if len(c.writers) > 1 && c.w.chance(2) {
		left = c.writers[c.w.rand.IntN(len(c.writers))]
	}
	for _, n := range c.writers {
		n.cut = false
		if n == left && n.up() {
			n.left = true
			n.stepDown()
			c.w.after(c.w.between(time.Second, 4*time.Second), func() {
				if n.left {
					n.join()
				}
			})
			continue
		}
		n.found(b)
	}
	c.leader, c.term = nil, c.term+1
	c.w.after(c.w.between(100*time.Millisecond, time.Second), c.raise)
}

// raise elects the first leader after a restore, and begins the new epoch.
func (c *cluster) raise() {
	c.elect()
	n := c.leader
	if n == nil || !n.held {
		if n == nil {
			c.w.after(electionLeast, c.raise)
		}
		return
	}
	// An operator who restores twice does it with clocks that agree: else the second epoch could be below the first.
	c.stamp = max(n.machine.Stamp(), n.clock().Unix(), int64(c.w.judge.newest)+1)
	data := command(writertest.TypeRaiseEpoch, "", "", &writertest.RaiseEpoch{Cause: "restore"})
	writertest.SetStamp(data, c.stamp)
	if !c.commit(data, nil) {
		c.w.after(electionLeast, c.raise)
	}
}
