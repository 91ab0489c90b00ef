package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/latchkey/latchkey/edge/edgetest"
	"github.com/latchkey/latchkey/replication"
)

// edge is one edge: the real replica on a real file, the real ladder, and the real client's reading of what writers answer; around them what
// stands for its process, its disk and its network.
type edge struct {
	w    *world
	id   int
	name string
	dir  string
	boot string

	replica *edgetest.Replica // nil while it is down
	ladder  *replication.Ladder
	life    int
	cut     [mostWriters]bool // from writers

	asking   int // number of the pull lane's present request; another's answer is not told
	inFlight replication.RequestKind
	climb    *replication.Climb
	climbing replication.Request
	asleep   bool
	headBusy bool

	synced map[string][]byte    // file contents as of the last sync
	seen   replication.Head     // by the judge
	floor  replication.Revision // what was served once
	builds int                  // snapshots adopted in this life
}

// How long the client waits, as its constants say.
const (
	headTimeout  = 3 * time.Second
	pullGrace    = 5 * time.Second
	buildTimeout = 5 * time.Minute
)

// What becomes of a request that is not answered.
var (
	errLost    = fmt.Errorf("no answer in time: %w", replication.ErrUnavailable)
	errRefused = fmt.Errorf("connection refused: %w", replication.ErrUnavailable)
	errReset   = fmt.Errorf("connection reset: %w", replication.ErrUnavailable)
)

func newEdge(w *world, i int) *edge {
	name := fmt.Sprint("e", i+1)
	return &edge{w: w, id: i, name: name, boot: "boot", dir: filepath.Join(w.dir, name), synced: map[string][]byte{}}
}

func (e *edge) up() bool { return e.replica != nil }

// start opens what is on the disk.
func (e *edge) start() {
	r, err := edgetest.OpenReplica(e.dir, e.boot, e.w.clock)
	must(err)
	e.replica, e.seen = r, replication.Head{}
	e.ladder = replication.NewLadder(replication.LadderConfig{Replica: counted{r, e}, Verifier: e.w.keys.verifier, Writers: len(e.w.cluster.writers),
		Source: true, Random: e.w.rand.Float64})
	e.headBusy, e.asleep, e.inFlight, e.climb, e.builds = false, false, 0, nil, 0
	e.w.note("%s starts at %s", e.name, r.Head().Revision())
	e.tell(func(l *replication.Ladder) { l.Start(e.w.clock()) })
	e.later(0, e.tick)
	e.later(0, e.pull)
	e.later(e.w.between(20*time.Millisecond, 800*time.Millisecond), func() {
		e.replica.Prove()
		e.checked()
	})
	e.later(e.w.between(0, time.Second), e.look)
	e.later(e.w.between(time.Second, 6*time.Second), e.sync)
}

// counted counts what is adopted.
type counted struct {
	*edgetest.Replica
	e *edge
}

// Adopt implements replication.Replica.
func (c counted) Adopt(fresh replication.Copy) error {
	err := c.Replica.Adopt(fresh)
	if err == nil {
		c.e.builds++
		c.e.w.judge.counts.Snapshots++
		c.e.keepSynced()
	}
	return err
}

// later lets do happen in this life of the process.
func (e *edge) later(d time.Duration, do func()) {
	life := e.life
	e.w.after(d, func() {
		if e.life == life && e.up() {
			do()
		}
	})
}

// stop is the death of its process.
func (e *edge) stop() {
	if !e.up() {
		return
	}
	if e.climb != nil {
		e.climb.Discard()
		e.climb = nil
	}
	must(e.replica.Kill())
	e.replica, e.ladder = nil, nil
	e.life++
}

func (e *edge) close() {
	if e.up() {
		_ = e.replica.Kill() // the folder goes with it
	}
}

