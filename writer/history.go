package writer

import (
	"context"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/latchkey/latchkey/pkg/openapi"
	"github.com/latchkey/latchkey/replication"
)

// A restore gives the cluster a new history. Two things must never happen then: that a restored writer answers before its new epoch has begun, and
// that a writer of the old history goes on as if nothing had been.

// Why a writer answers nothing but how it is.
const (
	reasonEpoch      = "epoch"      // restored, and no leader has raised the epoch yet
	reasonSuperseded = "superseded" // the cluster has begun a newer history without this writer
)

const (
	// maxHeadBytes bounds a head that is shown: one with its certificates has about 2 KiB.
	maxHeadBytes = 16 << 10
	// lookEvery is how often a writer looks whether another one has a newer history.
	lookEvery  = 5 * time.Second
	lookWithin = 2 * time.Second
	// judgePause bounds how often a head is judged that comes over NATS, where anybody may flood us: a signature takes a tenth of a millisecond.
	judgePause = 50 * time.Millisecond
)

// alwaysAnswered are the routes of the public and the internal listener that answer although the writer is held back.
var alwaysAnswered = map[string]bool{
	"GET /healthz": true, "GET /readyz": true, "GET /status": true, "GET /metrics": true, "GET " + openapi.Path: true,
	// Among writers, so that a leader can be found: clocks are compared before anything is stamped.
	"GET " + vitalsPath: true, "GET " + marksPath: true,
	"POST " + replication.HeadPath: true,
}

// heldBack says why this writer answers nothing, or "".
func (w *Writer) heldBack() string {
	switch {
	case w.superseded.Load():
		return reasonSuperseded
	case w.store.Held():
		return reasonEpoch
	}
	return ""
}

// unlessHeldBack answers 503 while the writer is held back.
func (w *Writer) unlessHeldBack(h handler) handler {
	return func(rw http.ResponseWriter, r *http.Request) error {
		switch w.heldBack() {
		case reasonSuperseded:
			return unavailable("This writer was superseded: the cluster goes on without it.")
		case reasonEpoch:
			return unavailable("This writer was restored and waits for a majority to begin the new epoch.")
		}
		return h(rw, r)
	}
}

// succession is what a writer needs to notice that it is superseded.
type succession struct {
	superseded atomic.Bool
	judging    sync.Mutex
	judged     time.Time // last head from NATS
}

// handleShownHead takes a head that somebody else has met. Who it comes from does not matter, who signed it does.
func (w *Writer) handleShownHead(rw http.ResponseWriter, r *http.Request) error {
	body, err := readBody(r, maxHeadBytes)
	if err != nil {
		return err
	}
	w.observe(r.Context(), string(body))
	return writeJSON(rw, http.StatusOK, struct{}{})
}

// headFromNATS looks at a head of whoever publishes there.
func (w *Writer) headFromNATS(signed []byte) {
	w.judging.Lock()
	defer w.judging.Unlock()
	if now := time.Now(); now.Sub(w.judged) >= judgePause {
		w.judged = now
		w.observe(w.serving, string(signed))
	}
}

// lookAround asks the other writers for their heads until ctx ends.
func (w *Writer) lookAround(ctx context.Context) {
	ticker := time.NewTicker(lookEvery)
	defer ticker.Stop()
	for {
		var asking sync.WaitGroup
		for _, base := range w.others() {
			asking.Go(func() { w.lookAt(ctx, base) })
		}
		asking.Wait()
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

func (w *Writer) lookAt(ctx context.Context, base string) {
	ctx, cancel := context.WithTimeout(ctx, lookWithin)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, base+replication.HeadPath, nil)
	if err != nil {
		return
	}
	res, err := w.client.Do(req)
	if err != nil {
		return // whoever does not answer shows nothing
	}
	defer res.Body.Close()
	if body, err := io.ReadAll(io.LimitReader(res.Body, maxHeadBytes)); err == nil && res.StatusCode == http.StatusOK {
		w.observe(ctx, string(body))
	}
}

// observe stops this writer for good if signed is a head of its own cluster with a higher epoch, signed by a writer. Age does not matter: an epoch
// that has begun never ends but by another.
func (w *Writer) observe(ctx context.Context, signed string) {
	if w.superseded.Load() {
		return
	}
	h, err := w.verifier.Head(signed, 0)
	if err != nil || !w.store.OlderThan(h.Position) || w.superseded.Swap(true) {
		return
	}
	w.log.ErrorContext(ctx, "superseded: the cluster has begun a newer epoch without this writer, which answers nothing any more and must not be started again on its data",
		"epoch", h.Epoch, "own_epoch", w.store.Position().Epoch)
	if err := w.store.Supersede(h.Position, signed); err != nil {
		// It stops all the same; the next start finds out anew.
		w.log.ErrorContext(ctx, "note that this writer is superseded", "error", err)
	}
	w.stop() // whoever waits for something, and all that runs in the background
	w.spawn(func() {
		ended, cancel := context.WithCancel(context.Background())
		cancel() // nobody is left to hand the lead to
		if err := w.store.Close(ended); err != nil {
			w.log.ErrorContext(ctx, "close the store of a superseded writer", "error", err)
		}
	})
}
