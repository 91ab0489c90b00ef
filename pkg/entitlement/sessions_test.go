package entitlement

import (
	"fmt"
	"testing"
)

// A logout ends what the device had, and nothing of another device; what is noted of it stays small, and nothing that was ended ever counts again.
func TestSignOut(t *testing.T) {
	const now = 1_790_000_000
	a := Account{ID: "acc_1"}
	a.SignOut("phone", now-10, now)
	a.SignOut("", now-20, now)
	for _, tt := range []struct {
		name     string
		device   string
		issuedAt int64
		ended    bool
	}{
		{"the session", "phone", now - 10, true},
		{"an earlier one of the device", "phone", now - 100, true},
		{"one of the same second", "phone", now, true},
		{"a later one", "phone", now + 1, false},
		{"another device's", "tablet", now - 10, false},
		{"the one without a device", "", now - 20, true},
		{"another without a device", "", now - 21, false},
	} {
		if got := a.SessionEnded(tt.device, tt.issuedAt); got != tt.ended {
			t.Errorf("%s: SessionEnded(%q, %d) = %t, want %t", tt.name, tt.device, tt.issuedAt, got, tt.ended)
		}
	}
	if other := (&Account{ID: "acc_2", SignedOut: a.SignedOut}); other.SessionEnded("phone", now-10) {
		t.Error("the same device of another account is signed out")
	}
	for device, want := range map[string]int64{"phone": now + 1, "tablet": now, "": now} {
		if got := a.NextSession(device, now); got != want {
			t.Errorf("NextSession(%q) = %d, want %d", device, got, want)
		}
	}
	a.SignOut("phone", now+5, now+5)
	if len(a.SignedOut) != 2 {
		t.Errorf("a device that is signed out again is noted %d times", len(a.SignedOut)-1)
	}
	type issued struct {
		device string
		at     int64
	}
	var all []issued
	for i := range int64(3 * maxSignedOut) {
		s := issued{fmt.Sprintf("device-%d", i), now + 10 + i}
		all = append(all, s)
		a.SignOut(s.device, s.at, s.at)
		for _, s := range append(all, issued{"phone", now - 10}, issued{"", now - 20}) {
			if !a.SessionEnded(s.device, s.at) {
				t.Fatalf("after %d logouts the session of %q counts again", i+1, s.device)
			}
		}
		if len(a.SignedOut) > maxSignedOut {
			t.Fatalf("%d devices are noted", len(a.SignedOut))
		}
	}
	if a.SessionEnded("tablet", now+10+3*maxSignedOut) {
		t.Error("a new session of another device does not count")
	}
	a.SignOut("late", now+2*MaxSessionSeconds, now+2*MaxSessionSeconds)
	if len(a.SignedOut) != 1 {
		t.Errorf("%d devices are noted when every session of theirs has expired, want the last one", len(a.SignedOut))
	}
}
