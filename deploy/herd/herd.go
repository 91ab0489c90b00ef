// Package herd is a crowd of edges inside one process: real followers, which pull, verify and download as any edge does, over light replicas,
// which keep the position and leave out the records. It puts on writers the load of many edges that have all lost their data. Start at Start.
package herd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"

	"github.com/latchkey/latchkey/pkg/token"
	"github.com/latchkey/latchkey/replication"
)

// Config says who follows whom.
type Config struct {
	Edges   int
	Writers []string // base addresses of the writers' internal API; each edge prefers another one
	NATS    []string // none: the edges pull
	Roots   [][]byte // public root keys, as their files are
	Cluster string
}

// Herd is a running crowd. Stop ends it.
type Herd struct {
	dir   string
	edges []*edge
	stop  context.CancelFunc
	all   sync.WaitGroup
}

type edge struct {
	light
	follower *replication.Follower
	source   *replication.NATS
}

// Start makes the edges follow, all with nothing.
func Start(cfg Config) (*Herd, error) {
	roots, err := token.ParseRoots(cfg.Roots...)
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "latchkey-herd-")
	if err != nil {
		return nil, err
	}
	verifier := replication.NewVerifierWith((&once{judge: (&token.PositionVerifier{Roots: roots, Cluster: cfg.Cluster}).Verify}).verify)
	ctx, cancel := context.WithCancel(context.Background())
	h := &Herd{dir: dir, stop: cancel}
	chains := &links{}
	for i := range cfg.Edges {
		e := &edge{light: light{links: chains, lost: make(chan struct{}, 1), changed: make(chan struct{})}}
		first := i % len(cfg.Writers)
		follow := replication.FollowConfig{
			Node: fmt.Sprintf("herd-%d", i), Writers: append(append([]string(nil), cfg.Writers[first:]...), cfg.Writers[:first]...),
			Verifier: verifier, Replica: &e.light, SpoolDir: dir,
		}
		if len(cfg.NATS) > 0 {
			if e.source, err = replication.ConnectNATS(cfg.NATS, follow.Node, nil, slog.New(slog.DiscardHandler)); err != nil {
				h.Stop()
				return nil, err
			}
			follow.Source = e.source
		}
		e.follower = replication.NewFollower(follow)
		h.edges = append(h.edges, e)
		h.all.Go(func() { _ = e.follower.Follow(ctx) }) // it fails only for a source that is closed already
	}
	return h, nil
}

// Stop ends all of them.
func (h *Herd) Stop() {
	h.stop()
	h.all.Wait()
	for _, e := range h.edges {
		if e.source != nil {
			e.source.Close()
		}
	}
	_ = os.RemoveAll(h.dir)
}

// Lose takes all data from all edges at once.
func (h *Herd) Lose() error {
	for _, e := range h.edges {
		e.lose()
	}
	return nil
}

// Snapshots is how many snapshots all edges together have taken over.
func (h *Herd) Snapshots() (n int) {
	for _, e := range h.edges {
		e.mu.Lock()
		n += e.adopted
		e.mu.Unlock()
	}
	return n
}

// Holds returns once every edge is at the position at or beyond it, or with an error at the end of ctx that names one which is not.
func (h *Herd) Holds(ctx context.Context, at replication.Revision) error {
	for _, e := range h.edges {
		for {
			e.mu.Lock()
			head, changed := e.head, e.changed
			e.mu.Unlock()
			if head.Epoch != 0 && head.Revision().Compare(at) >= 0 {
				break
			}
			select {
			case <-changed:
			case <-ctx.Done():
				return fmt.Errorf("an edge is at %s, not at %s: %v: %w", head.Revision(), at, e.follower.Status().Reasons, ctx.Err())
			}
		}
	}
	return nil
}

// once judges a statement once for the whole crowd: each edge would do it on a machine of its own.
type once struct {
	judge func(string) (token.PositionClaims, error)

	mu     sync.Mutex
	known  map[string]*judged
	recent []string // keys of known, the oldest first
}

