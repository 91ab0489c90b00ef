package store

import (
	"math/rand/v2"
	"testing"

	"github.com/latchkey/latchkey/pkg/entitlement"
)

// A customer's name means the account that the newest of their purchases names, whatever comes first (I20), and the API's word before that.
func TestNamesAreLearnedInAnyOrder(t *testing.T) {
	cus := customer("cus_1")
	messages := []Command{
		record(event("evt_1", subscription("sub_1", 10, entitlement.Active, "acc_1", cus))),
		record(event("evt_2", subscription("sub_2", 20, entitlement.Active, "acc_2", cus))),
		record(event("evt_3", subscription("sub_2", 15, entitlement.Trialing, "acc_1", cus))), // before evt_2
		record(event("evt_4", subscription("sub_3", 30, entitlement.Active, "", cus))),
		record(event("evt_5", subscription("sub_4", 40, entitlement.Active, "", cus), subscription("sub_5", 18, entitlement.Active, "acc_1", cus))),
		record(event("evt_6", subscription("sub_6", 50, entitlement.Active, "acc_unknown", customer("cus_2")), subscription("sub_7", 51, entitlement.Active, "", customer("cus_2")))),
	}
	calls := []Command{create("acc_1"), create("acc_2"), create("acc_3")}
	tests := []struct {
		name   string
		calls  []Command
		owners map[entitlement.PurchaseID]entitlement.AccountID
	}{
		{"learned", calls, map[entitlement.PurchaseID]entitlement.AccountID{"stripe:sub_1": "acc_1", "stripe:sub_2": "acc_2", "stripe:sub_3": "acc_2", "stripe:sub_4": "acc_2", "stripe:sub_5": "acc_1",
			"stripe:sub_6": "", "stripe:sub_7": ""}},
		{"given by the API", append(calls[:3:3], NewCommand(TypeAddAlias, sandbox, "", &AddAlias{Account: "acc_3", Alias: cus}), create("acc_unknown")),
			map[entitlement.PurchaseID]entitlement.AccountID{"stripe:sub_1": "acc_1", "stripe:sub_2": "acc_2", "stripe:sub_3": "acc_3", "stripe:sub_4": "acc_3", "stripe:sub_5": "acc_1",
				"stripe:sub_6": "acc_unknown", "stripe:sub_7": "acc_unknown"}},
	}
	r := rand.New(rand.NewPCG(4, 2))
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var hash any
			for range 40 {
				m := newMachine(t, 1<<20)
				m.mixed(r, tt.calls, messages)
				m.check()
				for id, want := range tt.owners {
					m.read(func(r *Reader) error {
						p, _, err := r.Purchase(sandbox, id)
						if p.Owner != want {
							t.Fatalf("%s is owned by %q, want %q", id, p.Owner, want)
						}
						return err
					})
				}
				if hash == nil {
					hash = m.state.StateHash
				}
				if hash != m.state.StateHash {
					t.Fatal("the order shows in the state")
				}
			}
		})
	}
}

