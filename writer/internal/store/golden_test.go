package store

import (
	"encoding/hex"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/latchkey/latchkey/pkg/entitlement"
	"github.com/latchkey/latchkey/replication"
)

// This file holds the formats that logs, journals, state files and snapshots are full of: a change of any of them must show here.

var update = flag.Bool("update", false, "write the golden files anew")

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s changed: it is in logs and journals already\n got\n%s\nwant\n%s", name, got, want)
	}
}

func goldenCommands() []Command {
	key := &Idempotency{Scope: []byte("scope"), Body: []byte("body")}
	tester := true
	alias := customer("cus_1")
	product := entitlement.Product{Provider: entitlement.Stripe, ID: "price_1", Kind: entitlement.KindRecurring, Entitlements: []string{"pro"}}
	bodies := []struct {
		kind CommandType
		env  entitlement.Environment
		body any
	}{
		{TypeInit, "", &Init{Cluster: testCluster, Rules: 1}},
		{TypeRecordEvent, sandbox, &RecordEvent{Event: event("evt_1", subscription("sub_1", 1, entitlement.Active, "acc_1", alias))}},
		{TypeCreate, sandbox, &CreateAccount{ID: "acc_1", Aliases: []entitlement.Alias{alias}, Attributes: map[string]string{"b": "2", "a": "1"}, Idempotency: key}},
		{TypeAddAlias, sandbox, &AddAlias{Account: "acc_1", Alias: customer("cus_2"), Idempotency: key}},
		{TypePatch, sandbox, &PatchAccount{Account: "acc_1", Attributes: map[string]string{"a": ""}, Tester: &tester, Idempotency: key}},
		{TypeEndSessions, sandbox, &EndSessions{Account: "acc_1", Idempotency: key}},
		{TypePutGrant, sandbox, &PutGrant{Account: "acc_1", ID: "grant_1", Entitlement: "pro", DurationSeconds: 60, Reason: "r"}},
		{TypeDeleteGrant, sandbox, &DeleteGrant{Account: "acc_1", ID: "grant_1"}},
		{TypePutCatalog, entitlement.Production, &PutCatalog{Catalog: entitlement.Catalog{Products: []entitlement.Product{product}}}},
		{TypePutKeys, sandbox, &PutSessionKeys{JWKs: [][]byte{[]byte("{}")}}},
		{TypeAddAPIKey, sandbox, &AddAPIKey{Hash: make([]byte, 32), Name: "backend", Scope: "sk"}},
		{TypeRevokeAPIKey, sandbox, &RevokeAPIKey{Name: "backend"}},
		{TypeTouchAPIKeys, "", &TouchAPIKeys{LastUsed: map[string]int64{"00": 5}}},
		{TypeTrim, "", &Trim{Floor: 3}},
		{TypeRaiseRules, "", &RaiseRules{Rules: 1}},
		{TypeRaiseEpoch, "", &RaiseEpoch{Cause: "restore"}},
		{TypePutPolicy, sandbox, &PutPolicy{Policy: entitlement.Policy{BillingGrace: map[entitlement.Provider]int64{entitlement.Stripe: 60}}}},
		{TypeStartSession, sandbox, &StartSession{Account: "acc_1", Device: "d", TTLSeconds: 60, Idempotency: key}},
		{TypePutMember, "", &PutMember{ID: "w4", Raft: "127.0.0.1:8444", Internal: "http://127.0.0.1:8424"}},
		{TypeRemoveMember, "", &RemoveMember{ID: "w4"}},
		{TypeClaim, sandbox, &ClaimPurchase{Account: "acc_1", Purchase: "stripe:sub_1"}},
		{TypeKeepAnswer, sandbox, &KeepAnswer{Account: "acc_1", Answer: []byte("{}"), Idempotency: key}},
		{TypeMerge, sandbox, &MergeAccounts{ID: "merge_1", From: "acc_2", Into: "acc_1", Idempotency: key}},
		{TypeUndoMerge, sandbox, &UndoMerge{Account: "acc_1", ID: "merge_1", Idempotency: key}},
		{TypePutIntent, sandbox, &PutIntent{ID: "intent_1", Account: "acc_1", Provider: entitlement.Stripe, Product: "price_1", Device: "d", Trial: true, Idempotency: key}},
		{TypeEndIntent, sandbox, &EndIntent{ID: "intent_1", Account: "acc_1", Idempotency: key}},
		{TypeSubmitIntent, sandbox, &SubmitIntent{ID: "intent_1", Account: "acc_1", Idempotency: key}},
		{TypeRestore, sandbox, &RestorePurchase{Account: "acc_1", Purchase: "stripe:sub_1", Support: true, Idempotency: key, From: "acc_2"}},
		{TypeConsume, sandbox, &Consume{Account: "acc_1", ID: "c_1", Credit: "coins", Amount: 3, Idempotency: key}},
		{TypeAwait, sandbox, &AwaitPurchase{Account: "acc_1", ID: "receipt:1", Provider: entitlement.Apple, Product: "pro"}},
		{TypeLogin, sandbox, &Login{New: "acc_3", From: &Session{Account: "acc_1", IssuedAt: 5, Device: "d", SignIn: true}, To: &Session{Account: "acc_2", IssuedAt: 6}, Alias: &alias,
			Merge: "merge_1", Device: "d", TTLSeconds: 60, Idempotency: key}},
		{TypePutLink, sandbox, &PutLink{Hash: make([]byte, linkHashBytes), Account: "acc_1", Purchase: "stripe:sub_1", TTLSeconds: 60, Idempotency: key, Mailed: true, Index: make([]byte, contactIndexBytes)}},
		{TypeRedeemLink, sandbox, &RedeemLink{Hash: make([]byte, linkHashBytes), From: &Session{Account: "acc_1", IssuedAt: 5}, Account: "acc_2", Merge: "merge_1", Idempotency: key, Renew: make([]byte, linkHashBytes)}},
		{TypePutCode, sandbox, &PutCode{ID: "code_1", Hash: make([]byte, codeHashBytes), Provider: entitlement.Stripe, Product: "price_1", ExpiresAt: startTime + 60, Purchase: "stripe:pi_1", Delivered: true, Idempotency: key}},
		{TypeRedeemCode, sandbox, &RedeemCode{Hash: make([]byte, codeHashBytes), Account: "acc_2", Idempotency: key}},
		{TypeRevokeCode, sandbox, &RevokeCode{ID: "code_1", Idempotency: key}},
		{TypePutDevice, sandbox, &PutDevice{Account: "acc_1", Index: make([]byte, deviceIndexBytes), Platform: PlatformAPNS, Sealed: []byte("sealed"), Idempotency: key}},
		{TypePutContact, sandbox, &PutContact{Account: "acc_1", Index: make([]byte, contactIndexBytes), Changes: &AttributeChanges{Set: []string{"0a"}, Gone: []string{"0b"}, Clear: []string{"b"}},
			Tester: &tester, Idempotency: key, Personal: []Sealed{{AttributeText("0a"), []byte("sealed")}, {EmailText(make([]byte, contactIndexBytes)), []byte("sealed too")}}}},
		{TypeErase, sandbox, &EraseAccount{Account: "acc_1", Idempotency: key}},
		{TypeExport, sandbox, &ExportAccount{Account: "acc_1"}},
		{TypeNoteGranted, sandbox, &NoteGranted{Account: "acc_1", Change: 7}},
		{TypeDismiss, sandbox, &DismissSuggestion{ID: make([]byte, SuggestionIDBytes), Idempotency: key}},
		{TypePutRevocations, sandbox, &PutRevocations{List: replication.RevocationList{Text: []byte("a.b.c"), ByRoot: true, Counter: 3, Keys: []replication.RevokedKey{{ID: "kid", Until: 9}}}}},
	}
	var commands []Command
	for _, b := range bodies {
		c := NewCommand(b.kind, b.env, "corr", b.body)
		c.Stamp = startTime
		commands = append(commands, c)
	}
	return commands
}

