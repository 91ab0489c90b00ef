package store

import (
	"testing"

	"github.com/latchkey/latchkey/pkg/entitlement"
	"github.com/latchkey/latchkey/replication"
)

// These tests show that the rows by which providers are asked follow what is known: they come with a doubt, go with what settles it, and follow
// purchases that turn out to be one.

func hint(of entitlement.ObjectKind, id string, at int64) entitlement.Object {
	return entitlement.Object{Kind: entitlement.KindHint, ID: id, At: at * 1e9, Links: []entitlement.Link{entitlement.Link("stripe:" + id)}, Hint: &entitlement.Hint{Of: of}}
}

// pulled is an answer whose request left at a time, for all of its purchase.
func pulled(at int64, id string, objects ...entitlement.Object) Command {
	ev := event(id, objects...)
	ev.CreatedAt, ev.Type = at, "pull.subscription"
	return NewCommand(TypeRecordEvent, sandbox, "corr-"+id, &RecordEvent{Event: ev, Pulled: true})
}

func (m *machine) pulls() []Pull {
	m.t.Helper()
	var pulls []Pull
	m.read(func(r *Reader) (err error) {
		pulls, err = r.Pulls(sandbox, "", 10)
		return err
	})
	return pulls
}

// expectPulls compares the rows by id, and every hash of the state.
func (m *machine) expectPulls(what string, want ...entitlement.PurchaseID) []Pull {
	m.t.Helper()
	pulls := m.pulls()
	same := len(pulls) == len(want)
	for i := 0; same && i < len(want); i++ {
		same = pulls[i].ID == want[i]
	}
	if !same {
		m.t.Fatalf("%s: to be asked about is %+v, want %v", what, pulls, want)
	}
	m.check()
	return pulls
}

func TestAHintIsAskedForBeforeThereIsAPurchase(t *testing.T) {
	m := newMachine(t, 1<<20)
	m.apply(create("acc_1"))
	m.apply(record(event("evt_1", hint(entitlement.KindSubscription, "sub_1", startTime))))
	m.expectPulls("a hint", "stripe:sub_1")
	if a := m.account("acc_1"); len(a.Purchases) != 0 {
		t.Errorf("a hint alone is shown: %+v", a.Purchases)
	}
	m.apply(record(event("pull:1", subscription("sub_1", startTime-1, entitlement.Active, "acc_1"))))
	m.expectPulls("an answer that is older than the hint", "stripe:sub_1")
	if a := m.account("acc_1"); len(a.Purchases) != 1 || !a.Purchases[0].Doubt {
		t.Errorf("purchases %+v, want one in doubt", a.Purchases)
	}
	m.apply(record(event("pull:2", subscription("sub_1", startTime, entitlement.Active, "acc_1"))))
	m.expectPulls("an answer as new as the hint")
	if a := m.account("acc_1"); a.Purchases[0].Doubt {
		t.Error("the record still says doubt")
	}
}

func TestANewDoubtShowsInTheRow(t *testing.T) {
	m := newMachine(t, 1<<20)
	m.apply(record(event("evt_1", hint(entitlement.KindSubscription, "sub_1", startTime))))
	first := m.expectPulls("a hint", "stripe:sub_1")[0]
	m.apply(record(event("evt_2", hint(entitlement.KindSubscription, "sub_1", startTime-5))))
	if again := m.expectPulls("an older hint", "stripe:sub_1")[0]; again != first {
		t.Errorf("the row is %+v, want %+v as before", again, first)
	}
	m.apply(record(event("evt_3", hint(entitlement.KindSubscription, "sub_1", startTime+5))))
	if newer := m.expectPulls("a newer hint", "stripe:sub_1")[0]; newer.Asks == first.Asks || newer.Since != first.Since {
		t.Errorf("the row is %+v, want other asks since the same time as %+v", newer, first)
	}
}

