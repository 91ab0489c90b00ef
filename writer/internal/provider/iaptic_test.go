package provider

import (
	"bytes"
	"errors"
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

const iapticPassword = "7b1c2d3e-canary-4000-8000-1f2e3d4c5b6a"

func newIaptic(t testing.TB) *Iaptic {
	t.Helper()
	a, err := NewIaptic(IapticConfig{Passwords: []string{"an older one", iapticPassword}})
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// iapticStamp writes a time as iaptic does.
func iapticStamp(t time.Time) string { return t.Format("2006-01-02T15:04:05.000Z07:00") }

// iapticMonth is a purchase of a month of pro, with what more says.
func iapticMonth(more ...props) props {
	p := props{"purchaseId": "apple:2000000912345678", "transactionId": "apple:2000000912345678", "productId": "apple:com.example.pro_monthly", "platform": "apple",
		"sandbox": false, "purchaseDate": iapticStamp(adaptyBought), "expirationDate": iapticStamp(adaptyEnds), "renewalIntent": "Renew", "cancelationReason": "",
		"isTrialPeriod": false, "isBillingRetryPeriod": false, "currency": "EUR", "amountMicros": 9990000, "amountUSD": 10.5}
	for _, m := range more {
		maps.Copy(p, m)
	}
	return p
}

// iapticMessage is a message of a time about purchases, which stand under product ids as in the field: one that comes twice under a number.
func iapticMessage(at time.Time, reason string, purchases ...props) string {
	collection := props{}
	for i, p := range purchases {
		key := fmt.Sprint(p["productId"])
		if _, twice := collection[key]; twice {
			key = fmt.Sprint(i)
		}
		collection[key] = p
	}
	body := marshal(collection)
	return marshal(props{"type": "purchases.updated", "password": iapticPassword, "applicationUsername": adaptyAccountA, "purchases": collection,
		"notification": props{"reason": reason, "id": fmt.Sprintf("%016x", rand.NewPCG(uint64(len(body)), uint64(at.UnixNano())^uint64(len(reason))).Uint64()), "date": iapticStamp(at)}})
}

// TestIapticVerify defends R6.
func TestIapticVerify(t *testing.T) {
	a := newIaptic(t)
	for _, tt := range []struct {
		name, body string
		want       error
	}{
		{"the password", `{"type":"test","password":"` + iapticPassword + `"}`, nil},
		{"the older password", `{"type":"test","password":"an older one"}`, nil},
		{"no password", `{"type":"test"}`, ErrSignature},
		{"an empty one", `{"password":""}`, ErrSignature},
		{"another", `{"password":"` + iapticPassword[1:] + `"}`, ErrSignature},
		{"one that is no text", `{"password":[1]}`, ErrSignature},
		{"the right one before a wrong one", `{"password":"` + iapticPassword + `","password":"x"}`, ErrSignature},
		{"inside of another object", `{"notification":{"password":"` + iapticPassword + `"}}`, ErrSignature},
		{"a very long one", `{"password":"` + strings.Repeat("x", 1<<16) + `"}`, ErrSignature},
		{"no JSON", iapticPassword, ErrSignature},
		{"a list", `["` + iapticPassword + `"]`, ErrSignature},
		{"nothing", ``, ErrSignature},
		{"deeply nested", strings.Repeat(`{"a":`, 20_000) + "1" + strings.Repeat("}", 20_000), ErrSignature},
	} {
		err := a.Verify(Request{Body: []byte(tt.body)}, time.Now())
		if !errors.Is(err, tt.want) || (tt.want == nil) != (err == nil) || err != nil && strings.Contains(err.Error(), "canary") {
			t.Errorf("%s: Verify() = %v, want %v", tt.name, err, tt.want)
		}
	}
	for _, c := range []IapticConfig{{}, {Passwords: []string{""}}, {Passwords: []string{"x", " y"}}} {
		if _, err := NewIaptic(c); err == nil {
			t.Errorf("NewIaptic(%+v) took it", c)
		}
	}
}

// What a purchase comes to by its dates and marks, whatever the message was sent for (R18).
func TestWhatIapticPurchasesGive(t *testing.T) {
	const day = 24 * time.Hour
	var (
		tenth = adaptyBought.Add(9 * day)
		same  = props{"expirationDate": iapticStamp(adaptyBought), "renewalIntent": nil}
		life  = props{"productId": "apple:com.example.lifetime", "renewalIntent": nil}
		none  = props{"expirationDate": nil}
	)
	month := func(more ...props) []props { return []props{iapticMonth(more...)} }
	tests := []struct {
		name      string
		purchases []props
		at        time.Time
		status    entitlement.Status
		reason    entitlement.Reason
		until     time.Time // end of access; zero: never
		renews    bool
	}{
		{"it renews", month(), tenth, entitlement.StatusActive, entitlement.ReasonPaid, adaptyEnds.Add(day), true},
		{"renewed", month(props{"transactionId": "apple:2000000934567890", "lastRenewalDate": iapticStamp(adaptyEnds), "expirationDate": iapticStamp(adaptyEnds.AddDate(0, 1, 0))}), adaptyEnds.Add(day), entitlement.StatusActive, entitlement.ReasonPaid, adaptyEnds.AddDate(0, 1, 0).Add(day), true},
		{"a trial", month(props{"isTrialPeriod": true}), tenth, entitlement.StatusTrialing, entitlement.ReasonTrial, adaptyEnds.Add(day), true},
		{"a paid introduction", month(props{"isIntroPeriod": true}), tenth, entitlement.StatusActive, entitlement.ReasonPaid, adaptyEnds.Add(day), true},
		{"cancelled, and paid for", month(props{"renewalIntent": "Lapse", "cancelationReason": "Customer.Cost"}), tenth, entitlement.StatusActive, entitlement.ReasonCancelledUntilEnd, adaptyEnds, false},
		{"cancelled at Stripe", month(props{"renewalIntent": "Cancel"}), tenth, entitlement.StatusActive, entitlement.ReasonCancelledUntilEnd, adaptyEnds, false},
		{"refunded: its end was moved", month(props{"renewalIntent": "Lapse", "cancelationReason": "Customer", "expirationDate": iapticStamp(tenth), "isExpired": true}), tenth, entitlement.StatusExpired, entitlement.ReasonExpired, tenth, false},
		{"expired", month(props{"renewalIntent": "Lapse", "isExpired": true}), adaptyEnds, entitlement.StatusExpired, entitlement.ReasonExpired, adaptyEnds, false},
		{"unpaid, in grace", month(props{"isBillingRetryPeriod": true, "expirationDate": iapticStamp(adaptyEnds.Add(6 * day))}), adaptyEnds.Add(day), entitlement.StatusBillingGrace, entitlement.ReasonBillingGrace, adaptyEnds.Add(6 * day), true},
		{"unpaid, and over", month(props{"isBillingRetryPeriod": true, "expirationDate": iapticStamp(adaptyBought.Add(8 * day))}), tenth, entitlement.StatusBillingRetry, entitlement.ReasonBillingRetry, adaptyBought.Add(8 * day), true},
		{"shared by the family", month(props{"isSharedPurchase": true}), tenth, entitlement.StatusActive, entitlement.ReasonFamily, adaptyEnds.Add(day), true},
		{"not paid yet", month(props{"isPending": true}), tenth, entitlement.StatusPending, "", time.Time{}, false},
		{"a reason that is new", month(props{"cancelationReason": "System.Eclipse", "renewalIntent": "Hope"}), tenth, entitlement.StatusActive, entitlement.ReasonCancelledUntilEnd, adaptyEnds, false},
		{"a lifetime, no end", month(life, props{"expirationDate": nil}), adaptyEnds.AddDate(9, 0, 0), entitlement.StatusActive, entitlement.ReasonPaid, time.Time{}, false},
		{"a lifetime, its purchase date as end", month(life, same), adaptyEnds.AddDate(9, 0, 0), entitlement.StatusActive, entitlement.ReasonPaid, time.Time{}, false},
		{"a lifetime, refunded", month(life, same, props{"cancelationReason": "Customer"}), tenth, entitlement.StatusRefunded, entitlement.ReasonRefunded, adaptyBought, false},
		{"a lifetime without an end, expired", month(life, none, props{"isExpired": true}), tenth, entitlement.StatusRefunded, entitlement.ReasonRefunded, adaptyBought, false},
		{"a lifetime without an end, cancelled", month(life, none, props{"cancelationReason": "Customer"}), tenth, entitlement.StatusRefunded, entitlement.ReasonRefunded, adaptyBought, false},
		{"a lifetime without an end, cancelled, and when", month(life, none, props{"cancelationReason": "Developer", "isExpired": true, "renewalIntentChangeDate": iapticStamp(tenth.Add(-day))}), tenth, entitlement.StatusRefunded, entitlement.ReasonRefunded, tenth.Add(-day), false},
		{"a lifetime without any date, deleted", month(life, none, props{"cancelationReason": "System.Deleted", "purchaseDate": nil}), tenth, "", "", time.Time{}, false},
		{"a lifetime, its purchase date as end and therefore expired", month(life, same, props{"isExpired": true}), tenth, entitlement.StatusActive, entitlement.ReasonPaid, time.Time{}, false},
		{"a lifetime with an end to come", month(life, props{"expirationDate": iapticStamp(adaptyEnds.AddDate(90, 0, 0))}), tenth, entitlement.StatusActive, entitlement.ReasonPaid, adaptyEnds.AddDate(90, 0, 0), false},
		{"Play's base plan", month(props{"purchaseId": "google:GPA.1-2", "transactionId": "google:GPA.1-2..0", "platform": "google", "productId": "google:pro:monthly"}), tenth, entitlement.StatusActive, entitlement.ReasonPaid, adaptyEnds.Add(day), true},
		{"ids without the platform", month(props{"transactionId": "2000000912345678", "productId": "com.example.pro_monthly"}), tenth, entitlement.StatusActive, entitlement.ReasonPaid, adaptyEnds.Add(day), true},
	}
	a := newIaptic(t)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var first entitlement.Entitlement
			for i, reason := range []string{"PURCHASED", "REFUNDED", "EXPIRED", "SOMETHING_NEW"} {
				e := tell(t, a, iapticMessage(tenth, reason, tt.purchases...))
				got := pro(t, e, tt.at, entitlement.Iaptic)
				if tt.status == entitlement.StatusPending {
					got.Reason, got.AccessUntil, got.WillRenew = "", 0, false
				}
				if until := unixOf(tt.until); got.Status != tt.status || got.Reason != tt.reason || got.AccessUntil != until || got.WillRenew != tt.renews {
					t.Fatalf("got %s %s until %s, renews %t\nwant %s %s until %s, renews %t\n%+v", got.Status, got.Reason, time.Unix(got.AccessUntil, 0).UTC(), got.WillRenew,
						tt.status, tt.reason, time.Unix(until, 0).UTC(), tt.renews, e.Objects)
				}
				if i == 0 {
					first = got
				} else if !reflect.DeepEqual(got, first) {
					t.Errorf("the reason %s decides: %+v, then %+v", reason, first, got)
				}
			}
		})
	}
}

