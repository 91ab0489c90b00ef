package provider

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/latchkey/latchkey/pkg/entitlement"
)

// These tests show that a payment whose money came back is tied to what it had paid for by asking, when no message did, in a bounded number of questions.

// notFound is Stripe's answer about what it does not have.
const notFound = `{"error":{"type":"invalid_request_error","code":"resource_missing"}}`

func stripeListOf(elements ...any) string {
	if elements == nil {
		elements = []any{}
	}
	return marshal(map[string]any{"object": "list", "data": elements, "has_more": false})
}

func TestWhatAPaymentPaidIsAskedFor(t *testing.T) {
	payments, sessions := "/v1/invoice_payments?payment[type]=payment_intent&payment[payment_intent]=pi_0&limit=100",
		"/v1/checkout/sessions?payment_intent=pi_0&limit=1&expand[]=data.line_items&expand[]=data.payment_intent"
	payment := testmode(invoicePayment(0))
	payment["customer_email"] = "canary@example.com"
	session := testmode(map[string]any{"id": "cs_1", "object": "checkout.session", "mode": "payment", "status": "complete", "payment_status": "paid", "amount_total": 100, "created": began,
		"payment_intent": map[string]any{"id": "pi_0", "status": "succeeded", "receipt_email": "canary@example.com"}, "customer_details": map[string]any{"email": "canary@example.com"},
		"line_items": map[string]any{"has_more": false, "data": []any{map[string]any{"id": "li_1", "price": map[string]any{"id": "price_coins"}}}}})
	charge := testmode(basil.charge(0, 999))
	before := testmode(classic.charge(0, 999))
	bare := testmode(basil.charge(0, 999))
	delete(bare, "payment_intent")
	live := clone(payment)
	live["livemode"] = true
	tests := []struct {
		name    string
		id      string
		answers map[string]string // by path; others are not there
		kinds   []entitlement.ObjectKind
		links   []entitlement.Link
		asked   []string
		want    error
	}{
		{name: "an invoice", id: "pi_0", answers: map[string]string{"/v1/invoice_payments": stripeListOf(payment)},
			kinds: []entitlement.ObjectKind{entitlement.KindPayment, entitlement.KindPayment}, links: []entitlement.Link{"stripe:in_0", "stripe:inpay_0", "stripe:pi_0"}, asked: []string{payments}},
		{name: "a checkout session", id: "pi_0", answers: map[string]string{"/v1/invoice_payments": stripeListOf(), "/v1/checkout/sessions": stripeListOf(session)},
			kinds: []entitlement.ObjectKind{entitlement.KindCheckout, entitlement.KindPayment, entitlement.KindSale}, links: []entitlement.Link{"stripe:cs_1", "stripe:pi_0"}, asked: []string{payments, sessions}},
		{name: "nothing of ours", id: "pi_0", answers: map[string]string{"/v1/invoice_payments": stripeListOf(), "/v1/checkout/sessions": stripeListOf()},
			kinds: []entitlement.ObjectKind{entitlement.KindPayment}, links: []entitlement.Link{"stripe:pi_0"}, asked: []string{payments, sessions}},
		{name: "a payment that Stripe does not know", id: "pi_0",
			kinds: []entitlement.ObjectKind{entitlement.KindPayment}, links: []entitlement.Link{"stripe:pi_0"}, asked: []string{payments, sessions}},
		{name: "a charge with a payment intent", id: "ch_0", answers: map[string]string{"/v1/charges/ch_0": marshal(charge), "/v1/invoice_payments": stripeListOf(payment)},
			kinds: []entitlement.ObjectKind{entitlement.KindPayment, entitlement.KindPayment}, links: []entitlement.Link{"stripe:ch_0", "stripe:in_0", "stripe:inpay_0", "stripe:pi_0"},
			asked: []string{"/v1/charges/ch_0", payments}},
		{name: "a charge that names its invoice", id: "ch_0", answers: map[string]string{"/v1/charges/ch_0": marshal(before)},
			kinds: []entitlement.ObjectKind{entitlement.KindPayment}, links: []entitlement.Link{"stripe:ch_0", "stripe:in_0", "stripe:pi_0"}, asked: []string{"/v1/charges/ch_0"}},
		{name: "a charge of nothing", id: "ch_0", answers: map[string]string{"/v1/charges/ch_0": marshal(bare)},
			kinds: []entitlement.ObjectKind{entitlement.KindPayment}, links: []entitlement.Link{"stripe:ch_0"}, asked: []string{"/v1/charges/ch_0"}},
		{name: "a charge that Stripe does not know", id: "py_0",
			kinds: []entitlement.ObjectKind{entitlement.KindPayment}, links: []entitlement.Link{"stripe:py_0"}, asked: []string{"/v1/charges/py_0"}},
		{name: "an invoice of the other mode", id: "pi_0", answers: map[string]string{"/v1/invoice_payments": stripeListOf(live)}, asked: []string{payments}, want: ErrOtherEnvironment},
		{name: "Stripe is down", id: "pi_0", answers: map[string]string{"/v1/invoice_payments": "503"}, asked: []string{payments}, want: ErrUnavailable},
		{name: "Stripe goes down", id: "pi_0", answers: map[string]string{"/v1/invoice_payments": stripeListOf(), "/v1/checkout/sessions": "503"}, asked: []string{payments, sessions}, want: ErrUnavailable},
		{name: "an invoice payment without an invoice", id: "pi_0", answers: map[string]string{"/v1/invoice_payments": stripeListOf(map[string]any{"id": "inpay_0", "livemode": false})}, asked: []string{payments}, want: ErrAnswer},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := serveStripe(t, func(w http.ResponseWriter, r *http.Request) {
				if old := strings.HasPrefix(r.URL.Path, "/v1/charges/"); r.Header.Get("Stripe-Version") != map[bool]string{true: stripeVersionBefore, false: stripeVersion}[old] {
					t.Errorf("%s was asked of version %s", r.URL.Path, r.Header.Get("Stripe-Version"))
				}
				switch body := tt.answers[r.URL.Path]; body {
				case "":
					w.WriteHeader(http.StatusNotFound)
					fmt.Fprint(w, notFound)
				case "503":
					w.WriteHeader(http.StatusServiceUnavailable)
				default:
					fmt.Fprint(w, body)
				}
			})
			ev, err := api(t, s.URL, entitlement.Sandbox).Pull(t.Context(), entitlement.KindPayment, tt.id)
			if !errors.Is(err, tt.want) {
				t.Fatalf("Pull = %v, want %v", err, tt.want)
			}
			if got := s.uris(); !slices.Equal(got, tt.asked) {
				t.Errorf("asked for %q, want %q", got, tt.asked)
			}
			if tt.want != nil {
				return
			}
			checkSafe(t, ev)
			var kinds []entitlement.ObjectKind
			for _, o := range ev.Objects {
				kinds = append(kinds, o.Kind)
			}
			slices.Sort(kinds)
			e := entitlement.Evidence{}.Add(ev.Objects...)
			if !slices.Equal(kinds, tt.kinds) || !slices.Equal(e.Links, tt.links) {
				t.Errorf("Pull proves %v of %v, want %v of %v", kinds, e.Links, tt.kinds, tt.links)
			}
			if again := parse(t, string(ev.Raw)); again.Digest() != ev.Digest() {
				t.Errorf("the stored answer reads as\n%s\nwant\n%s", show(again), show(ev))
			}
			if strings.Contains(string(entitlement.Encode(&ev)), "canary") {
				t.Error("personal data or the key is kept")
			}
			// It is asked about once, whatever the answer was.
			back := entitlement.Object{Kind: entitlement.KindDispute, ID: "dp_1", At: asked.UnixNano() + 1, Links: []entitlement.Link{"stripe:dp_1", entitlement.Link("stripe:" + tt.id)},
				Dispute: &entitlement.Dispute{Status: "needs_response", PaymentIntent: tt.id}}
			if slices.ContainsFunc(e.Add(back).Doubts(), func(d entitlement.Doubt) bool { return d.Kind == entitlement.KindPayment }) {
				t.Errorf("a dispute afterwards asks again: %+v", e.Add(back).Doubts())
			}
		})
	}
}

