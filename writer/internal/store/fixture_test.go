package store

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/latchkey/latchkey/pkg/entitlement"
	"github.com/latchkey/latchkey/replication"
)

// What all tests of this package share: nodes over loopback, a state machine without Raft, and a small Stripe history.

const (
	testCluster = "01TESTCLUSTER"
	sandbox     = entitlement.Sandbox
	day         = int64(24 * 3600)
	startTime   = int64(1_790_000_000)
)

// patience is how long a test waits for what must come; only a failure waits so long.
const patience = time.Minute

func testContext(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

// node is a store with what it takes to open it again.
type node struct {
	*Store
	cfg Config
}

// Timeouts are short, but where there is anybody to lose the lead to not so short that a busy machine elects for nothing: a follower answers no heartbeat while its
// disk is slow.
const (
	manyHeartbeat = 700 * time.Millisecond
	manyLease     = 600 * time.Millisecond
)

// testConfig is that of one node of a cluster.
func testConfig(t testing.TB, dir string, voters []Voter, at int, listener net.Listener) Config {
	heartbeat, lease := 300*time.Millisecond, 200*time.Millisecond
	if len(voters) > 1 {
		heartbeat, lease = manyHeartbeat, manyLease
	}
	return Config{
		Dir: dir, ID: voters[at].ID, Cluster: testCluster, Listener: listener, Listen: voters[at].Addr, Voters: voters,
		Logger: quiet(), HeartbeatTimeout: heartbeat, LeaderLease: lease,
		InitialMmapBytes: 1 << 28, Fatal: func(err error) { t.Errorf("node %s: fatal: %v", voters[at].ID, err) },
	}
}

// startCluster opens n nodes; change may alter their configurations.
func startCluster(t testing.TB, n int, change func(*Config)) []*node {
	t.Helper()
	listeners := make([]net.Listener, n)
	voters := make([]Voter, n)
	for i := range n {
		l := loopback(t)
		listeners[i], voters[i] = l, Voter{ID: fmt.Sprintf("w%d", i+1), Addr: l.Addr().String()}
	}
	nodes := make([]*node, n)
	dir := t.TempDir()
	for i := range n {
		cfg := testConfig(t, filepath.Join(dir, voters[i].ID), voters, i, listeners[i])
		if change != nil {
			change(&cfg)
		}
		nodes[i] = &node{cfg: cfg}
		nodes[i].open(t)
	}
	return nodes
}

// lastPort counts the ports that were looked at.
var lastPort atomic.Int64

// loopback listens on a port below those that the system gives away, to a connection or to whoever asks for any: a node that starts again finds it free.
func loopback(t testing.TB) net.Listener {
	t.Helper()
	for range 1000 {
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", 12000+(int64(os.Getpid())*50+lastPort.Add(1))%4000))
		if err == nil {
			return l
		}
	}
	t.Fatal("no free port")
	return nil
}

func (n *node) open(t testing.TB) {
	t.Helper()
	s, err := Open(n.cfg)
	if err != nil {
		t.Fatalf("open %s: %v", n.cfg.ID, err)
	}
	n.Store = s
	n.cfg.Listener = nil // taken; another start listens on the same address
	t.Cleanup(func() { n.close(t) })
}

func (n *node) close(t testing.TB) {
	if n.Store == nil {
		return
	}
	if err := n.Close(context.Background()); err != nil {
		t.Errorf("close %s: %v", n.cfg.ID, err)
	}
	n.Store = nil
}

// leaderOf waits until one of the nodes leads.
func leaderOf(t testing.TB, nodes ...*node) *node {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	found := make(chan *node, len(nodes))
	var wait sync.WaitGroup
	for _, n := range nodes {
		if n.Store != nil {
			s := n.Store
			wait.Go(func() {
				if _, err := s.LeaderContext(ctx); err == nil {
					found <- n
				}
			})
		}
	}
	defer wait.Wait()
	defer cancel()
	select {
	case n := <-found:
		return n
	case <-ctx.Done():
		t.Fatal("no leader")
		return nil
	}
}

// propose sends a command to the leader, again and again while leadership moves, as the receiving node does.
func propose(t testing.TB, nodes []*node, c Command) Result {
	t.Helper()
	encoded := c.Encode()
	deadline := time.Now().Add(patience)
	for {
		result, err := leaderOf(t, nodes...).Propose(testContext(t), encoded)
		if err == nil {
			return result
		}
		if time.Now().After(deadline) {
			t.Fatalf("propose %d: %v", c.Type, err)
		}
	}
}

// catchUp waits until every node holds what was acknowledged.
func catchUp(t testing.TB, nodes ...*node) uint64 {
	t.Helper()
	ctx := testContext(t)
	for {
		index, err := leaderOf(t, nodes...).ReadIndex(ctx)
		if err != nil {
			if ctx.Err() != nil {
				t.Fatalf("read index: %v", err)
			}
			continue
		}
		for _, n := range nodes {
			if n.Store == nil {
				continue
			}
			if err := n.WaitApplied(ctx, index); err != nil {
				t.Fatalf("%s: wait for %d, at %d: %v", n.cfg.ID, index, n.Stats().AppliedIndex, err)
			}
		}
		return index
	}
}

// machine is a state machine without Raft.
type machine struct {
	*fsm
	t     testing.TB
	index uint64
	now   int64
	fault error
}

func newMachine(t testing.TB, segmentBytes int64) *machine {
	t.Helper()
	return newMachineUnder(t, segmentBytes, RulesVersion)
}

func newMachineUnder(t testing.TB, segmentBytes int64, rules uint32) *machine {
	t.Helper()
	m := &machine{t: t, now: startTime}
	dir := t.TempDir()
	j, err := newJournal(filepath.Join(dir, "journal"), segmentBytes)
	if err != nil {
		t.Fatal(err)
	}
	metrics, err := newMetrics(nil)
	if err != nil {
		t.Fatal(err)
	}
	if m.fsm, err = newFSM(dir, 1<<28, j, quiet(), metrics, func(err error) { m.fault = err }); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.close(); err != nil {
			t.Error(err)
		}
	})
	m.apply(NewCommand(TypeInit, "", "", &Init{Cluster: testCluster, Rules: rules}))
	return m
}

