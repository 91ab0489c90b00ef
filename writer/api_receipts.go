package writer

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/latchkey/latchkey/pkg/entitlement"
	"github.com/latchkey/latchkey/pkg/problem"
	"github.com/latchkey/latchkey/pkg/token"
	"github.com/latchkey/latchkey/writer/internal/provider"
	"github.com/latchkey/latchkey/writer/internal/store"
)

// An app shows what its store gave it, so that a purchase counts without waiting for the provider's message. What it shows is judged like such a
// message: a signature is verified, or the provider is asked. Both come to the same purchase, whichever is first.

// Limits of receipts.
const (
	maxReceipts = 50 // as the contract has it; StoreKit keeps fewer that are not finished
	// maxReceiptsBytes has room for maxReceipts signed transactions, each of which carries three certificates.
	maxReceiptsBytes = 512 << 10
	// maxProofBytes bounds one of them. A transaction of StoreKit has about 6 KiB.
	maxProofBytes = 16 << 10
	// receiptWorkers is how many receipts of one request are judged at a time.
	receiptWorkers = 8
	// receiptAsk is how long one provider may take for one answer, and receiptsAsk all of them together: somebody looks at a screen.
	receiptAsk  = 2 * time.Second
	receiptsAsk = 6 * time.Second
	// receiptRetry is how long an app waits before it shows a receipt again that could not be judged.
	receiptRetry = 5 * time.Second
)

// The outcomes of a receipt.
const (
	receiptRecorded    = "recorded"          // it is on a majority's disks, and the account's
	receiptProvisional = "provisional"       // the same, and its store could not be asked yet: it counts for a day at most
	receiptPending     = "pending"           // nothing can be said yet: show it again
	receiptOther       = "owned_by_other"    // on a majority's disks, and another account's
	receiptEnvironment = "wrong_environment" // it does not count in this environment
	receiptRejected    = "rejected"          // it proves nothing
)

// receipt is one proof as the app shows it. The provider says which of the others is given.
type receipt struct {
	Provider  entitlement.Provider `json:"provider"`
	Signed    string               `json:"signed_transaction"`
	Package   string               `json:"package"`
	Token     string               `json:"purchase_token"`
	SessionID string               `json:"checkout_session_id"`
}

// receiptResult is what became of a receipt.
type receiptResult struct {
	Outcome    string                 `json:"outcome"`
	Finish     bool                   `json:"finish"` // it is durable here: only then may the app finish the transaction
	PurchaseID entitlement.PurchaseID `json:"purchase_id,omitempty"`
	RetryAfter int64                  `json:"retry_after,omitempty"` // seconds
}

// transactionParser is an adapter whose store signs what the app holds.
type transactionParser interface {
	ParseTransaction(signed string) (entitlement.Event, error)
}

func (w *Writer) routeReceipts(s *server) {
	s.handle(receiptsRoute, w.handleReceipts)
}

const receiptsRoute = "POST /v1/receipts"

// receipts is one request.
type receipts struct {
	*Writer
	env     entitlement.Environment
	account entitlement.AccountID
	asking  context.Context // while providers may still be asked
}

// handleReceipts takes receipts from an app, or from a backend on behalf of an account.
func (w *Writer) handleReceipts(rw http.ResponseWriter, r *http.Request) error {
	ctx := r.Context()
	caller, err := w.receiptsCaller(r)
	if err != nil {
		return err
	}
	body, err := readBody(r, maxReceiptsBytes)
	if err != nil {
		return err
	}
	var req struct {
		Account  entitlement.AccountID `json:"account_id"`
		Receipts []receipt             `json:"receipts"`
	}
	decode := decodeStrict
	if caller.account != "" { // an app in the field may know fields that this release does not
		decode = json.Unmarshal
	}
	if err := decode(body, &req); err != nil {
		return problem.New(problem.InvalidRequest, sentence(err.Error()))
	}
	if err := checkReceipts(req.Receipts); err != nil {
		return err
	}
	c := &receipts{Writer: w, env: caller.env, account: cmp.Or(caller.account, req.Account)}
	switch {
	case c.account == "":
		return wrong("account_id", "is missing")
	case req.Account != "" && req.Account != c.account:
		return problem.New(problem.Forbidden, "The credential is another account's.")
	}
	if err := w.speaks(entitlement.Apple); err != nil { // or the others could not read what is written here
		return err
	}
	if err := w.read(ctx, c.checkAccount(caller)); err != nil {
		return err
	}
	results := c.takeAll(ctx, req.Receipts)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	var answer []byte
	err = w.read(ctx, func(reader *store.Reader) error {
		shown, err := json.Marshal(results)
		if err != nil {
			return err
		}
		answer = append(append([]byte(`{"results":`), shown...), ',')
		answer, err = w.appendEntitlements(answer, reader, c.env, c.account, stateOf(results))
		return err
	})
	if err != nil {
		return err
	}
	writeBody(rw, http.StatusOK, "application/json", append(answer, "}\n"...))
	return nil
}