// A history gives the same in any order: each message holds everything (R17).
func TestIapticOrderDoesNotCount(t *testing.T) {
	const day = 24 * time.Hour
	renewed := props{"transactionId": "apple:2000000934567890", "lastRenewalDate": iapticStamp(adaptyEnds), "expirationDate": iapticStamp(adaptyEnds.AddDate(0, 1, 0))}
	history := []string{
		iapticMessage(adaptyBought, "PURCHASED", iapticMonth()),
		iapticMessage(adaptyBought.Add(9*day), "WILL_LAPSE", iapticMonth(props{"renewalIntent": "Lapse"})),
		iapticMessage(adaptyBought.Add(10*day), "WILL_AUTO_RENEW", iapticMonth()),
		iapticMessage(adaptyEnds, "ENTERED_GRACE_PERIOD", iapticMonth(props{"isBillingRetryPeriod": true, "expirationDate": iapticStamp(adaptyEnds.Add(6 * day))})),
		iapticMessage(adaptyEnds.Add(time.Hour), "RENEWED", iapticMonth(renewed)),
		iapticMessage(adaptyEnds.Add(day), "WILL_LAPSE", iapticMonth(renewed, props{"renewalIntent": "Lapse"})),
	}
	a := newIaptic(t)
	want := tell(t, a, history...)
	if got := pro(t, want, adaptyEnds.Add(2*day), entitlement.Iaptic); got.Reason != entitlement.ReasonCancelledUntilEnd || got.AccessUntil != unixOf(adaptyEnds.AddDate(0, 1, 0)) {
		t.Errorf("at the end of the history: %+v", got)
	}
	random := rand.New(rand.NewPCG(1, 200))
	for range 200 {
		again := slices.Concat(history, history[random.IntN(len(history)):])
		random.Shuffle(len(again), func(i, j int) { again[i], again[j] = again[j], again[i] })
		if got := tell(t, a, again...); !reflect.DeepEqual(got, want) {
			t.Fatalf("the order counts: %+v, then %+v", want, got)
		}
	}
	// One lost message heals with the next.
	last := pro(t, tell(t, a, history[len(history)-1]), adaptyEnds.Add(2*day), entitlement.Iaptic)
	if all := pro(t, want, adaptyEnds.Add(2*day), entitlement.Iaptic); !reflect.DeepEqual(last, all) {
		t.Errorf("the last message alone gives %+v, all give %+v", last, all)
	}
}

