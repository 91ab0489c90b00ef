package store

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	bolt "go.etcd.io/bbolt"

	"github.com/latchkey/latchkey/pkg/entitlement"
	"github.com/latchkey/latchkey/replication"
)

// This file shows what three nodes promise together: equal states and journals at equal indexes (I3), nothing acknowledged
// lost over a failover (I1), linearizable reads on every node (I10), and followers that catch up by log and by snapshot.

func stop(t testing.TB, n *node) {
	t.Helper()
	n.close(t)
}

func others(nodes []*node, not *node) []*node {
	var rest []*node
	for _, n := range nodes {
		if n != not {
			rest = append(rest, n)
		}
	}
	return rest
}

// inOneTerm calls fn with the leader until it has led from before the call to its end: on a busy machine another is elected at any moment.
func inOneTerm(t testing.TB, nodes []*node, fn func(leader *node)) {
	t.Helper()
	ctx := testContext(t)
	for {
		leader, lead := leading(t, nodes)
		if fn(leader); lead.Err() == nil {
			return
		}
		if ctx.Err() != nil {
			t.Fatal("nobody leads for long enough")
		}
	}
}

// leading returns the leader with the context of its present lead.
func leading(t testing.TB, nodes []*node) (leader *node, lead context.Context) {
	t.Helper()
	for lead == nil { // it may have lost it since leaderOf
		leader = leaderOf(t, nodes...)
		_, lead, _ = leader.lead.current()
	}
	return leader, lead
}

// fill records n purchases of accounts of their own.
func fill(t testing.TB, nodes []*node, from, to int) {
	t.Helper()
	var wait sync.WaitGroup
	slots := make(chan struct{}, 32)
	for i := from; i < to; i++ {
		slots <- struct{}{}
		wait.Go(func() {
			defer func() { <-slots }()
			id := entitlement.AccountID(fmt.Sprintf("acc_%04d", i))
			propose(t, nodes, create(id))
			sub := fmt.Sprintf("sub_%04d", i)
			propose(t, nodes, record(event("evt_a"+sub, subscription(sub, 1, entitlement.Active, id))))
			propose(t, nodes, record(event("evt_b"+sub, invoice("in_"+sub, sub, "pi_"+sub, 2, entitlement.InvoicePaid))))
		})
	}
	wait.Wait()
}

// equal fails unless all nodes agree at an index that everything acknowledged is below.
func equal(t testing.TB, nodes ...*node) {
	t.Helper()
	ctx := testContext(t)
	// The leader's own commands, such as the one that raises the rules, come between any two looks: only those count between which nothing did.
	for {
		catchUp(t, nodes...)
		var stats []Stats
		var journals []map[string][32]byte
		for _, n := range nodes {
			stats = append(stats, n.Stats())
			journals = append(journals, journalOf(t, ctx, n))
		}
		if !slices.EqualFunc(nodes, stats, func(n *node, s Stats) bool {
			return n.Stats().AppliedIndex == s.AppliedIndex && s.AppliedIndex == stats[0].AppliedIndex
		}) {
			if ctx.Err() != nil {
				t.Fatalf("never at one index: %+v", stats)
			}
			continue
		}
		first := stats[0]
		for i, s := range stats {
			if s.Position != first.Position || s.FullHash != first.FullHash || s.Stamp != first.Stamp {
				t.Errorf("%s is at %+v, %s at %+v", s.ID, s, first.ID, first)
			}
			if fmt.Sprint(journals[i]) != fmt.Sprint(journals[0]) {
				t.Errorf("journal of %s has %d segments %v, of %s %d", s.ID, len(journals[i]), journals[i], first.ID, len(journals[0]))
			}
		}
		break
	}
	for _, n := range nodes {
		checkState(t, n.fsm)
	}
}

// journalOf waits until a node has every segment, and returns their SHA-256 by name.
func journalOf(t testing.TB, ctx context.Context, n *node) map[string][32]byte {
	t.Helper()
	for n.Stats().MissingSegments > 0 { // no event tells of the end of a fetch
		select {
		case <-time.After(5 * time.Millisecond):
		case <-ctx.Done():
			t.Fatalf("%s still lacks %d segments", n.cfg.ID, n.Stats().MissingSegments)
		}
	}
	files := map[string][32]byte{}
	numbers, err := segmentNumbers(filepath.Join(n.cfg.Dir, "journal"))
	if err != nil {
		t.Fatal(err)
	}
	for _, number := range numbers {
		content, err := os.ReadFile(n.fsm.journal.path(number))
		if err != nil {
			t.Fatal(err)
		}
		files[filepath.Base(n.fsm.journal.path(number))] = sha256.Sum256(content)
	}
	return files
}

