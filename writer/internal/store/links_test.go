package store

import (
	"bytes"
	"slices"
	"testing"

	"github.com/latchkey/latchkey/pkg/entitlement"
)

func linkHash(name string) []byte { return bytes.Repeat([]byte(name), linkHashBytes) }

func putLink(name string, body PutLink) Command {
	body.Hash = linkHash(name)
	return NewCommand(TypePutLink, sandbox, "", &body)
}

func redeem(name string, body RedeemLink) Command {
	body.Hash = linkHash(name)
	return NewCommand(TypeRedeemLink, sandbox, "", &body)
}

// Whoever has the link becomes the account that it leads to, once, and an anonymous one brings along what it has.
func TestRedeemLink(t *testing.T) {
	known, begun := create("acc_known"), login(Login{New: "acc_anon"})
	bought := record(event("evt_1", subscription("sub_1", 10, entitlement.Active, "acc_anon")))
	waits := record(event("evt_1", subscription("sub_1", 10, entitlement.Active, "", customer("cus_9"))))
	toKnown, toWaiting := putLink("a", PutLink{Account: "acc_known", TTLSeconds: 900}), putLink("a", PutLink{Purchase: "stripe:sub_1", TTLSeconds: 900})
	anon := RedeemLink{From: session("acc_anon"), Merge: "merge_1"}
	moved := []entitlement.PurchaseID{"stripe:sub_1"}
	mailed, some := putLink("a", PutLink{Account: "acc_known", TTLSeconds: 900, Index: bytes.Repeat([]byte("x"), contactIndexBytes)}), RedeemLink{From: session("acc_some"), Merge: "merge_1"}
	tests := []struct {
		name   string
		before []Command
		link   string
		body   RedeemLink
		late   int64 // seconds after the link was made
		want   Result
		slug   string
	}{
		{"an anonymous account is merged in", []Command{known, begun, bought, toKnown}, "a", anon, 0, Result{Account: "acc_known", Merge: "merge_1", Moved: moved}, ""},
		{"the same one again", []Command{known, begun, bought, toKnown, redeem("a", anon)}, "a", RedeemLink{From: session("acc_anon"), Merge: "merge_2"}, 0, Result{Account: "acc_known", Merge: "merge_1", Moved: moved}, ""},
		{"again after the link's end", []Command{known, begun, bought, toKnown, redeem("a", anon)}, "a", RedeemLink{From: session("acc_anon"), Merge: "merge_2"}, 1000, Result{Account: "acc_known", Merge: "merge_1", Moved: moved}, ""},
		{"again with the session that it gave", []Command{known, begun, bought, toKnown, redeem("a", anon)}, "a", RedeemLink{From: session("acc_known"), Merge: "merge_2"}, 0, Result{Account: "acc_known", Merge: "merge_1", Moved: moved}, ""},
		{"another one", []Command{known, begun, toKnown, redeem("a", anon), login(Login{New: "acc_two"})}, "a", RedeemLink{From: session("acc_two"), Merge: "merge_2"}, 0, Result{}, SlugLinkUsed},
		{"of somebody nothing moves", []Command{known, create("acc_some"), toKnown}, "a", RedeemLink{From: session("acc_some"), Merge: "merge_1"}, 0, Result{Account: "acc_known"}, ""},
		{"all that is merged with an anonymous account comes along", []Command{known, begun, login(Login{New: "acc_x"}), login(Login{New: "acc_y"}), record(event("evt_1", subscription("sub_1", 10, entitlement.Active, "acc_x"))),
			mergeOf("merge_0", "acc_anon", "acc_x"), mergeOf("merge_00", "acc_y", "acc_x"), toKnown}, "a", anon, 0, Result{Account: "acc_known", Merge: "merge_1", Moved: moved}, ""},
		{"and all that is merged with somebody who has the address", []Command{known, create("acc_some"), create("acc_x"), putContact("acc_x", "x"), putContact("acc_known", "x"), record(event("evt_1", subscription("sub_1", 10, entitlement.Active, "acc_x"))),
			mergeOf("merge_0", "acc_some", "acc_x"), mailed}, "a", some, 0, Result{Account: "acc_known", Merge: "merge_1", Moved: moved}, ""},
		{"nor of an anonymous account that somebody's was merged into", []Command{known, begun, bought, create("acc_some", *subjectAlias("bob")), mergeOf("merge_0", "acc_some", "acc_anon"), toKnown}, "a", anon, 0, Result{Account: "acc_known"}, ""},
		{"of somebody who has the address to which the link was mailed, it is one person", []Command{known, create("acc_some"), putContact("acc_some", "x"), putContact("acc_known", "x"), mailed}, "a", some, 0,
			Result{Account: "acc_known", Merge: "merge_1"}, ""},
		{"mailed to an address that the one had before", []Command{known, create("acc_some"), putContact("acc_some", "x"), putContact("acc_some", "y"), putContact("acc_known", "x"), mailed}, "a", some, 0, Result{Account: "acc_known"}, ""},
		{"mailed to an address that the link's account has not", []Command{known, create("acc_some"), putContact("acc_some", "x"), putContact("acc_known", "y"), mailed}, "a", some, 0, Result{Account: "acc_known"}, ""},
		{"mailed by the backend itself, which proves no address", []Command{known, create("acc_some"), putContact("acc_some", "x"), putContact("acc_known", "x"), toKnown}, "a", some, 0, Result{Account: "acc_known"}, ""},
		{"an address that came by a merge", []Command{known, create("acc_some"), create("acc_old"), putContact("acc_old", "x"), mergeOf("merge_0", "acc_old", "acc_known"), putContact("acc_some", "x"), mailed}, "a", some, 0,
			Result{Account: "acc_known", Merge: "merge_1"}, ""},
		{"a backend, for the link's account", []Command{known, toKnown}, "a", RedeemLink{Merge: "merge_1"}, 0, Result{Account: "acc_known"}, ""},
		{"a backend, for an anonymous one", []Command{known, begun, toKnown}, "a", RedeemLink{Account: "acc_anon", Merge: "merge_1"}, 0, Result{Account: "acc_known", Merge: "merge_1"}, ""},
		{"a purchase that waits", []Command{begun, waits, toWaiting}, "a", anon, 0, Result{Account: "acc_anon", Moved: moved}, ""},
		{"the same purchase again", []Command{begun, waits, toWaiting, redeem("a", anon)}, "a", anon, 0, Result{Account: "acc_anon", Moved: moved}, ""},
		{"a purchase that another link gave away", []Command{begun, known, waits, toWaiting, putLink("b", PutLink{Purchase: "stripe:sub_1", TTLSeconds: 900}), redeem("b", RedeemLink{Account: "acc_known", Merge: "m"})},
			"a", anon, 0, Result{}, SlugAliasTaken},
		{"a purchase for nobody", []Command{waits, toWaiting}, "a", RedeemLink{Merge: "merge_1"}, 0, Result{}, SlugInvalidRequest},
		{"in its last second", []Command{known, begun, toKnown}, "a", anon, 899, Result{Account: "acc_known", Merge: "merge_1"}, ""},
		{"at its end", []Command{known, begun, toKnown}, "a", anon, 900, Result{}, SlugLinkExpired},
		{"a token of nobody", []Command{known, begun, toKnown}, "b", anon, 0, Result{}, SlugNotFound},
		{"an account of nobody", []Command{known, toKnown}, "a", RedeemLink{Account: "acc_x", Merge: "m"}, 0, Result{}, SlugNotFound},
		{"a session that was ended", []Command{known, begun, toKnown, NewCommand(TypeEndSessions, sandbox, "", &EndSessions{Account: "acc_anon"})}, "a", anon, 0, Result{}, SlugSessionEnded},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m := newMachine(t, 1<<20)
			for _, c := range tt.before {
				c.Stamp = startTime
				if got := m.apply(c); got.Rejection != nil {
					t.Fatalf("%d: %+v", c.Type, got.Rejection)
				}
			}
			c := redeem(tt.link, tt.body)
			c.Stamp = startTime + tt.late
			got := m.apply(c)
			m.check()
			if got.Account != tt.want.Account || got.Merge != tt.want.Merge || !slices.Equal(got.Moved, tt.want.Moved) || slugOf(got) != tt.slug {
				t.Fatalf("redeem = %+v %+v, want %+v %s", got, got.Rejection, tt.want, tt.slug)
			}
			for _, id := range tt.want.Moved {
				if a := m.account(got.Account); len(a.Purchases) != 1 || a.Purchases[0].ID != id {
					t.Errorf("%s has %+v, want %s", got.Account, a.Purchases, id)
				}
			}
		})
	}
}

