package store

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"slices"
	"strconv"

	"github.com/latchkey/latchkey/pkg/entitlement"
	"github.com/latchkey/latchkey/replication"
)

// idempotencySeconds is how long the repeat of a request gets the first answer (contract section 3).
const idempotencySeconds = 24 * 3600

// dropPerCommand bounds how many expired idempotency rows one command removes: more than one command makes, so that they
// never pile up, and few enough to cost nothing.
const dropPerCommand = 8

// Limits of what the API stores for an account: far above any use, and together far below a record's 256 KiB.
const (
	maxAliases         = 200
	maxAliasBytes      = 512
	maxAttributes      = 100
	maxAttributeBytes  = 2048
	maxGrants          = 1000
	maxIDBytes         = 128
	maxReasonBytes     = 1024
	maxDurationSeconds = 100 * 366 * 24 * 3600
)

// mismatch says in words what SlugIdempotencyMismatch means.
const mismatch = "the idempotency key was used with another request"

// api runs a command of the server API: the repeat of a request gets the first result; what was done is in the audit trail.
// fn writes nothing if it rejects.
func api[T any](c *command, what string, fn func(*T) Result) Result {
	var body T
	if err := entitlement.Decode(c.Body, &body); err != nil || !c.Env.Valid() {
		return rejected(SlugInvalidRequest, "command body or environment")
	}
	scope, digest, explicit := c.idempotencyScope(&body)
	var seen idempotencyRow
	if scope != nil && c.decode(bucketIdempotency, scope, &seen) && c.now-seen.Stamp < idempotencySeconds {
		if !bytes.Equal(seen.Body, digest) && explicit {
			return rejected(SlugIdempotencyMismatch, mismatch)
		}
		var first Result
		if err := entitlement.Decode(seen.Result, &first); err != nil {
			c.fail(err)
		}
		return first
	}
	result := fn(&body)
	result.Revision, result.Stamp, result.Outcome = c.revision(), max(result.Stamp, c.now), Rejected
	if result.Rejection == nil {
		result.Outcome = Recorded
		result.EventID = c.audit(cmp.Or(result.what, what), &body, &result, digest)
	}
	if scope != nil {
		c.remember(scope, &idempotencyRow{Body: digest, Result: entitlement.Encode(&result), Stamp: c.now})
	}
	return result
}

// idempotencyScope returns under what a request is remembered, and the digest of what it says. A request without a key is
// remembered under its correlation id and body, because the receiving node retries a command whose outcome it does not know.
func (c *command) idempotencyScope(body any) (scope, digest []byte, explicit bool) {
	if b, ok := body.(interface{ idempotency() *Idempotency }); ok {
		if key := b.idempotency(); key != nil {
			sum := sha256.Sum256(key.Scope)
			return sum[:], key.Body, true
		}
	}
	sum := sha256.Sum256(append(bytes.Clone(c.Body), c.PersonalHash...))
	if c.CorrelationID == "" {
		return nil, sum[:], false
	}
	text := append([]byte{byte(c.Type), envByte(c.Env)}, sum[:]...)
	implied := sha256.Sum256(append(text, c.CorrelationID...))
	return implied[:], sum[:], false
}

func (b *CreateAccount) idempotency() *Idempotency   { return b.Idempotency }
func (b *AddAlias) idempotency() *Idempotency        { return b.Idempotency }
func (b *PatchAccount) idempotency() *Idempotency    { return b.Idempotency }
func (b *EndSessions) idempotency() *Idempotency     { return b.Idempotency }
func (b *StartSession) idempotency() *Idempotency    { return b.Idempotency }
func (b *PutGrant) idempotency() *Idempotency        { return b.Idempotency }
func (b *DeleteGrant) idempotency() *Idempotency     { return b.Idempotency }
func (b *PutCatalog) idempotency() *Idempotency      { return b.Idempotency }
func (b *PutPolicy) idempotency() *Idempotency       { return b.Idempotency }
func (b *MergeAccounts) idempotency() *Idempotency   { return b.Idempotency }
func (b *UndoMerge) idempotency() *Idempotency       { return b.Idempotency }
func (b *RestorePurchase) idempotency() *Idempotency { return b.Idempotency }
func (b *Consume) idempotency() *Idempotency         { return b.Idempotency }
func (b *PutIntent) idempotency() *Idempotency       { return b.Idempotency }
func (b *EndIntent) idempotency() *Idempotency       { return b.Idempotency }
func (b *SubmitIntent) idempotency() *Idempotency    { return b.Idempotency }
func (b *Login) idempotency() *Idempotency           { return b.Idempotency }

