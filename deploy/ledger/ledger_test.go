package main

import (
	"errors"
	"strings"
	"testing"

	"github.com/latchkey/latchkey/pkg/entitlement"
)

// TestBalancesAreTheLedgers plays a little of what `make sim` plays a million operations of, and shows that all of it happens.
func TestBalancesAreTheLedgers(t *testing.T) {
	t.Parallel()
	const operations = 4_000
	played, err := playAll(operations, 1, 1)
	if err != nil {
		t.Fatal(err)
	}
	for what, n := range map[string]int{"purchases": played.Purchases, "refunds": played.Refunds, "consumptions": played.Consumed, "repeats": played.Repeats, "refusals": played.Refused,
		"purchases that became somebody's": played.Claimed, "purchases that stayed with their owners": played.Kept, "commands lost": played.Lost} {
		if n < operations/100 {
			t.Errorf("only %d %s in %d operations", n, what, operations)
		}
	}
	if played.Erased == 0 {
		t.Error("nobody was erased")
	}
	if played.Kills == 0 || played.Operations != operations {
		t.Errorf("%d leaders killed in %d operations, want some in %d", played.Kills, played.Operations, operations)
	}
}

// A history whose books are not the machines' is found, and says how to see it again.
func TestAWrongBalanceIsFound(t *testing.T) {
	t.Parallel()
	b := &book{spent: map[string]consumption{"c1": {credit: "coins", amount: 12}}, sales: []*sale{{id: "a", credit: "coins", amount: 10, at: 2, known: true}, {id: "b", credit: "coins", amount: 10, at: 1, known: true, current: true}}}
	for debt, want := range map[bool]int64{false: 8, true: -2} {
		if b.debt = debt; b.balance("coins") != want {
			t.Errorf("debt %t: %d, want %d", debt, b.balance("coins"), want)
		}
	}
	h := newHistory(3, t.TempDir())
	defer h.cluster.close()
	if err := h.begin(); err != nil {
		t.Fatal(err)
	}
	o := owner{entitlement.Sandbox, "acc_00"}
	s := &sale{id: "x", buyer: o.id, credit: "coins", amount: 10, at: startTime}
	if err := h.deliver([]operation{h.tell(o, s, 1, 1)}); err != nil {
		t.Fatal(err)
	}
	if err := h.balances(h.cluster.leader, o); !errors.Is(err, errWrong) || !strings.Contains(err.Error(), "has 10 coins at machine 0, the ledger says 0") {
		t.Errorf("a sale that the ledger does not have: %v", err)
	}
}
