package store

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/latchkey/latchkey/pkg/entitlement"
)

// listing is a message of iaptic's: everything that a user has at a time.
type listing struct {
	user string
	at   int64
	has  []string
}

func (l listing) event(sold func(id string) func(*entitlement.Object)) entitlement.Event {
	objects := []entitlement.Object{entitlement.WholeList(entitlement.Iaptic, l.user, l.at*1e9)}
	for _, id := range l.has {
		objects = append(objects, months(entitlement.Iaptic, id, l.at, named(iapticUser(l.user)), sold(id)))
	}
	return told(entitlement.Iaptic, fmt.Sprint("at ", l.at), objects...)
}

func iapticUser(name string) entitlement.Alias {
	return entitlement.Alias{Kind: entitlement.IapticUsername, Value: name}
}

// Random lists of two users, between whom purchases move, in any order and with repeats, lead to one state (I20): what the newest list of its last user leaves out
// has ended, for credits it stays bought, and what comes back in a newer list is there again (R17, R71).
func TestWhatAListLeavesOutIsGone(t *testing.T) {
	accounts := map[string]entitlement.AccountID{"one": "acc_1", "two": "acc_2"}
	ids := []string{"month", "other", "life"}
	sold := func(id string) func(*entitlement.Object) {
		return func(o *entitlement.Object) {
			if id == "life" {
				o.Transaction.Recurring, o.Transaction.EndsAt = false, 0
			}
		}
	}
	vanished := 0
	for seed := range uint64(25) {
		random := rand.New(rand.NewPCG(seed, 1))
		var messages []listing
		for at := int64(1); at <= 8; at++ {
			l := listing{user: []string{"one", "two"}[random.IntN(2)], at: at}
			for _, id := range ids {
				if random.IntN(2) == 0 {
					l.has = append(l.has, id)
				}
			}
			messages = append(messages, l)
		}
		// Apart from the fold: who had it last, when, and when that user was listed last.
		type last struct {
			user string
			at   int64
		}
		had, listed := map[string]last{}, map[string]int64{}
		for _, l := range messages {
			listed[l.user] = l.at
			for _, id := range l.has {
				had[id] = last{l.user, l.at}
			}
		}
		var hash string
		for range 4 {
			again := append(slices.Clone(messages), messages[random.IntN(len(messages))])
			random.Shuffle(len(again), func(i, j int) { again[i], again[j] = again[j], again[i] })
			m := newMachine(t, 1<<20)
			for user, id := range accounts {
				m.apply(create(id, iapticUser(user)))
			}
			for _, l := range again {
				m.apply(record(l.event(sold)))
			}
			m.check()
			if got := m.state.StateHash.String(); hash == "" {
				hash = got
			} else if got != hash {
				t.Fatalf("seed %d: the order counts (I20): %v", seed, again)
			}
			for id, last := range had {
				items := m.ownsPurchase(accounts[last.user], entitlement.PurchaseID("iaptic:"+id))
				gone := listed[last.user] > last.at
				if gone {
					vanished++
				}
				ended := len(items) == 1 && items[0].AccessUntil == last.at
				if id != "life" {
					ended = ended && items[0].State == entitlement.Ended && !items[0].WillRenew
				}
				if len(items) != 1 || ended != gone || id == "life" && items[0].State != entitlement.Live {
					t.Fatalf("seed %d: %s of %s is %+v, want it gone %t: %v", seed, id, last.user, items, gone, messages)
				}
			}
		}
	}
	if vanished < 40 {
		t.Errorf("%d purchases were left out: too few to show anything", vanished)
	}
}

// ownsPurchase describes what the account sees of one of its purchases.
func (m *machine) ownsPurchase(account entitlement.AccountID, id entitlement.PurchaseID) []entitlement.Item {
	m.t.Helper()
	if a := m.account(account); a != nil {
		for _, p := range a.Purchases {
			if p.ID == id {
				return p.Items
			}
		}
	}
	return nil
}

