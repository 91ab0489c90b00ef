package provider

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tidwall/gjson"

	"github.com/latchkey/latchkey/pkg/entitlement"
)

const adaptyKey = "secret_live_canary"

// adaptyProfileAnswer is a profile with a subscription that renews, a lifetime sale, one of the other environment and one that we granted.
func adaptyProfileAnswer(level ...props) string {
	entry := props{"access_level_id": "premium", "store": "app_store", "store_product_id": "com.example.pro_monthly", "store_base_plan_id": nil, "store_transaction_id": "2000000912345678",
		"store_original_transaction_id": "2000000912345678", "offer": nil, "starts_at": nil, "purchased_at": adaptyBought.Format(time.RFC3339), "originally_purchased_at": adaptyBought.Format(time.RFC3339),
		"expires_at": "2026-12-01T08:20:11+00:00", "renewal_cancelled_at": nil, "billing_issue_detected_at": nil, "is_in_grace_period": false, "cancellation_reason": nil}
	for _, m := range level {
		for name, value := range m {
			entry[name] = value
		}
	}
	sub := props{}
	for name, value := range entry {
		if name != "access_level_id" {
			sub[name] = value
		}
	}
	sub["environment"] = "Production"
	return marshal(props{"data": props{"app_id": "14c3d333-2f3a-455a-aa86-ef83dff6913b", "profile_id": adaptyBuyer, "customer_user_id": adaptyAccountA, "total_revenue_usd": 19.98, "segment_hash": "x",
		"timestamp": 1793550000123, "custom_attributes": []any{props{"key": "name", "value": "canary"}}, "access_levels": []any{entry,
			props{"access_level_id": "other", "store": "adapty", "store_product_id": "adapty_server_side_product", "store_transaction_id": "a1", "expires_at": MarkedEnd(adaptyEnds).Format(time.RFC3339)},
		}, "subscriptions": []any{sub}, "non_subscriptions": []any{
			props{"purchase_id": "p1", "store": "app_store", "store_product_id": "com.example.coins_100", "store_transaction_id": "30", "store_original_transaction_id": "30", "purchased_at": adaptyBought.Format(time.RFC3339), "environment": "Production", "is_refund": false, "is_consumable": true},
			props{"purchase_id": "p2", "store": "app_store", "store_product_id": "com.example.coins_100", "store_transaction_id": "31", "store_original_transaction_id": "31", "purchased_at": adaptyBought.Format(time.RFC3339), "environment": "Sandbox", "is_refund": false, "is_consumable": true},
		}}})
}

// servingJSON is a server that answers every request alike and notes what it was asked.
func servingJSON(t *testing.T, status int, header http.Header, body string) (base string, asked *[]*http.Request) {
	t.Helper()
	asked = &[]*http.Request{}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		*asked = append(*asked, r)
		for name, values := range header {
			w.Header()[name] = values
		}
		w.WriteHeader(status)
		fmt.Fprint(w, body)
	}))
	t.Cleanup(s.Close)
	return s.URL, asked
}

func newAdaptyAPI(t *testing.T, base string, at time.Time) *AdaptyAPI {
	t.Helper()
	api, err := NewAdaptyAPI(AdaptyAPIConfig{Key: adaptyKey, BaseURL: base, Environment: entitlement.Production, Now: func() time.Time { return at }})
	if err != nil {
		t.Fatal(err)
	}
	return api
}

// saleIn returns what an event says about the purchase with a link.
func saleIn(ev entitlement.Event, link entitlement.Link) (e entitlement.Evidence) {
	for _, o := range ev.Objects {
		if slices.Contains(o.Links, link) {
			e = e.Add(o)
		}
	}
	return e
}

