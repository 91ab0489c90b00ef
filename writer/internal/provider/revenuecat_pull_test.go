package provider

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/time/rate"

	"github.com/latchkey/latchkey/pkg/entitlement"
)

// revenueCatServer answers paths with bodies. A path that it lacks is 404.
type revenueCatServer struct {
	*httptest.Server
	mu      sync.Mutex
	answers map[string]string // by path, with or without its query
	status  map[string]int
	header  http.Header
	asked   []string
}

func serveRevenueCat(t *testing.T, answers map[string]string) *revenueCatServer {
	t.Helper()
	s := &revenueCatServer{answers: answers, status: map[string]int{}, header: http.Header{}}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.asked = append(s.asked, r.Header.Get("Authorization")+" "+r.URL.RequestURI())
		w.Header().Set("Date", time.Unix(rcNow, 0).UTC().Format(http.TimeFormat))
		for name, values := range s.header {
			w.Header()[name] = values
		}
		body, ok := s.answers[r.URL.RequestURI()]
		if !ok {
			body, ok = s.answers[r.URL.EscapedPath()]
		}
		status := s.status[r.URL.EscapedPath()]
		if status == 0 {
			if status = http.StatusOK; !ok {
				status = http.StatusNotFound
			}
		}
		w.WriteHeader(status)
		fmt.Fprint(w, body)
	}))
	t.Cleanup(s.Close)
	return s
}

const rcNow = rcStart + 10*rcDay

func (s *revenueCatServer) api(t *testing.T, v1, v2 bool) *RevenueCatAPI {
	t.Helper()
	c := RevenueCatAPIConfig{BaseURL: s.URL, Environment: entitlement.Production, Now: func() time.Time { return time.Unix(rcNow, 5e8) }}
	if v1 {
		c.KeyV1 = "v1key"
	}
	if v2 {
		c.Key, c.Project = "v2key", "proj1"
	}
	a, err := NewRevenueCatAPI(c)
	if err != nil {
		t.Fatal(err)
	}
	a.api.limit.SetBurst(1000)
	return a
}

func iso(t int64) string { return time.Unix(t, 0).UTC().Format(time.RFC3339) }

// v1Of is a customer as version 1 tells of them, with one row of a subscription.
func v1Of(edits map[string]any) string {
	row := map[string]any{"store": "app_store", "is_sandbox": false, "store_transaction_id": 2000000912345678, "purchase_date": iso(rcStart), "expires_date": iso(rcEnd), "original_purchase_date": iso(rcStart),
		"period_type": "normal", "ownership_type": "PURCHASED", "unsubscribe_detected_at": nil, "billing_issues_detected_at": nil, "grace_period_expires_date": nil, "refunded_at": nil, "auto_resume_date": nil,
		"price": map[string]any{"amount": 9.99, "currency": "EUR"}, "display_name": "CANARY"}
	for name, v := range edits {
		row[name] = v
	}
	return marshal(map[string]any{"request_date_ms": rcNow * 1000, "subscriber": map[string]any{
		"original_app_user_id": "user-0", "management_url": "https://CANARY.example", "subscriber_attributes": map[string]any{"$email": map[string]any{"value": "CANARY"}, "account_id": map[string]any{"value": rcAccount}},
		"entitlements":      map[string]any{"pro": map[string]any{"product_identifier": "com.example.pro_monthly", "expires_date": iso(rcEnd)}},
		"subscriptions":     map[string]any{"com.example.pro_monthly": row},
		"non_subscriptions": map[string]any{"com.example.coins_100": []any{map[string]any{"id": "abc", "store": "app_store", "is_sandbox": false, "store_transaction_id": "3001", "purchase_date": iso(rcStart)}}},
	}})
}

// pulled returns what an answer adds to what messages said, as items by product.
func pulled(t *testing.T, a *RevenueCatAPI, before ...string) (ev entitlement.Event, items map[entitlement.ProductID]entitlement.Item) {
	t.Helper()
	ev, err := a.Pull(context.Background(), entitlement.KindCustomer, "user-1")
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(entitlement.Encode(&ev))+string(ev.Raw), "CANARY") {
		t.Errorf("free text is kept: %s", ev.Raw)
	}
	byPurchase := map[entitlement.Link]entitlement.Evidence{}
	for _, objects := range append(rcObjects(t, before...), ev.Objects) {
		for _, o := range objects {
			l := o.Links[len(o.Links)-1]
			if strings.HasPrefix(string(l), "apple:tx:200000") {
				l = "apple:tx:2000000912345678" // one purchase, by the original id
			}
			byPurchase[l] = byPurchase[l].Add(o)
		}
	}
	items = map[entitlement.ProductID]entitlement.Item{}
	for _, e := range byPurchase {
		for _, item := range entitlement.Fold(e, entitlement.DefaultPolicy).Items {
			items[item.Term.Product] = item
		}
	}
	return ev, items
}

