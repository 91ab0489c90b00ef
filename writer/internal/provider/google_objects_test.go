package provider

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/latchkey/latchkey/pkg/entitlement"
)

const (
	subscriptionCall = "GET /purchases/subscriptionsv2/tokens/"
	productCall      = "GET /purchases/productsv2/tokens/"
)

// Times of the stories, Unix seconds, and as Google writes them.
const (
	playDay = int64(24 * 3600)
	playNow = int64(1795305600) // 2026-11-22T00:00:00Z
	begun   = playNow - 31*playDay
	ends    = playNow + 30*playDay
)

func rfc(at int64) string { return time.Unix(at, 0).UTC().Format("2006-01-02T15:04:05.000Z") }

// lineItem is one product of a subscription.
func lineItem(product, order string, expiry int64, change ...map[string]any) map[string]any {
	o := map[string]any{"productId": product, "autoRenewingPlan": map[string]any{"autoRenewEnabled": true}, "offerDetails": map[string]any{"basePlanId": "monthly"}}
	if order != "" {
		o["latestSuccessfulOrderId"] = order
	}
	if expiry != 0 {
		o["expiryTime"] = rfc(expiry)
	}
	for _, c := range change {
		maps.Copy(o, c)
	}
	return o
}

// playState is a subscription in a state.
func playState(state string, items []any, change ...map[string]any) map[string]any {
	o := map[string]any{"subscriptionState": "SUBSCRIPTION_STATE_" + state, "startTime": rfc(begun), "acknowledgementState": "ACKNOWLEDGEMENT_STATE_ACKNOWLEDGED", "lineItems": items}
	for _, c := range change {
		maps.Copy(o, c)
	}
	return o
}

// answered is what an answer about a token at a time proves.
func answered(t testing.TB, token string, at int64, o map[string]any) []entitlement.Object {
	t.Helper()
	v, err := decodeObject([]byte(marshal(o)))
	if err != nil {
		t.Fatal(err)
	}
	a := &playAnswer{token: token, asked: token, at: at * 1e9}
	if o["productLineItem"] != nil {
		kept, _ := playProduct(v).(object)
		err = a.product(kept)
	} else {
		kept, _ := playSubscription(v).(object)
		err = a.subscription(kept)
	}
	if err != nil {
		t.Fatal(err)
	}
	return a.finish()
}

