package store

import (
	"bytes"
	"strings"
	"time"

	"github.com/latchkey/latchkey/pkg/entitlement"
)

// vanishedAt returns when a purchase of iaptic's was last in the list of what its buyer has, Unix seconds, where a newer one leaves it out; 0: none does. iaptic's
// messages hold that list (the purchases collection is the truth). What several use may be left out of one's list alone: it ends by its own dates.
func (c *command) vanishedAt(e entitlement.Evidence, is *entitlement.Identity) int64 {
	told := e.ToldAt(entitlement.Iaptic)
	if c.st.Rules < rulesAccounts || told == 0 || e.IsSandbox() {
		return 0
	}
	for _, a := range e.Shares() {
		if a.Kind == entitlement.IapticUsername {
			return 0
		}
	}
	for _, a := range is.Aliases {
		if a.Kind != entitlement.IapticUsername {
			continue
		}
		if listed := c.listedAt(a.Value); listed > told {
			return max(told/int64(time.Second), 1)
		}
	}
	return 0
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
		prefix := identityPrefix(c.Env, aliasIdentity(entitlement.Alias{Kind: entitlement.IapticUsername, Value: user}))
		cursor := c.tx.Bucket(bucketNamed).Cursor()
		for k, v := cursor.Seek(prefix); k != nil && bytes.HasPrefix(k, prefix); k, v = cursor.Next() {
			id, _ := readNamed(v)
			if p, ok := c.loadPurchase(id); ok {
				if told := p.row.Evidence.ToldAt(entitlement.Iaptic); before <= told && told < at {
					left = append(left, id)
				}
			}
		}
	}
	return left
}
