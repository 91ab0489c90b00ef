package replication_test

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"sync"

	"github.com/latchkey/latchkey/replication"
)

// spoiling is a way to a writer on which whole snapshots are changed, header and body.
type spoiling struct {
	to http.Handler

	mu    sync.Mutex
	spoil func(http.Header, []byte) []byte
	n     int
}

func (s *spoiling) set(spoil func(http.Header, []byte) []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.spoil, s.n = spoil, 0
}

// count is how many were changed.
func (s *spoiling) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.n
}

func (s *spoiling) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	spoil := s.spoil
	s.mu.Unlock()
	if spoil == nil || r.URL.Path != replication.SnapshotPath {
		s.to.ServeHTTP(w, r)
		return
	}
	right := httptest.NewRecorder()
	r.Header.Del("Range")
	s.to.ServeHTTP(right, r)
	header := right.Header().Clone()
	body := spoil(header, right.Body.Bytes())
	for key, values := range header {
		w.Header()[key] = values
	}
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(right.Code)
	_, _ = io.Copy(w, bytes.NewReader(body))
	s.mu.Lock()
	s.n++
	s.mu.Unlock()
}
