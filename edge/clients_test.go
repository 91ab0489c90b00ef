package edge_test

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/latchkey/latchkey/edge"
	"github.com/latchkey/latchkey/pkg/entitlement"
)

// ask sends a request as a proxy on this machine passes it on from an address; an empty one sends it without the header.
func (r *rig) ask(path, from, session string) *http.Response {
	r.t.Helper()
	header := map[string]string{}
	if from != "" {
		header["X-Forwarded-For"] = from
	}
	if session != "" {
		header["Authorization"] = "Bearer " + session
	}
	resp, _ := r.get(path, header)
	return resp
}

// refusedAfter asks up to most times and returns how often it was let through before a 429.
func (r *rig) refusedAfter(most int, ask func(i int) *http.Response) int {
	r.t.Helper()
	for i := range most {
		resp := ask(i)
		if resp.StatusCode != http.StatusTooManyRequests {
			continue
		}
		if wait, err := strconv.Atoi(resp.Header.Get("Retry-After")); err != nil || wait < 1 || wait > 10 {
			r.t.Errorf("429 with Retry-After %q, want 1 to 10", resp.Header.Get("Retry-After"))
		}
		return i
	}
	return most
}

// limited is a rig behind a proxy on this machine, whose clients may make 2 requests a second of an address and 1 check of an account.
func limited(t *testing.T, change func(*edge.Config)) *rig {
	r := newRig(t)
	r.writer.PutCatalog(entitlement.Sandbox, catalog)
	now := r.clock.Now().Unix()
	for i := range 30 {
		r.writer.PutAccount(entitlement.Sandbox, subscriber(entitlement.AccountID(fmt.Sprintf("acc_%02d", i)), now, now+30*86400))
	}
	r.startWith(func(cfg *edge.Config) {
		cfg.Clients = edge.ClientsConfig{TrustedProxies: []string{"127.0.0.0/8", "10.0.0.0/8"}, AddressPerSecond: 2, AccountPerSecond: 1}
		change(cfg)
	})
	r.ready()
	return r
}

// TestAnAddressIsLimited before anything is done for it, and only that address.
func TestAnAddressIsLimited(t *testing.T) {
	t.Parallel()
	r := limited(t, func(*edge.Config) {})
	for _, tt := range []struct {
		name string
		from func(i int) string
		most int // requests that are let through at least, of 30: 20 at once and what time adds
		none bool
	}{
		{"one address", func(int) string { return "203.0.113.7" }, 20, false},
		{"another one is not touched by that", func(int) string { return "203.0.113.8" }, 20, false},
		{"what the client wrote before its proxy", func(i int) string { return fmt.Sprintf("198.51.100.%d, 203.0.113.9", i) }, 20, false},
		{"behind two proxies of ours", func(i int) string { return "203.0.113.10, 10.1.2.3" }, 20, false},
		{"a /64 of IPv6", func(i int) string { return fmt.Sprintf("2001:db8:1:2::%x", i+1) }, 20, false},
		{"many addresses", func(i int) string { return fmt.Sprintf("198.51.100.%d", i+100) }, 30, true},
		{"many networks of IPv6", func(i int) string { return fmt.Sprintf("2001:db8:1:%x::1", i+16) }, 30, true},
		{"this machine itself", func(int) string { return "" }, 30, true},
	} {
		began := time.Now()
		got := r.refusedAfter(30, func(i int) *http.Response { return r.ask("/healthz", tt.from(i), "") })
		if passed := time.Since(began); got < tt.most || !tt.none && got > tt.most+int(2*passed.Seconds()) {
			t.Errorf("%s: refused after %d of 30 in %s, want %d or 2 more for each second, none %t", tt.name, got, passed, tt.most, tt.none)
		}
	}
	if got := r.metric(`latchkey_edge_limited_requests_total{by="address"}`); got == "0" || got == "absent" {
		t.Errorf("limited by address = %s", got)
	}
}

