package store

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/raft"

	"github.com/latchkey/latchkey/pkg/entitlement"
	"github.com/latchkey/latchkey/replication"
)

func shopCatalog() Command {
	return NewCommand(TypePutCatalog, sandbox, "catalog", &PutCatalog{Catalog: entitlement.Catalog{Products: []entitlement.Product{
		{Provider: entitlement.Stripe, ID: "price_pro_monthly", Kind: entitlement.KindRecurring, Entitlements: []string{"pro"}, Plan: "monthly", Group: "pro", TrialDays: 7},
		{Provider: entitlement.Stripe, ID: "price_year", Kind: entitlement.KindRecurring, Entitlements: []string{"pro"}, Plan: "yearly", Group: "pro"},
		{Provider: entitlement.Stripe, ID: "price_life", Kind: entitlement.KindNonConsumable, Entitlements: []string{"pro"}, Plan: "life", Group: "pro"},
		{Provider: entitlement.Stripe, ID: "price_free", Kind: entitlement.KindNonConsumable, Entitlements: []string{"extra"}},
		{Provider: entitlement.Stripe, ID: "price_news", Kind: entitlement.KindRecurring, Entitlements: []string{"news"}, Group: "news", TrialDays: 7},
		{Provider: entitlement.Apple, ID: "coins", Kind: entitlement.KindConsumable, Credits: map[string]int64{"coins": 100}},
		{Provider: entitlement.Apple, ID: "pro", Kind: entitlement.KindRecurring, Entitlements: []string{"pro"}, Plan: "monthly", Group: "pro", TrialDays: 7},
		{Provider: entitlement.Apple, ID: "pro_year", Kind: entitlement.KindRecurring, Entitlements: []string{"pro"}, Plan: "yearly", Group: "pro"},
	}}})
}

// ask is a purchase intent; with "trial" it wants the trial or nothing.
func ask(id string, account entitlement.AccountID, p entitlement.Provider, product entitlement.ProductID, device string, trial bool) Command {
	return NewCommand(TypePutIntent, sandbox, "", &PutIntent{ID: id, Account: account, Provider: p, Product: product, Device: device, Trial: trial})
}

func endOf(id string, caller entitlement.AccountID) Command {
	return NewCommand(TypeEndIntent, sandbox, "", &EndIntent{ID: id, Account: caller})
}

func submit(id string, caller entitlement.AccountID) Command {
	return NewCommand(TypeSubmitIntent, sandbox, "", &SubmitIntent{ID: id, Account: caller})
}

// appleSale is an App Store subscription of an account's, bought by a person whom Apple knows; its first term is the trial.
func appleSale(chain string, account entitlement.AccountID, person string, trial bool) entitlement.Event {
	links := []entitlement.Link{entitlement.Link("apple:" + chain)}
	ev := event("apple-"+chain,
		entitlement.Object{Kind: entitlement.KindTransaction, ID: chain, By: entitlement.Apple, At: startTime * 1e9, Links: links, Account: account, Person: person,
			Transaction: &entitlement.Transaction{Chain: chain, Sold: entitlement.Sold{Product: "pro"}, Recurring: true, StartsAt: startTime, EndsAt: startTime + 30*24*3600, Trial: trial, Store: entitlement.AppStore}},
		entitlement.Object{Kind: entitlement.KindRenewal, ID: chain, By: entitlement.Apple, At: startTime * 1e9, Links: links,
			Renewal: &entitlement.Renewal{Phase: entitlement.PhaseActive, WillRenew: true, Transaction: chain}})
	ev.Provider = entitlement.Apple
	return ev
}

// sharedSale is appleSale of a trial that the account has by the family of whoever bought it.
func sharedSale(chain string, account entitlement.AccountID, person string) entitlement.Event {
	ev := appleSale(chain, account, person, true)
	ev.Objects[0].Transaction.Ownership = entitlement.Family
	return ev
}

