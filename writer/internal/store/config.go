package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/latchkey/latchkey/pkg/fault"
	"github.com/latchkey/latchkey/pkg/mutual"
	"github.com/latchkey/latchkey/replication"
)

// RulesVersion is the newest version of the rules that this program knows; see design.md section 3.
const RulesVersion uint32 = 3

// RulesChains is the version since which purchases are told of by providers other than Stripe (entitlement.Transaction), shared, learned from what
// aggregators say of their customers, and found by Apple's account token.
const RulesChains = 2

// rulesAccounts is the version since which accounts can be merged, intents lease what is about to be bought, and the commands from TypeMerge on are
// there. Their records have fields that older edges do not know.
const rulesAccounts = 3

// RulesBuyers is the version since which a RecordEvent may say who paid.
const RulesBuyers = rulesAccounts

// RulesCallers is the version since which a Command may say whose credential asked for it.
const RulesCallers = rulesAccounts

// rulesLearned is the version since which a message that only names a customer, and asks, counts for what they bought before it, and since which a name that
// the API gave to an account counts for a customer whom their provider calls so.
const rulesLearned = 3

// Voter is one member of the cluster.
type Voter struct {
	ID   string // of the node; never reused for another disk
	Addr string // host:port of its Raft listener
}

// Config is what a Store needs. Every voter must be given the same Cluster, Voters and SegmentBytes.
type Config struct {
	// Dir holds raft/ (log and votes), snapshots/, journal/ and state.db. It is trusted and belongs to this node alone.
	Dir string
	// ID is this node's. One that is none of Voters founds nothing: it waits until AddMember at the leader takes it in.
	ID string
	// Cluster is the cluster's id. A disk that holds another cluster's state is refused.
	Cluster string
	// Identity, when set, puts Raft under mutual TLS: only writers connect, and only the node that was meant answers. Without it whoever connects
	// can write, so that Listen must be a loopback address.
	Identity *mutual.Identity
	// Listen is the host:port of this node's Raft listener.
	Listen string
	// Listener, when set, is used instead of Listen and closed with the store.
	Listener net.Listener
	// Voters are the founders, the same list on every one of them. It is used once, to found the cluster, and then only for
	// the addresses, where it goes before what the state has.
	Voters []Voter
	// Advertise is the host:port under which the others reach this node's Raft listener, where Voters does not say it. Empty is Listen.
	Advertise string
	// Rules is the newest version of the rules that this node knows; 0 is RulesVersion. Only tests set another. A leader raises the cluster to
	// what every member knows. A log of a newer version is fatal: ErrRules.
	Rules uint32
	// Ask asks another node how it stands. Nil: nobody can be asked, so that nobody is promoted or removed and no rules are raised.
	Ask func(ctx context.Context, id string) (Standing, error)

	// Now is the clock that stamps commands. Defaults to time.Now.
	Now func() time.Time
	// TrustClock is asked before each stamp; with an error the command is refused with ErrClock. Nil trusts Now.
	TrustClock func() error
	// Logger defaults to slog.Default.
	Logger *slog.Logger
	// Metrics takes the latchkey_writer_store_* metrics. Nil keeps them unregistered.
	Metrics prometheus.Registerer

	// Fatal is called once for a fault after which this node must not go on: an error of the log or the state file, a store
	// call that hangs, a snapshot that does not verify. It must end the process; the default logs and exits with status 1.
	// Where it returns (in tests), the store answers nothing more.
	Fatal func(error)

	// FetchSegment gets a sealed journal segment of which this node has only the SHA-256, from another writer. Nil: a missing
	// segment stays missing and is reported by Stats.
	FetchSegment func(ctx context.Context, sha256 replication.Hash) (io.ReadCloser, error)

	// The rest has defaults that fit production; tests lower them. Zero means the default.
	HeartbeatTimeout  time.Duration // 1 s; also the election timeout
	LeaderLease       time.Duration // 0.5 s
	SegmentBytes      int64         // journal segments are sealed by the first entry that passes this; 64 MiB
	SnapshotThreshold uint64        // log entries after which Raft takes a snapshot; 200,000
	TrailingLogs      uint64        // log entries kept behind a snapshot, for followers that were away; 500,000
	SnapshotInterval  time.Duration // how often the threshold is looked at; 1 min
	TrimInterval      time.Duration // how often the leader looks whether the change log is to be trimmed; 1 min
	ChangeLogAge      time.Duration // 24 h
	ChangeLogBytes    int64         // 2 GiB
	InFlight          int           // proposals in flight for each environment; 1,024
	StoreTimeout      time.Duration // how long one call of the log store may take before the node gives up on its disk; 10 s
	InitialMmapBytes  int           // address space of the state file; 64 GiB
	JoinStable        time.Duration // how long a joining node must have held everything before it votes; 10 s
	JoinInterval      time.Duration // how often the leader looks at joining nodes; 1 s

	bootID string                       // of the machine; tests set another
	later  func(b *batch, entry []byte) // what a later version of the rules does with a command; in tests
}

