package main

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"strings"
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
	var file, env, url, account, price, googleKey string
	var apple appleSigner
	cmd := &cobra.Command{
		Use:   "webhook-test PROVIDER",
		Short: "Print a curl command that sends a signed test message, as the provider would.",
		Long: "Print a curl command that sends a signed test message, as the provider would, or have the provider send one. A signature is good for 5 minutes.\n" +
			"The message is a new active subscription: with --account and a mapped --price it gives access. By provider:\n" +
			"  stripe, adapty        --price as the catalog has it\n" +
			"  revenuecat, iaptic    --price is the product's id at the App Store\n" +
			"  web2wave              names no account: --account must be an alias web2wave_user of one\n" +
			"  apple                 the App Store sends a test notification, about no purchase, to the address in App Store Connect; with\n" +
			"                        --signing-key and --chain, of a root of your own, a subscription is printed\n" +
			"  google                only with --google-key, of a key of your own: a test notification, about no purchase",
		Example:   "  latchkey-writer webhook-test stripe --config writer.yaml --env sandbox --account acc_01JD... --price price_pro_monthly | sh",
		Args:      cobra.MatchAll(cobra.ExactArgs(1), cobra.OnlyValidArgs),
		ValidArgs: slices.Sorted(maps.Keys(testMessages)),
	}
	configFlag(cmd, &file)
	cmd.Flags().StringVar(&env, "env", string(entitlement.Sandbox), "production or sandbox")
	cmd.Flags().StringVar(&url, "url", "", "where the writer is reached; http:// and its node.listen without this")
	cmd.Flags().StringVar(&account, "account", "", "the account that pays; without one the purchase is unclaimed")
	cmd.Flags().StringVar(&price, "price", "price_test", "the price that is paid")
	apple.flags(cmd)
	cmd.Flags().StringVar(&googleKey, "google-key", "", "google: the private key, RSA PKCS#8 PEM, of a key in google.jwks_file")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := checkEnvironment(env); err != nil {
			return err
		}
		var cfg writer.Config
		if err := config.Load(file, &cfg); err != nil {
			return fmt.Errorf("configuration:\n%w", err)
		}
		e := entitlement.Environment(env)
		if (apple.keyFile == "") != (apple.chainFile == "") {
			return fmt.Errorf("%w: --signing-key and --chain go together", errUsage)
		}
		if args[0] == string(entitlement.Apple) && apple == (appleSigner{}) {
			return askApple(cmd, cfg.Environments[e], e)
		}
		if url == "" {
			url = baseURL(cfg.Node.Listen)
		}
		header, body, err := testMessages[args[0]](testOrder{cfg.Environments[e], e, account, price, time.Now(), apple, googleKey})
		if errors.Is(err, errNotConfigured) {
			return fmt.Errorf("environments.%s.%s %w", env, args[0], err)
		} else if err != nil {
			return err
		}
		_, err = fmt.Fprintln(cmd.OutOrStdout(), curl(strings.TrimSuffix(url, "/")+"/v1/webhooks/"+env+"/"+args[0], append([]string{"Content-Type: application/json"}, header...), body))
		return err
	}
	return cmd
}

// curl is the command for a shell that posts a body, whatever is in it.
func curl(url string, header []string, body []byte) string {
	quote := func(text string) string { return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'" }
	command := "curl -sS -X POST " + quote(url)
	for _, h := range header {
		command += " \\\n  -H " + quote(h)
	}
	return command + " \\\n  --data-binary " + quote(string(body))
}

// testOrder is what a test message is to say.
type testOrder struct {
	cfg     writer.EnvironmentConfig
	env     entitlement.Environment
	account string // empty: nobody's
	price   string
	now     time.Time
	apple   appleSigner

	googleKey string // path; empty: none
}

var errNotConfigured = errors.New("is not configured")

// testMessages make a new active subscription in the words of each provider, and the header that makes it authentic.
var testMessages = map[string]func(testOrder) (header []string, body []byte, err error){
	string(entitlement.Apple): func(o testOrder) ([]string, []byte, error) {
		body, err := o.apple.message(o)
		return nil, body, err // the signature is inside
	},
	string(entitlement.Google): googleTestMessage,
	string(entitlement.Stripe): func(o testOrder) ([]string, []byte, error) {
		if o.cfg.Stripe == nil {
			return nil, nil, errNotConfigured
		}
		body, err := stripeTestEvent(o.env, o.account, o.price, o.now)
		return []string{"Stripe-Signature: " + stripeSignature(string(o.cfg.Stripe.WebhookSecrets[0]), body, o.now)}, body, err
	},
	string(entitlement.Adapty):     adaptyTestMessage,
	string(entitlement.Iaptic):     iapticTestMessage,
	string(entitlement.RevenueCat): revenueCatTestMessage,
	string(entitlement.Web2Wave): func(o testOrder) ([]string, []byte, error) {
		if o.cfg.Web2Wave == nil {
			return nil, nil, errNotConfigured
		}
		body, err := web2waveTestMessage(o)
		return []string{"Webhooks-Token: " + string(o.cfg.Web2Wave.WebhookTokens[0])}, body, err
	},
}

// web2waveTestMessage is a subscription of a month. Web2Wave's messages never name an account of ours: its user, the account given, must be an alias
// web2wave_user of that account.
func web2waveTestMessage(o testOrder) ([]byte, error) {
	user, live := "test-"+ulid.Make().String(), 0
	if o.account != "" {
		user = o.account
	}
	if o.env == entitlement.Production {
		live = 1
	}
	now := o.now.UTC()
	return json.Marshal(map[string]any{"type": "subscription", "data": map[string]any{
		"id": "test-" + ulid.Make().String(), "user_id": user, "created_at": now.Format(time.DateTime), "updated_at": now.Format(time.DateTime), "status": "active",
		"payment_system_label": "Stripe", "real_payment": live, "price_id": o.price, "price_label": "9.99 eur / 1 month", "amount": "999.00", "currency": "eur",
		"last_charge_date": now.Format(time.DateTime), "next_charge_date": now.Add(testTerm).Format(time.DateTime), "charges_count": 1,
		"cancel_scheduled": "No", "canceled_at": nil, "event_type": "customer.subscription.created",
	}})
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
