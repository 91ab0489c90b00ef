package writer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/latchkey/latchkey/pkg/config"
	"github.com/latchkey/latchkey/pkg/mutual/mutualtest"
	"github.com/latchkey/latchkey/writer/internal/store"
)

// foundersAndNewcomer returns the configurations of n founders and of one more, which names them and not itself.
func foundersAndNewcomer(t *testing.T, n int) (founders []Config, newcomer Config) {
	t.Helper()
	configs := testConfigs(t, n+1)
	for i := range configs {
		configs[i].Cluster.Voters = configs[i].Cluster.Voters[:n]
		configs[i].joinStable = 300 * time.Millisecond
		configs[i].segment = 16 << 10
	}
	return configs[:n], configs[n]
}

// startDoomed is startWriter for one that is to stop by itself: ended gets what Run returned.
func startDoomed(t *testing.T, cfg Config) (w *testWriter, ended <-chan error) {
	t.Helper()
	logs := &logBuffer{}
	cfg.Logger = slog.New(slog.NewJSONHandler(logs, nil))
	cfg.fatal = func(err error) { t.Errorf("%s: fatal: %v", cfg.Node.ID, err) }
	opened, err := Open(cfg)
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	finished := make(chan struct{})
	go func() {
		defer close(finished)
		done <- opened.Run(ctx)
	}()
	stop := sync.OnceFunc(func() {
		cancel()
		<-finished
	})
	t.Cleanup(stop)
	return &testWriter{Writer: opened, t: t, url: "http://" + opened.PublicAddr().String(), logs: logs, stop: stop}, done
}

func awaitRemoved(t *testing.T, id string, ended <-chan error) {
	t.Helper()
	select {
	case err := <-ended:
		if !errors.Is(err, ErrRemoved) {
			t.Errorf("%s ended with %v, want ErrRemoved", id, err)
		}
	case <-time.After(awaitTimeout):
		t.Fatalf("%s was removed and goes on", id)
	}
}

// join asks until the writer votes, and returns the suffrages that it was shown.
func (w *testWriter) join() []string {
	w.t.Helper()
	var seen []string
	await(w.t, w.cfg.Node.ID+" votes", func() bool {
		p, err := w.operator().Join(w.t.Context())
		if err != nil {
			w.t.Fatalf("join: %v", err)
		}
		if len(seen) == 0 || seen[len(seen)-1] != p.Suffrage {
			seen = append(seen, p.Suffrage)
		}
		return p.Suffrage == "voter"
	})
	return seen
}

func (w *testWriter) operator() *Operator { return NewOperator(w.cfg.Node.DataDir) }

