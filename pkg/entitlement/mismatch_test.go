package entitlement

import (
	"fmt"
	"testing"
)

// Where money and access disagree is found, and what is a rule is no mismatch (R75).
func TestMismatches(t *testing.T) {
	x := NewCatalogIndex(&Catalog{Products: []Product{
		{Provider: Stripe, ID: "price_pro_monthly", Kind: KindRecurring, Entitlements: []string{"pro"}},
		{Provider: Apple, ID: "pro", Kind: KindRecurring, Entitlements: []string{"pro"}},
		{Provider: Apple, ID: "yearly", Kind: KindRecurring, Entitlements: []string{"pro"}},
		{Provider: Stripe, ID: "price_pack", Kind: KindPackage, Deliver: DeliverCode, Accesses: []ModuleAccess{{Module: "algebra"}}}}})
	paid := invoice("in_2", InvoicePaid, line(start, end, 999))
	renews, cancelled := standing(april, Renewal{Phase: PhaseActive, WillRenew: true}), standing(april+1, Renewal{Phase: PhaseActive})
	const apple, within = april, april + 10*day
	trial := func(t *Transaction) { t.Trial = true }
	family := func(t *Transaction) { t.Ownership = Family }
	tests := []struct {
		name     string
		now      int64
		nobodys  bool
		evidence []Object
		want     string
	}{
		{"paid for and open", start + day, false, []Object{subscriptionIs(Active), paid}, "[]"},
		{"paid for and nobody's", start + day, true, []Object{subscriptionIs(Active), paid}, "[{paid_but_unclaimed si_1 +0}]"},
		{"paid for and not in the catalog", start + day, true, []Object{subscriptionIs(Active, sells("price_new")), paid}, "[{paid_but_unmapped si_1 +0}]"},
		{"nobody's, and given by a code", start + day, true, []Object{checkout(CheckoutPaid), sale("price_pack")}, "[]"},
		{"ended at once, and not given back", start + day, false, []Object{subscriptionIs(Canceled, endedAt(start+hour)), paid}, "[{paid_but_locked si_1 +3600}]"},
		{"ended at once, and given back", start + day, false, []Object{subscriptionIs(Canceled, endedAt(start+hour)), paidBy(paid, "ch_1", "pi_1"), charge("ch_1", "pi_1", "in_2", 999)}, "[]"},
		{"ended at once, and what was paid for is over", end, false, []Object{subscriptionIs(Canceled, endedAt(start+hour)), paid}, "[]"},
		{"a disputed payment", start + day, false, []Object{subscriptionIs(Active), paidBy(paid, "ch_1", "pi_1"), dispute("needs_response", start+hour)}, "[]"},
		{"a bill that waits to be paid by hand", start + 2*day, false, []Object{subscriptionIs(Active), invoice("in_2", InvoiceOpen, line(start, end, 999))}, "[{open_but_unpaid si_1 +0}]"},
		{"a bill that was made an hour ago", start + hour, false, []Object{subscriptionIs(Active), invoice("in_2", InvoiceDraft, line(start, end, 999))}, "[]"},
		{"nothing is collected", start + 2*day, false, []Object{subscriptionIs(Active, collectionPaused), invoice("in_2", InvoiceVoid, line(start, end, 999))}, "[{open_but_unpaid si_1 +0}]"},
		{"a bill that nobody told of", start + 2*day, false, []Object{subscriptionIs(Active)}, "[]"},
		{"a trial", start + 2*day, false, []Object{subscriptionIs(Trialing, trialUntil(end)), invoice("in_2", InvoiceDraft, line(start, end, 0))}, "[]"},
		{"billing grace", start + 2*day, false, []Object{subscriptionIs(PastDue), invoice("in_1", InvoicePaid, line(start-month, start, 999)), invoice("in_2", InvoiceOpen, line(start, end, 999))}, "[]"},
		{"a renewal of which nobody has told for two hours", end + 2*hour, false, []Object{subscriptionIs(Active), paid}, "[{open_but_unpaid si_1 +2592000}]"},
		{"a renewal that is due", end + hour - 1, false, []Object{subscriptionIs(Active), paid}, "[]"},
		{"charged after it was over", end + day, false, []Object{subscriptionIs(Canceled, endedAt(end)), paid, invoice("in_3", InvoicePaid, line(end, end+month, 999))},
			"[{charged_after_cancel si_1 +2592000} {paid_but_locked si_1 +2592000}]"},
		{"charged after the end that a cancel set", end + day, false, []Object{subscriptionIs(Active, cancelAtEnd), paid, invoice("in_3", InvoicePaid, line(end, end+month, 999))},
			"[{charged_after_cancel si_1 +2592000} {paid_but_locked si_1 +2592000}]"},
		{"charged after it was over, and given back", end + day, false, []Object{subscriptionIs(Canceled, endedAt(end)), paid, paidBy(invoice("in_3", InvoicePaid, line(end, end+month, 999)), "ch_3", "pi_3"), charge("ch_3", "pi_3", "in_3", 999)}, "[]"},
		{"a last bill for what was used before it was over", end + day, false, []Object{subscriptionIs(Canceled, endedAt(end)), paid, invoice("in_3", InvoicePaid, line(start, end, 999))}, "[]"},

		{"a store's, paid for and open", within, false, []Object{term("2", april, may), renews}, "[]"},
		{"a store's, ended early", within, false, []Object{term("2", april, may), standing(april+day, Renewal{Phase: PhaseExpired})}, "[{paid_but_locked 1000 +86400}]"},
		{"a store's, given back", within, false, []Object{term("2", april, may, revokedAt(april+day)), standing(april+day, Renewal{Phase: PhaseExpired})}, "[]"},
		{"a store's trial, ended early", within, false, []Object{term("2", april, may, trial), standing(april+day, Renewal{Phase: PhaseExpired})}, "[]"},
		{"a store's, ended early for the family", within, false, []Object{term("2", april, may, family), standing(april+day, Renewal{Phase: PhaseExpired})}, "[]"},
		{"a year that was changed for a month, which is over", june + day, false, []Object{term("2", april, april+365*day, yearly), term("3", may, june), standing(june, Renewal{Phase: PhaseExpired})}, "[]"},
		{"a store's, cancelled and charged again", may + day, false, []Object{term("2", april, may), cancelled, term("3", may, june)}, fmt.Sprintf("[{charged_after_cancel 1000 +%d}]", may-april)},
		{"a store's, cancelled, taken up again and charged", may + day, false, []Object{term("2", april, may), standing(may, Renewal{Phase: PhaseActive, WillRenew: true}), term("3", may, june)}, "[]"},
		{"a store's, cancelled and charged again, and given back", may + day, false, []Object{term("2", april, may), cancelled, term("3", may, june, revokedAt(may+hour))}, "[]"},
		{"a store's, over and charged again", may + 3*day, false, []Object{term("2", april, may), standing(may, Renewal{Phase: PhaseExpired}), term("3", may+2*day, june)}, fmt.Sprintf("[{charged_after_cancel 1000 +%d}]", may+2*day-april)},
		{"a card that is retried", may + day, false, []Object{term("2", april, may), standing(may, Renewal{Phase: PhaseBillingRetry, WillRenew: true})}, "[]"},
		{"a renewal that the store has not told of", may + 2*hour, false, []Object{term("2", april, may), renews}, fmt.Sprintf("[{open_but_unpaid 1000 +%d}]", may-april)},

		{"an aggregator has ended what the store has not", within, false, []Object{term("2", april, may), by(Apple, april+2*day, renews),
			by(RevenueCat, april, term("2", april, may, func(t *Transaction) { t.Chain = "rc" })), by(RevenueCat, april+day, Object{Kind: KindRenewal, ID: "rc", Links: []Link{"apple:1000"}, Renewal: &Renewal{Phase: PhaseExpired}})},
			fmt.Sprintf("[{providers_disagree  +%d}]", 2*day)},
		{"an aggregator has not told of the renewal", may + 2*day, false, []Object{term("2", april, may), term("3", may, june), by(Apple, may, renews),
			by(RevenueCat, april, term("2", april, may, func(t *Transaction) { t.Chain = "rc" }))}, "[]"},
		{"both have ended it", within, false, []Object{term("2", april, may, revokedAt(april+day)), by(RevenueCat, april, term("2", april, may, revokedAt(april+day), func(t *Transaction) { t.Chain = "rc" }))}, "[]"},
		{"a test", within, true, []Object{func() Object { o := term("2", april, may); o.Sandbox = true; return o }(), renews}, "[]"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			from := int64(start)
			if tt.evidence[0].By == Apple {
				from = apple
			}
			got := []string{}
			for _, m := range Mismatches(Evidence{}.Add(tt.evidence...), DefaultPolicy, x, !tt.nobodys, tt.now) {
				got = append(got, fmt.Sprintf("{%s %s +%d}", m.Kind, m.Item, m.Since-from))
			}
			if text := fmt.Sprint(got); text != tt.want {
				t.Errorf("%s, want %s", text, tt.want)
			}
		})
	}
}
