package storesim

import (
	"bytes"
	"context"
	"errors"
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

// TestCommandsSayWhatIsWrong: what the provider would not do, what is not there, what cannot be read.
func TestCommandsSayWhatIsWrong(t *testing.T) {
	url := serve(t, testSim(t, 1), "")
	tests := map[string]struct {
		words []string
		want  string
	}{
		"another store's product": {[]string{"buy", "--provider", "apple", "--product", "pro:monthly", "--account", "a"}, "409: refused: apple does not sell pro:monthly"},
		"no such purchase":        {[]string{"cancel", "p7"}, `409: refused: no purchase "p7"`},
		"no duration":             {[]string{"advance", "soon"}, "want as in 30d"},
		"no such command":         {[]string{"steal"}, "unknown command"},
		"no proof":                {[]string{"proof", "p7"}, ""},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			out, err := command(t, url, tt.words...)
			switch {
			case tt.want == "" && (err != nil || !strings.Contains(out, "no proof")):
				t.Errorf("said %q, %v", out, err)
			case tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)):
				t.Errorf("error %v, want %s", err, tt.want)
			}
		})
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
