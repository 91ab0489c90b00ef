package provider

import (
	"cmp"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/tidwall/gjson"

	"github.com/latchkey/latchkey/pkg/entitlement"
)

const (
	// appleTooOld is how old a notification may be. Apple repeats one for six and a half days (1, 12, 24, 48 and 72 h after each other), with the
	// signature of the first time.
	appleTooOld = 7 * 24 * time.Hour
	// appleTooNew is for clocks alone.
	appleTooNew = 5 * time.Minute
)

// The environments in Apple's words. Xcode and LocalTesting are signed by anybody and refused.
const (
	appleProduction = "Production"
	appleSandbox    = "Sandbox"
)

// AppleConfig is what NewApple needs.
type AppleConfig struct {
	// BundleID is the app's: what names another one is refused.
	BundleID string
	// AppID is the app's Apple id. What names another one, or none, in production is refused. 0: it is not looked at.
	AppID int64
	// Roots are the certificates, PEM or DER, of the authorities that sign for the App Store. None: Apple's own.
	Roots [][]byte
}

// Mistakes in an AppleConfig or an AppleAPIConfig, for saying which field is wrong.
var (
	ErrAppleBundle = errors.New("apple: bundle id")
	ErrAppleApp    = errors.New("apple: app id")
	ErrAppleRoot   = errors.New("apple: root certificate")
)

// Apple is the adapter for App Store Server Notifications, version 2, and for transactions that StoreKit signs for the app.
type Apple struct {
	bundle string
	app    int64
	chains *appleChains
}

// NewApple returns an adapter. Errors: ErrAppleBundle, ErrAppleApp, ErrAppleRoot.
func NewApple(c AppleConfig) (*Apple, error) {
	if !isIdent(c.BundleID) {
		return nil, fmt.Errorf("%w: want it as App Store Connect shows it, com.example.app", ErrAppleBundle)
	}
	if c.AppID < 0 {
		return nil, fmt.Errorf("%w: must not be negative", ErrAppleApp)
	}
	if len(c.Roots) == 0 {
		c.Roots = [][]byte{appleRootG3}
	}
	var roots []*x509.Certificate
	for i, b := range c.Roots {
		parsed, err := parseRoots(b)
		if err != nil {
			return nil, fmt.Errorf("%w %d: %w", ErrAppleRoot, i+1, err)
		}
		roots = append(roots, parsed...)
	}
	return &Apple{bundle: c.BundleID, app: c.AppID, chains: newAppleChains(roots)}, nil
}

// Provider returns entitlement.Apple.
func (a *Apple) Provider() entitlement.Provider { return entitlement.Apple }

// appleDoubtAfter is how many notifications in a row may be refused as a stranger's before the mistake may be ours: a wrong root, bundle or clock.
const appleDoubtAfter = 20

// Delivery asks for 503 when it is likely that we refuse Apple itself. Apple repeats five times in six and a half days what was not answered with 2xx, in
// production alone, and not every 4xx any more: users have seen it give up after one.
// Source: developer.apple.com/documentation/appstoreservernotifications/responding-to-app-store-server-notifications.
func (a *Apple) Delivery() Delivery { return Delivery{DoubtAfter: appleDoubtAfter} }

// Verify checks the notification's signature and those of what is signed inside it, then that it is about our app, then its time against now.
// Errors: ErrSignature, ErrStale.
func (a *Apple) Verify(r Request, now time.Time) error {
	jws, err := signedPayload(r.Body)
	if err != nil {
		return refuseApple(err)
	}
	payload, err := jwsPayload(jws)
	if err != nil {
		return a.verifyOpaque(jws, now, err)
	}
	signed, err := a.verifyNotification(jws, payload)
	if err != nil {
		return refuseApple(err)
	}
	if age := now.Sub(signed); age > appleTooOld || age < -appleTooNew {
		return fmt.Errorf("apple: signed %s ago: %w", age.Round(time.Second), ErrStale)
	}
	return nil
}

