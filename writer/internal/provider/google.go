package provider

import (
	"cmp"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/tidwall/gjson"

	"github.com/latchkey/latchkey/pkg/entitlement"
)

const (
	// googleTolerance is how far a push token's times may be from ours, either way. Pub/Sub uses one token for an hour.
	googleTolerance = 60 * time.Second

	// A real token is about 900 bytes. The bound keeps small what an attacker can make us decode.
	maxGoogleTokenBytes = 8 << 10

	// maxPlayTokenBytes is the longest purchase token that is taken: Google promises about 1 KB.
	maxPlayTokenBytes = 4 << 10

	// maxPlayMillis is the last time that is taken of a message: nanoseconds end in the year 2262.
	maxPlayMillis = 9_000_000_000_000
)

// googleIssuers are the names under which Google signs identity tokens.
// Source: developers.google.com/identity/openid-connect/openid-connect#validatinganidtoken.
var googleIssuers = [...]string{"https://accounts.google.com", "accounts.google.com"}

// GoogleConfig is what NewGoogle needs.
type GoogleConfig struct {
	// Package is the app's package name: messages about another one prove nothing.
	Package string
	// Audience is the aud of the push subscription's tokens, and Email the service account that they are for. Without the second anybody's
	// own token for the same audience would pass, since Google signs those too.
	Audience, Email string
	// Keys are what Google signs with: FetchedKeys or FixedKeys.
	Keys *GoogleKeys
}

// Google is the adapter for Google Play's real-time developer notifications, which come by Pub/Sub push. They say that something changed with a
// purchase token and nothing more: what did is asked of GoogleAPI.
type Google struct{ config GoogleConfig }

// NewGoogle returns an adapter. It refuses a configuration that would let others' tokens pass.
func NewGoogle(c GoogleConfig) (*Google, error) {
	switch {
	case !isIdent(c.Package):
		return nil, errors.New("google: no package name")
	case c.Audience == "" || strings.TrimSpace(c.Audience) != c.Audience:
		return nil, errors.New("google: no audience")
	case !strings.Contains(c.Email, "@") || strings.TrimSpace(c.Email) != c.Email:
		return nil, errors.New("google: no e-mail address of the push service account")
	case c.Keys == nil:
		return nil, errors.New("google: no keys")
	}
	return &Google{c}, nil
}

// Provider returns entitlement.Google.
func (g *Google) Provider() entitlement.Provider { return entitlement.Google }

// Delivery asks for nothing: Pub/Sub waits 10 s and more, repeats for seven days what was not answered with 102, 200, 201, 202 or 204, and takes 401
// for a no like any other. Source: cloud.google.com/pubsub/docs/push.
func (g *Google) Delivery() Delivery { return Delivery{} }

// pushClaims are those of an identity token that are looked at.
type pushClaims struct {
	jwt.RegisteredClaims
	Email         string `json:"email"`
	EmailVerified bool   `json:"email_verified"`
}

// Verify checks the identity token of the push subscription, then its times against now. The body is not signed: it is as authentic as its sender.
// It may fetch Google's keys. Errors: ErrSignature, ErrStale.
func (g *Google) Verify(r Request, now time.Time) error {
	values := r.Header.Values("Authorization")
	if len(values) != 1 || len(values[0]) > maxGoogleTokenBytes {
		return fmt.Errorf("google: Authorization header: %w", ErrSignature)
	}
	scheme, token, _ := strings.Cut(values[0], " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return fmt.Errorf("google: no bearer token: %w", ErrSignature)
	}
	var claims pushClaims
	_, err := jwt.NewParser(jwt.WithValidMethods([]string{jwt.SigningMethodRS256.Alg()}), jwt.WithStrictDecoding(), jwt.WithoutClaimsValidation()).
		ParseWithClaims(token, &claims, func(t *jwt.Token) (any, error) {
			kid, _ := t.Header["kid"].(string)
			return g.config.Keys.find(kid, now)
		})
	if err != nil {
		return fmt.Errorf("google: token: %w", ErrSignature)
	}
	switch {
	case claims.Issuer != googleIssuers[0] && claims.Issuer != googleIssuers[1]:
		return fmt.Errorf("google: token of another issuer: %w", ErrSignature)
	case len(claims.Audience) != 1 || claims.Audience[0] != g.config.Audience:
		return fmt.Errorf("google: token for another audience: %w", ErrSignature)
	case claims.Email != g.config.Email || !claims.EmailVerified:
		return fmt.Errorf("google: token of another account: %w", ErrSignature)
	case claims.ExpiresAt == nil || claims.IssuedAt == nil:
		return fmt.Errorf("google: token without times: %w", ErrSignature)
	case !now.Before(claims.ExpiresAt.Add(googleTolerance)):
		return fmt.Errorf("google: token is expired: %w", ErrStale)
	case now.Add(googleTolerance).Before(claims.IssuedAt.Time):
		return fmt.Errorf("google: token is of the future: %w", ErrStale)
	}
	return nil
}

