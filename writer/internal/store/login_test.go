package store

import (
	"fmt"
	"slices"
	"testing"

	"github.com/latchkey/latchkey/pkg/entitlement"
	"github.com/latchkey/latchkey/replication"
)

func subjectAlias(name string) *entitlement.Alias {
	return &entitlement.Alias{Kind: entitlement.OIDCSubject, Value: "https://id.example|" + name}
}

func session(id entitlement.AccountID) *Session { return &Session{Account: id, IssuedAt: startTime} }

func login(body Login) Command { return NewCommand(TypeLogin, sandbox, "", &body) }

// Who signs in keeps what was bought before where the app was used without a name, and takes nothing along from an account that is somebody's.
func TestLogin(t *testing.T) {
	begun := login(Login{New: "acc_anon"})
	bought := record(event("evt_1", subscription("sub_1", 10, entitlement.Active, "acc_anon")))
	known := create("acc_known", *subjectAlias("ann"))
	bobs, bobBought := create("acc_other", *subjectAlias("bob")), record(event("evt_1", subscription("sub_1", 10, entitlement.Active, "acc_other")))
	tests := []struct {
		name   string
		before []Command
		body   Login
		want   Result // Account, Merge, Anonymous, Existing and the slug of a rejection
		slug   string
		what   string                  // in the audit trail
		pro    []entitlement.AccountID // that show the purchase
	}{
		{"a first launch", nil, Login{New: "acc_new"}, Result{Account: "acc_new", Anonymous: true}, "", "session.started", nil},
		{"an unknown identity is the anonymous account's", []Command{begun, bought}, Login{New: "acc_new", From: session("acc_anon"), Alias: subjectAlias("ann"), Merge: "merge_1"},
			Result{Account: "acc_anon", Existing: true}, "", "session.login", []entitlement.AccountID{"acc_anon"}},
		{"the account of a known identity takes the anonymous one in", []Command{begun, known, bought}, Login{New: "acc_new", From: session("acc_anon"), Alias: subjectAlias("ann"), Merge: "merge_1"},
			Result{Account: "acc_known", Existing: true, Merge: "merge_1"}, "", "accounts.merged", []entitlement.AccountID{"acc_anon", "acc_known"}},
		{"so does that of a session that a backend made", []Command{begun, create("acc_known"), bought}, Login{New: "acc_new", From: session("acc_anon"), To: session("acc_known"), Merge: "merge_1"},
			Result{Account: "acc_known", Existing: true, Merge: "merge_1"}, "", "accounts.merged", []entitlement.AccountID{"acc_anon", "acc_known"}},
		{"nothing moves from an account that is somebody's", []Command{begun, known, bought, login(Login{New: "acc_x", From: session("acc_anon"), Alias: subjectAlias("bob")})},
			Login{New: "acc_new", From: session("acc_anon"), Alias: subjectAlias("ann"), Merge: "merge_1"}, Result{Account: "acc_known", Existing: true}, "", "session.login", []entitlement.AccountID{"acc_anon"}},
		{"nor from one that a backend has named", []Command{begun, known, bought, NewCommand(TypeAddAlias, sandbox, "", &AddAlias{Account: "acc_anon", Alias: entitlement.Alias{Kind: entitlement.Custom, Value: "u-7"}})},
			Login{New: "acc_new", From: session("acc_anon"), Alias: subjectAlias("ann"), Merge: "merge_1"}, Result{Account: "acc_known", Existing: true}, "", "session.login", []entitlement.AccountID{"acc_anon"}},
		{"what a store calls the buyer names nobody", []Command{begun, known, bought, NewCommand(TypeAddAlias, sandbox, "", &AddAlias{Account: "acc_anon", Alias: customer("cus_1")})},
			Login{New: "acc_new", From: session("acc_anon"), Alias: subjectAlias("ann"), Merge: "merge_1"}, Result{Account: "acc_known", Existing: true, Merge: "merge_1"}, "", "accounts.merged", []entitlement.AccountID{"acc_anon", "acc_known"}},
		{"nor from one that is merged into somebody's", []Command{begun, known, bought, create("acc_other"), mergeOf("merge_0", "acc_anon", "acc_other")},
			Login{New: "acc_new", From: session("acc_anon"), Alias: subjectAlias("ann"), Merge: "merge_1"}, Result{Account: "acc_known", Existing: true}, "", "session.login", []entitlement.AccountID{"acc_anon", "acc_other"}},
		{"nor from one that somebody's was merged into", []Command{begun, known, bobs, bobBought, mergeOf("merge_0", "acc_other", "acc_anon")},
			Login{New: "acc_new", From: session("acc_anon"), Alias: subjectAlias("ann"), Merge: "merge_1"}, Result{Account: "acc_known", Existing: true}, "", "session.login", []entitlement.AccountID{"acc_anon", "acc_other"}},
		{"whoever is new there gets an account of their own", []Command{begun, bobs, bobBought, mergeOf("merge_0", "acc_other", "acc_anon")},
			Login{New: "acc_new", From: session("acc_anon"), Alias: subjectAlias("eve"), Merge: "merge_1"}, Result{Account: "acc_new"}, "", "session.login", []entitlement.AccountID{"acc_anon", "acc_other"}},
		{"who signs in to one that somebody's was merged into is not anonymous", []Command{begun, bobs, mergeOf("merge_0", "acc_other", "acc_anon")},
			Login{New: "acc_new", To: session("acc_anon"), Merge: "merge_1"}, Result{Account: "acc_anon", Existing: true}, "", "session.login", nil},
		{"anonymous accounts that are merged are taken in together", []Command{begun, login(Login{New: "acc_other"}), known, bought, mergeOf("merge_0", "acc_anon", "acc_other")},
			Login{New: "acc_new", From: session("acc_anon"), Alias: subjectAlias("ann"), Merge: "merge_1"}, Result{Account: "acc_known", Existing: true, Merge: "merge_1"}, "", "accounts.merged", []entitlement.AccountID{"acc_anon", "acc_known", "acc_other"}},
		{"an unknown identity is theirs together", []Command{begun, login(Login{New: "acc_other"}), bought, mergeOf("merge_0", "acc_anon", "acc_other")},
			Login{New: "acc_new", From: session("acc_anon"), Alias: subjectAlias("ann"), Merge: "merge_1"}, Result{Account: "acc_anon", Existing: true}, "", "session.login", []entitlement.AccountID{"acc_anon", "acc_other"}},
		{"an unknown identity at an account that is somebody's is a new account", []Command{known}, Login{New: "acc_new", From: session("acc_known"), Alias: subjectAlias("eve"), Merge: "merge_1"},
			Result{Account: "acc_new"}, "", "session.login", nil},
		{"an unknown identity without a session is a new account", nil, Login{New: "acc_new", Alias: subjectAlias("eve"), Merge: "merge_1"}, Result{Account: "acc_new"}, "", "session.login", nil},
		{"a session of the same account is another one of it", []Command{begun}, Login{New: "acc_new", From: session("acc_anon"), To: session("acc_anon"), Merge: "merge_1"},
			Result{Account: "acc_anon", Existing: true, Anonymous: true}, "", "session.login", nil},
		{"a second device of the same person", []Command{begun, known, mergeOf("merge_0", "acc_anon", "acc_known")}, Login{New: "acc_new", From: session("acc_anon"), Alias: subjectAlias("ann"), Merge: "merge_1"},
			Result{Account: "acc_known", Existing: true}, "", "session.login", nil},
		{"a logout", []Command{known}, Login{New: "acc_new", From: session("acc_known")}, Result{Account: "acc_new", Anonymous: true}, "", "session.started", nil},
		{"a session that was ended", []Command{known, NewCommand(TypeEndSessions, sandbox, "", &EndSessions{Account: "acc_known"})}, Login{New: "acc_new", From: session("acc_known")}, Result{}, SlugSessionEnded, "", nil},
		{"a session that was logged out of", []Command{known, login(Login{New: "acc_y", From: session("acc_known")})}, Login{New: "acc_new", From: session("acc_known")}, Result{}, SlugSessionEnded, "", nil},
		{"the other session was logged out of", []Command{begun, known, login(Login{New: "acc_y", From: session("acc_known")})}, Login{New: "acc_new", From: session("acc_anon"), To: session("acc_known"), Merge: "merge_1"},
			Result{}, SlugSessionEnded, "", nil},
		{"a logout of another device ends nothing here", []Command{known, login(Login{New: "acc_y", From: &Session{Account: "acc_known", IssuedAt: startTime, Device: "tablet"}})},
			Login{New: "acc_new", From: session("acc_known")}, Result{Account: "acc_new", Anonymous: true}, "", "session.started", nil},
		{"an anonymous account has no other name than the session that was logged out of", []Command{begun, known, bought, login(Login{New: "acc_y", From: session("acc_anon")})},
			Login{New: "acc_new", From: session("acc_anon"), Alias: subjectAlias("ann"), Merge: "merge_1"}, Result{Account: "acc_known", Existing: true, Merge: "merge_1"}, "", "accounts.merged", []entitlement.AccountID{"acc_anon", "acc_known"}},
		{"a session of a merged account that was logged out of", []Command{begun, known, mergeOf("merge_0", "acc_anon", "acc_known"), login(Login{New: "acc_y", From: session("acc_anon")})},
			Login{New: "acc_new", From: session("acc_anon")}, Result{}, SlugSessionEnded, "", nil},
		{"the other session was ended", []Command{begun, known, NewCommand(TypeEndSessions, sandbox, "", &EndSessions{Account: "acc_known"})},
			Login{New: "acc_new", From: session("acc_anon"), To: session("acc_known"), Merge: "merge_1"}, Result{}, SlugSessionEnded, "", nil},
		{"a session of nobody", nil, Login{New: "acc_new", From: session("acc_x")}, Result{}, SlugInvalidCredential, "", nil},
		{"an alias that proves nobody", nil, Login{New: "acc_new", Alias: &entitlement.Alias{Kind: entitlement.Custom, Value: "x"}}, Result{}, SlugInvalidRequest, "", nil},
		{"two targets", []Command{begun, known}, Login{New: "acc_new", From: session("acc_anon"), To: session("acc_known"), Alias: subjectAlias("ann")}, Result{}, SlugInvalidRequest, "", nil},
		{"an id that is taken", []Command{known}, Login{New: "acc_known"}, Result{}, SlugInvalidRequest, "", nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m := newMachine(t, 1<<20)
			for _, c := range tt.before {
				if got := m.apply(c); got.Rejection != nil {
					t.Fatalf("%d: %+v", c.Type, got.Rejection)
				}
			}
			got := m.apply(login(tt.body))
			m.check()
			if got.Account != tt.want.Account || got.Merge != tt.want.Merge || got.Anonymous != tt.want.Anonymous || got.Existing != tt.want.Existing || slugOf(got) != tt.slug {
				t.Fatalf("login = %+v %+v, want %+v %s", got, got.Rejection, tt.want, tt.slug)
			}
			if tt.slug != "" {
				return
			}
			m.read(func(r *Reader) error {
				if shown, _, err := r.AccountDetail(sandbox, got.Account); shown.Anonymous != got.Anonymous || err != nil {
					t.Errorf("%s is shown as anonymous: %t, %v", got.Account, shown.Anonymous, err)
				}
				events, err := r.AccountEvents(sandbox, got.Account, 0, 100)
				if err != nil || len(events) == 0 || events[len(events)-1].Type != tt.what {
					t.Errorf("the audit trail of %s ends with %+v, %v, want %s", got.Account, events, err, tt.what)
				}
				return nil
			})
			for _, id := range []entitlement.AccountID{"acc_anon", "acc_known", "acc_other"} {
				a := m.account(id)
				if shows := a != nil && len(a.Purchases) == 1; shows != slices.Contains(tt.pro, id) {
					t.Errorf("%s shows the purchase: %t", id, shows)
				}
			}
			if tt.body.Alias != nil {
				var pointer entitlement.Pointer
				m.read(func(r *Reader) error {
					_, err := r.decodeRecord(sandbox, replication.KindPointer, entitlement.SubjectKey(tt.body.Alias.Value), &pointer)
					return err
				})
				if pointer.Account != got.Account {
					t.Errorf("edges find %q by the subject, want %s", pointer.Account, got.Account)
				}
			}
		})
	}
}

