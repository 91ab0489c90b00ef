package provider

import (
	"bytes"
	"cmp"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tidwall/gjson"
	"golang.org/x/time/rate"

	"github.com/latchkey/latchkey/pkg/entitlement"
)

// Where the App Store Server API is. Source: developer.apple.com/documentation/appstoreserverapi.
const (
	appleAPI        = "https://api.storekit.apple.com"
	appleAPISandbox = "https://api.storekit-sandbox.apple.com"
)

const (
	// Apple allows an app 50 requests a second, and a tenth of that in sandbox; refunds 10. What we leave is for the merchant's own backend.
	appleRequestsPerSecond        = 20
	appleSandboxRequestsPerSecond = 4
	appleBurst                    = 10

	// The refunds of a customer are asked for by a call of its own, of which Apple allows 10 a second, and a tenth of that in sandbox.
	appleRefundsPerSecond        = 4
	appleSandboxRefundsPerSecond = 0.5

	// How far back Apple keeps notifications. It refuses a question that begins earlier, by its own clock: what we leave is for ours.
	appleKeepsFor        = 179 * 24 * time.Hour
	appleSandboxKeepsFor = 29 * 24 * time.Hour

	// appleRequestTimeout is how long one request may take. What takes longer is asked again.
	appleRequestTimeout = 10 * time.Second

	// appleTokenLife is how long a token for the API is valid. Apple takes an hour at most.
	appleTokenLife = 5 * time.Minute

	// maxAppleAnswerBytes bounds one answer. A page of 20 transactions is about 120 KiB.
	maxAppleAnswerBytes = 4 << 20

	// maxApplePages bounds how much is asked for about one purchase: 1000 transactions, 80 years of months.
	maxApplePages = 50
	// maxAppleBought bounds what is listed of a customer: each is one more question, and somebody waits.
	maxAppleBought = 100
	// maxAppleHistoryPages bounds one look at the history of notifications, so that a server that never ends it does not keep us: two million.
	maxAppleHistoryPages = 100_000
)

// What Apple says in its own numbers. Source: developer.apple.com/documentation/appstoreserverapi/error-codes.
const (
	appleErrorOriginalNotFound    = 4040005
	appleErrorTransactionNotFound = 4040010
	appleErrorBadTransaction      = 4000006
	appleErrorBadOriginal         = 4000008
)

// appleRetryable are those about which the same question can be asked again soon.
var appleRetryable = []int64{4040002, 4040004, 4040006, 5000001}

// Mistakes in an AppleAPIConfig, for saying which field is wrong.
var (
	ErrAppleKey    = errors.New("apple: API key")
	ErrAppleKeyID  = errors.New("apple: API key id")
	ErrAppleIssuer = errors.New("apple: API issuer")
	ErrAppleBase   = errors.New("apple: address of the API")
)

// AppleAPIConfig is what NewAppleAPI needs.
type AppleAPIConfig struct {
	// Key is an In-App Purchase key of App Store Connect, the content of its .p8 file; KeyID and IssuerID are what is shown beside it.
	Key, KeyID, IssuerID string
	// Apple verifies what is answered, and knows the app.
	Apple *Apple
	// Environment is whose purchases they are. Production asks the sandbox about what it does not know itself: purchases of testers.
	Environment entitlement.Environment
	// BaseURL is where the environment's API is. Empty is Apple's. http:// is for loopback addresses.
	BaseURL string
	// SandboxURL is where production asks about purchases of testers. Empty is Apple's, and nowhere where BaseURL is not Apple's.
	SandboxURL string
	// Now is the clock that tokens are made by. Nil is time.Now.
	Now func() time.Time
}

// AppleAPI asks the App Store for the present state of purchases.
type AppleAPI struct {
	apple        *Apple
	key          *ecdsa.PrivateKey
	keyID, issue string
	places       []applePlace // where to ask, in order
	now          func() time.Time
	client       *http.Client
}

