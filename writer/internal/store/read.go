package store

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"

	bolt "go.etcd.io/bbolt"

	"github.com/latchkey/latchkey/pkg/entitlement"
	"github.com/latchkey/latchkey/replication"
)

// Reader reads one consistent state. It is valid inside the function that View calls, and so is every byte slice that it
// hands out; decoded values may be kept. Keep reads short: pages freed meanwhile cannot be used again.
type Reader struct {
	tx     *bolt.Tx
	st     state
	kept   *keptRows
	opened []openBucket
	room   [12]openBucket // of opened: what a look-up of an account takes
}

// openBucket is a bucket that was asked for: bbolt looks its name up every time.
type openBucket struct {
	name   *byte // the first of the variable that names it
	bucket *bolt.Bucket
	cursor *bolt.Cursor // of get alone
}

func (r *Reader) open(name []byte) *openBucket {
	for i := range r.opened {
		if r.opened[i].name == &name[0] {
			return &r.opened[i]
		}
	}
	if r.opened == nil {
		r.opened = r.room[:0]
	}
	r.opened = append(r.opened, openBucket{name: &name[0], bucket: r.tx.Bucket(name)})
	return &r.opened[len(r.opened)-1]
}

// bucket returns one of the buckets that rows.go names.
func (r *Reader) bucket(name []byte) *bolt.Bucket { return r.open(name).bucket }

// get returns the row under a key, nil for none. It is valid inside View.
func (r *Reader) get(name, key []byte) []byte {
	b := r.open(name)
	if b.bucket == nil { // the state file is not made yet
		return nil
	}
	if b.cursor == nil {
		b.cursor = b.bucket.Cursor()
	}
	if k, row := b.cursor.Seek(key); bytes.Equal(k, key) {
		return row
	}
	return nil
}

// close ends the transaction.
func (r *Reader) close() { _ = r.tx.Rollback() } // of a read transaction: that it is over already

// View runs fn in one read transaction. What fn sees may be behind other nodes: after ReadIndex and WaitApplied it is not.
// Error: ErrClosed, and what fn returns.
func (s *Store) View(fn func(*Reader) error) error { return s.fsm.view(fn) }

// Applied returns a channel that is closed when the next commands are in the state, whether they changed a record or not. Take it first,
// then look at the state.
func (s *Store) Applied() <-chan struct{} {
	_, applied, _, _ := s.fsm.current()
	return applied
}

// Position is that of the state.
func (r *Reader) Position() replication.Position { return r.st.position() }

func (st *state) position() replication.Position {
	return replication.Position{Cluster: st.Cluster, Epoch: st.Epoch, N: st.N, Chain: st.Chain, StateHash: st.StateHash, Rules: st.Rules}
}

// AppliedIndex is the log index of the last command in the state.
func (r *Reader) AppliedIndex() uint64 { return r.st.Applied }

// FullHash covers everything that writers keep beyond records. Nodes at the same applied index have the same one.
func (r *Reader) FullHash() replication.Hash { return r.st.FullHash }

// Rules is the version of the rules in force.
func (r *Reader) Rules() uint32 { return r.st.Rules }

// Floor is the revision number up to which changes are gone from the change log.
func (r *Reader) Floor() uint64 { return r.st.Floor }

// Stamp is the time of the last command, Unix seconds.
func (r *Reader) Stamp() int64 { return r.st.Stamp }

// Record returns a record's value, checked; ok is false if there is none. Error: replication.ErrCorrupt.
func (r *Reader) Record(env entitlement.Environment, kind replication.Kind, key string) (value []byte, ok bool, err error) {
	stored := r.get(bucketRecords, replication.AppendDBKey(nil, env, kind, key))
	if stored == nil {
		return nil, false, nil
	}
	record, err := replication.FromStored(env, kind, key, stored)
	if err != nil {
		return nil, false, fmt.Errorf("record %s/%s/%s: %w", env, kind, key, err)
	}
	return record.Value, true, nil
}

// Records calls fn with every record in key order, each checked. Errors: replication.ErrCorrupt, and what fn returns.
func (r *Reader) Records(fn func(replication.Record) error) error {
	return r.bucket(bucketRecords).ForEach(func(k, stored []byte) error {
		record, err := parseRecord(k, stored)
		if err != nil {
			return err
		}
		return fn(record)
	})
}

func (r *Reader) decodeRecord(env entitlement.Environment, kind replication.Kind, key string, v any) (bool, error) {
	value, ok, err := r.Record(env, kind, key)
	if err != nil || !ok {
		return false, err
	}
	if err := entitlement.Decode(value, v); err != nil {
		return false, fmt.Errorf("record %s/%s/%s: %w: %w", env, kind, key, replication.ErrCorrupt, err)
	}
	return true, nil
}