// Version 1 says of one subscription what its messages do, and makes up for those that were lost.
func TestRevenueCatV1(t *testing.T) {
	bought := rcEvent("INITIAL_PURCHASE", 6, nil)
	tests := []struct {
		name   string
		before []string
		edits  map[string]any
		want   entitlement.Item // State, AccessUntil, WillRenew, Reason
	}{
		{"a purchase that was told", []string{bought}, nil, entitlement.Item{State: entitlement.Live, AccessUntil: rcEnd + rcDay, WillRenew: true}},
		{"a purchase that was not", nil, nil, entitlement.Item{State: entitlement.Live, AccessUntil: rcEnd + rcDay, WillRenew: true}},
		{"a cancellation that was not told", []string{bought}, map[string]any{"unsubscribe_detected_at": iso(rcNow - 60)}, entitlement.Item{State: entitlement.Live, AccessUntil: rcEnd}},
		{"a refund that was not told", []string{bought}, map[string]any{"refunded_at": iso(rcNow - 60), "expires_date": iso(rcNow - 60), "unsubscribe_detected_at": iso(rcNow - 60)},
			entitlement.Item{State: entitlement.Revoked, AccessUntil: rcNow - 60, Reason: entitlement.ReasonRefunded}},
		{"a reversed refund that was not told", []string{bought, rcEvent("CANCELLATION", 5*rcDay, map[string]any{"cancel_reason": "CUSTOMER_SUPPORT", "expiration_at_ms": (rcStart + 5*rcDay) * 1000})}, map[string]any{"unsubscribe_detected_at": iso(rcNow - 60)},
			entitlement.Item{State: entitlement.Live, AccessUntil: rcEnd}},
		{"a grace that was not told", []string{bought}, map[string]any{"expires_date": iso(rcNow - 60), "billing_issues_detected_at": iso(rcNow - 60), "grace_period_expires_date": iso(rcNow + 16*rcDay)},
			entitlement.Item{State: entitlement.Retrying, AccessUntil: rcNow + 16*rcDay, BillingGraceUntil: rcNow + 16*rcDay, WillRenew: true}},
		{"a card that failed", []string{bought}, map[string]any{"expires_date": iso(rcNow - 60), "billing_issues_detected_at": iso(rcNow - 60)}, entitlement.Item{State: entitlement.Retrying, AccessUntil: rcNow - 60, WillRenew: true}},
		{"a pause", []string{bought}, map[string]any{"auto_resume_date": iso(rcEnd + 30*rcDay), "expires_date": iso(rcNow - 60)}, entitlement.Item{State: entitlement.OnHold, AccessUntil: rcNow - 60, WillRenew: true}},
		{"an expiration that was told and is undone", []string{bought, rcEvent("EXPIRATION", 5*rcDay, nil)}, nil, entitlement.Item{State: entitlement.Live, AccessUntil: rcEnd + rcDay, WillRenew: true}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := serveRevenueCat(t, map[string]string{"/v1/subscribers/user-1": v1Of(tt.edits)})
			ev, items := pulled(t, s.api(t, true, false), tt.before...)
			got := items["com.example.pro_monthly"]
			got = entitlement.Item{State: got.State, AccessUntil: got.AccessUntil, BillingGraceUntil: got.BillingGraceUntil, WillRenew: got.WillRenew, Reason: got.Reason}
			if got.State != tt.want.State || got.AccessUntil != tt.want.AccessUntil || got.BillingGraceUntil != tt.want.BillingGraceUntil || got.WillRenew != tt.want.WillRenew || got.Reason != tt.want.Reason {
				t.Errorf("got  %+v\nwant %+v", got, tt.want)
			}
			if coins := items["com.example.coins_100"]; coins.State != entitlement.Live || coins.AccessUntil != 0 || coins.Recurring {
				t.Errorf("what does not renew: %+v", coins)
			}
			customer := ev.Objects[0]
			if customer.Kind != entitlement.KindCustomer || customer.ID != "user-1" || customer.Customer.Gone || customer.At != rcNow*1e9 || ev.CreatedAt != rcNow {
				t.Errorf("customer %+v of %d", customer, ev.CreatedAt)
			}
			if o := ev.Objects[1]; o.Account != rcAccount || len(o.Aliases) != 2 {
				t.Errorf("owner %q %v", o.Account, o.Aliases)
			}
		})
	}
}

