package edge_test

import (
	"net/http"
	"testing"

	"github.com/latchkey/latchkey/pkg/entitlement"
)

// TestPagesOfAnyOriginMayAsk: what a browser needs before it lets a page read an answer, a problem or a stream; nothing of it for who is no page, nor on
// addresses that are not the app's.
func TestPagesOfAnyOriginMayAsk(t *testing.T) {
	r := subscribed(t)
	session := r.writer.Session(entitlement.Sandbox, alice)
	tests := []struct {
		name, method, path string
		header             map[string]string
		status             int
		allowed, preflight bool
	}{
		{"an answer", http.MethodGet, "/v1/entitlements", map[string]string{"Origin": "https://app.example.com", "Authorization": "Bearer " + session}, 200, true, false},
		{"an app in a web view", http.MethodGet, "/v1/entitlements", map[string]string{"Origin": "capacitor://localhost", "Authorization": "Bearer " + session}, 200, true, false},
		{"a problem", http.MethodGet, "/v1/entitlements", map[string]string{"Origin": "null"}, 401, true, false},
		{"an address that is not there", http.MethodGet, "/v1/nothing", map[string]string{"Origin": "https://app.example.com"}, 404, true, false},
		{"a stream", http.MethodGet, "/v1/entitlements/stream", map[string]string{"Origin": "https://app.example.com", "Authorization": "Bearer " + session}, 200, true, false},
		{"the browser's question", http.MethodOptions, "/v1/entitlements", map[string]string{"Origin": "https://app.example.com", "Access-Control-Request-Method": "GET", "Access-Control-Request-Headers": "authorization"}, 204, true, true},
		{"the same before a write", http.MethodOptions, "/v1/receipts", map[string]string{"Origin": "https://app.example.com", "Access-Control-Request-Method": "POST"}, 204, true, true},
		{"OPTIONS of who is no browser", http.MethodOptions, "/v1/entitlements", map[string]string{"Origin": "https://app.example.com"}, 405, true, false},
		{"no page", http.MethodGet, "/v1/entitlements", map[string]string{"Authorization": "Bearer " + session}, 200, false, false},
		{"the operator's figures", http.MethodGet, "/metrics", map[string]string{"Origin": "https://app.example.com"}, 200, false, false},
		{"the question about them", http.MethodOptions, "/status", map[string]string{"Origin": "https://app.example.com", "Access-Control-Request-Method": "GET"}, 405, false, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			req, err := http.NewRequestWithContext(t.Context(), tt.method, r.base+tt.path, nil)
			if err != nil {
				t.Fatal(err)
			}
			for name, value := range tt.header {
				req.Header.Set(name, value)
			}
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			if resp.StatusCode != tt.status {
				t.Errorf("%s %s = %d, want %d", tt.method, tt.path, resp.StatusCode, tt.status)
			}
			want := ""
			if tt.allowed {
				want = "*"
			}
			if got := resp.Header.Get("Access-Control-Allow-Origin"); got != want {
				t.Errorf("Access-Control-Allow-Origin = %q, want %q", got, want)
			}
			methods, headers := resp.Header.Get("Access-Control-Allow-Methods"), resp.Header.Get("Access-Control-Allow-Headers")
			if asked := methods != "" && headers != ""; asked != tt.preflight {
				t.Errorf("Access-Control-Allow-Methods = %q, -Headers = %q; want some: %t", methods, headers, tt.preflight)
			}
			if resp.Header.Get("Access-Control-Allow-Credentials") != "" {
				t.Error("a browser is told to send what belongs to the user by itself")
			}
		})
	}
}
