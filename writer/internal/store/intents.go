package store

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/latchkey/latchkey/pkg/entitlement"
	"github.com/latchkey/latchkey/replication"
)

// Who is about to buy asks first. The answer is an intent, which leases what must not be bought twice: the product's group, and the trial. All that
// decides is in the state, and commands follow each other, so that of two devices in two stores one is told no. A lease that nobody ends is over
// after intentSeconds.

const (
	// intentSeconds is how long an intent holds its leases: longer than a checkout takes, and short enough that one who left it loses no sale.
	intentSeconds = 5 * 60
	// keptSeconds is how long an intent's row stays after it: a request that comes late is told what became of it.
	keptSeconds = 24 * 3600
	// maxAwaited bounds what an account waits for at once, and what of it was not confirmed within a day: nobody buys more.
	maxAwaited = 8

	leaseTrial  = "trial"
	leasePerson = "person:" // the trial, of nobody's account: for whoever a store calls so
	leaseGroup  = "group:"
	leaseAsked  = "asked:"  // a product without a group, by a device: it keeps nobody from it
	leaseIntent = "intent:" // its own row: what an account's intents are found by, be they ended
)

// PutIntent asks whether a product may be sold to an account, and leases it.
type PutIntent struct {
	ID          string                `cbor:"1,keyasint"` // "intent_" and a ULID: used if a new one is needed
	Account     entitlement.AccountID `cbor:"2,keyasint"`
	Provider    entitlement.Provider  `cbor:"3,keyasint"`
	Product     entitlement.ProductID `cbor:"4,keyasint"`
	Device      string                `cbor:"5,keyasint,omitempty"` // empty: a holder of its own
	Trial       bool                  `cbor:"6,keyasint,omitempty"` // refuse it if there is no trial
	Idempotency *Idempotency          `cbor:"7,keyasint,omitempty"`
}

// EndIntent gives an intent's leases back. Account is the caller's, empty for one who may end any.
type EndIntent struct {
	ID          string                `cbor:"1,keyasint"`
	Account     entitlement.AccountID `cbor:"2,keyasint,omitempty"`
	Idempotency *Idempotency          `cbor:"3,keyasint,omitempty"`
}

// SubmitIntent says that the user paid: the account's state is pending until the provider confirms it. Account is as for EndIntent.
type SubmitIntent struct {
	ID          string                `cbor:"1,keyasint"`
	Account     entitlement.AccountID `cbor:"2,keyasint,omitempty"`
	Idempotency *Idempotency          `cbor:"3,keyasint,omitempty"`
}

// AwaitPurchase makes the account's state pending until the provider confirms a purchase that the app showed a proof of.
type AwaitPurchase struct {
	Account  entitlement.AccountID `cbor:"1,keyasint"`
	ID       string                `cbor:"2,keyasint"` // of the proof: the same again begins nothing anew
	Provider entitlement.Provider  `cbor:"3,keyasint"`
	Product  entitlement.ProductID `cbor:"4,keyasint,omitempty"`
	// Over: the proof was judged, so that nothing is awaited any more.
	Over bool `cbor:"5,keyasint,omitempty"`
}

// Intent is what an intent came to.
type Intent struct {
	ID            string   `cbor:"1,keyasint"`
	ExpiresAt     int64    `cbor:"2,keyasint"`           // Unix seconds
	TrialEligible bool     `cbor:"3,keyasint,omitempty"` // and the trial is leased
	Warnings      []string `cbor:"4,keyasint,omitempty"`
}

// intentRow is an intent. Its leases count as long as they name it and it has not ended.
type intentRow struct {
	Account   entitlement.AccountID `cbor:"1,keyasint"`
	Provider  entitlement.Provider  `cbor:"2,keyasint"`
	Product   entitlement.ProductID `cbor:"3,keyasint"`
	Group     string                `cbor:"4,keyasint,omitempty"`
	Device    string                `cbor:"5,keyasint,omitempty"`
	Trial     bool                  `cbor:"6,keyasint,omitempty"` // it holds the trial
	ExpiresAt int64                 `cbor:"7,keyasint"`
	Submitted int64                 `cbor:"8,keyasint,omitempty"`
	Ended     bool                  `cbor:"9,keyasint,omitempty"`
	Warnings  []string              `cbor:"10,keyasint,omitempty"`
	// Persons are by what names the person is known for whom it holds the trial, sorted.
	Persons []string `cbor:"11,keyasint,omitempty"`
}

