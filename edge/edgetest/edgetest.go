// Package edgetest hands an edge's replica to simulators and tests that stand outside of edge, where internal packages cannot be seen. It
// adds nothing to it. Start at OpenReplica.
package edgetest

import (
	"time"

	"github.com/latchkey/latchkey/edge/internal/replica"
)

// Replica is a replica in which nothing happens by itself.
type Replica = replica.Still

// ErrUnproven is what a replica answers that cannot say yet.
var ErrUnproven = replica.ErrUnproven

// Rules is the highest rules version that the replicas know.
const Rules = 1

// OpenReplica opens the replica in dir at the time that now gives, on a machine that has been up since the boot that bootID names.
func OpenReplica(dir, bootID string, now func() time.Time) (*Replica, error) {
	return replica.OpenStill(replica.Config{Dir: dir, Rules: Rules, BootID: bootID}, now)
}
