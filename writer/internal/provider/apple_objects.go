package provider

import (
	"cmp"
	"errors"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/tidwall/gjson"

	"github.com/latchkey/latchkey/pkg/entitlement"
)

// The fields of a notification that are signed on their own.
const (
	appleTransactionField    = "signedTransactionInfo"
	appleRenewalField        = "signedRenewalInfo"
	appleAppTransactionField = "signedAppTransactionInfo"
)

// maxAppleMillis is the latest time, Unix milliseconds, that nanoseconds can hold.
const maxAppleMillis = math.MaxInt64 / int64(time.Millisecond)

// The shapes below are the allow-list: they name every field that is read or stored.
// Source: developer.apple.com/documentation/appstoreserverapi, version 1.21.
var (
	appleTransaction = map[string]keep{
		"transactionId": ident, "originalTransactionId": ident, "previousOriginalTransactionId": ident, "webOrderLineItemId": ident,
		"bundleId": ident, "productId": ident, "subscriptionGroupIdentifier": ident, "type": appleKind,
		"purchaseDate": number, "originalPurchaseDate": number, "expiresDate": number, "signedDate": number, "quantity": number,
		"appAccountToken": accountToken, "appTransactionId": ident, "inAppOwnershipType": word, "transactionReason": word,
		"revocationDate": number, "revocationReason": number, "revocationType": word, "revocationPercentage": number, "isUpgraded": flag,
		"offerType": number, "offerIdentifier": ident, "offerPeriod": word, "offerDiscountType": word,
		"price": number, "currency": word, "storefront": word, "storefrontId": ident, "environment": word, "billingPlanType": word,
		"commitmentInfo": fields(map[string]keep{"billingPeriodNumber": number, "totalBillingPeriods": number, "commitmentExpiresDate": number, "commitmentPrice": number}),
	}

	appleRenewal = map[string]keep{
		"originalTransactionId": ident, "productId": ident, "autoRenewProductId": ident, "autoRenewStatus": number, "isInBillingRetryPeriod": flag,
		"expirationIntent": number, "priceIncreaseStatus": number, "gracePeriodExpiresDate": number, "renewalDate": number, "renewalPrice": number,
		"currency": word, "recentSubscriptionStartDate": number, "signedDate": number, "environment": word,
		"offerType": number, "offerIdentifier": ident, "offerPeriod": word, "offerDiscountType": word,
		"appAccountToken": accountToken, "appTransactionId": ident, "renewalBillingPlanType": word,
		"commitmentInfo": fields(map[string]keep{"commitmentAutoRenewProductId": ident, "commitmentAutoRenewStatus": number,
			"commitmentRenewalBillingPlanType": word, "commitmentRenewalDate": number, "commitmentRenewalPrice": number}),
	}

	appleTransactionOf = fields(appleTransaction)
	appleRenewalOf     = fields(appleRenewal)

	// appleSignedOf is what anything that is signed on its own says about itself: a transaction, a renewal, an app transaction.
	appleSignedOf = fields(map[string]keep{"signedDate": number, "receiptCreationDate": number, "bundleId": ident, "environment": word, "receiptType": word})

	appleAbout   = map[string]keep{"appAppleId": number, "bundleId": ident, "environment": word, "externalPurchaseId": ident}
	appleAboutOf = fields(appleAbout)

	appleHead   = map[string]keep{"notificationType": word, "subtype": word, "notificationUUID": ident, "version": word, "signedDate": number}
	appleHeadOf = fields(appleHead)

	// appleContainers are where a notification says what it is about. It has one of them.
	appleContainers = []string{"data", "summary", "externalPurchaseToken", "appData"}

	appleContents = map[string]keep{
		"data": fields(map[string]keep{
			"appAppleId": number, "bundleId": ident, "bundleVersion": ident, "environment": word, "status": number, "consumptionRequestReason": word,
			appleTransactionField: signed(appleTransactionOf), appleRenewalField: signed(appleRenewalOf),
		}),
		"summary": fields(map[string]keep{
			"appAppleId": number, "bundleId": ident, "environment": word, "requestIdentifier": ident, "productId": ident, "succeededCount": number, "failedCount": number,
		}),
		"externalPurchaseToken": fields(map[string]keep{
			"appAppleId": number, "bundleId": ident, "externalPurchaseId": ident, "tokenCreationDate": number, "tokenExpirationDate": number, "tokenType": word,
		}),
		"appData": fields(map[string]keep{
			"appAppleId": number, "bundleId": ident, "environment": word,
			appleAppTransactionField: signed(fields(map[string]keep{"appTransactionId": ident, "bundleId": ident, "appAppleId": number, "receiptType": word,
				"receiptCreationDate": number, "originalPurchaseDate": number, "originalPlatform": word})),
		}),
	}
)

