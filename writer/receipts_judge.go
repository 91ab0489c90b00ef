package writer

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/latchkey/latchkey/pkg/entitlement"
	"github.com/latchkey/latchkey/pkg/problem"
	"github.com/latchkey/latchkey/writer/internal/provider"
	"github.com/latchkey/latchkey/writer/internal/store"
)

// How a receipt is judged: it is verified or its provider asked, what that proves is recorded if it is new, and the purchase becomes the account's if
// it is nobody's.

const (
	// receiptWorkers is how many receipts of one request are judged at a time.
	receiptWorkers = 8
	// receiptAsk is how long one provider may take for one answer, and receiptsAsk all of them together: somebody looks at a screen.
	receiptAsk  = 2 * time.Second
	receiptsAsk = 6 * time.Second
	// receiptRetry is how long an app waits before it shows a receipt again that could not be judged.
	receiptRetry = 5 * time.Second
	// receiptTries is how often a provider is asked about what it does not know and what may only be too new, and receiptUnknownRetry when the app may
	// show it once more after that. A sale is known where it was made within moments; what never is, is no sale.
	receiptTries        = 3
	receiptUnknownRetry = time.Minute
)

// transactionParser is an adapter whose store signs what the app holds.
type transactionParser interface {
	ParseTransaction(signed string) (entitlement.Event, error)
}

// receipts is one request.
type receipts struct {
	*Writer
	env     entitlement.Environment
	account entitlement.AccountID
	// restores: what is proved is taken from another account, where the policy lets it.
	restores bool
	asking   context.Context // while providers may still be asked
}

// takeAll judges the receipts, some at a time.
func (c *receipts) takeAll(ctx context.Context, list []receipt) []receiptResult {
	asking, cancel := context.WithTimeout(ctx, receiptsAsk)
	defer cancel()
	c.asking = asking
	results := make([]receiptResult, len(list))
	slots := make(chan struct{}, receiptWorkers)
	var working sync.WaitGroup
	for i, r := range list {
		slots <- struct{}{}
		working.Go(func() {
			results[i] = c.take(ctx, r)
			<-slots
		})
	}
	working.Wait()
	return results
}

// pending is the result for what is to be shown again.
func pending(after time.Duration) receiptResult {
	return receiptResult{Outcome: receiptPending, RetryAfter: int64(max(after, receiptRetry).Round(time.Second) / time.Second)}
}

// take judges one receipt. What fails on our side is pending: the app shows it again.
func (c *receipts) take(ctx context.Context, r receipt) receiptResult {
	var result receiptResult
	var err error
	switch r.Provider {
	case entitlement.Apple:
		result, err = c.takeSigned(ctx, r)
	case entitlement.Google:
		if conf := c.cfg.Environments[c.env].Google; conf == nil || conf.Package != r.Package {
			return receiptResult{Outcome: receiptRejected}
		}
		result, err = c.takeAsked(ctx, r.Provider, entitlement.KindRenewal, r.Token)
	default:
		if !stripeSessionOf(c.env, r.SessionID) {
			return receiptResult{Outcome: receiptEnvironment}
		}
		result, err = c.takeAsked(ctx, r.Provider, entitlement.KindCheckout, r.SessionID)
	}
	if err != nil {
		c.log.WarnContext(ctx, "receipt not judged", "provider", r.Provider, "environment", c.env, "error", err, "correlation_id", problem.RequestID(ctx))
		return pending(0)
	}
	return result
}

// stripeSessionOf reports whether a session's id may be the environment's: Stripe writes its mode into it.
func stripeSessionOf(env entitlement.Environment, id string) bool {
	other := "cs_live_"
	if env == entitlement.Production {
		other = "cs_test_"
	}
	return !strings.HasPrefix(id, other)
}

