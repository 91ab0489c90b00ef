package store

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	bolt "go.etcd.io/bbolt"

	"github.com/latchkey/latchkey/pkg/entitlement"
)

// This file shows what happens when all or most of the disks are lost: a backup has everything that was acknowledged before it began, a restored
// cluster says nothing before its epoch is raised, and nodes of the old history neither hear nor disturb the new one.

// backUp writes a backup of a node into a new file.
func backUp(t testing.TB, n *node) string {
	t.Helper()
	b, err := n.Backup()
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close() //nolint:errcheck // checked below
	path := filepath.Join(t.TempDir(), "backup")
	file, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	size, err := b.WriteTo(file)
	if info, statErr := file.Stat(); err != nil || statErr != nil || info.Size() != size || size != b.Size {
		t.Fatalf("wrote %d bytes of %d, %v", size, b.Size, err)
	}
	if err := errors.Join(file.Close(), b.Close()); err != nil {
		t.Fatal(err)
	}
	return path
}

// freshVoters are n voters at free addresses.
func freshVoters(t testing.TB, n int) []Voter {
	t.Helper()
	var voters []Voter
	for i := range n {
		l := loopback(t)
		defer l.Close() //nolint:errcheck // the address is what is wanted
		voters = append(voters, Voter{ID: fmt.Sprintf("w%d", i+1), Addr: l.Addr().String()})
	}
	return voters
}

func restoreConfig(dir string, voters []Voter) RestoreConfig {
	return RestoreConfig{Dir: dir, Cluster: testCluster, Voters: voters, SegmentBytes: 8 << 10, InitialMmapBytes: 1 << 28}
}

// restored restores every voter from the same backup and returns the nodes, not opened.
func restored(t testing.TB, backup string, voters []Voter) []*node {
	t.Helper()
	var nodes []*node
	base := t.TempDir()
	for i, v := range voters {
		dir := filepath.Join(base, v.ID)
		if _, err := Restore(t.Context(), restoreConfig(dir, voters), backup); err != nil {
			t.Fatalf("restore %s: %v", v.ID, err)
		}
		cfg := testConfig(t, dir, voters, i, nil)
		cfg.SegmentBytes = 8 << 10
		nodes = append(nodes, &node{cfg: cfg})
	}
	return nodes
}

func mustHold(t testing.TB, n *node, from, to int) {
	t.Helper()
	for i := from; i < to; i++ {
		if a := readAccount(t, n, fmt.Sprintf("acc_%04d", i)); a == nil || len(a.Purchases) != 1 {
			t.Fatalf("%s: account %d is %+v", n.cfg.ID, i, a)
		}
	}
}

func mustBeSound(t testing.TB, dir string) {
	t.Helper()
	report, err := Fsck(t.Context(), dir, nil, nil)
	if err != nil || report.Damaged > 0 || len(report.Findings) < 2 {
		t.Errorf("fsck %s: %+v, %v", dir, report, err)
	}
}

