package store

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/latchkey/latchkey/pkg/entitlement"
)

func coins(n int64) Command {
	return NewCommand(TypePutCatalog, sandbox, "", &PutCatalog{Catalog: entitlement.Catalog{Products: []entitlement.Product{
		{Provider: entitlement.Apple, ID: "coins", Kind: entitlement.KindConsumable, Credits: map[string]int64{"coins": n}}}}})
}

// pack is a sale of coins to an account at a time, taken back or not.
func pack(id string, account entitlement.AccountID, at int64, refunded bool) Command {
	tx := &entitlement.Transaction{Sold: entitlement.Sold{Product: "coins"}, StartsAt: at, Store: entitlement.AppStore}
	version := at * 1e9
	name := "buy-" + id
	if refunded {
		tx.RevokedAt, version, name = at+60, (at+60)*1e9, "refund-"+id
	}
	ev := event(name, entitlement.Object{Kind: entitlement.KindTransaction, ID: id, By: entitlement.Apple, At: version, Account: account,
		Links: []entitlement.Link{entitlement.Link("apple:" + id)}, Transaction: tx})
	ev.Provider = entitlement.Apple
	return record(ev)
}

func consume(id string, account entitlement.AccountID, n int64) Command {
	return NewCommand(TypeConsume, sandbox, "", &Consume{Account: account, ID: id, Credit: "coins", Amount: n})
}

func (m *machine) balance(id entitlement.AccountID, x *entitlement.CatalogIndex) int64 {
	m.t.Helper()
	for _, b := range m.account(id).View(x, m.now, nil).Balances {
		if b.Credit == "coins" {
			return b.Amount
		}
	}
	return 0
}

func (m *machine) shop() *entitlement.CatalogIndex {
	var x *entitlement.CatalogIndex
	m.read(func(r *Reader) error {
		c, err := r.Catalog(sandbox)
		x = entitlement.NewCatalogIndex(c)
		return err
	})
	return x
}

func TestCreditsAreSpentOnceAndTakenBackAsThePolicySays(t *testing.T) {
	type step struct {
		command Command
		slug    string
		balance int64
	}
	tests := []struct {
		name  string
		debt  bool
		steps []step
	}{
		{"a consumption id takes once, for ever", false, []step{
			{pack("1", "acc_1", 100, false), "", 100},
			{consume("c1", "acc_1", 30), "", 70},
			{consume("c1", "acc_1", 30), "", 70},
			{consume("c1", "acc_1", 31), SlugIdempotencyMismatch, 70},
			{consume("c2", "acc_1", 71), SlugInsufficientBalance, 70},
			{consume("c3", "acc_1", 70), "", 0},
			{consume("c4", "acc_2", 1), SlugInsufficientBalance, 0},
			{consume("c5", "acc_9", 1), SlugNotFound, 0},
			{consume("c6", "acc_1", 0), SlugInvalidRequest, 0},
			{consume("c6", "acc_1", -5), SlugInvalidRequest, 0},
		}},
		{"a refund takes the unspent part of its own purchase", false, []step{
			{pack("1", "acc_1", 100, false), "", 100},
			{pack("2", "acc_1", 200, false), "", 200},
			{consume("c1", "acc_1", 130), "", 70},
			{pack("1", "acc_1", 100, true), "", 70}, // all of it was spent
			{pack("2", "acc_1", 200, true), "", 0},  // 70 were left
			{pack("3", "acc_1", 300, false), "", 100},
		}},
		{"in debt it takes all of it", true, []step{
			{pack("1", "acc_1", 100, false), "", 100},
			{consume("c1", "acc_1", 60), "", 40},
			{pack("1", "acc_1", 100, true), "", -60},
			{consume("c2", "acc_1", 1), SlugInsufficientBalance, -60},
			{pack("2", "acc_1", 200, false), "", 40},
			{consume("c3", "acc_1", 41), SlugInsufficientBalance, 40},
			{consume("c4", "acc_1", 40), "", 0},
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m := newMachine(t, 1<<20)
			for _, c := range []Command{coins(100), create("acc_1"), create("acc_2"),
				NewCommand(TypePutPolicy, sandbox, "", &PutPolicy{Policy: entitlement.Policy{Debt: tt.debt}})} {
				m.apply(c)
			}
			x := m.shop()
			for i, s := range tt.steps {
				slug := ""
				if got := m.apply(s.command); got.Rejection != nil {
					slug = got.Rejection.Slug
				}
				if got := m.balance("acc_1", x); slug != s.slug || got != s.balance {
					t.Errorf("step %d: %q, balance %d, want %q, %d", i, slug, got, s.slug, s.balance)
				}
				m.check()
			}
		})
	}
}

