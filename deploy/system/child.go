package system

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"runtime"
	"sync/atomic"
	"syscall"
	"time"
)

// child is one node as a process that is started again whenever it dies.
type child struct {
	id      string
	role    role
	url     string
	dir     string
	program string
	args    []string
	logPath string

	pid atomic.Int64 // of the present process, 0 between two

	launch  func(ctx context.Context, cmd *exec.Cmd) // called before each start; it may change the command and may wait
	started func()                                   // called after each start but the first
	ended   func(err error)                          // called when it died without being asked to
	last    atomic.Value                             // string: why it died last
	misused atomic.Bool                              // it died last because of its configuration: starting it again cannot help
}

// exitUsage is a program's exit code for wrong usage, a mistake in its configuration included.
const exitUsage = 2

type role string

const (
	roleWriter role = "writer"
	roleEdge   role = "edge"
	roleStores role = "storesim"
)

// maxLogBytes is when a child's log is begun anew at its next start.
const maxLogBytes = 64 << 20

// run keeps the child running until ctx ends. Then it gets SIGTERM and, if that does not help, SIGKILL; run returns when it is gone.
func (c *child) run(ctx context.Context) {
	// The kernel kills the child when the thread that started it ends (see attributes), so this goroutine keeps its thread.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	for first := true; ctx.Err() == nil; first = false {
		err := c.runOnce(ctx, first)
		if ctx.Err() != nil {
			return
		}
		c.last.Store(err.Error())
		var exit *exec.ExitError
		c.misused.Store(errors.As(err, &exit) && exit.ExitCode() == exitUsage)
		c.ended(err)
		select {
		case <-ctx.Done():
		case <-time.After(restartAfter):
		}
	}
}

var errEnded = errors.New("ended by itself")

func (c *child) runOnce(ctx context.Context, first bool) error {
	out, err := c.openLog()
	if err != nil {
		return err
	}
	defer out.Close()
	cmd := exec.CommandContext(ctx, c.program, c.args...)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = attributes()
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = killAfter
	c.launch(ctx, cmd)
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start: %w", err)
	}
	c.pid.Store(int64(cmd.Process.Pid))
	defer c.pid.Store(0)
	if !first {
		c.started()
	}
	if err := cmd.Wait(); err != nil {
		return err
	}
	return errEnded
}

func (c *child) openLog() (*os.File, error) {
	mode := os.O_WRONLY | os.O_CREATE | os.O_APPEND
	if st, err := os.Stat(c.logPath); err == nil && st.Size() > maxLogBytes {
		mode |= os.O_TRUNC
	}
	f, err := os.OpenFile(c.logPath, mode, 0o600)
	if err != nil {
		return nil, fmt.Errorf("log: %w", err)
	}
	return f, nil
}

// logTail returns the last lines that the child wrote, for a person who wants to know why it does not come up.
func (c *child) logTail() string {
	f, err := os.Open(c.logPath)
	if err != nil {
		return ""
	}
	defer f.Close()
	const tail = 2000
	if st, err := f.Stat(); err == nil && st.Size() > tail {
		if _, err := f.Seek(-tail, io.SeekEnd); err != nil {
			return ""
		}
	}
	b, err := io.ReadAll(f)
	if err != nil {
		return ""
	}
	return string(b)
}

// pollEvery is how often a node that is coming up is asked.
const pollEvery = 25 * time.Millisecond

// await asks until the answer is yes. Its error is that of ctx, with the last reason for a no, or why the process died.
func (c *child) await(ctx context.Context, ask func(context.Context) error) error {
	for {
		err := ask(ctx)
		if err == nil {
			return nil
		}
		if c.misused.Load() {
			return errors.New("its configuration is refused")
		}
		select {
		case <-ctx.Done():
			if died, ok := c.last.Load().(string); ok {
				err = fmt.Errorf("%w (it died: %s)", err, died)
			}
			return err
		case <-time.After(pollEvery):
		}
	}
}

var probe = &http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}

func (c *child) get(ctx context.Context, path string, into any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.url+path, nil)
	if err != nil {
		return err
	}
	res, err := probe.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, 1<<20))
	if err != nil {
		return err
	}
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("GET %s: %d %.300s", path, res.StatusCode, body)
	}
	if into == nil {
		return nil
	}
	return json.Unmarshal(body, into)
}

// healthy reports whether the process answers at all.
func (c *child) healthy(ctx context.Context) error { return c.get(ctx, "/healthz", nil) }

// freshWithin is how old an edge's data may be when the system calls itself ready.
const freshWithin = 5 * time.Second

// ready reports whether the node can do its work: a writer is in a cluster that has a leader, an edge holds fresh data.
func (c *child) ready(ctx context.Context) error {
	if err := c.get(ctx, "/readyz", nil); err != nil {
		return err
	}
	if c.role != roleEdge {
		return nil
	}
	var status struct {
		AsOf time.Time `json:"as_of"`
	}
	if err := c.get(ctx, "/status", &status); err != nil {
		return err
	}
	if age := time.Since(status.AsOf); age > freshWithin {
		return fmt.Errorf("its data is %s old", age.Round(time.Second))
	}
	return nil
}