// tell lets the ladder take a step, does what it wants done at once, and looks whether all is right.
func (e *edge) tell(step func(*replication.Ladder)) {
	step(e.ladder)
	e.checked()
	wake, interrupt := e.ladder.Signals()
	if interrupt && e.inFlight != replication.AskNothing {
		e.asking++ // its answer is not told
		if e.inFlight == replication.AskSnapshot {
			r := e.climbing
			e.later(0, func() {
				if e.climb != nil {
					e.finish(r, errLost)
				}
			})
			return
		}
		e.inFlight = replication.AskNothing
		e.later(0, e.pull)
	}
	if wake && e.asleep {
		e.asleep = false
		e.asking++
		e.later(0, e.pull)
	}
}

// checked passes on that the replica has lost its data, and has the judge look.
func (e *edge) checked() {
	for {
		select {
		case <-e.replica.Lost():
			e.w.note("%s gives its file up", e.name)
			e.w.judge.counts.Damaged++
			e.tell(func(l *replication.Ladder) { l.Lost() })
			continue
		default:
		}
		break
	}
	e.w.judge.edge(e)
}

// hear takes what the bus brings.
func (e *edge) hear(m message) {
	e.tell(func(l *replication.Ladder) {
		if m.head != nil {
			l.HeadFromSource(e.w.clock(), m.head)
			return
		}
		l.BatchFromSource(e.w.clock(), m.batch)
	})
}

// tick is the lane of heads.
func (e *edge) tick() {
	e.later(time.Second, e.tick)
	if e.headBusy {
		return
	}
	var r replication.Request
	e.tell(func(l *replication.Ladder) { r = l.NextHead(e.w.clock()) })
	if r.Kind != replication.AskHead {
		return
	}
	e.headBusy = true
	e.exchange(r, headTimeout, func(c *replication.Client, err error) {
		e.headBusy = false
		var signed string
		if err == nil {
			signed, err = c.Head(context.Background())
		}
		e.tell(func(l *replication.Ladder) { l.TookHead(e.w.clock(), r, signed, err) })
	})
}

// pull is the lane of changes and snapshots.
func (e *edge) pull() {
	if e.inFlight != 0 || e.asleep {
		return
	}
	var r replication.Request
	e.tell(func(l *replication.Ladder) { r = l.NextPull(e.w.clock()) })
	if e.inFlight != 0 || e.asleep {
		return
	}
	e.asking++
	asking := e.asking
	switch r.Kind {
	case replication.AskNothing:
		e.asleep = true
		e.later(max(r.Wait, time.Millisecond), func() {
			if e.asking == asking && e.asleep {
				e.asleep = false
				e.pull()
			}
		})
	case replication.AskChanges:
		e.inFlight = r.Kind
		e.exchange(r, r.Wait+pullGrace, func(c *replication.Client, err error) {
			if e.asking != asking {
				return
			}
			var batch replication.Batch
			if err == nil {
				batch, err = c.Changes(context.Background(), r.After, replication.MaxBatchChanges, r.Wait)
			}
			e.inFlight = 0
			e.tell(func(l *replication.Ladder) { l.TookChanges(e.w.clock(), r, batch, err) })
			e.pull()
		})
	case replication.AskSnapshot:
		e.inFlight, e.climbing = r.Kind, r
		e.climb = e.ladder.Climb()
		e.exchange(r, buildTimeout, func(c *replication.Client, err error) {
			if e.asking == asking {
				e.download(asking, c, err)
			}
		})
	}
}

// finish ends a climb.
func (e *edge) finish(r replication.Request, err error) {
	c := e.climb
	e.climb, e.inFlight = nil, 0
	e.tell(func(l *replication.Ladder) { err = l.Finish(e.w.clock(), r, c, err) })
	e.w.note("%s climbed: %s, in vain: %t", e.name, e.replica.Head().Revision(), err != nil)
	e.pull()
}

// download reads a snapshot, builds a copy and has it catch up.
func (e *edge) download(asking int, c *replication.Client, err error) {
	if err == nil {
		err = e.build(c)
	}
	if err != nil {
		e.finish(e.climbing, err)
		return
	}
	e.later(e.w.between(time.Millisecond, 60*time.Millisecond), func() {
		if e.asking == asking {
			e.catchUp(asking)
		}
	})
}