// A merged account spends from the oldest credits of either, and each keeps what was its own when the merge is undone.
func TestMergedAccountsSpendFromTheOldest(t *testing.T) {
	m := newMachine(t, 1<<20)
	for _, c := range []Command{coins(100), create("acc_1"), create("acc_2"), pack("1", "acc_1", 200, false), pack("2", "acc_2", 100, false), mergeOf("merge_1", "acc_1", "acc_2"),
		consume("c1", "acc_1", 130)} {
		if got := m.apply(c); got.Rejection != nil {
			t.Fatalf("%d: %+v", c.Type, got.Rejection)
		}
	}
	x := m.shop()
	if a, b := m.balance("acc_1", x), m.balance("acc_2", x); a != 70 || b != 70 {
		t.Errorf("merged they have %d and %d, want 70", a, b)
	}
	if got := m.apply(consume("c1", "acc_2", 130)); !got.Existing || m.balance("acc_2", x) != 70 {
		t.Errorf("the same consumption under the other id: %+v", got)
	}
	m.apply(undo("merge_1", "acc_1"))
	if a, b := m.balance("acc_1", x), m.balance("acc_2", x); a != 70 || b != 0 {
		t.Errorf("alone they have %d and %d, want 70 and 0: the older sale is spent first", a, b)
	}
}

// Random sales, refunds, consumptions and repeats: the balance is always that of a plain ledger, and the order of messages never shows in it (I20).
func TestBalancesAreTheLedgers(t *testing.T) {
	for seed := range uint64(4) {
		r := rand.New(rand.NewPCG(seed, 1))
		m := newMachine(t, 64<<20)
		m.applyAll([]Command{coins(10), create("acc_1"), NewCommand(TypePutPolicy, sandbox, "", &PutPolicy{Policy: entitlement.Policy{Debt: seed%2 == 0}})})
		x := m.shop()
		type bought struct{ refunded bool }
		var sales []bought
		spent := map[string]int64{}
		want := func() int64 { // sales are in the order of their times
			rest := int64(0)
			for _, n := range spent {
				rest += n
			}
			balance := -rest
			for _, s := range sales {
				used := min(rest, 10)
				rest -= used
				switch {
				case !s.refunded:
					balance += 10
				case seed%2 != 0: // what was spent of it stays the buyer's
					balance += used
				}
			}
			return balance
		}
		for op := range 500 {
			switch r.IntN(5) {
			case 0:
				sales = append(sales, bought{})
				m.apply(pack(fmt.Sprintf("%06d", len(sales)), "acc_1", int64(1000+len(sales)), false))
			case 1:
				if len(sales) > 0 {
					n := r.IntN(len(sales))
					sales[n].refunded = true
					m.apply(pack(fmt.Sprintf("%06d", n+1), "acc_1", int64(1001+n), true))
				}
			default:
				id, n := fmt.Sprintf("c%d", r.IntN(op+1)), int64(1+r.IntN(12))
				before := want()
				got := m.apply(consume(id, "acc_1", n))
				old, repeated := spent[id]
				switch {
				case repeated && old != n:
					if got.Rejection == nil || got.Rejection.Slug != SlugIdempotencyMismatch {
						t.Fatalf("seed %d, step %d: %+v", seed, op, got)
					}
				case repeated:
					if !got.Existing {
						t.Fatalf("seed %d, step %d: consumed twice", seed, op)
					}
				case before < n:
					if got.Rejection == nil || got.Rejection.Slug != SlugInsufficientBalance {
						t.Fatalf("seed %d, step %d: %d of %d were given: %+v", seed, op, n, before, got)
					}
				default:
					if spent[id] = n; got.Rejection != nil || got.Balance != before-n {
						t.Fatalf("seed %d, step %d: %+v, want %d left", seed, op, got, before-n)
					}
				}
			}
			if got := m.balance("acc_1", x); got != want() {
				t.Fatalf("seed %d, step %d: balance %d, the ledger says %d", seed, op, got, want())
			}
		}
		m.check()
	}
}

