// Package room says when a disk counts as nearly full: before anything that is written to it fails, and until there is clearly room again. Start
// at Watch.
package room

import (
	"log/slog"
	"sync"
	"syscall"
	"time"
)

// How much of a disk is kept free, where nothing else is configured.
const (
	// reserveShare of the file system is kept free: a fiftieth.
	reserveShare = 50
	// minReserve holds eight files of a writer's Raft log, which are made whole, at 64 MiB each; or some hours of messages.
	minReserve = 512 << 20
	// maxReserve: more would only be unused on large disks.
	maxReserve = 2 << 30
	// reserveMost of a small file system: a quarter.
	reserveMost = 4
	// again is by how much more than the reserve must be free before there is room again, as a part of it: an eighth. The two must not follow
	// each other at every file that is made and deleted.
	again = 8
	// fresh is how long what was seen holds.
	fresh = time.Second
)

// Status says how much room there is.
type Status struct {
	FreeBytes    int64 `json:"free_bytes"`
	ReserveBytes int64 `json:"reserve_bytes"` // below this much the disk counts as nearly full
	Low          bool  `json:"low"`           // from when less than ReserveBytes are free until an eighth more is
}

// Stat returns the bytes that may still be written to the file system of dir, and its size.
type Stat func(dir string) (free, size int64, err error)

// Disk is the Stat of real disks.
func Disk(dir string) (free, size int64, err error) {
	var s syscall.Statfs_t
	if err := syscall.Statfs(dir, &s); err != nil {
		return 0, 0, err
	}
	return int64(s.Bavail) * int64(s.Bsize), int64(s.Blocks) * int64(s.Bsize), nil
}

// Watch looks at the room in one folder. Its fields are not changed once it is used.
type Watch struct {
	Dir     string
	Reserve int64        // bytes; 0: a fiftieth of the file system, at least 512 MiB, at most 2 GiB and a quarter of it, and Extra
	Extra   func() int64 // bytes to be kept free beside the default reserve; nil is none
	Stat    Stat         // nil is Disk
	Logger  *slog.Logger

	mu   sync.Mutex
	seen time.Time
	last Status
}

// Status returns how much room there is, as seen within the last second.
func (w *Watch) Status() Status {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.seen.IsZero() || time.Since(w.seen) >= fresh {
		w.look()
	}
	return w.last
}

// Look looks now.
func (w *Watch) Look() Status {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.look()
	return w.last
}

// look asks the file system. One that cannot be asked is as it was: what is written to it will tell.
func (w *Watch) look() {
	w.seen = time.Now()
	stat := w.Stat
	if stat == nil {
		stat = Disk
	}
	free, size, err := stat(w.Dir)
	if err != nil {
		w.Logger.Warn("room on the disk not known", "error", err)
		return
	}
	reserve := w.Reserve
	if reserve == 0 {
		if reserve = reserveOf(size); w.Extra != nil {
			reserve += w.Extra()
		}
	}
	was, limit := w.last.Low, reserve
	if was {
		limit += reserve / again
	}
	w.last = Status{FreeBytes: free, ReserveBytes: reserve, Low: free < limit}
	switch low := w.last.Low; {
	case low && !was:
		w.Logger.Error("disk nearly full", "free_bytes", free, "reserve_bytes", reserve)
	case was && !low:
		w.Logger.Info("disk has room again", "free_bytes", free)
	}
}

func reserveOf(size int64) int64 {
	return min(max(size/reserveShare, minReserve), maxReserve, size/reserveMost)
}
