package provider

import (
	"cmp"
	"context"
	"slices"

	"github.com/stripe/stripe-go/v76"
	"github.com/stripe/stripe-go/v76/form"
	"github.com/tidwall/gjson"

	"github.com/latchkey/latchkey/pkg/entitlement"
)

// BuyerAddress returns the e-mail address that the buyer gave at the checkout.
func (a *StripeAPI) BuyerAddress(ctx context.Context, e entitlement.Evidence) (string, error) {
	var sessions []*entitlement.Object
	for i := range e.Objects {
		if o := &e.Objects[i]; o.Kind == entitlement.KindCheckout && isIdent(o.ID) {
			sessions = append(sessions, o)
		}
	}
	slices.SortFunc(sessions, func(a, b *entitlement.Object) int { return cmp.Or(-cmp.Compare(a.At, b.At), cmp.Compare(a.ID, b.ID)) })
	for _, session := range sessions {
		if err := a.limit.Wait(ctx); err != nil {
			return "", contextError(ctx, err)
		}
		answer, head, err := a.get(ctx, stripe.FormatURLPath(stripePulls[entitlement.KindCheckout].path, session.ID), &form.Values{})
		if err != nil {
			return "", err
		}
		got, _ := fields(map[string]keep{"id": ident, "livemode": flag})(answer).(object)
		if got.text("id") != session.ID {
			return "", head.fail(ErrAnswer, "another object than was asked for")
		}
		if err := a.checkMode(entitlement.KindCheckout, got); err != nil {
			return "", err
		}
		for _, address := range []gjson.Result{member(member(answer, "customer_details"), "email"), member(answer, "customer_email")} {
			if address.Type == gjson.String && address.Str != "" {
				return address.Str, nil
			}
		}
	}
	return "", &PullError{Reason: ErrGone, Detail: "no address"}
}