func leaseKey(env entitlement.Environment, account entitlement.AccountID, what string) []byte {
	return append(appendKeyText([]byte{envByte(env)}, string(account)), what...)
}

func dueKey(env entitlement.Environment, at int64, id string) []byte {
	return append(append(binary.BigEndian.AppendUint64(nil, uint64(at)), envByte(env)), id...)
}

// leases says what an intent leases beside the trial: the product's group, or where it has none the product for its own device alone. Empty is nothing.
func (row *intentRow) leases() string {
	switch {
	case row.Group != "":
		return leaseGroup + row.Group
	case row.Device != "":
		return string(appendKeyText(appendKeyText(appendKeyText([]byte(leaseAsked), row.Device), string(row.Provider)), string(row.Product)))
	}
	return ""
}

// catalogIndex returns the environment's catalog.
func (c *command) catalogIndex() *entitlement.CatalogIndex {
	if x := c.catalogs[c.Env]; x != nil {
		return x
	}
	var catalog entitlement.Catalog
	if value := c.record(c.Env, replication.KindCatalog, replication.CurrentKey); value != nil {
		if err := entitlement.Decode(value, &catalog); err != nil {
			c.fail(fmt.Errorf("catalog: %w: %w", replication.ErrCorrupt, err))
		}
	}
	x := entitlement.NewCatalogIndex(&catalog)
	c.catalogs[c.Env] = x
	return x
}

// lease returns the intent that holds what is leased by one of the accounts, which are merged.
func (c *command) lease(members []entitlement.AccountID, what string) (id string, row intentRow, held bool) {
	for _, account := range members {
		if id, row, held = c.leaseOf(leaseKey(c.Env, account, what)); held {
			break
		}
	}
	return id, row, held
}

// leaseOf is lease by the key of one.
func (c *command) leaseOf(key []byte) (id string, row intentRow, held bool) {
	intent := c.get(bucketLeases, key)
	if intent == nil || !c.decode(bucketIntents, envKey(c.Env, string(intent)), &row) || row.Ended || c.now >= row.ExpiresAt {
		return "", intentRow{}, false
	}
	return string(intent), row, true
}

