package provider

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/latchkey/latchkey/pkg/entitlement"
)

// These tests show what each message of Web2Wave proves, that no order or repeat of them changes it, and that nothing personal passes.

const (
	web2waveToken = "canary-token-of-the-project"
	web2waveUser  = "8e6a0f5e-3d0b-4c61-9a0e-5f4f2f9d1c22"
)

func newWeb2Wave(t testing.TB) *Web2Wave {
	t.Helper()
	w, err := NewWeb2Wave(Web2WaveConfig{Tokens: []string{"the-old-token", web2waveToken}})
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func parseWave(t testing.TB, body string) entitlement.Event {
	t.Helper()
	ev, err := (&Web2Wave{}).Parse([]byte(body), entitlement.Production)
	if err != nil {
		t.Fatalf("Parse: %v", err)
	}
	return ev
}

func waveSamples(t testing.TB) map[string]string {
	t.Helper()
	files, err := filepath.Glob("testdata/web2wave/*.json")
	if err != nil || len(files) == 0 {
		t.Fatalf("no samples: %v", err)
	}
	out := map[string]string{}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		out[strings.TrimSuffix(filepath.Base(f), ".json")] = strings.TrimSpace(string(b))
	}
	return out
}

// wave is a subscription's message some time after it began, with changes to a running one of a month.
func wave(after time.Duration, changes map[string]any) string {
	start := time.Unix(began, 0).UTC()
	row := map[string]any{"id": 7, "user_id": web2waveUser, "created_at": start.Format(time.DateTime), "updated_at": start.Add(after).Format(time.DateTime),
		"payment_system_label": "Stripe", "real_payment": 1, "pay_system_id": "sub_1", "price_id": "price_pro_monthly", "plan_id": 31, "plan_name": "premium_monthly",
		"price_label": "9.99 usd / 1 month", "amount": "999.00", "currency": "usd", "canceled_at": nil, "cancel_at_period_end": 0, "cancel_scheduled": "No",
		"status": "active", "last_charge_date": start.Format(time.DateTime), "next_charge_date": start.Add(30 * waveDay).Format(time.DateTime), "charges_count": 1,
		"event_type": "customer.subscription.updated"}
	maps.Copy(row, changes)
	return marshal(map[string]any{"type": "subscription", "data": row})
}

const waveDay = 24 * time.Hour

func waveDate(after time.Duration) string {
	return time.Unix(began, 0).UTC().Add(after).Format(time.DateTime)
}

// waveProof joins what messages prove about the subscription itself: its customer is another matter.
func waveProof(events ...entitlement.Event) entitlement.Evidence {
	var e entitlement.Evidence
	for _, ev := range events {
		for _, o := range ev.Objects {
			if o.Links[0] != web2waveCustomerLink(web2waveUser) {
				e = e.Add(o)
			}
		}
	}
	return e
}

var waveCatalog = entitlement.Catalog{Products: []entitlement.Product{
	{Provider: entitlement.Stripe, ID: "price_pro_monthly", Kind: "subscription", Entitlements: []string{"pro"}},
	{Provider: entitlement.Web2Wave, ID: "31", Kind: "subscription", Entitlements: []string{"pro"}},
}}

// waveStands says what an account with the purchase gets after some time: status, reason, and until when.
func waveStands(e entitlement.Evidence, p entitlement.Policy, after time.Duration) string {
	if !e.IsPurchase() {
		return "nothing"
	}
	acc := entitlement.Account{ID: "acc_1", Purchases: []entitlement.Purchase{entitlement.Fold(e, p)}}
	view := acc.View(entitlement.NewCatalogIndex(&waveCatalog), time.Unix(began, 0).Add(after).Unix(), nil)
	if len(view.Entitlements) == 0 {
		return "nothing"
	}
	got := view.Entitlements[0]
	until := "ever"
	if got.AccessUntil != 0 {
		until = (time.Duration(got.AccessUntil-began) * time.Second).String()
	}
	return fmt.Sprintf("%s %s until %s", got.Status, got.Reason, until)
}

