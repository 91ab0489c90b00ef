package provider

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/tidwall/gjson"

	"github.com/latchkey/latchkey/pkg/entitlement"
	"github.com/latchkey/latchkey/writer/internal/provider/appletest"
)

// These tests show what each notification comes to: which states it proves, and where a purchase then stands.

const (
	appleMonth = 30 * 24 * 3600
	// Of the term before the sample's, of the sample's and of the one after it, Unix seconds.
	appleBefore   = appleStart - appleMonth
	appleStart    = 1_795_305_600
	appleEnd      = appleStart + appleMonth
	appleOriginal = "700001900000101"
)

// appleTell makes a notification of at, Unix seconds, with the sample's transaction and renewal changed. A nil one is left out.
func appleTell(at int64, kind string, status int, transaction, renewal jsonObject) jsonObject {
	name, subtype, _ := strings.Cut(kind, ".")
	data := jsonObject{"appAppleId": appleApp, "bundleId": appleBundle, "environment": "Production"}
	if status != 0 {
		data["status"] = status
	}
	if transaction != nil {
		data["signedTransactionInfo"] = edited(edited(appleSampleTransaction, jsonObject{"signedDate": at * 1000}), transaction)
	}
	if renewal != nil {
		data["signedRenewalInfo"] = edited(edited(appleSampleRenewal, jsonObject{"signedDate": at * 1000}), renewal)
	}
	n := jsonObject{"notificationType": name, "notificationUUID": fmt.Sprintf("%s-%d", kind, at), "version": "2.0", "signedDate": at * 1000, "data": data}
	if subtype != "" {
		n["subtype"] = subtype
	}
	return n
}

var (
	unchanged = jsonObject{}
	notRenew  = jsonObject{"autoRenewStatus": 0}
)

func termOf(id string, start int64, change jsonObject) jsonObject {
	return edited(jsonObject{"transactionId": id, "purchaseDate": start * 1000, "expiresDate": (start + appleMonth) * 1000}, change)
}

