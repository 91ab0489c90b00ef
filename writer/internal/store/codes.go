package store

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/latchkey/latchkey/pkg/entitlement"
	"github.com/latchkey/latchkey/replication"
)

// A redemption code stands for one package: whoever redeems it first has its accesses, whose days count from then. Only its hash is here. One that a sale is
// delivered by hangs on that purchase: what becomes of the payment becomes of the accesses, whichever is heard of first.

const (
	codeHashBytes = 32
	// keptCodeSeconds is how long the row of a code stays that nobody redeemed in time, so that one who comes late is told so.
	keptCodeSeconds = 30 * 24 * 3600
	// maxAccesses bounds what an account redeems in its life: what is over still counts where the payment is taken back.
	maxAccesses = 1000
	// maxPurchaseCodes bounds the codes of one purchase: one for each product that it sold.
	maxPurchaseCodes = 100
)

// PutCode makes a code for a package. With Purchase it is the one that this sale of Product is delivered by, of which there is one: the same again finds it.
type PutCode struct {
	ID        string                 `cbor:"1,keyasint"` // "code_" and a ULID
	Hash      []byte                 `cbor:"2,keyasint"` // SHA-256 of the code
	Provider  entitlement.Provider   `cbor:"3,keyasint"`
	Product   entitlement.ProductID  `cbor:"4,keyasint"`
	ExpiresAt int64                  `cbor:"5,keyasint,omitempty"` // Unix seconds; 0: never
	Purchase  entitlement.PurchaseID `cbor:"6,keyasint,omitempty"` // any id that it ever had
	// Delivered: with this command the buyer has the code, and nobody needs to send it any more.
	Delivered   bool         `cbor:"7,keyasint,omitempty"`
	Idempotency *Idempotency `cbor:"8,keyasint,omitempty"`
}

// RedeemCode gives what a code stands for to an account.
type RedeemCode struct {
	Hash        []byte                `cbor:"1,keyasint"`
	Account     entitlement.AccountID `cbor:"2,keyasint"`
	Idempotency *Idempotency          `cbor:"3,keyasint,omitempty"`
}

// RevokeCode takes a code back, and what it gave.
type RevokeCode struct {
	ID          string       `cbor:"1,keyasint"`
	Idempotency *Idempotency `cbor:"2,keyasint,omitempty"`
}

func (b *PutCode) idempotency() *Idempotency    { return b.Idempotency }
func (b *RedeemCode) idempotency() *Idempotency { return b.Idempotency }
func (b *RevokeCode) idempotency() *Idempotency { return b.Idempotency }

// Code is what a command says of a code. The code itself it does not know.
type Code struct {
	ID         string                 `cbor:"1,keyasint"`
	Provider   entitlement.Provider   `cbor:"2,keyasint"`
	Product    entitlement.ProductID  `cbor:"3,keyasint"`
	ExpiresAt  int64                  `cbor:"4,keyasint,omitempty"` // Unix seconds; 0: never
	RedeemedAt int64                  `cbor:"5,keyasint,omitempty"` // Unix seconds; 0: it was not
	Accesses   []entitlement.Access   `cbor:"6,keyasint,omitempty"` // what it gave
	Purchase   entitlement.PurchaseID `cbor:"7,keyasint,omitempty"`
}

// codeRow is a code by its hash.
type codeRow struct {
	ID         string                 `cbor:"1,keyasint"`
	Provider   entitlement.Provider   `cbor:"2,keyasint"`
	Product    entitlement.ProductID  `cbor:"3,keyasint"`
	ExpiresAt  int64                  `cbor:"4,keyasint,omitempty"`
	Purchase   entitlement.PurchaseID `cbor:"5,keyasint,omitempty"` // as it was called when the code was made
	By         entitlement.AccountID  `cbor:"6,keyasint,omitempty"` // who redeemed it
	RedeemedAt int64                  `cbor:"7,keyasint,omitempty"`
	RevokedAt  int64                  `cbor:"8,keyasint,omitempty"` // by the operator; what became of the payment stands in the purchase
}

