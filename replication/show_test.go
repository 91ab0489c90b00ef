package replication_test

import (
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/latchkey/latchkey/replication"
)

// TestAWriterOfAnEndedHistoryIsShownThatItHasEnded: an edge that knows the new epoch meets a writer of the old one, and shows it a head that only a
// writer of the new one can have signed; nothing that the old one says is taken (I7).
func TestAWriterOfAnEndedHistoryIsShownThatItHasEnded(t *testing.T) {
	for name, path := range map[string]string{"by its head": replication.HeadPath, "by its refusal of changes": replication.ChangesPath} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w, m := newWriter(t), newMemory()
			before := w.Position()
			w.RaiseEpoch()
			shown := make(chan string, 16)
			left := http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
				now := time.Now().Unix()
				switch {
				case r.Method == http.MethodPost && r.URL.Path == replication.HeadPath:
					body, err := io.ReadAll(r.Body)
					if err != nil {
						t.Error(err)
					}
					select {
					case shown <- string(body):
					default:
					}
				case r.URL.Path == replication.HeadPath && path == replication.HeadPath:
					_, _ = io.WriteString(rw, w.Sign(replication.Head{Position: before, AsOf: now}.Claims(now)))
				case r.URL.Path == replication.ChangesPath:
					rw.WriteHeader(http.StatusConflict)
				default:
					rw.WriteHeader(http.StatusServiceUnavailable)
				}
			})
			follow(t, w, m, nil, serve(t, w), serve(t, left))
			m.at(t, w)
			// Of three heads that were asked for, one with the snapshot, one has been met.
			for deadline := time.Now().Add(20 * time.Second); w.Calls(replication.HeadPath) < 3 && time.Now().Before(deadline); {
				pause := time.NewTimer(time.Millisecond)
				<-pause.C
			}
			w.SetDown(true) // only the old one answers now
			select {
			case signed := <-shown:
				h, err := replication.NewVerifier(w.Roots(), w.Position().Cluster).Head(signed, 0)
				if err != nil || h.Epoch != w.Position().Epoch {
					t.Errorf("it was shown %+v, %v, want a head of epoch %d", h, err, w.Position().Epoch)
				}
			case <-time.After(20 * time.Second):
				t.Fatal("it was shown nothing")
			}
			if held := m.Head(); held.Epoch != w.Position().Epoch {
				t.Errorf("the edge went to epoch %d", held.Epoch)
			}
		})
	}
}

// TestASnapshotOfAnEndedHistoryIsNotTaken: NATS has told of the new epoch, and the writer that the edge asks is still in the old one. What it offers
// would be taken again and again; it is shown the head instead, and the next writer is asked.
func TestASnapshotOfAnEndedHistoryIsNotTaken(t *testing.T) {
	w, m, source := newWriter(t), newMemory(), &lossy{}
	w.Put(record("a", "1"))
	body, manifest, signed, err := w.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	before := manifest.Position
	shown := make(chan struct{}, 16)
	left := http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		now := time.Now().Unix()
		switch {
		case r.Method == http.MethodPost:
			select {
			case shown <- struct{}{}:
			default:
			}
		case r.URL.Path == replication.HeadPath:
			_, _ = io.WriteString(rw, w.Sign(replication.Head{Position: before, AsOf: now}.Claims(now)))
		case r.URL.Path == replication.ChangesPath:
			_, _ = rw.Write(replication.Batch{Signed: w.Sign(before.Claims(now))}.AppendBinary(nil))
		case r.URL.Path == replication.SnapshotPath:
			rw.Header().Set(replication.ManifestHeader, signed)
			_, _ = rw.Write(body)
		}
	})
	next := &relay{to: w}
	next.set(true) // not there yet
	follow(t, w, m, source, serve(t, left), serve(t, next))
	deadline := time.Now().Add(20 * time.Second)
	for m.Head().N != before.N && time.Now().Before(deadline) {
		pause := time.NewTimer(time.Millisecond)
		<-pause.C
	}
	w.RaiseEpoch()
	w.Put(record("b", "1"))
	source.head([]byte(w.SignedHead()))
	select {
	case <-shown:
	case <-time.After(20 * time.Second):
		t.Fatal("the old writer was shown nothing")
	}
	next.set(false)
	m.at(t, w)
	if m.built() != 2 {
		t.Errorf("%d snapshots were built, want one of each epoch", m.built())
	}
}
