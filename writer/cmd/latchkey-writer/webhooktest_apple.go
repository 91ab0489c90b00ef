package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/spf13/cobra"

	"github.com/latchkey/latchkey/pkg/entitlement"
	"github.com/latchkey/latchkey/writer"
)

// appleSigner signs as the App Store does, under a root of one's own that root_ca_files names. Nobody but Apple can sign under Apple's.
type appleSigner struct{ keyFile, chainFile string }

func (s *appleSigner) flags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&s.keyFile, "signing-key", "", "apple: the key that signs, PKCS#8 PEM, such as latchkey-dev's apple/leaf.pem; without it Apple is asked for a test notification")
	cmd.Flags().StringVar(&s.chainFile, "chain", "", "apple: the chain from that key's certificate to the root, PEM, such as latchkey-dev's apple/chain.pem")
}

// askApple makes Apple send a test notification to the address that App Store Connect has. It is about no purchase.
func askApple(cmd *cobra.Command, cfg writer.EnvironmentConfig, env entitlement.Environment) error {
	if cfg.Apple == nil {
		return fmt.Errorf("environments.%s.apple %w", env, errNotConfigured)
	}
	token, err := cfg.Apple.RequestTestNotification(cmd.Context(), env)
	if errors.Is(err, writer.ErrNoAppleAPI) {
		return fmt.Errorf("environments.%s.apple: %w: give api_key, so that Apple can be asked for a test notification, or --signing-key and --chain", env, err)
	} else if err != nil {
		return fmt.Errorf("ask Apple for a test notification: %w", err)
	}
	fmt.Fprintf(cmd.OutOrStdout(), "Apple sends a notification of type TEST to the %s address in App Store Connect. Its token is %s.\n", env, token)
	return nil
}

// message is the body of a notification: a new subscription of a month, bought by the account.
func (s *appleSigner) message(o testOrder) ([]byte, error) {
	if o.cfg.Apple == nil {
		return nil, errNotConfigured
	}
	key, x5c, err := s.read()
	if err != nil {
		return nil, err
	}
	type object = map[string]any
	environment, id, now := "Sandbox", ulid.Make().String(), o.now.UnixMilli()
	if o.env == entitlement.Production {
		environment = "Production"
	}
	transaction := object{"transactionId": id, "originalTransactionId": id, "bundleId": o.cfg.Apple.BundleID, "productId": o.price, "type": "Auto-Renewable Subscription",
		"purchaseDate": now, "originalPurchaseDate": now, "expiresDate": now + int64(testTerm/time.Millisecond), "quantity": 1, "inAppOwnershipType": "PURCHASED",
		"transactionReason": "PURCHASE", "environment": environment, "signedDate": now, "price": 9990, "currency": "EUR"}
	if o.account != "" {
		transaction["appAccountToken"] = entitlement.AccountID(o.account).AppleAppAccountToken()
	}
	renewal := object{"originalTransactionId": id, "productId": o.price, "autoRenewProductId": o.price, "autoRenewStatus": 1, "environment": environment, "signedDate": now}
	var signed [2]string
	for i, payload := range []object{transaction, renewal} {
		if signed[i], err = signES256(key, x5c, payload); err != nil {
			return nil, err
		}
	}
	data := object{"bundleId": o.cfg.Apple.BundleID, "environment": environment, "status": 1, "signedTransactionInfo": signed[0], "signedRenewalInfo": signed[1]}
	if o.cfg.Apple.AppAppleID != 0 {
		data["appAppleId"] = o.cfg.Apple.AppAppleID
	}
	outer, err := signES256(key, x5c, object{"notificationType": "SUBSCRIBED", "subtype": "INITIAL_BUY", "notificationUUID": id, "version": "2.0", "signedDate": now, "data": data})
	if err != nil {
		return nil, err
	}
	return json.Marshal(object{"signedPayload": outer})
}

func (s *appleSigner) read() (key *ecdsa.PrivateKey, x5c []string, err error) {
	b, err := os.ReadFile(s.keyFile)
	if err != nil {
		return nil, nil, err
	}
	block, _ := pem.Decode(b)
	if block == nil {
		return nil, nil, fmt.Errorf("%s: want PEM", s.keyFile)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	key, ok := parsed.(*ecdsa.PrivateKey)
	if err != nil || !ok || key.Curve != elliptic.P256() {
		return nil, nil, fmt.Errorf("%s: want a key of P-256 in PKCS#8", s.keyFile)
	}
	if b, err = os.ReadFile(s.chainFile); err != nil {
		return nil, nil, err
	}
	for block, rest := pem.Decode(b); block != nil; block, rest = pem.Decode(rest) {
		x5c = append(x5c, base64.StdEncoding.EncodeToString(block.Bytes))
	}
	return key, x5c, nil
}

// signES256 makes a compact JWS with its chain in the header (RFC 7515 section 4.1.6).
func signES256(key *ecdsa.PrivateKey, x5c []string, payload any) (string, error) {
	header, err := json.Marshal(map[string]any{"alg": "ES256", "x5c": x5c})
	if err != nil {
		return "", err
	}
	content, err := json.Marshal(payload)
	if err != nil {
		return "", err
	}
	input := base64.RawURLEncoding.EncodeToString(header) + "." + base64.RawURLEncoding.EncodeToString(content)
	sum := sha256.Sum256([]byte(input))
	r, s, err := ecdsa.Sign(rand.Reader, key, sum[:])
	if err != nil {
		return "", err
	}
	const half = 32 // R and S beside each other
	signature := make([]byte, 2*half)
	r.FillBytes(signature[:half])
	s.FillBytes(signature[half:])
	return input + "." + base64.RawURLEncoding.EncodeToString(signature), nil
}