// iaptic shows no grace of the store's: what goes on beyond the date that it tells is what the policy has for that store.
func TestIapticsGraceIsThePolicysForTheStore(t *testing.T) {
	play := props{"purchaseId": "google:GPA.1-2", "transactionId": "google:GPA.1-2..0", "platform": "google", "productId": "google:pro", "isBillingRetryPeriod": true}
	stripe := props{"purchaseId": "stripe:sub_1", "transactionId": "stripe:sub_1", "platform": "stripe", "productId": "stripe:price_1", "isBillingRetryPeriod": true}
	allowance := entitlement.Policy{BillingGrace: map[entitlement.Provider]int64{entitlement.Google: 3 * 24 * 3600}}
	for _, tt := range []struct {
		name   string
		row    props
		policy entitlement.Policy
		want   time.Duration // after the end that is told
	}{
		{"Play, by default", play, entitlement.Policy{}, 0},
		{"Play, three days by the policy", play, allowance, 3 * 24 * time.Hour},
		{"the App Store, with Play's three days", props{"isBillingRetryPeriod": true}, allowance, 0},
		{"Stripe, by default", stripe, entitlement.Policy{}, 7 * 24 * time.Hour},
	} {
		ev := newIaptic(t).read(t, iapticMessage(adaptyEnds.Add(time.Hour), "ENTERED_GRACE_PERIOD", iapticMonth(tt.row)))
		item := entitlement.Fold(entitlement.Evidence{}.Add(ev.Objects...), tt.policy).Items[0]
		if got := time.Unix(item.AccessUntil, 0).Sub(adaptyEnds); item.State != entitlement.Retrying || got != tt.want || item.Term.EndsAt != adaptyEnds.Unix() {
			t.Errorf("%s: state %d until %s after the end, want %s", tt.name, item.State, got, tt.want)
		}
	}
}