func TestAdaptyPull(t *testing.T) {
	at := adaptyBought.AddDate(0, 0, 3).Add(1234 * time.Millisecond)
	base, asked := servingJSON(t, http.StatusOK, nil, adaptyProfileAnswer())
	api := newAdaptyAPI(t, base, at)
	ev, err := api.Pull(t.Context(), entitlement.KindCustomer, adaptyBuyer)
	if err != nil {
		t.Fatal(err)
	}
	r := (*asked)[0]
	if r.Method != http.MethodGet || r.URL.Path != "/api/v2/server-side-api/profile/" || r.Header.Get("Authorization") != "Api-Key "+adaptyKey || r.Header.Get("Adapty-Profile-Id") != adaptyBuyer || r.Header.Get("Adapty-Customer-User-Id") != "" {
		t.Errorf("asked %s %s with %v", r.Method, r.URL, r.Header)
	}
	if ev.Environment != entitlement.Production || ev.Type != "pull.customer" || ev.CreatedAt != at.Unix() || strings.Contains(string(ev.Raw), "canary") {
		t.Errorf("event %+v: %s", ev, ev.Raw)
	}
	if got := pro(t, saleIn(ev, "apple:2000000912345678"), at, entitlement.Adapty); got.Status != entitlement.StatusActive || got.AccessUntil != adaptyEnds.Add(24*time.Hour).Unix() || !got.WillRenew {
		t.Errorf("pro by the profile: %+v", got)
	}
	if e := saleIn(ev, "apple:30"); !e.IsPurchase() || entitlement.Fold(e, entitlement.Policy{}).Items[0].State != entitlement.Live {
		t.Errorf("the one-time sale: %+v", e)
	}
	if e := saleIn(ev, "apple:31"); len(e.Objects) > 0 {
		t.Errorf("a sale of the other environment: %+v", e)
	}
	if e := saleIn(ev, "adapty:a1"); len(e.Objects) > 0 {
		t.Errorf("our own grant: %+v", e)
	}
	// The answer settles the hint of an event, and what the events say about the sale.
	hint := newAdapty(t).read(t, adaptyMessage("subscription_renewal_cancelled", adaptyBought.AddDate(0, 0, 2)))
	profile := saleIn(hint, adaptyCustomerLink(adaptyBuyer))
	if d := api.Targets(profile, profile.Doubts()); len(d) != 1 || d[0].ID != adaptyBuyer || d[0].Kind != entitlement.KindCustomer {
		t.Errorf("Targets = %+v", d)
	}
	if d := profile.Add(ev.Objects...).Doubts(); len(d) != 0 {
		t.Errorf("after the answer: %+v", d)
	}
	if got := pro(t, entitlement.Merge(saleIn(hint, "apple:2000000912345678"), saleIn(ev, "apple:2000000912345678")), at, entitlement.Adapty); !got.WillRenew {
		t.Errorf("the newer answer does not count: %+v", got)
	}
	// A sale that is in doubt is asked about by whom it names.
	sale := saleIn(hint, "apple:2000000912345678")
	if d := api.Targets(sale, []entitlement.Doubt{{Kind: entitlement.KindRenewal, ID: "x", From: 5, By: entitlement.Adapty}}); len(d) != 1 || d[0].ID != adaptyBuyer || d[0].From != 5 {
		t.Errorf("Targets of a sale = %+v", d)
	}
}

func TestAdaptyPullStates(t *testing.T) {
	at := adaptyBought.AddDate(0, 0, 3)
	for _, tt := range []struct {
		name   string
		entry  props
		status entitlement.Status
	}{
		{"it runs", nil, entitlement.StatusActive},
		{"it will not renew", props{"renewal_cancelled_at": at.Format(time.RFC3339)}, entitlement.StatusActive},
		{"in grace", props{"is_in_grace_period": true, "billing_issue_detected_at": at.Add(-time.Hour).Format(time.RFC3339)}, entitlement.StatusBillingGrace},
		{"over", props{"expires_at": at.Add(-time.Hour).Format(time.RFC3339), "cancellation_reason": "voluntarily_cancelled"}, entitlement.StatusExpired},
		{"not paid", props{"expires_at": at.Add(-time.Hour).Format(time.RFC3339), "billing_issue_detected_at": at.Add(-time.Hour).Format(time.RFC3339)}, entitlement.StatusBillingRetry},
		{"refunded", props{"expires_at": at.Add(-time.Hour).Format(time.RFC3339), "cancellation_reason": "refund"}, entitlement.StatusRefunded},
		{"for ever", props{"expires_at": nil}, entitlement.StatusActive},
		{"begins later", props{"starts_at": adaptyEnds.Format(time.RFC3339), "expires_at": nil}, entitlement.StatusPending},
	} {
		base, _ := servingJSON(t, http.StatusOK, nil, adaptyProfileAnswer(tt.entry))
		ev, err := newAdaptyAPI(t, base, at).Pull(t.Context(), entitlement.KindCustomer, adaptyUser+adaptyAccountA)
		if err != nil {
			t.Fatal(err)
		}
		// Behind a refund that was told before, and reversed since.
		e := saleIn(ev, "apple:2000000912345678").Add(newAdapty(t).read(t, adaptyMessage("subscription_refunded", adaptyBought.Add(time.Hour))).Objects...)
		want := tt.status
		if got := pro(t, e, at, entitlement.Adapty); got.Status != want && !(tt.status == entitlement.StatusExpired || tt.status == entitlement.StatusBillingRetry) {
			t.Errorf("%s: %s, want %s", tt.name, got.Status, want)
		}
		if got := pro(t, saleIn(ev, "apple:2000000912345678"), at, entitlement.Adapty); got.Status != want {
			t.Errorf("%s: %s, want %s", tt.name, got.Status, want)
		}
	}
}

