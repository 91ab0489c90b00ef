package replication_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/latchkey/latchkey/replication"
)

// TestTheNearestWriterThatServesIsUsed: what measurements make of the writer in use and of the order of the others.
func TestTheNearestWriterThatServesIsUsed(t *testing.T) {
	const cut = -1 // does not answer
	ms := func(took ...int) []int { return took }
	for _, tt := range []struct {
		name   string
		rounds [][]int // milliseconds, of each writer
		old    int     // the writer whose heads are old, or -1
		order  []int
		use    int
	}{
		{"nothing known", nil, -1, []int{0, 1, 2}, 0},
		{"one measurement is an accident", [][]int{ms(90, 80, 2)}, -1, []int{0, 1, 2}, 0},
		{"the last is near", [][]int{ms(90, 80, 2), ms(90, 80, 2)}, -1, []int{2, 1, 0}, 2},
		{"all in one region", [][]int{ms(3, 2, 1), ms(3, 2, 1)}, -1, []int{0, 1, 2}, 0},
		{"a quarter nearer is no reason to move", [][]int{ms(90, 75, 78), ms(90, 75, 78)}, -1, []int{1, 2, 0}, 0},
		{"the first answer made its connection", [][]int{ms(400, 81, 80), ms(20, 80, 80), ms(20, 80, 80)}, -1, []int{0, 1, 2}, 0},
		{"slow once is not far", [][]int{ms(20, 80, 80), ms(20, 80, 80), ms(900, 80, 80)}, -1, []int{0, 1, 2}, 0},
		{"the near one does not answer", [][]int{ms(90, 40, 2), ms(90, 40, cut), ms(90, 40, cut)}, -1, []int{1, 0, 2}, 1},
		{"the near one is cut off from its cluster", [][]int{ms(90, 40, 2), ms(90, 40, 2)}, 2, []int{1, 0, 2}, 1},
		{"the near one comes back", [][]int{ms(90, 40, cut), ms(90, 40, cut), ms(90, 40, 2), ms(90, 40, 2)}, -1, []int{2, 1, 0}, 2},
		{"it becomes far", [][]int{ms(2, 40, 90), ms(2, 40, 90), ms(90, 40, 90), ms(90, 40, 90), ms(90, 40, 90)}, -1, []int{1, 0, 2}, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newStairs(t)
			s.l = replication.NewLadder(replication.LadderConfig{Replica: s.m, Verifier: replication.NewVerifier(s.w.Roots(), s.w.Cluster), Writers: 3, Random: func() float64 { return 0.5 }})
			s.l.Start(s.now)
			s.settle()
			old := s.w.SignedHead()
			s.pass(10 * time.Second)
			s.settle()
			for _, round := range tt.rounds {
				s.pass(10 * time.Second)
				distances := make([]replication.Distance, len(round))
				for i, took := range round {
					distances[i] = replication.Distance{Took: time.Duration(took) * time.Millisecond, Signed: s.w.SignedHead()}
					if took == cut {
						distances[i] = replication.Distance{Took: 5 * time.Second, Err: replication.ErrUnavailable}
					} else if i == tt.old {
						distances[i].Signed = old
					}
				}
				s.l.Measured(s.now, distances)
				s.settle()
			}
			if order, use := s.l.Order(), s.l.Writer(); !slices.Equal(order, tt.order) || use != tt.use {
				t.Errorf("order %v and writer %d, want %v and %d", order, use, tt.order, tt.use)
			}
		})
	}
}

// farWriters are writers behind ways of different lengths.
type farWriters struct {
	serve http.Handler
	away  map[string]time.Duration // by host
}

func (w farWriters) RoundTrip(r *http.Request) (*http.Response, error) {
	after := w.away[r.URL.Host]
	if q := r.URL.Query(); strings.HasPrefix(r.URL.Path, replication.ChangesPath) && q.Get("wait") != "0" {
		after += replication.MaxWait // nothing changes here
		q.Set("wait", "0")
		r.URL.RawQuery = q.Encode()
	}
	select {
	case <-time.After(after):
	case <-r.Context().Done():
		return nil, r.Context().Err()
	}
	rec := httptest.NewRecorder()
	w.serve.ServeHTTP(rec, r)
	return rec.Result(), nil
}

// TestAFollowerGoesOverToANearWriter: it finds out by itself which writer is near, asks that one, and says how far each is.
func TestAFollowerGoesOverToANearWriter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWriter(t)
		w.Put(record("a", "1"))
		f := replication.NewFollower(replication.FollowConfig{
			Node: "e1", Writers: []string{"http://far", "http://farther", "http://near"}, Replica: newMemory(), SpoolDir: t.TempDir(), Verifier: replication.NewVerifier(w.Roots(), w.Cluster),
			Transport: farWriters{w, map[string]time.Duration{"far": 90 * time.Millisecond, "farther": 200 * time.Millisecond, "near": 3 * time.Millisecond}},
		})
		ended := make(chan error, 1)
		ctx, stop := context.WithCancel(t.Context())
		go func() { ended <- f.Follow(ctx) }()
		<-time.After(time.Second)
		if used := f.Status().Writer; used != "http://far" {
			t.Errorf("the first writer in use is %s, want the first of the list", used)
		}
		<-time.After(30 * time.Second)
		s := f.Status()
		if s.Writer != "http://near" || s.RoundTrips["http://near"] != 3*time.Millisecond || s.RoundTrips["http://farther"] != 200*time.Millisecond {
			t.Errorf("after 31 s: %+v, want the near one in use, 3 ms away", s)
		}
		var order []string
		for _, c := range f.Clients() {
			order = append(order, c.Base())
		}
		if want := []string{"http://near", "http://far", "http://farther"}; !slices.Equal(order, want) {
			t.Errorf("they are worth asking in the order %v, want %v", order, want)
		}
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

// TestMeasuringDoesNotDisturbAClimb: a snapshot that is on its way is not given up for a nearer writer.
func TestMeasuringDoesNotDisturbAClimb(t *testing.T) {
	s := newStairs(t)
	s.l.Lost()
	if r := s.l.NextPull(s.now); r.Kind != replication.AskSnapshot || r.Writer != 0 {
		t.Fatalf("a replica that lost its data asks %+v, want a snapshot of the first writer", r)
	}
	for range 3 {
		s.l.Measured(s.now, []replication.Distance{{Took: 90 * time.Millisecond, Signed: s.w.SignedHead()}, {Took: time.Millisecond, Signed: s.w.SignedHead()}})
	}
	if _, interrupt := s.l.Signals(); interrupt || s.l.Writer() != 0 {
		t.Errorf("the climb is interrupted (%t), the writer in use is %d", interrupt, s.l.Writer())
	}
	if err := s.l.Finish(s.now, replication.Request{Kind: replication.AskSnapshot}, s.l.Climb(), errors.New("broken off")); err == nil {
		t.Error("a broken climb ended well")
	}
}