// A restore takes a purchase as the policy says; the loser sees it as transferred, and what support said stays (R41, R43).
func TestRestoresFollowThePolicy(t *testing.T) {
	restore := func(to entitlement.AccountID, support bool) Command {
		return NewCommand(TypeRestore, sandbox, "", &RestorePurchase{Account: to, Purchase: "stripe:sub_1", Support: support})
	}
	correct := func(from, to entitlement.AccountID) Command {
		return NewCommand(TypeRestore, sandbox, "", &RestorePurchase{Account: to, Purchase: "stripe:sub_1", Support: true, From: from})
	}
	active := record(event("evt_1", subscription("sub_1", 10, entitlement.Active, "acc_1")))
	ended := record(event("evt_2", subscription("sub_1", 11, entitlement.Canceled, "acc_1")))
	renewed := record(event("evt_3", subscription("sub_1", 12, entitlement.Active, "acc_1")))
	tests := []struct {
		name     string
		transfer entitlement.Transfer
		steps    []Command
		slug     string
		owner    entitlement.AccountID
		lost     bool // acc_1 sees it as transferred
	}{
		{"taken", "", []Command{active, restore("acc_2", false)}, "", "acc_2", true},
		{"taken, and renewals follow", "", []Command{active, restore("acc_2", false), renewed}, "", "acc_2", true},
		{"taken back", "", []Command{active, restore("acc_2", false), restore("acc_1", false)}, "", "acc_1", false},
		{"kept", entitlement.TransferNever, []Command{active, restore("acc_2", false)}, SlugAliasTaken, "acc_1", false},
		{"kept while it gives access", entitlement.TransferIfInactive, []Command{active, restore("acc_2", false)}, SlugAliasTaken, "acc_1", false},
		{"taken once it gives none", entitlement.TransferIfInactive, []Command{active, ended, restore("acc_2", false)}, "", "acc_2", true},
		{"its own", "", []Command{active, restore("acc_1", false)}, "", "acc_1", false},
		{"of a merged account: its own", entitlement.TransferNever, []Command{active, mergeOf("merge_1", "acc_1", "acc_2"), restore("acc_2", false)}, "", "acc_1", false},
		{"support gives what is nobody's", "", []Command{record(event("evt_1", subscription("sub_1", 10, entitlement.Active, ""))), restore("acc_1", true)}, "", "acc_1", false},
		{"what support said stays", "", []Command{record(event("evt_1", subscription("sub_1", 10, entitlement.Active, ""))), restore("acc_1", true), restore("acc_2", false)}, SlugAliasTaken, "acc_1", false},
		{"support takes nothing without saying from whom", "", []Command{active, restore("acc_2", true)}, SlugAliasTaken, "acc_1", false},
		{"support says from whom", entitlement.TransferNever, []Command{active, correct("acc_1", "acc_2")}, "", "acc_2", true},
		{"support says it of another", "", []Command{active, correct("acc_3", "acc_2")}, SlugAliasTaken, "acc_1", false},
		{"support says it of who has it already", "", []Command{active, correct("acc_1", "acc_1")}, "", "acc_1", false},
		{"support says it of an id that is merged", "", []Command{active, mergeOf("merge_1", "acc_3", "acc_1"), correct("acc_3", "acc_2")}, "", "acc_2", true},
		{"support corrects a restore, and no other one takes it", "", []Command{active, restore("acc_2", false), correct("acc_2", "acc_1"), restore("acc_2", false)}, SlugAliasTaken, "acc_1", false},
		{"support corrects itself", "", []Command{active, correct("acc_1", "acc_2"), correct("acc_2", "acc_1")}, "", "acc_1", false},
		{"support says it of what is nobody's", "", []Command{record(event("evt_1", subscription("sub_1", 10, entitlement.Active, ""))), correct("acc_1", "acc_2")}, "", "acc_2", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m := newMachine(t, 1<<20)
			for _, c := range []Command{shopCatalog(), create("acc_1"), create("acc_2"), create("acc_3"), NewCommand(TypePutPolicy, sandbox, "", &PutPolicy{Policy: entitlement.Policy{Transfer: tt.transfer}})} {
				m.apply(c)
			}
			slug := ""
			for _, c := range tt.steps {
				slug = ""
				if got := m.apply(c); got.Rejection != nil {
					slug = got.Rejection.Slug
				}
				m.check()
			}
			m.read(func(r *Reader) error {
				p, ok, err := r.Purchase(sandbox, "stripe:sub_1")
				if !ok || p.Owner != tt.owner || slug != tt.slug {
					t.Errorf("%q, owner %q, want %q, %q", slug, p.Owner, tt.slug, tt.owner)
				}
				return err
			})
			own := m.account("acc_1")
			lost := len(own.Purchases) == 1 && own.Purchases[0].Items[0].State == entitlement.Revoked && own.Purchases[0].Items[0].Reason == entitlement.ReasonTransferred
			if lost != tt.lost {
				t.Errorf("acc_1 has %+v, want it transferred %t", own.Purchases, tt.lost)
			}
		})
	}
}

