package store

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/latchkey/latchkey/pkg/entitlement"
	"github.com/latchkey/latchkey/replication"
)

const production = entitlement.Production

// months makes a month of pro as a provider other than Stripe tells of it.
func months(by entitlement.Provider, id string, at int64, edit ...func(*entitlement.Object)) entitlement.Object {
	o := entitlement.Object{Kind: entitlement.KindTransaction, ID: id, By: by, At: at * 1e9, Links: []entitlement.Link{entitlement.Link(string(by) + ":" + id)},
		Transaction: &entitlement.Transaction{Sold: entitlement.Sold{Product: "pro"}, Recurring: true, StartsAt: startTime, EndsAt: startTime + 30*day}}
	for _, e := range edit {
		e(&o)
	}
	return o
}

func named(aliases ...entitlement.Alias) func(*entitlement.Object) {
	return func(o *entitlement.Object) { o.Aliases = aliases }
}

func sharedWith(shares ...entitlement.Alias) func(*entitlement.Object) {
	return func(o *entitlement.Object) { o.Shares = shares }
}

func told(by entitlement.Provider, id string, objects ...entitlement.Object) entitlement.Event {
	ev := event(id, objects...)
	ev.Provider = by
	return ev
}

func profile(id string) entitlement.Alias {
	return entitlement.Alias{Kind: entitlement.AdaptyProfile, Value: id}
}

// owns describes what the account sees of its purchases, in their order.
func (m *machine) owns(id entitlement.AccountID) (items []entitlement.Item) {
	m.t.Helper()
	a := m.account(id)
	if a == nil {
		m.t.Fatalf("no account %s", id)
	}
	for _, p := range a.Purchases {
		items = append(items, p.Items...)
	}
	return items
}

func TestAppleFindsAnAccountByItsToken(t *testing.T) {
	m := newMachine(t, 1<<20)
	m.apply(create("acc_1"))
	token := entitlement.Alias{Kind: entitlement.AppleAppAccountToken, Value: entitlement.AccountID("acc_1").AppleAppAccountToken()}
	if r := m.apply(record(told(entitlement.Apple, "n1", months(entitlement.Apple, "1000", 1, named(token))))); r.Account != "acc_1" {
		t.Errorf("owner %q", r.Account)
	}
	m.check()
}

func TestAccountsOfOlderRulesGetTheirTokenWhenTheRulesAreRaised(t *testing.T) {
	m := newMachineUnder(t, 1<<20, 1)
	m.apply(create("acc_1"))
	token := entitlement.Alias{Kind: entitlement.AppleAppAccountToken, Value: entitlement.AccountID("acc_1").AppleAppAccountToken()}
	if r := m.apply(record(told(entitlement.Apple, "n1", months(entitlement.Apple, "1000", 1, named(token))))); r.Account != "" {
		t.Fatalf("owner %q under the old rules", r.Account)
	}
	m.apply(NewCommand(TypeRaiseRules, "", "", &RaiseRules{Rules: RulesChains}))
	if r := m.apply(record(told(entitlement.Apple, "n2", months(entitlement.Apple, "1000", 2, named(token))))); r.Account != "acc_1" {
		t.Errorf("owner %q", r.Account)
	}
}