// What each state of a subscription gives, folded.
func TestPlaySubscriptions(t *testing.T) {
	const order, renewed = "GPA.1-1", "GPA.1-1..0"
	pro := func(order string, expiry int64, change ...map[string]any) []any {
		return []any{lineItem("pro", order, expiry, change...)}
	}
	noRenew := map[string]any{"autoRenewingPlan": map[string]any{"autoRenewEnabled": false}}
	first := playState("ACTIVE", pro(order, playNow+playDay))
	id := playHash(testToken)
	replacing := func(state string, items ...any) map[string]any {
		return playState(state, items, map[string]any{"linkedPurchaseToken": testToken, "startTime": rfc(playNow)})
	}
	// A change to team at the end of pro, which waits for that, and has happened.
	waiting := func(order string) []entitlement.Object {
		return answered(t, newToken, playNow+1, replacing("ACTIVE", lineItem("pro", order, ends, map[string]any{"deferredItemReplacement": map[string]any{"productId": "team"}}), lineItem("team", "", 0)))
	}
	replacedAtEnd := map[string]any{"itemReplacement": map[string]any{"productId": "pro", "basePlanId": "monthly", "replacementMode": "DEFERRED"}}
	followed := func() []entitlement.Object {
		return answered(t, newToken, ends+60, replacing("ACTIVE", lineItem("team", "GPA.2-2..0", ends+30*playDay, replacedAtEnd)))
	}
	void := func(order string, at int64) []entitlement.Object {
		return playVoidedOrder(testToken, testToken, order, true, at*1000)
	}
	type item struct {
		chain   string
		product entitlement.ProductID
		state   entitlement.ItemState
		until   int64 // access
		end     int64 // of what was paid for
		renews  bool
		trial   bool
		grace   int64
		next    entitlement.ProductID
	}
	tests := []struct {
		name    string
		objects [][]entitlement.Object
		want    []item
	}{
		{"active: until its end, and a tenth of the term or a day after it", [][]entitlement.Object{answered(t, testToken, playNow, playState("ACTIVE", pro(order, ends)))},
			[]item{{id + ":pro", "pro:monthly", entitlement.Live, ends + playDay, ends, true, false, 0, ""}}},
		{"a licence tester's month of five minutes has half a minute", [][]entitlement.Object{answered(t, testToken, playNow, playState("ACTIVE", pro("GPA.1-1..1", playNow+300), map[string]any{"startTime": rfc(playNow - 600)}))},
			[]item{{id + ":pro", "pro:monthly", entitlement.Live, playNow + 330, playNow + 300, true, false, 0, ""}}},
		{"a trial", [][]entitlement.Object{answered(t, testToken, playNow, playState("ACTIVE", pro(order, ends, map[string]any{"offerPhase": map[string]any{"freeTrial": map[string]any{}}})))},
			[]item{{id + ":pro", "pro:monthly", entitlement.Live, ends + playDay, ends, true, true, 0, ""}}},
		{"a prepaid plan does not renew", [][]entitlement.Object{answered(t, testToken, playNow, playState("ACTIVE", pro(order, ends, map[string]any{"autoRenewingPlan": nil, "prepaidPlan": map[string]any{}})))},
			[]item{{id + ":pro", "pro:monthly", entitlement.Live, ends, ends, false, false, 0, ""}}},
		{"canceled: to its end and no longer", [][]entitlement.Object{answered(t, testToken, playNow, playState("CANCELED", pro(order, ends, noRenew)))},
			[]item{{id + ":pro", "pro:monthly", entitlement.Live, ends, ends, false, false, 0, ""}}},
		{"canceled while it says that it renews", [][]entitlement.Object{answered(t, testToken, playNow, playState("CANCELED", pro(order, ends)))},
			[]item{{id + ":pro", "pro:monthly", entitlement.Live, ends, ends, false, false, 0, ""}}},
		{"grace: what was paid for keeps its end", [][]entitlement.Object{answered(t, testToken, playNow, first), answered(t, testToken, playNow+2*playDay, playState("IN_GRACE_PERIOD", pro(order, playNow+8*playDay)))},
			[]item{{id + ":pro", "pro:monthly", entitlement.Retrying, playNow + 8*playDay, playNow + playDay, true, false, playNow + 8*playDay, ""}}},
		{"grace, when that is the first that is heard", [][]entitlement.Object{answered(t, testToken, playNow+2*playDay, playState("IN_GRACE_PERIOD", pro(order, playNow+8*playDay)))},
			[]item{{id + ":pro", "pro:monthly", entitlement.Retrying, playNow + 8*playDay, playNow + 8*playDay, true, false, playNow + 8*playDay, ""}}},
		{"grace that grew", [][]entitlement.Object{answered(t, testToken, playNow, first), answered(t, testToken, playNow+2*playDay, playState("IN_GRACE_PERIOD", pro(order, playNow+8*playDay))),
			answered(t, testToken, playNow+3*playDay, playState("IN_GRACE_PERIOD", pro(order, playNow+9*playDay)))},
			[]item{{id + ":pro", "pro:monthly", entitlement.Retrying, playNow + 9*playDay, playNow + playDay, true, false, playNow + 9*playDay, ""}}},
		{"hold: stopped, with the end of what was paid for", [][]entitlement.Object{answered(t, testToken, playNow, first), answered(t, testToken, playNow+9*playDay, playState("ON_HOLD", pro(order, playNow+8*playDay)))},
			[]item{{id + ":pro", "pro:monthly", entitlement.Retrying, playNow + playDay, playNow + playDay, true, false, 0, ""}}},
		{"recovered from hold", [][]entitlement.Object{answered(t, testToken, playNow, first), answered(t, testToken, playNow+9*playDay, playState("ON_HOLD", pro(order, playNow+8*playDay))),
			answered(t, testToken, playNow+10*playDay, playState("ACTIVE", pro(renewed, playNow+40*playDay)))},
			[]item{{id + ":pro", "pro:monthly", entitlement.Live, playNow + 41*playDay, playNow + 40*playDay, true, false, 0, ""}}},
		{"canceled at the end of hold", [][]entitlement.Object{answered(t, testToken, playNow, first), answered(t, testToken, playNow+40*playDay, playState("CANCELED", pro(order, playNow+8*playDay, noRenew)))},
			[]item{{id + ":pro", "pro:monthly", entitlement.Live, playNow + 8*playDay, playNow + 8*playDay, false, false, 0, ""}}},
		{"paused", [][]entitlement.Object{answered(t, testToken, playNow, first), answered(t, testToken, playNow+2*playDay, playState("PAUSED", pro(order, playNow+playDay),
			map[string]any{"pausedStateContext": map[string]any{"autoResumeTime": rfc(ends)}}))},
			[]item{{id + ":pro", "pro:monthly", entitlement.OnHold, playNow + playDay, playNow + playDay, true, false, 0, ""}}},
		{"expired", [][]entitlement.Object{answered(t, testToken, playNow, first), answered(t, testToken, playNow+2*playDay, playState("EXPIRED", pro(order, playNow+playDay, noRenew)))},
			[]item{{id + ":pro", "pro:monthly", entitlement.Ended, playNow + playDay, playNow + playDay, false, false, 0, ""}}},
		{"revoked before its end shows as expired", [][]entitlement.Object{answered(t, testToken, playNow, playState("ACTIVE", pro(order, ends))), answered(t, testToken, playNow+2*playDay, playState("EXPIRED", pro(order, playNow+playDay, noRenew)))},
			[]item{{id + ":pro", "pro:monthly", entitlement.Ended, playNow + playDay, playNow + playDay, false, false, 0, ""}}},
		{"expired with an end to come", [][]entitlement.Object{answered(t, testToken, playNow, playState("EXPIRED", pro(order, ends, noRenew)))},
			[]item{{id + ":pro", "pro:monthly", entitlement.Ended, playNow, playNow, false, false, 0, ""}}},
		{"pending", [][]entitlement.Object{answered(t, testToken, playNow, playState("PENDING", pro("", 0), map[string]any{"startTime": nil}))},
			[]item{{id + ":pro", "pro:monthly", entitlement.Pending, playNow, 1, false, false, 0, ""}}},
		{"pending, then paid", [][]entitlement.Object{answered(t, testToken, playNow, playState("PENDING", pro("", 0))), answered(t, testToken, playNow+playDay, playState("ACTIVE", pro(order, ends)))},
			[]item{{id + ":pro", "pro:monthly", entitlement.Live, ends + playDay, ends, true, false, 0, ""}}},
		{"pending, then given up", [][]entitlement.Object{answered(t, testToken, playNow, playState("PENDING", pro("", 0))), answered(t, testToken, playNow+playDay, playState("PENDING_PURCHASE_CANCELED", pro("", 0)))},
			[]item{{id + ":pro", "pro:monthly", entitlement.Ended, playNow + playDay, 1, false, false, 0, ""}}},
		{"a current order that was voided, and Google still says active", [][]entitlement.Object{answered(t, testToken, playNow+3, playState("ACTIVE", pro(order, ends))), void(order, playNow+2)},
			[]item{{id + ":pro", "pro:monthly", entitlement.Revoked, playNow + 2, ends, true, false, 0, ""}}},
		{"an old order that was voided", [][]entitlement.Object{answered(t, testToken, playNow-2*playDay, playState("ACTIVE", pro(order, playNow))), answered(t, testToken, playNow+1, playState("ACTIVE", pro(renewed, ends))), void(order, playNow+2)},
			[]item{{id + ":pro", "pro:monthly", entitlement.Live, ends + playDay, ends, true, false, 0, ""}}},
		{"two products under one order, voided", [][]entitlement.Object{answered(t, testToken, playNow, playState("ACTIVE", []any{lineItem("pro", order, ends), lineItem("extra", order, ends)})), void(order, playNow+2)},
			[]item{{id + ":extra", "extra:monthly", entitlement.Revoked, playNow + 2, ends, true, false, 0, ""}, {id + ":pro", "pro:monthly", entitlement.Revoked, playNow + 2, ends, true, false, 0, ""}}},
		{"two products have each their own end", [][]entitlement.Object{answered(t, testToken, playNow, playState("ACTIVE", []any{lineItem("pro", order, ends), lineItem("extra", "GPA.1-2", ends-9*playDay, map[string]any{"deferredItemRemoval": map[string]any{}})}))},
			[]item{{id + ":extra", "extra:monthly", entitlement.Live, ends - 9*playDay, ends - 9*playDay, false, false, 0, ""}, {id + ":pro", "pro:monthly", entitlement.Live, ends + playDay, ends, true, false, 0, ""}}},
		{"one of two products under one order has left: the other renews as before", [][]entitlement.Object{
			answered(t, testToken, playNow, playState("ACTIVE", []any{lineItem("pro", order, ends), lineItem("extra", order, ends-9*playDay, map[string]any{"deferredItemRemoval": map[string]any{}})})),
			answered(t, testToken, ends-8*playDay, playState("ACTIVE", pro(order, ends)))},
			[]item{{id + ":extra", "extra:monthly", entitlement.Live, ends - 9*playDay, ends - 9*playDay, false, false, 0, ""}, {id + ":pro", "pro:monthly", entitlement.Live, ends + playDay, ends, true, false, 0, ""}}},
		{"no order, as with a promotion code", [][]entitlement.Object{answered(t, testToken, playNow, playState("ACTIVE", pro("", ends, noRenew)))},
			[]item{{id + ":pro", "pro:monthly", entitlement.Live, ends, ends, false, false, 0, ""}}},
		{"an upgrade ends what it replaced", [][]entitlement.Object{answered(t, testToken, playNow-playDay, playState("ACTIVE", pro(order, ends))), answered(t, newToken, playNow+1, replacing("ACTIVE", lineItem("team", "GPA.2-2", ends+playDay)))},
			[]item{{playHash(newToken) + ":team", "team:monthly", entitlement.Live, ends + 2*playDay, ends + playDay, true, false, 0, ""}, {id + ":pro", "pro:monthly", entitlement.Ended, playNow, ends, false, false, 0, ""}}},
		{"an upgrade that is not paid for yet ends nothing", [][]entitlement.Object{answered(t, testToken, playNow-playDay, playState("ACTIVE", pro(order, ends))), answered(t, newToken, playNow+1, replacing("PENDING", lineItem("team", "", 0)))},
			[]item{{playHash(newToken) + ":team", "team:monthly", entitlement.Pending, playNow + 1, 1, false, false, 0, ""}, {id + ":pro", "pro:monthly", entitlement.Live, ends + playDay, ends, true, false, 0, ""}}},
		{"an upgrade that was given up ends nothing", [][]entitlement.Object{answered(t, testToken, playNow-playDay, playState("ACTIVE", pro(order, ends))), answered(t, newToken, playNow+1, replacing("PENDING_PURCHASE_CANCELED", lineItem("team", "", 0)))},
			[]item{{playHash(newToken) + ":team", "team:monthly", entitlement.Ended, playNow + 1, 1, false, false, 0, ""}, {id + ":pro", "pro:monthly", entitlement.Live, ends + playDay, ends, true, false, 0, ""}}},
		{"a deferred change keeps the old product to its end", [][]entitlement.Object{answered(t, testToken, playNow-playDay, playState("ACTIVE", pro(order, ends))),
			answered(t, newToken, playNow+1, replacing("ACTIVE", lineItem("pro", "GPA.2-2", ends, map[string]any{"deferredItemReplacement": map[string]any{"productId": "team"}}), lineItem("team", "", 0)))},
			[]item{{playHash(newToken) + ":pro", "pro:monthly", entitlement.Live, ends + playDay, ends, true, false, 0, "team"}, {id + ":pro", "pro:monthly", entitlement.Ended, playNow, ends, false, false, 0, ""}}},
		{"a deferred change after the old product's end: nothing of it is left", [][]entitlement.Object{answered(t, testToken, playNow-playDay, playState("ACTIVE", pro(order, ends))), waiting("GPA.2-2"), followed()},
			[]item{{playHash(newToken) + ":team", "team:monthly", entitlement.Live, ends + 31*playDay, ends + 30*playDay, true, false, 0, ""}, {playHash(newToken) + ":pro", "pro:monthly", entitlement.Ended, ends, ends, false, false, 0, ""},
				{id + ":pro", "pro:monthly", entitlement.Ended, playNow, ends, false, false, 0, ""}}},
		{"a deferred change of which nothing was heard before", [][]entitlement.Object{answered(t, testToken, playNow-playDay, playState("ACTIVE", pro(order, ends))), followed()},
			[]item{{playHash(newToken) + ":team", "team:monthly", entitlement.Live, ends + 31*playDay, ends + 30*playDay, true, false, 0, ""}, {id + ":pro", "pro:monthly", entitlement.Ended, ends + 60, ends, false, false, 0, ""}}},
		{"a deferred change whose new token has the old one's order, about which the old token is asked last", [][]entitlement.Object{answered(t, testToken, playNow-playDay, playState("ACTIVE", pro(order, ends))), waiting(order),
			answered(t, testToken, playNow+2, playState("CANCELED", pro(order, ends, noRenew), map[string]any{"canceledStateContext": map[string]any{"replacementCancellation": map[string]any{}}}))},
			[]item{{playHash(newToken) + ":pro", "pro:monthly", entitlement.Live, ends + playDay, ends, true, false, 0, "team"}}},
		{"a deferred change to another plan of the same product", [][]entitlement.Object{answered(t, newToken, playNow+1, replacing("ACTIVE", lineItem("pro", "GPA.2-2", ends, map[string]any{"deferredItemReplacement": map[string]any{"productId": "pro"}}), lineItem("pro", "", 0))),
			answered(t, newToken, ends+60, replacing("ACTIVE", lineItem("pro", "GPA.2-2..0", ends+30*playDay, replacedAtEnd)))},
			[]item{{playHash(newToken) + ":pro", "pro:monthly", entitlement.Live, ends + 31*playDay, ends + 30*playDay, true, false, 0, ""}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var e entitlement.Evidence
			for _, objects := range tt.objects {
				e = e.Add(objects...)
			}
			var got []item
			for _, i := range entitlement.Fold(e, entitlement.DefaultPolicy).Items {
				got = append(got, item{i.ID, i.Term.Product, i.State, i.AccessUntil, i.Term.EndsAt, i.WillRenew, i.Term.Trial, i.BillingGraceUntil, i.Next})
			}
			slices.SortFunc(tt.want, func(a, b item) int { return strings.Compare(a.chain, b.chain) })
			slices.SortFunc(got, func(a, b item) int { return strings.Compare(a.chain, b.chain) })
			if !reflect.DeepEqual(got, tt.want) {
				t.Errorf("folded\n%+v\nwant\n%+v", got, tt.want)
			}
			for _, objects := range tt.objects {
				for _, o := range objects {
					if strings.Contains(fmt.Sprint(o.Links, o.Transaction), testToken) || o.Transaction != nil && strings.Contains(o.ID, testToken) {
						t.Errorf("a purchase token is in what reaches records: %+v", o)
					}
				}
			}
		})
	}
}

