package store

import (
	"bytes"
	"fmt"
	"slices"
	"testing"

	"github.com/latchkey/latchkey/pkg/entitlement"
)

// putContact gives an account the address that stands for name; empty for none.
func putContact(id entitlement.AccountID, name string) Command {
	body := PutContact{Account: id}
	if name != "" {
		body.Index = bytes.Repeat([]byte(name[:1]), contactIndexBytes)
		body.Personal = []Sealed{{EmailText(body.Index), []byte("sealed:" + name)}}
	}
	return NewCommand(TypePutContact, sandbox, "", &body)
}

func suggestions(m *machine) string {
	var text string
	m.read(func(r *Reader) error {
		list, upTo, err := r.Suggestions(sandbox, nil, 100)
		for _, s := range list {
			text += fmt.Sprintf("%s%v ", s.Index[:1], s.Accounts)
		}
		if upTo != nil {
			text += "more"
		}
		return err
	})
	return text
}

// What several accounts have is suggested for as long as they have it and are not one.
func TestSuggestionsFollowAddressesAndMerges(t *testing.T) {
	m := newMachine(t, 1<<20)
	for _, id := range []entitlement.AccountID{"acc_1", "acc_2", "acc_3"} {
		m.apply(create(id))
	}
	steps := []struct {
		name    string
		command Command
		want    string
	}{
		{"an address of one", putContact("acc_1", "x"), ""},
		{"of two", putContact("acc_2", "x"), "x[acc_1 acc_2] "},
		{"of three", putContact("acc_3", "x"), "x[acc_1 acc_2 acc_3] "},
		{"two of them are one", mergeOf("merge_1", "acc_3", "acc_1"), "x[acc_1 acc_2] "},
		{"all are one", mergeOf("merge_2", "acc_2", "acc_1"), ""},
		{"no longer", NewCommand(TypeUndoMerge, sandbox, "", &UndoMerge{Account: "acc_1", ID: "merge_2"}), "x[acc_1 acc_2] "},
		{"one has another address", putContact("acc_2", "y"), ""},
		{"which another one gets", putContact("acc_1", "y"), "y[acc_1 acc_2] "},
		{"and gives up", putContact("acc_1", ""), ""},
	}
	for _, s := range steps {
		if got := m.apply(s.command); got.Rejection != nil {
			t.Fatalf("%s: %+v", s.name, got.Rejection)
		}
		m.check()
		if got := suggestions(m); got != s.want {
			t.Errorf("%s: suggested %q, want %q", s.name, got, s.want)
		}
	}
	m.apply(putContact("acc_1", "y"))
	m.apply(putContact("acc_3", "z"))
	m.apply(putContact("acc_2", "z"))
	m.apply(putContact("acc_1", "z"))
	m.apply(create("acc_4"))
	m.apply(create("acc_5"))
	m.apply(putContact("acc_4", "a"))
	m.apply(putContact("acc_5", "a"))
	m.read(func(r *Reader) error {
		first, upTo, err := r.Suggestions(sandbox, nil, 1)
		if err != nil || len(first) != 1 || upTo == nil || first[0].Index[0] != 'a' {
			t.Fatalf("the first page = %+v, %v, %v", first, upTo, err)
		}
		rest, upTo, err := r.Suggestions(sandbox, upTo, 1)
		if err != nil || len(rest) != 1 || upTo != nil || rest[0].Index[0] != 'z' {
			t.Errorf("the last page = %+v, %v, %v", rest, upTo, err)
		}
		if other, _, err := r.Suggestions(entitlement.Production, nil, 10); len(other) != 0 || err != nil {
			t.Errorf("the other environment has %+v, %v", other, err)
		}
		return nil
	})
}

// The history is bounded, its order that of the changes, and only the last one is the account's.
func TestHistoryOfContacts(t *testing.T) {
	m := newMachine(t, 1<<20)
	m.apply(create("acc_1"))
	names := "abcdefghijklmnopqrstuvwxyz"
	for i := range maxContacts + 4 {
		m.apply(putContact("acc_1", names[i%len(names):i%len(names)+1]))
	}
	m.check()
	m.read(func(r *Reader) error {
		contacts, err := r.Contacts(sandbox, "acc_1")
		if err != nil || len(contacts) != maxContacts {
			t.Fatalf("%d contacts, %v, want %d", len(contacts), err, maxContacts)
		}
		if ended := slices.IndexFunc(contacts, func(c Contact) bool { return c.Until == 0 }); ended != maxContacts-1 || contacts[0].Index[0] != 'e' {
			t.Errorf("the first that has not ended is %d, the oldest %q", ended, contacts[0].Index[:1])
		}
		for _, contact := range contacts {
			if want := "sealed:" + string(contact.Index[:1]); string(contact.Sealed) != want {
				t.Errorf("the address of index %q is %q, want %q", contact.Index[:1], contact.Sealed, want)
			}
		}
		return nil
	})
}

func TestContactsAreRefused(t *testing.T) {
	m := newMachine(t, 1<<20)
	m.apply(create("acc_1"))
	index := make([]byte, contactIndexBytes)
	for name, tt := range map[string]struct {
		body PutContact
		slug string
	}{
		"of nobody":       {PutContact{Account: "acc_x", Index: index}, SlugNotFound},
		"a short index":   {PutContact{Account: "acc_1", Index: index[:31]}, SlugInvalidRequest},
		"wrong attribute": {PutContact{Account: "acc_1", Index: index, Changes: &AttributeChanges{Set: []string{""}}}, SlugInvalidRequest},
	} {
		before := m.state.StateHash
		if got := m.apply(NewCommand(TypePutContact, sandbox, "", &tt.body)); slugOf(got) != tt.slug || m.state.StateHash != before {
			t.Errorf("%s = %+v, want %s and no change", name, got.Rejection, tt.slug)
		}
		m.read(func(r *Reader) error {
			if contacts, err := r.Contacts(sandbox, "acc_1"); len(contacts) != 0 || err != nil {
				t.Errorf("%s left %+v, %v", name, contacts, err)
			}
			return nil
		})
	}
}
