package writer

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"net/http"
	"strings"

	"github.com/latchkey/latchkey/pkg/entitlement"
	"github.com/latchkey/latchkey/pkg/problem"
	"github.com/latchkey/latchkey/writer/internal/store"
)

// Who is about to sell asks first, so that nobody pays twice for one thing and nobody has two trials. A backend asks for any account, an app for its own.

func (w *Writer) routeIntents(handle func(pattern string, h handler)) {
	handle("POST /v1/purchase-intents", w.forAccount((*apiCall).putIntent))
	handle("DELETE /v1/purchase-intents/{intent_id}", w.forAccount((*apiCall).endIntent))
	handle("POST /v1/purchase-intents/{intent_id}/submitted", w.forAccount((*apiCall).submitIntent))
}

// forAccount serves an unsafe request of a backend for any account, or of an app for its own, which f gets: empty for a backend.
func (w *Writer) forAccount(f func(*apiCall, entitlement.AccountID) (answer, error)) handler {
	return func(rw http.ResponseWriter, r *http.Request) error {
		caller, err := w.receiptsCaller(r)
		if err != nil {
			return err
		}
		c := &apiCall{Writer: w, r: by(r, caller.caller), env: caller.env, key: sha256.Sum256(caller.who)}
		if c.body, err = readBody(r, maxAPIBodyBytes); err != nil {
			return err
		}
		if caller.account != "" {
			err := w.store.View(func(reader *store.Reader) error {
				account, found, err := reader.Own(c.env, caller.account)
				switch {
				case err != nil:
					return err
				case found && caller.ended(account):
					return problem.New(problem.SessionEnded, sessionOver)
				}
				return nil // one that is not there yet is found missing by the command itself
			})
			if err != nil {
				return err
			}
		}
		a, err := f(c, caller.account)
		if missing := (*problem.Problem)(nil); caller.account != "" && errors.As(err, &missing) && missing.Slug == problem.NotFound {
			err = cmp.Or(c.ofNobody(caller.account), err)
		}
		if err != nil {
			return err
		}
		return a.write(rw)
	}
}

// ofNobody is the problem of a session whose account was erased; nil for any other.
func (c *apiCall) ofNobody(account entitlement.AccountID) error {
	return c.read(c.ctx(), func(reader *store.Reader) error {
		if reader.Erased(c.env, account) {
			return problem.New(problem.InvalidCredential, sessionOfNobody)
		}
		return nil
	})
}

// decodeFor reads a body strictly for a backend. An app in the field may know fields that this release does not.
func (c *apiCall) decodeFor(app entitlement.AccountID, v any) error {
	if app == "" {
		return c.decode(v)
	}
	if len(c.body) == 0 {
		return nil
	}
	if err := json.Unmarshal(c.body, v); err != nil {
		return problem.New(problem.InvalidRequest, sentence(err.Error()))
	}
	return nil
}

// accountOf returns whom a request is for: the app's own account, or the one that a backend names in the body. An app may name its own. Error: a problem.
func accountOf(app, named entitlement.AccountID) (entitlement.AccountID, error) {
	switch {
	case app == "" && named == "":
		return "", wrong("account_id", "is missing")
	case app != "" && named != "" && named != app:
		return "", problem.New(problem.Forbidden, "The credential is another account's.")
	case app != "":
		named = app
	}
	return named, checkID("acc_", string(named))
}

// The outcomes of asking, beside the slugs of the refusals, in the words of the metrics.
const intentAllowed = "allowed"

var intentOutcomes = []string{intentAllowed, string(problem.ActiveSubscription), string(problem.AlreadyOwned), string(problem.PurchasePending),
	string(problem.PurchaseInProgress), string(problem.TrialUsed)}