// A hold, or a pause, gives nothing from its expiry on, also where an end that was told before is a later one. Under older rules that end counts.
func TestAPlayHoldEndsWhatWasToldToLastLonger(t *testing.T) {
	const day = 24 * 3600
	for _, state := range []string{"ON_HOLD", "PAUSED", "EXPIRED"} {
		active := answered(t, testToken, playNow, playState("ACTIVE", []any{lineItem("pro", "GPA.1-1", playNow+10*day)}))
		stopped := answered(t, testToken, playNow+2*day, playState(state, []any{lineItem("pro", "GPA.1-1", playNow+day)}))
		for rules, until := range map[uint32]int64{2: playNow + 10*day, 3: playNow + day} {
			if state == "EXPIRED" {
				until = playNow + day
			}
			policy := entitlement.DefaultPolicy
			policy.Rules = rules
			for _, e := range []entitlement.Evidence{entitlement.Evidence{}.Add(active...).Add(stopped...), entitlement.Evidence{}.Add(stopped...).Add(active...)} {
				if got := entitlement.Fold(e, policy).Items[0].AccessUntil; got != until {
					t.Errorf("%s under rules %d: access until %+d s, want %+d", state, rules, got-playNow, until-playNow)
				}
			}
		}
	}
}

func TestPlayProducts(t *testing.T) {
	const order = "GPA.9-9"
	id := playHash(testToken)
	state := func(state string, quantity, refundable int, change ...map[string]any) map[string]any {
		o := map[string]any{"purchaseStateContext": map[string]any{"purchaseState": state}, "orderId": order, "purchaseCompletionTime": rfc(playNow),
			"productLineItem": []any{map[string]any{"productId": "coins_100", "productOfferDetails": map[string]any{"purchaseOptionId": "buy", "quantity": quantity, "refundableQuantity": refundable}}}}
		for _, c := range change {
			maps.Copy(o, c)
		}
		return o
	}
	unpaid := map[string]any{"purchaseCompletionTime": nil}
	void := playVoidedOrder(playProductMark+testToken, testToken, order, true, (playNow+5)*1000)
	type item struct {
		state    entitlement.ItemState
		until    int64
		quantity int64
	}
	tests := []struct {
		name    string
		objects [][]entitlement.Object
		want    item
	}{
		{"bought: without an end", [][]entitlement.Object{answered(t, testToken, playNow, state("PURCHASED", 3, 3))}, item{entitlement.Live, 0, 3}},
		{"pending", [][]entitlement.Object{answered(t, testToken, playNow, state("PENDING", 1, 1, unpaid))}, item{entitlement.Pending, playNow, 1}},
		{"pending, then paid", [][]entitlement.Object{answered(t, testToken, playNow-9, state("PENDING", 1, 1, unpaid)), answered(t, testToken, playNow, state("PURCHASED", 1, 1))}, item{entitlement.Live, 0, 1}},
		{"given up", [][]entitlement.Object{answered(t, testToken, playNow, state("CANCELLED", 1, 1, unpaid))}, item{entitlement.Ended, playNow, 1}},
		{"voided", [][]entitlement.Object{answered(t, testToken, playNow, state("PURCHASED", 3, 3)), void}, item{entitlement.Revoked, playNow + 5, 3}},
		{"canceled after it was paid for", [][]entitlement.Object{answered(t, testToken, playNow+7, state("CANCELLED", 3, 3))}, item{entitlement.Revoked, playNow + 7, 3}},
		{"one of three voided", [][]entitlement.Object{answered(t, testToken, playNow, state("PURCHASED", 3, 3)), answered(t, testToken, playNow+7, state("PURCHASED", 3, 2))}, item{entitlement.Live, 0, 2}},
		{"one and then another of three voided", [][]entitlement.Object{answered(t, testToken, playNow+7, state("PURCHASED", 3, 2)), answered(t, testToken, playNow+8, state("PURCHASED", 3, 1))}, item{entitlement.Live, 0, 1}},
		{"one of three voided, then the rest", [][]entitlement.Object{answered(t, testToken, playNow+7, state("PURCHASED", 3, 2)), answered(t, testToken, playNow+8, state("PURCHASED", 3, 0)),
			playVoidedOrder(testToken, testToken, order, false, (playNow+8)*1000)}, item{entitlement.Revoked, playNow + 8, 3}},
		{"pending, and nothing can be refunded yet", [][]entitlement.Object{answered(t, testToken, playNow-9, state("PENDING", 3, 0, unpaid)), answered(t, testToken, playNow, state("PURCHASED", 3, 3))}, item{entitlement.Live, 0, 3}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var e entitlement.Evidence
			for _, objects := range tt.objects {
				e = e.Add(objects...)
			}
			items := entitlement.Fold(e, entitlement.DefaultPolicy).Items
			if len(items) != 1 || items[0].ID != id+":coins_100" || items[0].Term.Product != "coins_100:buy" || !slices.Equal(items[0].Term.Also, []entitlement.ProductID{"coins_100"}) {
				t.Fatalf("items %+v", items)
			}
			if got := (item{items[0].State, items[0].AccessUntil, max(items[0].Term.Quantity, 1)}); got != tt.want {
				t.Errorf("folded %+v, want %+v", got, tt.want)
			}
		})
	}
}

