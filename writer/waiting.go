package writer

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/latchkey/latchkey/pkg/entitlement"
	"github.com/latchkey/latchkey/pkg/fault"
	"github.com/latchkey/latchkey/pkg/problem"
	"github.com/latchkey/latchkey/writer/internal/store"
)

// A provider that waits for seconds alone and may not send again, such as Web2Wave, gets its 200 after the commit like all others. But its message
// lies on this node's disk before anything waits for a leader, so that a 503, a cut connection or a crash loses nothing: it is proposed until a
// leader takes it. A message that comes twice that way has its effect once.

// Limits of what waits: hours of a busy shop without a leader, and little beside the disk's reserve. Beyond them a 503 is what it is for others.
const (
	maxWaiting      = 10_000
	maxWaitingBytes = 64 << 20

	// waitingPause is how long the oldest message rests after its tries found no leader.
	waitingPause = time.Second

	waitingFolder  = "waiting"
	waitingSuffix  = ".message"
	unreadableMark = ".unreadable"
)

// waitingMagic begins each file; the SHA-256 of the rest and the encoded command follow. What is in a command has passed an allow-list: there is no
// token, address or name in it, but for the index of an address.
var waitingMagic = []byte("LKWAIT1\n")

// The outcomes of messages that waited, in the words of the metrics.
const (
	waitingTaken      = "committed"  // a leader took it, after its provider was answered 503 or nothing
	waitingUnreadable = "unreadable" // the file is damaged and was set aside
	waitingFull       = "full"       // there was no room to keep it
	waitingRefused    = "refused"    // it can never be committed
)

var waitingOutcomes = []string{waitingTaken, waitingUnreadable, waitingFull, waitingRefused}

var errWaitingFull = errors.New("too many messages wait for a leader")

// waiting keeps messages on disk until they are committed. It is safe for concurrent use.
type waiting struct {
	dir   string
	log   *slog.Logger
	count func(outcome string)

	mu    sync.Mutex
	sizes map[string]int64 // of the files, by name
	bytes int64
	due   []string      // those that nobody proposes at present, oldest first
	woken chan struct{} // due has something
}

// openWaiting opens the folder with what an earlier run left there. Files that cannot be read are set aside and counted.
func openWaiting(dir string, log *slog.Logger, count func(outcome string)) (*waiting, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make folder of waiting messages: %w", err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("waiting messages: %w", err)
	}
	w := &waiting{dir: dir, log: log, count: count, sizes: map[string]int64{}, woken: make(chan struct{}, 1)}
	for _, e := range entries { // names are ULIDs: in the order in which they came
		info, err := e.Info()
		switch {
		case err != nil || !info.Mode().IsRegular():
		case strings.HasSuffix(e.Name(), ".tmp"): // never answered for
			_ = os.Remove(filepath.Join(dir, e.Name()))
		case strings.HasSuffix(e.Name(), waitingSuffix):
			w.sizes[e.Name()], w.bytes = info.Size(), w.bytes+info.Size()
			w.due = append(w.due, e.Name())
		}
	}
	w.wake()
	return w, nil
}

// keep puts a command on disk and returns its name. When it returns the file survives a loss of power. Error: errWaitingFull, and those of the disk.
func (w *waiting) keep(encoded []byte) (name string, err error) {
	sum := sha256.Sum256(encoded)
	content := slices.Concat(waitingMagic, sum[:], encoded)
	name = newID() + waitingSuffix
	w.mu.Lock()
	if len(w.sizes) >= maxWaiting || w.bytes+int64(len(content)) > maxWaitingBytes {
		w.mu.Unlock()
		return "", errWaitingFull
	}
	w.sizes[name], w.bytes = int64(len(content)), w.bytes+int64(len(content)) // its room, before it is written
	w.mu.Unlock()
	if err := w.write(name, content); err != nil {
		w.drop(name)
		return "", fmt.Errorf("keep message: %w", err)
	}
	return name, nil
}

func (w *waiting) write(name string, content []byte) error {
	path := filepath.Join(w.dir, name)
	f, err := os.OpenFile(path+".tmp", os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	fault.Point("waiting-written")
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return errors.Join(err, os.Remove(path+".tmp"))
	}
	if err := os.Rename(path+".tmp", path); err != nil {
		return err
	}
	fault.Point("waiting-renamed")
	folder, err := os.Open(w.dir)
	if err != nil {
		return err
	}
	return errors.Join(folder.Sync(), folder.Close())
}

// release says that nobody proposes the message any more: it is due.
func (w *waiting) release(name string) {
	w.mu.Lock()
	w.due = append(w.due, name)
	w.mu.Unlock()
	w.wake()
}

func (w *waiting) wake() {
	select {
	case w.woken <- struct{}{}:
	default:
	}
}

// drop removes a message that was committed. Should the file come back with a crash, it is proposed again and found to be a duplicate.
func (w *waiting) drop(name string) {
	if err := os.Remove(filepath.Join(w.dir, name)); err != nil && !errors.Is(err, os.ErrNotExist) {
		w.log.Warn("message not removed", "error", err)
	}
	w.forget(name)
}

