package store

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/latchkey/latchkey/pkg/entitlement"
)

// naming is a term of a chain at the App Store or at Google Play, which names an account.
type naming struct {
	id         string
	start, end int64 // days after startTime
	account    entitlement.AccountID
	renewal    bool
	revoked    int64 // day; 0: it stands
}

// by returns the message that tells of the term, as the adapter of the store makes it.
func (n naming) by(store entitlement.Provider) entitlement.Event {
	start, end := startTime+n.start*day, startTime+n.end*day
	links := []entitlement.Link{entitlement.Link(string(store) + ":1000"), entitlement.SecondaryLink(store, n.id)}
	term := entitlement.Object{Kind: entitlement.KindTransaction, ID: n.id, By: store, At: start * 1e9, Links: links,
		Transaction: &entitlement.Transaction{Chain: "1000", Sold: entitlement.Sold{Product: "pro"}, Recurring: true, StartsAt: start, EndsAt: end}}
	if n.revoked != 0 {
		term.Transaction.RevokedAt = startTime + n.revoked*day
	}
	buyer := entitlement.Object{Kind: entitlement.KindCustomer, ID: "1000", By: store, At: start * 1e9, Links: links, Customer: &entitlement.Customer{}}
	said := &entitlement.Naming{At: start, Chosen: !n.renewal}
	if store == entitlement.Apple {
		said.Aliases = []entitlement.Alias{{Kind: entitlement.AppleAppAccountToken, Value: n.account.AppleAppAccountToken()}}
		buyer.Aliases, term.Naming = said.Aliases, said
	} else {
		said.Account, said.Aliases = n.account, []entitlement.Alias{{Kind: entitlement.GoogleObfuscatedAccount, Value: string(n.account)}}
		term.Transaction.Chain = n.id + ":pro" // each token is a chain
		buyer.ID, buyer.Account, buyer.Aliases, buyer.Naming = n.id, said.Account, said.Aliases, said
	}
	return told(store, "n-"+n.id, term, buyer)
}

// TestWhomAPurchaseIsNamedTo: A10.7. Under the default policy the newest name has it; else it stays with whom it is of unless the user bought it
// under another name once it was over; and who had it sees that it was transferred. The accounts may come before the messages, after them or between, and the messages in any order (I20).
func TestWhomAPurchaseIsNamedTo(t *testing.T) {
	first := naming{id: "1", end: 30, account: "acc_1"}
	tests := []struct {
		name           string
		told           []naming
		newest, stayed entitlement.AccountID
		appleAlone     bool // renewals at Google Play say nothing of their own
	}{
		{"one name", []naming{first}, "acc_1", "acc_1", false},
		{"bought under another name while live", []naming{first, {id: "2", start: 20, end: 50, account: "acc_2"}}, "acc_2", "acc_1", false},
		{"bought under another name once it had lapsed", []naming{first, {id: "2", start: 40, end: 70, account: "acc_2"}}, "acc_2", "acc_2", false},
		{"bought under another name once it was refunded", []naming{{id: "1", end: 30, account: "acc_1", revoked: 5}, {id: "2", start: 20, end: 50, account: "acc_2"}}, "acc_2", "acc_2", false},
		{"refunded after that", []naming{{id: "1", end: 30, account: "acc_1", revoked: 25}, {id: "2", start: 20, end: 50, account: "acc_2"}}, "acc_2", "acc_1", false},
		{"a name that is nobody's, and another while live", []naming{{id: "1", end: 30, account: "acc_unknown"}, {id: "2", start: 20, end: 50, account: "acc_2"}}, "acc_2", "acc_2", false},
		{"a renewal under another name", []naming{first, {id: "2", start: 30, end: 60, account: "acc_2", renewal: true}}, "acc_2", "acc_1", true},
		{"the newest name is nobody's", []naming{first, {id: "2", start: 20, end: 50, account: "acc_unknown"}}, "", "acc_1", false},
	}
	random := rand.New(rand.NewPCG(10, 7))
	for _, store := range []entitlement.Provider{entitlement.Apple, entitlement.Google} {
		for transfer, stays := range map[entitlement.Transfer]bool{"": false, entitlement.TransferAlways: false, entitlement.TransferNever: true, entitlement.TransferIfInactive: true} {
			for _, tt := range tests {
				if tt.appleAlone && store != entitlement.Apple {
					continue
				}
				t.Run(string(store)+" "+string(transfer)+": "+tt.name, func(t *testing.T) {
					want := tt.newest
					if stays {
						want = tt.stayed
					}
					var lost []entitlement.AccountID
					if tt.told[0].account == "acc_1" && want != "acc_1" { // who was named first had it
						lost = append(lost, "acc_1")
					}
					put := NewCommand(TypePutPolicy, sandbox, "", &PutPolicy{Policy: entitlement.Policy{Transfer: transfer}})
					var hash any
					for range 5 {
						var commands []Command
						for _, n := range tt.told {
							commands = append(commands, record(n.by(store)))
						}
						commands = append(commands, commands[random.IntN(len(commands))])
						m := newMachine(t, 1<<20)
						m.mixed(random, []Command{put, create("acc_1"), create("acc_2")}, commands)
						m.check()
						m.ownedBy(store, want, lost...)
						m.sameState(&hash)
					}
				})
			}
		}
	}
}

