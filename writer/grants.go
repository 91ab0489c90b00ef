package writer

import (
	"cmp"
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/latchkey/latchkey/pkg/entitlement"
	"github.com/latchkey/latchkey/pkg/problem"
	"github.com/latchkey/latchkey/writer/internal/provider"
	"github.com/latchkey/latchkey/writer/internal/store"
)

// What the API grants can be passed on to an aggregator, so that its own library in the app knows of it too. The leader does it, where it is configured: an account
// is owed until the aggregator has what stands here, and then that is noted. A leader that fails in between leaves it to the next one, which asks first what is
// there. All of the memory here is about when to try again.

const (
	// passAtOnce is how many accounts are passed on at a time, and passRound how many in a round.
	passAtOnce = 4
	passRound  = 256
	passPage   = 512
	// A look at the state comes passGather after it changed and takes at most a tenth of the time.
	passGather = 100 * time.Millisecond
	passShare  = 10
	// The pause before another try, doubled each time, with jitter. Whoever the aggregator does not know waits for the app's first start, for weeks maybe.
	passPauseMin = time.Second
	passPauseMax = time.Hour
	// passUnmapped is how long a grant waits of which the catalog does not say what it is called there; another catalog is looked at once.
	passUnmapped = 24 * time.Hour
	// passPatience is how long nothing is passed on after the aggregator refused the key, asked for patience without saying how long, or did not answer.
	passPatience = 10 * time.Second
	// passWithin bounds the work on one account: several requests for each of its names.
	passWithin = time.Minute
	// passNames bounds by how many names an account is looked for: one for each profile that its person ever had.
	passNames = 20
)

// What became of the grants of an account, or of one of its levels there, in the words of the metrics.
const (
	passGranted  = "granted"
	passRevoked  = "revoked"
	passUnknown  = "unknown_customer" // the aggregator does not know the account (yet)
	passOutlived = "outlived"         // others sold or gave the same there; it is looked at again
	passFailed   = "failed"
)

var passOutcomes = []string{passGranted, passRevoked, passUnknown, passOutlived, passFailed}

// passOn passes grants on while ctx, the leader's, lives.
func (w *Writer) passOn(ctx context.Context) {
	var running sync.WaitGroup
	for env := range w.cfg.Environments {
		if granter := w.granter(env); granter != nil {
			p := &granting{Writer: w, env: env, to: granter, tried: map[entitlement.AccountID]*passTry{}}
			running.Go(func() { p.run(ctx) })
		}
	}
	running.Wait()
}

// granter returns whom the grants of an environment are passed on to, or nil.
func (w *Writer) granter(env entitlement.Environment) provider.Granter {
	if adapty := w.cfg.Environments[env].Adapty; adapty == nil || !adapty.WriteGrants {
		return nil
	}
	granter, _ := w.pullers[env][entitlement.Adapty].(provider.Granter)
	return granter
}

// granting is the work on one environment in one term of this leader.
type granting struct {
	*Writer
	env     entitlement.Environment
	to      provider.Granter
	catalog *entitlement.CatalogIndex // as it was last looked at
	round   int

	mu     sync.Mutex
	tried  map[entitlement.AccountID]*passTry
	paused time.Time // until when nobody is asked for
}

type passTry struct {
	change uint64
	next   time.Time
	pause  time.Duration
	seen   int // round
}

func (p *granting) run(ctx context.Context) {
	for ctx.Err() == nil {
		applied := p.store.Applied()
		began := time.Now()
		due, next, err := p.due(began)
		took := time.Since(began)
		if err != nil {
			p.log.WarnContext(ctx, "grants to be passed on not read", "environment", p.env, "error", err)
			next = began.Add(passPauseMin)
		}
		var working sync.WaitGroup
		slots := make(chan struct{}, passAtOnce)
		for _, owed := range due {
			slots <- struct{}{}
			working.Go(func() {
				p.pass(ctx, owed)
				<-slots
			})
		}
		working.Wait()
		if !wait(ctx, max(passShare*took, passGather), nil, nil) {
			return
		}
		if len(due) > 0 {
			continue // some of them may be due again before anything else happens
		}
		if !wait(ctx, time.Until(next), applied, nil) {
			return
		}
	}
}

// due returns whose grants are to be passed on now, and when to look again if nothing happens.
func (p *granting) due(now time.Time) (due []store.OwedGrants, next time.Time, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	next, p.round = now.Add(passPauseMax), p.round+1
	if p.paused.After(now) {
		return nil, p.paused, nil
	}
	var index *entitlement.CatalogIndex
	if err := p.store.View(func(r *store.Reader) (err error) {
		index, err = p.catalogs.index(r, p.env)
		return err
	}); err != nil {
		return nil, next, err
	}
	if index != p.catalog {
		p.catalog = index
		clear(p.tried) // it may say now what a grant is called there
	}
	for after := entitlement.AccountID(""); ; {
		var page []store.OwedGrants
		if err := p.store.View(func(r *store.Reader) (err error) {
			page, err = r.OwedGrants(p.env, after, passPage)
			return err
		}); err != nil {
			return nil, next, err
		}
		for _, owed := range page {
			try := p.tried[owed.Account]
			if try == nil || try.change != owed.Change {
				try = &passTry{change: owed.Change}
				p.tried[owed.Account] = try
			}
			try.seen = p.round
			switch {
			case try.next.After(now):
				if try.next.Before(next) {
					next = try.next
				}
			case len(due) < passRound:
				try.pause = min(max(2*try.pause, passPauseMin), passPauseMax)
				try.next = now.Add(try.pause/2 + rand.N(try.pause))
				due = append(due, owed)
			}
		}
		if len(page) < passPage {
			break
		}
		after = page[len(page)-1].Account
	}
	for id, try := range p.tried {
		if try.seen != p.round {
			delete(p.tried, id)
		}
	}
	return due, next, nil
}

