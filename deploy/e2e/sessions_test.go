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
// every edge and under both ids, and without the merge each has its own again.
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
	got, err := d.api("sandbox", 1, http.MethodDelete, "/v1/accounts/"+known.id+"/merges/"+in.Merge, nil)
	var undone struct{ Revision string }
	if err == nil {
		err = got.into(&undone)
	}
	if err != nil || got.status != http.StatusOK {
		t.Fatalf("DELETE of the merge: %s, %v", got, err)
	}
	shows("after the undo", anonymous, undone.Revision, true)
	shows("after the undo", signedIn, undone.Revision, false)
	// The device is signed out everywhere, and the account's other device goes on.
	tablet := d.otherDevice(known, "tablet")
	out := app("/v1/sessions/logout", signedIn.session, "")
	shows("after the logout", account{"sandbox", out.Account, out.Session}, out.Revision, false)
	shows("another device after the logout", tablet, out.Revision, false)
	for edge := range d.info().Edges {
		if got, err := d.ask(signedIn, edge, ""); err != nil || got.problem() != "session-ended" {
			t.Errorf("edge %d to the device that was logged out: %s, %v, want session-ended", edge, got, err)
		}
	}
}