// holder plays terms one after the other, as they were bought: who has it in the end, and who lost it.
func holder(bought []naming) (id entitlement.AccountID, lost []entitlement.AccountID) {
	for _, n := range bought {
		live := slices.ContainsFunc(bought, func(o naming) bool {
			return o.id != n.id && o.start <= n.start && n.start < o.end && (o.revoked == 0 || n.start < o.revoked)
		})
		if n.account != "acc_unknown" && n.account != id && (id == "" || !n.renewal && !live) {
			if id != "" {
				lost = append(lost, id)
			}
			id = n.account
		}
	}
	return id, slices.DeleteFunc(lost, func(l entitlement.AccountID) bool { return l == id })
}

// Random chains of terms, under a policy that is put to and fro among the messages, in two orders: whose it is in the end is what the terms say as they were
// bought, and the order never shows (I20).
func TestRandomNamingsAreOrderFree(t *testing.T) {
	for seed := range uint64(40) {
		random := rand.New(rand.NewPCG(seed, 7))
		var bought []naming
		for i, at := range random.Perm(60)[:2+random.IntN(6)] {
			n := naming{id: fmt.Sprint(i), start: int64(at), end: int64(at + 1 + random.IntN(20)), renewal: random.IntN(3) == 0,
				account: []entitlement.AccountID{"acc_1", "acc_2", "acc_unknown"}[random.IntN(3)]}
			if random.IntN(4) == 0 {
				n.revoked = n.start + 1 + random.Int64N(n.end-n.start)
			}
			bought = append(bought, n)
		}
		slices.SortFunc(bought, func(a, b naming) int { return int(a.start - b.start) })
		put := func(transfer entitlement.Transfer, key string) Command {
			return NewCommand(TypePutPolicy, sandbox, key, &PutPolicy{Policy: entitlement.Policy{Transfer: transfer}})
		}
		calls := []Command{put(entitlement.TransferNever, "p1"), create("acc_1"), put("", "p2"), create("acc_2"), put(entitlement.TransferIfInactive, "p3")}
		var messages []Command
		for _, n := range bought {
			messages = append(messages, record(n.by(entitlement.Apple)))
		}
		var hashes [2]any
		for i := range hashes {
			m := newMachine(t, 1<<20)
			m.mixed(random, calls, messages)
			m.check()
			owner, lost := holder(bought)
			m.ownedBy(entitlement.Apple, owner, lost...)
			if hashes[i] = m.state.StateHash; hashes[0] != hashes[i] {
				t.Fatalf("seed %d: the order counts (I20)", seed)
			}
		}
	}
}

// ownedBy checks whose the purchase 1000 of a provider is, that those who lost it see it as transferred, and that nobody else has a trace of it.
func (m *machine) ownedBy(store entitlement.Provider, want entitlement.AccountID, lost ...entitlement.AccountID) {
	m.t.Helper()
	m.read(func(r *Reader) error {
		p, ok, err := r.Purchase(sandbox, entitlement.PurchaseID(string(store)+":1000"))
		if !ok || p.Owner != want {
			m.t.Fatalf("%+v is %q's, want %q", p.Evidence.Objects, p.Owner, want)
		}
		return err
	})
	for _, id := range []entitlement.AccountID{"acc_1", "acc_2"} {
		items, gone := m.owns(id), slices.Contains(lost, id)
		if got := len(items) > 0; got != (id == want || gone) {
			m.t.Fatalf("%s has it: %t, want it with %q, and lost by %q", id, got, want, lost)
		}
		for _, item := range items {
			if transferred := item.State == entitlement.Revoked && item.Reason == entitlement.ReasonTransferred; transferred != gone {
				m.t.Fatalf("%s sees %+v, want it transferred: %t", id, item, gone)
			}
		}
	}
}

