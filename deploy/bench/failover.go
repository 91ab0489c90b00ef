package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/latchkey/latchkey/deploy/stripemsg"
	"github.com/latchkey/latchkey/deploy/system"
	"github.com/latchkey/latchkey/edge/cmd/latchkey-bench/load"
)

// How failover is measured: whoever leads is killed as by a power cut while messages come in at every writer, again and again.
const (
	leaderKills     = 100
	failoverClients = 16
	failoverP50     = 2500 // ms
	failoverP99     = 5000
	// betweenKills is how many more acknowledgements the next kill waits for, once all writers are level.
	betweenKills = 200
	// retryIn is when a message that was not acknowledged is sent again.
	retryIn = 20 * time.Millisecond
	// levelWithin bounds how long a writer that was killed may take to be level with the others again.
	levelWithin = 30 * time.Second
)

// takeFailover: the longest time without an acknowledgement around each kill of the leader, and how many acknowledged events are not at every
// writer afterwards.
func takeFailover(ctx context.Context, config config) ([]figure, error) {
	s, err := startSystem(config, webhookWriters, 0)
	if err != nil {
		return nil, err
	}
	defer s.stop()
	s.client.Timeout = 12 * time.Second // a writer holds a message for at most 8 s
	accounts, err := s.accounts(1000)
	if err != nil {
		return nil, err
	}
	running, stop := context.WithCancel(ctx)
	defer stop()
	acks := &acknowledgements{}
	var clients sync.WaitGroup
	for c := range failoverClients {
		clients.Go(func() { s.insist(running, acks, rand.New(rand.NewPCG(1, uint64(c))), accounts) })
	}
	var gaps []float64
	for kill := range leaderKills {
		if err := s.level(ctx, acks.count()+betweenKills, acks); err != nil {
			return nil, fmt.Errorf("before kill %d: %w", kill, err)
		}
		began, err := s.killLeader()
		if err != nil {
			return nil, err
		}
		if err := waitUntil(ctx, levelWithin, func() error { return acks.resumed(began) }); err != nil {
			return nil, fmt.Errorf("after kill %d: %w", kill, err)
		}
		gaps = append(gaps, milliseconds(acks.longest(began)))
	}
	if err := s.level(ctx, acks.count()+betweenKills, acks); err != nil {
		return nil, err
	}
	stop()
	clients.Wait()
	if err := s.level(ctx, 0, acks); err != nil {
		return nil, err
	}
	lost, err := s.missing(acks.ids())
	if err != nil {
		return nil, err
	}
	slices.Sort(gaps)
	least, most := gaps[0], gaps[len(gaps)-1]
	fmt.Fprintf(os.Stderr, "  %d acknowledged, %d lost, %d kills\n", acks.count(), lost, leaderKills)
	return []figure{
		{Name: "failover_p50", Value: gaps[len(gaps)/2], Unit: "ms", Goal: goal(failoverP50), Min: least, Max: most, Runs: leaderKills},
		{Name: "failover_p99", Value: gaps[min(len(gaps)*99/100, len(gaps)-1)], Unit: "ms", Goal: goal(failoverP99), Min: least, Max: most, Runs: leaderKills},
		{Name: "failover_lost", Value: float64(lost), Unit: "events", Goal: goal(1), Min: float64(lost), Max: float64(lost), Runs: leaderKills},
	}, nil
}

// acknowledgements are what was acknowledged, and when.
type acknowledgements struct {
	mu    sync.Mutex
	times []time.Time // in order
	all   []string
}

func (a *acknowledgements) add(id string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.times, a.all = append(a.times, time.Now()), append(a.all, id)
}

func (a *acknowledgements) count() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.all)
}

func (a *acknowledgements) ids() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.all)
}

// resumed returns nil once acknowledgements come steadily again after t: so many that none of them can be from before.
func (a *acknowledgements) resumed(t time.Time) error {
	const steadily = 4 * failoverClients
	a.mu.Lock()
	defer a.mu.Unlock()
	at, _ := slices.BinarySearchFunc(a.times, t, time.Time.Compare)
	if n := len(a.times) - at; n < steadily {
		return fmt.Errorf("%d acknowledgements since", n)
	}
	return nil
}