// TestADisputeOfAPaymentThatNobodyToldOfFindsItsSubscription goes all the way: three questions, and the subscription is taken back.
func TestADisputeOfAPaymentThatNobodyToldOfFindsItsSubscription(t *testing.T) {
	invoice := testmode(basil.invoice("in_0", "paid", 0, "", ""))
	s := serveStripe(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/v1/invoice_payments":
			fmt.Fprint(w, stripeListOf(testmode(invoicePayment(0))))
		case "/v1/invoices/in_0":
			fmt.Fprint(w, marshal(invoice))
		case "/v1/subscriptions/sub_1":
			fmt.Fprint(w, marshal(testmode(basil.subscription("active", 1))))
		default:
			t.Errorf("asked for %s", r.URL)
		}
	})
	a := api(t, s.URL, entitlement.Sandbox)
	e := entitlement.Evidence{}.Add(parse(t, message("charge.dispute.created", 900, dispute("needs_response"))).Objects...)
	questions := 0
	for ; questions < 10; questions++ {
		targets := a.Targets(e, e.Doubts())
		if len(targets) == 0 {
			break
		}
		ev, err := a.Pull(t.Context(), targets[0].Kind, targets[0].ID)
		if err != nil {
			t.Fatal(err)
		}
		e = e.Add(ev.Objects...)
	}
	p := entitlement.Fold(e, entitlement.DefaultPolicy)
	if questions != 3 || p.ID != "stripe:sub_1" || len(p.Items) != 1 || p.Items[0].State != entitlement.Revoked || p.Items[0].Reason != entitlement.ReasonDisputed {
		t.Errorf("after %d questions: %+v, want the subscription revoked after 3", questions, p)
	}
}
