package store

import (
	"bytes"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/latchkey/latchkey/pkg/entitlement"
	"github.com/latchkey/latchkey/replication"
)

const canary = "canary" // in every text that must be in no file once it was erased, and in none of the journal ever

func custom(value string) entitlement.Alias {
	return entitlement.Alias{Kind: entitlement.Custom, Value: value}
}

func erase(id entitlement.AccountID) Command {
	return NewCommand(TypeErase, sandbox, "", &EraseAccount{Account: id})
}

func sealedText(name string) Sealed { return Sealed{name, []byte(canary + " " + name)} }

// personOf is a person with two accounts, of which acc_2 is merged into acc_1, and of whom everything is kept that can be.
func personOf() []Command {
	index := bytes.Repeat([]byte{7}, contactIndexBytes)
	hashed, subject := custom(canary+" alias").Hashed(), entitlement.Alias{Kind: entitlement.OIDCSubject, Value: "https://id.example|" + canary}.Hashed()
	return []Command{
		create("acc_other"),
		NewCommand(TypePutCatalog, sandbox, "", &PutCatalog{Catalog: entitlement.Catalog{Products: []entitlement.Product{
			{Provider: entitlement.Stripe, ID: "price_pro", Kind: entitlement.KindRecurring, Entitlements: []string{"pro"}, Group: "pro"},
			{Provider: entitlement.Stripe, ID: "price_free", Kind: entitlement.KindNonConsumable, Entitlements: []string{"free"}}}}}),
		NewCommand(TypeCreate, sandbox, "", &CreateAccount{ID: "acc_1", Aliases: []entitlement.Alias{customer("cus_1"), hashed}, Changes: &AttributeChanges{Set: []string{"0a", "0b"}},
			Personal: []Sealed{sealedText(AttributeText("0a")), sealedText(AttributeText("0b")), sealedText(AliasText(hashed))}}),
		NewCommand(TypeCreate, sandbox, "", &CreateAccount{ID: "acc_2", Aliases: []entitlement.Alias{subject}, Personal: []Sealed{sealedText(AliasText(subject))}}),
		NewCommand(TypePatch, sandbox, "", &PatchAccount{Account: "acc_1", Changes: &AttributeChanges{Gone: []string{"0b"}}}),
		NewCommand(TypePutGrant, sandbox, "", &PutGrant{Account: "acc_2", ID: "grant_1", Entitlement: "pro", Personal: []Sealed{sealedText(ReasonText("grant_1"))}}),
		NewCommand(TypePutContact, sandbox, "", &PutContact{Account: "acc_1", Index: index, Personal: []Sealed{sealedText(EmailText(index))}}),
		NewCommand(TypePutContact, sandbox, "", &PutContact{Account: "acc_other", Index: index, Personal: []Sealed{sealedText(EmailText(index))}}),
		NewCommand(TypePutLink, sandbox, "", &PutLink{Hash: linkHash("l"), Account: "acc_1", TTLSeconds: 900, Mailed: true, Personal: []Sealed{sealedText(LinkText(linkHash("l")))}}),
		NewCommand(TypePutIntent, sandbox, "", &PutIntent{ID: "intent_1", Account: "acc_2", Provider: entitlement.Stripe, Product: "price_pro", Device: "d"}),
		NewCommand(TypePutIntent, sandbox, "", &PutIntent{ID: "intent_2", Account: "acc_2", Provider: entitlement.Stripe, Product: "price_free", Device: "d"}),
		NewCommand(TypePutIntent, sandbox, "", &PutIntent{ID: "intent_3", Account: "acc_1", Provider: entitlement.Stripe, Product: "price_pro", Device: "d"}),
		NewCommand(TypeEndIntent, sandbox, "", &EndIntent{ID: "intent_3"}),
		NewCommand(TypePutDevice, sandbox, "", &PutDevice{Account: "acc_1", Index: index, Platform: PlatformFCM, Sealed: []byte(canary + " token")}),
		NewCommand(TypeDismiss, sandbox, "", &DismissSuggestion{ID: suggestionID(index, []addressOwner{{"acc_1", "acc_1"}, {"acc_other", "acc_other"}}, nil)}),
		mergeOf("merge_1", "acc_2", "acc_1"),
		record(event("evt_1", subscription("sub_1", 1, entitlement.Active, "acc_1"))),
		record(event("evt_2", subscription("sub_2", 1, entitlement.Active, "", customer("cus_1")))),
	}
}

