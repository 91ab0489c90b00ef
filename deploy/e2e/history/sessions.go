package history

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/latchkey/latchkey/replication"
)

// Write is a grant or a revocation that a writer has acknowledged.
type Write struct {
	Account  string
	Name     string // of the entitlement; each is granted once
	Removed  bool   // it was taken away
	Revision replication.Revision
	Acked    time.Time // when the answer had come
}

// Check is one answer of an edge to an app.
type Check struct {
	Session  string // the app's; its checks hop across edges
	Edge     string
	Life     int // of the edge's process: as_of may go back from one to the next, a revision may not
	Account  string
	Min      replication.Revision // min_revision of the request; zero: none
	Revision replication.Revision
	AsOf     time.Time
	Active   []string // entitlements
	Asked    time.Time
	Answered time.Time
}

// Sessions collects writes and checks of many clients at once. The zero value is ready.
type Sessions struct {
	mu      sync.Mutex
	writes  []Write
	checks  []Check
	unknown map[string]bool // account and entitlement of which nobody knows whether it was granted or taken away
}

// Wrote notes an acknowledged write.
func (s *Sessions) Wrote(w Write) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.writes = append(s.writes, w)
}

// Unknown notes a write of which nobody knows whether it took effect.
func (s *Sessions) Unknown(account, name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.unknown == nil {
		s.unknown = map[string]bool{}
	}
	s.unknown[account+" "+name] = true
}

// Checked notes an edge's answer. A refusal ("not yet", "no data") promises nothing and is not noted.
func (s *Sessions) Checked(c Check) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.checks = append(s.checks, c)
}

// Violation is an answer that must never be.
type Violation struct {
	Invariant string // I6, I7, I8 or I11
	Text      string
}

func (v Violation) String() string { return v.Invariant + ": " + v.Text }

// asOfSlack is how much younger than as_of a write may be that is not visible yet: I8 says 2 s.
const asOfSlack = 2 * time.Second

// Check returns what is wrong with the answers. skew is how far the clocks of the machines involved may be apart: 0 on one machine.
func (s *Sessions) Check(skew time.Duration) []Violation {
	s.mu.Lock()
	defer s.mu.Unlock()
	slices.SortStableFunc(s.checks, func(a, b Check) int { return a.Asked.Compare(b.Asked) })
	var all []Violation
	all = append(all, s.minimum()...)
	all = append(all, s.forward()...)
	all = append(all, s.honest(skew)...)
	return append(all, s.content()...)
}

// minimum is I11: with min_revision the answer is at that revision or newer.
func (s *Sessions) minimum() (wrong []Violation) {
	for _, c := range s.checks {
		if c.Revision.Compare(c.Min) < 0 {
			wrong = append(wrong, Violation{"I11", fmt.Sprintf("%s asked %s for %s or newer and was answered at %s", c.Session, c.Edge, c.Min, c.Revision)})
		}
	}
	return wrong
}

// forward is I7: an edge's answer about an account is never older than one that it had finished before (a signed one is handed out
// again for some seconds, so that another account's may be newer); nor, where each request asks for what the app has seen, is a
// session's, whichever edge it asks. as_of goes back neither, but over an edge's restart and from edge to edge.
func (s *Sessions) forward() (wrong []Violation) {
	by := map[string][]Check{}
	for _, c := range s.checks {
		edge := fmt.Sprintf("edge %s about %s", c.Edge, c.Account)
		by[edge] = append(by[edge], c)
		life := fmt.Sprintf("process %d of %s", c.Life, edge)
		by[life] = append(by[life], c)
		if c.Min != (replication.Revision{}) {
			by["session "+c.Session] = append(by["session "+c.Session], c)
		}
	}
	for _, who := range slices.Sorted(maps.Keys(by)) {
		withAsOf := strings.HasPrefix(who, "process ")
		finished := slices.Clone(by[who])
		slices.SortFunc(finished, func(a, b Check) int { return a.Answered.Compare(b.Answered) })
		var newest Check // of those that had ended before the present one began
		for _, c := range by[who] {
			for len(finished) > 0 && finished[0].Answered.Before(c.Asked) {
				if order(finished[0], newest, withAsOf) > 0 {
					newest = finished[0]
				}
				finished = finished[1:]
			}
			// A session's own floor is what it asked for: what it saw without asking for it later promises nothing.
			if strings.HasPrefix(who, "session ") && c.Min.Compare(newest.Revision) < 0 {
				continue
			}
			if order(c, newest, withAsOf) < 0 {
				wrong = append(wrong, Violation{"I7", fmt.Sprintf("%s answered %s as of %s after %s as of %s",
					who, c.Revision, clock(c.AsOf), newest.Revision, clock(newest.AsOf))})
			}
		}
	}
	return wrong
}

