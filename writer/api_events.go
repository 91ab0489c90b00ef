package writer

import (
	"encoding/json"
	"net/http"
	"strconv"
	"strings"

	"github.com/latchkey/latchkey/pkg/entitlement"
	"github.com/latchkey/latchkey/pkg/problem"
	"github.com/latchkey/latchkey/replication"
	"github.com/latchkey/latchkey/writer/internal/store"
)

// Lists come in pages: a page is built inside one read transaction and sent after it.
const (
	defaultPage = 100
	maxPage     = 1000
)

const (
	jsonType   = "application/json"
	ndjsonType = "application/x-ndjson"
	// nextHeader carries the cursor of an NDJSON page, whose lines are events alone.
	nextHeader = "Latchkey-Next"
)

func (w *Writer) routeEvents(s *server) {
	s.handle("GET /v1/events", w.reading((*apiCall).listEvents))
	s.handle("GET /v1/events/{event_id}", w.reading((*apiCall).showEvent))
	s.handle("GET /v1/accounts/{id}/events", w.reading((*apiCall).listAccountEvents))
	s.handle("GET /v1/unclaimed", w.reading((*apiCall).listUnclaimed))
}

// eventShown is one entry of the audit trail.
type eventShown struct {
	ID            string                   `json:"event_id"`
	Provider      entitlement.Provider     `json:"provider"` // latchkey: done by this API
	Type          string                   `json:"type"`
	Environment   entitlement.Environment  `json:"environment"`
	Outcome       store.Outcome            `json:"outcome"`
	Revision      string                   `json:"revision"`
	ReceivedAt    string                   `json:"received_at"`
	CreatedAt     *string                  `json:"created_at"` // the provider's time
	AccountID     entitlement.AccountID    `json:"account_id,omitempty"`
	PurchaseID    entitlement.PurchaseID   `json:"purchase_id,omitempty"`
	Purchases     []entitlement.PurchaseID `json:"purchase_ids,omitempty"` // where it concerns several
	CorrelationID string                   `json:"correlation_id,omitempty"`
	Caller        *callerShown             `json:"caller,omitempty"` // of what this API did
	Refs          *refsShown               `json:"refs,omitempty"`   // the same

	// Data is what the allow-list kept of the provider's message. Only the answer for one event has it.
	Data json.RawMessage `json:"data,omitempty"`
	// Conflicts are other messages under the same id, which had no effect.
	Conflicts []eventShown `json:"conflicts,omitempty"`
}

// callerShown is whose credential an API change was asked for with.
type callerShown struct {
	Kind store.CallerKind `json:"kind"`
	Name string           `json:"name,omitempty"` // of the API key
}

// refsShown are the ids that an API change was about.
type refsShown struct {
	From        entitlement.AccountID `json:"from,omitempty"`
	To          entitlement.AccountID `json:"to,omitempty"`
	Merge       string                `json:"merge_id,omitempty"`
	Grant       string                `json:"grant_id,omitempty"`
	Intent      string                `json:"intent_id,omitempty"`
	Consumption string                `json:"consumption_id,omitempty"`
	Code        string                `json:"code_id,omitempty"`
	APIKey      string                `json:"api_key,omitempty"` // its name
}

func showEvent(ev store.StoredEvent) eventShown {
	shown := eventShown{ID: ev.ID, Provider: ev.Provider, Type: ev.Type, Environment: ev.Env, Outcome: ev.Outcome, Revision: ev.Revision.String(),
		ReceivedAt: formatTime(ev.Stamp), CreatedAt: optionalTime(ev.CreatedAt), AccountID: ev.Account, CorrelationID: ev.CorrelationID}
	if len(ev.Purchases) > 0 {
		shown.PurchaseID = ev.Purchases[0]
	}
	if len(ev.Purchases) > 1 {
		shown.Purchases = ev.Purchases
	}
	if ev.Caller != (store.Caller{}) {
		caller := callerShown(ev.Caller)
		shown.Caller = &caller
	}
	if ev.Refs != (store.Refs{}) {
		refs := refsShown(ev.Refs)
		shown.Refs = &refs
	}
	return shown
}

// showEvent answers with one event. Where two providers use one id, ?provider= says which; else the first is shown.
func (c *apiCall) showEvent(reader *store.Reader) (answer, error) {
	provider := entitlement.Provider(c.r.URL.Query().Get("provider"))
	events, err := reader.Event(c.env, provider, c.r.PathValue("event_id"))
	if err != nil {
		return answer{}, err
	}
	if len(events) == 0 {
		return answer{}, problem.New(problem.NotFound, "No such event in this environment.")
	}
	shown, err := c.withData(events[0])
	if err != nil {
		return answer{}, err
	}
	for _, other := range events[1:] {
		if other.Provider != events[0].Provider {
			continue
		}
		conflict, err := c.withData(other)
		if err != nil {
			return answer{}, err
		}
		shown.Conflicts = append(shown.Conflicts, conflict)
	}
	return answer{status: http.StatusOK, body: shown}, nil
}

// withData adds what the journal has of the event.
func (c *apiCall) withData(ev store.StoredEvent) (eventShown, error) {
	shown := showEvent(ev)
	content, err := c.store.EventContent(ev)
	if err != nil || content == nil {
		// A node that is still fetching old segments has the entry and not yet its content.
		return shown, nil
	}
	if json.Valid(content.Raw) {
		shown.Data = content.Raw
	}
	return shown, nil
}