// checkWave fails if an event holds what no event may.
func checkWave(t testing.TB, ev entitlement.Event) {
	t.Helper()
	if ev.Kind != entitlement.Proof && len(ev.Objects) > 0 {
		t.Fatalf("an event of kind %d proves something: %s", ev.Kind, show(ev))
	}
	if ev.ID == "" || !ev.Environment.Valid() || !json.Valid(ev.Raw) {
		t.Fatalf("not a whole event: %s", show(ev))
	}
	for _, o := range ev.Objects {
		echo := o.Hint != nil && o.Hint.Echo
		if o.ID == "" || o.At < 0 || len(o.Links) == 0 || o.Sandbox || (o.By != entitlement.Web2Wave) != echo {
			t.Fatalf("not a whole object: %s", show(o))
		}
	}
}

// TestWeb2WaveLives goes through every status and event type: what a customer may do after the messages.
func TestWeb2WaveLives(t *testing.T) {
	noGrace := entitlement.Policy{BillingGrace: map[entitlement.Provider]int64{entitlement.Stripe: 0}}
	charge2 := wave(30*waveDay, map[string]any{"charges_count": 2, "event_type": "charge.succeeded", "status": "past_due", "last_charge_date": waveDate(30 * waveDay), "next_charge_date": waveDate(60 * waveDay)})
	lifetime := func(status string, after time.Duration) string {
		return wave(after, map[string]any{"status": status, "price_label": "49.00 usd Lifetime", "next_charge_date": nil})
	}
	tests := []struct {
		name     string
		messages []string
		policy   entitlement.Policy
		after    time.Duration
		want     string
	}{
		{"active gives the month and a day of leeway", []string{wave(9*time.Second, nil)}, noGrace, waveDay, "active paid until 744h0m0s"},
		{"trialing is a trial", []string{wave(9*time.Second, map[string]any{"status": "trialling", "charges_count": 0, "last_charge_date": nil, "next_charge_date": waveDate(7 * waveDay)})}, noGrace, waveDay, "trialing trial until 184h48m0s"},
		{"a cancel that is set leaves the month without leeway", []string{wave(9*time.Second, nil), wave(waveDay, map[string]any{"cancel_scheduled": "Yes"})}, noGrace, 2 * waveDay, "active cancelled_until_end until 720h0m0s"},
		{"a cancel at the period's end does too", []string{wave(9*time.Second, map[string]any{"cancel_at_period_end": "1"})}, noGrace, 2 * waveDay, "active cancelled_until_end until 720h0m0s"},
		{"canceled ends access", []string{wave(9*time.Second, nil), wave(10*waveDay, map[string]any{"status": "canceled", "canceled_at": waveDate(2 * waveDay), "next_charge_date": nil})}, noGrace, 11 * waveDay, "expired expired until 240h0m0s"},
		{"past_due ends access with the month by the vendor's rule", []string{wave(9*time.Second, nil), wave(30*waveDay, map[string]any{"status": "past_due", "next_charge_date": waveDate(33 * waveDay)})}, noGrace, 31 * waveDay, "billing_retry billing_retry until 720h0m0s"},
		{"past_due has the policy's billing grace", []string{wave(9*time.Second, nil), wave(30*waveDay, map[string]any{"status": "past_due", "next_charge_date": waveDate(33 * waveDay)})}, entitlement.DefaultPolicy, 31 * waveDay, "billing_grace billing_grace until 888h0m0s"},
		{"unpaid is retried without access", []string{wave(9*time.Second, nil), wave(37*waveDay, map[string]any{"status": "unpaid"})}, noGrace, 38 * waveDay, "billing_retry billing_retry until 720h0m0s"},
		{"paused after the month has no access", []string{wave(9*time.Second, nil), wave(30*waveDay, map[string]any{"status": "paused"})}, noGrace, 31 * waveDay, "paused paused until 720h0m0s"},
		{"incomplete waits for the first payment", []string{wave(9*time.Second, map[string]any{"status": "incomplete", "charges_count": 0, "last_charge_date": nil})}, noGrace, time.Minute, "pending provisional until 9s"},
		{"incomplete_expired never was one", []string{wave(waveDay, map[string]any{"status": "incomplete_expired", "charges_count": 0, "last_charge_date": nil})}, noGrace, 2 * waveDay, "expired expired until 24h0m0s"},
		{"a charge whose row still says incomplete is no loss", []string{wave(time.Second, map[string]any{"status": "incomplete", "event_type": "charge.succeeded"})}, noGrace, time.Minute, "active paid until 720h0m0s"},
		{"a charge whose row names no end gives ten minutes", []string{wave(time.Second, map[string]any{"status": "incomplete", "event_type": "charge.succeeded", "next_charge_date": nil})}, noGrace, time.Minute, "active paid until 10m1s"},
		{"a renewal whose row still says past_due is no loss", []string{wave(9*time.Second, nil), wave(30*waveDay-time.Hour, map[string]any{"status": "past_due"}), charge2}, noGrace, 30*waveDay + time.Minute, "active paid until 1440h0m0s"},
		{"PayPal's payment is a charge", []string{wave(time.Second, map[string]any{"status": "incomplete", "event_type": "PAYMENT.SALE.COMPLETED", "payment_system_label": "PayPal", "pay_system_id": "I-1"})}, noGrace, time.Minute, "active paid until 720h0m0s"},
		{"PayPal's refused payment is none", []string{wave(time.Second, map[string]any{"status": "incomplete", "event_type": "PAYMENT.SALE.DENIED"})}, noGrace, time.Minute, "nothing"},
		{"paid once is for ever", []string{wave(time.Second, map[string]any{"price_label": "49.00 usd Lifetime", "next_charge_date": nil})}, noGrace, 9000 * waveDay, "active paid until ever"},
		{"paid once, and canceled, has an end", []string{lifetime("active", time.Second), lifetime("canceled", 2*waveDay)}, noGrace, 3 * waveDay, "revoked revoked until 48h0m0s"},
		{"paid once, and paused", []string{lifetime("active", time.Second), lifetime("paused", 2*waveDay)}, noGrace, 3 * waveDay, "revoked revoked until 48h0m0s"},
		{"paid once, and unpaid", []string{lifetime("active", time.Second), lifetime("unpaid", 2*waveDay)}, noGrace, 3 * waveDay, "revoked revoked until 48h0m0s"},
		{"paid once, and given up", []string{lifetime("active", time.Second), lifetime("incomplete_expired", 2*waveDay)}, noGrace, 3 * waveDay, "revoked revoked until 48h0m0s"},
		{"paid once, canceled, and active again", []string{lifetime("active", time.Second), lifetime("canceled", 2*waveDay), lifetime("active", 3*waveDay)}, noGrace, 9000 * waveDay, "active paid until ever"},
		{"running without a next date lasts 35 days", []string{wave(time.Second, map[string]any{"next_charge_date": nil})}, noGrace, waveDay, "active paid until 864h0m0s"},
		{"the first message may be about a later charge", []string{charge2, wave(30*waveDay+3*time.Second, map[string]any{"charges_count": 2, "last_charge_date": waveDate(30 * waveDay), "next_charge_date": waveDate(60 * waveDay)})}, noGrace, 31 * waveDay, "active paid until 1464h0m0s"},
		{"an unknown status changes nothing", []string{wave(9*time.Second, nil), wave(waveDay, map[string]any{"status": "on_the_moon"})}, noGrace, 2 * waveDay, "active paid until 744h0m0s"},
		{"a plan stands for a price that the catalog lacks", []string{wave(9*time.Second, map[string]any{"price_id": "price_new", "payment_system_label": "Paddle"})}, noGrace, waveDay, "active paid until 744h0m0s"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var events []entitlement.Event
			for _, m := range tt.messages {
				events = append(events, parseWave(t, m))
				checkWave(t, events[len(events)-1])
			}
			e := waveProof(events...)
			if got := waveStands(e, tt.policy, tt.after); got != tt.want {
				t.Errorf("after %v it is %q, want %q\n%s", tt.after, got, tt.want, show(e))
			}
			random := rand.New(rand.NewPCG(1, 20))
			for range 20 { // in any order, any number of times
				again := append(append([]entitlement.Event{}, events...), events[random.IntN(len(events))])
				random.Shuffle(len(again), func(i, j int) { again[i], again[j] = again[j], again[i] })
				if other := waveProof(again...); !bytes.Equal(entitlement.Encode(&other), entitlement.Encode(&e)) {
					t.Fatalf("another order gives\n%s\nwant\n%s", show(other), show(e))
				}
			}
		})
	}
}