// purchaseCode is a code that a purchase is delivered by.
type purchaseCode struct {
	ID        string                `cbor:"1,keyasint"`
	Product   entitlement.ProductID `cbor:"2,keyasint"`
	Delivered bool                  `cbor:"3,keyasint,omitempty"`
}

func codeKey(env entitlement.Environment, hash []byte) []byte {
	return append([]byte{envByte(env)}, hash...)
}

func (row *codeRow) shown() *Code {
	return &Code{ID: row.ID, Provider: row.Provider, Product: row.Product, ExpiresAt: row.ExpiresAt, RedeemedAt: row.RedeemedAt, Purchase: row.Purchase}
}

// codeNamed returns a code by its id.
func (c *command) codeNamed(id string) (key []byte, row codeRow, ok bool) {
	hash := c.get(bucketCodeIDs, envKey(c.Env, id))
	if hash == nil {
		return nil, row, false
	}
	key = codeKey(c.Env, hash)
	return key, row, c.decode(bucketCodes, key, &row)
}

func (c *command) putCode(body *PutCode) Result {
	switch {
	case body.ID == "" || len(body.ID) > maxIDBytes || len(body.Hash) != codeHashBytes || len(body.Product) > maxAliasBytes:
		return rejected(SlugInvalidRequest, "code, its id or its product")
	case body.ExpiresAt != 0 && body.ExpiresAt <= c.now:
		return rejected(SlugInvalidRequest, "the code would have expired already")
	}
	if body.Purchase != "" {
		return c.putPurchaseCode(body)
	}
	product, listed := c.catalogIndex().Lookup(body.Provider, &entitlement.Sold{Product: body.Product})
	if !listed || product.Kind != entitlement.KindPackage {
		return rejected(SlugInvalidRequest, "the catalog lists no such package of the provider")
	}
	return c.addCode(body)
}

// putPurchaseCode makes the code that a purchase is delivered by, or finds it.
func (c *command) putPurchaseCode(body *PutCode) Result {
	id, ok := c.purchaseOf(entitlement.Link(body.Purchase))
	var p storedPurchase
	if ok {
		p, ok = c.loadPurchase(id)
	}
	if !ok || !p.row.Evidence.IsPurchase() {
		return rejected(SlugNotFound, "purchase")
	}
	made := purchaseCode{ID: body.ID, Product: body.Product, Delivered: body.Delivered}
	at := slices.IndexFunc(p.row.Codes, func(known purchaseCode) bool { return known.Product == body.Product })
	if at >= 0 {
		made.ID = p.row.Codes[at].ID
	} else {
		folded := entitlement.Fold(p.row.Evidence, c.policyOf(c.Env))
		switch quantity, takenBack, _ := deliveredOf(&folded, body.Product); {
		case takenBack != 0:
			return rejected(SlugCodeRevoked, "the payment was taken back")
		case quantity == 0 || !c.sellsPackage(&folded, body.Product):
			return rejected(SlugInvalidRequest, "the purchase has no package of this product that is paid for")
		case len(p.row.Codes) >= maxPurchaseCodes:
			return rejected(SlugInvalidRequest, "too many codes")
		}
		if c.get(bucketCodes, codeKey(c.Env, body.Hash)) != nil || c.get(bucketCodeIDs, envKey(c.Env, body.ID)) != nil {
			return rejected(SlugInvalidRequest, codeThere)
		}
	}
	c.code = &made
	if rejection := c.commit([]*purchaseEdit{c.planPurchase([]entitlement.PurchaseID{id}, nil)}); rejection != nil {
		return Result{Rejection: rejection}
	}
	if at < 0 {
		return c.addCode(body)
	}
	_, row, ok := c.codeNamed(made.ID)
	if !ok {
		c.fail(fmt.Errorf("code %s of a purchase is not there: %w", made.ID, replication.ErrCorrupt))
	}
	return Result{Existing: true, Code: row.shown(), what: "code.delivered"}
}

const codeThere = "the Idempotency-Key gave another code more than a day ago"

