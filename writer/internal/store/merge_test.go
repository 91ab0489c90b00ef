package store

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/latchkey/latchkey/pkg/entitlement"
	"github.com/latchkey/latchkey/replication"
)

func grant(id entitlement.AccountID, name string) Command {
	return NewCommand(TypePutGrant, sandbox, "", PutGrant{Account: id, ID: "grant_" + name, Entitlement: name})
}

func mergeOf(id string, from, into entitlement.AccountID) Command {
	return NewCommand(TypeMerge, sandbox, "", MergeAccounts{ID: id, From: from, Into: into})
}

func undo(id string, account entitlement.AccountID) Command {
	return NewCommand(TypeUndoMerge, sandbox, "", UndoMerge{Account: account, ID: id})
}

// A merge moves nothing: the survivor shows what both have, the other id leads to it, and without the merge each has its own again.
func TestMergeShowsBothAndUndoGivesEachItsOwn(t *testing.T) {
	m := newMachine(t, 1<<20)
	begin := []Command{create("acc_a", customer("cus_a")), create("acc_b"), create("acc_c"), grant("acc_a", "a"), grant("acc_b", "b"), grant("acc_c", "c"),
		record(event("evt_1", subscription("sub_1", 10, entitlement.Active, "acc_a")))}
	later := record(event("evt_2", subscription("sub_2", 11, entitlement.Active, "acc_a")))
	for _, c := range begin {
		if got := m.apply(c); got.Rejection != nil {
			t.Fatalf("%d: %+v", c.Type, got.Rejection)
		}
	}
	has := func(id entitlement.AccountID, survivor entitlement.AccountID, grants, purchases int) {
		t.Helper()
		a := m.account(id)
		if a == nil || a.ID != survivor || len(a.Grants) != grants || len(a.Purchases) != purchases {
			t.Errorf("%s: %+v, want %s with %d grants and %d purchases", id, a, survivor, grants, purchases)
		}
	}
	accepted := func(c Command) {
		t.Helper()
		if got := m.apply(c); got.Rejection != nil {
			t.Fatalf("%+v", got.Rejection)
		}
		m.check()
	}
	refused := func(slug string, owner entitlement.AccountID, c Command) {
		t.Helper()
		if got := m.apply(c); got.Rejection == nil || got.Rejection.Slug != slug || got.Rejection.Owner != owner {
			t.Fatalf("%+v, want %s %s", got.Rejection, slug, owner)
		}
		m.check()
	}
	accepted(mergeOf("merge_1", "acc_a", "acc_b"))
	has("acc_a", "acc_b", 2, 1)
	has("acc_b", "acc_b", 2, 1)
	accepted(mergeOf("merge_2", "acc_b", "acc_c"))
	for _, id := range []entitlement.AccountID{"acc_a", "acc_b", "acc_c"} {
		has(id, "acc_c", 3, 1)
	}
	refused(SlugAlreadyMerged, "acc_c", mergeOf("merge_3", "acc_a", "acc_c"))
	refused(SlugMergeCycle, "acc_c", mergeOf("merge_3", "acc_c", "acc_a"))
	refused(SlugSameAccount, "", mergeOf("merge_3", "acc_c", "acc_c"))
	refused(SlugNotFound, "", mergeOf("merge_3", "acc_x", "acc_c"))
	refused(SlugNotFound, "", undo("merge_9", "acc_a"))
	// What is told of an account meanwhile is its own: a payment for a, after the merges.
	accepted(later)
	has("acc_c", "acc_c", 3, 2)
	accepted(undo("merge_2", "acc_a"))
	has("acc_a", "acc_b", 2, 2)
	has("acc_c", "acc_c", 1, 0)
	accepted(undo("merge_1", "acc_b"))
	has("acc_a", "acc_a", 1, 2)
	has("acc_b", "acc_b", 1, 0)
	never := newMachine(t, 1<<20)
	for _, c := range append(begin, later) {
		never.apply(c)
	}
	var got, want replication.Hash
	m.read(func(r *Reader) error { got = r.Position().StateHash; return nil })
	never.read(func(r *Reader) error { want = r.Position().StateHash; return nil })
	if got != want {
		t.Errorf("after merges that were undone the state's hash is %s, want %s, that of a state without them", got, want)
	}
}

