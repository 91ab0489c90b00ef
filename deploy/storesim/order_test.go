package storesim

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/latchkey/latchkey/pkg/config"
	"github.com/latchkey/latchkey/pkg/entitlement"
	"github.com/latchkey/latchkey/writer"
)

// serverKeys are the writer's, by environment.
var serverKeys = map[Environment]string{Sandbox: "lk_sandbox_sk_aaaaaaaaaaaaaaaaaaaaaaaa", Production: "lk_production_sk_aaaaaaaaaaaaaaaaaaaaaaaa"}

// settleWithin is how long a writer may take until its answer is the oracle's: pulls keep to a rate, and a machine may have other work.
const settleWithin = time.Minute

// node is a writer of its own whose clock is a simulation's.
type node struct {
	url   string
	clock struct {
		sync.Mutex
		now func() time.Time
	}
	logs struct {
		sync.Mutex
		bytes.Buffer
	}
}

func (n *node) Write(p []byte) (int, error) {
	n.logs.Lock()
	defer n.logs.Unlock()
	return n.logs.Buffer.Write(p)
}

func (n *node) now() time.Time {
	n.clock.Lock()
	defer n.clock.Unlock()
	return n.clock.now()
}

func (n *node) follow(now func() time.Time) {
	n.clock.Lock()
	defer n.clock.Unlock()
	n.clock.now = now
}

// lastPort counts the ports that were looked at.
var lastPort atomic.Int64

// freeAddress is one on which nothing listens. It is below those that the system gives away, to a connection or to whoever asks for any: the writer takes it a moment later.
func freeAddress(t testing.TB) string {
	t.Helper()
	for range 1000 {
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", 4000+(int64(os.Getpid())*50+lastPort.Add(1))%6000))
		if err == nil {
			defer l.Close()
			return l.Addr().String()
		}
	}
	t.Fatal("no free port")
	return ""
}

// startNode runs a writer until the test ends. It has the environments that stores names, with the simulation's providers; their APIs are at the address
// there, unless it is empty.
func startNode(t testing.TB, stores map[Environment]string) *node {
	t.Helper()
	dir, err := os.MkdirTemp("", "lks") // the path of a unix socket is short
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	keys, catalog := filepath.Join(dir, "keys"), filepath.Join(dir, "catalog.json")
	var names []entitlement.Environment
	environments, sessionKeys := object{}, object{}
	must(t, os.WriteFile(catalog, testCatalog(), 0o600))
	for env, api := range stores {
		names = append(names, entitlement.Environment(env))
		environments[string(env)] = environmentSections(t, dir, catalog, env, api)
		sessionKeys[string(env)] = filepath.Join(keys, "session-"+string(env)+".key.pem")
	}
	must(t, writer.MakeKeys(keys, "testcluster", names))
	listen, internal, raft := freeAddress(t), freeAddress(t), freeAddress(t)
	b, err := yaml.Marshal(object{
		"node":         object{"id": "w1", "data_dir": filepath.Join(dir, "w1"), "cluster": "testcluster", "listen": listen, "internal_listen": internal, "raft_listen": raft},
		"cluster":      object{"voters": []object{{"id": "w1", "raft": raft, "internal": "http://" + internal}}},
		"keys":         object{"issuer_key_file": filepath.Join(keys, "issuer.key.pem"), "issuer_cert_file": filepath.Join(keys, "issuer.cert"), "session_key_files": sessionKeys},
		"trust":        object{"root_public_keys": []string{filepath.Join(keys, "root.pub.pem")}},
		"environments": environments,
	})
	must(t, err)
	path := filepath.Join(dir, "writer.yaml")
	must(t, os.WriteFile(path, b, 0o600))
	var cfg writer.Config
	must(t, config.Load(path, &cfg))
	n := &node{url: "http://" + listen}
	n.follow(time.Now)
	cfg.Now, cfg.Logger = n.now, slog.New(slog.NewJSONHandler(n, nil))
	w, err := writer.Open(cfg)
	must(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("writer: %v", err)
		}
		if t.Failed() {
			n.logs.Lock()
			defer n.logs.Unlock()
			t.Logf("the writer's log ends with\n%s", n.logs.String()[max(0, n.logs.Len()-3000):])
		}
	})
	poll(t, "a writer that is ready and has its catalog", func() bool {
		status, _ := n.get(t, "/readyz")
		for env := range stores {
			_, catalog := n.ask(t, env, http.MethodGet, "/v1/catalog", nil)
			if !strings.Contains(string(catalog), "price_lifetime") {
				return false
			}
		}
		return status == http.StatusOK
	})
	return n
}

