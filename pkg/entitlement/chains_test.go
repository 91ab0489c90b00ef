package entitlement

import (
	"math/rand/v2"
	"reflect"
	"testing"
)

const (
	march = 1_772_323_200 // 2026-03-01
	april = 1_775_001_600
	may   = 1_777_593_600
	june  = 1_780_272_000
)

// term makes a month of "pro" in the chain 1000 as Apple tells it.
func term(id string, start, end int64, edit ...func(*Transaction)) Object {
	t := &Transaction{Chain: "1000", Sold: Sold{Product: "pro"}, Recurring: true, StartsAt: start, EndsAt: end}
	for _, e := range edit {
		e(t)
	}
	return Object{Kind: KindTransaction, ID: id, By: Apple, At: start * 1e9, Links: []Link{"apple:1000"}, Transaction: t}
}

func standing(at int64, r Renewal) Object {
	return Object{Kind: KindRenewal, ID: "1000", By: Apple, At: at * 1e9, Links: []Link{"apple:1000"}, Renewal: &r}
}

func by(p Provider, at int64, o Object) Object {
	o.By, o.At = p, at*1e9
	return o
}

func yearly(t *Transaction) { t.Product = "yearly" }

func revokedAt(at int64) func(*Transaction) { return func(t *Transaction) { t.RevokedAt = at } }