// applePlace is one of Apple's two environments.
type applePlace struct {
	name    string // in Apple's word
	base    string
	limit   *rate.Limiter
	refunds *rate.Limiter // besides
}

// NewAppleAPI returns a Puller. Errors: ErrAppleKey, ErrAppleKeyID, ErrAppleIssuer, ErrAppleBase; they do not quote the key.
func NewAppleAPI(c AppleAPIConfig) (*AppleAPI, error) {
	key, err := parseAppleKey(c.Key)
	if err != nil {
		return nil, err
	}
	if !isIdent(c.KeyID) {
		return nil, fmt.Errorf("%w: want it as App Store Connect shows it", ErrAppleKeyID)
	}
	if !isIdent(c.IssuerID) {
		return nil, fmt.Errorf("%w: want it as App Store Connect shows it", ErrAppleIssuer)
	}
	for _, base := range []string{c.BaseURL, c.SandboxURL} {
		if err := CheckAppleBase(base); err != nil {
			return nil, err
		}
	}
	sandbox := func(base string) applePlace {
		return applePlace{appleSandbox, strings.TrimSuffix(base, "/"), pace(base, appleSandboxRequestsPerSecond, appleBurst), pace(base, appleSandboxRefundsPerSecond, 1)}
	}
	places := []applePlace{sandbox(cmp.Or(c.BaseURL, appleAPISandbox))}
	if c.Environment == entitlement.Production {
		places[0] = applePlace{appleProduction, strings.TrimSuffix(cmp.Or(c.BaseURL, appleAPI), "/"), pace(c.BaseURL, appleRequestsPerSecond, appleBurst), pace(c.BaseURL, appleRefundsPerSecond, 1)}
		if c.BaseURL == "" {
			c.SandboxURL = cmp.Or(c.SandboxURL, appleAPISandbox)
		}
		if c.SandboxURL != "" {
			places = append(places, sandbox(c.SandboxURL))
		}
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	return &AppleAPI{apple: c.Apple, key: key, keyID: c.KeyID, issue: c.IssuerID, places: places, now: c.Now, client: keyClient(keyTransport(appleBurst))}, nil
}

// CheckAppleBase returns ErrAppleBase for an address that the token may not be sent to, or nil. Empty is Apple's own.
func CheckAppleBase(base string) error {
	if CheckStripeBase(base) != nil {
		return fmt.Errorf("%w: want https://host, or http:// on a loopback address", ErrAppleBase)
	}
	return nil
}

func parseAppleKey(text string) (*ecdsa.PrivateKey, error) {
	block, _ := pem.Decode([]byte(text))
	if block == nil {
		return nil, fmt.Errorf("%w: want the content of a .p8 file, PEM", ErrAppleKey)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	key, ok := parsed.(*ecdsa.PrivateKey)
	if err != nil || !ok || key.Curve != elliptic.P256() {
		return nil, fmt.Errorf("%w: want a key of P-256 in PKCS#8", ErrAppleKey)
	}
	return key, nil
}

// Provider returns entitlement.Apple.
func (a *AppleAPI) Provider() entitlement.Provider { return entitlement.Apple }

// Targets returns a subscription for what is in doubt about it, and a transaction for one of its own. Who bought comes with either. Where a transaction is in
// doubt its buyer's refunds are asked for as well (KindRevocation): a message about it was lost or contradicts another, and those about its buyer's
// other purchases may be as well.
func (a *AppleAPI) Targets(e entitlement.Evidence, doubts []entitlement.Doubt) []entitlement.Doubt {
	var out []entitlement.Doubt
	add := func(d entitlement.Doubt) {
		same := func(o entitlement.Doubt) bool { return o.Kind == d.Kind && o.ID == d.ID }
		if at := slices.IndexFunc(out, same); at < 0 {
			out = append(out, d)
		} else if out[at].From < d.From {
			out[at].From = d.From
		}
	}
	for _, d := range doubts {
		switch d.Kind {
		case entitlement.KindRenewal:
		case entitlement.KindCustomer:
			d.Kind = entitlement.KindRenewal
		case entitlement.KindTransaction:
			add(entitlement.Doubt{Kind: entitlement.KindRevocation, ID: d.ID, From: d.From, By: d.By})
			for _, o := range e.Objects {
				if o.By == entitlement.Apple && o.Transaction != nil && o.ID == d.ID && o.Transaction.Chain != "" {
					d.Kind, d.ID = entitlement.KindRenewal, o.Transaction.Chain
				}
			}
		default:
			continue
		}
		add(d)
	}
	return out
}

// errElsewhere means that the App Store knows no such purchase in this environment.
var errElsewhere = errors.New("not in this environment")

// Pull asks for a subscription with its terms (KindRenewal, by the original transaction's id), for what a transaction belongs to
// (KindTransaction, by its id), or for all refunds of whoever bought a transaction (KindRevocation, by its id; see RefundHistory). The states have
// the version that Apple signs them with.
func (a *AppleAPI) Pull(ctx context.Context, kind entitlement.ObjectKind, id string) (entitlement.Event, error) {
	if kind == entitlement.KindRevocation {
		return a.RefundHistory(ctx, id)
	}
	if kind != entitlement.KindRenewal && kind != entitlement.KindTransaction || !isIdent(id) {
		return entitlement.Event{}, &PullError{Reason: ErrGone, Detail: "the App Store cannot be asked for it"}
	}
	left := a.now()
	for _, place := range a.places {
		q := appleQuestion{AppleAPI: a, place: place}
		err := q.ask(ctx, kind, id)
		if errors.Is(err, errElsewhere) {
			continue
		}
		if err != nil {
			return entitlement.Event{}, err
		}
		return q.event(kind, id, left), nil
	}
	return entitlement.Event{}, &PullError{Reason: ErrGone, Status: http.StatusNotFound}
}

// appleQuestion collects the answers to one question.
type appleQuestion struct {
	*AppleAPI
	place applePlace
	appleMessage
	terms, standings []object // as they are stored
}

func (q *appleQuestion) event(kind entitlement.ObjectKind, id string, left time.Time) entitlement.Event {
	return entitlement.Event{
		Provider: entitlement.Apple, ID: fmt.Sprintf("pull:%s:%d", id, left.UnixNano()), Environment: ourEnvironment(q.place.name),
		Type: pullPrefix + string(kind), CreatedAt: left.Unix(), Objects: q.objects,
		Raw: object{"environment": q.place.name, "subscriptions": list{Data: q.standings}, "transactions": list{Data: q.terms}}.raw(),
	}
}

func (q *appleQuestion) ask(ctx context.Context, kind entitlement.ObjectKind, id string) error {
	chain := id
	if kind == entitlement.KindTransaction {
		t, err := q.single(ctx, id)
		if err != nil || !isRecurring(t) {
			return err
		}
		chain = chainOf(t)
	}
	found, err := q.standing(ctx, chain)
	switch {
	case err != nil && (kind == entitlement.KindTransaction || !errors.Is(err, errElsewhere)):
		return err
	case found:
		return q.history(ctx, chain)
	case kind == entitlement.KindTransaction:
		return nil
	}
	// No subscription: it may be a sale of one time, of which another provider told.
	t, err := q.single(ctx, id)
	if err != nil {
		return err
	}
	at, _ := q.version(t)
	q.add(entitlement.Object{Kind: entitlement.KindRenewal, ID: id, At: at, Renewal: &entitlement.Renewal{}}, cmp.Or(t.text("originalTransactionId"), id))
	return nil
}

// single asks for one transaction.
func (q *appleQuestion) single(ctx context.Context, id string) (object, error) {
	answer, err := q.call(ctx, q.place, http.MethodGet, "/inApps/v1/transactions/"+url.PathEscape(id), nil)
	if err != nil {
		return nil, err
	}
	return q.term(member(answer, "signedTransactionInfo"), "")
}

// term notes a signed transaction. chain, where it is given, is the only one whose transactions are noted.
func (q *appleQuestion) term(signed gjson.Result, chain string) (object, error) {
	t, at, err := q.signed(signed, appleTransactionOf)
	if err != nil {
		return nil, err
	}
	if chain != "" && chainOf(t) != chain {
		return t, nil
	}
	q.at = at
	if err := q.transaction(t); err != nil {
		return nil, &PullError{Reason: ErrAnswer, Detail: err.Error()}
	}
	q.terms = append(q.terms, t)
	return t, nil
}

// signed verifies what is signed in an answer and returns what its shape keeps of it, and its time in Unix nanoseconds.
func (q *appleQuestion) signed(v gjson.Result, shape keep) (object, int64, error) {
	said, at, err := q.apple.verifySigned(v.String(), time.Time{})
	if err == nil {
		err = checkSame(said, q.apple.bundle, q.place.name)
	}
	if err != nil {
		return nil, 0, &PullError{Reason: ErrAnswer, Status: http.StatusOK, Detail: err.Error()}
	}
	payload, err := jwsPayload(v.String())
	if err != nil {
		return nil, 0, &PullError{Reason: ErrAnswer, Status: http.StatusOK, Detail: err.Error()}
	}
	return shape(payload).(object), at.UnixNano(), nil
}

// standing asks where a subscription stands. found is false where the App Store has no subscription of that id.
func (q *appleQuestion) standing(ctx context.Context, chain string) (found bool, err error) {
	answer, err := q.call(ctx, q.place, http.MethodGet, "/inApps/v1/subscriptions/"+url.PathEscape(chain), nil)
	if err != nil {
		return false, err
	}
	said := appleAboutOf(answer).(object)
	if bundle, there := said["bundleId"]; there && bundle != q.apple.bundle {
		return false, &PullError{Reason: ErrAnswer, Status: http.StatusOK, Detail: "another app's"}
	}
	for _, group := range member(answer, "data").Array() {
		for _, last := range member(group, "lastTransactions").Array() {
			head := fields(map[string]keep{"originalTransactionId": ident, "status": number})(last)
			o, ok := head.(object)
			if !ok || o.text("originalTransactionId") != chain {
				continue // of another purchase of the same customer
			}
			t, err := q.term(member(last, "signedTransactionInfo"), chain)
			if err != nil {
				return false, err
			}
			r, at, err := q.signed(member(last, "signedRenewalInfo"), appleRenewalOf)
			if err != nil {
				return false, err
			}
			q.at = at
			if err := q.renewal(chain, o.int("status"), r, t); err != nil {
				return false, &PullError{Reason: ErrAnswer, Status: http.StatusOK, Detail: err.Error()}
			}
			o[appleRenewalField] = r
			q.standings = append(q.standings, o)
			found = true
		}
	}
	return found, nil
}

// history asks for the terms of a subscription, the newest first.
func (q *appleQuestion) history(ctx context.Context, chain string) error {
	query := url.Values{"sort": {"DESCENDING"}, "productType": {"AUTO_RENEWABLE"}}
	for range maxApplePages {
		answer, err := q.call(ctx, q.place, http.MethodGet, "/inApps/v2/history/"+url.PathEscape(chain)+"?"+query.Encode(), nil)
		if err != nil {
			return err
		}
		for _, signed := range member(answer, "signedTransactions").Array() {
			if _, err := q.term(signed, chain); err != nil {
				return err
			}
		}
		revision, _ := member(answer, "revision").Value().(string)
		if member(answer, "hasMore").Type != gjson.True || revision == "" {
			return nil
		}
		query.Set("revision", revision)
	}
	return nil
}

// BoughtBy implements CustomerLister: what is in the history of whoever made a transaction, whose id is the name, the newest first.
func (a *AppleAPI) BoughtBy(ctx context.Context, customer entitlement.Alias) ([]entitlement.Doubt, error) {
	if customer.Kind != entitlement.AppleOriginalTransaction || !isIdent(customer.Value) {
		return nil, nil
	}
	for _, place := range a.places {
		q := appleQuestion{AppleAPI: a, place: place}
		found, err := q.bought(ctx, customer.Value)
		if !errors.Is(err, errElsewhere) {
			return found, err
		}
	}
	return nil, nil
}

// bought lists the subscriptions and the sales of one time of whoever made a transaction.
func (q *appleQuestion) bought(ctx context.Context, id string) (found []entitlement.Doubt, err error) {
	query := url.Values{"sort": {"DESCENDING"}}
	for range maxApplePages {
		answer, err := q.call(ctx, q.place, http.MethodGet, "/inApps/v2/history/"+url.PathEscape(id)+"?"+query.Encode(), nil)
		if err != nil {
			return nil, err
		}
		for _, signed := range member(answer, "signedTransactions").Array() {
			t, _, err := q.signed(signed, appleTransactionOf)
			if err != nil {
				return nil, err
			}
			d := entitlement.Doubt{Kind: entitlement.KindTransaction, ID: t.text("transactionId"), By: entitlement.Apple}
			if isRecurring(t) {
				d.Kind, d.ID = entitlement.KindRenewal, chainOf(t)
			}
			if d.ID != "" && !slices.Contains(found, d) {
				found = append(found, d)
			}
		}
		revision, _ := member(answer, "revision").Value().(string)
		if member(answer, "hasMore").Type != gjson.True || revision == "" || len(found) >= maxAppleBought {
			break
		}
		query.Set("revision", revision)
	}
	return found[:min(len(found), maxAppleBought)], nil
}

// RefundHistory asks for every transaction of a customer that was refunded, by the id of any of their transactions, as one event.
// Errors: as Pull.
func (a *AppleAPI) RefundHistory(ctx context.Context, id string) (entitlement.Event, error) {
	if !isIdent(id) {
		return entitlement.Event{}, &PullError{Reason: ErrGone, Detail: "the App Store cannot be asked for it"}
	}
	left := a.now()
	for _, place := range a.places {
		q := appleQuestion{AppleAPI: a, place: place}
		err := q.refunds(ctx, id)
		if errors.Is(err, errElsewhere) {
			continue
		}
		if err != nil {
			return entitlement.Event{}, err
		}
		ev := q.event(entitlement.KindRevocation, "refunds:"+id, left)
		if len(ev.Objects) == 0 {
			ev.Kind = entitlement.Unhandled
		}
		return ev, nil
	}
	return entitlement.Event{}, &PullError{Reason: ErrGone, Status: http.StatusNotFound}
}

func (q *appleQuestion) refunds(ctx context.Context, id string) error {
	query := url.Values{}
	for range maxApplePages {
		if err := q.place.refunds.Wait(ctx); err != nil {
			return contextError(ctx, err)
		}
		answer, err := q.call(ctx, q.place, http.MethodGet, "/inApps/v2/refund/lookup/"+url.PathEscape(id)+"?"+query.Encode(), nil)
		if err != nil {
			return err
		}
		for _, signed := range member(answer, "signedTransactions").Array() {
			if _, err := q.term(signed, ""); err != nil {
				return err
			}
		}
		revision, _ := member(answer, "revision").Value().(string)
		if member(answer, "hasMore").Type != gjson.True || revision == "" {
			return nil
		}
		query.Set("revision", revision)
	}
	return nil
}

// HistoryReach is how far back Apple keeps notifications: 180 days, in sandbox 30, less what clocks may differ.
func (a *AppleAPI) HistoryReach() time.Duration {
	if a.places[0].name == appleSandbox {
		return appleSandboxKeepsFor
	}
	return appleKeepsFor
}

// IsMessage reports whether an id is a notification's: those that we make have a colon.
func (a *AppleAPI) IsMessage(id string) bool { return !strings.Contains(id, ":") }

// Messages lists the notifications of the environment that Apple has made between two times. Errors: ErrSignature for one that is not authentic, after
// which the next follows; as NotificationHistory's.
func (a *AppleAPI) Messages(ctx context.Context, from, to time.Time) iter.Seq2[KeptMessage, error] {
	return func(yield func(KeptMessage, error) bool) {
		for signed, err := range a.NotificationHistory(ctx, from, to) {
			var ev entitlement.Event
			if err == nil {
				ev, err = a.apple.ParseNotification(signed, ourEnvironment(a.places[0].name))
			}
			if !yield(KeptMessage{Event: ev}, err) {
				return
			}
		}
	}
}

// NotificationHistory lists the signed payloads of the notifications that Apple has made between two times, at most 180 days ago, in sandbox 30.
// Apple.ParseNotification reads one. It ends after the first error: a *PullError, or ctx's.
func (a *AppleAPI) NotificationHistory(ctx context.Context, from, to time.Time) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		question := map[string]int64{"startDate": from.UnixMilli(), "endDate": to.UnixMilli()}
		path := "/inApps/v1/notifications/history"
		for range maxAppleHistoryPages {
			answer, err := a.call(ctx, a.places[0], http.MethodPost, path, question)
			if err != nil {
				yield("", err)
				return
			}
			for _, n := range member(answer, "notificationHistory").Array() {
				if payload := member(n, "signedPayload"); payload.Type == gjson.String && !yield(payload.Str, nil) {
					return
				}
			}
			next, _ := member(answer, "paginationToken").Value().(string)
			if member(answer, "hasMore").Type != gjson.True || next == "" {
				return
			}
			path = "/inApps/v1/notifications/history?" + url.Values{"paginationToken": {next}}.Encode()
		}
	}
}

