package writer

import (
	"fmt"
	"testing"
)

// TestTheAuditTrailSaysWhatWasDoneAndByWhom: each change by the API is listed with the ids that it was about and the name of the key, or what the app showed,
// in lists and alone; no credential is in it.
func TestTheAuditTrailSaysWhatWasDoneAndByWhom(t *testing.T) {
	w := oneWriter(t)
	w.awaitReady()
	a, b := w.account(), w.account()
	sub := unique("sub_")
	w.stripe(event(unique("evt_"), "customer.subscription.created", subscription(sub, "", "price_pro")))
	app := w.begin()
	anonymous, session := app.str("account_id"), app.str("session_token")
	server, byApp := object{"kind": "api_key", "name": "server"}, object{"kind": "session"}

	intent := w.do("POST", "/v1/purchase-intents", `{"provider": "stripe", "product_id": "price_life"}`, auth(session))
	grant := w.api("POST", "/v1/accounts/"+a+"/grants", `{"entitlement": "beta", "expires_at": null}`)
	merged := w.api("POST", "/v1/accounts/"+b+"/merges", fmt.Sprintf(`{"from": %q}`, a))
	for _, tt := range []struct {
		what     string
		done     reply
		purchase any
		refs     any
		caller   object
	}{
		{"session.started", app, nil, nil, object{"kind": "api_key", "name": "app"}},
		{"intent.created", intent, nil, object{"intent_id": intent.str("intent_id")}, byApp},
		{"accounts.merged", merged, nil, object{"merge_id": merged.str("merge_id"), "from": a, "to": b}, server},
		{"merge.undone", w.api("DELETE", "/v1/accounts/"+a+"/merges/"+merged.str("merge_id"), ""), nil, object{"merge_id": merged.str("merge_id"), "from": a, "to": b}, server},
		{"grant.created", grant, nil, object{"grant_id": grant.str("grant_id")}, server},
		{"purchase.restored", w.api("POST", "/v1/unclaimed/stripe:"+sub+"/claim", fmt.Sprintf(`{"account_id": %q}`, a)), "stripe:" + sub, object{"to": a}, server},
		{"sessions.ended", w.api("DELETE", "/v1/accounts/"+anonymous+"/sessions", ""), nil, nil, server},
	} {
		t.Run(tt.what, func(t *testing.T) {
			if tt.done.status >= 300 {
				t.Fatalf("%d %s", tt.done.status, tt.done.text)
			}
			request := tt.done.header.Get("Request-Id")
			check := func(where string, ev object) {
				t.Helper()
				if got, want := fmt.Sprint(ev["type"], ev["purchase_id"], ev["refs"], ev["caller"]), fmt.Sprint(tt.what, tt.purchase, tt.refs, tt.caller); got != want {
					t.Errorf("%s it is %s, want %s", where, got, want)
				}
			}
			alone := w.api("GET", "/v1/events/"+request, "")
			check("alone", alone.json)
			listed := false
			for _, ev := range w.api("GET", "/v1/accounts/"+alone.str("account_id")+"/events", "").json["events"].([]any) {
				if ev := ev.(object); ev["correlation_id"] == request {
					check("in the account's list", ev)
					listed = true
				}
			}
			if !listed {
				t.Errorf("the account's list has no event of request %s", request)
			}
		})
	}
}