// A policy counts for every purchase at once, and back; what support, a tapped restore or a merge says comes before every name.
func TestAPolicyMovesWhatIsNamedToSeveral(t *testing.T) {
	put := func(transfer entitlement.Transfer, key string) Command {
		return NewCommand(TypePutPolicy, sandbox, key, &PutPolicy{Policy: entitlement.Policy{Transfer: transfer}})
	}
	m := newMachine(t, 1<<20)
	for _, c := range []Command{create("acc_1"), create("acc_2"), create("acc_3"), record(naming{id: "1", end: 30, account: "acc_1"}.by(entitlement.Apple)),
		record(naming{id: "2", start: 20, end: 50, account: "acc_2"}.by(entitlement.Apple))} {
		m.apply(c)
	}
	m.ownedBy(entitlement.Apple, "acc_2", "acc_1")
	for i, want := range []entitlement.AccountID{"acc_1", "acc_2", "acc_1", "acc_2"} {
		m.apply(put([]entitlement.Transfer{entitlement.TransferNever, entitlement.TransferAlways, entitlement.TransferIfInactive, ""}[i], fmt.Sprint("policy-", i)))
		m.ownedBy(entitlement.Apple, want, map[entitlement.AccountID][]entitlement.AccountID{"acc_2": {"acc_1"}}[want]...)
	}
	m.apply(NewCommand(TypeRestore, sandbox, "", &RestorePurchase{Account: "acc_3", Purchase: "apple:1000"}))
	m.apply(put(entitlement.TransferNever, "last"))
	m.apply(record(naming{id: "3", start: 60, end: 90, account: "acc_2"}.by(entitlement.Apple)))
	m.read(func(r *Reader) error {
		p, _, err := r.Purchase(sandbox, "apple:1000")
		if p.Owner != "acc_3" {
			t.Errorf("after the restore it is %q's", p.Owner)
		}
		return err
	})
	m.ownedBy(entitlement.Apple, "acc_3", "acc_1", "acc_2") // by the name and by the restore
	m.check()
}

// A name that another provider's statement hides decides once its account is there.
func TestANameThatIsNotTheNewestIsWaitedFor(t *testing.T) {
	m := newMachine(t, 1<<20)
	aggregator := months(entitlement.Adapty, "t", 99, func(o *entitlement.Object) { o.Account = "acc_2" })
	aggregator.Links = []entitlement.Link{"google:1000"}
	for _, c := range []Command{create("acc_2"), NewCommand(TypePutPolicy, sandbox, "", &PutPolicy{Policy: entitlement.Policy{Transfer: entitlement.TransferNever}}),
		record(told(entitlement.Adapty, "e", aggregator)), record(naming{id: "1", end: 30, account: "acc_1"}.by(entitlement.Google))} {
		m.apply(c)
	}
	m.apply(create("acc_1"))
	m.ownedBy(entitlement.Google, "acc_1")
	m.check()
}

// moving is a state of one object of a provider that tells of a purchase under a name, or in an object of another kind under none of its own.
func moving(by entitlement.Provider, at int64, account entitlement.AccountID) entitlement.Event {
	link := []entitlement.Link{entitlement.Link(string(by) + ":1000")}
	term := months(by, "1000", at, func(o *entitlement.Object) { o.Account, o.Links = account, link })
	if by == entitlement.Stripe {
		term = subscription("1000", at, entitlement.Active, account)
	}
	return told(by, fmt.Sprint("moving-", at), term)
}

// TestWhoLosesAPurchaseToANewerNameSeesIt: an aggregator's transfer, and metadata that was set anew (A10.7). The provider's newest word says whose it is and leaves no
// trace of who had it before, so the purchase keeps the names. In any order, with the accounts before, after or between (I20).
func TestWhoLosesAPurchaseToANewerNameSeesIt(t *testing.T) {
	tests := []struct {
		name  string
		names []entitlement.AccountID
		want  entitlement.AccountID
		lost  []entitlement.AccountID
	}{
		{"one name", []entitlement.AccountID{"acc_1", "acc_1"}, "acc_1", nil},
		{"moved", []entitlement.AccountID{"acc_1", "acc_1", "acc_2"}, "acc_2", []entitlement.AccountID{"acc_1"}},
		{"moved on", []entitlement.AccountID{"acc_1", "acc_2", "acc_3"}, "acc_3", []entitlement.AccountID{"acc_1", "acc_2"}},
		{"moved and back", []entitlement.AccountID{"acc_1", "acc_2", "acc_1"}, "acc_1", []entitlement.AccountID{"acc_2"}},
		{"from nobody", []entitlement.AccountID{"acc_unknown", "acc_2"}, "acc_2", nil},
		{"to nobody", []entitlement.AccountID{"acc_2", "acc_unknown"}, "", []entitlement.AccountID{"acc_2"}},
	}
	random := rand.New(rand.NewPCG(3, 9))
	for _, by := range []entitlement.Provider{entitlement.RevenueCat, entitlement.Adapty, entitlement.Iaptic, entitlement.Stripe} {
		for _, tt := range tests {
			t.Run(string(by)+": "+tt.name, func(t *testing.T) {
				var hash any
				for range 6 {
					var messages []Command
					for i, account := range tt.names {
						messages = append(messages, record(moving(by, int64(10+i), account)))
					}
					messages = append(messages, messages[0]) // one comes twice
					m := newMachine(t, 1<<20)
					m.mixed(random, []Command{create("acc_1"), create("acc_2"), create("acc_3")}, messages)
					m.check()
					m.ownedBy(by, tt.want, tt.lost...)
					m.sameState(&hash)
				}
			})
		}
	}
}