func TestABackupUnderLoadHoldsWhatWasAcknowledgedBeforeItAndFoundsANewHistory(t *testing.T) {
	old := startCluster(t, 3, func(c *Config) { c.SegmentBytes = 8 << 10 })
	fill(t, old, 0, 40)
	catchUp(t, old...)
	var load sync.WaitGroup
	load.Go(func() { fill(t, old, 40, 60) })
	path := backUp(t, others(old, leaderOf(t, old...))[0])
	load.Wait()
	contents, err := VerifyBackup(t.Context(), path, nil)
	if err != nil || contents.Segments < 2 || contents.Position.Epoch != 1 {
		t.Fatalf("verify: %+v, %v", contents, err)
	}

	nodes := restored(t, path, freshVoters(t, 3))
	var first [32]byte
	for i, n := range nodes {
		files, err := filepath.Glob(filepath.Join(n.cfg.Dir, "snapshots", "*", "state.bin"))
		if err != nil || len(files) != 1 {
			t.Fatalf("snapshots %v, %v", files, err)
		}
		content, err := os.ReadFile(files[0])
		if err != nil {
			t.Fatal(err)
		}
		if sum := sha256.Sum256(content); i == 0 {
			first = sum
		} else if sum != first {
			t.Errorf("%s does not start from the bytes that %s starts from", n.cfg.ID, nodes[0].cfg.ID)
		}
		mustBeSound(t, n.cfg.Dir)
	}

	// One of three cannot raise the epoch, so it has nothing to say.
	nodes[0].open(t)
	if !nodes[0].Held() || nodes[0].IsLeader() || nodes[0].Position().Epoch != 1 {
		t.Errorf("a node that was restored alone: held %t, leads %t, %+v", nodes[0].Held(), nodes[0].IsLeader(), nodes[0].Position())
	}
	if _, err := nodes[0].Propose(t.Context(), create("acc_x").Encode()); !errors.Is(err, ErrNotLeader) {
		t.Errorf("it takes a command: %v, want ErrNotLeader", err)
	}
	before := time.Now().Unix()
	nodes[1].open(t)
	nodes[2].open(t)
	fill(t, nodes, 60, 70)
	equal(t, nodes...)
	for _, n := range nodes {
		p := n.Position()
		if n.Held() || p.Epoch < uint64(before) || p.Epoch > uint64(time.Now().Unix()) || n.Stats().Floor < contents.Position.N {
			t.Errorf("%s: held %t, %+v, floor %d", n.cfg.ID, n.Held(), p, n.Stats().Floor)
		}
		mustHold(t, n, 0, 40)
		mustHold(t, n, 60, 70)
		// I2: what was acknowledged before is known, not done again.
		if result := propose(t, nodes, delivery(1, event("evt_asub_0001", subscription("sub_0001", 1, entitlement.Active, "acc_0001")))); !result.Duplicate {
			t.Errorf("an event of before the restore is %s", result.Outcome)
		}
	}
	for _, n := range nodes {
		want := n.Stats()
		n.close(t)
		mustBeSound(t, n.cfg.Dir)
		got, err := Replay(t.Context(), ReplayConfig{Dir: n.cfg.Dir, Into: t.TempDir(), SegmentBytes: 8 << 10})
		if err != nil || !got.Agrees() || got.Position != want.Position || got.FullHash != want.FullHash {
			t.Errorf("%s: the journal replays to %+v, %v; the state is %+v", n.cfg.ID, got, err, want)
		}
	}
}

func TestABackupThatChangedIsRefused(t *testing.T) {
	nodes := startCluster(t, 1, func(c *Config) { c.SegmentBytes = 8 << 10 })
	fill(t, nodes, 0, 30)
	whole, err := os.ReadFile(backUp(t, nodes[0]))
	if err != nil {
		t.Fatal(err)
	}
	flipped := func(at int) []byte {
		b := bytes.Clone(whole)
		b[at] ^= 1
		return b
	}
	damages := map[string][]byte{"empty": nil, "of something else": []byte("LKSNAP01 and more than a header of a backup has, and its sum"), "cut by a byte": whole[:len(whole)-1],
		"cut in the middle": whole[:len(whole)/2], "longer": append(bytes.Clone(whole), 0), "of another magic": flipped(0), "of another length": flipped(15)}
	for i := range 40 {
		at := backupHeader + i*(len(whole)-backupHeader)/40
		damages[fmt.Sprintf("flipped at %d", at)] = flipped(at)
	}
	damages["of another sum"] = flipped(len(whole) - 1)
	for name, content := range damages {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "backup")
			if err := os.WriteFile(path, content, 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := VerifyBackup(t.Context(), path, nil); !errors.Is(err, ErrBackup) {
				t.Errorf("verify = %v, want ErrBackup", err)
			}
			dir := filepath.Join(t.TempDir(), "w1")
			if _, err := Restore(t.Context(), restoreConfig(dir, nodes[0].cfg.Voters), path); !errors.Is(err, ErrBackup) {
				t.Errorf("restore = %v, want ErrBackup", err)
			}
			cfg := nodes[0].cfg
			cfg.Dir = dir
			if s, err := Open(cfg); !errors.Is(err, ErrHalfRestored) {
				t.Errorf("open after it = %v, %v, want ErrHalfRestored", s, err)
			}
		})
	}
	left, err := filepath.Glob(filepath.Join(nodes[0].cfg.Dir, "backup-*"))
	if err != nil || len(left) > 0 {
		t.Errorf("the node is left with %v, %v", left, err)
	}
}

