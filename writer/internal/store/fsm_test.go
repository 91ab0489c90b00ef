package store

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/raft"
	"pgregory.net/rapid"

	"github.com/latchkey/latchkey/pkg/entitlement"
	"github.com/latchkey/latchkey/replication"
)

// This file shows, on the state machine alone, what each kind of message and command does to the state, and that the state is
// a function of the set of messages (I2, I5, I20).

func TestEvents(t *testing.T) {
	active := subscription("sub_1", 1, entitlement.Active, "acc_1")
	other := event("evt_1", subscription("sub_1", 2, entitlement.Canceled, "acc_1"))
	elsewhere := event("evt_2", subscription("sub_2", 1, entitlement.Active, "acc_1"))
	elsewhere.Environment = entitlement.Production
	tests := []struct {
		name      string
		events    []entitlement.Event
		want      Outcome // of the last
		duplicate bool
		revisions uint64 // in all, the account's own included
	}{
		{"a proof changes the account", []entitlement.Event{event("evt_1", active)}, Recorded, false, 2},
		{"the same message again has no effect", []entitlement.Event{event("evt_1", active), event("evt_1", active)}, Recorded, true, 2},
		{"another message with the same state makes no revision", []entitlement.Event{event("evt_1", active), event("evt_2", active)}, Recorded, false, 2},
		{"an older state makes no revision", []entitlement.Event{event("evt_1", subscription("sub_1", 5, entitlement.Active, "acc_1")),
			event("evt_2", subscription("sub_1", 4, entitlement.PastDue, "acc_1"))}, Recorded, false, 2},
		{"another content under a used id has no effect", []entitlement.Event{event("evt_1", active), other}, Conflicting, true, 2},
		{"a message of another environment is not applied", []entitlement.Event{elsewhere}, WrongEnvironment, false, 1},
		{"an unhandled type is stored", []entitlement.Event{{Provider: entitlement.Stripe, ID: "evt_3", Environment: sandbox, Kind: entitlement.Unhandled}}, Unhandled, false, 1},
		{"an unreadable body is stored", []entitlement.Event{{Provider: entitlement.Stripe, ID: "sha256:00", Kind: entitlement.Unreadable}}, Unreadable, false, 1},
		{"a refund before its payment waits", []entitlement.Event{event("evt_1", refund("re_1", "pi_1", 9, 999))}, Recorded, false, 1},
		{"an unknown account stays unclaimed", []entitlement.Event{event("evt_1", subscription("sub_1", 1, entitlement.Active, "acc_9"))}, Recorded, false, 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m := newMachine(t, 1<<20)
			m.apply(create("acc_1"))
			var got Result
			for i, ev := range tt.events {
				got = m.apply(delivery(i, ev))
			}
			if got.Outcome != tt.want || got.Duplicate != tt.duplicate || got.Revision.N > tt.revisions {
				t.Errorf("%+v, want outcome %s, duplicate %t", got, tt.want, tt.duplicate)
			}
			if m.state.N != tt.revisions {
				t.Errorf("%d revisions, want %d", m.state.N, tt.revisions)
			}
			m.read(func(r *Reader) error {
				last := tt.events[len(tt.events)-1]
				found, err := r.Event(sandbox, "", last.ID)
				if err != nil || len(found) == 0 || found[len(found)-1].Outcome != tt.want {
					t.Errorf("audit trail of %s: %+v, %v", last.ID, found, err)
				}
				return nil
			})
			m.check()
		})
	}
}

// The digest that is taken from the bytes is the one that the event itself has.
func TestEventDigest(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		ev := event(rapid.String().Draw(rt, "id"))
		ev.Raw = rapid.SliceOfN(rapid.Byte(), 0, 300).Draw(rt, "raw")
		ev.Type = rapid.SampledFrom([]string{"", "t"}).Draw(rt, "type")
		ev.Kind = rapid.SampledFrom([]entitlement.EventKind{entitlement.Proof, entitlement.Unhandled}).Draw(rt, "kind")
		if rapid.Bool().Draw(rt, "objects") {
			ev.Objects = []entitlement.Object{refund("re_1", rapid.String().Draw(rt, "intent"), 1, 1)}
		}
		d := decodeEntry(record(ev).Encode())
		if d.err != nil || d.bad {
			rt.Fatalf("decode: %v", d.err)
		}
		if want := ev.Digest(); d.digest != want {
			rt.Fatalf("digest %x, want %x", d.digest, want)
		}
		other := ev
		other.Raw = append([]byte{1}, ev.Raw...)
		if again := decodeEntry(record(other).Encode()); again.digest != d.digest {
			rt.Fatal("what is kept for people has a say in sameness")
		}
	})
}