func TestChainsOfTerms(t *testing.T) {
	renews := standing(april, Renewal{Phase: PhaseActive, WillRenew: true})
	const day = 24 * 3600
	tests := []struct {
		name    string
		objects []Object
		want    Item // ID, Term and Recurring are not compared but for Term.ID
	}{
		{"one that renews has a leeway", []Object{term("2", april, may), renews},
			Item{State: Live, AccessUntil: may + day, WillRenew: true}},
		{"one that was cancelled has none", []Object{term("2", april, may), standing(april+1, Renewal{Phase: PhaseActive})},
			Item{State: Live, AccessUntil: may}},
		{"a signed transaction alone gives its term", []Object{term("2", april, may)},
			Item{State: Live, AccessUntil: may, WillRenew: true}},
		{"the refund of March leaves April alone", []Object{term("1", march, april, revokedAt(april+5)), term("2", april, may), renews},
			Item{State: Live, AccessUntil: may + day, WillRenew: true}},
		{"the refund of April ends it and not the renewing", []Object{term("1", march, april), term("2", april, may, revokedAt(april+day)), renews},
			Item{State: Revoked, Reason: ReasonRefunded, AccessUntil: april + day, WillRenew: true}},
		{"a subscription bought again after a refund is active", []Object{term("2", april, may, revokedAt(april+day)), term("3", april+2*day, june), standing(april+2*day, Renewal{Phase: PhaseActive, WillRenew: true})},
			Item{State: Live, AccessUntil: june + day, WillRenew: true}},
		{"an early renewal that is refunded leaves the term before it", []Object{term("2", april, may), term("3", may, june, revokedAt(may-day)), renews},
			Item{State: Live, AccessUntil: may}},
		{"an upgrade takes over", []Object{term("2", april, may, func(t *Transaction) { t.Upgraded = true }), term("3", april+day, june), standing(april+day, Renewal{Phase: PhaseActive, WillRenew: true})},
			Item{State: Live, AccessUntil: june + day, WillRenew: true}},
		{"the provider's billing grace", []Object{term("2", april, may), standing(may, Renewal{Phase: PhaseBillingGrace, WillRenew: true, GraceUntil: may + 16*day})},
			Item{State: Retrying, AccessUntil: may + 16*day, BillingGraceUntil: may + 16*day, WillRenew: true}},
		{"a billing grace without an end is the policy's", []Object{term("2", april, may), standing(may, Renewal{Phase: PhaseBillingGrace, WillRenew: true})},
			Item{State: Retrying, AccessUntil: may + 3*day, BillingGraceUntil: may + 3*day, WillRenew: true}},
		{"billing retry without grace ends with the term", []Object{term("2", april, may), standing(may, Renewal{Phase: PhaseBillingRetry, WillRenew: true})},
			Item{State: Retrying, AccessUntil: may, WillRenew: true}},
		{"billing retry before the end leaves what was paid for", []Object{term("2", april, may), standing(may-day, Renewal{Phase: PhaseBillingRetry, WillRenew: true})},
			Item{State: Retrying, AccessUntil: may, BillingGraceUntil: may, WillRenew: true}},
		{"expired", []Object{term("2", april, may), standing(may, Renewal{Phase: PhaseExpired})},
			Item{State: Ended, AccessUntil: may}},
		{"expired before its end", []Object{term("2", april, may), standing(april+day, Renewal{Phase: PhaseExpired})},
			Item{State: Ended, AccessUntil: april + day}},
		{"a term that began after it expired outdates that", []Object{term("2", april, may), standing(may, Renewal{Phase: PhaseExpired}), term("3", may+day, june)},
			Item{State: Live, AccessUntil: june, WillRenew: true}},
		{"a renewal told a day early is no other term's", []Object{by(Apple, may-day, term("3", may, june)), standing(may-day, Renewal{Phase: PhaseActive, WillRenew: true})},
			Item{State: Live, AccessUntil: june + day, WillRenew: true}},
		{"paused", []Object{term("2", april, may), standing(may, Renewal{Phase: PhasePaused, WillRenew: true})},
			Item{State: OnHold, AccessUntil: may, WillRenew: true}},
		{"a first payment that waits", []Object{term("2", april, may, func(t *Transaction) { t.State = TransactionPending }), standing(april, Renewal{Phase: PhasePending})},
			Item{State: Pending, AccessUntil: april}},
		{"a renewing term without an end gives nothing for ever", []Object{term("2", april, 0)},
			Item{State: Live, AccessUntil: april, WillRenew: true}},
		{"a provisional proof counts for a day", []Object{term("2", april, may, func(t *Transaction) { t.Provisional = true })},
			Item{State: Live, AccessUntil: april + day, WillRenew: true, Provisional: true}},
		{"it renews as another product", []Object{term("2", april, may), standing(april, Renewal{Phase: PhaseActive, WillRenew: true, Next: "yearly"})},
			Item{State: Live, AccessUntil: may + day, WillRenew: true, Next: "yearly"}},
		{"taken back whole", []Object{term("2", april, may), standing(april+day, Renewal{Phase: PhaseRevoked})},
			Item{State: Revoked, Reason: ReasonRevoked, AccessUntil: april + day}},
		{"a revocation told apart", []Object{term("2", april, may), {Kind: KindRevocation, ID: "2", By: Apple, At: (april + day) * 1e9, Links: []Link{"apple:1000"}, Revocation: &Revocation{Transaction: "2"}}, renews},
			Item{State: Revoked, Reason: ReasonRefunded, AccessUntil: april + day, WillRenew: true}},
		{"a revocation that was reversed", []Object{term("2", april, may), {Kind: KindRevocation, ID: "2", By: Apple, At: (april + day) * 1e9, Links: []Link{"apple:1000"}, Revocation: &Revocation{Transaction: "2", Undone: true}}, renews},
			Item{State: Live, AccessUntil: may + day, WillRenew: true}},
		{"a family member whom the buyer left", []Object{term("2", april, may, revokedAt(april+day), func(t *Transaction) { t.Ownership = Family })},
			Item{State: Revoked, Reason: ReasonRevoked, AccessUntil: april + day, Ownership: Family}},
	}
	policy := Policy{BillingGrace: map[Provider]int64{Apple: 3 * day}}
	const year = april + 365*day
	tests = append(tests, []struct {
		name    string
		objects []Object
		want    Item
	}{
		{"a year that was changed for a month at once ends where the month begins", []Object{term("2", april, year, yearly), term("3", may, june), standing(may, Renewal{Phase: PhaseActive, WillRenew: true})},
			Item{State: Live, AccessUntil: june + day, WillRenew: true}},
		{"the refund of that month brings no year back", []Object{term("2", april, year, yearly), term("3", may, june, revokedAt(may+day)), standing(may, Renewal{Phase: PhaseActive})},
			Item{State: Revoked, Reason: ReasonRefunded, AccessUntil: may + day}},
		{"a change whose payment waits ends nothing", []Object{term("2", april, year, yearly), term("3", may, june, func(t *Transaction) { t.State = TransactionPending })},
			Item{State: Live, AccessUntil: year, WillRenew: true}},
		{"nor does one that is not known to have begun", []Object{term("2", april, year, yearly), term("3", 0, june), standing(may, Renewal{Phase: PhaseActive})},
			Item{State: Live, AccessUntil: year}},
		{"nor one before the term that the provider names as present", []Object{term("2", april, year, yearly), term("3", may, june), standing(may+1, Renewal{Phase: PhaseActive, Transaction: "2"})},
			Item{State: Live, AccessUntil: year}},
		{"nor does a renewal of the same product", []Object{term("2", april, june), term("3", may, june, revokedAt(may+day)), standing(may, Renewal{Phase: PhaseActive})},
			Item{State: Live, AccessUntil: june}},
		{"a term told of under two ids renews under the one that is named", []Object{term("2:pro", april, may), term("2", april, may), standing(april+1, Renewal{Phase: PhaseActive, WillRenew: true, Transaction: "2"})},
			Item{State: Live, AccessUntil: may + day, WillRenew: true}},
		{"another product that ends then is another term", []Object{term("2:yearly", april, may, yearly), term("2", april, may), standing(april+1, Renewal{Phase: PhaseActive, WillRenew: true, Transaction: "2"})},
			Item{State: Live, AccessUntil: may, WillRenew: true}},
		{"each change of several ends what was before it", []Object{term("2", april, year, yearly), term("3", april+day, may), term("4", april+2*day, may+day), term("5", may+day, june, yearly), renews},
			Item{State: Live, AccessUntil: june, WillRenew: true}},
	}...)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			evidence := Evidence{}.Add(tt.objects...)
			p := Fold(evidence, policy)
			if p.ID != "apple:1000" || p.Provider != Apple || p.Store != AppStore || len(p.Items) != 1 {
				t.Fatalf("purchase %+v", p)
			}
			got := p.Items[0]
			got.ID, got.Term, got.Recurring = "", Term{}, false
			if !reflect.DeepEqual(got, tt.want) {
				t.Errorf("got  %+v\nwant %+v", got, tt.want)
			}
			for range 20 {
				rand.Shuffle(len(tt.objects), func(i, j int) { tt.objects[i], tt.objects[j] = tt.objects[j], tt.objects[i] })
				if again := (Evidence{}).Add(append(tt.objects, tt.objects[0])...); !reflect.DeepEqual(again, evidence) {
					t.Fatalf("the order counts: %+v, then %+v", evidence, again)
				}
			}
		})
	}
}

