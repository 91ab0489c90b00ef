package provider

import (
	"cmp"
	"errors"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tidwall/gjson"

	"github.com/latchkey/latchkey/pkg/entitlement"
)

// What Google answers about a purchase token, and what it proves. A subscription is under its token one chain for each product, "<playHash>:<product>",
// whose terms are Google's orders. Besides, three objects speak of the token as a whole: a Renewal under the id that was asked with settles hints and says
// whether Google waits for an acknowledgement, a Customer says who bought, and a second Customer who had the subscription that this one follows.

// The allow-list of the answers. What subscribeWithGoogleInfo holds is a person's, and not in it.
var (
	playMoney = fields(map[string]keep{"currencyCode": word, "units": playInteger, "nanos": playInteger})

	playAccounts = fields(map[string]keep{"obfuscatedExternalAccountId": playAccount})

	playPresent = fields(map[string]keep{}) // an object that says what it has to say by being there

	playSubscription = fields(map[string]keep{
		"kind": ident, "subscriptionState": word, "startTime": playInstant, "regionCode": word, "acknowledgementState": word, "linkedPurchaseToken": playToken,
		"externalAccountIdentifiers": playAccounts,
		"canceledStateContext": fields(map[string]keep{"userInitiatedCancellation": fields(map[string]keep{"cancelTime": playInstant}),
			"systemInitiatedCancellation": playPresent, "developerInitiatedCancellation": playPresent, "replacementCancellation": playPresent}),
		"pausedStateContext":      fields(map[string]keep{"autoResumeTime": playInstant}),
		"outOfAppPurchaseContext": fields(map[string]keep{"expiredPurchaseToken": playToken, "expiredExternalAccountIdentifiers": playAccounts}),
		"testPurchase":            playPresent,
		"lineItems": playElements(map[string]keep{
			"productId": ident, "expiryTime": playInstant, "latestSuccessfulOrderId": ident,
			"autoRenewingPlan": fields(map[string]keep{"autoRenewEnabled": flag, "recurringPrice": playMoney,
				"installmentDetails": fields(map[string]keep{"remainingCommittedPaymentsCount": playInteger, "pendingCancellation": playPresent})}),
			"prepaidPlan":  fields(map[string]keep{"allowExtendAfterTime": playInstant}),
			"offerDetails": fields(map[string]keep{"basePlanId": ident, "offerId": ident}),
			"offerPhase": fields(map[string]keep{"basePrice": playPresent, "freeTrial": playPresent, "introductoryPrice": playPresent,
				"prorationPeriod": playPresent}),
			"deferredItemReplacement": fields(map[string]keep{"productId": ident}), "deferredItemRemoval": playPresent,
			"itemReplacement": fields(map[string]keep{"productId": ident, "basePlanId": ident, "replacementMode": word}),
		}),
	})

	playProduct = fields(map[string]keep{
		"kind": ident, "purchaseStateContext": fields(map[string]keep{"purchaseState": word}), "acknowledgementState": word, "orderId": ident,
		"purchaseCompletionTime": playInstant, "regionCode": word, "obfuscatedExternalAccountId": playAccount,
		"testPurchaseContext": fields(map[string]keep{"fopType": word}),
		"productLineItem": playElements(map[string]keep{"productId": ident, "productOfferDetails": fields(map[string]keep{"offerId": ident, "purchaseOptionId": ident,
			"quantity": playInteger, "refundableQuantity": playInteger, "consumptionState": word})}),
	})
)

// playInstant keeps an RFC 3339 time as Unix seconds, within what a version can be.
func playInstant(v gjson.Result) any {
	at, err := time.Parse(time.RFC3339Nano, v.Str)
	if err != nil || at.Unix() <= 0 || at.Unix() > maxPlayMillis/1000 {
		return nil
	}
	return at.Unix()
}

// playElements keeps an array. An element that is no object cuts the list.
func playElements(shape map[string]keep) keep {
	element := fields(shape)
	return func(v gjson.Result) any {
		if !v.IsArray() {
			return nil
		}
		out := list{Data: []object{}}
		v.ForEach(func(_, v gjson.Result) bool {
			if kept, ok := element(v).(object); ok {
				out.Data = append(out.Data, kept)
			} else {
				out.Cut = true
			}
			return true
		})
		return out
	}
}