// unnamed is a sale of coins of which the store says only a name of the buyer, if any.
func unnamed(id string, at int64, names ...entitlement.Alias) Command {
	ev := event("buy-"+id, entitlement.Object{Kind: entitlement.KindTransaction, ID: id, By: entitlement.Apple, At: at * 1e9, Aliases: names, Links: []entitlement.Link{entitlement.Link("apple:" + id)},
		Transaction: &entitlement.Transaction{Sold: entitlement.Sold{Product: "coins"}, StartsAt: at, Store: entitlement.AppStore}})
	ev.Provider = entitlement.Apple
	return record(ev)
}

func tapRestore(to entitlement.AccountID, id entitlement.PurchaseID) Command {
	return NewCommand(TypeRestore, sandbox, "", &RestorePurchase{Account: to, Purchase: id})
}

// TestCreditsAreTakenFromNobody: who shows coins that another account bought gets none of them, spent or not; who shows coins that are nobody's does, once (R70).
func TestCreditsAreTakenFromNobody(t *testing.T) {
	both := event("evt_1", subscription("sub_1", 10, entitlement.Active, "acc_1"))
	s := both.Objects[0].Subscription
	s.Items = append(s.Items, entitlement.SubscriptionItem{ID: "si_coins", Sold: entitlement.Sold{Product: "price_coins"}, StartsAt: s.Items[0].StartsAt, EndsAt: s.Items[0].EndsAt})
	tests := []struct {
		name     string
		steps    []Command
		to       entitlement.AccountID
		purchase entitlement.PurchaseID
		slug     string
		balances [2]int64
	}{
		{"not spent", []Command{pack("1", "acc_1", 100, false)}, "acc_2", "apple:1", SlugAliasTaken, [2]int64{100, 0}},
		{"spent", []Command{pack("1", "acc_1", 100, false), consume("c1", "acc_1", 100)}, "acc_2", "apple:1", SlugAliasTaken, [2]int64{0, 0}},
		{"refunded", []Command{pack("1", "acc_1", 100, false), pack("1", "acc_1", 100, true)}, "acc_2", "apple:1", SlugAliasTaken, [2]int64{0, 0}},
		{"beside a subscription", []Command{record(both)}, "acc_2", "stripe:sub_1", SlugAliasTaken, [2]int64{100, 0}},
		{"one's own", []Command{pack("1", "acc_1", 100, false)}, "acc_1", "apple:1", "", [2]int64{100, 0}},
		{"nobody's", []Command{unnamed("1", 100)}, "acc_2", "apple:1", "", [2]int64{0, 100}},
		{"nobody's until a receipt was shown", []Command{unnamed("1", 100), claim("c", "acc_1", "apple:1"), consume("c1", "acc_1", 60)}, "acc_2", "apple:1", SlugAliasTaken, [2]int64{40, 0}},
		{"shared with another", []Command{NewCommand(TypeAddAlias, sandbox, "", &AddAlias{Account: "acc_2", Alias: profile("two")}),
			record(told(entitlement.Adapty, "e1", months(entitlement.Adapty, "t", 1, func(o *entitlement.Object) {
				o.Account, o.Transaction.Product, o.Transaction.Recurring = "acc_1", "pack", false
			}, sharedWith(profile("two")))))}, "acc_1", "adapty:t", "", [2]int64{100, 0}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m := newMachine(t, 1<<20)
			catalog := NewCommand(TypePutCatalog, sandbox, "", &PutCatalog{Catalog: entitlement.Catalog{Products: []entitlement.Product{
				{Provider: entitlement.Apple, ID: "coins", Kind: entitlement.KindConsumable, Credits: map[string]int64{"coins": 100}},
				{Provider: entitlement.Adapty, ID: "pack", Kind: entitlement.KindConsumable, Credits: map[string]int64{"coins": 100}},
				{Provider: entitlement.Stripe, ID: "price_coins", Kind: entitlement.KindConsumable, Credits: map[string]int64{"coins": 100}}}}})
			for _, c := range append([]Command{catalog, create("acc_1"), create("acc_2")}, tt.steps...) {
				if got := m.apply(c); got.Rejection != nil {
					t.Fatalf("command %d: %+v", c.Type, got.Rejection)
				}
			}
			x := m.shop()
			takes := false
			m.read(func(r *Reader) (err error) {
				takes, err = r.RestoreTakes(sandbox, tt.purchase, tt.to, x, m.now)
				return err
			})
			got := slugOf(m.apply(tapRestore(tt.to, tt.purchase)))
			if balances := [2]int64{m.balance("acc_1", x), m.balance("acc_2", x)}; got != tt.slug || balances != tt.balances {
				t.Errorf("%q, balances %d, want %q, %d", got, balances, tt.slug, tt.balances)
			}
			if tt.slug != "" && takes {
				t.Error("a receipt says that a restore would take it")
			}
			m.check()
		})
	}
}

