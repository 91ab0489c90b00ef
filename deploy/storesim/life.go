package storesim

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"
)

// Order is what a customer buys.
type Order struct {
	Provider Provider    `json:"provider"`
	Env      Environment `json:"environment,omitempty"` // empty: sandbox
	Account  string      `json:"account"`               // Latchkey's account id, or any other name
	Product  string      `json:"product"`
	Name     string      `json:"as,omitempty"`         // what the purchase is called from then on; empty: "p1" and so on
	Trial    int         `json:"trial_days,omitempty"` // days of a free trial before the first term
	// OfferTerms: so many paid terms, the first ones, cost OfferCents in place of the product's price: an introductory offer, paid as one goes.
	OfferTerms int   `json:"offer_terms,omitempty"`
	OfferCents int64 `json:"offer_cents,omitempty"`
	Quantity   int   `json:"quantity,omitempty"` // 0 is 1
	Pending    bool  `json:"pending,omitempty"`  // the money comes later: Settle says whether
	// StoreTells: the store behind an aggregator sends its own messages too.
	StoreTells bool `json:"store_tells,omitempty"`
	// Email is what the buyer gives at a checkout on the web.
	Email string `json:"email,omitempty"`
}

// Buy sells something. Error: ErrRefused.
func (s *Sim) Buy(o Order) (Purchase, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	o.Env = cmp.Or(o.Env, Sandbox)
	product, err := s.product(o.Product)
	switch {
	case !o.Provider.valid():
		return Purchase{}, refuse("no provider %q", o.Provider)
	case err != nil:
		return Purchase{}, err
	case s.config.Credentials[o.Env] == nil:
		return Purchase{}, refuse("no credentials for environment %q", o.Env)
	case !o.Provider.sells(product.Store):
		return Purchase{}, refuse("%s does not sell %s", o.Provider, product.ID)
	case o.Account == "":
		return Purchase{}, refuse("a purchase needs an account: its id, or any name")
	case o.Provider == Web2Wave && product.Kind == Consumable:
		return Purchase{}, refuse("%s sells nothing that is used up", o.Provider)
	case o.Trial < 0 || o.Trial > 0 && product.Kind != Recurring:
		return Purchase{}, refuse("only a subscription begins with a trial")
	case o.OfferTerms < 0 || o.OfferTerms > 0 && (product.Kind != Recurring || o.OfferCents <= 0 || o.OfferCents >= product.Cents):
		return Purchase{}, refuse("an offer is for a subscription, and for less than its price")
	case o.Name != "" && s.purchases[o.Name] != nil:
		return Purchase{}, refuse("another purchase is called %q", o.Name)
	}
	p := s.open(o, product)
	if o.Pending {
		p.Phase = Pending
		s.record(p, Fact{Kind: PaymentPending})
	} else {
		s.begin(p)
	}
	return *p.copy(), nil
}

// open makes the purchase, with a first term that begins now and is not paid.
func (s *Sim) open(o Order, product Product) *Purchase {
	p := &Purchase{N: len(s.order) + 1, Provider: o.Provider, Env: o.Env, Store: product.Store, Owner: s.customer(o.Account).Account, Product: product, Next: product, DisputedTerm: -1,
		StartedAt: s.clock, WillRenew: product.Kind == Recurring, Quantity: max(o.Quantity, 1), StoreTells: o.StoreTells, Email: o.Email, OfferTerms: o.OfferTerms, OfferCents: o.OfferCents}
	p.ID = cmp.Or(o.Name, fmt.Sprintf("p%d", p.N))
	p.Terms = []Term{s.term(p, product, s.clock, o.Trial)}
	s.order = append(s.order, p)
	s.purchases[p.ID] = p
	s.index.hold(p.Owner, p)
	s.sold[p.ID] = Sold{Provider: p.Provider, Store: p.Store, Env: p.Env, Owner: p.Owner, Entitlement: product.Entitlement, Recurring: p.recurs()}
	return p
}

