package store

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/latchkey/latchkey/pkg/entitlement"
)

// This file shows a single voter's promises: what was acknowledged is there after a restart, an event has its effect once,
// and proposals are refused for the right reasons.

func TestASingleVoterKeepsWhatItAcknowledged(t *testing.T) {
	nodes := startCluster(t, 1, nil)
	created := propose(t, nodes, create("acc_1", customer("cus_1")))
	if created.Account != "acc_1" || created.Existing || created.Revision.String() != "1-1" {
		t.Fatalf("create: %+v", created)
	}
	paid := propose(t, nodes, record(event("evt_1", subscription("sub_1", 1, entitlement.Active, "", customer("cus_1")))))
	if paid.Account != "acc_1" || paid.Outcome != Recorded || paid.Revision.String() != "1-2" {
		t.Fatalf("record: %+v", paid)
	}
	catchUp(t, nodes...)
	before := nodes[0].Stats()
	nodes[0].close(t)
	nodes[0].open(t)
	catchUp(t, nodes...)
	after := nodes[0].Stats()
	if after.Position != before.Position || after.FullHash != before.FullHash || after.JournalHash != before.JournalHash {
		t.Fatalf("after a restart %+v, before %+v", after, before)
	}
	checkState(t, nodes[0].fsm)
	delivered := record(event("evt_1", subscription("sub_1", 1, entitlement.Active, "", customer("cus_1"))))
	retried := propose(t, nodes, delivered)
	if retried.Duplicate || retried.Revision != paid.Revision {
		t.Fatalf("the same command again: %+v, first %+v", retried, paid)
	}
	delivered.CorrelationID = "another-delivery"
	again := propose(t, nodes, delivered)
	if !again.Duplicate || again.Revision != paid.Revision {
		t.Fatalf("the same event after a restart: %+v, first %+v", again, paid)
	}
}

// I2: nine at once have one effect, and one answer without duplicate.
func TestNineDeliveriesAtOnceHaveOneEffect(t *testing.T) {
	nodes := startCluster(t, 1, nil)
	propose(t, nodes, create("acc_1"))
	leader := leaderOf(t, nodes...)
	results := make([]Result, 9)
	var wait sync.WaitGroup
	for i := range results {
		wait.Go(func() {
			delivery := record(event("evt_1", subscription("sub_1", 1, entitlement.Active, "acc_1")))
			delivery.CorrelationID = strconv.Itoa(i)
			var err error
			if results[i], err = leader.Propose(testContext(t), delivery.Encode()); err != nil {
				t.Errorf("delivery %d: %v", i, err)
			}
		})
	}
	wait.Wait()
	first := 0
	for _, r := range results {
		if !r.Duplicate {
			first++
		}
		if r.Revision.String() != "1-2" {
			t.Errorf("revision %s, want 1-2", r.Revision)
		}
	}
	if first != 1 {
		t.Errorf("%d answers without duplicate, want 1", first)
	}
	if n := leader.Position().N; n != 2 {
		t.Errorf("%d revisions, want 2", n)
	}
}

func TestPropose(t *testing.T) {
	clock := &manualClock{now: time.Unix(startTime, 0)}
	nodes := startCluster(t, 1, func(c *Config) { c.Now = clock.read; c.InFlight = 1 })
	leader := leaderOf(t, nodes...)
	good := create("acc_1").Encode()

	t.Run("stamps with the leader's clock", func(t *testing.T) {
		if r, err := leader.Propose(testContext(t), good); err != nil || r.Stamp != startTime {
			t.Errorf("stamp %d, %v; want %d", r.Stamp, err, startTime)
		}
	})
	t.Run("never stamps back", func(t *testing.T) {
		clock.set(time.Unix(startTime-3, 0))
		if r, err := leader.Propose(testContext(t), create("acc_2").Encode()); err != nil || r.Stamp != startTime {
			t.Errorf("stamp %d, %v; want %d", r.Stamp, err, startTime)
		}
	})
	t.Run("proposes nothing with a clock more than 5 s behind", func(t *testing.T) {
		clock.set(time.Unix(startTime-6, 0))
		if _, err := leader.Propose(testContext(t), create("acc_3").Encode()); !errors.Is(err, ErrClock) {
			t.Errorf("error %v, want ErrClock", err)
		}
		clock.set(time.Unix(startTime, 0))
	})
	t.Run("refuses what is too large", func(t *testing.T) {
		if _, err := leader.Propose(testContext(t), make([]byte, MaxEntryBytes+1)); !errors.Is(err, ErrTooLarge) {
			t.Errorf("error %v, want ErrTooLarge", err)
		}
	})
	t.Run("refuses what is no command, and one of a type that it does not know", func(t *testing.T) {
		for _, b := range [][]byte{nil, {1, 2, 3}, NewCommand(99, "", "", &Init{}).Encode()} {
			if _, err := leader.Propose(testContext(t), b); !errors.Is(err, ErrCommand) {
				t.Errorf("%x: error %v, want ErrCommand", b, err)
			}
		}
	})
	t.Run("refuses more than may be in flight, by environment", func(t *testing.T) {
		leader.slots[sandbox] <- struct{}{}
		_, err := leader.Propose(testContext(t), create("acc_4").Encode())
		if !errors.Is(err, ErrBusy) {
			t.Errorf("sandbox: error %v, want ErrBusy", err)
		}
		production := NewCommand(TypeCreate, entitlement.Production, "c", &CreateAccount{ID: "acc_4"})
		if _, err := leader.Propose(testContext(t), production.Encode()); err != nil {
			t.Errorf("production: %v", err)
		}
		<-leader.slots[sandbox]
	})
	t.Run("gives back what it took when it was applied", func(t *testing.T) {
		if n := len(leader.fsm.prepared.entries); n != 0 {
			t.Errorf("%d prepared entries left", n)
		}
	})
}

