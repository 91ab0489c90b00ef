// Package e2e tests the assembled system from outside: real processes under latchkey-dev, spoken to as providers and apps do.
//
// A test whose claim could break with the number of nodes runs in each size, side by side with others (inEachSize). One about a program alone, such as
// what it prints or how its listener behaves, runs on the smallest; one about what nodes are to one another, on three writers and two edges.
// Each has a system of its own. Those that measure the machine as well as the system do not call t.Parallel: they come first, each alone.
//
// What is awaited comes within a second or two on a machine that has nothing else to do; patience is for others. A promise about time is held to beside
// times what it says, for the same reason: `make chaos` and the benchmark hold the system to it exactly.
//
// E2E_BUILD gives flags to the build of the programs, such as -race.
package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/latchkey/latchkey/deploy/stripemsg"
	"github.com/latchkey/latchkey/deploy/system"
	"github.com/latchkey/latchkey/pkg/openapi/openapitest"
	"github.com/latchkey/latchkey/replication"
)

const (
	patience = 45 * time.Second
	beside   = 3
)

// bin is where TestMain built the programs, so that no test runs against stale ones.
var bin string

func TestMain(m *testing.M) {
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "latchkey-e2e-")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		bin = filepath.Join(dir, "bin")
		args := append([]string{"build", "-o", bin + "/"}, strings.Fields(os.Getenv("E2E_BUILD"))...)
		build := exec.Command("go", append(args, "./writer/cmd/...", "./edge/cmd/...", "./deploy/cmd/...")...)
		build.Dir = filepath.Join("..", "..")
		build.Stdout, build.Stderr = os.Stderr, os.Stderr
		if err := build.Run(); err != nil {
			fmt.Fprintln(os.Stderr, "build the programs:", err)
			return 1
		}
		return m.Run()
	}())
}

// How many nodes a system has, as flags of latchkey-dev.
var (
	smallest = []string{"--writers", "1", "--edges", "1"}
	// threeWriters is the least that outlives a writer: without a majority to elect another there is no leader to kill.
	threeWriters = []string{"--writers", "3", "--edges", "2"}
)

// inEachSize runs a test on the smallest system and on one that outlives the loss of a writer, beside each other and other tests.
func inEachSize(t *testing.T, test func(t *testing.T, size []string)) {
	t.Parallel()
	for _, size := range [][]string{smallest, threeWriters} {
		t.Run(strings.Join(size, " "), func(t *testing.T) {
			t.Parallel()
			test(t, size)
		})
	}
}

// dev is a running latchkey-dev.
type dev struct {
	t      *testing.T
	dir    string
	cmd    *exec.Cmd
	out    *bytes.Buffer // read it only after the end
	ended  chan struct{}
	now    atomic.Pointer[system.Info] // what the file said last; load reads it while a restart changes it
	client *http.Client

	described sync.Once // the nodes' addresses are told to openapitest, which holds what the client exchanges with them to the description of the API
}

// nextBlock spreads the blocks of ports: a test that starts a second system must not meet the first one's.
var nextBlock atomic.Int64

func freeBlock(t *testing.T) int {
	t.Helper()
	for range 200 {
		base := 20000 + int(int64(os.Getpid()%50)+nextBlock.Add(1))%100*100
		free := true
		for port := base; port < base+100 && free; port++ {
			l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
			if free = err == nil; free {
				l.Close()
			}
		}
		if free {
			return base
		}
	}
	t.Fatal("no free block of ports")
	return 0
}

// start runs latchkey-dev on dir until the test ends. args come after those for folder, ports and the smallest size.
func start(t *testing.T, dir string, args ...string) *dev {
	t.Helper()
	return startWith(t, dir, nil, args...)
}

// startWith is start with variables of the environment, NAME=value, that all nodes get.
func startWith(t *testing.T, dir string, environment []string, args ...string) *dev {
	t.Helper()
	d := launchWith(t, dir, environment, args...)
	d.eventually("latchkey-dev is ready", 2*patience, func() error {
		select {
		case <-d.ended:
			t.Fatalf("latchkey-dev ended:\n%s", d.out)
		default:
		}
		return d.read()
	})
	return d
}

