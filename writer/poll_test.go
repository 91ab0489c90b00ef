package writer

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/latchkey/latchkey/pkg/entitlement"
	"github.com/latchkey/latchkey/writer/internal/provider"
)

// A subscription at Web2Wave ends and no message says so: an hour after the date of its charge the leader asks, once, and then once a day.
func TestWhatNoMessageTellsIsAskedAboutInTime(t *testing.T) {
	api := startWeb2Wave(t)
	cfg := testConfigs(t, 1)[0]
	withWeb2Wave(&cfg, "") // whoever leads asks nobody: the walks below are all there are
	w := startWriter(t, cfg)
	w.awaitReady()
	asking, err := provider.NewWeb2WaveAPI(provider.Web2WaveAPIConfig{Key: web2waveKey, BaseURL: api.URL, Environment: entitlement.Sandbox})
	if err != nil {
		t.Fatal(err)
	}
	acc, user := w.account(), "8e6a0f5e-3d0b-4c61-9a0e-5f4f2f9d1c22"
	w.api("POST", "/v1/accounts/"+acc+"/aliases", `{"kind": "web2wave_user", "value": "`+user+`"}`)
	began := time.Now().UTC().Add(-30 * 24 * time.Hour)
	date := func(at time.Time) string { return at.Format(time.DateTime) }
	running := object{"last_charge_date": date(began), "next_charge_date": date(time.Now().UTC().Add(-30 * time.Minute)), "updated_at": date(time.Now().UTC().Add(-2 * time.Hour))}
	if r := w.web2wave("subscription", web2waveRow(1, user, running)); r.str("outcome") != "recorded" || w.pro(acc)["active"] != true {
		t.Fatalf("webhook = %d %s: %v", r.status, r.text, w.pro(acc))
	}
	ended := object{"status": "canceled", "canceled_at": date(time.Now().UTC().Add(-30 * time.Minute)), "next_charge_date": nil, "last_charge_date": date(began)}
	api.put([]object{web2waveRow(1, user, ended)}, nil)

	now := time.Now()
	p := &polling{pulling: newPulling(w.Writer, entitlement.Sandbox, map[entitlement.Provider]provider.Puller{entitlement.Web2Wave: asking}), pollers: []provider.Poller{asking}, asked: map[string]time.Time{}}
	walk := func(at time.Time) (recorded bool) {
		t.Helper()
		before := w.api("GET", "/v1/accounts/"+acc+"/entitlements", "").str("revision")
		if err := p.walk(t.Context(), at); err != nil {
			t.Fatal(err)
		}
		return w.api("GET", "/v1/accounts/"+acc+"/entitlements", "").str("revision") != before
	}
	if walk(now) || len(p.asked) != 0 {
		t.Errorf("asked %v half an hour after the date of the charge", p.asked)
	}
	if !walk(now.Add(45*time.Minute)) || w.pro(acc)["active"] == true || len(p.asked) != 1 {
		t.Errorf("an hour and a quarter after it: %v, asked %v", w.pro(acc), p.asked)
	}
	if walk(now.Add(48*time.Hour)) || len(p.asked) != 1 {
		t.Error("what has ended is asked about again")
	}
	for i := range maxPolled + 10 {
		p.noteAsked(strconv.Itoa(i), now)
	}
	if len(p.asked) != maxPolled {
		t.Errorf("%d are remembered, want %d at most", len(p.asked), maxPolled)
	}
}

