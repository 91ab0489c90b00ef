package store

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"

	"github.com/latchkey/latchkey/pkg/entitlement"
	"github.com/latchkey/latchkey/replication"
)

// A merge is an edge between two accounts, and nothing moves along it: every purchase, grant and alias keeps the account that it came with, in a row of
// the bucket parts. Accounts that edges connect are a group. The one that none of them was merged from survives: its record is the union of all
// parts, and a pointer leads to it from each of the others. So taking an edge away gives back exactly what would be there without it.

// undoSeconds is how long a merge can be taken back (contract section 3).
const undoSeconds = 30 * 24 * 3600

// maxMerged is how many accounts may be one: each install that signs in adds one, and every command on any of them reads all.
const maxMerged = 256

// Why a merge is refused, in words.
const (
	sameAccount       = "an account cannot be merged with itself"
	mergedBefore      = "the account was merged before"
	mergedTheOtherWay = "the accounts are merged, the other way around"
	mergedTooMany     = "too many accounts are merged already"
	mergedTooLarge    = "what both accounts have does not fit one record"
)

// auditMerged is how the audit trail calls a merge.
const auditMerged = "accounts.merged"

// mergeRow is one edge, found by the account that was merged.
type mergeRow struct {
	ID    string                `cbor:"1,keyasint"`
	Into  entitlement.AccountID `cbor:"2,keyasint"`
	Stamp int64                 `cbor:"3,keyasint"`
}

// mergedGroup is the union of a group as it will be.
type mergedGroup struct {
	survivor entitlement.AccountID
	value    []byte // the record
	parts    []entitlement.Account
}

func mergedInPrefix(env entitlement.Environment, into entitlement.AccountID) []byte {
	return appendKeyText([]byte{envByte(env)}, string(into))
}

func mergedInKey(env entitlement.Environment, into, from entitlement.AccountID) []byte {
	return append(mergedInPrefix(env, into), from...)
}

// survivor returns the account whose record answers for id: id itself unless it was merged.
func (c *command) survivor(id entitlement.AccountID) entitlement.AccountID {
	var row mergeRow
	for c.decode(bucketMerges, envKey(c.Env, string(id)), &row) {
		id, row = row.Into, mergeRow{}
	}
	return id
}

// mergedUnder lists id and all accounts that were merged into it, at once or by way of others, id first and the others sorted.
func mergedUnder(read func(bucket, prefix []byte, fn func(value []byte)), env entitlement.Environment, id entitlement.AccountID) []entitlement.AccountID {
	members := []entitlement.AccountID{id}
	for at := 0; at < len(members); at++ {
		read(bucketMergedIn, mergedInPrefix(env, members[at]), func(from []byte) { members = append(members, entitlement.AccountID(from)) })
	}
	slices.Sort(members[1:])
	return members
}

func (c *command) mergedUnder(id entitlement.AccountID) []entitlement.AccountID {
	return mergedUnder(func(bucket, prefix []byte, fn func([]byte)) {
		cursor := c.tx.Bucket(bucket).Cursor()
		for k, v := cursor.Seek(prefix); k != nil && bytes.HasPrefix(k, prefix); k, v = cursor.Next() {
			fn(v)
		}
	}, c.Env, id)
}

// own returns what an account itself has, with the command's changes.
func (c *command) own(id entitlement.AccountID) entitlement.Account {
	if at := slices.IndexFunc(c.accounts, func(a *accountEdit) bool { return a.id == id }); at >= 0 {
		return c.accounts[at].acc
	}
	var acc entitlement.Account
	if !c.decode(bucketParts, envKey(c.Env, string(id)), &acc) {
		if value := c.record(c.Env, replication.KindAccount, string(id)); value == nil || entitlement.Decode(value, &acc) != nil {
			c.fail(fmt.Errorf("account %s is in a merge and not there: %w", id, replication.ErrCorrupt))
		}
	}
	return acc
}