// The notification types that Google names. An unknown one is taken in the same way: none of them decides anything.
// Source: developer.android.com/google/play/billing/rtdn-reference.
var playSubscriptionTypes = map[int64]string{
	1: "RECOVERED", 2: "RENEWED", 3: "CANCELED", 4: "PURCHASED", 5: "ON_HOLD", 6: "IN_GRACE_PERIOD", 7: "RESTARTED", 8: "PRICE_CHANGE_CONFIRMED", 9: "DEFERRED",
	10: "PAUSED", 11: "PAUSE_SCHEDULE_CHANGED", 12: "REVOKED", 13: "EXPIRED", 17: "ITEMS_CHANGED", 18: "CANCELLATION_SCHEDULED", 19: "PRICE_CHANGE_UPDATED",
	20: "PENDING_PURCHASE_CANCELED", 22: "PRICE_STEP_UP_CONSENT_UPDATED",
}

var playOneTimeTypes = map[int64]string{1: "PURCHASED", 2: "CANCELED"}

// The types of a voided purchase.
const (
	playVoidedOneTime = 2 // productType

	playVoidedAll      = 1 // refundType
	playVoidedQuantity = 2
)

// The allow-list of a notification.
var playNotification = fields(map[string]keep{
	"version": ident, "packageName": ident, "eventTimeMillis": playInteger,
	"subscriptionNotification":   fields(map[string]keep{"version": ident, "notificationType": playInteger, "purchaseToken": playToken, "subscriptionId": ident}),
	"oneTimeProductNotification": fields(map[string]keep{"version": ident, "notificationType": playInteger, "purchaseToken": playToken, "sku": ident}),
	"voidedPurchaseNotification": fields(map[string]keep{"purchaseToken": playToken, "orderId": ident, "productType": playInteger, "refundType": playInteger}),
	"pendingRefundReviewNotification": fields(map[string]keep{"version": ident, "pendingRefundToken": playToken, "orderId": ident, "refundReason": playInteger,
		"obfuscatedAccountId": playAccount, "obfuscatedProfileId": playAccount}),
	"testNotification": fields(map[string]keep{"version": ident}),
})

// What is wrong with a message, so that it proves nothing.
var (
	errPushData    = errors.New("no Pub/Sub message: message.data is missing or no base64")
	errPlayTime    = errors.New("the notification's time is missing or wrong")
	errPlayContent = errors.New("the notification names no purchase")
)

// Parse reads a wrapped push message. It never returns an error.
func (g *Google) Parse(body []byte, env entitlement.Environment) (entitlement.Event, error) {
	ev, err := g.parse(body, env)
	if err != nil {
		return unreadable(entitlement.Google, env, body, err), nil
	}
	return ev, nil
}

func (g *Google) parse(body []byte, env entitlement.Environment) (entitlement.Event, error) {
	envelope, err := decodeObject(body)
	if err != nil {
		return entitlement.Event{}, err
	}
	message := member(envelope, "message")
	data, err := base64.StdEncoding.DecodeString(member(message, "data").Str)
	if err != nil || len(data) == 0 {
		return entitlement.Event{}, errPushData
	}
	ev := entitlement.Event{Provider: entitlement.Google, Environment: env}
	if id, ok := ident(member(message, "messageId")).(string); ok {
		ev.ID = id
	} else if id, ok := ident(member(message, "message_id")).(string); ok {
		ev.ID = id
	} else {
		sum := sha256.Sum256(data)
		ev.ID = "sha256:" + hex.EncodeToString(sum[:])
	}
	v, err := decodeObject(data)
	if err != nil {
		return ev, fmt.Errorf("message.data: %w", err)
	}
	n, _ := playNotification(v).(object)
	ms := n.int("eventTimeMillis")
	if ms <= 0 || ms > maxPlayMillis {
		return ev, errPlayTime
	}
	ev.CreatedAt = ms / 1000
	ev.Type, ev.Objects, err = playNotified(n, ms)
	if err != nil {
		return ev, err
	}
	if len(ev.Objects) == 0 || n.text("packageName") != g.config.Package {
		ev.Kind, ev.Objects = entitlement.Unhandled, nil
	}
	ev.Raw = withoutTokens(n).raw()
	return ev, nil
}