// An end of a wrong form is not "no end": the entry says nothing, and what was told before stands. One before all times is over.
func TestAdaptyPullOfAnEndOfAWrongForm(t *testing.T) {
	at := adaptyBought.AddDate(0, 0, 3)
	for _, tt := range []struct {
		name   string
		entry  props
		said   bool
		status entitlement.Status
	}{
		{"a negative number", props{"expires_at": -1}, false, ""},
		{"seconds", props{"expires_at": 1796000000}, false, ""},
		{"true", props{"expires_at": true}, false, ""},
		{"an empty text", props{"expires_at": ""}, false, ""},
		{"another layout", props{"expires_at": "2026-12-01 08:20:11"}, false, ""},
		{"a start of seconds", props{"starts_at": 1796000000, "expires_at": nil}, false, ""},
		{"1970", props{"expires_at": "1970-01-01T00:00:00+00:00"}, true, ""},
		{"the year 9999", props{"expires_at": "9999-12-31T23:59:59+00:00"}, true, entitlement.StatusActive},
	} {
		base, _ := servingJSON(t, http.StatusOK, nil, adaptyProfileAnswer(tt.entry))
		ev, err := newAdaptyAPI(t, base, at).Pull(t.Context(), entitlement.KindCustomer, adaptyBuyer)
		if err != nil {
			t.Fatal(err)
		}
		e := saleIn(ev, "apple:2000000912345678")
		if got := pro(t, e, at, entitlement.Adapty); got.Status != tt.status || got.Status == entitlement.StatusActive && got.AccessUntil == 0 {
			t.Errorf("%s: %q until %d, want %q", tt.name, got.Status, got.AccessUntil, tt.status)
		}
		if e.IsPurchase() != tt.said || !tt.said && len(e.Objects) > 0 {
			t.Errorf("%s: it says %+v", tt.name, e.Objects)
		}
	}
}

