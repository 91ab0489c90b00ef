package edge_test

import (
	"testing"
	"time"

	"github.com/latchkey/latchkey/pkg/entitlement"
)

// TestAPendingAnswerIsHeld: for as long as the app asked for, until the purchase is confirmed, or is given up; a settled answer is not held, and who named no time
// gets the answer as it stands.
func TestAPendingAnswerIsHeld(t *testing.T) {
	t.Parallel()
	r := subscribed(t)
	session := r.writer.Session(entitlement.Sandbox, alice)
	now := r.clock.Now().Unix()
	awaiting := func(until int64) {
		a := entitlement.Account{ID: alice, CreatedAt: now, Awaited: []entitlement.Awaited{{ID: "intent_1", Provider: entitlement.Stripe, Until: until}}}
		r.writer.PutAccount(entitlement.Sandbox, a)
		r.atRevision()
	}
	ask := func(query string) (answer, time.Duration) {
		t.Helper()
		began := time.Now()
		status, a, _ := r.check(query, session, nil)
		if status != 200 {
			t.Errorf("check%s = %d %+v", query, status, a)
		}
		return a, time.Since(began)
	}
	if a, took := ask("?wait=20"); a.State != "settled" || took > 10*time.Second {
		t.Errorf("settled: %s after %s, want it at once", a.State, took)
	}
	awaiting(now + 60)
	if a, took := ask(""); a.State != "pending" || took > 10*time.Second {
		t.Errorf("without a time: %s after %s, want it at once", a.State, took)
	}
	if a, took := ask("?wait=1"); a.State != "pending" || took < time.Second || len(a.Entitlements) != 0 {
		t.Errorf("for a second: %s after %s, want the answer as it stands", a.State, took)
	}
	type result struct {
		a    answer
		took time.Duration
	}
	got := make(chan result, 2)
	held := func() {
		for range 2 {
			go func() {
				a, took := ask("?wait=20")
				got <- result{a, took}
			}()
		}
		until(t, "both held, for one account", func() bool { return r.edge.Held() == 2 && r.edge.Watching() == 1 })
	}
	held()
	r.writer.PutAccount(entitlement.Sandbox, entitlement.Account{ID: "acc_01OTHER"}) // wakes nobody
	r.writer.PutAccount(entitlement.Sandbox, subscriber(alice, now, now+86400))
	for range 2 {
		if res := <-got; res.a.State != "settled" || len(res.a.Entitlements) != 1 || res.took > 15*time.Second {
			t.Errorf("confirmed: %+v after %s", res.a, res.took)
		}
	}
	awaiting(now + 60)
	held()
	r.clock.Add(time.Minute)
	for range 2 {
		if res := <-got; res.a.State != "settled" || len(res.a.Entitlements) != 0 || len(res.a.Unconfirmed) != 1 || res.a.Unconfirmed[0].Reference != "intent_1" || res.took > 15*time.Second {
			t.Errorf("given up: %+v after %s, want it said that intent_1 was not confirmed", res.a, res.took)
		}
	}
	if r.edge.Watching() != 0 {
		t.Errorf("%d accounts are still watched", r.edge.Watching())
	}
	awaiting(now + 200)
	held()
	r.stop()
	for range 2 {
		if res := <-got; res.a.State != "pending" {
			t.Errorf("when the edge stops: %+v, want the answer as it stands", res.a)
		}
	}
}