// One person, one trial, one live subscription: who asks before buying is told the truth, whatever the channel (requirement A10.6).
func TestWhoMayBuyWhat(t *testing.T) {
	type step struct {
		what    string
		after   int64 // seconds before it
		command Command
		slug    string // of the refusal; empty: done
		intent  string // that the answer names
		trial   bool
		warns   string
	}
	stripe, apple := entitlement.Stripe, entitlement.Apple
	tests := []struct {
		name  string
		steps []step
	}{
		{"a lease belongs to its device, and is over after five minutes", []step{
			{what: "phone", command: ask("i1", "acc_1", stripe, "price_pro_monthly", "phone", false), intent: "i1", trial: true},
			{what: "tablet", command: ask("i2", "acc_1", apple, "pro", "tablet", false), slug: SlugPurchaseInProgress},
			{what: "nobody in particular", command: ask("i3", "acc_1", stripe, "price_pro_monthly", "", false), slug: SlugPurchaseInProgress},
			{what: "phone again", command: ask("i4", "acc_1", stripe, "price_pro_monthly", "phone", false), intent: "i1", trial: true},
			{what: "another account", command: ask("i5", "acc_2", stripe, "price_pro_monthly", "phone", false), intent: "i5", trial: true},
			{what: "tablet, later", after: 301, command: ask("i6", "acc_1", apple, "pro", "tablet", false), intent: "i6", trial: true},
		}},
		{"of a product without a group a device has one intent at a time, which is in nobody's way", []step{
			{what: "coins", command: ask("i1", "acc_1", apple, "coins", "phone", false), intent: "i1"},
			{what: "again", command: ask("i2", "acc_1", apple, "coins", "phone", false), intent: "i1"},
			{what: "another device", command: ask("i3", "acc_1", apple, "coins", "tablet", false), intent: "i3"},
			{what: "no device", command: ask("i4", "acc_1", apple, "coins", "", false), intent: "i4"},
			{what: "no device, again", command: ask("i5", "acc_1", apple, "coins", "", false), intent: "i5"},
			{what: "another product", command: ask("i6", "acc_1", stripe, "price_free", "phone", false), intent: "i6"},
			{what: "paid", command: submit("i1", "acc_1"), intent: "i1"},
			{what: "more of them", command: ask("i7", "acc_1", apple, "coins", "phone", false), intent: "i7"},
			{what: "not after all", command: endOf("i7", "acc_1")},
			{what: "yes, more of them", command: ask("i8", "acc_1", apple, "coins", "phone", false), intent: "i8"},
			{what: "they were bought", command: pack("1", "acc_1", startTime+1, false)},
			{what: "and more", command: ask("i9", "acc_1", apple, "coins", "phone", false), intent: "i9"},
			{what: "later", after: 301, command: ask("i10", "acc_1", apple, "coins", "phone", false), intent: "i10"},
		}},
		{"a device that changes its mind keeps its place", []step{
			{what: "monthly", command: ask("i1", "acc_1", stripe, "price_pro_monthly", "phone", false), intent: "i1", trial: true},
			{what: "yearly", command: ask("i2", "acc_1", stripe, "price_year", "phone", false), intent: "i2", trial: true},
			{what: "another device", command: ask("i3", "acc_1", stripe, "price_pro_monthly", "tablet", false), slug: SlugPurchaseInProgress},
			{what: "the first one is over", command: endOf("i1", "acc_1")},
			{what: "still leased", command: ask("i4", "acc_1", stripe, "price_pro_monthly", "tablet", false), slug: SlugPurchaseInProgress},
			{what: "given back by a stranger", command: endOf("i2", "acc_2"), slug: SlugOtherAccount},
			{what: "given back", command: endOf("i2", "acc_1")},
			{what: "free", command: ask("i5", "acc_1", stripe, "price_pro_monthly", "tablet", false), intent: "i5", trial: true},
			{what: "no such intent", command: endOf("i9", ""), slug: SlugNotFound},
		}},
		{"one trial over groups: it is leased too", []step{
			{what: "pro", command: ask("i1", "acc_1", stripe, "price_pro_monthly", "phone", true), intent: "i1", trial: true},
			{what: "news at full price", command: ask("i2", "acc_1", stripe, "price_news", "tablet", false), intent: "i2"},
			{what: "news with the trial only", command: ask("i3", "acc_1", stripe, "price_news", "tv", true), slug: SlugPurchaseInProgress},
		}},
		{"nothing but a subscription is tried, and nothing else leases the trial", []step{
			{what: "coins", command: ask("i1", "acc_1", apple, "coins", "phone", false), intent: "i1"},
			{what: "pro on another device", command: ask("i2", "acc_1", stripe, "price_pro_monthly", "tablet", true), intent: "i2", trial: true},
		}},
		{"a device that turns to another group takes the trial along", []step{
			{what: "pro", command: ask("i1", "acc_1", stripe, "price_pro_monthly", "phone", true), intent: "i1", trial: true},
			{what: "news", command: ask("i2", "acc_1", stripe, "price_news", "phone", true), intent: "i2", trial: true},
			{what: "pro again, by its intent", command: ask("i3", "acc_1", stripe, "price_pro_monthly", "phone", false), intent: "i1"},
			{what: "pro with the trial after all", command: ask("i4", "acc_1", stripe, "price_pro_monthly", "phone", true), intent: "i4", trial: true},
			{what: "news again, by its intent", command: ask("i5", "acc_1", stripe, "price_news", "phone", false), intent: "i2"},
		}},
		{"what was paid for blocks though another intent took its place", []step{
			{what: "monthly", command: ask("i1", "acc_1", stripe, "price_pro_monthly", "phone", false), intent: "i1", trial: true},
			{what: "yearly", command: ask("i2", "acc_1", stripe, "price_year", "phone", false), intent: "i2", trial: true},
			{what: "not yearly", command: endOf("i2", "acc_1")},
			{what: "monthly is paid", command: submit("i1", "acc_1"), intent: "i1", trial: true},
			{what: "another device in another store", command: ask("i3", "acc_1", apple, "pro", "tablet", false), slug: SlugPurchasePending},
			{what: "the trial of another group", command: ask("i4", "acc_1", stripe, "price_news", "tablet", true), slug: SlugPurchaseInProgress},
			{what: "the same, by the device that paid", command: ask("i5", "acc_1", stripe, "price_news", "phone", true), slug: SlugPurchaseInProgress},
			{what: "at full price", command: ask("i6", "acc_1", stripe, "price_news", "phone", false), intent: "i6"},
			{what: "nobody paid after all", command: endOf("i1", "acc_1")},
			{what: "free", command: ask("i7", "acc_1", apple, "pro", "tablet", false), intent: "i7", trial: true},
		}},
		{"of merged accounts too, the trial is free when the device that turned to another product gives up", []step{
			{what: "merged", command: mergeOf("merge_1", "acc_2", "acc_1")},
			{what: "news under one id", command: ask("i1", "acc_1", stripe, "price_news", "phone", true), intent: "i1", trial: true},
			{what: "pro under the other", command: ask("i2", "acc_2", apple, "pro", "phone", true), intent: "i2", trial: true},
			{what: "not pro", command: endOf("i2", "")},
			{what: "another device", command: ask("i3", "acc_1", apple, "pro", "tablet", true), intent: "i3", trial: true},
		}},
		{"what was paid for too late blocks too", []step{
			{what: "phone", command: ask("i1", "acc_1", stripe, "price_pro_monthly", "phone", false), intent: "i1", trial: true},
			{what: "tablet, six minutes later", after: 360, command: ask("i2", "acc_1", apple, "pro", "tablet", false), intent: "i2", trial: true},
			{what: "the phone's is paid", command: submit("i1", "acc_1"), intent: "i1", trial: true},
			{what: "tablet asks again", command: ask("i3", "acc_1", apple, "pro", "tablet", false), slug: SlugPurchasePending},
		}},
		{"a lease is over when what it was for is there", []step{
			{what: "phone", command: ask("i1", "acc_1", stripe, "price_pro_monthly", "phone", false), intent: "i1", trial: true},
			{what: "paid", command: record(event("evt_1", subscription("sub_1", 10, entitlement.Active, "acc_1")))},
			{what: "a better plan on another device", command: ask("i2", "acc_1", stripe, "price_year", "tablet", false), intent: "i2", warns: "[cancel-subscription]"},
		}},
		{"a subscription blocks its group in every store, and no lifetime", []step{
			{what: "paid at Apple", command: record(appleSale("100", "acc_1", "", false))},
			{what: "the same at Stripe", command: ask("i1", "acc_1", stripe, "price_pro_monthly", "phone", false), slug: SlugActiveSubscription},
			{what: "the same at Apple", command: ask("i2", "acc_1", apple, "pro", "phone", false), slug: SlugActiveSubscription},
			{what: "the lifetime", command: ask("i3", "acc_1", stripe, "price_life", "phone", false), intent: "i3", warns: "[cancel-subscription]"},
			{what: "without a group", command: ask("i4", "acc_1", stripe, "price_free", "phone", false), intent: "i4"},
		}},
		{"another plan of the same store is an upgrade", []step{
			{what: "paid", command: record(event("evt_1", subscription("sub_1", 10, entitlement.Active, "acc_1")))},
			{what: "the same", command: ask("i1", "acc_1", stripe, "price_pro_monthly", "phone", false), slug: SlugActiveSubscription},
			{what: "another plan", command: ask("i2", "acc_1", stripe, "price_year", "phone", false), intent: "i2", trial: true, warns: "[cancel-subscription]"},
			{what: "another store", command: ask("i3", "acc_1", apple, "pro", "phone", false), slug: SlugActiveSubscription},
		}},
		{"who asks again is warned of what came meanwhile", []step{
			{what: "yearly", command: ask("i1", "acc_1", stripe, "price_year", "phone", false), intent: "i1", trial: true},
			{what: "monthly was bought without asking", command: record(event("evt_1", subscription("sub_1", 10, entitlement.Active, "acc_1")))},
			{what: "yearly again", command: ask("i2", "acc_1", stripe, "price_year", "phone", false), intent: "i1", trial: true, warns: "[cancel-subscription]"},
		}},
		{"the App Store itself changes one plan for another", []step{
			{what: "paid", command: record(appleSale("100", "acc_1", "", false))},
			{what: "another plan", command: ask("i1", "acc_1", apple, "pro_year", "phone", false), intent: "i1", trial: true},
		}},
		{"a trial is used up for the person, under another account too", []step{
			{what: "trial of acc_1", command: record(appleSale("100", "acc_1", "7000", true))},
			{what: "another store", command: ask("i1", "acc_1", stripe, "price_news", "phone", true), slug: SlugTrialUsed},
			{what: "paid by the same person under acc_2", command: record(appleSale("200", "acc_2", "7000", false))},
			{what: "acc_2 wants it", command: ask("i2", "acc_2", stripe, "price_news", "phone", true), slug: SlugTrialUsed},
			{what: "acc_2 at full price", command: ask("i3", "acc_2", stripe, "price_news", "phone", false), intent: "i3"},
		}},
		{"who asks again is told that the trial was used up meanwhile", []step{
			{what: "news with the trial", command: ask("i1", "acc_1", stripe, "price_news", "phone", true), intent: "i1", trial: true},
			{what: "the trial in another store", command: record(appleSale("100", "acc_1", "7000", true))},
			{what: "again", command: ask("i2", "acc_1", stripe, "price_news", "phone", true), slug: SlugTrialUsed},
			{what: "at full price, by its intent", command: ask("i3", "acc_1", stripe, "price_news", "phone", false), intent: "i1"},
			{what: "still leased", command: ask("i4", "acc_1", stripe, "price_news", "tablet", false), slug: SlugPurchaseInProgress},
		}},
		{"a trial that came by a merge is gone again with it", []step{
			{what: "paid under acc_2", command: record(appleSale("100", "acc_2", "", true))},
			{what: "news with the trial", command: ask("i1", "acc_1", stripe, "price_news", "phone", true), intent: "i1", trial: true},
			{what: "merged", command: mergeOf("merge_1", "acc_2", "acc_1")},
			{what: "again at full price", command: ask("i2", "acc_1", stripe, "price_news", "phone", false), intent: "i1"},
			{what: "undone", command: undo("merge_1", "acc_1")},
			{what: "another device has the trial, which the first gave back", command: ask("i3", "acc_1", stripe, "price_pro_monthly", "tablet", true), intent: "i3", trial: true},
			{what: "the first at full price still", command: ask("i4", "acc_1", stripe, "price_news", "phone", false), intent: "i1"},
			{what: "the first wants it again", command: ask("i5", "acc_1", stripe, "price_news", "phone", true), slug: SlugPurchaseInProgress},
		}},
		{"a trial that is paid for and not confirmed yet is promised to nobody again", []step{
			{what: "news with the trial", command: ask("i1", "acc_1", stripe, "price_news", "phone", true), intent: "i1", trial: true},
			{what: "pro with the trial under acc_2", command: ask("i2", "acc_2", stripe, "price_pro_monthly", "tablet", true), intent: "i2", trial: true},
			{what: "paid", command: submit("i2", "acc_2"), intent: "i2", trial: true},
			{what: "merged", command: mergeOf("merge_1", "acc_2", "acc_1")},
			{what: "news again", command: ask("i3", "acc_1", stripe, "price_news", "phone", true), slug: SlugPurchaseInProgress},
			{what: "at full price", command: ask("i4", "acc_1", stripe, "price_news", "phone", false), intent: "i1"},
			{what: "not confirmed, and the lease is over", after: 301, command: ask("i5", "acc_1", stripe, "price_news", "phone", true), intent: "i5", trial: true},
		}},
		{"the trial is leased to the person, under another account too", []step{
			{what: "paid in full under acc_1", command: record(appleSale("100", "acc_1", "7000", false))},
			{what: "paid in full by the same person under acc_2", command: record(appleSale("200", "acc_2", "7000", false))},
			{what: "acc_1 wants the trial", command: ask("i1", "acc_1", stripe, "price_news", "phone", true), intent: "i1", trial: true},
			{what: "so does acc_2", command: ask("i2", "acc_2", stripe, "price_news", "tablet", true), slug: SlugPurchaseInProgress},
			{what: "on the same device", command: ask("i3", "acc_2", stripe, "price_news", "phone", true), slug: SlugPurchaseInProgress},
			{what: "at full price", command: ask("i4", "acc_2", stripe, "price_news", "tablet", false), intent: "i4"},
			{what: "not after all", command: endOf("i4", "acc_2")},
			{what: "acc_1 again", command: ask("i5", "acc_1", stripe, "price_news", "phone", true), intent: "i1", trial: true},
			{what: "acc_1 gives it back", command: endOf("i1", "acc_1")},
			{what: "acc_2 has it", command: ask("i6", "acc_2", stripe, "price_news", "tablet", true), intent: "i6", trial: true},
			{what: "acc_2 is no more", command: erase("acc_2")},
			{what: "acc_1 has it", command: ask("i7", "acc_1", stripe, "price_news", "phone", true), intent: "i7", trial: true},
			{what: "who was merged is one person", command: create("acc_3")},
			{what: "into acc_1", command: mergeOf("merge_1", "acc_3", "acc_1")},
			{what: "by the other id", command: ask("i8", "acc_3", stripe, "price_news", "phone", true), intent: "i7", trial: true},
		}},
		{"so it is to who has the person's name by an alias", []step{
			{what: "paid in full under acc_1", command: rcTrial("t1", "rc-1", "acc_1", false)},
			{what: "acc_2 has the name", command: NewCommand(TypeAddAlias, sandbox, "", &AddAlias{Account: "acc_2", Alias: rcUser("rc-1")})},
			{what: "acc_2 wants the trial", command: ask("i1", "acc_2", stripe, "price_news", "phone", true), intent: "i1", trial: true},
			{what: "so does acc_1", command: ask("i2", "acc_1", stripe, "price_news", "tablet", true), slug: SlugPurchaseInProgress},
			{what: "later", after: 301, command: ask("i3", "acc_1", stripe, "price_news", "tablet", true), intent: "i3", trial: true},
		}},
		{"a trial that the family shares is nobody's of those whom it is shared with", []step{
			{what: "shared with acc_1", command: record(sharedSale("100", "acc_1", "7000"))},
			{what: "acc_1 wants its own", command: ask("i1", "acc_1", stripe, "price_pro_monthly", "phone", true), intent: "i1", trial: true},
			{what: "not after all", command: endOf("i1", "acc_1")},
			{what: "bought by the same person under acc_2", command: record(appleSale("200", "acc_2", "7000", false))},
			{what: "acc_2 wants it", command: ask("i2", "acc_2", stripe, "price_news", "phone", true), intent: "i2", trial: true},
		}},
		{"who was merged is one person", []step{
			{what: "paid under acc_1", command: record(appleSale("100", "acc_1", "", true))},
			{what: "merged", command: mergeOf("merge_1", "acc_1", "acc_2")},
			{what: "acc_2", command: ask("i1", "acc_2", stripe, "price_pro_monthly", "phone", false), slug: SlugActiveSubscription},
			{what: "acc_2 and the trial", command: ask("i2", "acc_2", stripe, "price_news", "phone", true), slug: SlugTrialUsed},
			{what: "undone", command: undo("merge_1", "acc_2")},
			{what: "acc_2 alone", command: ask("i3", "acc_2", stripe, "price_pro_monthly", "phone", true), intent: "i3", trial: true},
		}},
		{"who has paid is awaited for a minute", []step{
			{what: "phone", command: ask("i1", "acc_1", stripe, "price_pro_monthly", "phone", false), intent: "i1", trial: true},
			{what: "paid", command: submit("i1", "acc_1"), intent: "i1", trial: true},
			{what: "paid, said again", command: submit("i1", ""), intent: "i1", trial: true},
			{what: "said by a stranger", command: submit("i1", "acc_2"), slug: SlugOtherAccount},
			{what: "nobody buys now", after: 30, command: ask("i2", "acc_1", stripe, "price_pro_monthly", "phone", false), slug: SlugPurchasePending},
			{what: "not confirmed", after: 31, command: ask("i3", "acc_1", stripe, "price_pro_monthly", "phone", false), intent: "i3", trial: true},
		}},
		{"what nobody can ask for", []step{
			{what: "an account that is not there", command: ask("i1", "acc_9", stripe, "price_pro_monthly", "phone", false), slug: SlugNotFound},
			{what: "a product that is not there", command: ask("i1", "acc_1", stripe, "price_9", "phone", false), slug: SlugInvalidRequest},
			{what: "a product of another provider", command: ask("i1", "acc_1", apple, "price_pro_monthly", "phone", false), slug: SlugInvalidRequest},
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m := newMachine(t, 1<<20)
			for _, c := range []Command{shopCatalog(), create("acc_1"), create("acc_2")} {
				m.apply(c)
			}
			for _, s := range tt.steps {
				m.now += s.after
				got := m.apply(s.command)
				var slug, intent, warns string
				var trial bool
				if got.Rejection != nil {
					slug = got.Rejection.Slug
				}
				if got.Intent != nil {
					intent, trial = got.Intent.ID, got.Intent.TrialEligible
					if len(got.Intent.Warnings) > 0 {
						warns = fmt.Sprint(got.Intent.Warnings)
					}
				}
				if slug != s.slug || intent != s.intent || trial != s.trial || warns != s.warns {
					t.Errorf("%s: %q %q trial %t %q, want %q %q %t %q (%+v)", s.what, slug, intent, trial, warns, s.slug, s.intent, s.trial, s.warns, got.Rejection)
				}
				m.check()
			}
		})
	}
}