func (r *Reader) decode(bucket, key []byte, v any) (bool, error) {
	row := r.get(bucket, key)
	if row == nil {
		return false, nil
	}
	if err := entitlement.Decode(row, v); err != nil {
		return false, fmt.Errorf("row of %s: %w: %w", bucket, replication.ErrCorrupt, err)
	}
	return true, nil
}

// Account returns an account's record; of one that was merged that of the survivor, whose ID it then has. Others get the same one: nobody may change it.
// Error: replication.ErrCorrupt.
func (r *Reader) Account(env entitlement.Environment, id entitlement.AccountID) (*entitlement.Account, bool, error) {
	a, ok, err := r.account(env, id)
	if ok || err != nil {
		return a, ok, err
	}
	var pointer entitlement.Pointer
	if ok, err = r.decodeRecord(env, replication.KindPointer, string(id), &pointer); ok {
		return r.account(env, pointer.Account)
	}
	return a, ok, err
}

// account returns the record under this very id; an empty one if there is none.
func (r *Reader) account(env entitlement.Environment, id entitlement.AccountID) (*entitlement.Account, bool, error) {
	return keptRecord(r, &r.kept.accounts, env, replication.KindAccount, string(id))
}

// keptRecord returns what a record means, an empty value if there is none. Others get the same one: nobody may change it. Error: replication.ErrCorrupt.
func keptRecord[T any](r *Reader, kept *decodedRows[T], env entitlement.Environment, kind replication.Kind, key string) (*T, bool, error) {
	at := replication.AppendDBKey(nil, env, kind, key)
	stored := r.get(bucketRecords, at)
	if stored == nil {
		return new(T), false, nil
	}
	v, err := kept.get(at, stored, func(stored []byte, v *T) error {
		checked, err := replication.FromStored(env, kind, key, stored)
		if err == nil {
			err = entitlement.DecodeShared(checked.Value, v)
		}
		return err
	})
	if err != nil {
		return new(T), false, fmt.Errorf("record %s/%s/%s: %w: %w", env, kind, key, replication.ErrCorrupt, err)
	}
	return v, true, nil
}

// keptRow returns what a row of a bucket means, an empty value if there is none. Others get the same one: nobody may change it. Error: replication.ErrCorrupt.
func keptRow[T any](r *Reader, kept *decodedRows[T], bucket, key []byte) (*T, bool, error) {
	stored := r.get(bucket, key)
	if stored == nil {
		return new(T), false, nil
	}
	v, err := kept.get(key, stored, func(stored []byte, v *T) error { return entitlement.DecodeShared(stored, v) })
	if err != nil {
		return new(T), false, fmt.Errorf("row of %s: %w: %w", bucket, replication.ErrCorrupt, err)
	}
	return v, true, nil
}

// Accounts calls fn with the records of accounts in the order of their ids, after the given one, at most limit of them and as long as fn wants more. It returns
// the account up to which it looked, empty for all of them. Errors: replication.ErrCorrupt, and what fn returns.
func (r *Reader) Accounts(env entitlement.Environment, after entitlement.AccountID, limit int, fn func(*entitlement.Account) (more bool, err error)) (upTo entitlement.AccountID, err error) {
	prefix := replication.AppendDBKey(nil, env, replication.KindAccount, "")
	start := prefix
	if after != "" {
		start = append(replication.AppendDBKey(nil, env, replication.KindAccount, string(after)), 0)
	}
	cursor := r.bucket(bucketRecords).Cursor()
	for k, stored := cursor.Seek(start); k != nil && bytes.HasPrefix(k, prefix); k, stored = cursor.Next() {
		if limit == 0 {
			return upTo, nil
		}
		limit--
		record, err := parseRecord(k, stored)
		if err != nil {
			return "", err
		}
		account := &entitlement.Account{}
		if err := entitlement.Decode(record.Value, account); err != nil {
			return "", fmt.Errorf("account %s: %w: %w", record.Key, replication.ErrCorrupt, err)
		}
		upTo = account.ID
		more, err := fn(account)
		if err != nil {
			return "", err
		}
		if !more {
			limit = 0
		}
	}
	return "", nil
}

// HasAccount reports whether there is an account of this id, merged or not.
func (r *Reader) HasAccount(env entitlement.Environment, id entitlement.AccountID) bool {
	for _, kind := range []replication.Kind{replication.KindAccount, replication.KindPointer} {
		if r.get(bucketRecords, replication.AppendDBKey(nil, env, kind, string(id))) != nil {
			return true
		}
	}
	return false
}

