package writer

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/stripe/stripe-go/v76/webhook"

	"github.com/latchkey/latchkey/pkg/config"
	"github.com/latchkey/latchkey/pkg/entitlement"
	"github.com/latchkey/latchkey/pkg/openapi/openapitest"
)

// What the test clusters are configured with.
const (
	testCluster   = "testcluster"
	serverKey     = "lk_sandbox_sk_aaaaaaaaaaaaaaaaaaaaaaaa"
	readKey       = "lk_sandbox_rk_bbbbbbbbbbbbbbbbbbbbbbbb"
	publicKey     = "lk_sandbox_pk_cccccccccccccccccccccccc"
	productionKey = "lk_production_sk_dddddddddddddddddddd"
	stripeSecret  = "whsec_canary_of_the_tests"
	stripeSecret2 = "whsec_the_next_one"
	// awaitTimeout is how long the tests wait for what must come: far above what it takes on a busy machine.
	awaitTimeout = time.Minute
)

const testCatalog = `{"products": [
 {"provider": "stripe", "product_id": "price_pro", "kind": "subscription", "entitlements": ["pro"], "plan": "pro_monthly", "group": "pro"},
 {"provider": "stripe", "product_id": "price_life", "kind": "non_consumable", "entitlements": ["pro"], "plan": "lifetime", "group": "pro"}]}`

// testWriter is a running writer, over HTTP as anybody reaches it.
type testWriter struct {
	*Writer
	t    testing.TB
	url  string
	logs *logBuffer
	stop func() // and wait
}

// logBuffer collects what is logged.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// testConfigs returns the configurations of n writers of one cluster, on addresses that are taken already. A folder of its own and
// not t.TempDir: the path of a unix socket may have 100 bytes only.
func testConfigs(t testing.TB, n int) []Config {
	t.Helper()
	dir, err := os.MkdirTemp("", "lkw")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	keys := filepath.Join(dir, "keys")
	if err := MakeKeys(keys, testCluster, entitlement.Environments); err != nil {
		t.Fatal(err)
	}
	catalog := filepath.Join(dir, "catalog.json")
	if err := os.WriteFile(catalog, []byte(testCatalog), 0o600); err != nil {
		t.Fatal(err)
	}
	configs := make([]Config, n)
	var voters []VoterConfig
	for i := range configs {
		c := &configs[i]
		c.listeners = listeners{public: loopback(t), internal: loopback(t), raft: loopback(t)}
		id := fmt.Sprintf("w%d", i+1)
		voters = append(voters, VoterConfig{ID: id, Raft: c.listeners.raft.Addr().String(), Internal: "http://" + c.listeners.internal.Addr().String()})
		c.Node = NodeConfig{ID: id, DataDir: filepath.Join(dir, id), Cluster: testCluster,
			Listen: c.listeners.public.Addr().String(), InternalListen: c.listeners.internal.Addr().String(), RaftListen: c.listeners.raft.Addr().String()}
		c.Keys = KeysConfig{IssuerKeyFile: filepath.Join(keys, issuerKeyFile), IssuerCertFile: filepath.Join(keys, issuerCertFile),
			SessionKeyFiles: map[entitlement.Environment]string{}}
		contacts, err := os.ReadFile(filepath.Join(keys, contactKeyFile))
		if err != nil {
			t.Fatal(err)
		}
		c.Contacts.Key = config.Secret(strings.TrimSpace(string(contacts)))
		c.Trust.RootPublicKeys = []string{filepath.Join(keys, rootPublicFile), filepath.Join(keys, sparePublicFile)}
		c.ManageURLs = map[entitlement.Provider]string{entitlement.Stripe: "https://billing.example.com/manage"}
		c.Environments = map[entitlement.Environment]EnvironmentConfig{}
		for _, env := range entitlement.Environments {
			c.Keys.SessionKeyFiles[env] = filepath.Join(keys, fmt.Sprintf(sessionKeyPattern, env))
		}
		c.Environments[entitlement.Sandbox] = EnvironmentConfig{
			Audience: "com.example.app/sandbox", CatalogFile: catalog,
			APIKeys: []APIKeyConfig{{"server", scopeServer, serverKey}, {"reader", scopeRead, readKey}, {"app", scopePublishable, publicKey}},
			Stripe:  &StripeConfig{WebhookSecrets: []config.Secret{stripeSecret, stripeSecret2}},
		}
		c.Environments[entitlement.Production] = EnvironmentConfig{
			Audience: "com.example.app", CatalogFile: catalog, APIKeys: []APIKeyConfig{{"server", scopeServer, productionKey}},
			Stripe: &StripeConfig{WebhookSecrets: []config.Secret{"whsec_production"}},
		}
		c.heartbeat = 300 * time.Millisecond
		if n > 1 { // or a busy machine elects for nothing
			c.heartbeat = time.Second
		}
	}
	for i := range configs {
		configs[i].Cluster.Voters = voters
	}
	return configs
}