func TestARestoreOverwritesNothingAndTakesNoOtherCluster(t *testing.T) {
	nodes := startCluster(t, 1, nil)
	fill(t, nodes, 0, 3)
	path := backUp(t, nodes[0])
	voters := freshVoters(t, 1)
	used := t.TempDir()
	if err := os.WriteFile(filepath.Join(used, "operator.sock"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Restore(t.Context(), restoreConfig(used, voters), path); !errors.Is(err, ErrNotEmpty) {
		t.Errorf("into a used folder: %v, want ErrNotEmpty", err)
	}
	if _, err := RestoreNode(t.Context(), restoreConfig(nodes[0].cfg.Dir, voters), nodes[0].cfg.Dir); !errors.Is(err, ErrNotEmpty) {
		t.Errorf("onto itself: %v, want ErrNotEmpty", err)
	}
	cfg := restoreConfig(filepath.Join(t.TempDir(), "w1"), voters)
	cfg.Cluster = "another"
	if _, err := Restore(t.Context(), cfg, path); !errors.Is(err, ErrOtherCluster) {
		t.Errorf("of another cluster: %v, want ErrOtherCluster", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Restore(ctx, restoreConfig(filepath.Join(t.TempDir(), "w1"), voters), path); !errors.Is(err, context.Canceled) {
		t.Errorf("when it is cancelled: %v, want context.Canceled", err)
	}
	if _, err := RestoreNode(t.Context(), restoreConfig(filepath.Join(t.TempDir(), "w1"), voters), nodes[0].cfg.Dir); err == nil {
		t.Error("from a node that runs: no error")
	}
}

// contentsOf returns the SHA-256 of every file below dir, the lock apart.
func contentsOf(t testing.TB, dir string) map[string][32]byte {
	t.Helper()
	sums := map[string][32]byte{}
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		content, err := os.ReadFile(path)
		sums[path] = sha256.Sum256(content)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return sums
}

func TestOneNodeOfALostMajorityGoesOnAlone(t *testing.T) {
	for name, threshold := range map[string]uint64{"from its log": 0, "from a snapshot and the log after it": 40} {
		t.Run(name, func(t *testing.T) {
			old := startCluster(t, 3, func(c *Config) {
				c.SegmentBytes, c.SnapshotInterval = 8<<10, 20*time.Millisecond
				orDefault(&c.SnapshotThreshold, threshold, threshold > 0)
			})
			fill(t, old, 0, 40)
			catchUp(t, old...)
			survivor := others(old, leaderOf(t, old...))[0]
			want := survivor.Position()
			for _, n := range old {
				n.close(t)
			}
			before := contentsOf(t, survivor.cfg.Dir)
			voters := []Voter{survivor.cfg.Voters[0]}
			for _, v := range survivor.cfg.Voters {
				if v.ID == survivor.cfg.ID {
					voters[0] = v
				}
			}
			dir := filepath.Join(t.TempDir(), "w1")
			contents, err := RestoreNode(t.Context(), restoreConfig(dir, voters), survivor.cfg.Dir)
			if err != nil || contents.Position != want || len(contents.Missing) > 0 {
				t.Fatalf("restore: %+v, %v; the node was at %+v", contents, err, want)
			}
			if after := contentsOf(t, survivor.cfg.Dir); fmt.Sprint(after) != fmt.Sprint(before) {
				t.Error("the old folder was changed")
			}
			n := &node{cfg: testConfig(t, dir, voters, 0, nil)}
			n.cfg.SegmentBytes = 8 << 10
			n.open(t)
			fill(t, []*node{n}, 40, 45)
			mustHold(t, n, 0, 45)
			if p := n.Position(); p.Epoch <= want.Epoch || n.Held() {
				t.Errorf("it goes on at %+v, held %t", p, n.Held())
			}
			checkState(t, n.fsm)
			n.close(t)
			mustBeSound(t, dir)
		})
	}
}

func TestJournalSegmentsThatTheSurvivorLacksAreNamed(t *testing.T) {
	old := startCluster(t, 1, func(c *Config) { c.SegmentBytes = 8 << 10 })
	fill(t, old, 0, 40)
	old[0].close(t)
	if err := os.Remove(filepath.Join(old[0].cfg.Dir, "journal", "00000002.seg")); err != nil {
		t.Fatal(err)
	}
	// From the log alone the journal is made anew; with a snapshot it is not.
	dir := filepath.Join(t.TempDir(), "w1")
	contents, err := RestoreNode(t.Context(), restoreConfig(dir, old[0].cfg.Voters), old[0].cfg.Dir)
	if err != nil || len(contents.Missing) > 0 {
		t.Errorf("from the log: %+v, %v", contents, err)
	}
	report, err := Fsck(t.Context(), old[0].cfg.Dir, nil, nil)
	if err != nil || report.Damaged == 0 {
		t.Errorf("fsck of the old one: %+v, %v", report, err)
	}
}

// A state file of an earlier release has no bucket for what came later.
func TestABackupOfAnEarlierReleaseIsRestored(t *testing.T) {
	nodes := startCluster(t, 1, nil)
	fill(t, nodes, 0, 5)
	nodes[0].fsm.commitNow()
	dir := t.TempDir()
	b, err := nodes[0].Backup()
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close() //nolint:errcheck // only read
	state, tail := filepath.Join(dir, stateFile), filepath.Join(dir, "tail")
	if _, err := b.spool.Seek(0, io.SeekStart); err != nil {
		t.Fatal(err)
	}
	if err := unpack(b.spool, state, tail); err != nil {
		t.Fatal(err)
	}
	db, err := openState(state, 1<<28)
	if err != nil {
		t.Fatal(err)
	}
	err = db.Update(func(tx *bolt.Tx) error { return tx.DeleteBucket(bucketMembers) })
	if err = errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
	st, sealed, err := examine(state)
	if err != nil || st.N != b.Position.N || len(sealed) > 0 {
		t.Fatalf("the older state: %+v, %v, %v", st, sealed, err)
	}
	if err := os.Mkdir(filepath.Join(dir, "journal"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(tail, filepath.Join(dir, "journal", "00000001.seg")); err != nil {
		t.Fatal(err)
	}
	voters := freshVoters(t, 1)
	if err := writeBase(restoreConfig(dir, voters)); err != nil {
		t.Fatal(err)
	}
	n := &node{cfg: testConfig(t, dir, voters, 0, nil)}
	n.open(t)
	fill(t, []*node{n}, 5, 8)
	mustHold(t, n, 0, 8)
	checkState(t, n.fsm)
}

func TestEntriesThatTheDiskLostAreCounted(t *testing.T) {
	old := startCluster(t, 1, nil)
	fill(t, old, 0, 5)
	old[0].close(t)
	file, err := os.OpenFile(filepath.Join(old[0].cfg.Dir, "raft", logMarkFile), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	mark := &logMark{file}
	last, err := mark.read()
	if err = errors.Join(err, mark.set(last+3), mark.close()); err != nil {
		t.Fatal(err)
	}
	if report := fsck(t, old[0].cfg.Dir); !report.names("raft log") {
		t.Errorf("fsck: %+v", report)
	}
	contents, err := RestoreNode(t.Context(), restoreConfig(filepath.Join(t.TempDir(), "w1"), old[0].cfg.Voters), old[0].cfg.Dir)
	if err != nil || contents.LostEntries != 3 {
		t.Errorf("restore: %+v, %v, want 3 lost entries", contents, err)
	}
}

// The way back from a lost majority: one node goes on alone, and new ones join it. They learn which history they belong to from it.
func TestNewNodesJoinARestoredOne(t *testing.T) {
	old := startCluster(t, 1, func(c *Config) { c.SegmentBytes = 8 << 10 })
	fill(t, old, 0, 30)
	old[0].close(t)
	voters := freshVoters(t, 1)
	dir := filepath.Join(t.TempDir(), "w1")
	if _, err := RestoreNode(t.Context(), restoreConfig(dir, voters), old[0].cfg.Dir); err != nil {
		t.Fatal(err)
	}
	r := newRoster(t)
	change := func(c *Config) { c.SegmentBytes = 8 << 10 }
	n := &node{cfg: testConfig(t, dir, voters, 0, nil)}
	r.configure(&n.cfg)
	change(&n.cfg)
	r.open(n)
	nodes := []*node{n}
	for _, id := range []string{"w4", "w5"} {
		joining := r.newcomer(id, nodes, change)
		if err := atLeader(t, nodes, func(n *node) error { return n.AddMember(testContext(t), joining.member(), RulesVersion) }); err != nil {
			t.Fatal(err)
		}
		awaitSuffrage(t, joining, Voting)
		nodes = append(nodes, joining)
	}
	fill(t, nodes, 30, 35)
	equal(t, nodes...)
	for _, n := range nodes {
		r.close(n)
	}
	for _, n := range nodes {
		r.open(n)
	}
	fill(t, nodes, 35, 40)
	equal(t, nodes...)

	// A voter that was removed in the backup's past is none of a new history's either.
	leader := leaderOf(t, nodes...)
	gone := others(nodes, leader)[0]
	if err := atLeader(t, nodes, func(n *node) error { leader = n; return n.RemoveMember(testContext(t), gone.cfg.ID) }); err != nil {
		t.Fatal(err)
	}
	cfg := restoreConfig(filepath.Join(t.TempDir(), "new"), []Voter{{ID: "w9", Addr: "127.0.0.1:1"}, {ID: gone.cfg.ID, Addr: "127.0.0.1:2"}})
	if _, err := Restore(t.Context(), cfg, backUp(t, leader)); !errors.Is(err, ErrRemoved) {
		t.Errorf("restore with %s as a voter: %v, want ErrRemoved", gone.cfg.ID, err)
	}
}

// warnings counts what is logged with a message.
type warnings struct {
	slog.Handler
	message string
	seen    chan struct{}
}

func (w warnings) Handle(_ context.Context, r slog.Record) error {
	if r.Message == w.message {
		select {
		case w.seen <- struct{}{}:
		default:
		}
	}
	return nil
}

func (w warnings) Enabled(context.Context, slog.Level) bool { return true }

// A node of the old history comes back under its id and at its address, which the new history has too.
func TestNodesOfTwoHistoriesDoNotHearEachOther(t *testing.T) {
	old := startCluster(t, 3, nil)
	fill(t, old, 0, 10)
	path := backUp(t, old[0])
	fill(t, old, 10, 20) // lost with the old history
	catchUp(t, old...)
	for _, n := range old {
		n.close(t)
	}
	nodes := restored(t, path, old[0].cfg.Voters)
	nodes[0].open(t)
	nodes[1].open(t)
	fill(t, nodes[:2], 20, 30)
	want := catchUp(t, nodes[:2]...)
	position := nodes[0].Position()

	refused := make(chan struct{}, 1)
	old[2].cfg.Logger = slog.New(warnings{Handler: slog.DiscardHandler, message: "a node of another history was refused: one that was restored from something else, or not at all", seen: refused})
	old[2].open(t)
	select {
	case <-refused:
	case <-time.After(patience):
		t.Fatal("nobody of the new history knocked at the old node")
	}
	if p := old[2].Position(); p.Epoch > 1 || readAccount(t, old[2], "acc_0020") != nil {
		t.Errorf("the old node took up something of the new history: %+v", p)
	}
	if got := catchUp(t, nodes[:2]...); got != want || nodes[0].Position() != position {
		t.Errorf("the new history moved from %d, %+v to %d, %+v", want, position, got, nodes[0].Position())
	}

	// What it is shown ends it, for good.
	if nodes[0].OlderThan(old[2].Position()) || nodes[0].OlderThan(position) || !old[2].OlderThan(position) {
		t.Error("only the old node is older than what the other shows")
	}
	foreign := position
	foreign.Cluster = "another"
	if old[2].OlderThan(foreign) {
		t.Error("another cluster's position ends a node")
	}
	if err := old[2].Supersede(position, "signed"); err != nil {
		t.Fatal(err)
	}
	old[2].close(t)
	if _, err := Open(old[2].cfg); !errors.Is(err, ErrSuperseded) {
		t.Errorf("open = %v, want ErrSuperseded", err)
	}
	report, err := Fsck(t.Context(), old[2].cfg.Dir, nil, nil)
	if err != nil || report.Damaged > 0 || len(report.Notes) == 0 {
		t.Errorf("fsck of a superseded node: %+v, %v", report, err)
	}
	// If the restore was the mistake, its data founds a history that is newer than both.
	again := filepath.Join(t.TempDir(), "w3")
	if contents, err := RestoreNode(t.Context(), restoreConfig(again, freshVoters(t, 1)), old[2].cfg.Dir); err != nil || contents.Position.Epoch != 1 {
		t.Errorf("restore of a superseded node: %+v, %v", contents, err)
	}
}

// A node that was restored and was down while the others raised the epoch is one of them when it comes.
func TestARestoredNodeThatComesLateJoinsTheOthers(t *testing.T) {
	old := startCluster(t, 1, nil)
	fill(t, old, 0, 5)
	nodes := restored(t, backUp(t, old[0]), freshVoters(t, 3))
	nodes[0].open(t)
	nodes[1].open(t)
	fill(t, nodes[:2], 5, 10)
	for _, n := range nodes[:2] {
		if err := n.raft.Snapshot().Error(); err != nil {
			t.Fatal(err)
		}
	}
	nodes[2].open(t)
	if !nodes[2].Held() && nodes[2].Position().Epoch == 1 {
		t.Error("it answers before it knows the epoch")
	}
	equal(t, nodes...)
	// And after a restart all of them know each other still.
	for _, n := range nodes {
		n.close(t)
	}
	for _, n := range nodes {
		n.open(t)
	}
	fill(t, nodes, 10, 12)
	equal(t, nodes...)
}

func TestFsckFindsEveryDamage(t *testing.T) {
	nodes := startCluster(t, 1, func(c *Config) {
		c.SegmentBytes, c.SnapshotThreshold, c.TrailingLogs, c.SnapshotInterval = 8<<10, 40, 20, 20*time.Millisecond
	})
	fill(t, nodes, 0, 40)
	if err := nodes[0].raft.Snapshot().Error(); err != nil {
		t.Fatal(err)
	}
	fill(t, nodes, 40, 50)
	want := nodes[0].Stats()
	nodes[0].close(t)
	dir := nodes[0].cfg.Dir
	mustBeSound(t, dir)
	before := contentsOf(t, dir)
	glob := func(pattern string) string {
		files, err := filepath.Glob(filepath.Join(dir, pattern))
		if err != nil || len(files) == 0 {
			t.Fatalf("%s: %v, %v", pattern, files, err)
		}
		return files[len(files)-1]
	}
	unsealed := filepath.Join(dir, "journal", fmt.Sprintf("%08d.seg", want.JournalSegment))
	for part, path := range map[string]string{"journal segment 1": glob("journal/00000001.seg"), "journal": unsealed,
		"snapshot " + filepath.Base(filepath.Dir(glob("snapshots/*/state.bin"))): glob("snapshots/*/state.bin")} {
		t.Run(part, func(t *testing.T) { mustNotice(t, dir, path, part, 0.5) })
	}
	t.Run("state.db", func(t *testing.T) {
		for i := range 8 { // a byte of a free page is nobody's
			if mustNoticeSome(t, dir, filepath.Join(dir, stateFile), "state.db", float64(i)/8) {
				return
			}
		}
		t.Error("no damage of the state file was found")
	})
	t.Run("raft log", func(t *testing.T) {
		path := glob("raft/*.wal")
		content, err := os.ReadFile(path)
		at := bytes.LastIndex(content, []byte("acc_0049")) // in an entry that was not compacted yet
		if err != nil || at < 0 {
			t.Fatalf("entry at %d, %v", at, err)
		}
		mustNotice(t, dir, path, "raft log", float64(at)/float64(len(content)))
	})
	t.Run("a state file that is cut", func(t *testing.T) {
		path := filepath.Join(dir, stateFile)
		whole, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, whole[:len(whole)/3], 0o600); err != nil {
			t.Fatal(err)
		}
		if report := fsck(t, dir); !report.names("state.db") {
			t.Errorf("fsck: %+v", report)
		}
		if err := os.WriteFile(path, whole, 0o600); err != nil {
			t.Fatal(err)
		}
	})
	mustBeSound(t, dir)
	if after := contentsOf(t, dir); fmt.Sprint(after) != fmt.Sprint(before) {
		t.Error("fsck changed the folder")
	}
}

type report struct{ Report }

func fsck(t testing.TB, dir string) report {
	t.Helper()
	r, err := Fsck(t.Context(), dir, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	return report{r}
}

// names reports whether a part was found damaged.
func (r report) names(part string) bool {
	for _, f := range r.Findings {
		if f.Part == part && !f.OK {
			return true
		}
	}
	return false
}

// mustNoticeSome flips a byte at a share of a file, and reports whether Fsck names the part; then it flips it back.
func mustNoticeSome(t testing.TB, dir, path, part string, share float64) bool {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	at := int(float64(len(content)) * share)
	content[at] ^= 0x40
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	found := fsck(t, dir).names(part)
	content[at] ^= 0x40
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return found
}

func mustNotice(t testing.TB, dir, path, part string, share float64) {
	t.Helper()
	if !mustNoticeSome(t, dir, path, part, share) {
		t.Errorf("a flipped byte in %s is not found as damage of %q", path, part)
	}
}

// TestTwoRestoresOfOneBackupHaveTwoEpochs, however soon the second follows the first: edges would take the one history for the other.
func TestTwoRestoresOfOneBackupHaveTwoEpochs(t *testing.T) {
	source := startCluster(t, 1, nil)
	propose(t, source, create("acc_1"))
	backup := backUp(t, source[0])
	var now atomic.Int64 // stands still between two looks of ours
	now.Store(time.Now().Unix())
	var last uint64
	for range 2 {
		n := restored(t, backup, freshVoters(t, 1))[0]
		n.cfg.Now = func() time.Time { return time.Unix(now.Load(), 0) }
		n.open(t)
		for n.raft.State() != raft.Leader {
			select {
			case <-time.After(time.Millisecond):
			case <-testContext(t).Done():
				t.Fatal("no leader")
			}
		}
		if err := n.raft.Barrier(patience).Error(); err != nil {
			t.Fatal(err)
		}
		if !n.Held() {
			t.Errorf("epoch %d was raised in the second of the start", n.Position().Epoch)
		}
		now.Add(1)
		leaderOf(t, n)
		epoch := n.Position().Epoch
		if epoch <= last {
			t.Errorf("epoch %d after epoch %d", epoch, last)
		}
		last = epoch
		n.close(t)
	}
}
