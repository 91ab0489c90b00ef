package store

import (
	"testing"

	"github.com/latchkey/latchkey/pkg/entitlement"
)

func claim(correlation string, account entitlement.AccountID, id entitlement.PurchaseID) Command {
	return NewCommand(TypeClaim, sandbox, correlation, &ClaimPurchase{Account: account, Purchase: id})
}

// TestAPurchaseIsClaimedFromNobody: who shows a purchase without an owner gets it, for good, and nobody else after that.
func TestAPurchaseIsClaimedFromNobody(t *testing.T) {
	m := newMachine(t, 1<<20)
	m.apply(create("acc_1"))
	m.apply(create("acc_2"))
	m.apply(record(event("evt_1", subscription("sub_1", 1, entitlement.Active, "", customer("cus_1")))))
	m.apply(record(event("evt_2", refund("re_1", "pi_1", 1, 999)))) // a fragment: no purchase
	steps := []struct {
		name     string
		command  Command
		slug     string
		owner    entitlement.AccountID // of the purchase afterwards
		existing bool
	}{
		{"an account that is not there", claim("c1", "acc_9", "stripe:sub_1"), SlugNotFound, "", false},
		{"a purchase that is not there", claim("c2", "acc_1", "stripe:sub_9"), SlugNotFound, "", false},
		{"a fragment", claim("c3", "acc_1", "stripe:pi_1"), SlugNotFound, "", false},
		{"the first who shows it", claim("c4", "acc_1", "stripe:sub_1"), "", "acc_1", false},
		{"the same again", claim("c5", "acc_1", "stripe:sub_1"), "", "acc_1", true},
		{"another", claim("c6", "acc_2", "stripe:sub_1"), SlugAliasTaken, "acc_1", false},
		{"the alias that somebody else gets later", NewCommand(TypeAddAlias, sandbox, "c7", &AddAlias{Account: "acc_2", Alias: customer("cus_1")}), "", "acc_1", false},
	}
	for _, s := range steps {
		r := m.apply(s.command)
		slug := ""
		if r.Rejection != nil {
			slug = r.Rejection.Slug
		}
		if slug != s.slug || r.Existing != s.existing {
			t.Errorf("%s: %+v, want rejection %q and existing %t", s.name, r, s.slug, s.existing)
		}
		m.read(func(r *Reader) error {
			p, _, err := r.Purchase(sandbox, "stripe:sub_1")
			unclaimed, _ := r.Unclaimed(sandbox, "", 10)
			if p.Owner != s.owner || (len(unclaimed) == 0) != (s.owner != "") {
				t.Errorf("%s: owner %q, %d unclaimed, want %q", s.name, p.Owner, len(unclaimed), s.owner)
			}
			return err
		})
		m.check()
	}
	if items := m.owns("acc_1"); len(items) != 1 || items[0].State != entitlement.Live {
		t.Errorf("acc_1 has %+v, want the subscription", items)
	}
	if items := m.owns("acc_2"); len(items) != 0 {
		t.Errorf("acc_2 has %+v, want nothing", items)
	}
}

// TestNothingIsClaimedUnderTheRulesOfTheFirstRelease, whose writers would fold the purchase otherwise.
func TestNothingIsClaimedUnderTheRulesOfTheFirstRelease(t *testing.T) {
	m := newMachineUnder(t, 1<<20, 1)
	m.apply(create("acc_1"))
	m.apply(record(event("evt_1", subscription("sub_1", 1, entitlement.Active, ""))))
	if r := m.apply(claim("c1", "acc_1", "stripe:sub_1")); r.Rejection == nil || len(m.owns("acc_1")) != 0 {
		t.Errorf("claimed: %+v", r)
	}
}
