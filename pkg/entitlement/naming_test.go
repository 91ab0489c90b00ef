package entitlement

import (
	"cmp"
	"math/rand/v2"
	"slices"
	"strconv"
	"testing"
)

func name(id AccountID, at int64, chosen bool) func(*Object) {
	return func(o *Object) { o.Naming = &Naming{Account: id, At: at, Chosen: chosen} }
}

func edited(o Object, edits ...func(*Object)) Object {
	for _, edit := range edits {
		edit(&o)
	}
	return o
}

// Who has a purchase that stays with whom it is of: A10.7. Whatever the order in which it is told.
func TestWhoHoldsAPurchaseThatStays(t *testing.T) {
	const day = 24 * 3600
	bought := func(id AccountID, tx string, start, end int64, edit ...func(*Transaction)) Object {
		return edited(term(tx, start, end, edit...), name(id, start, true))
	}
	renewed := func(id AccountID, tx string, start, end int64) Object {
		return edited(term(tx, start, end), name(id, start, false))
	}
	upgraded := func(t *Transaction) { t.Upgraded = true }
	// A Play token: who bought, one term, and where it stands.
	token := func(id AccountID, token string, start, end int64, edit ...func(*Transaction)) []Object {
		tx := term("GPA."+token, start, end, edit...)
		tx.By, tx.Transaction.Chain = Google, token+":pro"
		return []Object{tx, {Kind: KindCustomer, ID: token, By: Google, At: 1, Links: []Link{"apple:1000"}, Customer: &Customer{}, Naming: &Naming{Account: id, At: start, Chosen: true}}}
	}
	stands := func(token string, at int64, r Renewal) []Object {
		return []Object{{Kind: KindRenewal, ID: token + ":pro", By: Google, At: at * 1e9, Links: []Link{"apple:1000"}, Renewal: &r}}
	}
	expired := func(token string, at int64) []Object {
		return stands(token, at, Renewal{Phase: PhaseExpired, EndedAt: at})
	}
	follows := func(token string, at int64, linked string) []Object {
		return stands(token, at, Renewal{Phase: PhaseActive, Replaces: linked})
	}
	voided := func(token string, at int64) []Object {
		return []Object{{Kind: KindRevocation, ID: token + ":void", By: Google, At: at * 1e9, Links: []Link{"apple:1000"}, Revocation: &Revocation{Transaction: "GPA." + token, RevokedAt: at}}}
	}
	tests := []struct {
		name    string
		objects []Object
		want    AccountID
	}{
		{"nobody was named", []Object{term("1", march, april)}, ""},
		{"who bought it", []Object{bought("acc_1", "1", march, april), renewed("acc_1", "2", april, may)}, "acc_1"},
		{"a name of nobody's", []Object{bought("acc_none", "1", march, april)}, ""},
		{"the first name that is somebody's", []Object{bought("acc_none", "1", march, april), renewed("acc_2", "2", april, may)}, "acc_2"},
		{"a renewal under another name", []Object{bought("acc_1", "1", march, april), renewed("acc_2", "2", april, may)}, "acc_1"},
		{"a renewal under another name after a gap", []Object{bought("acc_1", "1", march, april), renewed("acc_2", "2", may, june)}, "acc_1"},
		{"bought under another name while live", []Object{bought("acc_1", "1", march, april), bought("acc_2", "2", april-day, may)}, "acc_1"},
		{"bought under another name while a renewal is live", []Object{bought("acc_1", "1", march, april), renewed("acc_1", "2", april, may), bought("acc_2", "3", may-1, june)}, "acc_1"},
		{"the first term that we heard of is a renewal", []Object{renewed("acc_1", "2", april, may), bought("acc_2", "3", may-1, june)}, "acc_1"},
		{"bought under another name once it had lapsed", []Object{bought("acc_1", "1", march, april), bought("acc_2", "2", april+day, may)}, "acc_2"},
		{"bought under another name at its very end", []Object{bought("acc_1", "1", march, april), bought("acc_2", "2", april, may)}, "acc_2"},
		{"lapsed, and the renewals say who had it", []Object{bought("acc_1", "1", march, april), bought("acc_2", "2", april+day, may), renewed("acc_1", "3", may, june)}, "acc_2"},
		{"bought under another name after a refund", []Object{bought("acc_1", "1", march, april, revokedAt(march+day)), bought("acc_2", "2", march+2*day, april)}, "acc_2"},
		{"bought under another name before the refund", []Object{bought("acc_1", "1", march, april, revokedAt(march+3*day)), bought("acc_2", "2", march+2*day, april)}, "acc_1"},
		{"bought again by the first", []Object{bought("acc_1", "1", march, april), bought("acc_2", "2", april+day, may), bought("acc_1", "3", may+day, june)}, "acc_1"},
		{"refused once, and taken when it had lapsed", []Object{bought("acc_1", "1", march, april), bought("acc_2", "2", april-day, may), bought("acc_2", "3", may+day, june)}, "acc_2"},
		{"a renewal's name, and bought under it when it had lapsed", []Object{bought("acc_1", "1", march, april), renewed("acc_2", "2", april, may), bought("acc_2", "3", may+day, june)}, "acc_2"},
		{"an upgrade under another name", []Object{bought("acc_1", "1", march, june, upgraded, yearly), bought("acc_2", "2", march+day, april)}, "acc_1"},
		{"an upgrade that lapsed, within the year that it took the place of", []Object{bought("acc_1", "1", march, june, upgraded, yearly), bought("acc_1", "2", march+day, april), bought("acc_2", "3", may, june)}, "acc_2"},
		{"ended early by the store", []Object{bought("acc_1", "1", march, june), standing(april, Renewal{Phase: PhaseExpired, EndedAt: april}), bought("acc_2", "2", april+day, may)}, "acc_2"},
		{"the other term was never paid", []Object{bought("acc_1", "1", march, june, func(t *Transaction) { t.State = TransactionPending }), bought("acc_2", "2", april, may)}, "acc_2"},

		{"Play: another token while live", slices.Concat(token("acc_1", "a", march, may), token("acc_2", "b", april, june), follows("b", april, "a")), "acc_1"},
		{"Play: what it took over ends with it", slices.Concat(token("acc_1", "a", march, april-1), expired("a", april-1), token("acc_2", "b", april, june), follows("b", april, "a")), "acc_1"},
		{"Play: another token once it had lapsed", slices.Concat(token("acc_1", "a", march, april), expired("a", april), token("acc_2", "b", april+day, june)), "acc_2"},
		{"Play: what it took over was refunded", slices.Concat(token("acc_1", "a", march, may), voided("a", march+day), token("acc_2", "b", april, june), follows("b", april, "a")), "acc_2"},
		{"Play: what was taken over before is over", slices.Concat(token("acc_1", "a", march, june), token("acc_1", "b", march+day, april), follows("b", march+day, "a"), token("acc_2", "c", may, june)), "acc_2"},
		{"Play: who had it before, by the word of the store", append(token("acc_2", "b", april, june),
			Object{Kind: KindCustomer, ID: "b:expired", By: Google, At: 1, Links: []Link{"apple:1000"}, Customer: &Customer{}, Naming: &Naming{Account: "acc_1", At: april}}), "acc_2"},
	}
	whose := func(n Naming) AccountID {
		if n.Account == "acc_none" {
			return ""
		}
		return n.Account
	}
	random := rand.New(rand.NewPCG(10, 7))
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for range 20 {
				random.Shuffle(len(tt.objects), func(i, j int) { tt.objects[i], tt.objects[j] = tt.objects[j], tt.objects[i] })
				if got, _, _ := (Evidence{}).Add(tt.objects...).Holders(true, nil, whose); got != tt.want {
					t.Fatalf("it is %q's, want %q", got, tt.want)
				}
			}
		})
	}
}

