package store

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"

	"github.com/latchkey/latchkey/pkg/entitlement"
)

// This file shows I1 and I16 for one node with a real SIGKILL: a child process records events and says which were
// acknowledged; after the kill every one of them is there, and all hashes hold.

const childVariable = "LATCHKEY_STORE_TEST_CHILD" // "<dir> <address> <round>"

func TestMain(m *testing.M) {
	if child := os.Getenv(childVariable); child != "" {
		if err := recordForEver(child); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	if how := os.Getenv(endVariable); how != "" {
		if err := endItself(how); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(3)
		}
	}
	os.Exit(m.Run())
}

func killConfig(dir, address string) Config {
	return Config{Dir: dir, ID: "w1", Cluster: testCluster, Listen: address, Voters: []Voter{{ID: "w1", Addr: address}}, Logger: quiet(),
		InitialMmapBytes: 1 << 28, SegmentBytes: 16 << 10, SnapshotThreshold: 100, TrailingLogs: 10, SnapshotInterval: 20_000_000}
}

// recordForEver is the child: it prints each event's id once the event is acknowledged.
func recordForEver(child string) error {
	var dir, address, round string
	if _, err := fmt.Sscan(child, &dir, &address, &round); err != nil {
		return err
	}
	s, err := Open(killConfig(dir, address))
	if err != nil {
		return err
	}
	ctx := context.Background()
	if _, err := s.LeaderContext(ctx); err != nil {
		return err
	}
	var mu sync.Mutex
	var wait sync.WaitGroup
	for worker := range 8 {
		wait.Go(func() {
			for i := 0; ; i++ {
				sub := fmt.Sprintf("sub_%s_%d_%d", round, worker, i)
				ev := event("evt_"+sub, subscription(sub, 1, entitlement.Active, "acc_1"))
				if i%20 != 0 { // most purchases are somebody else's, or the account would become too large
					ev.Objects[0].Account = ""
				}
				if _, err := s.Propose(ctx, record(ev).Encode()); err != nil {
					fmt.Fprintln(os.Stderr, err)
					os.Exit(1)
				}
				mu.Lock()
				fmt.Println(ev.ID)
				mu.Unlock()
			}
		})
	}
	wait.Wait()
	return nil
}

func TestASIGKILLLosesNothingAcknowledged(t *testing.T) {
	dir := t.TempDir()
	listeners := startCluster(t, 1, nil) // for a free address
	address := listeners[0].cfg.Voters[0].Addr
	listeners[0].close(t)
	var acknowledged []string
	for round := range 4 {
		acknowledged = append(acknowledged, runUntilKilled(t, dir, address, round, 300+217*round)...)

		n := &node{cfg: killConfig(dir, address)}
		n.cfg.Fatal = func(err error) { t.Errorf("fatal: %v", err) }
		n.open(t)
		if round == 0 {
			propose(t, []*node{n}, create("acc_1"))
		}
		catchUp(t, n)
		err := n.View(func(r *Reader) error {
			for _, id := range acknowledged {
				if found, err := r.Event(sandbox, entitlement.Stripe, id); err != nil || len(found) != 1 {
					t.Fatalf("round %d: acknowledged event %s: %d found, %v", round, id, len(found), err)
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		checkState(t, n.fsm)
		if missing, err := n.fsm.missingSegments(); err != nil || len(missing) > 0 {
			t.Errorf("round %d: segments %v are missing, %v", round, missing, err)
		}
		want := n.Stats()
		got, err := Replay(t.Context(), ReplayConfig{Dir: dir, Into: t.TempDir(), SegmentBytes: n.cfg.SegmentBytes})
		if err != nil || !got.Agrees() || got.Position != want.Position || got.FullHash != want.FullHash {
			t.Errorf("round %d: the journal replays to %+v, %v; the state is %+v", round, got, err, want)
		}
		n.close(t)
	}
	t.Logf("%d events acknowledged over 4 kills", len(acknowledged))
}

// runUntilKilled starts the child, kills it after so many acknowledgements, and returns all that came.
func runUntilKilled(t *testing.T, dir, address string, round, after int) []string {
	t.Helper()
	child := exec.Command(os.Args[0], "-test.run=^$")
	child.Env = append(os.Environ(), fmt.Sprintf("%s=%s %s %d", childVariable, dir, address, round))
	var complaints strings.Builder
	child.Stderr = &complaints
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	var ids []string
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		if ids = append(ids, lines.Text()); len(ids) == after {
			if err := child.Process.Kill(); err != nil {
				t.Fatal(err)
			}
		}
	}
	_ = child.Wait() // killed
	if len(ids) < after {
		t.Fatalf("round %d: the child ended after %d acknowledgements: %s", round, len(ids), complaints.String())
	}
	if last := ids[len(ids)-1]; !strings.HasPrefix(last, "evt_sub_") {
		t.Fatalf("the child says %q", last)
	}
	return ids
}