func TestRevenueCatV1Rows(t *testing.T) {
	with := func(name string, v any) map[string]any { return map[string]any{name: v} }
	tests := []struct {
		name  string
		edits map[string]any
		terms int // beside that of what does not renew
	}{
		{"of the other environment", with("is_sandbox", true), 0},
		{"without a transaction", with("store_transaction_id", nil), 0},
		{"an end of a wrong type", with("expires_date", 7), 0},
		{"never ends", with("expires_date", nil), 1},
		{"granted inside RevenueCat", with("store", "promotional"), 1},
		{"granted by us", map[string]any{"store": "promotional", "expires_date": iso(MarkedEnd(time.Unix(rcEnd, 0)).Unix())}, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := serveRevenueCat(t, map[string]string{"/v1/subscribers/user-1": v1Of(tt.edits)})
			ev, _ := pulled(t, s.api(t, true, false))
			terms := 0
			for _, o := range ev.Objects {
				if o.Transaction != nil && o.ID != "3001" {
					terms++
				}
			}
			if terms != tt.terms {
				t.Errorf("%d terms, want %d: %s", terms, tt.terms, ev.Raw)
			}
		})
	}
}

// Version 1 lists an entitlement under one product alone. A refund of another one that gives it counts all the same.
func TestRevenueCatV1TellsOfARefundWithoutWhatItGave(t *testing.T) {
	const yearly = "com.example.pro_yearly"
	bought := rcEvent("INITIAL_PURCHASE", 6, map[string]any{"product_id": yearly, "expiration_at_ms": (rcStart + 365*rcDay) * 1000})
	answer := v1Of(map[string]any{"refunded_at": iso(rcNow - 60), "expires_date": iso(rcNow - 60), "unsubscribe_detected_at": iso(rcNow - 60)})
	answer = strings.Replace(answer, `"com.example.pro_monthly":`, `"`+yearly+`":`, 1) // the row is the yearly one's, the entitlement the monthly one's
	s := serveRevenueCat(t, map[string]string{"/v1/subscribers/user-1": answer})
	ev, items := pulled(t, s.api(t, true, false), bought)
	got := items[yearly]
	if got.State != entitlement.Revoked || got.AccessUntil != rcNow-60 || got.Reason != entitlement.ReasonRefunded || !slices.Equal(got.Entitlements, []string{"pro"}) {
		t.Errorf("got %+v by %s", got, ev.Raw)
	}
}