// What Google calls the states of a subscription, and where a chain stands then.
// Source: androidpublisher SubscriptionPurchaseV2.subscriptionState.
var playPhases = map[string]entitlement.Phase{
	"SUBSCRIPTION_STATE_PENDING":                   entitlement.PhasePending,
	"SUBSCRIPTION_STATE_ACTIVE":                    entitlement.PhaseActive,
	"SUBSCRIPTION_STATE_PAUSED":                    entitlement.PhasePaused,
	"SUBSCRIPTION_STATE_IN_GRACE_PERIOD":           entitlement.PhaseBillingGrace,
	"SUBSCRIPTION_STATE_ON_HOLD":                   entitlement.PhaseBillingRetry,
	"SUBSCRIPTION_STATE_CANCELED":                  entitlement.PhaseActive, // to its end
	"SUBSCRIPTION_STATE_EXPIRED":                   entitlement.PhaseExpired,
	"SUBSCRIPTION_STATE_PENDING_PURCHASE_CANCELED": entitlement.PhaseNever,
	"SUBSCRIPTION_STATE_PENDING_PURCHASE_EXPIRED":  entitlement.PhaseNever, // in Google's prose, and not in its enum
}

const (
	playCanceled       = "SUBSCRIPTION_STATE_CANCELED"
	playUnacknowledged = "ACKNOWLEDGEMENT_STATE_PENDING"
	playDeferred       = "DEFERRED" // a replacementMode
)

// What is wrong with an answer, so that nothing of it is kept: what was known stays.
var (
	errPlayState = errors.New("the purchase's state is missing or unknown")
	errPlayItems = errors.New("the purchase's items are missing or wrong")
)

// playAnswer collects what an answer about a token proves.
type playAnswer struct {
	token   string
	asked   string // the id that was asked with
	at      int64  // version, Unix nanoseconds
	links   []entitlement.Link
	objects []entitlement.Object
}

func (a *playAnswer) add(o entitlement.Object) *entitlement.Object {
	o.By, o.At = entitlement.Google, cmp.Or(o.At, a.at)
	a.objects = append(a.objects, o)
	return &a.objects[len(a.objects)-1]
}

// below is a version under that of every answer which knows more, and over that of earlier ones which know no more: the answer's seconds,
// taken for nanoseconds.
func (a *playAnswer) below() int64 { return a.at / 1e9 }

// finish gives every object the links of the purchase: those that came last too.
func (a *playAnswer) finish() []entitlement.Object {
	slices.Sort(a.links)
	a.links = slices.Compact(a.links)
	for i := range a.objects {
		a.objects[i].Links = a.links
	}
	return a.objects
}

// bought says who bought, after what the app gave Google as the name of its account, and under which tokens a customer's backend may know the
// purchase. Without such a name it says little, and what an earlier answer said stays. at is when they did, 0 for not yet.
func (a *playAnswer) bought(account string, at int64, tokens ...string) {
	o := entitlement.Object{Kind: entitlement.KindCustomer, ID: playHash(a.token), Customer: &entitlement.Customer{}}
	if account == "" {
		o.At = a.below()
	}
	a.name(&o, account, at, true)
	for _, token := range tokens {
		if token != "" {
			o.Aliases = append(o.Aliases, entitlement.Alias{Kind: entitlement.GooglePurchaseToken, Value: playHash(token)})
		}
	}
	a.add(o)
}

func (a *playAnswer) name(o *entitlement.Object, account string, at int64, chosen bool) {
	if account == "" {
		return
	}
	if own, ok := accountID(gjson.Result{Type: gjson.String, Str: account}).(string); ok {
		o.Account = entitlement.AccountID(own)
	}
	o.Aliases = append(o.Aliases, entitlement.Alias{Kind: entitlement.GoogleObfuscatedAccount, Value: account})
	if at > 0 {
		o.Naming = &entitlement.Naming{Account: o.Account, Aliases: slices.Clone(o.Aliases), At: at, Chosen: chosen}
	}
}

// subscription reads a SubscriptionPurchaseV2.
func (a *playAnswer) subscription(o object) error {
	state := o.text("subscriptionState")
	phase, known := playPhases[state]
	if !known {
		return errPlayState
	}
	items := o.list("lineItems")
	if items.Cut {
		return errPlayItems
	}
	linked := o.text("linkedPurchaseToken")
	a.links = append(a.links, playTokenLink(a.token))
	if linked != "" {
		a.links = append(a.links, playTokenLink(linked))
	}
	paid := phase == entitlement.PhaseActive || phase == entitlement.PhaseBillingGrace
	a.add(entitlement.Object{Kind: entitlement.KindRenewal, ID: a.asked, Renewal: &entitlement.Renewal{
		Unacknowledged: paid && o.text("acknowledgementState") == playUnacknowledged}})
	began := o.int("startTime")
	if phase == entitlement.PhasePending || phase == entitlement.PhaseNever {
		began = 0
	}
	a.bought(o.in("externalAccountIdentifiers").text("obfuscatedExternalAccountId"), began, a.token, linked)
	a.followed(o.in("outOfAppPurchaseContext"), began)

	shared, listed := map[string]int{}, map[string]bool{} // how many items an order has, and which products there are
	for _, item := range items.Data {
		if item.text("productId") == "" {
			return errPlayItems
		}
		shared[item.text("latestSuccessfulOrderId")]++
		listed[item.text("productId")] = true
	}
	for _, item := range items.Data {
		a.item(o, item, phase, shared[item.text("latestSuccessfulOrderId")] > 1)
		if deferred := item.deferred(); deferred != "" && !listed[deferred] {
			// It ran to its end under this token, and took the linked token's place. No item tells of it any more.
			a.add(entitlement.Object{Kind: entitlement.KindRenewal, ID: playHash(a.token) + ":" + deferred,
				Renewal: &entitlement.Renewal{Phase: entitlement.PhaseExpired, Replaces: a.replaces(o)}})
		}
	}
	return nil
}