// signed keeps of a JWS what the shape of its payload names, and of a payload that was kept before the same.
func signed(shape keep) keep {
	return func(v gjson.Result) any {
		if v.Type != gjson.String {
			return shape(v)
		}
		payload, err := jwsPayload(v.Str)
		if err != nil {
			return nil
		}
		return shape(payload)
	}
}

// The kinds of products, in Apple's words.
const (
	appleAutoRenewable = "Auto-Renewable Subscription"
	appleNonRenewing   = "Non-Renewing Subscription"
	appleNonConsumable = "Non-Consumable"
	appleConsumable    = "Consumable"
)

// appleKind keeps the kind of a product: one of Apple's words, which have blanks, or a plain one that we do not know.
func appleKind(v gjson.Result) any {
	switch v.Str {
	case appleAutoRenewable, appleNonRenewing, appleNonConsumable, appleConsumable:
		return v.Str
	}
	return word(v)
}

// accountToken keeps a UUID in lower case: StoreKit writes it in upper case, Apple's servers in lower.
func accountToken(v gjson.Result) any {
	const form = "00000000-0000-0000-0000-000000000000"
	if v.Type != gjson.String || len(v.Str) != len(form) {
		return nil
	}
	for i := range len(form) {
		hex := '0' <= v.Str[i] && v.Str[i] <= '9' || 'a' <= v.Str[i]|0x20 && v.Str[i]|0x20 <= 'f'
		if form[i] == '-' && v.Str[i] != '-' || form[i] != '-' && !hex {
			return nil
		}
	}
	return strings.ToLower(v.Str)
}

// What is wrong with a message, so that it proves nothing.
var (
	errAppleHead        = errors.New("no notification: type, id or time is missing or wrong")
	errAppleTransaction = errors.New("the transaction lacks an id or a product, or its time is wrong")
	errAppleRenewal     = errors.New("the renewal lacks the id of its subscription, or its time is wrong")
)

// readApple reads a decoded notification, as it came or as it was kept.
func readApple(payload gjson.Result, env entitlement.Environment) (entitlement.Event, error) {
	head := appleHeadOf(payload).(object)
	ms := head.int("signedDate")
	if head.text("notificationType") == "" || head.text("notificationUUID") == "" || ms <= 0 || ms > maxAppleMillis {
		return entitlement.Event{}, errAppleHead
	}
	ev := entitlement.Event{Provider: entitlement.Apple, ID: head.text("notificationUUID"), Type: head.text("notificationType"), CreatedAt: ms / 1000, Environment: env}
	if subtype := head.text("subtype"); subtype != "" {
		ev.Type += "." + subtype
	}
	m := appleMessage{at: ms * int64(time.Millisecond)}
	for _, name := range appleContainers {
		content, ok := appleContents[name](member(payload, name)).(object)
		if !ok {
			continue
		}
		head[name] = content
		if said := appleEnvironment(content); said != "" {
			ev.Environment = ourEnvironment(said)
		}
		if name == "data" {
			if err := m.data(content, head.text("subtype")); err != nil {
				return entitlement.Event{}, err
			}
		}
		break
	}
	if ev.Objects, ev.Raw = m.objects, head.raw(); len(m.objects) == 0 {
		ev.Kind = entitlement.Unhandled
	}
	return ev, nil
}

// appleMessage collects what a notification, an answer or a signed transaction proves.
type appleMessage struct {
	at      int64 // when it was signed, Unix nanoseconds; states that were signed on their own have their own time
	objects []entitlement.Object
}

// data reads the content of a notification about a purchase. Whatever its type, what it carries is the state at its time: a request for a
// refund or a declined one shows that nothing has changed.
func (m *appleMessage) data(data object, subtype string) error {
	t, isTransaction := data[appleTransactionField].(object)
	r, isRenewal := data[appleRenewalField].(object)
	if isTransaction {
		if err := m.transaction(t); err != nil {
			return err
		}
	}
	chain := cmp.Or(r.text("originalTransactionId"), chainOf(t))
	status := data.int("status")
	switch {
	case isRenewal:
		if err := m.renewal(chain, status, r, t); err != nil {
			return err
		}
	case status != 0 && chain != "":
		if err := m.renewal(chain, status, nil, t); err != nil {
			return err
		}
		m.ask(chain)
		return nil
	}
	switch {
	case chain == "":
	// An upgrade ends a term that the message does not show: the one before it.
	case subtype == "UPGRADE",
		// Apple sends it without the end of the grace at times.
		status == appleGrace && r.int("gracePeriodExpiresDate") <= 0:
		m.ask(chain)
	}
	return nil
}

