package edge

import (
	"bytes"
	"encoding/binary"
	"errors"
	"log/slog"
	"strconv"
	"sync"
	"time"
	"unsafe"

	"github.com/valyala/fasthttp"

	"github.com/latchkey/latchkey/edge/internal/replica"
	"github.com/latchkey/latchkey/pkg/entitlement"
	"github.com/latchkey/latchkey/pkg/fault"
	"github.com/latchkey/latchkey/pkg/problem"
	"github.com/latchkey/latchkey/pkg/token"
	"github.com/latchkey/latchkey/replication"
)

const (
	// defaultWait is how long a check with min_revision is held for it, and maxWait at most.
	defaultWait = 2 * time.Second
	maxWait     = 20 * time.Second

	// notModifiedSeconds is how far behind the replica's as_of the answer that an app holds may be for a 304. Beyond it a new token is due,
	// because the held one's grace is running out.
	notModifiedSeconds = 3600

	// reuseSeconds is how far behind the replica's as_of a token may be that is handed out again: a crowd that opens the app at one moment
	// costs one signature each.
	reuseSeconds = 5

	retryAfter = time.Second
)

// check is one request for entitlements while it is being answered. It is pooled: nothing of it outlives the request.
type check struct {
	minRevision    replication.Revision
	hasMinRevision bool
	wait           time.Duration // for a revision
	until          time.Time     // when a request that named a time is answered in any case; zero: it named none
	nonce          string        // a part of the request
	noneMatch      []byte        // a part of the request
	wantsToken     bool          // Accept: application/jwt
	fresh          bool          // no token is handed out again
	admitted       bool          // it was counted against the account's limit

	now      int64                 // Unix seconds, when it was looked who asks
	asked    entitlement.AccountID // by a backend, with an API key
	enrolled bool                  // a writer was asked to make the account of somebody new
	floor    replication.Revision  // at which that account is there

	claims   token.GraceClaims
	token    []byte
	body     []byte
	revision []byte
}

var checks = sync.Pool{New: func() any {
	return &check{token: make([]byte, 0, 4096), body: make([]byte, 0, 8192), revision: make([]byte, 0, 40)}
}}

// handleCheck answers GET /v1/entitlements: session, record, entitlements at now, signature. An error never takes access away, and no answer
// is older than what the client asked for (I11).
func (e *Edge) handleCheck(ctx *fasthttp.RequestCtx) error {
	c := checks.Get().(*check)
	defer c.recycle()
	if err := c.parse(ctx); err != nil {
		return err
	}
	bearer, ok := bearerToken(ctx)
	if !ok {
		return problem.New(problem.InvalidCredential, "Send a session token: Authorization: Bearer <token>.")
	}
	return e.check(ctx, c, bearer)
}

// check answers what c asks. While a purchase that the app told of is pending, it holds the request for as long as the app asked for: somebody looks at a screen.
func (e *Edge) check(ctx *fasthttp.RequestCtx, c *check, bearer string) error {
	for {
		of, until, err := e.look(ctx, c, bearer)
		if err != nil || until == 0 {
			return err
		}
		// Listen first, then look again: it may have been confirmed in between.
		w := e.streams.watch(of, until)
		if _, until, err = e.look(ctx, c, bearer); err == nil && until != 0 {
			timer := time.NewTimer(time.Until(c.until))
			select {
			case <-w.moved:
			case <-timer.C:
			case <-e.stopped:
			}
			timer.Stop()
		}
		e.streams.unwatch(w)
		if err != nil || until == 0 {
			return err
		}
	}
}

// look answers, unless the account is pending and the request may be held for that: then it says whose change is awaited, and until when at most.
func (e *Edge) look(ctx *fasthttp.RequestCtx, c *check, bearer string) (of subjectKey, until int64, err error) {
	x, ses, err := e.read(bearer, c)
	if err != nil {
		return of, 0, err
	}
	defer x.Close()
	if err := e.admitCheck(ctx, c, ses); err != nil {
		return of, 0, err
	}
	s, err := e.stateOf(&x)
	if err != nil {
		return of, 0, err
	}
	env, now := s.environment(ses.env), c.now
	k, err := e.known(env, &x, ses, now)
	if err != nil {
		return of, 0, err
	}
	if k.view.PendingUntil != 0 && !c.until.IsZero() && time.Now().Before(c.until) && !e.draining.Load() {
		return subjectKey{ses.env, k.owner}, k.view.PendingUntil, nil
	}
	fresh := now < x.Head.AsOf+token.FreshSeconds
	if tag := c.matches(k.digest, x.Head.AsOf); tag != nil && fresh {
		e.metrics.notModified.Inc()
		ctx.Response.Header.SetBytesV(fasthttp.HeaderETag, tag)
		ctx.SetStatusCode(fasthttp.StatusNotModified)
		return of, 0, nil
	}
	return of, 0, e.answer(ctx, c, env, k, ses, x.Head, now)
}

