package storesim

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// stripeMock carries Stripe's own OpenAPI description. A version is pinned so that it is the same everywhere; go mod download keeps it out of our module.
const stripeMock = "github.com/stripe/stripe-mock@v0.203.0"

// schema is the part of OpenAPI's schemas that Stripe uses.
type schema struct {
	Ref        string            `json:"$ref"`
	Type       string            `json:"type"`
	Nullable   bool              `json:"nullable"`
	Enum       []any             `json:"enum"`
	Required   []string          `json:"required"`
	Properties map[string]schema `json:"properties"`
	Items      *schema           `json:"items"`
	AnyOf      []schema          `json:"anyOf"`
}

type description map[string]schema

func stripeDescription(t *testing.T) description {
	t.Helper()
	cmd := exec.Command("go", "mod", "download", "-json", stripeMock)
	cmd.Dir = t.TempDir()
	cmd.Env = append(os.Environ(), "GOFLAGS=")
	out, err := cmd.Output()
	var module struct{ Dir string }
	if err == nil {
		err = json.Unmarshal(out, &module)
	}
	if err != nil {
		t.Fatalf("go mod download %s: %v", stripeMock, err)
	}
	b, err := os.ReadFile(filepath.Join(module.Dir, "embedded", "openapi", "spec3.json"))
	if err != nil {
		t.Fatal(err)
	}
	var spec struct{ Components struct{ Schemas description } }
	if err := json.Unmarshal(b, &spec); err != nil {
		t.Fatal(err)
	}
	return spec.Components.Schemas
}

// check returns what is wrong with v. An object whose type is known by its member object is held to that type wherever it stands.
func (d description) check(s schema, v any, at string) []string {
	if s.Ref != "" {
		s = d[strings.TrimPrefix(s.Ref, "#/components/schemas/")]
	}
	if v == nil {
		if s.Nullable {
			return nil
		}
		return []string{at + ": null"}
	}
	if len(s.AnyOf) > 0 {
		var wrong []string
		for _, one := range s.AnyOf {
			found := d.check(one, v, at)
			if len(found) == 0 {
				return nil
			}
			wrong = append(wrong, found...)
		}
		return wrong
	}
	if len(s.Enum) > 0 && !slices.Contains(s.Enum, v) {
		return []string{fmt.Sprintf("%s: %v is none of %v", at, v, s.Enum)}
	}
	var wrong []string
	switch v := v.(type) {
	case map[string]any:
		if s.Type != "object" {
			return []string{at + ": an object, want " + s.Type}
		}
		for _, name := range s.Required {
			if _, there := v[name]; !there {
				wrong = append(wrong, at+"."+name+": missing")
			}
		}
		for name, member := range v {
			if sub, known := s.Properties[name]; known {
				wrong = append(wrong, d.check(sub, member, at+"."+name)...)
			} else if len(s.Properties) > 0 {
				wrong = append(wrong, at+"."+name+": not described")
			}
		}
	case []any:
		if s.Type != "array" {
			return []string{at + ": an array, want " + s.Type}
		}
		for i, element := range v {
			wrong = append(wrong, d.check(*s.Items, element, fmt.Sprintf("%s[%d]", at, i))...)
		}
	case string:
		if s.Type != "string" {
			wrong = append(wrong, at+": a string, want "+s.Type)
		}
	case bool:
		if s.Type != "boolean" {
			wrong = append(wrong, at+": a boolean, want "+s.Type)
		}
	case float64:
		if s.Type != "integer" && s.Type != "number" || s.Type == "integer" && v != float64(int64(v)) {
			wrong = append(wrong, fmt.Sprintf("%s: %v, want %s", at, v, s.Type))
		}
	}
	return wrong
}

