package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/latchkey/latchkey/pkg/entitlement"
	"github.com/latchkey/latchkey/replication"
)

// How membership changes. Raft's configuration says who belongs to the cluster and who votes; the members bucket says how each is reached
// and who was removed. A node comes in as a non-voter, gets everything, and votes only when it has held it for a while: a voter
// that is empty would lower what the cluster survives.

// ErrMembership means that a change of membership was refused; the text says why, for the operator. Nothing was changed.
var ErrMembership = errors.New("not done")

// ErrRules means that the log or a snapshot is of a newer version of the rules than this program knows: it must be replaced by a newer one.
var ErrRules = errors.New("the cluster's rules are newer than this program: install the release that the other writers run")

// Suffrage says what a node of the cluster may do.
type Suffrage string

// The suffrages.
const (
	Voting    Suffrage = "voter"
	NonVoting Suffrage = "non-voter" // gets everything, has no vote yet
	Outside   Suffrage = ""          // not in the cluster: not added yet, or removed
)

// Member is one node, as the cluster knows it.
type Member struct {
	ID       string
	Raft     string // host:port of its Raft listener
	Internal string // base URL of its internal listener; empty: it has not said yet
	Suffrage Suffrage
	// Announced is how the node itself said that it is reached; zero before it has.
	Announced Address
	// RemovedAt is when it was removed, Unix seconds; 0: it was not. An id that was removed never comes back.
	RemovedAt int64
}

// Address is how the others reach a node.
type Address struct {
	Raft     string // host:port
	Internal string // base URL
}

// Standing is what a node says of itself when the leader asks.
type Standing struct {
	Rules           uint32 // the newest version of the rules that it knows
	AppliedIndex    uint64
	MissingSegments int
	Empty           bool     // it knows of no cluster yet
	Announced       []string // the members that have said how they are reached, as far as it knows, and those that had before they were removed
}

const (
	// A node votes after it has held everything for so long: one that comes and goes would take the majority along.
	defaultJoinStable = 10 * time.Second
	// How often the leader looks at non-voters, at removals that are not done, and at who knows newer rules.
	defaultJoinInterval = time.Second
	// How long a node may take to say how it stands: beyond this it counts as not reachable.
	askTimeout = 2 * time.Second
	// A host name has 253 bytes at most; scheme, port and path come on top.
	maxAddressBytes = 300
	// How long a change of Raft's configuration may wait.
	changeTimeout = 5 * time.Second
)

// Standing returns what this node says when the leader asks.
func (s *Store) Standing() Standing {
	s.fsm.commitNow() // or it would look as far behind as a commit waits
	st, _, _, _ := s.fsm.current()
	out := Standing{Rules: s.fsm.rules, AppliedIndex: st.Applied, MissingSegments: s.fsm.missing.segments(), Empty: st.Epoch == 0}
	members, err := s.Members()
	if err != nil { // closing
		return out
	}
	for _, m := range members {
		if m.Announced != (Address{}) {
			out.Announced = append(out.Announced, m.ID)
		}
	}
	return out
}

// Members lists the nodes that belong to the cluster, sorted by id, then those that are known and do not belong to it. How a node is reached: what
// this node's configuration says, else what the node itself said, else what Raft has.
func (s *Store) Members() ([]Member, error) {
	rows := map[string]memberRow{}
	err := s.View(func(r *Reader) (err error) {
		rows, err = r.memberRows()
		return err
	})
	if err != nil {
		return nil, err
	}
	var in, out []Member
	for _, server := range s.servers() {
		id := string(server.ID)
		row := rows[id]
		delete(rows, id)
		_, at := splitAddress(server.Address)
		m := Member{ID: id, Raft: at, Internal: row.Internal, Announced: row.address(), RemovedAt: row.RemovedAt, Suffrage: NonVoting}
		if server.Suffrage == raft.Voter {
			m.Suffrage = Voting
		}
		if row.Raft != "" {
			m.Raft = row.Raft
		}
		if v, ok := s.configured(id); ok {
			m.Raft = v.Addr
		}
		in = append(in, m)
	}
	for id, row := range rows {
		out = append(out, Member{ID: id, Raft: row.Raft, Internal: row.Internal, Announced: row.address(), RemovedAt: row.RemovedAt})
	}
	byID := func(a, b Member) int { return strings.Compare(a.ID, b.ID) }
	slices.SortFunc(in, byID)
	slices.SortFunc(out, byID)
	return append(in, out...), nil
}

