package writer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/latchkey/latchkey/pkg/problem"
	"github.com/latchkey/latchkey/replication"
	"github.com/latchkey/latchkey/writer/internal/store"
)

// How writers come into a cluster and leave it. The operator asks any node at its socket; that node asks the leader, and the leader's store
// decides (store/membership.go). A node that is to join asks those that its configuration names, because it knows no leader yet.

const (
	membersPath = "/internal/v1/members"
	// membershipInterval is how often a node looks whether the others know how it is reached, and whether it was removed.
	membershipInterval = time.Second
	// maxMembershipBytes bounds what is read of a request or answer about members.
	maxMembershipBytes = 16 << 10
	// membershipTimeout is how long a change of membership is tried: an election may be in the way. It is less than operatorTimeout.
	membershipTimeout = 12 * time.Second
	// leaderlessRounds is how often in a row no leader was known before a node asks the others whether it still belongs to them.
	leaderlessRounds = 3
	// removedFile says for good that the node was removed.
	removedFile = "removed"
)

// ErrRemoved means that this writer was removed from its cluster: it must never run again on its data.
var ErrRemoved = errors.New("this writer was removed from the cluster, for good: to use the machine again, give it a new node.id and an empty node.data_dir, and join")

// membershipRequest asks the leader for a change: to add a node, or to remove one.
type membershipRequest struct {
	Add    *memberSelf `json:"add,omitempty"`
	Remove string      `json:"remove,omitempty"`
}

// memberSelf is what a node says of itself.
type memberSelf struct {
	ID       string `json:"id"`
	Raft     string `json:"raft"`
	Internal string `json:"internal"`
	Rules    uint32 `json:"rules"`
}

// membershipAnswer says what became of the request.
type membershipAnswer struct {
	Refused string `json:"refused,omitempty"` // why it was not done; empty: it was
}

// memberAnswer is what the cluster says of a node.
type memberAnswer struct {
	Known   bool `json:"known"` // it belongs to the cluster, or once did
	Removed bool `json:"removed"`
}

func (w *Writer) routeMembers(s *server) {
	s.handle("POST "+membersPath, w.fromNodes(w.ofWriter(w.handleMembership)))
	s.handle("GET "+membersPath+"/{id}", w.fromNodes(w.ofWriter(w.handleMember)))
}

// self is how the others reach this writer.
func (w *Writer) self() memberSelf {
	raft, internal := w.cfg.addresses()
	return memberSelf{ID: w.cfg.Node.ID, Raft: raft, Internal: internal, Rules: w.store.Standing().Rules}
}

// addresses returns how the other writers reach this one: what the list of voters says, else what is advertised, else where it listens.
func (c *Config) addresses() (raft, internal string) {
	raft, internal = c.Node.RaftListen, c.internalScheme()+"://"+c.Node.InternalListen
	if c.Node.RaftAdvertise != "" {
		raft = c.Node.RaftAdvertise
	}
	if c.Node.InternalAdvertise != "" {
		internal = c.Node.InternalAdvertise
	}
	for _, v := range c.Cluster.Voters {
		if v.ID == c.Node.ID {
			raft, internal = v.Raft, v.Internal
		}
	}
	return raft, strings.TrimSuffix(internal, "/")
}

// others returns the internal addresses of all other writers by id: those of the configuration, and those that joined later. Who was removed is
// not among them.
func (w *Writer) others() map[string]string {
	all := maps.Clone(w.peers)
	members, err := w.store.Members()
	if err != nil { // closing
		w.log.Debug("members not read", "error", err)
	}
	for _, m := range members {
		switch {
		case m.RemovedAt != 0:
			delete(all, m.ID)
		case m.Suffrage != store.Outside && m.Internal != "" && all[m.ID] == "":
			all[m.ID] = w.peerBase(VoterConfig{ID: m.ID, Internal: m.Internal})
		}
	}
	delete(all, w.cfg.Node.ID)
	return all
}

// baseOf returns where another writer's internal API is asked, or "".
func (w *Writer) baseOf(id string) string {
	if base, configured := w.peers[id]; configured {
		return base
	}
	if at := w.internalOf(id); at != "" {
		return w.peerBase(VoterConfig{ID: id, Internal: at})
	}
	return ""
}

