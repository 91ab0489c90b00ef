package store

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/latchkey/latchkey/pkg/entitlement"
	"github.com/latchkey/latchkey/replication"
)

// A customer of a provider whom nobody named by the API may be known all the same: one of their purchases names an account in its metadata. Such a name
// is learned: a register by the provider's time, which is a function of all evidence and of nothing else, so that the order of messages never shows
// (I20). What the API says comes before it. The bucket named finds the purchases that carry a name, whoever owns them.

// namesIn lists the names that a purchase carries.
func namesIn(identity entitlement.Identity) []string {
	names := make([]string, 0, len(identity.Aliases))
	for _, a := range identity.Aliases {
		names = append(names, aliasIdentity(hashedAlias(rulesAccounts, a)))
	}
	return names
}

// toldPurchase is the identity of a purchase as it will be, and the ids under which it was known until now.
type toldPurchase struct {
	id       entitlement.PurchaseID
	before   []entitlement.PurchaseID
	identity entitlement.Identity
}

// tell notes what a purchase will say of its buyer, for all that is resolved in the same command. The last word about an id counts.
func (c *command) tell(t toldPurchase, before []entitlement.Identity) {
	names := func(i entitlement.Identity) bool { return i.Account != "" }
	if c.st.Rules >= rulesAccounts && (names(t.identity) || slices.ContainsFunc(before, names)) {
		c.told = append(c.told, t)
	}
}

// tellOf is tell for what known purchases and new objects will be together.
func (c *command) tellOf(known []entitlement.PurchaseID, objects []entitlement.Object) {
	var evidence entitlement.Evidence
	var before []entitlement.Identity
	for _, id := range known {
		if p, ok := c.loadPurchase(id); ok {
			evidence = entitlement.Merge(evidence, p.row.Evidence)
			before = append(before, p.row.Evidence.Identity())
		}
	}
	evidence = evidence.Add(objects...)
	c.tell(toldPurchase{evidence.ID(), known, evidence.Identity()}, before)
}

// learned returns the account that purchases under a name are said to be of: by the newest statement of any that names one. Empty is nobody's.
func (c *command) learned(a entitlement.Alias) entitlement.AccountID {
	if c.st.Rules < rulesAccounts {
		return ""
	}
	var best teller
	stale := func(id entitlement.PurchaseID) bool {
		return slices.ContainsFunc(c.told, func(t toldPurchase) bool { return t.id == id || slices.Contains(t.before, id) })
	}
	a = c.hashedAlias(a)
	prefix := identityPrefix(c.Env, aliasIdentity(a))
	cursor := c.tx.Bucket(bucketNamed).Cursor()
	for k, v := cursor.Seek(prefix); k != nil && bytes.HasPrefix(k, prefix); k, v = cursor.Next() {
		id, tells := readNamed(v)
		if !tells || stale(id) {
			continue
		}
		if p, ok := c.loadPurchase(id); ok {
			identity := p.row.Evidence.Identity()
			best.hear(id, identity.Account, identity.At)
		}
	}
	for i, t := range c.told {
		if slices.ContainsFunc(c.told[i+1:], func(later toldPurchase) bool { return later.id == t.id || slices.Contains(later.before, t.id) }) {
			continue
		}
		if slices.ContainsFunc(t.identity.Aliases, func(told entitlement.Alias) bool { return c.hashedAlias(told) == a }) {
			best.hear(t.id, t.identity.Account, t.identity.At)
		}
	}
	if best.account == "" || !c.known(best.account) {
		return ""
	}
	return best.account
}

// teller is the purchase that says the newest of a name.
type teller struct {
	id      entitlement.PurchaseID
	account entitlement.AccountID
	at      int64
}

func (t *teller) hear(id entitlement.PurchaseID, account entitlement.AccountID, at int64) {
	if account == "" {
		return
	}
	if t.account == "" || cmp.Or(cmp.Compare(at, t.at), cmp.Compare(t.id, id)) > 0 {
		*t = teller{id, account, at}
	}
}

