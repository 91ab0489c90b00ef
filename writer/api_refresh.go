package writer

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/latchkey/latchkey/pkg/entitlement"
	"github.com/latchkey/latchkey/pkg/problem"
	"github.com/latchkey/latchkey/writer/internal/provider"
	"github.com/latchkey/latchkey/writer/internal/store"
)

// Support asks the providers about one account now: what is recorded may lack a message that was lost. The node that is asked does it, whether it leads or not.

const (
	refreshRoute = "POST /v1/accounts/{id}/refresh"

	// refreshAsk is how long the providers may take together: somebody waits. What they did not answer by then is told.
	refreshAsk = 10 * time.Second
	// refreshEvery is the least time between two refreshes of one account at one writer, and maxRefreshing how many run there at a time: what providers allow is
	// for all accounts together.
	refreshEvery  = 10 * time.Second
	maxRefreshing = 16
	// maxRefreshed bounds for how many accounts a writer remembers that they were refreshed: more than it can refresh in refreshEvery.
	maxRefreshed = 10_000
)

// The outcomes of a provider beside those of a pull.
const (
	refreshAnswered = "answered"
	refreshNoKey    = "not_configured"
)

// refreshes bounds the refreshes of a node. The zero value has seen none.
type refreshes struct {
	mu      sync.Mutex
	running int
	again   map[string]time.Time // by environment and account: when the next one may begin
}

// begin counts one, and says how long to wait if it is one too many; 0 lets it through, and it ends with end.
func (r *refreshes) begin(env entitlement.Environment, id entitlement.AccountID, now time.Time) time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	key := string(env) + "/" + string(id)
	if left := r.again[key].Sub(now); left > 0 {
		return left
	}
	if len(r.again) >= maxRefreshed {
		maps.DeleteFunc(r.again, func(_ string, at time.Time) bool { return !at.After(now) })
	}
	if r.running >= maxRefreshing || len(r.again) >= maxRefreshed {
		return time.Second
	}
	if r.again == nil {
		r.again = map[string]time.Time{}
	}
	r.again[key] = now.Add(refreshEvery)
	r.running++
	return 0
}

func (r *refreshes) end() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.running--
}

// refreshAsked is what became of the questions to one provider.
type refreshAsked struct {
	Provider   entitlement.Provider `json:"provider"`
	Outcome    string               `json:"outcome"`               // answered, or why not all of it was
	Objects    int                  `json:"objects"`               // that were asked for
	Recorded   int                  `json:"recorded"`              // answers that told something new
	RetryAfter int64                `json:"retry_after,omitempty"` // seconds
}

// refreshChange is what an entitlement was before, and is now; null where it was not there.
type refreshChange struct {
	ID     string          `json:"id"`
	Before json.RawMessage `json:"before"`
	After  json.RawMessage `json:"after"`
}

type balanceChange struct {
	Before int64 `json:"before"`
	After  int64 `json:"after"`
}

// refresh asks the providers about everything of an account, and answers with what changed.
func (c *apiCall) refresh() (answer, error) {
	if len(c.body) > 0 {
		if err := c.decode(&struct{}{}); err != nil {
			return answer{}, err
		}
	}
	key, err := c.idempotency()
	if err != nil {
		return answer{}, err
	}
	var id entitlement.AccountID
	var before *entitlement.Account
	var detail store.AccountDetail
	var kept []byte
	err = c.read(c.ctx(), func(reader *store.Reader) (err error) {
		if id, err = c.account(reader); err != nil {
			return err
		}
		if before, _, err = reader.Account(c.env, id); err != nil {
			return err
		}
		if detail, _, err = reader.AccountDetail(c.env, id); err != nil {
			return err
		}
		kept, err = c.keptAnswer(reader, key)
		return err
	})
	if err != nil || kept != nil {
		return answer{status: http.StatusOK, raw: kept, media: "application/json"}, err
	}
	if left := c.refreshes.begin(c.env, detail.ID, time.Now()); left > 0 {
		return answer{}, problem.New(problem.TooManyRequests, "The account was refreshed a moment ago, or too many are at present.").After(left)
	}
	defer c.refreshes.end()
	asked := c.askAbout(detail)
	if err := c.ctx().Err(); err != nil {
		return answer{}, err
	}
	shown := struct {
		written
		Complete bool                     `json:"complete"` // every provider answered
		Asked    []refreshAsked           `json:"asked"`
		Changed  []refreshChange          `json:"changed"`
		Balances map[string]balanceChange `json:"balances_changed"`
	}{Complete: true, Asked: asked}
	for _, a := range asked {
		shown.Complete = shown.Complete && a.Outcome == refreshAnswered
	}
	err = c.read(c.ctx(), func(reader *store.Reader) error {
		after, _, err := reader.Account(c.env, id)
		if err != nil {
			return err
		}
		index, err := c.catalogs.index(reader, c.env)
		if err != nil {
			return err
		}
		shown.written = written{id, reader.Position().Revision().String()}
		now := c.now().Unix()
		shown.Changed, shown.Balances, err = refreshed(before.View(index, now, c.cfg.ManageURLs), after.View(index, now, c.cfg.ManageURLs), c.env, now)
		return err
	})
	if err != nil {
		return answer{}, err
	}
	body, err := json.Marshal(shown)
	if err != nil {
		return answer{}, err
	}
	// What a provider did not answer is worth asking again under the same key.
	body, err = c.keepAnswer(c.ctx(), c.env, id, key, append(body, '\n'), shown.Complete)
	return answer{status: http.StatusOK, raw: body, media: "application/json"}, err
}

