package main

import (
	"cmp"
	"encoding/json"
	"strings"

	"github.com/oklog/ulid/v2"

	"github.com/latchkey/latchkey/writer"
)

// revenueCatTestMessage is an INITIAL_PURCHASE of a month at the App Store, with the headers that prove it as they are configured.
func revenueCatTestMessage(o testOrder) (header []string, body []byte, err error) {
	c := o.cfg.RevenueCat
	if c == nil {
		return nil, nil, errNotConfigured
	}
	id := ulid.Make().String()
	user := cmp.Or(o.account, "test-"+id)
	body, err = json.Marshal(map[string]any{"api_version": "1.0", "event": map[string]any{
		"type": "INITIAL_PURCHASE", "id": "test-" + id, "event_timestamp_ms": o.now.UnixMilli(), "app_user_id": user, "original_app_user_id": user, "aliases": []string{user},
		"product_id": o.price, "entitlement_ids": nil, "period_type": "NORMAL", "purchased_at_ms": o.now.UnixMilli(), "expiration_at_ms": o.now.Add(testTerm).UnixMilli(),
		"store": "APP_STORE", "environment": strings.ToUpper(string(o.env)), "transaction_id": "test-" + id, "original_transaction_id": "test-" + id,
	}})
	return revenueCatProof(c, body, o), body, err
}

// revenueCatProof is every header that a message needs.
func revenueCatProof(c *writer.RevenueCatConfig, body []byte, o testOrder) (headers []string) {
	if len(c.Authorizations) > 0 {
		headers = append(headers, "Authorization: "+string(c.Authorizations[0]))
	}
	if len(c.SigningSecrets) > 0 { // signed as Stripe signs
		headers = append(headers, cmp.Or(c.SignatureHeader, "X-RevenueCat-Webhook-Signature")+": "+stripeSignature(string(c.SigningSecrets[0]), body, o.now))
	}
	return headers
}
