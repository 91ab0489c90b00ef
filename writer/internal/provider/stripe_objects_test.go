package provider

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/latchkey/latchkey/pkg/entitlement"
)

func parse(t testing.TB, body string) entitlement.Event {
	t.Helper()
	ev, err := (&Stripe{}).Parse([]byte(body), entitlement.Sandbox)
	if err != nil {
		t.Fatalf("Parse: %v", err)
	}
	return ev
}

// The samples follow the shapes that Stripe documents, one file each.
func sample(t testing.TB, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name+".json"))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func samples(t testing.TB) map[string]string {
	t.Helper()
	files, err := filepath.Glob("testdata/*.json")
	if err != nil || len(files) == 0 {
		t.Fatalf("no samples: %v", err)
	}
	out := map[string]string{}
	for _, f := range files {
		name := strings.TrimSuffix(filepath.Base(f), ".json")
		out[name] = sample(t, name)
	}
	return out
}

func TestParseSamples(t *testing.T) {
	links := func(ids ...string) (out []entitlement.Link) {
		for _, id := range ids {
			out = append(out, entitlement.Link("stripe:"+id))
		}
		return out
	}
	customer := []entitlement.Alias{{Kind: entitlement.StripeCustomer, Value: "cus_LkA"}}
	tests := []struct {
		sample string
		env    entitlement.Environment
		kind   entitlement.EventKind
		want   []entitlement.Object
	}{
		{"renewal", entitlement.Production, entitlement.Proof, []entitlement.Object{{
			Kind: entitlement.KindSubscription, ID: "sub_1LkA", At: 1_795_305_605e9, Rank: 3, Account: "u_7f3a", Aliases: customer, Links: links("in_1LkA2", "sub_1LkA"),
			Subscription: &entitlement.Subscription{Status: entitlement.Active, StartedAt: 1_790_035_200, LatestInvoice: "in_1LkA2", Items: []entitlement.SubscriptionItem{{
				ID: "si_LkA", StartsAt: 1_795_305_600, EndsAt: 1_797_897_600,
				Sold: entitlement.Sold{Product: "price_LkMonthly", Also: []entitlement.ProductID{"pro_monthly", "prod_LkPro"}, Quantity: 1, Price: &entitlement.Price{Amount: 999, Currency: "EUR", Period: "P1M"}},
			}}},
		}}},
		{"past-due-before-basil", entitlement.Sandbox, entitlement.Proof, []entitlement.Object{{
			Kind: entitlement.KindSubscription, ID: "sub_1LkB", At: 1_795_305_605e9, Rank: 4, Aliases: []entitlement.Alias{{Kind: entitlement.StripeCustomer, Value: "cus_LkB"}}, Links: links("sub_1LkB"),
			Subscription: &entitlement.Subscription{Status: entitlement.PastDue, Items: []entitlement.SubscriptionItem{{
				ID: "si_LkB", StartsAt: 1_795_305_600, EndsAt: 1_797_897_600, Sold: entitlement.Sold{Product: "price_LkMonthly", Also: []entitlement.ProductID{"prod_LkPro"}, Quantity: 1},
			}}},
		}}},
		{"invoice-paid", entitlement.Production, entitlement.Proof, []entitlement.Object{{
			Kind: entitlement.KindInvoice, ID: "in_1LkA2", Final: true, At: 1_795_309_300e9, Rank: 4, Account: "u_7f3a", Aliases: customer, Links: links("in_1LkA2", "sub_1LkA"),
			Invoice: &entitlement.Invoice{Status: entitlement.InvoicePaid, Subscription: "sub_1LkA", AmountPaid: 999, Currency: "EUR", PaidAt: 1_795_309_298, Lines: []entitlement.InvoiceLine{{
				ID: "il_LkA2", Sold: entitlement.Sold{Product: "price_LkMonthly", Also: []entitlement.ProductID{"prod_LkPro"}}, Item: "si_LkA", Amount: 999, StartsAt: 1_795_305_600, EndsAt: 1_797_897_600,
			}}},
		}}},
		{"checkout-completed", entitlement.Production, entitlement.Proof, []entitlement.Object{{
			Kind: entitlement.KindCheckout, ID: "cs_live_LkA", At: 1_790_035_201e9, Rank: 4, Account: "acc_01JD0000000000000000000000", Aliases: customer, Links: links("cs_live_LkA", "sub_1LkA"),
			Checkout: &entitlement.Checkout{Mode: "subscription", Payment: "paid", Subscription: "sub_1LkA", AmountTotal: 999},
		}}},
		{"partial-refund", entitlement.Production, entitlement.Proof, []entitlement.Object{{
			Kind: entitlement.KindCharge, ID: "ch_LkA2", At: 1_795_400_000e9, Rank: 76, Aliases: customer, Links: links("ch_LkA2", "pi_LkA2"),
			Charge: &entitlement.Charge{PaymentIntent: "pi_LkA2", Amount: 999, AmountRefunded: 300},
		}}},
		{"thin", entitlement.Production, entitlement.Proof, []entitlement.Object{{
			Kind: entitlement.KindHint, ID: "sub_1LkA", At: 1_795_305_605e9, Links: links("sub_1LkA"), Hint: &entitlement.Hint{Of: entitlement.KindSubscription},
		}}},
		{"lifetime-checkout", entitlement.Sandbox, entitlement.Proof, []entitlement.Object{{
			Kind: entitlement.KindCheckout, ID: "cs_test_1", At: 1_790_035_201e9, Rank: 4, Links: links("cs_test_1", "pi_LkC"),
			Checkout: &entitlement.Checkout{Mode: "payment", Payment: "paid", PaymentIntent: "pi_LkC", AmountTotal: 9900, CreatedAt: 1_790_035_000},
		}, {
			Kind: entitlement.KindSale, ID: "cs_test_1", At: 1_790_035_201e9, Rank: 1, Links: links("cs_test_1"),
			Sale: &entitlement.Sale{Lines: []entitlement.SaleLine{{ID: "li_1", Sold: entitlement.Sold{Product: "price_lifetime", Also: []entitlement.ProductID{"prod_pro"}, Quantity: 1, Price: &entitlement.Price{Amount: 9900, Currency: "JPY"}}}}},
		}}},
	}
	for _, tt := range tests {
		t.Run(tt.sample, func(t *testing.T) {
			ev := parse(t, sample(t, tt.sample))
			if ev.Environment != tt.env || ev.Kind != tt.kind || !strings.HasPrefix(ev.ID, "evt_") || ev.Type == "" || ev.CreatedAt == 0 {
				t.Errorf("Parse = %+v, want kind %d of %s", ev, tt.kind, tt.env)
			}
			if !reflect.DeepEqual(ev.Objects, tt.want) {
				t.Errorf("Parse proves\n%s\nwant\n%s", show(ev.Objects), show(tt.want))
			}
		})
	}
}

