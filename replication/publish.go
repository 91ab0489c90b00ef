package replication

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/latchkey/latchkey/pkg/fault"
)

// Log is the change log of a writer, as far as a publisher needs it.
type Log interface {
	// Position is where the log ends now.
	Position() Position
	// Updated returns a channel that is closed at the next change. Take it first, then look.
	Updated() <-chan struct{}
	// Changes returns consecutive changes after a revision and the position after the last of them. Error: ErrBelowFloor.
	Changes(after uint64, limit, maxBytes int) ([][]byte, Position, error)
}

// ErrBelowFloor means that the change log begins later: only a snapshot helps.
var ErrBelowFloor = errors.New("below the change log's floor")

// A published batch is closed after 5 ms or 256 changes, whichever comes first: few enough signatures under load, and no
// delay that anyone notices.
const (
	batchWait    = 5 * time.Millisecond
	batchChanges = 256
)

// PublishConfig is what Publish needs.
type PublishConfig struct {
	Log  Log
	Sign func(Position) (string, error) // as a writer signs positions
	Send func(frame []byte) error       // NATS.PublishBatch; an error is counted by the sender and repaired by the edges' pull
}

// Publisher decides what goes out next. Like Ladder it has no clock or goroutine of its own; Publish drives it.
type Publisher struct {
	cfg  PublishConfig
	sent Position
	last time.Time
}

// NewPublisher returns one that sends what comes after the log's present end.
func NewPublisher(cfg PublishConfig) *Publisher {
	return &Publisher{cfg: cfg, sent: cfg.Log.Position()}
}

// Next sends what is due now. It returns how long to wait before it is asked again; 0 means until the log's next update, which must
// have been looked for before the call, and a negative wait that there is more.
func (p *Publisher) Next(now time.Time) (wait time.Duration, err error) {
	at := p.cfg.Log.Position()
	if at.Epoch != p.sent.Epoch {
		p.sent = at // a new history: edges learn of it from the head and pull
	}
	if at.N == p.sent.N {
		return 0, nil
	}
	if wait := batchWait - now.Sub(p.last); wait > 0 && at.N-p.sent.N < batchChanges {
		return wait, nil
	}
	changes, position, err := p.cfg.Log.Changes(p.sent.N, batchChanges, MaxMessageBytes)
	if errors.Is(err, ErrBelowFloor) {
		p.sent = p.cfg.Log.Position()
		return -1, nil
	}
	if err != nil {
		return 0, fmt.Errorf("publish after revision %d: %w", p.sent.N, err)
	}
	p.sent, p.last = position, now
	signed, err := p.cfg.Sign(position)
	if err != nil {
		return 0, fmt.Errorf("sign position %d: %w", position.N, err)
	}
	if fault.Planted("publish-drops-a-change") && position.N%3 == 0 {
		return -1, nil
	}
	_ = p.cfg.Send(Batch{Signed: signed, Changes: changes}.AppendBinary(nil)) // lost is lost: the edges pull
	return -1, nil
}

// Publish sends every change from now on, in batches that end with their signed position, until ctx ends. The leader alone
// runs it, but a deposed one does no harm: what is in its log is committed, so what it sends is true. What is not sent
// is not sent again: edges see the gap and pull.
func Publish(ctx context.Context, cfg PublishConfig) error {
	p := NewPublisher(cfg)
	for ctx.Err() == nil {
		updated := cfg.Log.Updated()
		wait, err := p.Next(time.Now())
		switch {
		case err != nil:
			return err
		case wait < 0:
			continue
		case wait > 0:
			select {
			case <-ctx.Done():
			case <-time.After(wait):
			}
		default:
			select {
			case <-ctx.Done():
			case <-updated:
			}
		}
	}
	return nil
}
