package store

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"

	"github.com/latchkey/latchkey/pkg/entitlement"
)

// courses is a catalog of one package, which is delivered by code.
func courses() Command {
	return NewCommand(TypePutCatalog, sandbox, "", &PutCatalog{Catalog: entitlement.Catalog{Products: []entitlement.Product{
		{Provider: entitlement.Apple, ID: "course", Kind: entitlement.KindPackage, Accesses: []entitlement.ModuleAccess{{Module: "algebra", DurationDays: 30}, {Module: "logic"}},
			Deliver: entitlement.DeliverCode, Stack: entitlement.StackExtend},
		{Provider: entitlement.Apple, ID: "pro", Kind: entitlement.KindNonConsumable, Entitlements: []string{"pro"}}}}})
}

// sale is one sale of the course to nobody whom we know, n of it, taken back or not.
func sale(id string, n int64, refunded bool) Command {
	at := int64(startTime - 100)
	tx := &entitlement.Transaction{Sold: entitlement.Sold{Product: "course", Quantity: n}, StartsAt: at, Store: entitlement.AppStore}
	name := "buy-" + id
	if refunded {
		tx.RevokedAt, name = at+60, "refund-"+id
		at += 60
	}
	ev := event(name, entitlement.Object{Kind: entitlement.KindTransaction, ID: id, By: entitlement.Apple, At: at * 1e9, Links: []entitlement.Link{entitlement.Link("apple:" + id)}, Transaction: tx})
	ev.Provider = entitlement.Apple
	return record(ev)
}

func codeHash(name string) []byte { return bytes.Repeat([]byte(name), codeHashBytes) }

// putCode makes the code "a" of id code_a.
func putCode(name string, body PutCode) Command {
	body.ID, body.Hash, body.Provider, body.Product = "code_"+name, codeHash(name), entitlement.Apple, "course"
	return NewCommand(TypePutCode, sandbox, "", &body)
}

func redeemCode(name string, by entitlement.AccountID) Command {
	return NewCommand(TypeRedeemCode, sandbox, "", &RedeemCode{Hash: codeHash(name), Account: by})
}

func revokeCode(name string) Command {
	return NewCommand(TypeRevokeCode, sandbox, "", &RevokeCode{ID: "code_" + name})
}

// algebra returns the entitlement that the course gives an account, the zero value for none.
func (m *machine) algebra(id entitlement.AccountID) entitlement.Entitlement {
	m.t.Helper()
	for _, e := range m.account(id).View(m.shop(), m.now, nil).Entitlements {
		if e.ID == "algebra" {
			return e
		}
	}
	return entitlement.Entitlement{}
}

func (m *machine) owed() []entitlement.PurchaseID {
	var ids []entitlement.PurchaseID
	m.read(func(r *Reader) error {
		list, err := r.OwedCodes(sandbox, "", 100)
		for _, o := range list {
			ids = append(ids, o.Purchase)
		}
		return err
	})
	return ids
}

