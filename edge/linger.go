package edge

import (
	"io"
	"net"
	"sync/atomic"
	"time"

	"github.com/valyala/fasthttp"
)

const (
	// lingerTime and lingerBytes bound what is still read from a client that was refused in the middle of its request: long enough for an answer to cross
	// the world and the client to hear it, and as much as a large list of receipts on its way.
	lingerTime  = time.Second
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
	if c.refused.CompareAndSwap(true, false) && c.CloseWrite() == nil && c.SetReadDeadline(time.Now().Add(lingerTime)) == nil {
		_, _ = io.CopyN(io.Discard, c.TCPConn, lingerBytes) // until the client has heard and closes, at most
	}
	return c.TCPConn.Close()
}