// A purchase that is passed around on purpose makes each of its changes no dearer than for the last sixteen who had it.
func TestOfManyWhoLostAPurchaseTheLastSeeIt(t *testing.T) {
	m := newMachine(t, 1<<20)
	for i := range 40 {
		id := entitlement.AccountID(fmt.Sprint("acc_", i))
		m.apply(create(id))
		m.apply(record(moving(entitlement.RevenueCat, int64(10+i), id)))
	}
	m.check()
	var see []int
	for i := range 40 {
		if len(m.owns(entitlement.AccountID(fmt.Sprint("acc_", i)))) > 0 {
			see = append(see, i)
		}
	}
	if len(see) != maxLosers || see[0] != 40-maxLosers {
		t.Errorf("%v see it, want the owner and the %d before", see, maxLosers-1)
	}
}

// The same where one restores it after the other: whoever has a proof of it and sessions enough makes it no dearer.
func TestOfManyWhoLostAPurchaseToARestoreTheLastSeeIt(t *testing.T) {
	m := newMachine(t, 1<<20)
	m.apply(create("acc_0"))
	m.apply(record(moving(entitlement.Stripe, 10, "acc_0")))
	for i := range 40 {
		id := entitlement.AccountID(fmt.Sprint("acc_", i))
		m.apply(create(id))
		m.now++
		if got := m.apply(tapRestore(id, "stripe:1000")); got.Rejection != nil {
			t.Fatalf("restore %d: %+v", i, got.Rejection)
		}
	}
	rev := m.state.N
	m.apply(record(told(entitlement.Stripe, "canceled", subscription("1000", 20, entitlement.Canceled, "acc_0"))))
	m.check()
	if n := m.state.N - rev; n != maxLosers+1 {
		t.Errorf("a message about it changes %d records, want the owner's and %d", n, maxLosers)
	}
	for i := range 40 {
		if items := m.owns(entitlement.AccountID(fmt.Sprint("acc_", i))); (len(items) > 0) != (i >= 39-maxLosers) {
			t.Errorf("acc_%d of 40 who had it sees %+v, want the last %d before the owner to see it", i, items, maxLosers)
		}
	}
}

// Who lost a purchase to a restore sees that again when it is shared with them no more, whether they heard of the share or not (I20).
func TestWhoLostAPurchaseSeesItAfterAShareOfIt(t *testing.T) {
	say := func(at int64, shares ...entitlement.Alias) Command {
		return record(told(entitlement.Adapty, fmt.Sprint("say-", at), months(entitlement.Adapty, "1000", at, sharedWith(shares...), func(o *entitlement.Object) { o.Account = "acc_1" })))
	}
	share, end := say(20, profile("one"), profile("two")), say(30, profile("two"))
	var hash any
	for _, messages := range [][]Command{{share, end}, {end, share}, {end}} {
		m := newMachine(t, 1<<20)
		for _, c := range slices.Concat([]Command{create("acc_1", profile("one")), create("acc_2"), say(10), tapRestore("acc_2", "adapty:1000")}, messages) {
			if got := m.apply(c); got.Rejection != nil {
				t.Fatalf("command %d: %+v", c.Type, got.Rejection)
			}
		}
		m.check()
		m.ownedBy(entitlement.Adapty, "acc_2", "acc_1")
		if len(messages) == 2 {
			m.sameState(&hash)
		}
	}
}

// A merge of who lost it with who has it shows the owner's view alone, and its undo shows both again.
func TestAMergeHidesWhatWasLostWithinIt(t *testing.T) {
	m := newMachine(t, 1<<20)
	for _, c := range []Command{create("acc_1"), create("acc_2"), record(moving(entitlement.RevenueCat, 10, "acc_1")), record(moving(entitlement.RevenueCat, 11, "acc_2")),
		mergeOf("merge_1", "acc_1", "acc_2")} {
		m.apply(c)
	}
	if items := m.owns("acc_2"); len(items) != 1 || items[0].Reason == entitlement.ReasonTransferred {
		t.Errorf("the united account sees %+v", items)
	}
	m.apply(undo("merge_1", "acc_2"))
	m.ownedBy(entitlement.RevenueCat, "acc_2", "acc_1")
	m.check()
}

// During an upgrade, former names leave no trace either (I17).
func TestOlderRulesKnowNoFormerNames(t *testing.T) {
	m := newMachineUnder(t, 1<<20, 2)
	for _, c := range []Command{create("acc_1"), create("acc_2"), record(moving(entitlement.RevenueCat, 10, "acc_1")), record(moving(entitlement.RevenueCat, 11, "acc_2")), record(moving(entitlement.RevenueCat, 12, "acc_2"))} {
		m.apply(c)
	}
	m.ownedBy(entitlement.RevenueCat, "acc_2")
	m.read(func(r *Reader) error {
		p, _, err := r.Purchase(sandbox, "revenuecat:1000")
		for _, o := range p.Evidence.Objects {
			if o.Former != nil || o.NamedSince != 0 {
				t.Errorf("it keeps %+v, and since %d", o.Former, o.NamedSince)
			}
		}
		return err
	})
	m.check()
}

