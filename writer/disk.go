package writer

import (
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/latchkey/latchkey/pkg/problem"
)

// How much of a disk is kept free. Below it nothing is written that need not be: a log write that fails ends the process, and a disk that is quite
// full lets it not even start again.
const (
	// reserveShare of the file system is kept free: a fiftieth.
	reserveShare = 50
	// minReserve holds eight files of Raft's log, which are made whole, at 64 MiB each; or some hours of messages.
	minReserve = 512 << 20
	// maxReserve: more would only be unused on large disks.
	maxReserve = 2 << 30
	// reserveMost of a small file system: a quarter.
	reserveMost = 4
	// roomAgain is by how much more than the reserve must be free before writes are taken again, as a part of it: an eighth. The two must not follow
	// each other at every file that is made and deleted.
	roomAgain = 8
	// retryAfterNoRoom is what a client is told: nobody makes room sooner.
	retryAfterNoRoom = 10 * time.Second
)

// errNoRoom means that the disks of too many writers are nearly full. Nothing was written.
var errNoRoom = errors.New("disk nearly full")

// statFS returns the bytes that may still be written to the file system of dir, and its size.
type statFS func(dir string) (free, size int64, err error)

func statDisk(dir string) (free, size int64, err error) {
	var s syscall.Statfs_t
	if err := syscall.Statfs(dir, &s); err != nil {
		return 0, 0, err
	}
	return int64(s.Bavail) * int64(s.Bsize), int64(s.Blocks) * int64(s.Bsize), nil
}

// disk watches the room in the data folder.
type disk struct {
	dir     string
	reserve int64 // 0: as reserveOf says
	stat    statFS
	state   func() int64 // size of the state file
	log     *slog.Logger
	full    atomic.Bool // no room for writes in the cluster, as far as this node knows

	mu   sync.Mutex
	last DiskStatus
}

// DiskStatus says how much room a writer has.
type DiskStatus struct {
	FreeBytes    int64 `json:"free_bytes"`
	ReserveBytes int64 `json:"reserve_bytes"` // below this much the disk counts as nearly full
	// Low is true from when less than ReserveBytes are free until an eighth more is. The writer then leaves the lead to another, if one has
	// room, and builds no snapshots for edges; where a majority is low, writes are 503.
	Low bool `json:"low"`
}

func newDisk(dir string, reserve int64, stat statFS, state func() int64, log *slog.Logger) *disk {
	if stat == nil {
		stat = statDisk
	}
	d := &disk{dir: dir, reserve: reserve, stat: stat, state: state, log: log}
	d.look()
	return d
}

// look asks for the room that there is. A file system that cannot be asked is as it was: the log's own writes will tell.
func (d *disk) look() {
	free, size, err := d.stat(d.dir)
	if err != nil {
		d.log.Warn("room on the disk not known", "error", err)
		return
	}
	reserve := d.reserve
	if reserve == 0 {
		reserve = reserveOf(size) + d.state()
	}
	d.mu.Lock()
	was := d.last.Low
	limit := reserve
	if was {
		limit += reserve / roomAgain
	}
	low := free < limit
	d.last = DiskStatus{FreeBytes: free, ReserveBytes: reserve, Low: low}
	d.mu.Unlock()
	switch {
	case low && !was:
		d.log.Error("disk nearly full", "free_bytes", free, "reserve_bytes", reserve)
	case was && !low:
		d.log.Info("disk has room again", "free_bytes", free)
	}
}

// reserveOf is what is kept free of a file system besides room for one more copy of the state, which a Raft snapshot is.
func reserveOf(size int64) int64 {
	return min(max(size/reserveShare, minReserve), maxReserve, size/reserveMost)
}

func (d *disk) status() DiskStatus {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.last
}

func (d *disk) room() (free int64, low bool) {
	s := d.status()
	return s.FreeBytes, s.Low
}

// DiskStatus returns how much room there is in this writer's data folder.
func (w *Writer) DiskStatus() DiskStatus { return w.disk.status() }

// noRoom is the answer to a write while the disks are nearly full.
func noRoom() error {
	return problem.New(problem.Unavailable, "The writers' disks are nearly full. Reads go on.").After(retryAfterNoRoom)
}