// pass makes what an aggregator has of an account what is granted here.
func (p *granting) pass(ctx context.Context, owed store.OwedGrants) {
	ctx, cancel := context.WithTimeout(problem.WithRequestID(ctx, newID()), passWithin)
	defer cancel()
	p.mu.Lock()
	paused := p.paused.After(time.Now())
	p.mu.Unlock()
	if paused {
		return
	}
	names, want, mapped, err := p.wanted(owed.Account)
	known, open := false, false
	for _, name := range names {
		if err != nil {
			break
		}
		var done provider.Passed
		done, err = p.to.PassOn(ctx, name, want)
		p.metrics.passedOn.WithLabelValues(passGranted).Add(float64(done.Granted))
		p.metrics.passedOn.WithLabelValues(passRevoked).Add(float64(done.Revoked))
		if open = open || done.Open; errors.Is(err, provider.ErrGone) {
			err = nil
			continue
		}
		known = true
	}
	switch {
	case err != nil:
		p.failed(ctx, err)
	case !known && len(want) == 0 && mapped: // nothing is granted, and nobody is there to have it
		p.note(ctx, owed)
	case !known:
		p.metrics.passedOn.WithLabelValues(passUnknown).Inc()
	case open:
		p.metrics.passedOn.WithLabelValues(passOutlived).Inc()
	case mapped:
		p.note(ctx, owed)
	default: // until another catalog comes
		p.mu.Lock()
		p.tried[owed.Account].next = time.Now().Add(passUnmapped)
		p.mu.Unlock()
	}
}

func (p *granting) note(ctx context.Context, owed store.OwedGrants) {
	if _, err := p.propose(ctx, store.TypeNoteGranted, p.env, store.NoteGranted(owed)); err != nil {
		p.failed(ctx, err)
	}
}

// failed counts a failure. Some make everybody wait.
func (p *granting) failed(ctx context.Context, err error) {
	if errors.Is(ctx.Err(), context.Canceled) {
		return // the next leader does it
	}
	p.metrics.passedOn.WithLabelValues(passFailed).Inc()
	p.log.WarnContext(ctx, "grants not passed on", "provider", p.to.Provider(), "environment", p.env, "error", err, "provider_request_id", requestIDOf(err),
		"correlation_id", problem.RequestID(ctx))
	if failed := (*provider.PullError)(nil); errors.As(err, &failed) && !errors.Is(err, provider.ErrAnswer) {
		p.mu.Lock()
		p.paused = time.Now().Add(cmp.Or(failed.RetryAfter, passPatience))
		p.mu.Unlock()
	}
}

// wanted returns by which names an aggregator may know an account, and what it is to have there. mapped is false where the catalog does not say what a grant of it is
// called there. Who was erased has no names.
func (p *granting) wanted(id entitlement.AccountID) (names []entitlement.Alias, want []provider.Access, mapped bool, err error) {
	mapped = true
	err = p.store.View(func(r *store.Reader) error {
		members, _, err := r.Group(p.env, id)
		if err != nil {
			return err
		}
		detail, found, err := r.AccountDetail(p.env, members[0])
		if err != nil || !found {
			return err
		}
		index, err := p.catalogs.index(r, p.env)
		if err != nil {
			return err
		}
		names = namesAt(p.to.Provider(), detail)
		now := p.now().Unix()
		for _, g := range detail.Account.Grants {
			if g.EndsAt != 0 && g.EndsAt <= now {
				continue
			}
			levels := index.AggregatorNames(p.to.Provider(), g.Entitlement)
			mapped = mapped && len(levels) > 0
			for _, level := range levels {
				at := slices.IndexFunc(want, func(a provider.Access) bool { return a.Level == level })
				switch {
				case at < 0:
					want = append(want, provider.Access{Level: level, EndsAt: g.EndsAt})
				case g.EndsAt == 0 || want[at].EndsAt != 0 && g.EndsAt > want[at].EndsAt:
					want[at].EndsAt = g.EndsAt
				}
			}
		}
		return nil
	})
	return names, want, mapped, err
}

// namesAt returns by which names an aggregator may know an account: those that it was given, else those under which it bought, else its own id.
func namesAt(by entitlement.Provider, detail store.AccountDetail) []entitlement.Alias {
	var names []entitlement.Alias
	for _, n := range detail.Aliases {
		if n.Kind.Provider() == by {
			names = append(names, n.Alias)
		}
	}
	if len(names) == 0 {
		for _, a := range learnedAliases(detail) {
			if a.Kind.Provider() == by {
				names = append(names, a)
			}
		}
	}
	if len(names) == 0 {
		for _, id := range detail.Accounts {
			names = append(names, entitlement.Alias{Kind: entitlement.AdaptyCustomerUser, Value: string(id)})
		}
	}
	return names[:min(len(names), passNames)]
}

// countOwedGrants is how many accounts of an environment have grants to be passed on, up to maxCounted; 0 where they are not.
func (w *Writer) countOwedGrants(env entitlement.Environment) float64 {
	if w.granter(env) == nil {
		return 0
	}
	n := 0
	_ = w.store.View(func(r *store.Reader) error {
		list, err := r.OwedGrants(env, "", maxCounted)
		n = len(list)
		return err
	})
	return float64(n)
}
