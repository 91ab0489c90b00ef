package store

import (
	"bytes"
	"slices"
	"strings"
	"time"

	"github.com/latchkey/latchkey/pkg/entitlement"
)

// vanishing says whom a purchase of iaptic's is gone for.
type vanishing struct {
	at    int64 // when it was told of last, Unix seconds
	owner bool  // for whoever owns it
	all   bool  // for everybody
}

// vanished says for whom a purchase of iaptic's is gone, because a newer list of what they have leaves it out. iaptic's messages hold that list (the purchases
// collection is the truth). What several use is gone for each by their own list, and has ended when all lists leave it out.
func (c *command) vanished(e entitlement.Evidence, is *entitlement.Identity) (v vanishing) {
	told := e.ToldAt(entitlement.Iaptic)
	if c.st.Rules < rulesAccounts || told == 0 || e.IsSandbox() {
		return v
	}
	v.at = max(told/int64(time.Second), 1)
	v.owner = slices.ContainsFunc(is.Aliases, func(a entitlement.Alias) bool { return c.leftOut(a, told) })
	v.all = v.owner && !slices.ContainsFunc(e.Shares(), func(a entitlement.Alias) bool {
		return a.Kind == entitlement.IapticUsername && !c.leftOut(a, told)
	})
	return v
}

// leftOut reports whether the list of a user of iaptic's is newer than a purchase that it would have: told is that one's version.
func (c *command) leftOut(a entitlement.Alias, told int64) bool {
	return a.Kind == entitlement.IapticUsername && c.st.Rules >= rulesAccounts && told != 0 && c.listedAt(a.Value) > told
}

// listedAt returns the version with which iaptic last told everything that a user has, what this command tells included.
func (c *command) listedAt(user string) int64 {
	link := entitlement.CustomerLink(entitlement.Iaptic, user)
	if at, told := c.listed[link]; told {
		return at
	}
	if id, ok := c.purchaseOf(link); ok {
		if p, ok := c.loadPurchase(id); ok {
			return p.row.Evidence.ListedAt(entitlement.Iaptic, user)
		}
	}
	return 0
}

// list notes when a planned statement about a user lists what they have, and returns the purchases under the user's name that it leaves out first.
func (c *command) list(e *purchaseEdit) (left []entitlement.PurchaseID) {
	if c.st.Rules < rulesAccounts {
		return nil
	}
	mark := string(entitlement.CustomerLink(entitlement.Iaptic, ""))
	for _, link := range e.row.Evidence.Links {
		user, ok := strings.CutPrefix(string(link), mark)
		if !ok {
			continue
		}
		at := e.row.Evidence.ListedAt(entitlement.Iaptic, user)
		if at == 0 {
			continue
		}
		before := int64(0)
		for _, p := range e.before {
			before = max(before, p.row.Evidence.ListedAt(entitlement.Iaptic, user))
		}
		if at == before {
			continue
		}
		if c.listed == nil {
			c.listed = map[entitlement.Link]int64{}
		}
		c.listed[link] = at
		leaves := func(id entitlement.PurchaseID) {
			if p, ok := c.loadPurchase(id); ok {
				if told := p.row.Evidence.ToldAt(entitlement.Iaptic); before <= told && told < at {
					left = append(left, id)
				}
			}
		}
		prefix := identityPrefix(c.Env, aliasIdentity(entitlement.Alias{Kind: entitlement.IapticUsername, Value: user}))
		bought := c.tx.Bucket(bucketNamed).Cursor()
		for k, v := bought.Seek(prefix); k != nil && bytes.HasPrefix(k, prefix); k, v = bought.Next() {
			id, _ := readNamed(v)
			leaves(id)
		}
		shared := c.tx.Bucket(bucketIdentities).Cursor() // what waits for the name has it as that of its buyer, or of who uses it besides
		for k, id := shared.Seek(prefix); k != nil && bytes.HasPrefix(k, prefix); k, id = shared.Next() {
			leaves(entitlement.PurchaseID(id))
		}
	}
	return left
}