// TestErasedCreditsAreGone: the account took them along, spent or not. Whoever proves the purchase has it without them, in whichever way and however often; what was sold after the
// erasure was nobody's and gives its credits, once.
func TestErasedCreditsAreGone(t *testing.T) {
	name := customer("cus_1")
	bought := []Command{create("acc_1", name), pack("1", "acc_1", 100, false), unnamed("2", 100, name), consume("c1", "acc_1", 150), erase("acc_1"), create("acc_2"), create("acc_3")}
	gives := func(to entitlement.AccountID, alias entitlement.Alias) Command {
		return NewCommand(TypeAddAlias, sandbox, "", &AddAlias{Account: to, Alias: alias})
	}
	support := NewCommand(TypeRestore, sandbox, "", &RestorePurchase{Account: "acc_2", Purchase: "apple:1", Support: true})
	later := startTime + day
	tests := []struct {
		name  string
		steps []Command
		has   entitlement.PurchaseID // acc_2, in the end
		want  int64
	}{
		{"a receipt", []Command{claim("c", "acc_2", "apple:1")}, "apple:1", 0},
		{"a restore", []Command{tapRestore("acc_2", "apple:1")}, "apple:1", 0},
		{"support", []Command{support}, "apple:1", 0},
		{"told of once more", []Command{claim("c", "acc_2", "apple:1"), pack("1", "acc_1", 100, true)}, "apple:1", 0},
		{"after another erasure", []Command{claim("c", "acc_3", "apple:1"), erase("acc_3"), claim("d", "acc_2", "apple:1")}, "apple:1", 0},
		{"claimed by who was erased", []Command{unnamed("3", 100), claim("c", "acc_3", "apple:3"), erase("acc_3"), claim("d", "acc_2", "apple:3")}, "apple:3", 0},
		{"the name", []Command{gives("acc_2", name)}, "apple:2", 0},
		{"the name, and then a receipt", []Command{gives("acc_3", name), erase("acc_3"), claim("c", "acc_2", "apple:2")}, "apple:2", 0},
		{"sold later", []Command{pack("3", "acc_1", later, false), claim("c", "acc_2", "apple:3")}, "apple:3", 100},
		{"sold later under the name", []Command{gives("acc_2", name), unnamed("3", later, name)}, "apple:3", 100},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m := newMachine(t, 1<<20)
			for i, c := range slices.Concat([]Command{coins(100)}, bought, tt.steps) {
				if got := m.apply(c); got.Rejection != nil {
					t.Fatalf("step %d: %+v", i, got.Rejection)
				}
				m.check()
			}
			if got := m.balance("acc_2", m.shop()); got != tt.want || m.ownerOf(tt.has) != "acc_2" {
				t.Errorf("%s is of %q, and acc_2 has %d coins, want %d", tt.has, m.ownerOf(tt.has), got, tt.want)
			}
		})
	}
}

