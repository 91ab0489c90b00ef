package load

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// runOpen puts the load of a schedule from one thread that asks the kernel itself what has come. Goroutines and timers for it cost twice as
// much processor, which the machine then lacks for what is measured, and each answer's time would hold how long its goroutine waited for
// a turn.
func runOpen(ctx context.Context, config Config) (Result, error) {
	o, err := newOpenLoop(config)
	if err != nil {
		return Result{}, fmt.Errorf("%w: %w", ErrFailed, err)
	}
	defer o.close()
	if config.Aside {
		err = aside(func() error { return o.run(ctx) })
	} else {
		err = o.run(ctx)
	}
	r := Result{Failed: o.failed, Elapsed: time.Since(o.began), Body: o.body, latencies: o.latencies}
	return r.judged(err, config.Status, o.failure)
}

// aside runs do on a thread of the lowest priority, which ends with it.
func aside(do func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: who runs here next would have the priority
		err := unix.Setpriority(unix.PRIO_PROCESS, unix.Gettid(), lowestPriority)
		if err == nil {
			err = do()
		}
		done <- err
	}()
	return <-done
}

// openLoop is a load on a schedule: what is due k-th, Burst requests most often of one, is due at k*Burst/Rate, on connection k mod Connections.
type openLoop struct {
	config Config
	lines  []*line
	poll   int           // epoll
	alarm  int           // timerfd: epoll alone counts in milliseconds
	armed  time.Duration // the request's time that the alarm stands at

	began    time.Time
	next     int           // the first burst that is not yet due
	open     int           // requests that were due and are not answered
	heard    time.Duration // when the last answer came
	request  []byte
	arrivals []unix.EpollEvent

	latencies []time.Duration
	failed    int
	failure   string
	body      int
}

// line is one connection: at most one burst is on it, the others wait behind.
type line struct {
	number  int
	fd      int
	sent    int // requests
	due     time.Duration
	waiting []time.Duration
	awaits  int // answers
	in      inbox
}

const (
	alarmEvent = -1

	// lowestPriority is what anybody may give himself: nice 19.
	lowestPriority = 19

	// ranOut is what armed is once the alarm has gone off. It is then set anew even for the same request: that silences it, and saves reading it.
	ranOut = -1

	// lookUp is how often the loop looks whether it is to stop, when nothing happens.
	lookUp = 100 * time.Millisecond
)

func newOpenLoop(config Config) (*openLoop, error) {
	o := &openLoop{config: config, poll: -1, alarm: -1, arrivals: make([]unix.EpollEvent, config.Connections+1),
		latencies: make([]time.Duration, 0, int(config.Rate*config.For.Seconds())+config.Connections)}
	if err := o.connect(); err != nil {
		o.close()
		return nil, err
	}
	return o, nil
}

func (o *openLoop) connect() (err error) {
	if o.poll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return err
	}
	if o.alarm, err = unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_CLOEXEC|unix.TFD_NONBLOCK); err != nil {
		return err
	}
	if err := o.watch(o.alarm, alarmEvent); err != nil {
		return err
	}
	for i := range o.config.Connections {
		fd, err := dial(o.config.Addr)
		if err != nil {
			return err
		}
		o.lines = append(o.lines, &line{number: i, fd: fd})
		if err := o.watch(fd, int32(i)); err != nil {
			return err
		}
	}
	return nil
}

func (o *openLoop) watch(fd int, event int32) error {
	return unix.EpollCtl(o.poll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: event})
}

// dial returns a connected socket that does not block and that Go's own poller does not know.
func dial(addr string) (fd int, err error) {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		return -1, err
	}
	defer c.Close() // takes the connection out of Go's poller; the copy keeps it open
	raw, err := c.(*net.TCPConn).SyscallConn()
	if err != nil {
		return -1, err
	}
	var dupErr error
	err = raw.Control(func(of uintptr) { fd, dupErr = unix.FcntlInt(of, unix.F_DUPFD_CLOEXEC, 0) })
	return fd, errors.Join(err, dupErr)
}