// playNotified returns a notification's type and what it proves: none for one that is only to be kept.
func playNotified(n object, ms int64) (name string, objects []entitlement.Object, err error) {
	about := func(kind string) object { return n.in(kind) }
	switch {
	case n["subscriptionNotification"] != nil:
		o := about("subscriptionNotification")
		token := o.text("purchaseToken")
		return playNumbered("SUBSCRIPTION_", playSubscriptionTypes, o.int("notificationType")), []entitlement.Object{playHint(token, token, ms)}, playNeeded(token)
	case n["oneTimeProductNotification"] != nil:
		o := about("oneTimeProductNotification")
		token := o.text("purchaseToken")
		return playNumbered("ONE_TIME_PRODUCT_", playOneTimeTypes, o.int("notificationType")), []entitlement.Object{playHint(playProductMark+token, token, ms)}, playNeeded(token)
	case n["voidedPurchaseNotification"] != nil:
		o := about("voidedPurchaseNotification")
		token := o.text("purchaseToken")
		id := token
		if o.int("productType") == playVoidedOneTime {
			id = playProductMark + token
		}
		return "VOIDED_PURCHASE", playVoidedOrder(id, token, o.text("orderId"), o.int("refundType") == playVoidedAll, ms), playNeeded(token)
	case n["pendingRefundReviewNotification"] != nil:
		return "PENDING_REFUND_REVIEW", nil, nil
	case n["testNotification"] != nil:
		return "TEST", nil, nil
	}
	return "UNKNOWN", nil, nil
}

func playNeeded(token string) error {
	if token == "" {
		return errPlayContent
	}
	return nil
}

func playNumbered(prefix string, names map[int64]string, n int64) string {
	return prefix + cmp.Or(names[n], strconv.FormatInt(n, 10))
}

// playHint says that something changed with a token. id is the token itself for a subscription, and has playProductMark before it for a one-time
// product: other than our stored names it is what Google must be asked with.
func playHint(id, token string, ms int64) entitlement.Object {
	return entitlement.Object{Kind: entitlement.KindHint, ID: id, By: entitlement.Google, At: ms * 1e6,
		Links: []entitlement.Link{playTokenLink(token)}, Hint: &entitlement.Hint{Of: entitlement.KindRenewal}}
}

// playVoidedOrder is an order of a token that was taken back. Of a part of it the state of the purchase says how many are left.
func playVoidedOrder(id, token, order string, all bool, ms int64) []entitlement.Object {
	objects := []entitlement.Object{playHint(id, token, ms)}
	if all && order != "" {
		objects = append(objects, entitlement.Object{Kind: entitlement.KindRevocation, ID: order, By: entitlement.Google, At: ms * 1e6,
			Links: []entitlement.Link{playTokenLink(token), playOrderLink(order)}, Revocation: &entitlement.Revocation{Transaction: order, RevokedAt: ms / 1000}})
	}
	return objects
}

// playProductMark begins the id under which a token of a one-time product is asked about. No token has a colon.
const playProductMark = "product:"

// playHash is a purchase token as it is stored in purchases and links: a token is its buyer's, and records go to every edge.
func playHash(token string) string {
	sum := sha256.Sum256([]byte(token))
	return hex.EncodeToString(sum[:])
}

func playTokenLink(token string) entitlement.Link {
	return entitlement.Link(string(entitlement.Google) + ":" + playHash(token))
}

// playOrderLink is the link of an order and of its renewals, "GPA.1..0".
func playOrderLink(order string) entitlement.Link {
	first, _, _ := strings.Cut(order, "..")
	return entitlement.SecondaryLink(entitlement.Google, first)
}

// playToken keeps a purchase token.
func playToken(v gjson.Result) any {
	if v.Type == gjson.String && isPlayToken(v.Str) {
		return v.Str
	}
	return nil
}

func isPlayToken(s string) bool {
	return isText(s, maxPlayTokenBytes, func(c byte) bool { return isAlnum(c) || strings.IndexByte("_.-~=+/", c) >= 0 }) && strings.Trim(s, "./") != ""
}

// playAccount keeps what the app gave Google as the name of its account: a hash or an id, never an address. Source: at most 64 characters.
func playAccount(v gjson.Result) any {
	if v.Type == gjson.String && isText(v.Str, 64, func(c byte) bool { return isAlnum(c) || strings.IndexByte("_.:-~=+/|", c) >= 0 }) {
		return v.Str
	}
	return nil
}

// playInteger keeps an integer that may be written as a text, as Google writes those of 64 bits.
func playInteger(v gjson.Result) any {
	if v.Type == gjson.String {
		if i, err := strconv.ParseInt(v.Str, 10, 64); err == nil {
			return i
		}
		return nil
	}
	return number(v)
}

// withoutTokens returns o with the hash of each purchase token in its place.
func withoutTokens(o object) object {
	out := make(object, len(o))
	for name, v := range o {
		switch v := v.(type) {
		case object:
			out[name] = withoutTokens(v)
		case string:
			if strings.HasSuffix(name, "urchaseToken") {
				out[name+"_sha256"] = playHash(v)
			} else {
				out[name] = v
			}
		default:
			out[name] = v
		}
	}
	return out
}