func show(v any) string {
	b, err := json.MarshalIndent(v, "", " ")
	if err != nil {
		return err.Error()
	}
	return string(b)
}

// What is stored must be enough to read history again with a later adapter, and must read the same today.
func TestRawReadsAsTheMessageDid(t *testing.T) {
	bodies := samples(t)
	for i, e := range life(classic) {
		bodies[fmt.Sprintf("classic %d", i)] = e
	}
	for i, e := range life(basil) {
		bodies[fmt.Sprintf("basil %d", i)] = e
	}
	for name, body := range bodies {
		t.Run(name, func(t *testing.T) {
			ev := parse(t, body)
			again := parse(t, string(ev.Raw))
			if !bytes.Equal(again.Raw, ev.Raw) || again.Digest() != ev.Digest() {
				t.Errorf("the stored message reads as\n%s\nwant\n%s", show(again), show(ev))
			}
		})
	}
}

// Both API shapes prove the same states, where both carry them.
func TestBothShapesProveTheSame(t *testing.T) {
	for name, body := range map[string]func(shape) string{
		"subscription": func(s shape) string { return message("customer.subscription.updated", 7, s.subscription("active", 0)) },
		"invoice":      func(s shape) string { return message("invoice.paid", 7, s.invoice("in_1", "paid", 0, "", "")) },
		"refund":       func(shape) string { return message("refund.created", 7, refund("re_1", "pending", 999)) },
		"dispute":      func(shape) string { return message("charge.dispute.created", 7, dispute("lost")) },
	} {
		t.Run(name, func(t *testing.T) {
			a, b := parse(t, body(classic)), parse(t, body(basil))
			if len(a.Objects) == 0 || !reflect.DeepEqual(a.Objects, b.Objects) {
				t.Errorf("2023-10-16 proves\n%s\nbasil proves\n%s", show(a.Objects), show(b.Objects))
			}
		})
	}
}

