package main

import (
	"bytes"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/latchkey/latchkey/pkg/fault"
	"github.com/latchkey/latchkey/replication"
	"github.com/latchkey/latchkey/writer/writertest"
)

// writer is one writer: the real state machine and the real publisher, and around them what stands for its process: its log, its snapshots, its
// clock, its internal API.
type writer struct {
	c    *cluster
	w    *world
	id   int
	name string
	dir  string

	machine   *writertest.Machine // nil while it is down
	life      int                 // grows with each death: what belonged to an earlier life does not happen
	has       uint64              // last entry on its disk
	first     uint64              // first entry on its disk
	knows     uint64              // how much of the log it knows to be committed
	snapshots []snapshot          // on its disk, the older one first
	voter     bool
	applying  bool
	installing,
	cut bool // from the other writers
	left bool // behind in a history that was restored over
	held bool // restored, and the new epoch has not begun
	dark bool // its machine has no power
	skew time.Duration

	barrier   uint64 // what was committed before it led
	leading   bool   // thinks that it leads
	publisher *replication.Publisher
	publishes bool // a step of the publisher is on its way
	head      head
	polls     []poll
	spool     spooled
}

type snapshot struct {
	bytes  []byte
	index  uint64
	rotten bool // its bytes are not what was written
}

type head struct {
	replication.Head
	signed string
}

// poll is a request for changes that waits.
type poll struct {
	epoch, after uint64
	until        time.Duration
	answer       func(answer)
}

// answer is what a writer sends over HTTP.
type answer struct {
	status int
	header http.Header
	body   []byte
}

type spooled struct {
	manifest replication.Manifest
	body     []byte
	built    time.Duration
}

const (
	headInterval = time.Second
	// segmentBytes is small, so that segments are sealed all the time.
	segmentBytes = 8 << 10
	snapshotAge  = 30 * time.Second
)

func newWriter(c *cluster, i int) *writer {
	n := &writer{c: c, w: c.w, id: i, name: writerName(i), dir: filepath.Join(c.w.dir, writerName(i)), first: 1, voter: true}
	n.skew = c.w.between(-900*time.Millisecond, 900*time.Millisecond)
	return n
}

func (n *writer) up() bool { return n.machine != nil }

func (n *writer) clock() time.Time { return n.w.clock().Add(n.skew) }

// start brings the writer up with what is on its disk: the newest snapshot that verifies. The log since then comes once a leader says what of
// it is committed.
func (n *writer) start() {
	n.dark = false
	m, err := writertest.OpenMachine(n.dir, segmentBytes)
	must(err)
	n.machine = m
	for i := len(n.snapshots) - 1; i >= 0; i-- {
		if err = m.Restore(n.snapshots[i].bytes); err == nil {
			n.snapshots = n.snapshots[:i+1]
			break
		}
		if !n.snapshots[i].rotten {
			n.w.wrong("I16", "%s: its snapshot at %d does not verify: %v", n.name, n.snapshots[i].index, err)
		}
		n.w.note("%s refuses its snapshot at %d", n.name, n.snapshots[i].index)
	}
	if err != nil {
		n.w.wrong("I16", "%s: none of its snapshots verifies: %v", n.name, err)
	}
	n.knows = m.Applied()
	n.w.note("%s starts at %d", n.name, n.knows)
	if n.knows > 0 && !n.left {
		n.w.judge.applied(n)
	}
	life := n.life
	n.w.after(n.w.between(0, headInterval), func() { n.tick(life) })
}

// stop is the death of its process.
func (n *writer) stop() {
	if !n.up() {
		return
	}
	n.c.lost(n)
	must(n.machine.Close())
	n.machine = nil
	n.life++
	n.applying, n.installing, n.head, n.spool = false, false, head{}, spooled{}
	n.stepDown()
	n.polls = nil
}