// TestIapticConsumablesAreCounted defends R51.
func TestIapticConsumablesAreCounted(t *testing.T) {
	coins := func(id string, more props) props {
		p := props{"purchaseId": "apple:" + id, "transactionId": "apple:" + id, "productId": "apple:com.example.coins_100", "platform": "apple", "purchaseDate": iapticStamp(adaptyBought), "isConsumed": true}
		maps.Copy(p, more)
		return p
	}
	message := iapticMessage(adaptyBought, "PURCHASED", coins("1", props{"quantity": 3}), coins("2", nil), coins("3", props{"expirationDate": iapticStamp(adaptyBought), "cancelationReason": "Customer"}),
		coins("4", props{"expirationDate": iapticStamp(adaptyEnds)}), coins("5", props{"cancelationReason": "Customer"}))
	x := entitlement.NewCatalogIndex(&entitlement.Catalog{Products: []entitlement.Product{{Provider: entitlement.Apple, ID: "com.example.coins_100", Kind: entitlement.KindConsumable, Credits: map[string]int64{"coins": 100}}}})
	purchases := map[entitlement.PurchaseID]entitlement.Evidence{}
	for _, o := range newIaptic(t).read(t, message).Objects {
		id := entitlement.Evidence{}.Add(o).ID()
		purchases[id] = purchases[id].Add(o)
	}
	var account entitlement.Account
	for _, e := range purchases {
		if e.IsPurchase() {
			account.Purchases = append(account.Purchases, entitlement.Fold(e, entitlement.Policy{}))
		}
	}
	if got := account.View(x, unixOf(adaptyEnds.AddDate(1, 0, 0)), nil).Balances; len(account.Purchases) != 5 || len(got) != 1 || got[0].Amount != 500 {
		t.Errorf("%d purchases give %+v, want 500 coins of 5: three at once, one, none of what was refunded, one, none of what was cancelled", len(purchases), got)
	}
}

func (a *Iaptic) read(t testing.TB, body string) entitlement.Event {
	t.Helper()
	ev, err := a.Parse([]byte(body), entitlement.Production)
	if err != nil {
		t.Fatalf("Parse: %v", err)
	}
	return ev
}