func TestWhoBoughtAtPlay(t *testing.T) {
	const account, theirs = "acc_01JD0000000000000000000000", "7e3fb20b"
	named := func(name string) map[string]any {
		return map[string]any{"externalAccountIdentifiers": map[string]any{"obfuscatedExternalAccountId": name}}
	}
	expired := map[string]any{"outOfAppPurchaseContext": map[string]any{"expiredPurchaseToken": testToken, "expiredExternalAccountIdentifiers": map[string]any{"obfuscatedExternalAccountId": theirs}}}
	item := []any{lineItem("pro", "GPA.1", ends)}
	alias := func(kind entitlement.AliasKind, value string) entitlement.Alias {
		return entitlement.Alias{Kind: kind, Value: value}
	}
	byToken, byNewToken := alias(entitlement.GooglePurchaseToken, playHash(testToken)), alias(entitlement.GooglePurchaseToken, playHash(newToken))
	tests := []struct {
		name    string
		objects [][]entitlement.Object
		want    entitlement.Identity
	}{
		{"nobody: whoever knows the token", [][]entitlement.Object{answered(t, testToken, playNow, playState("ACTIVE", item))}, entitlement.Identity{Aliases: []entitlement.Alias{byToken}}},
		{"the app's own name", [][]entitlement.Object{answered(t, testToken, playNow, playState("ACTIVE", item, named(theirs)))},
			entitlement.Identity{Aliases: []entitlement.Alias{alias(entitlement.GoogleObfuscatedAccount, theirs), byToken}}},
		{"our account", [][]entitlement.Object{answered(t, testToken, playNow, playState("ACTIVE", item, named(account)))},
			entitlement.Identity{Account: account, Aliases: []entitlement.Alias{alias(entitlement.GoogleObfuscatedAccount, account), byToken}}},
		{"an address is nobody", [][]entitlement.Object{answered(t, testToken, playNow, playState("ACTIVE", item, named("person@example.com")))}, entitlement.Identity{Aliases: []entitlement.Alias{byToken}}},
		{"a name that a later answer lacks stays", [][]entitlement.Object{answered(t, testToken, playNow, playState("ACTIVE", item, named(theirs))), answered(t, testToken, playNow+1, playState("ACTIVE", item))},
			entitlement.Identity{Aliases: []entitlement.Alias{alias(entitlement.GoogleObfuscatedAccount, theirs), byToken}}},
		{"a replacement without a name has that of what it replaced", [][]entitlement.Object{answered(t, testToken, playNow, playState("ACTIVE", item, named(theirs))),
			answered(t, newToken, playNow+1, playState("ACTIVE", item, map[string]any{"linkedPurchaseToken": testToken}))},
			entitlement.Identity{Aliases: []entitlement.Alias{alias(entitlement.GoogleObfuscatedAccount, theirs), byToken}}},
		{"bought again outside of the app: what Google says before the acknowledgement alone", [][]entitlement.Object{answered(t, newToken, playNow, playState("ACTIVE", item, expired)), answered(t, newToken, playNow+9, playState("ACTIVE", item))},
			entitlement.Identity{Aliases: []entitlement.Alias{alias(entitlement.GoogleObfuscatedAccount, theirs)}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var e entitlement.Evidence
			for _, objects := range tt.objects {
				e = e.Add(objects...)
			}
			got := e.Identity()
			if got.At = 0; !reflect.DeepEqual(got, tt.want) {
				t.Errorf("identity %+v, want %+v", got, tt.want)
			}
		})
	}
	again := answered(t, newToken, playNow, playState("ACTIVE", item, expired))
	for _, link := range []entitlement.Link{playTokenLink(newToken), playTokenLink(testToken), "google:tx:GPA.1"} {
		if !slices.Contains(again[0].Links, link) {
			t.Errorf("links %v lack %s", again[0].Links, link)
		}
	}
	if byNewToken == byToken {
		t.Error("two tokens are one alias")
	}
}