func TestItemsInAnyOrderAreTheSameState(t *testing.T) {
	o := basil.subscription("active", 0)
	first := o["items"].(map[string]any)["data"].([]any)[0]
	second := clone(first.(map[string]any))
	second["id"] = "si_2"
	body := func(items ...any) string {
		o := clone(o)
		o["items"] = map[string]any{"data": items}
		return message("customer.subscription.updated", 7, o)
	}
	a, b := parse(t, body(first, second)), parse(t, body(second, first))
	if len(a.Objects[0].Subscription.Items) != 2 || !reflect.DeepEqual(a.Objects, b.Objects) {
		t.Errorf("one order proves\n%s\nthe other\n%s", show(a.Objects), show(b.Objects))
	}
}

func TestParseKinds(t *testing.T) {
	sub := classic.subscription("active", 0)
	without := func(o map[string]any, name string) map[string]any {
		o = clone(o)
		delete(o, name)
		return o
	}
	with := func(o map[string]any, name string, v any) map[string]any {
		o = clone(o)
		o[name] = v
		return o
	}
	head := func(change func(map[string]any)) string {
		var m map[string]any
		if err := json.Unmarshal([]byte(message("customer.subscription.updated", 7, sub)), &m); err != nil {
			t.Fatal(err)
		}
		change(m)
		return marshal(m)
	}
	tests := []struct {
		name string
		body string
		want entitlement.EventKind
	}{
		{"a type that we act on", message("customer.subscription.updated", 7, sub), entitlement.Proof},
		{"a subscription type that is new to us", message("customer.subscription.renamed", 7, sub), entitlement.Proof},
		{"a type that we do not act on", message("customer.created", 7, map[string]any{"id": "cus_1"}), entitlement.Unhandled},
		{"an object without an id, of a type that we do not act on", message("invoice.upcoming", 7, map[string]any{}), entitlement.Unhandled},
		{"no object at all, of a type that we do not act on", `{"id":"evt_1","object":"event","type":"ping"}`, entitlement.Unhandled},
		{"a thin event", thin("v1.invoice.paid", "invoice", "in_1", "2026-11-22T00:00:05.678Z"), entitlement.Proof},
		{"a thin event of an object that is new to us", thin("v1.price.created", "price", "price_1", "2026-11-22T00:00:05Z"), entitlement.Unhandled},
		{"a thin event without an object", `{"id":"evt_1","object":"v2.core.event","type":"v2.core.health","created":"2026-11-22T00:00:05Z","livemode":false}`, entitlement.Unhandled},
		{"a thin event without the object's id", thin("v1.invoice.paid", "invoice", "", "2026-11-22T00:00:05Z"), entitlement.Unhandled},
		{"a thin event without a time", thin("v1.invoice.paid", "invoice", "in_1", "yesterday"), entitlement.Unhandled},
		{"a thin event of a time that nanoseconds cannot hold", thin("v1.invoice.paid", "invoice", "in_1", "9999-11-22T00:00:05Z"), entitlement.Unhandled},
		{"garbage", `{"id":"evt_1",`, entitlement.Unreadable},
		{"nothing", ``, entitlement.Unreadable},
		{"a number", `17`, entitlement.Unreadable},
		{"an array", `[{}]`, entitlement.Unreadable},
		{"two values", `{"id":"evt_1","type":"ping"}{}`, entitlement.Unreadable},
		{"nesting without end", strings.Repeat(`{"a":`, 100_000), entitlement.Unreadable},
		{"deep nesting in a field that nobody reads", message("customer.subscription.updated", 7, with(sub, "extra", nested(500))), entitlement.Proof},
		{"no event id", head(func(m map[string]any) { delete(m, "id") }), entitlement.Unreadable},
		{"an event id of 256 bytes", head(func(m map[string]any) { m["id"] = strings.Repeat("x", 256) }), entitlement.Unreadable},
		{"no type", head(func(m map[string]any) { delete(m, "type") }), entitlement.Unreadable},
		{"no time", head(func(m map[string]any) { delete(m, "created") }), entitlement.Unreadable},
		{"a time before 1970", head(func(m map[string]any) { m["created"] = -1 }), entitlement.Unreadable},
		{"a time beyond nanoseconds", head(func(m map[string]any) { m["created"] = 9_223_372_037 }), entitlement.Unreadable},
		{"a time that is no number", head(func(m map[string]any) { m["created"] = "now" }), entitlement.Unreadable},
		{"no object", head(func(m map[string]any) { delete(m, "data") }), entitlement.Unreadable},
		{"an object of another type", message("customer.subscription.updated", 7, with(sub, "object", "invoice")), entitlement.Unreadable},
		{"no object id", message("customer.subscription.updated", 7, without(sub, "id")), entitlement.Unreadable},
		{"no status", message("customer.subscription.updated", 7, without(sub, "status")), entitlement.Unreadable},
		{"a status that is no text", message("customer.subscription.updated", 7, with(sub, "status", 3)), entitlement.Unreadable},
		{"a dispute without a payment", message("charge.dispute.created", 7, map[string]any{"id": "dp_1", "status": "lost"}), entitlement.Unreadable},
		{"an invoice payment without an invoice", message("invoice_payment.paid", 7, map[string]any{"id": "inpay_1"}), entitlement.Unreadable},
		{"unknown fields", head(func(m map[string]any) { m["new"] = map[string]any{"id": 1} }), entitlement.Proof},
		{"a field twice: the last one counts", strings.Replace(message("customer.subscription.updated", 7, sub), `"status":"active"`, `"status":"past_due","status":"active"`, 1), entitlement.Proof},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			ev := parse(t, tt.body)
			if ev.Kind != tt.want || ev.ID == "" {
				t.Fatalf("Parse = %s, want kind %d", show(ev), tt.want)
			}
			if (len(ev.Objects) > 0) != (tt.want == entitlement.Proof) {
				t.Errorf("Parse of kind %d proves %d objects", ev.Kind, len(ev.Objects))
			}
			if tt.want == entitlement.Unreadable && (!strings.HasPrefix(ev.ID, "sha256:") || ev.Environment != entitlement.Sandbox) {
				t.Errorf("an unreadable body is %s in %s, want its hash in the URL's environment", ev.ID, ev.Environment)
			}
			if tt.name == "a field twice: the last one counts" && ev.Objects[0].Subscription.Status != entitlement.Active {
				t.Errorf("status = %s", ev.Objects[0].Subscription.Status)
			}
		})
	}
}