// TestWeb2WaveSamples reads the documented messages.
func TestWeb2WaveSamples(t *testing.T) {
	samples := waveSamples(t)
	active := parseWave(t, samples["active"])
	alias := []entitlement.Alias{{Kind: entitlement.Web2WaveUser, Value: web2waveUser}}
	at := time.Date(2026, time.October, 15, 9, 0, 9, 1, time.UTC).UnixNano()
	links := []entitlement.Link{"web2wave:100421", "stripe:sub_1QxYtE2eZvKYlo2C"}
	start, end := time.Date(2026, time.October, 15, 9, 0, 0, 0, time.UTC).Unix(), time.Date(2026, time.November, 15, 9, 0, 0, 0, time.UTC).Unix()
	want := []entitlement.Object{
		{Kind: entitlement.KindTransaction, ID: "100421:1", At: at, By: entitlement.Web2Wave, Links: links, Transaction: &entitlement.Transaction{Chain: "100421",
			Sold:      entitlement.Sold{Product: "price_1Qx", Also: []entitlement.ProductID{"31", "premium_monthly"}, Price: &entitlement.Price{Amount: 1999, Currency: "USD", Period: "P1M"}},
			Recurring: true, StartsAt: start, EndsAt: end, Store: "stripe"}},
		{Kind: entitlement.KindRenewal, ID: "100421", At: at, Rank: 3, By: entitlement.Web2Wave, Links: links, Renewal: &entitlement.Renewal{Phase: entitlement.PhaseActive, WillRenew: true}},
		{Kind: entitlement.KindCustomer, ID: "subscription:100421", By: entitlement.Web2Wave, Links: links, Aliases: alias, Customer: &entitlement.Customer{}},
		{Kind: entitlement.KindHint, ID: web2waveUser, At: at, By: entitlement.Web2Wave, Links: []entitlement.Link{web2waveCustomerLink(web2waveUser)}, Hint: &entitlement.Hint{Of: entitlement.KindCustomer}},
		{Kind: entitlement.KindHint, ID: "sub_1QxYtE2eZvKYlo2C", At: at, Links: links, Hint: &entitlement.Hint{Of: entitlement.KindSubscription, Echo: true}},
	}
	if show(active.Objects) != show(want) {
		t.Errorf("the running subscription proves\n%s\nwant\n%s", show(active.Objects), show(want))
	}
	for name, env := range map[string]entitlement.Environment{"active": entitlement.Production, "race": entitlement.Production, "canceled": entitlement.Production, "paypal-trial": entitlement.Sandbox} {
		if ev := parseWave(t, samples[name]); ev.Kind != entitlement.Proof || ev.Environment != env || !strings.HasPrefix(ev.ID, "subscription:") {
			t.Errorf("%s is %s", name, show(ev))
		}
	}
	if purchase := waveProof(active).ID(); purchase != "stripe:sub_1QxYtE2eZvKYlo2C" {
		t.Errorf("a purchase by Stripe is %s", purchase)
	}
	trial := parseWave(t, samples["paypal-trial"])
	if purchase := waveProof(trial).ID(); purchase != "web2wave:100500" {
		t.Errorf("a purchase by PayPal is %s", purchase)
	}
	if o := trial.Objects[0]; o.Transaction.Price == nil || *o.Transaction.Price != (entitlement.Price{Amount: 99, Currency: "USD", Period: "P7D"}) || !o.Transaction.Trial || len(o.Transaction.Also) != 1 ||
		trial.Objects[1].Renewal.WillRenew {
		t.Errorf("numbers as texts read as %s", show(trial.Objects[:2]))
	}
	for _, name := range []string{"event", "registration"} {
		if ev := parseWave(t, samples[name]); ev.Kind != entitlement.Unhandled || !strings.HasPrefix(ev.ID, "sha256:") {
			t.Errorf("%s is %s", name, show(ev))
		}
	}
}

