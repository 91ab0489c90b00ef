package system

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"
)

// These tests show what the contract promises of latchkey-dev, with children that stand in for the nodes: this test program,
// under the nodes' names. The real ones are tested in deploy/e2e.

func TestMain(m *testing.M) {
	switch filepath.Base(os.Args[0]) {
	case "latchkey-writer", "latchkey-edge":
		standIn()
		return
	case "latchkey-dev":
		superviseUntilKilled()
		return
	}
	os.Exit(m.Run())
}

// standIn answers as a node that is ready. The environment variable STUBBORN names nodes that ignore SIGTERM, BROKEN ones that do
// not start.
func standIn() {
	var conf struct {
		Node struct{ ID, Listen string }
	}
	b, err := os.ReadFile(os.Args[3])
	if err == nil {
		err = yaml.Unmarshal(b, &conf)
	}
	if err != nil {
		panic(err)
	}
	if strings.Contains(os.Getenv("BROKEN"), conf.Node.ID) {
		fmt.Println("configuration: node.color: no such field")
		os.Exit(2)
	}
	if strings.Contains(os.Getenv("STUBBORN"), conf.Node.ID) {
		signal.Ignore(syscall.SIGTERM)
	}
	http.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, `{"ready": true, "as_of": %q}`, time.Now().UTC().Format(time.RFC3339))
	})
	panic(http.ListenAndServe(conf.Node.Listen, nil))
}

// superviseUntilKilled is a latchkey-dev that its parent will kill.
func superviseUntilKilled() {
	config := Config{Dir: os.Args[1], Port: 0, Writers: 1, Edges: 1, Programs: filepath.Dir(os.Args[0]), Out: io.Discard}
	fmt.Sscan(os.Args[2], &config.Port)
	fmt.Println(Run(context.Background(), config))
}