// The state is pending from the moment that the user paid until the purchase is there, whichever comes first (I20), under whichever account of a merged person
// it is booked. What was bought before is not it.
func TestWhatIsAwaitedComes(t *testing.T) {
	paid := record(event("evt_1", subscription("sub_1", 10, entitlement.Active, "acc_1")))
	paidByTheOther := record(event("evt_1", subscription("sub_1", 10, entitlement.Active, "acc_2")))
	merged := mergeOf("merge_1", "acc_2", "acc_1")
	asked := ask("i1", "acc_1", entitlement.Stripe, "price_pro_monthly", "phone", false)
	coins := ask("i1", "acc_1", entitlement.Apple, "coins", "phone", false)
	for _, tt := range []struct {
		name   string
		before []Command
		last   [2]Command
		states [2]string // after the first of them, and the other way around; after both it is settled, or as waits says
		waits  string
	}{
		{"bought", []Command{asked}, [2]Command{submit("i1", ""), paid}, [2]string{entitlement.StatePending, entitlement.StateSettled}, entitlement.StateSettled},
		{"bought under the other account", []Command{merged, asked}, [2]Command{submit("i1", ""), paidByTheOther}, [2]string{entitlement.StatePending, entitlement.StateSettled}, entitlement.StateSettled},
		{"merged meanwhile", []Command{asked, submit("i1", "")}, [2]Command{merged, paidByTheOther}, [2]string{entitlement.StatePending, entitlement.StatePending}, entitlement.StateSettled},
		{"coins once more", []Command{coins, pack("1", "acc_1", startTime-day, false)}, [2]Command{submit("i1", ""), pack("2", "acc_1", startTime-day/2, false)},
			[2]string{entitlement.StatePending, entitlement.StateSettled}, entitlement.StatePending},
		{"coins that came", []Command{coins, pack("1", "acc_1", startTime-day, false)}, [2]Command{submit("i1", ""), pack("2", "acc_1", startTime-1, false)},
			[2]string{entitlement.StatePending, entitlement.StateSettled}, entitlement.StateSettled},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var positions [2]replication.Hash
			for order := range 2 {
				m := newMachine(t, 1<<20)
				for _, c := range append([]Command{shopCatalog(), create("acc_1"), create("acc_2")}, tt.before...) {
					if got := m.apply(c); got.Rejection != nil {
						t.Fatalf("command %d: %+v", c.Type, got.Rejection)
					}
				}
				x := m.shop()
				state := func() string {
					v := m.account("acc_1").View(x, m.now, nil)
					return v.State()
				}
				m.apply(tt.last[order])
				if got := state(); got != tt.states[order] {
					t.Errorf("after the first step, order %d: %s, want %s", order, got, tt.states[order])
				}
				m.apply(tt.last[1-order])
				if got := state(); got != tt.waits {
					t.Errorf("after both, order %d: %s, want %s", order, got, tt.waits)
				}
				m.check()
				positions[order] = m.state.StateHash
			}
			if positions[0] != positions[1] {
				t.Error("the order shows in the state")
			}
		})
	}
	m := newMachine(t, 1<<20)
	m.apply(shopCatalog())
	m.apply(create("acc_1"))
	await := NewCommand(TypeAwait, sandbox, "", &AwaitPurchase{Account: "acc_1", ID: "receipt:1", Provider: entitlement.Stripe})
	m.apply(await)
	m.now += 30
	m.apply(await) // the same proof once more begins no other minute
	a := m.account("acc_1")
	for after, want := range map[int64]string{29: entitlement.StatePending, 30: entitlement.StateSettled} {
		if v := a.View(nil, m.now+after, nil); v.State() != want {
			t.Errorf("%d s after the first time it is %s, want %s", 30+after, v.State(), want)
		}
	}
}