// lastPort counts the ports that were looked at.
var lastPort atomic.Int64

// loopback listens on a port below those that the system gives away, to a connection or to whoever asks for any: a writer that starts again finds it free.
func loopback(t testing.TB) net.Listener {
	t.Helper()
	for range 1000 {
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", 16000+(int64(os.Getpid())*50+lastPort.Add(1))%4000))
		if err == nil {
			t.Cleanup(func() { l.Close() })
			return l
		}
	}
	t.Fatal("no free port")
	return nil
}

// startWriter opens and runs a writer until the test ends.
func startWriter(t testing.TB, cfg Config) *testWriter {
	t.Helper()
	logs := &logBuffer{}
	cfg.Logger = slog.New(slog.NewJSONHandler(logs, &slog.HandlerOptions{Level: slog.LevelDebug}))
	if cfg.fatal == nil {
		cfg.fatal = func(err error) { t.Errorf("%s: fatal: %v", cfg.Node.ID, err) }
	}
	w, err := Open(cfg)
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()
	stop := sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("%s: Run: %v", cfg.Node.ID, err)
		}
	})
	t.Cleanup(func() {
		stop()
		if t.Failed() {
			t.Logf("log of %s:\n%s", cfg.Node.ID, tail(logs.String(), 6000))
		}
	})
	url := "http://" + w.PublicAddr().String()
	openapitest.Watch(t, url, openapitest.Writer)
	return &testWriter{Writer: w, t: t, url: url, logs: logs, stop: stop}
}

func tail(s string, n int) string { return s[max(0, len(s)-n):] }

// oneWriter starts a cluster of one and waits until it answers.
func oneWriter(t testing.TB) *testWriter {
	t.Helper()
	w := startWriter(t, testConfigs(t, 1)[0])
	w.awaitReady()
	return w
}

// await polls until ok, because nothing announces what is awaited.
func await(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(awaitTimeout)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("not within %s: %s", awaitTimeout, what)
		}
		<-time.After(5 * time.Millisecond)
	}
}

// awaitReady waits until the writer is ready and has its configured keys and catalogs.
func (w *testWriter) awaitReady() {
	w.t.Helper()
	await(w.t, "ready", func() bool { return w.get("/readyz").status == http.StatusOK })
	await(w.t, "first catalog", func() bool {
		for _, key := range []string{serverKey, productionKey} {
			if r := w.do("GET", "/v1/catalog", "", auth(key)); r.status != http.StatusOK || !strings.Contains(r.text, "price_life") {
				return false
			}
		}
		return true
	})
}

// reply is an answer as a client sees it.
type reply struct {
	status int
	header http.Header
	text   string
	json   map[string]any
}

// str returns a member of the answer as text.
func (r reply) str(name string) string {
	s, _ := r.json[name].(string)
	return s
}

// slug returns the type of a problem, or "" for none.
func (r reply) slug() string {
	_, slug, _ := strings.Cut(r.str("type"), "problems/")
	return slug
}

type header = map[string]string

func auth(key string) header { return header{"Authorization": "Bearer " + key} }

func (w *testWriter) get(path string) reply { return w.do("GET", path, "", nil) }

// api sends a request with the sandbox server key.
func (w *testWriter) api(method, path, body string, more ...header) reply {
	w.t.Helper()
	h := auth(serverKey)
	for _, m := range more {
		for name, value := range m {
			h[name] = value
		}
	}
	return w.do(method, path, body, h)
}

func (w *testWriter) do(method, path, body string, h header) reply {
	w.t.Helper()
	r, err := send(method, w.url+path, body, h)
	if err != nil {
		w.t.Fatalf("%s %s: %v", method, path, err)
	}
	return r
}

