package provider

import (
	"cmp"
	"context"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/tidwall/gjson"
	"golang.org/x/time/rate"

	"github.com/latchkey/latchkey/pkg/entitlement"
)

const (
	googleAPIURL   = "https://androidpublisher.googleapis.com"
	googleTokenURL = "https://oauth2.googleapis.com/token"
	googleScope    = "https://www.googleapis.com/auth/androidpublisher"

	// googleRequestsPerSecond leaves a part of what Google allows (3000 a minute) to the merchant's own backend.
	googleRequestsPerSecond = 40
	googleBurst             = 40
	// Voided purchases may be listed 30 times in 30 s.
	voidedPause = time.Second
	voidedBurst = 10

	googleRequestTimeout = 10 * time.Second

	// maxGoogleAnswerBytes bounds one answer. A page of 1000 voided purchases is about 500 KiB.
	maxGoogleAnswerBytes = 4 << 20
	voidedPageSize       = 1000
	maxVoidedPages       = 200

	// An access token counts for an hour; a new one is asked for at four fifths of that.
	googleAssertionLife = time.Hour

	// freshPause is the first pause after Google does not know a token: that of a sale that was just made may take seconds to be known.
	freshPause = time.Second
)

// Mistakes in a GoogleAPIConfig, for saying which field is wrong.
var (
	ErrGoogleAccount  = errors.New("google: service account")
	ErrGoogleBase     = errors.New("google: address of the API")
	ErrGoogleTokenURL = errors.New("google: address for access tokens")
)

// GoogleAPIConfig is what NewGoogleAPI needs.
type GoogleAPIConfig struct {
	// Package is the app's package name.
	Package string
	// ServiceAccount is the JSON key file of a service account that may "View financial data" and "Manage orders and subscriptions".
	ServiceAccount []byte
	// BaseURL is where Google's API is and TokenURL where access tokens are given. Empty is Google's own. http:// is for loopback addresses.
	BaseURL, TokenURL string
	// Environment is whose purchases they are. Those of licence testers are of sandbox, also where production asks.
	Environment entitlement.Environment
	// Now is the clock that gives answers their version. Nil is time.Now.
	Now func() time.Time
}

// GoogleAPI asks Google Play for the state of purchase tokens, tells it that purchases are delivered, and lists what was voided.
type GoogleAPI struct {
	base   string // with the package
	env    entitlement.Environment
	now    func() time.Time
	client *http.Client
	tokens *googleTokens
	limit  *rate.Limiter
	voided *rate.Limiter
}

// NewGoogleAPI returns a Puller that is an Acknowledger too. Errors: ErrGoogleAccount, ErrGoogleBase, ErrGoogleTokenURL; they do not quote the key.
func NewGoogleAPI(c GoogleAPIConfig) (*GoogleAPI, error) {
	if err := CheckGoogleAddresses(c.BaseURL, c.TokenURL); err != nil {
		return nil, err
	}
	c.BaseURL, c.TokenURL = cmp.Or(c.BaseURL, googleAPIURL), cmp.Or(c.TokenURL, googleTokenURL)
	if c.Now == nil {
		c.Now = time.Now
	}
	a := &GoogleAPI{base: strings.TrimSuffix(c.BaseURL, "/") + "/androidpublisher/v3/applications/" + url.PathEscape(c.Package), env: c.Environment, now: c.Now,
		client: googleClient(googleRequestTimeout), limit: pace(c.BaseURL, googleRequestsPerSecond, googleBurst), voided: rate.NewLimiter(rate.Every(voidedPause), voidedBurst)}
	var err error
	a.tokens, err = newGoogleTokens(c.ServiceAccount, c.TokenURL, a.client, c.Now)
	return a, err
}

// CheckGoogleAddresses returns ErrGoogleBase, ErrGoogleTokenURL or both for addresses that secrets may not be sent to. Empty are Google's own.
func CheckGoogleAddresses(base, token string) error {
	return errors.Join(checkBase(base, ErrGoogleBase), checkBase(token, ErrGoogleTokenURL))
}

func googleClient(timeout time.Duration) *http.Client {
	client := keyClient(keyTransport(pullConnections))
	client.Timeout = timeout
	return client
}

// pullConnections is how many connections to Google are kept: as many as purchases are asked about at a time, and some.
const pullConnections = 8

// Provider returns entitlement.Google.
func (a *GoogleAPI) Provider() entitlement.Provider { return entitlement.Google }