func TestSharesComeAndGoWithTheProvidersWord(t *testing.T) {
	m := newMachine(t, 1<<20)
	m.apply(create("acc_1", profile("one")))
	m.apply(record(told(entitlement.Adapty, "e1", months(entitlement.Adapty, "t", 1, named(profile("one")), sharedWith(profile("two"))))))
	if got := m.owns("acc_1"); len(got) != 1 || got[0].Ownership != "" {
		t.Errorf("the owner has %+v", got)
	}
	m.apply(create("acc_2", profile("two"))) // made later: the purchase waits for it
	if got := m.owns("acc_2"); len(got) != 1 || got[0].Ownership != entitlement.Shared {
		t.Errorf("with whom it is shared has %+v", got)
	}
	m.apply(NewCommand(TypePutPolicy, sandbox, "p1", &PutPolicy{Policy: entitlement.Policy{SharingOff: true}}))
	if got := m.owns("acc_2"); len(got) != 0 {
		t.Errorf("without sharing has %+v", got)
	}
	m.apply(NewCommand(TypePutPolicy, sandbox, "p2", &PutPolicy{}))
	if got := m.owns("acc_2"); len(got) != 1 {
		t.Errorf("with sharing again has %+v", got)
	}
	m.apply(record(told(entitlement.Adapty, "e2", months(entitlement.Adapty, "t", 2, named(profile("one"))))))
	if got := m.owns("acc_2"); len(got) != 0 {
		t.Errorf("after the share ended has %+v", got)
	}
	m.check()
}

// What a provider says of its customers counts in any order, and the API's word before it.
func TestACustomerThatTheProviderNames(t *testing.T) {
	user := func(id string) entitlement.Alias {
		return entitlement.Alias{Kind: entitlement.Web2WaveUser, Value: id}
	}
	says := func(at int64, account entitlement.AccountID) entitlement.Object {
		return entitlement.Object{Kind: entitlement.KindCustomer, ID: "guid", By: entitlement.Web2Wave, At: at * 1e9, Account: account, Aliases: []entitlement.Alias{user("guid")},
			Links: []entitlement.Link{entitlement.CustomerLink(entitlement.Web2Wave, "guid")}, Customer: &entitlement.Customer{}}
	}
	messages := []entitlement.Event{
		told(entitlement.Web2Wave, "m1", months(entitlement.Web2Wave, "7", 1, named(user("guid")))),
		told(entitlement.Web2Wave, "m2", says(2, "acc_1")),
		told(entitlement.Web2Wave, "m3", says(3, "acc_2")),
		told(entitlement.Web2Wave, "m4", months(entitlement.Web2Wave, "8", 4, named(user("guid"))), says(1, "acc_1")),
	}
	var hash string
	random := rand.New(rand.NewPCG(1, 12))
	for range 12 {
		random.Shuffle(len(messages), func(i, j int) { messages[i], messages[j] = messages[j], messages[i] })
		m := newMachine(t, 1<<20)
		m.apply(create("acc_1"))
		m.apply(create("acc_2"))
		for _, ev := range messages {
			m.apply(record(ev))
		}
		if one, two := m.owns("acc_1"), m.owns("acc_2"); len(one) != 0 || len(two) != 2 {
			t.Fatalf("acc_1 has %+v, acc_2 %+v", one, two)
		}
		m.check()
		if got := m.state.StateHash.String(); hash == "" {
			hash = got
		} else if got != hash {
			t.Fatal("the order counts (I20)")
		}
		m.apply(create("acc_3", user("guid")))
		if three := m.owns("acc_3"); len(three) != 2 {
			t.Fatalf("after the API gave the name to acc_3, that has %+v", three)
		}
	}
}