func TestAConflictIsStoredOnceAndItsPurchaseIsPulled(t *testing.T) {
	m := newMachine(t, 1<<20)
	m.apply(create("acc_1"))
	m.apply(record(event("evt_1", subscription("sub_1", 1, entitlement.Active, "acc_1"))))
	other := event("evt_1", subscription("sub_1", 2, entitlement.Canceled, "acc_1"))
	first := m.apply(record(other))
	if again := m.apply(record(other)); again.Revision != first.Revision || !again.Duplicate || again.Outcome != Conflicting {
		t.Errorf("the conflicting message again: %+v, first %+v", again, first)
	}
	m.read(func(r *Reader) error {
		if found, err := r.Event(sandbox, entitlement.Stripe, "evt_1"); err != nil || len(found) != 2 {
			t.Errorf("%d events under the id, %v; want 2", len(found), err)
		}
		pulls, err := r.Pulls(sandbox, "", 10)
		if err != nil || len(pulls) != 1 || pulls[0].ID != "stripe:sub_1" || !pulls[0].Conflict {
			t.Errorf("pulls %+v, %v", pulls, err)
		}
		events, err := r.AccountEvents(sandbox, "acc_1", 0, 10)
		if err != nil || len(events) != 3 {
			t.Errorf("%d events of the account, %v; want 3", len(events), err)
		}
		return nil
	})
	m.check()
}

func TestWaitingPurchasesFindTheirAccount(t *testing.T) {
	tests := []struct {
		name    string
		before  []Command
		message entitlement.Object
		after   Command
		want    entitlement.AccountID
	}{
		{"an account made later takes what names it", nil, subscription("sub_1", 1, entitlement.Active, "acc_1"), create("acc_1"), "acc_1"},
		{"an account made later takes what its alias names", nil, subscription("sub_1", 1, entitlement.Active, "", customer("cus_1")), create("acc_1", customer("cus_1")), "acc_1"},
		{"an alias added later takes what it names", []Command{create("acc_1")}, subscription("sub_1", 1, entitlement.Active, "", customer("cus_1")),
			NewCommand(TypeAddAlias, sandbox, "c", &AddAlias{Account: "acc_1", Alias: customer("cus_1")}), "acc_1"},
		{"an alias counts once the newest state names no account", []Command{create("acc_1"), record(event("evt_0", subscription("sub_1", 1, entitlement.Active, "acc_1", customer("cus_1"))))},
			subscription("sub_1", 2, entitlement.Active, "", customer("cus_1")), NewCommand(TypeAddAlias, sandbox, "c", &AddAlias{Account: "acc_1", Alias: customer("cus_1")}), "acc_1"},
		{"metadata wins over an alias", []Command{create("acc_1", customer("cus_1"))}, subscription("sub_1", 1, entitlement.Active, "acc_2", customer("cus_1")), create("acc_2"), "acc_2"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m := newMachine(t, 1<<20)
			for _, c := range tt.before {
				m.apply(c)
			}
			if r := m.apply(record(event("evt_1", tt.message))); r.Account != "" {
				t.Fatalf("owned by %s at once", r.Account)
			}
			m.read(func(r *Reader) error {
				if waiting, err := r.Unclaimed(sandbox, "", 10); err != nil || len(waiting) != 1 || waiting[0].Since != startTime {
					t.Errorf("unclaimed %+v, %v", waiting, err)
				}
				return nil
			})
			got := m.apply(tt.after)
			if a := m.account(tt.want); a == nil || len(a.Purchases) != 1 {
				t.Fatalf("account %+v", a)
			}
			if got.Revision.N != m.state.N {
				t.Errorf("revision %s, the last change is %d", got.Revision, m.state.N)
			}
			m.read(func(r *Reader) error {
				if waiting, err := r.Unclaimed(sandbox, "", 10); err != nil || len(waiting) != 0 {
					t.Errorf("still unclaimed: %+v, %v", waiting, err)
				}
				return nil
			})
			m.check()
		})
	}
}