// TestAWriterIsReplacedUnderLoad loses a writer for good while webhooks come, takes a new one in and removes the lost one, by the operator's commands:
// nothing acknowledged is lost, nobody is told of another configuration, and the new writer does everything that the others do. The lost
// one, started again, notices and never runs again.
func TestAWriterIsReplacedUnderLoad(t *testing.T) {
	t.Parallel() // it mostly waits
	founders, newcomer := foundersAndNewcomer(t, 3)
	var writers []*testWriter
	for _, cfg := range founders {
		writers = append(writers, startWriter(t, cfg))
	}
	for _, w := range writers {
		w.awaitReady()
	}
	acc := writers[0].account()

	lost := writers[2]
	rest := writers[:2]
	var mu sync.Mutex
	acknowledged := map[string]string{}
	loading, end := context.WithCancel(context.Background())
	var load sync.WaitGroup
	for _, w := range rest {
		load.Go(func() {
			for loading.Err() == nil {
				id := unique("evt_")
				body := event(id, "customer.subscription.created", subscription(unique("sub_"), "", "price_pro"))
				r, _, err := w.stripePatiently(body)
				if err != nil || r.status != http.StatusOK {
					t.Errorf("%s while a writer is replaced = %d %s, %v", id, r.status, r.text, err)
					return
				}
				mu.Lock()
				acknowledged[id] = r.str("revision")
				mu.Unlock()
			}
		})
	}
	count := func() int {
		mu.Lock()
		defer mu.Unlock()
		return len(acknowledged)
	}
	await(t, "load", func() bool { return count() > 30 })
	lost.stop()

	// The newcomer waits, and says for what.
	w4 := startWriter(t, newcomer)
	if r := w4.get("/readyz"); r.status != http.StatusServiceUnavailable || !strings.Contains(r.text, "not a member") {
		t.Errorf("/readyz of a newcomer = %d %s", r.status, r.text)
	}
	seen := w4.join()
	if got := strings.Join(seen, ","); got != ",non-voter,voter" {
		t.Errorf("it was %q on its way, want nothing, non-voter, voter", got)
	}
	if again := w4.join(); len(again) != 1 {
		t.Errorf("join of a voter shows %q", again)
	}
	if err := w4.operator().Remove(t.Context(), lost.cfg.Node.ID); err != nil {
		t.Fatalf("remove the lost one: %v", err)
	}
	if err := rest[0].operator().Remove(t.Context(), lost.cfg.Node.ID); err != nil {
		t.Errorf("remove it again: %v", err)
	}
	at := count()
	await(t, "load after the replacement", func() bool { return count() > at+30 || t.Failed() })
	end()
	load.Wait()
	w4.awaitReady()
	now := []*testWriter{rest[0], rest[1], w4}
	for id, revision := range acknowledged {
		if r := w4.api("GET", "/v1/events/"+id, ""); r.status != http.StatusOK || r.str("revision") != revision {
			t.Fatalf("acknowledged %s at %s, now %d %s", id, revision, r.status, r.text)
		}
	}
	sameState(t, now)
	if s := w4.store.Stats(); s.JournalSegment < 2 || s.MissingSegments != 0 {
		t.Errorf("journal of the newcomer: segment %d, %d missing", s.JournalSegment, s.MissingSegments)
	}

	// What the others learnt of it without a word in their configuration: commands pass to it as the leader, and segments come from it.
	giveLead(t, now, w4)
	if r := rest[0].api("PATCH", "/v1/accounts/"+acc, `{"attributes": {"a": "b"}}`); r.status != http.StatusOK {
		t.Errorf("a write that is passed to the newcomer = %d %s", r.status, r.text)
	}
	for _, w := range now {
		await(t, "status of "+w.cfg.Node.ID, func() bool {
			giveLead(t, now, w4) // should it have lost it
			s, err := w.operator().Status(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			var text []string
			for _, m := range s.Members {
				if m.State == nil || m.State.ClockOffsetSeconds == nil || m.State.DiskFreeBytes == 0 || m.State.DiskUsedBytes == 0 || m.State.Term == 0 ||
					m.State.CommitIndex == 0 || m.State.LastIndex == 0 || m.Raft == "" || m.Internal == "" || m.State.Version == "" {
					return false // not heard yet
				}
				text = append(text, fmt.Sprint(m.ID, " ", m.Suffrage, " ", m.Leader))
			}
			return strings.Join(text, ", ") == "w1 voter false, w2 voter false, w4 voter true"
		})
	}

	// The lost one comes back: it asks, notes that it is removed, and stops; and does not start again.
	lostConfig := founders[2]
	lostConfig.listeners = listeners{}
	back, ended := startDoomed(t, lostConfig)
	awaitRemoved(t, "w3", ended)
	if _, err := os.Stat(filepath.Join(back.cfg.Node.DataDir, removedFile)); err != nil {
		t.Errorf("nothing says so in its folder: %v", err)
	}
	lostConfig.Logger = slog.New(slog.NewTextHandler(io.Discard, nil))
	if w, err := Open(lostConfig); !errors.Is(err, ErrRemoved) {
		t.Errorf("started again: %v, %v, want ErrRemoved", w, err)
	}
}

// TestALiveWriterIsRemoved removes a leader at another node's socket: it hands the lead over, stops for good and says why; what would break the
// majority is refused in words.
func TestALiveWriterIsRemoved(t *testing.T) {
	founders, newcomer := foundersAndNewcomer(t, 2)
	writers := make([]*testWriter, 2)
	ends := map[*testWriter]<-chan error{}
	for i, cfg := range founders {
		w, ended := startDoomed(t, cfg)
		writers[i], ends[w] = w, ended
	}
	for _, w := range writers {
		w.awaitReady()
	}
	acc := writers[0].account()
	leader, followers := roles(t, writers)
	rest := followers[0]
	refused := func(id, says string) {
		t.Helper()
		if err := rest.operator().Remove(t.Context(), id); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("remove %s: %v, want a refusal with %q", id, err, says)
		}
	}
	refused("w9", `There is no member "w9"`)
	if err := rest.operator().Remove(t.Context(), leader.cfg.Node.ID); err != nil {
		t.Fatalf("remove the leader: %v", err)
	}
	awaitRemoved(t, leader.cfg.Node.ID, ends[leader])
	if !strings.Contains(leader.logs.String(), "removed from the cluster: stops for good") {
		t.Error("its log does not say why it stopped")
	}
	refused(rest.cfg.Node.ID, "is the only voter")
	if r := rest.api("GET", "/v1/accounts/"+acc, ""); r.status != http.StatusOK {
		t.Errorf("the one that is left = %d %s", r.status, r.text)
	}

	// Two of two are needed: the one that would be left answers, the newcomer that does not counts too.
	w3 := startWriter(t, newcomer)
	w3.join()
	if err := w3.operator().Transfer(t.Context(), w3.cfg.Node.ID); !w3.store.IsLeader() && (err == nil || !strings.Contains(err.Error(), "Not the leader")) {
		t.Errorf("transfer to itself at a follower: %v", err)
	}
	w3.awaitReady()
	sameState(t, []*testWriter{rest, w3})
	if err := w3.operator().Transfer(t.Context(), "w9"); err == nil {
		t.Error("transferred to a stranger")
	}
}

