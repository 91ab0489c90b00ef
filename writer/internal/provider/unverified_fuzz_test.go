package provider

import (
	"crypto/rand"
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/latchkey/latchkey/pkg/entitlement"
	"github.com/latchkey/latchkey/writer/internal/provider/appletest"
)

// FuzzUnverified: whatever is sent under whatever header, no adapter takes it for its provider's unless the secret itself is in it. What is not verified is
// never read: see the writer's way of a webhook.
func FuzzUnverified(f *testing.F) {
	secret := "whsec_" + rand.Text() // which no seed and no earlier run has
	authority := appletest.New(f)
	web2wave, err := NewWeb2Wave(Web2WaveConfig{Tokens: []string{secret}})
	if err != nil {
		f.Fatal(err)
	}
	adapty, err := NewAdapty(AdaptyConfig{Authorizations: []string{secret}})
	if err != nil {
		f.Fatal(err)
	}
	iaptic, err := NewIaptic(IapticConfig{Passwords: []string{secret}})
	if err != nil {
		f.Fatal(err)
	}
	adapters := []Adapter{
		newStripe(f, secret), newApple(f, authority.Root), fixedGoogle(f), newRevenueCat(f, RevenueCatConfig{Authorizations: []string{secret}}),
		newRevenueCat(f, RevenueCatConfig{SigningSecrets: []string{secret}}), adapty, iaptic, web2wave,
	}
	body := samples(f)["renewal"]
	f.Add("t=1795305600,v1=7151e3e3951a8dce3331c0d393933280d89cd2b2280ef3dd6b3dfc584f80c2bc", body, int64(1795305600))
	f.Add("t=1795305600,v1=,v0=00", `{"password":"","type":"purchases.updated"}`, int64(1795305600))
	f.Add("Bearer eyJhbGciOiJub25lIn0.e30.", `{"message":{"data":"e30=","messageId":"1"}}`, pushTime.Unix())
	f.Add("Bearer eyJhbGciOiJIUzI1NiIsImtpZCI6ImtleS0xIn0.e30.AAAA", `{"signedPayload":"eyJhbGciOiJub25lIn0.e30."}`, pushTime.Unix())
	f.Add("", string(unsigned(f, appleSample)), int64(appleSigned/1000))
	f.Add("", string(appletest.New(f).Notification(f, appleSample)), int64(appleSigned/1000)) // by a root that is not ours
	f.Fuzz(func(t *testing.T, header, body string, at int64) {
		if strings.Contains(header, secret) || strings.Contains(body, secret) {
			return
		}
		h := http.Header{}
		for _, name := range []string{"Authorization", stripeSignatureHeader, web2waveTokenHeader, RevenueCatSignatureHeader} {
			h.Set(name, header)
		}
		for _, a := range adapters {
			for _, r := range []Request{{Header: h, Body: []byte(body)}, {Header: http.Header{}, Body: []byte(body)}} {
				if err := a.Verify(r, time.Unix(at, 0)); err == nil {
					t.Errorf("%s takes %q with %q", a.Provider(), body, header)
				}
			}
		}
	})
}

// FuzzImports: however a row of an export is broken, nothing panics, and what is kept of it is whole and small.
func FuzzImports(f *testing.F) {
	adaptyHeader := strings.Split(adaptyColumns, ",")
	rc, err := NewRevenueCatImport(RevenueCatScheduled, strings.Split(rcColumns, ","))
	if err != nil {
		f.Fatal(err)
	}
	customers, err := NewRevenueCatImport(RevenueCatCustomers, strings.Split("app_user_id;last_seen_at;latest_store;latest_product;latest_expiration_date", ";"))
	if err != nil {
		f.Fatal(err)
	}
	events, err := NewAdaptyImport(AdaptyEvents, adaptyHeader)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(strings.Join(rcRow(nil), "\x1f"))
	f.Add(strings.Join(rcRow(map[string]string{"end_time": "9999-99-99 99:99:99", "refunded_at": "2026-09-05 00:00:00"}), "\x1f"))
	f.Add(strings.Join([]string{rcAccount, "1788220800000", "app_store", "com.example.pro_monthly", "1790812800000"}, "\x1f"))
	f.Add(strings.Join([]string{adaptyBuyer, "subscription_started", "2026-11-01 08:20:11.000000", "2000000912345678", "2000000912345678", "2026-12-01 08:20:11.000000", "Production", "9.99", adaptyAccountA,
		"app_store", "com.example.pro_monthly", "", "", "", "{}"}, "\x1f"))
	f.Add(strings.Repeat("\x1f", 40))
	f.Fuzz(func(t *testing.T, text string) {
		row := strings.Split(text, "\x1f")
		_, _ = NewRevenueCatImport(RevenueCatScheduled, row) // as a header
		_, _ = NewAdaptyImport(AdaptyEvents, row)
		faults := []func([]string) []string{rc.Faults, customers.Faults, events.Faults}
		for n, read := range []func([]string, entitlement.Environment) entitlement.Event{rc.Event, customers.Event, events.Event} {
			ev := read(row, entitlement.Production)
			if ev.Kind != entitlement.Proof {
				if ev.Kind == entitlement.Unreadable && len(faults[n](row)) == 0 {
					t.Fatalf("a row is not understood, and nothing is wrong with it: %q", row)
				}
				if len(ev.Objects) > 0 {
					t.Fatalf("a row that proves nothing proves something: %s", show(ev))
				}
				continue
			}
			if n := len(entitlement.Encode(&ev)); n > 16<<10 || !json.Valid(ev.Raw) {
				t.Fatalf("%d bytes are kept of %d, %q", n, len(text), ev.Raw)
			}
			checkWhole(t, ev)
		}
	})
}