// verifyNotification returns when a notification about our app was signed, whenever that was. Error: what is wrong with it.
func (a *Apple) verifyNotification(jws string, payload gjson.Result) (time.Time, error) {
	head := appleHeadOf(payload).(object)
	// The time is believed before the signature is known to be right, for choosing when the chain must have been valid and nothing else.
	signed, err := appleTime(head, "signedDate")
	if err != nil {
		return signed, err
	}
	if err := a.chains.verifyJWS(jws, signed); err != nil {
		return signed, err
	}
	return signed, a.checkNested(payload, signed)
}

// verifyOpaque judges a payload that is no JSON object: where Apple signed it, it is for Parse to call it unreadable.
func (a *Apple) verifyOpaque(jws string, now time.Time, why error) error {
	if a.chains.verifyJWS(jws, now) != nil {
		return refuseApple(why)
	}
	return nil
}

func refuseApple(why error) error { return fmt.Errorf("apple: %w: %w", ErrSignature, why) }

// signedPayload returns the JWS in a notification's body.
func signedPayload(body []byte) (string, error) {
	if len(body) > maxAppleJWSBytes {
		return "", errors.New("the body is too large")
	}
	m, err := decodeObject(body)
	if err != nil {
		return "", err
	}
	jws := member(m, "signedPayload")
	if jws.Type != gjson.String {
		return "", errors.New("no signedPayload")
	}
	return jws.Str, nil
}

// appleTime returns a time of a message. Error: it is missing or none.
func appleTime(o object, name string) (time.Time, error) {
	ms, ok := o[name].(int64)
	if !ok || ms <= 0 || ms > maxAppleMillis {
		return time.Time{}, fmt.Errorf("%s is missing or no time", name)
	}
	return time.UnixMilli(ms), nil
}

// checkNested verifies what is signed inside a verified payload, and that all of it is about our app.
func (a *Apple) checkNested(payload gjson.Result, signed time.Time) error {
	about, env, err := a.checkAbout(payload)
	if err != nil {
		return err
	}
	for _, name := range []string{appleTransactionField, appleRenewalField, appleAppTransactionField} {
		nested := member(about, name)
		if nested.Type != gjson.String {
			continue
		}
		said, at, err := a.verifySigned(nested.Str, signed)
		if err == nil {
			err = checkSame(said, a.bundle, env)
		}
		if err != nil {
			return fmt.Errorf("%s of %s: %w", name, at.UTC().Format(time.RFC3339), err)
		}
	}
	return nil
}

// checkAbout returns what a payload is about, and in which of Apple's environments. A payload that is about nothing that we know names no app:
// it proves nothing either.
func (a *Apple) checkAbout(payload gjson.Result) (about gjson.Result, env string, err error) {
	for _, name := range appleContainers {
		if about = member(payload, name); about.IsObject() {
			break
		}
	}
	if !about.IsObject() {
		return about, "", nil
	}
	said := appleAboutOf(about).(object)
	if env = appleEnvironment(said); env == "" {
		return about, "", errors.New("an environment that is none of the App Store's")
	}
	if said.text("bundleId") != a.bundle {
		return about, "", fmt.Errorf("another app's bundle: %w", ErrUntrusted)
	}
	if a.app != 0 && env == appleProduction && said.int("appAppleId") != a.app {
		return about, "", fmt.Errorf("another app's id: %w", ErrUntrusted)
	}
	return about, env, nil
}

// appleEnvironment returns the environment that a payload's content names, or "" where it is none that counts. A token of an external purchase
// says it by its id alone.
func appleEnvironment(about object) string {
	env := about.text("environment")
	if id := about.text("externalPurchaseId"); env == "" && id != "" {
		env = appleProduction
		if strings.HasPrefix(id, "SANDBOX") {
			env = appleSandbox
		}
	}
	if env != appleProduction && env != appleSandbox {
		return ""
	}
	return env
}