// environmentSections are a writer's settings of an environment, whose files lie in dir.
func environmentSections(t testing.TB, dir, catalog string, env Environment, api string) object {
	t.Helper()
	c := credentials[env]
	jwks := filepath.Join(dir, "jwks-"+string(env)+".json")
	must(t, os.WriteFile(jwks, encode(testSim(t, 1).JWKS(env)), 0o600))
	stripe := object{"webhook_secrets": []string{c.Stripe.WebhookSecret}}
	google := object{"package": c.Google.Package, "audience": c.Google.Audience, "email": c.Google.Email, "jwks_file": jwks}
	sections := object{
		"audience": "com.example.app/" + string(env), "catalog_file": catalog, "api_keys": []object{{"name": "server", "scope": "sk", "key": serverKeys[env]}},
		"stripe": stripe, "google": google,
		"apple": object{"bundle_id": c.Apple.BundleID, "app_apple_id": c.Apple.AppAppleID, "root_ca_files": []string{c.Apple.RootFile}},
	}
	for provider, section := range aggregatorSections(c) {
		sections[provider] = section
	}
	if api != "" {
		stripe["api_key"], stripe["api_base"] = c.Stripe.APIKey, api
		account, err := c.Google.ServiceAccount(api + "/token")
		must(t, err)
		google["service_account"], google["api_base"], google["token_url"] = string(account), api, api+"/token"
		apple := sections["apple"].(object)
		key, err := os.ReadFile(c.Apple.APIKeyFile)
		must(t, err)
		apple["api_key"], apple["api_key_id"], apple["api_issuer_id"], apple["api_base"] = string(key), c.Apple.APIKeyID, c.Apple.IssuerID, api
		web2wave := sections["web2wave"].(object)
		web2wave["api_key"], web2wave["api_base"] = c.Web2Wave.APIKey, api+"/api"
		adapty := sections["adapty"].(object)
		adapty["api_key"], adapty["api_base"], adapty["write_grants"] = c.Adapty.SecretKey, api, true
		revenueCat := sections["revenuecat"].(object)
		revenueCat["api_key_v1"], revenueCat["api_base"] = c.RevenueCat.APIKey, api
	}
	return sections
}

// poll waits for what nothing announces.
func poll(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(settleWithin); !ok(); <-time.After(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within %s: %s", settleWithin, what)
		}
	}
}

// testCatalog maps every product that the simulation sells.
func testCatalog() []byte {
	providers := map[Store]string{StripeStore: "stripe", AppStore: "apple", PlayStore: "google"}
	var products []object
	for _, p := range DefaultProducts {
		o := object{"provider": providers[p.Store], "product_id": p.ID, "kind": string(p.Kind)}
		if p.Entitlement != "" {
			o["entitlements"] = []string{p.Entitlement}
		} else {
			o["credits"] = object{"coins": 100}
		}
		products = append(products, o)
	}
	return encode(object{"products": products, "aggregator_entitlements": []object{{"provider": "revenuecat", "id": "pro", "entitlement": "pro"}, {"provider": "adapty", "id": "premium", "entitlement": "pro"}}})
}