// texts returns how many sealed texts there are of the accounts.
func (m *machine) texts(ids ...entitlement.AccountID) (n int) {
	m.read(func(r *Reader) error {
		for _, id := range ids {
			n += len(r.Personal(sandbox, id))
		}
		return nil
	})
	return n
}

// What is erased is in no row and no record; what stays are tombstones, the audit trail, and what providers said of purchases.
func TestWhatIsErasedIsGone(t *testing.T) {
	for _, id := range []entitlement.AccountID{"acc_1", "acc_2"} {
		t.Run("asked for by "+string(id), func(t *testing.T) {
			m := newMachine(t, 1<<20)
			for _, c := range personOf() {
				if got := m.apply(c); got.Rejection != nil {
					t.Fatalf("command %d: %+v", c.Type, got.Rejection)
				}
			}
			if got := m.texts("acc_1", "acc_2"); got != 7 {
				t.Fatalf("%d texts are kept, want 7", got)
			}
			intents := 0
			for _, id := range []entitlement.AccountID{"acc_1", "acc_2"} {
				m.read(func(r *Reader) error {
					list, err := r.Intents(sandbox, id)
					intents += len(list)
					return err
				})
			}
			if intents != 3 {
				t.Errorf("%d intents are kept, want 3: one that holds nothing and one that ended too", intents)
			}
			got := m.apply(erase(id))
			m.check()
			if want := []entitlement.AccountID{"acc_1", "acc_2"}; got.Rejection != nil || !slices.Equal(got.Erased, want) ||
				!slices.Equal(got.Renewing, []entitlement.PurchaseID{"stripe:sub_1", "stripe:sub_2"}) {
				t.Fatalf("erase = %+v %+v", got, got.Rejection)
			}
			if got := m.texts("acc_1", "acc_2"); got != 0 {
				t.Errorf("%d texts are left", got)
			}
			if m.texts("acc_other") != 1 {
				t.Error("the text of somebody else is gone")
			}
			if got := suggestions(m); got != "" {
				t.Errorf("suggested: %s", got)
			}
			m.read(func(r *Reader) error {
				stays := [][]byte{bucketErased, bucketErasedNames, bucketEvents, bucketEventOrder, bucketSubjects, bucketIdempotency, bucketPurchases, bucketLinks, bucketChanges, bucketIdentities,
					bucketNamed, bucketLinkTokens, bucketDue}
				for _, bucket := range buckets {
					if slices.ContainsFunc(stays, func(b []byte) bool { return bytes.Equal(b, bucket) }) {
						continue
					}
					err := r.tx.Bucket(bucket).ForEach(func(k, v []byte) error {
						for _, who := range []string{"acc_1", "acc_2"} {
							if bytes.Contains(k, []byte(who)) || bytes.Contains(v, []byte(who)) {
								t.Errorf("%s has %q -> %q", bucket, k, v)
							}
						}
						return nil
					})
					if err != nil {
						return err
					}
				}
				return r.Records(func(record replication.Record) error {
					if record.Kind == replication.KindPointer || record.Kind == replication.KindAccount && record.Key != "acc_other" {
						t.Errorf("record %s %s is left", record.Kind, record.Key)
					}
					return nil
				})
			})
			for name, c := range map[string]Command{
				"erased again": erase("acc_1"), "merge taken back": NewCommand(TypeUndoMerge, sandbox, "", &UndoMerge{Account: "acc_1", ID: "merge_1"}),
				"exported": NewCommand(TypeExport, sandbox, "", &ExportAccount{Account: "acc_2"}), "link redeemed": redeem("l", RedeemLink{Account: "acc_other"}),
				"grant": NewCommand(TypePutGrant, sandbox, "", &PutGrant{Account: "acc_1", ID: "grant_2", Entitlement: "pro"}),
			} {
				if got := m.apply(c); slugOf(got) != SlugNotFound {
					t.Errorf("%s = %+v, want not-found", name, got)
				}
			}
			if got := m.apply(login(Login{New: "acc_new", From: session("acc_1")})); slugOf(got) != SlugInvalidCredential {
				t.Errorf("a login by a session of the account = %+v, want invalid-credential", got)
			}
			// The account's own id never comes back, its names may.
			if got := m.apply(create("acc_1")); slugOf(got) != SlugInvalidRequest {
				t.Errorf("the id once more = %+v", got)
			}
			if got := m.apply(create("acc_3", *subjectAlias("x"), custom(canary+" alias"))); got.Rejection != nil || got.Existing {
				t.Errorf("the names once more = %+v", got)
			}
			m.check()
		})
	}
}