func (c *command) putIntent(body *PutIntent) Result {
	if body.ID == "" || len(body.ID) > maxIDBytes || len(body.Device) > maxIDBytes {
		return rejected(SlugInvalidRequest, "intent id or device")
	}
	if !c.exists(body.Account) {
		return rejected(SlugNotFound, "account")
	}
	x := c.catalogIndex()
	product, listed := x.Lookup(body.Provider, &entitlement.Sold{Product: body.Product})
	if !listed {
		return rejected(SlugInvalidRequest, "the catalog does not list this product of the provider")
	}
	c.dropIntents()
	members := c.mergedUnder(c.survivor(body.Account))
	whole := c.whole(members)
	row := intentRow{Account: body.Account, Provider: body.Provider, Product: body.Product, Group: product.Group, Device: body.Device}
	holds := func(row *intentRow) bool { return body.Device != "" && row.Device == body.Device }
	buying := whole.Buying(x, product, c.now)
	if buying.Blocked != "" {
		return Result{Account: body.Account, Rejection: blockedBy(&buying)}
	}
	paid := c.submitted(whole, x)
	if product.Group != "" && slices.ContainsFunc(paid, func(row intentRow) bool { return row.Group == product.Group }) {
		return rejected(SlugPurchasePending, "somebody has paid for a product of this group, and the provider has not confirmed it yet")
	}
	trial := !whole.UsedTrial() && !c.aliasesHadTrial(members)
	trialPaid := slices.ContainsFunc(paid, func(row intentRow) bool { return row.Trial })
	var mine string // an intent that this device has for the group, which the new one takes the place of
	if what := row.leases(); what != "" {
		id, row, held := c.lease(members, what)
		switch {
		case held && whole.Bought(x, row.awaited(id), c.now): // what it was leased for is there
		case held && !holds(&row):
			return rejected(SlugPurchaseInProgress, "another device is buying a product of this group")
		case held && product.Group == "" && row.Submitted != 0: // what has no group is bought again and again
		case held:
			mine = id
			tried := row.Trial && trial && !trialPaid // it may be used up since it was leased
			if row.Submitted == 0 && row.Provider == body.Provider && row.Product == body.Product && (tried || !body.Trial) {
				if !tried {
					c.deleteTrialLeases(c.Env, id, &row)
					row.Trial, row.Persons = false, nil
				}
				row.Warnings = buying.Warnings
				c.encode(bucketIntents, envKey(c.Env, id), &row)
				return Result{Account: body.Account, Existing: true, Intent: row.shown(id)}
			}
		}
	}
	var persons []string
	switch {
	case !trial && body.Trial:
		return rejected(SlugTrialUsed, "the trial was used before")
	case product.Kind != entitlement.KindRecurring && !body.Trial:
		trial = false // nothing else is tried, and who buys coins keeps the trial from nobody
	case trial:
		id, row, held := c.lease(members, leaseTrial)
		held = held && id != mine
		if persons = c.personsIn(members, whole); c.leasedTo(persons, members) || held && !holds(&row) || trialPaid {
			if body.Trial {
				return rejected(SlugPurchaseInProgress, "the trial is being bought with another product, by another device, or under another account")
			}
			trial = false
		} else if held { // the device has turned to another product
			c.deleteTrialLeases(c.Env, id, &row)
			row.Trial, row.Persons = false, nil
			c.encode(bucketIntents, envKey(c.Env, id), &row)
		}
	}
	if mine != "" {
		c.endRow(mine)
	}
	if row.Trial, row.ExpiresAt, row.Warnings = trial, c.now+intentSeconds, buying.Warnings; trial {
		row.Persons = persons
	}
	c.encode(bucketIntents, envKey(c.Env, body.ID), &row)
	c.put(bucketDue, dueKey(c.Env, row.ExpiresAt+keptSeconds, body.ID), []byte{})
	c.put(bucketLeases, leaseKey(c.Env, body.Account, leaseIntent+body.ID), []byte(body.ID))
	if what := row.leases(); what != "" {
		c.put(bucketLeases, leaseKey(c.Env, body.Account, what), []byte(body.ID))
	}
	if trial {
		c.put(bucketLeases, leaseKey(c.Env, body.Account, leaseTrial), []byte(body.ID))
	}
	for _, person := range row.Persons {
		c.put(bucketLeases, leaseKey(c.Env, "", leasePerson+keyText(person)), []byte(body.ID))
	}
	return Result{Account: body.Account, Intent: row.shown(body.ID)}
}

// maxWeighed is of how many purchases of accounts an intent asks who bought them: a store has one name for its buyer in all of them.
const maxWeighed = 50

// personsIn lists by what names the person is known who has the accounts, as far as names count: as the buyer of what they own, and by aliases.
func (c *command) personsIn(members []entitlement.AccountID, whole *entitlement.Account) []string {
	policy := c.policyOf(c.Env)
	var persons []string
	for i := range whole.Purchases[:min(len(whole.Purchases), maxWeighed)] {
		if p, ok := c.loadPurchase(whole.Purchases[i].ID); ok && slices.Contains(members, p.row.Owner) {
			is := p.row.Evidence.Identity()
			persons = append(persons, c.persons(&p.row.Evidence, &is, true)...)
		}
	}
	for _, id := range members {
		aliases := c.aliasesOf(id)
		persons = append(persons, withCards(personsCalled(aliases), &entitlement.Identity{Aliases: aliases}, c.cardsKnown)...)
	}
	persons = slices.DeleteFunc(persons, func(person string) bool { return !counts(&policy, person) })
	slices.Sort(persons)
	return slices.Compact(persons)
}

// leasedTo reports whether the trial is leased to one of the persons under an account that is none of members.
func (c *command) leasedTo(persons []string, members []entitlement.AccountID) bool {
	return slices.ContainsFunc(persons, func(person string) bool {
		_, row, held := c.leaseOf(leaseKey(c.Env, "", leasePerson+keyText(person)))
		return held && row.Trial && !slices.Contains(members, row.Account)
	})
}