// programs returns a folder in which this test program stands under the programs' names.
func programs(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"latchkey-writer", "latchkey-edge", "latchkey-dev"} {
		if err := os.Symlink(self, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// freeBlock returns the first of 100 ports of which those that a small system uses are free.
func freeBlock(t *testing.T) int {
	t.Helper()
	for base := 20000 + os.Getpid()%100*100; base < 32000; base += 100 {
		s := &System{config: Config{Port: base, Writers: 2, Edges: 2}}
		free := true
		for address := range s.ports() {
			free = free && becomesFree(address, time.Time{})
		}
		if free {
			return base
		}
	}
	t.Fatal("no free block of ports")
	return 0
}

func testConfig(t *testing.T) Config {
	t.Helper()
	return Config{Dir: t.TempDir(), Port: freeBlock(t), Writers: 1, Edges: 2, Programs: programs(t), Out: io.Discard}
}

// patience is how long is waited for what comes within a second on a machine that has nothing else to do.
const patience = 45 * time.Second

// eventually polls until the claim holds: for what another process does there is no event to wait for.
func eventually(t *testing.T, claim string, holds func() bool) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for !holds() {
		if time.Now().After(deadline) {
			t.Fatalf("not within %s: %s", patience, claim)
		}
		<-time.After(10 * time.Millisecond)
	}
}

func alive(pid int) bool { return pid > 0 && syscall.Kill(pid, 0) == nil && !zombie(pid) }

func zombie(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err != nil || strings.Contains(string(b), ") Z ")
}

func pids(info Info) (all []int) {
	for _, n := range append(info.Writers, info.Edges...) {
		all = append(all, n.PID)
	}
	return all
}

func mustStart(t *testing.T, config Config) *System {
	t.Helper()
	s, err := Start(t.Context(), config)
	if err != nil {
		t.Fatalf("Start: %v", err)
	}
	return s
}

func TestFileSaysWhereEverythingIs(t *testing.T) {
	config := testConfig(t)
	if err := os.WriteFile(filepath.Join(config.Dir, InfoFile), []byte("of an earlier run"), 0o644); err != nil {
		t.Fatal(err)
	}
	s := mustStart(t, config)
	defer s.Stop()
	info, err := ReadInfo(config.Dir)
	if err != nil {
		t.Fatalf("ReadInfo: %v", err)
	}
	if len(info.Writers) != 1 || len(info.Edges) != 2 {
		t.Fatalf("%d writers and %d edges in the file, want 1 and 2", len(info.Writers), len(info.Edges))
	}
	for _, pid := range pids(info) {
		if !alive(pid) {
			t.Errorf("process %d of the file does not run", pid)
		}
	}
	st, err := os.Stat(filepath.Join(config.Dir, InfoFile))
	if err != nil {
		t.Fatal(err)
	}
	if st.Mode().Perm() != 0o600 {
		t.Errorf("mode of the file is %o, want 600: it holds keys", st.Mode().Perm())
	}
	for env, audience := range map[string]string{"sandbox": "com.example.app/sandbox", "production": "com.example.app"} {
		e := info.Environments[env]
		if e.Audience != audience || !strings.HasPrefix(e.ServerKey, "lk_"+env+"_sk_") || !strings.HasPrefix(e.PublishableKey, "lk_"+env+"_pk_") {
			t.Errorf("environment %s: audience %q, keys of %d and %d bytes", env, e.Audience, len(e.ServerKey), len(e.PublishableKey))
		}
		if hook := e.Webhooks["stripe"]; hook.Path != "/v1/webhooks/"+env+"/stripe" || !strings.HasPrefix(hook.Secret, "whsec_") {
			t.Errorf("environment %s: Stripe's webhook path is %q", env, hook.Path)
		}
		if hook := e.Webhooks["revenuecat"]; hook.Path != "/v1/webhooks/"+env+"/revenuecat" || !strings.HasPrefix(hook.Authorization, "Bearer ") {
			t.Errorf("environment %s: RevenueCat's webhook path is %q", env, hook.Path)
		}
		if hook := e.Webhooks["google"]; hook.Path != "/v1/webhooks/"+env+"/google" || hook.Audience == "" || hook.Email == "" || hook.Package != "com.example.app" || !filepath.IsAbs(hook.OIDCKey) {
			t.Errorf("environment %s: Google's webhook is %+v", env, hook)
		} else if _, err := os.Stat(hook.OIDCKey); err != nil {
			t.Errorf("environment %s: Google's key: %v", env, err)
		}
		checkApple(t, env, e.Webhooks["apple"])
		if hook := e.Webhooks["web2wave"]; hook.Path != "/v1/webhooks/"+env+"/web2wave" || len(hook.Token) < 20 {
			t.Errorf("environment %s: Web2Wave's webhook is %+v", env, hook)
		}
	}
	for _, path := range info.Roots {
		if _, err := os.Stat(path); err != nil || !filepath.IsAbs(path) {
			t.Errorf("root key %s: %v", path, err)
		}
	}
}

func TestSecondStartKeepsSecretsAndKeys(t *testing.T) {
	config := testConfig(t)
	read := func() string {
		s := mustStart(t, config)
		defer s.Stop()
		info := s.Info()
		key, err := os.ReadFile(info.Roots[0])
		if err != nil {
			t.Fatal(err)
		}
		b, err := json.Marshal(info.Environments)
		if err != nil {
			t.Fatal(err)
		}
		return string(b) + string(key)
	}
	if first, second := read(), read(); first != second {
		t.Error("the second start on the same folder has other secrets or keys")
	}
	config.Writers = 2
	if _, err := Start(t.Context(), config); !errors.Is(err, ErrUsage) {
		t.Errorf("Start with another number of writers = %v, want ErrUsage", err)
	}
}

func TestDeadChildIsStartedAgainAndTheFileNamesIt(t *testing.T) {
	config := testConfig(t)
	s := mustStart(t, config)
	defer s.Stop()
	before := s.Info().Edges[0].PID
	killed := time.Now()
	if !alive(before) { // 0 would be our own group
		t.Fatalf("process %d of the first edge does not run", before)
	}
	if err := syscall.Kill(before, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the file names a new process", func() bool {
		info, err := ReadInfo(config.Dir)
		return err == nil && info.Edges[0].PID != before && alive(info.Edges[0].PID)
	})
	if took := time.Since(killed); took < restartAfter {
		t.Errorf("started again after %s, want %s at least: a child that dies at once would take the machine", took, restartAfter)
	}
}

