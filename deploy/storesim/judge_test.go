package storesim

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

func runWithCredentials(m *testing.M) {
	dir, err := os.MkdirTemp("", "storesim")
	if err == nil {
		credentials, err = NewCredentials(dir)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	status := m.Run()
	os.RemoveAll(dir)
	os.Exit(status)
}

// TestTheProvidersOwnLibrariesAccept lets Apple's SignedDataVerifier, npm stripe and npm jose verify everything that a long random story makes in each
// environment, and refuse it under the other one's keys.
func TestTheProvidersOwnLibrariesAccept(t *testing.T) {
	for env, other := range map[Environment]Environment{Sandbox: Production, Production: Sandbox} {
		t.Run(string(env), func(t *testing.T) { judgesAccept(t, env, other) })
	}
}

func judgesAccept(t *testing.T, env, otherEnv Environment) {
	s := testSim(t, 3)
	play(t, s, env, rand.New(rand.NewPCG(3, 3)), 150)
	for _, product := range []string{"com.example.lifetime", "com.example.coins_100"} {
		buy(t, s, Order{Provider: Apple, Env: env, Account: account(9), Product: product})
	}
	family := buy(t, s, Order{Provider: Apple, Env: env, Account: account(9), Product: monthly[Apple]})
	must(t, s.Share(family, account(8)))
	must(t, s.Refund(family, -1, 0))
	for _, p := range []Provider{Stripe, Apple} { // a part
		must(t, s.Refund(buy(t, s, Order{Provider: p, Env: env, Account: account(9), Product: monthly[p]}), -1, 300))
	}
	given := judged(t, s, env)
	out, err := judge(t, given)
	if err != nil {
		t.Fatalf("judge: %v\n%s", err, out)
	}
	var said struct{ Types []string }
	if err := json.Unmarshal(out, &said); err != nil {
		t.Fatalf("judge said %s: %v", out, err)
	}
	for _, want := range []string{"SUBSCRIBED/INITIAL_BUY", "DID_RENEW", "EXPIRED/VOLUNTARY", "REFUND", "REVOKE", "ONE_TIME_CHARGE", "customer.subscription.deleted", "charge.refunded", "google"} {
		if !slices.Contains(said.Types, want) {
			t.Errorf("the story has no %s", want)
		}
	}
	other := judged(t, s, env)
	other["apple"].(object)["root"] = base64.StdEncoding.EncodeToString(credentials[otherEnv].Apple.chain[2])
	other["stripe"].(object)["secret"] = credentials[otherEnv].Stripe.WebhookSecret
	other["google"].(object)["jwks"] = s.JWKS(otherEnv)
	out, err = judge(t, other)
	var refused struct{ Refused, Types []string }
	if json.Unmarshal(out, &refused) != nil || err == nil || len(refused.Types) != 0 {
		t.Errorf("under another environment's keys %d messages are accepted: %v", len(refused.Types), err)
	}
}

// judged is what the judge reads.
func judged(t *testing.T, s *Sim, env Environment) object {
	t.Helper()
	c := credentials[env]
	var notifications, transactions []string
	var stripe, google []object
	for _, m := range s.Messages() {
		switch m.Provider {
		case Apple:
			var body struct{ SignedPayload string }
			if err := json.Unmarshal(m.Body, &body); err != nil {
				t.Fatal(err)
			}
			notifications = append(notifications, body.SignedPayload)
		case Stripe:
			stripe = append(stripe, object{"body": m.Body, "header": s.Header(m).Get("Stripe-Signature")})
		case Google:
			google = append(google, object{"authorization": s.Header(m).Get("Authorization")})
		}
	}
	for _, p := range s.Purchases() {
		if p.Provider == Apple && p.Phase != Pending {
			signed, err := s.SignedTransaction(p.ID, -1)
			must(t, err)
			transactions = append(transactions, signed)
		}
	}
	return object{"environment": env, "now": s.Now().Unix(),
		"apple":  object{"root": base64.StdEncoding.EncodeToString(c.Apple.chain[2]), "bundle": c.Apple.BundleID, "app": c.Apple.AppAppleID, "notifications": notifications, "transactions": transactions},
		"stripe": object{"secret": c.Stripe.WebhookSecret, "messages": stripe},
		"google": object{"jwks": s.JWKS(env), "audience": c.Google.Audience, "email": c.Google.Email, "messages": google}}
}

func judge(t *testing.T, given object) ([]byte, error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "node", "judge.mjs")
	cmd.Dir = "judge"
	cmd.Stdin = bytes.NewReader(encode(given))
	var said, failed bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &failed
	err := cmd.Run()
	if text := strings.TrimSpace(failed.String()); err != nil && text != "" {
		err = fmt.Errorf("%w: %s", err, text)
	}
	return said.Bytes(), err
}
