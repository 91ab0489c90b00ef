package store

import (
	"bytes"
	"encoding/hex"
	"slices"
	"strings"

	"github.com/latchkey/latchkey/pkg/entitlement"
)

// Under the policy trial_lock: payment who pays with one card is one person (requirement A10.6). A trial at Stripe begins without a charge, so that a card is known
// by the customer to whom it is attached or who paid with it: what the customer bought was bought by each card that they were ever seen with. Cards are
// known by an index of their fingerprint alone, which the receiving node makes with contacts.key. They are noted under either policy, so that
// neither the order of messages nor that of a policy among them shows.

const (
	// maxCards is how many cards one customer is known by: more than anybody has, and so few that trying stolen ones at a checkout fills nothing.
	maxCards = 16
	// cardBytes is the length of a card's index.
	cardBytes = contactIndexBytes
	// cardPerson begins the name of a person who is known by a card. No store's name of one begins so.
	cardPerson = "card:"
)

// seeCard notes a card of a customer, in hexadecimal digits, for all that is planned from now on; writeCards writes it.
func (c *command) seeCard(customer, card string) {
	if index, err := hex.DecodeString(card); c.st.Rules < rulesAccounts || customer == "" || err != nil || len(index) != cardBytes {
		return
	}
	known := c.cardsKnown(customer)
	if slices.Contains(known, card) {
		return
	}
	cards := append(known, card)
	slices.Sort(cards)
	if cards = cards[:min(len(cards), maxCards)]; slices.Contains(cards, card) { // the same ones in whatever order they came
		c.cardsOf, c.cards = customer, cards
	}
}

// cardsKnown lists the cards of a customer as they are in the file.
func (c *command) cardsKnown(customer string) []string {
	return cardsIn(c.get(bucketCards, envKey(c.Env, customer)))
}

func cardsIn(row []byte) (cards []string) {
	for ; len(row) >= cardBytes; row = row[cardBytes:] {
		cards = append(cards, hex.EncodeToString(row[:cardBytes]))
	}
	return cards
}

// planCards plans anew what a customer has bought who has another card by this message. edits are planned already.
func (c *command) planCards(edits []*purchaseEdit) []*purchaseEdit {
	if c.cardsOf == "" {
		return nil
	}
	var ids []entitlement.PurchaseID
	prefix := identityPrefix(c.Env, aliasIdentity(entitlement.Alias{Kind: entitlement.StripeCustomer, Value: c.cardsOf}))
	cursor := c.tx.Bucket(bucketNamed).Cursor()
	for k, row := cursor.Seek(prefix); k != nil && bytes.HasPrefix(k, prefix); k, row = cursor.Next() {
		id, _ := readNamed(row)
		if !slices.ContainsFunc(edits, func(e *purchaseEdit) bool {
			return e.id == id || slices.ContainsFunc(e.before, func(p storedPurchase) bool { return p.id == id })
		}) {
			ids = append(ids, id)
		}
	}
	var more []*purchaseEdit
	for _, id := range ids {
		more = append(more, c.planPurchase([]entitlement.PurchaseID{id}, nil))
	}
	return more
}

func (c *command) writeCards() {
	if c.cardsOf == "" {
		return
	}
	row := make([]byte, 0, len(c.cards)*cardBytes)
	for _, card := range c.cards {
		row, _ = hex.AppendDecode(row, []byte(card)) // seeCard has decoded it
	}
	c.put(bucketCards, envKey(c.Env, c.cardsOf), row)
}

// knowPersons fills by what names a purchase's buyer is known, and was before.
func (c *command) knowPersons(e *purchaseEdit) {
	if c.st.Rules < rulesAccounts {
		return
	}
	e.persons = c.persons(&e.row.Evidence, &e.is, true)
	for i := range e.before {
		e.had = append(e.had, c.persons(&e.before[i].row.Evidence, &e.was[i], false))
	}
}

// persons lists by what names whoever bought a purchase is known, sorted: those that stores have for them, and their cards, with that of the command's own message
// or without.
func (c *command) persons(ev *entitlement.Evidence, is *entitlement.Identity, withNew bool) []string {
	return withCards(ev.Persons(), is, func(customer string) []string {
		if withNew && customer == c.cardsOf {
			return c.cards
		}
		return c.cardsKnown(customer)
	})
}

func withCards(persons []string, is *entitlement.Identity, cardsOf func(customer string) []string) []string {
	for _, a := range is.Aliases {
		if a.Kind != entitlement.StripeCustomer {
			continue
		}
		for _, card := range cardsOf(a.Value) {
			persons = append(persons, cardPerson+card)
		}
	}
	slices.Sort(persons)
	return slices.Compact(persons)
}

// counts reports whether a name stands for a person under the policy.
func counts(policy *entitlement.Policy, person string) bool {
	return policy.TrialByPayment || !strings.HasPrefix(person, cardPerson)
}

// persons is command.persons for a reader: those that count under the environment's policy. Error: replication.ErrCorrupt.
func (r *Reader) persons(env entitlement.Environment, ev *entitlement.Evidence) ([]string, error) {
	policy, err := r.Policy(env)
	if err != nil || !policy.TrialByPayment {
		return ev.Persons(), err
	}
	is := ev.Identity()
	return withCards(ev.Persons(), &is, func(customer string) []string {
		return cardsIn(r.tx.Bucket(bucketCards).Get(envKey(env, customer)))
	}), nil
}
