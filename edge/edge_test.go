package edge_test

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/latchkey/latchkey/edge"
	"github.com/latchkey/latchkey/pkg/entitlement"
	"github.com/latchkey/latchkey/pkg/openapi/openapitest"
	"github.com/latchkey/latchkey/pkg/token"
	"github.com/latchkey/latchkey/replication"
	"github.com/latchkey/latchkey/replication/replicationtest"
)

const cluster = "test-cluster"

// clock is a clock that tests move.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func newClock() *clock { return &clock{now: time.Now().Truncate(time.Second)} }

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) Add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// rig is one edge that follows one writer inside this process.
type rig struct {
	t      testing.TB
	clock  *clock
	writer *replicationtest.Writer
	server *httptest.Server
	dir    string
	edge   *edge.Edge
	base   string
	stop   func()
}

func newRig(t testing.TB) *rig {
	t.Helper()
	w, err := replicationtest.New(cluster)
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{t: t, clock: newClock(), writer: w, dir: t.TempDir()}
	w.Now = r.clock.Now
	r.server = httptest.NewServer(w)
	t.Cleanup(r.server.Close)
	return r
}

func (r *rig) config() edge.Config {
	r.t.Helper()
	pem, err := token.MarshalPublicKeyPEM(r.writer.Roots()[0])
	if err != nil {
		r.t.Fatal(err)
	}
	root := filepath.Join(r.dir, "root.pub.pem")
	if err := os.WriteFile(root, pem, 0o600); err != nil {
		r.t.Fatal(err)
	}
	return edge.Config{
		Node:       edge.NodeConfig{ID: "e1", DataDir: filepath.Join(r.dir, "e1"), Cluster: cluster, Listen: "127.0.0.1:0"},
		Writers:    edge.WritersConfig{URLs: []string{r.server.URL}},
		Trust:      edge.TrustConfig{RootPublicKeys: []string{root}},
		ManageURLs: entitlement.ManageURLs{entitlement.Stripe: "https://billing.example.com"},
		Environments: map[entitlement.Environment]edge.EnvironmentConfig{
			entitlement.Sandbox:    {Audience: replicationtest.Audience(entitlement.Sandbox)},
			entitlement.Production: {Audience: replicationtest.Audience(entitlement.Production)},
		},
		Now:    r.clock.Now,
		Logger: slog.New(slog.DiscardHandler),
	}
}

// start opens and runs the edge; it is stopped by r.stop or at the test's end.
func (r *rig) start() { r.startWith(func(*edge.Config) {}) }

