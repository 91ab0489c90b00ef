package replication

import (
	"context"
	"errors"
	"fmt"
	"time"
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

// Publish sends every change from now on, in batches that end with their signed position, until ctx ends. The leader alone
// runs it, but a deposed one does no harm: what is in its log is committed, so what it sends is true. What is not sent
// is not sent again: edges see the gap and pull.
func Publish(ctx context.Context, cfg PublishConfig) error {
	sent := cfg.Log.Position()
	var last time.Time
	for ctx.Err() == nil {
		updated := cfg.Log.Updated()
		now := cfg.Log.Position()
		if now.Epoch != sent.Epoch {
			sent = now // a new history: edges learn of it from the head and pull
		}
		if now.N == sent.N {
			select {
			case <-ctx.Done():
				return nil
			case <-updated:
			}
			continue
		}
		if wait := batchWait - time.Since(last); wait > 0 && now.N-sent.N < batchChanges {
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(wait):
			}
		}
		changes, position, err := cfg.Log.Changes(sent.N, batchChanges, MaxMessageBytes)
		if errors.Is(err, ErrBelowFloor) {
			sent = cfg.Log.Position()
			continue
		}
		if err != nil {
			return fmt.Errorf("publish after revision %d: %w", sent.N, err)
		}
		sent, last = position, time.Now()
		signed, err := cfg.Sign(position)
		if err != nil {
			return fmt.Errorf("sign position %d: %w", position.N, err)
		}
		_ = cfg.Send(Batch{Signed: signed, Changes: changes}.AppendBinary(nil)) // lost is lost: the edges pull
	}
	return nil
}
