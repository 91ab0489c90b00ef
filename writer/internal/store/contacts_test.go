package store

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
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
			if len(s.Unclaimed) > 0 {
				text += fmt.Sprintf("paid%v ", s.Unclaimed)
			}
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

// paidBy records that sub was paid with the address that stands for name, for account or nobody.
func paidBy(evt, sub, account, name string) Command {
	e := event(evt, subscription(sub, 10, entitlement.Active, entitlement.AccountID(account), customer("cus_"+sub)))
	return NewCommand(TypeRecordEvent, sandbox, "", &RecordEvent{Event: e, Buyer: strings.Repeat(hex.EncodeToString([]byte(name[:1])), contactIndexBytes), BuyerOf: entitlement.Link("stripe:" + sub)})
}

// A payment that waits for its account is suggested to who has its buyer's address, until somebody owns it; the address gives it to nobody.
func TestAPaymentIsSuggestedByItsBuyersAddress(t *testing.T) {
	claim := NewCommand(TypeClaim, sandbox, "", &ClaimPurchase{Account: "acc_1", Purchase: "stripe:sub_1"})
	tests := []struct {
		name     string
		commands []Command
		want     string
	}{
		{"the payment first", []Command{create("acc_1"), paidBy("evt_1", "sub_1", "", "x"), putContact("acc_1", "x")}, "x[acc_1] paid[stripe:sub_1] "},
		{"the address first", []Command{create("acc_1"), putContact("acc_1", "x"), paidBy("evt_1", "sub_1", "", "x")}, "x[acc_1] paid[stripe:sub_1] "},
		{"another address", []Command{create("acc_1"), putContact("acc_1", "x"), paidBy("evt_1", "sub_1", "", "y")}, ""},
		{"two payments and nobody", []Command{paidBy("evt_1", "sub_1", "", "x"), paidBy("evt_2", "sub_2", "", "x")}, ""},
		{"two payments of one", []Command{create("acc_1"), paidBy("evt_1", "sub_1", "", "x"), paidBy("evt_2", "sub_2", "", "x"), putContact("acc_1", "x")}, "x[acc_1] paid[stripe:sub_1 stripe:sub_2] "},
		{"somebody's", []Command{create("acc_1"), create("acc_2"), putContact("acc_1", "x"), paidBy("evt_1", "sub_1", "acc_2", "x")}, ""},
		{"claimed since", []Command{create("acc_1"), paidBy("evt_1", "sub_1", "", "x"), putContact("acc_1", "x"), claim}, ""},
		{"found by its customer since", []Command{paidBy("evt_1", "sub_1", "", "x"), create("acc_1", customer("cus_sub_1")), putContact("acc_1", "x")}, ""},
		{"no address any more", []Command{create("acc_1"), paidBy("evt_1", "sub_1", "", "x"), putContact("acc_1", "x"), putContact("acc_1", "")}, ""},
		{"with an address of another form", []Command{create("acc_1"), putContact("acc_1", "x"), NewCommand(TypeRecordEvent, sandbox, "", &RecordEvent{
			Event: event("evt_1", subscription("sub_1", 10, entitlement.Active, "", customer("cus_1"))), Buyer: "short", BuyerOf: "stripe:sub_1"})}, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m := newMachine(t, 1<<20)
			for _, c := range tt.commands {
				if got := m.apply(c); got.Rejection != nil {
					t.Fatalf("%d: %+v", c.Type, got.Rejection)
				}
				m.check()
			}
			if got := suggestions(m); got != tt.want {
				t.Errorf("suggested %q, want %q", got, tt.want)
			}
		})
	}
}

// Whether a message has an address changes nothing of what it is the same as.
func TestABuyersAddressIsNoPartOfTheEvent(t *testing.T) {
	m := newMachine(t, 1<<20)
	with := paidBy("evt_1", "sub_1", "", "x")
	var body RecordEvent
	if err := entitlement.Decode(with.Body, &body); err != nil {
		t.Fatal(err)
	}
	m.apply(record(body.Event))
	if again := m.apply(with); !again.Duplicate || again.Outcome != Recorded {
		t.Errorf("the same message with an address = %+v, want a duplicate", again)
	}
	m.check()
}

// dismiss says no to the suggestion of the address that stands for name, as it is listed.
func dismiss(m *machine, name string) Command {
	m.t.Helper()
	body := DismissSuggestion{ID: bytes.Repeat([]byte(name[:1]), SuggestionIDBytes)}
	m.read(func(r *Reader) error {
		list, _, err := r.Suggestions(sandbox, nil, 100)
		for _, s := range list {
			if bytes.HasPrefix(body.ID, s.Index) {
				body.ID = s.ID
			}
		}
		return err
	})
	return NewCommand(TypeDismiss, sandbox, "", &body)
}