// verifySigned verifies what is signed on its own inside a notification or an answer, and returns what it says and when it was signed: otherwise
// is that of what it stands in, where it does not say.
func (a *Apple) verifySigned(jws string, otherwise time.Time) (said object, at time.Time, err error) {
	at = otherwise
	payload, err := jwsPayload(jws)
	if err != nil {
		return nil, at, err
	}
	said = appleSignedOf(payload).(object)
	for _, name := range []string{"signedDate", "receiptCreationDate"} {
		if _, there := said[name]; there {
			if at, err = appleTime(said, name); err != nil {
				return nil, otherwise, err
			}
			break
		}
	}
	if at.IsZero() {
		return nil, at, errors.New("the time of signing is missing")
	}
	return said, at, a.chains.verifyJWS(jws, at)
}

// checkSame refuses what is signed for another app or environment. A renewal does not name its app.
func checkSame(said object, bundle, env string) error {
	if named, there := said["bundleId"]; there && named != bundle {
		return errors.New("another app's bundle")
	}
	if named := cmp.Or(said.text("environment"), said.text("receiptType")); named != "" && named != env {
		return errors.New("another environment")
	}
	return nil
}

// Parse reads a notification. It never returns an error.
func (a *Apple) Parse(body []byte, env entitlement.Environment) (entitlement.Event, error) {
	ev, err := parseApple(body, env)
	if err != nil {
		return unreadable(entitlement.Apple, env, body, err), nil
	}
	return ev, nil
}

// parseApple reads a notification as Apple sends it.
func parseApple(body []byte, env entitlement.Environment) (entitlement.Event, error) {
	jws, err := signedPayload(body)
	if err != nil {
		return entitlement.Event{}, err
	}
	payload, err := jwsPayload(jws)
	if err != nil {
		return entitlement.Event{}, err
	}
	return readApple(payload, env)
}

// ParseNotification verifies a notification out of Apple's history, whenever it was signed, and turns it into the event that it was when it was
// sent. env counts only where it names none. Error: ErrSignature.
func (a *Apple) ParseNotification(signedPayload string, env entitlement.Environment) (entitlement.Event, error) {
	payload, err := jwsPayload(signedPayload)
	if err != nil {
		return entitlement.Event{}, refuseApple(err)
	}
	if _, err := a.verifyNotification(signedPayload, payload); err != nil {
		return entitlement.Event{}, refuseApple(err)
	}
	ev, err := readApple(payload, env)
	if err != nil {
		return unreadable(entitlement.Apple, env, []byte(`{"signedPayload":"`+signedPayload+`"}`), err), nil
	}
	return ev, nil
}

// ParseTransaction verifies a transaction that StoreKit signed for the app, whenever it was signed, and turns it into an event. Its id is the
// same for the same content. It proves the term and its buyer, not where the subscription stands now: ask with Pull of KindRenewal or
// KindTransaction. Error: ErrSignature, also for another app's and for one of Xcode.
func (a *Apple) ParseTransaction(jws string) (entitlement.Event, error) {
	said, at, err := a.verifySigned(jws, time.Time{})
	if err != nil {
		return entitlement.Event{}, refuseApple(err)
	}
	env := appleEnvironment(said)
	if env == "" || said.text("bundleId") != a.bundle {
		return entitlement.Event{}, refuseApple(errors.New("not a transaction of the app in an environment of the App Store"))
	}
	payload, err := jwsPayload(jws)
	if err != nil {
		return entitlement.Event{}, refuseApple(err)
	}
	t := appleTransactionOf(payload).(object)
	m := appleMessage{at: at.UnixNano()}
	if err := m.transaction(t); err != nil {
		return entitlement.Event{}, refuseApple(err)
	}
	sum := sha256.Sum256([]byte(payload.Raw))
	return entitlement.Event{
		Provider: entitlement.Apple, ID: fmt.Sprintf("transaction:%s:%d:%s", t.text("transactionId"), at.UnixMilli(), hex.EncodeToString(sum[:8])),
		Environment: ourEnvironment(env), Type: "signed_transaction", CreatedAt: at.Unix(), Objects: m.objects,
		Raw: object{"data": object{appleTransactionField: t}}.raw(),
	}, nil
}

func ourEnvironment(env string) entitlement.Environment {
	if env == appleSandbox {
		return entitlement.Sandbox
	}
	return entitlement.Production
}