// Support has said that two who have one address are two people. A link that one of them opens is a switch, until somebody has the address of whom support has said nothing.
func TestALinkMergesNobodyWhomSupportSaidToBeAnother(t *testing.T) {
	third := []Command{create("acc_3", *subjectAlias("eve")), putContact("acc_3", "x")}
	tests := []struct {
		name  string
		said  string // the address that is dismissed
		since []Command
		comes bool
	}{
		{"nothing was said", "", nil, true},
		{"they are two", "x", nil, false},
		{"they are two who have another address", "y", nil, true},
		{"one gave the address up and has it again", "x", []Command{putContact("acc_bob", ""), putContact("acc_bob", "x")}, false},
		{"one is merged into somebody without the address", "x", []Command{create("acc_3"), mergeOf("merge_0", "acc_bob", "acc_3")}, false},
		{"the other one is", "x", []Command{create("acc_3"), mergeOf("merge_0", "acc_ann", "acc_3")}, false},
		{"one is merged with somebody who has the address since", "x", append(slices.Clone(third), mergeOf("merge_0", "acc_3", "acc_bob")), true},
		{"the other one is, and with them support judged again", "x", append(slices.Clone(third), mergeOf("merge_0", "acc_3", "acc_ann"), Command{}), false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m := newMachine(t, 1<<20)
			apply := func(c Command) Result {
				t.Helper()
				if c.Type == 0 {
					c = dismiss(m, tt.said)
				}
				got := m.apply(c)
				if got.Rejection != nil {
					t.Fatalf("%d: %+v", c.Type, got.Rejection)
				}
				return got
			}
			for _, c := range []Command{create("acc_ann", *subjectAlias("ann")), create("acc_bob", *subjectAlias("bob")), record(event("evt_1", subscription("sub_1", 10, entitlement.Active, "acc_bob")))} {
				apply(c)
			}
			if tt.said == "y" {
				for _, c := range []Command{putContact("acc_ann", "y"), putContact("acc_bob", "y"), {}} {
					apply(c)
				}
			}
			for _, c := range []Command{putContact("acc_ann", "x"), putContact("acc_bob", "x"), putLink("a", PutLink{Account: "acc_ann", TTLSeconds: 900, Index: bytes.Repeat([]byte("x"), contactIndexBytes)})} {
				apply(c)
			}
			if tt.said == "x" {
				apply(Command{})
			}
			for _, c := range tt.since {
				apply(c)
			}
			got := apply(redeem("a", RedeemLink{From: session("acc_bob"), Merge: "merge_1"}))
			m.check()
			if has := len(m.account("acc_ann").Purchases) == 1; got.Account != "acc_ann" || (got.Merge != "") != tt.comes || has != tt.comes {
				t.Errorf("redeem = %+v; acc_ann has the purchase: %t, want %t", got, has, tt.comes)
			}
		})
	}
}

