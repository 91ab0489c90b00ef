package store

import (
	"errors"
	"sync"
	"sync/atomic"
	"testing"
)

// Reads that share have one transaction at a time each, and none is open when the last of them has read or left.
func TestReadsThatShareCloseWhatTheyOpened(t *testing.T) {
	node := startCluster(t, 1, nil)[0]
	leaderOf(t, node)
	isOpen := func(r *Reader) bool { return r.tx.DB() != nil }
	errAsked := errors.New("the caller's")
	for _, tt := range []struct {
		name         string
		views, leave int
		err          error
	}{
		{"one alone", 1, 0, nil},
		{"many", 50, 0, nil},
		{"many, and some of them leave", 50, 20, nil},
		{"all leave", 0, 5, nil},
		{"their errors come back", 9, 1, errAsked},
	} {
		t.Run(tt.name, func(t *testing.T) {
			shared := node.Share(tt.views + tt.leave)
			var all sync.WaitGroup
			var using, used sync.Map
			var read atomic.Int64
			for range tt.views {
				all.Go(func() {
					err := shared.View(func(r *Reader) error {
						used.Store(r, true)
						if _, taken := using.LoadOrStore(r, true); taken {
							t.Error("two have one transaction at a time")
						}
						if r.Position().Cluster == testCluster && !r.HasAccount(sandbox, "acc_none") {
							read.Add(1)
						}
						using.Delete(r)
						return tt.err
					})
					if !errors.Is(err, tt.err) {
						t.Errorf("View: %v, want %v", err, tt.err)
					}
				})
			}
			for range tt.leave {
				all.Go(shared.Leave)
			}
			all.Wait()
			if read.Load() != int64(tt.views) {
				t.Errorf("%d have read, want %d", read.Load(), tt.views)
			}
			used.Range(func(r, _ any) bool {
				if isOpen(r.(*Reader)) {
					t.Error("a transaction is open, and nobody will come")
				}
				return true
			})
		})
	}
	shared := node.Share(3)
	var first *Reader
	for range 2 {
		if err := shared.View(func(r *Reader) error {
			if first == nil {
				first = r
			} else if r != first {
				t.Error("the next one does not go on with the transaction of the first")
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	if !isOpen(first) {
		t.Error("the transaction is closed before the last one has come")
	}
	if shared.Leave(); isOpen(first) {
		t.Error("the transaction is open, and nobody will come")
	}
}
