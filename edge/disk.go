package edge

import (
	"errors"

	"github.com/latchkey/latchkey/replication"
)

// errNoRoom means that the edge's disk is nearly full. It goes on serving what it holds, with its true as_of, and takes nothing new: a write that
// fails half way would cost the replica, and a disk that is quite full the answers.
var errNoRoom = errors.New("disk nearly full: nothing new is applied")

// snapshotSpread is how much room a snapshot's bytes need for each one on the wire: itself, and the replica that is made of it, which is not
// compressed.
const snapshotSpread = 8

// roomFor returns errNoRoom where a snapshot of so many bytes would leave less than the reserve.
func (e *Edge) roomFor(snapshotBytes int64) error {
	if s := e.room.Look(); s.Low || s.FreeBytes-s.ReserveBytes < snapshotBytes*snapshotSpread {
		return errNoRoom
	}
	return nil
}

// Apply implements replication.Moving.
func (h heard) Apply(to replication.Position, changes [][]byte) error {
	if h.edge.room.Status().Low {
		return errNoRoom
	}
	err := h.Replica.Apply(to, changes)
	if err == nil {
		h.edge.streams.applied(changes)
	}
	return err
}
