package storesim

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// serve runs a simulation behind an address until the test ends, and returns the address.
func serve(t *testing.T, s *Sim, clockFile string) string {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ready, done := make(chan string, 1), make(chan error, 1)
	go func() {
		v := Service{Listen: "127.0.0.1:0", ClockFile: clockFile, Ready: func(control string, _ map[Environment]string) { ready <- "http://" + control }}
		done <- v.Serve(ctx, s)
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	select {
	case url := <-ready:
		return url
	case err := <-done:
		done <- err
		t.Fatalf("Serve ended: %v", err)
		return ""
	}
}

// command runs one command line.
func command(t *testing.T, url string, words ...string) (string, error) {
	t.Helper()
	var out bytes.Buffer
	c := Command(&out)
	c.SetArgs(append(words, "--url", url))
	err := c.ExecuteContext(t.Context())
	return out.String(), err
}

// TestTheDocumentedScriptRuns plays the script of docs/storesim.md.
func TestTheDocumentedScriptRuns(t *testing.T) {
	page, err := os.ReadFile(filepath.Join("..", "docs", "storesim.md"))
	must(t, err)
	script := regexp.MustCompile(`(?m)^    # three renewals(?:.*\n    )+expect .*$`).FindString(string(page))
	if strings.Count(script, "\n") != 7 {
		t.Fatalf("the page's script is %q", script)
	}
	path := filepath.Join(t.TempDir(), "script")
	must(t, os.WriteFile(path, []byte(script), 0o600))
	s := testSim(t, 1)
	url := serve(t, s, "")
	if out, err := command(t, url, "script", path); err != nil {
		t.Fatalf("script: %v\n%s", err, out)
	}
	if p := s.Purchases()[0]; p.ID != "s" || len(p.Terms) != 5 || p.last().RevokedAt.IsZero() {
		t.Errorf("after the script: %s with %d terms", p.ID, len(p.Terms))
	}
	if _, err := command(t, url, "expect", "yes", "--account", "acc_01JD0000000000000000000000"); !errors.Is(err, ErrDiffers) {
		t.Errorf("expect yes: error %v, want %v", err, ErrDiffers)
	}
}

// TestCommandsSayWhatIsWrong: what the provider would not do, what is not there, what cannot be read; and the exit code is 2 for a line that makes no sense.
func TestCommandsSayWhatIsWrong(t *testing.T) {
	url := serve(t, testSim(t, 1), "")
	if out, err := command(t, url, "buy", "--provider", "iaptic", "--product", "lifetime", "--account", "owner", "--as", "sold"); err != nil {
		t.Fatalf("buy: %v %s", err, out)
	}
	tests := map[string]struct {
		line string
		code int
		want string
	}{
		"another store's product":   {"buy --provider apple --product pro:monthly --account a", 1, "409: refused: apple does not sell pro:monthly"},
		"no such provider":          {"buy --provider aple --product pro:monthly --account a", 1, `409: refused: no provider "aple"`},
		"no such environment":       {"buy --provider apple --product com.example.lifetime --account a --environment x", 1, `409: refused: no credentials for environment "x"`},
		"no such purchase":          {"cancel p7", 1, `409: refused: no purchase "p7"`},
		"a proof of nothing":        {"proof p7", 1, `409: refused: no purchase "p7"`},
		"a proof that apps get not": {"proof sold", 1, "409: refused: iaptic gives apps nothing to show"},
		"an outcome that is none":   {"settle sold --outcome perhaps", 1, `400: outcome "perhaps": want paid or failed`},
		"a dispute's too":           {"close-dispute sold --outcome draw", 1, `400: outcome "draw": want won or lost`},
		"more than all":             {"chaos --loss 2", 1, "400: loss: want a share from 0 to 1"},
		"less than nothing":         {"chaos --server-error -1", 1, "400: server_error: want a share from 0 to 1"},
		"an outage of nobody":       {"chaos --down --providers paypal", 2, `no provider "paypal"`},
		"no duration":               {"advance soon", 2, "want as in 30d"},
		"no such command":           {"steal", 2, "unknown command"},
		"no purchase":               {"cancel", 2, "accepts 1 arg(s)"},
		"no such flag":              {"buy --prize 3", 2, "unknown flag"},
		"a flag without its value":  {"buy --provider", 2, "needs an argument"},
		"neither yes nor no":        {"expect perhaps --account a", 2, `invalid argument "perhaps"`},
		"nobody's access":           {"expect no", 2, `required flag(s) "account"`},
		"an environment of nobody":  {"expect no --account a --environment x", 1, `400: environment "x"`},
		"not as expected":           {"expect yes --account a", 1, "pro of a is false"},
		"no such script":            {"script /nowhere", 1, "no such file"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			var out, errOut bytes.Buffer
			code := Run(t.Context(), &out, &errOut, append([]string{"--url", url}, strings.Fields(tt.line)...))
			if code != tt.code || !strings.Contains(errOut.String(), tt.want) || out.Len() > 0 {
				t.Errorf("%s = %d %q, printed %q, want %d %q", tt.line, code, errOut.String(), out.String(), tt.code, tt.want)
			}
		})
	}
	for _, path := range []string{"entitled?account=a", "entitled?entitlement=pro", "entitled?account=a&entitlement=pro&at=noon", "proof"} {
		res, err := http.Get(url + "/sim/v1/" + path)
		must(t, err)
		res.Body.Close()
		if res.StatusCode/100 != 4 {
			t.Errorf("GET %s = %d, want a refusal", path, res.StatusCode)
		}
	}
}

// TestAnOutageOfOneProvider: its messages are lost and its API is down; the others notice nothing.
func TestAnOutageOfOneProvider(t *testing.T) {
	s := testSim(t, 1)
	url := serve(t, s, "")
	if out, err := command(t, url, "chaos", "--down", "--providers", "apple,adapty"); err != nil {
		t.Fatalf("chaos: %v %s", err, out)
	}
	for _, p := range Providers {
		id := buy(t, s, Order{Provider: p, Account: account(1), Product: monthly[p]})
		must(t, s.Advance(t.Context(), 0))
		down := p == Apple || p == Adapty
		for _, m := range s.Messages() {
			if m.Purchase == id && m.Lost != down {
				t.Errorf("%s: its message %s is lost %v, want %v", p, m.Type, m.Lost, down)
			}
		}
		path := map[Provider]string{Apple: "/inApps/v1/subscriptions/1", Adapty: "/api/v2/server-side-api/profile/", Stripe: "/v1/subscriptions/sub_1"}[p]
		if path == "" {
			continue
		}
		res, err := http.Get(url + "/sandbox" + path)
		must(t, err)
		res.Body.Close()
		if (res.StatusCode == http.StatusServiceUnavailable) != down {
			t.Errorf("%s answers %d", p, res.StatusCode)
		}
	}
}

// TestOtherClocksCanFollow: the file holds how far the virtual clock is ahead (R127).
func TestOtherClocksCanFollow(t *testing.T) {
	file := filepath.Join(t.TempDir(), "ahead")
	s := New(Config{Seed: 1, Start: time.Now(), Credentials: credentials})
	url := serve(t, s, file)
	if _, err := command(t, url, "advance", "30d"); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(file)
	must(t, err)
	ahead, err := time.ParseDuration(string(b))
	if err != nil || (ahead-30*day).Abs() > time.Minute {
		t.Errorf("the file holds %q, want 30 days", b)
	}
}