func TestLinksThatLeadNowhereAreRefused(t *testing.T) {
	m := newMachine(t, 1<<20)
	m.apply(create("acc_1"))
	m.apply(record(event("evt_1", subscription("sub_1", 10, entitlement.Active, "acc_1"))))
	for name, tt := range map[string]struct {
		body PutLink
		slug string
	}{
		"to nobody":           {PutLink{Account: "acc_x", TTLSeconds: 60}, SlugNotFound},
		"to no purchase":      {PutLink{Purchase: "stripe:sub_x", TTLSeconds: 60}, SlugNotFound},
		"to somebody's":       {PutLink{Purchase: "stripe:sub_1", TTLSeconds: 60}, SlugAliasTaken},
		"to two":              {PutLink{Account: "acc_1", Purchase: "stripe:sub_1", TTLSeconds: 60}, SlugInvalidRequest},
		"to none":             {PutLink{TTLSeconds: 60}, SlugInvalidRequest},
		"that has ended":      {PutLink{Account: "acc_1"}, SlugInvalidRequest},
		"that lives for ages": {PutLink{Account: "acc_1", TTLSeconds: maxLinkSeconds + 1}, SlugInvalidRequest},
	} {
		if got := m.apply(putLink("a", tt.body)); slugOf(got) != tt.slug {
			t.Errorf("a link %s = %+v, want %s", name, got.Rejection, tt.slug)
		}
	}
	m.check()
}

