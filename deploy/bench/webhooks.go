package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/latchkey/latchkey/edge/cmd/latchkey-bench/load"
)

// How the webhook path is measured.
const (
	webhookWriters  = 3
	webhookInFlight = 256
	webhookGoal     = 0.25
	// webhookAccounts is how many accounts one writer's clients use in one run: so many that hardly one gets a second purchase, as in life.
	webhookAccounts = 4_000
)

// takeWebhooks: webhooks over HTTP to three writers, spread over all nodes, against raft.Apply in as many processes.
func takeWebhooks(ctx context.Context, config config) ([]figure, error) {
	s, err := startSystem(config, webhookWriters, 0)
	if err != nil {
		return nil, err
	}
	defer s.stop()
	accounts, err := s.accounts((1 + rounds) * webhookWriters * webhookAccounts)
	if err != nil {
		return nil, err
	}
	before, err := s.journalBytes()
	if err != nil {
		return nil, err
	}
	perRun := webhookWriters * webhookAccounts
	warm, _, err := s.webhooks(ctx, "warm", accounts[:perRun])
	if err != nil {
		return nil, err
	}
	after, err := s.journalBytes()
	if err != nil {
		return nil, err
	}
	// The journal holds the entries of the log verbatim.
	entry := int(after-before) / warm.Answers
	f, err := startRaftFloor(entry)
	if err != nil {
		return nil, err
	}
	defer f.stop()
	var floors, ours, ratios []float64
	spent := map[string][]float64{}
	for round := range rounds {
		floor, err := f.round()
		if err != nil {
			return nil, fmt.Errorf("floor: %w", err)
		}
		r, cpu, err := s.webhooks(ctx, fmt.Sprintf("r%d", round), accounts[(1+round)*perRun:])
		if err != nil {
			return nil, err
		}
		floors, ours, ratios = append(floors, floor), append(ours, r.PerSecond()), append(ratios, r.PerSecond()/floor)
		for part, seconds := range cpu {
			spent[part] = append(spent[part], seconds*1e6/float64(r.Answers))
		}
	}
	best := slices.Max(floors)
	least, _, greatest := spread(ratios)
	fmt.Fprintf(os.Stderr, "  entries of %d bytes: floor %.0f/s, webhooks %.0f/s\n", entry, best, slices.Max(ours))
	figures := []figure{{Name: "webhooks", Value: slices.Max(ours) / best, Unit: ofFloor, Goal: goal(webhookGoal), Floor: &best, Min: least, Max: greatest, Runs: rounds}}
	for _, part := range []string{"leader", "follower", "client"} {
		least, middle, greatest := spread(spent[part])
		figures = append(figures, figure{Name: "webhook_cpu_" + part, Value: middle, Unit: "us of CPU a webhook", Min: least, Max: greatest, Runs: rounds})
	}
	return figures, nil
}

// accounts makes many accounts at once.
func (r *running) accounts(n int) ([]string, error) {
	const workers = 64
	ids, errs := make([]string, n), make([]error, workers)
	var all sync.WaitGroup
	for w := range workers {
		all.Go(func() {
			for i := w; i < n && errs[w] == nil; i += workers {
				ids[i], errs[w] = r.newAccount()
			}
		})
	}
	all.Wait()
	return ids, errors.Join(errs...)
}

// webhooks runs one round over all writers at once, and says what CPU time, in seconds, the leader, an average follower and this client spent.
func (r *running) webhooks(ctx context.Context, run string, accounts []string) (load.Result, map[string]float64, error) {
	cpuBefore, err := r.cpu()
	if err != nil {
		return load.Result{}, nil, err
	}
	results, errs := make([]load.Result, len(r.info.Writers)), make([]error, len(r.info.Writers))
	var all sync.WaitGroup
	for i, w := range r.info.Writers {
		all.Go(func() {
			host := strings.TrimPrefix(w.URL, "http://")
			hook := r.sandbox().Webhooks["stripe"]
			results[i], errs[i] = load.Run(ctx, load.Config{
				Addr: host, Connections: webhookInFlight / len(r.info.Writers), For: lasts, Status: http.StatusOK,
				Source: load.Webhooks(host, hook.Path, hook.Secret, fmt.Sprintf("%s%s", run, w.ID), accounts[i*webhookAccounts:(i+1)*webhookAccounts]),
			})
		})
	}
	all.Wait()
	if err := errors.Join(errs...); err != nil {
		return load.Result{}, nil, err
	}
	var sum load.Result
	for _, result := range results {
		sum.Answers += result.Answers
		sum.Elapsed = max(sum.Elapsed, result.Elapsed)
	}
	cpuAfter, err := r.cpu()
	if err != nil {
		return load.Result{}, nil, err
	}
	for part := range cpuAfter {
		cpuAfter[part] -= cpuBefore[part]
	}
	return sum, cpuAfter, nil
}

