package main

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/latchkey/latchkey/edge/edgetest"
	"github.com/latchkey/latchkey/pkg/entitlement"
	"github.com/latchkey/latchkey/replication"
	"github.com/latchkey/latchkey/writer/writertest"
)

// judge knows what is true, and looks after each step whether everybody says so. Its truth is computed on its own from the changes that the first
// writer to apply them shows: chain, state hash, every record at every revision.
type judge struct {
	w         *world
	counts    counts
	histories map[uint64]*history // by epoch
	newest    uint64              // epoch
	applies   map[uint64]applied  // by log index
	acks      []ack
	bodies    map[replication.Position]servedBody
}

// servedBody is a snapshot for edges.
type servedBody struct {
	body []byte
	info replication.SnapshotInfo
}

// history is what happened in one epoch.
type history struct {
	first uint64 // revision that it began at
	at    []replication.Position
	// values are each record's, in the order of their revisions.
	values map[string][]version
}

type version struct {
	n     uint64
	value []byte
}

// applied is what every writer must have at one index of the log.
type applied struct {
	position replication.Position
	full     replication.Hash
	segment  uint64
	offset   int64
	journal  replication.Hash
	by       string
}

// ack is a command that somebody was told is done.
type ack struct {
	at      time.Duration
	highest replication.Revision // of this and all before
	index   uint64
	event   string
}

// slack is how much before its as_of an edge may lack what was acknowledged (I8).
const slack = 2 * time.Second

func newJudge(w *world) *judge {
	return &judge{w: w, histories: map[uint64]*history{}, applies: map[uint64]applied{}, bodies: map[replication.Position]servedBody{}}
}

// end is the last position of the history.
func (h *history) end() replication.Position { return h.at[len(h.at)-1] }

// position is that of a revision.
func (h *history) position(n uint64) (replication.Position, bool) {
	if n < h.first || n-h.first >= uint64(len(h.at)) {
		return replication.Position{}, false
	}
	return h.at[n-h.first], true
}

// value is a record's at a revision, nil for none.
func (h *history) value(key string, n uint64) []byte {
	versions := h.values[key]
	for i := len(versions) - 1; i >= 0; i-- {
		if versions[i].n <= n {
			return versions[i].value
		}
	}
	return nil
}

// valueAt is a record's bytes at a revision, nil for none.
func (j *judge) valueAt(at replication.Revision, r replication.Record) []byte {
	if h := j.histories[at.Epoch]; h != nil {
		return h.value(string(r.DBKey()), at.N)
	}
	return nil
}

// restored forgets what a restore from a backup took back.
func (j *judge) restored(index uint64) {
	for i := range j.applies {
		if i > index {
			delete(j.applies, i)
		}
	}
	for i := range j.acks {
		if j.acks[i].index > index {
			j.acks[i].event = ""
		}
	}
}

// applied looks at a writer that has applied something: I3, I5.
func (j *judge) applied(n *writer) {
	j.counts.Checks++
	m := n.machine
	now := applied{position: m.Position(), full: m.FullHash(), by: n.name}
	now.segment, now.offset, now.journal = m.Journal()
	index := m.Applied()
	if first, known := j.applies[index]; known {
		first.by = n.name
		if first != now {
			j.w.wrong("I3", "at index %d %s has %+v, another had %+v", index, n.name, now, first)
		}
	} else {
		j.applies[index] = now
	}
	p := now.position
	if p.Epoch == 0 {
		return
	}
	h := j.histories[p.Epoch]
	if h == nil {
		h = j.begin(n, p)
	}
	if end := h.end(); p.N > end.N {
		changes, at, err := m.Changes(end.N, int(p.N-end.N), 1<<40)
		if err != nil || at != p {
			j.w.wrong("I5", "%s: changes after %s lead to %+v, %v; the state is at %+v", n.name, end.Revision(), at, err, p)
		}
		j.extend(h, changes, p)
	}
	if known, ok := h.position(p.N); !ok || known != p {
		j.w.wrong("I5", "%s at %+v; revision %s was %+v (%t)", n.name, p, p.Revision(), known, ok)
	}
}

