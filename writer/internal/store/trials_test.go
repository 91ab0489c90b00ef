package store

import (
	"math/rand/v2"
	"testing"

	"github.com/latchkey/latchkey/pkg/entitlement"
	"github.com/latchkey/latchkey/replication"
)

// rcTrial is a trial that RevenueCat tells of under its name of a user whom it calls our account, or none of ours.
func rcTrial(id, user string, account entitlement.AccountID, trial bool) Command {
	ev := event("evt-rc-"+id, entitlement.Object{Kind: entitlement.KindTransaction, ID: id, By: entitlement.RevenueCat, At: startTime * 1e9, Account: account,
		Aliases: []entitlement.Alias{rcUser(user)}, Links: []entitlement.Link{entitlement.Link("revenuecat:" + id)},
		Transaction: &entitlement.Transaction{Chain: id, Sold: entitlement.Sold{Product: "pro"}, Recurring: true, StartsAt: startTime, EndsAt: startTime + day, Trial: trial, Store: entitlement.AppStore}})
	ev.Provider = entitlement.RevenueCat
	return record(ev)
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
