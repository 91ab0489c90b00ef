package edge

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/valyala/fasthttp"

	"github.com/latchkey/latchkey/pkg/problem"
	"github.com/latchkey/latchkey/replication"
)

// What an app writes is passed on to a writer as it came, so that an app needs one address. The edge judges nothing of it: the writer checks the app's
// credential itself, and its answer goes back as it is.

const (
	// maxReceiptsBody is what the writers take, and receiptsReadTimeout how long it may take to arrive over a slow network.
	maxReceiptsBody     = 512 << 10
	receiptsReadTimeout = 10 * time.Second
	// maxRelayedBody bounds every other body: two tokens and some ids.
	maxRelayedBody = 16 << 10
	// relayTimeout is longer than a writer takes: it asks providers for some seconds.
	relayTimeout = 20 * time.Second
	// relayPatience is how long one writer may be silent before another is asked as well. It is longer than most answers take, and short enough that
	// two writers that hang leave an app with a usual timeout of 10 s its answer.
	relayPatience = 3 * time.Second
	// maxRelays bounds the requests that are under way at a writer, each of which holds a body and an answer.
	maxRelays = 64
	// maxRelayedAnswer bounds an answer: 50 results beside the largest record that there is.
	maxRelayedAnswer = 1 << 20
)

// relayedRoute is a route that is passed on.
type relayedRoute struct {
	method, path string // a {name} in the path stands for one segment of it
	body         int    // bytes, at most

	// keyed: a repeat without an Idempotency-Key would be done once more, so the edge adds one where the app sent none. See relay.
	keyed bool
	// begins: it makes an account, which a client may ask for now and then only.
	begins bool
	// guessed: a secret stands in the path, about which a client may be wrong now and then only.
	guessed bool
}

var relayedRoutes = []relayedRoute{
	{method: fasthttp.MethodPost, path: "/v1/receipts", body: maxReceiptsBody},
	{method: fasthttp.MethodPost, path: "/v1/restores", body: maxReceiptsBody},
	{method: fasthttp.MethodPost, path: "/v1/purchase-intents", body: maxRelayedBody, keyed: true},
	{method: fasthttp.MethodDelete, path: "/v1/purchase-intents/{intent_id}", body: maxRelayedBody},
	{method: fasthttp.MethodPost, path: "/v1/purchase-intents/{intent_id}/submitted", body: maxRelayedBody, keyed: true},
	{method: fasthttp.MethodPost, path: "/v1/sessions", body: maxRelayedBody, keyed: true, begins: true},
	{method: fasthttp.MethodPost, path: "/v1/sessions/login", body: maxRelayedBody, keyed: true},
	{method: fasthttp.MethodPost, path: "/v1/link-tokens/{token}/redeem", body: maxRelayedBody, keyed: true},
	{method: fasthttp.MethodPost, path: "/v1/redemption-codes/{code}/redeem", body: maxRelayedBody, keyed: true, guessed: true},
	{method: fasthttp.MethodPost, path: "/v1/devices", body: maxRelayedBody, keyed: true},
	{method: fasthttp.MethodPost, path: "/v1/sessions/logout", body: maxRelayedBody, keyed: true, begins: true},
}

// relayed returns the route of a request that is passed on, nil for any other. path is as the client wrote it, without a query.
func relayed(method, path string) *relayedRoute {
	for i := range relayedRoutes {
		if r := &relayedRoutes[i]; r.method == method && matches(r.path, path) {
			return r
		}
	}
	return nil
}

func matches(pattern, path string) bool {
	for pattern != "" && path != "" {
		want, patternRest, more := strings.Cut(pattern, "/")
		have, pathRest, pathMore := strings.Cut(path, "/")
		if more != pathMore || want != have && (!strings.HasPrefix(want, "{") || !plain(have)) {
			return false
		}
		pattern, path = patternRest, pathRest
	}
	return pattern == path
}

