package entitlement

import "github.com/latchkey/latchkey/pkg/entitlement/canonical"

// Decode reads the types of this file by hand, about three times as fast as the general decoder (BenchmarkCanonical): edges read an account
// for each check, writers an event and a purchase for each message. A field that is new must be added here and in append.go; the tests
// of this package say so.

// ReadCanonical implements canonical.Readable.
func (e *Event) ReadCanonical(r *canonical.Reader) {
	r.Fields(func(field uint64) {
		switch field {
		case 1:
			e.Provider = Provider(r.String())
		case 2:
			e.ID = r.String()
		case 3:
			e.Environment = Environment(r.String())
		case 4:
			e.Type = r.String()
		case 5:
			e.CreatedAt = r.Int()
		case 6:
			e.Kind = EventKind(r.Small())
		case 7:
			e.Objects = canonical.List(r, func(x *Object) { x.ReadCanonical(r) })
		case 8:
			e.Raw = r.Bytes()
		default:
			r.Fail()
		}
	})
}

// ReadCanonical implements canonical.Readable.
func (o *Object) ReadCanonical(r *canonical.Reader) {
	r.Fields(func(field uint64) {
		switch field {
		case 1:
			o.Kind = ObjectKind(r.String())
		case 2:
			o.ID = r.String()
		case 3:
			o.Final = r.Bool()
		case 4:
			o.At = r.Int()
		case 5:
			o.Rank = r.Small()
		case 6:
			o.Tied = r.Bool()
		case 7:
			o.Partial = r.Bool()
		case 8:
			o.Account = AccountID(r.String())
		case 9:
			o.Aliases = canonical.List(r, func(x *Alias) { x.read(r) })
		case 10:
			o.Links = canonical.Texts[Link](r)
		case 11:
			o.Subscription = &Subscription{}
			o.Subscription.read(r)
		case 12:
			o.Invoice = &Invoice{}
			o.Invoice.read(r)
		case 13:
			o.Payment = &Payment{}
			o.Payment.read(r)
		case 14:
			o.Charge = &Charge{}
			o.Charge.read(r)
		case 15:
			o.Refund = &Refund{}
			o.Refund.read(r)
		case 16:
			o.Dispute = &Dispute{}
			o.Dispute.read(r)
		case 17:
			o.Checkout = &Checkout{}
			o.Checkout.read(r)
		case 18:
			o.Sale = &Sale{}
			o.Sale.read(r)
		case 19:
			o.Hint = &Hint{}
			o.Hint.read(r)
		case 20:
			o.By = Provider(r.String())
		case 21:
			o.Transaction = &Transaction{}
			o.Transaction.read(r)
		case 22:
			o.Renewal = &Renewal{}
			o.Renewal.read(r)
		case 23:
			o.Revocation = &Revocation{}
			o.Revocation.read(r)
		case 24:
			o.Customer = &Customer{}
			o.Customer.read(r)
		case 25:
			o.Shares = canonical.List(r, func(x *Alias) { x.read(r) })
		case 26:
			o.Sandbox = r.Bool()
		case 27:
			o.Person = r.String()
		case 28:
			o.Naming = &Naming{}
			o.Naming.read(r)
		case 29:
			o.Former = canonical.List(r, func(x *FormerName) { x.read(r) })
		case 30:
			o.NamedSince = r.Int()
		default:
			r.Fail()
		}
	})
}

func (n *FormerName) read(r *canonical.Reader) {
	r.Fields(func(field uint64) {
		switch field {
		case 1:
			n.Account = AccountID(r.String())
		case 2:
			n.Aliases = canonical.List(r, func(x *Alias) { x.read(r) })
		case 3:
			n.At = r.Int()
		case 4:
			n.Since = r.Int()
		default:
			r.Fail()
		}
	})
}

func (n *Naming) read(r *canonical.Reader) {
	r.Fields(func(field uint64) {
		switch field {
		case 1:
			n.Account = AccountID(r.String())
		case 2:
			n.Aliases = canonical.List(r, func(x *Alias) { x.read(r) })
		case 3:
			n.At = r.Int()
		case 4:
			n.Chosen = r.Bool()
		default:
			r.Fail()
		}
	})
}

func (a *Alias) read(r *canonical.Reader) {
	r.Fields(func(field uint64) {
		switch field {
		case 1:
			a.Kind = AliasKind(r.String())
		case 2:
			a.Value = r.String()
		default:
			r.Fail()
		}
	})
}