// I15: test purchases change production only through sandbox_access, marked and for a day (R134).
func TestI15TestPurchasesInProduction(t *testing.T) {
	tester, other := entitlement.AccountID("acc_tester"), entitlement.AccountID("acc_other")
	account := func(id entitlement.AccountID) Command {
		return NewCommand(TypeCreate, production, "create-"+string(id), &CreateAccount{ID: id})
	}
	yes, no := true, false
	patch := func(flag *bool) Command {
		return NewCommand(TypePatch, production, "patch", &PatchAccount{Account: tester, Tester: flag})
	}
	send := func(id string, by entitlement.Provider, who entitlement.AccountID) Command {
		ev := told(by, "n"+id, months(by, id, 1, func(o *entitlement.Object) { o.Account = who }))
		return NewCommand(TypeRecordEvent, production, "corr-"+id, &RecordEvent{Event: ev})
	}
	seen := func(m *machine, id entitlement.AccountID) (purchases []entitlement.Purchase) {
		m.read(func(r *Reader) error {
			a, ok, err := r.Account(production, id)
			if ok {
				purchases = a.Purchases
			}
			return err
		})
		return purchases
	}
	m := newMachine(t, 1<<20)
	m.apply(account(tester))
	m.apply(account(other))
	for _, c := range []Command{send("1", entitlement.Apple, tester), send("2", entitlement.Apple, other), send("3", entitlement.Stripe, tester)} {
		if r := m.apply(c); r.Outcome != WrongEnvironment {
			t.Errorf("outcome %s", r.Outcome)
		}
	}
	if len(seen(m, tester)) != 0 || len(seen(m, other)) != 0 {
		t.Fatal("a test purchase counts for those who are no testers")
	}
	m.apply(patch(&yes))
	if got := seen(m, tester); len(got) != 1 || !got[0].Sandbox || got[0].ID != "apple:sandbox:1" || got[0].Items[0].AccessUntil != startTime+day {
		t.Errorf("the tester has %+v", got)
	}
	m.apply(patch(&no))
	if got := seen(m, tester); len(got) != 0 {
		t.Errorf("who is no tester any more has %+v", got)
	}
	m.apply(NewCommand(TypePutPolicy, production, "p1", &PutPolicy{Policy: entitlement.Policy{SandboxAccess: entitlement.SandboxAnyone}}))
	if len(seen(m, tester)) != 1 || len(seen(m, other)) != 1 {
		t.Error("anyone is not anyone")
	}
	m.apply(NewCommand(TypePutPolicy, production, "p2", &PutPolicy{Policy: entitlement.Policy{SandboxAccess: entitlement.SandboxNone}}))
	m.apply(send("4", entitlement.Apple, other))
	if len(seen(m, tester)) != 0 || len(seen(m, other)) != 0 {
		t.Error("none is not none")
	}
	m.read(func(r *Reader) error {
		if waiting, err := r.Unclaimed(production, "", 10); err != nil || len(waiting) != 0 {
			t.Errorf("unclaimed: %+v, %v", waiting, err)
		}
		return nil
	})
	m.check()
}

// TestWhatIsOfTheOtherEnvironmentGivesNothing: Web2Wave has one address for both environments, and answers that do not say which one a subscription is of (I15). Under older
// rules such a message leaves nothing (I17).
func TestWhatIsOfTheOtherEnvironmentGivesNothing(t *testing.T) {
	test := func(n string, o entitlement.Object) Command {
		ev := told(entitlement.Web2Wave, n, o)
		ev.Environment = sandbox
		return NewCommand(TypeRecordEvent, production, "corr-"+n, &RecordEvent{Event: ev})
	}
	month := func(term string, at int64) entitlement.Object {
		return months(entitlement.Web2Wave, term, at, func(o *entitlement.Object) {
			o.Account, o.Links, o.Transaction.Chain = "acc_1", []entitlement.Link{"web2wave:7", "stripe:sub_7"}, "7"
		})
	}
	standing := months(entitlement.Web2Wave, "7", 3)
	standing.Kind, standing.Transaction, standing.Renewal = entitlement.KindRenewal, nil, &entitlement.Renewal{Phase: entitlement.PhaseBillingGrace}
	answer := told(entitlement.Web2Wave, "pull:1", month("7:until:9", 5))
	answer.Environment = production
	commands := []Command{test("1", month("7:1", 1)), test("2", standing), NewCommand(TypeRecordEvent, production, "corr-3", &RecordEvent{Event: answer})}
	for rules, state := range map[uint32]entitlement.ItemState{2: entitlement.Live, RulesVersion: entitlement.Revoked} {
		var hash string
		for _, order := range permutations(len(commands)) {
			m := newMachineUnder(t, 1<<20, rules)
			m.apply(NewCommand(TypeCreate, production, "create", &CreateAccount{ID: "acc_1"}))
			for _, at := range order {
				m.apply(commands[at])
			}
			m.read(func(r *Reader) error {
				a, _, err := r.Account(production, "acc_1")
				if len(a.Purchases) != 1 || a.Purchases[0].Items[0].State != state {
					t.Errorf("rules %d, order %v: %+v", rules, order, a.Purchases)
				}
				return err
			})
			m.check()
			if got := m.state.StateHash.String(); hash == "" {
				hash = got
			} else if got != hash {
				t.Fatalf("rules %d, order %v: the order counts (I20)", rules, order)
			}
		}
	}
}

