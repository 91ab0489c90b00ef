package edge

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/valyala/fasthttp"

	"github.com/latchkey/latchkey/edge/internal/replica"
	"github.com/latchkey/latchkey/pkg/entitlement"
	"github.com/latchkey/latchkey/pkg/token"
	"github.com/latchkey/latchkey/replication"
)

// revocationsLook is how often at most the records are looked at for newer lists of revoked keys while changes come.
const revocationsLook = 200 * time.Millisecond

// revocations are the lists of revoked keys that the edge has from its replica, and hands on in the header of every token.
type revocations struct {
	known token.Revocations // all that it ever saw: what it believes itself by

	failing bool // the last look; used by the one goroutine that looks

	mu      sync.Mutex
	records map[entitlement.Environment][]byte // as they were read last
	lists   []replication.RevocationList
	carried []string // the lists that tokens carry: those that still count
}

// learnRevocations takes over what the records of kind keys say now. A key of this edge that is revoked is replaced, and one that is certified below a revoked
// issuing key waits for another certificate.
func (e *Edge) learnRevocations() {
	err := e.readRevocations()
	if errors.Is(err, replication.ErrNoData) || errors.Is(err, replica.ErrUnproven) {
		err = nil // looked at again with the next change
	}
	if err != nil && !e.revoked.failing {
		e.log.LogAttrs(e.logContext(), slog.LevelWarn, "lists of revoked keys not read", slog.Any("error", err))
	}
	e.revoked.failing = err != nil
	renewed := e.revoked.renew(e.now())
	for _, k := range e.keys {
		if err := e.applyRevocations(k, renewed); err != nil {
			e.log.LogAttrs(e.logContext(), slog.LevelError, "revoked key not replaced", slog.String("environment", string(k.env)), slog.Any("error", err))
		}
	}
}

func (e *Edge) readRevocations() error {
	x, err := e.replica.Read()
	if err != nil {
		return err
	}
	defer x.Close()
	r := &e.revoked
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, k := range e.keys {
		record, found, err := x.Get(nil, k.env, replication.KindKeys, replication.CurrentKey)
		if err != nil {
			return err
		}
		if !found || bytes.Equal(record, r.records[k.env]) {
			continue
		}
		lists, err := replication.DecodeRevocations(record)
		if err != nil {
			return fmt.Errorf("keys of %s: %w", k.env, err)
		}
		for _, l := range lists {
			newer, err := r.known.Learn(string(l.Text), e.cfg.roots)
			if err != nil && !errors.Is(err, token.ErrRevoked) {
				return fmt.Errorf("keys of %s: %w", k.env, err)
			}
			if newer {
				e.log.LogAttrs(e.logContext(), slog.LevelWarn, "list of revoked keys taken over", slog.Int64("counter", l.Counter), slog.Int("keys", len(l.Keys)), slog.Bool("by_root", l.ByRoot))
				r.take(l)
			}
		}
		if r.records == nil {
			r.records = map[entitlement.Environment][]byte{}
		}
		r.records[k.env] = record
	}
	return nil
}

// take keeps the list in the place of the last one of its kind.
func (r *revocations) take(l replication.RevocationList) {
	kept := []replication.RevocationList{l}
	for _, old := range r.lists {
		if old.ByRoot != l.ByRoot {
			kept = append(kept, old)
		}
	}
	r.lists = kept
}

// renew computes what tokens carry at now, and reports whether that has changed.
func (r *revocations) renew(now int64) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	var carried []string
	for _, text := range r.known.Lists() { // without one that a root has voided since
		for _, l := range r.lists {
			if string(l.Text) == text && l.Counts(now) {
				carried = append(carried, text)
			}
		}
	}
	changed := len(carried) != len(r.carried)
	for i := range carried {
		changed = changed || carried[i] != r.carried[i]
	}
	r.carried = carried
	return changed
}

// texts are the lists that tokens carry.
func (r *revocations) texts() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.carried
}

// carriedBy returns s with the lists in its header. Error: token.ErrRevoked: a list names its key, or the one above.
func (r *revocations) carriedBy(s *token.GraceSigner) (*token.GraceSigner, error) {
	if err := s.RefusedBy(&r.known); err != nil {
		return nil, err
	}
	return s.WithLists(r.texts())
}

// applyRevocations has the key's tokens carry the lists, or ends it.
func (e *Edge) applyRevocations(k *signingKey, renewed bool) error {
	kid, err := token.Thumbprint(&k.key.Load().PublicKey)
	if err != nil {
		return err
	}
	if e.revoked.known.RevokedLeaf(kid) {
		e.log.LogAttrs(e.logContext(), slog.LevelWarn, "this edge's key is revoked: another one is made", slog.String("environment", string(k.env)), slog.String("kid", kid))
		return k.replace()
	}
	signer := k.signer.Load()
	if signer == nil {
		return nil
	}
	if signer.RefusedBy(&e.revoked.known) != nil {
		e.log.LogAttrs(e.logContext(), slog.LevelWarn, "the issuing key above this edge's is revoked: another certificate is asked for", slog.String("environment", string(k.env)))
		k.signer.Store(nil)
		return nil
	}
	if !renewed {
		return nil
	}
	if signer, err = signer.WithLists(e.revoked.texts()); err != nil {
		return err
	}
	k.signer.Store(signer)
	return nil
}

// handleRevocations serves the lists alone, one on each line: for servers that verify by the JWKS, and for latchkey-edge verify.
func (e *Edge) handleRevocations(ctx *fasthttp.RequestCtx) error {
	var body []byte
	for _, list := range e.revoked.known.Lists() {
		body = append(append(body, list...), '\n')
	}
	ctx.Response.Header.Set(fasthttp.HeaderCacheControl, "no-cache")
	ctx.SetContentType("text/plain; charset=utf-8")
	ctx.SetBody(body)
	return nil
}