// plain reports whether a segment of a path is what it looks like to every reader: ids and tokens are.
func plain(segment string) bool {
	return strings.Trim(segment, ".") != "" && !strings.ContainsFunc(segment, func(r rune) bool {
		return (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && !strings.ContainsRune("-_.~:", r)
	})
}

// pathOf is the path of a request as the client wrote it.
func pathOf(h *fasthttp.RequestHeader) string {
	path, _, _ := strings.Cut(view(h.RequestURI()), "?")
	return path
}

// config is what the route takes that others do not.
func (r *relayedRoute) config() fasthttp.RequestConfig {
	return fasthttp.RequestConfig{MaxRequestBodySize: r.body, ReadTimeout: receiptsReadTimeout, WriteTimeout: relayTimeout + writeTimeout}
}

// relayedHeaders go to the writer, and answeredHeaders back to the app.
var (
	relayedHeaders  = []string{fasthttp.HeaderAuthorization, fasthttp.HeaderContentType, idempotencyHeader}
	answeredHeaders = []string{fasthttp.HeaderContentType, fasthttp.HeaderCacheControl, fasthttp.HeaderRetryAfter, fasthttp.HeaderWWWAuthenticate, "Request-Id"}
)

// What became of a request that was to be passed on, in the words of the metrics.
const (
	relayAnswered    = "answered"    // by the writer that this edge follows
	relayElsewhere   = "elsewhere"   // by another one, because that one did not
	relayUnavailable = "unavailable" // by none
	relayBusy        = "busy"        // too many were under way
)

const idempotencyHeader = "Idempotency-Key"

// errNoWriter means that no writer gave an answer that can be passed back.
var errNoWriter = errors.New("no answer of a writer")

// handleRelay passes a request on.
func (e *Edge) handleRelay(ctx *fasthttp.RequestCtx, route *relayedRoute) error {
	if route.begins {
		if err := e.clients.admitNew(ctx); err != nil {
			e.metrics.limitedBegin.Inc()
			return err
		}
	}
	if route.guessed {
		if err := e.clients.admitGuess(ctx); err != nil {
			e.metrics.limitedGuess.Inc()
			return err
		}
	}
	select {
	case e.relays <- struct{}{}:
		defer func() { <-e.relays }()
	default:
		e.metrics.relays.WithLabelValues(relayBusy).Inc()
		return problem.New(problem.Unavailable, "This edge passes too much on already.").After(retryAfter)
	}
	// ctx's own memory ends with the request.
	asked := relayedRequest{method: route.method, path: strings.Clone(pathOf(&ctx.Request.Header)), header: http.Header{}, body: bytes.Clone(ctx.PostBody())}
	for _, name := range relayedHeaders {
		if value := ctx.Request.Header.Peek(name); len(value) > 0 {
			asked.header.Set(name, string(value))
		}
	}
	if route.keyed && asked.header.Get(idempotencyHeader) == "" {
		asked.header.Set(idempotencyHeader, rand.Text())
	}
	answer, outcome, err := e.relay(asked)
	e.metrics.relays.WithLabelValues(outcome).Inc()
	if err != nil {
		e.log.LogAttrs(e.logContext(), slog.LevelWarn, "request not passed on", slog.String("request_id", requestID(ctx)), slog.Any("error", err))
		return problem.New(problem.Unavailable, "No writer answers this edge now.").After(retryAfter)
	}
	for _, name := range answeredHeaders {
		if value := answer.header.Get(name); value != "" {
			ctx.Response.Header.Set(name, value)
		}
	}
	if route.guessed && answer.status == http.StatusNotFound {
		e.clients.wrongGuess(ctx)
	}
	ctx.SetStatusCode(answer.status)
	ctx.SetBody(answer.body)
	return nil
}

// relayedRequest is a request as the app sent it.
type relayedRequest struct {
	method string
	path   string
	header http.Header
	body   []byte
}

// relayedAnswer is what one writer answered.
type relayedAnswer struct {
	status int
	header http.Header
	body   []byte
	err    error // errNoWriter: none came
	first  bool  // of the writer that this edge follows
}

// serves reports whether the writer did its part. One that says 503 could not, and another may: it may be cut off from the others.
func (a relayedAnswer) serves() bool {
	return a.err == nil && a.status != http.StatusServiceUnavailable
}

// relay asks the writer that this edge follows, and the next one where that one fails or is silent for relayPatience, and returns the first answer of
// one that serves; where none does, what the last one said. A request may so be done by several writers at once, or once more after it was done:
// whatever is passed on must be harmless to repeat. Receipts are: the same proof is recorded once, and a purchase is claimed from nobody. What makes
// something new is, under its Idempotency-Key.
// Error: errNoWriter.
func (e *Edge) relay(asked relayedRequest) (relayedAnswer, string, error) {
	within, cancel := context.WithTimeout(e.logContext(), relayTimeout)
	defer cancel() // ends what is still under way at others
	writers := e.follower.Clients()
	answers := make(chan relayedAnswer, len(writers))
	next, waiting := 0, 0
	patience := time.NewTimer(relayPatience)
	defer patience.Stop()
	askNext := func() {
		if next == len(writers) {
			return
		}
		client, first := writers[next], next == 0
		next, waiting = next+1, waiting+1
		go func() {
			answer := relayTo(within, client, asked)
			answer.first = first
			answers <- answer
		}()
		patience.Reset(relayPatience)
	}
	last := relayedAnswer{err: errNoWriter}
	for askNext(); waiting > 0; {
		select {
		case <-patience.C:
			askNext()
		case answer := <-answers:
			waiting--
			switch {
			case answer.serves() && answer.first:
				return answer, relayAnswered, nil
			case answer.serves():
				return answer, relayElsewhere, nil
			case answer.err == nil || last.err != nil: // what a writer says tells more than that one says nothing
				last = answer
			}
			askNext()
		}
	}
	return last, relayUnavailable, last.err
}

// relayTo passes a request on to one writer.
func relayTo(ctx context.Context, client *replication.Client, asked relayedRequest) relayedAnswer {
	req, err := http.NewRequestWithContext(ctx, asked.method, client.Base()+asked.path, bytes.NewReader(asked.body))
	if err != nil {
		return relayedAnswer{err: fmt.Errorf("%w: %w", errNoWriter, err)}
	}
	req.Header = asked.header.Clone()
	resp, err := client.HTTP().Do(req)
	if failed := (*url.Error)(nil); errors.As(err, &failed) {
		err = failed.Err // its own text has the address, in which a secret may stand
	}
	if err != nil {
		return relayedAnswer{err: fmt.Errorf("%w: %w", errNoWriter, err)}
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxRelayedAnswer+1))
	switch {
	case err != nil:
		return relayedAnswer{err: fmt.Errorf("%w: %w", errNoWriter, err)}
	case len(body) > maxRelayedAnswer:
		return relayedAnswer{err: fmt.Errorf("%w: it is longer than %d bytes", errNoWriter, maxRelayedAnswer)}
	}
	return relayedAnswer{status: resp.StatusCode, header: resp.Header, body: body}
}
