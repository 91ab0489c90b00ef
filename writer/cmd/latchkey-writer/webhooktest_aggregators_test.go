package main

import (
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/latchkey/latchkey/pkg/config"
	"github.com/latchkey/latchkey/pkg/entitlement"
	"github.com/latchkey/latchkey/writer"
	"github.com/latchkey/latchkey/writer/internal/provider"
)

// The test messages of Adapty and iaptic are what their adapters take, and give the account what a subscription would.
func TestAggregatorsTestMessages(t *testing.T) {
	adapty, err := provider.NewAdapty(provider.AdaptyConfig{Authorizations: []string{"Bearer a"}})
	if err != nil {
		t.Fatal(err)
	}
	iaptic, err := provider.NewIaptic(provider.IapticConfig{Passwords: []string{"p"}})
	if err != nil {
		t.Fatal(err)
	}
	const account = "acc_01JD0000000000000000000001"
	cfg := writer.EnvironmentConfig{Adapty: &writer.AdaptyConfig{Authorizations: []config.Secret{"Bearer a"}}, Iaptic: &writer.IapticConfig{Passwords: []config.Secret{"p"}}}
	for _, adapter := range []provider.Adapter{adapty, iaptic} {
		name := string(adapter.Provider())
		for _, env := range entitlement.Environments {
			order := testOrder{cfg: cfg, env: env, account: account, price: "price_1", now: time.Now()}
			header, body, err := testMessages[name](order)
			if err != nil {
				t.Fatal(err)
			}
			key, value, _ := strings.Cut(header, ": ")
			if err := adapter.Verify(provider.Request{Header: http.Header{key: {value}}, Body: body}, order.now); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			ev, err := adapter.Parse(body, env)
			if err != nil || ev.Kind != entitlement.Proof || ev.Environment != env {
				t.Fatalf("%s, %s: %+v, %v", name, env, ev, err)
			}
			e := entitlement.Evidence{}.Add(ev.Objects...)
			if p := entitlement.Fold(e, entitlement.Policy{}); e.Identity().Account != account || p.Items[0].State != entitlement.Live || p.Items[0].Term.Product != "price_1" || !p.Items[0].WillRenew {
				t.Errorf("%s, %s: %+v of %s", name, env, p, e.Identity().Account)
			}
		}
		if _, _, err := testMessages[name](testOrder{}); !errors.Is(err, errNotConfigured) {
			t.Errorf("%s without a configuration: %v", name, err)
		}
	}
}