// thin is an event that names an object without its state.
func thin(kind, related, id, created string) string {
	return marshal(map[string]any{"id": "evt_thin", "object": "v2.core.event", "type": kind, "created": created, "livemode": false, "context": nil,
		"related_object": map[string]any{"id": id, "type": related, "url": "/v1/somewhere"}})
}

// TestASchedulesEndIsAskedAbout: a schedule that ends may have changed its subscription, so the subscription is in doubt until its own newer state.
// Other messages of schedules say nothing that its subscription does not say itself.
func TestASchedulesEndIsAskedAbout(t *testing.T) {
	for _, tt := range []struct {
		name, kind string
		schedule   map[string]any
		want       []entitlement.Doubt
	}{
		{"completed", "subscription_schedule.completed", map[string]any{"id": "sub_sched_1", "subscription": "sub_1"}, []entitlement.Doubt{{Kind: entitlement.KindSubscription, ID: "sub_1", From: 1_790_000_007e9}}},
		{"released", "subscription_schedule.released", map[string]any{"id": "sub_sched_1", "subscription": nil, "released_subscription": "sub_1"}, []entitlement.Doubt{{Kind: entitlement.KindSubscription, ID: "sub_1", From: 1_790_000_007e9}}},
		{"canceled before it made a subscription", "subscription_schedule.canceled", map[string]any{"id": "sub_sched_1", "subscription": nil}, nil},
		{"expiring", "subscription_schedule.expiring", map[string]any{"id": "sub_sched_1", "subscription": "sub_1"}, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.schedule["object"] = "subscription_schedule"
			ev := parse(t, message(tt.kind, 7, tt.schedule))
			if got := (entitlement.Evidence{}).Add(ev.Objects...).Doubts(); !slices.Equal(got, tt.want) {
				t.Errorf("doubts after %s: %+v, want %+v", tt.kind, got, tt.want)
			}
		})
	}
}