// cpu is the CPU time that each part has spent so far, in seconds.
func (r *running) cpu() (map[string]float64, error) {
	spent := map[string]float64{"leader": 0, "follower": 0}
	for _, w := range r.info.Writers {
		seconds, err := cpuOf(w.PID)
		if err != nil {
			return nil, err
		}
		var ready struct{ Role string }
		if err := r.call(http.MethodGet, w.URL+"/readyz", http.Header{}, nil, http.StatusOK, &ready); err != nil {
			return nil, err
		}
		if ready.Role == "leader" {
			spent["leader"] += seconds
		} else {
			spent["follower"] += seconds / float64(len(r.info.Writers)-1)
		}
	}
	var err error
	spent["client"], err = cpuOf(os.Getpid())
	return spent, err
}

// cpuOf is the CPU time of one process, from the kernel. Source: proc(5), fields utime and stime of stat, in ticks of 1/100 s.
func cpuOf(pid int) (float64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	var user, system float64
	fields := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
	if _, err := fmt.Sscan(fields[11]+" "+fields[12], &user, &system); err != nil {
		return 0, err
	}
	return (user + system) / 100, nil
}

// journalBytes is how much the first writer's journal holds.
func (r *running) journalBytes() (int64, error) {
	files, err := filepath.Glob(filepath.Join(r.info.Writers[0].Dir, "journal", "*"))
	if err != nil {
		return 0, err
	}
	var sum int64
	for _, path := range files {
		st, err := os.Stat(path)
		if err != nil {
			return 0, err
		}
		sum += st.Size()
	}
	return sum, nil
}

// raftFloor is the three processes of the floor program.
type raftFloor struct {
	dir   string
	nodes []*floorNode
}

type floorNode struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

func startRaftFloor(entry int) (f *raftFloor, err error) {
	dir, err := os.MkdirTemp("", "latchkey-bench-")
	if err != nil {
		return nil, err
	}
	f = &raftFloor{dir: dir}
	defer func() {
		if err != nil {
			f.stop()
		}
	}()
	program := filepath.Join(dir, "raftfloor")
	// It knows Raft, so it lies where Raft is known, and only there it can be built.
	if out, err := exec.Command("go", "build", "-o", program, "./writer/internal/store/raftfloor").CombinedOutput(); err != nil {
		return nil, fmt.Errorf("build the floor: %w\n%s", err, out)
	}
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	var nodes []string
	for i := range webhookWriters {
		nodes = append(nodes, fmt.Sprintf("n%d=127.0.0.1:%d", i, port+i))
	}
	for i := range webhookWriters {
		cmd := exec.Command(program, "-id", fmt.Sprintf("n%d", i), "-nodes", strings.Join(nodes, ","), "-dir", filepath.Join(dir, fmt.Sprint(i)),
			"-entry", fmt.Sprint(entry), "-in-flight", fmt.Sprint(webhookInFlight), "-for", lasts.String())
		cmd.Stderr = os.Stderr
		if err := os.Mkdir(filepath.Join(dir, fmt.Sprint(i)), 0o700); err != nil {
			return nil, err
		}
		in, err := cmd.StdinPipe()
		if err != nil {
			return nil, err
		}
		out, err := cmd.StdoutPipe()
		if err != nil {
			return nil, err
		}
		if err := cmd.Start(); err != nil {
			return nil, err
		}
		f.nodes = append(f.nodes, &floorNode{cmd, in, bufio.NewReader(out)})
	}
	return f, nil
}

// electWithin bounds how long the floor may be without a leader at its start.
const electWithin = 20 * time.Second

// round lets the leader drive once and returns its rate.
func (f *raftFloor) round() (float64, error) {
	for deadline := time.Now().Add(electWithin); time.Now().Before(deadline); {
		best := 0.0
		for _, n := range f.nodes {
			if _, err := io.WriteString(n.in, "go\n"); err != nil {
				return 0, err
			}
			var applied, seconds float64
			line, err := n.out.ReadString('\n')
			if err != nil {
				return 0, err
			}
			if _, err := fmt.Sscan(line, &applied, &seconds); err != nil {
				return 0, err
			}
			best = max(best, applied/seconds)
		}
		if best > 0 {
			return best, nil
		}
		<-time.After(100 * time.Millisecond) // no leader yet
	}
	return 0, errors.New("no leader")
}

func (f *raftFloor) stop() {
	for _, n := range f.nodes {
		n.cmd.Process.Signal(syscall.SIGKILL)
		n.cmd.Wait()
	}
	os.RemoveAll(f.dir)
}
