package store

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/hashicorp/raft"

	"github.com/latchkey/latchkey/pkg/entitlement"
)

// A restart goes on with the state file only where all of it is certain to be what was written; else it is made anew. Either way the state is
// the same.
func TestARestartKeepsTheStateWhereItIsCertain(t *testing.T) {
	tests := []struct {
		name   string
		before func(t *testing.T, cfg *Config)
		kept   bool
	}{
		{"the process ended", func(*testing.T, *Config) {}, true},
		{"the machine was started anew", func(_ *testing.T, cfg *Config) { cfg.bootID = "another" }, false},
		{"nobody vouches for the file", func(t *testing.T, cfg *Config) { remove(t, filepath.Join(cfg.Dir, voucherFile)) }, false},
		{"the voucher is no voucher", func(t *testing.T, cfg *Config) { write(t, filepath.Join(cfg.Dir, voucherFile), []byte("{")) }, false},
		{"the file is a copy", func(t *testing.T, cfg *Config) {
			path := filepath.Join(cfg.Dir, stateFile)
			content := read(t, path)
			write(t, path+".copy", content)
			if err := os.Rename(path+".copy", path); err != nil {
				t.Fatal(err)
			}
		}, false},
		{"the file is none", func(t *testing.T, cfg *Config) { write(t, filepath.Join(cfg.Dir, stateFile), make([]byte, 64<<10)) }, false},
		{"the journal lost its end", func(t *testing.T, cfg *Config) {
			files, err := filepath.Glob(filepath.Join(cfg.Dir, "journal", "*.seg"))
			if err != nil || len(files) == 0 {
				t.Fatal(files, err)
			}
			if err := os.Truncate(files[len(files)-1], 1); err != nil {
				t.Fatal(err)
			}
		}, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			n := startCluster(t, 1, nil)[0]
			leaderOf(t, n)
			for _, c := range []Command{create("acc_1", customer("cus_1")), record(event("evt_1", subscription("sub_1", startTime, entitlement.Active, "acc_1")))} {
				propose(t, []*node{n}, c)
			}
			catchUp(t, n)
			before := n.Stats()
			n.close(t)
			tt.before(t, &n.cfg)
			n.open(t)
			if got := n.Stats().Kept; got != tt.kept {
				t.Errorf("kept = %t, want %t", got, tt.kept)
			}
			leaderOf(t, n)
			catchUp(t, n)
			if after := n.Stats(); after.Position != before.Position || after.FullHash != before.FullHash || after.JournalHash != before.JournalHash {
				t.Errorf("after the restart %+v, before %+v", after, before)
			}
			checkState(t, n.fsm)
			propose(t, []*node{n}, create("acc_2"))
			n.close(t)
		})
	}
}

// A state file that changed between two processes is used for no longer than it takes to compute its hashes; then the process ends, and the next
// one makes the state anew.
func TestAKeptStateThatChangedEndsTheProcessOnce(t *testing.T) {
	n := startCluster(t, 1, nil)[0]
	leaderOf(t, n)
	propose(t, []*node{n}, create("acc_1", customer("cus_to_be_found")))
	catchUp(t, n)
	before := n.Stats()
	n.close(t)
	path := filepath.Join(n.cfg.Dir, stateFile)
	content := read(t, path)
	if !bytes.Contains(content, []byte("cus_to_be_found")) {
		t.Fatal("the alias is not in the file")
	}
	file, err := os.OpenFile(path, os.O_RDWR, 0) // the same file: a rename would make another
	if err != nil {
		t.Fatal(err)
	}
	if _, err := file.WriteAt(bytes.ReplaceAll(content, []byte("cus_to_be_found"), []byte("cus_to_be_fount")), 0); err != nil {
		t.Fatal(err)
	}
	if err := file.Close(); err != nil {
		t.Fatal(err)
	}
	fatal := make(chan error, 1)
	usual := n.cfg.Fatal
	n.cfg.Fatal = func(err error) {
		select {
		case fatal <- err:
		default:
		}
	}
	n.open(t)
	select {
	case err := <-fatal:
		if !errors.Is(err, errUnproven) {
			t.Errorf("fatal: %v, want errUnproven", err)
		}
	case <-testContext(t).Done():
		t.Fatal("a changed state was taken for whole")
	}
	n.close(t)
	n.cfg.Fatal = usual
	n.open(t)
	if n.Stats().Kept {
		t.Error("the changed state was kept again")
	}
	leaderOf(t, n)
	catchUp(t, n)
	if after := n.Stats(); after.Position != before.Position || after.FullHash != before.FullHash {
		t.Errorf("made anew %+v, before %+v", after, before)
	}
	n.close(t)
}

// A kept state must go with Raft's files: behind a snapshot that was installed it lacks what was compacted, beyond the log it has what no majority may
// have.
func TestAKeptStateFitsRaftsFiles(t *testing.T) {
	tests := []struct {
		name                    string
		applied, snapshot, last uint64
		want                    bool
	}{
		{"within the log", 7, 0, 9, true},
		{"at the end of the log", 9, 0, 9, true},
		{"beyond the log", 10, 0, 9, false},
		{"at the snapshot", 5, 5, 9, true},
		{"behind the snapshot", 4, 5, 9, false},
		{"at a snapshot that emptied the log", 9, 9, 0, true},
		{"a new disk", 0, 0, 0, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			logs, snapshots := raft.NewInmemStore(), raft.NewInmemSnapshotStore()
			if tt.last > 0 {
				if err := logs.StoreLog(&raft.Log{Index: tt.last}); err != nil {
					t.Fatal(err)
				}
			}
			if tt.snapshot > 0 {
				sink, err := snapshots.Create(raft.SnapshotVersionMax, tt.snapshot, 1, raft.Configuration{}, 1, nil)
				if err != nil {
					t.Fatal(err)
				}
				if err := sink.Close(); err != nil {
					t.Fatal(err)
				}
			}
			f := &fsm{state: state{Applied: tt.applied}}
			if got, err := f.fits(logs, snapshots); err != nil || got != tt.want {
				t.Errorf("fits = %t, %v, want %t", got, err, tt.want)
			}
		})
	}
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func write(t *testing.T, path string, content []byte) {
	t.Helper()
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
}

func remove(t *testing.T, path string) {
	t.Helper()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
}