// apply applies one command in a batch of its own, and checks the state's invariants.
func (m *machine) apply(c Command) Result {
	m.t.Helper()
	c.Stamp = max(c.Stamp, m.now)
	m.index++
	response := m.ApplyBatch([]*raft.Log{{Index: m.index, Term: 1, Type: raft.LogCommand, Data: c.Encode()}})[0]
	if m.fault != nil {
		m.t.Fatalf("command %d: fatal: %v", c.Type, m.fault)
	}
	return response.(Result)
}

// sameState holds the state to that of the machines before: the first one sets it.
func (m *machine) sameState(hash *any) {
	m.t.Helper()
	if *hash == nil {
		*hash = m.state.StateHash
	}
	if m.state.StateHash != *hash {
		m.t.Fatal("the order shows in the state (I20)")
	}
}

// mixed applies calls in their order, none of which may be refused, and messages among them in any.
func (m *machine) mixed(random *rand.Rand, calls, messages []Command) {
	m.t.Helper()
	rest := random.Perm(len(messages))
	for len(calls)+len(rest) > 0 {
		if n := random.IntN(len(calls) + len(rest)); n < len(calls) {
			if got := m.apply(calls[0]); got.Rejection != nil {
				m.t.Fatalf("call %d: %+v", calls[0].Type, got.Rejection)
			}
			calls = calls[1:]
			continue
		}
		m.apply(messages[rest[0]])
		rest = rest[1:]
	}
}

func (m *machine) read(fn func(*Reader) error) {
	m.t.Helper()
	if err := m.view(fn); err != nil {
		m.t.Fatal(err)
	}
}

func (m *machine) account(id entitlement.AccountID) *entitlement.Account {
	m.t.Helper()
	var a *entitlement.Account
	m.read(func(r *Reader) error {
		var ok bool
		var err error
		if a, ok, err = r.Account(sandbox, id); !ok {
			a = nil
		}
		return err
	})
	return a
}