func order(a, b Check, withAsOf bool) int {
	if c := a.Revision.Compare(b.Revision); c != 0 || !withAsOf {
		return c
	}
	return a.AsOf.Compare(b.AsOf)
}

func clock(t time.Time) string { return t.UTC().Format("15:04:05") }

// honest is I8: as_of = T means that every write acknowledged before T - 2 s is visible; and nobody knows the future.
func (s *Sessions) honest(skew time.Duration) (wrong []Violation) {
	writes := slices.Clone(s.writes)
	slices.SortFunc(writes, func(a, b Write) int { return a.Acked.Compare(b.Acked) })
	newest := make([]replication.Revision, len(writes)) // of this write and all before
	for i, w := range writes {
		newest[i] = w.Revision
		if i > 0 && newest[i-1].Compare(w.Revision) > 0 {
			newest[i] = newest[i-1]
		}
	}
	for _, c := range s.checks {
		if c.AsOf.After(c.Answered.Add(skew)) {
			wrong = append(wrong, Violation{"I8", fmt.Sprintf("%s answered at %s as of %s, which was to come", c.Edge, clock(c.Answered), clock(c.AsOf))})
		}
		before := c.AsOf.Add(-asOfSlack - skew)
		n, _ := slices.BinarySearchFunc(writes, before, func(w Write, t time.Time) int { return w.Acked.Compare(t) })
		if n > 0 && newest[n-1].Compare(c.Revision) > 0 {
			wrong = append(wrong, Violation{"I8", fmt.Sprintf("%s answered %s as of %s, and %s had been acknowledged at %s at the latest",
				c.Edge, c.Revision, clock(c.AsOf), newest[n-1], clock(writes[n-1].Acked))})
		}
	}
	return wrong
}

// content is I6 as an app sees it: an answer at revision R holds exactly what was written up to R.
func (s *Sessions) content() (wrong []Violation) {
	byAccount := map[string][]Write{}
	for _, w := range s.writes {
		byAccount[w.Account] = append(byAccount[w.Account], w)
	}
	for _, writes := range byAccount {
		slices.SortStableFunc(writes, func(a, b Write) int {
			return cmp.Or(a.Revision.Compare(b.Revision), a.Acked.Compare(b.Acked))
		})
	}
	for _, c := range s.checks {
		has := map[string]bool{}
		for _, w := range byAccount[c.Account] {
			if w.Revision.Compare(c.Revision) <= 0 {
				has[w.Name] = !w.Removed
			}
		}
		for _, name := range c.Active {
			if !has[name] && !s.unknown[c.Account+" "+name] {
				wrong = append(wrong, Violation{"I6", fmt.Sprintf("%s answered %s with %s active for %s, which it is not at that revision", c.Edge, c.Revision, name, c.Account)})
			}
		}
		for _, name := range slices.Sorted(maps.Keys(has)) {
			if has[name] && !slices.Contains(c.Active, name) && !s.unknown[c.Account+" "+name] {
				wrong = append(wrong, Violation{"I6", fmt.Sprintf("%s answered %s without %s for %s, which is active at that revision", c.Edge, c.Revision, name, c.Account)})
			}
		}
	}
	return wrong
}

// Counts returns how much was recorded: checks are what an empty list of violations is worth.
func (s *Sessions) Counts() (writes, checks int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.writes), len(s.checks)
}