// What was folded by the rules before is folded alike, however new the program: records of a log that is read again are the same.
func TestWhatWasFoldedByTheRulesBeforeIsFoldedAlike(t *testing.T) {
	chain := Evidence{}.Add(term("2", april, april+365*day, yearly), term("3", may, june))
	paid := Evidence{}.Add(subscriptionIs(PastDue), invoice("in_1", InvoicePaid, line(start-month, start+11*month, 900)),
		invoice("in_3", InvoicePaid, line(start-month/2, start+month/2, 90)))
	twice := Evidence{}.Add(term("2:pro", april, may), term("2", april, may), standing(april+1, Renewal{Phase: PhaseActive, WillRenew: true, Transaction: "2"}))
	for _, tt := range []struct {
		rules                uint32
		chain, stripe, twice int64
	}{{1, april + 365*day, start + 11*month, may}, {2, april + 365*day, start + 11*month, may}, {3, june, start + month/2, may + day}, {0, june, start + month/2, may + day}} {
		policy := Policy{Rules: tt.rules}
		if got := Fold(twice, policy).Items[0].AccessUntil; got != tt.twice {
			t.Errorf("rules %d: a term told of twice has access until %d, want %d", tt.rules, got, tt.twice)
		}
		if got := Fold(chain, policy).Items[0].Term.EndsAt; got != tt.chain {
			t.Errorf("rules %d: the term ends at %d, want %d", tt.rules, got, tt.chain)
		}
		if got := Fold(paid, policy).Items[0].Term.EndsAt; got != tt.stripe {
			t.Errorf("rules %d: Stripe's term ends at %d, want %d", tt.rules, got, tt.stripe)
		}
	}
}