// TestWhatWasErasedIsNobodys: what was bought stays the erased account's, in any order of messages (I20): nobody sees it, and it is not unclaimed. Who gets a name of the
// account by the API, or proves a purchase, has it from then on.
func TestWhatWasErasedIsNobodys(t *testing.T) {
	messages := []Command{
		record(event("evt_1", subscription("sub_1", 10, entitlement.Active, "acc_1"))),
		record(event("evt_2", subscription("sub_1", 20, entitlement.Active, "acc_1"))),
		record(event("evt_3", subscription("sub_2", 30, entitlement.Active, "", customer("cus_1")))),
		record(event("evt_4", refund("re_1", "pi_1", 1, 1), invoice("in_1", "sub_2", "pi_1", 2, "paid"))),
		record(event("evt_5", subscription("sub_3", 40, entitlement.Active, "", customer("cus_2")), subscription("sub_4", 41, entitlement.Active, "acc_2", customer("cus_2")))),
		record(event("evt_6", subscription("sub_5", 50, entitlement.Active, "", custom("user 1")))),
	}
	calls := []Command{create("acc_1", customer("cus_1"), custom("user 1")), create("acc_2"), mergeOf("merge_1", "acc_2", "acc_1"), erase("acc_2"), create("acc_3")}
	r := rand.New(rand.NewPCG(3, 5))
	hashes := map[string]any{}
	for range 60 {
		m := newMachine(t, 1<<20)
		m.mixed(r, calls, messages)
		same := func(what string) {
			t.Helper()
			m.check()
			if hash, ok := hashes[what]; ok && hash != m.state.StateHash {
				t.Fatalf("%s: two orders give two states", what)
			}
			hashes[what] = m.state.StateHash
		}
		owners := func(want map[entitlement.PurchaseID]entitlement.AccountID) {
			t.Helper()
			m.read(func(r *Reader) error {
				unclaimed, err := r.Unclaimed(sandbox, "", 100)
				if err != nil || len(unclaimed) > 0 {
					t.Errorf("unclaimed: %+v, %v", unclaimed, err)
				}
				for i := 1; i <= 5; i++ {
					id := entitlement.PurchaseID(fmt.Sprintf("stripe:sub_%d", i))
					p, _, err := r.Purchase(sandbox, id)
					if err != nil || p.Owner != want[id] || p.Erased != (want[id] == "") {
						t.Errorf("%s is of %q (erased %t), %v, want %q", id, p.Owner, p.Erased, err, want[id])
					}
				}
				return nil
			})
		}
		owners(nil)
		same("erased")
		for _, c := range []Command{
			NewCommand(TypeClaim, sandbox, "", &ClaimPurchase{Account: "acc_3", Purchase: "stripe:sub_1"}),
			NewCommand(TypeRestore, sandbox, "", &RestorePurchase{Account: "acc_3", Purchase: "stripe:sub_4"}),
			NewCommand(TypeAddAlias, sandbox, "", &AddAlias{Account: "acc_3", Alias: customer("cus_1")}),
		} {
			if got := m.apply(c); got.Rejection != nil {
				t.Fatalf("revive by %d: %+v", c.Type, got.Rejection)
			}
		}
		owners(map[entitlement.PurchaseID]entitlement.AccountID{"stripe:sub_1": "acc_3", "stripe:sub_2": "acc_3", "stripe:sub_4": "acc_3"})
		same("revived")
		m.apply(record(event("evt_7", subscription("sub_1", 60, entitlement.Active, "acc_1"))))
		if p := m.account("acc_3").Purchases; len(p) != 3 {
			t.Errorf("after a renewal the new account has %d purchases", len(p))
		}
	}
}

