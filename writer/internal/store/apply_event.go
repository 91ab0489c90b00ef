package store

import (
	"bytes"
	"slices"
	"strings"

	"github.com/latchkey/latchkey/pkg/entitlement"
	"github.com/latchkey/latchkey/pkg/fault"
	"github.com/latchkey/latchkey/replication"
)

// recordEvent stores a provider's message once, and applies what it proves.
func (c *command) recordEvent(d *decoded) Result {
	if d.bad || !c.Env.Valid() || d.event.Event.ID == "" || d.event.Event.Provider == "" {
		return rejected(SlugInvalidRequest, "event without environment, provider or id")
	}
	ev := &d.event.Event
	c.buyer, c.buyerOf = d.event.Buyer, d.event.BuyerOf
	key := eventKey(c.Env, ev.Provider, ev.ID)
	var first eventRow
	if c.decode(bucketEvents, key, &first) && !fault.Planted("duplicate-effect") {
		if bytes.Equal(first.Digest, d.digest[:]) {
			return duplicateOf(&first, ev.ID, c.CorrelationID)
		}
		return c.recordConflict(ev, &first, d.digest[:])
	}
	row := c.newEventRow(ev.Type, d.digest[:])
	row.CreatedAt = ev.CreatedAt
	if ev.Environment == c.Env {
		c.seeCard(d.event.CardOf, d.event.Card)
	}
	var edits []*purchaseEdit
	switch {
	case ev.Kind == entitlement.Unreadable:
		row.Outcome = Unreadable
	case ev.Environment != c.Env && !fault.Planted("sandbox-counts"):
		row.Outcome = WrongEnvironment
		if kept := c.keptOfAnother(ev); kept != nil {
			if edits = c.planEvent(kept); !c.fits(edits) {
				row.Outcome, edits = TooLarge, nil
			}
		}
	case ev.Kind == entitlement.Unhandled:
		row.Outcome = Unhandled
	default:
		row.Outcome = Recorded
		edits = c.planEvent(ev)
		if edits = append(edits, c.planCards(edits)...); !c.fits(edits) {
			row.Outcome, edits = TooLarge, nil
			break
		}
		c.writeCards()
	}
	var subjects []subject
	for _, e := range edits {
		if d.event.Pulled {
			e.pulledAt = ev.CreatedAt
		}
		c.writePurchase(e)
		row.Purchases = append(row.Purchases, e.id)
		subjects = append(subjects, subject{subjectPurchase, string(e.id)})
	}
	if row.Outcome == Recorded || len(edits) > 0 {
		c.writeAccounts()
		// An owner finds the event by its purchase; a row of its own is for one whom the purchase leaves.
		for _, a := range c.accounts {
			if slices.Contains(c.bystanders, a.id) && !slices.ContainsFunc(edits, func(e *purchaseEdit) bool { return e.involves(a.id) }) {
				continue
			}
			if !slices.ContainsFunc(edits, func(e *purchaseEdit) bool { return e.row.Owner == a.id && e.shown }) {
				subjects = append(subjects, subject{subjectAccount, string(a.id)})
			}
		}
		if len(edits) > 0 {
			row.Account = edits[0].row.Owner
		}
	}
	c.writeEvent(bucketEvents, refEvent, key, &row, subjects)
	result := Result{Revision: replication.Revision{Epoch: row.Epoch, N: row.N}, Outcome: row.Outcome, Account: row.Account, EventID: ev.ID}
	for _, e := range edits { // what comes first may be no purchase, such as a list of them
		if result.Account == "" && e.shown {
			result.Account = e.row.Owner
		}
	}
	return result
}

// duplicateOf answers for a message that was recorded before. One that comes again under its first correlation id is no duplicate: the node
// that received it did not learn what became of its command, and sends the same one again.
func duplicateOf(first *eventRow, id, correlation string) Result {
	again := first.CorrelationID != "" && first.CorrelationID == correlation
	return Result{Revision: replication.Revision{Epoch: first.Epoch, N: first.N}, Outcome: first.Outcome, Duplicate: !again, Account: first.Account, EventID: id}
}