// TestUndoneMergesLeaveNoTrace: whatever accounts, aliases, payments, grants, merges and undos come in whatever order, once every merge is undone the records
// are those of a state that never merged (I3), and before that each account is in one group, without cycles, whose survivor shows what all of it have.
func TestUndoneMergesLeaveNoTrace(t *testing.T) {
	ids := []entitlement.AccountID{"acc_a", "acc_b", "acc_c", "acc_d", "acc_e"}
	rapid.Check(t, func(rt *rapid.T) {
		account := func(what string) entitlement.AccountID { return rapid.SampledFrom(ids).Draw(rt, what) }
		number := func(what string, most int) int { return rapid.IntRange(0, most).Draw(rt, what) }
		var all []Command
		merges, mergeCommands := 0, map[int]bool{}
		for i := range rapid.IntRange(5, 60).Draw(rt, "steps") {
			switch number("step", 11) {
			case 0, 1:
				all = append(all, create(account("made")))
			case 2:
				all = append(all, login(Login{New: account("anonymous")}))
			case 3:
				all = append(all, NewCommand(TypeAddAlias, sandbox, "", &AddAlias{Account: account("named"), Alias: customer(fmt.Sprintf("cus_%d", number("customer", 3)))}))
			case 4:
				all = append(all, NewCommand(TypeAddAlias, sandbox, "", &AddAlias{Account: account("named"), Alias: *subjectAlias(fmt.Sprint(number("subject", 3)))}))
			case 5:
				all = append(all, grant(account("granted"), fmt.Sprint(number("grant", 4))))
			case 6:
				all = append(all, NewCommand(TypeDeleteGrant, sandbox, "", DeleteGrant{Account: account("revoked"), ID: fmt.Sprintf("grant_%d", number("grant", 4))}))
			case 7:
				sub := fmt.Sprintf("sub_%d", number("subscription", 3))
				all = append(all, record(event(fmt.Sprintf("evt_%d", i), subscription(sub, int64(i), entitlement.Active, account("payer")))))
			case 8:
				sub := fmt.Sprintf("sub_%d", 10+number("subscription", 3))
				all = append(all, record(event(fmt.Sprintf("evt_%d", i), subscription(sub, int64(i), entitlement.Active, "", customer(fmt.Sprintf("cus_%d", number("customer", 3)))))))
			case 9:
				all = append(all, NewCommand(TypeEndSessions, sandbox, "", &EndSessions{Account: account("ended")}))
			case 10, 11:
				if merges > 0 && number("undo", 2) == 0 {
					id := fmt.Sprintf("merge_%d", number("merge", merges))
					mergeCommands[len(all)] = true
					all = append(all, undo(id, account("of")))
					continue
				}
				merges++
				mergeCommands[len(all)] = true
				all = append(all, mergeOf(fmt.Sprintf("merge_%d", merges), account("from"), account("into")))
			}
		}
		m, never := newMachine(t, 1<<20), newMachine(t, 1<<20)
		var apart []Command
		done := 0
		apply := func(upTo int) {
			if upTo > done {
				m.applyAll(all[done:upTo])
				done = upTo
			}
		}
		for i, c := range all {
			switch {
			case c.Type == TypeDeleteGrant: // under any id of a merged account it takes back what another of them has
				apply(i)
				apart = append(apart, m.whereGranted(c))
			case c.Type == TypeEndSessions: // and this ends what all of them have
				apply(i)
				apart = append(apart, m.everyonesEnd(c)...)
			case !mergeCommands[i]:
				apart = append(apart, c)
			}
		}
		apply(len(all))
		never.applyAll(apart)
		m.check()
		var open []Command
		m.read(func(r *Reader) error {
			in := map[entitlement.AccountID]entitlement.AccountID{}
			for _, id := range ids {
				a, ok, err := r.Account(sandbox, id)
				if err != nil {
					return err
				}
				if !ok {
					continue
				}
				members, edges, err := r.Group(sandbox, id)
				if err != nil {
					return err
				}
				if a.ID != members[0] || a.Merged != (len(members) > 1) || len(edges) != len(members)-1 || !slices.Contains(members, id) {
					rt.Fatalf("%s is answered by %s, merged %t, in the group %v with %d merges", id, a.ID, a.Merged, members, len(edges))
				}
				for _, member := range members {
					if other, seen := in[member]; seen && other != members[0] {
						rt.Fatalf("%s is in the groups of %s and %s", member, other, members[0])
					}
					in[member] = members[0]
					own, _, err := r.Own(sandbox, member)
					if err != nil {
						return err
					}
					for _, g := range own.Grants {
						if !slices.Contains(a.Grants, g) {
							rt.Fatalf("%s does not show the grant %s of %s", id, g.ID, member)
						}
					}
				}
				if id == members[0] {
					for _, e := range edges {
						open = append(open, undo(e.ID, e.From))
					}
				}
			}
			return nil
		})
		for len(open) > 0 { // one by one: in any order
			at := number("undone", len(open)-1)
			if result := m.apply(open[at]); result.Rejection != nil {
				rt.Fatalf("undo: %+v", result.Rejection)
			}
			open = slices.Delete(open, at, at+1)
		}
		m.check()
		var got, want replication.Hash
		m.read(func(r *Reader) error { got = r.Position().StateHash; return nil })
		never.read(func(r *Reader) error { want = r.Position().StateHash; return nil })
		if got != want {
			for _, id := range ids {
				rt.Logf("%s: %+v, want %+v", id, m.account(id), never.account(id))
			}
			rt.Fatalf("after every undo the state's hash is %s, want %s", got, want)
		}
	})
}