// TestANewcomerJoinsUnderTLS: addresses that were learnt from the state are connected to as their node and as no other, like configured ones.
func TestANewcomerJoinsUnderTLS(t *testing.T) {
	founders, newcomer := foundersAndNewcomer(t, 1)
	all := secured(mutualtest.New(t), append(founders, newcomer))
	w1, w2 := startWriter(t, all[0]), startWriter(t, all[1])
	w1.awaitReady()
	w2.join()
	w2.awaitReady()
	acc := w2.account()
	giveLead(t, []*testWriter{w1, w2}, w2)
	if r := w1.api("PATCH", "/v1/accounts/"+acc, `{"attributes": {"a": "b"}}`); r.status != http.StatusOK {
		t.Errorf("a write that is passed to the newcomer = %d %s", r.status, r.text)
	}
	if m, _, err := w1.store.Member("w2"); err != nil || !strings.HasPrefix(m.Internal, "https://127.0.0.1:") {
		t.Errorf("the founder knows %+v, %v of the newcomer", m, err)
	}
	sameState(t, []*testWriter{w1, w2})
}

// TestANewcomerIsTakenInByItsOwnClusterOnly shows what join says where it cannot be done.
func TestANewcomerIsTakenInByItsOwnClusterOnly(t *testing.T) {
	founders, newcomer := foundersAndNewcomer(t, 1)
	w1 := startWriter(t, founders[0])
	w1.awaitReady()
	stranger := newcomer
	stranger.Node.DataDir += "-stranger"
	stranger.listeners = listeners{public: loopback(t), internal: loopback(t), raft: loopback(t)}
	stranger.Cluster.Voters = []VoterConfig{{ID: "w1", Raft: "127.0.0.1:1", Internal: "http://127.0.0.1:1"}}
	w := startWriter(t, stranger)
	if _, err := w.operator().Join(t.Context()); err == nil || !strings.Contains(err.Error(), "None of the writers in cluster.voters") {
		t.Errorf("join with nobody there: %v", err)
	}
	w.stop()
	// At the address of another member.
	taken := newcomer
	taken.Node.DataDir += "-taken"
	taken.Node.RaftAdvertise = founders[0].Node.RaftListen
	taken.listeners = listeners{public: loopback(t), internal: loopback(t), raft: loopback(t)}
	w = startWriter(t, taken)
	if _, err := w.operator().Join(t.Context()); err == nil || !strings.Contains(err.Error(), "is the Raft address of w1 already") {
		t.Errorf("join at an address that is taken: %v", err)
	}
	// From outside nobody changes the membership.
	for _, h := range []header{nil, {clusterHeader: "another"}} {
		if r := w1.internal("POST", membersPath, `{"remove": "w1"}`, h); r.status != http.StatusForbidden {
			t.Errorf("members with %v = %d %s", h, r.status, r.text)
		}
	}
	for _, body := range []string{``, `{}`, `{"remove": "w1", "add": {"id": "w2"}}`, `{"add": {"id": "W 2"}}`, `{"drop": "w1"}`} {
		if r := w1.internal("POST", membersPath, body, header{clusterHeader: testCluster}); r.status != http.StatusBadRequest {
			t.Errorf("members with %s = %d %s", body, r.status, r.text)
		}
	}
}