// recordConflict stores a message whose id was used with another content. It has no effect; the provider is to be asked.
func (c *command) recordConflict(ev *entitlement.Event, first *eventRow, digest []byte) Result {
	key := conflictKey(c.Env, ev.Provider, ev.ID, digest)
	row := eventRow{}
	if !c.decode(bucketConflicts, key, &row) {
		row = c.newEventRow(ev.Type, digest)
		row.CreatedAt, row.Outcome = ev.CreatedAt, Conflicting
		row.Purchases, row.Account = first.Purchases, first.Account
		var subjects []subject
		for _, id := range first.Purchases {
			subjects = append(subjects, subject{subjectPurchase, string(id)})
			c.markConflict(id)
		}
		for _, o := range ev.Objects {
			for _, l := range o.Links { // it may be about another purchase than the first
				c.markConflict(entitlement.PurchaseID(l))
			}
		}
		c.writeEvent(bucketConflicts, refConflict, key, &row, subjects)
	}
	return duplicateOf(&row, ev.ID, "")
}

func (c *command) newEventRow(eventType string, digest []byte) eventRow {
	c.st.EventSeq++
	return eventRow{Digest: digest, Type: eventType, Stamp: c.now, CorrelationID: c.CorrelationID, Seq: c.st.EventSeq,
		Segment: c.at.segment, Offset: c.at.offset}
}

// subject is what an event is about: an account or a purchase.
type subject struct {
	kind byte
	id   string
}

// writeEvent stores an event under a key that is new, as the last thing that a command does: its revision is that of the
// command's last change. No subject comes twice.
func (c *command) writeEvent(bucket []byte, ref byte, key []byte, row *eventRow, subjects []subject) {
	row.Epoch, row.N = c.st.Epoch, c.st.N
	c.add(bucket, key, entitlement.Encode(row))
	reference := append([]byte{ref}, key...)
	c.add(bucketEventOrder, orderKey(c.Env, row.Seq), reference)
	for _, s := range subjects {
		c.add(bucketSubjects, subjectKey(c.Env, s.kind, s.id, row.Seq), reference)
	}
}

// planEvent groups the event's objects into purchases by the store ids that they share, with each other or with what is known.
func (c *command) planEvent(ev *entitlement.Event) []*purchaseEdit {
	if c.st.Rules < rulesAccounts { // writers of an older version know neither persons nor namings, and must come to the same rows (I17)
		ev.Objects = slices.Clone(ev.Objects)
		for i := range ev.Objects {
			ev.Objects[i].Person, ev.Objects[i].Naming = "", nil
		}
	}
	type group struct {
		links   []entitlement.Link
		known   []entitlement.PurchaseID
		objects []entitlement.Object
	}
	var groups []*group
	owners := map[entitlement.Link]entitlement.PurchaseID{} // of the links seen, empty for none: objects of one message share them
	for _, o := range ev.Objects {
		if len(o.Links) == 0 {
			o.Links = []entitlement.Link{entitlement.Link(string(ev.Provider) + ":" + o.ID)}
		}
		g := &group{links: slices.Clone(o.Links), objects: []entitlement.Object{o}}
		for _, l := range o.Links {
			id, seen := owners[l]
			if !seen {
				id, _ = c.purchaseOf(l)
				owners[l] = id
			}
			if id != "" && !slices.Contains(g.known, id) {
				g.known = append(g.known, id)
			}
		}
		// The groups that this object ties together become one.
		rest := groups[:0]
		for _, other := range groups {
			if shareAny(g.links, other.links) || shareAny(g.known, other.known) {
				g.links = append(other.links, g.links...)
				g.known = append(other.known, g.known...)
				g.objects = append(other.objects, g.objects...)
				continue
			}
			rest = append(rest, other)
		}
		groups = append(rest, g)
	}
	// Whom an aggregator calls its customers comes first: purchases of the same message may be theirs.
	names := func(g *group) bool {
		return slices.ContainsFunc(g.objects, func(o entitlement.Object) bool {
			asks := c.st.Rules >= rulesLearned && o.Hint != nil && o.Hint.Of == entitlement.KindCustomer && (o.Account != "" || len(o.Aliases) > 0)
			return asks || o.Kind == entitlement.KindCustomer
		})
	}
	slices.SortStableFunc(groups, func(a, b *group) int {
		switch first, second := names(a), names(b); {
		case first == second:
			return 0
		case first:
			return -1
		}
		return 1
	})
	if len(groups) > 1 { // what one of them says of a customer counts for the others
		for _, g := range groups {
			c.tellOf(g.known, g.objects)
		}
	}
	edits := make([]*purchaseEdit, 0, len(groups))
	var learned []string
	var left []entitlement.PurchaseID
	for _, g := range groups {
		slices.Sort(g.known)
		e := c.planPurchase(slices.Compact(g.known), g.objects)
		if edits = append(edits, e); names(g) {
			learned = append(learned, c.learn(e)...)
			left = append(left, c.list(e)...)
		}
		learned = append(learned, c.relearned(e)...)
	}
	planned := func(id entitlement.PurchaseID) bool {
		return slices.ContainsFunc(edits, func(e *purchaseEdit) bool {
			return e.id == id || slices.ContainsFunc(e.before, func(p storedPurchase) bool { return p.id == id })
		})
	}
	slices.Sort(left)
	for _, id := range slices.Compact(left) {
		if !planned(id) {
			edits = append(edits, c.planPurchase([]entitlement.PurchaseID{id}, nil))
		}
	}
	return append(edits, c.resolveWaiting(learned, planned)...)
}