func TestAPurchaseThatChangesOwnerLeavesTheOldAccountInTheSameCommand(t *testing.T) {
	m := newMachine(t, 1<<20)
	m.apply(create("acc_1"))
	m.apply(create("acc_2"))
	m.apply(record(event("evt_1", subscription("sub_1", 1, entitlement.Active, "acc_1"))))
	before := m.state.N
	m.apply(record(event("evt_2", subscription("sub_1", 2, entitlement.Active, "acc_2"))))
	a, b := m.account("acc_1").Purchases, m.account("acc_2").Purchases
	if len(a) != 1 || a[0].Items[0].State != entitlement.Revoked || a[0].Items[0].Reason != entitlement.ReasonTransferred || len(b) != 1 || b[0].Items[0].State != entitlement.Live {
		t.Errorf("the old owner has %+v, the new one %+v; want it transferred", a, b)
	}
	if m.state.N != before+2 {
		t.Errorf("%d changes, want 2", m.state.N-before)
	}
	m.check()
}

func TestPurchasesThatTurnOutToBeOneAreOne(t *testing.T) {
	m := newMachine(t, 1<<20)
	m.apply(create("acc_1"))
	m.apply(record(event("evt_1", refund("re_1", "pi_1", 9, 999))))
	m.apply(record(event("evt_2", subscription("sub_1", 1, entitlement.Active, "acc_1"))))
	m.apply(record(event("evt_3", invoice("in_1", "sub_1", "pi_1", 2, entitlement.InvoicePaid))))
	m.read(func(r *Reader) error {
		for _, id := range []entitlement.PurchaseID{"stripe:sub_1", "stripe:pi_1", "stripe:in_1"} {
			p, ok, err := r.Purchase(sandbox, id)
			if err != nil || !ok || p.ID != "stripe:sub_1" || p.Owner != "acc_1" || len(p.Evidence.Objects) != 3 {
				t.Errorf("purchase %s: %+v, %t, %v", id, p, ok, err)
			}
		}
		events, err := r.AccountEvents(sandbox, "acc_1", 0, 10)
		if err != nil || len(events) != 4 {
			t.Errorf("%d events of the account, %v; want 4: the refund came under another purchase", len(events), err)
		}
		return nil
	})
	if a := m.account("acc_1"); len(a.Purchases) != 1 || a.Purchases[0].Items[0].State != entitlement.Revoked {
		t.Errorf("account %+v", a)
	}
	m.check()
}

func TestARecordThatWouldBeTooLargeIsRefusedBeforeAnythingIsWritten(t *testing.T) {
	m := newMachine(t, 1<<20)
	m.apply(create("acc_1"))
	big := subscription("sub_1", 1, entitlement.Active, "acc_1")
	item := big.Subscription.Items[0]
	big.Subscription.Items = nil
	for i := range 1500 {
		item.ID = fmt.Sprintf("si_%04d_%s", i, strings.Repeat("x", 200))
		big.Subscription.Items = append(big.Subscription.Items, item)
	}
	before := m.state
	got := m.apply(record(event("evt_1", big)))
	if got.Outcome != TooLarge || m.state.N != before.N || m.state.StateHash != before.StateHash {
		t.Errorf("%+v, %d revisions", got, m.state.N)
	}
	m.read(func(r *Reader) error {
		if _, ok, err := r.Purchase(sandbox, "stripe:sub_1"); ok || err != nil {
			t.Errorf("the purchase was written: %v", err)
		}
		return nil
	})
	if again := m.apply(delivery(2, event("evt_1", big))); !again.Duplicate || again.Outcome != TooLarge {
		t.Errorf("again: %+v", again)
	}
	m.check()
}

// I20: any order and any repetition of a history, mixed in any way between the same API calls, gives one state hash.
func TestAnyOrderGivesOneStateHash(t *testing.T) {
	history := []entitlement.Event{
		event("evt_1", subscription("sub_1", 1, entitlement.Incomplete, "acc_1", customer("cus_1"))),
		event("evt_2", subscription("sub_1", 2, entitlement.Active, "acc_1", customer("cus_1"))),
		event("evt_3", invoice("in_1", "sub_1", "pi_1", 2, entitlement.InvoicePaid)),
		event("evt_4", refund("re_1", "pi_1", 9, 999)),
		event("evt_5", subscription("sub_2", 3, entitlement.Active, "", customer("cus_2"))),
		event("evt_6", invoice("in_2", "sub_2", "pi_2", 3, entitlement.InvoicePaid), invoice("in_3", "sub_1", "pi_3", 4, entitlement.InvoiceOpen)),
		event("evt_7", subscription("sub_1", 4, entitlement.PastDue, "acc_2", customer("cus_1"))),
	}
	calls := []Command{create("acc_1"), create("acc_2", customer("cus_1")),
		NewCommand(TypeAddAlias, sandbox, "c", &AddAlias{Account: "acc_1", Alias: customer("cus_2")})}
	run := func(t testing.TB, commands []Command) state {
		m := newMachine(t, 1<<20)
		for _, c := range commands {
			m.apply(c)
		}
		m.check()
		return m.state
	}
	var straight []Command
	straight = append(straight, calls...)
	for _, ev := range history {
		straight = append(straight, record(ev))
	}
	want := run(t, straight).StateHash
	rapid.Check(t, func(rt *rapid.T) {
		random := rand.New(rand.NewPCG(rapid.Uint64().Draw(rt, "seed"), 7))
		messages := append(slices.Clone(history), history[random.IntN(len(history))], history[random.IntN(len(history))])
		random.Shuffle(len(messages), func(i, j int) { messages[i], messages[j] = messages[j], messages[i] })
		// The calls keep their order; the messages fall anywhere between them.
		var commands []Command
		rest := calls
		for _, ev := range messages {
			for len(rest) > 0 && random.IntN(4) == 0 {
				commands, rest = append(commands, rest[0]), rest[1:]
			}
			commands = append(commands, record(ev))
		}
		commands = append(commands, rest...)
		if got := run(t, commands).StateHash; got != want {
			rt.Fatalf("state hash %s, in the straight order %s", got, want)
		}
	})
}