// AliasOwner returns the account that has an alias.
func (r *Reader) AliasOwner(env entitlement.Environment, a entitlement.Alias) (entitlement.AccountID, bool, error) {
	id := r.get(bucketAliases, aliasKey(env, hashedAlias(r.st.Rules, a)))
	return entitlement.AccountID(id), id != nil, nil
}

// AccountDetail is what the server API shows of an account beyond its record.
type AccountDetail struct {
	ID           entitlement.AccountID   // of the survivor, if it is merged
	Account      *entitlement.Account    // the record
	Accounts     []entitlement.AccountID // that are merged, ID first
	Merges       []Merge                 // that it takes part in, oldest first
	CreatedAt    int64                   // Unix seconds
	Anonymous    bool                    // a session made it and all that it is merged with, and nothing has named any of them since
	Attributes   map[string]string       // put before RulesPersonal: later ones are sealed texts
	Aliases      []NamedAlias            // sorted by kind, value; of all that are merged
	GrantReasons map[string]string       // by grant id, put before RulesPersonal
	Purchases    []PurchaseDetail        // in the order of the record
}

// PurchaseDetail is a purchase with what proves it.
type PurchaseDetail struct {
	ID       entitlement.PurchaseID
	Owner    entitlement.AccountID // empty: nobody's
	Erased   bool                  // its owner was erased: it is nobody's, and not unclaimed
	Evidence entitlement.Evidence
	// Pull: the provider is to be asked, because of doubt or of a conflicting message.
	Pull bool
	// Delivered are the products of it whose codes the buyer has.
	Delivered []entitlement.ProductID
}

// AccountDetail returns what is kept beyond the record.
func (r *Reader) AccountDetail(env entitlement.Environment, id entitlement.AccountID) (AccountDetail, bool, error) {
	account, ok, err := r.Account(env, id)
	if err != nil || !ok {
		return AccountDetail{}, false, err
	}
	members, merges := []entitlement.AccountID{id}, []Merge(nil)
	if account.Merged || account.ID != id { // else it is alone: nothing of a merge need be looked for
		if members, merges, err = r.Group(env, id); err != nil {
			return AccountDetail{}, false, err
		}
	}
	d := AccountDetail{ID: members[0], Account: account, Accounts: members, Merges: merges, Anonymous: true, Attributes: map[string]string{}, GrantReasons: map[string]string{}}
	for i := len(members) - 1; i >= 0; i-- { // the survivor's own attributes are the last to be written
		part, _, err := keptRow(r, &r.kept.details, bucketAccounts, envKey(env, string(members[i])))
		if err != nil {
			return d, false, err
		}
		maps.Copy(d.Attributes, part.Attributes)
		maps.Copy(d.GrantReasons, part.Reasons)
		d.Aliases = append(d.Aliases, part.named(members[i])...)
		d.Anonymous = d.Anonymous && part.anonymous()
		if i == 0 {
			d.CreatedAt = part.CreatedAt
		}
	}
	slices.SortFunc(d.Aliases, func(a, b NamedAlias) int { return compareAliases(a.Alias, b.Alias) })
	d.Purchases = make([]PurchaseDetail, 0, len(account.Purchases))
	for i := range account.Purchases {
		detail, ok, err := r.Purchase(env, account.Purchases[i].ID)
		if err != nil {
			return d, false, err
		}
		if ok {
			d.Purchases = append(d.Purchases, detail)
		}
	}
	return d, true, nil
}

// Purchase returns a purchase by any id that it ever had. Others get the same evidence: nobody may change it.
func (r *Reader) Purchase(env entitlement.Environment, id entitlement.PurchaseID) (PurchaseDetail, bool, error) {
	key := envKey(env, string(id))
	if present := r.get(bucketLinks, key); present != nil {
		id = entitlement.PurchaseID(present)
		key = envKey(env, string(id))
	}
	purchase, ok, err := keptRow(r, &r.kept.purchases, bucketPurchases, key)
	d := r.purchaseDetail(env, id, purchase)
	d.Pull = r.get(bucketPulls, key) != nil
	return d, ok, err
}

func (r *Reader) purchaseDetail(env entitlement.Environment, id entitlement.PurchaseID, row *purchaseRow) PurchaseDetail {
	d := PurchaseDetail{ID: id, Owner: row.Owner, Evidence: row.Evidence, Delivered: row.delivered()}
	if d.Erased = r.Erased(env, row.Owner); d.Erased {
		d.Owner = ""
	}
	return d
}