// RequestTestNotification makes Apple send a notification of type TEST to the address in App Store Connect, and returns its token.
// Errors: *PullError, and ctx's.
func (a *AppleAPI) RequestTestNotification(ctx context.Context) (token string, err error) {
	answer, err := a.call(ctx, a.places[0], http.MethodPost, "/inApps/v1/notifications/test", nil)
	if err != nil {
		return "", err
	}
	token, _ = ident(member(answer, "testNotificationToken")).(string)
	if token == "" {
		return "", &PullError{Reason: ErrAnswer, Status: http.StatusOK, Detail: "no token"}
	}
	return token, nil
}

// call asks Apple one question. Errors: *PullError, errElsewhere inside one, and ctx's.
func (a *AppleAPI) call(ctx context.Context, place applePlace, method, path string, question any) (gjson.Result, error) {
	if err := place.limit.Wait(ctx); err != nil {
		return gjson.Result{}, contextError(ctx, err)
	}
	var body io.Reader
	if question != nil {
		b, err := json.Marshal(question)
		if err != nil {
			return gjson.Result{}, fmt.Errorf("encode question: %w", err)
		}
		body = bytes.NewReader(b)
	}
	asking, cancel := context.WithTimeout(ctx, appleRequestTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(asking, method, place.base+path, body)
	if err != nil {
		return gjson.Result{}, &PullError{Reason: ErrGone, Detail: "no address can be made of it"}
	}
	token, err := a.token()
	if err != nil {
		return gjson.Result{}, &PullError{Reason: ErrCredential, Detail: "the key does not sign"}
	}
	req.Header.Set("Authorization", "Bearer "+token)
	req.Header.Set("Accept", "application/json")
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	res, err := a.client.Do(req)
	if ctx.Err() != nil {
		return gjson.Result{}, ctx.Err()
	}
	if err != nil {
		failed := &PullError{Reason: ErrUnavailable}
		if e := (*url.Error)(nil); errors.As(err, &e) {
			failed.Detail = e.Err.Error()
		}
		return gjson.Result{}, failed
	}
	defer res.Body.Close()
	b, err := io.ReadAll(io.LimitReader(res.Body, maxAppleAnswerBytes+1))
	if ctx.Err() != nil {
		return gjson.Result{}, ctx.Err()
	}
	switch {
	case res.StatusCode != http.StatusOK:
		return gjson.Result{}, a.refused(res, b)
	case err != nil:
		return gjson.Result{}, &PullError{Reason: ErrUnavailable, Status: res.StatusCode, Detail: "the answer broke off"}
	case len(b) > maxAppleAnswerBytes:
		return gjson.Result{}, &PullError{Reason: ErrAnswer, Status: res.StatusCode, Detail: "the answer is too long"}
	}
	answer, err := decodeObject(b)
	if err != nil {
		return gjson.Result{}, &PullError{Reason: ErrAnswer, Status: res.StatusCode, Detail: err.Error()}
	}
	return answer, nil
}

// refused says what to do about an answer that is none. Of its text nothing is kept but Apple's number.
func (a *AppleAPI) refused(res *http.Response, body []byte) error {
	failed := &PullError{Reason: ErrAnswer, Status: res.StatusCode}
	code := int64(0)
	if answer, err := decodeObject(body); err == nil {
		code, _ = number(member(answer, "errorCode")).(int64)
	}
	if code != 0 {
		failed.Detail = "Apple's error " + strconv.FormatInt(code, 10)
	}
	switch {
	case code == appleErrorTransactionNotFound, code == appleErrorOriginalNotFound:
		failed.Reason = errElsewhere
	case res.StatusCode == http.StatusTooManyRequests:
		failed.Reason, failed.RetryAfter = ErrLimited, a.retryAfter(res.Header.Get("Retry-After"))
	case res.StatusCode == http.StatusUnauthorized, res.StatusCode == http.StatusForbidden:
		failed.Reason = ErrCredential
	case res.StatusCode >= http.StatusInternalServerError, res.StatusCode == http.StatusRequestTimeout, slices.Contains(appleRetryable, code):
		failed.Reason = ErrUnavailable
	case code == appleErrorBadTransaction, code == appleErrorBadOriginal, res.StatusCode == http.StatusNotFound:
		failed.Reason = ErrGone
	}
	return failed
}

// retryAfter reads Apple's form of it: a time, Unix milliseconds. Taken for seconds to wait it would be for ever.
func (a *AppleAPI) retryAfter(text string) time.Duration {
	ms, err := strconv.ParseInt(text, 10, 64)
	if err != nil || ms <= 0 || ms > maxAppleMillis {
		return 0
	}
	return min(max(time.UnixMilli(ms).Sub(a.now()), 0), maxRetryAfter)
}

// token makes a JWT for the API.
func (a *AppleAPI) token() (string, error) {
	now := a.now().Unix()
	header, err := json.Marshal(map[string]string{"alg": "ES256", "kid": a.keyID, "typ": "JWT"})
	if err != nil {
		return "", err
	}
	claims, err := json.Marshal(map[string]any{"iss": a.issue, "iat": now, "exp": now + int64(appleTokenLife/time.Second), "aud": "appstoreconnect-v1", "bid": a.apple.bundle})
	if err != nil {
		return "", err
	}
	input := base64URL.EncodeToString(header) + "." + base64URL.EncodeToString(claims)
	sum := sha256.Sum256([]byte(input))
	r, s, err := ecdsa.Sign(rand.Reader, a.key, sum[:])
	if err != nil {
		return "", err
	}
	signature := make([]byte, es256SignatureBytes)
	r.FillBytes(signature[:es256SignatureBytes/2])
	s.FillBytes(signature[es256SignatureBytes/2:])
	return input + "." + base64URL.EncodeToString(signature), nil
}
