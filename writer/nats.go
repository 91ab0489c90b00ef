package writer

import (
	"context"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/latchkey/latchkey/pkg/fault"
	"github.com/latchkey/latchkey/replication"
	"github.com/latchkey/latchkey/replication/natsd"
)

// The fast path to the edges. It only ever repeats what the change log says, so nothing depends on it: without it every edge
// pulls.

// What became of messages for NATS, as the metrics count them.
const (
	natsSent   = "sent"
	natsFailed = "failed"
)

// openNATS starts this writer's own server, unless the configuration names outside ones, and connects to it.
func (w *Writer) openNATS() error {
	c := w.cfg.NATS
	if !c.Enabled {
		return nil
	}
	log := w.log.With("part", "nats")
	urls := c.URLs
	if len(urls) == 0 {
		var err error
		w.natsServer, err = natsd.Start(natsd.Config{Name: w.cfg.Node.ID, Cluster: w.cfg.Node.Cluster, Listen: c.Listen,
			ClusterListen: c.ClusterListen, Routes: c.Routes, Advertise: c.Advertise, ClusterAdvertise: c.ClusterAdvertise, Identity: w.identity, Logger: log})
		if err != nil {
			return err
		}
		urls = []string{w.natsServer.ClientURL()}
	}
	var err error
	if w.nats, err = replication.ConnectNATS(urls, w.cfg.Node.ID, w.identity, log); err != nil {
		return err
	}
	return w.nats.SubscribeHeads(w.headFromNATS)
}

// closeNATS hands the edges' connections to the other writers' servers and ends.
func (w *Writer) closeNATS() {
	if w.nats != nil {
		w.nats.Close()
	}
	if w.natsServer != nil {
		w.natsServer.Close()
	}
}

// publish sends every change to the edges while ctx lives, which is while this node leads.
func (w *Writer) publish(ctx context.Context) {
	if w.nats == nil {
		return
	}
	for ctx.Err() == nil {
		err := replication.Publish(ctx, replication.PublishConfig{Log: w.store, Sign: w.signPosition, Send: func(frame []byte) error {
			fault.Point("change-before-publish")
			return w.countNATS(w.nats.PublishBatch(frame))
		}})
		if err == nil {
			return
		}
		// The edges notice the gap and pull.
		w.log.ErrorContext(ctx, "publishing disturbed", "error", err)
		_ = sleep(ctx, publishRetry)
	}
}

// publishRetry is the pause after changes could not be read or signed.
const publishRetry = time.Second

// publishHead sends a head that this leader made.
func (w *Writer) publishHead(h *head) {
	if w.nats != nil {
		_ = w.countNATS(w.nats.PublishHead(h.signed)) // the next one follows in a second
	}
}

func (w *Writer) countNATS(err error) error {
	if err != nil {
		w.metrics.nats.WithLabelValues(natsFailed).Inc()
		return err
	}
	w.metrics.nats.WithLabelValues(natsSent).Inc()
	return nil
}

// checkNATSURL holds what leaves this machine to TLS: a record is about people.
func checkNATSURL(text string) error {
	u, err := url.Parse(text)
	if err != nil || u.Port() == "" || u.User != nil || u.Scheme != "tls" && !(u.Scheme == "nats" && isLoopback(u.Hostname())) {
		return fmt.Errorf("%q is neither nats://host:port of a loopback address nor tls://host:port", text)
	}
	return nil
}

// checkRoute is checkNATSURL for our own servers: they all speak TLS or none does.
func (c *Config) checkRoute(text string) error {
	if tls := strings.HasPrefix(text, "tls://"); tls != (c.TLS != nil) {
		return fmt.Errorf("%q: routes are tls://host:port with a section tls, and nats://host:port without", text)
	}
	return checkNATSURL(text)
}
