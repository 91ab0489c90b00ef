package provider

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tidwall/gjson"
	"golang.org/x/time/rate"

	"github.com/latchkey/latchkey/pkg/entitlement"
)

const (
	// Web2WaveBase is where Web2Wave's API is.
	Web2WaveBase = "https://api.web2wave.com/api"

	// web2waveRequestsPerSecond is what the playbooks of its own SDKs keep to. No limit is documented.
	web2waveRequestsPerSecond = 2
	web2waveBurst             = 2

	// web2waveRequestTimeout is how long one request may take.
	web2waveRequestTimeout = 10 * time.Second

	// maxWeb2WaveAnswerBytes bounds one answer, maxWeb2WaveRows what is read of it: nobody has so many subscriptions.
	maxWeb2WaveAnswerBytes = 1 << 20
	maxWeb2WaveRows        = 200
)

// Mistakes in a Web2WaveAPIConfig, for saying which field is wrong.
var (
	ErrWeb2WaveKey  = errors.New("web2wave: API key")
	ErrWeb2WaveBase = errors.New("web2wave: address of the API")
)

// Web2WaveAPIConfig is what NewWeb2WaveAPI needs.
type Web2WaveAPIConfig struct {
	// Key is the project's API key.
	Key string
	// BaseURL is where the API is. Empty is Web2WaveBase. http:// is for loopback addresses.
	BaseURL string
	// Environment is whose subscriptions they are: rows of the other one are passed over.
	Environment entitlement.Environment
	// Now is the clock that gives answers their version. Nil is time.Now.
	Now func() time.Time
}

// Web2WaveAPI asks Web2Wave for all that a customer has. It reads and never writes: cancelling, refunding and charging are no matter of ours.
type Web2WaveAPI struct {
	client *http.Client
	base   string
	key    string
	env    entitlement.Environment
	now    func() time.Time
	limit  *rate.Limiter
}