func TestOnlyALaterAnswerClearsAConflict(t *testing.T) {
	m := newMachine(t, 1<<20)
	m.apply(record(event("evt_1", subscription("sub_1", startTime, entitlement.Active, "acc_1"))))
	m.expectPulls("one message")
	m.now = startTime + 10
	if r := m.apply(record(event("evt_1", subscription("sub_1", startTime, entitlement.PastDue, "acc_1")))); r.Outcome != Conflicting {
		t.Fatalf("outcome %s", r.Outcome)
	}
	if p := m.expectPulls("two messages under one id", "stripe:sub_1")[0]; !p.Conflict || p.ConflictAt != startTime+10 {
		t.Errorf("the row is %+v", p)
	}
	m.now = startTime + 20
	m.apply(record(event("evt_2", subscription("sub_1", startTime+15, entitlement.Active, "acc_1"))))
	m.expectPulls("a newer message", "stripe:sub_1")
	m.apply(pulled(startTime+10, "pull:1", subscription("sub_1", startTime+10, entitlement.Active, "acc_1")))
	m.expectPulls("an answer of the conflict's second", "stripe:sub_1")
	m.apply(pulled(startTime+11, "pull:2", subscription("sub_1", startTime+11, entitlement.Active, "acc_1")))
	m.expectPulls("a later answer")
}

func TestAConflictConcernsThePurchasesOfBothMessages(t *testing.T) {
	m := newMachine(t, 1<<20)
	m.apply(record(event("evt_1", subscription("sub_1", startTime, entitlement.Active, "acc_1"))))
	m.apply(record(event("evt_2", subscription("sub_2", startTime, entitlement.Active, "acc_1"))))
	m.apply(record(event("evt_1", subscription("sub_2", startTime+1, entitlement.PastDue, "acc_1"), subscription("sub_3", startTime+1, entitlement.PastDue, "acc_1"))))
	m.expectPulls("a message about another purchase under a used id", "stripe:sub_1", "stripe:sub_2")
}

func TestRowsFollowPurchasesThatBecomeOne(t *testing.T) {
	m := newMachine(t, 1<<20)
	m.apply(record(event("evt_1", refund("re_1", "pi_1", startTime, 5))))
	m.now++
	m.apply(record(event("evt_1", refund("re_1", "pi_1", startTime, 6))))
	m.apply(record(event("evt_2", hint(entitlement.KindSubscription, "sub_1", startTime))))
	m.expectPulls("a fragment in conflict and a hint", "stripe:pi_1", "stripe:sub_1")
	m.now += 5
	m.apply(record(event("evt_3", invoice("in_1", "sub_1", "pi_1", startTime, entitlement.InvoicePaid))))
	p := m.expectPulls("one purchase", "stripe:sub_1")[0]
	if !p.Conflict || p.ConflictAt != startTime+1 || p.Since != startTime || p.Asks == "" {
		t.Errorf("the row is %+v, want both reasons since the first", p)
	}
	m.apply(pulled(startTime+9, "pull:1", subscription("sub_1", startTime+9, entitlement.Active, "")))
	m.expectPulls("an answer that settles both")
}

// A pulled answer is an object's newest state by its version and by nothing else (I20).
func TestAnAnswerAndAMessageInAnyOrder(t *testing.T) {
	answer := record(event("pull:1", subscription("sub_1", startTime+1, entitlement.Active, "acc_1")))
	commands := []Command{
		record(event("evt_1", subscription("sub_1", startTime, entitlement.Active, "acc_1"))),
		record(event("evt_2", subscription("sub_1", startTime, entitlement.PastDue, "acc_1"))),
		answer,
		record(event("evt_3", subscription("sub_1", startTime+2, entitlement.Canceled, "acc_1"))),
		record(event("evt_4", hint(entitlement.KindSubscription, "sub_1", startTime+1))),
	}
	var want replication.Hash
	for i, order := range permutations(len(commands)) {
		m := newMachine(t, 1<<20)
		m.apply(create("acc_1"))
		for _, at := range order {
			m.apply(commands[at])
		}
		m.expectPulls("everything")
		if a := m.account("acc_1"); len(a.Purchases) != 1 || a.Purchases[0].Items[0].State != entitlement.Ended {
			t.Fatalf("order %v: %+v", order, a.Purchases)
		}
		if got := m.state.StateHash; i == 0 {
			want = got
		} else if got != want {
			t.Fatalf("order %v: state hash differs", order)
		}
	}
}

// permutations lists every order of n things.
func permutations(n int) [][]int {
	if n == 0 {
		return [][]int{nil}
	}
	var orders [][]int
	for _, shorter := range permutations(n - 1) {
		for at := range n {
			order := append(append(append([]int{}, shorter[:at]...), n-1), shorter[at:]...)
			orders = append(orders, order)
		}
	}
	return orders
}

