package writer

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
)

// What has no route is answered with a problem like everything else, and with nothing of the mux's own texts; an address that is written otherwise is sent on.
func TestWhatHasNoRoute(t *testing.T) {
	w := oneWriter(t)
	acc := w.account()
	for _, tt := range []struct {
		name, method, path string
		status             int
		header, value      string
	}{
		{"no such address", "GET", "/v1/nothing", 404, "Content-Type", "application/problem+json"},
		{"an address of another method", "PUT", "/v1/accounts/" + acc, 405, "Allow", "DELETE, GET, HEAD, PATCH"},
		{"an address with a slash too many", "GET", "/v1//accounts/" + acc, 307, "Location", "/v1/accounts/" + acc},
		{"an address with dots", "GET", "/v1/x/../accounts/" + acc, 307, "Location", "/v1/accounts/" + acc},
		{"no method that there is", "FETCH", "/v1/accounts/" + acc, 405, "Content-Type", "application/problem+json"},
		{"the head of what can be got", "HEAD", "/v1/accounts/" + acc, 200, "Content-Type", "application/json"},
		{"an id that is written with escapes", "GET", "/v1/accounts/%61" + acc[1:], 200, "Content-Type", "application/json"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, err := net.Dial("tcp", w.PublicAddr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			fmt.Fprintf(c, "%s %s HTTP/1.1\r\nHost: w\r\nAuthorization: Bearer %s\r\nConnection: close\r\n\r\n", tt.method, tt.path, serverKey)
			res, err := http.ReadResponse(bufio.NewReader(c), &http.Request{Method: tt.method})
			if err != nil {
				t.Fatal(err)
			}
			defer res.Body.Close()
			if res.StatusCode != tt.status || res.Header.Get(tt.header) != tt.value || len(res.Header.Values(tt.header)) != 1 || len(res.Header.Values(requestIDHeader)) != 1 {
				t.Errorf("%s %s = %d, %v; want %d, %s: %s, one %s", tt.method, tt.path, res.StatusCode, res.Header, tt.status, tt.header, tt.value, requestIDHeader)
			}
		})
	}
}

// Everybody who reads an account at one time gets the same decoded rows: under the race detector this shows that none of them writes into those.
func TestManyReadOneAccountAtOnce(t *testing.T) {
	w := oneWriter(t)
	acc := w.account()
	for _, sub := range []string{"sub_1", "sub_2"} {
		if r := w.stripe(event("evt_"+sub, "customer.subscription.created", subscription(sub, acc, "price_pro"))); r.status != 200 {
			t.Fatalf("%d %s", r.status, r.text)
		}
	}
	w.api("POST", "/v1/accounts/"+acc+"/aliases", `{"kind": "custom", "value": "me"}`)
	var all sync.WaitGroup
	for _, path := range []string{"", "/entitlements", "/events", "/export", "", "/entitlements"} {
		all.Go(func() {
			for range 5 {
				r := w.api("GET", "/v1/accounts/"+acc+path, "")
				if r.status != http.StatusOK || !strings.Contains(r.text, "sub_1") {
					t.Errorf("GET of the account's %q = %d %s", path, r.status, r.text)
				}
			}
		})
	}
	all.Wait()
}
