package store

import (
	"fmt"
	"testing"

	"github.com/latchkey/latchkey/pkg/entitlement"
)

// An account's grants are to be passed on after each change of them, until it was noted that what they are now was; once it is erased nothing is.
func TestChangedGrantsAreOwed(t *testing.T) {
	m := newMachine(t, 1<<20)
	grant := func(account entitlement.AccountID, id string) Command {
		return NewCommand(TypePutGrant, sandbox, "", &PutGrant{Account: account, ID: id, Entitlement: "pro"})
	}
	owed := func() (list []OwedGrants) {
		t.Helper()
		m.check()
		m.read(func(r *Reader) (err error) {
			list, err = r.OwedGrants(sandbox, "", 100)
			return err
		})
		return list
	}
	note := func(o OwedGrants) {
		m.apply(NewCommand(TypeNoteGranted, sandbox, "", &NoteGranted{Account: o.Account, Change: o.Change}))
	}
	want := func(when string, accounts ...entitlement.AccountID) []OwedGrants {
		t.Helper()
		list := owed()
		got := []entitlement.AccountID{}
		for _, o := range list {
			got = append(got, o.Account)
		}
		if fmt.Sprint(got) != fmt.Sprint(accounts) {
			t.Errorf("%s: %v are owed, want %v", when, got, accounts)
		}
		return list
	}
	noteAll := func() {
		for _, o := range owed() {
			note(o)
		}
	}
	for _, id := range []entitlement.AccountID{"acc_1", "acc_2", "acc_3"} {
		m.apply(create(id))
	}
	want("before")
	m.apply(grant("acc_1", "grant_1"))
	first := want("granted", "acc_1")
	m.apply(grant("acc_1", "grant_2"))
	note(first[0])
	want("granted again while the first was passed on", "acc_1")
	noteAll()
	want("passed on")
	m.apply(NewCommand(TypeDeleteGrant, sandbox, "", &DeleteGrant{Account: "acc_1", ID: "grant_1"}))
	want("taken back", "acc_1")
	noteAll()
	m.apply(NewCommand(TypeAddAlias, sandbox, "", &AddAlias{Account: "acc_1", Alias: entitlement.Alias{Kind: entitlement.AdaptyProfile, Value: "p-1"}}))
	want("known by another name there", "acc_1")
	noteAll()
	m.apply(NewCommand(TypeAddAlias, sandbox, "", &AddAlias{Account: "acc_1", Alias: entitlement.Alias{Kind: entitlement.StripeCustomer, Value: "cus_1"}}))
	m.apply(NewCommand(TypeAddAlias, sandbox, "", &AddAlias{Account: "acc_3", Alias: entitlement.Alias{Kind: entitlement.AdaptyProfile, Value: "p-3"}}))
	want("names that change nothing there")
	m.apply(NewCommand(TypeMerge, sandbox, "", &MergeAccounts{ID: "merge_1", From: "acc_2", Into: "acc_1"}))
	want("merged", "acc_1", "acc_2")
	noteAll()
	m.apply(NewCommand(TypeUndoMerge, sandbox, "", &UndoMerge{ID: "merge_1", Account: "acc_1"}))
	want("no longer merged", "acc_1", "acc_2")
	noteAll()
	m.apply(grant("acc_1", "grant_3"))
	m.apply(NewCommand(TypeErase, sandbox, "", &EraseAccount{Account: "acc_1"}))
	want("erased")

	old := newMachineUnder(t, 1<<20, rulesAccounts-1)
	old.apply(create("acc_1"))
	old.apply(grant("acc_1", "grant_1"))
	old.read(func(r *Reader) error {
		if list, err := r.OwedGrants(sandbox, "", 100); err != nil || len(list) != 0 {
			t.Errorf("under older rules: %v, %v", list, err)
		}
		return nil
	})
}
