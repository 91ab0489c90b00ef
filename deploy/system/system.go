// Package system runs a whole Latchkey on one machine: each writer and each edge is a process of its own on loopback, with a folder
// of its own. It makes keys, secrets and configuration at the first start, starts a child again that died, and stops all of them in
// the end. It is what latchkey-dev, the end-to-end tests and the benchmarks run on. Start at Run.
//
// Nothing here is meant for production: the root key lies beside everything else, and all trust ends at the folder's permissions.
package system

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

// How long things may take. The last two are promises of the contract.
const (
	readyWithin  = 90 * time.Second // from the first child's start until everything is ready; the slow part is a cold disk, or a busy machine
	restartAfter = time.Second      // from a child's death to its next start
	killAfter    = 4 * time.Second  // from SIGTERM to SIGKILL, so that stopping ends within 5 s whatever a child does
)

// maxNodes is how many writers, and how many edges, fit into the block of ports.
const maxNodes = 9

// Config says what to run.
type Config struct {
	// Dir holds everything: keys, secrets, configuration, each node's data, logs. It is made if absent.
	Dir string

	// Port is the first of the 100 ports that may be used: +1 to +9 writers, +11 to +19 edges, +21 to +29 the writers' internal
	// listeners, +31 to +39 their NATS, +41 to +49 Raft, +51 to +53 the simulated providers, +61 to +69 the NATS servers among themselves.
	Port int

	// Writers and Edges are how many of each. Without edges there is nobody to ask for entitlements but the writers.
	Writers, Edges int

	// TLS puts everything between the nodes under mutual TLS. What apps, providers and operators reach stays plain: a proxy's part.
	TLS bool

	// Storesim runs the simulated providers too, and lets the writers ask them.
	Storesim bool

	// Programs is the folder of latchkey-writer and latchkey-edge, and of latchkey-storesim.
	Programs string

	// Out is where addresses and events are told to the user.
	Out io.Writer

	// Reach returns where the others and clients reach what listens at address: a relay of a test that can cut links. Nil: there itself.
	Reach func(address string) string

	// Launch is called before each start of a node with the command that starts it, and may change it; the node starts when Launch
	// returns. Nil: at once. A Launch that waits must do so no longer than ctx.
	Launch func(ctx context.Context, id string, cmd *exec.Cmd)
}

// reach is where others reach the i-th node's listener of one kind.
func (c Config) reach(kind, i int) string {
	if c.Reach == nil {
		return c.address(kind, i)
	}
	return c.Reach(c.address(kind, i))
}

// ErrUsage means that the Config asks for something that cannot be: nothing was started.
var ErrUsage = errors.New("wrong usage")

func (c Config) check() error {
	switch {
	case c.Writers < 1 || c.Writers > maxNodes:
		return fmt.Errorf("%w: --writers is %d, want 1 to %d", ErrUsage, c.Writers, maxNodes)
	case c.Edges < 0 || c.Edges > maxNodes:
		return fmt.Errorf("%w: --edges is %d, want 0 to %d", ErrUsage, c.Edges, maxNodes)
	case c.Port < 1024 || c.Port > 65535-99:
		return fmt.Errorf("%w: --port is %d, want 1024 to %d", ErrUsage, c.Port, 65535-99)
	case c.Dir == "":
		return fmt.Errorf("%w: --dir is empty", ErrUsage)
	}
	return nil
}

// Run runs the system until ctx ends, and stops it.
func Run(ctx context.Context, config Config) error {
	s, err := Start(ctx, config)
	if err != nil {
		return err
	}
	s.greet()
	<-ctx.Done()
	s.say("stopping")
	return s.Stop()
}

// System is a running system. Make one with Start.
type System struct {
	config  Config
	secrets secrets
	out     sync.Mutex // one line at a time
	lock    *os.File   // held while this process owns Dir

	stop     context.CancelFunc
	children []*child
	done     sync.WaitGroup // of the children's goroutines and of those that watch a restart

	mu    sync.Mutex // one writer of InfoFile at a time
	ready bool       // InfoFile may be written
}

