package writer

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"sync"
	"time"
)

// Writers ask each other for what decides who may lead: their clocks, and the room on their disks.
const (
	vitalsPath = "/internal/v1/vitals"
	// vitalsInterval is how often each asks all others. A clock that drifts is found long before it matters; one that is set is looked
	// at immediately.
	vitalsInterval = time.Second
	// vitalsPause is between two rounds at least, also when a clock that was set asks for one at each reading.
	vitalsPause = 100 * time.Millisecond
	// vitalsRoundTrip is how long an answer may take: a clock is known to half of it.
	vitalsRoundTrip = 500 * time.Millisecond
	// maxVitalsBytes has room for the ids of all members that there ever were.
	maxVitalsBytes = 64 << 10
	// wrongRounds is how many rounds must find the clock wrong before the lead is handed over for it: where all clocks are set one after the other,
	// the first is wrong for a moment. Nothing is stamped meanwhile.
	wrongRounds = 2
)

// vitals is what one writer tells the others of itself.
type vitals struct {
	Node    string `json:"node"`
	Clock   int64  `json:"clock"` // its machine's, Unix nanoseconds, uncorrected
	Applied uint64 `json:"applied_index"`
	Free    int64  `json:"disk_free_bytes"`
	Low     bool   `json:"disk_low"`

	// What only the operator looks at, and the leader when a node joins.
	Version         string `json:"version"`
	Rules           uint32 `json:"rules_known"`
	Ready           bool   `json:"ready"`
	Term            uint64 `json:"term"`
	Commit          uint64 `json:"commit_index"`
	Last            uint64 `json:"last_index"`
	MissingSegments int    `json:"missing_segments"`
	Used            int64  `json:"disk_used_bytes"`

	// What a writer with an empty disk must know before it founds a cluster.
	Empty     bool     `json:"empty,omitempty"`
	Announced []string `json:"announced,omitempty"`
}

// peer is what is known of another writer.
type peer struct {
	vitals
	heard time.Time
}

// watch looks after this node's clock and disk, compares them with the others', and hands the lead over when another one is better for it,
// until ctx ends.
func (w *Writer) watch(ctx context.Context) {
	ticker := time.NewTicker(vitalsInterval)
	defer ticker.Stop()
	var patience patience
	wrong := 0 // rounds in a row that found the clock wrong
	for {
		w.disk.Look()
		round := w.clock.begin()
		w.askVitals(ctx)
		voters := w.voters()
		if w.clock.judge(round, w.cfg.Node.ID, voters) {
			w.log.WarnContext(ctx, "clock judged anew", "offset", w.clock.line.Load().deviation.String(), "off", w.clock.wrong())
		}
		if wrong++; !w.clock.wrong() {
			wrong = 0
		}
		w.decide(ctx, voters, wrong >= wrongRounds, &patience)
		var soon <-chan time.Time
		if line := w.clock.line.Load(); !line.compared && !line.alone || wrong > 0 && wrong < wrongRounds {
			soon = time.After(vitalsPause) // nothing is stamped before
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(vitalsPause):
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		case <-soon:
		case <-w.clock.kick:
		}
	}
}

// voters returns the ids of the writers that vote, as this node knows them.
func (w *Writer) voters() []string {
	var ids []string
	for _, v := range w.store.Stats().Voters {
		ids = append(ids, v.ID)
	}
	return ids
}

// askVitals asks all other writers, each at most for vitalsRoundTrip.
func (w *Writer) askVitals(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, vitalsRoundTrip)
	defer cancel()
	var asking sync.WaitGroup
	for id, base := range w.others() {
		asking.Go(func() {
			asked := time.Now()
			v, err := w.askPeer(ctx, base)
			roundTrip := time.Since(asked)
			if err == nil && v.Node != id {
				err = fmt.Errorf("it is %q", v.Node)
			}
			if err != nil {
				w.log.DebugContext(ctx, "vitals of a writer", "writer", id, "error", err)
				return
			}
			w.clock.measured(id, time.Unix(0, v.Clock), asked, roundTrip)
			w.vitalsMu.Lock()
			defer w.vitalsMu.Unlock()
			w.vitals[id] = peer{vitals: v, heard: asked}
		})
	}
	asking.Wait()
}

func (w *Writer) askPeer(ctx context.Context, base string) (v vitals, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, base+vitalsPath, nil)
	if err != nil {
		return v, err
	}
	req.Header.Set(clusterHeader, w.cfg.Node.Cluster)
	res, err := w.client.Do(req)
	if err != nil {
		return v, err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, maxVitalsBytes))
	if err != nil {
		return v, err
	}
	if res.StatusCode != http.StatusOK {
		return v, fmt.Errorf("status %d", res.StatusCode)
	}
	return v, json.Unmarshal(body, &v)
}