func (c *command) remember(scope []byte, row *idempotencyRow) {
	var expired idempotencyRow
	if c.decode(bucketIdempotency, scope, &expired) {
		c.delete(bucketIdemOrder, idemOrderKey(expired.Stamp, scope))
	}
	c.encode(bucketIdempotency, scope, row)
	c.put(bucketIdemOrder, idemOrderKey(row.Stamp, scope), []byte{})
}

func idemOrderKey(stamp int64, scope []byte) []byte {
	return append(binary.BigEndian.AppendUint64(nil, uint64(stamp)), scope...)
}

// dropIdempotency removes some of the rows whose time has passed at the command's stamp.
func (b *batch) dropIdempotency() {
	for range dropPerCommand {
		k, _ := b.cursor(bucketIdemOrder).First()
		if k == nil || b.now-int64(binary.BigEndian.Uint64(k)) < idempotencySeconds {
			return
		}
		k = bytes.Clone(k)
		b.delete(bucketIdempotency, k[8:])
		b.delete(bucketIdemOrder, k)
	}
}

// audit enters what an API command did, under its correlation id, and returns that id.
func (c *command) audit(what string, body any, result *Result, digest []byte) string {
	row := c.newEventRow(what, digest)
	row.CreatedAt, row.Outcome, row.Account = c.now, Recorded, result.Account
	id := cmp.Or(c.CorrelationID, "command")
	if c.CorrelationID == "" || c.get(bucketEvents, eventKey(c.Env, entitlement.Latchkey, id)) != nil {
		id += "-" + strconv.FormatUint(row.Seq, 10)
	}
	subjects := c.trace(&row, body, result)
	for _, a := range c.accounts {
		if !slices.Contains(c.bystanders, a.id) {
			subjects = append(subjects, subject{subjectAccount, string(a.id)})
		}
	}
	for _, id := range append(c.about, result.Account) {
		if s := (subject{subjectAccount, string(id)}); id != "" && !slices.Contains(subjects, s) {
			subjects = append(subjects, s)
		}
	}
	c.writeEvent(bucketEvents, refEvent, eventKey(c.Env, entitlement.Latchkey, id), &row, subjects)
	return id
}

// commit writes the planned purchases and accounts; too large a record is a rejection, and nothing is written.
func (c *command) commit(edits []*purchaseEdit) *Rejection {
	if !c.fits(edits) {
		return &Rejection{Slug: SlugInvalidRequest, Detail: "the account's record would be too large"}
	}
	for _, e := range edits {
		c.writePurchase(e)
	}
	c.writeAccounts()
	return nil
}

func validAlias(a entitlement.Alias) bool {
	return slices.Contains(entitlement.AliasKinds, a.Kind) && a.Value != "" && len(a.Value) <= maxAliasBytes
}

// createAccount makes an account, or finds the one that owns all of the aliases that are owned; it then gets the others. Accounts that are merged count as one
// owner: each keeps its aliases, and where several have some, the one that survives answers and gets the others.
func (c *command) createAccount(body *CreateAccount) Result {
	if body.ID == "" || len(body.ID) > maxIDBytes || len(body.Aliases) > maxAliases || !validAttributes(body.Attributes) || !body.Changes.valid() {
		return rejected(SlugInvalidRequest, "account id, aliases or attributes")
	}
	if c.erased(body.ID) {
		return rejected(SlugInvalidRequest, "the Idempotency-Key made an account that was erased")
	}
	owner := entitlement.AccountID("")
	for _, a := range body.Aliases {
		if !validAlias(a) {
			return rejected(SlugInvalidRequest, "alias")
		}
		has := c.aliasOwner(a)
		switch {
		case has == "" || owner == "" || has == owner:
			owner = cmp.Or(owner, has)
		case c.survivor(has) != c.survivor(owner):
			return aliasTaken(has)
		default:
			owner = c.survivor(owner)
		}
	}
	if owner == "" && c.exists(body.ID) {
		owner = body.ID
	}
	result := Result{Account: cmp.Or(owner, body.ID), Existing: owner != ""}
	var details accountRow
	if result.Existing {
		c.decode(bucketAccounts, envKey(c.Env, string(owner)), &details)
	} else {
		details = accountRow{CreatedAt: c.now, Attributes: withoutEmpty(body.Attributes)}
		details.change(body.Changes)
		c.accounts = append(c.accounts, &accountEdit{id: body.ID, acc: entitlement.Account{ID: body.ID, CreatedAt: c.now}})
	}
	aliases := slices.DeleteFunc(slices.Clone(body.Aliases), func(a entitlement.Alias) bool {
		has := c.aliasOwner(a)
		return has != "" && has != owner
	})
	result.Rejection = c.addAliases(result.Account, &details, aliases)
	if result.Rejection == nil && !result.Existing {
		c.keepAttributes(result.Account, body.Changes)
	}
	return result
}