// unite makes the union of a group. It reports false if that is larger than a record may be.
func (c *command) unite(members []entitlement.AccountID) (*mergedGroup, bool) {
	g := &mergedGroup{survivor: members[0]}
	for _, id := range members {
		g.parts = append(g.parts, c.own(id))
	}
	union := entitlement.Union(g.parts)
	g.value = entitlement.Encode(&union)
	return g, len(g.value) <= replication.MaxRecordBytes
}

// uniteGroups makes the unions of the groups whose accounts the command changes, and reports false if one is larger than a record may be.
func (c *command) uniteGroups() bool {
	c.groups = nil
	for _, a := range c.accounts {
		if !a.part {
			continue
		}
		survivor := c.survivor(a.id)
		if slices.ContainsFunc(c.groups, func(g *mergedGroup) bool { return g.survivor == survivor }) {
			continue
		}
		g, fits := c.unite(c.mergedUnder(survivor))
		if !fits {
			return false
		}
		c.groups = append(c.groups, g)
	}
	return true
}

func (c *command) writeGroups() {
	for _, g := range c.groups {
		c.writeGroup(g)
	}
	c.groups = nil
}

// writeGroup writes the survivor's record and the pointers that lead to it.
func (c *command) writeGroup(g *mergedGroup) {
	c.write(replication.Record{Env: c.Env, Kind: replication.KindAccount, Key: string(g.survivor), Value: g.value})
	for i := range g.parts[1:] {
		part := &g.parts[1+i]
		pointer := entitlement.Pointer{Account: g.survivor, SessionsFrom: part.SessionsFrom, SignedOut: part.SignedOut}
		c.write(replication.Record{Env: c.Env, Kind: replication.KindPointer, Key: string(part.ID), Value: entitlement.Encode(&pointer)})
	}
}

func (c *command) mergeAccounts(body *MergeAccounts) Result {
	if body.ID == "" || len(body.ID) > maxIDBytes {
		return rejected(SlugInvalidRequest, "merge id")
	}
	if body.From == body.Into {
		return rejected(SlugSameAccount, sameAccount)
	}
	if !c.exists(body.From) || !c.exists(body.Into) {
		return rejected(SlugNotFound, "account")
	}
	survivor := c.survivor(body.Into)
	var row mergeRow
	switch {
	case c.decode(bucketMerges, envKey(c.Env, string(body.From)), &row):
		return Result{Rejection: &Rejection{Slug: SlugAlreadyMerged, Detail: mergedBefore, Owner: c.survivor(body.From)}}
	case survivor == body.From:
		return Result{Rejection: &Rejection{Slug: SlugMergeCycle, Detail: mergedTheOtherWay, Owner: survivor}}
	}
	members := append(c.mergedUnder(survivor), c.mergedUnder(body.From)...)
	slices.Sort(members[1:])
	if len(members) > maxMerged {
		return rejected(SlugInvalidRequest, mergedTooMany)
	}
	g, fits := c.unite(members)
	if !fits {
		return rejected(SlugInvalidRequest, mergedTooLarge)
	}
	for _, part := range g.parts {
		value := entitlement.Encode(&part)
		c.put(bucketParts, envKey(c.Env, string(part.ID)), value)
	}
	c.encode(bucketMerges, envKey(c.Env, string(body.From)), &mergeRow{ID: body.ID, Into: body.Into, Stamp: c.now})
	c.put(bucketMergedIn, mergedInKey(c.Env, body.Into, body.From), []byte(body.From))
	c.erase(c.Env, replication.KindAccount, string(body.From))
	c.writeGroup(g)
	c.grantsRegrouped(members)
	c.testsRegrouped(members)
	c.about = append(c.about, body.From, body.Into)
	c.refs = Refs{Merge: body.ID, From: body.From, To: body.Into}
	return Result{Account: survivor}
}