// TestStandingIsWhatTheNodeItselfSays: the leader believes nobody else about a node.
func TestStandingIsWhatTheNodeItselfSays(t *testing.T) {
	writers := startCluster(t, 2)
	got, err := writers[0].askStanding(t.Context(), "w2")
	if want := writers[1].store.Standing(); err != nil || got.Rules != store.RulesVersion || got.MissingSegments != 0 || got.AppliedIndex == 0 || got.AppliedIndex > want.AppliedIndex {
		t.Errorf("w2 says %+v, %v; it is at %+v", got, err, want)
	}
	misled := &Writer{cfg: writers[0].cfg, client: writers[0].client, peers: map[string]string{"w9": writers[0].peers["w2"]}}
	if _, err := misled.askStanding(t.Context(), "w9"); err == nil || !strings.Contains(err.Error(), `at the address of w9 is "w2"`) {
		t.Errorf("another node's answer was taken: %v", err)
	}
	if _, err := writers[0].askStanding(t.Context(), "w9"); err == nil {
		t.Error("a node without an address answered")
	}
}

// TestHowANewcomerIsReached: a writer that is not in its own list of voters must be reachable where it says.
func TestHowANewcomerIsReached(t *testing.T) {
	_, newcomer := foundersAndNewcomer(t, 1)
	tests := []struct {
		name   string
		change func(*Config)
		wrong  string
	}{
		{"where it listens", func(*Config) {}, ""},
		{"where it is advertised", func(c *Config) {
			c.Node.RaftAdvertise, c.Node.InternalAdvertise = "127.0.0.4:8441", "http://127.0.0.4:8421"
		}, ""},
		{"elsewhere without TLS", func(c *Config) { c.Node.RaftAdvertise = "10.0.0.4:8441" }, "node.raft_advertise"},
		{"nowhere for Raft", func(c *Config) { c.Node.RaftAdvertise = "0.0.0.0:8441" }, "node.raft_advertise"},
		{"nowhere for the others", func(c *Config) { c.Node.InternalAdvertise = "http://[::]:8421" }, "node.internal_advertise"},
		{"no address", func(c *Config) { c.Node.InternalAdvertise = "w4" }, "node.internal_advertise"},
		{"nobody to join", func(c *Config) { c.Cluster.Voters = nil }, "cluster.voters"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			cfg := newcomer
			tt.change(&cfg)
			err := cfg.Validate()
			var mistakes config.Mistakes
			if tt.wrong == "" && err != nil || tt.wrong != "" && (!errors.As(err, &mistakes) || !strings.Contains(err.Error(), tt.wrong)) {
				t.Errorf("Validate = %v, want a mistake in %q", err, tt.wrong)
			}
		})
	}
}