func aliasTaken(owner entitlement.AccountID) Result {
	return Result{Rejection: &Rejection{Slug: SlugAliasTaken, Detail: "the alias belongs to another account", Owner: owner}}
}

// addAliases gives aliases that nobody else has to an account, and with them the purchases that waited for either.
func (c *command) addAliases(id entitlement.AccountID, details *accountRow, aliases []entitlement.Alias) *Rejection {
	names := []string{accountIdentity(id)}
	apple := entitlement.Alias{Kind: entitlement.AppleAppAccountToken, Value: id.AppleAppAccountToken()}
	namedForApple := c.st.Rules >= RulesChains && c.nameForApple(id, apple)
	if namedForApple {
		names = append(names, aliasIdentity(apple))
	}
	var added []entitlement.Alias
	aliases = c.hashedAliases(aliases)
	for _, a := range aliases {
		at, had := slices.BinarySearchFunc(details.Aliases, a, compareAliases)
		if had {
			continue
		}
		details.Aliases = slices.Insert(details.Aliases, at, a)
		added = append(added, a)
		names = append(names, aliasIdentity(a))
	}
	if len(details.Aliases) > maxAliases {
		return &Rejection{Slug: SlugInvalidRequest, Detail: "too many aliases"}
	}
	for _, a := range added {
		c.put(bucketAliases, aliasKey(c.Env, a), []byte(id))
	}
	if len(added) > 0 {
		c.nameGiven, c.namesByThen = id, details.Aliases
	}
	if rejection := c.commit(c.resolveWaiting(names, nil)); rejection != nil {
		for _, a := range added {
			c.delete(bucketAliases, aliasKey(c.Env, a))
		}
		if namedForApple {
			c.delete(bucketAliases, aliasKey(c.Env, apple))
		}
		return rejection
	}
	c.encode(bucketAccounts, envKey(c.Env, string(id)), details)
	if slices.ContainsFunc(added, func(a entitlement.Alias) bool { return a.Kind.Provider() == entitlement.Adapty }) {
		c.grantsRegrouped(c.mergedUnder(c.survivor(id)))
	}
	for _, a := range added {
		c.pointTo(a, id)
	}
	for _, a := range aliases {
		c.keep(id, AliasText(a))
	}
	return nil
}

func compareAliases(a, b entitlement.Alias) int {
	return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Value, b.Value))
}

func (c *command) addAlias(body *AddAlias) Result {
	if !validAlias(body.Alias) {
		return rejected(SlugInvalidRequest, "alias")
	}
	if !c.exists(body.Account) {
		return rejected(SlugNotFound, "account")
	}
	switch has := c.aliasOwner(body.Alias); {
	case has == "" || has == body.Account:
	case c.survivor(has) == c.survivor(body.Account): // it is theirs already, and stays with the one that has it
		return Result{Account: has, Existing: true}
	default:
		return aliasTaken(has)
	}
	var details accountRow
	c.decode(bucketAccounts, envKey(c.Env, string(body.Account)), &details)
	return Result{Account: body.Account, Rejection: c.addAliases(body.Account, &details, []entitlement.Alias{body.Alias})}
}