// Version 1 lists one subscription of a product. The other one is found in version 2's list, and what both list is told once, as version 1 has it.
func TestRevenueCatV2HasWhatV1Hides(t *testing.T) {
	const base = "/v2/projects/proj1/customers/user-1"
	v2 := func(id, store, storeID string, start int64, status string) map[string]any {
		return map[string]any{"id": id, "product_id": "prod1", "starts_at": start * 1000, "current_period_starts_at": start * 1000, "current_period_ends_at": rcEnd * 1000, "ends_at": rcEnd * 1000, "gives_access": status == "active",
			"auto_renewal_status": "will_renew", "status": status, "environment": "production", "store": store, "store_subscription_identifier": storeID, "ownership": "purchased",
			"entitlements": map[string]any{"items": []any{map[string]any{"lookup_key": "pro"}}}}
	}
	tests := []struct {
		name           string
		row            map[string]any
		listed, hidden map[string]any
		want           entitlement.Link // of the hidden one
	}{
		{"of Play", map[string]any{"store": "play_store", "store_transaction_id": "GPA.1111-2222-3333-44444..2"}, v2("a", "play_store", "GPA.1111-2222-3333-44444", rcStart-60*rcDay, "active"),
			v2("b", "play_store", "GPA.5555-6666-7777-88888", rcStart-30, "active"), "google:tx:GPA.5555-6666-7777-88888"},
		{"of Stripe", map[string]any{"store": "stripe", "store_transaction_id": "in_1"}, v2("a", "stripe", "sub_1", rcStart, "active"), v2("b", "stripe", "sub_2", rcStart-30, "active"), "stripe:sub_2"},
		{"of the App Store", nil, v2("a", "app_store", "2000000912345678", rcStart-60*rcDay, "active"), v2("b", "app_store", "3000000000000001", rcStart-30, "active"), "apple:tx:3000000000000001"},
		{"that has ended", map[string]any{"store": "play_store", "store_transaction_id": "GPA.1111-2222-3333-44444"}, v2("a", "play_store", "GPA.1111-2222-3333-44444", rcStart, "active"),
			v2("b", "play_store", "GPA.5555-6666-7777-88888", rcStart-30, "expired"), "google:tx:GPA.5555-6666-7777-88888"},
		{"of the other environment", nil, v2("a", "app_store", "2000000912345678", rcStart, "active"), func() map[string]any {
			o := v2("b", "app_store", "3000000000000001", rcStart-30, "active")
			o["environment"] = "sandbox"
			return o
		}(), ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			answers := map[string]string{
				"/v1/subscribers/user-1": v1Of(tt.row), base + "?expand=attributes": marshal(map[string]any{"id": "user-1"}), base + "/aliases": `{"items": []}`,
				base + "/subscriptions":             marshal(map[string]any{"items": []any{tt.listed, tt.hidden}}),
				"/v2/projects/proj1/products/prod1": marshal(map[string]any{"id": "prod1", "store_identifier": "com.example.pro_monthly"}),
			}
			s := serveRevenueCat(t, answers)
			ev, _ := pulled(t, s.api(t, true, true))
			var hidden []entitlement.Object
			standing := map[string]int{}
			for _, o := range ev.Objects {
				if o.Renewal != nil {
					standing[fmt.Sprint(o.Links)]++
				}
				if slices.Contains(o.Links, tt.want) {
					hidden = append(hidden, o)
				}
			}
			at := slices.IndexFunc(hidden, func(o entitlement.Object) bool { return o.Renewal != nil })
			if (at >= 0) != (tt.want != "") || at >= 0 && (hidden[at].Account != rcAccount || len(hidden[at].Aliases) == 0 || (hidden[at].Renewal.Phase == entitlement.PhaseExpired) != (tt.hidden["status"] == "expired")) {
				t.Errorf("of the hidden one: %+v", hidden)
			}
			want := 1
			if tt.want != "" {
				want = 2
			}
			if len(standing) != want || len(ev.Objects) == 0 {
				t.Errorf("subscriptions: %v, want %d", standing, want)
			}

			s.asked = nil
			answers[base+"/subscriptions"] = marshal(map[string]any{"items": []any{tt.listed}})
			if ev, _ = pulled(t, s.api(t, true, true)); len(s.asked) != 4 || slices.ContainsFunc(ev.Objects, func(o entitlement.Object) bool { return slices.Contains(o.Links, tt.want) }) {
				t.Errorf("where nothing is hidden: asked %q", s.asked)
			}
		})
	}
}