func TestStopLeavesNothingBehind(t *testing.T) {
	tests := []struct {
		name     string
		stubborn string
		within   time.Duration
	}{
		{"children that listen to SIGTERM need not be killed", "none", killAfter},
		{"a child that ignores SIGTERM is killed", "e2", 3 * 5 * time.Second}, // 5 s on a machine of its own
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Setenv("STUBBORN", tt.stubborn)
			s := mustStart(t, testConfig(t))
			running := pids(s.Info())
			began := time.Now()
			if err := s.Stop(); err != nil {
				t.Fatalf("Stop: %v", err)
			}
			if took := time.Since(began); took > tt.within {
				t.Errorf("Stop took %s, want %s at most", took, tt.within)
			}
			for _, pid := range running {
				if alive(pid) {
					t.Errorf("process %d still runs", pid)
				}
			}
		})
	}
}

func TestChildrenEndWhenTheirParentIsKilled(t *testing.T) {
	config := testConfig(t)
	dev := exec.Command(filepath.Join(config.Programs, "latchkey-dev"), config.Dir, fmt.Sprint(config.Port))
	if err := dev.Start(); err != nil {
		t.Fatal(err)
	}
	var info Info
	eventually(t, "the system is ready", func() bool {
		var err error
		info, err = ReadInfo(config.Dir)
		return err == nil
	})
	if err := dev.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	dev.Wait()
	// The next one may come at once, on the same folder and ports, while the children are still ending.
	s := mustStart(t, Config{Dir: config.Dir, Port: config.Port, Writers: 1, Edges: 1, Programs: config.Programs, Out: io.Discard})
	defer s.Stop()
	for _, pid := range pids(info) {
		eventually(t, fmt.Sprintf("process %d ends with its parent", pid), func() bool { return !alive(pid) })
	}
}

func TestStartRefuses(t *testing.T) {
	tests := []struct {
		name    string
		prepare func(*testing.T, *Config)
		want    error
		says    string
	}{
		{"no writers", func(_ *testing.T, c *Config) { c.Writers = 0 }, ErrUsage, "--writers"},
		{"more edges than ports", func(_ *testing.T, c *Config) { c.Edges = 10 }, ErrUsage, "--edges"},
		{"ports beyond the last", func(_ *testing.T, c *Config) { c.Port = 65500 }, ErrUsage, "--port"},
		{"a port that is taken, by name", func(t *testing.T, c *Config) {
			l, err := net.Listen("tcp", c.address(edgePort, 1))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { l.Close() })
		}, ErrPortInUse, "edge e2"},
		{"a folder that another one runs in", func(t *testing.T, c *Config) {
			lock, err := lockDir(c.Dir)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { lock.Close() })
		}, ErrDirInUse, "another latchkey-dev"},
		{"a node that does not come up, with its own words", func(t *testing.T, _ *Config) { t.Setenv("BROKEN", "w1") }, ErrNotReady, "no such field"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			config := testConfig(t)
			tt.prepare(t, &config)
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			s, err := Start(ctx, config)
			if err == nil {
				s.Stop()
			}
			if !errors.Is(err, tt.want) || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("Start = %v, want %v that says %q", err, tt.want, tt.says)
			}
			if _, err := ReadInfo(config.Dir); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("ReadInfo = %v, want that there is no file", err)
			}
		})
	}
}