// Every kind of alias leads to its account: given by the API, and learned where a provider tells of it (R38).
func TestEveryAliasLeadsToItsAccount(t *testing.T) {
	alias := func(kind entitlement.AliasKind, value string) entitlement.Alias {
		return entitlement.Alias{Kind: kind, Value: value}
	}
	named := func(by entitlement.Provider, a entitlement.Alias) Command {
		return record(told(by, "m1", months(by, "7", 1, named(a), func(o *entitlement.Object) { o.Account = "acc_1" })))
	}
	linked := func(by entitlement.Provider, id string) Command {
		return record(told(by, "m1", months(by, id, 1, func(o *entitlement.Object) { o.Account = "acc_1" })))
	}
	says := func(by entitlement.Provider, a entitlement.Alias) Command {
		return record(told(by, "m1", entitlement.Object{Kind: entitlement.KindCustomer, ID: a.Value, By: by, At: 1e9, Account: "acc_1", Aliases: []entitlement.Alias{a},
			Links: []entitlement.Link{entitlement.CustomerLink(by, a.Value)}, Customer: &entitlement.Customer{}}))
	}
	learned := []struct {
		how   string
		alias entitlement.Alias
		by    Command
	}{
		{"a purchase's customer", customer("cus_1"), record(event("evt_1", subscription("sub_1", 10, entitlement.Active, "acc_1", customer("cus_1"))))},
		{"the account's own token", alias(entitlement.AppleAppAccountToken, entitlement.AccountID("acc_1").AppleAppAccountToken()), create("acc_1")},
		{"the merchant's own token", alias(entitlement.AppleAppAccountToken, "6f7c"), named(entitlement.Apple, alias(entitlement.AppleAppAccountToken, "6f7c"))},
		{"Apple's id of the purchase", alias(entitlement.AppleOriginalTransaction, "2000"), linked(entitlement.Apple, "2000")},
		{"the app's name", alias(entitlement.GoogleObfuscatedAccount, "user-1"), named(entitlement.Google, alias(entitlement.GoogleObfuscatedAccount, "user-1"))},
		{"our id as the app's name", alias(entitlement.GoogleObfuscatedAccount, "acc_1"), create("acc_1")},
		{"Play's token", alias(entitlement.GooglePurchaseToken, "0a"), linked(entitlement.Google, "0a")},
		{"an aggregator's customer", alias(entitlement.RevenueCatAppUser, "u1"), says(entitlement.RevenueCat, alias(entitlement.RevenueCatAppUser, "u1"))},
		{"our id at an aggregator", alias(entitlement.RevenueCatAppUser, "acc_1"), create("acc_1")},
		{"a profile", alias(entitlement.AdaptyProfile, "p1"), named(entitlement.Adapty, alias(entitlement.AdaptyProfile, "p1"))},
		{"a customer user", alias(entitlement.AdaptyCustomerUser, "p1"), says(entitlement.Adapty, alias(entitlement.AdaptyCustomerUser, "p1"))},
		{"a user name", alias(entitlement.IapticUsername, "u1"), named(entitlement.Iaptic, alias(entitlement.IapticUsername, "u1"))},
		{"a funnel's visitor", alias(entitlement.Web2WaveUser, "w1"), named(entitlement.Web2Wave, alias(entitlement.Web2WaveUser, "w1"))},
	}
	of := func(m *machine, a entitlement.Alias) (owner entitlement.AccountID) {
		m.read(func(r *Reader) (err error) {
			owner, _, err = r.Named(sandbox, a)
			return err
		})
		return owner
	}
	there := map[entitlement.AliasKind]bool{entitlement.OIDCSubject: true, entitlement.Custom: true} // known by the API alone
	for _, tt := range learned {
		t.Run(string(tt.alias.Kind)+": "+tt.how, func(t *testing.T) {
			there[tt.alias.Kind] = true
			m := newMachine(t, 1<<20)
			if got := of(m, tt.alias); got != "" {
				t.Errorf("before anything it leads to %q", got)
			}
			m.apply(create("acc_1"))
			m.apply(create("acc_2"))
			m.apply(tt.by)
			if got := of(m, tt.alias); got != "acc_1" {
				t.Errorf("it leads to %q, want acc_1", got)
			}
			m.apply(NewCommand(TypeAddAlias, sandbox, "", &AddAlias{Account: "acc_2", Alias: tt.alias}))
			if got := of(m, tt.alias); got != "acc_2" && tt.how != "the account's own token" {
				t.Errorf("given to acc_2 it leads to %q", got)
			}
			m.check()
		})
	}
	for _, kind := range entitlement.AliasKinds {
		if !there[kind] {
			t.Errorf("nothing shows how %s is learned", kind)
		}
		m := newMachine(t, 1<<20)
		if m.apply(create("acc_1", alias(kind, "any"))); of(m, alias(kind, "any")) != "acc_1" || of(m, alias(kind, "other")) != "" {
			t.Errorf("%s: given it leads to %q, another to %q", kind, of(m, alias(kind, "any")), of(m, alias(kind, "other")))
		}
	}
}

