package chaos

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/latchkey/latchkey/replication"
)

// Violation is something that must never be.
type Violation struct {
	Invariant string // I1 to I19, or "answer"
	What      string
}

func (v Violation) String() string { return v.Invariant + ": " + v.What }

// checkers judge a history, each its invariant.
var checkers = []struct {
	invariant string
	check     func(*History) []string
}{
	{"I1", lost}, {"I2", repeated}, {"I3", diverged}, {"I4", twoLeaders}, {"I5", unlinked}, {"I6", unlike}, {"I7", backwards},
	{"I8", unseen}, {"I12", withoutNATS}, {"I13", denied}, {"I19", unhealed}, {"answer", func(h *History) []string { return h.Strange }},
}

// Check returns everything in the history that must never be.
func Check(h *History) (all []Violation) {
	for _, c := range checkers {
		for _, what := range c.check(h) {
			all = append(all, Violation{c.invariant, what})
		}
	}
	return all
}

// The limits that a history is judged by. The first is the allowance of I8, the others promises of I12 and I19.
const (
	asOfAllowance = 2 * time.Second
	spreadWithin  = 3 * time.Second // 2 s more than the pull takes by itself; a second is for that
	leaderWithin  = 10 * time.Second
	freshWithin   = 5 * time.Second
	// restoresAtMost is how many snapshots the writers may restore in one round: each of three at each of a few starts.
	restoresAtMost = 20
	// shiftSettles is for how long after a shift of all clocks answers may still be from before it.
	shiftSettles = 10 * time.Second
)

// lost (I1): an acknowledged event or grant that a writer does not have at the end.
func lost(h *History) (wrong []string) {
	looked := map[string]bool{}
	for _, p := range h.Found {
		looked[p.ID] = true
		if !p.Here {
			wrong = append(wrong, fmt.Sprintf("%s is acknowledged and not at %s: %s", p.ID, p.Node, p.Said))
		}
	}
	forgotten := map[string]bool{}
	for _, a := range h.Acks {
		if !looked[a.ID] {
			forgotten[a.ID] = true
		}
	}
	if len(forgotten) > 0 {
		wrong = append(wrong, fmt.Sprintf("%d are acknowledged and nobody looked for them", len(forgotten)))
	}
	return wrong
}

// repeated (I2): one message with two first times, or two revisions, or twice in its account's history; one grant with two ids.
func repeated(h *History) (wrong []string) {
	first := map[string]Ack{}
	fresh := map[string]int{}
	for _, a := range h.Acks {
		if !a.Duplicate && a.Grant == "" {
			if fresh[a.ID]++; fresh[a.ID] == 2 {
				wrong = append(wrong, fmt.Sprintf("%s was new twice, the second time at %s (%s)", a.ID, a.Revision, a.Writer))
			}
		}
		f, again := first[a.ID]
		switch {
		case !again:
			first[a.ID] = a
		case f.Revision != a.Revision:
			wrong = append(wrong, fmt.Sprintf("%s has revision %s (%s) and %s (%s)", a.ID, f.Revision, f.Writer, a.Revision, a.Writer))
		case f.Grant != a.Grant:
			wrong = append(wrong, fmt.Sprintf("the request %s made the grants %s and %s", a.ID, f.Grant, a.Grant))
		}
	}
	for _, account := range slices.Sorted(maps.Keys(h.Listed)) {
		seen := map[string]bool{}
		for _, id := range h.Listed[account] {
			if seen[id] {
				wrong = append(wrong, fmt.Sprintf("%s is in the history of %s twice", id, account))
			}
			seen[id] = true
		}
	}
	return wrong
}

// diverged (I3): two writers at one applied index with different state.
func diverged(h *History) (wrong []string) {
	at := map[uint64]WriterSample{}
	told := map[uint64]bool{}
	for _, s := range h.Writers {
		f, known := at[s.Applied]
		if !known {
			at[s.Applied] = s
			continue
		}
		if !told[s.Applied] && (f.StateHash != s.StateHash || f.FullHash != s.FullHash || f.Position != s.Position) {
			told[s.Applied] = true
			wrong = append(wrong, fmt.Sprintf("at index %d %s has %s state %s full %s, and %s has %s state %s full %s",
				s.Applied, f.Node, f.Position, f.StateHash, f.FullHash, s.Node, s.Position, s.StateHash, s.FullHash))
		}
	}
	return wrong
}

