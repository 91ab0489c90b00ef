package provider

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/latchkey/latchkey/pkg/entitlement"
)

// These tests show what we ask Stripe for, that an answer proves what a message with the same object proves, and what each failure is called.

const (
	testKey = "rk_test_canary0123456789"
	liveKey = "rk_live_canary0123456789"
)

// asked is when the tests' requests leave: inside of a second.
var asked = time.Unix(began+1000, 678_000_000)

// stripeServer answers by path, and notes what it was asked.
type stripeServer struct {
	*httptest.Server
	mu       sync.Mutex
	requests []*http.Request
}

func serveStripe(t *testing.T, answer http.HandlerFunc) *stripeServer {
	s := &stripeServer{}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		s.requests = append(s.requests, r)
		s.mu.Unlock()
		answer(w, r)
	}))
	t.Cleanup(s.Close)
	return s
}

// uris lists what was asked for.
func (s *stripeServer) uris() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []string
	for _, r := range s.requests {
		out = append(out, strings.NewReplacer("%5B", "[", "%5D", "]").Replace(r.URL.RequestURI()))
	}
	return out
}

func api(t *testing.T, base string, env entitlement.Environment) *StripeAPI {
	t.Helper()
	key := testKey
	if env == entitlement.Production {
		key = liveKey
	}
	a, err := NewStripeAPI(StripeAPIConfig{Key: key, BaseURL: base, Environment: env, Now: func() time.Time { return asked }})
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func answering(o map[string]any) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, marshal(o))
	}
}

func testmode(o map[string]any) map[string]any {
	o = clone(o)
	o["livemode"] = false
	return o
}