// TestAppleNotificationsInTheirMeaning defends R14.
func TestAppleNotificationsInTheirMeaning(t *testing.T) {
	const day = 24 * 3600
	first := appleTell(appleBefore, "SUBSCRIBED.INITIAL_BUY", 1, termOf("1", appleBefore, jsonObject{"transactionReason": "PURCHASE"}), unchanged)
	renewed := appleTell(appleStart+12, "DID_RENEW", 1, unchanged, unchanged)
	refund := jsonObject{"revocationDate": (appleStart + 7*day) * 1000, "revocationReason": 1, "revocationType": "REFUND_FULL", "revocationPercentage": 100000}
	once := func(kind, product string, change jsonObject) jsonObject {
		return edited(jsonObject{"type": kind, "productId": product, "transactionId": "9", "originalTransactionId": "9", "expiresDate": nil}, change)
	}
	retrying := jsonObject{"isInBillingRetryPeriod": true, "expirationIntent": 2}
	grace := func(days int64) jsonObject {
		return edited(retrying, jsonObject{"gracePeriodExpiresDate": (appleEnd + days*day) * 1000})
	}
	end := int64(appleEnd)
	tests := []struct {
		name   string
		tell   []jsonObject
		at     int64
		status entitlement.Status // "": not shown
		reason entitlement.Reason
		until  int64 // access until, 0 is never
		renews bool
		doubt  bool // the App Store would be asked, where it can be
	}{
		{"SUBSCRIBED.INITIAL_BUY", []jsonObject{first}, appleBefore + day, "active", "paid", appleStart + day, true, false},
		{"SUBSCRIBED.RESUBSCRIBE after it had expired", []jsonObject{first, appleTell(appleStart+1, "EXPIRED.VOLUNTARY", 2, termOf("1", appleBefore, nil), notRenew),
			appleTell(appleStart+9*day, "SUBSCRIBED.RESUBSCRIBE", 1, termOf("2", appleStart+9*day, nil), unchanged)}, appleStart + 10*day, "active", "paid", appleEnd + 10*day, true, false},
		{"SUBSCRIBED with a free trial", []jsonObject{appleTell(appleStart+1, "SUBSCRIBED.INITIAL_BUY", 1, jsonObject{"offerType": 1, "offerDiscountType": "FREE_TRIAL"}, unchanged)}, appleStart + day, "trialing", "trial", end + day, true, false},
		{"a trial that was cancelled", []jsonObject{appleTell(appleStart+1, "DID_CHANGE_RENEWAL_STATUS.AUTO_RENEW_DISABLED", 1, jsonObject{"offerType": 1, "offerDiscountType": "FREE_TRIAL"}, notRenew)}, appleStart + day, "trialing", "cancelled_until_end", end, false, false},
		{"SUBSCRIBED with an offer that is paid", []jsonObject{appleTell(appleStart+1, "SUBSCRIBED.INITIAL_BUY", 1, jsonObject{"offerType": 3, "offerDiscountType": "PAY_AS_YOU_GO", "offerIdentifier": "code"}, unchanged)}, appleStart + day, "active", "paid", end + day, true, false},
		{"SUBSCRIBED by a family member", []jsonObject{appleTell(appleStart+1, "SUBSCRIBED.INITIAL_BUY", 1, jsonObject{"inAppOwnershipType": "FAMILY_SHARED", "appAccountToken": nil}, unchanged)}, appleStart + day, "active", "family", end + day, true, false},
		{"SUBSCRIBED with a status alone", []jsonObject{appleTell(appleStart+1, "SUBSCRIBED.INITIAL_BUY", 1, unchanged, nil)}, appleStart + day, "active", "paid", end + day, true, true},
		{"DID_RENEW", []jsonObject{first, renewed}, appleStart + day, "active", "paid", end + day, true, false},
		{"DID_RENEW, an hour after the end of the term before", []jsonObject{first}, appleStart + 3600, "active", "paid", appleStart + day, true, false},
		{"DID_RENEW.BILLING_RECOVERY in the grace", []jsonObject{renewed, appleTell(appleEnd, "DID_FAIL_TO_RENEW.GRACE_PERIOD", 4, unchanged, grace(16)),
			appleTell(appleEnd+day, "DID_RENEW.BILLING_RECOVERY", 1, termOf("3", appleEnd, nil), unchanged)}, appleEnd + 2*day, "active", "paid", end + appleMonth + day, true, false},
		{"DID_FAIL_TO_RENEW", []jsonObject{renewed, appleTell(appleEnd+1, "DID_FAIL_TO_RENEW", 3, unchanged, retrying)}, appleEnd + 5, "billing_retry", "billing_retry", end, true, false},
		{"DID_FAIL_TO_RENEW.GRACE_PERIOD of 3 days", []jsonObject{renewed, appleTell(appleEnd+1, "DID_FAIL_TO_RENEW.GRACE_PERIOD", 4, unchanged, grace(3))}, appleEnd + day, "billing_grace", "billing_grace", end + 3*day, true, false},
		{"DID_FAIL_TO_RENEW.GRACE_PERIOD of 16 days", []jsonObject{renewed, appleTell(appleEnd+1, "DID_FAIL_TO_RENEW.GRACE_PERIOD", 4, unchanged, grace(16))}, appleEnd + 15*day, "billing_grace", "billing_grace", end + 16*day, true, false},
		{"DID_FAIL_TO_RENEW.GRACE_PERIOD of 28 days without a transaction", []jsonObject{renewed, appleTell(appleEnd+1, "DID_FAIL_TO_RENEW.GRACE_PERIOD", 4, nil, grace(28))}, appleEnd + 27*day, "billing_grace", "billing_grace", end + 28*day, true, false},
		{"DID_FAIL_TO_RENEW.GRACE_PERIOD without its end", []jsonObject{renewed, appleTell(appleEnd+1, "DID_FAIL_TO_RENEW.GRACE_PERIOD", 4, unchanged, retrying)}, appleEnd + day, "billing_grace", "billing_grace", end + 3*day, true, true},
		{"GRACE_PERIOD_EXPIRED", []jsonObject{renewed, appleTell(appleEnd+1, "DID_FAIL_TO_RENEW.GRACE_PERIOD", 4, unchanged, grace(3)),
			appleTell(appleEnd+3*day, "GRACE_PERIOD_EXPIRED", 3, unchanged, grace(3))}, appleEnd + 3*day, "billing_retry", "billing_retry", end, true, false},
		{"EXPIRED.VOLUNTARY", []jsonObject{renewed, appleTell(appleEnd+1, "EXPIRED.VOLUNTARY", 2, unchanged, edited(notRenew, jsonObject{"expirationIntent": 1}))}, appleEnd + 2, "expired", "expired", end, false, false},
		{"EXPIRED.BILLING_RETRY after 60 days", []jsonObject{renewed, appleTell(appleEnd+60*day, "EXPIRED.BILLING_RETRY", 2, unchanged, jsonObject{"expirationIntent": 2})}, appleEnd + 61*day, "expired", "expired", end, false, false},
		{"EXPIRED.PRICE_INCREASE", []jsonObject{renewed, appleTell(appleEnd+1, "EXPIRED.PRICE_INCREASE", 2, unchanged, jsonObject{"expirationIntent": 3, "priceIncreaseStatus": 0})}, appleEnd + 2, "expired", "expired", end, false, false},
		{"EXPIRED.PRODUCT_NOT_FOR_SALE", []jsonObject{renewed, appleTell(appleEnd+1, "EXPIRED.PRODUCT_NOT_FOR_SALE", 2, unchanged, jsonObject{"expirationIntent": 4})}, appleEnd + 2, "expired", "expired", end, false, false},
		{"EXPIRED for a reason of its own", []jsonObject{renewed, appleTell(appleEnd+1, "EXPIRED", 2, unchanged, jsonObject{"expirationIntent": 5})}, appleEnd + 2, "expired", "expired", end, false, false},
		{"DID_CHANGE_RENEWAL_STATUS.AUTO_RENEW_DISABLED", []jsonObject{renewed, appleTell(appleStart+day, "DID_CHANGE_RENEWAL_STATUS.AUTO_RENEW_DISABLED", 1, unchanged, notRenew)}, appleStart + 2*day, "active", "cancelled_until_end", end, false, false},
		{"a cancel in a commitment of 12 months leaves its months", []jsonObject{appleTell(appleStart+day, "DID_CHANGE_RENEWAL_STATUS.AUTO_RENEW_DISABLED", 1, jsonObject{"billingPlanType": "MONTHLY", "commitmentInfo": jsonObject{"billingPeriodNumber": 2, "totalBillingPeriods": 12}},
			edited(notRenew, jsonObject{"commitmentInfo": jsonObject{"commitmentAutoRenewStatus": 0, "commitmentRenewalDate": (appleEnd + 10*appleMonth) * 1000}}))}, appleStart + 2*day, "active", "paid", end + day, true, false},
		{"DID_CHANGE_RENEWAL_STATUS.AUTO_RENEW_ENABLED", []jsonObject{renewed, appleTell(appleStart+day, "DID_CHANGE_RENEWAL_STATUS.AUTO_RENEW_DISABLED", 1, unchanged, notRenew),
			appleTell(appleStart+2*day, "DID_CHANGE_RENEWAL_STATUS.AUTO_RENEW_ENABLED", 1, unchanged, unchanged)}, appleStart + 3*day, "active", "paid", end + day, true, false},
		{"DID_CHANGE_RENEWAL_STATUS", []jsonObject{renewed, appleTell(appleStart+day, "DID_CHANGE_RENEWAL_STATUS", 1, unchanged, notRenew)}, appleStart + 2*day, "active", "cancelled_until_end", end, false, false},
		{"DID_CHANGE_RENEWAL_PREF.UPGRADE", []jsonObject{renewed, appleTell(appleStart+day, "DID_CHANGE_RENEWAL_PREF.UPGRADE", 1, termOf("3", appleStart+day, jsonObject{"productId": "pro.max"}), jsonObject{"productId": "pro.max", "autoRenewProductId": "pro.max"})},
			appleStart + 2*day, "active", "paid", end + 2*day, true, true},
		{"DID_CHANGE_RENEWAL_PREF.DOWNGRADE", []jsonObject{renewed, appleTell(appleStart+day, "DID_CHANGE_RENEWAL_PREF.DOWNGRADE", 1, unchanged, jsonObject{"autoRenewProductId": "pro.lite"})}, appleStart + 2*day, "active", "paid", end + day, true, false},
		{"DID_CHANGE_RENEWAL_PREF back to the present product", []jsonObject{renewed, appleTell(appleStart+day, "DID_CHANGE_RENEWAL_PREF", 1, unchanged, unchanged)}, appleStart + 2*day, "active", "paid", end + day, true, false},
		{"OFFER_REDEEMED", []jsonObject{renewed, appleTell(appleStart+day, "OFFER_REDEEMED", 1, jsonObject{"offerType": 2}, unchanged)}, appleStart + 2*day, "active", "paid", end + day, true, false},
		{"OFFER_REDEEMED.UPGRADE", []jsonObject{renewed, appleTell(appleStart+day, "OFFER_REDEEMED.UPGRADE", 1, termOf("3", appleStart+day, nil), unchanged)}, appleStart + 2*day, "active", "paid", end + 2*day, true, true},
		{"OFFER_REDEEMED.DOWNGRADE", []jsonObject{renewed, appleTell(appleStart+day, "OFFER_REDEEMED.DOWNGRADE", 1, unchanged, jsonObject{"autoRenewProductId": "pro.lite"})}, appleStart + 2*day, "active", "paid", end + day, true, false},
		{"PRICE_INCREASE.PENDING", []jsonObject{renewed, appleTell(appleStart+day, "PRICE_INCREASE.PENDING", 1, unchanged, jsonObject{"priceIncreaseStatus": 0})}, appleStart + 2*day, "active", "paid", end + day, true, false},
		{"PRICE_INCREASE.ACCEPTED", []jsonObject{renewed, appleTell(appleStart+day, "PRICE_INCREASE.ACCEPTED", 1, unchanged, jsonObject{"priceIncreaseStatus": 1})}, appleStart + 2*day, "active", "paid", end + day, true, false},
		{"REFUND of the present term", []jsonObject{renewed, appleTell(appleStart+7*day, "REFUND", 1, refund, unchanged)}, appleStart + 8*day, "refunded", "refunded", appleStart + 7*day, true, false},
		{"REFUND that ended the subscription", []jsonObject{renewed, appleTell(appleStart+7*day, "REFUND", 5, refund, notRenew)}, appleStart + 8*day, "refunded", "refunded", appleStart + 7*day, false, false},
		{"REFUND of a third of it ends it too", []jsonObject{renewed, appleTell(appleStart+7*day, "REFUND", 5, edited(refund, jsonObject{"revocationType": "REFUND_PRORATED", "revocationPercentage": 33000}), notRenew)}, appleStart + 8*day, "refunded", "refunded", appleStart + 7*day, false, false},
		{"REFUND of the term before leaves this one alone", []jsonObject{first, renewed, appleTell(appleStart+7*day, "REFUND", 1, edited(termOf("1", appleBefore, nil), refund), unchanged)}, appleStart + 8*day, "active", "paid", end + day, true, false},
		{"a subscription bought again after a refund", []jsonObject{renewed, appleTell(appleStart+7*day, "REFUND", 5, refund, notRenew),
			appleTell(appleStart+8*day, "SUBSCRIBED.RESUBSCRIBE", 1, termOf("3", appleStart+8*day, nil), unchanged)}, appleStart + 9*day, "active", "paid", end + 9*day, true, false},
		{"REFUND_DECLINED, twice", []jsonObject{renewed, appleTell(appleStart+day, "REFUND_DECLINED", 1, unchanged, unchanged), appleTell(appleStart+2*day, "REFUND_DECLINED", 1, unchanged, unchanged)}, appleStart + 3*day, "active", "paid", end + day, true, false},
		{"REFUND_REVERSED", []jsonObject{renewed, appleTell(appleStart+7*day, "REFUND", 5, refund, notRenew), appleTell(appleStart+9*day, "REFUND_REVERSED", 1, unchanged, unchanged)}, appleStart + 10*day, "active", "paid", end + day, true, false},
		{"CONSUMPTION_REQUEST", []jsonObject{renewed, appleTell(appleStart+day, "CONSUMPTION_REQUEST", 1, unchanged, unchanged)}, appleStart + 2*day, "active", "paid", end + day, true, false},
		{"REVOKE of a family member", []jsonObject{appleTell(appleStart+1, "SUBSCRIBED.INITIAL_BUY", 1, jsonObject{"inAppOwnershipType": "FAMILY_SHARED"}, unchanged),
			appleTell(appleStart+day, "REVOKE", 5, jsonObject{"inAppOwnershipType": "FAMILY_SHARED", "revocationDate": (appleStart + day) * 1000, "revocationType": "FAMILY_REVOKE"}, notRenew)}, appleStart + 2*day, "revoked", "revoked", appleStart + day, false, false},
		{"RENEWAL_EXTENDED", []jsonObject{renewed, appleTell(appleStart+day, "RENEWAL_EXTENDED", 1, jsonObject{"expiresDate": (appleEnd + 20*day) * 1000}, unchanged)}, appleEnd + 2*day, "active", "paid", end + 21*day, true, false},
		{"RENEWAL_EXTENSION.FAILURE", []jsonObject{renewed, appleTell(appleStart+day, "RENEWAL_EXTENSION.FAILURE", 1, unchanged, unchanged)}, appleStart + 2*day, "active", "paid", end + day, true, false},
		{"METADATA_UPDATE", []jsonObject{renewed, appleTell(appleStart+day, "METADATA_UPDATE", 1, unchanged, unchanged)}, appleStart + 2*day, "active", "paid", end + day, true, false},
		{"MIGRATION to another id", []jsonObject{renewed, appleTell(appleStart+day, "MIGRATION", 1, termOf("3", appleStart+day, jsonObject{"originalTransactionId": "3", "previousOriginalTransactionId": appleOriginal}), jsonObject{"originalTransactionId": "3"})}, appleStart + 2*day, "active", "paid", end + 2*day, true, false},
		{"PRICE_CHANGE", []jsonObject{renewed, appleTell(appleStart+day, "PRICE_CHANGE", 1, unchanged, unchanged)}, appleStart + 2*day, "active", "paid", end + day, true, false},
		{"a type of the future", []jsonObject{renewed, appleTell(appleStart+day, "SOMETHING.NEW", 1, unchanged, notRenew)}, appleStart + 2*day, "active", "cancelled_until_end", end, false, false},
		{"a status of the future", []jsonObject{appleTell(appleStart+day, "DID_RENEW", 7, unchanged, unchanged)}, appleStart + 2*day, "active", "paid", end + day, true, false},
		{"no status, in retry", []jsonObject{appleTell(appleEnd+day, "DID_FAIL_TO_RENEW", 0, unchanged, retrying)}, appleEnd + 2*day, "billing_retry", "billing_retry", end, true, false},
		{"no status, in grace", []jsonObject{appleTell(appleEnd+day, "DID_FAIL_TO_RENEW", 0, unchanged, grace(6))}, appleEnd + 2*day, "billing_grace", "billing_grace", end + 6*day, true, false},
		{"no status, expired", []jsonObject{appleTell(appleEnd+day, "EXPIRED", 0, unchanged, jsonObject{"expirationIntent": 1})}, appleEnd + 2*day, "expired", "expired", end, false, false},
		{"a late renewal does not undo what came after it", []jsonObject{appleTell(appleEnd+1, "EXPIRED.VOLUNTARY", 2, unchanged, notRenew), renewed}, appleEnd + 2, "expired", "expired", end, false, false},
		{"ONE_TIME_CHARGE for ever", []jsonObject{appleTell(appleStart+1, "ONE_TIME_CHARGE", 0, once("Non-Consumable", "pro.lifetime", nil), nil)}, appleEnd + 999*day, "active", "paid", 0, false, false},
		{"ONE_TIME_CHARGE for ever by a family member", []jsonObject{appleTell(appleStart+1, "ONE_TIME_CHARGE", 0, once("Non-Consumable", "pro.lifetime", jsonObject{"inAppOwnershipType": "FAMILY_SHARED"}), nil)}, appleEnd + 999*day, "active", "family", 0, false, false},
		{"REFUND of what was for ever", []jsonObject{appleTell(appleStart+1, "ONE_TIME_CHARGE", 0, once("Non-Consumable", "pro.lifetime", nil), nil),
			appleTell(appleStart+7*day, "REFUND", 0, once("Non-Consumable", "pro.lifetime", refund), nil)}, appleStart + 8*day, "refunded", "refunded", appleStart + 7*day, false, false},
		{"ONE_TIME_CHARGE for 90 days of a non-renewing subscription", []jsonObject{appleTell(appleStart+1, "ONE_TIME_CHARGE", 0, once("Non-Renewing Subscription", "pro.season", nil), nil)}, appleStart + 89*day, "active", "paid", appleStart + 90*day, false, false},
	}
	index := appleCatalog(t)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var objects []entitlement.Object
			for _, n := range tt.tell {
				ev := appleEvent(t, unsigned(t, n))
				if ev.Kind != entitlement.Proof {
					t.Fatalf("%s proves nothing: %s", ev.Type, show(ev))
				}
				objects = append(objects, ev.Objects...)
			}
			evidence := entitlement.Evidence{}.Add(objects...)
			p := entitlement.Fold(evidence, entitlement.Policy{BillingGrace: map[entitlement.Provider]int64{entitlement.Apple: 3 * day}})
			account := entitlement.Account{ID: "acc_1", Purchases: []entitlement.Purchase{p}}
			view := account.View(index, tt.at, nil)
			if len(view.Entitlements) != 1 {
				t.Fatalf("entitlements %s of %s", show(view.Entitlements), show(p))
			}
			e := view.Entitlements[0]
			if e.Status != tt.status || e.Reason != tt.reason || e.AccessUntil != tt.until || e.WillRenew != tt.renews {
				t.Errorf("%s (%s) until %d, renews %t; want %s (%s) until %d, %t\n%s", e.Status, e.Reason, e.AccessUntil, e.WillRenew, tt.status, tt.reason, tt.until, tt.renews, show(p))
			}
			if doubts := evidence.Doubts(); (len(doubts) > 0) != tt.doubt || len(doubts) > 0 && !doubts[0].Echo {
				t.Errorf("doubts %s, want any %t", show(doubts), tt.doubt)
			}
			if p.Doubt {
				t.Error("in doubt where nobody can be asked")
			}
			random := rand.New(rand.NewPCG(1, 20))
			for range 20 {
				random.Shuffle(len(objects), func(i, j int) { objects[i], objects[j] = objects[j], objects[i] })
				if again := (entitlement.Evidence{}).Add(append(objects, objects[0])...); !reflect.DeepEqual(again, evidence) {
					t.Fatalf("the order counts:\n%s\nthen\n%s", show(evidence), show(again))
				}
			}
		})
	}
}