func TestThinEventsKeepTheirFullTime(t *testing.T) {
	ev := parse(t, thin("v1.invoice.paid", "invoice", "in_1", "2026-11-22T01:00:05.678+01:00"))
	if want := int64(1_795_305_605_678_000_000); ev.CreatedAt != 1_795_305_605 || ev.Objects[0].At != want {
		t.Errorf("created %d, hint at %d, want %d", ev.CreatedAt, ev.Objects[0].At, want)
	}
	if again := parse(t, string(ev.Raw)); again.Digest() != ev.Digest() {
		t.Errorf("the stored message reads as %s", show(again))
	}
}

func nested(n int) any {
	var v any = 1
	for range n {
		v = map[string]any{"a": v}
	}
	return v
}

// A wrong type loses its field and nothing else. Every field of every sample is tried with every wrong value.
func TestWrongTypesLoseNoMoreThanTheirField(t *testing.T) {
	wrong := []string{`null`, `true`, `-1`, `1e999`, `99999999999999999999`, `"` + strings.Repeat("x", 300) + `"`, `"a b"`, `[]`, `{}`, `[[[]]]`, `{"id":{"id":1}}`}
	essential := []string{"id", "type", "created", "object", "data", "status", "mode", "payment_status", "charge", "payment_intent", "invoice"}
	for name, body := range samples(t) {
		t.Run(name, func(t *testing.T) {
			var tree any
			if err := json.Unmarshal([]byte(body), &tree); err != nil {
				t.Fatal(err)
			}
			everyField(tree, func(field string, set func(any)) {
				for _, w := range wrong {
					set(json.RawMessage(w))
					ev := parse(t, marshal(tree))
					if ev.Kind == entitlement.Unreadable && !slices.Contains(essential, field) {
						t.Errorf("%s = %s: %s", field, w, ev.Raw)
					}
					checkSafe(t, ev)
				}
			})
		})
	}
}

// everyField visits each field of a JSON tree and lets visit replace its value; afterwards the field is as it was.
func everyField(v any, visit func(name string, set func(any))) {
	switch v := v.(type) {
	case map[string]any:
		for name, old := range v {
			everyField(old, visit)
			visit(name, func(new any) { v[name] = new })
			v[name] = old
		}
	case []any:
		for _, e := range v {
			everyField(e, visit)
		}
	}
}

// checkSafe fails if an event holds what no event may.
func checkSafe(t testing.TB, ev entitlement.Event) {
	t.Helper()
	if ev.Kind != entitlement.Proof && len(ev.Objects) > 0 {
		t.Fatalf("an event of kind %d proves something: %s", ev.Kind, show(ev))
	}
	if ev.ID == "" || !ev.Environment.Valid() || !json.Valid(ev.Raw) {
		t.Fatalf("not a whole event: %s", show(ev))
	}
	for _, o := range ev.Objects {
		if o.ID == "" || o.Kind == "" || o.At <= 0 || !slices.Contains(o.Links, entitlement.Link("stripe:"+o.ID)) || !slices.IsSorted(o.Links) {
			t.Fatalf("not a whole object: %s", show(o))
		}
	}
	entitlement.Fold(entitlement.Evidence{}.Add(ev.Objects...), entitlement.DefaultPolicy)
}

