package store

import (
	"bytes"
	"io"
	"testing"

	"github.com/hashicorp/raft"
)

// TestTheLogReadFrugallyIsTheLog: whatever an entry's length, it is read as it was written: while the log is open, and after it was opened again. The
// lengths lie around where one read no longer holds it, ours and raft-wal's own.
func TestTheLogReadFrugallyIsTheLog(t *testing.T) {
	dir := t.TempDir()
	log, err := openWAL(dir, newHCLog(quiet()))
	if err != nil {
		t.Fatal(err)
	}
	var lengths []int
	for _, around := range []int{40, shortRead, walRead, 2 * walRead} {
		for d := -40; d <= 8; d++ {
			lengths = append(lengths, max(around+d, 0))
		}
	}
	entry := func(i int) *raft.Log {
		return &raft.Log{Index: uint64(i + 1), Term: 1, Type: raft.LogCommand, Data: bytes.Repeat([]byte{byte(i), 1, 0, 0, 0}, lengths[i]/5+1)[:lengths[i]]}
	}
	check := func(when string) {
		t.Helper()
		for i := range lengths {
			var got raft.Log
			if err := log.GetLog(uint64(i+1), &got); err != nil || got.Term != 1 || !bytes.Equal(got.Data, entry(i).Data) {
				t.Fatalf("%s: GetLog(%d) = %d bytes, %v, want the %d that were stored", when, i+1, len(got.Data), err, lengths[i])
			}
		}
	}
	for i := range lengths {
		if err := log.StoreLog(entry(i)); err != nil {
			t.Fatal(err)
		}
	}
	check("after writing")
	if err := log.Close(); err != nil {
		t.Fatal(err)
	}
	if log, err = openWAL(dir, newHCLog(quiet())); err != nil {
		t.Fatal(err)
	}
	defer log.Close() //nolint:errcheck // only read
	check("after opening again")
}

// counting counts the bytes that are read.
type counting struct {
	io.ReaderAt
	read int
}

func (c *counting) ReadAt(p []byte, at int64) (int, error) {
	n, err := c.ReaderAt.ReadAt(p, at)
	c.read += n
	return n, err
}

// TestOfTheLogIsReadWhatIsWanted: an entry that is short costs a short read, and nothing but an entry is ever cut short, above all nothing while
// raft-wal looks for where the log ends.
func TestOfTheLogIsReadWhatIsWanted(t *testing.T) {
	short, long := []byte{1, 0, 0, 0, 0, 2, 0, 0}, []byte{1, 0, 0, 0, 0, 16, 0, 0}
	tests := []struct {
		name      string
		start     []byte // of what lies in the file
		want      int    // bytes asked for
		opening   bool
		read      int
		shortened bool
	}{
		{"a short entry", short, walRead, false, shortRead, true},
		{"an entry that is longer than the short read", long, walRead, false, walRead, false},
		{"the index of a sealed file", []byte{2, 0, 0, 0, 8, 0, 0, 0}, walRead, false, walRead, false},
		{"what an entry holds, of that very length", []byte{1, 1, 0, 0, 0, 0, 0, 0}, walRead, false, walRead, false},
		{"a read of another length", short, walRead - 1, false, walRead - 1, false},
		{"a batch while the log is being opened", short, walRead, true, walRead, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			file := &counting{ReaderAt: bytes.NewReader(append(tt.start, make([]byte, 2*walRead)...))}
			var files logFiles
			files.recovered.Store(!tt.opening)
			n, err := files.readAt(file, make([]byte, tt.want), 0)
			if n != tt.read || file.read != tt.read || (err == io.EOF) != tt.shortened || !tt.shortened && err != nil {
				t.Errorf("readAt of %d bytes = %d, %v, after reading %d; want %d", tt.want, n, err, file.read, tt.read)
			}
		})
	}
}
