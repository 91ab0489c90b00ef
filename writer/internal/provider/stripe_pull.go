package provider

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/stripe/stripe-go/v76"
	"github.com/stripe/stripe-go/v76/form"
	"golang.org/x/time/rate"

	"github.com/tidwall/gjson"

	"github.com/latchkey/latchkey/pkg/entitlement"
)

const (
	// stripeVersion is the API version that we ask for. Answers are read by our own shapes, so it need not be the library's: basil is the first with a
	// period of its own on each item and with invoice payments, and both shapes are read alike.
	stripeVersion = "2025-03-31.basil"

	// stripeVersionBefore is the last one in which a charge names its invoice: that of a payment which has no payment intent is told by nothing else.
	stripeVersionBefore = "2025-02-24.acacia"

	// stripeRequestsPerSecond leaves most of what Stripe allows an account (100 a second, 25 in a sandbox) to the merchant's own backend.
	stripeRequestsPerSecond = 10
	stripeBurst             = 10

	// stripeRequestTimeout is how long one request may take. Stripe answers in a second; what takes longer is asked again.
	stripeRequestTimeout = 10 * time.Second

	// maxStripeAnswerBytes bounds one answer. A session with 100 line items is about 100 KiB.
	maxStripeAnswerBytes = 4 << 20

	// A list comes with the object by tens; the rest is asked for by pages. What is longer than 2000 stays partial.
	stripePageSize = 100
	maxStripePages = 20

	// stripePaidInvoices is how many of a subscription's paid invoices are looked at, from the newest on: a change of plan makes some of their own.
	stripePaidInvoices = 3

	// maxRetryAfter bounds what an answer can make us wait.
	maxRetryAfter = 10 * time.Minute
)

// pullPrefix begins the type of an event that we made of a pulled answer, before the kind of the object.
const pullPrefix = "pull."

// stripePull says how an object is asked for and how the answer is read.
type stripePull struct {
	stripeType
	path   string // with the id
	expand []string
	list   string // the field with a list that may be cut
	more   string // where the rest of it is, with the id
}

// stripePulls are the objects that can be asked for. Expanding brings in one request what would need another one to be tied together.
var stripePulls = map[entitlement.ObjectKind]stripePull{
	entitlement.KindSubscription: {stripeType{"subscription", with(with(stripeSubscription, "latest_invoice", named(stripeInvoice)), "paid_invoices", page(stripeInvoice)), (*stripeMessage).pulledSubscription},
		"/v1/subscriptions/%s", []string{"latest_invoice.payments"}, "items", "/v1/subscription_items?subscription=%s"},
	entitlement.KindInvoice: {invoiceEvent, "/v1/invoices/%s", []string{"payments"}, "lines", "/v1/invoices/%s/lines"},
	entitlement.KindPayment: {invoicePaymentEvent, "/v1/invoice_payments/%s", nil, "", ""},
	entitlement.KindCharge:  {chargeEvent, "/v1/charges/%s", nil, "", ""},
	entitlement.KindRefund: {stripeType{"refund", with(stripeRefund, "charge", named(stripeCharge)), (*stripeMessage).pulledRefund},
		"/v1/refunds/%s", []string{"charge"}, "", ""},
	entitlement.KindDispute: {stripeType{"dispute", with(stripeDispute, "closed_at", number), (*stripeMessage).pulledDispute}, "/v1/disputes/%s", nil, "", ""},
	entitlement.KindCheckout: {stripeType{"checkout.session", with(stripeCheckout, "payment_intent", named(stripeIntent)), (*stripeMessage).pulledCheckout},
		"/v1/checkout/sessions/%s", []string{"line_items", "payment_intent"}, "line_items", "/v1/checkout/sessions/%s/line_items"},
}

var stripeIntent = map[string]keep{"id": ident, "object": word, "status": word}

// with returns the shape with another way of keeping one field.
func with(shape map[string]keep, name string, k keep) map[string]keep {
	shape = maps.Clone(shape)
	shape[name] = k
	return shape
}

// plain returns o with an expanded object replaced by its id, as webhooks have it.
func (o object) plain(name string) object {
	out := maps.Clone(o)
	delete(out, name)
	if id := o.in(name).text("id"); id != "" {
		out[name] = id
	}
	return out
}