// internalOf returns the internal address of another writer, as it is written, or "".
func (w *Writer) internalOf(id string) string {
	for _, v := range w.cfg.Cluster.Voters {
		if v.ID == id {
			return v.Internal
		}
	}
	m, _, err := w.store.Member(id)
	if err != nil {
		w.log.Debug("members not read", "error", err)
	}
	return m.Internal
}

// storeAsks and storeFetches are what the store asks the other writers for. It may do so before Open has returned it.
func (w *Writer) storeAsks(ctx context.Context, id string) (store.Standing, error) {
	select {
	case <-w.opened:
		return w.askStanding(ctx, id)
	case <-ctx.Done():
		return store.Standing{}, ctx.Err()
	}
}

func (w *Writer) storeFetches(ctx context.Context, hash replication.Hash) (io.ReadCloser, error) {
	select {
	case <-w.opened:
		return w.fetchSegment(ctx, w.others(), hash)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// askStanding asks another writer how it stands.
func (w *Writer) askStanding(ctx context.Context, id string) (store.Standing, error) {
	base := w.baseOf(id)
	if base == "" {
		return store.Standing{}, fmt.Errorf("%s: no address known", id)
	}
	v, err := w.askPeer(ctx, base)
	if err == nil && v.Node != id {
		err = fmt.Errorf("at the address of %s is %q", id, v.Node)
	}
	return store.Standing{Rules: v.Rules, AppliedIndex: v.Applied, MissingSegments: v.MissingSegments, Empty: v.Empty, Announced: v.Announced}, err
}

// changeMembership has the leader do it, which is this node or one hop away, and tries until somebody leads. Errors: ErrMembership of the store, a
// problem.
func (w *Writer) changeMembership(ctx context.Context, req membershipRequest) error {
	ctx, cancel := context.WithTimeout(ctx, membershipTimeout)
	defer cancel()
	for {
		err := w.changeMembershipOnce(ctx, req)
		if err == nil || !retryable(err) {
			return err
		}
		if sleep(ctx, retryPauseMax) != nil {
			w.log.WarnContext(ctx, "membership not changed", "error", err)
			return unavailable("No leader did it in time. It may still be done: look at the status, and ask again.")
		}
	}
}

func (w *Writer) changeMembershipOnce(ctx context.Context, req membershipRequest) error {
	if w.store.IsLeader() {
		return w.changeMembershipHere(ctx, req)
	}
	body, err := json.Marshal(req)
	if err != nil {
		return err
	}
	answer, err := w.askLeader(ctx, http.MethodPost, membersPath+"?hop=1", body)
	if err != nil {
		return err
	}
	return readMembershipAnswer(answer)
}

func readMembershipAnswer(text []byte) error {
	var answer membershipAnswer
	if err := json.Unmarshal(text, &answer); err != nil {
		return fmt.Errorf("answer about members: %w: %w", errUnreachable, err)
	}
	if answer.Refused != "" {
		return fmt.Errorf("%w: %s", store.ErrMembership, answer.Refused)
	}
	return nil
}

func (w *Writer) changeMembershipHere(ctx context.Context, req membershipRequest) error {
	if add := req.Add; add != nil {
		return w.store.AddMember(ctx, store.Member{ID: add.ID, Raft: add.Raft, Internal: add.Internal}, add.Rules)
	}
	return w.store.RemoveMember(ctx, req.Remove)
}

// handleMembership takes a request from another writer: at the leader it is done, others pass it on once.
func (w *Writer) handleMembership(rw http.ResponseWriter, r *http.Request) error {
	body, err := readBody(r, maxMembershipBytes)
	if err != nil {
		return err
	}
	var req membershipRequest
	if err := decodeStrict(body, &req); err != nil || (req.Add == nil) == (req.Remove == "") || req.Add != nil && !nodeName.MatchString(req.Add.ID) {
		return problem.New(problem.InvalidRequest, "Want a node to add, or the id of one to remove.")
	}
	change := w.changeMembership
	if r.URL.Query().Get("hop") == "1" {
		change = w.changeMembershipHere
	}
	answer := membershipAnswer{}
	err = change(r.Context(), req)
	if refusal, refused := refusalOf(err); refused {
		answer.Refused = refusal
	} else if err != nil && retryable(err) {
		return unavailable("This writer does not lead at present.")
	} else if err != nil {
		return err
	}
	return writeJSON(rw, http.StatusOK, answer)
}

// refusalOf returns why the leader refused.
func refusalOf(err error) (string, bool) {
	if !errors.Is(err, store.ErrMembership) {
		return "", false
	}
	return strings.TrimPrefix(err.Error(), store.ErrMembership.Error()+": "), true
}

// handleMember says whether a node belongs to the cluster, as of now and not as this node last heard.
func (w *Writer) handleMember(rw http.ResponseWriter, r *http.Request) error {
	id := r.PathValue("id")
	if err := w.read(r.Context(), func(*store.Reader) error { return nil }); err != nil {
		return err
	}
	m, known, err := w.store.Member(id)
	if err != nil {
		return err
	}
	return writeJSON(rw, http.StatusOK, memberAnswer{Known: known, Removed: m.RemovedAt != 0})
}

// askMember asks the others what the cluster says of this node. The first that can tell is enough. Error: errUnreachable.
func (w *Writer) askMember(ctx context.Context, others map[string]string) (answer memberAnswer, err error) {
	err = errUnreachable
	for _, id := range slices.Sorted(maps.Keys(others)) {
		var text []byte
		if text, err = w.ask(ctx, http.MethodGet, others[id]+membersPath+"/"+w.cfg.Node.ID, nil); err == nil {
			return answer, json.Unmarshal(text, &answer)
		}
	}
	return answer, err
}

// ask sends a request to a writer that need not lead, and returns the body of its 200. Errors: errUnreachable, and a problem's text.
func (w *Writer) ask(ctx context.Context, method, url string, body []byte) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(string(body)))
	if err != nil {
		return nil, err
	}
	req.Header.Set(clusterHeader, w.cfg.Node.Cluster)
	res, err := w.client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errUnreachable, err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(io.LimitReader(res.Body, maxMembershipBytes))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errUnreachable, err)
	}
	if res.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%w: status %d", errUnreachable, res.StatusCode)
	}
	return text, nil
}