// launch starts latchkey-dev and does not wait for it to be ready.
func launch(t *testing.T, dir string, args ...string) *dev {
	t.Helper()
	return launchWith(t, dir, nil, args...)
}

func launchWith(t *testing.T, dir string, environment []string, args ...string) *dev {
	t.Helper()
	args = slices.Concat([]string{"--dir", dir, "--port", strconv.Itoa(freeBlock(t))}, smallest, args)
	d := &dev{t: t, dir: dir, cmd: exec.Command(filepath.Join(bin, "latchkey-dev"), args...), out: &bytes.Buffer{}, ended: make(chan struct{})}
	d.client = &http.Client{Timeout: patience, Transport: openapitest.Transport(&http.Transport{MaxIdleConnsPerHost: 256})}
	d.cmd.Stdout, d.cmd.Stderr = d.out, d.out
	d.cmd.Dir = t.TempDir()
	d.cmd.Env = append(os.Environ(), environment...)
	// latchkey-dev removes the earlier run's file itself, but perhaps not before the first look at it.
	if err := os.Remove(filepath.Join(dir, system.InfoFile)); err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	if err := d.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		d.cmd.Wait()
		close(d.ended)
	}()
	t.Cleanup(func() {
		d.stop()
		d.nothingBroke()
		if t.Failed() {
			d.explain()
		}
	})
	return d
}

// nothingBroke shows that no node panicked, whatever was done to it.
func (d *dev) nothingBroke() {
	d.t.Helper()
	logs, _ := filepath.Glob(filepath.Join(d.dir, "logs", "*.log"))
	for _, path := range logs {
		b, err := os.ReadFile(path)
		if err != nil {
			d.t.Error(err)
		}
		for _, word := range []string{"panic", "fatal error:", "DATA RACE"} {
			if at := bytes.Index(b, []byte(word)); at >= 0 {
				d.t.Errorf("%s says %q:\n%s", filepath.Base(path), word, b[max(0, at-200):min(len(b), at+3000)])
			}
		}
	}
}

// stop ends latchkey-dev, and shows that it takes all its processes with it within 5 s.
func (d *dev) stop() {
	d.t.Helper()
	select {
	case <-d.ended:
		return
	default:
	}
	d.read() // a child may have been started again
	began := time.Now()
	d.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-d.ended:
	case <-time.After(patience):
		d.cmd.Process.Kill()
		<-d.ended
	}
	if took := time.Since(began); took > beside*5*time.Second {
		d.t.Errorf("latchkey-dev took %s to stop, want 5 s at most on a machine of its own", took)
	}
	if code := d.cmd.ProcessState.ExitCode(); code != 0 {
		d.t.Errorf("latchkey-dev ended with %d, want 0:\n%s", code, d.out)
	}
	for _, n := range d.nodes() {
		if n.PID > 0 && syscall.Kill(n.PID, 0) == nil { // one that was between two processes has 0, which to the system call is our own group
			d.t.Errorf("%s (%d) is left running", n.ID, n.PID)
			syscall.Kill(n.PID, syscall.SIGKILL)
		}
	}
}

// explain prints what latchkey-dev said and what the nodes logged last.
func (d *dev) explain() {
	const tail = 3000
	d.t.Logf("latchkey-dev said:\n%s", d.out)
	logs, _ := filepath.Glob(filepath.Join(d.dir, "logs", "*.log"))
	for _, path := range logs {
		b, err := os.ReadFile(path)
		if err == nil {
			d.t.Logf("the end of %s:\n%s", filepath.Base(path), b[max(0, len(b)-tail):])
		}
	}
}

func (d *dev) read() error {
	info, err := system.ReadInfo(d.dir)
	if err == nil {
		d.now.Store(&info)
		d.described.Do(func() {
			var writers, edges []string
			for _, n := range info.Writers {
				writers = append(writers, n.URL)
			}
			for _, n := range info.Edges {
				edges = append(edges, n.URL)
			}
			describe(d.t, writers, edges)
		})
	}
	return err
}