// TestWeb2WaveIdentity: a property that names the user makes the customer be asked about, once for each value; none of the others is kept.
func TestWeb2WaveIdentity(t *testing.T) {
	ev := parseWave(t, waveSamples(t)["identity"])
	if len(ev.Objects) != 1 || ev.Objects[0].Hint == nil || ev.Objects[0].Account != "acc_01JD0000000000000000000000" || ev.Objects[0].Aliases[0].Value != web2waveUser {
		t.Fatalf("external_user_id says %s", show(ev))
	}
	property := func(name, value string) entitlement.Event {
		return parseWave(t, marshal(map[string]any{"type": "user_property", "data": map[string]any{"user_id": web2waveUser, "property": name, "value": value}}))
	}
	own := property("external_user_id", "acct_7Q2M9X")
	if o := own.Objects[0]; o.Account != "" || !bytes.Contains([]byte(show(o.Aliases)), []byte(`"acct_7Q2M9X"`)) || o.Aliases[0].Kind != entitlement.Custom {
		t.Errorf("the customer's own id says %s", show(own))
	}
	if o := property("revenuecat_profile_id", "rc-user").Objects[0]; o.Aliases[0] != (entitlement.Alias{Kind: entitlement.RevenueCatAppUser, Value: "rc-user"}) {
		t.Errorf("RevenueCat's id says %s", show(o))
	}
	if own.Objects[0].ID == ev.Objects[0].ID || own.ID == ev.ID {
		t.Error("two values of a property are one question")
	}
	several := property("external_user_id", "old-1||person@example.com||acc_01JD0000000000000000000001||||old-2")
	want := []entitlement.Alias{{Kind: entitlement.Custom, Value: "old-1"}, {Kind: entitlement.Custom, Value: "old-2"}, {Kind: entitlement.Web2WaveUser, Value: web2waveUser}}
	if o := several.Objects[0]; o.Account != "acc_01JD0000000000000000000001" || !slices.Equal(o.Aliases, want) || strings.Contains(string(several.Raw), "example.com") {
		t.Errorf("several values say %s, kept %s", show(o), several.Raw)
	}
	if again := parseWave(t, string(several.Raw)); again.Digest() != several.Digest() {
		t.Errorf("several values as stored read as %s", show(again))
	}
	for _, name := range []string{"password", "email", "app_installed", "weight"} {
		ev := property(name, "canary-value")
		if ev.Kind != entitlement.Unhandled || len(ev.Objects) > 0 || bytes.Contains(ev.Raw, []byte("canary")) {
			t.Errorf("property %s is %s", name, show(ev))
		}
	}
	if ev := property("external_user_id", "person@example.com"); strings.Contains(show(ev)+string(ev.Raw), "example.com") || ev.Objects[0].Account != "" || len(ev.Objects[0].Aliases) != 1 {
		t.Errorf("an address names somebody: %s", show(ev))
	}
}

