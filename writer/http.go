package writer

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/latchkey/latchkey/pkg/problem"
)

// Limits of the listeners. A peer that is slower than these holds a connection for nothing.
const (
	readHeaderTimeout = 5 * time.Second
	readTimeout       = 20 * time.Second // 1 MiB over a slow link
	writeTimeout      = 30 * time.Second // proposeTimeout and what surrounds it; streams extend it as they go
	idleTimeout       = 2 * time.Minute
	maxHeaderBytes    = 16 << 10
	// maxConnections bounds memory and file descriptors: some 40 KiB each.
	maxConnections = 4096
	// drainBytes is how much of a body that is too large is read before the answer, so that a client which sends everything
	// before it reads gets to see the answer instead of a reset connection.
	drainBytes = 8 << 20
	// trustedLength is how much memory is taken for a body because its header says so, before any of it has come. Most bodies are smaller.
	trustedLength = 32 << 10
)

// requestIDHeader carries the request's id in every answer. It is also the correlation id of what the request wrote.
const requestIDHeader = "Request-Id"

// handler answers a request or returns why not: a problem, or an error that becomes one.
type handler func(w http.ResponseWriter, r *http.Request) error

// server is one listener with its routes.
type server struct {
	name     string
	listener net.Listener
	http     *http.Server
	mux      *http.ServeMux
	writer   *Writer
	unrouted *routeMetrics // of what has no route
}

func newServer(w *Writer, name string, listener net.Listener) *server {
	s := &server{name: name, listener: limitListener(listener, maxConnections), mux: http.NewServeMux(), writer: w, unrouted: w.metrics.route(name, "")}
	s.http = &http.Server{
		Handler:           s,
		ReadHeaderTimeout: readHeaderTimeout,
		ReadTimeout:       readTimeout,
		WriteTimeout:      writeTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		ErrorLog:          slog.NewLogLogger(w.log.Handler(), slog.LevelDebug),
		// What hangs on a connection (long polls) ends when the writer does.
		BaseContext: func(net.Listener) context.Context { return w.serving },
	}
	return s
}

// handle adds a route. Its pattern is a label of the metrics.
func (s *server) handle(pattern string, h handler) {
	counted := s.writer.metrics.route(s.name, pattern)
	if s.name != listenerOperator && !alwaysAnswered[pattern] {
		h = s.writer.unlessHeldBack(h)
	}
	s.mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
		rec := w.(*recorder) // see ServeHTTP
		rec.routed = true
		s.answer(pattern, counted, h, rec, r)
	})
}

// ServeHTTP gives every request its id, and answers what has no route.
func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	id := newID()
	w.Header()[requestIDHeader] = []string{id}
	r = r.WithContext(problem.WithRequestID(r.Context(), id))
	rec := &recorder{ResponseWriter: w}
	s.mux.ServeHTTP(rec, r)
	if rec.routed {
		return
	}
	h, pattern := s.mux.Handler(r)
	if pattern != "" { // it is elsewhere
		h.ServeHTTP(w, r)
		return
	}
	rec.routed = true
	s.answer("", s.unrouted, func(w http.ResponseWriter, r *http.Request) error { return noRoute(h, w, r) }, rec, r)
}

// noRoute turns the mux's own text answers into problems.
func noRoute(h http.Handler, w http.ResponseWriter, r *http.Request) error {
	var probe probeWriter
	h.ServeHTTP(&probe, r)
	if probe.status == http.StatusMethodNotAllowed {
		allow := probe.Header().Get("Allow")
		w.Header().Set("Allow", allow)
		return problem.Newf(problem.MethodNotAllowed, "This address takes %s.", allow)
	}
	return problem.New(problem.NotFound, "There is nothing at this address.")
}

// probeWriter keeps an answer's status and header.
type probeWriter struct {
	header http.Header
	status int
}

func (p *probeWriter) Header() http.Header {
	if p.header == nil {
		p.header = http.Header{}
	}
	return p.header
}
func (p *probeWriter) Write(b []byte) (int, error) { return len(b), nil }
func (p *probeWriter) WriteHeader(status int)      { p.status = status }

// answer runs a handler, turns its error into a problem, counts and logs.
func (s *server) answer(route string, counted *routeMetrics, h handler, rec *recorder, r *http.Request) {
	began := time.Now()
	defer func() {
		if fault := recover(); fault != nil {
			if fault == http.ErrAbortHandler {
				panic(fault)
			}
			s.writer.log.ErrorContext(r.Context(), "panic", "route", route, "request_id", problem.RequestID(r.Context()), "fault", fmt.Sprint(fault), "stack", string(debug.Stack()))
			if rec.status == 0 {
				problem.Write(rec, r, errors.New("panic"))
			}
		}
		counted.request(rec.status, time.Since(began))
	}()
	err := h(rec, r)
	if err == nil {
		return
	}
	if rec.status != 0 { // too late for a problem: the answer is cut off, and the client sees that
		s.writer.log.WarnContext(r.Context(), "answer cut off", "route", route, "request_id", problem.RequestID(r.Context()), "error", err)
		panic(http.ErrAbortHandler)
	}
	if errors.Is(err, context.Canceled) && r.Context().Err() != nil {
		err = problem.New(problem.Unavailable, "This node is stopping, or you stopped waiting.").After(time.Second)
	}
	p := problem.Write(rec, r, err)
	if p.Slug == problem.Internal {
		s.writer.log.ErrorContext(r.Context(), "request not answered", "route", route, "request_id", problem.RequestID(r.Context()), "error", err)
	}
}

