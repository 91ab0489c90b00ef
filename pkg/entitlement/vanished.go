package entitlement

import "slices"

// A provider that lists everything that a customer has with each message says by leaving a purchase out that it is gone. No object of that purchase
// tells so: an object of the customer says when the whole list was told last, and a purchase of theirs that was told of before and not again since is
// not in it. Both are registers, so that the order in which messages come does not show.

// wholeList begins the id of the object, of KindCustomer and under the CustomerLink, with whose version everything that a customer has was told.
const wholeList = "all:"

// WholeList returns the object that says that everything that a customer has was told with a version, Unix nanoseconds.
func WholeList(by Provider, customer string, at int64) Object {
	return Object{Kind: KindCustomer, ID: wholeList + customer, By: by, At: at, Links: []Link{CustomerLink(by, customer)}, Customer: &Customer{}}
}

// ListedAt returns, of what was told of a customer, the version with which all that they have was told last; 0 for never.
func (e Evidence) ListedAt(by Provider, customer string) int64 {
	if o := e.find(KindCustomer, wholeList+customer, by); o != nil {
		return o.At
	}
	return 0
}

// ToldAt returns the newest version in which a provider told of a sale; 0 for never.
func (e Evidence) ToldAt(by Provider) int64 {
	at := int64(0)
	for i := range e.Objects {
		if o := &e.Objects[i]; o.By == by && o.Transaction != nil {
			at = max(at, o.At)
		}
	}
	return at
}

// Vanished returns the purchase as it is when the provider that tells of it leaves it out of its customer's list. at is when it was in it last, Unix seconds,
// which no later list moves. A subscription has ended then, and what was sold for good gives access no more; credits that were bought stay bought: stores forget what was used up. Any other
// provider's word stands. p is not changed.
func (p Purchase) Vanished(by Provider, at int64) Purchase {
	if p.Provider != by {
		return p
	}
	p.Items = slices.Clone(p.Items)
	for i := range p.Items {
		item := &p.Items[i]
		if item.State == Revoked || item.State == Ended {
			continue
		}
		item.endBy(at)
		if !item.Recurring && item.State != Pending {
			continue // it stays sold, for its credits
		}
		item.State, item.WillRenew, item.Next, item.BillingGraceUntil = Ended, false, "", 0
		if item.Term.EndsAt == 0 || item.Term.EndsAt > item.AccessUntil {
			item.Term.EndsAt = item.AccessUntil
		}
	}
	return p
}