// takeAsked judges a receipt that only names what to ask the provider for.
func (c *receipts) takeAsked(ctx context.Context, from entitlement.Provider, kind entitlement.ObjectKind, id string) (receiptResult, error) {
	if c.adapters[c.env][from] == nil {
		return receiptResult{Outcome: receiptRejected}, nil
	}
	ev, err := c.askPatiently(from, kind, id)
	if err != nil {
		return c.unansweredAsked(ctx, from, id, err)
	}
	events := []entitlement.Event{ev}
	for _, o := range ev.Objects {
		if o.Checkout == nil {
			continue
		}
		switch mode := o.Checkout.Mode; {
		case mode == entitlement.CheckoutUnfinished:
			return pending(0), nil
		case mode == entitlement.CheckoutExpired, mode != entitlement.CheckoutPayment && mode != entitlement.CheckoutSubscription:
			return receiptResult{Outcome: receiptRejected}, nil // nobody will pay for it any more, or nothing is sold
		case o.Checkout.Subscription == "":
			continue
		}
		sold, err := c.ask(from, entitlement.KindSubscription, o.Checkout.Subscription) // a session does not say what it began
		if err != nil {
			return c.unansweredAsked(ctx, from, id, err)
		}
		events = append(events, sold)
	}
	return c.settle(ctx, receiptRecorded, events...)
}

// unansweredAsked is unanswered for what only names what to ask for. What is recorded already does not become uncertain because its provider is silent.
func (c *receipts) unansweredAsked(ctx context.Context, from entitlement.Provider, id string, err error) (receiptResult, error) {
	result := c.unanswered(ctx, from, err)
	if result.Outcome != receiptPending {
		return result, nil
	}
	known := entitlement.Event{Provider: from, Environment: c.env, Objects: []entitlement.Object{{Links: []entitlement.Link{provider.ReceiptLink(from, id)}}}}
	objects := known.Objects
	if c.env == entitlement.Production {
		objects = append(objects, store.AsTest(known).Objects...)
	}
	found, err := c.give(ctx, receiptRecorded, objects)
	if err != nil || found.Outcome == receiptPending {
		return result, err
	}
	return found, nil
}

// unanswered is what a receipt comes to whose provider gave no answer. Only what the provider does not know is refused.
func (c *receipts) unanswered(ctx context.Context, from entitlement.Provider, err error) receiptResult {
	c.log.WarnContext(ctx, "receipt's provider not asked with success", "provider", from, "environment", c.env, "error", err,
		"provider_request_id", requestIDOf(err), "correlation_id", problem.RequestID(ctx))
	var after time.Duration
	if failed := (*provider.PullError)(nil); errors.As(err, &failed) {
		after = failed.RetryAfter
	}
	switch {
	case errors.Is(err, provider.ErrOtherEnvironment):
		return receiptResult{Outcome: receiptEnvironment}
	case errors.Is(err, provider.ErrGone) && after == 0:
		return receiptResult{Outcome: receiptRejected}
	case errors.Is(err, provider.ErrGone) && c.asking.Err() == nil: // it may yet be too new
		return receiptResult{Outcome: receiptRejected, RetryAfter: int64(receiptUnknownRetry / time.Second)}
	}
	return pending(after)
}

// askPatiently is ask, again where what is asked for may only be too new.
func (c *receipts) askPatiently(from entitlement.Provider, kind entitlement.ObjectKind, id string) (ev entitlement.Event, err error) {
	for try := 1; ; try++ {
		var failed *provider.PullError
		ev, err = c.ask(from, kind, id)
		tooNew := errors.Is(err, provider.ErrGone) && errors.As(err, &failed) && failed.RetryAfter > 0
		if !tooNew || try == receiptTries || !wait(c.asking, failed.RetryAfter, nil, nil) {
			return ev, err
		}
	}
}

// errNobodyToAsk means that the environment has nothing to ask the provider with.
var errNobodyToAsk = errors.New("the provider cannot be asked: no key is configured")