// Who has a subscription that stays with whom it is of: a new token takes it once no other was live (A10.7).
func TestWhoHoldsASubscriptionOfPlay(t *testing.T) {
	const first, second = "11111111", "22222222"
	state := func(state, account string, began int64, item map[string]any, change ...map[string]any) map[string]any {
		o := playState(state, []any{item}, map[string]any{"startTime": rfc(began)})
		if account != "" {
			o["externalAccountIdentifiers"] = map[string]any{"obfuscatedExternalAccountId": account}
		}
		for _, c := range change {
			maps.Copy(o, c)
		}
		return o
	}
	linked := map[string]any{"linkedPurchaseToken": testToken}
	outside := func(account string) map[string]any {
		return map[string]any{"outOfAppPurchaseContext": map[string]any{"expiredPurchaseToken": testToken, "expiredExternalAccountIdentifiers": map[string]any{"obfuscatedExternalAccountId": account}}}
	}
	old := answered(t, testToken, begun+9, state("ACTIVE", first, begun, lineItem("pro", "GPA.1", playNow)))
	tests := []struct {
		name    string
		objects [][]entitlement.Object
		want    string
	}{
		{"a plan changed under another name", [][]entitlement.Object{old, answered(t, newToken, playNow-playDay, state("ACTIVE", second, playNow-playDay, lineItem("team", "GPA.2", ends), linked)),
			answered(t, testToken, playNow, state("EXPIRED", first, begun, lineItem("pro", "GPA.1", playNow-playDay)))}, first},
		{"a plan changed under another name, and the old one was seen at its end alone", [][]entitlement.Object{answered(t, newToken, playNow-playDay, state("ACTIVE", second, playNow-playDay, lineItem("team", "GPA.2", ends), linked)),
			answered(t, testToken, playNow, state("EXPIRED", first, begun, lineItem("pro", "GPA.1", playNow-playDay)))}, first},
		{"one that is not paid for yet", [][]entitlement.Object{old, answered(t, newToken, playNow+9*playDay, state("PENDING", second, playNow+9*playDay, lineItem("team", "", 0), linked))}, first},
		{"bought under another name once it had lapsed", [][]entitlement.Object{old, answered(t, newToken, playNow+playDay, state("ACTIVE", second, playNow+playDay, lineItem("pro", "GPA.2", ends), outside(first)))}, second},
		{"bought again outside of the app", [][]entitlement.Object{old, answered(t, newToken, playNow+playDay, state("ACTIVE", "", playNow+playDay, lineItem("pro", "GPA.2", ends), outside(first)))}, first},
		{"bought again outside of the app, and nothing else is known", [][]entitlement.Object{answered(t, newToken, playNow+playDay, state("ACTIVE", "", playNow+playDay, lineItem("pro", "GPA.2", ends), outside(first)))}, first},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			random := rand.New(rand.NewPCG(1, 10))
			for range 10 {
				random.Shuffle(len(tt.objects), func(i, j int) { tt.objects[i], tt.objects[j] = tt.objects[j], tt.objects[i] })
				var e entitlement.Evidence
				for _, objects := range tt.objects {
					e = e.Add(objects...)
				}
				if got, _, _ := e.Holders(true, nil, byAlias); got != entitlement.AccountID(tt.want) {
					t.Fatalf("it is %q's, want %q", got, tt.want)
				}
			}
		})
	}
}