func TestRevenueCatV2(t *testing.T) {
	const base = "/v2/projects/proj1/customers/user-1"
	subscription := map[string]any{"object": "subscription", "id": "sub1", "product_id": "prod1", "starts_at": rcStart * 1000, "current_period_starts_at": rcEnd * 1000, "current_period_ends_at": (rcEnd + 30*rcDay) * 1000,
		"gives_access": true, "auto_renewal_status": "will_renew", "status": "active", "environment": "production", "store": "app_store", "store_subscription_identifier": "2000000923456789", "ownership": "purchased",
		"entitlements": map[string]any{"items": []any{map[string]any{"lookup_key": "pro", "display_name": "CANARY"}}}}
	answers := map[string]string{
		base + "?expand=attributes": marshal(map[string]any{"object": "customer", "id": "user-1", "attributes": map[string]any{"items": []any{map[string]any{"name": "account_id", "value": rcAccount}, map[string]any{"name": "note", "value": "CANARY"}}}}),
		base + "/aliases":           marshal(map[string]any{"items": []any{map[string]any{"id": "user-1"}, map[string]any{"id": "$RCAnonymousID:1"}}, "next_page": base + "/aliases?starting_after=x"}),
		base + "/aliases?environment=production&limit=100&starting_after=x": marshal(map[string]any{"items": []any{map[string]any{"id": "user-2"}}, "next_page": nil}),
		base + "/subscriptions": marshal(map[string]any{"items": []any{subscription}}),
		"/v2/projects/proj1/subscriptions/sub1/transactions": marshal(map[string]any{"items": []any{
			map[string]any{"id": "2000000912345678", "purchased_at": rcStart * 1000, "expiration_date": rcEnd * 1000, "product_store_identifier": "com.example.pro_monthly"},
			map[string]any{"id": "2000000923456789", "purchased_at": rcEnd * 1000, "expiration_date": (rcEnd + 30*rcDay) * 1000, "product_store_identifier": "com.example.pro_monthly"}}}),
		base + "/purchases": marshal(map[string]any{"items": []any{map[string]any{"id": "p1", "product_id": "prod2", "purchased_at": rcStart * 1000, "status": "owned", "quantity": 3, "environment": "production", "store": "app_store", "store_purchase_identifier": "3001"},
			map[string]any{"id": "p2", "product_id": "prod2", "purchased_at": rcStart * 1000, "status": "refunded", "environment": "sandbox", "store": "app_store", "store_purchase_identifier": "3002"}}}),
		"/v2/projects/proj1/products/prod2": marshal(map[string]any{"id": "prod2", "store_identifier": "com.example.coins_100"}),
	}
	s := serveRevenueCat(t, answers)
	ev, items := pulled(t, s.api(t, false, true), rcEvent("INITIAL_PURCHASE", 6, nil))
	if pro := items["com.example.pro_monthly"]; pro.State != entitlement.Live || pro.AccessUntil != rcEnd+31*rcDay || !slices.Equal(pro.Entitlements, []string{"pro"}) {
		t.Errorf("a renewal that was not told: %+v", pro)
	}
	if coins := items["com.example.coins_100"]; coins.State != entitlement.Live || coins.Term.Quantity != 3 {
		t.Errorf("what does not renew: %+v", coins)
	}
	if o := ev.Objects[1]; o.Account != rcAccount || len(o.Aliases) != 3 {
		t.Errorf("owner %q %v", o.Account, o.Aliases)
	}
	for _, uri := range s.asked {
		if !strings.HasPrefix(uri, "Bearer v2key /v2/") {
			t.Errorf("asked %s", uri)
		}
	}
	// Where both keys are there version 2 knows the names and version 1 the purchases.
	answers["/v1/subscribers/user-1"] = v1Of(nil)
	ev, items = pulled(t, s.api(t, true, true))
	if pro := items["com.example.pro_monthly"]; pro.State != entitlement.Live || len(ev.Objects[1].Aliases) != 4 {
		t.Errorf("with both keys: %+v of %v", pro, ev.Objects[1].Aliases)
	}
}

func TestStandingV2(t *testing.T) {
	tests := []struct {
		status, renewal string
		want            entitlement.Renewal
	}{
		{"trialing", "will_renew", entitlement.Renewal{Phase: entitlement.PhaseActive, WillRenew: true}},
		{"active", "will_not_renew", entitlement.Renewal{Phase: entitlement.PhaseActive}},
		{"in_grace_period", "will_renew", entitlement.Renewal{Phase: entitlement.PhaseBillingGrace, WillRenew: true, GraceUntil: 9}},
		{"in_billing_retry", "will_renew", entitlement.Renewal{Phase: entitlement.PhaseBillingRetry, WillRenew: true}},
		{"paused", "will_renew", entitlement.Renewal{Phase: entitlement.PhasePaused, WillRenew: true}},
		{"incomplete", "", entitlement.Renewal{Phase: entitlement.PhasePending}},
		{"expired", "will_renew", entitlement.Renewal{Phase: entitlement.PhaseExpired, EndedAt: 7}},
		{"unknown", "will_renew", entitlement.Renewal{WillRenew: true}},
	}
	for _, tt := range tests {
		got := standingV2(object{"status": tt.status, "auto_renewal_status": tt.renewal, "current_period_ends_at": int64(7000)}, 9)
		if *got != tt.want {
			t.Errorf("%s, %s: %+v, want %+v", tt.status, tt.renewal, *got, tt.want)
		}
	}
}

