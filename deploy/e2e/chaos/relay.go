package chaos

import (
	"errors"
	"io"
	"net"
	"slices"
	"sync"
	"time"
)

// What goes over a link.
const (
	KindRaft     = "raft"
	KindInternal = "internal"
	KindNATS     = "nats"
	KindRoute    = "route"  // between the writers' own NATS servers
	KindPublic   = "public" // clients, to writers and edges
)

// Client is the relay's name for whoever is no node: the load and the watchers.
const Client = "client"

// Rule says what happens to bytes on their way from one node to another. An empty From, To or Kinds matches all.
type Rule struct {
	From, To []string
	Kinds    []string

	Cut   bool          // nothing passes until the rule is lifted; what was sent meanwhile then arrives late, as over TCP
	Reset bool          // connections are closed when the rule begins, and new ones at once
	Delay time.Duration // each piece arrives so much later
}

func (r *Rule) matches(from, to, kind string) bool {
	in := func(set []string, name string) bool { return len(set) == 0 || slices.Contains(set, name) }
	return in(r.From, from) && in(r.To, to) && in(r.Kinds, kind)
}

// Relay stands in for the listeners of all nodes. It knows who connects, so that it can treat each direction of each link differently.
type Relay struct {
	who func(net.Conn) string

	mu      sync.Mutex
	rules   []*Rule
	changed chan struct{} // closed when rules has changed
	open    map[*passage]bool
	seen    map[string]bool // sources of connections so far
	doors   []net.Listener
	closed  bool
	work    sync.WaitGroup
}

// NewRelay returns a relay that asks who for the name of the node at the other end of a connection; "" ends the connection.
func NewRelay(who func(net.Conn) string) *Relay {
	return &Relay{who: who, changed: make(chan struct{}), open: map[*passage]bool{}, seen: map[string]bool{}}
}

// Listen opens a door to target, a listener of the node to, and returns its address.
func (r *Relay) Listen(target, to, kind string) (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	r.mu.Lock()
	r.doors = append(r.doors, l)
	r.mu.Unlock()
	r.work.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			r.work.Go(func() { r.carry(conn, target, to, kind) })
		}
	})
	return l.Addr().String(), nil
}

// Impose begins a rule and returns what ends it.
func (r *Relay) Impose(rule Rule) (lift func()) {
	kept := &rule
	r.change(func() { r.rules = append(r.rules, kept) })
	if rule.Reset {
		for _, p := range r.passages() {
			if rule.matches(p.from, p.to, p.kind) || rule.matches(p.to, p.from, p.kind) {
				p.close()
			}
		}
	}
	return func() {
		r.change(func() { r.rules = slices.DeleteFunc(r.rules, func(other *Rule) bool { return other == kept }) })
	}
}

func (r *Relay) change(f func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f()
	close(r.changed)
	r.changed = make(chan struct{})
}

func (r *Relay) passages() (all []*passage) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for p := range r.open {
		all = append(all, p)
	}
	return all
}

// verdict is what the rules say of one direction of one link now, and a channel that tells of other rules.
func (r *Relay) verdict(from, to, kind string) (cut, reset bool, delay time.Duration, changed <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, rule := range r.rules {
		if rule.matches(from, to, kind) {
			cut, reset, delay = cut || rule.Cut, reset || rule.Reset, max(delay, rule.Delay)
		}
	}
	return cut, reset, delay, r.changed
}

// Sources are the names of all who have connected so far.
func (r *Relay) Sources() map[string]bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	names := map[string]bool{}
	for name := range r.seen {
		names[name] = true
	}
	return names
}

// Close ends every connection and returns when nothing is left.
func (r *Relay) Close() {
	r.mu.Lock()
	r.closed = true
	for _, l := range r.doors {
		l.Close()
	}
	r.mu.Unlock()
	r.change(func() { r.rules = nil })
	for _, p := range r.passages() {
		p.close()
	}
	r.work.Wait()
}

// passage is one connection through the relay.
type passage struct {
	relay          *Relay
	from, to, kind string
	near           net.Conn // from's end
	ended          chan struct{}

	mu   sync.Mutex
	far  net.Conn // to's end; nil before it is dialled
	over bool
}

func (p *passage) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.over {
		return
	}
	p.over = true
	close(p.ended)
	p.near.Close()
	if p.far != nil {
		p.far.Close()
	}
}

// attach gives the passage its far end. It is false when the passage has ended meanwhile.
func (p *passage) attach(far net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.far = far
	return !p.over
}

// dialWithin bounds the relay's own dial: the target is on this machine.
const dialWithin = 2 * time.Second

func (r *Relay) carry(near net.Conn, target, to, kind string) {
	p := &passage{relay: r, from: r.who(near), to: to, kind: kind, near: near, ended: make(chan struct{})}
	r.mu.Lock()
	if r.closed || p.from == "" {
		r.mu.Unlock()
		near.Close()
		return
	}
	r.seen[p.from] = true
	r.open[p] = true
	r.mu.Unlock()
	defer func() {
		p.close()
		r.mu.Lock()
		delete(r.open, p)
		r.mu.Unlock()
	}()
	// A dial takes one trip each way: it waits for the end of a cut in either direction, as a lost SYN does.
	if !p.pass(p.from, p.to) || !p.pass(p.to, p.from) {
		return
	}
	far, err := net.DialTimeout("tcp", target, dialWithin)
	if err != nil {
		return
	}
	if !p.attach(far) {
		far.Close()
		return
	}
	var both sync.WaitGroup
	both.Go(func() { p.pump(far, near, p.from, p.to) })
	both.Go(func() { p.pump(near, far, p.to, p.from) })
	both.Wait()
}

// pass waits until the rules let something go from one end to the other. It is false when the connection has to end.
func (p *passage) pass(from, to string) bool {
	for {
		cut, reset, _, changed := p.relay.verdict(from, to, p.kind)
		if reset {
			return false
		}
		if !cut {
			return true
		}
		select {
		case <-changed:
		case <-p.ended:
			return false
		}
	}
}

// piece is what was read at once, and when it may arrive.
type piece struct {
	data []byte
	due  time.Time
}

// piecesUnderWay bounds what one direction holds while it is cut or slow; beyond it the sender feels it, as over TCP.
const piecesUnderWay = 64

// pump carries one direction until its source ends.
func (p *passage) pump(dst, src net.Conn, from, to string) {
	queue := make(chan piece, piecesUnderWay)
	var reading sync.WaitGroup
	reading.Go(func() {
		defer close(queue)
		for {
			buf := make([]byte, 32<<10)
			n, err := src.Read(buf)
			if n > 0 {
				_, _, delay, _ := p.relay.verdict(from, to, p.kind)
				select {
				case queue <- piece{buf[:n], time.Now().Add(delay)}:
				case <-p.ended:
					return
				}
			}
			if err != nil {
				if !errors.Is(err, io.EOF) {
					p.close()
				}
				return
			}
		}
	})
	defer reading.Wait()
	for next := range queue {
		if wait := time.Until(next.due); wait > 0 {
			select {
			case <-time.After(wait):
			case <-p.ended:
				return
			}
		}
		if !p.pass(from, to) {
			p.close()
			return
		}
		if _, err := dst.Write(next.data); err != nil {
			p.close()
			return
		}
	}
	if half, ok := dst.(*net.TCPConn); ok {
		_ = half.CloseWrite() // the other direction may go on
	}
}