func (c *receipts) ask(from entitlement.Provider, kind entitlement.ObjectKind, id string) (entitlement.Event, error) {
	api := c.pullers[c.env][from]
	if api == nil {
		return entitlement.Event{}, errNobodyToAsk
	}
	if left := c.receiptPauses.left(c.env, from); left > 0 {
		return entitlement.Event{}, &provider.PullError{Reason: provider.ErrLimited, RetryAfter: left, Detail: "it asked for patience before"}
	}
	ctx, cancel := context.WithTimeout(c.asking, receiptAsk)
	defer cancel()
	ev, err := api.Pull(ctx, kind, id)
	if failed := (*provider.PullError)(nil); errors.Is(err, provider.ErrLimited) && errors.As(err, &failed) {
		c.receiptPauses.begin(c.env, from, failed.RetryAfter)
	}
	return ev, err
}

// pauses remembers for how long providers asked to be left alone: however many receipts come meanwhile, none is asked about.
type pauses struct {
	mu    sync.Mutex
	until map[pausedProvider]time.Time
}

type pausedProvider struct {
	env      entitlement.Environment
	provider entitlement.Provider
}

func (p *pauses) begin(env entitlement.Environment, of entitlement.Provider, d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.until == nil {
		p.until = map[pausedProvider]time.Time{}
	}
	p.until[pausedProvider{env, of}] = time.Now().Add(d)
}

// left returns how long the provider is still left alone.
func (p *pauses) left(env entitlement.Environment, of entitlement.Provider) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	return time.Until(p.until[pausedProvider{env, of}])
}

// takeSigned judges a transaction that its store signed. Where the store can be asked it is, because a signature stays right after a refund; where
// it does not answer the transaction counts for a day.
func (c *receipts) takeSigned(ctx context.Context, r receipt) (receiptResult, error) {
	parser, ok := c.adapters[c.env][r.Provider].(transactionParser)
	if !ok {
		return receiptResult{Outcome: receiptRejected}, nil
	}
	ev, err := parser.ParseTransaction(r.Signed)
	if err != nil {
		return receiptResult{Outcome: receiptRejected}, nil
	}
	if takes, err := c.takes(ev); err != nil || !takes { // before the store of this environment says that it knows no such thing
		return receiptResult{Outcome: receiptEnvironment}, err
	}
	known, err := c.known(ev)
	if err != nil {
		return receiptResult{}, err
	}
	// What the store itself signed as taken back needs no question: it gives nothing.
	if known.confirmed || known.term == "" || known.revoked || c.pullers[c.env][r.Provider] == nil {
		return c.settle(ctx, receiptRecorded, ev)
	}
	told, err := c.ask(r.Provider, entitlement.KindTransaction, known.term)
	if err == nil {
		return c.settle(ctx, receiptRecorded, ev, told)
	}
	if result := c.unanswered(ctx, r.Provider, err); result.Outcome != receiptPending {
		return result, nil
	}
	if known.provisional { // its day has begun: a newer signature of the same transaction begins no other
		return c.give(ctx, receiptProvisional, c.kept(ev))
	}
	return c.settle(ctx, receiptProvisional, unconfirmed(ev))
}

// knownTransaction is what the state has of a transaction that an app shows.
type knownTransaction struct {
	term        string // its id; empty: the event is about none
	revoked     bool   // as the app shows it
	confirmed   bool   // the store was asked about it, or told of it
	provisional bool   // it was shown before, while the store did not answer
}

// known returns what the state has of the transaction that an event is about.
func (c *receipts) known(ev entitlement.Event) (k knownTransaction, err error) {
	kept := c.kept(ev)
	err = c.store.View(func(reader *store.Reader) error {
		for _, o := range kept {
			if o.Transaction == nil {
				continue
			}
			k.term, k.revoked = o.ID, o.Transaction.RevokedAt != 0
			p, _, err := find(reader, c.env, kept)
			if err != nil {
				return err
			}
			for _, had := range p.Evidence.Objects {
				if had.Kind == o.Kind && had.ID == o.ID && had.By == o.By && had.Transaction != nil {
					k.provisional = had.Transaction.Provisional
					k.confirmed = !k.provisional
				}
			}
		}
		return nil
	})
	return k, err
}