func TestGoldenCommands(t *testing.T) {
	var text strings.Builder
	there := map[CommandType]bool{}
	for _, c := range goldenCommands() {
		there[c.Type] = true
	}
	for c := range CommandType(255) {
		if c.known() != there[c] {
			t.Errorf("command %d: known %t, golden bytes %t", c, c.known(), there[c])
		}
	}
	carded := NewCommand(TypeRecordEvent, sandbox, "corr", &RecordEvent{Event: event("evt_card"), Card: strings.Repeat("0a", cardBytes), CardOf: "cus_1"})
	carded.Stamp = startTime
	called := NewCommand(TypeEndSessions, sandbox, "corr", &EndSessions{Account: "acc_1"})
	called.Stamp, called.Caller = startTime, Caller{CallerKey, "backend"}.String()
	for _, c := range append(goldenCommands(), carded, called) {
		encoded := c.Encode()
		fmt.Fprintf(&text, "%d %x\n", c.Type, encoded)
		if back, err := DecodeCommand(encoded); err != nil || !reflect.DeepEqual(back, c) {
			t.Errorf("command %d does not come back: %+v, %v", c.Type, back, err)
		}
	}
	golden(t, "commands.txt", text.String())
}

// The rows, the change log and the hashes after all the golden commands: they cover every row type.
func TestGoldenState(t *testing.T) {
	m := newMachineUnder(t, 1<<20, 1) // the rules of the release whose bytes these are
	for _, c := range goldenCommands() {
		if c.Type != TypeStartSession && c.Type != TypeTrim && c.Type != TypeRaiseEpoch && c.Type < TypeClaim && c.Type != TypeDeleteGrant {
			m.apply(c)
		}
	}
	m.apply(record(event("evt_1", refund("re_1", "pi_1", 1, 1))))
	m.apply(record(event("evt_2", subscription("sub_2", 1, entitlement.Active, "", customer("cus_9")), invoice("in_2", "sub_2", "pi_2", 1, entitlement.InvoicePaid))))
	m.check()
	var text strings.Builder
	m.read(func(r *Reader) error {
		for _, name := range buckets {
			c := r.tx.Bucket(name).Cursor()
			for k, v := c.First(); k != nil; k, v = c.Next() {
				fmt.Fprintf(&text, "%s %s %s\n", name, hex.EncodeToString(k), hex.EncodeToString(v))
			}
		}
		return nil
	})
	fmt.Fprintf(&text, "chain %s\nstate %s\nfull %s\njournal %s\n", m.state.Chain, m.state.StateHash, m.state.FullHash, m.state.SegmentHash)
	golden(t, "state.txt", text.String())
}

func TestCommandsAreCompressedOnlyWhereThatHelps(t *testing.T) {
	short := create("acc_1").Encode()
	long := record(event("evt_1", subscription("sub_1", 1, entitlement.Active, "acc_1"), invoice("in_1", "sub_1", "pi_1", 1, entitlement.InvoicePaid),
		invoice("in_2", "sub_1", "pi_2", 1, entitlement.InvoicePaid), invoice("in_3", "sub_1", "pi_3", 1, entitlement.InvoicePaid)))
	if short[3] != 0 {
		t.Error("a short body was compressed")
	}
	encoded := long.Encode()
	if encoded[3] != flagZstd || len(encoded) >= len(long.Body) {
		t.Errorf("a body of %d bytes became %d", len(long.Body), len(encoded))
	}
	back, err := DecodeCommand(encoded)
	if err != nil || string(back.Body) != string(long.Body) {
		t.Errorf("it does not come back: %v", err)
	}
}