// TestWhoseAnIapticPurchaseIs defends R45.
func TestWhoseAnIapticPurchaseIs(t *testing.T) {
	users := func(names ...any) props { return props{"entitledUsers": append([]any{}, names...)} }
	to := func(user, message string) string { return strings.ReplaceAll(message, adaptyAccountA, user) }
	later := adaptyBought.AddDate(0, 0, 9)
	for _, tt := range []struct {
		name     string
		messages []string
		owner    entitlement.AccountID
		shares   int
	}{
		{"whom the message is about", []string{iapticMessage(adaptyBought, "PURCHASED", iapticMonth())}, adaptyAccountA, 0},
		{"the only one entitled", []string{iapticMessage(adaptyBought, "PURCHASED", iapticMonth(users(adaptyAccountB)))}, adaptyAccountB, 0},
		{"two are entitled, both told", []string{iapticMessage(adaptyBought, "PURCHASED", iapticMonth()), iapticMessage(later, "RECEIPT_VALIDATED", iapticMonth(users(adaptyAccountA, adaptyAccountB))),
			to(adaptyAccountC, iapticMessage(later.Add(1), "RECEIPT_VALIDATED", iapticMonth(users("acc_other", adaptyAccountC))))}, adaptyAccountA, 2},
		{"one of two is left", []string{iapticMessage(adaptyBought, "PURCHASED", iapticMonth(users(adaptyAccountA, adaptyAccountB))), iapticMessage(later, "RECEIPT_VALIDATED", iapticMonth(users(adaptyAccountA)))}, adaptyAccountA, 0},
		{"it moved", []string{iapticMessage(adaptyBought, "PURCHASED", iapticMonth()), to(adaptyAccountB, iapticMessage(later, "RECEIPT_VALIDATED", iapticMonth(users(adaptyAccountB))))}, adaptyAccountB, 0},
		{"it is others', who are told of to whom had it: the first one's", []string{iapticMessage(adaptyBought, "PURCHASED", iapticMonth()), iapticMessage(later, "RECEIPT_VALIDATED", iapticMonth(users(adaptyAccountC, adaptyAccountB)))}, adaptyAccountC, 2},
		{"it was shared, and is others' now", []string{iapticMessage(adaptyBought, "PURCHASED", iapticMonth(users(adaptyAccountA, adaptyAccountB))), iapticMessage(later, "RECEIPT_VALIDATED", iapticMonth(users(adaptyAccountB, adaptyAccountC)))}, adaptyAccountB, 2},
		{"others' who are not all understood: whose it was", []string{iapticMessage(adaptyBought, "PURCHASED", iapticMonth()), iapticMessage(later, "RECEIPT_VALIDATED", iapticMonth(users(adaptyAccountB, adaptyAccountC, 7)))}, adaptyAccountA, 2},
		{"nobody's any more", []string{iapticMessage(adaptyBought, "PURCHASED", iapticMonth()), iapticMessage(later, "RECEIPT_VALIDATED", iapticMonth(users()))}, "", 0},
		{"it was shared, and is nobody's any more", []string{iapticMessage(adaptyBought, "PURCHASED", iapticMonth(users(adaptyAccountA, adaptyAccountB))), iapticMessage(later, "RECEIPT_VALIDATED", iapticMonth(users()))}, "", 0},
		{"nobody's, and somebody's again", []string{iapticMessage(adaptyBought, "PURCHASED", iapticMonth(users())), iapticMessage(later, "RECEIPT_VALIDATED", iapticMonth(users(adaptyAccountB)))}, adaptyAccountB, 0},
		{"nobody's", []string{to("", iapticMessage(adaptyBought, "PURCHASED", iapticMonth()))}, "", 0},
		{"an address of a person", []string{to("someone@example.com", iapticMessage(adaptyBought, "PURCHASED", iapticMonth()))}, "", 0},
	} {
		e := tell(t, newIaptic(t), tt.messages...)
		var backwards entitlement.Evidence
		for _, message := range slices.Backward(tt.messages) {
			backwards = entitlement.Merge(backwards, tell(t, newIaptic(t), message))
		}
		if !reflect.DeepEqual(backwards, e) {
			t.Errorf("%s: the order counts: %+v, then %+v", tt.name, e, backwards)
		}
		if got, shares := e.Identity().Account, e.Shares(); got != tt.owner || len(shares) != tt.shares {
			t.Errorf("%s: owner %q and %v share, want %q and %d", tt.name, got, shares, tt.owner, tt.shares)
		}
	}
}

