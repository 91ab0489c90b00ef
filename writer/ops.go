package writer

import (
	"net/http"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"

	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/latchkey/latchkey/pkg/openapi"
	"github.com/latchkey/latchkey/writer/internal/store"
)

func (w *Writer) routeOps(s *server) {
	metrics := promhttp.HandlerFor(w.metrics.registry, promhttp.HandlerOpts{})
	s.handle("GET /healthz", func(rw http.ResponseWriter, _ *http.Request) error {
		return writeJSON(rw, http.StatusOK, map[string]bool{"ok": true})
	})
	s.handle("GET /readyz", w.handleReady)
	s.handle("GET /status", w.handleStatus)
	s.handle("GET "+openapi.Path, handleDescription)
	s.handle("GET /metrics", func(rw http.ResponseWriter, r *http.Request) error {
		metrics.ServeHTTP(rw, r)
		return nil
	})
}

// handleDescription serves the description of the HTTP interface, the same on writers and edges.
func handleDescription(rw http.ResponseWriter, r *http.Request) error {
	d, err := openapi.Served()
	if err != nil {
		return err
	}
	h := rw.Header()
	h.Set("Cache-Control", openapi.CacheControl)
	h.Set("ETag", d.ETag)
	if d.Held(r.Header.Get("If-None-Match")) {
		rw.WriteHeader(http.StatusNotModified)
		return nil
	}
	h.Set("Content-Type", openapi.MediaType)
	h.Set("Content-Length", strconv.Itoa(len(d.JSON)))
	h.Set("X-Content-Type-Options", "nosniff")
	_, _ = rw.Write(d.JSON) // a client that has gone cannot be told anything
	return nil
}

// The roles of a writer.
const (
	roleLeader   = "leader"
	roleFollower = "follower"
)

func (w *Writer) role() string { return roleOf(w.store.IsLeader()) }

func roleOf(leads bool) string {
	if leads {
		return roleLeader
	}
	return roleFollower
}

// ready is the answer of /readyz.
type ready struct {
	Ready   bool     `json:"ready"`
	Role    string   `json:"role"`
	Reasons []string `json:"reasons"` // why not; empty when ready
}

func (w *Writer) readiness() ready {
	r := ready{Role: w.role(), Reasons: []string{}}
	if reason := w.heldBack(); reason != "" {
		r.Reasons = append(r.Reasons, reason)
	}
	if w.store.Leader() == "" {
		r.Reasons = append(r.Reasons, "no leader")
	}
	if w.clock.believed() != nil || r.Role == roleLeader && w.store.CheckClock() != nil {
		r.Reasons = append(r.Reasons, reasonClock)
	}
	if w.disk.Status().Low {
		r.Reasons = append(r.Reasons, reasonDisk)
	}
	h := w.newestHead()
	switch {
	case h == nil:
		r.Reasons = append(r.Reasons, "no head from a leader yet")
	case w.headAge() > headFresh.Seconds():
		r.Reasons = append(r.Reasons, "the newest head is older than "+headFresh.String())
	case r.Role == roleFollower && w.store.Position().Epoch == 0:
		r.Reasons = append(r.Reasons, "no data yet")
	}
	if w.store.Proving() {
		r.Reasons = append(r.Reasons, "the state kept from before the start is being verified")
	}
	if m, _, err := w.store.Member(w.cfg.Node.ID); err == nil && m.Suffrage != store.Voting {
		r.Reasons = append(r.Reasons, map[store.Suffrage]string{store.Outside: "not a member: latchkey-writer join asks to be taken in", store.NonVoting: "joining"}[m.Suffrage])
	}
	if known, err := w.revoked(); err != nil {
		r.Reasons = append(r.Reasons, "the lists of revoked keys cannot be read")
	} else if lost, err := w.issuerRevoked(known); err != nil || lost {
		r.Reasons = append(r.Reasons, reasonIssuer)
	}
	if w.differs.Load() {
		r.Reasons = append(r.Reasons, "another writer's state differs")
	}
	r.Ready = len(r.Reasons) == 0
	return r
}

