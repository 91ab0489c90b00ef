package edge

import "github.com/valyala/fasthttp"

// Handle answers one request without a connection, for measuring.
func (e *Edge) Handle(ctx *fasthttp.RequestCtx) { e.handle(ctx) }