const adaptyAccountC = "acc_01JD0000000000000000000003"

func TestIapticEvents(t *testing.T) {
	a := newIaptic(t)
	sandbox := iapticMonth(props{"sandbox": true, "purchaseId": "apple:5", "productId": "apple:test"})
	for _, tt := range []struct {
		name, body string
		kind       entitlement.EventKind
		env        entitlement.Environment
		objects    int
	}{
		{"a test", `{"type":"TEST","password":"x"}`, entitlement.Unhandled, entitlement.Production, 0},
		{"a type that is new", `{"type":"customers.deleted","password":"x","notification":{"id":"1"}}`, entitlement.Unhandled, entitlement.Production, 0},
		{"nothing is owned", iapticMessage(adaptyBought, "EXPIRED"), entitlement.Proof, entitlement.Production, 1},
		{"a purchase", iapticMessage(adaptyBought, "PURCHASED", iapticMonth()), entitlement.Proof, entitlement.Production, 5},
		{"a purchase of the sandbox", iapticMessage(adaptyBought, "PURCHASED", sandbox), entitlement.Proof, entitlement.Sandbox, 5},
		{"of both: that of the address", iapticMessage(adaptyBought, "PURCHASED", sandbox, iapticMonth()), entitlement.Proof, entitlement.Production, 5},
		{"of both: that of the one it is about", strings.Replace(iapticMessage(adaptyBought, "PURCHASED", sandbox, iapticMonth()), `"reason":`, `"purchaseId":"apple:5","reason":`, 1), entitlement.Proof, entitlement.Sandbox, 5},
		{"two purchases of one product", iapticMessage(adaptyBought, "PURCHASED", iapticMonth(), iapticMonth(props{"purchaseId": "apple:9", "transactionId": "apple:9"})), entitlement.Proof, entitlement.Production, 9},
		{"one purchase twice", iapticMessage(adaptyBought, "PURCHASED", iapticMonth(), iapticMonth()), entitlement.Proof, entitlement.Production, 4},
		{"a purchase without an id", iapticMessage(adaptyBought, "PURCHASED", iapticMonth(props{"purchaseId": nil})), entitlement.Proof, entitlement.Production, 0},
		{"purchases are missing", `{"type":"purchases.updated","notification":{"id":"1","date":"2026-11-01T08:20:15.000Z"}}`, entitlement.Unreadable, entitlement.Production, 0},
		{"the date is missing", `{"type":"purchases.updated","notification":{"id":"1"},"purchases":{}}`, entitlement.Unreadable, entitlement.Production, 0},
		{"the type is missing", `{"purchases":{}}`, entitlement.Unreadable, entitlement.Production, 0},
	} {
		ev := a.read(t, tt.body)
		if ev.Kind != tt.kind || ev.Environment != tt.env || len(ev.Objects) != tt.objects || ev.ID == "" {
			t.Errorf("%s: kind %d, %s, %d objects, want %d, %s, %d: %s", tt.name, ev.Kind, ev.Environment, len(ev.Objects), tt.kind, tt.env, tt.objects, ev.Raw)
		}
	}
	one, other := a.read(t, `{"type":"test","password":"one"}`), a.read(t, `{"password":"other","type":"test"}`)
	if one.ID != other.ID {
		t.Error("the password goes into the id of an event")
	}
	unclear := a.read(t, iapticMessage(adaptyBought, "PURCHASED", iapticMonth(props{"expirationDate": iapticStamp(adaptyBought), "renewalIntent": nil})))
	if !bytes.Contains(unclear.Raw, []byte(`"unclear_end":true`)) {
		t.Errorf("a date that only a habit explains is not marked: %s", unclear.Raw)
	}
}

// Neither the password nor what a person typed reaches an event, in whatever shape the message is.
func TestIapticKeepsNoSecret(t *testing.T) {
	a := newIaptic(t)
	good := iapticMessage(adaptyBought, "PURCHASED", iapticMonth(props{"nickname": "canary", "discountId": "canary of a person", "entitledUsers": []any{"canary@example.com"}}))
	for _, body := range []string{
		good, strings.Replace(good, adaptyAccountA, "canary@example.com", 1), strings.Replace(good, "purchases.updated", "test", 1), strings.Replace(good, `"date"`, `"canary"`, 1),
		`{"password":"canary","type":"purchases.updated","password":"` + iapticPassword + `"}`, `{"p\u0061ssword":"canary","type":"canary canary"}`, `{"password":"canary"`, `{"password":{"a":"canary"}}`,
		`{"type":{"password":"canary"},"notification":{"password":"canary","id":"1"},"purchases":{"password":"canary"}}`,
	} {
		ev := a.read(t, body)
		if kept := entitlement.Encode(&ev); bytes.Contains(kept, []byte("canary")) {
			t.Errorf("%.80s: kept %s", body, kept)
		}
	}
}

