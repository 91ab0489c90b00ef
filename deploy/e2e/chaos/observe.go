package chaos

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/latchkey/latchkey/pkg/token"
	"github.com/latchkey/latchkey/replication"
)

// sampleEvery is how often each node is asked for its status.
const sampleEvery = 100 * time.Millisecond

// observers sample all nodes, past the relay, until they are stopped.
type observers struct {
	cluster  *Cluster
	recorder *recorder
	verifier *replication.Verifier
	client   *http.Client

	stopping context.CancelFunc
	working  sync.WaitGroup
}

// writerStatus is what is read of a writer's /status.
type writerStatus struct {
	Role      string     `json:"role"`
	Leader    string     `json:"leader"`
	Term      uint64     `json:"term"`
	Epoch     uint64     `json:"epoch"`
	Revision  uint64     `json:"revision"`
	StateHash string     `json:"state_hash"`
	FullHash  string     `json:"full_hash"`
	Applied   uint64     `json:"applied_index"`
	AsOf      *time.Time `json:"as_of"`
}

// edgeStatus is what is read of an edge's /status.
type edgeStatus struct {
	Epoch     uint64 `json:"epoch"`
	Revision  uint64 `json:"revision"`
	AsOf      string `json:"as_of"`
	StateHash string `json:"state_hash"`
	Chain     string `json:"chain"`
	Source    string `json:"source"`
}

func startObservers(ctx context.Context, c *Cluster, r *recorder) (*observers, error) {
	o := &observers{cluster: c, recorder: r, client: &http.Client{Timeout: 5 * time.Second}}
	var pems [][]byte
	for _, path := range c.info().Roots {
		pem, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		pems = append(pems, pem)
	}
	roots, err := token.ParseRoots(pems...)
	if err != nil {
		return nil, err
	}
	cluster, err := c.clusterID()
	if err != nil {
		return nil, err
	}
	o.verifier = replication.NewVerifier(roots, cluster)
	ctx, o.stopping = context.WithCancel(ctx)
	for _, id := range c.ids("w") {
		o.working.Go(func() { o.every(ctx, func() { o.sampleWriter(ctx, id) }) })
		fold := NewFold(1)
		r.with(func(h *History) { h.Logs[id] = fold })
		o.working.Go(func() {
			o.every(ctx, func() {
				for o.readLog(ctx, id, fold) {
				}
			})
		})
	}
	for _, id := range c.ids("e") {
		o.working.Go(func() { o.every(ctx, func() { o.sampleEdge(ctx, id) }) })
	}
	return o, nil
}

var clusterLine = regexp.MustCompile(`(?m)^\s+cluster: (\S+)$`)

// clusterID is the cluster's id, from the first edge's configuration.
func (c *Cluster) clusterID() (string, error) {
	b, err := os.ReadFile(filepath.Join(c.dir, "config", "e1.yaml"))
	if err != nil {
		return "", err
	}
	m := clusterLine.FindSubmatch(b)
	if m == nil {
		return "", errors.New("the edge's configuration names no cluster")
	}
	return string(m[1]), nil
}

func (o *observers) every(ctx context.Context, look func()) {
	for ctx.Err() == nil {
		look()
		if pause(ctx, sampleEvery) != nil {
			return
		}
	}
}

func (o *observers) stop() {
	o.stopping()
	o.working.Wait()
}

func (o *observers) sampleWriter(ctx context.Context, id string) {
	var s writerStatus
	if o.cluster.status(ctx, id, &s) != nil || s.StateHash == "" {
		return
	}
	sample := WriterSample{At: time.Now(), Node: id, Leader: s.Role == "leader", Term: s.Term, Applied: s.Applied,
		Position: replication.Revision{Epoch: s.Epoch, N: s.Revision}, StateHash: s.StateHash, FullHash: s.FullHash}
	o.recorder.with(func(h *History) { h.Writers = append(h.Writers, sample) })
}

func (o *observers) sampleEdge(ctx context.Context, id string) {
	sample := EdgeSample{Sent: time.Now(), Node: id, PID: o.cluster.node(id).PID}
	var s edgeStatus
	if o.cluster.status(ctx, id, &s) != nil || s.Epoch == 0 {
		return
	}
	sample.At, sample.Position, sample.StateHash, sample.Chain = time.Now(), replication.Revision{Epoch: s.Epoch, N: s.Revision}, s.StateHash, s.Chain
	sample.AsOf, _ = time.Parse(time.RFC3339, s.AsOf) // absent: none yet
	o.recorder.with(func(h *History) { h.Edges = append(h.Edges, sample) })
}

// internalURL is where the writer's internal listener is, past the relay.
func (c *Cluster) internalURL(id string) string {
	n, err := strconv.Atoi(id[1:])
	if err != nil {
		panic(err) // the system names them so
	}
	return fmt.Sprintf("http://127.0.0.1:%d", c.port+20+n)
}