func TestThreeNodesAgree(t *testing.T) {
	nodes := startCluster(t, 3, func(c *Config) { c.SegmentBytes = 8 << 10 })
	fill(t, nodes, 0, 40)
	equal(t, nodes...)
	if s := nodes[0].Stats(); s.JournalSegment < 3 {
		t.Errorf("only %d segments: the test shows little", s.JournalSegment)
	}
	var wrong []string
	inOneTerm(t, nodes, func(leader *node) {
		wrong = nil
		for _, n := range others(nodes, leader) {
			if _, err := n.Propose(testContext(t), create("acc_x").Encode()); !errors.Is(err, ErrNotLeader) {
				wrong = append(wrong, fmt.Sprintf("propose on a follower: %v, want ErrNotLeader", err))
			}
			if _, err := n.ReadIndex(testContext(t)); !errors.Is(err, ErrNotLeader) {
				wrong = append(wrong, fmt.Sprintf("read index on a follower: %v, want ErrNotLeader", err))
			}
			if n.Leader() != leader.cfg.ID {
				wrong = append(wrong, fmt.Sprintf("%s sees %q as the leader, want %q", n.cfg.ID, n.Leader(), leader.cfg.ID))
			}
		}
	})
	for _, w := range wrong {
		t.Error(w)
	}
}

// I10: while the lead is given away, no read is confirmed: the voter that confirms it may be about to elect another.
func TestNoReadIsConfirmedWhileTheLeadIsGivenAway(t *testing.T) {
	refused := errors.New("the other would not")
	var meanwhile, gave, afterwards error
	inOneTerm(t, startCluster(t, 3, nil), func(leader *node) {
		reading := func() error {
			_, err := leader.ReadIndex(testContext(t))
			return err
		}
		began, end, ended := make(chan struct{}), make(chan struct{}), make(chan error)
		go func() {
			ended <- leader.giveAway(func() error {
				close(began)
				<-end
				return refused
			})
		}()
		<-began
		meanwhile = reading()
		close(end)
		gave, afterwards = <-ended, reading()
	})
	if !errors.Is(meanwhile, ErrNotLeader) {
		t.Errorf("meanwhile: %v, want ErrNotLeader", meanwhile)
	}
	if !errors.Is(gave, refused) {
		t.Errorf("gave the lead away: %v", gave)
	}
	if afterwards != nil {
		t.Errorf("afterwards it still leads: %v", afterwards)
	}
}

func TestNothingAcknowledgedIsLostOverAFailover(t *testing.T) {
	nodes := startCluster(t, 3, nil)
	fill(t, nodes, 0, 10)
	old, ended := leading(t, nodes)
	stop(t, old)
	if ended.Err() == nil {
		t.Error("the leader's context outlives its lead")
	}
	rest := others(nodes, old)
	fill(t, rest, 10, 20)
	catchUp(t, rest...)
	for _, n := range rest {
		for i := range 20 {
			a := readAccount(t, n, fmt.Sprintf("acc_%04d", i))
			if a == nil || len(a.Purchases) != 1 {
				t.Fatalf("%s: account %d is %+v", n.cfg.ID, i, a)
			}
		}
	}
	old.open(t)
	equal(t, nodes...)
}

