package edge_test

import (
	"bytes"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/latchkey/latchkey/edge"
	"github.com/latchkey/latchkey/pkg/entitlement"
	"github.com/latchkey/latchkey/replication"
	"github.com/latchkey/latchkey/replication/natsd"
	"github.com/latchkey/latchkey/replication/replicationtest"
)

// readiness is what /readyz says.
func (r *rig) readiness() (ready bool, said string) {
	r.t.Helper()
	resp, body := r.get("/readyz", nil)
	if ready = resp.StatusCode == http.StatusOK; ready != strings.Contains(string(body), `"ready":true`) {
		r.t.Errorf("/readyz = %d %s", resp.StatusCode, body)
	}
	return ready, string(body)
}

// metric reads one series without labels.
func (r *rig) metric(name string) string {
	r.t.Helper()
	_, body := r.get("/metrics", nil)
	for line := range strings.Lines(string(body)) {
		if value, found := strings.CutPrefix(line, name+" "); found {
			return strings.TrimSpace(value)
		}
	}
	return "absent"
}

// TestReadinessUnderEachFault: what /readyz, /status and the metrics say while something is wrong, and that they take it back. An edge that answers rightly and
// freshly is ready, whatever disturbs it; the reasons are told all the same.
func TestReadinessUnderEachFault(t *testing.T) {
	stranger, err := replicationtest.New(cluster)
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name   string
		fault  func(*rig)
		ready  bool
		reason string // in /readyz
		mend   func(*rig)
	}{
		{"no writer answers", func(r *rig) { r.writer.SetDown(true) }, true, "status 503", func(r *rig) { r.writer.SetDown(false) }},
		{"no writer answers for 61 s", func(r *rig) {
			r.writer.SetDown(true)
			until(r.t, "no head is on its way any more, which could be of the later time", func() bool {
				_, said := r.readiness()
				return strings.Contains(said, "head: writer unavailable")
			})
			r.clock.Add(61 * time.Second)
		}, false, "as_of is 61 s old", func(r *rig) { r.writer.SetDown(false) }},
		{"a writer that is cut off from its cluster", func(r *rig) { r.writer.Freeze(r.clock.Now().Unix()) }, true, "as_of stands still", func(r *rig) { r.clock.Add(time.Second); r.writer.Freeze(0) }},
		{"the writer is somebody else", func(r *rig) {
			r.writer.Spoil(func(path string, body []byte) []byte {
				if path == replication.HeadPath {
					return []byte(stranger.SignedHead())
				}
				return body
			})
		}, true, "not signed by a writer of this cluster", func(r *rig) { r.writer.Spoil(nil) }},
		{"rules of a newer program", func(r *rig) {
			r.writer.SetRules(edge.KnownRules + 1)
			r.writer.PutAccount(entitlement.Sandbox, entitlement.Account{ID: "acc_01NEW"})
		}, true, "rules", func(r *rig) {
			r.writer.SetRules(edge.KnownRules)
			r.writer.PutAccount(entitlement.Sandbox, entitlement.Account{ID: alice})
		}},
		{"the file is damaged, and no snapshot is to be had", func(r *rig) {
			r.writer.SetDown(true)
			files, err := filepath.Glob(filepath.Join(r.dir, "e1", "replica", "*.db"))
			if err != nil || len(files) != 1 {
				r.t.Fatal(files, err)
			}
			if err := os.Truncate(files[0], 0); err != nil {
				r.t.Fatal(err)
			}
			r.check("", r.writer.Session(entitlement.Sandbox, "acc_01BOB"), nil) // somebody reads
		}, false, "no data", func(r *rig) { r.writer.SetDown(false) }},
		{"a snapshot is wanted, and only torn ones come", func(r *rig) {
			r.writer.Spoil(func(path string, body []byte) []byte {
				if path == replication.SnapshotPath {
					return body[:len(body)/2]
				}
				return body
			})
			r.writer.RaiseEpoch()
		}, true, "waiting for a snapshot", func(r *rig) { r.writer.Spoil(nil) }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r := subscribed(t)
			well := func() bool { // as_of stands still in these tests, which is told for a second of each four
				ready, said := r.readiness()
				return ready && strings.Contains(said, `"reasons":[]`) && len(r.status().Reasons) == 0
			}
			until(t, "all is well", well)
			tt.fault(r)
			until(t, fmt.Sprintf("ready %t because of %q", tt.ready, tt.reason), func() bool {
				ready, said := r.readiness()
				return ready == tt.ready && strings.Contains(said, tt.reason)
			})
			if got := r.metric("latchkey_edge_ready") == "1"; got != tt.ready {
				t.Errorf("latchkey_edge_ready = %s, /readyz says %t", r.metric("latchkey_edge_ready"), tt.ready)
			}
			tt.mend(r)
			until(t, "all is well again", well)
			r.atRevision()
		})
	}
}

