package writer

import (
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/latchkey/latchkey/pkg/entitlement"
	"github.com/latchkey/latchkey/pkg/problem"
	"github.com/latchkey/latchkey/pkg/token"
	"github.com/latchkey/latchkey/writer/internal/store"
)

// An app without a backend of its own works from its first launch: with a publishable key it gets a session of an account that nobody is known to have.
// Who signs in later keeps what was bought until then. Edges pass these requests on, so that an app needs one address.

// The routes of sessions that apps have without a backend.
const (
	sessionsRoute = "POST /v1/sessions"
	loginRoute    = "POST /v1/sessions/login"
	logoutRoute   = "POST /v1/sessions/logout"
)

const (
	// appSessionTTL is how long a session of these routes lives, in seconds. An anonymous account has no other name than its session: with that it would
	// lose what was bought. An app that is opened once a year keeps it.
	appSessionTTL = maxSessionTTL

	// maxAppBytes bounds the body of an app's request that is no receipt: two tokens and a device's id.
	maxAppBytes = 16 << 10

	// beginsPerSecond is how many anonymous accounts a second one writer makes for an environment, and beginsBurst how many at once. A publishable key is
	// in every copy of the app: whoever takes it out must not fill the log, which does some thousand writes a second, before webhooks. 100 new phones a
	// second are 8 million a day.
	beginsPerSecond = 100
	beginsBurst     = 1000
)

// routeSessions lays the routes of apps. They are the same on the listener for edges, which pass them on.
func (w *Writer) routeSessions(handle func(pattern string, h handler)) {
	handle(sessionsRoute, w.writingWith((*apiCall).beginSession, scopePublishable, scopeServer))
	handle(loginRoute, w.inApp((*appCall).login))
	handle(logoutRoute, w.inApp((*appCall).logout))
}

// appCall is one request of an app, whose session holds by what this node knows: that it was not ended, the command itself has to say.
type appCall struct {
	*apiCall
	session token.SessionClaims
}

// inApp serves an unsafe request of an app.
func (w *Writer) inApp(f func(*appCall) (answer, error)) handler {
	return func(rw http.ResponseWriter, r *http.Request) error {
		claims, err := w.appCredential(r)
		if err != nil {
			return err
		}
		c := &appCall{session: claims, apiCall: &apiCall{Writer: w, r: by(r, appCaller(claims.Issuer == "")), env: entitlement.Environment(claims.Environment)}}
		if c.body, err = readBody(r, maxAppBytes); err != nil {
			return err
		}
		a, err := f(c)
		if err != nil {
			return err
		}
		return a.write(rw)
	}
}

// appCredential verifies what an app shows: a session token, or a sign-in token of an identity provider, which stands for a session of its user's account.
// Error: a problem.
func (w *Writer) appCredential(r *http.Request) (token.SessionClaims, error) {
	text := bearer(r)
	user, ok, err := w.signedInUser(r.Context(), text)
	if err != nil {
		return token.SessionClaims{}, err
	}
	if !ok {
		return w.appSession(text)
	}
	return token.SessionClaims{Environment: string(user.env), Subject: string(user.account), IssuedAt: user.issuedAt}, nil
}

// appSession verifies a session token. Error: an invalid-credential problem.
func (w *Writer) appSession(text string) (token.SessionClaims, error) {
	if text == "" || len(text) > maxSessionBytes || strings.HasPrefix(text, "lk_") {
		w.metrics.refused(credentialMissing)
		return token.SessionClaims{}, problem.New(problem.InvalidCredential, "Send a session token: Authorization: Bearer <token>.")
	}
	claims, err := w.sessionOf(text)
	if err != nil {
		w.metrics.refused(credentialUnknown)
		detail := "The session token is not valid here."
		if errors.Is(err, token.ErrExpired) {
			detail = "The session token has expired."
		}
		return token.SessionClaims{}, problem.New(problem.InvalidCredential, detail)
	}
	return claims, nil
}

// sessionCaller is who asks with a session, in bytes that no other caller has: see idempotencyOf.
func sessionCaller(claims token.SessionClaims) []byte {
	return []byte("session\x00" + claims.Subject + "\x00" + claims.Device)
}

func (c *appCall) idempotency() (*store.Idempotency, error) {
	return idempotencyOf(c.r, c.env, sessionCaller(c.session), c.body)
}

// decodeLoosely reads the body of an app into v: one in the field may know fields that this release does not. Error: a problem.
func (c *apiCall) decodeLoosely(v any) error {
	if len(c.body) == 0 {
		return nil
	}
	if err := json.Unmarshal(c.body, v); err != nil {
		return problem.New(problem.InvalidRequest, "The body is no JSON object of the fields that this address takes.")
	}
	return nil
}

func stored(claims token.SessionClaims) *store.Session {
	return &store.Session{Account: entitlement.AccountID(claims.Subject), IssuedAt: claims.IssuedAt, Device: claims.Device, SignIn: claims.Issuer == ""}
}

// beginSession makes an anonymous account and its first session.
func (c *apiCall) beginSession() (answer, error) {
	var req struct {
		Device string `json:"device_id"`
	}
	decode := c.decodeLoosely
	if strings.HasPrefix(bearer(c.r), apiKeyPrefix(c.env, scopeServer)) { // a backend, whose mistakes are told
		decode = c.decode
	}
	if err := decode(&req); err != nil {
		return answer{}, err
	}
	if err := checkDevice(req.Device); err != nil {
		return answer{}, err
	}
	if err := c.mayBegin(); err != nil {
		return answer{}, err
	}
	key, err := c.idempotency()
	if err != nil {
		return answer{}, err
	}
	return c.enter(http.StatusCreated, store.Login{Device: req.Device, Idempotency: key})
}