// An access level need not say of which environment it is: that of the sale with its transaction, else of its chain, says it. A level of which nobody knows
// proves no sale (I15), and what is known of one by other words it ends, and takes back.
func TestAnAdaptyLevelMayTellNoEnvironment(t *testing.T) {
	at := adaptyBought.AddDate(0, 0, 3)
	sandbox := func(answer string) string {
		return strings.ReplaceAll(answer, `"environment":"Production"`, `"environment":"Sandbox"`)
	}
	alone := func(level ...props) string {
		all := gjson.Parse(adaptyProfileAnswer(level...))
		return `{"data":{"profile_id":` + all.Get("data.profile_id").Raw + `,"customer_user_id":` + all.Get("data.customer_user_id").Raw + `,"access_levels":` + all.Get("data.access_levels").Raw + `}}`
	}
	renewed := func(answer string) string { // the level's term is a newer one than that of the subscription
		level := gjson.Get(answer, "data.access_levels.0").Raw
		return strings.Replace(answer, level, strings.Replace(level, `"store_transaction_id":"2000000912345678"`, `"store_transaction_id":"2000000934567890"`, 1), 1)
	}
	lifetime := props{"store_product_id": "com.example.lifetime", "expires_at": nil}
	refunded := strings.Replace(adaptyProfileAnswer(lifetime), `"subscriptions":[{`, `"subscriptions":[{"is_refund":true,`, 1)
	started := adaptyMessage("subscription_started", adaptyBought)
	for _, tt := range []struct {
		name, answer string
		told         []string
		want         entitlement.Status
	}{
		{"sold in production", adaptyProfileAnswer(), nil, entitlement.StatusActive},
		{"sold in the sandbox", sandbox(adaptyProfileAnswer()), nil, ""},
		{"renewed in production", renewed(adaptyProfileAnswer()), nil, entitlement.StatusActive},
		{"renewed in the sandbox", renewed(sandbox(adaptyProfileAnswer())), nil, ""},
		{"the level says that it is of the sandbox", alone(props{"environment": "Sandbox"}), nil, ""},
		{"the level says that it is of production", alone(props{"environment": "Production"}), nil, entitlement.StatusActive},
		{"the level says a number", alone(props{"environment": 1}), nil, ""},
		{"nobody says it", alone(), nil, ""},
		{"nobody says it, and messages told of the sale", alone(), []string{started}, entitlement.StatusActive},
		{"nobody says it, and the sale that messages told of is over", alone(props{"expires_at": at.Add(-time.Hour).Format(time.RFC3339), "cancellation_reason": "voluntarily_cancelled"}), []string{started}, entitlement.StatusExpired},
		{"nobody says it, and the sale that messages told of was refunded", alone(props{"expires_at": at.Add(-time.Hour).Format(time.RFC3339), "cancellation_reason": "refund"}), []string{started}, entitlement.StatusRefunded},
		{"given, and nobody says it", alone(props{"store": "adapty", "store_product_id": "adapty_dashboard_product"}), nil, entitlement.StatusActive},
		{"the sale is refunded, and the level does not say so", refunded, nil, entitlement.StatusRefunded},
	} {
		t.Run(tt.name, func(t *testing.T) {
			base, _ := servingJSON(t, http.StatusOK, nil, tt.answer)
			ev, err := newAdaptyAPI(t, base, at).Pull(t.Context(), entitlement.KindCustomer, adaptyBuyer)
			if err != nil {
				t.Fatal(err)
			}
			e := tell(t, newAdapty(t), tt.told...)
			for _, o := range ev.Objects {
				if o.Customer == nil && !slices.Contains(o.Links, "apple:30") {
					e = e.Add(o)
				}
			}
			if tt.want == "" && e.IsPurchase() {
				t.Errorf("a sale is proved: %+v", e.Objects)
			}
			if got := pro(t, e, at, entitlement.Adapty); got.Status != tt.want {
				t.Errorf("pro is %q, want %q: %+v", got.Status, tt.want, e.Objects)
			}
		})
	}
}

