package storesim

import (
	"time"
)

// stripeDraft is how long Stripe leaves a renewal's invoice a draft before it charges the card.
const stripeDraft = time.Hour

// record writes a fact about the last term, or the one that it names, and lets the provider tell of it.
func (s *Sim) record(p *Purchase, f Fact) {
	f.At, f.Purchase, p.ChangedAt = s.clock, p.ID, s.clock
	if f.Kind != Refunded && f.Kind != RefundReversed && f.Kind != DisputeOpened && f.Kind != DisputeWon && f.Kind != DisputeLost {
		f.Term = p.present()
	}
	if f.Product == "" {
		f.Product = p.Product.ID
	}
	s.facts = append(s.facts, f)
	s.index.note(p)
	p.waited = p.waited || f.Kind == PaymentPending
	s.tell(p, f)
	s.mirror(p, f)
}

// tell renders a fact in the provider's dialect and sends it.
func (s *Sim) tell(p *Purchase, f Fact) {
	messages := map[Provider]func(*Purchase, Fact){
		Stripe: s.tellStripe, Apple: s.tellApple, Google: s.tellGoogle, RevenueCat: s.tellRevenueCat, Adapty: s.tellAdapty, Iaptic: s.tellIaptic, Web2Wave: s.tellWeb2Wave,
	}
	messages[p.Provider](p, f)
	if store := map[Store]Provider{AppStore: Apple, PlayStore: Google, StripeStore: Stripe}[p.Store]; p.StoreTells && store != p.Provider {
		messages[store](p, f)
	}
}

// awaitEnd does at the end of the present term what is due then.
func (s *Sim) awaitEnd(p *Purchase) {
	if !p.recurs() || p.SharedOf != "" {
		return
	}
	term, end := p.present(), p.last().EndsAt
	s.schedule(later(end, s.clock), func() {
		if p.present() == term && p.last().EndsAt.Equal(end) && p.Phase == Active {
			s.termEnds(p)
		}
	})
}

func (s *Sim) termEnds(p *Purchase) {
	switch {
	case p.PauseDue:
		p.PauseDue, p.Phase = false, Paused
		until := p.ResumesAt
		s.record(p, Fact{Kind: PauseBegan, Until: until})
		s.schedule(until, func() {
			if p.Phase == Paused && p.ResumesAt.Equal(until) {
				s.resume(p)
			}
		})
	case !p.WillRenew:
		s.expire(p, "cancelled")
	case p.Provider == Stripe:
		s.draft(p)
	case p.CardFails:
		s.fail(p)
	default:
		s.renew(p, p.last().EndsAt, Renewed)
	}
}

// draft is Stripe's renewal: the period moves at once, the card is charged an hour later.
func (s *Sim) draft(p *Purchase) {
	p.Product = p.Next
	p.Terms = append(p.Terms, s.term(p, p.Product, p.last().EndsAt, 0))
	s.index.note(p)
	term := p.present()
	s.facts = append(s.facts, Fact{At: s.clock, Kind: Billed, Purchase: p.ID, Term: term, Product: p.Product.ID, Until: p.last().EndsAt})
	s.tellStripeDraft(p)
	s.schedule(s.clock.Add(stripeDraft), func() {
		switch {
		case p.Phase != Active || p.present() != term:
		case p.CardFails:
			s.fail(p)
		default:
			p.last().PaidAt = s.clock
			s.record(p, Fact{Kind: Renewed, Until: p.last().EndsAt})
			s.awaitEnd(p)
		}
	})
}

// renew begins the next term at start.
func (s *Sim) renew(p *Purchase, start time.Time, kind FactKind) {
	p.Product = p.Next
	p.Terms = append(p.Terms, s.term(p, p.Product, start, 0))
	p.last().PaidAt = s.clock
	p.Phase, p.FailedAt, p.GraceEnds, p.RetryEnds = Active, time.Time{}, time.Time{}, time.Time{}
	s.record(p, Fact{Kind: kind, Until: p.last().EndsAt})
	s.awaitEnd(p)
}

// fail is the first charge for a renewal that fails.
func (s *Sim) fail(p *Purchase) {
	grace, retry := s.config.Rules.Grace[p.Store], s.config.Rules.Retry[p.Store]
	p.FailedAt = s.clock
	p.last().Attempts++
	p.Phase, p.RetryEnds = Retry, s.clock.Add(retry)
	if grace > 0 {
		p.Phase, p.GraceEnds = Grace, s.clock.Add(grace)
		ends := p.GraceEnds
		s.schedule(ends, func() {
			if p.Phase == Grace && p.GraceEnds.Equal(ends) {
				p.Phase, p.GraceEnds = Retry, time.Time{}
				s.record(p, Fact{Kind: GraceExpired})
			}
		})
	}
	s.record(p, Fact{Kind: RenewalFailed, Until: p.GraceEnds})
	ends := p.RetryEnds
	s.schedule(ends, func() {
		if (p.Phase == Grace || p.Phase == Retry) && p.RetryEnds.Equal(ends) {
			s.expire(p, "billing")
		}
	})
}

