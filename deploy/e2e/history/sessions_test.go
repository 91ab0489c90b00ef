package history

import (
	"slices"
	"testing"
	"time"

	"github.com/latchkey/latchkey/replication"
)

var noon = time.Date(2026, time.March, 1, 12, 0, 0, 0, time.UTC)

func at(seconds float64) time.Time { return noon.Add(time.Duration(seconds * float64(time.Second))) }

func rev(n uint64) replication.Revision { return replication.Revision{Epoch: 1, N: n} }

// answer is an honest answer of edge e1 at revision n; change makes it another one.
func answer(asked float64, n uint64, change ...func(*Check)) Check {
	c := Check{Session: "s", Edge: "e1", Account: "a", Revision: rev(n), AsOf: at(asked - 1).Truncate(time.Second), Asked: at(asked), Answered: at(asked + 0.1)}
	for _, f := range change {
		f(&c)
	}
	return c
}

func by(edge string) func(*Check)         { return func(c *Check) { c.Edge = edge } }
func of(session string) func(*Check)      { return func(c *Check) { c.Session = session } }
func atLeast(n uint64) func(*Check)       { return func(c *Check) { c.Min = rev(n) } }
func asOf(seconds float64) func(*Check)   { return func(c *Check) { c.AsOf = at(seconds) } }
func until(seconds float64) func(*Check)  { return func(c *Check) { c.Answered = at(seconds) } }
func restarted(c *Check)                  { c.Life++ }
func active(names ...string) func(*Check) { return func(c *Check) { c.Active = names } }
func inEpoch(e uint64) func(*Check)       { return func(c *Check) { c.Revision.Epoch = e } }
func granted1(name string, n uint64) Write {
	return Write{Account: "a", Name: name, Revision: rev(n), Acked: at(0)}
}
func removed(name string, n uint64) Write {
	return Write{Account: "a", Name: name, Revision: rev(n), Acked: at(0), Removed: true}
}
func acked(n uint64, seconds float64) Write {
	return Write{Account: "other", Revision: rev(n), Acked: at(seconds)}
}
func all(checks ...Check) []Check { return checks }

// TestSessions: answers that can be pass; each of the ways in which an edge can lie is found, by the invariant that it breaks.
func TestSessions(t *testing.T) {
	tests := []struct {
		name   string
		writes []Write
		checks []Check
		want   string // the invariant, empty: none
	}{
		{"forward", nil, all(answer(10, 5), answer(11, 5), answer(12, 7)), ""},
		{"as asked for", nil, all(answer(10, 5, atLeast(5)), answer(11, 6, atLeast(5))), ""},
		{"older than asked for", nil, all(answer(10, 4, atLeast(5))), "I11"},
		{"an edge that goes back", nil, all(answer(10, 5), answer(11, 4)), "I7"},
		{"an edge that goes back for another session", nil, all(answer(10, 5), answer(11, 4, of("t"))), "I7"},
		{"an edge that goes back over its restart", nil, all(answer(10, 5), answer(11, 4, restarted)), "I7"},
		{"an older answer about another account", nil, all(answer(10, 5), answer(11, 4, func(c *Check) { c.Account = "b" })), ""},
		{"another edge may be behind", nil, all(answer(10, 5), answer(11, 4, by("e2"))), ""},
		{"another edge that was asked for what was seen", nil, all(answer(10, 5), answer(11, 4, by("e2"), atLeast(5))), "I11"},
		{"answers that overlap may come in any order", nil, all(answer(10, 5, until(12)), answer(11, 4)), ""},
		{"as_of that goes back", nil, all(answer(10, 5, asOf(9)), answer(11, 5, asOf(8))), "I7"},
		{"as_of may go back over a restart", nil, all(answer(10, 5, asOf(9)), answer(11, 5, asOf(8), restarted)), ""},
		{"as_of may go back from edge to edge", nil, all(answer(10, 5, asOf(9)), answer(11, 5, asOf(8), by("e2"), atLeast(5))), ""},
		{"an older epoch", nil, all(answer(10, 5, inEpoch(2)), answer(11, 9)), "I7"},
		{"a new epoch with a lower number", nil, all(answer(10, 5), answer(11, 3, inEpoch(2))), ""},
		{"behind, and it says so", []Write{acked(6, 10)}, all(answer(20, 5, asOf(11))), ""},
		{"behind what as_of promises", []Write{acked(6, 10)}, all(answer(20, 5, asOf(13))), "I8"},
		{"behind an older write whose answer came late", []Write{acked(6, 10), acked(5, 11)}, all(answer(20, 5, asOf(14))), "I8"},
		{"as_of of the future", nil, all(answer(10, 5, asOf(12))), "I8"},
		{"all that was written", []Write{granted1("g", 3), granted1("h", 6)}, all(answer(1, 5, active("g"), asOf(0))), ""},
		{"something that was not written yet", []Write{granted1("g", 3), granted1("h", 6)}, all(answer(1, 5, active("g", "h"), asOf(0))), "I6"},
		{"something missing", []Write{granted1("g", 3)}, all(answer(1, 5, asOf(0))), "I6"},
		{"something that was taken away", []Write{granted1("g", 3), removed("g", 4)}, all(answer(1, 5, active("g"), asOf(0))), "I6"},
		{"something that will be taken away", []Write{granted1("g", 3), removed("g", 6)}, all(answer(1, 5, active("g"), asOf(0))), ""},
		{"something of which nobody knows", nil, all(answer(1, 5, active("lost"), asOf(0)), answer(2, 6, asOf(0))), ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var s Sessions
			s.Unknown("a", "lost")
			for _, w := range tt.writes {
				s.Wrote(w)
			}
			for _, c := range tt.checks {
				s.Checked(c)
			}
			got := s.Check(0)
			if tt.want == "" && len(got) > 0 {
				t.Errorf("Check = %v, want nothing", got)
			}
			if tt.want != "" && (len(got) == 0 || slices.ContainsFunc(got, func(v Violation) bool { return v.Invariant != tt.want })) {
				t.Errorf("Check = %v, want violations of %s alone", got, tt.want)
			}
			if writes, checks := s.Counts(); writes != len(tt.writes) || checks != len(tt.checks) {
				t.Errorf("Counts = %d, %d, want %d, %d", writes, checks, len(tt.writes), len(tt.checks))
			}
		})
	}
}

// TestSkewIsForgiven: on machines whose clocks are a second apart, a second of lead is no lie.
func TestSkewIsForgiven(t *testing.T) {
	var s Sessions
	s.Wrote(acked(6, 10))
	s.Checked(answer(12, 5, asOf(12.5)))
	if got := s.Check(time.Second); len(got) > 0 {
		t.Errorf("Check(1s) = %v, want nothing", got)
	}
	if got := s.Check(0); len(got) != 2 {
		t.Errorf("Check(0) = %v, want both lies of as_of", got)
	}
}