// twoLeaders (I4): two leaders of one term, or journals that are not the same bytes as far as both go.
func twoLeaders(h *History) (wrong []string) {
	leads := slices.Clone(h.Leads)
	for _, s := range h.Writers {
		if s.Leader && s.Term > 0 {
			leads = append(leads, Lead{s.Node, s.Term})
		}
	}
	leader := map[uint64]string{}
	for _, l := range leads {
		if other := leader[l.Term]; other != "" && other != l.Node {
			wrong = append(wrong, fmt.Sprintf("%s and %s both lead in term %d", other, l.Node, l.Term))
			continue
		}
		leader[l.Term] = l.Node
	}
	nodes := slices.Sorted(maps.Keys(h.Journals))
	for i, node := range nodes {
		for _, other := range nodes[:i] {
			a, b := h.Journals[node], h.Journals[other]
			if n := min(len(a), len(b)); !bytes.Equal(a[:n], b[:n]) {
				wrong = append(wrong, fmt.Sprintf("the journals of %s and %s differ within their first %d bytes", other, node, n))
			}
		}
	}
	return wrong
}

// unlinked (I5): a change log that is not dense, does not link, or is not another writer's.
func unlinked(h *History) (wrong []string) {
	nodes := slices.Sorted(maps.Keys(h.Logs))
	for i, node := range nodes {
		log := h.Logs[node]
		for _, what := range log.Broken {
			wrong = append(wrong, node+": "+what)
		}
		for _, other := range nodes[:i] {
			last := h.Logs[other]
			if n := min(log.Newest(), last.Newest()); log.Epoch == last.Epoch && log.Chains[n] != last.Chains[n] {
				wrong = append(wrong, fmt.Sprintf("at revision %d the logs of %s and %s are not one", n, other, node))
			}
		}
	}
	return wrong
}

// longest is the fold that goes furthest; nil without any.
func (h *History) longest() (best *Fold) {
	for _, f := range h.Logs {
		if best == nil || f.Newest() > best.Newest() {
			best = f
		}
	}
	return best
}

// unlike (I6): an edge whose state is not what the change log gives for its revision.
func unlike(h *History) (wrong []string) {
	fold := h.longest()
	if fold == nil {
		return []string{"no change log was read: there is nothing to compare edges with"}
	}
	told := map[string]bool{}
	compared := 0
	for _, s := range h.Edges {
		if s.Position.Epoch != fold.Epoch || s.Position.N > fold.Newest() {
			continue // not folded; at the end all are
		}
		compared++
		state, chain := fold.States[s.Position.N].String(), fold.Chains[s.Position.N].String()
		if (s.StateHash != state || s.Chain != chain) && !told[s.Node+s.Position.String()] {
			told[s.Node+s.Position.String()] = true
			wrong = append(wrong, fmt.Sprintf("%s at %s has state %s chain %s, the change log gives %s and %s", s.Node, s.Position, s.StateHash, s.Chain, state, chain))
		}
	}
	if compared == 0 && len(h.Edges) > 0 {
		wrong = append(wrong, "no state of an edge could be compared")
	}
	return wrong
}

// backwards (I7): an edge that shows an older revision than before, in its status or to an app.
func backwards(h *History) (wrong []string) {
	type shown struct {
		sent, at time.Time
		revision replication.Revision
	}
	all := map[string][]shown{}
	for _, s := range h.Edges {
		all["the status of "+s.Node] = append(all["the status of "+s.Node], shown{s.Sent, s.At, s.Position})
	}
	for _, a := range h.Answers {
		// An edge may hand out a token again that is some seconds old, but not the same app an older one.
		who := a.Node + " to " + a.Account
		all[who] = append(all[who], shown{a.Sent, a.At, a.Revision})
	}
	for _, who := range slices.Sorted(maps.Keys(all)) {
		list := all[who]
		slices.SortFunc(list, func(a, b shown) int { return a.at.Compare(b.at) })
		var best shown // the newest among those that had come before the next was asked for
		var waiting []shown
		for _, s := range list {
			for len(waiting) > 0 && waiting[0].at.Before(s.sent) {
				if waiting[0].revision.Compare(best.revision) > 0 {
					best = waiting[0]
				}
				waiting = waiting[1:]
			}
			if s.revision.Compare(best.revision) < 0 {
				wrong = append(wrong, fmt.Sprintf("%s goes back from %s to %s at %s", who, best.revision, s.revision, s.at.Format(clockFormat)))
			}
			waiting = append(waiting, s)
		}
	}
	return wrong
}

const clockFormat = "15:04:05.000"

// shift is how far all clocks were off at most when something was said at the time at.
func (h *History) shift(at time.Time) (most time.Duration) {
	last := time.Duration(0)
	for _, s := range h.Shifts {
		switch {
		case s.At.After(at):
		case s.At.Before(at.Add(-shiftSettles)):
			last = s.Off
		default:
			most = max(most, s.Off)
		}
	}
	return max(most, last)
}