func (w *waiting) forget(name string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.bytes -= w.sizes[name]
	delete(w.sizes, name)
}

// oldest takes the oldest message that is due.
func (w *waiting) oldest() (name string, ok bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.due) == 0 {
		return "", false
	}
	name, w.due = w.due[0], w.due[1:]
	return name, true
}

// putBack makes a message the oldest that is due again.
func (w *waiting) putBack(name string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.due = slices.Insert(w.due, 0, name)
}

// read returns the command in a file. One that is damaged is set aside, so that an operator may look at it.
func (w *waiting) read(name string) (encoded []byte, ok bool) {
	path := filepath.Join(w.dir, name)
	content, err := os.ReadFile(path)
	if err == nil && len(content) > len(waitingMagic)+sha256.Size && bytes.HasPrefix(content, waitingMagic) {
		encoded = content[len(waitingMagic)+sha256.Size:]
		if sum := sha256.Sum256(encoded); bytes.Equal(sum[:], content[len(waitingMagic):len(waitingMagic)+sha256.Size]) {
			return encoded, true
		}
		err = errors.New("checksum does not match")
	} else if err == nil {
		err = errors.New("not a message")
	}
	w.count(waitingUnreadable)
	w.log.Error("waiting message cannot be read", "file", name, "error", errors.Join(err, os.Rename(path, path+unreadableMark)))
	w.forget(name)
	return nil, false
}

// length is how many messages are on disk.
func (w *waiting) length() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.sizes)
}

// proposePatiently is propose for a provider that waits for patience alone. Where the event proves something it is on disk before anything waits, and
// stays there until it is committed, whatever the provider is told.
func (w *Writer) proposePatiently(ctx context.Context, env entitlement.Environment, body store.RecordEvent, patience time.Duration) (store.Result, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, patience, errProposeTimeout)
	defer cancel()
	encoded := store.NewCommand(store.TypeRecordEvent, env, problem.RequestID(ctx), body).Encode()
	ev := &body.Event
	name := ""
	if ev.Kind != entitlement.Unhandled {
		var err error
		if name, err = w.waiting.keep(encoded); err != nil {
			w.metrics.waited.WithLabelValues(waitingFull).Inc()
			w.log.ErrorContext(ctx, "message not kept: should no leader take it now, it is lost", "provider", ev.Provider, "request_id", problem.RequestID(ctx), "error", err)
		}
	}
	fault.Point("waiting-kept")
	began := time.Now()
	var result store.Result
	err := w.speaks(ev.Provider)
	if err == nil {
		result, err = w.tryPropose(ctx, encoded)
		w.metrics.proposed(err, time.Since(began))
	}
	fault.Point("waiting-proposed")
	switch {
	case name == "":
	case err == nil:
		w.waiting.drop(name)
	default:
		w.waiting.release(name)
	}
	return result, err
}

// proposeWaiting proposes what waits on disk, the oldest first, until ctx ends.
func (w *Writer) proposeWaiting(ctx context.Context) {
	for ctx.Err() == nil {
		name, ok := w.waiting.oldest()
		if !ok {
			select {
			case <-ctx.Done():
			case <-w.waiting.woken:
			}
			continue
		}
		encoded, ok := w.waiting.read(name)
		if !ok {
			continue
		}
		result, err := w.proposeKept(ctx, encoded)
		switch {
		case err == nil:
			w.metrics.waited.WithLabelValues(waitingTaken).Inc()
			w.log.InfoContext(ctx, "message that waited recorded", "event_id", result.EventID, "outcome", result.Outcome, "duplicate", result.Duplicate, "revision", result.Revision.String())
		case errors.Is(err, store.ErrCommand), errors.Is(err, problem.New(problem.BodyTooLarge, "")):
			w.metrics.waited.WithLabelValues(waitingRefused).Inc()
			w.log.ErrorContext(ctx, "message that waited can never be recorded", "file", name, "error", err)
		default:
			w.waiting.putBack(name)
			if !wait(ctx, waitingPause, nil, nil) {
				return
			}
			continue
		}
		fault.Point("waiting-taken")
		w.waiting.drop(name)
	}
}

func (w *Writer) proposeKept(ctx context.Context, encoded []byte) (store.Result, error) {
	command, err := store.DecodeCommand(encoded)
	if err != nil {
		return store.Result{}, err
	}
	var body store.RecordEvent
	if err := entitlement.Decode(command.Body, &body); err != nil {
		return store.Result{}, fmt.Errorf("%w: %w", store.ErrCommand, err)
	}
	if err := w.speaks(body.Event.Provider); err != nil {
		return store.Result{}, err
	}
	ctx = problem.WithRequestID(ctx, command.CorrelationID)
	result, err := w.tryPropose(ctx, encoded)
	if err == nil && result.Outcome == store.Recorded && !result.Duplicate {
		w.metrics.eventRecorded(body.Event.Provider, recordedByWebhook, body.Event.CreatedAt, w.now())
		w.alarmUnmapped(ctx, command.Env, &body.Event)
		w.alarmSoldTwice(ctx, command.Env, &body.Event, result.Account)
	}
	return result, err
}