// unconfirmed returns a signed transaction as one that counts for a day, with the question to its store that settles it. It is another event than the
// transaction itself.
func unconfirmed(ev entitlement.Event) entitlement.Event {
	ev.ID += ":provisional"
	objects := make([]entitlement.Object, 0, len(ev.Objects)+1)
	for _, o := range ev.Objects {
		if o.Transaction == nil {
			objects = append(objects, o)
			continue
		}
		t := *o.Transaction
		t.Provisional = true
		o.Transaction = &t
		hint := entitlement.Object{Kind: entitlement.KindHint, ID: o.ID, By: o.By, At: o.At + 1, Links: o.Links, Hint: &entitlement.Hint{Of: entitlement.KindTransaction}}
		if t.Recurring && t.Chain != "" {
			hint.ID, hint.Hint.Of = t.Chain, entitlement.KindRenewal
		}
		objects = append(objects, o, hint)
	}
	ev.Objects = objects
	return ev
}

// kept is what the environment keeps of an event.
func (c *receipts) kept(ev entitlement.Event) []entitlement.Object {
	if ev.Environment != c.env {
		ev = store.AsTest(ev)
	}
	return ev.Objects
}

// find returns the purchase that objects belong to; a purchase comes before what is none yet.
func find(reader *store.Reader, env entitlement.Environment, objects []entitlement.Object) (p store.PurchaseDetail, found bool, err error) {
	for _, o := range objects {
		for _, l := range o.Links {
			q, ok, err := reader.Purchase(env, entitlement.PurchaseID(l))
			if err != nil {
				return p, false, err
			}
			if ok && q.Evidence.IsPurchase() {
				return q, true, nil
			}
			if ok && !found {
				p, found = q, true
			}
		}
	}
	return p, found, nil
}

// settle records what the events say that is new, and gives the purchase to the account if it is nobody's.
func (c *receipts) settle(ctx context.Context, outcome string, events ...entitlement.Event) (receiptResult, error) {
	var objects []entitlement.Object
	for _, ev := range events {
		if takes, err := c.takes(ev); err != nil || !takes {
			return receiptResult{Outcome: receiptEnvironment}, err
		}
		recorded, err := c.record(ctx, ev)
		if err != nil || !recorded {
			return pending(0), err
		}
		objects = append(objects, c.kept(ev)...)
	}
	return c.give(ctx, outcome, objects)
}

// give gives the purchase that objects belong to to the account if it is nobody's, and says whose it is. What is no purchase yet is pending.
func (c *receipts) give(ctx context.Context, outcome string, objects []entitlement.Object) (receiptResult, error) {
	var p store.PurchaseDetail
	var counts, mine, transfers = true, false, false
	err := c.read(ctx, func(reader *store.Reader) (err error) {
		if p, _, err = find(reader, c.env, objects); err != nil {
			return err
		}
		members, _, err := reader.Group(c.env, c.account)
		if err != nil {
			return err
		}
		mine = slices.Contains(members, p.Owner)
		policy, err := reader.Policy(c.env)
		if err != nil {
			return err
		}
		catalog, err := c.catalogs.index(reader, c.env)
		if err != nil {
			return err
		}
		if transfers, err = reader.RestoreTakes(c.env, p.ID, c.account, catalog, c.now().Unix()); err != nil {
			return err
		}
		if !p.Evidence.IsSandbox() || c.env == entitlement.Sandbox {
			return nil
		}
		account, _, err := reader.Account(c.env, c.account)
		counts = policy.CountsSandbox(account.Tester)
		return err
	})
	switch {
	case err != nil:
		return receiptResult{}, err
	case !p.Evidence.IsPurchase(): // a subscription whose first payment is under way, for instance
		return pending(0), nil
	}
	owner := p.Owner
	switch {
	case mine:
	case c.restores:
		owner, err = c.restore(ctx, p.ID)
	case owner == "":
		owner, err = c.claim(ctx, p.ID)
	}
	if err != nil {
		return receiptResult{}, err
	}
	result := receiptResult{Outcome: outcome, Finish: true, PurchaseID: p.ID}
	switch {
	case !mine && owner != c.account:
		result.Outcome, result.PurchaseID = receiptOther, "" // what it is called is not this account's matter, and whose it is only as a hint
		result.OwnerHint, result.RestoreAllowed = ownerHint(owner), &transfers
	case !counts:
		result.Outcome, result.Finish = receiptEnvironment, false
	}
	return result, nil
}

