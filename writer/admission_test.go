package writer

import (
	"context"
	"maps"
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

// TestSandboxIsPacedBesideProduction: a tester's few commands go at once; of a flood some go together at each window, and who would have to
// wait longer than it can is told at once.
func TestSandboxIsPacedBesideProduction(t *testing.T) {
	var p pace
	now := time.Date(2026, time.November, 22, 6, 0, 0, int(50*time.Millisecond), time.UTC)
	ctx, cancel := context.WithDeadline(t.Context(), time.Now().Add(time.Hour))
	defer cancel()
	waits := map[time.Duration]int{}
	for range paceAtOnce + 2*paceTogether {
		wait, ok := p.reserve(ctx, now)
		if !ok {
			t.Fatal("no place within an hour")
		}
		waits[wait]++
	}
	next := paceWindow - 50*time.Millisecond
	want := map[time.Duration]int{0: paceAtOnce, next: paceTogether, next + paceWindow: paceTogether}
	if !maps.Equal(waits, want) {
		t.Errorf("waits are %v, want %v", waits, want)
	}
	short, cancelShort := context.WithDeadline(t.Context(), now.Add(paceWindow))
	defer cancelShort()
	if wait, ok := p.reserve(short, now); ok {
		t.Errorf("a place after %s for a command that can wait %s", wait, paceWindow)
	}
	if wait, ok := p.reserve(ctx, now.Add(time.Second)); !ok || wait != 0 {
		t.Errorf("after the flood a command waits %s (%t), want none", wait, ok)
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
