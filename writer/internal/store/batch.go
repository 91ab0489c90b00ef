package store

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"

	bolt "go.etcd.io/bbolt"

	"github.com/latchkey/latchkey/pkg/entitlement"
	"github.com/latchkey/latchkey/pkg/fault"
	"github.com/latchkey/latchkey/replication"
)

// batch is one write transaction: the state as it will be, and the only helpers through which rows are written, so that
// every hash follows. The first error sticks, and the whole transaction is then given up.
type batch struct {
	tx      *bolt.Tx
	cursors map[string]*bolt.Cursor // by bucket: reading through one takes no memory, Bucket.Get does
	st      state
	journal *journal
	err     error
	policy  map[entitlement.Environment]*entitlement.Policy // as read in this batch

	catalogs map[entitlement.Environment]*entitlement.CatalogIndex // as read in this batch

	// Of the command that is being applied.
	now int64 // its stamp, never below the last
	at  place // of its entry in the journal

	keys, scratch []byte // reused
}

func newBatch(tx *bolt.Tx, st state, j *journal) *batch {
	b := &batch{tx: tx, cursors: make(map[string]*bolt.Cursor, len(buckets)), st: st, journal: j, policy: map[entitlement.Environment]*entitlement.Policy{},
		catalogs: map[entitlement.Environment]*entitlement.CatalogIndex{}}
	for _, name := range [][]byte{bucketChanges, bucketEventOrder} {
		tx.Bucket(name).FillPercent = appendFill
	}
	return b
}

// appendFill is how full pages become in buckets whose rows are only ever added at the end.
const appendFill = 0.95

// emptied makes a bucket that no hash covers empty.
func (b *batch) emptied(bucket []byte) error {
	delete(b.cursors, string(bucket))
	if err := b.tx.DeleteBucket(bucket); err != nil {
		return fmt.Errorf("empty %s: %w", bucket, err)
	}
	made, err := b.tx.CreateBucket(bucket)
	if err != nil {
		return fmt.Errorf("empty %s: %w", bucket, err)
	}
	made.FillPercent = appendFill
	return nil
}

// finish writes the journal's bytes and the state's own row.
func (b *batch) finish() {
	if b.err == nil {
		b.err = b.journal.flush(&b.st)
	}
	if b.err == nil {
		b.err = b.tx.Bucket(bucketMeta).Put(stateKey, entitlement.Encode(&b.st))
	}
}

func (b *batch) fail(err error) {
	if b.err == nil {
		b.err = err
	}
}

// get returns the row, or nil. It is valid until the commit.
func (b *batch) get(bucket, key []byte) []byte {
	if k, row := b.cursor(bucket).Seek(key); bytes.Equal(k, key) {
		return row
	}
	return nil
}

// cursor returns the bucket's cursor, whose place the next call of any helper may change.
func (b *batch) cursor(bucket []byte) *bolt.Cursor {
	cursor := b.cursors[string(bucket)]
	if cursor == nil {
		cursor = b.tx.Bucket(bucket).Cursor()
		b.cursors[string(bucket)] = cursor
	}
	return cursor
}

// put writes a row of a hashed bucket. value must not be changed afterwards: bbolt keeps it until the commit.
func (b *batch) put(bucket, key, value []byte) {
	if b.err != nil {
		return
	}
	b.replace(bucket, key, b.get(bucket, key), value)
}

// replace is put for a caller that knows what is there, nil for nothing.
func (b *batch) replace(bucket, key, old, value []byte) {
	if b.err != nil || old != nil && bytes.Equal(old, value) {
		return
	}
	if old != nil {
		b.st.FullHash = b.st.FullHash.Sub(b.rowHash(bucket, key, old))
	}
	b.add(bucket, key, value)
}

// add is put for a key that is known to be new, which saves a look at what was there.
func (b *batch) add(bucket, key, value []byte) {
	if b.err != nil {
		return
	}
	b.st.FullHash = b.st.FullHash.Add(b.rowHash(bucket, key, value))
	if err := b.tx.Bucket(bucket).Put(key, value); err != nil {
		b.fail(fmt.Errorf("add to %s: %w", bucket, err))
	}
}

// delete removes a row of a hashed bucket, if it is there.
func (b *batch) delete(bucket, key []byte) {
	if b.err != nil {
		return
	}
	old := b.get(bucket, key)
	if old == nil {
		return
	}
	b.st.FullHash = b.st.FullHash.Sub(b.rowHash(bucket, key, old))
	if err := b.tx.Bucket(bucket).Delete(key); err != nil {
		b.fail(fmt.Errorf("delete from %s: %w", bucket, err))
	}
}

// encode writes v as the row.
func (b *batch) encode(bucket, key []byte, v any) { b.put(bucket, key, entitlement.Encode(v)) }

