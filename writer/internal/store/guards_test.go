package store

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	wal "github.com/hashicorp/raft-wal"
)

// What is shown here: a node whose disk fails or hangs, or that is sent snapshots for ever, ends its process, and says why in one line.

// TestEveryWriteOfTheLogIsGuarded: none of them may get past the guard, as it would if disk lacked the method of its own.
func TestEveryWriteOfTheLogIsGuarded(t *testing.T) {
	log, err := wal.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if err := log.Close(); err != nil { // every write fails from here on
		t.Fatal(err)
	}
	var fatal error
	d := &disk{WAL: log, fatal: func(err error) { fatal = err }, timeout: time.Minute, sync: func(float64) { t.Error("a failed write was measured as done") }}
	entry := &raft.Log{Index: 1, Term: 1, Type: raft.LogCommand, Data: []byte("x")}
	for name, write := range map[string]func() error{
		"StoreLog":    func() error { return d.StoreLog(entry) },
		"StoreLogs":   func() error { return d.StoreLogs([]*raft.Log{entry}) },
		"DeleteRange": func() error { return d.DeleteRange(1, 1) },
		"Set":         func() error { return d.Set([]byte("vote"), []byte("w1")) },
		"SetUint64":   func() error { return d.SetUint64([]byte("term"), 7) },
	} {
		fatal = nil
		if err := write(); err == nil || fatal == nil || !errors.Is(fatal, wal.ErrClosed) {
			t.Errorf("%s on a broken disk: %v, and the process is ended with %v", name, err, fatal)
		}
	}
}

// TestSnapshotsForEver: raft#697 sends the same one for ever; a leader that cuts its log meanwhile sends newer ones, which may go on for a while.
func TestSnapshotsForEver(t *testing.T) {
	source := newMachine(t, 1<<20)
	newer := func() []byte {
		source.apply(create("acc_1"))
		return packedSnapshot(t, source)
	}
	restore := func(m *machine, packed []byte) error { return m.Restore(io.NopCloser(bytes.NewReader(packed))) }
	start := func() *machine {
		m := newMachine(t, 1<<20)
		m.running.Store(true)
		return m
	}
	t.Run("newer ones are taken, up to a limit", func(t *testing.T) {
		m := start()
		for i := range maxRestoresInARow {
			if err := restore(m, newer()); err != nil || m.fault != nil {
				t.Fatalf("restore %d: %v, fault %v", i+1, err, m.fault)
			}
		}
		if err := restore(m, newer()); !errors.Is(err, errRestoreLoop) || !errors.Is(m.fault, errRestoreLoop) {
			t.Errorf("restore %d: %v, fault %v; want errRestoreLoop", maxRestoresInARow+1, err, m.fault)
		}
	})
	t.Run("what is applied between them begins the count anew", func(t *testing.T) {
		m := start()
		for i := range 3 * maxRestoresInARow {
			if err := restore(m, newer()); err != nil || m.fault != nil {
				t.Fatalf("restore %d: %v, fault %v", i+1, err, m.fault)
			}
			m.index = m.state.Applied
			m.apply(create("acc_2"))
		}
	})
	t.Run("at the start the same one may be read twice", func(t *testing.T) {
		m, packed := start(), newer()
		m.running.Store(false)
		for range 2 {
			if err := restore(m, packed); err != nil || m.fault != nil {
				t.Fatalf("restore: %v, fault %v", err, m.fault)
			}
		}
	})
}

const endVariable = "LATCHKEY_STORE_TEST_END" // "<how> <dir>"

