package chaos

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
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/latchkey/latchkey/deploy/system"
)

// Cluster is a running system of which every link goes through a relay.
type Cluster struct {
	dir      string
	programs string
	port     int
	relay    *Relay
	sys      *system.System
	nats     *natsServer       // nil: the writers run their own
	reached  map[string]string // by address: where it is reached through the relay
	plant    []string

	mu       sync.Mutex
	starting map[string]*start // by node
	mounted  []string

	beforeUnmount func() error // nil: nothing
}

// start says how a node is started next.
type start struct {
	held chan struct{} // closed when the node may start; nil: it may
	env  []string      // of the next start alone
}

// shape is what a run consists of.
type shape struct {
	dir            string
	programs       string
	writers, edges int
	outsideNATS    bool
	tmpfs          string // node whose folder is a file system of its own, to be filled; empty: none
	log            io.Writer
	plant          []string // faults that every node carries
}

// portsFrom and portsTo are where a free block of ports is searched: below those that the end-to-end tests use, and below those that the system
// gives to connections, which could take the port of a node that is down.
const portsFrom, portsTo = 10000, 20000

func freeBlock() (int, error) {
	for n := range (portsTo - portsFrom) / 100 {
		base := portsFrom + (os.Getpid()+n)%100*100
		free := true
		for port := base; port < base+100 && free; port++ {
			l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
			if free = err == nil; free {
				l.Close()
			}
		}
		if free {
			return base, nil
		}
	}
	return 0, errors.New("no free block of ports")
}

// startCluster starts everything and returns when it is ready.
func startCluster(ctx context.Context, s shape) (c *Cluster, err error) {
	c = &Cluster{dir: s.dir, programs: s.programs, plant: slices.Clip(s.plant), reached: map[string]string{}, starting: map[string]*start{}}
	c.relay = NewRelay(newSockets(s.dir).who)
	defer func() {
		if err != nil {
			err = errors.Join(err, c.Stop())
		}
	}()
	if c.port, err = freeBlock(); err != nil {
		return c, err
	}
	if s.tmpfs != "" {
		if err := c.mount(s.tmpfs); err != nil {
			return c, err
		}
	}
	if s.outsideNATS {
		if c.nats, err = startNATS(c.relay, c.port+natsOffset); err != nil {
			return c, err
		}
	}
	c.sys, err = system.Start(ctx, system.Config{
		Dir: s.dir, Port: c.port, Writers: s.writers, Edges: s.edges, Programs: s.programs, Out: s.log, Reach: c.reach, Launch: c.launch,
	})
	return c, err
}

// Stop ends everything.
func (c *Cluster) Stop() error {
	var errs []error
	c.mu.Lock()
	for _, s := range c.starting {
		s.release()
	}
	c.mu.Unlock()
	if c.sys != nil {
		errs = append(errs, c.sys.Stop())
	}
	if c.nats != nil {
		c.nats.kill()
	}
	c.relay.Close()
	if c.beforeUnmount != nil {
		errs = append(errs, c.beforeUnmount())
	}
	for _, dir := range c.mounted {
		errs = append(errs, unmount(dir))
	}
	return errors.Join(errs...)
}

// The parts of the block of ports, as system.Config.Port tells them: tens of the offset to what listens there.
var portKinds = map[int]struct{ prefix, kind string }{
	0: {"w", KindPublic}, 1: {"e", KindPublic}, 2: {"w", KindInternal}, 3: {"w", KindNATS}, 4: {"w", KindRaft}, 6: {"w", KindRoute},
}

// natsOffset is where an outside NATS server has its place in the block of ports: it is stopped and started again, and must find it free.
const natsOffset = 99

// reach returns the relay's door to an address of a node, which it opens at the first call.
func (c *Cluster) reach(address string) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if door := c.reached[address]; door != "" {
		return door
	}
	_, text, err := net.SplitHostPort(address)
	if err != nil {
		panic(err) // the system makes its addresses itself
	}
	port, err := strconv.Atoi(text)
	if err != nil {
		panic(err)
	}
	offset := port - c.port
	part := portKinds[offset/10]
	door, err := c.relay.Listen(address, part.prefix+strconv.Itoa(offset%10), part.kind)
	if err != nil {
		panic(fmt.Errorf("relay: %w", err)) // of a free port on loopback
	}
	c.reached[address] = door
	return door
}

func (c *Cluster) startOf(id string) *start {
	s := c.starting[id]
	if s == nil {
		s = &start{}
		c.starting[id] = s
	}
	return s
}

func (s *start) release() {
	if s.held != nil {
		close(s.held)
		s.held = nil
	}
}