// What was not confirmed is remembered for a day, though others are told of meanwhile; of too many the oldest goes. A purchase that is called off is not awaited.
func TestWhatWasNotConfirmedIsRemembered(t *testing.T) {
	m := newMachine(t, 1<<20)
	m.apply(shopCatalog())
	m.apply(create("acc_1"))
	unconfirmed := func() (references []string) {
		v := m.account("acc_1").View(m.shop(), m.now, nil)
		for _, w := range v.Unconfirmed {
			references = append(references, w.ID)
		}
		return references
	}
	tell := func(n int) {
		m.apply(NewCommand(TypeAwait, sandbox, "", &AwaitPurchase{Account: "acc_1", ID: fmt.Sprintf("receipt:%d", n), Provider: entitlement.Stripe}))
		m.now += entitlement.AwaitSeconds
	}
	for n := range maxAwaited {
		tell(n)
	}
	if got := unconfirmed(); len(got) != maxAwaited || got[0] != "receipt:0" {
		t.Errorf("after %d: %v", maxAwaited, got)
	}
	tell(maxAwaited)
	if got := unconfirmed(); len(got) != maxAwaited || got[0] != "receipt:1" {
		t.Errorf("after one more: %v", got)
	}
	m.apply(ask("i1", "acc_1", entitlement.Apple, "coins", "phone", false))
	m.apply(submit("i1", ""))
	if a := m.account("acc_1"); !slices.ContainsFunc(a.Awaited, func(w entitlement.Awaited) bool { return w.ID == "i1" }) {
		t.Errorf("submitted, and not awaited: %+v", a.Awaited)
	}
	m.apply(endOf("i1", "acc_1"))
	if v := m.account("acc_1").View(m.shop(), m.now, nil); v.State() != entitlement.StateSettled {
		t.Errorf("called off, and %s", v.State())
	}
	m.apply(NewCommand(TypeAwait, sandbox, "", &AwaitPurchase{Account: "acc_1", ID: "receipt:3", Provider: entitlement.Stripe, Over: true}))
	if got := unconfirmed(); slices.Contains(got, "receipt:3") || len(got) != maxAwaited-2 {
		t.Errorf("after receipt:3 was judged: %v", got)
	}
	m.check()
	m.now += day
	if got := unconfirmed(); len(got) != 0 {
		t.Errorf("a day later: %v", got)
	}
	tell(100)
	if got := m.account("acc_1").Awaited; len(got) != 1 {
		t.Errorf("the record still has %+v", got)
	}
	m.check()
}

