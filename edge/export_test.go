package edge

import (
	"time"

	"github.com/valyala/fasthttp"
)

// Handle answers one request without a connection, for measuring.
func (e *Edge) Handle(ctx *fasthttp.RequestCtx) { e.handle(ctx) }

// HurryStreams sets how streams spend their time, before Run.
func (e *Edge) HurryStreams(beat, life, patience time.Duration) {
	e.streams.beat, e.streams.least, e.streams.most, e.streams.patience = beat, life, life+1, patience
}

// Watching is how many accounts are waited for by requests.
func (e *Edge) Watching() int { return int(e.streams.watching.Load()) }

// Held is how many requests wait for them.
func (e *Edge) Held() (requests int) {
	e.streams.mu.Lock()
	defer e.streams.mu.Unlock()
	for _, w := range e.streams.watches {
		requests += w.waiting
	}
	return requests
}
