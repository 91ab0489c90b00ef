package store

import (
	"fmt"
	"testing"

	"github.com/latchkey/latchkey/pkg/entitlement"
)

// waiting shows what waits for an account: purchase, since when and until when, relative to startTime.
func (m *machine) waiting(ended int64) string {
	m.t.Helper()
	shown := []string{}
	m.read(func(r *Reader) error {
		list, err := r.UnclaimedSince(sandbox, ended, 10)
		for _, u := range list {
			until := "ever"
			if u.AccessUntil != 0 {
				until = fmt.Sprint((u.AccessUntil - startTime) / day)
			}
			shown = append(shown, fmt.Sprintf("%s since %d for %s", u.ID, (u.Since-startTime)/day, until))
		}
		return err
	})
	return fmt.Sprint(shown)
}

// Only money that was taken and not given back waits for an account (requirement A10.7): what nobody paid for is neither listed nor an alarm.
func TestOnlyWhatWasPaidForWaitsForItsAccount(t *testing.T) {
	paid := func(at int64) []entitlement.Object {
		return []entitlement.Object{subscription("sub_1", startTime+at, entitlement.Active, ""), invoice("in_1", "sub_1", "pi_1", startTime+at, entitlement.InvoicePaid)}
	}
	ended := subscription("sub_1", startTime+3*day, entitlement.Canceled, "")
	ended.Subscription.EndedAt = startTime + 3*day
	steps := []struct {
		name    string
		objects []entitlement.Object
		want    string
	}{
		{"the first payment did not come yet", []entitlement.Object{subscription("sub_1", startTime, entitlement.Incomplete, "")}, "[]"},
		{"it came", paid(10), "[stripe:sub_1 since 1 for 31]"},
		{"it was given back", []entitlement.Object{refund("re_1", "pi_1", startTime+2*day, 999)}, "[]"},
		{"giving it back failed", []entitlement.Object{{Kind: entitlement.KindRefund, ID: "re_1", At: (startTime + 3*day) * 1e9, Final: true, Links: []entitlement.Link{"stripe:pi_1"},
			Refund: &entitlement.Refund{Status: entitlement.RefundFailed, PaymentIntent: "pi_1", Amount: 999}}}, "[stripe:sub_1 since 3 for 31]"},
		{"it is over", []entitlement.Object{ended}, "[stripe:sub_1 since 3 for 3]"},
		{"another one was never paid for", []entitlement.Object{subscription("sub_2", startTime, entitlement.IncompleteExpired, "")}, "[stripe:sub_1 since 3 for 3]"},
	}
	m := newMachine(t, 1<<20)
	for i, s := range steps {
		m.apply(record(event(fmt.Sprintf("evt_%d", i), s.objects...)))
		if got := m.waiting(0); got != s.want {
			t.Errorf("%s: %s, want %s", s.name, got, s.want)
		}
		m.check()
		m.now += day
	}
	if got := m.waiting(startTime + 3*day + 1); got != "[]" {
		t.Errorf("of those that ended later: %s, want none", got)
	}
	m.apply(create("acc_1"))
	m.apply(claim("c", "acc_1", "stripe:sub_1"))
	if got := m.waiting(0); got != "[]" {
		t.Errorf("after the claim: %s", got)
	}
}

// Under older rules everything waits that has no account, as those writers have it (I17); with the rules that is judged anew.
func TestWhatWaitedBeforeTheUpgradeIsJudged(t *testing.T) {
	m := newMachineUnder(t, 1<<20, rulesAccounts-1)
	m.apply(record(event("evt_1", subscription("sub_1", startTime, entitlement.Incomplete, ""), subscription("sub_2", startTime, entitlement.Active, ""))))
	if got, want := m.waiting(0), "[stripe:sub_1 since 0 for ever stripe:sub_2 since 0 for ever]"; got != want {
		t.Errorf("under older rules: %s, want %s", got, want)
	}
	m.now += day
	m.apply(NewCommand(TypeRaiseRules, "", "", &RaiseRules{Rules: rulesAccounts}))
	if got, want := m.waiting(0), "[stripe:sub_2 since 0 for 31]"; got != want {
		t.Errorf("afterwards: %s, want %s", got, want)
	}
	m.check()
}
