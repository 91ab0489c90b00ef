package writer

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/latchkey/latchkey/pkg/entitlement"
	"github.com/latchkey/latchkey/pkg/problem"
	"github.com/latchkey/latchkey/writer/internal/store"
)

// A follower passes its clients' commands on to the leader in batches: whatever has come while the last ones were under way. Under
// load one request then carries many commands, and nobody waits for a batch to fill.
const (
	// relayStreams is how many batches of an environment are under way at a time: enough to keep the leader's log busy.
	relayStreams = 4
	// relayCommands and relayBytes bound a batch. One command always fits.
	relayCommands = 128
	relayBytes    = 1 << 20
	// relayWaiting bounds the commands that wait for a stream; further ones are told to try again.
	relayWaiting = 8192
)

// What became of a command in a batch, for the follower that sent it.
const (
	relayedDone      = "done"
	relayedElsewhere = "not-leader" // nothing was written: ask the leader
	relayedTooLarge  = "too-large"
	relayedBusy      = "busy"    // nothing was written: send it again in a moment
	relayedNoRoom    = "no-room" // nothing was written: the disks are nearly full
	relayedNoTime    = "no-time" // nothing was written: the clocks are behind the last stamp
	relayedUnknown   = "unknown" // it may have been written; send it again
)

// relayed is the leader's answer to one command of a batch.
type relayed struct {
	Kind   string       `cbor:"1,keyasint"`
	Result store.Result `cbor:"2,keyasint"`
}

// relay passes commands of one environment on. Environments do not share one, so that none waits in the other's batch.
type relay struct {
	send    func(ctx context.Context, body []byte) ([]byte, error)
	waiting chan *passing
}

// passing is a command on its way.
type passing struct {
	ctx     context.Context
	encoded []byte
	done    chan struct{} // closed when answer and err are set
	answer  relayed
	err     error
}

func newRelay(send func(ctx context.Context, body []byte) ([]byte, error)) *relay {
	return &relay{send: send, waiting: make(chan *passing, relayWaiting)}
}

// run passes on what comes until ctx ends.
func (r *relay) run(ctx context.Context) {
	var streams sync.WaitGroup
	for range relayStreams {
		streams.Go(func() {
			for {
				select {
				case <-ctx.Done():
					return
				case first := <-r.waiting:
					r.pass(ctx, r.gather(first))
				}
			}
		})
	}
	streams.Wait()
}

// gather takes what waits behind first, as far as it fits. A command whose client has gone is left out.
func (r *relay) gather(first *passing) []*passing {
	batch, size := []*passing{first}, len(first.encoded)
	for len(batch) < relayCommands && size < relayBytes {
		select {
		case next := <-r.waiting:
			if next.ctx.Err() == nil {
				batch, size = append(batch, next), size+len(next.encoded)
			}
		default:
			return batch
		}
	}
	return batch
}

// pass sends a batch and hands out the answers.
func (r *relay) pass(ctx context.Context, batch []*passing) {
	var body []byte
	for _, p := range batch {
		body = binary.BigEndian.AppendUint32(body, uint32(len(p.encoded)))
		body = append(body, p.encoded...)
	}
	var answers []relayed
	answer, err := r.send(ctx, body)
	if err == nil {
		if err = entitlement.Decode(answer, &answers); err == nil && len(answers) != len(batch) {
			err = fmt.Errorf("%d answers to %d commands: %w", len(answers), len(batch), errUnreachable)
		}
	}
	for i, p := range batch {
		if p.err = err; err == nil {
			p.answer = answers[i]
		}
		close(p.done)
	}
}

// propose passes one command on. Errors: those that tell proposeOnce what to do next; ctx.Err.
func (r *relay) propose(ctx context.Context, encoded []byte) (store.Result, error) {
	p := &passing{ctx: ctx, encoded: encoded, done: make(chan struct{})}
	select {
	case r.waiting <- p:
	default:
		return store.Result{}, store.ErrBusy
	}
	select {
	case <-p.done:
	case <-ctx.Done():
		return store.Result{}, ctx.Err()
	}
	if p.err != nil {
		return store.Result{}, p.err
	}
	switch p.answer.Kind {
	case relayedDone:
		return p.answer.Result, nil
	case relayedElsewhere:
		return store.Result{}, store.ErrNotLeader
	case relayedTooLarge:
		return store.Result{}, store.ErrTooLarge
	case relayedBusy:
		return store.Result{}, store.ErrBusy
	case relayedNoRoom:
		return store.Result{}, errNoRoom
	case relayedNoTime:
		return store.Result{}, errNoTime
	}
	return store.Result{}, store.ErrOutcomeUnknown
}

// handlePropose takes a batch of commands from another writer. It never passes them on: one hop, so that no command can go round in
// circles.
func (w *Writer) handlePropose(rw http.ResponseWriter, r *http.Request) error {
	body, err := readBody(r, relayBytes+store.MaxEntryBytes+4*relayCommands)
	if err != nil {
		return err
	}
	commands, err := splitCommands(body)
	if err != nil {
		return problem.New(problem.InvalidRequest, "This is not a batch of commands.")
	}
	ctx, cancel := context.WithTimeout(r.Context(), attemptTimeout-relayMargin)
	defer cancel()
	answers := make([]relayed, len(commands))
	var committing sync.WaitGroup
	for i, encoded := range commands {
		committing.Go(func() { answers[i] = w.takeRelayed(ctx, encoded) })
	}
	committing.Wait()
	writeBody(rw, http.StatusOK, cborType, entitlement.Encode(answers))
	return nil
}

// relayMargin is how much earlier than the follower the leader gives a batch up, so that what is known of its commands still arrives.
const relayMargin = 500 * time.Millisecond

func (w *Writer) takeRelayed(ctx context.Context, encoded []byte) relayed {
	result, err := w.proposeHere(ctx, encoded)
	switch {
	case err == nil:
		return relayed{Kind: relayedDone, Result: result}
	case errors.Is(err, store.ErrNotLeader):
		return relayed{Kind: relayedElsewhere}
	case errors.Is(err, store.ErrTooLarge):
		return relayed{Kind: relayedTooLarge}
	case errors.Is(err, store.ErrBusy), errors.Is(err, store.ErrClock):
		return relayed{Kind: relayedBusy}
	case errors.Is(err, errNoRoom):
		return relayed{Kind: relayedNoRoom}
	case errors.Is(err, errNoTime):
		return relayed{Kind: relayedNoTime}
	case !retryable(err) && ctx.Err() == nil:
		w.log.ErrorContext(ctx, "relayed proposal failed", "error", err)
	}
	return relayed{Kind: relayedUnknown}
}

var errBatch = errors.New("malformed batch")

// splitCommands returns the commands of a batch; they are parts of body.
func splitCommands(body []byte) ([][]byte, error) {
	var commands [][]byte
	for len(body) > 0 {
		if len(body) < 4 || len(commands) == relayCommands {
			return nil, errBatch
		}
		n := binary.BigEndian.Uint32(body)
		if body = body[4:]; uint64(n) > uint64(len(body)) || n > store.MaxEntryBytes {
			return nil, errBatch
		}
		commands, body = append(commands, body[:n]), body[n:]
	}
	return commands, nil
}