// What was dismissed is not suggested again, whatever its accounts do; whoever gets the address later was judged with nobody.
func TestADismissedPairIsNotSuggestedAgain(t *testing.T) {
	m := newMachine(t, 1<<20)
	for _, id := range []entitlement.AccountID{"acc_1", "acc_2", "acc_3", "acc_4"} {
		m.apply(create(id))
	}
	stale := func() Command { return dismiss(m, "x") }
	steps := []struct {
		name    string
		command func() Command
		slug    string
		want    string
	}{
		{"nobody has it", func() Command { return dismiss(m, "x") }, SlugNotFound, ""},
		{"one has it", func() Command { return putContact("acc_1", "x") }, "", ""},
		{"nothing is suggested", func() Command { return dismiss(m, "x") }, SlugNotFound, ""},
		{"two have it", func() Command { return putContact("acc_2", "x") }, "", "x[acc_1 acc_2] "},
		{"dismissed", func() Command { seen := dismiss(m, "x"); stale = func() Command { return seen }; return seen }, "", ""},
		{"one gives it up", func() Command { return putContact("acc_2", "") }, "", ""},
		{"and has it again", func() Command { return putContact("acc_2", "x") }, "", ""},
		{"one is merged into a stranger", func() Command { return mergeOf("merge_1", "acc_2", "acc_4") }, "", ""},
		{"a third has it", func() Command { return putContact("acc_3", "x") }, "", "x[acc_1 acc_3 acc_4] "},
		{"what was seen before is dismissed", func() Command { return stale() }, SlugNotFound, "x[acc_1 acc_3 acc_4] "},
		{"the three are dismissed", func() Command { return dismiss(m, "x") }, "", ""},
		{"the merge is undone", func() Command { return undo("merge_1", "acc_4") }, "", ""},
		{"a payment with it", func() Command { return paidBy("evt_1", "sub_1", "", "x") }, "", "x[acc_1 acc_2 acc_3] paid[stripe:sub_1] "},
		{"dismissed with the payment", func() Command { return dismiss(m, "x") }, "", ""},
		{"the payment gets another id", func() Command {
			return record(event("evt_2", invoice("in_1", "sub_1", "pi_1", 20, entitlement.InvoicePaid)))
		}, "", ""},
		{"another payment", func() Command { return paidBy("evt_3", "sub_2", "", "x") }, "", "x[acc_1 acc_2 acc_3] paid[stripe:sub_1 stripe:sub_2] "},
		{"which somebody claims", func() Command {
			return NewCommand(TypeClaim, sandbox, "", &ClaimPurchase{Account: "acc_4", Purchase: "stripe:sub_2"})
		}, "", ""},
		{"another address of the same two", func() Command { return putContact("acc_1", "y") }, "", ""},
		{"is another matter", func() Command { return putContact("acc_2", "y") }, "", "y[acc_1 acc_2] "},
	}
	for _, s := range steps {
		if got := m.apply(s.command()); slugOf(got) != s.slug {
			t.Fatalf("%s: %+v, want %q", s.name, got.Rejection, s.slug)
		}
		m.check()
		if got := suggestions(m); got != s.want {
			t.Errorf("%s: suggested %q, want %q", s.name, got, s.want)
		}
	}
	m.read(func(r *Reader) error {
		for _, id := range []entitlement.AccountID{"acc_1", "acc_2", "acc_3"} {
			events, err := r.AccountEvents(sandbox, id, 0, 100)
			if err != nil || !slices.ContainsFunc(events, func(e StoredEvent) bool { return e.Type == "suggestion.dismissed" }) {
				t.Errorf("the audit trail of %s is %+v, %v", id, events, err)
			}
		}
		return nil
	})
	if short := NewCommand(TypeDismiss, sandbox, "", &DismissSuggestion{ID: []byte("x")}); slugOf(m.apply(short)) != SlugInvalidRequest {
		t.Error("a short id is taken")
	}
	for _, id := range []entitlement.AccountID{"acc_1", "acc_2", "acc_3"} {
		m.apply(erase(id))
		m.check()
	}
	m.read(func(r *Reader) error {
		if k, _ := r.bucket(bucketDismissed).Cursor().First(); k != nil {
			t.Errorf("after all are erased %q is left", k)
		}
		return nil
	})
}