// TestNamesOfTheErasedLeadToNobody: what providers call a person who was erased is the name of purchases and of no account any more, and is nobody else's by itself. A
// trial that they had stays used up, so that nobody has another by having themselves erased.
func TestNamesOfTheErasedLeadToNobody(t *testing.T) {
	m := newMachine(t, 1<<20)
	user := entitlement.Alias{Kind: entitlement.RevenueCatAppUser, Value: "user 1"}
	for _, c := range []Command{shopCatalog(), policyOf(entitlement.Policy{TrialByPayment: true}), create("acc_1", customer("cus_1"), user), create("acc_2"),
		stripeTrial("sub_1", "acc_1", "cus_1"), carded("pm_1", "cus_1", card(7)), erase("acc_1"),
		record(event("evt_3", subscription("sub_3", 50, entitlement.Active, "", customer("cus_1")))),
		stripePaid("sub_2", "acc_2", "cus_2"), carded("pm_2", "cus_2", card(7))} {
		if got := m.apply(c); got.Rejection != nil {
			t.Fatalf("command %d: %+v", c.Type, got.Rejection)
		}
		m.check()
	}
	if !m.account("acc_2").TrialLocked {
		t.Error("the trial of who was erased is not used up for who pays with the same card")
	}
	m.read(func(r *Reader) error {
		for _, a := range []entitlement.Alias{customer("cus_1"), user, {Kind: entitlement.RevenueCatAppUser, Value: "acc_1"}, {Kind: entitlement.AppleAppAccountToken, Value: entitlement.AccountID("acc_1").AppleAppAccountToken()}} {
			if owner, found, err := r.Named(sandbox, a); found || err != nil {
				t.Errorf("%+v leads to %s, %v", a, owner, err)
			}
		}
		for _, id := range []entitlement.PurchaseID{"stripe:sub_1", "stripe:sub_3"} {
			if p, found, err := r.Purchase(sandbox, id); !found || err != nil || p.Owner != "" || !p.Erased {
				t.Errorf("%s is of %q (erased %t), %v", id, p.Owner, p.Erased, err)
			}
		}
		for _, bucket := range [][]byte{bucketNamed, bucketPersons, bucketCards} {
			err := r.tx.Bucket(bucket).ForEach(func(k, v []byte) error {
				if bytes.Contains(k, []byte("acc_1")) || bytes.Contains(v, []byte("acc_1")) || bytes.Contains(k, []byte(user.Value)) {
					t.Errorf("%s has %q -> %q", bucket, k, v)
				}
				return nil
			})
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// What support said of an account that is no more binds nobody.
func TestAPurchaseThatSupportGaveIsRevivedToo(t *testing.T) {
	m := newMachine(t, 1<<20)
	for _, c := range []Command{create("acc_1"), create("acc_2"), record(event("evt_1", subscription("sub_1", 10, entitlement.Active, ""))),
		NewCommand(TypeRestore, sandbox, "", &RestorePurchase{Account: "acc_1", Purchase: "stripe:sub_1", Support: true}), erase("acc_1"),
		NewCommand(TypeRestore, sandbox, "", &RestorePurchase{Account: "acc_2", Purchase: "stripe:sub_1"})} {
		if got := m.apply(c); got.Rejection != nil {
			t.Fatalf("command %d: %+v", c.Type, got.Rejection)
		}
	}
	if p := m.account("acc_2").Purchases; len(p) != 1 {
		t.Errorf("purchases %+v", p)
	}
	m.check()
}

// A text under a key that the rules before sealed ones put there goes with the change, and an account of then is erased like any other.
func TestWhatOlderRulesKeptIsChangedAndErased(t *testing.T) {
	m := newMachineUnder(t, 1<<20, RulesPersonal-1)
	named := entitlement.Alias{Kind: entitlement.OIDCSubject, Value: "https://id.example|" + canary}
	for _, c := range []Command{
		NewCommand(TypeCreate, sandbox, "", &CreateAccount{ID: "acc_1", Aliases: []entitlement.Alias{named, custom(canary + " alias")}, Attributes: map[string]string{"a": canary, "b": canary}}),
		NewCommand(TypePutGrant, sandbox, "", &PutGrant{Account: "acc_1", ID: "grant_1", Entitlement: "pro", Reason: canary}),
		record(event("evt_1", subscription("sub_1", 10, entitlement.Active, "", custom("user 1")))),
		NewCommand(TypeRaiseRules, "", "", &RaiseRules{Rules: RulesPersonal}),
		NewCommand(TypePatch, sandbox, "", &PatchAccount{Account: "acc_1", Changes: &AttributeChanges{Set: []string{"0a"}, Clear: []string{"a"}}, Personal: []Sealed{{AttributeText("0a"), []byte("sealed")}}}),
		NewCommand(TypeAddAlias, sandbox, "", &AddAlias{Account: "acc_1", Alias: custom("user 1").Hashed()}),
	} {
		if got := m.apply(c); got.Rejection != nil {
			t.Fatalf("command %d: %+v", c.Type, got.Rejection)
		}
		m.check()
	}
	m.read(func(r *Reader) error {
		for _, a := range []entitlement.Alias{named, named.Hashed(), custom(canary + " alias"), custom("user 1")} {
			if owner, found, err := r.AliasOwner(sandbox, a); owner != "acc_1" || !found || err != nil {
				t.Errorf("%+v leads to %q, %t, %v", a, owner, found, err)
			}
		}
		d, _, err := r.AccountDetail(sandbox, "acc_1")
		if len(d.Attributes) != 1 || d.Attributes["b"] != canary || d.GrantReasons["grant_1"] != canary || len(d.Aliases) != 3 || len(d.Purchases) != 1 {
			t.Errorf("detail %+v", d)
		}
		for _, a := range d.Aliases {
			if !a.IsHashed() || (a.Text == "") != (a.Alias == custom("user 1").Hashed()) {
				t.Errorf("alias %+v", a)
			}
		}
		if _, ok, err := r.Record(sandbox, replication.KindPointer, named.SubjectKey()); !ok || err != nil {
			t.Errorf("the pointer is not there: %v", err)
		}
		return err
	})
	m.apply(erase("acc_1"))
	m.check()
	m.read(func(r *Reader) error {
		for _, bucket := range buckets {
			if bytes.Equal(bucket, bucketChanges) {
				continue
			}
			err := r.tx.Bucket(bucket).ForEach(func(k, v []byte) error {
				if bytes.Contains(k, []byte(canary)) || bytes.Contains(v, []byte(canary)) {
					t.Errorf("%s has %q -> %q", bucket, k, v)
				}
				return nil
			})
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// TestTheJournalHasNothingPersonal: it replays to the same hashes without it. A snapshot has what is there, tombstones too.
func TestTheJournalHasNothingPersonal(t *testing.T) {
	nodes := startCluster(t, 1, func(cfg *Config) { cfg.SegmentBytes, cfg.SnapshotThreshold = 4<<10, 1<<20 })
	s := nodes[0]
	leaderOf(t, s)
	for _, c := range personOf() {
		if got := propose(t, nodes, c); got.Rejection != nil {
			t.Fatalf("command %d: %+v", c.Type, got.Rejection)
		}
	}
	journal := func() {
		t.Helper()
		err := filepath.WalkDir(filepath.Join(s.cfg.Dir, "journal"), func(path string, entry fs.DirEntry, err error) error {
			if err != nil || entry.IsDir() {
				return err
			}
			content, err := os.ReadFile(path)
			if bytes.Contains(content, []byte(canary)) {
				t.Errorf("%s has a sealed text", entry.Name())
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	replays := func() {
		t.Helper()
		catchUp(t, s)
		now := s.Stats()
		replayed, err := Replay(testContext(t), ReplayConfig{Dir: s.cfg.Dir, Into: t.TempDir(), SegmentBytes: s.cfg.SegmentBytes})
		if err != nil || replayed.Position != now.Position || replayed.FullHash != now.FullHash {
			t.Errorf("the journal replays to %+v, %v; the node is at %+v", replayed, err, now)
		}
	}
	texts := func() (names string) {
		t.Helper()
		err := s.View(func(r *Reader) error {
			for _, one := range append(r.Personal(sandbox, "acc_1"), r.Personal(sandbox, "acc_2")...) {
				names += strings.SplitAfter(one.Name, ":")[0]
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		return names
	}
	again := func() {
		t.Helper()
		if err := s.raft.Snapshot().Error(); err != nil {
			t.Fatal(err)
		}
		s.close(t)
		if err := os.Remove(filepath.Join(s.cfg.Dir, stateFile)); err != nil {
			t.Fatal(err)
		}
		s.open(t)
		leaderOf(t, s)
		catchUp(t, s)
		if s.Stats().Restores != 1 {
			t.Fatal("it did not start from its snapshot")
		}
	}
	const all = "alias:attribute:device:email:link:alias:reason:"
	journal()
	replays()
	again()
	if got := texts(); got != all {
		t.Fatalf("after a start from the snapshot there is %q, want %q", got, all)
	}
	propose(t, nodes, erase("acc_2"))
	journal()
	replays()
	again()
	if got := texts(); got != "" {
		t.Errorf("what was erased is back after a start from the snapshot: %q", got)
	}
	propose(t, nodes, record(event("evt_9", subscription("sub_1", 90, entitlement.Active, "acc_1"), subscription("sub_9", 91, entitlement.Active, "", customer("cus_1")))))
	catchUp(t, s)
	err := s.View(func(r *Reader) error {
		if unclaimed, err := r.Unclaimed(sandbox, "", 10); len(unclaimed) > 0 || err != nil {
			t.Errorf("unclaimed: %+v, %v", unclaimed, err)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	replays()
}

// A command that carries texts is told from the same one with others, and its hash stands for them where they are not.
func TestTextsArePartOfACommand(t *testing.T) {
	body := func(text string) *PatchAccount {
		return &PatchAccount{Account: "acc_1", Changes: &AttributeChanges{Set: []string{"0a"}}, Personal: []Sealed{{AttributeText("0a"), []byte(text)}}}
	}
	m := newMachine(t, 1<<20)
	m.apply(create("acc_1"))
	for _, text := range []string{"one", "two", "two"} {
		m.apply(NewCommand(TypePatch, sandbox, "corr", body(text)))
		m.read(func(r *Reader) error {
			if got := string(r.PersonalText(sandbox, "acc_1", AttributeText("0a"))); got != text {
				t.Errorf("the text is %q, want %q", got, text)
			}
			return nil
		})
	}
	long := body(strings.Repeat("text", 1000))
	long.Changes.Gone = []string{strings.Repeat("0b", 20), strings.Repeat("0c", 20)}
	long.Changes.Clear = []string{strings.Repeat("d", 600)}
	for _, c := range []Command{NewCommand(TypePatch, sandbox, "corr", body("one")), NewCommand(TypePatch, sandbox, "corr", long)} {
		whole := c.Encode()
		cut := journaled(whole)
		got, err := DecodeCommand(cut)
		if err != nil || got.Personal != nil || !bytes.Equal(got.PersonalHash, c.PersonalHash) || !bytes.Equal(got.Body, c.Body) || got.CorrelationID != "corr" {
			t.Errorf("the journal's command is %+v, %v", got, err)
		}
		if again := got.Encode(); !bytes.Equal(again, cut) || !bytes.Equal(journaled(cut), cut) {
			t.Error("encoded again it is another")
		}
		for n := range len(whole) {
			if got, err := DecodeCommand(whole[:n]); err == nil && bytes.Equal(got.Body, c.Body) {
				t.Fatalf("%d of %d bytes decode to the whole", n, len(whole))
			}
			journaled(whole[:n])
		}
	}
}