// found makes the writer anew from a backup.
func (n *writer) found(b backup) {
	n.stop()
	must(os.RemoveAll(n.dir))
	n.has, n.first, n.snapshots = b.index, b.index+1, []snapshot{{bytes: b.bytes, index: b.index}}
	n.left, n.voter, n.held = false, true, true
	n.start()
	n.knows = b.index
}

// join makes a writer that was left behind a new, empty one.
func (n *writer) join() {
	n.left = false
	n.lose()
	n.start()
}

// lose takes its disk away; it comes back as an empty node that has no vote until it has everything.
func (n *writer) lose() {
	n.stop()
	must(os.RemoveAll(n.dir))
	n.has, n.first, n.snapshots, n.voter = 0, 1, nil, false
}

// sound is the newest snapshot that is what was written, nil if there is none.
func (n *writer) sound() *snapshot {
	for i := len(n.snapshots) - 1; i >= 0; i-- {
		if !n.snapshots[i].rotten {
			return &n.snapshots[i]
		}
	}
	return nil
}

// tear damages what a loss of power may damage: the journal beyond what was synced for the newest snapshot.
func (n *writer) tear() {
	var segment, offset = uint64(1), int64(0)
	if s := n.sound(); s != nil {
		// Restored beside, to learn where it says that the journal ends.
		dir := n.dir + "-look"
		m, err := writertest.OpenMachine(dir, segmentBytes)
		must(err)
		must(m.Restore(s.bytes))
		segment, offset, _ = m.Journal()
		must(errors.Join(m.Close(), os.RemoveAll(dir)))
	}
	path := filepath.Join(n.dir, "journal", segmentName(segment))
	info, err := os.Stat(path)
	if err != nil || info.Size() <= offset {
		return
	}
	keep := offset + n.w.rand.Int64N(info.Size()-offset)
	must(os.Truncate(path, keep))
	garbage := make([]byte, n.w.rand.IntN(200))
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0o600)
	must(err)
	_, err = f.Write(garbage)
	must(errors.Join(err, f.Close()))
}

func segmentName(n uint64) string {
	const digits = "00000000"
	text := []byte(digits)
	for i := len(text) - 1; n > 0; i-- {
		text[i] = byte('0' + n%10)
		n /= 10
	}
	return string(text) + ".seg"
}

// install puts a leader's snapshot into the place of the state.
func (n *writer) install(s snapshot) {
	if err := n.machine.Restore(s.bytes); err != nil {
		n.w.wrong("I16", "%s: a leader's snapshot at %d does not verify: %v", n.name, s.index, err)
	}
	n.w.note("%s has the leader's snapshot at %d", n.name, s.index)
	n.snapshots, n.has, n.first, n.held = []snapshot{s}, max(n.has, s.index), s.index+1, false
	n.knows = max(n.knows, s.index)
	n.w.judge.applied(n)
	n.moved()
}

// compact takes a snapshot and forgets the log behind it.
func (n *writer) compact() {
	if !n.up() || n.left || n.machine.Applied() == 0 {
		return
	}
	if k := len(n.snapshots); k > 0 && n.snapshots[k-1].index == n.machine.Applied() {
		return
	}
	b, err := n.machine.Snapshot()
	must(err)
	n.snapshots = append(n.snapshots, snapshot{bytes: b, index: n.machine.Applied()})
	if k := len(n.snapshots); k > 2 {
		n.snapshots = n.snapshots[k-2:]
	}
	if older := n.snapshots[0].index; len(n.snapshots) == 2 && older > trailing { // the log reaches back to the older one
		n.first = max(n.first, older+1-trailing)
	}
	n.w.note("%s takes a snapshot at %d", n.name, n.machine.Applied())
}

// soon lets the state machine go on.
func (n *writer) soon() {
	if n.applying || !n.up() || n.left || n.machine.Applied() >= n.knows {
		return
	}
	n.applying = true
	life := n.life
	n.w.after(n.w.between(0, 2*time.Millisecond), func() {
		if n.life == life {
			n.applying = false
			n.apply()
		}
	})
}