func TestQuantityTakenBackInPart(t *testing.T) {
	sale := Object{Kind: KindTransaction, ID: "GPA.1", By: Google, At: 1e9, Links: []Link{"google:h"}, Transaction: &Transaction{Sold: Sold{Product: "coins", Quantity: 5}, StartsAt: april}}
	taken := func(id string, n int64) Object {
		return Object{Kind: KindRevocation, ID: id, By: Google, At: 2e9, Links: []Link{"google:h"}, Revocation: &Revocation{Transaction: "GPA.1", Quantity: n}}
	}
	if got := Fold(Evidence{}.Add(sale, taken("a", 2)), Policy{}).Items[0]; got.State != Live || got.Term.Quantity != 3 {
		t.Errorf("two of five taken back: %+v", got)
	}
	if got := Fold(Evidence{}.Add(sale, taken("a", 2), taken("b", 3)), Policy{}).Items[0]; got.State != Revoked {
		t.Errorf("all five taken back: %+v", got)
	}
}

// Play gives a new token at a change of plan. The old one ends once the new one is paid for, and not before.
func TestATokenThatReplacesAnother(t *testing.T) {
	line := func(token string, start, end int64, state TransactionState) []Object {
		links := []Link{"google:" + Link(token), "google:old"}
		return []Object{
			{Kind: KindTransaction, ID: "GPA." + token, By: Google, At: start * 1e9, Links: links, Transaction: &Transaction{Chain: token + ":pro", Sold: Sold{Product: "pro"}, Recurring: true, StartsAt: start, EndsAt: end, State: state}},
			{Kind: KindRenewal, ID: token + ":pro", By: Google, At: start * 1e9, Links: links, Renewal: &Renewal{Phase: PhaseActive, WillRenew: true}},
		}
	}
	old := line("old", april, may, TransactionPaid)
	replaces := func(phase Phase) Object {
		return Object{Kind: KindRenewal, ID: "new", By: Google, At: (april + 10) * 1e9, Links: []Link{"google:new", "google:old"}, Renewal: &Renewal{Phase: phase, Replaces: "old"}}
	}
	pending := Fold(Evidence{}.Add(append(append(old, line("new", april+10, june, TransactionPending)...), replaces(PhasePending))...), Policy{})
	if pending.Items[1].State != Live || pending.Items[0].State != Pending {
		t.Errorf("while the new token is pending: %+v", pending.Items)
	}
	paid := Fold(Evidence{}.Add(append(append(old, line("new", april+10, june, TransactionPaid)...), replaces(PhaseActive))...), Policy{})
	if paid.Items[1].State != Ended || paid.Items[1].AccessUntil != april+10 || paid.Items[0].State != Live {
		t.Errorf("once the new token is paid for: %+v", paid.Items)
	}
}

// TestOneSaleToldByStoreAndAggregator defends R72.
func TestOneSaleToldByStoreAndAggregator(t *testing.T) {
	const day = 24 * 3600
	store := []Object{term("2", april, may), standing(april, Renewal{Phase: PhaseActive, WillRenew: true})}
	says := func(at int64, r Renewal, edit ...func(*Transaction)) []Object {
		return []Object{by(RevenueCat, at, term("2", april, may, append(edit, func(t *Transaction) { t.Store = AppStore })...)), by(RevenueCat, at, standing(at, r))}
	}
	tests := []struct {
		name    string
		objects []Object
		by      Provider
		state   ItemState
	}{
		{"the newer word counts: the aggregator's", append(says(april+day, Renewal{Phase: PhaseExpired}), store...), RevenueCat, Ended},
		{"the newer word counts: the store's", append(says(april-day, Renewal{Phase: PhaseExpired}), store...), Apple, Live},
		{"of two as new the store's", append(says(april, Renewal{Phase: PhaseExpired}), store...), Apple, Live},
		{"what the store took back the aggregator does not give back",
			append(says(april+2*day, Renewal{Phase: PhaseActive, WillRenew: true}), term("2", april, may, revokedAt(april+day))), Apple, Revoked},
		{"unless a term began since",
			append(says(may, Renewal{Phase: PhaseActive, WillRenew: true}, func(t *Transaction) { t.StartsAt, t.EndsAt = may, june }), term("2", april, may, revokedAt(april+day))), RevenueCat, Live},
		{"what the aggregator says alone", says(april, Renewal{Phase: PhaseActive, WillRenew: true}), RevenueCat, Live},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := Fold(Evidence{}.Add(tt.objects...), Policy{})
			if p.ID != "apple:1000" || p.Provider != tt.by || p.Store != AppStore || len(p.Items) != 1 || p.Items[0].State != tt.state {
				t.Errorf("got %+v, want the word of %s and state %d", p, tt.by, tt.state)
			}
		})
	}
}

