package storesim

import (
	"cmp"
	"slices"
	"time"
)

// Ledger is all that the oracle reads.
type Ledger struct {
	Facts []Fact          // the oldest first
	Sold  map[string]Sold // by purchase
}

// Sold is what does not change about a purchase.
type Sold struct {
	Provider    Provider
	Store       Store
	Env         Environment
	Owner       string // at first
	Entitlement string
	Recurring   bool
}

// Promises are Latchkey's own rules about what providers leave open.
type Promises struct {
	// Leeway is how long access outlasts the end of what was paid for while the subscription will renew and nobody has said that it did not: at most this,
	// and at most a tenth of the term.
	Leeway time.Duration
	// Grace is how long access goes on while a card fails whose provider grants no grace of its own.
	Grace map[Provider]time.Duration
	// StoreGrace is the same by the store that took the money, where Latchkey can ask it: then its word counts and not that of an aggregator.
	StoreGrace map[Store]time.Duration
}

// DefaultPromises are Latchkey's.
var DefaultPromises = Promises{Leeway: day, Grace: map[Provider]time.Duration{Stripe: 7 * day}}

// standing is what the oracle knows of a purchase after the facts so far.
type standing struct {
	owner    string
	shares   []string
	terms    map[int]*oracleTerm
	renews   bool
	stopped  bool      // ended, paused or given up: what was paid for is what counts
	until    time.Time // the end of billing grace; zero: none
	failed   bool
	ended    time.Time // all access ended here, whatever was paid for; zero: it did not
	disputed bool
	lost     bool // the dispute: a term that is paid afterwards ends it
	pending  bool
}

type oracleTerm struct {
	from, to time.Time // to zero: never
	revoked  bool
	upgraded bool
	billed   bool // and not paid yet
}

// Entitled says whether an account must be let use an entitlement at an instant, by the facts up to it: what a Latchkey that heard of each of them at once
// has to answer. It interprets the ledger entry by entry, and knows neither messages nor objects nor versions.
func (l Ledger) Entitled(rules Promises, env Environment, account, entitlement string, at time.Time) bool {
	return len(l.EntitledBy(rules, env, account, entitlement, at)) > 0
}

// EntitledBy lists the purchases by which an account must be let use an entitlement, sorted: several may.
func (l Ledger) EntitledBy(rules Promises, env Environment, account, entitlement string, at time.Time) []string {
	var b Book
	b.Read(l)
	return b.EntitledBy(rules, env, account, entitlement, at)
}

// Book is a ledger that is asked often: by purchase, and by who may ever have used it. The zero value is empty.
type Book struct {
	read  int // how many facts
	sold  map[string]Sold
	facts map[string][]Fact   // by purchase, the oldest first
	had   map[string][]string // purchases by everybody who ever owned or shared them
	users map[string][]string // and everybody by purchase
}

// Read takes over what is new in a ledger since it was read last.
func (b *Book) Read(l Ledger) {
	if b.sold == nil {
		b.sold, b.facts, b.had, b.users = map[string]Sold{}, map[string][]Fact{}, map[string][]string{}, map[string][]string{}
	}
	for ; b.read < len(l.Facts); b.read++ {
		f := l.Facts[b.read]
		if b.facts[f.Purchase] == nil {
			b.sold[f.Purchase] = l.Sold[f.Purchase]
			b.add(l.Sold[f.Purchase].Owner, f.Purchase)
		}
		b.facts[f.Purchase] = append(b.facts[f.Purchase], f)
		b.add(f.To, f.Purchase)
	}
}

func (b *Book) add(account, purchase string) {
	if account != "" && !slices.Contains(b.had[account], purchase) {
		b.had[account] = append(b.had[account], purchase)
		b.users[purchase] = append(b.users[purchase], account)
	}
}

// Facts are what the ledger says of a purchase, the oldest first.
func (b *Book) Facts(purchase string) []Fact { return b.facts[purchase] }

// Had lists the purchases that an account ever owned or shared.
func (b *Book) Had(account string) []string { return b.had[account] }

// Users lists everybody who ever owned or shared a purchase.
func (b *Book) Users(purchase string) []string { return b.users[purchase] }

// EntitledBy is Ledger.EntitledBy of what was read.
func (b *Book) EntitledBy(rules Promises, env Environment, account, entitlement string, at time.Time) []string {
	var by []string
	for _, purchase := range b.had[account] {
		sold := b.sold[purchase]
		if sold.Env == env && sold.Entitlement == entitlement && entitlement != "" && b.uses(rules, purchase, sold, account, at) {
			by = append(by, purchase)
		}
	}
	slices.Sort(by)
	return by
}

func (b *Book) uses(rules Promises, purchase string, sold Sold, account string, at time.Time) bool {
	s := standing{owner: sold.Owner, terms: map[int]*oracleTerm{}}
	for _, f := range b.facts[purchase] {
		if !f.At.After(at) {
			s.take(f, sold, rules)
		}
	}
	return (account == s.owner || slices.Contains(s.shares, account)) && s.gives(rules, at)
}