func (s *Sim) term(p *Purchase, product Product, start time.Time, trialDays int) Term {
	t := Term{Product: product, StartsAt: start, Cents: product.Cents * int64(p.Quantity)}
	switch {
	case trialDays > 0:
		t.Trial, t.Cents, t.EndsAt = true, 0, start.AddDate(0, 0, trialDays)
	case product.Kind == Recurring:
		t.EndsAt = product.after(start)
		if (len(p.Terms) == 0 || product.ID == p.Terms[0].Product.ID) && p.offered() < p.OfferTerms {
			t.Offer, t.Cents = true, p.OfferCents*int64(p.Quantity)
		}
	}
	return t
}

// offered is how many of its terms were paid for: the first ones may be those of an offer.
func (p *Purchase) offered() int {
	n := 0
	for i := range p.Terms {
		if t := &p.Terms[i]; !t.Trial && !t.PaidAt.IsZero() {
			n++
		}
	}
	return n
}

// begin is the first payment.
func (s *Sim) begin(p *Purchase) {
	p.Phase, p.last().PaidAt = Active, s.clock
	s.record(p, Fact{Kind: Bought, Until: p.last().EndsAt, Trial: p.last().Trial})
	s.awaitEnd(p)
}

// Settle ends a pending payment: the money came, or it never will.
func (s *Sim) Settle(id string, paid bool) error {
	return s.act(id, func(p *Purchase) error {
		if p.Phase != Pending {
			return refuse("no payment of %s is under way", id)
		}
		if paid {
			p.Terms[0] = s.term(p, p.Product, s.clock, 0)
			p.StartedAt = s.clock
			s.begin(p)
			return nil
		}
		s.finish(p, "unpaid")
		s.record(p, Fact{Kind: PaymentFailed})
		return nil
	})
}

// act finds a purchase and does something with it.
func (s *Sim) act(id string, do func(p *Purchase) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.purchases[id]
	switch {
	case p == nil:
		return refuse("no purchase %q", id)
	case p.SharedOf != "":
		return refuse("%s is the family's share of %s", id, p.SharedOf)
	}
	return do(p)
}

// lasts refuses what only a subscription that goes on can do.
func lasts(p *Purchase) error {
	switch {
	case !p.recurs():
		return refuse("%s is no subscription", p.ID)
	case p.Phase == Ended || p.Phase == Pending:
		return refuse("%s is %s", p.ID, p.Phase)
	}
	return nil
}

// Renew moves the clock on until the subscription has renewed once more, or its renewal has failed.
func (s *Sim) Renew(ctx context.Context, id string) error {
	terms := -1
	for {
		s.mu.Lock()
		p := s.purchases[id]
		if p == nil {
			s.mu.Unlock()
			return refuse("no purchase %q", id)
		}
		if err := lasts(p); err != nil {
			s.mu.Unlock()
			return err
		}
		if terms < 0 {
			if terms = len(p.Terms); p.Phase != Active || !p.WillRenew || p.PauseDue {
				s.mu.Unlock()
				return refuse("%s will not renew", id)
			}
		}
		done := len(p.Terms) > terms && !p.last().PaidAt.IsZero() || p.Phase != Active
		next := later(p.last().EndsAt, s.clock)
		if len(p.Terms) > terms { // a draft
			next = s.clock.Add(stripeDraft)
		}
		s.mu.Unlock()
		if done {
			return nil
		}
		if err := s.AdvanceTo(ctx, next); err != nil {
			return err
		}
	}
}

// Cancel turns the renewal off: access stays until the end of what was paid for.
func (s *Sim) Cancel(id string) error {
	return s.act(id, func(p *Purchase) error {
		if err := lasts(p); err != nil {
			return err
		}
		if !p.WillRenew {
			return refuse("the renewal of %s is off", id)
		}
		p.WillRenew, p.TurnedOff = false, s.clock
		s.record(p, Fact{Kind: RenewalOff})
		if p.Phase == Retry || p.Phase == Paused {
			s.expire(p, "cancelled")
		}
		return nil
	})
}

// Resume turns the renewal on again, or ends a pause.
func (s *Sim) Resume(id string) error {
	return s.act(id, func(p *Purchase) error {
		if err := lasts(p); err != nil {
			return err
		}
		switch {
		case p.Phase == Paused:
			s.resume(p)
		case p.PauseDue:
			p.PauseDue, p.ResumesAt = false, time.Time{}
			s.record(p, Fact{Kind: PauseSet})
		case p.WillRenew:
			return refuse("the renewal of %s is on", id)
		default:
			p.WillRenew, p.TurnedOff = true, time.Time{}
			s.record(p, Fact{Kind: RenewalOn})
		}
		return nil
	})
}