// refreshed compares what two views show, at one time.
func refreshed(before, after entitlement.View, env entitlement.Environment, now int64) ([]refreshChange, map[string]balanceChange, error) {
	type shown struct {
		Entitlements []json.RawMessage
		Balances     map[string]int64
	}
	changes, balances := map[string]*refreshChange{}, map[string]balanceChange{}
	read := func(view entitlement.View, note func(*refreshChange, json.RawMessage)) (s shown, err error) {
		if err := json.Unmarshal(append(view.AppendJSON([]byte{'{'}, env, now+graceSeconds), '}'), &s); err != nil {
			return s, err
		}
		for _, text := range s.Entitlements {
			var e struct{ ID string }
			if err := json.Unmarshal(text, &e); err != nil {
				return s, err
			}
			if changes[e.ID] == nil {
				changes[e.ID] = &refreshChange{ID: e.ID}
			}
			note(changes[e.ID], text)
		}
		return s, nil
	}
	was, err := read(before, func(c *refreshChange, text json.RawMessage) { c.Before = text })
	if err != nil {
		return nil, nil, err
	}
	is, err := read(after, func(c *refreshChange, text json.RawMessage) { c.After = text })
	if err != nil {
		return nil, nil, err
	}
	list := []refreshChange{}
	for _, id := range slices.Sorted(maps.Keys(changes)) {
		if c := changes[id]; !bytes.Equal(c.Before, c.After) {
			list = append(list, *c)
		}
	}
	for _, amounts := range []map[string]int64{was.Balances, is.Balances} {
		for credit := range amounts {
			if was.Balances[credit] != is.Balances[credit] {
				balances[credit] = balanceChange{was.Balances[credit], is.Balances[credit]}
			}
		}
	}
	return list, balances, nil
}

// refreshTarget is one object to ask for.
type refreshTarget struct {
	entitlement.Doubt
	known entitlement.Evidence // of its purchase; empty for one that is not known
}

// askAbout asks every provider of the account's purchases and names, side by side, and records what is new.
func (c *apiCall) askAbout(detail store.AccountDetail) []refreshAsked {
	p := newPulling(c.Writer, c.env, c.pullers[c.env])
	targets := map[entitlement.Provider][]refreshTarget{}
	for _, purchase := range detail.Purchases {
		for i := range purchase.Evidence.Objects {
			if from := cmp.Or(purchase.Evidence.Objects[i].By, entitlement.Stripe); p.apis[from] == nil {
				targets[from] = nil // told as not configured
			}
		}
		for _, target := range presentOf(p.targets(purchase.Evidence, store.Pull{Conflict: true})) {
			targets[target.Provider()] = append(targets[target.Provider()], refreshTarget{target, purchase.Evidence})
		}
	}
	customers := map[entitlement.Provider][]entitlement.Alias{}
	if p.apis[entitlement.Apple] != nil { // which knows customers by what they bought
		for _, purchase := range detail.Purchases {
			for _, link := range purchase.Evidence.Links {
				if id, ok := strings.CutPrefix(string(link), string(entitlement.Apple)+":"); ok && !strings.Contains(id, ":") { // else it is one term's, or a tester's
					customers[entitlement.Apple] = append(customers[entitlement.Apple], entitlement.Alias{Kind: entitlement.AppleOriginalTransaction, Value: id})
				}
			}
		}
	}
	for _, a := range detail.Aliases {
		from := cmp.Or(a.Kind.Provider(), map[entitlement.AliasKind]entitlement.Provider{entitlement.StripeCustomer: entitlement.Stripe, entitlement.AppleOriginalTransaction: entitlement.Apple}[a.Kind])
		if api := p.apis[from]; api != nil {
			customers[from] = append(customers[from], a.Alias)
			targets[from] = append(targets[from], namedTargets(api, a.Alias)...)
		}
	}
	ctx, cancel := context.WithTimeout(c.ctx(), refreshAsk)
	defer cancel()
	asked := make([]refreshAsked, len(targets))
	var asking sync.WaitGroup
	for i, from := range slices.Sorted(maps.Keys(targets)) {
		asking.Go(func() { asked[i] = c.askProvider(ctx, p, from, targets[from], customers[from]) })
	}
	asking.Wait()
	return asked
}

