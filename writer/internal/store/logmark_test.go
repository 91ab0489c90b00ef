package store

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	wal "github.com/hashicorp/raft-wal"
)

// markedDisk opens the log of dir as a writer does. The error is that of the mark.
func markedDisk(t *testing.T, dir string) (*disk, error) {
	t.Helper()
	log, err := wal.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { log.Close() })
	snapshots, err := raft.NewFileSnapshotStore(dir, 2, os.Stderr)
	if err != nil {
		t.Fatal(err)
	}
	mark, err := openLogMark(filepath.Join(dir, "last"), log, snapshots)
	if err != nil {
		return nil, err
	}
	t.Cleanup(func() { mark.close() })
	return &disk{WAL: log, mark: mark, fatal: func(err error) { t.Error(err) }, timeout: time.Minute, sync: func(float64) {}}, nil
}

// A log that ends before what this node has acknowledged is not opened: the node would vote without it.
func TestLogThatBecameShorterIsNoticed(t *testing.T) {
	const entries = 20
	payload := func(n uint64) []byte { return bytes.Repeat([]byte{byte(n)}, 300) }
	// flip turns a bit over at an offset from the payload of an entry; what lies before it is the frame's header and the entry's own.
	flip := func(entry uint64, offset int) func(t *testing.T, dir string) {
		return func(t *testing.T, dir string) {
			files, err := filepath.Glob(filepath.Join(dir, "*.wal"))
			if err != nil {
				t.Fatal(err)
			}
			for _, path := range files {
				b, err := os.ReadFile(path)
				if err != nil {
					t.Fatal(err)
				}
				at := bytes.Index(b, payload(entry))
				if at < 0 {
					continue // another file has it
				}
				b[at+offset] ^= 1
				if err := os.WriteFile(path, b, 0o600); err != nil {
					t.Fatal(err)
				}
				return
			}
			t.Fatalf("none of %v has entry %d", files, entry)
		}
	}
	tests := []struct {
		name  string
		write func(t *testing.T, d *disk) // after the entries; nil: nothing
		spoil func(t *testing.T, dir string)
		want  error
	}{
		{"whole", nil, func(*testing.T, string) {}, nil},
		{"a bit of the last entry", nil, flip(entries, 10), errLogShort},
		{"a bit of the header of a frame in the middle", nil, flip(entries/2, -13), errLogShort},
		{"cut in good order: a leader had never committed the end", func(t *testing.T, d *disk) {
			if err := d.DeleteRange(entries-4, entries); err != nil {
				t.Fatal(err)
			}
		}, func(*testing.T, string) {}, nil},
		{"cut in good order and written further, and then a bit of the last entry", func(t *testing.T, d *disk) {
			if err := d.DeleteRange(entries-4, entries); err != nil {
				t.Fatal(err)
			}
			if err := d.StoreLog(&raft.Log{Index: entries - 4, Term: 2, Data: payload(99)}); err != nil {
				t.Fatal(err)
			}
		}, flip(99, 10), errLogShort},
		{"cut at its head, as after a snapshot", func(t *testing.T, d *disk) {
			if err := d.DeleteRange(1, 5); err != nil {
				t.Fatal(err)
			}
		}, func(*testing.T, string) {}, nil},
		{"emptied, as after a leader's snapshot", func(t *testing.T, d *disk) {
			if err := d.DeleteRange(1, entries); err != nil {
				t.Fatal(err)
			}
		}, func(*testing.T, string) {}, nil},
		{"a mark that was torn says nothing", nil, func(t *testing.T, dir string) {
			if err := os.WriteFile(filepath.Join(dir, "last"), []byte("torn by a power loss"), 0o600); err != nil {
				t.Fatal(err)
			}
		}, nil},
		{"a folder of an earlier release has none", nil, func(t *testing.T, dir string) {
			if err := os.Remove(filepath.Join(dir, "last")); err != nil {
				t.Fatal(err)
			}
		}, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			d, err := markedDisk(t, dir)
			if err != nil {
				t.Fatal(err)
			}
			for n := uint64(1); n <= entries; n++ {
				if err := d.StoreLog(&raft.Log{Index: n, Term: 1, Data: payload(n)}); err != nil {
					t.Fatal(err)
				}
			}
			if tt.write != nil {
				tt.write(t, d)
			}
			if err := errors.Join(d.Close(), d.mark.close()); err != nil {
				t.Fatal(err)
			}
			tt.spoil(t, dir)
			if _, err := markedDisk(t, dir); !errors.Is(err, tt.want) || tt.want == nil && err != nil {
				t.Errorf("open = %v, want %v", err, tt.want)
			}
		})
	}
}
