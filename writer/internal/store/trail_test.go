package store

import (
	"bytes"
	"errors"
	"reflect"
	"slices"
	"testing"

	"github.com/latchkey/latchkey/pkg/entitlement"
)

// audited returns the entry of the audit trail that a command left.
func (m *machine) audited(r Result) (ev StoredEvent) {
	m.t.Helper()
	m.read(func(reader *Reader) error {
		list, err := reader.Event(sandbox, entitlement.Latchkey, r.EventID)
		if err != nil || len(list) != 1 {
			m.t.Fatalf("event %q: %v, %v", r.EventID, list, err)
		}
		ev = list[0]
		return nil
	})
	return ev
}

// The trail has each command's ids and its caller, and the trail of a purchase has what the API did with it.
func TestTheTrailSaysWhatACommandWasAbout(t *testing.T) {
	m := newMachine(t, 1<<20)
	sold := []entitlement.Product{{Provider: entitlement.Stripe, ID: "price_1", Kind: entitlement.KindRecurring, Entitlements: []string{"pro"}, Group: "pro"},
		{Provider: entitlement.Apple, ID: "coins", Kind: entitlement.KindConsumable, Credits: map[string]int64{"coins": 100}},
		{Provider: entitlement.Stripe, ID: "course", Kind: entitlement.KindPackage, Accesses: []entitlement.ModuleAccess{{Module: "algebra", DurationDays: 30}}}}
	for _, c := range []Command{NewCommand(TypePutCatalog, sandbox, "", &PutCatalog{Catalog: entitlement.Catalog{Products: sold}}),
		create("acc_1"), create("acc_2"), record(event("evt_1", subscription("sub_1", 1, entitlement.Active, "acc_1"), invoice("in_1", "sub_1", "pi_1", 1, entitlement.InvoicePaid))),
		record(event("evt_2", subscription("sub_2", 1, entitlement.Active, ""), invoice("in_2", "sub_2", "pi_2", 1, entitlement.InvoicePaid))), pack("1", "acc_1", 100, false)} {
		m.apply(c)
	}
	const sub, nobodys = "stripe:sub_1", "stripe:sub_2"
	for _, tt := range []struct {
		name     string
		kind     CommandType
		body     any
		refs     Refs
		purchase entitlement.PurchaseID
	}{
		{"a restore", TypeRestore, &RestorePurchase{Account: "acc_2", Purchase: sub}, Refs{From: "acc_1", To: "acc_2"}, sub},
		{"a restore of one's own", TypeRestore, &RestorePurchase{Account: "acc_2", Purchase: sub}, Refs{}, sub},
		{"a merge", TypeMerge, &MergeAccounts{ID: "merge_1", From: "acc_1", Into: "acc_2"}, Refs{Merge: "merge_1", From: "acc_1", To: "acc_2"}, ""},
		{"its undoing", TypeUndoMerge, &UndoMerge{Account: "acc_1", ID: "merge_1"}, Refs{Merge: "merge_1", From: "acc_1", To: "acc_2"}, ""},
		{"a grant", TypePutGrant, &PutGrant{Account: "acc_1", ID: "grant_1", Entitlement: "beta"}, Refs{Grant: "grant_1"}, ""},
		{"its end", TypeDeleteGrant, &DeleteGrant{Account: "acc_1", ID: "grant_1"}, Refs{Grant: "grant_1"}, ""},
		{"an intent", TypePutIntent, &PutIntent{ID: "intent_1", Account: "acc_1", Provider: entitlement.Stripe, Product: "price_1", Device: "d"}, Refs{Intent: "intent_1"}, ""},
		{"the device's own again", TypePutIntent, &PutIntent{ID: "intent_2", Account: "acc_1", Provider: entitlement.Stripe, Product: "price_1", Device: "d"}, Refs{Intent: "intent_1"}, ""},
		{"its end", TypeEndIntent, &EndIntent{ID: "intent_1"}, Refs{Intent: "intent_1"}, ""},
		{"a consumption", TypeConsume, &Consume{Account: "acc_1", ID: "spend_1", Credit: "coins", Amount: 30}, Refs{Consumption: "spend_1"}, ""},
		{"a code", TypePutCode, &PutCode{ID: "code_1", Hash: codeHash("1"), Provider: entitlement.Stripe, Product: "course"}, Refs{Code: "code_1"}, ""},
		{"its redemption", TypeRedeemCode, &RedeemCode{Hash: codeHash("1"), Account: "acc_2"}, Refs{Code: "code_1"}, ""},
		{"its revocation", TypeRevokeCode, &RevokeCode{ID: "code_1"}, Refs{Code: "code_1"}, ""},
		{"a link to what is nobody's", TypePutLink, &PutLink{Hash: linkHash("1"), Purchase: nobodys, TTLSeconds: 900}, Refs{}, nobodys},
		{"who redeems it", TypeRedeemLink, &RedeemLink{Hash: linkHash("1"), Account: "acc_2", Merge: "merge_2"}, Refs{To: "acc_2"}, nobodys},
		{"a key", TypeAddAPIKey, &AddAPIKey{Hash: bytes.Repeat([]byte{7}, 32), Name: "support", Scope: "sk"}, Refs{APIKey: "support"}, ""},
		{"its end", TypeRevokeAPIKey, &RevokeAPIKey{Name: "support"}, Refs{APIKey: "support"}, ""},
		{"what names nothing more than an account", TypeEndSessions, &EndSessions{Account: "acc_1"}, Refs{}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := NewCommand(tt.kind, sandbox, "", tt.body)
			c.Caller = "api_key:backend"
			r := m.apply(c)
			if r.Rejection != nil {
				t.Fatalf("%+v", r.Rejection)
			}
			ev := m.audited(r)
			if ev.Refs != tt.refs || ev.Caller != (Caller{CallerKey, "backend"}) {
				t.Errorf("%+v by %+v, want %+v by the key", ev.Refs, ev.Caller, tt.refs)
			}
			var want []entitlement.PurchaseID
			if tt.purchase != "" {
				want = append(want, tt.purchase)
			}
			if !reflect.DeepEqual(ev.Purchases, want) {
				t.Errorf("purchases %v, want %v", ev.Purchases, want)
			}
			m.read(func(r *Reader) error {
				for _, id := range []entitlement.PurchaseID{sub, nobodys} {
					listed := r.bucket(bucketSubjects).Get(subjectKey(sandbox, subjectPurchase, string(id), ev.Seq)) != nil
					if listed != (tt.purchase == id) {
						t.Errorf("the trail of %s lists it: %t", id, listed)
					}
				}
				return nil
			})
			m.check()
		})
	}
}

