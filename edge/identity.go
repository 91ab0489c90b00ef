package edge

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/latchkey/latchkey/edge/internal/replica"
	"github.com/latchkey/latchkey/pkg/entitlement"
	"github.com/latchkey/latchkey/pkg/identity"
	"github.com/latchkey/latchkey/pkg/problem"
	"github.com/latchkey/latchkey/pkg/token"
	"github.com/latchkey/latchkey/replication"
)

// An app whose users sign in elsewhere shows the token that it got there. The subject in it leads to the account by a record, the pointer. Somebody new has
// none: a writer is asked to make the account, and verifies the token itself, because an edge may write nothing.

const (
	// identityPath is where writers make the account of somebody new.
	identityPath = "/v1/sessions/identity"

	// identitySeconds is how long a verified token is believed without looking at its signature again. Keys that were taken back are gone by then.
	identitySeconds = 300
	// refusalSeconds is the same for one that was refused: a key may be new, a clock may have been behind.
	refusalSeconds = 10

	// Sizes of the caches, in entries of some 400 and 150 bytes. Each token beyond costs the verification of a signature.
	maxIdentities       = 16_384
	maxIdentityRefusals = 4_096
)

// errNewcomer means that nobody has shown this subject here before.
var errNewcomer = errors.New("subject without an account")

// identities are the identity providers, and the tokens of theirs that were seen.
type identities struct {
	*identity.Providers
	good    *cache[sessionKey, *signedIn]
	refused *cache[sessionKey, refusal]
}

// signedIn is a token that was verified.
type signedIn struct {
	env       entitlement.Environment
	pointer   string // the key of the record that leads to the account
	issuedAt  int64
	expiresAt int64
	until     int64                   // it is verified again then
	session   atomic.Pointer[session] // of the account that it led to the last time
}

// refusal is a token that was refused.
type refusal struct {
	until int64
	why   *problem.Problem
}

func newIdentities(cfg *Config) *identities {
	lists := map[string][]identity.Config{}
	for env, c := range cfg.Environments {
		lists[string(env)] = c.IdentityProviders
	}
	return &identities{Providers: identity.NewProviders(lists, cfg.Now), good: newCache[sessionKey, *signedIn](maxIdentities), refused: newCache[sessionKey, refusal](maxIdentityRefusals)}
}

// signedIn returns the session of a user who signed in elsewhere. Errors: errNewcomer, those of replica.Reading.Get, problems.
func (e *Edge) signedIn(x *replica.Reading, text string, now int64) (*session, error) {
	key := sessionKey(sha256.Sum256(unsafe.Slice(unsafe.StringData(text), len(text))))
	in, ok := e.identities.good.get(key)
	if !ok || now >= in.until {
		if r, ok := e.identities.refused.get(key); ok && now < r.until {
			return nil, r.why
		}
		env, who, err := e.identities.Verify(text, time.Unix(now, 0))
		if errors.Is(err, identity.ErrKeys) {
			e.metrics.signIns.WithLabelValues(signInUnavailable).Inc()
			return nil, problem.New(problem.Unavailable, "The identity provider's keys cannot be read now.").After(retryAfter)
		}
		if err != nil {
			e.metrics.signIns.WithLabelValues(signInRefused).Inc()
			detail := "The token is not valid here."
			if errors.Is(err, token.ErrExpired) {
				detail = "The sign-in token has expired."
			}
			why := problem.New(problem.InvalidCredential, detail)
			e.identities.refused.put(key, refusal{now + refusalSeconds, why})
			return nil, why
		}
		e.metrics.signIns.WithLabelValues(signInVerified).Inc()
		in = &signedIn{env: entitlement.Environment(env), pointer: entitlement.SubjectKey(who.Alias()), issuedAt: who.IssuedAt, expiresAt: who.ExpiresAt,
			until: min(who.ExpiresAt, now+identitySeconds)}
		e.identities.good.put(key, in)
	}
	var stack [128]byte
	value, found, err := x.Get(stack[:0], in.env, replication.KindPointer, in.pointer)
	if err != nil {
		return nil, err
	}
	if !found {
		return nil, errNewcomer
	}
	var p entitlement.Pointer
	if err := entitlement.Decode(value, &p); err != nil {
		return nil, fmt.Errorf("pointer: %w", err)
	}
	if ses := in.session.Load(); ses != nil && ses.account == p.Account {
		return ses, nil
	}
	ses := &session{env: in.env, account: p.Account, issuedAt: in.issuedAt, expiresAt: in.expiresAt, signIn: true}
	in.session.Store(ses)
	return ses, nil
}

// enroll has a writer make the account of a new subject, and notes in c from which revision on it is there. Asking again is harmless.
func (e *Edge) enroll(text string, c *check) error {
	c.enrolled = true
	select {
	case e.relays <- struct{}{}:
		defer func() { <-e.relays }()
	default:
		e.metrics.signIns.WithLabelValues(signInUnavailable).Inc()
		return problem.New(problem.Unavailable, "This edge passes too much on already.").After(retryAfter)
	}
	header := http.Header{"Authorization": {"Bearer " + text}, "Content-Type": {"application/json"}}
	answer, _, err := e.relay(relayedRequest{method: http.MethodPost, path: identityPath, header: header, body: []byte("{}")})
	switch {
	case err != nil || answer.status >= http.StatusInternalServerError || answer.status == http.StatusTooManyRequests:
		e.metrics.signIns.WithLabelValues(signInUnavailable).Inc()
		e.log.LogAttrs(e.logContext(), slog.LevelWarn, "account of a sign-in not made", slog.Int("status", answer.status), slog.Any("error", err))
		return problem.New(problem.Unavailable, "No writer makes the account of this sign-in now.").After(retryAfter)
	case answer.status != http.StatusOK && answer.status != http.StatusCreated:
		e.metrics.signIns.WithLabelValues(signInRefused).Inc()
		e.log.LogAttrs(e.logContext(), slog.LevelWarn, "a writer refuses a sign-in token that is valid here: are identity_providers the same?", slog.Int("status", answer.status))
		return problem.New(problem.InvalidCredential, "The writers do not take this sign-in token.")
	}
	var made struct {
		Revision string `json:"revision"`
	}
	if err := json.Unmarshal(answer.body, &made); err != nil {
		return fmt.Errorf("account of a sign-in: %w", err)
	}
	if c.floor, err = replication.ParseRevision(made.Revision); err != nil {
		return fmt.Errorf("account of a sign-in: %w", err)
	}
	e.metrics.signIns.WithLabelValues(signInEnrolled).Inc()
	return nil
}
