package writer

import (
	"context"
	"sync"
	"time"

	"github.com/latchkey/latchkey/pkg/entitlement"
	"github.com/latchkey/latchkey/pkg/problem"
	"github.com/latchkey/latchkey/writer/internal/provider"
	"github.com/latchkey/latchkey/writer/internal/store"
)

// Some of what ends access, or lets it go on, no message tells: a charge that failed at Web2Wave, a day by which Play extends a term, a renewal whose message
// was lost. The leader goes through all purchases now and then, and asks about those of which their provider's adapter says that it is time, one after the
// other: what messages leave open goes first.

const (
	// pollEvery is the pause between two walks through all purchases.
	pollEvery = 10 * time.Minute
	// pollPause is that between two pages of them: a million purchases are gone through in a minute and a half, at a tenth of a core.
	pollPause = 50 * time.Millisecond
	// maxPolled bounds for how many ids we remember when they were asked about: more than a provider that allows one question a second answers in a day.
	maxPolled = 100_000
)

// poll asks without a message about purchases of every environment, while ctx, the leader's, lives.
func (w *Writer) poll(ctx context.Context) {
	var running sync.WaitGroup
	for env, apis := range w.pullers {
		for _, api := range apis {
			if poller, ok := api.(provider.Poller); ok {
				p := &polling{pulling: newPulling(w, env, apis), pollers: []provider.Poller{poller}, asked: map[string]time.Time{}}
				running.Go(func() { p.run(ctx) })
			}
		}
	}
	running.Wait()
}

// polling is the work on one provider of an environment, which waits for no slower one, in one term of this leader. What it remembers is when it asked: a new leader asks once more.
type polling struct {
	*pulling
	pollers []provider.Poller
	asked   map[string]time.Time // by provider and id; at most maxPolled
}

func (p *polling) run(ctx context.Context) {
	for {
		if err := p.walk(ctx, p.now()); err != nil && ctx.Err() == nil {
			p.log.WarnContext(ctx, "purchases not gone through", "environment", p.env, "error", err)
		}
		if !wait(ctx, pollEvery, nil, nil) {
			return
		}
	}
}

// walk goes through all purchases once, as of now.
func (p *polling) walk(ctx context.Context, now time.Time) error {
	after := entitlement.PurchaseID("")
	for {
		var page []store.PurchaseDetail
		if err := p.store.View(func(r *store.Reader) (err error) {
			page, err = r.Purchases(p.env, after, pullPage)
			return err
		}); err != nil {
			return err
		}
		for _, purchase := range page {
			if err := p.askWhatIsDue(ctx, purchase, now); err != nil {
				return err
			}
		}
		if len(page) < pullPage {
			return nil
		}
		after = page[len(page)-1].ID
		if !wait(ctx, pollPause, nil, nil) {
			return ctx.Err()
		}
	}
}

func (p *polling) askWhatIsDue(ctx context.Context, purchase store.PurchaseDetail, now time.Time) error {
	for _, poller := range p.pollers {
		name := string(poller.Provider()) + ":"
		for _, due := range poller.Due(purchase.Evidence, func(id string) time.Time { return p.asked[name+id] }, now) {
			if left := p.paused(poller.Provider()); left > 0 {
				continue // a later walk meets it again
			}
			ctx := problem.WithRequestID(ctx, newID())
			answers, _, _, complete := p.askAll(ctx, purchase, []entitlement.Doubt{due})
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if len(answers) == 0 && !complete && p.paused(poller.Provider()) > 0 {
				continue
			}
			p.noteAsked(name+due.ID, now)
			for _, ev := range answers {
				if p.isNews(&ev) {
					p.record(ctx, purchase, store.Pull{ID: purchase.ID, Since: now.Unix()}, []entitlement.Event{ev}, true)
				}
			}
		}
	}
	return nil
}

// noteAsked notes that an id was asked about.
func (p *polling) noteAsked(id string, now time.Time) {
	if len(p.asked) >= maxPolled {
		for old := range p.asked { // one by lot: it is asked about once more
			delete(p.asked, old)
			break
		}
	}
	p.asked[id] = now
}

// isNews reports whether an answer shows a state of a purchase that is not the one that counts.
func (p *pulling) isNews(ev *entitlement.Event) (news bool) {
	err := p.store.View(func(r *store.Reader) error {
		for _, o := range ev.Objects {
			if o.Customer != nil || len(o.Links) == 0 {
				continue
			}
			purchase, _, err := r.Purchase(p.env, entitlement.PurchaseID(o.Links[0]))
			if err != nil {
				return err
			}
			news = news || !purchase.Evidence.Knows(o)
		}
		return nil
	})
	return news || err != nil
}