func appleCatalog(t testing.TB) *entitlement.CatalogIndex {
	t.Helper()
	var c entitlement.Catalog
	err := json.Unmarshal([]byte(`{"products": [
		{"provider": "apple", "product_id": "pro.monthly", "kind": "subscription", "entitlements": ["pro"], "group": "pro"},
		{"provider": "apple", "product_id": "pro.max", "kind": "subscription", "entitlements": ["pro"], "group": "pro"},
		{"provider": "apple", "product_id": "pro.lifetime", "kind": "non_consumable", "entitlements": ["pro"], "group": "pro"},
		{"provider": "apple", "product_id": "pro.season", "kind": "non_consumable", "entitlements": ["pro"], "duration_days": 90},
		{"provider": "apple", "product_id": "coins", "kind": "consumable", "credits": {"coins": 100}}]}`), &c)
	if err != nil {
		t.Fatal(err)
	}
	return entitlement.NewCatalogIndex(&c)
}

// The sample renewal, state for state.
func TestAppleSampleProves(t *testing.T) {
	ev := appleEvent(t, unsigned(t, appleSample))
	links := []entitlement.Link{"apple:700001900000101", "apple:tx:700001900000101", "apple:tx:700001900000102"}
	const at, bought = 1_795_305_612_300e6, 1_795_305_600_000e6
	want := []entitlement.Object{{
		Kind: entitlement.KindTransaction, ID: "700001900000102", By: entitlement.Apple, At: at, Rank: 1, Links: links, Person: "704000000000000001",
		Transaction: &entitlement.Transaction{Chain: appleOriginal, Recurring: true, StartsAt: appleStart, EndsAt: appleEnd, Store: "app_store",
			Sold: entitlement.Sold{Product: "pro.monthly", Quantity: 1, Price: &entitlement.Price{Amount: 999, Currency: "EUR"}}},
		Naming: &entitlement.Naming{Aliases: []entitlement.Alias{{Kind: entitlement.AppleAppAccountToken, Value: "7e3fb20b-4cdb-47cc-936d-99d65f608138"}}, At: appleStart},
	}, {
		Kind: entitlement.KindCustomer, ID: appleOriginal, By: entitlement.Apple, At: bought, Links: links, Customer: &entitlement.Customer{},
		Aliases: []entitlement.Alias{{Kind: entitlement.AppleAppAccountToken, Value: "7e3fb20b-4cdb-47cc-936d-99d65f608138"}, {Kind: entitlement.AppleOriginalTransaction, Value: appleOriginal}},
	}, {
		Kind: entitlement.KindRenewal, ID: appleOriginal, By: entitlement.Apple, At: at, Rank: 1, Links: links[:2],
		Renewal: &entitlement.Renewal{Phase: entitlement.PhaseActive, WillRenew: true, Next: "pro.monthly"},
	}}
	if ev.ID != "3f0c7a52-1f57-4d0e-9a0e-6c1f4c0f1a01" || ev.Type != "DID_RENEW" || ev.CreatedAt != appleSigned/1000 || ev.Environment != entitlement.Production || ev.Kind != entitlement.Proof {
		t.Errorf("event %s", show(ev))
	}
	if !reflect.DeepEqual(ev.Objects, want) {
		t.Errorf("it proves\n%s\nwant\n%s", show(ev.Objects), show(want))
	}
}