// TestWeb2WaveOrder: versions tell rows of one second apart by their charges, then by their status.
func TestWeb2WaveOrder(t *testing.T) {
	statuses := []string{"incomplete", "trialing", "active", "past_due", "unpaid", "paused", "incomplete_expired", "canceled"}
	if len(web2waveRanks) != len(statuses) {
		t.Fatalf("%d statuses have a rank, want %d", len(web2waveRanks), len(statuses))
	}
	for i, earlier := range statuses {
		for _, later := range statuses[i+1:] {
			if web2waveRanks[earlier] >= web2waveRanks[later] {
				t.Errorf("%s is not before %s", earlier, later)
			}
		}
	}
	renewal := func(status string, count int) entitlement.Object {
		for _, o := range parseWave(t, wave(time.Hour, map[string]any{"status": status, "charges_count": count})).Objects {
			if o.Renewal != nil {
				return o
			}
		}
		t.Fatalf("%s says nothing about the renewal", status)
		return entitlement.Object{}
	}
	e := entitlement.Evidence{}.Add(renewal("active", 2), renewal("past_due", 1))
	if got := e.Objects[0]; got.Renewal.Phase != entitlement.PhaseActive || got.Tied {
		t.Errorf("of one second the row with more charges does not win: %s", show(got))
	}
	if a, b := parseWave(t, wave(time.Hour, nil)), parseWave(t, wave(time.Hour, map[string]any{"user_country_code": "DE"})); a.ID != b.ID || a.Digest() != b.Digest() {
		t.Error("a field that we do not read makes another event")
	}
	seen := map[string]bool{}
	for _, change := range []map[string]any{nil, {"status": "past_due"}, {"charges_count": 2}, {"canceled_at": waveDate(0)}, {"next_charge_date": waveDate(waveDay)}, {"event_type": "charge.succeeded"}, {"id": 8}} {
		seen[parseWave(t, wave(time.Hour, change)).ID] = true
	}
	if len(seen) != 7 {
		t.Errorf("7 messages have %d ids", len(seen))
	}
}