// longest is the longest time without an acknowledgement since t.
func (a *acknowledgements) longest(t time.Time) (longest time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	at, _ := slices.BinarySearchFunc(a.times, t, time.Time.Compare)
	for last := t; at < len(a.times); at++ {
		longest, last = max(longest, a.times[at].Sub(last)), a.times[at]
	}
	return longest
}

// insist sends one message after the other, each until it is acknowledged, to writers by lot.
func (r *running) insist(ctx context.Context, acks *acknowledgements, lot *rand.Rand, accounts []string) {
	for ctx.Err() == nil {
		now := time.Now()
		message := stripemsg.NewSubscription(stripemsg.Basil, accounts[lot.IntN(len(accounts))], now).Updated("created", now)
		for ctx.Err() == nil {
			if _, err := r.postTo(lot.IntN(len(r.info.Writers)), message); err == nil {
				acks.add(message["id"].(string))
				break
			}
			select {
			case <-time.After(retryIn):
			case <-ctx.Done():
			}
		}
	}
}

// postTo sends a message to one writer and returns the revision at which it shows.
func (r *running) postTo(writer int, message stripemsg.Object) (string, error) {
	body := stripemsg.Encode(message)
	hook := r.sandbox().Webhooks["stripe"]
	header := http.Header{"Stripe-Signature": {stripemsg.Sign(hook.Secret, body, time.Now())}, "Content-Type": {"application/json"}}
	var done struct{ Revision string }
	err := r.call(http.MethodPost, r.info.Writers[writer].URL+hook.Path, header, body, http.StatusOK, &done)
	return done.Revision, err
}

// killLeader kills whoever leads and returns when it did.
func (r *running) killLeader() (time.Time, error) {
	for _, w := range r.system.Info().Writers {
		var ready struct{ Role string }
		if err := r.call(http.MethodGet, w.URL+"/readyz", http.Header{}, nil, http.StatusOK, &ready); err == nil && ready.Role == "leader" {
			return time.Now(), r.kill(w.ID)
		}
	}
	return time.Time{}, errors.New("no leader to kill")
}

// level returns when so many messages are acknowledged, and every writer is ready and hardly behind the others.
func (r *running) level(ctx context.Context, acked int, acks *acknowledgements) error {
	const hardly = 500 // entries
	return waitUntil(ctx, levelWithin, func() error {
		if n := acks.count(); n < acked {
			return fmt.Errorf("%d of %d acknowledged", n, acked)
		}
		var applied []uint64
		for _, w := range r.info.Writers {
			var s struct {
				Ready   bool   `json:"ready"`
				Applied uint64 `json:"applied_index"`
			}
			if err := r.call(http.MethodGet, w.URL+"/status", http.Header{}, nil, http.StatusOK, &s); err != nil {
				return err
			}
			if !s.Ready {
				return fmt.Errorf("%s is not ready", w.ID)
			}
			applied = append(applied, s.Applied)
		}
		if slices.Max(applied)-slices.Min(applied) > hardly {
			return fmt.Errorf("writers are at %v", applied)
		}
		return nil
	})
}