// What is about no purchase is stored with what it says, and proves nothing.
func TestAppleNotificationsThatProveNothing(t *testing.T) {
	head := func(kind string, content jsonObject) jsonObject {
		name, subtype, _ := strings.Cut(kind, ".")
		return edited(jsonObject{"notificationType": name, "subtype": subtype, "notificationUUID": "u-1", "version": "2.0", "signedDate": appleSigned}, content)
	}
	token := func(id string) jsonObject {
		return jsonObject{"externalPurchaseToken": jsonObject{"externalPurchaseId": id, "tokenCreationDate": appleSigned, "appAppleId": appleApp, "bundleId": appleBundle}}
	}
	tests := []struct {
		name string
		tell jsonObject
		env  entitlement.Environment
		keep string // is stored
	}{
		{"TEST", appleTest, entitlement.Sandbox, `"environment":"Sandbox"`},
		{"RENEWAL_EXTENSION.SUMMARY", head("RENEWAL_EXTENSION.SUMMARY", jsonObject{"summary": jsonObject{"requestIdentifier": "r-1", "environment": "Production", "bundleId": appleBundle,
			"productId": "pro.monthly", "succeededCount": 5, "failedCount": 1, "storefrontCountryCodes": []string{"USA"}}}), entitlement.Production, `"succeededCount":5`},
		{"EXTERNAL_PURCHASE_TOKEN.CREATED", head("EXTERNAL_PURCHASE_TOKEN.CREATED", token("abc")), entitlement.Production, `"externalPurchaseId":"abc"`},
		{"EXTERNAL_PURCHASE_TOKEN.ACTIVE_TOKEN_REMINDER in sandbox", head("EXTERNAL_PURCHASE_TOKEN.ACTIVE_TOKEN_REMINDER", token("SANDBOX_abc")), entitlement.Sandbox, `"SANDBOX_abc"`},
		{"EXTERNAL_PURCHASE_TOKEN.UNREPORTED", head("EXTERNAL_PURCHASE_TOKEN.UNREPORTED", token("abc")), entitlement.Production, `"UNREPORTED"`},
		{"RESCIND_CONSENT", head("RESCIND_CONSENT", jsonObject{"appData": jsonObject{"environment": "Production", "bundleId": appleBundle,
			"signedAppTransactionInfo": jsonObject{"appTransactionId": "704000000000000001", "receiptCreationDate": appleSigned, "deviceVerification": "canary"}}}), entitlement.Production, `"appTransactionId":"704000000000000001"`},
		{"a type and a content of the future", head("NEW", jsonObject{"future": jsonObject{"a": 1}}), entitlement.Sandbox, `"NEW"`},
		{"an empty content", head("DID_RENEW", jsonObject{"data": jsonObject{"environment": "Production", "bundleId": appleBundle}}), entitlement.Production, `"DID_RENEW"`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			ev := appleEvent(t, unsigned(t, tt.tell))
			if ev.Kind != entitlement.Unhandled || ev.Environment != tt.env || len(ev.Objects) != 0 || ev.ID != tt.tell["notificationUUID"] {
				t.Errorf("event %s", show(ev))
			}
			if raw := string(ev.Raw); !strings.Contains(raw, tt.keep) || strings.Contains(raw, "canary") || !json.Valid(ev.Raw) {
				t.Errorf("stored: %s, want %s in it", raw, tt.keep)
			}
		})
	}
}

