package replication_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/latchkey/latchkey/replication"
)

// TestAPeerThatIsGoneWithoutAWord: a request that hangs is given up once something shows that its answer is overdue, and more patiently each time.
func TestAPeerThatIsGoneWithoutAWord(t *testing.T) {
	w, m := newWriter(t), newMemory()
	now := time.Now()
	ladder := func(writers int) *replication.Ladder {
		l := replication.NewLadder(replication.LadderConfig{Replica: m, Verifier: replication.NewVerifier(w.Roots(), w.Cluster), Writers: writers, Source: true,
			Random: func() float64 { return 0 }})
		l.Start(now)
		return l
	}
	interrupted := func(l *replication.Ladder) bool {
		_, interrupt := l.Signals()
		return interrupt
	}
	t.Run("changes that a head tells of do not come", func(t *testing.T) {
		m.head = replication.Head{Position: w.Position()}
		l := ladder(2)
		if r := l.NextPull(now); r.Kind != replication.AskChanges || r.Wait != replication.MaxWait {
			t.Fatalf("NextPull = %+v, want a long poll", r)
		}
		w.Put(record("a", "1"))
		var given []time.Duration
		for at := time.Duration(0); at < 20*time.Second; at += time.Second {
			w.Now = func() time.Time { return now.Add(at) }
			l.HeadFromSource(now.Add(at), []byte(w.SignedHead()))
			if interrupted(l) {
				given = append(given, at)
				l.NextPull(now.Add(at))
			}
		}
		if got, want := fmt.Sprint(given), "[2s 6s 13s]"; got != want {
			t.Errorf("given up at %s, want %s", got, want)
		}
		if l.Writer() != 1 {
			t.Errorf("asks writer %d: each that hangs is left for the next", l.Writer())
		}
	})
	t.Run("a snapshot's writer does not answer for its head", func(t *testing.T) {
		m.head = replication.Head{}
		l := ladder(2)
		r := l.NextPull(now)
		if r.Kind != replication.AskSnapshot {
			t.Fatalf("NextPull = %+v, want a snapshot", r)
		}
		head := l.NextHead(now.Add(time.Second))
		if head.Kind != replication.AskHead || interrupted(l) {
			t.Fatalf("NextHead = %+v during a climb, want a head", head)
		}
		l.TookHead(now.Add(4*time.Second), head, "", fmt.Errorf("timeout: %w", replication.ErrUnavailable))
		if !interrupted(l) || l.Writer() != 1 {
			t.Errorf("the download goes on, from writer %d", l.Writer())
		}
		climb := l.Climb()
		if err := l.Finish(now.Add(4*time.Second), r, climb, replication.ErrUnavailable); !errors.Is(err, replication.ErrUnavailable) {
			t.Errorf("Finish = %v", err)
		}
		if r := l.NextPull(now.Add(4 * time.Second)); r.Kind != replication.AskSnapshot || r.Writer != 1 {
			t.Errorf("NextPull = %+v, want a snapshot of the next writer", r)
		}
	})
}