// submitted returns the intents that the accounts have paid for and no provider has confirmed yet, whatever has become of their leases.
func (c *command) submitted(whole *entitlement.Account, x *entitlement.CatalogIndex) []intentRow {
	var paid []intentRow
	for _, w := range whole.Awaited {
		var row intentRow
		if c.now < w.Until && c.decode(bucketIntents, envKey(c.Env, w.ID), &row) && !whole.Bought(x, w, c.now) {
			paid = append(paid, row)
		}
	}
	return paid
}

// awaited is what the provider is to confirm of an intent, before somebody has paid.
func (row *intentRow) awaited(id string) entitlement.Awaited {
	return entitlement.Awaited{ID: id, Provider: row.Provider, Product: row.Product, Since: row.ExpiresAt - intentSeconds}
}

func (row *intentRow) shown(id string) *Intent {
	return &Intent{ID: id, ExpiresAt: row.ExpiresAt, TrialEligible: row.Trial, Warnings: row.Warnings}
}

func blockedBy(b *entitlement.Buying) *Rejection {
	r := &Rejection{Slug: SlugActiveSubscription, Detail: "a subscription or a pass of this group is active", Store: b.Store, Provider: b.Provider}
	switch b.Blocked {
	case entitlement.BlockedOwned:
		r.Slug, r.Detail = SlugAlreadyOwned, "the account owns what this product gives for ever"
	case entitlement.BlockedPending:
		r.Slug, r.Detail = SlugPurchasePending, "a payment for a product of this group is under way at its provider"
	}
	return r
}

// whole is what the accounts of a group have together.
func (c *command) whole(members []entitlement.AccountID) *entitlement.Account {
	parts := make([]entitlement.Account, 0, len(members))
	for _, id := range members {
		parts = append(parts, c.own(id))
	}
	if len(parts) == 1 {
		return &parts[0]
	}
	union := entitlement.Union(parts)
	return &union
}

func (c *command) aliasesHadTrial(members []entitlement.AccountID) bool {
	for _, id := range members {
		var details accountRow
		if c.decode(bucketAccounts, envKey(c.Env, string(id)), &details) && c.knownForTrial(details.Aliases) {
			return true
		}
	}
	return false
}

// intent returns the row that a caller may change. An account is the caller's own if it is merged with the intent's.
func (c *command) intent(id string, caller entitlement.AccountID) (row intentRow, rejection *Rejection) {
	if !c.decode(bucketIntents, envKey(c.Env, id), &row) {
		return row, &Rejection{Slug: SlugNotFound, Detail: "no such purchase intent; one is forgotten a day after it expired"}
	}
	if caller != "" && c.survivor(caller) != c.survivor(row.Account) {
		return row, &Rejection{Slug: SlugOtherAccount, Detail: "the purchase intent is another account's"}
	}
	return row, nil
}

func (c *command) endIntent(body *EndIntent) Result {
	row, rejection := c.intent(body.ID, body.Account)
	if rejection == nil && row.Submitted != 0 {
		rejection = c.awaitNoMore(row.Account, body.ID)
	}
	if rejection == nil {
		c.endRow(body.ID)
	}
	return Result{Account: row.Account, Rejection: rejection}
}

func (c *command) endRow(id string) {
	var row intentRow
	key := envKey(c.Env, id)
	if c.decode(bucketIntents, key, &row) && !row.Ended {
		row.Ended = true
		c.encode(bucketIntents, key, &row)
		c.deleteLeases(c.Env, id, &row)
	}
}

func (c *command) deleteLeases(env entitlement.Environment, id string, row *intentRow) {
	c.deleteLease(leaseKey(env, row.Account, row.leases()), id)
	c.deleteTrialLeases(env, id, row)
}

func (c *command) deleteTrialLeases(env entitlement.Environment, id string, row *intentRow) {
	c.deleteLease(leaseKey(env, row.Account, leaseTrial), id)
	for _, person := range row.Persons {
		c.deleteLease(leaseKey(env, "", leasePerson+keyText(person)), id)
	}
}

// deleteLease ends a lease, if the intent has it still.
func (c *command) deleteLease(key []byte, id string) {
	if string(c.get(bucketLeases, key)) == id {
		c.delete(bucketLeases, key)
	}
}

