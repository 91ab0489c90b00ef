package edge

import (
	"io"
	"net"
	"sync/atomic"
	"time"

	"github.com/valyala/fasthttp"
)

const (
	// lingerTime, lingerMost and lingerBytes bound what is still read from a client that was refused in the middle of its request: it may be silent for as
	// long as a mobile network is now and then, and send for as long, and as much, as a large list of receipts takes over a slow one.
	lingerTime  = 5 * time.Second
	lingerMost  = receiptsReadTimeout
	lingerBytes = 2 << 20
)

// lingeringListener gives connections that can be closed without the loss of the last answer.
type lingeringListener struct{ *net.TCPListener }

// Accept implements net.Listener.
func (l lingeringListener) Accept() (net.Conn, error) {
	conn, err := l.AcceptTCP()
	if err != nil {
		return nil, err
	}
	return &lingeringConn{TCPConn: conn}, nil
}

// lingeringConn is a connection of a client. A kernel that closes one with bytes unread resets it, and the reset takes with it what the client has not read:
// whoever sends a body that is too large would see a broken connection in place of the answer that says so (RFC 9112 9.6).
type lingeringConn struct {
	*net.TCPConn
	refused atomic.Bool
}

// lingers makes the connection of a request that was refused before it was read wait for its client when it is closed.
func lingers(ctx *fasthttp.RequestCtx) {
	conn := ctx.Conn()
	if secure, ok := conn.(interface{ NetConn() net.Conn }); ok {
		conn = secure.NetConn()
	}
	if c, ok := conn.(*lingeringConn); ok {
		c.refused.Store(true)
	}
}

// Close implements net.Conn.
func (c *lingeringConn) Close() error {
	if c.refused.CompareAndSwap(true, false) && c.CloseWrite() == nil {
		_, _ = io.CopyN(io.Discard, rest{c.TCPConn, time.Now().Add(lingerMost)}, lingerBytes) // until the client has heard and closes, at most
	}
	return c.TCPConn.Close()
}

// rest reads what a client that was refused still sends.
type rest struct {
	conn  *net.TCPConn
	until time.Time
}

// Read implements io.Reader.
func (r rest) Read(b []byte) (int, error) {
	next := time.Now().Add(lingerTime)
	if next.After(r.until) {
		next = r.until
	}
	if err := r.conn.SetReadDeadline(next); err != nil {
		return 0, err
	}
	return r.conn.Read(b)
}
