package main

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/spf13/cobra"

	"github.com/latchkey/latchkey/pkg/config"
	"github.com/latchkey/latchkey/pkg/entitlement"
	"github.com/latchkey/latchkey/writer"
)

// testTerm is how long the test's subscription is paid for.
const testTerm = 30 * 24 * time.Hour

func webhookTestCommand() *cobra.Command {
	var file, env, url, account, price string
	cmd := &cobra.Command{
		Use:   "webhook-test PROVIDER",
		Short: "Print a curl command that sends a signed test message, as the provider would.",
		Long: "Print a curl command that sends a signed test message, as the provider would. The signature is good for 5 minutes. The message is a\n" +
			"new active subscription: with --account and a mapped --price it gives access. Providers: stripe.",
		Example: "  latchkey-writer webhook-test stripe --config writer.yaml --env sandbox --account acc_01JD... --price price_pro_monthly | sh",
		Args:    cobra.MatchAll(cobra.ExactArgs(1), cobra.OnlyValidArgs),
		ValidArgs: []string{
			string(entitlement.Stripe),
		},
	}
	configFlag(cmd, &file)
	cmd.Flags().StringVar(&env, "env", string(entitlement.Sandbox), "production or sandbox")
	cmd.Flags().StringVar(&url, "url", "", "where the writer is reached; http:// and its node.listen without this")
	cmd.Flags().StringVar(&account, "account", "", "the account that pays; without one the purchase is unclaimed")
	cmd.Flags().StringVar(&price, "price", "price_test", "the price that is paid")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := checkEnvironment(env); err != nil {
			return err
		}
		var cfg writer.Config
		if err := config.Load(file, &cfg); err != nil {
			return fmt.Errorf("configuration:\n%w", err)
		}
		e := entitlement.Environment(env)
		stripe := cfg.Environments[e].Stripe
		if stripe == nil {
			return fmt.Errorf("environments.%s.stripe is not configured", env)
		}
		if url == "" {
			url = baseURL(cfg.Node.Listen)
		}
		now := time.Now()
		body, err := stripeTestEvent(e, account, price, now)
		if err != nil {
			return err
		}
		fmt.Fprintf(cmd.OutOrStdout(), "curl -sS -X POST '%s/v1/webhooks/%s/stripe' \\\n  -H 'Content-Type: application/json' \\\n  -H 'Stripe-Signature: %s' \\\n  --data-binary '%s'\n",
			url, env, stripeSignature(string(stripe.WebhookSecrets[0]), body, now), body)
		return nil
	}
	return cmd
}

// baseURL turns a listening address into one to connect to.
func baseURL(listen string) string {
	host, port, err := net.SplitHostPort(listen)
	if ip := net.ParseIP(host); err == nil && (host == "" || ip != nil && ip.IsUnspecified()) {
		listen = net.JoinHostPort("127.0.0.1", port)
	}
	return "http://" + listen
}

// stripeTestEvent is a customer.subscription.created of API 2023-10-16 with what Latchkey reads of it.
func stripeTestEvent(env entitlement.Environment, account, price string, now time.Time) ([]byte, error) {
	id := ulid.Make().String()
	metadata := map[string]string{}
	if account != "" {
		metadata["account_id"] = account
	}
	start, end := now.Unix(), now.Add(testTerm).Unix()
	type object = map[string]any
	return json.Marshal(object{
		"id": "evt_test_" + id, "object": "event", "api_version": "2023-10-16", "type": "customer.subscription.created",
		"created": start, "livemode": env == entitlement.Production,
		"data": object{"object": object{
			"id": "sub_test_" + id, "object": "subscription", "customer": "cus_test_" + id, "status": "active", "metadata": metadata,
			"created": start, "start_date": start, "current_period_start": start, "current_period_end": end,
			"cancel_at_period_end": false, "livemode": env == entitlement.Production,
			"items": object{"object": "list", "has_more": false, "data": []object{{
				"id": "si_test_" + id, "object": "subscription_item", "quantity": 1,
				"price": object{"id": price, "object": "price", "product": "prod_test", "currency": "eur", "unit_amount": 999, "type": "recurring",
					"recurring": object{"interval": "month", "interval_count": 1}},
			}}},
		}},
	})
}

// stripeSignature is the header by which Stripe signs a message. Source: docs.stripe.com/webhooks#verify-manually.
func stripeSignature(secret string, body []byte, at time.Time) string {
	mac := hmac.New(sha256.New, []byte(secret))
	fmt.Fprintf(mac, "%d.", at.Unix())
	mac.Write(body)
	return fmt.Sprintf("t=%d,v1=%s", at.Unix(), hex.EncodeToString(mac.Sum(nil)))
}