// relearned lists the names about which a planned purchase says something else than before.
func (c *command) relearned(e *purchaseEdit) []string {
	if c.st.Rules < rulesAccounts {
		return nil
	}
	if len(e.was) == 1 && e.was[0].Account == e.is.Account && e.was[0].At == e.is.At && slices.Equal(e.was[0].Aliases, e.is.Aliases) {
		return nil
	}
	names := c.heard(e)
	for _, was := range e.was {
		if was.Account != "" {
			names = append(names, namesIn(was)...)
		}
	}
	return names
}

// heard lists the names of a purchase that names an account, which may be there since this command.
func (c *command) heard(e *purchaseEdit) []string {
	if c.st.Rules < rulesAccounts || e.is.Account == "" {
		return nil
	}
	return namesIn(e.is)
}

// The rows of the bucket named: whether the purchase names an account, and its id.
const (
	namedTells = 't'
	namedOnly  = 'n'
)

func namedRow(id entitlement.PurchaseID, identity entitlement.Identity) []byte {
	mark := byte(namedOnly)
	if identity.Account != "" {
		mark = namedTells
	}
	return append([]byte{mark}, id...)
}

func readNamed(row []byte) (id entitlement.PurchaseID, tells bool) {
	return entitlement.PurchaseID(row[1:]), row[0] == namedTells
}

// writeNamed keeps the index of names that purchases carry.
func (c *command) writeNamed(e *purchaseEdit) {
	if c.st.Rules < rulesAccounts {
		return
	}
	has := namesIn(e.is)
	for i, p := range e.before {
		for _, name := range namesIn(e.was[i]) {
			if p.id != e.id || !slices.Contains(has, name) {
				c.delete(bucketNamed, identityKey(c.Env, name, p.id))
			}
		}
	}
	row := namedRow(e.id, e.is)
	for _, name := range has {
		if key := identityKey(c.Env, name, e.id); len(e.before) == 0 {
			c.add(bucketNamed, key, row)
		} else {
			c.put(bucketNamed, key, row)
		}
	}
}

// indexPurchases fills what is there since rulesAccounts from the purchases that were told of before. It is done once in the life of a cluster, in one
// command.
func (c *command) indexPurchases() {
	for _, env := range entitlement.Environments {
		c.Env = env
		var ids []entitlement.PurchaseID
		prefix := []byte{envByte(env)}
		cursor := c.tx.Bucket(bucketPurchases).Cursor()
		for k, _ := cursor.Seek(prefix); k != nil && bytes.HasPrefix(k, prefix); k, _ = cursor.Next() {
			ids = append(ids, entitlement.PurchaseID(k[1:]))
		}
		for _, id := range ids {
			p, ok := c.loadPurchase(id)
			if !ok {
				return
			}
			identity := p.row.Evidence.Identity()
			for _, name := range namesIn(identity) {
				c.put(bucketNamed, identityKey(env, name, id), namedRow(id, identity))
			}
			if p.row.Evidence.IsSandbox() {
				for _, name := range testerIdentities(p.row.seenBy(c.st.Rules)) {
					c.put(bucketIdentities, identityKey(env, name, id), []byte(id))
				}
			}
			c.doubtAnew(&p)
			c.weighUnclaimed(&p)
		}
		c.indexPersons(ids)
	}
	c.Env = ""
}

// doubtAnew notes what is to be asked for by the present rules, and was not by those under which a purchase was told of.
func (c *command) doubtAnew(p *storedPurchase) {
	doubts := p.row.Evidence.DoubtsUnder(entitlement.Policy{Rules: c.st.Rules})
	if len(doubts) == 0 {
		return
	}
	key := envKey(c.Env, string(p.id))
	var pull pullRow
	c.decode(bucketPulls, key, &pull)
	pull.Doubt, pull.Asks, pull.Echoes = true, asksOf(doubts), c.echoesOf(doubts)
	c.writePull(key, pull)
}