// Links do not pile up: a month after its end one is forgotten.
func TestOldLinksAreForgotten(t *testing.T) {
	m := newMachine(t, 1<<20)
	m.apply(create("acc_1"))
	put := func(name string, at int64) {
		c := putLink(name, PutLink{Account: "acc_1", TTLSeconds: 60, Mailed: true, Personal: []Sealed{sealedText(LinkText(linkHash(name)))}})
		c.Stamp = startTime + at
		m.apply(c)
	}
	rows := func() (n int) {
		m.read(func(r *Reader) error {
			n = r.tx.Bucket(bucketLinkTokens).Stats().KeyN
			if due := r.tx.Bucket(bucketLinksDue).Stats().KeyN; due != n {
				t.Errorf("%d links, %d of them go some day", n, due)
			}
			if mailed, texts := r.tx.Bucket(bucketLinksMailed).Stats().KeyN, len(r.Personal(sandbox, "acc_1")); mailed != n || texts != n {
				t.Errorf("%d links, of %d there is an address, by %d rows", n, texts, mailed)
			}
			return nil
		})
		return n
	}
	put("a", 0)
	put("b", 60+keptLinkSeconds-1)
	if n := rows(); n != 2 {
		t.Errorf("%d links before the first one's time has passed, want 2", n)
	}
	put("c", 60+keptLinkSeconds)
	if n := rows(); n != 2 {
		t.Errorf("%d links after it, want 2", n)
	}
	m.check()
}

// addressesOfLinks counts what is kept of the addresses to which links were mailed: sealed texts, indexes in links, and rows that find such links.
func (m *machine) addressesOfLinks(holders ...entitlement.AccountID) (texts, indexes, mailed int) {
	m.read(func(r *Reader) error {
		mailed = r.tx.Bucket(bucketLinksMailed).Stats().KeyN
		return r.tx.Bucket(bucketLinkTokens).ForEach(func(_, value []byte) error {
			var row linkRow
			err := entitlement.Decode(value, &row)
			if row.addressed() {
				indexes++
			}
			return err
		})
	})
	return m.texts(holders...), indexes, mailed
}