func (c *command) addCode(body *PutCode) Result {
	key := codeKey(c.Env, body.Hash)
	if c.get(bucketCodes, key) != nil || c.get(bucketCodeIDs, envKey(c.Env, body.ID)) != nil {
		return rejected(SlugInvalidRequest, codeThere)
	}
	c.dropCodes()
	row := codeRow{ID: body.ID, Provider: body.Provider, Product: body.Product, ExpiresAt: body.ExpiresAt, Purchase: body.Purchase}
	c.encode(bucketCodes, key, &row)
	c.put(bucketCodeIDs, envKey(c.Env, body.ID), bytes.Clone(body.Hash))
	if row.ExpiresAt != 0 {
		c.put(bucketCodesDue, linkDueKey(row.ExpiresAt+keptCodeSeconds, key), []byte{})
	}
	return Result{Code: row.shown()}
}

// dropCodes removes some of the rows whose time has passed. What was redeemed stays.
func (c *command) dropCodes() {
	for range dropPerCommand {
		k, _ := c.cursor(bucketCodesDue).First()
		if k == nil || int64(binary.BigEndian.Uint64(k)) > c.now {
			return
		}
		k = bytes.Clone(k)
		var row codeRow
		if c.decode(bucketCodes, k[8:], &row) && row.By == "" && row.Purchase == "" {
			c.delete(bucketCodes, k[8:])
			c.delete(bucketCodeIDs, append([]byte{k[8]}, keyText(row.ID)...))
		}
		c.delete(bucketCodesDue, k)
	}
}

func (c *command) sellsPackage(p *entitlement.Purchase, product entitlement.ProductID) bool {
	x := c.catalogIndex()
	return slices.ContainsFunc(p.Items, func(i entitlement.Item) bool {
		_, ok := x.Package(p, &i)
		return ok && i.Term.Product == product
	})
}

// deliveredOf returns how many of a product a purchase has paid for. Where it was paid for and is not any more, takenBack says since when and reason why,
// which is empty for a refund.
func deliveredOf(p *entitlement.Purchase, product entitlement.ProductID) (quantity, takenBack int64, reason entitlement.Reason) {
	for i := range p.Items {
		item := &p.Items[i]
		switch {
		case item.Term.Product != product:
		case item.State == entitlement.Live && !item.Provisional:
			quantity += max(item.Term.Quantity, 1)
		case item.State == entitlement.Revoked || item.State == entitlement.Ended:
			takenBack, reason = max(item.AccessUntil, 1), cmp.Or(item.Reason, entitlement.ReasonRevoked)
		}
	}
	if quantity > 0 {
		return quantity, 0, ""
	}
	if reason == entitlement.ReasonRefunded {
		reason = ""
	}
	return 0, takenBack, reason
}

// takenBack returns since when a code counts for nothing, and why; 0: it counts. p is the purchase that it hangs on.
func (row *codeRow) takenBack(p *entitlement.Purchase) (at int64, reason entitlement.Reason) {
	if row.RevokedAt != 0 {
		return row.RevokedAt, entitlement.ReasonRevoked
	}
	_, at, reason = deliveredOf(p, row.Product)
	return at, reason
}

