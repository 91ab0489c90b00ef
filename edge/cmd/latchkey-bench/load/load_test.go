package load

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func get(dst []byte, _, _ int) []byte { return append(dst, "GET / HTTP/1.1\r\nHost: x\r\n\r\n"...) }

func serve(t *testing.T, handler http.HandlerFunc) string {
	t.Helper()
	s := httptest.NewServer(handler)
	t.Cleanup(s.Close)
	return strings.TrimPrefix(s.URL, "http://")
}

// TestScheduleDoesNotWaitForAnswers: a server that stops for a moment is charged with every request that was due meanwhile; a loop
// that waits would report one slow answer.
func TestScheduleDoesNotWaitForAnswers(t *testing.T) {
	const stop = 400 * time.Millisecond
	for name, run := range map[string]func(context.Context, Config) (Result, error){"from one thread where the system can": Run, "from a goroutine for each connection": runEach} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx, enough := context.WithCancel(t.Context())
			defer enough()
			var n atomic.Int64
			addr := serve(t, func(w http.ResponseWriter, _ *http.Request) {
				switch n.Add(1) {
				case 10:
					<-time.After(stop)
				case 200: // after 2 s, or as many more as a busy machine takes
					enough()
				}
				w.Write([]byte("ok"))
			})
			r, err := run(ctx, Config{Addr: addr, Connections: 1, For: time.Minute, Source: get, Status: 200, Rate: 100})
			if err != nil {
				t.Fatal(err)
			}
			if r.Answers < 120 {
				t.Errorf("%d answers, want about 200: the schedule goes on", r.Answers)
			}
			late := 0
			for _, l := range r.latencies {
				if l > stop/10 {
					late++
				}
			}
			if late < 20 {
				t.Errorf("%d answers count as late, want about 36: all that were due while the server stopped", late)
			}
		})
	}
}

// TestEveryDueRequestIsSent: connections take the schedule's requests in turn, each with numbers of its own, and what became due is sent however late.
func TestEveryDueRequestIsSent(t *testing.T) {
	const connections, requests = 3, 30
	var mu sync.Mutex
	seen := map[string]int{}
	addr := serve(t, func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		seen[r.URL.Path]++
		w.Write([]byte("ok"))
	})
	source := func(dst []byte, connection, n int) []byte {
		return fmt.Appendf(dst, "GET /%d/%d HTTP/1.1\r\nHost: x\r\n\r\n", connection, n)
	}
	r, err := Run(context.Background(), Config{Addr: addr, Connections: connections, For: 100 * time.Millisecond, Source: source, Status: 200, Rate: requests * 10})
	if err != nil || r.Answers != requests {
		t.Fatalf("Run = %d answers, %v; want %d", r.Answers, err, requests)
	}
	mu.Lock()
	defer mu.Unlock()
	for c := range connections {
		for n := range requests / connections {
			if path := fmt.Sprintf("/%d/%d", c, n); seen[path] != 1 {
				t.Errorf("%s was asked %d times, want once", path, seen[path])
			}
		}
	}
}

// TestAnswersInPieces: an answer is taken when it is whole, wherever the network cut it, and not before.
func TestAnswersInPieces(t *testing.T) {
	tests := []struct {
		name, text string
		status     int
		body       string
		want       error
	}{
		{"a body", "HTTP/1.1 200 OK\r\ncontent-length: 5\r\nX: y\r\n\r\nhello", 200, "hello", nil},
		{"no body", "HTTP/1.1 304 Not Modified\r\nETag: x\r\n\r\n", 304, "", nil},
		{"a body of unknown length", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", 0, "", errAnswer},
		{"no status", "HTTP/1.1 yes\r\nContent-Length: 0\r\n\r\n", 0, "", errAnswer},
		{"a body larger than the room", "HTTP/1.1 200 OK\r\nContent-Length: 70000\r\n\r\n" + strings.Repeat("b", 70000), 200, strings.Repeat("b", 70000), nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for _, piece := range []int{1, 7, len(tt.text)} {
				var in inbox
				for rest := tt.text; ; {
					n := copy(in.space(), rest[:min(piece, len(rest))])
					in.add(n)
					rest = rest[n:]
					status, body, whole, err := in.answer()
					if tt.want != nil && err != nil || len(rest) == 0 {
						if !errors.Is(err, tt.want) || status != tt.status || string(body) != tt.body || whole != (tt.want == nil) {
							t.Errorf("in pieces of %d: answer = %d, %d bytes, %t, %v; want %d, %d bytes, %v", piece, status, len(body), whole, err, tt.status, len(tt.body), tt.want)
						}
						break
					}
					if whole || err != nil {
						t.Fatalf("in pieces of %d: answer = %t, %v with %d bytes missing", piece, whole, err, len(rest))
					}
				}
			}
		})
	}
}