func (c *command) undoMerge(body *UndoMerge) Result {
	if !c.exists(body.Account) {
		return rejected(SlugNotFound, "account")
	}
	survivor := c.survivor(body.Account)
	var from entitlement.AccountID
	var row mergeRow
	for _, id := range c.mergedUnder(survivor)[1:] {
		row = mergeRow{}
		if c.decode(bucketMerges, envKey(c.Env, string(id)), &row) && row.ID == body.ID {
			from = id
			break
		}
	}
	switch {
	case from == "":
		return rejected(SlugNotFound, "merge")
	case c.now-row.Stamp > undoSeconds:
		return rejected(SlugMergeFinal, "the merge is older than 30 days")
	}
	members := c.mergedUnder(survivor)
	c.grantsRegrouped(members)
	c.delete(bucketMerges, envKey(c.Env, string(from)))
	c.delete(bucketMergedIn, mergedInKey(c.Env, row.Into, from))
	c.erase(c.Env, replication.KindPointer, string(from))
	for _, id := range []entitlement.AccountID{survivor, from} {
		c.regroup(id)
	}
	c.testsRegrouped(members)
	c.about = append(c.about, from, row.Into)
	c.refs = Refs{Merge: body.ID, From: from, To: row.Into}
	return Result{Account: survivor}
}

// regroup writes anew what stands for the group that id survives. Less than was there before always fits.
func (c *command) regroup(id entitlement.AccountID) {
	if members := c.mergedUnder(id); len(members) > 1 {
		g, _ := c.unite(members)
		c.writeGroup(g)
		return
	}
	alone := c.own(id)
	c.write(replication.Record{Env: c.Env, Kind: replication.KindAccount, Key: string(id), Value: entitlement.Encode(&alone)})
	c.delete(bucketParts, envKey(c.Env, string(id)))
}

// testsRegrouped counts anew the test purchases of accounts that were merged, or are no longer: a tester among them is one for all. Where they do not fit any more, those
// of the merged account stay hidden: nobody must be locked out for that.
func (c *command) testsRegrouped(members []entitlement.AccountID) {
	c.accounts, c.seen = nil, seenRecord{} // from before
	if c.someTest(members) {
		c.commit(c.resolveWaiting(testerIdentities(members), nil))
	}
	c.accounts, c.groups, c.seen = nil, nil, seenRecord{}
}

// Merge is an edge between two accounts.
type Merge struct {
	ID    string
	From  entitlement.AccountID
	Into  entitlement.AccountID
	Stamp int64 // Unix seconds
	Final bool  // it can no longer be undone, at the state's own time
}

// UndoUntil is the last second in which the merge can be undone, Unix seconds.
func (m *Merge) UndoUntil() int64 { return m.Stamp + undoSeconds }

// Group returns the accounts that id is merged with: the survivor first, then the others sorted, and the edges between them, oldest first. One that was
// never merged is alone.
func (r *Reader) Group(env entitlement.Environment, id entitlement.AccountID) (members []entitlement.AccountID, merges []Merge, err error) {
	for {
		var row mergeRow
		merged, err := r.decode(bucketMerges, envKey(env, string(id)), &row)
		if err != nil {
			return nil, nil, err
		}
		if !merged {
			break
		}
		id = row.Into
	}
	members = mergedUnder(func(bucket, prefix []byte, fn func([]byte)) {
		cursor := r.bucket(bucket).Cursor()
		for k, v := cursor.Seek(prefix); k != nil && bytes.HasPrefix(k, prefix); k, v = cursor.Next() {
			fn(v)
		}
	}, env, id)
	for _, from := range members[1:] {
		var row mergeRow
		if _, err := r.decode(bucketMerges, envKey(env, string(from)), &row); err != nil {
			return nil, nil, err
		}
		merges = append(merges, Merge{ID: row.ID, From: from, Into: row.Into, Stamp: row.Stamp, Final: r.st.Stamp-row.Stamp > undoSeconds})
	}
	slices.SortFunc(merges, func(a, b Merge) int { return cmp.Or(cmp.Compare(a.Stamp, b.Stamp), cmp.Compare(a.ID, b.ID)) })
	return members, merges, nil
}

// Own returns what an account itself has, whether it is merged or not. Error: replication.ErrCorrupt.
func (r *Reader) Own(env entitlement.Environment, id entitlement.AccountID) (*entitlement.Account, bool, error) {
	a := &entitlement.Account{}
	if ok, err := r.decode(bucketParts, envKey(env, string(id)), a); ok || err != nil {
		return a, ok, err
	}
	ok, err := r.decodeRecord(env, replication.KindAccount, string(id), a)
	return a, ok, err
}