// rows is all that a state holds but what tells what happened: events, answers that are kept for repeats, the change log, and what is to be told to others.
func (m *machine) rows() map[string]string {
	m.t.Helper()
	told := [][]byte{bucketMeta, bucketChanges, bucketEvents, bucketConflicts, bucketEventOrder, bucketSubjects, bucketIdempotency, bucketIdemOrder, bucketSegments, bucketGrantsOwed}
	rows := map[string]string{}
	m.read(func(r *Reader) error {
		for _, name := range buckets {
			if slices.ContainsFunc(told, func(b []byte) bool { return bytes.Equal(b, name) }) {
				continue
			}
			if err := r.tx.Bucket(name).ForEach(func(k, v []byte) error {
				rows[string(name)+" "+string(k)] = string(v)
				return nil
			}); err != nil {
				return err
			}
		}
		return nil
	})
	return rows
}

// TestMergeThenUndoIsTheIdentity: whatever purchases, refunds, grants, spends, codes, intents and names accounts have, in whatever way they are merged and the merges are
// undone, afterwards not one row is another than before.
func TestMergeThenUndoIsTheIdentity(t *testing.T) {
	ids := []entitlement.AccountID{"acc_a", "acc_b", "acc_c", "acc_d"}
	catalog := NewCommand(TypePutCatalog, sandbox, "", &PutCatalog{Catalog: entitlement.Catalog{Products: []entitlement.Product{
		{Provider: entitlement.Stripe, ID: "price_pro_monthly", Kind: entitlement.KindRecurring, Entitlements: []string{"pro"}, Plan: "monthly", Group: "pro", TrialDays: 7},
		{Provider: entitlement.Apple, ID: "coins", Kind: entitlement.KindConsumable, Credits: map[string]int64{"coins": 100}},
		{Provider: entitlement.Apple, ID: "course", Kind: entitlement.KindPackage, Accesses: []entitlement.ModuleAccess{{Module: "algebra", DurationDays: 30}}, Deliver: entitlement.DeliverCode, Stack: entitlement.StackExtend}}}})
	rapid.Check(t, func(rt *rapid.T) {
		account := func(what string) entitlement.AccountID { return rapid.SampledFrom(ids).Draw(rt, what) }
		number := func(what string, most int) int { return rapid.IntRange(0, most).Draw(rt, what) }
		m := newMachine(t, 1<<20)
		m.apply(catalog)
		for _, id := range ids {
			m.apply(create(id))
		}
		for i := range rapid.IntRange(5, 40).Draw(rt, "steps") {
			id, n := account("of"), number("which", 5)
			switch number("step", 9) {
			case 0:
				m.apply(grant(id, fmt.Sprint(n)))
			case 1:
				m.apply(record(event(fmt.Sprintf("evt_%d", i), subscription(fmt.Sprintf("sub_%d", n), int64(i), entitlement.Active, id))))
			case 2:
				m.apply(pack(fmt.Sprint(n), id, int64(1000+n), number("refunded", 3) == 0))
			case 3:
				m.apply(consume(fmt.Sprint(n), id, int64(1+number("amount", 60))))
			case 4:
				m.apply(sale(fmt.Sprint(100+n), 0, number("refunded", 5) == 0))
				m.apply(putCode(fmt.Sprint(n), PutCode{Purchase: entitlement.PurchaseID(fmt.Sprintf("apple:%d", 100+n))}))
			case 5:
				m.apply(redeemCode(fmt.Sprint(n), id))
			case 6:
				m.apply(ask(fmt.Sprintf("intent_%d", i), id, entitlement.Stripe, "price_pro_monthly", fmt.Sprint(n%2), false))
				if n == 0 {
					m.apply(submit(fmt.Sprintf("intent_%d", i), ""))
				}
			case 7:
				m.apply(NewCommand(TypeAddAlias, sandbox, "", &AddAlias{Account: id, Alias: *subjectAlias(fmt.Sprint(n))}))
			case 8:
				m.apply(NewCommand(TypeEndSessions, sandbox, "", &EndSessions{Account: id}))
			case 9:
				m.apply(NewCommand(TypeRestore, sandbox, "", &RestorePurchase{Account: id, Purchase: entitlement.PurchaseID(fmt.Sprintf("stripe:sub_%d", n))}))
			}
		}
		before := m.rows()
		var open []Command
		for i := range rapid.IntRange(1, 5).Draw(rt, "merges") {
			name, from := fmt.Sprintf("merge_%d", i), account("from")
			if m.apply(mergeOf(name, from, account("into"))).Rejection == nil {
				open = append(open, undo(name, from))
			}
		}
		if merged := m.rows(); len(open) > 0 && maps.Equal(merged, before) {
			rt.Fatal("the merges left no trace while they stood")
		}
		for len(open) > 0 {
			at := number("undone", len(open)-1)
			if result := m.apply(open[at]); result.Rejection != nil {
				rt.Fatalf("undo: %+v", result.Rejection)
			}
			open = slices.Delete(open, at, at+1)
		}
		m.check()
		after := m.rows()
		for key, was := range before {
			if after[key] != was {
				rt.Errorf("%q is %x, and was %x", key, after[key], was)
			}
		}
		for key, is := range after {
			if _, had := before[key]; !had {
				rt.Errorf("%q is there, with %x", key, is)
			}
		}
	})
}