// During an upgrade, namings leave no trace: older writers must have the same state (I17).
func TestOlderRulesKnowNoNamings(t *testing.T) {
	for rules, known := range map[uint32]bool{2: false, RulesVersion: true} {
		m := newMachineUnder(t, 1<<20, rules)
		for _, c := range []Command{create("acc_1"), create("acc_2"), NewCommand(TypePutPolicy, sandbox, "", &PutPolicy{Policy: entitlement.Policy{Transfer: entitlement.TransferNever}}),
			record(naming{id: "1", end: 30, account: "acc_1"}.by(entitlement.Apple)), record(naming{id: "2", start: 20, end: 50, account: "acc_2"}.by(entitlement.Apple))} {
			m.apply(c)
		}
		m.read(func(r *Reader) error {
			p, _, err := r.Purchase(sandbox, "apple:1000")
			named := slices.ContainsFunc(p.Evidence.Objects, func(o entitlement.Object) bool { return o.Naming != nil })
			if want := map[bool]entitlement.AccountID{false: "acc_2", true: "acc_1"}[known]; named != known || p.Owner != want {
				t.Errorf("rules %d: named %t, and it is %q's, want %q", rules, named, p.Owner, want)
			}
			return err
		})
		m.check()
	}
}

// Several providers that name different people at different times, by account ids and by aliases that are given to accounts meanwhile: the order of the messages
// never shows (I20).
func TestRandomMovesAreOrderFree(t *testing.T) {
	accounts := []entitlement.AccountID{"acc_1", "acc_2", "acc_3"}
	for seed := range uint64(60) {
		random := rand.New(rand.NewPCG(seed, 11))
		links := []entitlement.Link{"apple:1000", "revenuecat:1000"}
		var messages []Command
		for i := range 3 + random.IntN(6) {
			by := []entitlement.Provider{entitlement.RevenueCat, entitlement.RevenueCat, entitlement.Adapty, entitlement.Apple}[random.IntN(4)]
			n := naming{id: fmt.Sprint(i), start: int64(random.IntN(60)), account: []entitlement.AccountID{"acc_1", "acc_2", "acc_3", "acc_unknown"}[random.IntN(4)], renewal: random.IntN(2) == 0}
			n.end = n.start + 20
			if by == entitlement.Apple {
				messages = append(messages, record(n.by(by)))
				continue
			}
			o := months(by, []string{"t1", "t2"}[random.IntN(2)], 10+int64(random.IntN(20)), func(o *entitlement.Object) { o.Links = links })
			switch random.IntN(3) {
			case 0:
				o.Account = n.account
			case 1:
				o.Aliases = []entitlement.Alias{{Kind: entitlement.RevenueCatAppUser, Value: fmt.Sprint("user", random.IntN(4))}}
			}
			if random.IntN(4) == 0 {
				o.Shares = []entitlement.Alias{{Kind: entitlement.RevenueCatAppUser, Value: fmt.Sprint("user", random.IntN(4))}}
			}
			messages = append(messages, record(told(by, fmt.Sprint("m", i), o)))
		}
		var calls []Command
		for i, id := range accounts {
			calls = append(calls, create(id, entitlement.Alias{Kind: entitlement.RevenueCatAppUser, Value: fmt.Sprint("user", i)}))
		}
		calls = append(calls, NewCommand(TypePutPolicy, sandbox, "", &PutPolicy{Policy: entitlement.Policy{Transfer: []entitlement.Transfer{"", entitlement.TransferNever}[random.IntN(2)]}}))
		switch random.IntN(3) {
		case 0:
			calls = append(calls, mergeOf("merge_1", "acc_1", "acc_2"))
		case 1:
			calls = append(calls, NewCommand(TypeErase, sandbox, "", &EraseAccount{Account: "acc_3"}))
		}
		var hashes [3]any
		for i := range hashes {
			m := newMachine(t, 1<<20)
			m.mixed(random, calls, messages)
			m.check()
			if hashes[i] = m.state.StateHash; hashes[0] != hashes[i] {
				t.Errorf("seed %d: the order counts (I20)", seed)
			}
		}
	}
}

