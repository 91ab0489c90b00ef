package writer

import (
	"context"
	"testing"
	"time"

	"github.com/latchkey/latchkey/pkg/entitlement"
)

// TestEnvironmentsAreAdmittedApart shows that a flood in sandbox has room alone, little room beside production, and never takes
// production's.
func TestEnvironmentsAreAdmittedApart(t *testing.T) {
	a := newAdmission()
	enter := func(env entitlement.Environment, n int) (leave []func()) {
		t.Helper()
		for range n {
			f, err := a.enter(t.Context(), env)
			if err != nil {
				t.Fatal(err)
			}
			leave = append(leave, f)
		}
		return leave
	}
	full := func(env entitlement.Environment) bool {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		leave, err := a.enter(ctx, env)
		if err == nil {
			leave()
		}
		return err != nil
	}
	flood := enter(entitlement.Sandbox, maxUnderWay)
	if !full(entitlement.Sandbox) {
		t.Errorf("sandbox has more than %d under way", maxUnderWay)
	}
	production := enter(entitlement.Production, 2)
	for _, leave := range flood[maxBesideProduction:] {
		leave()
	}
	if !full(entitlement.Sandbox) {
		t.Errorf("sandbox has more than %d under way beside production", maxBesideProduction)
	}
	came := make(chan struct{})
	go func() {
		if leave, err := a.enter(context.Background(), entitlement.Sandbox); err == nil {
			leave()
		}
		close(came)
	}()
	flood[0]()
	<-came // who waited comes when one leaves
	for _, leave := range production {
		leave()
	}
	a.lastProduction = a.lastProduction.Add(-productionInUse)
	enter(entitlement.Sandbox, maxBesideProduction+1)
	if n := len(a.waiting[entitlement.Sandbox]) + len(a.waiting[entitlement.Production]); n != 0 {
		t.Errorf("%d wait though all had their turn or gave up", n)
	}
}

// TestRefusalsAreLoggedNowAndThen shows that a flood of refused webhooks is counted in one line a second.
func TestRefusalsAreLoggedNowAndThen(t *testing.T) {
	var l refusalLog
	now := time.Date(2026, time.November, 22, 6, 0, 0, 0, time.UTC)
	for i, want := range []int{1, 0, 0} {
		if got := l.due(now); got != want {
			t.Errorf("refusal %d: due = %d, want %d", i, got, want)
		}
	}
	if got := l.due(now.Add(refusalPause)); got != 3 {
		t.Errorf("after a second: due = %d, want 3", got)
	}
}