// pulledSubscription is a subscription with its latest invoice, and those that were paid before it where they were asked for.
func (m *stripeMessage) pulledSubscription(o object) error {
	if err := m.subscription(o.plain("latest_invoice")); err != nil {
		return err
	}
	latest := o.in("latest_invoice")
	if latest.text("status") != "" {
		if err := m.invoice(latest); err != nil {
			return err
		}
	}
	for _, paid := range o.list("paid_invoices").Data {
		if paid.text("id") == latest.text("id") {
			continue // one state of it is enough
		}
		if err := m.invoice(paid); err != nil {
			return err
		}
	}
	return nil
}

// completeSubscription adds to a subscription whose latest invoice is not paid those that were: until when it is paid is said by them alone, and the messages
// about them may be lost. complete is the answer with its whole list.
func (a *StripeAPI) completeSubscription(ctx context.Context, id string, answer gjson.Result, complete string) (string, error) {
	switch entitlement.SubscriptionStatus(member(answer, "status").String()) {
	case entitlement.PastDue, entitlement.Unpaid, entitlement.Paused:
	default:
		return complete, nil
	}
	asked := query("subscription", id, "status", string(entitlement.InvoicePaid), "limit", strconv.Itoa(stripePaidInvoices), "expand[]", "data.payments")
	paid, _, err := a.part(ctx, "/v1/invoices", asked, stripeVersion)
	if err != nil || !paid.Exists() {
		return complete, err
	}
	return fmt.Sprintf(`%s,"paid_invoices":%s}`, strings.TrimSuffix(strings.TrimSpace(complete), "}"), paid.Raw), nil
}

// pulledRefund is a refund with its charge, whose running total it changed.
func (m *stripeMessage) pulledRefund(o object) error {
	if err := m.refund(o.plain("charge")); err != nil {
		return err
	}
	if charge := o.in("charge"); charge["amount"] != nil {
		return m.charge(charge)
	}
	return nil
}

// pulledCheckout is a session at any time of its life, where webhooks show finished ones alone. Whether a delayed payment failed
// is told by the payment intent: the session goes on saying unpaid.
func (m *stripeMessage) pulledCheckout(o object) error {
	session := o.plain("payment_intent")
	switch o.text("status") {
	case "open":
		session["mode"] = entitlement.CheckoutUnfinished
	case "expired":
		session["mode"] = entitlement.CheckoutExpired
	default:
		intent := o.in("payment_intent").text("status")
		if o.text("payment_status") == entitlement.CheckoutUnpaid && (intent == "requires_payment_method" || intent == "canceled") {
			session["payment_status"] = entitlement.CheckoutFailed
		}
	}
	return m.checkout(session)
}

// StripeAPIConfig is what NewStripeAPI needs.
type StripeAPIConfig struct {
	// Key is a secret or, better, a restricted key ("rk_...") that may read subscriptions, invoices, charges, refunds, disputes, payment intents,
	// checkout sessions and events.
	Key string
	// BaseURL is where Stripe is. Empty is https://api.stripe.com. http:// is for loopback addresses.
	BaseURL string
	// Environment is whose objects they are: an answer of another mode is refused, and so is a key that says so itself.
	Environment entitlement.Environment
	// Now is the clock that gives answers their version. Nil is time.Now.
	Now func() time.Time
}

// StripeAPI asks Stripe for the present state of objects.
type StripeAPI struct {
	backend stripe.Backend
	key     string
	env     entitlement.Environment
	now     func() time.Time
	limit   *rate.Limiter
}

// Mistakes in a StripeAPIConfig, for saying which field is wrong.
var (
	ErrStripeKey  = errors.New("stripe: API key")
	ErrStripeBase = errors.New("stripe: address of the API")
)