// apply applies a batch of what is committed, and tells whoever waits for it.
func (n *writer) apply() {
	if n.left || n.machine.Applied() >= n.knows {
		return
	}
	from := n.machine.Applied()
	until := min(n.knows, from+1+n.w.rand.Uint64N(24), uint64(len(n.c.log)))
	entries := make([]writertest.Entry, 0, until-from)
	for _, e := range n.c.log[from:until] {
		entries = append(entries, e.Entry)
	}
	results, err := n.machine.Apply(entries)
	if err != nil {
		n.w.wrong("I16", "%s: apply %d to %d: %v", n.name, from+1, until, err)
	}
	n.w.judge.applied(n)
	if n.c.leader == n {
		for i, r := range results {
			if e := &n.c.log[from+uint64(i)]; e.done != nil {
				done := e.done
				e.done = nil
				done(r, from+uint64(i)+1, nil)
			}
		}
	}
	if n.held && until > n.snapshots[0].index {
		n.held = false // the first entry after a restore begins the new epoch
	}
	n.moved()
	n.soon()
	n.ready()
}

// moved wakes whoever waits for changes.
func (n *writer) moved() {
	polls := n.polls
	n.polls = nil
	for _, p := range polls {
		n.changes(p)
	}
	n.publish()
}

// ready begins what only a leader does, once it holds all that was committed before it led.
func (n *writer) ready() {
	if n.leading || n.c.leader != n || n.machine.Applied() < n.barrier {
		return
	}
	n.leading = true
	n.publisher = replication.NewPublisher(replication.PublishConfig{
		Log: machineLog{n.machine}, Sign: n.position,
		Send: func(frame []byte) error { n.w.bus.publish(n, message{batch: frame}); return nil },
	})
	n.makeHead()
}

// stepDown ends it.
func (n *writer) stepDown() { n.leading, n.publisher = false, nil }

// machineLog is the change log of a machine.
type machineLog struct{ *writertest.Machine }

// Updated is not used: the world says when to look.
func (machineLog) Updated() <-chan struct{} { return nil }

func (n *writer) position(p replication.Position) (string, error) {
	return n.w.keys.ours.sign(n.id, p.Claims(n.clock().Unix())), nil
}

// publish lets the publisher take its steps.
func (n *writer) publish() {
	if n.publisher == nil || n.publishes || n.held {
		return
	}
	for {
		wait, err := n.publisher.Next(n.w.clock())
		switch {
		case err != nil:
			n.w.wrong("I5", "%s publishes: %v", n.name, err)
		case wait == 0:
			return
		case wait > 0:
			n.publishes = true
			life := n.life
			n.w.after(wait, func() {
				n.publishes = false
				if n.life == life {
					n.publish()
				}
			})
			return
		}
	}
}

// tick is the writer's second: a head of its own if it leads, else the leader's.
func (n *writer) tick(life int) {
	if n.life != life || !n.up() {
		return
	}
	n.w.after(headInterval, func() { n.tick(life) })
	if n.leading {
		n.makeHead()
		return
	}
	l := n.c.leader
	if l != nil && !n.left && !n.cut && n.c.reaches(n, l) && l.head.signed != "" {
		h := l.head
		n.w.after(n.w.between(time.Millisecond, 5*time.Millisecond), func() {
			if n.life == life && !n.left {
				n.keep(h)
			}
		})
	}
}

// makeHead is what the leader does each second: the time first, then the quorum, then the state, then the signature.
func (n *writer) makeHead() {
	if n.held {
		return
	}
	t0, index, term, life := n.clock(), n.knows, n.c.term, n.life
	careless := fault.Planted("head-without-quorum")
	var sign func()
	sign = func() {
		switch {
		case n.life != life || !n.up() || n.left || n.held:
			return
		case !careless && (n.c.term != term || !n.c.leads(n)):
			return
		case n.machine.Applied() < index:
			n.w.after(time.Millisecond, sign)
			return
		}
		h := replication.Head{Position: n.machine.Position(), AsOf: t0.Unix()}
		if h.Epoch == 0 {
			return
		}
		signed := n.w.keys.ours.sign(n.id, h.Claims(n.clock().Unix()))
		n.keep(head{h, signed})
		n.w.bus.publish(n, message{head: []byte(signed)})
	}
	n.w.after(n.w.between(time.Millisecond, 5*time.Millisecond), sign)
}