// What an answer that is none comes to is the same for both providers whose API speaks plain JSON.
func TestJSONAPIFailures(t *testing.T) {
	type puller interface {
		Pull(context.Context, entitlement.ObjectKind, string) (entitlement.Event, error)
	}
	for _, tt := range []struct {
		name   string
		status int
		header http.Header
		body   string
		reason error
		after  time.Duration
		gone   bool
	}{
		{"no such customer", 404, nil, `{"errors":[{"source":"profile","errors":["canary"]}],"error_code":"profile_does_not_exist","status_code":404}`, nil, 0, true},
		{"no such customer, in another form", 404, nil, `{"errors":["canary"]}`, nil, 0, true},
		{"no such customer, and no JSON", 404, nil, `<html>`, nil, 0, true},
		{"a wrong key", 401, nil, `{"error_code":"not_authenticated"}`, ErrCredential, 0, false},
		{"a key that may not", 403, nil, `{}`, ErrCredential, 0, false},
		{"too often", 429, http.Header{"Retry-After": {"7"}}, `{}`, ErrLimited, 7 * time.Second, false},
		{"too often, for a year", 429, http.Header{"Retry-After": {"31536000"}}, `{}`, ErrLimited, maxRetryAfter, false},
		{"too often, without a time", 429, nil, ``, ErrLimited, 0, false},
		{"at fault", 503, http.Header{"Retry-After": {"3"}}, `canary`, ErrUnavailable, 3 * time.Second, false},
		{"sent elsewhere", 302, http.Header{"Location": {"http://127.0.0.1:1/"}}, ``, ErrAnswer, 0, false},
		{"a bad question", 400, nil, `{"errors":"canary"}`, ErrAnswer, 0, false},
		{"no JSON", 200, nil, `<html>canary`, ErrAnswer, 0, false},
		{"JSON of another kind", 200, nil, `{"canary":1}`, ErrAnswer, 0, false},
		{"a list", 200, nil, `[]`, ErrAnswer, 0, false},
		{"cut", 200, nil, `{"data":{"prof`, ErrAnswer, 0, false},
	} {
		base, _ := servingJSON(t, tt.status, tt.header, tt.body)
		for name, api := range map[string]puller{"adapty": newAdaptyAPI(t, base, adaptyBought), "iaptic": newIapticAPI(t, base, adaptyBought)} {
			ev, err := api.Pull(t.Context(), entitlement.KindCustomer, "x")
			var failed *PullError
			if errors.As(err, &failed); !errors.Is(err, tt.reason) || tt.reason != nil && (failed == nil || failed.RetryAfter != tt.after || failed.Status != tt.status) {
				t.Errorf("%s, %s: %v, want %v after %s", name, tt.name, err, tt.reason, tt.after)
			}
			if err != nil && strings.Contains(err.Error(), "canary") {
				t.Errorf("%s, %s: the error shows the answer or the key: %v", name, tt.name, err)
			}
			if tt.gone && (err != nil || len(ev.Objects) != 1 || !ev.Objects[0].Customer.Gone) {
				t.Errorf("%s, %s: %+v, %v, want a customer who is gone", name, tt.name, ev.Objects, err)
			}
		}
	}
	s := httptest.NewServer(http.NotFoundHandler())
	s.Close()
	if _, err := newAdaptyAPI(t, s.URL, adaptyBought).Pull(t.Context(), entitlement.KindCustomer, "x"); !errors.Is(err, ErrUnavailable) {
		t.Errorf("nobody listens: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := newAdaptyAPI(t, s.URL, adaptyBought).Pull(ctx, entitlement.KindCustomer, "x"); !errors.Is(err, context.Canceled) {
		t.Errorf("called off: %v", err)
	}
	for api, id := range map[puller]string{newAdaptyAPI(t, s.URL, adaptyBought): adaptyUser, newIapticAPI(t, s.URL, adaptyBought): ".."} {
		if _, err := api.Pull(t.Context(), entitlement.KindCustomer, id); !errors.Is(err, ErrGone) {
			t.Errorf("Pull of %q = %v, want ErrGone", id, err)
		}
	}
	for _, id := range []string{"", "a b", "a\nb", strings.Repeat("x", 300), "someone@example.com"} {
		for name, api := range map[string]puller{"adapty": newAdaptyAPI(t, s.URL, adaptyBought), "iaptic": newIapticAPI(t, s.URL, adaptyBought)} {
			if _, err := api.Pull(t.Context(), entitlement.KindCustomer, id); !errors.Is(err, ErrGone) {
				t.Errorf("%s: Pull of %q = %v, want ErrGone", name, id, err)
			}
			if _, err := api.Pull(t.Context(), entitlement.KindTransaction, "x"); !errors.Is(err, ErrGone) {
				t.Errorf("%s: Pull of a transaction = %v, want ErrGone", name, err)
			}
		}
	}
}

func TestAPIConfigurations(t *testing.T) {
	adapty := func(key, base string) error {
		_, err := NewAdaptyAPI(AdaptyAPIConfig{Key: key, BaseURL: base})
		return err
	}
	iaptic := func(app, key, scheme, base string) error {
		_, err := NewIapticAPI(IapticAPIConfig{App: app, Key: key, Scheme: scheme, BaseURL: base})
		return err
	}
	for name, tt := range map[string]struct{ got, want error }{
		"adapty":                       {adapty("k", ""), nil},
		"adapty on loopback":           {adapty("k", "http://127.0.0.1:1"), nil},
		"adapty without a key":         {adapty("", ""), ErrAdaptyKey},
		"adapty, a key with a blank":   {adapty("a b", ""), ErrAdaptyKey},
		"adapty in the clear":          {adapty("k", "http://adapty.example"), ErrAdaptyBase},
		"adapty, no address":           {adapty("k", "adapty"), ErrAdaptyBase},
		"adapty, a query":              {adapty("k", "https://a.example/?x=1"), ErrAdaptyBase},
		"iaptic":                       {iaptic("app", "k", "", ""), nil},
		"iaptic, basic":                {iaptic("app", "k", IapticBasic, "http://localhost:1"), nil},
		"iaptic without an app":        {iaptic("", "k", "", ""), ErrIapticApp},
		"iaptic, an app with a colon ": {iaptic("a b", "k", "", ""), ErrIapticApp},
		"iaptic without a key":         {iaptic("app", "", "", ""), ErrIapticKey},
		"iaptic, key in the address":   {iaptic("app", "k", "query", ""), ErrIapticScheme},
		"iaptic in the clear":          {iaptic("app", "k", "", "http://iaptic.example"), ErrIapticBase},
	} {
		if !errors.Is(tt.got, tt.want) || (tt.want == nil) != (tt.got == nil) {
			t.Errorf("%s: %v, want %v", name, tt.got, tt.want)
		}
	}
}

func newIapticAPI(t *testing.T, base string, at time.Time) *IapticAPI {
	t.Helper()
	api, err := NewIapticAPI(IapticAPIConfig{App: "com.example.app", Key: iapticPassword, BaseURL: base, Environment: entitlement.Production, Now: func() time.Time { return at }})
	if err != nil {
		t.Fatal(err)
	}
	return api
}

func TestIapticPull(t *testing.T) {
	at := adaptyBought.AddDate(0, 0, 3)
	test := iapticMonth(props{"purchaseId": "apple:9", "sandbox": true})
	base, asked := servingJSON(t, http.StatusOK, nil, marshal(props{"applicationUsername": "a|b/c", "purchases": props{"1": iapticMonth(), "2": test}}))
	api := newIapticAPI(t, base, at)
	ev, err := api.Pull(t.Context(), entitlement.KindCustomer, "a|b/c")
	if err != nil {
		t.Fatal(err)
	}
	r := (*asked)[0]
	if r.URL.EscapedPath() != "/v3/customers/a%7Cb%2Fc/purchases" || r.URL.RawQuery != "" || !strings.HasPrefix(r.Header.Get("Authorization"), "Bearer ") {
		t.Errorf("asked %s with %v", r.URL.EscapedPath(), r.Header)
	}
	if got := pro(t, saleIn(ev, "apple:2000000912345678"), at, entitlement.Iaptic); got.Status != entitlement.StatusActive || !got.WillRenew {
		t.Errorf("pro by the answer: %+v", got)
	}
	if e := saleIn(ev, "apple:9"); len(e.Objects) > 0 {
		t.Errorf("a purchase of the other environment: %+v", e)
	}
	// Two messages of one date that contradict each other are a tie, which the answer settles.
	a := newIaptic(t)
	e := tell(t, a, iapticMessage(adaptyBought, "PURCHASED", iapticMonth()), iapticMessage(adaptyBought, "PURCHASED", iapticMonth(props{"renewalIntent": "Lapse"})))
	doubts := e.Doubts()
	targets := api.Targets(e, slices.DeleteFunc(doubts, func(d entitlement.Doubt) bool { return d.By != entitlement.Iaptic }))
	if want := []entitlement.Doubt{{Kind: entitlement.KindCustomer, ID: adaptyAccountA, From: adaptyBought.UnixNano() + 1, By: entitlement.Iaptic}}; !reflect.DeepEqual(targets, want) {
		t.Errorf("Targets = %+v, want %+v", targets, want)
	}
	for _, d := range entitlement.Merge(e, saleIn(ev, "apple:2000000912345678")).Doubts() {
		if !d.Echo {
			t.Errorf("after the answer: %+v", d)
		}
	}
	other, _ := servingJSON(t, http.StatusOK, nil, `{"applicationUsername":"another","purchases":{}}`)
	if _, err := newIapticAPI(t, other, at).Pull(t.Context(), entitlement.KindCustomer, "a"); !errors.Is(err, ErrAnswer) {
		t.Errorf("the answer about another user: %v", err)
	}
}