type judged struct {
	sync.Once
	claims token.PositionClaims
	err    error
}

// recentStatements is how many are remembered: what the slowest edge may be behind the fastest.
const recentStatements = 4096

func (o *once) verify(signed string) (token.PositionClaims, error) {
	o.mu.Lock()
	j := o.known[signed]
	if j == nil {
		if j = new(judged); o.known == nil {
			o.known = map[string]*judged{}
		}
		if o.known[signed], o.recent = j, append(o.recent, signed); len(o.recent) > recentStatements {
			delete(o.known, o.recent[0])
			o.recent = o.recent[1:]
		}
	}
	o.mu.Unlock()
	j.Do(func() { j.claims, j.err = o.judge(signed) })
	return j.claims, j.err
}

// links computes the chain over a batch once for the whole crowd, for the same reason. The last change stands for all of them.
type links struct {
	mu     sync.Mutex
	known  map[link]replication.Hash // the chain after the last of the changes
	recent []link
}

// link names changes that follow a chain.
type link struct {
	after  replication.Hash
	number int
	last   string // the last change
}

// chain returns the chain after changes.
func (l *links) chain(after replication.Hash, changes [][]byte) replication.Hash {
	if len(changes) == 0 {
		return after
	}
	key := link{after, len(changes), string(changes[len(changes)-1])}
	l.mu.Lock()
	chain, found := l.known[key]
	l.mu.Unlock()
	if found {
		return chain
	}
	chain = after
	for _, encoded := range changes {
		chain = replication.NextChain(chain, encoded)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.known == nil {
		l.known = map[link]replication.Hash{}
	}
	if l.known[key], l.recent = chain, append(l.recent, key); len(l.recent) > recentStatements {
		delete(l.known, l.recent[0])
		l.recent = l.recent[1:]
	}
	return chain
}

// light is a replica that keeps the position alone. Revisions and chain of each batch are checked, the state hash cannot be.
type light struct {
	links   *links
	mu      sync.Mutex
	head    replication.Head
	lost    chan struct{}
	changed chan struct{}
	adopted int
}

func (l *light) lose() {
	l.mu.Lock()
	l.head = replication.Head{}
	l.mu.Unlock()
	select {
	case l.lost <- struct{}{}:
	default:
	}
}

func (l *light) announce() {
	close(l.changed)
	l.changed = make(chan struct{})
}

// Head implements replication.Moving.
func (l *light) Head() replication.Head {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.head
}

// Apply implements replication.Moving.
func (l *light) Apply(to replication.Position, changes [][]byte) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.head.Epoch == 0 {
		return replication.ErrNoData
	}
	if l.head.N+uint64(len(changes)) != to.N || l.links.chain(l.head.Chain, changes) != to.Chain {
		return replication.ErrDiverged
	}
	l.head.Position = to
	l.announce()
	return nil
}

// Advance implements replication.Moving.
func (l *light) Advance(h replication.Head) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.head.Epoch == 0 {
		return replication.ErrNoData
	}
	l.head.AsOf = max(l.head.AsOf, h.AsOf)
	l.announce()
	return nil
}

// Discard implements replication.Copy.
func (l *light) Discard() {}

// Build implements replication.Replica. The body has the manifest's SHA-256; what an edge does with it costs the writers nothing.
func (l *light) Build(_ context.Context, m replication.Manifest, _ io.Reader) (replication.Copy, error) {
	return &light{links: l.links, head: replication.Head{Position: m.Position}, changed: make(chan struct{})}, nil
}

// Adopt implements replication.Replica.
func (l *light) Adopt(c replication.Copy) error {
	fresh, ok := c.(*light)
	if !ok {
		return errors.New("not built here")
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.head = fresh.Head()
	l.adopted++
	l.announce()
	return nil
}

// Lost implements replication.Replica.
func (l *light) Lost() <-chan struct{} { return l.lost }
