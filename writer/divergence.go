package writer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/latchkey/latchkey/pkg/entitlement"
	"github.com/latchkey/latchkey/writer/internal/store"
)

// Writers that have applied the same log hold the same state (I3). A fault of memory, a file that was changed on the disk or a mistake of
// ours can break that without any error, and what is wrong at the leader goes out signed. So writers compare, and one that a
// majority contradicts stops.

const (
	marksPath = "/internal/v1/marks"
	// compareInterval is how often a writer compares itself with the others: for so long at most does a wrong state serve under load. (An idle
	// cluster is compared at its last entry.)
	compareInterval = 2 * time.Second
	// compareWithin is how long another writer may take to answer.
	compareWithin = time.Second
	// maxMarksBytes bounds what is read of an answer: 257 marks of some 50 bytes.
	maxMarksBytes = 64 << 10
)

// compareStates compares this node's state with the other writers' until ctx ends. Where this one is the wrong one, the store ends
// the process.
func (w *Writer) compareStates(ctx context.Context) {
	ticker := time.NewTicker(compareInterval)
	defer ticker.Stop()
	said := false
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		_, err := w.store.Compare(w.othersMarks(ctx))
		if err != nil && !errors.Is(err, store.ErrDiverged) && !said {
			w.log.ErrorContext(ctx, "states differ", "error", err)
		}
		said = err != nil
		w.differs.Store(said)
	}
}

// othersMarks asks all other writers at once. Who does not answer is not in the result.
func (w *Writer) othersMarks(ctx context.Context) map[string][]store.Mark {
	ctx, cancel := context.WithTimeout(ctx, compareWithin)
	defer cancel()
	var (
		mu     sync.Mutex
		all    = map[string][]store.Mark{}
		asking sync.WaitGroup
	)
	for id, base := range w.others() {
		asking.Go(func() {
			marks, err := w.askMarks(ctx, base)
			if err != nil {
				w.log.DebugContext(ctx, "no marks of a writer", "writer", id, "error", err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			all[id] = marks
		})
	}
	asking.Wait()
	return all
}

func (w *Writer) askMarks(ctx context.Context, base string) ([]store.Mark, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, base+marksPath, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set(clusterHeader, w.cfg.Node.Cluster)
	res, err := w.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, maxMarksBytes))
	if err != nil {
		return nil, err
	}
	if res.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("status %d", res.StatusCode)
	}
	var marks []store.Mark
	return marks, entitlement.Decode(body, &marks)
}

// handleMarks serves what another writer compares this one's state by.
func (w *Writer) handleMarks(rw http.ResponseWriter, _ *http.Request) error {
	writeBody(rw, http.StatusOK, cborType, entitlement.Encode(w.store.Marks()))
	return nil
}