// A code is good for one person, once; what it gives goes when the payment does.
func TestCodes(t *testing.T) {
	two := []Command{courses(), create("acc_1"), create("acc_2")}
	bought := append(slices.Clone(two), sale("1", 0, false), putCode("a", PutCode{Purchase: "apple:1"}))
	free := append(slices.Clone(two), putCode("a", PutCode{}))
	ends := append(slices.Clone(two), putCode("a", PutCode{ExpiresAt: startTime + 60}))
	tests := []struct {
		name   string
		before []Command
		last   Command
		slug   string
		status entitlement.Status // of algebra for acc_1; "" is none
	}{
		{"redeemed", free, redeemCode("a", "acc_1"), "", entitlement.StatusActive},
		{"redeemed again by its owner", append(slices.Clone(free), redeemCode("a", "acc_1")), redeemCode("a", "acc_1"), "", entitlement.StatusActive},
		{"redeemed again by another", append(slices.Clone(free), redeemCode("a", "acc_1")), redeemCode("a", "acc_2"), SlugCodeUsed, entitlement.StatusActive},
		{"redeemed again by who is the owner since", append(slices.Clone(free), redeemCode("a", "acc_1"), mergeOf("merge_1", "acc_1", "acc_2")), redeemCode("a", "acc_2"), "", entitlement.StatusActive},
		{"guessed", free, redeemCode("b", "acc_1"), SlugNotFound, ""},
		{"by nobody", free, redeemCode("a", "acc_9"), SlugNotFound, ""},
		{"in its last second", ends, later(59, redeemCode("a", "acc_1")), "", entitlement.StatusActive},
		{"at its end", ends, later(60, redeemCode("a", "acc_1")), SlugCodeExpired, ""},
		{"again after its end", append(slices.Clone(ends), redeemCode("a", "acc_1")), later(60, redeemCode("a", "acc_1")), "", entitlement.StatusActive},
		{"of another environment", free, NewCommand(TypeRedeemCode, entitlement.Production, "", &RedeemCode{Hash: codeHash("a"), Account: "acc_1"}), SlugNotFound, ""},
		{"bought", bought, redeemCode("a", "acc_1"), "", entitlement.StatusActive},
		{"refunded before it is redeemed", append(slices.Clone(bought), sale("1", 0, true)), redeemCode("a", "acc_1"), SlugCodeRevoked, ""},
		{"refunded after it was redeemed", append(slices.Clone(bought), redeemCode("a", "acc_1")), sale("1", 0, true), "", entitlement.StatusRefunded},
		{"refunded, and shown again by its owner", append(slices.Clone(bought), redeemCode("a", "acc_1"), sale("1", 0, true)), redeemCode("a", "acc_1"), SlugCodeRevoked, entitlement.StatusRefunded},
		{"revoked before it is redeemed", append(slices.Clone(free), revokeCode("a")), redeemCode("a", "acc_1"), SlugCodeRevoked, ""},
		{"revoked after it was redeemed", append(slices.Clone(free), redeemCode("a", "acc_1")), revokeCode("a"), "", entitlement.StatusRevoked},
		{"revoked, and its payment is heard of again", append(slices.Clone(bought), redeemCode("a", "acc_1"), revokeCode("a")), sale("1", 1, false), "", entitlement.StatusRevoked},
		{"revoked twice", append(slices.Clone(free), redeemCode("a", "acc_1"), revokeCode("a")), revokeCode("a"), "", entitlement.StatusRevoked},
		{"a code of nobody revoked", free, revokeCode("b"), SlugNotFound, ""},
		{"made for what the catalog does not list", two, NewCommand(TypePutCode, sandbox, "", &PutCode{ID: "code_a", Hash: codeHash("a"), Provider: entitlement.Apple, Product: "x"}), SlugInvalidRequest, ""},
		{"made for what is no package", two, NewCommand(TypePutCode, sandbox, "", &PutCode{ID: "code_a", Hash: codeHash("a"), Provider: entitlement.Apple, Product: "pro"}), SlugInvalidRequest, ""},
		{"made over another one", free, putCode("a", PutCode{}), SlugInvalidRequest, ""},
		{"made for a purchase of nobody", two, putCode("a", PutCode{Purchase: "apple:9"}), SlugNotFound, ""},
		{"made for a purchase that was refunded", append(slices.Clone(two), sale("1", 0, true)), putCode("a", PutCode{Purchase: "apple:1"}), SlugCodeRevoked, ""},
		{"made too late", two, putCode("a", PutCode{ExpiresAt: startTime}), SlugInvalidRequest, ""},
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
			if tt.last.Stamp == 0 {
				tt.last.Stamp = startTime
			}
			got := m.apply(tt.last)
			m.check()
			if slugOf(got) != tt.slug {
				t.Fatalf("got %+v, want %q", got.Rejection, tt.slug)
			}
			if e := m.algebra("acc_1"); e.Status != tt.status || e.Status == entitlement.StatusActive && got.Code != nil && e.AccessUntil != got.Code.RedeemedAt+30*day {
				t.Errorf("acc_1 has %+v, want %q", e, tt.status)
			}
			if tt.last.Type == TypeRedeemCode && tt.slug == "" {
				if got.Code == nil || len(got.Code.Accesses) != 2 || got.Code.RedeemedAt != startTime && tt.last.Stamp == startTime {
					t.Errorf("the answer is %+v", got.Code)
				}
			}
		})
	}
}