func TestWhatNoListCanTake(t *testing.T) {
	shared := months(entitlement.Iaptic, "1", 1, named(iapticUser("one")), sharedWith(iapticUser("one"), iapticUser("two")))
	apple := months(entitlement.Apple, "9", 2)
	also := months(entitlement.Iaptic, "9", 1, named(iapticUser("one")))
	also.Links = apple.Links
	for name, tt := range map[string]struct {
		rules   uint32
		objects []entitlement.Object
		gone    bool
	}{
		"a month":                            {rulesAccounts, []entitlement.Object{months(entitlement.Iaptic, "1", 1, named(iapticUser("one")))}, true},
		"a month, during an upgrade":         {RulesChains, []entitlement.Object{months(entitlement.Iaptic, "1", 1, named(iapticUser("one")))}, false},
		"what two users have":                {rulesAccounts, []entitlement.Object{shared}, true},
		"what the store itself tells of":     {rulesAccounts, []entitlement.Object{apple, also}, false},
		"what came with the list":            {rulesAccounts, []entitlement.Object{months(entitlement.Iaptic, "1", 5, named(iapticUser("one")))}, false},
		"what another aggregator tells of":   {rulesAccounts, []entitlement.Object{months(entitlement.Adapty, "1", 1, named(iapticUser("one")))}, false},
		"what is newer than the newest list": {rulesAccounts, []entitlement.Object{months(entitlement.Iaptic, "1", 6, named(iapticUser("one")))}, false},
	} {
		m := newMachineUnder(t, 1<<20, tt.rules)
		m.apply(create("acc_1", iapticUser("one")))
		m.apply(record(told(entitlement.Iaptic, "m1", tt.objects...)))
		m.apply(record(told(entitlement.Iaptic, "m2", entitlement.WholeList(entitlement.Iaptic, "one", 5e9))))
		items := m.owns("acc_1")
		if len(items) != 1 || (items[0].State == entitlement.Ended) != tt.gone {
			t.Errorf("%s: %+v, want it gone %t", name, items, tt.gone)
		}
		m.check()
	}
}

// What several users have is gone for each of them by their own list, whatever comes first, and there again once it is told of anew (R17).
func TestWhatSeveralUseIsGoneByEachOnesOwnList(t *testing.T) {
	one, two := iapticUser("one"), iapticUser("two")
	tells := func(at int64) entitlement.Event {
		return told(entitlement.Iaptic, fmt.Sprint("tells ", at), months(entitlement.Iaptic, "1", at, named(one), sharedWith(one, two)))
	}
	lists := func(user string, at int64) entitlement.Event {
		return told(entitlement.Iaptic, fmt.Sprint("lists ", user, at), entitlement.WholeList(entitlement.Iaptic, user, at*1e9))
	}
	for name, tt := range map[string]struct {
		messages []entitlement.Event
		one, two bool // has it
	}{
		"nobody's list leaves it out":     {[]entitlement.Event{tells(1)}, true, true},
		"that of who uses it besides":     {[]entitlement.Event{tells(1), lists("two", 5)}, true, false},
		"that of its owner":               {[]entitlement.Event{tells(1), lists("one", 5)}, false, true},
		"those of both":                   {[]entitlement.Event{tells(1), lists("one", 5), lists("two", 6)}, false, false},
		"one before it was told of anew":  {[]entitlement.Event{tells(1), lists("two", 5), tells(7)}, true, true},
		"one of the time when it was had": {[]entitlement.Event{tells(5), lists("two", 5)}, true, true},
	} {
		var hash string
		for seed := range uint64(6) {
			messages := slices.Clone(tt.messages)
			rand.New(rand.NewPCG(seed, 2)).Shuffle(len(messages), func(i, j int) { messages[i], messages[j] = messages[j], messages[i] })
			m := newMachine(t, 1<<20)
			m.apply(create("acc_1", one))
			m.apply(create("acc_2", two))
			for _, message := range messages {
				m.apply(record(message))
			}
			m.check()
			has := func(account entitlement.AccountID) bool {
				return slices.ContainsFunc(m.ownsPurchase(account, "iaptic:1"), func(i entitlement.Item) bool { return i.State == entitlement.Live })
			}
			if has("acc_1") != tt.one || has("acc_2") != tt.two {
				t.Errorf("%s, in the order %d: its owner has it %t, the other one %t", name, seed, has("acc_1"), has("acc_2"))
			}
			if got := m.state.StateHash.String(); hash != "" && got != hash {
				t.Errorf("%s: the order counts (I20)", name)
			} else {
				hash = got
			}
		}
	}
}