// learn notes whom a provider's statement about a customer names, and returns the identities that mean that customer.
func (c *command) learn(e *purchaseEdit) []string {
	identity := e.row.Evidence.Identity()
	for _, l := range e.row.Evidence.Links {
		if c.customers == nil {
			c.customers = map[entitlement.Link]toldCustomer{}
		}
		c.customers[l] = c.customerOf(identity)
	}
	var names []string
	for _, a := range identity.Aliases {
		if a.Kind.Provider() != "" {
			names = append(names, aliasIdentity(c.hashedAlias(a)))
		}
	}
	return names
}

// keptOfAnother returns what counts of a message about the other environment; nil for nothing.
func (c *command) keptOfAnother(ev *entitlement.Event) *entitlement.Event {
	switch {
	case c.takesTest(ev):
		return asTest(ev)
	case ev.Provider == entitlement.Web2Wave && ev.Kind == entitlement.Proof && c.st.Rules >= rulesAccounts:
		return asForeign(ev)
	}
	return nil
}

// asForeign returns that the subscription of a message is none of this environment, whatever else tells of it: Web2Wave has one address for both, and its answers do not
// say which one a subscription is of (I15).
func asForeign(ev *entitlement.Event) *entitlement.Event {
	for i := range ev.Objects {
		o := &ev.Objects[i]
		id := ""
		switch {
		case o.Transaction != nil:
			id = o.Transaction.Chain
		case o.Renewal != nil:
			id = o.ID
		}
		if id != "" {
			foreign := *ev
			foreign.Objects = []entitlement.Object{{Kind: entitlement.KindRevocation, ID: "environment:" + id, By: ev.Provider, At: o.At,
				Links: []entitlement.Link{entitlement.Link(string(ev.Provider) + ":" + id)}, Revocation: &entitlement.Revocation{Transaction: id, Reason: entitlement.ReasonRevoked}}}
			return &foreign
		}
	}
	return nil
}

// takesTest reports whether a message about a test purchase that came to production is kept, for those for whom the policy lets it count
// (invariant I15): that of App Review, TestFlight or a licence tester, whom nobody can tell to use another app.
func (c *command) takesTest(ev *entitlement.Event) bool {
	if c.Env != entitlement.Production || ev.Environment != entitlement.Sandbox || ev.Kind != entitlement.Proof || c.st.Rules < RulesChains {
		return false
	}
	switch ev.Provider {
	case entitlement.Apple, entitlement.Google, entitlement.RevenueCat, entitlement.Adapty, entitlement.Iaptic:
		policy := c.policyOf(c.Env)
		return policy.SandboxAccess != entitlement.SandboxNone
	}
	return false
}

// asTest returns the event with its objects marked, and under ids of their own: no test purchase ever is part of a real one.
func asTest(ev *entitlement.Event) *entitlement.Event {
	test := *ev
	test.Objects = slices.Clone(ev.Objects)
	for i := range test.Objects {
		o := &test.Objects[i]
		o.Sandbox = true
		links := o.Links
		if len(links) == 0 {
			links = []entitlement.Link{entitlement.Link(string(ev.Provider) + ":" + o.ID)}
		}
		o.Links = nil
		for _, l := range links {
			provider, id, _ := strings.Cut(string(l), ":")
			o.Links = append(o.Links, entitlement.Link(provider+":sandbox:"+id))
		}
	}
	return &test
}

func shareAny[T comparable](a, b []T) bool {
	return slices.ContainsFunc(a, func(v T) bool { return slices.Contains(b, v) })
}