// recorder remembers the status of an answer. Until a route is found it takes nothing: the mux's own texts go nowhere.
type recorder struct {
	http.ResponseWriter
	status int
	routed bool
}

func (r *recorder) Header() http.Header {
	if !r.routed {
		return http.Header{}
	}
	return r.ResponseWriter.Header()
}

func (r *recorder) WriteHeader(status int) {
	if !r.routed {
		return
	}
	if r.status == 0 {
		r.status = status
	}
	r.ResponseWriter.WriteHeader(status)
}

func (r *recorder) Write(b []byte) (int, error) {
	if !r.routed {
		return len(b), nil
	}
	if r.status == 0 {
		r.status = http.StatusOK
	}
	return r.ResponseWriter.Write(b)
}

// Unwrap lets http.ResponseController reach the connection.
func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }

// buffers are what answers are written into before their length is known.
var buffers = sync.Pool{New: func() any { return new(bytes.Buffer) }}

// maxKeptBuffer is the largest one that waits for the next answer.
const maxKeptBuffer = 64 << 10

// writeJSON answers with v, and a newline.
func writeJSON(w http.ResponseWriter, status int, v any) error {
	b := buffers.Get().(*bytes.Buffer)
	if err := json.NewEncoder(b).Encode(v); err != nil {
		return fmt.Errorf("encode answer: %w", err)
	}
	writeBody(w, status, jsonType, b.Bytes())
	if b.Reset(); b.Cap() <= maxKeptBuffer {
		buffers.Put(b)
	}
	return nil
}

// Values of headers that nearly every answer has. Nobody changes them.
var (
	headerJSON    = []string{jsonType}
	headerNoStore = []string{"no-store"}
	headerNoSniff = []string{"nosniff"}
)

// writeBody answers with b. A client that has gone cannot be told anything, so errors of writing end here.
func writeBody(w http.ResponseWriter, status int, contentType string, b []byte) {
	h := w.Header()
	if contentType == jsonType {
		h["Content-Type"] = headerJSON
	} else {
		h.Set("Content-Type", contentType)
	}
	h["Cache-Control"] = headerNoStore // every answer is of now
	h["X-Content-Type-Options"] = headerNoSniff
	h.Set("Content-Length", strconv.Itoa(len(b))) // or who asked cannot know how much room it takes
	w.WriteHeader(status)
	_, _ = w.Write(b)
}

// readBody reads at most limit bytes. Error: a body-too-large problem.
func readBody(r *http.Request, limit int64) ([]byte, error) {
	tooLarge := problem.Newf(problem.BodyTooLarge, "The body is longer than %d bytes.", limit)
	if r.ContentLength > limit {
		_, _ = io.CopyN(io.Discard, r.Body, drainBytes)
		return nil, tooLarge
	}
	var b bytes.Buffer
	b.Grow(int(min(max(r.ContentLength, 0), trustedLength)) + bytes.MinRead)
	if _, err := b.ReadFrom(io.LimitReader(r.Body, limit+1)); err != nil {
		return nil, problem.New(problem.InvalidRequest, "The body did not arrive whole.")
	}
	if int64(b.Len()) > limit {
		_, _ = io.CopyN(io.Discard, r.Body, drainBytes)
		return nil, tooLarge
	}
	return b.Bytes(), nil
}

// bearer returns the credential of a request, or "".
func bearer(r *http.Request) string {
	scheme, credential, ok := strings.Cut(r.Header.Get("Authorization"), " ")
	if !ok || !strings.EqualFold(scheme, "Bearer") {
		return ""
	}
	return strings.TrimSpace(credential)
}

// limitListener accepts at most n connections at a time; further ones wait in the kernel's queue.
func limitListener(l net.Listener, n int) net.Listener {
	return &limitedListener{Listener: l, slots: make(chan struct{}, n), closed: make(chan struct{})}
}

type limitedListener struct {
	net.Listener
	slots     chan struct{}
	closed    chan struct{}
	closeOnce sync.Once
}

func (l *limitedListener) Accept() (net.Conn, error) {
	select {
	case l.slots <- struct{}{}:
	case <-l.closed:
		return nil, net.ErrClosed
	}
	c, err := l.Listener.Accept()
	if err != nil {
		<-l.slots
		return nil, err
	}
	return &limitedConn{Conn: c, release: func() { <-l.slots }}, nil
}

func (l *limitedListener) Close() error {
	l.closeOnce.Do(func() { close(l.closed) })
	return l.Listener.Close()
}

type limitedConn struct {
	net.Conn
	release func()
	once    sync.Once
}

func (c *limitedConn) Close() error {
	err := c.Conn.Close()
	c.once.Do(c.release)
	return err
}