// What was told before the rules knew names is found by them afterwards.
func TestNamesOfOlderPurchasesAreIndexedWhenTheRulesAreRaised(t *testing.T) {
	m := newMachineUnder(t, 1<<20, RulesChains)
	m.apply(create("acc_1"))
	m.apply(record(event("evt_1", subscription("sub_1", 10, entitlement.Active, "acc_1", customer("cus_1")))))
	untagged := record(event("evt_2", subscription("sub_2", 20, entitlement.Active, "", customer("cus_1"))))
	if got := m.apply(untagged); got.Account != "" {
		t.Errorf("under the older rules it is %q's", got.Account)
	}
	m.apply(NewCommand(TypeRaiseRules, "", "", &RaiseRules{Rules: rulesAccounts}))
	if got := m.apply(record(event("evt_3", subscription("sub_2", 21, entitlement.Active, "", customer("cus_1"))))); got.Account != "acc_1" {
		t.Errorf("under the newer rules it is %q's, want acc_1's", got.Account)
	}
	m.check()
}

// What an aggregator calls a customer may be many names, told in a message of their own, and an account may have any of them: what the customer has under another name is
// the account's, in whatever order the names, the purchase, the account and its name come (I20, R42). The newest list of names counts.
func TestAnyOfACustomersNamesLeadsToTheAccount(t *testing.T) {
	user := func(value string) entitlement.Alias {
		return entitlement.Alias{Kind: entitlement.RevenueCatAppUser, Value: value}
	}
	names := func(at int64, id string, aliases ...entitlement.Alias) Command {
		return record(told(entitlement.RevenueCat, "names-"+id, entitlement.Object{Kind: entitlement.KindCustomer, ID: "legacy-b#" + id, By: entitlement.RevenueCat, At: at * 1e9, Aliases: aliases,
			Links: []entitlement.Link{entitlement.CustomerLink(entitlement.RevenueCat, "legacy-b")}, Customer: &entitlement.Customer{}}))
	}
	hint := record(told(entitlement.RevenueCat, "hint", entitlement.Object{Kind: entitlement.KindHint, ID: "legacy-b", By: entitlement.RevenueCat, At: 30e9, Hint: &entitlement.Hint{Of: entitlement.KindCustomer},
		Links: []entitlement.Link{entitlement.CustomerLink(entitlement.RevenueCat, "legacy-b")}}))
	messages := []Command{
		record(told(entitlement.RevenueCat, "bought", months(entitlement.RevenueCat, "1000", 10, named(user("user-a"))))),
		names(11, "1", user("$RCAnonymousID:b0"), user("legacy-b"), user("user-b")),
		record(told(entitlement.RevenueCat, "answer", months(entitlement.RevenueCat, "1000", 12, named(user("legacy-b"))))),
		hint,
	}
	calls := []Command{create("acc_1", user("user-a")), create("acc_2"), create("acc_3", user("user-c")), NewCommand(TypeAddAlias, sandbox, "", &AddAlias{Account: "acc_2", Alias: user("user-b")})}
	tests := []struct {
		name     string
		messages []Command
		want     entitlement.AccountID
		lost     []entitlement.AccountID
	}{
		{"the second name", messages, "acc_2", []entitlement.AccountID{"acc_1"}},
		{"the newest list", append(messages[:4:4], names(20, "2", user("legacy-b"), user("user-c"))), "acc_3", []entitlement.AccountID{"acc_1"}},
		{"an older list", append(messages[:4:4], names(5, "2", user("legacy-b"), user("user-c"))), "acc_2", []entitlement.AccountID{"acc_1"}},
	}
	r := rand.New(rand.NewPCG(4, 3))
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var hash any
			for range 60 {
				m := newMachine(t, 1<<20)
				m.mixed(r, calls, tt.messages)
				m.check()
				m.ownedBy(entitlement.RevenueCat, tt.want, tt.lost...)
				if hash == nil {
					hash = m.state.StateHash
				}
				if hash != m.state.StateHash {
					t.Fatal("the order shows in the state")
				}
			}
		})
	}
}