// describe has what is exchanged with the nodes at these addresses held to the description of the API.
func describe(t *testing.T, writers, edges []string) {
	t.Helper()
	for _, url := range writers {
		openapitest.Watch(t, url, openapitest.Writer)
	}
	for _, url := range edges {
		openapitest.Watch(t, url, openapitest.Edge)
	}
}

// info is where everything is; empty before latchkey-dev is ready.
func (d *dev) info() system.Info {
	if info := d.now.Load(); info != nil {
		return *info
	}
	return system.Info{}
}

func (d *dev) nodes() []system.Node { return slices.Concat(d.info().Writers, d.info().Edges) }

// eventually polls until try returns nil: for what other processes do there is no event to wait for.
func (d *dev) eventually(claim string, within time.Duration, try func() error) {
	d.t.Helper()
	if err := poll(within, try); err != nil {
		d.t.Fatalf("not within %s: %s: %v", within, claim, err)
	}
}

func poll(within time.Duration, try func() error) error {
	for deadline := time.Now().Add(within); ; {
		err := try()
		if err == nil {
			return nil
		}
		if time.Now().After(deadline) {
			return err
		}
		<-time.After(10 * time.Millisecond)
	}
}

// answer is an HTTP answer as the tests look at it.
type answer struct {
	status int
	header http.Header
	body   []byte
}

func (a answer) String() string { return fmt.Sprintf("%d %.600s", a.status, a.body) }

// into decodes the body.
func (a answer) into(v any) error {
	if err := json.Unmarshal(a.body, v); err != nil {
		return fmt.Errorf("%s: %w", a, err)
	}
	return nil
}

// problem is the last part of a problem's type.
func (a answer) problem() string {
	var p struct{ Type string }
	json.Unmarshal(a.body, &p)
	return p.Type[strings.LastIndex(p.Type, "/")+1:]
}

func (d *dev) do(ctx context.Context, method, url string, header http.Header, body []byte) (answer, error) {
	req, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(body))
	if err != nil {
		return answer{}, err
	}
	if header != nil {
		req.Header = header
	}
	res, err := d.client.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	return answer{res.StatusCode, res.Header, text}, err
}

// api calls the server API of one writer with the environment's server key.
func (d *dev) api(env string, writer int, method, path string, body any) (answer, error) {
	var b []byte
	if body != nil {
		var err error
		if b, err = json.Marshal(body); err != nil {
			return answer{}, err
		}
	}
	header := http.Header{"Authorization": {"Bearer " + d.info().Environments[env].ServerKey}, "Content-Type": {"application/json"}}
	if method != http.MethodGet {
		header.Set("Idempotency-Key", stripemsg.ID("key"))
	}
	return untilTaken(func() (answer, error) {
		return d.do(context.Background(), method, d.writer(writer)+path, header.Clone(), b)
	})
}

// untilTaken makes a request again for as long as it is answered that none of the writers leads, or that an edge is not at the revision yet: they hold it for
// an election, and a busy machine may take longer.
func untilTaken(ask func() (answer, error)) (answer, error) {
	for began := time.Now(); ; <-time.After(100 * time.Millisecond) {
		got, err := ask()
		if again := got.problem() == "unavailable" || got.problem() == "not-yet"; err != nil || !again || time.Since(began) > patience {
			return got, err
		}
	}
}

func (d *dev) writer(i int) string { return d.info().Writers[i%len(d.info().Writers)].URL }

// account is a customer of the example app, with the session of a phone.
type account struct {
	env     string
	id      string
	session string
}

func (d *dev) account(env string) account {
	d.t.Helper()
	a, err := d.newAccount(env)
	if err != nil {
		d.t.Fatalf("make an account: %v", err)
	}
	return a
}