// Nothing of an intent is left a day after it expired.
func TestIntentsGoADayLater(t *testing.T) {
	m := newMachine(t, 1<<20)
	for _, c := range []Command{shopCatalog(), create("acc_1"), create("acc_2"), record(appleSale("100", "acc_1", "7000", false)), ask("i1", "acc_1", entitlement.Stripe, "price_news", "phone", true),
		ask("i2", "acc_1", entitlement.Apple, "coins", "phone", false), ask("i3", "acc_1", entitlement.Stripe, "price_year", "phone", false)} {
		m.apply(c)
	}
	m.now += intentSeconds + keptSeconds
	m.apply(ask("i4", "acc_2", entitlement.Apple, "coins", "", false))
	m.check()
	m.read(func(r *Reader) error {
		for _, bucket := range [][]byte{bucketIntents, bucketLeases, bucketDue} {
			var left []string
			_ = r.tx.Bucket(bucket).ForEach(func(k, _ []byte) error { left = append(left, string(k)); return nil })
			if len(left) != 1 || !strings.HasSuffix(left[0], "i4") {
				t.Errorf("%s has %q, want i4 alone", bucket, left)
			}
		}
		return nil
	})
}

// applyAll applies commands in one batch.
func (m *machine) applyAll(commands []Command) []Result {
	m.t.Helper()
	logs := make([]*raft.Log, len(commands))
	for i, c := range commands {
		c.Stamp = max(c.Stamp, m.now)
		m.index++
		logs[i] = &raft.Log{Index: m.index, Term: 1, Type: raft.LogCommand, Data: c.Encode()}
	}
	results := make([]Result, len(logs))
	for i, response := range m.ApplyBatch(logs) {
		results[i] = response.(Result)
	}
	if m.fault != nil {
		m.t.Fatal(m.fault)
	}
	return results
}