// Any order, repeat and portion of a history gives one purchase.
func TestPlayHistoriesAreOrderFree(t *testing.T) {
	pro := func(order string, expiry int64) []any { return []any{lineItem("pro", order, expiry)} }
	linked := map[string]any{"linkedPurchaseToken": testToken, "startTime": rfc(playNow + 50*playDay)}
	notified := func(token string, at int64) []entitlement.Object {
		return []entitlement.Object{playHint(token, token, at*1000+123)}
	}
	history := [][]entitlement.Object{
		notified(testToken, playNow-31*playDay), answered(t, testToken, playNow-31*playDay+1, playState("PENDING", pro("", 0))), answered(t, testToken, playNow-30*playDay, playState("ACTIVE", pro("GPA.1", playNow))),
		notified(testToken, playNow), answered(t, testToken, playNow+playDay, playState("IN_GRACE_PERIOD", pro("GPA.1", playNow+3*playDay))), answered(t, testToken, playNow+2*playDay, playState("IN_GRACE_PERIOD", pro("GPA.1", playNow+4*playDay))),
		answered(t, testToken, playNow+5*playDay, playState("ON_HOLD", pro("GPA.1", playNow+4*playDay))), answered(t, testToken, playNow+6*playDay, playState("ACTIVE", pro("GPA.1..0", playNow+36*playDay))),
		playVoidedOrder(testToken, testToken, "GPA.1", true, (playNow+7*playDay)*1000), answered(t, testToken, playNow+7*playDay+1, playState("ACTIVE", pro("GPA.1..0", playNow+36*playDay))),
		answered(t, newToken, playNow+50*playDay, playState("PENDING", []any{lineItem("team", "", 0)}, linked)), answered(t, newToken, playNow+51*playDay, playState("ACTIVE", []any{lineItem("team", "GPA.2", playNow+81*playDay)}, linked)),
		answered(t, testToken, playNow+52*playDay, playState("EXPIRED", pro("GPA.1..0", playNow+50*playDay))),
	}
	var want entitlement.Evidence
	for _, objects := range history {
		want = want.Add(objects...)
	}
	r := rand.New(rand.NewPCG(1, 2))
	for range 300 {
		var got entitlement.Evidence
		shuffled := slices.Concat(history, history[:r.IntN(len(history))])
		r.Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
		for _, objects := range shuffled {
			objects = slices.Clone(objects)
			r.Shuffle(len(objects), func(i, j int) { objects[i], objects[j] = objects[j], objects[i] })
			cut := r.IntN(len(objects) + 1)
			got = entitlement.Merge(got.Add(objects[:cut]...), entitlement.Evidence{}.Add(objects[cut:]...))
		}
		if !reflect.DeepEqual(entitlement.Encode(got), entitlement.Encode(want)) {
			t.Fatal("the order of messages shows")
		}
	}
	if doubts := want.Doubts(); len(doubts) != 0 {
		t.Errorf("doubts %+v", doubts)
	}
}