// TestStripesOwnDescriptionFits holds every message of a long random story, and every answer to a pull, to Stripe's OpenAPI description.
func TestStripesOwnDescriptionFits(t *testing.T) {
	d := stripeDescription(t)
	s := testSim(t, 5)
	id := buy(t, s, Order{Provider: Stripe, Account: account(1), Product: monthly[Stripe], Trial: 7})
	buy(t, s, Order{Provider: Stripe, Account: account(1), Product: "price_lifetime"})
	must(t, s.Settle(buy(t, s, Order{Provider: Stripe, Account: account(1), Product: monthly[Stripe], Pending: true}), false))
	must(t, s.Settle(buy(t, s, Order{Provider: Stripe, Account: account(1), Product: "price_coins_100", Pending: true}), true))
	s.pass(t, 40*day)
	must(t, s.Refund(id, -1, 100))
	must(t, s.Dispute(id))
	must(t, s.CloseDispute(id, false))
	must(t, s.Change(id, "price_pro_yearly"))
	play(t, s, Sandbox, rand.New(rand.NewPCG(5, 5)), 100)
	seen := map[string]bool{}
	holds := func(name, about string, o any) {
		for _, wrong := range d.check(d[name], o, name) {
			if !seen[wrong] {
				seen[wrong] = true
				t.Errorf("%s: %s", about, wrong)
			}
		}
	}
	ids := map[string]string{}
	for _, m := range s.Messages() {
		if m.Provider != Stripe {
			continue
		}
		var event map[string]any
		if err := json.Unmarshal(m.Body, &event); err != nil {
			t.Fatal(err)
		}
		holds("event", m.Type, event)
		o := event["data"].(map[string]any)["object"].(map[string]any)
		name := o["object"].(string)
		holds(name, m.Type, o)
		ids[o["id"].(string)] = name
	}
	paths := map[string]string{"subscription": "subscriptions/%s?expand[]=latest_invoice.payments", "invoice": "invoices/%s?expand[]=payments", "invoice_payment": "invoice_payments/%s", "charge": "charges/%s",
		"refund": "refunds/%s?expand[]=charge", "dispute": "disputes/%s", "checkout.session": "checkout/sessions/%s?expand[]=line_items"}
	stores := s.Stores(Sandbox)
	call := func(method, path, form string) (o any) {
		r := httptest.NewRequest(method, "/v1/"+path, strings.NewReader(form))
		r.Header.Set("Authorization", "Bearer "+credentials[Sandbox].Stripe.APIKey)
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		w := httptest.NewRecorder()
		stores.ServeHTTP(w, r)
		if err := json.Unmarshal(w.Body.Bytes(), &o); err != nil || w.Code != http.StatusOK {
			t.Errorf("%s %s: status %d, %v", method, r.URL, w.Code, err)
			return nil
		}
		return o
	}
	get := func(path string) any { return call(http.MethodGet, path, "") }
	pulled := map[string]int{}
	intents := map[string]bool{}
	for id, name := range ids {
		o, _ := get(fmt.Sprintf(paths[name], id)).(map[string]any)
		if o == nil {
			continue
		}
		holds(name, "pull of "+name, o)
		pulled[name]++
		if intent, ok := o["payment_intent"].(string); ok {
			intents[intent] = true
		}
	}
	for _, tag := range []string{"metadata[team]=a", "metadata[account_id]=acc_1&metadata[environment]=sandbox"} {
		customer := call(http.MethodPost, "customers/"+s.stripeCustomer(s.order[0]), tag)
		holds("customer", "a customer who is tagged", customer)
		if got := fmt.Sprint(customer.(map[string]any)["metadata"]); strings.HasPrefix(tag, "metadata[account_id]") && got != "map[account_id:acc_1 environment:sandbox team:a]" {
			t.Errorf("metadata of a customer who was tagged twice is %s", got)
		}
	}
	// Lists: what a payment paid, and what was sent.
	listed := map[string]int{}
	lists := []string{"events?limit=100", "events?limit=100&types[]=charge.dispute.created&types[]=charge.dispute.closed&created[gte]=1"}
	for intent := range intents {
		lists = append(lists, "invoice_payments?payment[type]=payment_intent&payment[payment_intent]="+intent, "checkout/sessions?expand[]=data.line_items&payment_intent="+intent)
	}
	for id, name := range ids {
		if name == "subscription" {
			lists = append(lists, "invoices?expand[]=data.payments&limit=3&status=paid&subscription="+id)
		}
	}
	for _, path := range lists {
		list, _ := get(path).(map[string]any)
		data, _ := list["data"].([]any)
		for _, element := range data {
			o := element.(map[string]any)
			holds(o["object"].(string), "list of "+path, o)
			listed[o["object"].(string)]++
		}
	}
	for _, name := range []string{"event", "invoice", "invoice_payment", "checkout.session"} {
		if listed[name] == 0 {
			t.Errorf("no %s was listed: %v", name, listed)
		}
	}
	for name := range paths {
		if pulled[name] == 0 {
			t.Errorf("no %s was pulled", name)
		}
	}
	if wrong := d.check(d["charge"], map[string]any{"object": "charge", "amount": "9"}, "charge"); len(wrong) < 5 {
		t.Errorf("a wrong charge is found wrong in %d ways only", len(wrong))
	}
}