// TestAnAccountIsLimited over all of its addresses, before a signature is made; a refusal is a problem as any other.
func TestAnAccountIsLimited(t *testing.T) {
	t.Parallel()
	r := limited(t, func(*edge.Config) {})
	session := r.writer.Session(entitlement.Sandbox, "acc_01")
	signed := func() string { return r.metric(`latchkey_edge_checks_total{outcome="signed"}`) }
	began := time.Now()
	got := r.refusedAfter(25, func(i int) *http.Response {
		return r.ask("/v1/entitlements?nonce=a", fmt.Sprintf("203.0.113.%d", i), session)
	})
	if passed := time.Since(began); got < 10 || got > 10+int(passed.Seconds()) {
		t.Fatalf("refused after %d of 25 in %s, want 10 or one more for each second", got, passed)
	}
	before := signed()
	refused := 0
	for i := range 5 {
		if resp := r.ask("/v1/entitlements?nonce=a", fmt.Sprintf("198.51.100.%d", i), session); resp.StatusCode == 429 && resp.Header.Get("Content-Type") == "application/problem+json" {
			refused++
		}
	}
	if let, passed := got+5-refused, time.Since(began); let > 10+int(passed.Seconds()) {
		t.Errorf("%d were let through in %s, want 10 and one for each second", let, passed)
	}
	if n, err := strconv.Atoi(before); err != nil || fmt.Sprint(n+5-refused) != signed() {
		t.Errorf("signatures: %s before, %s after, with %d of 5 refused", before, signed(), refused)
	}
	if resp := r.ask("/v1/entitlements", "203.0.113.200", r.writer.Session(entitlement.Sandbox, "acc_02")); resp.StatusCode != 200 {
		t.Errorf("another account = %d", resp.StatusCode)
	}
}

// TestAForwardedAddressIsBelievedOfOurProxiesAlone: without the list nobody's header counts, and one that cannot be read is that of nobody.
func TestAForwardedAddressIsBelievedOfOurProxiesAlone(t *testing.T) {
	t.Parallel()
	r := limited(t, func(cfg *edge.Config) { cfg.Clients.TrustedProxies = nil })
	if got := r.refusedAfter(30, func(int) *http.Response { return r.ask("/healthz", "203.0.113.7", "") }); got != 30 {
		t.Errorf("a header of nobody's proxy was believed: refused after %d", got)
	}
	r = limited(t, func(*edge.Config) {})
	for _, from := range []string{"unknown", "203.0.113.7, ", "203.0.113.7 x", "203.0.113.7:443", strings.Repeat("9", 300)} {
		if got := r.refusedAfter(30, func(int) *http.Response { return r.ask("/healthz", from, "") }); got != 30 {
			t.Errorf("%.40q: refused after %d, want to be taken for the proxy itself", from, got)
		}
	}
}

// TestNoLimit: -1 switches a limit off.
func TestNoLimit(t *testing.T) {
	t.Parallel()
	r := limited(t, func(cfg *edge.Config) { cfg.Clients.AddressPerSecond, cfg.Clients.AccountPerSecond = -1, -1 })
	session := r.writer.Session(entitlement.Sandbox, "acc_01")
	if got := r.refusedAfter(40, func(int) *http.Response { return r.ask("/v1/entitlements", "203.0.113.7", session) }); got != 40 {
		t.Errorf("refused after %d", got)
	}
}

// TestClientMistakes are told with their fields.
func TestClientMistakes(t *testing.T) {
	t.Parallel()
	cfg := newRig(t).config()
	cfg.Clients = edge.ClientsConfig{TrustedProxies: []string{"10.0.0.0/8", "proxy.example.com"}, AddressPerSecond: -2, AccountPerSecond: 1_000_001}
	err := cfg.Validate()
	for _, want := range []string{"clients.trusted_proxies[1]", "clients.address_per_second", "clients.account_per_second"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Validate = %v, want %q", err, want)
		}
	}
}

// panicky is a log whose one line brings the request down that writes it.
type panicky struct{ slog.Handler }

func (panicky) Enabled(context.Context, slog.Level) bool { return true }

func (panicky) Handle(_ context.Context, r slog.Record) error {
	if r.Message == "request not passed on" {
		panic("planted")
	}
	return nil
}

func (p panicky) WithAttrs([]slog.Attr) slog.Handler { return p }

// TestAPanicEndsOneRequest and nothing else: it is answered as an internal error, its connection is closed, and the edge lives on.
func TestAPanicEndsOneRequest(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.startWith(func(cfg *edge.Config) { cfg.Logger = slog.New(panicky{slog.DiscardHandler}) })
	r.ready()
	r.writer.SetDown(true)
	r.server.Close()
	resp, err := http.Post(r.base+"/v1/receipts", "application/json", strings.NewReader("{}"))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != 500 || resp.Header.Get("Content-Type") != "application/problem+json" || !resp.Close {
		t.Errorf("a request that panics = %d %v, closed %t", resp.StatusCode, resp.Header, resp.Close)
	}
	if resp, _ := r.get("/healthz", nil); resp.StatusCode != 200 {
		t.Errorf("/healthz afterwards = %d", resp.StatusCode)
	}
}