// A message may prove several objects at once, of one purchase or of several; alone or together they give one state.
func TestObjectsInOneMessageOrInSeveralGiveOneStateHash(t *testing.T) {
	objects := []entitlement.Object{refund("re_1", "pi_1", 9, 999), subscription("sub_1", 2, entitlement.Active, "acc_1"),
		subscription("sub_2", 2, entitlement.Active, "acc_2"), invoice("in_2", "sub_2", "pi_2", 2, entitlement.InvoicePaid),
		invoice("in_1", "sub_1", "pi_1", 2, entitlement.InvoicePaid)}
	run := func(portions ...[]entitlement.Object) *machine {
		m := newMachine(t, 1<<20)
		m.apply(create("acc_1"))
		m.apply(create("acc_2"))
		for i, portion := range portions {
			m.apply(record(event(fmt.Sprintf("evt_%d", i), portion...)))
		}
		m.check()
		return m
	}
	together := run(objects)
	if a, b := together.account("acc_1"), together.account("acc_2"); len(a.Purchases) != 1 || len(b.Purchases) != 1 {
		t.Errorf("accounts %+v and %+v, want one purchase each", a, b)
	}
	together.read(func(r *Reader) error {
		p, ok, err := r.Purchase(sandbox, "stripe:pi_1")
		if !ok || p.ID != "stripe:sub_1" || len(p.Evidence.Objects) != 3 {
			t.Errorf("purchase %+v, %t", p, ok)
		}
		return err
	})
	for name, m := range map[string]*machine{
		"one by one":      run(objects[:1], objects[1:2], objects[2:3], objects[3:4], objects[4:]),
		"last ones first": run(objects[3:], objects[:3]),
		"overlapping":     run(objects[1:4], objects),
	} {
		if m.state.StateHash != together.state.StateHash {
			t.Errorf("%s: state hash %s, together %s", name, m.state.StateHash, together.state.StateHash)
		}
	}
}

