package replication

import (
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/latchkey/latchkey/pkg/mutual"
)

// The subjects that writers speak on.
const (
	SubjectChanges = "lk.changes" // Batch frames
	SubjectHead    = "lk.head"    // signed heads
)

// MaxMessageBytes is the largest batch that goes over NATS: the servers' limit is 1 MiB. A larger change is left to the pull.
const MaxMessageBytes = 900 << 10

// Reconnecting never ends: a writer or edge without NATS works by pull, and takes NATS up again when it is back.
const (
	natsReconnectWait   = 250 * time.Millisecond
	natsReconnectJitter = 250 * time.Millisecond
	// natsPendingBytes is what may wait for a subscriber that is busy; beyond it messages are lost and pulled.
	natsPendingBytes    = 32 << 20
	natsPendingMessages = 16_384
)

// NATS is a connection to the servers that make replication fast. It may lose, repeat, reorder or forge what it carries:
// whoever reads from it verifies, and nothing that is read from it causes a command.
type NATS struct{ conn *nats.Conn }

// ConnectNATS connects to any of urls, now or as soon as one answers; name is shown to the server's operator. With an identity, servers at
// tls:// must be writers', or show a certificate of the role nats; without one they must show one that this machine believes.
func ConnectNATS(urls []string, name string, identity *mutual.Identity, log *slog.Logger) (*NATS, error) {
	conn, err := nats.Connect(strings.Join(urls, ","), nats.Name(name), natsIdentity(identity),
		nats.RetryOnFailedConnect(true), nats.MaxReconnects(-1), nats.ReconnectWait(natsReconnectWait), nats.ReconnectJitter(natsReconnectJitter, natsReconnectJitter),
		nats.ReconnectBufSize(-1), // what could not be sent now is old when it could: the pull has it by then
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { log.Warn("nats error", "error", err) }),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) { log.Warn("nats disconnected", "error", err) }),
		nats.ReconnectHandler(func(c *nats.Conn) { log.Info("nats connected again", "server", c.ConnectedServerName()) }),
	)
	if err != nil {
		return nil, fmt.Errorf("connect to nats: %w", err)
	}
	return &NATS{conn}, nil
}

// natsIdentity has connections to tls:// made with the identity; those to nats:// stay as they are.
func natsIdentity(identity *mutual.Identity) nats.Option {
	return func(o *nats.Options) error {
		if identity != nil {
			o.TLSConfig = identity.Config("", mutual.Peer{Role: mutual.RoleWriter}, mutual.Peer{Role: mutual.RoleNATS})
		}
		return nil
	}
}

// Connected reports whether a server answers at present.
func (n *NATS) Connected() bool { return n.conn.IsConnected() }

// PublishHead sends a signed head. An error means that it was not sent; the next one follows in a second.
func (n *NATS) PublishHead(signed string) error { return n.publish(SubjectHead, []byte(signed)) }

// PublishBatch sends a batch frame. An error means that it was not sent; edges that miss it pull.
func (n *NATS) PublishBatch(frame []byte) error { return n.publish(SubjectChanges, frame) }

func (n *NATS) publish(subject string, data []byte) error {
	if err := n.conn.Publish(subject, data); err != nil {
		return fmt.Errorf("publish on %s: %w", subject, err)
	}
	return nil
}

// Subscribe calls batch and head with what arrives, one at a time each, until Close. The bytes belong to the callee.
func (n *NATS) Subscribe(batch, head func([]byte)) error {
	for subject, f := range map[string]func([]byte){SubjectChanges: batch, SubjectHead: head} {
		sub, err := n.conn.Subscribe(subject, func(m *nats.Msg) { f(m.Data) })
		if err != nil {
			return fmt.Errorf("subscribe to %s: %w", subject, err)
		}
		if err := sub.SetPendingLimits(natsPendingMessages, natsPendingBytes); err != nil {
			return fmt.Errorf("subscribe to %s: %w", subject, err)
		}
	}
	return nil
}

// SubscribeHeads calls head with each head that arrives, one at a time, until Close.
func (n *NATS) SubscribeHeads(head func([]byte)) error {
	if _, err := n.conn.Subscribe(SubjectHead, func(m *nats.Msg) { head(m.Data) }); err != nil {
		return fmt.Errorf("subscribe to %s: %w", SubjectHead, err)
	}
	return nil
}

// Close ends the connection.
func (n *NATS) Close() { n.conn.Close() }