// An answer proves the same as a message with the same object, and besides what was expanded in it.
func TestAnAnswerProvesWhatAMessageDoes(t *testing.T) {
	invoice := basil.invoice("in_0", "paid", 0, "", "")
	invoice["payments"] = map[string]any{"data": []any{invoicePayment(0)}}
	withInvoice := testmode(basil.subscription("active", 0))
	withInvoice["latest_invoice"] = invoice
	charge := testmode(basil.charge(0, 999))
	withCharge := refund("re_1", "succeeded", 999)
	withCharge["charge"] = charge
	session := testmode(map[string]any{"id": "cs_1", "object": "checkout.session", "mode": "payment", "status": "complete", "payment_status": "paid", "payment_intent": "pi_1",
		"amount_total": 100, "created": began, "metadata": map[string]any{"account_id": "acc_1"},
		"line_items": map[string]any{"has_more": false, "data": []any{map[string]any{"id": "li_1", "quantity": 3, "price": map[string]any{"id": "price_coins", "product": "prod_c"}}}}})
	withIntent := clone(session)
	withIntent["payment_intent"] = map[string]any{"id": "pi_1", "object": "payment_intent", "status": "succeeded", "receipt_email": "canary@example.com"}
	tests := []struct {
		name   string
		kind   entitlement.ObjectKind
		id     string
		answer map[string]any
		like   []string // messages, in order
		uri    string
	}{
		{"a subscription", entitlement.KindSubscription, "sub_1", testmode(basil.subscription("active", 1)),
			[]string{message("customer.subscription.updated", 1000, basil.subscription("active", 1))}, "/v1/subscriptions/sub_1?expand[]=latest_invoice.payments"},
		{"a subscription with its latest invoice", entitlement.KindSubscription, "sub_1", withInvoice,
			[]string{message("customer.subscription.updated", 1000, basil.subscription("active", 0)), message("invoice.paid", 1000, invoice)},
			"/v1/subscriptions/sub_1?expand[]=latest_invoice.payments"},
		{"an invoice", entitlement.KindInvoice, "in_0", testmode(invoice), []string{message("invoice.paid", 1000, invoice)}, "/v1/invoices/in_0?expand[]=payments"},
		{"an invoice payment", entitlement.KindPayment, "inpay_0", testmode(invoicePayment(0)), []string{message("invoice_payment.paid", 1000, invoicePayment(0))}, "/v1/invoice_payments/inpay_0"},
		{"a charge", entitlement.KindCharge, "ch_0", charge, []string{message("charge.refunded", 1000, charge)}, "/v1/charges/ch_0"},
		{"a refund with its charge", entitlement.KindRefund, "re_1", withCharge,
			[]string{message("refund.updated", 1000, refundOf("ch_0")), message("charge.refunded", 1000, charge)}, "/v1/refunds/re_1?expand[]=charge"},
		{"a dispute", entitlement.KindDispute, "dp_1", testmode(dispute("under_review")), []string{message("charge.dispute.updated", 1000, dispute("under_review"))}, "/v1/disputes/dp_1"},
		{"a checkout with its products", entitlement.KindCheckout, "cs_1", withIntent, []string{message("checkout.session.completed", 1000, session)},
			"/v1/checkout/sessions/cs_1?expand[]=line_items&expand[]=payment_intent"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := serveStripe(t, answering(tt.answer))
			ev, err := api(t, s.URL, entitlement.Sandbox).Pull(t.Context(), tt.kind, tt.id)
			if err != nil {
				t.Fatalf("Pull: %v", err)
			}
			var want []entitlement.Object
			for _, m := range tt.like {
				want = append(want, parse(t, m).Objects...)
			}
			if !reflect.DeepEqual(ev.Objects, want) {
				t.Errorf("Pull proves\n%s\nwant\n%s", show(ev.Objects), show(want))
			}
			if ev.Kind != entitlement.Proof || ev.Environment != entitlement.Sandbox || ev.Type != "pull."+string(tt.kind) || ev.CreatedAt != asked.Unix() ||
				ev.ID != fmt.Sprintf("pull:%s:%d", tt.id, asked.UnixNano()) {
				t.Errorf("Pull = %s", show(ev))
			}
			if again := parse(t, string(ev.Raw)); again.Digest() != ev.Digest() {
				t.Errorf("the stored answer reads as\n%s\nwant\n%s", show(again), show(ev))
			}
			if strings.Contains(string(entitlement.Encode(&ev)), "canary") {
				t.Error("personal data or the key is kept")
			}
			if got := s.uris(); len(got) != 1 || got[0] != tt.uri {
				t.Errorf("asked for %q, want %q", got, tt.uri)
			}
			h := s.requests[0].Header
			if h.Get("Authorization") != "Bearer "+testKey || h.Get("Stripe-Version") != stripeVersion {
				t.Errorf("asked with key %q, version %q", h.Get("Authorization"), h.Get("Stripe-Version"))
			}
			if h.Get("X-Stripe-Client-Telemetry") != "" || strings.Contains(h.Get("X-Stripe-Client-User-Agent"), "uname") {
				t.Errorf("the request tells of this machine: %v", h)
			}
		})
	}
}