func TestAPICommands(t *testing.T) {
	yes := true
	key := func(scope, body string) *Idempotency { return &Idempotency{Scope: []byte(scope), Body: []byte(body)} }
	command := func(kind CommandType, body any) Command { return NewCommand(kind, sandbox, "", body) }
	setup := []Command{create("acc_1", customer("cus_1")), create("acc_2", customer("cus_2"))}
	tests := []struct {
		name    string
		before  []Command
		command Command
		slug    string // of the rejection
		check   func(t *testing.T, m *machine, r Result)
	}{
		{"an account is found by its alias", nil, command(TypeCreate, &CreateAccount{ID: "acc_3", Aliases: []entitlement.Alias{customer("cus_1")}}), "",
			func(t *testing.T, m *machine, r Result) {
				if r.Account != "acc_1" || !r.Existing || m.account("acc_3") != nil {
					t.Errorf("%+v", r)
				}
			}},
		{"aliases of two owners make no account", nil, command(TypeCreate, &CreateAccount{ID: "acc_3", Aliases: []entitlement.Alias{customer("cus_1"), customer("cus_2")}}), SlugAliasTaken, nil},
		{"an alias has one owner", nil, command(TypeAddAlias, &AddAlias{Account: "acc_1", Alias: customer("cus_2")}), SlugAliasTaken,
			func(t *testing.T, _ *machine, r Result) {
				if r.Rejection.Owner != "acc_2" {
					t.Errorf("owner %q", r.Rejection.Owner)
				}
			}},
		{"an alias of an unknown kind is refused", nil, command(TypeAddAlias, &AddAlias{Account: "acc_1", Alias: entitlement.Alias{Kind: "email", Value: "x"}}), SlugInvalidRequest, nil},
		{"an alias for no account is refused", nil, command(TypeAddAlias, &AddAlias{Account: "acc_9", Alias: customer("cus_9")}), SlugNotFound, nil},
		{"a grant gives until its end", nil, command(TypePutGrant, &PutGrant{Account: "acc_1", ID: "grant_1", Entitlement: "pro", DurationSeconds: day, Reason: "sorry"}), "",
			func(t *testing.T, m *machine, _ Result) {
				if g := m.account("acc_1").Grants; len(g) != 1 || g[0].EndsAt != startTime+day {
					t.Errorf("grants %+v", g)
				}
			}},
		{"a grant is made once", []Command{command(TypePutGrant, &PutGrant{Account: "acc_1", ID: "grant_1", Entitlement: "pro"})},
			command(TypePutGrant, &PutGrant{Account: "acc_1", ID: "grant_1", Entitlement: "pro"}), "", func(t *testing.T, _ *machine, r Result) {
				if !r.Existing {
					t.Errorf("%+v", r)
				}
			}},
		{"a grant that is not there cannot be deleted", nil, command(TypeDeleteGrant, &DeleteGrant{Account: "acc_1", ID: "grant_9"}), SlugNotFound, nil},
		{"a deleted grant is gone", []Command{command(TypePutGrant, &PutGrant{Account: "acc_1", ID: "grant_1", Entitlement: "pro"})},
			command(TypeDeleteGrant, &DeleteGrant{Account: "acc_1", ID: "grant_1"}), "", func(t *testing.T, m *machine, _ Result) {
				if g := m.account("acc_1").Grants; len(g) != 0 {
					t.Errorf("grants %+v", g)
				}
			}},
		{"a negative duration is refused", nil, command(TypePutGrant, &PutGrant{Account: "acc_1", ID: "grant_1", Entitlement: "pro", DurationSeconds: -1}), SlugInvalidRequest, nil},
		{"attributes are merged, empty ones removed", []Command{command(TypePatch, &PatchAccount{Account: "acc_1", Attributes: map[string]string{"a": "1", "b": "2"}})},
			command(TypePatch, &PatchAccount{Account: "acc_1", Attributes: map[string]string{"a": "", "c": "3"}, Tester: &yes}), "", func(t *testing.T, m *machine, _ Result) {
				m.read(func(r *Reader) error {
					d, _, err := r.AccountDetail(sandbox, "acc_1")
					if len(d.Attributes) != 2 || d.Attributes["b"] != "2" || d.Attributes["c"] != "3" || !m.account("acc_1").Tester {
						t.Errorf("attributes %v", d.Attributes)
					}
					return err
				})
			}},
		{"ending sessions refuses those issued until now", nil, command(TypeEndSessions, &EndSessions{Account: "acc_1"}), "", func(t *testing.T, m *machine, _ Result) {
			if from := m.account("acc_1").SessionsFrom; from != startTime+1 {
				t.Errorf("sessions from %d", from)
			}
		}},
		{"a session is noted", nil, command(TypeStartSession, &StartSession{Account: "acc_1", Device: "d"}), "", func(t *testing.T, m *machine, r Result) {
			if r.Revision.N != m.state.N || r.Stamp != startTime {
				t.Errorf("%+v", r)
			}
		}},
		{"the repeat of a request gets the first answer", []Command{command(TypePutGrant, &PutGrant{Account: "acc_1", ID: "grant_1", Entitlement: "pro", Idempotency: key("k", "b")})},
			command(TypePutGrant, &PutGrant{Account: "acc_1", ID: "grant_2", Entitlement: "pro", Idempotency: key("k", "b")}), "", func(t *testing.T, m *machine, r Result) {
				if g := m.account("acc_1").Grants; len(g) != 1 || g[0].ID != "grant_1" || r.Existing || r.Revision.N != m.state.N {
					t.Errorf("grants %+v, %+v", g, r)
				}
			}},
		{"another body under a used key is refused", []Command{command(TypePutGrant, &PutGrant{Account: "acc_1", ID: "grant_1", Entitlement: "pro", Idempotency: key("k", "b")})},
			command(TypePutGrant, &PutGrant{Account: "acc_1", ID: "grant_2", Entitlement: "pro", Idempotency: key("k", "c")}), SlugIdempotencyMismatch, nil},
		{"a key may be used again after 24 h", []Command{command(TypePutGrant, &PutGrant{Account: "acc_1", ID: "grant_1", Entitlement: "pro", Idempotency: key("k", "b")})},
			later(day, command(TypePutGrant, &PutGrant{Account: "acc_1", ID: "grant_2", Entitlement: "pro", Idempotency: key("k", "c")})), "", func(t *testing.T, m *machine, _ Result) {
				if g := m.account("acc_1").Grants; len(g) != 2 {
					t.Errorf("grants %+v", g)
				}
			}},
		{"the same command retried without a key has one effect", []Command{NewCommand(TypePatch, sandbox, "corr-1", &PatchAccount{Account: "acc_1", Attributes: map[string]string{"a": "1"}})},
			NewCommand(TypePatch, sandbox, "corr-1", &PatchAccount{Account: "acc_1", Attributes: map[string]string{"a": "1"}}), "", func(t *testing.T, m *machine, r Result) {
				if r.EventID != "corr-1" {
					t.Errorf("%+v", r)
				}
			}},
		{"a body that does not decode is refused", nil, Command{Type: TypeAddAlias, Env: sandbox, Body: []byte{0xff}}, SlugInvalidRequest, nil},
		{"session keys are a record", nil, command(TypePutKeys, &PutSessionKeys{JWKs: [][]byte{[]byte(`{"kty":"EC"}`)}}), "", func(t *testing.T, m *machine, _ Result) {
			m.read(func(r *Reader) error {
				keys, err := r.SessionKeys(sandbox)
				if len(keys) != 1 {
					t.Errorf("%d keys", len(keys))
				}
				return err
			})
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m := newMachine(t, 1<<20)
			for _, c := range append(slices.Clone(setup), tt.before...) {
				if r := m.apply(c); r.Rejection != nil {
					t.Fatalf("setup: %+v", r.Rejection)
				}
			}
			before := m.state
			got := m.apply(tt.command)
			if slug := slugOf(got); slug != tt.slug {
				t.Fatalf("rejection %q, want %q", slug, tt.slug)
			}
			if tt.slug != "" && (m.state.N != before.N || got.Outcome != Rejected) {
				t.Errorf("a rejection made %d changes: %+v", m.state.N-before.N, got)
			}
			if tt.check != nil {
				tt.check(t, m, got)
			}
			m.check()
		})
	}
}