// Accounts that are merged are one owner: what one of them has, the other may name as its own, and it stays where it is. A stranger's is taken as before.
func TestMergedAccountsAreOneOwner(t *testing.T) {
	add := func(id entitlement.AccountID, a entitlement.Alias) Command {
		return NewCommand(TypeAddAlias, sandbox, "", &AddAlias{Account: id, Alias: a})
	}
	named := func(aliases ...entitlement.Alias) Command { return create("acc_new", aliases...) }
	claim := func(id entitlement.AccountID, purchase entitlement.PurchaseID) Command {
		return NewCommand(TypeClaim, sandbox, "", &ClaimPurchase{Account: id, Purchase: purchase})
	}
	a, b, c, free := customer("cus_a"), customer("cus_b"), customer("cus_c"), customer("cus_free")
	tests := []struct {
		name    string
		command Command
		want    entitlement.AccountID // that answers
		slug    string
		owner   entitlement.AccountID                       // of the rejection
		gets    map[entitlement.Alias]entitlement.AccountID // once the merge is undone; the others have what they had
	}{
		{"an account by an alias of each", named(a, b), "acc_b", "", "", nil},
		{"in the other order", named(b, a), "acc_b", "", "", nil},
		{"and one that nobody has", named(a, free, b), "acc_b", "", "", map[entitlement.Alias]entitlement.AccountID{free: "acc_b"}},
		{"an account by an alias of the merged one", named(a, free), "acc_a", "", "", map[entitlement.Alias]entitlement.AccountID{free: "acc_a"}},
		{"an account by aliases of each and of a stranger", named(a, b, c), "", SlugAliasTaken, "acc_c", nil},
		{"the survivor is given the other's alias", add("acc_b", a), "acc_a", "", "", nil},
		{"the other is given the survivor's", add("acc_a", b), "acc_b", "", "", nil},
		{"a stranger's alias", add("acc_b", c), "", SlugAliasTaken, "acc_c", nil},
		{"a stranger is given the other's", add("acc_c", a), "", SlugAliasTaken, "acc_a", nil},
		{"the survivor claims what the other has", claim("acc_b", "stripe:sub_a"), "acc_b", "", "", nil},
		{"a stranger claims it", claim("acc_c", "stripe:sub_a"), "", SlugAliasTaken, "acc_a", nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m := newMachine(t, 1<<20)
			for _, before := range []Command{create("acc_a", a), create("acc_b", b), create("acc_c", c), record(event("evt_1", subscription("sub_a", 10, entitlement.Active, "acc_a"))),
				mergeOf("merge_1", "acc_a", "acc_b")} {
				if got := m.apply(before); got.Rejection != nil {
					t.Fatalf("%d: %+v", before.Type, got.Rejection)
				}
			}
			got := m.apply(tt.command)
			if slugOf(got) != tt.slug || got.Account != tt.want || tt.slug != "" && got.Rejection.Owner != tt.owner {
				t.Errorf("%+v %+v, want %s %s %s", got, got.Rejection, tt.want, tt.slug, tt.owner)
			}
			m.check()
			m.apply(undo("merge_1", "acc_b"))
			m.check()
			if m.account("acc_new") != nil || len(m.account("acc_a").Purchases) != 1 {
				t.Errorf("an account more: %+v; acc_a: %+v", m.account("acc_new"), m.account("acc_a"))
			}
			want := map[entitlement.Alias]entitlement.AccountID{a: "acc_a", b: "acc_b", c: "acc_c", free: ""}
			maps.Copy(want, tt.gets)
			m.read(func(r *Reader) error {
				for alias, owner := range want {
					if has, _, err := r.AliasOwner(sandbox, alias); has != owner || err != nil {
						t.Errorf("%s is %q's, %v, want %q", alias.Value, has, err, owner)
					}
				}
				for _, id := range []entitlement.AccountID{"acc_a", "acc_b", "acc_c"} {
					detail, _, err := r.AccountDetail(sandbox, id)
					if err != nil {
						return err
					}
					for _, n := range detail.Aliases {
						if want[n.Alias] != id {
							t.Errorf("%s shows %s", id, n.Value)
						}
					}
				}
				return nil
			})
		})
	}
}