func (m *machine) ownerOf(id entitlement.PurchaseID) (owner entitlement.AccountID) {
	m.t.Helper()
	m.read(func(r *Reader) error {
		p, _, err := r.Purchase(sandbox, id)
		owner = p.Owner
		return err
	})
	return owner
}

// Of coins under a name that goes from an erased account to another, it does not show whether the store told of them before the erasure, or after (I20).
func TestErasedCreditsAreGoneInAnyOrder(t *testing.T) {
	name := customer("cus_1")
	random := rand.New(rand.NewPCG(1, 4))
	var hash any
	for range 30 {
		m := newMachine(t, 1<<20)
		m.mixed(random, []Command{coins(100), create("acc_1", name), erase("acc_1"), create("acc_2"), NewCommand(TypeAddAlias, sandbox, "", &AddAlias{Account: "acc_2", Alias: name})},
			[]Command{unnamed("1", 100, name), unnamed("2", 200, name), unnamed("3", startTime+day, name)})
		m.check()
		if got := m.balance("acc_2", m.shop()); got != 100 {
			t.Fatalf("acc_2 has %d coins, want those that were sold after the erasure", got)
		}
		m.sameState(&hash)
	}
}

// Coins that an account bought itself stay when it gets the name of an account that was erased, under which the provider knows it too. When the store tells of them does not show (I20), nor does a policy.
func TestOwnCreditsStayWithAnErasedName(t *testing.T) {
	name := customer("cus_1")
	both := record(told(entitlement.Apple, "buy-own", entitlement.Object{Kind: entitlement.KindTransaction, ID: "own", By: entitlement.Apple, At: 100 * 1e9, Account: "acc_2", Aliases: []entitlement.Alias{name},
		Links: []entitlement.Link{"apple:own"}, Transaction: &entitlement.Transaction{Sold: entitlement.Sold{Product: "coins"}, StartsAt: 100, Store: entitlement.AppStore}}))
	calls := []Command{coins(100), create("acc_2"), create("acc_1", name), erase("acc_1"), NewCommand(TypeAddAlias, sandbox, "", &AddAlias{Account: "acc_2", Alias: name}),
		NewCommand(TypePutPolicy, sandbox, "", &PutPolicy{Policy: entitlement.Policy{SharingOff: true}})}
	random := rand.New(rand.NewPCG(2, 4))
	var hash any
	for range 10 {
		m := newMachine(t, 1<<20)
		m.mixed(random, calls, []Command{both, unnamed("1", 100, name)})
		m.check()
		if got := m.balance("acc_2", m.shop()); got != 100 {
			t.Fatalf("acc_2 has %d coins, want its own and not those of the erased account", got)
		}
		m.sameState(&hash)
	}
}