// takes reports whether an event is kept in this environment: it is of it, or about a test purchase that the policy lets count for somebody.
func (c *receipts) takes(ev entitlement.Event) (takes bool, err error) {
	switch {
	case ev.Environment == c.env:
		return true, nil
	case c.env != entitlement.Production || ev.Environment != entitlement.Sandbox || ev.Provider == entitlement.Stripe:
		return false, nil
	}
	err = c.store.View(func(reader *store.Reader) error {
		policy, err := reader.Policy(c.env)
		takes = policy.SandboxAccess != entitlement.SandboxNone
		return err
	})
	return takes, err
}

// record proposes an event unless it says nothing new, and reports whether what it says is in the state.
func (c *receipts) record(ctx context.Context, ev entitlement.Event) (bool, error) {
	var known bool
	kept := ev
	kept.Objects = c.kept(ev)
	err := c.store.View(func(reader *store.Reader) error {
		recorded, err := reader.Event(c.env, ev.Provider, ev.ID)
		if err != nil {
			return err
		}
		p, found, err := find(reader, c.env, kept.Objects)
		known = len(recorded) > 0 || found && !news(p.Evidence, p.Evidence.Add(kept.Objects...), kept)
		return err
	})
	if err != nil || known {
		return known, err
	}
	result, err := c.propose(ctx, store.TypeRecordEvent, c.env, store.RecordEvent{Event: ev})
	if err != nil || result.Rejection != nil || result.Outcome == store.TooLarge {
		return false, err
	}
	c.alarmUnmapped(ctx, c.env, &ev)
	return true, nil
}

// ownerHint is what another account may know of an owner: enough to recognise one's own, not enough to use it.
func ownerHint(id entitlement.AccountID) string {
	return "acc_..." + string(id[max(0, len(id)-4):])
}

// restore takes the purchase for the account as the policy lets it, and returns whose it is then.
func (c *receipts) restore(ctx context.Context, id entitlement.PurchaseID) (entitlement.AccountID, error) {
	return c.own(ctx, store.TypeRestore, store.RestorePurchase{Account: c.account, Purchase: id})
}

// claim gives the purchase to the account, if it still is nobody's, and returns whose it is then.
func (c *receipts) claim(ctx context.Context, id entitlement.PurchaseID) (entitlement.AccountID, error) {
	return c.own(ctx, store.TypeClaim, store.ClaimPurchase{Account: c.account, Purchase: id})
}

// own commits what gives a purchase to the account, and returns whose it is then.
func (c *receipts) own(ctx context.Context, t store.CommandType, body any) (entitlement.AccountID, error) {
	result, err := c.propose(ctx, t, c.env, body)
	switch {
	case err != nil:
		return "", err
	case result.Rejection != nil && result.Rejection.Owner == "":
		return "", errors.New(result.Rejection.Detail)
	case result.Rejection != nil:
		return result.Rejection.Owner, nil
	}
	return result.Account, nil
}