// take interprets one entry of the ledger.
func (s *standing) take(f Fact, sold Sold, rules Promises) {
	switch f.Kind {
	case PaymentPending:
		s.pending = true
	case PaymentFailed:
		s.pending = false
	case Bought, Renewed, Recovered, Resumed, Resubscribed, Upgraded:
		s.pending, s.failed, s.stopped, s.ended, s.until = false, false, false, time.Time{}, time.Time{}
		s.disputed, s.lost = s.disputed && !s.lost, false
		from := f.At
		if last := s.terms[f.Term-1]; f.Kind == Renewed && last != nil || f.Kind == Recovered && last != nil && last.to.After(f.At.Add(-f.Until.Sub(last.to))) {
			from = last.to
		}
		if f.Kind == Upgraded && s.terms[f.Term-1] != nil {
			s.terms[f.Term-1].upgraded = true
		}
		s.terms[f.Term] = &oracleTerm{from: from, to: f.Until}
		s.renews = sold.Recurring && (s.renews || f.Kind != Renewed && f.Kind != Upgraded)
	case Billed: // the subscription is active: nothing says yet that the payment will fail
		if last := s.terms[f.Term-1]; last != nil {
			s.terms[f.Term] = &oracleTerm{from: last.to, to: f.Until, billed: true}
		}
	case Extended:
		s.terms[f.Term].to = f.Until
	case RenewalOff:
		s.renews = false
	case RenewalOn:
		s.renews = true
	case RenewalFailed:
		s.failed, s.until = true, f.Until
		if t := s.terms[f.Term]; t != nil && t.billed {
			delete(s.terms, f.Term)
		}
		if grace := max(rules.Grace[sold.Provider], rules.StoreGrace[sold.Store]); f.Until.IsZero() && grace > 0 {
			if paid := s.terms[s.newest()]; paid != nil {
				s.until = paid.to.Add(grace)
			}
		}
	case GraceExpired:
		s.until = time.Time{}
	case PauseBegan:
		s.stopped = true
	case Expired, Replaced:
		s.ended, s.until, s.renews = f.At, time.Time{}, false
	case Refunded:
		if f.Full {
			s.terms[f.Term].revoked = true
			if sold.Provider != Stripe && sold.Provider != Web2Wave && f.Term == s.newest() { // the store ends the subscription with it, and tries no card any more
				s.renews, s.until = false, time.Time{}
			}
		}
	case RefundReversed:
		s.terms[f.Term].revoked = false
	case DisputeOpened, DisputeLost:
		if sold.Provider == Stripe { // Play's loss is a refund
			s.disputed, s.lost = true, f.Kind == DisputeLost
		}
	case DisputeWon:
		s.disputed = false
	case Transferred:
		s.owner = f.To
		s.shares = slices.DeleteFunc(s.shares, func(a string) bool { return a == f.To })
	case Shared:
		if sold.Provider != Apple { // there each member of the family has a purchase of their own
			s.shares = append(s.shares, f.To)
		}
	case Unshared:
		s.shares = slices.DeleteFunc(s.shares, func(a string) bool { return a == f.From })
	}
}

func (s *standing) newest() int {
	newest := -1
	for n := range s.terms {
		newest = max(newest, n)
	}
	return newest
}

// gives tells whether access is open at an instant, all facts until then taken.
func (s *standing) gives(rules Promises, at time.Time) bool {
	if s.pending || s.disputed {
		return false
	}
	if !s.ended.IsZero() && !at.Before(s.ended) {
		return false
	}
	newest := s.terms[s.newest()]
	if newest == nil {
		return false
	}
	for _, t := range s.terms {
		if !t.revoked && !t.upgraded && !at.Before(t.from) && (t.to.IsZero() || at.Before(t.to)) {
			return true
		}
	}
	switch {
	case newest.revoked || s.stopped:
		return false
	case s.failed:
		return at.Before(s.until)
	}
	leeway := min(rules.Leeway, newest.to.Sub(newest.from)/10)
	return s.renews && at.Before(newest.to.Add(leeway))
}

// Accounts lists everybody who ever owned or shared something in an environment, sorted.
func (l Ledger) Accounts(env Environment) []string {
	seen := map[string]bool{}
	for _, sold := range l.Sold {
		if sold.Env == env {
			seen[sold.Owner] = true
		}
	}
	for _, f := range l.Facts {
		if sold := l.Sold[f.Purchase]; sold.Env == env && cmp.Or(f.To, f.From) != "" {
			seen[cmp.Or(f.To, f.From)] = true
		}
	}
	var all []string
	for account := range seen {
		all = append(all, account)
	}
	slices.Sort(all)
	return all
}
