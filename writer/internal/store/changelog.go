package store

import (
	"bytes"
	"encoding/binary"
	"fmt"

	bolt "go.etcd.io/bbolt"

	"github.com/latchkey/latchkey/replication"
)

// Changes returns consecutive changes after revision number after, encoded as replication.Change.AppendBinary does, and the
// position after the last of them, or the present position if there are none. At most limit changes come, and about maxBytes,
// but one if there is any. Errors: ErrBelowFloor, ErrAhead.
func (s *Store) Changes(after uint64, limit, maxBytes int) (changes [][]byte, at replication.Position, err error) {
	err = s.View(func(r *Reader) error {
		changes, at, err = r.Changes(after, limit, maxBytes)
		return err
	})
	return changes, at, err
}

// Changes is Store.Changes within one read transaction; the changes are copies.
func (r *Reader) Changes(after uint64, limit, maxBytes int) ([][]byte, replication.Position, error) {
	at := r.Position()
	switch {
	case after < r.st.Floor:
		return nil, at, fmt.Errorf("after %d, floor %d: %w", after, r.st.Floor, ErrBelowFloor)
	case after > r.st.N:
		return nil, at, fmt.Errorf("after %d, present %d: %w", after, r.st.N, ErrAhead)
	}
	var changes [][]byte
	size := 0
	cursor := r.bucket(bucketChanges).Cursor()
	for k, row := cursor.Seek(revisionKey(after + 1)); k != nil && len(changes) < limit; k, row = cursor.Next() {
		if len(row) < changePrefix || binary.BigEndian.Uint64(k) != after+1 {
			return nil, at, fmt.Errorf("change %d: %w", after+1, replication.ErrCorrupt)
		}
		change := row[changePrefix:]
		if size += len(change); size > maxBytes && len(changes) > 0 {
			break
		}
		after++
		changes = append(changes, bytes.Clone(change))
		at.N = after
		copy(at.Chain[:], row[8:])
		copy(at.StateHash[:], row[40:])
	}
	return changes, at, nil
}

// trimStep bounds how many changes one Trim removes, so that no batch takes long.
const trimStep = 20_000

// trimFloor returns up to which revision the change log is to be trimmed now: what is older than oldest (Unix seconds), or
// too much by bytes. 0 is nothing.
func trimFloor(tx *bolt.Tx, st *state, oldest int64, maxBytes int64) uint64 {
	floor, size := uint64(0), st.ChangeBytes
	cursor := tx.Bucket(bucketChanges).Cursor()
	for k, row := cursor.First(); k != nil; k, row = cursor.Next() {
		n := binary.BigEndian.Uint64(k)
		if int64(binary.BigEndian.Uint64(row)) >= oldest && size <= maxBytes || n > st.Floor+trimStep {
			break
		}
		floor = n
		size -= int64(len(k) + len(row))
	}
	return floor
}