func readAccount(t testing.TB, n *node, id string) (a *entitlement.Account) {
	t.Helper()
	err := n.View(func(r *Reader) error {
		got, ok, err := r.Account(sandbox, entitlement.AccountID(id))
		if ok {
			a = got
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// I10: a read on any node after ReadIndex and WaitApplied sees every write that was acknowledged before it began.
func TestReadsOnEveryNodeSeeWhatWasAcknowledged(t *testing.T) {
	nodes := startCluster(t, 3, nil)
	for i := range 30 {
		id := fmt.Sprintf("acc_%d", i)
		propose(t, nodes, create(entitlement.AccountID(id)))
		catchUp(t, nodes...)
		for _, n := range nodes {
			if readAccount(t, n, id) == nil {
				t.Fatalf("%s does not see %s", n.cfg.ID, id)
			}
		}
		if i%10 == 9 {
			if err := leaderOf(t, nodes...).TransferLeadership(); err != nil && !errors.Is(err, ErrNotLeader) {
				t.Logf("transfer: %v", err)
			}
		}
	}
}

func TestAFollowerCatchesUpByLog(t *testing.T) {
	nodes := startCluster(t, 3, nil)
	fill(t, nodes, 0, 5)
	away := others(nodes, leaderOf(t, nodes...))[0]
	stop(t, away)
	fill(t, others(nodes, away), 5, 25)
	away.open(t)
	equal(t, nodes...)
}

func TestAFollowerCatchesUpBySnapshotAndFetchesSegments(t *testing.T) {
	r := newRoster(t)
	nodes := r.cluster(3, func(c *Config) {
		c.SegmentBytes, c.SnapshotThreshold, c.TrailingLogs, c.SnapshotInterval = 4<<10, 20, 5, 20*time.Millisecond
	})
	fill(t, nodes, 0, 5)
	away := others(nodes, leaderOf(t, nodes...))[0]
	r.close(away)
	rest := others(nodes, away)
	fill(t, rest, 5, 45)
	cutLogs(t, rest, 40) // what the follower would need is gone before it comes back
	r.open(away)
	equal(t, nodes...)
	if n := away.Stats().Restores; n < 1 {
		t.Errorf("%d snapshots restored: it caught up by log", n)
	}
	// And what it got is enough for its own restart.
	r.close(away)
	r.open(away)
	equal(t, nodes...)
}

// cutLogs has the nodes take snapshots until their logs begin after an index.
func cutLogs(t testing.TB, nodes []*node, after uint64) {
	t.Helper()
	ctx := testContext(t)
	for _, n := range nodes {
		for {
			first, err := n.logs.FirstIndex()
			if err != nil {
				t.Fatal(err)
			}
			if first > after {
				break
			}
			if err := n.raft.Snapshot().Error(); err != nil && !errors.Is(err, raft.ErrNothingNewToSnapshot) {
				t.Fatal(err)
			}
			if ctx.Err() != nil {
				t.Fatal("the log is never cut")
			}
		}
	}
}

func TestReplayGivesTheSameState(t *testing.T) {
	nodes := startCluster(t, 1, func(c *Config) { c.SegmentBytes = 4 << 10 })
	fill(t, nodes, 0, 30)
	propose(t, nodes, NewCommand(TypeTrim, "", "", &Trim{Floor: 10}))
	want := nodes[0].Stats()
	dir := nodes[0].cfg.Dir
	into := t.TempDir()
	got, err := Replay(t.Context(), ReplayConfig{Dir: dir, Into: into, SegmentBytes: 4 << 10})
	if err != nil {
		t.Fatal(err)
	}
	if got.Position != want.Position || got.FullHash != want.FullHash || got.Segment != want.JournalSegment || got.Offset != want.JournalOffset {
		t.Errorf("replayed %+v, the node is at %+v", got, want)
	}
	for n := uint64(1); n <= got.Segment; n++ {
		name := fmt.Sprintf("%08d.seg", n)
		a, errA := os.ReadFile(filepath.Join(dir, "journal", name))
		b, errB := os.ReadFile(filepath.Join(into, "journal", name))
		if errA != nil || errB != nil || !bytes.Equal(a, b) {
			t.Errorf("segment %d differs: %v, %v", n, errA, errB)
		}
	}
}

// The fast path of heartbeats runs beside the main loop: a leader that is given a heartbeat of a newer term then stamps the
// next entry with that term, which it never won (hashicorp/raft#695). With the path off it refuses the entry. This fails if
// an upgrade, or a change of ours, brings the path back.
func TestHeartbeatsTakeNoFastPath(t *testing.T) {
	nodes := startCluster(t, 1, nil)
	leader := leaderOf(t, nodes...)
	peer, err := raft.NewTCPTransport("127.0.0.1:0", nil, 1, time.Second, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	defer peer.Close() //nolint:errcheck // a test's
	for range 5 {
		leaderOf(t, nodes...)
		term := leader.raft.CurrentTerm()
		// What a heartbeat looks like to the transport: no entries, nothing before, no commit.
		heartbeat := &raft.AppendEntriesRequest{RPCHeader: raft.RPCHeader{ProtocolVersion: 3, ID: []byte("w9"), Addr: []byte("127.0.0.1:1")}, Term: term + 1}
		var answer raft.AppendEntriesResponse
		if err := peer.AppendEntries("w1", raft.ServerAddress(leader.cfg.Voters[0].Addr), heartbeat, &answer); err != nil {
			t.Fatalf("heartbeat: %v", err)
		}
		if err := leader.raft.Apply(create("acc_1").Encode(), time.Second).Error(); !errors.Is(err, raft.ErrNotLeader) {
			t.Fatalf("apply after a heartbeat of term %d: %v, want ErrNotLeader: an entry was stamped with a term that nobody won", term+1, err)
		}
		// It leads again in a term of its own, and no entry has the forged one.
		ctx := testContext(t)
		for leader.raft.State() != raft.Leader || leader.raft.CurrentTerm() <= term+1 {
			select {
			case <-time.After(time.Millisecond):
			case <-ctx.Done():
				t.Fatal("no leader again")
			}
		}
		if err := leader.raft.Barrier(time.Second).Error(); err != nil {
			t.Fatal(err)
		}
		for index := leader.raft.LastIndex(); index > 0; index-- {
			var entry raft.Log
			if err := leader.logs.GetLog(index, &entry); err != nil {
				t.Fatal(err)
			}
			if entry.Term == term+1 {
				t.Fatalf("entry %d has term %d, which nobody won", index, entry.Term)
			}
		}
	}
	if _, preVote := raft.Transport(leader.transport).(raft.WithPreVote); !preVote {
		t.Error("the transport lost pre-vote")
	}
}

func TestCloseHandsTheLeadOver(t *testing.T) {
	nodes := startCluster(t, 3, nil)
	old := leaderOf(t, nodes...)
	for _, n := range others(nodes, old) { // who would elect another one for want of a heartbeat waits for longer than this test
		c := n.raft.ReloadableConfig()
		c.HeartbeatTimeout, c.ElectionTimeout = time.Hour, time.Hour
		if err := n.raft.ReloadConfig(c); err != nil {
			t.Fatal(err)
		}
	}
	stop(t, old)
	leaderOf(t, others(nodes, old)...)
}

// TestTheTermThatIsToldIsTheOneThatIsLed is I4 as /status shows it: what tells of the end of a leadership comes after Raft has gone on to the next term. Until it is
// there a node may still say that it leads, and then its own term.
func TestTheTermThatIsToldIsTheOneThatIsLed(t *testing.T) {
	leader := leaderOf(t, startCluster(t, 1, nil)...)
	newest := leader.raft.CurrentTerm()
	for _, led := range []uint64{newest, newest - 1} {
		leader.lead.begin(t.Context(), func() {}, led)
		if s := leader.Stats(); !s.Leads || s.Term != led {
			t.Errorf("Stats() of a leader of term %d, Raft being in %d: leads %t in term %d", led, newest, s.Leads, s.Term)
		}
	}
	leader.lead.end()
	if s := leader.Stats(); s.Leads || s.Term != newest {
		t.Errorf("Stats() when the lead has ended: leads %t in term %d, want term %d", s.Leads, s.Term, newest)
	}
}

func TestWithoutAMajorityNothingIsAcknowledged(t *testing.T) {
	nodes := startCluster(t, 3, nil)
	propose(t, nodes, create("acc_1"))
	leader, ended := leading(t, nodes)
	for _, n := range others(nodes, leader) {
		n.transport.Close() //nolint:errcheck // cut off from the others, without a word
	}
	result, err := leader.Propose(testContext(t), create("acc_2").Encode())
	if !errors.Is(err, ErrOutcomeUnknown) && !errors.Is(err, ErrNotLeader) {
		t.Errorf("proposed %+v, %v; want ErrOutcomeUnknown or ErrNotLeader", result, err)
	}
	select {
	case <-ended.Done():
	case <-testContext(t).Done():
		t.Error("it still leads")
	}
	if _, err := leader.ReadIndex(testContext(t)); !errors.Is(err, ErrNotLeader) {
		t.Errorf("read index: %v, want ErrNotLeader", err)
	}
	if _, err := leader.Propose(testContext(t), create("acc_3").Encode()); !errors.Is(err, ErrNotLeader) {
		t.Errorf("propose: %v, want ErrNotLeader", err)
	}
}

func TestACallerMayStopWaiting(t *testing.T) {
	nodes := startCluster(t, 1, nil)
	leader := leaderOf(t, nodes...)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := leader.Propose(ctx, create("acc_1").Encode()); !errors.Is(err, ErrOutcomeUnknown) || !errors.Is(err, context.Canceled) {
		if err != nil { // it may have been quicker
			t.Errorf("propose: %v, want ErrOutcomeUnknown", err)
		}
	}
	if err := leader.WaitApplied(ctx, 1<<40); !errors.Is(err, context.Canceled) {
		t.Errorf("wait: %v, want context.Canceled", err)
	}
	if _, err := nodes[0].LeaderContext(testContext(t)); err != nil {
		t.Error(err)
	}
}

func TestADirectoryOfAnotherClusterIsRefused(t *testing.T) {
	nodes := startCluster(t, 1, nil)
	propose(t, nodes, create("acc_1"))
	nodes[0].close(t)
	fatal := make(chan error, 1)
	nodes[0].cfg.Cluster, nodes[0].cfg.Fatal = "01OTHER", func(err error) {
		select {
		case fatal <- err:
		default:
		}
	}
	nodes[0].open(t)
	select {
	case <-fatal:
	case <-testContext(t).Done():
		t.Fatal("another cluster's state was taken")
	}
}

func TestTheSameSnapshotTwiceEndsTheProcess(t *testing.T) {
	m := newMachine(t, 1<<20)
	m.apply(create("acc_1"))
	packed := packedSnapshot(t, m)
	m.running.Store(true)
	if err := m.Restore(io.NopCloser(bytes.NewReader(packed))); err != nil || m.fault != nil {
		t.Fatalf("first restore: %v, fault %v", err, m.fault)
	}
	if err := m.Restore(io.NopCloser(bytes.NewReader(packed))); !errors.Is(err, errRestoreLoop) || !errors.Is(m.fault, errRestoreLoop) {
		t.Errorf("second restore: %v, fault %v; want errRestoreLoop", err, m.fault)
	}
}

func packedSnapshot(t testing.TB, m *machine) []byte {
	t.Helper()
	tx, err := m.begin()
	if err != nil {
		t.Fatal(err)
	}
	s := &snapshot{tx: tx, journal: m.journal, metrics: m.metrics}
	defer s.Release()
	var packed bytes.Buffer
	if err := s.write(&packed); err != nil {
		t.Fatal(err)
	}
	return packed.Bytes()
}

func TestASnapshotThatWasChangedIsRefused(t *testing.T) {
	m := newMachine(t, 1<<20)
	for i := range 20 {
		m.apply(create(entitlement.AccountID(fmt.Sprintf("acc_%d", i))))
	}
	packed := packedSnapshot(t, m)
	// changed is the snapshot with one row of its state file changed.
	changed := func(bucket []byte, change func(row []byte)) []byte {
		dir := t.TempDir()
		statePath, tailPath := filepath.Join(dir, "state"), filepath.Join(dir, "tail")
		if err := unpack(bytes.NewReader(packed), statePath, tailPath); err != nil {
			t.Fatal(err)
		}
		db, err := openState(statePath, 1<<28)
		if err != nil {
			t.Fatal(err)
		}
		err = db.Update(func(tx *bolt.Tx) error {
			k, row := tx.Bucket(bucket).Cursor().First()
			row = bytes.Clone(row)
			change(row)
			return tx.Bucket(bucket).Put(bytes.Clone(k), row)
		})
		content, errRead := os.ReadFile(statePath)
		if err := errors.Join(err, db.Close(), errRead); err != nil {
			t.Fatal(err)
		}
		tail, err := os.ReadFile(tailPath)
		if err != nil {
			t.Fatal(err)
		}
		b := append([]byte(snapshotMagic), packed[len(snapshotMagic):snapshotHeader]...)
		binary.BigEndian.PutUint64(b[len(snapshotMagic):], uint64(len(content)))
		return append(append(b, content...), tail...)
	}
	last := func(row []byte) { row[len(row)-1] ^= 1 }
	tests := []struct {
		name   string
		packed []byte
	}{
		{"magic", append([]byte("X"), packed[1:]...)},
		{"cut", packed[:len(packed)-1]},
		{"longer", append(bytes.Clone(packed), 0)},
		{"empty", nil},
		{"a byte of the journal's tail", func() []byte { b := bytes.Clone(packed); b[len(b)-1] ^= 1; return b }()},
		{"an audit row", changed(bucketEvents, last)},
		{"an index row", changed(bucketEventOrder, last)},
		{"a record", changed(bucketRecords, last)},
		{"a record with its checksum", changed(bucketRecords, func(row []byte) {
			last(row)
			env, kind, key, _ := replication.SplitDBKey([]byte("sandbox/account/acc_0"))
			copy(row, replication.Record{Env: env, Kind: kind, Key: key, Value: row[8:]}.Stored())
		})},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			before := m.state
			if err := m.Restore(io.NopCloser(bytes.NewReader(tt.packed))); err == nil {
				t.Error("restored")
			}
			if m.state != before {
				t.Errorf("the state changed")
			}
			m.apply(create("acc_1")) // and it goes on
		})
	}
	if err := m.Restore(io.NopCloser(bytes.NewReader(packed))); err != nil {
		t.Fatalf("the unchanged one: %v", err)
	}
	m.check()
	if m.state.N != 20 {
		t.Errorf("revision %d after the restore, want 20", m.state.N)
	}
	if err := m.journal.open(&m.state, ""); err != nil {
		t.Errorf("the journal after the restore: %v", err)
	}
}
