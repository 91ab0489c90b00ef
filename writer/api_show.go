package writer

import (
	"bytes"
	"cmp"
	"net/http"
	"slices"
	"strings"
	"sync"

	"github.com/latchkey/latchkey/pkg/entitlement"
	"github.com/latchkey/latchkey/pkg/problem"
	"github.com/latchkey/latchkey/replication"
	"github.com/latchkey/latchkey/writer/internal/store"
)

// Windows of the answer to a check, as the contract has them for edges: what is said here holds as long.
const (
	freshSeconds = 60
	graceSeconds = 24 * 3600
)

// showEntitlements answers the check for protected content: what an edge would answer, at the state of now, without a token.
func (c *apiCall) showEntitlements(reader *store.Reader) (answer, error) {
	id, err := c.account(reader)
	if err != nil {
		return answer{}, err
	}
	b, err := c.appendEntitlements([]byte{'{'}, reader, c.env, id)
	if err != nil {
		return answer{}, err
	}
	return answer{status: http.StatusOK, raw: append(b, "}\n"...), media: "application/json"}, nil
}

// appendEntitlements appends the members of the answer to a check, without the braces around them.
func (w *Writer) appendEntitlements(b []byte, reader *store.Reader, env entitlement.Environment, id entitlement.AccountID) ([]byte, error) {
	account, _, err := reader.Account(env, id)
	if err != nil {
		return nil, err
	}
	index, err := w.catalogs.index(reader, env)
	if err != nil {
		return nil, err
	}
	now := w.now().Unix()
	view := account.View(index, now, w.cfg.ManageURLs)
	b = append(append(b, `"account_id":"`...), id...)
	b = append(append(b, `","environment":"`...), env...)
	b = reader.Position().Revision().Append(append(b, `","revision":"`...))
	b = entitlement.AppendTime(append(b, `","server_time":`...), now)
	b = entitlement.AppendTime(append(b, `,"as_of":`...), now)
	b = entitlement.AppendTime(append(b, `,"fresh_until":`...), now+freshSeconds)
	b = append(append(b, `,"stale":false,"state":"`...), view.State()...)
	b = view.AppendJSON(append(b, `",`...), env, now+graceSeconds)
	b = append(append(b, `,"apple_app_account_token":"`...), id.AppleAppAccountToken()...)
	return append(b, '"'), nil
}

// catalogCache keeps the index of each environment's catalog while the record stays the same, and asks for that only where the state is another than the last time.
type catalogCache struct {
	mu      sync.Mutex
	entries map[entitlement.Environment]catalogEntry
}

type catalogEntry struct {
	at     replication.Position // at which the record was last looked at
	record []byte
	index  *entitlement.CatalogIndex
}

func (c *catalogCache) index(reader *store.Reader, env entitlement.Environment) (*entitlement.CatalogIndex, error) {
	at := reader.Position()
	c.mu.Lock()
	entry, ok := c.entries[env]
	c.mu.Unlock()
	if ok && entry.at == at {
		return entry.index, nil
	}
	record, _, err := reader.Record(env, replication.KindCatalog, replication.CurrentKey)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if entry, ok := c.entries[env]; ok && bytes.Equal(entry.record, record) {
		entry.at = at
		c.entries[env] = entry
		return entry.index, nil
	}
	catalog, err := reader.Catalog(env)
	if err != nil {
		return nil, err
	}
	if c.entries == nil {
		c.entries = map[entitlement.Environment]catalogEntry{}
	}
	entry = catalogEntry{at: at, record: bytes.Clone(record), index: entitlement.NewCatalogIndex(catalog)}
	c.entries[env] = entry
	return entry.index, nil
}

// last returns the environment's index as it was last asked for, or nil.
func (c *catalogCache) last(env entitlement.Environment) *entitlement.CatalogIndex {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.entries[env].index
}

