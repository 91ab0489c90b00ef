package mutual

import (
	"context"
	"crypto/tls"
	"log/slog"
	"net"
	"sync"
	"time"
)

const (
	// handshakeTimeout is how long a client may take to show who it is: three round trips over the slowest link.
	handshakeTimeout = 5 * time.Second
	// maxHandshakes bounds the strangers that are listened to at a time, hence what they cost: some 20 KiB each. So many must fall silent in
	// handshakeTimeout before a node has to wait for its turn.
	maxHandshakes = 1024
	// refusalPause is how often refused connections are logged at most: whoever is refused comes again every second.
	refusalPause = 10 * time.Second
)

// Listen wraps inner so that Accept returns *tls.Conn of peers that conf accepts and of nobody else: who takes such a connection needs
// no deadline for strangers. Refusals are logged.
func Listen(inner net.Listener, conf *tls.Config, log *slog.Logger) net.Listener {
	ctx, cancel := context.WithCancel(context.Background())
	l := &listener{Listener: inner, conf: conf, log: log, ready: make(chan net.Conn), failed: make(chan error), stop: cancel, stopped: ctx.Done()}
	l.working.Go(func() { l.run(ctx) })
	return l
}

type listener struct {
	net.Listener
	conf *tls.Config
	log  *slog.Logger

	ready   chan net.Conn
	failed  chan error
	stop    context.CancelFunc
	stopped <-chan struct{}
	working sync.WaitGroup

	mu     sync.Mutex
	silent int       // refusals since the last that was logged
	logged time.Time // when that was
}

// run takes connections until ctx ends.
func (l *listener) run(ctx context.Context) {
	slots := make(chan struct{}, maxHandshakes)
	for {
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
			return
		}
		conn, err := l.Listener.Accept()
		if err != nil {
			<-slots
			select {
			case l.failed <- err:
				continue // whoever accepts decides whether to go on
			case <-ctx.Done():
				return
			}
		}
		l.working.Go(func() {
			secured := l.handshake(ctx, conn)
			<-slots
			if secured == nil {
				return
			}
			select {
			case l.ready <- secured:
			case <-ctx.Done():
				_ = secured.Close()
			}
		})
	}
}

func (l *listener) handshake(ctx context.Context, conn net.Conn) net.Conn {
	ctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	secured := tls.Server(conn, l.conf)
	if err := secured.HandshakeContext(ctx); err != nil {
		_ = conn.Close()
		l.note(conn.RemoteAddr(), err)
		return nil
	}
	return secured
}

func (l *listener) note(remote net.Addr, err error) {
	select {
	case <-l.stopped:
		return // cut off by Close
	default:
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if time.Since(l.logged) < refusalPause {
		l.silent++
		return
	}
	host, _, splitErr := net.SplitHostPort(remote.String())
	if splitErr != nil {
		host = remote.String()
	}
	l.log.Warn("connection refused", "from", host, "error", err, "refused_before", l.silent)
	l.silent, l.logged = 0, time.Now()
}

// Accept implements net.Listener.
func (l *listener) Accept() (net.Conn, error) {
	select {
	case conn := <-l.ready:
		return conn, nil
	case err := <-l.failed:
		return nil, err
	case <-l.stopped:
		return nil, net.ErrClosed
	}
}

// Close ends what is under way as well, and returns when it has ended.
func (l *listener) Close() error {
	l.stop()
	err := l.Listener.Close()
	l.working.Wait()
	return err
}