// admitCheck counts a request of an app once, however often it looks.
func (e *Edge) admitCheck(ctx *fasthttp.RequestCtx, c *check, ses *session) error {
	if c.admitted || ses.backend {
		return nil
	}
	c.admitted = true
	if err := e.clients.admitAccount(ctx, ses.env, ses.account); err != nil {
		e.metrics.limitedAccount.Inc()
		return err
	}
	return nil
}

// known returns the account of ses at now. Errors: those of replica.Reading.Get, and problems: unknown-account, session-ended.
func (e *Edge) known(env *environment, x *replica.Reading, ses *session, now int64) (*known, error) {
	k, found, err := env.account(x, ses.account, now, e.cfg.ManageURLs)
	switch {
	case err != nil:
		return nil, err
	case !found:
		return nil, problem.New(problem.UnknownAccount, "This edge has no record of the session's account.").After(retryAfter)
	case ses.ended(k):
		return nil, problem.New(problem.SessionEnded, "This session was ended, or all of the account, after it was issued.")
	}
	return k, nil
}

// read finds out who asks, and waits for the revision that the client and its session ask for.
func (e *Edge) read(bearer string, c *check) (replica.Reading, *session, error) {
	var deadline <-chan time.Time
	for {
		x, err := e.replica.Read()
		if err != nil {
			return x, nil, err
		}
		ses, err := e.verify(&x, bearer, c)
		switch {
		case err == nil:
			if err = c.reached(x.Head.Revision(), ses.floor); err == nil {
				return x, ses, nil
			}
		case err == errNewcomer && !c.enrolled:
			x.Close()
			if err := e.enroll(bearer, c); err != nil {
				return x, nil, err
			}
			continue
		case err == errNewcomer:
			if err = c.reached(x.Head.Revision(), c.floor); err == nil {
				err = problem.New(problem.Unavailable, "The account of this sign-in is there, and this edge is not led to it yet.").After(retryAfter)
			}
		}
		x.Close()
		if !errors.Is(err, errNotYet) || c.wait == 0 {
			return x, nil, err
		}
		if deadline == nil {
			timer := time.NewTimer(c.wait)
			if !c.until.IsZero() {
				timer.Reset(time.Until(c.until))
			}
			defer timer.Stop()
			deadline = timer.C
		}
		changed := e.replica.Updated()
		if e.replica.Head().Revision() != x.Head.Revision() {
			continue // it moved before we began to listen
		}
		select {
		case <-changed:
		case <-deadline:
			return x, nil, err
		case <-e.stopped:
			return x, nil, err
		}
	}
}

var errNotYet = problem.New(problem.NotYet, "")

// reached compares the replica's revision with what was asked for. A session of an older epoch is covered: its account was carried over,
// or it is unknown.
func (c *check) reached(at, floor replication.Revision) error {
	if fault.Planted("min-revision-ignored") {
		return nil
	}
	if c.hasMinRevision && c.minRevision.Epoch < at.Epoch {
		return problem.Newf(problem.OtherHistory, "min_revision %s belongs to a history that has ended; this one is at %s.", c.minRevision, at)
	}
	want := floor
	if c.hasMinRevision && c.minRevision.Compare(want) > 0 {
		want = c.minRevision
	}
	if want.Compare(at) <= 0 || want.Epoch < at.Epoch {
		return nil
	}
	return problem.Newf(problem.NotYet, "This edge is at %s, not yet at %s.", at, want).After(retryAfter)
}

// verify returns who asks with bearer. Errors: errNewcomer, those of replica.Reading.Get, problems.
func (e *Edge) verify(x *replica.Reading, bearer string, c *check) (*session, error) {
	s, err := e.stateOf(x)
	if err != nil {
		return nil, err
	}
	c.now = e.clock.now(x.Head.AsOf)
	if c.asked != "" {
		return e.reader(x, bearer, c.asked)
	}
	ses, err := s.session(bearer, c.now)
	switch {
	case err == nil:
		return ses, nil
	case errors.Is(err, replica.ErrUnproven):
		return nil, err
	case errors.Is(err, token.ErrExpired):
		return nil, errSessionExpired
	case !e.identities.None():
		return e.signedIn(x, bearer, c.now)
	}
	return nil, errSessionInvalid
}

