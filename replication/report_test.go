package replication_test

import (
	"context"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/latchkey/latchkey/pkg/token"
	"github.com/latchkey/latchkey/replication"
)

// writersDown answers nothing, and notes who told which writer of which revision.
type writersDown struct {
	mu    sync.Mutex
	heard map[string]int // "writer node revision" -> times
}

func (w *writersDown) RoundTrip(r *http.Request) (*http.Response, error) {
	if held := r.Header.Get(replication.RevisionHeader); held != "" {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.heard[strings.Join([]string{r.URL.Host, r.Header.Get(replication.NodeHeader), held}, " ")]++
	}
	return &http.Response{StatusCode: http.StatusServiceUnavailable, Header: http.Header{}, Body: http.NoBody, Request: r}, nil
}

// TestEveryWriterHearsWhatAFollowerHolds, whether it pulls there or not, and though it gets its data from elsewhere.
func TestEveryWriterHearsWhatAFollowerHolds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		holds := newMemory()
		holds.head.Epoch, holds.head.N = 1, 7
		writers := &writersDown{heard: map[string]int{}}
		f := replication.NewFollower(replication.FollowConfig{Node: "e1", Writers: []string{"http://w1", "http://w2"}, Replica: holds, Transport: writers,
			Verifier: replication.NewVerifierWith(func(string) (token.PositionClaims, error) { return token.PositionClaims{}, token.ErrSignature })})
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- f.Follow(ctx) }()
		<-time.After(31 * time.Second)
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		writers.mu.Lock()
		defer writers.mu.Unlock()
		for _, who := range []string{"w1 e1 1-7", "w2 e1 1-7"} {
			if n := writers.heard[who]; n < 3 || n > 4 {
				t.Errorf("%q was told %d times in 31 s, want 3 or 4: %v", who, n, writers.heard)
			}
		}
	})
}