func slugOf(r Result) string {
	if r.Rejection == nil {
		return ""
	}
	return r.Rejection.Slug
}

func later(by int64, c Command) Command {
	c.Stamp = startTime + by
	return c
}

func TestWhatTheAPIDidIsInTheAuditTrail(t *testing.T) {
	m := newMachine(t, 1<<20)
	m.apply(create("acc_1"))
	m.apply(NewCommand(TypePutGrant, sandbox, "corr-2", &PutGrant{Account: "acc_1", ID: "grant_1", Entitlement: "pro"}))
	m.apply(NewCommand(TypePutGrant, sandbox, "corr-3", &PutGrant{Account: "acc_9", ID: "grant_1", Entitlement: "pro"}))
	m.apply(record(event("evt_1", subscription("sub_1", 1, entitlement.Active, "acc_1"))))
	m.read(func(r *Reader) error {
		events, err := r.Events(sandbox, 0, 10)
		if err != nil {
			return err
		}
		var got []string
		for _, ev := range events {
			got = append(got, fmt.Sprintf("%s %s %s %s %s", ev.Provider, ev.ID, ev.Type, ev.Outcome, ev.Revision))
		}
		want := []string{"latchkey create-acc_1 account.created recorded 1-1", "latchkey corr-2 grant.created recorded 1-2", "stripe evt_1 test.event recorded 1-3"}
		if !slices.Equal(got, want) {
			t.Errorf("audit trail\n got %q\nwant %q", got, want)
		}
		for _, tt := range []struct{ after, want uint64 }{{0, 0}, {1, 1}, {2, 2}, {3, 3}, {9, 3}} {
			if seq, err := r.SeqAfter(sandbox, replication.Revision{Epoch: 1, N: tt.after}); err != nil || seq != tt.want {
				t.Errorf("cursor after revision %d: %d, %v; want %d", tt.after, seq, err, tt.want)
			}
		}
		for _, tt := range []struct {
			before uint64
			limit  int
			want   []uint64 // Seq
		}{{0, 10, []uint64{3, 2, 1}}, {0, 2, []uint64{3, 2}}, {2, 10, []uint64{1}}, {1, 10, nil}, {9, 1, []uint64{3}}} {
			back, err := r.EventsBefore(sandbox, tt.before, tt.limit)
			var got []uint64
			for _, ev := range back {
				got = append(got, ev.Seq-events[0].Seq+1)
			}
			if err != nil || !slices.Equal(got, tt.want) {
				t.Errorf("the last %d before %d: %v, %v; want %v", tt.limit, tt.before, got, err, tt.want)
			}
		}
		if found, err := r.EventsBefore(entitlement.Production, 0, 10); err != nil || len(found) != 0 {
			t.Errorf("production shows %d events of sandbox, %v", len(found), err)
		}
		if found, err := r.Events(entitlement.Production, 0, 10); err != nil || len(found) != 0 {
			t.Errorf("production shows %d events of sandbox, %v", len(found), err)
		}
		return nil
	})
	s := &Store{fsm: m.fsm}
	m.read(func(r *Reader) error {
		found, err := r.Event(sandbox, entitlement.Stripe, "evt_1")
		if err != nil || len(found) != 1 {
			t.Fatalf("%d events, %v", len(found), err)
		}
		content, err := s.EventContent(found[0])
		if err != nil || string(content.Raw) != `{"id":"evt_1"}` || len(content.Objects) != 1 {
			t.Errorf("content %+v, %v", content, err)
		}
		return nil
	})
}