func TestRevenueCatDoesNotKnowThem(t *testing.T) {
	s := serveRevenueCat(t, map[string]string{"/v1/subscribers/user-1": v1Of(nil)})
	s.status["/v1/subscribers/user-1"] = http.StatusCreated
	for name, a := range map[string]*RevenueCatAPI{"version 1 made them": s.api(t, true, false), "version 2": s.api(t, false, true), "both": s.api(t, true, true)} {
		ev, err := a.Pull(context.Background(), entitlement.KindCustomer, "user-1")
		if err != nil || len(ev.Objects) != 1 || !ev.Objects[0].Customer.Gone {
			t.Errorf("%s: %+v, %v", name, ev.Objects, err)
		}
	}
	made := 0
	for _, uri := range s.asked {
		if strings.Contains(uri, "/v1/") {
			made++
		}
	}
	if made != 1 {
		t.Errorf("version 1 was asked %d times: it makes whom it does not know, and version 2 had said so", made)
	}
}

func TestRevenueCatFailures(t *testing.T) {
	tests := []struct {
		status int
		body   string
		header http.Header
		want   error
		after  time.Duration
	}{
		{401, `{"code":7225,"message":"Invalid API Key."}`, nil, ErrCredential, 0},
		{403, `{"code":7243,"message":"Secret API keys should not be used"}`, nil, ErrCredential, 0},
		{404, `{"code":7259}`, nil, ErrGone, 0},
		{429, `{"object":"error","type":"rate_limit_error","backoff_ms":1000}`, http.Header{"Retry-After": {"7"}}, ErrLimited, 7 * time.Second},
		{429, `{"object":"error","type":"rate_limit_error","backoff_ms":1500}`, nil, ErrLimited, 1500 * time.Millisecond},
		{429, `{"object":"error","backoff_ms":9000}`, http.Header{"Retry-After": {"7"}}, ErrLimited, 9 * time.Second},
		{429, `{"object":"error","backoff_ms":9223372036854775807}`, nil, ErrLimited, maxRetryAfter},
		{429, `{"object":"error","backoff_ms":-4}`, nil, ErrLimited, 0},
		{429, `{"object":"error","backoff_ms":"soon"}`, nil, ErrLimited, 0},
		{429, `busy`, nil, ErrLimited, 0},
		{423, `{"object":"error","type":"resource_locked_error"}`, nil, ErrUnavailable, 0},
		{423, `{"object":"error","type":"resource_locked_error","backoff_ms":2000}`, nil, ErrUnavailable, 2 * time.Second},
		{500, `{"object":"error","type":"server_error","backoff_ms":800}`, nil, ErrUnavailable, 800 * time.Millisecond},
		{503, ``, http.Header{"Retry-After": {"3"}}, ErrUnavailable, 3 * time.Second},
		{400, `{"code":7000,"message":"Bad parameters"}`, nil, ErrAnswer, 0},
		{200, `[]`, nil, ErrAnswer, 0},
		{200, `{}`, nil, ErrAnswer, 0},
		{200, `{"subscriber":7}`, nil, ErrAnswer, 0},
	}
	for _, tt := range tests {
		t.Run(fmt.Sprint(tt.status, " ", tt.body), func(t *testing.T) {
			s := serveRevenueCat(t, map[string]string{"/v1/subscribers/user-1": tt.body})
			s.status["/v1/subscribers/user-1"], s.header = tt.status, tt.header
			_, err := s.api(t, true, false).Pull(context.Background(), entitlement.KindCustomer, "user-1")
			var failed *PullError
			if !errors.As(err, &failed) || !errors.Is(err, tt.want) || failed.RetryAfter != tt.after {
				t.Errorf("Pull = %v (%+v), want %v after %s", err, failed, tt.want, tt.after)
			}
			if strings.Contains(fmt.Sprint(err), "v1key") {
				t.Errorf("the error holds the key: %v", err)
			}
		})
	}
}

func TestRevenueCatSlowsDownWithItsLimit(t *testing.T) {
	s := serveRevenueCat(t, map[string]string{"/v1/subscribers/user-1": v1Of(nil)})
	a := s.api(t, true, false)
	a.api.limit = rate.NewLimiter(revenueCatRequestsPerSecond, 10) // as for one that is not on this machine
	for _, tt := range []struct {
		used string
		want float64
	}{{"0", revenueCatRequestsPerSecond}, {"420", 1}, {"480", revenueCatSlowest}, {"what", revenueCatSlowest}} {
		s.header = http.Header{"Revenuecat-Rate-Limit-Current-Usage": {tt.used}, "Revenuecat-Rate-Limit-Current-Limit": {"480"}}
		if _, err := a.Pull(context.Background(), entitlement.KindCustomer, "user-1"); err != nil {
			t.Fatal(err)
		}
		if got := float64(a.api.limit.Limit()); got != tt.want {
			t.Errorf("%s of 480 used: %g a second, want %g", tt.used, got, tt.want)
		}
	}
}

