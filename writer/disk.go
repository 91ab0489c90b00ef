package writer

import (
	"errors"
	"sync/atomic"
	"time"

	"github.com/latchkey/latchkey/pkg/problem"
	"github.com/latchkey/latchkey/pkg/room"
)

// errNoRoom means that the disks of too many writers are nearly full. Nothing was written: a log write that fails ends the process, and a disk
// that is quite full lets it not even start again.
var errNoRoom = errors.New("disk nearly full")

// retryAfterNoRoom is what a client is told: nobody makes room sooner.
const retryAfterNoRoom = 10 * time.Second

// disk watches the room in the data folder. While it is low the writer leaves the lead to another that has room, if there is one, and builds no
// snapshots for edges; where a majority is low, writes are refused.
type disk struct {
	room.Watch
	full atomic.Bool // no room for writes in the cluster, as far as this node knows
}

// DiskStatus says how much room a writer has.
type DiskStatus = room.Status

// DiskStatus returns how much room there is in this writer's data folder.
func (w *Writer) DiskStatus() DiskStatus { return w.disk.Status() }

// noRoom is the answer to a write while the disks are nearly full.
func noRoom() error {
	return problem.New(problem.Unavailable, "The writers' disks are nearly full. Reads go on.").After(retryAfterNoRoom)
}