// deferred is the product whose place an item took at that one's end, by a change that was made before. Google says so for 60 days.
func (o object) deferred() string {
	if replaced := o.in("itemReplacement"); replaced.text("replacementMode") == playDeferred {
		return replaced.text("productId")
	}
	return ""
}

// followed says who had the subscription that this one follows. Google says so until the purchase is acknowledged, and never again: it is an
// object of its own, which no later answer changes.
func (a *playAnswer) followed(context object, at int64) {
	if expired := context.text("expiredPurchaseToken"); expired != "" {
		a.links = append(a.links, playTokenLink(expired))
	}
	if account := context.in("expiredExternalAccountIdentifiers").text("obfuscatedExternalAccountId"); account != "" {
		o := a.add(entitlement.Object{Kind: entitlement.KindCustomer, ID: playHash(a.token) + ":expired", Customer: &entitlement.Customer{}})
		a.name(o, account, at, false)
	}
}

// item reads one product of a subscription.
func (a *playAnswer) item(o, item object, phase entitlement.Phase, sharesOrder bool) {
	product := item.text("productId")
	chain := playHash(a.token) + ":" + product
	plan := item.in("autoRenewingPlan")
	t := &entitlement.Transaction{Chain: chain, Recurring: true, Sold: entitlement.Sold{Product: entitlement.ProductID(product), Price: playPrice(plan.in("recurringPrice"))}}
	if base := item.in("offerDetails").text("basePlanId"); base != "" {
		t.Product, t.Also = entitlement.ProductID(product+":"+base), []entitlement.ProductID{entitlement.ProductID(product)}
	}
	if phase == entitlement.PhasePending || phase == entitlement.PhaseNever {
		t.State = entitlement.TransactionPending
		if phase == entitlement.PhaseNever {
			t.State = entitlement.TransactionFailed
		}
		a.add(entitlement.Object{Kind: entitlement.KindTransaction, ID: chain + ":pending", Transaction: t})
		a.add(entitlement.Object{Kind: entitlement.KindRenewal, ID: chain, Renewal: &entitlement.Renewal{Phase: phase, Replaces: a.replaces(o)}})
		return
	}
	expiry := item.int("expiryTime")
	if expiry == 0 {
		return // not owned yet: it takes another item's place at that one's end
	}
	order := item.text("latestSuccessfulOrderId")
	id := cmp.Or(order, chain)
	if order != "" {
		a.links = append(a.links, playOrderLink(order))
		if sharesOrder {
			id = order + ":" + product
		}
	}
	t.StartsAt, t.EndsAt = playStart(o.int("startTime"), expiry, order), expiry
	t.Trial = item.in("offerPhase")["freeTrial"] != nil
	term := entitlement.Object{Kind: entitlement.KindTransaction, ID: id, Transaction: t}
	if phase != entitlement.PhaseActive || o.in("canceledStateContext")["replacementCancellation"] != nil {
		// The expiry is now that of the grace, the hold, the revocation. The end of what was paid for is what an answer said while it was paid for; this
		// one counts where there was none. Of what another token took over that one tells, maybe under the same order.
		term.At = a.below()
	}
	a.add(term)

	r := &entitlement.Renewal{Phase: phase, Transaction: id}
	if deferred := item.deferred(); deferred == "" || deferred == product { // else the product before it took over from the linked token
		r.Replaces = a.replaces(o)
	}
	if canceled := o.text("subscriptionState") == playCanceled; !canceled && phase != entitlement.PhaseExpired {
		r.WillRenew = plan.is("autoRenewEnabled") && item["deferredItemRemoval"] == nil
		r.Next = entitlement.ProductID(item.in("deferredItemReplacement").text("productId"))
	}
	switch phase {
	case entitlement.PhaseBillingGrace:
		r.GraceUntil = expiry
	case entitlement.PhasePaused:
		r.ResumesAt = o.in("pausedStateContext").int("autoResumeTime")
		r.EndedAt = min(expiry, a.at/1e9)
	case entitlement.PhaseExpired, entitlement.PhaseBillingRetry:
		r.EndedAt = min(expiry, a.at/1e9)
	}
	a.add(entitlement.Object{Kind: entitlement.KindRenewal, ID: chain, Renewal: r})
}

