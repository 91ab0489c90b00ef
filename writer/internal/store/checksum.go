package store

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"

	"github.com/hashicorp/raft"

	"github.com/latchkey/latchkey/pkg/fault"
	"github.com/latchkey/latchkey/replication"
)

// raft-wal looks at the checksum of its last batch alone, when it opens: a byte that changed in an older entry would be applied as if a
// majority had agreed on it. So each entry carries a CRC-32C of its own on the disk, in the place that Raft leaves to such layers. It
// is taken away again when the entry is read: it is no part of what is sent to other nodes. (A wal.Codec would be the place for
// it, but raft-wal v0.4.2 does not open a log again that it wrote with another codec than its own.)

// checksummed returns copies of logs as they go to the disk.
func checksummed(logs []*raft.Log) []*raft.Log {
	copies, out := make([]raft.Log, len(logs)), make([]*raft.Log, len(logs))
	sums := make([]byte, 0, crc32.Size*len(logs))
	for i, l := range logs {
		copies[i] = *l
		sums = binary.BigEndian.AppendUint32(sums, checksum(l))
		copies[i].Extensions = sums[crc32.Size*i : len(sums) : len(sums)]
		out[i] = &copies[i]
	}
	return out
}

// verify checks what was read from the disk and takes the checksum away. Error: replication.ErrCorrupt.
func verify(l *raft.Log) error {
	if (len(l.Extensions) != crc32.Size || binary.BigEndian.Uint32(l.Extensions) != checksum(l)) && !fault.Planted("log-unchecked") {
		return fmt.Errorf("entry of Raft's log: %w", replication.ErrCorrupt)
	}
	l.Extensions = nil
	return nil
}

// checksum covers all that Raft acts on.
func checksum(l *raft.Log) uint32 {
	var head [17]byte
	binary.BigEndian.PutUint64(head[:], l.Index)
	binary.BigEndian.PutUint64(head[8:], l.Term)
	head[16] = byte(l.Type)
	return crc32.Update(crc32.Checksum(head[:], castagnoli), castagnoli, l.Data)
}