// MergePreview is what a merge would make of two accounts.
type MergePreview struct {
	Into, From         entitlement.Account // as they are now; each a union where it is merged with others already
	IntoAll, FromAll   []entitlement.AccountID
	Merged             entitlement.Account
	IntoName, FromName []NamedAlias
}

// PreviewMerge says what MergeAccounts would do, and why it would be rejected. Error: replication.ErrCorrupt.
func (r *Reader) PreviewMerge(env entitlement.Environment, from, into entitlement.AccountID) (p MergePreview, rejection *Rejection, err error) {
	refuse := func(slug, detail string, owner entitlement.AccountID) (MergePreview, *Rejection, error) {
		return p, &Rejection{Slug: slug, Detail: detail, Owner: owner}, nil
	}
	var parts []entitlement.Account
	side := func(id entitlement.AccountID, all *[]entitlement.AccountID, whole *entitlement.Account, names *[]NamedAlias) (found bool, err error) {
		if *all, _, err = r.Group(env, id); err != nil {
			return false, err
		}
		first := len(parts)
		for _, member := range *all {
			own, ok, err := r.Own(env, member)
			if err != nil || !ok {
				return false, err
			}
			parts = append(parts, *own)
		}
		if *whole = parts[first]; len(*all) > 1 {
			*whole = entitlement.Union(parts[first:])
		}
		*names, err = r.aliasesOf(env, *all)
		return true, err
	}
	for _, s := range []struct {
		id    entitlement.AccountID
		all   *[]entitlement.AccountID
		whole *entitlement.Account
		names *[]NamedAlias
	}{{into, &p.IntoAll, &p.Into, &p.IntoName}, {from, &p.FromAll, &p.From, &p.FromName}} {
		found, err := side(s.id, s.all, s.whole, s.names)
		if err != nil {
			return p, nil, err
		}
		if !found {
			return refuse(SlugNotFound, "account", "")
		}
	}
	switch {
	case from == into:
		return refuse(SlugSameAccount, sameAccount, "")
	case p.FromAll[0] != from:
		return refuse(SlugAlreadyMerged, mergedBefore, p.FromAll[0])
	case p.IntoAll[0] == from:
		return refuse(SlugMergeCycle, mergedTheOtherWay, from)
	case len(p.IntoAll)+len(p.FromAll) > maxMerged:
		return refuse(SlugInvalidRequest, mergedTooMany, "")
	}
	slices.SortFunc(parts[1:], func(a, b entitlement.Account) int { return cmp.Compare(a.ID, b.ID) })
	p.Merged = entitlement.Union(parts)
	if len(entitlement.Encode(&p.Merged)) > replication.MaxRecordBytes {
		return refuse(SlugInvalidRequest, mergedTooLarge, "")
	}
	return p, nil, nil
}

// NamedAlias is an alias with the account that it was given to.
type NamedAlias struct {
	entitlement.Alias
	Account entitlement.AccountID
	Text    string // what a hashed one stands for, where it was given before RulesPersonal
}

// aliasesOf returns the aliases of accounts, sorted by kind and value.
func (r *Reader) aliasesOf(env entitlement.Environment, members []entitlement.AccountID) (names []NamedAlias, err error) {
	for _, id := range members {
		var row accountRow
		if _, err := r.decode(bucketAccounts, envKey(env, string(id)), &row); err != nil {
			return nil, err
		}
		names = append(names, row.named(id)...)
	}
	slices.SortFunc(names, func(a, b NamedAlias) int { return compareAliases(a.Alias, b.Alias) })
	return names, nil
}

// named lists the aliases of an account's row.
func (row *accountRow) named(id entitlement.AccountID) (names []NamedAlias) {
	for _, a := range row.Aliases {
		names = append(names, NamedAlias{a, id, row.Names[AliasText(a)]})
	}
	return names
}
