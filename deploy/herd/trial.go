package herd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/latchkey/latchkey/deploy/system"
	"github.com/latchkey/latchkey/edge/cmd/latchkey-bench/load"
	"github.com/latchkey/latchkey/replication"
)

// Trial is a crowd of edges that lose everything at once while webhooks come in at every writer.
type Trial struct {
	Edges    int
	Accounts []string      // of sandbox, which the webhooks are for
	Rate     float64       // webhooks a second at each writer, on a schedule
	For      time.Duration // how long webhooks come in before the loss, and again from it on
	// Start makes the crowd. Nil: inside this process.
	Start func(Config) (Crowd, error)
}

// Crowd is edges that follow. Herd and Process are crowds.
type Crowd interface {
	Lose() error
	Holds(ctx context.Context, at replication.Revision) error
	Snapshots() int
	Stop()
}

// Outcome is what the writers showed.
type Outcome struct {
	Alone, Beside time.Duration // the 99th percentile of webhooks at the slowest writer, before the loss and from it on
	Webhooks      int           // answered from the loss on
	Recovered     time.Duration // from the loss until the last edge had all that the writers had then
	Snapshots     int           // that the edges took for it
	LeaderChanges int           // times that a writer named another leader, or none
}

const (
	connections    = 8 // of the webhooks at each writer
	recoverWithin  = 2 * time.Minute
	lookEvery      = 50 * time.Millisecond
	requestTimeout = 3 * time.Second
)

// ErrLost means that a webhook was not answered with 200, or that an edge did not recover.
var ErrLost = errors.New("the crowd did harm")

// Run makes the trial in a running system. Errors: ErrLost, and what keeps it from being made.
func (t Trial) Run(ctx context.Context, info system.Info) (Outcome, error) {
	var out Outcome
	w, err := look(ctx, info)
	if err != nil {
		return out, err
	}
	var texts [][]byte
	for _, path := range info.Roots {
		text, err := os.ReadFile(path)
		if err != nil {
			return out, err
		}
		texts = append(texts, text)
	}
	cfg := Config{Edges: t.Edges, Writers: w.internal, Roots: texts, Cluster: w.cluster}
	if info.NATS != nil {
		cfg.NATS = info.NATS.URLs
	}
	start := t.Start
	if start == nil {
		start = func(cfg Config) (Crowd, error) { return Start(cfg) }
	}
	h, err := start(cfg)
	if err != nil {
		return out, err
	}
	defer h.Stop()
	if err := recovered(ctx, h, w.at); err != nil {
		return out, err
	}
	if out.Alone, _, err = t.webhooks(ctx, info, "alone"); err != nil {
		return out, err
	}
	if w, err = look(ctx, info); err != nil {
		return out, err
	}
	if err := recovered(ctx, h, w.at); err != nil {
		return out, err
	}
	before := h.Snapshots()
	watching, end := context.WithCancel(ctx)
	defer end()
	var works sync.WaitGroup
	var loadErr error
	works.Go(func() { out.Beside, out.Webhooks, loadErr = t.webhooks(ctx, info, "beside") })
	works.Go(func() { out.LeaderChanges = changes(watching, info, w.leader) })
	began := time.Now()
	if err := h.Lose(); err != nil {
		end()
		works.Wait()
		return out, err
	}
	err = recovered(ctx, h, w.at)
	out.Recovered, out.Snapshots = time.Since(began), h.Snapshots()-before
	if err == nil && time.Since(began) < t.For {
		// The leader is watched for as long as the webhooks are.
		wait := time.NewTimer(t.For - time.Since(began))
		select {
		case <-wait.C:
		case <-ctx.Done():
		}
	}
	end()
	works.Wait()
	return out, errors.Join(err, loadErr)
}

func recovered(ctx context.Context, h Crowd, at replication.Revision) error {
	ctx, cancel := context.WithTimeout(ctx, recoverWithin)
	defer cancel()
	if err := h.Holds(ctx, at); err != nil {
		return fmt.Errorf("%w: %w", ErrLost, err)
	}
	return nil
}

// webhooks puts load on all writers and returns the slowest one's 99th percentile.
func (t Trial) webhooks(ctx context.Context, info system.Info, run string) (p99 time.Duration, answers int, err error) {
	results, errs := make([]load.Result, len(info.Writers)), make([]error, len(info.Writers))
	hook := info.Environments["sandbox"].Webhooks["stripe"]
	var all sync.WaitGroup
	for i, w := range info.Writers {
		all.Go(func() {
			host := strings.TrimPrefix(w.URL, "http://")
			results[i], errs[i] = load.Run(ctx, load.Config{Addr: host, Connections: connections, For: t.For, Status: http.StatusOK, Rate: t.Rate,
				Source: load.Webhooks(host, hook.Path, hook.Secret, run+w.ID, t.Accounts)})
		})
	}
	all.Wait()
	for _, r := range results {
		p99, answers = max(p99, r.Quantile(0.99)), answers+r.Answers
	}
	if err := errors.Join(errs...); err != nil {
		return p99, answers, fmt.Errorf("%w: %w", ErrLost, err)
	}
	return p99, answers, nil
}

// writers is what they say of themselves.
type writers struct {
	cluster, leader string
	internal        []string
	at              replication.Revision
}

func look(ctx context.Context, info system.Info) (writers, error) {
	var w writers
	for _, n := range info.Writers {
		var s struct {
			Cluster, Leader string
			Epoch, Revision uint64
			Members         []struct{ Internal string }
		}
		if err := status(ctx, n, &s); err != nil {
			return w, err
		}
		if w.leader != "" && s.Leader != w.leader || s.Leader == "" {
			return w, fmt.Errorf("%s names %q as the leader, others %q", n.ID, s.Leader, w.leader)
		}
		at := replication.Revision{Epoch: s.Epoch, N: s.Revision}
		if at.Compare(w.at) > 0 {
			w.at = at
		}
		w.cluster, w.leader, w.internal = s.Cluster, s.Leader, nil
		for _, m := range s.Members {
			w.internal = append(w.internal, m.Internal)
		}
	}
	return w, nil
}

// changes counts until ctx ends how often a writer names another leader than it did before.
func changes(ctx context.Context, info system.Info, leader string) (n int) {
	last := make([]string, len(info.Writers))
	for i := range last {
		last[i] = leader
	}
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return n
		case <-tick.C:
		}
		for i, w := range info.Writers {
			var s struct{ Leader string }
			if err := status(ctx, w, &s); err != nil && ctx.Err() != nil {
				return n
			} else if err != nil || s.Leader != last[i] {
				n, last[i] = n+1, s.Leader
			}
		}
	}
}

func status(ctx context.Context, n system.Node, into any) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, n.URL+"/status", nil)
	if err != nil {
		return err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return fmt.Errorf("status of %s: %w", n.ID, err)
	}
	defer res.Body.Close()
	if err := json.NewDecoder(res.Body).Decode(into); err != nil {
		return fmt.Errorf("status of %s: %w", n.ID, err)
	}
	return nil
}
