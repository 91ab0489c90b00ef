package entitlement

import (
	"cmp"
	"slices"
	"strings"
)

// Naming is whom whoever bought was said to be when they bought, as the app gave it to the store. A later purchase in the same chain has one of its own: which
// of them the owner goes by is the policy's matter (requirement A10.7). There is none that names nobody.
type Naming struct {
	Account AccountID `cbor:"1,keyasint,omitempty"` // where the name has the form of our account id; not checked to exist
	Aliases []Alias   `cbor:"2,keyasint,omitempty"` // the name as the store has it
	At      int64     `cbor:"3,keyasint,omitempty"` // when they bought, Unix seconds
	// Chosen: the user bought it themselves. A renewal is not chosen, nor what a store says of who had the purchase before.
	Chosen bool `cbor:"4,keyasint,omitempty"`
}

// linkedSlackSeconds is how much before a Play token begins the one may end that it took over. Google ends that one as it begins the other, and the two times
// are read from two answers.
const linkedSlackSeconds = 60

// naming is a Naming with the object that has it.
type naming struct {
	*Naming
	of *Object
}

func (n *Naming) sameName(other *Naming) bool {
	return n.Account == other.Account && slices.Equal(n.Aliases, other.Aliases)
}

// namings returns what the stores said of who bought, in the order in which it was bought, without renewals that say what was said just before them.
func (e Evidence) namings() []naming {
	var said []naming
	for i := range e.Objects {
		if o := &e.Objects[i]; o.Naming != nil {
			said = append(said, naming{o.Naming, o})
		}
	}
	slices.SortFunc(said, func(a, b naming) int { return cmp.Or(cmp.Compare(a.At, b.At), compareKeys(a.of, b.of)) })
	kept := said[:0]
	for _, n := range said {
		if n.Chosen || len(kept) == 0 || !n.sameName(kept[len(kept)-1].Naming) {
			kept = append(kept, n)
		}
	}
	return kept
}

// Names returns the different names under which the purchase was bought, now and before, each once. Any of them may decide about who has it
// or had it: see Holders.
func (e Evidence) Names() []Naming {
	var names []Naming
	add := func(n Naming) {
		if !slices.ContainsFunc(names, func(known Naming) bool { return known.sameName(&n) }) {
			names = append(names, n)
		}
	}
	for i := range e.Objects {
		if n := e.Objects[i].Naming; n != nil {
			add(*n)
		}
	}
	for _, n := range e.formerly() {
		add(n)
	}
	return names
}

// Showing says that an account showed the purchase while nobody had it.
type Showing struct {
	Account AccountID
	At      int64 // Unix seconds
}

// Holders plays the names under which the purchase was bought, in their order: who has it in the end, and who had it until it went to another (requirement A10.7).
// Each name takes it, one that is nobody's too. But where the policy keeps a purchase with its holder (Policy.KeepsHolder), the first who was named has it until the user
// themselves bought it under the name of another account while no other term of the chain was live; a renewal moves nothing. whose says which account a name is of,
// empty for nobody's. No holder: no store said anything that leads to an account. The losses are in no order; an account can come twice, and whoever has the purchase can be among them.
//
// Who showed it has it from then on, until the user themselves bought it under the name of another account; where the policy keeps it, while no other term was live. shows: they still have it.
//
// It depends on the evidence, on shown (nil: nobody did) and on whose alone.
func (e Evidence) Holders(keeps bool, shown *Showing, whose func(Naming) AccountID) (holder AccountID, lost []Loss, shows bool) {
	take := func(account AccountID, at int64) {
		if holder != "" && holder != account {
			lost = append(lost, Loss{holder, at})
		}
		holder = account
	}
	for _, n := range e.namings() {
		at := clampTime(n.At)
		if shown != nil && !shows && at > shown.At {
			take(shown.Account, shown.At)
			shows = true
		}
		if keeps && holder != "" && !n.Chosen || shows && !n.Chosen {
			continue
		}
		account := whose(*n.Naming)
		if account == holder || shows && account == "" || keeps && (account == "" || holder != "" && e.liveBeside(n)) {
			continue
		}
		take(account, at)
		if shows {
			shown, shows = nil, false
		}
	}
	if shown != nil {
		take(shown.Account, shown.At)
		shows = true
	}
	for _, n := range e.formerly() {
		if account := whose(n); account != "" {
			lost = append(lost, Loss{account, n.At})
		}
	}
	return holder, lost, shows
}

