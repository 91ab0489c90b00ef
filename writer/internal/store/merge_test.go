package store

import (
	"testing"

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
	refused(SlugAlreadyMerged, "acc_c", mergeOf("merge_3", "acc_c", "acc_a"))
	refused(SlugInvalidRequest, "", mergeOf("merge_3", "acc_c", "acc_c"))
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
