// Package load puts load on one HTTP address over kept-alive connections, and says how many answers came and how long they took. The
// client is as thin as it can be, because it shares the machine with what it measures. Start at Run.
package load

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"time"
)

// Source appends the n-th request of a connection, as it goes over the wire, to dst. It is called from one goroutine for each
// connection.
type Source func(dst []byte, connection, n int) []byte

// Config says what load to put where.
type Config struct {
	Addr        string // host:port
	Connections int
	For         time.Duration
	Source      Source
	Status      int // the status that every answer must have

	// Rate is how many requests a second are sent in all, on a schedule that does not wait for answers: a late answer delays
	// what follows on its connection, and the delay counts. Zero: each connection sends as soon as it is answered.
	Rate float64

	// Burst is how many requests a connection is sent at once on a schedule, one behind the other: how a flood is sent, by a client that has less to do for each
	// than who answers them. Zero is one. Each counts in the Rate.
	Burst int

	// Aside puts the load of a schedule from a thread of the lowest priority, where the system knows one: it stands for other machines, and does not take
	// this one's cores from a load that is measured beside it.
	Aside bool

	// Opens, when given, has each request open a connection of its own over TLS, as an app that is opened does. With a ClientSessionCache in it, all but the
	// first of each of Connections resume.
	Opens *tls.Config
}

// Result is what came of it.
type Result struct {
	Answers   int           // with the wanted status
	Failed    int           // with another one
	Elapsed   time.Duration // from the first scheduled send to the last answer
	Body      int           // bytes of the last answer's body
	latencies []time.Duration
}

// PerSecond is the rate of good answers.
func (r Result) PerSecond() float64 { return float64(r.Answers) / r.Elapsed.Seconds() }

// Quantile returns the latency that the share q of all answers did not exceed. With a Rate it is counted from the scheduled send.
// Zero without answers.
func (r Result) Quantile(q float64) time.Duration {
	if len(r.latencies) == 0 {
		return 0
	}
	return r.latencies[min(int(q*float64(len(r.latencies))), len(r.latencies)-1)]
}

// ErrFailed means that the load could not be put, or that an answer was not the wanted one.
var ErrFailed = errors.New("load failed")

// answerWithin is when a connection that says nothing is given up.
const answerWithin = 30 * time.Second

// Run puts the load until its time is over or ctx ends. With a Rate, whatever became due within the time is sent and waited for. Errors:
// ErrFailed, with the first thing that went wrong; the result then holds what came before.
func Run(ctx context.Context, config Config) (Result, error) {
	if config.Rate > 0 && config.Opens == nil {
		return runOpen(ctx, config)
	}
	return runEach(ctx, config)
}

// runEach puts the load from a goroutine for each connection.
func runEach(ctx context.Context, config Config) (Result, error) {
	connections := make([]*connection, config.Connections)
	for i := range connections {
		if config.Opens != nil {
			opens := config.Opens.Clone()
			if opens.ClientSessionCache != nil {
				opens.ClientSessionCache = tls.NewLRUClientSessionCache(1) // a phone has its own
			}
			connections[i] = &connection{config: &config, number: i, opens: opens}
			continue
		}
		c, err := net.Dial("tcp", config.Addr)
		if err != nil {
			return Result{}, fmt.Errorf("%w: %w", ErrFailed, err)
		}
		defer c.Close()
		connections[i] = &connection{config: &config, number: i, wire: c}
	}
	ctx, cancel := context.WithTimeout(ctx, config.For)
	defer cancel()
	began := time.Now()
	var all sync.WaitGroup
	for _, c := range connections {
		all.Go(func() {
			if c.err = c.run(ctx, began); c.err != nil {
				cancel() // a figure with a part of the load missing would be wrong
			}
		})
	}
	all.Wait()
	r := Result{Elapsed: time.Since(began)}
	var err error
	for _, c := range connections {
		r.Failed += c.failed
		r.Body = max(r.Body, c.body)
		r.latencies = append(r.latencies, c.latencies...)
		if err == nil {
			err = c.err
		}
	}
	return r.judged(err, config.Status, failure(connections))
}

// judged completes r. err is what ended the load early, failure one of the answers that have not the wanted status.
func (r Result) judged(err error, status int, failure string) (Result, error) {
	slices.Sort(r.latencies)
	r.Answers = len(r.latencies)
	switch {
	case err != nil:
		err = fmt.Errorf("%w: %w", ErrFailed, err)
	case r.Failed > 0:
		err = fmt.Errorf("%w: %d answers of %d have not status %d; one is: %s", ErrFailed, r.Failed, r.Failed+r.Answers, status, failure)
	}
	return r, err
}

func failure(connections []*connection) string {
	for _, c := range connections {
		if c.failure != "" {
			return c.failure
		}
	}
	return ""
}

type connection struct {
	config *Config
	number int
	wire   net.Conn
	opens  *tls.Config // nil: the connection is kept
	in     inbox

	latencies []time.Duration
	failed    int
	failure   string
	body      int
	err       error
}

func (c *connection) run(ctx context.Context, began time.Time) error {
	// Each connection has an equal part of the schedule, shifted against the others'.
	var every time.Duration
	scheduled := began
	if c.config.Rate > 0 {
		every = time.Duration(float64(time.Second) * float64(c.config.Connections) / c.config.Rate)
		scheduled = began.Add(every * time.Duration(c.number) / time.Duration(c.config.Connections))
	}
	var request []byte
	for n := 0; ; n++ {
		if every > 0 {
			if !until(ctx, scheduled) {
				return nil
			}
		} else if scheduled = time.Now(); ctx.Err() != nil {
			return nil
		}
		request = c.config.Source(request[:0], c.number, n)
		if c.opens != nil {
			wire, err := tls.Dial("tcp", c.config.Addr, c.opens)
			if err != nil {
				return err
			}
			c.wire, c.in = wire, inbox{}
		}
		if err := c.wire.SetDeadline(time.Now().Add(answerWithin)); err != nil {
			return err
		}
		if _, err := c.wire.Write(request); err != nil {
			return err
		}
		status, body, err := c.answer()
		if err != nil {
			return fmt.Errorf("read answer: %w", err)
		}
		if status == c.config.Status {
			c.latencies = append(c.latencies, time.Since(scheduled))
			c.body = len(body)
		} else {
			c.failed++
			c.failure = failureOf(status, body)
		}
		if c.opens != nil {
			_ = c.wire.Close() // the answer is here
		}
		scheduled = scheduled.Add(every)
	}
}

// answer waits for one answer. The body is valid until the next call.
func (c *connection) answer() (status int, body []byte, err error) {
	for {
		n, err := c.wire.Read(c.in.space())
		if n == 0 && err != nil {
			return 0, nil, err
		}
		c.in.add(n)
		status, body, whole, err := c.in.answer()
		if whole && c.in.rest() > 0 {
			err = errMore
		}
		if whole || err != nil {
			return status, body, err
		}
	}
}

// until waits for at, and reports whether it came before the end of ctx.
func until(ctx context.Context, at time.Time) bool {
	wait := time.Until(at)
	if wait <= 0 {
		return ctx.Err() == nil
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
