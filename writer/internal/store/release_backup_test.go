package store

import (
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"
)

// A backup may lie for years before somebody needs it. Each release leaves one beside its data folder, taken from it by that release's own program:
// every later program must restore it. `-update` writes that of newestRelease where there is none, and never anew.

// TestTheBackupOfEachReleaseIsRestored restores it and compares what it holds with what the release's own program had; the restored node raises the
// epoch, takes a command, and replays to the same state.
func TestTheBackupOfEachReleaseIsRestored(t *testing.T) {
	for n := 1; n <= newestRelease; n++ {
		t.Run(fmt.Sprintf("release %d", n), func(t *testing.T) {
			from := filepath.Join("testdata", fmt.Sprintf("release-%d", n))
			packed := filepath.Join(from, "backup.gz")
			if _, err := os.Stat(packed); errors.Is(err, os.ErrNotExist) && *update && n == newestRelease {
				writeReleaseBackup(t, from, packed)
			}
			path := filepath.Join(t.TempDir(), "backup")
			if err := gunzip(packed, path); err != nil {
				t.Fatal(err)
			}
			var want released
			text, err := os.ReadFile(filepath.Join(from, "state.json"))
			if err == nil {
				err = json.Unmarshal(text, &want)
			}
			if err != nil {
				t.Fatal(err)
			}
			c, err := VerifyBackup(t.Context(), path, nil)
			if err != nil {
				t.Fatalf("VerifyBackup: %v", err)
			}
			for name, got := range map[string]string{"cluster": c.Cluster, "epoch": fmt.Sprint(c.Position.Epoch), "revision": fmt.Sprint(c.Position.N), "chain": c.Position.Chain.String(),
				"state_hash": c.Position.StateHash.String(), "rules": fmt.Sprint(c.Position.Rules), "full_hash": c.FullHash.String(), "stamp": fmt.Sprint(c.Stamp)} {
				if got != want[name] {
					t.Errorf("the backup's %s is %s, its own program had %s", name, got, want[name])
				}
			}
			s := restored(t, path, freshVoters(t, 1))[0]
			s.open(t)
			leaderOf(t, s)
			awaitRules(t, s, RulesVersion)
			propose(t, []*node{s}, create("acc_after_the_restore"))
			catchUp(t, s)
			now := s.Stats()
			if now.Position.Epoch <= c.Position.Epoch || now.Position.N <= c.Position.N || now.Position.StateHash == c.Position.StateHash {
				t.Errorf("the restored node is at %+v, the backup at %+v", now.Position, c.Position)
			}
			checkState(t, s.fsm)
			if missing, err := s.fsm.missingSegments(); err != nil || len(missing) > 0 {
				t.Errorf("segments %v are missing, %v", missing, err)
			}
		})
	}
}

// writeReleaseBackup takes the backup from the release's folder.
func writeReleaseBackup(t *testing.T, from, packed string) {
	t.Helper()
	dir := t.TempDir()
	unpackFolder(t, filepath.Join(from, "data.tar.gz"), dir)
	s := &node{cfg: releaseConfig(t, dir)}
	s.cfg.Rules = 1
	s.open(t)
	leaderOf(t, s)
	catchUp(t, s)
	if err := zip(backUp(t, s), packed); err != nil {
		t.Fatal(err)
	}
	s.close(t)
}

func zip(path, packed string) error {
	in, err := os.Open(path)
	if err != nil {
		return err
	}
	defer in.Close() //nolint:errcheck // only read
	out, err := os.Create(packed)
	if err != nil {
		return err
	}
	z, err := gzip.NewWriterLevel(out, gzip.BestCompression)
	if err != nil {
		return errors.Join(err, out.Close())
	}
	_, err = io.Copy(z, in)
	return errors.Join(err, z.Close(), out.Close())
}

func gunzip(packed, path string) error {
	in, err := os.Open(packed)
	if err != nil {
		return err
	}
	defer in.Close() //nolint:errcheck // only read
	z, err := gzip.NewReader(in)
	if err != nil {
		return err
	}
	out, err := os.Create(path)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, z) //nolint:gosec // our own file
	return errors.Join(err, out.Close())
}