// accountShown is everything that we hold of an account.
type accountShown struct {
	AccountID    entitlement.AccountID   `json:"account_id"`
	Environment  entitlement.Environment `json:"environment"`
	Revision     string                  `json:"revision"`
	CreatedAt    string                  `json:"created_at"`
	SessionsFrom *string                 `json:"sessions_from"` // session tokens issued before are refused
	Tester       bool                    `json:"tester"`
	Anonymous    bool                    `json:"anonymous"` // a session made it, and nothing has named it since
	Aliases      []aliasShown            `json:"aliases"`
	Learned      []entitlement.Alias     `json:"learned_aliases"` // by what providers call whoever bought what the account owns
	Merged       []mergeShown            `json:"merged"`          // the merges that it takes part in
	Attributes   map[string]string       `json:"attributes"`
	Unread       int                     `json:"attributes_unreadable,omitempty"` // sealed with another key than this node's
	Email        *string                 `json:"email"`                           // null: none, or not readable here
	Emails       []emailShown            `json:"email_history"`                   // oldest first, with the present one
	Purchases    []purchaseShown         `json:"purchases"`
	Doubles      []doubleShown           `json:"doubles"` // what is paid for twice
	Grants       []grantShown            `json:"grants"`
	Balances     map[string]int64        `json:"balances"` // what is left of each credit; below zero is what it owes, which answers to apps show as 0
	Accesses     []accessShown           `json:"accesses"` // what it redeemed codes for
	Devices      []deviceShown           `json:"devices"`
	AppleToken   string                  `json:"apple_app_account_token"`
}

type purchaseShown struct {
	ID        entitlement.PurchaseID `json:"purchase_id"`
	Provider  entitlement.Provider   `json:"provider"`
	Store     string                 `json:"store"`
	TrialUsed bool                   `json:"trial_used"`
	Doubt     bool                   `json:"doubt"` // the provider is to be asked: something is not known, or two messages contradict each other
	StoreIDs  []entitlement.Link     `json:"store_ids"`
	Items     []itemShown            `json:"items"`

	Mismatches []mismatchShown `json:"mismatches"` // where its money and its access disagree
}

type itemShown struct {
	ID                string                `json:"item_id"`
	Product           entitlement.ProductID `json:"product_id"`
	Mapped            bool                  `json:"mapped"` // the catalog knows it; until then it gives nothing
	State             string                `json:"state"`
	Reason            entitlement.Reason    `json:"reason,omitempty"`
	Quantity          int64                 `json:"quantity"`
	TermID            entitlement.TermID    `json:"term_id"`
	StartsAt          *string               `json:"starts_at"`
	EndsAt            *string               `json:"ends_at"`      // null: never
	AccessUntil       *string               `json:"access_until"` // null: never; counts in the states live and retrying
	BillingGraceUntil *string               `json:"billing_grace_until,omitempty"`
	WillRenew         bool                  `json:"will_renew"`
	Trial             bool                  `json:"trial"`
	RevokedAt         *string               `json:"revoked_at,omitempty"`
}

type grantShown struct {
	ID          string  `json:"grant_id"`
	Entitlement string  `json:"entitlement"`
	CreatedAt   string  `json:"created_at"`
	ExpiresAt   *string `json:"expires_at"` // null: never
	Reason      string  `json:"reason,omitempty"`
}

// showAccount answers with everything that we hold of an account.
func (c *apiCall) showAccount(reader *store.Reader) (answer, error) {
	id := entitlement.AccountID(c.r.PathValue("id"))
	if err := checkAccountName(string(id)); err != nil {
		return answer{}, err
	}
	if strings.Contains(string(id), ":") {
		var err error
		if id, err = c.account(reader); err != nil {
			return answer{}, err
		}
	}
	shown, err := c.shownAccount(reader, id)
	return answer{status: http.StatusOK, body: shown}, err
}