// Of two names of a buyer the first that is somebody's says whose the coins are: what an account has by a name of its own is not forfeited with another.
func TestTheNameThatDecidesForfeits(t *testing.T) {
	own, erasedOne := customer("cus_1"), customer("cus_2")
	gives := func(a entitlement.Alias) Command {
		return NewCommand(TypeAddAlias, sandbox, "", &AddAlias{Account: "acc_2", Alias: a})
	}
	for _, tt := range []struct {
		name   string
		own    entitlement.Alias
		erased entitlement.Alias
		want   int64
	}{{"its own name decides", own, erasedOne, 100}, {"the erased one's decides", erasedOne, own, 0}} {
		t.Run(tt.name, func(t *testing.T) {
			m := newMachine(t, 1<<20)
			for i, c := range []Command{coins(100), create("acc_2", tt.own), create("acc_1", tt.erased), erase("acc_1"), gives(tt.erased), unnamed("1", 100, own, erasedOne)} {
				if got := m.apply(c); got.Rejection != nil {
					t.Fatalf("step %d: %+v", i, got.Rejection)
				}
			}
			m.check()
			if got := m.balance("acc_2", m.shop()); got != tt.want {
				t.Errorf("acc_2 has %d coins, want %d", got, tt.want)
			}
		})
	}
}

// Coins that a receipt gave to somebody, and an aggregator then moved to an account that is erased, do not come back with its name: whoever gets that, who showed the receipt too.
func TestCreditsThatMovedOnAndWereErasedAreGone(t *testing.T) {
	moved := func(at int64, name string) Command {
		return record(told(entitlement.RevenueCat, fmt.Sprint("rc-", at), entitlement.Object{Kind: entitlement.KindTransaction, ID: "c1", By: entitlement.RevenueCat, At: (startTime + at) * 1e9, Aliases: []entitlement.Alias{rcUser(name)},
			Links: []entitlement.Link{"revenuecat:c1"}, Transaction: &entitlement.Transaction{Sold: entitlement.Sold{Product: "coins"}, StartsAt: startTime + 1, Store: entitlement.AppStore}}))
	}
	catalog := NewCommand(TypePutCatalog, sandbox, "", &PutCatalog{Catalog: entitlement.Catalog{Products: []entitlement.Product{
		{Provider: entitlement.RevenueCat, ID: "coins", Kind: entitlement.KindConsumable, Credits: map[string]int64{"coins": 100}}}}})
	for _, heir := range []entitlement.AccountID{"acc_1", "acc_3"} {
		t.Run(string(heir), func(t *testing.T) {
			m := newMachine(t, 1<<20)
			steps := []Command{catalog, create("acc_1"), create("acc_2", rcUser("user8")), create("acc_3"), moved(10, "user9"), claim("c", "acc_1", "revenuecat:c1"), moved(200, "user8"), consume("x", "acc_2", 100),
				erase("acc_2"), NewCommand(TypeAddAlias, sandbox, "", &AddAlias{Account: heir, Alias: rcUser("user8")})}
			for i, c := range steps {
				if got := m.apply(c); got.Rejection != nil {
					t.Fatalf("step %d: %+v", i, got.Rejection)
				}
				m.now += 30
			}
			m.check()
			if got := m.balance(heir, m.shop()); got != 0 || m.ownerOf("revenuecat:c1") != heir {
				t.Errorf("%s has %d coins that were spent; they are of %q", heir, got, m.ownerOf("revenuecat:c1"))
			}
		})
	}
}

