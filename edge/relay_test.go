package edge_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/latchkey/latchkey/edge"
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

// TestAnotherWriterAnswersWhereTheFirstDoesNot: the app gets its answer as long as one of the writers gives one, the one that the edge follows is asked
// first, and nobody else is where that one serves.
func TestAnotherWriterAnswersWhereTheFirstDoesNot(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.writer.Now = time.Now // an as_of that stood still would make the edge follow another writer after 3 s
	hold := make(chan struct{})
	behaviours := map[string]func(http.ResponseWriter){
		"serves":  func(w http.ResponseWriter) { _, _ = io.WriteString(w, `{"results":[]}`) },
		"refuses": func(w http.ResponseWriter) { w.WriteHeader(http.StatusForbidden) },
		"has no leader": func(w http.ResponseWriter) {
			w.Header().Set("Retry-After", "2")
			w.WriteHeader(http.StatusServiceUnavailable)
		},
		"breaks off": func(http.ResponseWriter) { panic(http.ErrAbortHandler) },
		"hangs":      func(http.ResponseWriter) { <-hold },
	}
	var mu sync.Mutex
	var does [3]string
	var asked [3]int
	key := ""
	servers := make([]*httptest.Server, 3)
	for i := range servers {
		servers[i] = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			if !strings.HasPrefix(req.URL.Path, "/v1/") {
				r.writer.ServeHTTP(w, req)
				return
			}
			body, err := io.ReadAll(req.Body)
			if err != nil || string(body) != `{"receipts": []}` {
				t.Errorf("writer %d was asked with %q, %v", i, body, err)
			}
			mu.Lock()
			asked[i]++
			key = req.Header.Get("Idempotency-Key")
			behave := behaviours[does[i]]
			mu.Unlock()
			behave(w)
		}))
		t.Cleanup(servers[i].Close)
	}
	t.Cleanup(func() { close(hold) })
	r.startWith(func(c *edge.Config) {
		c.Writers.URLs = nil
		for _, s := range servers {
			c.Writers.URLs = append(c.Writers.URLs, s.URL)
		}
	})
	r.ready()
	tests := []struct {
		writers [3]string
		status  int
		asked   [3]int
		outcome string
	}{
		{[3]string{"serves", "serves", "serves"}, 200, [3]int{1, 0, 0}, "answered"},
		{[3]string{"refuses", "serves", "serves"}, 403, [3]int{1, 0, 0}, "answered"},
		{[3]string{"breaks off", "serves", "serves"}, 200, [3]int{1, 1, 0}, "elsewhere"},
		{[3]string{"has no leader", "breaks off", "serves"}, 200, [3]int{1, 1, 1}, "elsewhere"},
		{[3]string{"has no leader", "breaks off", "breaks off"}, 503, [3]int{1, 1, 1}, "unavailable"},
		{[3]string{"hangs", "has no leader", "serves"}, 200, [3]int{1, 1, 1}, "elsewhere"},
	}
	counted := map[string]int{}
	for _, tt := range tests {
		mu.Lock()
		does, asked = tt.writers, [3]int{}
		mu.Unlock()
		req, err := http.NewRequest(http.MethodPost, r.base+"/v1/receipts", strings.NewReader(`{"receipts": []}`))
		if err != nil {
			t.Fatal(err)
		}
		want := ""
		if tt.outcome == "answered" { // with one Go itself sends a request again over another connection where it was cut off
			want = "k"
			req.Header.Set("Idempotency-Key", want)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		mu.Lock()
		got := asked
		if key != want {
			t.Errorf("%v: the writer got the Idempotency-Key %q, want %q", tt.writers, key, want)
		}
		mu.Unlock()
		if resp.StatusCode != tt.status || got != tt.asked {
			t.Errorf("%v: %d after %v were asked, want %d after %v", tt.writers, resp.StatusCode, got, tt.status, tt.asked)
		}
		if after := resp.Header.Get("Retry-After"); tt.status == http.StatusServiceUnavailable && after != "2" {
			t.Errorf("%v: Retry-After %q, want what the writer said", tt.writers, after)
		}
		counted[tt.outcome]++
		_, metrics := r.get("/metrics", nil)
		if want := fmt.Sprintf("latchkey_edge_relays_total{outcome=%q} %d\n", tt.outcome, counted[tt.outcome]); !strings.Contains(string(metrics), want) {
			t.Errorf("%v: /metrics lacks %s", tt.writers, want)
		}
	}
}