// Until when a subscription is paid whose card fails is said by invoices that were paid before: an answer has them, whatever became of the messages.
func TestAnAnswerAboutAFailedRenewalHasWhatWasPaidBefore(t *testing.T) {
	const listed = "/v1/invoices?subscription=sub_1&status=paid&limit=3&expand[]=data.payments"
	paid, open := testmode(basil.invoice("in_0", "paid", 0, "", "")), basil.invoice("in_1", "open", 1, "", "")
	failed := func(status string) map[string]any {
		o := testmode(basil.subscription(status, 1))
		o["latest_invoice"] = open
		return o
	}
	said := func(status string) []string {
		return []string{message("customer.subscription.updated", 1000, basil.subscription(status, 1)), message("invoice.updated", 1000, open)}
	}
	live := basil.invoice("in_0", "paid", 0, "", "")
	live["livemode"] = true
	for _, tt := range []struct {
		name   string
		status string
		list   string
		like   []string
		want   error
	}{
		{name: "past due", status: "past_due", list: stripeListOf(paid), like: append(said("past_due"), message("invoice.paid", 1000, paid))},
		{name: "unpaid", status: "unpaid", list: stripeListOf(paid), like: append(said("unpaid"), message("invoice.paid", 1000, paid))},
		{name: "nothing was paid", status: "past_due", list: stripeListOf(), like: said("past_due")},
		{name: "the latest was paid meanwhile", status: "past_due", list: stripeListOf(testmode(basil.invoice("in_1", "paid", 1, "", "")), paid), like: append(said("past_due"), message("invoice.paid", 1000, paid))},
		{name: "of the other mode", status: "past_due", list: stripeListOf(live), want: ErrOtherEnvironment},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := serveStripe(t, func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/v1/invoices" {
					fmt.Fprint(w, tt.list)
					return
				}
				fmt.Fprint(w, marshal(failed(tt.status)))
			})
			ev, err := api(t, s.URL, entitlement.Sandbox).Pull(t.Context(), entitlement.KindSubscription, "sub_1")
			if !errors.Is(err, tt.want) {
				t.Fatalf("Pull: %v, want %v", err, tt.want)
			}
			var want []entitlement.Object
			for _, m := range tt.like {
				want = append(want, parse(t, m).Objects...)
			}
			if !reflect.DeepEqual(ev.Objects, want) {
				t.Errorf("Pull proves\n%s\nwant\n%s", show(ev.Objects), show(want))
			}
			if got := s.uris(); len(got) != 2 || got[1] != listed {
				t.Errorf("asked for %q, want %q at last", got, listed)
			}
		})
	}
}

func refundOf(charge string) map[string]any {
	o := refund("re_1", "succeeded", 999)
	o["charge"] = charge
	return o
}

// What a session says depends on how far it came.
func TestPulledCheckoutsAtAnyTime(t *testing.T) {
	tests := []struct{ name, status, payment, intent, mode, want string }{
		{"paid", "complete", "paid", "succeeded", entitlement.CheckoutPayment, entitlement.CheckoutPaid},
		{"a delayed payment under way", "complete", "unpaid", "processing", entitlement.CheckoutPayment, entitlement.CheckoutUnpaid},
		{"a delayed payment that failed", "complete", "unpaid", "requires_payment_method", entitlement.CheckoutPayment, entitlement.CheckoutFailed},
		{"a payment that was canceled", "complete", "unpaid", "canceled", entitlement.CheckoutPayment, entitlement.CheckoutFailed},
		{"still open", "open", "unpaid", "requires_payment_method", entitlement.CheckoutUnfinished, entitlement.CheckoutUnpaid},
		{"abandoned", "expired", "unpaid", "canceled", entitlement.CheckoutExpired, entitlement.CheckoutUnpaid},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := serveStripe(t, answering(map[string]any{"id": "cs_1", "object": "checkout.session", "mode": "payment", "status": tt.status, "payment_status": tt.payment,
				"payment_intent": map[string]any{"id": "pi_1", "status": tt.intent}, "livemode": false,
				"line_items": map[string]any{"data": []any{map[string]any{"id": "li_1", "price": map[string]any{"id": "price_1"}}}}}))
			ev, err := api(t, s.URL, entitlement.Sandbox).Pull(t.Context(), entitlement.KindCheckout, "cs_1")
			if err != nil {
				t.Fatal(err)
			}
			c := ev.Objects[0].Checkout
			if c.Mode != tt.mode || c.Payment != tt.want {
				t.Errorf("checkout = %+v, want %s %s", c, tt.mode, tt.want)
			}
			e := entitlement.Evidence{}.Add(ev.Objects...)
			if finished := tt.mode == entitlement.CheckoutPayment; e.IsPurchase() != finished || len(e.Doubts()) != 0 {
				t.Errorf("IsPurchase = %t, doubts %v", e.IsPurchase(), e.Doubts())
			}
		})
	}
}