// Member returns what is known of a node. ok is false for one that is neither in the cluster nor was.
func (s *Store) Member(id string) (m Member, ok bool, err error) {
	members, err := s.Members()
	if i := slices.IndexFunc(members, func(m Member) bool { return m.ID == id }); i >= 0 {
		return members[i], true, nil
	}
	return Member{}, false, err
}

func (s *Store) configured(id string) (Voter, bool) {
	i := slices.IndexFunc(s.cfg.Voters, func(v Voter) bool { return v.ID == id })
	if i < 0 {
		return Voter{}, false
	}
	return s.cfg.Voters[i], true
}

// servers is Raft's newest configuration, committed or not.
func (s *Store) servers() []raft.Server {
	return s.raft.GetConfiguration().Configuration().Servers
}

func (s *Store) server(id string) (raft.Server, bool) {
	servers := s.servers()
	i := slices.IndexFunc(servers, func(v raft.Server) bool { return string(v.ID) == id })
	if i < 0 {
		return raft.Server{}, false
	}
	return servers[i], true
}

// AddMember takes a node into the cluster as a non-voter; the leader gives it a vote when it has held everything for Config.JoinStable. rules is what the
// node knows. Adding a member again changes nothing but how it is reached. Errors: ErrMembership, ErrNotLeader, and those of Propose.
func (s *Store) AddMember(ctx context.Context, m Member, rules uint32) error {
	if !s.IsLeader() {
		return ErrNotLeader
	}
	st, _, _, _ := s.fsm.current()
	known, _, err := s.Member(m.ID)
	if err != nil {
		return err
	}
	switch {
	case known.RemovedAt != 0:
		return fmt.Errorf("%w: %s was removed, and an id is never used again: give the node another one and an empty data folder", ErrMembership, m.ID)
	case rules < st.Rules:
		return fmt.Errorf("%w: the cluster has rules %d, and the program of %s knows %d: install the release that the other writers run", ErrMembership, st.Rules, m.ID, rules)
	}
	for _, server := range s.servers() {
		if string(server.ID) != m.ID && string(server.Address) == m.Raft {
			return fmt.Errorf("%w: %s is the Raft address of %s already", ErrMembership, m.Raft, server.ID)
		}
	}
	if err := s.PutMember(ctx, m); err != nil {
		return err
	}
	if known.Suffrage != Outside {
		return nil
	}
	s.log.InfoContext(ctx, "member added as a non-voter", "member", m.ID, "raft", m.Raft)
	return s.change(s.raft.AddNonvoter(raft.ServerID(m.ID), raft.ServerAddress(m.Raft), 0, changeTimeout))
}

// PutMember stores how a node is reached. Errors: ErrMembership for one that was removed, and those of Propose.
func (s *Store) PutMember(ctx context.Context, m Member) error {
	return s.proposeMembership(ctx, NewCommand(TypePutMember, "", "", &PutMember{ID: m.ID, Raft: m.Raft, Internal: m.Internal}))
}

// RemoveMember ends a node's membership for ever. Refused is what would leave no majority of voters that answer; a member that does not
// answer itself can always be removed. A leader does not remove itself: it gives the lead away, and the next one is to be asked. Removing
// one that was removed finishes what was left of it. Errors: ErrMembership, ErrNotLeader, and those of Propose.
func (s *Store) RemoveMember(ctx context.Context, id string) error {
	if !s.IsLeader() {
		return ErrNotLeader
	}
	known, ok, err := s.Member(id)
	if err != nil {
		return err
	}
	if !ok {
		return fmt.Errorf("%w: there is no member %q", ErrMembership, id)
	}
	if known.Suffrage == Voting {
		if err := s.mayLose(ctx, id); err != nil {
			return err
		}
	}
	if id == s.cfg.ID {
		s.log.InfoContext(ctx, "gives the lead away, to be removed")
		return errors.Join(ErrNotLeader, s.TransferLeadership())
	}
	// First who was removed, in the log, so that a node which still gets it stops by itself; then Raft's configuration. A leader that fails
	// between the two leaves the rest to the next one.
	if known.RemovedAt == 0 {
		if err := s.proposeMembership(ctx, NewCommand(TypeRemoveMember, "", "", &RemoveMember{ID: id})); err != nil {
			return err
		}
	}
	return s.expel(id)
}

func (s *Store) expel(id string) error {
	if _, in := s.server(id); !in {
		return nil
	}
	s.log.Info("member removed", "member", id)
	return s.change(s.raft.RemoveServer(raft.ServerID(id), 0, changeTimeout))
}

