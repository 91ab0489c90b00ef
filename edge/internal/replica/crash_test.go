package replica_test

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/latchkey/latchkey/edge/internal/replica"
	"github.com/latchkey/latchkey/replication"
)

const rebuildDir = "LATCHKEY_TEST_REBUILD_DIR"

// newer is how many steps the snapshot is ahead of the replica that it replaces.
const newer = 5

func (h *history) snapshot() (body *bytes.Buffer, m replication.Manifest, err error) {
	body = &bytes.Buffer{}
	info, err := replication.WriteSnapshot(body, h.each)
	return body, replication.Manifest{Position: h.pos, Size: info.Size, SHA256: info.SHA256}, err
}

// rebuild is what the process that dies does: a snapshot replaces what is in dir, one batch follows, and an orderly end.
func rebuild(dir string) error {
	r, err := replica.Open(replica.Config{Dir: dir, Rules: rules})
	if err != nil {
		return err
	}
	h := newHistory()
	for h.pos.N < r.Head().N {
		h.step()
	}
	for range newer {
		h.step()
	}
	body, m, err := h.snapshot()
	if err != nil {
		return err
	}
	c, err := r.Build(context.Background(), m, body)
	if err != nil {
		return err
	}
	if err := r.Adopt(c); err != nil {
		return err
	}
	changes := h.step()
	if err := r.Apply(h.pos, changes); err != nil {
		return err
	}
	return r.Close()
}

// TestACrashLeavesTheOldOrTheNewReplica is I13 and I16 for a replica that is built anew: killed at each step, the next process finds the old records or the
// new ones, whole and proven, and nothing is left over. With no old ones there it finds none or the new ones.
func TestACrashLeavesTheOldOrTheNewReplica(t *testing.T) {
	const (
		old = iota
		fresh
		batch
	)
	type step struct {
		point string // name, and which time
		want  int    // where there was an old one
		first int    // where there was none: a file is looked for by its name, which it gets when it has passed all tests
	}
	steps := []step{
		{"replica-file-written:1", old, old}, // OPEN
		{"replica-build-filling:1", old, old},
		{"replica-build-filled:1", old, old},
		{"replica-build-proven:1", old, old},
		{"replica-commit:1", old, old}, // as_of goes over to the copy
		{"replica-committed:1", old, old},
		{"replica-adopt-synced:1", old, old},
		{"replica-adopt-christened:1", old, fresh},
		{"replica-file-written:2", old, fresh}, // CURRENT
		{"replica-adopt-named:1", fresh, fresh},
		{"replica-adopt-closed:1", fresh, fresh},
		{"replica-adopt-done:1", fresh, fresh},
		{"replica-apply:1", fresh, fresh},
		{"replica-applied:1", batch, batch},
	}
	program := filepath.Join(t.TempDir(), "replica.test")
	if out, err := exec.Command("go", "test", "-c", "-tags", "faults", "-o", program, ".").CombinedOutput(); err != nil {
		t.Fatalf("build with crash points: %v\n%s", err, out)
	}
	base := t.TempDir()
	r := open(t, base)
	h := newHistory()
	h.step()
	body, m, err := h.snapshot()
	if err != nil {
		t.Fatal(err)
	}
	c, err := r.Build(t.Context(), m, body)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Adopt(c); err != nil {
		t.Fatal(err)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	before := takeImage(t, base)
	die := func(t *testing.T, dir, point string) {
		t.Helper()
		cmd := exec.Command(program)
		cmd.Env = append(os.Environ(), rebuildDir+"="+dir, "LATCHKEY_FAULT_CRASH="+point)
		out, err := cmd.CombinedOutput()
		if status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || status.Signal() != syscall.SIGKILL {
			t.Fatalf("the process was not killed at %s: %v\n%s", point, err, out)
		}
	}
	// is fails unless the replica in dir is the history after so many steps; none of them is no replica.
	is := func(t *testing.T, dir string, steps int) {
		t.Helper()
		r := open(t, dir)
		defer r.Close()
		want := newHistory()
		for range steps {
			want.step()
		}
		if steps == 0 {
			want.pos = replication.Position{}
		} else {
			waitProven(t, r)
		}
		if got := r.Head().Position; got != want.pos {
			t.Fatalf("Head() = %+v, want %+v", got, want.pos)
		}
		for _, rec := range want.records {
			if got, _, found, err := r.Lookup(rec.Env, rec.Kind, rec.Key); err != nil || !found || !bytes.Equal(got, rec.Value) {
				t.Fatalf("Lookup(%s) = %.40q, %t, %v", rec.Key, got, found, err)
			}
		}
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
		left, err := filepath.Glob(filepath.Join(dir, "*"))
		if err != nil {
			t.Fatal(err)
		}
		files := slices.DeleteFunc(left, func(name string) bool { return !strings.HasSuffix(name, ".db") && !strings.HasSuffix(name, ".tmp") })
		if want := min(steps, 1); len(files) != want {
			t.Errorf("files left: %v, want %d", files, want)
		}
	}
	for _, step := range steps {
		t.Run(step.point, func(t *testing.T) {
			t.Parallel()
			dir := before.restore(t)
			die(t, dir, step.point)
			write(t, filepath.Join(dir, "snapshot-1.tmp"), 0, []byte("a download that was cut off"))
			is(t, dir, map[int]int{old: 1, fresh: 1 + newer, batch: 1 + newer + 1}[step.want])
			if err := rebuild(dir); err != nil { // and it goes on from there
				t.Errorf("a new snapshot after the crash: %v", err)
			}
			empty := t.TempDir()
			if step.point == "replica-adopt-closed:1" {
				return // there is no old file to close
			}
			die(t, empty, step.point)
			is(t, empty, map[int]int{old: 0, fresh: newer, batch: newer + 1}[step.first])
		})
	}
	source, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range source {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, found := range regexp.MustCompile(`fault\.Point\("([a-z-]+)"\)`).FindAllSubmatch(text, -1) {
			if name := string(found[1]); !slices.ContainsFunc(steps, func(s step) bool { return strings.HasPrefix(s.point, name+":") }) {
				t.Errorf("%s: nothing dies at %s", path, name)
			}
		}
	}
}