// The defaults, with their reasons.
const (
	// One second without contact starts an election: measured failover is about 2 s in the median, and a pause of the
	// follower's main goroutine (fsync; heartbeats take no fast path here) does not start one for nothing.
	defaultHeartbeatTimeout = time.Second
	// A leader that hears no quorum for this long steps down; half the election timeout, so that it does before another is elected.
	defaultLeaderLease = 500 * time.Millisecond
	// Followers learn the commit index within this time of an idle leader, which bounds how long a read on a follower waits.
	commitTimeout = 20 * time.Millisecond
	// One batch of the log, of the transport and of the state machine's transaction: the transaction's fixed cost is spread
	// over up to so many commands, while one batch stays a few milliseconds.
	maxAppendEntries = 256
	// A snapshot copies the whole state file, so it must be rare against the log's length; a restart replays at most
	// about this many entries (some ten seconds of work).
	defaultSnapshotThreshold = 200_000
	// A follower that was away for a restart must catch up from the log: as many entries as two snapshots are apart.
	// And it must reach back behind the older of two snapshots, which are a threshold apart and what comes within an interval: else a
	// damaged newest one leaves nothing to start from.
	defaultTrailingLogs = 500_000
	// So that a snapshot comes soon after the threshold was passed.
	defaultSnapshotInterval = time.Minute
	// Two, so that a damaged newest one leaves another.
	retainSnapshots = 2
	// An entry's bytes are the same on all nodes, hence so are the segments; small enough to be fetched in one piece.
	defaultSegmentBytes   = 64 << 20
	defaultTrimInterval   = time.Minute
	defaultChangeLogAge   = 24 * time.Hour
	defaultChangeLogBytes = 2 << 30
	// What one environment may have in flight: at 1.25 MiB each it bounds memory, and a flood in sandbox leaves production its own.
	defaultInFlight = 1024
	// A disk that does not answer for so long is broken: followers still get heartbeats from this leader and would never elect
	// another (hashicorp/raft#503), so the node must die.
	defaultStoreTimeout = 10 * time.Second
	// bbolt stops all readers while it maps a larger file; with this much address space it never has to.
	defaultInitialMmapBytes = 64 << 30
	// How long dialling and each RPC may take.
	transportTimeout = 10 * time.Second
	// Connections kept to each peer: one for the pipeline, one for heartbeats, one for votes.
	transportPool = 3
	// Recent entries that the leader sends to followers without reading the log's files again: two batches each way.
	logCacheEntries = 4 * maxAppendEntries
	// A clock that is further than this behind the last stamp proposes nothing: its stamps would stand still.
	maxClockLag = 5 * time.Second
)

func (c *Config) setDefaults() error {
	var errs []error
	if c.Dir == "" {
		errs = append(errs, errors.New("no directory"))
	}
	if c.Cluster == "" {
		errs = append(errs, errors.New("no cluster id"))
	}
	if c.Listen == "" && c.Listener == nil {
		errs = append(errs, errors.New("no address to listen on"))
	}
	seen := map[string]bool{}
	if c.bootID == "" {
		c.bootID = bootID()
	}
	for _, v := range c.Voters {
		if v.ID == "" || v.Addr == "" || seen[v.ID] {
			errs = append(errs, fmt.Errorf("voter %q at %q: empty or twice", v.ID, v.Addr))
		}
		seen[v.ID] = true
	}
	if c.ID == "" {
		errs = append(errs, errors.New("no node id"))
	}
	orDefault(&c.Rules, RulesVersion, c.Rules == 0)
	orDefault(&c.Now, time.Now, c.Now == nil)
	orDefault(&c.Logger, slog.Default(), c.Logger == nil)
	if c.Fatal == nil {
		c.Fatal = func(err error) { exit(c.Logger, err) }
	}
	if fault.Planted("frequent-snapshots") { // what takes a day of load must happen in a test's minute
		orDefault(&c.SegmentBytes, 128<<10, c.SegmentBytes == 0)
		orDefault(&c.SnapshotThreshold, 200, c.SnapshotThreshold == 0)
		orDefault(&c.TrailingLogs, 500, c.TrailingLogs == 0)
		orDefault(&c.SnapshotInterval, 2*time.Second, c.SnapshotInterval == 0)
	}
	orDefault(&c.HeartbeatTimeout, defaultHeartbeatTimeout, c.HeartbeatTimeout == 0)
	orDefault(&c.LeaderLease, defaultLeaderLease, c.LeaderLease == 0)
	orDefault(&c.SegmentBytes, defaultSegmentBytes, c.SegmentBytes == 0)
	orDefault(&c.SnapshotThreshold, defaultSnapshotThreshold, c.SnapshotThreshold == 0)
	orDefault(&c.TrailingLogs, defaultTrailingLogs, c.TrailingLogs == 0)
	orDefault(&c.SnapshotInterval, defaultSnapshotInterval, c.SnapshotInterval == 0)
	orDefault(&c.TrimInterval, defaultTrimInterval, c.TrimInterval == 0)
	orDefault(&c.ChangeLogAge, defaultChangeLogAge, c.ChangeLogAge == 0)
	orDefault(&c.ChangeLogBytes, defaultChangeLogBytes, c.ChangeLogBytes == 0)
	orDefault(&c.InFlight, defaultInFlight, c.InFlight == 0)
	orDefault(&c.StoreTimeout, defaultStoreTimeout, c.StoreTimeout == 0)
	orDefault(&c.JoinStable, defaultJoinStable, c.JoinStable == 0)
	orDefault(&c.JoinInterval, defaultJoinInterval, c.JoinInterval == 0)
	orDefault(&c.InitialMmapBytes, defaultInitialMmapBytes, c.InitialMmapBytes == 0)
	return errors.Join(errs...)
}

// lastWords is how long the reason of the end may take to be logged: the log may go to the very disk that hangs.
const lastWords = time.Second

// exit ends the process with status 1 and one line that says why.
func exit(log *slog.Logger, err error) {
	logged := make(chan struct{})
	go func() {
		log.Error("store cannot go on", "error", err)
		close(logged)
	}()
	select {
	case <-logged:
	case <-time.After(lastWords):
	}
	os.Exit(1)
}

func orDefault[T any](v *T, value T, unset bool) {
	if unset {
		*v = value
	}
}