func validAttributes(attributes map[string]string) bool {
	size := 0
	for k, v := range attributes { // a sum: the order does not matter
		if k == "" {
			return false
		}
		size += len(k) + len(v)
	}
	return len(attributes) <= maxAttributes && size <= maxAttributes*maxAttributeBytes
}

func withoutEmpty(attributes map[string]string) map[string]string {
	kept := map[string]string{}
	for k, v := range attributes {
		if v != "" {
			kept[k] = v
		}
	}
	return kept
}

func (c *command) patchAccount(body *PatchAccount) Result {
	a := c.account(body.Account)
	if a == nil {
		return rejected(SlugNotFound, "account")
	}
	key := envKey(c.Env, string(body.Account))
	var details accountRow
	c.decode(bucketAccounts, key, &details)
	merged := withoutEmpty(details.Attributes)
	for k, v := range body.Attributes {
		if merged[k] = v; v == "" {
			delete(merged, k)
		}
	}
	details.Attributes = merged
	if details.change(body.Changes); !validAttributes(merged) || !body.Changes.valid() || len(details.Sealed) > maxAttributes {
		return rejected(SlugInvalidRequest, "attributes")
	}
	if body.Tester != nil {
		a.acc.Tester = *body.Tester
	}
	var edits []*purchaseEdit
	if body.Tester != nil {
		edits = c.resolveWaiting(testerIdentities(c.mergedUnder(c.survivor(body.Account))), nil)
	}
	if rejection := c.commit(edits); rejection != nil {
		return Result{Rejection: rejection}
	}
	c.encode(bucketAccounts, key, &details)
	c.keepAttributes(body.Account, body.Changes)
	return Result{Account: body.Account}
}

// endSessions ends the sessions of an account and of all that it is merged with: each of them shows what all have. It stays ended when they are two again.
func (c *command) endSessions(body *EndSessions) Result {
	if !c.exists(body.Account) {
		return rejected(SlugNotFound, "account")
	}
	for _, id := range c.mergedUnder(c.survivor(body.Account)) {
		a := c.account(id)
		a.acc.SessionsFrom = max(a.acc.SessionsFrom, c.now+1)
	}
	return Result{Account: body.Account, Rejection: c.commit(nil)}
}

// startSession changes nothing; its result and the audit trail are what it is for.
func (c *command) startSession(body *StartSession) Result {
	a := c.account(body.Account)
	if a == nil {
		return rejected(SlugNotFound, "account")
	}
	return Result{Account: body.Account, Stamp: a.acc.NextSession(body.Device, c.now)}
}

func byGrantID(g entitlement.Grant, id string) int { return cmp.Compare(g.ID, id) }

func (c *command) putGrant(body *PutGrant) Result {
	a := c.account(body.Account)
	if a == nil {
		return rejected(SlugNotFound, "account")
	}
	grant := entitlement.Grant{ID: body.ID, Entitlement: body.Entitlement, CreatedAt: c.now, EndsAt: body.EndsAt}
	if body.DurationSeconds != 0 {
		grant.EndsAt = c.now + body.DurationSeconds
	}
	switch {
	case body.ID == "" || len(body.ID) > maxIDBytes || body.Entitlement == "" || len(body.Entitlement) > maxIDBytes,
		len(body.Reason) > maxReasonBytes, body.EndsAt < 0, body.DurationSeconds < 0 || body.DurationSeconds > maxDurationSeconds:
		return rejected(SlugInvalidRequest, "grant id, entitlement, reason or end")
	case len(a.acc.Grants) >= maxGrants:
		return rejected(SlugInvalidRequest, "too many grants")
	}
	at, exists := slices.BinarySearchFunc(a.acc.Grants, body.ID, byGrantID)
	if exists {
		return Result{Account: body.Account, Existing: true}
	}
	a.acc.Grants = slices.Insert(a.acc.Grants, at, grant)
	if rejection := c.commit(nil); rejection != nil {
		return Result{Rejection: rejection}
	}
	c.editDetails(body.Account, func(details *accountRow) {
		if body.Reason != "" {
			if details.Reasons == nil {
				details.Reasons = map[string]string{}
			}
			details.Reasons[body.ID] = body.Reason
		}
	})
	c.keep(body.Account, ReasonText(body.ID))
	c.grantsChanged(body.Account)
	return Result{Account: body.Account}
}

