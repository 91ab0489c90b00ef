package writer

import (
	"bytes"
	"cmp"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"net/http"
	"slices"
	"strings"

	"github.com/latchkey/latchkey/pkg/entitlement"
	"github.com/latchkey/latchkey/pkg/problem"
	"github.com/latchkey/latchkey/writer/internal/provider"
	"github.com/latchkey/latchkey/writer/internal/store"
)

// An e-mail address is an attribute with history. It proves nobody: that two accounts have the same one is a suggestion for support.

func (w *Writer) routeContacts(s *server) {
	s.handle("GET /v1/merge-suggestions", w.reading((*apiCall).listSuggestions))
	s.handle("DELETE /v1/merge-suggestions/{suggestion_id}", w.writing((*apiCall).dismissSuggestion))
}

// contactPlace is for what an account's address is sealed.
func contactPlace(id entitlement.AccountID) string { return "contact\x00" + string(id) }

// putContact commits the change of an account's address together with the rest of the request.
func (c *apiCall) putContact(text json.RawMessage, attributes map[string]string, tester *bool) (answer, error) {
	s, err := c.sealing()
	if err != nil {
		return answer{}, err
	}
	var email *string
	if json.Unmarshal(text, &email) != nil {
		return answer{}, wrong("email", "want text, or null")
	}
	command := store.PutContact{Tester: tester}
	var address string
	if email != nil {
		if address, err = parseEmail("email", *email); err != nil {
			return answer{}, err
		}
	}
	if command.Account, err = c.accountToWrite(); err != nil {
		return answer{}, err
	}
	clear, err := c.clearAttributes(command.Account)
	if err != nil {
		return answer{}, err
	}
	key, err := c.idempotency()
	if err != nil {
		return answer{}, err
	}
	command.Idempotency = c.veiled(s, key)
	command.Changes, command.Personal = s.sealAttributes(c.env, command.Account, attributes, clear)
	if address != "" {
		command.Index = s.emailIndex(c.env, address)
		command.Personal = append(command.Personal, store.Sealed{Name: store.EmailText(command.Index), Text: s.seal(c.env, contactPlace(command.Account), address)})
	}
	result, err := c.commit(store.TypePutContact, command)
	return answer{status: http.StatusOK, body: written{result.Account, result.Revision.String()}}, err
}

// veiled replaces the body's hash, which goes into the log: that of a body which is little more than an address could be found by trying addresses.
func (c *apiCall) veiled(s *sealer, key *store.Idempotency) *store.Idempotency {
	if key == nil {
		return nil
	}
	return &store.Idempotency{Scope: key.Scope, Body: s.mac(c.env, "body", c.body)}
}

// emailShown is an address that an account has or had.
type emailShown struct {
	Email *string `json:"email"` // null: sealed with another key than this node's
	Since string  `json:"since"`
	Until *string `json:"until"` // null: the account has it
}

// emails opens the addresses of accounts that are one: the newest that any of them has, and what all of them had, oldest first. One that they had without a gap is
// shown once.
func (c *apiCall) emails(reader *store.Reader, accounts ...entitlement.AccountID) (present *string, history []emailShown, err error) {
	all, err := accountContacts(reader, c.env, accounts)
	if err != nil {
		return nil, nil, err
	}
	open := func(contact *accountContact) *string {
		text, err := c.sealer.open(c.env, contactPlace(contact.account), contact.Sealed)
		if err != nil {
			return nil
		}
		return &text
	}
	var once []accountContact
	for _, contact := range all {
		if contact.Until == 0 {
			present = open(&contact)
		}
		at := slices.IndexFunc(once, func(has accountContact) bool {
			return bytes.Equal(has.Index, contact.Index) && (has.Until == 0 || has.Until >= contact.Since)
		})
		switch {
		case at < 0:
			once = append(once, contact)
		case contact.Until == 0:
			once[at].Until = 0
		case once[at].Until != 0:
			once[at].Until = max(once[at].Until, contact.Until)
		}
	}
	history = []emailShown{}
	for _, contact := range once {
		history = append(history, emailShown{Email: open(&contact), Since: formatTime(contact.Since), Until: optionalTime(contact.Until)})
	}
	return present, history, nil
}

// accountContact is an address with the account that it was given to.
type accountContact struct {
	store.Contact
	account entitlement.AccountID
}