func TestPolicyFoldsEveryPurchaseAgain(t *testing.T) {
	m := newMachine(t, 1<<20)
	m.apply(create("acc_1"))
	m.apply(record(event("evt_1", subscription("sub_1", 1, entitlement.PastDue, "acc_1"), invoice("in_1", "sub_1", "pi_1", 1, entitlement.InvoicePaid))))
	m.apply(record(event("evt_2", subscription("sub_2", 1, entitlement.PastDue, "acc_1"), invoice("in_2", "sub_2", "pi_2", 1, entitlement.InvoicePaid))))
	before := m.account("acc_1").Purchases
	r := m.apply(NewCommand(TypePutPolicy, sandbox, "c", &PutPolicy{Policy: entitlement.Policy{BillingGrace: map[entitlement.Provider]int64{entitlement.Stripe: day}}}))
	for i, after := range m.account("acc_1").Purchases {
		if before, after := before[i].Items[0].AccessUntil, after.Items[0].AccessUntil; before-after != 6*day {
			t.Errorf("purchase %d: access until %d, then %d: want 6 days less", i, before, after)
		}
	}
	if r.Revision.N != m.state.N || m.state.N != 6 {
		t.Errorf("revision %s of %d", r.Revision, m.state.N)
	}
	m.check()
}

func TestCatalogKeepsWhatItRetires(t *testing.T) {
	m := newMachine(t, 1<<20)
	product := func(id entitlement.ProductID) entitlement.Product {
		return entitlement.Product{Provider: entitlement.Stripe, ID: id, Kind: entitlement.KindRecurring, Entitlements: []string{"pro"}}
	}
	m.apply(NewCommand(TypePutCatalog, sandbox, "a", &PutCatalog{Catalog: entitlement.Catalog{Products: []entitlement.Product{product("price_1")}}}))
	m.apply(NewCommand(TypePutCatalog, sandbox, "b", &PutCatalog{Catalog: entitlement.Catalog{Products: []entitlement.Product{product("price_2")}}}))
	m.read(func(r *Reader) error {
		c, err := r.Catalog(sandbox)
		if len(c.Products) != 2 || !c.Products[0].Retired && !c.Products[1].Retired {
			t.Errorf("catalog %+v", c)
		}
		return err
	})
	if m.state.N != 2 {
		t.Errorf("%d changes, want 2", m.state.N)
	}
	m.check()
}

func TestAPIKeys(t *testing.T) {
	m := newMachine(t, 1<<20)
	hash := bytes.Repeat([]byte{7}, 32)
	add := NewCommand(TypeAddAPIKey, sandbox, "", &AddAPIKey{Hash: hash, Name: "backend", Scope: "sk"})
	m.apply(add)
	m.apply(NewCommand(TypeTouchAPIKeys, "", "", &TouchAPIKeys{LastUsed: map[string]int64{hex.EncodeToString(hash): startTime + 5, "zz": 1}}))
	m.apply(NewCommand(TypeRevokeAPIKey, sandbox, "", &RevokeAPIKey{Name: "backend"}))
	if r := m.apply(add); !r.Existing {
		t.Errorf("added again: %+v", r)
	}
	if r := m.apply(NewCommand(TypeRevokeAPIKey, entitlement.Production, "", &RevokeAPIKey{Name: "backend"})); slugOf(r) != SlugNotFound {
		t.Errorf("revoked in the other environment: %+v", r)
	}
	m.read(func(r *Reader) error {
		k, ok, err := r.APIKey(hash)
		if !ok || k.RevokedAt != startTime || k.LastUsed != startTime+5 || k.Scope != "sk" {
			t.Errorf("key %+v, %t", k, ok)
		}
		return err
	})
	m.check()
}