// readLog folds what the writer has beyond the fold. It is true while there may be more.
func (o *observers) readLog(ctx context.Context, id string, fold *Fold) bool {
	if len(fold.Broken) > 0 {
		return false
	}
	url := fmt.Sprintf("%s%s?epoch=%d&after=%d&wait=0", o.cluster.internalURL(id), replication.ChangesPath, fold.Epoch, fold.Newest())
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return false
	}
	res, err := o.client.Do(req)
	if err != nil {
		return false // it is down
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != http.StatusOK {
		return false // it is behind what it had before it was killed, or cannot answer now
	}
	broken := ""
	o.recorder.with(func(*History) { broken = o.fold(body, fold) })
	if broken != "" {
		o.recorder.with(func(*History) { fold.Broken = append(fold.Broken, broken) })
		return false
	}
	batch, err := replication.ParseBatch(body)
	return err == nil && len(batch.Changes) > 0
}

// fold adds an answer of /changes. It returns what is wrong with it.
func (o *observers) fold(body []byte, fold *Fold) string {
	batch, err := replication.ParseBatch(body)
	if err != nil {
		return "an answer of /changes: " + err.Error()
	}
	for _, change := range batch.Changes {
		if err := fold.Add(bytes.Clone(change)); err != nil {
			return err.Error()
		}
	}
	position, err := o.verifier.Position(batch.Signed, 0)
	if err != nil {
		return fmt.Sprintf("the position after %d: %v", fold.Newest(), err)
	}
	if position.N != fold.Newest() {
		return fmt.Sprintf("the changes end at %d, the signed position is %d", fold.Newest(), position.N)
	}
	if err := fold.Agrees(position); err != nil {
		return err.Error()
	}
	return ""
}

// metric adds up the samples of a metric of a node; 0 when it does not answer.
func (c *Cluster) metric(ctx context.Context, id, name string) (sum float64) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.node(id).URL+"/metrics", nil)
	if err != nil {
		return 0
	}
	res, err := observer.Do(req)
	if err != nil {
		return 0
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		if len(fields) == 2 && (fields[0] == name || strings.HasPrefix(fields[0], name+"{")) {
			if v, err := strconv.ParseFloat(fields[1], 64); err == nil {
				sum += v
			}
		}
	}
	return sum
}

// agree waits until all nodes show one revision and one state hash.
func (c *Cluster) agree(ctx context.Context, within time.Duration) error {
	var last error
	if await(ctx, within, func() bool {
		last = c.compare(ctx)
		return last == nil
	}) {
		return nil
	}
	return fmt.Errorf("nodes do not agree: %w", last)
}

func (c *Cluster) compare(ctx context.Context) error {
	var first struct {
		node string
		s    writerStatus
	}
	for _, id := range slices.Concat(c.ids("w"), c.ids("e")) {
		var s struct {
			Epoch     uint64 `json:"epoch"`
			Revision  uint64 `json:"revision"`
			StateHash string `json:"state_hash"`
		}
		if err := c.status(ctx, id, &s); err != nil {
			return err
		}
		if first.node == "" {
			first.node, first.s = id, writerStatus{Epoch: s.Epoch, Revision: s.Revision, StateHash: s.StateHash}
		}
		if s.Epoch != first.s.Epoch || s.Revision != first.s.Revision || s.StateHash != first.s.StateHash {
			return fmt.Errorf("%s is at %d-%d %s, %s at %d-%d %s", first.node, first.s.Epoch, first.s.Revision, first.s.StateHash, id, s.Epoch, s.Revision, s.StateHash)
		}
	}
	return nil
}

// readLogs reads what the nodes wrote: who led in which term, and whether a program broke.
func (c *Cluster) readLogs(r *recorder) error {
	files, err := filepath.Glob(filepath.Join(c.dir, "logs", "*.log"))
	if err != nil {
		return err
	}
	for _, path := range files {
		node := strings.TrimSuffix(filepath.Base(path), ".log")
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for line := range bytes.Lines(b) {
			var entry struct {
				Message string `json:"msg"`
				Term    uint64 `json:"term"`
			}
			broke := bytes.HasPrefix(line, []byte("panic: ")) || bytes.HasPrefix(line, []byte("fatal error: ")) || bytes.Contains(line, []byte("DATA RACE"))
			switch {
			case broke:
				r.with(func(h *History) {
					h.Strange = append(h.Strange, fmt.Sprintf("%s broke: %.300s", node, bytes.TrimSpace(line)))
				})
			case bytes.Contains(line, []byte(`"msg":"leads"`)) && json.Unmarshal(line, &entry) == nil:
				r.with(func(h *History) { h.Leads = append(h.Leads, Lead{node, entry.Term}) })
			}
		}
	}
	return nil
}

// readJournals reads the writers' journals from their disks, once all has ended.
func (c *Cluster) readJournals(r *recorder, writers map[string]string) error {
	for id, dir := range writers {
		files, err := filepath.Glob(filepath.Join(dir, "journal", "*.seg"))
		if err != nil {
			return err
		}
		slices.Sort(files)
		var all []byte
		for _, path := range files {
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			all = append(all, b...)
		}
		r.with(func(h *History) { h.Journals[id] = all })
	}
	return nil
}
