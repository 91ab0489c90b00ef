// Package outbound hands messages for people to whoever delivers them: an SMTP server, or the customer's own backend by a webhook. A message that was
// handed over once is not sent again; one that was not is tried a few times, and then given back as an error. Nothing of a message reaches an error or a
// log: it holds an address and a secret. Start at Send.
package outbound

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cenkalti/backoff/v5"
)

// Message is what one person gets.
type Message struct {
	Kind    string // what it carries: KindLink or KindCode; empty is KindLink
	ID      string // the same in every try, so that whoever delivers can tell a repeat
	To      string // a bare e-mail address
	Subject string // one line
	Text    string // plain
	Token   string // the link token or the code, for a backend that writes its own mail
}

// What messages carry. The words are part of the webhook.
const (
	KindLink = "link"
	KindCode = "code"
)

// Carrier hands one message over, once.
type Carrier interface {
	// Carry returns nil when the message is the other side's. Errors: ErrRefused; any other may pass.
	Carry(ctx context.Context, m Message) error
}

// ErrRefused means that the other side does not take this message, and would not if it were sent again.
var ErrRefused = errors.New("message refused")

const (
	// maxTries and maxElapsed bound what one message costs. A greylisting server wants minutes, which nobody waits for: the person asks for another link.
	maxTries   = 4
	maxElapsed = 20 * time.Second
	// tryTimeout bounds one try, connecting included.
	tryTimeout = 8 * time.Second
	firstPause = 200 * time.Millisecond
)

// Send hands a message over, and tries again where that may help. Errors: ErrRefused, the last try's, ctx's.
func Send(ctx context.Context, c Carrier, m Message) error {
	pause := backoff.NewExponentialBackOff()
	pause.InitialInterval = firstPause
	_, err := backoff.Retry(ctx, func() (struct{}, error) {
		try, cancel := context.WithTimeout(ctx, tryTimeout)
		defer cancel()
		err := c.Carry(try, m)
		if errors.Is(err, ErrRefused) {
			err = backoff.Permanent(err)
		}
		return struct{}{}, err
	}, backoff.WithBackOff(pause), backoff.WithMaxTries(maxTries), backoff.WithMaxElapsedTime(maxElapsed))
	if err != nil {
		return fmt.Errorf("send message: %w", err)
	}
	return nil
}