// The message of a renewal was lost for good, and its payer is locked out: whoever told of the subscription is asked, once (R20, R23, R104).
func TestARenewalThatNoMessageToldIsFound(t *testing.T) {
	now := time.Now()
	iso := func(at time.Time) string { return at.UTC().Format(time.RFC3339) }
	ended, questions := now.Add(-48*time.Hour), atomic.Int32{}
	var user atomic.Value
	rc := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		questions.Add(1)
		_ = json.NewEncoder(rw).Encode(object{"subscriber": object{"original_app_user_id": user.Load(), "entitlements": object{}, "non_subscriptions": object{}, "subscriptions": object{
			"com.example.pro_monthly": object{"store": "app_store", "is_sandbox": true, "store_transaction_id": "20001", "purchase_date": iso(ended), "expires_date": iso(ended.AddDate(0, 1, 0)), "period_type": "normal"}}}})
	}))
	defer rc.Close()
	w := revenueCatWriter(t)
	if r := w.api("PUT", "/v1/catalog", `{"products": [{"provider": "apple", "product_id": "com.example.pro_monthly", "kind": "subscription", "entitlements": ["pro"], "plan": "pro_monthly", "group": "pro"}]}`); r.status != http.StatusOK {
		t.Fatalf("PUT /v1/catalog = %d %s", r.status, r.text)
	}
	acc := w.account()
	user.Store(acc)
	start := ended.Add(-30 * 24 * time.Hour).Unix()
	if r := w.revenueCat(revenueCat("INITIAL_PURCHASE", acc, "com.example.pro_monthly", start, start), revenueCatAuthorization); r.str("outcome") != "recorded" || w.pro(acc)["active"] == true {
		t.Fatalf("webhook = %d %s: %v", r.status, r.text, w.pro(acc))
	}
	asking, err := provider.NewRevenueCatAPI(provider.RevenueCatAPIConfig{KeyV1: "secret", BaseURL: rc.URL, Environment: entitlement.Sandbox})
	if err != nil {
		t.Fatal(err)
	}
	p := &polling{pulling: newPulling(w.Writer, entitlement.Sandbox, map[entitlement.Provider]provider.Puller{entitlement.RevenueCat: asking}), pollers: []provider.Poller{asking}, asked: map[string]time.Time{}}
	for range 3 {
		if err := p.walk(t.Context(), now); err != nil {
			t.Fatal(err)
		}
	}
	if pro := w.pro(acc); pro["active"] != true || questions.Load() != 1 {
		t.Errorf("after %d questions, want 1: pro = %v", questions.Load(), pro)
	}
}