// begin starts the history of an epoch that was never seen.
func (j *judge) begin(n *writer, p replication.Position) *history {
	if p.Epoch < j.newest {
		j.w.wrong("I5", "%s is in epoch %d, after %d", n.name, p.Epoch, j.newest)
	}
	h := &history{values: map[string][]version{}}
	start := replication.Position{Cluster: clusterID, Epoch: p.Epoch, Rules: p.Rules}
	if before := j.histories[j.newest]; before != nil {
		base := j.w.cluster.backup.position
		h.first, start.N, start.Chain, start.StateHash = base.N, base.N, base.Chain, base.StateHash
		for key := range before.values {
			if value := before.value(key, base.N); value != nil {
				h.values[key] = []version{{base.N, value}}
			}
		}
	}
	h.at = []replication.Position{start}
	j.histories[p.Epoch], j.newest = h, p.Epoch
	return h
}

// extend computes what changes lead to.
func (j *judge) extend(h *history, changes [][]byte, to replication.Position) {
	for _, encoded := range changes {
		c, rest, err := replication.ParseChange(encoded)
		p := h.end()
		if err != nil || len(rest) != 0 || c.N != p.N+1 {
			j.w.wrong("I5", "change %d after %s: %v", c.N, p.Revision(), err)
		}
		key := string(c.DBKey())
		if old := h.value(key, p.N); old != nil {
			before := c.Record
			before.Value = old
			p.StateHash = p.StateHash.Sub(before.Hash())
		}
		if c.Value != nil {
			p.StateHash = p.StateHash.Add(c.Record.Hash())
		}
		p.N, p.Chain, p.Rules = c.N, replication.NextChain(p.Chain, encoded), to.Rules
		h.values[key] = append(h.values[key], version{c.N, c.Value})
		h.at = append(h.at, p)
	}
	if h.end() != to {
		j.w.wrong("I5", "changes lead to %+v, the writer says %+v", h.end(), to)
	}
}

// acknowledged notes that somebody was told that a command is done.
func (j *judge) acknowledged(r writertest.Result, index uint64) {
	j.counts.Acknowledged++
	a := ack{at: j.w.now, highest: r.Revision, index: index}
	if r.Rejection == nil {
		a.event = r.EventID
	}
	if len(j.acks) > 0 {
		if last := j.acks[len(j.acks)-1].highest; last.Compare(a.highest) > 0 {
			a.highest = last
		}
	}
	j.acks = append(j.acks, a)
}

// edge looks at what an edge holds: I6, I7, I8.
func (j *judge) edge(e *edge) {
	h := e.replica.Head()
	if h == e.seen {
		return
	}
	e.seen = h
	j.counts.Checks++
	if h.Epoch == 0 {
		return
	}
	j.w.note("%s at %s as of %d", e.name, h.Revision(), h.AsOf-epochTime)
	truth := j.histories[h.Epoch]
	if truth == nil {
		j.w.wrong("I6", "%s is in epoch %d, which no writer began", e.name, h.Epoch)
	}
	if p, ok := truth.position(h.N); !ok || p != h.Position {
		j.w.wrong("I6", "%s holds %+v; the writers had %+v (%t)", e.name, h.Position, p, ok)
	}
	if h.Revision().Compare(e.floor) < 0 {
		j.w.wrong("I7", "%s at %s, it was at %s", e.name, h.Revision(), e.floor)
	}
	e.floor = h.Revision()
	must8 := time.Duration(h.AsOf-epochTime)*time.Second - slack
	for i := len(j.acks) - 1; i >= 0; i-- {
		if a := &j.acks[i]; a.at < must8 {
			if a.highest.Compare(h.Revision()) > 0 {
				j.w.wrong("I8", "%s says as_of %d at %s; %s was acknowledged at %.3f", e.name, h.AsOf-epochTime, h.Revision(), a.highest, a.at.Seconds())
			}
			break
		}
	}
}

