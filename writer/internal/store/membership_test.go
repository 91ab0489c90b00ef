package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/latchkey/latchkey/pkg/entitlement"
	"github.com/latchkey/latchkey/replication"
)

// This file shows how nodes come and go under load without a loss (I1, I3), and that rules change only when every member knows them (I17).

// roster is the stores that a test has, by the nodes' ids: who asks another one, or fetches its segments, finds it here.
type roster struct {
	t  testing.TB
	mu sync.Mutex
	by map[string]*Store
}

func newRoster(t testing.TB) *roster { return &roster{t: t, by: map[string]*Store{}} }

func (r *roster) configure(c *Config) {
	c.Ask, c.FetchSegment = r.ask, r.fetch
	c.JoinStable, c.JoinInterval = 200*time.Millisecond, 50*time.Millisecond
	c.HeartbeatTimeout, c.LeaderLease = manyHeartbeat, manyLease // they may be more than their founders
}

func (r *roster) add(nodes ...*node) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, n := range nodes {
		r.by[n.cfg.ID] = n.Store
	}
}

// open and close keep others from asking a store that is being opened or closed.
func (r *roster) open(n *node) {
	r.mu.Lock()
	defer r.mu.Unlock()
	n.open(r.t)
	r.by[n.cfg.ID] = n.Store
}

func (r *roster) close(n *node) {
	r.mu.Lock()
	delete(r.by, n.cfg.ID)
	r.mu.Unlock()
	n.close(r.t)
}

func (r *roster) find(id string) *Store {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.by[id]
}

var errAway = errors.New("connection refused")

func (r *roster) ask(_ context.Context, id string) (Standing, error) {
	n := r.find(id)
	if n == nil {
		return Standing{}, errAway
	}
	return n.Standing(), nil
}

func (r *roster) fetch(_ context.Context, sum replication.Hash) (io.ReadCloser, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, n := range r.by {
		if file, err := n.OpenSegment(sum); err == nil {
			return file, nil
		}
	}
	return nil, ErrNoSegment
}

// cluster starts n nodes that can ask each other.
func (r *roster) cluster(n int, change func(*Config)) []*node {
	nodes := startCluster(r.t, n, func(c *Config) {
		r.configure(c)
		if change != nil {
			change(c)
		}
	})
	r.add(nodes...)
	return nodes
}

// newcomer opens a node that is none of the founders.
func (r *roster) newcomer(id string, founders []*node, change func(*Config)) *node {
	r.t.Helper()
	l := loopback(r.t)
	cfg := testConfig(r.t, filepath.Join(r.t.TempDir(), id), founders[0].cfg.Voters, 0, l)
	cfg.ID, cfg.Listen = id, l.Addr().String()
	cfg.Fatal = func(err error) { r.t.Errorf("node %s: fatal: %v", id, err) }
	r.configure(&cfg)
	if change != nil {
		change(&cfg)
	}
	n := &node{cfg: cfg}
	r.open(n)
	return n
}

// atLeader runs fn at the leader until it is done or refused: it fails otherwise where the lead moves, or a busy machine is too slow.
func atLeader(t testing.TB, nodes []*node, fn func(*node) error) error {
	t.Helper()
	ctx := testContext(t)
	for {
		err := fn(leaderOf(t, nodes...))
		if err == nil || errors.Is(err, ErrMembership) || ctx.Err() != nil {
			return err
		}
	}
}

// giveLead gives the lead to one of the nodes.
func giveLead(t testing.TB, nodes []*node, to *node) {
	t.Helper()
	if err := atLeader(t, nodes, func(n *node) error { return n.TransferLeadershipTo(to.cfg.ID) }); err != nil {
		t.Fatalf("lead to %s: %v", to.cfg.ID, err)
	}
}

func (n *node) member() Member {
	return Member{ID: n.cfg.ID, Raft: n.cfg.Listen, Internal: "http://" + n.cfg.ID}
}