// A request for a refund is on record with its reason.
func TestAppleConsumptionRequestIsRecorded(t *testing.T) {
	n := appleTell(appleStart, "CONSUMPTION_REQUEST", 0, jsonObject{"type": "Consumable", "productId": "coins", "quantity": 3}, nil)
	n["data"].(jsonObject)["consumptionRequestReason"] = "UNINTENDED_PURCHASE"
	ev := appleEvent(t, unsigned(t, n))
	if ev.Type != "CONSUMPTION_REQUEST" || !strings.Contains(string(ev.Raw), `"consumptionRequestReason":"UNINTENDED_PURCHASE"`) {
		t.Errorf("event %s: %s", show(ev), ev.Raw)
	}
	p := entitlement.Fold(entitlement.Evidence{}.Add(ev.Objects...), entitlement.Policy{})
	account := entitlement.Account{ID: "acc_1", Purchases: []entitlement.Purchase{p}}
	if view := account.View(appleCatalog(t), appleStart+1, nil); len(view.Balances) != 1 || view.Balances[0].Amount != 300 {
		t.Errorf("balances %s, want 3 times 100 coins", show(view.Balances))
	}
}

// What is stored is enough to read history again, and reads the same.
func TestAppleRawReadsAsTheMessageDid(t *testing.T) {
	for _, n := range []jsonObject{appleSample, appleTest, appleTell(appleEnd, "DID_FAIL_TO_RENEW.GRACE_PERIOD", 4, unchanged, unchanged),
		appleTell(appleStart, "REFUND", 1, jsonObject{"revocationDate": appleStart * 1000, "isUpgraded": true}, nil)} {
		ev := appleEvent(t, unsigned(t, n))
		again, err := readApple(gjson.ParseBytes(ev.Raw), entitlement.Sandbox)
		if err != nil || !reflect.DeepEqual(again, ev) {
			t.Errorf("%s\nreads again as %s, %v\nwant %s", ev.Raw, show(again), err, show(ev))
		}
	}
}