// answer reads a record from an edge as an app's request would: right, or an error; never a denial (I6, I13).
func (j *judge) answer(e *edge) {
	j.counts.Checks++
	id := string(j.w.load.account())
	value, head, found, err := e.replica.Lookup(sandbox, replication.KindAccount, id)
	if err != nil {
		if !errors.Is(err, replication.ErrNoData) && !errors.Is(err, replication.ErrCorrupt) && !errors.Is(err, edgetest.ErrUnproven) {
			j.w.wrong("I13", "%s: look %s up: %v", e.name, id, err)
		}
		return
	}
	want := j.valueAt(head.Revision(), replication.Record{Env: sandbox, Kind: replication.KindAccount, Key: id})
	if found != (want != nil) || !bytes.Equal(value, want) {
		j.w.wrong("I13", "%s at %s answers %x (found %t) for %s; the writers had %x", e.name, head.Revision(), value, found, id, want)
	}
}

// whole compares every record of an edge with the truth (I6).
func (j *judge) whole(e *edge) {
	head := e.replica.Head()
	truth := j.histories[head.Epoch]
	n := 0
	err := e.replica.Records(func(r replication.Record) error {
		n++
		if want := truth.value(string(r.DBKey()), head.N); !bytes.Equal(r.Value, want) {
			j.w.wrong("I6", "%s at %s holds %x under %s; the writers had %x", e.name, head.Revision(), r.Value, r.DBKey(), want)
		}
		return nil
	})
	if err != nil {
		j.w.wrong("I19", "%s: its records cannot be read in peace: %v", e.name, err)
	}
	for key := range truth.values {
		if truth.value(key, head.N) != nil {
			n--
		}
	}
	if n != 0 {
		j.w.wrong("I6", "%s at %s holds %d records more than the writers", e.name, head.Revision(), n)
	}
}

// converged looks, some time after the last fault, whether everybody is where they must be (I19).
func (j *judge) converged(healed time.Duration) {
	c := j.w.cluster
	if c.leader == nil {
		j.w.wrong("I19", "no leader %s after the last fault", j.w.now-healed)
	}
	leader := c.leader.machine
	for _, n := range c.writers {
		if !n.up() || n.machine.Applied() != leader.Applied() {
			j.w.wrong("I19", "%s is not where the leader is, %s after the last fault", n.name, j.w.now-healed)
		}
	}
	since := epochTime + int64(healed/time.Second)
	for _, e := range j.w.edges {
		if h := e.replica.Head(); h.Position != leader.Position() || h.AsOf < since {
			j.w.wrong("I19", "%s is at %s as of %d, %s after the last fault; the leader is at %s: %v", e.name, h.Revision(), h.AsOf-epochTime, j.w.now-healed,
				leader.Position().Revision(), e.ladder.Reasons())
		}
		e.builds = 0
	}
}

// propagated looks whether what was sent a moment ago is everywhere (the path over NATS, while nothing is wrong).
func (j *judge) propagated(sent time.Duration) {
	want := j.w.cluster.leader.machine.Position()
	for _, e := range j.w.edges {
		if h := e.replica.Head(); h.Position != want {
			j.w.wrong("propagation", "%s is at %s, the leader at %s, %s after a write with nothing wrong", e.name, h.Revision(), want.Revision(), j.w.now-sent)
		}
	}
}

// final looks at everything at the end: I1, I2, I5, I6, I19, I20.
func (j *judge) final() {
	for _, e := range j.w.edges {
		j.whole(e)
		if e.builds > 0 {
			j.w.wrong("I19", "%s took %d snapshots in peace", e.name, e.builds)
		}
	}
	for i, n := range j.w.cluster.writers {
		if i == int(j.w.seed)%len(j.w.cluster.writers) { // each recomputes for itself; that they are equal is known
			if err := n.machine.Check(); err != nil {
				j.w.wrong("I5", "%s: %v", n.name, err)
			}
			j.trail(n)
		}
	}
	j.anyOrder()
}

// trail compares a writer's audit trail with what was acknowledged: everything is there (I1), nothing twice (I2).
func (j *judge) trail(n *writer) {
	seen := map[string]bool{}
	must(n.machine.View(func(r *writertest.Reader) error {
		events, err := r.Events(sandbox, 0, 1<<20)
		if err != nil {
			return err
		}
		for _, ev := range events {
			id := string(ev.Provider) + "/" + ev.ID
			if ev.Outcome == writertest.Conflicting {
				continue
			}
			if seen[id] || ev.Provider == entitlement.Latchkey && strings.Contains(ev.ID, "-") {
				j.w.wrong("I2", "%s: %s %s (%s) had its effect twice", n.name, ev.Provider, ev.ID, ev.Type)
			}
			seen[id], seen[ev.ID] = true, true
		}
		return nil
	}))
	for _, a := range j.acks {
		if a.event != "" && !seen[a.event] {
			j.w.wrong("I1", "%s: %s was acknowledged at %.3f and is not there", n.name, a.event, a.at.Seconds())
		}
	}
}