// Pause stops the subscription at the end of its term for a time. Only Play has it.
func (s *Sim) Pause(id string, d time.Duration) error {
	return s.act(id, func(p *Purchase) error {
		if err := lasts(p); err != nil {
			return err
		}
		if p.Store != PlayStore || p.Phase != Active || !p.WillRenew || d <= 0 {
			return refuse("%s cannot be paused", id)
		}
		p.PauseDue, p.ResumesAt = true, p.last().EndsAt.Add(d)
		s.record(p, Fact{Kind: PauseSet, Until: p.ResumesAt})
		return nil
	})
}

// FailCard makes the next payments fail.
func (s *Sim) FailCard(id string) error {
	return s.act(id, func(p *Purchase) error {
		if err := lasts(p); err != nil {
			return err
		}
		p.CardFails = true
		return nil
	})
}

// Recover makes the card work again, and what is owed is paid now.
func (s *Sim) Recover(id string) error {
	return s.act(id, func(p *Purchase) error {
		if err := lasts(p); err != nil {
			return err
		}
		p.CardFails = false
		if p.Phase == Grace || p.Phase == Retry {
			s.recover(p)
		}
		return nil
	})
}

// Extend moves the end of the present term, as stores do for their users' sake.
func (s *Sim) Extend(id string, d time.Duration) error {
	return s.act(id, func(p *Purchase) error {
		if err := lasts(p); err != nil {
			return err
		}
		if p.Provider == Stripe || p.Provider == Web2Wave || p.Phase != Active || d <= 0 {
			return refuse("%s cannot be extended", id)
		}
		p.last().EndsAt = p.last().EndsAt.Add(d)
		s.record(p, Fact{Kind: Extended, Until: p.last().EndsAt})
		s.awaitEnd(p)
		return nil
	})
}

// Change goes over to another product: to a better one now, to a lesser one at the end of the term. Back to the present one: nothing changes then.
func (s *Sim) Change(id, product string) error {
	return s.act(id, func(p *Purchase) error {
		if err := lasts(p); err != nil {
			return err
		}
		to, err := s.product(product)
		switch {
		case err != nil:
			return err
		case to.Store != p.Store || to.Kind != Recurring || p.Phase != Active || !p.WillRenew:
			return refuse("%s cannot become %s", id, product)
		case to.ID == p.Next.ID:
			return refuse("%s becomes %s already", id, product)
		case to.Level <= p.Product.Level && p.Provider == Google:
			s.replaceAtEnd(p, to)
			return nil
		case to.Level <= p.Product.Level:
			p.Next = to
			s.record(p, Fact{Kind: ChangeScheduled, Product: to.ID})
			return nil
		case p.Provider == Google:
			s.replace(p, to)
			return nil
		}
		old := p.last()
		old.Upgraded = true
		p.Product, p.Next = to, to
		p.Terms = append(p.Terms, s.term(p, to, s.clock, 0))
		p.last().PaidAt = s.clock
		s.record(p, Fact{Kind: Upgraded, Product: to.ID, Until: p.last().EndsAt})
		s.awaitEnd(p)
		return nil
	})
}

// replace is Play's upgrade: another token takes over.
func (s *Sim) replace(p *Purchase, to Product) {
	s.takeOver(p, s.open(Order{Provider: p.Provider, Env: p.Env, Account: p.Owner}, to))
}

// replaceAtEnd is Play's downgrade: another token takes over with the present product, which the lesser one follows at the end of what was paid for.
func (s *Sim) replaceAtEnd(p *Purchase, to Product) {
	next := s.open(Order{Provider: p.Provider, Env: p.Env, Account: p.Owner}, p.Product)
	next.Next, next.CardFails = to, p.CardFails
	next.Terms[0].EndsAt, next.Terms[0].Trial, next.Terms[0].Cents = p.last().EndsAt, p.last().Trial, 0
	s.takeOver(p, next)
}

