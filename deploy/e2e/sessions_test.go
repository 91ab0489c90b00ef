package e2e

import (
	"context"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/latchkey/latchkey/deploy/stripemsg"
)

// boughtBeforeTheLogin plays an app without a backend of its own, which knows one edge: what is bought in its anonymous session is there after the login, at
// every edge and under both ids, and without the merge each has its own again. Who logs out while the two are one is signed out of both.
func boughtBeforeTheLogin(t *testing.T, d *dev) {
	app := func(path, credential, body string) (shown struct {
		Account   string `json:"account_id"`
		Session   string `json:"session_token"`
		Revision  string `json:"revision"`
		Merge     string `json:"merge_id"`
		Anonymous bool   `json:"anonymous"`
	}) {
		t.Helper()
		header := http.Header{"Authorization": {"Bearer " + credential}, "Content-Type": {"application/json"}, "Idempotency-Key": {stripemsg.ID("key")}}
		got, err := untilTaken(func() (answer, error) {
			return d.do(context.Background(), http.MethodPost, d.info().Edges[0].URL+path, header.Clone(), []byte(body))
		})
		if err == nil {
			err = got.into(&shown)
		}
		if err != nil || got.status/100 != 2 {
			t.Fatalf("POST %s at an edge: %s, %v", path, got, err)
		}
		return shown
	}
	begun := app("/v1/sessions", d.info().Environments["sandbox"].PublishableKey, `{"device_id": "phone"}`)
	anonymous := account{"sandbox", begun.Account, begun.Session}
	bought := d.mustPost("sandbox", 1, stripemsg.NewSubscription(stripemsg.Basil, anonymous.id, time.Now()).Updated("created", time.Now()))
	known := d.account("sandbox")
	in := app("/v1/sessions/login", anonymous.session, fmt.Sprintf(`{"session_token": %q}`, known.session))
	if !begun.Anonymous || in.Anonymous || in.Account != known.id || in.Merge == "" {
		t.Fatalf("from %+v the login led to %+v, want %s and a merge", begun, in, known.id)
	}
	shows := func(at string, a account, revision string, want bool) {
		t.Helper()
		for edge := range d.info().Edges {
			if v := d.mustAsk(a, edge, revision); v.Account != a.id || v.pro().Active != want {
				t.Errorf("%s: edge %d shows %s with %+v, want %s with pro %t", at, edge, v.Account, v.pro(), a.id, want)
			}
		}
	}
	signedIn := account{"sandbox", in.Account, in.Session}
	shows("as bought", anonymous, bought.Revision, true)
	for _, a := range []account{anonymous, known, signedIn} {
		shows("after the login", a, in.Revision, true)
	}
	undone := d.undoMerge(known, in.Merge)
	shows("after the undo", anonymous, undone, true)
	shows("after the undo", signedIn, undone, false)
	// The device is signed out everywhere, and the account's other device goes on.
	tablet := d.otherDevice(known, "tablet")
	out := app("/v1/sessions/logout", signedIn.session, "")
	shows("after the logout", account{"sandbox", out.Account, out.Session}, out.Revision, false)
	shows("another device after the logout", tablet, out.Revision, false)
	ended := func(when string, all ...account) {
		t.Helper()
		for edge := range d.info().Edges {
			for _, a := range all {
				if got, err := d.ask(a, edge, ""); err != nil || got.problem() != "session-ended" {
					t.Errorf("%s: edge %d to a session of %s: %s, %v, want session-ended", when, edge, a.id, got, err)
				}
			}
		}
	}
	ended("after the logout", signedIn)
	// The same while the accounts are one: the session from before the login would show what both have.
	begun = app("/v1/sessions", d.info().Environments["sandbox"].PublishableKey, `{"device_id": "phone"}`)
	in = app("/v1/sessions/login", begun.Session, fmt.Sprintf(`{"session_token": %q}`, tablet.session))
	if in.Account != known.id || in.Merge == "" {
		t.Fatalf("the second login led to %+v, want %s and a merge", in, known.id)
	}
	anonymous, signedIn = account{"sandbox", begun.Account, begun.Session}, account{"sandbox", in.Account, in.Session}
	shows("before the second logout", anonymous, in.Revision, false)
	out = app("/v1/sessions/logout", signedIn.session, "")
	shows("another device after the second logout", tablet, out.Revision, false)
	ended("after the second logout", anonymous, signedIn)
	shows("another device after the second undo", tablet, d.undoMerge(known, in.Merge), false)
	ended("after the second undo", anonymous, signedIn)
}

// undoMerge takes a merge of an account back, and returns the revision.
func (d *dev) undoMerge(a account, merge string) string {
	d.t.Helper()
	got, err := d.api(a.env, 1, http.MethodDelete, "/v1/accounts/"+a.id+"/merges/"+merge, nil)
	var undone struct{ Revision string }
	if err == nil {
		err = got.into(&undone)
	}
	if err != nil || got.status != http.StatusOK {
		d.t.Fatalf("DELETE of the merge: %s, %v", got, err)
	}
	return undone.Revision
}