func TestRevenueCatTargets(t *testing.T) {
	e, _ := purchaseOf(rcObjects(t, rcEvent("INITIAL_PURCHASE", 6, nil)))
	doubts := []entitlement.Doubt{{Kind: entitlement.KindRenewal, ID: "app_store", From: 5, By: entitlement.RevenueCat}, {Kind: entitlement.KindCustomer, ID: "user-9", From: 3, By: entitlement.RevenueCat},
		{Kind: entitlement.KindTransaction, ID: "1", From: 7, By: entitlement.RevenueCat}}
	got := (&RevenueCatAPI{}).Targets(e, doubts)
	want := []entitlement.Doubt{{Kind: entitlement.KindCustomer, ID: rcAccount, From: 7, By: entitlement.RevenueCat}, {Kind: entitlement.KindCustomer, ID: "user-9", From: 3, By: entitlement.RevenueCat}}
	if !slices.Equal(got, want) {
		t.Errorf("Targets = %+v, want %+v", got, want)
	}
	if got := (&RevenueCatAPI{}).Targets(entitlement.Evidence{}, doubts[:1]); len(got) != 0 {
		t.Errorf("of a purchase without a name: %+v", got)
	}
}

// A change that is made while a card is retried is no word about the grace: its end is still asked about.
func TestTheEndOfAGraceIsAskedAboutAfterAChangeInIt(t *testing.T) {
	play := func(kind string, after int64, more rcEdits) string {
		edits := rcEdits{"store": "PLAY_STORE", "product_id": "pro:monthly", "transaction_id": "GPA.3301-2210", "original_transaction_id": "GPA.3301-2210"}
		maps.Copy(edits, more)
		return rcEvent(kind, after, edits)
	}
	graceEnd := rcEnd + 16*rcDay
	api := &RevenueCatAPI{}
	for _, kind := range []string{"PRODUCT_CHANGE", "UNCANCELLATION", "SUBSCRIPTION_PAUSED", "CANCELLATION"} {
		e, asks := purchaseOf(rcObjects(t, play("INITIAL_PURCHASE", 6, nil), play("BILLING_ISSUE", 30*rcDay, rcEdits{"grace_period_expiration_at_ms": graceEnd * 1000}), play(kind, 30*rcDay+3600, nil)))
		if len(asks) != 1 {
			t.Errorf("%s in a grace asks about %q, want the customer", kind, asks)
		}
		if until := entitlement.Fold(e, entitlement.DefaultPolicy).Items[0].AccessUntil; until != graceEnd {
			t.Errorf("%s in a grace: access until %d, want the grace's end %d", kind, until, graceEnd)
		}
		for late, want := range map[time.Duration]int{aggregatorEndPoll - time.Second: 0, aggregatorEndPoll: 1} {
			if due := api.Due(e, func(string) time.Time { return time.Time{} }, time.Unix(graceEnd, 0).Add(late)); len(due) != want {
				t.Errorf("%s in a grace: %v after its end %d customers are due, want %d", kind, late, len(due), want)
			}
		}
	}
}

func TestNewRevenueCatAPI(t *testing.T) {
	for _, tt := range []struct {
		config RevenueCatAPIConfig
		want   error
	}{
		{RevenueCatAPIConfig{}, ErrRevenueCatKey},
		{RevenueCatAPIConfig{Key: "a b", Project: "p"}, ErrRevenueCatKey},
		{RevenueCatAPIConfig{Key: "secret"}, ErrRevenueCatProject},
		{RevenueCatAPIConfig{KeyV1: "a\nb"}, ErrRevenueCatKeyV1},
		{RevenueCatAPIConfig{KeyV1: "secret", BaseURL: "http://api.example"}, ErrRevenueCatBase},
		{RevenueCatAPIConfig{KeyV1: "secret", Key: "secret", Project: "p"}, nil},
	} {
		if _, err := NewRevenueCatAPI(tt.config); !errors.Is(err, tt.want) || err != nil && strings.Contains(err.Error(), "secret") {
			t.Errorf("NewRevenueCatAPI(%+v) = %v, want %v", tt.config, err, tt.want)
		}
	}
}