// chainOf returns the id of the subscription that a transaction is a term of, or "".
func chainOf(t object) string {
	if !isRecurring(t) {
		return ""
	}
	return cmp.Or(t.text("originalTransactionId"), t.text("transactionId"))
}

func isRecurring(t object) bool {
	switch t.text("type") {
	case appleAutoRenewable:
		return true
	case appleNonRenewing, appleNonConsumable, appleConsumable:
		return false
	}
	return t.int("expiresDate") > 0 // a kind that Apple has made up since: only what renews has an end
}

// add notes one proved state. chain is the id of the original transaction; the other ids are of transactions of the same purchase.
func (m *appleMessage) add(o entitlement.Object, chain string, transactions ...string) {
	o.By = entitlement.Apple
	o.Links = []entitlement.Link{entitlement.Link(string(entitlement.Apple) + ":" + chain), entitlement.SecondaryLink(entitlement.Apple, chain)}
	for _, id := range transactions {
		if id != "" {
			o.Links = append(o.Links, entitlement.SecondaryLink(entitlement.Apple, id))
		}
	}
	slices.Sort(o.Links)
	o.Links = slices.Compact(o.Links)
	m.objects = append(m.objects, o)
}

// version returns the version of what was signed on its own: Unix nanoseconds, the message's where it says none.
func (m *appleMessage) version(o object) (at int64, ok bool) {
	ms, there := o["signedDate"].(int64)
	if !there {
		return m.at, m.at > 0
	}
	return ms * int64(time.Millisecond), 0 < ms && ms <= maxAppleMillis
}

// Progress ranks, for two states that were signed in one millisecond.
const (
	rankBought = iota + 1
	rankUpgraded
	rankRevoked
)

// transaction notes a term or a sale, and who bought it.
func (m *appleMessage) transaction(t object) error {
	id, original := t.text("transactionId"), cmp.Or(t.text("originalTransactionId"), t.text("transactionId"))
	at, ok := m.version(t)
	if id == "" || t.text("productId") == "" || !ok {
		return errAppleTransaction
	}
	tx := &entitlement.Transaction{
		Chain:     chainOf(t),
		Sold:      entitlement.Sold{Product: entitlement.ProductID(t.text("productId")), Quantity: max(t.int("quantity"), 0), Price: applePrice(t)},
		Recurring: isRecurring(t),
		StartsAt:  appleSeconds(t, "purchaseDate"),
		EndsAt:    appleSeconds(t, "expiresDate"),
		Trial:     t.text("offerDiscountType") == "FREE_TRIAL",
		Upgraded:  t.is("isUpgraded"),
		Store:     entitlement.AppStore,
	}
	if !tx.Recurring {
		tx.EndsAt = 0 // the end of a non-renewing subscription is the catalog's matter
	}
	if t.text("inAppOwnershipType") == "FAMILY_SHARED" {
		tx.Ownership = entitlement.Family
	}
	rank := uint8(rankBought)
	if tx.Upgraded {
		rank = rankUpgraded
	}
	// Whatever share of the money was given back: Apple takes the term away.
	if _, revoked := t["revocationDate"].(int64); revoked {
		tx.RevokedAt, rank = max(appleSeconds(t, "revocationDate"), 1), rankRevoked
	}
	previous := t.text("previousOriginalTransactionId")
	m.add(entitlement.Object{Kind: entitlement.KindTransaction, ID: id, At: at, Rank: rank, Person: t.text("appTransactionId"), Transaction: tx,
		Naming: appleNaming(t)}, original, id, previous)
	m.buyer(original, t, at)
	return nil
}

// appleChosen is the reason of a transaction that the user made themselves, as opposed to a renewal.
// Source: developer.apple.com/documentation/appstoreserverapi/transactionreason.
const appleChosen = "PURCHASE"

// appleNaming returns whom the app said that the buyer is of this very transaction, or nil.
func appleNaming(t object) *entitlement.Naming {
	token := t.text("appAccountToken")
	if token == "" {
		return nil
	}
	return &entitlement.Naming{Aliases: []entitlement.Alias{{Kind: entitlement.AppleAppAccountToken, Value: token}}, At: appleSeconds(t, "purchaseDate"), Chosen: t.text("transactionReason") == appleChosen}
}