// Accounts that are one show the grants of all: one is taken back under any of their ids, and stays gone when they are two again.
func TestAGrantIsTakenBackUnderEveryIDOfAMergedAccount(t *testing.T) {
	for _, by := range []entitlement.AccountID{"acc_a", "acc_b"} {
		m := newMachine(t, 1<<20)
		for _, c := range []Command{create("acc_a"), create("acc_b"), create("acc_c"), grant("acc_a", "a"), grant("acc_b", "b"), mergeOf("merge_1", "acc_b", "acc_a")} {
			if got := m.apply(c); got.Rejection != nil {
				t.Fatalf("command %d: %+v", c.Type, got.Rejection)
			}
		}
		taken := func(id entitlement.AccountID, name string) string {
			got := m.apply(NewCommand(TypeDeleteGrant, sandbox, "", &DeleteGrant{Account: id, ID: "grant_" + name}))
			if got.Rejection != nil {
				return got.Rejection.Slug
			}
			return ""
		}
		if slug := taken("acc_c", "b"); slug != SlugNotFound {
			t.Errorf("by a stranger: %q", slug)
		}
		if slug := taken(by, "b"); slug != "" || len(m.account("acc_a").Grants) != 1 {
			t.Errorf("by %s: %q, %+v", by, slug, m.account("acc_a").Grants)
		}
		if slug := taken(by, "b"); slug != SlugNotFound {
			t.Errorf("by %s once more: %q", by, slug)
		}
		m.check()
		m.apply(undo("merge_1", "acc_a"))
		if a, b := m.account("acc_a"), m.account("acc_b"); len(a.Grants) != 1 || len(b.Grants) != 0 {
			t.Errorf("alone they have %+v and %+v", a.Grants, b.Grants)
		}
		m.check()
	}
}