// launch is called before each start of a node.
func (c *Cluster) launch(ctx context.Context, id string, cmd *exec.Cmd) {
	c.mu.Lock()
	held := c.startOf(id).held
	c.mu.Unlock()
	if held != nil {
		select {
		case <-held:
		case <-ctx.Done():
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.startOf(id)
	cmd.Env = append(os.Environ(), "LATCHKEY_FAULT_CLOCK="+c.clockFile(id), "LATCHKEY_FAULT_PLANT="+strings.Join(append(c.plant, always), ","))
	if c.nats != nil {
		cmd.Env = append(cmd.Env, "LATCHKEY_NATS_URLS=nats://"+c.nats.door)
	}
	cmd.Env = append(cmd.Env, s.env...)
	s.env = nil
}

// always is planted in every node. It makes rare things frequent: snapshots are taken, and needed by followers that were away, within a
// short run.
const always = "frequent-snapshots"

// hold keeps the node from being started again until release.
func (c *Cluster) hold(id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if s := c.startOf(id); s.held == nil {
		s.held = make(chan struct{})
	}
}

// release lets the node start, with env added to its environment this once.
func (c *Cluster) release(id string, env ...string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.startOf(id)
	s.env = env
	s.release()
}

func (c *Cluster) clockFile(id string) string { return filepath.Join(c.dir, "clock-"+id) }

// setClock makes the node's clock wrong by off.
func (c *Cluster) setClock(id string, off time.Duration) error {
	path := c.clockFile(id)
	if err := os.WriteFile(path+".tmp", []byte(off.String()), 0o600); err != nil {
		return err
	}
	return os.Rename(path+".tmp", path)
}

func (c *Cluster) info() system.Info { return c.sys.Info() }

func (c *Cluster) ids(prefix string) (ids []string) {
	info := c.info()
	for _, n := range append(info.Writers, info.Edges...) {
		if strings.HasPrefix(n.ID, prefix) {
			ids = append(ids, n.ID)
		}
	}
	return ids
}

func (c *Cluster) node(id string) system.Node {
	info := c.info()
	for _, n := range append(info.Writers, info.Edges...) {
		if n.ID == id {
			return n
		}
	}
	return system.Node{}
}

// url is where clients reach the node, through the relay.
func (c *Cluster) url(id string) string {
	return "http://" + c.reach(strings.TrimPrefix(c.node(id).URL, "http://"))
}

// signal sends sig to the node's process. It is no error that there is none at the moment.
func (c *Cluster) signal(id string, sig syscall.Signal) {
	if pid := c.node(id).PID; pid > 0 {
		_ = syscall.Kill(pid, sig)
	}
}

// pollEvery is how often what another process does is looked at.
const pollEvery = 20 * time.Millisecond

// await polls until done is true, for at most within.
func await(ctx context.Context, within time.Duration, done func() bool) bool {
	for deadline := time.Now().Add(within); ; {
		if done() {
			return true
		}
		if time.Now().After(deadline) || pause(ctx, pollEvery) != nil {
			return false
		}
	}
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// gone waits until the process that ran when pid was read runs no more.
func (c *Cluster) gone(ctx context.Context, id string, pid int, within time.Duration) bool {
	return await(ctx, within, func() bool { return c.node(id).PID != pid || pid == 0 })
}

// up waits until a process other than pid runs and answers.
func (c *Cluster) up(ctx context.Context, id string, pid int) bool {
	return await(ctx, time.Minute, func() bool {
		n := c.node(id)
		return n.PID != 0 && n.PID != pid && c.status(ctx, id, &struct{}{}) == nil
	})
}

// observer asks the nodes themselves, not through the relay: what is watched must not depend on what is cut.
var observer = &http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 4, IdleConnTimeout: 10 * time.Second}}

// status reads the node's /status.
func (c *Cluster) status(ctx context.Context, id string, into any) error {
	return getJSON(ctx, c.node(id).URL+"/status", into)
}

func getJSON(ctx context.Context, url string, into any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	res, err := observer.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		return err
	}
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("GET %s: %d %.200s", url, res.StatusCode, body)
	}
	return json.Unmarshal(body, into)
}

// leader is the writer that says that it leads, as most of the others see it; empty: none does.
func (c *Cluster) leader(ctx context.Context) string {
	votes := map[string]int{}
	writers := c.ids("w")
	for _, id := range writers {
		var s struct{ Leader string }
		if c.status(ctx, id, &s) == nil && s.Leader != "" {
			votes[s.Leader]++
		}
	}
	for id, n := range votes {
		if n > len(writers)/2 {
			return id
		}
	}
	return ""
}

// run executes a command of a program under test, with the node's configuration.
func (c *Cluster) run(ctx context.Context, id string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 60*time.Second)
	defer cancel()
	program := "latchkey-writer"
	if strings.HasPrefix(id, "e") {
		program = "latchkey-edge"
	}
	args = append(args, "--config", filepath.Join(c.dir, "config", id+".yaml"))
	out, err := exec.CommandContext(ctx, filepath.Join(c.programs, program), args...).CombinedOutput()
	if err != nil {
		return string(out), fmt.Errorf("%s %s: %w: %.300s", program, strings.Join(args, " "), err, out)
	}
	return string(out), nil
}
