package storesim

import (
	"cmp"
	"slices"
)

// index finds what ids and names stand for: with thousands of customers nobody can look at all of them at each call.
type index struct {
	refs  []ref                  // everything that has ids: purchases, with the term -1, and their terms
	ids   map[string]*ids        // by the kind of id
	names map[string]string      // accounts by what aggregators call them
	held  map[string][]*Purchase // by everybody who ever owned or shared one
}

// ids are those of one kind that were looked for so far.
type ids struct {
	of map[string]ref
	to int // how many of refs are in it
}

func newIndex() index {
	return index{ids: map[string]*ids{}, names: map[string]string{}, held: map[string][]*Purchase{}}
}

// note adds a purchase, or the terms that it has since it was noted last.
func (x *index) note(p *Purchase) {
	if p.noted == 0 {
		x.refs = append(x.refs, ref{p, -1})
		p.noted = 1
	}
	for ; p.noted <= len(p.Terms); p.noted++ {
		x.refs = append(x.refs, ref{p, p.noted - 1})
	}
}

// find returns what has an id. idOf makes the id of that kind, or an empty one where there is none; of equal ones the first counts.
func (x *index) find(kind, id string, idOf func(ref) string) (ref, bool) {
	known := x.ids[kind]
	if known == nil {
		known = &ids{of: map[string]ref{}}
		x.ids[kind] = known
	}
	for ; known.to < len(x.refs); known.to++ {
		made := idOf(x.refs[known.to])
		if _, there := known.of[made]; made != "" && !there {
			known.of[made] = x.refs[known.to]
		}
	}
	found, ok := known.of[id]
	return found, ok
}

// hold notes that somebody owns or shares a purchase.
func (x *index) hold(account string, p *Purchase) {
	if !slices.Contains(x.held[account], p) {
		x.held[account] = append(x.held[account], p)
	}
}

// ofOwner lists what a customer owns or shares at a provider, the oldest first.
func (s *Sim) ofOwner(p Provider, env Environment, account string) []*Purchase {
	var list []*Purchase
	for _, x := range s.index.held[account] {
		if x.Provider == p && x.Env == env && (x.Owner == account || slices.Contains(x.Shares, account)) {
			list = append(list, x)
		}
	}
	slices.SortFunc(list, func(a, b *Purchase) int { return cmp.Compare(a.N, b.N) })
	return list
}
