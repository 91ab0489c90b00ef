package main

import (
	"encoding/json"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/latchkey/latchkey/pkg/entitlement"
)

// adaptyTestMessage is an access level of a month: the state event. The sale is of a store of its own, so that no store is asked about it.
func adaptyTestMessage(o testOrder) (header []string, body []byte, err error) {
	if o.cfg.Adapty == nil {
		return nil, nil, errNotConfigured
	}
	id, environment := "test-"+ulid.Make().String(), "Sandbox"
	if o.env == entitlement.Production {
		environment = "Production"
	}
	stamp := func(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000000-0700") }
	var user any
	if o.account != "" {
		user = o.account
	}
	body, err = json.Marshal(map[string]any{"profile_id": id, "customer_user_id": user, "event_type": "access_level_updated", "event_datetime": stamp(o.now), "event_api_version": 1,
		"profiles_sharing_access_level": nil, "event_properties": map[string]any{
			"profile_event_id": id, "profile_id": id, "environment": environment, "store": "test", "vendor_product_id": o.price, "transaction_id": id, "original_transaction_id": id,
			"purchase_date": stamp(o.now), "access_level_id": "premium", "is_active": true, "is_lifetime": false, "is_in_grace_period": false, "is_refund": false, "will_renew": true,
			"activated_at": stamp(o.now), "expires_at": stamp(o.now.Add(testTerm)), "profile_has_access_level": true,
		}})
	return []string{"Authorization: " + string(o.cfg.Adapty.Authorizations[0])}, body, err
}

// iapticTestMessage is a subscription of a month at the App Store. What makes it authentic is inside.
func iapticTestMessage(o testOrder) (header []string, body []byte, err error) {
	if o.cfg.Iaptic == nil {
		return nil, nil, errNotConfigured
	}
	id := "test-" + ulid.Make().String()
	stamp := func(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000Z07:00") }
	message := map[string]any{"type": "purchases.updated", "password": string(o.cfg.Iaptic.Passwords[0]),
		"notification": map[string]any{"reason": "PURCHASED", "id": id, "date": stamp(o.now)},
		"purchases": map[string]any{"apple:" + o.price: map[string]any{
			"purchaseId": "apple:" + id, "transactionId": "apple:" + id, "productId": "apple:" + o.price, "platform": "apple", "sandbox": o.env == entitlement.Sandbox,
			"purchaseDate": stamp(o.now), "expirationDate": stamp(o.now.Add(testTerm)), "renewalIntent": "Renew", "cancelationReason": "",
		}}}
	if o.account != "" {
		message["applicationUsername"] = o.account
	}
	body, err = json.Marshal(message)
	return nil, body, err
}