func (s *Subscription) read(r *canonical.Reader) {
	r.Fields(func(field uint64) {
		switch field {
		case 1:
			s.Status = SubscriptionStatus(r.String())
		case 2:
			s.Items = canonical.List(r, func(x *SubscriptionItem) { x.read(r) })
		case 3:
			s.TrialStart = r.Int()
		case 4:
			s.TrialEnd = r.Int()
		case 5:
			s.CancelAt = r.Int()
		case 6:
			s.CancelAtPeriodEnd = r.Bool()
		case 7:
			s.EndedAt = r.Int()
		case 8:
			s.StartedAt = r.Int()
		case 9:
			s.LatestInvoice = r.String()
		case 10:
			s.CollectionPaused = r.Bool()
		default:
			r.Fail()
		}
	})
}

func (i *SubscriptionItem) read(r *canonical.Reader) {
	r.Fields(func(field uint64) {
		switch field {
		case 1:
			i.ID = r.String()
		case 2:
			i.Product = ProductID(r.String())
		case 3:
			i.Also = canonical.Texts[ProductID](r)
		case 4:
			i.Quantity = r.Int()
		case 5:
			i.Price = &Price{}
			i.Price.read(r)
		case 10:
			i.StartsAt = r.Int()
		case 11:
			i.EndsAt = r.Int()
		default:
			r.Fail()
		}
	})
}

func (p *Price) read(r *canonical.Reader) {
	r.Fields(func(field uint64) {
		switch field {
		case 1:
			p.Amount = r.Int()
		case 2:
			p.Currency = r.String()
		case 3:
			p.Period = r.String()
		default:
			r.Fail()
		}
	})
}

func (i *Invoice) read(r *canonical.Reader) {
	r.Fields(func(field uint64) {
		switch field {
		case 1:
			i.Status = InvoiceStatus(r.String())
		case 2:
			i.Subscription = r.String()
		case 3:
			i.PaymentIntent = r.String()
		case 4:
			i.Charge = r.String()
		case 5:
			i.AmountPaid = r.Int()
		case 6:
			i.Currency = r.String()
		case 7:
			i.CreatedAt = r.Int()
		case 8:
			i.PaidAt = r.Int()
		case 9:
			i.Lines = canonical.List(r, func(x *InvoiceLine) { x.read(r) })
		default:
			r.Fail()
		}
	})
}

func (l *InvoiceLine) read(r *canonical.Reader) {
	r.Fields(func(field uint64) {
		switch field {
		case 1:
			l.ID = r.String()
		case 2:
			l.Product = ProductID(r.String())
		case 3:
			l.Also = canonical.Texts[ProductID](r)
		case 4:
			l.Quantity = r.Int()
		case 5:
			l.Price = &Price{}
			l.Price.read(r)
		case 10:
			l.Item = r.String()
		case 11:
			l.Amount = r.Int()
		case 12:
			l.StartsAt = r.Int()
		case 13:
			l.EndsAt = r.Int()
		case 14:
			l.Proration = r.Bool()
		default:
			r.Fail()
		}
	})
}

func (p *Payment) read(r *canonical.Reader) {
	r.Fields(func(field uint64) {
		switch field {
		case 1:
			p.Invoice = r.String()
		case 2:
			p.PaymentIntent = r.String()
		case 3:
			p.Charge = r.String()
		case 4:
			p.Status = r.String()
		case 5:
			p.AmountPaid = r.Int()
		default:
			r.Fail()
		}
	})
}

func (c *Charge) read(r *canonical.Reader) {
	r.Fields(func(field uint64) {
		switch field {
		case 1:
			c.PaymentIntent = r.String()
		case 2:
			c.Invoice = r.String()
		case 3:
			c.Amount = r.Int()
		case 4:
			c.AmountRefunded = r.Int()
		case 5:
			c.Refunded = r.Bool()
		default:
			r.Fail()
		}
	})
}

func (r *Refund) read(in *canonical.Reader) {
	in.Fields(func(field uint64) {
		switch field {
		case 1:
			r.Status = RefundStatus(in.String())
		case 2:
			r.Charge = in.String()
		case 3:
			r.PaymentIntent = in.String()
		case 4:
			r.Amount = in.Int()
		case 5:
			r.CreatedAt = in.Int()
		default:
			in.Fail()
		}
	})
}

func (d *Dispute) read(r *canonical.Reader) {
	r.Fields(func(field uint64) {
		switch field {
		case 1:
			d.Status = r.String()
		case 2:
			d.Charge = r.String()
		case 3:
			d.PaymentIntent = r.String()
		case 4:
			d.Amount = r.Int()
		case 5:
			d.CreatedAt = r.Int()
		default:
			r.Fail()
		}
	})
}