// Targets returns the purchase tokens to ask about: that of a hint, that of the chain which a doubt is about, else each that the purchase has.
func (a *GoogleAPI) Targets(e entitlement.Evidence, doubts []entitlement.Doubt) []entitlement.Doubt {
	known := map[string]string{} // ids to ask with, by playHash
	for i := range e.Objects {
		o := &e.Objects[i]
		if token, ok := askedToken(o.ID); ok && o.By == entitlement.Google && (o.Renewal != nil || o.Hint != nil) {
			known[playHash(token)] = o.ID
		}
	}
	var targets []entitlement.Doubt
	ask := func(id string, from int64) {
		at := slices.IndexFunc(targets, func(t entitlement.Doubt) bool { return t.ID == id })
		if at < 0 {
			targets = append(targets, entitlement.Doubt{Kind: entitlement.KindRenewal, ID: id, From: from, By: entitlement.Google})
		} else {
			targets[at].From = max(targets[at].From, from)
		}
	}
	for _, d := range doubts {
		if _, ok := askedToken(d.ID); ok && d.Kind == entitlement.KindRenewal {
			ask(d.ID, d.From)
			continue
		}
		chain := d.ID
		for i := range e.Objects {
			if o := &e.Objects[i]; o.By == d.By && o.Kind == d.Kind && o.ID == d.ID && o.Transaction != nil {
				chain = o.Transaction.Chain
			}
		}
		chain, _, _ = strings.Cut(chain, ":")
		if id, ok := known[chain]; ok {
			ask(id, d.From)
			continue
		}
		for _, id := range known {
			ask(id, d.From)
		}
	}
	slices.SortFunc(targets, func(x, y entitlement.Doubt) int { return strings.Compare(x.ID, y.ID) })
	return targets
}

const (
	// playEndPoll is how long after its end a term that renews is asked about where no message came: Play extends a term silently by a day while it charges, and
	// keeps no history of messages.
	playEndPoll = 5 * time.Minute
	// playHoldPoll is how often a subscription on hold is asked about. A hold and the grace before it last 60 days at most.
	playHoldPoll = 24 * time.Hour
	maxPlayHold  = 61 * 24 * time.Hour
)

// Due returns the tokens of which nothing was heard since their subscriptions should have renewed, or a grace or a pause was over, and once a day those on hold.
func (a *GoogleAPI) Due(e entitlement.Evidence, asked func(id string) time.Time, now time.Time) []entitlement.Doubt {
	var due []entitlement.Doubt
	for i := range e.Objects {
		token, ok := askedToken(e.Objects[i].ID)
		if o := &e.Objects[i]; !ok || o.By != entitlement.Google || o.Renewal == nil {
			continue
		}
		chains := playHash(token) + ":"
		id, poll := e.Objects[i].ID, standsUntil(e, entitlement.Google, func(chain string) bool { return strings.HasPrefix(chain, chains) }).Add(playEndPoll)
		last := later(time.Unix(0, e.Objects[i].At), asked(id))
		held := now.Sub(last) >= playHoldPoll && now.Sub(a.heldSince(e, chains)) < maxPlayHold
		if held || poll.After(last) && !now.Before(poll) {
			due = append(due, entitlement.Doubt{Kind: entitlement.KindRenewal, ID: id, By: entitlement.Google})
		}
	}
	return due
}

// heldSince returns the end of what was paid for of a subscription on hold, of the chains whose ids begin so; zero for none.
func (a *GoogleAPI) heldSince(e entitlement.Evidence, chains string) (since time.Time) {
	held := map[string]bool{}
	for i := range e.Objects {
		if o := &e.Objects[i]; o.By == entitlement.Google && o.Renewal != nil && o.Renewal.Phase == entitlement.PhaseBillingRetry && strings.HasPrefix(o.ID, chains) {
			held[o.ID] = true
		}
	}
	for i := range e.Objects {
		if t := e.Objects[i].Transaction; t != nil && e.Objects[i].By == entitlement.Google && held[t.Chain] {
			since = later(since, time.Unix(t.EndsAt, 0))
		}
	}
	return since
}

// forgottenUnknown is for how long a token is asked about of which nothing is known but that a message named it, while Google says that it has forgotten it.
const forgottenUnknown = 7 * 24 * time.Hour

