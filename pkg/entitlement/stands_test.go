package entitlement

import "testing"

// Somebody waits for what they paid for and for what will charge them, not for what was never paid or was given back.
func TestWhatStands(t *testing.T) {
	paidNow := paidBy(invoice("in_2", InvoicePaid, line(start, end, 999)), "ch_1", "pi_1")
	failed := func(t *Transaction) { t.State = TransactionFailed }
	pending := func(t *Transaction) { t.State = TransactionPending }
	tests := []struct {
		name    string
		objects []Object
		until   int64
		stands  bool
	}{
		{"a subscription that is paid for", []Object{subscriptionIs(Active), paidNow}, end + spare, true},
		{"a trial", []Object{subscriptionIs(Trialing, trialUntil(end))}, end + spare, true},
		{"one whose card is retried", []Object{subscriptionIs(PastDue), paidNow}, end + grace, true},
		{"one that is paused", []Object{subscriptionIs(Paused), paidNow}, end, true},
		{"one that is over", []Object{subscriptionIs(Canceled, endedAt(end)), paidNow}, end, true},
		{"one whose first payment did not come yet", []Object{subscriptionIs(Incomplete)}, 0, false},
		{"one whose first payment never came", []Object{subscriptionIs(IncompleteExpired, endedAt(start+day))}, 0, false},
		{"one that was refunded", []Object{subscriptionIs(Active), paidNow, charge("ch_1", "pi_1", "in_2", 999)}, 0, false},
		{"one that is disputed", []Object{subscriptionIs(Active), paidNow, dispute("needs_response", start+day)}, 0, false},
		{"a dispute that was won", []Object{subscriptionIs(Active), paidNow, dispute("won", start+day)}, end + spare, true},
		{"a payment", []Object{checkout(CheckoutPaid), sale("price_lifetime")}, 0, true},
		{"a payment that did not come yet", []Object{checkout(CheckoutUnpaid), sale("price_lifetime")}, 0, false},
		{"a payment that failed", []Object{checkout(CheckoutFailed), sale("price_lifetime")}, 0, false},
		{"a payment that was refunded", []Object{checkout(CheckoutPaid), sale("price_lifetime"), charge("ch_1", "pi_1", "", 999)}, 0, false},
		{"a payment for nobody knows what", []Object{checkout(CheckoutPaid)}, 0, true},
		{"the same, not paid", []Object{checkout(CheckoutUnpaid)}, 0, false},
		{"the same, refunded", []Object{checkout(CheckoutPaid), charge("ch_1", "pi_1", "", 999)}, 0, false},
		{"the same, disputed", []Object{checkout(CheckoutPaid), dispute("needs_response", start+day)}, 0, false},
		{"a term of a store", []Object{term("2", april, may)}, may, true},
		{"one that is over, paid for", []Object{term("2", april, may), standing(may, Renewal{Phase: PhaseExpired, EndedAt: may})}, may, true},
		{"one that failed", []Object{term("2", april, may, failed)}, 0, false},
		{"one that is under way", []Object{term("2", april, may, pending)}, 0, false},
		{"one that was taken back", []Object{term("2", april, may, revokedAt(april+day))}, 0, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			e := Evidence{}.Add(tt.objects...)
			p := Fold(e, DefaultPolicy)
			if until, stands := e.Stands(&p); until != tt.until || stands != tt.stands {
				t.Errorf("Stands(%+v) = %d, %t, want %d, %t", p, until, stands, tt.until, tt.stands)
			}
		})
	}
}
