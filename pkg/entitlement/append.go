package entitlement

import "github.com/latchkey/latchkey/pkg/entitlement/canonical"

// Encode writes the types of this file by hand. Fields come in the order of their numbers, with those of embedded structs between; one with
// omitempty is left out when it is zero.

// WriteCanonical implements canonical.Writable.
func (e *Event) WriteCanonical(w *canonical.Writer) {
	m := w.Map()
	w.Field(m, 1)
	w.String(string(e.Provider))
	w.Field(m, 2)
	w.String(e.ID)
	w.Field(m, 3)
	w.String(string(e.Environment))
	w.Text(m, 4, e.Type)
	w.Int(m, 5, e.CreatedAt)
	w.Int(m, 6, int64(e.Kind))
	canonical.WriteList(w, m, 7, e.Objects, func(x *Object) { x.WriteCanonical(w) })
	w.Bytes(m, 8, e.Raw)
}

// WriteCanonical implements canonical.Writable.
func (o *Object) WriteCanonical(w *canonical.Writer) {
	m := w.Map()
	w.Field(m, 1)
	w.String(string(o.Kind))
	w.Field(m, 2)
	w.String(o.ID)
	w.True(m, 3, o.Final)
	w.Int(m, 4, o.At)
	w.Int(m, 5, int64(o.Rank))
	w.True(m, 6, o.Tied)
	w.True(m, 7, o.Partial)
	w.Text(m, 8, string(o.Account))
	canonical.WriteList(w, m, 9, o.Aliases, func(x *Alias) { x.write(w) })
	canonical.WriteTexts(w, m, 10, o.Links)
	if o.Subscription != nil {
		w.Field(m, 11)
		o.Subscription.write(w)
	}
	if o.Invoice != nil {
		w.Field(m, 12)
		o.Invoice.write(w)
	}
	if o.Payment != nil {
		w.Field(m, 13)
		o.Payment.write(w)
	}
	if o.Charge != nil {
		w.Field(m, 14)
		o.Charge.write(w)
	}
	if o.Refund != nil {
		w.Field(m, 15)
		o.Refund.write(w)
	}
	if o.Dispute != nil {
		w.Field(m, 16)
		o.Dispute.write(w)
	}
	if o.Checkout != nil {
		w.Field(m, 17)
		o.Checkout.write(w)
	}
	if o.Sale != nil {
		w.Field(m, 18)
		o.Sale.write(w)
	}
	if o.Hint != nil {
		w.Field(m, 19)
		o.Hint.write(w)
	}
	w.Text(m, 20, string(o.By))
	if o.Transaction != nil {
		w.Field(m, 21)
		o.Transaction.write(w)
	}
	if o.Renewal != nil {
		w.Field(m, 22)
		o.Renewal.write(w)
	}
	if o.Revocation != nil {
		w.Field(m, 23)
		o.Revocation.write(w)
	}
	if o.Customer != nil {
		w.Field(m, 24)
		o.Customer.write(w)
	}
	canonical.WriteList(w, m, 25, o.Shares, func(x *Alias) { x.write(w) })
	w.True(m, 26, o.Sandbox)
	w.Text(m, 27, o.Person)
	if o.Naming != nil {
		w.Field(m, 28)
		o.Naming.write(w)
	}
	canonical.WriteList(w, m, 29, o.Former, func(x *FormerName) { x.write(w) })
	w.Int(m, 30, o.NamedSince)
}

func (n *FormerName) write(w *canonical.Writer) {
	m := w.Map()
	w.Text(m, 1, string(n.Account))
	canonical.WriteList(w, m, 2, n.Aliases, func(x *Alias) { x.write(w) })
	w.Int(m, 3, n.At)
	w.Int(m, 4, n.Since)
}

func (n *Naming) write(w *canonical.Writer) {
	m := w.Map()
	w.Text(m, 1, string(n.Account))
	canonical.WriteList(w, m, 2, n.Aliases, func(x *Alias) { x.write(w) })
	w.Int(m, 3, n.At)
	w.True(m, 4, n.Chosen)
}