var (
	errSessionInvalid = problem.New(problem.InvalidCredential, "The session token is not valid here.")
	errSessionExpired = problem.New(problem.InvalidCredential, "The session token has expired.")
)

// issued is the token that an answer is given with.
type issued struct {
	token    []byte // nil: this edge cannot sign now
	exp      int64  // 0 without a token
	asOf     int64  // the token's; without one that of what is held
	revision replication.Revision
	again    *signedToken // set where a token is handed out once more
}

// issue signs what k shows, or hands out a token again that was signed a moment ago.
func (e *Edge) issue(c *check, env *environment, k *known, ses *session, head replication.Head, now int64) (issued, error) {
	t := issued{asOf: head.AsOf, revision: head.Revision()}
	if fault.Planted("as-of-from-clock") {
		t.asOf = now
	}
	signer := env.key.signer.Load()
	if old := k.newest.Load(); signer != nil && c.nonce == "" && !c.fresh && old.again(signer, ses, head, now) && c.allows(old.revision, ses.floor) {
		e.metrics.reused.Inc()
		return issued{old.token, old.exp, old.asOf, old.revision, old}, nil
	}
	if signer == nil || t.asOf == 0 || now >= signer.ExpiresAt(t.asOf) {
		e.metrics.unsigned.Inc()
		return t, nil
	}
	var err error
	if t.token, t.exp, err = c.sign(signer, k, ses, t.asOf, t.revision, now); err != nil {
		return t, err
	}
	e.metrics.signed.Inc()
	if c.nonce == "" {
		k.keep(&signedToken{asOf: t.asOf, revision: t.revision, device: ses.device, exp: t.exp, signer: signer, token: bytes.Clone(t.token)})
	}
	return t, nil
}

// answer signs and sends what k shows.
func (e *Edge) answer(ctx *fasthttp.RequestCtx, c *check, env *environment, k *known, ses *session, head replication.Head, now int64) error {
	t := unsigned(head)
	if !ses.backend {
		var err error
		if t, err = e.issue(c, env, k, ses, head, now); err != nil {
			return err
		}
	}
	h := &ctx.Response.Header
	c.body = appendTag(c.body[:0], t.asOf, k.digest)
	h.SetBytesV(fasthttp.HeaderETag, c.body)
	h.Set(fasthttp.HeaderCacheControl, "private, no-cache")
	h.Set(fasthttp.HeaderVary, "Authorization, Accept")
	if c.wantsToken {
		if t.token == nil {
			return problem.New(problem.NoData, "This edge cannot sign now: what it holds is too old, or it is not certified.").After(retryAfter)
		}
		h.SetContentType("application/jwt")
		ctx.Response.SetBody(t.token)
		return nil
	}
	h.SetContentType("application/json")
	if t.again != nil {
		if sent := t.again.body.Load(); sent != nil && sent.now == now {
			ctx.Response.SetBodyRaw(sent.bytes)
			return nil
		}
	}
	c.body = k.appendAnswer(c.body[:0], env.env, ses.account, t, now)
	if t.again != nil {
		t.again.body.Store(&sentBody{now: now, bytes: bytes.Clone(c.body)})
	}
	ctx.Response.SetBody(c.body)
	return nil
}

// appendAnswer appends the answer's JSON, which says the same as the token in it.
func (k *known) appendAnswer(b []byte, env entitlement.Environment, id entitlement.AccountID, t issued, now int64) []byte {
	b = append(b, `{"account_id":"`...)
	b = append(b, id...)
	b = append(b, `","environment":"`...)
	b = append(b, env...)
	b = append(b, `","revision":"`...)
	b = t.revision.Append(b)
	b = append(b, `","server_time":`...)
	b = entitlement.AppendTime(b, now)
	b = append(b, `,"as_of":`...)
	b = entitlement.AppendTime(b, t.asOf)
	b = append(b, `,"fresh_until":`...)
	b = entitlement.AppendTime(b, t.asOf+token.FreshSeconds)
	b = append(b, `,"stale":`...)
	b = strconv.AppendBool(b, now >= t.asOf+token.FreshSeconds)
	b = append(append(append(b, `,"state":"`...), k.view.State()...), `",`...)
	b = k.view.AppendJSON(b, env, t.exp)
	b = append(b, `,"apple_app_account_token":"`...)
	b = append(b, k.appleToken...)
	b = append(b, '"')
	if t.token != nil {
		b = append(b, `,"grace_token":"`...)
		b = append(b, t.token...)
		b = append(b, '"')
	}
	return append(b, '}')
}