// accountContacts lists the addresses that accounts have and had, oldest first. Error: replication.ErrCorrupt.
func accountContacts(reader *store.Reader, env entitlement.Environment, accounts []entitlement.AccountID) (all []accountContact, err error) {
	for _, id := range accounts {
		contacts, err := reader.Contacts(env, id)
		if err != nil {
			return nil, err
		}
		for _, contact := range contacts {
			all = append(all, accountContact{contact, id})
		}
	}
	slices.SortStableFunc(all, func(a, b accountContact) int { return cmp.Compare(a.Since, b.Since) })
	return all, nil
}

// recordOf is the command for an event that was read in a message, with what of its body only an index may be proposed of.
func (w *Writer) recordOf(ev entitlement.Event, env entitlement.Environment, adapter provider.Adapter, body []byte) store.RecordEvent {
	return w.withCard(w.withBuyer(store.RecordEvent{Event: ev}, env, adapter, body), env, adapter, body)
}

// withBuyer adds to an event the index of its buyer's address, where the message has one: of the address itself nothing is proposed.
func (w *Writer) withBuyer(command store.RecordEvent, env entitlement.Environment, adapter provider.Adapter, body []byte) store.RecordEvent {
	teller, ok := adapter.(provider.BuyerTeller)
	if !ok || w.sealer == nil || command.Event.Kind != entitlement.Proof || w.store.Position().Rules < store.RulesBuyers {
		return command
	}
	if of, address, ok := teller.Buyer(body); ok {
		if address, err := parseEmail("email", address); err == nil {
			command.Buyer, command.BuyerOf = hex.EncodeToString(w.sealer.emailIndex(env, address)), of
		}
	}
	return command
}

// withCard adds to an event the index of the card that its message tells of: of the fingerprint itself nothing is proposed.
func (w *Writer) withCard(command store.RecordEvent, env entitlement.Environment, adapter provider.Adapter, body []byte) store.RecordEvent {
	teller, ok := adapter.(provider.CardTeller)
	if !ok || w.sealer == nil || command.Event.Kind != entitlement.Proof || w.store.Position().Rules < store.RulesBuyers {
		return command
	}
	if customer, fingerprint, ok := teller.Card(body); ok {
		command.Card, command.CardOf = hex.EncodeToString(w.sealer.cardIndex(env, fingerprint)), customer
	}
	return command
}

func (c *apiCall) listSuggestions(reader *store.Reader) (answer, error) {
	q := c.r.URL.Query()
	limit, err := pageLimit(q.Get("limit"))
	if err != nil {
		return answer{}, err
	}
	after, err := base64.RawURLEncoding.DecodeString(q.Get("cursor"))
	if err != nil {
		return answer{}, wrong("cursor", "want what an earlier answer gave as next")
	}
	list, upTo, err := reader.Suggestions(c.env, after, limit)
	if err != nil {
		return answer{}, err
	}
	type suggestionShown struct {
		ID         string                   `json:"suggestion_id"`
		Accounts   []entitlement.AccountID  `json:"accounts"`
		Unclaimed  []entitlement.PurchaseID `json:"unclaimed"`
		Since      string                   `json:"since"`
		AgeSeconds int64                    `json:"age_seconds"`
	}
	shown, now := []suggestionShown{}, c.now().Unix()
	for _, s := range list {
		shown = append(shown, suggestionShown{suggestionIDPrefix + base64.RawURLEncoding.EncodeToString(s.ID), s.Accounts, append([]entitlement.PurchaseID{}, s.Unclaimed...), formatTime(s.Since), max(now-s.Since, 0)})
	}
	var next *string
	if upTo != nil {
		text := base64.RawURLEncoding.EncodeToString(upTo)
		next = &text
	}
	return answer{status: http.StatusOK, body: struct {
		Suggestions []suggestionShown `json:"suggestions"`
		Next        *string           `json:"next"`
	}{shown, next}}, nil
}

const suggestionIDPrefix = "suggestion_"

// dismissSuggestion says for support that those who have an address are not one person.
func (c *apiCall) dismissSuggestion() (answer, error) {
	id := c.r.PathValue("suggestion_id")
	text, found := strings.CutPrefix(id, suggestionIDPrefix)
	named, err := base64.RawURLEncoding.DecodeString(text)
	if !found || err != nil || len(named) != store.SuggestionIDBytes {
		return answer{}, problem.New(problem.InvalidID, "A suggestion's id is as GET /v1/merge-suggestions gave it.")
	}
	key, err := c.idempotency()
	if err != nil {
		return answer{}, err
	}
	result, err := c.commit(store.TypeDismiss, store.DismissSuggestion{ID: named, Idempotency: key})
	return answer{status: http.StatusOK, body: struct {
		ID       string `json:"suggestion_id"`
		Revision string `json:"revision"`
	}{id, result.Revision.String()}}, err
}