func (o *openLoop) close() {
	for _, l := range o.lines {
		unix.Close(l.fd)
	}
	for _, fd := range []int{o.poll, o.alarm} {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
}

// run returns when everything that was due is answered, or ctx has ended.
func (o *openLoop) run(ctx context.Context) error {
	o.began = time.Now()
	for ctx.Err() == nil {
		now := time.Since(o.began)
		for at := o.at(o.next); at <= now && at < o.config.For; at = o.at(o.next) {
			if err := o.due(o.lines[o.next%len(o.lines)], at); err != nil {
				return err
			}
			o.next++
		}
		if o.open == 0 {
			if o.at(o.next) >= o.config.For {
				return nil
			}
			o.heard = now
		}
		if now-o.heard > answerWithin {
			return fmt.Errorf("no answer within %s", answerWithin)
		}
		if err := o.wait(); err != nil {
			return err
		}
	}
	return nil
}

// at is when burst k is due, from the beginning.
func (o *openLoop) at(k int) time.Duration {
	return time.Duration(float64(k) * float64(max(o.config.Burst, 1)) * float64(time.Second) / o.config.Rate)
}

// due sends a burst now, or as soon as its connection is free.
func (o *openLoop) due(l *line, at time.Duration) error {
	o.open++
	if l.awaits > 0 {
		l.waiting = append(l.waiting, at)
		return nil
	}
	return o.send(l, at)
}

func (o *openLoop) send(l *line, at time.Duration) error {
	o.request, l.due = o.request[:0], at
	for range max(o.config.Burst, 1) {
		o.request = o.config.Source(o.request, l.number, l.sent)
		l.sent++
		l.awaits++
	}
	for rest := o.request; len(rest) > 0; {
		n, err := unix.Write(l.fd, rest)
		switch {
		case err == nil:
			rest = rest[n:]
		case errors.Is(err, unix.EAGAIN): // a large request to a slow reader
			if _, err := unix.Poll([]unix.PollFd{{Fd: int32(l.fd), Events: unix.POLLOUT}}, int(answerWithin.Milliseconds())); err != nil && !errors.Is(err, unix.EINTR) {
				return err
			}
		case !errors.Is(err, unix.EINTR):
			return err
		}
	}
	return nil
}

// wait returns when an answer came, the next request is due, or lookUp has passed.
func (o *openLoop) wait() error {
	at := o.at(o.next)
	var after time.Duration // zero switches the alarm off
	if at < o.config.For {
		after = max(at-time.Since(o.began), 1)
	}
	if at != o.armed {
		if err := unix.TimerfdSettime(o.alarm, 0, &unix.ItimerSpec{Value: unix.NsecToTimespec(int64(after))}, nil); err != nil {
			return err
		}
		o.armed = at
	}
	n, err := unix.EpollWait(o.poll, o.arrivals, int(lookUp.Milliseconds()))
	if errors.Is(err, unix.EINTR) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, arrival := range o.arrivals[:n] {
		if arrival.Fd == alarmEvent {
			o.armed = ranOut
			continue
		}
		if err := o.receive(o.lines[arrival.Fd]); err != nil {
			return err
		}
	}
	return nil
}

// receive takes what came in, and if that completes an answer sends what waits behind it.
func (o *openLoop) receive(l *line) error {
	n, err := unix.Read(l.fd, l.in.space())
	switch {
	case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EINTR):
		return nil
	case err != nil:
		return fmt.Errorf("read answer: %w", err)
	case n == 0:
		return fmt.Errorf("read answer: %w", io.ErrUnexpectedEOF)
	}
	l.in.add(n)
	for l.awaits > 0 {
		status, body, whole, err := l.in.answer()
		if err != nil {
			return fmt.Errorf("read answer: %w", err)
		}
		if !whole {
			return nil
		}
		o.heard = time.Since(o.began)
		if status == o.config.Status {
			o.latencies = append(o.latencies, o.heard-l.due)
			o.body = max(o.body, len(body))
		} else {
			o.failed++
			o.failure = failureOf(status, body)
		}
		l.awaits--
	}
	if l.in.rest() > 0 {
		return fmt.Errorf("read answer: %w", errMore)
	}
	o.open--
	if len(l.waiting) == 0 {
		return nil
	}
	at := l.waiting[0]
	l.waiting = append(l.waiting[:0], l.waiting[1:]...)
	return o.send(l, at)
}