func TestWhenToAskWithoutAMessage(t *testing.T) {
	at := func(hours float64) time.Time {
		return time.Unix(1_800_000_000, 0).Add(time.Duration(hours * float64(time.Hour)))
	}
	web2wave := func(statedAt float64, phase entitlement.Phase) entitlement.Evidence {
		link := []entitlement.Link{"web2wave:1"}
		return entitlement.Evidence{}.Add(
			entitlement.Object{Kind: entitlement.KindTransaction, ID: "1:1", By: entitlement.Web2Wave, At: at(statedAt).UnixNano(), Links: link, Transaction: &entitlement.Transaction{Chain: "1", Recurring: true, StartsAt: at(-700).Unix(), EndsAt: at(0).Unix()}},
			entitlement.Object{Kind: entitlement.KindRenewal, ID: "1", By: entitlement.Web2Wave, At: at(statedAt).UnixNano(), Links: link, Renewal: &entitlement.Renewal{Phase: phase, WillRenew: true}},
			entitlement.Object{Kind: entitlement.KindCustomer, ID: "subscription:1", By: entitlement.Web2Wave, Links: link, Aliases: []entitlement.Alias{{Kind: entitlement.Web2WaveUser, Value: "user"}}, Customer: &entitlement.Customer{}})
	}
	token := "a-purchase-token"
	hash := "f2c7e1e8d2b3f2b5" // not the token's: another subscription of the same purchase
	play := func(statedAt float64, renews bool, chain string) entitlement.Evidence {
		link := []entitlement.Link{"google:1"}
		return entitlement.Evidence{}.Add(
			entitlement.Object{Kind: entitlement.KindTransaction, ID: "GPA.1", By: entitlement.Google, At: at(statedAt).UnixNano(), Links: link, Transaction: &entitlement.Transaction{Chain: chain, Recurring: true, StartsAt: at(-700).Unix(), EndsAt: at(0).Unix()}},
			entitlement.Object{Kind: entitlement.KindRenewal, ID: chain, By: entitlement.Google, At: at(statedAt).UnixNano(), Links: link, Renewal: &entitlement.Renewal{Phase: entitlement.PhaseActive, WillRenew: renews}},
			entitlement.Object{Kind: entitlement.KindRenewal, ID: token, By: entitlement.Google, At: at(statedAt).UnixNano(), Links: link, Renewal: &entitlement.Renewal{}})
	}
	sum := sha256.Sum256([]byte(token))
	own := hex.EncodeToString(sum[:]) + ":pro"
	in := func(e entitlement.Evidence, r entitlement.Renewal) entitlement.Evidence { // the same, standing so
		for _, o := range e.Objects {
			if o.Transaction != nil {
				o.Links, o.Kind, o.ID, o.At, o.Transaction, o.Renewal = e.Links, entitlement.KindRenewal, o.Transaction.Chain, o.At+1, nil, &r
				return e.Add(o)
			}
		}
		return e
	}
	hold := entitlement.Renewal{Phase: entitlement.PhaseBillingRetry, WillRenew: true}
	grace := entitlement.Renewal{Phase: entitlement.PhaseBillingGrace, WillRenew: true, GraceUntil: at(50).Unix()}
	pause := entitlement.Renewal{Phase: entitlement.PhasePaused, WillRenew: true, ResumesAt: at(90).Unix()}
	// A subscription that an aggregator told of, and of which others told at a time that its term ends at another.
	told := func(by entitlement.Provider, alias entitlement.AliasKind, renews bool, others ...float64) entitlement.Evidence {
		link := []entitlement.Link{"apple:1"}
		e := entitlement.Evidence{}.Add(
			entitlement.Object{Kind: entitlement.KindTransaction, ID: "2", By: by, At: at(-700).UnixNano(), Links: link, Transaction: &entitlement.Transaction{Chain: "1", Recurring: true, Store: entitlement.AppStore, StartsAt: at(-700).Unix(), EndsAt: at(0).Unix()}},
			entitlement.Object{Kind: entitlement.KindRenewal, ID: "1", By: by, At: at(-700).UnixNano(), Links: link, Renewal: &entitlement.Renewal{Phase: entitlement.PhaseActive, WillRenew: renews}},
			entitlement.Object{Kind: entitlement.KindRenewal, ID: "owner:1", By: by, At: at(2).UnixNano(), Links: link, Renewal: &entitlement.Renewal{}, Aliases: []entitlement.Alias{{Kind: alias, Value: "user"}}})
		if len(others) == 2 {
			e = e.Add(entitlement.Object{Kind: entitlement.KindTransaction, ID: "3", By: entitlement.Apple, At: at(others[0]).UnixNano(), Links: link, Transaction: &entitlement.Transaction{Chain: "1", Recurring: true, EndsAt: at(others[1]).Unix()}})
		}
		return e
	}
	revenueCat, adapty, iaptic := &provider.RevenueCatAPI{}, &provider.AdaptyAPI{}, &provider.IapticAPI{}
	for _, tt := range []struct {
		name     string
		poller   provider.Poller
		evidence entitlement.Evidence
		asked    float64 // hours after the end; -999 for never
		now      float64
		want     []string
	}{
		{"Web2Wave, before the charge", &provider.Web2WaveAPI{}, web2wave(-5, entitlement.PhaseActive), -999, 0.5, nil},
		{"Web2Wave, an hour after it", &provider.Web2WaveAPI{}, web2wave(-5, entitlement.PhaseActive), -999, 1, []string{"user"}},
		{"Web2Wave, asked since", &provider.Web2WaveAPI{}, web2wave(-5, entitlement.PhaseActive), 1, 3, nil},
		{"Web2Wave, asked before", &provider.Web2WaveAPI{}, web2wave(-5, entitlement.PhaseActive), 0.9, 1, []string{"user"}},
		{"Web2Wave, a message since", &provider.Web2WaveAPI{}, web2wave(2, entitlement.PhaseActive), -999, 3, nil},
		{"Web2Wave, a day later", &provider.Web2WaveAPI{}, web2wave(2, entitlement.PhaseActive), 4, 28, []string{"user"}},
		{"Web2Wave, over", &provider.Web2WaveAPI{}, web2wave(-5, entitlement.PhaseExpired), -999, 99, nil},
		{"Play, at the end", &provider.GoogleAPI{}, play(-5, true, own), -999, 0, nil},
		{"Play, some minutes after it", &provider.GoogleAPI{}, play(-5, true, own), -999, 0.1, []string{token}},
		{"Play, asked since", &provider.GoogleAPI{}, play(-5, true, own), 0.1, 30, nil},
		{"Play, an answer since", &provider.GoogleAPI{}, play(0.1, true, own), -999, 30, nil},
		{"Play, cancelled", &provider.GoogleAPI{}, play(-5, false, own), -999, 30, nil},
		{"Play, of another token", &provider.GoogleAPI{}, play(-5, true, hash+":pro"), -999, 30, nil},
		{"Play, at the end of a grace", &provider.GoogleAPI{}, in(play(-5, true, own), grace), 1, 50.1, []string{token}},
		{"Play, in a grace", &provider.GoogleAPI{}, in(play(-5, true, own), grace), 1, 50, nil},
		{"Play, at the end of a pause", &provider.GoogleAPI{}, in(play(-5, true, own), pause), 1, 90.1, []string{token}},
		{"Play, in a pause", &provider.GoogleAPI{}, in(play(-5, true, own), pause), 1, 90, nil},
		{"Play, asked since the pause", &provider.GoogleAPI{}, in(play(-5, true, own), pause), 90.1, 300, nil},
		{"Play, on hold for a day", &provider.GoogleAPI{}, in(play(1, true, own), hold), -999, 25, []string{token}},
		{"Play, on hold and asked today", &provider.GoogleAPI{}, in(play(1, true, own), hold), 25, 48, nil},
		{"Play, on hold and asked yesterday", &provider.GoogleAPI{}, in(play(1, true, own), hold), 25, 49, []string{token}},
		{"Play, on hold for longer than holds last", &provider.GoogleAPI{}, in(play(1, true, own), hold), -999, 61 * 24, nil},
		{"RevenueCat, some minutes after the end", revenueCat, told(entitlement.RevenueCat, entitlement.RevenueCatAppUser, true), -999, 0.2, nil},
		{"RevenueCat, a quarter of an hour after it", revenueCat, told(entitlement.RevenueCat, entitlement.RevenueCatAppUser, true), -999, 0.25, []string{"user"}},
		{"RevenueCat, asked since", revenueCat, told(entitlement.RevenueCat, entitlement.RevenueCatAppUser, true), 0.25, 300, nil},
		{"RevenueCat, cancelled", revenueCat, told(entitlement.RevenueCat, entitlement.RevenueCatAppUser, false), -999, 300, nil},
		{"RevenueCat, an answer since", revenueCat, in(told(entitlement.RevenueCat, entitlement.RevenueCatAppUser, true, 0.3, 0), pause), -999, 90, nil},
		{"RevenueCat, its store told of the next term", revenueCat, told(entitlement.RevenueCat, entitlement.RevenueCatAppUser, true, -1, 720), -999, 300, nil},
		{"RevenueCat, its store told something since", revenueCat, told(entitlement.RevenueCat, entitlement.RevenueCatAppUser, true, 1, -720), -999, 300, nil},
		{"RevenueCat, its store told of this term", revenueCat, told(entitlement.RevenueCat, entitlement.RevenueCatAppUser, true, -700, 0), -999, 300, []string{"user"}},
		{"RevenueCat, at the end of a pause", revenueCat, in(told(entitlement.RevenueCat, entitlement.RevenueCatAppUser, true), pause), 1, 91, []string{"user"}},
		{"Adapty, by a profile", adapty, told(entitlement.Adapty, entitlement.AdaptyProfile, true), -999, 1, []string{"user"}},
		{"Adapty, by the merchant's name", adapty, told(entitlement.Adapty, entitlement.AdaptyCustomerUser, true), -999, 1, []string{"user:user"}},
		{"Adapty, asked since", adapty, told(entitlement.Adapty, entitlement.AdaptyProfile, true), 1, 300, nil},
		{"iaptic", iaptic, told(entitlement.Iaptic, entitlement.IapticUsername, true), -999, 1, []string{"user"}},
		{"iaptic, asked since", iaptic, told(entitlement.Iaptic, entitlement.IapticUsername, true), 1, 300, nil},
		{"iaptic, a sale that nobody's name is on", iaptic, told(entitlement.Iaptic, entitlement.RevenueCatAppUser, true), -999, 1, nil},
		{"nothing known", &provider.Web2WaveAPI{}, entitlement.Evidence{}, -999, 30, nil},
	} {
		var got []string
		for _, d := range tt.poller.Due(tt.evidence, func(string) time.Time { return at(tt.asked) }, at(tt.now)) {
			got = append(got, d.ID)
		}
		if !slices.Equal(got, tt.want) {
			t.Errorf("%s: asks %v, want %v", tt.name, got, tt.want)
		}
	}
}