// JoinProgress says how far a writer is on its way into the cluster.
type JoinProgress struct {
	Suffrage        string `json:"suffrage"`         // empty: just asked for; "non-voter"; "voter": done
	AppliedIndex    uint64 `json:"applied_index"`    // of this writer
	LeaderIndex     uint64 `json:"leader_index"`     // that it has to reach; 0: not known yet
	MissingSegments int    `json:"missing_segments"` // of the journal, that it still has to fetch
}

// handleJoin asks the cluster to take this writer in, if it did not yet, and says how far it is. Asking again is harmless.
func (w *Writer) handleJoin(rw http.ResponseWriter, r *http.Request) error {
	m, _, err := w.store.Member(w.cfg.Node.ID)
	if err != nil {
		return err
	}
	if m.Suffrage == store.Outside {
		err = w.askToJoin(r.Context())
	}
	if err != nil {
		return membershipProblem(err)
	}
	standing := w.store.Standing()
	p := JoinProgress{Suffrage: string(m.Suffrage), AppliedIndex: standing.AppliedIndex, MissingSegments: standing.MissingSegments}
	if leader := w.store.Leader(); leader == w.cfg.Node.ID {
		p.LeaderIndex = standing.AppliedIndex
	} else {
		p.LeaderIndex = w.heard([]string{leader})[leader].Applied
	}
	return writeJSON(rw, http.StatusOK, p)
}

// askToJoin asks the writers of the configuration, one after the other, to have this one added.
func (w *Writer) askToJoin(ctx context.Context) error {
	self := w.self()
	body, err := json.Marshal(membershipRequest{Add: &self})
	if err != nil {
		return err
	}
	others := w.others()
	if len(others) == 0 {
		return fmt.Errorf("%w: cluster.voters names no other writer", store.ErrMembership)
	}
	err = nil
	for _, id := range slices.Sorted(maps.Keys(others)) {
		text, askErr := w.ask(ctx, http.MethodPost, others[id]+membersPath, body)
		if askErr != nil {
			err = askErr
			continue
		}
		return readMembershipAnswer(text)
	}
	w.log.WarnContext(ctx, "no writer takes the request to join", "error", err)
	return unavailable("None of the writers in cluster.voters could pass the request on to a leader.")
}