// No name, address, mail or free text of a message reaches what is stored, wherever it stands.
func TestNoPersonalDataIsKept(t *testing.T) {
	const canary = "CANARY person@example.com"
	free := []string{"name", "email", "description", "note", "hosted_invoice_url", "statement_descriptor", "receipt_email", "phone"}
	plant := func(tree any) {
		var walk func(v any)
		walk = func(v any) {
			switch v := v.(type) {
			case map[string]any:
				for _, e := range v {
					walk(e)
				}
				for _, name := range free {
					v[name] = canary
				}
				v["customer_details"] = map[string]any{"email": canary, "address": map[string]any{"line1": canary}}
				v["metadata_extra"] = []any{canary}
				if m, ok := v["metadata"].(map[string]any); ok {
					m["note"] = canary
				}
			case []any:
				for _, e := range v {
					walk(e)
				}
			}
		}
		walk(tree)
	}
	check := func(t *testing.T, body string) {
		t.Helper()
		ev := parse(t, body)
		for _, stored := range [][]byte{entitlement.Encode(&ev), ev.Raw, []byte(show(ev))} {
			if lower := strings.ToLower(string(stored)); strings.Contains(lower, "canary") || strings.Contains(lower, "example.com") {
				t.Fatalf("personal data is kept of %s:\n%s", body, stored)
			}
		}
	}
	bodies := samples(t)
	bodies["unhandled"] = message("customer.created", 7, map[string]any{"id": "cus_1", "object": "customer"})
	for _, s := range []shape{classic, basil} {
		for i, e := range life(s) {
			bodies[fmt.Sprintf("%v %d", s, i)] = e
		}
	}
	for name, body := range bodies {
		t.Run(name, func(t *testing.T) {
			var planted, tree any
			if err := errors.Join(json.Unmarshal([]byte(body), &planted), json.Unmarshal([]byte(body), &tree)); err != nil {
				t.Fatal(err)
			}
			plant(planted)
			check(t, marshal(planted))
			everyField(tree, func(_ string, set func(any)) { // also where an id or an enum belongs
				for _, v := range []any{"canary@example.com", map[string]any{"id": canary}} {
					set(v)
					check(t, marshal(tree))
				}
			})
		})
	}
	t.Run("unreadable", func(t *testing.T) { check(t, `{"email":"`+canary+`",CANARY`) })
	t.Run("unreadable type", func(t *testing.T) { check(t, `{"id":"`+canary+`"}`) })
	t.Run("a reference that is an address", func(t *testing.T) {
		check(t, strings.Replace(sample(t, "checkout-completed"), "acc_01JD0000000000000000000000", "person@example.com", 1))
	})
}

// Of two states of one second the one further on wins, for each pair.
func TestRanks(t *testing.T) {
	inOrder := map[string][]string{
		"subscription": {"incomplete", "trialing", "active", "past_due", "unpaid", "paused", "incomplete_expired", "canceled"},
		"invoice":      {"draft", "open", "uncollectible", "paid", "void"},
		"refund":       {"pending", "requires_action", "succeeded", "canceled", "failed"},
		"dispute": {"warning_needs_response", "warning_under_review", "warning_closed", "needs_response", "under_review", "lost",
			"appeal_needs_response", "appeal_under_review", "won", "prevented"},
	}
	build := map[string]func(status string) string{
		"subscription": func(s string) string { return message("customer.subscription.updated", 7, classic.subscription(s, 0)) },
		"invoice":      func(s string) string { return message("invoice.updated", 7, classic.invoice("in_1", s, 0, "", "")) },
		"refund":       func(s string) string { return message("refund.updated", 7, refund("re_1", s, 999)) },
		"dispute":      func(s string) string { return message("charge.dispute.updated", 7, dispute(s)) },
	}
	for kind, statuses := range inOrder {
		for i, earlier := range statuses {
			for _, later := range statuses[i+1:] {
				t.Run(kind+" "+earlier+" before "+later, func(t *testing.T) {
					a, b := parse(t, build[kind](earlier)).Objects[0], parse(t, build[kind](later)).Objects[0]
					if a.Rank >= b.Rank {
						t.Errorf("ranks %d and %d", a.Rank, b.Rank)
					}
					want := entitlement.Evidence{}.Add(b)
					got := entitlement.Evidence{}.Add(b, a)
					if !reflect.DeepEqual(stateOf(got.Objects[0]), stateOf(want.Objects[0])) {
						t.Errorf("%s and %s of one second give %s", earlier, later, show(got.Objects[0]))
					}
				})
			}
		}
	}
	t.Run("a charge's refunded share only grows", func(t *testing.T) {
		var last uint8
		for _, refunded := range []int64{0, 1, 300, 998, 999} {
			rank := chargeRank(&entitlement.Charge{Amount: 999, AmountRefunded: refunded, Refunded: refunded == 999})
			if refunded > 0 && rank <= last {
				t.Errorf("rank %d of %d refunded is not above %d", rank, refunded, last)
			}
			last = rank
		}
	})
	t.Run("a checkout goes from unpaid to failed or paid", func(t *testing.T) {
		ranks := []uint8{checkoutRanks["unpaid"], checkoutRanks["failed"], checkoutRanks["no_payment_required"], checkoutRanks["paid"]}
		if !slices.IsSorted(ranks) || len(slices.Compact(slices.Clone(ranks))) != len(ranks) {
			t.Errorf("ranks %v", ranks)
		}
	})
}