func stateOf(results []receiptResult) string {
	for _, r := range results {
		if r.Outcome == receiptPending {
			return statePending
		}
	}
	return stateSettled
}

func checkReceipts(list []receipt) error {
	if len(list) == 0 || len(list) > maxReceipts {
		return wrong("receipts", "want 1 to %d", maxReceipts)
	}
	for _, r := range list {
		given := map[entitlement.Provider]string{entitlement.Apple: r.Signed, entitlement.Google: r.Token, entitlement.Stripe: r.SessionID}
		proof, known := given[r.Provider]
		delete(given, r.Provider)
		switch {
		case !known:
			return wrong("receipts", "a provider is apple, google or stripe")
		case proof == "" || len(proof) > maxProofBytes:
			return wrong("receipts", "a proof of %s is missing or too long", r.Provider)
		case (r.Package != "") != (r.Provider == entitlement.Google):
			return wrong("receipts", "package belongs to google")
		}
		for _, other := range given {
			if other != "" {
				return wrong("receipts", "one proof each, of its provider")
			}
		}
	}
	return nil
}

// receiptsCaller is who asks. A backend's key leaves the account open.
type receiptsCaller struct {
	env      entitlement.Environment
	account  entitlement.AccountID
	issuedAt int64 // of the session
}

// receiptsCaller reads the credential: a key of scope sk, or the session that an app has.
func (w *Writer) receiptsCaller(r *http.Request) (receiptsCaller, error) {
	text := bearer(r)
	if strings.HasPrefix(text, "lk_") {
		hash, err := w.credential(r)
		if err != nil {
			return receiptsCaller{}, err
		}
		var env entitlement.Environment
		err = w.read(r.Context(), func(reader *store.Reader) (err error) {
			env, err = w.authorize(reader, hash, scopeServer)
			return err
		})
		if errors.Is(err, errUnknownCredential) {
			w.metrics.refused(credentialUnknown)
		}
		if err == nil {
			w.touch(hash)
		}
		return receiptsCaller{env: env}, err
	}
	if text == "" || len(text) > maxSessionBytes {
		w.metrics.refused(credentialMissing)
		return receiptsCaller{}, problem.New(problem.InvalidCredential, "Send a session token or an API key: Authorization: Bearer <credential>.")
	}
	claims, err := w.sessionOf(text)
	if err != nil {
		w.metrics.refused(credentialUnknown)
		detail := "The session token is not valid here."
		if errors.Is(err, token.ErrExpired) {
			detail = "The session token has expired."
		}
		return receiptsCaller{}, problem.New(problem.InvalidCredential, detail)
	}
	return receiptsCaller{env: entitlement.Environment(claims.Environment), account: entitlement.AccountID(claims.Subject), issuedAt: claims.IssuedAt}, nil
}

// maxSessionBytes bounds a session token, as edges do.
const maxSessionBytes = 4 << 10

// sessionOf verifies a session token with the keys of whichever environment knows its key. Errors: those of token.SessionVerifier.
func (w *Writer) sessionOf(text string) (token.SessionClaims, error) {
	err := error(token.ErrUnknownKey)
	for env, conf := range w.cfg.Environments {
		var keys [][]byte
		if err := w.store.View(func(reader *store.Reader) (err error) {
			keys, err = reader.SessionKeys(env)
			return err
		}); err != nil {
			return token.SessionClaims{}, err
		}
		v := token.SessionVerifier{Issuer: w.cfg.Node.Cluster, Audience: conf.Audience, Environment: string(env)}
		for _, text := range keys {
			var jwk token.JWK
			if err := json.Unmarshal(text, &jwk); err != nil {
				return token.SessionClaims{}, err
			}
			if err := v.AddKey(jwk); err != nil {
				return token.SessionClaims{}, err
			}
		}
		var claims token.SessionClaims
		if claims, err = v.Verify(text, w.now()); !errors.Is(err, token.ErrUnknownKey) {
			return claims, err
		}
	}
	return token.SessionClaims{}, err
}

// checkAccount refuses an account that is not there, and a session that was ended.
func (c *receipts) checkAccount(caller receiptsCaller) func(*store.Reader) error {
	return func(reader *store.Reader) error {
		account, found, err := reader.Account(c.env, c.account)
		switch {
		case err != nil:
			return err
		case !found && caller.account == "":
			return problem.New(problem.NotFound, "No such account in this environment.")
		case !found:
			return problem.New(problem.InvalidCredential, "The session's account is not there.")
		case caller.account != "" && caller.issuedAt < account.SessionsFrom:
			return problem.New(problem.SessionEnded, "The account's sessions were ended after this one was issued.")
		}
		return nil
	}
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
		result, err = c.takeAsked(ctx, r.Provider, entitlement.KindCheckout, r.SessionID)
	}
	if err != nil {
		c.log.WarnContext(ctx, "receipt not judged", "provider", r.Provider, "environment", c.env, "error", err, "correlation_id", problem.RequestID(ctx))
		return pending(0)
	}
	return result
}