func TestNamesOfAPurchase(t *testing.T) {
	e := Evidence{}.Add(edited(term("1", march, april), name("acc_1", march, true)), edited(term("2", april, may), name("acc_2", april, false)), edited(term("3", may, june), name("acc_1", may, true)), term("4", june, june+1))
	var got []AccountID
	for _, n := range e.Names() {
		got = append(got, n.Account)
	}
	if slices.Sort(got); !slices.Equal(got, []AccountID{"acc_1", "acc_2"}) {
		t.Errorf("named %v", got)
	}
}

// Who lost a purchase by names, and when: in any order of what is told.
func TestWhoLostAPurchaseByANewerName(t *testing.T) {
	const day = 24 * 3600
	bought := func(id AccountID, tx string, start, end int64) Object {
		return edited(term(tx, start, end), name(id, start, true))
	}
	by := func(p Provider, kind ObjectKind, at int64, account AccountID, aliases ...Alias) Object {
		o := Object{Kind: kind, ID: "1", By: p, At: at * 1e9, Account: account, Aliases: aliases, Links: []Link{"x:1"}}
		switch kind {
		case KindRenewal:
			o.Renewal = &Renewal{}
		case KindSubscription:
			o.Subscription = &Subscription{Status: Active}
		default:
			o.Transaction = &Transaction{}
		}
		return o
	}
	user := func(value string) Alias { return Alias{RevenueCatAppUser, value} }
	tests := []struct {
		name    string
		objects []Object
		keeps   bool
		want    []Loss
	}{
		{"bought under another name", []Object{bought("acc_1", "1", march, april), bought("acc_2", "2", april-day, may)}, false, []Loss{{"acc_1", april - day}}},
		{"kept by who has it", []Object{bought("acc_1", "1", march, april), bought("acc_2", "2", april-day, may)}, true, nil},
		{"not kept once it had lapsed", []Object{bought("acc_1", "1", march, april), bought("acc_2", "2", april+day, may)}, true, []Loss{{"acc_1", april + day}}},
		{"a name of nobody's takes it too", []Object{bought("acc_1", "1", march, april), bought("acc_none", "2", april, may)}, false, []Loss{{"acc_1", april}}},
		{"all of RevenueCat's objects say whose it is", []Object{by(RevenueCat, KindRenewal, march, "", user("acc_1")), by(RevenueCat, KindRenewal, april, "", user("acc_2")), by(RevenueCat, KindTransaction, may, "", user("acc_2"))},
			false, []Loss{{"acc_1", march}}},
		{"of another provider's the newest does", []Object{by(Adapty, KindRenewal, march, "acc_1"), by(Adapty, KindRenewal, april, "acc_2"), by(Adapty, KindTransaction, may, "acc_2")}, false, nil},
		{"each account with the last time that it was named", []Object{by(RevenueCat, KindRenewal, march, "acc_1"), by(RevenueCat, KindRenewal, march+day, "acc_1"), by(RevenueCat, KindRenewal, april, "acc_2"), by(RevenueCat, KindRenewal, may, "acc_3")},
			false, []Loss{{"acc_1", march + day}, {"acc_2", april}}},
		{"a store's word comes before and after", []Object{by(RevenueCat, KindRenewal, march, "", user("acc_1")), by(RevenueCat, KindRenewal, april, "", user("acc_2")), by("", KindSubscription, march, "acc_3")}, false, nil},
		{"metadata that was set anew", []Object{by("", KindSubscription, march, "acc_1"), by("", KindSubscription, april, "acc_2")}, false, []Loss{{"acc_1", march}}},
	}
	whose := func(n Naming) AccountID {
		if n.Account == "" {
			for _, a := range n.Aliases {
				return AccountID(a.Value)
			}
		}
		if n.Account == "acc_none" {
			return ""
		}
		return n.Account
	}
	random := rand.New(rand.NewPCG(10, 8))
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for range 20 {
				random.Shuffle(len(tt.objects), func(i, j int) { tt.objects[i], tt.objects[j] = tt.objects[j], tt.objects[i] })
				e := Evidence{}.Add(tt.objects...)
				owner := whose(Naming{Account: e.Identity().Account, Aliases: e.Identity().Aliases})
				_, lost, _ := e.Holders(tt.keeps, nil, whose)
				lost = slices.DeleteFunc(lost, func(l Loss) bool { return l.Account == owner })
				slices.SortFunc(lost, func(a, b Loss) int { return cmp.Compare(a.Account, b.Account) })
				if !slices.Equal(lost, tt.want) {
					t.Fatalf("lost by %v, want %v", lost, tt.want)
				}
			}
		})
	}
}