func TestIapticBadInputInItsMeaning(t *testing.T) {
	good := iapticMessage(adaptyBought, "PURCHASED", iapticMonth())
	dated := func(date string) string {
		return strings.Replace(good, marshal(iapticStamp(adaptyBought)), date, 1)
	}
	if at := strings.Index(good, `"date":`+marshal(iapticStamp(adaptyBought))); at < 0 || strings.Index(good, marshal(iapticStamp(adaptyBought))) != at+len(`"date":`) {
		t.Fatalf("the date is not the first time of %s", good)
	}
	for name, tt := range map[string]struct {
		body string
		want entitlement.EventKind
	}{
		"nothing":                {``, entitlement.Unreadable},
		"no JSON":                {good[:len(good)/2], entitlement.Unreadable},
		"a list":                 {`[]`, entitlement.Unreadable},
		"no type":                {`{"purchases":{}}`, entitlement.Unreadable},
		"a type of a number":     {`{"type":7}`, entitlement.Unreadable},
		"a type that is new":     {`{"type":"moon.rose"}`, entitlement.Unhandled},
		"no date":                {dated(`null`), entitlement.Unreadable},
		"a negative date":        {dated(`-1`), entitlement.Unreadable},
		"a date of the year 1":   {dated(`"0001-01-01T00:00:00.000Z"`), entitlement.Unreadable},
		"a far-future date":      {dated(`"9999-12-31T23:59:59.999Z"`), entitlement.Unreadable},
		"a day that is none":     {dated(`"2026-02-30T00:00:00.000Z"`), entitlement.Unreadable},
		"no purchases":           {`{"type":"purchases.updated","notification":{"id":"1","date":"2026-11-01T08:20:15.000Z"}}`, entitlement.Unreadable},
		"purchases of a text":    {`{"type":"purchases.updated","notification":{"id":"1","date":"2026-11-01T08:20:15.000Z"},"purchases":"x"}`, entitlement.Unreadable},
		"20,000 deep":            {strings.Repeat(`{"purchases":`, 20_000) + "1" + strings.Repeat("}", 20_000), entitlement.Unreadable},
		"two values":             {good + good, entitlement.Unreadable},
		"a type twice: the last": {strings.Replace(good, `{`, `{"type":"test",`, 1), entitlement.Proof},
	} {
		if ev, err := newIaptic(t).Parse([]byte(tt.body), entitlement.Sandbox); err != nil || ev.Kind != tt.want || tt.want == entitlement.Unreadable && !strings.HasPrefix(ev.ID, "sha256:") {
			t.Errorf("%s: kind %d of id %s, want %d: %v", name, ev.Kind, ev.ID, tt.want, err)
		}
	}
}

func TestIapticBadInput(t *testing.T) {
	a := newIaptic(t)
	endTold := map[string]bool{}
	good := iapticMessage(adaptyBought, "PURCHASED", iapticMonth())
	bodies := []string{"", "[", `{"type":"purchases.updated","type":"purchases.updated"}`, good[:len(good)/2], good + good, strings.Repeat(`{"purchases":`, 20_000) + "1" + strings.Repeat("}", 20_000)}
	for _, bad := range []any{nil, true, -1, 1e300, "", "\x00\"\\", strings.Repeat("x", 1<<16), []any{[]any{}}, props{"a": 1}, "0001-01-01T00:00:00.000Z", "9999-12-31T23:59:59.999Z", "2026-02-30T00:00:00Z",
		1796000000000, "1970-01-01T00:00:00.000Z", "2026-12-01 08:20:11"} {
		for _, intent := range []any{nil, "Renew"} {
			if bad != nil {
				endTold[iapticMessage(adaptyBought, "PURCHASED", iapticMonth(props{"expirationDate": bad, "renewalIntent": intent}))] = true
			}
		}
		for field := range iapticPurchase {
			bodies = append(bodies, iapticMessage(adaptyBought, "PURCHASED", iapticMonth(props{field: bad})))
		}
		for _, field := range []string{"type", "applicationUsername", "notification", "purchases"} {
			bodies = append(bodies, strings.Replace(good, `{`, `{"`+field+`":`+marshal(bad)+`,`, 1))
		}
	}
	for _, body := range slices.Concat(bodies, slices.Sorted(maps.Keys(endTold))) {
		ev, err := a.Parse([]byte(body), entitlement.Sandbox)
		if err != nil || ev.ID == "" || ev.Provider != entitlement.Iaptic || !ev.Environment.Valid() || len(ev.Raw) > 64<<10 {
			t.Fatalf("Parse(%.200s) = %+v, %v", body, ev, err)
		}
		if ev.Kind != entitlement.Proof && len(ev.Objects) > 0 {
			t.Fatalf("an event that proves nothing has objects: %+v", ev)
		}
		noEndlessSubscription(t, ev, endTold[body])
	}
	many := make([]props, 5000)
	for i := range many {
		many[i] = iapticMonth(props{"purchaseId": fmt.Sprintf("apple:%d", i)})
	}
	if ev := a.read(t, iapticMessage(adaptyBought, "PURCHASED", many...)); len(ev.Objects) > 4*maxIapticPurchases {
		t.Errorf("%d objects of one message", len(ev.Objects))
	}
}

