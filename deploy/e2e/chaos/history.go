package chaos

import (
	"sync"
	"time"

	"github.com/latchkey/latchkey/replication"
)

// History is what a run saw: all that the checkers judge. Its times are this machine's.
type History struct {
	Acks     []Ack
	Found    []Presence
	Listed   map[string][]string // event ids in each account's history, by account
	Writers  []WriterSample
	Edges    []EdgeSample
	Answers  []Answer
	Steps    map[string][]Step // what was done to each account, in order
	Logs     map[string]*Fold  // each writer's change log, read from its beginning
	Leads    []Lead            // what the writers' logs say of leadership
	Journals map[string][]byte // each writer's journal, all segments one after the other
	Shifts   []Shift           // of all clocks alike
	Spreads  []Spread          // how soon changes showed while NATS was disturbed
	Heals    []Heal
	Strange  []string // answers that no fault explains
	Busy     int      // Config.Busy of the run
}

// promised is how long what should take d may take on the machine of the run.
func (h *History) promised(d time.Duration) time.Duration { return time.Duration(max(1, h.Busy)) * d }

// Ack is one acknowledged event or grant.
type Ack struct {
	ID        string // the provider's event id, or the idempotency key of a grant
	Grant     string // id of the grant; empty: an event
	Account   string
	Revision  replication.Revision
	Duplicate bool
	Sent      time.Time
	Answered  time.Time
	Writer    string
}

// Presence is how one writer answered for one acknowledged thing at the end.
type Presence struct {
	Node string
	ID   string
	Here bool
	Said string // when it is not here
}

// WriterSample is a writer's status at one moment.
type WriterSample struct {
	At                  time.Time
	Node                string
	Leader              bool // it says that it leads
	Term                uint64
	Applied             uint64
	Position            replication.Revision
	StateHash, FullHash string
}

// Lead is one beginning of a writer's leadership.
type Lead struct {
	Node string
	Term uint64
}

// EdgeSample is an edge's status at one moment.
type EdgeSample struct {
	Sent, At         time.Time // when it was asked, when it had answered
	Node             string
	PID              int
	Position         replication.Revision
	StateHash, Chain string
	AsOf             time.Time // zero: none yet
}

// Answer is what an edge told an app, signed.
type Answer struct {
	Sent, At time.Time
	Node     string
	Account  string
	Revision replication.Revision
	AsOf     time.Time
	Active   bool
	Allowed  bool // by the grace token, offline
}

// Step is one message about an account, and what is true once it is in effect.
type Step struct {
	Sent     time.Time
	Answered time.Time // zero: not yet
	Revision replication.Revision
	Active   bool
}

// Shift is a moment from which all clocks of the cluster were off alike.
type Shift struct {
	At  time.Time
	Off time.Duration
}

// Spread is how long a change took to every edge while NATS was disturbed, from its acknowledgement.
type Spread struct {
	Fault string
	Took  time.Duration
}

// Heal is what followed the end of a round of faults.
type Heal struct {
	Round    int
	Faults   string
	Leader   time.Duration // until a message was acknowledged again; negative: never
	Fresh    time.Duration // until every edge was fresh, from the moment a message was acknowledged again; negative: never
	Restores float64       // snapshots that writers restored since the round began
}

// recorder collects a History from many goroutines.
type recorder struct {
	mu sync.Mutex
	h  History
}

func newRecorder() *recorder {
	return &recorder{h: History{Listed: map[string][]string{}, Steps: map[string][]Step{}, Logs: map[string]*Fold{}, Journals: map[string][]byte{}}}
}

// with runs f on the history, alone.
func (r *recorder) with(f func(*History)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f(&r.h)
}

func (r *recorder) acked() (n int) {
	r.with(func(h *History) { n = len(h.Acks) })
	return n
}