// mayBegin counts an anonymous account that is asked for. Error: a too-many-requests problem.
func (c *apiCall) mayBegin() error {
	if wait := c.begins.take(c.env, time.Now()); wait > 0 {
		return problem.New(problem.TooManyRequests, "Too many new sessions are asked for at present.").After(wait)
	}
	return nil
}

// login leads the app to the account of who signs in.
func (c *appCall) login() (answer, error) {
	var req struct {
		Identity string `json:"identity_token"`
		Session  string `json:"session_token"`
		Link     string `json:"link_token"`
	}
	if err := c.decodeLoosely(&req); err != nil {
		return answer{}, err
	}
	key, err := c.idempotency()
	if err != nil {
		return answer{}, err
	}
	given := 0
	for _, text := range []string{req.Identity, req.Session, req.Link} {
		if text != "" {
			given++
		}
	}
	if given != 1 {
		return answer{}, wrong("identity_token", "give one of this, session_token and link_token: who signs in?")
	}
	command := store.Login{From: stored(c.session), Merge: newThing("merge_", key), Device: c.session.Device, Idempotency: key}
	switch {
	case req.Link != "":
		return c.redeem(req.Link, store.RedeemLink{From: command.From, Idempotency: key}, c.session.Device, appSessionTTL)
	case req.Identity != "":
		env, who, err := c.verifySignIn(req.Identity)
		if err == nil && env != c.env {
			err = problem.New(problem.InvalidCredential, "The identity token is of another environment.")
		}
		if err != nil {
			return answer{}, err
		}
		kept, texts := c.aliasesToKeep(c.env, entitlement.Alias{Kind: entitlement.OIDCSubject, Value: who.Alias()})
		command.Alias, command.Personal = &kept[0], texts
	default:
		claims, err := c.sessionOf(req.Session)
		if err != nil || claims.Environment != string(c.env) || len(req.Session) > maxSessionBytes {
			return answer{}, problem.New(problem.InvalidCredential, "The session token in the body is not valid here.")
		}
		command.To = stored(claims)
	}
	return c.enter(http.StatusOK, command)
}

// logout gives the device a fresh anonymous session, and ends the one that it had, with those that it had before of the same account, unless that is anonymous too.
func (c *appCall) logout() (answer, error) {
	if err := c.mayBegin(); err != nil {
		return answer{}, err
	}
	key, err := c.idempotency()
	if err != nil {
		return answer{}, err
	}
	return c.enter(http.StatusOK, store.Login{From: stored(c.session), Device: c.session.Device, Idempotency: key})
}

// enter commits a login and answers with the session that it gives. The token is signed from the committed result alone, so that the repeat of a request
// under an Idempotency-Key gives the same token.
func (c *apiCall) enter(status int, command store.Login) (answer, error) {
	command.New, command.TTLSeconds = entitlement.AccountID(newThing("acc_", command.Idempotency)), appSessionTTL
	result, err := c.commit(store.TypeLogin, command)
	if err != nil {
		return answer{}, err
	}
	signed, err := c.signSession(result, command.Device, appSessionTTL)
	if err != nil {
		return answer{}, err
	}
	return answer{status: status, body: struct {
		sessionIssued
		Anonymous bool   `json:"anonymous"`
		MergeID   string `json:"merge_id,omitempty"`
	}{signed, result.Anonymous, result.Merge}}, nil
}

// sessionIssued is the part that every answer has which gives a session.
type sessionIssued struct {
	SessionToken string `json:"session_token"`
	ExpiresAt    string `json:"expires_at"`
	written
}

// signSession signs the session that a command has given, for ttl seconds from the command on.
func (c *apiCall) signSession(result store.Result, device string, ttl int64) (sessionIssued, error) {
	issued := result.Stamp
	signed, err := c.keys.sessions[c.env].Sign(token.SessionClaims{
		Issuer: c.cfg.Node.Cluster, Audience: c.cfg.Environments[c.env].Audience, Environment: string(c.env), Subject: string(result.Account),
		Device: device, IssuedAt: issued, ExpiresAt: issued + ttl, Revision: result.Revision.String(),
	})
	if err != nil {
		return sessionIssued{}, err
	}
	c.metrics.session(c.env)
	return sessionIssued{signed, formatTime(issued + ttl), written{result.Account, result.Revision.String()}}, nil
}

// begins bounds the anonymous accounts that this node makes, per environment: each says until when its rate is used up (the virtual scheduling form of
// GCRA). The zero value has let nobody through yet.
type begins struct {
	mu   sync.Mutex
	used map[entitlement.Environment]time.Time
}

// take counts one, and says how long to wait if that is one too many; 0 lets it through.
func (b *begins) take(env entitlement.Environment, now time.Time) time.Duration {
	const cost = time.Second / beginsPerSecond
	b.mu.Lock()
	defer b.mu.Unlock()
	used := b.used[env]
	if used.Before(now) {
		used = now
	}
	if over := used.Add(cost).Sub(now) - beginsBurst*cost; over > 0 {
		return over
	}
	if b.used == nil {
		b.used = map[entitlement.Environment]time.Time{}
	}
	b.used[env] = used.Add(cost)
	return 0
}