// waitUntil polls: for what other processes do there is no event to wait for.
func waitUntil(ctx context.Context, within time.Duration, try func() error) error {
	for deadline := time.Now().Add(within); ; {
		err := try()
		if err == nil {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("not within %s: %w", within, err)
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// missing counts the events that are not at every writer.
func (r *running) missing(ids []string) (int, error) {
	const workers = 8
	header := http.Header{"Authorization": {"Bearer " + r.sandbox().ServerKey}}
	gone, errs := make([]int, workers), make([]error, workers)
	var all sync.WaitGroup
	for part := range workers {
		all.Go(func() {
			for i := part; i < len(ids) && errs[part] == nil; i += workers {
				for _, w := range r.info.Writers {
					status, err := r.statusOf(w.URL+"/v1/events/"+ids[i], header)
					if errs[part] = err; status == http.StatusNotFound {
						gone[part]++
						break
					}
				}
			}
		})
	}
	all.Wait()
	sum := 0
	for _, n := range gone {
		sum += n
	}
	return sum, errors.Join(errs...)
}

func (r *running) statusOf(url string, header http.Header) (int, error) {
	req, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		return 0, err
	}
	req.Header = header
	res, err := r.client.Do(req)
	if err != nil {
		return 0, err
	}
	defer res.Body.Close()
	if _, err := io.Copy(io.Discard, res.Body); err != nil {
		return 0, err
	}
	if res.StatusCode != http.StatusOK && res.StatusCode != http.StatusNotFound {
		return 0, fmt.Errorf("GET %s: %d", url, res.StatusCode)
	}
	return res.StatusCode, nil
}

// How propagation under load is measured.
const (
	loadPerSecond    = 500
	loadLasts        = 60 * time.Second
	loadWarms        = 15 * time.Second
	loadAccounts     = 1500 // each gets a message every three seconds: Stripe's times are whole seconds
	propagation500   = 250  // ms
	loadSettles      = 2 * time.Second
	growthOfMemory   = 1.25 // times: the collector's phase alone makes a tenth
	growthOfRoutines = 1.25
)

// takePropagation500: from the scheduled send of a webhook until every edge has answered at its revision, at 500 a second for a minute; and by how
// much memory and goroutines of the nodes grow from the minute's first quarter to its last.
func takePropagation500(ctx context.Context, config config) ([]figure, error) {
	s, err := startSystem(config, webhookWriters, 2)
	if err != nil {
		return nil, err
	}
	defer s.stop()
	s.client.Transport = &http.Transport{MaxIdleConnsPerHost: 2048}
	ids, err := s.accounts(loadAccounts)
	if err != nil {
		return nil, err
	}
	_, session, err := s.account()
	if err != nil {
		return nil, err
	}
	subs := make([]*stripemsg.Subscription, len(ids))
	for i, id := range ids {
		subs[i] = stripemsg.NewSubscription(stripemsg.Basil, id, time.Now())
	}
	const quarter = loadLasts / 4
	if _, err := s.steadily(ctx, loadWarms, subs, session); err != nil {
		return nil, err
	}
	var took []time.Duration
	var grown [2]footprint
	for i := range 4 {
		part, err := s.steadily(ctx, quarter, subs, session)
		if err != nil {
			return nil, err
		}
		took = append(took, part...)
		if i == 0 || i == 3 {
			// A connection that is kept open costs its server a goroutine, and how many the client keeps is the client's matter.
			s.client.CloseIdleConnections()
			select {
			case <-time.After(loadSettles):
			case <-ctx.Done():
				return nil, ctx.Err()
			}
			if grown[i/3], err = s.footprint(); err != nil {
				return nil, err
			}
		}
	}
	slices.Sort(took)
	p50, p99 := milliseconds(took[len(took)/2]), milliseconds(took[len(took)*99/100])
	memory, routines := grown[1].memory/grown[0].memory, grown[1].routines/grown[0].routines
	return []figure{
		{Name: "propagation_500_p99", Value: p99, Unit: "ms", Goal: goal(propagation500), Min: milliseconds(took[0]), Max: milliseconds(took[len(took)-1]), Runs: 1},
		{Name: "propagation_500_p50", Value: p50, Unit: "ms", Min: milliseconds(took[0]), Max: milliseconds(took[len(took)-1]), Runs: 1},
		{Name: "propagation_500_memory", Value: memory, Unit: "times", Goal: goal(growthOfMemory), Min: memory, Max: memory, Runs: 1},
		{Name: "propagation_500_goroutines", Value: routines, Unit: "times", Goal: goal(growthOfRoutines), Min: routines, Max: routines, Runs: 1},
	}, nil
}

// steadily sends messages on a schedule for a while, one subscription after the other, and returns how long each took to every edge.
func (r *running) steadily(ctx context.Context, d time.Duration, subs []*stripemsg.Subscription, session string) ([]time.Duration, error) {
	var (
		mu    sync.Mutex
		took  []time.Duration
		errs  []error
		works sync.WaitGroup
	)
	ticks := time.NewTicker(time.Second / loadPerSecond)
	defer ticks.Stop()
	for n := range int(d.Seconds() * loadPerSecond) {
		var scheduled time.Time
		select {
		case scheduled = <-ticks.C:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		sub := subs[n%len(subs)]
		sub.CancelAtPeriodEnd = !sub.CancelAtPeriodEnd
		message := sub.Updated("updated", scheduled)
		works.Go(func() {
			revision, err := r.postTo(n%len(r.info.Writers), message)
			if err == nil {
				err = r.visible(session, revision)
			}
			mu.Lock()
			defer mu.Unlock()
			took, errs = append(took, time.Since(scheduled)), append(errs, err)
		})
	}
	works.Wait()
	return took, errors.Join(errs...)
}

// footprint is what all nodes take together.
type footprint struct{ memory, routines float64 }

// footprint reads each node's memory that no file stands behind, and its goroutines.
func (r *running) footprint() (sum footprint, err error) {
	for _, n := range slices.Concat(r.info.Writers, r.info.Edges) {
		anonymous, err := procStatus(n.PID, "RssAnon:")
		if err != nil {
			return sum, err
		}
		routines, err := r.metric(n.URL, "go_goroutines")
		if err != nil {
			return sum, err
		}
		sum.memory, sum.routines = sum.memory+anonymous, sum.routines+routines
	}
	return sum, nil
}

// procStatus reads a number from the kernel's status of a process. Source: proc(5).
func procStatus(pid int, field string) (float64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(b)) {
		if words := strings.Fields(line); len(words) > 1 && words[0] == field {
			return strconv.ParseFloat(words[1], 64)
		}
	}
	return 0, fmt.Errorf("no %s of process %d", field, pid)
}

// metric reads one metric without labels.
func (r *running) metric(base, name string) (float64, error) {
	res, err := r.client.Get(base + "/metrics")
	if err != nil {
		return 0, err
	}
	defer res.Body.Close()
	for lines := bufio.NewScanner(res.Body); lines.Scan(); {
		if value, ours := strings.CutPrefix(lines.Text(), name+" "); ours {
			return strconv.ParseFloat(value, 64)
		}
	}
	return 0, fmt.Errorf("%s has no metric %s", base, name)
}

// How ingest without a follower is measured.
const (
	followerDownGoal  = 0.8 // of the undisturbed rate
	followerDownLasts = 8 * time.Second
	followerDownRuns  = 3
	// followerDownAccounts is so many that accounts have but a few purchases at the end of all runs: with more, each message costs more.
	followerDownAccounts = 16_000
)

// takeFollowerDown: webhooks over HTTP to the leader and one follower, while the other follower is down and while it catches up, against the
// same with all there: the mean of the run before these two and of the one after, as each run leaves more behind than it found.
func takeFollowerDown(ctx context.Context, config config) ([]figure, error) {
	var downs, catches []float64
	for range followerDownRuns {
		r, err := withoutFollower(ctx, config)
		if err != nil {
			return nil, err
		}
		all := (r.before + r.after) / 2
		fmt.Fprintf(os.Stderr, "  all there %.0f/s, one down %.0f/s, catching up %.0f/s, all there %.0f/s\n", r.before, r.down, r.catching, r.after)
		downs, catches = append(downs, r.down/all), append(catches, r.catching/all)
	}
	figures := []figure{{Name: "webhooks_follower_down"}, {Name: "webhooks_follower_catches_up"}}
	for i, ratios := range [][]float64{downs, catches} {
		f := &figures[i]
		f.Unit, f.Goal, f.Runs = ofUndisturbed, goal(followerDownGoal), followerDownRuns
		f.Min, f.Value, f.Max = spread(ratios)
	}
	return figures, nil
}

// followerDown is webhooks a second: with all writers there, without one follower, while it catches up, and with all there again.
type followerDown struct{ before, down, catching, after float64 }

// withoutFollower measures in a system of its own: every run finds accounts as full and a log as long.
func withoutFollower(ctx context.Context, config config) (r followerDown, err error) {
	gate := &gate{}
	s, err := startGated(config, webhookWriters, gate)
	if err != nil {
		return r, err
	}
	defer s.stop()
	defer gate.open()
	accounts, err := s.accounts(followerDownAccounts)
	if err != nil {
		return r, err
	}
	away, targets, err := s.parted()
	if err != nil {
		return r, err
	}
	ingest := func(run string) (float64, error) {
		r, err := s.ingest(ctx, run, accounts, targets)
		return r.PerSecond(), err
	}
	if _, err = ingest("warm"); err != nil {
		return r, err
	}
	if r.before, err = ingest("before"); err != nil {
		return r, err
	}
	gate.shut(away.ID)
	if err = s.kill(away.ID); err != nil {
		return r, err
	}
	if r.down, err = ingest("down"); err != nil {
		return r, err
	}
	gate.open()
	if err = waitUntil(ctx, levelWithin, func() error { _, err := s.statusOf(away.URL+"/healthz", http.Header{}); return err }); err != nil {
		return r, err
	}
	if r.catching, err = ingest("catching"); err != nil {
		return r, err
	}
	if err = s.level(ctx, 0, &acknowledgements{}); err != nil {
		return r, err
	}
	r.after, err = ingest("after")
	return r, err
}

// gate keeps one node from being started again.
type gate struct {
	mu     sync.Mutex
	node   string
	opened chan struct{} // nil: it is open
}

func (g *gate) shut(node string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.node, g.opened = node, make(chan struct{})
}

func (g *gate) open() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.opened != nil {
		close(g.opened)
		g.opened = nil
	}
}

func (g *gate) launch(ctx context.Context, node string, _ *exec.Cmd) {
	g.mu.Lock()
	opened := g.opened
	wait := opened != nil && node == g.node
	g.mu.Unlock()
	if wait {
		select {
		case <-opened:
		case <-ctx.Done():
		}
	}
}

// startGated is startSystem for writers of which one can be kept down.
func startGated(config config, writers int, g *gate) (*running, error) {
	dir, err := os.MkdirTemp("", "latchkey-bench-")
	if err != nil {
		return nil, err
	}
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	s, err := system.Start(context.Background(), system.Config{Dir: dir, Port: port, Writers: writers, Programs: config.programs, Out: io.Discard, Launch: g.launch})
	if err != nil {
		os.RemoveAll(dir)
		return nil, err
	}
	client := &http.Client{Timeout: 15 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 1024}}
	return &running{system: s, info: s.Info(), client: client, dir: filepath.Clean(dir)}, nil
}