// Lists that come in parts are asked for to their end.
func TestLongListsAreAskedForToTheirEnd(t *testing.T) {
	const total = 250
	element := func(kind entitlement.ObjectKind, i int) map[string]any {
		price := map[string]any{"id": fmt.Sprintf("price_%d", i)}
		return map[string]any{"id": fmt.Sprintf("x_%03d", i), "quantity": 1, "price": price, "amount": 1, "current_period_start": began, "current_period_end": began + period,
			"period": map[string]any{"start": began, "end": began + period}}
	}
	tests := []struct {
		kind   entitlement.ObjectKind
		object map[string]any
		list   string
		more   string
		count  func(entitlement.Event) int
	}{
		{entitlement.KindCheckout, map[string]any{"id": "o_1", "object": "checkout.session", "mode": "payment", "status": "complete", "payment_status": "paid"}, "line_items",
			"/v1/checkout/sessions/o_1/line_items", func(ev entitlement.Event) int { return len(ev.Objects[1].Sale.Lines) }},
		{entitlement.KindInvoice, map[string]any{"id": "o_1", "object": "invoice", "status": "paid"}, "lines",
			"/v1/invoices/o_1/lines", func(ev entitlement.Event) int { return len(ev.Objects[0].Invoice.Lines) }},
		{entitlement.KindSubscription, map[string]any{"id": "o_1", "object": "subscription", "status": "active"}, "items",
			"/v1/subscription_items", func(ev entitlement.Event) int { return len(ev.Objects[0].Subscription.Items) }},
	}
	for _, tt := range tests {
		t.Run(string(tt.kind), func(t *testing.T) {
			endless := false
			s := serveStripe(t, func(w http.ResponseWriter, r *http.Request) {
				from, size := 0, 10
				if r.URL.Path == tt.more {
					if tt.kind == entitlement.KindSubscription && r.URL.Query().Get("subscription") != "o_1" {
						t.Errorf("asked for items of %q", r.URL.Query().Get("subscription"))
					}
					fmt.Sscanf(r.URL.Query().Get("starting_after"), "x_%d", &from)
					fmt.Sscan(r.URL.Query().Get("limit"), &size)
					from++
				}
				data := []any{}
				for i := from; i < min(from+size, total) && !endless; i++ {
					data = append(data, element(tt.kind, i))
				}
				list := map[string]any{"data": data, "has_more": endless || from+size < total}
				if r.URL.Path == tt.more {
					fmt.Fprint(w, marshal(list))
					return
				}
				o := testmode(tt.object)
				o[tt.list] = list
				if endless {
					list["data"] = []any{element(tt.kind, 0)}
				}
				fmt.Fprint(w, marshal(o))
			})
			a := api(t, s.URL, entitlement.Sandbox)
			ev, err := a.Pull(t.Context(), tt.kind, "o_1")
			if err != nil {
				t.Fatal(err)
			}
			if n := tt.count(ev); n != total {
				t.Errorf("%d elements, want %d", n, total)
			}
			for _, o := range ev.Objects {
				if o.Partial {
					t.Errorf("%s is partial", o.Kind)
				}
			}
			if n := len(s.uris()); n != 4 {
				t.Errorf("%d requests, want 4: %v", n, s.uris())
			}
			endless = true
			if ev, err = a.Pull(t.Context(), tt.kind, "o_1"); err != nil || len(s.uris()) > 4+2 {
				t.Errorf("an empty page that says that there is more: %d objects, %v, %d requests", len(ev.Objects), err, len(s.uris()))
			}
		})
	}
}