// Of a purchase of which something that decides about access is not understood nothing is said, and what was told before stands: it is not gone either.
func TestAnIapticPurchaseThatIsNotUnderstoodSaysNothing(t *testing.T) {
	const sale = entitlement.Link("apple:2000000912345678")
	for field, bad := range map[string][]any{
		"sandbox": {"true", 1}, "isPending": {"true", 1}, "isExpired": {"true", 1}, "cancelationReason": {true, "a customer's words"},
		"expirationDate": {-1, "", "soon", true, props{"a": 1}, "2026-12-01 08:20:11", "1970-01-01T00:00:00.000Z"},
	} {
		for _, value := range bad {
			ev := newIaptic(t).read(t, iapticMessage(adaptyBought, "PURCHASED", iapticMonth(props{field: value}), iapticMonth(props{"purchaseId": "apple:9", "transactionId": "apple:9"})))
			if e := saleIn(ev, sale); len(e.Objects) > 0 || !saleIn(ev, "apple:9").IsPurchase() {
				t.Errorf("%s %v says %+v, the other purchase %+v", field, value, e.Objects, saleIn(ev, "apple:9").Objects)
			}
			if slices.ContainsFunc(ev.Objects, func(o entitlement.Object) bool { return o.Kind == entitlement.KindCustomer }) {
				t.Errorf("%s %v: what is not understood is gone", field, value)
			}
		}
	}
	for field, nothing := range map[string]any{"sandbox": nil, "isPending": nil, "isExpired": nil, "cancelationReason": "", "expirationDate": nil} {
		if ev := newIaptic(t).read(t, iapticMessage(adaptyBought, "PURCHASED", iapticMonth(props{field: nothing}))); !saleIn(ev, sale).IsPurchase() {
			t.Errorf("%s %v: no purchase: %s", field, nothing, ev.Raw)
		}
	}
}

func FuzzParseIaptic(f *testing.F) {
	a := newIaptic(f)
	for _, sample := range readSamples(f, "testdata/iaptic") {
		f.Add(sample)
	}
	f.Add([]byte(iapticMessage(adaptyBought, "PURCHASED", iapticMonth(props{"entitledUsers": []any{"a", "b"}}))))
	f.Fuzz(func(t *testing.T, body []byte) {
		ev, err := a.Parse(body, entitlement.Sandbox)
		if err != nil {
			t.Fatal(err)
		}
		if again, _ := a.Parse(body, entitlement.Sandbox); again.Digest() != ev.Digest() {
			t.Fatal("two readings differ")
		}
		if e := (entitlement.Evidence{}).Add(ev.Objects...); e.IsPurchase() {
			entitlement.Fold(e, entitlement.Policy{})
		}
	})
}

func BenchmarkIaptic(b *testing.B) {
	a := newIaptic(b)
	r := Request{Body: []byte(iapticMessage(adaptyBought, "PURCHASED", iapticMonth()))}
	b.ReportAllocs()
	for b.Loop() {
		if err := a.Verify(r, adaptyBought); err != nil {
			b.Fatal(err)
		}
		ev, err := a.Parse(r.Body, entitlement.Sandbox)
		if err != nil || ev.Kind != entitlement.Proof {
			b.Fatal(ev, err)
		}
		entitlement.Encode(&ev)
	}
}