// TestNoAnswerWithoutARequest: what follows an answer that nobody asked for is no answer to the next request.
func TestNoAnswerWithoutARequest(t *testing.T) {
	const answer = "HTTP/1.1 304 Not Modified\r\n\r\n"
	for _, rate := range []float64{0, 500} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		go func() {
			c, err := l.Accept()
			if err != nil {
				return // the test is over
			}
			defer c.Close()
			var request [1024]byte
			if _, err := c.Read(request[:]); err == nil {
				io.WriteString(c, answer+answer)
			}
		}()
		if r, err := Run(t.Context(), Config{Addr: l.Addr().String(), Connections: 1, For: time.Second, Source: get, Status: 304, Rate: rate}); !errors.Is(err, ErrFailed) || !strings.Contains(err.Error(), errMore.Error()) {
			t.Errorf("at rate %.0f two answers to one request are %d answers, %v; want %v", rate, r.Answers, err, errMore)
		}
	}
}

// TestBursts: of what is due at once on a connection every request is sent, and every answer counts.
func TestBursts(t *testing.T) {
	const requests, burst = 60, 4
	var asked atomic.Int64
	addr := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		asked.Add(1)
		w.Write([]byte("ok"))
	})
	r, err := Run(t.Context(), Config{Addr: addr, Connections: 3, For: 100 * time.Millisecond, Source: get, Status: 200, Rate: requests * 10, Burst: burst, Aside: true})
	if err != nil || r.Answers != requests || asked.Load() != requests {
		t.Errorf("%d answers to %d requests, %v; want %d", r.Answers, asked.Load(), err, requests)
	}
}

func TestRunCountsOnlyWantedAnswers(t *testing.T) {
	tests := []struct {
		name   string
		handle http.HandlerFunc
		status int
		want   error
	}{
		{"all as wanted", func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte("ok")) }, 200, nil},
		{"not modified has no body", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(304) }, 304, nil},
		{"another status", func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte("ok")) }, 304, ErrFailed},
		{"a body of unknown length", func(w http.ResponseWriter, _ *http.Request) { w.(http.Flusher).Flush() }, 200, ErrFailed},
	}
	for _, tt := range tests {
		for _, rate := range []float64{0, 500} {
			t.Run(fmt.Sprintf("%s at rate %.0f", tt.name, rate), func(t *testing.T) {
				t.Parallel()
				r, err := Run(context.Background(), Config{Addr: serve(t, tt.handle), Connections: 2, For: 500 * time.Millisecond, Source: get, Status: tt.status, Rate: rate})
				if !errors.Is(err, tt.want) {
					t.Errorf("Run = %v, want %v", err, tt.want)
				}
				if good := r.Answers > 0; good != (tt.want == nil) {
					t.Errorf("%d answers count, %d failed", r.Answers, r.Failed)
				}
			})
		}
	}
	t.Run("nobody listens", func(t *testing.T) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		l.Close()
		for _, rate := range []float64{0, 500} {
			if _, err := Run(context.Background(), Config{Addr: l.Addr().String(), Connections: 1, For: time.Second, Source: get, Status: 200, Rate: rate}); !errors.Is(err, ErrFailed) {
				t.Errorf("Run at rate %.0f = %v, want ErrFailed", rate, err)
			}
		}
	})
}

// TestOpensAConnectionForEachRequest: with Opens every request comes over a connection of its own, and all but the first of each client resume where they may.
func TestOpensAConnectionForEachRequest(t *testing.T) {
	for name, cache := range map[string]tls.ClientSessionCache{"full": nil, "resumed": tls.NewLRUClientSessionCache(1)} {
		t.Run(name, func(t *testing.T) {
			ctx, enough := context.WithCancel(t.Context())
			defer enough()
			var opened, resumed, asked atomic.Int64
			var each [2]atomic.Int64
			source := func(dst []byte, connection, _ int) []byte {
				if each[connection].Add(1); each[0].Load() > 3 && each[1].Load() > 3 {
					enough()
				}
				return get(dst, connection, 0)
			}
			s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				asked.Add(1)
				if r.TLS.DidResume {
					resumed.Add(1)
				}
				w.Write([]byte("ok"))
			}))
			s.Config.ConnState = func(_ net.Conn, state http.ConnState) {
				if state == http.StateNew {
					opened.Add(1)
				}
			}
			s.StartTLS()
			defer s.Close()
			r, err := Run(ctx, Config{Addr: s.Listener.Addr().String(), Connections: 2, For: time.Minute, Source: source, Status: 200, Rate: 20, Opens: &tls.Config{InsecureSkipVerify: true, ClientSessionCache: cache}})
			if err != nil || r.Answers < 4 {
				t.Fatalf("%d answers, %v", r.Answers, err)
			}
			want := int64(0)
			if cache != nil {
				want = asked.Load() - 2
			}
			if opened.Load() != asked.Load() || resumed.Load() != want {
				t.Errorf("%d connections for %d requests, of which %d resumed, want %d", opened.Load(), asked.Load(), resumed.Load(), want)
			}
		})
	}
}
