package writer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"time"

	"github.com/latchkey/latchkey/pkg/entitlement"
	"github.com/latchkey/latchkey/pkg/problem"
	"github.com/latchkey/latchkey/writer/internal/store"
)

// How a command reaches the leader.
const (
	// proposeTimeout is how long one request's command is tried: an election takes about 2 s, and a provider gives up after 10.
	proposeTimeout = 8 * time.Second
	// The pause before another try, doubled up to the maximum, with jitter so that waiting requests do not come all at once.
	retryPauseMin = 20 * time.Millisecond
	retryPauseMax = 400 * time.Millisecond
	// retryAfter is what a client is told when there was no leader in proposeTimeout.
	retryAfter = 2 * time.Second
	// maxResultBytes bounds what is read of another writer's answer.
	maxResultBytes = 256 << 10
)

const (
	cborType = "application/cbor"
	// clusterHeader names the cluster in requests between writers. A page in a browser on this machine cannot set it unasked, and a
	// writer of another cluster sets another.
	clusterHeader = "Latchkey-Cluster"
)

// propose commits a command and returns what it came to. The same bytes are tried until somebody leads, for at most proposeTimeout: the
// state machine drops what it has seen. Errors: a problem (unavailable, body-too-large), ctx.Err.
func (w *Writer) propose(ctx context.Context, t store.CommandType, env entitlement.Environment, body any) (store.Result, error) {
	began := time.Now()
	command := store.NewCommand(t, env, problem.RequestID(ctx), body)
	if t != store.TypeRecordEvent { // which is the provider's word, whoever had it asked
		command.Caller = w.callerOf(ctx)
	}
	result, err := w.tryPropose(ctx, command.Encode())
	w.metrics.proposed(err, time.Since(began))
	return result, err
}

func (w *Writer) tryPropose(ctx context.Context, encoded []byte) (store.Result, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, proposeTimeout, errProposeTimeout)
	defer cancel()
	pause := retryPauseMin
	for {
		result, err := w.proposeOnce(ctx, encoded)
		if err == nil {
			return result, nil
		}
		if errors.Is(err, store.ErrTooLarge) {
			return result, problem.New(problem.BodyTooLarge, "The request does not fit one entry of the log.")
		}
		if errors.Is(err, errNoRoom) {
			return result, noRoom()
		}
		if errors.Is(err, errNoTime) {
			return result, unavailable("The writers' clocks are behind the last write. Reads go on.")
		}
		if !retryable(err) && ctx.Err() == nil {
			w.log.ErrorContext(ctx, "proposal failed", "request_id", problem.RequestID(ctx), "error", err)
			return result, unavailable("The write could not be done at present.")
		}
		select {
		case <-ctx.Done():
			if errors.Is(context.Cause(ctx), errProposeTimeout) {
				w.log.WarnContext(ctx, "no leader in time", "request_id", problem.RequestID(ctx), "error", err)
				return result, unavailable("No majority of writers confirmed the write in time.")
			}
			return result, ctx.Err()
		case <-time.After(pause/2 + rand.N(pause)):
		}
		pause = min(2*pause, retryPauseMax)
	}
}

var errProposeTimeout = errors.New("no leader in time")

func unavailable(detail string) error {
	return problem.New(problem.Unavailable, detail).After(retryAfter)
}

// retryable reports whether the same command may be sent again at once.
func retryable(err error) bool {
	return errors.Is(err, store.ErrNotLeader) || errors.Is(err, store.ErrOutcomeUnknown) || errors.Is(err, store.ErrBusy) ||
		errors.Is(err, store.ErrClock) || errors.Is(err, errUnreachable)
}

// errUnreachable means that another writer did not answer: what was asked may or may not have been done.
var errUnreachable = errors.New("writer unreachable")

// proposeOnce hands the command to the leader, which is this node or one hop away.
func (w *Writer) proposeOnce(ctx context.Context, encoded []byte) (store.Result, error) {
	if w.store.IsLeader() {
		return w.proposeHere(ctx, encoded)
	}
	return w.relays[store.EnvironmentOf(encoded)].propose(ctx, encoded)
}

// proposeHere commits a command on this node, as the leader, when it is the turn of its environment.
func (w *Writer) proposeHere(ctx context.Context, encoded []byte) (store.Result, error) {
	if w.disk.full.Load() && w.store.IsLeader() {
		return store.Result{}, errNoRoom
	}
	leave, err := w.admission.enter(ctx, store.EnvironmentOf(encoded))
	if err != nil {
		return store.Result{}, err
	}
	defer leave()
	result, err := w.store.Propose(ctx, encoded)
	if errors.Is(err, store.ErrClock) && !errors.Is(err, errClockOff) { // by what the store saw: to look again might see a clock that is believed since
		err = errNoTime
	}
	return result, err
}

// errNoTime means that the leader's clock is right and yet behind the last stamp: all clocks were ahead before. Nothing was written, and
// nobody else could either, so nobody is kept waiting.
var errNoTime = errors.New("clocks behind the last stamp")

// askLeader sends a request to the leader's internal listener and returns the body of its 200. Errors: store.ErrNotLeader when no other node is known
// to lead, errUnreachable, store.ErrTooLarge.
func (w *Writer) askLeader(ctx context.Context, method, path string, body []byte) ([]byte, error) {
	leader := w.store.Leader()
	base := w.baseOf(leader)
	if base == "" || leader == w.cfg.Node.ID {
		return nil, store.ErrNotLeader
	}
	ctx, cancel := context.WithTimeout(ctx, attemptTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, base+path, bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("ask %s: %w", leader, err)
	}
	req.Header.Set("Content-Type", cborType)
	req.Header.Set(clusterHeader, w.cfg.Node.Cluster)
	req.Header.Set(requestIDHeader, problem.RequestID(ctx))
	res, err := w.client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("ask %s: %w: %w", leader, errUnreachable, err)
	}
	defer res.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(res.Body, maxResultBytes))
	if err != nil {
		return nil, fmt.Errorf("ask %s: %w: %w", leader, errUnreachable, err)
	}
	switch res.StatusCode {
	case http.StatusOK:
		return answer, nil
	case http.StatusRequestEntityTooLarge:
		return nil, store.ErrTooLarge
	case http.StatusServiceUnavailable:
		return nil, fmt.Errorf("ask %s: %w", leader, errUnreachable)
	}
	return nil, fmt.Errorf("ask %s: status %d", leader, res.StatusCode)
}