// awaitSuffrage waits until the node itself knows that it has the suffrage; nothing announces it.
func awaitSuffrage(t testing.TB, n *node, want Suffrage) {
	t.Helper()
	ctx := testContext(t)
	for {
		m, _, err := n.Member(n.cfg.ID)
		if err != nil {
			t.Fatal(err)
		}
		if m.Suffrage == want {
			return
		}
		select {
		case <-time.After(5 * time.Millisecond):
		case <-ctx.Done():
			t.Fatalf("%s is a %q, not a %q: %+v", n.cfg.ID, m.Suffrage, want, n.Stats())
		}
	}
}

func storesOf(nodes []*node) []*Store {
	stores := make([]*Store, len(nodes))
	for i, n := range nodes {
		stores[i] = n.Store
	}
	return stores
}

// load records events until stop, and returns what was acknowledged.
func load(t testing.TB, alive func() []*Store) (stop func() []string) {
	ctx, cancel := context.WithCancel(context.Background())
	var mu sync.Mutex
	var acknowledged []string
	var workers sync.WaitGroup
	t.Cleanup(func() { // before the nodes end, however the test does
		cancel()
		workers.Wait()
	})
	for worker := range 4 {
		workers.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				sub := fmt.Sprintf("sub_%d_%d", worker, i)
				command := record(event("evt_"+sub, subscription(sub, 1, entitlement.Active, ""))).Encode()
				for ctx.Err() == nil {
					sent := false
					for _, s := range alive() {
						if _, err := s.Propose(context.Background(), command); err == nil {
							sent = true
							break
						}
					}
					if sent {
						mu.Lock()
						acknowledged = append(acknowledged, "evt_"+sub)
						mu.Unlock()
						break
					}
					select {
					case <-time.After(time.Millisecond):
					case <-ctx.Done():
					}
				}
			}
		})
	}
	return func() []string {
		cancel()
		workers.Wait()
		return acknowledged
	}
}