func (c *command) submitIntent(body *SubmitIntent) Result {
	row, rejection := c.intent(body.ID, body.Account)
	if rejection != nil {
		return Result{Rejection: rejection}
	}
	result := Result{Account: row.Account, Intent: row.shown(body.ID), Existing: row.Submitted != 0}
	if result.Existing {
		return result
	}
	// The payment may have taken longer than the intent was good for: what was submitted is awaited all the same.
	awaited := row.awaited(body.ID)
	awaited.Until = c.now + entitlement.AwaitSeconds
	row.Submitted = c.now
	row.ExpiresAt = max(row.ExpiresAt, awaited.Until)
	result.Intent.ExpiresAt = row.ExpiresAt
	result.Rejection = c.await(row.Account, awaited)
	if result.Rejection == nil {
		c.encode(bucketIntents, envKey(c.Env, body.ID), &row)
	}
	return result
}

func (c *command) awaitPurchase(body *AwaitPurchase) Result {
	if body.ID == "" || len(body.ID) > maxIDBytes || !body.Provider.Valid() || len(body.Product) > maxAliasBytes {
		return rejected(SlugInvalidRequest, "id, provider or product of what is awaited")
	}
	if body.Over {
		return Result{Account: body.Account, Rejection: c.awaitNoMore(body.Account, body.ID)}
	}
	return Result{Account: body.Account, Rejection: c.await(body.Account, entitlement.Awaited{ID: body.ID, Provider: body.Provider, Product: body.Product, Until: c.now + entitlement.AwaitSeconds})}
}

// await makes the account's state pending as long as what it waits for is not there, which is judged when the record is read: so the record depends on
// the API alone, and a purchase of an account that is merged with this one counts.
func (c *command) await(id entitlement.AccountID, w entitlement.Awaited) *Rejection {
	a := c.account(id)
	if a == nil {
		return &Rejection{Slug: SlugNotFound, Detail: "account"}
	}
	a.acc.Awaited = slices.DeleteFunc(slices.Clone(a.acc.Awaited), func(old entitlement.Awaited) bool { return old.ForgottenAt() <= c.now && old.ID != w.ID })
	known := slices.ContainsFunc(a.acc.Awaited, func(old entitlement.Awaited) bool { return old.ID == w.ID })
	if !known && len(a.acc.Awaited) == maxAwaited { // of what was not confirmed the oldest gives way
		oldest := 0
		for i := range a.acc.Awaited {
			if a.acc.Awaited[i].Until < a.acc.Awaited[oldest].Until {
				oldest = i
			}
		}
		if a.acc.Awaited[oldest].Until <= c.now {
			a.acc.Awaited = slices.Delete(a.acc.Awaited, oldest, oldest+1)
		}
	}
	if !known && len(a.acc.Awaited) < maxAwaited {
		a.acc.Awaited = append(a.acc.Awaited, w)
		slices.SortFunc(a.acc.Awaited, func(a, b entitlement.Awaited) int { return bytes.Compare([]byte(a.ID), []byte(b.ID)) })
	}
	return c.commit(nil)
}

// awaitNoMore forgets a purchase that the account waits for: nobody paid after all, or what was shown of it was judged.
func (c *command) awaitNoMore(id entitlement.AccountID, what string) *Rejection {
	a := c.account(id)
	if a == nil {
		return nil // erased since
	}
	a.acc.Awaited = slices.DeleteFunc(slices.Clone(a.acc.Awaited), func(w entitlement.Awaited) bool { return w.ID == what })
	return c.commit(nil)
}

// dropIntents removes some of the rows whose time has passed.
func (c *command) dropIntents() {
	for range dropPerCommand {
		k, _ := c.cursor(bucketDue).First()
		if k == nil || int64(binary.BigEndian.Uint64(k)) > c.now {
			return
		}
		k = bytes.Clone(k)
		env, id := k[8], string(k[9:])
		key := append([]byte{env}, id...)
		var row intentRow
		if whose, ok := byteEnv(env); ok && c.decode(bucketIntents, key, &row) {
			c.deleteLeases(whose, id, &row)
			c.delete(bucketLeases, leaseKey(whose, row.Account, leaseIntent+id))
		}
		c.delete(bucketIntents, key)
		c.delete(bucketDue, k)
	}
}
