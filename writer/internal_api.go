package writer

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/latchkey/latchkey/pkg/entitlement"
	"github.com/latchkey/latchkey/pkg/problem"
	"github.com/latchkey/latchkey/pkg/token"
	"github.com/latchkey/latchkey/replication"
	"github.com/latchkey/latchkey/writer/internal/store"
)

const (
	// maxPolls bounds the requests for changes that wait at one time: each holds a goroutine and a connection.
	maxPolls = 4096
	// maxFrames bounds the answers that are kept for edges which ask the same. Edges are at a few revisions at a time.
	maxFrames = 32
	// frameBlock is what long answers are a multiple of: so few that the rest is a short answer, so many that hardly any edge needs one answer more.
	frameBlock = 128
	// frameAge is how long an answer is kept: its signature must not outlive the key's certificate in a cluster where nothing changes.
	frameAge = time.Minute
	// maxCertificateBytes bounds a request for a certificate.
	maxCertificateBytes = 4 << 10
	// maxEdges bounds what /status remembers of edges, by the names that they give themselves.
	maxEdges = 1024
)

// routeInternal lays the routes of the internal listener: for edges what they replicate from, for the other writers what they
// need of the leader.
func (w *Writer) routeInternal(s *server) {
	for pattern, h := range map[string]handler{
		"GET " + replication.HeadPath:         w.handleHead,
		"POST " + replication.HeadPath:        w.handleShownHead,
		"GET " + replication.ChangesPath:      w.handleChanges,
		"GET " + replication.SnapshotPath:     w.handleSnapshot,
		"POST /internal/v1/edge-certificates": w.handleEdgeCertificate,
		"POST /internal/v1/propose":           w.ofWriter(w.handlePropose),
		"GET /internal/v1/read-index":         w.ofWriter(w.handleReadIndex),
		"GET " + vitalsPath:                   w.ofWriter(w.handleVitals),
		"GET /internal/v1/segments/{sha256}":  w.ofWriter(w.handleSegment),
		"GET " + marksPath:                    w.ofWriter(w.handleMarks),
		identityRoute:                         w.handleIdentity,
	} {
		s.handle(pattern, w.fromNodes(h))
	}
	passedOn := func(pattern string, h handler) { // by edges, for apps
		s.handle(pattern, w.fromNodes(func(rw http.ResponseWriter, r *http.Request) error {
			return h(rw, r.WithContext(context.WithValue(r.Context(), passedOnKey{}, true)))
		}))
	}
	w.routeReceipts(passedOn)
	w.routeIntents(passedOn)
	w.routeSessions(passedOn)
	w.routeRedeemLink(passedOn)
	w.routeRedeemCode(passedOn)
	w.routeDevices(passedOn)
	w.routeMembers(s)
}

// handleChanges serves the changes after a revision, waiting for the first one if asked to.
func (w *Writer) handleChanges(rw http.ResponseWriter, r *http.Request) error {
	select {
	case w.polls <- struct{}{}:
		defer func() { <-w.polls }()
	default:
		w.metrics.pulled("busy")
		return problem.New(problem.Unavailable, "Too many edges wait here.").After(time.Second)
	}
	q := r.URL.Query()
	epoch, err1 := strconv.ParseUint(q.Get("epoch"), 10, 64)
	after, err2 := strconv.ParseUint(q.Get("after"), 10, 64)
	limit, err3 := optionalNumber(q.Get("limit"), replication.MaxBatchChanges)
	wait, err4 := optionalNumber(q.Get("wait"), int(replication.MaxWait/time.Second))
	if err := errors.Join(err1, err2, err3, err4); err != nil || limit == 0 {
		return problem.New(problem.InvalidRequest, "Want epoch, after, limit and wait as whole numbers.")
	}
	edge, err := w.asking(r, r.Header.Get(replication.NodeHeader))
	if err != nil {
		return err
	}
	w.sawEdge(edge, replication.Revision{Epoch: epoch, N: after})
	_ = http.NewResponseController(rw).SetWriteDeadline(time.Now().Add(replication.MaxWait + writeTimeout))
	position, err := w.awaitChange(r.Context(), epoch, after, time.Duration(wait)*time.Second)
	if err != nil {
		return err
	}
	frame, err := w.frames.get(frameKey{epoch: epoch, after: after, changes: sharedChanges(position.N-after, limit)})
	switch {
	case errors.Is(err, store.ErrBelowFloor):
		w.metrics.pulled("below_floor")
		return problem.New(problem.BelowFloor, "The change log begins later.")
	case errors.Is(err, store.ErrAhead):
		return w.otherHistory()
	case err != nil:
		return err
	}
	if position.N == after {
		w.metrics.pulled("empty")
	} else {
		w.metrics.pulled("changes")
	}
	writeBody(rw, http.StatusOK, "application/octet-stream", frame)
	return nil
}