func membershipProblem(err error) error {
	if refusal, refused := refusalOf(err); refused {
		return problem.New(problem.InvalidRequest, sentence(refusal))
	}
	return err
}

// handleRemove ends a member's membership.
func (w *Writer) handleRemove(rw http.ResponseWriter, r *http.Request) error {
	if err := w.changeMembership(r.Context(), membershipRequest{Remove: r.PathValue("id")}); err != nil {
		return membershipProblem(err)
	}
	return writeJSON(rw, http.StatusOK, struct{}{})
}

// handleTransfer gives the lead to another writer; ?to= names it.
func (w *Writer) handleTransfer(rw http.ResponseWriter, r *http.Request) error {
	to := r.URL.Query().Get("to")
	var err error
	if to == "" {
		err = w.store.TransferLeadership()
	} else {
		err = w.store.TransferLeadershipTo(to)
	}
	if _, refused := refusalOf(err); refused {
		return membershipProblem(err)
	}
	if err != nil {
		return problem.New(problem.Unavailable, sentence(err.Error()))
	}
	return writeJSON(rw, http.StatusOK, struct{}{})
}

// attend tells the cluster how this node is reached, where it knows otherwise or nothing, and stops the node when it was removed, until ctx ends.
func (w *Writer) attend(ctx context.Context) {
	tick := time.NewTicker(membershipInterval)
	defer tick.Stop()
	leaderless := 0
	for {
		if w.store.Leader() == "" {
			leaderless++
		} else {
			leaderless = 0
		}
		if w.wasRemoved(ctx, leaderless >= leaderlessRounds) {
			w.noteRemoved(ctx)
			return
		}
		w.announce(ctx)
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// wasRemoved reports whether the cluster has removed this node. Its own state may say so. Where that ended before, it hears of no leader any more, and
// asks the others.
func (w *Writer) wasRemoved(ctx context.Context, alone bool) bool {
	m, known, err := w.store.Member(w.cfg.Node.ID)
	if err != nil || m.RemovedAt != 0 {
		return err == nil
	}
	others := w.others()
	if !alone || !known || len(others) == 0 {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, attemptTimeout)
	defer cancel()
	answer, err := w.askMember(ctx, others)
	if err != nil {
		w.log.DebugContext(ctx, "nobody says whether this writer still belongs to the cluster", "error", err)
	}
	return err == nil && answer.Removed
}

// noteRemoved writes down that this node is removed, and ends it.
func (w *Writer) noteRemoved(ctx context.Context) {
	path := filepath.Join(w.cfg.Node.DataDir, removedFile)
	text := fmt.Sprintf("%s was removed from cluster %s; noticed at %s. See ErrRemoved in the log.\n", w.cfg.Node.ID, w.cfg.Node.Cluster, formatTime(w.now().Unix()))
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		w.log.ErrorContext(ctx, "removal not noted on the disk", "error", err)
	}
	w.log.ErrorContext(ctx, "removed from the cluster: stops for good")
	w.ended <- ErrRemoved
}

// checkRemoved returns ErrRemoved where the folder is that of a removed node.
func checkRemoved(dir string) error {
	_, err := os.Stat(filepath.Join(dir, removedFile))
	switch {
	case err == nil:
		return ErrRemoved
	case errors.Is(err, os.ErrNotExist):
		return nil
	}
	return err
}

// announce stores how this node is reached. It does nothing where the state has that already.
func (w *Writer) announce(ctx context.Context) {
	self := w.self()
	m, _, err := w.store.Member(self.ID)
	if err != nil || m.Suffrage == store.Outside || m.Announced == (store.Address{Raft: self.Raft, Internal: self.Internal}) || w.store.Leader() == "" {
		return
	}
	result, err := w.propose(ctx, store.TypePutMember, "", store.PutMember{ID: self.ID, Raft: self.Raft, Internal: self.Internal})
	if err == nil && result.Rejection != nil {
		err = errors.New(result.Rejection.Detail)
	}
	if err != nil && ctx.Err() == nil {
		w.log.WarnContext(ctx, "own addresses not told to the cluster", "error", err)
	}
}