func TestRaisingTheEpochDropsTheChangeLogAndKeepsTheRevision(t *testing.T) {
	m := newMachine(t, 1<<20)
	m.apply(create("acc_1"))
	m.apply(create("acc_2"))
	m.apply(NewCommand(TypeRaiseEpoch, "", "", &RaiseEpoch{Cause: "restore"}))
	if m.state.Epoch != uint64(startTime) || m.state.N != 2 || m.state.Floor != 2 || m.state.ChangeBytes != 0 {
		t.Errorf("state %+v", m.state)
	}
	m.apply(NewCommand(TypeRaiseEpoch, "", "", &RaiseEpoch{}))
	if m.state.Epoch != uint64(startTime)+1 {
		t.Errorf("epoch %d, want the old one + 1", m.state.Epoch)
	}
	if r := m.apply(create("acc_3")); r.Revision.N != 3 {
		t.Errorf("revision %s", r.Revision)
	}
	m.check()
}

func TestOldIdempotencyRowsGo(t *testing.T) {
	m := newMachine(t, 1<<20)
	for i := range 20 {
		m.apply(create(entitlement.AccountID(fmt.Sprintf("acc_%02d", i))))
	}
	for range 4 {
		m.apply(later(day, record(event("evt_1"))))
	}
	m.read(func(r *Reader) error {
		for _, name := range [][]byte{bucketIdempotency, bucketIdemOrder} {
			if k, _ := r.tx.Bucket(name).Cursor().First(); k != nil {
				t.Errorf("rows left in %s", name)
			}
		}
		return nil
	})
	m.check()
}

func TestACorruptRecordIsNeverReadOrBuiltUpon(t *testing.T) {
	m := newMachine(t, 1<<20)
	m.apply(create("acc_1"))
	tx, err := m.db.Begin(true)
	if err != nil {
		t.Fatal(err)
	}
	key := replication.AppendDBKey(nil, sandbox, replication.KindAccount, "acc_1")
	stored := bytes.Clone(tx.Bucket(bucketRecords).Get(key))
	stored[len(stored)-1] ^= 1
	if err := errors.Join(tx.Bucket(bucketRecords).Put(key, stored), tx.Commit()); err != nil {
		t.Fatal(err)
	}
	err = m.view(func(r *Reader) error {
		_, _, err := r.Account(sandbox, "acc_1")
		return err
	})
	if !errors.Is(err, replication.ErrCorrupt) {
		t.Errorf("read: %v, want ErrCorrupt", err)
	}
	if _, err := verifyState(m.db); !errors.Is(err, replication.ErrCorrupt) {
		t.Errorf("verify: %v, want ErrCorrupt", err)
	}
	c := record(event("evt_1", subscription("sub_1", 1, entitlement.Active, "acc_1")))
	if got := m.ApplyBatch([]*raft.Log{{Index: 99, Type: raft.LogCommand, Data: c.Encode()}})[0]; got != nil || !errors.Is(m.fault, replication.ErrCorrupt) {
		t.Errorf("apply: %v, fault %v; want none and ErrCorrupt", got, m.fault)
	}
}

func TestACommandOfANewerVersionEndsTheProcess(t *testing.T) {
	for name, entry := range map[string][]byte{
		"a type that is not known": NewCommand(99, "", "", &Init{}).Encode(),
		"a version that is not known": func() []byte {
			b := create("acc_1").Encode()
			b[0] = 9
			return b
		}(),
	} {
		t.Run(name, func(t *testing.T) {
			m := newMachine(t, 1<<20)
			if got := m.ApplyBatch([]*raft.Log{{Index: 99, Type: raft.LogCommand, Data: entry}})[0]; got != nil || !errors.Is(m.fault, errUnknownCommand) {
				t.Errorf("response %v, fault %v", got, m.fault)
			}
			if got := m.ApplyBatch([]*raft.Log{{Index: 100, Type: raft.LogCommand, Data: create("acc_1").Encode()}})[0]; got != nil {
				t.Errorf("a broken state machine answered %v", got)
			}
		})
	}
}
