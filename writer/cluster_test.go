package writer

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// startCluster starts n writers of one cluster and waits until all of them answer.
func startCluster(t testing.TB, n int) []*testWriter {
	t.Helper()
	var writers []*testWriter
	for _, cfg := range testConfigs(t, n) {
		writers = append(writers, startWriter(t, cfg))
	}
	for _, w := range writers {
		w.awaitReady()
	}
	return writers
}

// roles returns the leader and the others.
func roles(t testing.TB, writers []*testWriter) (leader *testWriter, followers []*testWriter) {
	t.Helper()
	await(t, "a leader", func() bool {
		leader, followers = nil, nil
		for _, w := range writers {
			if w.store.IsLeader() {
				leader = w
			} else {
				followers = append(followers, w)
			}
		}
		return leader != nil
	})
	return leader, followers
}

// giveLead gives the lead to one of the writers by the operator's command, again where another was elected meanwhile.
func giveLead(t testing.TB, writers []*testWriter, to *testWriter) {
	t.Helper()
	await(t, to.cfg.Node.ID+" leads", func() bool {
		leader, _ := roles(t, writers)
		return leader == to || leader.operator().Transfer(t.Context(), to.cfg.Node.ID) == nil && to.store.IsLeader()
	})
}

// leadStaysElsewhere returns another leader than former once it has led for two heads without a break: on a busy machine anybody may be elected, also who gives the
// lead away at once.
func leadStaysElsewhere(t testing.TB, writers []*testWriter, former *testWriter) (next *testWriter) {
	t.Helper()
	await(t, "the lead stays with another than "+former.cfg.Node.ID, func() bool {
		next, _ = roles(t, writers)
		began, head := next.store.Stats(), next.newestHead()
		if next == former || !began.Leads || head == nil {
			return false
		}
		leads := func() bool { s := next.store.Stats(); return s.Leads && s.Term == began.Term }
		await(t, "two more heads", func() bool { return next.newestHead().AsOf >= head.AsOf+2 || !leads() })
		return leads() && !former.store.IsLeader()
	})
	return next
}

// TestEveryNodeTakesEverything sends writes to one node and reads them at the next one at once, round and round: every read sees
// every write that returned before it, on any node.
func TestEveryNodeTakesEverything(t *testing.T) {
	writers := startCluster(t, 3)
	acc := writers[1].account()
	for i := range 30 {
		w, next := writers[i%3], writers[(i+1)%3]
		r := w.api("PATCH", "/v1/accounts/"+acc, fmt.Sprintf(`{"attributes": {"n": "%d"}}`, i))
		if r.status != http.StatusOK {
			t.Fatalf("write %d at %s = %d %s", i, w.cfg.Node.ID, r.status, r.text)
		}
		got := next.api("GET", "/v1/accounts/"+acc, "")
		if n := got.json["attributes"].(object)["n"]; n != fmt.Sprint(i) {
			t.Fatalf("write %d returned at %s with %s, and %s then has %v at %s", i, w.cfg.Node.ID, r.str("revision"), next.cfg.Node.ID, n, got.str("revision"))
		}
	}
	// The same event nine times at once, over all nodes.
	body := event(unique("evt_"), "customer.subscription.created", subscription(unique("sub_"), acc, "price_pro"))
	replies := make([]reply, 9)
	var group sync.WaitGroup
	for i := range replies {
		group.Go(func() { replies[i] = writers[i%3].stripe(body) })
	}
	group.Wait()
	fresh := 0
	for i, r := range replies {
		if r.status != http.StatusOK || r.str("revision") != replies[0].str("revision") {
			t.Errorf("answer %d = %d %s", i, r.status, r.text)
		}
		if r.json["duplicate"] == false {
			fresh++
		}
	}
	if fresh != 1 {
		t.Errorf("%d answers without duplicate, want 1", fresh)
	}
	// The same answer for a repeat at another node, session token included.
	key := header{"Idempotency-Key": "k1"}
	first := writers[0].api("POST", "/v1/accounts/"+acc+"/sessions", `{"device_id": "d"}`, key)
	again := writers[2].api("POST", "/v1/accounts/"+acc+"/sessions", `{"device_id": "d"}`, key)
	if first.status != http.StatusCreated || first.text != again.text {
		t.Errorf("a repeat at another node = %d %s, want %s", again.status, again.text, first.text)
	}
	for _, w := range writers {
		if pro := w.pro(acc); pro["active"] != true {
			t.Errorf("%s: pro = %v", w.cfg.Node.ID, pro)
		}
		if h, err := send("GET", "http://"+w.InternalAddr().String()+"/internal/v1/head", "", nil); err != nil || h.status != http.StatusOK {
			t.Errorf("%s: head = %d %s, %v", w.cfg.Node.ID, h.status, h.text, err)
		}
	}
	sameState(t, writers)
}

// sameState waits until all writers are at one revision and compares what they hold (I3).
func sameState(t *testing.T, writers []*testWriter) {
	t.Helper()
	await(t, "all writers at one index with one state", func() bool {
		first := writers[0].store.Stats()
		for _, w := range writers[1:] {
			s := w.store.Stats()
			if s.AppliedIndex == first.AppliedIndex && (s.Position != first.Position || s.FullHash != first.FullHash) {
				t.Fatalf("at index %d %s has %+v and %s %+v", s.AppliedIndex, writers[0].cfg.Node.ID, first.Position, w.cfg.Node.ID, s.Position)
			}
			if s.AppliedIndex != first.AppliedIndex {
				return false
			}
		}
		return true
	})
}