// A subscription of Stripe's says active whatever became of its money.
func TestARefundThatAnAggregatorKnowsOf(t *testing.T) {
	sold := Object{Kind: KindTransaction, ID: "sub_1:1", By: Iaptic, At: april * 1e9, Links: []Link{"stripe:sub_1"}, Transaction: &Transaction{
		Chain: "sub_1", Sold: Sold{Product: "pro"}, Recurring: true, StartsAt: april, EndsAt: may, Store: "stripe", RevokedAt: april + 5}}
	subscription := Object{Kind: KindSubscription, ID: "sub_1", At: (april + 6) * 1e9, Links: []Link{"stripe:sub_1"}, Subscription: &Subscription{
		Status: Active, Items: []SubscriptionItem{{ID: "si_1", Sold: Sold{Product: "pro"}, StartsAt: april, EndsAt: may}}}}
	if p := Fold(Evidence{}.Add(sold, subscription), Policy{}); p.Provider != Iaptic || p.Items[0].State != Revoked {
		t.Errorf("refunded at the aggregator: %+v", p)
	}
	subscription.Subscription.Items[0].StartsAt, subscription.Subscription.Items[0].EndsAt = may, june
	if p := Fold(Evidence{}.Add(sold, subscription), Policy{}); p.Provider != Stripe || p.Items[0].State != Live {
		t.Errorf("a term later: %+v", p)
	}
}

func TestWhatAnAggregatorsStatementGives(t *testing.T) {
	catalog := &Catalog{
		Products:   []Product{{Provider: Apple, ID: "pro", Kind: KindRecurring, Entitlements: []string{"pro"}, Plan: "monthly"}},
		Aggregator: []AggregatorEntitlement{{RevenueCat, "premium", "gold"}},
	}
	x := NewCatalogIndex(catalog)
	told := func(product ProductID, entitlements ...string) *Account {
		p := Fold(Evidence{}.Add(by(RevenueCat, april, term("2", april, may, func(t *Transaction) {
			t.Product, t.Store, t.Entitlements = product, AppStore, entitlements
		}))), Policy{})
		return &Account{Purchases: []Purchase{p}}
	}
	if v := told("pro", "premium").View(x, april+1, nil); len(v.Entitlements) != 1 || v.Entitlements[0].ID != "pro" || v.Entitlements[0].Plan != "monthly" {
		t.Errorf("a product of the store in the catalog: %+v", v.Entitlements)
	}
	if v := told("unknown", "premium").View(x, april+1, nil); len(v.Entitlements) != 1 || v.Entitlements[0].ID != "gold" || !v.Entitlements[0].Status.Active() {
		t.Errorf("a product that the catalog lacks: %+v", v.Entitlements)
	}
	if v := told("unknown", "other").View(x, april+1, nil); len(v.Entitlements) != 0 || len(v.Unmapped) != 1 {
		t.Errorf("a product and an entitlement that the catalog lacks: %+v", v)
	}
}

func TestSandboxPurchaseInProductionCountsForADay(t *testing.T) {
	test := term("2", april, may)
	test.Sandbox = true
	p := Fold(Evidence{}.Add(test), Policy{})
	if !p.Sandbox || p.TrialUsed || p.Items[0].AccessUntil != april+24*3600 {
		t.Errorf("got %+v", p)
	}
}