type manualClock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *manualClock) read() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *manualClock) set(now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = now
}

func TestASecondProcessMayNotOpenTheSameDirectory(t *testing.T) {
	nodes := startCluster(t, 1, nil)
	cfg := nodes[0].cfg
	cfg.Listen = "127.0.0.1:0"
	if s, err := Open(cfg); err == nil {
		s.Close(testContext(t)) //nolint:errcheck // the test has failed
		t.Fatal("opened twice")
	}
}

func TestMetricsAreThereFromTheStart(t *testing.T) {
	registry := prometheus.NewRegistry()
	nodes := startCluster(t, 1, func(c *Config) { c.Metrics = registry })
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	outcomes := 0
	for _, f := range families {
		if !strings.HasPrefix(f.GetName(), "latchkey_writer_store_") {
			t.Errorf("metric %s", f.GetName())
		}
		if f.GetName() == "latchkey_writer_store_commands_total" {
			outcomes = len(f.GetMetric())
		}
	}
	if outcomes != 7 {
		t.Errorf("%d outcomes reported, want 7", outcomes)
	}
	nodes[0].close(t)
	nodes[0].open(t) // and registered again
}

func TestConfigMistakesAreReportedTogether(t *testing.T) {
	_, err := Open(Config{Voters: []Voter{{ID: "w1"}}})
	for _, want := range []string{"no directory", "no cluster id", "no address", `voter "w1"`, "no node id"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v lacks %q", err, want)
		}
	}
}

func TestUpdatedTellsOfEveryRevision(t *testing.T) {
	nodes := startCluster(t, 1, nil)
	leader := leaderOf(t, nodes...)
	for i := range 5 {
		updated := leader.Updated()
		propose(t, nodes, create(entitlement.AccountID(fmt.Sprintf("acc_%d", i))))
		select {
		case <-updated:
		case <-testContext(t).Done():
			t.Fatal("not told")
		}
	}
}

func TestTrimmingFollowsAgeAndSize(t *testing.T) {
	clock := &manualClock{now: time.Unix(startTime, 0)}
	nodes := startCluster(t, 1, func(c *Config) { c.Now = clock.read; c.TrimInterval = 10 * time.Millisecond })
	leader := leaderOf(t, nodes...)
	for i := range 5 {
		propose(t, nodes, create(entitlement.AccountID(fmt.Sprintf("acc_%d", i))))
	}
	if changes, at, err := leader.Changes(0, 100, 1<<20); err != nil || len(changes) != 5 || at != leader.Position() {
		t.Fatalf("%d changes up to %+v, %v", len(changes), at, err)
	}
	clock.set(time.Unix(startTime+day+1, 0))
	ctx := testContext(t)
	for {
		st, applied, _, _ := leader.fsm.current()
		if st.Floor == 5 {
			break
		}
		select {
		case <-applied:
		case <-ctx.Done():
			t.Fatalf("floor %d, want 5", st.Floor)
		}
	}
	if _, _, err := leader.Changes(4, 100, 1<<20); !errors.Is(err, ErrBelowFloor) {
		t.Errorf("below the floor: %v, want ErrBelowFloor", err)
	}
	if changes, at, err := leader.Changes(5, 100, 1<<20); err != nil || len(changes) != 0 || at != leader.Position() {
		t.Errorf("at the floor: %d changes up to %+v, %v", len(changes), at, err)
	}
	if _, _, err := leader.Changes(6, 100, 1<<20); !errors.Is(err, ErrAhead) {
		t.Errorf("ahead: %v, want ErrAhead", err)
	}
	checkState(t, leader.fsm)
}