// However many names an object had, it keeps the newest, the same ones in any order and any portions: final states, which count though they are older, among them.
func TestTheNewestFormerNamesAreKept(t *testing.T) {
	random := rand.New(rand.NewPCG(10, 9))
	for i := range 200 {
		var objects []Object
		by := []Provider{"", RevenueCat}[i%2]
		for i := range 90 {
			objects = append(objects, Object{Kind: KindSubscription, ID: "1", By: by, Final: random.IntN(10) == 0, At: int64(random.IntN(60)), Account: AccountID(strconv.Itoa(random.IntN(40))), Links: []Link{"stripe:1"},
				Subscription: &Subscription{Status: Active, TrialEnd: int64(i)}})
		}
		want := Evidence{}.Add(objects...)
		if n := len(want.Objects[0].Former); n < maxNames-1 || n > maxNames {
			t.Fatalf("%d names are kept", n)
		}
		random.Shuffle(len(objects), func(i, j int) { objects[i], objects[j] = objects[j], objects[i] })
		cut := random.IntN(len(objects))
		mustEqual(t, "shuffled and cut", Merge(Evidence{}.Add(objects[:cut]...), Evidence{}.Add(objects[cut:]...)), want)
		if bare := want.WithoutFormer().Objects[0]; len(bare.Former) > 0 || bare.NamedSince != 0 || len(want.Objects[0].Former) == 0 {
			t.Fatal("former names are left out, and the evidence itself is not changed")
		}
	}
}