func (c *command) deleteGrant(body *DeleteGrant) Result {
	if !c.exists(body.Account) {
		return rejected(SlugNotFound, "account")
	}
	// Whoever sees the accounts as one sees the grants of all of them, and takes one back wherever it was given.
	for _, id := range c.mergedUnder(c.survivor(body.Account)) {
		has := c.own(id)
		at, exists := slices.BinarySearchFunc(has.Grants, body.ID, byGrantID)
		if !exists {
			continue
		}
		a := c.account(id)
		a.acc.Grants = slices.Delete(a.acc.Grants, at, at+1)
		if rejection := c.commit(nil); rejection != nil {
			return Result{Rejection: rejection}
		}
		c.editDetails(id, func(details *accountRow) { delete(details.Reasons, body.ID) })
		c.forget(id, ReasonText(body.ID))
		c.grantsChanged(id)
		return Result{Account: body.Account}
	}
	return rejected(SlugNotFound, "grant")
}

func (c *command) editDetails(id entitlement.AccountID, edit func(*accountRow)) {
	key := envKey(c.Env, string(id))
	var details accountRow
	c.decode(bucketAccounts, key, &details)
	edit(&details)
	c.encode(bucketAccounts, key, &details)
}

func (c *command) putCatalog(body *PutCatalog) Result {
	var present entitlement.Catalog
	if value := c.record(c.Env, replication.KindCatalog, replication.CurrentKey); value != nil {
		if err := entitlement.Decode(value, &present); err != nil {
			c.fail(err)
			return Result{}
		}
	}
	delete(c.catalogs, c.Env)
	next := present.Replace(body.Catalog)
	result := c.putCurrent(replication.KindCatalog, entitlement.Encode(&next))
	if result.Rejection == nil {
		c.oweByCatalog()
	}
	return result
}

func (c *command) putCurrent(kind replication.Kind, value []byte) Result {
	if len(value) > replication.MaxRecordBytes {
		return rejected(SlugInvalidRequest, "too large")
	}
	c.write(replication.Record{Env: c.Env, Kind: kind, Key: replication.CurrentKey, Value: value})
	return Result{}
}

// current decodes the environment's record of a kind of which it has one; v stays as it is when there is none.
func (c *command) current(kind replication.Kind, v any) {
	value := c.record(c.Env, kind, replication.CurrentKey)
	if value == nil {
		return
	}
	if err := entitlement.Decode(value, v); err != nil {
		c.fail(fmt.Errorf("record of %s: %w: %w", kind, replication.ErrCorrupt, err))
	}
}

// putPolicy replaces the policy and folds every purchase of the environment again: one command, so that no reader ever sees
// some of them under the old policy and some under the new.
func (c *command) putPolicy(body *PutPolicy) Result {
	if c.st.Rules < rulesAccounts { // writers of an older version do not know these, and must come to the same record (I17)
		body.Policy.Transfer, body.Policy.Debt, body.Policy.TrialByPayment = "", false, false
	}
	if before := c.policyOf(c.Env); before.TrialByPayment != body.Policy.TrialByPayment {
		c.relock = map[entitlement.AccountID]bool{}
	}
	if result := c.putCurrent(replication.KindPolicy, entitlement.Encode(&body.Policy)); result.Rejection != nil {
		return result
	}
	delete(c.policy, c.Env)
	var ids []entitlement.PurchaseID
	prefix := []byte{envByte(c.Env)}
	cursor := c.tx.Bucket(bucketPurchases).Cursor()
	for k, v := cursor.Seek(prefix); k != nil && bytes.HasPrefix(k, prefix); k, v = cursor.Next() {
		var row purchaseRow
		if err := entitlement.Decode(v, &row); err != nil {
			c.fail(err)
			return Result{}
		}
		ids = append(ids, row.Evidence.ID())
	}
	for _, id := range ids {
		// An account that no longer fits keeps what it had: the policy must not depend on one account.
		c.accounts, c.groups, c.told, c.bystanders = nil, nil, nil, nil
		c.commit([]*purchaseEdit{c.planPurchase([]entitlement.PurchaseID{id}, nil)})
	}
	c.accounts = nil
	return Result{}
}
