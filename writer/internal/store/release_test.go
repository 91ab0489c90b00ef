package store

import (
	"archive/tar"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/latchkey/latchkey/pkg/entitlement"
)

// Each release leaves a data folder in testdata/release-<n>: log, snapshot, journal, and what its own program made of them. Every later program must
// open it and come to the same. The folder of a release that is out is never written anew: `go test -run TestDataOfEachReleaseIsRead -update` writes
// that of newestRelease alone.

// newestRelease is the release that is being made.
const newestRelease = 1

// released is what a release's own program found in its folder, by name: hashes in hex, numbers in decimal.
type released map[string]string

func releasedOf(s Stats) released {
	p := s.Position
	return released{"cluster": p.Cluster, "epoch": fmt.Sprint(p.Epoch), "revision": fmt.Sprint(p.N), "chain": p.Chain.String(), "state_hash": p.StateHash.String(),
		"rules": fmt.Sprint(p.Rules), "full_hash": s.FullHash.String(), "applied_index": fmt.Sprint(s.AppliedIndex), "stamp": fmt.Sprint(s.Stamp),
		"change_log_floor": fmt.Sprint(s.Floor), "journal_segment": fmt.Sprint(s.JournalSegment), "journal_offset": fmt.Sprint(s.JournalOffset),
		"journal_tail": s.JournalHash.String(), "voters": fmt.Sprint(s.Voters)}
}

// releaseConfig is that of the node that owns the folder.
func releaseConfig(t *testing.T, dir string) Config {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	voters := []Voter{{ID: "w1", Addr: "127.0.0.1:8441"}}
	cfg := testConfig(t, dir, voters, 0, l)
	cfg.Fatal = func(err error) { t.Errorf("fatal: %v", err) }
	cfg.SegmentBytes, cfg.SnapshotThreshold, cfg.TrailingLogs = 8<<10, 1<<20, 5
	return cfg
}

// TestDataOfEachReleaseIsRead opens the folder of every release, from its snapshot and its log, and compares every hash with what that release's own
// program had. The node then goes on: it takes a command, and its journal replays to the same state.
func TestDataOfEachReleaseIsRead(t *testing.T) {
	if *update {
		writeRelease(t, filepath.Join("testdata", fmt.Sprintf("release-%d", newestRelease)))
	}
	for n := 1; n <= newestRelease; n++ {
		t.Run(fmt.Sprintf("release %d", n), func(t *testing.T) {
			from := filepath.Join("testdata", fmt.Sprintf("release-%d", n))
			dir := t.TempDir()
			unpackFolder(t, filepath.Join(from, "data.tar.gz"), dir)
			var want released
			text, err := os.ReadFile(filepath.Join(from, "state.json"))
			if err == nil {
				err = json.Unmarshal(text, &want)
			}
			if err != nil {
				t.Fatal(err)
			}
			s := &node{cfg: releaseConfig(t, dir)}
			rules, err := strconv.ParseUint(want["rules"], 10, 32)
			if err != nil {
				t.Fatal(err)
			}
			s.cfg.Rules = uint32(rules) // as one of the release's own would, it leaves them as they are
			s.open(t)
			leaderOf(t, s)
			catchUp(t, s)
			stats := s.Stats()
			// Leading again is an entry of Raft alone: nothing of ours was added.
			got := releasedOf(stats)
			for name := range want {
				if got[name] != want[name] {
					t.Errorf("%s is %s, its own program had %s", name, got[name], want[name])
				}
			}
			if len(want) != len(got) {
				t.Errorf("%d of %d values are compared", len(want), len(got))
			}
			if stats.Restores != 1 {
				t.Errorf("%d snapshots restored, want the release's", stats.Restores)
			}
			checkState(t, s.fsm)
			if missing, err := s.fsm.missingSegments(); err != nil || len(missing) > 0 {
				t.Errorf("segments %v are missing, %v", missing, err)
			}
			s.close(t)
			s.cfg = releaseConfig(t, dir)
			s.open(t)
			leaderOf(t, s)
			awaitRules(t, s, RulesVersion)
			propose(t, []*node{s}, create("acc_of_a_later_program"))
			checkState(t, s.fsm)
			now := s.Stats()
			replayed, err := Replay(testContext(t), ReplayConfig{Dir: dir, Into: t.TempDir(), SegmentBytes: s.cfg.SegmentBytes})
			if err != nil || replayed.Position != now.Position || replayed.FullHash != now.FullHash {
				t.Errorf("the journal replays to %+v, %v; the node is at %+v", replayed, err, now)
			}
		})
	}
}

