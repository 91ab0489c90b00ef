package rival

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"sync"
)

// Redis asks a Redis server over kept connections, one for each request at a time. It does less than the clients that teams use, and so costs less.
type Redis struct {
	Addr string // host:port

	idle sync.Pool // of *conn
}

type conn struct {
	net.Conn
	in  *bufio.Reader
	out []byte
}

// ErrNone means that there is nothing under the key.
var ErrNone = errors.New("no such key")

// Get returns what is under key. Error: ErrNone.
func (r *Redis) Get(key string) ([]byte, error) { return r.do("GET", key) }

// Set puts value under key.
func (r *Redis) Set(key, value string) error {
	_, err := r.do("SET", key, value)
	return err
}

func (r *Redis) do(words ...string) (answer []byte, err error) {
	c, _ := r.idle.Get().(*conn)
	if c == nil {
		wire, err := net.Dial("tcp", r.Addr)
		if err != nil {
			return nil, fmt.Errorf("redis: %w", err)
		}
		c = &conn{Conn: wire, in: bufio.NewReader(wire)}
	}
	if answer, err = c.do(words); err != nil && !errors.Is(err, ErrNone) {
		c.Close()
		return nil, fmt.Errorf("redis: %w", err)
	}
	r.idle.Put(c)
	return answer, err
}

// do speaks RESP 2: https://redis.io/docs/latest/develop/reference/protocol-spec/
func (c *conn) do(words []string) ([]byte, error) {
	c.out = fmt.Appendf(c.out[:0], "*%d\r\n", len(words))
	for _, w := range words {
		c.out = strconv.AppendInt(append(c.out, '$'), int64(len(w)), 10)
		c.out = append(append(append(c.out, "\r\n"...), w...), "\r\n"...)
	}
	if _, err := c.Write(c.out); err != nil {
		return nil, err
	}
	line, err := c.in.ReadString('\n')
	if err != nil {
		return nil, err
	}
	text := line[1 : len(line)-len("\r\n")]
	switch line[0] {
	case '+':
		return []byte(text), nil
	case '$':
		n, err := strconv.Atoi(text)
		if err != nil {
			return nil, err
		}
		if n < 0 {
			return nil, ErrNone
		}
		value := make([]byte, n+len("\r\n"))
		if _, err := io.ReadFull(c.in, value); err != nil {
			return nil, err
		}
		return value[:n], nil
	}
	return nil, fmt.Errorf("answered %q", text)
}