// listEvents lists the environment's events after a revision or, for the pages behind the first, after a cursor.
func (c *apiCall) listEvents(reader *store.Reader) (answer, error) {
	page, err := c.page()
	if err != nil {
		return answer{}, err
	}
	if text := c.r.URL.Query().Get("after"); text != "" && page.after == 0 {
		revision, err := replication.ParseRevision(text)
		if err != nil {
			return answer{}, problem.New(problem.InvalidRequest, "Parameter after: want a revision, such as 1-4711.")
		}
		if page.after, err = reader.SeqAfter(c.env, revision); err != nil {
			return answer{}, err
		}
	}
	events, err := reader.Events(c.env, page.after, page.limit+1)
	if err != nil {
		return answer{}, err
	}
	return page.answer(events)
}

func (c *apiCall) listAccountEvents(reader *store.Reader) (answer, error) {
	page, err := c.page()
	if err != nil {
		return answer{}, err
	}
	id, err := c.account(reader)
	if err != nil {
		return answer{}, err
	}
	events, err := reader.AccountEvents(c.env, id, page.after, page.limit+1)
	if err != nil {
		return answer{}, err
	}
	return page.answer(events)
}

// eventPage is one page of a list of events.
type eventPage struct {
	after  uint64
	limit  int
	ndjson bool
}

// page reads ?cursor= and ?limit=, and what the client accepts. Error: a problem.
func (c *apiCall) page() (eventPage, error) {
	q := c.r.URL.Query()
	p := eventPage{ndjson: strings.Contains(c.r.Header.Get("Accept"), ndjsonType)}
	var err error
	if p.limit, err = pageLimit(q.Get("limit")); err != nil {
		return p, err
	}
	if text := q.Get("cursor"); text != "" {
		if p.after, err = strconv.ParseUint(text, 10, 64); err != nil {
			return p, problem.New(problem.InvalidRequest, "Parameter cursor: want the next of an earlier page.")
		}
	}
	return p, nil
}

func pageLimit(text string) (int, error) {
	if text == "" {
		return defaultPage, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 || n > maxPage {
		return 0, problem.Newf(problem.InvalidRequest, "Parameter limit: want 1 to %d.", maxPage)
	}
	return n, nil
}

// answer shows a page of events, of which there is one too many if more follow.
func (p eventPage) answer(events []store.StoredEvent) (answer, error) {
	var next *string
	if len(events) > p.limit {
		events = events[:p.limit]
		cursor := strconv.FormatUint(events[p.limit-1].Seq, 10)
		next = &cursor
	}
	shown := make([]eventShown, len(events))
	for i, ev := range events {
		shown[i] = showEvent(ev)
	}
	if !p.ndjson {
		return answer{status: http.StatusOK, body: struct {
			Events []eventShown `json:"events"`
			Next   *string      `json:"next"` // cursor of the following page; null: there is none yet
		}{shown, next}}, nil
	}
	lines := []byte{}
	for _, ev := range shown {
		line, err := json.Marshal(ev)
		if err != nil {
			return answer{}, err
		}
		lines = append(append(lines, line...), '\n')
	}
	a := answer{status: http.StatusOK, raw: lines, media: ndjsonType}
	if next != nil {
		a.header = http.Header{nextHeader: {*next}}
	}
	return a, nil
}

// unclaimedShown is a payment without an account.
type unclaimedShown struct {
	PurchaseID entitlement.PurchaseID  `json:"purchase_id"`
	Since      string                  `json:"since"`
	AgeSeconds int64                   `json:"age_seconds"`
	Until      string                  `json:"access_until,omitempty"` // when what was paid for ends; absent: never
	AccountID  entitlement.AccountID   `json:"account_id,omitempty"`   // that it names and that does not exist
	Aliases    []entitlement.Alias     `json:"aliases"`                // that would claim it
	StoreIDs   []entitlement.Link      `json:"store_ids"`
	Products   []entitlement.ProductID `json:"product_ids"`
}

func (c *apiCall) listUnclaimed(reader *store.Reader) (answer, error) {
	q := c.r.URL.Query()
	limit, err := pageLimit(q.Get("limit"))
	if err != nil {
		return answer{}, err
	}
	list, err := reader.Unclaimed(c.env, entitlement.PurchaseID(q.Get("cursor")), limit+1)
	if err != nil {
		return answer{}, err
	}
	policy, err := reader.Policy(c.env)
	if err != nil {
		return answer{}, err
	}
	var next *entitlement.PurchaseID
	if len(list) > limit {
		list = list[:limit]
		next = &list[limit-1].ID
	}
	now := c.now().Unix()
	shown := make([]unclaimedShown, 0, len(list))
	for _, u := range list {
		detail, _, err := reader.Purchase(c.env, u.ID)
		if err != nil {
			return answer{}, err
		}
		identity := detail.Evidence.Identity()
		s := unclaimedShown{PurchaseID: u.ID, Since: formatTime(u.Since), AgeSeconds: max(now-u.Since, 0), AccountID: identity.Account,
			Aliases: append([]entitlement.Alias{}, identity.Aliases...), StoreIDs: append([]entitlement.Link{}, detail.Evidence.Links...), Products: []entitlement.ProductID{}}
		if u.AccessUntil != 0 {
			s.Until = formatTime(u.AccessUntil)
		}
		for _, item := range entitlement.Fold(detail.Evidence, policy).Items {
			s.Products = append(s.Products, item.Term.Product)
		}
		shown = append(shown, s)
	}
	return answer{status: http.StatusOK, body: struct {
		Unclaimed []unclaimedShown        `json:"unclaimed"`
		Next      *entitlement.PurchaseID `json:"next"`
	}{shown, next}}, nil
}