// again reports whether t may be handed out once more: as fresh as reuseSeconds ask, of the same device and key, of the same history. That nothing shown
// has changed follows from its being kept with the view.
func (t *signedToken) again(signer *token.GraceSigner, ses *session, head replication.Head, now int64) bool {
	return t != nil && head.AsOf-t.asOf < reuseSeconds && t.signer == signer && t.device == ses.device && t.revision.Epoch == head.Epoch && now < t.exp
}

// allows reports whether an answer of revision at may be given.
func (c *check) allows(at, floor replication.Revision) bool { return c.reached(at, floor) == nil }

// sign makes the token of what k shows.
func (c *check) sign(signer *token.GraceSigner, k *known, ses *session, asOf int64, revision replication.Revision, now int64) (tok []byte, exp int64, err error) {
	exp = signer.ExpiresAt(asOf)
	c.revision = revision.Append(c.revision[:0])
	g := &c.claims
	*g = token.GraceClaims{
		Subject: string(ses.account), Device: ses.device, IssuedAt: now, AsOf: asOf, Revision: view(c.revision), Nonce: c.nonce,
		Entitlements: g.Entitlements[:0], Balances: g.Balances[:0],
	}
	for i := range k.view.Entitlements {
		en := &k.view.Entitlements[i]
		g.Entitlements = append(g.Entitlements, token.GraceEntitlement{
			ID: en.ID, Status: string(en.Status), Reason: string(en.Reason), Until: en.ExpiresAt, OfflineUntil: en.OfflineUntil(exp),
			WillRenew: en.WillRenew, Plan: en.Plan, Trial: en.Trial,
		})
	}
	for _, b := range k.view.Balances {
		g.Balances = append(g.Balances, token.Balance{Credit: b.Credit, Amount: max(b.Amount, 0)})
	}
	c.token, err = signer.AppendSign(c.token[:0], g)
	return c.token, exp, err
}

// maxPooledBody is the largest buffer that is kept: one account with a thousand purchases must not make every buffer as large.
const maxPooledBody = 64 << 10

func (c *check) recycle() {
	if cap(c.body) > maxPooledBody {
		return
	}
	c.minRevision, c.hasMinRevision, c.wait, c.until, c.nonce, c.noneMatch, c.wantsToken = replication.Revision{}, false, 0, time.Time{}, "", nil, false
	c.fresh, c.admitted, c.asked, c.enrolled, c.floor = false, false, "", false, replication.Revision{}
	checks.Put(c)
}

// parse reads what the request asks for. Unknown parameters are ignored.
func (c *check) parse(ctx *fasthttp.RequestCtx) error {
	c.wait = defaultWait
	if bytes.IndexByte(ctx.Request.Header.RequestURI(), '?') >= 0 {
		if err := c.parseQuery(ctx.QueryArgs()); err != nil {
			return err
		}
	}
	h := &ctx.Request.Header
	c.noneMatch = h.Peek(fasthttp.HeaderIfNoneMatch)
	c.wantsToken = prefersToken(h.Peek(fasthttp.HeaderAccept))
	return nil
}

func (c *check) parseQuery(args *fasthttp.Args) error {
	if text := args.Peek("min_revision"); len(text) > 0 {
		r, err := replication.ParseRevision(string(text))
		if err != nil {
			return problem.New(problem.InvalidRequest, "min_revision is not a revision.")
		}
		c.minRevision, c.hasMinRevision = r, true
	}
	if text := args.Peek("wait"); len(text) > 0 {
		n, err := strconv.ParseUint(string(text), 10, 16)
		if err != nil || time.Duration(n)*time.Second > maxWait {
			return problem.Newf(problem.InvalidRequest, "wait is not a whole number of seconds from 0 to %d.", maxWait/time.Second)
		}
		c.wait = time.Duration(n) * time.Second
		c.until = time.Now().Add(c.wait)
	}
	nonce := args.Peek("nonce")
	if len(nonce) > token.MaxNonceBytes || !isBase64URL(nonce) {
		return problem.Newf(problem.InvalidRequest, "nonce is not up to %d base64url characters.", token.MaxNonceBytes)
	}
	c.nonce = view(nonce)
	return nil
}