func (a *playAnswer) replaces(o object) string {
	if linked := o.text("linkedPurchaseToken"); linked != "" {
		return playHash(linked)
	}
	return ""
}

// playStart is when the term of an order began. Google tells when the subscription did, and the orders count its renewals from 0: "GPA.1" is the first
// term's, "GPA.1..0" the second's. Terms are taken to be of one length, which is wrong by a trial, or by what was left of the
// term in which a later one was chosen. 0 is unknown.
func playStart(began, expiry int64, order string) int64 {
	if began == 0 || began >= expiry {
		return 0
	}
	_, n, renewed := strings.Cut(order, "..")
	if !renewed {
		return began
	}
	renewals, err := strconv.ParseInt(n, 10, 32)
	if err != nil || renewals < 0 {
		return 0
	}
	return expiry - (expiry-began)/(renewals+2)
}

// playPrice is an amount of google.type.Money, nil for none.
func playPrice(money object) *entitlement.Price {
	currency, units, nanos := money.text("currencyCode"), money.int("units"), money.int("nanos")
	const most = 1 << 40 // of any currency, what nobody pays
	if len(currency) != 3 || units < 0 || units > most || nanos < 0 || nanos >= 1e9 {
		return nil
	}
	price := &entitlement.Price{Currency: strings.ToUpper(currency), Amount: units}
	for digits := entitlement.MinorDigits(price.Currency); digits > 0; digits-- {
		price.Amount, nanos = price.Amount*10+nanos/1e8, nanos%1e8*10
	}
	return price
}

// product reads a ProductPurchaseV2.
func (a *playAnswer) product(o object) error {
	items := o.list("productLineItem")
	if items.Cut || len(items.Data) == 0 {
		return errPlayItems
	}
	state := entitlement.TransactionPaid
	canceled, bought := false, o.int("purchaseCompletionTime")
	switch o.in("purchaseStateContext").text("purchaseState") {
	case "PURCHASED":
	case "PENDING":
		state = entitlement.TransactionPending
	case "CANCELLED":
		if canceled = bought != 0; !canceled {
			state = entitlement.TransactionFailed
		}
	default:
		return errPlayState
	}
	a.links = append(a.links, playTokenLink(a.token))
	a.add(entitlement.Object{Kind: entitlement.KindRenewal, ID: a.asked, Renewal: &entitlement.Renewal{
		Unacknowledged: state == entitlement.TransactionPaid && !canceled && o.text("acknowledgementState") == playUnacknowledged}})
	a.bought(o.text("obfuscatedExternalAccountId"), bought, a.token)
	order := o.text("orderId")
	if order != "" {
		a.links = append(a.links, playOrderLink(order))
	}
	for _, item := range items.Data {
		product, offer := item.text("productId"), item.in("productOfferDetails")
		if product == "" {
			return errPlayItems
		}
		chain := playHash(a.token) + ":" + product
		id := cmp.Or(order, chain)
		if order != "" && len(items.Data) > 1 {
			id = order + ":" + product
		}
		t := &entitlement.Transaction{Chain: chain, Sold: entitlement.Sold{Product: entitlement.ProductID(product), Quantity: max(offer.int("quantity"), 0)}, State: state, StartsAt: bought}
		if option := offer.text("purchaseOptionId"); option != "" {
			t.Product, t.Also = entitlement.ProductID(product+":"+option), []entitlement.ProductID{entitlement.ProductID(product)}
		}
		a.add(entitlement.Object{Kind: entitlement.KindTransaction, ID: id, Transaction: t})
		if canceled {
			a.add(entitlement.Object{Kind: entitlement.KindRevocation, ID: id + ":canceled", Revocation: &entitlement.Revocation{Transaction: id}})
		}
		if left, told := offer["refundableQuantity"].(int64); told && left >= 0 && left < t.Quantity && (left > 0 || state == entitlement.TransactionPaid && !canceled) {
			taken := &entitlement.Revocation{Transaction: id, Quantity: t.Quantity - left}
			if left == 0 { // all of it, in one part or in several
				taken.Quantity = 0
			}
			a.add(entitlement.Object{Kind: entitlement.KindRevocation, ID: id + ":quantity", Revocation: taken})
		}
	}
	return nil
}
