package edge

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/valyala/fasthttp"

	"github.com/latchkey/latchkey/pkg/entitlement"
	"github.com/latchkey/latchkey/pkg/openapi"
	"github.com/latchkey/latchkey/pkg/problem"
)

// Limits of the public listener. A check is one small request without a body: whatever is larger or slower is not one.
const (
	readTimeout  = 3 * time.Second
	writeTimeout = 5 * time.Second
	idleTimeout  = 75 * time.Second // longer than the 60 s after which apps ask again
	maxHeader    = 8 << 10          // also the size of the read buffer
	maxBody      = 4 << 10
	maxConns     = 65_536
)

// newServer returns the hardened server.
func (e *Edge) newServer() *fasthttp.Server {
	return &fasthttp.Server{
		Handler:                      e.handle,
		HeaderReceived:               markUnclear,
		ErrorHandler:                 e.handleMalformed,
		Name:                         "latchkey-edge",
		ReadTimeout:                  readTimeout,
		WriteTimeout:                 writeTimeout,
		IdleTimeout:                  idleTimeout,
		ReadBufferSize:               maxHeader,
		MaxRequestBodySize:           maxBody,
		Concurrency:                  maxConns,
		DisablePreParseMultipartForm: true,
		NoDefaultServerHeader:        true,
		NoDefaultContentType:         true,
		SecureErrorLogMessage:        true,
		CloseOnShutdown:              true,
		KeepHijackedConns:            true, // those of streams
		Logger:                       quiet{},
	}
}

// quiet drops what fasthttp logs: errors of clients, which are no events of ours and would repeat what they sent.
type quiet struct{}

// Printf implements fasthttp.Logger.
func (quiet) Printf(string, ...any) {}

const entitlementsPath = "/v1/entitlements"

// handle answers one request. A panic must not end the process: fasthttp recovers none.
func (e *Edge) handle(ctx *fasthttp.RequestCtx) {
	defer func() {
		if p := recover(); p != nil {
			e.log.LogAttrs(e.logContext(), slog.LevelError, "panic while answering", slog.String("request_id", requestID(ctx)), slog.String("panic", fmt.Sprint(p)), slog.String("stack", string(debug.Stack())))
			ctx.Response.Reset()
			e.sendProblem(ctx, problem.From(fmt.Errorf("panic")))
			ctx.SetConnectionClose()
		}
	}()
	if e.draining.Load() {
		ctx.SetConnectionClose()
	}
	preflight := admitOrigin(ctx)
	path := entitlementsPath
	// A check without parameters, as most are, is known by its first line: to take its address apart would cost a quarter of what the answer does.
	if string(ctx.Request.Header.RequestURI()) != entitlementsPath {
		path = view(ctx.Path())
	}
	asked, ofBackend := accountAsked(path)
	if preflight || !ofBackend { // else its credential is looked at first
		if err := e.clients.admit(ctx); err != nil {
			e.metrics.limitedAddress.Inc()
			e.sendProblem(ctx, problem.From(err))
			return
		}
	}
	if preflight {
		return
	}
	if path == entitlementsPath {
		began := time.Now()
		err := e.refuse(ctx)
		if err == nil {
			err = e.handleCheck(ctx)
		}
		if err != nil {
			e.sendProblem(ctx, e.asProblem(ctx, err))
		}
		e.metrics.duration.Observe(time.Since(began).Seconds())
		return
	}
	var err error
	if route := relayed(view(ctx.Method()), pathOf(&ctx.Request.Header)); route != nil {
		err = e.handleRelay(ctx, route)
	} else if err = e.refuse(ctx); err == nil && ofBackend {
		err = e.handleAccount(ctx, entitlement.AccountID(strings.Clone(string(asked))))
	} else if err == nil {
		err = e.handleOther(ctx, path)
	}
	if err != nil {
		e.sendProblem(ctx, e.asProblem(ctx, err))
	}
}

// unclearMethod is what the method of a request becomes whose end, or whose headers, two readers could see at different places.
const unclearMethod = "UNCLEAR"

// markUnclear marks requests with Transfer-Encoding while it can still be seen: fasthttp drops the header once it has read the body. Of
// Content-Length and Transfer-Encoding in one request it believes the latter, a proxy in front perhaps the former: one of them would take the
// rest for another request. No route here takes a chunked body. It marks folded lines as well (RFC 9112 5.2), which one reader takes for a header and
// another for the end of the one before. A route that is passed on takes a longer body than others.
func markUnclear(h *fasthttp.RequestHeader) fasthttp.RequestConfig {
	if h.ContentLength() == -1 || folded(h.RawHeaders()) {
		h.SetMethod(unclearMethod)
	}
	if route := relayed(view(h.Method()), pathOf(h)); route != nil {
		return route.config()
	}
	return fasthttp.RequestConfig{}
}

// folded reports whether a line begins with white space.
func folded(raw []byte) bool {
	return bytes.Contains(raw, []byte("\n ")) || bytes.Contains(raw, []byte("\n\t"))
}

// refuse turns away what no route here takes.
func (e *Edge) refuse(ctx *fasthttp.RequestCtx) error {
	if !ctx.IsGet() {
		if string(ctx.Method()) == unclearMethod {
			ctx.SetConnectionClose()
			return problem.New(problem.InvalidRequest, "Transfer-Encoding and folded header lines are not accepted.")
		}
		ctx.Response.Header.Set(fasthttp.HeaderAllow, fasthttp.MethodGet)
		return problem.New(problem.MethodNotAllowed, "Use GET.")
	}
	return nil
}