// Start starts every node and returns when the system is ready: each writer answers and one leads, each edge has fresh data. The
// system then runs until Stop, whatever becomes of ctx. Errors: ErrUsage, ErrPortInUse, ErrDirInUse, ErrNotReady, ctx.Err.
func Start(ctx context.Context, config Config) (*System, error) {
	if err := config.check(); err != nil {
		return nil, err
	}
	dir, err := filepath.Abs(config.Dir)
	if err != nil {
		return nil, fmt.Errorf("folder %s: %w", config.Dir, err)
	}
	config.Dir = dir
	s := &System{config: config}
	if err := s.open(); err != nil {
		return nil, err
	}
	running, stop := context.WithCancel(context.Background())
	s.stop = stop
	for _, c := range s.children {
		c.launch = func(ctx context.Context, cmd *exec.Cmd) {
			if config.Launch != nil {
				config.Launch(ctx, c.id, cmd)
			}
		}
		c.ended = func(err error) { s.say("%s ended (%s); it is started again in %s", c.id, err, restartAfter) }
		c.started = func() { s.done.Go(func() { s.restarted(running, c) }) }
		s.done.Go(func() { c.run(running) })
	}
	if err := s.awaitReady(ctx); err != nil {
		return nil, errors.Join(err, s.Stop())
	}
	return s, nil
}

// open takes the folder, and puts there what the nodes need.
func (s *System) open() (err error) {
	if err := os.MkdirAll(s.config.Dir, 0o700); err != nil {
		return fmt.Errorf("make folder: %w", err)
	}
	if s.lock, err = lockDir(s.config.Dir); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			s.lock.Close()
		}
	}()
	// Whoever waits for the file must not find the one of an earlier run.
	if err := os.Remove(s.infoPath()); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove the earlier run's file: %w", err)
	}
	if err := checkPorts(s.ports()); err != nil {
		return err
	}
	if s.secrets, err = loadSecrets(s.config); err != nil {
		return err
	}
	s.children, err = s.prepareNodes()
	return err
}

// ErrDirInUse means that another latchkey-dev runs on the same folder.
var ErrDirInUse = errors.New("folder in use")

// lockDir keeps a second latchkey-dev out of dir until the file is closed or this process ends.
func lockDir(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock folder: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		return nil, fmt.Errorf("%w: another latchkey-dev runs in %s", ErrDirInUse, dir)
	}
	return f, nil
}

// ErrNotReady means that a node did not come up.
var ErrNotReady = errors.New("not ready")

// awaitReady returns when all nodes are ready, and has written the file that says so.
func (s *System) awaitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readyWithin)
	defer cancel()
	for _, c := range s.children {
		if err := c.await(ctx, c.ready); err != nil {
			return fmt.Errorf("%w: %s: %w; the end of %s:\n%s", ErrNotReady, c.id, err, c.logPath, c.logTail())
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ready = true
	return s.writeInfo()
}

// settleWithin is how long a node that was started again gets to become ready before the file is written all the same: an edge that
// is cut off serves and is not ready, and those who read the file need its new process id.
const settleWithin = 2 * time.Second

// restarted writes the file again after a child was started again.
func (s *System) restarted(running context.Context, c *child) {
	if c.await(running, c.healthy) != nil {
		return // it died once more, or everything stops
	}
	settle, cancel := context.WithTimeout(running, settleWithin)
	defer cancel()
	settled := c.await(settle, c.ready)
	if running.Err() != nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.writeInfo(); err != nil {
		s.say("%s runs again, but %s", c.id, err)
		return
	}
	if settled != nil {
		s.say("%s runs again and is not ready: %s", c.id, settled)
		return
	}
	s.say("%s runs again", c.id)
}

// Stop ends every child and returns when they are gone: at most killAfter for one that does not listen. It may be called once.
func (s *System) Stop() error {
	s.stop()
	s.done.Wait()
	return s.lock.Close()
}

// Info returns where everything is at present.
func (s *System) Info() Info {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.describe()
}

// say tells the user one line.
func (s *System) say(format string, args ...any) {
	s.out.Lock()
	defer s.out.Unlock()
	fmt.Fprintf(s.config.Out, format+"\n", args...)
}
