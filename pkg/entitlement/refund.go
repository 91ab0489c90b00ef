package entitlement

import "slices"

// maxAmount is what an amount of money is cut to: far above any real one, and so small that the sum over every object of a purchase
// cannot overflow.
const maxAmount = 1 << 43

// ledger answers what money was given back. Providers tie a refund to what it pays back over up to three ids (charge, payment intent,
// invoice), and no single message carries all of them, so ids that name one payment are joined first.
type ledger struct {
	same     map[string]string   // id of a charge or payment intent -> another name of the same payment
	payments map[string]*payment // by its representative id
	invoices map[string][]string // invoice id -> charge and payment intent ids, in the order of the evidence
	parts    map[string]int64    // invoice id -> the largest part that one of its payments said it paid
}

// payment is one taking of money and everything that was given back of it.
type payment struct {
	charges []*Object
	refunds []*Object
}

func newLedger(objects []Object) *ledger {
	l := &ledger{same: map[string]string{}, payments: map[string]*payment{}, invoices: map[string][]string{}, parts: map[string]int64{}}
	for i := range objects {
		switch o := &objects[i]; {
		case o.Charge != nil:
			l.join(o.ID, o.Charge.PaymentIntent)
			l.ties(o.Charge.Invoice, o.ID)
		case o.Refund != nil:
			l.join(o.Refund.Charge, o.Refund.PaymentIntent)
		case o.Dispute != nil:
			l.join(o.Dispute.Charge, o.Dispute.PaymentIntent)
		case o.Invoice != nil:
			l.join(o.Invoice.Charge, o.Invoice.PaymentIntent)
			l.ties(o.ID, o.Invoice.Charge, o.Invoice.PaymentIntent)
		case o.Payment != nil:
			l.join(o.Payment.Charge, o.Payment.PaymentIntent)
			l.ties(o.Payment.Invoice, o.Payment.Charge, o.Payment.PaymentIntent)
			l.parts[o.Payment.Invoice] = max(l.parts[o.Payment.Invoice], amount(o.Payment.AmountPaid))
		case o.Checkout != nil:
			l.ties(o.Checkout.Invoice, o.Checkout.PaymentIntent)
		}
	}
	for i := range objects {
		switch o := &objects[i]; {
		case o.Charge != nil:
			p := l.paymentOf(o.ID)
			p.charges = append(p.charges, o)
		case o.Refund != nil:
			if id := firstOf(o.Refund.PaymentIntent, o.Refund.Charge); id != "" {
				p := l.paymentOf(id)
				p.refunds = append(p.refunds, o)
			}
		}
	}
	return l
}

func firstOf(ids ...string) string {
	for _, id := range ids {
		if id != "" {
			return id
		}
	}
	return ""
}

func (l *ledger) join(a, b string) {
	if a == "" || b == "" {
		return
	}
	if a, b = l.name(a), l.name(b); a != b {
		l.same[max(a, b)] = min(a, b)
	}
}

// name returns the representative id: the smallest, which does not depend on the order of joining.
func (l *ledger) name(id string) string {
	for {
		next, ok := l.same[id]
		if !ok {
			return id
		}
		id = next
	}
}

func (l *ledger) ties(invoice string, ids ...string) {
	for _, id := range ids {
		if invoice != "" && id != "" {
			l.invoices[invoice] = append(l.invoices[invoice], id)
		}
	}
}

func (l *ledger) paymentOf(id string) *payment {
	id = l.name(id)
	p := l.payments[id]
	if p == nil {
		p = &payment{}
		l.payments[id] = p
	}
	return p
}

// invoiceRefunded reports whether what was paid on an invoice has been given back in full, and since when (Unix seconds). paid is the invoice's
// own word for how much that was, 0 when it has not been seen.
func (l *ledger) invoiceRefunded(invoice string, paid int64) (at int64, full bool) {
	// A payment that covered a part of the invoice, given back in full, is not the whole invoice.
	inParts := l.parts[invoice] > 0 && l.parts[invoice] < amount(paid)
	return l.refunded(l.invoices[invoice], paid, inParts)
}

// refunded is invoiceRefunded for the payments of ids.
func (l *ledger) refunded(ids []string, paid int64, inParts bool) (at int64, full bool) {
	var names []string
	for _, id := range ids {
		if name := l.name(id); l.payments[name] != nil {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	names = slices.Compact(names)
	var back int64
	each := len(names) > 0
	for _, name := range names {
		p := l.payments[name]
		returned, whole := p.returned()
		back += returned
		each = each && whole
		at = max(at, p.returnedAt())
	}
	if paid = amount(paid); paid > 0 && back >= paid || each && !inParts {
		return max(at, 1), true
	}
	return 0, false
}

// returned says how much was given back, and whether that is all. The charge and the refunds each tell it, and either may be behind: the
// larger counts, except that a charge which is not newer than the failure of a refund still counts that refund.
func (p *payment) returned() (back int64, whole bool) {
	var taken, byCharge, byRefunds int64
	whole = len(p.charges) > 0
	for _, r := range p.refunds {
		if !r.Refund.undone() {
			byRefunds += amount(r.Refund.Amount)
		}
	}
	for _, c := range p.charges {
		counted, failed := amount(c.Charge.AmountRefunded), int64(0)
		if c.Charge.Refunded {
			counted = max(counted, amount(c.Charge.Amount))
		}
		for _, r := range p.refunds {
			if r.Refund.undone() && r.At >= c.At && (r.Refund.Charge == c.ID || r.Refund.Charge == "") {
				failed += amount(r.Refund.Amount)
			}
		}
		taken += amount(c.Charge.Amount)
		byCharge += max(counted-failed, 0)
		whole = whole && (c.Charge.Refunded && failed == 0)
	}
	back = max(byCharge, byRefunds)
	return back, whole || taken > 0 && back >= taken
}

// returnedAt is when the last refund was made, by the refunds' word, else by the charge's.
func (p *payment) returnedAt() (at int64) {
	for _, r := range p.refunds {
		if !r.Refund.undone() {
			at = max(at, clampTime(r.Refund.CreatedAt))
		}
	}
	if at > 0 {
		return at
	}
	for _, c := range p.charges {
		at = max(at, seconds(c.At))
	}
	return at
}

func (r *Refund) undone() bool { return r.Status == RefundFailed || r.Status == RefundCanceled }

// amount makes an amount of money safe to add up.
func amount(n int64) int64 { return min(max(n, 0), maxAmount) }