// During an upgrade, neither ids nor callers leave a trace: older writers must have the same rows (I17).
func TestOlderRulesKnowNoCallers(t *testing.T) {
	rows := map[string][]string{}
	for _, caller := range []string{"", "session"} {
		m := newMachineUnder(t, 1<<20, rulesAccounts-1)
		for _, c := range []Command{create("acc_1"), record(event("evt_1", subscription("sub_1", 1, entitlement.Active, ""))), claim("c1", "acc_1", "stripe:sub_1"), grant("acc_1", "beta")} {
			if c.Type != TypeRecordEvent {
				c.Caller = caller
			}
			r := m.apply(c)
			if r.EventID == "" {
				t.Fatalf("%+v", r)
			}
			if c.Type == TypeRecordEvent {
				continue
			}
			m.read(func(reader *Reader) error {
				var row eventRow
				_, err := reader.decode(bucketEvents, eventKey(sandbox, entitlement.Latchkey, r.EventID), &row)
				if row.Caller != "" || row.Refs != nil || row.Purchases != nil {
					t.Errorf("command %d left %+v", c.Type, row)
				}
				row.Segment, row.Offset = 0, 0 // the journal has the commands as they are
				rows[caller] = append(rows[caller], string(entitlement.Encode(&row)))
				return err
			})
		}
	}
	if !reflect.DeepEqual(rows[""], rows["session"]) {
		t.Error("the caller shows in the rows of older rules")
	}
}