func (c *apiCall) putIntent(app entitlement.AccountID) (answer, error) {
	var req struct {
		Account  entitlement.AccountID `json:"account_id"`
		Provider entitlement.Provider  `json:"provider"`
		Product  entitlement.ProductID `json:"product_id"`
		Device   string                `json:"device_id"`
		Trial    bool                  `json:"trial"`
	}
	if err := c.decodeFor(app, &req); err != nil {
		return answer{}, err
	}
	account, err := accountOf(app, req.Account)
	if err != nil {
		return answer{}, err
	}
	switch {
	case !req.Provider.Valid():
		return answer{}, wrong("provider", "no such provider")
	case req.Product == "" || len(req.Product) > maxAliasBytes:
		return answer{}, wrong("product_id", "want 1 to %d bytes", maxAliasBytes)
	}
	if err := checkDevice(req.Device); err != nil {
		return answer{}, err
	}
	key, err := c.idempotency()
	if err != nil {
		return answer{}, err
	}
	result, err := c.propose(c.ctx(), store.TypePutIntent, c.env, store.PutIntent{ID: newThing("intent_", key), Account: account, Provider: req.Provider,
		Product: req.Product, Device: req.Device, Trial: req.Trial, Idempotency: key})
	if err != nil {
		return answer{}, err
	}
	if result.Rejection != nil {
		c.metrics.intents.WithLabelValues(result.Rejection.Slug).Inc()
		return answer{}, c.refusal(result.Rejection)
	}
	c.metrics.intents.WithLabelValues(intentAllowed).Inc()
	intent := result.Intent
	return answer{status: http.StatusOK, body: struct {
		Allowed       bool                  `json:"allowed"`
		ID            string                `json:"intent_id"`
		ExpiresAt     string                `json:"expires_at"`
		TrialEligible bool                  `json:"trial_eligible"`
		AppleToken    string                `json:"apple_app_account_token"`
		GoogleAccount entitlement.AccountID `json:"google_obfuscated_account_id"`
		Metadata      map[string]string     `json:"metadata"` // for Stripe's checkout, and whatever provider takes some
		Warnings      []string              `json:"warnings"`
		written
	}{true, intent.ID, formatTime(intent.ExpiresAt), intent.TrialEligible, account.AppleAppAccountToken(), account,
		tagOf(account, c.env), append([]string{}, intent.Warnings...),
		written{result.Account, result.Revision.String()}}}, nil
}

// refusal is the problem of a sale that is refused, with where the user manages what is in its way.
func (c *apiCall) refusal(r *store.Rejection) error {
	if r.Store == "" {
		return rejectedAs(r)
	}
	p := problem.New(problem.Slug(r.Slug), sentence(r.Detail)).With("store", r.Store)
	url := c.cfg.ManageURLs[entitlement.StoreProvider(r.Store)]
	if url == "" {
		url = c.cfg.ManageURLs[r.Provider]
	}
	if url != "" {
		p = p.With("manage_url", url)
	}
	return p
}

func checkDevice(id string) error {
	if len(id) > maxDeviceBytes || strings.ContainsFunc(id, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return wrong("device_id", "want at most %d visible ASCII characters", maxDeviceBytes)
	}
	return nil
}

func (c *apiCall) endIntent(app entitlement.AccountID) (answer, error) {
	if err := checkID("intent_", c.r.PathValue("intent_id")); err != nil {
		return answer{}, err
	}
	key, err := c.idempotency()
	if err != nil {
		return answer{}, err
	}
	result, err := c.commit(store.TypeEndIntent, store.EndIntent{ID: c.r.PathValue("intent_id"), Account: app, Idempotency: key})
	return answer{status: http.StatusOK, body: written{result.Account, result.Revision.String()}}, err
}

func (c *apiCall) submitIntent(app entitlement.AccountID) (answer, error) {
	if err := checkID("intent_", c.r.PathValue("intent_id")); err != nil {
		return answer{}, err
	}
	key, err := c.idempotency()
	if err != nil {
		return answer{}, err
	}
	result, err := c.commit(store.TypeSubmitIntent, store.SubmitIntent{ID: c.r.PathValue("intent_id"), Account: app, Idempotency: key})
	if err != nil {
		return answer{}, err
	}
	return answer{status: http.StatusOK, body: struct {
		ID        string `json:"intent_id"`
		ExpiresAt string `json:"expires_at"`
		written
	}{result.Intent.ID, formatTime(result.Intent.ExpiresAt), written{result.Account, result.Revision.String()}}}, nil
}

// awaitID names a proof in what an account awaits: not the proof itself, which is a secret of its buyer's.
func awaitID(proof string) string {
	sum := sha256.Sum256([]byte(proof))
	return "receipt:" + hex.EncodeToString(sum[:16])
}