// TestWeb2WaveBadInput: what is forged is refused, what cannot be understood proves nothing, and nothing ends the program.
func TestWeb2WaveBadInput(t *testing.T) {
	w := newWeb2Wave(t)
	for name, h := range map[string]http.Header{
		"no token": {}, "a wrong token": {"Webhooks-Token": {"wrong"}}, "an empty token": {"Webhooks-Token": {""}}, "two tokens": {"Webhooks-Token": {web2waveToken, web2waveToken}},
		"the beginning of a token": {"Webhooks-Token": {web2waveToken[:9]}}, "a token and more": {"Webhooks-Token": {web2waveToken + " "}}, "the token as bearer": {"Authorization": {"Bearer " + web2waveToken}},
		"a giant token": {"Webhooks-Token": {strings.Repeat("x", maxWeb2WaveTokenBytes+1)}},
	} {
		if err := w.Verify(Request{Header: h, Body: []byte(wave(0, nil))}, time.Unix(began, 0)); !errors.Is(err, ErrSignature) {
			t.Errorf("Verify with %s = %v", name, err)
		}
	}
	for _, token := range []string{web2waveToken, "the-old-token"} {
		if err := w.Verify(Request{Header: http.Header{"Webhooks-Token": {token}}}, time.Unix(began, 0)); err != nil {
			t.Errorf("Verify with a right token = %v", err)
		}
	}
	for _, tokens := range [][]string{nil, {""}, {" x"}, {"right", ""}} {
		if _, err := NewWeb2Wave(Web2WaveConfig{Tokens: tokens}); err == nil {
			t.Errorf("NewWeb2Wave(%q) takes it", tokens)
		}
	}
	unreadable := map[string]string{
		"no JSON": `{"type":`, "an array": `[]`, "no type": `{"data":{}}`, "a type that is a number": `{"type":7}`, "no row": `{"type":"subscription"}`, "a row without id": `{"type":"subscription","data":{}}`,
		"a row without a version": wave(0, map[string]any{"updated_at": nil}), "a row of the year 9999": wave(0, map[string]any{"updated_at": "9999-01-01 00:00:00"}), "a row before all": wave(0, map[string]any{"updated_at": "0000-00-00 00:00:00"}),
		"a row of a negative time": wave(0, map[string]any{"updated_at": -5}), "a property without user": `{"type":"user_property","data":{"property":"external_user_id","value":"x"}}`,
		"very deep": strings.Repeat(`{"type":`, maxDepth+1),
	}
	for name, body := range unreadable {
		if ev := parseWave(t, body); ev.Kind != entitlement.Unreadable || len(ev.Objects) > 0 {
			t.Errorf("%s is %s", name, show(ev))
		}
	}
	wrong := []any{nil, true, -1, 1e300, 0.5, "", "canary@example.com", "0000-00-00 00:00:00", "-1", strings.Repeat("9", 400), []any{1}, map[string]any{"id": "canary@example.com"}}
	for name, body := range waveSamples(t) {
		var tree any
		if err := json.Unmarshal([]byte(body), &tree); err != nil {
			t.Fatal(err)
		}
		everyField(tree, func(field string, set func(any)) {
			for _, v := range wrong {
				set(v)
				ev := parseWave(t, marshal(tree))
				checkWave(t, ev)
				for _, policy := range []entitlement.Policy{{}, entitlement.DefaultPolicy} {
					waveStands(waveProof(ev), policy, waveDay)
				}
				if text := string(entitlement.Encode(&ev)) + string(ev.Raw); strings.Contains(text, "example.com") || strings.Contains(text, "canary") {
					t.Fatalf("%s with %s = %v keeps it: %s", name, field, v, ev.Raw)
				}
			}
		})
	}
	if ev := parseWave(t, strings.Replace(wave(0, nil), `"status":"active"`, `"status":"active","status":"canceled"`, 1)); ev.Objects[0].Renewal == nil || ev.Objects[0].Renewal.Phase != entitlement.PhaseExpired {
		t.Errorf("of two members the last does not count: %s", show(ev))
	}
}

