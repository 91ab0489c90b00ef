package store

import (
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// The larger ones of the faults that a build with the tag "faults" may carry (pkg/fault), so that it can be seen that the checkers find
// them. Nothing here is reached in any other build.

// lateBy is for how long the fault "unsynced-log" keeps acknowledged entries in memory alone.
const lateBy = 200 * time.Millisecond

// late are log entries that were acknowledged and are on no disk yet.
type late struct {
	mu      sync.Mutex
	entries []*raft.Log
}

// storeLater acknowledges commands now and writes them later.
func (d *disk) storeLater(logs []*raft.Log) error {
	if slices.ContainsFunc(logs, func(l *raft.Log) bool { return l.Type != raft.LogCommand }) {
		d.storeLate()
		return d.WAL.StoreLogs(checksummed(logs)) // without these it would not even start
	}
	d.late.mu.Lock()
	defer d.late.mu.Unlock()
	if len(d.late.entries) == 0 {
		time.AfterFunc(lateBy, d.storeLate)
	}
	d.late.entries = append(d.late.entries, checksummed(logs)...)
	return nil
}

func (d *disk) storeLate() {
	d.late.mu.Lock()
	defer d.late.mu.Unlock()
	if len(d.late.entries) > 0 {
		_ = d.WAL.StoreLogs(d.late.entries) // it may have been closed meanwhile
		d.late.entries = nil
	}
}

// drift is the fault "diverged-writer": the second node's state is another than the log says.
func drift(dir string, st *state) {
	if filepath.Base(dir) == "w2" && st.Epoch > 0 {
		st.FullHash[0] ^= 1
	}
}