// Whoever has a side of a test purchase to see sees it from the moment that they are a tester, and until they are none: its owner, who shares it, who lost it. So it
// does not show whether they were one before (I20).
func TestWhoSeesATestPurchaseMayBecomeATester(t *testing.T) {
	isTest := func(o *entitlement.Object) { o.Sandbox = true }
	shared := record(told(entitlement.RevenueCat, "rc", months(entitlement.RevenueCat, "1000", 10, named(rcUser("u1")), sharedWith(rcUser("u2")), isTest)))
	flag := func(yes bool) Command {
		return NewCommand(TypePatch, sandbox, "", &PatchAccount{Account: "acc_2", Tester: &yes})
	}
	keep := NewCommand(TypePutPolicy, sandbox, "", &PutPolicy{Policy: entitlement.Policy{Transfer: entitlement.TransferNever}})
	term := func(n naming) Command {
		ev := n.by(entitlement.Apple)
		for i := range ev.Objects {
			ev.Objects[i].Sandbox = true
		}
		return record(ev)
	}
	bought := subscription("sub_1", 10, entitlement.Active, "acc_2")
	bought.Sandbox = true
	restore := NewCommand(TypeRestore, sandbox, "", &RestorePurchase{Account: "acc_1", Purchase: "stripe:sub_1"})
	for name, tt := range map[string][]Command{
		"who shares it":            {shared},
		"who lost it by a restore": {record(event("evt_1", bought)), restore},
		"who lost it by a name":    {keep, term(naming{id: "1", end: 30, account: "acc_2"}), term(naming{id: "2", start: 40, end: 70, account: "acc_1"})},
	} {
		for _, upgraded := range []bool{false, true} {
			if upgraded && name != "who shares it" { // only that was there before
				continue
			}
			t.Run(fmt.Sprintf("%s, upgraded %t", name, upgraded), func(t *testing.T) {
				var hash replication.Hash
				for at := range len(tt) + 1 { // when the account becomes a tester's
					m := newMachine(t, 1<<20)
					if upgraded {
						m = newMachineUnder(t, 1<<20, rulesAccounts-1)
					}
					do := func(list ...Command) {
						for _, c := range list {
							if got := m.apply(c); got.Rejection != nil {
								t.Fatalf("command %d: %+v", c.Type, got.Rejection)
							}
							m.check()
						}
					}
					do(create("acc_1", rcUser("u1")), create("acc_2", rcUser("u2")))
					do(tt[:at]...)
					if upgraded {
						do(NewCommand(TypeRaiseRules, "", "", &RaiseRules{Rules: rulesAccounts}))
					}
					do(flag(true))
					do(tt[at:]...)
					if n := len(m.account("acc_2").Purchases); n != 1 {
						t.Errorf("a tester after %d steps sees %d purchases, want 1", at, n)
					}
					if at == 0 {
						hash = m.state.StateHash
					} else if m.state.StateHash != hash {
						t.Errorf("a tester after %d steps: the order shows", at)
					}
					do(flag(false))
					if n := len(m.account("acc_2").Purchases); n != 0 {
						t.Errorf("who is no tester any more sees %d purchases", n)
					}
				}
			})
		}
	}
}