// TestWeb2WaveCanaries plants personal data into every message and finds none of it in what is stored.
func TestWeb2WaveCanaries(t *testing.T) {
	const canary = "CANARY person@example.com"
	for name, body := range waveSamples(t) {
		var m map[string]any
		if err := json.Unmarshal([]byte(body), &m); err != nil {
			t.Fatal(err)
		}
		data := m["data"].(map[string]any)
		for _, field := range []string{"user_email", "manage_link", "ip", "user_agent", "url", "user_country_city", "plan_name", "price_description", "quiz_name", "event_value", "password", "name"} {
			data[field] = canary
		}
		m["signature"] = canary
		ev := parseWave(t, marshal(m))
		for _, stored := range []string{string(entitlement.Encode(&ev)), string(ev.Raw), show(ev)} {
			if strings.Contains(stored, "CANARY") || strings.Contains(stored, "example.com") {
				t.Errorf("%s keeps personal data:\n%s", name, stored)
			}
		}
	}
}

// What is stored must be enough to read history again with a later adapter, and must read the same today.
func TestWeb2WaveRawReadsAsTheMessageDid(t *testing.T) {
	bodies := waveSamples(t)
	bodies["lifetime"] = wave(0, map[string]any{"price_label": "49 usd Lifetime", "next_charge_date": nil})
	for name, body := range bodies {
		ev := parseWave(t, body)
		if ev.Kind == entitlement.Unhandled {
			continue // its id is that of its bytes
		}
		if again := parseWave(t, string(ev.Raw)); again.Digest() != ev.Digest() || !bytes.Equal(again.Raw, ev.Raw) {
			t.Errorf("%s as stored reads as\n%s\nwant\n%s", name, show(again), show(ev))
		}
	}
}