// Nothing that an allow-list does not name is kept, wherever it stands, and no text in a place for another thing.
func TestAppleKeepsNothingPersonal(t *testing.T) {
	const mark = "canary@example.com"
	var spoil func(v any) any
	spoil = func(v any) any {
		o, ok := v.(jsonObject)
		if !ok {
			return v
		}
		out := jsonObject{"email": mark, "name": "canary name", "deviceVerification": "canary", "future": jsonObject{"deep": []any{mark}}, "canary@example.com": 1}
		for name, value := range o {
			out[name] = spoil(value)
		}
		return out
	}
	bodies := []jsonObject{spoil(appleSample).(jsonObject), spoil(appleTest).(jsonObject)}
	// And in every field in turn.
	for _, part := range []jsonObject{appleSampleTransaction, appleSampleRenewal} {
		field := appleTransactionField
		if _, is := part["autoRenewStatus"]; is {
			field = appleRenewalField
		}
		for name := range part {
			bodies = append(bodies, sampleWith(jsonObject{field: edited(part, jsonObject{name: mark})}))
		}
	}
	for name := range appleSampleData {
		bodies = append(bodies, sampleWith(jsonObject{name: mark}))
	}
	for name := range appleSample {
		bodies = append(bodies, edited(appleSample, jsonObject{name: mark}))
	}
	for _, n := range bodies {
		ev := appleEvent(t, unsigned(t, n))
		if text := string(ev.Raw) + show(ev.Objects) + ev.ID + ev.Type; strings.Contains(text, "canary") {
			t.Errorf("kept: %s", text)
		}
	}
}

