package writer

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/latchkey/latchkey/pkg/fault"
	"github.com/latchkey/latchkey/pkg/problem"
	"github.com/latchkey/latchkey/replication"
)

const (
	// headInterval is how often a head is made: an edge's as_of is never much older.
	headInterval = time.Second
	// headFresh is how old a head's as_of may be for a writer to call itself ready.
	headFresh = 5 * time.Second
	// firstHeadRetry is how often a node that has no head yet tries.
	firstHeadRetry = 50 * time.Millisecond
)

// head is a replication.Head with its signature.
type head struct {
	replication.Head
	signed string
	own    bool // made here, as the leader
}

// makeHeads keeps the newest head until ctx ends: made here while this node leads, else fetched from the leader.
func (w *Writer) makeHeads(ctx context.Context) {
	ticks, stop := w.cfg.ticker(headInterval)
	defer stop()
	for {
		if err := w.refreshHead(ctx); err != nil && ctx.Err() == nil {
			w.metrics.head("failed")
			w.log.DebugContext(ctx, "no new head", "error", err)
		}
		// Without a head this node is not ready, so the first one is not left to the ticker.
		var soon <-chan time.Time
		if w.newestHead() == nil {
			soon = time.After(firstHeadRetry)
		}
		select {
		case <-ctx.Done():
			return
		case <-ticks:
		case <-soon:
		case <-w.elected:
		}
	}
}

func (w *Writer) refreshHead(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, headInterval)
	defer cancel()
	if w.store.IsLeader() || fault.Planted("head-unverified") {
		h, err := w.makeHead(ctx)
		if err != nil {
			return err
		}
		w.metrics.head("signed")
		w.keepHead(h)
		w.publishHead(h)
		return nil
	}
	signed, err := w.askLeader(ctx, http.MethodGet, "/internal/v1/head?local=1", nil)
	if err != nil {
		return err
	}
	// Verified, because a relay of lies would stop the edges as well as a leader of lies.
	var held int64
	if h := w.newestHead(); h != nil {
		held = h.AsOf
	}
	h, err := w.verifier.Head(string(signed), held)
	if err != nil {
		return fmt.Errorf("leader's head: %w", err)
	}
	w.metrics.head("fetched")
	w.keepHead(&head{Head: h, signed: string(signed)})
	return nil
}

// makeHead makes a head as the leader. The order is the proof: the time first, then that we lead, then that we hold all that was
// committed by then. Hence every write that was acknowledged before that time is in the position. It is as true as the time: a leader's clock
// may be ahead of a majority's by less than 2 s (clock.go), and one that may be further off makes no head.
func (w *Writer) makeHead(ctx context.Context) (*head, error) {
	t0, err := w.clock.read()
	if err != nil {
		return nil, err
	}
	if !fault.Planted("head-unverified") {
		index, err := w.store.ReadIndex(ctx)
		if err != nil {
			return nil, err
		}
		if err := w.store.WaitApplied(ctx, index); err != nil {
			return nil, err
		}
	}
	h := replication.Head{Position: w.store.Position(), AsOf: t0.Unix()}
	// A clock that was set back in between must not make a head that ends up dated before its own as_of.
	now := w.now()
	if now.Before(t0) {
		now = t0
	}
	signed, err := w.signer.sign(h.Claims(now.Unix()), now)
	if err != nil {
		return nil, fmt.Errorf("sign head: %w", err)
	}
	return &head{Head: h, signed: signed, own: true}, nil
}

// keepHead replaces the head by a newer one.
func (w *Writer) keepHead(h *head) {
	w.headMu.Lock()
	defer w.headMu.Unlock()
	if old := w.head; old == nil || newer(h.Head, old.Head) {
		w.head = h
	}
}

func newer(a, b replication.Head) bool {
	if c := a.Revision().Compare(b.Revision()); c != 0 {
		return c > 0
	}
	return a.AsOf >= b.AsOf
}

func (w *Writer) newestHead() *head {
	w.headMu.Lock()
	defer w.headMu.Unlock()
	return w.head
}

// headAge is how long ago the newest head was made, in seconds; -1 before the first.
func (w *Writer) headAge() float64 {
	h := w.newestHead()
	if h == nil {
		return -1
	}
	return w.now().Sub(time.Unix(h.AsOf, 0)).Seconds()
}

// handleHead serves the newest head. With local=1 only a leader's own, which is what followers ask for: two of them could
// otherwise hand an old one to each other for ever.
func (w *Writer) handleHead(rw http.ResponseWriter, r *http.Request) error {
	h := w.newestHead()
	if r.URL.Query().Get("local") == "1" && (h == nil || !h.own || !w.store.IsLeader()) {
		return problem.New(problem.NotLeader, "This writer does not lead.").After(headInterval)
	}
	if h == nil {
		return problem.New(problem.Unavailable, "This writer has not heard of a leader yet.").After(headInterval)
	}
	if held, err := replication.ParseRevision(r.Header.Get(replication.RevisionHeader)); err == nil {
		edge, err := w.asking(r, r.Header.Get(replication.NodeHeader))
		if err != nil {
			return err
		}
		w.sawEdge(edge, held)
	}
	writeBody(rw, http.StatusOK, "application/jwt", []byte(h.signed))
	return nil
}
