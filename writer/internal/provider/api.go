package provider

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"github.com/tidwall/gjson"
	"golang.org/x/time/rate"
)

const (
	// apiRequestTimeout is how long one request may take. What takes longer is asked again.
	apiRequestTimeout = 10 * time.Second

	// maxAPIAnswerBytes bounds one answer: a customer with a thousand purchases has about 1 MiB.
	maxAPIAnswerBytes = 4 << 20
)

// jsonAPI asks a provider that answers in JSON. It keeps to a rate, follows no redirect and asks no proxy of the environment: the key goes to
// the configured host and nowhere else.
type jsonAPI struct {
	client *http.Client
	base   string
	limit  *rate.Limiter
}

func newJSONAPI(base string, perSecond, burst int) *jsonAPI {
	return &jsonAPI{
		base:   strings.TrimRight(base, "/"),
		limit:  pace(base, rate.Limit(perSecond), burst),
		client: keyClient(keyTransport(burst)),
	}
}

// keyTransport keeps so many idle connections to a provider, and asks no proxy of the environment.
func keyTransport(connections int) inProcess {
	return inProcess{&http.Transport{
		DialContext:         (&net.Dialer{Timeout: 5 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
		TLSHandshakeTimeout: 5 * time.Second,
		MaxIdleConnsPerHost: connections,
		IdleConnTimeout:     90 * time.Second,
		ForceAttemptHTTP2:   true,
	}}
}

// keyClient follows no redirect: with keyTransport, a key goes to the configured host and nowhere else.
func keyClient(t http.RoundTripper) *http.Client {
	return &http.Client{Transport: t, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

type inProcessKey struct{}

// InProcess returns a context with which a Puller asks a handler in this process instead of a provider: simulators ask a hundred thousand times a minute.
func InProcess(ctx context.Context, providers http.Handler) context.Context {
	return context.WithValue(ctx, inProcessKey{}, providers)
}

// inProcess hands requests to the handler of their context, where it has one.
type inProcess struct{ *http.Transport }

func (t inProcess) RoundTrip(r *http.Request) (*http.Response, error) {
	handler, ok := r.Context().Value(inProcessKey{}).(http.Handler)
	if !ok {
		return t.Transport.RoundTrip(r)
	}
	if r.Body == nil {
		r.Body = http.NoBody // as a server has it
	}
	answer := inProcessAnswer{header: http.Header{}, status: http.StatusOK}
	handler.ServeHTTP(&answer, r)
	return &http.Response{StatusCode: answer.status, Header: answer.header, Body: io.NopCloser(&answer.body), ContentLength: int64(answer.body.Len()), Request: r}, nil
}

// inProcessAnswer takes a handler's answer.
type inProcessAnswer struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (a *inProcessAnswer) Header() http.Header         { return a.header }
func (a *inProcessAnswer) WriteHeader(status int)      { a.status = status }
func (a *inProcessAnswer) Write(b []byte) (int, error) { return a.body.Write(b) }

// pace keeps to what a provider allows. What answers on this machine is a simulator of one, which allows anything.
func pace(base string, limit rate.Limit, burst int) *rate.Limiter {
	if u, err := url.Parse(base); err == nil && isLoopback(u.Hostname()) {
		limit = rate.Inf
	}
	return rate.NewLimiter(limit, burst)
}

// slowTo follows what the provider says that is left of its allowance.
func (a *jsonAPI) slowTo(limit rate.Limit) {
	if a.limit.Limit() != rate.Inf {
		a.limit.SetLimit(limit)
	}
}

func isLoopback(host string) bool {
	addr, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && addr.IsLoopback()
}

// checkBase returns wrong, wrapped, for an address that a key may not be sent to, or nil. Empty is the provider's own.
func checkBase(base string, wrong error) error {
	if base == "" {
		return nil
	}
	u, err := url.Parse(base)
	if err != nil || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return fmt.Errorf("%w: want https://host", wrong)
	}
	if u.Scheme == "http" && isLoopback(u.Hostname()) {
		return nil
	}
	if u.Scheme != "https" {
		return fmt.Errorf("%w: want https://, or http:// on a loopback address: the key would be readable on the way", wrong)
	}
	return nil
}

// checkAPIKey returns wrong, wrapped, for what cannot stand in a header.
func checkAPIKey(key string, wrong error) error {
	if !isText(key, maxIDBytes, func(b byte) bool { return '!' <= b && b <= '~' }) {
		return fmt.Errorf("%w: want 1 to %d characters without blanks", wrong, maxIDBytes)
	}
	return nil
}

// get returns the answer to a question with status 200. Errors: *PullError, and ctx's. What an error says of the answer is its status.
func (a *jsonAPI) get(ctx context.Context, path string, header http.Header) (gjson.Result, *stripeHead, error) {
	return a.ask(ctx, http.MethodGet, path, header, nil)
}

// ask is get with a method and a body, nil for none. What has changed something may be answered with status 201 too.
func (a *jsonAPI) ask(ctx context.Context, method, path string, header http.Header, content []byte) (gjson.Result, *stripeHead, error) {
	head := &stripeHead{header: http.Header{}}
	if err := a.limit.Wait(ctx); err != nil {
		return gjson.Result{}, head, contextError(ctx, err)
	}
	asking, cancel := context.WithTimeout(ctx, apiRequestTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(asking, method, a.base+path, bytes.NewReader(content))
	if err != nil {
		return gjson.Result{}, head, head.fail(ErrGone, "no address can be made of it")
	}
	req.Header = header
	req.Header.Set("Accept", "application/json")
	res, err := a.client.Do(req)
	if err != nil {
		if ctx.Err() != nil {
			return gjson.Result{}, head, ctx.Err()
		}
		detail := ""
		if failed := (*url.Error)(nil); errors.As(err, &failed) {
			detail = failed.Err.Error()
		}
		return gjson.Result{}, head, head.fail(ErrUnavailable, detail)
	}
	defer res.Body.Close()
	head.status, head.header = res.StatusCode, res.Header
	body, err := io.ReadAll(io.LimitReader(res.Body, maxAPIAnswerBytes+1))
	switch {
	case ctx.Err() != nil:
		return gjson.Result{}, head, ctx.Err()
	case head.status == http.StatusUnauthorized, head.status == http.StatusForbidden:
		return gjson.Result{}, head, head.fail(ErrCredential, "")
	case head.status == http.StatusNotFound:
		return gjson.Result{}, head, head.fail(ErrGone, "")
	case head.status == http.StatusTooManyRequests:
		return gjson.Result{}, head, backingOff(head.fail(ErrLimited, ""), body)
	case head.status == http.StatusLocked:
		return gjson.Result{}, head, backingOff(head.fail(ErrUnavailable, "it is being changed"), body)
	case head.status >= http.StatusInternalServerError, head.status == http.StatusRequestTimeout, err != nil:
		return gjson.Result{}, head, backingOff(head.fail(ErrUnavailable, ""), body)
	case head.status != http.StatusOK && (head.status != http.StatusCreated || method == http.MethodGet):
		return gjson.Result{}, head, head.fail(ErrAnswer, "")
	case len(body) > maxAPIAnswerBytes:
		return gjson.Result{}, head, head.fail(ErrAnswer, "the answer is too long")
	}
	answer, err := decodeObject(body)
	if err != nil {
		return gjson.Result{}, head, head.fail(ErrAnswer, err.Error())
	}
	return answer, head, nil
}

// backingOff returns the failure with the pause that its body asks for, where that is longer than the header's: RevenueCat's backoff_ms.
func backingOff(err error, body []byte) error {
	answer, bad := decodeObject(body)
	if failed := (*PullError)(nil); bad == nil && errors.As(err, &failed) {
		ms, _ := number(member(answer, "backoff_ms")).(int64)
		failed.RetryAfter = max(failed.RetryAfter, time.Duration(min(max(ms, 0), maxRetryAfter.Milliseconds()))*time.Millisecond)
	}
	return err
}