// A value of a wrong type, a negative or a giant one in any field makes no panic, no error and no access that lasts.
func TestAppleWrongValues(t *testing.T) {
	values := []any{"x", -1, 0, 1 << 62, 1.5, true, []any{1}, jsonObject{"a": 1}, strings.Repeat("9", 5000), json.Number("1e400"), json.RawMessage("null"), -9e18, "2026-01-01"}
	fold := func(n jsonObject) {
		ev := appleEvent(t, unsigned(t, n))
		p := entitlement.Fold(entitlement.Evidence{}.Add(ev.Objects...), entitlement.Policy{})
		for _, item := range p.Items {
			if item.State == entitlement.Live && item.Recurring && item.AccessUntil == 0 {
				t.Errorf("%s gives a subscription for ever: %s", show(n), show(p))
			}
		}
	}
	for _, value := range values {
		for name := range appleSampleTransaction {
			if name == "type" { // what does not renew may well be for ever
				continue
			}
			fold(sampleWith(jsonObject{appleTransactionField: edited(appleSampleTransaction, jsonObject{name: value})}))
		}
		for name := range appleSampleRenewal {
			fold(sampleWith(jsonObject{appleRenewalField: edited(appleSampleRenewal, jsonObject{name: value})}))
		}
		for name := range appleSampleData {
			fold(sampleWith(jsonObject{name: value}))
		}
		for name := range appleSample {
			fold(edited(appleSample, jsonObject{name: value}))
		}
	}
}

// Of two members of one name the last counts, for what is verified and for what is read alike.
func TestAppleDuplicateKeys(t *testing.T) {
	text := func(o jsonObject) string {
		b, err := json.Marshal(o)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	authority, stranger := appletest.New(t), appletest.New(t)
	good, forged := authority.Sign(t, appleSampleTransaction), stranger.Sign(t, edited(appleSampleTransaction, jsonObject{"transactionId": "666"}))
	data := strings.TrimSuffix(text(edited(appleSampleData, jsonObject{appleTransactionField: nil, appleRenewalField: nil})), "}")
	tests := []struct {
		name string
		data string
		ok   bool
	}{
		{"the forged one last", data + `,"signedTransactionInfo":"` + good + `","signedTransactionInfo":"` + forged + `"}`, false},
		{"the forged one first", data + `,"signedTransactionInfo":"` + forged + `","signedTransactionInfo":"` + good + `"}`, true},
		{"another app last", data + `,"bundleId":"com.example.other","signedTransactionInfo":"` + good + `"}`, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			a := newApple(t, authority.Root)
			body := forgedBody(authority.Sign(t, strings.TrimSuffix(text(edited(appleSample, jsonObject{"data": nil})), "}")+`,"data":`+tt.data+`}`))
			if err := a.Verify(Request{Body: body}, time.UnixMilli(appleSigned)); (err == nil) != tt.ok {
				t.Errorf("Verify = %v, want accepted %t", err, tt.ok)
			}
			if ev := appleEvent(t, body); tt.ok && (len(ev.Objects) == 0 || ev.Objects[0].ID != "700001900000102") {
				t.Errorf("read: %s", show(ev))
			}
		})
	}
}