// Whether an aggregator moved a purchase after a time is what all its words say, though only the oldest and the newest version of each name are kept: in any order and any portions.
func TestWhatAnAggregatorMovedAfterATime(t *testing.T) {
	random := rand.New(rand.NewPCG(10, 11))
	moves := 0
	for range 2000 {
		said := make([]string, 1+random.IntN(8)) // by version, a second apart
		var objects []Object
		for at := range said {
			said[at] = strconv.Itoa(random.IntN(3))
			objects = append(objects, Object{Kind: KindRenewal, ID: strconv.Itoa(random.IntN(2)), By: RevenueCat, At: int64(at) * 1e9, Aliases: []Alias{{RevenueCatAppUser, said[at]}}, Links: []Link{"revenuecat:1"}, Renewal: &Renewal{}})
		}
		last, shown := len(said)-1, random.IntN(len(said))
		first := slices.Index(said, said[last])
		another := len(said) - 1
		for another >= 0 && said[another] == said[last] {
			another--
		}
		want := int64(0)
		if another >= 0 && last > shown && (first > shown || another > shown) {
			want = int64(last)
			moves++
		}
		random.Shuffle(len(objects), func(i, j int) { objects[i], objects[j] = objects[j], objects[i] })
		cut := random.IntN(len(objects))
		if got := Merge(Evidence{}.Add(objects[:cut]...), Evidence{}.Add(objects[cut:]...)).MovedAfter(int64(shown)); got != want {
			t.Fatalf("of %v after %d: moved at %d, want %d", said, shown, got, want)
		}
	}
	if moves < 200 || moves > 1800 {
		t.Errorf("%d of 2000 moved, want some and not all", moves)
	}
}