// whereGranted returns the command that takes a grant back under the id of the account which it was given to.
func (m *machine) whereGranted(c Command) Command {
	m.t.Helper()
	var body DeleteGrant
	if err := entitlement.Decode(c.Body, &body); err != nil {
		m.t.Fatal(err)
	}
	m.read(func(r *Reader) error {
		members, _, err := r.Group(sandbox, body.Account)
		for _, id := range members {
			own, found, err := r.Own(sandbox, id)
			if err != nil {
				return err
			}
			if found && slices.ContainsFunc(own.Grants, func(g entitlement.Grant) bool { return g.ID == body.ID }) {
				body.Account = id
				break
			}
		}
		return err
	})
	return NewCommand(TypeDeleteGrant, sandbox, "", body)
}

// What is claimed, restored, granted or redeemed under an id is booked there, whether it answers for the others or not: everybody has it while they are one, and with the
// end of the merge it goes where that id goes.
func TestWhatIsGivenUnderAnIDOfAMergeGoesWithIt(t *testing.T) {
	for _, id := range []entitlement.AccountID{"acc_a", "acc_b"} {
		m := newMachine(t, 1<<20)
		nobodys := func(name string) Command {
			return record(event("evt_"+name, subscription(name, 10, entitlement.Active, "")))
		}
		for _, c := range []Command{courses(), create("acc_a"), create("acc_b"), mergeOf("merge_1", "acc_a", "acc_b"), nobodys("sub_1"), nobodys("sub_2"), putCode("a", PutCode{}),
			NewCommand(TypeClaim, sandbox, "", &ClaimPurchase{Account: id, Purchase: "stripe:sub_1"}), NewCommand(TypeRestore, sandbox, "", &RestorePurchase{Account: id, Purchase: "stripe:sub_2"}),
			grant(id, "beta"), redeemCode("a", id)} {
			if got := m.apply(c); got.Rejection != nil {
				t.Fatalf("%d: %+v", c.Type, got.Rejection)
			}
		}
		has := func(when string, of entitlement.AccountID, all bool) {
			t.Helper()
			purchases, grants, accesses := 0, 0, 0
			if all {
				purchases, grants, accesses = 2, 1, 2
			}
			if a := m.account(of); len(a.Purchases) != purchases || len(a.Grants) != grants || len(a.Accesses) != accesses {
				t.Errorf("given under %s, %s: %s has %d purchases, %d grants and %d accesses, want %d, %d and %d", id, when, of, len(a.Purchases), len(a.Grants), len(a.Accesses), purchases, grants, accesses)
			}
		}
		has("merged", "acc_a", true)
		has("merged", "acc_b", true)
		if got := m.apply(undo("merge_1", "acc_b")); got.Rejection != nil {
			t.Fatalf("undo: %+v", got.Rejection)
		}
		m.check()
		has("apart", "acc_a", id == "acc_a")
		has("apart", "acc_b", id == "acc_b")
	}
}

