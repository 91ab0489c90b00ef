package main

import (
	"errors"
	"net/http"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/latchkey/latchkey/pkg/config"
	"github.com/latchkey/latchkey/pkg/entitlement"
	"github.com/latchkey/latchkey/writer"
	"github.com/latchkey/latchkey/writer/internal/provider"
)

// The test messages of the aggregators and of Web2Wave are what their adapters take, and give the account what a subscription would (R27, R136).
func TestAggregatorsTestMessages(t *testing.T) {
	adapty, err := provider.NewAdapty(provider.AdaptyConfig{Authorizations: []string{"Bearer a"}})
	if err != nil {
		t.Fatal(err)
	}
	iaptic, err := provider.NewIaptic(provider.IapticConfig{Passwords: []string{"p"}})
	if err != nil {
		t.Fatal(err)
	}
	web2wave, err := provider.NewWeb2Wave(provider.Web2WaveConfig{Tokens: []string{"t"}})
	if err != nil {
		t.Fatal(err)
	}
	revenueCat, err := provider.NewRevenueCat(provider.RevenueCatConfig{Authorizations: []string{"Bearer r"}})
	if err != nil {
		t.Fatal(err)
	}
	const account = "acc_01JD0000000000000000000001"
	cfg := writer.EnvironmentConfig{Adapty: &writer.AdaptyConfig{Authorizations: []config.Secret{"Bearer a"}}, Iaptic: &writer.IapticConfig{Passwords: []config.Secret{"p"}},
		Web2Wave: &writer.Web2WaveConfig{WebhookTokens: []config.Secret{"t"}}, RevenueCat: &writer.RevenueCatConfig{Authorizations: []config.Secret{"Bearer r"}}}
	for _, adapter := range []provider.Adapter{adapty, iaptic, web2wave, revenueCat} {
		name := string(adapter.Provider())
		for _, env := range entitlement.Environments {
			order := testOrder{cfg: cfg, env: env, account: account, price: "price_1", now: time.Now()}
			header, body, err := testMessages[name](order)
			if err != nil {
				t.Fatal(err)
			}
			if err := adapter.Verify(provider.Request{Header: headerOf(header), Body: body}, order.now); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			ev, err := adapter.Parse(body, env)
			if err != nil || ev.Kind != entitlement.Proof || ev.Environment != env {
				t.Fatalf("%s, %s: %+v, %v", name, env, ev, err)
			}
			e := entitlement.Evidence{}.Add(ev.Objects...)
			if p := entitlement.Fold(e, entitlement.Policy{}); !means(e.Identity(), account) || p.Items[0].State != entitlement.Live || p.Items[0].Term.Product != "price_1" || !p.Items[0].WillRenew {
				t.Errorf("%s, %s: %+v of %s", name, env, p, e.Identity().Account)
			}
		}
		if _, _, err := testMessages[name](testOrder{}); !errors.Is(err, errNotConfigured) {
			t.Errorf("%s without a configuration: %v", name, err)
		}
	}
}

// headerOf is what an adapter is shown of header lines.
func headerOf(lines []string) http.Header {
	h := http.Header{}
	for _, line := range lines {
		name, value, _ := strings.Cut(line, ": ")
		h.Add(name, value)
	}
	return h
}

// TestAShellSendsWhatIsPrinted: a secret or a price with a quote in it too.
func TestAShellSendsWhatIsPrinted(t *testing.T) {
	url, header, body := "http://127.0.0.1:1/x", []string{"Authorization: it's \\ \"$HOME\" `id`", "Second: !"}, []byte(`{"price": "a'b''c\\n$(id)"}`)
	want := []string{"-sS", "-X", "POST", url, "-H", header[0], "-H", header[1], "--data-binary", string(body)}
	out, err := exec.CommandContext(t.Context(), "sh", "-c", `curl() { for word; do printf '%s\n' "$word"; done; }`+"\n"+curl(url, header, body)).CombinedOutput()
	if got := strings.Split(strings.TrimSuffix(string(out), "\n"), "\n"); err != nil || !slices.Equal(got, want) {
		t.Errorf("curl is called with %q, %v, want %q", got, err, want)
	}
}

// means reports whether a purchase is an account's: by its id, or by the customer's name, which the account must have at Web2Wave.
func means(i entitlement.Identity, account entitlement.AccountID) bool {
	return i.Account == account || slices.Contains(i.Aliases, entitlement.Alias{Kind: entitlement.Web2WaveUser, Value: string(account)})
}
