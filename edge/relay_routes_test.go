package edge_test

import (
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/latchkey/latchkey/edge"
)

// TestWhatIsPassedOn: the routes of apps that a writer serves, and nothing else, at the writer's own address for them.
func TestWhatIsPassedOn(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	var mu sync.Mutex
	asked, key := "", ""
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if !strings.HasPrefix(req.URL.Path, "/v1/") {
			r.writer.ServeHTTP(w, req)
			return
		}
		mu.Lock()
		asked, key = req.Method+" "+req.RequestURI, req.Header.Get("Idempotency-Key")
		mu.Unlock()
		_, _ = io.WriteString(w, `{}`)
	}))
	t.Cleanup(server.Close)
	r.startWith(func(c *edge.Config) {
		c.Writers.URLs = []string{server.URL}
		c.Clients = edge.ClientsConfig{TrustedProxies: []string{"127.0.0.0/8"}}
	})
	r.ready()
	post := func(path, key, from string, body string) *http.Response {
		t.Helper()
		req, err := http.NewRequest(http.MethodPost, r.base+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		for name, value := range map[string]string{"Idempotency-Key": key, "X-Forwarded-For": from} {
			if value != "" {
				req.Header.Set(name, value)
			}
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatalf("POST %s: %v", path, err)
		}
		resp.Body.Close()
		return resp
	}
	for _, tt := range []struct {
		path, key string
		status    int
		keyed     bool // the writer gets a key, the app's own where it sent one
	}{
		{"/v1/sessions", "", 200, true},
		{"/v1/sessions", "mine", 200, true},
		{"/v1/sessions/login", "", 200, true},
		{"/v1/sessions/logout", "", 200, true},
		{"/v1/link-tokens/lkl_abc/redeem", "", 200, true},
		{"/v1/link-tokens", "", 405, false},
		{"/v1/redemption-codes/ABCD-EFGH-JKMN-PQRS-TVWX/redeem", "", 200, true},
		{"/v1/redemption-codes", "", 405, false},
		{"/v1/devices", "", 200, true},
		{"/v1/receipts", "", 200, false},
		{"/v1/purchase-intents/intent_01JD/submitted", "", 200, true},
		{"/v1/purchase-intents/../submitted", "", 405, false},
		{"/v1/purchase-intents/%2e%2e/submitted", "", 405, false},
		{"/v1/purchase-intents//submitted", "", 405, false},
		{"/v1/sessions/", "", 405, false},
		{"/v1/sessions/login/more", "", 405, false},
		{"/v1/accounts", "", 405, false},
		{"/v1/sessions/..%2faccounts", "", 405, false},
	} {
		mu.Lock()
		asked, key = "", ""
		mu.Unlock()
		resp := post(tt.path, tt.key, "", `{}`)
		mu.Lock()
		gotAsked, gotKey := asked, key
		mu.Unlock()
		want := ""
		if tt.status == 200 {
			want = "POST " + tt.path
		}
		if resp.StatusCode != tt.status || gotAsked != want || (gotKey != "") != tt.keyed || tt.key != "" && gotKey != tt.key {
			t.Errorf("POST %s = %d, the writer was asked %q with the key %q; want %d, %q, a key %t", tt.path, resp.StatusCode, gotAsked, gotKey, tt.status, want, tt.keyed)
		}
	}
	if resp := post("/v1/sessions", "", "", strings.Repeat(" ", 17<<10)); resp.StatusCode != http.StatusRequestEntityTooLarge {
		t.Errorf("a body of 17 KiB = %d, want 413: only receipts are longer", resp.StatusCode)
	}
	// One address makes a classroom's accounts at once, then one a second. Signing in makes none.
	refused := func(path, from string, n int) (after int, wait string) {
		for i := range n {
			if resp := post(path, "", from, `{}`); resp.StatusCode == http.StatusTooManyRequests {
				return i, resp.Header.Get("Retry-After")
			}
		}
		return n, ""
	}
	began := time.Now()
	after, wait := refused("/v1/sessions", "203.0.113.7", 90)
	if passed := time.Since(began); after < 60 || after > 60+int(passed.Seconds()) || after < 90 && wait != "1" {
		t.Errorf("new sessions of one address are refused after %d in %s, Retry-After %q; want 60 or one more for each second, and 1", after, passed, wait)
	}
	if after, _ := refused("/v1/sessions/logout", "203.0.113.7", 30); after == 30 {
		t.Error("logouts, which make accounts too, are not refused: want none, or one for each second that has passed")
	}
	if after, _ := refused("/v1/sessions/login", "203.0.113.7", 5); after != 5 {
		t.Errorf("logins are refused after %d", after)
	}
	if after, _ := refused("/v1/sessions", fmt.Sprintf("203.0.113.%d", 8), 5); after != 5 {
		t.Errorf("those of another address are refused after %d", after)
	}
	if got := r.metric(`latchkey_edge_limited_requests_total{by="session"}`); got == "0" || got == "absent" {
		t.Errorf("limited by session = %s", got)
	}
}