// buyer is a device that asks for a plan at a store.
type buyer struct {
	id, device string
	account    entitlement.AccountID
	at         entitlement.Provider
	product    entitlement.ProductID
	trial      bool
}

// pays is what the store says when the buyer has paid. At the App Store everything that an account buys is one chain; at Stripe each checkout makes a subscription
// of its own, unless the present one is changed.
func (b *buyer) pays(trial bool, present string) Command {
	if b.at == entitlement.Apple {
		ev := appleSale("chain-"+string(b.account), b.account, "", trial)
		ev.ID, ev.Objects[0].ID, ev.Objects[0].Transaction.Product = "apple-"+b.id, b.id, b.product
		return record(ev)
	}
	id, version := cmp.Or(present, "sub_"+b.id), int64(10)
	if present != "" {
		version = 20
	}
	sub := subscription(id, version, entitlement.Active, b.account)
	if sub.Subscription.Items[0].Product = b.product; trial {
		sub.Subscription.Status, sub.Subscription.TrialStart, sub.Subscription.TrialEnd = entitlement.Trialing, startTime, startTime+7*day
	}
	return record(event("evt-"+b.id, sub))
}

// Two devices, two stores and two plans at each, at once, 10,000 times: whoever asks first and does as told, nobody pays for two subscriptions and nobody has two
// trials (R62, R63).
func TestRacesForOneSubscriptionAndOneTrial(t *testing.T) {
	const races, together = 10_000, 1_000
	plans := map[entitlement.Provider][]entitlement.ProductID{entitlement.Apple: {"pro", "pro_year"}, entitlement.Stripe: {"price_pro_monthly", "price_year"}}
	stores := []entitlement.Provider{entitlement.Apple, entitlement.Stripe}
	r := rand.New(rand.NewPCG(6, 10))
	m := newMachine(t, 64<<20)
	m.apply(shopCatalog())
	x := m.shop()
	seen := map[string]int{} // by how a request ended
	for first := 0; first < races; first += together {
		var rounds [2][]Command
		var accounts, late []Command
		var buyers [together][2]buyer
		var trials [together]int
		var bought [together]string // what a Stripe subscription is called that the account has
		name := func(n int) entitlement.AccountID { return entitlement.AccountID(fmt.Sprintf("acc_%d", first+n)) }
		for n := range together {
			accounts = append(accounts, create(name(n)))
			for i := range rounds {
				at := stores[r.IntN(2)]
				b := buyer{fmt.Sprintf("i%d-%d", first+n, i), []string{"phone", "laptop"}[i], name(n), at, plans[at][r.IntN(2)], r.IntN(2) == 0}
				buyers[n][i], rounds[i] = b, append(rounds[i], ask(b.id, b.account, b.at, b.product, b.device, b.trial))
			}
		}
		m.applyAll(accounts)
		for i := range rounds {
			var then []Command
			for n, got := range m.applyAll(rounds[i]) {
				b := &buyers[n][i]
				if got.Rejection != nil {
					seen[got.Rejection.Slug]++
					continue
				}
				trial, present := got.Intent.TrialEligible, ""
				if b.trial && !trial {
					t.Fatalf("race %d: allowed without the trial that was asked for", first+n)
				}
				if slices.Contains(got.Intent.Warnings, entitlement.WarnCancel) {
					present = bought[n] // it does as told
				}
				seen[fmt.Sprint(i, " allowed at ", b.at, got.Intent.Warnings)]++
				// The purchase comes before the other asks, or is told of, or comes later; or the user gives up.
				what := r.IntN(4)
				if what == 3 {
					then = append(then, endOf(b.id, name(n)))
					continue
				}
				paid := b.pays(trial, present)
				if what == 0 {
					then = append(then, paid)
				} else {
					late = append(late, paid)
				}
				if what == 1 {
					then = append(then, submit(b.id, name(n)))
				}
				if b.at == entitlement.Stripe {
					bought[n] = "sub_" + b.id
				}
				if trial {
					trials[n]++
				}
			}
			m.applyAll(then)
		}
		m.applyAll(late)
		for n := range together {
			if doubles := m.account(name(n)).Doubles(x, m.now, nil, nil); len(doubles) > 0 || trials[n] > 1 {
				t.Fatalf("race %d of %+v: paid for twice %+v, %d may have a trial", first+n, buyers[n], doubles, trials[n])
			}
		}
	}
	for _, how := range []string{SlugPurchaseInProgress, SlugPurchasePending, SlugActiveSubscription, "1 allowed at apple[]", "1 allowed at stripe[cancel-subscription]"} {
		if seen[how] < races/100 {
			t.Errorf("only %d races ended with %s: %v", seen[how], how, seen)
		}
	}
}