// presentOf leaves of the payments of a purchase, which come to dozens, the newest of each kind. targets has the newest first.
func presentOf(targets []entitlement.Doubt) []entitlement.Doubt {
	seen := map[entitlement.ObjectKind]bool{}
	return slices.DeleteFunc(targets, func(d entitlement.Doubt) bool {
		switch d.Kind {
		case entitlement.KindInvoice, entitlement.KindPayment, entitlement.KindCharge, entitlement.KindRefund, entitlement.KindDispute:
			again := seen[d.Kind]
			seen[d.Kind] = true
			return again
		}
		return false
	})
}

// namedTargets returns what to ask for by a name that the account has, whether a purchase is known or not.
func namedTargets(api provider.Puller, a entitlement.Alias) []refreshTarget {
	kind, id := entitlement.KindTransaction, ""
	switch a.Kind {
	case entitlement.StripeCustomer:
		return nil // is asked for what they bought
	case entitlement.AppleOriginalTransaction:
		kind, id = entitlement.KindRenewal, a.Value
	}
	o := entitlement.Object{Kind: kind, ID: id, By: api.Provider(), Aliases: []entitlement.Alias{a}}
	var targets []refreshTarget
	for _, target := range api.Targets(entitlement.Evidence{Objects: []entitlement.Object{o}}, []entitlement.Doubt{{Kind: kind, ID: id, By: o.By}}) {
		target.By = o.By
		targets = append(targets, refreshTarget{Doubt: target})
	}
	return targets
}

// askProvider asks one provider, one question after the other.
func (c *apiCall) askProvider(ctx context.Context, p *pulling, from entitlement.Provider, targets []refreshTarget, customers []entitlement.Alias) refreshAsked {
	asked := refreshAsked{Provider: from, Outcome: refreshAnswered}
	api := p.apis[from]
	if api == nil {
		asked.Outcome = refreshNoKey
		return asked
	}
	note := func(outcome string, after time.Duration) {
		if asked.Outcome == refreshAnswered {
			asked.Outcome = outcome
		}
		asked.RetryAfter = max(asked.RetryAfter, int64(after.Round(time.Second)/time.Second))
	}
	failed := func(err error) (stop bool) {
		outcome, after := p.failed(from, err)
		p.metrics.providerPull(from, outcome)
		if outcome == pullGone {
			return false // that is an answer
		}
		c.log.WarnContext(c.ctx(), "provider not asked with success", "provider", from, "environment", c.env, "outcome", outcome, "error", err,
			"provider_request_id", requestIDOf(err), "correlation_id", problem.RequestID(c.ctx()))
		note(outcome, after)
		if outcome == pullLimited {
			c.receiptPauses.begin(c.env, from, after)
		}
		return outcome == pullLimited || outcome == pullUnavailable || ctx.Err() != nil
	}
	if left := c.receiptPauses.left(c.env, from); left > 0 {
		note(pullLimited, left)
		return asked
	}
	if lister, ok := api.(provider.CustomerLister); ok {
		listed := map[string]bool{} // what is on a list has the same customer
		for _, a := range customers {
			if listed[a.Value] {
				continue
			}
			bought, err := lister.BoughtBy(ctx, a)
			if err != nil && failed(err) {
				return asked
			}
			for _, d := range bought {
				listed[d.ID] = true
				targets = append(targets, refreshTarget{Doubt: d})
			}
		}
	}
	seen := map[entitlement.Doubt]bool{}
	for _, target := range targets {
		same := entitlement.Doubt{Kind: target.Kind, ID: target.ID}
		if seen[same] {
			continue
		}
		seen[same] = true
		asked.Objects++
		ev, err := api.Pull(ctx, target.Kind, target.ID)
		if err != nil {
			if failed(err) {
				return asked
			}
			continue
		}
		news := p.isNews(&ev) || target.Kind != entitlement.KindCustomer && len(target.known.Objects) > 0 && news(target.known, target.known.Add(ev.Objects...), ev)
		if !news {
			p.metrics.providerPull(from, pullUnchanged)
			continue
		}
		result, err := c.propose(c.ctx(), store.TypeRecordEvent, c.env, store.RecordEvent{Event: ev})
		if err != nil || result.Rejection != nil {
			p.metrics.providerPull(from, pullNotRecorded)
			note(pullNotRecorded, 0)
			return asked
		}
		p.metrics.providerPull(from, pullRecorded)
		asked.Recorded++
		c.alarmUnmapped(c.ctx(), c.env, &ev)
		c.alarmSoldTwice(c.ctx(), c.env, &ev, result.Account)
	}
	return asked
}