// handleVitals tells another writer of this one. The clock is read last: what takes time before would count as its error.
func (w *Writer) handleVitals(rw http.ResponseWriter, _ *http.Request) error {
	v := w.ownVitals()
	v.Clock = w.clock.raw().UnixNano()
	return writeJSON(rw, http.StatusOK, v)
}

func (w *Writer) ownVitals() vitals {
	disk := w.disk.Status()
	stats, standing := w.store.Stats(), w.store.Standing()
	return vitals{Node: w.cfg.Node.ID, Applied: stats.AppliedIndex, Free: disk.FreeBytes, Low: disk.Low, Version: Version(), Rules: standing.Rules, Empty: standing.Empty, Announced: standing.Announced,
		Ready: w.readiness().Ready, Term: stats.Term, Commit: stats.CommitIndex, Last: stats.LastIndex, MissingSegments: stats.MissingSegments, Used: w.used.bytes()}
}

// heard returns the vitals of the voters that answered of late, this one not among them.
func (w *Writer) heard(voters []string) map[string]vitals {
	w.vitalsMu.Lock()
	defer w.vitalsMu.Unlock()
	all := map[string]vitals{}
	for _, id := range voters {
		if p, known := w.vitals[id]; known && id != w.cfg.Node.ID && time.Since(p.heard) <= clockKept {
			all[id] = p.vitals
		}
	}
	return all
}

// decide hands the lead over if this node has it and another one is better for it, and says whether there is room for writes.
func (w *Writer) decide(ctx context.Context, voters []string, wrongClock bool, patience *patience) {
	peers := w.heard(voters)
	disk := w.disk.Status()
	low := disk.Low
	reason := ""
	if wrongClock {
		reason = reasonClock
	} else if low {
		reason = reasonDisk
	}
	to := successor(peers, w.clock.good(w.cfg.Node.ID, voters), reason)
	// While another one is to take the lead, or has it in a moment, writes go on: for that the reserve is there, at least its half.
	w.disk.full.Store(!roomFor(len(voters), low, peers) || low && (to == "" || disk.FreeBytes < disk.ReserveBytes/2))
	if reason == "" {
		patience.rest(time.Now())
	} else if w.store.IsLeader() && to != "" && patience.due(time.Now()) {
		err := w.store.TransferLeadershipTo(to)
		w.log.WarnContext(ctx, "lead handed over", "reason", reason, "to", to, "error", err)
		w.metrics.handedOver(reason)
	}
}

// roomFor reports whether as many voters as make a majority have room for more, this node's among them. While nobody's disk is nearly full, those
// that do not answer do not matter.
func roomFor(voters int, low bool, peers map[string]vitals) bool {
	withRoom, anyLow := 0, low
	if !low {
		withRoom++
	}
	for _, v := range peers {
		if v.Low {
			anyLow = true
		} else {
			withRoom++
		}
	}
	return !anyLow || withRoom > voters/2
}

// successor returns the writer to hand the lead to for a reason: of those that answer, whose clock is good and, if there is one, whose
// disk has room, the one that has applied most. "" is none: for a full disk, one that is as full is no better.
func successor(peers map[string]vitals, goodClock map[string]bool, reason string) string {
	best := ""
	for _, id := range slices.Sorted(maps.Keys(peers)) {
		v := peers[id]
		if !goodClock[id] || v.Low && reason == reasonDisk {
			continue
		}
		if b := peers[best]; best == "" || b.Low && !v.Low || b.Low == v.Low && v.Applied > b.Applied {
			best = id
		}
	}
	return best
}

// The reasons of /readyz that operators have a page for, and why leadership is handed over.
const (
	reasonClock  = "clock"
	reasonDisk   = "disk"
	reasonIssuer = "the issuing key is revoked: start this writer with the next one"
)

// How soon leadership is handed over again for one of the reasons: a node that is elected again and again although others are better must
// not cost an election a second. Doubled each time.
const (
	handOverPauseMin = 5 * time.Second
	handOverPauseMax = 5 * time.Minute
)

// patience paces the handing over. The zero value is ready.
type patience struct {
	pause time.Duration
	next  time.Time
}

// due reports whether it is time for another attempt, and counts it.
func (p *patience) due(now time.Time) bool {
	if now.Before(p.next) {
		return false
	}
	p.pause = min(max(2*p.pause, handOverPauseMin), handOverPauseMax)
	p.next = now.Add(p.pause)
	return true
}

// rest notes that there is no reason at present. One that comes back soon waits as before.
func (p *patience) rest(now time.Time) {
	if now.After(p.next.Add(p.pause)) {
		*p = patience{}
	}
}