func TestWhatFailuresAreCalled(t *testing.T) {
	stripeError := func(code string) string {
		return fmt.Sprintf(`{"error":{"type":"invalid_request_error","code":%q,"message":"CANARY person@example.com"}}`, code)
	}
	sub := marshal(testmode(basil.subscription("active", 0)))
	tests := []struct {
		name   string
		env    entitlement.Environment
		status int
		body   string
		header map[string]string
		want   error
		after  time.Duration
	}{
		{"no such object", "", 404, stripeError("resource_missing"), map[string]string{"Request-Id": "req_1"}, ErrGone, 0},
		{"no such path", "", 404, stripeError(""), nil, ErrAnswer, 0},
		{"a page of a proxy", "", 404, `<html>CANARY</html>`, nil, ErrAnswer, 0},
		{"a wrong key", "", 401, stripeError(""), nil, ErrCredential, 0},
		{"a key that may not", "", 403, stripeError(""), nil, ErrCredential, 0},
		{"too often", "", 429, stripeError("rate_limit"), map[string]string{"Retry-After": "7"}, ErrLimited, 7 * time.Second},
		{"too often, with a date", "", 429, stripeError("rate_limit"), map[string]string{"Retry-After": "Sun, 22 Nov 2026 06:00:09 GMT", "Date": "Sun, 22 Nov 2026 06:00:00 GMT"}, ErrLimited, 9 * time.Second},
		{"too often, for a year", "", 429, stripeError("rate_limit"), map[string]string{"Retry-After": "31536000"}, ErrLimited, maxRetryAfter},
		{"too often, without a word", "", 429, `no`, map[string]string{"Retry-After": "-1"}, ErrLimited, 0},
		{"Stripe is broken", "", 500, stripeError(""), nil, ErrUnavailable, 0},
		{"Stripe is down", "", 503, `<html>CANARY</html>`, map[string]string{"Retry-After": "3"}, ErrUnavailable, 3 * time.Second},
		{"a bad request", "", 400, stripeError("parameter_unknown"), nil, ErrAnswer, 0},
		{"a redirect", "", 302, ``, map[string]string{"Location": "https://example.com/"}, ErrAnswer, 0},
		{"no JSON", "", 200, `CANARY`, nil, ErrUnavailable, 0},
		{"half of an answer", "", 200, sub[:100], nil, ErrUnavailable, 0},
		{"another kind of JSON", "", 200, `[]`, nil, ErrAnswer, 0},
		{"another object", "", 200, strings.Replace(sub, "sub_1", "sub_2", 1), nil, ErrAnswer, 0},
		{"another kind of object", "", 200, strings.Replace(sub, `"object":"subscription"`, `"object":"invoice"`, 1), nil, ErrAnswer, 0},
		{"an object without a status", "", 200, strings.Replace(sub, `"status"`, `"state"`, 1), nil, ErrAnswer, 0},
		{"a live object in sandbox", "", 200, strings.Replace(sub, `"livemode":false`, `"livemode":true`, 1), nil, ErrOtherEnvironment, 0},
		{"a test object in production", entitlement.Production, 200, sub, nil, ErrOtherEnvironment, 0},
		{"an object that does not say its mode", "", 200, strings.Replace(sub, `"livemode":false`, `"l":0`, 1), nil, ErrOtherEnvironment, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := serveStripe(t, func(w http.ResponseWriter, r *http.Request) {
				for name, value := range tt.header {
					w.Header().Set(name, value)
				}
				w.WriteHeader(tt.status)
				fmt.Fprint(w, tt.body)
			})
			env := tt.env
			if env == "" {
				env = entitlement.Sandbox
			}
			ev, err := api(t, s.URL, env).Pull(t.Context(), entitlement.KindSubscription, "sub_1")
			var failure *PullError
			if !errors.Is(err, tt.want) || !errors.As(err, &failure) {
				t.Fatalf("Pull = %s, %v, want %v", show(ev), err, tt.want)
			}
			if failure.RetryAfter != tt.after || failure.RequestID != tt.header["Request-Id"] {
				t.Errorf("%+v, want to wait %s", failure, tt.after)
			}
			if text := fmt.Sprintf("%v %+v %#v", err, err, *failure); strings.Contains(strings.ToLower(text), "canary") {
				t.Errorf("the error quotes the body or the key: %s", text)
			}
			if n := len(s.uris()); n != 1 {
				t.Errorf("%d requests, want 1: repeating is the caller's matter", n)
			}
		})
	}
	t.Run("a refund whose charge is of the other mode", func(t *testing.T) {
		o := refund("re_1", "succeeded", 999)
		charge := basil.charge(0, 999)
		charge["livemode"] = true
		o["charge"] = charge
		if _, err := api(t, serveStripe(t, answering(o)).URL, entitlement.Sandbox).Pull(t.Context(), entitlement.KindRefund, "re_1"); !errors.Is(err, ErrOtherEnvironment) {
			t.Errorf("Pull = %v", err)
		}
	})
	t.Run("nobody listens", func(t *testing.T) {
		s := serveStripe(t, nil)
		s.Close()
		_, err := api(t, s.URL, entitlement.Sandbox).Pull(t.Context(), entitlement.KindSubscription, "sub_1")
		if !errors.Is(err, ErrUnavailable) || strings.Contains(err.Error(), "canary") {
			t.Errorf("Pull = %v", err)
		}
	})
	t.Run("the caller gives up", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		s := serveStripe(t, func(_ http.ResponseWriter, r *http.Request) {
			cancel()
			<-r.Context().Done()
		})
		if _, err := api(t, s.URL, entitlement.Sandbox).Pull(ctx, entitlement.KindSubscription, "sub_1"); !errors.Is(err, context.Canceled) {
			t.Errorf("Pull = %v", err)
		}
	})
	t.Run("an answer without an end", func(t *testing.T) {
		s := serveStripe(t, func(w http.ResponseWriter, r *http.Request) {
			for r.Context().Err() == nil {
				if _, err := w.Write(make([]byte, 1<<16)); err != nil {
					return
				}
			}
		})
		if _, err := api(t, s.URL, entitlement.Sandbox).Pull(t.Context(), entitlement.KindSubscription, "sub_1"); !errors.Is(err, ErrUnavailable) {
			t.Errorf("Pull = %v", err)
		}
	})
	t.Run("what Stripe does not have", func(t *testing.T) {
		a := api(t, "", entitlement.Sandbox)
		if _, err := a.Pull(t.Context(), entitlement.KindSale, "cs_1"); !errors.Is(err, ErrGone) || len(a.Targets(entitlement.Evidence{}, []entitlement.Doubt{{Kind: entitlement.KindSale, ID: "cs_1"}})) != 0 {
			t.Errorf("Pull = %v", err)
		}
		if _, err := a.Pull(t.Context(), entitlement.KindInvoice, "../x"); !errors.Is(err, ErrGone) {
			t.Errorf("Pull = %v", err)
		}
	})
}