// everyonesEnd returns the commands that end the sessions of each account that the one of the command is merged with.
func (m *machine) everyonesEnd(c Command) (all []Command) {
	m.t.Helper()
	var body EndSessions
	if err := entitlement.Decode(c.Body, &body); err != nil {
		m.t.Fatal(err)
	}
	m.read(func(r *Reader) error {
		members, _, err := r.Group(sandbox, body.Account)
		for _, id := range members {
			all = append(all, NewCommand(TypeEndSessions, sandbox, "", &EndSessions{Account: id}))
		}
		return err
	})
	return all
}

// Whoever has a session of one of several merged accounts sees what all have. So what ends sessions ends those of all, whichever id or session it comes by, and the
// end of the merge brings none of them back.
func TestSessionsOfMergedAccountsEndTogether(t *testing.T) {
	of := func(id entitlement.AccountID, device string) *Session {
		return &Session{Account: id, IssuedAt: startTime, Device: device}
	}
	end := func(id entitlement.AccountID) Command {
		return NewCommand(TypeEndSessions, sandbox, "", &EndSessions{Account: id})
	}
	logout := func(s *Session) Command { return login(Login{New: "acc_after", From: s}) }
	group := []entitlement.AccountID{"acc_anon", "acc_known", "acc_second"}
	known := []Command{login(Login{New: "acc_anon"}), login(Login{New: "acc_second"}), create("acc_known"), create("acc_other"),
		mergeOf("merge_1", "acc_anon", "acc_known"), mergeOf("merge_2", "acc_second", "acc_known")}
	nobodys := []Command{login(Login{New: "acc_anon"}), login(Login{New: "acc_second"}), login(Login{New: "acc_known"}), create("acc_other"),
		mergeOf("merge_1", "acc_anon", "acc_known"), mergeOf("merge_2", "acc_second", "acc_known")}
	intoNobodys := append(nobodys[:2:2], create("acc_second_x"), login(Login{New: "acc_known"}), create("acc_other"),
		mergeOf("merge_1", "acc_anon", "acc_known"), mergeOf("merge_2", "acc_second", "acc_known"), mergeOf("merge_3", "acc_second_x", "acc_known"))
	tests := []struct {
		name   string
		before []Command
		end    Command
		ended  []string // of the devices, in each account of the group
	}{
		{"all, by the id that answers", known, end("acc_known"), []string{"", "phone", "tablet"}},
		{"all, by an id that was merged", known, end("acc_anon"), []string{"", "phone", "tablet"}},
		{"of a stranger", known, end("acc_other"), nil},
		{"a device, by its session of the account that answers", known, logout(of("acc_known", "phone")), []string{"phone"}},
		{"a device, by its session from before the login", known, logout(of("acc_anon", "phone")), []string{"phone"}},
		{"a device of a stranger", known, logout(of("acc_other", "phone")), nil},
		{"a device of accounts that are all nobody's", nobodys, logout(of("acc_known", "phone")), nil},
		{"the same, by one that was merged", nobodys, logout(of("acc_anon", "phone")), nil},
		{"a device where one of them is somebody's", intoNobodys, logout(of("acc_anon", "phone")), []string{"phone"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m := newMachine(t, 1<<20)
			for _, c := range append(slices.Clone(tt.before), tt.end) {
				if got := m.apply(c); got.Rejection != nil {
					t.Fatalf("%d: %+v", c.Type, got.Rejection)
				}
			}
			m.check()
			looks := func(when string) {
				t.Helper()
				m.read(func(r *Reader) error {
					for _, id := range group {
						own, _, err := r.Own(sandbox, id)
						if err != nil {
							return err
						}
						for _, device := range []string{"", "phone", "tablet"} {
							if got, want := own.SessionEnded(device, startTime), slices.Contains(tt.ended, device); got != want {
								t.Errorf("%s: the session of %s on %q is ended: %t, want %t", when, id, device, got, want)
							}
						}
						// What edges know of it.
						if value, merged, err := r.Record(sandbox, replication.KindPointer, string(id)); err != nil {
							return err
						} else if merged {
							var pointer entitlement.Pointer
							if err := entitlement.Decode(value, &pointer); err != nil {
								return err
							}
							if pointer.SessionsFrom != own.SessionsFrom || !slices.Equal(pointer.SignedOut, own.SignedOut) {
								t.Errorf("%s: the pointer of %s is %+v, want the ends of %+v", when, id, pointer, own)
							}
						}
					}
					return nil
				})
			}
			looks("merged")
			for _, c := range []Command{undo("merge_2", "acc_known"), undo("merge_1", "acc_known")} {
				if got := m.apply(c); got.Rejection != nil {
					t.Fatalf("undo: %+v", got.Rejection)
				}
			}
			m.check()
			looks("apart again")
		})
	}
}