// The address to which a link to a payment was mailed is kept while the payment waits, under the payment's id: from then on nobody needs it, and no erasure
// of whoever has the payment would find it there.
func TestAddressesOfLinksToAPaymentGoWhenItIsSomebodys(t *testing.T) {
	mailed := func(name string, ttl int64) Command {
		return putLink(name, PutLink{Purchase: "stripe:sub_1", TTLSeconds: ttl, Mailed: true, Index: make([]byte, contactIndexBytes), Personal: []Sealed{sealedText(LinkText(linkHash(name)))}})
	}
	waits := subscription("sub_1", 10, entitlement.Active, "", customer("cus_1"))
	tests := map[string][]Command{
		"by support":         {create("acc_1"), NewCommand(TypeRestore, sandbox, "", &RestorePurchase{Account: "acc_1", Purchase: "stripe:sub_1", Support: true})},
		"by a receipt":       {create("acc_1"), NewCommand(TypeClaim, sandbox, "", &ClaimPurchase{Account: "acc_1", Purchase: "stripe:sub_1"})},
		"by an alias":        {create("acc_1", customer("cus_1"))},
		"by a message":       {create("acc_1"), record(event("evt_2", subscription("sub_1", 20, entitlement.Active, "acc_1")))},
		"by another link":    {create("acc_1"), putLink("b", PutLink{Purchase: "stripe:sub_1", TTLSeconds: 60}), redeem("b", RedeemLink{Account: "acc_1"})},
		"by the link itself": {create("acc_1"), redeem("a", RedeemLink{Account: "acc_1"})},
		"by the name of an account that was erased": {create("acc_2", customer("cus_2")), erase("acc_2"), create("acc_1"),
			record(event("evt_2", subscription("sub_1", 20, entitlement.Active, "", customer("cus_2"))))},
	}
	for name, gets := range tests {
		t.Run(name, func(t *testing.T) {
			m := newMachine(t, 1<<20)
			for _, c := range append([]Command{record(event("evt_1", waits)), mailed("a", 900), mailed("c", 900)}, gets...) {
				if got := m.apply(c); got.Rejection != nil {
					t.Fatalf("command %d: %+v", c.Type, got.Rejection)
				}
			}
			m.check()
			if texts, indexes, rows := m.addressesOfLinks("stripe:sub_1"); texts != 0 || indexes != 0 || rows != 0 {
				t.Errorf("of the addresses there are %d texts, %d indexes, %d rows", texts, indexes, rows)
			}
		})
	}
	t.Run("by a link that was mailed for one that came too late", func(t *testing.T) {
		m := newMachine(t, 1<<20)
		m.apply(record(event("evt_1", waits)))
		m.apply(mailed("a", 60))
		m.apply(create("acc_1"))
		m.now += 100
		if got := m.apply(redeem("a", RedeemLink{Account: "acc_1", Renew: linkHash("b")})); got.Renewed == nil {
			t.Fatalf("redeemed too late = %+v", got)
		}
		if texts, indexes, rows := m.addressesOfLinks("stripe:sub_1"); texts != 2 || indexes != 2 || rows != 2 {
			t.Fatalf("while both wait there are %d texts, %d indexes, %d rows, want 2 of each", texts, indexes, rows)
		}
		if got := m.apply(redeem("b", RedeemLink{Account: "acc_1"})); got.Rejection != nil {
			t.Fatalf("redeemed = %+v", got.Rejection)
		}
		m.check()
		if texts, indexes, rows := m.addressesOfLinks("stripe:sub_1"); texts != 0 || indexes != 0 || rows != 0 {
			t.Errorf("of the addresses there are %d texts, %d indexes, %d rows", texts, indexes, rows)
		}
	})
}

// What links to an account keep of addresses goes with the account, and of one that was redeemed at once.
func TestAddressesOfLinksToAnAccountGoWithIt(t *testing.T) {
	for name, ends := range map[string]Command{"erased": erase("acc_1"), "redeemed": redeem("a", RedeemLink{})} {
		t.Run(name, func(t *testing.T) {
			m := newMachine(t, 1<<20)
			m.apply(create("acc_1"))
			m.apply(putLink("a", PutLink{Account: "acc_1", TTLSeconds: 900, Mailed: true, Index: make([]byte, contactIndexBytes), Personal: []Sealed{sealedText(LinkText(linkHash("a")))}}))
			if texts, indexes, rows := m.addressesOfLinks("acc_1"); texts != 1 || indexes != 1 || rows != 1 {
				t.Fatalf("before there are %d texts, %d indexes, %d rows, want 1 of each", texts, indexes, rows)
			}
			if got := m.apply(ends); got.Rejection != nil {
				t.Fatalf("%+v", got.Rejection)
			}
			m.check()
			if texts, indexes, rows := m.addressesOfLinks("acc_1"); texts != 0 || indexes != 0 || rows != 0 {
				t.Errorf("of the address there are %d texts, %d indexes, %d rows", texts, indexes, rows)
			}
		})
	}
}