// iapticSale is what iaptic says at a time of a term that a user has.
func iapticSale(id string, user entitlement.AccountID, at int64, trial bool) entitlement.Event {
	links := []entitlement.Link{entitlement.Link("iaptic:" + id)}
	term := entitlement.Object{Kind: entitlement.KindTransaction, ID: id, By: entitlement.Iaptic, At: at * 1e9, Links: links,
		Transaction: &entitlement.Transaction{Chain: id, Sold: entitlement.Sold{Product: "pro"}, Recurring: true, StartsAt: 5, EndsAt: 5000, Trial: trial}}
	owner := entitlement.Object{Kind: entitlement.KindRenewal, ID: "owner:" + id, By: entitlement.Iaptic, At: at * 1e9, Links: links, Renewal: &entitlement.Renewal{},
		Account: user, Aliases: []entitlement.Alias{{Kind: entitlement.IapticUsername, Value: string(user)}}}
	return entitlement.Event{Provider: entitlement.Iaptic, ID: fmt.Sprintf("iaptic-%s-%d", id, at), Environment: sandbox, CreatedAt: at, Objects: []entitlement.Object{term, owner}}
}

// Whether a person's trial is used up depends on the purchases alone, never on the order in which they became known (I20).
func TestTrialLocksAreOrderFree(t *testing.T) {
	messages := []Command{record(appleSale("100", "acc_1", "7000", true)), record(appleSale("200", "acc_2", "7000", false)),
		record(appleSale("300", "acc_3", "8000", false)), record(appleSale("400", "acc_2", "8000", false)),
		// A trial that iaptic moved to acc_3 and back again is none of those who bought under the name of acc_3.
		record(iapticSale("500", "acc_1", 10, true)), record(iapticSale("500", "acc_3", 20, true)), record(iapticSale("500", "acc_1", 30, true)), record(iapticSale("600", "acc_3", 10, false))}
	var want any
	r := rand.New(rand.NewPCG(1, 2))
	for range 60 {
		r.Shuffle(len(messages), func(i, j int) { messages[i], messages[j] = messages[j], messages[i] })
		m := newMachine(t, 1<<20)
		for _, c := range append([]Command{shopCatalog(), create("acc_1"), create("acc_2"), create("acc_3")}, messages...) {
			m.apply(c)
		}
		for id, locked := range map[entitlement.AccountID]bool{"acc_1": true, "acc_2": true, "acc_3": false} {
			if got := m.account(id).TrialLocked; got != locked {
				t.Errorf("%s: locked %t, want %t", id, got, locked)
			}
		}
		m.read(func(r *Reader) error {
			if got := r.Position().StateHash; want == nil {
				want = got
			} else if got != want {
				t.Error("the order of the messages shows in the state")
			}
			return nil
		})
	}
}

