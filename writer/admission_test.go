package writer

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/latchkey/latchkey/pkg/entitlement"
	"github.com/latchkey/latchkey/pkg/problem"
)

// TestEnvironmentsAreAdmittedApart fills sandbox's places: sandbox waits and is told to come again, production goes through.
func TestEnvironmentsAreAdmittedApart(t *testing.T) {
	w := &Writer{admitted: newAdmission()}
	var leave []func()
	for range maxSandbox {
		f, err := w.admit(t.Context(), entitlement.Sandbox)
		if err != nil {
			t.Fatal(err)
		}
		leave = append(leave, f)
	}
	ctx, cancel := context.WithTimeoutCause(t.Context(), 10*time.Millisecond, errProposeTimeout)
	defer cancel()
	if _, err := w.admit(ctx, entitlement.Sandbox); !errors.Is(err, problem.New(problem.Unavailable, "")) {
		t.Errorf("one more of sandbox = %v, want unavailable", err)
	}
	if _, err := w.admit(t.Context(), entitlement.Production); err != nil {
		t.Errorf("production beside a full sandbox = %v", err)
	}
	leave[0]()
	if _, err := w.admit(t.Context(), entitlement.Sandbox); err != nil {
		t.Errorf("sandbox after one left = %v", err)
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