func (c *apiCall) shownAccount(reader *store.Reader, id entitlement.AccountID) (accountShown, error) {
	detail, found, err := reader.AccountDetail(c.env, id)
	if err != nil {
		return accountShown{}, err
	}
	if !found {
		return accountShown{}, problem.New(problem.NotFound, "No such account in this environment.")
	}
	account := detail.Account
	index, err := c.catalogs.index(reader, c.env)
	if err != nil {
		return accountShown{}, err
	}
	shown := accountShown{AccountID: detail.ID, Environment: c.env, Revision: reader.Position().Revision().String(), CreatedAt: formatTime(account.CreatedAt),
		SessionsFrom: optionalTime(account.SessionsFrom), Tester: account.Tester, Anonymous: detail.Anonymous, Aliases: showAliases(c.shownAliases(reader, detail.Aliases), len(detail.Merges) > 0), Merged: showMerges(detail.Merges),
		Purchases: []purchaseShown{}, Grants: []grantShown{}, Balances: map[string]int64{}, AppleToken: detail.ID.AppleAppAccountToken()}
	shown.Attributes, shown.Unread = c.attributesOf(reader, &detail)
	if shown.Email, shown.Emails, err = c.emails(reader, detail.Accounts...); err != nil {
		return accountShown{}, err
	}
	shown.Learned = learnedAliases(detail)
	if shown.Doubles, err = c.doublesOf(reader, c.env, account, index); err != nil {
		return accountShown{}, err
	}
	policy, err := reader.Policy(c.env)
	if err != nil {
		return accountShown{}, err
	}
	details := make(map[entitlement.PurchaseID]*store.PurchaseDetail, len(detail.Purchases))
	for i := range detail.Purchases {
		details[detail.Purchases[i].ID] = &detail.Purchases[i]
	}
	for i := range account.Purchases {
		p := &account.Purchases[i]
		proof := cmp.Or(details[p.ID], &store.PurchaseDetail{})
		bought := showPurchase(p, index, proof)
		if slices.Contains(detail.Accounts, proof.Owner) { // who shares it, or lost it, sees another side of it
			bought.Mismatches = showMismatches(p.ID, entitlement.MismatchesOf(p, proof.Evidence, policy, index, true, c.now().Unix()))
		}
		shown.Purchases = append(shown.Purchases, bought)
	}
	for _, g := range account.Grants {
		shown.Grants = append(shown.Grants, grantShown{ID: g.ID, Entitlement: g.Entitlement, CreatedAt: formatTime(g.CreatedAt),
			ExpiresAt: optionalTime(g.EndsAt), Reason: c.reasonOf(reader, &detail, g.ID)})
	}
	view := account.View(index, c.now().Unix(), nil)
	for _, b := range view.Balances {
		shown.Balances[b.Credit] = b.Amount
	}
	shown.Accesses = showAccesses(account.Accesses)
	if shown.Devices, err = c.devices(reader, detail.Accounts); err != nil {
		return shown, err
	}
	return shown, nil
}

// learnedAliases lists the names under which the account's purchases were bought, sorted, without those that the API gave it.
func learnedAliases(detail store.AccountDetail) []entitlement.Alias {
	learned := []entitlement.Alias{}
	for _, p := range detail.Purchases {
		for _, a := range p.Evidence.Identity().Aliases {
			given := slices.ContainsFunc(detail.Aliases, func(n store.NamedAlias) bool { return n.Alias == a || n.IsHashed() && n.Alias == a.Hashed() })
			if !given && !slices.Contains(learned, a) && slices.Contains(detail.Accounts, p.Owner) {
				learned = append(learned, a)
			}
		}
	}
	slices.SortFunc(learned, func(a, b entitlement.Alias) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Value, b.Value))
	})
	return learned
}

func showPurchase(p *entitlement.Purchase, index *entitlement.CatalogIndex, detail *store.PurchaseDetail) purchaseShown {
	shown := purchaseShown{ID: p.ID, Provider: p.Provider, Store: p.Store, TrialUsed: p.TrialUsed, Doubt: p.Doubt || detail.Pull,
		StoreIDs: append([]entitlement.Link{}, detail.Evidence.Links...), Items: []itemShown{}, Mismatches: []mismatchShown{}}
	for i := range p.Items {
		item := &p.Items[i]
		term := &item.Term
		shown.Items = append(shown.Items, itemShown{ID: item.ID, Product: term.Product, Mapped: index.Knows(p, item), State: itemStates[item.State], Reason: item.Reason,
			Quantity: max(term.Quantity, 1), TermID: term.ID, StartsAt: optionalTime(term.StartsAt), EndsAt: optionalTime(term.EndsAt),
			AccessUntil: optionalTime(item.AccessUntil), BillingGraceUntil: optionalTime(item.BillingGraceUntil), WillRenew: item.WillRenew,
			Trial: term.Trial, RevokedAt: optionalTime(term.RevokedAt)})
	}
	return shown
}

var itemStates = map[entitlement.ItemState]string{entitlement.Pending: "pending", entitlement.Live: "live", entitlement.Retrying: "retrying",
	entitlement.OnHold: "paused", entitlement.Ended: "ended", entitlement.Revoked: "revoked"}