// TestMoneyThatCameBackIsAskedAboutSinceRules3: a dispute of a payment that no purchase is known by leaves nothing under older rules (I17). When the rules are raised it is asked
// about, and no longer once it is part of its subscription.
func TestMoneyThatCameBackIsAskedAboutSinceRules3(t *testing.T) {
	m := newMachineUnder(t, 1<<20, 2)
	m.apply(create("acc_1"))
	disputed := entitlement.Object{Kind: entitlement.KindDispute, ID: "dp_1", At: startTime * 1e9, Links: []entitlement.Link{"stripe:dp_1", "stripe:pi_1"},
		Dispute: &entitlement.Dispute{Status: "needs_response", PaymentIntent: "pi_1"}}
	m.apply(record(event("evt_1", disputed)))
	m.expectPulls("under older rules")
	m.apply(NewCommand(TypeRaiseRules, "", "", &RaiseRules{Rules: 3}))
	m.expectPulls("when the rules are raised", "stripe:pi_1")
	paid := entitlement.Object{Kind: entitlement.KindPayment, ID: "inpay_1", At: startTime * 1e9, Links: []entitlement.Link{"stripe:in_1", "stripe:inpay_1", "stripe:pi_1"},
		Payment: &entitlement.Payment{Invoice: "in_1", PaymentIntent: "pi_1", Status: "paid"}}
	m.apply(record(event("evt_1b", disputed)))
	asked := m.expectPulls("by a message that says the same", "stripe:pi_1")[0]
	m.apply(record(event("pull:1", paid)))
	if next := m.expectPulls("of its invoice", "stripe:pi_1")[0]; next.Asks == asked.Asks {
		t.Error("the next question looks like the first")
	}
	owned := subscription("sub_1", startTime, entitlement.Active, "acc_1")
	owned.Links = append(owned.Links, "stripe:in_1")
	m.apply(record(event("evt_2", owned)))
	m.expectPulls("of its subscription")
	if a := m.account("acc_1"); len(a.Purchases) != 1 || a.Purchases[0].Doubt || a.Purchases[0].Items[0].Reason != entitlement.ReasonDisputed {
		t.Errorf("the account has %+v", a.Purchases)
	}
}

// What an aggregator tells of a store's sale is open where the store can be asked, and the row says which: whoever asks, and counts, passes over it elsewhere.
func TestARowSaysWhetherAnythingIsOpenWithoutAnAnswer(t *testing.T) {
	echo := func(by entitlement.Provider, id string) entitlement.Object {
		o := hint(entitlement.KindRenewal, id, startTime)
		o.By, o.Hint.Echo, o.Links = by, true, []entitlement.Link{"apple:1"}
		return o
	}
	none := func(entitlement.Provider) bool { return false }
	old := newMachineUnder(t, 1<<20, rulesAccounts-1)
	for _, m := range []*machine{old, newMachine(t, 1<<20)} {
		m.apply(record(event("evt_1", echo(entitlement.Apple, "1"), echo(entitlement.Google, "2"))))
		p := m.expectPulls("echoes alone", "apple:1")[0]
		if m == old {
			if !p.IsOpen(none) || p.Echoes != "" {
				t.Errorf("under older rules %+v", p)
			}
			m.apply(NewCommand(TypeRaiseRules, "", "", &RaiseRules{Rules: rulesAccounts}))
			p = m.expectPulls("echoes, after the raise", "apple:1")[0]
		}
		if p.Echoes != "apple,google" || p.IsOpen(none) || !p.IsOpen(func(by entitlement.Provider) bool { return by == entitlement.Google }) {
			t.Errorf("echoes alone: %+v", p)
		}
		own := hint(entitlement.KindCustomer, "c", startTime)
		own.By, own.Links = entitlement.Adapty, []entitlement.Link{"apple:1"}
		m.apply(record(event("evt_2", own)))
		if p := m.expectPulls("an echo and a hint", "apple:1")[0]; p.Echoes != "" || !p.IsOpen(none) {
			t.Errorf("an echo and a hint: %+v", p)
		}
	}
}
