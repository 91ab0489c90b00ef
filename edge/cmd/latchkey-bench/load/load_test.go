package load

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
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
	const stop = 200 * time.Millisecond
	var n atomic.Int64
	addr := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		if n.Add(1) == 10 {
			<-time.After(stop)
		}
		w.Write([]byte("ok"))
	})
	r, err := Run(context.Background(), Config{Addr: addr, Connections: 1, For: time.Second, Source: get, Status: 200, Rate: 200})
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
		t.Run(tt.name, func(t *testing.T) {
			r, err := Run(context.Background(), Config{Addr: serve(t, tt.handle), Connections: 2, For: 50 * time.Millisecond, Source: get, Status: tt.status})
			if !errors.Is(err, tt.want) {
				t.Errorf("Run = %v, want %v", err, tt.want)
			}
			if good := r.Answers > 0; good != (tt.want == nil) {
				t.Errorf("%d answers count, %d failed", r.Answers, r.Failed)
			}
		})
	}
	t.Run("nobody listens", func(t *testing.T) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		l.Close()
		if _, err := Run(context.Background(), Config{Addr: l.Addr().String(), Connections: 1, For: time.Second, Source: get, Status: 200}); !errors.Is(err, ErrFailed) {
			t.Errorf("Run = %v, want ErrFailed", err)
		}
	})
}
