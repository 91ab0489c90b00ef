package chaos

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"time"
)

// NATS is the name of the outside NATS server among the nodes.
const NATS = "nats"

// natsServer is a NATS server that knows nothing of Latchkey, behind the relay.
type natsServer struct {
	address string
	door    string

	mu  sync.Mutex
	cmd *exec.Cmd
}

func startNATS(relay *Relay, port int) (*natsServer, error) {
	n := &natsServer{address: net.JoinHostPort("127.0.0.1", strconv.Itoa(port))}
	var err error
	if n.door, err = relay.Listen(n.address, NATS, KindNATS); err != nil {
		return nil, err
	}
	return n, n.start()
}

// start runs the server and returns when it listens.
func (n *natsServer) start() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	host, port, err := net.SplitHostPort(n.address)
	if err != nil {
		return err
	}
	n.cmd = exec.Command("nats-server", "--addr", host, "--port", port)
	n.cmd.SysProcAttr = attributes()
	if err := n.cmd.Start(); err != nil {
		n.cmd = nil
		return fmt.Errorf("start nats-server: %w", err)
	}
	for deadline := time.Now().Add(time.Minute); ; {
		conn, err := net.Dial("tcp", n.address)
		if err == nil {
			return conn.Close()
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("nats-server does not listen: %w", err)
		}
		<-time.After(pollEvery)
	}
}

// kill ends the server as by a power cut.
func (n *natsServer) kill() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.cmd != nil {
		_ = n.cmd.Process.Kill()
		_ = n.cmd.Wait()
		n.cmd = nil
	}
}

// natsClient speaks as much of the NATS protocol as it takes to listen and to forge. Source: docs.nats.io/reference/nats-protocol.
type natsClient struct {
	conn net.Conn
	in   *bufio.Reader
}

func dialNATS(address string) (*natsClient, error) {
	conn, err := net.DialTimeout("tcp", address, 2*time.Second)
	if err != nil {
		return nil, err
	}
	c := &natsClient{conn: conn, in: bufio.NewReader(conn)}
	_, err = io.WriteString(conn, "CONNECT {\"verbose\":false,\"pedantic\":false,\"name\":\"chaos\"}\r\nSUB lk.* 1\r\nPING\r\n")
	return c, err
}

// natsMessage is one message as it was heard.
type natsMessage struct {
	subject string
	data    []byte
}

// next returns the next message that somebody sent.
func (c *natsClient) next() (natsMessage, error) {
	for {
		line, err := c.in.ReadString('\n')
		if err != nil {
			return natsMessage{}, err
		}
		fields := strings.Fields(line)
		switch {
		case len(fields) > 0 && fields[0] == "PING":
			if _, err := io.WriteString(c.conn, "PONG\r\n"); err != nil {
				return natsMessage{}, err
			}
		case len(fields) >= 4 && fields[0] == "MSG":
			size, err := strconv.Atoi(fields[len(fields)-1])
			if err != nil {
				return natsMessage{}, fmt.Errorf("nats: %q", line)
			}
			data := make([]byte, size+len("\r\n"))
			if _, err := io.ReadFull(c.in, data); err != nil {
				return natsMessage{}, err
			}
			return natsMessage{fields[1], data[:size]}, nil
		}
	}
}

func (c *natsClient) publish(m natsMessage) error {
	_, err := fmt.Fprintf(c.conn, "PUB %s %d\r\n%s\r\n", m.subject, len(m.data), m.data)
	return err
}

func (c *natsClient) close() { c.conn.Close() }