func optionalNumber(text string, most int) (int, error) {
	if text == "" {
		return most, nil
	}
	n, err := strconv.ParseUint(text, 10, 31)
	return min(int(n), most), err
}

// awaitChange returns this node's position once it is past after, or when wait is over.
func (w *Writer) awaitChange(ctx context.Context, epoch, after uint64, wait time.Duration) (replication.Position, error) {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	for over := false; ; {
		updated := w.store.Updated()
		p := w.store.Position()
		switch {
		case p.Epoch != epoch:
			return p, w.otherHistory()
		case p.N > after, p.N == after && over:
			return p, nil
		case over: // this node is behind the edge, which came from another one
			return p, w.otherHistory()
		}
		select {
		case <-updated:
		case <-timer.C:
			over = true
		case <-ctx.Done():
			return p, ctx.Err()
		}
	}
}

func (w *Writer) otherHistory() error {
	w.metrics.pulled("other_history")
	return problem.New(problem.OtherHistory, "This writer does not have that revision.")
}

// frames keeps the last answers of /changes, so that any number of edges which ask the same cost one signature.
type frames struct {
	build func(frameKey) ([]byte, error)

	mu    sync.Mutex
	calls map[frameKey]*frameCall
}

type frameKey struct {
	epoch, after uint64
	changes      int // that it has at most
}

type frameCall struct {
	begun time.Time
	done  chan struct{}
	frame []byte
	err   error
}

// sharedChanges is how many of the changes that an edge lacks one answer has. Many go out in whole blocks, so that edges which took the same snapshot get
// the same answer, whatever came meanwhile.
func sharedChanges(lacking uint64, limit int) int {
	n := int(min(lacking, uint64(limit)))
	if n > frameBlock {
		n -= n % frameBlock
	}
	return n
}

func (f *frames) get(key frameKey) ([]byte, error) {
	f.mu.Lock()
	call, found := f.calls[key]
	if found = found && time.Since(call.begun) < frameAge; !found {
		if len(f.calls) >= maxFrames || f.calls == nil {
			f.calls = map[frameKey]*frameCall{}
		}
		call = &frameCall{begun: time.Now(), done: make(chan struct{})}
		f.calls[key] = call
	}
	f.mu.Unlock()
	if !found {
		call.frame, call.err = f.build(key)
		if call.err != nil {
			f.mu.Lock()
			delete(f.calls, key)
			f.mu.Unlock()
		}
		close(call.done)
	}
	<-call.done
	return call.frame, call.err
}

// buildFrame reads and signs one answer of /changes.
func (w *Writer) buildFrame(key frameKey) ([]byte, error) {
	changes, position, err := w.store.Changes(key.after, max(key.changes, 1), replication.MaxBatchBytes)
	if err != nil {
		return nil, err
	}
	if position.Epoch != key.epoch {
		return nil, store.ErrAhead
	}
	signed, err := w.signPosition(position)
	if err != nil {
		return nil, err
	}
	return replication.Batch{Signed: signed, Changes: changes}.AppendBinary(nil), nil
}

func (w *Writer) signPosition(p replication.Position) (string, error) {
	now := w.now()
	signed, err := w.signer.sign(p.Claims(now.Unix()), now)
	if err != nil {
		return "", fmt.Errorf("sign position %s: %w", p.Revision(), err)
	}
	return signed, nil
}

type certificateRequest struct {
	Node        string                  `json:"node"`
	Environment entitlement.Environment `json:"environment"`
	Audience    string                  `json:"audience"`
	JWK         token.JWK               `json:"jwk"`
}

type certificateAnswer struct {
	Certificates [2]string `json:"certificates"` // the edge's, then the issuer's
}

// handleEdgeCertificate certifies an edge's key for one environment. The key is made on the edge and never leaves it.
func (w *Writer) handleEdgeCertificate(rw http.ResponseWriter, r *http.Request) error {
	cert, err := w.certifyEdge(r)
	if err != nil {
		w.metrics.certificate("refused")
		return err
	}
	w.metrics.certificate("issued")
	return writeJSON(rw, http.StatusOK, certificateAnswer{Certificates: [2]string{cert, w.keys.issuerText}})
}

