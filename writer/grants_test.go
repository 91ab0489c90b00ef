package writer

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/latchkey/latchkey/pkg/config"
	"github.com/latchkey/latchkey/pkg/entitlement"
)

// adaptyLevels is Adapty's API of one profile, which it does not know before the first unknown questions, and that takes no order before limited ones.
type adaptyLevels struct {
	*httptest.Server
	mu               sync.Mutex
	unknown, limited int
	levels           map[string]string // ends, by level
	asked, told      []string          // users, and what was done
}

func startAdaptyLevels(t *testing.T) *adaptyLevels {
	a := &adaptyLevels{levels: map[string]string{}}
	a.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.asked = append(a.asked, r.Header.Get("adapty-customer-user-id"))
		if a.unknown--; a.unknown >= 0 {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		if r.Method == http.MethodPost {
			if a.limited--; a.limited >= 0 {
				w.Header().Set("Retry-After", "1")
				w.WriteHeader(http.StatusTooManyRequests)
				return
			}
			var body map[string]string
			if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
				w.WriteHeader(http.StatusBadRequest)
				return
			}
			if end := body["expires_at"]; end != "" {
				a.levels[body["access_level_id"]] = end
			} else {
				delete(a.levels, body["access_level_id"])
			}
			a.told = append(a.told, strings.Split(strings.TrimPrefix(r.URL.Path, "/api/v2/server-side-api/purchase/profile/"), "/")[0]+" "+body["access_level_id"])
		}
		levels := []object{}
		for level, end := range a.levels {
			levels = append(levels, object{"access_level_id": level, "store": "adapty", "store_product_id": "adapty_server_side_product", "expires_at": end})
		}
		b, _ := json.Marshal(object{"data": object{"profile_id": "p", "access_levels": levels}})
		w.Write(b)
	}))
	t.Cleanup(a.Close)
	return a
}

func (a *adaptyLevels) done() (asked, told []string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.asked), slices.Clone(a.told)
}

// A grant is passed on to Adapty although it asks for patience and does not know the customer yet, once; taken back it is taken back there; an account that
// was erased is not passed on; and nothing is unless it is switched on (R25).
func TestGrantsArePassedOn(t *testing.T) {
	a := startAdaptyLevels(t)
	a.unknown, a.limited = 1, 1
	cfg := testConfigs(t, 1)[0]
	both := cfg.Environments[entitlement.Sandbox]
	both.Adapty = &AdaptyConfig{Authorizations: []config.Secret{adaptyAuthorization}, APIKey: "secret_live_canary", APIBase: a.URL, WriteGrants: true}
	cfg.Environments[entitlement.Sandbox] = both
	w := startWriter(t, cfg)
	w.awaitReady()
	account := w.account()
	put := w.api("POST", "/v1/accounts/"+account+"/grants", `{"entitlement": "pro", "duration_days": 30}`)
	await(t, "an account is owed", func() bool { return w.metric(`latchkey_writer_grants_owed{environment="sandbox"}`) == "1" })
	if asked, told := a.done(); len(told) != 0 {
		t.Errorf("before the catalog says what it is called there: asked %v, told %v", asked, told)
	}
	w.api("PUT", "/v1/catalog", `{"products": [], "aggregator_entitlements": [{"provider": "adapty", "id": "premium", "entitlement": "pro"}]}`)
	settled := func(when string, want ...string) {
		t.Helper()
		await(t, when, func() bool {
			_, told := a.done()
			return fmt.Sprint(told) == fmt.Sprint(want) && w.metric(`latchkey_writer_grants_owed{environment="sandbox"}`) == "0"
		})
	}
	settled("granted there", "grant premium")
	if asked, _ := a.done(); slices.ContainsFunc(asked, func(user string) bool { return user != account }) {
		t.Errorf("asked about %v, want %s alone", asked, account)
	}
	for outcome, want := range map[string]string{"granted": "1", "failed": "1"} {
		if got := w.metric(`latchkey_writer_grants_passed_on_total{outcome="` + outcome + `"}`); got != want {
			t.Errorf("%s: counted %s, want %s", outcome, got, want)
		}
	}
	w.api("DELETE", "/v1/accounts/"+account+"/grants/"+put.str("grant_id"), "")
	settled("revoked there", "grant premium", "revoke premium")

	a.mu.Lock()
	a.unknown = 1 << 20
	a.mu.Unlock()
	w.api("POST", "/v1/accounts/"+account+"/grants", `{"entitlement": "pro", "duration_days": 30}`)
	await(t, "nobody is known there", func() bool { return w.metric(`latchkey_writer_grants_owed{environment="sandbox"}`) == "1" })
	w.api("DELETE", "/v1/accounts/"+account, "")
	settled("erased", "grant premium", "revoke premium")
	if log := w.logs.String(); strings.Contains(log, "canary") {
		t.Errorf("the log has the key: %s", log)
	}
}

func TestGrantsAreNotPassedOnUnlessSwitchedOn(t *testing.T) {
	a := startAdaptyLevels(t)
	cfg := testConfigs(t, 1)[0]
	sandbox := cfg.Environments[entitlement.Sandbox]
	sandbox.Adapty = &AdaptyConfig{Authorizations: []config.Secret{adaptyAuthorization}, APIKey: "secret_live_canary", APIBase: a.URL}
	cfg.Environments[entitlement.Sandbox] = sandbox
	w := startWriter(t, cfg)
	w.awaitReady()
	w.api("PUT", "/v1/catalog", `{"products": [], "aggregator_entitlements": [{"provider": "adapty", "id": "premium", "entitlement": "pro"}]}`)
	w.api("POST", "/v1/accounts/"+w.account()+"/grants", `{"entitlement": "pro", "duration_days": 30}`)
	if w.granter(entitlement.Sandbox) != nil || w.metric(`latchkey_writer_grants_owed{environment="sandbox"}`) != "0" {
		t.Error("grants are passed on")
	}
	if asked, _ := a.done(); len(asked) > 0 {
		t.Errorf("asked %v", asked)
	}
	section := *sandbox.Adapty
	section.APIKey, section.WriteGrants = "", true
	var m config.Mistakes
	section.validate(entitlement.Sandbox, "adapty", &m)
	if text := fmt.Sprint(m.Err()); !strings.Contains(text, "adapty.write_grants") {
		t.Errorf("without a key: %s", text)
	}
}