func (s *Sim) takeOver(p, next *Purchase) {
	next.Replaces = p.ID
	s.finish(p, "replaced")
	s.record(p, Fact{Kind: Replaced})
	s.begin(next)
}

// Refund gives money back: of the term with that index, or of the last one where it is negative; all of it where cents is 0. A full refund ends the term,
// and everywhere but at Stripe, also behind Web2Wave, the subscription with it, if it was the present one. A part can be given back at Stripe, where the term goes on; by Apple, which
// ends the term all the same; and by Play of several that were sold at once: some of them.
func (s *Sim) Refund(id string, term int, cents int64) error {
	return s.act(id, func(p *Purchase) error {
		if term < 0 {
			term = len(p.Terms) - 1
		}
		if term >= len(p.Terms) {
			return refuse("%s has no term %d", id, term)
		}
		t := &p.Terms[term]
		rest := t.Cents - t.Refunded
		part := cents > 0 && cents < rest
		switch {
		case p.Provider == Web2Wave && !p.StoreTells:
			return refuse("Web2Wave tells of no refunds: Stripe does, where store_tells")
		case t.PaidAt.IsZero() || rest <= 0 || !t.RevokedAt.IsZero():
			return refuse("nothing was paid for term %d of %s, or all of it was given back", term, id)
		case cents < 0 || cents > rest:
			return refuse("%d cents of term %d of %s can be given back", rest, term, id)
		case part && p.Provider == Google && (p.recurs() || cents%t.Product.Cents != 0):
			return refuse("Play gives back all, or some of several that were sold at once, for %d cents each", t.Product.Cents)
		case part && p.Provider != Stripe && p.Provider != Apple && p.Provider != Google:
			return refuse("%s gives back all or nothing", p.Provider)
		}
		s.refund(p, term, cmp.Or(cents, rest), "")
		return nil
	})
}

// refund gives cents of a term back. reason is empty for what nobody need know.
func (s *Sim) refund(p *Purchase, term int, cents int64, reason string) {
	t := &p.Terms[term]
	t.Refunded, t.Refunds, t.LastRefund, t.RefundedAt = t.Refunded+cents, t.Refunds+1, cents, s.clock
	full := t.Refunded == t.Cents || p.Provider == Apple
	if full {
		t.RevokedAt = s.clock
		if present := term == len(p.Terms)-1; present && p.Provider != Stripe && p.Provider != Web2Wave && p.Phase != Ended {
			p.WillRenew, p.TurnedOff = false, s.clock
			s.finish(p, "refund")
		}
	}
	s.record(p, Fact{Kind: Refunded, Term: term, Cents: cents, Full: full, Reason: reason})
}

// ReverseRefund undoes the refund of a term: Apple does after a dispute, at Stripe it bounces.
func (s *Sim) ReverseRefund(id string, term int) error {
	return s.act(id, func(p *Purchase) error {
		if term < 0 {
			term = len(p.Terms) - 1
		}
		if term >= len(p.Terms) || p.Terms[term].RevokedAt.IsZero() || p.Store == PlayStore || p.Provider == Adapty || p.Provider == Iaptic {
			return refuse("no refund of term %d of %s can be undone", term, id)
		}
		t := &p.Terms[term]
		t.Refunded, t.RevokedAt = 0, time.Time{}
		if p.Phase == Ended && p.EndReason == "refund" && (t.EndsAt.IsZero() || t.EndsAt.After(s.clock)) {
			p.Phase, p.EndedAt, p.EndReason = Active, time.Time{}, ""
		}
		s.record(p, Fact{Kind: RefundReversed, Term: term})
		s.awaitEnd(p)
		return nil
	})
}

// Dispute opens a chargeback of the last payment; CloseDispute ends it. Stripe tells of both, Play asks what the merchant says of it and takes the money back
// where it is lost; nobody else tells of any.
func (s *Sim) Dispute(id string) error {
	return s.act(id, func(p *Purchase) error {
		t := p.last()
		if p.Provider != Stripe && p.Provider != Google || p.DisputedTerm >= 0 || t.PaidAt.IsZero() || t.Cents == 0 || p.Provider == Google && t.Refunded > 0 {
			return refuse("no payment of %s can be disputed", id)
		}
		p.DisputedTerm, p.DisputeState = len(p.Terms)-1, "needs_response"
		p.DisputeTerm, p.DisputedAt = p.DisputedTerm, s.clock
		p.Disputes++
		s.record(p, Fact{Kind: DisputeOpened, Term: p.DisputedTerm})
		return nil
	})
}