// The sale of a package is on the list of what is to be sent until its code was, or its money went back; twice as many are twice as long.
func TestASaleIsDeliveredByOneCode(t *testing.T) {
	m := newMachine(t, 1<<20)
	do := func(c Command, slug string) Result {
		t.Helper()
		got := m.apply(c)
		if m.check(); slugOf(got) != slug {
			t.Fatalf("%d: %+v, want %q", c.Type, got.Rejection, slug)
		}
		return got
	}
	owes := func(want ...entitlement.PurchaseID) {
		t.Helper()
		if got := m.owed(); !slices.Equal(got, want) {
			t.Fatalf("owed %v, want %v", got, want)
		}
	}
	unclaimed := func() (n int) {
		m.read(func(r *Reader) error {
			list, err := r.Unclaimed(sandbox, "", 10)
			n = len(list)
			return err
		})
		return n
	}
	do(create("acc_1"), "")
	do(sale("1", 2, false), "")
	do(sale("2", 1, false), "")
	owes("apple:1", "apple:2") // nobody knows yet what was sold
	do(courses(), "")
	owes("apple:1", "apple:2")
	do(sale("2", 1, true), "")
	owes("apple:1")
	do(putCode("a", PutCode{Purchase: "apple:1"}), "")
	owes("apple:1") // it is made and not sent
	if n := unclaimed(); n != 1 {
		t.Errorf("%d unclaimed, want 1: what was given back waits for nobody", n)
	}
	again := do(putCode("b", PutCode{Purchase: "apple:1", Delivered: true}), "")
	if !again.Existing || again.Code.ID != "code_a" {
		t.Errorf("the second code is %+v, want the first one", again.Code)
	}
	owes()
	if n := unclaimed(); n != 0 {
		t.Errorf("%d unclaimed, want 0: what was delivered waits for nobody", n)
	}
	do(redeemCode("b", "acc_1"), SlugNotFound)
	do(redeemCode("a", "acc_1"), "")
	if e := m.algebra("acc_1"); e.AccessUntil != e.ExpiresAt || e.AccessUntil != m.now+60*day {
		t.Errorf("two courses last until %d, want %d", e.AccessUntil, m.now+60*day)
	}
	do(NewCommand(TypePutCatalog, sandbox, "", &PutCatalog{}), "")
	owes()
}

// Whatever the order of a sale, its refund, the undoing of a merge and a redemption: nobody has what is not paid for, and the same messages give the same state.
func TestNoOrderOfMessagesKeepsWhatWasRefunded(t *testing.T) {
	var hashes [2]map[string]bool // by whether the code was redeemed
	hashes[0], hashes[1] = map[string]bool{}, map[string]bool{}
	steps := []string{"sale", "refund", "code", "redeem", "sale again"}
	for seed := range uint64(60) {
		r := rand.New(rand.NewPCG(seed, 7))
		m := newMachine(t, 1<<20)
		m.applyAll([]Command{courses(), create("acc_1"), create("acc_2")})
		order := slices.Clone(steps)
		r.Shuffle(len(order), func(i, j int) { order[i], order[j] = order[j], order[i] })
		redeemedIt := 0
		for _, step := range order {
			var c Command
			switch step {
			case "sale", "sale again":
				c = sale("1", 0, false)
			case "refund":
				c = sale("1", 0, true)
			case "code":
				c = putCode("a", PutCode{Purchase: "apple:1"})
			case "redeem":
				c = redeemCode("a", "acc_1")
			}
			c.Stamp = startTime
			if got := m.apply(c); step == "redeem" && got.Rejection == nil {
				redeemedIt = 1
			}
			m.check()
		}
		if e := m.algebra("acc_1"); e.Status.Active() || (redeemedIt == 1) != (e.Status == entitlement.StatusRefunded) {
			t.Fatalf("%v: %+v, redeemed %d", order, e, redeemedIt)
		}
		hashes[redeemedIt][fmt.Sprintf("%x", m.state.StateHash)] = true
	}
	if len(hashes[0]) != 1 || len(hashes[1]) != 1 {
		t.Errorf("%d state hashes without a redemption and %d with one, want one each", len(hashes[0]), len(hashes[1]))
	}
}

