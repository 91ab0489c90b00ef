package writer

import (
	"bytes"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"
)

// TestWebhookOutcomes goes through section 2 of the contract: what is answered, and whether anything was stored.
func TestWebhookOutcomes(t *testing.T) {
	w := oneWriter(t)
	acc := w.account()
	good := event("evt_good", "customer.subscription.created", subscription("sub_good", acc, "price_pro"))
	other := event("evt_good", "customer.subscription.created", subscription("sub_other", acc, "price_pro"))
	now := time.Now()
	tests := []struct {
		name    string
		path    string // "": sandbox, stripe
		body    []byte
		header  header // nil: signed now
		status  int
		slug    string // of the problem
		outcome string
		stored  bool
		wantDup bool
		eventID string
	}{
		{name: "committed", body: good, status: 200, outcome: "recorded", stored: true, eventID: "evt_good"},
		{name: "seen before", body: good, status: 200, outcome: "recorded", stored: true, wantDup: true, eventID: "evt_good"},
		{name: "an id used before with another content", body: other, status: 200, outcome: "conflicting", stored: true, wantDup: true, eventID: "evt_good"},
		{name: "signed with the secret that is being rolled in", body: event("evt_second", "ping", object{"id": "x"}),
			header: signed(event("evt_second", "ping", object{"id": "x"}), stripeSecret2, now), status: 200, outcome: "unhandled", stored: true, eventID: "evt_second"},
		{name: "a type that we do not act on", body: event("evt_type", "customer.tax_id.created", object{"id": "x", "object": "tax_id"}), status: 200,
			outcome: "unhandled", stored: true, eventID: "evt_type"},
		{name: "authentic but unreadable", body: []byte(`{"id": "evt_cut", "type": `), status: 200, outcome: "unreadable", stored: true},
		{name: "a message of the other environment", body: event("evt_live", "customer.subscription.created", subscription("sub_live", acc, "price_pro"), object{"livemode": true}),
			status: 200, outcome: "wrong_environment", stored: true, eventID: "evt_live"},
		{name: "no signature", body: event("evt_none", "ping", object{}), header: header{}, status: 401, slug: "invalid-signature"},
		{name: "signed with a secret that is not ours", body: event("evt_wrong", "ping", object{}),
			header: signed(event("evt_wrong", "ping", object{}), "whsec_wrong", now), status: 401, slug: "invalid-signature"},
		{name: "a changed body", body: event("evt_changed", "ping", object{"a": 1}),
			header: signed(event("evt_changed", "ping", object{"a": 2}), stripeSecret, now), status: 401, slug: "invalid-signature"},
		{name: "signed 301 s ago", body: event("evt_old", "ping", object{}),
			header: signed(event("evt_old", "ping", object{}), stripeSecret, now.Add(-305*time.Second)), status: 401, slug: "stale-signature"},
		{name: "signed in the future", body: event("evt_future", "ping", object{}),
			header: signed(event("evt_future", "ping", object{}), stripeSecret, now.Add(320*time.Second)), status: 401, slug: "stale-signature"},
		{name: "a body of 2 MiB", body: bytes.Repeat([]byte("x"), 2<<20), status: 413, slug: "body-too-large"},
		{name: "a provider that is not configured", path: "/v1/webhooks/sandbox/apple", body: good, status: 404, slug: "not-found"},
		{name: "Adapty, which is not configured and repeats nothing after a 404", path: "/v1/webhooks/sandbox/adapty", body: good, status: 503, slug: "not-found"},
		{name: "Adapty, in an environment that is none", path: "/v1/webhooks/staging/adapty", body: good, status: 503, slug: "unknown-environment"},
		{name: "a provider that is none", path: "/v1/webhooks/sandbox/nobody", body: good, status: 404, slug: "not-found"},
		{name: "an environment that is none", path: "/v1/webhooks/staging/stripe", body: good, status: 404, slug: "unknown-environment"},
		{name: "the other environment's address with this one's secret", path: "/v1/webhooks/production/stripe", body: good, status: 401, slug: "invalid-signature"},
		{name: "a method that is none", path: "/v1/webhooks/sandbox/stripe/x", body: good, status: 404, slug: "not-found"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			path, h := "/v1/webhooks/sandbox/stripe", tt.header
			if tt.path != "" {
				path = tt.path
			}
			if h == nil {
				h = signed(tt.body, stripeSecret, time.Now())
			}
			before := w.store.Position()
			r := w.do("POST", path, string(tt.body), h)
			if r.status != tt.status || r.slug() != tt.slug || r.str("outcome") != tt.outcome {
				t.Fatalf("POST %s = %d %s, want %d %s%s", path, r.status, r.text, tt.status, tt.slug, tt.outcome)
			}
			if r.header.Get(requestIDHeader) == "" {
				t.Error("answer without a request id")
			}
			if tt.slug != "" {
				if r.str("request_id") != r.header.Get(requestIDHeader) || r.header.Get("Content-Type") != "application/problem+json" {
					t.Errorf("not a whole problem: %s", r.text)
				}
				if after := w.store.Position(); after != before {
					t.Errorf("refused, and the position went from %v to %v", before, after)
				}
				return
			}
			if dup, _ := r.json["duplicate"].(bool); dup != tt.wantDup {
				t.Errorf("duplicate = %t, want %t", dup, tt.wantDup)
			}
			id := r.str("event_id")
			if tt.eventID != "" && id != tt.eventID || id == "" {
				t.Errorf("event_id = %q, want %q", id, tt.eventID)
			}
			if got := w.api("GET", "/v1/events/"+id, ""); (got.status == http.StatusOK) != tt.stored {
				t.Errorf("GET /v1/events/%s = %d %s", id, got.status, got.text)
			}
		})
	}
	if pro := w.pro(acc); pro["active"] != true || pro["purchase_id"] != "stripe:sub_good" {
		t.Errorf("pro = %v, want it active by sub_good alone", pro)
	}
	if r := w.do("GET", "/v1/webhooks/sandbox/stripe", "", nil); r.status != 405 || r.slug() != "method-not-allowed" || r.header.Get("Allow") != "POST" {
		t.Errorf("GET of a webhook's address = %d %s, Allow %q", r.status, r.text, r.header.Get("Allow"))
	}
}