// takeAsked judges a receipt that only names what to ask the provider for.
func (c *receipts) takeAsked(ctx context.Context, from entitlement.Provider, kind entitlement.ObjectKind, id string) (receiptResult, error) {
	if c.adapters[c.env][from] == nil {
		return receiptResult{Outcome: receiptRejected}, nil
	}
	ev, err := c.ask(from, kind, id)
	if err != nil {
		return c.unanswered(ctx, from, err), nil
	}
	events := []entitlement.Event{ev}
	for _, o := range ev.Objects {
		if o.Checkout == nil || o.Checkout.Subscription == "" {
			continue
		}
		sold, err := c.ask(from, entitlement.KindSubscription, o.Checkout.Subscription) // a session does not say what it began
		if err != nil {
			return c.unanswered(ctx, from, err), nil
		}
		events = append(events, sold)
	}
	return c.settle(ctx, receiptRecorded, events...)
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
	case errors.Is(err, provider.ErrGone) && after == 0: // else it may only be too new
		return receiptResult{Outcome: receiptRejected}
	}
	return pending(after)
}

// errNobodyToAsk means that the environment has nothing to ask the provider with.
var errNobodyToAsk = errors.New("the provider cannot be asked: no key is configured")

func (c *receipts) ask(from entitlement.Provider, kind entitlement.ObjectKind, id string) (entitlement.Event, error) {
	api := c.pullers[c.env][from]
	if api == nil {
		return entitlement.Event{}, errNobodyToAsk
	}
	ctx, cancel := context.WithTimeout(c.asking, receiptAsk)
	defer cancel()
	return api.Pull(ctx, kind, id)
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
	term, confirmed, err := c.confirmed(ev)
	if err != nil {
		return receiptResult{}, err
	}
	if confirmed || term == "" || c.pullers[c.env][r.Provider] == nil {
		return c.settle(ctx, receiptRecorded, ev)
	}
	told, err := c.ask(r.Provider, entitlement.KindTransaction, term)
	if err == nil {
		return c.settle(ctx, receiptRecorded, ev, told)
	}
	if result := c.unanswered(ctx, r.Provider, err); result.Outcome != receiptPending {
		return result, nil
	}
	return c.settle(ctx, receiptProvisional, unconfirmed(ev))
}

// confirmed reports the transaction that an event is about, and whether it is in the state as more than provisional: then the store was asked about
// it, or told of it.
func (c *receipts) confirmed(ev entitlement.Event) (term string, confirmed bool, err error) {
	kept := c.kept(ev)
	err = c.store.View(func(reader *store.Reader) error {
		for _, o := range kept {
			if o.Transaction == nil {
				continue
			}
			term = o.ID
			p, _, err := find(reader, c.env, kept)
			if err != nil {
				return err
			}
			for _, known := range p.Evidence.Objects {
				confirmed = confirmed || known.Kind == o.Kind && known.ID == o.ID && known.By == o.By && known.Transaction != nil && !known.Transaction.Provisional
			}
		}
		return nil
	})
	return term, confirmed, err
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
		if ev.Environment != c.env {
			if takes, err := c.takesTests(ev); err != nil || !takes {
				return receiptResult{Outcome: receiptEnvironment}, err
			}
		}
		recorded, err := c.record(ctx, ev)
		if err != nil || !recorded {
			return pending(0), err
		}
		objects = append(objects, c.kept(ev)...)
	}
	var p store.PurchaseDetail
	counts := true
	err := c.read(ctx, func(reader *store.Reader) (err error) {
		if p, _, err = find(reader, c.env, objects); err != nil || !p.Evidence.IsSandbox() || c.env == entitlement.Sandbox {
			return err
		}
		policy, err := reader.Policy(c.env)
		if err != nil {
			return err
		}
		account, _, err := reader.Account(c.env, c.account)
		counts = policy.CountsSandbox(account.Tester)
		return err
	})
	switch {
	case err != nil:
		return receiptResult{}, err
	case !p.Evidence.IsPurchase(): // a session that nobody has paid for, for instance
		return pending(0), nil
	}
	owner := p.Owner
	if owner == "" {
		if owner, err = c.claim(ctx, p.ID); err != nil {
			return receiptResult{}, err
		}
	}
	result := receiptResult{Outcome: outcome, Finish: true, PurchaseID: p.ID}
	switch {
	case owner != c.account:
		result.Outcome, result.PurchaseID = receiptOther, "" // whose it is and what it is called is not this account's matter
	case !counts:
		result.Outcome, result.Finish = receiptEnvironment, false
	}
	return result, nil
}

// takesTests reports whether a purchase of the other environment is kept in this one.
func (c *receipts) takesTests(ev entitlement.Event) (takes bool, err error) {
	if c.env != entitlement.Production || ev.Environment != entitlement.Sandbox || ev.Provider == entitlement.Stripe {
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

// claim gives the purchase to the account, if it still is nobody's, and returns whose it is then.
func (c *receipts) claim(ctx context.Context, id entitlement.PurchaseID) (entitlement.AccountID, error) {
	result, err := c.propose(ctx, store.TypeClaim, c.env, store.ClaimPurchase{Account: c.account, Purchase: id})
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