// buyer notes who bought, as an object of its own with a version of its own: a message about an old term is new and its buyer is not, and a term
// that was bought past the app names nobody without taking the purchase from anybody.
func (m *appleMessage) buyer(original string, t object, at int64) {
	o := entitlement.Object{Kind: entitlement.KindCustomer, ID: original, At: 1, Customer: &entitlement.Customer{},
		Aliases: []entitlement.Alias{{Kind: entitlement.AppleOriginalTransaction, Value: original}}}
	if token := t.text("appAccountToken"); token != "" {
		o.Aliases = slices.Insert(o.Aliases, 0, entitlement.Alias{Kind: entitlement.AppleAppAccountToken, Value: token})
		bought := min(max(t.int("purchaseDate"), 1), maxAppleMillis) * int64(time.Millisecond)
		// The token of a transaction can be set later: of two, the one that was signed later counts. Its age in minutes fits below the
		// millisecond of the purchase for two years.
		age := min(max(at-bought, 0)/int64(time.Minute), int64(time.Millisecond)-1)
		o.At = max(bought, 2) + age
	}
	m.add(o, original, t.text("transactionId"))
}

// The states of a subscription. Source: developer.apple.com/documentation/appstoreserverapi/status.
const (
	appleActive  = 1
	appleExpired = 2
	appleRetry   = 3
	appleGrace   = 4
	appleRevoked = 5
)

// applePhases are the phases with their progress ranks.
var applePhases = map[int64]struct {
	phase entitlement.Phase
	rank  uint8
}{
	appleActive:  {entitlement.PhaseActive, 1},
	appleGrace:   {entitlement.PhaseBillingGrace, 2},
	appleRetry:   {entitlement.PhaseBillingRetry, 3},
	appleExpired: {entitlement.PhaseExpired, 4},
	appleRevoked: {entitlement.PhaseRevoked, 5},
}

// renewal notes where a subscription stands. r is nil where the message shows its status alone; t is the transaction beside it, or nil.
func (m *appleMessage) renewal(chain string, status int64, r, t object) error {
	at, ok := m.version(r)
	if r == nil {
		at, ok = m.at, m.at > 0
	}
	if chain == "" || !ok {
		return errAppleRenewal
	}
	if _, known := applePhases[status]; !known {
		status = statusOf(r, at)
	}
	phase := applePhases[status]
	renewal := &entitlement.Renewal{Phase: phase.phase, WillRenew: willRenew(status, r)}
	if renewal.WillRenew {
		renewal.Next = entitlement.ProductID(r.text("autoRenewProductId"))
	}
	switch status {
	case appleGrace:
		renewal.GraceUntil = appleSeconds(r, "gracePeriodExpiresDate")
	case appleRevoked:
		if chainOf(t) == chain {
			renewal.EndedAt = appleSeconds(t, "revocationDate")
		}
	}
	previous := ""
	if chainOf(t) == chain {
		previous = t.text("previousOriginalTransactionId") // a migration gave the subscription another id
	}
	if previous != chain {
		renewal.Replaces = previous
	}
	m.add(entitlement.Object{Kind: entitlement.KindRenewal, ID: chain, At: at, Rank: phase.rank, Renewal: renewal}, chain, previous)
	return nil
}

// statusOf returns a subscription's status from its renewal alone, as of the time at which that was signed.
func statusOf(r object, at int64) int64 {
	switch {
	case r.is("isInBillingRetryPeriod") && appleSeconds(r, "gracePeriodExpiresDate") > at/int64(time.Second):
		return appleGrace
	case r.is("isInBillingRetryPeriod"):
		return appleRetry
	case r.int("expirationIntent") > 0:
		return appleExpired
	}
	return appleActive
}

func willRenew(status int64, r object) bool {
	if status == appleExpired || status == appleRevoked {
		return false
	}
	if r == nil {
		return true
	}
	// Who cancels a commitment of 12 months goes on paying its months.
	committed := r.in("commitmentInfo").int("commitmentRenewalDate") > r.int("renewalDate") && r.int("renewalDate") > 0
	return r.int("autoRenewStatus") == 1 || committed
}

// ask notes that the App Store should be asked about a subscription, where it can be. Nothing is open where it cannot.
func (m *appleMessage) ask(chain string) {
	from := m.at
	for _, o := range m.objects {
		if o.Renewal != nil {
			from = max(from, o.At) // its own state does not answer it
		}
	}
	m.add(entitlement.Object{Kind: entitlement.KindHint, ID: chain, At: min(from, math.MaxInt64-1) + 1, Hint: &entitlement.Hint{Of: entitlement.KindRenewal, Echo: true}}, chain)
}

// appleSeconds reads a time, Unix milliseconds, as Unix seconds. One before 1970 is none.
func appleSeconds(o object, name string) int64 { return max(o.int(name), 0) / 1000 }

// applePrice turns thousandths of a currency into its smallest unit.
func applePrice(t object) *entitlement.Price {
	price, there := t["price"].(int64)
	currency := strings.ToUpper(t.text("currency"))
	if !there || price < 0 || currency == "" {
		return nil
	}
	const thousandth = 3 // digits
	for range thousandth - entitlement.MinorDigits(currency) {
		price /= 10
	}
	return &entitlement.Price{Amount: price, Currency: currency}
}
