package store

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"github.com/latchkey/latchkey/pkg/entitlement"
	"github.com/latchkey/latchkey/replication"
)

// What the API grants may be passed on to an aggregator, so that its own library in the app knows of it. Which accounts' grants have changed since they were
// passed on stands here; what an aggregator has is asked of it. Without an aggregator to tell, the list is of nobody's use and stays as it is: when one is
// configured, it says whom to begin with.

// NoteGranted says that the grants of an account, as they were after a change, have been passed on.
type NoteGranted struct {
	Account entitlement.AccountID `cbor:"1,keyasint"`
	Change  uint64                `cbor:"2,keyasint"` // of OwedGrants
}

// grantsChanged notes that an account's grants, or by which names it is known, have changed. Only who has any, or had, is told of.
func (c *command) grantsChanged(id entitlement.AccountID) {
	if c.st.Rules < rulesAccounts {
		return
	}
	// The command's place in the audit trail tells its changes from those of others.
	c.put(bucketGrantsOwed, envKey(c.Env, string(id)), binary.BigEndian.AppendUint64(nil, c.st.EventSeq+1))
}

// grantsRegrouped does so for accounts that were merged, or are no longer: what one is granted counts for all, under the names of all.
func (c *command) grantsRegrouped(members []entitlement.AccountID) {
	for _, id := range members {
		if own := c.own(id); len(own.Grants) > 0 {
			for _, id := range members {
				c.grantsChanged(id)
			}
			return
		}
	}
}

func (c *command) noteGranted(body *NoteGranted) Result {
	key := envKey(c.Env, string(body.Account))
	if row := c.get(bucketGrantsOwed, key); len(row) == 8 && binary.BigEndian.Uint64(row) == body.Change {
		c.delete(bucketGrantsOwed, key)
	}
	return Result{Account: body.Account}
}

// OwedGrants is an account whose grants have changed since they were passed on.
type OwedGrants struct {
	Account entitlement.AccountID
	Change  uint64 // the last one
}

// OwedGrants lists accounts whose grants are to be passed on, sorted by id, after the given one. Error: replication.ErrCorrupt.
func (r *Reader) OwedGrants(env entitlement.Environment, after entitlement.AccountID, limit int) ([]OwedGrants, error) {
	var list []OwedGrants
	prefix := []byte{envByte(env)}
	cursor := r.tx.Bucket(bucketGrantsOwed).Cursor()
	for k, v := cursor.Seek(append(envKey(env, string(after)), 0)); k != nil && bytes.HasPrefix(k, prefix) && len(list) < limit; k, v = cursor.Next() {
		if len(v) != 8 {
			return list, fmt.Errorf("grants of %s: %w", k[1:], replication.ErrCorrupt)
		}
		list = append(list, OwedGrants{Account: entitlement.AccountID(k[1:]), Change: binary.BigEndian.Uint64(v)})
	}
	return list, nil
}