// TestWhatWasShownGoesToWhoBuysItAgain: a receipt gave acc_1 what was nobody's, on day 35. It stays with them until the user themselves buys it under the name of another account, unless the
// policy keeps what is live; renewals and names that are nobody's move nothing, and who was named before the receipt comes too late (A10.7). In any order of what comes after it (I20).
func TestWhatWasShownGoesToWhoBuysItAgain(t *testing.T) {
	bought := func(id string, start, end int64, account entitlement.AccountID) naming {
		return naming{id: id, start: start, end: end, account: account}
	}
	renewed := func(id string, start, end int64, account entitlement.AccountID) naming {
		return naming{id: id, start: start, end: end, account: account, renewal: true}
	}
	live := renewed("live", 30, 60, "acc_unknown")
	type accounts = []entitlement.AccountID
	tests := []struct {
		name               string
		told               []naming
		newest, stayed     entitlement.AccountID
		lost, lostIfStayed accounts
		appleAlone         bool // renewals at Google Play say nothing of their own
	}{
		{"nothing more", nil, "acc_1", "acc_1", nil, nil, false},
		{"renewed under another name", []naming{renewed("2", 40, 70, "acc_2")}, "acc_1", "acc_1", nil, nil, true},
		{"bought again by another", []naming{bought("2", 40, 70, "acc_2")}, "acc_2", "acc_2", accounts{"acc_1"}, accounts{"acc_1"}, false},
		{"bought by another while live", []naming{live, bought("2", 40, 70, "acc_2")}, "acc_2", "acc_1", accounts{"acc_1"}, nil, true},
		{"bought again by nobody", []naming{bought("2", 40, 70, "acc_unknown")}, "acc_1", "acc_1", nil, nil, false},
		{"bought again by who showed it, and renewed by nobody", []naming{bought("2", 40, 70, "acc_1"), renewed("3", 70, 99, "acc_unknown")}, "acc_1", "acc_1", nil, nil, true},
		{"bought again by another, and renewed by nobody", []naming{bought("2", 40, 70, "acc_2"), renewed("3", 70, 99, "acc_unknown")}, "", "acc_2", accounts{"acc_1", "acc_2"}, accounts{"acc_1"}, true},
		{"bought by another before it was shown", []naming{bought("2", 31, 34, "acc_2")}, "acc_1", "acc_1", accounts{"acc_2"}, accounts{"acc_2"}, false},
	}
	random := rand.New(rand.NewPCG(5, 12))
	for _, store := range []entitlement.Provider{entitlement.Apple, entitlement.Google} {
		for transfer, stays := range map[entitlement.Transfer]bool{"": false, entitlement.TransferAlways: false, entitlement.TransferNever: true, entitlement.TransferIfInactive: true} {
			for _, tt := range tests {
				if tt.appleAlone && store != entitlement.Apple {
					continue
				}
				t.Run(string(store)+" "+string(transfer)+": "+tt.name, func(t *testing.T) {
					want, lost := tt.newest, tt.lost
					if stays {
						want, lost = tt.stayed, tt.lostIfStayed
					}
					put := NewCommand(TypePutPolicy, sandbox, "", &PutPolicy{Policy: entitlement.Policy{Transfer: transfer}})
					var hash any
					for range 5 {
						m := newMachine(t, 1<<20)
						m.apply(record(bought("1", 0, 30, "acc_unknown").by(store)))
						m.apply(create("acc_1"))
						m.now = startTime + 35*day
						if got := m.apply(claim("c", "acc_1", entitlement.PurchaseID(string(store)+":1000"))); got.Rejection != nil {
							t.Fatalf("claim: %+v", got.Rejection)
						}
						var messages []Command
						for _, n := range tt.told {
							messages = append(messages, record(n.by(store)))
						}
						m.mixed(random, []Command{put, create("acc_2")}, messages)
						m.check()
						m.ownedBy(store, want, lost...)
						m.sameState(&hash)
					}
				})
			}
		}
	}
}

// TestAnAggregatorMovesWhatWasShown, where it alone tells of the purchase and named another before; what it says again moves nothing, nor what it said before the receipt.
func TestAnAggregatorMovesWhatWasShown(t *testing.T) {
	tests := []struct {
		name  string
		by    entitlement.Provider
		told  []entitlement.AccountID // after the receipt, a day between two
		store bool                    // tells of it too
		want  entitlement.AccountID
		lost  []entitlement.AccountID
	}{
		{"nothing more", entitlement.RevenueCat, nil, false, "acc_1", nil},
		{"said again", entitlement.RevenueCat, []entitlement.AccountID{"acc_unknown"}, false, "acc_1", nil},
		{"moved", entitlement.RevenueCat, []entitlement.AccountID{"acc_2"}, false, "acc_2", []entitlement.AccountID{"acc_1"}},
		{"moved", entitlement.Adapty, []entitlement.AccountID{"acc_unknown", "acc_2"}, false, "acc_2", []entitlement.AccountID{"acc_1"}},
		{"moved, and on to nobody", entitlement.Iaptic, []entitlement.AccountID{"acc_2", "acc_other"}, false, "acc_1", []entitlement.AccountID{"acc_2"}},
		{"moved where the store tells of it too", entitlement.RevenueCat, []entitlement.AccountID{"acc_2"}, true, "acc_1", nil},
		{"new metadata", entitlement.Stripe, []entitlement.AccountID{"acc_2"}, false, "acc_1", nil},
	}
	random := rand.New(rand.NewPCG(6, 12))
	for _, tt := range tests {
		t.Run(string(tt.by)+": "+tt.name, func(t *testing.T) {
			id := entitlement.PurchaseID(string(tt.by) + ":1000")
			var hash any
			for range 6 {
				m := newMachine(t, 1<<20)
				m.apply(record(moving(tt.by, startTime-day, "acc_unknown")))
				m.apply(create("acc_1"))
				if got := m.apply(claim("c", "acc_1", id)); got.Rejection != nil {
					t.Fatalf("claim: %+v", got.Rejection)
				}
				var messages []Command
				for i, account := range tt.told {
					messages = append(messages, record(moving(tt.by, startTime+int64(1+i)*day, account)))
				}
				if tt.store {
					term := months(entitlement.Apple, "t", startTime, func(o *entitlement.Object) { o.Links = []entitlement.Link{entitlement.Link(id)} })
					messages = append(messages, record(told(entitlement.Apple, "store", term)))
				}
				m.mixed(random, []Command{create("acc_2")}, messages)
				m.check()
				if !tt.store { // where a transfer is a former name, who had it by that sees so
					m.ownedBy(tt.by, tt.want, tt.lost...)
				} else if got := m.ownerOf(id); got != tt.want {
					t.Fatalf("it is %q's, want %q", got, tt.want)
				}
				m.sameState(&hash)
			}
		})
	}
}

