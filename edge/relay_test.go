package edge_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// TestReceiptsArePassedOnAsTheyCame: what the app sends reaches a writer with the app's credential, and what the writer says reaches the app.
func TestReceiptsArePassedOnAsTheyCame(t *testing.T) {
	type request struct{ method, path, credential, body string }
	asked := make(chan request, 1)
	answers := make(chan func(http.ResponseWriter), 1)
	r := newRig(t)
	r.server.Close()
	r.server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if !strings.HasPrefix(req.URL.Path, "/v1/") {
			r.writer.ServeHTTP(w, req)
			return
		}
		body, err := io.ReadAll(req.Body)
		if err != nil {
			t.Errorf("body at the writer: %v", err)
		}
		asked <- request{req.Method, req.URL.Path, req.Header.Get("Authorization"), string(body)}
		(<-answers)(w)
	}))
	t.Cleanup(r.server.Close)
	r.start()
	r.ready()
	post := func(body string) (int, http.Header, string) {
		t.Helper()
		req, err := http.NewRequest(http.MethodPost, r.base+"/v1/receipts", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer session")
		req.Header.Set("Content-Type", "application/json")
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatalf("POST /v1/receipts: %v", err)
		}
		defer resp.Body.Close()
		answer, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, resp.Header, string(answer)
	}
	tests := []struct {
		name   string
		body   string
		answer func(http.ResponseWriter)
		status int
		want   string // in the answer
		header [2]string
	}{
		{"a writer's results", `{"receipts": [` + strings.Repeat(" ", 300<<10) + `]}`, func(w http.ResponseWriter) { _, _ = io.WriteString(w, `{"results":[]}`) }, 200, `{"results":[]}`, [2]string{}},
		{"a writer's refusal", `{}`, func(w http.ResponseWriter) {
			w.Header().Set("Content-Type", "application/problem+json")
			w.Header().Set("Retry-After", "7")
			w.WriteHeader(http.StatusForbidden)
			_, _ = io.WriteString(w, `{"type":"forbidden"}`)
		}, 403, `{"type":"forbidden"}`, [2]string{"Retry-After", "7"}},
		{"a writer that breaks off", `{}`, func(http.ResponseWriter) { panic(http.ErrAbortHandler) }, 503, "problems/unavailable", [2]string{"Retry-After", "1"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			answers <- tt.answer
			status, header, answer := post(tt.body)
			if status != tt.status || !strings.Contains(answer, tt.want) || tt.header[0] != "" && header.Get(tt.header[0]) != tt.header[1] {
				t.Errorf("POST /v1/receipts = %d %v %s, want %d with %s", status, header, answer, tt.status, tt.want)
			}
			if got, want := <-asked, (request{"POST", "/v1/receipts", "Bearer session", tt.body}); got != want {
				t.Errorf("the writer was asked %.300v, want %.300v", got, want)
			}
		})
	}
	if status, _, answer := post(strings.Repeat(" ", 513<<10)); status != http.StatusRequestEntityTooLarge || !strings.Contains(answer, "body-too-large") {
		t.Errorf("a body of 513 KiB = %d %s", status, answer)
	}
	if resp, body := r.get("/v1/receipts", nil); resp.StatusCode != http.StatusNotFound {
		t.Errorf("GET /v1/receipts = %d %s, want nothing there", resp.StatusCode, body)
	}
}