// decode reads the row into v and reports whether it is there.
func (b *batch) decode(bucket, key []byte, v any) bool {
	row := b.get(bucket, key)
	if row == nil || b.err != nil {
		return false
	}
	if err := entitlement.Decode(row, v); err != nil {
		b.fail(fmt.Errorf("row of %s: %w: %w", bucket, replication.ErrCorrupt, err))
		return false
	}
	return true
}

func (b *batch) rowHash(bucket, key, value []byte) replication.Hash {
	var h replication.Hash
	h, b.scratch = appendRowHash(b.scratch[:0], bucket, key, value)
	return h
}

// appendRowHash is SHA-256 over the length-prefixed bucket, key and value; scratch is grown and returned.
func appendRowHash(scratch, bucket, key, value []byte) (replication.Hash, []byte) {
	for _, part := range [][]byte{bucket, key, value} {
		scratch = binary.BigEndian.AppendUint32(scratch, uint32(len(part)))
		scratch = append(scratch, part...)
	}
	return sha256.Sum256(scratch), scratch
}

// record reads a record's value, which is checked, or nil.
func (b *batch) record(env entitlement.Environment, kind replication.Kind, key string) []byte {
	b.keys = replication.AppendDBKey(b.keys[:0], env, kind, key)
	stored := b.get(bucketRecords, b.keys)
	if stored == nil || b.err != nil {
		return nil
	}
	r, err := replication.FromStored(env, kind, key, stored)
	if err != nil {
		b.fail(fmt.Errorf("record %s/%s/%s: %w", env, kind, key, err))
	}
	return r.Value
}

// changePrefix is what stands before a change in the change log: stamp, chain, state hash.
const changePrefix = 8 + 32 + 32

// write puts a record and makes the change with the next revision. Equal bytes are no change. The value must not be changed
// afterwards.
func (b *batch) write(r replication.Record) { b.writeOver(r, b.record(r.Env, r.Kind, r.Key)) }

// writeOver is write for a caller that knows the record's present value, nil for none.
func (b *batch) writeOver(r replication.Record, old []byte) {
	if b.err != nil || old != nil && bytes.Equal(old, r.Value) {
		return
	}
	dbKey := r.DBKey()
	if old != nil {
		before := r
		before.Value = old
		b.st.StateHash = b.st.StateHash.Sub(before.Hash())
	}
	h := r.Hash()
	b.st.StateHash = b.st.StateHash.Add(h)
	if err := b.tx.Bucket(bucketRecords).Put(dbKey, r.StoredWithHash(h)); err != nil {
		b.fail(fmt.Errorf("put record %s: %w", dbKey, err))
		return
	}
	b.log(r, dbKey)
}

// erase deletes a record, if it is there, and makes the change with the next revision.
func (b *batch) erase(env entitlement.Environment, kind replication.Kind, key string) {
	r := replication.Record{Env: env, Kind: kind, Key: key}
	before := r
	if before.Value = b.record(env, kind, key); before.Value == nil || b.err != nil {
		return
	}
	b.st.StateHash = b.st.StateHash.Sub(before.Hash())
	dbKey := r.DBKey()
	if err := b.tx.Bucket(bucketRecords).Delete(dbKey); err != nil {
		b.fail(fmt.Errorf("delete record %s: %w", dbKey, err))
		return
	}
	b.log(r, dbKey)
}

// log makes the change with the next revision.
func (b *batch) log(r replication.Record, dbKey []byte) {
	b.st.N++
	row := make([]byte, changePrefix, changePrefix+32+len(dbKey)+len(r.Value))
	row = replication.Change{N: b.st.N, Record: r}.AppendBinary(row)
	b.st.Chain = replication.NextChain(b.st.Chain, row[changePrefix:])
	binary.BigEndian.PutUint64(row, uint64(b.now))
	copy(row[8:], b.st.Chain[:])
	copy(row[40:], b.st.StateHash[:])
	if fault.Planted("drop-change") && b.st.N%5 == 0 {
		return
	}
	if err := b.tx.Bucket(bucketChanges).Put(revisionKey(b.st.N), row); err != nil {
		b.fail(fmt.Errorf("put change %d: %w", b.st.N, err))
	}
	b.st.ChangeBytes += int64(8 + len(row))
}

func revisionKey(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }

// revision is the present one.
func (b *batch) revision() replication.Revision {
	return replication.Revision{Epoch: b.st.Epoch, N: b.st.N}
}

// policyOf returns the environment's policy.
func (b *batch) policyOf(env entitlement.Environment) entitlement.Policy {
	if p := b.policy[env]; p != nil {
		p.Rules = b.st.Rules
		return *p
	}
	p := entitlement.DefaultPolicy
	if value := b.record(env, replication.KindPolicy, replication.CurrentKey); value != nil {
		p = entitlement.Policy{}
		if err := entitlement.Decode(value, &p); err != nil {
			b.fail(fmt.Errorf("policy: %w: %w", replication.ErrCorrupt, err))
		}
	}
	b.policy[env] = &p
	p.Rules = b.st.Rules
	return p
}