// keep replaces the head by a newer one.
func (n *writer) keep(h head) {
	if c := h.Revision().Compare(n.head.Revision()); c > 0 || c == 0 && h.AsOf >= n.head.AsOf {
		n.head = h
	}
}

func refuse(status int) answer { return answer{status: status} }

// busy is what a writer says that has too much to do.
func busy() answer {
	return answer{status: http.StatusServiceUnavailable, header: http.Header{"Retry-After": {"1"}}}
}

// ask is the writer's internal API.
func (n *writer) ask(r replication.Request, tell func(answer)) {
	if n.held || n.machine.Position().Epoch == 0 {
		tell(busy())
		return
	}
	switch r.Kind {
	case replication.AskHead:
		if n.head.signed == "" {
			tell(busy())
			return
		}
		tell(answer{status: http.StatusOK, body: []byte(n.head.signed)})
	case replication.AskChanges:
		n.changes(poll{r.After.Epoch, r.After.N, n.w.now + r.Wait.Truncate(time.Second), tell})
	case replication.AskSnapshot:
		n.snapshot(tell)
	}
}

// changes answers a request for changes, or keeps it waiting.
func (n *writer) changes(p poll) {
	at := n.machine.Position()
	over := n.w.now >= p.until
	switch {
	case at.Epoch != p.epoch, at.N < p.after && over:
		p.answer(refuse(http.StatusConflict))
		return
	case at.N <= p.after && !over:
		n.polls = append(n.polls, p)
		life := n.life
		n.w.after(p.until-n.w.now, func() { n.expire(life) })
		return
	}
	changes, at, err := n.machine.Changes(p.after, replication.MaxBatchChanges, replication.MaxBatchBytes)
	if errors.Is(err, replication.ErrBelowFloor) {
		p.answer(refuse(http.StatusGone))
		return
	}
	must(err)
	signed, err := n.position(at)
	must(err)
	p.answer(answer{status: http.StatusOK, body: replication.Batch{Signed: signed, Changes: changes}.AppendBinary(nil)})
}

// expire answers the requests whose wait is over.
func (n *writer) expire(life int) {
	if n.life != life {
		return
	}
	polls := n.polls
	n.polls = nil
	for _, p := range polls {
		n.changes(p)
	}
}

// snapshot serves the newest snapshot for edges.
func (n *writer) snapshot(tell func(answer)) {
	if n.w.chance(8) && !n.w.calm {
		tell(busy())
		return
	}
	at, s := n.machine.Position(), &n.spool
	if s.body == nil || s.manifest.Epoch != at.Epoch || s.manifest.N < n.machine.Floor() || s.manifest.N != at.N && n.w.now-s.built > snapshotAge {
		body, info := n.w.judge.snapshotOf(n)
		*s = spooled{replication.Manifest{Position: at, Size: info.Size, SHA256: info.SHA256}, body, n.w.now}
	}
	signed := n.w.keys.ours.sign(n.id, s.manifest.Claims(n.clock().Unix()))
	header := http.Header{"Etag": {`"` + s.manifest.SHA256.String() + `"`}}
	header.Set(replication.ManifestHeader, signed)
	tell(answer{status: http.StatusOK, header: header, body: s.body})
}

// writeSnapshot is what the writer's spool does.
func (n *writer) writeSnapshot() ([]byte, replication.SnapshotInfo) {
	var b bytes.Buffer
	var info replication.SnapshotInfo
	must(n.machine.View(func(r *writertest.Reader) (err error) {
		info, err = replication.WriteSnapshot(&b, r.Records)
		return err
	}))
	return b.Bytes(), info
}