func (n *node) get(t testing.TB, path string) (int, []byte) {
	return n.ask(t, Sandbox, http.MethodGet, path, nil)
}

func (n *node) ask(t testing.TB, env Environment, method, path string, body any) (int, []byte) {
	t.Helper()
	var sent io.Reader
	if body != nil {
		sent = bytes.NewReader(encode(body))
	}
	r, err := http.NewRequestWithContext(t.Context(), method, n.url+path, sent)
	must(t, err)
	r.Header.Set("Authorization", "Bearer "+serverKeys[env])
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		return 0, nil // not up yet
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	must(t, err)
	return res.StatusCode, b
}

// newAccount makes an account at the writer.
func (n *node) newAccount(t testing.TB, env Environment) string {
	t.Helper()
	status, b := n.ask(t, env, http.MethodPost, "/v1/accounts", object{})
	var made struct {
		ID string `json:"account_id"`
	}
	if err := json.Unmarshal(b, &made); err != nil || status != http.StatusCreated {
		t.Fatalf("POST /v1/accounts: status %d, %s", status, b)
	}
	return made.ID
}

// entitled asks the writer what the oracle is asked.
func (n *node) entitled(t testing.TB, account string) (active bool, answer string) {
	t.Helper()
	_, b := n.get(t, "/v1/accounts/"+account+"/entitlements")
	var said struct {
		Entitlements []struct {
			ID     string `json:"id"`
			Active bool   `json:"active"`
		} `json:"entitlements"`
	}
	if err := json.Unmarshal(b, &said); err != nil {
		t.Fatalf("entitlements of %s: %v: %s", account, err, b)
	}
	for _, e := range said.Entitlements {
		if e.ID == "pro" && e.Active {
			return true, string(b)
		}
	}
	return false, string(b)
}

// TestAnyOrderComesToTheOraclesWord plays random histories of each provider against a real writer over HTTP, by its webhooks alone (Google's, which
// prove nothing, and Web2Wave's, which do not say whose they are, make the writer ask): every message is delayed, many come twice, many behind later ones. Whenever all of them have come, the writer's
// answer is the oracle's (R23, R128).
func TestAnyOrderComesToTheOraclesWord(t *testing.T) {
	for _, provider := range ready {
		t.Run(string(provider), func(t *testing.T) {
			t.Parallel()
			var stores http.Handler
			var mu sync.Mutex
			front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				mu.Lock()
				h := stores
				mu.Unlock()
				h.ServeHTTP(w, r)
			}))
			defer front.Close()
			stores = http.NotFoundHandler()
			asked := ""
			if provider == Google || provider == Web2Wave {
				asked = front.URL
			}
			n := startNode(t, map[Environment]string{Sandbox: asked})
			begin := time.Now()
			for seed := uint64(1); seed <= 2; seed++ {
				s := New(Config{Seed: seed, Start: begin, Credentials: credentials, Writers: []string{n.url}, Logger: slog.New(slog.DiscardHandler)})
				n.follow(s.Now)
				mu.Lock()
				stores = s.Stores(Sandbox)
				mu.Unlock()
				history(t, n, s, provider, rand.New(rand.NewPCG(seed, 9)))
				begin = s.Now().Add(time.Second) // a writer's clock never goes back
			}
		})
	}
}

// history plays rounds of a random history and compares after each.
func history(t *testing.T, n *node, s *Sim, provider Provider, dice *rand.Rand) {
	t.Helper()
	var accounts, ids []string
	for range 4 {
		accounts = append(accounts, n.newAccount(t, Sandbox))
	}
	for round := range 4 {
		s.SetChaos(Chaos{Delay: Duration(18 * time.Hour), Reorder: 0.5, Repeat: 0.4})
		for range 8 {
			ids = step(t, s, provider, accounts, ids, dice)
			s.pass(t, time.Duration(dice.IntN(12*24))*time.Hour+time.Duration(dice.IntN(3600))*time.Second+time.Second)
		}
		s.SetChaos(Chaos{})
		s.pass(t, 3*day+2*time.Hour) // what was held has come by then
		compare(t, n, s, accounts, fmt.Sprintf("round %d", round))
	}
}