// recover charges what failed: within the grace the term begins where the last one ended, after it now. Stripe's period has moved already.
func (s *Sim) recover(p *Purchase) {
	if p.Provider == Stripe {
		p.Phase, p.FailedAt, p.RetryEnds, p.last().PaidAt = Active, time.Time{}, time.Time{}, s.clock
		s.record(p, Fact{Kind: Recovered, Until: p.last().EndsAt})
		s.awaitEnd(p)
		return
	}
	start := s.clock
	if p.Phase == Grace {
		start = p.last().EndsAt
	}
	s.renew(p, start, Recovered)
}

func (s *Sim) resume(p *Purchase) {
	p.ResumesAt = time.Time{}
	s.renew(p, s.clock, Resumed)
}

func (s *Sim) expire(p *Purchase, reason string) {
	s.finish(p, reason)
	s.record(p, Fact{Kind: Expired, Reason: reason})
}

func (s *Sim) finish(p *Purchase, reason string) {
	p.Phase, p.EndedAt, p.EndReason, p.PauseDue = Ended, s.clock, reason, false
	p.GraceEnds, p.ResumesAt = time.Time{}, time.Time{}
}

func familyName(id, member string) string { return id + "/" + member }

// shareAtApple gives a member of the family a purchase of their own, as Apple does: with ids of its own and nothing that names who paid.
func (s *Sim) shareAtApple(p *Purchase, member string) {
	child := p.copy()
	child.ID, child.N, child.Owner, child.Shares, child.SharedOf = familyName(p.ID, member), len(s.order)+1, member, nil, p.ID
	child.Terms, child.noted = child.Terms[child.present():], 0
	s.order = append(s.order, child)
	s.purchases[child.ID] = child
	s.index.hold(member, child)
	s.sold[child.ID] = Sold{Provider: p.Provider, Store: p.Store, Env: p.Env, Owner: member, Entitlement: p.Product.Entitlement, Recurring: p.recurs()}
	s.record(child, Fact{Kind: Bought, Until: child.last().EndsAt, Trial: child.last().Trial})
	if child.Phase == Grace || child.Phase == Retry { // Apple tells of both with one message
		s.facts = append(s.facts, Fact{At: s.clock, Kind: RenewalFailed, Purchase: child.ID, Term: child.present(), Product: child.Product.ID, Until: child.GraceEnds})
	}
}

func (s *Sim) revokeFamily(child *Purchase) {
	child.last().RevokedAt = s.clock
	s.finish(child, "refund")
	s.record(child, Fact{Kind: Refunded, Term: child.present(), Full: true})
}

// mirror lets what happens to a purchase happen to the family's part of it.
func (s *Sim) mirror(p *Purchase, f Fact) {
	if p.Provider != Apple {
		return
	}
	for _, member := range p.Shares {
		child := s.purchases[familyName(p.ID, member)]
		if child == nil || child.Phase == Ended {
			continue
		}
		switch f.Kind {
		case Bought, Shared, Unshared, ChangeScheduled, RefundReversed:
		case Refunded:
			if f.Term == p.present() {
				s.revokeFamily(child)
			}
		case Renewed, Recovered, Upgraded:
			if f.Kind == Upgraded {
				child.last().Upgraded = true
			}
			child.Terms = append(child.Terms, *p.last())
			s.follow(child, p, f)
		case Extended:
			child.last().EndsAt = p.last().EndsAt
			s.follow(child, p, f)
		default:
			s.follow(child, p, f)
		}
	}
}

// follow takes over where the family's purchase stands.
func (s *Sim) follow(child, p *Purchase, f Fact) {
	child.Product, child.Next, child.Phase, child.WillRenew, child.TurnedOff = p.Product, p.Next, p.Phase, p.WillRenew, p.TurnedOff
	child.FailedAt, child.GraceEnds, child.RetryEnds, child.EndedAt, child.EndReason = p.FailedAt, p.GraceEnds, p.RetryEnds, p.EndedAt, p.EndReason
	s.record(child, Fact{Kind: f.Kind, Until: f.Until, Reason: f.Reason, Product: f.Product})
}