// One tester among accounts that are merged is one for all, while they are merged: what one of them bought to test before signing in is there after it, whichever
// came first, the message or the merge.
func TestATesterIsOneForAllThatAreMerged(t *testing.T) {
	test := func(id string, account entitlement.AccountID) Command {
		o := subscription(id, 10, entitlement.Active, account)
		o.Sandbox = true
		return record(event("evt_"+id, o))
	}
	flag := func(account entitlement.AccountID, yes bool) Command {
		return NewCommand(TypePatch, sandbox, "", &PatchAccount{Account: account, Tester: &yes})
	}
	begin := []Command{login(Login{New: "acc_anon"}), create("acc_known", *subjectAlias("ann"))}
	messages := []Command{test("sub_1", "acc_anon"), test("sub_2", "acc_known")}
	signIn := login(Login{New: "acc_new", From: session("acc_anon"), Alias: subjectAlias("ann"), Merge: "merge_1"})
	for _, tester := range []entitlement.AccountID{"acc_known", "acc_anon"} {
		before := map[entitlement.AccountID]int{tester: 1}
		for name, tt := range map[string]struct {
			then        []Command
			anon, known int
		}{
			"before the sign-in":           {nil, before["acc_anon"], before["acc_known"]},
			"after it":                     {[]Command{signIn}, 2, 2},
			"no tester any more":           {[]Command{signIn, flag(tester, false)}, 0, 0},
			"a tester by the sign-in only": {[]Command{flag(tester, false), signIn, flag(tester, true)}, 2, 2},
			"the merge taken back":         {[]Command{signIn, undo("merge_1", "acc_known")}, before["acc_anon"], before["acc_known"]},
			"taken back when nobody tests": {[]Command{signIn, flag(tester, false), undo("merge_1", "acc_known")}, 0, 0},
		} {
			t.Run(fmt.Sprintf("%s tests, %s", tester, name), func(t *testing.T) {
				calls := append([]Command{flag(tester, true)}, tt.then...)
				var hash replication.Hash
				for at := range len(calls) + 1 { // where the messages come
					m := newMachine(t, 1<<20)
					for _, c := range slices.Concat(begin, calls[:at], messages, calls[at:]) {
						if got := m.apply(c); got.Rejection != nil {
							t.Fatalf("command %d: %+v", c.Type, got.Rejection)
						}
						m.check()
					}
					if anon, known := len(m.account("acc_anon").Purchases), len(m.account("acc_known").Purchases); anon != tt.anon || known != tt.known {
						t.Errorf("messages after %d calls: acc_anon shows %d test purchases, acc_known %d; want %d and %d", at, anon, known, tt.anon, tt.known)
					}
					if at == 0 {
						hash = m.state.StateHash
					}
					if m.state.StateHash != hash {
						t.Errorf("messages after %d calls: the order shows", at)
					}
				}
			})
		}
	}
}