// Named returns the account that answers for an alias: the one that it was given to by the API, else whom a provider says that its customer is, else the
// owner of what was last bought under the name. A store's own id of a purchase leads to the purchase's owner; our account id, which other providers carry as
// their customer's name, to the account. Error: replication.ErrCorrupt.
func (r *Reader) Named(env entitlement.Environment, a entitlement.Alias) (owner entitlement.AccountID, found bool, err error) {
	if !slices.Contains(entitlement.AliasKinds, a.Kind) || a.Value == "" {
		return "", false, nil
	}
	for _, ask := range []func(entitlement.Environment, entitlement.Alias) (entitlement.AccountID, error){r.given, r.ofStoreID, r.ofCustomer, r.lastBuyer, r.ourOwn} {
		if owner, err = ask(env, a); err != nil {
			return "", false, err
		}
		if owner == "" {
			continue
		}
		if _, found, err = r.Account(env, owner); found || err != nil {
			return owner, found, err
		}
	}
	return "", false, nil
}

func (r *Reader) given(env entitlement.Environment, a entitlement.Alias) (entitlement.AccountID, error) {
	owner, _, err := r.AliasOwner(env, a)
	return owner, err
}

// ofStoreID is whose purchase has a store's own id.
func (r *Reader) ofStoreID(env entitlement.Environment, a entitlement.Alias) (entitlement.AccountID, error) {
	var store entitlement.Provider
	switch a.Kind {
	case entitlement.AppleOriginalTransaction:
		store = entitlement.Apple
	case entitlement.GooglePurchaseToken:
		store = entitlement.Google
	default:
		return "", nil
	}
	p, _, err := r.Purchase(env, entitlement.PurchaseID(string(store)+":"+a.Value))
	return p.Owner, err
}

// ofCustomer is whom the provider last said its customer to be.
func (r *Reader) ofCustomer(env entitlement.Environment, a entitlement.Alias) (entitlement.AccountID, error) {
	provider := a.Kind.Provider()
	if provider == "" {
		return "", nil
	}
	told, found, err := r.Purchase(env, entitlement.PurchaseID(entitlement.CustomerLink(provider, a.Value)))
	if err != nil || !found {
		return "", err
	}
	identity := told.Evidence.Identity()
	if identity.Account != "" {
		return identity.Account, nil
	}
	for _, other := range identity.Aliases {
		if owner, found, err := r.AliasOwner(env, other); found || err != nil {
			return owner, err
		}
	}
	return "", nil
}

// lastBuyer is the owner of the purchase that the newest statement with this name is about.
func (r *Reader) lastBuyer(env entitlement.Environment, a entitlement.Alias) (entitlement.AccountID, error) {
	var best teller
	prefix := identityPrefix(env, aliasIdentity(hashedAlias(r.st.Rules, a)))
	cursor := r.bucket(bucketNamed).Cursor()
	for k, row := cursor.Seek(prefix); k != nil && bytes.HasPrefix(k, prefix); k, row = cursor.Next() {
		id, _ := readNamed(row)
		p, found, err := r.Purchase(env, id)
		if err != nil {
			return "", err
		}
		if !found {
			return "", fmt.Errorf("purchase %s is named and not there: %w", id, replication.ErrCorrupt)
		}
		best.hear(p.ID, p.Owner, p.Evidence.NamedAt(a))
	}
	return best.account, nil
}

// ourOwn takes our account id for what it is, where a provider carries it.
func (r *Reader) ourOwn(_ entitlement.Environment, a entitlement.Alias) (entitlement.AccountID, error) {
	if a.Kind.CarriesAccount() && strings.HasPrefix(a.Value, "acc_") {
		return entitlement.AccountID(a.Value), nil
	}
	return "", nil
}