// Random sales, refunds, codes, redemptions, merges and their undoing: each account has what its codes give that are paid for, and together they have the union (R70).
func TestRedeemedAccessesAreTheLedgers(t *testing.T) {
	for seed := range uint64(3) {
		r := rand.New(rand.NewPCG(seed, 9))
		m := newMachine(t, 64<<20)
		m.applyAll([]Command{courses(), create("acc_1"), create("acc_2")})
		const sales = 12
		var refunded, there, made, revoked [sales]bool
		var by [sales]entitlement.AccountID
		merged := false
		for op := range 400 {
			n := r.IntN(sales)
			id, name := fmt.Sprintf("%02d", n), string(rune('a'+n))
			switch r.IntN(8) {
			case 0, 1:
				m.apply(sale(id, 0, false))
				there[n] = true
			case 2:
				if r.IntN(4) == 0 {
					m.apply(sale(id, 0, true))
					there[n], refunded[n] = true, true
				}
			case 3:
				got := m.apply(putCode(name, PutCode{Purchase: entitlement.PurchaseID("apple:" + id)}))
				if ok := there[n] && (made[n] || !refunded[n]); (got.Rejection == nil) != ok {
					t.Fatalf("seed %d, step %d: %+v, want made %t", seed, op, got.Rejection, ok)
				}
				made[n] = made[n] || got.Rejection == nil
			case 4, 5:
				who := []entitlement.AccountID{"acc_1", "acc_2"}[r.IntN(2)]
				got := m.apply(redeemCode(name, who))
				ok := made[n] && !refunded[n] && !revoked[n] && (by[n] == "" || by[n] == who || merged)
				if (got.Rejection == nil) != ok {
					t.Fatalf("seed %d, step %d: %+v, want redeemed %t", seed, op, got.Rejection, ok)
				}
				if ok && by[n] == "" {
					by[n] = who
				}
			case 6:
				if r.IntN(6) == 0 {
					m.apply(revokeCode(name))
					revoked[n] = revoked[n] || made[n]
				}
			case 7:
				if merged {
					m.apply(undo("merge_1", "acc_1"))
				} else {
					m.apply(mergeOf("merge_1", "acc_1", "acc_2"))
				}
				merged = !merged
			}
			for _, who := range []entitlement.AccountID{"acc_1", "acc_2"} {
				active := map[string]bool{}
				for n := range sales {
					if by[n] != "" && (by[n] == who || merged) && !refunded[n] && !revoked[n] {
						active["code_"+string(rune('a'+n))] = true
					}
				}
				got := map[string]bool{}
				for _, a := range m.account(who).Accesses {
					if a.RevokedAt == 0 {
						got[a.ID] = true
					}
				}
				if !reflect.DeepEqual(got, active) {
					t.Fatalf("seed %d, step %d: %s has %v, want %v", seed, op, who, got, active)
				}
			}
		}
		m.check()
	}
}

// Codes that nobody redeemed are forgotten a month after their end, and what was redeemed never.
func TestOldCodesGo(t *testing.T) {
	m := newMachine(t, 1<<20)
	m.applyAll([]Command{courses(), create("acc_1"), putCode("a", PutCode{ExpiresAt: startTime + 1000}), putCode("b", PutCode{ExpiresAt: startTime + 1000}), redeemCode("a", "acc_1")})
	m.apply(later(1000+keptCodeSeconds, putCode("c", PutCode{})))
	m.check()
	if got := m.apply(redeemCode("b", "acc_1")); slugOf(got) != SlugNotFound {
		t.Errorf("the forgotten code: %+v", got.Rejection)
	}
	if got := m.apply(redeemCode("a", "acc_1")); got.Rejection != nil {
		t.Errorf("the redeemed code: %+v", got.Rejection)
	}
}

// An account has so many devices and no more, each once; the one that was heard of the longest ago goes.
func TestDevices(t *testing.T) {
	put := func(n int, body PutDevice) Command {
		body.Index, body.Platform = bytes.Repeat([]byte{byte(n)}, deviceIndexBytes), PlatformFCM
		if body.Account == "" {
			body.Account = "acc_1"
		}
		if body.Sealed == nil {
			body.Sealed = []byte{byte(n)}
		}
		return NewCommand(TypePutDevice, sandbox, "", &body)
	}
	m := newMachine(t, 1<<20)
	m.apply(create("acc_1"))
	for n := range MaxDevices {
		m.apply(later(int64(n), put(n, PutDevice{})))
	}
	m.apply(later(50, put(0, PutDevice{Sealed: []byte("new")})))
	m.apply(later(51, put(200, PutDevice{})))
	m.check()
	var devices []Device
	m.read(func(r *Reader) (err error) {
		devices, err = r.Devices(sandbox, "acc_1")
		return err
	})
	if len(devices) != MaxDevices || string(devices[0].Sealed) != "new" || devices[1].Index[0] != 2 || devices[MaxDevices-1].Index[0] != 200 {
		t.Errorf("%d devices: %+v", len(devices), devices)
	}
	for name, tt := range map[string]struct {
		body PutDevice
		slug string
	}{
		"of nobody": {PutDevice{Account: "acc_9"}, SlugNotFound},
	} {
		if got := m.apply(put(1, tt.body)); slugOf(got) != tt.slug {
			t.Errorf("%s: %+v, want %s", name, got.Rejection, tt.slug)
		}
	}
	m.change(func(c *command) {
		if c.forgetDevices("acc_1"); c.get(bucketDevices, envKey(sandbox, "acc_1")) != nil {
			t.Error("forgotten devices are still there")
		}
	})
}

// change lets fn see and change the state, none of which stays.
func (m *machine) change(fn func(*command)) {
	m.t.Helper()
	tx, err := m.db.Begin(true)
	if err != nil {
		m.t.Fatal(err)
	}
	b := newBatch(tx, m.state, m.journal)
	fn(&command{batch: b, Command: Command{Env: sandbox}})
	if err := errors.Join(b.err, tx.Rollback()); err != nil {
		m.t.Fatal(err)
	}
}