func (a *Alias) write(w *canonical.Writer) {
	m := w.Map()
	w.Field(m, 1)
	w.String(string(a.Kind))
	w.Field(m, 2)
	w.String(a.Value)
}

func (s *Subscription) write(w *canonical.Writer) {
	m := w.Map()
	w.Field(m, 1)
	w.String(string(s.Status))
	canonical.WriteList(w, m, 2, s.Items, func(x *SubscriptionItem) { x.write(w) })
	w.Int(m, 3, s.TrialStart)
	w.Int(m, 4, s.TrialEnd)
	w.Int(m, 5, s.CancelAt)
	w.True(m, 6, s.CancelAtPeriodEnd)
	w.Int(m, 7, s.EndedAt)
	w.Int(m, 8, s.StartedAt)
	w.Text(m, 9, s.LatestInvoice)
	w.True(m, 10, s.CollectionPaused)
}

func (i *SubscriptionItem) write(w *canonical.Writer) {
	m := w.Map()
	w.Field(m, 1)
	w.String(i.ID)
	w.Text(m, 2, string(i.Product))
	canonical.WriteTexts(w, m, 3, i.Also)
	w.Int(m, 4, i.Quantity)
	if i.Price != nil {
		w.Field(m, 5)
		i.Price.write(w)
	}
	w.Int(m, 10, i.StartsAt)
	w.Int(m, 11, i.EndsAt)
}

func (p *Price) write(w *canonical.Writer) {
	m := w.Map()
	w.Field(m, 1)
	w.Number(p.Amount)
	w.Field(m, 2)
	w.String(p.Currency)
	w.Text(m, 3, p.Period)
}

func (i *Invoice) write(w *canonical.Writer) {
	m := w.Map()
	w.Field(m, 1)
	w.String(string(i.Status))
	w.Text(m, 2, i.Subscription)
	w.Text(m, 3, i.PaymentIntent)
	w.Text(m, 4, i.Charge)
	w.Int(m, 5, i.AmountPaid)
	w.Text(m, 6, i.Currency)
	w.Int(m, 7, i.CreatedAt)
	w.Int(m, 8, i.PaidAt)
	canonical.WriteList(w, m, 9, i.Lines, func(x *InvoiceLine) { x.write(w) })
}

func (l *InvoiceLine) write(w *canonical.Writer) {
	m := w.Map()
	w.Field(m, 1)
	w.String(l.ID)
	w.Text(m, 2, string(l.Product))
	canonical.WriteTexts(w, m, 3, l.Also)
	w.Int(m, 4, l.Quantity)
	if l.Price != nil {
		w.Field(m, 5)
		l.Price.write(w)
	}
	w.Text(m, 10, l.Item)
	w.Int(m, 11, l.Amount)
	w.Int(m, 12, l.StartsAt)
	w.Int(m, 13, l.EndsAt)
	w.True(m, 14, l.Proration)
}

func (p *Payment) write(w *canonical.Writer) {
	m := w.Map()
	w.Field(m, 1)
	w.String(p.Invoice)
	w.Text(m, 2, p.PaymentIntent)
	w.Text(m, 3, p.Charge)
	w.Text(m, 4, p.Status)
	w.Int(m, 5, p.AmountPaid)
}

func (c *Charge) write(w *canonical.Writer) {
	m := w.Map()
	w.Text(m, 1, c.PaymentIntent)
	w.Text(m, 2, c.Invoice)
	w.Int(m, 3, c.Amount)
	w.Int(m, 4, c.AmountRefunded)
	w.True(m, 5, c.Refunded)
}

func (r *Refund) write(w *canonical.Writer) {
	m := w.Map()
	w.Field(m, 1)
	w.String(string(r.Status))
	w.Text(m, 2, r.Charge)
	w.Text(m, 3, r.PaymentIntent)
	w.Int(m, 4, r.Amount)
	w.Int(m, 5, r.CreatedAt)
}

func (d *Dispute) write(w *canonical.Writer) {
	m := w.Map()
	w.Field(m, 1)
	w.String(d.Status)
	w.Text(m, 2, d.Charge)
	w.Text(m, 3, d.PaymentIntent)
	w.Int(m, 4, d.Amount)
	w.Int(m, 5, d.CreatedAt)
}