// A mailed link that came too late is replaced, at most so often, and not where it leads nowhere any more or was used.
func TestRenewLink(t *testing.T) {
	known, begun := create("acc_known"), login(Login{New: "acc_anon"})
	waits := record(event("evt_1", subscription("sub_1", 10, entitlement.Active, "", customer("cus_9"))))
	mailed := putLink("a", PutLink{Account: "acc_known", TTLSeconds: 900, Mailed: true, Personal: []Sealed{{LinkText(linkHash("a")), []byte("sealed")}}})
	paid := putLink("a", PutLink{Purchase: "stripe:sub_1", TTLSeconds: 900, Mailed: true, Personal: []Sealed{{LinkText(linkHash("a")), []byte("sealed")}}})
	late := func(at int64, hash string) Command {
		c := redeem("a", RedeemLink{From: session("acc_anon"), Merge: "m", Renew: linkHash(hash)})
		c.Stamp = startTime + at
		return c
	}
	var often []Command
	for i := range int64(maxRelinks) {
		often = append(often, late(900+i*RelinkSeconds, string(rune('A'+i))))
	}
	tests := []struct {
		name   string
		before []Command
		redeem Command
		renews bool
	}{
		{"one that was mailed", []Command{known, begun, mailed}, late(900, "b"), true},
		{"to a payment that waits", []Command{begun, waits, paid}, late(900, "b"), true},
		{"to a payment that somebody has by now", []Command{known, begun, waits, paid, NewCommand(TypeClaim, sandbox, "", &ClaimPurchase{Account: "acc_known", Purchase: "stripe:sub_1"})}, late(900, "b"), false},
		{"nobody mails", []Command{known, begun, mailed}, late(900, ""), false},
		{"it was not mailed", []Command{known, begun, putLink("a", PutLink{Account: "acc_known", TTLSeconds: 900})}, late(900, "b"), false},
		{"too soon after another", []Command{known, begun, mailed, late(900, "b")}, late(900+RelinkSeconds-1, "c"), false},
		{"long after another", []Command{known, begun, mailed, late(900, "b")}, late(900+RelinkSeconds, "c"), true},
		{"too often", append([]Command{known, begun, mailed}, often...), late(1_000_000, "z"), false},
		{"under a hash that is taken", []Command{known, begun, mailed, putLink("b", PutLink{Account: "acc_known", TTLSeconds: 60})}, late(900, "b"), false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m := newMachine(t, 1<<20)
			for _, c := range tt.before {
				c.Stamp = max(c.Stamp, startTime)
				if got := m.apply(c); got.Rejection != nil {
					t.Fatalf("%d: %+v", c.Type, got.Rejection)
				}
			}
			got := m.apply(tt.redeem)
			m.check()
			if (got.Renewed != nil) != tt.renews || !tt.renews && slugOf(got) != SlugLinkExpired {
				t.Fatalf("redeem = %+v %+v, want a new link %t", got, got.Rejection, tt.renews)
			}
			if !tt.renews {
				return
			}
			var body RedeemLink
			if err := entitlement.Decode(tt.redeem.Body, &body); err != nil {
				t.Fatal(err)
			}
			body.Hash = body.Renew
			c := NewCommand(TypeRedeemLink, sandbox, "", &body)
			c.Stamp = tt.redeem.Stamp + 899
			address := func() (text string) {
				m.read(func(r *Reader) error {
					text = string(r.LinkAddress(sandbox, got.Renewed))
					return nil
				})
				return text
			}
			if text := address(); text != "sealed" {
				t.Errorf("the new link goes to %q", text)
			}
			if used := m.apply(c); used.Rejection != nil || address() != "" {
				t.Errorf("the new link for %+v = %+v, its address %q afterwards", got.Renewed, used.Rejection, address())
			}
			m.check()
		})
	}
}