// Forgotten settles a question about a token that Google calls gone, which it does 60 days after the end: all that is known of the token ended when it ended.
// That Google says so of a token whose end is ahead has been seen, and is not believed. A one-time product has no end, and stays what it is.
// Source: developers.google.com/android-publisher/api-ref/rest/v3/purchases.subscriptionsv2; flutter/flutter#181529.
func (a *GoogleAPI) Forgotten(e entitlement.Evidence, about entitlement.Doubt, now time.Time) (entitlement.Event, bool) {
	token, ok := askedToken(about.ID)
	if !ok {
		return entitlement.Event{}, false
	}
	ev := entitlement.Event{Provider: entitlement.Google, ID: fmt.Sprintf("pull:%s:%d", playHash(token), now.UnixNano()), Environment: a.env, Type: pullPrefix + "forgotten",
		CreatedAt: now.Unix(), Raw: object{"purchaseToken_sha256": playHash(token)}.raw()}
	ends := map[string]int64{} // by chain
	unknown := true            // when it ended
	settled := entitlement.Object{Kind: entitlement.KindRenewal, ID: about.ID, By: entitlement.Google, Renewal: &entitlement.Renewal{}}
	for i := range e.Objects {
		o := e.Objects[i]
		if t := o.Transaction; t != nil && o.By == entitlement.Google && strings.HasPrefix(t.Chain, playHash(token)+":") {
			if t.Recurring {
				ends[t.Chain] = max(ends[t.Chain], t.EndsAt, 1)
				unknown = unknown && t.EndsAt == 0
			}
			ev.Objects = append(ev.Objects, o)
		}
	}
	for _, end := range ends {
		if end >= now.Unix() {
			return ev, false
		}
	}
	if unknown && now.Sub(time.Unix(0, about.From)) < forgottenUnknown {
		return ev, false
	}
	for i := range e.Objects {
		o := e.Objects[i]
		if o.Renewal == nil || o.By != entitlement.Google {
			continue
		}
		r := *o.Renewal
		switch end, chain := ends[o.ID]; {
		case o.ID == about.ID:
			r.Unacknowledged = false
			settled.Renewal = &r
		case chain:
			if r.GraceUntil >= now.Unix() {
				return ev, false
			}
			if r.Phase != entitlement.PhaseExpired && r.Phase != entitlement.PhaseRevoked {
				r = entitlement.Renewal{Phase: entitlement.PhaseExpired, EndedAt: max(end, r.GraceUntil), Replaces: r.Replaces}
			}
			o.Renewal = &r
			ev.Objects = append(ev.Objects, o)
		}
	}
	ev.Objects = append(ev.Objects, settled)
	for i := range ev.Objects {
		o := &ev.Objects[i]
		o.At, o.Tied, o.Links = now.Unix()*1e9, false, []entitlement.Link{playTokenLink(token)}
	}
	return ev, true
}

// askedToken returns the purchase token of an id that Google can be asked with.
func askedToken(id string) (token string, ok bool) {
	token = strings.TrimPrefix(id, playProductMark)
	return token, isPlayToken(token)
}

// Pull asks for a purchase token. For entitlement.KindRenewal it is that of a subscription, unless playProductMark is before it, and where Google
// knows no such subscription, that of a one-time product; for KindTransaction that of a one-time product. A licence tester's purchase is of
// sandbox. Errors: as Puller says, and ErrOtherEnvironment for a paid purchase that sandbox asked for.
func (a *GoogleAPI) Pull(ctx context.Context, kind entitlement.ObjectKind, id string) (entitlement.Event, error) {
	token, ok := askedToken(id)
	if !ok || kind != entitlement.KindRenewal && kind != entitlement.KindTransaction {
		return entitlement.Event{}, &PullError{Reason: ErrGone, Detail: "Google cannot be asked for it"}
	}
	product := kind == entitlement.KindTransaction || len(token) < len(id)
	if kind == entitlement.KindTransaction {
		id = playProductMark + token
	}
	if !product {
		ev, err := a.pull(ctx, id, token, false)
		if failed := (*PullError)(nil); !errors.As(err, &failed) || failed.Status != http.StatusNotFound && failed.Status != http.StatusBadRequest {
			return ev, err
		}
		if ev, err := a.pull(ctx, id, token, true); err == nil {
			return ev, nil
		}
		return ev, err // what is asked for is a subscription first
	}
	return a.pull(ctx, id, token, true)
}