func (c *Checkout) write(w *canonical.Writer) {
	m := w.Map()
	w.Field(m, 1)
	w.String(c.Mode)
	w.Text(m, 2, c.Payment)
	w.Text(m, 3, c.Subscription)
	w.Text(m, 4, c.PaymentIntent)
	w.Text(m, 5, c.Invoice)
	w.Int(m, 6, c.AmountTotal)
	w.Int(m, 7, c.CreatedAt)
}

func (s *Sale) write(w *canonical.Writer) {
	m := w.Map()
	canonical.WriteList(w, m, 1, s.Lines, func(x *SaleLine) { x.write(w) })
}

func (l *SaleLine) write(w *canonical.Writer) {
	m := w.Map()
	w.Field(m, 1)
	w.String(l.ID)
	w.Text(m, 2, string(l.Product))
	canonical.WriteTexts(w, m, 3, l.Also)
	w.Int(m, 4, l.Quantity)
	if l.Price != nil {
		w.Field(m, 5)
		l.Price.write(w)
	}
}

func (h *Hint) write(w *canonical.Writer) {
	m := w.Map()
	w.Field(m, 1)
	w.String(string(h.Of))
	w.True(m, 2, h.Echo)
}

func (t *Transaction) write(w *canonical.Writer) {
	m := w.Map()
	w.Text(m, 1, t.Chain)
	w.Text(m, 2, string(t.Product))
	canonical.WriteTexts(w, m, 3, t.Also)
	w.Int(m, 4, t.Quantity)
	if t.Price != nil {
		w.Field(m, 5)
		t.Price.write(w)
	}
	w.Int(m, 10, int64(t.State))
	w.True(m, 11, t.Recurring)
	w.Int(m, 12, t.StartsAt)
	w.Int(m, 13, t.EndsAt)
	w.True(m, 14, t.Trial)
	w.True(m, 15, t.Upgraded)
	w.Int(m, 16, t.RevokedAt)
	w.Text(m, 17, string(t.Ownership))
	w.Text(m, 18, t.Store)
	w.True(m, 19, t.Provisional)
	w.True(m, 20, t.Promo)
	canonical.WriteTexts(w, m, 21, t.Entitlements)
}

func (r *Renewal) write(w *canonical.Writer) {
	m := w.Map()
	w.Text(m, 1, string(r.Phase))
	w.True(m, 2, r.WillRenew)
	w.Text(m, 3, string(r.Next))
	w.Int(m, 4, r.GraceUntil)
	w.Int(m, 5, r.EndedAt)
	w.Int(m, 6, r.ResumesAt)
	w.Text(m, 7, r.Transaction)
	w.Text(m, 8, r.Replaces)
	w.True(m, 9, r.Unacknowledged)
}

func (r *Revocation) write(w *canonical.Writer) {
	m := w.Map()
	w.Field(m, 1)
	w.String(r.Transaction)
	w.Int(m, 2, r.RevokedAt)
	w.Text(m, 3, string(r.Reason))
	w.Int(m, 4, r.Quantity)
	w.True(m, 5, r.Undone)
}

func (c *Customer) write(w *canonical.Writer) {
	m := w.Map()
	w.True(m, 1, c.Gone)
}

// WriteCanonical implements canonical.Writable.
func (e *Evidence) WriteCanonical(w *canonical.Writer) {
	m := w.Map()
	canonical.WriteTexts(w, m, 1, e.Links)
	canonical.WriteList(w, m, 2, e.Objects, func(x *Object) { x.WriteCanonical(w) })
}

// WriteCanonical implements canonical.Writable.
func (a *Account) WriteCanonical(w *canonical.Writer) {
	m := w.Map()
	w.Field(m, 1)
	w.String(string(a.ID))
	w.Int(m, 2, a.CreatedAt)
	w.Int(m, 3, a.SessionsFrom)
	w.True(m, 4, a.Tester)
	canonical.WriteList(w, m, 5, a.Purchases, func(x *Purchase) { x.write(w) })
	canonical.WriteList(w, m, 6, a.Grants, func(x *Grant) { x.write(w) })
	w.True(m, 7, a.Merged)
	w.True(m, 8, a.TrialLocked)
	canonical.WriteList(w, m, 9, a.Spent, func(x *Spent) { x.write(w) })
	canonical.WriteList(w, m, 10, a.Accesses, func(x *Access) { x.write(w) })
	canonical.WriteList(w, m, 11, a.Awaited, func(x *Awaited) { x.write(w) })
	canonical.WriteList(w, m, 12, a.SignedOut, func(x *SignedOut) { x.write(w) })
}