// mayLose returns nil where a majority of voters answers without the one with that id.
func (s *Store) mayLose(ctx context.Context, id string) error {
	var left, silent []string
	for _, server := range s.servers() {
		if server.Suffrage == raft.Voter && string(server.ID) != id {
			left = append(left, string(server.ID))
		}
	}
	if len(left) == 0 {
		return fmt.Errorf("%w: %s is the only voter", ErrMembership, id)
	}
	standings := s.askAll(ctx, left)
	for _, id := range left {
		if standings[id] == nil {
			silent = append(silent, id)
		}
	}
	if need := len(left)/2 + 1; len(left)-len(silent) < need {
		return fmt.Errorf("%w: without %s, %d of %d voters must answer, and %s would not: start or remove that one first, or join another node",
			ErrMembership, id, need, len(left), strings.Join(silent, " and "))
	}
	return nil
}

// askAll asks nodes how they stand, all at once. Who does not answer is left out.
func (s *Store) askAll(ctx context.Context, ids []string) map[string]*Standing {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	answers := make([]*Standing, len(ids))
	var asking sync.WaitGroup
	for i, id := range ids {
		asking.Go(func() {
			if standing, err := s.ask(ctx, id); err == nil {
				answers[i] = &standing
			} else {
				s.log.DebugContext(ctx, "a member does not say how it stands", "member", id, "error", err)
			}
		})
	}
	asking.Wait()
	all := map[string]*Standing{}
	for i, id := range ids {
		all[id] = answers[i]
	}
	return all
}

func (s *Store) ask(ctx context.Context, id string) (Standing, error) {
	if id == s.cfg.ID {
		return s.Standing(), nil
	}
	if s.cfg.Ask == nil {
		return Standing{}, errors.New("nobody to ask")
	}
	return s.cfg.Ask(ctx, id)
}

// proposeMembership commits a command as the leader; a rejection is ErrMembership.
func (s *Store) proposeMembership(ctx context.Context, c Command) error {
	result, err := s.Propose(ctx, c.Encode())
	if err == nil && result.Rejection != nil {
		err = fmt.Errorf("%w: %s", ErrMembership, result.Rejection.Detail)
	}
	return err
}

// change waits for a change of Raft's configuration.
func (s *Store) change(future raft.IndexFuture) error {
	if !s.waiting.enter() {
		return ErrNotLeader
	}
	defer s.waiting.leave()
	err := future.Error()
	if errors.Is(err, raft.ErrNotLeader) || errors.Is(err, raft.ErrLeadershipLost) || errors.Is(err, raft.ErrLeadershipTransferInProgress) {
		return fmt.Errorf("%w: %w", ErrNotLeader, err)
	}
	return err
}