// A clock that is ahead of Stripe's must not make answers newer than what happens after them.
func TestStripesClockBoundsTheVersion(t *testing.T) {
	o := marshal(testmode(basil.subscription("active", 0)))
	s := serveStripe(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Date", asked.Add(-3*time.Second).UTC().Format(http.TimeFormat))
		fmt.Fprint(w, o)
	})
	ev, err := api(t, s.URL, entitlement.Sandbox).Pull(t.Context(), entitlement.KindSubscription, "sub_1")
	if err != nil || ev.CreatedAt != asked.Unix()-3 || ev.Objects[0].At != (asked.Unix()-3)*1e9 {
		t.Errorf("Pull = %s, %v", show(ev), err)
	}
}

func TestStripeAPIConfig(t *testing.T) {
	tests := []struct {
		name, key, base string
		env             entitlement.Environment
		want            error
	}{
		{"a restricted key", testKey, "", entitlement.Sandbox, nil},
		{"a secret key in production", "sk_live_1", "https://stripe.example", entitlement.Production, nil},
		{"a simulator on loopback", "sk_test_1", "http://127.0.0.1:12111/", entitlement.Sandbox, nil},
		{"a simulator on loopback by name", "sk_test_1", "http://localhost:12111", entitlement.Sandbox, nil},
		{"no key", "", "", entitlement.Sandbox, ErrStripeKey},
		{"a publishable key", "pk_test_1", "", entitlement.Sandbox, ErrStripeKey},
		{"a signing secret", "whsec_1", "", entitlement.Sandbox, ErrStripeKey},
		{"a key with a line's end", "sk_test_1\n", "", entitlement.Sandbox, ErrStripeKey},
		{"a test key in production", testKey, "", entitlement.Production, ErrStripeKey},
		{"a live key in sandbox", liveKey, "", entitlement.Sandbox, ErrStripeKey},
		{"without TLS", testKey, "http://stripe.example", entitlement.Sandbox, ErrStripeBase},
		{"without TLS by an address that only looks like loopback", testKey, "http://127.0.0.1.example", entitlement.Sandbox, ErrStripeBase},
		{"no address", testKey, "stripe", entitlement.Sandbox, ErrStripeBase},
		{"a password in it", testKey, "https://a:b@stripe.example", entitlement.Sandbox, ErrStripeBase},
		{"a path in it", testKey, "https://stripe.example/v1", entitlement.Sandbox, ErrStripeBase},
		{"a file", testKey, "file:///etc", entitlement.Sandbox, ErrStripeBase},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := NewStripeAPI(StripeAPIConfig{Key: tt.key, BaseURL: tt.base, Environment: tt.env})
			if !errors.Is(err, tt.want) {
				t.Errorf("NewStripeAPI = %v, want %v", err, tt.want)
			}
			if err != nil && tt.key != "" && strings.Contains(err.Error(), tt.key) {
				t.Errorf("the error quotes the key: %v", err)
			}
		})
	}
}