func (d *dev) newAccount(env string) (account, error) {
	made, err := d.api(env, 0, http.MethodPost, "/v1/accounts", map[string]any{"aliases": []any{}, "attributes": map[string]any{}})
	if err != nil || made.status != http.StatusCreated {
		return account{}, errors.Join(err, fmt.Errorf("POST accounts: %s", made))
	}
	var id struct {
		Account string `json:"account_id"`
	}
	if err := made.into(&id); err != nil {
		return account{}, err
	}
	got, err := d.api(env, 0, http.MethodPost, "/v1/accounts/"+id.Account+"/sessions", map[string]any{"device_id": "phone", "ttl_seconds": 86400})
	if err != nil || got.status != http.StatusCreated {
		return account{}, errors.Join(err, fmt.Errorf("POST sessions: %s", got))
	}
	var session struct {
		Token string `json:"session_token"`
	}
	if err := got.into(&session); err != nil {
		return account{}, err
	}
	return account{env, id.Account, session.Token}, nil
}

// recorded is a webhook's answer.
type recorded struct {
	EventID   string `json:"event_id"`
	Revision  string `json:"revision"`
	Duplicate bool   `json:"duplicate"`
}

// post sends a message to one writer as Stripe does.
func (d *dev) post(env string, writer int, message stripemsg.Object) (answer, error) {
	body := stripemsg.Encode(message)
	hook := d.info().Environments[env].Webhooks["stripe"]
	return d.postSigned(env, writer, body, stripemsg.Sign(hook.Secret, body, time.Now()))
}

func (d *dev) postSigned(env string, writer int, body []byte, signature string) (answer, error) {
	header := http.Header{"Content-Type": {"application/json; charset=utf-8"}, "Stripe-Signature": {signature}}
	return d.do(context.Background(), http.MethodPost, d.writer(writer)+d.info().Environments[env].Webhooks["stripe"].Path, header, body)
}

// mustPost is post for messages that must be recorded.
func (d *dev) mustPost(env string, writer int, message stripemsg.Object) recorded {
	d.t.Helper()
	a, err := untilTaken(func() (answer, error) { return d.post(env, writer, message) })
	if err != nil || a.status != http.StatusOK {
		d.t.Fatalf("POST %s: %s, %v, want 200", message["type"], a, err)
	}
	var r recorded
	if err := a.into(&r); err != nil {
		d.t.Fatal(err)
	}
	return r
}

// view is an edge's answer, as far as the tests look at it.
type view struct {
	Account      string        `json:"account_id"`
	Revision     string        `json:"revision"`
	AsOf         time.Time     `json:"as_of"`
	FreshUntil   time.Time     `json:"fresh_until"`
	Stale        bool          `json:"stale"`
	State        string        `json:"state"`
	Entitlements []entitlement `json:"entitlements"`
	Token        string        `json:"grace_token"`
}

type entitlement struct {
	ID          string `json:"id"`
	Active      bool   `json:"active"`
	Status      string `json:"status"`
	Reason      string `json:"reason"`
	ExpiresAt   string `json:"expires_at"`
	AccessUntil string `json:"access_until"`
	WillRenew   bool   `json:"will_renew"`
	Plan        string `json:"plan"`
}

func (v view) pro() entitlement {
	for _, e := range v.Entitlements {
		if e.ID == "pro" {
			return e
		}
	}
	return entitlement{Status: "none"}
}

func (d *dev) ask(a account, edge int, query string) (answer, error) {
	return d.do(context.Background(), http.MethodGet, d.info().Edges[edge].URL+"/v1/entitlements"+query, http.Header{"Authorization": {"Bearer " + a.session}}, nil)
}

// mustAsk returns what one edge answers at revision or newer; empty is any.
func (d *dev) mustAsk(a account, edge int, revision string) view {
	d.t.Helper()
	query := ""
	if revision != "" {
		query = "?wait=10&min_revision=" + revision
	}
	got, err := untilTaken(func() (answer, error) { return d.ask(a, edge, query) })
	if err != nil || got.status != http.StatusOK {
		d.t.Fatalf("GET entitlements of %s at %s: %s, %v, want 200", a.id, d.info().Edges[edge].ID, got, err)
	}
	var v view
	if err := got.into(&v); err != nil {
		d.t.Fatal(err)
	}
	return v
}

