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

	"github.com/latchkey/latchkey/replication"
)

// TestAChangedByteInRaftsLogIsNoEntry: an entry that was changed on the disk is never read as one that a majority agreed on, and ends the
// process; those around it are still right.
func TestAChangedByteInRaftsLogIsNoEntry(t *testing.T) {
	dir := t.TempDir()
	var fatal error
	open := func() *disk {
		t.Helper()
		log, err := wal.Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		return &disk{WAL: log, fatal: func(err error) { fatal = err }, timeout: time.Minute, sync: func(float64) {}}
	}
	d := open()
	// Each in a batch of its own: raft-wal itself looks at the last one when it opens.
	for i, data := range []string{"first entry", "second entry", "third entry", "last entry"} {
		if err := d.StoreLog(&raft.Log{Index: uint64(i + 1), Term: 1, Type: raft.LogCommand, Data: []byte(data)}); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(dir, "*.wal"))
	if err != nil || len(files) != 1 {
		t.Fatalf("log files %v, %v, want one", files, err)
	}
	b, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	at := bytes.Index(b, []byte("second entry"))
	if at < 0 {
		t.Fatal("the second entry is not in the file in clear: this test must look elsewhere")
	}
	b[at] ^= 1
	if err := os.WriteFile(files[0], b, 0o600); err != nil {
		t.Fatal(err)
	}

	d = open()
	defer d.Close() //nolint:errcheck // only read
	for index, want := range map[uint64]string{1: "first entry", 3: "third entry", 4: "last entry"} {
		var l raft.Log
		if err := d.GetLog(index, &l); err != nil || string(l.Data) != want || l.Extensions != nil {
			t.Errorf("GetLog(%d) = %q, %v, want %q", index, l.Data, err, want)
		}
	}
	if fatal != nil {
		t.Errorf("right entries are fatal: %v", fatal)
	}
	var l raft.Log
	if err := d.GetLog(2, &l); !errors.Is(err, replication.ErrCorrupt) {
		t.Errorf("GetLog of the changed entry: %q, %v, want ErrCorrupt", l.Data, err)
	}
	if !errors.Is(fatal, replication.ErrCorrupt) {
		t.Errorf("the process goes on: fatal got %v", fatal)
	}
}
