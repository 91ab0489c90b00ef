package entitlement

import (
	"cmp"
	"slices"
)

// FormerName is whom a provider said to be the buyer before it said somebody else. It means what Account and Aliases of an Object mean.
type FormerName struct {
	Account AccountID `cbor:"1,keyasint,omitempty"`
	Aliases []Alias   `cbor:"2,keyasint,omitempty"`
	At      int64     `cbor:"3,keyasint,omitempty"` // the newest version in which it was said, Unix nanoseconds
	// Since is the oldest version in which an aggregator said it, Unix nanoseconds. Zero: that of At.
	Since int64 `cbor:"4,keyasint,omitempty"`
}

// sinceEver stands for the oldest version of each name of an object that had more than are kept: one that is said again may have been forgotten between.
const sinceEver = 1

// since returns the oldest version in which the name was said.
func (n FormerName) since() int64 { return cmp.Or(n.Since, versionSaid(n.At)) }

// versionSaid returns a version as since has it: later than sinceEver.
func versionSaid(at int64) int64 { return max(at, sinceEver+1) }

// maxNames bounds what is kept of one object's names, the newest ones, the present one among them: a purchase that is passed on more often than that is
// passed around on purpose.
const maxNames = 16

func compareFormerNames(a, b FormerName) int {
	return cmp.Or(-cmp.Compare(a.At, b.At), cmp.Compare(a.Account, b.Account), slices.CompareFunc(a.Aliases, b.Aliases, compareAliases))
}

func (n FormerName) isSame(other FormerName) bool {
	return n.Account == other.Account && slices.Equal(n.Aliases, other.Aliases)
}

func (n FormerName) names() bool { return n.Account != "" || len(n.Aliases) > 0 }

// present is the name that the object has now.
func (o *Object) present() FormerName {
	return FormerName{o.Account, o.Aliases, o.At, o.NamedSince}
}

// byAggregator reports whether the one who says so tells of purchases in stores of others, and moves them between its own customers.
func (o *Object) byAggregator() bool {
	switch o.By {
	case RevenueCat, Adapty, Iaptic, Web2Wave:
		return true
	}
	return false
}

// after returns the object as it is when old is known too, a state of the same object that does not count.
//
// Of all names that any of its states had, each with its newest version, the newest are kept; Former is what of them the state that counts does not say itself. That is a
// function of the set of the states, so that the order in which they came never shows. So is since when each was said.
func (o *Object) after(old *Object) Object {
	out := *o
	if o.By == Apple || o.By == Google {
		return out
	}
	if len(o.Former) == 0 && len(old.Former) == 0 && o.present().isSame(old.present()) && old.At <= o.At {
		if o.byAggregator() && o.names() {
			out.saidSince(min(o.present().since(), old.present().since()))
		}
		return out
	}
	said := slices.Concat(o.Former, old.Former, []FormerName{o.present(), old.present()})
	slices.SortFunc(said, compareFormerNames)
	var names []FormerName
	for _, n := range said {
		if !n.names() {
			continue
		}
		if at := slices.IndexFunc(names, n.isSame); at >= 0 {
			names[at].Since = min(names[at].since(), n.since())
		} else {
			names = append(names, n)
		}
	}
	ever := o.NamedSince == sinceEver || old.NamedSince == sinceEver || len(names) > maxNames
	out.NamedSince = 0
	for i := range names {
		n := &names[i]
		switch {
		case !o.byAggregator():
			n.Since = 0
		case ever:
			n.Since = sinceEver
		}
		if n.Since == versionSaid(n.At) {
			n.Since = 0
		}
		if n.isSame(o.present()) {
			out.saidSince(n.since())
		}
	}
	if ever && o.byAggregator() {
		out.NamedSince = sinceEver
	}
	names = slices.DeleteFunc(names[:min(len(names), maxNames)], func(n FormerName) bool { return n.At == o.At && n.isSame(o.present()) })
	if out.Former = names; len(names) == 0 {
		out.Former = nil
	}
	return out
}

// saidSince notes the oldest version in which an aggregator said the object's present name.
func (o *Object) saidSince(since int64) {
	if o.NamedSince = since; !o.byAggregator() || since == versionSaid(o.At) {
		o.NamedSince = 0
	}
}

// Loss says that an account had a purchase until a provider named another as the buyer.
type Loss struct {
	Account AccountID
	At      int64 // Unix seconds
}

// formerly returns as whose the purchase would be told if a provider went on saying a former name, for the newest such names, each once. Not all objects of
// a provider say whose it is: all of RevenueCat's do, another's newest one does.
func (e Evidence) formerly() []Naming {
	type saying struct {
		FormerName
		by *Object
	}
	var said []saying
	var newest map[Provider]*Object
	for i := range e.Objects {
		o := &e.Objects[i]
		if len(o.Former) == 0 {
			continue
		}
		by := o
		if o.By != "" {
			if newest == nil {
				newest = e.namers()
			}
			if by = newest[o.By]; by == nil || by != o && o.By != RevenueCat {
				continue
			}
		}
		for _, former := range o.Former {
			said = append(said, saying{former, by})
		}
	}
	slices.SortStableFunc(said, func(a, b saying) int { return compareFormerNames(a.FormerName, b.FormerName) })
	var told []Naming
	for i, s := range said {
		if slices.ContainsFunc(said[:i], func(known saying) bool { return known.by == s.by && known.isSame(s.FormerName) }) {
			continue
		}
		before := Evidence{Objects: slices.Clone(e.Objects)}
		for j := range before.Objects {
			if &e.Objects[j] == s.by {
				before.Objects[j].Account, before.Objects[j].Aliases = s.Account, s.Aliases
			}
		}
		identity := before.Identity()
		if told = append(told, Naming{Account: identity.Account, Aliases: identity.Aliases, At: seconds(s.At)}); len(told) == maxNames {
			break
		}
	}
	return told
}

// WithoutFormer returns the evidence as it is without former names, and without since when each name was said.
func (e Evidence) WithoutFormer() Evidence {
	for i := range e.Objects {
		if o := &e.Objects[i]; len(o.Former) > 0 || o.NamedSince != 0 {
			e.Objects = slices.Clone(e.Objects)
			for j := range e.Objects {
				e.Objects[j].Former, e.Objects[j].NamedSince = nil, 0
			}
			break
		}
	}
	return e
}