// tendMembers is the leader's work on the membership, while it leads.
func (s *Store) tendMembers(ctx context.Context) {
	tick := time.NewTicker(s.cfg.JoinInterval)
	defer tick.Stop()
	joining := map[string]*joiner{}
	for {
		s.raiseRules(ctx)
		s.promote(ctx, joining)
		s.finishRemovals()
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// joiner is a non-voter on its way.
type joiner struct {
	target uint64    // what it must have applied by the next look
	since  time.Time // since when it has held everything; zero: it does not
}

// promote gives a vote to each non-voter that has all segments and has kept up with the log for Config.JoinStable.
func (s *Store) promote(ctx context.Context, joining map[string]*joiner) {
	servers := s.servers()
	var ids []string
	for _, server := range servers {
		if server.Suffrage == raft.Nonvoter {
			ids = append(ids, string(server.ID))
		}
	}
	for id := range joining {
		if !slices.Contains(ids, id) {
			delete(joining, id)
		}
	}
	if len(ids) == 0 {
		return
	}
	st, _, _, _ := s.fsm.current()
	standings := s.askAll(ctx, ids)
	for _, server := range servers {
		id := string(server.ID)
		if !slices.Contains(ids, id) {
			continue
		}
		j := joining[id]
		if j == nil {
			j = &joiner{target: st.Applied}
			joining[id] = j
		}
		standing := standings[id]
		keptUp := standing != nil && standing.AppliedIndex >= j.target
		if keptUp {
			j.target = st.Applied
		}
		if !keptUp || standing.MissingSegments > 0 || standing.Rules < st.Rules {
			if !j.since.IsZero() {
				s.log.WarnContext(ctx, "a joining member fell behind", "member", id)
			}
			j.since = time.Time{}
			continue
		}
		if j.since.IsZero() {
			j.since = time.Now()
			s.log.InfoContext(ctx, "a joining member has caught up", "member", id)
		}
		if time.Since(j.since) < s.cfg.JoinStable {
			continue
		}
		if err := s.change(s.raft.AddVoter(server.ID, server.Address, 0, changeTimeout)); err != nil {
			s.log.WarnContext(ctx, "a member could not be given its vote", "member", id, "error", err)
			continue
		}
		s.log.InfoContext(ctx, "member votes", "member", id)
	}
}

// finishRemovals takes those out of Raft's configuration that an earlier leader removed and could not.
func (s *Store) finishRemovals() {
	members, err := s.Members()
	if err != nil {
		return // closing, or broken: it was reported
	}
	for _, m := range members {
		if m.RemovedAt == 0 || m.Suffrage == Outside || m.ID == s.cfg.ID {
			continue
		}
		if err := s.expel(m.ID); err != nil {
			s.log.Warn("a removed member is still in the configuration", "member", m.ID, "error", err)
		}
	}
}

// raiseRules raises the cluster's rules to what every member knows. One that does not answer is waited for: it would stop when it comes back.
func (s *Store) raiseRules(ctx context.Context) {
	st, _, _, _ := s.fsm.current()
	lowest := s.fsm.rules
	if lowest <= st.Rules {
		return
	}
	var ids []string
	for _, server := range s.servers() {
		ids = append(ids, string(server.ID))
	}
	for id, standing := range s.askAll(ctx, ids) {
		if standing == nil {
			s.log.DebugContext(ctx, "rules not raised: a member does not say what it knows", "member", id)
			return
		}
		lowest = min(lowest, standing.Rules)
	}
	if lowest > st.Rules && s.proposeOwn(ctx, NewCommand(TypeRaiseRules, "", "", &RaiseRules{Rules: lowest})) {
		s.log.InfoContext(ctx, "rules raised", "rules", lowest)
	}
}

// addresses finds a node's present address by its id, so that a node may move and a new one need not be configured.
type addresses struct{ s *Store }

// ServerAddr implements raft.ServerAddressProvider. Without an answer Raft uses what its configuration has, which plain TCP can connect to.
func (a addresses) ServerAddr(id raft.ServerID) (raft.ServerAddress, error) {
	at, err := a.s.addressOf(string(id))
	if err != nil {
		return "", fmt.Errorf("member %q: %w", id, err)
	}
	return joinAddress(id, at), nil
}

func (s *Store) addressOf(id string) (raft.ServerAddress, error) {
	if v, ok := s.configured(id); ok {
		return raft.ServerAddress(v.Addr), nil
	}
	if id == s.cfg.ID {
		return s.ownAddr, nil
	}
	var row memberRow
	err := s.View(func(r *Reader) error {
		_, err := r.decode(bucketMembers, []byte(id), &row)
		return err
	})
	if err == nil && row.Raft == "" {
		err = errNoAddress
	}
	return raft.ServerAddress(row.Raft), err
}

var errNoAddress = errors.New("no address known")

// memberRow is what is kept of a node in the state.
type memberRow struct {
	Raft      string `cbor:"1,keyasint,omitempty"`
	Internal  string `cbor:"2,keyasint,omitempty"`
	RemovedAt int64  `cbor:"3,keyasint,omitempty"` // stamp; 0: it was not removed
}

func (row memberRow) address() Address { return Address{Raft: row.Raft, Internal: row.Internal} }

func (r *Reader) memberRows() (map[string]memberRow, error) {
	rows := map[string]memberRow{}
	err := r.bucket(bucketMembers).ForEach(func(k, value []byte) error {
		var row memberRow
		if err := entitlement.Decode(value, &row); err != nil {
			return fmt.Errorf("member %s: %w: %w", k, replication.ErrCorrupt, err)
		}
		rows[string(bytes.Clone(k))] = row
		return nil
	})
	return rows, err
}

func (c *command) putMember(body *PutMember) Result {
	if body.ID == "" || len(body.ID) > maxIDBytes || body.Raft == "" || max(len(body.Raft), len(body.Internal)) > maxAddressBytes {
		return rejected(SlugInvalidRequest, "member")
	}
	var row memberRow
	c.decode(bucketMembers, []byte(body.ID), &row)
	if row.RemovedAt != 0 {
		return rejected(SlugInvalidRequest, body.ID+" was removed")
	}
	row.Raft, row.Internal = body.Raft, body.Internal
	c.encode(bucketMembers, []byte(body.ID), &row)
	return Result{}
}

func (c *command) removeMember(body *RemoveMember) Result {
	if body.ID == "" || len(body.ID) > maxIDBytes {
		return rejected(SlugInvalidRequest, "member")
	}
	var row memberRow
	c.decode(bucketMembers, []byte(body.ID), &row)
	if row.RemovedAt == 0 {
		row.RemovedAt = c.now
		c.encode(bucketMembers, []byte(body.ID), &row)
	}
	return Result{}
}