// During an upgrade, what only newer writers know leaves no trace: the older ones must have the same state (I17).
func TestOlderRulesKnowNoPersonsAndNoTransfer(t *testing.T) {
	for rules, known := range map[uint32]bool{2: false, 3: true} {
		m := newMachineUnder(t, 1<<20, rules)
		for _, c := range []Command{shopCatalog(), create("acc_1"), record(appleSale("100", "acc_1", "7000", true)),
			NewCommand(TypePutPolicy, sandbox, "", &PutPolicy{Policy: entitlement.Policy{Transfer: entitlement.TransferNever, Debt: true}})} {
			m.apply(c)
		}
		m.read(func(r *Reader) error {
			p, _, err := r.Purchase(sandbox, "apple:100")
			if got := len(p.Evidence.Persons()) > 0; got != known {
				t.Errorf("rules %d: the evidence names a person %t, want %t", rules, got, known)
			}
			if k, _ := r.tx.Bucket(bucketPersons).Cursor().First(); (k != nil) != known {
				t.Errorf("rules %d: a row for the person %t, want %t", rules, k != nil, known)
			}
			if policy, err := r.Policy(sandbox); err != nil || (policy.Transfer == entitlement.TransferNever) != known || policy.Debt != known {
				t.Errorf("rules %d: policy %+v, %v", rules, policy, err)
			}
			return err
		})
	}
}