// TestLeaderStops stops the leader under load: no request fails, every 200 is there afterwards, and an idempotent request has
// its first answer at the next leader.
func TestLeaderStops(t *testing.T) {
	writers := startCluster(t, 3)
	leader, followers := roles(t, writers)
	acc := followers[0].account()
	key := header{"Idempotency-Key": "before"}
	grant := followers[0].api("POST", "/v1/accounts/"+acc+"/grants", `{"entitlement": "extra", "duration_days": 3}`, key)

	var mu sync.Mutex
	acknowledged, limit := map[string]string{}, 600 // all are read again in the end
	var late atomic.Int64
	term := leader.store.Stats().Term
	stop := make(chan struct{})
	var load sync.WaitGroup
	for i, w := range followers {
		for range 2 {
			load.Go(func() {
				for n := 0; ; n++ {
					select {
					case <-stop:
						return
					default:
					}
					id := unique(fmt.Sprintf("evt_%d_", i))
					body := event(id, "customer.subscription.created", subscription(unique("sub_"), acc, "price_pro"))
					r, again, err := w.stripePatiently(body)
					late.Add(int64(again))
					if err != nil || r.status != http.StatusOK || r.json["duplicate"] != false {
						t.Errorf("%s while the leader stopped = %d %s, %v", id, r.status, r.text, err)
						return
					}
					mu.Lock()
					acknowledged[id] = r.str("revision")
					enough := len(acknowledged) > limit
					mu.Unlock()
					for enough {
						select {
						case <-stop:
							return
						case <-time.After(5 * time.Millisecond):
						}
						mu.Lock()
						enough = len(acknowledged) > limit
						mu.Unlock()
					}
				}
			})
		}
	}
	count := func() int {
		mu.Lock()
		defer mu.Unlock()
		return len(acknowledged)
	}
	await(t, "load", func() bool { return count() > 30 })
	leader.stop()
	at := count()
	mu.Lock()
	limit = at + 300
	mu.Unlock()
	await(t, "load after the leader stopped", func() bool { return count() > at+30 || t.Failed() })
	close(stop)
	load.Wait()
	if now := followers[0].store.Stats().Term; late.Load() > 0 && now <= term+1 { // else the machine is so busy that leaders were elected for nothing
		t.Errorf("%d requests failed while the lead went from term %d to %d", late.Load(), term, now)
	}
	for id, revision := range acknowledged {
		for _, w := range followers {
			if r := w.api("GET", "/v1/events/"+id, ""); r.status != http.StatusOK || r.str("revision") != revision {
				t.Fatalf("%s: acknowledged %s at %s, now %d %s", w.cfg.Node.ID, id, revision, r.status, r.text)
			}
		}
	}
	again := followers[1].api("POST", "/v1/accounts/"+acc+"/grants", `{"entitlement": "extra", "duration_days": 3}`, key)
	if again.text != grant.text || again.status != grant.status {
		t.Errorf("the repeat at the next leader = %d %s, want %d %s", again.status, again.text, grant.status, grant.text)
	}
	sameState(t, followers)
}

// TestNoMajority shows what a lone node of three says: 503 with Retry-After for what needs a majority, and not ready, but alive.
func TestNoMajority(t *testing.T) {
	t.Parallel() // it mostly waits
	writers := startCluster(t, 3)
	acc := writers[0].account()
	lone := writers[0]
	writers[1].stop()
	writers[2].stop()
	await(t, "not ready", func() bool { return lone.get("/readyz").status == http.StatusServiceUnavailable })
	if r := lone.get("/healthz"); r.status != http.StatusOK {
		t.Errorf("/healthz = %d", r.status)
	}
	var group sync.WaitGroup
	for what, ask := range map[string]func() reply{
		"webhook": func() reply { return lone.stripe(event(unique("evt_"), "ping", object{"id": "x"})) },
		"write":   func() reply { return lone.api("PATCH", "/v1/accounts/"+acc, `{}`) },
		"read":    func() reply { return lone.api("GET", "/v1/accounts/"+acc, "") },
	} {
		group.Go(func() {
			began := time.Now()
			r := ask()
			if r.status != http.StatusServiceUnavailable || r.slug() != "unavailable" || r.header.Get("Retry-After") == "" {
				t.Errorf("%s without a majority = %d %s, Retry-After %q", what, r.status, r.text, r.header.Get("Retry-After"))
			}
			if took := time.Since(began); took > proposeTimeout+awaitTimeout/2 { // and not for ever; how much more, a busy machine decides
				t.Errorf("%s without a majority took %s", what, took)
			}
		})
	}
	group.Wait()
	if h, err := send("GET", "http://"+lone.InternalAddr().String()+"/internal/v1/head?local=1", "", nil); err != nil || h.status != http.StatusServiceUnavailable {
		t.Errorf("a leader's head of one that does not lead = %d %s, %v", h.status, h.text, err)
	}
}

// TestTransfer hands leadership over by the operator's command.
func TestTransfer(t *testing.T) {
	writers := startCluster(t, 3)
	var leader *testWriter
	await(t, "the command is done", func() bool { // at the one that leads, which may be another by now
		leader, _ = roles(t, writers)
		return leader.operator().Transfer(t.Context(), "") == nil
	})
	await(t, "another leader", func() bool {
		now, _ := roles(t, writers)
		return now != leader
	})
	if acc := leader.account(); !strings.HasPrefix(acc, "acc_") {
		t.Errorf("a write at the former leader made %q", acc)
	}
}
