package store

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/latchkey/latchkey/pkg/entitlement"
)

// card is the index of a card's fingerprint, as the receiving node makes it.
func card(n byte) string { return hex.EncodeToString(bytes.Repeat([]byte{n}, cardBytes)) }

// carded is a message that tells of a customer's card and of no purchase.
func carded(id, customer, card string) Command {
	return NewCommand(TypeRecordEvent, sandbox, "", &RecordEvent{Event: event(id), Card: card, CardOf: customer})
}

// stripeTrial is a subscription at Stripe that begins with a trial, for which nothing is charged.
func stripeTrial(id string, account entitlement.AccountID, customerID string) Command {
	o := subscription(id, 10, entitlement.Trialing, account, customer(customerID))
	o.Subscription.TrialStart, o.Subscription.TrialEnd = startTime, startTime+7*day
	return record(event("evt-"+id, o))
}

func stripePaid(id string, account entitlement.AccountID, customerID string) Command {
	return record(event("evt-"+id, subscription(id, 10, entitlement.Active, account, customer(customerID))))
}

func policyOf(p entitlement.Policy) Command {
	return NewCommand(TypePutPolicy, sandbox, "", &PutPolicy{Policy: p})
}

// A person is known by the card that they pay with while the policy says so, and only then (requirement A10.6): a switch counts for what was bought before it.
func TestACardIsAPersonUnderItsPolicyAlone(t *testing.T) {
	m := newMachine(t, 1<<20)
	for _, c := range []Command{shopCatalog(), create("acc_1"), create("acc_2"), create("acc_4"),
		NewCommand(TypeCreate, sandbox, "", &CreateAccount{ID: "acc_3", Aliases: []entitlement.Alias{customer("cus_3")}}),
		carded("pm_1", "cus_1", card(7)), stripeTrial("sub_1", "acc_1", "cus_1"),
		stripePaid("sub_2", "acc_2", "cus_2"), carded("pm_2", "cus_2", card(7)),
		carded("pm_3", "cus_3", card(7)), // a card that is kept on file, before anything is bought
		stripePaid("sub_4", "acc_4", "cus_4"), carded("pm_4", "cus_4", card(9)),
	} {
		if got := m.apply(c); got.Rejection != nil {
			t.Fatalf("command %d: %+v", c.Type, got.Rejection)
		}
		m.check()
	}
	locked := func(when string, want map[entitlement.AccountID]bool, doubles int) {
		t.Helper()
		m.check()
		for id, refused := range want {
			intent := fmt.Sprintf("i-%s-%s", when, id)
			if got := m.apply(ask(intent, id, entitlement.Stripe, "price_news", "phone", true)); (slugOf(got) == SlugTrialUsed) != refused {
				t.Errorf("%s: %s asks for a trial = %+v %+v, want it refused: %t", when, id, got.Intent, got.Rejection, refused)
			}
			m.apply(endOf(intent, id))
			if got := m.account(id).TrialLocked; id != "acc_3" && got != refused { // that one has bought nothing: it is known by its alias
				t.Errorf("%s: %s locked %t, want %t", when, id, got, refused)
			}
		}
		m.read(func(r *Reader) error {
			trials, err := r.TrialsOfBuyer(sandbox, "stripe:sub_2")
			if len(trials) != doubles {
				t.Errorf("%s: the buyer of sub_2 had the trials %v, want %d", when, trials, doubles)
			}
			return err
		})
	}
	byStore := map[entitlement.AccountID]bool{"acc_2": false, "acc_3": false, "acc_4": false}
	byCard := map[entitlement.AccountID]bool{"acc_2": true, "acc_3": true, "acc_4": false}
	locked("at first", byStore, 0)
	m.apply(policyOf(entitlement.Policy{TrialByPayment: true}))
	locked("by card", byCard, 1)
	m.apply(carded("pm_5", "cus_4", card(7)))
	locked("another card", map[entitlement.AccountID]bool{"acc_2": true, "acc_3": true, "acc_4": true}, 1)
	m.apply(policyOf(entitlement.Policy{}))
	locked("by store again", byStore, 0)
}

