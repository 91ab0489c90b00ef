package writer

import (
	"fmt"
	"strings"
	"testing"
)

// TestSupportMergesTwoAccounts: it sees first what would happen, both ids show what both have, and without the merge each has its own again.
func TestSupportMergesTwoAccounts(t *testing.T) {
	w := oneWriter(t)
	w.awaitReady()
	a := w.api("POST", "/v1/accounts", `{"aliases": [{"kind": "custom", "value": "of_a"}], "attributes": {"from": "a"}}`).str("account_id")
	b := w.api("POST", "/v1/accounts", `{"aliases": [{"kind": "custom", "value": "of_b"}]}`).str("account_id")
	for _, id := range []string{a, b} {
		w.stripe(event(unique("evt_"), "customer.subscription.created", subscription(unique("sub_"), id, "price_pro")))
	}
	w.api("POST", "/v1/accounts/"+a+"/grants", `{"entitlement": "beta", "expires_at": null}`)
	before := w.api("GET", "/v1/accounts/"+a, "").text

	preview := w.api("POST", "/v1/accounts/"+b+"/merges", `{"from": "custom:of_a", "preview": true}`)
	for _, part := range []string{`"account_id":"` + b, `"kind":"subscriptions","group":"pro"`, `"accounts":["` + a + `"]`, `"id":"beta"`, `"value":"of_a"`} {
		if preview.status != 200 || !strings.Contains(preview.text, part) {
			t.Errorf("preview = %d %s, want it with %s", preview.status, preview.text, part)
		}
	}
	if after := w.api("GET", "/v1/accounts/"+a, "").text; strings.Contains(after, `"merge_id"`) {
		t.Errorf("after the preview %s, want nothing done", after)
	}

	merged := w.api("POST", "/v1/accounts/"+b+"/merges", fmt.Sprintf(`{"from": %q}`, a), header{"Idempotency-Key": "one"})
	id := merged.str("merge_id")
	if merged.status != 201 || id == "" || merged.str("revision") == "" {
		t.Fatalf("merge = %d %s", merged.status, merged.text)
	}
	if again := w.api("POST", "/v1/accounts/"+b+"/merges", fmt.Sprintf(`{"from": %q}`, a), header{"Idempotency-Key": "one"}); again.text != merged.text {
		t.Errorf("the repeat = %s, want %s", again.text, merged.text)
	}
	for _, name := range []string{a, b, "custom:of_a"} {
		shown := w.api("GET", "/v1/accounts/"+name, "")
		for _, part := range []string{`"account_id":"` + b, `"merge_id":"` + id, `"value":"of_a","account_id":"` + a, `"value":"of_b","account_id":"` + b, `"from":"a"`} {
			if !strings.Contains(shown.text, part) {
				t.Errorf("GET of %s = %s, want it with %s", name, shown.text, part)
			}
		}
		own := w.api("GET", "/v1/accounts/"+name+"/entitlements", "")
		if want := map[string]string{a: a, b: b, "custom:of_a": a}[name]; own.str("account_id") != want || !strings.Contains(own.text, `"beta"`) || strings.Count(own.text, `"stripe:sub_`) < 2 {
			t.Errorf("entitlements of %s = %s, want those of both under its own id", name, own.text)
		}
		trail := w.api("GET", "/v1/accounts/"+name+"/events", "")
		if n := strings.Count(trail.text, `"account.created"`); n != 2 || !strings.Contains(trail.text, `"accounts.merged"`) {
			t.Errorf("events of %s = %s, want those of both", name, trail.text)
		}
	}
	for _, call := range []struct{ path, body, want string }{
		{"/v1/accounts", `{"aliases": [{"kind": "custom", "value": "of_a"}, {"kind": "custom", "value": "of_b"}]}`, b},
		{"/v1/accounts/" + b + "/aliases", `{"kind": "custom", "value": "of_a"}`, a},
		{"/v1/accounts/" + a + "/aliases", `{"kind": "custom", "value": "of_b"}`, b},
	} {
		if r := w.api("POST", call.path, call.body); r.status != 200 || r.str("account_id") != call.want {
			t.Errorf("POST %s %s = %d %s, want 200 of %s, who has it already", call.path, call.body, r.status, r.text, call.want)
		}
	}
	undone := w.api("DELETE", "/v1/accounts/"+a+"/merges/"+id, "")
	if undone.status != 200 || undone.str("revision") == "" {
		t.Fatalf("undo = %d %s", undone.status, undone.text)
	}
	cut := func(text string) string { _, rest, _ := strings.Cut(text, `"created_at"`); return rest }
	if after := w.api("GET", "/v1/accounts/"+a, "").text; cut(after) != cut(before) {
		t.Errorf("after the undo %s, want %s", after, before)
	}
	if trail := w.api("GET", "/v1/accounts/"+a+"/events", "").text; !strings.Contains(trail, `"merge.undone"`) || strings.Count(trail, `"account.created"`) != 1 {
		t.Errorf("events after the undo = %s, want its own and the undo", trail)
	}

	for _, tt := range []struct {
		name, path, body string
		status           int
		slug             string
	}{
		{"with itself", "/v1/accounts/" + a + "/merges", fmt.Sprintf(`{"from": %q}`, a), 400, "same-account"},
		{"with itself, to see it first", "/v1/accounts/" + a + "/merges", fmt.Sprintf(`{"from": %q, "preview": true}`, a), 400, "same-account"},
		{"of nobody", "/v1/accounts/" + a + "/merges", `{"from": "acc_00000000000000000000000000"}`, 404, "not-found"},
		{"of nobody, to see it first", "/v1/accounts/" + a + "/merges", `{"from": "acc_00000000000000000000000000", "preview": true}`, 404, "not-found"},
		{"into nobody", "/v1/accounts/acc_00000000000000000000000000/merges", fmt.Sprintf(`{"from": %q}`, a), 404, "not-found"},
		{"without the other", "/v1/accounts/" + a + "/merges", `{}`, 400, "invalid-request"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if r := w.api("POST", tt.path, tt.body); r.status != tt.status || r.slug() != tt.slug {
				t.Errorf("POST %s %s = %d %s, want %d %s", tt.path, tt.body, r.status, r.text, tt.status, tt.slug)
			}
		})
	}
	w.api("POST", "/v1/accounts/"+b+"/merges", fmt.Sprintf(`{"from": %q}`, a))
	for _, body := range []string{fmt.Sprintf(`{"from": %q}`, b), fmt.Sprintf(`{"from": %q, "preview": true}`, b)} {
		if r := w.api("POST", "/v1/accounts/"+a+"/merges", body); r.status != 409 || r.slug() != "merge-cycle" || r.str("owner") != b {
			t.Errorf("the other way around %s = %d %s, want merge-cycle", body, r.status, r.text)
		}
	}
	if r := w.api("DELETE", "/v1/accounts/"+a+"/merges/"+id, ""); r.status != 404 {
		t.Errorf("undo of a merge that was undone = %d %s", r.status, r.text)
	}
}