// NewWeb2WaveAPI returns a Puller. Errors: ErrWeb2WaveKey, ErrWeb2WaveBase; they do not quote the key.
func NewWeb2WaveAPI(c Web2WaveAPIConfig) (*Web2WaveAPI, error) {
	if !isText(c.Key, maxIDBytes, func(b byte) bool { return '!' <= b && b <= '~' }) {
		return nil, fmt.Errorf("%w: want 1 to %d characters without blanks", ErrWeb2WaveKey, maxIDBytes)
	}
	if err := CheckWeb2WaveBase(c.BaseURL); err != nil {
		return nil, err
	}
	if c.BaseURL == "" {
		c.BaseURL = Web2WaveBase
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	return &Web2WaveAPI{client: keyClient(keyTransport(web2waveBurst)), base: strings.TrimRight(c.BaseURL, "/"), key: c.Key, env: c.Environment, now: c.Now,
		limit: pace(c.BaseURL, web2waveRequestsPerSecond, web2waveBurst)}, nil
}

// CheckWeb2WaveBase returns ErrWeb2WaveBase for an address that the key may not be sent to, or nil. Empty is Web2WaveBase.
func CheckWeb2WaveBase(base string) error {
	return checkBase(base, ErrWeb2WaveBase)
}

// Provider returns entitlement.Web2Wave.
func (a *Web2WaveAPI) Provider() entitlement.Provider { return entitlement.Web2Wave }

// Targets returns the customer, who is all that Web2Wave can be asked about. What is open about an evidence without one is left out.
func (a *Web2WaveAPI) Targets(e entitlement.Evidence, doubts []entitlement.Doubt) []entitlement.Doubt {
	var out []entitlement.Doubt
	add := func(id string, from int64) {
		if at := slices.IndexFunc(out, func(d entitlement.Doubt) bool { return d.ID == id }); at >= 0 {
			out[at].From = max(out[at].From, from)
		} else {
			out = append(out, entitlement.Doubt{Kind: entitlement.KindCustomer, ID: id, From: from, By: entitlement.Web2Wave})
		}
	}
	ended := web2waveEnded(e)
	for _, d := range doubts {
		switch {
		case d.Kind == entitlement.KindCustomer && !strings.HasPrefix(d.ID, "subscription:"):
			add(d.ID, d.From)
		case d.Kind == entitlement.KindTransaction && ended: // an answer does not tell of the terms of what has ended
		default:
			for i := range e.Objects {
				for _, alias := range e.Objects[i].Aliases {
					if e.Objects[i].By == entitlement.Web2Wave && alias.Kind == entitlement.Web2WaveUser {
						add(alias.Value, d.From)
					}
				}
			}
		}
	}
	return out
}

func web2waveEnded(e entitlement.Evidence) bool {
	for i := range e.Objects {
		if o := &e.Objects[i]; o.By == entitlement.Web2Wave && o.Renewal != nil {
			return o.Renewal.Phase == entitlement.PhaseExpired || o.Renewal.Phase == entitlement.PhaseNever
		}
	}
	return false
}

// How long after the date of a charge, and how long after the last statement, a customer is asked about without a message: Web2Wave tells neither a charge
// that failed nor a refund, and repeats no message.
const (
	web2waveChargePoll = time.Hour
	web2waveDailyPoll  = 24 * time.Hour
)

// Due returns the customer whose subscription has not ended, an hour after each date of a charge and once a day.
func (a *Web2WaveAPI) Due(e entitlement.Evidence, asked func(id string) time.Time, now time.Time) []entitlement.Doubt {
	var stated, charge time.Time
	customer := ""
	for i := range e.Objects {
		o := &e.Objects[i]
		if o.By != entitlement.Web2Wave {
			continue
		}
		for _, alias := range o.Aliases {
			if alias.Kind == entitlement.Web2WaveUser {
				customer = alias.Value
			}
		}
		switch {
		case o.Renewal != nil:
			stated = later(stated, time.Unix(0, o.At))
		case o.Transaction != nil && o.Transaction.EndsAt > 0:
			charge = later(charge, time.Unix(o.Transaction.EndsAt, 0))
		}
	}
	if customer == "" || stated.IsZero() || web2waveEnded(e) {
		return nil
	}
	last, poll := later(stated, asked(customer)), charge.Add(web2waveChargePoll)
	if charged := !charge.IsZero() && last.Before(poll) && !now.Before(poll); !charged && now.Sub(last) < web2waveDailyPoll {
		return nil
	}
	return []entitlement.Doubt{{Kind: entitlement.KindCustomer, ID: customer, By: entitlement.Web2Wave}}
}

// Pull asks for a customer's subscriptions and properties. The id may have a question behind web2waveAsked, which the answer settles too.
func (a *Web2WaveAPI) Pull(ctx context.Context, kind entitlement.ObjectKind, id string) (entitlement.Event, error) {
	customer, _, asked := strings.Cut(id, web2waveAsked)
	if kind != entitlement.KindCustomer || !isIdent(customer) {
		return entitlement.Event{}, &PullError{Reason: ErrGone, Detail: "Web2Wave cannot be asked for it"}
	}
	left, at := a.now(), int64(0)
	rows, header, err := a.get(ctx, "/user/subscriptions", "user", customer)
	gone := errors.Is(err, ErrGone)
	if err != nil && !gone {
		return entitlement.Event{}, err
	}
	at = version(left, header) * int64(time.Second)
	properties := gjson.Result{}
	if !gone {
		if properties, _, err = a.get(ctx, "/user/properties", "user", customer); err != nil && !errors.Is(err, ErrGone) {
			return entitlement.Event{}, err
		}
	}
	ev := entitlement.Event{Provider: entitlement.Web2Wave, ID: fmt.Sprintf("pull:%s:%d", customer, left.UnixNano()), Environment: a.env,
		Type: pullPrefix + string(kind), CreatedAt: at / int64(time.Second)}
	answers := []string{customer}
	if asked {
		answers = append(answers, id)
	}
	for _, answered := range answers {
		ev.Objects = append(ev.Objects, entitlement.Object{Kind: entitlement.KindCustomer, ID: answered, At: at, By: entitlement.Web2Wave,
			Customer: &entitlement.Customer{Gone: gone}, Links: []entitlement.Link{web2waveCustomerLink(customer)}})
	}
	names, keptProperties := web2waveNamesOf(properties)
	kept := list{Data: []object{}}
	elements := web2waveRows(rows)
	isReal, err := a.realPayments(ctx, customer, elements)
	if err != nil {
		return entitlement.Event{}, err
	}
	for _, element := range elements {
		o, ok := fields(web2waveSubscription)(element).(object)
		if !ok || o.text("id") == "" || len(kept.Data) == maxWeb2WaveRows {
			kept.Cut = true
			continue
		}
		if paid, told := isReal[o.text("id")]; told && paid != (a.env == entitlement.Production) {
			continue
		}
		if user := o.text("user_id"); user != "" && user != customer {
			return entitlement.Event{}, &PullError{Reason: ErrAnswer, Status: http.StatusOK, Detail: "a subscription of another customer"}
		}
		kept.Data = append(kept.Data, o)
		row := newWeb2WaveRow(o, at)
		row.customer, row.charged = customer, false // a row at rest: what its last message was about is over
		row.unsettled = row.unpaid() && at-o.time("last_charge_date").UnixNano() < int64(web2waveRaceAge) && o.text("last_charge_date") != ""
		row.read()
		row.identify(at, names)
		ev.Objects = append(ev.Objects, row.objects...)
	}
	ev.Raw = object{"user_id": customer, "subscription": kept, "properties": keptProperties}.raw()
	return ev, nil
}

// realPayments returns which subscriptions are real payments and which are tests, by their ids, as far as it is told. The rows need not say it; then the other call that lists
// them is asked, whose rows have more. A test of which neither tells is known by its message alone.
func (a *Web2WaveAPI) realPayments(ctx context.Context, customer string, rows []gjson.Result) (map[string]bool, error) {
	out := map[string]bool{}
	learn := func(rows []gjson.Result) (all bool) {
		all = true
		for _, row := range rows {
			id, _ := web2waveIdent(member(row, "id")).(string)
			if paid, told := web2waveFlag(member(row, "real_payment")).(bool); told {
				out[id] = paid
			}
			_, told := out[id]
			all = all && told
		}
		return all
	}
	if learn(rows) {
		return out, nil
	}
	listed, _, err := a.get(ctx, "/subscriptions/list", "user_id", customer)
	if err != nil && !errors.Is(err, ErrGone) && !errors.Is(err, ErrAnswer) {
		return nil, err
	}
	learn(web2waveRows(listed))
	return out, nil
}

// web2waveRows returns the subscriptions in an answer, which stand under one of three names.
func web2waveRows(answer gjson.Result) []gjson.Result {
	for _, name := range []string{"subscription", "subscriptions", "data"} {
		if rows := member(answer, name); rows.IsArray() {
			return rows.Array()
		}
	}
	return nil
}

// web2waveNamesOf reads the properties of a user.
func web2waveNamesOf(answer gjson.Result) (n web2waveNames, kept list) {
	kept.Data = []object{}
	member(answer, "properties").ForEach(func(_, v gjson.Result) bool {
		o, ok := fields(map[string]keep{"property": word, "value": web2waveValues})(v).(object)
		if _, names := web2waveAliases[o.text("property")]; ok && names {
			n.learn(o.text("property"), o.text("value"))
			kept.Data = append(kept.Data, o)
		}
		return len(kept.Data) < maxWeb2WaveRows
	})
	return n, kept
}

// get asks for one thing about a customer, whose id goes into the parameter. ErrGone is a 404, a 422 that says so, and an error inside of a 200 that says so.
func (a *Web2WaveAPI) get(ctx context.Context, path, parameter, customer string) (gjson.Result, http.Header, error) {
	if err := a.limit.Wait(ctx); err != nil {
		return gjson.Result{}, nil, contextError(ctx, err)
	}
	asking, cancel := context.WithTimeout(ctx, web2waveRequestTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(asking, http.MethodGet, a.base+path+"?"+url.Values{parameter: {customer}}.Encode(), nil)
	if err != nil {
		return gjson.Result{}, nil, &PullError{Reason: ErrGone, Detail: "no address can be made of it"}
	}
	for name, value := range map[string]string{"api-key": a.key, "Accept": "application/json", "Cache-Control": "no-cache", "Pragma": "no-cache"} {
		req.Header.Set(name, value)
	}
	res, err := a.client.Do(req)
	if err != nil {
		if ctx.Err() != nil {
			return gjson.Result{}, nil, ctx.Err()
		}
		failed := &PullError{Reason: ErrUnavailable}
		if said := (*url.Error)(nil); errors.As(err, &said) {
			failed.Detail = said.Err.Error()
		}
		return gjson.Result{}, nil, failed
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, maxWeb2WaveAnswerBytes+1))
	head := &stripeHead{status: res.StatusCode, header: res.Header}
	if ctx.Err() != nil {
		return gjson.Result{}, res.Header, ctx.Err()
	}
	if err != nil {
		return gjson.Result{}, res.Header, head.fail(ErrUnavailable, "the answer broke off")
	}
	answer, bad := decodeObject(body)
	missing := bad == nil && web2waveNotFound.MatchString(member(answer, "error_msg").Str)
	failed, _ := web2waveFlag(member(answer, "error")).(bool)
	switch s := res.StatusCode; {
	case s == http.StatusOK && bad == nil && !failed:
		return answer, res.Header, nil
	case s == http.StatusNotFound, missing && (s == http.StatusUnprocessableEntity || s == http.StatusOK):
		return gjson.Result{}, res.Header, head.fail(ErrGone, "")
	case s == http.StatusUnauthorized, s == http.StatusForbidden:
		return gjson.Result{}, res.Header, head.fail(ErrCredential, "")
	case s == http.StatusTooManyRequests:
		return gjson.Result{}, res.Header, head.fail(ErrLimited, "")
	case s >= http.StatusInternalServerError, s == http.StatusRequestTimeout:
		return gjson.Result{}, res.Header, head.fail(ErrUnavailable, "")
	case bad != nil:
		return gjson.Result{}, res.Header, head.fail(ErrAnswer, bad.Error())
	}
	return gjson.Result{}, res.Header, head.fail(ErrAnswer, "status "+strconv.Itoa(res.StatusCode)+" with an error")
}

var web2waveNotFound = regexp.MustCompile(`(?i)not found`)
