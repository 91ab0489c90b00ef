package main

import (
	"bytes"
	"time"

	"github.com/latchkey/latchkey/pkg/entitlement"
	"github.com/latchkey/latchkey/replication"
)

// bus is what stands for NATS: it loses, repeats, reorders, delays, withholds and alters what it carries, replays what it carried long ago, and
// lets strangers speak.
type bus struct {
	w        *world
	cut      bool // it carries nothing
	hostile  bool // it does everything but carry faithfully
	withhold bool // heads do not pass
	forever  bool // what it does now it goes on doing when all other faults have ended
	heard    []message
}

// message is a batch frame or a signed head.
type message struct{ batch, head []byte }

const (
	// mostHeard is how much the bus remembers, to replay it.
	mostHeard = 64
	busLeast  = time.Millisecond
	busMost   = 15 * time.Millisecond
	// busLate is by how much a message may be late.
	busLate = 2 * time.Second
)

// works reports whether what is sent now arrives soon.
func (b *bus) works() bool { return !b.cut && !b.hostile && !b.withhold }

// publish carries a message of a writer to every edge.
func (b *bus) publish(n *writer, m message) {
	w := b.w
	if b.cut || n.cut && !w.calm && w.chance(2) {
		return
	}
	if len(b.heard) < mostHeard {
		b.heard = append(b.heard, m)
	} else {
		b.heard[w.rand.IntN(mostHeard)] = m
	}
	if b.withhold && m.head != nil {
		return
	}
	for _, e := range w.edges {
		if !b.hostile {
			b.carry(e, m, w.between(busLeast, busMost))
			continue
		}
		switch w.rand.IntN(8) {
		case 0:
			w.judge.counts.Dropped++
		case 1:
			b.carry(e, m, w.between(busLeast, busMost))
			b.carry(e, m, w.between(busLeast, busLate))
		case 2:
			b.carry(e, m, w.between(busMost, busLate))
		case 3:
			b.carry(e, b.altered(m), w.between(busLeast, busMost))
		default:
			b.carry(e, m, w.between(busLeast, busMost))
		}
	}
}

func (b *bus) carry(e *edge, m message, d time.Duration) {
	life := e.life
	b.w.after(d, func() {
		if e.life == life && e.up() && !b.cut {
			e.hear(m)
		}
	})
}

// altered changes a byte, or the changes under a genuine signature.
func (b *bus) altered(m message) message {
	b.w.judge.counts.Forged++
	flip := func(text []byte) []byte {
		text = bytes.Clone(text)
		if len(text) > 0 {
			text[b.w.rand.IntN(len(text))] ^= 1 << b.w.rand.IntN(8)
		}
		return text
	}
	if m.head != nil {
		return message{head: flip(m.head)}
	}
	batch, err := replication.ParseBatch(m.batch)
	if err != nil || len(batch.Changes) == 0 || b.w.chance(3) {
		return message{batch: flip(m.batch)}
	}
	i := b.w.rand.IntN(len(batch.Changes))
	changes := append([][]byte(nil), batch.Changes...)
	changes[i] = b.forgedChange(changes[i])
	return message{batch: replication.Batch{Signed: batch.Signed, Changes: changes}.AppendBinary(nil)}
}

// forgedChange is a well-formed change in the place of another: the record with other bytes, or none.
func (b *bus) forgedChange(encoded []byte) []byte {
	c, _, err := replication.ParseChange(encoded)
	if err != nil {
		return encoded
	}
	if c.Value = bytes.Clone(c.Value); len(c.Value) == 0 || b.w.chance(4) {
		c.Value = nil
	} else {
		c.Value[b.w.rand.IntN(len(c.Value))] ^= 1 << b.w.rand.IntN(8)
	}
	return c.AppendBinary(nil)
}

// lie has a stranger speak to an edge: what was said before, or what only a broken edge believes.
func (b *bus) lie(e *edge) {
	w := b.w
	w.judge.counts.Forged++
	k, r := w.keys, e.replica
	held := r.Head()
	now := w.unix()
	switch w.rand.IntN(6) {
	case 0, 1: // genuine, and long past
		if len(b.heard) > 0 {
			b.carry(e, b.heard[w.rand.IntN(len(b.heard))], busLeast)
		}
	case 2: // the next change of a history that never was, led to rightly, by another root
		c := replication.Change{N: held.N + 1, Record: replication.Record{Env: sandbox, Kind: replication.KindAccount, Key: "acc_1", Value: []byte("forged")}}
		p := held.Position
		encoded := c.AppendBinary(nil)
		p.N, p.Chain = c.N, replication.NextChain(p.Chain, encoded)
		if old := w.judge.valueAt(held.Revision(), c.Record); old != nil {
			before := c.Record
			before.Value = old
			p.StateHash = p.StateHash.Sub(before.Hash())
		}
		p.StateHash = p.StateHash.Add(c.Record.Hash())
		by := k.stranger
		if w.chance(3) {
			by, p.Cluster = k.other, otherID
		}
		b.carry(e, message{batch: replication.Batch{Signed: by.sign(0, p.Claims(now)), Changes: [][]byte{encoded}}.AppendBinary(nil)}, busLeast)
	case 3: // a head of a stranger that is far ahead in time
		h := replication.Head{Position: held.Position, AsOf: now + w.rand.Int64N(1000)}
		b.carry(e, message{head: []byte(k.stranger.sign(0, h.Claims(h.AsOf)))}, busLeast)
	case 4: // another installation under the same root
		p := held.Position
		p.Epoch += 5
		h := replication.Head{Position: p, AsOf: now}
		b.carry(e, message{head: []byte(k.other.sign(0, h.Claims(now)))}, busLeast)
	case 5: // garbage
		garbage := make([]byte, w.rand.IntN(200))
		for i := range garbage {
			garbage[i] = byte(w.rand.Uint32())
		}
		b.carry(e, message{batch: garbage}, busLeast)
	}
}

const sandbox = entitlement.Sandbox