func (e *edge) build(c *replication.Client) error {
	file, err := os.CreateTemp(e.dir, "snapshot-*.tmp")
	must(err)
	defer func() { must(errors.Join(file.Close(), os.Remove(file.Name()))) }()
	// A download that broke in the middle is not resumed in this world: the client gives up when the context ends with the body.
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	c.HTTP().Transport.(*wire).broken = cancel
	m, err := c.Snapshot(ctx, file, e.climb.Judge)
	if err != nil {
		return err
	}
	return e.climb.Build(context.Background(), m, file)
}

func (e *edge) catchUp(asking int) {
	next := e.climb.Next()
	if next.Kind == replication.AskNothing {
		e.finish(e.climbing, nil)
		return
	}
	next.Writer = e.climbing.Writer
	e.exchange(next, pullGrace, func(c *replication.Client, err error) {
		if e.asking != asking {
			return
		}
		if next.Kind == replication.AskHead {
			var signed string
			if err == nil {
				signed, err = c.Head(context.Background())
			}
			err = e.climb.TookHead(signed, err)
		} else {
			var batch replication.Batch
			if err == nil {
				batch, err = c.Changes(context.Background(), next.After, replication.MaxBatchChanges, 0)
			}
			err = e.climb.TookChanges(batch, err)
		}
		if err != nil {
			e.finish(e.climbing, err)
			return
		}
		e.catchUp(asking)
	})
}

// wire is the HTTP transport below the real client: it gives the answer that has come.
type wire struct {
	answer answer
	broken func()
}

// RoundTrip implements http.RoundTripper.
func (t *wire) RoundTrip(*http.Request) (*http.Response, error) {
	header := t.answer.header
	if header == nil {
		header = http.Header{}
	}
	return &http.Response{StatusCode: t.answer.status, Header: header, Body: &body{bytes.NewReader(t.answer.body), t.broken}}, nil
}

// body ends the attempt with itself.
type body struct {
	*bytes.Reader
	broken func()
}

func (b *body) Read(p []byte) (int, error) {
	n, err := b.Reader.Read(p)
	if err == io.EOF && b.broken != nil {
		b.broken()
	}
	return n, err
}

func (b *body) Close() error { return nil }

// exchange carries a request to a writer and its answer back, as TCP does: what is sent over a link that is cut comes when the link is whole, a process that
// dies resets its connections, a machine that loses power says nothing until it is back. tell gets a client that reads the answer, or why there is none.
func (e *edge) exchange(r replication.Request, timeout time.Duration, tell func(*replication.Client, error)) {
	w, n := e.w, e.w.cluster.writers[r.Writer]
	answered := false
	end := func(a answer, err error) {
		if answered {
			return
		}
		answered = true
		tell(replication.NewClient("http://"+n.name, e.name, &wire{answer: a}), err)
	}
	e.later(timeout, func() { end(answer{}, errLost) })
	began := w.now
	e.carry(n, func() {
		if answered {
			return
		}
		e.dial(n, began, end, func() {
			life := n.life
			e.watch(n, life, &answered, end)
			n.ask(r, func(a answer) {
				e.carry(n, func() {
					if n.life == life {
						end(e.received(a), nil)
					}
				})
			})
		})
	})
}

const (
	dialTimeout = 2 * time.Second
	// resend is how long TCP waits before it sends again, about.
	resend = 300 * time.Millisecond
)

// carry brings a message over the link to or from a writer.
func (e *edge) carry(n *writer, arrived func()) {
	e.later(e.w.between(500*time.Microsecond, 8*time.Millisecond), func() {
		if e.cut[n.id] {
			e.later(e.w.between(resend/2, resend), func() { e.carry(n, arrived) })
			return
		}
		arrived()
	})
}

// dial finds the writer's process, or not.
func (e *edge) dial(n *writer, began time.Duration, end func(answer, error), found func()) {
	switch {
	case n.up():
		found()
	case !n.dark:
		end(answer{}, errRefused)
	case e.w.now-began > dialTimeout:
		end(answer{}, errLost)
	default:
		e.later(resend, func() { e.dial(n, began, end, found) })
	}
}