func stateOf(o entitlement.Object) entitlement.Object {
	o.Tied = false
	return o
}

func TestPartial(t *testing.T) {
	cut := func(o map[string]any, list string) map[string]any {
		o = clone(o)
		l := clone(o[list].(map[string]any))
		l["has_more"] = true
		o[list] = l
		return o
	}
	endless := clone(classic.subscription("active", 0))
	delete(endless, "current_period_end")
	tests := []struct {
		name string
		body string
		want bool
	}{
		{"a whole subscription is not", message("customer.subscription.updated", 7, basil.subscription("active", 0)), false},
		{"a subscription without a period end is", message("customer.subscription.updated", 7, endless), true},
		{"one with more items is", message("customer.subscription.updated", 7, cut(basil.subscription("active", 0), "items")), true},
		{"one of an unknown status is", message("customer.subscription.updated", 7, basil.subscription("resting", 0)), true},
		{"a whole invoice is not", message("invoice.paid", 7, basil.invoice("in_1", "paid", 0, "", "")), false},
		{"an invoice with more lines is", message("invoice.paid", 7, cut(basil.invoice("in_1", "paid", 0, "", ""), "lines")), true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := parse(t, tt.body).Objects[0].Partial; got != tt.want {
				t.Errorf("Partial = %t, want %t", got, tt.want)
			}
		})
	}
	t.Run("a one-time payment without what it sold is in doubt", func(t *testing.T) {
		body := strings.Replace(sample(t, "lifetime-checkout"), `"line_items"`, `"not_expanded"`, 1)
		if p := entitlement.Fold(entitlement.Evidence{}.Add(parse(t, body).Objects...), entitlement.DefaultPolicy); !p.Doubt {
			t.Errorf("Fold = %+v, want doubt", p)
		}
	})
}

func TestEnvironmentIsThatOfTheMessage(t *testing.T) {
	body := message("customer.subscription.updated", 7, classic.subscription("active", 0))
	for _, tt := range []struct {
		name string
		body string
		want entitlement.Environment
	}{
		{"livemode", strings.Replace(body, `"livemode":false,"object":"event"`, `"livemode":true,"object":"event"`, 1), entitlement.Production},
		{"not livemode", body, entitlement.Sandbox},
		{"not said: the URL's", strings.Replace(body, `"livemode":false,"object":"event"`, `"object":"event"`, 1), entitlement.Production},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ev, err := (&Stripe{}).Parse([]byte(tt.body), entitlement.Production)
			if err != nil || ev.Environment != tt.want {
				t.Errorf("Parse = %s, %v, want %s", ev.Environment, err, tt.want)
			}
		})
	}
}

func TestRedeliveryIsTheSameEvent(t *testing.T) {
	body := message("customer.subscription.updated", 7, classic.subscription("active", 0))
	again := strings.Replace(body, `"pending_webhooks":1`, `"pending_webhooks":3`, 1)
	if again == body {
		t.Fatal("the message has no pending_webhooks")
	}
	a, b := parse(t, body), parse(t, again)
	if a.Digest() != b.Digest() {
		t.Errorf("a redelivery is another event:\n%s\n%s", show(a), show(b))
	}
}

// FuzzStripeParse: no bytes make the adapter panic, and none that it cannot read prove anything.
func FuzzStripeParse(f *testing.F) {
	for _, body := range samples(f) {
		f.Add([]byte(body))
	}
	for _, body := range append(life(classic), life(basil)...) {
		f.Add([]byte(body))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		ev, err := (&Stripe{}).Parse(body, entitlement.Sandbox)
		if err != nil {
			t.Fatal(err)
		}
		checkSafe(t, ev)
		if again, _ := (&Stripe{}).Parse(body, entitlement.Sandbox); again.Digest() != ev.Digest() {
			t.Fatal("the same bytes gave two events")
		}
	})
}
