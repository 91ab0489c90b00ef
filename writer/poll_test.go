package writer

import (
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"strconv"
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