func (c *Checkout) read(r *canonical.Reader) {
	r.Fields(func(field uint64) {
		switch field {
		case 1:
			c.Mode = r.String()
		case 2:
			c.Payment = r.String()
		case 3:
			c.Subscription = r.String()
		case 4:
			c.PaymentIntent = r.String()
		case 5:
			c.Invoice = r.String()
		case 6:
			c.AmountTotal = r.Int()
		case 7:
			c.CreatedAt = r.Int()
		default:
			r.Fail()
		}
	})
}

func (s *Sale) read(r *canonical.Reader) {
	r.Fields(func(field uint64) {
		switch field {
		case 1:
			s.Lines = canonical.List(r, func(x *SaleLine) { x.read(r) })
		default:
			r.Fail()
		}
	})
}

func (l *SaleLine) read(r *canonical.Reader) {
	r.Fields(func(field uint64) {
		switch field {
		case 1:
			l.ID = r.String()
		case 2:
			l.Product = ProductID(r.String())
		case 3:
			l.Also = canonical.Texts[ProductID](r)
		case 4:
			l.Quantity = r.Int()
		case 5:
			l.Price = &Price{}
			l.Price.read(r)
		default:
			r.Fail()
		}
	})
}

func (h *Hint) read(r *canonical.Reader) {
	r.Fields(func(field uint64) {
		switch field {
		case 1:
			h.Of = ObjectKind(r.String())
		case 2:
			h.Echo = r.Bool()
		default:
			r.Fail()
		}
	})
}

func (t *Transaction) read(r *canonical.Reader) {
	r.Fields(func(field uint64) {
		switch field {
		case 1:
			t.Chain = r.String()
		case 2:
			t.Product = ProductID(r.String())
		case 3:
			t.Also = canonical.Texts[ProductID](r)
		case 4:
			t.Quantity = r.Int()
		case 5:
			t.Price = &Price{}
			t.Price.read(r)
		case 10:
			t.State = TransactionState(r.Small())
		case 11:
			t.Recurring = r.Bool()
		case 12:
			t.StartsAt = r.Int()
		case 13:
			t.EndsAt = r.Int()
		case 14:
			t.Trial = r.Bool()
		case 15:
			t.Upgraded = r.Bool()
		case 16:
			t.RevokedAt = r.Int()
		case 17:
			t.Ownership = Ownership(r.String())
		case 18:
			t.Store = r.String()
		case 19:
			t.Provisional = r.Bool()
		case 20:
			t.Promo = r.Bool()
		case 21:
			t.Entitlements = canonical.Texts[string](r)
		default:
			r.Fail()
		}
	})
}

func (n *Renewal) read(r *canonical.Reader) {
	r.Fields(func(field uint64) {
		switch field {
		case 1:
			n.Phase = Phase(r.String())
		case 2:
			n.WillRenew = r.Bool()
		case 3:
			n.Next = ProductID(r.String())
		case 4:
			n.GraceUntil = r.Int()
		case 5:
			n.EndedAt = r.Int()
		case 6:
			n.ResumesAt = r.Int()
		case 7:
			n.Transaction = r.String()
		case 8:
			n.Replaces = r.String()
		case 9:
			n.Unacknowledged = r.Bool()
		default:
			r.Fail()
		}
	})
}

func (n *Revocation) read(r *canonical.Reader) {
	r.Fields(func(field uint64) {
		switch field {
		case 1:
			n.Transaction = r.String()
		case 2:
			n.RevokedAt = r.Int()
		case 3:
			n.Reason = Reason(r.String())
		case 4:
			n.Quantity = r.Int()
		case 5:
			n.Undone = r.Bool()
		default:
			r.Fail()
		}
	})
}

func (c *Customer) read(r *canonical.Reader) {
	r.Fields(func(field uint64) {
		switch field {
		case 1:
			c.Gone = r.Bool()
		default:
			r.Fail()
		}
	})
}

// ReadCanonical implements canonical.Readable.
func (e *Evidence) ReadCanonical(r *canonical.Reader) {
	r.Fields(func(field uint64) {
		switch field {
		case 1:
			e.Links = canonical.Texts[Link](r)
		case 2:
			e.Objects = canonical.List(r, func(x *Object) { x.ReadCanonical(r) })
		default:
			r.Fail()
		}
	})
}

// ReadCanonical implements canonical.Readable.
func (a *Account) ReadCanonical(r *canonical.Reader) {
	r.Fields(func(field uint64) {
		switch field {
		case 1:
			a.ID = AccountID(r.String())
		case 2:
			a.CreatedAt = r.Int()
		case 3:
			a.SessionsFrom = r.Int()
		case 4:
			a.Tester = r.Bool()
		case 5:
			a.Purchases = canonical.List(r, func(x *Purchase) { x.read(r) })
		case 6:
			a.Grants = canonical.List(r, func(x *Grant) { x.read(r) })
		case 7:
			a.Merged = r.Bool()
		case 8:
			a.TrialLocked = r.Bool()
		case 9:
			a.Spent = canonical.List(r, func(x *Spent) { x.read(r) })
		case 10:
			a.Accesses = canonical.List(r, func(x *Access) { x.read(r) })
		case 11:
			a.Awaited = canonical.List(r, func(x *Awaited) { x.read(r) })
		case 12:
			a.SignedOut = canonical.List(r, func(x *SignedOut) { x.read(r) })
		default:
			r.Fail()
		}
	})
}