// TestWrongCodesOfAnAddressAreLimited: right ones never are, and writers are not asked about what is refused.
func TestWrongCodesOfAnAddressAreLimited(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	var asked atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if !strings.HasPrefix(req.URL.Path, "/v1/") {
			r.writer.ServeHTTP(w, req)
			return
		}
		asked.Add(1)
		if strings.Contains(req.URL.Path, "WRONG") {
			w.WriteHeader(http.StatusNotFound)
		}
		_, _ = io.WriteString(w, `{}`)
	}))
	t.Cleanup(server.Close)
	r.startWith(func(c *edge.Config) {
		c.Writers.URLs = []string{server.URL}
		c.Clients = edge.ClientsConfig{TrustedProxies: []string{"127.0.0.0/8"}}
	})
	r.ready()
	redeem := func(code, from string) int {
		t.Helper()
		req, err := http.NewRequest(http.MethodPost, r.base+"/v1/redemption-codes/"+code+"/redeem", strings.NewReader(`{}`))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("X-Forwarded-For", from)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		return resp.StatusCode
	}
	const classroom, guesser, other = "192.0.2.1", "192.0.2.2", "192.0.2.3"
	for range 40 {
		if got := redeem("GOOD", classroom); got != http.StatusOK {
			t.Fatalf("a code that there is = %d, want 200", got)
		}
	}
	refused := 0
	for range 60 { // one more is let through every ten seconds
		switch got := redeem("WRONG", guesser); got {
		case http.StatusTooManyRequests:
			refused++
		case http.StatusNotFound:
		default:
			t.Fatalf("a wrong code = %d", got)
		}
	}
	if let := 60 - refused; let < 30 || refused == 0 || asked.Load() != int64(40+let) {
		t.Errorf("%d wrong codes were let through and %d refused; the writer was asked %d times", let, refused, asked.Load())
	}
	if got := redeem("GOOD", other); got != http.StatusOK {
		t.Errorf("another address = %d, want 200", got)
	}
}

// safeBuffer is a log that is read while it is written.
type safeBuffer struct {
	mu sync.Mutex
	b  strings.Builder
}

func (s *safeBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *safeBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// TestASecretInAPathIsNotLogged: not when no writer can be reached either, whose address it would stand in.
func TestASecretInAPathIsNotLogged(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	logs := &safeBuffer{}
	r.startWith(func(c *edge.Config) {
		c.Logger = slog.New(slog.NewJSONHandler(logs, &slog.HandlerOptions{Level: slog.LevelDebug}))
	})
	r.ready()
	r.writer.SetDown(true)
	r.server.Close()
	for _, path := range []string{"/v1/redemption-codes/CANARY/redeem", "/v1/link-tokens/CANARY/redeem"} {
		resp, err := http.Post(r.base+path, "application/json", strings.NewReader("{}"))
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusServiceUnavailable {
			t.Errorf("POST %s = %d, want 503", path, resp.StatusCode)
		}
	}
	if text := logs.String(); !strings.Contains(text, "request not passed on") || strings.Contains(text, "CANARY") {
		t.Errorf("the log says %s", text)
	}
}
