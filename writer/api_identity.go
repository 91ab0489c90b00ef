package writer

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/latchkey/latchkey/pkg/entitlement"
	"github.com/latchkey/latchkey/pkg/identity"
	"github.com/latchkey/latchkey/pkg/problem"
	"github.com/latchkey/latchkey/pkg/token"
	"github.com/latchkey/latchkey/replication"
	"github.com/latchkey/latchkey/writer/internal/store"
)

// Users who sign in elsewhere show the token that they got there. An edge verifies it and finds the account by a record; for somebody new it asks here, and
// this writer verifies the token itself: an edge's word makes no account.

const identityRoute = "POST /v1/sessions/identity"

// signInUser is who stands behind a sign-in token here.
type signInUser struct {
	env      entitlement.Environment
	account  entitlement.AccountID
	issuedAt int64                // of the token
	revision replication.Revision // at which edges know the account
	created  bool
}

// newSignIns returns the identity providers of all environments.
func newSignIns(cfg *Config) *identity.Providers {
	lists := map[string][]identity.Config{}
	for env, e := range cfg.Environments {
		lists[string(env)] = e.IdentityProviders
	}
	return identity.NewProviders(lists, cfg.clock())
}

func (w *Writer) handleIdentity(rw http.ResponseWriter, r *http.Request) error {
	text := bearer(r)
	if text == "" || len(text) > token.MaxSignInBytes {
		w.metrics.refused(credentialMissing)
		return problem.New(problem.InvalidCredential, "Send a sign-in token of a configured identity provider: Authorization: Bearer <token>.")
	}
	if _, err := readBody(r, maxAPIBodyBytes); err != nil { // nothing of it counts, so that fields can be added
		return err
	}
	user, err := w.signIn(r.Context(), text)
	if err != nil {
		return err
	}
	status := http.StatusOK
	if user.created {
		status = http.StatusCreated
	}
	return answer{status: status, body: struct {
		written
		Environment entitlement.Environment `json:"environment"`
		Created     bool                    `json:"created"`
	}{written{user.account, user.revision.String()}, user.env, user.created}}.write(rw)
}

// signedInUser is signIn for a credential that may as well be a session; ok is false if it is none of an identity provider's. Error: a problem.
func (w *Writer) signedInUser(ctx context.Context, text string) (user signInUser, ok bool, err error) {
	if w.signIns.None() || len(text) > token.MaxSignInBytes {
		return user, false, nil
	}
	if issuer, err := token.SignInIssuer(text); err != nil || issuer == w.cfg.Node.Cluster {
		return user, false, nil
	}
	user, err = w.signIn(ctx, text)
	return user, true, err
}

// verifySignIn says who is behind a sign-in token, and in which environment. Error: a problem.
func (w *Writer) verifySignIn(text string) (entitlement.Environment, token.SignedIn, error) {
	env, who, err := w.signIns.Verify(text, w.now())
	if errors.Is(err, identity.ErrKeys) {
		return "", who, problem.New(problem.Unavailable, "The identity provider's keys cannot be read now.").After(time.Second)
	}
	if err != nil {
		w.metrics.refused(credentialUnknown)
		detail := "The token is not valid here."
		if errors.Is(err, token.ErrExpired) {
			detail = "The sign-in token has expired."
		}
		return "", who, problem.New(problem.InvalidCredential, detail)
	}
	return entitlement.Environment(env), who, nil
}

// signIn verifies a sign-in token and returns its user's account, made now if there is none. The same user at two writers at once gets one: the alias has one
// owner. Error: a problem.
func (w *Writer) signIn(ctx context.Context, text string) (signInUser, error) {
	env, who, err := w.verifySignIn(text)
	if err != nil {
		return signInUser{}, err
	}
	user := signInUser{env: env, issuedAt: who.IssuedAt}
	alias := entitlement.Alias{Kind: entitlement.OIDCSubject, Value: who.Alias()}
	found := false
	err = w.read(ctx, func(reader *store.Reader) (err error) {
		user.account, found, err = reader.AliasOwner(user.env, hashedSince(reader.Rules(), alias))
		user.revision = reader.Position().Revision()
		return err
	})
	if err != nil || found {
		return user, err
	}
	c := &apiCall{Writer: w, env: user.env}
	command := store.CreateAccount{ID: entitlement.AccountID(newThing("acc_", nil))}
	command.Aliases, command.Personal = w.aliasesToKeep(user.env, alias)
	result, err := c.commitWithin(withCaller(ctx, appCaller(true)), store.TypeCreate, command)
	if err != nil {
		return user, err
	}
	user.account, user.revision, user.created = result.Account, result.Revision, !result.Existing
	return user, nil
}