// CloseDispute ends a dispute: the merchant won, or lost.
func (s *Sim) CloseDispute(id string, won bool) error {
	return s.act(id, func(p *Purchase) error {
		if p.DisputedTerm < 0 {
			return refuse("no dispute about %s is open", id)
		}
		kind := DisputeLost
		if won {
			kind = DisputeWon
		}
		p.DisputeState = map[bool]string{true: "won", false: "lost"}[won]
		term := p.DisputedTerm
		p.DisputedTerm = -1
		s.record(p, Fact{Kind: kind, Term: term})
		if rest := p.Terms[term].Cents - p.Terms[term].Refunded; p.Provider == Google && !won && rest > 0 {
			s.refund(p, term, rest, chargeback)
		}
		return nil
	})
}

// Transfer moves the purchase to another customer of the aggregator.
func (s *Sim) Transfer(id, to string) error {
	return s.act(id, func(p *Purchase) error {
		if p.Provider != RevenueCat && p.Provider != Adapty && p.Provider != Iaptic {
			return refuse("%s moves nothing from one customer to another", p.Provider)
		}
		if to == "" || to == p.Owner {
			return refuse("%s is theirs already", id)
		}
		from := p.Owner
		p.Owner = s.customer(to).Account
		s.index.hold(to, p)
		p.Shares = slices.DeleteFunc(p.Shares, func(a string) bool { return a == to })
		s.record(p, Fact{Kind: Transferred, From: from, To: to})
		return nil
	})
}

// Share lets another customer use the purchase: a member of the family at Apple, another profile of the store account at Adapty and iaptic.
func (s *Sim) Share(id, with string) error {
	return s.act(id, func(p *Purchase) error {
		switch {
		case p.Phase == Ended || p.Phase == Pending || p.Product.Kind == Consumable:
			return refuse("%s is %s", id, p.Phase)
		case with == "" || with == p.Owner || slices.Contains(p.Shares, with):
			return refuse("%s may use %s already", with, id)
		case p.Provider != Apple && p.Provider != Adapty && p.Provider != Iaptic:
			return refuse("%s shares nothing", p.Provider)
		}
		p.Shares = append(p.Shares, s.customer(with).Account)
		s.index.hold(with, p)
		if p.Provider == Apple {
			s.shareAtApple(p, with)
		}
		s.record(p, Fact{Kind: Shared, To: with})
		return nil
	})
}

// Unshare takes it from them again.
func (s *Sim) Unshare(id, from string) error {
	return s.act(id, func(p *Purchase) error {
		if !slices.Contains(p.Shares, from) {
			return refuse("%s does not use %s", from, id)
		}
		p.Shares = slices.DeleteFunc(p.Shares, func(a string) bool { return a == from })
		s.record(p, Fact{Kind: Unshared, From: from})
		if child := s.purchases[familyName(p.ID, from)]; child != nil && child.Phase != Ended {
			s.revokeFamily(child)
		}
		return nil
	})
}

// Resubscribe buys again what has ended. In the App Store it is the same chain, elsewhere another purchase, which is returned.
func (s *Sim) Resubscribe(id string) (Purchase, error) {
	s.mu.Lock()
	p := s.purchases[id]
	if p == nil || p.SharedOf != "" || !p.recurs() || p.Phase != Ended {
		s.mu.Unlock()
		return Purchase{}, refuse("%q has not ended, or is no subscription", id)
	}
	if p.Store != AppStore {
		s.mu.Unlock()
		return s.Buy(Order{Provider: p.Provider, Env: p.Env, Account: p.Owner, Product: p.Product.ID})
	}
	defer s.mu.Unlock()
	p.WillRenew, p.CardFails, p.TurnedOff, p.EndedAt, p.EndReason, p.Next = true, false, time.Time{}, time.Time{}, "", p.Product
	s.renew(p, s.clock, Resubscribed)
	return *p.copy(), nil
}