// TestARenewalAfterAReceiptIsNoTransfer: an aggregator named two, nobody's, before the receipt. What it says again of the second moves nothing when that becomes somebody's; what it says of a third does,
// and of the first once it named another between. In any order of what it says (I20).
func TestARenewalAfterAReceiptIsNoTransfer(t *testing.T) {
	tests := []struct {
		name string
		told []string // a day apart, from the day after the receipt on
		want entitlement.AccountID
	}{
		{"nothing more", nil, "acc_1"},
		{"said again", []string{"second", "second"}, "acc_1"},
		{"back to the first", []string{"first"}, "acc_1"},
		{"moved to a third", []string{"third"}, "acc_2"},
		{"moved to a third, and renewed", []string{"third", "third"}, "acc_2"},
		{"away and back", []string{"other", "second"}, "acc_2"},
	}
	random := rand.New(rand.NewPCG(7, 12))
	for _, by := range []entitlement.Provider{entitlement.RevenueCat, entitlement.Adapty, entitlement.Iaptic} {
		for _, tt := range tests {
			t.Run(string(by)+": "+tt.name, func(t *testing.T) {
				id := entitlement.PurchaseID(string(by) + ":1000")
				say := func(at int64, name string) Command {
					return record(told(by, fmt.Sprint("say-", at), months(by, "1000", at, named(rcUser(name)))))
				}
				var hash any
				for range 4 {
					m := newMachine(t, 1<<20)
					m.mixed(random, []Command{create("acc_1")}, []Command{say(startTime-2*day, "first"), say(startTime-day, "second")})
					if got := m.apply(claim("c", "acc_1", id)); got.Rejection != nil {
						t.Fatalf("claim: %+v", got.Rejection)
					}
					var messages []Command
					for i, name := range tt.told {
						messages = append(messages, say(startTime+int64(1+i)*day, name))
					}
					m.mixed(random, []Command{create("acc_2", rcUser("first"), rcUser("second"), rcUser("third"))}, messages)
					m.check()
					if got := m.ownerOf(id); got != tt.want {
						t.Fatalf("it is %q's, want %q", got, tt.want)
					}
					m.sameState(&hash)
				}
			})
		}
	}
}

// Who showed it first, lost it to a name and could not show it again before another did, goes on to see that it was transferred.
func TestWhoShowedItBeforeSeesThatItWent(t *testing.T) {
	m := newMachine(t, 1<<20)
	for _, c := range []Command{create("acc_1"), create("acc_2"), create("acc_3"), record(naming{id: "1", end: 30, account: "acc_unknown"}.by(entitlement.Apple)), claim("c1", "acc_1", "apple:1000"),
		record(naming{id: "2", start: 40, end: 70, account: "acc_2"}.by(entitlement.Apple)), record(naming{id: "3", start: 70, end: 99, account: "acc_unknown", renewal: true}.by(entitlement.Apple))} {
		if got := m.apply(c); got.Rejection != nil {
			t.Fatalf("command %d: %+v", c.Type, got.Rejection)
		}
	}
	m.ownedBy(entitlement.Apple, "", "acc_1", "acc_2")
	m.now = startTime + 80*day
	if got := m.apply(claim("c2", "acc_3", "apple:1000")); got.Rejection != nil {
		t.Fatalf("the second claim: %+v", got.Rejection)
	}
	m.ownedBy(entitlement.Apple, "acc_3", "acc_1", "acc_2")
	if got := m.apply(tapRestore("acc_1", "apple:1000")); got.Rejection != nil {
		t.Fatalf("restore: %+v", got.Rejection)
	}
	m.apply(record(naming{id: "4", start: 120, end: 150, account: "acc_2"}.by(entitlement.Apple)))
	m.ownedBy(entitlement.Apple, "acc_1", "acc_2") // a restore stays
	m.check()
}