// ownRoutes are those that an edge answers by itself, beside a check. They take GET.
var ownRoutes = map[string]func(*Edge, *fasthttp.RequestCtx) error{
	"/v1/entitlements/stream": (*Edge).handleStream,
	"/v1/revocations":         (*Edge).handleRevocations,
	"/.well-known/jwks.json":  (*Edge).handleJWKS,
	openapi.Path:              (*Edge).handleDescription,
	"/healthz":                (*Edge).handleHealth,
	"/readyz":                 (*Edge).handleReady,
	"/status":                 (*Edge).handleStatus,
	"/metrics":                (*Edge).handleMetrics,
}

// Routes lists what edges serve, each as "GET /v1/accounts/{id}/entitlements".
func Routes() []string {
	routes := []string{"GET " + entitlementsPath, "GET " + accountRoute}
	for path := range ownRoutes {
		routes = append(routes, "GET "+path)
	}
	for _, r := range relayedRoutes {
		routes = append(routes, r.method+" "+r.path)
	}
	slices.Sort(routes)
	return routes
}

func (e *Edge) handleOther(ctx *fasthttp.RequestCtx, path string) error {
	handle := ownRoutes[path]
	if handle == nil {
		return problem.New(problem.NotFound, "There is no such address on an edge.")
	}
	return handle(e, ctx)
}

func (e *Edge) handleHealth(ctx *fasthttp.RequestCtx) error {
	ctx.SetContentType("text/plain; charset=utf-8")
	ctx.SetBodyString("ok\n")
	return nil
}

func (e *Edge) handleMetrics(ctx *fasthttp.RequestCtx) error {
	e.metrics.handler(ctx)
	return nil
}

// handleDescription serves the description of the HTTP interface, the same on writers and edges.
func (e *Edge) handleDescription(ctx *fasthttp.RequestCtx) error {
	d, err := openapi.Served()
	if err != nil {
		return err
	}
	h := &ctx.Response.Header
	h.Set(fasthttp.HeaderCacheControl, openapi.CacheControl)
	h.Set(fasthttp.HeaderETag, d.ETag)
	if d.Held(string(ctx.Request.Header.Peek(fasthttp.HeaderIfNoneMatch))) {
		ctx.SetStatusCode(fasthttp.StatusNotModified)
		return nil
	}
	h.SetContentType(openapi.MediaType)
	ctx.Response.SetBodyRaw(d.JSON)
	return nil
}

var cacheControl, noStore = []byte(fasthttp.HeaderCacheControl), []byte("no-store")

// sendProblem answers with p.
func (e *Edge) sendProblem(ctx *fasthttp.RequestCtx, p *problem.Problem) {
	e.metrics.problem(p.Slug)
	ctx.Response.ResetBody()
	h := &ctx.Response.Header
	h.Del(fasthttp.HeaderETag)
	h.SetCanonical(cacheControl, noStore)
	h.SetContentType(problem.ContentType)
	if s := p.RetryAfterSeconds(); s > 0 {
		h.Set(fasthttp.HeaderRetryAfter, strconv.Itoa(s))
	}
	if c := p.Challenge(); c != "" {
		h.Set(fasthttp.HeaderWWWAuthenticate, c)
	}
	ctx.SetStatusCode(p.Status())
	c := checks.Get().(*check)
	c.body = problem.AppendJSON(c.body[:0], p, requestID(ctx))
	ctx.SetBody(c.body)
	c.recycle()
}

// handleMalformed answers what fasthttp could not read.
func (e *Edge) handleMalformed(ctx *fasthttp.RequestCtx, err error) {
	// A client may open a connection ahead of its need. If it sends its request just as we give up waiting, it takes what we say
	// now for the answer: 408 is the one that clients and browsers know to mean "send it again" (RFC 9110 15.5.9).
	var late net.Error
	if errors.As(err, &late) && late.Timeout() {
		ctx.Response.Reset()
		ctx.SetStatusCode(fasthttp.StatusRequestTimeout)
		ctx.SetConnectionClose()
		return
	}
	p := problem.New(problem.InvalidRequest, "This is no HTTP request that can be read.")
	if strings.Contains(err.Error(), fasthttp.ErrBodyTooLarge.Error()) {
		p = problem.New(problem.BodyTooLarge, "The body is longer than this address takes.")
	}
	e.sendProblem(ctx, p)
	ctx.SetConnectionClose()
	lingers(ctx)
}

type requestIDKey struct{}

// requestID names a request whose answer is not what was asked for: in the problem that the client gets and in what is logged about it. It is
// made when it is first needed, because most requests never need one.
func requestID(ctx *fasthttp.RequestCtx) string {
	if id, ok := ctx.UserValue(requestIDKey{}).(string); ok {
		return id
	}
	id := newRequestID()
	ctx.SetUserValue(requestIDKey{}, id)
	return id
}

const (
	requestIDSize  = 12
	requestIDChars = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
)

// newRequestID draws 60 bits: no secret, so that a flood of refusals need not ask the system for randomness.
func newRequestID() string {
	var id [requestIDSize]byte
	for i, bits := 0, rand.Uint64(); i < len(id); i, bits = i+1, bits>>5 {
		id[i] = requestIDChars[bits&31]
	}
	return string(id[:])
}

// logContext is that of log lines about requests: fasthttp's own must not outlive the request.
func (e *Edge) logContext() context.Context { return context.Background() }