// Credits that an erased account had by a name that its provider only says of its customer are gone as well, with the name and with another of the same customer. When what is told does not show (I20).
func TestErasedCreditsOfACustomerAreGone(t *testing.T) {
	user := entitlement.Alias{Kind: entitlement.AdaptyCustomerUser, Value: "user"}
	customerSays := record(told(entitlement.Adapty, "customer", entitlement.Object{Kind: entitlement.KindCustomer, ID: "one", By: entitlement.Adapty, At: startTime * 1e9, Aliases: []entitlement.Alias{profile("one"), user},
		Links: []entitlement.Link{entitlement.CustomerLink(entitlement.Adapty, "one")}, Customer: &entitlement.Customer{}}))
	calls := []Command{coins(100), create("acc_1", user), erase("acc_1"), create("acc_2"), NewCommand(TypeAddAlias, sandbox, "", &AddAlias{Account: "acc_2", Alias: user})}
	random := rand.New(rand.NewPCG(3, 4))
	var hash any
	for range 20 {
		m := newMachine(t, 1<<20)
		m.mixed(random, calls, []Command{customerSays, unnamed("1", 100, profile("one")), unnamed("2", startTime+day, profile("one"))})
		m.check()
		if got := m.balance("acc_2", m.shop()); got != 100 || m.ownerOf("apple:1") != "acc_2" {
			t.Fatalf("acc_2 has %d coins, want those that were sold after the erasure; the others are of %q", got, m.ownerOf("apple:1"))
		}
		m.sameState(&hash)
	}
}

// TestSharesNeverMove: with whom a purchase is shared takes nothing from its buyer, nor does anybody what a store's family sharing gave to another; what is nobody's is a
// family's as well (A10.7).
func TestSharesNeverMove(t *testing.T) {
	shared := record(told(entitlement.Adapty, "e1", months(entitlement.Adapty, "t", 1, func(o *entitlement.Object) { o.Account = "acc_1" }, sharedWith(profile("two")))))
	sharingOff := NewCommand(TypePutPolicy, sandbox, "", &PutPolicy{Policy: entitlement.Policy{SharingOff: true}})
	tests := []struct {
		name     string
		steps    []Command
		to       entitlement.AccountID
		purchase entitlement.PurchaseID
		slug     string
	}{
		{"with whom it is shared", []Command{shared}, "acc_2", "adapty:t", SlugAliasTaken},
		{"where sharing is off", []Command{sharingOff, shared}, "acc_2", "adapty:t", SlugAliasTaken},
		{"merged with whom it is shared", []Command{shared, mergeOf("merge_1", "acc_2", "acc_3")}, "acc_3", "adapty:t", SlugAliasTaken},
		{"anybody else", []Command{shared}, "acc_3", "adapty:t", ""},
		{"whom it was shared with until a merge with the buyer", []Command{shared, mergeOf("merge_1", "acc_2", "acc_1")}, "acc_2", "adapty:t", ""},
		{"a share of another's family", []Command{record(sharedSale("900", "acc_1", "7000"))}, "acc_2", "apple:900", SlugAliasTaken},
		{"a share of a family that is nobody's", []Command{record(sharedSale("900", "", "7000"))}, "acc_2", "apple:900", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m := newMachine(t, 1<<20)
			for _, c := range append([]Command{shopCatalog(), create("acc_1"), create("acc_2", profile("two")), create("acc_3")}, tt.steps...) {
				if got := m.apply(c); got.Rejection != nil {
					t.Fatalf("command %d: %+v", c.Type, got.Rejection)
				}
			}
			before := m.ownerOf(tt.purchase)
			m.read(func(r *Reader) error {
				takes, err := r.RestoreTakes(sandbox, tt.purchase, tt.to, m.shop(), m.now)
				if takes && tt.slug != "" {
					t.Error("a receipt says that a restore would take it")
				}
				return err
			})
			if got := slugOf(m.apply(tapRestore(tt.to, tt.purchase))); got != tt.slug || tt.slug != "" && m.ownerOf(tt.purchase) != before {
				t.Errorf("%q, and it is %q's, want %q", got, m.ownerOf(tt.purchase), tt.slug)
			}
			m.check()
		})
	}
}