// TestNineAtOnce sends one event nine times at the same moment: one effect, one answer without duplicate, one revision.
func TestNineAtOnce(t *testing.T) {
	w := oneWriter(t)
	acc := w.account()
	body := event(unique("evt_"), "customer.subscription.created", subscription(unique("sub_"), acc, "price_pro"))
	before := w.store.Position().N
	replies := make([]reply, 9)
	var group sync.WaitGroup
	for i := range replies {
		group.Go(func() { replies[i] = w.stripe(body) })
	}
	group.Wait()
	fresh := 0
	for i, r := range replies {
		if r.status != http.StatusOK || r.str("revision") != replies[0].str("revision") {
			t.Errorf("answer %d = %d %s, want 200 and the revision %s of all", i, r.status, r.text, replies[0].str("revision"))
		}
		if r.json["duplicate"] == false {
			fresh++
		}
	}
	if fresh != 1 {
		t.Errorf("%d answers without duplicate, want 1", fresh)
	}
	if after := w.store.Position().N; after != before+1 {
		t.Errorf("the revision went from %d to %d, want one change", before, after)
	}
	if pro := w.pro(acc); pro["active"] != true {
		t.Errorf("pro = %v, want it active", pro)
	}
}

// TestCorrelation follows one webhook by its request id: answer, log, audit trail.
func TestCorrelation(t *testing.T) {
	w := oneWriter(t)
	id := unique("evt_")
	r := w.stripe(event(id, "customer.subscription.created", subscription(unique("sub_"), "", "price_pro")))
	correlation := r.header.Get(requestIDHeader)
	if correlation == "" || !strings.Contains(w.logs.String(), `"correlation_id":"`+correlation+`"`) {
		t.Errorf("the log does not have the request's id %q", correlation)
	}
	if got := w.api("GET", "/v1/events/"+id, "").str("correlation_id"); got != correlation {
		t.Errorf("GET /v1/events/%s has the correlation id %q, want %q", id, got, correlation)
	}
}

// TestHowLateAMessageIsIsShown: each recorded message counts once by the provider's own time, whatever is repeated, and neither what proves
// nothing nor a date ahead falsifies it (R28).
func TestHowLateAMessageIsIsShown(t *testing.T) {
	w := oneWriter(t)
	send := func(id, kind string, created time.Time) {
		t.Helper()
		body := event(id, kind, subscription("sub_"+id, w.account(), "price_pro"), object{"created": created.Unix()})
		if r := w.stripe(body); r.status != http.StatusOK {
			t.Fatalf("%s: %d %s", id, r.status, r.text)
		}
		if r := w.stripe(body); r.json["duplicate"] != true {
			t.Fatalf("%s again: %d %s, want a duplicate", id, r.status, r.text)
		}
	}
	now := time.Now()
	send("evt_late", "customer.subscription.created", now.Add(-40*time.Minute))
	send("evt_ahead", "customer.subscription.created", now.Add(time.Hour))
	send("evt_other", "customer.tax_id.created", now.Add(-40*time.Minute))
	const series = "latchkey_writer_provider_event_to_record_seconds"
	for line, want := range map[string]string{
		series + `_bucket{by="webhook",provider="stripe",le="1"}`:    "1",
		series + `_bucket{by="webhook",provider="stripe",le="900"}`:  "1",
		series + `_bucket{by="webhook",provider="stripe",le="3600"}`: "2",
		series + `_count{by="webhook",provider="stripe"}`:            "2",
		series + `_count{by="pull",provider="stripe"}`:               "0",
		series + `_count{by="webhook",provider="apple"}`:             "0",
	} {
		if got := w.metric(line); got != want {
			t.Errorf("%s = %s, want %s", line, got, want)
		}
	}
}