func TestPlayPrices(t *testing.T) {
	for money, want := range map[string]*entitlement.Price{
		`{"currencyCode":"EUR","units":"9","nanos":990000000}`:   {Amount: 999, Currency: "EUR"},
		`{"currencyCode":"eur","nanos":990000000}`:               {Amount: 99, Currency: "EUR"},
		`{"currencyCode":"JPY","units":"500"}`:                   {Amount: 500, Currency: "JPY"},
		`{"currencyCode":"KWD","units":"1","nanos":234000000}`:   {Amount: 1234, Currency: "KWD"},
		`{"currencyCode":"EUR","units":"-9","nanos":-990000000}`: nil,
		`{"currencyCode":"EUR","units":"9223372036854775807"}`:   nil,
		`{"currencyCode":"EUR","units":"9","nanos":1000000000}`:  nil,
		`{"currencyCode":"EURO","units":"9"}`:                    nil,
		`{"units":"9"}`:                                          nil,
		`{}`:                                                     nil,
	} {
		v, err := decodeObject([]byte(money))
		if err != nil {
			t.Fatal(err)
		}
		kept, _ := playMoney(v).(object)
		if got := playPrice(kept); !reflect.DeepEqual(got, want) {
			t.Errorf("playPrice(%s) = %+v, want %+v", money, got, want)
		}
	}
}