func (a *GoogleAPI) pull(ctx context.Context, id, token string, product bool) (entitlement.Event, error) {
	if err := a.limit.Wait(ctx); err != nil {
		return entitlement.Event{}, contextError(ctx, err)
	}
	path, shape, name := "/purchases/subscriptionsv2/tokens/", playSubscription, "subscription"
	if product {
		path, shape, name = "/purchases/productsv2/tokens/", playProduct, "product"
	}
	left := a.now()
	v, head, err := a.call(ctx, http.MethodGet, path+url.PathEscape(token), nil)
	if err != nil {
		return entitlement.Event{}, err
	}
	o, _ := shape(v).(object)
	created := version(left, head.header)
	answer := &playAnswer{token: token, asked: id, at: created * 1e9}
	test := o["testPurchase"] != nil || o["testPurchaseContext"] != nil
	if product {
		err = answer.product(o)
	} else {
		err = answer.subscription(o)
	}
	if err != nil {
		return entitlement.Event{}, head.fail(ErrAnswer, err.Error())
	}
	ev := entitlement.Event{Provider: entitlement.Google, ID: fmt.Sprintf("pull:%s:%d", playHash(token), left.UnixNano()), Environment: entitlement.Production,
		Type: pullPrefix + name, CreatedAt: created, Objects: answer.finish(), Raw: withoutTokens(o).raw()}
	if test {
		ev.Environment = entitlement.Sandbox
	} else if a.env == entitlement.Sandbox {
		return entitlement.Event{}, head.fail(ErrOtherEnvironment, "no test purchase")
	}
	return ev, nil
}

// Unacknowledged lists the sales of a purchase that Google takes back unless they are acknowledged, each as the id that it is asked about with.
func (a *GoogleAPI) Unacknowledged(e entitlement.Evidence) []string {
	var ids []string
	for i := range e.Objects {
		o := &e.Objects[i]
		if _, ok := askedToken(o.ID); ok && o.By == entitlement.Google && o.Renewal != nil && o.Renewal.Unacknowledged {
			ids = append(ids, o.ID)
		}
	}
	return ids
}

// Acknowledge tells Google that a sale is delivered, and of consumables that they are used up, so that they can be bought again. It may be called
// again. Errors: as Pull's.
func (a *GoogleAPI) Acknowledge(ctx context.Context, e entitlement.Evidence, id string, consumable func(entitlement.Sold) bool) error {
	token, _ := askedToken(id)
	chain := playHash(token) + ":"
	done := map[string]bool{}
	for i := range e.Objects {
		o := &e.Objects[i]
		if o.By != entitlement.Google || o.Transaction == nil || o.Transaction.State != entitlement.TransactionPaid {
			continue
		}
		product, ours := strings.CutPrefix(o.Transaction.Chain, chain)
		if !ours || done[product] {
			continue
		}
		done[product] = true
		path := "/purchases/products/" + url.PathEscape(product) + "/tokens/" + url.PathEscape(token) + ":acknowledge"
		switch {
		case o.Transaction.Recurring:
			path = "/purchases/subscriptions/" + url.PathEscape(product) + "/tokens/" + url.PathEscape(token) + ":acknowledge"
		case consumable(o.Transaction.Sold):
			path = strings.TrimSuffix(path, "acknowledge") + "consume"
		}
		if err := a.limit.Wait(ctx); err != nil {
			return contextError(ctx, err)
		}
		if _, _, err := a.call(ctx, http.MethodPost, path, []byte("{}")); err != nil {
			return err
		}
		if o.Transaction.Recurring {
			return nil // of a subscription once, under whichever of its products
		}
	}
	if len(done) == 0 {
		return &PullError{Reason: ErrAnswer, Detail: "no paid product is known of it"}
	}
	return nil
}

var playVoided = fields(map[string]keep{"purchaseToken": playToken, "orderId": ident, "voidedTimeMillis": playInteger, "voidedSource": playInteger, "voidedReason": playInteger,
	"voidedQuantity": playInteger})