// kill ends a writer at once.
func (r *running) kill(id string) error {
	for _, w := range r.system.Info().Writers {
		if w.ID == id && w.PID > 0 { // between two processes it is 0: to the system call our own group
			return syscall.Kill(w.PID, syscall.SIGKILL)
		}
	}
	return fmt.Errorf("%s has no process to kill", id)
}

// parted chooses the follower that will be away, and returns the other two writers.
func (r *running) parted() (away system.Node, rest []system.Node, err error) {
	for _, w := range r.info.Writers {
		var ready struct{ Role string }
		if err := r.call(http.MethodGet, w.URL+"/readyz", http.Header{}, nil, http.StatusOK, &ready); err != nil {
			return away, nil, err
		}
		if ready.Role != "leader" && away.ID == "" {
			away = w
		} else {
			rest = append(rest, w)
		}
	}
	return away, rest, nil
}

// ingest runs one round of webhooks over some writers.
func (r *running) ingest(ctx context.Context, run string, accounts []string, targets []system.Node) (load.Result, error) {
	results, errs := make([]load.Result, len(targets)), make([]error, len(targets))
	hook := r.sandbox().Webhooks["stripe"]
	var all sync.WaitGroup
	for i, w := range targets {
		all.Go(func() {
			host := strings.TrimPrefix(w.URL, "http://")
			results[i], errs[i] = load.Run(ctx, load.Config{
				Addr: host, Connections: webhookInFlight / len(targets), For: followerDownLasts, Status: http.StatusOK,
				Source: load.Webhooks(host, hook.Path, hook.Secret, run+w.ID, accounts),
			})
		})
	}
	all.Wait()
	var sum load.Result
	for _, result := range results {
		sum.Answers += result.Answers
		sum.Elapsed = max(sum.Elapsed, result.Elapsed)
	}
	return sum, errors.Join(errs...)
}