func (c *command) redeemCode(body *RedeemCode) Result {
	if len(body.Hash) != codeHashBytes {
		return rejected(SlugInvalidRequest, "code")
	}
	by := body.Account
	a := c.account(by)
	if a == nil {
		return rejected(SlugNotFound, "account")
	}
	key := codeKey(c.Env, body.Hash)
	var row codeRow
	if !c.decode(bucketCodes, key, &row) {
		if c.elsewhere(bucketCodes, key) {
			return rejected(SlugOtherEnvironment, "the code is of the other environment")
		}
		return Result{Rejection: &Rejection{Slug: SlugNotFound, Detail: NoSuchCode}}
	}
	if row.By != "" && c.survivor(by) != c.survivor(row.By) {
		return rejected(SlugCodeUsed, "another account has redeemed this code")
	}
	quantity := int64(1)
	var bought entitlement.Purchase
	if row.Purchase != "" {
		id, _ := c.purchaseOf(entitlement.Link(row.Purchase))
		p, ok := c.loadPurchase(id)
		if !ok {
			c.fail(fmt.Errorf("purchase of code %s is not there: %w", row.ID, replication.ErrCorrupt))
			return Result{}
		}
		bought = entitlement.Fold(p.row.Evidence, c.policyOf(c.Env))
		quantity, _, _ = deliveredOf(&bought, row.Product)
	}
	if at, _ := row.takenBack(&bought); at != 0 {
		return rejected(SlugCodeRevoked, "the code was taken back")
	}
	if row.By != "" {
		return Result{Account: by, Existing: true, Code: c.redeemed(&row)}
	}
	if row.ExpiresAt != 0 && c.now >= row.ExpiresAt {
		return rejected(SlugCodeExpired, "the code has expired")
	}
	product, ok := c.packageOf(&bought, &row)
	switch {
	case !ok || quantity == 0:
		return rejected(SlugInvalidRequest, "the catalog lists the code's product as a package no more, or it is not paid for")
	case len(a.acc.Accesses)+len(product.Accesses) > maxAccesses:
		return rejected(SlugInvalidRequest, "the account has redeemed too many codes")
	}
	for _, access := range product.Accesses {
		a.acc.Accesses = append(a.acc.Accesses, entitlement.Access{ID: row.ID, Module: access.Module, RedeemedAt: c.now, Seconds: entitlement.AccessSeconds(access, quantity),
			Stacked: product.Stack == entitlement.StackExtend})
	}
	slices.SortFunc(a.acc.Accesses, entitlement.CompareAccesses)
	if rejection := c.commit(nil); rejection != nil {
		return Result{Rejection: rejection}
	}
	row.By, row.RedeemedAt = by, c.now
	c.encode(bucketCodes, key, &row)
	return Result{Account: by, Code: c.redeemed(&row)}
}

// NoSuchCode is the detail of the rejection of a code that was guessed, or mistyped.
const NoSuchCode = "no such code"

// elsewhere reports whether a row that the environment lacks is another one's. Keys of the bucket begin with the environment.
func (c *command) elsewhere(bucket, key []byte) bool {
	return slices.ContainsFunc(entitlement.Environments, func(env entitlement.Environment) bool {
		return env != c.Env && c.get(bucket, append([]byte{envByte(env)}, key[1:]...)) != nil
	})
}

// redeemed is the code with what it gave.
func (c *command) redeemed(row *codeRow) *Code {
	code := row.shown()
	for _, access := range c.own(row.By).Accesses {
		if access.ID == row.ID {
			access.RevokedAt, access.Reason = 0, "" // the same at any later time
			code.Accesses = append(code.Accesses, access)
		}
	}
	return code
}

// packageOf returns what a code stands for, by the catalog of now.
func (c *command) packageOf(bought *entitlement.Purchase, row *codeRow) (*entitlement.Product, bool) {
	x := c.catalogIndex()
	for i := range bought.Items {
		if bought.Items[i].Term.Product == row.Product {
			return x.Package(bought, &bought.Items[i])
		}
	}
	product, ok := x.Lookup(row.Provider, &entitlement.Sold{Product: row.Product})
	return product, ok && product.Kind == entitlement.KindPackage
}

func (c *command) revokeCode(body *RevokeCode) Result {
	key, row, ok := c.codeNamed(body.ID)
	if !ok {
		return rejected(SlugNotFound, "code")
	}
	if row.RevokedAt != 0 {
		return Result{Account: row.By, Existing: true, Code: row.shown()}
	}
	row.RevokedAt = c.now
	if a := c.account(row.By); a != nil {
		a.takeBack(row.ID, row.RevokedAt, entitlement.ReasonRevoked)
		if rejection := c.commit(nil); rejection != nil {
			return Result{Rejection: rejection}
		}
	}
	c.encode(bucketCodes, key, &row)
	return Result{Account: row.By, Code: row.shown()}
}

// takeBack notes what became of what a code gave; at is 0 where nothing was taken back.
func (a *accountEdit) takeBack(code string, at int64, reason entitlement.Reason) {
	for i := range a.acc.Accesses {
		if access := &a.acc.Accesses[i]; access.ID == code {
			access.RevokedAt, access.Reason = at, reason
		}
	}
}