// However an answer is broken, nothing panics and nothing that is not allowed is kept.
func FuzzPulledAnswer(f *testing.F) {
	lost := dispute("lost")
	lost["closed_at"] = began + 700
	paid := map[string]any{"id": "pi_0", "object": stripePaid, "payments": map[string]any{"data": []any{invoicePayment(0)}}}
	for _, o := range []map[string]any{basil.subscription("active", 0), basil.invoice("in_1", "paid", 0, "", ""), basil.charge(0, 1), refund("re_1", "failed", 1), dispute("won"), lost, paid} {
		f.Add(marshal(testmode(o)))
	}
	f.Fuzz(func(t *testing.T, body string) {
		m, err := decodeObject([]byte(body))
		if err != nil {
			return
		}
		for _, kind := range append(slices.Collect(maps.Keys(stripePulls)), stripePaid) {
			ev, err := readStripe(pulledMessage("x:1", kind, 1_790_000_000, entitlement.Sandbox, m.Raw), entitlement.Sandbox)
			if err == nil {
				checkSafe(t, ev)
			}
		}
	})
}

// TestAClosedDisputeIsNotAskedFor: the answer would say again that it is lost, as of now, and take back the terms that were paid since.
func TestAClosedDisputeIsNotAskedFor(t *testing.T) {
	for _, tt := range []struct {
		status        string
		tied, partial bool
		asked         bool
	}{
		{"needs_response", false, false, true},
		{"under_review", false, false, true},
		{"warning_closed", false, false, true},
		{"lost", false, false, false},
		{"won", false, false, false},
		{"lost", true, false, true},
		{"one of later", false, true, true},
	} {
		e := entitlement.Evidence{Objects: []entitlement.Object{
			{Kind: entitlement.KindDispute, ID: "dp_1", Tied: tt.tied, Partial: tt.partial, Dispute: &entitlement.Dispute{Status: tt.status}},
			{Kind: entitlement.KindDispute, ID: "dp_2", Dispute: &entitlement.Dispute{Status: "needs_response"}},
		}}
		var asked []string
		for _, d := range (&StripeAPI{}).Targets(e, []entitlement.Doubt{{Kind: entitlement.KindDispute, ID: "dp_1"}, {Kind: entitlement.KindDispute, ID: "dp_2"}}) {
			asked = append(asked, d.ID)
		}
		if want := map[bool][]string{true: {"dp_1", "dp_2"}, false: {"dp_2"}}[tt.asked]; !slices.Equal(asked, want) {
			t.Errorf("%s, tied %t, partial %t: asks for %v, want %v", tt.status, tt.tied, tt.partial, asked, want)
		}
	}
}