// awaitRules waits until a node has raised its rules.
func awaitRules(t *testing.T, n *node, rules uint32) {
	t.Helper()
	ctx := testContext(t)
	for {
		applied := n.Applied()
		if n.Position().Rules == rules {
			return
		}
		select {
		case <-applied:
		case <-ctx.Done():
			t.Fatalf("rules %d, want %d", n.Position().Rules, rules)
		}
	}
}

// writeRelease makes the folder with this program: commands of every type before and after a snapshot, several journal segments, and a log that goes on
// behind the snapshot.
func writeRelease(t *testing.T, into string) {
	t.Helper()
	dir := t.TempDir()
	s := &node{cfg: releaseConfig(t, dir)}
	s.open(t)
	leaderOf(t, s)
	nodes := []*node{s}
	some := func(from, to int) {
		for _, c := range goldenCommands() {
			// The epoch ends the change log, which is part of what is to be read; a trim has its own place below.
			if c.Type != TypeInit && c.Type != TypeRaiseEpoch && c.Type != TypeTrim {
				propose(t, nodes, c)
			}
		}
		for i := from; i < to; i++ {
			sub := fmt.Sprintf("sub_%d", i)
			account := entitlement.AccountID("acc_of_" + sub)
			propose(t, nodes, create(account, customer("cus_of_"+sub)))
			propose(t, nodes, record(event("evt_a"+sub, subscription(sub, 1, "active", account))))
			propose(t, nodes, record(event("evt_b"+sub, refund("re_"+sub, "pi_"+sub, 1, 1), invoice("in_"+sub, sub, "pi_"+sub, 2, "paid"))))
			propose(t, nodes, record(event("evt_a"+sub, subscription(sub, 2, "canceled", account)))) // conflicting
		}
	}
	some(0, 12)
	propose(t, nodes, NewCommand(TypeTrim, "", "", &Trim{Floor: 3}))
	if err := s.raft.Snapshot().Error(); err != nil {
		t.Fatal(err)
	}
	some(12, 24)
	catchUp(t, s)
	want := releasedOf(s.Stats())
	s.close(t)
	if err := os.RemoveAll(into); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(into, 0o755); err != nil {
		t.Fatal(err)
	}
	packFolder(t, dir, filepath.Join(into, "data.tar.gz"))
	text, err := json.MarshalIndent(want, "", "  ")
	if err == nil {
		err = os.WriteFile(filepath.Join(into, "state.json"), append(text, '\n'), 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// packFolder writes what a node keeps, without what it makes anew at each start.
func packFolder(t *testing.T, dir, path string) {
	t.Helper()
	file, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	z, err := gzip.NewWriterLevel(file, gzip.BestCompression)
	if err != nil {
		t.Fatal(err)
	}
	w := tar.NewWriter(z)
	err = filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		name, relErr := filepath.Rel(dir, path)
		if err = errors.Join(err, relErr); err != nil || !entry.Type().IsRegular() || strings.HasPrefix(name, stateFile) || name == "lock" {
			return err
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if err := w.WriteHeader(&tar.Header{Name: filepath.ToSlash(name), Mode: 0o600, Size: int64(len(content))}); err != nil {
			return err
		}
		_, err = w.Write(content)
		return err
	})
	if err := errors.Join(err, w.Close(), z.Close(), file.Close()); err != nil {
		t.Fatal(err)
	}
}

func unpackFolder(t *testing.T, path, dir string) {
	t.Helper()
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close() //nolint:errcheck // only read
	z, err := gzip.NewReader(file)
	if err != nil {
		t.Fatal(err)
	}
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		to := filepath.Join(dir, filepath.FromSlash(h.Name))
		if err := os.MkdirAll(filepath.Dir(to), 0o700); err != nil {
			t.Fatal(err)
		}
		out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(out, r); err != nil {
			t.Fatal(err)
		}
		if err := out.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