// anyOrder folds the log once more into a state machine of its own, with the messages in another order, some twice, and the API's commands as they
// were: the records must be the same (I20). Ids that were used twice for different content leave it open which is first.
func (j *judge) anyOrder() {
	var calls, messages []writertest.Entry
	contents, ids := map[string]bool{}, map[string]bool{}
	stamp := int64(0)
	for _, e := range j.w.cluster.log {
		c, err := writertest.DecodeCommand(e.Data)
		must(err)
		stamp = max(stamp, c.Stamp)
		switch c.Type {
		case writertest.TypeTrim, writertest.TypeRaiseEpoch:
		case writertest.TypeRecordEvent:
			var body writertest.RecordEvent
			must(entitlement.Decode(c.Body, &body))
			content := string(c.Body)
			if contents[content] {
				continue
			}
			if ids[body.Event.ID] {
				return
			}
			contents[content], ids[body.Event.ID] = true, true
			data := bytes.Clone(e.Data)
			writertest.SetStamp(data, 0) // the API's stamps count
			messages = append(messages, writertest.Entry{Data: data})
			if j.w.chance(8) {
				messages = append(messages, writertest.Entry{Data: data})
			}
		default:
			data := bytes.Clone(e.Data)
			writertest.SetStamp(data, stamp) // the one that counted: stamps never go back
			calls = append(calls, writertest.Entry{Data: data})
		}
	}
	j.w.rand.Shuffle(len(messages), func(a, b int) { messages[a], messages[b] = messages[b], messages[a] })
	entries := append([]writertest.Entry(nil), calls[:1]...) // the first founds the cluster
	calls = calls[1:]
	for len(calls)+len(messages) > 0 {
		if len(messages) == 0 || len(calls) > 0 && j.w.chance(2) {
			entries, calls = append(entries, calls[0]), calls[1:]
		} else {
			entries, messages = append(entries, messages[0]), messages[1:]
		}
	}
	for i := range entries {
		entries[i].Index, entries[i].Term = uint64(i+1), 1
	}
	m, err := writertest.OpenMachine(fmt.Sprint(j.w.dir, "/order"), segmentBytes)
	must(err)
	defer func() { must(m.Close()) }()
	_, err = m.Apply(entries)
	must(err)
	if got, want := m.Position().StateHash, j.w.cluster.leader.machine.Position().StateHash; got != want {
		j.w.wrong("I20", "the same messages in another order give state hash %s, the writers have %s%s", got, want, difference(m, j.w.cluster.leader.machine))
	}
}

// difference shows the first record in which two states differ.
func difference(a, b *writertest.Machine) (text string) {
	values := map[string][]byte{}
	must(a.View(func(r *writertest.Reader) error {
		return r.Records(func(r replication.Record) error {
			values[string(r.DBKey())] = bytes.Clone(r.Value)
			return nil
		})
	}))
	must(b.View(func(r *writertest.Reader) error {
		return r.Records(func(r replication.Record) error {
			if other := values[string(r.DBKey())]; text == "" && !bytes.Equal(other, r.Value) {
				var one, two entitlement.Account
				if err := errors.Join(entitlement.Decode(other, &one), entitlement.Decode(r.Value, &two)); err != nil {
					text = fmt.Sprintf(": %s is %x and %x", r.DBKey(), other, r.Value)
				} else {
					text = fmt.Sprintf(": %s is\n  %+v\n  %+v", r.DBKey(), one, two)
				}
			}
			return nil
		})
	}))
	return text
}

// snapshotOf is a snapshot for edges of a writer's state. Equal states make equal bytes, so each is made once.
func (j *judge) snapshotOf(n *writer) ([]byte, replication.SnapshotInfo) {
	at := n.machine.Position()
	made, known := j.bodies[at]
	if !known {
		made.body, made.info = n.writeSnapshot()
		j.bodies[at] = made
	}
	return made.body, made.info
}