// A purchase that moved at the aggregator belongs to whom its newest statement names.
func TestIdentityIsThatOfTheNewestStatement(t *testing.T) {
	of := func(at int64, id, user string) Object {
		o := by(RevenueCat, at, term(id, at, at+10))
		o.Aliases = []Alias{{RevenueCatAppUser, user}}
		return o
	}
	got := Evidence{}.Add(of(march, "1", "a"), of(april, "2", "b")).Identity()
	if want := []Alias{{RevenueCatAppUser, "b"}}; !reflect.DeepEqual(got.Aliases, want) {
		t.Errorf("aliases %v, want %v", got.Aliases, want)
	}
}

func TestASaleThatIsNotAcknowledgedIsAskedAboutAndNotInDoubt(t *testing.T) {
	e := Evidence{}.Add(term("2", april, may), standing(april, Renewal{Phase: PhaseActive, Unacknowledged: true}))
	want := Doubt{Kind: KindRenewal, ID: "1000", From: april*1e9 + 1, By: Apple, Echo: true}
	if d := e.Doubts(); len(d) != 1 || d[0] != want || Fold(e, Policy{}).Doubt {
		t.Errorf("doubts %+v, want %+v, and a purchase that is not in doubt", d, want)
	}
	if d := e.Add(standing(april+1, Renewal{Phase: PhaseActive})).Doubts(); len(d) != 0 {
		t.Errorf("acknowledged: doubts %+v", d)
	}
}

func TestAnOrderOfSeveralProductsIsTakenBackAsAWhole(t *testing.T) {
	order := func(product string) Object {
		o := by(Google, april, term("GPA.1:"+product, april, may))
		o.Transaction.Chain = "t:" + product
		return o
	}
	e := Evidence{}.Add(order("pro"), order("extra"), Object{Kind: KindRevocation, ID: "GPA.1", By: Google, At: (april + day) * 1e9, Links: []Link{"apple:1000"},
		Revocation: &Revocation{Transaction: "GPA.1"}})
	for _, item := range Fold(e, Policy{}).Items {
		if item.State != Revoked || item.AccessUntil != april+day {
			t.Errorf("item %+v, want it revoked", item)
		}
	}
	e = e.Add(by(Google, april, term("GPA.2", april, may, func(t *Transaction) { t.Chain = "t:other" })))
	if got := Fold(e, Policy{}).Items; len(got) != 3 || got[0].ID != "t:extra" || got[1].ID != "t:other" || got[1].State != Live {
		t.Errorf("items %+v, want another order's alive", got)
	}
}

// A share ends with the newest statement about people, and not with one that says nothing of them: a profile's answer.
func TestSharesAreThoseOfTheNewestStatementAboutPeople(t *testing.T) {
	names := func(o Object, user string, shares ...string) Object {
		o.Aliases = []Alias{{AdaptyProfile, user}}
		for _, s := range shares {
			o.Shares = append(o.Shares, Alias{AdaptyProfile, s})
		}
		return o
	}
	shared := names(by(Adapty, march, term("1", march, april)), "a", "b")
	silent := by(Adapty, april, term("2", april, may))
	if got := (Evidence{}).Add(shared, silent).Shares(); len(got) != 1 || got[0].Value != "b" {
		t.Errorf("after a statement that names nobody: %v", got)
	}
	if got := (Evidence{}).Add(shared, silent, names(by(Adapty, may, term("3", may, june)), "a")).Shares(); len(got) != 0 {
		t.Errorf("after one that names the owner alone: %v", got)
	}
}

func TestAnEchoIsNoDoubtByItself(t *testing.T) {
	echo := Object{Kind: KindHint, ID: "1000", By: Apple, At: may * 1e9, Links: []Link{"apple:1000"}, Hint: &Hint{Of: KindRenewal, Echo: true}}
	e := Evidence{}.Add(by(RevenueCat, april, term("2", april, may)), echo)
	if d := e.Doubts(); len(d) != 1 || d[0].Provider() != Apple || !d[0].Echo || Fold(e, Policy{}).Doubt {
		t.Errorf("an echo: doubts %+v", d)
	}
	hint := echo
	hint.Hint = &Hint{Of: KindRenewal}
	if d := e.Add(hint).Doubts(); len(d) != 1 || d[0].Echo {
		t.Errorf("an echo and the store's own hint: doubts %+v", d)
	}
	if d := e.Add(standing(may, Renewal{})).Doubts(); len(d) != 0 {
		t.Errorf("answered: doubts %+v", d)
	}
}