// TestNATSGoneIsToldAndHarmsNothing, with the embedded server and with Debian's: while it is away the edge is ready and fresh, and says that it is away.
func TestNATSGoneIsToldAndHarmsNothing(t *testing.T) {
	servers := map[string]func(t *testing.T, address string) (stop func()){
		"embedded": func(t *testing.T, address string) func() {
			s, err := natsd.Start(natsd.Config{Name: "w1", Cluster: cluster, Listen: address, Logger: slog.New(slog.DiscardHandler)})
			if err != nil {
				t.Fatal(err)
			}
			return s.Close
		},
		"outside": func(t *testing.T, address string) func() {
			host, port, err := net.SplitHostPort(address)
			if err != nil {
				t.Fatal(err)
			}
			cmd := exec.Command("nats-server", "--addr", host, "--port", port)
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			return func() {
				_ = cmd.Process.Kill()
				_ = cmd.Wait() // killed
			}
		},
	}
	for name, start := range servers {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			address, err := replicationtest.Address()
			if err != nil {
				t.Fatal(err)
			}
			r := newRig(t)
			r.writer.PutAccount(entitlement.Sandbox, entitlement.Account{ID: alice})
			r.startWith(func(c *edge.Config) { c.NATS = edge.NATSConfig{Enabled: true, URLs: []string{"nats://" + address}} })
			r.ready()
			connected := func(want bool) {
				t.Helper()
				until(t, fmt.Sprintf("connected %t", want), func() bool {
					s := r.status()
					_, said := r.readiness()
					number := map[bool]string{true: "1", false: "0"}[want]
					return s.NATS != nil && *s.NATS == want && strings.Contains(said, "nats: no server answers") == !want && r.metric("latchkey_edge_nats_connected") == number
				})
				if ready, said := r.readiness(); !ready {
					t.Errorf("/readyz = %s", said)
				}
				r.clock.Add(time.Second)
				r.atAsOf()
			}
			connected(false)
			stop := start(t, address)
			connected(true)
			stop()
			connected(false)
			stop = start(t, address)
			defer stop()
			connected(true)
		})
	}
}

// TestReadersNeverStop: the replica is built anew several times, from snapshots that come torn and altered before they come whole, while readers ask all the time. Each is
// answered with 200 and a signature, from the old records or the new ones, never older than an answer before it (I7, I13).
func TestReadersNeverStop(t *testing.T) {
	r := subscribed(t)
	session := r.writer.Session(entitlement.Sandbox, alice)
	now := r.clock.Now().Unix()
	done := make(chan struct{})
	var readers sync.WaitGroup
	answers := make([]int, 3)
	for i := range answers {
		readers.Go(func() {
			var last replication.Revision
			for {
				select {
				case <-done:
					return
				default:
				}
				status, a, _ := r.check(fmt.Sprintf("?nonce=%d-%d", i, answers[i]), session, nil)
				if status != http.StatusOK || a.GraceToken == "" || len(a.Entitlements) != 1 || !a.Entitlements[0].Active {
					t.Errorf("check = %d %+v", status, a)
					return
				}
				at, err := replication.ParseRevision(a.Revision)
				if err != nil || at.Compare(last) < 0 {
					t.Errorf("revision %s after %s, %v", a.Revision, last, err)
					return
				}
				last = at
				answers[i]++
			}
		})
	}
	spoils := []func([]byte) []byte{
		func(b []byte) []byte { return b[:len(b)/2] },
		func(b []byte) []byte { b = bytes.Clone(b); b[len(b)/2] ^= 1; return b },
		nil,
	}
	for round, spoil := range spoils {
		snapshots := r.writer.Calls(replication.SnapshotPath)
		if spoil != nil {
			r.writer.Spoil(func(path string, body []byte) []byte {
				if path == replication.SnapshotPath {
					return spoil(body)
				}
				return body
			})
		}
		before := r.status()
		r.writer.RaiseEpoch()
		r.writer.PutAccount(entitlement.Sandbox, subscriber(alice, now, now+int64(1000*(round+1))))
		if spoil != nil {
			until(t, "a spoiled snapshot refused", func() bool {
				return r.writer.Calls(replication.SnapshotPath) > snapshots+1 || len(r.status().Reasons) > 1
			})
			if s := r.status(); s.Epoch != before.Epoch || s.Revision != before.Revision || s.StateHash != before.StateHash {
				t.Errorf("a spoiled snapshot is served: %+v after %+v", s, before)
			}
			r.writer.Spoil(nil)
		}
		r.atRevision()
		if left, err := filepath.Glob(filepath.Join(r.dir, "e1", "replica", "*.db")); err != nil || len(left) != 1 {
			t.Errorf("files after round %d: %v, %v", round, left, err)
		}
	}
	close(done)
	readers.Wait()
	for i, n := range answers {
		if n < 10 {
			t.Errorf("reader %d had %d answers", i, n)
		}
	}
	status, a, _ := r.check("?nonce=z", session, nil)
	if want := now + int64(1000*len(spoils)); status != http.StatusOK || a.Entitlements[0].ExpiresAt.Unix() != want {
		t.Errorf("at the end: %d %+v, want the end at %d", status, a, want)
	}
	if got := r.metric("latchkey_edge_replica_snapshots_total"); got != fmt.Sprint(1+len(spoils)) {
		t.Errorf("latchkey_edge_replica_snapshots_total = %s, want %d", got, 1+len(spoils))
	}
}