// Two devices that sign in as the same unknown person at one moment: the first account stays, the other is merged into it.
func TestTwoFirstLoginsOfOnePersonAreOneAccount(t *testing.T) {
	m := newMachine(t, 1<<20)
	for i, id := range []entitlement.AccountID{"acc_a", "acc_b"} {
		m.apply(login(Login{New: id}))
		m.apply(NewCommand(TypePutGrant, sandbox, "", PutGrant{Account: id, ID: fmt.Sprintf("grant_%d", i), Entitlement: "pro"}))
	}
	for i, id := range []entitlement.AccountID{"acc_a", "acc_b"} {
		if got := m.apply(login(Login{New: "acc_new", From: session(id), Alias: subjectAlias("ann"), Merge: fmt.Sprintf("merge_%d", i)})); got.Account != "acc_a" {
			t.Fatalf("login of %s = %+v, want acc_a", id, got)
		}
	}
	if a := m.account("acc_b"); a == nil || a.ID != "acc_a" || len(a.Grants) != 2 {
		t.Errorf("acc_b shows %+v, want what both have", a)
	}
	m.check()
}

// The group of one person does not grow without end, and who signs in is not locked out for that.
func TestALoginWithoutAMergeWhereTooManyAccountsAreOneAlready(t *testing.T) {
	m := newMachine(t, 1<<20)
	m.apply(create("acc_known", *subjectAlias("ann")))
	for i := range maxMerged {
		id := entitlement.AccountID(fmt.Sprintf("acc_%03d", i))
		m.apply(login(Login{New: id}))
		got := m.apply(login(Login{New: "acc_new", From: session(id), Alias: subjectAlias("ann"), Merge: fmt.Sprintf("merge_%d", i)}))
		if last := i == maxMerged-1; got.Account != "acc_known" || (got.Merge == "") != last {
			t.Fatalf("login %d = %+v %+v", i, got, got.Rejection)
		}
	}
	m.check()
}

// Rules 3 bring the pointers of subjects that were aliases before.
func TestSubjectsOfOlderRulesGetTheirPointers(t *testing.T) {
	m := newMachineUnder(t, 1<<20, rulesAccounts-1)
	long := entitlement.Alias{Kind: entitlement.OIDCSubject, Value: "https://id.example|" + fmt.Sprintf("%0480d", 7)}
	m.apply(create("acc_a", *subjectAlias("ann"), long))
	has := func(want bool) {
		t.Helper()
		m.read(func(r *Reader) error {
			for _, a := range []entitlement.Alias{*subjectAlias("ann"), long} {
				if _, ok, err := r.Record(sandbox, replication.KindPointer, entitlement.SubjectKey(a.Value)); ok != want || err != nil {
					t.Errorf("pointer of a subject of %d bytes: %t, %v, want %t", len(a.Value), ok, err, want)
				}
			}
			return nil
		})
		m.check()
	}
	has(false)
	m.apply(NewCommand(TypeRaiseRules, "", "", &RaiseRules{Rules: rulesAccounts}))
	has(true)
}
