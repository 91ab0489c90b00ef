package e2e

import (
	"net/http"
	"testing"
	"time"

	"github.com/latchkey/latchkey/deploy/stripemsg"
)

// eachWriteShows: after each write that changes what an account is shown, every edge that is asked for its revision shows the change, and never what was before (I11). That
// every other write answers with a revision, too, its description says, to which its answers are held.
func eachWriteShows(t *testing.T, d *dev) {
	a, b := d.account("sandbox"), d.account("sandbox")
	type object = map[string]any
	type answered struct {
		Revision string `json:"revision"`
		Grant    string `json:"grant_id"`
		Code     string `json:"code"`
		Merge    string `json:"merge_id"`
		Intent   string `json:"intent_id"`
	}
	writer := 0
	write := func(method, path string, body any) (w answered) {
		t.Helper()
		writer++ // whichever it is
		got, err := d.api("sandbox", writer, method, path, body)
		if err == nil {
			err = got.into(&w)
		}
		if err != nil || got.status/100 != 2 || w.Revision == "" {
			t.Fatalf("%s %s: %s, %v, want a revision", method, path, got, err)
		}
		return w
	}
	shows := func(step, revision string, has func(view) bool) {
		t.Helper()
		for edge := range d.info().Edges {
			if v := d.mustAsk(a, edge, revision); !has(v) || mustRevision(t, v.Revision).Compare(mustRevision(t, revision)) < 0 {
				t.Errorf("%s: edge %d answers min_revision=%s with %+v", step, edge, revision, v)
			}
		}
	}
	active := func(id string, want bool) func(view) bool {
		return func(v view) bool {
			got := false
			for _, e := range v.Entitlements {
				got = got || e.ID == id && e.Active
			}
			return got == want
		}
	}
	state := func(step, revision, want string) {
		t.Helper()
		for edge := range d.info().Edges {
			if v := d.askOnce(a, edge, revision); v.State != want {
				t.Errorf("%s: edge %d says %s, want %s", step, edge, v.State, want)
			}
		}
	}
	own := "/v1/accounts/" + a.id

	given := write(http.MethodPost, own+"/grants", object{"entitlement": "extra", "expires_at": nil})
	shows("a grant", given.Revision, active("extra", true))
	shows("the grant is taken back", write(http.MethodDelete, own+"/grants/"+given.Grant, nil).Revision, active("extra", false))

	code := write(http.MethodPost, "/v1/redemption-codes", object{"provider": "stripe", "product_id": "price_course_pack"}).Code
	shows("a code is redeemed", write(http.MethodPost, "/v1/redemption-codes/"+code+"/redeem", object{"account_id": a.id}).Revision, active("algebra", true))
	shows("the code is revoked", write(http.MethodDelete, "/v1/redemption-codes/"+code, nil).Revision, active("algebra", false))

	intent := write(http.MethodPost, "/v1/purchase-intents", object{"account_id": a.id, "provider": "apple", "product_id": "com.example.coins_100"}).Intent
	state("a purchase is submitted", write(http.MethodPost, "/v1/purchase-intents/"+intent+"/submitted", nil).Revision, "pending")
	state("it is called off", write(http.MethodDelete, "/v1/purchase-intents/"+intent, nil).Revision, "settled")

	nobodys := stripemsg.NewSubscription(stripemsg.Basil, "visitor-writes", time.Now())
	d.mustPost("sandbox", 1, nobodys.Updated("created", time.Now()))
	shows("an unclaimed payment is claimed", write(http.MethodPost, "/v1/unclaimed/stripe:"+nobodys.ID+"/claim", object{"account_id": a.id}).Revision, active("pro", true))

	write(http.MethodPost, "/v1/accounts/"+b.id+"/grants", object{"entitlement": "beta", "duration_days": 1})
	merge := write(http.MethodPost, own+"/merges", object{"from": b.id})
	shows("a merge", merge.Revision, active("beta", true))
	shows("it is undone", write(http.MethodDelete, own+"/merges/"+merge.Merge, nil).Revision, active("beta", false))

	gone := func(step, revision string, status int, problem string) {
		t.Helper()
		for edge := range d.info().Edges {
			if got, err := d.ask(a, edge, "?wait=20&min_revision="+revision); err != nil || got.status != status || got.problem() != problem {
				t.Errorf("%s: edge %d answers %s, %v, want %d %s", step, edge, got, err, status, problem)
			}
		}
	}
	gone("its sessions are ended", write(http.MethodDelete, own+"/sessions", nil).Revision, http.StatusUnauthorized, "session-ended")
	gone("it is erased", write(http.MethodDelete, own, nil).Revision, http.StatusServiceUnavailable, "unknown-account")
}