func everyEvent(t testing.TB, ids []string, nodes ...*node) {
	t.Helper()
	for _, n := range nodes {
		err := n.View(func(r *Reader) error {
			for _, id := range ids {
				if found, err := r.Event(sandbox, entitlement.Stripe, id); err != nil || len(found) != 1 {
					t.Fatalf("%s: acknowledged event %s: %d found, %v", n.cfg.ID, id, len(found), err)
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

// A node dies for good under load, another takes its place and gets the snapshot and every sealed segment, the dead one is removed: nothing
// acknowledged is lost, and all are equal.
func TestADeadNodeIsReplacedUnderLoad(t *testing.T) {
	r := newRoster(t)
	small := func(c *Config) {
		c.SegmentBytes, c.SnapshotThreshold, c.TrailingLogs, c.SnapshotInterval = 16<<10, 50, 100, 20*time.Millisecond
	}
	nodes := r.cluster(3, small)
	fill(t, nodes, 0, 40)
	cutLogs(t, nodes, 1) // whoever comes needs a snapshot, whoever leads then
	var mu sync.Mutex
	alive := storesOf(nodes)
	stopLoad := load(t, func() []*Store {
		mu.Lock()
		defer mu.Unlock()
		return alive
	})
	dead := leaderOf(t, nodes...)
	rest := others(nodes, dead)
	mu.Lock()
	alive = storesOf(rest)
	mu.Unlock()
	dead.transport.Close() //nolint:errcheck // as a dead process: without a word
	r.close(dead)

	w4 := r.newcomer("w4", nodes, small)
	if err := atLeader(t, rest, func(n *node) error { return n.AddMember(testContext(t), w4.member(), RulesVersion) }); err != nil {
		t.Fatal(err)
	}
	awaitSuffrage(t, w4, Voting)
	if w4.Stats().Restores == 0 {
		t.Error("w4 votes without a snapshot: the test wants one")
	}
	if err := atLeader(t, rest, func(n *node) error { return n.RemoveMember(testContext(t), dead.cfg.ID) }); err != nil {
		t.Fatal(err)
	}
	acknowledged := stopLoad()
	now := append(rest, w4)
	equal(t, now...)
	everyEvent(t, acknowledged, now...)
	if len(acknowledged) < 20 { // it went on, however busy the machine is
		t.Errorf("only %d events were acknowledged meanwhile", len(acknowledged))
	}
	members, err := w4.Members()
	if err != nil {
		t.Fatal(err)
	}
	var text []string
	for _, m := range members {
		text = append(text, fmt.Sprintf("%s %s %t", m.ID, m.Suffrage, m.RemovedAt > 0))
	}
	want := []string{rest[0].cfg.ID + " voter false", rest[1].cfg.ID + " voter false", "w4 voter false", dead.cfg.ID + "  true"}
	if strings.Join(text, ", ") != strings.Join(want, ", ") {
		t.Errorf("members are %q, want %q", text, want)
	}

	// The new three survive the loss of any one: w4 counts as much as the others.
	r.close(rest[0])
	propose(t, []*node{rest[1], w4}, create("acc_after"))
	r.open(rest[0])
	equal(t, now...)
}

// The vote comes late: not before the joining node has every segment, and has kept up for the whole time.
func TestAJoiningNodeVotesOnlyWhenItHasEverything(t *testing.T) {
	r := newRoster(t)
	nodes := r.cluster(1, func(c *Config) { c.JoinInterval, c.JoinStable = 10*time.Millisecond, 100*time.Millisecond })
	leader := leaderOf(t, nodes...)
	fill(t, nodes, 0, 5)
	var mu sync.Mutex
	answer, asked := Standing{}, 0
	leader.cfg.Ask = nil
	leader.Store.cfg.Ask = func(_ context.Context, id string) (Standing, error) {
		mu.Lock()
		defer mu.Unlock()
		asked++
		if answer.AppliedIndex == 0 {
			return answer, errAway
		}
		return answer, nil
	}
	w2 := r.newcomer("w2", nodes, nil)
	say := func(s Standing) {
		mu.Lock()
		defer mu.Unlock()
		answer, asked = s, 0
	}
	// The leader looks many times over more than JoinStable.
	looks := func(n int) {
		t.Helper()
		ctx := testContext(t)
		for {
			mu.Lock()
			done := asked >= n
			mu.Unlock()
			if done {
				return
			}
			select {
			case <-time.After(time.Millisecond):
			case <-ctx.Done():
				t.Fatal("the leader does not look")
			}
		}
	}
	if err := leader.AddMember(testContext(t), w2.member(), RulesVersion); err != nil {
		t.Fatal(err)
	}
	awaitSuffrage(t, w2, NonVoting)
	applied := leader.Stats().AppliedIndex + 100
	for _, tt := range []struct {
		name string
		says Standing
	}{
		{"it does not answer", Standing{}},
		{"a segment is missing", Standing{Rules: RulesVersion, AppliedIndex: applied, MissingSegments: 1}},
		{"it is behind", Standing{Rules: RulesVersion, AppliedIndex: 1}},
		{"it does not know the rules", Standing{Rules: RulesVersion - 1, AppliedIndex: applied}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			say(tt.says)
			looks(30)
			if server, _ := leader.server("w2"); server.Suffrage != raft.Nonvoter {
				t.Errorf("it is a %s", server.Suffrage)
			}
		})
	}
	// Adding it again changes nothing.
	if err := leader.AddMember(testContext(t), w2.member(), RulesVersion); err != nil {
		t.Errorf("added again: %v", err)
	}
	began := time.Now()
	say(Standing{Rules: RulesVersion, AppliedIndex: applied})
	awaitSuffrage(t, w2, Voting)
	if took := time.Since(began); took < leader.cfg.JoinStable {
		t.Errorf("it votes after %s, want %s at least", took, leader.cfg.JoinStable)
	}
	err := atLeader(t, []*node{leader, w2}, func(n *node) error { return n.AddMember(testContext(t), w2.member(), RulesVersion) })
	if err != nil {
		t.Errorf("added as a voter: %v", err)
	}
	awaitSuffrage(t, w2, Voting)
	equal(t, leader, w2)
}

// Removals that would leave no majority are refused with the reason; that of a dead node never is.
func TestARemovalNeverLeavesLessThanAWorkingMajority(t *testing.T) {
	r := newRoster(t)
	nodes := r.cluster(3, nil)
	fill(t, nodes, 0, 3)
	leader := leaderOf(t, nodes...)
	dead := others(nodes, leader)[0]
	live := others(others(nodes, leader), dead)[0]
	// leads runs fn while n leads: on a busy machine the lead moves at any moment.
	leads := func(n *node, fn func() error) (err error) {
		for ctx := testContext(t); ctx.Err() == nil; {
			giveLead(t, []*node{leader, live}, n)
			if err = fn(); !errors.Is(err, ErrNotLeader) && !errors.Is(err, ErrOutcomeUnknown) {
				return err
			}
		}
		return err
	}
	refused := func(n *node, id, says string) {
		t.Helper()
		before := fmt.Sprint(n.servers())
		err := leads(n, func() error { return n.RemoveMember(testContext(t), id) })
		if !errors.Is(err, ErrMembership) || !strings.Contains(err.Error(), says) {
			t.Errorf("remove %s: %v, want a refusal with %q", id, err, says)
		}
		if after := fmt.Sprint(n.servers()); after != before {
			t.Errorf("the configuration is %s, was %s", after, before)
		}
	}
	r.close(dead)
	refused(leader, live.cfg.ID, fmt.Sprintf("without %s, 2 of 2 voters must answer, and %s would not", live.cfg.ID, dead.cfg.ID))
	refused(leader, "w9", `there is no member "w9"`)
	inOneTerm(t, []*node{leader, live}, func(n *node) {
		follower := others([]*node{leader, live}, n)[0]
		if err := follower.RemoveMember(testContext(t), "w9"); !errors.Is(err, ErrNotLeader) && !follower.IsLeader() {
			t.Errorf("at a follower: %v, want ErrNotLeader", err)
		}
	})
	for range 2 { // the second time there is nothing left to do
		if err := leads(leader, func() error { return leader.RemoveMember(testContext(t), dead.cfg.ID) }); err != nil {
			t.Fatalf("remove the dead one: %v", err)
		}
	}
	// Its id is used up.
	if err := leads(leader, func() error { return leader.AddMember(testContext(t), dead.member(), RulesVersion) }); !errors.Is(err, ErrMembership) || !strings.Contains(err.Error(), "was removed") {
		t.Errorf("join under a used id: %v, want a refusal", err)
	}
	// A leader that is to go gives the lead away first.
	if err := leader.RemoveMember(testContext(t), leader.cfg.ID); !errors.Is(err, ErrNotLeader) {
		t.Errorf("remove the leader at itself: %v, want ErrNotLeader", err)
	}
	if err := leads(live, func() error { return live.RemoveMember(testContext(t), leader.cfg.ID) }); err != nil {
		t.Fatalf("remove the former leader: %v", err)
	}
	if err := live.RemoveMember(testContext(t), live.cfg.ID); !errors.Is(err, ErrMembership) || !strings.Contains(err.Error(), "is the only voter") {
		t.Errorf("remove the last one: %v, want a refusal", err)
	}
	propose(t, []*node{live}, create("acc_last"))
	equal(t, live)
}

// A leader fails after it has noted who is removed, and before Raft's configuration says so: the next one finishes it.
func TestTheNextLeaderFinishesARemoval(t *testing.T) {
	r := newRoster(t)
	nodes := r.cluster(3, nil)
	leader := leaderOf(t, nodes...)
	gone := others(nodes, leader)[0]
	rest := others(nodes, gone)
	r.close(gone)
	// Only the note.
	propose(t, nodes, NewCommand(TypeRemoveMember, "", "", &RemoveMember{ID: gone.cfg.ID}))
	if err := leader.TransferLeadership(); err != nil && !errors.Is(err, ErrNotLeader) {
		t.Logf("transfer: %v", err)
	}
	ctx := testContext(t)
	for _, n := range rest {
		for in := true; in; _, in = n.server(gone.cfg.ID) {
			select {
			case <-time.After(time.Millisecond):
			case <-ctx.Done():
				t.Fatalf("%s still has %s", n.cfg.ID, gone.cfg.ID)
			}
		}
	}
	equal(t, rest...)
}

// A node that is none of the founders waits, whatever it finds: it founds nothing and elects nobody.
func TestANewcomerFoundsNothing(t *testing.T) {
	r := newRoster(t)
	nodes := r.cluster(1, nil)
	w2 := r.newcomer("w2", nodes, nil)
	m, ok, err := w2.Member("w2")
	if err != nil || ok {
		t.Errorf("before anybody added it, it knows %+v, %t, %v of itself", m, ok, err)
	}
	if s := w2.Stats(); s.LastIndex != 0 || s.Term != 0 || s.Leader != "" || s.State != "Follower" {
		t.Errorf("it is at %+v", s)
	}
	r.close(w2) // hands nothing over, and ends at once
}

// The lead goes to the voter that was asked for, and to nobody else.
func TestTheLeadGoesWhereItIsSent(t *testing.T) {
	r := newRoster(t)
	nodes := r.cluster(3, nil)
	for _, to := range nodes {
		giveLead(t, nodes, to)
		if _, err := to.LeaderContext(testContext(t)); err != nil {
			t.Errorf("%s does not lead: %v; it is %s", to.cfg.ID, err, to.Leader())
		}
	}
	if err := atLeader(t, nodes, func(n *node) error { return n.TransferLeadershipTo("w9") }); !errors.Is(err, ErrMembership) {
		t.Errorf("to a stranger: %v, want ErrMembership", err)
	}
}

// nextVersion is what a node of the next release does: once the rules are raised, an event gives its account an attribute, which every hash sees.
func nextVersion(c *Config) {
	c.Rules = RulesVersion + 1
	c.later = func(b *batch, entry []byte) {
		if b.st.Rules <= RulesVersion || EnvironmentOf(entry) != sandbox {
			return
		}
		b.put(bucketAccounts, envKey(sandbox, fmt.Sprintf("later-%d", b.st.EventSeq)), []byte{1})
	}
}

// I17: nodes are replaced by the next version one after the other, under load. While one of the old is left, nothing new happens; when none is, the
// leader raises the rules; the hashes are equal at each step. Then a node is rolled back: it stops and says why.
func TestARollingUpgradeKeepsTheHashesEqual(t *testing.T) {
	r := newRoster(t)
	nodes := r.cluster(3, nil)
	from := 0
	step := func(what string, rules uint32) {
		t.Helper()
		fill(t, nodes, from, from+8)
		from += 8
		equal(t, nodes...)
		for _, n := range nodes {
			if got := n.Position().Rules; got != rules {
				t.Errorf("%s: %s is at rules %d, want %d", what, n.cfg.ID, got, rules)
			}
		}
	}
	step("all old", RulesVersion)
	for i, n := range nodes {
		r.close(n)
		nextVersion(&n.cfg)
		fill(t, others(nodes, n), from, from+4)
		from += 4
		r.open(n)
		if i < len(nodes)-1 {
			step(fmt.Sprintf("%d new", i+1), RulesVersion)
			// The new one leads, and still raises nothing.
			giveLead(t, nodes, n)
			step(fmt.Sprintf("%d new, one of them leads", i+1), RulesVersion)
		}
	}
	ctx := testContext(t)
	for nodes[0].Position().Rules == RulesVersion {
		updated := nodes[0].Updated()
		if nodes[0].Position().Rules != RulesVersion {
			break
		}
		select {
		case <-updated:
		case <-ctx.Done():
			t.Fatal("all know the next rules, and nobody raises them")
		}
	}
	step("all new", RulesVersion+1)
	err := nodes[0].View(func(r *Reader) error {
		if k, _ := r.tx.Bucket(bucketAccounts).Cursor().Seek(envKey(sandbox, "later-")); !strings.HasPrefix(string(k), string(envKey(sandbox, "later-"))) {
			t.Error("nothing happened as the next version does it: the test shows nothing")
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}

	// Back to the old program: it must not fold what it does not understand.
	back := others(nodes, leaderOf(t, nodes...))[0]
	r.close(back)
	stopped := make(chan error, 1)
	back.cfg.Rules, back.cfg.later = RulesVersion, nil
	back.cfg.Fatal = func(err error) { stopped <- err }
	if s, err := Open(back.cfg); !errors.Is(err, ErrRules) {
		t.Errorf("an old program opens the state of new rules: %v, %v, want ErrRules", s, err)
	}
	back.cfg.bootID = "another" // now it has the log alone
	opened, err := Open(back.cfg)
	if err == nil { // it began from the log, and comes to where the rules were raised
		select {
		case err = <-stopped:
		case <-ctx.Done():
			t.Fatal("an old program goes on under new rules")
		}
		if err := opened.Close(context.Background()); err != nil {
			t.Errorf("close: %v", err)
		}
	}
	if !errors.Is(err, ErrRules) || !strings.Contains(err.Error(), fmt.Sprintf("this program knows %d", RulesVersion)) {
		t.Errorf("it stopped with %v, want ErrRules", err)
	}
	// And the new ones are not held up by it.
	fill(t, others(nodes, back), from, from+4)
	equal(t, others(nodes, back)...)
}

// The same from a snapshot, where the log no longer says when the rules were raised, and at the door: a node that is too old is not taken in.
func TestAnOldProgramRefusesASnapshotOfNewRules(t *testing.T) {
	r := newRoster(t)
	nodes := r.cluster(1, nextVersion)
	fill(t, nodes, 0, 3)
	leader := leaderOf(t, nodes...)
	if err := leader.AddMember(testContext(t), Member{ID: "w2", Raft: "127.0.0.1:1"}, RulesVersion); !errors.Is(err, ErrMembership) || !strings.Contains(err.Error(), fmt.Sprintf("rules %d", RulesVersion+1)) {
		t.Errorf("an old program joins: %v, want a refusal", err)
	}
	if err := leader.raft.Snapshot().Error(); err != nil {
		t.Fatal(err)
	}
	r.close(leader)
	stopped := make(chan error, 1)
	cfg := leader.cfg
	cfg.Rules, cfg.later = 0, nil
	cfg.Fatal = func(err error) { stopped <- err }
	s, err := Open(cfg)
	if err == nil {
		s.Close(testContext(t)) //nolint:errcheck // it should not have opened
		t.Fatal("an old program opened a state of new rules")
	}
	select {
	case err = <-stopped: // from the snapshot
	default: // from the state file that the new program kept
	}
	if !errors.Is(err, ErrRules) {
		t.Errorf("it stopped with %v, want ErrRules", err)
	}
}

// A command of a later version, or of no version, stops the node: skipping it would make it another one than the rest.
func TestAnUnknownCommandStopsTheNode(t *testing.T) {
	for name, entry := range map[string][]byte{
		"a type that is not known":         Command{Type: TypePutDevice + 100, Stamp: startTime}.Encode(),
		"a version of the form not known":  append([]byte{commandVersion + 1}, create("acc_1").Encode()[1:]...),
		"flags of the form that are new":   append(append([]byte{}, create("acc_1").Encode()[:3]...), append([]byte{0x80}, create("acc_1").Encode()[4:]...)...),
		"an environment that is not known": append(append([]byte{}, create("acc_1").Encode()[:2]...), append([]byte{9}, create("acc_1").Encode()[3:]...)...),
	} {
		t.Run(name, func(t *testing.T) {
			m := newMachine(t, 1<<20)
			before := m.state
			m.ApplyBatch([]*raft.Log{{Index: m.index + 1, Term: 1, Type: raft.LogCommand, Data: entry}})
			if !errors.Is(m.fault, errUnknownCommand) || !strings.Contains(m.fault.Error(), "does not know") {
				t.Errorf("fault %v, want errUnknownCommand", m.fault)
			}
			if m.state != before {
				t.Error("the state changed")
			}
		})
	}
}
