package writer

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/latchkey/latchkey/pkg/entitlement"
	"github.com/latchkey/latchkey/pkg/problem"
	"github.com/latchkey/latchkey/pkg/token"
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

var receiptOutcomes = []string{receiptRecorded, receiptProvisional, receiptPending, receiptOther, receiptEnvironment, receiptRejected}

// receiptProviders are those whose receipts are taken.
var receiptProviders = []entitlement.Provider{entitlement.Apple, entitlement.Google, entitlement.Stripe}

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

	// Of another account's: how its id ends, and whether a restore would take it.
	OwnerHint      string `json:"owner_hint,omitempty"`
	RestoreAllowed *bool  `json:"restore_allowed,omitempty"`
}

func (w *Writer) routeReceipts(handle func(pattern string, h handler)) {
	handle("POST /v1/receipts", func(rw http.ResponseWriter, r *http.Request) error { return w.handleReceipts(rw, r, false) })
	handle("POST /v1/restores", func(rw http.ResponseWriter, r *http.Request) error { return w.handleReceipts(rw, r, true) })
}

// handleReceipts takes receipts from an app, or from a backend on behalf of an account. For a restore, which the user asked for, what they prove may be
// taken from another account.
func (w *Writer) handleReceipts(rw http.ResponseWriter, r *http.Request, restores bool) error {
	caller, err := w.receiptsCaller(r)
	if err != nil {
		return err
	}
	ctx := withCaller(r.Context(), caller.caller)
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
	key, err := idempotencyOf(r, caller.env, caller.who, body)
	if err != nil {
		return err
	}
	c := &receipts{Writer: w, restores: restores, env: caller.env}
	if c.account, err = accountOf(caller.account, req.Account); err != nil {
		return err
	}
	if err := w.speaks(entitlement.Apple); err != nil { // or the others could not read what is written here
		return err
	}
	var answer []byte
	err = w.read(ctx, func(reader *store.Reader) error {
		if err := c.checkAccount(reader, caller); err != nil {
			return err
		}
		answer, err = w.keptAnswer(reader, key)
		return err
	})
	if err == nil && answer == nil {
		answer, err = c.answer(ctx, req.Receipts, key)
	}
	if err != nil {
		return err
	}
	writeBody(rw, http.StatusOK, "application/json", answer)
	return nil
}

// answer judges the receipts and returns the body of the answer.
func (c *receipts) answer(ctx context.Context, list []receipt, key *store.Idempotency) (answer []byte, err error) {
	began := time.Now()
	results := c.takeAll(ctx, list)
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	for i, r := range results {
		c.metrics.receipt(list[i].Provider, r.Outcome)
	}
	c.metrics.receiptSeconds.Observe(time.Since(began).Seconds())
	if err := c.await(ctx, list, results); err != nil {
		return nil, err
	}
	err = c.read(ctx, func(reader *store.Reader) error {
		shown, err := json.Marshal(results)
		if err != nil {
			return err
		}
		answer = append(append([]byte(`{"results":`), shown...), ',')
		answer, err = c.appendEntitlements(answer, reader, c.env, c.account)
		return err
	})
	if err != nil {
		return nil, err
	}
	// What is pending is to be shown again, and gets another answer then.
	judged := !slices.ContainsFunc(results, func(r receiptResult) bool { return r.Outcome == receiptPending })
	return c.keepAnswer(ctx, c.env, c.account, key, append(answer, "}\n"...), judged)
}

// await makes the account's state pending at every edge while a proof cannot be judged, for a minute at most, and ends that once it was.
func (c *receipts) await(ctx context.Context, list []receipt, results []receiptResult) error {
	var known []entitlement.Awaited
	if err := c.store.View(func(reader *store.Reader) error {
		account, _, err := reader.Own(c.env, c.account)
		known = account.Awaited
		return err
	}); err != nil {
		return err
	}
	for i, r := range results {
		w := store.AwaitPurchase{Account: c.account, ID: awaitID(list[i].proof()), Provider: list[i].Provider, Over: r.Outcome != receiptPending}
		if awaited := slices.ContainsFunc(known, func(a entitlement.Awaited) bool { return a.ID == w.ID }); awaited != w.Over {
			continue
		}
		if _, err := c.propose(ctx, store.TypeAwait, c.env, w); err != nil {
			return err
		}
	}
	return nil
}

// proof is the one that is given.
func (r *receipt) proof() string { return cmp.Or(r.Signed, r.Token, r.SessionID) }

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
	issuedAt int64  // of the session
	device   string // that the session names
	signIn   bool   // a token of an identity provider stands for the session
	who      []byte // as idempotencyOf takes it
	caller   store.Caller
}

// ended reports whether the caller's session of the account does not count any more.
func (c *receiptsCaller) ended(account *entitlement.Account) bool {
	if c.signIn {
		return c.issuedAt < account.SessionsFrom
	}
	return account.SessionEnded(c.device, c.issuedAt)
}

// receiptsCaller reads the credential: a key of scope sk, or the session that an app has.
func (w *Writer) receiptsCaller(r *http.Request) (receiptsCaller, error) {
	text := bearer(r)
	if strings.HasPrefix(text, "lk_") {
		hash, err := w.credential(r)
		if err != nil {
			return receiptsCaller{}, err
		}
		var key store.APIKey
		err = w.read(r.Context(), func(reader *store.Reader) (err error) {
			key, err = w.authorize(reader, hash, scopeServer)
			return err
		})
		if errors.Is(err, errUnknownCredential) {
			w.metrics.refused(credentialUnknown)
		}
		if err == nil {
			w.touch(hash)
		}
		return receiptsCaller{env: key.Env, who: hash[:], caller: keyCaller(&key)}, err
	}
	if user, ok, err := w.signedInUser(r.Context(), text); ok || err != nil {
		return receiptsCaller{env: user.env, account: user.account, issuedAt: user.issuedAt, signIn: true, who: []byte("user\x00" + string(user.account)), caller: appCaller(true)}, err
	}
	claims, err := w.appSession(text)
	if err != nil {
		return receiptsCaller{}, err
	}
	return receiptsCaller{env: entitlement.Environment(claims.Environment), account: entitlement.AccountID(claims.Subject), issuedAt: claims.IssuedAt, device: claims.Device,
		who: sessionCaller(claims), caller: appCaller(false)}, nil
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

// Why a session counts no more.
const (
	sessionOver     = "This session was ended, or all of the account, after it was issued."
	sessionOfNobody = "The session's account is not there."
)

// checkAccount refuses an account that is not there, and a session that was ended.
func (c *receipts) checkAccount(reader *store.Reader, caller receiptsCaller) error {
	account, found, err := reader.Own(c.env, c.account)
	switch {
	case err != nil:
		return err
	case !found && caller.account == "":
		return problem.New(problem.NotFound, "No such account in this environment.")
	case !found:
		return problem.New(problem.InvalidCredential, sessionOfNobody)
	case caller.account != "" && caller.ended(account):
		return problem.New(problem.SessionEnded, sessionOver)
	}
	return nil
}
