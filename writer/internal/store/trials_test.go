package store

import (
	"math/rand/v2"
	"testing"

	"github.com/latchkey/latchkey/pkg/entitlement"
	"github.com/latchkey/latchkey/replication"
)

// rcTrial is a trial that RevenueCat tells of under its name of a user whom it calls our account, or none of ours.
func rcTrial(id, user string, account entitlement.AccountID, trial bool) Command {
	return record(rcEvent(id, user, account, trial))
}

func rcEvent(id, user string, account entitlement.AccountID, trial bool) entitlement.Event {
	ev := event("evt-rc-"+id, entitlement.Object{Kind: entitlement.KindTransaction, ID: id, By: entitlement.RevenueCat, At: startTime * 1e9, Account: account,
		Aliases: []entitlement.Alias{rcUser(user)}, Links: []entitlement.Link{entitlement.Link("revenuecat:" + id)},
		Transaction: &entitlement.Transaction{Chain: id, Sold: entitlement.Sold{Product: "pro"}, Recurring: true, StartsAt: startTime, EndsAt: startTime + day, Trial: trial, Store: entitlement.AppStore}})
	ev.Provider = entitlement.RevenueCat
	return ev
}

func rcUser(name string) entitlement.Alias {
	return entitlement.Alias{Kind: entitlement.RevenueCatAppUser, Value: name}
}

// Who is given the name of somebody who had a trial has had it, by the answer as by an intent, whichever came first (requirement A10.6, I20).
func TestATrialOfWhoHasTheNameIsUsedUp(t *testing.T) {
	last := []Command{rcTrial("t1", "rc-1", "acc_1", true), rcTrial("t2", "rc-2", "acc_1", false),
		NewCommand(TypeAddAlias, sandbox, "", &AddAlias{Account: "acc_2", Alias: rcUser("rc-1")}), create("acc_3", rcUser("rc-2"))}
	var want *replication.Hash
	r := rand.New(rand.NewPCG(13, 1))
	for range 24 {
		r.Shuffle(len(last), func(i, j int) { last[i], last[j] = last[j], last[i] })
		m := newMachine(t, 1<<20)
		for _, c := range append([]Command{shopCatalog(), create("acc_1"), create("acc_2")}, last...) {
			if got := m.apply(c); got.Rejection != nil {
				t.Fatalf("%d: %+v", c.Type, got.Rejection)
			}
			m.check()
		}
		for id, used := range map[entitlement.AccountID]bool{"acc_1": true, "acc_2": true, "acc_3": false} {
			if got := m.account(id).View(m.shop(), m.now, nil).TrialUsed; got != used {
				t.Errorf("%s: the answer has the trial used %t, want %t", id, got, used)
			}
			got := m.apply(ask("intent_"+string(id), id, entitlement.Stripe, "price_news", "phone", true))
			if refused := got.Rejection != nil && got.Rejection.Slug == SlugTrialUsed; refused != used {
				t.Errorf("%s: the intent is refused %t, want %t: %+v", id, refused, used, got.Rejection)
			}
		}
		if hash := m.state.StateHash; want == nil {
			want = &hash
		} else if hash != *want {
			t.Error("the order shows in the state")
		}
	}
}

// A test purchase locks nobody's trial, whoever had one under the name by which it was bought: it would show whether its owner was a tester before or after (I20).
func TestATestPurchaseLocksNoTrial(t *testing.T) {
	tested := rcEvent("p1", "u", "acc_1", false)
	tested.Objects[0].Sandbox = true
	trial := rcTrial("p2", "u", "acc_2", true)
	tester := func(yes bool) Command {
		return NewCommand(TypePatch, sandbox, "", &PatchAccount{Account: "acc_1", Tester: &yes})
	}
	steps := []Command{tester(true), record(tested), trial}
	var hashes [2]replication.Hash
	for at, order := range [][]int{{0, 1, 2}, {0, 2, 1}, {1, 0, 2}, {1, 2, 0}, {2, 0, 1}, {2, 1, 0}} {
		m := newMachine(t, 1<<20)
		m.apply(shopCatalog())
		m.apply(create("acc_1"))
		m.apply(create("acc_2"))
		for _, i := range order {
			if got := m.apply(steps[i]); got.Rejection != nil {
				t.Fatalf("%d: %+v", steps[i].Type, got.Rejection)
			}
			m.check()
		}
		if a := m.account("acc_1"); a.TrialLocked || len(a.Purchases) != 1 {
			t.Errorf("order %v: locked %t with %d purchases, want one that locks nothing", order, a.TrialLocked, len(a.Purchases))
		}
		if !m.account("acc_2").TrialLocked {
			t.Errorf("order %v: the trial that was had is not used up", order)
		}
		now := [2]replication.Hash{m.state.StateHash}
		m.apply(tester(false))
		if now[1] = m.state.StateHash; at == 0 {
			hashes = now
		} else if now != hashes {
			t.Errorf("order %v shows in the state", order)
		}
	}
}

// So is one that was had before a cluster knew persons, from the moment that it does.
func TestATrialOfWhoHasTheNameIsFoundByTheUpgrade(t *testing.T) {
	m := newMachineUnder(t, 1<<20, rulesAccounts-1)
	for _, c := range []Command{create("acc_1"), create("acc_2"), rcTrial("t1", "rc-1", "acc_1", true), create("acc_3", rcUser("rc-1"))} {
		if got := m.apply(c); got.Rejection != nil {
			t.Fatalf("%d: %+v", c.Type, got.Rejection)
		}
	}
	if m.account("acc_3").TrialLocked {
		t.Error("locked under older rules")
	}
	m.apply(NewCommand(TypeRaiseRules, "", "", &RaiseRules{Rules: rulesAccounts}))
	for id, locked := range map[entitlement.AccountID]bool{"acc_1": true, "acc_2": false, "acc_3": true} {
		if got := m.account(id).TrialLocked; got != locked {
			t.Errorf("%s: locked %t, want %t", id, got, locked)
		}
	}
	m.check()
}