// unseen (I8): an edge that says as_of = T and does not show what was acknowledged before T - 2 s, or a T that has not come yet.
func unseen(h *History) (wrong []string) {
	acks := slices.Clone(h.Acks)
	slices.SortFunc(acks, func(a, b Ack) int { return a.Answered.Compare(b.Answered) })
	newest := make([]replication.Revision, len(acks)) // of all acknowledgements up to each
	for i, a := range acks {
		newest[i] = a.Revision
		if i > 0 && newest[i-1].Compare(a.Revision) > 0 {
			newest[i] = newest[i-1]
		}
	}
	judge := func(who string, at, asOf time.Time, shown replication.Revision) {
		if asOf.IsZero() {
			return
		}
		asOf = asOf.Add(-h.shift(at))
		if asOf.After(at.Add(asOfAllowance)) {
			wrong = append(wrong, fmt.Sprintf("%s says at %s that its data is as of %s", who, at.Format(clockFormat), asOf.Format(clockFormat)))
			return
		}
		limit := asOf.Add(-asOfAllowance)
		n, _ := slices.BinarySearchFunc(acks, limit, func(a Ack, t time.Time) int { return a.Answered.Compare(t) })
		if n > 0 && shown.Compare(newest[n-1]) < 0 {
			wrong = append(wrong, fmt.Sprintf("%s shows %s as of %s, when %s had been acknowledged %s before", who, shown, asOf.Format(clockFormat), newest[n-1], limit.Sub(acks[n-1].Answered)+asOfAllowance))
		}
	}
	for _, s := range h.Edges {
		judge(s.Node, s.At, s.AsOf, s.Position)
	}
	for _, a := range h.Answers {
		judge(a.Node+" to "+a.Account, a.At, a.AsOf, a.Revision)
	}
	return wrong
}

// withoutNATS (I12): a change that took too long to show while NATS was disturbed.
func withoutNATS(h *History) (wrong []string) {
	for _, s := range h.Spreads {
		if limit := h.promised(spreadWithin); s.Took > limit {
			wrong = append(wrong, fmt.Sprintf("with %s a change showed after %s, want %s at most", s.Fault, s.Took.Round(time.Millisecond), limit))
		}
	}
	return wrong
}

// denied (I13): an answer whose revision covers what was acknowledged about the account, and that says otherwise; or a token that does.
func denied(h *History) (wrong []string) {
	for _, a := range h.Answers {
		if a.Active != a.Allowed {
			wrong = append(wrong, fmt.Sprintf("%s to %s at %s: the answer says active %t, its token %t", a.Node, a.Account, a.Revision, a.Active, a.Allowed))
		}
		if want, known := expected(h.Steps[a.Account], a); known && a.Active != want {
			wrong = append(wrong, fmt.Sprintf("%s told %s at %s that it is active: %t, want %t (at %s, as of %s)", a.Node, a.Account, a.Revision, a.Active, want,
				a.At.Format(clockFormat), a.AsOf.Format(clockFormat)))
		}
	}
	return wrong
}

// expected is what an answer must say, as far as that is certain: after the newest step that it covers, unless the next one may already
// show.
func expected(steps []Step, a Answer) (active, known bool) {
	covered := -1
	for i, s := range steps {
		if !s.Answered.IsZero() && s.Revision.Compare(a.Revision) <= 0 {
			covered = i
		}
	}
	if covered < 0 {
		return false, false
	}
	for _, next := range steps[covered+1:] {
		if next.Sent.Before(a.At) && next.Active != steps[covered].Active {
			return false, false
		}
	}
	return steps[covered].Active, true
}

// unhealed (I19): no leader or no fresh edges in time after the faults, or snapshots that go round.
func unhealed(h *History) (wrong []string) {
	leader, fresh := h.promised(leaderWithin), h.promised(freshWithin)
	for _, heal := range h.Heals {
		switch {
		case heal.Leader < 0 || heal.Leader > leader:
			wrong = append(wrong, fmt.Sprintf("round %d (%s): acknowledged again after %s, want %s at most", heal.Round, heal.Faults, took(heal.Leader), leader))
		case heal.Fresh < 0 || heal.Fresh > fresh:
			wrong = append(wrong, fmt.Sprintf("round %d (%s): edges fresh after %s, want %s at most", heal.Round, heal.Faults, took(heal.Fresh), fresh))
		}
		if heal.Restores > restoresAtMost {
			wrong = append(wrong, fmt.Sprintf("round %d (%s): %.0f snapshots were restored", heal.Round, heal.Faults, heal.Restores))
		}
	}
	return wrong
}

func took(d time.Duration) string {
	if d < 0 {
		return "never"
	}
	return d.Round(time.Millisecond).String()
}