func send(method, url, body string, h header) (reply, error) {
	return sendWith(http.DefaultClient, method, url, body, h)
}

func sendWith(client *http.Client, method, url, body string, h header) (reply, error) {
	req, err := http.NewRequest(method, url, strings.NewReader(body))
	if err != nil {
		return reply{}, err
	}
	for name, value := range h {
		req.Header.Set(name, value)
	}
	res, err := client.Do(req)
	if err != nil {
		return reply{}, err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	r := reply{status: res.StatusCode, header: res.Header, text: string(b)}
	_ = json.Unmarshal(b, &r.json)
	return r, err
}

// account makes an account and returns its id.
func (w *testWriter) account() string {
	w.t.Helper()
	r := w.api("POST", "/v1/accounts", `{}`)
	if r.status != http.StatusCreated {
		w.t.Fatalf("POST /v1/accounts = %d %s", r.status, r.text)
	}
	return r.str("account_id")
}

// stripe sends an event, signed as Stripe signs it.
func (w *testWriter) stripe(body []byte) reply {
	w.t.Helper()
	return w.do("POST", "/v1/webhooks/sandbox/stripe", string(body), signed(body, stripeSecret, time.Now()))
}

// stripePatiently is stripe for as long as the writer found no leader in all of the time that it looks for one, which is what happens on a machine that is too busy for
// heartbeats: then Stripe sends again. late counts that. A refusal that comes earlier is an answer like any other.
func (w *testWriter) stripePatiently(body []byte) (r reply, late int, err error) {
	for deadline := time.Now().Add(awaitTimeout); ; late++ {
		began := time.Now()
		r, err = send("POST", w.url+"/v1/webhooks/sandbox/stripe", string(body), signed(body, stripeSecret, began))
		if r.status != http.StatusServiceUnavailable || time.Since(began) < proposeTimeout || time.Now().After(deadline) {
			return r, late, err
		}
	}
}

func signed(body []byte, secret string, at time.Time) header {
	p := webhook.GenerateTestSignedPayload(&webhook.UnsignedPayload{Payload: body, Secret: secret, Timestamp: at})
	return header{"Stripe-Signature": p.Header, "Content-Type": "application/json"}
}

type object = map[string]any

// event wraps a provider object into a Stripe event.
func event(id, eventType string, obj object, change ...object) []byte {
	e := object{"id": id, "object": "event", "api_version": "2023-10-16", "type": eventType, "created": time.Now().Unix(), "livemode": false,
		"data": object{"object": obj}}
	for _, c := range change {
		for name, value := range c {
			e[name] = value
		}
	}
	b, err := json.Marshal(e)
	if err != nil {
		panic(err) // maps of plain values
	}
	return b
}

// subscription is an active one of a month, as API 2023-10-16 shows it.
func subscription(id, account, price string) object {
	now := time.Now()
	metadata := object{}
	if account != "" {
		metadata["account_id"] = account
	}
	start, end := now.Unix(), now.AddDate(0, 1, 0).Unix()
	return object{"id": id, "object": "subscription", "customer": "cus_" + id, "status": "active", "metadata": metadata, "created": start,
		"start_date": start, "current_period_start": start, "current_period_end": end, "cancel_at_period_end": false, "livemode": false,
		"items": object{"object": "list", "has_more": false, "data": []object{{"id": "si_" + id, "object": "subscription_item", "quantity": 1,
			"price": object{"id": price, "object": "price", "product": "prod_x", "currency": "eur", "unit_amount": 999, "type": "recurring",
				"recurring": object{"interval": "month", "interval_count": 1}}}}}}
}

func unique(prefix string) string { return prefix + ulid.Make().String() }

// pro returns the account's entitlement of that id as the writer answers it.
func (w *testWriter) pro(account string) object {
	w.t.Helper()
	r := w.api("GET", "/v1/accounts/"+account+"/entitlements", "")
	if r.status != http.StatusOK {
		w.t.Fatalf("GET entitlements = %d %s", r.status, r.text)
	}
	list, _ := r.json["entitlements"].([]any)
	for _, e := range list {
		if e := e.(object); e["id"] == "pro" {
			return e
		}
	}
	return object{}
}