// settleCodes lets what was redeemed follow what became of its payment.
func (c *command) settleCodes(e *purchaseEdit, folded *entitlement.Purchase) {
	for _, code := range e.row.Codes {
		if _, row, ok := c.codeNamed(code.ID); ok && row.By != "" {
			if a := c.account(row.By); a != nil {
				at, reason := row.takenBack(folded)
				a.takeBack(row.ID, at, reason)
			}
		}
	}
	there := e.row.delivered()
	delivered := func(i entitlement.Item) bool { return slices.Contains(there, i.Term.Product) }
	e.delivered = len(folded.Items) > 0 && !slices.ContainsFunc(folded.Items, func(i entitlement.Item) bool { return !delivered(i) })
	e.owed = c.st.Rules >= rulesAccounts && slices.ContainsFunc(folded.Items, func(i entitlement.Item) bool {
		return !i.Recurring && !delivered(i) && c.catalogIndex().Owes(folded, &i)
	})
}

// unitedCodes returns the codes of purchases that turned out to be one, sorted, each once.
func unitedCodes(codes []purchaseCode) []purchaseCode {
	if len(codes) < 2 {
		return codes
	}
	codes = slices.Clone(codes)
	slices.SortFunc(codes, func(a, b purchaseCode) int {
		return cmp.Or(cmp.Compare(a.ID, b.ID), cmp.Compare(a.Product, b.Product))
	})
	united := codes[:1]
	for _, code := range codes[1:] {
		if last := &united[len(united)-1]; last.ID == code.ID && last.Product == code.Product {
			last.Delivered = last.Delivered || code.Delivered
			continue
		}
		united = append(united, code)
	}
	return united
}

// delivered lists the products whose codes the buyer has.
func (row *purchaseRow) delivered() (products []entitlement.ProductID) {
	for _, code := range row.Codes {
		if code.Delivered {
			products = append(products, code.Product)
		}
	}
	return products
}

// writeOwed keeps the list of purchases that a code is to be sent for.
func (c *command) writeOwed(e *purchaseEdit) {
	if c.st.Rules < rulesAccounts {
		return
	}
	since, key := c.now, envKey(c.Env, string(e.id))
	for _, p := range e.before {
		old := envKey(c.Env, string(p.id))
		if at := c.get(bucketCodesOwed, old); at != nil {
			since = min(since, int64(binary.BigEndian.Uint64(at)))
			if !e.owed || p.id != e.id {
				c.delete(bucketCodesOwed, old)
			}
		}
	}
	if e.owed {
		c.put(bucketCodesOwed, key, binary.BigEndian.AppendUint64(nil, uint64(since)))
	}
}

// oweByCatalog looks again at the purchases that a code may be owed for, after the catalog says anew what was sold.
func (c *command) oweByCatalog() {
	if c.st.Rules < rulesAccounts {
		return
	}
	var ids []entitlement.PurchaseID
	prefix := []byte{envByte(c.Env)}
	cursor := c.tx.Bucket(bucketCodesOwed).Cursor()
	for k, _ := cursor.Seek(prefix); k != nil && bytes.HasPrefix(k, prefix); k, _ = cursor.Next() {
		ids = append(ids, entitlement.PurchaseID(k[1:]))
	}
	for _, id := range ids {
		c.writeOwed(c.planPurchase([]entitlement.PurchaseID{id}, nil))
	}
	c.accounts = nil // nothing of them changes
}

// CodeID returns the id of a code by its hash, empty for none. Error: replication.ErrCorrupt.
func (r *Reader) CodeID(env entitlement.Environment, hash []byte) (string, error) {
	var row codeRow
	_, err := r.decode(bucketCodes, codeKey(env, hash), &row)
	return row.ID, err
}

// OwedCode is a purchase whose buyer waits for a code, as far as the catalog says.
type OwedCode struct {
	Purchase entitlement.PurchaseID
	Since    int64 // Unix seconds
}

// OwedCodes lists the purchases that a code is to be sent for, sorted by id, after the given one. Error: replication.ErrCorrupt.
func (r *Reader) OwedCodes(env entitlement.Environment, after entitlement.PurchaseID, limit int) ([]OwedCode, error) {
	var list []OwedCode
	err := r.walkSince(bucketCodesOwed, env, after, limit, func(id entitlement.PurchaseID, since int64) {
		list = append(list, OwedCode{Purchase: id, Since: since})
	})
	return list, err
}