func (s *SignedOut) read(r *canonical.Reader) {
	r.Fields(func(field uint64) {
		switch field {
		case 1:
			s.Device = r.String()
		case 2:
			s.From = r.Int()
		default:
			r.Fail()
		}
	})
}

func (s *Spent) read(r *canonical.Reader) {
	r.Fields(func(field uint64) {
		switch field {
		case 1:
			s.Credit = r.String()
		case 2:
			s.Amount = r.Int()
		case 3:
			s.Part = r.Int()
		default:
			r.Fail()
		}
	})
}

func (a *Access) read(r *canonical.Reader) {
	r.Fields(func(field uint64) {
		switch field {
		case 1:
			a.ID = r.String()
		case 2:
			a.Module = r.String()
		case 3:
			a.RedeemedAt = r.Int()
		case 4:
			a.Seconds = r.Int()
		case 5:
			a.Stacked = r.Bool()
		case 6:
			a.RevokedAt = r.Int()
		case 7:
			a.Reason = Reason(r.String())
		default:
			r.Fail()
		}
	})
}

func (a *Awaited) read(r *canonical.Reader) {
	r.Fields(func(field uint64) {
		switch field {
		case 1:
			a.ID = r.String()
		case 2:
			a.Provider = Provider(r.String())
		case 3:
			a.Product = ProductID(r.String())
		case 4:
			a.Until = r.Int()
		case 5:
			a.Since = r.Int()
		default:
			r.Fail()
		}
	})
}

func (p *Purchase) read(r *canonical.Reader) {
	r.Fields(func(field uint64) {
		switch field {
		case 1:
			p.ID = PurchaseID(r.String())
		case 2:
			p.Provider = Provider(r.String())
		case 3:
			p.Store = r.String()
		case 4:
			p.Items = canonical.List(r, func(x *Item) { x.read(r) })
		case 5:
			p.TrialUsed = r.Bool()
		case 6:
			p.Doubt = r.Bool()
		case 7:
			p.Sandbox = r.Bool()
		case 8:
			p.Debt = r.Bool()
		case 9:
			p.Part = r.Int()
		case 10:
			p.ForfeitedAt = r.Int()
		default:
			r.Fail()
		}
	})
}

func (i *Item) read(r *canonical.Reader) {
	r.Fields(func(field uint64) {
		switch field {
		case 1:
			i.ID = r.String()
		case 2:
			i.Term.read(r)
		case 3:
			i.State = ItemState(r.Small())
		case 4:
			i.AccessUntil = r.Int()
		case 5:
			i.BillingGraceUntil = r.Int()
		case 6:
			i.WillRenew = r.Bool()
		case 7:
			i.Reason = Reason(r.String())
		case 8:
			i.Recurring = r.Bool()
		case 9:
			i.Next = ProductID(r.String())
		case 10:
			i.Ownership = Ownership(r.String())
		case 11:
			i.Provisional = r.Bool()
		case 12:
			i.Promo = r.Bool()
		case 13:
			i.Entitlements = canonical.Texts[string](r)
		default:
			r.Fail()
		}
	})
}

func (t *Term) read(r *canonical.Reader) {
	r.Fields(func(field uint64) {
		switch field {
		case 1:
			t.ID = TermID(r.String())
		case 2:
			t.Product = ProductID(r.String())
		case 3:
			t.Also = canonical.Texts[ProductID](r)
		case 4:
			t.Quantity = r.Int()
		case 5:
			t.Price = &Price{}
			t.Price.read(r)
		case 10:
			t.StartsAt = r.Int()
		case 11:
			t.EndsAt = r.Int()
		case 12:
			t.Trial = r.Bool()
		case 13:
			t.SupersededAt = r.Int()
		case 14:
			t.RevokedAt = r.Int()
		default:
			r.Fail()
		}
	})
}

func (g *Grant) read(r *canonical.Reader) {
	r.Fields(func(field uint64) {
		switch field {
		case 1:
			g.ID = r.String()
		case 2:
			g.Entitlement = r.String()
		case 3:
			g.CreatedAt = r.Int()
		case 4:
			g.EndsAt = r.Int()
		default:
			r.Fail()
		}
	})
}