func (s *SignedOut) write(w *canonical.Writer) {
	m := w.Map()
	w.Field(m, 1)
	w.String(s.Device)
	w.Field(m, 2)
	w.Number(s.From)
}

func (s *Spent) write(w *canonical.Writer) {
	m := w.Map()
	w.Field(m, 1)
	w.String(s.Credit)
	w.Field(m, 2)
	w.Number(s.Amount)
	w.Int(m, 3, s.Part)
}

func (a *Access) write(w *canonical.Writer) {
	m := w.Map()
	w.Field(m, 1)
	w.String(a.ID)
	w.Field(m, 2)
	w.String(a.Module)
	w.Int(m, 3, a.RedeemedAt)
	w.Int(m, 4, a.Seconds)
	w.True(m, 5, a.Stacked)
	w.Int(m, 6, a.RevokedAt)
	w.Text(m, 7, string(a.Reason))
}

func (a *Awaited) write(w *canonical.Writer) {
	m := w.Map()
	w.Field(m, 1)
	w.String(a.ID)
	w.Field(m, 2)
	w.String(string(a.Provider))
	w.Text(m, 3, string(a.Product))
	w.Field(m, 4)
	w.Number(a.Until)
	w.Int(m, 5, a.Since)
}

func (p *Purchase) write(w *canonical.Writer) {
	m := w.Map()
	w.Field(m, 1)
	w.String(string(p.ID))
	w.Field(m, 2)
	w.String(string(p.Provider))
	w.Field(m, 3)
	w.String(p.Store)
	canonical.WriteList(w, m, 4, p.Items, func(x *Item) { x.write(w) })
	w.True(m, 5, p.TrialUsed)
	w.True(m, 6, p.Doubt)
	w.True(m, 7, p.Sandbox)
	w.True(m, 8, p.Debt)
	w.Int(m, 9, p.Part)
	w.Int(m, 10, p.ForfeitedAt)
}

func (i *Item) write(w *canonical.Writer) {
	m := w.Map()
	w.Field(m, 1)
	w.String(i.ID)
	w.Field(m, 2)
	i.Term.write(w)
	w.Field(m, 3)
	w.Number(int64(i.State))
	w.Int(m, 4, i.AccessUntil)
	w.Int(m, 5, i.BillingGraceUntil)
	w.True(m, 6, i.WillRenew)
	w.Text(m, 7, string(i.Reason))
	w.True(m, 8, i.Recurring)
	w.Text(m, 9, string(i.Next))
	w.Text(m, 10, string(i.Ownership))
	w.True(m, 11, i.Provisional)
	w.True(m, 12, i.Promo)
	canonical.WriteTexts(w, m, 13, i.Entitlements)
}

func (t *Term) write(w *canonical.Writer) {
	m := w.Map()
	w.Field(m, 1)
	w.String(string(t.ID))
	w.Text(m, 2, string(t.Product))
	canonical.WriteTexts(w, m, 3, t.Also)
	w.Int(m, 4, t.Quantity)
	if t.Price != nil {
		w.Field(m, 5)
		t.Price.write(w)
	}
	w.Int(m, 10, t.StartsAt)
	w.Int(m, 11, t.EndsAt)
	w.True(m, 12, t.Trial)
	w.Int(m, 13, t.SupersededAt)
	w.Int(m, 14, t.RevokedAt)
}

func (g *Grant) write(w *canonical.Writer) {
	m := w.Map()
	w.Field(m, 1)
	w.String(g.ID)
	w.Field(m, 2)
	w.String(g.Entitlement)
	w.Int(m, 3, g.CreatedAt)
	w.Int(m, 4, g.EndsAt)
}