// A receipt that was shown under older rules stays before every name: those that have them must have the same state (I17).
func TestWhatWasShownUnderOlderRulesStays(t *testing.T) {
	m := newMachineUnder(t, 1<<20, 2)
	for _, c := range []Command{create("acc_1"), create("acc_2"), record(naming{id: "1", end: 30, account: "acc_unknown"}.by(entitlement.Apple)), claim("c1", "acc_1", "apple:1000"),
		NewCommand(TypeRaiseRules, "", "", &RaiseRules{Rules: RulesVersion}), record(naming{id: "2", start: 40, end: 70, account: "acc_2"}.by(entitlement.Apple))} {
		if got := m.apply(c); got.Rejection != nil {
			t.Fatalf("command %d: %+v", c.Type, got.Rejection)
		}
	}
	m.ownedBy(entitlement.Apple, "acc_1")
	m.check()
}

// What is told and called after a receipt gave a purchase to somebody, at random, in three orders of the messages: never shows which (I20).
func TestRandomMovesOfWhatWasShownAreOrderFree(t *testing.T) {
	names := []entitlement.AccountID{"acc_1", "acc_2", "acc_3", "acc_unknown"}
	moved := 0
	for seed := range uint64(60) {
		random := rand.New(rand.NewPCG(seed, 13))
		by := []entitlement.Provider{entitlement.Apple, entitlement.RevenueCat, entitlement.Adapty}[random.IntN(3)]
		id := entitlement.PurchaseID(string(by) + ":1000")
		first := record(moving(by, startTime-day, "acc_unknown"))
		if by == entitlement.Apple {
			first = record(naming{id: "first", end: 30, account: "acc_unknown"}.by(by))
		}
		var messages []Command
		for i := range 1 + random.IntN(6) {
			account, start := names[random.IntN(len(names))], int64(random.IntN(90))
			switch {
			case by == entitlement.Apple:
				messages = append(messages, record(naming{id: fmt.Sprint(i), start: start, end: start + 20, account: account, renewal: random.IntN(3) == 0}.by(by)))
			case random.IntN(2) == 0:
				alias := entitlement.Alias{Kind: entitlement.RevenueCatAppUser, Value: fmt.Sprint("user", random.IntN(4))}
				messages = append(messages, record(told(by, fmt.Sprint("m", i), months(by, "1000", startTime+start*day, func(o *entitlement.Object) { o.Aliases = []entitlement.Alias{alias} }))))
			default:
				messages = append(messages, record(moving(by, startTime+start*day, account)))
			}
		}
		var calls []Command
		for i, account := range names[1:3] {
			calls = append(calls, create(account, entitlement.Alias{Kind: entitlement.RevenueCatAppUser, Value: fmt.Sprint("user", i)}))
		}
		calls = append(calls, NewCommand(TypePutPolicy, sandbox, "", &PutPolicy{Policy: entitlement.Policy{Transfer: []entitlement.Transfer{"", entitlement.TransferNever}[random.IntN(2)]}}))
		switch random.IntN(3) {
		case 0:
			calls = append(calls, mergeOf("merge_1", "acc_1", "acc_2"))
		case 1:
			calls = append(calls, erase("acc_3"))
		}
		var hashes [3]any
		for i := range hashes {
			m := newMachine(t, 1<<20)
			m.apply(first)
			m.apply(create("acc_1"))
			m.now = startTime + 35*day
			if got := m.apply(claim("c", "acc_1", id)); got.Rejection != nil {
				t.Fatalf("seed %d: claim: %+v", seed, got.Rejection)
			}
			m.mixed(random, calls, messages)
			m.check()
			if hashes[i] = m.state.StateHash; hashes[0] != hashes[i] {
				t.Errorf("seed %d: the order counts (I20)", seed)
			}
			if i == 0 && m.ownerOf(id) != "acc_1" {
				moved++
			}
		}
	}
	if moved < 10 || moved > 50 {
		t.Errorf("%d of 60 purchases moved, want some and not all", moved)
	}
}

// Of two purchases that turn out to be one, what was restored comes before what was only shown, be that later.
func TestWhatWasRestoredComesBeforeWhatWasShown(t *testing.T) {
	m := newMachine(t, 1<<20)
	adapty := moving(entitlement.Adapty, startTime, "acc_unknown")
	for _, c := range []Command{create("acc_1"), create("acc_2"), record(naming{id: "1", end: 30, account: "acc_unknown"}.by(entitlement.Apple)), record(adapty),
		tapRestore("acc_1", "apple:1000")} {
		m.apply(c)
	}
	m.now += day
	both := months(entitlement.Adapty, "1000", startTime+2*day, func(o *entitlement.Object) { o.Links = []entitlement.Link{"adapty:1000", "apple:1000"} })
	for _, c := range []Command{claim("c", "acc_2", "adapty:1000"), record(told(entitlement.Adapty, "both", both))} {
		if got := m.apply(c); got.Rejection != nil {
			t.Fatalf("command %d: %+v", c.Type, got.Rejection)
		}
	}
	m.ownedBy(entitlement.Apple, "acc_1")
	m.check()
}
