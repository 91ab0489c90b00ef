package edge

import (
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/valyala/fasthttp"

	"github.com/latchkey/latchkey/pkg/problem"
	"github.com/latchkey/latchkey/replication"
)

const (
	// streamBeat is how often a comment is sent. It keeps proxies from closing what looks idle, and it is how a client that is gone is noticed.
	streamBeat = 15 * time.Second
	// A stream is closed after a time between these, so that clients spread over the edges again, and not all at one moment.
	streamLifeMin = 10 * time.Minute
	streamLifeMax = 15 * time.Minute
	// streamReconnect is how long clients wait at most before they come back, each another time: an edge that stops sends all of them away at once.
	streamReconnectMin = time.Second
	streamReconnectMax = 5 * time.Second
	// streamSendBuffer is what the kernel holds for a client that does not read. Beyond it, and after writeTimeout, the client is cut off.
	streamSendBuffer = 16 << 10
)

// Why a stream ended, in the words of the metrics.
type streamEnd int32

const (
	endedAge     streamEnd = iota + 1 // it has lived its time
	endedSession                      // its session is over, or its account is gone
	endedStop                         // the edge stops
	endedSlow                         // the client did not read
	endedGone                         // the client has closed it
)

var streamEnds = map[streamEnd]string{endedAge: "age", endedSession: "session", endedStop: "stop", endedSlow: "slow", endedGone: "gone"}

// stream is one open stream of entitlements.
type stream struct {
	session *session
	address netip.Addr
	held    position // what the client says that it has
	plain   bool     // HTTP/1.0: without chunks
	head    []byte   // of the response, until it is sent

	slot  atomic.Pointer[message] // what is to be sent next: the latest
	wake  chan struct{}
	ended atomic.Int32 // a streamEnd
	endAt atomic.Int64 // Unix nanoseconds of this machine

	// Guarded by streams.mu.
	subject *subject
	joined  time.Time
	begun   bool
	left    bool

	// Of the worker that computes its subject.
	told   bool   // it was handed something
	shows  uint64 // the digest of that
	signed bool   // and whether that came with a token
}

// handleStream answers GET /v1/entitlements/stream. It judges the request as a check is judged, and hands the connection over: from then on it belongs
// to the stream's own goroutine.
func (e *Edge) handleStream(ctx *fasthttp.RequestCtx) error {
	c := checks.Get().(*check)
	defer c.recycle()
	if err := c.parse(ctx); err != nil {
		return err
	}
	if c.nonce != "" {
		return problem.New(problem.InvalidRequest, "A stream takes no nonce: its answers are everybody's who reads along.")
	}
	bearer, ok := bearerToken(ctx)
	if !ok {
		return problem.New(problem.InvalidCredential, "Send a session token: Authorization: Bearer <token>.")
	}
	x, ses, err := e.read(bearer, c)
	if err != nil {
		return err
	}
	defer x.Close()
	s, err := e.stateOf(&x)
	if err != nil {
		return err
	}
	if _, err := e.known(s.environment(ses.env), &x, ses, e.clock.now(x.Head.AsOf)); err != nil {
		return err
	}
	if err := e.clients.admitAccount(ctx, ses.env, ses.account); err != nil {
		e.metrics.limitedAccount.Inc()
		return err
	}
	st := &stream{session: ses, address: e.clients.of(ctx), plain: !ctx.Request.Header.IsHTTP11(), wake: make(chan struct{}, 1), joined: time.Now()}
	st.held = parseEventID(string(ctx.Request.Header.Peek("Last-Event-ID")))
	if c.minRevision.Compare(st.held.revision) > 0 {
		st.held = position{revision: c.minRevision}
	}
	st.endAt.Store(st.joined.Add(e.streams.least + rand.N(e.streams.most-e.streams.least)).UnixNano())
	if err := e.streams.join(st); err != nil {
		return err
	}
	h := &ctx.Response.Header
	h.SetContentType("text/event-stream")
	h.Set(fasthttp.HeaderCacheControl, "no-store")
	h.Set("X-Accel-Buffering", "no") // nginx would keep events back
	h.SetConnectionClose()
	if !st.plain {
		h.SetContentLength(-1)
	}
	st.head = append(h.AppendBytes(nil), st.frame("retry: "+strconv.FormatInt((streamReconnectMin+rand.N(streamReconnectMax-streamReconnectMin)).Milliseconds(), 10)+"\n\n")...)
	ctx.HijackSetNoResponse(true)
	ctx.Hijack(func(conn net.Conn) {
		// The buffers of the request are given back once this returns, and only then: the stream goes on without them.
		if raw, ok := conn.(interface{ UnsafeConn() net.Conn }); ok {
			conn = raw.UnsafeConn()
		}
		if !e.streams.begin(st) {
			e.streams.leave(st)
			_ = conn.Close()
			return
		}
		go e.serveStream(st, conn)
	})
	return nil
}