// Purchases lists purchases and what is not one yet, sorted by id, after the given one.
func (r *Reader) Purchases(env entitlement.Environment, after entitlement.PurchaseID, limit int) ([]PurchaseDetail, error) {
	var list []PurchaseDetail
	err := r.walkPurchases(bucketPurchases, env, after, limit, func(id entitlement.PurchaseID, value []byte) error {
		var row purchaseRow
		if err := entitlement.Decode(value, &row); err != nil {
			return fmt.Errorf("purchase %s: %w: %w", id, replication.ErrCorrupt, err)
		}
		list = append(list, r.purchaseDetail(env, id, &row))
		return nil
	})
	return list, err
}

// UnclaimedPurchase is a payment without an account.
type UnclaimedPurchase struct {
	ID          entitlement.PurchaseID
	Since       int64 // Unix seconds
	AccessUntil int64 // what was paid for ends then, Unix seconds; 0: never, or it is not known
}

// Unclaimed lists purchases without an account for which money was taken and not given back, sorted by id, after the given one. Error: replication.ErrCorrupt.
func (r *Reader) Unclaimed(env entitlement.Environment, after entitlement.PurchaseID, limit int) ([]UnclaimedPurchase, error) {
	var list []UnclaimedPurchase
	err := r.walkPurchases(bucketUnclaimed, env, after, limit, func(id entitlement.PurchaseID, row []byte) error {
		u, err := readUnclaimed(id, row)
		list = append(list, u)
		return err
	})
	return list, err
}

// UnclaimedSince is Unclaimed without those whose access ended before a time, Unix seconds, from the first one on.
func (r *Reader) UnclaimedSince(env entitlement.Environment, ended int64, limit int) ([]UnclaimedPurchase, error) {
	var list []UnclaimedPurchase
	full := errors.New("as many as are wanted")
	err := r.walkPurchases(bucketUnclaimed, env, "", math.MaxInt, func(id entitlement.PurchaseID, row []byte) error {
		if len(list) >= limit {
			return full
		}
		u, err := readUnclaimed(id, row)
		if u.AccessUntil == 0 || u.AccessUntil >= ended {
			list = append(list, u)
		}
		return err
	})
	if errors.Is(err, full) {
		err = nil
	}
	return list, err
}

func readUnclaimed(id entitlement.PurchaseID, row []byte) (UnclaimedPurchase, error) {
	u := UnclaimedPurchase{ID: id}
	switch len(row) {
	case 16:
		u.AccessUntil = int64(binary.BigEndian.Uint64(row[8:]))
		fallthrough
	case 8:
		u.Since = int64(binary.BigEndian.Uint64(row))
		return u, nil
	}
	return u, fmt.Errorf("unclaimed %s: %w", id, replication.ErrCorrupt)
}

// walkSince is walkPurchases for a bucket whose rows say since when a purchase is in it, Unix seconds.
func (r *Reader) walkSince(bucket []byte, env entitlement.Environment, after entitlement.PurchaseID, limit int, fn func(id entitlement.PurchaseID, since int64)) error {
	return r.walkPurchases(bucket, env, after, limit, func(id entitlement.PurchaseID, row []byte) error {
		if len(row) != 8 {
			return fmt.Errorf("%s of %s: %w", bucket, id, replication.ErrCorrupt)
		}
		fn(id, int64(binary.BigEndian.Uint64(row)))
		return nil
	})
}

// Pull is a purchase whose provider is to be asked.
type Pull struct {
	ID       entitlement.PurchaseID
	Since    int64 // Unix seconds
	Conflict bool  // two messages came under one id; otherwise the evidence is in doubt

	ConflictAt int64  // when the last such message was noted, Unix seconds
	Asks       string // changes with what there is to ask for: evidence in the same doubt has the same
	Echoes     string // the providers, separated by commas, of doubts that leave nothing open where these cannot be asked; empty: something is open
}

// IsOpen reports whether something is open about the purchase, or would be asked of a provider that can be.
func (p *Pull) IsOpen(can func(entitlement.Provider) bool) bool {
	return p.Conflict || p.Echoes == "" || slices.ContainsFunc(strings.Split(p.Echoes, ","), func(name string) bool { return can(entitlement.Provider(name)) })
}