// VoidedPurchases lists what was voided between two times, at most 30 days ago, as the events that Google sends about each: the same ones however
// often it is asked. Errors: as Pull's.
func (a *GoogleAPI) VoidedPurchases(ctx context.Context, from, to time.Time) ([]entitlement.Event, error) {
	var events []entitlement.Event
	next := ""
	for range maxVoidedPages {
		if err := errors.Join(a.voided.Wait(ctx), a.limit.Wait(ctx)); err != nil {
			return nil, contextError(ctx, err)
		}
		query := url.Values{"type": {"1"}, "startTime": {strconv.FormatInt(from.UnixMilli(), 10)}, "endTime": {strconv.FormatInt(to.UnixMilli(), 10)},
			"maxResults": {strconv.Itoa(voidedPageSize)}, "includeQuantityBasedPartialRefund": {"true"}}
		if next != "" {
			query.Set("token", next)
		}
		v, _, err := a.call(ctx, http.MethodGet, "/purchases/voidedpurchases?"+query.Encode(), nil)
		if err != nil {
			return nil, err
		}
		member(v, "voidedPurchases").ForEach(func(_, v gjson.Result) bool {
			if ev, ok := a.voidedPurchase(v); ok {
				events = append(events, ev)
			}
			return true
		})
		if next = member(member(v, "tokenPagination"), "nextPageToken").Str; next == "" {
			return events, nil
		}
	}
	return nil, &PullError{Reason: ErrAnswer, Detail: "more voided purchases than fit: ask for a shorter time"}
}

func (a *GoogleAPI) voidedPurchase(v gjson.Result) (ev entitlement.Event, ok bool) {
	o, _ := playVoided(v).(object)
	token, order, ms := o.text("purchaseToken"), o.text("orderId"), o.int("voidedTimeMillis")
	if token == "" || ms <= 0 || ms > maxPlayMillis {
		return ev, false
	}
	return entitlement.Event{Provider: entitlement.Google, ID: fmt.Sprintf("voided:%s:%s:%d", playHash(token), order, ms), Environment: a.env, Type: "VOIDED_PURCHASE",
		CreatedAt: ms / 1000, Objects: playVoidedOrder(token, token, order, o["voidedQuantity"] == nil, ms), Raw: withoutTokens(o).raw()}, true
}

// googleHead is what came before the body of an answer.
type googleHead struct {
	status int
	header http.Header
}

func (h *googleHead) fail(reason error, detail string) *PullError {
	e := &PullError{Reason: reason, Status: h.status, Detail: detail}
	if seconds, err := strconv.Atoi(h.header.Get("Retry-After")); err == nil && seconds > 0 {
		e.RetryAfter = min(time.Duration(seconds)*time.Second, maxRetryAfter)
	}
	return e
}

// call asks with an access token and returns the answer's JSON, which may be empty for a POST.
func (a *GoogleAPI) call(ctx context.Context, method, path string, body []byte) (gjson.Result, *googleHead, error) {
	head := &googleHead{}
	token, err := a.tokens.get(ctx)
	if err != nil {
		return gjson.Result{}, head, err
	}
	req, err := http.NewRequestWithContext(ctx, method, a.base+path, strings.NewReader(string(body)))
	if err != nil {
		return gjson.Result{}, head, &PullError{Reason: ErrGone, Detail: "no address can be made of it"}
	}
	req.Header.Set("Authorization", "Bearer "+token)
	req.Header.Set("Accept", "application/json")
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	answer, err := googleExchange(a.client, req, head)
	if err != nil {
		return gjson.Result{}, head, err
	}
	if head.status == http.StatusUnauthorized {
		a.tokens.drop(token)
	}
	if head.status/100 != 2 {
		return gjson.Result{}, head, head.classify(answer)
	}
	if method == http.MethodPost {
		return gjson.Result{}, head, nil
	}
	v, err := decodeObject(answer)
	if err != nil {
		return gjson.Result{}, head, head.fail(ErrAnswer, err.Error())
	}
	return v, head, nil
}

// googleExchange sends a request and reads the whole answer. The address is a token's and goes into no error.
func googleExchange(client *http.Client, req *http.Request, head *googleHead) ([]byte, error) {
	res, err := client.Do(req)
	if req.Context().Err() != nil {
		return nil, req.Context().Err()
	}
	if err != nil {
		detail := ""
		if failed := (*url.Error)(nil); errors.As(err, &failed) {
			detail = failed.Err.Error()
		}
		return nil, head.fail(ErrUnavailable, detail)
	}
	defer res.Body.Close()
	head.status, head.header = res.StatusCode, res.Header
	answer, err := io.ReadAll(io.LimitReader(res.Body, maxGoogleAnswerBytes))
	if req.Context().Err() != nil {
		return nil, req.Context().Err()
	}
	if err != nil {
		return nil, head.fail(ErrUnavailable, "the answer broke off")
	}
	return answer, nil
}