func isBase64URL(b []byte) bool {
	for _, ch := range b {
		if (ch < 'a' || ch > 'z') && (ch < 'A' || ch > 'Z') && (ch < '0' || ch > '9') && ch != '-' && ch != '_' {
			return false
		}
	}
	return true
}

// prefersToken reports whether accept asks for the token alone. JSON is what everybody else gets: q-values are not weighed, whoever names the
// type wants it.
func prefersToken(accept []byte) bool {
	return bytes.Contains(accept, []byte("application/jwt")) && !bytes.Contains(accept, []byte("application/json"))
}

// bearerToken returns the credential; it is a part of the request.
func bearerToken(ctx *fasthttp.RequestCtx) (string, bool) {
	const scheme = "Bearer "
	value := ctx.Request.Header.Peek(fasthttp.HeaderAuthorization)
	if len(value) <= len(scheme) || len(value) > maxSessionBytes || !bytes.EqualFold(value[:len(scheme)], []byte(scheme)) {
		return "", false
	}
	return view(value[len(scheme):]), true
}

// An entity tag is W/"<as_of in hex>-<digest in hex>".
const tagBytes = len(`W/""`) + 16 + 1 + 16

func appendTag(dst []byte, asOf int64, digest uint64) []byte {
	dst = append(dst, `W/"`...)
	dst = appendHex(dst, uint64(asOf))
	dst = append(dst, '-')
	dst = appendHex(dst, digest)
	return append(dst, '"')
}

func appendHex(dst []byte, n uint64) []byte {
	const digits = "0123456789abcdef"
	var b [8]byte
	binary.BigEndian.PutUint64(b[:], n)
	for _, c := range b {
		dst = append(dst, digits[c>>4], digits[c&15])
	}
	return dst
}

func parseHex(b []byte) (n uint64, ok bool) {
	for _, c := range b {
		switch {
		case c >= '0' && c <= '9':
			c -= '0'
		case c >= 'a' && c <= 'f':
			c -= 'a' - 10
		default:
			return 0, false
		}
		n = n<<4 | uint64(c)
	}
	return n, true
}

// matches returns the tag in If-None-Match for which a 304 may be given, as the client wrote it, or nil.
func (c *check) matches(digest uint64, asOf int64) []byte {
	if c.nonce != "" {
		return nil
	}
	for rest := c.noneMatch; len(rest) > 0; {
		var tag []byte
		tag, rest, _ = bytes.Cut(rest, []byte(","))
		tag = bytes.TrimSpace(tag)
		if len(tag) != tagBytes || string(tag[:3]) != `W/"` || tag[19] != '-' || tag[len(tag)-1] != '"' {
			continue
		}
		tagged, ok1 := parseHex(tag[3:19])
		shown, ok2 := parseHex(tag[20 : len(tag)-1])
		if ok1 && ok2 && shown == digest && asOf-int64(tagged) < notModifiedSeconds {
			return tag
		}
	}
	return nil
}

// view is b as a string without a copy, for as long as b does not change.
func view(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }

// asProblem turns what the parts return into what the client is told.
func (e *Edge) asProblem(ctx *fasthttp.RequestCtx, err error) *problem.Problem {
	// Most are problems already, those of a flood all: what else it may be is asked of the others alone, because asking costs as much as the answer.
	if p, ok := err.(*problem.Problem); ok && p.Slug != problem.Internal {
		return p
	}
	switch {
	case errors.Is(err, replication.ErrNoData):
		return problem.New(problem.NoData, "This edge has no data yet.").After(retryAfter)
	case errors.Is(err, replica.ErrUnproven):
		return problem.New(problem.NoData, "This edge has not finished checking its data.").After(retryAfter)
	case errors.Is(err, replication.ErrCorrupt):
		return problem.New(problem.NoData, "This edge found its data damaged and fetches it anew.").After(retryAfter)
	}
	p := problem.From(err)
	if p.Slug == problem.Internal {
		e.log.LogAttrs(e.logContext(), slog.LevelError, "request failed", slog.String("request_id", requestID(ctx)), slog.Any("error", err))
	}
	return p
}