// Who bought is said by the newest purchase that names anybody: not by a message about an old term, nor by one that names nobody (R44).
func TestAppleBuyer(t *testing.T) {
	const a, b = "aaaaaaaa-0000-4000-8000-000000000000", "bbbbbbbb-0000-4000-8000-000000000000"
	first := appleTell(appleBefore, "SUBSCRIBED.INITIAL_BUY", 1, termOf("1", appleBefore, jsonObject{"appAccountToken": a}), unchanged)
	second := appleTell(appleStart, "DID_RENEW", 1, jsonObject{"appAccountToken": b}, unchanged)
	tests := []struct {
		name string
		tell []jsonObject
		want string
	}{
		{"the buyer", []jsonObject{first}, a},
		{"a later term's", []jsonObject{first, second}, b},
		{"a refund of the first term, later", []jsonObject{first, second, appleTell(appleEnd, "REFUND", 1, termOf("1", appleBefore, jsonObject{"appAccountToken": a, "revocationDate": appleEnd * 1000}), unchanged)}, b},
		{"a later term that names nobody", []jsonObject{first, appleTell(appleStart, "DID_RENEW", 1, jsonObject{"appAccountToken": nil}, jsonObject{"appAccountToken": nil})}, a},
		{"a token that was set afterwards", []jsonObject{first, appleTell(appleBefore+3600, "DID_CHANGE_RENEWAL_STATUS", 1, termOf("1", appleBefore, jsonObject{"appAccountToken": b}), unchanged)}, b},
		{"nobody", []jsonObject{appleTell(appleStart, "DID_RENEW", 1, jsonObject{"appAccountToken": nil}, nil)}, ""},
		{"a token that is none", []jsonObject{appleTell(appleStart, "DID_RENEW", 1, jsonObject{"appAccountToken": "user@example.com"}, nil)}, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			want := []entitlement.Alias{{Kind: entitlement.AppleOriginalTransaction, Value: appleOriginal}}
			if tt.want != "" {
				want = append([]entitlement.Alias{{Kind: entitlement.AppleAppAccountToken, Value: tt.want}}, want...)
			}
			random := rand.New(rand.NewPCG(1, 10))
			for range 10 {
				random.Shuffle(len(tt.tell), func(i, j int) { tt.tell[i], tt.tell[j] = tt.tell[j], tt.tell[i] })
				evidence := entitlement.Evidence{}
				for _, n := range tt.tell {
					evidence = evidence.Add(appleEvent(t, unsigned(t, n)).Objects...)
				}
				if got := evidence.Identity().Aliases; !reflect.DeepEqual(got, want) {
					t.Fatalf("identity %v, want %v", got, want)
				}
			}
		})
	}
}

// Who has a subscription that stays with whom it is of: only what the user bought themselves can take it (A10.7).
func TestWhoHoldsASubscriptionOfApple(t *testing.T) {
	const a, b = "aaaaaaaa-0000-4000-8000-000000000000", "bbbbbbbb-0000-4000-8000-000000000000"
	term := func(id string, start int64, token, reason string) jsonObject {
		return appleTell(start, "DID_RENEW."+id, 1, termOf(id, start, jsonObject{"appAccountToken": token, "transactionReason": reason}), unchanged)
	}
	first := term("1", appleBefore, a, "PURCHASE")
	tests := []struct {
		name string
		tell []jsonObject
		want string
	}{
		{"a renewal under another token", []jsonObject{first, term("2", appleStart, b, "RENEWAL")}, a},
		{"a renewal under another token after a gap", []jsonObject{first, term("2", appleStart+9, b, "RENEWAL")}, a},
		{"bought under another token while live", []jsonObject{first, term("2", appleStart-9, b, "PURCHASE")}, a},
		{"bought under another token once it had lapsed", []jsonObject{first, term("2", appleStart+9, b, "PURCHASE")}, b},
		{"a transaction without a reason", []jsonObject{first, term("2", appleStart+9, b, "")}, a},
		{"a token that was set afterwards", []jsonObject{first, appleTell(appleBefore+3600, "DID_CHANGE_RENEWAL_STATUS", 1, termOf("1", appleBefore, jsonObject{"appAccountToken": b}), unchanged)}, b},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			random := rand.New(rand.NewPCG(1, 10))
			for range 10 {
				random.Shuffle(len(tt.tell), func(i, j int) { tt.tell[i], tt.tell[j] = tt.tell[j], tt.tell[i] })
				evidence := entitlement.Evidence{}
				for _, n := range tt.tell {
					evidence = evidence.Add(appleEvent(t, unsigned(t, n)).Objects...)
				}
				if got, _, _ := evidence.Holders(true, nil, byAlias); got != entitlement.AccountID(tt.want) {
					t.Fatalf("it is %q's, want %q", got, tt.want)
				}
			}
		})
	}
}

// byAlias takes the first alias of a naming for the account.
func byAlias(n entitlement.Naming) entitlement.AccountID {
	return entitlement.AccountID(n.Aliases[0].Value)
}

func TestApplePrice(t *testing.T) {
	tests := []struct {
		name     string
		price    any
		currency any
		want     *entitlement.Price
	}{
		{"hundredths", 9990, "EUR", &entitlement.Price{Amount: 999, Currency: "EUR"}},
		{"no smaller unit", 1500000, "JPY", &entitlement.Price{Amount: 1500, Currency: "JPY"}},
		{"thousandths", 2999, "KWD", &entitlement.Price{Amount: 2999, Currency: "KWD"}},
		{"free", 0, "USD", &entitlement.Price{Currency: "USD"}},
		{"negative", -10, "USD", nil},
		{"without a currency", 10, nil, nil},
		{"none", nil, "USD", nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			ev := appleEvent(t, unsigned(t, sampleWith(jsonObject{appleTransactionField: edited(appleSampleTransaction, jsonObject{"price": tt.price, "currency": tt.currency})})))
			if got := ev.Objects[0].Transaction.Price; !reflect.DeepEqual(got, tt.want) {
				t.Errorf("price %s, want %s", show(got), show(tt.want))
			}
		})
	}
}