// serveStream sends until the stream ends. It is the only one that writes to conn.
func (e *Edge) serveStream(st *stream, conn net.Conn) {
	defer e.streams.serving.Done()
	defer e.streams.leave(st)
	defer conn.Close()
	defer func() {
		if p := recover(); p != nil {
			e.log.LogAttrs(e.logContext(), slog.LevelError, "panic in a stream", slog.String("panic", fmt.Sprint(p)))
		}
	}()
	boundSendBuffer(conn)
	head := st.head
	st.head = nil
	end := st.write(conn, head, e.streams.patience)
	beat := time.NewTicker(e.streams.beat)
	defer beat.Stop()
	for end == 0 {
		select {
		case <-st.wake:
			if m := st.slot.Swap(nil); m != nil {
				end = st.write(conn, st.of(m), e.streams.patience)
			}
			if end == 0 {
				end = streamEnd(st.ended.Load())
			}
		case <-beat.C:
			if end = st.write(conn, st.frame(":\n\n"), e.streams.patience); end == 0 && time.Now().UnixNano() >= st.endAt.Load() {
				end = endedAge
			}
		case <-e.stopped:
			end = endedStop
		}
	}
	if end < endedSlow && !st.plain {
		_ = st.write(conn, []byte("0\r\n\r\n"), e.streams.patience) // whoever reads knows that nothing was cut off
	}
	e.metrics.streamEnded(end)
}

// write sends b within patience, or says why it cannot.
func (st *stream) write(conn net.Conn, b []byte, patience time.Duration) streamEnd {
	if err := conn.SetWriteDeadline(time.Now().Add(patience)); err != nil {
		return endedGone
	}
	switch _, err := conn.Write(b); {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return endedSlow
	case err != nil:
		return endedGone
	}
	return 0
}

// offer makes m what is sent next, in place of what was not sent yet.
func (st *stream) offer(m *message) {
	st.slot.Store(m)
	st.rouse()
}

// end has the stream closed, for the first reason that is given.
func (st *stream) end(why streamEnd) {
	st.ended.CompareAndSwap(0, int32(why))
	st.rouse()
}

func (st *stream) rouse() {
	select {
	case st.wake <- struct{}{}:
	default:
	}
}

// frame makes of text what goes over the wire.
func (st *stream) frame(text string) []byte {
	if st.plain {
		return []byte(text)
	}
	return fmt.Appendf(nil, "%x\r\n%s\r\n", len(text), text)
}

func (st *stream) of(m *message) []byte {
	if st.plain {
		return m.chunk[m.from:m.to]
	}
	return m.chunk
}

// newMessage is the event that shows body, the JSON of an answer, which has no line breaks.
func newMessage(t issued, body []byte) *message {
	event := append([]byte("id: "), t.revision.String()...)
	event = strconv.AppendInt(append(event, '.'), t.asOf, 10)
	event = append(event, "\nevent: entitlements\ndata: "...)
	event = append(append(event, body...), "\n\n"...)
	m := &message{at: position{t.revision, t.asOf}, chunk: fmt.Appendf(nil, "%x\r\n", len(event))}
	m.from = len(m.chunk)
	m.chunk = append(m.chunk, event...)
	m.to = len(m.chunk)
	m.chunk = append(m.chunk, "\r\n"...)
	return m
}

// parseEventID reads the id of an event. What none of ours is says nothing.
func parseEventID(id string) position {
	text, asOf, ok := strings.Cut(id, ".")
	r, err := replication.ParseRevision(text)
	n, numErr := strconv.ParseInt(asOf, 10, 64)
	if !ok || err != nil || numErr != nil {
		return position{}
	}
	return position{r, n}
}

// boundSendBuffer bounds what the kernel keeps for conn; left alone that grows to megabytes for a client that does not read.
func boundSendBuffer(conn net.Conn) {
	if secure, ok := conn.(interface{ NetConn() net.Conn }); ok {
		conn = secure.NetConn()
	}
	if c, ok := conn.(interface{ SetWriteBuffer(bytes int) error }); ok {
		_ = c.SetWriteBuffer(streamSendBuffer) // it is a bound, not a need
	}
}