func (r *rig) startWith(change func(*edge.Config)) {
	r.t.Helper()
	cfg := r.config()
	change(&cfg)
	e, err := edge.Open(cfg)
	if err != nil {
		r.t.Fatalf("Open: %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- e.Run(ctx) }()
	r.edge, r.base = e, "http://"+e.Addr().String()
	openapitest.Watch(r.t, r.base, openapitest.EdgeAlone)
	var once sync.Once
	r.stop = func() {
		once.Do(func() {
			cancel()
			if err := <-done; err != nil {
				r.t.Errorf("Run: %v", err)
			}
			if err := e.Close(); err != nil {
				r.t.Errorf("Close: %v", err)
			}
		})
	}
	r.t.Cleanup(func() { r.stop() })
}

// until polls: readiness and following have no event that a client could wait for.
func until(t testing.TB, what string, holds func() bool) {
	t.Helper()
	deadline := time.Now().Add(15 * time.Second)
	for !holds() {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within 15 s", what)
		}
		wait := time.NewTimer(5 * time.Millisecond)
		<-wait.C
	}
}

func (r *rig) ready() {
	r.t.Helper()
	until(r.t, "edge ready", func() bool {
		resp, _ := r.get("/readyz", nil)
		return resp.StatusCode == http.StatusOK
	})
}

func (r *rig) get(path string, header map[string]string) (*http.Response, []byte) {
	r.t.Helper()
	req, err := http.NewRequest(http.MethodGet, r.base+path, nil)
	if err != nil {
		r.t.Fatal(err)
	}
	for k, v := range header {
		req.Header.Set(k, v)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		r.t.Fatalf("GET %s: %v", path, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		r.t.Fatalf("GET %s: %v", path, err)
	}
	return resp, body
}

// answer is what a check gives.
type answer struct {
	Type         string    `json:"type"`
	AccountID    string    `json:"account_id"`
	Environment  string    `json:"environment"`
	Revision     string    `json:"revision"`
	ServerTime   time.Time `json:"server_time"`
	AsOf         time.Time `json:"as_of"`
	FreshUntil   time.Time `json:"fresh_until"`
	Stale        bool      `json:"stale"`
	State        string    `json:"state"`
	Entitlements []struct {
		ID           string    `json:"id"`
		Active       bool      `json:"active"`
		Status       string    `json:"status"`
		Reason       string    `json:"reason"`
		ExpiresAt    time.Time `json:"expires_at"`
		OfflineUntil time.Time `json:"offline_until"`
	} `json:"entitlements"`
	Unconfirmed []struct {
		Reference string `json:"reference"`
	} `json:"unconfirmed"`
	AppleToken string `json:"apple_app_account_token"`
	GraceToken string `json:"grace_token"`
}

func (r *rig) check(query, session string, header map[string]string) (int, answer, http.Header) {
	r.t.Helper()
	all := map[string]string{"Authorization": "Bearer " + session}
	for k, v := range header {
		all[k] = v
	}
	resp, body := r.get("/v1/entitlements"+query, all)
	var a answer
	if len(body) > 0 {
		if err := json.Unmarshal(body, &a); err != nil {
			r.t.Fatalf("GET /v1/entitlements%s: %d %s: %v", query, resp.StatusCode, body, err)
		}
	}
	return resp.StatusCode, a, resp.Header
}

func (r *rig) verify(tok string, account entitlement.AccountID, env entitlement.Environment) *token.GraceClaims {
	r.t.Helper()
	c, err := token.Verify(tok, token.Expect{Roots: r.writer.Roots(), Audience: replicationtest.Audience(env), Environment: string(env), Subject: string(account), At: r.clock.Now()})
	if err != nil {
		r.t.Fatalf("token.Verify: %v", err)
	}
	return c
}

var catalog = entitlement.Catalog{Products: []entitlement.Product{
	{Provider: entitlement.Stripe, ID: "price_pro", Kind: entitlement.KindRecurring, Entitlements: []string{"pro"}, Plan: "pro_monthly", Group: "pro"},
}}

const alice entitlement.AccountID = "acc_01ALICE"

// subscriber is an account with a subscription whose access ends at until.
func subscriber(id entitlement.AccountID, now, until int64) entitlement.Account {
	return entitlement.Account{ID: id, CreatedAt: now, Purchases: []entitlement.Purchase{{
		ID: "stripe:sub_1", Provider: entitlement.Stripe, Store: "stripe",
		Items: []entitlement.Item{{
			ID: "si_1", State: entitlement.Live, AccessUntil: until, WillRenew: true, Recurring: true,
			Term: entitlement.Term{ID: "si_1:1", StartsAt: now - 100, EndsAt: until, Sold: entitlement.Sold{Product: "price_pro", Quantity: 1, Price: &entitlement.Price{Amount: 999, Currency: "EUR", Period: "P1M"}}},
		}},
	}}}
}

// subscribed is a rig whose alice has an active subscription in sandbox.
func subscribed(t testing.TB) *rig {
	r := newRig(t)
	r.writer.PutCatalog(entitlement.Sandbox, catalog)
	now := r.clock.Now().Unix()
	r.writer.PutAccount(entitlement.Sandbox, subscriber(alice, now, now+30*86400))
	r.start()
	r.ready()
	return r
}

// TestTheAnswerIsSigned is the main job at one edge: what a writer holds arrives, and the token says what the JSON says.
func TestTheAnswerIsSigned(t *testing.T) {
	r := subscribed(t)
	session := r.writer.Session(entitlement.Sandbox, alice)
	status, a, header := r.check("?nonce=abc-_1", session, nil)
	if status != http.StatusOK || len(a.Entitlements) != 1 || !a.Entitlements[0].Active || a.State != "settled" || a.Stale {
		t.Fatalf("check = %d %+v, want pro active", status, a)
	}
	c := r.verify(a.GraceToken, alice, entitlement.Sandbox)
	e := c.Entitlements[0]
	if c.ExpiresAt-c.AsOf != 86400 || c.Nonce != "abc-_1" || c.Device != "phone-1" || c.Revision != a.Revision || c.AsOf != a.AsOf.Unix() || c.FreshUntil != a.FreshUntil.Unix() ||
		e.ID != "pro" || e.Status != "active" || e.OfflineUntil != a.Entitlements[0].OfflineUntil.Unix() || e.Until != a.Entitlements[0].ExpiresAt.Unix() {
		t.Errorf("token %+v beside %+v", c, a)
	}
	if !c.Allows("pro", r.clock.Now()) || header.Get("ETag") == "" {
		t.Errorf("token does not allow pro, or no ETag in %v", header)
	}
	if a.Revision != r.writer.Position().Revision().String() {
		t.Errorf("revision = %s, want %s", a.Revision, r.writer.Position().Revision())
	}
	var status2 edge.Status
	_, body := r.get("/status", nil)
	if err := json.Unmarshal(body, &status2); err != nil || status2.StateHash != r.writer.Position().StateHash.String() || status2.Source != replication.FromSnapshot && status2.Source != replication.FromPull {
		t.Errorf("status = %s, %v", body, err)
	}
}