// A change of keys that changes nothing leaves no entry, and none at all does during an upgrade (I17).
func TestOnlyChangesOfKeysLeaveATrace(t *testing.T) {
	add, revoke := NewCommand(TypeAddAPIKey, sandbox, "", &AddAPIKey{Hash: bytes.Repeat([]byte{7}, 32), Name: "support", Scope: "sk"}), NewCommand(TypeRevokeAPIKey, sandbox, "", &RevokeAPIKey{Name: "support"})
	for rules, want := range map[uint32]uint64{rulesAccounts - 1: 0, rulesAccounts: 2} {
		m := newMachineUnder(t, 1<<20, rules)
		before := m.state.EventSeq
		for _, c := range []Command{add, add, revoke, revoke} {
			if r := m.apply(c); r.Rejection != nil {
				t.Fatalf("%+v", r.Rejection)
			}
		}
		if n := m.state.EventSeq - before; n != want {
			t.Errorf("rules %d: %d entries, want %d", rules, n, want)
		}
		m.check()
	}
}

// A caller comes back from a command's bytes, whatever else is in them, and stays in what the journal keeps; bytes that are cut off are no command.
func TestACommandCarriesItsCaller(t *testing.T) {
	for name, body := range map[string]any{"with a text of a person": &PatchAccount{Account: "acc_1", Personal: []Sealed{{"attribute", []byte("sealed")}}},
		"without": &PatchAccount{Account: "acc_1"}, "compressed": &PatchAccount{Account: "acc_1", Attributes: map[string]string{"a": string(bytes.Repeat([]byte("b"), 2000))}}} {
		t.Run(name, func(t *testing.T) {
			c := NewCommand(TypePatch, sandbox, "corr", body)
			c.Caller = Caller{CallerKey, "backend"}.String()
			encoded := c.Encode()
			if back, err := DecodeCommand(encoded); err != nil || !reflect.DeepEqual(back, c) {
				t.Errorf("%+v, %v, want %+v", back, err, c)
			}
			kept, err := DecodeCommand(journaled(encoded))
			if err != nil || kept.Caller != c.Caller || !bytes.Equal(kept.PersonalHash, c.PersonalHash) || !bytes.Equal(kept.Body, c.Body) || kept.Personal != nil {
				t.Errorf("the journal has %+v, %v", kept, err)
			}
			for n := range commandHeader + len("corr") + 1 + len(c.Caller) {
				if _, err := DecodeCommand(encoded[:n]); !errors.Is(err, ErrCommand) {
					t.Errorf("the first %d bytes: %v", n, err)
				}
			}
		})
	}
	for _, c := range []Caller{{}, {Kind: CallerSession}, {Kind: CallerSignIn}, {Kind: CallerOperator}, {CallerKey, "a:b"}} {
		if got := CallerOf(c.String()); got != c {
			t.Errorf("CallerOf(%q) = %+v", c.String(), got)
		}
	}
}

// trailOf lists the ids of what an account's trail has, in pages of two.
func (m *machine) trailOf(id entitlement.AccountID, list func(*Reader, entitlement.Environment, entitlement.AccountID, uint64, int) ([]StoredEvent, error)) (ids []string) {
	m.t.Helper()
	m.read(func(r *Reader) error {
		for after := uint64(0); ; {
			events, err := list(r, sandbox, id, after, 2)
			if err != nil || len(events) == 0 {
				return err
			}
			for _, ev := range events {
				ids = append(ids, ev.ID)
			}
			after = events[len(events)-1].Seq
		}
	})
	return ids
}