// Which cards are known, and whose trials are used up by them, depends on the set of messages, not on their order, nor on when the policy was put (I20).
func TestCardsAreOrderFree(t *testing.T) {
	messages := []Command{stripeTrial("sub_1", "acc_1", "cus_1"), stripePaid("sub_2", "acc_2", "cus_2"), stripePaid("sub_3", "acc_3", "cus_3"), policyOf(entitlement.Policy{TrialByPayment: true}),
		carded("pm_1", "cus_1", card(200)), carded("pm_2", "cus_2", card(200)), carded("pm_3", "cus_3", card(201)), carded("pm_1", "cus_1", card(200))}
	for n := range byte(maxCards + 4) { // more than are kept
		messages = append(messages, carded(fmt.Sprintf("pm_many_%d", n), "cus_3", card(n)))
	}
	var want string
	r := rand.New(rand.NewPCG(3, 4))
	for range 40 {
		r.Shuffle(len(messages), func(i, j int) { messages[i], messages[j] = messages[j], messages[i] })
		m := newMachine(t, 1<<20)
		for _, c := range append([]Command{shopCatalog(), create("acc_1"), create("acc_2"), create("acc_3")}, messages...) {
			m.apply(c)
		}
		m.check()
		got := ""
		m.read(func(r *Reader) error {
			for _, name := range [][]byte{bucketCards, bucketPersons} {
				err := r.tx.Bucket(name).ForEach(func(k, v []byte) error {
					got += fmt.Sprintf("%s %x %x\n", name, k, v)
					return nil
				})
				if err != nil {
					return err
				}
			}
			got += fmt.Sprint(r.Position().StateHash)
			return nil
		})
		if want == "" {
			want = got
		}
		if got != want {
			t.Fatalf("the order of the messages shows:\n%s\n%s", got, want)
		}
		for id, locked := range map[entitlement.AccountID]bool{"acc_1": true, "acc_2": true, "acc_3": false} {
			if got := m.account(id).TrialLocked; got != locked {
				t.Errorf("%s: locked %t, want %t", id, got, locked)
			}
		}
	}
}

// Who buys with a card is one person after purchases became one and after an owner changed, as with the names that stores have for them.
func TestACardFollowsThePurchase(t *testing.T) {
	m := newMachine(t, 1<<20)
	for _, c := range []Command{shopCatalog(), create("acc_1"), create("acc_2"), policyOf(entitlement.Policy{TrialByPayment: true}),
		stripeTrial("sub_1", "acc_1", "cus_1"), carded("pm_1", "cus_1", card(7)), carded("pm_2", "cus_2", card(7)), stripePaid("sub_2", "acc_2", "cus_2")} {
		m.apply(c)
	}
	if !m.account("acc_2").TrialLocked {
		t.Error("acc_2 pays with the card of a trial and is not locked")
	}
	// Whoever restores the purchase has it from then on: the card does not stay behind.
	if got := m.apply(NewCommand(TypeRestore, sandbox, "", &RestorePurchase{Account: "acc_1", Purchase: "stripe:sub_2"})); got.Rejection != nil {
		t.Fatalf("restore = %+v", got.Rejection)
	}
	if m.account("acc_2").TrialLocked {
		t.Error("acc_2 is locked by a purchase that it has no more")
	}
	m.check()
}

// During an upgrade, cards leave no trace: older writers must have the same state (I17).
func TestOlderRulesKnowNoCards(t *testing.T) {
	m := newMachineUnder(t, 1<<20, 2)
	for _, c := range []Command{create("acc_1"), stripeTrial("sub_1", "acc_1", "cus_1"), carded("pm_1", "cus_1", card(7)), policyOf(entitlement.Policy{TrialByPayment: true})} {
		m.apply(c)
	}
	m.read(func(r *Reader) error {
		for _, name := range [][]byte{bucketCards, bucketPersons} {
			if k, _ := r.tx.Bucket(name).Cursor().First(); k != nil {
				t.Errorf("%s has %x", name, k)
			}
		}
		if policy, err := r.Policy(sandbox); err != nil || policy.TrialByPayment {
			t.Errorf("policy %+v, %v", policy, err)
		}
		return nil
	})
}

// A trial that was had before a cluster knew persons is used up from the moment that it does: nobody has to wait for the next message.
func TestATrialFromBeforeTheUpgradeIsUsedUp(t *testing.T) {
	m := newMachineUnder(t, 1<<20, 2)
	for _, c := range []Command{create("acc_1"), create("acc_2"), create("acc_3"),
		record(namedSale("500", "ann", 10, true)), record(namedSale("600", "ann", 10, false)), record(namedSale("700", "bob", 10, false))} {
		if got := m.apply(c); got.Rejection != nil {
			t.Fatalf("%+v", got.Rejection)
		}
	}
	for purchase, account := range map[entitlement.PurchaseID]entitlement.AccountID{"iaptic:500": "acc_1", "iaptic:600": "acc_2", "iaptic:700": "acc_3"} {
		if got := m.apply(NewCommand(TypeClaim, sandbox, "", &ClaimPurchase{Account: account, Purchase: purchase})); got.Rejection != nil {
			t.Fatalf("claim of %s: %+v", purchase, got.Rejection)
		}
	}
	m.apply(NewCommand(TypeRaiseRules, "", "", &RaiseRules{Rules: rulesAccounts}))
	m.check()
	for id, locked := range map[entitlement.AccountID]bool{"acc_1": true, "acc_2": true, "acc_3": false} {
		if got := m.account(id).TrialLocked; got != locked {
			t.Errorf("%s: locked %t, want %t", id, got, locked)
		}
	}
}

// namedSale is what iaptic says of a user whom no account is called.
func namedSale(id, user string, at int64, trial bool) entitlement.Event {
	ev := iapticSale(id, "", at, trial)
	ev.Objects[1].Aliases[0].Value = user
	return ev
}