func (w *Writer) certifyEdge(r *http.Request) (string, error) {
	body, err := readBody(r, maxCertificateBytes)
	if err != nil {
		return "", err
	}
	var req certificateRequest
	if err := decodeStrict(body, &req); err != nil {
		return "", problem.New(problem.InvalidRequest, err.Error())
	}
	env, served := w.cfg.Environments[req.Environment]
	if !served {
		return "", problem.New(problem.UnknownEnvironment, "This cluster does not serve such an environment.")
	}
	if req.Audience != env.Audience {
		return "", problem.New(problem.Forbidden, "The audience is not that of the environment.")
	}
	if !nodeName.MatchString(req.Node) {
		return "", problem.New(problem.InvalidRequest, "The node's name has other characters than a-z, 0-9 and -.")
	}
	if asking, err := w.asking(r, req.Node); err != nil {
		return "", err
	} else if asking != req.Node {
		return "", problem.New(problem.Forbidden, "An edge is certified under the name that its own certificate shows.")
	}
	key, err := req.JWK.PublicKey()
	if err != nil {
		return "", problem.New(problem.InvalidRequest, "The jwk is not a P-256 public key.")
	}
	if err := w.mayCertify(req.JWK); err != nil {
		return "", err
	}
	cert, err := w.keys.certify(token.Certificate{Issuer: w.cfg.Node.Cluster, Subject: req.Node, Role: token.RoleEdge,
		Audience: req.Audience, Environment: string(req.Environment), Key: key}, w.now())
	if err != nil {
		return "", err
	}
	w.log.InfoContext(r.Context(), "edge certified", "edge", req.Node, "environment", req.Environment)
	w.sawEdge(req.Node, replication.Revision{})
	return cert, nil
}

// edgeSeen is what /status says of an edge.
type edgeSeen struct {
	ID       string `json:"id"`
	LastSeen string `json:"last_seen"`
	Revision string `json:"revision,omitempty"` // that it had when it was heard of last
	// Lag is how many changes it lacked then; absent without a revision of this writer's history.
	Lag *uint64 `json:"lag,omitempty"`
}

// sawEdge notes that an edge asked for something, and what it holds; the zero revision is unknown. Edges beyond maxEdges are not noted.
func (w *Writer) sawEdge(id string, at replication.Revision) {
	if !nodeName.MatchString(id) {
		return
	}
	var lag *uint64
	if p := w.store.Position(); at.Epoch == p.Epoch && at.N <= p.N {
		behind := p.N - at.N
		lag = &behind
	}
	w.edgesMu.Lock()
	defer w.edgesMu.Unlock()
	seen, known := w.edges[id]
	if !known && len(w.edges) >= maxEdges {
		return
	}
	seen.ID, seen.LastSeen = id, formatTime(w.now().Unix())
	if at != (replication.Revision{}) {
		seen.Revision, seen.Lag = at.String(), lag
	}
	w.edges[id] = seen
}

// handleSegment serves a sealed segment of the journal to a writer that lacks it.
func (w *Writer) handleSegment(rw http.ResponseWriter, r *http.Request) error {
	hash, err := parseHash(r.PathValue("sha256"))
	if err != nil {
		return problem.New(problem.InvalidRequest, "Want a SHA-256 in hex.")
	}
	segment, err := w.store.OpenSegment(hash)
	if errors.Is(err, store.ErrNoSegment) {
		return problem.New(problem.NotFound, "This writer has no such segment.")
	}
	if err != nil {
		return err
	}
	defer segment.Close()
	rw.Header().Set("Content-Type", "application/octet-stream")
	_, err = io.Copy(&steadyWriter{rw}, segment)
	return err
}

// fetchSegment gets a segment from any of the other writers. Who asks compares the hash.
func (w *Writer) fetchSegment(ctx context.Context, others map[string]string, hash replication.Hash) (io.ReadCloser, error) {
	err := error(store.ErrNoSegment)
	for id, base := range others {
		req, reqErr := http.NewRequestWithContext(ctx, http.MethodGet, base+"/internal/v1/segments/"+hash.String(), nil)
		if reqErr != nil {
			return nil, reqErr
		}
		req.Header.Set(clusterHeader, w.cfg.Node.Cluster)
		res, doErr := w.client.Do(req)
		if doErr != nil {
			err = doErr
			continue
		}
		if res.StatusCode == http.StatusOK {
			return res.Body, nil
		}
		res.Body.Close()
		err = fmt.Errorf("%s: status %d", id, res.StatusCode)
	}
	return nil, fmt.Errorf("fetch segment %s: %w", hash, err)
}

func parseHash(text string) (replication.Hash, error) {
	var h replication.Hash
	b, err := hex.DecodeString(text)
	if err != nil || len(b) != len(h) {
		return h, errors.New("not a SHA-256 in hex")
	}
	copy(h[:], b)
	return h, nil
}

// steadyWriter gives the peer writeTimeout for each piece instead of for the whole: large files take long, a stuck peer does not.
type steadyWriter struct{ http.ResponseWriter }

func (s *steadyWriter) Write(b []byte) (int, error) {
	_ = http.NewResponseController(s.ResponseWriter).SetWriteDeadline(time.Now().Add(writeTimeout))
	return s.ResponseWriter.Write(b)
}
