package provider

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"maps"
	"net/http"
	"slices"
	"strconv"

	"github.com/stripe/stripe-go/v76"
	"github.com/stripe/stripe-go/v76/form"

	"github.com/latchkey/latchkey/pkg/entitlement"
)

// What Stripe tells about a customer, and is told: a message about a sale can be lost, and one without our tag belongs to nobody.

// BoughtBy implements CustomerLister: the customer's newest subscriptions, ended ones too, and the newest sessions of one-time payments.
func (a *StripeAPI) BoughtBy(ctx context.Context, customer entitlement.Alias) ([]entitlement.Doubt, error) {
	if customer.Kind != entitlement.StripeCustomer || !isIdent(customer.Value) {
		return nil, nil
	}
	subscriptions, err := a.listOf(ctx, entitlement.KindSubscription, "/v1/subscriptions", customer.Value, "all", "")
	if err != nil {
		return nil, err
	}
	sessions, err := a.listOf(ctx, entitlement.KindCheckout, "/v1/checkout/sessions", customer.Value, "complete", "payment") // others begin a subscription
	return append(subscriptions, sessions...), err
}

// listOf lists a customer's objects of one kind and, unless it is empty, of one mode.
func (a *StripeAPI) listOf(ctx context.Context, kind entitlement.ObjectKind, path, customer, status, mode string) ([]entitlement.Doubt, error) {
	if err := a.limit.Wait(ctx); err != nil {
		return nil, contextError(ctx, err)
	}
	query := &form.Values{}
	query.Add("customer", customer)
	query.Add("status", status)
	query.Add("limit", strconv.Itoa(stripePageSize))
	answer, _, err := a.get(ctx, path, query)
	if errors.Is(err, ErrGone) {
		return nil, nil // no such customer in this mode
	}
	if err != nil {
		return nil, err
	}
	var found []entitlement.Doubt
	for _, o := range member(answer, "data").Array() {
		if id, _ := ident(member(o, "id")).(string); id != "" && member(o, "mode").String() == mode {
			found = append(found, entitlement.Doubt{Kind: kind, ID: id})
		}
	}
	return found, nil
}

// Tag implements Tagger.
func (a *StripeAPI) Tag(ctx context.Context, customer string, metadata map[string]string) error {
	if !isIdent(customer) {
		return &PullError{Reason: ErrGone, Detail: "not the id of a customer"}
	}
	if err := a.limit.Wait(ctx); err != nil {
		return contextError(ctx, err)
	}
	body := &form.Values{}
	for _, name := range slices.Sorted(maps.Keys(metadata)) {
		body.Add("metadata["+name+"]", metadata[name])
	}
	answer, head, err := a.call(ctx, http.MethodPost, stripe.FormatURLPath("/v1/customers/%s", customer), body, stripeVersion)
	if err == nil && member(answer, "id").String() != customer {
		err = head.fail(ErrAnswer, "another object than was tagged")
	}
	return err
}

// Card implements CardTeller: charges have the card that paid, payment methods their own. Setup intents and subscriptions
// have no more than a payment method's id, of which payment_method.attached has told.
func (s *Stripe) Card(body []byte) (customer, fingerprint string, ok bool) {
	if !bytes.Contains(body, []byte(`"fingerprint"`)) {
		return "", "", false
	}
	message, err := decodeObject(body)
	if err != nil {
		return "", "", false
	}
	about := member(member(message, "data"), "object")
	method := about
	switch member(about, "object").String() {
	case "charge":
		method = member(about, "payment_method_details")
	case "payment_method":
	default:
		return "", "", false
	}
	customer, _ = ref(member(about, "customer")).(string)
	fingerprint, _ = ident(member(member(method, "card"), "fingerprint")).(string)
	return customer, fingerprint, customer != "" && fingerprint != ""
}

// Buyer implements BuyerTeller: checkout sessions and invoices have the address that was typed in at the checkout, or that the customer has.
func (s *Stripe) Buyer(body []byte) (of entitlement.Link, address string, ok bool) {
	if !bytes.Contains(body, []byte(`email"`)) {
		return "", "", false
	}
	message, err := decodeObject(body)
	if err != nil {
		return "", "", false
	}
	bought := member(member(message, "data"), "object")
	switch member(bought, "object").String() {
	case "checkout.session":
		address = cmp.Or(member(member(bought, "customer_details"), "email").String(), member(bought, "customer_email").String())
	case "invoice":
		address = member(bought, "customer_email").String()
	}
	id := member(bought, "id").String()
	return entitlement.Link(string(entitlement.Stripe) + ":" + id), address, address != "" && isIdent(id)
}
