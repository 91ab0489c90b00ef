package edge

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"time"

	"github.com/valyala/fasthttp"

	"github.com/latchkey/latchkey/pkg/problem"
)

// What an app writes is passed on to the writer that this edge follows, as it came, so that an app needs one address. The edge judges nothing of it:
// the writer checks the app's credential itself, and its answer goes back as it is.

const (
	receiptsPath = "/v1/receipts"

	// maxReceiptsBody is what the writers take, and receiptsReadTimeout how long it may take to arrive over a slow network.
	maxReceiptsBody     = 512 << 10
	receiptsReadTimeout = 10 * time.Second
	// relayTimeout is longer than a writer takes: it asks providers for some seconds.
	relayTimeout = 20 * time.Second
	// maxRelays bounds the requests that are under way at a writer, each of which holds a body and an answer.
	maxRelays = 64
	// maxRelayedAnswer bounds an answer: 50 results beside the largest record that there is.
	maxRelayedAnswer = 1 << 20
)

// relayed is what a route that is passed on takes.
func relayed(h *fasthttp.RequestHeader) (fasthttp.RequestConfig, bool) {
	if !h.IsPost() || string(h.RequestURI()) != receiptsPath {
		return fasthttp.RequestConfig{}, false
	}
	return fasthttp.RequestConfig{MaxRequestBodySize: maxReceiptsBody, ReadTimeout: receiptsReadTimeout, WriteTimeout: relayTimeout + writeTimeout}, true
}

// relayedHeaders go to the writer, and answeredHeaders back to the app.
var (
	relayedHeaders  = []string{fasthttp.HeaderAuthorization, fasthttp.HeaderContentType}
	answeredHeaders = []string{fasthttp.HeaderContentType, fasthttp.HeaderCacheControl, fasthttp.HeaderRetryAfter, fasthttp.HeaderWWWAuthenticate, "Request-Id"}
)

// errNoWriter means that no writer gave an answer that can be passed back.
var errNoWriter = errors.New("no answer of a writer")

// handleRelay passes a request on. Sending it again is harmless, whatever became of it: an app is told to.
func (e *Edge) handleRelay(ctx *fasthttp.RequestCtx) error {
	select {
	case e.relays <- struct{}{}:
		defer func() { <-e.relays }()
	default:
		return problem.New(problem.Unavailable, "This edge passes too much on already.").After(retryAfter)
	}
	if err := e.relay(ctx); err != nil {
		e.log.LogAttrs(e.logContext(), slog.LevelWarn, "request not passed on", slog.String("request_id", requestID(ctx)), slog.Any("error", err))
		return problem.New(problem.Unavailable, "No writer answers this edge now.").After(retryAfter)
	}
	return nil
}

func (e *Edge) relay(ctx *fasthttp.RequestCtx) error {
	client := e.follower.Client()
	if client == nil {
		return errNoWriter
	}
	within, cancel := context.WithTimeout(e.logContext(), relayTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(within, http.MethodPost, client.Base()+receiptsPath, bytes.NewReader(bytes.Clone(ctx.PostBody())))
	if err != nil {
		return err
	}
	for _, name := range relayedHeaders {
		if value := ctx.Request.Header.Peek(name); len(value) > 0 {
			req.Header.Set(name, string(value))
		}
	}
	resp, err := client.HTTP().Do(req)
	if err != nil {
		return fmt.Errorf("%w: %w", errNoWriter, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxRelayedAnswer+1))
	if err != nil {
		return fmt.Errorf("%w: %w", errNoWriter, err)
	}
	if len(body) > maxRelayedAnswer {
		return fmt.Errorf("%w: it is longer than %d bytes", errNoWriter, maxRelayedAnswer)
	}
	for _, name := range answeredHeaders {
		if value := resp.Header.Get(name); value != "" {
			ctx.Response.Header.Set(name, value)
		}
	}
	ctx.SetStatusCode(resp.StatusCode)
	ctx.SetBody(body)
	return nil
}
