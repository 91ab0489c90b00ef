package writer

import (
	"context"
	"errors"
	"net/http"

	"github.com/latchkey/latchkey/pkg/entitlement"
	"github.com/latchkey/latchkey/pkg/problem"
	"github.com/latchkey/latchkey/writer/internal/provider"
	"github.com/latchkey/latchkey/writer/internal/store"
)

// A payment finds its account by what the provider's objects carry. A checkout carries what a purchase intent says; what a customer buys by other ways, such as an
// invoice from the dashboard, is found by the customer: they are tagged here, once.

const tagRoute = "POST /v1/accounts/{id}/tags"

// tagOf is what a provider's objects carry, so that what they are about finds its account (R31, R33).
func tagOf(id entitlement.AccountID, env entitlement.Environment) map[string]string {
	return map[string]string{"account_id": string(id), "environment": string(env)}
}

// tagCustomer gives the account a customer of Stripe as an alias, and writes the account and the environment to the customer at Stripe.
func (c *apiCall) tagCustomer() (answer, error) {
	var req struct {
		Provider entitlement.Provider `json:"provider"`
		Customer string               `json:"customer"`
	}
	if err := c.decode(&req); err != nil {
		return answer{}, err
	}
	if req.Provider != entitlement.Stripe {
		return answer{}, wrong("provider", "want stripe: others are told at the purchase")
	}
	alias := entitlement.Alias{Kind: entitlement.StripeCustomer, Value: req.Customer}
	if checkAlias(alias) != nil {
		return answer{}, wrong("customer", "want Stripe's id of a customer, cus_...")
	}
	tagger, ok := c.pullers[c.env][req.Provider].(provider.Tagger)
	if !ok {
		return answer{}, problem.New(problem.NotConfigured, "No stripe.api_key is configured for this environment.")
	}
	result, err := c.commitOnAccount(store.TypeAddAlias, func(id entitlement.AccountID, key *store.Idempotency) any {
		return store.AddAlias{Account: id, Alias: alias, Idempotency: key}
	})
	if err != nil {
		return answer{}, err
	}
	ctx, cancel := context.WithTimeout(c.ctx(), refreshAsk)
	defer cancel()
	tag := tagOf(result.Account, c.env)
	if err := tagger.Tag(ctx, req.Customer, tag); err != nil {
		return answer{}, c.untagged(err)
	}
	return answer{status: http.StatusOK, body: struct {
		written
		Customer string            `json:"customer"`
		Metadata map[string]string `json:"metadata"`
	}{written{result.Account, result.Revision.String()}, req.Customer, tag}}, nil
}

// untagged is the problem of a customer who could not be tagged. The alias is the account's all the same, and the repeat tries again.
func (c *apiCall) untagged(err error) error {
	c.log.WarnContext(c.ctx(), "customer not tagged", "provider", entitlement.Stripe, "environment", c.env, "error", err, "provider_request_id", requestIDOf(err),
		"correlation_id", problem.RequestID(c.ctx()))
	switch {
	case errors.Is(err, provider.ErrGone):
		return problem.New(problem.NotFound, "Stripe has no such customer in this environment. The alias is kept.")
	case errors.Is(err, provider.ErrCredential):
		return problem.New(problem.NotConfigured, "The configured stripe.api_key may not write customers.")
	}
	after := receiptRetry
	if failed := (*provider.PullError)(nil); errors.As(err, &failed) {
		after = max(after, failed.RetryAfter)
	}
	return problem.New(problem.Unavailable, "Stripe does not take the tag now. The alias is kept.").After(after)
}