// check recomputes every hash, and walks the change log's chain (I5), and looks whether what readers share is as it was.
func (m *machine) check() {
	m.t.Helper()
	checkState(m.t, m.fsm)
}

func checkState(t testing.TB, f *fsm) {
	t.Helper()
	checkKept(t, f)
	f.mu.RLock()
	db := f.db
	f.mu.RUnlock()
	st, err := verifyState(db)
	if err != nil {
		t.Fatal(err)
	}
	err = f.view(func(r *Reader) error {
		changes, at, err := r.Changes(st.Floor, 1<<30, 1<<40)
		if err != nil {
			return err
		}
		if n := uint64(len(changes)); n != st.N-st.Floor {
			t.Fatalf("%d changes between %d and %d: revisions are not dense", n, st.Floor, st.N)
		}
		if at != st.position() {
			t.Fatalf("the change log leads to %+v, the state is at %+v", at, st.position())
		}
		chain := replication.Hash{}
		for i, c := range changes {
			if chain = replication.NextChain(chain, c); st.Floor == 0 && i == len(changes)-1 && chain != st.Chain {
				t.Fatalf("the chain does not link at %d", i+1)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// The commands and messages of the tests.

func create(id entitlement.AccountID, aliases ...entitlement.Alias) Command {
	return NewCommand(TypeCreate, sandbox, "create-"+string(id), &CreateAccount{ID: id, Aliases: aliases})
}

func customer(id string) entitlement.Alias {
	return entitlement.Alias{Kind: entitlement.StripeCustomer, Value: id}
}

func record(ev entitlement.Event) Command {
	return NewCommand(TypeRecordEvent, sandbox, "corr-"+ev.ID, &RecordEvent{Event: ev})
}

// delivery is one of several deliveries of a message: the node that receives it gives each a correlation id of its own.
func delivery(n int, ev entitlement.Event) Command {
	c := record(ev)
	c.CorrelationID += fmt.Sprintf("-%d", n)
	return c
}

func event(id string, objects ...entitlement.Object) entitlement.Event {
	return entitlement.Event{Provider: entitlement.Stripe, ID: id, Environment: sandbox, Type: "test.event", CreatedAt: startTime, Objects: objects,
		Raw: []byte(`{"id":"` + id + `"}`)}
}

func subscription(id string, at int64, status entitlement.SubscriptionStatus, account entitlement.AccountID, aliases ...entitlement.Alias) entitlement.Object {
	return entitlement.Object{Kind: entitlement.KindSubscription, ID: id, At: at * 1e9, Account: account, Aliases: aliases,
		Links: []entitlement.Link{entitlement.Link("stripe:" + id)},
		Subscription: &entitlement.Subscription{Status: status, StartedAt: startTime, Items: []entitlement.SubscriptionItem{{
			ID: "si_" + id, Sold: entitlement.Sold{Product: "price_pro_monthly", Quantity: 1}, StartsAt: startTime, EndsAt: startTime + 30*day}}}}
}

func invoice(id, sub, intent string, at int64, status entitlement.InvoiceStatus) entitlement.Object {
	return entitlement.Object{Kind: entitlement.KindInvoice, ID: id, At: at * 1e9,
		Links: []entitlement.Link{entitlement.Link("stripe:" + sub), entitlement.Link("stripe:" + id), entitlement.Link("stripe:" + intent)},
		Invoice: &entitlement.Invoice{Status: status, Subscription: sub, PaymentIntent: intent, AmountPaid: 999, Currency: "EUR", PaidAt: at,
			Lines: []entitlement.InvoiceLine{{ID: "il_" + id, Item: "si_" + sub, Amount: 999, StartsAt: startTime, EndsAt: startTime + 30*day,
				Sold: entitlement.Sold{Product: "price_pro_monthly", Quantity: 1}}}}}
}

func refund(id, intent string, at, amount int64) entitlement.Object {
	return entitlement.Object{Kind: entitlement.KindRefund, ID: id, At: at * 1e9, Links: []entitlement.Link{entitlement.Link("stripe:" + intent)},
		Refund: &entitlement.Refund{Status: entitlement.RefundSucceeded, PaymentIntent: intent, Amount: amount, CreatedAt: at}}
}