// Personal data and purchase tokens in the clear reach nothing that is shown or streamed, whatever field they are in.
func TestNothingPersonalIsKeptOfGoogle(t *testing.T) {
	const canary = "CANARY person@example.com"
	check := func(t *testing.T, ev entitlement.Event) {
		t.Helper()
		for _, stored := range [][]byte{entitlement.Encode(&ev), ev.Raw, []byte(show(ev))} {
			if lower := strings.ToLower(string(stored)); strings.Contains(lower, "canary") || strings.Contains(lower, "example.com") {
				t.Fatalf("personal data is kept: %s", stored)
			}
		}
		if strings.Contains(string(ev.Raw), testToken) {
			t.Fatalf("a purchase token is shown: %s", ev.Raw)
		}
	}
	everyNotificationField(t, func(body []byte) { check(t, parseGoogle(t, body)) })
	person := map[string]any{"givenName": canary, "emailAddress": canary, "profileName": canary}
	for _, name := range []string{"active", "on-hold", "replacement", "product"} {
		t.Run(name, func(t *testing.T) {
			var tree any
			if err := json.Unmarshal([]byte(googleSample(t, name)), &tree); err != nil {
				t.Fatal(err)
			}
			s := servePlay(t)
			a := googleAPI(t, s, entitlement.Production)
			a.limit.SetLimit(1e6)
			pull := func() {
				call, kind := subscriptionCall, entitlement.KindRenewal
				if name == "product" {
					call, kind = productCall, entitlement.KindTransaction
				}
				s.set(call+testToken, playReply{body: marshal(tree)})
				if ev, err := a.Pull(context.Background(), kind, testToken); err == nil {
					check(t, ev)
				} else if strings.Contains(strings.ToLower(err.Error()), "canary") {
					t.Fatalf("personal data is in an error: %v", err)
				}
			}
			root := tree.(map[string]any)
			root["subscribeWithGoogleInfo"], root["developerPayload"] = person, canary
			root["canceledStateContext"] = map[string]any{"userInitiatedCancellation": map[string]any{"cancelSurveyResult": map[string]any{"reasonUserInput": canary}}}
			pull()
			everyField(tree, func(_ string, set func(any)) {
				for _, v := range []any{"canary@example.com", map[string]any{"id": "canary@example.com"}, []any{"canary@example.com"}, -1, 1e300, true, nil} {
					set(v)
					pull()
				}
			})
		})
	}
}
