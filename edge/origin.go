package edge

import (
	"bytes"

	"github.com/valyala/fasthttp"
)

// Apps that are web pages, and those in a web view (Capacitor, Cordova), come from origins of their own. Which, an edge need not know: a browser sends a
// credential here only if the page's own script hands it over, never by itself, so no other page can make it speak for a user. See the Fetch standard,
// section 3.3, HTTP-CORS protocol.

const (
	originMethods = "GET, POST, DELETE"
	originHeaders = "Authorization, Content-Type, Idempotency-Key, If-None-Match, Last-Event-ID"
	originReads   = "ETag, Request-Id, Retry-After"

	// originSeconds is how long a browser may remember that it may ask. Chromium keeps it for no longer.
	originSeconds = "7200"
)

var appRoutes = []byte("/v1/")

// admitOrigin lets a page of another origin read the answer, problems included, and reports whether the request is a browser's question whether it may ask at
// all: that is answered here. Who is no page gets no byte more.
func admitOrigin(ctx *fasthttp.RequestCtx) (preflight bool) {
	asked := &ctx.Request.Header
	if len(asked.Peek(fasthttp.HeaderOrigin)) == 0 || !bytes.HasPrefix(ctx.Path(), appRoutes) {
		return false
	}
	h := &ctx.Response.Header
	h.Set(fasthttp.HeaderAccessControlAllowOrigin, "*")
	if !ctx.IsOptions() || len(asked.Peek(fasthttp.HeaderAccessControlRequestMethod)) == 0 {
		h.Set(fasthttp.HeaderAccessControlExposeHeaders, originReads)
		return false
	}
	h.Set(fasthttp.HeaderAccessControlAllowMethods, originMethods)
	h.Set(fasthttp.HeaderAccessControlAllowHeaders, originHeaders)
	h.Set(fasthttp.HeaderAccessControlMaxAge, originSeconds)
	ctx.SetStatusCode(fasthttp.StatusNoContent)
	return true
}