// Pulls lists purchases whose provider is to be asked, sorted by id, after the given one.
func (r *Reader) Pulls(env entitlement.Environment, after entitlement.PurchaseID, limit int) ([]Pull, error) {
	var list []Pull
	err := r.walkPurchases(bucketPulls, env, after, limit, func(id entitlement.PurchaseID, row []byte) error {
		var p pullRow
		if err := entitlement.Decode(row, &p); err != nil {
			return fmt.Errorf("pull %s: %w: %w", id, replication.ErrCorrupt, err)
		}
		list = append(list, Pull{ID: id, Since: p.Since, Conflict: p.Conflict, ConflictAt: p.ConflictAt, Asks: string(p.Asks), Echoes: p.Echoes})
		return nil
	})
	return list, err
}

func (r *Reader) walkPurchases(bucket []byte, env entitlement.Environment, after entitlement.PurchaseID, limit int, fn func(entitlement.PurchaseID, []byte) error) error {
	prefix := []byte{envByte(env)}
	start := prefix
	if after != "" {
		start = append(envKey(env, string(after)), 0)
	}
	cursor := r.bucket(bucket).Cursor()
	for k, row := cursor.Seek(start); k != nil && limit > 0 && bytes.HasPrefix(k, prefix); k, row = cursor.Next() {
		if err := fn(entitlement.PurchaseID(k[1:]), row); err != nil {
			return err
		}
		limit--
	}
	return nil
}

// Catalog returns an environment's catalog; empty if none was put yet.
func (r *Reader) Catalog(env entitlement.Environment) (*entitlement.Catalog, error) {
	c := &entitlement.Catalog{}
	_, err := r.decodeRecord(env, replication.KindCatalog, replication.CurrentKey, c)
	return c, err
}

// Policy returns an environment's policy; the default if none was put yet. Others get the same map in it: nobody may change that. Error: replication.ErrCorrupt.
func (r *Reader) Policy(env entitlement.Environment) (entitlement.Policy, error) {
	put, ok, err := keptRecord(r, &r.kept.policies, env, replication.KindPolicy, replication.CurrentKey)
	p := *put
	if err == nil && !ok {
		p = entitlement.DefaultPolicy
	}
	p.Rules = r.st.Rules
	return p, err
}

// SessionKeys returns the JWKs that session tokens of an environment are checked with.
func (r *Reader) SessionKeys(env entitlement.Environment) ([][]byte, error) {
	var keys replication.SessionKeys
	_, err := r.decodeRecord(env, replication.KindKeys, replication.CurrentKey, &keys)
	return keys.JWKs, err
}

// Revocations returns the lists of revoked keys, a root's first; none if nothing was ever revoked. Every environment has the same ones, or will have.
func (r *Reader) Revocations(env entitlement.Environment) ([]replication.RevocationList, error) {
	var keys replication.SessionKeys
	_, err := r.decodeRecord(env, replication.KindKeys, replication.CurrentKey, &keys)
	return keys.Revocations, err
}

// APIKey returns the key with this SHA-256, revoked or not.
func (r *Reader) APIKey(hash []byte) (APIKey, bool, error) {
	row := r.get(bucketAPIKeys, hash)
	if row == nil {
		return APIKey{Hash: bytes.Clone(hash)}, false, nil
	}
	var known [sha256.Size]byte
	copy(known[:], hash)
	if kept, ok := r.kept.keys.Load(known); ok && bytes.Equal(kept.(*decodedKey).row, row) {
		return kept.(*decodedKey).key, true, nil
	}
	k := APIKey{Hash: bytes.Clone(hash)}
	if err := entitlement.Decode(row, &k); err != nil {
		return k, false, fmt.Errorf("api key: %w: %w", replication.ErrCorrupt, err)
	}
	r.kept.keys.Store(known, &decodedKey{bytes.Clone(row), k})
	return k, true, nil
}

// APIKeys lists all keys, by environment, then name.
func (r *Reader) APIKeys() ([]APIKey, error) {
	keys, err := readAPIKeys(r.tx)
	slices.SortStableFunc(keys, func(a, b APIKey) int {
		return cmp.Or(cmp.Compare(a.Env, b.Env), cmp.Compare(a.Name, b.Name))
	})
	return keys, err
}

func readAPIKeys(tx *bolt.Tx) ([]APIKey, error) {
	var keys []APIKey
	err := tx.Bucket(bucketAPIKeys).ForEach(func(hash, row []byte) error {
		k := APIKey{Hash: bytes.Clone(hash)}
		if err := entitlement.Decode(row, &k); err != nil {
			return fmt.Errorf("api key: %w: %w", replication.ErrCorrupt, err)
		}
		keys = append(keys, k)
		return nil
	})
	return keys, err
}