// MovedAfter returns when an aggregator last said who the buyer is, where none but aggregators tell of the purchase and that one moved it after a time: it named another before, and either
// never said the present name until then, or said another after it. Both in Unix seconds; 0: it did not. What it moved back to whom it had named before that time, with no word of another
// between, cannot be told from what it merely says again, and counts as that.
func (e Evidence) MovedAfter(shown int64) int64 {
	var newest *Object
	for i := range e.Objects {
		o := &e.Objects[i]
		if !o.byAggregator() {
			return 0
		}
		if o.names() && (newest == nil || compareNaming(o, newest) > 0) {
			newest = o
		}
	}
	if newest == nil || seconds(newest.At) <= shown {
		return 0
	}
	another, first := int64(0), newest.present().since() // when another was named last, and this one first
	for i := range e.Objects {
		o := &e.Objects[i]
		if o.By != newest.By {
			continue
		}
		for _, n := range append(slices.Clone(o.Former), o.present()) {
			switch {
			case n.isSame(newest.present()):
				first = min(first, n.since())
			case n.names():
				another = max(another, versionSaid(n.At))
			}
		}
	}
	if another == 0 || seconds(first) <= shown && seconds(another) <= shown {
		return 0
	}
	return seconds(newest.At)
}

// liveBeside reports whether another term of what was bought was live when this one was bought: paid for, begun, not over, not taken back and
// not replaced. By what the same store says: only its ids tell the purchase's own term from the others.
func (e Evidence) liveBeside(n naming) bool {
	chains, renewals := gatherChains(e.Objects, n.of.By)
	own, _, _ := strings.Cut(n.of.ID, ":") // the Play token, whose chains are "<token>:<product>"
	at := clampTime(n.At)
	for _, c := range chains {
		if strings.HasPrefix(c.id, own+":") {
			continue
		}
		if replaced := replacedAt(c.id, renewals, chains); replaced != 0 && replaced < at {
			continue
		}
		linked := c.isReplacedBy(own, renewals)
		for i := range c.terms {
			if t := &c.terms[i]; t.ID != n.of.ID && c.isLive(t, at, linked) {
				return true
			}
		}
	}
	return false
}

// isReplacedBy reports whether the chains of a Play token took this one over.
func (c *chain) isReplacedBy(token string, renewals map[string]*Object) bool {
	for _, o := range renewals {
		if replaces := o.Renewal.Replaces; replaces != "" && strings.HasPrefix(o.ID, token+":") && (c.id == replaces || strings.HasPrefix(c.id, replaces+":")) {
			return true
		}
	}
	return false
}

// isLive reports whether a term was live at a time. Of a chain that was taken over then (linked) each term counts that was not over: when renewals of
// a Play token begin is a guess, and it ends by being taken over.
func (c *chain) isLive(t *chainTerm, at int64, linked bool) bool {
	if t.Transaction.State != TransactionPaid || t.revokedAt != 0 && t.revokedAt <= at {
		return false
	}
	end := t.end
	if over := c.overAt(); t.start < over {
		end = min(end, over)
	}
	if linked {
		return c.terms[0].start <= at && at < end+linkedSlackSeconds
	}
	if at < t.start || end <= at {
		return false
	}
	// A term of another product took its place before.
	return !slices.ContainsFunc(c.terms, func(next chainTerm) bool {
		return t.start < next.start && next.start < at && next.Transaction.Product != t.Transaction.Product && next.Transaction.State == TransactionPaid && !next.Transaction.Provisional
	})
}

// overAt returns when the store ended the chain, or 0.
func (c *chain) overAt() int64 {
	if c.renewal == nil || c.renewal.Renewal.Phase != PhaseExpired && c.renewal.Renewal.Phase != PhaseRevoked {
		return 0
	}
	return max(cmp.Or(clampTime(c.renewal.Renewal.EndedAt), seconds(c.renewal.At)), 1)
}