func step(t *testing.T, s *Sim, provider Provider, accounts, ids []string, dice *rand.Rand) []string {
	t.Helper()
	id := ""
	if len(ids) > 0 {
		id = ids[dice.IntN(len(ids))]
	}
	var err error
	switch n := dice.IntN(10); {
	case n < 3 || id == "":
		var p Purchase
		tells := provider != Web2Wave && dice.IntN(2) == 0 // and Latchkey takes both for one sale
		p, err = s.Buy(Order{Provider: provider, Account: accounts[dice.IntN(len(accounts))], Product: monthly[provider], StoreTells: tells})
		if err == nil {
			ids = append(ids, p.ID)
		}
	case n < 6:
		err = s.Cancel(id)
	case n == 6:
		err = s.Resume(id)
	case n == 7:
		err = s.Refund(id, -1, 0)
	case n == 8:
		_, err = s.Resubscribe(id)
	case provider == Iaptic || provider == Web2Wave: // they do not tell when a grace ends
	case dice.IntN(2) == 0:
		err = s.FailCard(id)
	default:
		err = s.Recover(id)
	}
	if err != nil && !errors.Is(err, ErrRefused) {
		t.Fatal(err)
	}
	return ids
}

// compare holds the writer's word to the oracle's, of every account, now.
func compare(t *testing.T, n *node, s *Sim, accounts []string, when string) {
	t.Helper()
	for _, account := range accounts {
		deadline := time.Now().Add(settleWithin)
		for {
			want := s.Ledger().EntitledBy(DefaultPromises, Sandbox, account, "pro", s.Now())
			got, answer := n.entitled(t, account)
			if got == (len(want) > 0) {
				break
			}
			if time.Now().After(deadline) {
				_, unclaimed := n.get(t, "/v1/unclaimed")
				t.Errorf("%s, %s: the writer says %t, the oracle %v\nfacts:\n%s\nanswer: %s\nunclaimed: %s", when, s.Now(), got, want, factsOf(s, account), answer, unclaimed)
				return
			}
			<-time.After(20 * time.Millisecond)
			s.pass(t, time.Second) // an answer of a provider has the version of a whole second
		}
	}
}

// factsOf is the ledger of what an account ever owned, for people.
func factsOf(s *Sim, account string) string {
	l := s.Ledger()
	var b strings.Builder
	for _, f := range l.Facts {
		if l.Sold[f.Purchase].Owner == account {
			fmt.Fprintf(&b, "%s %s %s term %d until %s %s\n", f.At.Format(time.DateTime), f.Purchase, f.Kind, f.Term, f.Until.Format(time.DateTime), f.Reason)
		}
	}
	for _, m := range s.Messages() {
		if l.Sold[m.Purchase].Owner == account {
			fmt.Fprintf(&b, "message %s %s %s %v\n", m.At.Format(time.DateTime), m.Purchase, m.Type, m.Attempts)
		}
	}
	return b.String()
}

// ready are the providers that the writer understands.
var ready = []Provider{Stripe, Apple, Google, Adapty, Iaptic, Web2Wave, RevenueCat}

// aggregatorSections are the writer's settings of those that are no stores.
func aggregatorSections(c *Credentials) map[string]object {
	return map[string]object{
		"adapty":     {"authorizations": []string{c.Adapty.Authorization}},
		"iaptic":     {"passwords": []string{c.Iaptic.Password}},
		"web2wave":   {"webhook_tokens": []string{c.Web2Wave.Token}},
		"revenuecat": {"authorizations": []string{c.RevenueCat.Authorization}, "signing_secrets": []string{c.RevenueCat.SigningSecret}},
	}
}