// endItself is a child process with a fault. The hook that ends it is the store's own. It returns only when that did not.
func endItself(argument string) error {
	var how, dir string
	if _, err := fmt.Sscan(argument, &how, &dir); err != nil {
		return err
	}
	var log failingLog
	s, err := Open(Config{Dir: dir, ID: "w1", Cluster: testCluster, Listen: "127.0.0.1:0", Voters: []Voter{{ID: "w1", Addr: "127.0.0.1:1"}},
		Logger: slog.New(slog.NewJSONHandler(&log, nil)), InitialMmapBytes: 1 << 28, HeartbeatTimeout: 100 * time.Millisecond, LeaderLease: 100 * time.Millisecond})
	if err != nil {
		return err
	}
	ctx := context.Background()
	if _, err := s.LeaderContext(ctx); err != nil {
		return err
	}
	if _, err := s.Propose(ctx, create("acc_1").Encode()); err != nil {
		return err
	}
	fmt.Println("acknowledged")
	log.hangs.Store(how == "hang-and-mute")
	switch how {
	case "write-fails": // every file is as long as it may be
		signal.Ignore(syscall.SIGXFSZ)
		if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &syscall.Rlimit{Cur: 1, Max: 1}); err != nil {
			return err
		}
		_, err := s.Propose(ctx, create("acc_2").Encode())
		return fmt.Errorf("still here after a failed write: %w", err)
	default: // while somebody holds the state, for whom the end must not wait
		s.fsm.mu.Lock()
		hanging := &disk{fatal: s.disk.fatal, timeout: 200 * time.Millisecond, sync: s.disk.sync} // for the store's own, a busy machine's is slow and does not hang
		return hanging.guard("store log entries", func() error { select {} })
	}
}

// failingLog is standard error until it goes to the disk that hangs.
type failingLog struct{ hangs atomic.Bool }

func (l *failingLog) Write(b []byte) (int, error) {
	if l.hangs.Load() {
		select {}
	}
	return os.Stderr.Write(b)
}

func TestAFaultEndsTheProcess(t *testing.T) {
	tests := []struct {
		how   string
		lines int
		says  string
	}{
		{"write-fails", 1, "store log entries"},
		{"hang", 1, "has not returned for 200ms"},
		{"hang-and-mute", 0, ""},
	}
	for _, tt := range tests {
		t.Run(tt.how, func(t *testing.T) {
			child := exec.CommandContext(testContext(t), os.Args[0], "-test.run=^$")
			child.Env = append(os.Environ(), endVariable+"="+tt.how+" "+t.TempDir())
			var said, acknowledged strings.Builder
			child.Stderr, child.Stdout = &said, &acknowledged
			err := child.Run()
			var exit *exec.ExitError
			if !errors.As(err, &exit) || exit.ExitCode() != 1 {
				t.Errorf("the process ended with %v, want status 1; it said %s", err, said.String())
			}
			if acknowledged.String() != "acknowledged\n" {
				t.Errorf("it acknowledged %q", acknowledged.String())
			}
			var lines []string
			for s := bufio.NewScanner(strings.NewReader(said.String())); s.Scan(); {
				var line struct{ Level, Msg, Error string }
				if err := json.Unmarshal(s.Bytes(), &line); err != nil {
					t.Errorf("not a line of the log: %s", s.Text())
				}
				if line.Level == "ERROR" && line.Msg == "store cannot go on" {
					lines = append(lines, line.Error)
				}
			}
			if len(lines) != tt.lines || tt.lines > 0 && !strings.Contains(lines[0], tt.says) {
				t.Errorf("the log says why in %q, want %d line with %q", lines, tt.lines, tt.says)
			}
		})
	}
}

// TestTheFirstStampWaitsForAClockThatIsBelieved: it binds all others, as stamps never go back.
func TestTheFirstStampWaitsForAClockThatIsBelieved(t *testing.T) {
	var asked atomic.Int64
	wrong := errors.New("ten minutes ahead")
	believed := func() bool { return asked.Load() > 5 }
	nodes := startCluster(t, 1, func(c *Config) {
		c.TrustClock = func() error {
			if asked.Add(1); !believed() {
				return wrong
			}
			return nil
		}
		c.Now = func() time.Time {
			if !believed() {
				return time.Unix(startTime+600, 0)
			}
			return time.Unix(startTime, 0)
		}
	})
	leader := leaderOf(t, nodes...)
	if s := leader.Stats(); s.Stamp != startTime {
		t.Errorf("the first command is stamped %d, want %d", s.Stamp, startTime)
	}
	asked.Store(-1 << 40)
	if _, err := leader.Propose(testContext(t), create("acc_1").Encode()); !errors.Is(err, ErrClock) || !errors.Is(err, wrong) {
		t.Errorf("a command under a clock that is not believed: %v, want ErrClock and why", err)
	}
	if err := leader.CheckClock(); !errors.Is(err, ErrClock) {
		t.Errorf("CheckClock = %v, want ErrClock", err)
	}
}