func (w *Writer) handleReady(rw http.ResponseWriter, _ *http.Request) error {
	r := w.readiness()
	status := http.StatusOK
	if !r.Ready {
		status = http.StatusServiceUnavailable
	}
	return writeJSON(rw, status, r)
}

// Status is what /status and `latchkey-writer status` show of a writer.
type Status struct {
	Node      string  `json:"node"`
	Cluster   string  `json:"cluster"`
	Version   string  `json:"version"`
	Role      string  `json:"role"`
	Leader    string  `json:"leader"` // empty: none is known
	Ready     bool    `json:"ready"`
	Epoch     uint64  `json:"epoch"`
	Revision  uint64  `json:"revision"`
	AsOf      *string `json:"as_of"` // of the newest head
	StateHash string  `json:"state_hash"`
	FullHash  string  `json:"full_hash"` // of what writers keep beyond records, at AppliedIndex
	Rules     uint32  `json:"rules"`

	Reasons []string `json:"reasons"` // why it is not ready: those of /readyz
	Alarms  []string `json:"alarms"`  // what an operator should look at besides

	Term            uint64 `json:"term"`
	CommitIndex     uint64 `json:"commit_index"`
	AppliedIndex    uint64 `json:"applied_index"`
	LastIndex       uint64 `json:"last_index"`
	MissingSegments int    `json:"missing_segments"` // of the journal, that it still has to fetch
	Floor           uint64 `json:"change_log_floor"` // changes up to here are no longer kept

	Clock ClockStatus `json:"clock"`
	Disk  DiskStatus  `json:"disk"`

	Members []Member   `json:"members"`
	Edges   []edgeSeen `json:"edges"` // that this writer has heard of since it started
}

func (w *Writer) status() (Status, error) {
	s := Status{Node: w.cfg.Node.ID, Cluster: w.cfg.Node.Cluster, Version: Version(), Leader: w.store.Leader()}
	ready := w.readiness()
	s.Ready, s.Reasons, s.Alarms = ready.Ready, ready.Reasons, w.alarms()
	stats := w.store.Stats()
	s.Role = roleOf(stats.Leads)
	p := stats.Position
	s.Epoch, s.Revision, s.StateHash, s.Rules = p.Epoch, p.N, p.StateHash.String(), p.Rules
	s.FullHash, s.AppliedIndex, s.Floor = stats.FullHash.String(), stats.AppliedIndex, stats.Floor
	s.Clock, s.Disk = w.ClockStatus(), w.DiskStatus()
	if h := w.newestHead(); h != nil {
		s.AsOf = optionalTime(h.AsOf)
	}
	s.Term, s.CommitIndex, s.LastIndex, s.MissingSegments = stats.Term, stats.CommitIndex, stats.LastIndex, stats.MissingSegments
	var err error
	// The store of a superseded writer is closed.
	if s.Members, err = w.members(s.Leader); err != nil && !w.superseded.Load() {
		return s, err
	}
	w.edgesMu.Lock()
	defer w.edgesMu.Unlock()
	s.Edges = []edgeSeen{}
	for _, e := range w.edges {
		s.Edges = append(s.Edges, e)
	}
	slices.SortFunc(s.Edges, func(a, b edgeSeen) int { return strings.Compare(a.ID, b.ID) })
	return s, nil
}

func (w *Writer) handleStatus(rw http.ResponseWriter, _ *http.Request) error {
	s, err := w.status()
	if err != nil {
		return err
	}
	return writeJSON(rw, http.StatusOK, s)
}

// Version says what was built: the module's version, or the commit.
func Version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	version := info.Main.Version
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" && (version == "" || version == "(devel)") {
			version = s.Value
		}
	}
	if version == "" {
		version = "unknown"
	}
	return version
}