// watch ends a request whose writer has died, as soon as its machine says so.
func (e *edge) watch(n *writer, life int, answered *bool, end func(answer, error)) {
	e.later(e.w.between(resend, 2*resend), func() {
		switch {
		case *answered:
		case n.life != life && !n.dark:
			end(answer{}, errReset)
		default:
			e.watch(n, life, answered, end)
		}
	})
}

// received is an answer as it arrives: now and then with a changed byte, or cut off.
func (e *edge) received(a answer) answer {
	w := e.w
	if w.calm || len(a.body) == 0 || !w.chance(60) {
		return a
	}
	a.body = bytes.Clone(a.body)
	if w.chance(3) {
		a.body = a.body[:w.rand.IntN(len(a.body))]
	} else {
		a.body[w.rand.IntN(len(a.body))] ^= 1 << w.rand.IntN(8)
	}
	return a
}

// look is an app that asks, at some time or other.
func (e *edge) look() {
	e.later(e.w.between(50*time.Millisecond, 400*time.Millisecond), e.look)
	e.w.judge.answer(e)
	e.checked()
}

// sync is what the replica does every 30 s; here more often, so that there is something to lose.
func (e *edge) sync() {
	e.later(e.w.between(time.Second, 6*time.Second), e.sync)
	must(e.replica.Sync())
	e.keepSynced()
}

// keepSynced remembers what a loss of power leaves.
func (e *edge) keepSynced() {
	path, size := e.replica.File()
	if path == "" {
		return
	}
	clear(e.synced)
	e.synced[path] = readStart(path, size)
}

// losePower is the death of the machine: what was synced is there, and of what was written since all, nothing or the beginning. Which pages it is that
// bbolt writes is chance of its own, so parts are not drawn by the page: the replica's own tests do that.
func (e *edge) losePower() {
	path, size := e.replica.File()
	e.stop()
	e.boot = fmt.Sprint("boot-", e.w.rand.Uint64())
	before, known := e.synced[path]
	if !known {
		return
	}
	now := readStart(path, size)
	switch e.w.rand.IntN(3) {
	case 0: // nothing since the sync
		now = before
	case 1: // the first two pages, which name others
		now = now[:min(len(now), 2*os.Getpagesize())]
	}
	must(os.WriteFile(path, now, 0o600))
	e.floor = replication.Revision{}
}

// loseFile takes the served file away while nobody looks.
func (e *edge) loseFile() {
	path, _ := e.replica.File()
	e.stop()
	if path != "" {
		must(os.Remove(path))
		e.floor = replication.Revision{}
	}
}

// flip changes a bit of one record in the served file, in every copy that the file holds. Where bbolt puts a page is chance of its own, so a bit
// is not drawn by its place: the replica's own tests do that.
func (e *edge) flip() {
	path, size := e.replica.File()
	if path == "" {
		return
	}
	content := readStart(path, size)
	needle := []byte(e.w.load.account())
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	must(err)
	defer f.Close()
	bit, at, flipped := byte(1)<<e.w.rand.IntN(8), e.w.rand.IntN(len(needle)), 0
	for i := bytes.Index(content, needle); i >= 0; {
		_, err := f.WriteAt([]byte{content[i+at] ^ bit}, int64(i+at))
		must(err)
		flipped++
		next := bytes.Index(content[i+1:], needle)
		if next < 0 {
			break
		}
		i += 1 + next
	}
	e.w.note("%s: a bit flipped in %s: %t", e.name, needle, flipped > 0)
}

// readStart reads the first bytes of a file, which may have been cut short.
func readStart(path string, size int64) []byte {
	f, err := os.Open(path)
	must(err)
	defer f.Close()
	content := make([]byte, size)
	n, err := io.ReadFull(f, content)
	if !errors.Is(err, io.ErrUnexpectedEOF) {
		must(err)
	}
	return content[:n]
}