// classify says what to do about an answer that is none.
func (h *googleHead) classify(body []byte) error {
	reason := gjson.GetBytes(body, "error.errors.0.reason").Str
	switch {
	case h.status == http.StatusTooManyRequests, h.status == http.StatusForbidden && strings.HasSuffix(strings.ToLower(reason), "limitexceeded"):
		return h.fail(ErrLimited, "")
	case h.status == http.StatusUnauthorized, h.status == http.StatusForbidden:
		return h.fail(ErrCredential, "")
	case h.status == http.StatusNotFound:
		e := h.fail(ErrGone, "")
		e.RetryAfter = max(e.RetryAfter, freshPause)
		return e
	case h.status == http.StatusGone:
		e := h.fail(ErrGone, "Google has forgotten it")
		e.Forgotten = true
		return e
	case h.status >= http.StatusInternalServerError, h.status == http.StatusConflict, h.status == http.StatusRequestTimeout:
		return h.fail(ErrUnavailable, "")
	}
	return h.fail(ErrAnswer, "")
}

// googleTokens gets access tokens for a service account, one at a time. Source: developers.google.com/identity/protocols/oauth2/service-account#httprest.
type googleTokens struct {
	url    string
	email  string
	keyID  string
	key    *rsa.PrivateKey
	client *http.Client
	now    func() time.Time

	mu    sync.Mutex
	token string
	until time.Time
}

func newGoogleTokens(serviceAccount []byte, tokenURL string, client *http.Client, now func() time.Time) (*googleTokens, error) {
	var file struct {
		Type  string `json:"type"`
		Email string `json:"client_email"`
		KeyID string `json:"private_key_id"`
		Key   string `json:"private_key"`
	}
	if json.Unmarshal(serviceAccount, &file) != nil || file.Email == "" || file.Type != "" && file.Type != "service_account" {
		return nil, fmt.Errorf("%w: want the JSON key file of one", ErrGoogleAccount)
	}
	key, err := jwt.ParseRSAPrivateKeyFromPEM([]byte(file.Key))
	if err != nil {
		return nil, fmt.Errorf("%w: its private key is not an RSA key in PEM", ErrGoogleAccount)
	}
	return &googleTokens{url: tokenURL, email: file.Email, keyID: file.KeyID, key: key, client: client, now: now}, nil
}

// get returns an access token that counts for a while yet. Errors: as Pull's.
func (t *googleTokens) get(ctx context.Context) (string, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := t.now()
	if t.token != "" && now.Before(t.until) {
		return t.token, nil
	}
	assertion := jwt.NewWithClaims(jwt.SigningMethodRS256, jwt.MapClaims{"iss": t.email, "scope": googleScope, "aud": t.url, "iat": now.Unix(), "exp": now.Add(googleAssertionLife).Unix()})
	if t.keyID != "" {
		assertion.Header["kid"] = t.keyID
	}
	signed, err := assertion.SignedString(t.key)
	if err != nil {
		return "", &PullError{Reason: ErrCredential, Detail: "the service account's key cannot sign"}
	}
	form := url.Values{"grant_type": {"urn:ietf:params:oauth:grant-type:jwt-bearer"}, "assertion": {signed}}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, t.url, strings.NewReader(form.Encode()))
	if err != nil {
		return "", &PullError{Reason: ErrCredential, Detail: "no address for access tokens"}
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	head := &googleHead{}
	answer, err := googleExchange(t.client, req, head)
	if err != nil {
		return "", err
	}
	switch {
	case head.status == http.StatusTooManyRequests:
		return "", head.fail(ErrLimited, "no access token")
	case head.status >= http.StatusInternalServerError:
		return "", head.fail(ErrUnavailable, "no access token")
	case head.status != http.StatusOK:
		e := head.fail(ErrCredential, "no access token for the service account")
		e.Status = http.StatusUnauthorized // whatever is asked for needs one
		return "", e
	}
	v, err := decodeObject(answer)
	if err != nil {
		return "", head.fail(ErrAnswer, "access token: "+err.Error())
	}
	token, life := member(v, "access_token").Str, member(v, "expires_in").Int()
	if token == "" || strings.ContainsAny(token, " \r\n") {
		return "", head.fail(ErrAnswer, "access token: none in the answer")
	}
	life = min(max(life, 0), int64(googleAssertionLife/time.Second))
	t.token, t.until = token, now.Add(time.Duration(life)*time.Second*4/5)
	return token, nil
}

// drop forgets a token that was refused.
func (t *googleTokens) drop(token string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.token == token {
		t.token = ""
	}
}