// askOnce is mustAsk for answers that are pending: a request that names a time would be held for them.
func (d *dev) askOnce(a account, edge int, revision string) (v view) {
	d.t.Helper()
	d.eventually("an edge is at "+revision, patience, func() error {
		got, err := d.ask(a, edge, "?min_revision="+revision)
		if err == nil && got.status != http.StatusOK {
			err = fmt.Errorf("%s", got)
		}
		if err == nil {
			err = got.into(&v)
		}
		return err
	})
	return v
}

// nodeStatus is the part of /status that says what a node holds.
type nodeStatus struct {
	Epoch     uint64    `json:"epoch"`
	Revision  uint64    `json:"revision"`
	AsOf      time.Time `json:"as_of"`
	StateHash string    `json:"state_hash"`
	Source    string    `json:"source"`
}

func (d *dev) status(n system.Node) (nodeStatus, error) {
	var s nodeStatus
	a, err := d.do(context.Background(), http.MethodGet, n.URL+"/status", nil, nil)
	if err != nil {
		return s, err
	}
	if a.status != http.StatusOK {
		return s, fmt.Errorf("GET /status of %s: %s", n.ID, a)
	}
	return s, a.into(&s)
}

// agree waits until every node holds the same revision with the same state hash (I3, I6), and returns it.
func (d *dev) agree() (first nodeStatus) {
	d.t.Helper()
	d.eventually("all nodes hold the same state", patience, func() error {
		for i, n := range d.nodes() {
			s, err := d.status(n)
			if err != nil {
				return err
			}
			if s.StateHash == "" {
				return fmt.Errorf("%s shows no state hash", n.ID)
			}
			if i == 0 {
				first = s
			}
			if s.Epoch != first.Epoch || s.Revision != first.Revision || s.StateHash != first.StateHash {
				return fmt.Errorf("%s is at %d-%d %s, %s at %d-%d %s", d.nodes()[0].ID, first.Epoch, first.Revision, first.StateHash, n.ID, s.Epoch, s.Revision, s.StateHash)
			}
		}
		return nil
	})
	return first
}

// kill ends a node's process as a power cut would, and returns when another one runs in its place.
func (d *dev) kill(n system.Node) {
	d.t.Helper()
	d.signal(syscall.SIGKILL, n)
	d.awaitRestart(n)
}

// awaitRestart returns when the file names another process for n.
func (d *dev) awaitRestart(n system.Node) {
	d.t.Helper()
	d.eventually(n.ID+" runs again", patience, func() error {
		if err := d.read(); err != nil {
			return err
		}
		for _, m := range d.nodes() {
			if m.ID == n.ID && m.PID != n.PID && m.PID != 0 {
				return nil
			}
		}
		return errors.New("the file does not name a new process")
	})
}

// signal sends sig to the processes of some nodes.
func (d *dev) signal(sig syscall.Signal, nodes ...system.Node) {
	d.t.Helper()
	for _, n := range nodes {
		if n.PID <= 0 { // to the system call all processes of a group
			d.t.Fatalf("%s to %s: it does not run", sig, n.ID)
		}
		if err := syscall.Kill(n.PID, sig); err != nil {
			d.t.Fatalf("%s to %s: %v", sig, n.ID, err)
		}
	}
}

// newest returns the newer of two revisions; empty is the oldest.
func newest(t *testing.T, a, b string) string {
	t.Helper()
	if a == "" || mustRevision(t, a).Compare(mustRevision(t, b)) < 0 {
		return b
	}
	return a
}

func mustRevision(t *testing.T, s string) replication.Revision {
	t.Helper()
	r, err := replication.ParseRevision(s)
	if err != nil {
		t.Fatalf("revision %q: %v", s, err)
	}
	return r
}