// NewStripeAPI returns a Puller. Errors: ErrStripeKey, ErrStripeBase; they do not quote the key.
func NewStripeAPI(c StripeAPIConfig) (*StripeAPI, error) {
	if err := checkStripeKey(c.Key, c.Environment); err != nil {
		return nil, err
	}
	if err := CheckStripeBase(c.BaseURL); err != nil {
		return nil, err
	}
	if c.BaseURL == "" {
		c.BaseURL = stripe.APIURL
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	backend := stripe.GetBackendWithConfig(stripe.APIBackend, &stripe.BackendConfig{
		URL:               stripe.String(strings.TrimSuffix(c.BaseURL, "/")),
		HTTPClient:        stripeClient(),
		EnableTelemetry:   stripe.Bool(false),
		MaxNetworkRetries: stripe.Int64(0), // the library sleeps without looking at the context; the caller repeats
		// The library logs parts of bodies.
		LeveledLogger: &stripe.LeveledLogger{Level: stripe.LevelNull},
	})
	return &StripeAPI{backend: backend, key: c.Key, env: c.Environment, now: c.Now, limit: pace(c.BaseURL, stripeRequestsPerSecond, stripeBurst)}, nil
}

func checkStripeKey(key string, env entitlement.Environment) error {
	kind, _, _ := strings.Cut(key, "_")
	if !isText(key, maxIDBytes, func(c byte) bool { return isAlnum(c) || c == '_' }) || kind != "sk" && kind != "rk" {
		return fmt.Errorf("%w: want one that begins with sk_ or rk_", ErrStripeKey)
	}
	if wrong := map[entitlement.Environment]string{entitlement.Production: "_test_", entitlement.Sandbox: "_live_"}[env]; strings.Contains(key, wrong) {
		return fmt.Errorf("%w: it is one of the other environment", ErrStripeKey)
	}
	return nil
}

// CheckStripeBase returns ErrStripeBase for an address that the key may not be sent to, or nil. Empty is Stripe's own.
func CheckStripeBase(base string) error {
	if u, err := url.Parse(base); err == nil && strings.Trim(u.Path, "/") != "" {
		return fmt.Errorf("%w: want https://host", ErrStripeBase)
	}
	return checkBase(base, ErrStripeBase)
}

// stripeClient waits for an answer as long as a request may take.
func stripeClient() *http.Client {
	transport := keyTransport(stripeBurst)
	transport.ResponseHeaderTimeout = stripeRequestTimeout
	return keyClient(stripeTransport{transport})
}

// stripeTransport notes what the library does not hand on, and bounds what it reads.
type stripeTransport struct{ http.RoundTripper }

// stripeHead is what came before the body of an answer.
type stripeHead struct {
	status int
	header http.Header
}

type stripeHeadKey struct{}

func (t stripeTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	res, err := t.RoundTripper.RoundTrip(r)
	if err != nil {
		return res, err
	}
	if head, ok := r.Context().Value(stripeHeadKey{}).(*stripeHead); ok {
		head.status, head.header = res.StatusCode, res.Header
	}
	res.Body = struct {
		io.Reader
		io.Closer
	}{io.LimitReader(res.Body, maxStripeAnswerBytes), res.Body}
	return res, nil
}

// Provider returns entitlement.Stripe.
func (a *StripeAPI) Provider() entitlement.Provider { return entitlement.Stripe }

// Targets returns the doubts themselves: Stripe can be asked for each of its objects, and is for all but closed disputes.
func (a *StripeAPI) Targets(e entitlement.Evidence, doubts []entitlement.Doubt) []entitlement.Doubt {
	return slices.DeleteFunc(slices.Clone(doubts), func(d entitlement.Doubt) bool {
		_, ok := stripePulls[d.Kind]
		return !ok || d.Kind == entitlement.KindDispute && slices.ContainsFunc(e.Objects, func(o entitlement.Object) bool {
			// Since when a closed one is lost its message has said exactly. An answer does so for as long as Stripe keeps that: later it would be newer than terms that
			// were paid since the loss, and take them back.
			return o.Dispute != nil && o.ID == d.ID && disputeClosed[o.Dispute.Status] && !o.Tied && !o.Partial
		})
	})
}

// Pull asks for an object, with what is expanded in it and the rest of its list.
func (a *StripeAPI) Pull(ctx context.Context, kind entitlement.ObjectKind, id string) (entitlement.Event, error) {
	pull, ok := stripePulls[kind]
	if !ok || !isIdent(id) {
		return entitlement.Event{}, &PullError{Reason: ErrGone, Detail: "Stripe cannot be asked for it"}
	}
	if kind == entitlement.KindPayment && isPayment(id) {
		return a.pullPaid(ctx, id)
	}
	if err := a.limit.Wait(ctx); err != nil {
		return entitlement.Event{}, contextError(ctx, err)
	}
	query := &form.Values{}
	for _, name := range pull.expand {
		query.Add("expand[]", name)
	}
	left := a.now()
	answer, head, err := a.get(ctx, stripe.FormatURLPath(pull.path, id), query)
	if err != nil {
		return entitlement.Event{}, err
	}
	got, _ := fields(map[string]keep{"id": ident, "object": word, "livemode": flag, "charge": named(map[string]keep{"livemode": flag})})(answer).(object)
	if got.text("id") != id || got.text("object") != pull.object {
		return entitlement.Event{}, &PullError{Reason: ErrAnswer, Status: head.status, Detail: "another object than was asked for"}
	}
	if err := a.checkMode(kind, got); err != nil {
		return entitlement.Event{}, err
	}
	complete, err := a.completeList(ctx, pull, id, answer)
	switch {
	case err != nil:
	case kind == entitlement.KindDispute:
		complete, err = a.completeDispute(ctx, answer, left)
	case kind == entitlement.KindSubscription:
		complete, err = a.completeSubscription(ctx, id, answer, complete)
	}
	if err != nil {
		return entitlement.Event{}, err
	}
	ev, err := readStripe(pulledMessage(fmt.Sprintf("%s:%d", id, left.UnixNano()), kind, version(left, head.header), a.env, complete), a.env)
	if err != nil {
		return entitlement.Event{}, &PullError{Reason: ErrAnswer, Status: head.status, Detail: err.Error()}
	}
	return ev, nil
}

// pulledMessage is an answer in the shape of a message, so that it is read like one. object is JSON.
func pulledMessage(id string, kind entitlement.ObjectKind, created int64, env entitlement.Environment, object string) gjson.Result {
	return gjson.Parse(fmt.Sprintf(`{"id":"pull:%s","object":"event","type":"%s%s","api_version":"%s","created":%d,"livemode":%t,"data":{"object":%s}}`,
		id, pullPrefix, kind, stripeVersion, created, env == entitlement.Production, object))
}

// version is that of an answer: the second in which its request left, Unix seconds. Not a part of it: Stripe's events have whole seconds, so a change
// later in the same second would look older than the answer and be lost, while two states of one second are seen to be a tie and asked for again.
// Where our clock is ahead of Stripe's, Stripe's counts, for the same reason.
func version(left time.Time, header http.Header) int64 {
	at := left.Unix()
	if date, err := http.ParseTime(header.Get("Date")); err == nil {
		at = min(at, date.Unix())
	}
	return at
}

// checkMode refuses an answer of the other mode. A refund does not say its own; its charge does.
func (a *StripeAPI) checkMode(kind entitlement.ObjectKind, got object) error {
	if kind == entitlement.KindRefund {
		charge := got.in("charge")
		if _, there := charge["livemode"]; !there {
			return nil // a refund without a charge, of a payment that was not by card
		}
		got = charge
	}
	if live, there := got["livemode"].(bool); !there || live != (a.env == entitlement.Production) {
		return &PullError{Reason: ErrOtherEnvironment, Detail: "livemode"}
	}
	return nil
}

// completeList asks for what a list in answer lacks, and returns the answer's JSON with the whole list. Of two members of one name
// the last counts: the whole list is added at the end.
func (a *StripeAPI) completeList(ctx context.Context, pull stripePull, id string, answer gjson.Result) (string, error) {
	list := member(answer, pull.list)
	data, more := member(list, "data").Array(), member(list, "has_more").Type == gjson.True
	first := len(data)
	for range maxStripePages {
		if !more || len(data) == 0 {
			break
		}
		after, _ := ident(member(data[len(data)-1], "id")).(string)
		if after == "" {
			break // it stays cut
		}
		if err := a.limit.Wait(ctx); err != nil {
			return "", contextError(ctx, err)
		}
		path, extra, _ := strings.Cut(stripe.FormatURLPath(pull.more, id), "?")
		query := &form.Values{}
		if name, value, ok := strings.Cut(extra, "="); ok {
			query.Add(name, value)
		}
		query.Add("limit", strconv.Itoa(stripePageSize))
		query.Add("starting_after", after)
		page, _, err := a.get(ctx, path, query)
		if err != nil {
			return "", err
		}
		next := member(page, "data").Array()
		data, more = append(data, next...), member(page, "has_more").Type == gjson.True && len(next) > 0
	}
	if len(data) == first {
		return answer.Raw, nil
	}
	elements := make([]string, len(data))
	for i, element := range data {
		elements[i] = element.Raw
	}
	return fmt.Sprintf(`%s,"%s":{"data":[%s],"has_more":%t}}`, strings.TrimSuffix(strings.TrimSpace(answer.Raw), "}"), pull.list, strings.Join(elements, ","), more), nil
}

// rawAnswer takes an answer's bytes past the library's own types, which fit one version of the API alone.
type rawAnswer struct {
	stripe.APIResource
	body []byte
}

func (r *rawAnswer) UnmarshalJSON(b []byte) error {
	r.body = bytes.Clone(b)
	return nil
}

func (a *StripeAPI) get(ctx context.Context, path string, query *form.Values) (gjson.Result, *stripeHead, error) {
	return a.call(ctx, http.MethodGet, path, query, stripeVersion)
}

func (a *StripeAPI) call(ctx context.Context, method, path string, query *form.Values, version string) (gjson.Result, *stripeHead, error) {
	head := &stripeHead{header: http.Header{}}
	asking, cancel := context.WithTimeout(context.WithValue(ctx, stripeHeadKey{}, head), stripeRequestTimeout)
	defer cancel()
	var answer rawAnswer
	err := a.backend.CallRaw(method, path, a.key, query, &stripe.Params{Context: asking, Headers: http.Header{
		"Stripe-Version":             {version},
		"X-Stripe-Client-User-Agent": {`{"lang":"go","publisher":"stripe"}`}, // the library's own names this machine
	}}, &answer)
	if ctx.Err() != nil {
		return gjson.Result{}, head, ctx.Err()
	}
	if head.status == http.StatusOK && err == nil {
		m, err := decodeObject(answer.body)
		if err != nil {
			return gjson.Result{}, head, head.fail(ErrAnswer, err.Error())
		}
		return m, head, nil
	}
	return gjson.Result{}, head, head.classify(err)
}

// classify says what to do about an answer that is none. err comes from the library and may hold parts of the body: its text goes nowhere.
func (h *stripeHead) classify(err error) error {
	var said *stripe.Error
	missing := errors.As(err, &said) && said.Code == stripe.ErrorCodeResourceMissing
	switch {
	case h.status == 0:
		detail := ""
		if failed := (*url.Error)(nil); errors.As(err, &failed) {
			detail = failed.Err.Error()
		}
		return h.fail(ErrUnavailable, detail)
	case h.status == http.StatusUnauthorized, h.status == http.StatusForbidden:
		return h.fail(ErrCredential, "")
	case h.status == http.StatusNotFound && missing:
		return h.fail(ErrGone, "")
	case h.status == http.StatusTooManyRequests:
		return h.fail(ErrLimited, "")
	case h.status >= http.StatusInternalServerError, h.status == http.StatusConflict, h.status == http.StatusRequestTimeout:
		return h.fail(ErrUnavailable, "")
	case h.status == http.StatusOK && err != nil:
		return h.fail(ErrUnavailable, "the answer broke off or is no JSON")
	}
	return h.fail(ErrAnswer, "")
}

func (h *stripeHead) fail(reason error, detail string) error {
	e := &PullError{Reason: reason, Status: h.status, RequestID: h.header.Get("Request-Id"), Detail: detail}
	if !isIdent(e.RequestID) {
		e.RequestID = ""
	}
	after := h.header.Get("Retry-After")
	if seconds, err := strconv.Atoi(after); err == nil && seconds > 0 {
		e.RetryAfter = min(time.Duration(seconds)*time.Second, maxRetryAfter)
	} else if at, err := http.ParseTime(after); err == nil {
		if date, err := http.ParseTime(h.header.Get("Date")); err == nil {
			e.RetryAfter = min(max(at.Sub(date), 0), maxRetryAfter)
		}
	}
	return e
}

// contextError prefers the context's own word to the limiter's, which gives up before a deadline that it would miss.
func contextError(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return &PullError{Reason: ErrLimited, Detail: err.Error()}
}