func FuzzParseWeb2Wave(f *testing.F) {
	for _, body := range waveSamples(f) {
		f.Add([]byte(body))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		ev, err := (&Web2Wave{}).Parse(body, entitlement.Sandbox)
		if err != nil {
			t.Fatal(err)
		}
		checkWave(t, ev)
		waveStands(waveProof(ev), entitlement.DefaultPolicy, waveDay)
	})
}

// BenchmarkWeb2Wave is the adapter's share of one webhook: verify, parse, encode for the log.
func BenchmarkWeb2Wave(b *testing.B) {
	w, body := newWeb2Wave(b), []byte(waveSamples(b)["active"])
	r := Request{Header: http.Header{"Webhooks-Token": {web2waveToken}}, Body: body}
	b.ReportAllocs()
	for b.Loop() {
		if err := w.Verify(r, time.Time{}); err != nil {
			b.Fatal(err)
		}
		ev, _ := w.Parse(body, entitlement.Sandbox)
		if ev.Kind != entitlement.Proof {
			b.Fatal(ev)
		}
		entitlement.Encode(&ev)
	}
}

// A row has the address of its user. It is for an index alone: Parse does not keep it.
func TestWeb2WaveTellsWhoPaid(t *testing.T) {
	const address = "Canary.Buyer@example.com"
	for name, tt := range map[string]struct {
		body    string
		of      entitlement.Link
		address string
	}{
		"a row":                            {wave(0, map[string]any{"user_email": address}), "web2wave:7", address},
		"a row whose id is a text":         {wave(0, map[string]any{"user_email": address, "id": "7"}), "web2wave:7", address},
		"a row with an empty address":      {wave(0, map[string]any{"user_email": ""}), "", ""},
		"a row with none":                  {wave(0, map[string]any{"user_email": nil}), "", ""},
		"a row of before the field":        {wave(0, nil), "", ""},
		"a row without an id":              {wave(0, map[string]any{"user_email": address, "id": nil}), "", ""},
		"a property":                       {`{"type":"user_property","data":{"user_id":"` + web2waveUser + `","property":"email","value":"` + address + `"}}`, "", ""},
		"an event with such a field":       {`{"type":"event","data":{"id":7,"user_email":"` + address + `"}}`, "", ""},
		"a list in the place of the row":   {`{"type":"subscription","data":[{"id":7,"user_email":"` + address + `"}]}`, "", ""},
		"no JSON, with the field in it":    {`{"type":"subscription","data":{"id":7,"user_email":"` + address, "", ""},
		"a type that is no text":           {`{"type":1,"data":{"id":7,"user_email":"` + address + `"}}`, "", ""},
		"an address that is not a text":    {wave(0, map[string]any{"user_email": map[string]any{"a": 1}}), "", ""},
		"an address that is only a number": {wave(0, map[string]any{"user_email": 12}), "", ""},
	} {
		of, got, ok := newWeb2Wave(t).Buyer([]byte(tt.body))
		if want := tt.address != ""; ok != want || ok && (of != tt.of || got != tt.address) {
			t.Errorf("%s: Buyer = %s, %q, %t, want %s, %q, %t", name, of, got, ok, tt.of, tt.address, want)
		}
		ev := parseWave(t, tt.body)
		if text := show(ev) + string(ev.Raw); strings.Contains(text, "anary.") {
			t.Errorf("%s: the event has the address: %s", name, text)
		}
		if ok && ev.Kind == entitlement.Proof && !slices.ContainsFunc(ev.Objects, func(o entitlement.Object) bool { return slices.Contains(o.Links, of) }) {
			t.Errorf("%s: nothing that the event proves has the id %s", name, of)
		}
	}
}