// Who loses a purchase has in their trail what was before, and the restore that took it; their export does not say who has it since. From then on it is the life of whoever has it.
func TestTheTrailOfWhoLostAPurchaseEndsThere(t *testing.T) {
	made := func(id entitlement.AccountID) Command {
		return NewCommand(TypeCreate, sandbox, "made "+string(id), &CreateAccount{ID: id})
	}
	restored := func(id entitlement.AccountID) Command {
		return NewCommand(TypeRestore, sandbox, "to "+string(id), &RestorePurchase{Account: id, Purchase: "stripe:sub_1"})
	}
	month := func(id string, at int64) Command {
		return record(event(id, subscription("sub_1", at, entitlement.Active, "acc_1")))
	}
	term := func(id string, start int64, by entitlement.AccountID) Command {
		return record(naming{id: id, start: start, end: start + 30, account: by}.by(entitlement.Apple))
	}
	for name, tt := range map[string]struct {
		steps []Command
		want  map[entitlement.AccountID][]string
		taken map[entitlement.AccountID]string // the restore by which they lost it
	}{
		"by restores": {[]Command{made("acc_1"), made("acc_2"), made("acc_3"), month("evt_1", 10), restored("acc_2"), month("evt_2", 20), restored("acc_3"), month("evt_3", 30)}, map[entitlement.AccountID][]string{
			"acc_1": {"made acc_1", "evt_1"},
			"acc_2": {"made acc_2", "evt_1", "to acc_2", "evt_2"},
			"acc_3": {"made acc_3", "evt_1", "to acc_2", "evt_2", "to acc_3", "evt_3"}}, map[entitlement.AccountID]string{"acc_1": "to acc_2", "acc_2": "to acc_3"}},
		"and gets it back": {[]Command{made("acc_1"), made("acc_2"), month("evt_1", 10), restored("acc_2"), month("evt_2", 20), restored("acc_1")}, map[entitlement.AccountID][]string{
			"acc_1": {"made acc_1", "evt_1", "to acc_2", "evt_2", "to acc_1"},
			"acc_2": {"made acc_2", "evt_1", "to acc_2", "evt_2"}}, map[entitlement.AccountID]string{"acc_2": "to acc_1"}},
		"and is merged with who has it": {[]Command{made("acc_1"), made("acc_2"), month("evt_1", 10), restored("acc_2"), month("evt_2", 20), NewCommand(TypeMerge, sandbox, "merged", &MergeAccounts{ID: "m", From: "acc_1", Into: "acc_2"})},
			map[entitlement.AccountID][]string{"acc_1": {"made acc_1", "made acc_2", "evt_1", "to acc_2", "evt_2", "merged"}}, nil},
		"by names": {[]Command{NewCommand(TypePutPolicy, sandbox, "policy", &PutPolicy{Policy: entitlement.Policy{Transfer: entitlement.TransferIfInactive}}), made("acc_1"), made("acc_2"),
			term("1", 0, "acc_1"), term("2", 40, "acc_2"), term("3", 80, "acc_3"), made("acc_3"), term("4", 120, "acc_3")}, map[entitlement.AccountID][]string{
			"acc_1": {"made acc_1", "n-1"},
			"acc_2": {"made acc_2", "n-2", "n-3"}, // what was told of before the loss to whoever had it then: all messages are newer than the third term
			"acc_3": {"n-1", "n-2", "n-3", "made acc_3", "n-4"}}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMachine(t, 1<<20)
			m.now += 200 * day
			for _, c := range tt.steps {
				m.now += 10
				if got := m.apply(c); got.Rejection != nil {
					t.Fatalf("command %d: %+v", c.Type, got.Rejection)
				}
				m.check()
			}
			for id, want := range tt.want {
				if got := m.trailOf(id, (*Reader).OwnEvents); !slices.Equal(got, want) {
					t.Errorf("%s is given %q, want %q", id, got, want)
				}
				if taken := tt.taken[id]; taken != "" {
					want = append(want, taken)
				}
				if got := m.trailOf(id, (*Reader).AccountEvents); !slices.Equal(got, want) {
					t.Errorf("of %s support sees %q, want %q", id, got, want)
				}
			}
		})
	}
}
